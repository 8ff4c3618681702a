//! Each request has an id of the gateway, beside the caller's id and the trace. Its answer, its dead letters and its
//! log lines have it, so that an operator finds one from the other.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::{Answer, Gateway, SESSION, Setup, event, eventually, module};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Sends one event or many in a request that is part of a trace.
async fn send(gateway: &Gateway, traceparent: &str, events: &Value) -> Answer {
    let request = gateway.request("POST", "/v1/events").header("content-type", "application/json");
    gateway.answer(request.header("traceparent", traceparent).body(events.to_string())).await
}

fn request_id(answer: &Answer) -> String {
    answer.headers["x-request-id"].to_str().expect("text").to_owned()
}

/// Waits for the letters of rejected events, which are written after the answer.
async fn letters(gateway: &Gateway, count: usize) -> Vec<Value> {
    eventually("the dead letters are kept", async || {
        let answer = gateway.get("/v1/dead-letters").await;
        let letters = answer.json()["dead_letters"].as_array().expect("a list").clone();
        (letters.len() == count).then_some(letters)
    })
    .await
}

#[tokio::test]
async fn a_problem_names_the_trace_of_its_request() {
    let gateway = Gateway::start().await;
    for path in ["/v1/nothing", "/v1/events?limit=0", "/v1/events?cursor=x"] {
        let answer = gateway.answer(gateway.request("GET", path).header("traceparent", TRACEPARENT)).await;
        let problem = answer.json();
        assert_eq!((&problem["trace_id"], &problem["request_id"]), (&json!(TRACE), &json!(request_id(&answer))));
    }
    let rejected = send(&gateway, TRACEPARENT, &json!({})).await;
    assert_eq!((rejected.status, &rejected.json()["trace_id"]), (422, &json!(TRACE)), "{rejected:?}");
    let newer = format!("cc{}-and-more", &TRACEPARENT[2..]);
    assert_eq!(
        send(&gateway, &newer, &json!({})).await.json()["trace_id"],
        TRACE,
        "a newer version is read as far as known"
    );
    let stored = send(&gateway, TRACEPARENT, &event("a", "b", json!({}))).await;
    assert_eq!((stored.status, stored.json().get("trace_id")), (201, None), "{stored:?}");
}

#[tokio::test]
async fn a_traceparent_that_breaks_the_rules_is_ignored() {
    let gateway = Gateway::start().await;
    let (upper, id) = (TRACEPARENT.to_uppercase(), "b7ad6b7169203331");
    for invalid in [
        "",
        "x",
        &upper,
        &TRACEPARENT[..54],
        &format!("{TRACEPARENT}-more"),
        &format!("ff{}", &TRACEPARENT[2..]),
        &format!("00-{}-{id}-01", "0".repeat(32)),
        &format!("00-{TRACE}-{}-01", "0".repeat(16)),
        &format!("00-{TRACE}-{id}-zz"),
        &format!("00_{TRACE}_{id}_01"),
        &format!("01-{TRACE}-{id}-01more"),
        &"0".repeat(5_000),
    ] {
        let answer = send(&gateway, invalid, &json!({})).await;
        assert_eq!((answer.status, answer.json().get("trace_id")), (422, None), "{invalid}");
        assert_eq!(send(&gateway, invalid, &event("a", "b", json!({}))).await.status, 201, "{invalid}");
    }
    let twice = gateway.request("GET", "/v1/nothing").header("traceparent", TRACEPARENT);
    let twice = gateway.answer(twice.header("traceparent", TRACEPARENT)).await;
    assert_eq!((twice.status, twice.json().get("trace_id")), (404, None), "of two nobody knows which is meant");
}

