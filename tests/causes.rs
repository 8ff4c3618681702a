//! The causes why the database cannot be used: the log has one sentence with the way to mend it, once when the outage
//! begins, once when its cause changes, and once when it is over.

use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::support::cluster::Server;
use crate::support::load::numbered;
use crate::support::proxy::Proxy;
use crate::support::{Gateway, Setup, eventually, folder};

/// The warnings and errors that contain these words.
fn lines(gateway: &Gateway, words: &str) -> Vec<String> {
    let log = gateway.log();
    // These gateways have no modules, and their servers have few locks. The log warns of both.
    let other = |line: &str| line.contains("modules") || line.contains("max_locks_per_transaction");
    let loud = |line: &&str| (line.contains(" WARN ") || line.contains(" ERROR ")) && !other(line);
    log.lines().filter(loud).filter(|line| line.contains(words)).map(str::to_owned).collect()
}

/// Makes the gateway write and read for some seconds. All of that is refused.
async fn tries(gateway: &Gateway) {
    for number in 0..3 {
        let answer = gateway.send(&numbered(number)).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("database_away")), "{answer:?}");
        assert_eq!(gateway.get("/readyz").await.status, 503);
        // Meanwhile the gateway tries by itself, which must add no line. A slow machine tries less often and passes all the same.
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

/// Waits until an event is stored.
async fn stores(gateway: &Gateway) {
    // The second time it is a duplicate.
    let is_there = async || (gateway.send(&numbered(9)).await.status <= 201).then_some(());
    eventually("an event is stored", is_there).await;
}

fn gateway_on(url: &str) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", url).with("EYE_ANSWER_MS", 1_000)
}

