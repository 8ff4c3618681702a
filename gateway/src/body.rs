//! The body of a request, whole: bounded in bytes, in time and, over all requests, in memory.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_ENCODING;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::response::Refusal;

/// How many bytes one permit of the in-flight semaphore stands for. Permits are counted in `u32`: by the byte, a budget
/// of more than 4 GiB could not be expressed.
const PERMIT_BYTES: usize = 1024;

/// Compressed bodies up to this size are decompressed where they are; a larger one would hold up the other requests of
/// its thread for milliseconds.
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
    pub permit: Option<OwnedSemaphorePermit>,
}

/// Permits for a body that grows. It never waits: a gateway that is full says so at once.
#[derive(Debug)]
struct Reservation {
    in_flight: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Reservation {
    fn new(in_flight: &Arc<Semaphore>) -> Self {
        Self { in_flight: Arc::clone(in_flight), permit: None }
    }

    fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let held = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(PERMIT_BYTES).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| Refusal::Overloaded)?;
        let more = Arc::clone(&self.in_flight).try_acquire_many_owned(more).map_err(|_| Refusal::Overloaded)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    fn received(self, bytes: Bytes) -> Received {
        Received { bytes, permit: self.permit }
    }
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

/// Reads a whole body.
///
/// Permits of `in_flight` (one for each started KiB) are taken as bytes arrive, so that a slow sender holds only what it
/// has sent.
pub async fn read<B>(
    headers: &HeaderMap,
    body: B,
    limits: &BodyLimits,
    in_flight: &Arc<Semaphore>,
) -> Result<Received, Refusal>
where
    B: Body<Data = Bytes>,
{
    let coding = Coding::of(headers)?;
    let mut reservation = Reservation::new(in_flight);
    let whole = collect(body, limits.bytes_max, &mut reservation);
    let bytes = match timeout(limits.read, whole).await {
        Ok(bytes) => bytes?,
        Err(_) => return Err(Refusal::BodyTimeout),
    };
    match coding {
        Some(coding) if !bytes.is_empty() => decompress(coding, bytes, limits.bytes_max, reservation).await,
        Some(_) | None => Ok(reservation.received(bytes)),
    }
}

async fn collect<B>(body: B, bytes_max: usize, reservation: &mut Reservation) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes>,
{
    let too_large = Refusal::TooLarge { limit_bytes: bytes_max };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(too_large);
    }
    let mut body = std::pin::pin!(body);
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
        reservation.grow_to(before + data.len())?;
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
    reservation: Reservation,
) -> Result<Received, Refusal> {
    let size = compressed.len();
    let work = move || {
        let mut room = Reservation::new(&reservation.in_flight);
        let bytes = inflate(coding, &compressed, bytes_max, &mut room)?;
        // Only now: until here the compressed bytes are in memory too.
        drop(reservation);
        Ok(room.received(bytes.into()))
    };
    if size <= INLINE_BYTES {
        return work();
    }
    // A task that cannot be joined has panicked or the runtime is going away: neither is the sender's fault.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Refusal::Internal))
}

fn inflate(coding: Coding, compressed: &[u8], bytes_max: usize, room: &mut Reservation) -> Result<Vec<u8>, Refusal> {
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
fn unpack(
    coding: Coding,
    mut decoder: impl Read,
    bytes_max: usize,
    room: &mut Reservation,
) -> Result<Vec<u8>, Refusal> {
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
        room.grow_to(filled)?;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn corrupt(coding: Coding, error: &io::Error) -> Refusal {
    let message =
        if error.kind() == io::ErrorKind::UnexpectedEof { "it ends too early".to_owned() } else { error.to_string() };
    Refusal::BodyCorrupt { encoding: coding.name(), message }
}
