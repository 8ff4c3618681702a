//! Whether a module may be called, and where. A module that keeps faulting is taken off the path and tried again with one
//! event at a time, at growing intervals; a module that was slow is called away from the request threads until it has
//! been quick for long. Atomics only: a healthy module pays two loads for an event.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::verdict::FaultCode;

/// What a fault adds to the score; a verdict takes one away. One fault in eleven events, for long, is too many.
const FAULT: u32 = 10;
/// What an overrun deadline adds: it costs the machine more than any other fault.
const OVERRUN: u32 = 50;
/// The score at which a module is taken off the path: twenty faults or four overruns in a row.
const TRIP: u32 = 200;
/// A call that runs for longer than this holds up what else its thread has to do.
const SLOW_CALL: Duration = Duration::from_millis(2);
/// Calls that are watched after one that took long, to tell a slow module from a thread that had no processor.
const WATCHED_CALLS: u32 = 100;
/// Quick calls after which a module that was slow is trusted on the request threads again.
const QUICK_CALLS: u32 = 10_000;
/// How long a module is off the path before its first probe. Each probe that faults doubles it.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// The longest time between two probes.
const PROBE_AFTER_MAX: Duration = Duration::from_secs(60);

/// The longest deadline of a call on a request thread. A module that may run for longer is always called away, or as many
/// events as there are threads could hold them all for as long as it may.
const HERE_DEADLINE_MAX: Duration = Duration::from_millis(100);

/// Where the next call of a module may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On the request's own thread.
    Here,
    /// Away from the request threads.
    Away,
    /// Away as well, and though it is off the path: what comes of it decides whether it comes back.
    Probe,
    /// Nowhere: it is off the path.
    Nowhere,
}

/// How a module stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is called as events come.
    Healthy,
    /// It took long lately, and is called away from the request threads.
    Slow,
    /// It kept faulting: its events are not judged, but for a probe now and then.
    OffPath,
}

impl Standing {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Slow, Self::OffPath];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::OffPath => "off-path",
        }
    }
}

/// The circuit of one module.
#[derive(Debug)]
pub(super) struct Circuit {
    began: Instant,
    /// It may run for too long to be called on a request thread.
    always_away: bool,
    score: AtomicU32,
    /// Quick calls still to come before the request threads are open again.
    quick_calls_left: AtomicU32,
    /// Calls still to come of which it must be known how long they run.
    watched_calls_left: AtomicU32,
    /// Milliseconds after `began` at which the next probe is due; 0 while the module is on the path.
    probe_at_ms: AtomicU64,
    /// A probe runs. What ends late, of calls that began on the path, is no probe.
    probing: AtomicBool,
    /// How often a probe failed in a row.
    probes_failed: AtomicU32,
}

