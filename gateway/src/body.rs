//! The body of a request, whole: bounded in bytes, in time and, over all requests, in memory.

use std::io::{self, Read};
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use tokio::time::timeout;

use crate::response::Refusal;
use crate::share::Held;

/// How many bytes one unit of the in-flight budget stands for: a body is never smaller than what keeping it costs.
const PERMIT_BYTES: usize = 1024;

/// Bodies up to this size, compressed and decompressed, are decompressed where they are; a larger one would hold up the
/// other requests of its thread for milliseconds.
const INLINE_BYTES: usize = 64 * 1024;

/// The largest zstd window, as a power of two: 8 MiB, which every level up to 19 stays within. Without it, a few bytes
/// of header make the decompressor ask for gigabytes.
const WINDOW_LOG_MAX: u32 = 23;

/// How much is decompressed between two looks at the limits.
const STEP_BYTES: usize = 64 * 1024;

/// The most that is set aside on the word of a `Content-Length` alone.
const TRUSTED_BYTES: usize = 256 * 1024;

/// How long and how large a body may be.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// The most bytes, as sent and after decompression.
    pub bytes_max: usize,
    /// The time in which the whole body must have arrived.
    pub read: Duration,
}

/// A whole body, decompressed.
#[derive(Debug)]
pub struct Received {
    /// The bytes.
    pub bytes: Bytes,
    /// The bytes' share of what may be in flight; hold it as long as the bytes. `None` for an empty body.
    pub room: Option<Held>,
}

/// Room for a body that grows. It never waits: a gateway that is full says so at once.
fn grow(room: &mut Held, bytes: usize) -> Result<(), Refusal> {
    if room.grow_to(bytes.div_ceil(PERMIT_BYTES)) { Ok(()) } else { Err(Refusal::Overloaded) }
}

/// UTF-8's own mark of the byte order. Some editors and systems put it before any text, and JSON has no place for it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

fn received(room: Held, mut bytes: Bytes) -> Received {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.advance(BYTE_ORDER_MARK.len());
    }
    Received { bytes, room: (room.units() > 0).then_some(room) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Zstd,
}

impl Coding {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// At most one coding: several would multiply the ratio of a compression bomb, and no honest sender needs them.
    fn of(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut coding = None;
        for value in headers.get_all(CONTENT_ENCODING) {
            let wrong = || Refusal::WrongEncoding { found: all_codings(headers) };
            for word in value.to_str().map_err(|_| wrong())?.split(',') {
                let word = word.trim();
                let found = if word.is_empty() || word.eq_ignore_ascii_case("identity") {
                    continue;
                } else if word.eq_ignore_ascii_case("gzip") || word.eq_ignore_ascii_case("x-gzip") {
                    Self::Gzip
                } else if word.eq_ignore_ascii_case("zstd") {
                    Self::Zstd
                } else {
                    return Err(wrong());
                };
                if coding.replace(found).is_some() {
                    return Err(wrong());
                }
            }
        }
        Ok(coding)
    }
}

/// What the request said, short enough to be said back.
fn all_codings(headers: &HeaderMap) -> String {
    let values: Vec<_> =
        headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ").chars().take(100).collect()
}

/// Refuses a body that is not said to be JSON. A page cannot say so without asking first, so what only programs send is
/// never sent by a browser that nobody asked.
///
/// # Errors
///
/// [`Refusal::WrongType`].
pub fn must_be_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let found = headers.get(CONTENT_TYPE).map_or("nothing", |value| value.to_str().unwrap_or_default());
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Refusal::WrongType { found: found.chars().take(100).collect() })
    }
}

/// Reads a whole body.
///
/// Units of `room` (one for each started KiB) are taken as bytes arrive, so that a slow sender holds only what it has
/// sent.
pub async fn read<B>(headers: &HeaderMap, body: B, limits: &BodyLimits, mut room: Held) -> Result<Received, Refusal>
where
    B: Body<Data = Bytes>,
{
    let coding = Coding::of(headers)?;
    let bytes = {
        // Pinned here, since the time limit would move it.
        let whole = pin!(collect(body, limits.bytes_max, &mut room));
        timeout(limits.read, whole).await.unwrap_or(Err(Refusal::BodyTimeout))?
    };
    match coding {
        Some(coding) if !bytes.is_empty() => decompress(coding, bytes, limits.bytes_max, room).await,
        Some(_) | None => Ok(received(room, bytes)),
    }
}

