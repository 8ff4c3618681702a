//! Hostile peers of one kind after the other, while a healthy sender goes on. Each is refused or cut in the way that is
//! written here. The healthy sender gets only 201, and memory stays bounded. The test prints a table of what the
//! gateway did; its times are for information.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::http2::{
    END_HEADERS, END_STREAM, GET, Heard, POST, REFUSED_STREAM, frame, heard, http2, literal, to,
};
use crate::support::raw::Wire;
use crate::support::{Gateway, PATIENCE, Setup, event, pageview};

/// The most that the resident memory may grow over all attacks. The attackers send far more.
const GROWTH_MOST_KIB: u64 = 160 * 1024;
/// The open streams of an HTTP/2 connection: the default of `http2_streams_max`.
const STREAMS_MOST: u32 = 250;
/// The room for answers that are not sent yet: less than a few hundred pages.
const ANSWERS_MOST: usize = 32 << 20;
/// The least number of events of the healthy sender during each attack.
const HEALTHY_LEAST: u64 = 20;

const EVENTS: &str = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";

fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).expect("a size").parse().expect("a number")
}

/// Connects from another address of this machine than that of the healthy sender.
async fn connect(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("bound");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    socket.connect(address.parse().expect("an address")).await.expect("the gateway listens")
}

/// The statuses of the answers, or how the connection ended.
async fn sent(address: &str, bytes: &[u8]) -> String {
    let mut wire = Wire::over(connect(address).await);
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

/// Small bodies that decompress to large ones.
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

/// Records the result of each attack.
struct Trial(mpsc::Sender<(&'static str, String)>);

impl Trial {
    /// Compares the result of an attack with the expected one, which starts with one of several words.
    async fn saw(&self, name: &'static str, expected: &[&str], found: String) {
        assert!(expected.iter().any(|word| found.starts_with(word)), "{name}: {found}");
        self.0.send((name, found)).await.expect("somebody listens");
    }
}

async fn attacks(address: &str, bombs: &Bombs, trial: Trial) {
    slow_ones(address, &trial).await;
    bodies(address, bombs, &trial).await;
    forms(address, &trial).await;
    both_lengths(address, &trial).await;
    chunks(address, &trial).await;
    contents(address, &trial).await;
    streams(address, &trial).await;
    readers(address, &trial).await;
}

async fn slow_ones(address: &str, trial: &Trial) {
    trial.saw("says nothing", &["closed"], sent(address, b"").await).await;
    trial.saw("half a head", &["closed", "408"], sent(address, b"POST /v1/events HTTP/1.1\r\nhost: e").await).await;
    let half = format!("{EVENTS}content-length: 100\r\n\r\n{{");
    trial.saw("half a body", &["408"], sent(address, half.as_bytes()).await).await;
    let mut idle = Wire::over(connect(address).await);
    idle.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(idle.answer().await.expect("an answer").status, 200);
    trial
        .saw(
            "stays and says nothing more",
            &["closed"],
            if idle.rest().await.is_empty() { "closed" } else { "bytes" }.to_owned(),
        )
        .await;
    let mut deaf = Wire::over(connect(address).await);
    let many = b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1_000);
    let mut pieces = 0;
    while pieces < 10_000 && deaf.write(&many).await {
        pieces += 1;
    }
    let found = if pieces < 10_000 { format!("cut after at most {pieces},000 requests") } else { "read on".to_owned() };
    trial.saw("asks and never reads", &["cut"], found).await;
    let mut crowd = Vec::new();
    for _ in 0..60 {
        crowd.push(Wire::over(connect(address).await));
    }
    let mut last = crowd.pop().expect("a connection");
    last.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let found = last.answer().await.map_or("closed".to_owned(), |told| told.status.to_string());
    trial.saw("60 connections of one peer", &["closed"], found).await;
    drop((crowd, last));
    let alive = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let places_come_back = async { while sent(address, alive).await != "200" {} };
    timeout(PATIENCE, places_come_back).await.expect("places come back");
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
    let mut endless = Wire::over(connect(address).await);
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
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes();
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
    let whole = END_STREAM | END_HEADERS;
    let reset: Vec<u8> = odd(5_000)
        .flat_map(|stream| [frame(1, whole, stream, &to(GET, "/")), frame(3, 0, stream, &8_u32.to_be_bytes())].concat())
        .collect();
    let found = heard(connect(address).await, reset).await;
    trial.saw("HTTP/2 rapid reset, 5,000 streams", &["GOAWAY 11"], found.to_string()).await;
    // A header `x` of 16,000 bytes, whose length is encoded in three bytes.
    let header = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7c][..], &[b'x'; 16_000]].concat();
    let flood: Vec<u8> = [frame(1, 0, 1, &to(GET, "/"))]
        .into_iter()
        .chain((0..500).map(|_| frame(9, 0, 1, &header)))
        .flatten()
        .collect();
    let found = heard(connect(address).await, flood).await;
    trial.saw("HTTP/2 CONTINUATION flood, 8 MB", &["GOAWAY 11"], found.to_string()).await;
    // Bodies that never come, so the streams stay open.
    let sending = [to(POST, "/v1/events"), literal(31, "application/json")].concat();
    let open: Vec<u8> = odd(1_000).flat_map(|stream| frame(1, END_HEADERS, stream, &sending)).collect();
    let found = heard(connect(address).await, open).await;
    let refused: Vec<u32> =
        found.resets.iter().filter(|(_, error)| *error == REFUSED_STREAM).map(|(stream, _)| *stream).collect();
    assert!(!refused.is_empty() && refused.iter().all(|stream| *stream > 2 * STREAMS_MOST), "{found:?}");
    assert_eq!(found.goaway, Some(11), "{found:?}");
    trial.saw("HTTP/2, 1,000 streams left open", &[""], found.to_string()).await;
    // This many pings are answered one by one without being kept. The connection counts as idle all the same.
    let pings = |count: usize| frame(6, 0, 0, &[0; 8]).repeat(count);
    let found = heard(connect(address).await, pings(5_000)).await;
    trial.saw("HTTP/2, 5,000 pings", &["5000 pings answered; "], found.to_string()).await;
    let request = frame(1, END_HEADERS, 1, &sending);
    let priority = frame(2, 0, 1, &[0, 0, 0, 3, 16]);
    for (name, begin, one) in [
        ("HTTP/2 ping flood", Vec::new(), pings(1)),
        ("HTTP/2 settings flood", Vec::new(), frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("HTTP/2 flood of window updates", Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1])),
        ("HTTP/2 flood of window updates of a stream", request.clone(), frame(8, 0, 1, &[0, 0, 0, 1])),
        ("HTTP/2 flood of priorities", Vec::new(), priority),
        ("HTTP/2 flood of empty data", request, frame(0, 0, 1, &[])),
        ("HTTP/2 flood of unknown frames", Vec::new(), frame(200, 0, 0, &[0; 4])),
    ] {
        let flood = [begin, one.repeat(1_000_000)].concat();
        let found = heard(connect(address).await, flood).await;
        assert_eq!(found.goaway, Some(11), "{name}: {found:?}");
        trial.saw(name, &[""], found.to_string()).await;
    }
    let mut deaf = Wire::over(connect(address).await);
    deaf.write(&http2()).await;
    let many = frame(6, 0, 0, &[0; 8]).repeat(10_000);
    let mut count = 0;
    while count < 1_000 && deaf.write(&many).await {
        count += 1;
    }
    let found = if count < 1_000 { format!("cut after at most {count}0,000 pings") } else { "read on".to_owned() };
    trial.saw("HTTP/2 ping flood without reading", &["cut"], found).await;
    let found = heard(connect(address).await, frame(0, 0, 0, &[0; 100])).await;
    trial.saw("HTTP/2 data of no stream", &["GOAWAY 1"], found.to_string()).await;
}

