//! An upgrade and its way back: the program of before and this one on the same database, under load. `PROGRAM_BEFORE` is
//! the path of the program of before; `make test-upgrade` builds it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tokio::task::block_in_place;

use crate::support::cluster::Server;
use crate::support::load::{Chance, LETTERS, Ledger, Load, ROWS, WRONG_COUNTS, numbered};
use crate::support::{Gateway, Setup, eventually};

/// Senders to each program, and most events of a request.
const SENDERS: u32 = 4;
const EVENTS_MOST: u64 = 20;
/// Events that each load stores in each phase.
const EVENTS: u64 = 400;
/// The number of the first event of the second load.
const SECOND: u64 = 1_000_000;

/// The program of before.
fn before() -> PathBuf {
    let path = std::env::var_os("PROGRAM_BEFORE").expect("PROGRAM_BEFORE; make test-upgrade sets it");
    let path = PathBuf::from(path);
    assert!(path.is_file(), "{} is no file", path.display());
    path
}

/// Runs a command of a program on the database. Returns its output.
fn run(program: &Path, server: &Server, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).env("EYE_DATABASE_URL", server.url()).output().expect("the program");
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{} {arguments:?}: {text}", program.display());
    text
}

fn setup(server: &Server) -> Setup {
    // One kind of five is refused and one ends in a fault, so that both programs write dead letters.
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url());
    setup.with_module("load/kind%203.wasm", "rejects").with_module("load/kind%204.wasm", "traps")
}

/// Asks a gateway. The answers of the program of before have its own forms, so nothing checks them against this one's.
async fn ask(gateway: &Gateway, path: &str, token: Option<&str>) -> (u16, Value) {
    let mut request = gateway.request("GET", path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.expect("a body")).unwrap_or_default())
}

async fn has_status(gateway: &Gateway, path: &str, token: &str, status: u16) {
    let probe = async || (ask(gateway, path, Some(token)).await.0 == status).then_some(());
    eventually(&format!("{path} answers {status}"), probe).await;
}

/// The ids in a list of an answer.
fn ids(body: &Value, list: &str) -> Vec<String> {
    let list = body[list].as_array().unwrap_or_else(|| panic!("no {list}: {body}"));
    list.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

/// Both programs read the same.
async fn read_the_same(one: &Gateway, other: &Gateway) {
    let session = numbered(0)["session_id"].as_str().expect("a session").to_owned();
    let paths = [
        (format!("/v1/sessions/{session}?limit=1000"), "events"),
        ("/v1/events?from=2021-01-01T00:00:00Z&to=2021-01-02T00:00:00Z&limit=1000".to_owned(), "events"),
        ("/v1/dead-letters?limit=1000".to_owned(), "dead_letters"),
    ];
    for (path, list) in &paths {
        let ((status, of_one), (other_status, of_other)) = (ask(one, path, None).await, ask(other, path, None).await);
        assert_eq!((status, other_status), (200, 200), "{path}: {of_one} {of_other}");
        let found = ids(&of_one, list);
        assert!(!found.is_empty(), "{path} has something");
        assert_eq!(found, ids(&of_other, list), "{path}");
    }
}

/// Compares all answers with all rows, and the counts with the rows.
async fn hold(server: &Server, ledgers: &[&Ledger]) {
    for ledger in ledgers {
        let which = if ledger.is_of(SECOND) { ">=" } else { "<" };
        ledger.hold_against(&server.sql(&format!("{ROWS} where (data ->> 'n')::bigint {which} {SECOND}")));
        let number = "(convert_from(raw, 'UTF8')::json -> 'data' ->> 'n')::bigint";
        ledger.hold_against_letters(&server.sql(&format!("{LETTERS} and {number} {which} {SECOND}")));
    }
    eventually("the counts are those of the rows", async || server.sql(WRONG_COUNTS).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_of_before_works_beside_this_one_and_comes_back() {
    let (before, this) = (before(), PathBuf::from(env!("CARGO_BIN_EXE_eye")));
    let mut chance = Chance::new();
    let server = Server::start();
    // The schema of before, with data.
    block_in_place(|| run(&before, &server, &["migrate"]));
    server.sql(
        "insert into applications (name, networks, known_by, scopes) \
         values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}')",
    );
    let versions = || server.sql("select max(version) from _sqlx_migrations");
    let schema_before = versions();
    let mut old = setup(&server).with_program(&before).start().await;
    let mut first = Load::start(old.address(), SENDERS, EVENTS_MOST, &mut chance);
    first.stores(EVENTS).await;
    let old_token =
        token(&block_in_place(|| run(&before, &server, &["app", "add", "old", "--token", "--scope", "read"])));

    // This program migrates while that of before works.
    block_in_place(|| run(&this, &server, &["migrate"]));
    println!("the schema was {schema_before} and is {}", versions());
    first.stores(EVENTS).await;

    // Both work side by side: applications, tokens, repeated events and reading.
    let mut new = setup(&server).with_argument("--no-migrate").start().await;
    let ledger = Arc::new(Ledger::beginning_at(SECOND));
    let mut second = Load::start_with(Arc::clone(&ledger), new.address(), SENDERS, EVENTS_MOST, &mut chance);
    second.stores(EVENTS).await;
    first.stores(EVENTS).await;
    let new_token =
        token(&block_in_place(|| run(&this, &server, &["app", "add", "new", "--token", "--scope", "read"])));
    for gateway in [&old, &new] {
        for token in [&old_token, &new_token] {
            has_status(gateway, "/v1/categories", token, 200).await;
        }
    }
    block_in_place(|| run(&this, &server, &["app", "revoke", "old"]));
    block_in_place(|| run(&before, &server, &["app", "revoke", "new"]));
    for gateway in [&old, &new] {
        for token in [&old_token, &new_token] {
            has_status(gateway, "/v1/categories", token, 401).await;
        }
    }
    // What one program stored, the other calls a duplicate.
    first.turn_to(new.address());
    second.turn_to(old.address());
    first.stores(EVENTS).await;
    second.stores(EVENTS).await;
    first.turn_to(old.address());
    second.stop().await;
    first.stop().await;
    read_the_same(&old, &new).await;
    hold(&server, &[&first.ledger, &ledger]).await;

    // The way back: this program ends, and that of before starts again on the schema of this one.
    new.signal("TERM");
    assert_eq!(new.ended().await.code(), Some(0));
    old.signal("TERM");
    assert_eq!(old.ended().await.code(), Some(0));
    old.restart().await;
    let mut third = Load::start_with(Arc::clone(&first.ledger), old.address(), SENDERS, EVENTS_MOST, &mut chance);
    third.stores(EVENTS).await;
    assert_eq!(ask(&old, "/v1/categories", None).await.0, 200);
    block_in_place(|| run(&before, &server, &["app", "list"]));
    third.stop().await;
    hold(&server, &[&first.ledger, &ledger]).await;

    // And forward once more.
    new.restart().await;
    read_the_same(&old, &new).await;
    let all = first.ledger.said_there().len() + ledger.said_there().len();
    println!(
        "{all} events were said to be there, none is lost or doubled; {}",
        server.sql("select count(*) from events")
    );
}

/// The token in the output of `eye app add`.
fn token(output: &str) -> String {
    let found = output.split_whitespace().find(|word| word.starts_with("eye_"));
    found.unwrap_or_else(|| panic!("no token: {output}")).to_owned()
}
