//! The tasks that a gateway runs for its database: they migrate or prove the schema, watch whether the database
//! answers, keep the tables within their bounds, fold counts, record the uses of tokens, and scrub older dead letters.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use eye_judge::Validators;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::duties::Duties;
use crate::first_admin::{self, AtStart, FirstAdmin};
use crate::readiness::Readiness;
use crate::retention::Retention;
use crate::scrub::{Scrub, ScrubSettings};
use crate::store::{self, Duty, FOLD_ROWS_MAX, Role, Store, Upkeep};
use crate::trust::Trust;
use crate::trust::own::Local;

/// The pause before the gateway tries the database again at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// The time between two checks of the schema, the clocks and the announcements of retention.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// The time between two looks at the condition of the tables. With 240 months one takes the database some 100 ms of a busy
/// processor, most of it for their sizes.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);
/// The time between two checks whether other modules take secrets out of events.
const TAKING_EVERY: Duration = Duration::from_secs(1);
/// The time between two checks whether the database answers.
const DATABASE_LOOK: Duration = Duration::from_secs(1);
/// The time between two checks for tokens in their first use, and between two records of all uses.
const USES_LOOK: Duration = Duration::from_secs(1);
const USES_NOTED: Duration = Duration::from_secs(60);
/// How long a gateway that stops waits for the last record of uses.
const USES_LAST: Duration = Duration::from_secs(1);
/// The time between two folds of the counts. Reads add up the counts that are not folded yet.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// The next fold waits this many times as long as the last one took, if there is more to fold. Folds share the
/// processors of the database with batches: several in a row would delay answers more than any batch does.
const FOLD_PAUSE: u32 = 4;
/// How many folds in a row have a pause after them. Further ones follow at once: a backlog that lasts so long grows faster
/// than paused folds clear it.
const FOLDS_PAUSED: u32 = 20;

/// The parts that the tasks use.
#[derive(Debug)]
pub struct Tending {
    /// The database.
    pub store: Store,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// The modules that serve now.
    pub validators: Validators,
    /// The applications. The tasks read them as soon as the schema is there.
    pub trust: Arc<Trust>,
    /// The rights of callers from this machine.
    pub local: Local,
    /// The administrator that the gateway registers by itself.
    pub first_admin: FirstAdmin,
    /// What the log says about the panel at the start.
    pub panel: AtStart,
    /// The duties of this gateway among all gateways of the database.
    pub duties: Arc<Duties>,
    /// The rounds that remove old rows.
    pub retention: Arc<Retention>,
    /// The condition of the tables. The tasks write it, and each scrape of the metrics reads it.
    pub upkeep: Arc<ArcSwapOption<Upkeep>>,
    /// The tasks record here that the schema is proved.
    pub readiness: Arc<Readiness>,
    /// The settings of scrubbing older dead letters. A reload replaces them.
    pub scrub: ArcSwap<ScrubSettings>,
    /// Whether this gateway migrates the schema. Otherwise it only proves that the schema serves this program.
    pub migrates: bool,
    /// The error that ends the gateway. `serve` returns it.
    pub failed: OnceLock<store::Error>,
}

