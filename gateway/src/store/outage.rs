//! Reports repeated failures in few log lines: one when they begin, with the cause, one when the cause changes, and one
//! with the duration when they are over.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The report that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The failures have begun.
    Begins,
    /// The failures go on with another cause.
    Changes,
}

/// Whether something fails now.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Read at each success, which must cost nothing.
    fails: AtomicBool,
    failing: Mutex<Option<Failing>>,
}

#[derive(Debug)]
struct Failing {
    since: Instant,
    /// The cause that was reported last.
    told: Option<String>,
    /// Another cause, until it comes twice in a row. Two causes that alternate are reported once.
    next: Option<String>,
}

impl Failing {
    fn new() -> Self {
        Self { since: Instant::now(), told: None, next: None }
    }
}

impl Outage {
    /// Records a failure whose cause is not known yet.
    pub(super) fn begins(&self) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.get_or_insert_with(Failing::new);
        self.fails.store(true, Relaxed);
    }

    /// Records a failure. It returns no report before the failures have lasted for `patience`.
    pub(super) fn fails(&self, cause: &str, patience: Duration) -> Option<Word> {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let failing = failing.get_or_insert_with(Failing::new);
        self.fails.store(true, Relaxed);
        match &failing.told {
            None if failing.since.elapsed() < patience => None,
            None => {
                failing.told = Some(cause.to_owned());
                Some(Word::Begins)
            }
            Some(told) if told == cause => {
                failing.next = None;
                None
            }
            Some(_) if failing.next.as_deref() == Some(cause) => {
                failing.told = failing.next.take();
                Some(Word::Changes)
            }
            Some(_) => {
                failing.next = Some(cause.to_owned());
                None
            }
        }
    }

    /// Records a success. Returns the duration of the failures, if they were reported.
    pub(super) fn works(&self) -> Option<Duration> {
        if !self.fails.load(Relaxed) {
            return None;
        }
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        self.fails.store(false, Relaxed);
        let failing = failing.take()?;
        failing.told.map(|_| failing.since.elapsed())
    }

    /// Whether the last call failed, reported or not.
    pub(super) fn is_on(&self) -> bool {
        self.fails.load(Relaxed)
    }
}

/// A duration for the log.
pub(super) fn shown(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..600 => format!("{seconds} s"),
        600..36_000 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_for_each_cause_and_once_when_it_is_over() {
        let (outage, now) = (Outage::default(), Duration::ZERO);
        assert_eq!(outage.works(), None);
        assert_eq!(outage.fails("refused", now), Some(Word::Begins));
        for _ in 0..58 {
            tokio::time::advance(Duration::from_millis(250)).await;
            assert_eq!(outage.fails("refused", now), None);
        }
        assert_eq!(outage.fails("starting", now), None, "perhaps once only");
        assert_eq!(outage.fails("starting", now), Some(Word::Changes));
        assert_eq!(outage.fails("starting", now), None);
        for _ in 0..10 {
            assert_eq!((outage.fails("refused", now), outage.fails("starting", now)), (None, None));
        }
        assert!(outage.is_on());
        assert_eq!(outage.works(), Some(Duration::from_millis(58 * 250)));
        assert_eq!((outage.works(), outage.is_on()), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_in_a_moment_is_not_told() {
        let (outage, patience) = (Outage::default(), Duration::from_secs(2));
        assert_eq!(outage.fails("cut", patience), None);
        assert_eq!(outage.works(), None);
        assert_eq!(outage.fails("cut", patience), None);
        tokio::time::advance(patience).await;
        assert_eq!(outage.fails("cut", patience), Some(Word::Begins));
        assert_eq!(outage.works(), Some(patience));
    }

    #[test]
    fn a_time_is_as_exact_as_it_is_short() {
        for (seconds, text) in
            [(0.25, "0.2 s"), (12.9, "12 s"), (599.0, "599 s"), (3_600.0, "60 min"), (90_000.0, "25 h")]
        {
            assert_eq!(shown(Duration::from_secs_f64(seconds)), text);
        }
    }
}
