//! One compiled module: how it is made from a file, and how an event is put to it. Every event gets an instance of its
//! own, so no event can see what another left behind. What the guest answers is checked here before anyone believes it.

use std::borrow::Cow;
use std::sync::Arc;

use wasmtime::component::{Component, Linker};
use wasmtime::{Store, Trap};

use super::engine::{Meter, Sandbox};
use super::settings::Limits;
use super::world::{self, Refusal};
use crate::verdict::{FaultCode, Verdict, Violation};

use contract::{Event, Expectation, ValidatorPre, Verdict as GuestVerdict};

/// The bindings that wasmtime makes of the contract.
mod contract {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });

    pub(super) use self::eye::validator::types::Expectation;
}

/// Examples that a module may bring for its self-test.
const EXAMPLES_MAX: usize = 100;

/// Bytes that a module may say of itself, its examples included.
const DESCRIPTION_BYTES_MAX: usize = 4 << 20;

/// How much longer than judging one event `describe` may take: it runs once, on no request's time.
const DESCRIBE_DEADLINE_FACTOR: u64 = 20;

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
    fn output(detail: impl Into<String>) -> Self {
        Self { code: FaultCode::Output, detail: detail.into() }
    }
}

/// A module that passed everything and can judge.
pub(super) struct Program {
    pre: ValidatorPre<Meter>,
    pub(super) summary: String,
    pub(super) examples: usize,
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
        let pre = compile(sandbox, &component)?;
        begin(Step::SelfTest);
        let mut program = Self { pre, summary: String::new(), examples: 0 };
        program.self_test(sandbox, limits, check_amended)?;
        Ok(program)
    }

    /// Puts one event to a new instance.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
        check_amended: &CheckAmended,
    ) -> Result<Verdict, Broken> {
        let mut store = sandbox.store(limits);
        let verdict = self
            .pre
            .instantiate(&mut store)
            .and_then(|instance| instance.call_validate(&mut store, to_contract(event)))
            .map_err(|error| broken(&error, &store))?;
        believe(verdict, limits, check_amended)
    }

    /// Runs `describe` and the examples, each in an instance of its own, as events are judged later.
    fn self_test(&mut self, sandbox: &Sandbox, limits: &Limits, check_amended: &CheckAmended) -> Result<(), Refusal> {
        let generous = Limits {
            deadline_ms: limits.deadline_ms.saturating_mul(DESCRIBE_DEADLINE_FACTOR),
            output_bytes_max: DESCRIPTION_BYTES_MAX,
            ..*limits
        };
        let mut store = sandbox.store(&generous);
        let description =
            self.pre.instantiate(&mut store).and_then(|instance| instance.call_describe(&mut store)).map_err(
                |error| {
                    let broken = broken(&error, &store);
                    Refusal::new(
                        "`describe` to answer",
                        format!("a fault ({}): {}", broken.code, broken.detail),
                        "mend `describe`, or what runs when the module starts",
                    )
                },
            )?;
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
        self.summary = description.summary.chars().filter(|c| !c.is_control()).take(500).collect();
        self.examples = description.examples.len();
        Ok(())
    }

    fn try_example(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        check_amended: &CheckAmended,
        example: &contract::eye::validator::types::Example,
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
            Err(broken) => format!("a fault ({}): {}", broken.code, broken.detail),
        };
        if found == expected {
            return Ok(());
        }
        Err(Refusal::new(
            format!("the example `{}` to end in {expected}", example.title),
            found,
            "mend the rule or the example; `cargo test` in the validator's crate runs them",
        ))
    }
}

fn compile(sandbox: &Sandbox, component: &[u8]) -> Result<ValidatorPre<Meter>, Refusal> {
    let refuse = |error: wasmtime::Error| {
        Refusal::new(
            "a component that the engine can compile",
            format!("{error:#}"),
            "build it with fewer WebAssembly proposals enabled, or update the tools that made it",
        )
    };
    let component = Component::from_binary(&sandbox.engine, component).map_err(refuse)?;
    component.initialize_copy_on_write_image().map_err(refuse)?;
    let pre = Linker::new(&sandbox.engine).instantiate_pre(&component).map_err(refuse)?;
    ValidatorPre::new(pre).map_err(refuse)
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

/// Says which kind of fault an error of the engine is.
fn broken(error: &wasmtime::Error, store: &Store<Meter>) -> Broken {
    let (code, detail) = match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => (FaultCode::Deadline, "it ran past its deadline".to_owned()),
        Some(Trap::StackOverflow) => (FaultCode::Stack, "it exhausted its call stack".to_owned()),
        trap => match (store.data().denied, trap) {
            (Some(what), _) => (FaultCode::Memory, format!("it was denied more {what} and gave up")),
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

/// Checks an answer: sizes, pointers, and that an amendment is one.
fn believe(verdict: GuestVerdict, limits: &Limits, check_amended: &CheckAmended) -> Result<Verdict, Broken> {
    match verdict {
        GuestVerdict::Accept => Ok(Verdict::Accept),
        GuestVerdict::Amend(data) => {
            if data.len() > limits.output_bytes_max {
                return Err(too_large(data.len(), limits));
            }
            check_amended(&data).map_err(|why| Broken::output(format!("it amended to what is no data: {why}")))?;
            Ok(Verdict::Amend(data))
        }
        GuestVerdict::Reject(list) => {
            if list.is_empty() {
                return Err(Broken::output("it rejected without a violation"));
            }
            if list.len() > limits.violations_max {
                return Err(Broken::output(format!(
                    "it gave {} violations, and {} are allowed",
                    list.len(),
                    limits.violations_max
                )));
            }
            let bytes = list.iter().map(|v| v.pointer.len() + v.code.len() + v.message.len()).sum::<usize>();
            if bytes > limits.output_bytes_max {
                return Err(too_large(bytes, limits));
            }
            list.into_iter()
                .map(|violation| {
                    believe_violation(violation.pointer, violation.code, violation.message).map_err(Broken::output)
                })
                .collect::<Result<_, _>>()
                .map(Verdict::Reject)
        }
    }
}

fn too_large(bytes: usize, limits: &Limits) -> Broken {
    Broken::output(format!("it answered with {bytes} bytes, and {} are allowed", limits.output_bytes_max))
}

fn believe_violation(pointer: String, code: String, message: String) -> Result<Violation, String> {
    if !is_pointer(&pointer) {
        return Err(format!("`{}` is no JSON Pointer", pointer.escape_debug()));
    }
    if code.is_empty() {
        return Err("a violation without a code".into());
    }
    if [&pointer, &code, &message].into_iter().any(|text| text.contains('\0')) {
        return Err("a violation with a NUL character".into());
    }
    Ok(Violation { pointer, code: Cow::Owned(code), message: Cow::Owned(message) })
}

/// RFC 6901: empty, or parts that each begin with a slash, in which `~` stands only in `~0` and `~1`.
fn is_pointer(text: &str) -> bool {
    let escapes = || text.match_indices('~').all(|(at, _)| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')));
    text.is_empty() || text.starts_with('/') && escapes()
}

#[cfg(test)]
mod tests {
    use super::is_pointer;

    #[test]
    fn pointers_follow_the_rfc() {
        for good in ["", "/", "/a/0", "/a~1b/~0", "//"] {
            assert!(is_pointer(good), "{good}");
        }
        for bad in ["a", "#/a", "/~", "/a~2", "a/b"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }
}
