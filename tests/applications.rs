//! Applications and their limits: they are changed while the gateway runs, over HTTP and by the command, and open
//! connections follow the change.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::raw::Wire;
use crate::support::{Answer, Gateway, Setup, event, eventually, pageview};

async fn manage(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let request = gateway.as_admin(gateway.request(method, &format!("/v1/applications{path}")));
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

/// Adds an application and returns its token.
async fn add(gateway: &Gateway, body: &Value) -> String {
    let answer = manage(gateway, "POST", "", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().unwrap_or_default().to_owned()
}

async fn send(gateway: &Gateway, token: &str, body: &Value) -> Answer {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token);
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

async fn application(gateway: &Gateway, name: &str) -> Value {
    let answer = gateway.get(&format!("/v1/applications/{name}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn database_url(gateway: &Gateway) -> String {
    format!("postgres://eye@localhost/eye?host={}", gateway.data_dir().join("run").display())
}

/// Runs `eye app ...` on the gateway's database.
fn eye_app(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    let command = command.arg("app").args(arguments).env("EYE_DATABASE_URL", database_url(gateway));
    let output = command.output().expect("the built program");
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

#[tokio::test]
async fn two_tokens_live_while_one_is_rotated() {
    let gateway = Gateway::start().await;
    let first = add(&gateway, &json!({"name": "shop"})).await;
    let works = async |token: &str| send(&gateway, token, &pageview()).await.status;
    assert_eq!(works(&first).await, 201);
    let second =
        manage(&gateway, "POST", "/shop/rotate", &json!({})).await.json()["token"].as_str().unwrap().to_owned();
    assert_eq!((works(&first).await, works(&second).await), (201, 201), "both live");
    let answer = manage(&gateway, "POST", "/shop/rotate", &json!({"expire_old": true})).await;
    assert_eq!((answer.status, &answer.json()["tokens"], answer.json()["token"].is_null()), (200, &json!(1), true));
    assert_eq!((works(&first).await, works(&second).await), (401, 201), "the old one has ended");
    let third = manage(&gateway, "POST", "/shop/rotate", &json!({})).await.json()["token"].as_str().unwrap().to_owned();
    let (done, fourth) = eye_app(&gateway, &["rotate", "shop"]);
    assert!(done, "{fourth}");
    eventually("the newest token is known", async || (works(&fourth).await == 201).then_some(())).await;
    assert_eq!((works(&second).await, works(&third).await), (201, 401), "the one that nobody used made room");
    assert_eq!(application(&gateway, "shop").await["refused"]["revoked_token"], 2);
}

#[tokio::test]
async fn an_unknown_token_and_a_revoked_one_get_the_same_answer() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop"})).await;
    assert_eq!(manage(&gateway, "DELETE", "/shop", &json!({})).await.status, 200);
    let unknown = send(&gateway, "eye_0000", &pageview()).await;
    let revoked = send(&gateway, &token, &pageview()).await;
    // Everything except the id of the request, which is unique.
    let told = |answer: &Answer| {
        let mut problem = answer.json();
        assert!(problem.as_object_mut().expect("a problem").remove("request_id").is_some());
        problem
    };
    assert_eq!((unknown.status, told(&unknown)), (401, told(&revoked)));
    let names = |answer: &Answer| answer.headers.keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(&unknown), names(&revoked));
    let list = gateway.get("/v1/applications").await;
    let unknown = &list.json()["unknown"][0];
    assert_eq!((&unknown["network"], &unknown["refused"]), (&json!("127.0.0.0/24"), &json!("unknown_token")));
    let log = eventually("both are told of", async || {
        let log = gateway.log();
        (log.contains("unknown_token") && log.contains("revoked_token")).then_some(log)
    })
    .await;
    for secret in [token.as_str(), "eye_0000"] {
        assert!(!log.contains(secret) && !list.text.contains(secret), "a token is nowhere to be read");
    }
}

/// A change is in force after a moment. Machines differ, so the bound is only much less than the polling interval. The
/// test prints the time that it took.
const IN_FORCE_MOST: Duration = Duration::from_secs(10);

/// Two gateways on one database that poll the applications every `poll_ms`. Only the first one identifies callers from
/// this machine.
async fn two_gateways(poll_ms: u64) -> (Gateway, Gateway) {
    let setup = || Setup::default().with("EYE_APPLICATIONS_POLL_MS", poll_ms);
    let first = setup().with("EYE_READ_CONNECTIONS", 20).start().await;
    let second = setup().with("EYE_DATABASE_URL", database_url(&first)).start().await;
    (first, second)
}

/// Sends on the open connections until each gets this answer, and fails if that takes longer than promised.
async fn in_force(wires: &mut [Wire], token: &str, expected: u16, what: &str) {
    let start = Instant::now();
    let authorization = format!("Bearer {token}");
    for wire in wires {
        while wire.send_event(&pageview(), &[("authorization", &authorization)]).await != expected {}
    }
    println!("{what}: in force after {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < IN_FORCE_MOST, "{what}: only after {} ms", start.elapsed().as_millis());
}

/// Waits until gateways know a token. An answer to an unknown caller may close its connection, so this takes others.
async fn known(gateways: [&Gateway; 2], token: &str) {
    for gateway in gateways {
        eventually("it is known", async || (send(gateway, token, &pageview()).await.status == 201).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_open_connections_of_every_gateway_within_a_second() {
    // So long that no poll can have brought the change.
    let (first, second) = two_gateways(3_600_000).await;
    assert_eq!(second.get("/v1/applications").await.status, 401, "`local` is for the gateway whose Postgres it is");
    let token = add(&first, &json!({"name": "shop"})).await;
    known([&first, &second], &token).await;
    let open = async || [Wire::connect(first.address()).await, Wire::connect(second.address()).await];
    for change in [&["change", "shop", "--active", "false"][..], &["revoke", "shop"]] {
        let mut wires = open().await;
        in_force(&mut wires, &token, 201, "it is known").await;
        let (done, problem) = eye_app(&first, change);
        assert!(done, "{problem}");
        in_force(&mut wires, &token, 401, &format!("{change:?}")).await;
        for mut wire in wires {
            assert_eq!(wire.rest().await, "", "a connection of nobody is closed");
        }
        // For the next one, since a revoked application has no token left.
        eye_app(&first, &["change", "shop", "--active", "true"]);
        for gateway in [&first, &second] {
            let allowed = change[0] != "revoke";
            let known = async || (send(gateway, &token, &pageview()).await.status == 201).then_some(());
            if allowed {
                eventually("it is let in again", known).await;
            } else {
                assert_eq!(send(gateway, &token, &pageview()).await.status, 401);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_in_force_within_a_second_though_nobody_can_listen() {
    let (first, second) = two_gateways(3_600_000).await;
    let token = add(&first, &json!({"name": "shop"})).await;
    known([&first, &second], &token).await;
    let suspend = "update applications set active = false where name = 'shop'";
    let resume = "update applications set active = true where name = 'shop'";
    for _ in 0..3 {
        let mut wires = [Wire::connect(first.address()).await, Wire::connect(second.address()).await];
        in_force(&mut wires, &token, 201, "it is known").await;
        // The listening connections are cut, and the change comes before there are new ones.
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eye listener'";
        assert!(first.sql(&format!("{cut}; {suspend}")).contains('t'));
        in_force(&mut wires, &token, 401, "with the listeners cut").await;
        first.sql(resume);
        known([&first, &second], &token).await;
    }
    drop(second);
    drop(first);
    // No notification comes, so only the poll is left.
    let (first, second) = two_gateways(300).await;
    let token = add(&first, &json!({"name": "shop"})).await;
    known([&first, &second], &token).await;
    first.sql("alter table applications disable trigger user");
    let mut wires = [Wire::connect(first.address()).await, Wire::connect(second.address()).await];
    in_force(&mut wires, &token, 201, "it is known").await;
    first.sql(suspend);
    in_force(&mut wires, &token, 401, "by the poll alone").await;
}

#[tokio::test]
async fn bodies_that_are_read_for_nothing_cost_an_event_each() {
    let gateway = Setup::default().with("EYE_REQUEST_BYTES_MAX", 300_000).start().await;
    let token = add(&gateway, &json!({"name": "shop", "events_per_second": 1, "burst_events": 20})).await;
    let authorization = format!("Bearer {token}");
    let large = "x".repeat(300_001);
    let many = format!("[{}]", vec!["1"; 21].join(","));
    let mut statuses = Vec::new();
    // More events than the burst, at less than a second for each.
    while statuses.len() < 100 && statuses.last() != Some(&429) {
        for (coding, body) in [("gzip", "no gzip"), ("identity", &large), ("identity", "no json"), ("identity", &many)]
        {
            let headers = [("authorization", authorization.as_str()), ("content-encoding", coding)];
            let mut wire = Wire::connect(gateway.address()).await;
            statuses.push(wire.post("/v1/events", &headers, body).await.expect("an answer").status);
        }
    }
    assert_eq!(statuses[..4], [400, 413, 400, 413], "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
}

#[tokio::test]
async fn who_may_not_read_any_more_is_told_no_more() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "reader", "scopes": ["read"]})).await;
    let large = event("page", "view", json!({"fill": "x".repeat(100_000)}));
    for _ in 0..10 {
        assert_eq!(gateway.send(&Value::Array(vec![large.clone(); 20])).await.status, 200);
    }
    let request = gateway.request("GET", "/v1/events").bearer_auth(&token).header("accept", "application/x-ndjson");
    let request = request.header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    // Events that the reader has not read wait in the sockets and in the gateway, so the stream is far from its end.
    let stream = request.send().await.expect("an answer");
    assert_eq!(stream.status(), 200);
    let request_id = stream.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert_eq!(manage(&gateway, "DELETE", "/reader", &json!({})).await.status, 200);
    let text = stream.text().await.expect("the rest of it");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["error"]["code"], &last["error"]["status"]), (&json!("unknown_sender"), &json!(401)));
    let named = (&last["error"]["request_id"], &last["error"]["trace_id"]);
    assert_eq!(named, (&json!(request_id), &json!("0af7651916cd43dd8448eb211c80319c")));
    assert!(text.lines().count() < 200, "{} lines", text.lines().count());
}

#[tokio::test]
async fn networks_for_an_application_that_is_known_by_its_token_are_refused() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop"})).await;
    let refused = manage(&gateway, "PATCH", "/shop", &json!({"networks": ["203.0.113.0/24"]})).await;
    assert_eq!((refused.status, &refused.json()["parameter"]), (400, &json!("networks")), "{refused:?}");
    assert!(refused.json()["detail"].as_str().expect("text").contains("`both`"), "{refused:?}");
    let (done, problem) = eye_app(&gateway, &["change", "shop", "--network", "203.0.113.0/24"]);
    assert!(!done && problem.contains("`both`"), "{problem}");
    assert_eq!(send(&gateway, &token, &pageview()).await.status, 201);
    let both = json!({"networks": ["::ffff:203.0.113.0/120"], "known_by": "both"});
    let changed = manage(&gateway, "PATCH", "/shop", &both).await;
    assert_eq!((changed.status, &changed.json()["networks"]), (200, &json!(["203.0.113.0/24"])), "{changed:?}");
    assert_eq!(send(&gateway, &token, &pageview()).await.status, 401);
    assert_eq!(manage(&gateway, "PATCH", "/nobody", &json!({"networks": ["::/0"]})).await.status, 404);
}

#[tokio::test]
async fn known_by_token_by_network_or_only_by_both() {
    let gateway = Gateway::start().await;
    let here = add(&gateway, &json!({"name": "here", "token": true, "networks": ["127.0.0.0/8"]})).await;
    let elsewhere = add(&gateway, &json!({"name": "elsewhere", "token": true, "networks": ["203.0.113.0/24"]})).await;
    assert_eq!(send(&gateway, &here, &pageview()).await.status, 201);
    assert_eq!(send(&gateway, &elsewhere, &pageview()).await.status, 401, "the token alone is not enough");
    assert_eq!(application(&gateway, "elsewhere").await["refused"]["unknown_network"], 1);
    let answer = manage(&gateway, "PATCH", "/elsewhere", &json!({"known_by": "token"})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(send(&gateway, &elsewhere, &pageview()).await.status, 201);
    // The smallest network decides.
    add(&gateway, &json!({"name": "host", "networks": ["127.0.0.1/32"], "scopes": ["ingest"]})).await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let read = gateway.answer(gateway.request("GET", "/v1/events")).await;
    assert_eq!(read.status, 403, "and it has no more scopes than it was given");
    let names =
        gateway.sql("select distinct a.name from events join applications a on a.id = application_id order by 1");
    assert_eq!(names, "elsewhere\nhere\nhost");
}

#[tokio::test]
async fn a_rate_limit_counts_events_and_says_when_to_come_again() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop", "events_per_second": 1, "burst_events": 50})).await;
    let many = |count: usize| Value::Array(vec![pageview(); count]);
    assert_eq!(send(&gateway, &token, &many(40)).await.status, 200);
    let refused = send(&gateway, &token, &many(40)).await;
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("rate_limited")));
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().expect("seconds");
    assert!((25..=30).contains(&wait), "{wait}");
    assert_eq!(send(&gateway, &token, &many(9)).await.status, 200, "what was refused cost nothing");
    let never = send(&gateway, &token, &many(51)).await;
    assert_eq!((never.status, &never.json()["limit"]), (413, &json!(50)), "more than a burst never fits");
    assert_eq!(gateway.send(&many(100)).await.status, 200, "other applications are not held up");
    let changed = manage(&gateway, "PATCH", "/shop", &json!({"events_per_second": 1000, "burst_events": 1000})).await;
    assert_eq!(changed.status, 200);
    assert_eq!(send(&gateway, &token, &many(100)).await.status, 200, "a change is in force at once");
    assert_eq!(application(&gateway, "shop").await["refused"]["rate_limited"], 2);
    assert_eq!(gateway.sql("select count(*) from events"), "249");
}

#[tokio::test]
async fn event_types_that_are_not_allowed_cost_only_themselves() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop", "event_types": ["shop/sale", "page%2Fview/*"]})).await;
    let sale = event("shop", "sale", json!({}));
    let view = event("page/view", "anything", json!({}));
    let theft = event("shop", "theft", json!({}));
    assert_eq!(send(&gateway, &token, &sale).await.status, 201);
    let refused = send(&gateway, &token, &theft).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("not_allowed")));
    let batch = send(&gateway, &token, &json!([sale, theft, view])).await;
    let body = batch.json();
    assert_eq!((batch.status, &body["stored"], &body["rejected"]), (207, &json!(2), &json!(1)), "{batch:?}");
    assert_eq!((&body["results"][0]["index"], &body["results"][0]["code"]), (&json!(1), &json!("not_allowed")));
    assert_eq!(application(&gateway, "shop").await["refused"]["event_type"], 2);
    eventually("both are kept as dead letters", async || {
        let letters = gateway.sql("select count(*) from dead_letters where code = 'not_allowed' and name = 'theft'");
        (letters == "2").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redrive_asks_for_the_permissions_of_now() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop", "event_types": ["shop/sale"]})).await;
    for name in ["theft", "fire"] {
        assert_eq!(send(&gateway, &token, &event("shop", name, json!({}))).await.status, 403);
    }
    let letters = "select count(*) from dead_letters where redriven_at is null";
    eventually("both are kept", async || (gateway.sql(letters) == "2").then_some(())).await;
    let redrive = async |dry_run: bool| {
        let body = json!({"filter": {}, "dry_run": dry_run}).to_string();
        let answer = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let everything =
        "update applications set event_types = '{}', active = true, scopes = '{ingest}' where name = 'shop'";
    for (change, detail) in [
        ("event_types = '{shop/sale}'", "may not send this event type"),
        ("event_types = '{shop/sale,theft/*,shop/Theft}'", "may not send this event type"),
        ("active = false", "suspended or revoked"),
        ("scopes = '{read}'", "lacks the scope `ingest`"),
    ] {
        gateway.sql(everything);
        gateway.sql(&format!("update applications set {change} where name = 'shop'"));
        for dry_run in [true, false] {
            let report = redrive(dry_run).await;
            assert_eq!((&report["stored"], &report["rejected"]), (&json!(0), &json!(2)), "{change}: {report}");
            assert_eq!(report["results"][0]["code"], "not_allowed", "{change}: {report}");
            assert!(report["results"][0]["detail"].as_str().expect("a detail").contains(detail), "{change}: {report}");
        }
        let command = gateway.command_line_on(&database_url(&gateway), &["dead-letters", "redrive", "--store"]);
        assert!(command.contains("stored 0, duplicate 0, rejected 2"), "{change}: {command}");
    }
    assert_eq!(gateway.sql("select count(*) from events"), "0");

    // Both are allowed now, one at a time.
    gateway.sql(everything);
    gateway.sql("update applications set event_types = '{shop/theft}' where name = 'shop'");
    let report = redrive(false).await;
    assert_eq!((&report["stored"], &report["rejected"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(gateway.sql(letters), "1");
    assert!(eye_app(&gateway, &["revoke", "shop"]).0, "revoked");
    let report = redrive(false).await;
    assert_eq!((&report["stored"], &report["rejected"]), (&json!(0), &json!(1)), "{report}");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_says_why() {
    let gateway = Gateway::start().await;
    for (body, field) in [
        (json!({"name": "a", "events_per_second": -1}), "events_per_second"),
        (json!({"name": "a", "networks": ["10.0.0.0/99"]}), "networks"),
        (json!({"name": "a", "scope": ["ingest"]}), "body"),
        (json!({"name": "a", "event_types": ["x"]}), "event_types"),
    ] {
        let answer = manage(&gateway, "POST", "", &body).await;
        assert_eq!((answer.status, &answer.json()["parameter"]), (400, &json!(field)), "{answer:?}");
    }
    add(&gateway, &json!({"name": "a/b"})).await;
    assert_eq!(manage(&gateway, "POST", "", &json!({"name": "a/b"})).await.status, 409);
    assert_eq!(manage(&gateway, "PATCH", "/a%2Fb", &json!({"known_by": "network"})).await.status, 400);
    assert_eq!(manage(&gateway, "PATCH", "/nobody", &json!({"active": false})).await.status, 404);
    assert_eq!(manage(&gateway, "POST", "/local/rotate", &json!({})).await.status, 404, "it has no use for a token");
    let wrong = manage(&gateway, "PUT", "", &json!({})).await;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().ok()), (405, Some("GET, HEAD, POST")));
    let reader = add(&gateway, &json!({"name": "reader", "scopes": ["read"]})).await;
    let list = gateway.request("GET", "/v1/applications").bearer_auth(&reader);
    assert_eq!(gateway.answer(list).await.status, 403, "reading is not managing");
    assert_eq!(application(&gateway, "reader").await["refused"]["scope"], 1);
    assert!(!eye_app(&gateway, &["add", "b", "--token", "eye_chosen"]).0, "a token is never an argument");
    let (done, list) = eye_app(&gateway, &["list"]);
    assert!(done && list.contains("a/b\tactive\tby token"), "{list}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_the_queue_is_refused_first() {
    let setup =
        Setup::default().with("EYE_WRITERS", 1).with("EYE_QUEUE_REQUESTS_MAX", 8).with("EYE_BATCH_EVENTS_MAX", 2);
    let gateway = setup.start().await;
    let greedy = add(&gateway, &json!({"name": "greedy"})).await;
    let modest = add(&gateway, &json!({"name": "modest"})).await;
    // Writes are so slow that the greedy application fills its queue, however slow its senders are.
    gateway.sql(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.1); return null; end $$;
         create trigger slow before insert on events for each statement execute function slow()",
    );
    let enough = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for _ in 0..24 {
        let (address, enough) = (gateway.address().to_owned(), Arc::clone(&enough));
        let authorization = format!("Bearer {greedy}");
        flood.spawn(async move {
            let (mut wire, mut refused) = (Wire::connect(&address).await, 0_u32);
            while !enough.load(Relaxed) {
                let status = wire.send_event(&pageview(), &[("authorization", &authorization)]).await;
                assert!([201, 503].contains(&status), "{status}");
                refused += u32::from(status == 503);
            }
            refused
        });
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let start = Instant::now();
        assert_eq!(send(&gateway, &modest, &pageview()).await.status, 201, "there is always a place for the other");
        slowest = slowest.max(start.elapsed());
    }
    enough.store(true, Relaxed);
    let refused: u32 = flood.join_all().await.into_iter().sum();
    println!(
        "the greedy one was refused {refused} times; the slowest of 10 of the other took {} ms",
        slowest.as_millis()
    );
    assert!(refused > 0, "the greedy one was refused");
}
