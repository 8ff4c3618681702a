//! Turns at reading from the database. There are as many as connections for it, shared among applications like all room:
//! who reads the most waits for its own reads to end, and others find a connection. A turn is waited for, not long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::response::Refusal;
use crate::share::{Budget, Held, Share};

/// All turns of a gateway.
#[derive(Debug)]
pub struct Turns {
    room: Arc<Budget>,
    wait: Duration,
    /// Told when a turn has ended.
    ended: Notify,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    /// Taken only at the end, before others are told of it.
    held: Option<Held>,
}

impl Turns {
    /// At most `most` at once, of which an application that is alone may have `share_percent`. Who finds none waits for `wait`.
    pub fn new(most: usize, share_percent: usize, wait: Duration) -> Self {
        Self { room: Budget::new(most, share_percent), wait, ended: Notify::new() }
    }

    /// A turn of an application.
    pub(crate) async fn take(&self, share: &Arc<Share>) -> Result<Turn<'_>, Refusal> {
        let deadline = Instant::now() + self.wait;
        let mut held = Held::none(&self.room, share);
        loop {
            // Made before the try, so that a turn that ends between the two is not missed.
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
