//! Checks the origins of pages. An origin that is not written as browsers send it would match no request, and no
//! message would say so.

use std::net::Ipv6Addr;

/// Says why no browser sends `text` as an origin; `None` if one may.
pub(super) fn problem(text: &str) -> Option<String> {
    let told = |why: &str| Some(format!("{text:?} is no origin that a browser sends: {why}"));
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        _ => return told("it must begin with https:// or http://"),
    };
    if rest.contains(['/', '?', '#']) {
        return told("leave out what comes after the host, also a slash");
    }
    if rest.contains('@') {
        return told("leave out the user");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    match (scheme, port) {
        ("https", Some("443")) | ("http", Some("80")) => return told("leave out the port, which is the scheme's own"),
        (_, Some(port)) => {
            let number = port.parse::<u16>().ok().filter(|number| *number > 0 && number.to_string() == port);
            if number.is_none() {
                return told("its port must be a number from 1 to 65535");
            }
        }
        (_, None) => {}
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok_and(|address| address.to_string() == bare),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    if !fits {
        return told("after the scheme there must be a host name (beyond ASCII in its xn-- form) or an address");
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return told("write it in small letters");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_an_origin() {
        for origin in [
            "https://shop.example",
            "http://localhost:3000",
            "https://shop.example:8443",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "https://xn--bcher-kva.example",
            "http://shop.example:443",
        ] {
            assert_eq!(problem(origin), None, "{origin}");
        }
        for (origin, words) in [
            ("https://shop.example:443", "leave out the port"),
            ("http://shop.example:80", "leave out the port"),
            ("https://shop.example/", "also a slash"),
            ("https://shop.example/cart", "after the host"),
            ("https://shop.example?x", "after the host"),
            ("https://Shop.example", "small letters"),
            ("https://u@shop.example", "the user"),
            ("https://shop.example:0", "from 1 to 65535"),
            ("https://shop.example:99999", "from 1 to 65535"),
            ("https://shop.example:08443", "from 1 to 65535"),
            ("https://bücher.example", "xn--"),
            ("https://[0:0::1]", "an address"),
            ("https://", "a host name"),
            ("https://*.shop.example", "a host name"),
            ("shop.example", "must begin"),
            ("HTTPS://shop.example", "must begin"),
            ("*", "must begin"),
            ("null", "must begin"),
        ] {
            assert!(problem(origin).is_some_and(|problem| problem.contains(words)), "{origin}: {:?}", problem(origin));
        }
    }
}
