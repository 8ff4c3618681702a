//! Turns at reading from the database. There are as many as connections for reads, and applications share them like
//! other room: the application with the most reads waits until its own end, and the others get a connection. The wait
//! is short.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::response::Refusal;
use crate::share::{Budget, Held, Share};

/// All turns of the gateway.
#[derive(Debug)]
pub struct Turns {
    room: Arc<Budget>,
    /// The longest wait for a turn, in milliseconds.
    wait_ms: AtomicU64,
    /// Notified when a turn ends.
    ended: Notify,
}

/// A turn. Its drop ends it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    /// The drop takes it, so that the room is free before others are notified.
    held: Option<Held>,
}

impl Turns {
    /// At most `most` turns at once, of which one application alone may hold `share_percent`. A read without a turn
    /// waits for `wait`.
    pub fn new(most: usize, share_percent: usize, wait: Duration) -> Self {
        Self { room: Budget::new(most, share_percent), wait_ms: AtomicU64::new(millis(wait)), ended: Notify::new() }
    }

    /// Changes the share and the wait of reads that come from now on.
    pub fn change(&self, share_percent: usize, wait: Duration) {
        self.room.resize(self.room.total(), share_percent);
        self.wait_ms.store(millis(wait), Relaxed);
    }

    /// Takes a turn for an application.
    pub(crate) async fn take(&self, share: &Arc<Share>) -> Result<Turn<'_>, Refusal> {
        let deadline = Instant::now() + Duration::from_millis(self.wait_ms.load(Relaxed));
        let mut held = Held::none(&self.room, share);
        loop {
            // Created before the attempt, so that a turn that ends in between is not missed.
            let ended = self.ended.notified();
            if held.grow_to(1) {
                return Ok(Turn { turns: self, held: Some(held) });
            }
            if timeout_at(deadline, ended).await.is_err() {
                return Err(Refusal::ReadsFull { full: held.full() });
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        self.turns.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Full;

    const WAIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_reads_the_most_waits_for_itself_and_others_do_not() {
        let (turns, greedy, other) = (Turns::new(8, 75, WAIT), Arc::default(), Arc::default());
        let mut taken = Vec::new();
        for _ in 0..6 {
            taken.push(turns.take(&greedy).await.expect("a turn"));
        }
        let start = Instant::now();
        assert_eq!(turns.take(&greedy).await.err(), Some(Refusal::ReadsFull { full: Full::Application }));
        assert_eq!(start.elapsed(), WAIT);
        assert!(turns.take(&other).await.is_ok());
        assert_eq!(start.elapsed(), WAIT, "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_ends_is_somebody_elses_at_once() {
        let (turns, share) = (Turns::new(1, 75, WAIT), Arc::default());
        let first = turns.take(&share).await.expect("a turn");
        let start = Instant::now();
        let (second, ()) = tokio::join!(turns.take(&share), async {
            tokio::time::sleep(WAIT / 2).await;
            drop(first);
        });
        assert!(second.is_ok());
        assert_eq!(start.elapsed(), WAIT / 2);
        let others = turns.take(&Arc::default()).await.err();
        assert_eq!(others, Some(Refusal::ReadsFull { full: Full::All }));
    }
}