#[tokio::test]
async fn a_dead_letter_leads_to_its_request_and_its_trace() {
    let gateway = Setup::default().with_module("a/b.wasm", "traps").start().await;
    gateway.validator("a/b", "active").await;
    let quarantined = event("a", "b", json!({"misbehave": true}));
    let answer = send(&gateway, TRACEPARENT, &json!([quarantined, {}, event("a", "b", json!({}))])).await;
    assert_eq!((answer.status, &answer.json()["stored"]), (207, &json!(1)), "{answer:?}");
    for letter in letters(&gateway, 2).await {
        let named = (&letter["request_id"], &letter["trace_id"], &letter["traceparent"]);
        assert_eq!(named, (&json!(request_id(&answer)), &json!(TRACE), &json!(TRACEPARENT)));
        let id = letter["id"].as_str().expect("an id");
        let whole = gateway.get(&format!("/v1/dead-letters/{id}")).await.json();
        assert_eq!(named, (&whole["request_id"], &whole["trace_id"], &whole["traceparent"]));
        let url = format!("postgres://eye@localhost/eye?host={}", gateway.data_dir().join("run").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        let shown =
            command.args(["dead-letters", "show", id]).env("EYE_DATABASE_URL", url).output().expect("the program");
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(named, (&shown["request_id"], &shown["trace_id"], &shown["traceparent"]));
    }
    let plain = gateway.send(&json!({})).await;
    let latest = &letters(&gateway, 3).await[0];
    let named = (&latest["request_id"], &latest["trace_id"], &latest["traceparent"]);
    assert_eq!(named, (&json!(request_id(&plain)), &Value::Null, &Value::Null));
}

#[tokio::test]
async fn a_letter_keeps_its_first_request_whatever_becomes_of_it() {
    let gateway = Setup::default().with_module("a/b.wasm", "traps").start().await;
    gateway.validator("a/b", "active").await;
    let answer = send(&gateway, TRACEPARENT, &event("a", "b", json!({"misbehave": true}))).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let before = letters(&gateway, 1).await;
    let redriven = async || {
        let body = json!({"filter": {}, "dry_run": false}).to_string();
        let answer = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    assert_eq!(redriven().await["quarantined"], 1, "it fails again");
    assert_eq!(letters(&gateway, 1).await, before);
    let digest = gateway.validator("a/b", "active").await["digest"].clone();
    gateway.drop_module("a/b.wasm", &module("accepts"));
    eventually("the mended module serves", async || {
        (gateway.validator("a/b", "active").await["digest"] != digest).then_some(())
    })
    .await;
    assert_eq!(redriven().await["stored"], 1);
    let after = &letters(&gateway, 1).await[0];
    assert_eq!(after["redriven"]["outcome"], "stored");
    assert_eq!((&after["request_id"], &after["trace_id"]), (&json!(request_id(&answer)), &json!(TRACE)));
    assert_eq!(gateway.session(SESSION).await.len(), 1);
}

#[tokio::test]
async fn a_letter_of_an_earlier_release_names_no_request() {
    let server = Server::start();
    server.prepare();
    server.sql(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes, kept) \
         values (now(), gen_random_uuid(), 'rejected', 'rule', '', '[]', 1, '', 0, 'whole')",
    );
    let gateway = Setup::default().with("EYE_DATABASE_URL", server.url()).start().await;
    let letter = &letters(&gateway, 1).await[0];
    assert_eq!((&letter["request_id"], &letter["traceparent"]), (&Value::Null, &Value::Null), "{letter}");
}

/// The log lines that contain all of these words.
fn lines(gateway: &Gateway, words: &[&str]) -> Vec<String> {
    let log = gateway.log();
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_warning_about_a_request_names_it_at_the_level_of_default() {
    for (format, written) in [("text", "request_id="), ("json", "\"request_id\":\"")] {
        let gateway = Setup::default().with("EYE_LOG_FORMAT", format).start().await;
        let refused = gateway.answer(gateway.request("GET", "/v1/events").bearer_auth("eye_nobody")).await;
        assert_eq!(refused.status, 401);
        let named = format!("{written}{}", request_id(&refused));
        let line = eventually("the refusal is logged", async || {
            lines(&gateway, &["WARN", "an unknown caller was refused", &named]).pop()
        })
        .await;
        if format == "json" {
            serde_json::from_str::<Value>(&line).expect("a line of JSON");
        }
        let other = lines(&gateway, &["the gateway listens"]).pop().expect("a line");
        assert!(!other.contains("request_id"), "what is about no request names none: {other}");
    }
}

#[tokio::test]
async fn at_the_level_debug_each_request_has_a_span() {
    let gateway = Setup::default().with("EYE_LOG_LEVEL", "debug").with("EYE_LOG_FORMAT", "json").start().await;
    let request = gateway.request("POST", "/v1/events").header("content-type", "application/json");
    let request = request.header("x-request-id", "the-caller.7").header("traceparent", TRACEPARENT);
    let events = json!([event("a", "b", json!({"secret": "hunter2"})), {}]);
    let answer = gateway.answer(request.body(events.to_string())).await;
    let id = request_id(&answer);
    let line =
        eventually("the request is logged", async || lines(&gateway, &["the request is answered", &id]).pop()).await;
    let line: Value = serde_json::from_str(&line).expect("a line of JSON");
    let span = json!({
        "name": "request", "request_id": id, "caller_id": "the-caller.7", "trace_id": TRACE, "method": "POST",
        "route": "/v1/events", "application": "local",
        "stored": 1, "duplicate": 0, "rejected": 1, "quarantined": 0, "unfinished": 0
    });
    assert_eq!((&line["span"], &line["fields"]["status"]), (&span, &json!(207)), "{line}");
    let read = gateway.get(&format!("/v1/sessions/{SESSION}")).await;
    let read =
        eventually("the read is logged", async || lines(&gateway, &["is answered", &request_id(&read)]).pop()).await;
    assert!(read.contains("\"route\":\"/v1/sessions/{session_id}\"") && !read.contains(SESSION), "{read}");
    assert!(!gateway.log().contains("hunter2"));
}
