//! Queue, batches, receipts: turns the items of many requests into few writes and tells each request how its items
//! ended. It knows nothing of SQL or HTTP.
//!
//! A parcel is the items of one request. Parcels wait in one bounded queue. Each writer task owns a [`Sink`], takes
//! whole parcels up to the size of a batch, and writes them. An idle writer starts at once, so a lone item does not
//! wait; while another writer flushes, items gather until the batch is full, old enough, or that flush has ended.
//!
//! A batch that fails for a passing reason is tried again whole, for as long as somebody waits for one of its parcels.
//! A batch that is refused for its data is split in halves until the bad item stands alone; only that item is refused.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, warn};

use crate::figures::{DURATION_BOUNDS_US, Histogram, ITEM_BOUNDS};
use crate::share::{Held, Waiting};

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MOST: Duration = Duration::from_millis(500);

/// Where a writer task puts its batches. Each task owns one, and so its connection.
pub trait Sink: Send + 'static {
    /// What is written.
    type Item: Send + Sync + 'static;

    /// Writes all items or none. Gives one fate for each item, in order.
    ///
    /// A later call may bring the same items again: after a failure, the sink cannot know whether the batch is there.
    /// A sink must not write them twice, and must say [`Fate::Stored`] for those that its own former try has written.
    fn write(&mut self, items: &[&Self::Item]) -> impl Future<Output = Result<Vec<Fate>, Failure>> + Send;
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
}

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
}

/// How heavy an item is against [`Limits::bytes_max`].
pub trait Weigh {
    /// About the bytes it puts on the wire.
    fn bytes(&self) -> usize;
}

/// Bounds of the queue and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items in a batch. A parcel with more than that is a batch of its own.
    pub events_max: usize,
    /// Bytes in a batch. A parcel with more than that is a batch of its own.
    pub bytes_max: usize,
    /// How long a parcel waits for others while another writer is flushing.
    pub age: Duration,
    /// Parcels that may wait.
    pub parcels_max: usize,
}

/// A parcel that was not taken, with its items.
pub enum Refused<T> {
    /// As many parcels wait as may.
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
    /// Times that a batch was refused for its data and split in halves.
    pub splits: AtomicU64,
    /// Parcels that were not taken, because the queue was full.
    pub parcels_refused: AtomicU64,
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
            parcels_refused: AtomicU64::new(0),
        }
    }
}

/// The side on which requests hand in their parcels. Clones share one queue; when the last is dropped, it closes.
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
    /// Asks whether parcels wait, and how many.
    pub fn depth(&self) -> usize {
        self.0.0.lock().parcels.len()
    }

    /// How long the parcel that waits longest has waited; nothing when none waits.
    pub fn oldest(&self) -> Option<Duration> {
        self.0.0.lock().parcels.front().map(|parcel| parcel.since.elapsed())
    }

    /// What was done so far.
    pub fn figures(&self) -> &Figures {
        &self.0.0.figures
    }

    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        self.0.0.name
    }

    /// Takes no more parcels; those that wait are still written.
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
        let closing = Arc::clone(&shared);
        let writers = Writers { name, tasks, close: Box::new(move || closing.close()) };
        (Batcher(Arc::new(Handle(shared))), writers)
    }

    /// Hands in the items of one request. The receipt brings their fates, in order; a receipt that is dropped before
    /// the write starts takes the parcel back. The room is held until the parcel is done; it also says whose parcel it
    /// is, and nobody may fill the queue alone.
    ///
    /// Whoever needs the items once more, hands in an `Arc` and keeps another.
    pub fn submit(
        &self,
        items: impl Into<Arc<Vec<T>>>,
        room: Option<Held>,
    ) -> Result<oneshot::Receiver<Vec<Fate>>, Refused<T>> {
        let (receipt, answer) = oneshot::channel();
        self.put(items.into(), room, Some(receipt))?;
        Ok(answer)
    }

    /// Hands in items for which nobody waits; they are written all the same.
    pub fn submit_unanswered(&self, items: Vec<T>, room: Option<Held>) -> Result<(), Refused<T>> {
        self.put(Arc::new(items), room, None)
    }

    fn put(
        &self,
        items: Arc<Vec<T>>,
        room: Option<Held>,
        receipt: Option<oneshot::Sender<Vec<Fate>>>,
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
                    let _ = receipt.send(Vec::new());
                }
                return Ok(());
            }
            let parcels_max = shared.limits.parcels_max;
            if !queue.has_place(room.as_ref(), parcels_max) {
                queue.drop_abandoned();
                if !queue.has_place(room.as_ref(), parcels_max) {
                    shared.figures.parcels_refused.fetch_add(1, Relaxed);
                    return Err(Refused::Full(items));
                }
            }
            let waiting = room.as_ref().map(Held::wait);
            let was_full = queue.is_full(&shared.limits);
            queue.push(Parcel { items, bytes, receipt, since, waiting, _room: room });
            let becomes_full = !was_full && queue.is_full(&shared.limits);
            // While a writer flushes, another one has something to do only at the first parcel, for whose age it waits,
            // and at the one that fills a batch. A writer that ends its flush looks by itself.
            if queue.flushing > 0 && queue.parcels.len() > 1 && !becomes_full {
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
}

