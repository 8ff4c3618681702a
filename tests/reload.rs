//! The configuration is read again while the gateway runs: settings that can change do, the others are named, and a
//! configuration with problems changes nothing. Requests, streams and connections keep the settings with which they began.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eye::clock::Clock;
use eye::config::{Kind, SETTINGS, Setting};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::authority::{Authority, BOTH, shake, shown};
use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS};
use crate::support::raw::Wire;
use crate::support::{Answer, Gateway, PATIENCE, SESSION, Setup, event, eventually, folder, module, pageview};

/// A gateway with this configuration file. Returns the gateway and the file.
async fn with_file(text: &str) -> (Gateway, PathBuf) {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, text).expect("the file");
    (Setup::default().with_argument("--config=eye.toml").start_in(folder).await, file)
}

/// Changes the file, and has it read again over HTTP. Returns the answer.
async fn take(gateway: &Gateway, file: &Path, text: &str) -> Value {
    std::fs::write(file, text).expect("the file");
    let answer = gateway.answer(gateway.as_admin(gateway.request("POST", "/v1/settings/reload"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Changes the file, and has it refused. Returns the problems.
async fn refuse(gateway: &Gateway, file: &Path, text: &str) -> Vec<String> {
    std::fs::write(file, text).expect("the file");
    let answer = gateway.answer(gateway.as_admin(gateway.request("POST", "/v1/settings/reload"))).await;
    assert_eq!((answer.status, &answer.json()["code"]), (422, &json!("bad_configuration")), "{answer:?}");
    let problems = answer.json()["problems"].as_array().expect("problems").clone();
    problems.iter().map(|problem| problem.as_str().expect("text").to_owned()).collect()
}

/// Changes the file, and sends a hangup. Returns the line of the log.
async fn hang_up(gateway: &Gateway, file: &Path, text: &str) -> String {
    const WORDS: [&str; 2] = ["the configuration was read again", "the configuration has problems"];
    let lines = || -> Vec<String> {
        let log = gateway.log();
        log.lines().filter(|line| WORDS.iter().any(|words| line.contains(words))).map(str::to_owned).collect()
    };
    let before = lines().len();
    std::fs::write(file, text).expect("the file");
    gateway.signal("HUP");
    eventually("the configuration is read again", async || lines().get(before).cloned()).await
}

async fn said(gateway: &Gateway, words: &str) {
    eventually(words, async || gateway.log().contains(words).then_some(())).await;
}

/// Whether a request has a line of level DEBUG.
async fn is_debug(gateway: &Gateway) -> bool {
    let answer = gateway.send(&event("a", "b", json!({}))).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let id = answer.headers["x-request-id"].to_str().expect("text").to_owned();
    // A later line, which shows that those before it were read.
    let lines = || gateway.log().matches("the configuration").count();
    let before = lines();
    gateway.signal("HUP");
    eventually("the signal is heard", async || (lines() > before).then_some(())).await;
    gateway.log().lines().any(|line| line.contains("the request is answered") && line.contains(&id))
}

/// A token with the scope `admin`.
async fn admin(gateway: &Gateway) -> String {
    let (token, digest) = eye::trust::token::make().expect("a token");
    gateway.sql(&format!(
        "insert into applications (name, token_digests, scopes) values ('operator', array['\\x{digest}'::bytea], '{{admin}}')"
    ));
    eventually("the operator is known", async || {
        let probe = gateway.request("GET", "/v1/validators").bearer_auth(&token);
        (gateway.answer(probe).await.status == 200).then_some(())
    })
    .await;
    token
}

async fn reload(gateway: &Gateway, token: &str) -> Answer {
    gateway.answer(gateway.request("POST", "/v1/settings/reload").bearer_auth(token)).await
}

#[tokio::test]
async fn a_hangup_changes_the_log_level_and_ends_nothing() {
    let (mut gateway, file) = with_file("log_level = \"info\"\n").await;
    assert!(!is_debug(&gateway).await);
    std::fs::write(&file, "log_level = \"debug\"\nwriters = 3\n").expect("the file");
    gateway.signal("HUP");
    said(&gateway, "changed=\"log_level\"").await;
    said(&gateway, "settings=\"writers\"").await;
    assert!(is_debug(&gateway).await);
    std::fs::write(&file, "").expect("the file");
    gateway.signal("HUP");
    eventually("the level is back", async || {
        (gateway.log().matches("changed=\"log_level\"").count() == 2).then_some(())
    })
    .await;
    assert!(!is_debug(&gateway).await);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_access_log_has_its_lines_whatever_the_log_level_is() {
    let (gateway, file) = with_file("access_log = \"all\"\n").await;
    std::fs::write(&file, "access_log = \"all\"\nlog_level = \"warn\"\nwriters = 3\n").expect("the file");
    gateway.signal("HUP");
    said(&gateway, "settings=\"writers\"").await;
    assert!(!gateway.log().contains("the configuration was read again"), "the level is in force");
    let answer = gateway.send(&event("a", "b", json!({}))).await;
    said(&gateway, answer.headers["x-request-id"].to_str().expect("text")).await;
}

#[tokio::test]
async fn a_hangup_with_a_broken_configuration_changes_nothing() {
    let (gateway, file) = with_file("log_level = \"debug\"\n").await;
    std::fs::write(&file, "log_level = \"info\"\nwriters = 0\nnonsense = 1\n").expect("the file");
    assert!(is_debug(&gateway).await, "the level of before stays");
    assert!(is_debug(&gateway).await, "also after the signal");
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("the configuration has problems")).expect("a line");
    for part in ["WARN", "eye.toml:2", "eye.toml:3: nonsense"] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[tokio::test]
async fn an_operator_has_the_configuration_read_again_over_http() {
    let (gateway, file) = with_file("").await;
    let token = admin(&gateway).await;
    let refused = gateway.answer(gateway.request("POST", "/v1/settings/reload")).await;
    assert_eq!(refused.status, 403, "reading is not enough: {refused:?}");
    assert_eq!(refused.json()["scope"], "admin");
    assert_eq!(reload(&gateway, "eye_nobody").await.status, 401);
    let same = reload(&gateway, &token).await.json();
    assert_eq!((&same["changed"], &same["needs_restart"]), (&json!([]), &json!([])), "{same}");

    std::fs::write(&file, "access_log = \"all\"\nlisten = \"127.0.0.1:1\"\nread_ms = 4000\nwriters = 2\n")
        .expect("the file");
    let changed = reload(&gateway, &token).await;
    let body = changed.json();
    // The flag `--listen` of the start overrides the file.
    assert_eq!((&body["changed"], &body["needs_restart"]), (&json!(["access_log"]), &json!(["read_ms"])), "{body}");
    let count = |body: &Value| body["unchanged"].as_u64().expect("a number");
    assert_eq!(count(&body) + 2, count(&same));
    let sent = gateway.send(&event("a", "b", json!({}))).await;
    let id = sent.headers["x-request-id"].to_str().expect("text").to_owned();
    eventually("the access log follows", async || {
        gateway.log().lines().any(|line| line.contains("access") && line.contains(&id)).then_some(())
    })
    .await;

    std::fs::write(&file, "access_log = \"some\"\nlog_level = \"debug\"\n").expect("the file");
    let broken = reload(&gateway, &token).await;
    assert_eq!((broken.status, &broken.json()["code"]), (422, &json!("bad_configuration")), "{broken:?}");
    let problems = broken.json()["problems"].as_array().expect("problems").clone();
    assert!(problems.len() == 1 && problems[0].as_str().is_some_and(|one| one.contains("eye.toml:1: access_log")));
    assert!(!is_debug(&gateway).await, "nothing of it was taken over");
    let surplus = gateway.request("POST", "/v1/settings/reload?dry_run=true").bearer_auth(&token);
    assert_eq!(gateway.answer(surplus).await.status, 400);
}

/// Another text that this setting may have, as the file has it.
fn another(setting: &Setting) -> String {
    let quoted = |text: &str| format!("{text:?}");
    match (setting.key, setting.kind) {
        ("database_url", _) => quoted("postgres://nobody@127.0.0.1:1/nothing"),
        ("role", _) => "\"reader\"\ndatabase_url = \"postgres://nobody@127.0.0.1:1/nothing\"".to_owned(),
        ("admin_token_file", _) => "\"t\"\ndatabase_url = \"postgres://nobody@127.0.0.1:1/nothing\"".to_owned(),
        ("notify_url", _) => "\"https://chat.example\"\nnotify_secret = \"sixteen bytes or more\"".to_owned(),
        (_, Kind::Integer { max, .. }) => {
            let default: u64 = setting.default.parse().expect("a number");
            (if default < max { default + 1 } else { default - 1 }).to_string()
        }
        (_, Kind::OptionalInteger { .. }) => "7".to_owned(),
        (_, Kind::Address | Kind::OptionalAddress) => quoted("127.0.0.1:9"),
        (_, Kind::Path | Kind::OptionalPath) => quoted("elsewhere"),
        (_, Kind::Secret) => quoted("hush"),
        (_, Kind::Networks) => quoted("10.0.0.0/8"),
        (_, Kind::Origins) => quoted("https://shop.example"),
        (_, Kind::Hosts) => quoted("eye.example"),
        (_, Kind::OptionalName) => quoted("another"),
        (_, Kind::EventTypes) => quoted("shop/*"),
        (_, Kind::Switch) => (setting.default != "true").to_string(),
        (_, Kind::Choice(words)) => quoted(words.iter().find(|word| **word != setting.default).expect("another word")),
    }
}

/// Settings that the gateways of these tests get from flags and variables, so that no file changes them.
const GIVEN: [&str; 4] = ["listen", "modules", "data_dir", "drain_delay_ms"];
/// Settings that other tests here change, since a file with nothing else of this kind would be refused, or the next request
/// would be.
const ELSEWHERE: [&str; 5] = ["tls_certificate", "tls_key", "tls_client_ca", "tls_client_auth", "proxy_protocol"];

#[tokio::test]
async fn a_reload_applies_what_its_row_says_and_names_every_other_setting() {
    let (gateway, file) = with_file("").await;
    for setting in SETTINGS.iter().filter(|setting| !ELSEWHERE.contains(&setting.key)) {
        let told = take(&gateway, &file, &format!("{} = {}\n", setting.key, another(setting))).await;
        let names = |list: &str| told[list].as_array().expect("a list").contains(&json!(setting.key));
        let (changed, waits) = (names("changed"), names("needs_restart"));
        if GIVEN.contains(&setting.key) {
            assert!(!changed && !waits, "{}: {told}", setting.key);
        } else {
            assert_eq!((changed, waits), (setting.reload, !setting.reload), "{}: {told}", setting.key);
        }
    }
    let back = take(&gateway, &file, "").await;
    let same = json!({"changed": [], "needs_restart": [], "unchanged": SETTINGS.len()});
    assert_eq!(back, same, "what waited is as it was");
    // Some of these settings take the rights of callers without a token, which come back by the database.
    let goes_on = async || (gateway.send(&pageview()).await.status == 201).then_some(());
    eventually("it goes on", goes_on).await;
}

/// An event with so many bytes of text in its data.
fn sized(bytes: usize) -> Value {
    event("a", "b", json!({"text": "x".repeat(bytes)}))
}

/// Events that keep the defaults and break the low bounds of the next test, each with the setting that refuses it.
fn too_much() -> Vec<(&'static str, String)> {
    let ahead = Clock::default().now_us() + 40_000_000;
    let ahead = chrono::DateTime::from_timestamp_micros(ahead).expect("a time");
    let mut future = pageview();
    future["timestamp"] = json!(ahead.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
    let digits = event("a", "b", json!({"n": 0})).to_string().replace("\"n\":0", &format!("\"n\":1{}", "0".repeat(30)));
    vec![
        ("data_bytes_max", sized(1_000).to_string()),
        ("nesting_max", event("a", "b", json!({"a": {"b": {"c": {}}}})).to_string()),
        ("number_digits_max", digits),
        ("future_seconds_max", future.to_string()),
        ("events_per_request_max", json!([pageview(), pageview(), pageview()]).to_string()),
        ("request_bytes_max", json!([sized(400), sized(400), sized(400), sized(400)]).to_string()),
    ]
}

/// The head of a request with this body, and the body.
fn posted(body: &str) -> (String, String) {
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    (head, body.to_owned())
}

/// Sends the head and a half of the body, and waits until the gateway holds it. Returns the wire and the other half.
async fn begin(gateway: &Gateway, body: &str) -> (Wire, String) {
    let (head, body) = posted(body);
    let (half, rest) = body.split_at(body.len() / 2);
    let in_flight = async || gateway.figures().await.value("eye_in_flight_bytes", &[]).expect("a figure");
    let before = in_flight().await;
    let mut wire = Wire::connect(gateway.address()).await;
    assert!(wire.write(format!("{head}{half}").as_bytes()).await);
    eventually("the request has begun", async || (in_flight().await > before).then_some(())).await;
    (wire, rest.to_owned())
}

const LOW: &str = "data_bytes_max = 500\nnesting_max = 2\nnumber_digits_max = 20\nfuture_seconds_max = 0\n\
    events_per_request_max = 2\nrequest_bytes_max = 1500\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_events_change_and_a_request_keeps_those_with_which_it_began() {
    let (gateway, file) = with_file("").await;
    let sent = async |body: &str| gateway.post("/v1/events", "application/json", body.to_owned()).await.status;
    for (setting, body) in too_much() {
        assert!([200, 201].contains(&sent(&body).await), "{setting} of the start");
    }
    let (mut begun, rest) = begin(&gateway, &sized(1_000).to_string()).await;
    let told = take(&gateway, &file, LOW).await;
    assert_eq!(told["needs_restart"], json!([]), "{told}");
    for (setting, body) in too_much() {
        let status = sent(&body).await;
        assert_eq!(
            status,
            if setting.starts_with("events") || setting.starts_with("req") { 413 } else { 422 },
            "{setting}"
        );
    }
    begun.write(rest.as_bytes()).await;
    assert_eq!(begun.answer().await.expect("an answer").status, 201, "it keeps the bounds of its start");

    let (mut begun, rest) = begin(&gateway, &sized(1_000).to_string()).await;
    let line = hang_up(&gateway, &file, "").await;
    assert!(line.contains("data_bytes_max"), "{line}");
    for (setting, body) in too_much() {
        assert!([200, 201].contains(&sent(&body).await), "{setting} is back");
    }
    begun.write(rest.as_bytes()).await;
    assert_eq!(begun.answer().await.expect("an answer").status, 422, "it keeps the low bounds");
}

#[tokio::test]
async fn event_types_headers_and_the_time_of_a_body_are_bounded_anew() {
    let (gateway, file) = with_file("event_types_max = 1\nheaders_max = 9\n").await;
    let send = async |name: &str| gateway.send(&event("a", name, json!({}))).await.status;
    assert_eq!((send("b").await, send("c").await), (201, 422));
    let many = async || {
        let mut wire = Wire::connect(gateway.address()).await;
        let headers: String = (0..12).map(|number| format!("x-{number}: y\r\n")).collect();
        wire.write(format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await;
        wire.answer().await.expect("an answer").status
    };
    assert_eq!(many().await, 431);
    take(&gateway, &file, "event_types_max = 2\nheaders_max = 20\nbody_read_ms = 100\n").await;
    assert_eq!((send("b").await, send("c").await, send("d").await), (201, 201, 422));
    assert_eq!(many().await, 200);
    let (head, body) = posted(&sized(10).to_string());
    let mut slow = Wire::connect(gateway.address()).await;
    slow.write(format!("{head}{}", &body[..5]).as_bytes()).await;
    assert_eq!(slow.answer().await.expect("an answer").status, 408);
    take(&gateway, &file, "event_types_max = 1\n").await;
    assert_eq!((send("b").await, send("c").await, send("d").await), (201, 201, 422), "known ones go on");
}

/// Asks for the health over this wire. `None` when it is closed.
async fn healthy(wire: &mut Wire) -> Option<u16> {
    wire.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    wire.answer().await.map(|told| told.status)
}

#[tokio::test]
async fn connections_keep_the_bounds_with_which_they_came() {
    let (gateway, file) = with_file("").await;
    let (mut old, mut quiet) = (Wire::connect(gateway.address()).await, Wire::connect(gateway.address()).await);
    assert_eq!((healthy(&mut old).await, healthy(&mut quiet).await), (Some(200), Some(200)));
    hang_up(&gateway, &file, "idle_ms = 100\nheader_read_ms = 200\n").await;
    let mut new = Wire::connect(gateway.address()).await;
    assert_eq!(healthy(&mut new).await, Some(200));
    assert_eq!(new.rest().await, "", "it ends soon");
    let mut silent = Wire::connect(gateway.address()).await;
    silent.write(b"GET /hea").await;
    assert_eq!(silent.rest().await, "", "a head must come soon");
    assert_eq!(healthy(&mut quiet).await, Some(200), "an older connection may rest for a minute");

    hang_up(&gateway, &file, "connections_per_peer_max = 1\n").await;
    assert_eq!(Wire::connect(gateway.address()).await.rest().await, "", "one more of this peer");
    assert_eq!(healthy(&mut old).await, Some(200), "the old ones stay");
    hang_up(&gateway, &file, "").await;
    assert_eq!(healthy(&mut Wire::connect(gateway.address()).await).await, Some(200));
}

#[tokio::test]
async fn fewer_connections_wait_for_old_ones_and_more_are_accepted_at_once() {
    let (gateway, file) = with_file("metrics_listen = \"127.0.0.1:0\"\n").await;
    const FEW: &str = "metrics_listen = \"127.0.0.1:0\"\nconnections_max = 2\n";
    let mut held = vec![];
    for _ in 0..3 {
        let mut wire = Wire::connect(gateway.address()).await;
        assert_eq!(healthy(&mut wire).await, Some(200));
        held.push(wire);
    }
    hang_up(&gateway, &file, FEW).await;
    // The listener took a permit for its next connection before the change.
    let mut last = Wire::connect(gateway.address()).await;
    assert_eq!(healthy(&mut last).await, Some(200));
    held.push(last);
    let mut waits = Wire::connect(gateway.address()).await;
    let mut answered = Box::pin(healthy(&mut waits));
    assert!(timeout(Duration::from_millis(300), &mut answered).await.is_err(), "it waits in the kernel");
    for wire in &mut held {
        assert_eq!(healthy(wire).await, Some(200), "those that are there go on");
    }
    hang_up(&gateway, &file, "metrics_listen = \"127.0.0.1:0\"\nconnections_max = 50\n").await;
    assert_eq!(timeout(PATIENCE, answered).await.expect("in time"), Some(200));
}

#[tokio::test]
async fn rooms_shrink_and_streams_of_outcomes_go_on() {
    let (gateway, file) = with_file("live_heartbeat_ms = 60000\n").await;
    let watch = async || gateway.request("GET", "/v1/live").send().await.expect("an answer");
    let (mut first, second) = (watch().await, watch().await);
    assert_eq!(first.status(), 200);
    let low =
        "live_readers_max = 1\nlive_heartbeat_ms = 100\nin_flight_bytes_max = 1048576\nrequest_bytes_max = 1048576\n";
    hang_up(&gateway, &file, low).await;
    assert_eq!(gateway.figures().await.value("eye_in_flight_max_bytes", &[]), Some(1_048_576.0));
    let refused = gateway.answer(gateway.request("GET", "/v1/live")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("too_many_readers")), "{refused:?}");
    assert_eq!(gateway.send(&event("a", "b", json!({}))).await.status, 201);
    let mut text = String::new();
    while !text.contains("event: outcome") {
        let chunk = timeout(PATIENCE, first.chunk()).await.expect("in time").expect("a chunk").expect("no end");
        text.push_str(str::from_utf8(&chunk).expect("text"));
    }
    assert!(!text.contains("lives"), "it keeps its heartbeat: {text}");
    drop((first, second));
    let mut third = eventually("there is room for one", async || {
        let response = watch().await;
        (response.status() == 200).then_some(response)
    })
    .await;
    let mut text = String::new();
    while !text.contains("lives") {
        let chunk = timeout(PATIENCE, third.chunk()).await.expect("in time").expect("a chunk").expect("no end");
        text.push_str(str::from_utf8(&chunk).expect("text"));
    }
}

#[tokio::test]
async fn callers_from_this_machine_get_other_rights() {
    let (gateway, file) = with_file("live_heartbeat_ms = 100\n").await;
    let plain = async || {
        let read = gateway.answer(gateway.request("GET", "/v1/events")).await.status;
        (read, gateway.answer(gateway.request("POST", "/v1/events").json(&pageview())).await.status)
    };
    assert_eq!(plain().await, (200, 201));
    let mut stream = gateway.request("GET", "/v1/live").send().await.expect("an answer");
    take(&gateway, &file, "local = \"off\"\n").await;
    // At once nobody has more than the new rights, and soon the answers say why.
    let (read, sent) = plain().await;
    assert!([401, 503].contains(&read) && [401, 503].contains(&sent), "{read} {sent}");
    eventually("the caller is unknown", async || (plain().await == (401, 401)).then_some(())).await;
    let ended = async { while let Ok(Some(_)) = stream.chunk().await {} };
    timeout(PATIENCE, ended).await.expect("the stream of a caller that may not read ends");
    take(&gateway, &file, "local = \"ingest\"\n").await;
    eventually("it may send", async || (plain().await == (403, 201)).then_some(())).await;
    hang_up(&gateway, &file, "").await;
    eventually("it may read again", async || (plain().await == (200, 201)).then_some(())).await;
}

#[tokio::test]
async fn proxies_their_headers_and_hosts_change() {
    let (gateway, file) = with_file("local = \"off\"\n").await;
    gateway.sql("insert into applications (name, networks, known_by, scopes) values ('till', '{203.0.113.0/24}', 'network', '{ingest}')");
    let send = async |header: &str, value: &str| {
        let request = gateway.request("POST", "/v1/events").header(header, value).json(&pageview());
        gateway.answer(request).await.status
    };
    assert_eq!(send("x-forwarded-for", "203.0.113.9").await, 401, "anybody could say so");
    const TRUSTED: &str = "local = \"off\"\ntrusted_proxies = \"127.0.0.0/8\"\n";
    take(&gateway, &file, TRUSTED).await;
    eventually("the proxy is believed", async || (send("x-forwarded-for", "203.0.113.9").await == 201).then_some(()))
        .await;
    assert_eq!(send("x-forwarded-for", "198.51.100.1").await, 401);
    hang_up(&gateway, &file, &format!("{TRUSTED}forwarded_header = \"forwarded\"\n")).await;
    assert_eq!(send("x-forwarded-for", "203.0.113.9").await, 401);
    assert_eq!(send("forwarded", "for=203.0.113.9").await, 201);
    let named = async |host: &str| {
        let request = gateway.request("POST", "/v1/events").header("host", host).header("forwarded", "for=203.0.113.9");
        gateway.answer(request.json(&pageview())).await.status
    };
    assert_eq!(named("other.example").await, 201);
    take(&gateway, &file, &format!("{TRUSTED}forwarded_header = \"forwarded\"\nhosts = [\"eye.example\"]\n")).await;
    assert_eq!((named("other.example").await, named("eye.example").await), (403, 201));
}

#[tokio::test]
async fn new_connections_must_begin_with_a_proxy_header() {
    let (gateway, file) = with_file("").await;
    let mut old = Wire::connect(gateway.address()).await;
    assert_eq!(healthy(&mut old).await, Some(200));
    const PROXIED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = \"127.0.0.1/32\"\n";
    let line = hang_up(&gateway, &file, PROXIED).await;
    assert!(line.contains("trusted_proxies, proxy_protocol"), "{line}");
    let mut proxied = Wire::connect(gateway.address()).await;
    proxied.write(b"PROXY TCP4 203.0.113.5 10.0.0.1 4711 80\r\n").await;
    assert_eq!(healthy(&mut proxied).await, Some(200));
    assert_eq!(healthy(&mut Wire::connect(gateway.address()).await).await, None, "there is no such header");
    assert_eq!(healthy(&mut old).await, Some(200), "an old connection needs none");
    hang_up(&gateway, &file, "").await;
    assert_eq!(healthy(&mut Wire::connect(gateway.address()).await).await, Some(200));
}

#[tokio::test]
async fn pages_of_other_origins_may_send() {
    let (gateway, file) = with_file("").await;
    let preflight = async |origin: &str| {
        let request = gateway.request("OPTIONS", "/v1/events").header("origin", origin);
        gateway.answer(request.header("access-control-request-method", "POST")).await.status
    };
    let (shop, forum) = ("https://shop.example", "https://forum.example");
    assert_eq!((preflight(shop).await, preflight(forum).await), (405, 405));
    take(&gateway, &file, "cors_origins = [\"https://shop.example\"]\n").await;
    assert_eq!((preflight(shop).await, preflight(forum).await), (204, 405));
    hang_up(&gateway, &file, "cors_origins = [\"https://forum.example\"]\n").await;
    assert_eq!((preflight(shop).await, preflight(forum).await), (405, 204));
}

#[tokio::test]
async fn events_without_a_module_are_treated_anew() {
    let (gateway, file) = with_file("").await;
    let shop = async || gateway.send(&event("shop", "sale", json!({}))).await;
    assert_eq!(shop().await.status, 201);
    take(&gateway, &file, "unknown_event_type = \"reject\"\n").await;
    assert_eq!(shop().await.violations()[0].1, "unknown_event_type");
    take(&gateway, &file, "require_module = [\"shop/*\"]\n").await;
    assert_eq!(shop().await.json()["code"], "module_unavailable");
    let ready = gateway.get("/readyz").await;
    assert!(ready.status == 200 && ready.text.contains("missing_modules"), "{ready:?}");
    take(&gateway, &file, "require_module = [\"shop/*\"]\nready_requires_modules = true\n").await;
    assert_eq!(gateway.get("/readyz").await.status, 503);
    take(&gateway, &file, "").await;
    assert_eq!((shop().await.status, gateway.get("/readyz").await.status), (201, 200));
}

#[tokio::test]
async fn an_answer_that_would_come_before_the_deadline_of_a_module_is_refused() {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, "").expect("the file");
    let modules = folder.path().join("modules/a");
    std::fs::create_dir_all(&modules).expect("the folder");
    std::fs::write(modules.join("b.toml"), "deadline_ms = 3000\n").expect("the settings");
    std::fs::write(modules.join("b.wasm"), module("accepts")).expect("the module");
    let gateway = Setup::default().with_argument("--config=eye.toml").start_in(folder).await;
    gateway.validator("a/b", "active").await;
    let problems = refuse(&gateway, &file, "answer_ms = 3000\nlog_level = \"debug\"\n").await;
    assert!(
        problems.len() == 1 && problems[0].contains("more than 3000, the deadline_ms of the module of a/b"),
        "{problems:?}"
    );
    let told = take(&gateway, &file, "answer_ms = 3001\n").await;
    assert_eq!(told["changed"], json!(["answer_ms"]), "the refused reload has changed nothing: {told}");
    // The next file may not ask for more than before the answer.
    std::fs::write(gateway.data_dir().join("../modules/a/b.toml"), "deadline_ms = 4000\n").expect("the settings");
    eventually("the longer deadline is refused", async || {
        let report = gateway.get("/v1/validators").await.json()["validators"][0].clone();
        report["settings_error"].to_string().contains("1 to 3000").then_some(())
    })
    .await;
}

#[tokio::test]
async fn one_problem_refuses_all_and_the_mix_with_what_waits_is_proved() {
    let (gateway, file) = with_file("").await;
    let problems = refuse(&gateway, &file, "data_bytes_max = 100\nlocal = \"off\"\nidle_ms = 0\n").await;
    assert!(problems.len() == 1 && problems[0].contains("idle_ms"), "{problems:?}");
    // This file is sound for a start. Until then the deadline stays at 50 ms.
    let problems = refuse(&gateway, &file, "deadline_ms = 10\nanswer_ms = 40\ndata_bytes_max = 100\n").await;
    assert!(problems.len() == 1 && problems[0].contains("former value of deadline_ms"), "{problems:?}");
    assert_eq!(gateway.send(&sized(1_000)).await.status, 201, "nothing has changed");
    let told = take(&gateway, &file, "deadline_ms = 10\nanswer_ms = 60\n").await;
    assert_eq!((&told["changed"], &told["needs_restart"]), (&json!(["answer_ms"]), &json!(["deadline_ms"])), "{told}");
}

#[tokio::test]
async fn a_shorter_retention_is_announced_and_waits_to_be_confirmed() {
    let server = Server::start();
    server.prepare();
    let folder = folder();
    let file = folder.path().join("eye.toml");
    let base = format!("database_url = \"{}\"\nretention_seconds = 3600\n", server.url());
    std::fs::write(&file, format!("{base}dead_letters_days = 0\n")).expect("the file");
    server.sql(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes) \
         select now() - interval '20 days', gen_random_uuid(), 'rejected', 'rule', 'a test', '[]', 1, 'x', 1 \
         from generate_series(1, 30)",
    );
    let gateway = Setup::default().with_argument("--config=eye.toml").start_in(folder).await;
    let left = || server.sql("select count(*) from dead_letters");
    let round = || server.sql("select max(round_at) from retention_rounds");
    eventually("there was a round", async || (!round().is_empty()).then_some(())).await;
    let before = round();
    let line = hang_up(&gateway, &file, &format!("{base}dead_letters_days = 10\n")).await;
    assert!(line.contains("dead_letters_days"), "{line}");
    let line = hang_up(
        &gateway,
        &file,
        &format!("database_url = \"{}\"\nretention_seconds = 1\ndead_letters_days = 10\n", server.url()),
    )
    .await;
    assert!(line.contains("retention_seconds"), "{line}");
    eventually("it is announced", async || gateway.log().contains("it is announced").then_some(())).await;
    eventually("rounds go on", async || (round() > before).then_some(())).await;
    assert_eq!(left(), "30", "nothing is removed on the word of a setting");
    eventually("it is said", async || gateway.get("/readyz").await.text.contains("trimming_announced").then_some(()))
        .await;
    let mut confirm = gateway.command_beside(&["retention", "confirm"]);
    let told = confirm.env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    assert!(told.status.success() && told.stdout.starts_with(b"confirmed: "), "{told:?}");
    eventually("what was confirmed is removed", async || (left() == "0").then_some(())).await;
}

/// A gateway with TLS whose settings stand in a file. Returns the gateway, the file, and the text of its settings for the
/// files of a folder.
async fn with_certificates(authority: &Authority, files: &Path) -> (Gateway, PathBuf) {
    authority.install(files);
    std::fs::write(files.join("ca.pem"), &authority.pem).expect("a file");
    let folder = folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, tls_of(files)).expect("the file");
    let mut gateway = Setup::default().with_argument("--config=eye.toml").at_rest(folder);
    gateway.launch().await;
    let client = authority.client(None, BOTH);
    eventually("the gateway is ready", async || {
        let mut wire = Wire::over(shake(&gateway, &client).await);
        wire.write(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        wire.answer().await.filter(|told| told.status == 200)
    })
    .await;
    (gateway, file)
}

fn tls_of(files: &Path) -> String {
    let path = |name: &str| format!("{:?}", files.join(name).display().to_string());
    format!("tls_certificate = {}\ntls_key = {}\n", path("certificate.pem"), path("key.pem"))
}

/// The certificate that a new connection is shown.
async fn in_force(gateway: &Gateway, authority: &Authority) -> CertificateDer<'static> {
    shown(&shake(gateway, &authority.client(None, BOTH)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_read_at_once_from_the_same_and_from_other_files() {
    let (authority, files, others) = (Authority::new(), folder(), folder());
    let (gateway, file) = with_certificates(&authority, files.path()).await;
    let first = in_force(&gateway, &authority).await;
    let mut kept = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
    assert_eq!(kept.send_event(&pageview(), &[]).await, 201);

    let second = authority.install(files.path());
    hang_up(&gateway, &file, &tls_of(files.path())).await;
    assert_eq!(in_force(&gateway, &authority).await, second, "the same paths, and other contents");
    assert_ne!(first, second);
    let third = authority.install(others.path());
    let line = hang_up(&gateway, &file, &tls_of(others.path())).await;
    assert!(line.contains("tls_certificate, tls_key"), "{line}");
    assert_eq!(in_force(&gateway, &authority).await, third);
    assert_eq!(kept.send_event(&pageview(), &[]).await, 201, "the connection from before goes on");

    // The watch follows the new files, and not the old ones.
    authority.install(files.path());
    let fourth = authority.install(others.path());
    eventually("the new files are watched", async || (in_force(&gateway, &authority).await == fourth).then_some(()))
        .await;

    // Client certificates are asked for, and then required.
    let client_ca =
        format!("{}tls_client_ca = {:?}\n", tls_of(others.path()), files.path().join("ca.pem").display().to_string());
    assert!(hang_up(&gateway, &file, &client_ca).await.contains("changed=\"tls_client_ca\""));
    let line = hang_up(&gateway, &file, &format!("{client_ca}tls_client_auth = \"required\"\n")).await;
    assert!(line.contains("changed=\"tls_client_auth\""), "{line}");
    let (certificate, _, key) = authority.issue("till");
    let mut known = Wire::over(shake(&gateway, &authority.client(Some((certificate, key)), BOTH)).await);
    assert_eq!(healthy(&mut known).await, Some(200));
    let mut unknown = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
    assert_eq!(healthy(&mut unknown).await, None);

    let line = hang_up(&gateway, &file, "").await;
    assert!(line.contains("tls_certificate, tls_key, tls_client_ca, tls_client_auth"), "{line}");
    assert_eq!(healthy(&mut Wire::connect(gateway.address()).await).await, Some(200), "without TLS");
    hang_up(&gateway, &file, &tls_of(others.path())).await;
    assert_eq!(in_force(&gateway, &authority).await, fourth);
    assert_eq!(kept.send_event(&pageview(), &[]).await, 201, "it still goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_certificates_leave_all_as_it_was_and_the_answer_says_why() {
    let (authority, files, others) = (Authority::new(), folder(), folder());
    let (gateway, file) = with_certificates(&authority, files.path()).await;
    let good = in_force(&gateway, &authority).await;
    let token = format!("Bearer {}", gateway.admin_token().expect("a token"));
    let other = others.path();
    authority.install(other);
    let write = |name: &str, text: &str| std::fs::write(other.join(name), text).expect("a file");
    let (_, stray, _) = authority.issue("localhost");
    let cases: [(&str, &dyn Fn()); 4] = [
        ("holds no certificate in PEM", &|| write("certificate.pem", "nonsense")),
        ("the certificate and its key cannot be used", &|| {
            authority.install(other);
            write("certificate.pem", &stray);
        }),
        ("has expired: it was valid until 2021-01-01", &|| drop(authority.install_for(other, (2019, 2021)))),
        ("key.pem cannot be read", &|| {
            authority.install(other);
            std::fs::remove_file(other.join("key.pem")).expect("it was there");
        }),
    ];
    for (words, spoil) in cases {
        spoil();
        std::fs::write(&file, format!("{}data_bytes_max = 10\n", tls_of(other))).expect("the file");
        let mut wire = Wire::over(shake(&gateway, &authority.client(None, BOTH)).await);
        let refused = wire.post("/v1/settings/reload", &[("authorization", &token)], "").await.expect("an answer");
        assert_eq!(refused.status, 422, "{words}: {refused:?}");
        assert!(refused.body.contains(words) && refused.body.contains("eye.toml:1"), "{words}: {refused:?}");
        assert_eq!(wire.send_event(&sized(100), &[]).await, 201, "{words}: nothing else has changed");
        assert_eq!(in_force(&gateway, &authority).await, good, "{words}");
    }
    let told = hang_up(&gateway, &file, &format!("{}data_bytes_max = 10\n", tls_of(files.path()))).await;
    assert!(told.contains("changed=\"data_bytes_max\""), "{told}");
}

#[tokio::test]
async fn an_expired_certificate_in_force_keeps_no_other_setting_from_changing() {
    let (authority, files, folder) = (Authority::new(), folder(), folder());
    authority.install_for(files.path(), (2019, 2021));
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, tls_of(files.path())).expect("the file");
    let mut gateway = Setup::default().with_argument("--config=eye.toml").at_rest(folder);
    gateway.launch().await;
    let line = hang_up(&gateway, &file, &format!("{}data_bytes_max = 10\n", tls_of(files.path()))).await;
    assert!(line.contains("changed=\"data_bytes_max\""), "{line}");
    let good = authority.install(files.path());
    hang_up(&gateway, &file, &tls_of(files.path())).await;
    assert_eq!(in_force(&gateway, &authority).await, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_reloads_under_load_lose_no_event() {
    let (gateway, file) = with_file("").await;
    let mut load = Load::start(gateway.address(), 4, 20, &mut Chance::new());
    load.stores(1).await;
    let texts = [
        "batch_events_max = 5\nqueue_requests_max = 8\nin_flight_bytes_max = 9000000\n",
        "batch_age_ms = 50\nanswer_ms = 3000\nidle_ms = 200\napplication_share_percent = 30\n",
        "unknown_event_type = \"accept\"\nevents_per_request_max = 100\nconnections_max = 6\n",
        "",
    ];
    for round in 0..20 {
        // Over HTTP the load itself could keep the request waiting.
        hang_up(&gateway, &file, texts[round % texts.len()]).await;
        // Requests of the load run under each of the texts.
        load.stores(5).await;
    }
    load.stores(20).await;
    load.stop().await;
    load.ledger.hold_against(&gateway.sql(ROWS));
    println!("{}", load.ledger.words());
}

#[tokio::test]
async fn the_session_of_the_tests_is_read_after_all_changes() {
    let (gateway, file) = with_file("").await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let all = "page_bytes_max = 4096\nanswers_bytes_max = 65536\nstreams_max = 1\nread_wait_ms = 900\nstream_stall_ms = 200\n";
    take(&gateway, &file, all).await;
    assert_eq!(gateway.session(SESSION).await.len(), 1);
    let refused = async || {
        let request = gateway.request("GET", "/v1/events").header("accept", "application/x-ndjson");
        gateway.answer(request).await.status
    };
    assert_eq!(refused().await, 200);
    take(&gateway, &file, "page_bytes_max = 1024\n").await;
    for _ in 0..3 {
        assert_eq!(gateway.send(&sized(900)).await.status, 201);
    }
    let page = gateway.get(&format!("/v1/sessions/{SESSION}")).await.json();
    assert!(page["next"].is_string(), "a page is small now: {page}");
    take(&gateway, &file, "").await;
    assert_eq!(gateway.session(SESSION).await.len(), 4);
}
