//! `Forwarded` and `X-Forwarded-For`: a peer that is no proxy is believed nothing, and whoever is said to call by a proxy
//! is named by what the proxy itself wrote last, whatever the caller wrote before it.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use eye::trust::forwarded::{Told, caller};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fuzz_target!(|values: Vec<Vec<u8>>| {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network"), "fd00::/8".parse().expect("a network")];
    let values = || values.iter().map(Vec::as_slice);
    for (told, written) in [(Told::XForwardedFor, &b"203.0.113.7"[..]), (Told::Forwarded, b"for=203.0.113.7;proto=https")]
    {
        assert_eq!(caller(STRANGER, told, values(), &trusted), Some(STRANGER), "a stranger is believed nothing");
        if let Some(found) = caller(PROXY, told, values(), &trusted) {
            assert_eq!(found, found.to_canonical());
        }
        // As a line of its own, and at the end of the last line, as proxies do it.
        let own_line = values().chain([written]);
        assert_eq!(caller(PROXY, told, own_line.collect::<Vec<_>>().into_iter(), &trusted), Some(STRANGER));
        let last: Vec<u8> = [values().next_back().unwrap_or_default(), b", ", written].concat();
        assert_eq!(caller(PROXY, told, [&last[..]].into_iter(), &trusted), Some(STRANGER));
    }
});
