//! Instances of a module without a component around them. Each instance is in the state in which `describe` left the
//! module when it was loaded. Where every write leaves a mark (`rewrite.rs`), an instance stays: the gateway copies
//! back what an event wrote. It drops an instance that faulted, grew or wrote too widely. Without marks each event gets
//! a new instance in the same state. This file also calls the contract's functions by the canonical ABI, in one way for
//! both.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};

use eye_event::verdict::Verdict;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{
    Global, Instance, InstancePre, Linker, Memory, Module, ModuleExport, Store, TypedFunc, Val, WasmParams,
};

use super::answer::Answer;
use super::contract::{Broken, GuestEvent, broken, denied, for_describing, late, unstarted};
use super::contract::{Description, Verdict as GuestVerdict};
use super::core_module::{Call, LAST_WORDS};
use super::engine::{self, Meter, Sandbox};
use super::finished::{Blob, Finished};
use super::memory::{Claim, Keeper};
use super::rewrite::{CARD_BYTES, CARD_SHIFT, MARKS_BYTES, STORE_REACH, exports};
use super::settings::Limits;

/// Bytes that an event may write. Beyond them, a new instance costs less than setting this one back.
const SET_BACK_BYTES_MAX: usize = 256 << 10;

/// Bytes of a panic's text that are read.
const LAST_WORDS_BYTES_MAX: usize = 1 << 10;

/// Instances of one module that are kept on the largest machine. A smaller one keeps as many as it has processors.
const KEPT_MAX: usize = 64;

/// Bytes that may be brought to the start without a look at a clock. They take some ten microseconds.
const UNTIMED_BYTES_MAX: usize = 128 << 10;

/// The same for code and data that the engine prepares.
const UNTIMED_IMAGE_BYTES_MAX: usize = 2 << 20;

/// Cards that are brought to the start between two looks at the clock.
const CARDS_A_LOOK: usize = (1 << 20) >> CARD_SHIFT;

/// A module's code, and the places of an instance's parts in it.
struct Code {
    pre: InstancePre<Meter>,
    /// Bytes that it was compiled from.
    wasm_bytes: usize,
    /// Bytes of the compiled code, and of the images of its memories.
    bytes: usize,
    memories: Box<[ModuleExport]>,
    /// The marks of all writes; `None` if the module was not rewritten to leave any.
    marks: Option<ModuleExport>,
    globals: Box<[ModuleExport]>,
    /// Tables of one instance, each of which takes a place in the pool.
    tables: u32,
    start: Option<ModuleExport>,
    last_words: Option<ModuleExport>,
    describe: Exported,
    validate: Exported,
    /// Only the engine of schema files has these, and the image that its schemas share.
    configure: Option<Exported>,
    redact: Option<Exported>,
    image: Option<Arc<Area>>,
}

/// The places of one function of the contract.
struct Exported {
    function: ModuleExport,
    realloc: Option<ModuleExport>,
    post_return: Option<ModuleExport>,
}

impl Code {
    fn of(sandbox: &Sandbox, module: &Module, wasm_bytes: usize) -> wasmtime::Result<Self> {
        module.initialize_copy_on_write_image()?;
        let pre = Linker::new(&sandbox.engine).instantiate_pre(module)?;
        let find = |name: String| module.get_export_index(&name);
        let found = |call| {
            let (realloc, post_return) = (find(exports::realloc(call)), find(exports::post_return(call)));
            find(exports::call(call)).map(|function| Exported { function, realloc, post_return })
        };
        let exported = |call: Call| {
            let missing = || wasmtime::Error::msg(format!("`{}` is not among what the module exports", call.name()));
            found(call).ok_or_else(missing)
        };
        let resources = module.resources_required();
        Ok(Self {
            wasm_bytes,
            bytes: engine::code_bytes(&module.image_range(), wasm_bytes, resources.num_memories as usize),
            memories: (0..).map_while(|place| find(exports::memory(place))).collect(),
            marks: find(exports::MARKS.to_owned()),
            globals: (0..).map_while(|place| find(exports::global(place))).collect(),
            tables: resources.num_tables,
            start: find(exports::START.to_owned()),
            last_words: find(LAST_WORDS.to_owned()),
            describe: exported(Call::Describe)?,
            validate: exported(Call::Validate)?,
            configure: found(Call::Configure),
            redact: found(Call::Redact),
            image: None,
            pre,
        })
    }
}

/// A module and the state in which it judges, as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Described {
    code: Finished,
    wasm_bytes: usize,
    start: Snapshot,
}

/// A compiled module that has not run yet, so that the state in which it judges is unknown.
pub(super) struct Undescribed(Arc<Code>);

