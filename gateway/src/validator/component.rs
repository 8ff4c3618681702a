//! One module: from bytes to something that judges. It is proved step by step, and whatever fails is told in the words of
//! someone who has no access to this machine: what was expected, what was found, how to mend it.
//!
//! Every call gets a fresh instance, thrown away after it. So no event can see another's data, and the same event gets the
//! same verdict whatever came before; reuse would be cheaper, but would leave both to the good will of the author.

use std::sync::Arc;
use std::time::Instant;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, Linker};
use wasmtime::{ResourceLimiter, Store, Trap};
use wit_component::ComponentEncoder;

use super::engine::Engine;
use super::figures::Figures;
use super::report::{LoadError, State};
use super::{CheckAmended, Limits, Subject};
use crate::verdict::{Digest, Fault, FaultCode, Verdict, Violation};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}
use bindings::eye::validator::types as wit;

/// Most examples of a module.
const EXAMPLES_MAX: usize = 100;
/// `describe` and each example may take so many deadlines: they run once, and a cold module is slower.
const SELF_TEST_DEADLINES: u64 = 4;
/// Elements of a module's tables, such as its function table.
const TABLE_ELEMENTS_MAX: usize = 20_000;
/// The instance that holds only the shared types; importing it reaches nothing.
const TYPES: &str = "eye:validator/types@1.0.0";
const WORLD: &str = "the world `validator` of the package `eye:validator@1.0.0`, which imports nothing";
const BUILD: &str = "build for wasm32-unknown-unknown with the crate eye-validator of the same version as the gateway";

/// A module that passed everything, and serves.
pub(super) struct Module {
    engine: Arc<Engine>,
    pre: bindings::ValidatorPre<Cage>,
    digest: Digest,
    limits: Limits,
    check_amended: CheckAmended,
    pub(super) summary: String,
    pub(super) figures: Figures,
}

impl std::fmt::Debug for Module {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Module({})", self.digest)
    }
}

/// What an instance may take. It notes a refusal, because a guest that gets no memory then only traps.
struct Cage {
    memory_bytes_max: usize,
    refused_memory: bool,
}

impl ResourceLimiter for Cage {
    fn memory_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= self.memory_bytes_max && maximum.is_none_or(|maximum| desired <= maximum);
        self.refused_memory |= !fits;
        Ok(fits)
    }

    fn table_growing(&mut self, _: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|maximum| desired <= maximum);
        self.refused_memory |= !fits;
        Ok(fits)
    }
}

