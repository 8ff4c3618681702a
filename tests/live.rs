//! Readers of the live stream see outcomes as they happen, if they may, and do not delay senders.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::cluster::Server;
use crate::support::load::{Chance, Load, ROWS};
use crate::support::{Gateway, SESSION, Setup, event, eventually, openapi};

/// One reader.
struct Reader {
    response: reqwest::Response,
    text: String,
}

impl Reader {
    async fn open(gateway: &Gateway, query: &str) -> Reader {
        let request = gateway.request("GET", &format!("/v1/live{query}"));
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut reader = Reader { response, text: String::new() };
        reader.until("retry: ").await;
        reader
    }

    /// Reads until the text contains `wanted`. Fails at the end of the stream.
    async fn until(&mut self, wanted: &str) {
        let patience = Duration::from_secs(60);
        while !self.text.contains(wanted) {
            let chunk = tokio::time::timeout(patience, self.response.chunk()).await.expect("in time").expect("a chunk");
            let chunk = chunk.unwrap_or_else(|| panic!("ended without {wanted}: {}", self.text));
            self.text.push_str(str::from_utf8(&chunk).expect("text"));
        }
    }

    /// The data of all events of a kind so far.
    fn events(&self, kind: &str) -> Vec<Value> {
        let head = format!("event: {kind}\ndata: ");
        let data = self.text.split("\n\n").filter_map(|part| part.strip_prefix(&head));
        let data: Vec<Value> = data.map(|data| serde_json::from_str(data).expect("JSON")).collect();
        data.iter().for_each(|data| openapi::check_event(kind, data));
        data
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_outcome_is_seen_as_it_happens_by_filter() {
    let gateway = Setup::default().with_module("a/b.wasm", "traps").with_module("a/c.wasm", "rejects").start().await;
    gateway.validator("a/b", "active").await;
    let module = gateway.validator("a/c", "active").await;
    let mut all = Reader::open(&gateway, "").await;
    let mut refused = Reader::open(&gateway, "?outcome=rejected,quarantined&category=a").await;
    let mut good = event("x", "y", json!({"secret": "hush"}));
    good["id"] = json!("0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15");
    assert_eq!(gateway.send(&good).await.status, 201);
    assert_eq!(gateway.send(&good).await.status, 200);
    let many = json!([{"category": "x"}, event("a", "b", json!({"misbehave": true})), event("a", "c", json!({}))]);
    assert_eq!(gateway.send(&many).await.status, 207);
    all.until("\"name\":\"c\"").await;
    refused.until("\"name\":\"c\"").await;
    let words = |reader: &Reader| -> Vec<String> {
        reader.events("outcome").iter().map(|seen| seen["outcome"].as_str().expect("a word").to_owned()).collect()
    };
    assert_eq!(words(&all), ["stored", "duplicate", "rejected", "quarantined", "rejected"]);
    assert_eq!(words(&refused), ["quarantined", "rejected"]);
    let seen = all.events("outcome");
    assert_eq!((&seen[0]["id"], &seen[0]["session_id"]), (&good["id"], &json!(SESSION)));
    assert_eq!((&seen[0]["application"], &seen[0]["category"]), (&json!("local"), &json!("x")));
    assert_eq!((&seen[2]["code"], &seen[2]["category"]), (&json!("envelope"), &json!("x")));
    assert!(seen[2]["violation"]["pointer"].is_string(), "the first violation: {}", seen[2]);
    assert_eq!((&seen[3]["code"], &seen[4]["validator"]), (&json!("trap"), &module["digest"]));
    assert!(!all.text.contains("hush"), "never data");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_bounded_known_and_told_of_life_and_end() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_LIVE_READERS_MAX", 3);
    let mut gateway = setup.with("EYE_LIVE_HEARTBEAT_MS", 100).start().await;
    let (one, mut two) = (Reader::open(&gateway, "").await, Reader::open(&gateway, "").await);
    let answer = gateway.get("/v1/live").await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("too_many_readers")));
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(gateway.get("/v1/live?outcome=lost").await.json()["parameter"], "outcome");
    two.until(": the gateway lives").await;
    drop(one);
    eventually("a place is free", async || {
        let response = gateway.request("GET", "/v1/live").send().await.expect("an answer");
        (response.status() == 200).then_some(())
    })
    .await;
    server.sql("update applications set scopes = '{ingest}'");
    eventually("the change is in force", async || (gateway.get("/v1/live?x").await.status == 403).then_some(())).await;
    two.until("event: end").await;
    server.sql("update applications set scopes = '{read}'");
    eventually("reading is allowed again", async || (gateway.get("/v1/live?x").await.status == 400).then_some(()))
        .await;
    let mut three = Reader::open(&gateway, "").await;
    gateway.signal("TERM");
    three.until("event: end").await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn readers_that_are_gone_hold_no_place_and_no_application_takes_them_all() {
    let server = Server::start();
    server.prepare();
    let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_LIVE_READERS_MAX", 8);
    // No heartbeat comes within the test that would find them.
    let gateway = setup.with("EYE_LIVE_HEARTBEAT_MS", 3_600_000).start().await;
    let other = json!({"name": "other", "scopes": ["read"]}).to_string();
    let other = gateway.post("/v1/applications", "application/json", other).await.json();
    let other = other["token"].as_str().expect("a token");
    for how in ["closed", "reset"] {
        let mut readers = Vec::new();
        for _ in 0..6 {
            let mut reader = TcpStream::connect(gateway.address()).await.expect("the gateway listens");
            reader.write_all(b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("open");
            let mut head = [0; 12];
            reader.read_exact(&mut head).await.expect("an answer");
            assert_eq!(&head, b"HTTP/1.1 200", "{how}");
            readers.push(reader);
        }
        let refused = gateway.get("/v1/live").await;
        assert_eq!((refused.status, &refused.json()["full"]), (503, &json!("application")), "{refused:?}");
        let request = gateway.request("GET", "/v1/live").bearer_auth(other);
        assert_eq!(request.send().await.expect("an answer").status(), 200, "there is a place for another");
        for reader in readers {
            if how == "reset" {
                reader.set_zero_linger().expect("an open socket");
            }
        }
        eventually("their places are free", async || {
            (gateway.figures().await.value("eye_live_readers", &[]) == Some(0.0)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_sampled_and_slow_readers_are_told_while_all_is_stored() {
    let gateway = Setup::default().with("EYE_LIVE_EVENTS_PER_SECOND_MAX", 10).start().await;
    let mut watching = Reader::open(&gateway, "").await;
    // These readers stop reading, so their sockets are full soon.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(Reader::open(&gateway, "").await);
    }
    let mut load = Load::start(gateway.address(), 4, 200, &mut Chance::new());
    watching.until("event: sampled").await;
    load.stores(2_000).await;
    load.stop().await;
    let sent = load.ledger.said_stored();
    load.ledger.hold_against(&gateway.sql_script(ROWS));
    // The shown and the omitted outcomes together are all outcomes.
    let told = async |reader: &mut Reader| {
        let left_out: u64 = reader
            .events("sampled")
            .iter()
            .flat_map(|sampled| sampled["left_out"].as_object().expect("counts").values().cloned().collect::<Vec<_>>())
            .map(|count| count.as_u64().expect("a count"))
            .sum();
        reader.events("outcome").len() as u64 + left_out
    };
    let mut broken = event("last", "one", json!({}));
    broken["surplus"] = json!(1);
    assert_eq!(gateway.send(&broken).await.status, 422);
    watching.until("\"category\":\"last\"").await;
    let seen = told(&mut watching).await;
    println!("{sent} stored, {seen} told or counted, {} of them told", watching.events("outcome").len());
    assert!(seen > sent, "{seen} of more than {sent}");
    assert!(watching.events("outcome").len() < 1_000, "sampled");
    assert!(watching.events("missed").is_empty(), "a reader that reads misses nothing");
}

/// Events whose outcomes take many bytes.
fn long(marker: u32) -> Value {
    let word = "\u{1f441}".repeat(200);
    let mut events: Vec<Value> = (0..300).map(|n| event(&word, &word, json!({ "n": n }))).collect();
    events.push(event("marker", &marker.to_string(), json!({})));
    Value::Array(events)
}

/// Starts to read on a bare socket, and reads only the head.
async fn stalled(gateway: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut socket = socket.connect(gateway.address().parse().expect("an address")).await.expect("connected");
    socket.write_all(b"GET /v1/live HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut start = [0; 64];
    socket.read_exact(&mut start).await.expect("the beginning");
    assert!(start.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&start));
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_told_how_much_it_missed() {
    let gateway = Setup::default().with("EYE_LIVE_EVENTS_PER_SECOND_MAX", 100_000).start().await;
    let mut watching = Reader::open(&gateway, "?category=marker").await;
    let slow = stalled(&gateway).await;
    // Each marker is seen in a page of its own, so the slow reader falls behind by more pages than are kept for it.
    let mut sent = 0;
    for marker in 0..110 {
        let answer = gateway.send(&long(marker)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        watching.until(&format!("\"name\":\"{marker}\"")).await;
        sent += 301;
    }
    let mut lines = BufReader::new(slow).lines();
    let (mut told, mut missed, mut kind) = (0, 0, String::new());
    while told + missed < sent {
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.expect("in time");
        let line = line.expect("read").expect("a line");
        if let Some(event) = line.strip_prefix("event: ") {
            kind = event.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            match &*kind {
                "outcome" => told += 1,
                "missed" => {
                    missed += serde_json::from_str::<Value>(data).expect("JSON")["missed"].as_u64().expect("a count");
                }
                other => panic!("{other}: {data}"),
            }
        }
    }
    assert!(missed > 0 && told > 0, "{told} told, {missed} missed");
    assert_eq!(told + missed, sent, "what it was told and what it missed is all there was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_loses_its_place() {
    let setup = Setup::default().with("EYE_LIVE_EVENTS_PER_SECOND_MAX", 100_000).with("EYE_WRITE_MS", 500);
    let gateway = setup.with("EYE_LIVE_READERS_MAX", 1).start().await;
    let _stalled = stalled(&gateway).await;
    assert_eq!(gateway.get("/v1/live").await.status, 503, "it has the only place");
    let mut marker = 0;
    eventually("its place is free", async || {
        marker += 1;
        assert_eq!(gateway.send(&long(marker)).await.status, 200);
        let response = gateway.request("GET", "/v1/live").send().await.expect("an answer");
        (response.status() == 200).then_some(())
    })
    .await;
}