impl Undescribed {
    /// Runs the module's start code, calls `describe`, and takes the state after that. Every event finds this state.
    pub(super) fn describe(self, sandbox: &Sandbox, limits: &Limits) -> Result<(Residents, Description), Broken> {
        let limits = for_describing(limits);
        let mut resident = Resident::new(&self.0, sandbox, &limits)?;
        let described = resident.start(&self.0).and_then(|()| resident.describe(&self.0, &limits));
        let description = described.map_err(|broken| Broken { last_words: resident.last_words(&self.0), ..broken })?;
        let mut untouched = Resident::new(&self.0, sandbox, &limits)?;
        let start = Snapshot::take(&mut resident, &mut untouched, None);
        Ok((Residents::new(self.0, start), description))
    }
}

/// The engine of schema files as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BuiltEngine {
    code: Finished,
    wasm_bytes: usize,
}

impl BuiltEngine {
    /// Compiles the engine, rewritten so that its writes leave marks.
    pub(super) fn compile(sandbox: &Sandbox, rewritten: &[u8]) -> wasmtime::Result<Self> {
        let module = Module::from_binary(&sandbox.engine, rewritten)?;
        Ok(Self { code: Finished::of_module(&module)?, wasm_bytes: rewritten.len() })
    }
}

/// The engine of schema files, which has no schema yet.
pub(super) struct SchemaEngine(Arc<Code>);

impl SchemaEngine {
    /// Opens an engine, and takes the image of its memory that all schemas share.
    pub(super) fn open(sandbox: &Sandbox, built: &BuiltEngine) -> wasmtime::Result<Self> {
        let mut code = Code::of(sandbox, &built.code.module(&sandbox.engine)?, built.wasm_bytes)?;
        let untouched = Resident::new(&code, sandbox, &Limits::default());
        let untouched = untouched.map_err(|broken| wasmtime::Error::msg(broken.told()))?;
        let memory = untouched.parts.memories[0].data(&untouched.store);
        code.image = Some(Arc::new(Area::take(memory, &[], true, None)));
        Ok(Self(Arc::new(code)))
    }

    /// The engine as data, for a loader.
    pub(super) fn built(&self) -> wasmtime::Result<BuiltEngine> {
        Ok(BuiltEngine { code: Finished::of_module(self.0.pre.module())?, wasm_bytes: self.0.wasm_bytes })
    }

    /// Bytes of its code, and of the image that schemas share.
    pub(super) fn memory_bytes(&self) -> usize {
        self.0.bytes.saturating_add(self.0.image.as_ref().map_or(0, |image| image.memory_bytes_kept()))
    }

    /// Gives a schema to a new instance, and reads the engine's answer.
    pub(super) fn configure(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        schema: &[u8],
    ) -> Result<(Configured<'_>, String), Broken> {
        let describing = for_describing(limits);
        let mut resident = Resident::new(&self.0, sandbox, &describing)?;
        resident.start(&self.0)?;
        let answer = resident.configure(&self.0, limits, schema);
        let answer = answer.map_err(|broken| Broken { last_words: resident.last_words(&self.0), ..broken })?;
        Ok((Configured { code: &self.0, resident, limits: describing }, answer))
    }

    /// A schema from the state that it left.
    pub(super) fn open_schema(&self, sandbox: &Sandbox, start: Snapshot) -> Arc<Residents> {
        let residents = Arc::new(Residents::new(Arc::clone(&self.0), start));
        let keeper: Weak<Residents> = Arc::downgrade(&residents);
        sandbox.memory.register(keeper);
        residents
    }
}

/// An instance of the engine that has a schema.
pub(super) struct Configured<'e> {
    code: &'e Arc<Code>,
    resident: Resident,
    limits: Limits,
}

impl Configured<'_> {
    /// Calls `describe`, and takes the state after that. Every event finds this state.
    pub(super) fn describe(mut self, sandbox: &Sandbox) -> Result<(Residents, Description), Broken> {
        let described = self.resident.describe(self.code, &self.limits);
        let description =
            described.map_err(|broken| Broken { last_words: self.resident.last_words(self.code), ..broken })?;
        let mut untouched = Resident::new(self.code, sandbox, &self.limits)?;
        let start = Snapshot::take(&mut self.resident, &mut untouched, self.code.image.as_ref());
        Ok((Residents::new(Arc::clone(self.code), start), description))
    }
}

/// The instances of one module.
pub(super) struct Residents {
    /// Schemas share that of their engine.
    code: Arc<Code>,
    start: Snapshot,
    /// A new instance takes so long that its deadline must count the time.
    is_large: bool,
    instance_pool: InstancePool,
    /// When the module last got an event, in ticks of the engine's clock.
    used_at: AtomicU64,
}