impl Tending {
    /// Migrates the embedded Postgres before the gateway serves, and registers `local` and the administrator there. It
    /// tries again while the server is away, since the server may die and start again meanwhile.
    ///
    /// # Errors
    ///
    /// All errors except that the server is away or slow.
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
        self.say_who_is_trusted().await;
        Ok(())
    }

    async fn say_who_is_trusted(&self) {
        self.first_admin.say_who_is_trusted(&self.trust, self.local, &self.store, &self.panel).await;
    }

    /// Does the same for a database of the operator's own, after its schema is proved. Errors that do not pass are
    /// logged.
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
                Ok(()) => break self.say_who_is_trusted().await,
                Err(store::Error::Away(_) | store::Error::Slow(_)) => tokio::time::sleep(DATABASE_RETRY).await,
                Err(error) => break tracing::error!(%error, "the first administrator could not be registered"),
            }
        }
    }

    /// Migrates or proves the schema as soon as the database answers, then keeps the tables within their bounds. A reader
    /// only proves the schema. It ends the gateway when the schema does not serve this program, now or after another gateway
    /// migrated it.
    pub async fn tend_database(self: Arc<Self>, stop: CancellationToken, shutdown: CancellationToken) {
        let tend = async {
            let schema = self.prepare_schema().await?;
            let writes = self.store.role() == Role::Full;
            // Until this record exists, all gateways keep less of refused events.
            if writes && let Err(error) = self.scrub().note().await {
                self.warn(&error, "which validators take secrets out could not be recorded; trying again");
            }
            self.readiness.set_migrated();
            tracing::info!("{schema}");
            if !matches!(self.first_admin, FirstAdmin::InDataDir(_)) {
                self.greet().await;
            }
            tokio::select! {
                refused = self.watch_database() => Err(refused),
                () = self.retention.tend(&self.store, &self.clock, &self.duties), if writes => Ok(()),
            }
        };
        if let Some(Err(error)) = stop.run_until_cancelled(tend).await {
            // An earlier error is the cause and stays.
            let _ = self.failed.set(error);
            shutdown.cancel();
        }
    }

    /// Tries until the schema serves this program.
    ///
    /// # Errors
    ///
    /// [`store::Error::SchemaFloor`]: a retry cannot succeed.
    async fn prepare_schema(&self) -> Result<store::Schema, store::Error> {
        let mut told = String::new();
        loop {
            let prepared = if self.migrates { self.store.migrate().await } else { self.store.prove_schema().await };
            let error = match prepared {
                Err(error) if !matches!(error, store::Error::SchemaFloor { .. }) => error,
                ended => return ended,
            };
            let cause = error.to_string();
            // `look_at_database` logs that the database is away, and why.
            self.readiness.look().await;
            if cause != told && !self.store.is_away() {
                tracing::warn!("the database is not ready, trying again until it is: {cause}");
                told = cause;
            }
            tokio::time::sleep(DATABASE_RETRY).await;
        }
    }

    /// Logs work that failed and is tried again. While the database is away it logs at `debug`, since
    /// `look_at_database` has logged the cause.
    fn warn(&self, error: &store::Error, what: &str) {
        if self.store.is_away() {
            tracing::debug!(%error, "{what}");
        } else {
            tracing::warn!(%error, "{what}");
        }
    }

    /// Checks now and then whether a newer release has migrated the schema beyond this program, whether the clocks
    /// agree, and which removals retention has announced. Returns the error that ends the gateway.
    async fn watch_database(&self) -> store::Error {
        if let Ok(Some(received)) = self.store.last_received().await {
            self.clock.saw_us(received.timestamp_micros());
        }
        let mut upkeep_at = Instant::now();
        loop {
            // `look_at_database` logs that the database is away. Until it is back, the last result holds.
            let _away = self.retention.look(&self.store, &self.clock).await;
            if Instant::now() >= upkeep_at {
                upkeep_at = Instant::now() + UPKEEP_EVERY;
                self.look_at_tables().await;
            }
            tokio::time::sleep(WATCH_EVERY).await;
            if let Err(error @ store::Error::SchemaFloor { .. }) = self.store.prove_schema().await {
                return error;
            }
        }
    }

    async fn look_at_tables(&self) {
        let looked = self.store.upkeep().await;
        if let Err(error) = &looked {
            tracing::debug!(%error, "the condition of the tables is not known");
        }
        // What was seen before may be over.
        self.upkeep.store(looked.ok().map(Arc::new));
    }

    /// Asks the database each second, so that the log has its outages, their causes and their ends also while no
    /// requests come.
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
        let Self { store, validators, clock, scrub, .. } = self;
        let ScrubSettings { limits, rules } = **scrub.load();
        Scrub { store, validators, rules, clock, limits, dry_run: false, is_duty: true }
    }

    /// Records which modules take secrets out, each second if they have changed, and now and then scrubs older dead
    /// letters.
    pub async fn scrub_letters(self: Arc<Self>, stop: CancellationToken) {
        let scrub = async {
            let (mut known, mut round_at, mut had) = (None, None::<Instant>, false);
            let mut ticks = every(TAKING_EVERY);
            loop {
                ticks.tick().await;
                let taking = self.validators.taking();
                let is_duty = self.duties.holds(Duty::Scrub);
                let changed = known.as_ref() != Some(&taking) || (is_duty && !had);
                if !self.readiness.is_migrated()
                    || !(changed || round_at.is_none_or(|at| at.elapsed() >= self.scrub.load().limits.every))
                {
                    continue;
                }
                (round_at, had) = (Some(Instant::now()), is_duty);
                let scrub = self.scrub();
                // Each gateway records which of its modules take secrets out; one of them scrubs for all.
                let round = match is_duty {
                    true => self.duties.while_held(Duty::Scrub, async { scrub.round().await.map(drop) }).await,
                    false => Some(scrub.note().await.map(drop)),
                };
                match round {
                    Some(Ok(())) => known = Some(taking),
                    Some(Err(error)) => {
                        self.warn(&error, "older dead letters could not be scrubbed; trying again");
                        if is_duty && matches!(error, store::Error::Refused(_)) {
                            self.duties.leave(Duty::Scrub).await;
                        }
                    }
                    None => {}
                }
            }
        };
        until(&stop, scrub).await;
    }

    /// Records the uses of tokens: the first use of each within a second, all others once a minute.
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
                    // Without the right to change applications, another gateway does it. An expired token is rejected
                    // in any case.
                    if let Err(error) = self.store.retire_expired().await {
                        tracing::debug!(%error, "expired tokens could not be ended");
                    }
                    // What is over opens nothing in any case.
                    if let Err(error) = self.store.forget_panel().await {
                        tracing::debug!(%error, "old codes and sessions of the panel could not be removed");
                    }
                }
                match self.trust.note_uses(&self.store, all).await {
                    Ok(()) => told = false,
                    // Only the lists of tokens show these times.
                    Err(error) if !told => {
                        tracing::warn!(%error, "the uses of tokens could not be recorded; trying again");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
        };
        until(&stop, note).await;
        // A database that hangs must not delay the end. The uses since the last record are lost then.
        let _lost = tokio::time::timeout(USES_LAST, self.trust.note_uses(&self.store, true)).await;
    }

    /// Folds the counts that the writers have added. Reads include the counts that are not folded, so a fold that fails
    /// costs only their time. After a fold that took too long, the next one takes half as many rows.
    pub async fn fold_counts(self: Arc<Self>, stop: CancellationToken) {
        let fold = async {
            let mut rows = FOLD_ROWS_MAX;
            let mut ticks = every(FOLD_EVERY);
            loop {
                ticks.tick().await;
                let mut folds = 0;
                while self.duties.holds(Duty::Folds) {
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
                            self.duties.leave(Duty::Folds).await;
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

/// Runs an endless loop until the gateway stops.
async fn until(stop: &CancellationToken, endless: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = endless => {}
    }
}
