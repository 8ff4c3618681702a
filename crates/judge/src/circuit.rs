//! Decides whether a module may be called, and on which thread. A module that keeps using up its time is taken off the path
//! and tried again with one event at a time, at growing intervals: first for the application whose events do that, and for
//! all once several applications have such events. A fault that comes at once counts for nothing, since it costs nothing. A
//! slow module is called away from the request threads until it has been quick for long. A healthy module pays two loads
//! for an event.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eye_event::verdict::FaultCode;
use serde::Serialize;

/// Points of a fault that took long. A verdict takes one point away, so that one such fault in eleven events is too many.
const SLOW_FAULT: u32 = 10;
/// Points of an overrun deadline. It costs the machine more than any other fault.
const OVERRUN: u32 = 50;
/// The score at which a module is taken off the path for an application: four overruns or twenty slow faults in a row.
const TRIP: u32 = 200;
/// The score of all applications together at which it is taken off for all, unless only one of them has points.
const TRIP_ALL: u32 = 2 * TRIP;
/// Applications that have a score of their own. Operators register them, so there are few.
const APPLICATIONS_MAX: usize = 1_000;
/// Run time from which on a call is slow: it delays the other requests of its thread.
const SLOW_CALL: Duration = Duration::from_millis(2);
/// Calls whose run time is measured after one that took long, to distinguish a slow module from a thread without a processor.
const WATCHED_CALLS: u32 = 100;
/// Quick calls after which a slow module runs on the request threads again.
const QUICK_CALLS: u32 = 10_000;
/// How long a module is off the path before its first probe. Each probe that faults doubles it.
const PROBE_AFTER: Duration = Duration::from_secs(1);
/// The longest time between two probes.
const PROBE_AFTER_MAX: Duration = Duration::from_secs(60);

/// Longest deadline of a call on a request thread. A module with a longer one is always called away: otherwise as many events
/// as there are threads could block all of them for that long.
const HERE_DEADLINE_MAX: Duration = Duration::from_millis(100);

/// The place where the next call of a module may run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On the request's own thread.
    Here,
    /// Away from the request threads.
    Offload,
    /// Away as well, although the module is off the path. The result decides whether the module comes back.
    Probe(Probe),
    /// Nowhere: it is off the path.
    Nowhere,
}

/// A call that decides whether a module comes back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// The application that the probe is for; none for all.
    application: Option<Box<str>>,
}

/// The standing of a module, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is called for each of its events.
    Healthy,
    /// It was slow lately, and is called away from the request threads.
    Slow,
    /// It kept using up its time. The events of an application, or of all, are not judged, except for a probe now and then.
    OffPath,
}

impl Standing {
    /// All, the best first.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Slow, Self::OffPath];

    /// Its word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Slow => "slow",
            Self::OffPath => "off-path",
        }
    }
}

/// The extent to which a fault took a module off the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenOff {
    /// For the application whose event it was.
    ForOne,
    /// For all.
    ForAll,
}

/// The circuit of one module. Each call reads and updates it.
#[derive(Debug)]
pub(super) struct Circuit {
    /// Times of probes count from here.
    began: Instant,
    /// The deadline is too long for a request thread.
    always_away: bool,
    /// Quick calls that are still missing until the module runs on request threads again.
    quick_calls_left: AtomicU32,
    /// Calls whose run time is still to be measured.
    watched_calls_left: AtomicU32,
    /// Whether `trouble` holds anything. A call of a module without trouble takes no lock.
    troubled: AtomicBool,
    trouble: Mutex<Trouble>,
}

/// The scores of a module with recent faults.
#[derive(Debug, Default)]
struct Trouble {
    /// The score of all applications together.
    all: Score,
    /// The scores of applications whose events used up time.
    applications: Vec<(Box<str>, Score)>,
}

/// The score of one application, or of all.
#[derive(Debug, Default)]
struct Score {
    /// Faults add, verdicts subtract. Compared with the trip value.
    points: u32,
    /// When the next probe is due, in milliseconds since the circuit was made; 0 while the module is on the path.
    probe_at_ms: u64,
    /// A probe runs. Calls that began on the path and end late do not count as one.
    probing: bool,
    /// Probes that failed in a row. Each doubles the interval.
    probes_failed: u32,
}

