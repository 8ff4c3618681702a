//! What a gateway does for its database while it runs: it brings the schema up or proves it, looks whether the database is
//! there, keeps the tables within their bounds, folds counts, and goes over older dead letters.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eye_event::envelope::Rules;
use eye_judge::Validators;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::first_admin::{self, FirstAdmin};
use crate::readiness::Readiness;
use crate::retention::Retention;
use crate::scrub::{Scrub, ScrubLimits};
use crate::store::{self, FOLD_ROWS_MAX, Store};
use crate::trust::Trust;
use crate::trust::own::Local;

/// How long to wait before the database is asked again at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// How often a running gateway looks at the schema, the clocks and what is announced.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether other modules take secrets out.
const TAKING_EVERY: Duration = Duration::from_secs(1);
/// How often the database is looked at.
const DATABASE_LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether tokens were used for the first time, and how often all uses are noted.
const USES_LOOK: Duration = Duration::from_secs(1);
const USES_NOTED: Duration = Duration::from_secs(60);
/// How long the end of a gateway waits for the last of them.
const USES_LAST: Duration = Duration::from_secs(1);
/// How often counts are folded. Until then readers add them up themselves.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// How many times as long as a fold took the next one waits, when there is more to fold. Batches share the database's
/// processors with it: several folds in a row hold up answers for longer than any batch does.
const FOLD_PAUSE: u32 = 4;
/// Folds with pauses, after which a backlog is larger than they can clear.
const FOLDS_PAUSED: u32 = 20;

/// What it takes.
#[derive(Debug)]
pub struct Tending {
    /// The database.
    pub store: Store,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// The gateway's own rules, by which older dead letters are read.
    pub rules: Rules,
    /// The modules of now.
    pub validators: Validators,
    /// Who may call, as soon as the schema is there.
    pub trust: Arc<Trust>,
    /// What callers from this machine may do.
    pub local: Local,
    /// The administrator that the gateway makes by itself.
    pub first_admin: FirstAdmin,
    /// What is kept, and for how long.
    pub retention: Arc<Retention>,
    /// Is told when the schema is known.
    pub readiness: Arc<Readiness>,
    /// How older dead letters are scrubbed.
    pub scrub: ScrubLimits,
    /// Whether this gateway brings the schema up; otherwise it only proves it.
    pub migrates: bool,
    /// Why the gateway cannot go on, once that is known.
    pub failed: OnceLock<store::Error>,
}

impl Tending {
    /// Brings up the schema of the embedded Postgres, where nobody has registered an application yet and only this machine
    /// can call. A server that dies meanwhile is started again, so it is asked again.
    ///
    /// # Errors
    ///
    /// Whatever does not pass by waiting.
    pub async fn prepare_own(&self) -> Result<(), store::Error> {
        let once = async || {
            self.store.migrate().await?;
            self.store.ensure_local_application(&self.local.words()).await?;
            match self.first_admin.register(&self.store).await {
                Err(first_admin::Error::Store(error)) => return Err(error),
                Err(error) => tracing::error!(%error, "there is no token of the administrator"),
                Ok(()) => {}
            }
            self.scrub().note().await?;
            self.trust.refresh(&self.store).await
        };
        let mut told = String::new();
        while let Err(error) = once().await {
            if !matches!(error, store::Error::Away(_) | store::Error::Slow(_)) {
                return Err(error);
            }
            let cause = error.to_string();
            if cause != told {
                tracing::warn!(cause, "the embedded Postgres is not ready; trying again until it is");
                told = cause;
            }
            tokio::time::sleep(DATABASE_RETRY).await;
        }
        self.readiness.set_migrated();
        self.first_admin.say_who_is_trusted(&self.trust, self.local);
        Ok(())
    }