impl Writers {
    /// Closes the queue, writes what waits, and joins the tasks. What is not written within the limit is given up:
    /// its receipts say so by being closed.
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
            warn!(batcher = name, "the last batches were given up, the drain limit has passed");
            self.tasks.shutdown().await;
        }
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Writers").field("name", &self.name).field("tasks", &self.tasks.len()).finish()
    }
}

/// The items of one request.
struct Parcel<T> {
    items: Arc<Vec<T>>,
    bytes: usize,
    receipt: Option<oneshot::Sender<Vec<Fate>>>,
    since: Instant,
    /// Its place in the queue, counted for whose it is; given up when it leaves the queue.
    waiting: Option<Waiting>,
    /// Released with the parcel: the bytes are then no longer in flight.
    _room: Option<Held>,
}

impl<T> Parcel<T> {
    /// Nobody waits for it any more, so writing it would only make a retry a duplicate.
    fn abandoned(&self) -> bool {
        self.receipt.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

struct Queue<T> {
    parcels: VecDeque<Parcel<T>>,
    items: usize,
    bytes: usize,
    flushing: usize,
    closed: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { parcels: VecDeque::new(), items: 0, bytes: 0, flushing: 0, closed: false }
    }
}

impl<T> Queue<T> {
    fn push(&mut self, parcel: Parcel<T>) {
        self.items += parcel.items.len();
        self.bytes += parcel.bytes;
        self.parcels.push_back(parcel);
    }

    fn pop(&mut self) -> Option<Parcel<T>> {
        let mut parcel = self.parcels.pop_front()?;
        parcel.waiting = None;
        self.items -= parcel.items.len();
        self.bytes -= parcel.bytes;
        Some(parcel)
    }

    /// Whether what waits makes a batch that needs no more.
    fn is_full(&self, limits: &Limits) -> bool {
        self.items >= limits.events_max || self.bytes >= limits.bytes_max
    }

    fn has_place(&self, room: Option<&Held>, parcels_max: usize) -> bool {
        let waiting = self.parcels.len();
        waiting < parcels_max && room.is_none_or(|room| room.may_wait(waiting, parcels_max))
    }

    /// Only when there is no place: it looks at every parcel.
    fn drop_abandoned(&mut self) {
        self.parcels.retain(|parcel| !parcel.abandoned());
        self.items = self.parcels.iter().map(|parcel| parcel.items.len()).sum();
        self.bytes = self.parcels.iter().map(|parcel| parcel.bytes).sum();
    }

