//! The bounded queue between requests and writers: which submissions it takes, which it rejects for being late, and which
//! make the next batch.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::{Fates, Figures, Limits};
use crate::share::{Held, Waiting};

/// Least time between two searches of a full queue for abandoned submissions. Each search reads all of them, under the lock
/// that the writers need.
pub(super) const SWEEP_EVERY: Duration = Duration::from_millis(10);

/// The items of one request.
pub(super) struct Submission<T> {
    /// The writer passes them to the sink.
    pub(super) items: Arc<Vec<T>>,
    /// Weight of the items, for the size of a batch.
    pub(super) bytes: usize,
    /// The writer sends the fates here. A submission without one has no request that waits.
    pub(super) receipt: Option<oneshot::Sender<Fates>>,
    /// When it came. Its age decides when a batch is due and whether the queue is slow.
    pub(super) since: Instant,
    /// Value of [`Queue::taken`] when it came. The queue estimates from it how fast it moves.
    pub(super) taken_before: u64,
    /// Its place in the queue, counted for its application. The queue drops it when a writer takes the submission.
    pub(super) waiting: Option<Waiting>,
    /// Held for the bytes in flight, perhaps together with other submissions of the request. Nothing reads it.
    pub(super) _room: Option<Arc<Held>>,
}

impl<T> Submission<T> {
    /// Whether the request has dropped its receipt. Its retry would only find a duplicate, so the items are not written.
    pub(super) fn abandoned(&self) -> bool {
        self.receipt.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// The submissions that wait. Requests and writers change it under one lock.
pub(super) struct Queue<T> {
    /// Read with each submission and each batch.
    pub(super) limits: Limits,
    /// The oldest first.
    pub(super) submissions: VecDeque<Submission<T>>,
    /// Items of all waiting submissions. A writer reads it to see whether a batch is full.
    items: usize,
    /// Likewise their bytes.
    bytes: usize,
    /// Flushes under way. Without one, an idle writer starts at once.
    pub(super) flushing: usize,
    /// Submissions of the batches that are being written. They count for the share of an application.
    writing: usize,
    /// Submissions that writers have ever taken. Read by [`Queue::is_slow`].
    pub(super) taken: u64,
    /// The queue rejects new submissions, and writers end once it is empty.
    pub(super) closed: bool,
    /// When a batch was last written. Read by [`Queue::is_slow`].
    written: Option<Instant>,
    /// When the queue was last searched for abandoned submissions.
    swept: Option<Instant>,
}

impl<T> Queue<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Queue {
            limits,
            submissions: VecDeque::new(),
            items: 0,
            bytes: 0,
            flushing: 0,
            writing: 0,
            taken: 0,
            closed: false,
            written: None,
            swept: None,
        }
    }

