//! Instances that stay and are set back after each event, so that every event finds its module in one and the same
//! state: the one in which `describe` left it. What an event wrote is known from the marks of `rewrite.rs` and copied
//! back; an instance that faulted, grew or wrote too widely is thrown away instead. Here is also how the contract's
//! functions are called without a component around them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Global, Instance, InstancePre, Linker, Memory, Module, Store, TypedFunc, Val};

use super::answer::Answer;
use super::component::contract::{Description, Verdict as GuestVerdict};
use super::component::{Broken, GuestEvent, broken, denied, for_describing, unstarted};
use super::engine::{self, Meter, Sandbox};
use super::memory::{Claim, Keeper};
use super::rewrite::{CARD_BYTES, CARD_SHIFT, MARKS_BYTES, Rewritten, STORE_REACH, TEXTS, exports};
use super::settings::Limits;
use crate::verdict::Verdict;

/// Bytes that an event may have written to for the instance to be worth setting back; a new one costs less from there.
const SET_BACK_BYTES_MAX: usize = 256 << 10;

/// Instances of one module that are kept, on the largest machine; else as many as it has processors.
const KEPT_MAX: usize = 64;

/// A module's code.
struct Code {
    pre: InstancePre<Meter>,
    /// Of the compiled code, and of the image of its memory.
    bytes: usize,
    /// Its mutable globals.
    globals: usize,
}

/// A module of which it is not known yet in which state it judges.
pub(super) struct Undescribed(Code);

impl Undescribed {
    /// Calls `describe`, and takes the state in which that leaves the module as the one that every event finds.
    pub(super) fn describe(self, sandbox: &Sandbox, limits: &Limits) -> Result<(Arc<Residents>, Description), Broken> {
        let limits = for_describing(limits);
        let mut resident = Resident::new(&self.0, sandbox, &limits)?;
        let description = resident.describe(&limits)?;
        let start = Snapshot::take(&mut resident);
        let residents = Arc::new(Residents { code: self.0, start, shelf: Shelf::new(), used_at: AtomicU64::new(0) });
        let keeper: Weak<Residents> = Arc::downgrade(&residents);
        sandbox.memory.register(keeper);
        Ok((residents, description))
    }
}

/// One module's instances.
pub(super) struct Residents {
    code: Code,
    start: Snapshot,
    shelf: Shelf,
    /// When an event was put to the module last, in ticks of the engine's clock.
    used_at: AtomicU64,
}

impl Keeper for Residents {
    fn used_at(&self) -> u64 {
        self.used_at.load(Relaxed)
    }

    fn let_go(&self) -> bool {
        let mut any = false;
        while self.shelf.take().is_some() {
            any = true;
        }
        any
    }
}

impl Residents {
    /// Compiles a rewritten module.
    pub(super) fn compile(sandbox: &Sandbox, rewritten: &Rewritten) -> wasmtime::Result<Undescribed> {
        let module = Module::from_binary(&sandbox.engine, &rewritten.bytes)?;
        module.initialize_copy_on_write_image()?;
        let bytes = engine::code_bytes(&module.image_range(), rewritten.bytes.len(), 1);
        let pre = Linker::new(&sandbox.engine).instantiate_pre(&module)?;
        Ok(Undescribed(Code { pre, bytes, globals: rewritten.globals }))
    }

    /// Puts one event to an instance in the state of the start. One whose answer is not believed ends.
    pub(super) fn judge(
        &self,
        sandbox: &Sandbox,
        limits: &Limits,
        event: &GuestEvent<'_>,
        believe: impl FnOnce(GuestVerdict) -> Result<Verdict, Broken>,
    ) -> Result<Verdict, Broken> {
        self.used_at.store(sandbox.memory.now(), Relaxed);
        let mut resident = match self.shelf.take() {
            Some(resident) => resident,
            None => Box::new(self.start_another(sandbox, limits)?),
        };
        let verdict = believe(resident.judge(limits, event)?)?;
        if resident.set_back(&self.start) && resident.may_stay(sandbox) {
            self.shelf.keep(resident);
        }
        Ok(verdict)
    }

    /// How many instances are at rest.
    #[cfg(test)]
    pub(super) fn at_rest(&self) -> usize {
        self.shelf.places().filter(|place| place.is_some()).count()
    }

