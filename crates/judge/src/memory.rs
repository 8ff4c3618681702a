//! The memory that all modules take together: compiled code, the states that events find, and the instances that are
//! kept for the next event. Kept instances only save time. So they make room for a module that is being loaded, those
//! that rested longest first. When no instance is left to drop, the module is refused with a message, and the modules
//! that serve go on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How long a module must have rested before its instances make room for those of another, in ticks of the engine's
/// clock: a second. Otherwise modules that are all called would make their instances anew by turns.
const RESTED_TICKS: u64 = 200;

/// The pause after a search for rested modules that found none, in ticks: a tenth of a second. A search costs a step
/// for each module.
const LOOK_PAUSE_TICKS: u64 = 20;

/// A holder of instances that it can do without.
pub(super) trait Keeper: Send + Sync {
    /// When it was last used, in ticks of the engine's clock.
    fn used_at(&self) -> u64;
    /// Drops all that it keeps. Returns false when it keeps nothing.
    fn let_go(&self) -> bool;
}

/// The bytes that all modules may take together.
pub(super) struct MemoryBudget {
    bytes_max: usize,
    taken: AtomicUsize,
    keepers: Mutex<Vec<Weak<dyn Keeper>>>,
    /// The engine's clock advances it.
    ticks: AtomicU64,
    /// The next search for rested modules happens at this tick or later.
    look_at: AtomicU64,
}

/// The error when there is no room for a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    /// Bytes that the module needs.
    pub(super) wanted: usize,
    /// Bytes that the others take.
    pub(super) taken: usize,
    /// Bytes that all may take together.
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

    /// Bytes that all modules take now.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Bytes that all modules may take.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Counts a tick of the engine's clock.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Relaxed);
    }

    /// The tick of now.
    pub(super) fn now(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    /// Registers a holder of instances for as long as it lives.
    pub(super) fn register(&self, keeper: Weak<dyn Keeper>) {
        let mut keepers = self.keepers();
        keepers.retain(|keeper| keeper.strong_count() > 0);
        keepers.push(keeper);
    }

    /// A claim of no bytes.
    pub(super) fn nothing(self: &Arc<Self>) -> Claim {
        Claim { budget: Arc::clone(self), bytes: 0 }
    }

    /// Claims room for a module that is being loaded. Resting instances of any module make room for it.
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

    /// Drops the instances of the module that was used least recently, and not after `until`. Returns false when no
    /// module has any.
    fn let_go_of_longest_rested(&self, until: u64) -> bool {
        let mut keepers: Vec<Arc<dyn Keeper>> = self.keepers().iter().filter_map(Weak::upgrade).collect();
        keepers.sort_by_cached_key(|keeper| keeper.used_at());
        keepers.iter().take_while(|keeper| keeper.used_at() <= until).any(|keeper| keeper.let_go())
    }

    /// Drops instances of a rested module to keep another instance, which only saves time. It does not search often
    /// when that finds none.
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

/// Bytes that are taken. Dropping the claim gives them back.
pub(super) struct Claim {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Claim {
    /// Grows the claim to `bytes`. Returns false when there is no room; then nothing changes.
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
