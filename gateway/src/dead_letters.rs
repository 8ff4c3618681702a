//! Keeps the events that were not stored. A request waits until its quarantined events are committed, since its answer
//! says that they are kept. Rejected events are written after the answer, from a bounded memory; those that do not fit
//! are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use eye_event::envelope::Event;
use eye_event::event::{DeadLetter, KeptAs};
use eye_event::verdict::Digest;
use eye_judge::Keep;

use crate::batch::{Batcher, Fate, Refused, Weigh};
use crate::response::Refusal;
use crate::secrets::{TakenOut, clean_unread};
use crate::share::{Budget, Held, Share};

/// Replaces a detail that may quote what the gateway must not keep.
const DETAIL_NOT_KEPT: &str = "The detail is not kept: it may quote what the validator takes out.";

/// The way of dead letters to the database.
#[derive(Debug)]
pub struct DeadLetters {
    batcher: Batcher<DeadLetter>,
    /// Most dead letters of one submission.
    submission_max: AtomicUsize,
    /// The room for rejected events that are not written yet.
    waiting_bytes: Arc<Budget>,
    trimmed: AtomicU64,
}

/// The result of keeping the quarantined events of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All are committed.
    All,
    /// None is kept, since the queue had no room.
    None,
}

/// The rejected events of one request that found room.
#[derive(Debug, Default)]
pub struct Rejected {
    submissions: Vec<Submission>,
    /// The number of events that found no room.
    left_out: u64,
}

#[derive(Debug)]
struct Submission {
    letters: Vec<DeadLetter>,
    room: Held,
}

impl DeadLetters {
    /// Submits all letters to `batcher`.
    pub fn new(
        batcher: Batcher<DeadLetter>,
        submission_max: usize,
        waiting_bytes_max: usize,
        share_percent: usize,
    ) -> Self {
        let waiting_bytes = Budget::new(waiting_bytes_max, share_percent);
        Self { batcher, submission_max: AtomicUsize::new(submission_max), waiting_bytes, trimmed: AtomicU64::new(0) }
    }

    /// Changes the bounds. Letters that wait are still written, whatever room a smaller bound leaves.
    pub fn change(&self, submission_max: usize, waiting_bytes_max: usize, share_percent: usize) {
        self.submission_max.store(submission_max, Ordering::Relaxed);
        self.waiting_bytes.resize(waiting_bytes_max, share_percent);
    }

    fn submission_max(&self) -> usize {
        self.submission_max.load(Ordering::Relaxed)
    }

    /// Rejects further letters. Those that wait are still written.
    pub fn close(&self) {
        self.batcher.close();
    }

    /// The number of rejected events that were not kept: they found no room, Postgres refused their rows, or a panic or
    /// the drain limit ended their batch. The metrics and the statistics read it.
    pub fn trimmed(&self) -> u64 {
        self.trimmed.load(Ordering::Relaxed) + self.batcher.figures().lost_unheard.load(Ordering::Relaxed)
    }

    /// The queue of dead letters, for the metrics.
    pub fn batcher(&self) -> &Batcher<DeadLetter> {
        &self.batcher
    }

    /// Adds a rejected event to those of its request, if it finds room. It takes the room now and not at the
    /// submission, since one request may have far more rejected events than the room holds.
    pub fn gather(&self, rejected: &mut Rejected, letter: DeadLetter, share: &Arc<Share>) {
        let full = |submission: &Submission| submission.letters.len() >= self.submission_max();
        if rejected.submissions.last().is_none_or(full) {
            let room = Held::none(&self.waiting_bytes, share);
            rejected.submissions.push(Submission { letters: Vec::new(), room });
        }
        let submission = rejected.submissions.last_mut().expect("there is one that is not full");
        if submission.room.add_within_share(letter.bytes()) {
            submission.letters.push(letter);
        } else {
            rejected.left_out += 1;
        }
    }

