//! Decides when missing files are an accident: the modules directory loses more than half of its modules, and more than
//! two, at once. Files that go within a minute of each other count as gone at once, since removing a large folder takes
//! a while. Only slots that the directory had before count as lost: a renamed module leaves as many modules as there
//! were.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::slot::Slot;

/// Files that go within this time of each other go at once.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// As many modules may always go: an operator with few modules takes one away without a confirmation.
const ALWAYS: usize = 2;

/// The slots that the directory had, and those that went lately.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// The slots that it had before any went.
    had: BTreeSet<Slot>,
    /// The slots that were unloaded since.
    gone: BTreeSet<Slot>,
    last: Option<Instant>,
}

impl Losses {
    /// Notes the slots whose files are there. `whole` says that no file is missing that may still come back.
    pub(super) fn see(&mut self, present: BTreeSet<Slot>, whole: bool, now: Instant) {
        self.gone.retain(|slot| !present.contains(slot));
        let over = self.last.is_none_or(|last| now >= last + WINDOW);
        if whole && (over || present.len() > self.had.len()) {
            self.gone.clear();
            self.had = present;
        }
    }

    /// Restores the slots that the directory had before a restart.
    pub(super) fn recall(&mut self, had: BTreeSet<Slot>) {
        self.had = had;
    }

    /// The slots that are lost by accident if `going` go now. It is either empty, or has them and those that went
    /// shortly before.
    pub(super) fn accident(&self, going: &BTreeSet<Slot>) -> BTreeSet<Slot> {
        let lost: BTreeSet<Slot> = self.gone.union(going).filter(|slot| self.had.contains(slot)).cloned().collect();
        if lost.len() > ALWAYS && lost.len() * 2 > self.had.len() { &lost | going } else { BTreeSet::new() }
    }

    /// How many modules the directory had.
    pub(super) fn had(&self) -> usize {
        self.had.len()
    }

    /// Whether a slot was unloaded lately.
    pub(super) fn is_gone(&self, slot: &Slot) -> bool {
        self.gone.contains(slot)
    }

    /// Notes the slots that were unloaded.
    pub(super) fn went(&mut self, slots: BTreeSet<Slot>, now: Instant) {
        self.gone.extend(slots);
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(names: &[&str]) -> BTreeSet<Slot> {
        names.iter().map(|name| Slot::Exact("c".into(), (*name).into())).collect()
    }

    fn with(names: &[&str]) -> (Losses, Instant) {
        let (mut losses, now) = (Losses::default(), Instant::now());
        losses.see(slots(names), true, now);
        (losses, now)
    }

    #[test]
    fn more_than_half_and_more_than_two_are_an_accident() {
        for (had, going, is_accident) in [
            (&["a", "b", "c"][..], &["a", "b", "c"][..], true),
            (&["a", "b", "c"], &["a", "b"], false),
            (&["a"], &["a"], false),
            (&["a", "b", "c", "d", "e", "f"], &["a", "b", "c"], false),
            (&["a", "b", "c", "d", "e", "f"], &["a", "b", "c", "d"], true),
        ] {
            let (losses, _) = with(had);
            assert_eq!(!losses.accident(&slots(going)).is_empty(), is_accident, "{had:?} without {going:?}");
        }
    }

    #[test]
    fn what_goes_one_after_the_other_goes_at_once_unless_a_minute_lies_between() {
        let (mut losses, now) = with(&["a", "b", "c", "d"]);
        losses.went(slots(&["a"]), now);
        losses.see(slots(&["b", "c", "d"]), true, now);
        losses.went(slots(&["b"]), now);
        losses.see(slots(&["c", "d"]), true, now);
        assert_eq!(losses.accident(&slots(&["c"])), slots(&["a", "b", "c"]));
        losses.see(slots(&["c", "d"]), true, now + WINDOW);
        assert_eq!(losses.accident(&slots(&["c"])), slots(&[]));
    }

    #[test]
    fn a_module_that_is_renamed_again_and_again_is_no_accident() {
        let (mut losses, now) = with(&["a"]);
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")] {
            losses.see(slots(&[to]), false, now);
            assert_eq!(losses.accident(&slots(&[from])), slots(&[]));
            losses.went(slots(&[from]), now);
            losses.see(slots(&[to]), true, now);
        }
    }

    #[test]
    fn what_came_back_is_not_lost_and_what_was_added_counts() {
        let (mut losses, now) = with(&["a", "b", "c"]);
        losses.went(slots(&["a", "b"]), now);
        losses.see(slots(&["a", "b", "c"]), true, now);
        assert_eq!(losses.accident(&slots(&["c"])), slots(&[]));
        losses.see(slots(&["a", "b", "c", "d", "e", "f", "g"]), true, now);
        assert_eq!(losses.accident(&slots(&["a", "b", "c"])), slots(&[]));
        // Others in their place are no reason to forget them.
        losses.see(slots(&["1", "2", "3", "4", "5", "6", "7", "8"]), false, now);
        assert_eq!(losses.accident(&slots(&["d", "e", "f", "g"])).len(), 4);
    }
}
