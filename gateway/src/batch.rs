//! Queue, batches, receipts: turns the items of many requests into few writes and tells each request how its items
//! ended. It knows nothing of SQL or HTTP.
//!
//! A submission is the items of one request. Submissions wait in one bounded queue. Each writer task owns a [`Sink`], takes
//! whole submissions up to the size of a batch, and writes them. An idle writer starts at once, so a lone item does not
//! wait; while another writer flushes, items gather until the batch is full, old enough, or that flush has ended.
//!
//! A batch that fails for a passing reason is tried again whole, for as long as somebody waits for one of its submissions.
//! A batch that is refused for its data is split in halves until the bad item stands alone; only that item is refused. So is
//! one that the sink refuses twice in the same words for a reason of its own: the items that it refuses alone get no fate but to
//! be sent again, and all others are written.
//!
//! When more comes than can be written, submissions are refused as soon as the oldest one has waited for a part of its time.
//! A queue that only filled up would hand each submission to its writer when its sender is about to give up, and nearly all
//! work would be for nobody.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eye_event::figures::{DURATION_BOUNDS_US, Histogram, ITEM_BOUNDS};
use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, warn};

use crate::share::{Held, Waiting};

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_millis(500);
/// Items of a batch that the sink refuses alone for a reason of its own, one after the other, after which it is taken to refuse
/// the rest as well: it is not to be asked a thousand times.
const NOT_NOW_MOST: usize = 8;
/// So many batches one after the other that were refused whole are no chance, and told as an error.
const REFUSED_RUN: u64 = 3;
/// How often a full queue is searched for submissions that nobody waits for any more. Each search looks at all of them, under
/// the lock that the writers need.
const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// Where a writer task puts its batches. Each task owns one, and so its connection.
pub trait Sink: Send + 'static {
    /// What is written.
    type Item: Send + Sync + 'static;

    /// Prepares for the first batch, which waits for it.
    fn begin(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Writes all items or none. Gives one fate for each item, in order.
    ///
    /// A later call may bring the same items again: after a failure, the sink cannot know whether the batch is there.
    /// A sink must not write them twice, and must say [`Fate::Stored`] for those that its own former try has written.
    fn write(&mut self, items: &[&Self::Item]) -> impl Future<Output = Result<Vec<Fate>, Failure>> + Send;

    /// The batch is over, however it ended: none of its items comes again, and nobody waits for it any more. What the sink
    /// has to do for itself belongs here; the next batch of this writer waits for it, and that of no other.
    fn batch_ended(&mut self) -> impl Future<Output = ()> + Send;
}

/// How one item ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there, and was not before.
    Stored,
    /// It was there already.
    Duplicate,
    /// The sink cannot hold it. Sinks never say this; it is found by writing the item alone.
    Refused {
        /// The SQLSTATE or a like code.
        code: String,
        /// What the sink said.
        message: String,
    },
    /// The sink refuses it for a reason that may be the sink's own: it is not written, and may be later. Found like `Refused`.
    NotNow,
}

/// What a receipt brings: the fates of a submission, which most often is one item.
pub type Fates = SmallVec<[Fate; 1]>;

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may go well later; nothing is wrong with the items.
    Transient(String),
    /// At least one item is at fault; trying the same items again is of no use.
    Data {
        /// The SQLSTATE or a like code.
        code: String,
        /// What the sink said.
        message: String,
    },
    /// The sink has refused these items in order, and not for what they are, as far as it can tell. Perhaps it refuses only
    /// some of them.
    Refusal {
        /// The SQLSTATE or a like code.
        code: String,
        /// What the sink said.
        message: String,
    },
}

/// How heavy an item is against [`Limits::bytes_max`].
pub trait Weigh {
    /// About the bytes it puts on the wire.
    fn bytes(&self) -> usize;
}

