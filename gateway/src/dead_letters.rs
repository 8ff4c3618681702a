//! The keeping of what was not stored. Quarantined events are waited for, because their sender is told that they are
//! kept; rejected ones are written behind the answer, within a bound in bytes, and what does not fit is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::batch::{Batcher, Fate, Weigh};
use crate::event::DeadLetter;
use crate::response::Refusal;

/// Where dead letters go.
#[derive(Debug)]
pub struct DeadLetters {
    batcher: Batcher<DeadLetter>,
    /// Dead letters of one parcel.
    parcel_max: usize,
    /// Bytes of rejected events that may wait, a permit each.
    waiting_bytes: Arc<Semaphore>,
    trimmed: AtomicU64,
}

impl DeadLetters {
    /// Hands everything to `batcher`.
    pub fn new(batcher: Batcher<DeadLetter>, parcel_max: usize, waiting_bytes_max: usize) -> Self {
        let waiting_bytes = Arc::new(Semaphore::new(waiting_bytes_max));
        Self { batcher, parcel_max, waiting_bytes, trimmed: AtomicU64::new(0) }
    }

    /// Takes no more; what waits is still written.
    pub fn close(&self) {
        self.batcher.close();
    }

    /// How many rejected events were not kept, for want of room.
    pub fn trimmed(&self) -> u64 {
        self.trimmed.load(Ordering::Relaxed)
    }

    /// Keeps rejected events; nobody waits for them.
    pub fn keep_rejected(&self, mut letters: Vec<DeadLetter>) {
        while !letters.is_empty() {
            let rest = letters.split_off(letters.len().min(self.parcel_max));
            let parcel = std::mem::replace(&mut letters, rest);
            let count = parcel.len() as u64;
            let kept =
                self.room_for(&parcel).is_some_and(|room| self.batcher.submit_unanswered(parcel, Some(room)).is_ok());
            if !kept {
                self.trimmed.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn room_for(&self, parcel: &[DeadLetter]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize = parcel.iter().map(Weigh::bytes).sum();
        Arc::clone(&self.waiting_bytes).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// Keeps quarantined events; returns after their commit.
    ///
    /// # Errors
    ///
    /// [`Refusal::DatabaseAway`], [`Refusal::Draining`], or [`Refusal::Internal`] when Postgres refuses the dead letter.
    pub async fn keep(&self, mut letters: Vec<DeadLetter>) -> Result<(), Refusal> {
        let mut receipts = Vec::with_capacity(1);
        while !letters.is_empty() {
            let rest = letters.split_off(letters.len().min(self.parcel_max));
            let parcel = std::mem::replace(&mut letters, rest);
            // Other events of the request may be stored by now, so this is not the refusal that says that none is.
            receipts.push(self.batcher.submit(parcel, None).map_err(|_| Refusal::DatabaseAway)?);
        }
        for receipt in receipts {
            for fate in receipt.await.map_err(|_| Refusal::Draining)? {
                if let Fate::Refused { code, message } = fate {
                    tracing::error!(code, message, "Postgres refuses a dead letter");
                    return Err(Refusal::Internal);
                }
            }
        }
        Ok(())
    }
}
