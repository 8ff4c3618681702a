//! Tells a URL of the operator what the guard took back: a POST of JSON, signed as Standard Webhooks has it. A message that is
//! not taken is sent again with growing pauses for an hour, also after a restart. A hundred wait at most; the audit trail and
//! the log have all.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use eye_event::verdict::Digest;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::base64::{base64, base64_bytes};
use crate::clock::Clock;
use crate::tls::{self, Roots};
use crate::trust::host::is_loopback;
use crate::unsent::{Note, Unsent, WAITING_MAX};

/// The time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The first pause after an attempt that failed, and the longest. Each is twice as long as the one before.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long a message is tried, in microseconds.
const TIME_US: i64 = 3_600_000_000;

/// The place to which messages go, and the secret that signs them.
#[derive(Clone)]
pub struct Target {
    url: Uri,
    secret: Vec<u8>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tells one from another, and no more.
        let digest = Digest::of(&[self.url.to_string().as_bytes(), &self.secret].concat()).to_string();
        formatter.debug_struct("Target").field("digest", &&digest[..8]).finish_non_exhaustive()
    }
}

impl Target {
    /// Reads the settings. The URL may hold a token, so no message quotes it.
    ///
    /// # Errors
    ///
    /// What is wrong, with the name of the setting.
    pub fn read(url: &str, secret: &str) -> Result<Self, String> {
        let wrong = "notify_url must be such as https://chat.example/hooks/eye";
        let url: Uri = url.parse().map_err(|_| wrong.to_owned())?;
        let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
        match (url.scheme_str(), url.host()) {
            (Some("https"), Some(_)) if !has_user => {}
            (Some("http"), Some(host)) if is_loopback(host) && !has_user => {}
            (Some("http"), Some(_)) if !has_user => {
                return Err("notify_url: over plain HTTP everybody on the way could read it; use https".to_owned());
            }
            _ => return Err(wrong.to_owned()),
        }
        let secret = match secret.strip_prefix("whsec_") {
            Some(text) => base64_bytes(text).ok_or("notify_secret: after whsec_ there must be base64")?,
            None => secret.as_bytes().to_vec(),
        };
        if secret.len() < 16 {
            return Err("notify_secret must have 16 bytes at least, so that nobody else can sign".to_owned());
        }
        Ok(Self { url, secret })
    }

    /// The signature of a message.
    fn signature(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret);
        let signed = hmac::sign(&key, format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", base64(signed.as_ref()))
    }
}

/// A message that waits.
#[derive(Clone, Debug)]
struct Message {
    note: Note,
    at: Instant,
    pause: Duration,
}

/// Sends messages.
pub struct Webhook {
    target: ArcSwapOption<Target>,
    roots: Result<Roots, String>,
    clock: Arc<Clock>,
    unsent: Unsent,
    /// Held while a message is written or all are read.
    disk: Mutex<()>,
    waiting: Mutex<VecDeque<Message>>,
    added: Notify,
    /// Messages that were taken, and that nobody took. Metrics read it.
    sent: AtomicU64,
    dropped: AtomicU64,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Webhook").finish_non_exhaustive()
    }
}

