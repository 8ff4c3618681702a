//! What a connection is doing, and until when it may: its requests, what of their answers waits for the peer, and a head that
//! does not come in one piece. It decides nothing and ends nothing; `connection.rs` asks it and does.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::{StatusCode, Version};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep};

use super::ServerLimits;
use super::frames::FAREWELL_BYTES;

/// What of a body goes into one frame, unless the peer wants larger ones.
const PIECE_BYTES: usize = 16 * 1024;

/// What a connection is doing, for its idle deadline.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    /// A request has begun or ended since the last look for a head.
    ran: AtomicBool,
    /// Pieces of answers that were handed on, over HTTP/2.
    pieces: AtomicU64,
    /// What the peer is told that sent too many frames, if it can be told.
    farewell: OnceLock<Option<[u8; FAREWELL_BYTES]>>,
}

#[derive(Debug)]
struct ActivityState {
    running: usize,
    /// Each part of an answer that waits for the peer to take it; the places of those that were taken are used again.
    unsent: Vec<Option<UnsentAnswers>>,
    /// Each request with what is left of its answer; places are used again.
    exchanges: Vec<Exchange>,
    /// Places of exchanges that are over.
    free: Vec<usize>,
    /// The exchange that began last, until its task is known.
    newest: Option<usize>,
    served: bool,
    /// It carries several requests at once, so that what comes is more than their heads and bodies.
    multiplexed: bool,
    refused: bool,
    since: Instant,
}

/// Whether a flag was set; clears it. Most often it was not, which costs no more than reading it.
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
    /// What of it runs: the request, and each piece of its answer.
    running: usize,
    /// Pieces of its answer that are on their way.
    pieces: usize,
    /// The task of its stream, over HTTP/2. The stream is reset when it ends early.
    task: Option<AbortHandle>,
    /// When its stream was reset: the connection has as long again to be rid of its pieces.
    reset: Option<Instant>,
    /// Who waits for the last piece to be written.
    waiting: Option<Waker>,
}

impl Activity {
    pub(super) fn new() -> Self {
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
        Self { state: Mutex::new(state), ran: AtomicBool::new(false), pieces, farewell }
    }

    fn with<T>(&self, work: impl FnOnce(&mut ActivityState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a request has come on it.
    pub(super) fn served(&self) -> bool {
        self.with(|state| state.served)
    }

    /// Whether the last answer was a refusal.
    pub(super) fn refused(&self) -> bool {
        self.with(|state| state.refused)
    }

    /// Whether a request is not over, or a piece of an answer not written.
    pub(super) fn runs(&self) -> bool {
        self.with(|state| state.running) > 0
    }

    /// Pieces of answers that the peer was sent so far, for each of which it may have something to say.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.load(Relaxed)
    }

    /// The connection ends for the peer's frames, with these bytes as the last ones.
    pub(super) fn flooded(&self, farewell: Option<[u8; FAREWELL_BYTES]>) {
        // The first reason stays.
        let _ = self.farewell.set(farewell);
    }

    /// What the peer is still to be told, if its frames ended the connection: it may be nothing.
    pub(super) fn farewell(&self) -> Option<&[u8]> {
        self.farewell.get().map(|bytes| bytes.as_ref().map_or(&[][..], |bytes| &bytes[..]))
    }

    /// Notes the task of the stream of the request that began last.
    pub(super) fn follow(&self, task: AbortHandle) {
        self.with(|state| {
            if let Some(newest) = state.newest.take() {
                state.exchanges[newest].task = Some(task);
            }
        });
    }

    /// Ends when a head has not come whole in its time. That begins with its first byte, and takes a timer only for the few
    /// heads that do not come in one piece. The first head of a connection has the time from its start; one of which all that
    /// came stands behind the request before it, in the same bytes, has that of an idle connection (see `deadline`).
    pub(super) fn poll_head(
        &self,
        heard: &AtomicBool,
        mut head: Pin<&mut Option<Sleep>>,
        limits: &ServerLimits,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // At each look, whether or not anything came: what a request brought with it is no head.
        let (heard, ran) = (take(heard), take(&self.ran));
        if heard || head.is_some() {
            let begun = self.with(|state| {
                let begun = !ran && state.served && !state.multiplexed && state.running == 0;
                if begun && head.is_none() {
                    // It has its own time, even if it came just before the connection was idle for too long.
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

    /// When the peer will have been idle for too long, or will have left the oldest part of an answer for too long, if
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

    /// Ends the streams of which the peer has left a part for too long, and only those. What has no stream of its own, as
    /// over HTTP/1, is left to end the connection.
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

    /// When to look at the deadline, which an answer may bring nearer meanwhile.
    pub(super) fn look_at(&self, limits: &ServerLimits) -> Instant {
        self.deadline(limits).min(Instant::now() + limits.write)
    }
}

/// What runs on a connection: a request from its head to the end of its answer's body, or a piece of an answer until it
/// is written.
pub(super) struct Running {
    activity: Arc<Activity>,
    exchange: usize,
    /// It is a piece of an answer.
    piece: bool,
    /// Its place among what is not sent yet.
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

    /// A piece of its answer that is on its way from now on.
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

    /// Notes that so many bytes of its answer were handed on.
    pub(super) fn sent(&self, bytes: usize) {
        let pieces = 1 + bytes / PIECE_BYTES;
        self.activity.pieces.fetch_add(u64::try_from(pieces).unwrap_or(u64::MAX), Relaxed);
    }

    /// Notes whether the peer has something to take, from now on.
    pub(super) fn waits_for_peer(&mut self, waits: bool) {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| state.note(*exchange, unsent, waits));
    }

    /// Whether every piece of its answer is written. Until then the pieces alone wait for the peer, and the last of them
    /// wakes who asked.
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
    /// Notes in `place` whether the peer has something to take of an exchange, from now on.
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

    /// Something of an exchange runs no more; gives who waits for that.
    fn leave(&mut self, place: usize, piece: bool) -> Option<Waker> {
        let exchange = &mut self.exchanges[place];
        exchange.running -= 1;
        exchange.pieces -= usize::from(piece);
        if exchange.running == 0 {
            *exchange = Exchange::default();
            self.free.push(place);
            // It may be over before its task is known.
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
