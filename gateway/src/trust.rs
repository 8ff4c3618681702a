//! Who is calling: one snapshot of the applications, replaced whole when they change, looked up once for each request.
//! Tokens are known by their digest alone, so that a comparison takes the same time whatever was sent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use crate::response::Refusal;
use crate::store::{ApplicationRow, Store};
use crate::verdict::Digest;

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
            Err(Refusal::NotAllowed { scope: scope.as_str() })
        }
    }

    fn lives_at(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

/// All active applications at one moment.
#[derive(Debug, Default)]
struct Snapshot {
    by_token: HashMap<Digest, Arc<Application>>,
    by_network: Vec<Arc<Application>>,
}

impl Snapshot {
    fn new(rows: Vec<ApplicationRow>) -> Self {
        let mut snapshot = Self::default();
        for row in rows.into_iter().filter(|row| row.active) {
            let application = Arc::new(Application {
                id: row.id,
                name: row.name,
                scopes: row.scopes,
                networks: row.networks,
                needs_network: row.known_by == "both",
            });
            if row.known_by == "network" {
                snapshot.by_network.push(Arc::clone(&application));
                continue;
            }
            for digest in row.token_digests {
                if let Ok(digest) = <[u8; 32]>::try_from(digest) {
                    snapshot.by_token.insert(Digest(digest), Arc::clone(&application));
                }
            }
        }
        snapshot
    }
}

/// The applications that are trusted, as of the last look at the database.
#[derive(Debug, Default)]
pub struct Trust {
    snapshot: ArcSwapOption<Snapshot>,
}

impl Trust {
    /// Whether the applications were ever read.
    pub fn known(&self) -> bool {
        self.snapshot.load().is_some()
    }

    /// The application that calls from `peer` with `headers`.
    ///
    /// # Errors
    ///
    /// [`Refusal::Unknown`]; or [`Refusal::DatabaseAway`] while the applications could not be read yet.
    pub fn identify(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Arc<Application>, Refusal> {
        let snapshot = self.snapshot.load();
        let Some(snapshot) = snapshot.as_ref() else { return Err(Refusal::DatabaseAway) };
        let peer = peer.to_canonical();
        let Some(header) = headers.get(AUTHORIZATION) else {
            let at_home = snapshot.by_network.iter().find(|application| application.lives_at(peer));
            return at_home.cloned().ok_or(Refusal::Unknown);
        };
        let token = header.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
        let Some((_, token)) = token else { return Err(Refusal::Unknown) };
        match snapshot.by_token.get(&Digest::of(token.trim_ascii())) {
            Some(application) if !application.needs_network || application.lives_at(peer) => {
                Ok(Arc::clone(application))
            }
            _ => Err(Refusal::Unknown),
        }
    }

    /// Reads the applications now.
    ///
    /// # Errors
    ///
    /// The store's; the last snapshot then stays in force.
    pub async fn refresh(&self, store: &Store) -> Result<(), crate::store::Error> {
        let rows = store.applications().await?;
        self.snapshot.store(Some(Arc::new(Snapshot::new(rows))));
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
