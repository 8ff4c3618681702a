//! The life of the program: commands, exit codes, stop, kill, and the data that survives.

use std::process::Command;

use crate::support::{Gateway, SESSION, Setup, eventually, kill, pageview};

fn eye(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_eye")).args(arguments).output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn wrong_usage_and_wrong_configuration_exit_with_64() {
    assert_eq!(eye(&["serve", "--nonsense"]).0, Some(64));
    let folder = crate::support::folder();
    let file = folder.path().join("eye.toml");
    std::fs::write(&file, "answer_ms = \"soon\"\nnonsense = 1\nwriters = 0\n").expect("a file");
    let (code, _, problems) = eye(&["config", "check", "--config", file.to_str().expect("a path")]);
    assert_eq!(code, Some(64));
    for (line, key) in [(1, "answer_ms"), (2, "nonsense"), (3, "writers")] {
        let told = problems.lines().any(|text| text.contains(&format!("eye.toml:{line}")) && text.contains(key));
        assert!(told, "{key} on line {line}:\n{problems}");
    }
    let (code, shown, _) = eye(&["config", "check"]);
    assert_eq!(code, Some(0));
    assert!(shown.contains("answer_ms"), "{shown}");
}

#[tokio::test]
async fn a_terminated_gateway_drains_exits_with_0_and_takes_its_data_up_again() {
    let mut gateway = Setup::default().without_cluster().start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    assert_eq!(gateway.session(SESSION).await.len(), 1);
}

#[tokio::test]
async fn a_killed_gateway_takes_its_postgres_up_again() {
    let mut gateway = Gateway::start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    gateway.signal("KILL");
    gateway.ended().await;
    gateway.restart().await;
    assert_eq!(gateway.session(SESSION).await.len(), 1);
    assert_eq!(gateway.send(&pageview()).await.status, 201);
}

#[tokio::test]
async fn a_killed_postgres_is_started_again_under_the_gateway() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    let killed = gateway.postmaster().expect("a server");
    kill(killed, "KILL");
    // The sessions of a killed server live for another moment, and may still store.
    let is_another = async || gateway.postmaster().filter(|pid| *pid != killed).map(drop);
    eventually("another server runs", is_another).await;
    eventually("events are stored again", async || {
        let answer = gateway.send(&pageview()).await;
        assert!([201, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 201).then_some(())
    })
    .await;
    eventually("they are read back", async || {
        let answer = gateway.get(&format!("/v1/sessions/{SESSION}")).await;
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 200 && answer.json()["events"].as_array().is_some_and(|events| events.len() >= 2))
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_second_gateway_on_the_same_data_is_told_so() {
    let gateway = Gateway::start().await;
    let data_dir = gateway.data_dir();
    let (code, _, problem) =
        eye(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().expect("a path")]);
    assert_eq!(code, Some(1), "{problem}");
}

#[tokio::test]
async fn with_a_database_of_its_own_only_known_callers_get_in() {
    let host = Gateway::start().await;
    let url = format!("postgres://eye@localhost/eye?host={}", host.data_dir().join("run").display());
    host.sql("delete from applications");
    let (code, token, problem) = eye(&["app", "add", "shop", "--token", "--scope", "ingest", "--database-url", &url]);
    assert_eq!(code, Some(0), "{problem}");
    let token = token.split_whitespace().find(|word| word.starts_with("eye_")).expect("a token").to_owned();
    let answer = eventually("the new application is known", async || {
        let request = host.request("POST", "/v1/events").bearer_auth(&token).header("content-type", "application/json");
        let answer = host.answer(request.body(pageview().to_string())).await;
        (answer.status == 201).then_some(answer)
    })
    .await;
    assert_eq!(answer.json()["outcome"], "stored");
    assert_eq!(host.send(&pageview()).await.status, 401, "nobody is trusted for where they call from any more");
    let read = host.request("GET", &format!("/v1/sessions/{SESSION}")).bearer_auth(&token);
    assert_eq!(host.answer(read).await.status, 403, "sending is not reading");
    assert_eq!(eye(&["app", "revoke", "shop", "--database-url", &url]).0, Some(0));
    eventually("the token stops working", async || {
        let request = host.request("POST", "/v1/events").bearer_auth(&token).header("content-type", "application/json");
        (host.answer(request.body(pageview().to_string())).await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn settings_from_the_environment_are_in_force() {
    let gateway = Setup::default().with("EYE_UNKNOWN_EVENT_TYPE", "reject").start().await;
    let answer = gateway.send(&pageview()).await;
    assert_eq!(
        (answer.status, answer.json()["violations"][0]["code"].as_str()),
        (422, Some("unknown_event_type")),
        "{answer:?}"
    );
}
