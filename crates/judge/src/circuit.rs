//! Whether a module may be called, and where. A module that keeps using up its time is taken off the path and tried again with
//! one event at a time, at growing intervals: first for the application whose events do that, and for all once it is not one
//! application alone. What breaks at once leaves nothing behind and weighs nothing. A module that was slow is called away from
//! the request threads until it has been quick for long. A healthy module pays two loads for an event.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eye_event::verdict::FaultCode;
use serde::Serialize;

/// What a fault adds to the score that took long; a verdict takes one away. One in eleven events, for long, is too many.
const SLOW_FAULT: u32 = 10;
/// What an overrun deadline adds: it costs the machine more than any other fault.
const OVERRUN: u32 = 50;
/// The score at which a module is taken off the path for an application: four overruns or twenty slow faults in a row.
const TRIP: u32 = 200;
/// The score of all applications together at which it is taken off for all of them, unless only one has any.
const TRIP_ALL: u32 = 2 * TRIP;
/// Applications that have a score of their own. Operators register them, so there are few.
const APPLICATIONS_MAX: usize = 1_000;
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// On the request's own thread.
    Here,
    /// Away from the request threads.
    Offload,
    /// Away as well, and though it is off the path: what comes of it decides whether it comes back.
    Probe(Probe),
    /// Nowhere: it is off the path.
    Nowhere,
}

/// A call that decides whether a module comes back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Probe {
    /// For which application; for all when there is none.
    application: Option<Box<str>>,
}

/// How a module stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is called as events come.
    Healthy,
    /// It took long lately, and is called away from the request threads.
    Slow,
    /// It kept using up its time: the events of an application, or of all, are not judged, but for a probe now and then.
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

/// For whom a fault took a module off the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenOff {
    /// For the application whose event it was.
    ForOne,
    /// For all.
    ForAll,
}

/// The circuit of one module.
#[derive(Debug)]
pub(super) struct Circuit {
    began: Instant,
    /// It may run for too long to be called on a request thread.
    always_away: bool,
    /// Quick calls still to come before the request threads are open again.
    quick_calls_left: AtomicU32,
    /// Calls still to come of which it must be known how long they run.
    watched_calls_left: AtomicU32,
    /// Whether there is any trouble to look at: a module without any pays no lock.
    troubled: AtomicBool,
    trouble: Mutex<Trouble>,
}

/// What a module did wrong lately.
#[derive(Debug, Default)]
struct Trouble {
    all: Score,
    /// Those applications whose events used up time.
    applications: Vec<(Box<str>, Score)>,
}

/// How bad it is, for one application or for all.
#[derive(Debug, Default)]
struct Score {
    points: u32,
    /// Milliseconds after the circuit was made at which the next probe is due; 0 while the module is on the path.
    probe_at_ms: u64,
    /// A probe runs. What ends late, of calls that began on the path, is no probe.
    probing: bool,
    /// How often a probe failed in a row.
    probes_failed: u32,
}

impl Score {
    fn is_off(&self) -> bool {
        self.probe_at_ms != 0
    }

    /// Whether a probe is due. The next one is put off before this one runs, so that there is one at a time.
    fn begin_probe(&mut self, now_ms: u64) -> bool {
        let due = now_ms >= self.probe_at_ms;
        if due {
            self.probe_at_ms = now_ms + self.interval_ms();
            self.probing = true;
        }
        due
    }

    /// Takes note of a call that cost no time worth telling.
    fn judged(&mut self, trip: u32) {
        if !self.is_off() {
            self.points = self.points.saturating_sub(1);
        } else if std::mem::take(&mut self.probing) {
            // On probation: half the faults take it off again, and the interval is forgotten at a score of zero.
            self.points = trip / 2;
            self.probe_at_ms = 0;
        }
    }

    /// Takes note of a call that did. True when it takes the module off the path.
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

    /// Whether there is nothing to remember.
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

    /// The score of an application, a new one while there is room for it.
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

    /// Where the next call for an application may run.
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

