//! Tracks a connection and its deadlines: running requests, parts of answers that wait for the peer, and heads that
//! arrive in several pieces. It only answers; `connection.rs` acts on it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::{StatusCode, Version};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep};

use super::ServerLimits;
use super::closing::Closing;
use super::frames::FAREWELL_BYTES;

/// Bytes of a body in one frame, unless the peer allows larger ones.
const PIECE_BYTES: usize = 16 * 1024;

/// The state of a connection, shared by its task and its requests.
#[derive(Debug)]
pub(super) struct Activity {
    closing: Closing,
    state: Mutex<ActivityState>,
    /// A request has begun or ended since the last check for a head.
    ran: AtomicBool,
    /// Pieces of answers over HTTP/2 so far. They allow the peer more frames.
    pieces: AtomicU64,
    /// Set when the peer's frames end the connection: the GOAWAY frame for it, if one can be sent.
    farewell: OnceLock<Option<[u8; FAREWELL_BYTES]>>,
}

#[derive(Debug)]
struct ActivityState {
    running: usize,
    /// The parts of answers that wait for the peer. Free places are reused.
    unsent: Vec<Option<UnsentAnswers>>,
    /// The requests, until their answers are written. Places are reused.
    exchanges: Vec<Exchange>,
    /// The free places in `exchanges`.
    free: Vec<usize>,
    /// The newest exchange, until its task is known.
    newest: Option<usize>,
    served: bool,
    /// Several requests share the connection, so its bytes are more than heads and bodies.
    multiplexed: bool,
    refused: bool,
    since: Instant,
}

/// Clears a flag and returns whether it was set. It usually is not, and then this only reads it.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Relaxed) && flag.swap(false, Relaxed)
}

/// A part of an answer that waits for the peer.
#[derive(Clone, Copy, Debug)]
struct UnsentAnswers {
    since: Instant,
    exchange: usize,
}

/// A request, until the last piece of its answer is written.
#[derive(Debug, Default)]
struct Exchange {
    /// The running parts: the request, and each piece of its answer.
    running: usize,
    /// The pieces of the answer that are not written yet.
    pieces: usize,
    /// The task of its HTTP/2 stream. An abort resets the stream.
    task: Option<AbortHandle>,
    /// When the stream was reset. Its pieces must be written within the same time again.
    reset: Option<Instant>,
    /// Waits for the last piece to be written.
    waiting: Option<Waker>,
}

impl Activity {
    pub(super) fn new(closing: Closing) -> Self {
        let state = ActivityState {
            running: 0,
            unsent: Vec::new(),
            exchanges: Vec::new(),
            free: Vec::new(),
            newest: None,
            served: false,
            multiplexed: false,
            refused: false,
            since: Instant::now(),
        };
        let (pieces, farewell) = Default::default();
        Self { closing, state: Mutex::new(state), ran: AtomicBool::new(false), pieces, farewell }
    }

    fn with<T>(&self, work: impl FnOnce(&mut ActivityState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request has arrived on the connection.
    pub(super) fn served(&self) -> bool {
        self.with(|state| state.served)
    }

    /// Whether it carries several requests at once.
    pub(super) fn is_multiplexed(&self) -> bool {
        self.with(|state| state.multiplexed)
    }

    /// Whether the last answer was a refusal.
    pub(super) fn refused(&self) -> bool {
        self.with(|state| state.refused)
    }

    /// Whether a request is running or a piece of an answer is unwritten.
    pub(super) fn runs(&self) -> bool {
        self.with(|state| state.running) > 0
    }

    /// The number of pieces of answers so far. Each allows the peer some frames.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// Records that the peer's frames end the connection, with these last bytes.
    pub(super) fn flooded(&self, farewell: Option<[u8; FAREWELL_BYTES]>) {
        // The first call decides.
        let _ = self.farewell.set(farewell);
    }

    /// The last bytes for a peer whose frames ended the connection. They may be empty.
    pub(super) fn farewell(&self) -> Option<&[u8]> {
        self.farewell.get().map(|bytes| bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]))
    }

    /// Records the task of the newest request's stream.
    pub(super) fn follow(&self, task: AbortHandle) {
        self.with(|state| {
            if let Some(newest) = state.newest.take() {
                state.exchanges[newest].task = Some(task);
            }
        });
    }

    /// Ends when a head is not complete in time. The time starts with its first byte. Only a head that arrives in
    /// several pieces needs a timer. The first head of a connection has the time from its start. A head that arrived
    /// behind the request before it, in the same bytes, has the time of an idle connection (see `deadline`).
    pub(super) fn poll_head(
        &self,
        heard: &AtomicBool,
        mut head: Pin<&mut Option<Sleep>>,
        limits: &ServerLimits,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // Taken at each poll: bytes that arrived with a request are no head.
        let (heard, ran) = (take(heard), take(&self.ran));
        if heard || head.is_some() {
            let begun = self.with(|state| {
                let begun = !ran && state.served && !state.multiplexed && state.running == 0;
                if begun && head.is_none() {
                    // The head gets its own time, even if it arrived just before the connection was idle for too long.
                    state.since = Instant::now();
                }
                begun
            });
            if begun != head.is_some() {
                head.set(begun.then(|| sleep(limits.header_read)));
            }
        }
        head.as_pin_mut().map_or(Poll::Pending, |head| head.poll(cx))
    }

