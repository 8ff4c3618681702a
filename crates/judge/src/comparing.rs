//! Judges the second of each pair: one thread of the lowest priority, a bounded queue before it, and an allowance of
//! processor time for each pair of modules. What does not fit is counted and not compared. No request waits for it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use eye_event::verdict::{Fault, FaultCode, UnfinishedCode, Unjudged, Verdict, Violation};

use super::candidate::{Beside, Missing, Paired, Said, Trial};
use super::circuit::Route;
use super::contract::{CheckAmended, GuestEvent};
use super::engine::{Sandbox, processor_time};
use super::module::Module;
use super::offload::Owned;

/// Bounds of the events that wait to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareLimits {
    /// Most events.
    pub waiting_max: usize,
    /// Most bytes of their data and of the verdicts on them.
    pub waiting_bytes_max: usize,
}

impl Default for CompareLimits {
    fn default() -> Self {
        Self { waiting_max: 4_096, waiting_bytes_max: 32 << 20 }
    }
}

/// The events that wait, and their bounds. The queue itself has none, so that these may change.
#[derive(Debug, Default)]
struct Waiting {
    events: AtomicUsize,
    bytes: AtomicUsize,
    events_max: AtomicUsize,
    bytes_max: AtomicUsize,
}

impl Waiting {
    /// Takes room for an event. Returns whether there was some.
    fn take(&self, bytes: usize) -> bool {
        let (events, taken) = (self.events.fetch_add(1, Relaxed), self.bytes.fetch_add(bytes, Relaxed));
        let has_room = events < self.events_max.load(Relaxed) && taken + bytes <= self.bytes_max.load(Relaxed);
        if !has_room {
            self.give(bytes);
        }
        has_room
    }

    fn give(&self, bytes: usize) {
        self.events.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }
}

/// Between two looks at the queue. A thread that waits on it is woken for each event, which costs the sender of the event.
const PAUSE: Duration = Duration::from_millis(5);

/// An event that one of two modules has judged.
struct Half {
    beside: Arc<Beside>,
    event: Owned,
    said: Said,
    missing: Missing,
    check_amended: CheckAmended,
}

impl Half {
    /// Lets the other module judge the event, and counts what the two say.
    fn judge(self, sandbox: &Sandbox) {
        let Self { beside, event, said, missing, check_amended } = self;
        if !beside.allowance.is_left() {
            return beside.not_compared();
        }
        let began = processor_time();
        let event = event.event();
        let other = beside.missing(missing);
        let (other_said, ran) = if missing == Missing::Serving || beside.trial == Trial::Replacement {
            say(other, sandbox, &event, &check_amended)
        } else {
            judge(other, sandbox, &event, &check_amended)
        };
        let in_vain = is_in_vain(&other_said, ran, deadline(other));
        let paired = Paired::of(&event);
        match missing {
            Missing::Beside => beside.pair(&paired, &other_said, &said),
            Missing::Serving => beside.pair(&paired, &said, &other_said),
        }
        beside.allowance.spend(processor_time().saturating_sub(began), in_vain);
    }
}

/// Whether a call used up much time and gave no verdict. A verdict that took long is worth its time.
pub(super) fn is_in_vain(said: &Said, ran: Duration, deadline: Duration) -> bool {
    said.is_err() && ran >= deadline / 2
}

/// The queue, and the thread once there is something to compare.
pub(super) struct Comparing {
    sandbox: Arc<Sandbox>,
    queue: OnceLock<Option<Sender<Half>>>,
    waiting: Arc<Waiting>,
}

impl Comparing {
    pub(super) fn new(sandbox: Arc<Sandbox>, limits: CompareLimits) -> Self {
        let comparing = Self { sandbox, queue: OnceLock::new(), waiting: Arc::default() };
        comparing.set_limits(limits);
        comparing
    }

    /// Changes the bounds. Events beyond a lower bound are still compared, and no others come.
    pub(super) fn set_limits(&self, limits: CompareLimits) {
        self.waiting.events_max.store(limits.waiting_max, Relaxed);
        self.waiting.bytes_max.store(limits.waiting_bytes_max, Relaxed);
    }

