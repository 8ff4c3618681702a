//! The writers of the store against a real Postgres: rows, duplicates, bad rows, cut connections, a killed server.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use eye::audit::Actor;
use eye::batch::{Batcher, Failure, Fate, Limits, Sink};
use eye::store::{Error, EventFilter, EventSink, LibpqEnvironment, NewApplication, PageLimits, Store};
use eye_event::event::{DeadLetter, EventRow, KeptAs, Reason, Text};
use eye_event::verdict::{Digest, Violation};
use sqlx::{AssertSqlSafe, Connection, Executor as _, PgConnection, Row as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::load::{Chance, WRONG_COUNTS};
use crate::support::proxy::Proxy;

/// 2026-07-01, in microseconds since 1970.
const JULY_US: i64 = 1_782_864_000_000_000;
/// Longer than any queue here.
const WAIT: Duration = Duration::from_secs(60);

async fn migrated(server: &Server) -> Store {
    let store = store(&server.url());
    store.migrate().await.expect("migrated");
    store
}

async fn count(server: &Server, query: &'static str) -> i64 {
    let mut connection = PgConnection::connect(&server.url()).await.expect("connected");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("count")
}

fn store(url: &str) -> Store {
    Store::new(url, LibpqEnvironment::default(), 4, Duration::from_secs(5), Duration::from_secs(5)).expect("url")
}

/// Rows with different keys in three partitions.
fn row(number: u32) -> EventRow {
    EventRow {
        id: Uuid::from_u128(u128::from(number)),
        session_id: Uuid::from_u128(u128::from(number % 7)),
        timestamp_us: JULY_US + i64::from(number % 3) * 31 * 86_400_000_000,
        received_at_us: JULY_US + i64::from(number),
        category: Text::from("shop"),
        name: Text::from(if number.is_multiple_of(2) { "even" } else { "odd" }),
        application_id: 1,
        module: number.is_multiple_of(5).then_some(Digest([7; 32])),
        data: Text::from(format!("{{\"n\":{number},\"text\":\"gr\u{fc}n\"}}")),
        raw: Bytes::new(),
        redriven: false,
    }
}

fn bad(number: u32) -> EventRow {
    EventRow { data: Text::from("{\"n\":\"\\u0000\"}"), ..row(number) }
}

fn later(row: &EventRow) -> EventRow {
    EventRow { received_at_us: row.received_at_us + 1_000_000, ..row.clone() }
}

fn refs<T>(rows: &[T]) -> Vec<&T> {
    rows.iter().collect()
}

fn letter(number: u128) -> DeadLetter {
    DeadLetter {
        id: Uuid::from_u128(number),
        received_at_us: JULY_US,
        reason: Reason::Quarantined,
        code: "trap".to_owned(),
        detail: "nul \0 here".to_owned(),
        violations: vec![Violation { pointer: "/\0".to_owned(), code: "c".into(), message: "m".into() }],
        application_id: 1,
        module: Some(Digest([9; 32])),
        event_id: None,
        session_id: Some(Uuid::from_u128(1)),
        category: Some("\0".to_owned()),
        name: None,
        kept: KeptAs::Whole,
        raw: Bytes::from_static(b"\0\xff"),
        raw_bytes: 2,
        raw_digest: None,
        last_words: None,
        request_id: Some("a request".to_owned()),
        traceparent: Some("its trace".to_owned()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_stored_once_and_read_back_in_order() {
    let server = Server::start();
    let store = migrated(&server).await;
    assert!(store.ready().await);
    store.ensure_local_application(&["ingest".to_owned()]).await.expect("local");
    let mut sink = store.event_sink();
    let mut rows: Vec<EventRow> = (0..2_000).map(row).collect();
    rows.push(later(&rows[3]));
    let mut wanted = vec![Fate::Stored; 2_000];
    wanted.push(Fate::Duplicate);
    assert_eq!(sink.write(&refs(&rows)).await, Ok(wanted), "straight path, a repetition within the batch");

    let mixed: Vec<EventRow> = (1_990..2_010).map(|number| later(&row(number))).collect();
    let fates = sink.write(&refs(&mixed)).await.expect("written");
    assert!(fates[..10].iter().all(|fate| *fate == Fate::Duplicate), "conflict path: there already");
    assert!(fates[10..].iter().all(|fate| *fate == Fate::Stored), "conflict path: new");
    for batch in 0..12 {
        let rows: Vec<EventRow> = (0..10).map(|number| row(3_000 + batch * 10 + number)).collect();
        assert_eq!(sink.write(&refs(&rows)).await, Ok(vec![Fate::Stored; 10]), "back to the straight path");
    }
    assert_eq!(count(&server, "select count(*) from events").await, 2_130);
    assert_eq!(count(&server, "select count(*) from event_types").await, 2);

    is_read_back_in_order(&server, &store).await;
}

async fn is_read_back_in_order(server: &Server, store: &Store) {
    let mut seen = Vec::new();
    let mut after = None;
    let filter = EventFilter { session_id: Some(Uuid::from_u128(3)), ..EventFilter::default() };
    let limits = PageLimits { rows: 50, bytes: usize::MAX };
    loop {
        let page =
            store.events_page(&eye::trust::visible::Visible::ALL, &filter, after, limits, JULY_US).await.expect("page");
        seen.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let keys: Vec<_> = seen.iter().map(|event| (event.timestamp_us, event.received_at_us, event.id)).collect();
    assert!(keys.is_sorted() && keys.iter().collect::<HashSet<_>>().len() == keys.len(), "in order, each once");
    assert_eq!(
        seen.len() as i64,
        count(server, "select count(*) from events where session_id = '00000000-0000-0000-0000-000000000003'").await
    );
    let event = seen.iter().find(|event| event.id == Uuid::from_u128(10)).expect("row 10");
    assert_eq!((event.category.as_str(), event.name.as_str(), event.application.as_str()), ("shop", "even", "local"));
    assert_eq!(event.module.as_deref(), Some(&[7_u8; 32][..]));
    assert_eq!(event.timestamp_us, row(10).timestamp_us);
    assert_eq!(event.received_at_us, row(10).received_at_us);
    assert_eq!(event.data, "{\"n\": 10, \"text\": \"gr\u{fc}n\"}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_before_a_synchronous_standby_has_it() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    let known = [row(1), row(2)];
    let judged_again = [EventRow { redriven: true, ..later(&row(1)) }];
    assert_eq!(sink.write(&refs(&known)).await, Ok(vec![Fate::Stored; 2]));
    sink.batch_ended().await;
    assert_eq!(sink.write(&refs(&judged_again)).await, Ok(vec![Fate::Duplicate]));
    sink.batch_ended().await;
    let standby = |name: &str| {
        server.sql(&format!("alter system set synchronous_standby_names = '{name}'"));
        server.sql("select pg_reload_conf()");
    };
    standby("away");
    // The server applies the change a moment later.
    let taken = async {
        loop {
            let mut connection = PgConnection::connect(&server.url()).await.expect("connected");
            let write = sqlx::query("select pg_logical_emit_message(true, 'test', '')").execute(&mut connection);
            if tokio::time::timeout(Duration::from_millis(300), write).await.is_err() {
                break;
            }
        }
    };
    tokio::time::timeout(WAIT, taken).await.expect("commits wait");
    let told = sink.write(&refs(&judged_again)).await;
    assert!(matches!(told, Err(Failure::Transient(_))), "it waits too, though it writes no row: {told:?}");
    // A month that has its partition. Each attempt ends the wait of the one before, whose row stays committed on this
    // server alone.
    let mut sink = store.event_sink();
    for _ in 0..3 {
        assert!(matches!(sink.write(&[&row(4)]).await, Err(Failure::Transient(_))));
    }
    assert_eq!(count(&server, "select count(*) from events").await, 3, "committed, and not told");
    standby("");
    let told = async {
        loop {
            if let Ok(fates) = sink.write(&[&row(4)]).await {
                return fates;
            }
        }
    };
    assert_eq!(tokio::time::timeout(WAIT, told).await.expect("the standby is not waited for any more"), [Fate::Stored]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_cost_only_themselves() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    let batch = [row(1), bad(2), row(3)];
    assert!(matches!(sink.write(&refs(&batch)).await, Err(Failure::Data { code, .. }) if code == "22P05"));
    assert_eq!(sink.write(&[&batch[0]]).await, Ok(vec![Fate::Stored]), "the connection is still in step");
    assert!(matches!(sink.write(&refs(&batch)).await, Err(Failure::Data { .. })));
    assert_eq!(sink.write(&[&batch[0], &batch[2]]).await, Ok(vec![Fate::Duplicate, Fate::Stored]), "conflict path");
    assert!(matches!(sink.write(&refs(&batch)).await, Err(Failure::Data { .. })), "also refused on the conflict path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_rows_with_bad_ones_in_random_places() {
    const ROWS: u64 = 10_000;
    let server = Server::start();
    let store = migrated(&server).await;
    let limits = Limits {
        events_max: 1_000,
        bytes_max: 8 << 20,
        age: Duration::from_millis(5),
        submissions_max: 1_000,
        wait: WAIT,
    };
    let (batcher, writers) = Batcher::start("events", limits, vec![store.event_sink(), store.event_sink()]);
    let mut chance = Chance::new();
    let mut below = |bound| u32::try_from(chance.below(bound)).expect("small");
    let poison: HashSet<u32> = (0..100).map(|_| below(ROWS)).collect();
    let (mut receipts, mut next) = (Vec::new(), 0);
    while u64::from(next) < ROWS {
        let numbers = next..(next + 1 + below(400)).min(ROWS as u32);
        next = numbers.end;
        let rows = numbers.clone().map(|number| if poison.contains(&number) { bad(number) } else { row(number) });
        receipts.push((numbers, batcher.submit(rows.collect::<Vec<_>>(), None).expect("room")));
    }
    for (numbers, receipt) in receipts {
        let fates = receipt.await.expect("receipt");
        assert_eq!(fates.len(), numbers.len(), "a fate for each");
        for (number, fate) in numbers.zip(fates) {
            assert_eq!(matches!(fate, Fate::Refused { .. }), poison.contains(&number), "{number} {fate:?}");
            assert_ne!(fate, Fate::Duplicate, "{number}");
        }
    }
    let stored = i64::try_from(ROWS).expect("small") - i64::try_from(poison.len()).expect("small");
    assert_eq!(count(&server, "select count(*) from events").await, stored);
    assert_eq!(count(&server, "select count(distinct id) from events").await, stored);
    drop(batcher);
    writers.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_kept_whatever_they_hold() {
    let server = Server::start();
    let mut sink = migrated(&server).await.dead_letter_sink();
    let letters: Vec<DeadLetter> = (1..=100).map(letter).collect();
    assert_eq!(sink.write(&refs(&letters)).await, Ok(vec![Fate::Stored; 100]));
    assert_eq!(sink.write(&refs(&letters)).await, Ok(vec![Fate::Stored; 100]), "a retry is its own");
    let query = "select count(*) from dead_letters where raw = '\\x00ff' and detail = 'nul \u{fffd} here' \
        and violations #>> '{0,pointer}' = '/\u{fffd}' and module_id is not null and session_id is not null \
        and event_id is null and reason = 'quarantined'";
    assert_eq!(count(&server, query).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_rows_from_many_writers_are_stored_once() {
    let server = Server::start();
    let store = migrated(&server).await;
    let limits = Limits {
        events_max: 300,
        bytes_max: 8 << 20,
        age: Duration::from_millis(1),
        submissions_max: 1_000,
        wait: WAIT,
    };
    let (batcher, writers) = Batcher::start("events", limits, (0..4).map(|_| store.event_sink()).collect());
    let mut receipts = Vec::new();
    for round in 0..8_i64 {
        for submission in 0..20 {
            let rows = (0..100).map(|index| submission * 100 + index).map(|number| {
                let row = row(number);
                EventRow { received_at_us: row.received_at_us + round * 1_000_000, ..row }
            });
            receipts.push(batcher.submit(rows.collect::<Vec<_>>(), None).expect("room"));
        }
    }
    let mut stored = 0;
    for receipt in receipts {
        let fates = receipt.await.expect("receipt");
        stored += fates.iter().filter(|fate| **fate == Fate::Stored).count();
    }
    assert_eq!(stored, 2_000, "stored is said once for each");
    assert_eq!(count(&server, "select count(*) from events").await, 2_000);
    drop(batcher);
    writers.drain(Duration::from_secs(5)).await;
}

const PASS: u8 = 0;
/// Cut the connection before the end of the copy reaches the server.
const CUT_BEFORE: u8 = 1;
/// Pass the end of the copy on, and cut the connection before its answer.
const CUT_AFTER: u8 = 2;
/// Pass the end of the copy on, and never answer.
const HANG: u8 = 3;
/// Pass the commit on, and cut the connection before its answer.
const CUT_AFTER_COMMIT: u8 = 4;

/// Whether this message ends a transaction with counts: rows and counts in one statement, or counts alone.
fn is_insert(sent: &[u8]) -> bool {
    let counts = |word: &[u8]| sent.windows(word.len()).any(|window| window == word);
    sent.ends_with(b"S\0\0\0\x04") && (counts(b"stored") || counts(b"duplicate"))
}

/// A proxy before the server that breaks the next end of a copy, or the next commit, as `mode` says.
async fn proxy(server: &Server, mode: Arc<AtomicU8>, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("address").port();
    let socket = server.socket();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.expect("accepted");
            let Ok(mut server) = UnixStream::connect(&socket).await else { continue };
            let mode = Arc::clone(&mode);
            connections.spawn(async move {
                let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
                loop {
                    tokio::select! {
                        read = client.read(&mut up) => {
                            let Ok(length @ 1..) = read else { return };
                            let sent = &up[..length];
                            let meant = if mode.load(Ordering::SeqCst) == CUT_AFTER_COMMIT {
                                sent.ends_with(b"c\0\0\0\x04") || is_insert(sent)
                            } else {
                                sent.ends_with(b"c\0\0\0\x04")
                            };
                            let how = if meant { mode.swap(PASS, Ordering::SeqCst) } else { PASS };
                            if how == CUT_BEFORE || server.write_all(sent).await.is_err() { return }
                            if how == CUT_AFTER || how == CUT_AFTER_COMMIT {
                                // The server's answer shows that it is done. The client never gets it.
                                let _ = server.read(&mut down).await;
                                return;
                            }
                            if how == HANG {
                                tokio::time::sleep(Duration::from_secs(60)).await;
                            }
                        }
                        read = server.read(&mut down) => {
                            let Ok(length @ 1..) = read else { return };
                            if client.write_all(&down[..length]).await.is_err() { return }
                        }
                    }
                }
            });
        }
    });
    format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_around_the_commit_doubles_nothing() {
    let server = Server::start();
    migrated(&server).await;
    let mode = Arc::new(AtomicU8::new(PASS));
    let mut tasks = JoinSet::new();
    let url = proxy(&server, Arc::clone(&mode), &mut tasks).await;
    let store = Store::new(&url, LibpqEnvironment::default(), 1, Duration::from_secs(5), Duration::from_millis(1_000))
        .expect("url");
    store.prove_schema().await.expect("proved");
    let mut sink = store.event_sink();
    let other = row(5_000);
    assert_eq!(sink.write(&[&other]).await, Ok(vec![Fate::Stored]));
    let mut first = 0;
    for how in [CUT_BEFORE, CUT_AFTER, HANG, CUT_AFTER_COMMIT] {
        let mut rows: Vec<EventRow> = (first..first + 100).map(row).collect();
        rows.push(later(&rows[0]));
        rows.push(later(&other));
        first += 100;
        let sent: Vec<&EventRow> = rows[..100].iter().collect();
        mode.store(how, Ordering::SeqCst);
        assert!(matches!(sink.write(&sent).await, Err(Failure::Transient(_))), "{how}");
        // The retry has the same rows, and some that other senders have sent meanwhile.
        let mut wanted = vec![Fate::Stored; 100];
        wanted.extend([Fate::Duplicate, Fate::Duplicate]);
        assert_eq!(sink.write(&refs(&rows)).await, Ok(wanted), "{how}");
        sink.batch_ended().await;
        let again: Vec<EventRow> = rows.iter().map(later).collect();
        assert_eq!(sink.write(&refs(&again)).await, Ok(vec![Fate::Duplicate; 102]), "{how}");
        // Until the writer takes the straight path again.
        for number in 0..8 {
            let row = row(10_000 + first + number);
            assert_eq!(sink.write(&[&row]).await, Ok(vec![Fate::Stored]));
        }
    }
    assert_eq!(count(&server, "select count(*) from events").await, 1 + 400 + 32);
    // Whether or not the commit with the lost answer succeeded.
    tokio::task::block_in_place(|| assert_eq!(server.sql(WRONG_COUNTS), "", "what is counted is what is there"));
    let duplicates = "select coalesce(sum(count), 0)::bigint from unfolded_counts where outcome = 'duplicate'";
    assert!(count(&server, duplicates).await <= 4 * (2 + 102), "no duplicate is counted twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_answer_concerns_its_own_batch_and_all_of_it() {
    let server = Server::start();
    migrated(&server).await;
    let mode = Arc::new(AtomicU8::new(PASS));
    let mut tasks = JoinSet::new();
    let url = proxy(&server, Arc::clone(&mode), &mut tasks).await;
    let store = store(&url);
    store.prove_schema().await.expect("proved");
    let mut sink = store.event_sink();
    let batch = [row(1), row(2), row(3)];
    mode.store(CUT_AFTER_COMMIT, Ordering::SeqCst);
    assert!(matches!(sink.write(&refs(&batch)).await, Err(Failure::Transient(_))));
    // Written again in parts, as when one of the rows is refused.
    assert_eq!(sink.write(&refs(&batch[..1])).await, Ok(vec![Fate::Stored]));
    assert_eq!(sink.write(&refs(&batch[1..])).await, Ok(vec![Fate::Stored; 2]), "all parts are its own");
    sink.batch_ended().await;

    mode.store(CUT_AFTER_COMMIT, Ordering::SeqCst);
    assert!(matches!(sink.write(&[&row(4)]).await, Err(Failure::Transient(_))));
    // No request waits for it any more, and then another batch has the same event.
    sink.batch_ended().await;
    assert_eq!(sink.write(&[&row(4)]).await, Ok(vec![Fate::Duplicate]), "it was another batch that wrote it");
    assert_eq!(count(&server, "select count(*) from events").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_move_to_their_month_while_they_are_sent_again_are_stored_once() {
    const MONTHS: u32 = 6;
    const ROWS: u32 = 400;
    let server = Server::start();
    let store = migrated(&server).await;
    let limits = Limits {
        events_max: 100,
        bytes_max: 8 << 20,
        age: Duration::from_millis(1),
        submissions_max: 1_000,
        wait: WAIT,
    };
    let (batcher, writers) = Batcher::start("events", limits, (0..4).map(|_| store.event_sink()).collect());
    let mut mover = PgConnection::connect(&server.url()).await.expect("connected");
    for month in 0..MONTHS {
        let done = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for sender in 0..4_i64 {
            let (batcher, done) = (batcher.clone(), Arc::clone(&done));
            senders.spawn(async move {
                let (mut stored, mut rounds) = (Vec::new(), 0_i64);
                while rounds < 3 || !done.load(Ordering::SeqCst) {
                    // A new time of receipt for each request, as the gateway gives it.
                    let sending = (rounds * 4 + sender) * 1_000_000;
                    rounds += 1;
                    let rows: Vec<EventRow> = (0..ROWS).map(|number| stray(month, number, sending)).collect();
                    for part in rows.chunks(50) {
                        let fates = batcher.submit(part.to_vec(), None).expect("room").await.expect("receipt");
                        let told = part.iter().zip(fates);
                        stored.extend(told.filter(|(_, fate)| *fate == Fate::Stored).map(|(row, _)| row.id));
                    }
                }
                stored
            });
        }
        // The place of the rows as long as their month has no partition.
        let rows_there = format!("select count(*) from events_default where timestamp >= '20{}-01-01'", 40 + month);
        while sqlx::query_scalar::<_, i64>(AssertSqlSafe(rows_there.clone()))
            .fetch_one(&mut mover)
            .await
            .expect("count")
            == 0
        {}
        let made = make_partition(&mut mover, &format!("20{}-01-01", 40 + month)).await;
        done.store(true, Ordering::SeqCst);
        assert_eq!(made, "made");
        let told = senders.join_all().await.concat();
        let ids: HashSet<&Uuid> = told.iter().collect();
        assert_eq!((told.len(), ids.len()), (ROWS as usize, ROWS as usize), "stored is said once for each");
    }
    assert_eq!(count(&server, "select count(*) from events").await, i64::from(MONTHS * ROWS));
    assert_eq!(count(&server, "select count(distinct id) from events").await, i64::from(MONTHS * ROWS));
    assert_eq!(count(&server, "select count(*) from events_default").await, 0, "each is in its month");
    drop(batcher);
    writers.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_a_month_whose_partition_is_being_made_is_tried_again() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    let (here, stray) = (row(1), stray(0, 1, 0));
    // The state between the proof that the month has no rows and its partition.
    tokio::task::block_in_place(|| {
        server.sql(
            "alter table events_default add constraint events_2040_01_gap \
             check (timestamp < '2040-01-01+00' or timestamp >= '2040-02-01+00') not valid",
        )
    });
    for _ in 0..2 {
        assert!(matches!(sink.write(&[&here, &stray]).await, Err(Failure::Transient(_))), "it is no fault of the row");
    }
    tokio::task::block_in_place(|| server.sql("alter table events_default drop constraint events_2040_01_gap"));
    assert_eq!(sink.write(&[&here, &stray]).await, Ok(vec![Fate::Stored; 2]));
}

/// A row of January 2040 or of a later year, which has no partition yet.
fn stray(year: u32, number: u32, later_us: i64) -> EventRow {
    const JANUARY_2040_US: i64 = 2_208_988_800_000_000;
    const YEAR_US: i64 = 365 * 86_400_000_000 + 86_400_000_000 / 4;
    let row = row(1_000_000 + year * 10_000 + number);
    let timestamp_us = JANUARY_2040_US + i64::from(year) * YEAR_US + 86_400_000_000 + i64::from(number);
    EventRow { timestamp_us, received_at_us: row.received_at_us + later_us, ..row }
}

/// Moves the rows of a month from the default partition into a new one, as retention does.
async fn make_partition(connection: &mut PgConnection, month: &str) -> String {
    let script = format!(
        "select prepare_partition('events', '{month}', 2000, 33554432, 33554432); select attach_partition('events', '{month}')"
    );
    loop {
        match sqlx::raw_sql(AssertSqlSafe(script.clone())).fetch_all(&mut *connection).await {
            Ok(rows) => return rows.last().expect("a word").get(0),
            // A writer was in the way.
            Err(error) => assert_eq!(error.as_database_error().and_then(|it| it.code()).as_deref(), Some("40P01")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_taken_up_again() {
    let server = Server::start();
    let store = migrated(&server).await;
    let limits = Limits {
        events_max: 100,
        bytes_max: 8 << 20,
        age: Duration::from_millis(1),
        submissions_max: 1_000,
        wait: WAIT,
    };
    let (batcher, writers) = Batcher::start("events", limits, vec![store.event_sink(), store.event_sink()]);
    let before = batcher.submit(vec![row(0)], None).expect("room");
    assert_eq!(before.await.expect("receipt")[..], [Fate::Stored]);
    tokio::task::block_in_place(|| server.down());
    assert!(!store.ready().await);
    let receipts: Vec<_> = (1..50).map(|number| batcher.submit(vec![row(number)], None).expect("room")).collect();
    tokio::task::block_in_place(|| server.up());
    let since = std::time::Instant::now();
    for receipt in receipts {
        assert_eq!(receipt.await.expect("receipt")[..], [Fate::Stored]);
    }
    println!("stored {} ms after the database was back", since.elapsed().as_millis());
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert!(store.ready().await);
    assert_eq!(count(&server, "select count(*) from events").await, 50);
    drop(batcher);
    writers.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applications_are_added_rotated_revoked_and_heard_of() {
    let server = Server::start();
    let store = migrated(&server).await;
    store.migrate().await.expect("a second time");
    let mut changes = store.listen_applications().await.expect("listening");
    let new = NewApplication {
        name: "shop".to_owned(),
        token_digest: Some(Digest([1; 32])),
        expires: None,
        certificates: Vec::new(),
        events_per_second: None,
        burst_events: None,
        event_types: Vec::new(),
        read_event_types: Vec::new(),
        ship_event_types: Vec::new(),
        read_applications: Vec::new(),
        networks: vec!["10.0.0.0/8".parse().expect("network"), "2001:db8::/32".parse().expect("network")],
        known_by: "both".to_owned(),
        scopes: vec!["ingest".to_owned()],
        note: String::new(),
    };
    let by = Actor::command();
    let id = store.application_add(&new, &by).await.expect("added");
    tokio::time::timeout(WAIT, changes.changed()).await.expect("heard").expect("listened");
    assert!(matches!(store.application_add(&new, &by).await, Err(Error::ApplicationExists(name)) if name == "shop"));
    store.application_rotate("shop", Digest([2; 32]), None, &by).await.expect("rotated");
    store.application_rotate("shop", Digest([3; 32]), None, &by).await.expect("rotated");
    store.ensure_local_application(&["ingest".to_owned()]).await.expect("local");
    store.ensure_local_application(&["ingest".to_owned()]).await.expect("local");
    let rows = store.applications().await.expect("applications");
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].name.as_str(), rows[0].known_by.as_str(), rows[0].scopes.len()), ("local", "network", 1));
    assert_eq!((rows[1].id, &rows[1].networks), (id, &new.networks));
    assert_eq!(rows[1].token_digests, [vec![1; 32], vec![3; 32]]);
    store.application_revoke("shop", &by).await.expect("revoked");
    assert!(matches!(store.application_revoke("shop", &by).await, Err(Error::ApplicationUnknown(_))));
    assert!(!store.applications().await.expect("applications")[1].active);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_may_take_longer_than_a_read() {
    let server = Server::start();
    migrated(&server).await;
    tokio::task::block_in_place(|| {
        server.sql(
            "create function wait() returns trigger language plpgsql as $$ begin perform pg_sleep(0.002); return new; end; $$;
             create trigger wait before insert on counts for each row execute function wait();
             insert into count_deltas (minute, application_id, outcome, event_type_ids, counts)
             select now(), 1, 'stored', array[type], array[1] from generate_series(1, 100) type;",
        )
    });
    let read_time = Duration::from_millis(100);
    let store =
        Store::new(&server.url(), LibpqEnvironment::default(), 1, read_time, Duration::from_secs(5)).expect("url");
    assert_eq!(store.fold_counts(60).await.expect("folded"), 60, "no more than it is told to");
    assert_eq!(store.fold_counts(60).await.expect("folded"), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_batch_counts_each_minute_application_and_outcome_by_itself() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut rows: Vec<EventRow> = (0..12).map(row).collect();
    for (number, row) in (0..).zip(&mut rows) {
        row.application_id = 1 + number / 3 % 2;
        row.received_at_us += i64::from(number / 6) * 60_000_000;
    }
    rows.push(EventRow { received_at_us: rows[0].received_at_us + 20, ..rows[0].clone() });
    let fates = store.event_sink().write(&refs(&rows)).await.expect("written");
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Duplicate).count(), 1);
    assert_eq!(count(&server, "select count(*) from count_deltas").await, 5, "four of what is stored, one of the rest");
    assert_eq!(count(&server, "select count(*) from unfolded_counts").await, 9, "two event types in each of the four");
    let right = "select count(*) from unfolded_counts where outcome = 'stored' and count = (select count(*) from events \
         where date_trunc('minute', received_at) = minute and events.application_id = unfolded_counts.application_id \
             and events.event_type_id = unfolded_counts.event_type_id)";
    assert_eq!(count(&server, right).await, 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_of_small_batches_are_gathered_unless_a_fold_has_its_hands_on_them() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    let mut next = 0..;
    let mut small_batches = async |batches: usize| {
        for number in next.by_ref().take(batches) {
            let rows = [row(2 * number), row(2 * number + 1)];
            assert_eq!(sink.write(&refs(&rows)).await, Ok(vec![Fate::Stored; 2]));
            sink.batch_ended().await;
        }
    };
    let deltas = async || count(&server, "select count(*) from count_deltas").await;
    let counted = async || count(&server, "select sum(count)::bigint from unfolded_counts").await;
    small_batches(63).await;
    assert_eq!((deltas().await, counted().await), (63, 126));
    small_batches(1).await;
    assert_eq!((deltas().await, counted().await), (1, 128), "one delta, with both event types");
    let mut fold = PgConnection::connect(&server.url()).await.expect("connected");
    let lock = "select pg_advisory_lock(hashtext('eye_gather_counts'))";
    sqlx::query(lock).execute(&mut fold).await.expect("locked");
    small_batches(64).await;
    assert_eq!((deltas().await, counted().await), (65, 256), "left to the fold, and nobody waits");
    // A closed connection keeps its locks until the server's side has ended, which the client does not learn.
    let unlock = "select pg_advisory_unlock(hashtext('eye_gather_counts'))";
    assert!(sqlx::query_scalar::<_, bool>(unlock).fetch_one(&mut fold).await.expect("unlocked"));
    fold.close().await.expect("closed");
    small_batches(64).await;
    assert_eq!((deltas().await, counted().await), (66, 384), "each is tried once");
    // Another row, or none, may be at a recorded place by now.
    small_batches(63).await;
    assert_eq!(store.fold_counts(100).await.expect("folded"), 100);
    small_batches(1).await;
    let all = "select (select sum(count) from counts where bucket = 'ever')::bigint + (select sum(count) from unfolded_counts)::bigint";
    assert_eq!(count(&server, all).await, 512);
    assert_eq!(count(&server, "select count(*) from events").await, 512);
}

/// The round trips of a writer's connection for each of `batches` of `rows` rows. The first row has number `first`.
async fn trips(proxy: &Proxy, sink: &mut EventSink, first: u32, rows: u32, batches: u32) -> Vec<usize> {
    let mut trips = Vec::new();
    for batch in 0..batches {
        let start = first + batch * rows;
        let rows: Vec<EventRow> = (start..start + rows).map(row).collect();
        let before = proxy.trips();
        assert_eq!(sink.write(&refs(&rows)).await, Ok(vec![Fate::Stored; rows.len()]));
        trips.push(proxy.trips() - before);
        sink.batch_ended().await;
    }
    trips
}

/// A thousand rows from a number on, a tenth of which were written before, and the expected fate of each.
fn with_a_tenth_known(first: u32) -> (Vec<EventRow>, Vec<Fate>) {
    let known = |place: u32| place % 10 == 3;
    let number = |place: u32| if known(place) { 10_000 + place } else { first + place };
    let rows = (0..1_000).map(|place| later(&row(number(place)))).collect();
    let fates = (0..1_000).map(|place| if known(place) { Fate::Duplicate } else { Fate::Stored }).collect();
    (rows, fates)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_soon_is_counted_as_a_duplicate_beside_a_batch_of_others() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sinks = [store.event_sink(), store.event_sink()];
    let rows: Vec<EventRow> = (10_000..11_000).map(row).collect();
    assert_eq!(sinks[0].write(&refs(&rows)).await, Ok(vec![Fate::Stored; 1_000]));
    for (place, first) in [20_000, 30_000, 40_000].into_iter().enumerate() {
        let (mixed, wanted) = with_a_tenth_known(first);
        assert_eq!(sinks[place % 2].write(&refs(&mixed)).await, Ok(wanted), "by whichever writer");
    }
    // A large batch of known rows only.
    let again: Vec<EventRow> = rows.iter().map(later).collect();
    assert_eq!(sinks[1].write(&refs(&again)).await, Ok(vec![Fate::Duplicate; 1_000]));
    let there = || server.sql("select count(*) from events");
    assert_eq!(there(), "3700");
    store.fold_counts(u32::MAX).await.expect("folded");
    let counted =
        server.sql("select outcome, sum(count) from counts where bucket = 'ever' group by outcome order by 1");
    assert_eq!(counted, "duplicate|1300\nstored|3700");
    // Rows that were removed meanwhile are written again.
    server.sql("delete from events where (data->>'n')::integer between 10000 and 10049");
    let fates = sinks[0].write(&refs(&again)).await.expect("written");
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Stored).count(), 50, "only what is there is a duplicate");
    assert_eq!(there(), "3700");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_costs_the_round_trip_of_its_commit_and_no_more() {
    let server = Server::start();
    migrated(&server).await;
    let proxy = Proxy::distant(server.socket(), Duration::from_millis(1)).await;
    let store = store(&proxy.url());
    store.prove_schema().await.expect("proved");
    let mut sink = store.event_sink();
    // The first batch reads the ids of its event types.
    sink.write(&refs(&[row(0), row(1), row(5), row(10)])).await.expect("written");
    assert_eq!(trips(&proxy, &mut sink, 100, 1, 5).await, [1; 5], "one event");
    assert_eq!(trips(&proxy, &mut sink, 200, 64, 5).await, [1; 5], "few events");
    assert_eq!(trips(&proxy, &mut sink, 1_000, 100, 5).await, [1; 5], "more");
    assert_eq!(trips(&proxy, &mut sink, 10_000, 1_000, 3).await, [1; 3], "a full batch");
    for (rows, first) in [(100_u32, 1_000), (64, 200)] {
        let known: Vec<EventRow> = (first..first + rows).map(|number| later(&row(number))).collect();
        let mut conflict = async || {
            let before = proxy.trips();
            assert_eq!(sink.write(&refs(&known)).await, Ok(vec![Fate::Duplicate; known.len()]));
            sink.batch_ended().await;
            proxy.trips() - before
        };
        assert_eq!(conflict().await, 2, "what is there, and the commit");
        assert_eq!(conflict().await, 2, "and again");
    }
    let (mixed, wanted) = with_a_tenth_known(20_000);
    let before = proxy.trips();
    assert_eq!(sink.write(&refs(&mixed)).await, Ok(wanted));
    assert_eq!(proxy.trips() - before, 2, "what is likely there, and all others with the commit");
    // A gateway that has just started knows none of them.
    let forgetful = self::store(&proxy.url());
    forgetful.prove_schema().await.expect("proved");
    let mut other = forgetful.event_sink();
    other.write(&refs(&[row(0), row(1), row(5), row(10)])).await.expect("written");
    let (mixed, wanted) = with_a_tenth_known(30_000);
    let before = proxy.trips();
    assert_eq!(other.write(&refs(&mixed)).await, Ok(wanted));
    assert!(proxy.trips() - before <= 3, "a try, what is there, and the commit");
    let mut letters = store.dead_letter_sink();
    letters.write(&refs(&[letter(1)])).await.expect("written");
    let before = proxy.trips();
    letters.write(&refs(&[letter(2), letter(3)])).await.expect("written");
    assert_eq!(proxy.trips() - before, 1, "dead letters");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_names_its_request_on_the_conflict_path_too() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut letters = store.dead_letter_sink();
    letters.write(&refs(&[letter(1)])).await.expect("written");
    letters.write(&refs(&[letter(1), letter(2)])).await.expect("written");
    let named = "select count(*) from dead_letters where request_id = 'a request' and traceparent = 'its trace'";
    assert_eq!(count(&server, named).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_file_is_a_way_to_the_database_too() {
    let server = Server::start();
    migrated(&server).await;
    let store = store(&server.socket_url());
    store.prove_schema().await.expect("proved");
    assert!(store.ready().await);
    let mut sink = store.event_sink();
    sink.begin().await;
    let rows: Vec<EventRow> = (0..100).map(row).collect();
    assert_eq!(sink.write(&refs(&rows)).await, Ok(vec![Fate::Stored; 100]));
    let ways = "select count(*) from pg_stat_activity where application_name like 'eye%' and client_addr is null \
        and backend_type = 'client backend'";
    assert!(count(&server, ways).await >= 2, "the writer's and that of the question");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_batch_waits_for_an_acknowledgement() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    let start = std::time::Instant::now();
    for batch in 0..400 {
        let rows: Vec<EventRow> = (batch * 100..batch * 100 + 100).map(row).collect();
        assert_eq!(sink.write(&refs(&rows)).await, Ok(vec![Fate::Stored; 100]));
    }
    println!("400 batches of 100 over TCP in {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(12), "40 ms each are 16 s: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gather_that_finds_its_deltas_held_is_given_up_and_costs_no_connection() {
    let server = Server::start();
    let store = migrated(&server).await;
    let mut sink = store.event_sink();
    for number in 0..63 {
        assert_eq!(sink.write(&[&row(number)]).await, Ok(vec![Fate::Stored]));
        sink.batch_ended().await;
    }
    let mut holder = PgConnection::connect(&server.url()).await.expect("connected");
    holder.execute("begin; select from count_deltas for update").await.expect("held");
    let process = "select pid::bigint from pg_stat_activity where application_name = 'eye writer events'";
    let before = count(&server, process).await;
    assert_eq!(sink.write(&[&row(63)]).await, Ok(vec![Fate::Stored]));
    sink.batch_ended().await;
    assert_eq!(sink.write(&[&row(64)]).await, Ok(vec![Fate::Stored]), "the next batch did not wait for the holder");
    assert_eq!(count(&server, process).await, before, "on the same connection");
    holder.execute("rollback").await.expect("let go");
    assert_eq!(count(&server, "select count(*) from count_deltas").await, 65, "left to the fold");
}