    /// Whether the module was taken off the path for an application, which may happen while an event waits for it.
    pub(super) fn is_off(&self, application: &str) -> bool {
        self.troubled.load(Relaxed) && {
            let mut trouble = self.trouble();
            trouble.all.is_off() || trouble.of(application).is_some_and(|score| score.is_off())
        }
    }

    /// A probe is over. If it was not called, the next one is due at its time, and no other call counts as this one.
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

    /// Takes note of a fault. Says for whom it takes the module off the path, if for anybody. One that ran no longer than a
    /// good call has cost what a good call costs.
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
        // One that is alone with its trouble says nothing of the others.
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

    /// The applications for which alone the module is off the path: none when it is for all, or for nobody.
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

    /// Nothing that runs under the lock can leave it half changed.
    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
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
    const SLOW: Duration = SLOW_CALL.saturating_mul(2);

    fn overrun(circuit: &Circuit, application: &str) -> Option<TakenOff> {
        circuit.faulted(application, FaultCode::Deadline, SLOW)
    }

    fn later(circuit: Circuit, time: Duration) -> Circuit {
        Circuit { began: circuit.began.checked_sub(time).expect("the clock is old"), ..circuit }
    }

    fn is_probe(way: &Route) -> bool {
        matches!(way, Route::Probe(_))
    }

    #[test]
    fn what_breaks_at_once_takes_nothing_off_the_path_however_often() {
        let circuit = Circuit::new(QUICK);
        for code in [FaultCode::Trap, FaultCode::Memory, FaultCode::Stack, FaultCode::Output] {
            assert!((0..10_000).all(|_| circuit.faulted("web", code, QUICK).is_none()));
        }
        assert_eq!((circuit.way("web"), circuit.standing()), (Route::Here, Standing::Healthy));
    }

    #[test]
    fn what_uses_up_time_rarely_does_no_harm_and_often_takes_a_module_off() {
        let circuit = Circuit::new(QUICK);
        for _ in 0..1_000 {
            assert_eq!(circuit.faulted("web", FaultCode::Memory, SLOW), None);
            (0..20).for_each(|_| circuit.judged("web", QUICK));
        }
        assert!(!circuit.troubled.load(Relaxed), "it is forgotten");
        let faults = (1..).find(|_| circuit.faulted("web", FaultCode::Memory, SLOW).is_some());
        assert_eq!(faults, Some(20));
        assert_eq!((circuit.way("web"), circuit.standing()), (Route::Nowhere, Standing::OffPath));
        let circuit = Circuit::new(QUICK);
        assert_eq!((1..).find(|_| overrun(&circuit, "web").is_some()), Some(4));
    }

    #[test]
    fn an_application_alone_takes_a_module_away_from_itself_and_two_from_all() {
        let circuit = Circuit::new(QUICK);
        let taken = (0..50).filter_map(|_| overrun(&circuit, "greedy")).collect::<Vec<_>>();
        assert_eq!(taken, [TakenOff::ForOne]);
        assert_eq!((circuit.way("greedy"), circuit.way("web")), (Route::Nowhere, Route::Offload));
        assert_eq!((circuit.standing(), circuit.off_path_for()), (Standing::OffPath, vec!["greedy".to_owned()]));
        assert_eq!((circuit.is_off("greedy"), circuit.is_off("web")), (true, false));
        // What others are well served with is not taken from them by a second one.
        (0..1_000).for_each(|_| circuit.judged("web", QUICK));
        assert!((0..4).all(|_| overrun(&circuit, "second") != Some(TakenOff::ForAll)));
        assert!(!circuit.is_off("web"));
        assert_eq!((0..50).find_map(|_| overrun(&circuit, "third")), Some(TakenOff::ForAll));
        assert_eq!((circuit.way("web"), circuit.off_path_for()), (Route::Nowhere, Vec::new()));
    }

    #[test]
    fn applications_with_a_score_are_bounded() {
        let circuit = Circuit::new(QUICK);
        let mut trouble = Trouble::default();
        for number in 0..2 * APPLICATIONS_MAX {
            let room = trouble.of_or_new(&number.to_string()).is_some();
            assert_eq!(room, number < APPLICATIONS_MAX);
        }
        // Those that have none of their own still count for all.
        *circuit.trouble() = trouble;
        assert_eq!((1..).find(|_| overrun(&circuit, "one more").is_some()), Some(8));
        assert!(circuit.is_off("web"));
    }

