//! Counters of one module and a histogram of its judging times, all atomic, so that an event pays a few uncontended
//! additions and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eye_event::figures::{Distribution, Histogram};
use eye_event::verdict::{FaultCode, Verdict};
use serde::Serialize;

/// Upper bounds of judging times in nanoseconds, up to a minute: four for each doubling, from 4 to 8 nanoseconds on.
static BOUNDS_NS: [u64; 135] = {
    let mut bounds = [0; 135];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = (5 + at as u64 % 4) << (at / 4);
        at += 1;
    }
    bounds
};

/// Longest time that quantiles show, in microseconds: the next bound after the last.
const LONGEST_US: f64 = (8_u64 << 33) as f64 / 1e3;

/// First doubling that a distribution shows apart. Shorter times than half a microsecond fall into the same bucket.
const SHORTEST_NS: u64 = 512;

/// Faults by code, in the order of [`FaultCode::ALL`].
pub type Faults = [u64; FaultCode::ALL.len()];

/// The running figures of one module. Each call records here; reports and metrics read.
#[derive(Debug)]
pub(super) struct Figures {
    accepted: AtomicU64,
    amended: AtomicU64,
    rejected: AtomicU64,
    faulted: [AtomicU64; FaultCode::ALL.len()],
    times_ns: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            amended: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            faulted: Default::default(),
            times_ns: Histogram::new(&BOUNDS_NS),
        }
    }
}

/// Verdicts and faults of a module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Events accepted as they were.
    pub accepted: u64,
    /// Events accepted with changed data.
    pub amended: u64,
    /// Events rejected.
    pub rejected: u64,
    /// Faults, by code, in the order of [`FaultCode::ALL`].
    pub faulted: std::collections::BTreeMap<&'static str, u64>,
}

/// Quantiles of judging times, in microseconds; none before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Half of all calls took at most this long.
    pub p50_us: f64,
    /// All but one in a hundred took at most this long.
    pub p99_us: f64,
}

impl Figures {
    /// Counts a call and its time.
    pub(super) fn record(&self, outcome: Result<&Verdict, FaultCode>, took: Duration) {
        let counter = match outcome {
            Ok(Verdict::Accept) => &self.accepted,
            Ok(Verdict::Amend(_)) => &self.amended,
            Ok(Verdict::Reject(_)) => &self.rejected,
            Err(code) => &self.faulted[code.index()],
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.times_ns.record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds the judging times of another module, so that a sum over modules does not shrink when one of them goes.
    pub(super) fn add_times(&self, other: &Self) {
        self.times_ns.add(&other.times_ns);
    }

    /// All judging times, in seconds, with a bucket for each doubling from half a microsecond to a minute.
    pub(super) fn distribution(&self) -> Distribution {
        let Distribution { buckets: quarters, sum } = self.times_ns.distribution(1e9);
        // A bound that the distribution shows, or none for the bucket of the longest times.
        let is_shown = |bound: Option<&u64>| bound.is_none_or(|ns| ns.is_power_of_two() && *ns >= SHORTEST_NS);
        let (mut buckets, mut below) = (Vec::new(), 0);
        for (at, (bound, count)) in quarters.into_iter().enumerate() {
            below += count;
            if is_shown(BOUNDS_NS.get(at)) {
                buckets.push((bound, std::mem::take(&mut below)));
            }
        }
        Distribution { buckets, sum }
    }

    /// Counts a fault without a call. It takes no judging time.
    pub(super) fn record_uncalled(&self, code: FaultCode) {
        self.faulted[code.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> u64 {
        self.times_ns.distribution(1e3).count()
    }

    pub(super) fn faults(&self) -> Faults {
        self.faulted.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn counts(&self) -> Counts {
        let faulted = FaultCode::ALL.map(|code| (code.as_str(), self.faults()[code.index()]));
        Counts {
            accepted: self.accepted.load(Ordering::Relaxed),
            amended: self.amended.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            faulted: faulted.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }

    pub(super) fn times(&self) -> Option<Times> {
        let found = self.times_ns.distribution(1e3);
        let quantile = |hundredths| found.quantile(hundredths).map(|us| us.min(LONGEST_US));
        Some(Times { p50_us: quantile(50)?, p99_us: quantile(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_holds_every_call_and_those_of_modules_that_are_gone() {
        let (now, before) = (Figures::default(), Figures::default());
        now.record(Ok(&Verdict::Accept), Duration::from_nanos(3));
        now.record(Ok(&Verdict::Accept), Duration::from_micros(3));
        before.record(Err(FaultCode::Deadline), Duration::from_secs(3_600));
        now.add_times(&before);
        let found = now.distribution();
        assert_eq!(found.buckets[0], (512e-9, 1));
        assert_eq!(found.buckets.last(), Some(&(f64::INFINITY, 1)));
        assert!(found.buckets.is_sorted_by(|one, next| one.0 < next.0));
        assert_eq!(found.count(), 3);
        assert!((found.sum - 3_600.000_003_003).abs() < 1e-6, "{}", found.sum);
    }

    #[test]
    fn quantiles_are_within_a_quarter_of_the_truth() {
        let figures = Figures::default();
        assert_eq!(figures.times(), None);
        for us in 1..=1_000 {
            figures.record(Ok(&Verdict::Accept), Duration::from_micros(us));
        }
        let times = figures.times().expect("events were judged");
        assert!((500.0..=625.0).contains(&times.p50_us), "{times:?}");
        assert!((990.0..=1_240.0).contains(&times.p99_us), "{times:?}");
        assert_eq!(figures.counts().accepted, 1_000);
    }
}
