//! Rows that are too old or too many are removed, the oldest first, and counted. Partitions are created when they are
//! needed. Senders notice none of it.

use crate::readers::documented_role;
use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS, id_of, numbered};
use crate::support::{Gateway, Setup, eventually};

/// Migrates the schema as if a full round had just ended, so that the rows of these tests are due without an
/// announcement.
fn prepare(server: &Server) {
    server.prepare();
    server.sql("update retention_rounds set cutoff = now(), bytes_max = 0");
}

fn setup(server: &Server) -> Setup {
    prepare(server);
    Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_RETENTION_SECONDS", 1)
}

/// Inserts dead letters of a KiB each, the first at `from` and each next one `step` later.
fn letters(server: &Server, count: u32, from: &str, step: &str) {
    server.sql(&format!(
        "insert into dead_letters (received_at, id, reason, code, detail, violations, application_id, raw, raw_bytes) \
         select {from} + n * interval '{step}', gen_random_uuid(), 'rejected', 'rule', 'a test', '[]', 1, \
             (select string_agg(decode(md5(n::text || part::text), 'hex'), '') from generate_series(1, 64) part), 1024 \
         from generate_series(0, {count} - 1) n"
    ));
}

/// Inserts this many events of one month into the default partition, with so many bytes of data each.
fn stray(server: &Server, day: &str, count: u32, bytes: u32) {
    server.sql(&format!(
        "insert into event_types (category, name) values ('a', 'b') on conflict do nothing;
         insert into events_default (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         select gen_random_uuid(), '{day}Z', gen_random_uuid(), now(), 1, 1, jsonb_build_object('text',
             (select string_agg(md5(random()::text || n || part), '') from generate_series(0, {bytes} / 32) part))
         from generate_series(1, {count}) n;"
    ));
}

fn partition(server: &Server, table: &str, month: &str) {
    let month = format!("date_trunc('month', {month} at time zone 'utc')");
    server.sql(&format!("select prepare_partition('{table}', {month}, 0, 0, 1 << 30)"));
    server.sql(&format!("select attach_partition('{table}', {month})"));
}

fn trimmed(server: &Server, table: &str, cause: &str) -> u64 {
    let rows = server.sql(&format!("select rows from trimmed where table_name = '{table}' and cause = '{cause}'"));
    if rows.is_empty() { 0 } else { rows.parse().expect("a count") }
}

fn count(server: &Server, query: &str) -> u64 {
    server.sql(query).parse().expect("a count")
}

/// The bytes of dead letters on disk, without the space that trimming has freed.
const TAKEN: &str = "select coalesce(sum(pg_total_relation_size(inhrelid) - coalesce(freed_bytes, 0)), 0)::bigint \
    from pg_inherits join pg_class on pg_class.oid = inhrelid left join dead_letter_space on partition_name = relname \
    where inhparent = 'dead_letters'::regclass";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_dead_letters_are_trimmed_oldest_first_while_events_are_stored() {
    const BYTES_MAX: u64 = 6 << 20;
    let server = Server::start();
    // On the last days of a month the letters of the month before would be too old as well.
    let setup = setup(&server).with("EYE_DEAD_LETTERS_BYTES_MAX", BYTES_MAX).with("EYE_DEAD_LETTERS_DAYS", 0);
    let gateway = setup.start().await;
    let mut load = Load::start(gateway.address(), 4, 40, &mut Chance::new());
    load.stores(100).await;
    letters(&server, 2_000, "date_trunc('month', now()) - interval '1 day'", "1 second");
    letters(&server, 8_000, "now() - interval '10 seconds'", "1 millisecond");
    eventually("dead letters are within their bound", async || {
        let taken = count(&server, TAKEN);
        (taken <= BYTES_MAX && trimmed(&server, "dead_letters", "size") > 0).then_some(())
    })
    .await;
    load.stores(100).await;
    load.stop().await;
    load.ledger.hold_against(&server.sql(ROWS));
    let (left, gone) = (count(&server, "select count(*) from dead_letters"), trimmed(&server, "dead_letters", "size"));
    println!("{left} dead letters left, {gone} trimmed, {} bytes taken", count(&server, TAKEN));
    assert_eq!(left + gone, 10_000, "what was trimmed was counted");
    assert!(left > 1_000, "no more than needed is trimmed: {left}");
    let older = "select count(*) from dead_letters where received_at < date_trunc('month', now())";
    assert_eq!(count(&server, older), 0, "the month before went first");
    let span = "select (extract(epoch from max(received_at) - min(received_at)) * 1000)::bigint + 1 from dead_letters";
    assert_eq!(count(&server, span), left, "what is left is the newest, without holes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_old_is_trimmed_and_nothing_else() {
    let server = Server::start();
    let setup = setup(&server).with("EYE_DEAD_LETTERS_DAYS", 40).with("EYE_EVENTS_DAYS", 40);
    partition(&server, "dead_letters", "(now() - interval '100 days')");
    letters(&server, 300, "now() - interval '100 days'", "1 millisecond");
    letters(&server, 1_500, "now() - interval '41 days'", "1 millisecond");
    letters(&server, 50, "now() - interval '39 days'", "1 millisecond");
    letters(&server, 20, "timestamptz '1990-01-01'", "1 day");
    partition(&server, "events", "(now() - interval '100 days')");
    server.sql(
        "insert into event_types (category, name) values ('a', 'b');
         insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         select gen_random_uuid(), at, gen_random_uuid(), at, 1, 1, '{}'
         from unnest(array[now() - interval '100 days', '1990-01-01', now() - interval '1 day', now()]) at;",
    );
    let gateway = setup.start().await;
    eventually("dead letters are trimmed by age", async || {
        (count(&server, "select count(*) from dead_letters") == 50).then_some(())
    })
    .await;
    eventually("events are trimmed by age", async || {
        (count(&server, "select count(*) from events") == 2).then_some(())
    })
    .await;
    assert_eq!(trimmed(&server, "dead_letters", "age"), 1_820);
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    let names = server.sql(
        "select count(*) from pg_class where relkind = 'r' and (relname like '%trimmed_%' \
         or relname like '%' || to_char(now() - interval '100 days', '\"_\"YYYY\"_\"MM'))",
    );
    assert_eq!(names, "0", "the months that were too old are gone as partitions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_the_tables_tends_them_by_the_functions_of_their_owner() {
    let server = Server::start();
    prepare(&server);
    server.sql(&documented_role("eye_gateway"));
    partition(&server, "events", "(now() - interval '100 days')");
    partition(&server, "dead_letters", "(now() - interval '100 days')");
    letters(&server, 30, "now() - interval '100 days'", "1 millisecond");
    letters(&server, 200, "now() - interval '41 days'", "1 millisecond");
    letters(&server, 5, "now() - interval '39 days'", "1 millisecond");
    server.sql(
        "insert into event_types (category, name) values ('a', 'b');
         insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         select gen_random_uuid(), at, gen_random_uuid(), at, 1, 1, '{}'
         from unnest(array[now() - interval '100 days', now() - interval '1 day']) at;",
    );
    // Large enough that a month is proved to be absent from it first.
    stray(&server, "1990-01-01", 1_100, 32 << 10);
    let next = "events_' || to_char(now() + interval '1 month', 'YYYY_MM') || '";
    server.sql(&format!("do $do$ begin execute 'drop table if exists {next}'; end $do$"));
    let url = server.url().replace("postgres://postgres@", "postgres://eye_gateway@");
    let setup = Setup::default().with("EYE_DATABASE_URL", url).with("EYE_RETENTION_SECONDS", 1);
    let setup = setup.with("EYE_EVENTS_DAYS", 40).with("EYE_DEAD_LETTERS_DAYS", 40).with_argument("--no-migrate");
    let gateway = setup.start().await;
    eventually("dead letters are trimmed by age", async || {
        (count(&server, "select count(*) from dead_letters") == 5).then_some(())
    })
    .await;
    eventually("events are trimmed by age, months and strays", async || {
        (count(&server, "select count(*) from events") == 1).then_some(())
    })
    .await;
    let made = format!("select to_regclass('{next}') is not null");
    assert_eq!(server.sql(&made), "t", "months are made ahead, also where the default partition is large");
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    let log = std::fs::read_to_string(server.path().join("log")).expect("the server's log");
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("permission denied")).collect();
    assert!(denied.is_empty(), "{denied:?}");

    // The functions lend their rights for these tables alone.
    server.sql("create role stranger login");
    let denies = |role: &str, call: &str| {
        let code = format!(
            "do $do$ begin set local role {role}; perform {call}; raise exception 'allowed'; \
             exception when insufficient_privilege then null; end $do$"
        );
        server.sql(&code);
    };
    for call in [
        "drop_detached('events', 'applications', 'age')",
        "drop_detached('events', 'events_default', 'age')",
        "drop_detached('events', 'events_2020_01_trimmed_age; drop table events', 'age')",
        "drop_detached('applications', 'applications_2020_01_trimmed_age', 'age')",
        "detach_partition('events', 'events_default', 'age')",
        "detach_partition('events', 'applications', 'age')",
        "detach_partition('events', 'events_2020_01', 'spite')",
        "trim_rows('events', 'applications', now(), 10, 10, 'age')",
        "trim_rows('applications', 'applications', now(), 10, 10, 'age')",
        "prepare_partition('applications', '2020-01-01', 1, 1, 1)",
        "attach_partition('applications', '2020-01-01')",
        "add_gap('applications', '2020-01-01')",
        "prove_gap('applications', '2020-01-01')",
        "drop_gap('applications', '2020-01-01')",
    ] {
        denies("eye_gateway", call);
        denies("stranger", call);
    }
    for call in ["prepare_partition('events', '2020-01-01', 1, 1, 1)", "drop_gap('events', '2020-01-01')"] {
        denies("stranger", call);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_in_use_stays_until_it_is_let_go_and_stops_nobody() {
    let server = Server::start();
    let setup = setup(&server).with("EYE_DEAD_LETTERS_DAYS", 40);
    partition(&server, "dead_letters", "(now() - interval '100 days')");
    letters(&server, 10, "now() - interval '100 days'", "1 second");
    let mut reader = Reader::hold(&server, "select count(*) from dead_letters").await;
    let gateway = setup.start().await;
    eventually("it was tried in vain", async || gateway.log().contains("others hold the table").then_some(())).await;
    assert_eq!(count(&server, "select count(*) from dead_letters"), 10);
    let mut broken = numbered(1);
    broken["surplus"] = true.into();
    assert_eq!(gateway.send(&broken).await.status, 422);
    eventually("a new dead letter is kept meanwhile", async || {
        (count(&server, "select count(*) from dead_letters") == 11).then_some(())
    })
    .await;
    reader.let_go().await;
    eventually("the partition goes", async || (count(&server, "select count(*) from dead_letters") == 1).then_some(()))
        .await;
    assert_eq!(trimmed(&server, "dead_letters", "age"), 10);
}

/// A reader of a table in a transaction, which keeps its partitions from being changed.
struct Reader(sqlx::PgConnection);

impl Reader {
    async fn hold(server: &Server, query: &'static str) -> Reader {
        use sqlx::{Connection as _, Executor as _};
        let mut connection = sqlx::PgConnection::connect(&server.url()).await.expect("connected");
        connection.execute("begin").await.expect("begun");
        connection.execute(query).await.expect("read");
        Reader(connection)
    }

    async fn let_go(&mut self) {
        use sqlx::Executor as _;
        self.0.execute("rollback").await.expect("rolled back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_gateway_left_behind_is_finished_by_the_next() {
    let server = Server::start();
    let setup = setup(&server);
    partition(&server, "dead_letters", "(now() - interval '100 days')");
    letters(&server, 7, "now() - interval '100 days'", "1 second");
    let name = server.sql("select 'dead_letters' || to_char(now() - interval '100 days', '\"_\"YYYY\"_\"MM')");
    server.sql(&format!("select detach_partition('dead_letters', '{name}', 'age')"));
    let _gateway = setup.start().await;
    eventually("it is dropped and counted", async || (trimmed(&server, "dead_letters", "age") == 7).then_some(()))
        .await;
    assert_eq!(server.sql(&format!("select to_regclass('{name}_trimmed_age') is null")), "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_gets_its_partition_once_it_has_events() {
    let gateway = Setup::default().with("EYE_RETENTION_SECONDS", 1).start().await;
    let mut ids = Vec::new();
    for (number, timestamp) in
        ["2021-01-31T23:59:59.999999Z", "2021-02-01T00:00:00Z", "1931-05-05T00:00:00Z"].iter().enumerate()
    {
        let mut event = numbered(number as u64);
        event["timestamp"] = (*timestamp).into();
        assert_eq!(gateway.send(&event).await.status, 201);
        ids.push(id_of(number as u64).to_string());
    }
    for (name, id) in ["events_2021_01", "events_2021_02", "events_default"].into_iter().zip(&ids) {
        eventually(&format!("an event of {name}"), async || {
            let place = gateway.sql(&format!("select tableoid::regclass from events where id = '{id}'"));
            (place == name).then_some(())
        })
        .await;
    }
    let mut again = numbered(0);
    again["timestamp"] = "2021-01-31T23:59:59.999999Z".into();
    assert_eq!(gateway.send(&again).await.status, 200, "what has moved is still a duplicate");
    assert_eq!(gateway.sql("select count(*) from pg_constraint where conrelid = 'events_2021_01'::regclass"), "1");
    assert_eq!(gateway.sql("select count(*) from pg_index where indrelid = 'events_2021_01'::regclass"), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_default_partition_keeps_no_month_to_come_from_its_own() {
    let server = Server::start();
    let setup = setup(&server);
    server.sql(
        "insert into event_types (category, name) values ('a', 'b');
         insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data)
         select gen_random_uuid(), '2001-01-01', gen_random_uuid(), now(), 1, 1, jsonb_build_object('text', repeat(md5(n::text), 30))
         from generate_series(1, 40000) n;",
    );
    let before = count(&server, "select pg_relation_size('events_default')");
    assert!(before > 32 << 20, "{before} bytes are too few for this test");
    let next = server.sql("select 'events' || to_char(now() + interval '2 months', '\"_\"YYYY\"_\"MM')");
    server.sql(&format!("drop table {next}"));
    let gateway = setup.start().await;
    eventually("the month to come has its partition", async || {
        (server.sql(&format!("select to_regclass('{next}') is not null")) == "t").then_some(())
    })
    .await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    assert_eq!(
        count(&server, "select count(*) from events_default where timestamp < '2002-01-01'"),
        40_000,
        "too many to move: they stay"
    );
    assert_eq!(server.sql("select count(*) from pg_constraint where conname like '%_gap'"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_gateways_tends_the_tables_and_the_other_takes_over() {
    let server = Server::start();
    let mut first = setup(&server).start().await;
    let tending = || server.sql("select count(*) from pg_locks where locktype = 'advisory' and granted");
    eventually("one tends", async || (tending() == "1").then_some(())).await;
    let second = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_RETENTION_SECONDS", 1).start().await;
    assert_eq!(tending(), "1", "never two");
    first.signal("KILL");
    first.ended().await;
    assert_eq!(second.send(&numbered(7)).await.status, 201);
    stray(&server, "2019-06-01", 1, 10);
    eventually("the other takes over", async || {
        (server.sql("select to_regclass('events_2019_06') is not null") == "t").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_listed() {
    let server = Server::start();
    prepare(&server);
    partition(&server, "events", "timestamptz '2020-02-02'");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_eye"))
        .args(["partitions", "list", "--database-url", &server.url()])
        .output()
        .expect("the built program");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find(|line| line.starts_with("events_2020_02")).expect("the partition");
    assert!(line.starts_with("events_2020_02\t2020-02-01T00:00:00Z\t2020-03-01T00:00:00Z\trows "), "{line}");
    assert!(text.lines().any(|line| line.starts_with("events_default\t-\t-\t")), "{text}");
    assert!(text.lines().any(|line| line.starts_with("dead_letters_default\t-\t-\t")), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_without_a_database_trims_once_it_is_there() {
    let server = Server::start();
    prepare(&server);
    letters(&server, 5, "now() - interval '50 days'", "1 second");
    server.down();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_RETENTION_SECONDS", 1);
    let gateway: Gateway = setup.listen().await;
    assert_eq!(gateway.get("/readyz").await.status, 503);
    server.up();
    eventually("old dead letters are trimmed", async || {
        (count(&server, "select count(*) from dead_letters") == 0).then_some(())
    })
    .await;
}

/// Records how often tables are created, and which.
const WATCH_TABLES: &str = "
    create table made (name text not null);
    create function note_table() returns event_trigger language plpgsql as $$ begin
        insert into made select object_identity from pg_event_trigger_ddl_commands() where command_tag = 'CREATE TABLE';
    end; $$;
    create event trigger note_table on ddl_command_end when tag in ('CREATE TABLE') execute function note_table();";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_writer_waits_for_partitions_that_are_made_filled_and_dropped() {
    let server = Server::start_with("-c fsync=off -c deadlock_timeout=100ms -c log_lock_waits=on");
    let setup = setup(&server).with("EYE_EVENTS_DAYS", 9_000);
    partition(&server, "events", "timestamptz '1999-01-01'");
    let old = "insert into events (session_id, timestamp, id, received_at, event_type_id, application_id, data) \
        select gen_random_uuid(), '1999-01-02Z', gen_random_uuid(), now(), 1, 1, '{}' from generate_series(1, 100000)";
    server.sql(old);
    // A month with few enough rows to move, one with too many, and one with too large ones.
    stray(&server, "2009-03-05", 1_900, 200);
    stray(&server, "2009-04-05", 3_000, 10);
    stray(&server, "2009-05-05", 600, 20_000);
    server.sql(WATCH_TABLES);
    let gateway = setup.start().await;
    let mut load = Load::start(gateway.address(), 4, 40, &mut Chance::new());
    let there = |name: &str| server.sql(&format!("select to_regclass('{name}') is not null")) == "t";
    eventually("what can be moved is", async || there("events_2009_03").then_some(())).await;
    eventually("the old month is dropped", async || (!there("events_1999_01")).then_some(())).await;
    load.stores(500).await;
    // More months arrive, each found by a later check.
    for month in 6..10 {
        stray(&server, &format!("2009-{month:02}-05"), 100, 100);
        eventually("a further look", async || there(&format!("events_2009_{month:02}")).then_some(())).await;
    }
    load.stores(500).await;
    load.stop().await;
    load.ledger.hold_against(&server.sql("select id, data ->> 'n' from events where timestamp > '2020-01-01'"));
    assert!(!there("events_2009_04") && !there("events_2009_05"), "too much to move while writers wait");
    assert!(gateway.log().contains("2009-04, 2009-05"), "and it is told: {}", gateway.log());
    let tried = server.sql("select count(*) from made where name ~ 'events_2009_0[45]'");
    assert_eq!(tried, "0", "nothing is made that must be dropped again");
    let log = std::fs::read_to_string(server.path().join("log")).expect("the server's log");
    let waits: Vec<&str> = log.lines().filter(|line| line.contains("still waiting for RowExclusiveLock")).collect();
    assert!(waits.is_empty(), "a writer waited for 100 ms: {waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_month_has_its_partition_before_its_first_event() {
    let gateway =
        Setup::default().with("EYE_RETENTION_SECONDS", 3_600).with("EYE_EVENT_PARTITIONS_MAX", 7).start().await;
    let mut months: Vec<_> = (1..6)
        .map(|month| {
            let mut event = numbered(month);
            event["timestamp"] = format!("2012-{month:02}-01T00:00:00Z").into();
            event
        })
        .collect();
    let mut early = numbered(9);
    early["timestamp"] = "1931-05-05T00:00:00Z".into();
    months.push(early);
    // Four months have partitions already, so there is room for three.
    for event in &months {
        assert_eq!(gateway.send(event).await.status, 201);
    }
    let places = gateway.sql("select string_agg(tableoid::regclass::text, ' ' order by timestamp) from events");
    assert_eq!(
        places, "events_default events_2012_01 events_2012_02 events_2012_03 events_default events_default",
        "those for which there is room, and none before 1970"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_that_have_served_are_dropped() {
    let server = Server::start();
    let setup = setup(&server);
    let of = |months: &str| server.sql(&format!("select to_char(now() + interval '{months}', 'YYYY_MM')"));
    for (months, bound) in [("1 month", "2300-01-01"), ("-3 months", "1900-01-01")] {
        let gap = format!("events_{}_gap", of(months));
        server.sql(&format!("alter table events_default add constraint {gap} check (timestamp <> '{bound}')"));
    }
    let _gateway = setup.start().await;
    eventually("they are gone", async || {
        (server.sql("select count(*) from pg_constraint where conname like '%_gap'") == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_counts_by_the_minute_go_and_those_by_hour_and_day_stay() {
    let server = Server::start();
    let setup = setup(&server).with("EYE_COUNTS_MINUTE_DAYS", 10);
    server.sql(
        "insert into counts (bucket, start, event_type_id, application_id, outcome, count)
         select bucket, date_trunc('day', now()) - days * interval '1 day', type, 1, 'stored', 1
         from unnest(array['minute', 'hour', 'day']) bucket, unnest(array[1, 11, 100]) days, generate_series(1, 700) type",
    );
    let _gateway = setup.start().await;
    eventually("the old ones are gone", async || {
        (server.sql("select count(*) from counts where bucket = 'minute'") == "700").then_some(())
    })
    .await;
    assert_eq!(server.sql("select count(*) from counts where bucket <> 'minute'"), "4200");
}
