//! A module uses up its time on the events of one application. Other applications go on. Once the module is back, or
//! another one replaces it, the gateway judges the unseen events itself, and stores each at most once.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Setup, event, eventually, module};

/// Adds an application that may send, and returns its token.
async fn add(gateway: &Gateway, name: &str) -> String {
    let body = json!({"name": name}).to_string();
    let request = gateway
        .as_admin(gateway.request("POST", "/v1/applications"))
        .header("content-type", "application/json")
        .body(body);
    let answer = gateway.answer(request).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().expect("a token").to_owned()
}

async fn send(gateway: &Gateway, token: &str, body: &Value) -> Answer {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token);
    gateway.answer(request.header("content-type", "application/json").body(body.to_string())).await
}

fn good() -> Value {
    event("guests", "moody", json!({}))
}

fn spins() -> Value {
    event("guests", "moody", json!({"misbehave": true}))
}

async fn with_moody() -> Gateway {
    // The machine does not delay loading, and judging is cut off soon.
    let gateway = Setup::default().with_module("guests/moody.wasm", "spins_or_works").start().await;
    gateway.validator("guests/moody", "active").await;
    gateway
}

/// Sends events that spin until the module is off the path for the application.
async fn spin_until_off(gateway: &Gateway, token: &str) {
    eventually("it is off the path", async || {
        let answer = send(gateway, token, &spins()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        (answer.json()["code"] == "off_path").then_some(())
    })
    .await;
}

/// The letters that no module has judged.
fn unseen(gateway: &Gateway) -> String {
    gateway.sql("select count(*) from dead_letters where code = 'off_path' and redriven_at is null")
}

async fn all_are_seen(gateway: &Gateway) {
    eventually("each was judged", async || (unseen(gateway) == "0").then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_makes_a_module_spin_takes_it_from_nobody_else_and_its_events_are_judged_later() {
    let gateway = with_moody().await;
    let (greedy, other) = (add(&gateway, "greedy").await, add(&gateway, "other").await);
    spin_until_off(&gateway, &greedy).await;
    let report = gateway.validator("guests/moody", "active").await;
    assert_eq!((&report["standing"], &report["off_path_for"]), (&json!("off-path"), &json!(["greedy"])), "{report}");
    let mut ids = Vec::new();
    for _ in 0..20 {
        let answer = send(&gateway, &greedy, &good()).await;
        assert!([201, 202].contains(&answer.status), "{answer:?}");
        ids.push(answer.json()["id"].as_str().expect("an id").to_owned());
        assert_eq!(send(&gateway, &other, &good()).await.status, 201, "nobody else pays for it");
    }
    // Its own events are the probes, the spinning one first.
    all_are_seen(&gateway).await;
    let stored = gateway.sql("select count(*), count(distinct id) from events");
    assert_eq!(stored, "40|40", "each is stored once");
    for id in &ids {
        assert_eq!(gateway.sql(&format!("select count(*) from events where id = '{id}'")), "1", "{id}");
    }
    let letters = gateway.sql(
        "select count(*) filter (where redriven_as = 'stored'), count(*) filter (where redriven_as is null and code = 'deadline'), \
         count(*) from dead_letters",
    );
    let letters: Vec<u64> = letters.split('|').map(|count| count.parse().expect("a count")).collect();
    assert_eq!(letters[0] + letters[1], letters[2], "what spins stays, and says so: {letters:?}");
    let jobs = gateway.get("/v1/jobs?kind=rejudge").await.json()["jobs"].as_array().expect("jobs").clone();
    assert!(!jobs.is_empty() && jobs.iter().all(|job| job["requested_by"]["kind"] == "gateway"), "{jobs:?}");
    let done: u64 = jobs.iter().map(|job| job["progress"]["stored"].as_u64().expect("a count")).sum();
    assert_eq!(done, letters[0], "the jobs tell what came of them: {jobs:?}");
    let figures = gateway.figures().await;
    let again = |outcome| figures.value("eye_dead_letters_judged_again_total", &[("outcome", outcome)]);
    assert_eq!(again("stored"), Some(letters[0] as f64));
    let quarantined = figures.value("eye_events_total", &[("application", "greedy"), ("outcome", "quarantined")]);
    assert_eq!(quarantined, Some(letters[2] as f64), "each counts as what its sender was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_quarantined_unseen_is_judged_by_the_module_that_takes_its_place() {
    let mut gateway = with_moody().await;
    let token = add(&gateway, "greedy").await;
    spin_until_off(&gateway, &token).await;
    for _ in 0..5 {
        assert!([201, 202].contains(&send(&gateway, &token, &good()).await.status));
    }
    let stored = gateway.sql("select count(*) from events");
    gateway.signal("TERM");
    gateway.ended().await;
    // Also after a restart of the gateway, and after another gateway of the database left one of another type.
    gateway.drop_module("guests/moody.wasm", &module("rejects"));
    gateway.drop_module("guests/fine.wasm", &module("accepts"));
    gateway.restart().await;
    let first = send(&gateway, &token, &event("guests", "fine", json!({"n": 1}))).await;
    assert_eq!(first.status, 201, "{first:?}");
    gateway.sql(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, event_id, session_id, \
             category, name, raw, raw_bytes) \
         select now(), gen_random_uuid(), 'quarantined', 'off_path', '', '[]', application_id, gen_random_uuid(), session_id, \
             'guests', 'fine', convert_to(text, 'UTF8'), octet_length(text) \
         from events cross join lateral (select json_build_object('session_id', session_id, 'category', 'guests', \
             'name', 'fine', 'timestamp', timestamp, 'data', '{}'::json)::text as text) raw \
         where data ->> 'n' = '1'",
    );
    all_are_seen(&gateway).await;
    let fine = "select count(*) from events join event_types on event_types.id = event_type_id where name = 'fine'";
    assert_eq!(gateway.sql(fine), "2");
    let moody = "select count(*) from events join event_types on event_types.id = event_type_id where name = 'moody'";
    assert_eq!(gateway.sql(moody), stored, "the new module takes none of them");
    let refused = gateway.sql(
        "select count(*), bool_and(jsonb_array_length(violations) = 1 and reason = 'quarantined') from dead_letters \
         where code = 'rule' and name = 'moody'",
    );
    let (count, right) = refused.split_once('|').expect("two columns");
    assert!(count.parse::<u64>().expect("a count") >= 1 && right == "t", "{refused}");
    let listed = gateway.get("/v1/dead-letters?code=rule&name=moody").await;
    let digest = gateway.validator("guests/moody", "active").await["digest"].clone();
    assert_eq!(listed.json()["dead_letters"][0]["validator"], digest, "{listed:?}");
}
