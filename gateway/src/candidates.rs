//! What this gateway knows of modules that are compared with those that serve: each second it takes what was compared, adds
//! it to the counts of all gateways, and remembers it while the database is away. It also gives the secret of the database to
//! the canaries, so that all gateways choose the same sessions. Flushes are not counted twice unless the database loses an
//! answer; then what was compared within a second may be. The guard looks at the sums after each flush, and takes back what
//! breaks, refuses many more events, or is too slow.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eye_event::verdict::Digest;
use eye_judge::guard::{self, Totals};
use eye_judge::{ApplicationPairs, CandidateTrial, Comparison, ModulesFrom, PairCounts, Sample, Slot, Validators};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::replacements::Replacements;
use crate::store::{self, NewPairs, Pairs, PairsKey, PairsRow, Store, TakeBack};
use crate::taken_back::{Notes, Seen};
use crate::trials::{self, Trials};

/// The words of the reasons for which the guard takes a module back.
pub const REASONS: [&str; 3] = ["faulted", "refuses", "slow"];
/// The word of a trial that compares a module with the one that it replaced.
const REPLACEMENT: &str = "replacement";
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

/// What is known of a new module beside its pairs.
#[derive(Clone, Debug)]
struct Standing {
    slot: Slot,
    p99_us: Option<f64>,
    calls: u64,
    deadline_ms: u64,
    guard: bool,
    expects_refusals: bool,
    /// Its settings force it.
    forced: bool,
}

impl Standing {
    fn of(comparison: &Comparison) -> Self {
        Self {
            slot: comparison.slot.clone(),
            p99_us: comparison.p99_us,
            calls: comparison.calls,
            deadline_ms: comparison.deadline_ms,
            guard: comparison.guard,
            expects_refusals: comparison.expects_refusals,
            forced: comparison.forced,
        }
    }
}

/// A module that the guard took back at this gateway.
#[derive(Clone, Debug)]
pub struct TakenBack {
    /// The event types.
    pub slot: Slot,
    /// The module.
    pub digest: Digest,
    /// How it was tried: `shadow`, `canary` or `replacement`.
    pub trial: &'static str,
    /// The word of the reason.
    pub code: &'static str,
    /// The reason for people.
    pub reason: String,
    /// The module that serves since.
    pub serves: Digest,
    /// Events of senders that it had refused by then, as far as they were compared.
    pub refused: i64,
    /// Its dead letters that were not redriven, and how many of them have no bytes to judge again; `None` if that is not
    /// known.
    pub letters: Option<(i64, i64)>,
}

impl TakenBack {
    /// What others are told of it.
    pub fn as_json(&self) -> Value {
        json!({
            "event_type": self.slot.to_string(),
            "digest": self.digest.to_string(),
            "trial": self.trial,
            "code": self.code,
            "reason": self.reason,
            "serves": self.serves.to_string(),
            "refused": self.refused,
            "letters": self.letters.map(|(letters, _)| letters),
            "letters_without_bytes": self.letters.map(|(_, without)| without),
            "redrive": self.redrive(),
        })
    }

    /// The command that judges again what it refused.
    fn redrive(&self) -> String {
        format!("eye dead-letters redrive --validator {} --store", self.digest)
    }

    fn log(&self) {
        let Self { slot, digest, trial, reason, serves, .. } = self;
        let (letters, without_bytes) = self.letters.unwrap_or_default();
        tracing::warn!(
            event_type = %slot, %digest, trial, %serves, letters, without_bytes,
            "the guard took the module back: {reason}. What it refused is judged again by `{}`", self.redrive()
        );
    }
}

/// Gets what the guard took back.
pub type Notice = Box<dyn Fn(&TakenBack) + Send + Sync>;

/// What was compared and is not in the database yet.
#[derive(Debug, Default)]
struct Waiting {
    counts: Pairs,
    applications: BTreeMap<String, ApplicationPairs>,
    samples: Vec<Sample>,
}