impl Score {
    fn is_off(&self) -> bool {
        self.probe_at_ms != 0
    }

    /// Whether a probe is due. It plans the next one before this one runs, so that only one runs at a time.
    fn begin_probe(&mut self, now_ms: u64) -> bool {
        let due = now_ms >= self.probe_at_ms;
        if due {
            self.probe_at_ms = now_ms + self.interval_ms();
            self.probing = true;
        }
        due
    }

    /// Counts a call that cost little time.
    fn judged(&mut self, trip: u32) {
        if !self.is_off() {
            self.points = self.points.saturating_sub(1);
        } else if std::mem::take(&mut self.probing) {
            // Half the faults take it off again. The interval is reset at a score of zero.
            self.points = trip / 2;
            self.probe_at_ms = 0;
        }
    }

    /// Counts a call that cost much time. Returns true when that takes the module off the path.
    fn overran(&mut self, weight: u32, trip: u32, now_ms: u64) -> bool {
        if self.is_off() {
            if std::mem::take(&mut self.probing) {
                self.probes_failed = self.probes_failed.saturating_add(1);
                self.probe_at_ms = now_ms + self.interval_ms();
            }
            return false;
        }
        self.points = self.points.saturating_add(weight);
        if self.points >= trip {
            self.probe_at_ms = now_ms + self.interval_ms();
        }
        self.is_off()
    }

    /// Whether the score can be dropped.
    fn is_forgotten(&self) -> bool {
        self.points == 0 && !self.is_off()
    }

    fn interval_ms(&self) -> u64 {
        let doublings = self.probes_failed.min(16);
        millis(PROBE_AFTER.saturating_mul(1 << doublings).min(PROBE_AFTER_MAX))
    }
}

impl Trouble {
    fn of(&mut self, application: &str) -> Option<&mut Score> {
        self.applications.iter_mut().find(|(name, _)| &**name == application).map(|(_, score)| score)
    }

    /// The score of an application; a new one if there is room.
    fn of_or_new(&mut self, application: &str) -> Option<&mut Score> {
        if self.of(application).is_none() && self.applications.len() < APPLICATIONS_MAX {
            self.applications.push((application.into(), Score::default()));
        }
        self.of(application)
    }
}