async fn collect<B>(body: B, bytes_max: usize, room: &mut Held) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
{
    let too_large = Refusal::TooLarge { limit_bytes: bytes_max };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(too_large);
    }
    let mut body = pin!(body);
    // Most bodies are one frame, and that frame is the answer: bytes are copied only from the second on.
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else {
            continue;
        };
        let before = first.len() + whole.len();
        if data.len() > bytes_max - before {
            return Err(too_large);
        }
        grow(room, before + data.len())?;
        if before == 0 {
            first = data;
            continue;
        }
        if whole.is_empty() {
            whole.reserve(announced.min(TRUSTED_BYTES).max(before + data.len()));
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

async fn decompress(
    coding: Coding,
    compressed: Bytes,
    bytes_max: usize,
    compressed_room: Held,
) -> Result<Received, Refusal> {
    if let Some(done) = inline(coding, &compressed, bytes_max, &compressed_room) {
        return done;
    }
    let work = move || {
        let mut room = compressed_room.another();
        let bytes = inflate(coding, &compressed, bytes_max, &mut room)?;
        // Only now: until here the compressed bytes are in memory too.
        drop(compressed_room);
        Ok(received(room, bytes.into()))
    };
    // A task that cannot be joined has panicked or the runtime is going away: neither is the sender's fault.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Refusal::Internal))
}

/// Decompresses what is small before and after; `None` for everything else, which few bytes may become.
fn inline(
    coding: Coding,
    compressed: &[u8],
    bytes_max: usize,
    compressed_room: &Held,
) -> Option<Result<Received, Refusal>> {
    if compressed.len() > INLINE_BYTES {
        return None;
    }
    let mut room = compressed_room.another();
    match inflate(coding, compressed, bytes_max.min(INLINE_BYTES), &mut room) {
        Ok(bytes) => Some(Ok(received(room, bytes.into()))),
        Err(Refusal::TooLarge { .. }) if bytes_max > INLINE_BYTES => None,
        Err(refusal) => Some(Err(refusal)),
    }
}

fn inflate(coding: Coding, compressed: &[u8], bytes_max: usize, room: &mut Held) -> Result<Vec<u8>, Refusal> {
    match coding {
        // Several members one after the other are one gzip file, and some senders write them.
        Coding::Gzip => unpack(coding, MultiGzDecoder::new(compressed), bytes_max, room),
        Coding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(compressed).map_err(|error| corrupt(coding, &error))?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| corrupt(coding, &error))?;
            unpack(coding, decoder, bytes_max, room)
        }
    }
}

/// Reads one byte more than allowed at most: that byte is the proof that the body is too large.
fn unpack(coding: Coding, mut decoder: impl Read, bytes_max: usize, room: &mut Held) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut filled = 0;
    loop {
        if filled == bytes.len() {
            bytes.resize(filled + STEP_BYTES.min(bytes_max.saturating_add(1) - filled), 0);
        }
        match decoder.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(corrupt(coding, &error)),
        }
        if filled > bytes_max {
            return Err(Refusal::TooLarge { limit_bytes: bytes_max });
        }
        grow(room, filled)?;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn corrupt(coding: Coding, error: &io::Error) -> Refusal {
    let message =
        if error.kind() == io::ErrorKind::UnexpectedEof { "it ends too early".to_owned() } else { error.to_string() };
    Refusal::BodyCorrupt { encoding: coding.name(), message }
}

#[cfg(test)]
mod tests {
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
        // A few bytes as sent, but there is no room for what they become.
        let small = gzip(&vec![b' '; 100 * 1024]);
        let refusal = given(&["gzip"], small, &in_flight).await.expect_err("refused");
        assert_eq!(refusal, Refusal::Overloaded);
        assert_eq!(in_flight.free(), 10);
        given(&[], noise(10 * 1024), &in_flight).await.expect("there is room for this");
    }

    /// A server that reads the body and says how long it was.
    async fn server(limits_of_body: BodyLimits, in_flight: &Arc<Budget>) -> Server {
        let in_flight = Arc::clone(in_flight);
        let handler = move |request: Request<crate::server::Incoming>, _| {
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
            // A reset at the end is as good as an end.
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
        let handler = move |request: Request<crate::server::Incoming>, _| {
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
}
