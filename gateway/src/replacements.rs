//! The modules that replaced others lately, and with which earlier ones the guard compares them. The generations in the
//! database say so, or the history in the data directory where modules come from a directory. So a restart, a second push or
//! a change while the gateway was down does not end the guard, and what somebody put back is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Replacement, Served, Slot, Unprepared, Validators, compared_with};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::store::{self, ServedRow, Store};

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rows of sums that begin so shortly before a module came are of its own time: two clocks measure it.
const SLACK: Duration = Duration::from_secs(2);

/// What the pairs depend on: a look at the same stamp finds the same.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    guard_minutes: u64,
    /// The generation, or a number that grows with each change of the directory.
    change: u64,
}

#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    /// The pairs, each with the time at which the guard ends.
    pairs: Vec<(Replacement, Instant)>,
    /// Those whose earlier module could not be loaded.
    failed: BTreeSet<Replacement>,
}

/// What was found at a look.
struct Found {
    pair: Replacement,
    age: Duration,
}

/// Knows with which earlier modules those that serve are compared.
pub struct Replacements {
    store: Store,
    validators: Validators,
    modules_from: ModulesFrom,
    guard_minutes: AtomicU64,
    known: Mutex<Known>,
    /// What the guard does not take back, and why is told already.
    left: Mutex<BTreeSet<(Slot, Digest)>>,
    /// An error of the database was told.
    told: AtomicBool,
}

impl fmt::Debug for Replacements {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Replacements").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Replacements {
    /// Knows of none before its first look.
    pub fn new(store: Store, validators: Validators, modules_from: ModulesFrom, guard_minutes: u64) -> Self {
        let guard_minutes = AtomicU64::new(guard_minutes);
        Self {
            store,
            validators,
            modules_from,
            guard_minutes,
            known: Mutex::default(),
            left: Mutex::default(),
            told: AtomicBool::new(false),
        }
    }

    /// Changes for how long a module is compared with the one that it replaced.
    pub fn set_guard_minutes(&self, minutes: u64) {
        self.guard_minutes.store(minutes, Relaxed);
    }

    /// Whether replacements are guarded at all.
    pub fn are_guarded(&self) -> bool {
        self.guard_minutes.load(Relaxed) > 0
    }

    /// Looks once in a second, until it is dropped.
    pub async fn run(&self) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Leaves a module from now on, though much speaks against it. Returns whether that is new.
    pub fn leave(&self, slot: &Slot, digest: Digest) -> bool {
        self.validators.forget_replaced(slot);
        lock(&self.left).insert((slot.clone(), digest))
    }

    /// Whether a file of the modules directory is compared with an earlier version at this moment. What is known may be a
    /// second old, and somebody may have put the file back meanwhile.
    pub async fn is_compared(&self, slot: &Slot, digest: Digest, against: Digest) -> bool {
        let (validators, own) = (self.validators.clone(), slot.clone());
        let served = tokio::task::spawn_blocking(move || validators.served(&own)).await;
        let Ok(Ok(served)) = served else { return false };
        let is_it = |place: usize| served[place].digest == Some(against) && served[0].digest == Some(digest);
        compared_with(&served, self.guard()).is_some_and(is_it)
    }

    fn guard(&self) -> Duration {
        Duration::from_secs(self.guard_minutes.load(Relaxed) * 60)
    }

    async fn look(&self) {
        let (as_of, before) = (std::time::Instant::now(), Instant::now());
        let change = match self.modules_from {
            ModulesFrom::Database => self.validators.generation(),
            ModulesFrom::Directory => *self.validators.changes().borrow(),
        };
        let stamp = Stamp { guard_minutes: self.guard_minutes.load(Relaxed), change };
        let guard = self.guard();
        if lock(&self.known).stamp != Some(stamp) {
            let found = match self.modules_from {
                ModulesFrom::Database => self.by_generations(guard).await,
                ModulesFrom::Directory => Ok(self.by_history(guard).await),
            };
            match found {
                Ok(found) => self.learn(stamp, found, before + guard).await,
                // What was known goes on, and the next look asks again.
                Err(error) if !self.store.is_away() && !self.told.swap(true, Relaxed) => {
                    tracing::warn!(%error, "it is not known which modules were replaced lately; trying again");
                }
                Err(error) => tracing::debug!(%error, "it is not known which modules were replaced lately"),
            }
        }
        let wanted: Vec<Replacement> = {
            let (mut known, left) = (lock(&self.known), lock(&self.left));
            known.pairs.retain(|(pair, until)| *until > before && !left.contains(&(pair.slot.clone(), pair.digest)));
            known.pairs.iter().map(|(pair, _)| pair.clone()).collect()
        };
        for missing in self.validators.compare_replaced(&wanted, as_of) {
            self.load(missing).await;
        }
    }