impl Keeper for Residents {
    fn used_at(&self) -> u64 {
        self.used_at.load(Relaxed)
    }

    fn let_go(&self) -> bool {
        let mut any = false;
        while self.instance_pool.take().is_some() {
            any = true;
        }
        any
    }
}

impl Residents {
    fn new(code: Arc<Code>, mut start: Snapshot) -> Self {
        if let Some(image) = &code.image {
            start.areas[0].image = Some(Arc::clone(image));
        }
        let image = code.pre.module().image_range();
        let image_bytes = (image.end as usize).saturating_sub(image.start as usize);
        let is_large = start.described_bytes() > UNTIMED_BYTES_MAX || image_bytes > UNTIMED_IMAGE_BYTES_MAX;
        Self { code, start, is_large, instance_pool: InstancePool::new(), used_at: AtomicU64::new(0) }
    }

    /// Compiles a rewritten module.
    pub(super) fn compile(sandbox: &Sandbox, rewritten: &[u8]) -> wasmtime::Result<Undescribed> {
        Code::of(sandbox, &Module::from_binary(&sandbox.engine, rewritten)?, rewritten.len())
            .map(|code| Undescribed(Arc::new(code)))
    }

    /// The module as data.
    pub(super) fn described(&self) -> wasmtime::Result<Described> {
        let code = Finished::of_module(self.code.pre.module())?;
        Ok(Described { code, wasm_bytes: self.code.wasm_bytes, start: self.start.clone() })
    }

    /// Opens what [`Residents::described`] returned. Instances of the module make room for others when they rest.
    pub(super) fn open(sandbox: &Sandbox, described: Described) -> wasmtime::Result<Arc<Self>> {
        let Described { code, wasm_bytes, start } = described;
        let code = Code::of(sandbox, &code.module(&sandbox.engine)?, wasm_bytes)?;
        let residents = Arc::new(Self::new(Arc::new(code), start));
        let keeper: Weak<Self> = Arc::downgrade(&residents);
        sandbox.memory.register(keeper);
        Ok(residents)
    }

    /// The state of a schema as data.
    pub(super) fn start(&self) -> Snapshot {
        self.start.clone()
    }

    /// Whether instances stay and are set back.
    pub(super) fn stay(&self) -> bool {
        self.code.marks.is_some()
    }

    /// Judges one event in an instance in the state of the start. If `check_answer` refuses the answer, the instance is
    /// dropped.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
        check_answer: impl FnOnce(GuestVerdict) -> Result<Verdict, Broken>,
    ) -> Result<Verdict, Broken> {
        self.call(sandbox, limits, |resident| resident.judge(limits, event), check_answer)
    }

    /// Calls `redact` of the engine of schema files, in an instance in the state of the start.
    pub(super) fn redact(&self, sandbox: &Sandbox, limits: &Limits, data: &str) -> Result<String, Broken> {
        self.call(sandbox, limits, |resident| resident.redact(&self.code, limits, data), Ok)
    }

    fn call<A, T>(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        call: impl FnOnce(&mut Resident) -> Result<A, Broken>,
        check_answer: impl FnOnce(A) -> Result<T, Broken>,
    ) -> Result<T, Broken> {
        let now = sandbox.memory.now();
        // All threads read this, so it is written seldom.
        if self.used_at.load(Relaxed) != now {
            self.used_at.store(now, Relaxed);
        }
        let mut resident = match self.instance_pool.take() {
            Some(mut resident) => {
                resident.begin(limits)?;
                resident
            }
            None => Box::new(self.start_another(sandbox, limits)?),
        };
        let answer = match call(&mut resident) {
            Ok(answer) => check_answer(answer)?,
            Err(broken) => return Err(Broken { last_words: resident.last_words(&self.code), ..broken }),
        };
        if self.stay() && resident.set_back(&self.start) && resident.may_stay(sandbox, self.code.tables) {
            self.instance_pool.keep(resident);
        }
        Ok(answer)
    }

    /// Makes an instance within `limits`, as an event would, to prove that it can be made.
    pub(super) fn try_start(&self, sandbox: &Sandbox, limits: &Limits) -> Result<(), Broken> {
        self.start_another(sandbox, limits).map(|_| ())
    }

    /// How many instances are at rest.
    #[cfg(test)]
    pub(super) fn at_rest(&self) -> usize {
        self.instance_pool.places().filter(|place| place.is_some()).count()
    }

    /// The bytes that the module takes without any instance: its code, unless others have the same, and the state that
    /// every event finds.
    pub(super) fn memory_bytes(&self) -> usize {
        let code = if self.code.image.is_some() { 0 } else { self.code.bytes };
        code.saturating_add(self.start.memory_bytes_kept())
    }

    fn start_another(&self, sandbox: &Sandbox, limits: &Limits) -> Result<Resident, Broken> {
        let mut store = new_store(&self.code, sandbox, limits);
        if self.is_large {
            store.data_mut().is_over();
        }
        let mut resident = Resident::within(&self.code, store)?;
        resident.bring_to(&self.start, self.is_large)?;
        Ok(resident)
    }
}

