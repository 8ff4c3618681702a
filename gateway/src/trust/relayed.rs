//! Signs that a proxy relayed a request. A proxy on the gateway's own machine may call for anybody, so a caller that is
//! identified by this machine's address must show none of these signs. It only compares names of headers.

/// Headers that clients send by themselves. They are checked first, since every request has some.
const PLAIN: [&str; 14] = [
    "host",
    "user-agent",
    "accept",
    "content-type",
    "content-length",
    "accept-encoding",
    "connection",
    "content-encoding",
    "accept-language",
    "origin",
    "referer",
    "transfer-encoding",
    "expect",
    "x-request-id",
];

/// Words in the names of proxies' headers and of no others: `forwarded`, `x-forwarded-for`, `forwarded-for`,
/// `max-forwards`, `wl-proxy-client-ip`, `proxy-connection`, `x-proxyuser-ip`.
const WORDS: [&str; 4] = ["forward", "proxy", "clientip", "socketip"];

/// Ends of such names. The header then has the address of another machine: `x-real-ip`, `true-client-ip`,
/// `cf-connecting-ipv6`, `x-remote-addr`.
const ENDS: [&str; 4] = ["-ip", "-ipv4", "-ipv6", "-addr"];

/// Beginnings of the headers that proxies, balancers, meshes and services before a gateway add.
const STARTS: [&str; 46] = [
    "via",
    "x-via",
    "x-real-",
    "x-remote-",
    "remote-",
    "x-original-",
    "x-originating-",
    "x-rewrite-",
    "x-envoy-",
    "x-cluster-",
    "x-client-cert",
    "x-client-port",
    "x-client-proto",
    "x-client-verify",
    "x-client-dn",
    "x-ssl-",
    "ssl-client-",
    "x-scheme",
    "x-url-scheme",
    "x-host",
    "x-port",
    "front-end-",
    "x-request-start",
    "x-queue-start",
    "x-auth-request-",
    "cf-",
    "cdn-",
    "fastly-",
    "fly-",
    "x-akamai-",
    "akamai-",
    "cloudfront-",
    "x-amz-cf-",
    "x-amzn-",
    "x-azure-",
    "x-appengine-",
    "x-cloud-trace-",
    "x-vercel-",
    "x-nf-",
    "x-arr-",
    "x-varnish",
    "x-haproxy-",
    "x-nginx-",
    "x-consumer-",
    "surrogate-",
    "tailscale-",
];

/// Whether proxies add a header of this lower-case name.
pub(super) fn is_sign(name: &str) -> bool {
    !PLAIN.contains(&name)
        && (STARTS.iter().any(|start| name.starts_with(start))
            || ENDS.iter().any(|end| name.ends_with(end))
            || WORDS.iter().any(|word| name.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNS: &[&str] = &[
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-server",
        "x-forwarded-prefix",
        "x-forwarded-client-cert",
        "x-forwarded",
        "forwarded-for",
        "x-real-ip",
        "x-real-port",
        "x-client-ip",
        "client-ip",
        "x-clientip",
        "true-client-ip",
        "cf-connecting-ip",
        "cf-connecting-ipv6",
        "cf-ray",
        "cf-visitor",
        "cdn-loop",
        "x-cluster-client-ip",
        "fastly-client-ip",
        "fastly-ssl",
        "fly-client-ip",
        "fly-forwarded-port",
        "x-envoy-external-address",
        "x-envoy-peer-metadata",
        "x-original-url",
        "x-original-host",
        "x-original-forwarded-for",
        "x-rewrite-url",
        "x-remote-addr",
        "remote-addr",
        "remote-user",
        "x-originating-ip",
        "proxy-connection",
        "wl-proxy-client-ip",
        "x-proxyuser-ip",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-amzn-trace-id",
        "x-amz-cf-id",
        "x-appengine-user-ip",
        "x-cloud-trace-context",
        "x-nf-client-connection-ip",
        "x-vercel-id",
        "x-akamai-edgescape",
        "akamai-origin-hop",
        "x-arr-log-id",
        "x-varnish",
        "front-end-https",
        "x-scheme",
        "surrogate-capability",
        "tailscale-user-login",
    ];

    #[test]
    fn what_front_ends_add_is_a_sign_and_what_clients_send_is_none() {
        for name in SIGNS {
            assert!(is_sign(name), "{name}");
        }
        for name in PLAIN.into_iter().chain([
            "authorization",
            "idempotency-key",
            "traceparent",
            "tracestate",
            "baggage",
            "sec-fetch-site",
            "sec-ch-ua",
            "cache-control",
            "x-client-version",
            "x-api-key",
            "cookie",
            "priority",
            "te",
            "upgrade-insecure-requests",
        ]) {
            assert!(!is_sign(name), "{name}");
        }
    }
}
