//! What this gateway knows of modules that are compared with those that serve: each second it takes what was compared, adds
//! it to the counts of all gateways, and remembers it while the database is away. It also gives the secret of the database to
//! the canaries, so that all gateways choose the same sessions. Flushes are not counted twice unless the database loses an
//! answer; then what was compared within a second may be.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eye_judge::{ApplicationPairs, CandidateTrial, Comparison, PairCounts, Sample, Validators};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::{NewPairs, Pairs, PairsKey, Store};

/// The time between two flushes.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// The time between two looks whether the schema is proved.
const READY_LOOK: Duration = Duration::from_millis(20);
/// The pause after an error of the database, while the secret is not known.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// Longest time for the last flush of a gateway that stops.
const LAST_FLUSH: Duration = Duration::from_secs(1);
/// Pairs of modules that wait for the database. Those of further ones are dropped and counted.
const WAITING_MAX: usize = 1_000;
/// Applications of one of them. Further ones are added up under an empty name.
const APPLICATIONS_MAX: usize = 200;
/// Samples of a kind.
const SAMPLES_MAX: usize = 20;

/// What was compared and is not in the database yet.
#[derive(Debug, Default)]
struct Waiting {
    counts: Pairs,
    applications: BTreeMap<String, ApplicationPairs>,
    samples: Vec<Sample>,
}

/// Counts what modules say of the same events.
#[derive(Debug)]
pub struct Candidates {
    store: Store,
    validators: Validators,
    waiting: Mutex<BTreeMap<PairsKey, Waiting>>,
    /// Pairs that found no room while the database was away. Metrics read it.
    dropped: AtomicU64,
    /// The failure of a flush was told, and no later one succeeded.
    told: AtomicBool,
}

impl Candidates {
    /// Without the secret of the database so far.
    pub fn new(store: Store, validators: Validators) -> Self {
        let (dropped, told) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { store, validators, waiting: Mutex::default(), dropped, told }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<PairsKey, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compared events that are in no count, since the database was away for too long.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Counts until `stop`, from the moment on at which the schema is proved.
    pub async fn run(&self, is_ready: impl Fn() -> bool, stop: CancellationToken) {
        let prepared = async {
            while !is_ready() {
                sleep(READY_LOOK).await;
            }
            self.learn_key().await;
        };
        if stop.run_until_cancelled(prepared).await.is_none() {
            return;
        }
        let mut ticks = interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A flush under way is not cut off at once, so that what it has taken is not lost.
        let late = async {
            stop.cancelled().await;
            sleep(LAST_FLUSH).await;
        };
        let mut late = pin!(late);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            tokio::select! {
                () = self.flush() => {}
                () = &mut late => return,
            }
        }
        let _late = timeout(LAST_FLUSH, self.flush()).await;
    }

    async fn learn_key(&self) {
        let mut told = false;
        loop {
            match self.store.canary_key().await {
                Ok(key) => return self.validators.set_canary_key(key),
                Err(error) if !self.store.is_away() && !std::mem::replace(&mut told, true) => {
                    tracing::warn!(%error, "canaries judge nothing, since their secret cannot be read; trying again");
                }
                Err(error) => tracing::debug!(%error, "the secret of canaries could not be read"),
            }
            sleep(ERROR_PAUSE).await;
        }
    }

    /// Adds what was compared since the last flush to the counts of all gateways.
    async fn flush(&self) {
        self.gather(self.validators.take_comparisons());
        let taken = std::mem::take(&mut *self.waiting());
        if taken.is_empty() {
            return;
        }
        let pairs: Vec<NewPairs> = taken.iter().map(|(key, waiting)| waiting.new_pairs(key)).collect();
        match self.store.add_pairs(&pairs).await {
            Ok(_sums) => self.told.store(false, Relaxed),
            Err(error) => {
                if !self.store.is_away() && !self.told.swap(true, Relaxed) {
                    tracing::warn!(%error, "what candidates say is not counted yet; trying again");
                }
                self.put_back(taken);
            }
        }
    }

    fn gather(&self, comparisons: Vec<Comparison>) {
        let mut waiting = self.waiting();
        for comparison in comparisons {
            let key = key_of(&comparison);
            if waiting.len() >= WAITING_MAX && !waiting.contains_key(&key) {
                self.dropped.fetch_add(comparison.counts.compared(), Relaxed);
                continue;
            }
            let counts = counts_of(&comparison.counts, comparison.judged, comparison.judged_refused);
            waiting.entry(key).or_default().add(counts, comparison.applications, comparison.samples);
        }
    }

    /// Remembers what the database did not take.
    fn put_back(&self, taken: BTreeMap<PairsKey, Waiting>) {
        let mut waiting = self.waiting();
        for (key, Waiting { counts, applications, samples }) in taken {
            waiting.entry(key).or_default().add(counts, applications, samples);
        }
    }
}

impl Waiting {
    fn add(&mut self, counts: Pairs, applications: BTreeMap<String, ApplicationPairs>, samples: Vec<Sample>) {
        self.counts.add(&counts);
        for (name, pairs) in applications {
            let has_room = self.applications.len() < APPLICATIONS_MAX || self.applications.contains_key(&name);
            let own = self.applications.entry(if has_room { name } else { String::new() }).or_default();
            own.compared += pairs.compared;
            own.would_refuse += pairs.would_refuse;
        }
        for sample in samples {
            if self.samples.iter().filter(|other| other.what == sample.what).count() < SAMPLES_MAX {
                self.samples.push(sample);
            }
        }
    }

    fn new_pairs(&self, key: &PairsKey) -> NewPairs {
        let applications = json!(self.applications);
        let samples = self.samples.iter().map(|sample| json!(sample)).collect();
        NewPairs { key: key.clone(), counts: self.counts, applications, samples }
    }
}

/// Which pairs a comparison has.
fn key_of(comparison: &Comparison) -> PairsKey {
    let share = match comparison.trial {
        CandidateTrial::Canary(share) => share.percent(),
        CandidateTrial::Shadow | CandidateTrial::Replacement => 0.0,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is at most 100 percent")]
    let share = (share * 1_000.0).round() as u32;
    PairsKey {
        event_type: comparison.slot.to_string(),
        digest: comparison.digest,
        against: comparison.against,
        trial: comparison.trial.as_str(),
        share,
    }
}

fn counts_of(pairs: &PairCounts, judged: u64, judged_refused: u64) -> Pairs {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Pairs {
        same: number(pairs.same),
        would_refuse: number(pairs.would_refuse),
        would_take: number(pairs.would_take),
        amends_otherwise: number(pairs.amends_otherwise),
        faulted: number(pairs.faulted),
        not_compared: number(pairs.not_compared),
        old_refused: number(pairs.old_refused),
        new_refused: number(pairs.new_refused),
        judged: number(judged),
        judged_refused: number(judged_refused),
    }
}
