//! The configuration is read again while the gateway runs: settings that can change do, the others are named, and a
//! configuration with problems changes nothing.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Setup, event, eventually, folder};

/// A gateway with this configuration file. Returns the gateway and the file.
async fn with_file(text: &str) -> (Gateway, PathBuf) {
    let folder = folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, text).expect("the file");
    (Setup::default().with_argument("--config=eye.toml").start_in(folder).await, file)
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

    std::fs::write(&file, "access_log = \"all\"\nlisten = \"127.0.0.1:1\"\nanswer_ms = 4000\nwriters = 2\n")
        .expect("the file");
    let changed = reload(&gateway, &token).await;
    let body = changed.json();
    // The flag `--listen` of the start overrides the file.
    assert_eq!((&body["changed"], &body["needs_restart"]), (&json!(["access_log"]), &json!(["answer_ms"])), "{body}");
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
