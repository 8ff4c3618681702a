//! The one place that reads the wall clock for events.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// The gateway's clock. It also reserves times of receipt that no two events share: they order events with equal
/// timestamps by arrival, and let a writer recognize its own rows.
#[derive(Debug, Default)]
pub struct Clock {
    /// A test sets this time. Without it the clock is the machine's.
    stepped_us: Option<Arc<AtomicI64>>,
    last_us: AtomicI64,
    /// The latest time from elsewhere: the database's clock, or an event in the database.
    seen_us: AtomicI64,
}

impl Clock {
    /// A clock for tests. It shows the microseconds since 1970 that its owner writes into `us`.
    pub fn stepped(us: Arc<AtomicI64>) -> Self {
        Self { stepped_us: Some(us), ..Self::default() }
    }

    /// Microseconds since 1970.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
    pub fn now_us(&self) -> i64 {
        match &self.stepped_us {
            None => chrono::Utc::now().timestamp_micros(),
            Some(us) => us.load(Ordering::Relaxed),
        }
    }

    /// The time for reads, in microseconds since 1970. It never runs backwards, so that a clock that was set back hides
    /// no event received before.
    pub fn reading_us(&self) -> i64 {
        self.now_us().max(self.last_us.load(Ordering::Relaxed)).max(self.seen_us.load(Ordering::Relaxed))
    }

    /// Records a time from elsewhere, in microseconds since 1970, for `reading_us`.
    pub fn saw_us(&self, us: i64) {
        self.seen_us.fetch_max(us, Ordering::Relaxed);
    }

    /// Reserves `count` consecutive microseconds that no other caller gets, and returns the first.
    pub fn reserve_us(&self, count: usize) -> i64 {
        let count = i64::try_from(count).expect("a request's events are counted in thousands");
        let now_us = self.now_us();
        let first = |last_us: i64| now_us.max(last_us + 1);
        let update = |last_us: i64| Some(first(last_us) + count.max(1) - 1);
        let (Ok(last_us) | Err(last_us)) = self.last_us.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        first(last_us)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::Clock;

    #[test]
    fn no_two_events_share_a_time_of_receipt() {
        let clock = Clock::default();
        let (first, second) = (clock.reserve_us(1_000_000), clock.reserve_us(3));
        assert!(second >= first + 1_000_000);
        assert!(clock.reserve_us(1) >= second + 3);
    }

    #[test]
    fn reads_use_a_time_that_never_runs_backwards() {
        let us = Arc::new(AtomicI64::new(10_000_000));
        let clock = Clock::stepped(Arc::clone(&us));
        clock.saw_us(11_000_000);
        clock.saw_us(10_999_999);
        assert_eq!(clock.reading_us(), 11_000_000);
        assert_eq!(clock.now_us(), 10_000_000, "events are received at the time of the clock");
        us.store(12_000_000, Ordering::Relaxed);
        assert_eq!((clock.reading_us(), clock.reserve_us(2)), (12_000_000, 12_000_000));
        us.store(5_000_000, Ordering::Relaxed);
        assert_eq!(clock.now_us(), 5_000_000);
        assert_eq!(clock.reading_us(), 12_000_001, "it was set back, and hides nothing that it has received");
        assert_eq!(clock.reserve_us(1), 12_000_002, "no time of receipt is handed out twice");
    }
}