/// One instance in a store of its own.
struct Resident {
    store: Store<Meter>,
    parts: Parts,
    /// Cards that the last event wrote to.
    written: Vec<u32>,
    /// The pages of its memory that were ever written to.
    pages: Pages,
    /// Its place among the kept instances, and its memory there.
    permit: Option<(OwnedSemaphorePermit, Claim)>,
}

/// The parts of an instance that the gateway reaches from outside.
struct Parts {
    instance: Instance,
    /// Texts pass through the first.
    memories: Box<[Memory]>,
    marks: Option<Memory>,
    globals: Box<[Global]>,
    validate: Callable<Flat>,
}

/// An event as the canonical ABI passes it. A text is its address and its bytes; the timestamp stands before the data.
type Flat = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, i64, u32, u32);

/// Allocates a place. The parameters are its former address and size, its alignment and its new size.
type Realloc = TypedFunc<(u32, u32, u32, u32), u32>;

/// A function of the contract in one instance. It returns the address of its answer.
struct Callable<P> {
    function: TypedFunc<P, u32>,
    realloc: Option<Realloc>,
    post_return: Option<TypedFunc<u32, ()>>,
}

impl<P: WasmParams> Callable<P> {
    fn of(exported: &Exported, instance: Instance, store: &mut Store<Meter>) -> wasmtime::Result<Self> {
        let mut function = |export: &ModuleExport| {
            let export = instance.get_module_export(&mut *store, export).and_then(wasmtime::Extern::into_func);
            export.expect("the rewriting exports it")
        };
        let (call, realloc) = (function(&exported.function), exported.realloc.as_ref().map(&mut function));
        let post_return = exported.post_return.as_ref().map(&mut function);
        Ok(Self {
            function: call.typed(&*store)?,
            realloc: realloc.map(|realloc| realloc.typed(&*store)).transpose()?,
            post_return: post_return.map(|post_return| post_return.typed(&*store)).transpose()?,
        })
    }
}

impl Parts {
    fn of_new(code: &Code, store: &mut Store<Meter>) -> wasmtime::Result<Self> {
        let instance = code.pre.instantiate(&mut *store)?;
        let mut found = |export: &ModuleExport| {
            instance.get_module_export(&mut *store, export).expect("what a module exports, its instances do")
        };
        let mut memory = |export| found(export).into_memory().expect("the rewriting exports a memory so");
        let (memories, marks) = (code.memories.iter().map(&mut memory).collect(), code.marks.as_ref().map(&mut memory));
        let global = |export| found(export).into_global().expect("the rewriting exports a global so");
        let globals = code.globals.iter().map(global).collect();
        let validate = Callable::of(&code.validate, instance, store)?;
        Ok(Self { instance, memories, marks, globals, validate })
    }
}

fn new_store(code: &Code, sandbox: &Sandbox, limits: &Limits) -> Store<Meter> {
    let mut store = sandbox.store(limits);
    if code.marks.is_some() {
        store.data_mut().let_have_beside(MARKS_BYTES);
    }
    store
}

impl Resident {
    fn new(code: &Code, sandbox: &Sandbox, limits: &Limits) -> Result<Self, Broken> {
        Self::within(code, new_store(code, sandbox, limits))
    }

    fn within(code: &Code, mut store: Store<Meter>) -> Result<Self, Broken> {
        match Parts::of_new(code, &mut store) {
            Ok(parts) => Ok(Self { store, parts, written: Vec::new(), pages: Pages::default(), permit: None }),
            Err(error) => Err(unstarted(&error, &store)),
        }
    }

    /// Runs the code that the module has for its start.
    fn start(&mut self, code: &Code) -> Result<(), Broken> {
        let Some(start) = &code.start else { return Ok(()) };
        let start = self.parts.instance.get_module_export(&mut self.store, start).and_then(wasmtime::Extern::into_func);
        let start = start.expect("the rewriting exports it").typed::<(), ()>(&self.store);
        start.and_then(|start| start.call(&mut self.store, ())).map_err(|error| broken(&error, &self.store))
    }