impl Module {
    /// Proves and compiles the module in `bytes`, telling each step to `step`.
    pub(super) fn load(
        engine: &Arc<Engine>,
        bytes: &[u8],
        limits: Limits,
        check_amended: CheckAmended,
        mut step: impl FnMut(State),
    ) -> Result<Self, LoadError> {
        step(State::Checking);
        let encoded = as_component(bytes)?;
        step(State::Compiling);
        let component = Component::new(engine.wasmtime(), &encoded).map_err(|error| LoadError {
            expected: "a valid WebAssembly component".to_owned(),
            found: format!("{error:#}"),
            mend: format!("the file is damaged, or uses proposals that are switched off here; {BUILD}"),
            ..LoadError::at(State::Compiling)
        })?;
        check_imports(engine, &component)?;
        let linker = Linker::new(engine.wasmtime());
        let pre =
            linker.instantiate_pre(&component).and_then(bindings::ValidatorPre::new).map_err(|error| LoadError {
                expected: format!("a component with the exports `describe` and `validate` of {WORLD}"),
                found: format!("{error:#}"),
                mend: BUILD.to_owned(),
                ..LoadError::at(State::Checking)
            })?;
        step(State::SelfTest);
        let digest = Digest::of(bytes);
        let mut module = Self {
            engine: Arc::clone(engine),
            pre,
            digest,
            limits,
            check_amended,
            summary: String::new(),
            figures: Figures::default(),
        };
        module.self_test()?;
        Ok(module)
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Judges one event in a fresh instance.
    pub(super) fn judge(&self, subject: &Subject<'_>) -> Result<Verdict, Fault> {
        let start = Instant::now();
        let mut buffers = [[0_u8; uuid::fmt::Hyphenated::LENGTH]; 2];
        let [id, session_id] = &mut buffers;
        let event = wit::Event {
            id: subject.id.as_hyphenated().encode_lower(id),
            application: subject.application,
            session_id: subject.session_id.as_hyphenated().encode_lower(session_id),
            category: subject.category,
            name: subject.name,
            timestamp: subject.timestamp_us,
            data: subject.data,
        };
        let outcome =
            self.call(1, |instance, store| instance.call_validate(store, event)).and_then(|said| self.verdict(said));
        self.figures.record(&outcome, start.elapsed());
        outcome
    }

    /// Makes an instance, calls it, and throws it away.
    fn call<T>(
        &self,
        deadlines: u64,
        call: impl FnOnce(&bindings::Validator, &mut Store<Cage>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        let cage = Cage { memory_bytes_max: self.limits.memory_bytes_max, refused_memory: false };
        let mut store = Store::new(self.engine.wasmtime(), cage);
        store.limiter(|cage| cage);
        store.set_epoch_deadline(Engine::epochs(self.limits.deadline_ms.saturating_mul(deadlines)));
        let result = self.pre.instantiate(&mut store).and_then(|instance| call(&instance, &mut store));
        result.map_err(|error| self.fault(&error, store.data()))
    }

    fn fault(&self, error: &wasmtime::Error, cage: &Cage) -> Fault {
        let trap = error.downcast_ref::<Trap>();
        let (code, detail) = match trap {
            _ if cage.refused_memory => (
                FaultCode::Memory,
                format!("the validator asked for more than {} bytes of memory", self.limits.memory_bytes_max),
            ),
            Some(Trap::Interrupt) => {
                (FaultCode::Deadline, format!("the validator took longer than {} ms", self.limits.deadline_ms))
            }
            Some(Trap::StackOverflow) => (FaultCode::Stack, "the validator called itself too deeply".to_owned()),
            Some(trap) => (FaultCode::Trap, format!("the validator stopped: {trap}")),
            // Not the guest's code but what it returned, such as a text outside of its memory.
            None => (FaultCode::Output, format!("the validator returned what cannot be read: {}", error.root_cause())),
        };
        Fault { code, detail, retry: false }
    }

    fn verdict(&self, said: wit::Verdict) -> Result<Verdict, Fault> {
        let output = |detail: String| Fault { code: FaultCode::Output, detail, retry: false };
        match said {
            wit::Verdict::Accept => Ok(Verdict::Accept),
            wit::Verdict::Amend(data) => {
                if data.len() > self.limits.output_bytes_max {
                    let (bytes, max) = (data.len(), self.limits.output_bytes_max);
                    return Err(output(format!("the validator amended data to {bytes} bytes, and {max} are allowed")));
                }
                (self.check_amended)(&data).map_err(output)?;
                Ok(Verdict::Amend(data))
            }
            wit::Verdict::Reject(reasons) => {
                let bytes: usize =
                    reasons.iter().map(|one| one.pointer.len() + one.code.len() + one.message.len()).sum();
                let count = reasons.len();
                if count == 0 || count > self.limits.violations_max || bytes > self.limits.output_bytes_max {
                    let (count_max, bytes_max) = (self.limits.violations_max, self.limits.output_bytes_max);
                    return Err(output(format!(
                        "the validator rejected with {count} violations of {bytes} bytes; 1 to {count_max} of {bytes_max} are allowed"
                    )));
                }
                if let Some(bad) = reasons.iter().find(|one| !is_pointer(&one.pointer)) {
                    return Err(output(format!("`{}` is no JSON Pointer (RFC 6901)", bad.pointer.escape_debug())));
                }
                Ok(Verdict::Reject(reasons.into_iter().map(violation).collect()))
            }
        }
    }

    /// Has the module describe itself, and tries its own examples.
    fn self_test(&mut self) -> Result<(), LoadError> {
        let failed = |expected: &str, found: String, mend: &str| LoadError {
            expected: expected.to_owned(),
            found,
            mend: mend.to_owned(),
            ..LoadError::at(State::SelfTest)
        };
        let described =
            self.call(SELF_TEST_DEADLINES, |instance, store| instance.call_describe(store)).map_err(|fault| {
                failed(
                    "`describe` returns a summary and examples",
                    fault.detail,
                    "run the crate's own tests: describe must not fail",
                )
            })?;
        if described.examples.len() > EXAMPLES_MAX {
            let found = format!("{} examples", described.examples.len());
            return Err(failed("at most 100 examples", found, "keep the examples that show something of their own"));
        }
        for example in &described.examples {
            let event = wit::Event {
                id: "018f0000-0000-7000-8000-000000000001",
                application: "self-test",
                session_id: "018f0000-0000-7000-8000-000000000002",
                category: "self-test",
                name: "self-test",
                timestamp: 0,
                data: &example.data,
            };
            let verdict = self
                .call(SELF_TEST_DEADLINES, |instance, store| instance.call_validate(store, event))
                .and_then(|said| self.verdict(said));
            let (word, shown) = match &verdict {
                Ok(Verdict::Accept) => (Some(wit::Expectation::Accept), "accept".to_owned()),
                Ok(Verdict::Amend(_)) => (Some(wit::Expectation::Amend), "amend".to_owned()),
                Ok(Verdict::Reject(violations)) => {
                    (Some(wit::Expectation::Reject), format!("reject: {}", violations[0].message))
                }
                Err(fault) => (None, format!("a fault ({}): {}", fault.code.as_str(), fault.detail)),
            };
            if word != Some(example.expect) {
                let expected = format!("the example \"{}\" to end with {:?}", example.title, example.expect);
                return Err(failed(
                    &expected,
                    shown,
                    "mend the rule or the example; `cargo test` in the validator's crate shows the same",
                ));
            }
        }
        self.summary = described.summary;
        Ok(())
    }
}

fn violation(one: wit::Violation) -> Violation {
    Violation { pointer: one.pointer, code: one.code.into(), message: one.message.into() }
}

/// RFC 6901: empty, or parts that each begin with `/`, in which `~` stands only before 0 or 1.
fn is_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(|part| part.starts_with(['0', '1']))
}

/// A component as it is, or made of a core module with embedded WIT metadata.
fn as_component(bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    // The preamble tells a component (layer 1) from a core module (layer 0).
    if bytes.get(4..8) == Some(&[0x0d, 0, 1, 0]) {
        return Ok(bytes.to_vec());
    }
    ComponentEncoder::default().module(bytes).and_then(|encoder| encoder.validate(true).encode()).map_err(|error| {
        LoadError {
            expected: format!("a component, or a core module that embeds {WORLD}"),
            found: format!("{error:#}"),
            mend: format!("{BUILD}; WASI targets such as wasm32-wasip1 import the system, which is not there"),
            ..LoadError::at(State::Checking)
        }
    })
}

/// Refuses every import by name, but for the shared types, which are no code.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), LoadError> {
    let ty = component.component_type();
    let reaching: Vec<String> = ty
        .imports(engine.wasmtime())
        .filter(|(name, item)| !(*name == TYPES && matches!(item.ty, ComponentItem::ComponentInstance(_))))
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    if reaching.is_empty() {
        return Ok(());
    }
    Err(LoadError {
        expected: format!("{WORLD}, not even the system's clock or files"),
        found: format!("imports of {}", reaching.join(", ")),
        mend: format!("take out what uses them (printing, time, randomness, files), and {BUILD}"),
        ..LoadError::at(State::Checking)
    })
}
