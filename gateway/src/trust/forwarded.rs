//! Finds the caller's address behind proxies, from the header of trusted proxies. It reads the header from the right,
//! since only its right end is written by these proxies; the rest is written by their callers.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Most hops. A longer chain is not real, and is not trusted.
const HOPS_MAX: usize = 32;

/// The header in which the trusted proxies report the caller's address. It is a single one, since a proxy that writes
/// one of them passes the other on as the caller wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Told {
    /// The header's name.
    pub fn header(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

/// The caller's address: the nearest hop that is no trusted proxy. `None` if the last trusted proxy names no caller, so
/// that the proxy is not taken for the caller. `None` also for a loopback address: on the proxy's machine any program
/// may call for others, and on ours it would identify the caller as local.
pub fn caller<'a>(
    peer: IpAddr,
    told: Told,
    values: impl DoubleEndedIterator<Item = &'a [u8]>,
    trusted: &[IpNet],
) -> Option<IpAddr> {
    let is_proxy = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let mut told_here = false;
    for (hops, element) in values.rev().flat_map(elements).enumerate() {
        if !is_proxy(&address) {
            break;
        }
        if hops == HOPS_MAX {
            return None;
        }
        let node = match told {
            Told::XForwardedFor => element,
            Told::Forwarded => node_of(element)?,
        };
        address = read_node(node)?.to_canonical();
        told_here = address.is_loopback();
    }
    (!is_proxy(&address) && !told_here).then_some(address)
}

/// The elements of a list, the last one first. Quotes are matched from the right as well, so that an open quote of the
/// caller cannot hide the element of the proxy.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let parts = value.rsplit(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b',' && !quoted
    });
    parts.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// The `for` of an element of `Forwarded`, if it has exactly one.
fn node_of(element: &[u8]) -> Option<&[u8]> {
    if element.contains(&b'\\') {
        return None;
    }
    let mut quoted = false;
    let pairs = element.split(move |byte| {
        quoted ^= *byte == b'"';
        *byte == b';' && !quoted
    });
    let mut nodes = pairs.filter_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    });
    let node = nodes.next()?;
    if nodes.next().is_some() {
        return None;
    }
    match node.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\""),
        None => Some(node),
    }
}

/// Parses an address, with or without a port, and IPv6 with or without brackets.
fn read_node(node: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(node).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address.ip());
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted() -> Vec<IpNet> {
        ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network")).to_vec()
    }

    fn told(peer: &str, told: Told, values: &[&str]) -> Option<String> {
        let peer = peer.parse().expect("an address");
        caller(peer, told, values.iter().map(|value| value.as_bytes()), &trusted()).map(|address| address.to_string())
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        use Told::XForwardedFor as X;
        for (peer, values, expected) in [
            ("203.0.113.5", &["1.2.3.4"][..], Some("203.0.113.5")),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.5"], Some("203.0.113.5")),
            ("10.0.0.1", &["1.2.3.4, 203.0.113.5, 10.2.2.2"], Some("203.0.113.5")),
            ("10.0.0.1", &["1.2.3.4", "203.0.113.5:4711"], Some("203.0.113.5")),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.5"], Some("203.0.113.5")),
            ("fd00::1", &["[2001:db8::1]:80"], Some("2001:db8::1")),
            ("10.0.0.1", &[], None),
            ("10.0.0.1", &["10.0.0.9"], None),
            ("203.0.113.5", &[], Some("203.0.113.5")),
            ("10.0.0.1", &["1.2.3.4, unknown"], None),
            ("10.0.0.1", &["1.2.3.4, ,"], Some("1.2.3.4")),
            ("10.0.0.1", &["127.0.0.1"], None),
            ("10.0.0.1", &["203.0.113.5, ::1"], None),
            ("10.0.0.1", &["127.0.0.1, 203.0.113.5"], Some("203.0.113.5")),
            ("127.0.0.1", &["203.0.113.5"], Some("127.0.0.1")),
        ] {
            assert_eq!(told(peer, X, values).as_deref(), expected, "{peer} {values:?}");
        }
        let many = vec!["10.1.1.1"; 40].join(",");
        assert_eq!(told("10.0.0.1", X, &[&many]), None);
    }

    #[test]
    fn forwarded_elements_are_read_from_the_right() {
        use Told::Forwarded as F;
        for (value, expected) in [
            ("for=1.2.3.4, for=203.0.113.5;proto=https;by=10.0.0.1", Some("203.0.113.5")),
            ("For=\"[2001:db8::1]:4711\"", Some("2001:db8::1")),
            ("for=\"1.2.3.4, for=203.0.113.5", Some("203.0.113.5")),
            ("proto=\"a,b;for=6.6.6.6\";for=203.0.113.5", Some("203.0.113.5")),
            ("for=_hidden", None),
            ("for=unknown", None),
            ("proto=https", None),
            ("for=1.1.1.1;for=2.2.2.2", None),
            ("for=\"1.1.1.1\\\"\"", None),
        ] {
            assert_eq!(told("10.0.0.1", F, &[value]).as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_a_caller_writes_never_changes_what_a_proxy_adds(lie in ".{0,80}") {
            for (kind, added) in [(Told::XForwardedFor, "203.0.113.5"), (Told::Forwarded, "for=203.0.113.5")] {
                let value = format!("{lie},{added}");
                prop_assert_eq!(told("10.0.0.1", kind, &[&value]), Some("203.0.113.5".to_owned()));
                prop_assert_eq!(told("10.0.0.1", kind, &[&lie, added]), Some("203.0.113.5".to_owned()));
                prop_assert_eq!(told("203.0.113.9", kind, &[&lie]), Some("203.0.113.9".to_owned()));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let peer = "10.0.0.1".parse().expect("an address");
            for kind in [Told::XForwardedFor, Told::Forwarded] {
                caller(peer, kind, [bytes.as_slice()].into_iter(), &trusted());
            }
        }
    }
}