    /// Calls `describe`.
    fn describe(&mut self, code: &Code, limits: &Limits) -> Result<Description, Broken> {
        let describe = Callable::<()>::of(&code.describe, self.parts.instance, &mut self.store);
        let describe = describe.map_err(|error| broken(&error, &self.store))?;
        let address = describe.function.call(&mut self.store, ()).map_err(|error| broken(&error, &self.store))?;
        let description = self.answer(limits, |answer| answer.description(address))?;
        was_read(&mut self.store, describe.post_return.as_ref(), address)?;
        Ok(description)
    }

    /// Calls `configure` with the text of a schema, and returns the engine's answer.
    fn configure(&mut self, code: &Code, limits: &Limits, schema: &[u8]) -> Result<String, Broken> {
        let (address, bytes) = self.put(schema)?;
        let most = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let parameters = (address, bytes, most(limits.violations_max), most(limits.output_bytes_max));
        let configure = code.configure.as_ref().expect("the engine exports it");
        let configure = Callable::<(u32, u32, u32, u32)>::of(configure, self.parts.instance, &mut self.store);
        let configure = configure.map_err(|error| broken(&error, &self.store))?;
        let address = configure.function.call(&mut self.store, parameters);
        let address = address.map_err(|error| broken(&error, &self.store))?;
        self.answer(&for_describing(limits), |answer| answer.text_at(address))
    }

    /// Calls `redact`.
    fn redact(&mut self, code: &Code, limits: &Limits, data: &str) -> Result<String, Broken> {
        let data = self.put(data.as_bytes())?;
        let redact = code.redact.as_ref().expect("the engine exports it");
        let redact = Callable::<(u32, u32)>::of(redact, self.parts.instance, &mut self.store);
        let redact = redact.map_err(|error| broken(&error, &self.store))?;
        let address = redact.function.call(&mut self.store, data).map_err(|error| broken(&error, &self.store))?;
        self.answer(limits, |answer| answer.text_at(address))
    }

    /// Begins another call in an instance that stayed.
    fn begin(&mut self, limits: &Limits) -> Result<(), Broken> {
        engine::begin_call(&mut self.store, limits);
        let memory_bytes = self.parts.memories[0].data_size(&self.store);
        if !self.store.data_mut().has_memory(memory_bytes) {
            return Err(denied(&self.store).expect("it was just denied"));
        }
        Ok(())
    }

    /// Judges an event, and leaves the instance in the state that the event brings it to.
    fn judge(&mut self, limits: &Limits, event: &GuestEvent<'_>) -> Result<GuestVerdict, Broken> {
        let mut put = |text: &str| self.put(text.as_bytes());
        let (id, application) = (put(event.id)?, put(event.application)?);
        let (session, category) = (put(event.session_id)?, put(event.category)?);
        let (name, data) = (put(event.name)?, put(event.data)?);
        #[rustfmt::skip]
        let flat = (
            id.0, id.1, application.0, application.1, session.0, session.1, category.0, category.1, name.0, name.1,
            event.timestamp_us, data.0, data.1,
        );
        let called = self.parts.validate.function.call(&mut self.store, flat);
        let address = called.map_err(|error| broken(&error, &self.store))?;
        let verdict = self.answer(limits, |answer| answer.verdict(address))?;
        was_read(&mut self.store, self.parts.validate.post_return.as_ref(), address)?;
        Ok(verdict)
    }

    /// Reads the module's last words: the exported global points into the first memory, to a length in four bytes and a
    /// text of that many bytes. It trusts none of these.
    fn last_words(&mut self, code: &Code) -> Option<String> {
        let global =
            self.parts.instance.get_module_export(&mut self.store, code.last_words.as_ref()?)?.into_global()?;
        let start = global.get(&mut self.store).i32()?.cast_unsigned() as usize;
        let memory = self.parts.memories[0].data(&self.store);
        let (length, text) = memory.get(start..)?.split_first_chunk()?;
        let length = (u32::from_le_bytes(*length) as usize).min(LAST_WORDS_BYTES_MAX);
        let mut text = String::from_utf8_lossy(text.get(..length)?).into_owned();
        // Replacing bytes that are not UTF-8 makes the text longer.
        text.truncate(text.floor_char_boundary(LAST_WORDS_BYTES_MAX));
        (!text.is_empty()).then_some(text)
    }