    /// Takes what was found. `until` is the end of the guard of a module that came at this moment.
    async fn learn(&self, stamp: Stamp, found: Vec<Found>, until: Instant) {
        let mut new = Vec::new();
        {
            let mut known = lock(&self.known);
            let pairs =
                found.iter().map(|Found { pair, age }| (pair.clone(), until.checked_sub(*age).unwrap_or(until)));
            let pairs: Vec<_> = pairs.collect();
            let is_new = |one: &&Found| !known.pairs.iter().any(|(pair, _)| *pair == one.pair);
            new.extend(found.iter().filter(is_new).map(|one| (one.pair.slot.to_string(), one.pair.digest, one.age)));
            known.failed.retain(|failed| pairs.iter().any(|(pair, _)| pair == failed));
            (known.stamp, known.pairs) = (Some(stamp), pairs);
        }
        if self.modules_from == ModulesFrom::Database {
            return;
        }
        // A generation forgets the sums of an earlier time of the same module by itself.
        for (event_type, digest, age) in new {
            if let Err(error) = self.store.forget_replacement_before(&event_type, digest, age + SLACK).await {
                tracing::debug!(%error, event_type, "what the module said at an earlier time still counts");
            }
        }
    }

    /// The pairs by the generations in the database.
    async fn by_generations(&self, guard: Duration) -> Result<Vec<Found>, store::Error> {
        if guard.is_zero() {
            return Ok(Vec::new());
        }
        let mut served: BTreeMap<String, Vec<ServedRow>> = BTreeMap::new();
        for row in self.store.served_lately(guard).await? {
            served.entry(row.event_type.clone()).or_default().push(row);
        }
        Ok(served.into_iter().filter_map(|(event_type, rows)| of_rows(&event_type, rows, guard)).collect())
    }

    /// The pairs by the history in the data directory. What cannot be read is not compared.
    async fn by_history(&self, guard: Duration) -> Vec<Found> {
        let validators = self.validators.clone();
        let read = move || {
            let reports = validators.report().into_iter();
            let serving = reports.filter_map(|report| Some((Slot::parse(&report.event_type).ok()?, report.digest?)));
            let found = serving.filter_map(|(slot, digest)| {
                let served = validators.served(&slot).ok()?;
                let against = served[compared_with(&served, guard)?].digest?;
                let age = served[0].age;
                // An earlier version serves while the newest file is refused.
                (served[0].digest == Some(digest))
                    .then_some(Found { pair: Replacement { slot, digest, against, settings: None }, age })
            });
            found.collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Loads the earlier module of a pair. One that cannot be loaded is told once.
    async fn load(&self, pair: Replacement) {
        if lock(&self.known).failed.contains(&pair) {
            return;
        }
        let (validators, slot, against) = (self.validators.clone(), pair.slot.clone(), pair.against);
        let kept = tokio::task::spawn_blocking(move || validators.kept_content(&slot, against)).await;
        let content = match kept {
            Ok(Ok(Some(content))) => Some(content),
            _ if self.modules_from == ModulesFrom::Database => match self.store.module_contents(&[against]).await {
                Ok(mut contents) => contents.remove(&against),
                // The next look tries again.
                Err(_) => return,
            },
            _ => None,
        };
        let loaded = match content {
            Some(content) => self.validators.load_replaced(&pair, content.into()).await,
            None => Err(Unprepared::NoContent),
        };
        let why = match loaded {
            Ok(()) | Err(Unprepared::Stopped) => return,
            Err(Unprepared::Refused(why)) => why.to_string(),
            Err(Unprepared::NoContent) => "its content is not kept".to_owned(),
        };
        tracing::warn!(
            event_type = %pair.slot, digest = %pair.digest, against = %pair.against,
            "the guard cannot compare the module with the one before: {why}"
        );
        lock(&self.known).failed.insert(pair);
    }
}

/// The pair of an event type by its generations, the newest first.
fn of_rows(event_type: &str, rows: Vec<ServedRow>, guard: Duration) -> Option<Found> {
    let digest = |row: &ServedRow| row.digest.as_deref().and_then(|digest| digest.try_into().ok()).map(Digest);
    let age = |row: &ServedRow| Duration::try_from_secs_f64(row.age_s.max(0.0)).unwrap_or(Duration::MAX);
    let served: Vec<Served> = rows
        .iter()
        .map(|row| Served {
            digest: digest(row),
            age: age(row),
            is_put_back: row.is_put_back,
            is_expected: row.is_expected,
            is_taken_back: row.is_taken_back,
        })
        .collect();
    let place = compared_with(&served, guard)?;
    let pair = Replacement {
        slot: Slot::parse(event_type).ok()?,
        digest: served[0].digest?,
        against: served[place].digest?,
        settings: rows.into_iter().nth(place).map(|row| row.settings.unwrap_or_default()),
    };
    Some(Found { pair, age: served[0].age })
}
