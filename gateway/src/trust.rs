//! Who is calling: one snapshot of the applications, replaced whole when they change, looked up once for each request.
//! Tokens are known by their digest alone, so that a comparison takes the same time whatever was sent.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use eye_event::verdict::Digest;
use hyper::Request;
use hyper::header::{AUTHORIZATION, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, VIA};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::event_types::EventTypes;
use self::forwarded::Told;
use self::known_types::KnownTypes;
use self::rate::Rate;
use self::security::{Counts, Kind, Security};
use crate::response::Refusal;
use crate::share::Share;
use crate::store::{ApplicationRow, Store};

pub mod event_types;
pub mod forwarded;
pub mod known_types;
pub mod proxy_protocol;
pub mod rate;
pub mod security;
pub mod token;

/// How long to wait before the database is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// How often the event types of each application are read anew. Meanwhile a gateway knows those that it has seen itself.
const KNOWN_TYPES_READ: Duration = Duration::from_secs(60);

/// Headers that proxies add, by standard or by convention.
static ADDED_BY_PROXIES: [HeaderName; 4] =
    [FORWARDED, VIA, HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];

/// The application of the embedded default, which is trusted from this machine there and nowhere else.
pub const LOCAL: &str = "local";

/// Asks again whether a caller is still known and may still read, for an answer that goes on for long.
pub type StillKnown = Box<dyn Fn() -> bool + Send + Sync>;

/// What an application may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Read what was stored, and how the gateway does.
    Read,
    /// Read the bytes that are kept of refused events, too.
    Raw,
    /// Change things.
    Admin,
}

impl Scope {
    /// All, those that include least first.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Read, Self::Raw, Self::Admin];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Raw => "raw",
            Self::Admin => "admin",
        }
    }

    /// Whether who has this scope may do what `other` is for.
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Raw => matches!(other, Self::Raw | Self::Read),
            Self::Ingest | Self::Read => self == other,
        }
    }

    /// Whether one of the scopes that a row names includes this one. A word that is no scope includes nothing.
    pub fn is_granted_by(self, words: &[String]) -> bool {
        let own = |word: &String| Self::ALL.into_iter().find(|scope| scope.as_str() == word);
        words.iter().filter_map(own).any(|own| own.includes(self))
    }
}

/// Where a request comes from, as far as the connection tells.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The other end of the connection, or whom the PROXY header names. `None` if that header names nobody, or this machine:
    /// then the proxy's own address says nothing of who calls.
    pub address: Option<SocketAddr>,
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
    /// What it has sent so far, and how many of them there may be.
    known_types: Arc<KnownTypes>,
    known_types_max: usize,
    rate: Option<Arc<Rate>>,
    shares: Arc<Shares>,
    refused: Arc<Counts>,
    security: Arc<Security>,
}

/// What an application holds of each room that all share.
#[derive(Debug, Default)]
struct Shares {
    bodies: Arc<Share>,
    rejected: Arc<Share>,
    answers: Arc<Share>,
    reads: Arc<Share>,
    streams: Arc<Share>,
    watching: Arc<Share>,
}

impl Application {
    /// Refuses a caller that lacks `scope`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAllowed`].
    pub fn allow(&self, scope: Scope) -> Result<(), Refusal> {
        if self.has(scope) {
            Ok(())
        } else {
            self.security.refused(Kind::Scope, &self.name, &self.refused);
            Err(Refusal::NotAllowed { scope: scope.as_str() })
        }
    }

    /// Whether it may do what `scope` is for.
    pub fn has(&self, scope: Scope) -> bool {
        scope.is_granted_by(&self.scopes)
    }

    /// Whether it may send events of this type.
    pub fn may_send(&self, category: &str, name: &str) -> bool {
        let may = self.event_types.as_ref().is_none_or(|types| types.contains(category, name));
        if !may {
            self.security.refused(Kind::EventType, &self.name, &self.refused);
        }
        may
    }