impl Circuit {
    /// The circuit of a module with this deadline.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            began: Instant::now(),
            always_away: deadline > HERE_DEADLINE_MAX,
            score: AtomicU32::new(0),
            quick_calls_left: AtomicU32::new(0),
            watched_calls_left: AtomicU32::new(0),
            probe_at_ms: AtomicU64::new(0),
            probing: AtomicBool::new(false),
            probes_failed: AtomicU32::new(0),
        }
    }

    /// Where the next call may run.
    pub(super) fn way(&self) -> Way {
        let probe_at_ms = self.probe_at_ms.load(Relaxed);
        if probe_at_ms == 0 {
            let here = !self.always_away && self.quick_calls_left.load(Relaxed) == 0;
            return if here { Way::Here } else { Way::Away };
        }
        let now_ms = self.now_ms();
        // The next probe is put off before this one runs, so that there is one at a time.
        let next = now_ms + millis(self.interval());
        let due = now_ms >= probe_at_ms;
        if due && self.probe_at_ms.compare_exchange(probe_at_ms, next, Relaxed, Relaxed).is_ok() {
            self.probing.store(true, Relaxed);
            Way::Probe
        } else {
            Way::Nowhere
        }
    }

    /// Whether the module was taken off the path, which may happen while an event waits for it.
    pub(super) fn is_off(&self) -> bool {
        self.probe_at_ms.load(Relaxed) != 0
    }

    /// A probe is over. If it was not called, the next one is due at its time, and no other call counts as this one.
    pub(super) fn unprobed(&self) {
        self.probing.store(false, Relaxed);
    }

    /// Begins a call: whether it is watched, so that its end must tell how long it ran.
    pub(super) fn watches(&self) -> bool {
        self.watched_calls_left.load(Relaxed) > 0
            && self.watched_calls_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// How long a call counts as having run, of which this is known from the wall alone: one that took long may have
    /// waited for a processor, and the next ones are watched.
    pub(super) fn suspect(&self, took: Duration) -> Duration {
        if took > SLOW_CALL {
            self.watched_calls_left.store(WATCHED_CALLS, Relaxed);
        }
        took.min(SLOW_CALL)
    }

    /// Takes note of a verdict, and of how long the call ran.
    pub(super) fn judged(&self, ran: Duration) {
        if ran > SLOW_CALL {
            self.quick_calls_left.store(QUICK_CALLS, Relaxed);
        } else if self.quick_calls_left.load(Relaxed) > 0 {
            let _none_left = self.quick_calls_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        }
        if self.probe_at_ms.load(Relaxed) != 0 {
            if self.probing.swap(false, Relaxed) {
                // On probation: half the faults take it off again, and the interval is forgotten at a score of zero.
                self.score.store(TRIP / 2, Relaxed);
                self.probe_at_ms.store(0, Relaxed);
            }
        } else if self.score.load(Relaxed) > 0
            && self.score.fetch_update(Relaxed, Relaxed, |score| score.checked_sub(1)) == Ok(1)
        {
            self.probes_failed.store(0, Relaxed);
        }
    }

    /// Takes note of a fault. True when it takes the module off the path.
    pub(super) fn faulted(&self, code: FaultCode, ran: Duration) -> bool {
        if ran > SLOW_CALL {
            self.quick_calls_left.store(QUICK_CALLS, Relaxed);
        }
        if self.probe_at_ms.load(Relaxed) != 0 {
            if self.probing.swap(false, Relaxed) {
                self.probes_failed.fetch_add(1, Relaxed);
                self.probe_at_ms.store(self.now_ms() + millis(self.interval()), Relaxed);
            }
            return false;
        }
        let weight = if code == FaultCode::Deadline { OVERRUN } else { FAULT };
        let (Ok(before) | Err(before)) =
            self.score.fetch_update(Relaxed, Relaxed, |score| Some(score.saturating_add(weight)));
        if before + weight < TRIP {
            return false;
        }
        let off = self.now_ms() + millis(self.interval());
        self.probe_at_ms.compare_exchange(0, off, Relaxed, Relaxed).is_ok()
    }

    pub(super) fn standing(&self) -> Standing {
        if self.is_off() {
            Standing::OffPath
        } else if self.quick_calls_left.load(Relaxed) > 0 {
            Standing::Slow
        } else {
            Standing::Healthy
        }
    }

    fn interval(&self) -> Duration {
        let doublings = self.probes_failed.load(Relaxed).min(16);
        PROBE_AFTER.saturating_mul(1 << doublings).min(PROBE_AFTER_MAX)
    }

    /// Milliseconds since this circuit was made, and never zero.
    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(1);

    #[test]
    fn rare_faults_do_no_harm_and_frequent_ones_take_a_module_off() {
        let circuit = Circuit::new(QUICK);
        for _ in 0..1_000 {
            assert!(!circuit.faulted(FaultCode::Trap, QUICK));
            (0..20).for_each(|_| circuit.judged(QUICK));
        }
        assert_eq!(circuit.way(), Way::Here);
        let faults = (1..).find(|_| circuit.faulted(FaultCode::Trap, QUICK));
        assert_eq!(faults, Some(20));
        assert_eq!((circuit.way(), circuit.standing()), (Way::Nowhere, Standing::OffPath));
    }

    #[test]
    fn a_probe_brings_a_module_back_and_a_failed_one_waits_longer() {
        let circuit = Circuit::new(QUICK);
        while !circuit.faulted(FaultCode::Deadline, QUICK) {}
        let off = Circuit { began: Instant::now().checked_sub(PROBE_AFTER * 2).expect("the clock is old"), ..circuit };
        assert_eq!((off.way(), off.way()), (Way::Probe, Way::Nowhere), "one probe at a time");
        assert!(!off.faulted(FaultCode::Trap, QUICK), "it was off before");
        assert_eq!(off.way(), Way::Nowhere);
        let later = Circuit { began: Instant::now().checked_sub(PROBE_AFTER * 9).expect("the clock is old"), ..off };
        assert_eq!(later.way(), Way::Probe);
        later.judged(QUICK);
        assert_eq!(later.way(), Way::Here);
        assert!((0..10).any(|_| later.faulted(FaultCode::Trap, QUICK)), "half the faults are enough now");
    }

    #[test]
    fn a_probe_that_was_not_called_leaves_no_other_call_to_count_as_one() {
        let circuit = Circuit::new(QUICK);
        while !circuit.faulted(FaultCode::Deadline, QUICK) {}
        let off = Circuit { began: Instant::now().checked_sub(PROBE_AFTER * 2).expect("the clock is old"), ..circuit };
        assert_eq!(off.way(), Way::Probe);
        off.unprobed();
        // One that began while the module was on the path.
        off.judged(QUICK);
        assert!(off.is_off());
    }

    #[test]
    fn a_module_that_may_run_for_long_is_never_called_on_a_request_thread() {
        let circuit = Circuit::new(HERE_DEADLINE_MAX * 2);
        (0..=QUICK_CALLS).for_each(|_| {
            assert_eq!(circuit.way(), Way::Away);
            circuit.judged(QUICK);
        });
        assert_eq!((circuit.way(), circuit.standing()), (Way::Away, Standing::Healthy));
        assert_eq!(Circuit::new(HERE_DEADLINE_MAX).way(), Way::Here);
    }

    #[test]
    fn a_slow_call_sends_the_next_ones_away() {
        let circuit = Circuit::new(QUICK);
        circuit.judged(SLOW_CALL * 2);
        assert_eq!((circuit.way(), circuit.standing()), (Way::Away, Standing::Slow));
        (0..QUICK_CALLS).for_each(|_| circuit.judged(QUICK));
        assert_eq!((circuit.way(), circuit.standing()), (Way::Here, Standing::Healthy));
    }

    #[test]
    fn a_call_that_waited_for_a_processor_only_has_the_next_ones_watched() {
        let circuit = Circuit::new(QUICK);
        assert!(!circuit.watches());
        circuit.judged(circuit.suspect(SLOW_CALL * 10));
        assert_eq!(circuit.way(), Way::Here);
        assert!((0..WATCHED_CALLS).all(|_| circuit.watches()));
        assert!(!circuit.watches());
        circuit.judged(circuit.suspect(SLOW_CALL));
        assert!(!circuit.watches());
    }
}