    /// Submits the rejected events of a request without waiting for their commit.
    pub fn keep_rejected(&self, rejected: Rejected) {
        let mut lost = rejected.left_out;
        for Submission { letters, room } in rejected.submissions {
            let count = letters.len() as u64;
            if self.batcher.submit_unanswered(letters, Some(Arc::new(room))).is_err() {
                lost += count;
            }
        }
        if lost > 0 {
            self.trimmed.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Keeps quarantined events, either all of them or none, and returns after their commit. `room` is the room of
    /// their request. `committed` says that other events of the request are committed already.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overloaded`] and [`Refusal::Draining`] when nothing of the request is committed;
    /// [`Refusal::DatabaseAway`] when a letter has no receipt, so that it may be kept or not; [`Refusal::Internal`]
    /// when Postgres refuses a letter.
    pub async fn keep(
        &self,
        mut letters: Vec<DeadLetter>,
        room: Option<Arc<Held>>,
        committed: bool,
    ) -> Result<Kept, Refusal> {
        let mut receipts = Vec::with_capacity(1);
        while !letters.is_empty() {
            let rest = letters.split_off(letters.len().min(self.submission_max()));
            let submission = std::mem::replace(&mut letters, rest);
            let first = receipts.is_empty();
            let (submission, room) = (Arc::new(submission), room.clone());
            let receipt =
                if first { self.batcher.submit(submission, room) } else { self.batcher.submit_rest(submission, room) };
            match receipt {
                Ok(receipt) => receipts.push(receipt),
                Err(_) if !first => return Err(Refusal::DatabaseAway),
                Err(_) if committed => return Ok(Kept::None),
                Err(Refused::Full(_)) => return Err(Refusal::Overloaded),
                Err(Refused::Closed(_)) => return Err(Refusal::Draining),
            }
        }
        for receipt in receipts {
            // Without a receipt the rows may be committed or not.
            for fate in receipt.await.map_err(|_| Refusal::DatabaseAway)? {
                match fate {
                    // The server's message may quote the row, so the log has only the code.
                    Fate::Refused { code, .. } => {
                        tracing::error!(code, "Postgres refuses a dead letter");
                        return Err(Refusal::Internal);
                    }
                    // A retry may succeed.
                    Fate::NotNow => return Err(Refusal::DatabaseAway),
                    Fate::Stored | Fate::Duplicate => {}
                }
            }
        }
        Ok(Kept::All)
    }
}

/// Fills a dead letter with its event, as far as the gateway may keep it. The violations then quote nothing else.
pub fn of_event(letter: DeadLetter, event: &Event, keep: Keep, raw_bytes_max: usize) -> DeadLetter {
    let letter = DeadLetter {
        event_id: Some(event.id),
        session_id: Some(event.session_id),
        category: Some(event.category.to_string()),
        name: Some(event.name.to_string()),
        raw_bytes: event.raw.len(),
        ..letter
    };
    let (kept, taken, raw, raw_digest) = match keep {
        Keep::Whole => return DeadLetter { kept: KeptAs::Whole, raw: cut(&event.raw, raw_bytes_max), ..letter },
        Keep::Redacted(data) => {
            (KeptAs::Redacted, TakenOut::between(&event.data, &data), redacted(event, &data).into(), None)
        }
        Keep::Nothing => {
            (KeptAs::Nothing, TakenOut::between(&event.data, ""), Bytes::new(), Some(Digest::of(&event.raw)))
        }
    };
    let detail = if taken.is_quoted(&letter.detail) { DETAIL_NOT_KEPT.to_owned() } else { letter.detail };
    let violations = taken.clean(&letter.violations);
    DeadLetter { kept, violations, detail, raw, raw_digest, last_words: None, ..letter }
}

/// Fills a dead letter for bytes that are no event. The gateway keeps only their length and digest.
pub fn of_unread(letter: DeadLetter, raw: &[u8]) -> DeadLetter {
    DeadLetter {
        violations: clean_unread(&letter.violations),
        category: None,
        name: None,
        kept: KeptAs::Nothing,
        raw: Bytes::new(),
        raw_bytes: raw.len(),
        raw_digest: Some(Digest::of(raw)),
        last_words: None,
        ..letter
    }
}

/// Returns as many bytes as a dead letter may have. They are a copy, so that a waiting letter does not hold its whole
/// request in memory.
pub fn cut(raw: &[u8], bytes_max: usize) -> Bytes {
    Bytes::copy_from_slice(&raw[..raw.len().min(bytes_max)])
}

/// Writes an event as its sender would, with other data.
fn redacted(event: &Event, data: &str) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let timestamp = DateTime::from_timestamp_micros(event.timestamp_us).unwrap_or_default();
    format!(
        r#"{{"id":"{}","session_id":"{}","category":{},"name":{},"timestamp":"{}","data":{data}}}"#,
        event.id,
        event.session_id,
        text(&event.category),
        text(&event.name),
        timestamp.to_rfc3339_opts(SecondsFormat::Micros, true),
    )
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use uuid::Uuid;

    use super::*;
    use crate::batch::{Failure, Limits, Sink};
    use eye_event::event::{KeptAs, Reason};
    use eye_event::verdict::Violation;

    /// A database that never answers.
    struct Never;

    impl Sink for Never {
        type Item = DeadLetter;

        async fn write(&mut self, _: &[&DeadLetter]) -> Result<Vec<Fate>, Failure> {
            std::future::pending().await
        }

        async fn batch_ended(&mut self) {}
    }

    fn letter() -> DeadLetter {
        DeadLetter {
            id: Uuid::from_u128(1),
            received_at_us: 0,
            reason: Reason::Quarantined,
            code: "trap".to_owned(),
            detail: String::new(),
            violations: Vec::new(),
            application_id: 1,
            module: None,
            event_id: None,
            session_id: None,
            category: None,
            name: None,
            kept: KeptAs::Whole,
            raw: Bytes::new(),
            raw_bytes: 0,
            raw_digest: None,
            last_words: None,
            request_id: None,
            traceparent: None,
        }
    }

    #[tokio::test]
    async fn rejected_events_take_room_as_they_are_gathered_and_what_finds_none_is_counted() {
        let second = Duration::from_secs(1);
        let limits = Limits { events_max: 10, bytes_max: 1_000, age: second, submissions_max: 10, wait: second };
        let (batcher, writers) = Batcher::start("dead_letters", limits, vec![Never]);
        let letters = DeadLetters::new(batcher, 10, 20_000, 75);
        let (share, violation) = (Arc::default(), |length| Violation {
            pointer: "x".repeat(length),
            code: "long".into(),
            message: "too long".into(),
        });
        let gathered = |count: usize| {
            let mut rejected = Rejected::default();
            for _ in 0..count {
                let letter = DeadLetter { reason: Reason::Rejected, violations: vec![violation(900)], ..letter() };
                letters.gather(&mut rejected, letter, &share);
            }
            rejected
        };
        let large = gathered(1_000);
        let held: usize = large.submissions.iter().map(|submission| submission.letters.len()).sum();
        assert!((10..20).contains(&held), "{held} of a thousand are in memory");
        assert_eq!((large.left_out, letters.trimmed()), (1_000 - held as u64, 0));
        drop(large);
        assert_eq!(share.held(), 0, "the request was given up");
        letters.keep_rejected(gathered(1_000));
        assert_eq!(letters.trimmed(), 1_000 - held as u64);
        assert!(share.held() > 10_000, "the others wait to be kept");
        drop(letters);
        writers.drain(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn quarantined_events_that_find_no_room_leave_those_beside_them_their_outcomes() {
        let second = Duration::from_secs(1);
        let limits = Limits { events_max: 10, bytes_max: 1_000, age: second, submissions_max: 1, wait: second };
        let (batcher, writers) = Batcher::start("dead_letters", limits, vec![Never]);
        let letters = DeadLetters::new(batcher, 10, 1_000, 100);
        letters.close();
        assert_eq!(
            letters.keep(vec![letter()], None, true).await,
            Ok(Kept::None),
            "others of the request are committed"
        );
        assert_eq!(letters.keep(vec![letter()], None, false).await, Err(Refusal::Draining));
        drop(letters);
        writers.drain(Duration::ZERO).await;
    }

    #[tokio::test]
    async fn quarantined_events_hold_the_room_of_their_request_until_they_are_kept() {
        let second = Duration::from_secs(1);
        let limits = Limits { events_max: 10, bytes_max: 1_000, age: second, submissions_max: 10, wait: second };
        let (batcher, writers) = Batcher::start("dead_letters", limits, vec![Never]);
        let letters = DeadLetters::new(batcher, 1, 1_000, 100);
        let (in_flight, share) = (Budget::new(100, 100), Arc::default());
        let mut room = Held::none(&in_flight, &share);
        assert!(room.grow_to(40));
        {
            let mut keep = pin!(letters.keep(vec![letter(), letter()], Some(Arc::new(room)), false));
            assert!(keep.as_mut().now_or_never().is_none(), "their commit is waited for");
            assert_eq!((in_flight.free(), share.waiting()), (60, 2));
        }
        assert_eq!(in_flight.free(), 60, "the request was given up, and its letters are still in memory");
        drop(letters);
        writers.drain(Duration::ZERO).await;
        assert_eq!((in_flight.free(), share.waiting()), (100, 0));
    }
}