    /// Whether it has sent events of this type before, or may begin to. Whoever keeps anything of an event under the name of its
    /// type asks first, be it stored or not: the name stays for ever.
    pub fn admit_type(&self, category: &str, name: &str) -> bool {
        self.known_types.admit(category, name, self.known_types_max)
    }

    /// The same, with nothing begun.
    pub fn would_admit_type(&self, category: &str, name: &str) -> bool {
        self.known_types.would_admit(category, name, self.known_types_max)
    }

    /// How many event types it may have sent.
    pub fn event_types_max(&self) -> usize {
        self.known_types_max
    }

    /// Refuses, before anything is read, a caller that has no event left.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`].
    pub fn look(&self) -> Result<(), Refusal> {
        self.limited(Rate::look)
    }

    /// Takes the cost of so many events. More than it may ever send at once cost one, since they were read.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`]; or [`Refusal::TooManyEvents`] for more than it may ever send at once.
    pub fn take(&self, events: usize) -> Result<(), Refusal> {
        let taken = self.limited(|rate| rate.take(events));
        if matches!(taken, Err(Refusal::TooManyEvents { .. })) {
            self.limited(|rate| rate.take(1))?;
        }
        taken
    }

    fn limited(&self, ask: impl FnOnce(&Rate) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Some(rate) = &self.rate else { return Ok(()) };
        ask(rate).inspect_err(|_| self.security.refused(Kind::RateLimited, &self.name, &self.refused))
    }

    /// What it holds of the room for what is in flight, and of the queue.
    pub fn share(&self) -> &Arc<Share> {
        &self.shares.bodies
    }

    /// What it holds of the room for rejected events that wait to be kept.
    pub fn rejected_share(&self) -> &Arc<Share> {
        &self.shares.rejected
    }

    /// What it holds of the room for answers to reads that are not sent yet.
    pub fn answers_share(&self) -> &Arc<Share> {
        &self.shares.answers
    }

    /// Which of the reads that are at work are its own.
    pub fn reads_share(&self) -> &Arc<Share> {
        &self.shares.reads
    }

    /// Which of those who watch outcomes are its own.
    pub fn watching_share(&self) -> &Arc<Share> {
        &self.shares.watching
    }

    /// Which of the streams of results are its own.
    pub fn streams_share(&self) -> &Arc<Share> {
        &self.shares.streams
    }

    /// How often it was refused for who it is, of each kind.
    pub fn refused(&self) -> &Counts {
        &self.refused
    }

    fn lives_at(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
    }
}

/// What a request tells of who sent it, and no more than is needed to look it up.
#[derive(Clone, Copy, Debug)]
struct Caller {
    /// As far as it can be believed.
    address: Option<IpAddr>,
    /// The digest of the token; the inner `None` if what was given is none.
    token: Option<Option<Digest>>,
    certificate: Option<Digest>,
    /// Whether the request was meant for the gateway by a name that no other site can have, or by one of its own.
    meant_for_us: bool,
    /// Whether that is asked of everybody without a token, and not only of those who call from this machine.
    must_be_meant: bool,
    /// Whether it came from this machine by way of a proxy that nobody named: then anybody may have sent it.
    relayed: bool,
}

