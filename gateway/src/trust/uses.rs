//! A live token: when it expires, and whether it was used since the last record in the database. A use sets one flag,
//! which costs a request next to nothing. The task that records uses reads the flags.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use eye_event::verdict::Digest;

use crate::store::TokenFacts;

/// A token that was not ended.
#[derive(Debug)]
pub(super) struct LiveToken {
    digest: Digest,
    application_id: i32,
    /// When it expires, by this process's monotonic clock, since the wall clock may be set.
    ends: Option<Instant>,
    /// Shared with the same token in earlier and later snapshots, so that no use is lost between them.
    uses: Arc<Uses>,
}

#[derive(Debug, Default)]
struct Uses {
    /// It was used since the last record.
    used: AtomicBool,
    /// The database has a use of it.
    noted: AtomicBool,
}

impl LiveToken {
    /// Makes it from the database's facts. It shares the uses with `before`, its predecessor.
    pub(super) fn new(digest: Digest, application_id: i32, facts: Option<&TokenFacts>, before: Option<&Self>) -> Self {
        let left = facts.and_then(|facts| facts.seconds_left);
        // A time too far away for the clock counts as no expiry.
        let ends = left.and_then(|left| {
            let left = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX);
            Instant::now().checked_add(left)
        });
        let uses = before.map(|before| Arc::clone(&before.uses)).unwrap_or_default();
        if facts.is_some_and(|facts| facts.last_used_at.is_some()) {
            uses.noted.store(true, Relaxed);
        }
        Self { digest, application_id, ends, uses }
    }

    /// Whether it has expired.
    pub(super) fn is_expired(&self) -> bool {
        self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// Records a use.
    pub(super) fn is_used(&self) {
        // The flag is usually set, and a read shares its cache line between processors where a write would not.
        if !self.uses.used.load(Relaxed) {
            self.uses.used.store(true, Relaxed);
        }
    }

    /// Takes the use to record: any if `all`, otherwise only the first one ever.
    pub(super) fn take(&self, all: bool) -> Option<(Digest, i32)> {
        let due = self.uses.used.load(Relaxed) && (all || !self.uses.noted.load(Relaxed));
        (due && self.uses.used.swap(false, Relaxed)).then(|| {
            self.uses.noted.store(true, Relaxed);
            (self.digest, self.application_id)
        })
    }

    /// Returns a use that could not be recorded.
    pub(super) fn put_back(&self) {
        self.uses.used.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(left: Option<f64>) -> TokenFacts {
        TokenFacts {
            digest: vec![7; 32],
            created_at: None,
            expires_at: None,
            last_used_at: None,
            seconds_left: left,
            seconds_unused: None,
        }
    }

    #[test]
    fn a_token_ends_when_its_time_is_over() {
        let expired = |left| LiveToken::new(Digest([7; 32]), 1, Some(&facts(left)), None).is_expired();
        assert!(expired(Some(0.0)) && expired(Some(-5.0)));
        assert!(!expired(None) && !expired(Some(3_600.0)) && !expired(Some(f64::MAX)));
        assert!(!LiveToken::new(Digest([7; 32]), 1, None, None).is_expired());
    }

    #[test]
    fn the_first_use_is_noted_at_once_and_others_now_and_then() {
        let token = LiveToken::new(Digest([7; 32]), 1, None, None);
        assert_eq!(token.take(true), None);
        token.is_used();
        assert_eq!(token.take(false), Some((Digest([7; 32]), 1)), "the first");
        token.is_used();
        assert_eq!(token.take(false), None);
        let next = LiveToken::new(Digest([7; 32]), 1, None, Some(&token));
        assert_eq!(next.take(false), None);
        assert_eq!(next.take(true), Some((Digest([7; 32]), 1)), "what was not noted is taken over");
        assert_eq!(next.take(true), None);
    }
}