    /// The same for a database of one's own, as soon as its schema is there; what cannot be done is told and left.
    async fn greet(&self) {
        loop {
            let registered = self.first_admin.register(&self.store).await;
            let read = match registered {
                Err(first_admin::Error::Store(error)) => Err(error),
                Err(error) => {
                    tracing::error!(%error, "the first administrator could not be registered");
                    self.trust.refresh(&self.store).await
                }
                Ok(()) => self.trust.refresh(&self.store).await,
            };
            match read {
                Ok(()) => break self.first_admin.say_who_is_trusted(&self.trust, self.local),
                Err(store::Error::Away(_) | store::Error::Slow(_)) => tokio::time::sleep(DATABASE_RETRY).await,
                Err(error) => break tracing::error!(%error, "the first administrator could not be registered"),
            }
        }
    }

    /// Brings the schema up, or proves it, as soon as the database is there, then keeps the tables within their bounds. Ends
    /// the gateway when the schema does not serve this program, now or later.
    pub async fn tend_database(self: Arc<Self>, stop: CancellationToken, shutdown: CancellationToken) {
        let tend = async {
            let schema = self.prepare_schema().await?;
            // Until it is known whose secrets there are, less is kept of what is refused.
            if let Err(error) = self.scrub().note().await {
                self.warn(&error, "which validators take secrets out could not be noted; trying again");
            }
            self.readiness.set_migrated();
            tracing::info!("{schema}");
            if !matches!(self.first_admin, FirstAdmin::InDataDir(_)) {
                self.greet().await;
            }
            tokio::select! {
                refused = self.watch_database() => Err(refused),
                () = self.retention.tend(&self.store, &self.clock) => Ok(()),
            }
        };
        if let Some(Err(error)) = stop.run_until_cancelled(tend).await {
            // The first reason stays.
            let _ = self.failed.set(error);
            shutdown.cancel();
        }
    }

    /// Tries until the schema is one that this program may use.
    ///
    /// # Errors
    ///
    /// [`store::Error::SchemaFloor`]: no waiting mends that.
    async fn prepare_schema(&self) -> Result<store::Schema, store::Error> {
        let mut told = String::new();
        loop {
            let prepared = if self.migrates { self.store.migrate().await } else { self.store.prove_schema().await };
            let error = match prepared {
                Err(error) if !matches!(error, store::Error::SchemaFloor { .. }) => error,
                ended => return ended,
            };
            let cause = error.to_string();
            // That it is away, and why, is told by `look_at_database`.
            self.readiness.look().await;
            if cause != told && !self.store.is_away() {
                tracing::warn!("the database is not ready, trying again until it is: {cause}");
                told = cause;
            }
            tokio::time::sleep(DATABASE_RETRY).await;
        }
    }

    /// Tells of work that failed and is tried again; not loudly while the database is known to be away, which is told once.
    fn warn(&self, error: &store::Error, what: &str) {
        if self.store.is_away() {
            tracing::debug!(%error, "{what}");
        } else {
            tracing::warn!(%error, "{what}");
        }
    }

    /// Looks now and then whether a newer release has raised the schema above what this program knows, whether the clocks agree,
    /// and what retention has announced. Gives the error that ends the gateway.
    async fn watch_database(&self) -> store::Error {
        if let Ok(Some(received)) = self.store.last_received().await {
            self.clock.saw_us(received.timestamp_micros());
        }
        loop {
            // `look_at_database` says when the database is away; what was seen last holds until it is back.
            let _away = self.retention.look(&self.store, &self.clock).await;
            tokio::time::sleep(WATCH_EVERY).await;
            if let Err(error @ store::Error::SchemaFloor { .. }) = self.store.prove_schema().await {
                return error;
            }
        }
    }

    /// Looks at the database each second, so that the log tells when it is away, why, when it is back, and what is wrong
    /// with it, also while nobody asks.
    pub async fn look_at_database(self: Arc<Self>, stop: CancellationToken) {
        let watch = async {
            let mut ticks = every(DATABASE_LOOK);
            loop {
                ticks.tick().await;
                self.readiness.look().await;
                self.store.tell_outage().await;
            }
        };
        until(&stop, watch).await;
    }

