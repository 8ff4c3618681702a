//! Bounds the processor time of calls for which no request waits. Without a bound they would slow the requests, also at the
//! lowest priority: a thread that spins takes caches, and often half of a core, from the thread beside it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One part in so many of a processor may be used.
const PART: u32 = 4;
/// The part after a call that used much time and gave no verdict. Another such call would tell nothing new.
const PART_IN_VAIN: u32 = 20;
/// The longest time without a call that counts. It lets calls follow each other at once later, so that all events of a
/// request are judged, and not the first one alone.
const SAVED_MAX: Duration = Duration::from_secs(2);

/// An allowance of processor time. One thread spends it, and all may ask for it.
#[derive(Debug)]
pub(super) struct Allowance {
    began: Instant,
    /// The time since `began` that pays for all that was used so far, in microseconds.
    paid_until_us: AtomicU64,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), paid_until_us: AtomicU64::new(0) }
    }

    /// Whether some is left.
    pub(super) fn is_left(&self) -> bool {
        is_left(self.paid_until_us.load(Relaxed), self.now_us())
    }

    /// Takes what a call used.
    pub(super) fn spend(&self, used: Duration, in_vain: bool) {
        let paid_until = after(self.paid_until_us.load(Relaxed), self.now_us(), used, in_vain);
        self.paid_until_us.store(paid_until, Relaxed);
    }

    fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }
}

fn is_left(paid_until_us: u64, now_us: u64) -> bool {
    paid_until_us <= now_us + micros(SAVED_MAX)
}

fn after(paid_until_us: u64, now_us: u64, used: Duration, in_vain: bool) -> u64 {
    let paid_until = paid_until_us.max(now_us);
    if in_vain {
        paid_until.max(now_us + micros(SAVED_MAX)) + micros(used * PART_IN_VAIN)
    } else {
        paid_until + micros(used * PART)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    /// How many calls of this length there are from `began_us` on, for a second in which nothing else happens.
    fn calls(began_us: u64, used: Duration, in_vain: bool, paid_until_us: &mut u64) -> u64 {
        let (mut now_us, mut count) = (began_us, 0);
        while now_us < began_us + SECOND {
            if is_left(*paid_until_us, now_us) {
                now_us += micros(used);
                *paid_until_us = after(*paid_until_us, now_us, used, in_vain);
                count += 1;
            } else {
                now_us += 1_000;
            }
        }
        count
    }

    #[test]
    fn what_was_saved_is_used_at_once_and_then_a_quarter() {
        let (mut paid_until_us, call) = (0, Duration::from_millis(1));
        let first = calls(10 * SECOND, call, false, &mut paid_until_us);
        assert!((740..=760).contains(&first), "{first}");
        let later = calls(11 * SECOND, call, false, &mut paid_until_us);
        assert!((245..=255).contains(&later), "{later}");
    }

    #[test]
    fn a_quick_module_is_always_called() {
        let (mut now_us, mut paid_until_us) = (0, 0);
        for _ in 0..1_000_000 {
            assert!(is_left(paid_until_us, now_us));
            now_us += 40;
            paid_until_us = after(paid_until_us, now_us, Duration::from_micros(8), false);
        }
    }

    #[test]
    fn one_that_spins_gets_a_twentieth_from_its_first_call_on() {
        let (mut paid_until_us, call) = (0, Duration::from_millis(50));
        let counts = [0, 1, 2, 3].map(|second| calls(second * SECOND, call, true, &mut paid_until_us));
        assert_eq!(counts, [1; 4]);
    }
}
