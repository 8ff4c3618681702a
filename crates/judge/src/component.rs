//! One compiled module: how it is made from a file, and how it judges an event. Each event finds the module in the
//! state in which `describe` left it, so no event can see anything of another. Most modules are set back after each
//! event. A module whose writes cannot be followed gets a new instance for each event. Both ways give the same
//! verdicts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use eye_event::legible::{is_hidden, legible};
use eye_event::verdict::{FaultCode, Verdict, Violation};
use serde::{Deserialize, Serialize};
use wasmtime::component::{Component, Linker};

use super::anatomy;
use super::answer::{check_answer, check_data_answer};
use super::contract::{
    Broken, CheckAmended, Description, Example, Expectation, GuestEvent, ValidatorPre, Verdict as GuestVerdict, broken,
    for_describing, late, to_contract, unstarted,
};
use super::core_module::Unfit;
use super::engine::{Meter, Sandbox, beyond_place, code_bytes, output_bytes_max, processor_time};
use super::extras::{BuiltExtras, Example2, Extras};
use super::finished::Finished;
use super::kind::Kind;
use super::memory::{Claim, Full, Keeper as _};
use super::refusal::Refusal;
use super::resident::{BuiltEngine, Described, Residents, SchemaEngine, Snapshot, Undescribed};
use super::rewrite;
use super::schema::{self, Facts};
use super::settings::Limits;
use super::trial_event::{Expected, TrialEvent, TrialExample};
use super::world;
use super::world::Offers;

/// Examples that a module may bring for its self-test.
const EXAMPLES_MAX: usize = 100;

/// Failing examples that a refusal names. It counts the others.
const FAILED_TOLD_MAX: usize = 5;

/// Characters that a refusal quotes of an example's title, and of each text of its violation.
const TITLE_CHARACTERS_MAX: usize = 100;
const TEXT_CHARACTERS_MAX: usize = 200;

/// Why instances of a module stay.
const FOLLOWED: &str = "whatever it writes is known, and set back after each event";

/// Codes of one example that a refusal lists.
const CODES_TOLD_MAX: usize = 10;

/// The parts of a self-test's events beside type and data. They are the same as in the tests that the crate
/// eye-validator makes (`validators/sdk/src/testing.rs`), so that both find the same result for an example.
const MADE_UP: GuestEvent<'static> = GuestEvent {
    id: "01890a5d-ac96-774b-bcce-b302099a8057",
    application: "test",
    session_id: "67e55044-10b1-426f-9247-bb680e5fe0c8",
    category: "test",
    name: "test",
    timestamp_us: 1_700_000_000_000_000,
    received_at_us: 1_700_000_000_000_000,
    data: "{}",
};

/// The steps of loading, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Checking,
    Compiling,
    SelfTest,
}

/// The inputs of a module's self-test.
pub(super) struct SelfTest<'a> {
    /// The limits of each call.
    pub(super) limits: &'a Limits,
    /// Checks the data that the module amends to.
    pub(super) check_amended: &'a CheckAmended,
    /// The event type of the examples: the one that the module will serve, as far as its file names it.
    pub(super) category: &'a str,
    pub(super) name: &'a str,
    /// Time for all examples together.
    pub(super) time: Duration,
    /// The examples are not judged but come with the program, for whoever judges them.
    pub(super) lists_examples: bool,
}

/// A module that passed every step and can judge.
pub(super) struct Program {
    way: Runner,
    /// The module's part of the memory of all modules, given back on drop.
    _room: Claim,
    /// Why events are judged in the way that [`Program::isolation`] returns. Reports show it.
    pub(super) isolation_reason: String,
    pub(super) summary: String,
    pub(super) examples: usize,
    /// One of its examples is amended: the module may take secrets out.
    pub(super) amends: bool,
    /// Its examples, if they were only to be listed.
    pub(super) listed: Vec<TrialExample>,
    /// The functions of version 1.1.0 of the contract, if the module exports any.
    extras: Option<Extras>,
    /// What the engine said of it, if it is a schema.
    pub(super) schema: Option<Facts>,
}

