//! Sessions of the panel. A request proves one by two secrets together: a cookie, which a browser adds by itself to
//! requests of any page on this host, and a header, which only the tab that has signed in can add. The gateway knows the
//! open sessions by the digest of both, as of its last look at the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::host;
use crate::store::{Error, PanelSessionRow, Store};

/// The header with the secret of the tab.
pub const HEADER: &str = "x-eye-panel";
/// Names of the cookie, before the port of the gateway. Browsers accept the first only over TLS, for this host alone.
const SECURE_COOKIE: &str = "__Host-eye-panel";
const PLAIN_COOKIE: &str = "eye-panel";
/// Characters of each secret.
const SECRET_CHARACTERS: usize = 64;
/// Pause between two looks at the database, however many requests show a session that the gateway does not know.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// Longest wait of a request for such a look.
pub(super) const LOOK_TIME: Duration = Duration::from_secs(2);

/// The name of the cookie. Browsers send the cookies of a host to each of its ports, so two gateways on one host need two
/// names.
pub fn cookie_name(host: Option<&str>, secure: bool) -> String {
    let name = if secure { SECURE_COOKIE } else { PLAIN_COOKIE };
    match host.and_then(host::port) {
        Some(port) => format!("{name}-{port}"),
        None => name.to_owned(),
    }
}

/// The digest of a cookie and the secret of its tab.
pub fn digest_of(cookie: &str, secret: &str) -> Digest {
    Digest::of(format!("{cookie}.{secret}").as_bytes())
}

/// The part of a session that a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// A cookie or a secret without the other one, or something that cannot be a secret. It proves nothing.
    Broken,
    /// Both, by their digest.
    Both(Digest),
}

/// Finds what a request shows of a session: `None` if it has neither our cookie nor our header.
pub(super) fn shown<'r>(
    cookies: impl Iterator<Item = &'r [u8]>,
    mut secrets: impl Iterator<Item = &'r [u8]>,
    host: Option<&str>,
) -> Option<Shown> {
    let (secret, more) = (secrets.next(), secrets.next());
    let mut cookies = cookies.peekable();
    if secret.is_none() && cookies.peek().is_none() {
        return None;
    }
    let (secure, plain) = (cookie_name(host, true), cookie_name(host, false));
    let (mut by_secure, mut by_plain) = (None, None);
    for pair in cookies.flat_map(|header| header.split(|byte| *byte == b';')) {
        let Some(at) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        // A page of a neighbor can add a cookie, but none with the prefix of the first name.
        match name {
            name if name == secure.as_bytes() => by_secure = by_secure.or(Some(value)),
            name if name == plain.as_bytes() => by_plain = by_plain.or(Some(value)),
            _ => {}
        }
    }
    let cookie = by_secure.or(by_plain);
    if cookie.is_none() && secret.is_none() {
        return None;
    }
    let both = cookie.and_then(text).zip(secret.and_then(text)).filter(|_| more.is_none());
    Some(both.map_or(Shown::Broken, |(cookie, secret)| Shown::Both(digest_of(cookie, secret))))
}

/// A value that can be a secret.
fn text(value: &[u8]) -> Option<&str> {
    let is_secret = value.len() == SECRET_CHARACTERS && value.iter().all(u8::is_ascii_hexdigit);
    std::str::from_utf8(value).ok().filter(|_| is_secret)
}

/// The router has looked for the session of a request at an address that serves the panel. Without this mark on a request,
/// its session opens nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookedFor {
    /// Whether the database could not be asked, so that an unknown session may be an open one.
    pub(super) is_unsure: bool,
}

/// The session that identifies a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// None that could be open.
    Nothing,
    /// This one, if it is open.
    Session(Digest),
    /// One that the gateway does not know while the database is away.
    Unsure,
}

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    /// The application for which it acts.
    pub(super) application_id: i32,
    /// When it ends even if it is used.
    pub(super) ends_at: DateTime<Utc>,
    /// When it ends, by this process's monotonic clock, since the wall clock may be set.
    ends: Instant,
    /// Whether it was used since the last record. Shared with the same session of earlier and later looks.
    used: Arc<AtomicBool>,
}

/// A look at the database.
#[derive(Clone, Copy, Debug)]
struct Look {
    began: Instant,
    /// Whether the database answered.
    answered: bool,
}

/// The open sessions, as of the last look at the database.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Whether this gateway has a panel. Without one, no session is open.
    enabled: bool,
    open: ArcSwap<HashMap<Digest, Session>>,
    /// The last look. Held during the next one.
    looked: Mutex<Option<Look>>,
}

impl Sessions {
    /// None yet. With `enabled` false there are never any.
    pub(super) fn new(enabled: bool) -> Self {
        Self { enabled, ..Self::default() }
    }

    /// Calls `take` with a session, if it is open.
    pub(super) fn open<T>(&self, digest: Digest, take: impl FnOnce(&Session) -> T) -> Option<T> {
        self.open.load().get(&digest).filter(|session| Instant::now() < session.ends).map(take)
    }

    /// The application of a session that is used now, if the session is open.
    pub(super) fn used(&self, digest: Digest) -> Option<i32> {
        self.open(digest, |session| {
            session.used.store(true, Relaxed);
            session.application_id
        })
    }