/// Peers that ask for much and read little.
async fn readers(address: &str, trial: &Trial) {
    let mut trickle = connect(address).await;
    let request = b"GET /v1/events?limit=1000 HTTP/1.1\r\nhost: localhost\r\n\r\n";
    trickle.write_all(request).await.expect("open");
    let (mut taken, mut pause) = (0, tokio::time::interval(Duration::from_millis(20)));
    let slowly = async {
        // The kernel's bytes can be read long after the connection is cut. Only a write shows the cut.
        while trickle.read(&mut [0]).await.is_ok() && trickle.write(b"x").await.is_ok() {
            taken += 1;
            pause.tick().await;
        }
    };
    timeout(PATIENCE, slowly).await.expect("the gateway closes");
    assert!(taken > 0);
    trial.saw("a page read byte by byte", &["cut"], format!("cut after {taken} bytes")).await;

    // No window for any stream, except those that keep the connection busy.
    let no_window = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let pages = (0..100).flat_map(|number| frame(1, 5, 2 * number + 1, &to(GET, "/v1/events?limit=1000")));
    let (mut read, mut write) = tokio::io::split(connect(address).await);
    write.write_all(&[http2(), no_window].concat().into_iter().chain(pages).collect::<Vec<u8>>()).await.expect("open");
    let busy = async {
        let mut pause = tokio::time::interval(Duration::from_millis(100));
        for stream in (201_u32..).step_by(2) {
            pause.tick().await;
            let alive = [frame(1, 5, stream, &to(GET, "/healthz")), frame(8, 0, stream, &1_000_u32.to_be_bytes())];
            if write.write_all(&alive.concat()).await.is_err() {
                break;
            }
        }
    };
    let mut bytes = Vec::new();
    let reset = async {
        while Heard::read(&bytes).resets.len() < 100 && read.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {}
    };
    let reset_first = async {
        tokio::select! {
            () = busy => {}
            () = reset => {}
        }
    };
    timeout(PATIENCE, reset_first).await.expect("the gateway gives up");
    let heard = Heard::read(&bytes);
    assert!(heard.resets.iter().all(|(stream, _)| *stream < 200), "{heard:?}: what is taken goes on");
    trial.saw("HTTP/2, 100 pages never read, /healthz between", &["100 streams reset"], heard.to_string()).await;
}