/// A module that passed every step, as data. The loader answers with it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Built {
    /// The code, for the way in which it is run.
    pub(super) way: BuiltRunner,
    /// Why it is run in this way.
    pub(super) isolation_reason: String,
    /// The summary that the module gives of itself.
    pub(super) summary: String,
    /// How many examples it passed.
    pub(super) examples: usize,
    /// One of these examples is amended.
    pub(super) amends: bool,
    /// Its examples, if they were only to be listed.
    pub(super) listed: Vec<TrialExample>,
    /// Its exports beside the two functions that every validator has.
    pub(super) extras: Option<BuiltExtras>,
    /// What the engine said of it, if it is a schema.
    pub(super) schema: Option<Facts>,
}

/// The ways of running a module, each with its code.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum BuiltRunner {
    /// Without the component around it, from the state that `describe` left.
    Resident(Described),
    /// As a component: `describe` runs before each event. The number is the bytes that it was compiled from.
    Fresh(Finished, usize),
    /// As a state of the engine of schema files.
    Schema(Snapshot),
    /// This is that engine itself, which judges nothing without a schema.
    Engine(BuiltEngine),
}

/// A built module as bytes. They are at least as many as the module has memory, so this allocates once.
pub(super) fn packed(built: &Built) -> Result<Vec<u8>, postcard::Error> {
    let bytes = postcard::serialize_with_flavor(built, postcard::ser_flavors::Size::default())?;
    postcard::to_extend(built, Vec::with_capacity(bytes))
}

/// The ways of running a module.
enum Runner {
    /// Without the component around it, from the state that the loader took.
    Resident(Arc<Residents>),
    /// As a component. Its state cannot be taken, so `describe` runs before each event.
    Fresh(Fresh),
}

/// How the gateway keeps events from seeing each other. The verdict is the same either way, the time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// An instance stays, and is set back after each event.
    SetBack,
    /// Each event gets a new instance.
    Fresh,
}

impl Runner {
    /// The bytes that the module takes without any instance.
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Resident(residents) => residents.memory_bytes(),
            Self::Fresh(fresh) => fresh.memory_bytes,
        }
    }
}

/// The refusal of a module for which the memory of all modules has no room.
pub(super) fn no_room(Full { wanted, taken, bytes_max }: Full) -> Refusal {
    let refusal = Refusal::new(
        format!("a module that fits into the memory of all modules, {bytes_max} bytes (`modules_memory_bytes_max`)"),
        format!("{wanted} bytes of code and of what `describe` left in memory, beside {taken} bytes of the others"),
        "have `describe` leave less in memory, take modules away, or raise `modules_memory_bytes_max`",
    );
    // Other modules may be removed later.
    Refusal { passing: true, ..refusal }
}

impl Program {
    /// Checks, compiles and self-tests a file, and calls `begin` at each step. All code that reads a byte of the file
    /// is called from here.
    pub(super) fn build(
        sandbox: &Sandbox,
        bytes: &[u8],
        trial: &SelfTest<'_>,
        begin: impl Fn(Step),
    ) -> Result<Built, Refusal> {
        begin(Step::Checking);
        let component = world::component_of(bytes)?;
        let offers = world::offers(&component)?;
        begin(Step::Compiling);
        let extras = offers.any().then(|| Extras::compile(sandbox, &component, offers)).transpose();
        let extras = extras.map_err(|error| uncompiled(&error))?;
        let (compiled, isolation_reason) = Compiled::of(sandbox, &component)?;
        begin(Step::SelfTest);
        let (way, description) =
            compiled.describe(sandbox, trial.limits).map_err(|broken| undescribed(broken, trial.limits))?;
        let room = sandbox.memory.nothing();
        let mut program = Self {
            way,
            _room: room,
            isolation_reason,
            summary: String::new(),
            examples: 0,
            amends: false,
            listed: Vec::new(),
            extras,
            schema: None,
        };
        program.self_test(sandbox, trial, description)?;
        program.built().map_err(|error| uncompiled(&error))
    }

