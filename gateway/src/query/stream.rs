//! Sends a whole result as lines, in constant memory. A task gets one page, hands it over when the client has read the
//! one before, and only then gets the next. While a client is slow, the task holds no database connection; it gives up
//! a client that reads nothing for a while. A stream that ends early has an error as its last line. If the task cannot
//! send that line, the connection breaks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::list::{Items, Listing};
use crate::request_ids::RequestIds;
use crate::response::{self, BodyError, Encoder, Encoding, Refusal, Response};
use crate::share::{Budget, Full, Held, Share};
use crate::store::{PageLimits, Store};
use crate::trust::StillKnown;
use crate::turns::Turns;

/// About how many bytes the task gets from the database at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Rows of the first piece. The size of each piece decides the rows of the next one.
const FIRST_ROWS: u32 = 100;
const ROWS_MAX: u32 = 1_000;
/// The pause before a page is requested again after all connections were in use.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Pieces that wait for the client.
const WAITING_MAX: usize = 1;

/// One request for a stream.
pub(super) struct StreamRequest {
    pub(super) listing: Listing,
    pub(super) encoding: Encoding,
    pub(super) now_us: i64,
    /// The ids of the request, for the last line of a stream that ends early and for the log.
    pub(super) ids: RequestIds,
    /// Checked before each page.
    pub(super) still_known: StillKnown,
}

/// What all reads share, and the reader's part in it.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) turns: &'a Arc<Turns>,
    pub(super) reads: &'a Arc<Share>,
    pub(super) streams: &'a Arc<Share>,
}

/// All streams of the gateway.
#[derive(Debug)]
pub struct Streams {
    room: Arc<Budget>,
    /// Each stream keeps the one with which it began.
    stall: ArcSwap<Duration>,
    tasks: TaskTracker,
    stop: CancellationToken,
    cut: Arc<AtomicU64>,
}

impl Streams {
    /// At most `streams_max` streams at once, of which one application alone may have `share_percent`. The task gives
    /// up a client that reads nothing for `stall`.
    pub fn new(streams_max: usize, share_percent: usize, stall: Duration) -> Self {
        Self {
            room: Budget::new(streams_max, share_percent),
            stall: ArcSwap::from_pointee(stall),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            cut: Arc::default(),
        }
    }

    /// Changes the bounds of streams that start from now on.
    pub fn change(&self, streams_max: usize, share_percent: usize, stall: Duration) {
        self.room.resize(streams_max, share_percent);
        self.stall.store(Arc::new(stall));
    }

    /// How many streams were given up because their client read nothing.
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// How many more streams may start now.
    pub fn room(&self) -> usize {
        self.room.free()
    }

    /// Ends all streams. Their last line says that the gateway drains.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Waits for the end of all streams, after [`Streams::stop`].
    pub async fn stopped(&self) {
        self.tasks.wait().await;
    }

    /// Starts a stream. It gets the first page before it answers, so that an error so far has its own status.
    pub(super) async fn start(
        &self,
        store: &Store,
        Shared { turns, reads, streams }: Shared<'_>,
        StreamRequest { listing, encoding, now_us, ids, still_known }: StreamRequest,
    ) -> Result<Response, Refusal> {
        if self.stop.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let mut room = Held::none(&self.room, streams);
        if !room.grow_to(1) {
            return Err(Refusal::ReadsFull { full: room.full() });
        }
        let limits = PageLimits { rows: FIRST_ROWS, bytes: PIECE_BYTES };
        let turn = turns.take(reads).await?;
        let first = listing.page(store, turn, listing.parameters.text("cursor"), limits, b'\n', now_us).await?;
        let encoder = Encoder::new(encoding).map_err(|_| Refusal::ReadsFull { full: Full::All })?;
        let (pieces, taken) = mpsc::channel(WAITING_MAX);
        let whole = Arc::new(AtomicBool::new(false));
        let id = ids.id;
        let stream = Stream {
            store: store.clone(),
            turns: Arc::clone(turns),
            reads: Arc::clone(reads),
            listing,
            encoder,
            pieces,
            whole: Arc::clone(&whole),
            stall: **self.stall.load(),
            cut: Arc::clone(&self.cut),
            now_us,
            ids,
            still_known,
            _room: room,
        };
        let stop = self.stop.clone();
        self.tasks.spawn(id.scope(stream.run(first, stop)));
        let body = futures_util::stream::unfold((taken, whole), next_piece);
        Ok(response::compressed(response::lines(body), encoding))
    }
}

