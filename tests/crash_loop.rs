//! Kills the gateway and Postgres at random moments under load. At the end it compares every answer with every row.
//! `SOAK_SECONDS` sets its duration.

use std::time::{Duration, Instant};

use crate::support::load::{Chance, LETTERS, Load, ROWS, WRONG_COUNTS};
use crate::support::{Setup, eventually, kill};

const ROUNDS: usize = 20;
const CONNECTIONS: u32 = 8;
const BATCH_MAX: u64 = 40;

const GATEWAY: u64 = 0;
const POSTGRES: u64 = 1;
const VICTIMS: [&str; 3] = ["the gateway", "Postgres", "both"];

fn words(mut recoveries: Vec<Duration>) -> String {
    recoveries.sort();
    let ms = |place: Option<&Duration>| place.map_or(0, Duration::as_millis);
    let (median, most) = (ms(recoveries.get(recoveries.len() / 2)), ms(recoveries.last()));
    format!("{} times, median {median} ms, most {most} ms", recoveries.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_broken_by_a_kill_at_any_moment() {
    let soak = std::env::var("SOAK_SECONDS").ok().map(|text| Duration::from_secs(text.parse().expect("seconds")));
    let mut chance = Chance::new();
    // One event in five is rejected, and one is quarantined.
    let setup = Setup::default().with_module("load/kind%203.wasm", "rejects");
    let mut gateway = setup.with_module("load/kind%204.wasm", "traps").start().await;
    let mut load = Load::start(gateway.address(), CONNECTIONS, BATCH_MAX, &mut chance);
    let mut recoveries: [Vec<Duration>; 3] = Default::default();
    let (start, mut rounds, mut told) = (Instant::now(), 0, Instant::now());
    while soak.map_or(rounds < ROUNDS, |soak| start.elapsed() < soak) {
        // A random moment of the work between two kills.
        let further = 1 + chance.below(600);
        load.stores(further).await;
        let what = chance.below(3);
        let postmaster = gateway.postmaster().filter(|_| what != GATEWAY);
        let killed = Instant::now();
        if let Some(postmaster) = postmaster {
            kill(postmaster, "KILL");
        }
        if what == POSTGRES {
            eventually("another Postgres is there", async || {
                gateway.postmaster().is_some_and(|other| Some(other) != postmaster).then_some(())
            })
            .await;
        } else {
            gateway.signal("KILL");
            gateway.ended().await;
            // It must know its modules first, or it would store events that they reject.
            gateway.restart().await;
            load.turn_to(gateway.address());
        }
        load.stores(1).await;
        recoveries[usize::try_from(what).expect("small")].push(killed.elapsed());
        rounds += 1;
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            println!("{rounds} rounds in {} s: {}", start.elapsed().as_secs(), load.ledger.words());
        }
    }
    load.stop().await;
    println!("{rounds} rounds in {:.1} s", start.elapsed().as_secs_f64());
    for (victim, recoveries) in VICTIMS.iter().zip(recoveries) {
        println!("recovery from the death of {victim}: {}", words(recoveries));
    }
    load.ledger.hold_against(&gateway.sql_script(ROWS));
    load.ledger.hold_against_letters(&gateway.sql_script(LETTERS));

    // Events without an answer are sent until they have one. Then all must be stored.
    let client = reqwest::Client::new();
    for number in load.ledger.untold() {
        eventually("an answer", async || {
            load.ledger.send(&client, gateway.address(), &[number]).await;
            (!load.ledger.untold().contains(&number)).then_some(())
        })
        .await;
    }
    load.ledger.hold_against(&gateway.sql_script(ROWS));
    load.ledger.hold_against_letters(&gateway.sql_script(LETTERS));
    let (there, refused) = load.ledger.there_and_refused();
    assert_eq!(gateway.sql("select count(*) from events"), there.to_string(), "nothing was lost");
    assert!(refused > 0, "some were refused");
    assert_eq!(there + refused, load.ledger.numbers(), "each event has one outcome");
    assert_eq!(gateway.sql(WRONG_COUNTS), "", "what is counted is what is there");
}