/// Bounds of the queue and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items in a batch. A submission with more than that is a batch of its own.
    pub events_max: usize,
    /// Bytes in a batch. A submission with more than that is a batch of its own.
    pub bytes_max: usize,
    /// How long a submission waits for others while another writer is flushing.
    pub age: Duration,
    /// Submissions that may wait.
    pub submissions_max: usize,
    /// How long a submission may wait while others are written. Once one has waited longer, no more are taken of whoever fills
    /// the queue, and after twice that time of nobody who has any there; but for those that nobody waits for.
    pub wait: Duration,
}

/// A submission that was not taken, with its items.
pub enum Refused<T> {
    /// As many submissions wait as may, or one has waited for too long.
    Full(Arc<Vec<T>>),
    /// The batcher is closed.
    Closed(Arc<Vec<T>>),
}

impl<T> fmt::Debug for Refused<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, items) = match self {
            Refused::Full(items) => ("Full", items),
            Refused::Closed(items) => ("Closed", items),
        };
        write!(formatter, "{word}({} items)", items.len())
    }
}

/// What a batcher has done so far.
#[derive(Debug)]
pub struct Figures {
    /// Items of each batch.
    pub batch_items: Histogram,
    /// From taking a batch to the fate of its last item, tries and pauses included, in microseconds.
    pub flush_us: Histogram,
    /// Each write that the sink has committed, in microseconds.
    pub commit_us: Histogram,
    /// Items that are written and were not there before.
    pub stored: AtomicU64,
    /// Writes that failed for a passing reason and were tried again.
    pub retries: AtomicU64,
    /// Times that a batch was refused and split in halves.
    pub splits: AtomicU64,
    /// Batches of which every item was refused for its data, and how many of them came one after the other up to now.
    pub refused_whole: AtomicU64,
    refused_run: AtomicU64,
    /// Items that the sink refused for a reason of its own.
    pub not_now: AtomicU64,
    /// Submissions that were not taken, because the queue was full or slow.
    pub submissions_refused: AtomicU64,
    /// Items that nobody waits for and that are not known to be written, which no receipt says: the sink cannot hold them, a
    /// panic ended their batch, or they were given up at the drain limit.
    pub lost_unheard: AtomicU64,
    /// Batches that a panic ended. Their submissions got no receipt.
    pub broken: AtomicU64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            batch_items: Histogram::new(ITEM_BOUNDS),
            flush_us: Histogram::new(DURATION_BOUNDS_US),
            commit_us: Histogram::new(DURATION_BOUNDS_US),
            stored: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            splits: AtomicU64::new(0),
            refused_whole: AtomicU64::new(0),
            refused_run: AtomicU64::new(0),
            not_now: AtomicU64::new(0),
            submissions_refused: AtomicU64::new(0),
            lost_unheard: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }
}

/// The side on which requests hand in their submissions. Clones share one queue; when the last is dropped, it closes.
pub struct Batcher<T>(Arc<Handle<T>>);

/// Closes the queue when the last [`Batcher`] is gone; the writers hold the queue itself.
struct Handle<T>(Arc<Shared<T>>);

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        Batcher(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Batcher<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Batcher").field("name", &self.0.0.name).field("depth", &self.depth()).finish()
    }
}

impl<T> Batcher<T> {
    /// Asks whether submissions wait, and how many.
    pub fn depth(&self) -> usize {
        self.0.0.lock().submissions.len()
    }

    /// How long the submission that waits longest has waited; nothing when none waits.
    pub fn oldest(&self) -> Option<Duration> {
        self.0.0.lock().submissions.front().map(|submission| submission.since.elapsed())
    }

    /// What was done so far.
    pub fn figures(&self) -> &Figures {
        &self.0.0.figures
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        self.0.0.name
    }

    /// Takes no more submissions; those that wait are still written.
    pub fn close(&self) {
        self.0.0.close();
    }
}

