//! The checks before a request: proxies that report the caller, the number of connections of one peer, and browsers.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::raw::Wire;
use crate::support::{Gateway, Setup, eventually, folder, kill, pageview};

const CALLER: &str = "203.0.113.5";
/// A PROXY header of version 2 for the proxy itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A gateway that identifies the application `caller` by the network of [`CALLER`], and no caller on this machine.
async fn knowing_the_caller(setup: Setup) -> Gateway {
    let gateway = setup.start().await;
    // The probe shows when the changes are in force, since without a report of a proxy no caller is identified.
    gateway.sql(&format!(
        "begin;
         delete from applications;
         insert into applications (name, networks, known_by) values ('caller', '{{{CALLER}/32}}', 'network');
         insert into applications (name, token_digests, known_by, scopes)
         values ('probe', array[sha256('eye_probe')], 'token', '{{read}}');
         commit"
    ));
    eventually("the caller is known and nobody else", async || {
        let probe = gateway.request("GET", "/v1/validators").bearer_auth("eye_probe");
        (gateway.answer(probe).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(gateway.get("/v1/applications").await.status, 401);
    gateway
}

async fn told_in_the_log(gateway: &Gateway, words: &str) {
    eventually(words, async || gateway.log().contains(words).then_some(())).await;
}

async fn status(gateway: &Gateway, headers: &[(&str, &str)]) -> u16 {
    Wire::connect(gateway.address()).await.send_event(&pageview(), headers).await
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed_who_calls() {
    let open = knowing_the_caller(Setup::default()).await;
    assert_eq!(status(&open, &[("x-forwarded-for", CALLER)]).await, 401, "no proxy is trusted");
    drop(open);
    let proxied = knowing_the_caller(Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8")).await;
    for (headers, expected) in [
        (&[("x-forwarded-for", "1.2.3.4, 203.0.113.5")][..], 201),
        (&[("x-forwarded-for", "203.0.113.5, 10.1.1.1")], 201),
        (&[("x-forwarded-for", "::ffff:203.0.113.5")], 201),
        (&[("x-forwarded-for", "203.0.113.5"), ("x-forwarded-for", "10.0.0.9")], 201),
        (&[("x-forwarded-for", "203.0.113.5, 1.2.3.4")], 401),
        (&[("x-forwarded-for", "203.0.113.5, unknown")], 401),
        (&[("x-forwarded-for", "127.0.0.1")], 401),
        (&[("x-forwarded-for", "::1")], 401),
        (&[("forwarded", "for=203.0.113.5")], 401),
        (&[], 401),
    ] {
        assert_eq!(status(&proxied, headers).await, expected, "{headers:?}");
    }
    drop(proxied);
    let setup = Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32").with("EYE_FORWARDED_HEADER", "forwarded");
    let forwarded = knowing_the_caller(setup).await;
    assert_eq!(status(&forwarded, &[("forwarded", "for=1.2.3.4, for=\"203.0.113.5:4711\";proto=https")]).await, 201);
    assert_eq!(status(&forwarded, &[("x-forwarded-for", CALLER)]).await, 401);
}

#[tokio::test]
async fn a_proxy_header_tells_who_calls_and_must_be_there() {
    let setup = Setup::default().with("EYE_PROXY_PROTOCOL", "required").with("EYE_TRUSTED_PROXIES", "127.0.0.1/32");
    let gateway = setup.with("EYE_HEADER_READ_MS", 300).listen().await;
    let head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let told = async |header: &[u8]| {
        let mut wire = Wire::connect(gateway.address()).await;
        wire.write(&[header, head].concat()).await;
        wire.rest().await
    };
    let version_2 =
        [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 5, 10, 0, 0, 1, 18, 103, 0, 80]].concat();
    for header in [&b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n"[..], b"PROXY UNKNOWN\r\n", LOCAL, &version_2] {
        assert!(told(header).await.starts_with("HTTP/1.1 200"), "{header:?}");
    }
    let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    for header in [&b""[..], b"PROXY TCP4 nobody 10.0.0.1 4711 80\r\n", &long] {
        assert_eq!(told(header).await, "", "{header:?}");
    }
    let mut silent = Wire::connect(gateway.address()).await;
    assert!(silent.write(b"PROXY TCP4 203.").await);
    assert_eq!(silent.rest().await, "", "half a header is not waited for for ever");
    told_in_the_log(&gateway, "proxy_header").await;
    drop(gateway);
    let setup = Setup::default().with("EYE_PROXY_PROTOCOL", "required").with("EYE_TRUSTED_PROXIES", "10.0.0.0/8");
    let mut wire = Wire::connect(setup.listen().await.address()).await;
    wire.write(&[b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n".as_slice(), head].concat()).await;
    assert_eq!(wire.rest().await, "", "a header of somebody who is no trusted proxy");
}

#[tokio::test]
async fn the_caller_of_a_proxy_header_is_the_one_that_is_known() {
    let setup = Setup::default().with("EYE_PROXY_PROTOCOL", "required").with("EYE_TRUSTED_PROXIES", "127.0.0.1/32");
    let gateway = setup.listen().await;
    let begun = async |header: &[u8]| {
        let mut wire = Wire::connect(gateway.address()).await;
        wire.write(header).await;
        wire
    };
    let announced = async |address: &str| {
        let header = format!("PROXY TCP4 {address} 10.0.0.1 4711 80\r\n");
        begun(header.as_bytes()).await.send_event(&pageview(), &[]).await
    };
    eventually("the gateway is ready", async || {
        let mut check = begun(LOCAL).await;
        check.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        (check.answer().await?.status == 200).then_some(())
    })
    .await;
    assert_eq!(announced(CALLER).await, 401, "the proxy's own address says nothing of its callers");
    gateway.sql(&format!(
        "insert into applications (name, networks, known_by) values ('caller', '{{{CALLER}/32}}', 'network')"
    ));
    eventually("the caller is known", async || (announced(CALLER).await == 201).then_some(())).await;
    for here in ["127.0.0.1", "127.0.0.2"] {
        assert_eq!(announced(here).await, 401, "what is told of this machine makes nobody `local`");
    }
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut wire = begun(header).await;
        assert_eq!(wire.send_event(&pageview(), &[("x-forwarded-for", CALLER)]).await, 401, "{header:?}");
        let mut check = begun(header).await;
        check.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert_eq!(check.answer().await.expect("an answer").status, 200, "a check of the proxy's own");
    }
}

#[tokio::test]
async fn a_proxy_on_this_machine_that_nobody_named_makes_nobody_local() {
    let gateway = Gateway::start().await;
    gateway.sql(
        "insert into applications (name, token_digests, networks, known_by) values
         ('token', array[sha256('eye_token')], '{}', 'token'),
         ('both', array[sha256('eye_both')], '{127.0.0.0/8}', 'both')",
    );
    let sent = async |headers: &[(&str, &str)]| {
        let mut wire = Wire::connect(gateway.address()).await;
        let told = wire.post("/v1/events", headers, &pageview().to_string()).await.expect("an answer");
        let body: serde_json::Value = serde_json::from_str(&told.body).expect("JSON");
        (told.status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let stored = (201, String::new());
    let (token, both) = (("authorization", "Bearer eye_token"), ("authorization", "Bearer eye_both"));
    eventually("both are known", async || (sent(&[both]).await == stored).then_some(())).await;
    assert_eq!(sent(&[]).await, stored);
    for header in [
        ("x-forwarded-for", CALLER),
        ("X-Forwarded-For", "127.0.0.1"),
        ("forwarded", "for=203.0.113.5"),
        ("via", "1.1 proxy"),
        ("x-real-ip", CALLER),
    ] {
        let refused = (401, "unnamed_proxy".to_owned());
        assert_eq!(sent(&[header]).await, refused, "{header:?}");
        assert_eq!(sent(&[header, both]).await, refused, "{header:?}: its network is not proved");
        assert_eq!(sent(&[header, token]).await, stored, "{header:?}: a token decides alone");
    }
    let read = gateway.answer(gateway.request("GET", "/v1/applications").header("via", "1.1 proxy")).await;
    assert_eq!((read.status, read.headers["www-authenticate"].to_str().ok()), (401, Some("Bearer")));
    assert!(read.json()["detail"].as_str().expect("text").contains("`trusted_proxies`"), "{read:?}");
    let known = gateway.get("/v1/applications").await.json()["applications"].clone();
    let local = known.as_array().expect("a list").iter().find(|one| one["name"] == "local").expect("it").clone();
    assert_eq!(local["refused"]["unnamed_proxy"], 6);
    told_in_the_log(&gateway, "unnamed_proxy").await;
}

#[tokio::test]
async fn one_peer_cannot_take_all_connections() {
    let gateway = Setup::default().with("EYE_CONNECTIONS_PER_PEER_MAX", 3).start().await;
    let mut wires = Vec::new();
    // The client that waited for readiness may still have a connection.
    for _ in 0..4 {
        wires.push(Wire::connect(gateway.address()).await);
    }
    assert_eq!(wires[3].rest().await, "", "the connection beyond the limit is closed");
    drop(wires);
    eventually("places come back", async || {
        let mut wire = Wire::connect(gateway.address()).await;
        wire.post("/v1/events", &[], &pageview().to_string()).await.filter(|told| told.status == 201)
    })
    .await;
    told_in_the_log(&gateway, "too_many_from_peer").await;
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send() {
    const SHOP: &str = "https://shop.example";
    let gateway = Setup::default().with("EYE_CORS_ORIGINS", SHOP).start().await;
    let preflight = async |origin: &str| {
        let request = gateway.request("OPTIONS", "/v1/events").header("origin", origin);
        gateway.answer(request.header("access-control-request-method", "POST")).await
    };
    let allowed = preflight(SHOP).await;
    assert_eq!((allowed.status, &allowed.headers["access-control-allow-origin"]), (204, &SHOP.parse().unwrap()));
    assert!(allowed.headers["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    let refused = preflight("https://evil.example").await;
    assert_eq!((refused.status, refused.headers.get("access-control-allow-origin")), (405, None));
    let beacon = async |origin: &str| {
        let request = gateway.request("POST", "/v1/events").header("content-type", "text/plain;charset=UTF-8");
        gateway.answer(request.header("origin", origin).body(pageview().to_string())).await
    };
    let sent = beacon(SHOP).await;
    assert_eq!((sent.status, &sent.headers["access-control-allow-origin"]), (201, &SHOP.parse().unwrap()));
    assert_eq!(sent.headers["vary"], "origin");
    let other = beacon("https://evil.example").await;
    assert_eq!((other.status, other.headers.get("access-control-allow-origin")), (403, None));
    assert_eq!(other.json()["code"], "foreign_origin");
    let admin = gateway.request("GET", "/v1/applications").header("origin", SHOP);
    assert_eq!(gateway.answer(admin).await.headers.get("access-control-allow-origin"), None, "sending is all they may");
    let admin = gateway.request("POST", "/v1/applications").header("origin", SHOP).body("{}");
    assert_eq!(gateway.answer(admin.header("content-type", "application/json")).await.status, 403);
    drop(gateway);
    let off = Gateway::start().await;
    let sent = off.answer(off.request("GET", "/healthz").header("origin", SHOP)).await;
    assert_eq!((sent.status, sent.headers.get("access-control-allow-origin")), (200, None), "off by default");
}

#[tokio::test]
async fn no_page_can_use_a_browser_on_this_machine() {
    let gateway = Gateway::start().await;
    let post = async |path: &str, headers: &[(&str, &str)]| {
        let mut wire = Wire::connect(gateway.address()).await;
        let told = wire.post(path, headers, r#"{"name": "intruder"}"#).await.expect("an answer");
        let problem: serde_json::Value = serde_json::from_str(&told.body).expect("JSON");
        (told.status, problem["code"].as_str().unwrap_or_default().to_owned())
    };
    let evil = ("origin", "https://evil.example");
    let plain = ("content-type", "text/plain");
    for path in [
        "/v1/applications",
        "/v1/applications/local/revoke",
        "/v1/applications/local/rotate",
        "/v1/dead-letters/redrive",
    ] {
        for headers in [&[evil][..], &[evil, plain], &[("sec-fetch-site", "cross-site"), plain], &[("origin", "null")]]
        {
            assert_eq!(post(path, headers).await, (403, "foreign_origin".to_owned()), "{path} {headers:?}");
        }
    }
    assert_eq!(post("/v1/events", &[plain]).await, (415, "wrong_type".to_owned()));
    for path in ["/v1/applications", "/v1/settings/reload"] {
        assert_eq!(post(path, &[]).await, (403, "not_allowed".to_owned()), "{path}");
    }
    // A name that resolves to this machine.
    let rebound = ("host", "evil.example:8000");
    for path in ["/v1/applications", "/v1/events", "/v1/dead-letters/redrive"] {
        let headers = [rebound, ("origin", "http://evil.example:8000")];
        assert_eq!(post(path, &headers).await, (403, "foreign_host".to_owned()), "{path}");
    }
    let read = gateway.request("GET", "/v1/events").header("host", "evil.example:8000");
    assert_eq!(gateway.answer(read).await.json()["code"], "foreign_host");
    let names = gateway.sql("select name, active from applications order by id");
    assert_eq!(names, "local|t\nadmin.token|t", "nothing has changed");
    // The gateway's own pages may do what this machine may do.
    let own = format!("http://{}", gateway.address());
    let headers = [("host", gateway.address()), ("origin", &own), ("sec-fetch-site", "same-origin")];
    assert_eq!(post("/v1/events", &headers).await, (422, "envelope".to_owned()));
}

#[tokio::test]
async fn who_is_known_by_where_it_is_must_ask_for_a_name_of_the_gateway() {
    let named = Setup::default().with("EYE_HOSTS", "eye.example, gate").with("EYE_TRUSTED_PROXIES", "127.0.0.1/32");
    let sent = async |gateway: &Gateway, host: &str, more: &[(&str, &str)]| {
        let headers = [&[("host", host), ("x-forwarded-for", CALLER)][..], more].concat();
        status(gateway, &headers).await
    };
    let gateway = knowing_the_caller(named).await;
    gateway.sql("update applications set scopes = '{ingest}' where name = 'probe'");
    for host in ["eye.example", "EYE.example:8000", "gate", "localhost:8000", "127.0.0.1", "[::1]:8000", CALLER] {
        assert_eq!(sent(&gateway, host, &[]).await, 201, "{host}");
    }
    let probe = ("authorization", "Bearer eye_probe");
    eventually("the token may send", async || (sent(&gateway, "gate", &[probe]).await == 201).then_some(())).await;
    for host in ["evil.example", "evil.eye.example", "eye.example.evil.example:8000", "gate.example"] {
        assert_eq!(sent(&gateway, host, &[]).await, 403, "{host}");
        assert_eq!(sent(&gateway, host, &[probe]).await, 201, "{host}: no page has the token");
    }
    let rebound = [("host", "evil.example:8000"), ("origin", "http://evil.example:8000"), ("x-forwarded-for", CALLER)];
    let mut wire = Wire::connect(gateway.address()).await;
    let told = wire.post("/v1/events", &rebound, &pageview().to_string()).await.expect("an answer");
    assert!(told.status == 403 && told.body.contains("foreign_host"), "{told:?}");
    drop(gateway);
    let unnamed = knowing_the_caller(Setup::default().with("EYE_TRUSTED_PROXIES", "127.0.0.1/32")).await;
    assert_eq!(sent(&unnamed, "evil.example", &[]).await, 201, "nobody said what the gateway is called");
}

#[tokio::test]
async fn no_more_connections_than_may_be_are_served_at_once() {
    let gateway = Setup::default().with("EYE_CONNECTIONS_MAX", 3).start().await;
    let alive = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut wires = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(gateway.address()).await;
        wire.write(alive).await;
        wires.push(wire);
    }
    let full = eventually("no more are taken", async || {
        let figures = gateway.figures().await;
        figures.value("eye_connections_full_total", &[]).filter(|full| *full > 0.0).map(|_| figures)
    })
    .await;
    assert_eq!(full.value("eye_connections", &[]), Some(3.0));
    // Each is answered as soon as another one has gone, since waiting connections are not refused.
    for mut wire in wires {
        let told = wire.answer().await.expect("its turn came");
        assert_eq!(told.status, 200);
    }
}

#[tokio::test]
async fn who_listens_beyond_this_machine_without_tls_is_warned() {
    let told = async |address: &str| {
        let folder = folder();
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(["serve", "--listen", address, "--data-dir"]).arg(folder.path().join("data"));
        // The check needs no database, and there is none.
        command.args(["--database-url", "postgres://nobody@127.0.0.1:1/nothing", "--modules"]).arg(folder.path());
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the built program");
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let lines: Vec<String> = lines.take_while(|line| !line.contains("the gateway listens")).collect();
        kill(child.id(), "TERM");
        child.wait().expect("it ends");
        lines.iter().any(|line| line.contains("without TLS"))
    };
    assert!(told("0.0.0.0:0").await);
    assert!(!told("127.0.0.1:0").await);
}

#[tokio::test]
async fn an_ipv6_network_is_known_and_so_is_an_ipv4_one_in_its_dress() {
    let gateway = Setup::default().with("EYE_TRUSTED_PROXIES", "::ffff:127.0.0.0/104").start().await;
    gateway.sql(
        "insert into applications (name, networks, known_by) values
         ('six', '{2001:db8:7::/48}', 'network'), ('dressed', '{::ffff:198.51.100.0/120}', 'network')",
    );
    let told = async |address: &str| status(&gateway, &[("x-forwarded-for", address)]).await;
    eventually("both are known", async || (told("2001:db8:7::5").await == 201).then_some(())).await;
    for (address, expected) in [
        ("[2001:db8:7:ffff::1]:4711", 201),
        ("2001:db8:8::5", 401),
        ("198.51.100.9", 201),
        ("::ffff:198.51.100.9", 201),
        ("198.51.101.9", 401),
    ] {
        assert_eq!(told(address).await, expected, "{address}");
    }
    let names =
        gateway.sql("select distinct a.name from events join applications a on a.id = application_id order by 1");
    assert_eq!(names, "dressed\nsix");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refusals_writes_a_line_a_second_of_each_kind() {
    const FLOOD: usize = 400;
    let setup = Setup::default().with("EYE_PROXY_PROTOCOL", "required").with("EYE_TRUSTED_PROXIES", "127.0.0.1/32");
    let gateway = setup.with("EYE_CONNECTIONS_PER_PEER_MAX", 1).listen().await;
    let begun = async |header: &[u8]| {
        let mut wire = Wire::connect(gateway.address()).await;
        wire.write(header).await;
        wire
    };
    let caller = b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n";
    let mut only = begun(caller).await;
    only.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(only.answer().await.expect("an answer").status, 200);
    let start = Instant::now();
    for number in 0..FLOOD {
        assert_eq!(begun(b"GET / HTTP/1.1\r\n\r\n").await.rest().await, "");
        assert_eq!(begun(caller).await.rest().await, "", "one more of the same peer");
        let stranger = format!("PROXY TCP4 198.51.{}.{} 10.0.0.1 4711 80\r\n", number / 200, number % 200);
        let token = [("authorization", "Bearer eye_unknown")];
        let told = begun(stranger.as_bytes()).await.post("/v1/events", &token, "{}").await.expect("an answer");
        // Before the database answers, no caller can be identified.
        assert!([401, 503].contains(&told.status), "{told:?}");
    }
    let most = start.elapsed().as_secs() as usize + 2;
    let log = gateway.log();
    for class in ["proxy_header", "too_many_from_peer", "unknown_token"] {
        let lines = log.lines().filter(|line| line.contains(class)).count();
        assert!((1..=most).contains(&lines), "{lines} lines of {class}, {most} at most");
    }
    assert!(log.lines().count() < 3 * most + 100, "and nothing else fills the log: {} lines", log.lines().count());
}
