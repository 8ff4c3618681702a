//! The contract with validators, as the engine has it: an event as a module sees it, what a module answers, and how a call
//! breaks. Every way of running a module is made of these.

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

/// Characters of a panic's text that are told.
const LAST_WORDS_TOLD_MAX: usize = 300;

/// Bytes that a module may say of itself, its examples included.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

/// How much longer than judging one event `describe` may take: it runs once, on no request's time.
const DESCRIBE_DEADLINE_FACTOR: u64 = 20;
/// But no longer than this, unless judging may: meanwhile the other files wait for one loading thread less.
const DESCRIBE_DEADLINE_MS_MAX: u64 = 2_000;

/// Checks an amended `data`; the text says why it is not one.
pub type CheckAmended = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// An event as the guest sees it.
pub(super) struct GuestEvent<'a> {
    pub(super) id: &'a str,
    pub(super) application: &'a str,
    pub(super) session_id: &'a str,
    pub(super) category: &'a str,
    pub(super) name: &'a str,
    pub(super) timestamp_us: i64,
    /// When the gateway took it first.
    pub(super) received_at_us: i64,
    pub(super) data: &'a str,
}

/// How a call broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) code: FaultCode,
    pub(super) detail: String,
    /// What the module left where its kit keeps the text of a panic or exception. It may quote the event.
    pub(super) last_words: Option<String>,
}

impl Broken {
    pub(super) fn new(code: FaultCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), last_words: None }
    }

    pub(super) fn output(detail: impl Into<String>) -> Self {
        Self::new(FaultCode::Output, detail)
    }

    /// The fault in a sentence for the module's author, whose own examples it may quote.
    pub(super) fn told(&self) -> String {
        let said =
            self.last_words.as_deref().map(|words| format!(", saying `{}`", legible(words, LAST_WORDS_TOLD_MAX)));
        format!("a fault ({}): {}{}", self.code, self.detail, said.unwrap_or_default())
    }

    /// Whether the same call may end well later, with more room on the machine.
    pub(super) fn passes(&self) -> bool {
        matches!(self.code, FaultCode::Deadline | FaultCode::Busy)
    }
}

/// What `describe` may use: it runs once, on no request's time.
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

/// Says why there is no instance: code that runs when it starts broke, or it was denied what it has from the start, or
/// the machine had no room, which is no fault of the module's.
pub(super) fn unstarted(error: &wasmtime::Error, store: &Store<Meter>) -> Broken {
    if error.is::<Trap>() || store.data().denied.is_some() {
        return broken(error, store);
    }
    Broken::new(FaultCode::Busy, format!("there was no room for an instance: {}", error.root_cause()))
}

/// Says which kind of fault an error of the engine is.
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

/// The fault of a module that took its time before its event was put to it.
pub(super) fn late() -> Broken {
    Broken::new(FaultCode::Deadline, "a new instance was not ready within its deadline")
}

/// The fault of a module that broke after it was denied something.
pub(super) fn denied(store: &Store<Meter>) -> Option<Broken> {
    let what = store.data().denied?;
    Some(Broken::new(FaultCode::Memory, format!("it was denied more {what} and gave up")))
}
