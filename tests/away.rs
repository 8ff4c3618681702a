//! The database goes away in many ways, and returns. All answers stay true, and the gateway recovers by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::cluster::Server;
use crate::support::load::{Chance, Ended, Ledger, Load, ROWS, id_of, numbered};
use crate::support::proxy::{At, Fault, How, Proxy};
use crate::support::{Gateway, SESSION, Setup, eventually};

/// A gateway stores again a moment after the database is back. The tests print the time. The bound is more than a
/// loaded machine needs, and less than a gateway takes that waits for a timer of its own.
const RECOVERY_MOST: Duration = Duration::from_secs(10);
/// The gateway's time to answer in these tests, and what a loaded machine may add.
const ANSWER_MS: u64 = 1_500;
const ANSWER_MOST: Duration = Duration::from_millis(ANSWER_MS + 10_000);

fn setup(url: &str) -> Setup {
    Setup::default().with("EYE_DATABASE_URL", url).with("EYE_ANSWER_MS", ANSWER_MS)
}

async fn behind_proxy(setup: impl FnOnce(&str) -> Setup) -> (Server, Proxy, Gateway) {
    let server = Server::start();
    server.prepare();
    let proxy = Proxy::start(server.socket()).await;
    let gateway = setup(&proxy.url()).start().await;
    (server, proxy, gateway)
}

