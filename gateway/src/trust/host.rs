//! Checks the host that a request names. It only compares texts.

use std::net::IpAddr;

/// A host without its port, and without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name)
}

/// The port of a host, if it names one.
pub fn port(host: &str) -> Option<&str> {
    let (_, port) = host.rsplit_once(':')?;
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    is_port.then_some(port)
}

/// Whether a host can only be this machine.
pub fn is_loopback(host: &str) -> bool {
    let name = bare(host);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether a host is `localhost` or an address, which cannot be the name of another site, or one of `names`. A request
/// without a host is not from a browser, and passes.
pub fn only_ours(host: Option<&str>, names: &[String]) -> bool {
    let Some(host) = host else { return true };
    let name = bare(host);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok()
        || names.iter().any(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn only_loopback_names_are_this_machine_and_no_other() {
        for host in
            ["localhost", "LocalHost:8000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", ":80", "10.1.2.3", "0.0.0.0", "[::]", "eye", "upstream", "localhost.evil.example", "127.0.0.1.nip.io"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
