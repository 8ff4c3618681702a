//! More load than can be stored: the gateway refuses it honestly, memory stays bounded, and afterwards all is as
//! before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::load::{Chance, Ended, Ledger, Load, ROWS, numbered};
use crate::support::{Gateway, Setup, event, eventually};

/// The most that the resident memory may grow under overload: many times the bounds below on what is in flight.
const GROWTH_MOST_KIB: u64 = 96 * 1024;

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a size").parse().expect("a number")
}

async fn lone_event(gateway: &Gateway, number: u64) -> Duration {
    let start = Instant::now();
    let answer = gateway.send(&numbered(number)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_load_is_shed_and_memory_stays_bounded() {
    let setup = Setup::default().with("EYE_WRITERS", 1).with("EYE_BATCH_EVENTS_MAX", 100);
    let setup = setup.with("EYE_QUEUE_REQUESTS_MAX", 12).with("EYE_REQUEST_BYTES_MAX", 524_288);
    let gateway = setup.with("EYE_IN_FLIGHT_BYTES_MAX", 1_048_576).start().await;
    // Each batch takes a while, so that the best rate is known.
    gateway.sql(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.05); return null; end $$;
         create trigger slow before insert on events for each statement execute function slow()",
    );
    let before = lone_event(&gateway, 1_000_000_000).await;
    let resident_before = resident_kib(gateway.pid());
    let mut load = Load::start(gateway.address(), 48, 60, &mut Chance::new());
    let (start, mut resident_most) = (Instant::now(), 0);
    eventually("enough was shed and stored", async || {
        resident_most = resident_most.max(resident_kib(gateway.pid()));
        let (refused, stored) = (load.ledger.refused.load(Ordering::Relaxed), load.ledger.said_stored());
        (refused > 20_000 && stored > 5_000).then_some(())
    })
    .await;
    let took = start.elapsed();
    load.stop().await;
    let stored = load.ledger.said_stored();
    println!("{} in {:.1} s: {} stored a second", load.ledger.words(), took.as_secs_f64(), stored / took.as_secs());
    println!("resident: {resident_before} KiB before, {resident_most} KiB at most");
    assert!(resident_most < resident_before + GROWTH_MOST_KIB, "{resident_most} KiB");
    assert_eq!(load.ledger.unanswered.load(Ordering::Relaxed), 0, "every request is answered");

    let after = lone_event(&gateway, 1_000_000_001).await;
    println!("a lone event: {} ms before, {} ms right after", before.as_millis(), after.as_millis());
    assert!(after < before + Duration::from_millis(500), "{after:?}");
    gateway.sql("delete from events where (data ->> 'n')::bigint >= 1000000000");
    load.ledger.hold_against(&gateway.sql_script(ROWS));
}

/// Events with an outcome per second, while `connections` senders send as fast as they are answered.
async fn told_a_second(gateway: &Gateway, connections: u32, count: u64) -> (f64, Load) {
    let mut load = Load::start(gateway.address(), connections, 1, &mut Chance::new());
    load.stores(count / 4).await;
    let told = || load.ledger.answered.load(Ordering::Relaxed);
    let (start, before) = (Instant::now(), told());
    load.stores(count).await;
    let rate = (told() - before) as f64 / start.elapsed().as_secs_f64();
    load.stop().await;
    println!("{connections} connections: {rate:.0} a second, {}", load.ledger.words());
    (rate, load)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_can_be_answered_in_time_are_stored_at_the_best_rate() {
    // About eighty events per second, so that two hundred waiting senders would wait for longer than the time to
    // answer.
    let setup = Setup::default().with("EYE_WRITERS", 1).with("EYE_BATCH_EVENTS_MAX", 4).with("EYE_ANSWER_MS", 1_000);
    let gateway = setup.start().await;
    gateway.sql(
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.04); return null; end $$;
         create trigger slow before insert on events for each statement execute function slow()",
    );
    let (calm, _) = told_a_second(&gateway, 8, 200).await;
    gateway.sql("truncate events");
    let resident_before = resident_kib(gateway.pid());
    let (overloaded, load) = told_a_second(&gateway, 200, 400).await;
    let resident = resident_kib(gateway.pid());
    println!("resident: {resident_before} KiB before, {resident} KiB after");
    assert!(load.ledger.refused.load(Ordering::Relaxed) > 0, "there was too much load");
    assert!(overloaded > calm / 3.0, "{overloaded:.0} a second, and {calm:.0} when calm");
    assert!(resident < resident_before + GROWTH_MOST_KIB, "{resident} KiB");
    load.ledger.hold_against(&gateway.sql_script(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantined_events_that_wait_take_room_like_all_others() {
    const DATA_BYTES: usize = 240_000;
    let setup = Setup::default().with_module("_.wasm", "traps").with("EYE_REQUEST_BYTES_MAX", 524_288);
    let gateway = setup.with("EYE_IN_FLIGHT_BYTES_MAX", 1_048_576).with("EYE_ANSWER_MS", 30_000).start().await;
    // No dead letter is written while the gate is closed.
    gateway.sql(
        "create table gate ();
         insert into gate default values;
         create function wait() returns trigger language plpgsql as $$ begin
             while exists (select from gate) loop perform pg_sleep(0.02); end loop; return null;
         end $$;
         create trigger wait before insert on dead_letters for each statement execute function wait()",
    );
    let body = event("a", "b", json!({"misbehave": true, "text": "x".repeat(DATA_BYTES)})).to_string();
    let request =
        || gateway.request("POST", "/v1/events").header("content-type", "application/json").body(body.clone());
    let mut waiting = JoinSet::new();
    for count in 1..=3 {
        waiting.spawn(request().send());
        eventually("its room is taken", async || {
            let taken = gateway.figures().await.value("eye_in_flight_bytes", &[]);
            (taken >= Some((count * DATA_BYTES) as f64)).then_some(())
        })
        .await;
    }
    let refused = gateway.answer(request()).await;
    assert_eq!((refused.status, refused.headers.contains_key("retry-after")), (503, true), "{refused:?}");
    gateway.sql("delete from gate");
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.expect("a request").expect("an answer").status(), 202);
    }
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "3");
    assert_eq!(gateway.figures().await.value("eye_in_flight_bytes", &[]), Some(0.0), "all room is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_ids_from_many_connections_are_stored_once() {
    const EVENTS: u64 = 1_000;
    const CONNECTIONS: u64 = 8;
    let gateway = Gateway::start().await;
    let ledger = Arc::new(Ledger::default());
    let numbers = ledger.reserve(EVENTS);
    let mut chance = Chance::new();
    let mut senders = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (ledger, mut numbers, mut chance) = (Arc::clone(&ledger), numbers.clone(), chance.split());
        let address = gateway.address().to_owned();
        senders.spawn(async move {
            let client = reqwest::Client::new();
            let turn = usize::try_from(chance.below(EVENTS)).expect("small");
            numbers.rotate_left(turn);
            while !numbers.is_empty() {
                let rest = numbers.split_off(numbers.len().min(1 + usize::try_from(chance.below(30)).expect("small")));
                assert_eq!(ledger.send(&client, &address, &numbers).await, Ended::Told);
                numbers = rest;
            }
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender.expect("a sender that did not fail");
    }
    ledger.hold_against(&gateway.sql_script(ROWS));
    assert_eq!(ledger.said_stored(), EVENTS, "each is stored once");
    assert_eq!(ledger.answered.load(Ordering::Relaxed), EVENTS * CONNECTIONS, "and a duplicate every other time");
}