impl<T: Weigh + Send + Sync + 'static> Batcher<T> {
    /// Starts one writer task for each sink.
    pub fn start<S: Sink<Item = T>>(name: &'static str, limits: Limits, sinks: Vec<S>) -> (Batcher<T>, Writers) {
        let queue = Mutex::new(Queue::default());
        let shared = Arc::new(Shared { name, limits, queue, changed: Notify::new(), figures: Figures::default() });
        let mut tasks = JoinSet::new();
        for sink in sinks {
            tasks.spawn(run(Arc::clone(&shared), sink));
        }
        let (closing, giving_up) = (Arc::clone(&shared), Arc::clone(&shared));
        let writers = Writers {
            name,
            tasks,
            close: Box::new(move || closing.close()),
            give_up: Box::new(move || giving_up.give_up()),
        };
        (Batcher(Arc::new(Handle(shared))), writers)
    }

    /// Hands in the items of one request. The receipt brings their fates, in order; a receipt that is dropped before
    /// the write starts takes the submission back. The room is held until the submission is done; it also says whose submission it
    /// is, and nobody may fill the queue alone.
    ///
    /// Whoever needs the items once more, hands in an `Arc` and keeps another.
    pub fn submit(
        &self,
        items: impl Into<Arc<Vec<T>>>,
        room: Option<Arc<Held>>,
    ) -> Result<oneshot::Receiver<Fates>, Refused<T>> {
        let (receipt, answer) = oneshot::channel();
        self.put(items.into(), room, Some(receipt), true)?;
        Ok(answer)
    }

    /// Hands in more items of a request of which some were taken: what was begun is not refused for being late.
    pub fn submit_rest(
        &self,
        items: Arc<Vec<T>>,
        room: Option<Arc<Held>>,
    ) -> Result<oneshot::Receiver<Fates>, Refused<T>> {
        let (receipt, answer) = oneshot::channel();
        self.put(items, room, Some(receipt), false)?;
        Ok(answer)
    }

    /// Hands in items for which nobody waits; they are written all the same.
    pub fn submit_unanswered(&self, items: Vec<T>, room: Option<Arc<Held>>) -> Result<(), Refused<T>> {
        self.put(Arc::new(items), room, None, false)
    }

    fn put(
        &self,
        items: Arc<Vec<T>>,
        room: Option<Arc<Held>>,
        receipt: Option<oneshot::Sender<Fates>>,
        in_time: bool,
    ) -> Result<(), Refused<T>> {
        let shared = &self.0.0;
        let bytes = items.iter().map(Weigh::bytes).sum();
        let since = Instant::now();
        {
            let mut queue = shared.lock();
            if queue.closed {
                return Err(Refused::Closed(items));
            }
            if items.is_empty() {
                if let Some(receipt) = receipt {
                    // Nobody may be listening any more, which is all the same for no fates.
                    let _ = receipt.send(Fates::new());
                }
                return Ok(());
            }
            let slow = in_time && queue.is_slow(room.as_deref(), shared.limits.wait, since);
            if slow || !queue.make_place(room.as_deref(), shared.limits.submissions_max, since) {
                shared.figures.submissions_refused.fetch_add(1, Relaxed);
                return Err(Refused::Full(items));
            }
            let waiting = room.as_deref().map(Held::wait);
            let (taken_before, was_full) = (queue.taken, queue.is_full(&shared.limits));
            queue.push(Submission { items, bytes, receipt, since, taken_before, waiting, _room: room });
            let becomes_full = !was_full && queue.is_full(&shared.limits);
            // While a writer flushes, another one has something to do only at the first submission, for whose age it waits,
            // and at the one that fills a batch. A writer that ends its flush looks by itself.
            if queue.flushing > 0 && queue.submissions.len() > 1 && !becomes_full {
                return Ok(());
            }
        }
        shared.changed.notify_one();
        Ok(())
    }
}

