//! Bodies of every coding, size and speed.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use futures_util::stream;
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper::header::HeaderValue;
use hyper::{Request, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::*;
use crate::response::json;
use crate::server::tests::{Server, limits, rest, soon};
use crate::share::Budget;

const LIMITS: BodyLimits = BodyLimits { bytes_max: 1024 * 1024, read: Duration::from_secs(20) };

fn budget(kib: usize) -> Arc<Budget> {
    Budget::new(kib, 100)
}

fn alone(budget: &Arc<Budget>) -> Held {
    Held::none(budget, &Arc::default())
}

fn coded(codings: &[&'static str]) -> HeaderMap {
    codings.iter().map(|coding| (CONTENT_ENCODING, HeaderValue::from_static(coding))).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory")
}

/// Bytes that do not compress well, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn given(codings: &[&'static str], body: Vec<u8>, in_flight: &Arc<Budget>) -> Result<Received, Refusal> {
    read(&coded(codings), Full::new(Bytes::from(body)), &LIMITS, alone(in_flight)).await
}

#[tokio::test]
async fn one_frame_is_not_copied_and_several_are_joined() {
    let in_flight = budget(100);
    let frame = Bytes::from(noise(3000));
    let body = Full::new(frame.clone());
    let received = read(&HeaderMap::new(), body, &LIMITS, alone(&in_flight)).await.expect("fine");
    assert_eq!(received.bytes.as_ptr(), frame.as_ptr());
    assert_eq!(in_flight.free(), 97);
    drop(received);
    assert_eq!(in_flight.free(), 100);

    let frames = ["", "one", "", "two", "three"].map(|text| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
    let body = StreamBody::new(stream::iter(frames));
    let received = read(&HeaderMap::new(), body, &LIMITS, alone(&in_flight)).await.expect("fine");
    assert_eq!(received.bytes, "onetwothree");
    assert_eq!(in_flight.free(), 99);

    let empty = given(&["gzip"], Vec::new(), &in_flight).await.expect("fine");
    assert!(empty.bytes.is_empty() && empty.room.is_none());
}

#[tokio::test]
async fn what_was_compressed_is_read_as_it_was() {
    let in_flight = budget(10_000);
    for plain in [b"{}".to_vec(), noise(300_000), vec![b' '; LIMITS.bytes_max]] {
        let (gzip, zstd) = (gzip(&plain), zstd(&plain));
        let twice = [gzip.as_slice(), gzip.as_slice()].concat();
        for (coding, body, expected) in [
            ("gzip", gzip, plain.clone()),
            ("X-GZIP , identity", twice, plain.repeat(2)),
            ("zstd", zstd, plain.clone()),
            ("identity", plain.clone(), plain.clone()),
        ] {
            let received = given(&[coding], body, &in_flight).await;
            if expected.len() > LIMITS.bytes_max {
                let limit_bytes = LIMITS.bytes_max;
                assert_eq!(received.expect_err("too large"), Refusal::TooLarge { limit_bytes });
                continue;
            }
            let received = received.expect("fine");
            assert!(received.bytes == expected, "{coding}");
            let held = 10_000 - in_flight.free();
            assert_eq!(held, expected.len().div_ceil(1024), "{coding}");
        }
    }
    assert_eq!(in_flight.free(), 10_000);
}

#[tokio::test]
async fn one_mark_of_the_byte_order_is_skipped_compressed_or_not() {
    let in_flight = budget(100);
    for (text, wanted) in [("\u{feff}{}", "{}"), ("\u{feff}", ""), ("\u{feff}\u{feff}[]", "\u{feff}[]")] {
        let text = text.as_bytes().to_vec();
        for (coding, body) in [("identity", text.clone()), ("gzip", gzip(&text)), ("zstd", zstd(&text))] {
            let received = given(&[coding], body, &in_flight).await.expect("fine");
            assert_eq!(received.bytes, wanted, "{coding}");
        }
    }
}

#[tokio::test]
async fn codings_that_are_not_read_are_refused() {
    for codings in [&["gzip, gzip"][..], &["gzip", "zstd"], &["gzip", "gzip"], &["br"], &["deflate"]] {
        let refusal = given(codings, gzip(b"{}"), &budget(9)).await.expect_err("refused");
        let found = codings.join(", ");
        assert_eq!(refusal, Refusal::WrongEncoding { found });
    }
}

#[tokio::test]
async fn what_cannot_be_decompressed_is_refused() {
    let in_flight = budget(10_000);
    let plain = noise(200_000);
    for (coding, whole) in [("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        for length in [1, 10, 1000, whole.len() - 1] {
            let refusal = given(&[coding], whole[..length].to_vec(), &in_flight).await;
            let Err(Refusal::BodyCorrupt { encoding, message }) = refusal else {
                panic!("{coding} cut to {length}: {refusal:?}");
            };
            assert_eq!(encoding, coding);
            assert!(!message.is_empty());
        }
        let mut broken = whole.clone();
        broken[0] ^= 1;
        let refusal = given(&[coding], broken, &in_flight).await.expect_err("refused");
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
        let trailing = [whole.as_slice(), b"rest"].concat();
        let refusal = given(&[coding], trailing, &in_flight).await.expect_err("refused");
        assert_eq!(refusal.code(), "body_corrupt");
    }
    assert_eq!(in_flight.free(), 10_000);
}

#[test]
fn few_bytes_that_become_many_do_not_hold_up_the_other_requests() {
    let room = alone(&budget(10_000));
    for make in [gzip, zstd] {
        let coding = if make(b"")[0] == 0x1f { Coding::Gzip } else { Coding::Zstd };
        let small = inline(coding, &make(&[b' '; INLINE_BYTES]), LIMITS.bytes_max, &room);
        assert_eq!(small.expect("decompressed at once").expect("fine").bytes.len(), INLINE_BYTES);
        let bomb = make(&[b' '; INLINE_BYTES + 1]);
        assert!(bomb.len() < 1_000 && inline(coding, &bomb, LIMITS.bytes_max, &room).is_none());
    }
}

#[tokio::test]
async fn a_window_that_is_too_large_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("memory");
    encoder.window_log(WINDOW_LOG_MAX + 1).expect("a window");
    encoder.write_all(b"{}").expect("memory");
    let body = encoder.finish().expect("memory");
    let refusal = given(&["zstd"], body, &budget(100)).await.expect_err("refused");
    assert_eq!(refusal.code(), "body_corrupt");
}

#[tokio::test]
async fn without_room_the_body_is_refused_at_once() {
    let in_flight = budget(10);
    let refusal = given(&[], noise(11 * 1024), &in_flight).await.expect_err("refused");
    assert_eq!(refusal, Refusal::Overloaded);
    // The compressed body is small, and there is no room for its decompressed bytes.
    let small = gzip(&vec![b' '; 100 * 1024]);
    let refusal = given(&["gzip"], small, &in_flight).await.expect_err("refused");
    assert_eq!(refusal, Refusal::Overloaded);
    assert_eq!(in_flight.free(), 10);
    given(&[], noise(10 * 1024), &in_flight).await.expect("there is room for this");
}

/// A server that reads the body and answers with its length.
async fn server(limits_of_body: BodyLimits, in_flight: &Arc<Budget>) -> Server {
    let in_flight = Arc::clone(in_flight);
    let handler = move |request: Request<crate::server::Incoming>, _, _| {
        let in_flight = Arc::clone(&in_flight);
        async move {
            let (head, body) = request.into_parts();
            match read(&head.headers, body, &limits_of_body, alone(&in_flight)).await {
                Ok(received) => json(StatusCode::OK, received.bytes.len().to_string()),
                Err(refusal) => refusal.into_response(),
            }
        }
    };
    Server::start(limits(), handler).await
}

async fn begin(server: &Server, headers: &str) -> TcpStream {
    let mut stream = server.connect().await;
    let head = format!("POST / HTTP/1.1\r\nhost: eye\r\n{headers}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("open");
    stream
}

#[tokio::test]
async fn a_slow_body_is_a_timeout() {
    let quick = BodyLimits { read: Duration::from_millis(50), ..LIMITS };
    let in_flight = budget(10);
    let server = server(quick, &in_flight).await;
    let mut stream = begin(&server, "content-length: 100").await;
    stream.write_all(b"[").await.expect("open");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(in_flight.free(), 10);
    server.stop().await;
}

#[tokio::test]
async fn an_announced_excess_is_refused_before_it_is_read() {
    let server = server(LIMITS, &budget(10)).await;
    let mut stream = begin(&server, "content-length: 1048577\r\nexpect: 100-continue").await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains(r#""limit_bytes":1048576"#), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_sender_that_does_not_listen_still_gets_the_refusal() {
    let server = server(LIMITS, &budget(10)).await;
    let body = noise(8 * 1024 * 1024);
    let mut stream = begin(&server, &format!("content-length: {}", body.len())).await;
    soon(stream.write_all(&body)).await.expect("the server takes it all");
    stream.shutdown().await.expect("open");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn chunks_without_end_are_bounded() {
    let in_flight = budget(1024);
    let server = server(LIMITS, &in_flight).await;
    let stream = begin(&server, "transfer-encoding: chunked").await;
    let mut stream = stream.into_std().expect("a socket");
    stream.set_nonblocking(false).expect("a socket");
    let mut sender = stream.try_clone().expect("a socket");
    let chunk = [b"1000\r\n".as_slice(), &[b' '; 0x1000], b"\r\n"].concat();
    let endless = tokio::task::spawn_blocking(move || while sender.write_all(&chunk).is_ok() {});
    let answer = tokio::task::spawn_blocking(move || {
        let mut answer = Vec::new();
        // A reset at the end counts as the end.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("text")
    });
    let answer = soon(answer).await.expect("no panic");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    soon(endless).await.expect("it ends with the connection");
    assert_eq!(in_flight.free(), 1024);
    server.stop().await;
}

#[tokio::test]
async fn bombs_are_refused() {
    let in_flight = budget(10_000);
    let server = server(LIMITS, &in_flight).await;
    let large = vec![b' '; 100 * LIMITS.bytes_max];
    for (coding, bomb) in [("gzip", gzip(&large)), ("zstd", zstd(&large))] {
        let length = bomb.len();
        let headers = format!("content-encoding: {coding}\r\ncontent-length: {length}");
        let mut stream = begin(&server, &headers).await;
        stream.write_all(&bomb).await.expect("open");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert_eq!(in_flight.free(), 10_000);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_gives_its_permits_back() {
    let in_flight = budget(10);
    let ended = Arc::new(Notify::new());
    let (shared, end) = (Arc::clone(&in_flight), Arc::clone(&ended));
    let handler = move |request: Request<crate::server::Incoming>, _, _| {
        let (in_flight, end) = (Arc::clone(&shared), Arc::clone(&end));
        async move {
            let body = request.into_body();
            let refusal = read(&HeaderMap::new(), body, &LIMITS, alone(&in_flight)).await;
            assert_eq!(refusal.expect_err("cut"), Refusal::BodyBroken);
            end.notify_one();
            Refusal::BodyBroken.into_response()
        }
    };
    let server = Server::start(limits(), handler).await;
    let mut stream = begin(&server, "content-length: 9000").await;
    stream.write_all(&noise(5000)).await.expect("open");
    drop(stream);
    soon(ended.notified()).await;
    assert_eq!(in_flight.free(), 10);
    server.stop().await;
}