    /// When the peer will have been idle for too long, or have left the oldest part of an answer for too long, if
    /// nothing happens until then.
    pub(super) fn deadline(&self, limits: &ServerLimits) -> Instant {
        self.with(|state| {
            let since = |unsent: &UnsentAnswers| state.exchanges[unsent.exchange].reset.unwrap_or(unsent.since);
            if let Some(oldest) = state.unsent.iter().flatten().map(since).min() {
                oldest + limits.write
            } else if state.running > 0 {
                Instant::now() + limits.idle
            } else if state.served {
                state.since + limits.idle
            } else {
                state.since + limits.header_read
            }
        })
    }

    /// Resets the streams of which the peer has left a part for too long. A part without a stream, as over HTTP/1, ends
    /// the connection instead.
    pub(super) fn reset_stalled(&self, now: Instant, limits: &ServerLimits) {
        self.with(|state| {
            let ActivityState { unsent, exchanges, .. } = state;
            for stalled in unsent.iter().flatten().filter(|unsent| unsent.since + limits.write <= now) {
                let exchange = &mut exchanges[stalled.exchange];
                if let Some(task) = exchange.task.take() {
                    task.abort();
                    exchange.reset = Some(now);
                }
            }
        });
    }

    /// When to check the deadline. An answer may bring it nearer meanwhile.
    pub(super) fn look_at(&self, limits: &ServerLimits) -> Instant {
        self.deadline(limits).min(Instant::now() + limits.write)
    }
}

/// A running part of a connection: a request until the body of its answer ends, or a piece of an answer until it is
/// written.
pub(super) struct Running {
    activity: Arc<Activity>,
    exchange: usize,
    /// It is a piece of an answer.
    piece: bool,
    /// Its place among the unsent parts.
    unsent: Option<usize>,
}

impl Running {
    pub(super) fn new(activity: &Arc<Activity>, version: Version) -> Self {
        activity.ran.store(true, Relaxed);
        let exchange = activity.with(|state| {
            state.running += 1;
            state.served = true;
            state.multiplexed = version == Version::HTTP_2;
            let exchange = state.free.pop().unwrap_or(state.exchanges.len());
            if exchange == state.exchanges.len() {
                state.exchanges.push(Exchange::default());
            }
            state.exchanges[exchange].running = 1;
            state.newest = Some(exchange);
            exchange
        });
        Self { activity: Arc::clone(activity), exchange, piece: false, unsent: None }
    }

    /// Starts tracking a piece of its answer.
    pub(super) fn piece(&self) -> Self {
        let Self { activity, exchange, .. } = self;
        let mut unsent = None;
        activity.with(|state| {
            state.running += 1;
            state.exchanges[*exchange].running += 1;
            state.exchanges[*exchange].pieces += 1;
            state.note(*exchange, &mut unsent, true);
        });
        Self { activity: Arc::clone(activity), exchange: *exchange, piece: true, unsent }
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| {
            state.refused = status.is_client_error() || status.is_server_error();
            state.note(*exchange, unsent, true);
        });
    }

    /// Whether the gateway is about to stop, so that this answer must be the last one of its connection.
    pub(super) fn is_leaving(&self) -> bool {
        self.activity.closing.is_leaving()
    }

    /// Records that hyper took this many bytes of its answer.
    pub(super) fn sent(&self, bytes: usize) {
        let pieces = 1 + bytes / PIECE_BYTES;
        self.activity.pieces.fetch_add(u64::try_from(pieces).unwrap_or(u64::MAX), Relaxed);
    }

    /// Records whether the peer has something to read from now on.
    pub(super) fn waits_for_peer(&mut self, waits: bool) {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| state.note(*exchange, unsent, waits));
    }

    /// Whether every piece of its answer is written. Until then only the pieces wait for the peer, and the last one
    /// wakes the caller.
    pub(super) fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| {
            if state.exchanges[*exchange].pieces == 0 {
                return Poll::Ready(());
            }
            state.note(*exchange, unsent, false);
            state.exchanges[*exchange].waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl ActivityState {
    /// Records in `place` whether the peer has a part of this exchange to read from now on.
    fn note(&mut self, exchange: usize, place: &mut Option<usize>, waits: bool) {
        self.since = Instant::now();
        let part = UnsentAnswers { since: self.since, exchange };
        match (*place, waits) {
            (Some(taken), true) => self.unsent[taken] = Some(part),
            (Some(taken), false) => {
                self.unsent[taken] = None;
                *place = None;
            }
            (None, true) => {
                let free = self.unsent.iter().position(Option::is_none).unwrap_or(self.unsent.len());
                if free == self.unsent.len() {
                    self.unsent.push(None);
                }
                self.unsent[free] = Some(part);
                *place = Some(free);
            }
            (None, false) => {}
        }
    }

    /// Ends a running part of an exchange. Returns the waker that waited for it.
    fn leave(&mut self, place: usize, piece: bool) -> Option<Waker> {
        let exchange = &mut self.exchanges[place];
        exchange.running -= 1;
        exchange.pieces -= usize::from(piece);
        if exchange.running == 0 {
            *exchange = Exchange::default();
            self.free.push(place);
            // It may end before its task is known.
            self.newest.take_if(|newest| *newest == place);
            return None;
        }
        if exchange.pieces == 0 { exchange.waiting.take() } else { None }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Self { activity, exchange, piece, unsent } = self;
        activity.ran.store(true, Relaxed);
        let waiting = activity.with(|state| {
            state.running -= 1;
            state.note(*exchange, unsent, false);
            state.leave(*exchange, *piece)
        });
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}