/// The writer tasks. Dropping this ends them at once; [`Writers::drain`] lets them finish.
pub struct Writers {
    name: &'static str,
    tasks: JoinSet<()>,
    close: Box<dyn Fn() + Send + Sync>,
    /// Empties the queue once nobody writes any more.
    give_up: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Writers {
    /// Closes the queue, writes what waits, and joins the tasks. What is not written within the limit is given up:
    /// its receipts say so by being closed, and what has none is counted.
    pub async fn drain(mut self, limit: Duration) {
        (self.close)();
        let name = self.name;
        let tasks = &mut self.tasks;
        let joined = timeout(limit, async {
            while let Some(result) = tasks.join_next().await {
                if let Err(cause) = result {
                    error!(batcher = name, %cause, "a writer broke");
                }
            }
        });
        if joined.await.is_err() {
            self.tasks.shutdown().await;
            let lost_unheard = (self.give_up)();
            warn!(batcher = name, lost_unheard, "the last batches were given up, the drain limit has passed");
        }
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writers").field("name", &self.name).field("tasks", &self.tasks.len()).finish()
    }
}

/// The items of one request.
struct Submission<T> {
    items: Arc<Vec<T>>,
    bytes: usize,
    receipt: Option<oneshot::Sender<Fates>>,
    since: Instant,
    /// What the queue counted as taken when it came.
    taken_before: u64,
    /// Its place in the queue, counted for whose it is; given up when it leaves the queue.
    waiting: Option<Waiting>,
    /// Held with the submission, and perhaps with others of its request: until the last is gone, the bytes are in flight.
    _room: Option<Arc<Held>>,
}

impl<T> Submission<T> {
    /// Nobody waits for it any more, so writing it would only make a retry a duplicate.
    fn abandoned(&self) -> bool {
        self.receipt.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

struct Queue<T> {
    submissions: VecDeque<Submission<T>>,
    items: usize,
    bytes: usize,
    flushing: usize,
    /// Submissions of the batches that are being written.
    writing: usize,
    /// Submissions that were ever taken for writing.
    taken: u64,
    closed: bool,
    /// When a batch was last written.
    written: Option<Instant>,
    /// When the queue was last searched for what nobody waits for.
    swept: Option<Instant>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let (submissions, items, bytes) = (VecDeque::new(), 0, 0);
        Queue {
            submissions,
            items,
            bytes,
            flushing: 0,
            writing: 0,
            taken: 0,
            closed: false,
            written: None,
            swept: None,
        }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, submission: Submission<T>) {
        self.items += submission.items.len();
        self.bytes += submission.bytes;
        self.submissions.push_back(submission);
    }

    fn pop(&mut self) -> Option<Submission<T>> {
        let mut submission = self.submissions.pop_front()?;
        submission.waiting = None;
        self.items -= submission.items.len();
        self.bytes -= submission.bytes;
        Some(submission)
    }

    /// Whether what waits makes a batch that needs no more.
    fn is_full(&self, limits: &Limits) -> bool {
        self.items >= limits.events_max || self.bytes >= limits.bytes_max
    }

    fn has_place(&self, room: Option<&Held>, submissions_max: usize) -> bool {
        let waiting = self.submissions.len();
        waiting < submissions_max && room.is_none_or(|room| room.may_wait(waiting, submissions_max))
    }

    /// The same; if there is none, looks for submissions that have been given up first, but not each time.
    fn make_place(&mut self, room: Option<&Held>, submissions_max: usize, now: Instant) -> bool {
        if self.has_place(room, submissions_max) {
            return true;
        }
        if self.swept.is_some_and(|swept| now < swept + SWEEP_EVERY) {
            return false;
        }
        self.swept = Some(now);
        self.submissions.retain(|submission| !submission.abandoned());
        self.items = self.submissions.iter().map(|submission| submission.items.len()).sum();
        self.bytes = self.submissions.iter().map(|submission| submission.bytes).sum();
        self.has_place(room, submissions_max)
    }

    /// Whether more comes than can be written: somebody has waited for longer than `wait` although batches are written, and
    /// so would whoever comes now. While none is written, the sink is away and may be back at once, so that waiting is
    /// worth it. Up to twice that wait it is not slow for an application that has no more than half of what waits and is
    /// written, and never for one that has nothing waiting: they do not pay for the one that fills the queue.
    fn is_slow(&mut self, room: Option<&Held>, wait: Duration, now: Instant) -> bool {
        while self.submissions.front().is_some_and(Submission::abandoned) {
            self.pop();
        }
        let Some(oldest) = self.submissions.front() else { return false };
        let age = |since: Instant| now.saturating_duration_since(since);
        let waited = age(oldest.since);
        if waited <= wait || self.written.is_none_or(|written| age(written) > wait) {
            return false;
        }
        // As many were before the oldest one when it came as were taken since.
        let before = (self.taken - oldest.taken_before).max(1);
        let expected = waited.mul_f64(self.submissions.len() as f64 / before as f64);
        let all = self.submissions.len() + self.writing;
        let own = room.map_or(all, Held::waiting);
        expected > wait && own > 0 && (own * 2 > all || expected > wait * 2)
    }

    /// Takes the oldest submissions that make a batch together; at least one, if any is wanted.
    fn take(&mut self, limits: &Limits) -> Vec<Submission<T>> {
        let mut batch = Vec::with_capacity(self.submissions.len().min(limits.events_max));
        let (mut items, mut bytes) = (0, 0);
        while let Some(next) = self.submissions.front() {
            if next.abandoned() {
                self.pop();
                continue;
            }
            items += next.items.len();
            bytes += next.bytes;
            if !batch.is_empty() && (items > limits.events_max || bytes > limits.bytes_max) {
                break;
            }
            batch.extend(self.pop());
        }
        batch
    }
}

struct Shared<T> {
    name: &'static str,
    limits: Limits,
    queue: Mutex<Queue<T>>,
    /// The queue has something new, or is closed.
    changed: Notify,
    figures: Figures,
}

impl<T> Shared<T> {
    /// Nothing that runs under the lock can leave the queue half changed, so a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Lets go of what still waits, since nobody is left to write it, and gives how many items were ever lost unheard.
    fn give_up(&self) -> u64 {
        let mut queue = self.lock();
        let mut lost = 0;
        while let Some(submission) = queue.pop() {
            lost += if submission.receipt.is_none() { submission.items.len() as u64 } else { 0 };
        }
        self.figures.lost_unheard.fetch_add(lost, Relaxed) + lost
    }

