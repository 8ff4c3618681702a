//! The memory that all modules take together: compiled code, the state that every event finds, and the instances that are kept for
//! the next event. What is kept only to be quick makes room for a module that is loaded, the one that rested longest first;
//! when nothing is left to let go of, the module is refused in words, and those that serve go on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How long a module must have rested before its instances make room for those of another, in ticks of the engine's clock:
/// a second. Modules that are all called would only take turns in making them anew.
const RESTED_TICKS: u64 = 200;

/// How long nobody looks for such modules after none was found: a tenth of a second. A look costs a step for each module.
const LOOK_PAUSE_TICKS: u64 = 20;

/// What keeps instances that it can do without.
pub(super) trait Keeper: Send + Sync {
    /// When it was last used, in ticks of the engine's clock.
    fn used_at(&self) -> u64;
    /// Lets go of what it keeps. False when it keeps nothing.
    fn let_go(&self) -> bool;
}

/// The bytes that all modules may take together.
pub(super) struct MemoryBudget {
    bytes_max: usize,
    taken: AtomicUsize,
    keepers: Mutex<Vec<Weak<dyn Keeper>>>,
    /// Advanced by the engine's clock.
    ticks: AtomicU64,
    /// No look for rested modules before this tick.
    look_at: AtomicU64,
}

/// That there is no room for a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// What the module needs.
    pub(super) wanted: usize,
    /// What the others take.
    pub(super) taken: usize,
    /// What all may take together.
    pub(super) bytes_max: usize,
}

impl MemoryBudget {
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            taken: AtomicUsize::new(0),
            keepers: Mutex::default(),
            ticks: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
        })
    }

    /// What all modules take now.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// What all modules may take.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The engine's clock has ticked.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Relaxed);
    }

    /// The tick of now.
    pub(super) fn now(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    /// Takes note of what can make room, for as long as it lives.
    pub(super) fn register(&self, keeper: Weak<dyn Keeper>) {
        let mut keepers = self.keepers();
        keepers.retain(|keeper| keeper.strong_count() > 0);
        keepers.push(keeper);
    }

    /// Nothing yet.
    pub(super) fn nothing(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: 0 }
    }

    /// Room for a module that is loaded. Instances at rest make room for it, whoever's they are.
    pub(super) fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Claim, Full> {
        let mut claim = self.nothing();
        while !claim.take(bytes) {
            if !self.let_go_of_longest_rested(self.now()) {
                return Err(Full { wanted: bytes, taken: self.taken(), bytes_max: self.bytes_max });
            }
        }
        Ok(claim)
    }

    fn keepers(&self) -> MutexGuard<'_, Vec<Weak<dyn Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the module that was used least recently, and not after `until`, let go of its instances. False when none has any.
    fn let_go_of_longest_rested(&self, until: u64) -> bool {
        let mut keepers: Vec<Arc<dyn Keeper>> = self.keepers().iter().filter_map(Weak::upgrade).collect();
        keepers.sort_by_cached_key(|keeper| keeper.used_at());
        keepers.iter().take_while(|keeper| keeper.used_at() <= until).any(|keeper| keeper.let_go())
    }

    /// The same for an instance that is kept only to be quick, and not often when it is of no use.
    fn make_room(&self) -> bool {
        let now = self.now();
        if now < self.look_at.load(Relaxed) {
            return false;
        }
        let made = now.checked_sub(RESTED_TICKS).is_some_and(|until| self.let_go_of_longest_rested(until));
        if !made {
            self.look_at.store(now + LOOK_PAUSE_TICKS, Relaxed);
        }
        made
    }
}

/// Bytes that something takes; they go back when this is dropped.
pub(super) struct Claim {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Claim {
    /// Takes more, so that `bytes` are taken. False when there is no room; then nothing changes.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        more == 0 || self.take(more) || self.budget.make_room() && self.take(more)
    }

    fn take(&mut self, more: usize) -> bool {
        let most = self.budget.bytes_max;
        let fits = |taken: usize| taken.checked_add(more).filter(|taken| *taken <= most);
        let took = self.budget.taken.fetch_update(Relaxed, Relaxed, fits).is_ok();
        self.bytes += if took { more } else { 0 };
        took
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps one claim, as a module keeps an instance.
    struct Keeps {
        used_at: u64,
        kept: Mutex<Option<Claim>>,
    }

    impl Keeper for Keeps {
        fn used_at(&self) -> u64 {
            self.used_at
        }

        fn let_go(&self) -> bool {
            self.kept.lock().expect("no panic").take().is_some()
        }
    }

    fn keeper(budget: &Arc<MemoryBudget>, used_at: u64, bytes: usize) -> Arc<Keeps> {
        let mut claim = budget.nothing();
        assert!(claim.grow_to(bytes));
        let keeper = Arc::new(Keeps { used_at, kept: Mutex::new(Some(claim)) });
        let weak: Weak<Keeps> = Arc::downgrade(&keeper);
        budget.register(weak);
        keeper
    }

    fn keeps(keeper: &Keeps) -> bool {
        keeper.kept.lock().expect("no panic").is_some()
    }

    #[test]
    fn a_module_that_is_loaded_gets_the_room_of_those_that_rested_longest_and_of_no_more() {
        let budget = MemoryBudget::new(100);
        (0..50).for_each(|_| budget.tick());
        let (new, old) = (keeper(&budget, 40, 30), keeper(&budget, 7, 30));
        let loaded = budget.reserve(60).expect("there is room");
        assert_eq!((keeps(&old), keeps(&new), budget.taken()), (false, true, 90));
        let full = budget.reserve(80).err().expect("there is no room, whoever makes it");
        assert_eq!(full, Full { wanted: 80, taken: 60, bytes_max: 100 });
        drop(loaded);
        assert_eq!(budget.taken(), 0);
        assert!(budget.reserve(usize::MAX).is_err());
    }

    #[test]
    fn an_instance_takes_only_the_room_of_modules_that_have_rested() {
        let budget = MemoryBudget::new(100);
        let (called, rests) = (keeper(&budget, RESTED_TICKS, 40), keeper(&budget, 1, 40));
        let mut instance = budget.nothing();
        assert!(!instance.grow_to(40), "all were called just now");
        (0..RESTED_TICKS + 1).for_each(|_| budget.tick());
        assert!(instance.grow_to(40) && instance.grow_to(30));
        assert_eq!((keeps(&called), keeps(&rests), budget.taken()), (true, false, 80));
        assert!(!instance.grow_to(80), "it is left as it was");
        assert_eq!(budget.taken(), 80);
    }
}
