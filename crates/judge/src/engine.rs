//! The WebAssembly engine and its clock. There is one wasmtime engine, tuned for calls of a microsecond, and a thread
//! that advances its epoch, so that no module runs past its deadline. This file does not know the validators' contract.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter, Store,
    UpdateDeadline,
};

use super::memory::MemoryBudget;
use super::refusal::Refusal;
use super::settings::Limits;

/// The time between two ticks of the epoch. A call is first checked at a tick, and its deadline counts from there. So
/// it may run one tick longer before that, and one after.
const TICK: Duration = Duration::from_millis(5);

/// Ticks after which a call is first checked. Nearly all calls end before, and never read a clock.
const FIRST_LOOK_TICKS: u64 = 1;

/// How many times its deadline a call may take on the wall while it has not had its time on a processor.
const WALL_FACTOR: u32 = 10;

/// The longest that a call may wait for a processor beyond its deadline, since its sender waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes of native stack that a module may use. A request thread has 2 MiB.
const STACK_BYTES_MAX: usize = 512 << 10;

/// Entries of all tables of an instance. No module needs more than it has functions.
const TABLE_ENTRIES_MAX: usize = 20_000;

/// The parts that one component may have. Those that tools for JavaScript or Python make have tens of core instances.
/// Each call has such a place, so that no component takes the place of another.
const PLACE: Place = Place { core_instances: 64, memories: 16, tables: 16, instance_bytes: 1 << 20 };

struct Place {
    core_instances: u32,
    memories: u32,
    tables: u32,
    /// Bytes of the engine's own state of a component with all its instances: globals, functions, tables of functions.
    instance_bytes: usize,
}

/// Calls beside those of the request threads and of the places away from them: modules that are being loaded, and the
/// instances of calls that have just ended.
const CALLS_BESIDE: u32 = 16;

/// Bytes that a memory's image may span although most of it is empty.
pub(super) const SPARSE_IMAGE_BYTES_MAX: usize = 64 << 10;

/// Instances of all modules together that are kept for the next event. Events beyond that get new ones. Each keeps the
/// pages that its module has written, about 50 KiB.
pub(super) const RESIDENTS_MAX: u32 = 4_000;

/// The bounds of the engine for all modules together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Calls at one moment.
    pub(super) calls: u32,
    /// Bytes that stay in memory between calls.
    pub(super) memory_bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::of_threads(4 * threads, 1 << 30)
    }
}

impl Bounds {
    /// The bounds for calls on so many threads at once.
    pub(super) fn of_threads(threads: usize, memory_bytes_max: usize) -> Self {
        Self { calls: u32::try_from(threads).unwrap_or(u32::MAX).saturating_add(CALLS_BESIDE), memory_bytes_max }
    }
}

/// Calls and kept instances of a loader, which loads one file. Tests of this crate share one loader.
const LOADING_PLACES: u32 = if cfg!(test) { 64 } else { 4 };

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start: {0:#}")]
pub struct EngineError(#[source] wasmtime::Error);

/// The engine with its clock. Dropping it stops the clock and joins its thread.
pub(super) struct Sandbox {
    pub(super) engine: Engine,
    /// Places of kept instances. Each kept instance holds some.
    pub(super) residents: Arc<Semaphore>,
    /// The memory that all modules take between calls.
    pub(super) memory: Arc<MemoryBudget>,
    /// How long a call may wait for a processor beyond its deadline.
    wait_max: Duration,
    /// Dropping it stops the clock.
    stop: Option<SyncSender<()>>,
    clock: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts the gateway's engine with the usual bounds.
    #[cfg(test)]
    pub(super) fn start() -> Result<Self, EngineError> {
        Self::with_bounds(Bounds::default())
    }

    /// Starts the gateway's engine. It runs finished code and has no compiler, so that no mistake can compile a file in
    /// the gateway's own process.
    pub(super) fn with_bounds(bounds: Bounds) -> Result<Self, EngineError> {
        // Tests of this crate compile their modules themselves.
        let runs = |mut config: Config| {
            config.enable_compiler(cfg!(test));
            Engine::new(&config)
        };
        let engine = runs(pooled(bounds.calls, RESIDENTS_MAX))
            .or_else(|error| {
                // Some containers limit address space. Then the engine maps each instance when it is needed.
                tracing::warn!("instances are not pooled, judging is slower: {error:#}");
                runs(common())
            })
            .map_err(EngineError)?;
        Self::of(engine, bounds, WAIT_MAX)
    }

    /// Starts a loader's engine, whose code the gateway's engine takes. A place has the same size as in the gateway, so
    /// that the loader refuses every file that would not fit there. It has only a few places.
    pub(super) fn for_loading() -> Result<Self, EngineError> {
        let engine = Engine::new(&pooled(LOADING_PLACES, LOADING_PLACES)).or_else(|_| Engine::new(&common()));
        // No sender waits for a loader.
        Self::of(engine.map_err(EngineError)?, Bounds::default(), Duration::MAX)
    }

    fn of(engine: Engine, bounds: Bounds, wait_max: Duration) -> Result<Self, EngineError> {
        let (stop, stopped) = sync_channel::<()>(0);
        let memory = MemoryBudget::new(bounds.memory_bytes_max);
        let (ticking, counting) = (engine.clone(), Arc::clone(&memory));
        let clock = std::thread::Builder::new()
            .name("eye-epoch".into())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    ticking.increment_epoch();
                    counting.tick();
                }
            })
            .map_err(|error| EngineError(error.into()))?;
        let residents = Arc::new(Semaphore::new(RESIDENTS_MAX as usize));
        Ok(Self { engine, residents, memory, wait_max, stop: Some(stop), clock: Some(clock) })
    }

    /// Makes a store whose module may use what `limits` say, from now on.
    pub(super) fn store(&self, limits: &Limits) -> Store<Meter> {
        let mut store = Store::new(&self.engine, Meter::new(limits, self.wait_max));
        store.limiter(|meter| meter);
        // This bounds the bytes of an answer before they are copied out of the module.
        store.set_hostcall_fuel(output_bytes_max(limits));
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().ticked()));
        store.set_epoch_deadline(FIRST_LOOK_TICKS);
        store
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(clock) = self.clock.take() {
            clock.join().expect("the clock does not panic");
        }
    }
}

