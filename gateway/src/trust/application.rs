//! A known caller: its scopes, the event types that it may send, its rate limit, and its share of each room that all
//! applications use together.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use ipnet::IpNet;

use super::canonical;
use super::event_types::EventTypes;
use super::known_types::KnownTypes;
use super::rate::Rate;
use super::security::{Counts, Kind, Security};
use super::visible::Visible;
use crate::response::Refusal;
use crate::share::Share;
use crate::store::ApplicationRow;

/// What an application may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Read stored events and the state of the gateway.
    Read,
    /// Also read the bytes of dead letters.
    Raw,
    /// Ship modules, and read the events that these judge.
    Ship,
    /// Change applications and dead letters.
    Admin,
}

impl Scope {
    /// All scopes, those that include least first.
    pub const ALL: [Self; 5] = [Self::Ingest, Self::Read, Self::Raw, Self::Ship, Self::Admin];

    /// Its word in rows and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Read => "read",
            Self::Raw => "raw",
            Self::Ship => "ship",
            Self::Admin => "admin",
        }
    }

    /// Whether an application with this scope may do what `other` allows.
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Raw => matches!(other, Self::Raw | Self::Read),
            // Of its event types alone, see [`Application::visible`].
            Self::Ship => matches!(other, Self::Ship | Self::Read),
            Self::Ingest | Self::Read => self == other,
        }
    }

    /// Whether one of the scopes of a row includes this one. A word that is no scope includes nothing.
    pub fn is_granted_by(self, words: &[String]) -> bool {
        let own = |word: &String| Self::ALL.into_iter().find(|scope| scope.as_str() == word);
        words.iter().filter_map(own).any(|own| own.includes(self))
    }
}

/// A known caller.
#[derive(Debug)]
pub struct Application {
    /// Id of its row.
    pub id: i32,
    /// Its name, as validators see it.
    pub name: String,
    /// Whether it may call: it is neither suspended nor revoked.
    pub(super) is_active: bool,
    /// Words of its row. Each request compares them with the scope of its route.
    scopes: Vec<String>,
    /// Networks of its row. Each request of an application that needs its network compares the caller's address.
    networks: Vec<IpNet>,
    /// The application must call from its networks even with a token or a certificate.
    pub(super) needs_network: bool,
    /// It is what callers from this machine are without a token. A refusal then says how to get one.
    is_local: bool,
    /// The event types that it may send; `None` for all.
    event_types: Option<EventTypes>,
    /// The events that it may read. The same for as long as its limits are.
    visible: Arc<Visible>,
    /// The events whose modules it may ship; `None` if it may ship none.
    ships: Option<Arc<Visible>>,
    /// The event types that it has sent so far.
    pub(super) known_types: Arc<KnownTypes>,
    /// Its rate limit, with the state of its bucket; `None` without a limit.
    rate: Option<Arc<Rate>>,
    /// When a token that it uses ends, if one does.
    tokens_end: Option<DateTime<Utc>>,
    /// Kept from snapshot to snapshot, like the two below.
    shares: Arc<Shares>,
    /// Counts its refusals. Metrics read them.
    refused: Arc<Counts>,
    /// Logs its refusals, together with those of strangers.
    security: Arc<Security>,
}

/// The shares of an application in the rooms that all use together.
#[derive(Debug, Default)]
struct Shares {
    bodies: Arc<Share>,
    rejected: Arc<Share>,
    answers: Arc<Share>,
    reads: Arc<Share>,
    streams: Arc<Share>,
    watching: Arc<Share>,
    shipping: Arc<Share>,
}

impl Application {
    /// The application of a row. It takes its shares, counts and known event types from the application of the snapshot
    /// before, and its rate limit if that has not changed.
    pub(super) fn new(row: &ApplicationRow, before: Option<&Arc<Application>>, security: &Arc<Security>) -> Self {
        let limit = row.rate_limit();
        let rate = limit.map(|limit| {
            let kept = before.and_then(|before| before.rate.as_ref()).filter(|rate| rate.limit() == limit);
            kept.cloned().unwrap_or_else(|| Arc::new(Rate::new(limit)))
        });
        // A pattern that cannot be read allows nothing: to allow everything would be the worse mistake.
        let types = || EventTypes::parse(&row.event_types).unwrap_or_default();
        let ships = ships(row).map(Arc::new);
        let reads = [Scope::Read, Scope::Raw, Scope::Admin]
            .iter()
            .any(|scope| row.scopes.iter().any(|own| own == scope.as_str()));
        let visible = match &ships {
            // A module sees all of its events, so who ships it may read them.
            Some(ships) if !reads => Arc::clone(ships),
            _ => Arc::new(Visible::limited(&row.read_event_types, &row.read_applications, &row.cursor_key)),
        };
        let same = before.map(|before| &before.visible).filter(|before| **before == visible);
        Self {
            id: row.id,
            name: row.name.clone(),
            is_active: row.active,
            scopes: row.scopes.clone(),
            networks: row.networks.iter().copied().map(canonical).collect(),
            needs_network: row.known_by == "both",
            is_local: false,
            event_types: (!row.event_types.is_empty()).then(types),
            visible: same.cloned().unwrap_or(visible),
            ships,
            rate,
            tokens_end: row.tokens_end(),
            shares: before.map(|before| Arc::clone(&before.shares)).unwrap_or_default(),
            refused: before.map(|before| Arc::clone(&before.refused)).unwrap_or_default(),
            known_types: before.map(|before| Arc::clone(&before.known_types)).unwrap_or_default(),
            security: Arc::clone(security),
        }
    }

