//! Who is calling: one snapshot of the applications, replaced whole when they change, looked up once for each request.
//! Tokens are known by their digest alone, so that a comparison takes the same time whatever was sent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use ipnet::IpNet;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::event_types::EventTypes;
use self::forwarded::Told;
use self::rate::Rate;
use self::security::{Counts, Kind, Security};
use crate::response::Refusal;
use crate::share::Share;
use crate::store::{ApplicationRow, Store};
use crate::verdict::Digest;

pub mod event_types;
pub mod forwarded;
pub mod proxy_protocol;
pub mod rate;
pub mod security;
pub mod token;

/// How long a change may stay unseen when no notification of it arrives.
const POLL: Duration = Duration::from_secs(10);
/// How long to wait before the database is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// What an application may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Read what was stored, and how the gateway does.
    Read,
    /// Change things.
    Admin,
}

impl Scope {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// Where a request comes from, as far as the connection tells.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The other end of the connection, or whom the PROXY header names.
    pub address: SocketAddr,
    /// SHA-256 of the client certificate that was proved in the handshake.
    pub certificate: Option<Digest>,
}

/// A known caller.
#[derive(Debug)]
pub struct Application {
    /// Its row.
    pub id: i32,
    /// Its name, as validators see it.
    pub name: String,
    scopes: Vec<String>,
    networks: Vec<IpNet>,
    needs_network: bool,
    /// What it may send; `None` for everything.
    event_types: Option<EventTypes>,
    rate: Option<Arc<Rate>>,
    share: Arc<Share>,
    rejected_share: Arc<Share>,
    refused: Arc<Counts>,
    security: Arc<Security>,
}

impl Application {
    /// Refuses a caller that lacks `scope`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAllowed`].
    pub fn allow(&self, scope: Scope) -> Result<(), Refusal> {
        if self.scopes.iter().any(|own| own == scope.as_str()) {
            Ok(())
        } else {
            self.security.refused(Kind::Scope, &self.name, &self.refused);
            Err(Refusal::NotAllowed { scope: scope.as_str() })
        }
    }

    /// Whether it may send events of this type.
    pub fn may_send(&self, category: &str, name: &str) -> bool {
        let may = self.event_types.as_ref().is_none_or(|types| types.contains(category, name));
        if !may {
            self.security.refused(Kind::EventType, &self.name, &self.refused);
        }
        may
    }

    /// Refuses, before anything is read, a caller that has no event left.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`].
    pub fn look(&self) -> Result<(), Refusal> {
        self.limited(Rate::look)
    }

    /// Takes the cost of so many events.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`]; or [`Refusal::TooManyEvents`] for more than it may ever send at once.
    pub fn take(&self, events: usize) -> Result<(), Refusal> {
        self.limited(|rate| rate.take(events))
    }

    fn limited(&self, ask: impl FnOnce(&Rate) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Some(rate) = &self.rate else { return Ok(()) };
        ask(rate).inspect_err(|_| self.security.refused(Kind::RateLimited, &self.name, &self.refused))
    }

    /// What it holds of what all applications share.
    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    /// What it holds of the room for rejected events that wait to be kept.
    pub fn rejected_share(&self) -> &Arc<Share> {
        &self.rejected_share
    }

    /// How often it was refused for who it is, of each kind.
    pub fn refused(&self) -> &Counts {
        &self.refused
    }

    fn lives_at(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
    }
}

/// What a token stands for.
#[derive(Debug)]
enum Token {
    Live(Arc<Application>),
    /// It has ended, and is known only so that its use can be counted.
    Retired(Arc<Application>),
}

/// All applications at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    by_id: HashMap<i32, Arc<Application>>,
    by_token: HashMap<Digest, Token>,
    by_certificate: HashMap<Digest, Arc<Application>>,
    /// The smallest networks first, so that the most exact one decides.
    by_network: Vec<(IpNet, Arc<Application>)>,
}

impl Snapshot {
    /// What an application holds and has used is taken over from the snapshot before.
    fn new(rows: Vec<ApplicationRow>, before: Option<&Snapshot>, security: &Arc<Security>) -> Self {
        let mut snapshot = Self::default();
        for row in rows {
            let before = before.and_then(|before| before.by_id.get(&row.id));
            let application = Arc::new(application(&row, before, security));
            snapshot.by_id.insert(row.id, Arc::clone(&application));
            let ended = if row.active { &[][..] } else { &row.token_digests };
            for digest in row.retired_token_digests.iter().chain(ended).filter_map(|digest| exact(digest)) {
                snapshot.by_token.entry(digest).or_insert_with(|| Token::Retired(Arc::clone(&application)));
            }
            if !row.active {
                continue;
            }
            if row.known_by == "network" {
                let networks = row.networks.iter().map(|network| (*network, Arc::clone(&application)));
                snapshot.by_network.extend(networks);
                continue;
            }
            for digest in row.token_digests.iter().filter_map(|digest| exact(digest)) {
                snapshot.by_token.insert(digest, Token::Live(Arc::clone(&application)));
            }
            for digest in row.certificate_digests.iter().filter_map(|digest| exact(digest)) {
                snapshot.by_certificate.insert(digest, Arc::clone(&application));
            }
        }
        snapshot.by_network.sort_by_key(|(network, _)| std::cmp::Reverse(network.prefix_len()));
        snapshot
    }
}

fn exact(digest: &[u8]) -> Option<Digest> {
    digest.try_into().ok().map(Digest)
}

