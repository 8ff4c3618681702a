//! `eye backup` and `eye restore`: the same rows, tokens and answers afterwards; nothing that is there is replaced.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::cluster::Server;
use crate::support::{Gateway, SESSION, Setup, event, eventually, folder, pageview};

/// Runs the program in a folder. Returns the exit code and what it printed.
fn eye(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(arguments).current_dir(folder).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.output().expect("the built program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What a backup must keep: every row of these tables, in any order. A new data dir has a new token for the administrator,
/// so that application differs.
fn rows(gateway: &Gateway) -> Vec<String> {
    let tables = [
        "(select * from applications where not 'admin' = any (scopes))",
        "application_tokens",
        "events",
        "dead_letters",
        "_sqlx_migrations",
        "trimmed",
    ];
    let rows = |table: &&str| {
        gateway.sql(&format!("select count(*), md5(string_agg(t::text, '|' order by t::text)) from {table} t"))
    };
    tables.iter().map(rows).collect()
}

/// A gateway with events of several months, a dead letter and an application with a token. Returns the token.
async fn filled(setup: Setup) -> (Gateway, String) {
    let gateway = setup.with_module("page interaction/pageview.wasm", "pageview").start().await;
    let place = gateway.data_dir().with_file_name("");
    let (code, said, complaints) =
        eye(&place, &[], &["app", "add", "shop", "--token", "--scope", "ingest", "--data-dir", "data"]);
    assert_eq!(code, Some(0), "{complaints}");
    let token = said.trim().rsplit(char::is_whitespace).next().expect("a token").to_owned();
    let many: Vec<Value> = (1..=12)
        .map(|month| {
            let mut one = event("a", "b", json!({"number": month}));
            one["timestamp"] = json!(format!("2020-{month:02}-03T00:00:00Z"));
            one
        })
        .collect();
    let answer = gateway.post("/v1/events", "application/json", json!(many).to_string()).await;
    assert_eq!((answer.status, &answer.json()["stored"]), (200, &json!(12)), "{answer:?}");
    let exact = r#"{"session_id":"e2085be5-9137-4e4e-80b5-f1ffddc25423","category":"a","name":"exact","timestamp":"2021-05-05T00:00:00Z","data":{"n":123456789012345678901234567890.12345,"t":"\u00e4 \n"}}"#;
    assert_eq!(gateway.post("/v1/events", "application/json", exact).await.status, 201);
    assert_eq!(gateway.send(&pageview()).await.status, 201);
    assert_eq!(gateway.send(&event("page interaction", "pageview", json!({"host": 7}))).await.status, 422);
    eventually("the letter is kept", async || (gateway.sql("select count(*) from dead_letters") == "1").then_some(()))
        .await;
    (gateway, token)
}

/// Restores a file into a new data dir, and starts a gateway on it.
async fn restored(file: &Path, setup: Setup, environment: &[(&str, &str)]) -> Gateway {
    let place: TempDir = folder();
    let (code, said, complaints) =
        eye(place.path(), environment, &["restore", file.to_str().expect("a path"), "--data-dir", "data"]);
    assert_eq!(code, Some(0), "{complaints}");
    assert!(said.contains("restored about 14 events and 1 dead letters"), "{said}");
    setup.with_module("page interaction/pageview.wasm", "pageview").without_cluster().start_in(place).await
}

async fn is_the_same(gateway: &Gateway, token: &str, before: &(Vec<String>, Vec<Value>)) {
    assert_eq!((&rows(gateway), &gateway.session(SESSION).await), (&before.0, &before.1));
    let late = event("a", "late", json!({}));
    let request = gateway.request("POST", "/v1/events").bearer_auth(token).json(&late);
    assert_eq!(gateway.answer(request).await.status, 201, "the token is known");
    let stats = gateway.get("/v1/stats?from=2020-01-01T00:00:00Z&to=2022-01-01T00:00:00Z&bucket=day").await;
    assert_eq!(stats.status, 200, "{stats:?}");
    assert!(gateway.admin_token().is_some(), "a new data dir has a token for the administrator");
    let applications = gateway.answer(gateway.as_admin(gateway.request("GET", "/v1/applications"))).await;
    assert_eq!(applications.status, 200, "{applications:?}");
}

#[tokio::test]
async fn a_restored_database_has_every_row_and_knows_every_token() {
    let (gateway, token) = filled(Setup::default()).await;
    let (file, before) =
        (gateway.data_dir().with_file_name("b.dump"), (rows(&gateway), gateway.session(SESSION).await));
    let place = file.parent().expect("a folder").to_owned();
    let (code, said, complaints) = eye(&place, &[], &["backup", "b.dump", "--data-dir", "data"]);
    assert_eq!(code, Some(0), "{complaints}");
    assert!(said.starts_with("b.dump: about "), "{said}");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("the backup"));
    assert_eq!(mode & 0o777, 0o600, "it is for this user alone");
    assert!(!place.join("b.dump.part").exists());
    let other = restored(&file, Setup::default(), &[]).await;
    is_the_same(&other, &token, &before).await;

    let (code, _, complaints) = eye(&place, &[], &["backup", "b.dump", "--data-dir", "data"]);
    assert!(code == Some(1) && complaints.contains("exists already"), "{complaints}");
    let (code, _, complaints) = eye(&place, &[], &["restore", "b.dump", "--data-dir", "data"]);
    assert!(code == Some(1) && complaints.contains("has tables already"), "{complaints}");
    assert_eq!(rows(&gateway), before.0, "a refused restore changes nothing");
}

#[tokio::test]
async fn a_database_of_ones_own_is_copied_over_tcp() {
    let (from, to) = (Server::start(), Server::start());
    from.prepare();
    from.sql("alter role postgres password 'pass:w@rd ''7'");
    let place = folder();
    let url = |server: &Server| server.url().replace("postgres@", "postgres:pass%3Aw%40rd%20%277@");
    for (server, command) in [(&from, "backup"), (&to, "restore")] {
        let (code, said, complaints) = eye(place.path(), &[("EYE_DATABASE_URL", &url(server))], &[command, "b.dump"]);
        assert_eq!(code, Some(0), "{complaints}");
        assert!(said.contains("events and 0 dead letters"), "{said}");
    }
    let names = "select string_agg(name, ',' order by name) from applications";
    assert_eq!(from.sql(names), to.sql(names));
    let tables = "select string_agg(relname, ',' order by relname) from pg_class where relkind in ('r', 'p', 'i', 'I') and relnamespace = 'public'::regnamespace";
    assert_eq!(from.sql(tables), to.sql(tables));
    // Nobody may call the functions that lend the rights of their owner, unless an operator grants it.
    let open = "create role nobody_else; select count(*) from pg_proc \
        where pronamespace = 'public'::regnamespace and prosecdef and has_function_privilege('nobody_else', oid, 'execute')";
    let lends = "select count(*) > 0 from pg_proc where pronamespace = 'public'::regnamespace and prosecdef";
    for server in [&from, &to] {
        assert_eq!((server.sql(lends).as_str(), server.sql(open).as_str()), ("t", "0"));
    }
}

#[test]
fn what_is_no_backup_is_refused_before_anything_starts() {
    let place = folder();
    std::fs::write(place.path().join("text"), "not a backup at all").expect("a file");
    std::fs::write(place.path().join("empty"), "").expect("a file");
    std::fs::write(place.path().join("cut"), b"PGDMP\x01\x0e\x00").expect("a file");
    for (file, words) in
        [("text", "is no backup"), ("empty", "is no backup"), ("none", "cannot be read"), ("cut", "cannot be read")]
    {
        let (code, _, complaints) = eye(place.path(), &[], &["restore", file, "--data-dir", "data"]);
        assert!(code == Some(1) && complaints.contains(words), "{file}: {complaints}");
        assert_eq!(place.path().join("data").exists(), file == "cut", "{file}");
    }
    let (code, _, complaints) = eye(place.path(), &[], &["backup", "new", "--data-dir", "data"]);
    assert!(code == Some(1) && complaints.contains("no tables of a gateway"), "{complaints}");
    assert!(!place.path().join("new").exists() && !place.path().join("new.part").exists());
}

/// The folder of another major version, where `./setup operate` puts it.
fn other_version() -> String {
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).expect("target/<profile>/eye");
    let folder = target.join("postgresql-16/pgserver/pginstall/bin");
    assert!(folder.join("postgres").exists(), "{} is missing: run ./setup operate", folder.display());
    folder.display().to_string()
}