/// Why a caller is not known.
enum Stranger<'a> {
    /// Nobody is like this.
    Nobody(Kind),
    /// An application is, but may not call in this way.
    Known(Kind, &'a Application),
    /// A browser was told that another site's name means this machine, or the gateway.
    Page(&'a Application),
    /// A proxy on this machine that nobody named may speak for anybody.
    Relayed(&'a Application),
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
    fn new(rows: Vec<ApplicationRow>, before: Option<&Snapshot>, trust: &Trust) -> Self {
        let mut snapshot = Self::default();
        for row in rows {
            // A database that was an embedded one once must not open its gateways to everybody on their machines.
            if row.name == LOCAL && row.known_by == "network" && !trust.embedded {
                continue;
            }
            let before = before.and_then(|before| before.by_id.get(&row.id));
            let application = Arc::new(application(&row, before, trust));
            snapshot.by_id.insert(row.id, Arc::clone(&application));
            let ended = if row.active { &[][..] } else { &row.token_digests };
            for digest in row.retired_token_digests.iter().chain(ended).filter_map(|digest| exact(digest)) {
                snapshot.by_token.entry(digest).or_insert_with(|| Token::Retired(Arc::clone(&application)));
            }
            if !row.active {
                continue;
            }
            if row.known_by == "network" {
                let networks = row.networks.iter().map(|network| (canonical(*network), Arc::clone(&application)));
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

    /// The application of a caller: its token decides alone where one is given, then the certificate, then the network.
    fn find(&self, caller: &Caller) -> Result<&Arc<Application>, Stranger<'_>> {
        let proved = match caller.token {
            Some(token) => match token.and_then(|token| self.by_token.get(&token)) {
                Some(Token::Live(application)) => Some(application),
                Some(Token::Retired(application)) => return Err(Stranger::Known(Kind::RevokedToken, application)),
                None => return Err(Stranger::Nobody(Kind::UnknownToken)),
            },
            None => caller.certificate.and_then(|certificate| self.by_certificate.get(&certificate)),
        };
        if let Some(application) = proved {
            if application.needs_network && !application.lives_at(caller.address) {
                return Err(Stranger::Known(Kind::UnknownNetwork, application));
            }
            if application.needs_network && caller.relayed {
                return Err(Stranger::Relayed(application));
            }
            if caller.must_be_meant && !caller.meant_for_us {
                return Err(Stranger::Page(application));
            }
            return Ok(application);
        }
        let Some(address) = caller.address else { return Err(Stranger::Nobody(Kind::UnknownNetwork)) };
        let home = self.by_network.iter().find(|(network, _)| network.contains(&address));
        let (_, application) = home.ok_or(Stranger::Nobody(Kind::UnknownNetwork))?;
        if caller.relayed {
            return Err(Stranger::Relayed(application));
        }
        // A page can have its own name resolved to this machine, and its browser calls from here; or to the gateway, from the
        // network that is known.
        if (caller.must_be_meant || address.is_loopback()) && !caller.meant_for_us {
            return Err(Stranger::Page(application));
        }
        Ok(application)
    }
}

/// A network as it is compared: an IPv4 one that is written as IPv6 is IPv4.
pub fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) if network.prefix_len() >= 96 => {
            network.addr().to_ipv4_mapped().and_then(|address| Ipv4Net::new(address, network.prefix_len() - 96).ok())
        }
        _ => None,
    };
    mapped.map_or(network, IpNet::V4)
}

/// The host for which a request is meant, with its port: HTTP/2 has it in the target, HTTP/1 in a header.
pub(crate) fn host<B>(request: &Request<B>) -> Option<&str> {
    let target = request.uri().authority().map(hyper::http::uri::Authority::as_str);
    target.or_else(|| request.headers().get(HOST)?.to_str().ok())
}

/// Whether a host is `localhost` or an address, which no other site can have resolved, or one of `names`. What names none
/// comes from no browser.
fn only_ours(host: Option<&str>, names: &[String]) -> bool {
    let Some(host) = host else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok()
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether the headers have what proxies add.
fn passed_on(headers: &HeaderMap) -> bool {
    ADDED_BY_PROXIES.iter().any(|name| headers.contains_key(name))
}

fn exact(digest: &[u8]) -> Option<Digest> {
    digest.try_into().ok().map(Digest)
}

fn application(row: &ApplicationRow, before: Option<&Arc<Application>>, trust: &Trust) -> Application {
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
        networks: row.networks.iter().copied().map(canonical).collect(),
        needs_network: row.known_by == "both",
        event_types: (!row.event_types.is_empty()).then(types),
        rate,
        shares: before.map(|before| Arc::clone(&before.shares)).unwrap_or_default(),
        refused: before.map(|before| Arc::clone(&before.refused)).unwrap_or_default(),
        known_types: before.map(|before| Arc::clone(&before.known_types)).unwrap_or_default(),
        known_types_max: trust.event_types_max.unwrap_or(usize::MAX),
        security: Arc::clone(&trust.security),
    }
}

/// The applications that are trusted, as of the last look at the database.
#[derive(Debug, Default)]
pub struct Trust {
    /// Proxies whose word on the caller's address is believed, and where they give it.
    proxies: Vec<IpNet>,
    told: Told,
    /// The names by which the gateway is called; where there are none, any may be its own.
    hosts: Vec<String>,
    /// Whether the gateway runs a Postgres of its own, where [`LOCAL`] is trusted.
    embedded: bool,
    /// How many event types an application may make; `None` for any number.
    event_types_max: Option<usize>,
    snapshot: ArcSwapOption<Snapshot>,
    /// One look at the database after the other: an older answer must not replace a newer one.
    refreshing: Mutex<()>,
    /// When the event types of the applications were read; held by who reads them.
    known_types_read: Mutex<Option<Instant>>,
    security: Arc<Security>,
}

impl Trust {
    /// Nobody yet; what `proxies` tell of a caller's address in the header `told` will be believed, who sends no token must
    /// have asked for one of `hosts` if there are any, and [`LOCAL`] is known only if the Postgres is an `embedded` one.
    pub fn new(proxies: Vec<IpNet>, told: Told, hosts: Vec<String>, embedded: bool) -> Self {
        Self { proxies, told, hosts, embedded, ..Self::default() }
    }

    /// With so many event types at most for each application.
    pub fn with_event_types_max(self, most: usize) -> Self {
        Self { event_types_max: Some(most), ..self }
    }

    fn caller<B>(&self, request: &Request<B>, peer: Peer) -> Caller {
        let header = request.headers().get(AUTHORIZATION);
        let address = peer.address.and_then(|address| self.address(request, address.ip().to_canonical()));
        Caller {
            address,
            token: header.map(|header| bearer(header.as_bytes()).map(Digest::of)),
            certificate: peer.certificate,
            meant_for_us: header.is_some() || only_ours(host(request), &self.hosts),
            must_be_meant: !self.hosts.is_empty(),
            // No proxy is believed that somebody calls from this machine, so this is the other end of the connection.
            relayed: address.is_some_and(|address| address.is_loopback()) && passed_on(request.headers()),
        }
    }

    /// Where the request comes from, as far as it can be believed. `None` when a trusted proxy does not say, or says that
    /// it is this machine.
    fn address<B>(&self, request: &Request<B>, peer: IpAddr) -> Option<IpAddr> {
        if self.proxies.is_empty() {
            return Some(peer);
        }
        let values = request.headers().get_all(self.told.header()).iter().map(HeaderValue::as_bytes);
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

    /// The application that sent `request` from `peer`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`]; [`Refusal::UnnamedProxy`] of a caller that only a network would make known and that a proxy on
    /// this machine may have spoken for; [`Refusal::ForeignHost`] of a caller that is known by being on this machine (or,
    /// where the gateway's names are known, by any network or a certificate) and did not ask for it; or
    /// [`Refusal::DatabaseAway`] while the applications could not be read yet.
    pub fn identify<B>(&self, request: &Request<B>, peer: Peer) -> Result<Arc<Application>, Refusal> {
        let snapshot = self.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else { return Err(Refusal::DatabaseAway) };
        let caller = self.caller(request, peer);
        snapshot.find(&caller).map(Arc::clone).map_err(|stranger| match stranger {
            Stranger::Nobody(kind) => {
                self.security.refused_stranger(kind, caller.address);
                Refusal::Unknown
            }
            Stranger::Known(kind, application) => {
                self.security.refused(kind, &application.name, &application.refused);
                Refusal::Unknown
            }
            Stranger::Relayed(application) => {
                self.security.refused(Kind::UnnamedProxy, &application.name, &application.refused);
                Refusal::UnnamedProxy
            }
            Stranger::Page(application) => {
                self.security.refused(Kind::ForeignPage, &application.name, &application.refused);
                Refusal::ForeignHost
            }
        })
    }

    /// Counts and tells that a page of another site had a browser call.
    pub fn foreign_page<B>(&self, request: &Request<B>, peer: Peer) {
        self.security.refused_stranger(Kind::ForeignPage, self.caller(request, peer).address);
    }

    /// Asks again, whenever it is called, whether the sender of `request` is still `application` with this scope.
    pub fn still_known<B>(
        self: &Arc<Self>,
        request: &Request<B>,
        peer: Peer,
        application: &Application,
        scope: Scope,
    ) -> StillKnown {
        let (trust, caller, id) = (Arc::clone(self), self.caller(request, peer), application.id);
        Box::new(move || {
            let snapshot = trust.snapshot.load();
            let found = snapshot.as_ref().and_then(|snapshot| snapshot.find(&caller).ok());
            found.is_some_and(|found| found.id == id && found.has(scope))
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
        let snapshot = Snapshot::new(rows, self.snapshot.load().as_deref(), self);
        // Before anybody is known, so that a start does not let new types through that could not be told from known ones.
        self.read_known_types(store, &snapshot).await;
        self.snapshot.store(Some(Arc::new(snapshot)));
        Ok(())
    }

    /// Learns what event types the applications have sent, now and then. If that fails, those that are known are known.
    async fn read_known_types(&self, store: &Store, snapshot: &Snapshot) {
        let mut read = self.known_types_read.lock().await;
        if self.event_types_max.is_none() || read.is_some_and(|at| at.elapsed() < KNOWN_TYPES_READ) {
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

    /// Keeps the snapshot fresh until told to stop: on each notification, and every `poll` for what no notification told.
    pub async fn follow(self: Arc<Self>, store: Store, poll: Duration, stop: CancellationToken) {
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
                    if !tokio::time::timeout(poll, changed).await.unwrap_or(true) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_every_scope_and_raw_includes_read() {
        let table = [
            (Scope::Ingest, [true, false, false, false]),
            (Scope::Read, [false, true, false, false]),
            (Scope::Raw, [false, true, true, false]),
            (Scope::Admin, [true, true, true, true]),
        ];
        for (own, includes) in table {
            assert_eq!(Scope::ALL.map(|other| own.includes(other)), includes, "{own:?}");
            let words = [own.as_str().to_owned()];
            assert_eq!(Scope::ALL.map(|other| other.is_granted_by(&words)), includes, "{own:?}");
        }
        let words = ["ingest", "raw", "root"].map(str::to_owned);
        assert_eq!(Scope::ALL.map(|other| other.is_granted_by(&words)), [true, true, true, false]);
        assert!(Scope::ALL.iter().all(|scope| !scope.is_granted_by(&["Admin".to_owned(), String::new()])));
    }

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

    #[test]
    fn only_localhost_and_addresses_are_names_that_no_other_site_can_have() {
        let ours = ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "10.1.2.3:80"];
        for host in ours {
            assert!(only_ours(Some(host), &[]), "{host}");
        }
        assert!(only_ours(None, &[]));
        for host in
            ["eye", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", ":80", "[x]:80"]
        {
            assert!(!only_ours(Some(host), &["gate.example".to_owned()]), "{host}");
        }
        for host in ["gate.example", "Gate.Example:8000"] {
            assert!(only_ours(Some(host), &["gate.example".to_owned()]), "{host}");
            assert!(!only_ours(Some(host), &[]), "{host}");
        }
    }
}
