//! Reads the whole body of a request, with bounds for its bytes, its time and, over all requests, its memory.

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

/// Bytes of one unit of the in-flight budget. A body takes at least one, since keeping it has a cost of its own.
pub const PERMIT_BYTES: usize = 1024;

/// Largest body, compressed and decompressed, that its own thread decompresses. A larger one would delay the other requests
/// of the thread by milliseconds.
const INLINE_BYTES: usize = 64 * 1024;

/// Largest zstd window, as a power of two: 8 MiB, enough for every level up to 19. Without this bound, a few bytes of header
/// make the decompressor allocate gigabytes.
const WINDOW_LOG_MAX: u32 = 23;

/// Bytes that are decompressed between two checks of the bounds.
const STEP_BYTES: usize = 64 * 1024;

/// Most bytes that are allocated only because a `Content-Length` announces them.
const TRUSTED_BYTES: usize = 256 * 1024;

/// Bounds of a body. Each read takes them from its handler.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes, as sent and after decompression.
    pub bytes_max: usize,
    /// Longest time until the whole body has arrived.
    pub read: Duration,
}

/// A whole body, decompressed.
#[derive(Debug)]
pub struct Received {
    /// The bytes.
    pub bytes: Bytes,
    /// The room of the bytes in the in-flight budget. The handler holds it as long as the bytes. `None` for an empty body.
    pub room: Option<Held>,
}

/// Takes room for a body that grows. It never waits: a full gateway rejects the request at once.
fn grow(room: &mut Held, bytes: usize) -> Result<(), Refusal> {
    if room.grow_to(bytes.div_ceil(PERMIT_BYTES)) { Ok(()) } else { Err(Refusal::Overloaded) }
}

/// The byte order mark of UTF-8. Some editors and systems put it before every text, and JSON does not allow it.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Drops the byte order mark, and the room of an empty body.
fn received(room: Held, mut bytes: Bytes) -> Received {
    if bytes.starts_with(BYTE_ORDER_MARK) {
        bytes.advance(BYTE_ORDER_MARK.len());
    }
    Received { bytes, room: (room.units() > 0).then_some(room) }
}

/// The codings of a body that the gateway reads.
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

    /// Returns the coding of a body. Several are rejected: they multiply the ratio of a compression bomb, and no honest sender
    /// needs them.
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

/// The codings of a request, cut to fit into an answer.
fn all_codings(headers: &HeaderMap) -> String {
    let values: Vec<_> =
        headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ").chars().take(100).collect()
}

/// Rejects a request without the content type of JSON. A page of another site cannot send that type without a preflight, so
/// a browser never sends such a request on its behalf.
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
/// It takes units of `room`, one for each started KiB, as the bytes arrive, so that a slow sender holds room only for the
/// bytes that it has sent.
pub async fn read<B>(headers: &HeaderMap, body: B, limits: &BodyLimits, mut room: Held) -> Result<Received, Refusal>
where
    B: Body<Data = Bytes>,
{
    let coding = Coding::of(headers)?;
    let bytes = {
        // Pinned here, since `timeout` would move it.
        let whole = pin!(collect(body, limits.bytes_max, &mut room));
        timeout(limits.read, whole).await.unwrap_or(Err(Refusal::BodyTimeout))?
    };
    match coding {
        Some(coding) if !bytes.is_empty() => decompress(coding, bytes, limits.bytes_max, room).await,
        Some(_) | None => Ok(received(room, bytes)),
    }
}

/// Collects the frames of a body.
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
    // Most bodies are one frame, which is returned as it is. Bytes are copied only from the second frame on.
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

/// Decompresses a body on its own thread if it is small, and otherwise on a blocking one.
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
        // Dropped here, since the compressed bytes were in memory until now.
        drop(compressed_room);
        Ok(received(room, bytes.into()))
    };
    // A task that cannot be joined has panicked, or the runtime ends. Neither is the sender's fault.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Refusal::Internal))
}

/// Decompresses a body that is small before and after. Returns `None` for others, since few bytes may become many.
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

/// Decompresses a body.
fn inflate(coding: Coding, compressed: &[u8], bytes_max: usize, room: &mut Held) -> Result<Vec<u8>, Refusal> {
    match coding {
        // A gzip file may have several members, and some senders write such files.
        Coding::Gzip => unpack(coding, MultiGzDecoder::new(compressed), bytes_max, room),
        Coding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(compressed).map_err(|error| corrupt(coding, &error))?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(|error| corrupt(coding, &error))?;
            unpack(coding, decoder, bytes_max, room)
        }
    }
}

/// Reads a decoder to its end. It reads one byte more than allowed at most, which proves that the body is too large.
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

/// The refusal of a body that does not decompress.
fn corrupt(coding: Coding, error: &io::Error) -> Refusal {
    let message =
        if error.kind() == io::ErrorKind::UnexpectedEof { "it ends too early".to_owned() } else { error.to_string() };
    Refusal::BodyCorrupt { encoding: coding.name(), message }
}

#[cfg(test)]
mod tests;
