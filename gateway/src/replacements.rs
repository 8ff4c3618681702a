//! The modules that replaced others lately, and with which earlier ones the guard compares them. The generations in the
//! database say so, or the history in the data directory where modules come from a directory. So a restart, a second push or
//! a change while the gateway was down does not end the guard, and what somebody put back is left alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Newest, Replacement, Served, Slot, Unprepared, Validators, compared_with};
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
    swaps: u64,
}

/// What is known of a slot.
struct Found {
    slot: Slot,
    newest: Newest,
    age: Duration,
}

#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    /// The newest modules, each with the time at which the guard ends.
    slots: HashMap<Slot, (Newest, Instant)>,
    /// Pairs whose earlier module could not be loaded.
    failed: BTreeSet<Replacement>,
}

/// Knows with which earlier modules those that serve are compared.
pub struct Replacements {
    store: Store,
    validators: Validators,
    modules_from: ModulesFrom,
    guard_minutes: AtomicU64,
    known: Mutex<Known>,
    /// Modules that the guard leaves in their slots. The log has said why.
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

    /// Whether a file of the modules directory serves, and is compared with an earlier version at this moment. What is known
    /// may be a second old, and somebody may have put the file back meanwhile.
    pub async fn is_compared(&self, slot: &Slot, digest: Digest, against: Digest) -> bool {
        if !self.validators.serving().contains(&(slot.clone(), digest)) {
            return false;
        }
        let (validators, own, guard) = (self.validators.clone(), slot.clone(), self.guard());
        let served = tokio::task::spawn_blocking(move || validators.served(&own, guard)).await;
        let Ok(Ok(served)) = served else { return true };
        match served.first() {
            Some(newest) if newest.digest == Some(digest) => {
                compared_with(&served, guard).is_some_and(|place| served[place].digest == Some(against))
            }
            // The history has no room for it, so that only memory knows what it replaced.
            _ => true,
        }
    }

    fn guard(&self) -> Duration {
        Duration::from_secs(self.guard_minutes.load(Relaxed) * 60)
    }

    async fn look(&self) {
        let (swaps, now, guard) = (self.validators.swaps(), Instant::now(), self.guard());
        let stamp = Stamp { guard_minutes: self.guard_minutes.load(Relaxed), swaps };
        if lock(&self.known).stamp != Some(stamp) {
            let found = match self.modules_from {
                _ if guard.is_zero() => Ok(self.none()),
                ModulesFrom::Database => self.by_generations(guard).await,
                ModulesFrom::Directory => Ok(self.by_history(guard).await),
            };
            match found {
                Ok(found) => self.learn(stamp, found, now + guard).await,
                Err(error) => {
                    if !self.store.is_away() && !self.told.swap(true, Relaxed) {
                        tracing::warn!(%error, "it is not known which modules were replaced lately; trying again");
                    }
                    // What is compared goes on.
                    return;
                }
            }
        }
        let known = self.known_at(now);
        match self.validators.compare_replaced(&known, swaps, guard) {
            None => lock(&self.known).stamp = None,
            Some(missing) => {
                for pair in missing {
                    self.load(pair).await;
                }
            }
        }
    }

    /// What is known of each slot, without the pairs whose time is over or that are left.
    fn known_at(&self, now: Instant) -> HashMap<Slot, Newest> {
        let (known, mut left) = (lock(&self.known), lock(&self.left));
        left.retain(|(slot, digest)| known.slots.get(slot).is_some_and(|(newest, _)| newest.digest == *digest));
        let each = known.slots.iter().map(|(slot, (newest, until))| {
            let is_over = *until <= now || left.contains(&(slot.clone(), newest.digest));
            let against = newest.against.clone().filter(|_| !is_over);
            (slot.clone(), Newest { digest: newest.digest, against })
        });
        each.collect()
    }

    /// Takes what was found. `until` is the end of the guard of a module that came at this moment.
    async fn learn(&self, stamp: Stamp, found: Vec<Found>, until: Instant) {
        let mut new = Vec::new();
        {
            let mut known = lock(&self.known);
            let is_new = |one: &&Found| {
                one.newest.against.is_some()
                    && known.slots.get(&one.slot).is_none_or(|(newest, _)| *newest != one.newest)
            };
            new.extend(found.iter().filter(is_new).map(|one| (one.slot.to_string(), one.newest.digest, one.age)));
            let slots = found
                .into_iter()
                .map(|Found { slot, newest, age }| (slot, (newest, until.checked_sub(age).unwrap_or(until))));
            known.slots = slots.collect();
            known.stamp = Some(stamp);
            known.failed.clear();
        }
        self.told.store(false, Relaxed);
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

    /// That nothing is compared.
    fn none(&self) -> Vec<Found> {
        let each = self.validators.serving().into_iter();
        each.map(|(slot, digest)| Found { slot, newest: Newest { digest, against: None }, age: Duration::ZERO })
            .collect()
    }

    /// The newest modules by the generations in the database. Of those that came longer ago than the guard looks nothing is
    /// compared.
    async fn by_generations(&self, guard: Duration) -> Result<Vec<Found>, store::Error> {
        let mut served: BTreeMap<String, Vec<ServedRow>> = BTreeMap::new();
        for row in self.store.served_lately(guard).await? {
            served.entry(row.event_type.clone()).or_default().push(row);
        }
        let lately: Vec<Found> =
            served.into_iter().filter_map(|(event_type, rows)| of_rows(&event_type, rows, guard)).collect();
        let slots: HashSet<Slot> = lately.iter().map(|one| one.slot.clone()).collect();
        let others = self.none().into_iter().filter(|one| !slots.contains(&one.slot));
        Ok(others.chain(lately).collect())
    }

    /// The newest modules by the history in the data directory. A history that cannot be read says nothing.
    async fn by_history(&self, guard: Duration) -> Vec<Found> {
        let validators = self.validators.clone();
        let read = move || {
            let found = validators.serving().into_iter().filter_map(|(slot, _)| {
                let served = validators.served(&slot, guard).ok()?;
                let against = compared_with(&served, guard).and_then(|place| served[place].digest);
                let newest =
                    Newest { digest: served.first()?.digest?, against: against.map(|against| (against, None)) };
                Some(Found { slot, newest, age: served[0].age })
            });
            found.collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Loads the earlier module of a pair. If that fails, the log says so once.
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
            // The next look tries again.
            Err(Unprepared::Refused(why)) if why.is_passing() => return,
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

/// The newest module of an event type by its generations, the newest first.
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
    let place = compared_with(&served, guard);
    let (slot, age) = (Slot::parse(event_type).ok()?, served[0].age);
    let digest = served[0].digest?;
    let against = place.and_then(|place| Some((served[place].digest?, rows.into_iter().nth(place)?.settings)));
    let against = against.map(|(against, settings)| (against, Some(settings.unwrap_or_default())));
    Some(Found { slot, newest: Newest { digest, against }, age })
}
