//! Tries a module for its author, without a gateway: the same loader in a child process, the same engine, limits and
//! checks of answers. So a trial says of an event what a gateway would say. The examples of the module come as a list,
//! and the caller judges them, so that it can show each.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use eye_event::verdict::{Digest, Fault, Verdict};

use super::component::{Isolation, Program};
use super::contract::{Broken, CheckAmended, GuestEvent};
use super::engine::{Bounds, EngineError, Sandbox, processor_time};
use super::files::MODULE_BYTES_MAX;
use super::kind::Kind;
use super::loading::{Asked, Lane, Loader, Loading, Unloaded};
use super::refusal::Refusal;
use super::settings::{LimitDefaults, Limits, Settings};
use super::slot::Slot;
use super::trial_event::{Expected, TrialEvent, TrialExample};
use super::world;

/// Threads that judge at one moment in a trial.
const THREADS: usize = 1;

/// Bytes that the module of a trial may take between calls, which is what a gateway gives to all modules together.
const MEMORY_BYTES_MAX: usize = 1 << 30;

/// A step of memory, in which the bytes that an event needs are found.
const PAGE_BYTES: usize = 64 << 10;

/// Parts of the made-up events of a trial. They are those of a self-test.
const EVENT_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const SESSION_ID: &str = "67e55044-10b1-426f-9247-bb680e5fe0c8";

/// How a module is tried.
pub struct TrialOptions<'a> {
    /// Whether it is a module or a schema.
    pub kind: Kind,
    /// How its file is loaded.
    pub loading: Loading,
    /// A folder for the notes of the loader. Nothing in it is needed later.
    pub data_dir: &'a Path,
    /// The limits, unless the settings change them.
    pub limits: Limits,
    /// The longest deadline that the settings may ask for, in milliseconds.
    pub deadline_ms_max: u64,
    /// The text of a `<name>.toml`.
    pub settings: Option<&'a str>,
    /// Checks amended data as the gateway does.
    pub check_amended: CheckAmended,
    /// The self-test runs as part of loading, and refuses a module that fails it, as a gateway does. Without it the
    /// examples are only listed.
    pub self_tests: bool,
}

impl std::fmt::Debug for TrialOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrialOptions").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Why there is no trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A gateway would refuse the file.
    #[error("{0}")]
    Refused(Refusal),
    /// The engine does not start on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The result of judging one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The verdict, or how the module broke.
    pub outcome: Result<Verdict, Fault>,
    /// Processor time that it took, the gateway's own part included.
    pub ran: Duration,
}

/// A module that was loaded as a gateway loads it.
pub struct Trial {
    sandbox: Sandbox,
    program: Program,
    settings: Settings,
    check_amended: CheckAmended,
    digest: Digest,
    slot: Slot,
    loading: Duration,
}

impl std::fmt::Debug for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Trial {
    /// Loads a file for the event types of a slot.
    ///
    /// # Errors
    ///
    /// [`TrialError`].
    pub fn load(slot: &Slot, bytes: &[u8], options: TrialOptions<'_>) -> Result<Self, TrialError> {
        let TrialOptions { kind, loading, data_dir, limits, deadline_ms_max, settings, check_amended, self_tests } =
            options;
        if bytes.len() as u64 > MODULE_BYTES_MAX {
            let found = format!("{} bytes", bytes.len());
            return Err(TrialError::Refused(Refusal::new("a module of 64 MiB at most", found, "build it for size")));
        }
        let given = LimitDefaults { defaults: limits, deadline_ms_max };
        let settings = match settings {
            Some(text) => Settings::parse(text, given).map_err(wrong_settings)?,
            None => Settings::of(limits),
        };
        let sandbox = Sandbox::with_bounds(Bounds::of_threads(THREADS, MEMORY_BYTES_MAX))?;
        let loader = Loader::new(
            loading,
            data_dir,
            #[cfg(test)]
            (Sandbox::for_loading()?, std::sync::Arc::clone(&check_amended)),
        );
        let (digest, cancelled, began) = (Digest::of(bytes), AtomicBool::new(false), Instant::now());
        let (limits, lists_examples) = (&settings.limits, !self_tests);
        let asked = Asked { slot, kind, limits, digest, bytes, cancelled: &cancelled, lists_examples };
        let mut loaded = loader.load(&sandbox, &asked, Lane::Quick, |_| {});
        if matches!(loaded, Err(Unloaded::Slow)) {
            loaded = loader.load(&sandbox, &asked, Lane::Heavy, |_| {});
        }
        let program = loaded.map_err(|unloaded| match unloaded {
            Unloaded::Refused(refusal) => TrialError::Refused(refusal),
            Unloaded::Slow | Unloaded::Stopped => TrialError::Refused(unended()),
        })?;
        let loading = began.elapsed();
        Ok(Self { sandbox, program, settings, check_amended, digest, slot: slot.clone(), loading })
    }