/// The bytes of compiled code and the images of its `memories`. An image that is mostly empty is small; any other is
/// smaller than twice the bytes that the file has of it.
pub(super) fn code_bytes(code: &Range<*const u8>, wasm_bytes: usize, memories: usize) -> usize {
    let code = (code.end as usize).saturating_sub(code.start as usize);
    code.saturating_add(2 * wasm_bytes).saturating_add(memories.saturating_mul(SPARSE_IMAGE_BYTES_MAX))
}

/// Begins a call in a store that has served before.
pub(super) fn begin_call(store: &mut Store<Meter>, limits: &Limits) {
    let wait_max = store.data().wait_max;
    *store.data_mut() = Meter::new(limits, wait_max);
    store.set_epoch_deadline(FIRST_LOOK_TICKS);
}

/// Bytes that may be copied out of a module for one answer. A violation takes 24 bytes beside its texts.
pub(super) fn output_bytes_max(limits: &Limits) -> usize {
    limits.output_bytes_max.saturating_add(limits.violations_max.saturating_mul(24)).saturating_add(64)
}

fn common() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        // The same event must get the same verdict on every machine, so even the bits of a NaN are fixed.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16))
        .max_wasm_stack(STACK_BYTES_MAX)
        // An image takes all bytes that it spans. So a few bytes far apart are written when an instance is made, and
        // are no image.
        .memory_guaranteed_dense_image_size(SPARSE_IMAGE_BYTES_MAX as u64);
    config
}

