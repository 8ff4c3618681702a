//! Two releases on one database: a program on the schema of a later release, and on that of an earlier one.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;

use crate::support::cluster::Server;
use crate::support::{Gateway, SESSION, Setup, event, eventually, folder};

/// Changes that a later release may make to the schema so that this program can still use it.
const LATER: &str = "
    alter table events add column later text;
    alter table dead_letters add column later integer not null default 7;
    alter table applications add column later text not null default '';
    create table later (id integer primary key);
    insert into _sqlx_migrations (version, description, success, checksum, execution_time)
    values (9001, 'later', true, '\\x00', 0);
";

/// Runs a command of the program on a database. Returns its exit code and its output.
fn eye(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    let output = command.args(arguments).env("EYE_DATABASE_URL", server.url()).output().expect("the built program");
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    (output.status.code(), text)
}

fn versions(server: &Server) -> String {
    server.sql("select string_agg(version::text, ' ' order by version) from _sqlx_migrations")
}

fn setup(server: &Server) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", server.url())
}

async fn stored(gateway: &Gateway, name: &str) {
    let answer = gateway.send(&event("upgrade", name, json!({}))).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// Migrates a database to the schema before the last migration.
async fn prepare_behind(server: &Server) {
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
    let mut files: Vec<_> =
        std::fs::read_dir(migrations).expect("migrations").flatten().map(|one| one.path()).collect();
    files.sort();
    files.pop();
    let behind = folder();
    for file in &files {
        std::fs::copy(file, behind.path().join(file.file_name().expect("a name"))).expect("a copy");
    }
    let pool = PgPoolOptions::new().max_connections(1).connect(&server.url()).await.expect("connected");
    Migrator::new(behind.path()).await.expect("migrations").run(&pool).await.expect("migrated");
    pool.close().await;
    server.sql(
        "insert into applications (name, networks, known_by, scopes) \
         values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}')",
    );
}

#[tokio::test]
async fn a_program_works_on_the_schema_of_a_later_release() {
    let server = Server::start();
    server.prepare();
    let mut gateway = setup(&server).start().await;
    stored(&gateway, "before").await;
    server.sql(LATER);
    let later = versions(&server);

    // It goes on while the schema changes, and starts on the new one.
    stored(&gateway, "during").await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    stored(&gateway, "after").await;
    let refused = gateway.send(&event("upgrade", "", json!({}))).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert_eq!(gateway.session(SESSION).await.len(), 3);
    let said = gateway.log().lines().filter(|line| line.contains("schema version 9001, which is newer")).count();
    assert_eq!(said, 1, "{}", gateway.log());
    eventually("the dead letter is kept", async || {
        (server.sql("select count(*), min(later) from dead_letters") == "1|7").then_some(())
    })
    .await;

    // Commands work on it too, so that a token can be revoked from a host of the old release.
    for (arguments, said) in [
        (&["app", "add", "shop", "--token"][..], "eye_"),
        (&["app", "rotate", "shop"], "eye_"),
        (&["app", "list"], "shop"),
        (&["app", "revoke", "shop"], ""),
        (&["dead-letters", "list"], "rejected"),
        (&["partitions", "list"], "events_default"),
        (&["migrate"], "schema version 9001, which is newer"),
    ] {
        let (code, text) = eye(&server, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    assert_eq!(versions(&server), later, "nothing has changed the schema");
}

#[tokio::test]
async fn a_program_that_is_below_the_floor_says_so_and_writes_nothing() {
    let server = Server::start();
    server.prepare();
    let mut gateway = setup(&server).start().await;
    stored(&gateway, "before").await;
    server.sql(LATER);
    server.sql("update schema_floor set version = 9001");
    let words = "serves programs that know version 9001 or later";

    // A running gateway ends when it learns of it.
    assert_eq!(gateway.ended().await.code(), Some(1));
    eventually("the reason is told", async || gateway.log().contains(words).then_some(())).await;
    let rows = "select count(*) from events";
    let before = server.sql(rows);
    gateway.begin();
    assert_eq!(gateway.ended().await.code(), Some(1));
    eventually("the reason is told", async || gateway.log().contains(words).then_some(())).await;
    for arguments in [&["app", "list"][..], &["app", "add", "shop"], &["dead-letters", "list"], &["migrate"]] {
        let (code, text) = eye(&server, arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    assert_eq!(server.sql(rows), before);
    assert_eq!(server.sql("select count(*) from applications where name = 'shop'"), "0");
}

#[tokio::test]
async fn commands_leave_the_schema_of_an_earlier_release_alone() {
    let server = Server::start();
    for arguments in [&["app", "list"][..], &["app", "add", "shop"], &["dead-letters", "list"], &["partitions", "list"]]
    {
        let (code, text) = eye(&server, arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        assert!(text.contains("no schema yet") && text.contains("eye migrate"), "{arguments:?}: {text}");
    }
    assert_eq!(server.sql("select count(*) from pg_tables where schemaname = 'public'"), "0");

    prepare_behind(&server).await;
    let behind = versions(&server);
    let (code, text) = eye(&server, &["app", "list"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("this program needs version") && text.contains("eye migrate"), "{text}");

    // A gateway that may not migrate waits until another one has.
    let mut gateway = setup(&server).with_argument("--no-migrate").listen().await;
    eventually("the log says what to do", async || gateway.log().contains("eye migrate").then_some(())).await;
    gateway.unready().await;
    assert_eq!(gateway.send(&event("upgrade", "early", json!({}))).await.status, 503);
    assert_eq!(versions(&server), behind, "nothing has changed the schema");
    assert_eq!(eye(&server, &["migrate"]).0, Some(0));
    gateway.is_ready().await;
    stored(&gateway, "late").await;
    assert_eq!(eye(&server, &["app", "list"]).0, Some(0));
}