/// Sends one event, which must be refused in time, with the time of a retry.
async fn is_refused_in_time(gateway: &Gateway, number: u64) {
    let start = Instant::now();
    let answer = gateway.send(&numbered(number)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(start.elapsed() < ANSWER_MOST, "answered after {:?}", start.elapsed());
}

/// Sends events until one is stored.
async fn recovers(gateway: &Gateway, what: &str) {
    let start = Instant::now();
    eventually("an event is stored again", async || {
        let mut event = numbered(0);
        event["id"] = json!(Uuid::now_v7());
        let answer = gateway.send(&event).await;
        (answer.status == 201).then_some(())
    })
    .await;
    println!("{what}: stored again after {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < RECOVERY_MOST, "{what}: stored again only after {:?}", start.elapsed());
}

/// A fault at a random byte of a batch of this many events.
fn fault(chance: &mut Chance, events: u64) -> Fault {
    let at = if chance.below(2) == 0 {
        // From the statement to a little after the last row.
        At::Up(usize::try_from(chance.below(events * 160 + 200)).expect("small"))
    } else {
        // From the first answer to that of the commit.
        At::Down(usize::try_from(chance.below(60)).expect("small"))
    };
    let how = match chance.below(6) {
        0..3 => How::Cut,
        3 => How::HalfCloseUp,
        4 => How::HalfCloseDown,
        _ => How::Pause(Duration::from_millis(chance.below(400))),
    };
    Fault { at, how }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_at_any_byte_of_a_batch_breaks_no_answer() {
    let mut chance = Chance::new();
    let (server, proxy, gateway) = behind_proxy(|url| setup(url).with("EYE_WRITERS", 1)).await;
    let (ledger, client) = (Ledger::default(), reqwest::Client::new());
    let (mut told, mut most) = (0, Duration::ZERO);
    for round in 0..120 {
        let count = 1 + chance.below(40);
        let fault = fault(&mut chance, count);
        proxy.arm(fault);
        let numbers = ledger.reserve(count);
        let start = Instant::now();
        let ended = ledger.send(&client, gateway.address(), &numbers).await;
        most = most.max(start.elapsed());
        assert!(start.elapsed() < ANSWER_MOST, "{fault:?} was answered after {:?}", start.elapsed());
        assert!(!proxy.disarm(), "{fault:?} met no batch");
        told += u32::from(ended == Ended::Told);
        assert_ne!(ended, Ended::Unanswered, "{fault:?}");
        if round % 3 == 0 {
            // A repetition finds all of its events stored.
            ledger.send(&client, gateway.address(), &numbers).await;
        }
    }
    println!("{told} of 120 batches were told in spite of the fault, the slowest after {} ms", most.as_millis());
    ledger.hold_against(&server.sql(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_answer_is_told_truly() {
    let (server, proxy, gateway) = behind_proxy(|url| setup(url).with("EYE_WRITERS", 1)).await;
    let (ledger, client) = (Ledger::default(), reqwest::Client::new());
    for how in [How::Cut, How::HalfCloseDown] {
        // The server answers everything after the commit: that it took the rows, where their counts are, and the end.
        for place in 1..45 {
            proxy.arm(Fault { at: At::Down(place), how });
            let numbers = ledger.reserve(10);
            let ended = ledger.send(&client, gateway.address(), &numbers).await;
            assert_eq!(ended, Ended::Told, "the batch is written again at once");
            assert!(!proxy.disarm(), "the fault met no batch");
            // After a conflict this many batches take the conflict path, whose commit is elsewhere.
            for _ in 0..3 {
                ledger.send(&client, gateway.address(), &ledger.reserve(1)).await;
            }
        }
    }
    let stored = ledger.said_stored();
    assert_eq!(stored, ledger.numbers(), "what a former try has committed is stored, not a duplicate");
    ledger.hold_against(&server.sql(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_is_refused_in_time_and_taken_up_again() {
    let (server, proxy, gateway) = behind_proxy(|url| setup(url).with("EYE_FLUSH_MS", 1_000)).await;
    recovers(&gateway, "at first").await;
    proxy.freeze(true);
    for number in 0..3 {
        is_refused_in_time(&gateway, number).await;
    }
    gateway.unready().await;
    proxy.freeze(false);
    recovers(&gateway, "after everything was held back").await;

    // One connection never answers again, while new ones do.
    let ledger = Ledger::default();
    for (number, place) in [(100, At::Up(30)), (101, At::Down(30))] {
        proxy.arm(Fault { at: place, how: How::Stall });
        ledger.send(&reqwest::Client::new(), gateway.address(), &[number]).await;
        assert!(!proxy.disarm(), "the fault met no batch");
        recovers(&gateway, "after one connection hung").await;
    }
    let doubles = server.sql("select id from events group by id having count(*) > 1");
    assert_eq!(doubles, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_lost_without_a_word_are_noticed_in_time_with_the_defaults() {
    let default = |url: &str| Setup::default().with("EYE_DATABASE_URL", url);
    let (server, mut proxy, gateway) = behind_proxy(default).await;
    for _ in 0..3 {
        recovers(&gateway, "at first").await;
        // Like a short outage of the network: while it lasts, requests get no answer and keep their connections in use.
        // After it new connections work, and the old ones never answer again.
        proxy.freeze(true);
        gateway.unready().await;
        proxy.lose_all();
        recovers(&gateway, "after all connections were lost").await;
        let start = Instant::now();
        eventually("ready", async || (gateway.get("/readyz").await.status == 200).then_some(())).await;
        println!("ready after {} ms more", start.elapsed().as_millis());
        assert!(start.elapsed() < RECOVERY_MOST, "ready only after {:?}", start.elapsed());
    }
    assert_eq!(server.sql("select id from events group by id having count(*) > 1"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_gets_no_answer_gives_its_place_back() {
    let setup = |url: &str| setup(url).with("EYE_READ_CONNECTIONS", 1).with("EYE_READ_MS", 1_000);
    let (server, mut proxy, gateway) = behind_proxy(setup).await;
    assert_eq!(gateway.session(SESSION).await.len(), 0);
    let ask = server.asker();
    let script = "begin; lock table events; select pg_sleep(2); commit;\n";
    let holder = tokio::task::spawn_blocking(move || ask(script));
    let waits = "select count(*) from pg_stat_activity where application_name = 'eye' and wait_event_type = 'Lock'";
    // The network fails while the server works on a read.
    let read = async {
        eventually("the table is held", async || {
            let held =
                "select count(*) from pg_locks where relation = 'events'::regclass and mode = 'AccessExclusiveLock'";
            (server.sql(held) == "1").then_some(())
        })
        .await;
        gateway.get(&format!("/v1/sessions/{SESSION}")).await
    };
    let loss = async {
        eventually("a read waits", async || (server.sql(waits) == "1").then_some(())).await;
        proxy.freeze(true);
    };
    let (answer, ()) = tokio::join!(read, loss);
    assert_eq!(answer.status, 503, "{answer:?}");
    holder.await.expect("the lock is given back");
    proxy.lose_all();
    let start = Instant::now();
    eventually("a read is answered", async || {
        (gateway.get(&format!("/v1/sessions/{SESSION}")).await.status == 200).then_some(())
    })
    .await;
    println!("read again after {} ms", start.elapsed().as_millis());
    assert!(start.elapsed() < RECOVERY_MOST, "read again only after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_swallows_everything_for_long_is_taken_up_again() {
    // One writer, so that its attempts come one after the other, each with twice the time.
    let setup = |url: &str| setup(url).with("EYE_FLUSH_MS", 500).with("EYE_WRITERS", 1);
    let (_server, mut proxy, gateway) = behind_proxy(setup).await;
    recovers(&gateway, "at first").await;
    proxy.freeze(true);
    let start = Instant::now();
    let mut number = 0;
    // Long enough for several attempts of each writer, each of which gets no answer.
    while start.elapsed() < Duration::from_secs(9) {
        is_refused_in_time(&gateway, number).await;
        number += 1;
    }
    proxy.lose_all();
    let start = Instant::now();
    recovers(&gateway, "after 9 s without a byte, with all connections lost").await;
    eventually("ready", async || (gateway.get("/readyz").await.status == 200).then_some(())).await;
    println!("ready again after {} ms", start.elapsed().as_millis());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_refusals_until_the_database_is_back() {
    let (server, mut proxy, gateway) = behind_proxy(setup).await;
    let mut chance = Chance::new();
    let mut load = Load::start(gateway.address(), 4, 20, &mut chance);
    load.stores(100).await;
    for _ in 0..3 {
        proxy.leave().await;
        is_refused_in_time(&gateway, 1_000_000_000).await;
        gateway.unready().await;
        assert_eq!(gateway.get("/healthz").await.status, 200);
        proxy.come_back().await;
        let first = load.stores(100).await;
        println!("stored again {} ms after the database was back", first.as_millis());
        assert!(first < RECOVERY_MOST, "{first:?}");
        eventually("ready", async || (gateway.get("/readyz").await.status == 200).then_some(())).await;
    }
    load.stop().await;
    server.sql("delete from events where data ->> 'n' = '1000000000'");
    load.ledger.hold_against(&server.sql(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_starts_with_the_database_away() {
    let server = Server::start();
    server.prepare();
    let mut proxy = Proxy::start(server.socket()).await;
    proxy.leave().await;
    let gateway = setup(&proxy.url()).listen().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(gateway.get("/healthz").await.status, 200);
        gateway.unready().await;
        is_refused_in_time(&gateway, 1).await;
    }
    proxy.come_back().await;
    let start = Instant::now();
    eventually("ready", async || (gateway.get("/readyz").await.status == 200).then_some(())).await;
    println!("ready {} ms after the database was there", start.elapsed().as_millis());
    assert!(start.elapsed() < RECOVERY_MOST, "ready only after {:?}", start.elapsed());
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_and_comes_back_loses_no_answer() {
    let (server, _proxy, gateway) = behind_proxy(setup).await;
    let mut load = Load::start(gateway.address(), 4, 20, &mut Chance::new());
    for _ in 0..4 {
        load.stores(200).await;
        tokio::task::block_in_place(|| server.down());
        is_refused_in_time(&gateway, 1_000_000_000).await;
        tokio::task::block_in_place(|| server.up());
        let first = load.stores(1).await;
        println!("stored again {} ms after the server was back", first.as_millis());
        assert!(first < RECOVERY_MOST, "{first:?}");
    }
    load.stop().await;
    server.sql("delete from events where data ->> 'n' = '1000000000'");
    load.ledger.hold_against(&server.sql(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_postgres_refuses_cost_only_themselves() {
    let gateway = Gateway::start().await;
    gateway.sql("alter table events add constraint poison check (data ->> 'n' not like '%13')");
    let mut chance = Chance::new();
    let ledger = Ledger::default();
    // In random order, so that the bad ones are at random places.
    let mut numbers = ledger.reserve(1_000);
    for place in (1..numbers.len()).rev() {
        numbers.swap(place, usize::try_from(chance.below(place as u64 + 1)).expect("small"));
    }
    let start = Instant::now();
    let ended = ledger.send(&reqwest::Client::new(), gateway.address(), &numbers).await;
    println!("1,000 events with 10 bad ones among them: {ended:?} after {} ms", start.elapsed().as_millis());
    assert_eq!(ended, Ended::Told);
    let mut bad = ledger.quarantined();
    bad.sort_unstable();
    assert_eq!(bad, (0..10).map(|hundred| hundred * 100 + 13).collect::<Vec<_>>());
    ledger.hold_against(&gateway.sql_script(ROWS));
    let letters = gateway.sql(
        "select event_id, code, reason, convert_from(raw, 'UTF8')::json -> 'data' ->> 'n', session_id is not null, \
             category, name from dead_letters",
    );
    assert_eq!(letters.lines().count(), 10, "{letters}");
    for number in bad {
        let line = format!("{}|unstorable|quarantined|{number}|t|load|kind {}", id_of(number), number % 5);
        assert!(letters.lines().any(|letter| letter == line), "{line}\n{letters}");
    }
    // Alone, with the answer to a single event.
    let answer = gateway.send(&numbered(100_013)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let body: Value = answer.json();
    assert_eq!((body["outcome"].as_str(), body["code"].as_str()), (Some("quarantined"), Some("unstorable")));
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "11");
}