    /// The bytes that the module takes without any instance: its code, and the state that every event finds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.code.bytes.saturating_add(self.start.memory_bytes_kept())
    }

    fn start_another(&self, sandbox: &Sandbox, limits: &Limits) -> Result<Resident, Broken> {
        let mut resident = Resident::new(&self.code, sandbox, limits)?;
        resident.bring_to(&self.start).map_err(|error| unstarted(&error, &resident.store))?;
        Ok(resident)
    }
}

/// One instance in a store of its own.
struct Resident {
    store: Store<Meter>,
    parts: Parts,
    /// Cards that the last event wrote to.
    written: Vec<u32>,
    /// Pages of the system that were ever written to, a bit for each, and how many they are.
    pages: (Vec<u64>, usize),
    /// What it takes to be kept.
    permit: Option<(OwnedSemaphorePermit, Claim)>,
}

/// What of an instance is reached from outside.
struct Parts {
    instance: Instance,
    memory: Memory,
    marks: Memory,
    globals: Box<[Global]>,
    places: TypedFunc<Six, Six>,
    validate: TypedFunc<Flat, u32>,
}

/// A number for each text of an event.
type Six = (u32, u32, u32, u32, u32, u32);

/// An event as the canonical ABI passes it: a text is its address and its bytes, and the timestamp stands before the data.
type Flat = (u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, i64, u32, u32);

impl Parts {
    fn of_new(code: &Code, store: &mut Store<Meter>) -> wasmtime::Result<Self> {
        let instance = code.pre.instantiate(&mut *store)?;
        let memory =
            |store: &mut Store<Meter>, name| instance.get_memory(store, name).expect("the rewriting exports it");
        Ok(Self {
            instance,
            memory: memory(store, exports::MEMORY),
            marks: memory(store, exports::MARKS),
            globals: (0..code.globals)
                .map(|place| {
                    instance.get_global(&mut *store, &exports::global(place)).expect("the rewriting exports it")
                })
                .collect(),
            places: instance.get_typed_func(&mut *store, exports::PLACES)?,
            validate: instance.get_typed_func(&mut *store, exports::VALIDATE)?,
        })
    }
}

impl Resident {
    fn new(code: &Code, sandbox: &Sandbox, limits: &Limits) -> Result<Self, Broken> {
        let mut store = sandbox.store(limits);
        store.data_mut().let_have_beside(MARKS_BYTES);
        match Parts::of_new(code, &mut store) {
            Ok(parts) => Ok(Self { store, parts, written: Vec::new(), pages: (Vec::new(), 0), permit: None }),
            Err(error) => Err(unstarted(&error, &store)),
        }
    }

    /// Calls `describe` in a new instance.
    fn describe(&mut self, limits: &Limits) -> Result<Description, Broken> {
        let address = self.call_describe().map_err(|error| broken(&error, &self.store))?;
        let answer = Answer::new(self.parts.memory.data(&self.store), limits).description(address);
        let description = answer.map_err(|broken| denied(&self.store).unwrap_or(broken))?;
        self.call_described(address).map_err(|error| broken(&error, &self.store))?;
        Ok(description)
    }

    fn call_describe(&mut self) -> wasmtime::Result<u32> {
        let describe = self.parts.instance.get_typed_func::<(), u32>(&mut self.store, exports::DESCRIBE)?;
        describe.call(&mut self.store, ())
    }

    fn call_described(&mut self, address: u32) -> wasmtime::Result<()> {
        let Some(described) = self.parts.instance.get_func(&mut self.store, exports::DESCRIBED) else { return Ok(()) };
        described.typed::<u32, ()>(&self.store)?.call(&mut self.store, address)
    }

    /// Puts an event to the instance, which leaves it in whatever state the event brings it to.
    fn judge(&mut self, limits: &Limits, event: &GuestEvent<'_>) -> Result<GuestVerdict, Broken> {
        engine::begin_call(&mut self.store, limits);
        let memory_bytes = self.parts.memory.data_size(&self.store);
        if !self.store.data_mut().has_memory(memory_bytes) {
            return Err(denied(&self.store).expect("it was just denied"));
        }
        let address = self.call_validate(event)?;
        let answer = Answer::new(self.parts.memory.data(&self.store), limits).verdict(address);
        answer.map_err(|broken| denied(&self.store).unwrap_or(broken))
    }

