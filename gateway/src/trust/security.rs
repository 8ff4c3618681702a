//! Counts refusals by caller: for each known application, and for strangers by network, within a bound. A flood writes
//! one log line of each kind per second. Tokens never reach this module.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::log_limit::LogLimit;

/// Most networks with counters of their own. The others are counted together.
const NETWORKS_MAX: usize = 1_024;
/// The bits of an address that make its network.
const IPV4_PREFIX: u8 = 24;
const IPV6_PREFIX: u8 = 48;

/// The reasons of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token or certificate of no application.
    UnknownToken,
    /// A token that was ended.
    RevokedToken,
    /// A token that has expired.
    ExpiredToken,
    /// No token, and no application's network; or a token from outside of its application's networks.
    UnknownNetwork,
    /// A scope that the application lacks.
    Scope,
    /// More events than the application may send.
    RateLimited,
    /// An event type that the application may not send.
    EventType,
    /// A page of another site made a browser call.
    ForeignPage,
    /// An unnamed proxy on this machine called.
    UnnamedProxy,
    /// A session of the panel that is not open, or half of one.
    UnknownSession,
    /// A code for the panel that opens nothing.
    UnknownCode,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::UnknownToken,
        Self::RevokedToken,
        Self::ExpiredToken,
        Self::UnknownNetwork,
        Self::Scope,
        Self::RateLimited,
        Self::EventType,
        Self::ForeignPage,
        Self::UnnamedProxy,
        Self::UnknownSession,
        Self::UnknownCode,
    ];

    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::RevokedToken => "revoked_token",
            Self::ExpiredToken => "expired_token",
            Self::UnknownNetwork => "unknown_network",
            Self::Scope => "scope",
            Self::RateLimited => "rate_limited",
            Self::EventType => "event_type",
            Self::ForeignPage => "foreign_page",
            Self::UnnamedProxy => "unnamed_proxy",
            Self::UnknownSession => "unknown_session",
            Self::UnknownCode => "unknown_code",
        }
    }
}

/// A count for each kind.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; Kind::ALL.len()]);

impl Counts {
    fn add(&self, kind: Kind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The number of refusals of this kind since the start.
    pub fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize].load(Ordering::Relaxed)
    }
}

/// The counters of strangers, and the limits of the log.
#[derive(Debug, Default)]
pub struct Security {
    networks: Mutex<HashMap<IpNet, Counts>>,
    other: Counts,
    gates: [LogLimit; Kind::ALL.len()],
}

impl Security {
    /// Counts and logs a refusal of a known application.
    pub fn refused(&self, kind: Kind, application: &str, counts: &Counts) {
        counts.add(kind);
        if let Some(more) = self.gates[kind as usize].open() {
            tracing::warn!(kind = kind.as_str(), application, more, "an application was refused");
        }
    }

    /// Counts and logs a refusal of a stranger.
    pub fn refused_stranger(&self, kind: Kind, address: Option<IpAddr>) {
        let network = address.map(network_of);
        self.count(kind, network);
        if let Some(more) = self.gates[kind as usize].open() {
            let network = network.map_or_else(|| "not reported by the proxy".to_owned(), |network| network.to_string());
            tracing::warn!(kind = kind.as_str(), network, more, "an unknown caller was refused");
        }
    }

    fn count(&self, kind: Kind, network: Option<IpNet>) {
        if let Some(network) = network {
            let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
            if networks.len() < NETWORKS_MAX || networks.contains_key(&network) {
                networks.entry(network).or_default().add(kind);
                return;
            }
        }
        self.other.add(kind);
    }

    /// Each kind, network and count above zero. Networks beyond the bound count as `other`.
    pub fn strangers(&self) -> Vec<(Kind, String, u64)> {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let named = networks.iter().map(|(network, counts)| (network.to_string(), counts));
        let all = named.chain([("other".to_owned(), &self.other)]);
        let counts = all.flat_map(|(name, counts)| Kind::ALL.map(|kind| (kind, name.clone(), counts.get(kind))));
        counts.filter(|(_, _, count)| *count > 0).collect()
    }
}

/// The network by which strangers are counted.
pub(super) fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::new_assert(address, IPV4_PREFIX).trunc().into(),
        IpAddr::V6(address) => Ipv6Net::new_assert(address, IPV6_PREFIX).trunc().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_counted_by_network_within_a_bound() {
        let security = Security::default();
        for last in [1, 2, 3] {
            security.refused_stranger(Kind::UnknownNetwork, Some(IpAddr::from([203, 0, 113, last])));
        }
        let mapped = "::ffff:203.0.113.9".parse().expect("an address");
        security.refused_stranger(Kind::UnknownNetwork, Some(mapped));
        assert_eq!(security.strangers(), [(Kind::UnknownNetwork, "203.0.113.0/24".to_owned(), 4)]);
        for number in 0..2_000_u32 {
            security.refused_stranger(Kind::UnknownToken, Some(IpAddr::from((number << 8).to_be_bytes())));
        }
        let strangers = security.strangers();
        assert_eq!(strangers.len(), NETWORKS_MAX + 1);
        let other = strangers.iter().find(|(_, name, _)| name == "other").expect("those beyond the bound");
        assert_eq!(other.2, 2_000 - 1_023);
    }
}
