//! Open files: the program raises the limit as far as it may, reserves files for its database and modules, and says
//! when too few are left for connections. A lack of descriptors is not reported as an outage of the database.

use std::process::Command;

use tokio::net::TcpStream;

use crate::support::cluster::Server;
use crate::support::raw::Wire;
use crate::support::{SESSION, Setup, eventually, pageview};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_silent_connections_than_files_cost_a_good_sender_nothing() {
    let setup = Setup::default().with_open_files(64, 400).with("EYE_HEADER_READ_MS", 60_000);
    let gateway = setup.with("EYE_METRICS_LISTEN", "127.0.0.1:0").start().await;
    let warned =
        gateway.log().lines().find(|line| line.contains("fewer connections than connections_max")).map(str::to_owned);
    let warned = warned.unwrap_or_else(|| panic!("{}", gateway.log()));
    let figures = gateway.figures().await;
    let most = figures.value("eye_connections_max", &[]).expect("a figure");
    assert_eq!(figures.value("process_max_fds", &[]), Some(400.0), "the soft limit is raised");
    assert!(warned.contains("connections_max=10000") && warned.contains(&format!("possible={most}")), "{warned}");
    assert!((50.0..250.0).contains(&most), "{most}");
    let mut good = Wire::connect(gateway.address()).await;
    assert_eq!(good.send_event(&pageview(), &[]).await, 201);
    let mut silent = Vec::new();
    for _ in 0..600 {
        // Connections that are not accepted wait in the kernel, up to a bound.
        let connected = TcpStream::connect(gateway.address());
        if let Ok(Ok(stream)) = tokio::time::timeout(std::time::Duration::from_secs(1), connected).await {
            silent.push(stream);
        }
    }
    let monitoring = gateway.announced("monitoring is answered").expect("its address");
    eventually("as many connections are open as may be", async || {
        let mut wire = Wire::connect(&monitoring).await;
        wire.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        let told = wire.rest().await;
        let open = told.lines().find_map(|line| line.strip_prefix("eye_connections ")).expect("a figure");
        (open.parse::<f64>().expect("a number") == most).then_some(())
    })
    .await;
    let read = format!("GET /v1/sessions/{SESSION} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for _ in 0..20 {
        assert_eq!(good.send_event(&pageview(), &[]).await, 201);
        good.write(read.as_bytes()).await;
        assert_eq!(good.answer().await.expect("an answer").status, 200);
    }
    drop(silent);
}

#[tokio::test]
async fn a_gateway_that_could_open_too_few_files_does_not_start() {
    let mut gateway = Setup::default().with_open_files(100, 100).begin();
    assert_eq!(gateway.ended().await.code(), Some(1));
    eventually("it is told", async || {
        let log = gateway.log();
        (log.contains("the limit of open files is 100") && log.contains("LimitNOFILE")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_files_is_not_said_of_the_database() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_ANSWER_MS", 2_000);
    let gateway = setup.start().await;
    let mut wire = Wire::connect(gateway.address()).await;
    assert_eq!(wire.send_event(&pageview(), &[]).await, 201);
    let limit = |files: usize| {
        let files = format!("--nofile={files}:10000");
        let done = Command::new("prlimit").args(["--pid", &gateway.pid().to_string(), &files]).status();
        assert!(done.expect("prlimit").success());
    };
    // No file number below the limit is ever free.
    limit(3);
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'eye%'");
    eventually("no connection can be had", async || {
        let told = wire.post("/v1/events", &[], &pageview().to_string()).await.expect("an answer");
        let problem: serde_json::Value = serde_json::from_str(&told.body).expect("JSON");
        assert!([201, 503].contains(&told.status), "{told:?}");
        (problem["code"] == "no_descriptors").then_some(())
    })
    .await;
    limit(10_000);
    eventually("events are stored again", async || (wire.send_event(&pageview(), &[]).await == 201).then_some(()))
        .await;
    assert!(!gateway.log().contains("the database is away"), "{}", gateway.log());
    assert!(gateway.log().contains("may open no more files"), "{}", gateway.log());
}
