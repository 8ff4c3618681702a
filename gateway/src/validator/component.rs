//! One compiled module: how it is made from a file, and how an event is put to it. Every event finds the module in one
//! and the same state, so no event can see what another left behind: most modules are set back after each event, and
//! those whose writes cannot be followed get a new instance each time.

use std::sync::Arc;

use wasmtime::component::{Component, Linker};
use wasmtime::{Store, Trap};

use super::answer::believe;
use super::engine::{Meter, Sandbox, beyond_place, code_bytes};
use super::memory::{Claim, Full, Keeper as _};
use super::plain;
use super::resident::Residents;
use super::rewrite::{self, Unfit};
use super::settings::Limits;
use super::world::{self, Refusal};
use crate::legible::{is_hidden, legible};
use crate::verdict::{FaultCode, Verdict};

use contract::{Description, Event, Expectation, ValidatorPre, Verdict as GuestVerdict};

/// The bindings that wasmtime makes of the contract.
pub(super) mod contract {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });

    pub(in super::super) use self::eye::validator::types::{Example, Expectation, Violation};
}

/// Examples that a module may bring for its self-test.
const EXAMPLES_MAX: usize = 100;

/// How much of the title of an example is told.
const TITLE_CHARACTERS_MAX: usize = 200;

/// Bytes that a module may say of itself, its examples included.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

/// How much longer than judging one event `describe` may take: it runs once, on no request's time.
const DESCRIBE_DEADLINE_FACTOR: u64 = 20;
/// But no longer than this, unless judging may: meanwhile the other files wait for one loading thread less.
const DESCRIBE_DEADLINE_MS_MAX: u64 = 2_000;

/// The steps of loading, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Checking,
    Compiling,
    SelfTest,
}

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
    pub(super) data: &'a str,
}

/// How a call broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) code: FaultCode,
    pub(super) detail: String,
}

impl Broken {
    pub(super) fn output(detail: impl Into<String>) -> Self {
        Self { code: FaultCode::Output, detail: detail.into() }
    }

    /// Whether the same call may end well later, with more room on the machine.
    fn passes(&self) -> bool {
        matches!(self.code, FaultCode::Deadline | FaultCode::Busy)
    }
}

/// A module that passed everything and can judge.
pub(super) struct Program {
    way: Way,
    /// What it takes of the memory of all modules, until it is dropped.
    _room: Claim,
    pub(super) summary: String,
    pub(super) examples: usize,
}

/// How a module is run.
enum Way {
    /// In instances that are set back after each event.
    Resident(Arc<Residents>),
    /// In a new instance for each event.
    Fresh(Fresh),
}

impl Way {
    /// The bytes that the module takes without any instance.
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Resident(residents) => residents.memory_bytes(),
            Self::Fresh(fresh) => fresh.memory_bytes,
        }
    }
}

/// That all modules together take what they may.
fn no_room(Full { wanted, taken, bytes_max }: Full) -> Refusal {
    let refusal = Refusal::new(
        format!("a module that fits into the memory of all modules, {bytes_max} bytes (`modules_memory_bytes_max`)"),
        format!("{wanted} bytes of code and of what `describe` left in memory, beside {taken} bytes of the others"),
        "have `describe` leave less in memory, take modules away, or raise `modules_memory_bytes_max`",
    );
    // The others may go.
    Refusal { passing: true, ..refusal }
}

impl Program {
    /// Takes a file's bytes through checking, compiling and the self-test, and says which step begins.
    pub(super) fn load(
        sandbox: &Sandbox,
        bytes: &[u8],
        limits: &Limits,
        check_amended: &CheckAmended,
        begin: impl Fn(Step),
    ) -> Result<Self, Refusal> {
        begin(Step::Checking);
        let component = world::component_of(bytes)?;
        begin(Step::Compiling);
        let rewritten = plain::core_of(&component).and_then(|(module, names)| rewrite::rewrite(module, &names));
        let (way, description) = match rewritten {
            Ok(rewritten) => {
                let residents = Residents::compile(sandbox, &rewritten).map_err(|error| uncompiled(&error))?;
                begin(Step::SelfTest);
                let (residents, description) = residents.describe(sandbox, limits).map_err(undescribed)?;
                (Way::Resident(residents), description)
            }
            Err(Unfit(why)) => {
                tracing::debug!("a new instance for every event: {why}");
                let fresh = Fresh::compile(sandbox, &component)?;
                begin(Step::SelfTest);
                let description = fresh.describe(sandbox, &for_describing(limits)).map_err(undescribed)?;
                (Way::Fresh(fresh), description)
            }
        };
        let room = sandbox.memory.reserve(way.memory_bytes()).map_err(no_room)?;
        let mut program = Self { way, _room: room, summary: String::new(), examples: 0 };
        program.self_test(sandbox, limits, check_amended, description)?;
        Ok(program)
    }

