//! Queue, batches, receipts: turns the items of many requests into few writes and returns to each request the fates of its
//! items. It knows nothing of SQL or HTTP. This file is what others use: a [`Batcher`] takes submissions, a [`Sink`] writes
//! batches. Below it, `queue.rs` holds what waits and `flush.rs` writes it.
//!
//! A submission is the items of one request. Submissions wait in one bounded queue. Each writer task owns a [`Sink`], takes
//! whole submissions up to the size of a batch, and writes them. An idle writer starts at once, so a lone item does not
//! wait. While another writer flushes, items gather until the batch is full, old enough, or that flush has ended.
//!
//! A writer retries a batch that fails for a passing reason, as long as a request waits for one of its submissions. It
//! splits a batch that the sink rejects for its data in halves until the bad item stands alone; only that item is refused.
//! It splits likewise if the sink rejects a batch twice in the same words for a reason of its own: items that the sink
//! rejects alone get the fate to be sent again, and all others are written.
//!
//! When more comes than the sink can write, the queue rejects submissions as soon as its oldest one has waited for a part
//! of its time. A queue that only filled up would pass each submission to its writer when the sender is about to give up,
//! and nearly all writes would come too late.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eye_event::figures::{DURATION_BOUNDS_US, Histogram, ITEM_BOUNDS};
use smallvec::SmallVec;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};

use self::flush::run;
use self::queue::{Queue, Shared, Submission};
use crate::share::Held;

mod flush;
mod queue;

/// The place to which a writer task writes its batches. Each task owns one, and so its connection.
pub trait Sink: Send + 'static {
    /// The type of the items that the sink writes.
    type Item: Send + Sync + 'static;

    /// Prepares for the first batch, which waits for it. The writer calls it once.
    fn begin(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Writes all items or none. Returns one fate for each item, in order.
    ///
    /// A later call may bring the same items again: after a failure, the sink cannot know whether the batch was written.
    /// A sink must not write them twice, and must return [`Fate::Stored`] for those that its own former try has written.
    fn write(&mut self, items: &[&Self::Item]) -> impl Future<Output = Result<Vec<Fate>, Failure>> + Send;

    /// Ends the batch, whatever became of it: none of its items comes again, and no request waits for it any more. A sink
    /// does its own upkeep here. The next batch of this writer waits for that, those of other writers do not.
    fn batch_ended(&mut self) -> impl Future<Output = ()> + Send;
}

/// The fate of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The sink wrote it.
    Stored,
    /// It had been written before.
    Duplicate,
    /// The sink cannot hold it. Sinks never return this; a writer finds it by writing the item alone.
    Refused {
        /// The SQLSTATE or a like code.
        code: String,
        /// The message of the sink.
        message: String,
    },
    /// The sink rejected it for a reason that may be the sink's own: it is not written now, and may be later. A writer finds it
    /// like `Refused`.
    NotNow,
}

/// Content of a receipt: the fates of a submission, which most often is one item.
pub type Fates = SmallVec<[Fate; 1]>;

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A retry may succeed; the items are sound.
    Transient(String),
    /// At least one item is at fault; a retry with the same items would fail again.
    Data {
        /// The SQLSTATE or a like code.
        code: String,
        /// The message of the sink.
        message: String,
    },
    /// The sink rejected these items for a reason that does not lie in them, as far as it can tell. Perhaps it rejects only
    /// some of them.
    Refusal {
        /// The SQLSTATE or a like code.
        code: String,
        /// The message of the sink.
        message: String,
    },
}

/// The weight of an item against [`Limits::bytes_max`].
pub trait Weigh {
    /// About the bytes that it takes on the wire.
    fn bytes(&self) -> usize;
}

/// Bounds of the queue and of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most items of a batch. A larger submission is a batch of its own.
    pub events_max: usize,
    /// Most bytes of a batch. A larger submission is a batch of its own.
    pub bytes_max: usize,
    /// Longest wait of a submission for others while another writer flushes.
    pub age: Duration,
    /// Most submissions that may wait.
    pub submissions_max: usize,
    /// Longest wait of a submission while others are written. Once one has waited longer, the queue rejects further ones of the
    /// application that fills it, and after twice that time those of each application that has any waiting. Submissions
    /// without a receipt are exempt.
    pub wait: Duration,
}

