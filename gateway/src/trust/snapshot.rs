//! All applications as of one look at the database, with an index for each way to know a caller. A new snapshot replaces
//! the old one as a whole.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use eye_event::verdict::Digest;
use ipnet::IpNet;

use super::application::Application;
use super::security::Kind;
use super::{LOCAL, Trust, canonical};
use crate::store::ApplicationRow;

/// The parts of a request that identify its sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    /// The address of the caller, if the connection or a trusted proxy gives it.
    pub(super) address: Option<IpAddr>,
    /// The digest of the token; the inner `None` if the header holds no token.
    pub(super) token: Option<Option<Digest>>,
    /// The digest of the client certificate.
    pub(super) certificate: Option<Digest>,
    /// Whether the request names the gateway by a host that no other site can have, or by one of its own.
    pub(super) meant_for_us: bool,
    /// Whether every caller without a token must do so, and not only one on this machine.
    pub(super) must_be_meant: bool,
    /// Whether it came from this machine through a proxy that the settings do not name. Any sender may be behind that.
    pub(super) relayed: bool,
}

/// Why a caller is not known.
pub(super) enum Stranger<'a> {
    /// No application matches.
    Nobody(Kind),
    /// An application matches, but may not call in this way.
    Known(Kind, &'a Application),
    /// A page had the name of another site resolved to this machine, or to the gateway, and its browser calls.
    Page(&'a Application),
    /// A proxy on this machine that the settings do not name may speak for any sender.
    Relayed(&'a Application),
}

/// The meaning of a token.
#[derive(Debug)]
enum Token {
    /// It identifies its application.
    Live(Arc<Application>),
    /// It has ended. The snapshot knows it so that its use is counted.
    Retired(Arc<Application>),
}

/// All applications as of one look at the database.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Every application, also inactive ones. Read for metrics, and for the next snapshot.
    pub(super) by_id: HashMap<i32, Arc<Application>>,
    by_token: HashMap<Digest, Token>,
    by_certificate: HashMap<Digest, Arc<Application>>,
    /// The smallest networks first, so that the most specific one decides.
    by_network: Vec<(IpNet, Arc<Application>)>,
}

impl Snapshot {
    /// Applications keep their shares, counts and rates from the snapshot before.
    pub(super) fn new(rows: Vec<ApplicationRow>, before: Option<&Snapshot>, trust: &Trust) -> Self {
        let mut snapshot = Self::default();
        for row in rows {
            // A database that was embedded once must not open its later gateways to every user of their machines.
            if row.name == LOCAL && row.known_by == "network" && !trust.embedded {
                continue;
            }
            let before = before.and_then(|before| before.by_id.get(&row.id));
            let application = Arc::new(Application::new(&row, before, trust));
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

    /// Returns the application of a caller. A token decides alone if the caller gave one, then the certificate, then the network.
    pub(super) fn find(&self, caller: &Caller) -> Result<&Arc<Application>, Stranger<'_>> {
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
        // A page can have its own name resolved to this machine, so that its browser calls from here; or to the gateway, so
        // that it calls from a known network.
        if (caller.must_be_meant || address.is_loopback()) && !caller.meant_for_us {
            return Err(Stranger::Page(application));
        }
        Ok(application)
    }
}

/// The digest in a column, unless it has another length.
fn exact(digest: &[u8]) -> Option<Digest> {
    digest.try_into().ok().map(Digest)
}