    /// Waits for the next batch; `None` when the queue is closed and empty.
    async fn next(&self) -> Option<(Vec<Submission<T>>, Flushing<'_, T>)> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look at the queue, so that a change in between is not missed.
            changed.as_mut().enable();
            let due = match self.look() {
                Look::Batch(batch, more) => {
                    if more {
                        self.changed.notify_one();
                    }
                    let flushing = Flushing { shared: self, submissions: batch.len(), written: false };
                    return Some((batch, flushing));
                }
                Look::End => return None,
                Look::Wait(due) => due,
            };
            match due {
                Some(due) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    fn look(&self) -> Look<T> {
        let mut queue = self.lock();
        let Some(oldest) = queue.submissions.front() else {
            return if queue.closed { Look::End } else { Look::Wait(None) };
        };
        let due = oldest.since + self.limits.age;
        if queue.flushing > 0 && !queue.is_full(&self.limits) && !queue.closed && Instant::now() < due {
            return Look::Wait(Some(due));
        }
        let batch = queue.take(&self.limits);
        if batch.is_empty() {
            // All were abandoned.
            return if queue.closed { Look::End } else { Look::Wait(None) };
        }
        queue.flushing += 1;
        queue.writing += batch.len();
        queue.taken += batch.len() as u64;
        Look::Batch(batch, !queue.submissions.is_empty())
    }
}

enum Look<T> {
    /// A batch, and whether more waits behind it.
    Batch(Vec<Submission<T>>, bool),
    Wait(Option<Instant>),
    End,
}

/// A flush under way; ends with the guard, also when the task does.
struct Flushing<'a, T> {
    shared: &'a Shared<T>,
    submissions: usize,
    /// Whether anything of it was written.
    written: bool,
}

impl<T> Drop for Flushing<'_, T> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.flushing -= 1;
        queue.writing -= self.submissions;
        if self.written {
            queue.written = Some(Instant::now());
        }
    }
}

async fn run<S: Sink>(shared: Arc<Shared<S::Item>>, mut sink: S) {
    sink.begin().await;
    while let Some((batch, mut flushing)) = shared.next().await {
        let began = Instant::now();
        let flush = Flush::new(shared.name, batch, &shared.figures);
        shared.figures.batch_items.record(flush.places.len() as u64);
        // What a panic leaves of the batch goes, and its receipts with it: those who wait learn that nobody knows. The sink
        // is as it is after a write that was given up at any point.
        let broken = |_| {
            shared.figures.broken.fetch_add(1, Relaxed);
            error!(batcher = shared.name, "a batch broke off, which is a fault of the gateway; the writer goes on");
        };
        match AssertUnwindSafe(flush.run(&mut sink)).catch_unwind().await {
            Ok(written) => flushing.written = written,
            Err(panic) => broken(panic),
        }
        shared.figures.flush_us.record_time(began.elapsed());
        // The flush ends before `batch_ended`: no sender waits for that. This writer looks at the queue afterwards, and another
        // writer looks at once.
        drop(flushing);
        let mut ended = pin!(AssertUnwindSafe(sink.batch_ended()).catch_unwind());
        match ended.as_mut().now_or_never() {
            Some(result) => result.unwrap_or_else(broken),
            None => {
                if !shared.lock().submissions.is_empty() {
                    shared.changed.notify_one();
                }
                ended.await.unwrap_or_else(broken);
            }
        }
    }
    debug!(batcher = shared.name, "writer ended");
}

/// One batch on its way into the sink.
struct Flush<'a, T> {
    name: &'static str,
    figures: &'a Figures,
    submissions: Vec<Open<T>>,
    /// Each item: its submission and its place there.
    places: Vec<(usize, usize)>,
}