    fn call_validate(&mut self, event: &GuestEvent<'_>) -> Result<u32, Broken> {
        let texts = [event.id, event.application, event.session_id, event.category, event.name, event.data];
        let [id, application, session, category, name, data] = self.put(texts)?;
        #[rustfmt::skip]
        let flat = (
            id.0, id.1, application.0, application.1, session.0, session.1, category.0, category.1, name.0, name.1,
            event.timestamp_us, data.0, data.1,
        );
        self.parts.validate.call(&mut self.store, flat).map_err(|error| broken(&error, &self.store))
    }

    /// Puts texts where the module wants them: the address and the bytes of each.
    fn put(&mut self, texts: [&str; TEXTS]) -> Result<[(u32, u32); TEXTS], Broken> {
        let mut bytes = [0; TEXTS];
        for (bytes, text) in bytes.iter_mut().zip(texts) {
            *bytes = u32::try_from(text.len()).map_err(|_| Broken::output("a text is too long for any memory"))?;
        }
        let addresses = self.parts.places.call(&mut self.store, bytes.into());
        let addresses = <[u32; TEXTS]>::from(addresses.map_err(|error| broken(&error, &self.store))?);
        let memory = self.parts.memory.data_mut(&mut self.store);
        for (address, text) in addresses.into_iter().zip(texts) {
            let start = address as usize;
            let Some(place) = memory.get_mut(start..start.saturating_add(text.len())) else {
                let broken = Broken::output("it allocates outside of its memory");
                return Err(denied(&self.store).unwrap_or(broken));
            };
            place.copy_from_slice(text.as_bytes());
        }
        let marks = self.parts.marks.data_mut(&mut self.store);
        for (address, text) in addresses.into_iter().zip(texts).filter(|(_, text)| !text.is_empty()) {
            let start = address as usize;
            marks[start >> CARD_SHIFT..=(start + text.len() - 1) >> CARD_SHIFT].fill(1);
        }
        Ok(std::array::from_fn(|text| (addresses[text], bytes[text])))
    }

    /// Undoes what the last event did. False when that cannot be done, or is not worth it: then this instance ends here.
    fn set_back(&mut self, start: &Snapshot) -> bool {
        if self.parts.memory.data_size(&self.store) != start.memory_bytes {
            return false;
        }
        self.collect_written(start.cards.len());
        if self.written.len() > SET_BACK_BYTES_MAX >> CARD_SHIFT {
            return false;
        }
        let memory = self.parts.memory.data_mut(&mut self.store);
        for card in &self.written {
            start.restore(memory, *card as usize);
            note_page(&mut self.pages, *card);
        }
        self.set_globals(start);
        #[cfg(test)]
        assert!(start.is_state_of(self), "an event left something behind");
        true
    }

    /// Brings a new instance to the state of the start.
    fn bring_to(&mut self, start: &Snapshot) -> wasmtime::Result<()> {
        let missing = start.memory_bytes.saturating_sub(self.parts.memory.data_size(&self.store));
        if missing > 0 {
            self.parts.memory.grow(&mut self.store, (missing >> 16) as u64)?;
        }
        let memory = self.parts.memory.data_mut(&mut self.store);
        for card in &start.described {
            start.restore(memory, *card as usize);
            note_page(&mut self.pages, *card);
        }
        self.set_globals(start);
        #[cfg(test)]
        assert!(start.is_state_of(self), "a new instance is not as `describe` left the first");
        Ok(())
    }