impl Circuit {
    /// The circuit of a module with this deadline.
    pub(super) fn new(deadline: Duration) -> Self {
        Self {
            began: Instant::now(),
            always_away: deadline > HERE_DEADLINE_MAX,
            quick_calls_left: AtomicU32::new(0),
            watched_calls_left: AtomicU32::new(0),
            troubled: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// The place where the next call for an application may run.
    pub(super) fn way(&self, application: &str) -> Route {
        if self.troubled.load(Relaxed)
            && let Some(way) = self.way_in_trouble(application)
        {
            return way;
        }
        let here = !self.always_away && self.quick_calls_left.load(Relaxed) == 0;
        if here { Route::Here } else { Route::Offload }
    }

    fn way_in_trouble(&self, application: &str) -> Option<Route> {
        let now_ms = self.now_ms();
        let mut trouble = self.trouble();
        let (score, whose) = match &mut *trouble {
            Trouble { all, .. } if all.is_off() => (all, None),
            trouble => (trouble.of(application).filter(|score| score.is_off())?, Some(application.into())),
        };
        Some(if score.begin_probe(now_ms) { Route::Probe(Probe { application: whose }) } else { Route::Nowhere })
    }

    /// Whether the module is off the path for an application. That may change while an event waits for a place.
    pub(super) fn is_off(&self, application: &str) -> bool {
        self.troubled.load(Relaxed) && {
            let mut trouble = self.trouble();
            trouble.all.is_off() || trouble.of(application).is_some_and(|score| score.is_off())
        }
    }

    /// Whether a call for an application would go nowhere: the module is off the path, and no probe is due.
    pub(super) fn is_closed(&self, application: &str) -> bool {
        self.troubled.load(Relaxed) && {
            let now_ms = self.now_ms();
            let mut trouble = self.trouble();
            let is_closed = |score: &Score| score.is_off() && now_ms < score.probe_at_ms;
            if trouble.all.is_off() {
                is_closed(&trouble.all)
            } else {
                trouble.of(application).is_some_and(|score| is_closed(score))
            }
        }
    }

    /// Ends a probe. If it was not called, no other call counts as this probe, and the next one is due at its time.
    pub(super) fn unprobed(&self, probe: &Probe) {
        let mut trouble = self.trouble();
        let score = match &probe.application {
            None => Some(&mut trouble.all),
            Some(application) => trouble.of(application),
        };
        if let Some(score) = score {
            score.probing = false;
        }
    }

    /// Begins a call. Returns whether the caller must measure its run time.
    pub(super) fn watches(&self) -> bool {
        self.watched_calls_left.load(Relaxed) > 0
            && self.watched_calls_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// The run time that counts for a call of which only the wall time is known. One that took long may have waited for a
    /// processor, so the next calls are measured.
    pub(super) fn suspect(&self, took: Duration) -> Duration {
        if took > SLOW_CALL {
            self.watched_calls_left.store(WATCHED_CALLS, Relaxed);
        }
        took.min(SLOW_CALL)
    }

    /// Counts a verdict and its run time.
    pub(super) fn judged(&self, application: &str, ran: Duration) {
        self.note_time(ran);
        if !self.troubled.load(Relaxed) {
            return;
        }
        let mut trouble = self.trouble();
        trouble.all.judged(TRIP_ALL);
        if let Some(score) = trouble.of(application) {
            score.judged(TRIP);
        }
        trouble.applications.retain(|(_, score)| !score.is_forgotten());
        if trouble.all.is_forgotten() && trouble.applications.is_empty() {
            *trouble = Trouble::default();
            self.troubled.store(false, Relaxed);
        }
    }

    /// Counts a fault and its run time. Returns the extent to which it takes the module off the path, if it does. A fault that
    /// ran no longer than a good call counts like one.
    pub(super) fn faulted(&self, application: &str, code: FaultCode, ran: Duration) -> Option<TakenOff> {
        let weight = match code {
            FaultCode::Deadline => OVERRUN,
            _ if ran > SLOW_CALL => SLOW_FAULT,
            _ => {
                self.judged(application, ran);
                return None;
            }
        };
        self.note_time(ran);
        let now_ms = self.now_ms();
        let mut trouble = self.trouble();
        self.troubled.store(true, Relaxed);
        let off_for_one = trouble.of_or_new(application).is_some_and(|score| score.overran(weight, TRIP, now_ms));
        let alone = trouble.applications.len() < 2;
        let trip_all = if alone { u32::MAX } else { TRIP_ALL };
        if trouble.all.overran(weight, trip_all, now_ms) {
            return Some(TakenOff::ForAll);
        }
        // The trouble of one application proves nothing about the others.
        trouble.all.points = trouble.all.points.min(TRIP_ALL);
        off_for_one.then_some(TakenOff::ForOne)
    }

    pub(super) fn standing(&self) -> Standing {
        let off = self.troubled.load(Relaxed) && {
            let trouble = self.trouble();
            trouble.all.is_off() || trouble.applications.iter().any(|(_, score)| score.is_off())
        };
        if off {
            Standing::OffPath
        } else if self.quick_calls_left.load(Relaxed) > 0 {
            Standing::Slow
        } else {
            Standing::Healthy
        }
    }

    /// The applications for which the module is off the path, unless it is for all.
    pub(super) fn off_path_for(&self) -> Vec<String> {
        let trouble = self.trouble();
        let off = trouble.applications.iter().filter(|(_, score)| score.is_off() && !trouble.all.is_off());
        off.map(|(application, _)| application.to_string()).collect()
    }

    fn note_time(&self, ran: Duration) {
        if ran > SLOW_CALL {
            self.quick_calls_left.store(QUICK_CALLS, Relaxed);
        } else if self.quick_calls_left.load(Relaxed) > 0 {
            let _none_left = self.quick_calls_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        }
    }

    /// No code under the lock can leave the scores half changed, so a poisoned lock is as good.
    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the circuit was made, never zero.
    fn now_ms(&self) -> u64 {
        millis(self.began.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
