//! Keys that were written not long ago. An event that comes again most often comes soon, so a batch that holds such a key is
//! written in another way from the start. This is a hint alone: an older key is forgotten, and the database knows better.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::fast::RandomState;

use super::table::Key;

/// Keys that are remembered, at most; 2 MiB. A later key takes the place of an earlier one that falls on it.
const KEYS: usize = 1 << 18;

/// What all writers of events remember together.
#[derive(Debug)]
pub(super) struct RecentKeys {
    /// The hash of the last key that fell on each place; 0 for none.
    places: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for RecentKeys {
    fn default() -> Self {
        Self { places: (0..KEYS).map(|_| AtomicU64::new(0)).collect(), hasher: RandomState::default() }
    }
}

impl RecentKeys {
    /// Whether the key was written not long ago.
    pub(super) fn holds(&self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key);
        self.place(hash).load(Relaxed) == hash
    }

    /// Remembers a key that was written.
    pub(super) fn note(&self, key: &Key) {
        let hash = self.hasher.hash_one(key);
        self.place(hash).store(hash, Relaxed);
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
    fn place(&self, hash: u64) -> &AtomicU64 {
        &self.places[hash as usize % KEYS]
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_key_is_known_once_it_was_written() {
        let (recent, key) = (RecentKeys::default(), |number| (Uuid::from_u128(number), 1, Uuid::from_u128(2)));
        assert!(!recent.holds(&key(1)));
        recent.note(&key(1));
        assert!(recent.holds(&key(1)) && !recent.holds(&key(2)));
    }
}