/// Counts what modules say of the same events.
pub struct Candidates {
    store: Store,
    validators: Validators,
    modules_from: ModulesFrom,
    notice: Notice,
    notes: Arc<Notes>,
    trials: Trials,
    waiting: Mutex<BTreeMap<PairsKey, Waiting>>,
    /// How the new modules stand at this gateway.
    standing: Mutex<BTreeMap<PairsKey, Standing>>,
    /// The pairs that this gateway counted, by event type. Metrics read it.
    counted: Mutex<BTreeMap<String, Pairs>>,
    replacements: Replacements,
    /// Modules that this gateway took back, by reason. Metrics read it.
    taken_back: [AtomicU64; REASONS.len()],
    /// Pairs that found no room while the database was away. Metrics read it.
    dropped: AtomicU64,
    /// The failure of a flush was told, and no later one succeeded.
    told: AtomicBool,
}

impl fmt::Debug for Candidates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Candidates").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Candidates {
    /// Without the secret of the database so far. `notice` gets what the guard takes back.
    pub fn new(
        store: Store,
        validators: Validators,
        modules_from: ModulesFrom,
        guard_minutes: u64,
        notice: Notice,
    ) -> Self {
        let replacements = Replacements::new(store.clone(), validators.clone(), modules_from, guard_minutes);
        let notes = Arc::new(Notes::new(store.clone(), validators.clone(), modules_from));
        Self {
            store,
            validators,
            modules_from,
            notice,
            notes,
            trials: Trials::default(),
            waiting: Mutex::default(),
            standing: Mutex::default(),
            counted: Mutex::default(),
            replacements,
            taken_back: Default::default(),
            dropped: AtomicU64::new(0),
            told: AtomicBool::new(false),
        }
    }

    /// Changes how long a module is compared with the one that it replaced.
    pub fn set_guard_minutes(&self, minutes: u64) {
        self.replacements.set_guard_minutes(minutes);
    }

    /// Modules that this gateway took back, by reason.
    pub fn taken_back(&self) -> [(&'static str, u64); REASONS.len()] {
        let count = |place: usize| self.taken_back[place].load(Relaxed);
        std::array::from_fn(|place| (REASONS[place], count(place)))
    }

    /// The pairs that this gateway counted, by event type, with the words of their outcomes.
    pub fn pairs(&self) -> Vec<(String, [(&'static str, u64); 6])> {
        let mut all = lock(&self.counted).clone();
        for report in self.validators.candidates() {
            if all.len() < WAITING_MAX {
                all.entry(report.slot.to_string()).or_default();
            }
        }
        let words = |pairs: &Pairs| {
            let count = |count: i64| u64::try_from(count).unwrap_or_default();
            [
                ("same", count(pairs.same)),
                ("would_refuse", count(pairs.would_refuse)),
                ("would_take", count(pairs.would_take)),
                ("amends_otherwise", count(pairs.amends_otherwise)),
                ("faulted", count(pairs.faulted)),
                ("not_compared", count(pairs.not_compared)),
            ]
        };
        all.into_iter().map(|(event_type, pairs)| (event_type, words(&pairs))).collect()
    }

    /// The modules that this gateway compares with those that serve, by trial.
    pub fn tried(&self) -> [(&'static str, usize); 3] {
        let reports = self.validators.candidates();
        let count = |word: &str| reports.iter().filter(|report| report.trial.as_str() == word).count();
        ["shadow", "canary", REPLACEMENT].map(|word| (word, count(word)))
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
        };
        if stop.run_until_cancelled(prepared).await.is_none() {
            return;
        }
        // Without the secret canaries judge nothing, but all else is compared and guarded.
        let replacements = stop.run_until_cancelled(self.replacements.run());
        tokio::join!(stop.run_until_cancelled(self.learn_key()), replacements, self.count(&stop));
    }

    /// Counts until `stop`.
    async fn count(&self, stop: &CancellationToken) {
        let mut ticks = interval(FLUSH_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A flush under way is not cut off at once, so that what it has taken is not lost.
        let late = async {
            stop.cancelled().await;
            sleep(LAST_FLUSH).await;
        };
        let (mut late, mut seen) = (pin!(late), Seen::default());
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let work = async {
                self.notes.look(&mut seen).await;
                self.flush().await;
            };
            tokio::select! {
                () = work => {}
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
        if self.modules_from == ModulesFrom::Directory && !self.begin_trials().await {
            return;
        }
        self.gather(self.validators.take_comparisons());
        let taken = std::mem::take(&mut *lock(&self.waiting));
        if taken.is_empty() {
            return;
        }
        let pairs: Vec<NewPairs> = taken.iter().map(|(key, waiting)| waiting.new_pairs(key)).collect();
        match self.store.add_pairs(&pairs).await {
            Ok(sums) => {
                self.told.store(false, Relaxed);
                for sum in &sums {
                    let key = taken.keys().find(|key| is_of(sum, key));
                    if let Some(key) = key
                        && let Err(error) = self.look(key, sum).await
                    {
                        tracing::warn!(%error, event_type = key.event_type, digest = %key.digest, "a module is not taken back yet; trying again");
                    }
                }
                let known: Vec<PairsKey> = taken.into_keys().collect();
                lock(&self.standing).retain(|key, _| known.contains(key));
            }
            Err(error) => {
                if !self.store.is_away() && !self.told.swap(true, Relaxed) {
                    tracing::warn!(%error, "what candidates say is not counted yet; trying again");
                }
                self.put_back(taken);
            }
        }
    }

    /// Begins the counts of trials that are new in the modules directory. Returns whether pairs may be added now.
    async fn begin_trials(&self) -> bool {
        match trials::begin(&self.store, &self.validators, &self.trials).await {
            Ok(begun) => {
                let is_begun = |key: &PairsKey| {
                    let is_it = |(slot, digest): &(Slot, Digest)| {
                        key.digest == *digest && key.event_type == slot.to_string() && key.trial != REPLACEMENT
                    };
                    begun.iter().any(is_it)
                };
                // What waits for the database is of the trial before.
                lock(&self.waiting).retain(|key, _| !is_begun(key));
                true
            }
            Err(error) => {
                if !self.store.is_away() && !self.told.swap(true, Relaxed) {
                    tracing::warn!(%error, "what candidates say is not counted yet; trying again");
                }
                false
            }
        }
    }

    fn gather(&self, comparisons: Vec<Comparison>) {
        let (mut waiting, mut standing) = (lock(&self.waiting), lock(&self.standing));
        // The last of a trial that is over would count for the next one of the same module.
        for comparison in comparisons.into_iter().filter(|comparison| !comparison.is_over) {
            let key = key_of(&comparison);
            standing.insert(key.clone(), Standing::of(&comparison));
            if waiting.len() >= WAITING_MAX && !waiting.contains_key(&key) {
                self.dropped.fetch_add(comparison.counts.compared(), Relaxed);
                continue;
            }
            let counts = counts_of(&comparison.counts, comparison.judged, comparison.judged_refused);
            let mut counted = lock(&self.counted);
            if counted.len() < WAITING_MAX || counted.contains_key(&key.event_type) {
                counted.entry(key.event_type.clone()).or_default().add(&counts);
            }
            drop(counted);
            waiting.entry(key).or_default().add(counts, comparison.applications, comparison.samples);
        }
    }

    /// Remembers what the database did not take.
    fn put_back(&self, taken: BTreeMap<PairsKey, Waiting>) {
        let mut waiting = lock(&self.waiting);
        for (key, Waiting { counts, applications, samples }) in taken {
            waiting.entry(key).or_default().add(counts, applications, samples);
        }
    }
}

impl Candidates {
    /// Lets the guard look at the sums of a pair of modules.
    async fn look(&self, key: &PairsKey, sum: &PairsRow) -> Result<(), store::Error> {
        let Some(standing) = lock(&self.standing).get(key).cloned() else { return Ok(()) };
        let is_off = key.trial == REPLACEMENT && !self.replacements.are_guarded();
        // What the settings of a file force is taken whatever the guard says.
        let is_forced = self.modules_from == ModulesFrom::Directory && standing.forced;
        if !standing.guard || is_off || is_forced {
            return Ok(());
        }
        let applications = serde_json::from_value(sum.applications.0.clone()).unwrap_or_default();
        let totals = Totals {
            counts: totals_of(&sum.counts.0),
            applications,
            p99_us: standing.p99_us,
            calls: standing.calls,
            deadline_ms: standing.deadline_ms,
            expects_refusals: standing.expects_refusals,
        };
        let Some(found) = guard::verdict(&totals) else { return Ok(()) };
        let (code, reason) = (found.as_str(), found.to_string());
        let back = TakeBack { key, code, reason: &reason, counts: &sum.counts.0 };
        let is_done = match self.modules_from {
            ModulesFrom::Database => self.store.take_back(&back).await?.is_some(),
            ModulesFrom::Directory => self.take_back_file(&standing.slot, &back).await?,
        };
        if !is_done {
            return Ok(());
        }
        if key.trial == REPLACEMENT {
            self.validators.forget_replaced(&standing.slot);
        }
        if let Some(place) = REASONS.iter().position(|word| *word == code) {
            self.taken_back[place].fetch_add(1, Relaxed);
        }
        let refused = back.refused();
        let letters = self.store.letters_of_module(key.digest).await.ok();
        let taken_back = TakenBack {
            slot: standing.slot,
            digest: key.digest,
            trial: key.trial,
            code,
            reason,
            serves: key.against,
            refused,
            letters,
        };
        taken_back.log();
        (self.notice)(&taken_back);
        Ok(())
    }

    /// Takes a file of the modules directory back. Returns whether it was not taken back before.
    async fn take_back_file(&self, slot: &Slot, back: &TakeBack<'_>) -> Result<bool, store::Error> {
        let (digest, against, reason) = (back.key.digest, back.key.against, back.reason);
        let is_replacement = back.key.trial == REPLACEMENT;
        if self.validators.taken_back(slot, digest).is_some() {
            return Ok(false);
        }
        if is_replacement && self.validators.unredacts(slot, digest, against) {
            if self.replacements.leave(slot, digest) {
                tracing::warn!(
                    event_type = %slot, %digest,
                    "the guard leaves the module, since the one before would keep secrets of refused events: {reason}"
                );
            }
            return Ok(false);
        }
        // What somebody put back stays.
        if is_replacement && !self.replacements.is_compared(slot, digest, against).await {
            return Ok(false);
        }
        let row = self.store.note_taken_back(back).await?;
        let (notes, own, serves) = (Arc::clone(&self.notes), slot.clone(), is_replacement.then_some(against));
        let noted = tokio::task::spawn_blocking(move || notes.write(&own, &row, serves)).await;
        match noted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%digest, "a restart may take the module again, since no note is kept: {error}")
            }
            Err(error) => tracing::error!(%error, "taking a module back panicked"),
        }
        Ok(true)
    }
}

impl Waiting {
    fn add(&mut self, counts: Pairs, applications: BTreeMap<String, ApplicationPairs>, samples: Vec<Sample>) {
        self.counts.add(&counts);
        for (name, pairs) in applications {
            let has_room = self.applications.len() < APPLICATIONS_MAX || self.applications.contains_key(&name);
            self.applications.entry(if has_room { name } else { String::new() }).or_default().add(pairs);
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

/// Whether sums are those of these pairs.
fn is_of(sum: &PairsRow, key: &PairsKey) -> bool {
    sum.event_type == key.event_type
        && sum.digest == key.digest.0
        && sum.against == key.against.0
        && sum.trial == key.trial
        && (sum.percent * 1_000.0 - f64::from(key.share)).abs() < 0.5
}

fn totals_of(pairs: &Pairs) -> PairCounts {
    let number = |count: i64| u64::try_from(count).unwrap_or_default();
    PairCounts {
        same: number(pairs.same),
        would_refuse: number(pairs.would_refuse),
        would_take: number(pairs.would_take),
        amends_otherwise: number(pairs.amends_otherwise),
        faulted: number(pairs.faulted),
        not_compared: number(pairs.not_compared),
        old_refused: number(pairs.old_refused),
        new_refused: number(pairs.new_refused),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_database_is_bounded_and_adds_up() {
        let sample = |number: usize| Sample {
            what: "would_refuse".to_owned(),
            session_id: String::new(),
            id: number.to_string(),
            application: "shop".to_owned(),
            received_at_us: 0,
            old: Vec::new(),
            new: Vec::new(),
            fault: None,
        };
        let mut waiting = Waiting::default();
        for round in 0..3_u64 {
            let applications = (0..150).map(|number| {
                let pairs = ApplicationPairs { compared: 2, would_refuse: 1 };
                (format!("application {}", round * 100 + number), pairs)
            });
            let counts = Pairs { same: 150, would_refuse: 150, ..Pairs::default() };
            waiting.add(counts, applications.collect(), (0..10).map(sample).collect());
        }
        assert_eq!((waiting.counts.compared(), waiting.samples.len()), (900, SAMPLES_MAX));
        assert_eq!(waiting.applications.len(), APPLICATIONS_MAX + 1, "those beyond are one without a name");
        assert_eq!(waiting.applications.values().map(|pairs| pairs.compared).sum::<u64>(), 900);
    }
}
