//! Tests the listener over real sockets, with slow, large, silent and late peers.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::{StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::config::{Settings, parts};
use crate::response::json;

/// Longer than any of these tests takes. A hang becomes a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts how often it wakes a task.
#[derive(Default)]
pub(super) struct Woken(pub(super) AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A server on a free port of this machine.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    closing: Closing,
    pub(crate) run: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<F, Fut>(limits: ServerLimits, handler: F) -> Self
    where
        F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any).await.expect("a free port");
        let address = listener.address();
        let shutdown = CancellationToken::new();
        let closing = Closing::by(shutdown.clone());
        let limits = Arc::new(LimitsInForce::new(limits));
        let run = tokio::spawn(listener.run(limits, Arc::default(), handler, closing.clone()));
        Self { address, shutdown, closing, run }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon(self.run).await.expect("the server does not panic");
    }
}

pub(crate) fn limits() -> ServerLimits {
    let (_, config) = Settings::from_parts(None, std::iter::empty(), &[]).expect("the defaults are sound");
    ServerLimits { connections_max: 100, header_read: PATIENCE, drain: PATIENCE, ..parts::server_limits(&config) }
}

pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
    timeout(PATIENCE, work).await.expect("this hangs")
}

/// Reads until the server closes or resets the connection.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8(bytes).expect("the answers are text")
}

/// Reads one answer on a connection that stays open: the head, and the body by `Content-Length`.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        text.push(soon(stream.read_u8()).await.expect("an answer").into());
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    soon(stream.read_exact(&mut body)).await.expect("the whole body");
    text + &String::from_utf8(body).expect("text")
}

async fn fine(_: Request<Incoming>, _: Peer, _: RequestIds) -> Response {
    json(StatusCode::OK, "{}")
}

async fn ask(stream: &mut TcpStream, path: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: eye\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("the connection is open");
}