    /// Copies a text to the place that the module allocates for it, before the next text gets a place. Returns its
    /// address and its bytes.
    fn put(&mut self, text: &[u8]) -> Result<(u32, u32), Broken> {
        let bytes = u32::try_from(text.len()).map_err(|_| Broken::output("a text is too long for any memory"))?;
        let realloc = self.parts.validate.realloc.as_ref();
        let realloc = realloc.ok_or_else(|| Broken::output("it has no place for texts"))?;
        // There is no former place, so its size is 0, and a text has no alignment.
        let address = realloc.call(&mut self.store, (0, 0, 1, bytes));
        let address = address.map_err(|error| broken(&error, &self.store))?;
        let start = address as usize;
        let memory = self.parts.memories[0].data_mut(&mut self.store);
        let Some(place) = memory.get_mut(start..start.saturating_add(text.len())) else {
            let broken = Broken::output("it allocates outside of its memory");
            return Err(denied(&self.store).unwrap_or(broken));
        };
        place.copy_from_slice(text);
        if let Some(marks) = self.parts.marks.filter(|_| !text.is_empty()) {
            let marks = marks.data_mut(&mut self.store);
            marks[start >> CARD_SHIFT..=(start + text.len() - 1) >> CARD_SHIFT].fill(1);
        }
        Ok((address, bytes))
    }

    /// Reads an answer out of the memory.
    fn answer<T>(&self, limits: &Limits, read: impl FnOnce(&mut Answer<'_>) -> Result<T, Broken>) -> Result<T, Broken> {
        let answer = read(&mut Answer::new(self.parts.memories[0].data(&self.store), limits));
        answer.map_err(|broken| denied(&self.store).unwrap_or(broken))
    }

    /// Undoes the writes of the last event. Returns false when it cannot, or when a new instance costs less; then the
    /// caller drops this one.
    fn set_back(&mut self, start: &Snapshot) -> bool {
        let area = &start.areas[0];
        if self.parts.memories[0].data_size(&self.store) != area.memory_bytes {
            return false;
        }
        self.collect_written(area.cards.len());
        if self.written.len() > SET_BACK_BYTES_MAX >> CARD_SHIFT {
            return false;
        }
        let memory = self.parts.memories[0].data_mut(&mut self.store);
        for card in &self.written {
            area.restore(memory, *card as usize);
        }
        self.pages.note(&self.written);
        self.set_globals(start);
        #[cfg(test)]
        assert!(start.is_state_of(self), "an event left something behind");
        true
    }

    /// Brings a new instance to the state of the start. If `timed`, that may take a part of the deadline.
    fn bring_to(&mut self, start: &Snapshot, timed: bool) -> Result<(), Broken> {
        for (memory, area) in self.parts.memories.iter().zip(&start.areas) {
            let missing = area.memory_bytes.saturating_sub(memory.data_size(&self.store)) as u64;
            if missing > 0 {
                let pages = missing / memory.page_size(&self.store);
                let grown = memory.grow(&mut self.store, pages);
                grown.map_err(|error| unstarted(&error, &self.store))?;
            }
            for cards in area.described.chunks(CARDS_A_LOOK) {
                if timed && self.store.data_mut().is_over() {
                    return Err(late());
                }
                let bytes = memory.data_mut(&mut self.store);
                for card in cards {
                    let start = (*card as usize) << CARD_SHIFT;
                    area.restore_start_of(&mut bytes[start..start + CARD_BYTES], *card as usize);
                }
            }
            self.pages.note(&area.described);
        }
        self.set_globals(start);
        if timed && self.store.data_mut().is_over() {
            return Err(late());
        }
        #[cfg(test)]
        assert!(start.is_state_of(self), "a new instance is not as `describe` left the first");
        Ok(())
    }

    /// Lists the cards that were written to, and clears their marks.
    fn collect_written(&mut self, cards: usize) {
        self.written.clear();
        let Some(marks) = self.parts.marks else { return };
        let marks = &mut marks.data_mut(&mut self.store)[..cards.next_multiple_of(MARKS_AT_ONCE)];
        for (at, marks) in (0..).step_by(MARKS_AT_ONCE).zip(marks.as_chunks_mut::<MARKS_AT_ONCE>().0) {
            if *marks != [0; MARKS_AT_ONCE] {
                let marked = (at..).zip(&*marks).filter(|(_, mark)| **mark != 0);
                self.written.extend(marked.map(|(card, _)| card));
                *marks = [0; MARKS_AT_ONCE];
            }
        }
    }

    fn set_globals(&mut self, start: &Snapshot) {
        for (global, value) in self.parts.globals.iter().zip(&start.globals) {
            if Number::of(&global.get(&mut self.store)) != *value {
                global.set(&mut self.store, value.to_val()).expect("a mutable global takes a value of its type");
            }
        }
    }

    /// Whether this instance may be kept: it needs a place and memory.
    fn may_stay(&mut self, sandbox: &Sandbox, tables: u32) -> bool {
        if self.permit.is_none() {
            let permit = Arc::clone(&sandbox.residents).try_acquire_many_owned(tables.max(1)).ok();
            self.permit = permit.map(|permit| (permit, sandbox.memory.nothing()));
        }
        let bytes = INSTANCE_BYTES + self.pages.count * PAGE_BYTES;
        self.permit.as_mut().is_some_and(|(_, claim)| claim.grow_to(bytes))
    }
}

/// Bytes of a page of the system.
const PAGE_BYTES: usize = 4 << 10;
/// About the bytes that an instance takes beside the pages of its memory: the engine's own state of it, and its marks.
const INSTANCE_BYTES: usize = 16 << 10;

/// Pages of the system that were written to.
#[derive(Default)]
struct Pages {
    /// One bit for each page.
    written: Vec<u64>,
    count: usize,
}

impl Pages {
    /// Notes the pages of these cards, which are in order.
    fn note(&mut self, cards: &[u32]) {
        let mut last = None;
        for card in cards {
            let page = *card as usize / (PAGE_BYTES / CARD_BYTES);
            if last.replace(page) != Some(page) {
                self.note_page(page);
            }
        }
    }

