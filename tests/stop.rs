//! The gateway is stopped while it works.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS, numbered};
use crate::support::proxy::Proxy;
use crate::support::{Gateway, SESSION, Setup, eventually, kill};

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
    gateway.signal("TERM");
    eventually("the gateway drains", async || gateway.log().contains("drains").then_some(())).await;
    let start = Instant::now();
    gateway.signal("TERM");
    let code = gateway.ended().await.code();
    println!("ended {} ms after the second signal, code {code:?}", start.elapsed().as_millis());
    assert!(start.elapsed() < Duration::from_secs(10), "much sooner than a drain: {:?}", start.elapsed());
    assert_eq!(code, Some(0));
    gateway.restart().await;
    assert_eq!(gateway.sql("select count(*) from events"), "2");
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
