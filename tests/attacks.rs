//! Hostile peers, one kind after the other, while a healthy sender goes on: each is refused or cut in the way that is
//! written here, the healthy sender sees nothing but 201, and memory stays bounded. The table that is printed tells
//! what the gateway did; its times are for information.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::support::raw::Wire;
use crate::support::{Gateway, Setup, pageview};

/// How much the resident memory may grow over all attacks. It is far less than what they send together.
const GROWTH_MOST_KIB: u64 = 160 * 1024;
/// The healthy sender's events during each attack, at least.
const HEALTHY_LEAST: u64 = 20;

const EVENTS: &str = "POST /v1/events HTTP/1.1\r\nhost: eye\r\ncontent-type: application/json\r\n";

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a size").parse().expect("a number")
}

/// Connects from another address of this machine than the healthy sender's.
async fn connect(address: &str) -> Wire {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    Wire::over(socket.connect(address.parse().expect("an address")).await.expect("the gateway listens"))
}

/// What came back: the statuses of the answers, or how the connection ended.
async fn sent(address: &str, bytes: &[u8]) -> String {
    let mut wire = connect(address).await;
    wire.write(bytes).await;
    match wire.answer().await {
        Some(told) => told.status.to_string(),
        None => "closed".to_owned(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}

/// Few bytes that become many.
struct Bombs {
    gzip: Vec<u8>,
    zstd: Vec<u8>,
    nested: Vec<u8>,
}

impl Bombs {
    fn new() -> Bombs {
        let spaces = vec![b' '; 128 << 20];
        let once = gzip(&spaces);
        let zstd = zstd::encode_all(&spaces[..], 3).expect("memory takes it");
        Bombs { nested: gzip(&once), gzip: once, zstd }
    }
}

fn posted(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{EVENTS}{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn with_data(data: &str) -> Vec<u8> {
    posted("", pageview().to_string().replace(&pageview()["data"].to_string(), data).as_bytes())
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of an HTTP/2 connection: the preface and empty settings.
fn http2() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
}

/// `:method GET` or `POST`, `:scheme http`, `:path /`.
const GET: &[u8] = &[0x82, 0x86, 0x84];
const POST: &[u8] = &[0x83, 0x86, 0x84];

/// Sends HTTP/2 frames and gives what ended the connection: the error of the GOAWAY, or that it was closed.
async fn ended_by(address: &str, frames: Vec<u8>) -> String {
    let mut wire = connect(address).await;
    wire.write(&[http2(), frames].concat()).await;
    let answer = wire.rest_bytes().await;
    let mut rest = &answer[..];
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == 7 && rest.len() >= 17 {
            return format!("GOAWAY {}", u32::from_be_bytes([rest[13], rest[14], rest[15], rest[16]]));
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    "closed".to_owned()
}

/// Tells what came of each attack.
struct Trial(mpsc::Sender<(&'static str, String)>);

impl Trial {
    /// Holds what came of an attack against what must come of it, which begins with one of several words.
    async fn saw(&self, name: &'static str, expected: &[&str], found: String) {
        assert!(expected.iter().any(|word| found.starts_with(word)), "{name}: {found}");
        self.0.send((name, found)).await.expect("somebody listens");
    }
}

async fn attacks(address: &str, bombs: &Bombs, trial: Trial) {
    slow_ones(address, &trial).await;
    bodies(address, bombs, &trial).await;
    forms(address, &trial).await;
    contents(address, &trial).await;
    streams(address, &trial).await;
}

async fn slow_ones(address: &str, trial: &Trial) {
    trial.saw("says nothing", &["closed"], sent(address, b"").await).await;
    trial.saw("half a head", &["closed", "408"], sent(address, b"POST /v1/events HTTP/1.1\r\nhost: e").await).await;
    let half = format!("{EVENTS}content-length: 100\r\n\r\n{{");
    trial.saw("half a body", &["408"], sent(address, half.as_bytes()).await).await;
    let mut idle = connect(address).await;
    idle.write(b"GET /healthz HTTP/1.1\r\nhost: eye\r\n\r\n").await;
    assert_eq!(idle.answer().await.expect("an answer").status, 200);
    trial
        .saw(
            "stays and says nothing more",
            &["closed"],
            if idle.rest().await.is_empty() { "closed" } else { "bytes" }.to_owned(),
        )
        .await;
    let mut deaf = connect(address).await;
    let many = b"GET /nothing HTTP/1.1\r\nhost: eye\r\n\r\n".repeat(1_000);
    let mut pieces = 0;
    while pieces < 10_000 && deaf.write(&many).await {
        pieces += 1;
    }
    let found = if pieces < 10_000 { format!("cut after at most {pieces},000 requests") } else { "read on".to_owned() };
    trial.saw("asks and never reads", &["cut"], found).await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(connect(address).await);
    }
    let mut last = crowd.pop().expect("a connection");
    last.write(b"GET /healthz HTTP/1.1\r\nhost: eye\r\n\r\n").await;
    let found = last.answer().await.map_or("closed".to_owned(), |told| told.status.to_string());
    trial.saw("60 connections of one peer", &["closed"], found).await;
}

async fn bodies(address: &str, bombs: &Bombs, trial: &Trial) {
    trial
        .saw("gzip bomb, 128 MiB", &["413"], sent(address, &posted("content-encoding: gzip\r\n", &bombs.gzip)).await)
        .await;
    trial
        .saw("zstd bomb, 128 MiB", &["413"], sent(address, &posted("content-encoding: zstd\r\n", &bombs.zstd)).await)
        .await;
    let nested = posted("content-encoding: gzip, gzip\r\n", &bombs.nested);
    trial.saw("nested gzip", &["415"], sent(address, &nested).await).await;
    let head = format!("{EVENTS}transfer-encoding: chunked\r\n\r\n");
    let mut endless = connect(address).await;
    endless.write(head.as_bytes()).await;
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..200 {
        if !endless.write(&chunk).await {
            break;
        }
    }
    let status = endless.answer().await.map_or("closed".to_owned(), |told| told.status.to_string());
    trial.saw("chunks without end", &["413", "closed"], status).await;
    let announced = format!("{EVENTS}content-length: 99999999999\r\n\r\n");
    trial.saw("announces 100 GB", &["413"], sent(address, announced.as_bytes()).await).await;
}

async fn forms(address: &str, trial: &Trial) {
    let form = |headers: &str, body: &str| format!("{EVENTS}{headers}\r\n{body}").into_bytes();
    for (name, bytes) in [
        ("both lengths", form("content-length: 4\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n")),
        ("two different lengths", form("content-length: 4\r\ncontent-length: 5\r\n", "{}{}")),
        ("a length with a sign", form("content-length: +4\r\n", "{}{}")),
        ("chunked is not the last", form("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n")),
        ("a bad chunk size", form("transfer-encoding: chunked\r\n", "xyz\r\n{}\r\n0\r\n\r\n")),
        ("a chunk size that overflows", form("transfer-encoding: chunked\r\n", "fffffffffffffffff\r\n{}\r\n")),
        ("a space before the colon", form("content-length : 2\r\n", "{}")),
        ("a folded header", form("x: 1\r\n 2\r\ncontent-length: 2\r\n", "{}")),
        ("a zero byte in a header", form("x: a\0b\r\ncontent-length: 2\r\n", "{}")),
    ] {
        trial.saw(name, &["400", "closed"], sent(address, &bytes).await).await;
    }
    let long = |count: usize| "x".repeat(count);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: eye\r\n\r\n").into_bytes();
    trial.saw("a path of 8 KiB", &["404"], sent(address, &get(&format!("/{}", long(8_192)))).await).await;
    let query = get(&format!("/v1/sessions?limit={}", long(8_192)));
    trial.saw("a query of 8 KiB", &["400", "404"], sent(address, &query).await).await;
    trial
        .saw("a path of 1 MiB", &["414", "431", "closed"], sent(address, &get(&format!("/{}", long(1 << 20)))).await)
        .await;
    let header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", long(1 << 20));
    trial.saw("a header of 1 MiB", &["431", "closed"], sent(address, header.as_bytes()).await).await;
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1_000));
    trial.saw("1,000 headers", &["431", "closed"], sent(address, headers.as_bytes()).await).await;
}

async fn contents(address: &str, trial: &Trial) {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    trial.saw("JSON nested 100,000 deep", &["422", "400"], sent(address, &with_data(&deep)).await).await;
    let keys: serde_json::Map<_, _> = (0..10_000).map(|number| (format!("key{number}"), json!(number))).collect();
    trial.saw("10,000 keys", &["201"], sent(address, &with_data(&json!(keys).to_string())).await).await;
    trial.saw("a number out of range", &["422"], sent(address, &with_data("{\"a\":1e999999}")).await).await;
    let digits = format!("{{\"a\":{}}}", "9".repeat(200_000));
    trial.saw("a number of 200,000 digits", &["422"], sent(address, &with_data(&digits)).await).await;
    let invalid = posted("", &pageview().to_string().replace("www", "w\u{1}w").replace('\u{1}', "~").into_bytes());
    let invalid: Vec<u8> = invalid.into_iter().map(|byte| if byte == b'~' { 0xff } else { byte }).collect();
    trial.saw("bytes that are not UTF-8", &["400", "422"], sent(address, &invalid).await).await;
}

async fn streams(address: &str, trial: &Trial) {
    let odd = |count: u32| (0..count).map(|number| 2 * number + 1);
    let reset: Vec<u8> = odd(5_000)
        .flat_map(|stream| [frame(1, 5, stream, GET), frame(3, 0, stream, &8_u32.to_be_bytes())].concat())
        .collect();
    trial.saw("HTTP/2 rapid reset, 5,000 streams", &["GOAWAY", "closed"], ended_by(address, reset).await).await;
    let literal = [&[0x00, 0x7f, 0x80, 0x7f][..], &[b'x'; 16_000]].concat();
    let flood: Vec<u8> =
        [frame(1, 0, 1, GET)].into_iter().chain((0..500).map(|_| frame(9, 0, 1, &literal))).flatten().collect();
    trial.saw("HTTP/2 CONTINUATION flood, 8 MB", &["GOAWAY", "closed"], ended_by(address, flood).await).await;
    let open: Vec<u8> = odd(1_000).flat_map(|stream| frame(1, 4, stream, POST)).collect();
    trial.saw("HTTP/2, 1,000 streams left open", &["GOAWAY", "closed"], ended_by(address, open).await).await;
    let pings: Vec<u8> = (0..10_000).flat_map(|_| frame(6, 0, 0, &[0; 8])).collect();
    trial.saw("HTTP/2 ping flood", &["GOAWAY", "closed"], ended_by(address, pings).await).await;
    trial
        .saw("HTTP/2 frame of no kind", &["GOAWAY", "closed"], ended_by(address, frame(0, 0, 0, &[0; 100])).await)
        .await;
}

/// Sends events one after the other until told to stop.
struct Healthy {
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
    times: mpsc::Receiver<u64>,
}

impl Healthy {
    #[expect(clippy::disallowed_methods, reason = "the test waits for it at its end")]
    fn start(address: &str) -> Healthy {
        let (address, stop) = (address.to_owned(), Arc::new(AtomicBool::new(false)));
        let (tell, times) = mpsc::channel(1_000_000);
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut wire = Wire::connect(&address).await;
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                assert_eq!(wire.send_event(&pageview(), &[]).await, 201, "the healthy sender is served");
                let micros = u64::try_from(start.elapsed().as_micros()).expect("small");
                tell.send(micros).await.expect("somebody listens");
            }
        });
        Healthy { stop, task, times }
    }

    /// The times since the last call, of some events at least.
    async fn since(&mut self) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("a histogram");
        while histogram.len() < HEALTHY_LEAST {
            histogram.record(self.times.recv().await.expect("the healthy sender goes on")).expect("in range");
        }
        while let Ok(micros) = self.times.try_recv() {
            histogram.record(micros).expect("in range");
        }
        histogram
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn a_healthy_sender_notices_no_attack() {
    let setup =
        Setup::default().with("EYE_HEADER_READ_MS", 1_000).with("EYE_BODY_READ_MS", 1_000).with("EYE_IDLE_MS", 5_000);
    let setup = setup.with("EYE_WRITE_MS", 1_000).with("EYE_CONNECTIONS_PER_PEER_MAX", 50);
    let gateway: Gateway = setup.start().await;
    let address = gateway.address().to_owned();
    // Before the healthy sender starts: it shares this machine's processors.
    let bombs = Bombs::new();
    let mut healthy = Healthy::start(&address);
    let quiet = healthy.since().await;
    let before = resident_kib(gateway.pid());
    println!(
        "| attack | what the gateway did | healthy p99, us | healthy events | resident, KiB |\n|---|---|---|---|---|"
    );
    println!("| none | | {} | {} | {before} |", quiet.value_at_quantile(0.99), quiet.len());
    let (tell, mut told) = mpsc::channel(1);
    let attacked = tokio::spawn(async move { attacks(&address, &bombs, Trial(tell)).await });
    let (mut count, mut most) = (0, before);
    while let Some((name, found)) = told.recv().await {
        let (seen, resident) = (healthy.since().await, resident_kib(gateway.pid()));
        println!("| {name} | {found} | {} | {} | {resident} |", seen.value_at_quantile(0.99), seen.len());
        (count, most) = (count + 1, most.max(resident));
    }
    attacked.await.expect("every attack came to what it had to");
    assert!(count > 25, "{count} attacks");
    healthy.stop.store(true, Ordering::Relaxed);
    healthy.task.await.expect("the healthy sender saw nothing but 201");
    assert!(most < before + GROWTH_MOST_KIB, "{most} KiB after {before} KiB");
    assert_eq!(gateway.get("/readyz").await.status, 200);
}
