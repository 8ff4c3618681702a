//! What stands before a connection speaks HTTP: how many each network may have, whom the PROXY protocol is believed, TLS;
//! and the counts of those who did not get in.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::log_limit::LogLimit;
use crate::tls::Tls;

/// Why a connection did not get in, or was ended for what came on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Its network has as many as it may have.
    TooMany,
    /// No PROXY header where one must be, or from somebody who may not send one, or too late.
    ProxyHeader,
    /// No TLS handshake, or too late.
    Handshake,
    /// More HTTP/2 frames beside its requests than anybody needs.
    Frames,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TooMany, Self::ProxyHeader, Self::Handshake, Self::Frames];

    /// The stable word, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooMany => "too_many_from_peer",
            Self::ProxyHeader => "proxy_header",
            Self::Handshake => "tls_handshake",
            Self::Frames => "http2_frames",
        }
    }
}

/// What every new connection passes.
#[derive(Debug, Default)]
pub struct Admission {
    /// TLS, if the listener speaks it.
    pub tls: Option<Arc<Tls>>,
    /// Whether each connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// The proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The connections of each network.
    pub places: Places,
    refused: [AtomicU64; Class::ALL.len()],
    gates: [LogLimit; Class::ALL.len()],
}

impl Admission {
    /// With TLS or without, with a PROXY header before each connection or not, and with the proxies that are believed.
    pub fn new(tls: Option<Arc<Tls>>, proxy_protocol: bool, trusted_proxies: Vec<IpNet>) -> Self {
        Self { tls, proxy_protocol, trusted_proxies, ..Self::default() }
    }

    /// How many connections were refused for this.
    pub fn refused(&self, class: Class) -> u64 {
        self.refused[class as usize].load(Ordering::Relaxed)
    }

    /// Counts a connection that does not get in, and tells of it once a second.
    pub(super) fn refuse<T>(&self, class: Class, peer: SocketAddr) -> Option<T> {
        self.refused[class as usize].fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.gates[class as usize].open() {
            tracing::warn!(class = class.as_str(), %peer, more, "a connection was refused");
        }
        None
    }

    /// Whether the peer is a proxy that was named; only those are believed.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

/// How many connections each peer has: an IPv4 address, or an IPv6 network of 64 bits, which is what one host is given.
#[derive(Debug, Default)]
pub struct Places(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that is counted for its peer until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Places {
    /// A place, unless the peer has as many as it may have.
    pub(super) fn take(&self, peer: IpAddr, most: usize) -> Option<Place> {
        let peer = match peer.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
            address => address,
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Entries are as many as connections at most: those of peers without any are taken out.
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
