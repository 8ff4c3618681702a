//! Histograms of relaxed atomics, which take no lock. The gateway and the modules record with them, and `/metrics` and the
//! reports read them. A leaf: it knows neither its writers nor the format of its readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds for durations, in microseconds: from the cost of one event to longer than any sender waits.
pub const DURATION_BOUNDS_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Upper bounds for numbers of items.
pub const ITEM_BOUNDS: &[u64] = &[1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// Counts how often each magnitude was recorded.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, inclusive and ascending.
    bounds: &'static [u64],
    /// A counter for each bound, and one for values beyond all bounds.
    counts: Box<[AtomicU64]>,
    /// Sum of all values, in the unit of the bounds.
    sum: AtomicU64,
}

/// A histogram as it stood at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The upper bound of each bucket, and how many values fell into it and no lower one. The last bound is infinity.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all values.
    pub sum: f64,
}

impl Distribution {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The bound that so many hundredths of all values do not exceed; none before the first value.
    pub fn quantile(&self, hundredths: u64) -> Option<f64> {
        let total = self.count();
        let mut left = (total * hundredths).div_ceil(100);
        let found = self.buckets.iter().find(|(_, count)| {
            let found = *count >= left;
            left = left.saturating_sub(*count);
            found
        });
        found.filter(|_| total > 0).map(|(bound, _)| *bound)
    }
}

impl Histogram {
    /// Empty, with these bounds, which must ascend.
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Records one value, in the unit of the bounds.
    pub fn record(&self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Records a duration, in microseconds.
    pub fn record_time(&self, took: Duration) {
        self.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds all values of a histogram with the same bounds.
    pub fn add(&self, other: &Self) {
        debug_assert_eq!(self.bounds, other.bounds, "the counters stand for the same magnitudes");
        for (own, other) in self.counts.iter().zip(&other.counts) {
            own.fetch_add(other.load(Relaxed), Relaxed);
        }
        self.sum.fetch_add(other.sum.load(Relaxed), Relaxed);
    }

    /// All values so far, in a unit `per` times as large as that of the bounds. While others record, the sum may include a
    /// value that the counts do not have yet.
    pub fn distribution(&self, per: f64) -> Distribution {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / per).chain([f64::INFINITY]);
        Distribution {
            buckets: bounds.zip(self.counts.iter().map(|count| count.load(Relaxed))).collect(),
            sum: self.sum.load(Relaxed) as f64 / per,
        }
    }

    /// The same for durations, in seconds.
    pub fn seconds(&self) -> Distribution {
        self.distribution(1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[10, 100]);
        for value in [0, 10, 11, 100, 101, 5_000] {
            histogram.record(value);
        }
        let found = histogram.distribution(2.0);
        assert_eq!(found.buckets, [(5.0, 2), (50.0, 2), (f64::INFINITY, 2)]);
        assert_eq!((found.count(), found.sum), (6, 2_611.0));
    }

    #[test]
    fn durations_are_told_in_seconds() {
        let histogram = Histogram::new(DURATION_BOUNDS_US);
        histogram.record_time(Duration::from_millis(3));
        let found = histogram.seconds();
        let place = found.buckets.iter().position(|(_, count)| *count == 1).expect("recorded");
        assert!((found.buckets[place].0 - 0.005).abs() < 1e-9 && (found.sum - 0.003).abs() < 1e-9, "{found:?}");
    }
}
