//! Gateways with `role = "reader"` on a standby: they answer all reads, refuse events and changes, and know the applications.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::cluster::Server;
use crate::support::load::numbered;
use crate::support::{Answer, Gateway, Setup, eventually};

/// The statements of docs/operating.md that create `role`.
pub(crate) fn documented_role(role: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let mut blocks = page.split("```sql\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block);
    let begins = format!("create role {role} ");
    blocks.find(|block| block.starts_with(&begins)).unwrap_or_else(|| panic!("{begins}")).to_owned()
}

/// The URL of a server for the documented role of a reader.
fn url(server: &Server) -> String {
    server.url().replace("postgres://postgres@", "postgres://eye_reader@")
}

fn reader(server: &Server) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", url(server)).with("EYE_ROLE", "reader")
}

/// A primary, its gateway with some stored and refused events, and a standby.
async fn primary_and_standby() -> (Server, Gateway, Server) {
    let primary = Server::start();
    primary.prepare();
    primary.sql(&documented_role("eye_reader"));
    let standby = primary.standby(primary.port());
    let writer = Setup::default().with("EYE_DATABASE_URL", primary.url()).start().await;
    let events: Vec<Value> = (0..10).map(numbered).collect();
    assert_eq!(writer.send(&json!(events)).await.status, 200);
    assert_eq!(writer.send(&json!({"category": "load"})).await.status, 422);
    eventually("the dead letter is kept", async || {
        (primary.sql("select count(*) from dead_letters") == "1").then_some(())
    })
    .await;
    (primary, writer, standby)
}

/// Sends a request with a token.
async fn ask(gateway: &Gateway, method: &str, path: &str, token: &str, body: Option<&str>) -> Answer {
    let mut request = gateway.request(method, path).bearer_auth(token);
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_owned());
    }
    gateway.answer(request).await
}

/// Compares the reads of the reader with those of the gateway on the primary.
async fn reads_like(gateway: &Gateway, writer: &Gateway) {
    let session = numbered(1)["session_id"].as_str().expect("an id").to_owned();
    eventually("the standby has the dead letter", async || {
        let letters = gateway.get("/v1/dead-letters").await.json();
        letters["dead_letters"].as_array().is_some_and(|letters| letters.len() == 1).then_some(())
    })
    .await;
    let letter =
        gateway.get("/v1/dead-letters").await.json()["dead_letters"][0]["id"].as_str().expect("an id").to_owned();
    let paths = [
        "/v1/events".to_owned(),
        "/v1/sessions".to_owned(),
        format!("/v1/sessions/{session}"),
        format!("/v1/sessions/{session}/events/{}", numbered(1)["id"].as_str().expect("an id")),
        "/v1/categories".to_owned(),
        "/v1/categories/load".to_owned(),
        "/v1/stats".to_owned(),
        "/v1/dead-letters".to_owned(),
        format!("/v1/dead-letters/{letter}"),
        "/v1/validators".to_owned(),
        "/v1/audit".to_owned(),
        "/v1/applications".to_owned(),
        "/v1/applications/machine".to_owned(),
        "/metrics".to_owned(),
        "/openapi.json".to_owned(),
        "/healthz".to_owned(),
        "/problems/reads_only".to_owned(),
    ];
    for path in &paths {
        let (here, there) = (gateway.get(path).await, writer.get(path).await);
        assert_eq!((here.status, there.status), (200, 200), "{path}: {here:?}");
        // The other paths also report the gateway itself.
        let of_gateway =
            ["/v1/applications", "/v1/validators", "/v1/audit"].iter().any(|start| path.starts_with(start));
        if path.starts_with("/v1/") && !of_gateway {
            assert_eq!(here.json(), there.json(), "{path}");
        }
    }
    let lines = gateway.answer(gateway.request("GET", "/v1/events").header("accept", "application/x-ndjson")).await;
    assert_eq!((lines.status, lines.text.lines().count()), (200, 10), "{lines:?}");
    assert_eq!(gateway.post("/v1/settings/reload", "application/json", "").await.status, 200);
}