    /// Compiles the engine of schema files.
    pub(super) fn build_engine(sandbox: &Sandbox, engine: &'static [u8]) -> Result<Built, Refusal> {
        let core = schema::core_of(engine).and_then(|core| rewrite::follow(&core));
        let core = core.map_err(|unfit| uncompiled(&wasmtime::Error::msg(unfit.to_string())))?;
        let engine = BuiltEngine::compile(sandbox, &core).map_err(|error| uncompiled(&error))?;
        Ok(Built {
            way: BuiltRunner::Engine(engine),
            isolation_reason: String::new(),
            summary: String::new(),
            examples: 0,
            amends: false,
            listed: Vec::new(),
            extras: None,
            schema: None,
        })
    }

    /// Gives a schema to the engine and self-tests it, and calls `begin` at each step.
    pub(super) fn build_schema(
        sandbox: &Sandbox,
        engine: &SchemaEngine,
        bytes: &[u8],
        trial: &SelfTest<'_>,
        begin: impl Fn(Step),
    ) -> Result<Built, Refusal> {
        begin(Step::Checking);
        let unread = |broken| unread(broken, trial.limits);
        let (configured, answer) = engine.configure(sandbox, trial.limits, bytes).map_err(unread)?;
        let facts = Facts::read(&answer)?;
        begin(Step::SelfTest);
        let (residents, description) = configured.describe(sandbox).map_err(unread)?;
        let mut program = Self {
            way: Runner::Resident(Arc::new(residents)),
            _room: sandbox.memory.nothing(),
            isolation_reason: FOLLOWED.to_owned(),
            summary: String::new(),
            examples: 0,
            amends: false,
            listed: Vec::new(),
            extras: None,
            schema: Some(facts),
        };
        program.self_test(sandbox, trial, description)?;
        program.built().map_err(|error| uncompiled(&error))
    }

    /// Opens a built module or schema. It reads no byte of the file. Only a schema needs the engine.
    pub(super) fn open(sandbox: &Sandbox, built: Built, engine: Option<&SchemaEngine>) -> Result<Self, Refusal> {
        let Built { way, isolation_reason, summary, examples, amends, listed, extras, schema } = built;
        let extras = extras.map(|extras| Extras::open(sandbox, &extras)).transpose();
        let extras = extras.map_err(|error| unopened(&error))?;
        let way = match way {
            BuiltRunner::Resident(described) => Residents::open(sandbox, described).map(Runner::Resident),
            BuiltRunner::Fresh(code, wasm_bytes) => {
                code.component(&sandbox.engine).and_then(|it| Fresh::of(sandbox, &it, wasm_bytes)).map(Runner::Fresh)
            }
            BuiltRunner::Schema(start) => match engine {
                Some(engine) => Ok(Runner::Resident(engine.open_schema(sandbox, start))),
                None => Err(wasmtime::Error::msg("its engine is not there")),
            },
            BuiltRunner::Engine(_) => Err(wasmtime::Error::msg("it is the engine of schema files")),
        };
        let way = way.map_err(|error| unopened(&error))?;
        let besides = extras.as_ref().map_or(0, Extras::memory_bytes);
        let room = sandbox.memory.reserve(way.memory_bytes().saturating_add(besides)).map_err(no_room)?;
        Ok(Self { way, _room: room, isolation_reason, summary, examples, amends, listed, extras, schema })
    }

    fn built(self) -> wasmtime::Result<Built> {
        let way = match &self.way {
            Runner::Resident(residents) if self.schema.is_some() => BuiltRunner::Schema(residents.start()),
            Runner::Resident(residents) => BuiltRunner::Resident(residents.described()?),
            Runner::Fresh(fresh) => BuiltRunner::Fresh(fresh.finished()?, fresh.wasm_bytes),
        };
        let extras = self.extras.as_ref().map(Extras::built).transpose()?;
        let Self { isolation_reason, summary, examples, amends, listed, schema, .. } = self;
        Ok(Built { way, isolation_reason, summary, examples, amends, listed, extras, schema })
    }

    /// The way in which events are kept apart.
    pub(super) fn isolation(&self) -> Isolation {
        match &self.way {
            Runner::Resident(residents) if residents.stay() => Isolation::SetBack,
            Runner::Resident(_) | Runner::Fresh(_) => Isolation::Fresh,
        }
    }

