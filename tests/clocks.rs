//! Wrong clocks, absent gateways and mistyped settings remove no rows by mistake, and a clock that is set back hides
//! none.

use std::path::PathBuf;

use serde_json::json;

use crate::support::cluster::Server;
use crate::support::{Gateway, SESSION, Setup, event, eventually, folder};

/// The library that gives a program another time.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("libraries").flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("libfaketime; `./setup tests` installs it")
}

/// The clock of one gateway, which the test sets.
pub(crate) struct Hands(tempfile::TempDir);

impl Hands {
    pub(crate) fn new(offset: &str) -> Self {
        let hands = Self(folder());
        hands.set(offset);
        hands
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("offset")
    }

    /// Sets the clock off by a time such as `+31d` or `-30m`.
    pub(crate) fn set(&self, offset: &str) {
        let beside = self.0.path().join("beside");
        std::fs::write(&beside, offset).expect("the offset");
        std::fs::rename(beside, self.file()).expect("the rename");
    }

    pub(crate) fn on(&self, setup: Setup) -> Setup {
        setup
            .with("LD_PRELOAD", library().display())
            .with("FAKETIME_TIMESTAMP_FILE", self.file().display())
            .with("FAKETIME_NO_CACHE", 1)
            .with("FAKETIME_DONT_FAKE_MONOTONIC", 1)
            .with("DONT_FAKE_MONOTONIC", 1)
    }
}

fn setup(server: &Server) -> Setup {
    Setup::default().without_cluster().with("EYE_DATABASE_URL", server.url()).with("EYE_RETENTION_SECONDS", 1)
}

/// Inserts a dead letter and an event of this many days ago.
fn aged(server: &Server, days: u32) {
    server.sql(&format!(
        "insert into event_types (category, name) values ('a', 'b') on conflict do nothing;
         select prepare_partition(t, m, 0, 0, 1 << 30), attach_partition(t, m)
         from (values ('events'), ('dead_letters')) tables (t),
             (select date_trunc('month', (now() - interval '{days} days') at time zone 'utc') as m) month;
         insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes)
         values (now() - interval '{days} days', gen_random_uuid(), 'rejected', 'rule', 'a test', '[]', 1, 'x', 1);
         insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         values (gen_random_uuid(), now() - interval '{days} days', gen_random_uuid(), now(), 1, 1, '{{}}');"
    ));
}

fn kept(server: &Server) -> String {
    server.sql("select (select count(*) from events), (select count(*) from dead_letters)")
}

/// Waits for a full round of the rule of dead letters that begins after now.
async fn a_full_round(server: &Server) {
    let since = server.sql("select clock_timestamp()");
    let round = format!("select round_at > '{since}' from retention_rounds where rule = 'dead_letters_age'");
    eventually("a full round", async || (server.sql(&round) == "t").then_some(())).await;
}

/// Waits for a round that begins after now: a month whose events have no partition gets one.
async fn a_round(server: &Server, month: &str) {
    server.sql(&format!(
        "insert into events_default (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         values (gen_random_uuid(), '{month}-15T00:00:00Z', gen_random_uuid(), now(), 1, 1, '{{}}')"
    ));
    let made = format!("select to_regclass('events_{}') is not null", month.replace('-', "_"));
    eventually("a round", async || (server.sql(&made) == "t").then_some(())).await;
}

async fn logged(gateway: &Gateway, words: &str) {
    eventually(words, async || gateway.log().contains(words).then_some(())).await;
}