    /// Makes it the application of callers from this machine, with no more than these scopes, and with these networks.
    pub(super) fn become_local(&mut self, most: &[String], networks: Vec<IpNet>) {
        self.scopes.retain(|scope| most.contains(scope));
        (self.is_local, self.networks) = (true, networks);
    }

    /// Whether it is the application of callers from this machine.
    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// The networks that it calls from.
    pub(super) fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// Rejects an application that lacks `scope`.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAllowed`].
    pub fn allow(&self, scope: Scope) -> Result<(), Refusal> {
        if self.has(scope) {
            Ok(())
        } else {
            self.security.refused(Kind::Scope, &self.name, &self.refused);
            let scope = scope.as_str();
            Err(if self.is_local { Refusal::NotAllowedHere { scope } } else { Refusal::NotAllowed { scope } })
        }
    }

    /// When a token that it uses ends. `None` when that has no end, and when it uses no token.
    pub fn tokens_end(&self) -> Option<DateTime<Utc>> {
        self.tokens_end
    }

    /// The words of its scopes.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Whether it has a scope that includes `scope`.
    pub fn has(&self, scope: Scope) -> bool {
        scope.is_granted_by(&self.scopes)
    }

    /// The events that it may read, if its scopes allow it to read.
    pub fn visible(&self) -> &Arc<Visible> {
        &self.visible
    }

    /// The events whose modules it may ship, and whose dead letters it may redrive; `None` if it may ship none.
    pub fn ships(&self) -> Option<&Arc<Visible>> {
        self.ships.as_ref()
    }

    /// Whether it may send events of this type.
    pub fn may_send(&self, category: &str, name: &str) -> bool {
        let may = self.event_types.as_ref().is_none_or(|types| types.contains(category, name));
        if !may {
            self.security.refused(Kind::EventType, &self.name, &self.refused);
        }
        may
    }

    /// Whether it has sent events of this type before, or may begin to now, since it has sent fewer than `most` types; if
    /// so, the type counts as its own. Code that keeps anything under the name of an event type calls this first, since
    /// the name stays forever.
    pub fn admit_type(&self, category: &str, name: &str, most: usize) -> bool {
        self.known_types.admit(category, name, most)
    }

    /// The same, without beginning anything.
    pub fn would_admit_type(&self, category: &str, name: &str, most: usize) -> bool {
        self.known_types.would_admit(category, name, most)
    }

    /// Rejects an application that has no event left in its rate. Called before the body is read.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`].
    pub fn look(&self) -> Result<(), Refusal> {
        self.limited(Rate::look)
    }

    /// Takes the cost of this many events from its rate. More than it may ever send at once cost one, since they were read.
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

    /// Its share of the bytes in flight, and of the queue.
    pub fn share(&self) -> &Arc<Share> {
        &self.shares.bodies
    }

    /// Its share of the rejected events that wait to be kept.
    pub fn rejected_share(&self) -> &Arc<Share> {
        &self.shares.rejected
    }

    /// Its share of the answers to reads that are not sent yet.
    pub fn answers_share(&self) -> &Arc<Share> {
        &self.shares.answers
    }

    /// Its share of the reads at work.
    pub fn reads_share(&self) -> &Arc<Share> {
        &self.shares.reads
    }

    /// Its share of the readers of live outcomes.
    pub fn watching_share(&self) -> &Arc<Share> {
        &self.shares.watching
    }

    /// Its share of the modules that are being pushed.
    pub fn shipping_share(&self) -> &Arc<Share> {
        &self.shares.shipping
    }

    /// Its share of the streams of results.
    pub fn streams_share(&self) -> &Arc<Share> {
        &self.shares.streams
    }

    /// Counts of its refusals, of each kind.
    pub fn refused(&self) -> &Counts {
        &self.refused
    }

    /// Whether an address lies in its networks.
    pub(super) fn lives_at(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.networks.iter().any(|network| network.contains(&address)))
    }
}

/// What an application may ship: with `admin` all, with `ship` the modules of its event types.
fn ships(row: &ApplicationRow) -> Option<Visible> {
    let has = |scope: Scope| row.scopes.iter().any(|own| own == scope.as_str());
    match (has(Scope::Admin), has(Scope::Ship)) {
        (true, _) => Some(Visible::ALL),
        (false, true) => Some(Visible::limited(&row.ship_event_types, &[], &row.cursor_key)),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_every_scope_and_raw_and_ship_include_read() {
        let table = [
            (Scope::Ingest, [true, false, false, false, false]),
            (Scope::Read, [false, true, false, false, false]),
            (Scope::Raw, [false, true, true, false, false]),
            (Scope::Ship, [false, true, false, true, false]),
            (Scope::Admin, [true, true, true, true, true]),
        ];
        for (own, includes) in table {
            assert_eq!(Scope::ALL.map(|other| own.includes(other)), includes, "{own:?}");
            let words = [own.as_str().to_owned()];
            assert_eq!(Scope::ALL.map(|other| other.is_granted_by(&words)), includes, "{own:?}");
        }
        let words = ["ingest", "raw", "root"].map(str::to_owned);
        assert_eq!(Scope::ALL.map(|other| other.is_granted_by(&words)), [true, true, true, false, false]);
        assert!(Scope::ALL.iter().all(|scope| !scope.is_granted_by(&["Admin".to_owned(), String::new()])));
    }
}