    /// Reads the open sessions, unless a look that began after `asked` has done so. Returns whether the database answered.
    /// Requests that wait for the same look share it.
    pub(super) async fn look(&self, store: &Store, asked: Instant) -> bool {
        if !self.enabled {
            return true;
        }
        let mut looked = self.looked.lock().await;
        if let Some(look) = looked.filter(|look| look.began >= asked) {
            return look.answered;
        }
        if let Some(look) = *looked {
            sleep(LOOK_PAUSE.saturating_sub(look.began.elapsed())).await;
        }
        let began = Instant::now();
        let read = store.panel_sessions().await;
        let answered = read.is_ok();
        match read {
            Ok(rows) => self.replace(rows),
            // The last look holds as long, as that of the applications does.
            Err(error @ (Error::Away(_) | Error::Slow(_) | Error::Conflict(_) | Error::NoDescriptors)) => {
                tracing::debug!(%error, "the sessions of the panel could not be read");
            }
            // Before the schema is there, or without the right to read the table.
            Err(error) => {
                tracing::debug!(%error, "the sessions of the panel cannot be read, so none is open");
                self.replace(Vec::new());
            }
        }
        *looked = Some(Look { began, answered });
        answered
    }

    /// Does the same for a request that shows a session which the gateway does not know. Returns whether the database
    /// answered in time.
    pub(super) async fn look_for(&self, store: &Store, digest: Digest) -> bool {
        if self.open(digest, |_| ()).is_some() {
            return true;
        }
        timeout(LOOK_TIME, self.look(store, Instant::now())).await.unwrap_or(false)
    }

    fn replace(&self, rows: Vec<PanelSessionRow>) {
        let (before, now) = (self.open.load(), Instant::now());
        let session = |row: PanelSessionRow| {
            let digest = row.digest[..].try_into().ok().map(Digest)?;
            let left = Duration::try_from_secs_f64(row.seconds_left.max(0.0)).ok()?;
            let used = before.get(&digest).map(|session| Arc::clone(&session.used)).unwrap_or_default();
            let ends = now.checked_add(left)?;
            Some((digest, Session { application_id: row.application_id, ends_at: row.ends_at, ends, used }))
        };
        self.open.store(Arc::new(rows.into_iter().filter_map(session).collect()));
    }

    /// Records the uses since the last call. Another call records those that this one could not.
    pub(super) async fn note_uses(&self, store: &Store) -> Result<(), Error> {
        let open = self.open.load_full();
        let used: Vec<Digest> =
            open.iter().filter(|(_, session)| session.used.swap(false, Relaxed)).map(|(digest, _)| *digest).collect();
        if used.is_empty() {
            return Ok(());
        }
        let noted = store.note_panel_uses(&used).await;
        if noted.is_err() {
            used.iter().filter_map(|digest| open.get(digest)).for_each(|session| session.used.store(true, Relaxed));
        }
        noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Option<&str> = Some("127.0.0.1:8000");

    fn seen(cookies: &[&str], secrets: &[&str], host: Option<&str>) -> Option<Shown> {
        shown(cookies.iter().map(|text| text.as_bytes()), secrets.iter().map(|text| text.as_bytes()), host)
    }

    #[test]
    fn a_cookie_and_a_secret_count_together_alone() {
        let (cookie, secret) = ("a".repeat(64), "b".repeat(64));
        let named = format!("eye-panel-8000={cookie}");
        let both = Some(Shown::Both(digest_of(&cookie, &secret)));
        assert_eq!(seen(&[], &[], HOST), None);
        assert_eq!(seen(&["theme=dark; other=1"], &[], HOST), None);
        assert_eq!(seen(&[&named], &[&secret], HOST), both);
        assert_eq!(seen(&[&format!("x=1;{named} ; y=2")], &[&secret], HOST), both);
        assert_eq!(seen(&["x=1", &named], &[&secret], HOST), both, "HTTP/2 may send each cookie alone");
        for (cookies, secrets) in [
            (&[named.as_str()][..], &[][..]),
            (&[], &[secret.as_str()]),
            (&[&named], &["no secret"]),
            (&[&named], &[""]),
            (&["eye-panel-8000="], &[&secret]),
            (&["eye-panel-8000"], &[&secret]),
            (&[&format!("eye-panel-8000=\"{cookie}\"")], &[&secret]),
            (&[&named], &[&secret, &secret]),
            (&[&format!("eye-panel-8001={cookie}")], &[&secret]),
        ] {
            assert_eq!(seen(cookies, secrets, HOST), Some(Shown::Broken), "{cookies:?} {secrets:?}");
        }
        assert_eq!(seen(&[&format!("eye-panel-8001={cookie}")], &[], HOST), None, "of the gateway on another port");
    }

    #[test]
    fn the_cookie_that_no_neighbor_can_add_comes_first() {
        let (ours, theirs, secret) = ("a".repeat(64), "c".repeat(64), "b".repeat(64));
        let both = Some(Shown::Both(digest_of(&ours, &secret)));
        let cookies = format!("eye-panel={theirs}; __Host-eye-panel={ours}");
        assert_eq!(seen(&[&cookies], &[&secret], Some("eye.example")), both);
        let cookies = format!("__Host-eye-panel-8443={ours}");
        assert_eq!(seen(&[&cookies], &[&secret], Some("eye.example:8443")), both);
        assert_eq!(seen(&[&cookies], &[&secret], Some("[::1]:8443")), both);
    }

    #[test]
    fn the_name_of_the_cookie_has_the_port() {
        for (host, secure, name) in [
            (Some("127.0.0.1:8000"), false, "eye-panel-8000"),
            (Some("[::1]:8000"), true, "__Host-eye-panel-8000"),
            (Some("[::1]"), false, "eye-panel"),
            (Some("eye.example"), true, "__Host-eye-panel"),
            (Some("eye.example:x;y"), false, "eye-panel"),
            (None, false, "eye-panel"),
        ] {
            assert_eq!(cookie_name(host, secure), name, "{host:?}");
        }
    }
}