type Taken = (Receiver<Bytes>, Arc<AtomicBool>);

/// The next piece for the client. If the task has ended before the stream was whole, the connection breaks.
async fn next_piece((mut pieces, whole): Taken) -> Option<(Result<Bytes, BodyError>, Taken)> {
    match pieces.recv().await {
        Some(piece) => Some((Ok(piece), (pieces, whole))),
        None if whole.swap(true, Ordering::Relaxed) => None,
        None => Some((Err("the client took nothing for too long".into()), (pieces, whole))),
    }
}

/// The ways in which a stream ends.
enum End {
    /// All rows were sent.
    Whole,
    /// An error, which becomes the last line.
    Early(Refusal),
    /// The client has gone, so no last line is sent.
    Gone,
}

/// One stream, which its task sends.
struct Stream {
    store: Store,
    /// Each page takes a turn.
    turns: Arc<Turns>,
    reads: Arc<Share>,
    listing: Listing,
    encoder: Encoder,
    pieces: Sender<Bytes>,
    /// Set when the client has the whole stream, even if its last line is an error. `next_piece` reads it.
    whole: Arc<AtomicBool>,
    stall: Duration,
    cut: Arc<AtomicU64>,
    now_us: i64,
    ids: RequestIds,
    still_known: StillKnown,
    _room: Held,
}

impl Stream {
    async fn run(mut self, first: Items, stop: CancellationToken) {
        let last = match self.send_all(first, stop).await {
            End::Whole => Vec::new(),
            End::Early(refusal) => {
                let mut line = b"{\"error\":".to_vec();
                line.extend_from_slice(&response::named_problem(&refusal, &self.ids));
                line.extend_from_slice(b"}\n");
                line
            }
            End::Gone => return,
        };
        let ended = self.encoder.piece(last).and_then(|mut last| {
            last.extend(self.encoder.finish()?);
            Ok(last)
        });
        if let Ok(last) = ended
            && (last.is_empty() || self.pieces.send_timeout(last.into(), self.stall).await.is_ok())
        {
            self.whole.store(true, Ordering::Relaxed);
        }
    }

    async fn send_all(&mut self, first: Items, stop: CancellationToken) -> End {
        let mut page = first;
        loop {
            let fit = u64::from(page.count) * PIECE_BYTES as u64 / page.bytes.len().max(1) as u64;
            let rows = u32::try_from(fit).unwrap_or(ROWS_MAX).clamp(1, ROWS_MAX);
            let limits = PageLimits { rows, bytes: PIECE_BYTES };
            if let Err(end) = self.send(page.bytes).await {
                return end;
            }
            let Some(next) = page.next else { return End::Whole };
            if !(self.still_known)() {
                return End::Early(Refusal::Unknown);
            }
            let got = tokio::select! {
                got = self.page(&next, limits) => got,
                () = self.pieces.closed() => return End::Gone,
                () = stop.cancelled() => return End::Early(Refusal::Draining),
            };
            page = match got {
                Ok(page) => page,
                Err(refusal) => return End::Early(refusal),
            };
        }
    }

    /// Gets the next page. While all connections are in use it retries for a while.
    async fn page(&self, next: &str, limits: PageLimits) -> Result<Items, Refusal> {
        let start = Instant::now();
        loop {
            let got = match self.turns.take(&self.reads).await {
                Ok(turn) => self.listing.page(&self.store, turn, Some(next), limits, b'\n', self.now_us).await,
                Err(full) => Err(full),
            };
            match got {
                Err(Refusal::ReadsFull { .. }) if start.elapsed() < self.stall => tokio::time::sleep(BUSY_PAUSE).await,
                got => return got,
            }
        }
    }

    async fn send(&mut self, lines: Vec<u8>) -> Result<(), End> {
        if lines.is_empty() {
            return Ok(());
        }
        let piece = self.encoder.piece(lines).map_err(|_| End::Early(Refusal::Internal))?;
        match self.pieces.send_timeout(piece.into(), self.stall).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(End::Gone),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                self.cut.fetch_add(1, Ordering::Relaxed);
                Err(End::Gone)
            }
        }
    }
}
