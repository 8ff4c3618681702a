//! Who may call and how much: applications managed while the gateway runs, over HTTP and by the command, and what a
//! caller is told on connections that are open meanwhile.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::raw::Wire;
use crate::support::{Answer, Gateway, Setup, event, eventually, pageview};

async fn manage(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let request = gateway.request(method, &format!("/v1/applications{path}"));
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

/// Adds an application and gives its token.
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

/// Runs `eye app ...` on the gateway's database.
fn eye_app(gateway: &Gateway, arguments: &[&str]) -> (bool, String) {
    let url = format!("postgres://eye@localhost/eye?host={}", gateway.data_dir().join("run").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    let output = command.arg("app").args(arguments).env("EYE_DATABASE_URL", url).output().expect("the built program");
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
    assert_eq!((works(&second).await, works(&third).await), (401, 201), "a third rotation ends the oldest");
    assert_eq!(application(&gateway, "shop").await["refused"]["revoked_token"], 2);
}

#[tokio::test]
async fn an_unknown_token_and_a_revoked_one_get_the_same_answer() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop"})).await;
    assert_eq!(manage(&gateway, "DELETE", "/shop", &json!({})).await.status, 200);
    let unknown = send(&gateway, "eye_0000", &pageview()).await;
    let revoked = send(&gateway, &token, &pageview()).await;
    assert_eq!((unknown.status, &unknown.text), (401, &revoked.text));
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

#[tokio::test]
async fn a_change_by_the_command_reaches_open_connections_within_a_second() {
    let gateway = Gateway::start().await;
    let token = add(&gateway, &json!({"name": "shop"})).await;
    let mut wire = Wire::connect(gateway.address()).await;
    let status =
        async |wire: &mut Wire| wire.send_event(&pageview(), &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(status(&mut wire).await, 201);
    let changes: [(&[&str], u16); 3] = [
        (&["change", "shop", "--active", "false"], 401),
        (&["change", "shop", "--active", "true"], 201),
        (&["revoke", "shop"], 401),
    ];
    for (arguments, expected) in changes {
        let (done, problem) = eye_app(&gateway, arguments);
        assert!(done, "{problem}");
        let start = Instant::now();
        eventually("the change is in force", async || (status(&mut wire).await == expected).then_some(())).await;
        println!("{arguments:?} in force on the open connection after {} ms", start.elapsed().as_millis());
    }
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
    // The most exact network decides.
    add(&gateway, &json!({"name": "host", "networks": ["127.0.0.1/32"], "scopes": ["ingest"]})).await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    assert_eq!(gateway.get("/v1/applications").await.status, 403, "and it has no more scopes than it was given");
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
async fn what_cannot_be_is_refused_and_says_why() {
    let gateway = Gateway::start().await;
    for (body, field) in [
        (json!({"name": "a", "events_per_second": -1}), "events_per_second"),
        (json!({"name": "a", "networks": ["10.0.0.0/99"]}), "body"),
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
        Setup::default().with("EYE_WRITERS", 1).with("EYE_QUEUE_PARCELS_MAX", 8).with("EYE_BATCH_EVENTS_MAX", 2);
    let gateway = setup.start().await;
    let greedy = add(&gateway, &json!({"name": "greedy"})).await;
    let modest = add(&gateway, &json!({"name": "modest"})).await;
    // So slow that its queue is full of the greedy one's however slow the senders are.
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