    /// Puts one event to the module, which knows nothing of any other.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Broken> {
        let believe = |verdict| believe(verdict, limits, check_amended);
        match &self.way {
            Way::Resident(residents) => residents.judge(sandbox, limits, event, believe),
            Way::Fresh(fresh) => fresh.judge(sandbox, limits, event).and_then(believe),
        }
    }

    /// Tries the examples as events are judged later.
    fn self_test(
        &mut self,
        sandbox: &Sandbox,
        limits: &Limits,
        check_amended: &CheckAmended,
        description: Description,
    ) -> Result<(), Refusal> {
        if description.examples.len() > EXAMPLES_MAX {
            return Err(Refusal::new(
                format!("{EXAMPLES_MAX} examples at most"),
                format!("{} examples", description.examples.len()),
                "keep the telling ones; the rest belongs into the crate's own tests",
            ));
        }
        for example in &description.examples {
            self.try_example(sandbox, limits, check_amended, example)?;
        }
        self.summary = description.summary.chars().filter(|character| !is_hidden(*character)).take(500).collect();
        self.examples = description.examples.len();
        if let Way::Resident(residents) = &self.way {
            // Most modules of a large gateway are seldom called.
            residents.let_go();
        }
        Ok(())
    }

    fn try_example(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        check_amended: &CheckAmended,
        example: &contract::Example,
    ) -> Result<(), Refusal> {
        let event = GuestEvent {
            id: "00000000-0000-7000-8000-000000000001",
            application: "self-test",
            session_id: "00000000-0000-7000-8000-000000000002",
            category: "self-test",
            name: "example",
            timestamp_us: 0,
            data: &example.data,
        };
        let expected = match example.expect {
            Expectation::Accept => "accept",
            Expectation::Amend => "amend",
            Expectation::Reject => "reject",
        };
        let mut passing = false;
        let found = match self.judge(sandbox, limits, &event, check_amended) {
            Ok(Verdict::Accept) => "accept".to_owned(),
            Ok(Verdict::Amend(_)) => "amend".to_owned(),
            Ok(Verdict::Reject(violations)) => {
                let first = &violations[0];
                if expected == "reject" {
                    "reject".to_owned()
                } else {
                    format!("reject: {} at `{}`: {}", first.code, first.pointer, first.message)
                }
            }
            Err(broken) => {
                passing = broken.passes();
                format!("a fault ({}): {}", broken.code, broken.detail)
            }
        };
        if found == expected {
            return Ok(());
        }
        let refusal = Refusal::new(
            format!("the example `{}` to end in {expected}", legible(&example.title, TITLE_CHARACTERS_MAX)),
            found,
            "mend the rule or the example; `cargo test` in the validator's crate runs them",
        );
        Err(Refusal { passing, ..refusal })
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

fn uncompiled(error: &wasmtime::Error) -> Refusal {
    if let Some(refusal) = beyond_place(error) {
        return refusal;
    }
    Refusal::new(
        "a component that the engine can compile",
        format!("{error:#}"),
        "build it with fewer WebAssembly proposals enabled, or update the tools that made it",
    )
}

fn undescribed(broken: Broken) -> Refusal {
    let refusal = Refusal::new(
        "`describe` to answer",
        format!("a fault ({}): {}", broken.code, broken.detail),
        "mend `describe`, or what runs when the module starts",
    );
    Refusal { passing: broken.passes(), ..refusal }
}

/// A component that is run in a new instance for each call.
pub(super) struct Fresh {
    pre: ValidatorPre<Meter>,
    /// Of the compiled code, and of the images of its memories.
    memory_bytes: usize,
}

impl Fresh {
    pub(super) fn compile(sandbox: &Sandbox, component: &[u8]) -> Result<Self, Refusal> {
        let refuse = |error: wasmtime::Error| uncompiled(&error);
        let wasm_bytes = component.len();
        let component = Component::from_binary(&sandbox.engine, component).map_err(refuse)?;
        component.initialize_copy_on_write_image().map_err(refuse)?;
        let memories = component.resources_required().map_or(0, |needs| needs.num_memories as usize);
        let memory_bytes = code_bytes(&component.image_range(), wasm_bytes, memories);
        let pre = Linker::new(&sandbox.engine).instantiate_pre(&component).map_err(refuse)?;
        ValidatorPre::new(pre).map(|pre| Self { pre, memory_bytes }).map_err(refuse)
    }

    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
    ) -> Result<GuestVerdict, Broken> {
        let mut store = sandbox.store(limits);
        let instance = self.pre.instantiate(&mut store).map_err(|error| unstarted(&error, &store))?;
        instance.call_validate(&mut store, to_contract(event)).map_err(|error| broken(&error, &store))
    }

    fn describe(&self, sandbox: &Sandbox, limits: &Limits) -> Result<Description, Broken> {
        let mut store = sandbox.store(limits);
        let instance = self.pre.instantiate(&mut store).map_err(|error| unstarted(&error, &store))?;
        instance.call_describe(&mut store).map_err(|error| broken(&error, &store))
    }
}

fn to_contract<'a>(event: &GuestEvent<'a>) -> Event<'a> {
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
    Broken { code: FaultCode::Busy, detail: format!("there was no room for an instance: {}", error.root_cause()) }
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
    Broken { code, detail }
}

/// The fault of a module that broke after it was denied something.
pub(super) fn denied(store: &Store<Meter>) -> Option<Broken> {
    let what = store.data().denied?;
    Some(Broken { code: FaultCode::Memory, detail: format!("it was denied more {what} and gave up") })
}
