//! A module that serves a slot: its program, its settings, and the counts of its events.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eye_event::verdict::{Digest, Fault, FaultCode, UnfinishedCode, Unjudged, Verdict};

use super::circuit::{Circuit, TakenOff};
use super::component::Program;
use super::contract::{Broken, CheckAmended, GuestEvent};
use super::engine::{Sandbox, processor_time};
use super::figures::Figures;
use super::rest::Rest;
use super::settings::{OnFault, Settings};
use super::slot::Slot;

/// A module whose calls take no longer than this may hold its whole share of the places. One that takes twice as long
/// may hold half of it.
const FULL_SHARE_COST: Duration = Duration::from_millis(5);

/// One version of a slot's code, with the settings of now.
pub(super) struct Module {
    pub(super) slot: Slot,
    pub(super) digest: Digest,
    program: Arc<Program>,
    settings: Settings,
    /// Shared with every other `Module` of the same code, whether it has other settings or came back after another
    /// version.
    pub(super) figures: Arc<Figures>,
    pub(super) circuit: Circuit,
    pub(super) queue: Queue,
    /// Says when `redact` is not called.
    pub(super) rest: Rest,
    /// Processor times of its calls, once the guard looks at them. On a busy machine a call takes longer than it runs.
    ran: OnceLock<Figures>,
}

impl Module {
    /// Makes a module that goes on counting with the figures of its code.
    pub(super) fn new(slot: Slot, digest: Digest, program: Program, settings: Settings, figures: Arc<Figures>) -> Self {
        Self {
            slot,
            digest,
            program: Arc::new(program),
            settings,
            figures,
            circuit: circuit(&settings),
            queue: Queue::new(),
            rest: Rest::new(),
            ran: OnceLock::new(),
        }
    }

    /// Measures the processor time of its calls from now on.
    pub(super) fn measure(&self) {
        let _measured = self.ran.get_or_init(Figures::default);
    }

    /// The processor times of its calls since they are measured.
    pub(super) fn ran(&self) -> Option<&Figures> {
        self.ran.get()
    }

    /// Makes a module that is only tried. Its figures are its own, and a fault of it is always told as one: the sender gets
    /// the answer of the module that serves.
    pub(super) fn candidate(slot: Slot, digest: Digest, program: Program, settings: Settings) -> Self {
        let settings = Settings { on_fault: OnFault::Quarantine, ..settings };
        Self::new(slot, digest, program, settings, Arc::default())
    }

