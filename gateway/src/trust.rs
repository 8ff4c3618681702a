//! Identifies the caller of each request: one lookup in a snapshot of the applications, which is replaced as a whole when
//! they change. The gateway knows tokens only by their digest, so that a comparison takes the same time for every token.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use hyper::header::{AUTHORIZATION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Version};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use self::forwarded::Told;
use self::host::{is_loopback, only_ours};
use self::own::Local;
use self::panel::{Claim, LookedFor, Sessions, Shown};
use self::security::{Kind, Security};
use self::snapshot::{Caller, Snapshot, Stranger};
use self::uses::LiveToken;
use crate::audit::Actor;
use crate::request_ids::RequestId;
use crate::response::Refusal;
use crate::store::{Role, Store};

mod application;
pub mod attempts;
pub mod event_types;
pub mod forwarded;
pub mod host;
pub mod known_types;
pub mod own;
pub mod panel;
pub mod proxy_protocol;
pub mod rate;
mod relayed;
pub mod security;
mod snapshot;
pub mod token;
mod uses;
pub mod visible;

pub use self::application::{Application, Scope};

/// Pause after a failed read of the applications.
const RETRY: Duration = Duration::from_millis(500);

/// How often the gateway reads the event types of each application. Meanwhile it knows those that it has seen itself.
const KNOWN_TYPES_READ: Duration = Duration::from_secs(60);

/// Returns whether a caller is still known, and may still read the same. Long answers call it again and again.
pub type StillKnown = Box<dyn Fn() -> bool + Send + Sync>;

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the connection, or the one in its PROXY header. `None` if that header has none, or has this machine: then
    /// the caller's address is unknown, and the proxy's own would be wrong.
    pub address: Option<SocketAddr>,
    /// SHA-256 of the client certificate that the handshake proved.
    pub certificate: Option<Digest>,
}

/// The form of a network for comparisons: an IPv4 network that is written as IPv6 becomes IPv4.
pub fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) if network.prefix_len() >= 96 => {
            network.addr().to_ipv4_mapped().and_then(|address| Ipv4Net::new(address, network.prefix_len() - 96).ok())
        }
        _ => None,
    };
    mapped.map_or(network, IpNet::V4)
}

/// The host that a request names, with its port: HTTP/2 has it in the target, HTTP/1 in a header.
pub(crate) fn host<B>(request: &Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    target.or_else(|| request.headers().get(HOST)?.to_str().ok())
}

/// Whether a request names this machine as the one that it is meant for, wherever it names one.
fn asks_for_loopback<B>(request: &Request<B>) -> bool {
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    let headers = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let mut hosts = target.into_iter().chain(headers).map(is_loopback).peekable();
    hosts.peek().is_some() && hosts.all(|is_loopback| is_loopback)
}

/// Whether the headers include one that proxies add.
fn passed_on(headers: &HeaderMap) -> bool {
    headers.keys().map(HeaderName::as_str).any(relayed::is_sign)
}

/// The settings by which callers are identified. A reload replaces them as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallerRules {
    /// Proxies whose report of a caller's address is trusted.
    pub proxies: Vec<IpNet>,
    /// The header with that report.
    pub told: Told,
    /// Host names of the gateway. Without any, each request may name another.
    pub hosts: Vec<String>,
    /// What [`LOCAL`](own::LOCAL) may do; nothing where the gateway has no Postgres of its own.
    pub local: Local,
    /// The time between two reads of the applications without a notification.
    pub poll: Duration,
}

