//! `?dry_run=true` gives the same answers, and has no effect.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, SESSION, Setup, event, pageview};

async fn post(gateway: &Gateway, query: &str, event: &Value) -> Answer {
    gateway.post(&format!("/v1/events{query}"), "application/json", event.to_string()).await
}

fn with_id(mut event: Value, last: u32) -> Value {
    event["id"] = json!(format!("0198c5a4-6f3e-7c1d-9b52-{last:012}"));
    event
}

#[tokio::test]
async fn a_dry_run_answers_as_the_real_one_does_and_leaves_nothing() {
    let gateway = Setup::default()
        .with_module("page interaction/pageview.wasm", "pageview")
        .with_module("guests/traps.wasm", "traps")
        .with("EYE_EVENT_TYPES_MAX", 4)
        .start()
        .await;
    gateway.validator("page interaction/pageview", "active").await;
    gateway.validator("guests/traps", "active").await;
    let known = with_id(pageview(), 1);
    assert_eq!(post(&gateway, "", &known).await.status, 201);
    let trap = event("guests", "traps", json!({"misbehave": true}));
    let bad = event("page interaction", "pageview", json!({}));
    for (event, status, would) in [
        (with_id(pageview(), 2), 201, "stored"),
        (pageview(), 201, "stored"),
        (known.clone(), 200, "duplicate"),
        (trap.clone(), 202, "quarantined"),
        (bad.clone(), 422, "rejected"),
        (json!({"category": "a"}), 422, "rejected"),
    ] {
        for path in ["/v1/events", "/post/create"] {
            let answer = gateway.post(&format!("{path}?dry_run=true"), "application/json", event.to_string()).await;
            let body = answer.json();
            assert_eq!(
                (answer.status, &body["would"], &body["outcome"]),
                (status, &json!(would), &Value::Null),
                "{answer:?}"
            );
        }
    }
    let new = with_id(pageview(), 3);
    let many = json!([new, known, trap, bad, 7, new, event("new", "type", json!({}))]);
    let dry = post(&gateway, "?dry_run=true", &many).await;
    assert_eq!(dry.status, 207, "{dry:?}");
    let lines = format!("{}\n{}\n", with_id(pageview(), 4), pageview());
    let as_lines = gateway.post("/v1/events?dry_run=true", "application/x-ndjson", lines).await;
    assert_eq!((as_lines.status, &as_lines.json()["stored"]), (200, &json!(2)), "{as_lines:?}");
    // No event is stored, counted or remembered.
    assert_eq!(gateway.sql("select count(*) from events"), "1");
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
    assert_eq!(gateway.sql("select count(*) from event_types"), "1");
    let figures = gateway.figures().await;
    for (outcome, count) in [("stored", 1.0), ("duplicate", 0.0), ("rejected", 0.0), ("quarantined", 0.0)] {
        let told = figures.value("eye_events_total", &[("application", "local"), ("outcome", outcome)]);
        assert_eq!(told, Some(count), "{outcome}");
    }
    // The real request has the same result, with the other member.
    let real = post(&gateway, "?dry_run=false", &many).await;
    let mut told = dry.json();
    assert_eq!(told["dry_run"], true);
    let fields = told.as_object_mut().expect("an object");
    fields.remove("dry_run");
    for line in fields["results"].as_array_mut().expect("lines") {
        let line = line.as_object_mut().expect("an object");
        let would = line.remove("would").expect("would");
        line.insert("outcome".to_owned(), would);
        line.remove("id");
    }
    let mut really = real.json();
    for line in really["results"].as_array_mut().expect("lines") {
        line.as_object_mut().expect("an object").remove("id");
    }
    assert_eq!((real.status, really), (207, told));
    assert_eq!(gateway.session(SESSION).await.len(), 3);
}

#[tokio::test]
async fn a_dry_run_costs_the_rate_and_must_be_meant() {
    let gateway = Gateway::start().await;
    for query in [
        "?dry_run=maybe",
        "?dry_run=",
        "?dry_run",
        "?dryrun=true",
        "?dry_run=true&dry_run=true",
        "?dry_run=true&x=1",
        "?candidate=true",
    ] {
        for path in ["/v1/events", "/post/create"] {
            let answer = gateway.post(&format!("{path}{query}"), "application/json", pageview().to_string()).await;
            assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("bad_parameter")), "{query}: {answer:?}");
        }
    }
    assert_eq!(gateway.sql("select count(*) from events"), "0");
    let add = async |body: Value| {
        let added = gateway.post("/v1/applications", "application/json", body.to_string()).await.json();
        added["token"].as_str().expect("a token").to_owned()
    };
    let reader = add(json!({"name": "reader", "scopes": ["read"]})).await;
    let slow = add(json!({"name": "slow", "events_per_second": 1, "burst_events": 5})).await;
    let send = async |token: &str| {
        let request = gateway.request("POST", "/v1/events?dry_run=true").header("content-type", "application/json");
        gateway
            .answer(request.bearer_auth(token).body(json!([pageview(), pageview(), pageview()]).to_string()))
            .await
            .status
    };
    assert_eq!(send(&reader).await, 403);
    assert_eq!(send(&slow).await, 200);
    assert_eq!(send(&slow).await, 429, "three of five are gone");
}