    /// The same code with other settings. It keeps the counts of its code and forgets its faults: it is on the path
    /// again.
    pub(super) fn with_settings(&self, settings: Settings) -> Self {
        Self {
            slot: self.slot.clone(),
            digest: self.digest,
            program: Arc::clone(&self.program),
            settings,
            figures: Arc::clone(&self.figures),
            circuit: circuit(&settings),
            queue: Queue::new(),
            rest: Rest::new(),
            ran: OnceLock::new(),
        }
    }

    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    pub(super) fn program_owned(&self) -> Arc<Program> {
        Arc::clone(&self.program)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Judges one event on this thread, and counts the result.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Unjudged> {
        let began = Instant::now();
        let measured = self.ran.get();
        let ran_before = (self.circuit.watches() || measured.is_some()).then(processor_time);
        let outcome = self.program.judge(sandbox, &self.settings.limits, event, check_amended);
        let took = began.elapsed();
        let overran = matches!(&outcome, Err(broken) if broken.code == FaultCode::Deadline);
        let ran = match ran_before {
            Some(before) => processor_time().saturating_sub(before),
            None if overran => took,
            None => self.circuit.suspect(took),
        };
        if let Some(measured) = measured {
            measured.record(outcome.as_ref().map_err(|broken| broken.code), ran);
        }
        match outcome {
            Ok(verdict) => {
                self.figures.record(Ok(&verdict), took);
                self.circuit.judged(event.application, ran);
                Ok(verdict)
            }
            // The machine had no room for the call, which says nothing against the module.
            Err(broken) if broken.code == FaultCode::Busy => Err(self.busy()),
            Err(broken) => {
                self.figures.record(Err(broken.code), took);
                self.note_fault(event.application, &broken, ran);
                Err(self.fault(broken.code, broken.detail, broken.last_words))
            }
        }
    }

    /// What it says of an event that another module has judged. Counts nothing, and its standing does not depend on it.
    pub(super) fn say(
        &self,
        sandbox: &Sandbox,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Unjudged> {
        let said = self.program.judge(sandbox, &self.settings.limits, event, check_amended);
        said.map_err(|broken| match broken.code {
            FaultCode::Busy => UnfinishedCode::ModuleBusy.into(),
            code => Fault { code, detail: broken.detail, last_words: None }.into(),
        })
    }

    fn note_fault(&self, application: &str, broken: &Broken, ran: Duration) {
        match self.circuit.faulted(application, broken.code, ran) {
            None => {}
            Some(TakenOff::ForOne) => tracing::warn!(
                event_type = %self.slot, digest = %self.digest, code = %broken.code, application,
                "the module keeps using up its time on events of this application, and is off the path for it: {}",
                broken.detail
            ),
            Some(TakenOff::ForAll) => tracing::warn!(
                event_type = %self.slot, digest = %self.digest, code = %broken.code,
                "the module keeps using up its time on events of several applications, and is off the path for all: {}",
                broken.detail
            ),
        }
    }

    /// The fault of an event that is not judged because the module is off the path. Counts the event.
    pub(super) fn off_path(&self) -> Unjudged {
        self.figures.record_uncalled(FaultCode::OffPath);
        self.fault(FaultCode::OffPath, "this module keeps using up its time and is off the path".into(), None)
    }

    /// The answer for an event for which there was no time or no room. No module looked at it, so it has no outcome
    /// yet.
    pub(super) fn busy(&self) -> Unjudged {
        self.figures.record_uncalled(FaultCode::Busy);
        UnfinishedCode::ModuleBusy.into()
    }

    /// Returns the fault, or the retry that this module's settings want instead.
    fn fault(&self, code: FaultCode, detail: String, last_words: Option<String>) -> Unjudged {
        match self.settings.on_fault {
            OnFault::Retry => UnfinishedCode::ModuleUnavailable.into(),
            OnFault::Quarantine => Fault { code, detail, last_words }.into(),
        }
    }
}

fn circuit(settings: &Settings) -> Circuit {
    Circuit::new(Duration::from_millis(settings.limits.deadline_ms))
}

/// A module's share of the places: its number, and the cost of its calls.
pub(super) struct Queue {
    pub(super) number: u64,
    /// The mean time of its last calls in nanoseconds; 0 before the first call.
    cost_ns: AtomicU64,
}

/// Modules that were made so far.
static MODULES: AtomicU64 = AtomicU64::new(0);

impl Queue {
    pub(super) fn new() -> Self {
        Self { number: MODULES.fetch_add(1, Relaxed), cost_ns: AtomicU64::new(0) }
    }

    /// Adds a call to the mean. If two calls end at one moment, it may miss one of them, which does no harm.
    pub(super) fn ran(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
        let before = self.cost_ns.load(Relaxed);
        let mean = if before == 0 { ns } else { before - before / 8 + ns / 8 };
        self.cost_ns.store(mean.max(1), Relaxed);
    }

    /// The most of `places` that the module may hold: one as long as the cost of its calls is unknown.
    pub(super) fn most(&self, places: usize) -> usize {
        let cost = self.cost_ns.load(Relaxed);
        if cost == 0 {
            return 1;
        }
        let full = u64::try_from(FULL_SHARE_COST.as_nanos()).unwrap_or(u64::MAX);
        let most = (places as u64).saturating_mul(full) / cost;
        usize::try_from(most).unwrap_or(usize::MAX).clamp(1, places)
    }
}
