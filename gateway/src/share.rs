//! Room that applications share. An application may take more only while its part is in proportion to the free room. So
//! the application that fills the room is refused first, and some room is left for the others.
//!
//! With a share of p percent, an application alone gets up to p percent of the room, and two that want all of it get p
//! / (100 + p) each, and so on. This needs no count of the applications, no lock and no waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

/// Most units of a room, so that sums of them have a sign.
const TOTAL_MAX: usize = isize::MAX as usize / 4;

/// Units with a sign. They are at most [`TOTAL_MAX`].
fn signed(units: usize) -> isize {
    isize::try_from(units).unwrap_or(isize::MAX / 4)
}

/// Room in units. A drop of [`Held`] returns its units.
#[derive(Debug)]
pub struct Budget {
    total: AtomicUsize,
    /// Negative while more units are held than a smaller room has.
    free: AtomicIsize,
    share_percent: AtomicUsize,
}

impl Budget {
    /// `total` units, of which one application alone may hold `share_percent` (1 to 100).
    pub fn new(total: usize, share_percent: usize) -> Arc<Self> {
        let total = total.min(TOTAL_MAX);
        let share_percent = AtomicUsize::new(share_percent.clamp(1, 100));
        Arc::new(Self { total: AtomicUsize::new(total), free: AtomicIsize::new(signed(total)), share_percent })
    }

    /// Changes the room and the share. Held units stay held: a smaller room takes nothing more until enough are returned.
    /// Only one thread at a time may call this.
    pub fn resize(&self, total: usize, share_percent: usize) {
        let total = total.min(TOTAL_MAX);
        self.share_percent.store(share_percent.clamp(1, 100), Ordering::Relaxed);
        let before = self.total.swap(total, Ordering::Relaxed);
        self.free.fetch_add(signed(total) - signed(before), Ordering::Relaxed);
    }

    /// The free units.
    pub fn free(&self) -> usize {
        usize::try_from(self.free.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// All units, free or not.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// The held units. During a change of the room it is a guess.
    pub fn taken(&self) -> usize {
        usize::try_from(signed(self.total()) - self.free.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn share_percent(&self) -> usize {
        self.share_percent.load(Ordering::Relaxed)
    }

    /// How many of the `free` units an application with `own` units may still take within its share.
    fn left_of_share(&self, own: usize, free: usize) -> usize {
        let percent = self.share_percent();
        let (may, does) = (free.saturating_mul(percent), own.saturating_mul(100 - percent));
        may.saturating_sub(does) / 100
    }

    /// Whether an application may hold `own` units while `free` are left.
    fn fair(&self, own: usize, free: usize) -> bool {
        let percent = self.share_percent();
        own.saturating_mul(100 - percent) <= free.saturating_mul(percent)
    }
}

/// The room that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The share of this application. Its own requests must end first.
    Application,
    /// The room of all applications.
    All,
}

impl Full {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::All => "all",
        }
    }
}

/// The units of one application. It outlives the versions of the application's row.
#[derive(Debug, Default)]
pub struct Share {
    held: AtomicUsize,
    waiting: AtomicUsize,
}

impl Share {
    /// The units that the application holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The application's submissions that wait for a writer.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The units that an application holds for one request. Its drop returns them.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    share: Arc<Share>,
    units: usize,
}

impl Held {
    /// No units yet of this budget, for this application.
    pub fn none(budget: &Arc<Budget>, share: &Arc<Share>) -> Self {
        Self { budget: Arc::clone(budget), share: Arc::clone(share), units: 0 }
    }

    /// No units yet of the same budget, for the same application.
    pub fn another(&self) -> Self {
        Self::none(&self.budget, &self.share)
    }

    /// The number of units.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Takes units until it holds `units`. Returns whether there was room. An application that holds nothing else may
    /// take all free units; otherwise a request that fits into the room could be refused forever.
    #[must_use]
    pub fn grow_to(&mut self, units: usize) -> bool {
        let more = units.saturating_sub(self.units);
        if more == 0 {
            return true;
        }
        let take = |free: isize| (usize::try_from(free).unwrap_or(0) >= more).then(|| free - signed(more));
        let Ok(before) = self.budget.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
            return false;
        };
        let left = usize::try_from(before - signed(more)).unwrap_or(0);
        let own = self.share.held.fetch_add(more, Ordering::Relaxed) + more;
        // Counted before the check, so that `give_back` is right in both cases.
        self.units += more;
        let fits = own == self.units || self.budget.fair(own, left);
        if !fits {
            self.give_back(more);
        }
        fits
    }

    /// Which room was full when the last `grow_to` failed. A moment later it is a guess.
    pub fn full(&self) -> Full {
        if self.budget.free() > 0 && self.share.held() > 0 { Full::Application } else { Full::All }
    }

    /// Takes `more` units for one of many parts, if they are within the application's share. Only the first part may
    /// exceed it.
    #[must_use]
    pub fn add_within_share(&mut self, more: usize) -> bool {
        let first = self.units == 0;
        let fits = self.grow_to(self.units + more);
        if fits && !first && !self.budget.fair(self.share.held(), self.budget.free()) {
            self.give_back(more);
            return false;
        }
        fits
    }

    /// Takes `more` units, or as many as the application's share leaves, for a part that cannot be refused any more.
    /// Until it returns them, the application gets less room for new requests, and the others lose none.
    pub fn grow_within_share(&mut self, more: usize) {
        let own = self.share.held();
        let taken = |free: isize| more.min(self.budget.left_of_share(own, usize::try_from(free).unwrap_or(0)));
        let take = |free: isize| Some(free - signed(taken(free)));
        let before = self.budget.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or_default();
        let more = taken(before);
        self.share.held.fetch_add(more, Ordering::Relaxed);
        self.units += more;
    }

