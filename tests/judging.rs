//! New events and dead letters are judged in the same way: both are refused with the same code.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, event, eventually};

/// Sends an event that becomes a dead letter, redrives the letter, and returns both: `(outcome, code, violations)`.
async fn sent_and_redriven(gateway: &Gateway, token: &str, event: &Value) -> [(Value, Value, Value); 2] {
    let request = gateway.request("POST", "/v1/events").bearer_auth(token).header("content-type", "application/json");
    let answer = gateway.answer(request.body(event.to_string())).await;
    let letter = eventually("the dead letter is kept", async || {
        let list = gateway.get("/v1/dead-letters?limit=1").await.json();
        let letter = list["dead_letters"][0].clone();
        (letter["redriven"].is_null() && letter["id"].is_string()).then_some(letter)
    })
    .await;
    let sent = answer.json();
    assert_eq!(sent["code"], letter["code"], "{answer:?}");
    let body = json!({"ids": [letter["id"]], "dry_run": false}).to_string();
    let redrive = gateway.post("/v1/dead-letters/redrive", "application/json", body).await;
    let result = redrive.json()["results"][0].clone();
    gateway.sql("delete from dead_letters");
    let outcome = if answer.status == 202 { json!("quarantined") } else { json!("rejected") };
    [
        (outcome, sent["code"].clone(), letter["violations"].clone()),
        (result["outcome"].clone(), result["code"].clone(), result.get("violations").cloned().unwrap_or(json!([]))),
    ]
}

#[tokio::test]
async fn each_code_is_the_same_for_an_event_that_is_sent_and_for_a_letter_that_is_redriven() {
    let modules = ["rejects", "traps", "recurses", "amends_list", "hoards", "spins"];
    let setup = modules.iter().fold(Setup::default(), |setup, name| setup.with_module(&format!("c/{name}.wasm"), name));
    // Long enough that a slow machine reaches the other limits first.
    let gateway = setup.with("EYE_DEADLINE_MS", 1_000).start().await;
    for name in modules {
        gateway.validator(&format!("c/{name}"), "active").await;
    }
    let (token, digest) = eye::trust::token::make().expect("a token");
    gateway.sql(&format!(
        "insert into applications (name, token_digests, scopes, event_types) \
         values ('shop', array['\\x{digest}'::bytea], '{{ingest}}', '{{c/*}}')"
    ));
    gateway.sql("alter table events add constraint events_free_check check (data::text not like '%forbidden%')");
    eventually("the application is known", async || {
        let request = gateway.request("POST", "/v1/events?dry_run=true").bearer_auth(&token);
        let request = request.header("content-type", "application/json");
        (gateway.answer(request.body(event("c", "free", json!({})).to_string())).await.status == 201).then_some(())
    })
    .await;
    let mut broken = event("c", "free", json!({}));
    broken["surplus"] = json!(1);
    for (code, event) in [
        ("envelope", broken),
        ("not_allowed", event("theft", "free", json!({}))),
        ("rule", event("c", "rejects", json!({"misbehave": true}))),
        ("trap", event("c", "traps", json!({"misbehave": true}))),
        ("stack", event("c", "recurses", json!({"misbehave": true}))),
        ("output", event("c", "amends_list", json!({"misbehave": true}))),
        ("memory", event("c", "hoards", json!({"misbehave": true}))),
        ("deadline", event("c", "spins", json!({"misbehave": true}))),
        ("unstorable", event("c", "free", json!({"word": "forbidden"}))),
    ] {
        let [sent, redriven] = sent_and_redriven(&gateway, &token, &event).await;
        assert_eq!(sent.1, code, "sent");
        assert_eq!((&redriven.0, &redriven.1), (&sent.0, &sent.1), "{code}: redriven");
        if code != "not_allowed" {
            assert_eq!(redriven.2, sent.2, "{code}: the violations");
        }
    }
}