    /// Takes the oldest parcels that make a batch together; at least one, if any is wanted.
    fn take(&mut self, limits: &Limits) -> Vec<Parcel<T>> {
        let mut batch = Vec::new();
        let (mut items, mut bytes) = (0, 0);
        while let Some(next) = self.parcels.front() {
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

    /// Waits for the next batch; `None` when the queue is closed and empty.
    async fn next(&self) -> Option<(Vec<Parcel<T>>, Flushing<'_, T>)> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look at the queue, so that a change in between is not missed.
            changed.as_mut().enable();
            let due = match self.look() {
                Look::Batch(batch, more) => {
                    if more {
                        self.changed.notify_one();
                    }
                    return Some((batch, Flushing(self)));
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
        let Some(oldest) = queue.parcels.front() else {
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
        Look::Batch(batch, !queue.parcels.is_empty())
    }
}

enum Look<T> {
    /// A batch, and whether more waits behind it.
    Batch(Vec<Parcel<T>>, bool),
    Wait(Option<Instant>),
    End,
}

/// A flush under way; ends with the guard, also when the sink panics.
struct Flushing<'a, T>(&'a Shared<T>);

impl<T> Drop for Flushing<'_, T> {
    fn drop(&mut self) {
        self.0.lock().flushing -= 1;
    }
}

async fn run<S: Sink>(shared: Arc<Shared<S::Item>>, mut sink: S) {
    while let Some((batch, flushing)) = shared.next().await {
        let began = Instant::now();
        let flush = Flush::new(shared.name, batch, &shared.figures);
        shared.figures.batch_items.record(flush.places.len() as u64);
        flush.run(&mut sink).await;
        shared.figures.flush_us.record_time(began.elapsed());
        // Only now: whoever looks next, which is this task, sees that the flush has ended.
        drop(flushing);
    }
    debug!(batcher = shared.name, "writer ended");
}

/// One batch on its way into the sink.
struct Flush<'a, T> {
    name: &'static str,
    figures: &'a Figures,
    parcels: Vec<Open<T>>,
    /// Each item: its parcel and its place there.
    places: Vec<(usize, usize)>,
}

/// A parcel whose receipt has not been given yet.
struct Open<T> {
    /// Dropped with its room as soon as it is answered; its neighbors may still take long.
    parcel: Option<Parcel<T>>,
    /// Those that are known; empty before the first is.
    fates: Vec<Option<Fate>>,
    missing: usize,
}

impl<'a, T: Send + Sync + 'static> Flush<'a, T> {
    fn new(name: &'static str, batch: Vec<Parcel<T>>, figures: &'a Figures) -> Self {
        let mut places = Vec::new();
        let mut parcels = Vec::with_capacity(batch.len());
        for (index, parcel) in batch.into_iter().enumerate() {
            let missing = parcel.items.len();
            places.extend((0..missing).map(|item| (index, item)));
            parcels.push(Open { parcel: Some(parcel), fates: Vec::new(), missing });
        }
        Flush { name, figures, parcels, places }
    }

    /// Ends when every item has its fate or nobody waits for it.
    async fn run<S: Sink<Item = T>>(mut self, sink: &mut S) {
        let mut todo: Vec<Range<usize>> = Vec::new();
        todo.push(0..self.places.len());
        let mut pause = RETRY_FIRST;
        while let Some(range) = todo.pop() {
            self.drop_abandoned();
            let wanted: Vec<usize> = range.clone().filter(|&place| self.item(place).is_some()).collect();
            let items: Vec<&T> = wanted.iter().filter_map(|&place| self.item(place)).collect();
            if items.is_empty() {
                continue;
            }
            let began = Instant::now();
            let result = sink.write(&items).await;
            match result {
                Ok(fates) => {
                    self.figures.commit_us.record_time(began.elapsed());
                    if fates.len() != wanted.len() {
                        // A receipt that never comes is better than one that may be wrong.
                        error!(batcher = self.name, "the sink gave {} fates for {} items", fates.len(), wanted.len());
                        continue;
                    }
                    pause = RETRY_FIRST;
                    let stored = fates.iter().filter(|fate| **fate == Fate::Stored).count();
                    self.figures.stored.fetch_add(stored as u64, Relaxed);
                    if wanted.len() == self.places.len() {
                        return self.settle_all(fates);
                    }
                    for (place, fate) in wanted.into_iter().zip(fates) {
                        self.settle(place, fate);
                    }
                }
                Err(Failure::Transient(cause)) => {
                    self.figures.retries.fetch_add(1, Relaxed);
                    warn!(batcher = self.name, items = wanted.len(), cause, "a write failed and will be tried again");
                    sleep(jitter(pause)).await;
                    pause = (pause * 2).min(RETRY_MOST);
                    todo.push(range);
                }
                Err(Failure::Data { code, message }) => {
                    if let [place] = wanted[..] {
                        self.settle(place, Fate::Refused { code, message });
                    } else {
                        self.figures.splits.fetch_add(1, Relaxed);
                        // The middle of what was tried, so that the halves shrink also where items were left out.
                        let middle = wanted[wanted.len() / 2];
                        todo.push(middle..range.end);
                        todo.push(range.start..middle);
                    }
                }
            }
        }
    }

    /// The item, unless its parcel is answered or abandoned.
    fn item(&self, place: usize) -> Option<&T> {
        let (parcel, item) = self.places[place];
        self.parcels[parcel].parcel.as_ref().map(|parcel| &parcel.items[item])
    }

    fn drop_abandoned(&mut self) {
        for open in &mut self.parcels {
            if open.parcel.as_ref().is_some_and(Parcel::abandoned) {
                open.parcel = None;
            }
        }
    }

    /// Gives every receipt: the whole batch was written at once, as most are.
    fn settle_all(self, fates: Vec<Fate>) {
        let mut fates = fates.into_iter();
        for open in self.parcels {
            let own: Vec<Fate> = fates.by_ref().take(open.missing).collect();
            if let Some(receipt) = open.parcel.and_then(|mut parcel| parcel.receipt.take()) {
                // Whoever asked may have given up meanwhile; the items are written all the same.
                let _ = receipt.send(own);
            }
        }
    }

    /// Notes the fate of an item, and gives the receipt if it was the parcel's last.
    fn settle(&mut self, place: usize, fate: Fate) {
        let (parcel, item) = self.places[place];
        let open = &mut self.parcels[parcel];
        if open.fates.is_empty() {
            open.fates.resize(open.missing, None);
        }
        debug_assert!(open.fates[item].is_none(), "one fate for one item");
        open.fates[item] = Some(fate);
        open.missing -= 1;
        if open.missing > 0 {
            return;
        }
        if let Some(receipt) = open.parcel.take().and_then(|mut parcel| parcel.receipt.take()) {
            // Whoever asked may have given up meanwhile; the items are written all the same.
            let _ = receipt.send(mem::take(&mut open.fates).into_iter().flatten().collect());
        }
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