/// A submission that the queue rejected, with its items.
pub enum Refused<T> {
    /// The queue is full, or its oldest submission has waited for too long.
    Full(Arc<Vec<T>>),
    /// The queue is closed.
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

/// Counters of a batcher. Each scrape of the metrics reads them.
#[derive(Debug)]
pub struct Figures {
    /// Number of items of each batch.
    pub batch_items: Histogram,
    /// From taking a batch to the fate of its last item, retries and pauses included, in microseconds.
    pub flush_us: Histogram,
    /// Duration of each write that the sink committed, in microseconds.
    pub commit_us: Histogram,
    /// Items with the fate [`Fate::Stored`].
    pub stored: AtomicU64,
    /// Writes that failed for a passing reason and were retried.
    pub retries: AtomicU64,
    /// How often a writer split a rejected batch in halves.
    pub splits: AtomicU64,
    /// Batches of which every item was refused for its data.
    pub refused_whole: AtomicU64,
    /// How many of these came one after the other up to now. The log reports a long run, since the cause is hardly the data.
    refused_run: AtomicU64,
    /// Items with the fate [`Fate::NotNow`].
    pub not_now: AtomicU64,
    /// Submissions that the queue rejected because it was full or slow.
    pub submissions_refused: AtomicU64,
    /// Items of submissions without a receipt that were not written: the sink cannot hold them, a panic ended their batch, or
    /// the drain limit passed. No receipt reports these.
    pub lost_unheard: AtomicU64,
    /// Batches that a panic ended. Their receipts closed without fates.
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

/// The side on which requests submit their items. Clones share one queue; it closes when the last is dropped.
pub struct Batcher<T>(Arc<Handle<T>>);

/// Closes the queue when the last [`Batcher`] is dropped, since the writers hold the queue itself.
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
    /// Number of submissions that wait.
    pub fn depth(&self) -> usize {
        self.0.0.lock().submissions.len()
    }

    /// How long the oldest submission has waited; none when the queue is empty.
    pub fn oldest(&self) -> Option<Duration> {
        self.0.0.lock().submissions.front().map(|submission| submission.since.elapsed())
    }

    /// The counters.
    pub fn figures(&self) -> &Figures {
        &self.0.0.figures
    }

    /// The name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        self.0.0.name
    }

    /// Changes the bounds. Submissions beyond a lower bound are still written, and no others are taken.
    pub fn set_limits(&self, limits: Limits) {
        self.0.0.set_limits(limits);
    }

    /// Rejects further submissions. Those that wait are still written.
    pub fn close(&self) {
        self.0.0.close();
    }
}

impl<T: Weigh + Send + Sync + 'static> Batcher<T> {
    /// Starts one writer task for each sink.
    pub fn start<S: Sink<Item = T>>(name: &'static str, limits: Limits, sinks: Vec<S>) -> (Batcher<T>, Writers) {
        let queue = Mutex::new(Queue::new(limits));
        let shared = Arc::new(Shared { name, queue, changed: Notify::new(), figures: Figures::default() });
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

    /// Submits the items of one request. The receipt returns their fates, in order. A request that drops its receipt before
    /// the write starts takes the submission back. `room` is held until the submission is done; it also names the application
    /// of the submission, since no application may fill the queue alone.
    ///
    /// A caller that needs the items afterwards passes an `Arc` and keeps another.
    pub fn submit(
        &self,
        items: impl Into<Arc<Vec<T>>>,
        room: Option<Arc<Held>>,
    ) -> Result<oneshot::Receiver<Fates>, Refused<T>> {
        let (receipt, answer) = oneshot::channel();
        self.put(items.into(), room, Some(receipt), true)?;
        Ok(answer)
    }

    /// Submits more items of a request of which some were taken. The queue does not reject them for being late.
    pub fn submit_rest(
        &self,
        items: Arc<Vec<T>>,
        room: Option<Arc<Held>>,
    ) -> Result<oneshot::Receiver<Fates>, Refused<T>> {
        let (receipt, answer) = oneshot::channel();
        self.put(items, room, Some(receipt), false)?;
        Ok(answer)
    }

    /// Submits items without a receipt. They are written like others.
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
                    // The request may have given up meanwhile, which changes nothing for no fates.
                    let _ = receipt.send(Fates::new());
                }
                return Ok(());
            }
            let limits = queue.limits;
            let slow = in_time && queue.is_slow(room.as_deref(), limits.wait, since);
            if slow || !queue.make_place(room.as_deref(), limits.submissions_max, since) {
                shared.figures.submissions_refused.fetch_add(1, Relaxed);
                return Err(Refused::Full(items));
            }
            let waiting = room.as_deref().map(Held::wait);
            let (taken_before, was_full) = (queue.taken, queue.is_full());
            queue.push(Submission { items, bytes, receipt, since, taken_before, waiting, _room: room });
            let becomes_full = !was_full && queue.is_full();
            // While a writer flushes, another one acts only on the first submission, whose age it waits for, and on the one
            // that fills a batch. A writer that ends its flush looks at the queue by itself.
            if queue.flushing > 0 && queue.submissions.len() > 1 && !becomes_full {
                return Ok(());
            }
        }
        shared.changed.notify_one();
        Ok(())
    }
}

/// The writer tasks. Dropping it aborts them at once; [`Writers::drain`] lets them finish.
pub struct Writers {
    /// Name of the batcher, for logs.
    name: &'static str,
    /// One task for each sink. The drain joins them.
    tasks: JoinSet<()>,
    /// Closes the queue. The drain calls it first.
    close: Box<dyn Fn() + Send + Sync>,
    /// Empties the queue after the last task has ended, and returns how many items of it no receipt reports.
    give_up: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Writers {
    /// Closes the queue, writes the waiting submissions, and joins the tasks. Submissions that are not written within the limit
    /// are given up: their receipts close, and those without a receipt are counted.
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

#[cfg(test)]
mod tests;
