//! Checks rules of HTTP that hyper does not check: exactly one host, and no transfer coding but chunked. A proxy in
//! front that reads such a request differently would send it elsewhere, or take a part of the body for another request.

use std::net::Ipv6Addr;

use hyper::header::{HOST, TRANSFER_ENCODING};
use hyper::{Request, Version};

use crate::response::Refusal;

/// Refuses a request with no host or several, or with an unknown transfer coding.
///
/// # Errors
///
/// [`Refusal::BadHost`], [`Refusal::WrongTransferEncoding`].
pub(crate) fn prove<B>(request: &Request<B>) -> Result<(), Refusal> {
    let bad = |found| Err(Refusal::BadHost { found });
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = request.headers().get_all(HOST).iter().map(|host| host.as_bytes());
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return bad("has more than one `Host`");
    }
    match (request.version(), target, host) {
        (Version::HTTP_11, _, None) => return bad("has no `Host`"),
        (Version::HTTP_2, None, None) => return bad("has neither `:authority` nor `Host`"),
        (Version::HTTP_2, Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => {
            return bad("has a `Host` that is not its `:authority`");
        }
        _ => {}
    }
    if !target.into_iter().chain(host).all(is_host) {
        return bad("names a host that is no name or address, with or without a port");
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (first, second) => {
            let found: Vec<_> = [first, second].into_iter().flatten().chain(codings).collect();
            let found = found.iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>();
            Err(Refusal::WrongTransferEncoding { found: found.join(", ") })
        }
    }
}

/// Whether a text is a name, an IPv4 address or an IPv6 address in brackets, with or without a port.
fn is_host(text: &[u8]) -> bool {
    let (name, port) = match text.iter().rposition(|byte| *byte == b':') {
        Some(colon) if text.last() != Some(&b']') => (&text[..colon], &text[colon + 1..]),
        _ => (text, &b""[..]),
    };
    let digits = || std::str::from_utf8(port).ok().filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let is_port = port.is_empty() || digits().is_some_and(|port| port.parse::<u16>().is_ok());
    let inside = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]"));
    let is_name = match inside {
        Some(inside) => std::str::from_utf8(inside).is_ok_and(|inside| inside.parse::<Ipv6Addr>().is_ok()),
        None => !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)),
    };
    is_name && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_may_have_a_port() {
        for host in ["localhost", "a", "eye.example", "Eye_1.example:8000", "10.1.2.3:80", "[::1]", "[::1]:65535", "h:"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "a,b",
            "a/b",
            "http://a",
            "u@a",
            "a:80:80",
            "::1",
            "[::1",
            "[x]:80",
            "a:65536",
            "a:x",
            "a:+1",
            "ü.example",
            "a\u{0}",
            "[::1]x",
            "a?b",
            "a#b",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn one_host_is_asked_for_as_each_version_has_it() {
        let fits = |version, target: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header("host", *host);
            }
            prove(&request.body(()).expect("a request")).is_ok()
        };
        for (version, target, hosts, expected) in [
            (Version::HTTP_10, "/", &[][..], true),
            (Version::HTTP_10, "/", &["a", "a"], false),
            (Version::HTTP_11, "/", &[], false),
            (Version::HTTP_11, "/", &["a"], true),
            (Version::HTTP_11, "/", &["a", "a"], false),
            (Version::HTTP_11, "http://b/", &["a"], true),
            (Version::HTTP_11, "http://b/", &[], false),
            (Version::HTTP_11, "http://u@b/", &["a"], false),
            (Version::HTTP_2, "http://a/", &[], true),
            (Version::HTTP_2, "http://a/", &["A"], true),
            (Version::HTTP_2, "http://a/", &["b"], false),
            (Version::HTTP_2, "/", &["a"], true),
            (Version::HTTP_2, "/", &[], false),
        ] {
            assert_eq!(fits(version, target, hosts), expected, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn only_chunks_alone_are_read() {
        let fits = |codings: &[&str]| {
            let mut request = Request::builder().header("host", "a");
            for coding in codings {
                request = request.header("transfer-encoding", *coding);
            }
            prove(&request.body(()).expect("a request")).is_ok()
        };
        for codings in [&[][..], &["chunked"], &["Chunked"]] {
            assert!(fits(codings), "{codings:?}");
        }
        for codings in [
            &["gzip, chunked"][..],
            &["gzip", "chunked"],
            &["chunked", "chunked"],
            &["identity"],
            &["chunked;q=1"],
            &[""],
        ] {
            assert!(!fits(codings), "{codings:?}");
        }
    }
}
