//! Limits log lines that callers can cause: one passes each second and the others are counted, so that a flood cannot
//! fill the disk.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The least time between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Lets one line pass each second.
#[derive(Debug, Default)]
pub struct LogLimit {
    start: OnceLock<Instant>,
    /// The time of the next line, in milliseconds after `start`; zero until the first line.
    next_ms: AtomicU64,
    held_back: AtomicU64,
}

impl LogLimit {
    /// A limit that no line has passed yet.
    pub const fn new() -> Self {
        Self { start: OnceLock::new(), next_ms: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// Whether a line may pass now. If so, returns how many were held back since the last one, for that line.
    pub fn open(&self) -> Option<u64> {
        self.open_after(self.start.get_or_init(Instant::now).elapsed())
    }

    fn open_after(&self, time: Duration) -> Option<u64> {
        let now = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let next = self.next_ms.load(Ordering::Relaxed);
        let following = now.saturating_add(EVERY.as_millis() as u64);
        if now < next || self.next_ms.compare_exchange(next, following, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_passes_in_a_second_and_tells_of_the_rest() {
        let gate = LogLimit::default();
        let passed: Vec<u64> = (0..2_500).filter_map(|ms| gate.open_after(Duration::from_millis(ms))).collect();
        assert_eq!(passed, [0, 999, 999]);
    }
}
