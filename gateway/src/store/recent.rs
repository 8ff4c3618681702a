//! Remembers keys that were written recently. A repeated event usually comes soon, so a batch with such a key takes the
//! conflict path from the start. This is only a hint: older keys are forgotten, and the database decides.

use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use foldhash::quality::RandomState;

use super::table::Key;

/// Keys of a line, which fits a cache line. The forgotten one is nearly the oldest of all.
const KEYS_OF_A_LINE: usize = 8;
/// The number of lines: 262,144 keys in 2 MiB. Ten thousand events per second fill them in 26 s.
const LINES: usize = 1 << 15;

/// Hashes of keys, the latest first.
#[derive(Debug, Default)]
struct Line([AtomicU64; KEYS_OF_A_LINE]);

/// The keys of all writers of events. Two writers at the same line may lose a key, which does no harm.
#[derive(Debug)]
pub(super) struct RecentKeys {
    lines: Box<[Line]>,
    hasher: RandomState,
}

impl Default for RecentKeys {
    fn default() -> Self {
        Self { lines: (0..LINES).map(|_| Line::default()).collect(), hasher: RandomState::default() }
    }
}

impl RecentKeys {
    /// Whether the key was written recently.
    pub(super) fn holds(&self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key);
        self.line(hash).iter().any(|place| place.load(Relaxed) == hash)
    }

    /// Records a key that was written or found. It becomes the first of its line, and the last one is forgotten.
    pub(super) fn note(&self, key: &Key) {
        let hash = self.hasher.hash_one(key);
        let line = self.line(hash);
        let before = line.iter().position(|place| place.load(Relaxed) == hash).unwrap_or(KEYS_OF_A_LINE - 1);
        for place in (1..=before).rev() {
            line[place].store(line[place - 1].load(Relaxed), Relaxed);
        }
        line[0].store(hash, Relaxed);
    }

    #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
    fn line(&self, hash: u64) -> &[AtomicU64; KEYS_OF_A_LINE] {
        &self.lines[hash as usize % LINES].0
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn key(number: u128) -> Key {
        (Uuid::from_u128(number), 1, Uuid::from_u128(2))
    }

    #[test]
    fn keys_are_known_until_very_many_others_were_written() {
        let recent = RecentKeys::default();
        assert!(!recent.holds(&key(0)));
        for number in 0..20_000 {
            recent.note(&key(number));
        }
        let known = (0..20_000).filter(|number| recent.holds(&key(*number))).count();
        assert_eq!(known, 20_000);
        assert!(!recent.holds(&key(20_000)));
        let room = (LINES * KEYS_OF_A_LINE) as u128;
        for number in 20_000..20_000 + 2 * room {
            recent.note(&key(number));
        }
        // A key that comes again and again stays.
        for number in 20_000 + 2 * room..20_000 + 8 * room {
            recent.note(&key(number));
            if number % 10_000 == 0 {
                recent.note(&key(7));
            }
        }
        assert!(recent.holds(&key(7)));
        let last = 20_000 + 8 * room;
        let known = (last - 20_000..last).filter(|number| recent.holds(&key(*number))).count();
        assert_eq!(known, 20_000, "the latest are known in a full table too");
        let known = (0..20_000).filter(|number| recent.holds(&key(*number))).count();
        assert!(known < 2_000, "{known} of 20,000 are left after twice as many as there is room for");
    }
}
