//! The databases of a gateway: triggers that raise errors, roles with few rights, unusable servers, several servers,
//! and all kinds of TLS.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use eye::batch::{Failure, Sink as _};
use eye::store::{EventSink, LibpqEnvironment, Store};
use eye_event::event::{EventRow, Text};
use serde_json::json;
use uuid::Uuid;

use crate::readers::documented_role;
use crate::support::cluster::{Server, give_to_postgres};
use crate::support::load::{Chance, Ended, Ledger, ROWS, numbered};
use crate::support::proxy::{At, Fault, How, Proxy};
use crate::support::{Gateway, Setup, eventually};

fn setup(url: &str) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", url)
}

fn row(number: u32) -> EventRow {
    EventRow {
        id: Uuid::from_u128(u128::from(number)),
        session_id: Uuid::from_u128(1),
        timestamp_us: 1_782_864_000_000_000,
        received_at_us: 1_782_864_000_000_000 + i64::from(number),
        category: Text::from("shop"),
        name: Text::from("sale"),
        application_id: 1,
        module: None,
        data: Text::from(format!("{{\"n\":{number}}}")),
        raw: bytes::Bytes::new(),
        redriven: false,
    }
}

fn store(url: &str) -> Store {
    Store::new(url, LibpqEnvironment::default(), 2, Duration::from_secs(5), Duration::from_secs(5)).expect("a URL")
}

/// Writes an event, or returns why that failed.
async fn writes(sink: &mut EventSink, number: u32) -> Result<(), String> {
    let row = row(number);
    let written = match sink.write(&[&row]).await {
        Ok(_) => Ok(()),
        Err(
            Failure::Transient(cause) | Failure::Data { message: cause, .. } | Failure::Refusal { message: cause, .. },
        ) => Err(cause),
    };
    sink.batch_ended().await;
    written
}

/// Migrates the schema and writes an event, both over this URL.
async fn serves(url: &str) -> Result<(), String> {
    let store = store(url);
    store.migrate().await.map_err(|error| error.to_string())?;
    let number = u32::from_be_bytes(*Uuid::now_v7().as_bytes().last_chunk().expect("16 bytes"));
    writes(&mut store.event_sink(), number).await
}

