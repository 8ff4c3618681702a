//! All applications as of one look at the database, with an index for each way to know a caller. A new snapshot replaces
//! the old one as a whole.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use eye_event::verdict::Digest;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::application::Application;
use super::own::{LOCAL, Local};
use super::panel::Claim;
use super::security::{Kind, Security};
use super::uses::LiveToken;
use crate::store::{ApplicationRow, TokenFacts};

/// The networks of this machine itself.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

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
    /// Whether it came by HTTP/1.1 or newer, as programs on this machine send. Proxies still use the older one.
    pub(super) is_modern: bool,
    /// Whether every host that it names is this machine.
    pub(super) for_loopback: bool,
    /// The session of the panel; `None` if the request shows nothing of one. It then decides alone.
    pub(super) session: Option<Claim>,
    /// The rights of callers from this machine, by the settings.
    pub(super) local: Local,
}

/// Why a caller is not known.
pub(super) enum Stranger<'a> {
    /// No application matches.
    Nobody(Kind),
    /// An application matches, but may not call in this way.
    Known(Kind, &'a Application),
    /// Its application is known, and the token has expired.
    Expired(&'a Application),
    /// A page had the name of another site resolved to this machine, or to the gateway, and its browser calls.
    Page(&'a Application),
    /// It is on this machine, and the rights of such callers have changed since the applications were read.
    Unsure,
    /// A proxy on this machine that the settings do not name may speak for any sender.
    Relayed(&'a Application),
    /// Its session of the panel is not open, or the request shows half of one.
    NoSession,
    /// Its session is not known, and the database cannot be asked.
    UnsureSession,
}

/// The meaning of a token.
#[derive(Debug)]
enum Token {
    /// It identifies its application.
    Live(Arc<Application>, LiveToken),
    /// It has ended. The snapshot knows it so that its use is counted.
    Retired(Arc<Application>),
    /// It has expired.
    Expired(Arc<Application>),
}

impl Token {
    fn live(&self) -> Option<&LiveToken> {
        match self {
            Self::Live(_, token) => Some(token),
            Self::Retired(_) | Self::Expired(_) => None,
        }
    }
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
    /// The rights of callers from this machine when it was read.
    local: Local,
    /// When it was read; `None` of the empty one.
    pub(super) read_at: Option<Instant>,
}

impl Snapshot {
    /// Applications keep their shares, counts and rates from the snapshot before.
    pub(super) fn new(
        rows: Vec<ApplicationRow>,
        before: Option<&Snapshot>,
        local: Local,
        security: &Arc<Security>,
    ) -> Self {
        let mut snapshot = Self { read_at: Some(Instant::now()), local, ..Self::default() };
        for row in rows {
            // A database that was embedded once must not open its later gateways to every user of their machines.
            let is_local = row.name == LOCAL && row.known_by == "network";
            if is_local && local == Local::Off {
                continue;
            }
            let tokens_before = before.map(|before| &before.by_token);
            let before = before.and_then(|before| before.by_id.get(&row.id));
            let mut application = Application::new(&row, before, security);
            if is_local {
                // The row may allow less than the settings, and never more.
                application.become_local(&local.words(), LOOPBACK.to_vec());
            }
            let application = Arc::new(application);
            snapshot.by_id.insert(row.id, Arc::clone(&application));
            let ended = if row.active { &[][..] } else { &row.token_digests };
            for digest in row.retired_token_digests.iter().chain(ended).filter_map(|digest| exact(digest)) {
                let expired = row.active && row.token(&digest.0).is_some_and(TokenFacts::is_expired);
                snapshot.by_token.entry(digest).or_insert_with(|| match expired {
                    true => Token::Expired(Arc::clone(&application)),
                    false => Token::Retired(Arc::clone(&application)),
                });
            }
            if !row.active {
                continue;
            }
            if row.known_by == "network" {
                let networks = application.networks().iter().map(|network| (*network, Arc::clone(&application)));
                snapshot.by_network.extend(networks);
                continue;
            }
            for digest in row.token_digests.iter().filter_map(|digest| exact(digest)) {
                let before = tokens_before.and_then(|tokens| tokens.get(&digest)).and_then(Token::live);
                let live = LiveToken::new(digest, row.id, row.token(&digest.0), before);
                snapshot.by_token.insert(digest, Token::Live(Arc::clone(&application), live));
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
                Some(Token::Live(application, token)) if token.is_expired() => {
                    return Err(Stranger::Expired(application));
                }
                Some(Token::Live(application, token)) => {
                    token.is_used();
                    Some(application)
                }
                Some(Token::Expired(application)) => return Err(Stranger::Expired(application)),
                Some(Token::Retired(application)) => return Err(Stranger::Known(Kind::RevokedToken, application)),
                None => return Err(Stranger::Nobody(Kind::UnknownToken)),
            },
            None => caller.certificate.and_then(|certificate| self.by_certificate.get(&certificate)),
        };
        if let Some(application) = proved {
            return admitted(application, caller);
        }
        let Some(address) = caller.address else { return Err(Stranger::Nobody(Kind::UnknownNetwork)) };
        let home = self.by_network.iter().find(|(network, _)| network.contains(&address));
        let (_, application) = home.ok_or(Stranger::Nobody(Kind::UnknownNetwork))?;
        if caller.relayed || application.is_local() && !caller.is_modern {
            return Err(Stranger::Relayed(application));
        }
        if application.is_local() && self.local != caller.local {
            return Err(Stranger::Unsure);
        }
        if application.is_local() && !caller.for_loopback {
            return Err(Stranger::Page(application));
        }
        // A page can have its own name resolved to this machine, so that its browser calls from here; or to the gateway, so
        // that it calls from a known network.
        if (caller.must_be_meant || address.is_loopback()) && !caller.meant_for_us {
            return Err(Stranger::Page(application));
        }
        Ok(application)
    }

    /// Returns the application with this id for a caller with a session of the panel.
    pub(super) fn of_session(&self, id: i32, caller: &Caller) -> Result<&Arc<Application>, Stranger<'_>> {
        let application = self.by_id.get(&id).filter(|application| application.is_active);
        admitted(application.ok_or(Stranger::NoSession)?, caller)
    }

    /// The applications that could call now.
    pub(super) fn callable(&self) -> Vec<Arc<Application>> {
        let by_token = self.by_token.values().filter_map(|token| match token {
            Token::Live(application, token) => Some(application).filter(|_| !token.is_expired()),
            Token::Retired(_) | Token::Expired(_) => None,
        });
        let by_network = self.by_network.iter().map(|(_, application)| application);
        let all = by_token.chain(self.by_certificate.values()).chain(by_network);
        let by_id: HashMap<i32, &Arc<Application>> = all.map(|application| (application.id, application)).collect();
        by_id.into_values().cloned().collect()
    }

    /// The networks that alone identify an application, the smallest first.
    pub(super) fn by_network(&self) -> &[(IpNet, Arc<Application>)] {
        &self.by_network
    }

    /// The tokens that identify an application, whose uses are noted.
    pub(super) fn live_tokens(&self) -> impl Iterator<Item = &LiveToken> {
        self.by_token.values().filter_map(Token::live)
    }
}

/// Lets an application pass that a token, a certificate or a session has proved, if it calls from where it must.
fn admitted<'a>(application: &'a Arc<Application>, caller: &Caller) -> Result<&'a Arc<Application>, Stranger<'a>> {
    if application.needs_network && !application.lives_at(caller.address) {
        return Err(Stranger::Known(Kind::UnknownNetwork, application));
    }
    if application.needs_network && caller.relayed {
        return Err(Stranger::Relayed(application));
    }
    if caller.must_be_meant && !caller.meant_for_us {
        return Err(Stranger::Page(application));
    }
    Ok(application)
}

/// The digest in a column, unless it has another length.
fn exact(digest: &[u8]) -> Option<Digest> {
    digest.try_into().ok().map(Digest)
}