impl Webhook {
    /// Sends to `target`, whose certificate is proved by `roots`. Messages that wait are kept below `data_dir`.
    pub fn new(target: Option<Target>, roots: Result<Roots, String>, clock: Arc<Clock>, data_dir: &Path) -> Self {
        Self {
            target: ArcSwapOption::from_pointee(target),
            roots,
            clock,
            unsent: Unsent::below(data_dir),
            disk: Mutex::default(),
            waiting: Mutex::default(),
            added: Notify::new(),
            sent: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Changes the place to which messages go, also those that wait.
    pub fn set(&self, target: Option<Target>) {
        self.target.store(target.map(Arc::new));
    }

    /// Messages that were taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Messages that nobody took within an hour, or for which there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Sends a message of this kind, if there is a place to send it to. It is kept beside that.
    pub fn send(self: &Arc<Self>, kind: &str, data: &Value) {
        if self.target.load().is_none() {
            return;
        }
        let now_us = self.clock.now_us();
        let at = chrono::DateTime::from_timestamp_micros(now_us);
        let at = at.map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
        let body = json!({"type": kind, "timestamp": at, "data": data}).to_string();
        let until_us = now_us.saturating_add(TIME_US);
        let note = Note { id: format!("msg_{}", Uuid::now_v7().simple()), body, until_us };
        let (own, oldest) = (Arc::clone(self), self.add(note.clone()));
        tokio::task::spawn_blocking(move || {
            own.keep(&note);
            if let Some(oldest) = oldest {
                own.unsent.remove(&oldest);
            }
        });
    }

    /// Lets a message wait; one too many drops the oldest. Returns the id of that.
    fn add(&self, note: Note) -> Option<String> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // What was read at the start may have been added meanwhile.
        if waiting.iter().any(|own| own.note.id == note.id) {
            return None;
        }
        let oldest = if waiting.len() >= WAITING_MAX { waiting.pop_front() } else { None };
        waiting.push_back(Message { note, at: Instant::now(), pause: PAUSE });
        drop(waiting);
        self.dropped.fetch_add(u64::from(oldest.is_some()), Relaxed);
        self.added.notify_one();
        oldest.map(|oldest| oldest.note.id)
    }

    fn waits(&self, id: &str) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|own| own.note.id == id)
    }

    /// Keeps a message that waits. It blocks on the disk.
    fn keep(&self, note: &Note) {
        let _one = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.unsent.write(note) {
            tracing::warn!(id = note.id, %error, "a restart would lose the message for notify_url");
        }
        // The URL may have taken the message before its file was there.
        if !self.waits(&note.id) {
            self.unsent.remove(&note.id);
        }
    }

    /// Reads what waited when the gateway stopped. It blocks on the disk.
    fn resume(&self) {
        let _one = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        let (notes, dropped) = self.unsent.read(self.clock.now_us());
        self.dropped.fetch_add(dropped, Relaxed);
        for note in notes {
            if let Some(oldest) = self.add(note) {
                self.unsent.remove(&oldest);
            }
        }
    }

    /// Sends what waits until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let own = Arc::clone(&self);
        let run = async {
            if let Err(error) = tokio::task::spawn_blocking(move || own.resume()).await {
                tracing::error!(%error, "reading the messages for notify_url panicked");
            }
            loop {
                let next = self.next();
                match next {
                    Some(message) if message.at <= Instant::now() => self.attempt(message).await,
                    Some(message) => {
                        tokio::select! {
                            () = sleep_until(message.at) => {}
                            () = self.added.notified() => {}
                        }
                    }
                    None => self.added.notified().await,
                }
            }
        };
        let _stopped: Option<()> = stop.run_until_cancelled(run).await;
    }

    /// The message that is due first.
    fn next(&self) -> Option<Message> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.iter().min_by_key(|message| message.at).cloned()
    }

    async fn attempt(self: &Arc<Self>, Message { note, pause, .. }: Message) {
        let posted = match self.target.load_full() {
            Some(target) => timeout(ATTEMPT, self.post(&target, &note)).await.unwrap_or_else(|_| bail_slow()),
            // A reload may set it again, so the message waits.
            None => Err(anyhow::anyhow!("it is not set any more")),
        };
        match posted {
            Ok(()) => {
                if self.end(note.id).await {
                    self.sent.fetch_add(1, Relaxed);
                }
            }
            Err(error) if self.clock.now_us().saturating_add(micros(pause)) > note.until_us => {
                tracing::error!(id = note.id, "notify_url did not take the message within an hour: {error:#}");
                if self.end(note.id).await {
                    self.dropped.fetch_add(1, Relaxed);
                }
            }
            Err(error) => {
                tracing::warn!(id = note.id, "notify_url does not take the message; trying again: {error:#}");
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(own) = waiting.iter_mut().find(|own| own.note.id == note.id) {
                    own.at = Instant::now() + pause;
                    own.pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Ends a message. Returns whether it still waited; one for which there was no room was counted then.
    async fn end(self: &Arc<Self>, id: String) -> bool {
        let waited = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let place = waiting.iter().position(|message| message.note.id == id);
            place.and_then(|place| waiting.remove(place)).is_some()
        };
        let own = Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || own.unsent.remove(&id)).await;
        if let Err(error) = removed {
            tracing::error!(%error, "removing a message for notify_url panicked");
        }
        waited
    }

    async fn post(&self, target: &Target, note: &Note) -> anyhow::Result<()> {
        let Note { id, body, .. } = note;
        let timestamp_s = self.clock.now_us() / 1_000_000;
        let authority = target.url.authority().context("no host")?;
        let path = target.url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::post(path)
            .header(HOST, authority.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("eye/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", target.signature(id, timestamp_s, body))
            .body(Full::new(Bytes::from(body.clone())))?;
        let name = authority.host().trim_start_matches('[').trim_end_matches(']');
        let is_secure = target.url.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let found = tokio::net::lookup_host((name, port)).await.context("its name is not found")?;
        let addresses: Vec<SocketAddr> =
            found.filter(|address| is_secure || address.ip().to_canonical().is_loopback()).collect();
        ensure!(!addresses.is_empty(), "it is not on this machine, and plain HTTP goes no further");
        let stream = TcpStream::connect(&addresses[..]).await.context("no connection")?;
        let status = if is_secure {
            let roots = self.roots.as_ref().map_err(|error| anyhow::anyhow!("SSL_CERT_FILE: {error}"))?;
            exchange(tls::connect(name, stream, roots).await.context("TLS")?, request).await?
        } else {
            exchange(stream, request).await?
        };
        ensure!((200..300).contains(&status), "it answers {status}");
        Ok(())
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

fn bail_slow() -> anyhow::Result<()> {
    bail!("it does not answer within {} s", ATTEMPT.as_secs())
}

/// Sends a request, and returns the status of its answer.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<u16>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driven = async move {
        let _ended = connection.await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        answered = sender.send_request(request) => Ok(answered?.status().as_u16()),
        () = driven => bail!("the connection has ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_kept_once_and_stays_while_there_is_no_url() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(Clock::default());
        let note = Note { id: "msg_one".to_owned(), body: "{}".to_owned(), until_us: clock.now_us() + TIME_US };
        Unsent::below(folder.path()).write(&note).expect("written");
        let webhook = Arc::new(Webhook::new(None, Err("none".to_owned()), Arc::clone(&clock), folder.path()));
        webhook.resume();
        webhook.resume();
        assert_eq!(webhook.waiting.lock().expect("a lock").len(), 1, "it was there already");
        let message = webhook.next().expect("a message");
        webhook.attempt(message).await;
        assert!(webhook.waits("msg_one"), "somebody may set the URL again");
        assert_eq!(Unsent::below(folder.path()).read(clock.now_us()), (vec![note.clone()], 0));
        assert!(webhook.end(note.id.clone()).await && !webhook.end(note.id.clone()).await, "it ends once");
        // It was taken before it was written.
        webhook.keep(&note);
        assert_eq!(Unsent::below(folder.path()).read(clock.now_us()), (Vec::new(), 0));
    }

    #[test]
    fn a_message_is_signed_as_standard_webhooks_says() {
        // The example of the specification's reference libraries.
        let target = Target::read("https://a.example", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a target");
        let body = r#"{"test": 2432232314}"#;
        let signature = target.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_url_is_https_or_of_this_machine_and_is_never_quoted() {
        let secret = "a secret of more than 16 bytes";
        for url in ["https://chat.example/hooks/x?token=hush", "http://127.0.0.1:9000/x", "http://localhost"] {
            assert!(Target::read(url, secret).is_ok(), "{url}");
        }
        for url in ["http://chat.example/hush", "ftp://hush", "hush", "https://u:hush@chat.example", "https://"] {
            let told = Target::read(url, secret).expect_err(url);
            assert!(told.contains("notify_url") && !told.contains("hush"), "{told}");
        }
        for secret in ["short", "whsec_not base64!"] {
            assert!(Target::read("https://a.example", secret).is_err_and(|told| told.contains("notify_secret")));
        }
    }
}