/// The message of a command on the same database, and its exit code.
fn command(url: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(["app", "list"]).env("EYE_DATABASE_URL", url).stdin(Stdio::null());
    let output = command.output().expect("the built program");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A server with roles that cannot sign in, each for another reason.
fn server_with_roles() -> (Server, String) {
    let server = Server::start();
    server.prepare();
    server.sql(
        "create role known login password 'right'; create role crowded login connection limit 0;
         create role blind login; revoke usage on schema public from public",
    );
    let rules = "host all known 127.0.0.1/32 scram-sha-256\nhost all crowded 127.0.0.1/32 trust\n\
        host all blind 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\nlocal all all trust\n";
    std::fs::write(server.path().join("data/pg_hba.conf"), rules).expect("written");
    server.sql("select pg_reload_conf()");
    let place = server.url().split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("a place").to_owned();
    (server, place)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_cause_is_told_once_in_one_sentence_that_says_how_to_mend_it() {
    let (_server, place) = server_with_roles();
    let folder = folder();
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let other_place = other.local_addr().expect("its address");
    let answering = async {
        loop {
            let (mut stream, _) = other.accept().await.expect("a connection");
            // Any answer will do: this is no Postgres.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    };
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent_place = silent.local_addr().expect("its address");
    let causes = [
        ("postgres://u@127.0.0.1:1/d".to_owned(), "nothing listens at 127.0.0.1:1; start Postgres there"),
        (format!("postgres://known:wrong@{place}/postgres"), "password authentication failed for user \"known\"; mend"),
        (format!("postgres://known@{place}/postgres"), "there is none in database_url"),
        (format!("postgres://postgres@{place}/nowhere"), "database \"nowhere\" does not exist; create"),
        (format!("postgres://stranger@{place}/postgres"), "let the role in"),
        (
            format!("postgres://crowded@{place}/postgres"),
            "too many connections for role \"crowded\"; the server has no",
        ),
        (
            format!("postgres://postgres@{place}/postgres?sslmode=require"),
            "the server has no TLS, and sslmode asks for it",
        ),
        (format!("postgres:///d?host={}", folder.path().display()), "there is no socket file"),
        ("postgres://u@nowhere.invalid/d".to_owned(), "the name nowhere.invalid has no address"),
        (format!("postgres://u@{other_place}/d"), "what answers there is no Postgres"),
        (format!("postgres://u@{silent_place}/d?sslmode=disable"), "does not answer within"),
    ];
    let told = async {
        let mut gateways = Vec::new();
        for (url, words) in &causes {
            gateways.push((gateway_on(url).listen().await, url, words));
        }
        for (gateway, url, words) in &gateways {
            eventually(url, async || (!lines(gateway, "the database is away").is_empty()).then_some(())).await;
            tries(gateway).await;
            let away = lines(gateway, "the database is away");
            assert!(away.len() == 1 && away[0].contains(*words), "{url}: {words}: {}", gateway.log());
            let loud = lines(gateway, "");
            assert_eq!(loud.len(), 1, "{url}: nothing else is told of it: {}", gateway.log());
            for noise in ["at line", "pool timed out", "error returned from database", "wrong@"] {
                assert!(!gateway.log().contains(noise), "{url}: {}", gateway.log());
            }
        }
        for (url, words) in &causes {
            let url = url.clone();
            let (code, said) = tokio::task::spawn_blocking(move || command(&url)).await.expect("it ends");
            assert_eq!(code, Some(1), "{said}");
            assert_eq!(said.matches(*words).count(), 1, "{words}: {said}");
            // One line, beside the one that names the database.
            let causes = said.lines().filter(|line| !line.starts_with("eye: on the ")).count();
            assert!(causes == 1 && !said.contains("at line"), "{said}");
        }
    };
    tokio::select! {
        () = told => {}
        () = answering => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_when_it_begins_when_its_cause_changes_and_when_it_is_over() {
    let server = Server::start();
    server.prepare();
    let mut proxy = Proxy::start(server.socket()).await;
    let gateway = gateway_on(&proxy.url()).start().await;
    assert_eq!(gateway.send(&numbered(0)).await.status, 201);
    proxy.freeze(true);
    let told = async |words: &str, count: usize| {
        eventually(words, async || (gateway.log().matches(words).count() >= count).then_some(())).await;
    };
    told("the database is away", 1).await;
    tries(&gateway).await;
    proxy.leave().await;
    told("for another cause", 1).await;
    tries(&gateway).await;
    let loud = lines(&gateway, "the database is");
    assert_eq!(loud.len(), 2, "{}", gateway.log());
    assert!(loud[0].contains("the database is away") && loud[1].contains("nothing listens at"), "{loud:#?}");
    proxy.freeze(false);
    proxy.come_back().await;
    told("the database is back", 1).await;
    stores(&gateway).await;
    proxy.leave().await;
    told("the database is away", 2).await;
    proxy.come_back().await;
    told("the database is back", 2).await;
    stores(&gateway).await;
    let log = gateway.log();
    assert!(
        log.lines().filter(|line| line.contains("the database is back")).all(|line| line.contains("after=")),
        "{log}"
    );
    assert_eq!(lines(&gateway, "the database is away").len(), 2, "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_is_no_absence() {
    let (_server, place) = server_with_roles();
    let url = format!("postgres://blind@{place}/postgres");
    let (code, said) = command(&url);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("may not use") && said.contains("grant usage on schema public to blind"), "{said}");
    let gateway = gateway_on(&url).with_argument("--no-migrate").listen().await;
    let problem = eventually("the missing right is told", async || {
        gateway.get("/readyz").await.json()["problem"].as_str().map(str::to_owned)
    })
    .await;
    assert!(problem.contains("usage on schema public"), "{problem}");
    assert!(!gateway.log().contains("has no schema yet"), "{}", gateway.log());
    // A password file that cannot be read. The message comes when the server asks for a password.
    let folder = folder();
    let mut asked = Command::new(env!("CARGO_BIN_EXE_eye"));
    asked.args(["app", "list"]).env("EYE_DATABASE_URL", format!("postgres://known@{place}/postgres"));
    let said = asked.env("PGPASSFILE", folder.path()).output().expect("the built program").stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("password file") && said.contains("cannot be read"), "{said}");
}
