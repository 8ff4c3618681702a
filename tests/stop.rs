//! The gateway is stopped while it works.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS, numbered};
use crate::support::proxy::Proxy;
use crate::support::raw::Wire;
use crate::support::{Gateway, SESSION, Setup, eventually, folder, kill};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_keeps_every_answer() {
    let mut gateway = Gateway::start().await;
    let mut load = Load::start(gateway.address(), 8, 40, &mut Chance::new());
    for _ in 0..3 {
        load.stores(300).await;
        gateway.signal("TERM");
        let start = Instant::now();
        assert_eq!(gateway.ended().await.code(), Some(0));
        println!("stopped under load in {} ms", start.elapsed().as_millis());
        gateway.restart().await;
        load.turn_to(gateway.address());
        load.stores(1).await;
    }
    load.stop().await;
    load.ledger.hold_against(&gateway.sql_script(ROWS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let mut gateway = Gateway::start().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    // A request that never ends keeps the gateway draining.
    let mut slow = TcpStream::connect(gateway.address()).expect("a connection");
    let head =
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).expect("half a request");
    assert_eq!(gateway.send(&numbered(2)).await.status, 201, "the half request has been taken by now");
    let postmaster = gateway.postmaster().expect("its process");
    gateway.signal("TERM");
    eventually("the gateway drains", async || gateway.log().contains("drains").then_some(())).await;
    // Supervisors send a signal twice.
    gateway.signal("TERM");
    gateway.signal("INT");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(!gateway.log().contains("ending at once"), "{}", gateway.log());
    let start = Instant::now();
    gateway.signal("INT");
    let code = gateway.ended().await.code();
    println!("ended {} ms after the second signal, code {code:?}", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(10), "much sooner than a drain: {:?}", start.elapsed());
    assert_eq!(code, Some(1), "{}", gateway.log());
    assert!(!runs(postmaster), "its Postgres ended before it");
    gateway.restart().await;
    assert_eq!(gateway.sql("select count(*) from events"), "2");
}

/// Whether a process runs. One that has ended may still be listed as a zombie.
fn runs(process: u32) -> bool {
    let known = std::fs::read_to_string(format!("/proc/{process}/stat"));
    known.is_ok_and(|known| !known.rsplit(") ").next().is_some_and(|state| state.starts_with('Z')))
}

/// Sends half of a request, which keeps a gateway draining.
fn begin_request(gateway: &Gateway) -> TcpStream {
    let mut slow = TcpStream::connect(gateway.address()).expect("a connection");
    let body = numbered(1).to_string();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{{",
        body.len()
    );
    slow.write_all(head.as_bytes()).expect("half a request");
    slow
}

/// Sends the other half, and returns the answer.
fn end_request(mut slow: TcpStream) -> String {
    slow.write_all(&numbered(1).to_string().as_bytes()[1..]).expect("the connection is open");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stop_signal_drains_and_a_second_one_at_once_changes_nothing() {
    let mut gateway = Gateway::start().await;
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("QUIT", "TERM")] {
        let slow = begin_request(&gateway);
        assert_eq!(gateway.get("/healthz").await.status, 200, "the half request has been taken by now");
        let postmaster = gateway.postmaster().expect("its process");
        gateway.signal(first);
        tokio::time::sleep(Duration::from_millis(5)).await;
        gateway.signal(second);
        eventually("the gateway drains", async || gateway.log().contains("the gateway drains").then_some(())).await;
        let answer = tokio::task::spawn_blocking(move || end_request(slow)).await.expect("no panic");
        assert!(answer.starts_with("HTTP/1.1 20") && answer.contains("connection: close"), "{first}: {answer}");
        assert_eq!(gateway.ended().await.code(), Some(0), "{first}: {}", gateway.log());
        assert!(!runs(postmaster), "{first}: its Postgres ended before it");
        gateway.restart().await;
    }
    assert_eq!(gateway.sql("select count(*) from events"), "1", "the others were duplicates");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_signals_do_no_harm() {
    let mut gateway = Gateway::start().await;
    for signal in [
        "HUP", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XFSZ", "PIPE", "URG", "34", "50", "64",
    ] {
        gateway.signal(signal);
        let mut event = numbered(1);
        event["id"] = uuid::Uuid::now_v7().to_string().into();
        assert_eq!(gateway.send(&event).await.status, 201, "after {signal}");
    }
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_gateway_is_not_ready_before_it_refuses_connections() {
    const DELAY: Duration = Duration::from_millis(1_500);
    let mut gateway = Setup::default().with("EYE_DRAIN_DELAY_MS", DELAY.as_millis()).start().await;
    let mut kept = Wire::connect(gateway.address()).await;
    assert_eq!(kept.send_event(&numbered(1), &[]).await, 201);
    gateway.signal("TERM");
    let start = Instant::now();
    let report = eventually("it is not ready", async || {
        let answer = gateway.get("/readyz").await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(report.json()["reasons"], serde_json::json!(["draining"]), "{report:?}");
    let answer = kept.post("/v1/events", &[], &numbered(2).to_string()).await.expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (201, Some("close")), "{answer:?}");
    assert_eq!(kept.rest().await, "");
    let mut stored = 2;
    while start.elapsed() < DELAY - Duration::from_millis(200) {
        stored += 1;
        let mut new = Wire::connect(gateway.address()).await;
        let answer = new.post("/v1/events", &[], &numbered(stored).to_string()).await.expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (201, Some("close")), "{answer:?}");
    }
    let refused = async || TcpStream::connect(gateway.address()).is_err().then(|| start.elapsed());
    let closed_after = eventually("the listener closes", refused).await;
    println!("the listener closed after {} ms, {stored} events were stored", closed_after.as_millis());
    assert!(closed_after >= DELAY - Duration::from_millis(50), "{closed_after:?}");
    assert_eq!(gateway.ended().await.code(), Some(0));
    gateway.restart().await;
    assert_eq!(gateway.sql("select count(*) from events"), stored.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_the_next_gateway_uses_the_same_data() {
    let mut gateway = Gateway::start().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
    let postmaster = gateway.postmaster().expect("its process");
    gateway.signal("KILL");
    assert_eq!(gateway.ended().await.code(), None);
    assert!(runs(postmaster), "a kill leaves it running");
    let start = Instant::now();
    gateway.restart().await;
    println!("ready again {} ms after the kill", start.elapsed().as_millis());
    assert!(!runs(postmaster));
    assert_eq!(gateway.sql("select count(*) from events"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_to_migrate_stops_the_postgres_that_it_started() {
    let gateway = Setup::default().at_rest(folder());
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let mut child = gateway
            .command_beside(&["migrate", "--data-dir", "data"])
            .stderr(Stdio::null())
            .spawn()
            .expect("a command");
        let postmaster = eventually("its Postgres runs", async || gateway.postmaster().filter(|id| runs(*id))).await;
        kill(child.id(), signal);
        let code = child.wait().expect("a child").code();
        assert!(matches!(code, Some(0 | 1)), "{signal}: {code:?}");
        assert!(!runs(postmaster), "{signal}, code {code:?}: its Postgres ended before it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_the_own_postgres_starts_is_orderly() {
    let mut gateway = Setup::default().without_cluster().begin();
    for moment in ["created a Postgres cluster", "Postgres accepts connections"] {
        eventually(moment, async || gateway.log().contains(moment).then_some(())).await;
        gateway.signal("TERM");
        let start = Instant::now();
        assert_eq!(gateway.ended().await.code(), Some(0), "{moment}: {}", gateway.log());
        println!("ended {} ms after the signal at: {moment}", start.elapsed().as_millis());
        gateway.begin();
    }
    gateway.is_ready().await;
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_postgres_that_dies_before_the_schema_is_there_is_waited_for() {
    let mut gateway = Setup::default().begin();
    let moment = "Postgres accepts connections";
    eventually(moment, async || gateway.log().contains(moment).then_some(())).await;
    kill(gateway.postmaster().expect("its process"), "KILL");
    gateway.is_ready().await;
    assert!(gateway.log().contains("is not ready; trying again"), "it died in time:\n{}", gateway.log());
    assert_eq!(gateway.send(&numbered(1)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_in_time_whatever_the_database_does() {
    const DRAIN: Duration = Duration::from_millis(2_000);
    let server = Server::start();
    server.prepare();
    let mut proxy = Proxy::start(server.socket()).await;
    let setup = Setup::default().with("EYE_DATABASE_URL", proxy.url()).with("EYE_DRAIN_MS", DRAIN.as_millis());
    let mut gateway = setup.with("EYE_ANSWER_MS", 1_000).start().await;
    for away in ["hangs", "refuses"] {
        assert_eq!(gateway.session(SESSION).await.len(), 0);
        if away == "hangs" {
            proxy.freeze(true);
        } else {
            proxy.leave().await;
        }
        // Work for each part: a read, an event that is refused in the end, and a dead letter for which no request
        // waits.
        let mut broken = numbered(1);
        broken["surplus"] = true.into();
        assert_eq!(gateway.send(&broken).await.status, 422);
        gateway.unready().await;
        assert_eq!(gateway.send(&numbered(2)).await.status, 503);
        gateway.signal("TERM");
        let start = Instant::now();
        assert_eq!(gateway.ended().await.code(), Some(0));
        println!("stopped in {} ms while the database {away}", start.elapsed().as_millis());
        assert!(start.elapsed() < DRAIN + Duration::from_secs(10), "{away}: {:?}", start.elapsed());
        if away == "hangs" {
            proxy.lose_all();
            gateway.restart().await;
        }
    }
}