    /// Judges one event. The module sees nothing of any other event.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Broken> {
        let check_answer = |verdict| check_answer(verdict, limits, check_amended);
        if let Some(extras) = self.extras.as_ref().filter(|extras| extras.offers().validate_at) {
            return extras.validate_at(sandbox, limits, event).and_then(check_answer);
        }
        match &self.way {
            Runner::Resident(residents) => residents.judge(sandbox, limits, event, check_answer),
            Runner::Fresh(fresh) => fresh.judge(sandbox, limits, event).and_then(check_answer),
        }
    }

    /// The exports beside the two functions that every validator has.
    pub(super) fn offers(&self) -> Offers {
        if let Some(schema) = &self.schema {
            return Offers { redact: schema.redacts, ..Offers::default() };
        }
        self.extras.as_ref().map(Extras::offers).unwrap_or_default()
    }

    /// What its file is.
    pub(super) fn kind(&self) -> Kind {
        if self.schema.is_some() { Kind::Schema } else { Kind::Module }
    }

    /// The data that may be kept of an event with `data`: an object that could be stored in its place.
    pub(super) fn redact(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        data: &str,
        check_amended: &CheckAmended,
    ) -> Result<String, Broken> {
        if let (Some(_), Runner::Resident(residents)) = (&self.schema, &self.way) {
            return check_data_answer(residents.redact(sandbox, limits, data)?, limits, check_amended);
        }
        let extras = self.extras.as_ref().filter(|extras| extras.offers().redact);
        let extras = extras.ok_or_else(|| Broken::output("it does not redact"))?;
        check_data_answer(extras.redact(sandbox, limits, data)?, limits, check_amended)
    }

    /// Judges the examples as later events are judged. The refusal names all that fail, so that the author can mend
    /// them in one build.
    fn self_test(&mut self, sandbox: &Sandbox, trial: &SelfTest<'_>, description: Description) -> Result<(), Refusal> {
        let Description { summary, examples } = description;
        let mut examples: Vec<Example2> = examples.into_iter().map(Example2::from).collect();
        if let Some(extras) = self.extras.as_ref().filter(|extras| extras.offers().examples) {
            examples.extend(extras.examples(sandbox, trial.limits).map_err(unlisted)?);
        }
        let count = examples.len();
        if count > EXAMPLES_MAX {
            return Err(Refusal::new(
                format!("{EXAMPLES_MAX} examples at most"),
                format!("{count} examples"),
                "keep the telling ones; the rest belongs into the crate's own tests",
            ));
        }
        if count == 0
            && let Runner::Resident(residents) = &self.way
        {
            residents.try_start(sandbox, trial.limits).map_err(unready)?;
        }
        if trial.lists_examples {
            self.listed = examples.iter().map(|example| listed_example(example, trial)).collect();
        } else {
            self.try_examples(sandbox, trial, &examples)?;
        }
        self.summary = summary.chars().filter(|character| !is_hidden(*character)).take(500).collect();
        self.examples = count;
        self.amends = examples.iter().any(|example| matches!(example.expect, Expectation::Amend));
        if let Runner::Resident(residents) = &self.way {
            // Most modules of a large gateway are seldom called, so their instances would only take memory.
            residents.let_go();
        }
        Ok(())
    }

    fn try_examples(&self, sandbox: &Sandbox, trial: &SelfTest<'_>, examples: &[Example2]) -> Result<(), Refusal> {
        let began = processor_time();
        let (count, mut failed) = (examples.len(), Vec::new());
        for (tried, example) in examples.iter().enumerate() {
            let took = processor_time().saturating_sub(began);
            if took >= trial.time {
                failed.push(Failed::out_of_time(tried, count, took, trial.time));
                break;
            }
            failed.extend(self.try_example(sandbox, trial, example));
            failed.extend(self.try_redacting(sandbox, trial, example));
        }
        if failed.is_empty() { Ok(()) } else { Err(Failed::refusal(&failed, self.kind())) }
    }

    fn try_example(&self, sandbox: &Sandbox, trial: &SelfTest<'_>, example: &Example2) -> Option<Failed> {
        let timestamp_us = example.timestamp.unwrap_or(MADE_UP.timestamp_us);
        let event = GuestEvent {
            category: trial.category,
            name: example.name.as_deref().unwrap_or(trial.name),
            application: example.application.as_deref().unwrap_or(MADE_UP.application),
            timestamp_us,
            received_at_us: timestamp_us,
            data: &example.data,
            ..MADE_UP
        };
        let wanted = match example.expect {
            Expectation::Accept => "accept",
            Expectation::Amend => "amend",
            Expectation::Reject => "reject",
        };
        let mut passing = false;
        let began = processor_time();
        let found = match self.judge(sandbox, trial.limits, &event, trial.check_amended) {
            Ok(Verdict::Accept) => "accept".to_owned(),
            Ok(Verdict::Amend(_)) => "amend".to_owned(),
            Ok(Verdict::Reject(violations)) if wanted == "reject" => match other_codes(example, &violations) {
                Some(found) => found,
                None => "reject".to_owned(),
            },
            Ok(Verdict::Reject(violations)) => {
                let first = &violations[0];
                let [code, pointer, message] = [&*first.code, &*first.pointer, &*first.message]
                    .map(|text| legible(text, TEXT_CHARACTERS_MAX).to_string());
                format!("reject: {code} at `{pointer}`: {message}")
            }
            Err(broken) => {
                passing = broken.passes();
                let ran = processor_time().saturating_sub(began).as_millis();
                let ran = match broken.code {
                    FaultCode::Deadline => format!(" after {ran} ms of {} ms (deadline_ms)", trial.limits.deadline_ms),
                    FaultCode::Memory => {
                        format!("; it may have {} bytes (memory_bytes_max)", trial.limits.memory_bytes_max)
                    }
                    _ => String::new(),
                };
                format!("{}{ran}", broken.told())
            }
        };
        let title = legible(&example.title, TITLE_CHARACTERS_MAX);
        let mut expected = format!("the example `{title}` to end in {wanted}");
        if !example.codes.is_empty() {
            expected = format!("{expected} with {}", listed(example.codes.iter().map(|code| &**code)));
        }
        (found != wanted).then_some(Failed { expected, found, passing })
    }

    /// `redact` must answer whatever a sender may send, so it must also take examples that the module rejects.
    fn try_redacting(&self, sandbox: &Sandbox, trial: &SelfTest<'_>, example: &Example2) -> Option<Failed> {
        if !self.offers().redact {
            return None;
        }
        let broken = self.redact(sandbox, trial.limits, &example.data, trial.check_amended).err()?;
        let title = legible(&example.title, TITLE_CHARACTERS_MAX);
        Some(Failed {
            expected: format!("`redact` to say what may be kept of the example `{title}`"),
            found: broken.told(),
            passing: broken.passes(),
        })
    }
}