#[tokio::test]
async fn slow_heads_and_silent_peers_are_cut() {
    let quick = ServerLimits { header_read: Duration::from_millis(50), ..limits() };
    let server = Server::start(quick, fine).await;
    for start in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: e"] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.expect("open");
        assert_eq!(rest(&mut stream).await, "", "after {start:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_later_head_has_its_time_from_its_first_byte_on() {
    let brief = Duration::from_millis(50);
    let server = Server::start(ServerLimits { header_read: brief, idle: PATIENCE, ..limits() }, fine).await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        ask(&mut stream, "/").await;
        assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        // Without a request the connection may stay open for longer than the time for a head.
        sleep(3 * brief).await;
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost: e").await.expect("open");
    assert_eq!(rest(&mut stream).await, "");
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_comes_after_its_head_is_no_head() {
    let brief = Duration::from_millis(50);
    let server =
        Server::start(ServerLimits { header_read: brief, idle: PATIENCE, ..limits() }, |request, _, _| async {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            json(StatusCode::OK, body)
        })
        .await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 2\r\n\r\n").await.expect("open");
        sleep(Duration::from_millis(20)).await;
        stream.write_all(b"{}").await.expect("open");
        assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 200"));
        sleep(3 * brief).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(limits(), fine).await;
    let mut stream = server.connect().await;
    let head = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2 * limits().header_bytes_max));
    // The server may close before it has read the whole head.
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = rest(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_writes_until_it_cannot_gets_its_answer() {
    let patient = ServerLimits { linger: 2 * PATIENCE, linger_bytes_max: 64 * 1024, ..limits() };
    let refuse = |_: Request<Incoming>, _: Peer, _| async { json(StatusCode::PAYLOAD_TOO_LARGE, "{}") };
    let server = Server::start(patient, refuse).await;
    let mut peer = server.connect().await;
    soon(peer.write_all(b"POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 1000000000\r\n\r\n")).await.expect("a head");
    soon(peer.readable()).await.expect("the answer is there, and not looked at");
    let body = [b' '; 64 * 1024];
    while timeout(Duration::from_millis(200), peer.writable()).await.is_ok() {
        match peer.try_write(&body) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("the end of the connection overtook the answer: {error}"),
        }
    }
    assert!(rest(&mut peer).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_request_that_waits_is_not_looked_at_before_it_is_woken_and_has_its_body_in_however_many_pieces() {
    let (looks, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let (counted, waited) = (Arc::clone(&looks), Arc::clone(&go));
    let handler = move |request: Request<Incoming>, _: Peer, _| {
        let (looks, go) = (Arc::clone(&counted), Arc::clone(&waited));
        async move {
            let work = async {
                let body = request.into_body().collect().await.expect("a body").to_bytes();
                go.notified().await;
                json(StatusCode::OK, body)
            };
            let mut work = std::pin::pin!(work);
            let look = |cx: &mut std::task::Context<'_>| {
                looks.fetch_add(1, Relaxed);
                work.as_mut().poll(cx)
            };
            std::future::poll_fn(look).await
        }
    };
    let server = Server::start(limits(), handler).await;
    let mut stream = server.connect().await;
    for round in 1..=3 {
        stream.write_all(b"POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 2\r\n\r\n{}").await.expect("open");
        soon(async {
            while looks.load(Relaxed) < 2 * round - 1 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // A poll without a wake would come at once.
        sleep(Duration::from_millis(20)).await;
        go.notify_one();
        assert!(one_answer(&mut stream).await.ends_with("\r\n\r\n{}"));
        assert_eq!(looks.load(Relaxed), 2 * round, "when it came, and when it was woken");
    }
    let one = "POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(one.repeat(3).as_bytes()).await.expect("open");
    for _ in 0..3 {
        go.notify_one();
        assert!(one_answer(&mut stream).await.ends_with("\r\n\r\n{}"), "those behind another one are not forgotten");
    }
    go.notify_one();
    stream.write_all(b"POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 6\r\n\r\n[1").await.expect("open");
    for piece in [&b",2"[..], b",3"] {
        sleep(Duration::from_millis(20)).await;
        stream.write_all(piece).await.expect("open");
    }
    assert!(one_answer(&mut stream).await.ends_with("\r\n\r\n[1,2,3"));
    for (head, pieces) in [
        ("expect: 100-continue\r\ncontent-length: 2", &["{}"][..]),
        ("transfer-encoding: chunked", &["1\r\n{\r\n", "1\r\n}\r\n", "0\r\n\r\n"]),
        ("transfer-encoding: chunked", &["1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"]),
        ("content-length: 0\r\nx-none: 1", &[]),
    ] {
        go.notify_one();
        stream.write_all(format!("POST / HTTP/1.1\r\nhost: eye\r\n{head}\r\n\r\n").as_bytes()).await.expect("open");
        if head.starts_with("expect") {
            assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 100"));
        }
        for piece in pieces {
            stream.write_all(piece.as_bytes()).await.expect("open");
            sleep(Duration::from_millis(20)).await;
        }
        let body = if pieces.is_empty() { "" } else { "{}" };
        assert!(one_answer(&mut stream).await.ends_with(&format!("\r\n\r\n{body}")), "{head}");
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_body_may_be_taken_by_another_task() {
    let handler = |request: Request<Incoming>, _: Peer, _| async {
        let taken = tokio::spawn(async { request.into_body().collect().await.expect("a body").to_bytes() });
        json(StatusCode::OK, taken.await.expect("it does not panic"))
    };
    let server = Server::start(limits(), handler).await;
    let mut stream = server.connect().await;
    for (head, pieces) in [
        ("content-length: 2", &["{}"][..]),
        ("content-length: 2", &["{", "}"]),
        ("expect: 100-continue\r\ncontent-length: 2", &["{", "}"]),
        ("transfer-encoding: chunked", &["1\r\n{\r\n", "1\r\n}\r\n0\r\n\r\n"]),
    ] {
        stream.write_all(format!("POST / HTTP/1.1\r\nhost: eye\r\n{head}\r\n\r\n").as_bytes()).await.expect("open");
        if head.starts_with("expect") {
            assert!(one_answer(&mut stream).await.starts_with("HTTP/1.1 100"));
        }
        for piece in pieces {
            sleep(Duration::from_millis(20)).await;
            stream.write_all(piece.as_bytes()).await.expect("open");
        }
        assert!(one_answer(&mut stream).await.ends_with("\r\n\r\n{}"), "{head}");
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn who_has_closed_its_sending_half_is_answered_each_time() {
    let server = Server::start(limits(), |request, _, _| async {
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        // Long enough for the end of the peer's sending half to arrive.
        sleep(Duration::from_millis(10)).await;
        match body {
            Ok(body) => json(StatusCode::OK, body),
            Err(_) => json(StatusCode::BAD_REQUEST, "{}"),
        }
    })
    .await;
    let post = |version: &str, rest: &str| format!("POST / HTTP/{version}\r\nhost: eye\r\n{rest}");
    let one = post("1.1", "content-length: 2\r\n\r\n{}");
    for (sent, answers) in [
        (one.clone(), 1),
        (one.repeat(3), 3),
        (post("1.1", "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), 1),
        (post("1.1", "connection: close\r\ncontent-length: 2\r\n\r\n{}"), 1),
        (post("1.0", "content-length: 2\r\n\r\n{}"), 1),
        (post("1.0", "connection: keep-alive\r\ncontent-length: 2\r\n\r\n{}"), 1),
        (post("1.1", "expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}"), 1),
        ("GET / HTTP/1.1\r\nhost: eye\r\n\r\n".to_owned(), 1),
    ] {
        for round in 0..10 {
            let mut peer = server.connect().await;
            if round % 2 == 1 {
                ask(&mut peer, "/").await;
                assert!(one_answer(&mut peer).await.starts_with("HTTP/1.1 200"), "on a connection that is kept");
            }
            peer.write_all(sent.as_bytes()).await.expect("open");
            peer.shutdown().await.expect("open");
            let told = rest(&mut peer).await;
            assert_eq!(told.matches(" 200 OK\r\n").count(), answers, "{round}: {sent}: {told}");
        }
    }
    // An incomplete request is answered too, with its error.
    let mut peer = server.connect().await;
    peer.write_all(post("1.1", "content-length: 9\r\n\r\n{}").as_bytes()).await.expect("open");
    peer.shutdown().await.expect("open");
    let told = rest(&mut peer).await;
    assert!(told.starts_with("HTTP/1.1 400"), "{told}");
    server.stop().await;
}

/// A server whose requests never end. It notifies when a request begins, and when one is dropped.
async fn waiting() -> (Server, Arc<Notify>, Arc<Notify>) {
    struct GivenUp(Arc<Notify>);
    impl Drop for GivenUp {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let (begun, given_up) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, give_up) = (Arc::clone(&begun), Arc::clone(&given_up));
    let server = Server::start(limits(), move |request: Request<Incoming>, _, _| {
        let (begin, give_up) = (Arc::clone(&begin), GivenUp(Arc::clone(&give_up)));
        async move {
            let give_up = give_up;
            let half_closed = request.body().half_closed();
            request.into_body().collect().await.expect("a body");
            begin.notify_one();
            half_closed.wait().await;
            begin.notify_one();
            std::future::pending::<()>().await;
            drop(give_up);
            json(StatusCode::OK, "{}")
        }
    })
    .await;
    (server, begun, given_up)
}

#[tokio::test]
async fn a_peer_that_has_reset_its_connection_holds_nothing() {
    let (server, begun, given_up) = waiting().await;
    for sent in ["GET / HTTP/1.1\r\nhost: eye\r\n\r\n", "POST / HTTP/1.1\r\nhost: eye\r\ncontent-length: 2\r\n\r\n{}"] {
        let mut peer = server.connect().await;
        peer.write_all(sent.as_bytes()).await.expect("open");
        soon(begun.notified()).await;
        peer.set_zero_linger().expect("an open socket");
        drop(peer);
        soon(given_up.notified()).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_handler_learns_that_its_peer_sends_no_more() {
    let (server, begun, given_up) = waiting().await;
    let mut peer = server.connect().await;
    ask(&mut peer, "/").await;
    soon(begun.notified()).await;
    peer.shutdown().await.expect("open");
    soon(begun.notified()).await;
    assert!(given_up.notified().now_or_never().is_none(), "it may still wait for its answer");
    server.shutdown.cancel();
    drop(server);
}

#[tokio::test]
async fn a_panic_costs_one_request() {
    let handler = |request: Request<Incoming>, _, _| {
        // It panics before it returns a future, and in the future.
        assert_ne!(request.uri().path(), "/early");
        async move {
            assert_ne!(request.uri().path(), "/late");
            json(StatusCode::OK, "{}")
        }
    };
    let server = Server::start(limits(), handler).await;
    let (mut one, mut other) = (server.connect().await, server.connect().await);
    for path in ["/early", "/late"] {
        ask(&mut one, path).await;
        let answer = one_answer(&mut one).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains(r#""code":"internal""#), "{answer}");
        for stream in [&mut one, &mut other] {
            ask(stream, "/").await;
            assert!(one_answer(stream).await.starts_with("HTTP/1.1 200"));
        }
    }
    drop((one, other));
    server.stop().await;
}

type Gate = Arc<dyn Fn(Request<Incoming>, Peer, RequestIds) -> BoxFuture<'static, Response> + Send + Sync>;

/// A handler that notifies when it begins, and waits until it may end.
fn gate() -> (Arc<Notify>, Arc<Notify>, Gate) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begin, wait) = (Arc::clone(&begun), Arc::clone(&go));
    let handler: Gate = Arc::new(move |_, _, _| {
        let (begin, wait) = (Arc::clone(&begin), Arc::clone(&wait));
        async move {
            begin.notify_one();
            wait.notified().await;
            json(StatusCode::OK, r#"{"done":true}"#)
        }
        .boxed()
    });
    (begun, go, handler)
}

async fn refuses(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_refuses_what_comes() {
    let (begun, go, handler) = gate();
    let server = Server::start(limits(), move |request, peer, ids| handler(request, peer, ids)).await;
    let (mut running, mut idle, mut silent) = (server.connect().await, server.connect().await, server.connect().await);
    ask(&mut idle, "/").await;
    soon(begun.notified()).await;
    go.notify_one();
    one_answer(&mut idle).await;
    ask(&mut running, "/").await;
    soon(begun.notified()).await;
    server.shutdown.cancel();
    refuses(server.address).await;
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut silent).await, "");
    assert!(!server.run.is_finished());
    go.notify_one();
    let answer = rest(&mut running).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(r#"{"done":true}"#), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_drain_finishes_the_streams_of_http2() {
    let (begun, go, handler) = gate();
    let server = Server::start(limits(), move |request, peer, ids| handler(request, peer, ids)).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let answer = client.get(format!("http://{}/", server.address)).send();
    let answer = tokio::spawn(answer);
    soon(begun.notified()).await;
    server.shutdown.cancel();
    refuses(server.address).await;
    assert!(!server.run.is_finished());
    go.notify_one();
    let answer = soon(answer).await.expect("no panic").expect("an answer");
    assert_eq!(answer.version(), Version::HTTP_2);
    assert_eq!(answer.text().await.expect("a body"), r#"{"done":true}"#);
    server.stop().await;
}

#[tokio::test]
async fn a_leaving_server_answers_all_requests_and_closes_connections() {
    let server = Server::start(limits(), fine).await;
    let mut kept = server.connect().await;
    ask(&mut kept, "/").await;
    assert!(!one_answer(&mut kept).await.contains("connection: close"));
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let url = format!("http://{}/", server.address);
    assert_eq!(soon(client.get(&url).send()).await.expect("an answer").status(), 200);
    let mut streams = server.connect().await;
    streams
        .write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &get(1, "/")].concat())
        .await
        .expect("open");
    while next_frame(&mut streams).await.0 != 1 {}

    server.closing.ask_to_leave();
    // HTTP/2 gets a GOAWAY.
    while next_frame(&mut streams).await.0 != 7 {}
    drop(streams);
    for mut peer in [kept, server.connect().await, server.connect().await] {
        ask(&mut peer, "/").await;
        let answer = rest(&mut peer).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close\r\n"), "{answer}");
    }
    for _ in 0..3 {
        assert_eq!(soon(client.get(&url).send()).await.expect("an answer").status(), 200);
    }
    assert!(!server.run.is_finished());
    let (mut late, mut silent) = (server.connect().await, server.connect().await);
    // The accept of a third one proves that both are accepted.
    let mut last = server.connect().await;
    ask(&mut last, "/").await;
    assert!(one_answer(&mut last).await.starts_with("HTTP/1.1 200"));
    server.closing.close();
    refuses(server.address).await;
    ask(&mut late, "/").await;
    assert!(rest(&mut late).await.starts_with("HTTP/1.1 200"), "it was accepted just before");
    assert_eq!(rest(&mut silent).await, "");
    server.stop().await;
}

#[tokio::test]
async fn what_outlives_the_drain_is_cut() {
    let brief = ServerLimits { drain: Duration::from_millis(50), ..limits() };
    let (begun, _go, handler) = gate();
    let server = Server::start(brief, move |request, peer, ids| handler(request, peer, ids)).await;
    let mut one = server.connect().await;
    ask(&mut one, "/").await;
    soon(begun.notified()).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
    let other = tokio::spawn(client.get(format!("http://{}/", server.address)).send());
    soon(begun.notified()).await;
    server.stop().await;
    assert_eq!(rest(&mut one).await, "");
    assert!(soon(other).await.expect("no panic").is_err());
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let single = ServerLimits { connections_max: 1, ..limits() };
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&peers);
    let handler = move |_: Request<Incoming>, peer: Peer, _| {
        seen.lock().expect("no panic").push(peer.address.expect("no proxy"));
        async { json(StatusCode::OK, "{}") }
    };
    let server = Server::start(single, handler).await;
    let mut first = server.connect().await;
    ask(&mut first, "/").await;
    one_answer(&mut first).await;
    let mut second = server.connect().await;
    ask(&mut second, "/").await;
    for _ in 0..20 {
        ask(&mut first, "/").await;
        one_answer(&mut first).await;
    }
    let only = first.local_addr().expect("connected");
    assert!(peers.lock().expect("no panic").iter().all(|peer| *peer == only));
    drop(first);
    assert!(one_answer(&mut second).await.starts_with("HTTP/1.1 200"));
    drop(second);
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_reads_on_is_not_cut_and_one_that_stops_is() {
    const BYTES: usize = 64 << 20;
    let quick = Duration::from_millis(500);
    let brief = ServerLimits { write: quick, idle: quick, header_read: quick, ..limits() };
    let handler = |_: Request<Incoming>, _: Peer, _| async { json(StatusCode::OK, vec![b' '; BYTES]) };
    let server = Server::start(brief, handler).await;
    let mut steady = server.connect().await;
    ask(&mut steady, "/").await;
    let (mut read, mut pace, start) = (0, tokio::time::interval(Duration::from_millis(10)), Instant::now());
    while read < BYTES {
        pace.tick().await;
        let mut piece = vec![0; 512 * 1024];
        let more = soon(steady.read_exact(&mut piece)).await.map(|_| piece.len());
        read += more.unwrap_or_else(|error| panic!("cut after {read} bytes, {:?}: {error}", start.elapsed()));
    }
    assert!(start.elapsed() > 2 * quick, "the whole of it took longer than any limit: {:?}", start.elapsed());
    let mut stopped = server.connect().await;
    ask(&mut stopped, "/").await;
    soon(stopped.readable()).await.expect("an answer");
    // The peer reads nothing and sends a little, which fails once the server has cut it.
    let cut = async {
        while !stopped.try_write(b"x").is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
            pace.tick().await;
        }
    };
    soon(cut).await;
    server.stop().await;
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_permit() {
    let none = ServerLimits { connections_max: 0, ..limits() };
    Server::start(none, fine).await.stop().await;
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A whole request with the method GET.
fn get(stream: u32, path: &str) -> Vec<u8> {
    let literal =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).expect("short")], value.as_bytes()].concat();
    let headers = [&[0x82, 0x86][..], &literal(4, path), &literal(1, "localhost")].concat();
    frame(1, 5, stream, &headers)
}

/// Reads the next frame: kind, flags, stream and payload.
async fn next_frame(stream: &mut TcpStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.expect("the connection goes on");
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    soon(stream.read_exact(&mut payload)).await.expect("the connection goes on");
    (kind, flags, u32::from_be_bytes(id), payload)
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_reset_and_its_connection_goes_on() {
    let write = Duration::from_millis(300);
    let handler = |request: Request<Incoming>, _: Peer, _| async move {
        let bytes = request.uri().path().trim_matches('/').parse().expect("a number");
        json(StatusCode::OK, vec![b' '; bytes])
    };
    let server = Server::start(ServerLimits { write, ..limits() }, handler).await;
    // No window; one that ends within the first of many pieces, within the only piece, and after the first of many.
    for (window, bytes) in [(0_u32, 100_u32), (0, 1 << 20), (50_000, 1 << 20), (50_000, 60_000), (65_536, 1 << 20)] {
        let mut stream = server.connect().await;
        let settings = frame(4, 0, 0, &[&[0, 4], &window.to_be_bytes()[..]].concat());
        let opened = |stream: u32| frame(8, 0, stream, &(1_u32 << 30).to_be_bytes());
        let start = Instant::now();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let begin = [&preface[..], &settings, &opened(0), &get(1, &format!("/{bytes}"))].concat();
        stream.write_all(&begin).await.expect("open");
        let (mut taken, mut next, mut reset) = (0, 3, None);
        while reset.is_none() {
            // Meanwhile the peer reads other answers, some of them long.
            let length = if next % 4 == 3 { 2 } else { 200_000 };
            let other = [get(next, &format!("/{length}")), opened(next)].concat();
            stream.write_all(&other).await.expect("open");
            let mut whole = 0;
            loop {
                match next_frame(&mut stream).await {
                    (0, _, 1, data) => taken += data.len(),
                    (0, flags, _, data) => {
                        whole += data.len();
                        if flags & 1 == 1 {
                            break;
                        }
                    }
                    (3, _, id, error) => {
                        assert_eq!(id, 1, "only that one");
                        reset = Some(error);
                    }
                    (7, ..) => panic!("the connection ends"),
                    _ => {}
                }
            }
            assert_eq!(whole, length);
            next += 2;
            sleep(Duration::from_millis(20)).await;
        }
        let canceled = Some(vec![0, 0, 0, 8]);
        assert_eq!((taken, reset), (window.min(bytes) as usize, canceled), "{window} {bytes}");
        assert!(start.elapsed() >= write, "{:?}", start.elapsed());
    }
    server.stop().await;
}
