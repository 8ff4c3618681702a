//! The contract with validators as the engine has it: an event as a module sees it, the answer of a module, and the
//! ways in which a call breaks. Each way of running a module uses these types.

use std::sync::Arc;

use eye_event::legible::legible;
use eye_event::verdict::FaultCode;
use wasmtime::{Store, Trap};

use super::engine::Meter;
use super::settings::Limits;

pub(super) use bindings::{Description, Event, Example, Expectation, ValidatorPre, Verdict, Violation};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });

    pub(in super::super) use self::eye::validator::types::{Example, Expectation, Violation};
}

/// Characters of a panic's text in a message.
const LAST_WORDS_TOLD_MAX: usize = 300;

/// Bytes of a module's description of itself, its examples included.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

/// How much longer `describe` may take than judging one event. It runs once, and no request waits for it.
const DESCRIBE_DEADLINE_FACTOR: u64 = 20;
/// The most that the factor above may give, unless judging itself may take longer: meanwhile one loading thread is
/// missing for other files.
const DESCRIBE_DEADLINE_MS_MAX: u64 = 2_000;

/// Checks an amended `data`. The text says why the gateway cannot take it.
pub type CheckAmended = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// An event as the module sees it.
#[derive(Clone, Copy)]
pub(super) struct GuestEvent<'a> {
    pub(super) id: &'a str,
    pub(super) application: &'a str,
    pub(super) session_id: &'a str,
    pub(super) category: &'a str,
    pub(super) name: &'a str,
    pub(super) timestamp_us: i64,
    /// When the gateway received it first.
    pub(super) received_at_us: i64,
    pub(super) data: &'a str,
}

/// Why a call broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) code: FaultCode,
    pub(super) detail: String,
    /// The text of a panic or exception, from the place where the module's kit keeps it. It may quote the event.
    pub(super) last_words: Option<String>,
}

impl Broken {
    pub(super) fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), last_words: None }
    }

    pub(super) fn output(detail: impl Into<String>) -> Self {
        Self::new(FaultCode::Output, detail)
    }

    /// The fault in a sentence for the module's author. It may quote the author's own examples.
    pub(super) fn told(&self) -> String {
        let said =
            self.last_words.as_deref().map(|words| format!(", saying `{}`", legible(words, LAST_WORDS_TOLD_MAX)));
        format!("a fault ({}): {}{}", self.code, self.detail, said.unwrap_or_default())
    }

    /// Whether the same call may end well later, when the machine has more room.
    pub(super) fn passes(&self) -> bool {
        matches!(self.code, FaultCode::Deadline | FaultCode::Busy)
    }
}

/// The limits of `describe`, which runs once, while no request waits.
pub(super) fn for_describing(limits: &Limits) -> Limits {
    Limits {
        deadline_ms: (limits.deadline_ms.saturating_mul(DESCRIBE_DEADLINE_FACTOR))
            .min(DESCRIBE_DEADLINE_MS_MAX.max(limits.deadline_ms)),
        output_bytes_max: DESCRIPTION_BYTES_MAX,
        ..*limits
    }
}

pub(super) fn to_contract<'a>(event: &GuestEvent<'a>) -> Event<'a> {
    Event {
        id: event.id,
        application: event.application,
        session_id: event.session_id,
        category: event.category,
        name: event.name,
        timestamp: event.timestamp_us,
        data: event.data,
    }
}

/// The fault of a module that gave no instance. Either code that runs at the start broke, or the module was denied the
/// memory that it has from the start, or the machine had no room. The last is no fault of the module.
pub(super) fn unstarted(error: &wasmtime::Error, store: &Store<Meter>) -> Broken {
    if error.is::<Trap>() || store.data().denied.is_some() {
        return broken(error, store);
    }
    Broken::new(FaultCode::Busy, format!("there was no room for an instance: {}", error.root_cause()))
}

/// The kind of fault that an error of the engine is.
pub(super) fn broken(error: &wasmtime::Error, store: &Store<Meter>) -> Broken {
    let (code, detail) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FaultCode::Deadline, "it ran past its deadline".to_owned()),
        Some(Trap::StackOverflow) => (FaultCode::Stack, "it exhausted its call stack".to_owned()),
        trap => match (denied(store), trap) {
            (Some(denied), _) => return denied,
            (
                None,
                Some(
                    Trap::StringOutOfBounds
                    | Trap::ListOutOfBounds
                    | Trap::InvalidDiscriminant
                    | Trap::UnalignedPointer
                    | Trap::InvalidChar,
                )
                | None,
            ) => (FaultCode::Output, format!("its answer is malformed: {}", error.root_cause())),
            (None, Some(trap)) => (FaultCode::Trap, trap.to_string()),
        },
    };
    Broken::new(code, detail)
}

/// The fault of a module whose new instance used up the deadline before it got its event.
pub(super) fn late() -> Broken {
    Broken::new(FaultCode::Deadline, "a new instance was not ready within its deadline")
}

/// The fault of a module that broke after it was denied something.
pub(super) fn denied(store: &Store<Meter>) -> Option<Broken> {
    let what = store.data().denied?;
    Some(Broken::new(FaultCode::Memory, format!("it was denied more {what} and gave up")))
}
