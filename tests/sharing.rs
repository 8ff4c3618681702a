//! Slow modules beside others: a crowd of events for a module of one millisecond gets as many threads as it needs, no
//! unjudged event is quarantined, and events of other types are not delayed.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Gateway, event, module};

const CONNECTIONS: usize = 120;
const OF_AN_ARRAY: usize = 10;
const SINGLE: usize = 4;
const HEALTHY: usize = 200;

/// About a millisecond of work.
fn slow() -> Value {
    event("guests", "slow", json!({"work": 1_000}))
}

/// Sends events until each of them has an outcome. Returns how often one was unfinished.
async fn send_until_finished(gateway: &Gateway, mut events: Vec<Value>) -> usize {
    let mut unfinished = 0;
    while !events.is_empty() {
        let single = events.len() == 1;
        let answer = gateway.send(&if single { events[0].clone() } else { json!(events) }).await;
        let told = answer.json();
        if single {
            match answer.status {
                200 | 201 => return unfinished,
                503 => assert_eq!(told["code"], "module_busy", "{answer:?}"),
                _ => panic!("{answer:?}"),
            }
            events[0]["id"] = told["id"].clone();
        } else {
            assert!([200, 207].contains(&answer.status), "{answer:?}");
            assert_eq!((&told["rejected"], &told["quarantined"]), (&json!(0), &json!(0)), "{answer:?}");
            let lines = told["results"].as_array().expect("lines").iter().filter(|line| line["outcome"].is_null());
            events = lines
                .map(|line| {
                    assert_eq!(line["code"], "module_busy", "{line}");
                    let index = usize::try_from(line["index"].as_u64().expect("an index")).expect("small");
                    let mut again = events[index].clone();
                    again["id"] = line["id"].clone();
                    again
                })
                .collect();
            assert_eq!(told["unfinished"], events.len(), "{told}");
        }
        unfinished += events.len();
    }
    unfinished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_for_a_module_of_a_millisecond_is_served_and_nothing_is_quarantined_unseen() {
    let gateway = Gateway::start().await;
    // A busy machine may interrupt a call.
    for name in ["slow", "healthy"] {
        gateway.drop_module(&format!("guests/{name}.toml"), b"deadline_ms = 4000");
    }
    gateway.drop_module("guests/slow.wasm", &module("spins_or_works"));
    gateway.drop_module("guests/healthy.wasm", &module("accepts"));
    gateway.validator("guests/slow", "active").await;
    gateway.validator("guests/healthy", "active").await;
    let healthy = async {
        for _ in 0..HEALTHY {
            let answer = gateway.send(&event("guests", "healthy", json!({}))).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
    };
    let crowd = async {
        let each = (0..CONNECTIONS).map(|_| async {
            let mut unfinished = send_until_finished(&gateway, vec![slow(); OF_AN_ARRAY]).await;
            for _ in 0..SINGLE {
                unfinished += send_until_finished(&gateway, vec![slow()]).await;
            }
            unfinished
        });
        join_all(each).await.into_iter().sum::<usize>()
    };
    let ((), unfinished) = tokio::join!(healthy, crowd);
    println!("{unfinished} times an event had to be sent again");
    let stored = gateway.sql("select count(*) from events");
    assert_eq!(stored, (HEALTHY + CONNECTIONS * (OF_AN_ARRAY + SINGLE)).to_string(), "each is stored once");
    assert_eq!(gateway.sql("select count(*) from dead_letters"), "0");
    let figures = gateway.figures().await;
    assert_eq!(figures.value("eye_unfinished_events_total", &[("code", "module_busy")]), Some(unfinished as f64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_array_that_takes_too_long_is_stored_as_far_as_it_was_judged() {
    let gateway = crate::support::Setup::default().with("EYE_ANSWER_MS", 2_000).start().await;
    gateway.drop_module("guests/slow.toml", b"deadline_ms = 1900");
    gateway.drop_module("guests/slow.wasm", &module("spins_or_works"));
    gateway.validator("guests/slow", "active").await;
    // Each of them takes at least a tenth of a second.
    let large = event("guests", "slow", json!({"work": 200_000}));
    let mut events = vec![event("other", "type", json!({}))];
    events.extend(vec![large; 60]);
    events.push(event("other", "type", json!({})));
    let answer = gateway.send(&json!(events)).await;
    let told = answer.json();
    assert_eq!((answer.status, &told["quarantined"]), (207, &json!(0)), "{answer:?}");
    let unfinished = told["unfinished"].as_u64().expect("a number");
    assert!((1..=60).contains(&unfinished), "{told}");
    assert_eq!(told["stored"], 62 - unfinished, "{told}");
    let types = gateway
        .sql("select count(*) from events join event_types on event_types.id = event_type_id where category = 'other'");
    assert_eq!(types, "2", "what comes after is none the worse");
}