    fn scrub(&self) -> Scrub<'_> {
        let Self { store, validators, rules, clock, scrub, .. } = self;
        Scrub { store, validators, rules, clock, limits: *scrub, dry_run: false }
    }

    /// Notes each second which modules take secrets out, if others do now, and goes over older dead letters now and then.
    pub async fn scrub_letters(self: Arc<Self>, stop: CancellationToken) {
        let scrub = async {
            let (mut known, mut round_at) = (None, Instant::now());
            let mut ticks = every(TAKING_EVERY);
            loop {
                ticks.tick().await;
                let taking = self.validators.taking();
                let changed = known.as_ref() != Some(&taking);
                if !self.readiness.is_migrated() || !(changed || Instant::now() >= round_at) {
                    continue;
                }
                round_at = Instant::now() + self.scrub.every;
                match self.scrub().round().await {
                    Ok(_) => known = Some(taking),
                    Err(error) => self.warn(&error, "older dead letters could not be gone over; trying again"),
                }
            }
        };
        until(&stop, scrub).await;
    }

    /// Notes which tokens were used: the first use of each within a second, all others once a minute.
    pub async fn note_uses(self: Arc<Self>, stop: CancellationToken) {
        let note = async {
            let (mut ticks, mut all_at, mut told) = (every(USES_LOOK), Instant::now() + USES_NOTED, false);
            loop {
                ticks.tick().await;
                if !self.readiness.is_migrated() {
                    continue;
                }
                let all = Instant::now() >= all_at;
                if all {
                    all_at = Instant::now() + USES_NOTED;
                    // Where the role may not change applications, another gateway does it; no gateway of now needs it.
                    if let Err(error) = self.store.retire_expired().await {
                        tracing::debug!(%error, "tokens whose time is over could not be ended");
                    }
                }
                match self.trust.note_uses(&self.store, all).await {
                    Ok(()) => told = false,
                    // Nothing but what people see of tokens hangs on it.
                    Err(error) if !told => {
                        tracing::warn!(%error, "the uses of tokens could not be noted; trying again");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
        };
        until(&stop, note).await;
        // A database that hangs must not hold up the end; what is left is lost then.
        let _lost = tokio::time::timeout(USES_LAST, self.trust.note_uses(&self.store, true)).await;
    }

    /// Folds what the writers have counted, now and then. What is not folded is read all the same, so a fold that fails
    /// costs nothing but time; one that took too long is tried with half as much.
    pub async fn fold_counts(self: Arc<Self>, stop: CancellationToken) {
        let fold = async {
            let mut rows = FOLD_ROWS_MAX;
            let mut ticks = every(FOLD_EVERY);
            loop {
                ticks.tick().await;
                let mut folds = 0;
                while self.readiness.is_migrated() {
                    let began = Instant::now();
                    match self.store.fold_counts(rows).await {
                        Ok(taken) if taken < u64::from(rows) => break,
                        Ok(_) => rows = rows.saturating_mul(2).min(FOLD_ROWS_MAX),
                        Err(error @ store::Error::Slow(_)) => {
                            self.warn(&error, "counts could not be folded; trying half as many");
                            rows = (rows / 2).max(1);
                        }
                        Err(error @ (store::Error::Away(_) | store::Error::NoDescriptors)) => {
                            tracing::debug!(%error, "counts could not be folded");
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "counts could not be folded; they gather meanwhile, and reads of counts take longer");
                            break;
                        }
                    }
                    folds += 1;
                    if folds < FOLDS_PAUSED {
                        tokio::time::sleep((began.elapsed() * FOLD_PAUSE).min(FOLD_EVERY)).await;
                    }
                }
            }
        };
        until(&stop, fold).await;
    }
}

fn every(pause: Duration) -> Interval {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Runs a loop that has no end of its own.
async fn until(stop: &CancellationToken, endless: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = endless => {}
    }
}
