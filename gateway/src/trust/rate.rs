//! The rate limit of an application. Each event costs one unit, whatever request it came in. The state is one atomic
//! word, so requests of the same application do not wait for each other.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock as _;
use governor::{DefaultDirectRateLimiter, Quota};

use crate::response::Refusal;
use crate::store::RateLimit;

/// The state of one rate limit.
#[derive(Debug)]
pub struct Rate {
    limit: RateLimit,
    limiter: DefaultDirectRateLimiter,
    start: Instant,
    /// Until then not even one event fits, in microseconds after `start`. It lets a flood be refused before its bodies
    /// are read.
    closed_until_us: AtomicU64,
}

impl Rate {
    /// A limit of which nothing is used.
    pub fn new(limit: RateLimit) -> Self {
        let quota = Quota::per_second(limit.events_per_second).allow_burst(limit.burst_events);
        Self {
            limit,
            limiter: DefaultDirectRateLimiter::direct(quota),
            start: Instant::now(),
            closed_until_us: AtomicU64::new(0),
        }
    }

    /// The configured limit.
    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Refuses a request that the last refusal showed to be too early. Otherwise it costs nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`].
    pub fn look(&self) -> Result<(), Refusal> {
        let until = self.closed_until_us.load(Ordering::Relaxed);
        if until == 0 {
            return Ok(());
        }
        let now = micros(self.start.elapsed());
        if now < until { Err(refusal(Duration::from_micros(until - now))) } else { Ok(()) }
    }

    /// Takes the cost of this many events, all or none.
    ///
    /// # Errors
    ///
    /// [`Refusal::RateLimited`] with the time after which they fit, or [`Refusal::TooManyEvents`] if they never fit.
    pub fn take(&self, events: usize) -> Result<(), Refusal> {
        let never = Refusal::TooManyEvents { limit: self.limit.burst_events.get() as usize };
        let Ok(count) = u32::try_from(events) else { return Err(never) };
        let Some(count) = NonZeroU32::new(count) else { return Ok(()) };
        let early = match self.limiter.check_n(count) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(early)) => early,
            Err(_) => return Err(never),
        };
        let wait = early.wait_time_from(self.limiter.clock().now());
        // Fewer events fit earlier, by the time of each of the others.
        let others = Duration::from_secs(1) / self.limit.events_per_second.get() * (count.get() - 1);
        let closed = self.start.elapsed() + wait.saturating_sub(others);
        self.closed_until_us.fetch_max(micros(closed), Ordering::Relaxed);
        Err(refusal(wait))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn refusal(wait: Duration) -> Refusal {
    // Rounded up, so that a sender that waits as long is not refused again.
    Refusal::RateLimited { retry_after_seconds: wait.as_secs() + u64::from(wait.subsec_nanos() > 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(events_per_second: u32, burst_events: u32) -> Rate {
        let number = |number| NonZeroU32::new(number).expect("not zero");
        Rate::new(RateLimit { events_per_second: number(events_per_second), burst_events: number(burst_events) })
    }

    #[test]
    fn each_event_costs_one_and_a_refusal_costs_nothing() {
        let rate = rate(1, 100);
        assert_eq!(rate.take(60), Ok(()));
        assert_eq!(rate.take(60), Err(Refusal::RateLimited { retry_after_seconds: 20 }));
        assert_eq!(rate.look(), Ok(()), "fewer would fit");
        assert_eq!(rate.take(40), Ok(()), "what was refused was not taken");
        assert_eq!(rate.take(1), Err(Refusal::RateLimited { retry_after_seconds: 1 }));
        assert_eq!(rate.look(), Err(Refusal::RateLimited { retry_after_seconds: 1 }), "refused before it is read");
    }

    #[test]
    fn what_never_fits_is_said_to_be_too_many() {
        assert_eq!(rate(10, 5).take(6), Err(Refusal::TooManyEvents { limit: 5 }));
        assert_eq!(rate(10, 5).take(0), Ok(()));
    }
}
