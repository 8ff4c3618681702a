//! The WebAssembly engine and its clock: one wasmtime engine, tuned for calls of a microsecond, and the owned thread that
//! advances its epoch so that no guest runs past its deadline. Nothing here knows the validators' contract.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use wasmtime::{
    Cache, Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, ResourceLimiter,
    Store, UpdateDeadline,
};

use super::compiled::Compiled;
use super::settings::Limits;

/// How often the epoch advances. A call is first looked at when it does, and its deadline is reckoned from there: it may
/// run for one tick more before, and for one after.
const TICK: Duration = Duration::from_millis(5);

/// Ticks after which a call is looked at for the first time. Nearly all are over by then, and have read no clock.
const FIRST_LOOK_TICKS: u64 = 1;

/// Deadlines that may pass on the wall before a call is stopped that has not had its time on a processor.
const WALL_FACTOR: u32 = 10;

/// The longest that a call may wait for a processor beyond its deadline: its sender waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Bytes of native stack that a guest may use; a request thread has 2 MiB.
const STACK_BYTES_MAX: usize = 512 << 10;

/// Entries of all tables of an instance: a guest has no use for more than its functions.
const TABLE_ENTRIES_MAX: usize = 20_000;

/// Instances that may be judging at one moment. More callers than this fault as busy, and no machine has so many threads.
const INSTANCES_MAX: u32 = 400;

/// Core instances, memories and tables within them: components made by JavaScript or Python tools hold several.
const CORE_INSTANCES_MAX: u32 = 1_600;

/// Instances that are kept for the next event, of all modules together. What does not fit is made anew for each event.
/// Each keeps the pages that its module has written, about 50 KiB.
pub(super) const RESIDENTS_MAX: u32 = 4_000;

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start: {0:#}")]
pub struct EngineError(#[source] wasmtime::Error);

/// The engine with its clock. Dropping it stops and joins the clock.
pub(super) struct Sandbox {
    pub(super) engine: Engine,
    /// Code that was compiled before.
    pub(super) compiled: Option<Compiled>,
    /// What an instance takes to be kept.
    pub(super) residents: Arc<Semaphore>,
    /// Dropped to stop the clock.
    stop: Option<SyncSender<()>>,
    clock: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts an engine that keeps compiled code under `cache_dir`, if given.
    pub(super) fn start(cache_dir: Option<&Path>) -> Result<Self, EngineError> {
        let compiled = cache_dir.and_then(Compiled::open);
        let cache = compiled.as_ref().map(Compiled::cache);
        let engine = Engine::new(&pooled(cache.clone()))
            .or_else(|error| {
                // Address space is limited in some containers; then every instance is mapped when it is needed.
                tracing::warn!("instances are not pooled, judging is slower: {error:#}");
                Engine::new(&common(cache))
            })
            .map_err(EngineError)?;
        let (stop, stopped) = sync_channel::<()>(0);
        let ticking = engine.clone();
        let clock = std::thread::Builder::new()
            .name("eye-epoch".into())
            .spawn(move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    ticking.increment_epoch();
                }
            })
            .map_err(|error| EngineError(error.into()))?;
        let residents = Arc::new(Semaphore::new(RESIDENTS_MAX as usize));
        Ok(Self { engine, compiled, residents, stop: Some(stop), clock: Some(clock) })
    }

    /// A store whose guest may use what `limits` say, from now on.
    pub(super) fn store(&self, limits: &Limits) -> Store<Meter> {
        let mut store = Store::new(&self.engine, Meter::new(limits));
        store.limiter(|meter| meter);
        // What is lifted out of the guest is bounded before it is copied.
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

/// Begins a call in a store that has served before.
pub(super) fn begin_call(store: &mut Store<Meter>, limits: &Limits) {
    *store.data_mut() = Meter::new(limits);
    store.set_epoch_deadline(FIRST_LOOK_TICKS);
}

/// Bytes that may be copied out of a guest for one answer. A violation costs 24 bytes beside its texts.
pub(super) fn output_bytes_max(limits: &Limits) -> usize {
    limits.output_bytes_max.saturating_add(limits.violations_max.saturating_mul(24)).saturating_add(64)
}

fn common(cache: Option<Cache>) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .concurrency_support(false)
        .cranelift_opt_level(OptLevel::Speed)
        // The same event gets the same verdict on every machine: bit patterns of NaN included.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16))
        .max_wasm_stack(STACK_BYTES_MAX)
        // Modules are compiled side by side, each on one thread: so a big one does not take every core from requests.
        .parallel_compilation(false)
        .cache(cache);
    config
}

fn pooled(cache: Option<Cache>) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES_MAX)
        .total_core_instances(CORE_INSTANCES_MAX + RESIDENTS_MAX)
        // A resident instance has a second memory for its marks.
        .total_memories(CORE_INSTANCES_MAX + 2 * RESIDENTS_MAX)
        .total_tables(CORE_INSTANCES_MAX + RESIDENTS_MAX)
        .max_memories_per_module(4)
        .max_tables_per_module(4)
        .table_elements(TABLE_ENTRIES_MAX)
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(64 << 10)
        .max_unused_warm_slots(64)
        .pagemap_scan(Enabled::Auto);
    let mut config = common(cache);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// What a store counts: how much its guest has, whether it was ever denied more, and how long its call runs.
