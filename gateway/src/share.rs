//! Room that applications share. An application may hold more only while what it holds is in proportion to what is
//! still free, so the one that fills the room is refused first and there is always some left for the others.
//!
//! With a share of p percent, an application that is alone gets up to p percent of the room, two that want all of it get
//! p / (100 + p) each, and so on; nobody counts how many there are. Nothing waits here and nothing is locked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room that is given out in units and comes back on its own.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    free: AtomicUsize,
    share_percent: usize,
}

impl Budget {
    /// `total` units, of which an application that is alone may hold `share_percent` (1 to 100).
    pub fn new(total: usize, share_percent: usize) -> Arc<Self> {
        Arc::new(Self { total, free: AtomicUsize::new(total), share_percent: share_percent.clamp(1, 100) })
    }

    /// Units that nobody holds.
    pub fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// All units.
    pub fn total(&self) -> usize {
        self.total
    }

    /// How many more of `free` units an application that holds `own` may take to have its share and no more.
    fn left_of_share(&self, own: usize, free: usize) -> usize {
        let (may, does) = (free.saturating_mul(self.share_percent), own.saturating_mul(100 - self.share_percent));
        may.saturating_sub(does) / 100
    }

    /// Whether an application that holds `own` of something may do so while `free` of it is left.
    fn fair(&self, own: usize, free: usize) -> bool {
        own.saturating_mul(100 - self.share_percent) <= free.saturating_mul(self.share_percent)
    }
}

/// Whose room is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The share of the application that asked: it has to wait for itself.
    Application,
    /// That of all applications together.
    All,
}

impl Full {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::All => "all",
        }
    }
}

/// What one application holds. It outlives each version of the application's row.
#[derive(Debug, Default)]
pub struct Share {
    held: AtomicUsize,
    waiting: AtomicUsize,
}

impl Share {
    /// Units of the budget that it holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Its submissions that wait for a writer.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// Units that an application holds for one request; they go back when this is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    share: Arc<Share>,
    units: usize,
}

impl Held {
    /// Nothing yet, of this budget and for this application.
    pub fn none(budget: &Arc<Budget>, share: &Arc<Share>) -> Self {
        Self { budget: Arc::clone(budget), share: Arc::clone(share), units: 0 }
    }

    /// Nothing more, of the same budget and for the same application.
    pub fn another(&self) -> Self {
        Self::none(&self.budget, &self.share)
    }

    /// The units that are held.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Takes more, so that `units` are held; says whether there was room for them. An application that holds nothing else
    /// may take all that is free: otherwise what fits into the room could be refused for ever.
    #[must_use]
    pub fn grow_to(&mut self, units: usize) -> bool {
        let more = units.saturating_sub(self.units);
        if more == 0 {
            return true;
        }
        let take = |free: usize| free.checked_sub(more);
        let Ok(before) = self.budget.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
            return false;
        };
        let own = self.share.held.fetch_add(more, Ordering::Relaxed) + more;
        // Counted before the look at it, so that give_back is right in both cases.
        self.units += more;
        let fits = own == self.units || self.budget.fair(own, before - more);
        if !fits {
            self.give_back(more);
        }
        fits
    }

    /// Whose room was full when nothing more could be taken: as far as can be told a moment later.
    pub fn full(&self) -> Full {
        if self.budget.free() > 0 && self.share.held() > 0 { Full::Application } else { Full::All }
    }

    /// Takes so many more for one thing among many, if they are within the application's share. Only the very first may be
    /// larger than that.
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

    /// Takes so many more, or as many as the application's share leaves: for what cannot be refused any more. It keeps the
    /// application from beginning anything else, and takes nothing from the others.
    pub fn grow_within_share(&mut self, more: usize) {
        let own = self.share.held();
        let taken = |free: usize| more.min(self.budget.left_of_share(own, free));
        let take = |free: usize| Some(free - taken(free));
        let before = self.budget.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or_default();
        let more = taken(before);
        self.share.held.fetch_add(more, Ordering::Relaxed);
        self.units += more;
    }

    /// Whether the application may have one more of `waiting` submissions in a queue for `most`.
    pub fn may_wait(&self, waiting: usize, most: usize) -> bool {
        let own = self.share.waiting() + 1;
        own == 1 || self.budget.fair(own, most.saturating_sub(waiting + 1))
    }

    /// The application's submissions that wait.
    pub fn waiting(&self) -> usize {
        self.share.waiting()
    }

    /// A place in the queue for one submission of the application.
    pub fn wait(&self) -> Waiting {
        self.share.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(&self.share))
    }

    fn give_back(&mut self, units: usize) {
        self.units -= units;
        self.share.held.fetch_sub(units, Ordering::Relaxed);
        self.budget.free.fetch_add(units, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.units);
    }
}

/// A submission that waits, counted for its application until this is dropped.
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