    fn note_page(&mut self, page: usize) {
        let (word, bit) = (page / 64, 1 << (page % 64));
        if word >= self.written.len() {
            self.written.resize(word + 1, 0);
        }
        self.count += usize::from(self.written[word] & bit == 0);
        self.written[word] |= bit;
    }
}

/// Calls the module's function for the end of a call, once its answer was read.
fn was_read(store: &mut Store<Meter>, post_return: Option<&TypedFunc<u32, ()>>, address: u32) -> Result<(), Broken> {
    let Some(post_return) = post_return else { return Ok(()) };
    post_return.call(&mut *store, address).map_err(|error| broken(&error, store))
}

/// Marks that are compared at once. Few are set.
const MARKS_AT_ONCE: usize = 32;

/// A state of a module: its memories and its mutable globals.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Snapshot {
    areas: Box<[Area]>,
    globals: Box<[Number]>,
}

/// The state of one memory, without the cards that are all zeros.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Area {
    memory_bytes: usize,
    /// For each card of the memory its place in `bytes`, counted in cards, or [`ZEROS`].
    cards: Box<[u32]>,
    /// Cards, one after the other.
    bytes: Blob,
    /// The cards that differ from those of a new instance.
    described: Box<[u32]>,
    /// The memory of a new instance, if the states of many schemas share it.
    #[serde(skip)]
    image: Option<Arc<Self>>,
}

/// The place of a card that is all zeros.
const ZEROS: u32 = u32::MAX;
/// The place of a card that is as in the image.
const AS_IN_IMAGE: u32 = u32::MAX - 1;

impl Snapshot {
    /// Takes the state of an instance. `untouched` is an instance of the same code in which nothing ran. With an image of
    /// its memory, cards that are as there are not taken.
    fn take(resident: &mut Resident, untouched: &mut Resident, image: Option<&Arc<Area>>) -> Self {
        let globals =
            resident.parts.globals.iter().map(|global| Number::of(&global.get(&mut resident.store))).collect();
        let pairs = resident.parts.memories.iter().zip(&untouched.parts.memories);
        let all = resident.parts.marks.is_some();
        let areas =
            pairs.map(|(own, new)| Area::take(own.data(&resident.store), new.data(&untouched.store), all, image));
        Self { areas: areas.collect(), globals }
    }

    /// Bytes to write to bring a new instance to this state.
    fn described_bytes(&self) -> usize {
        self.areas.iter().map(|area| area.described.len() << CARD_SHIFT).sum()
    }

    /// The bytes that this takes.
    fn memory_bytes_kept(&self) -> usize {
        self.areas.iter().map(Area::memory_bytes_kept).sum()
    }

    /// Compares everything.
    #[cfg(test)]
    fn is_state_of(&self, resident: &mut Resident) -> bool {
        let Resident { store, parts, .. } = resident;
        let globals = parts.globals.iter().map(|global| Number::of(&global.get(&mut *store)));
        let globals = globals.eq(self.globals.iter().copied());
        let whole = parts.marks.is_some();
        let marks = parts
            .marks
            .is_none_or(|marks| marks.data(&*store)[..self.areas[0].cards.len()].iter().all(|mark| *mark == 0));
        let mut memories = parts.memories.iter().zip(&self.areas);
        let memories = memories.all(|(memory, area)| area.is_state_of(memory.data(&*store), whole));
        globals && marks && memories
    }
}