    /// Lets the other module of a pair judge the event later.
    pub(super) fn compare(
        &self,
        beside: &Arc<Beside>,
        event: &GuestEvent<'_>,
        said: &Said,
        missing: Missing,
        check_amended: &CheckAmended,
    ) {
        // An event for which there would be no verdict is not copied.
        let other = beside.missing(missing);
        if !beside.allowance.is_left() || other.circuit.is_closed(event.application) {
            return beside.not_compared();
        }
        let bytes = event.data.len() + bytes_of(said);
        let Some(queue) = self.queue.get_or_init(|| self.start()) else { return beside.not_compared() };
        if !self.waiting.take(bytes) {
            return beside.not_compared();
        }
        let half = Half {
            beside: Arc::clone(beside),
            event: Owned::of(event),
            said: said.clone(),
            missing,
            check_amended: Arc::clone(check_amended),
        };
        // The thread has ended, which a panic alone does.
        if let Err(unsent) = queue.send(half) {
            self.waiting.give(bytes);
            unsent.0.beside.not_compared();
        }
    }

    /// Starts the thread. It ends when the queue is dropped.
    fn start(&self) -> Option<Sender<Half>> {
        #[expect(clippy::disallowed_methods, reason = "`Waiting` is its bound, which may change while it runs")]
        let (queue, halves) = channel();
        let (sandbox, waiting) = (Arc::clone(&self.sandbox), Arc::clone(&self.waiting));
        let work = move || {
            yield_to_others();
            run(&halves, &sandbox, &waiting);
        };
        let started = std::thread::Builder::new().name("eye-compare".into()).spawn(work);
        started.inspect_err(|error| tracing::error!(%error, "the thread that compares modules does not start")).ok()?;
        Some(queue)
    }
}

/// Gives this thread the lowest priority, so that it takes only what the path of events leaves.
fn yield_to_others() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::warn!(%error, "candidates are compared at the priority of events");
    }
}

fn run(halves: &Receiver<Half>, sandbox: &Arc<Sandbox>, waiting: &Waiting) {
    while let Ok(first) = halves.recv() {
        for half in std::iter::once(first).chain(halves.try_iter()) {
            waiting.give(half.event.event().data.len() + bytes_of(&half.said));
            half.judge(sandbox);
        }
        std::thread::sleep(PAUSE);
    }
}

/// About the bytes of a verdict.
fn bytes_of(said: &Said) -> usize {
    match said {
        Ok(Verdict::Amend(data)) => data.len(),
        Ok(Verdict::Reject(violations)) => violations.iter().map(Violation::bytes).sum(),
        Ok(Verdict::Accept) | Err(_) => 0,
    }
}

/// Calls a module, and returns the processor time that it used. One that found no processor for long, and so did not use up
/// its own time, has said nothing.
pub(super) fn patiently(module: &Module, call: impl FnOnce() -> Said) -> (Said, Duration) {
    let before = processor_time();
    let said = call();
    let ran = processor_time().saturating_sub(before);
    let is_late = matches!(&said, Err(Unjudged::Fault(fault)) if fault.code == FaultCode::Deadline);
    if is_late && ran < deadline(module) { (Err(UnfinishedCode::ModuleBusy.into()), ran) } else { (said, ran) }
}

fn deadline(module: &Module) -> Duration {
    Duration::from_millis(module.settings().limits.deadline_ms)
}

/// The verdict of a candidate, and its time. One that keeps using up its time is called now and then, as on the path.
fn judge(module: &Module, sandbox: &Sandbox, event: &GuestEvent<'_>, check: &CheckAmended) -> (Said, Duration) {
    match module.circuit.way(event.application) {
        Route::Here | Route::Offload => patiently(module, || module.judge(sandbox, event, check)),
        Route::Probe(probe) => {
            let said = patiently(module, || module.judge(sandbox, event, check));
            module.circuit.unprobed(&probe);
            said
        }
        Route::Nowhere => (Err(module.off_path()), Duration::ZERO),
    }
}

/// The verdict of a module that serves or served, and its time. What it says here must not change how it stands on the path.
fn say(module: &Module, sandbox: &Sandbox, event: &GuestEvent<'_>, check: &CheckAmended) -> (Said, Duration) {
    if module.circuit.is_off(event.application) {
        let fault = Fault { code: FaultCode::OffPath, detail: String::new(), last_words: None };
        return (Err(fault.into()), Duration::ZERO);
    }
    patiently(module, || module.say(sandbox, event, check))
}