/// Sends all requests that a reader refuses.
async fn refuses_changes(gateway: &Gateway) {
    let event = numbered(100).to_string();
    let refused = [
        ("POST", "/v1/events", event.as_str()),
        ("POST", "/v1/events?dry_run=true", event.as_str()),
        ("POST", "/post/create", event.as_str()),
        ("POST", "/v1/dead-letters/redrive", r#"{"filter":{}}"#),
        ("POST", "/v1/applications", r#"{"name":"shop","networks":["10.0.0.0/8"]}"#),
        ("PATCH", "/v1/applications/machine", r#"{"active":false}"#),
        ("DELETE", "/v1/applications/machine", ""),
        ("POST", "/v1/applications/machine/rotate", ""),
        ("POST", "/v1/applications/machine/revoke", ""),
        ("GET", "/v1/live", ""),
    ];
    for (method, path, body) in refused {
        let request = gateway.request(method, path).header("content-type", "application/json").body(body.to_owned());
        let answer = gateway.answer(request).await;
        assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("reads_only")), "{method} {path}: {answer:?}");
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_serves_reads_from_a_standby_and_changes_nothing() {
    let (primary, writer, standby) = primary_and_standby().await;
    let gateway = reader(&standby).with_argument("--no-migrate").start().await;
    let ready = gateway.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["role"]), (200, &json!("reader")), "{ready:?}");
    assert_eq!(writer.get("/readyz").await.json()["role"], "full");

    reads_like(&gateway, &writer).await;
    refuses_changes(&gateway).await;
    assert_eq!(primary.sql("select count(*) from events"), "10");
    let log = std::fs::read_to_string(standby.path().join("log")).expect("the log of the standby");
    assert!(!log.contains("ERROR"), "nothing that the reader asks is refused: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_knows_applications_by_the_tables_of_the_standby_and_reads_on_when_that_is_promoted() {
    let (primary, writer, standby) = primary_and_standby().await;
    // The primary stands first, and the reader takes the standby.
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let setup = Setup::default().with("EYE_DATABASE_URL", format!("postgres://eye_reader@{hosts}/postgres"));
    let gateway = setup.with("EYE_ROLE", "reader").start().await;
    let on = |server: &Server| server.sql("select count(*) > 0 from pg_stat_activity where usename = 'eye_reader'");
    assert_eq!((on(&primary).as_str(), on(&standby).as_str()), ("f", "t"), "it reads from the standby");

    let strange = ask(&gateway, "POST", "/v1/events", "eye_unknown", Some("{}")).await;
    assert_eq!(strange.status, 401, "who is not known learns nothing else: {strange:?}");
    let made =
        writer.post("/v1/applications", "application/json", r#"{"name":"analyst","token":true,"scopes":["read"]}"#);
    let token = made.await.json()["token"].as_str().expect("a token").to_owned();
    let status = async || ask(&gateway, "GET", "/v1/events", &token, None).await.status;
    eventually("the reader knows the token", async || (status().await == 200).then_some(())).await;
    let revoked = writer.post("/v1/applications/analyst/revoke", "application/json", "").await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    eventually("the reader knows that it was revoked", async || (status().await == 401).then_some(())).await;

    tokio::task::block_in_place(|| {
        primary.kill();
        standby.sql("select pg_promote()");
    });
    eventually("it reads on", async || (gateway.get("/v1/events").await.status == 200).then_some(())).await;
    assert_eq!(gateway.get("/readyz").await.json()["role"], "reader");
    assert_eq!(gateway.send(&numbered(100)).await.status, 503, "it stays a reader");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_a_standby_ends_for_the_log_of_its_primary_may_be_asked_again() {
    let (primary, writer, standby) = primary_and_standby().await;
    standby.sql("alter system set max_standby_streaming_delay = 0; select pg_reload_conf()");
    // Each row delays the role, so the read lasts long enough.
    primary.sql(
        "alter table events enable row level security; \
         create policy slow on events for select to eye_reader using (pg_sleep(0.3) is not null)",
    );
    let gateway = reader(&standby).start().await;
    let reading = async { gateway.get("/v1/events").await };
    let removing = async {
        let works = || standby.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'");
        eventually("the read is under way", async || (works() == "1").then_some(())).await;
        tokio::task::block_in_place(|| primary.sql("truncate events"));
    };
    let (answer, ()) = tokio::join!(reading, removing);
    assert_eq!((answer.status, &answer.json()["retry"]), (503, &json!("after")), "{answer:?}");
    eventually("it reads again", async || (gateway.get("/v1/events").await.status == 200).then_some(())).await;
    assert_eq!(writer.get("/v1/events").await.json()["events"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_says_what_it_lacks_and_how_old_is_what_it_reads() {
    let (primary, _writer, standby) = primary_and_standby().await;
    primary.sql("revoke select on counts from eye_reader");
    let gateway = reader(&standby).listen().await;
    let problem = eventually("the reader says what is wrong", async || {
        gateway.get("/readyz").await.json()["problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.ends_with("its role lacks rights: select on counts"), "{problem}");
    drop(gateway);
    primary.sql("grant select on counts to eye_reader");
    let gateway = reader(&standby).start().await;
    standby.sql("select pg_wal_replay_pause()");
    let age = async || gateway.figures().await.value("eye_replayed_commit_age_seconds", &[]).expect("a figure");
    let first = age().await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    eventually("the age grows", async || (age().await > first + 1.0).then_some(())).await;
    standby.sql("select pg_wal_replay_resume()");
}
