//! What a module has done so far: counters and a histogram of judging times, all atomic, so that an event pays a few
//! uncontended additions and no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eye_event::figures::Distribution;
use eye_event::verdict::{FaultCode, Verdict};
use serde::Serialize;

/// Four buckets for each doubling of nanoseconds, up to a minute.
const BUCKETS: usize = 144;

/// The first doubling that a distribution shows apart: what is shorter than half a microsecond falls in with it.
const SHORTEST: usize = 8;

/// The running figures of one module.
#[derive(Debug)]
pub(super) struct Figures {
    accepted: AtomicU64,
    amended: AtomicU64,
    rejected: AtomicU64,
    faulted: [AtomicU64; FaultCode::ALL.len()],
    times: [AtomicU64; BUCKETS],
    time_ns: AtomicU64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            amended: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            faulted: Default::default(),
            times: std::array::from_fn(|_| AtomicU64::new(0)),
            time_ns: AtomicU64::new(0),
        }
    }
}

/// How often a module has said what.
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

/// How long judging took, in microseconds; nothing before the first event.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Half of all calls took at most so long.
    pub p50_us: f64,
    /// All but one in a hundred took at most so long.
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
        self.times[bucket(took)].fetch_add(1, Ordering::Relaxed);
        self.time_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Takes over the judging times of another, so that a sum over modules does not shrink when one of them goes.
    pub(super) fn add_times(&self, other: &Self) {
        for (own, other) in self.times.iter().zip(&other.times) {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.time_ns.fetch_add(other.time_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// All judging times, in seconds, with a bucket for each doubling from half a microsecond to a minute.
    pub(super) fn distribution(&self) -> Distribution {
        let counts = self.times.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut buckets = Vec::with_capacity(BUCKETS / 4);
        let mut below = counts[..SHORTEST * 4].iter().sum::<u64>();
        for (doubling, quarters) in counts.chunks(4).enumerate().skip(SHORTEST) {
            let last = doubling == BUCKETS / 4 - 1;
            let bound = if last { f64::INFINITY } else { upper_us(doubling * 4 + 3) / 1e6 };
            buckets.push((bound, std::mem::take(&mut below) + quarters.iter().sum::<u64>()));
        }
        Distribution { buckets, sum: self.time_ns.load(Ordering::Relaxed) as f64 / 1e9 }
    }

    /// Counts a fault without a call, which takes no time worth telling.
    pub(super) fn record_uncalled(&self, code: FaultCode) {
        self.faulted[code.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let faulted = FaultCode::ALL.map(|code| (code.as_str(), self.faulted[code.index()].load(Ordering::Relaxed)));
        Counts {
            accepted: self.accepted.load(Ordering::Relaxed),
            amended: self.amended.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            faulted: faulted.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }

    pub(super) fn times(&self) -> Option<Times> {
        let counts: Vec<u64> = self.times.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let quantile = |hundredths: u64| {
            let mut left = (total * hundredths).div_ceil(100);
            let place = counts.iter().position(|&count| {
                let found = count >= left;
                left = left.saturating_sub(count);
                found
            });
            upper_us(place.unwrap_or(BUCKETS - 1))
        };
        (total > 0).then(|| Times { p50_us: quantile(50), p99_us: quantile(99) })
    }
}

fn bucket(took: Duration) -> usize {
    let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(4);
    let doubling = ns.ilog2();
    let quarter = (ns >> (doubling - 2)) & 3;
    ((doubling as usize) * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper_us(bucket: usize) -> f64 {
    let (doubling, quarter) = (bucket / 4, bucket % 4);
    2_f64.powi(i32::try_from(doubling).unwrap_or(i32::MAX)) * (1.25 + 0.25 * quarter as f64) / 1_000.0
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
