//! The guard of a module that simply replaced another one: what it is compared with, for how long, and that neither a restart
//! nor a second change ends it.

use serde_json::{Value, json};

use crate::candidates::{House, PATH, fifteen_percent, one, refused, salted};
use crate::support::{Answer, Gateway, Setup, digest_of, eventually, module};

/// Sends events of which 15 of 100 are refused by the stricter module, until a module serves. Returns how many it were.
async fn until_back(house: &House, serves: &str) -> u64 {
    let mut sent = 0;
    eventually("the version before serves", async || {
        house.send(0, &house.admin, &fifteen_percent(100)).await;
        sent += 100;
        (house.shown().await["digest"] == json!(serves)).then_some(())
    })
    .await;
    sent
}

async fn stop(gateway: &mut Gateway) {
    gateway.signal("TERM");
    gateway.ended().await;
}

#[tokio::test]
async fn a_restart_does_not_end_the_guard_with_or_without_the_data_directory() {
    let mut house = House::of(1).await;
    let lenient = house.shipped("", &module("accepts")).await;
    house.shipped("", &module("refuses_some")).await;
    house.send(0, &house.admin, &fifteen_percent(100)).await;
    stop(&mut house.gateways[0]).await;
    house.gateways[0].restart().await;
    until_back(&house, &lenient).await;

    let other = salted(&module("refuses_some"), 1);
    house.shipped("", &other).await;
    stop(&mut house.gateways[0]).await;
    std::fs::remove_dir_all(house.gateways[0].data_dir()).expect("removed");
    house.gateways[0].restart().await;
    until_back(&house, &lenient).await;
    assert_eq!(house.shown().await["taken_back"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_second_push_is_compared_with_the_version_that_stood() {
    let house = House::of(2).await;
    let lenient = house.shipped("", &module("accepts")).await;
    house.shipped("", &module("refuses_some")).await;
    let second = house.shipped("", &salted(&module("refuses_some"), 1)).await;
    until_back(&house, &lenient).await;
    let back = house.shown().await["taken_back"].clone();
    assert_eq!((back.as_array().map(Vec::len), &back[0]["digest"]), (Some(1), &json!(second)), "{back}");
    assert_eq!(back[0]["serves"], json!(lenient));

    // What is meant to refuse is the measure of what follows it.
    let strict = house.shipped("?expect_refusals=true", &salted(&module("refuses_some"), 2)).await;
    let third = house.shipped("?settings=default", &salted(&module("refuses_some"), 3)).await;
    house.send(0, &house.admin, &fifteen_percent(400)).await;
    let pairs = format!(
        "select coalesce(sum(same), 0) >= 400 from candidate_pairs \
         where digest = decode('{third}', 'hex') and against = decode('{strict}', 'hex')"
    );
    eventually("they are compared", async || (house.server.sql(&pairs) == "t").then_some(())).await;
    assert_eq!(house.shown().await["digest"], json!(third));
}

#[tokio::test]
async fn settings_after_a_rollback_do_not_wake_the_guard() {
    let house = House::of(1).await;
    let strict = house.shipped("", &module("refuses_some")).await;
    let lenient = house.shipped("", &module("accepts")).await;
    let back = house.ask("POST", &format!("{PATH}/rollback")).await;
    assert_eq!((back.status, &back.json()["digest"]), (200, &json!(strict)), "{back:?}");
    house.shipped("?settings=deadline_ms%3D1500", &module("refuses_some")).await;
    eventually("it is not compared", async || house.compares_none().await.then_some(())).await;
    house.send(0, &house.admin, &fifteen_percent(400)).await;
    // A gateway that is new looks at the same history.
    let pairs = format!("select count(*) from candidate_pairs where against = decode('{lenient}', 'hex')");
    eventually("nothing waits to be counted", async || house.compares_none().await.then_some(())).await;
    assert_eq!(house.server.sql(&pairs), "0");
    assert_eq!(house.shown().await["digest"], json!(strict));
}

#[tokio::test]
async fn a_version_that_the_guard_would_go_back_to_is_kept() {
    let house = House::of(1).await;
    let lenient = house.shipped("", &module("accepts")).await;
    // As if it had served for long.
    house.server.sql("update generations set made_at = made_at - interval '90 days'");
    house.server.sql("update module_versions set served_at = served_at - interval '90 days'");
    for number in 0..11 {
        let content = [&module("refuses_some")[..], b"\0\x07\x04salt", format!("{number:02}").as_bytes()].concat();
        house.shipped("", &content).await;
    }
    house.server.sql("update module_contents set kept_at = kept_at - interval '90 days'");
    for call in ["forget_modules()", "forget_modules(interval '10 minutes')"] {
        house.server.sql(&format!("select {call}"));
    }
    let versions = "select count(*) from module_versions";
    assert_eq!(house.server.sql(versions), "11", "ten, and the one that stood");
    until_back(&house, &lenient).await;
    assert_eq!(house.send(0, &house.admin, &[one(refused())]).await["stored"], json!(1));
}

#[tokio::test]
async fn an_error_of_the_database_does_not_end_what_is_compared() {
    let house = House::of(1).await;
    let lenient = house.shipped("", &module("accepts")).await;
    house.server.sql("alter function served_lately(interval) rename to served_late");
    house.shipped("", &module("refuses_some")).await;
    let told = async || house.gateways[0].log().contains("which modules were replaced lately").then_some(());
    eventually("it is told", told).await;
    until_back(&house, &lenient).await;
}

/// A gateway whose modules come from its directory.
struct Single {
    gateway: Gateway,
    admin: String,
}

impl Single {
    async fn start() -> Self {
        let setup = Setup::default().with("EYE_DEADLINE_MS", 2_000).with("EYE_RESCAN_SECONDS", 1);
        let gateway = setup.start().await;
        let admin = gateway.admin_token().expect("it made one");
        Self { gateway, admin }
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        let request = self.gateway.request(method, &format!("{PATH}{path}")).bearer_auth(&self.admin);
        self.gateway.answer(request).await
    }

    async fn ship(&self, query: &str, content: &[u8]) -> String {
        let request = self.gateway.request("PUT", &format!("{PATH}{query}")).bearer_auth(&self.admin);
        let request = request.header("content-type", "application/wasm").header("prefer", "wait=60");
        let answer = self.gateway.answer(request.body(content.to_vec())).await;
        assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("active")), "{answer:?}");
        digest_of(content)
    }

    async fn send(&self, events: &[Value]) -> Value {
        let answer = self.gateway.post("/v1/events", "application/json", Value::from(events).to_string()).await;
        assert!(matches!(answer.status, 200 | 207), "{answer:?}");
        answer.json()
    }

    async fn digest(&self) -> Value {
        self.ask("GET", "").await.json()["digest"].clone()
    }

    async fn until_back(&self, serves: &str) {
        eventually("the version before serves", async || {
            self.send(&fifteen_percent(100)).await;
            (self.digest().await == json!(serves)).then_some(())
        })
        .await;
    }

    async fn compares_none(&self) -> bool {
        let request = self.gateway.request("GET", "/metrics").bearer_auth(&self.admin);
        self.gateway.answer(request).await.text.contains("eye_candidates{trial=\"replacement\"} 0")
    }
}

#[tokio::test]
async fn in_a_directory_neither_a_restart_nor_a_change_while_it_was_down_ends_the_guard() {
    let mut house = Single::start().await;
    let lenient = house.ship("", &module("accepts")).await;
    house.ship("", &module("refuses_some")).await;
    house.send(&fifteen_percent(100)).await;
    stop(&mut house.gateway).await;
    house.gateway.restart().await;
    house.until_back(&lenient).await;

    // A file that was replaced while nobody looked.
    stop(&mut house.gateway).await;
    let other = salted(&module("refuses_some"), 1);
    house.gateway.drop_module("guests/named.wasm", &other);
    house.gateway.restart().await;
    eventually("it serves", async || (house.digest().await == json!(digest_of(&other))).then_some(())).await;
    house.until_back(&lenient).await;
    assert_eq!(house.send(&[one(refused())]).await["stored"], json!(1));
}

#[tokio::test]
async fn in_a_directory_a_second_push_is_compared_with_the_version_that_stood() {
    let mut house = Single::start().await;
    let lenient = house.ship("", &module("accepts")).await;
    house.ship("", &module("refuses_some")).await;
    let second = house.ship("", &salted(&module("refuses_some"), 1)).await;
    house.until_back(&lenient).await;
    let back = house.ask("GET", "").await.json()["taken_back"].clone();
    assert_eq!((back.as_array().map(Vec::len), &back[0]["digest"]), (Some(1), &json!(second)), "{back}");
    // A restart does not let the version between serve either.
    stop(&mut house.gateway).await;
    house.gateway.restart().await;
    eventually("it serves", async || (house.digest().await == json!(lenient)).then_some(())).await;
}

#[tokio::test]
async fn in_a_directory_what_somebody_puts_back_stays() {
    let house = Single::start().await;
    let strict = house.ship("", &module("refuses_some")).await;
    house.ship("", &module("accepts")).await;
    let request = house.gateway.request("POST", &format!("{PATH}/rollback")).bearer_auth(&house.admin);
    let answer = house.gateway.answer(request.header("prefer", "wait=0")).await;
    assert!(matches!(answer.status, 200 | 202), "{answer:?}");
    let mut sent = 0;
    eventually("many events are judged by it", async || {
        let told = house.send(&fifteen_percent(100)).await;
        sent += u64::from(told["rejected"] == json!(15));
        (sent >= 6).then_some(())
    })
    .await;
    eventually("it is not compared", async || house.compares_none().await.then_some(())).await;
    house.gateway.drop_module("guests/named.toml", b"deadline_ms = 1500");
    eventually("the settings serve", async || {
        (house.ask("GET", "").await.json()["limits"]["deadline_ms"] == json!(1_500)).then_some(())
    })
    .await;
    house.send(&fifteen_percent(600)).await;
    assert!(house.compares_none().await);
    assert_eq!(house.digest().await, json!(strict));
}

#[tokio::test]
async fn in_a_directory_a_module_that_was_retired_is_no_measure() {
    let house = Single::start().await;
    house.ship("", &module("accepts")).await;
    assert_eq!(house.ask("DELETE", "").await.status, 200);
    let strict = house.ship("", &module("refuses_some")).await;
    eventually("it is not compared", async || house.compares_none().await.then_some(())).await;
    house.send(&fifteen_percent(600)).await;
    assert!(house.compares_none().await);
    assert_eq!(house.digest().await, json!(strict));
}

#[tokio::test]
async fn in_a_directory_the_version_between_serves_neither_after_a_broken_file_nor_after_a_rollback() {
    let mut house = Single::start().await;
    let lenient = house.ship("", &module("accepts")).await;
    house.ship("", &module("refuses_some")).await;
    house.ship("", &salted(&module("refuses_some"), 1)).await;
    house.until_back(&lenient).await;
    house.gateway.drop_module("guests/named.wasm", b"broken");
    stop(&mut house.gateway).await;
    house.gateway.restart().await;
    eventually("it serves", async || (house.digest().await == json!(lenient)).then_some(())).await;
    let back = house.ask("POST", "/rollback").await;
    assert_eq!((back.status, &back.json()["digest"]), (200, &json!(lenient)), "{back:?}");
}

#[tokio::test]
async fn in_a_directory_what_was_meant_to_refuse_is_the_measure_of_what_follows() {
    let house = Single::start().await;
    house.ship("", &module("accepts")).await;
    house.ship("?expect_refusals=true", &module("refuses_some")).await;
    let third = house.ship("?settings=default", &salted(&module("refuses_some"), 1)).await;
    house.send(&fifteen_percent(600)).await;
    let pairs =
        format!("select coalesce(sum(same), 0) >= 600 from candidate_pairs where digest = decode('{third}', 'hex')");
    eventually("they are compared", async || (house.gateway.sql(&pairs) == "t").then_some(())).await;
    assert_eq!(house.digest().await, json!(third));
}

#[tokio::test]
async fn in_a_directory_a_history_without_room_ends_no_guard_and_it_fires_once() {
    let house = Single::start().await;
    let lenient = house.ship("", &module("accepts")).await;
    let versions = house.gateway.data_dir().join("versions");
    let folder = std::fs::read_dir(&versions).expect("a history").next().expect("a slot").expect("a folder").path();
    let strict = module("refuses_some");
    // No file can be renamed to a folder that is not empty.
    for name in [format!("prepared-{}.wasm", digest_of(&strict)), format!("{}.taken-back", digest_of(&strict))] {
        std::fs::create_dir_all(folder.join(name).join("full")).expect("a folder");
    }
    house.gateway.drop_module("guests/named.wasm", &strict);
    eventually("it serves", async || (house.digest().await == json!(digest_of(&strict))).then_some(())).await;
    house.send(&fifteen_percent(100)).await;
    eventually("it is compared", async || (!house.compares_none().await).then_some(())).await;
    house.until_back(&lenient).await;
    house.send(&fifteen_percent(400)).await;
    let entries = house.gateway.sql("select count(*) from audit where action = 'guard'");
    assert_eq!(entries, "1");
    assert_eq!(house.digest().await, json!(lenient));
}
