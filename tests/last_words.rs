//! Only callers who may read raw bytes see the message of a panic.

use serde_json::{Value, json};

use crate::support::{Gateway, Setup, event, eventually, module};

const SECRET: &str = "hunter2-secret";

/// Sends an event on which the module panics, and returns the dead letter as `token` sees it.
async fn refused(gateway: &Gateway, event_type: &str, token: Option<&str>) -> Value {
    let (category, name) = event_type.split_once('/').expect("a category and a name");
    let answer = gateway.send(&event(category, name, json!({ "password": SECRET }))).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert!(!answer.text.contains("no room"), "the sender is not told: {answer:?}");
    let letters = gateway.get(&format!("/v1/dead-letters?name={name}&limit=1")).await.json();
    let id = letters["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    assert!(letters["dead_letters"][0].get("last_words").is_none(), "not in lists: {letters}");
    let request = gateway.request("GET", &format!("/v1/dead-letters/{id}"));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => gateway.as_admin(request),
    };
    gateway.answer(request).await.json()
}

#[tokio::test]
async fn a_panic_is_told_to_those_with_the_scope_raw_and_kept_where_raw_bytes_are() {
    let gateway = Setup::default()
        .with_module("c/panics.wasm", "panics")
        .with_module("c/redacts.wasm", "panics_and_redacts")
        .with_module("c/traps.wasm", "traps")
        .start()
        .await;
    for name in ["c/panics", "c/redacts", "c/traps"] {
        gateway.validator(name, "active").await;
    }
    let (reader, digest) = eye::trust::token::make().expect("a token");
    gateway.sql(&format!(
        "insert into applications (name, token_digests, scopes) \
         values ('reader', array['\\x{digest}'::bytea], '{{read}}')"
    ));

    let letter = refused(&gateway, "c/panics", None).await;
    let words = letter["last_words"].as_str().expect("the message");
    assert!(words.contains("panics.rs") && words.ends_with(&format!("no room for {SECRET}")), "{words}");

    let letter = eventually("the reader is known", async || {
        let letter = refused(&gateway, "c/panics", Some(&reader)).await;
        (letter["status"] != 401).then_some(letter)
    })
    .await;
    assert_eq!((&letter["last_words"], &letter["raw_needs_scope"]), (&Value::Null, &json!("raw")), "{letter}");

    let letter = refused(&gateway, "c/redacts", None).await;
    assert_eq!((&letter["kept"], &letter["last_words"]), (&json!("redacted"), &Value::Null), "{letter}");
    let kept = gateway.sql("select string_agg(l::text, '') from dead_letters l where name = 'redacts'");
    assert!(!kept.contains(SECRET), "{kept}");
    assert!(!gateway.log().contains(SECRET), "never logged");

    // A gateway of the last release rewrites letters, and leaves their last words.
    gateway.sql("update dead_letters set kept = 'redacted', raw = '{}' where name = 'panics'");
    assert_eq!(gateway.sql("select count(last_words) from dead_letters where name = 'panics'"), "0");

    // A module without last words, since it was not made with the kit.
    let answer = gateway.send(&event("c", "traps", json!({"misbehave": true}))).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(gateway.sql("select count(*) from dead_letters where name = 'traps' and last_words is null"), "1");
}

#[tokio::test]
async fn a_self_test_says_by_which_panic_an_example_ended() {
    let gateway = Gateway::start().await;
    gateway.drop_module("c/n.wasm", &module("example_panics"));
    let error = gateway.validator("c/n", "refused").await["last_error"].to_string();
    assert!(error.contains("no room for of an example"), "{error}");
}