fn application(row: &ApplicationRow, before: Option<&Arc<Application>>, security: &Arc<Security>) -> Application {
    let limit = row.rate_limit();
    let rate = limit.map(|limit| {
        let kept = before.and_then(|before| before.rate.as_ref()).filter(|rate| rate.limit() == limit);
        kept.cloned().unwrap_or_else(|| Arc::new(Rate::new(limit)))
    });
    // A pattern that cannot be read allows nothing: to allow everything would be the worse mistake.
    let types = || EventTypes::parse(&row.event_types).unwrap_or_default();
    Application {
        id: row.id,
        name: row.name.clone(),
        scopes: row.scopes.clone(),
        networks: row.networks.clone(),
        needs_network: row.known_by == "both",
        event_types: (!row.event_types.is_empty()).then(types),
        rate,
        share: before.map(|before| Arc::clone(&before.share)).unwrap_or_default(),
        rejected_share: before.map(|before| Arc::clone(&before.rejected_share)).unwrap_or_default(),
        refused: before.map(|before| Arc::clone(&before.refused)).unwrap_or_default(),
        security: Arc::clone(security),
    }
}

/// The applications that are trusted, as of the last look at the database.
#[derive(Debug, Default)]
pub struct Trust {
    /// Proxies whose word on the caller's address is believed, and where they give it.
    proxies: Vec<IpNet>,
    told: Told,
    snapshot: ArcSwapOption<Snapshot>,
    /// One look at the database after the other: an older answer must not replace a newer one.
    refreshing: Mutex<()>,
    security: Arc<Security>,
}

impl Trust {
    /// Nobody yet; what `proxies` tell of a caller's address in the header `told` will be believed.
    pub fn new(proxies: Vec<IpNet>, told: Told) -> Self {
        Self { proxies, told, ..Self::default() }
    }

    /// Where the request comes from, as far as it can be believed. `None` when a trusted proxy does not say.
    fn address(&self, headers: &HeaderMap, peer: Peer) -> Option<IpAddr> {
        let peer = peer.address.ip().to_canonical();
        if self.proxies.is_empty() {
            return Some(peer);
        }
        let values = headers.get_all(self.told.header()).iter().map(HeaderValue::as_bytes);
        forwarded::caller(peer, self.told, values, &self.proxies)
    }

    /// Whether the applications were ever read.
    pub fn known(&self) -> bool {
        self.snapshot.load().is_some()
    }

    /// What was refused for who asked, where no application is known.
    pub fn security(&self) -> &Security {
        &self.security
    }

    /// All applications of the last look, in no order.
    pub fn applications(&self) -> Vec<Arc<Application>> {
        let snapshot = self.snapshot.load();
        snapshot.as_ref().map(|snapshot| snapshot.by_id.values().cloned().collect()).unwrap_or_default()
    }

    /// The application that calls from `peer` with `headers`. A token decides alone where one is given, then the client
    /// certificate, then the network.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`]; or [`Refusal::DatabaseAway`] while the applications could not be read yet.
    pub fn identify(&self, headers: &HeaderMap, peer: Peer) -> Result<Arc<Application>, Refusal> {
        let snapshot = self.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else { return Err(Refusal::DatabaseAway) };
        let address = self.address(headers, peer);
        let stranger = |kind| {
            self.security.refused_stranger(kind, address);
            Refusal::Unknown
        };
        let proved = match headers.get(AUTHORIZATION) {
            Some(header) => {
                let token = bearer(header.as_bytes()).ok_or_else(|| stranger(Kind::UnknownToken))?;
                match snapshot.by_token.get(&Digest::of(token)) {
                    Some(Token::Live(application)) => Some(application),
                    Some(Token::Retired(application)) => {
                        self.security.refused(Kind::RevokedToken, &application.name, &application.refused);
                        return Err(Refusal::Unknown);
                    }
                    None => return Err(stranger(Kind::UnknownToken)),
                }
            }
            None => peer.certificate.and_then(|certificate| snapshot.by_certificate.get(&certificate)),
        };
        if let Some(application) = proved {
            if application.needs_network && !application.lives_at(address) {
                self.security.refused(Kind::UnknownNetwork, &application.name, &application.refused);
                return Err(Refusal::Unknown);
            }
            return Ok(Arc::clone(application));
        }
        let at_home = |(network, _): &&(IpNet, _)| address.is_some_and(|address| network.contains(&address));
        let application = snapshot.by_network.iter().find(at_home).map(|(_, application)| Arc::clone(application));
        application.ok_or_else(|| stranger(Kind::UnknownNetwork))
    }

    /// Reads the applications now.
    ///
    /// # Errors
    ///
    /// The store's; the last snapshot then stays in force.
    pub async fn refresh(&self, store: &Store) -> Result<(), crate::store::Error> {
        let _turn = self.refreshing.lock().await;
        let rows = store.applications().await?;
        let snapshot = Snapshot::new(rows, self.snapshot.load().as_deref(), &self.security);
        self.snapshot.store(Some(Arc::new(snapshot)));
        Ok(())
    }

    /// Keeps the snapshot fresh until told to stop: on each notification, and by a poll for what no notification told.
    pub async fn follow(self: Arc<Self>, store: Store, stop: CancellationToken) {
        let follow = async {
            loop {
                let mut listener = store.listen_applications().await.ok();
                // Listening comes first: a change between the two would otherwise go unseen.
                while self.refresh(&store).await.is_ok() {
                    let changed = async {
                        match &mut listener {
                            Some(listener) => listener.changed().await.is_ok(),
                            None => false,
                        }
                    };
                    if !tokio::time::timeout(POLL, changed).await.unwrap_or(true) {
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

/// The token of `Authorization: Bearer <token>`.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}