#[tokio::test]
async fn across_major_versions_a_cluster_moves_by_backup_and_restore() {
    let newer = other_version();
    let environment = [("EYE_POSTGRES_BIN", newer.as_str())];
    let (mut gateway, token) = filled(Setup::default()).await;
    let (file, before) =
        (gateway.data_dir().with_file_name("b.dump"), (rows(&gateway), gateway.session(SESSION).await));
    gateway.signal("TERM");
    gateway.ended().await;
    let place = file.parent().expect("a folder").to_owned();
    // The program finds that version in the usual folders, though the newer one is named for later.
    let (code, _, complaints) = eye(&place, &environment, &["backup", "b.dump", "--data-dir", "data"]);
    assert_eq!(code, Some(0), "{complaints}");
    let other = restored(&file, Setup::default().with("EYE_POSTGRES_BIN", &newer), &environment).await;
    assert_eq!(other.sql("select current_setting('server_version_num')::int / 10000"), "16");
    is_the_same(&other, &token, &before).await;
    // And back, so that nobody is locked in: the older version may not read what the newer one writes, and says so.
    let file = file.with_file_name("back.dump");
    let arguments = ["backup", file.to_str().expect("a path"), "--data-dir", "data"];
    let (code, _, complaints) = eye(other.data_dir().parent().expect("a folder"), &environment, &arguments);
    assert_eq!(code, Some(0), "{complaints}");
    let place = folder();
    let arguments = ["restore", file.to_str().expect("a path"), "--data-dir", "data"];
    let (code, _, complaints) = eye(place.path(), &[("EYE_POSTGRES_BIN", "/usr/lib/postgresql/15/bin")], &arguments);
    assert!(code == Some(1) && complaints.contains("a newer pg_dump wrote it"), "{code:?} {complaints}");
}
