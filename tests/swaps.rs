//! Two modules alternate ten times per second while events arrive at full speed. No request fails, no event is lost,
//! and every event was judged by the module whose digest it has. `SWAP_SECONDS` sets the duration.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Gateway, Setup, digest_of, event, eventually, module};

const SWAP_EVERY: Duration = Duration::from_millis(100);
const SECONDS: u64 = 3;
/// The number of senders of single events, and of arrays.
const SENDERS: [usize; 2] = [4, 2];
const EVENTS_OF_AN_ARRAY: u64 = 50;

/// Sends until it is stopped. Returns how many events were stored by the answers.
async fn send(gateway: &Gateway, stop: &AtomicBool, at_once: u64) -> u64 {
    let mut stored = 0;
    let one = event("guests", "swapped", json!({"n": 1}));
    while !stop.load(Ordering::Relaxed) {
        if at_once == 1 {
            let answer = gateway.send(&one).await;
            assert_eq!(answer.status, 201, "a failed request: {answer:?}");
        } else {
            let many = vec![one.clone(); usize::try_from(at_once).expect("few")];
            let answer = gateway.send(&json!(many)).await;
            assert_eq!(
                (answer.status, &answer.json()["stored"]),
                (200, &json!(at_once)),
                "a failed request: {answer:?}"
            );
        }
        stored += at_once;
    }
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn module_swaps_under_load_fail_no_request_and_every_verdict_is_that_of_its_digest() {
    let seconds = std::env::var("SWAP_SECONDS").ok().map_or(SECONDS, |text| text.parse().expect("seconds"));
    // No call of these two takes long, but a busy machine may interrupt one.
    let gateway = Setup::default().with("EYE_DEADLINE_MS", 10_000).with("EYE_ANSWER_MS", 30_000).start().await;
    let modules = [module("names_one"), module("names_two")];
    gateway.drop_module("guests/swapped.wasm", &modules[0]);
    gateway.validator("guests/swapped", "active").await;
    let stop = AtomicBool::new(false);
    let swaps = async {
        let start = Instant::now();
        let mut turns = tokio::time::interval(SWAP_EVERY);
        let mut swaps = 0;
        turns.tick().await;
        while start.elapsed() < Duration::from_secs(seconds) {
            turns.tick().await;
            swaps += 1;
            gateway.drop_module("guests/swapped.wasm", &modules[swaps % 2]);
        }
        // In the end the last one must serve.
        let last = digest_of(&modules[swaps % 2]);
        eventually("the last swap serves", async || {
            (gateway.validator("guests/swapped", "active").await["digest"] == last).then_some(())
        })
        .await;
        stop.store(true, Ordering::Relaxed);
        swaps
    };
    let singles = futures_util::future::join_all((0..SENDERS[0]).map(|_| send(&gateway, &stop, 1)));
    let arrays = futures_util::future::join_all((0..SENDERS[1]).map(|_| send(&gateway, &stop, EVENTS_OF_AN_ARRAY)));
    let (swaps, singles, arrays) = tokio::join!(swaps, singles, arrays);
    let stored: u64 = singles.iter().chain(&arrays).sum();

    let rows = gateway.sql(
        "select encode(digest, 'hex'), data ->> 'judge', count(*) from events \
         left join modules on modules.id = module_id group by 1, 2 order by 1, 2",
    );
    let mut by_judge = BTreeMap::new();
    for row in rows.lines() {
        let [digest, judge, count]: [&str; 3] = row.split('|').collect::<Vec<_>>().try_into().expect("three columns");
        let own = digest_of(&modules[usize::from(judge == "two")]);
        assert_eq!(digest, own, "an event that {judge} judged bears another digest");
        by_judge.insert(judge.to_owned(), count.parse::<u64>().expect("a count"));
    }
    println!("{swaps} swaps in {seconds} s, {stored} events stored, none failed, judged by {by_judge:?}");
    assert_eq!(by_judge.values().sum::<u64>(), stored, "every event that was told to be stored is there, and no other");
    assert_eq!(by_judge.len(), 2, "both modules judged");
    let figures = gateway.figures().await;
    let judged = figures.value("eye_judging_seconds_count", &[]).expect("told");
    assert_eq!(judged, stored as f64, "what ends on a module after another took its place is in the sum as well");
    assert_eq!(
        figures.value("eye_events_total", &[("application", "local"), ("outcome", "stored")]),
        Some(stored as f64)
    );
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
}