/// An example with all that its event takes from elsewhere.
fn listed_example(example: &Example2, trial: &SelfTest<'_>) -> TrialExample {
    let timestamp_us = example.timestamp.unwrap_or(MADE_UP.timestamp_us);
    TrialExample {
        title: example.title.clone(),
        event: TrialEvent {
            category: trial.category.to_owned(),
            name: example.name.clone().unwrap_or_else(|| trial.name.to_owned()),
            application: example.application.clone().unwrap_or_else(|| MADE_UP.application.to_owned()),
            timestamp_us,
            received_at_us: timestamp_us,
            data: example.data.clone(),
        },
        expect: match example.expect {
            Expectation::Accept => Expected::Accept,
            Expectation::Amend => Expected::Amend,
            Expectation::Reject => Expected::Reject,
        },
        codes: example.codes.clone(),
    }
}

impl From<Example> for Example2 {
    fn from(example: Example) -> Self {
        let Example { title, data, expect } = example;
        Self { title, name: None, timestamp: None, application: None, data, expect, codes: Vec::new() }
    }
}

/// The codes of a rejection, if they differ from those that the example names.
fn other_codes(example: &Example2, violations: &[Violation]) -> Option<String> {
    let wanted: BTreeSet<&str> = example.codes.iter().map(|code| &**code).collect();
    let found: BTreeSet<&str> = violations.iter().map(|violation| &*violation.code).collect();
    (!wanted.is_empty() && wanted != found).then(|| format!("reject with {}", listed(found.into_iter())))
}