/// A pool with room for all calls and all kept instances.
fn pooled(calls: u32, residents: u32) -> Config {
    let all = |of_place: u32, of_resident: u32| {
        calls.saturating_mul(of_place).saturating_add(residents.saturating_mul(of_resident))
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(all(PLACE.core_instances, 1))
        // A kept instance has a second memory for its marks.
        .total_memories(all(PLACE.memories, 2))
        .total_tables(all(PLACE.tables, 1))
        .max_core_instances_per_component(PLACE.core_instances)
        .max_memories_per_component(PLACE.memories)
        .max_tables_per_component(PLACE.tables)
        .max_component_instance_size(PLACE.instance_bytes)
        .max_core_instance_size(PLACE.instance_bytes)
        .max_memories_per_module(4)
        .max_tables_per_module(4)
        .table_elements(TABLE_ENTRIES_MAX)
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(64)
        .pagemap_scan(Enabled::Auto);
    let mut config = common();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// The refusal of a component that has more parts than a place, if that is the error of the engine.
pub(super) fn beyond_place(error: &wasmtime::Error) -> Option<Refusal> {
    let found = format!("{error:#}");
    found.contains("pooling allocator").then(|| {
        let Place { core_instances, memories, tables, instance_bytes } = PLACE;
        Refusal::new(
            format!(
                "a component of {core_instances} core instances, {memories} memories and {tables} tables of \
                 {TABLE_ENTRIES_MAX} entries at most, with {instance_bytes} bytes of globals and functions in all"
            ),
            found,
            "build it as fewer core modules, or with fewer globals, functions and tables",
        )
    })
}

/// The counters of a store: what its module has, whether it was ever denied more, and how long its call runs.
pub(super) struct Meter {
    memory_bytes_left: usize,
    table_entries_left: usize,
    /// The last thing that was denied. Faults quote it.
    pub(super) denied: Option<&'static str>,
    /// How long a call may run.
    deadline: Duration,
    /// How long it may wait for a processor beyond that.
    wait_max: Duration,
    /// When the call is over. Set at the first tick within the call; most calls end before.
    over: Option<Over>,
}

/// The ends of a call. It is over at the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Over {
    /// On the clock of the processor's time of this thread.
    processor: Duration,
    /// On the wall's clock, however little the thread ran.
    wall: Instant,
}

impl Meter {
    fn new(limits: &Limits, wait_max: Duration) -> Self {
        Self {
            memory_bytes_left: limits.memory_bytes_max,
            table_entries_left: TABLE_ENTRIES_MAX,
            denied: None,
            deadline: Duration::from_millis(limits.deadline_ms),
            wait_max,
            over: None,
        }
    }

    /// Allows the store memory that is not the module's own.
    pub(super) fn let_have_beside(&mut self, bytes: usize) {
        self.memory_bytes_left = self.memory_bytes_left.saturating_add(bytes);
    }

    /// Counts memory that the module has when a call begins. Returns false when that is more than it may have.
    pub(super) fn has_memory(&mut self, bytes: usize) -> bool {
        self.memory_growing(0, bytes, None).expect("counting does not fail")
    }

    /// Whether the call is over. Its deadline counts from the first call of this function, or from the first tick.
    pub(super) fn is_over(&mut self) -> bool {
        matches!(self.ticked(), UpdateDeadline::Interrupt)
    }

    fn ticked(&mut self) -> UpdateDeadline {
        self.look(processor_time(), Instant::now())
    }

    /// Decides whether a call goes on. A deadline counts the time that the thread ran, so that a busy machine is not
    /// counted against a healthy module. But the call ends after [`WALL_FACTOR`] deadlines, or [`WAIT_MAX`] after one,
    /// since a caller waits for it.
    fn look(&mut self, processor: Duration, wall: Instant) -> UpdateDeadline {
        let deadline = self.deadline;
        let over = *self.over.get_or_insert_with(|| Over {
            processor: processor + deadline,
            wall: wall + (deadline * WALL_FACTOR).min(deadline.saturating_add(self.wait_max)),
        });
        if processor >= over.processor || wall >= over.wall {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        }
    }
}

/// How long this thread has run. It asks the system, which costs too much for every event.
pub(super) fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a thread runs forward")
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let left = self.memory_bytes_left.checked_sub(desired.saturating_sub(current));
        self.memory_bytes_left = left.unwrap_or(self.memory_bytes_left);
        if left.is_none() {
            self.denied = Some("memory");
        }
        Ok(left.is_some())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let left = self.table_entries_left.checked_sub(desired.saturating_sub(current));
        self.table_entries_left = left.unwrap_or(self.table_entries_left);
        if left.is_none() {
            self.denied = Some("table space");
        }
        Ok(left.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ends(meter: &mut Meter, processor: Duration, wall: Instant) -> bool {
        match meter.look(processor, wall) {
            UpdateDeadline::Interrupt => true,
            UpdateDeadline::Continue(ticks) => {
                assert_eq!(ticks, 1);
                false
            }
            _ => unreachable!("calls do not yield"),
        }
    }

    #[test]
    fn a_call_ends_when_it_ran_its_deadline_however_long_it_waited() {
        let mut meter = Meter::new(&Limits { deadline_ms: 50, ..Limits::default() }, WAIT_MAX);
        let (ran, began) = (Duration::from_secs(7), Instant::now());
        assert!(!ends(&mut meter, ran, began));
        // Four times its deadline went by, and it had half of it.
        assert!(!ends(&mut meter, ran + 25 * MS, began + 200 * MS));
        assert!(!ends(&mut meter, ran + 49 * MS, began + 400 * MS));
        assert!(ends(&mut meter, ran + 50 * MS, began + 401 * MS));
    }

    #[test]
    fn a_call_ends_after_ten_deadlines_however_little_it_ran() {
        let mut meter = Meter::new(&Limits { deadline_ms: 50, ..Limits::default() }, WAIT_MAX);
        let (ran, began) = (Duration::ZERO, Instant::now());
        assert!(!ends(&mut meter, ran, began));
        assert!(!ends(&mut meter, ran + MS, began + 499 * MS));
        assert!(ends(&mut meter, ran + MS, began + 500 * MS));
    }
}