    /// Lists the cards that were written to, and wipes their marks.
    fn collect_written(&mut self, cards: usize) {
        self.written.clear();
        let marks = &mut self.parts.marks.data_mut(&mut self.store)[..cards.next_multiple_of(MARKS_AT_ONCE)];
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

    /// Whether there is room for this instance to be kept.
    fn may_stay(&mut self, sandbox: &Sandbox) -> bool {
        if self.permit.is_none() {
            let permit = Arc::clone(&sandbox.residents).try_acquire_owned().ok();
            self.permit = permit.map(|permit| (permit, sandbox.memory.nothing()));
        }
        let bytes = INSTANCE_BYTES + self.pages.1 * PAGE_BYTES;
        self.permit.as_mut().is_some_and(|(_, claim)| claim.grow_to(bytes))
    }
}

/// Bytes of a page of the system.
const PAGE_BYTES: usize = 4 << 10;
/// About what an instance takes beside the pages of its memory: the engine's own state of it, and its marks.
const INSTANCE_BYTES: usize = 16 << 10;

/// Notes that a page was written to.
fn note_page((pages, count): &mut (Vec<u64>, usize), card: u32) {
    let page = card as usize / (PAGE_BYTES / CARD_BYTES);
    let (word, bit) = (page / 64, 1 << (page % 64));
    if word >= pages.len() {
        pages.resize(word + 1, 0);
    }
    *count += usize::from(pages[word] & bit == 0);
    pages[word] |= bit;
}

/// Marks that are looked at together; few are set.
const MARKS_AT_ONCE: usize = 32;

/// A state of a module: its memory, without the cards that are all zeros, and its mutable globals.
struct Snapshot {
    memory_bytes: usize,
    /// For each card of the memory its place in `bytes`, counted in cards, or [`ZEROS`].
    cards: Box<[u32]>,
    bytes: Box<[[u8; CARD_BYTES]]>,
    globals: Box<[Number]>,
    /// The cards in which this differs from a new instance.
    described: Box<[u32]>,
}

/// The place of a card that is all zeros.
const ZEROS: u32 = u32::MAX;

impl Snapshot {
    fn take(resident: &mut Resident) -> Self {
        let memory_bytes = resident.parts.memory.data_size(&resident.store);
        let globals =
            resident.parts.globals.iter().map(|global| Number::of(&global.get(&mut resident.store))).collect();
        let mut bytes = Vec::new();
        // A memory is pages of 64 KiB, so that no card is cut.
        let (memory, _) = resident.parts.memory.data(&resident.store).as_chunks::<CARD_BYTES>();
        let cards: Box<[u32]> = memory
            .iter()
            .map(|card| {
                if *card == [0; CARD_BYTES] {
                    return ZEROS;
                }
                bytes.push(*card);
                u32::try_from(bytes.len() - 1).expect("a memory has fewer cards")
            })
            .collect();
        resident.collect_written(cards.len());
        let described = std::mem::take(&mut resident.written);
        Self { memory_bytes, cards, bytes: bytes.into(), globals, described: described.into() }
    }

    /// The bytes that this takes.
    fn memory_bytes_kept(&self) -> usize {
        size_of_val(&*self.cards) + size_of_val(&*self.bytes) + size_of_val(&*self.described)
    }

    /// Restores a card, and how far a store may have reached into the next.
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
            place => memory.copy_from_slice(&self.bytes[place as usize][..memory.len()]),
        }
    }

    /// Compares everything.
    #[cfg(test)]
    fn is_state_of(&self, resident: &mut Resident) -> bool {
        let globals = resident.parts.globals.iter().map(|global| Number::of(&global.get(&mut resident.store)));
        let globals = globals.eq(self.globals.iter().copied());
        let marks = resident.parts.marks.data(&resident.store)[..self.cards.len()].iter().all(|mark| *mark == 0);
        let memory = resident.parts.memory.data(&resident.store);
        let same = |(card, place): (&[u8; CARD_BYTES], &u32)| match *place {
            ZEROS => *card == [0; CARD_BYTES],
            place => *card == self.bytes[place as usize],
        };
        globals && marks && memory.len() == self.memory_bytes && memory.as_chunks().0.iter().zip(&self.cards).all(same)
    }
}

/// The value of a global: its bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
}

impl Number {
    fn of(value: &Val) -> Self {
        match *value {
            Val::I32(value) => Self::I32(value),
            Val::I64(value) => Self::I64(value),
            Val::F32(bits) => Self::F32(bits),
            Val::F64(bits) => Self::F64(bits),
            _ => unreachable!("the rewriting takes only modules whose mutable globals are numbers"),
        }
    }

    fn to_val(self) -> Val {
        match self {
            Self::I32(value) => Val::I32(value),
            Self::I64(value) => Val::I64(value),
            Self::F32(bits) => Val::F32(bits),
            Self::F64(bits) => Val::F64(bits),
        }
    }
}

/// Instances at rest. Nobody waits here: who finds none makes one, and who finds no room drops his.
struct Shelf(Box<[Mutex<Option<Box<Resident>>>]>);

/// Threads that have judged so far.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Where this thread looks first, so that threads do not meet.
    static PLACE: usize = THREADS.fetch_add(1, Relaxed);
}

impl Shelf {
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

    /// The places that nobody is at just now, this thread's own first.
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