pub(super) struct Meter {
    memory_bytes_left: usize,
    table_entries_left: usize,
    /// What was denied last, in words.
    pub(super) denied: Option<&'static str>,
    /// What a call may run.
    deadline: Duration,
    /// When it is over, reckoned when the clock ticks in the middle of it: most calls end before.
    over: Option<Over>,
}

/// When a call is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Over {
    /// On the processor's clock of this thread.
    processor: Duration,
    /// On the clock on the wall, however little the thread ran.
    wall: Instant,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes_left: limits.memory_bytes_max,
            table_entries_left: TABLE_ENTRIES_MAX,
            denied: None,
            deadline: Duration::from_millis(limits.deadline_ms),
            over: None,
        }
    }

    /// Lets the guest have memory that is not its own.
    pub(super) fn let_have_beside(&mut self, bytes: usize) {
        self.memory_bytes_left = self.memory_bytes_left.saturating_add(bytes);
    }

    /// Counts memory that the guest has from the start of a call. False when that is more than it may have.
    pub(super) fn has_memory(&mut self, bytes: usize) -> bool {
        self.memory_growing(0, bytes, None).expect("counting does not fail")
    }

    fn ticked(&mut self) -> UpdateDeadline {
        self.look(processor_time(), Instant::now())
    }

    /// Decides whether a call goes on. A deadline counts what the thread ran, so that a healthy module is not blamed for
    /// a busy machine; but a caller is not held for longer than [`WALL_FACTOR`] deadlines, or
    /// [`WAIT_MAX`] more than one.
    fn look(&mut self, processor: Duration, wall: Instant) -> UpdateDeadline {
        let deadline = self.deadline;
        let over = *self.over.get_or_insert_with(|| Over {
            processor: processor + deadline,
            wall: wall + (deadline * WALL_FACTOR).min(deadline + WAIT_MAX),
        });
        if processor >= over.processor || wall >= over.wall {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        }
    }
}

/// How long this thread has run. This asks the system, which is too dear for every event.
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
        let mut meter = Meter::new(&Limits { deadline_ms: 50, ..Limits::default() });
        let (ran, began) = (Duration::from_secs(7), Instant::now());
        assert!(!ends(&mut meter, ran, began));
        // Four times its deadline went by, and it had half of it.
        assert!(!ends(&mut meter, ran + 25 * MS, began + 200 * MS));
        assert!(!ends(&mut meter, ran + 49 * MS, began + 400 * MS));
        assert!(ends(&mut meter, ran + 50 * MS, began + 401 * MS));
    }

    #[test]
    fn a_call_ends_after_ten_deadlines_however_little_it_ran() {
        let mut meter = Meter::new(&Limits { deadline_ms: 50, ..Limits::default() });
        let (ran, began) = (Duration::ZERO, Instant::now());
        assert!(!ends(&mut meter, ran, began));
        assert!(!ends(&mut meter, ran + MS, began + 499 * MS));
        assert!(ends(&mut meter, ran + MS, began + 500 * MS));
    }
}