fn retention(server: &Server, command: &str) -> String {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_eye"));
    let output =
        program.args(["retention", command]).env("EYE_DATABASE_URL", server.url()).output().expect("the program");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_gateway_whose_clock_is_wrong_removes_nothing() {
    for offset in ["+31d", "-31d"] {
        let server = Server::start();
        server.prepare();
        for days in [0, 10, 29] {
            aged(&server, days);
        }
        let hands = Hands::new(offset);
        let limits = setup(&server).with("EYE_EVENTS_DAYS", 35).with("EYE_DEAD_LETTERS_DAYS", 30);
        let gateway = hands.on(limits).start().await;
        logged(&gateway, "nothing is trimmed until they agree").await;
        a_round(&server, "2030-01").await;
        a_round(&server, "2030-02").await;
        let skew = gateway.figures().await.value("eye_clock_skew_seconds", &[]).expect("told");
        assert!(skew.abs() > 30.0 * 86_400.0, "{offset}: {skew}");
        assert_eq!(gateway.get("/readyz").await.json()["degraded"], json!(["clock_skew"]), "{offset}");
        assert_eq!(kept(&server), "5|3", "{offset}");
        assert_eq!(server.sql("select count(*) from trimmed"), "0", "{offset}");

        // Once the clock is right, the rows that are due are removed, and no others.
        hands.set("+0");
        logged(&gateway, "agree again").await;
        a_full_round(&server).await;
        assert_eq!(server.sql("select count(*) from dead_letters"), "3", "{offset}");
    }
}

#[tokio::test]
async fn what_fell_due_while_nobody_looked_is_announced_first() {
    let server = Server::start();
    server.prepare();
    let gateway = setup(&server).with("EYE_EVENTS_DAYS", 35).with("EYE_DEAD_LETTERS_DAYS", 30).start().await;
    a_full_round(&server).await;
    // As if the last round was a month ago by the database's clock.
    server.sql("update retention_rounds set cutoff = cutoff - interval '31 days' where rule = 'dead_letters_age'");
    server.sql("update retention_rounds set cutoff = cutoff - interval '100 days' where rule = 'events_age'");
    for days in [1, 40, 50, 70, 100] {
        aged(&server, days);
    }
    logged(&gateway, "`eye retention confirm`").await;
    for rule in ["events_age", "dead_letters_age"] {
        eventually(rule, async || {
            (gateway.figures().await.value("eye_trimming_announced", &[("rule", rule)]) == Some(1.0)).then_some(())
        })
        .await;
    }
    a_round(&server, "2030-01").await;
    a_round(&server, "2030-02").await;
    // The letters of 70 and 100 days are removed, which were due at the round before. Those that fell due since stay.
    assert_eq!(server.sql("select count(*) from dead_letters"), "3", "those of 1, 40 and 50 days stay");
    assert_eq!(gateway.get("/readyz").await.json()["degraded"], json!(["trimming_announced"]));
    let shown = retention(&server, "show");
    assert!(
        shown.contains("dead_letters_age\tdead_letters_days = 30\tannounced ") && shown.contains("h left"),
        "{shown}"
    );

    let confirmed = retention(&server, "confirm");
    assert!(confirmed.contains("confirmed: dead_letters_age"), "{confirmed}");
    eventually("the confirmed removal", async || {
        (server.sql("select count(*) from dead_letters") == "1").then_some(())
    })
    .await;
    eventually("nothing is announced", async || retention(&server, "show").contains("nothing").then_some(())).await;
    assert_eq!(server.sql("select sum(rows) from trimmed where table_name = 'dead_letters'"), "4");
}

#[tokio::test]
async fn a_setting_that_asks_for_much_is_announced_and_can_be_withdrawn() {
    let server = Server::start();
    server.prepare();
    for days in [1, 10, 20] {
        aged(&server, days);
    }
    let run = async |days: u32, bytes: u64| {
        let limits = setup(&server).with("EYE_DEAD_LETTERS_DAYS", days).with("EYE_DEAD_LETTERS_BYTES_MAX", bytes);
        limits.start().await
    };
    let gateway = run(30, 1 << 30).await;
    a_full_round(&server).await;
    drop(gateway);
    let announced =
        "select string_agg(rule, ' ' order by rule) from retention_rounds where announced_limit is not null";

    server.sql(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes)
         select now(), gen_random_uuid(), 'rejected', 'rule', 'a test', '[]', 1,
             (select string_agg(decode(md5(n::text || part::text), 'hex'), '') from generate_series(1, 64) part), 1024
         from generate_series(1, 2000) n",
    );
    // Days and bytes are mistyped.
    let gateway = run(3, 1 << 20).await;
    let both = "dead_letters_age dead_letters_size";
    eventually("both are announced", async || (server.sql(announced) == both).then_some(())).await;
    a_round(&server, "2030-01").await;
    a_round(&server, "2030-02").await;
    assert_eq!(server.sql("select count(*) from dead_letters"), "2003");
    drop(gateway);

    // After the mend the announcement is withdrawn, and no row is gone.
    let gateway = run(30, 1 << 30).await;
    eventually("both are withdrawn", async || server.sql(announced).is_empty().then_some(())).await;
    logged(&gateway, "not due any more").await;
    assert_eq!(server.sql("select count(*) from dead_letters"), "2003");
    drop(gateway);

    // On purpose: after a day of notice the rows are removed. The test writes the end of that day into the ledger.
    let _gateway = run(3, 1 << 30).await;
    eventually("it is announced", async || (server.sql(announced) == "dead_letters_age").then_some(())).await;
    server.sql("update retention_rounds set announced_seconds = 86400 where announced_limit is not null");
    eventually("it is done", async || (server.sql("select count(*) from dead_letters") == "2001").then_some(())).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_hides_no_session() {
    let server = Server::start();
    server.prepare();
    let hands = Hands::new("+0");
    let mut gateway = hands.on(setup(&server)).start().await;
    assert_eq!(gateway.send(&event("a", "b", json!({}))).await.status, 201);
    let listed = async |gateway: &Gateway| {
        let answer = gateway.get("/v1/sessions?from=2020-01-01T00:00:00Z").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["sessions"].to_string().contains(SESSION)
    };
    assert!(listed(&gateway).await);
    hands.set("-30m");
    assert!(listed(&gateway).await, "while it runs");
    assert_eq!(gateway.send(&event("a", "b", json!({}))).await.status, 201);
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    eventually("after a restart", async || listed(&gateway).await.then_some(())).await;
}
