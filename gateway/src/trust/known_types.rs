//! The event types that an application has sent so far. Each is a row that stays forever, so a sender that chooses new
//! names all the time must not make them without a bound. Types that were sent through other gateways, or before the
//! start, come from the counts in the database.

use std::hash::BuildHasher as _;
use std::sync::{PoisonError, RwLock};

use eye_event::verdict::Violation;
use foldhash::HashSet;
use foldhash::fast::RandomState;

/// The violation of an event whose type would be one more than `most`.
pub fn too_many(most: usize) -> Violation {
    let message = format!(
        "the application has sent {most} event types, as many as it may (event_types_max), and this one is new; send it as one \
         of those, and put what varies into data"
    );
    Violation { pointer: "/name".to_owned(), code: "too_many_event_types".into(), message: message.into() }
}

/// The event types of one application. They outlive the versions of its row.
#[derive(Debug, Default)]
pub struct KnownTypes {
    /// Randomly seeded, so that a sender cannot choose a name that collides with a known one.
    hasher: RandomState,
    /// Hashes of event types, since names may be long and many.
    known: RwLock<HashSet<u64>>,
}

impl KnownTypes {
    /// Whether an event type is known, or becomes known now, since fewer than `most` are.
    pub fn admit(&self, category: &str, name: &str, most: usize) -> bool {
        let event_type = self.number(category, name);
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.contains(&event_type) {
                return true;
            }
            if known.len() >= most {
                return false;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.contains(&event_type) || known.len() < most && known.insert(event_type)
    }

    /// The same, but it records nothing.
    pub fn would_admit(&self, category: &str, name: &str, most: usize) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.len() < most || known.contains(&self.number(category, name))
    }

    /// Records an event type from the database, even beyond the bound.
    pub fn learn(&self, category: &str, name: &str) {
        let event_type = self.number(category, name);
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(event_type);
    }

    fn number(&self, category: &str, name: &str) -> u64 {
        self.hasher.hash_one((category, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ones_go_on_when_no_new_one_may_come() {
        let types = KnownTypes::default();
        types.learn("shop", "sale");
        assert!(types.admit("shop", "sale", 3) && types.admit("a", "bc", 3) && types.admit("ab", "c", 3));
        assert!(!types.admit("abc", "", 3), "one more");
        assert!(types.admit("ab", "c", 3) && types.admit("shop", "sale", 3));
        types.learn("abc", "");
        assert!(types.admit("abc", "", 3), "it came through another gateway");
        assert!(!types.admit("abcd", "", 3));
        assert!(!types.would_admit("abcd", "", 3) && types.would_admit("abcd", "", 5) && !types.admit("abcd", "", 4));
        assert!(types.admit("abcd", "", 5), "more are allowed");
    }

    #[test]
    fn many_threads_admit_no_more_than_may_be() {
        let types = KnownTypes::default();
        let admit = |thread: u32| {
            let admitted = (0..100).filter(|number| types.admit(&thread.to_string(), &number.to_string(), 150));
            admitted.count()
        };
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || admit(thread))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(admitted, 150);
    }
}