    /// Whether the application may add a submission to a queue that has `waiting` and holds `most`.
    pub fn may_wait(&self, waiting: usize, most: usize) -> bool {
        let own = self.share.waiting() + 1;
        own == 1 || self.budget.fair(own, most.saturating_sub(waiting + 1))
    }

    /// The application's submissions that wait.
    pub fn waiting(&self) -> usize {
        self.share.waiting()
    }

    /// Counts a submission of the application as waiting until the result is dropped.
    pub fn wait(&self) -> Waiting {
        self.share.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.share))
    }

    fn give_back(&mut self, units: usize) {
        self.units -= units;
        self.share.held.fetch_sub(units, Ordering::Relaxed);
        self.budget.free.fetch_add(signed(units), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.units);
    }
}

/// A waiting submission. Its drop counts it as taken.
#[derive(Debug)]
pub struct Waiting(Arc<Share>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(budget: &Arc<Budget>, share: &Arc<Share>) -> Vec<Held> {
        let take = || {
            let mut held = Held::none(budget, share);
            held.grow_to(1).then_some(held)
        };
        std::iter::from_fn(take).collect()
    }

    #[test]
    fn one_application_leaves_room_for_others_and_they_for_it() {
        let (budget, greedy, other) = (Budget::new(1_000, 75), Arc::default(), Arc::default());
        let all = fill(&budget, &greedy);
        assert_eq!((all.len(), budget.free(), greedy.held()), (750, 250, 750));
        let theirs = fill(&budget, &other);
        assert!(theirs.len() >= 187 && budget.free() >= 62, "{} {}", theirs.len(), budget.free());
        assert!(fill(&budget, &greedy).is_empty(), "who holds more gets nothing until it holds less");
        drop((all, theirs));
        assert_eq!((budget.free(), greedy.held(), other.held()), (1_000, 0, 0));
    }

    #[test]
    fn what_is_added_piece_by_piece_stays_within_the_share() {
        let (budget, share) = (Budget::new(1_000, 75), Arc::default());
        let mut held = Held::none(&budget, &share);
        let added = (0..100).filter(|_| held.add_within_share(100)).count();
        assert_eq!((added, held.units(), budget.free()), (7, 700, 300));
        drop(held);
        let mut large = Held::none(&budget, &share);
        assert!(large.add_within_share(900) && !large.add_within_share(1));
    }

    #[test]
    fn what_cannot_be_refused_takes_the_share_and_no_more() {
        let (budget, greedy, other) = (Budget::new(1_000, 75), Arc::default(), Arc::default());
        let (mut told, mut second) = (Held::none(&budget, &greedy), Held::none(&budget, &greedy));
        told.grow_within_share(10);
        assert_eq!((told.units(), budget.free()), (10, 990));
        told.grow_within_share(100_000);
        second.grow_within_share(100_000);
        assert_eq!((told.units(), second.units(), greedy.held(), budget.free()), (750, 0, 750, 250));
        assert!(!second.grow_to(1), "so it begins nothing more");
        assert!(Held::none(&budget, &other).grow_to(200), "and the others do");
        drop((told, second));
        assert_eq!((budget.free(), greedy.held()), (1_000, 0));
    }

    #[test]
    fn a_lone_request_may_take_all_that_is_free_and_no_more() {
        let (budget, share) = (Budget::new(10, 50), Arc::default());
        let mut held = Held::none(&budget, &share);
        assert!(held.grow_to(4) && held.grow_to(10) && !held.grow_to(11));
        assert_eq!((held.units(), budget.free()), (10, 0));
        let mut second = held.another();
        assert!(!second.grow_to(1));
        drop(held);
        assert!(second.grow_to(1));
    }

    #[test]
    fn a_smaller_room_lets_the_old_finish_and_takes_nothing_new() {
        let (budget, share, other) = (Budget::new(100, 100), Arc::default(), Arc::default());
        let (mut held, mut more) = (Held::none(&budget, &share), Held::none(&budget, &other));
        assert!(held.grow_to(80));
        budget.resize(50, 100);
        assert_eq!((budget.total(), budget.free(), budget.taken()), (50, 0, 80));
        assert!(!more.grow_to(1) && !held.grow_to(81));
        more.grow_within_share(5);
        assert_eq!(more.units(), 0);
        drop(held);
        assert_eq!((budget.free(), share.held()), (50, 0));
        assert!(more.grow_to(50) && !more.grow_to(51));
        budget.resize(60, 100);
        assert!(more.grow_to(60), "the room has grown");
        drop(more);
        budget.resize(60, 50);
        let (mut first, mut second) = (Held::none(&budget, &share), Held::none(&budget, &share));
        assert!(first.grow_to(30) && !second.grow_to(1), "half of it is the share now");
        assert_eq!((budget.free(), budget.taken()), (30, 30));
    }

    #[test]
    fn a_full_share_of_the_queue_is_refused_before_the_queue_is_full() {
        let (budget, greedy, other) = (Budget::new(1, 75), Arc::default(), Arc::default());
        let (greedy, other) = (Held::none(&budget, &greedy), Held::none(&budget, &other));
        let mut places = Vec::new();
        while greedy.may_wait(places.len(), 12) {
            places.push(greedy.wait());
        }
        assert_eq!(places.len(), 9);
        assert!(other.may_wait(places.len(), 12), "there is a place for the other");
        places.clear();
        assert!(greedy.may_wait(11, 12), "who has none waiting gets the last place");
    }
}