/// Lists some codes for people.
fn listed<'c>(codes: impl Iterator<Item = &'c str>) -> String {
    let codes: Vec<String> =
        codes.take(CODES_TOLD_MAX).map(|code| legible(code, TEXT_CHARACTERS_MAX).to_string()).collect();
    codes.join(", ")
}

/// An example with another result than it names.
struct Failed {
    expected: String,
    found: String,
    /// It may end well another time.
    passing: bool,
}

impl Failed {
    fn out_of_time(tried: usize, count: usize, took: Duration, time: Duration) -> Self {
        Self {
            expected: format!("all examples to be judged within {} ms (loader_self_test_ms)", time.as_millis()),
            found: format!("{} ms after {tried} of {count} examples", took.as_millis()),
            passing: false,
        }
    }

    fn refusal(failed: &[Self], kind: Kind) -> Refusal {
        let told = &failed[..failed.len().min(FAILED_TOLD_MAX)];
        let join = |text: fn(&Self) -> &str| told.iter().map(text).collect::<Vec<_>>().join("; and ");
        let (expected, mut found) = (join(|one| &one.expected), join(|one| &one.found));
        if failed.len() > told.len() {
            found = format!("{found}; and {} more that fail", failed.len() - told.len());
        }
        let mend = match kind {
            Kind::Module => "mend the rule or the example; `cargo test` in the validator's crate runs them",
            Kind::Schema => "mend the schema or the example",
        };
        // If one example fails for good, another try is useless.
        let passing = failed.iter().all(|one| one.passing);
        if passing {
            found = format!("{found}; the module is tried again, since the machine may have been busy");
        }
        Refusal { passing, ..Refusal::new(expected, found, mend) }
    }
}

/// A module that was compiled and has not run yet.
enum Compiled {
    Core(Undescribed),
    Component(Fresh),
}

impl Compiled {
    /// Compiles a component for the fastest way that fits it. Returns the reason for that way too.
    fn of(sandbox: &Sandbox, component: &[u8]) -> Result<(Self, String), Refusal> {
        let core = match anatomy::core_of(component) {
            Ok(core) => core,
            Err(unfit) => return Self::whole(sandbox, component, &unfit),
        };
        let (rewritten, reason) = match rewrite::follow(&core) {
            Ok(rewritten) => (rewritten, FOLLOWED.to_owned()),
            Err(unfit) => match rewrite::expose(&core) {
                Ok(rewritten) => {
                    let reason = format!("{unfit}; each event gets a new instance, as `describe` left the first");
                    (rewritten, reason)
                }
                Err(unfit) => return Self::whole(sandbox, component, &unfit),
            },
        };
        let compiled = Residents::compile(sandbox, &rewritten).map_err(|error| uncompiled(&error))?;
        Ok((Self::Core(compiled), reason))
    }

    fn whole(sandbox: &Sandbox, component: &[u8], unfit: &Unfit) -> Result<(Self, String), Refusal> {
        let reason = format!("{unfit}; each event gets a new instance, and `describe` runs before it");
        Ok((Self::Component(Fresh::compile(sandbox, component)?), reason))
    }