/// The trusted applications, as of the last look at the database.
#[derive(Debug, Default)]
pub struct Trust {
    /// Each request reads it once to identify its caller.
    rules: ArcSwap<CallerRules>,
    /// Notified when the applications must be read again, since the rules have changed.
    changed: Notify,
    /// `local` has changed since the gateway last registered its application.
    local_changed: AtomicBool,
    /// Each request reads it once; a refresh replaces it. Empty until the first one.
    snapshot: ArcSwapOption<Snapshot>,
    /// Held during a refresh, so that an older answer of the database cannot replace a newer one.
    refreshing: Mutex<()>,
    /// When the event types of the applications were last read. Held while they are read.
    known_types_read: Mutex<Option<Instant>>,
    /// Counts and logs refusals.
    security: Arc<Security>,
    /// The open sessions of the panel.
    sessions: Sessions,
}

impl CallerRules {
    /// The address of the caller. `None` when a trusted proxy gives none, or gives this machine.
    fn address<B>(&self, request: &Request<B>, peer: IpAddr) -> Option<IpAddr> {
        if self.proxies.is_empty() {
            return Some(peer);
        }
        let values = request.headers().get_all(self.told.header()).iter().map(HeaderValue::as_bytes);
        forwarded::caller(peer, self.told, values, &self.proxies)
    }
}

