//! One writer: takes batch after batch from the queue, writes each with retries and splits, and gives each submission its
//! receipt.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, warn};

use super::queue::{Shared, Submission};
use super::{Failure, Fate, Fates, Figures, Sink};

/// Pause before the first retry of a batch. Each pause is twice the one before.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// Longest pause between two retries.
const RETRY_MOST: Duration = Duration::from_millis(500);
/// Items of a batch that the sink rejects alone for a reason of its own, one after the other, after which the writer takes
/// the rest as rejected too. Otherwise it would ask the sink a thousand times.
const NOT_NOW_MOST: usize = 8;
/// Length of a run of batches that are refused whole, from which on the log reports it as an error.
const REFUSED_RUN: u64 = 3;

/// Writes batches until the queue is closed and empty.
pub(super) async fn run<S: Sink>(shared: Arc<Shared<S::Item>>, mut sink: S) {
    sink.begin().await;
    while let Some((batch, mut flushing)) = shared.next().await {
        let began = Instant::now();
        let flush = Flush::new(shared.name, batch, &shared.figures);
        shared.figures.batch_items.record(flush.places.len() as u64);
        // A panic drops the rest of the batch and closes its receipts, so that each request learns that its outcome is
        // unknown. For the sink this is like a write that was given up, which it must expect anyway.
        let broken = |_| {
            shared.figures.broken.fetch_add(1, Relaxed);
            error!(batcher = shared.name, "a batch broke off, which is a fault of the gateway; the writer goes on");
        };
        match AssertUnwindSafe(flush.run(&mut sink)).catch_unwind().await {
            Ok(written) => flushing.written = written,
            Err(panic) => broken(panic),
        }
        shared.figures.flush_us.record_time(began.elapsed());
        // The flush ends before `batch_ended`, for which no sender waits. This writer looks at the queue afterwards; another
        // writer does so at once.
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
    /// Name of the batcher, for logs.
    name: &'static str,
    figures: &'a Figures,
    /// The submissions of the batch. Each gets its receipt from here.
    submissions: Vec<Open<T>>,
    /// For each item of the batch its submission and its place there. Ranges and fates refer to this order.
    places: Vec<(usize, usize)>,
}

/// The part of a batch that has no fate yet.
struct Todo {
    /// Ranges of places that are still to be written, the next one last.
    ranges: Vec<Range<usize>>,
    /// Pause before the next retry.
    pause: Duration,
    /// Code of the last [`Failure::Refusal`]. The same code twice means that a retry will not help.
    refused_with: Option<String>,
    /// Items that the sink rejected alone, and not for their data, since it last wrote one. Compared with [`NOT_NOW_MOST`].
    refused_alone: usize,
    /// Items that were refused for their data. Read at the end of the batch.
    refused_for_data: usize,
    /// The log has a line about the rejected items of this batch. One is enough.
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

/// A submission without its receipt so far.
struct Open<T> {
    /// Dropped with its room as soon as it has its receipt, since the rest of the batch may take long.
    submission: Option<Submission<T>>,
    /// The known fates; empty before the first.
    fates: Vec<Option<Fate>>,
    /// Items without a fate. The receipt is due when none is left.
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

    /// Writes the batch until every item has its fate or is abandoned. Returns whether the sink wrote any item.
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
                        // A receipt that closes without fates is better than one that may be wrong.
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

    /// Takes a failed write: retries it, splits it in halves, or settles the one item that it was.
    async fn failed(&mut self, failure: Failure, range: Range<usize>, wanted: Vec<usize>, todo: &mut Todo) {
        match failure {
            Failure::Transient(cause) => {
                // The store logs an outage that lasts.
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
                // The first time, or with another code, it may pass.
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

    /// Waits, then returns the range to the list for a retry.
    async fn again(&self, range: Range<usize>, todo: &mut Todo) {
        self.figures.retries.fetch_add(1, Relaxed);
        sleep(jitter(todo.pause)).await;
        todo.pause = (todo.pause * 2).min(RETRY_MOST);
        todo.ranges.push(range);
    }

    /// Returns the range to the list as two halves.
    fn split(&self, range: Range<usize>, wanted: &[usize], todo: &mut Todo) {
        self.figures.splits.fetch_add(1, Relaxed);
        // The middle of the items that were tried, so that the halves shrink also where items were abandoned.
        let middle = wanted[wanted.len() / 2];
        todo.ranges.push(middle..range.end);
        todo.ranges.push(range.start..middle);
    }

    /// Settles items that the sink rejects for a reason of its own.
    fn not_now(&mut self, places: &[usize]) {
        self.figures.not_now.fetch_add(places.len() as u64, Relaxed);
        for &place in places {
            self.settle(place, Fate::NotNow);
        }
    }

    /// Counts batches that are refused whole, and logs a long run of them: the cause is hardly the data then.
    fn note_run(&self, written: bool, todo: &Todo) {
        if todo.refused_for_data == 0 || written || todo.refused_alone > 0 {
            if written {
                self.figures.refused_run.store(0, Relaxed);
            }
            return;
        }
        self.figures.refused_whole.fetch_add(1, Relaxed);
        let run = self.figures.refused_run.fetch_add(1, Relaxed) + 1;
        // The third batch of a run, and then ever more rarely.
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

    /// Drops the submissions whose requests have given up.
    fn drop_abandoned(&mut self) {
        for open in &mut self.submissions {
            if open.submission.as_ref().is_some_and(Submission::abandoned) {
                open.submission = None;
            }
        }
    }

    /// Sends every receipt after the sink wrote the whole batch at once, the usual case.
    fn settle_all(mut self, fates: Vec<Fate>) {
        let mut fates = fates.into_iter();
        for open in mem::take(&mut self.submissions) {
            let own: Fates = fates.by_ref().take(open.missing).collect();
            if let Some(receipt) = open.submission.and_then(|mut submission| submission.receipt.take()) {
                // The request may have given up meanwhile; the items are written all the same.
                let _ = receipt.send(own);
            }
        }
    }

    /// Records the fate of an item, and sends the receipt if it was the last one of the submission.
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
            // The request may have given up meanwhile; the items are written all the same.
            let _ = receipt.send(mem::take(&mut open.fates).into_iter().flatten().collect());
        }
    }
}

impl<T> Drop for Flush<'_, T> {
    /// Counts the items without a fate that no receipt reports: a panic ended the batch, its writer was aborted, or the sink
    /// returned a wrong number of fates. Receipts report the same by closing.
    fn drop(&mut self) {
        let unheard = |open: &&Open<T>| open.submission.as_ref().is_some_and(|submission| submission.receipt.is_none());
        let lost: usize = self.submissions.iter().filter(unheard).map(|open| open.missing).sum();
        self.figures.lost_unheard.fetch_add(lost as u64, Relaxed);
    }
}

/// A random pause between half of `pause` and all of it, so that writers that failed together do not retry together.
/// The standard library's hash keys are the only source of randomness without a dependency.
fn jitter(pause: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    pause / 2 + pause.mul_f64(chance as f64 / 2048.0)
}
