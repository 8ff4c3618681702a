//! The duties of this gateway: the work that one gateway does for all gateways of a database. It holds each by a lease of
//! 20 s, renews it every 5 s, and believes in it by its own monotonic clock. A gateway that is frozen or cut off from the
//! database stops believing before another one may take over. `store/duties.rs` has the leases.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::{Duty, Error, LEASE, Role, Store};

/// The time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The pause before the next attempt after the database did not answer.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// The pause between two checks of a starting gateway.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// A gateway stops believing in a lease so long before it ends.
const MARGIN: Duration = Duration::from_secs(2);
/// How long a gateway that cannot do the work of a duty leaves it to others. They look for duties more often.
const LEFT_FOR: Duration = Duration::from_secs(10);
/// How long a gateway that stops waits for the answer when it gives its leases back.
const LAST: Duration = Duration::from_secs(1);

/// When this gateway stops believing in each of its leases, in the order of [`Duty::ALL`].
type Leases = [Option<Instant>; Duty::ALL.len()];

/// The duties of this gateway.
#[derive(Debug)]
pub struct Duties {
    store: Store,
    leases: watch::Sender<Leases>,
    /// Until when it takes no lease of each duty.
    left: Mutex<Leases>,
    /// The gateway takes no jobs any more, since it is about to stop.
    stops_jobs: AtomicBool,
}

impl Duties {
    /// A gateway without duties, until [`Duties::run`] takes some.
    pub fn new(store: Store) -> Self {
        Self { store, leases: watch::Sender::default(), left: Mutex::default(), stops_jobs: AtomicBool::new(false) }
    }

    /// Whether this gateway holds a duty.
    pub fn holds(&self, duty: Duty) -> bool {
        self.leases.borrow()[duty as usize].is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this gateway holds a duty.
    pub async fn held(&self, duty: Duty) {
        let mut leases = self.leases.subscribe();
        while !self.holds(duty) {
            if leases.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Works as long as this gateway holds a duty. Returns `None` if it does not hold it any more; the work is dropped
    /// then.
    pub async fn while_held<T>(&self, duty: Duty, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.lost(duty) => None,
            done = work => Some(done),
        }
    }

    async fn lost(&self, duty: Duty) {
        let mut leases = self.leases.subscribe();
        loop {
            let until = leases.borrow_and_update()[duty as usize];
            let Some(until) = until.filter(|until| Instant::now() < *until) else { return };
            tokio::select! {
                () = sleep_until(until) => {}
                _ = leases.changed() => {}
            }
        }
    }

    /// Takes leases and renews them until `stop`, once the schema `is_ready`.
    pub async fn run(&self, is_ready: impl Fn() -> bool, stop: &CancellationToken) {
        let run = async {
            while !is_ready() {
                sleep(FIRST_LOOK).await;
            }
            let mut told = false;
            loop {
                let renewed = self.renew().await;
                match &renewed {
                    Ok(()) => told = false,
                    Err(error) if told || self.store.is_away() => {
                        tracing::debug!(%error, "the leases of duties could not be renewed");
                    }
                    Err(error) => {
                        told = true;
                        tracing::warn!(%error, "the leases of duties could not be renewed; trying again");
                    }
                }
                sleep(if renewed.is_ok() { RENEW_EVERY } else { RENEW_AGAIN }).await;
            }
        };
        let _stopped: Option<()> = stop.run_until_cancelled(run).await;
    }

    async fn renew(&self) -> Result<(), Error> {
        let asked = Instant::now();
        let wanted = self.wanted(asked);
        let held = self.store.renew_duties(&wanted).await?;
        let before = *self.leases.borrow();
        // Work may have left a duty meanwhile.
        let wanted = self.wanted(Instant::now());
        let until = Some(asked + LEASE - MARGIN);
        let after = Duty::ALL.map(|duty| until.filter(|_| held.contains(&duty) && wanted.contains(&duty)));
        let changed = |had: bool| {
            let changed = Duty::ALL.into_iter().filter(|duty| {
                let (before, after) = (before[*duty as usize].is_some(), after[*duty as usize].is_some());
                before != after && before == had
            });
            changed.map(Duty::as_str).collect::<Vec<_>>().join(", ")
        };
        let (taken, lost) = (changed(false), changed(true));
        self.leases.send_replace(after);
        let left: Vec<Duty> = held.into_iter().filter(|duty| !wanted.contains(duty)).collect();
        self.end_leases(&left).await;
        if !taken.is_empty() {
            tracing::info!(duties = taken, "the gateway takes these duties for all gateways of the database");
        }
        if !lost.is_empty() {
            tracing::warn!(duties = lost, "another gateway has taken these duties over");
        }
        Ok(())
    }

    fn wanted(&self, now: Instant) -> Vec<Duty> {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |duty: &Duty| {
            left[*duty as usize].is_none_or(|until| until <= now)
                && !(*duty == Duty::Jobs && self.stops_jobs.load(Relaxed))
        };
        Duty::ALL.into_iter().filter(is_wanted).collect()
    }

    /// Leaves a duty to the other gateways for a moment, since the database refuses its work. A role may lack the rights
    /// that another gateway has.
    pub async fn leave(&self, duty: Duty) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)[duty as usize] = Some(Instant::now() + LEFT_FOR);
        self.give_back(&[duty]).await;
    }

    /// Gives the jobs to another gateway, and takes none any more.
    pub async fn stop_jobs(&self) {
        self.stops_jobs.store(true, Relaxed);
        self.give_back(&[Duty::Jobs]).await;
    }

    /// Gives all leases back when the gateway has stopped its work.
    pub async fn give_all_back(&self) {
        if self.store.role() == Role::Full && !self.store.is_away() {
            self.end_leases(&Duty::ALL).await;
        }
    }

    async fn give_back(&self, duties: &[Duty]) {
        let held: Vec<Duty> = duties.iter().copied().filter(|duty| self.holds(*duty)).collect();
        self.leases.send_modify(|leases| duties.iter().for_each(|duty| leases[*duty as usize] = None));
        self.end_leases(&held).await;
    }

    /// Ends leases in the database. One that is not ended there ends by itself.
    async fn end_leases(&self, duties: &[Duty]) {
        if duties.is_empty() {
            return;
        }
        if let Ok(Err(error)) = timeout(LAST, self.store.give_duties_back(duties)).await {
            tracing::debug!(%error, "leases of duties could not be given back");
        }
    }
}