    #[test]
    fn a_probe_brings_a_module_back_and_a_failed_one_waits_longer() {
        let circuit = Circuit::new(QUICK);
        while overrun(&circuit, "web").is_none() {}
        let off = later(circuit, PROBE_AFTER * 2);
        assert!(is_probe(&off.way("web")) && off.way("web") == Route::Nowhere, "one probe at a time");
        assert_eq!(overrun(&off, "web"), None, "it was off before");
        assert_eq!(off.way("web"), Route::Nowhere);
        let off = later(off, PROBE_AFTER * 7);
        assert!(is_probe(&off.way("web")));
        off.judged("web", QUICK);
        assert_eq!(off.way("web"), Route::Offload);
        assert!((0..2).any(|_| overrun(&off, "web").is_some()), "half the faults are enough now");
    }

    #[test]
    fn a_probe_that_breaks_at_once_has_not_used_up_its_time() {
        let circuit = Circuit::new(QUICK);
        while overrun(&circuit, "web").is_none() {}
        let off = later(circuit, PROBE_AFTER * 2);
        assert!(is_probe(&off.way("web")));
        assert_eq!(off.faulted("web", FaultCode::Trap, QUICK), None);
        assert!(!off.is_off("web"));
    }

    #[test]
    fn a_module_that_is_off_for_all_comes_back_by_the_probe_of_any() {
        let circuit = Circuit::new(QUICK);
        let both = ["one", "two"].into_iter().cycle();
        assert!(both.take(50).any(|application| overrun(&circuit, application) == Some(TakenOff::ForAll)));
        let off = later(circuit, PROBE_AFTER * 2);
        assert!(is_probe(&off.way("web")));
        assert_eq!(off.way("other"), Route::Nowhere);
        off.judged("web", QUICK);
        assert_eq!(off.way("web"), Route::Offload);
    }

    #[test]
    fn a_probe_that_was_not_called_leaves_no_other_call_to_count_as_one() {
        let circuit = Circuit::new(QUICK);
        while overrun(&circuit, "web").is_none() {}
        let off = later(circuit, PROBE_AFTER * 2);
        let Route::Probe(probe) = off.way("web") else { panic!("it is due") };
        off.unprobed(&probe);
        // One that began while the module was on the path.
        off.judged("web", QUICK);
        assert!(off.is_off("web"));
    }

    #[test]
    fn a_module_that_may_run_for_long_is_never_called_on_a_request_thread() {
        let circuit = Circuit::new(HERE_DEADLINE_MAX * 2);
        (0..=QUICK_CALLS).for_each(|_| {
            assert_eq!(circuit.way("web"), Route::Offload);
            circuit.judged("web", QUICK);
        });
        assert_eq!((circuit.way("web"), circuit.standing()), (Route::Offload, Standing::Healthy));
        assert_eq!(Circuit::new(HERE_DEADLINE_MAX).way("web"), Route::Here);
    }

    #[test]
    fn a_slow_call_sends_the_next_ones_away() {
        let circuit = Circuit::new(QUICK);
        circuit.judged("web", SLOW);
        assert_eq!((circuit.way("web"), circuit.standing()), (Route::Offload, Standing::Slow));
        (0..QUICK_CALLS).for_each(|_| circuit.judged("web", QUICK));
        assert_eq!((circuit.way("web"), circuit.standing()), (Route::Here, Standing::Healthy));
    }

    #[test]
    fn a_call_that_waited_for_a_processor_only_has_the_next_ones_watched() {
        let circuit = Circuit::new(QUICK);
        assert!(!circuit.watches());
        circuit.judged("web", circuit.suspect(SLOW_CALL * 10));
        assert_eq!(circuit.way("web"), Route::Here);
        assert!((0..WATCHED_CALLS).all(|_| circuit.watches()));
        assert!(!circuit.watches());
        circuit.judged("web", circuit.suspect(SLOW_CALL));
        assert!(!circuit.watches());
    }
}