/// Chunks with many bytes beside their content.
async fn chunks(address: &str, trial: &Trial) {
    let head = format!("{EVENTS}transfer-encoding: chunked\r\n\r\n");
    let extended = format!("1;{}\r\n \r\n", "x=y;".repeat(100)).repeat(10_000);
    let found = sent(address, format!("{head}{extended}0\r\n\r\n").as_bytes()).await;
    trial.saw("4 MB of chunk extensions", &["400", "closed"], found).await;
    let trailers = "x-trailer: y\r\n".repeat(100_000);
    let found = sent(address, format!("{head}1\r\n \r\n0\r\n{trailers}\r\n").as_bytes()).await;
    trial.saw("100,000 trailers", &["400", "closed"], found).await;
}

/// The gateway reads a request with both lengths by its chunks, and reads nothing after it: bytes that a proxy took for
/// the body cannot become a request.
async fn both_lengths(address: &str, trial: &Trial) {
    let body = pageview().to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let smuggled = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (name, lengths) in [
        ("both lengths, the chunked one last", "content-length: 4\r\ntransfer-encoding: chunked\r\n"),
        ("both lengths, the chunked one first", "transfer-encoding: chunked\r\ncontent-length: 4\r\n"),
    ] {
        let mut wire = Wire::over(connect(address).await);
        wire.write(format!("{EVENTS}{lengths}\r\n{chunked}{smuggled}").as_bytes()).await;
        let served = wire.answer().await.expect("an answer").status;
        let rest = wire.rest().await;
        assert_eq!((served, rest.as_str()), (201, ""), "{name}");
        trial.saw(name, &["201"], format!("{served}, then closed")).await;
    }
}

/// Sends events one after the other until it is stopped.
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
                // One connection with one request at a time: a refusal, a cut or a failure ends it here.
                assert_eq!(wire.send_event(&pageview(), &[]).await, 201, "the healthy sender is served");
                let micros = u64::try_from(start.elapsed().as_micros()).expect("small");
                tell.send(micros).await.expect("somebody listens");
            }
        });
        Healthy { stop, task, times }
    }

    /// The times since the last call. It waits for at least some events.
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
    let gateway: Gateway = setup.with("EYE_ANSWERS_BYTES_MAX", ANSWERS_MOST).start().await;
    let address = gateway.address().to_owned();
    // Enough for a page of 8 MiB.
    let large = event("page", "view", json!({"fill": "x".repeat(200_000)}));
    for _ in 0..5 {
        assert_eq!(gateway.send(&json!(vec![large.clone(); 10])).await.status, 200);
    }
    // Made before the healthy sender starts, since it shares this machine's processors.
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
    assert!(count > 42, "{count} attacks");
    healthy.stop.store(true, Ordering::Relaxed);
    healthy.task.await.expect("the healthy sender saw nothing but 201");
    assert!(most < before + GROWTH_MOST_KIB, "{most} KiB after {before} KiB");
    assert_eq!(gateway.get("/readyz").await.status, 200);
}