    /// Judges one event.
    #[must_use]
    pub fn judge(&self, event: &TrialEvent) -> Tried {
        self.judge_within(&self.settings.limits, event)
    }

    fn judge_within(&self, limits: &Limits, event: &TrialEvent) -> Tried {
        let guest = GuestEvent {
            id: EVENT_ID,
            application: &event.application,
            session_id: SESSION_ID,
            category: &event.category,
            name: &event.name,
            timestamp_us: event.timestamp_us,
            received_at_us: event.received_at_us,
            data: &event.data,
        };
        let began = processor_time();
        let outcome = self.program.judge(&self.sandbox, limits, &guest, &self.check_amended);
        let ran = processor_time().saturating_sub(began);
        Tried { outcome: outcome.map_err(fault), ran }
    }

    /// What may be kept of an event with this data that is not stored; `None` if the module does not say it.
    ///
    /// # Errors
    ///
    /// How the module broke.
    pub fn redact(&self, data: &str) -> Option<Result<String, Fault>> {
        let redacts = self.program.offers().redact;
        let redact = || self.program.redact(&self.sandbox, &self.settings.limits, data, &self.check_amended);
        redacts.then(|| redact().map_err(fault))
    }

    /// The bytes of memory without which this event is a fault, in steps of 64 KiB.
    #[must_use]
    pub fn memory_bytes(&self, event: &TrialEvent) -> usize {
        let limits = self.settings.limits;
        let (mut low, mut high) = (0, limits.memory_bytes_max.div_ceil(PAGE_BYTES));
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let less = Limits { memory_bytes_max: middle * PAGE_BYTES, ..limits };
            if self.judge_within(&less, event).outcome.is_ok() { high = middle } else { low = middle }
        }
        high * PAGE_BYTES
    }

    /// The examples that the module brings, unless its self-test has judged them.
    #[must_use]
    pub fn examples(&self) -> &[TrialExample] {
        &self.program.listed
    }

    /// How many examples the module brings.
    #[must_use]
    pub fn example_count(&self) -> usize {
        self.program.examples
    }

    /// An event of the module's type with this data, as a self-test makes it.
    #[must_use]
    pub fn event(&self, data: &str) -> TrialEvent {
        let (category, name) = self.slot.example();
        TrialEvent {
            category: category.to_owned(),
            name: name.to_owned(),
            application: "test".to_owned(),
            timestamp_us: 1_700_000_000_000_000,
            received_at_us: 1_700_000_000_000_000,
            data: data.to_owned(),
        }
    }

    /// What the module says of itself.
    #[must_use]
    pub fn summary(&self) -> &str {
        &self.program.summary
    }

    /// What the author of a schema may have meant otherwise, each with its line. A module has none.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        self.program.schema.as_ref().map_or(&[], |schema| &schema.warnings)
    }

    /// The module's identity.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How its events are kept apart, and why so.
    #[must_use]
    pub fn isolation(&self) -> (Isolation, &str) {
        (self.program.isolation(), &self.program.isolation_reason)
    }

    /// The functions of version 1.1.0 that it exports.
    #[must_use]
    pub fn offers(&self) -> Vec<&'static str> {
        let world::Offers { redact, examples, validate_at } = self.program.offers();
        [(redact, "redact"), (examples, "examples"), (validate_at, "validate-at")]
            .into_iter()
            .filter_map(|(is_there, name)| is_there.then_some(name))
            .collect()
    }

    /// The limits of each call.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// How long it took from the file to a module that can judge: reading, compiling, `describe`.
    #[must_use]
    pub fn loading_time(&self) -> Duration {
        self.loading
    }
}

impl Expected {
    /// The word in examples.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Amend => "amend",
            Self::Reject => "reject",
        }
    }

    /// The word for a verdict.
    #[must_use]
    pub fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Accept => Self::Accept,
            Verdict::Amend(_) => Self::Amend,
            Verdict::Reject(_) => Self::Reject,
        }
    }
}

/// The file of a module as one component, as the gateway makes it of a core module.
///
/// # Errors
///
/// The refusal of a file that is neither.
pub fn to_component(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    world::component_of(bytes).map(|component| component.to_vec())
}

fn fault(broken: Broken) -> Fault {
    Fault { code: broken.code, detail: broken.detail, last_words: broken.last_words }
}

fn wrong_settings(found: String) -> TrialError {
    let expected = "settings as docs/validators.md describes them";
    TrialError::Refused(Refusal::new(expected, found, "mend the file with the settings"))
}

fn unended() -> Refusal {
    Refusal::new("a module that is loaded in time", "one that was not", "make it smaller")
}