    fn describe(self, sandbox: &Sandbox, limits: &Limits) -> Result<(Runner, Description), Broken> {
        match self {
            Self::Core(undescribed) => {
                let (residents, description) = undescribed.describe(sandbox, limits)?;
                Ok((Runner::Resident(Arc::new(residents)), description))
            }
            Self::Component(fresh) => {
                let description = fresh.describe(sandbox, &for_describing(limits))?;
                Ok((Runner::Fresh(fresh), description))
            }
        }
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

/// The refusal of compiled code that is good, but for which the gateway's own engine has no place.
fn unopened(error: &wasmtime::Error) -> Refusal {
    beyond_place(error).unwrap_or_else(|| {
        Refusal::new(
            "a module for which the engine has a place",
            format!("{error:#}"),
            "build it with fewer memories, tables and instances",
        )
    })
}

fn undescribed(broken: Broken, limits: &Limits) -> Refusal {
    let passing = broken.passes();
    let bound = match broken.code {
        FaultCode::Deadline => {
            format!(
                " of {} ms; the module is tried again, since the machine may have been busy",
                for_describing(limits).deadline_ms
            )
        }
        FaultCode::Memory => format!("; it may have {} bytes (memory_bytes_max)", limits.memory_bytes_max),
        _ => String::new(),
    };
    let refusal = Refusal::new(
        "`describe` to answer",
        format!("{}{bound}", broken.told()),
        "mend `describe`, or what runs when the module starts",
    );
    Refusal { passing, ..refusal }
}

/// The refusal of a schema that the engine cannot read within the limits.
fn unread(broken: Broken, limits: &Limits) -> Refusal {
    let expected = format!(
        "a schema that is read within {} ms and {} bytes (memory_bytes_max)",
        for_describing(limits).deadline_ms,
        limits.memory_bytes_max
    );
    let refusal = Refusal::new(expected, broken.told(), "make the schema smaller, or its patterns simpler");
    Refusal { passing: broken.passes(), ..refusal }
}

fn unlisted(broken: Broken) -> Refusal {
    let refusal = Refusal::new("`examples` to answer", broken.told(), "mend `examples`, or give fewer of them");
    Refusal { passing: broken.passes(), ..refusal }
}

fn unready(broken: Broken) -> Refusal {
    let refusal = Refusal::new(
        "an instance that is ready within the deadline and memory of one event",
        broken.told(),
        "keep less in memory once `describe` is over, or allow more in the module's settings",
    );
    Refusal { passing: broken.passes(), ..refusal }
}

/// A component that gets a new instance for each event. Its state cannot be taken, so `describe` runs in each instance
/// first.
pub(super) struct Fresh {
    pre: ValidatorPre<Meter>,
    wasm_bytes: usize,
    /// Bytes of the compiled code, and of the images of its memories.
    memory_bytes: usize,
}

impl Fresh {
    pub(super) fn compile(sandbox: &Sandbox, component: &[u8]) -> Result<Self, Refusal> {
        let refuse = |error: wasmtime::Error| uncompiled(&error);
        let wasm_bytes = component.len();
        let component = Component::from_binary(&sandbox.engine, component).map_err(refuse)?;
        Self::of(sandbox, &component, wasm_bytes).map_err(refuse)
    }

    fn of(sandbox: &Sandbox, component: &Component, wasm_bytes: usize) -> wasmtime::Result<Self> {
        component.initialize_copy_on_write_image()?;
        let memories = component.resources_required().map_or(0, |needs| needs.num_memories as usize);
        let memory_bytes = code_bytes(&component.image_range(), wasm_bytes, memories);
        let pre = Linker::new(&sandbox.engine).instantiate_pre(component)?;
        Ok(Self { pre: ValidatorPre::new(pre)?, wasm_bytes, memory_bytes })
    }

    fn finished(&self) -> wasmtime::Result<Finished> {
        Finished::of_component(self.pre.instance_pre().component())
    }

    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
    ) -> Result<GuestVerdict, Broken> {
        let mut store = sandbox.store(limits);
        // This starts the deadline, so that it covers everything that the event takes.
        store.data_mut().is_over();
        let instance = self.pre.instantiate(&mut store).map_err(|error| unstarted(&error, &store))?;
        store.set_hostcall_fuel(output_bytes_max(&for_describing(limits)));
        instance.call_describe(&mut store).map_err(|error| broken(&error, &store))?;
        if store.data_mut().is_over() {
            return Err(late());
        }
        store.set_hostcall_fuel(output_bytes_max(limits));
        instance.call_validate(&mut store, to_contract(event)).map_err(|error| broken(&error, &store))
    }

    fn describe(&self, sandbox: &Sandbox, limits: &Limits) -> Result<Description, Broken> {
        let mut store = sandbox.store(limits);
        let instance = self.pre.instantiate(&mut store).map_err(|error| unstarted(&error, &store))?;
        instance.call_describe(&mut store).map_err(|error| broken(&error, &store))
    }
}