impl Trust {
    /// No applications yet, and these rules.
    pub fn new(rules: CallerRules) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), ..Self::default() }
    }

    /// The same, with sessions of the panel if this gateway has one.
    pub fn with_panel(self, enabled: bool) -> Self {
        Self { sessions: Sessions::new(enabled), ..self }
    }

    /// Whether a request shows a session of the panel, or a part of one. Then nothing else identifies its caller.
    pub fn shows_session<B>(request: &Request<B>) -> bool {
        session_of(request).is_some()
    }

    /// Looks for the session that a request shows, in the database if this gateway does not know it yet. Without this, no
    /// session identifies the caller.
    pub async fn look_for_session<B>(&self, store: &Store, request: &mut Request<B>) {
        let Some(Shown::Both(digest)) = session_of(request) else { return };
        let is_unsure = !self.sessions.look_for(store, digest).await;
        request.extensions_mut().insert(LookedFor { is_unsure });
    }

    /// The open session that a request shows: its digest, and when it ends even if it is used.
    pub fn session<B>(&self, request: &Request<B>) -> Option<(Digest, DateTime<Utc>)> {
        let Some(Shown::Both(digest)) = session_of(request) else { return None };
        self.sessions.open(digest, |session| (digest, session.ends_at))
    }

    /// Reads the open sessions now, after this gateway has changed them.
    pub async fn refresh_sessions(&self, store: &Store) {
        let _late = tokio::time::timeout(panel::LOOK_TIME, self.sessions.look(store, Instant::now())).await;
    }

    fn claim<B>(&self, request: &Request<B>) -> Option<Claim> {
        let shown = session_of(request)?;
        Some(match (shown, request.extensions().get::<LookedFor>()) {
            (Shown::Both(digest), Some(looked)) => match self.sessions.open(digest, |_| ()) {
                None if looked.is_unsure => Claim::Unsure,
                _ => Claim::Session(digest),
            },
            _ => Claim::Nothing,
        })
    }

    /// Returns the application of a caller: that of its session of the panel if it shows one, else as the snapshot says.
    fn find<'s>(&self, snapshot: &'s Snapshot, caller: &Caller) -> Result<&'s Arc<Application>, Stranger<'s>> {
        match caller.session {
            None => snapshot.find(caller),
            Some(Claim::Session(digest)) => {
                let id = self.sessions.used(digest).ok_or(Stranger::NoSession)?;
                snapshot.of_session(id, caller)
            }
            Some(Claim::Nothing) => Err(Stranger::NoSession),
            Some(Claim::Unsure) => Err(Stranger::UnsureSession),
        }
    }

    /// Changes the rules, for requests that begin from now on. Until the applications are read again, callers from this
    /// machine are refused if their rights have changed.
    pub fn set_rules(&self, rules: CallerRules) {
        let before = self.rules.swap(Arc::new(rules));
        let now = self.rules.load();
        if now.local != before.local {
            self.local_changed.store(true, Relaxed);
        }
        if **now != *before {
            self.changed.notify_one();
        }
    }

    fn caller<B>(&self, request: &Request<B>, peer: Peer) -> Caller {
        let rules = self.rules.load();
        let header = request.headers().get(AUTHORIZATION);
        let address = peer.address.and_then(|address| rules.address(request, address.ip().to_canonical()));
        let is_here = address.is_some_and(|address| address.is_loopback());
        Caller {
            address,
            token: header.map(|header| bearer(header.as_bytes()).map(Digest::of)),
            certificate: peer.certificate,
            meant_for_us: header.is_some() || only_ours(host(request), &rules.hosts),
            must_be_meant: !rules.hosts.is_empty(),
            // Proxies are not believed about callers on this machine, so this is the other end of the connection.
            relayed: is_here && passed_on(request.headers()),
            is_modern: request.version() >= Version::HTTP_11,
            for_loopback: is_here && asks_for_loopback(request),
            session: if header.is_none() { self.claim(request) } else { None },
            local: rules.local,
        }
    }

    /// Where a request comes from, for the log: as far as it can be believed, else the other end of the connection.
    pub fn address_of<B>(&self, request: &Request<B>, peer: Peer) -> Option<IpAddr> {
        let other_end = peer.address?.ip().to_canonical();
        Some(self.rules.load().address(request, other_end).unwrap_or(other_end))
    }

    /// The actor of a request: its application, or this gateway if it refuses a stranger.
    pub fn actor<B>(&self, application: Option<&Application>, request: &Request<B>, peer: Peer) -> Actor {
        let token = token_of(request);
        let session = application.and_then(|_| self.session(request));
        let peer = peer.address.map(|address| address.ip().to_canonical());
        let found = application.map_or_else(Actor::gateway, |application| Actor::application(&application.name));
        Actor {
            token_id: application.and(token).map(token::id_of),
            panel_session: session.map(|(digest, _)| token::id_of(digest)),
            peer,
            forwarded: peer
                .and_then(|peer| self.rules.load().address(request, peer).filter(|address| *address != peer)),
            request_id: RequestId::current().map(|id| id.to_string()),
            ..found
        }
    }

    /// The network of the caller, by which refusals are counted.
    pub fn network_of<B>(&self, request: &Request<B>, peer: Peer) -> String {
        let address = self.caller(request, peer).address;
        address.map_or_else(|| "unknown".to_owned(), |address| security::network_of(address).to_string())
    }

    /// Whether the applications were ever read.
    pub fn known(&self) -> bool {
        self.snapshot.load().is_some()
    }

    /// How long ago the applications were last read. `None` before the first time.
    pub fn applications_age(&self) -> Option<Duration> {
        self.snapshot.load().as_ref()?.read_at.map(|at| at.elapsed())
    }

    /// The refusals of strangers.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// All applications of the last look, in no order.
    pub fn applications(&self) -> Vec<Arc<Application>> {
        let snapshot = self.snapshot.load();
        snapshot.as_ref().map(|snapshot| snapshot.by_id.values().cloned().collect()).unwrap_or_default()
    }

    /// The application that sent `request` from `peer`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`]; [`Refusal::TokenExpired`]; [`Refusal::NoSession`] for a request that shows a session of the panel
    /// which is not open, or half of one; [`Refusal::SignInAway`] if the database cannot tell; [`Refusal::UnnamedProxy`] for a caller that only its network identifies,
    /// if a proxy on this machine may have relayed it; [`Refusal::ForeignHost`] for a caller that is known by being on this
    /// machine (or, with `hosts`, by any network or a certificate) and names another host; or [`Refusal::DatabaseAway`] before
    /// the first snapshot, and for callers from this machine until it knows their changed rights.
    pub fn identify<B>(&self, request: &Request<B>, peer: Peer) -> Result<Arc<Application>, Refusal> {
        let snapshot = self.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else { return Err(Refusal::DatabaseAway) };
        let caller = self.caller(request, peer);
        self.find(snapshot, &caller).map(Arc::clone).map_err(|stranger| match stranger {
            Stranger::Nobody(kind) => {
                self.security.refused_stranger(kind, caller.address);
                Refusal::Unknown
            }
            Stranger::Known(kind, application) => {
                self.security.refused(kind, &application.name, application.refused());
                Refusal::Unknown
            }
            Stranger::Expired(application) => {
                self.security.refused(Kind::ExpiredToken, &application.name, application.refused());
                Refusal::TokenExpired
            }
            Stranger::Relayed(application) => {
                self.security.refused(Kind::UnnamedProxy, &application.name, application.refused());
                Refusal::UnnamedProxy
            }
            Stranger::Unsure => Refusal::DatabaseAway,
            Stranger::Page(application) => {
                self.security.refused(Kind::ForeignPage, &application.name, application.refused());
                Refusal::ForeignHost
            }
            Stranger::NoSession => {
                self.security.refused_stranger(Kind::UnknownSession, caller.address);
                Refusal::NoSession
            }
            Stranger::UnsureSession => Refusal::SignInAway,
        })
    }

    /// The applications that could call now: neither suspended nor revoked, with a way to know them.
    pub fn callable(&self) -> Vec<Arc<Application>> {
        self.snapshot.load().as_ref().map(|snapshot| snapshot.callable()).unwrap_or_default()
    }

    /// The names of applications that are known by their network alone, each with that network; the smallest networks first.
    pub fn known_by_network(&self) -> Vec<(String, IpNet)> {
        let snapshot = self.snapshot.load();
        let all = snapshot.iter().flat_map(|snapshot| snapshot.by_network());
        all.map(|(network, application)| (application.name.clone(), *network)).collect()
    }

    /// Counts and logs an attempt to sign in with a code that opens nothing.
    pub fn unknown_code(&self, address: Option<IpAddr>) {
        self.security.refused_stranger(Kind::UnknownCode, address);
    }

    /// Counts and logs a call that a page of another site had a browser make.
    pub fn foreign_page<B>(&self, request: &Request<B>, peer: Peer) {
        self.security.refused_stranger(Kind::ForeignPage, self.caller(request, peer).address);
    }

    /// Returns a check that the sender of `request` is still `application` with this scope and with the same limits.
    pub fn still_known<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        peer: Peer,
        application: &Application,
        scope: Scope,
    ) -> StillKnown {
        let (trust, caller, id) = (Arc::clone(self), self.caller(request, peer), application.id);
        let visible = Arc::clone(application.visible());
        Box::new(move || {
            let snapshot = trust.snapshot.load();
            let found = snapshot.as_ref().and_then(|snapshot| trust.find(snapshot, &caller).ok());
            found.is_some_and(|found| found.id == id && found.has(scope) && *found.visible() == visible)
        })
    }

    /// Reads the applications now.
    ///
    /// # Errors
    ///
    /// The store's; the last snapshot then stays in force.
    pub async fn refresh(&self, store: &Store) -> Result<(), crate::store::Error> {
        let _turn = self.refreshing.lock().await;
        let rows = store.applications().await?;
        let snapshot = Snapshot::new(rows, self.snapshot.load().as_deref(), self.rules.load().local, &self.security);
        // Read before the first snapshot is in force: a start must not admit new event types as if they were known.
        self.read_known_types(store, &snapshot).await;
        self.snapshot.store(Some(Arc::new(snapshot)));
        self.refresh_sessions(store).await;
        Ok(())
    }

    /// Reads the event types that the applications have sent, now and then. If that fails, the known ones remain.
    async fn read_known_types(&self, store: &Store, snapshot: &Snapshot) {
        let mut read = self.known_types_read.lock().await;
        if read.is_some_and(|at| at.elapsed() < KNOWN_TYPES_READ) {
            return;
        }
        match store.event_types_by_application().await {
            Ok(rows) => {
                for (application, category, name) in rows {
                    if let Some(application) = snapshot.by_id.get(&application) {
                        application.known_types.learn(&category, &name);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the event types of the applications could not be read; trying again later")
            }
        }
        *read = Some(Instant::now());
    }

    /// Notes in the database which tokens were used: the first use of each, and with `all` those since the last note.
    ///
    /// # Errors
    ///
    /// Those of the store. The next call notes what this one could not.
    pub async fn note_uses(&self, store: &Store, all: bool) -> Result<(), crate::store::Error> {
        if all {
            self.sessions.note_uses(store).await?;
        }
        let snapshot = self.snapshot.load_full();
        let live = snapshot.iter().flat_map(|snapshot| snapshot.live_tokens());
        let used: Vec<(&LiveToken, (Digest, i32))> = live.filter_map(|token| Some((token, token.take(all)?))).collect();
        if used.is_empty() {
            return Ok(());
        }
        let uses: Vec<(Digest, i32)> = used.iter().map(|(_, one)| *one).collect();
        let noted = store.note_uses(&uses).await;
        if noted.is_err() {
            used.iter().for_each(|(token, _)| token.put_back());
        }
        noted
    }

    /// Registers the application of callers from this machine anew if their rights have changed, and reads all.
    async fn refresh_with_local(&self, store: &Store) -> Result<(), crate::store::Error> {
        if self.local_changed.swap(false, Relaxed) {
            let words = self.rules.load().local.words();
            if let Err(error) = store.ensure_local_application(&words).await {
                // Changes of other applications must not wait for this one.
                self.local_changed.store(true, Relaxed);
                if !store.is_away() {
                    tracing::warn!(%error, "the new rights of callers from this machine could not be noted; trying again");
                }
            }
        }
        self.refresh(store).await
    }

    /// Keeps the snapshot fresh until `stop`: on each notification, after each change of the rules, and every
    /// [`CallerRules::poll`] for changes without either. A reader gets no notifications.
    pub async fn follow(self: Arc<Self>, store: Store, stop: CancellationToken) {
        // A standby sends no notifications.
        let listens = store.role() == Role::Full;
        let follow = async {
            loop {
                let mut listener = if listens { store.listen_applications().await.ok() } else { None };
                // Listens before it reads, so that no change in between goes unseen.
                while self.refresh_with_local(&store).await.is_ok() {
                    let changed = async {
                        match &mut listener {
                            Some(listener) => listener.changed().await.is_ok(),
                            None if listens => false,
                            None => std::future::pending().await,
                        }
                    };
                    let poll = self.rules.load().poll;
                    let goes_on = tokio::select! {
                        goes_on = tokio::time::timeout(poll, changed) => goes_on.unwrap_or(true),
                        () = self.changed.notified() => true,
                    };
                    if !goes_on {
                        break;
                    }
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }
}

/// What a request shows of a session of the panel. A request with a token shows none: the token decides alone, and a
/// browser adds none by itself.
fn session_of<B>(request: &Request<B>) -> Option<Shown> {
    let headers = request.headers();
    if headers.contains_key(AUTHORIZATION) {
        return None;
    }
    let cookies = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let secrets = headers.get_all(panel::HEADER).iter().map(HeaderValue::as_bytes);
    panel::shown(cookies, secrets, host(request))
}

/// The digest of the token of a request.
pub fn token_of<B>(request: &Request<B>) -> Option<Digest> {
    request.headers().get(AUTHORIZATION).and_then(|header| bearer(header.as_bytes())).map(Digest::of)
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_network_is_one_however_it_is_written() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:203.0.113.5/128", "203.0.113.5/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/104", "2001:db8::/104"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            let network = |text: &str| text.parse::<IpNet>().expect("a network");
            assert_eq!(canonical(network(written)), network(meant), "{written}");
        }
    }
}
