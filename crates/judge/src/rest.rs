//! Stops calling `redact` of a module for a while when it keeps breaking.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use eye_event::verdict::FaultCode;

use super::contract::Broken;

/// Faults in a row after which `redact` rests. Meanwhile the kept versions redact at once.
const FAULTS_MAX: u32 = 4;
/// The first rest. Each further fault doubles it.
const REST: Duration = Duration::from_secs(1);
/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(60);

/// The time until which a module's `redact` is not called. It has only atomics, so no event waits for another.
#[derive(Debug)]
pub(super) struct Rest {
    began: Instant,
    faults: AtomicU32,
    until_ms: AtomicU64,
}

impl Rest {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), faults: AtomicU32::new(0), until_ms: AtomicU64::new(0) }
    }

    pub(super) fn is_over(&self) -> bool {
        self.now_ms() >= self.until_ms.load(Relaxed)
    }

    pub(super) fn note(&self, fault: Option<&Broken>) {
        match fault {
            None => self.faults.store(0, Relaxed),
            // The machine had no room, which says nothing against the module.
            Some(broken) if broken.code == FaultCode::Busy => {}
            Some(_) => {
                let faults = self.faults.fetch_add(1, Relaxed).saturating_add(1);
                if let Some(more) = faults.checked_sub(FAULTS_MAX) {
                    let rest = REST.saturating_mul(1 << more.min(10)).min(REST_MAX);
                    self.until_ms.store(self.now_ms() + u64::try_from(rest.as_millis()).unwrap_or(u64::MAX), Relaxed);
                }
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redact_rests_after_some_faults_in_a_row_and_not_for_want_of_room() {
        let (rest, busy) = (Rest::new(), Broken::new(FaultCode::Busy, ""));
        let trap = Broken::new(FaultCode::Trap, "");
        for _ in 0..100 {
            rest.note(Some(&busy));
        }
        for _ in 1..FAULTS_MAX {
            rest.note(Some(&trap));
        }
        assert!(rest.is_over());
        rest.note(None);
        for _ in 1..FAULTS_MAX {
            rest.note(Some(&trap));
        }
        assert!(rest.is_over());
        rest.note(Some(&trap));
        assert!(!rest.is_over());
    }
}
