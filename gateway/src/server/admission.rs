//! The checks before a connection speaks HTTP: the number of connections of a network, the proxies whose PROXY headers
//! count, and TLS. It also counts the refused connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::log_limit::LogLimit;
use crate::tls::Tls;

/// Why a connection was refused, or ended for its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its network has as many connections as allowed.
    TooMany,
    /// A required PROXY header was missing, late, or from a peer that may not send one.
    ProxyHeader,
    /// The TLS handshake failed or was late.
    Handshake,
    /// The peer sent too many HTTP/2 frames beside its requests.
    Frames,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 4] = [Self::TooMany, Self::ProxyHeader, Self::Handshake, Self::Frames];

    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many_from_peer",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "tls_handshake",
            Self::Frames => "http2_frames",
        }
    }
}

/// The checks that every new connection passes. All listeners share them.
#[derive(Debug, Default)]
pub struct Admission {
    /// The certificate in force, if the listener speaks TLS.
    pub tls: Arc<Tls>,
    rules: ArcSwap<Proxying>,
    /// Counts the connections of each network.
    pub places: Places,
    refused: [AtomicU64; Class::ALL.len()],
    gates: [LogLimit; Class::ALL.len()],
}

impl Admission {
    /// Makes the checks from the settings.
    pub fn new(tls: Arc<Tls>, rules: Proxying) -> Self {
        Self { tls, rules: ArcSwap::from_pointee(rules), ..Self::default() }
    }

    /// Changes the rules for proxies, for connections that are accepted from now on.
    pub fn set_rules(&self, rules: Proxying) {
        self.rules.store(Arc::new(rules));
    }

    /// The rules for a connection that is accepted now.
    pub(super) fn rules(&self) -> Arc<Proxying> {
        self.rules.load_full()
    }

    /// How many connections were refused for this reason.
    pub fn refused(&self, class: Class) -> u64 {
        self.refused[class as usize].load(Ordering::Relaxed)
    }

    /// Counts a refused connection, and logs at most one each second.
    pub(super) fn refuse<T>(&self, class: Class, peer: SocketAddr) -> Option<T> {
        self.refused[class as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.gates[class as usize].open() {
            tracing::warn!(class = class.as_str(), %peer, more, "a connection was refused");
        }
        None
    }
}

/// The rules for proxies. A connection keeps those with which it was accepted.
#[derive(Clone, Debug, Default)]
pub struct Proxying {
    /// Whether each connection starts with a PROXY header.
    pub proxy_protocol: bool,
    /// The proxies whose reports count.
    pub trusted_proxies: Vec<IpNet>,
}

impl Proxying {
    /// Whether the peer is a named proxy.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// Counts the connections of each peer: an IPv4 address, or an IPv6 network of 64 bits, which is the usual size for one
/// host.
#[derive(Debug, Default)]
pub struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A counted connection. Its drop gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Places {
    /// Takes a place for a connection, unless its peer has as many as allowed.
    pub(super) fn take(&self, peer: IpAddr, most: usize) -> Option<Place> {
        let peer = match peer.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There are at most as many entries as connections, since the drop removes those of peers without any.
        let count = counts.entry(peer).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { counts: Arc::clone(&self.0), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_peer_and_come_back() {
        let places = Places::default();
        let peer = |text: &str| text.parse::<IpAddr>().expect("an address");
        let one = places.take(peer("203.0.113.5"), 2).expect("a place");
        let _two = places.take(peer("::ffff:203.0.113.5"), 2).expect("a place");
        assert!(places.take(peer("203.0.113.5"), 2).is_none());
        assert!(places.take(peer("203.0.113.6"), 2).is_some());
        drop(one);
        assert!(places.take(peer("203.0.113.5"), 2).is_some());
        let _six = places.take(peer("2001:db8::1"), 1).expect("a place");
        assert!(places.take(peer("2001:db8::2"), 1).is_none(), "the same host");
        assert!(places.take(peer("2001:db8:0:1::1"), 1).is_some());
        assert_eq!(places.0.lock().expect("no panic").len(), 2, "nothing is kept for those without connections");
    }
}