    pub(super) fn push(&mut self, submission: Submission<T>) {
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

    /// Whether the waiting submissions fill a batch.
    pub(super) fn is_full(&self) -> bool {
        self.items >= self.limits.events_max || self.bytes >= self.limits.bytes_max
    }

    /// Whether the queue has a place for a submission of this application.
    fn has_place(&self, room: Option<&Held>, submissions_max: usize) -> bool {
        let waiting = self.submissions.len();
        waiting < submissions_max && room.is_none_or(|room| room.may_wait(waiting, submissions_max))
    }

    /// The same. If there is none, removes abandoned submissions first, but not each time.
    pub(super) fn make_place(&mut self, room: Option<&Held>, submissions_max: usize, now: Instant) -> bool {
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

    /// Whether more comes than the sink can write: the oldest submission has waited for longer than `wait` although batches are
    /// written, and a new one would wait as long. While no batch is written, the sink is away and may be back at once, so that
    /// waiting is worth it. Up to twice that wait, the queue is not slow for an application that has at most half of what waits
    /// and is written, and never for one that has nothing waiting: they do not pay for the one that fills the queue.
    pub(super) fn is_slow(&mut self, room: Option<&Held>, wait: Duration, now: Instant) -> bool {
        while self.submissions.front().is_some_and(Submission::abandoned) {
            self.pop();
        }
        let Some(oldest) = self.submissions.front() else { return false };
        let age = |since: Instant| now.saturating_duration_since(since);
        let waited = age(oldest.since);
        if waited <= wait || self.written.is_none_or(|written| age(written) > wait) {
            return false;
        }
        // Since the oldest one came, writers have taken as many as were before it.
        let before = (self.taken - oldest.taken_before).max(1);
        let expected = waited.mul_f64(self.submissions.len() as f64 / before as f64);
        let all = self.submissions.len() + self.writing;
        let own = room.map_or(all, Held::waiting);
        expected > wait && own > 0 && (own * 2 > all || expected > wait * 2)
    }

    /// Takes the oldest submissions that make a batch together; at least one, unless all are abandoned.
    fn take(&mut self) -> Vec<Submission<T>> {
        let limits = self.limits;
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

/// The state that the batcher and its writers share.
pub(super) struct Shared<T> {
    /// Name of the batcher, for logs and metrics.
    pub(super) name: &'static str,
    pub(super) queue: Mutex<Queue<T>>,
    /// Wakes writers that wait for a submission, or for the end.
    pub(super) changed: Notify,
    pub(super) figures: Figures,
}

impl<T> Shared<T> {
    /// Locks the queue. No code under the lock can leave the queue half changed, so a poisoned lock is as good.
    pub(super) fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bounds, and wakes all writers: for one of them a batch may be due.
    pub(super) fn set_limits(&self, limits: Limits) {
        self.lock().limits = limits;
        self.changed.notify_waiters();
    }

    /// Closes the queue and wakes all writers.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// Drops the waiting submissions, since no writer is left. Returns how many items were ever lost without a receipt.
    pub(super) fn give_up(&self) -> u64 {
        let mut queue = self.lock();
        let mut lost = 0;
        while let Some(submission) = queue.pop() {
            lost += if submission.receipt.is_none() { submission.items.len() as u64 } else { 0 };
        }
        self.figures.lost_unheard.fetch_add(lost, Relaxed) + lost
    }

    /// Waits for the next batch. Returns none once the queue is closed and empty.
    pub(super) async fn next(&self) -> Option<(Vec<Submission<T>>, Flushing<'_, T>)> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Enabled before the look at the queue, so that no change in between is missed.
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

    /// Takes a batch if one is due.
    fn look(&self) -> Look<T> {
        let mut queue = self.lock();
        let Some(oldest) = queue.submissions.front() else {
            return if queue.closed { Look::End } else { Look::Wait(None) };
        };
        let due = oldest.since + queue.limits.age;
        if queue.flushing > 0 && !queue.is_full() && !queue.closed && Instant::now() < due {
            return Look::Wait(Some(due));
        }
        let batch = queue.take();
        if batch.is_empty() {
            // All of them were abandoned.
            return if queue.closed { Look::End } else { Look::Wait(None) };
        }
        queue.flushing += 1;
        queue.writing += batch.len();
        queue.taken += batch.len() as u64;
        Look::Batch(batch, !queue.submissions.is_empty())
    }
}

/// The result of a writer's look at the queue.
enum Look<T> {
    /// A batch, and whether more submissions wait behind it.
    Batch(Vec<Submission<T>>, bool),
    /// No batch is due, or not before this time.
    Wait(Option<Instant>),
    /// The queue is closed and empty.
    End,
}

/// A flush under way. Dropping it ends the flush, also when the task of the writer ends.
pub(super) struct Flushing<'a, T> {
    shared: &'a Shared<T>,
    /// Submissions of the batch.
    submissions: usize,
    /// Whether the sink wrote any item. The writer sets it; the queue then notes the time.
    pub(super) written: bool,
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