/// What is left of a batch.
struct Todo {
    ranges: Vec<Range<usize>>,
    /// Before the next try.
    pause: Duration,
    /// The code of the refusal that was told last, and not for data: the same once more is no chance.
    refused_with: Option<String>,
    /// Items that were refused alone since something was written, and not for data.
    refused_alone: usize,
    refused_for_data: usize,
    /// The log has a word of what was refused: one for a batch.
    told: bool,
}

impl Todo {
    fn new(count: usize) -> Self {
        let ranges = std::iter::once(0..count).collect();
        Self { ranges, pause: RETRY_FIRST, refused_with: None, refused_alone: 0, refused_for_data: 0, told: false }
    }

    fn next(&mut self) -> Option<Range<usize>> {
        self.ranges.pop()
    }
}

/// A submission whose receipt has not been given yet.
struct Open<T> {
    /// Dropped with its room as soon as it is answered; its neighbors may still take long.
    submission: Option<Submission<T>>,
    /// Those that are known; empty before the first is.
    fates: Vec<Option<Fate>>,
    missing: usize,
}

impl<'a, T: Send + Sync + 'static> Flush<'a, T> {
    fn new(name: &'static str, batch: Vec<Submission<T>>, figures: &'a Figures) -> Self {
        let mut places = Vec::with_capacity(batch.iter().map(|submission| submission.items.len()).sum());
        let mut submissions = Vec::with_capacity(batch.len());
        for (index, submission) in batch.into_iter().enumerate() {
            let missing = submission.items.len();
            places.extend((0..missing).map(|item| (index, item)));
            submissions.push(Open { submission: Some(submission), fates: Vec::new(), missing });
        }
        Flush { name, figures, submissions, places }
    }

    /// Ends when every item has its fate or nobody waits for it. Says whether anything was written.
    async fn run<S: Sink<Item = T>>(mut self, sink: &mut S) -> bool {
        let mut written = false;
        let mut todo = Todo::new(self.places.len());
        while let Some(range) = todo.next() {
            self.drop_abandoned();
            let (mut wanted, mut items) = (Vec::with_capacity(range.len()), Vec::with_capacity(range.len()));
            for (place, item) in range.clone().filter_map(|place| Some((place, self.item(place)?))) {
                wanted.push(place);
                items.push(item);
            }
            if items.is_empty() {
                continue;
            }
            if todo.refused_alone >= NOT_NOW_MOST {
                self.not_now(&wanted);
                continue;
            }
            let began = Instant::now();
            match sink.write(&items).await {
                Ok(fates) => {
                    (written, todo.refused_alone) = (true, 0);
                    self.figures.commit_us.record_time(began.elapsed());
                    if fates.len() != wanted.len() {
                        // A receipt that never comes is better than one that may be wrong.
                        error!(batcher = self.name, "the sink gave {} fates for {} items", fates.len(), wanted.len());
                        continue;
                    }
                    todo.pause = RETRY_FIRST;
                    let stored = fates.iter().filter(|fate| **fate == Fate::Stored).count();
                    self.figures.stored.fetch_add(stored as u64, Relaxed);
                    if wanted.len() == self.places.len() {
                        self.settle_all(fates);
                        return true;
                    }
                    for (place, fate) in wanted.into_iter().zip(fates) {
                        self.settle(place, fate);
                    }
                }
                Err(failure) => self.failed(failure, range, wanted, &mut todo).await,
            }
        }
        self.note_run(written, &todo);
        written
    }

    /// What comes of a write that failed: another try, two halves, or the fate of the one item that it was.
    async fn failed(&mut self, failure: Failure, range: Range<usize>, wanted: Vec<usize>, todo: &mut Todo) {
        match failure {
            Failure::Transient(cause) => {
                // What lasts is told by who knows what the sink stands on.
                debug!(batcher = self.name, items = wanted.len(), cause, "a write failed and will be tried again");
                self.again(range, todo).await;
            }
            Failure::Data { code, message } => match wanted[..] {
                [place] => {
                    todo.refused_for_data += 1;
                    self.settle(place, Fate::Refused { code, message });
                }
                _ => self.split(range, &wanted, todo),
            },
            Failure::Refusal { code, message } => {
                // Once in other words, or for the first time: it may be of the moment.
                if todo.refused_with.as_ref() != Some(&code) {
                    todo.refused_with = Some(code.clone());
                    let items = wanted.len();
                    warn!(batcher = self.name, items, code, message, "a write was refused and will be tried again");
                    return self.again(range, todo).await;
                }
                match wanted[..] {
                    [_] => {
                        todo.refused_alone += 1;
                        if !mem::replace(&mut todo.told, true) {
                            error!(batcher = self.name, code, message, "items are refused, and are to be sent again");
                        }
                        self.not_now(&wanted);
                    }
                    _ => self.split(range, &wanted, todo),
                }
            }
        }
    }

    async fn again(&self, range: Range<usize>, todo: &mut Todo) {
        self.figures.retries.fetch_add(1, Relaxed);
        sleep(jitter(todo.pause)).await;
        todo.pause = (todo.pause * 2).min(RETRY_MOST);
        todo.ranges.push(range);
    }

    fn split(&self, range: Range<usize>, wanted: &[usize], todo: &mut Todo) {
        self.figures.splits.fetch_add(1, Relaxed);
        // The middle of what was tried, so that the halves shrink also where items were left out.
        let middle = wanted[wanted.len() / 2];
        todo.ranges.push(middle..range.end);
        todo.ranges.push(range.start..middle);
    }

    fn not_now(&mut self, places: &[usize]) {
        self.figures.not_now.fetch_add(places.len() as u64, Relaxed);
        for &place in places {
            self.settle(place, Fate::NotNow);
        }
    }

    /// Tells of batches that are refused whole for their data one after the other: then it is hardly the data.
    fn note_run(&self, written: bool, todo: &Todo) {
        if todo.refused_for_data == 0 || written || todo.refused_alone > 0 {
            if written {
                self.figures.refused_run.store(0, Relaxed);
            }
            return;
        }
        self.figures.refused_whole.fetch_add(1, Relaxed);
        let run = self.figures.refused_run.fetch_add(1, Relaxed) + 1;
        // The third, and then ever more rarely.
        if run >= REFUSED_RUN && (run / REFUSED_RUN).is_power_of_two() && run.is_multiple_of(REFUSED_RUN) {
            error!(
                batcher = self.name,
                batches = run,
                "each item of all these batches was refused for its data; look for a trigger or a constraint"
            );
        }
    }

    /// The item, unless its submission is answered or abandoned.
    fn item(&self, place: usize) -> Option<&T> {
        let (submission, item) = self.places[place];
        self.submissions[submission].submission.as_ref().map(|submission| &submission.items[item])
    }

    fn drop_abandoned(&mut self) {
        for open in &mut self.submissions {
            if open.submission.as_ref().is_some_and(Submission::abandoned) {
                open.submission = None;
            }
        }
    }

    /// Gives every receipt: the whole batch was written at once, as most are.
    fn settle_all(mut self, fates: Vec<Fate>) {
        let mut fates = fates.into_iter();
        for open in mem::take(&mut self.submissions) {
            let own: Fates = fates.by_ref().take(open.missing).collect();
            if let Some(receipt) = open.submission.and_then(|mut submission| submission.receipt.take()) {
                // Whoever asked may have given up meanwhile; the items are written all the same.
                let _ = receipt.send(own);
            }
        }
    }

    /// Notes the fate of an item, and gives the receipt if it was the submission's last.
    fn settle(&mut self, place: usize, fate: Fate) {
        let (submission, item) = self.places[place];
        let open = &mut self.submissions[submission];
        if open.fates.is_empty() {
            open.fates.resize(open.missing, None);
        }
        debug_assert!(open.fates[item].is_none(), "one fate for one item");
        let unheard = open.submission.as_ref().is_some_and(|submission| submission.receipt.is_none());
        if unheard && matches!(fate, Fate::Refused { .. } | Fate::NotNow) {
            self.figures.lost_unheard.fetch_add(1, Relaxed);
        }
        open.fates[item] = Some(fate);
        open.missing -= 1;
        if open.missing > 0 {
            return;
        }
        if let Some(receipt) = open.submission.take().and_then(|mut submission| submission.receipt.take()) {
            // Whoever asked may have given up meanwhile; the items are written all the same.
            let _ = receipt.send(mem::take(&mut open.fates).into_iter().flatten().collect());
        }
    }
}

impl<T> Drop for Flush<'_, T> {
    /// What has no fate now gets none: a panic ended the batch, its writer was ended, or the sink lost count. Receipts say so
    /// by being closed; what nobody waits for is counted.
    fn drop(&mut self) {
        let unheard = |open: &&Open<T>| open.submission.as_ref().is_some_and(|submission| submission.receipt.is_none());
        let lost: usize = self.submissions.iter().filter(unheard).map(|open| open.missing).sum();
        self.figures.lost_unheard.fetch_add(lost as u64, Relaxed);
    }
}

/// Between half of the pause and all of it, so that writers that failed together do not come back together. The
/// standard library's hash keys are the one source of chance that costs no dependency.
fn jitter(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    pause / 2 + pause.mul_f64(chance as f64 / 2048.0)
}

#[cfg(test)]
mod tests;