impl Area {
    /// Takes all cards, or only those that differ from a new instance's. The others are left to an image, if there is one.
    fn take(memory: &[u8], new: &[u8], all: bool, image: Option<&Arc<Self>>) -> Self {
        // A memory has pages of 64 KiB, so the chunks cut no card.
        let (cards, new) = (memory.as_chunks::<CARD_BYTES>().0, new.as_chunks::<CARD_BYTES>().0);
        let (mut places, mut bytes, mut described) = (Vec::with_capacity(cards.len()), Vec::new(), Vec::new());
        for (at, card) in (0_u32..).zip(cards) {
            let differs = *card != *new.get(at as usize).unwrap_or(&[0; CARD_BYTES]);
            if differs {
                described.push(at);
            }
            if *card == [0; CARD_BYTES] || !(all || differs) {
                places.push(ZEROS);
            } else if !differs && image.is_some() {
                places.push(AS_IN_IMAGE);
            } else {
                places.push(u32::try_from(bytes.len() >> CARD_SHIFT).expect("a memory has fewer cards"));
                bytes.extend_from_slice(card);
            }
        }
        Self {
            memory_bytes: memory.len(),
            cards: places.into(),
            bytes: bytes.into(),
            described: described.into(),
            image: image.map(Arc::clone),
        }
    }

    /// The bytes that this takes, without the image.
    fn memory_bytes_kept(&self) -> usize {
        size_of_val(&*self.cards) + self.bytes.len() + size_of_val(&*self.described)
    }

    #[cfg(test)]
    fn is_state_of(&self, memory: &[u8], whole: bool) -> bool {
        let same = |(at, card): (usize, &[u8; CARD_BYTES])| {
            let mut own = [0; CARD_BYTES];
            self.restore_start_of(&mut own, at);
            *card == own
        };
        let cards = memory.as_chunks().0;
        let described = self.described.iter().map(|card| *card as usize);
        memory.len() == self.memory_bytes
            && described.map(|at| (at, &cards[at])).all(same)
            && (!whole || cards.iter().enumerate().all(same))
    }

    /// The card at a place in `bytes`.
    fn card(&self, place: u32) -> &[u8] {
        let start = (place as usize) << CARD_SHIFT;
        &self.bytes[start..start + CARD_BYTES]
    }

    /// Restores a card, and the bytes of the next card that a store may have reached.
    fn restore(&self, memory: &mut [u8], card: usize) {
        let start = card << CARD_SHIFT;
        let (here, beyond) = memory[start..].split_at_mut(CARD_BYTES);
        self.restore_start_of(here, card);
        let reach = beyond.len().min(STORE_REACH);
        if reach > 0 {
            self.restore_start_of(&mut beyond[..reach], card + 1);
        }
    }

    fn restore_start_of(&self, memory: &mut [u8], card: usize) {
        match self.cards[card] {
            ZEROS => memory.fill(0),
            AS_IN_IMAGE => self.image.as_ref().expect("a schema has one").restore_start_of(memory, card),
            place => memory.copy_from_slice(&self.card(place)[..memory.len()]),
        }
    }
}

/// The value of a global, as its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Number {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
}

impl Number {
    fn of(value: &Val) -> Self {
        match *value {
            Val::I32(value) => Self::I32(value),
            Val::I64(value) => Self::I64(value),
            Val::F32(bits) => Self::F32(bits),
            Val::F64(bits) => Self::F64(bits),
            Val::V128(bits) => Self::V128(bits.as_u128()),
            _ => unreachable!("the rewriting takes only modules whose mutable globals are numbers"),
        }
    }

    fn to_val(self) -> Val {
        match self {
            Self::I32(value) => Val::I32(value),
            Self::I64(value) => Val::I64(value),
            Self::F32(bits) => Val::F32(bits),
            Self::F64(bits) => Val::F64(bits),
            Self::V128(bits) => Val::V128(bits.into()),
        }
    }
}

/// Instances at rest. No thread waits here: a thread that finds none makes one, and one that finds no room drops its
/// instance.
struct InstancePool(Box<[Mutex<Option<Box<Resident>>>]>);

/// Threads that have judged so far.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The place that this thread tries first. Different threads begin at different places, so that they do not meet.
    static PLACE: usize = THREADS.fetch_add(1, Relaxed);
}

impl InstancePool {
    fn new() -> Self {
        let places = std::thread::available_parallelism().map_or(1, usize::from).min(KEPT_MAX);
        Self((0..places).map(|_| Mutex::new(None)).collect())
    }

    fn take(&self) -> Option<Box<Resident>> {
        self.places().find_map(|mut place| place.take())
    }

    fn keep(&self, resident: Box<Resident>) {
        let room = self.places().find(|place| place.is_none());
        if let Some(mut place) = room {
            *place = Some(resident);
        }
    }

    /// The places that no other thread holds just now, this thread's own first.
    fn places(&self) -> impl Iterator<Item = MutexGuard<'_, Option<Box<Resident>>>> {
        let first = PLACE.with(|place| *place) % self.0.len();
        let (before, from) = self.0.split_at(first);
        from.iter().chain(before).filter_map(|place| match place.try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        })
    }
}