/// Adds a trigger that raises `code` for events whose number is `which`.
fn raise(server: &Server, code: &str, which: &str) {
    server.sql(&format!(
        "create or replace function raise() returns trigger language plpgsql as $$ begin \
             if {which} then raise exception 'as it likes' using errcode = '{code}'; end if; return new; end; $$; \
         create or replace trigger raise before insert on events for each row execute function raise()"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_trigger_raises_costs_the_events_that_it_is_raised_for_and_is_told_by_its_class() {
    let server = Server::start();
    server.prepare();
    let gateway = setup(&server.url()).start().await;
    let mut first = 0;
    for code in ["XX000", "XX001", "XX002", "F0000", "54000", "38001", "42501", "22012", "23514", "P0001"] {
        let of_the_row = code.starts_with("22") || code.starts_with("23") || code == "P0001";
        raise(&server, code, "(new.data ->> 'n')::bigint % 10 = 3");
        let events: Vec<_> = (first..first + 30).map(numbered).collect();
        first += 30;
        let answer = gateway.send(&json!(events)).await;
        let body = answer.json();
        assert_eq!((answer.status, body["stored"].as_u64()), (207, Some(27)), "{code}: {body}");
        let (ended, other) = if of_the_row { ("quarantined", "unfinished") } else { ("unfinished", "quarantined") };
        assert_eq!((body[ended].as_u64(), body[other].as_u64().unwrap_or_default()), (Some(3), 0), "{code}: {body}");
        assert_eq!(server.sql("select count(*) from events").parse(), Ok(first / 30 * 27), "{code}");

        raise(&server, code, "true");
        let alone = gateway.send(&numbered(1_000_000)).await;
        let expected = if of_the_row { (202, "unstorable") } else { (503, "not_kept") };
        assert_eq!((alone.status, alone.json()["code"].as_str()), (expected.0, Some(expected.1)), "{code}: {alone:?}");
        let all: Vec<_> = (2_000_000..2_000_040).map(numbered).collect();
        let body = gateway.send(&json!(all)).await.json();
        assert_eq!(body[ended].as_u64(), Some(40), "{code}: {body}");
    }
    let figures = gateway.figures().await;
    let refused = figures.value("eye_refused_batches_total", &[("queue", "events")]);
    assert!(refused >= Some(6.0), "{refused:?}");
    let unwritable = figures.value("eye_unwritable_items_total", &[("queue", "events")]);
    assert_eq!(unwritable, Some(f64::from(7 * (3 + 1 + 40))), "each of them");
    for number in 0..3 {
        gateway.send(&numbered(3_000_000 + number)).await;
    }
    eventually("the log tells", async || gateway.log().contains("look for a trigger or a constraint").then_some(()))
        .await;
    server.sql("drop trigger raise on events");
    assert_eq!(gateway.send(&numbered(1_000_000)).await.status, 201, "once the trigger is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_needs_no_right_to_make_temporary_tables() {
    let server = Server::start();
    server.sql(
        "revoke temporary on database postgres from public; create role writer login; \
         grant usage, create on schema public to writer",
    );
    let url = server.url().replace("postgres://postgres@", "postgres://writer@");
    assert_eq!(serves(&url).await, Ok(()));
    server.sql(
        "insert into applications (name, networks, known_by, scopes) \
         values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}')",
    );
    let gateway = setup(&url).start().await;
    let mut event = numbered(1);
    event["id"] = json!(Uuid::now_v7());
    assert_eq!(gateway.send(&event).await.status, 201);
    let answer = gateway.send(&json!([event, numbered(2)])).await;
    let body = answer.json();
    assert_eq!((answer.status, body["stored"].as_u64(), body["duplicate"].as_u64()), (200, Some(1), Some(1)), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_role_of_the_documentation_has_all_rights_that_a_gateway_uses() {
    let server = Server::start();
    server.prepare();
    server.sql(&documented_role("eye_gateway"));
    server.sql(
        "insert into applications (name, token_digests, known_by, scopes) \
         values ('clerk', array[sha256('eye_token')], 'token', '{read}')",
    );
    let url = server.url().replace("postgres://postgres@", "postgres://eye_gateway@");
    let gateway = setup(&url).with_argument("--no-migrate").start().await;
    let events: Vec<_> = (0..100).map(numbered).collect();
    for status in [200, 200] {
        assert_eq!(gateway.send(&json!(events)).await.status, status);
    }
    assert_eq!(gateway.send(&numbered(1_000)).await.status, 201);
    assert_eq!(gateway.send(&json!({"category": "load"})).await.status, 422);
    let with_token = gateway.request("GET", "/v1/events").bearer_auth("eye_token");
    assert_eq!(gateway.answer(with_token).await.status, 200);
    for path in ["/v1/events", "/v1/sessions", "/v1/categories", "/v1/categories/load", "/v1/stats", "/v1/dead-letters"]
    {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
    let redriven =
        gateway.post("/v1/dead-letters/redrive", "application/json", r#"{"filter":{},"dry_run":false}"#).await;
    assert_eq!(redriven.status, 200, "{redriven:?}");
    eventually("counts are folded", async || (server.sql("select count(*) from count_deltas") == "0").then_some(()))
        .await;
    let noted = || server.sql("select count(*) from application_tokens where last_used_at is not null");
    eventually("the use of the token is noted", async || (noted() == "1").then_some(())).await;
    let log = std::fs::read_to_string(server.path().join("log")).expect("the server's log");
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("permission denied")).collect();
    assert!(denied.is_empty(), "{denied:?}");
}

/// The problem of the database in `/readyz`, as soon as it has one.
async fn problem(gateway: &Gateway) -> String {
    eventually("the gateway says what is wrong", async || {
        let answer = gateway.get("/readyz").await;
        let problem = answer.json()["problem"].as_str().map(str::to_owned)?;
        assert_eq!(answer.status, 503, "{problem}");
        Some(problem)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_be_used_is_told_with_its_reason_until_it_can() {
    let server = Server::initialized(&["-E", "SQL_ASCII", "--no-locale"], "-c fsync=off", |_| {});
    server.prepare();
    let gateway = setup(&server.url()).listen().await;
    let told = problem(&gateway).await;
    assert!(told.contains("SQL_ASCII") && told.contains("UTF8"), "{told}");
    drop(gateway);

    let server = Server::start();
    server.prepare();
    let mut gateway = setup(&server.url()).start().await;
    server.sql("alter system set default_transaction_read_only = on; select pg_reload_conf()");
    let told = problem(&gateway).await;
    assert!(told.contains("read-only"), "{told}");
    server.sql("set default_transaction_read_only = off; alter system set default_transaction_read_only = off");
    server.sql("select pg_reload_conf()");
    gateway.is_ready().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    eventually("the log tells of both", async || {
        let log = gateway.log();
        (log.contains("cannot be used") && log.contains("can be used again")).then_some(())
    })
    .await;

    server.sql("create role reader login; grant usage on schema public to reader; grant select on all tables in schema public to reader");
    let gateway = setup(&server.url().replace("postgres://postgres@", "postgres://reader@")).listen().await;
    let told = problem(&gateway).await;
    assert!(told.contains("insert on events") && told.contains("delete on count_deltas"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_for_all_tables_does_not_keep_counts_from_being_folded() {
    let server = Server::start_with("-c fsync=off -c wal_level=logical");
    let store = store(&server.url());
    store.migrate().await.expect("migrated");
    tokio::task::block_in_place(|| server.sql("create publication everything for all tables"));
    let mut sink = store.event_sink();
    for number in 0..3 {
        assert_eq!(writes(&mut sink, number).await, Ok(()));
    }
    assert_eq!(store.fold_counts(100).await.expect("folded"), 3);
    // The log reports a fold that cannot delete its deltas.
    tokio::task::block_in_place(|| server.sql("alter table count_deltas replica identity nothing"));
    assert_eq!(writes(&mut sink, 4).await, Ok(()));
    store.fold_counts(100).await.expect_err("refused");
    assert_eq!(store.folds_failed(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_promoted_is_found_by_itself() {
    let primary = Server::start();
    primary.prepare();
    let standby = primary.standby(primary.port());
    let place =
        |server: &Server| server.url().split('@').nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
    let (first, second) = (place(&primary).expect("a place"), place(&standby).expect("a place"));
    assert!(serves(&standby.url()).await.is_err(), "it cannot be written to");
    // The standby is first in the URL, and is passed over.
    let mut gateway = setup(&format!("postgres://postgres@{second},{first}/postgres")).start().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    assert_eq!(primary.sql("select count(*) from events"), "1");
    eventually("the standby has it", async || (standby.sql("select count(*) from events") == "1").then_some(())).await;
    tokio::task::block_in_place(|| primary.down());
    standby.sql("select pg_promote()");
    eventually("an event is stored again", async || (gateway.send(&numbered(2)).await.status == 201).then_some(()))
        .await;
    gateway.is_ready().await;
    assert_eq!(standby.sql("select count(*) from events"), "2");
    assert_eq!(gateway.get("/v1/stats?from=2021-01-01T00:00:00Z&to=2021-02-01T00:00:00Z").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_on_a_standby_is_not_ready_and_says_so_until_the_promotion() {
    let primary = Server::start();
    primary.prepare();
    let standby = primary.standby(primary.port());
    // First a gateway that starts on a standby, then one whose address moves to a standby.
    let mut gateway = setup(&standby.url()).listen().await;
    let told = problem(&gateway).await;
    assert_eq!(
        told,
        "the database cannot be used: it is a standby, which cannot be written to; name the primary in the URL"
    );
    let report = gateway.get("/readyz").await.json();
    assert_eq!((&report["ready"], &report["database"]), (&json!(false), &json!(false)), "{report}");
    assert!(report["reasons"].as_array().is_some_and(|reasons| reasons.contains(&json!("database"))), "{report}");
    let answer = gateway.send(&numbered(1)).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("database_away")), "{answer:?}");
    standby.sql("select pg_promote()");
    gateway.is_ready().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    let lines = gateway.log();
    let lines: Vec<&str> =
        lines.lines().filter(|line| line.contains("cannot be used") || line.contains("can be used")).collect();
    assert!(lines.len() == 2 && lines[0].contains("it is a standby"), "{lines:?}");

    let next = primary.standby(primary.port());
    let mut proxy = Proxy::start(primary.socket()).await;
    let mut gateway = setup(&proxy.url()).start().await;
    assert_eq!(gateway.send(&numbered(2)).await.status, 201);
    proxy.turn_to(next.socket()).await;
    assert!(problem(&gateway).await.contains("it is a standby"));
    let answer = gateway.send(&numbered(3)).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("database_away")), "{answer:?}");
    next.sql("select pg_promote()");
    gateway.is_ready().await;
    assert_eq!(gateway.send(&numbered(3)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_read_is_database_refused_and_not_database_away() {
    let server = Server::start();
    server.prepare();
    server.sql(
        "create role plain login; grant usage, create on schema public to plain; \
         grant all on all tables in schema public to plain; grant all on all sequences in schema public to plain; \
         create function raise() returns boolean language plpgsql as $$ begin raise exception 'as it likes' \
             using errcode = current_setting('eye.code'); end $$; \
         alter table events enable row level security; \
         create policy reading on events to plain \
             using (coalesce(current_setting('eye.code', true), '') = '' or raise())",
    );
    let url = server.url().replace("postgres://postgres@", "postgres://plain@");
    assert_eq!(setup(&server.url()).start().await.send(&numbered(1)).await.status, 201);
    let mut gateway = setup(&url).with_argument("--no-migrate").start().await;
    let read = "/v1/events?from=2021-01-01T00:00:00Z&to=2021-02-01T00:00:00Z";
    for code in ["0A000", "53200", "53100", "53400", "54001", "55P03", "58030", "XX000", "42501", "22012"] {
        server.sql(&format!("alter role plain set eye.code = '{code}'"));
        // A session keeps the setting of its start.
        server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'plain'");
        let answer = eventually("the read is refused", async || {
            let answer = gateway.get(read).await;
            (answer.status != 200 && answer.json()["code"] != "database_away").then_some(answer)
        })
        .await;
        let body = answer.json();
        assert_eq!(
            (answer.status, body["code"].as_str(), body["retry"].as_str()),
            (500, Some("database_refused"), Some("safe")),
            "{code}: {body}"
        );
        assert!(body["detail"].as_str().is_some_and(|detail| detail.contains(&format!("SQLSTATE {code}"))), "{body}");
        gateway.is_ready().await;
        for _ in 0..3 {
            assert_eq!(gateway.get(read).await.status, 500, "{code}: each time");
        }
    }
    eventually("the log tells", async || gateway.log().contains("as it likes (SQLSTATE 0A000)").then_some(())).await;
    server.sql("alter role plain reset eye.code");
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'plain'");
    eventually("reads are answered", async || (gateway.get(read).await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_brackets_and_a_list_of_hosts_lead_there() {
    let server = Server::start_with("-c fsync=off -c listen_addresses=127.0.0.1,::1");
    for place in ["[::1]", "127.0.0.1:1,[::1]", "localhost"] {
        let port = server.url().rsplit(':').next().expect("a port").to_owned();
        let url = format!("postgres://postgres@{place}:{port}");
        assert_eq!(serves(&url).await, Ok(()), "{url}");
    }
}

/// Makes a key and a certificate in PEM, signed by itself or by `ca`.
fn certificate(folder: &Path, name: &str, arguments: &[&str]) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let output = command.args(arguments).current_dir(folder).output().expect("openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (key, request, file) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
    let subject = format!("/CN={}", if name == "client" { "postgres" } else { "db.example" });
    openssl(&["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &request, "-subj", &subject]);
    openssl(&[&["x509", "-req", "-in", &request, "-out", &file, "-days", "2"][..], arguments].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_of_tls_leads_to_the_database_or_is_refused() {
    let made = tempfile::tempdir().expect("a folder");
    let certificates = made.path();
    std::fs::write(certificates.join("ca.ext"), "basicConstraints=critical,CA:true\n").expect("written");
    std::fs::write(certificates.join("db.ext"), "subjectAltName=DNS:db.example\n").expect("written");
    certificate(certificates, "ca", &["-signkey", "ca.key", "-extfile", "ca.ext"]);
    let signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
    certificate(certificates, "server", &[&signed[..], &["-extfile", "db.ext"]].concat());
    certificate(certificates, "client", &[&signed[..], &["-extfile", "db.ext"]].concat());
    // Without extensions the certificate has version 1.
    certificate(certificates, "old", &["-signkey", "old.key"]);
    let server = Server::initialized(&[], "-c fsync=off -c ssl=on", |data| {
        for (from, to) in [("old.crt", "server.crt"), ("old.key", "server.key"), ("ca.crt", "root.crt")] {
            std::fs::copy(certificates.join(from), data.join(to)).expect("copied");
            give_to_postgres(&data.join(to));
        }
        std::fs::set_permissions(data.join("server.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("its mode");
        std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"ssl_ca_file = 'root.crt'\n"))
            .expect("written");
    });
    let port = server.url().rsplit(':').next().expect("a port").split('/').next().expect("a port").to_owned();
    let url = |words: &str| format!("postgres://postgres@db.example:{port}/postgres?hostaddr=127.0.0.1&{words}");
    let root = format!("sslrootcert={}", certificates.join("ca.crt").display());
    let encrypted = || {
        server.sql("select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid) where application_name like 'eye%'")
    };
    for mode in ["disable", "allow", "prefer", "require"] {
        assert_eq!(serves(&url(&format!("sslmode={mode}"))).await, Ok(()), "{mode} and a certificate of version 1");
    }
    let kept = store(&url("sslmode=require"));
    assert!(kept.ready().await && encrypted() == "t");
    assert!(serves(&url(&format!("sslmode=verify-full&{root}"))).await.is_err(), "nobody knows it");

    tokio::task::block_in_place(|| {
        for (from, to) in [("server.crt", "server.crt"), ("server.key", "server.key")] {
            std::fs::write(server.path().join("data").join(to), std::fs::read(certificates.join(from)).expect("read"))
                .expect("written");
        }
        server.sql("select pg_reload_conf()");
    });
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(serves(&url(&format!("sslmode={mode}&{root}"))).await, Ok(()), "{mode}");
        let other = url(&format!("sslmode={mode}&{root}")).replace("@db.example", "@other.example");
        assert_eq!(serves(&other).await.is_ok(), mode != "verify-full", "{mode} and another name");
        let unknown = serves(&url(&format!("sslmode={mode}"))).await;
        assert_eq!(unknown.is_ok(), mode == "require", "{mode} and no root that knows it: {unknown:?}");
    }

    let rules = "hostssl all all 127.0.0.1/32 cert\nlocal all all trust\n";
    std::fs::write(server.path().join("data/pg_hba.conf"), rules).expect("written");
    server.sql("select pg_reload_conf()");
    let file = |name: &str| certificates.join(name).display().to_string();
    let shown = format!("sslmode=verify-full&{root}&sslcert={}&sslkey={}", file("client.crt"), file("client.key"));
    assert!(serves(&url(&format!("sslmode=verify-full&{root}"))).await.is_err(), "a certificate is asked for");
    assert_eq!(serves(&url(&shown)).await, Ok(()), "and shown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_are_shown_as_the_server_asks_for_them() {
    let server = Server::start();
    server.sql("set password_encryption = 'scram-sha-256'; create role scram superuser login password 'p@ss/w:rd'");
    server.sql("set password_encryption = 'md5'; create role old superuser login password 'p@ss/w:rd'");
    let rules = "host all scram 127.0.0.1/32 scram-sha-256\nhost all old 127.0.0.1/32 md5\nhost all plain 127.0.0.1/32 password\nlocal all all trust\n";
    server.sql("create role plain superuser login password 'p@ss/w:rd'");
    std::fs::write(server.path().join("data/pg_hba.conf"), rules).expect("written");
    server.sql("select pg_reload_conf()");
    let place = server.url().split('@').nth(1).expect("a place").to_owned();
    for user in ["scram", "old", "plain"] {
        assert_eq!(serves(&format!("postgres://{user}:p%40ss%2Fw%3Ard@{place}")).await, Ok(()), "{user}");
        let wrong = serves(&format!("postgres://{user}:hush@{place}")).await.expect_err(user);
        assert!(wrong.contains("password authentication failed") && !wrong.contains("hush"), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_write_fold_and_make_partitions_on_one_database_under_faults() {
    const ROUNDS: u64 = 12;
    let server = Server::start();
    server.prepare();
    let (one, other) = (Proxy::start(server.socket()).await, Proxy::start(server.socket()).await);
    let start = |proxy: &Proxy| setup(&proxy.url()).with("EYE_RETENTION_SECONDS", 1).start();
    let gateways = [start(&one).await, start(&other).await];
    let (ledger, client) = (Ledger::default(), reqwest::Client::new());
    let mut chance = Chance::new();
    for round in 0..ROUNDS {
        // A month without a partition, which both gateways create at the same time.
        let month = format!("2019-{:02}-01T00:00:00Z", 1 + round);
        for (gateway, proxy) in gateways.iter().zip([&one, &other]) {
            let how = if chance.below(2) == 0 { How::Cut } else { How::HalfCloseDown };
            let place = usize::try_from(chance.below(200)).expect("small");
            proxy.arm(Fault { at: if chance.below(2) == 0 { At::Up(place) } else { At::Down(place % 40) }, how });
            let mut stray = numbered(5_000_000 + round);
            (stray["timestamp"], stray["id"]) = (json!(month), json!(Uuid::now_v7()));
            let kind = gateway.send(&stray).await.status;
            assert!([200, 201, 503].contains(&kind), "{kind}");
        }
        // Both get the same events at once. Each event is stored once, and one of the two answers says so.
        let numbers = ledger.reserve(1 + chance.below(80));
        let (first, second) = tokio::join!(
            ledger.send(&client, gateways[0].address(), &numbers),
            ledger.send(&client, gateways[1].address(), &numbers)
        );
        assert!(first != Ended::Unanswered && second != Ended::Unanswered);
    }
    server.sql("delete from events where (data ->> 'n')::bigint >= 5000000");
    ledger.hold_against(&server.sql(ROWS));
    eventually("all is folded", async || (server.sql("select count(*) from count_deltas") == "0").then_some(())).await;
    assert_eq!(server.sql("select count(*) from events_default"), "0", "each month has its partition");
}
