//! The one place that reads the wall clock for events.

use std::sync::atomic::{AtomicI64, Ordering};

/// The gateway's clock. It also hands out times of receipt that no two events share, so that they order ties by arrival
/// and tell the gateway's own rows from those of others.
#[derive(Debug, Default)]
pub struct Clock {
    last_us: AtomicI64,
    /// The latest time that is known from elsewhere: from the database's clock and from events that were received.
    seen_us: AtomicI64,
}

impl Clock {
    /// Microseconds since 1970.
    #[expect(clippy::disallowed_methods, reason = "this is the edge where the wall clock is read")]
    pub fn now_us(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }

    /// The time for reads, in microseconds since 1970: it never runs backwards, so a clock that was set back hides no event that
    /// was received before.
    pub fn reading_us(&self) -> i64 {
        self.now_us().max(self.last_us.load(Ordering::Relaxed)).max(self.seen_us.load(Ordering::Relaxed))
    }

    /// Takes note of a time that is known from elsewhere, in microseconds since 1970.
    pub fn saw_us(&self, us: i64) {
        self.seen_us.fetch_max(us, Ordering::Relaxed);
    }

    /// The first of `count` consecutive microseconds that were never handed out before.
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
        let clock = Clock::default();
        let ahead = clock.now_us() + 3_600_000_000;
        clock.saw_us(ahead);
        clock.saw_us(ahead - 1);
        assert_eq!(clock.reading_us(), ahead);
        assert!(clock.now_us() < ahead, "events are received at the time of the clock");
    }
}
