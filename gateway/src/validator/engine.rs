//! The WebAssembly engine and its clock: one wasmtime engine, tuned for calls of a microsecond, and the owned thread that
//! advances its epoch so that no guest runs past its deadline. Nothing here knows the validators' contract.

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    ResourceLimiter, Store,
};

use super::settings::Limits;

/// How often the epoch advances. A deadline is rounded up to the next tick and one more, because a call begins within one.
const TICK: Duration = Duration::from_millis(5);

/// Bytes of native stack that a guest may use; a request thread has 2 MiB.
const STACK_BYTES_MAX: usize = 512 << 10;

/// Entries of all tables of an instance: a guest has no use for more than its functions.
const TABLE_ENTRIES_MAX: usize = 20_000;

/// Instances that may exist at one moment. More callers than this fault as busy, and no machine has so many threads.
const INSTANCES_MAX: u32 = 400;

/// Core instances, memories and tables within them: components made by JavaScript or Python tools hold several.
const CORE_INSTANCES_MAX: u32 = 1_600;

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine does not start: {0:#}")]
pub struct EngineError(#[source] wasmtime::Error);

/// The engine with its clock. Dropping it stops and joins the clock.
pub(super) struct Sandbox {
    pub(super) engine: Engine,
    /// Dropped to stop the clock.
    stop: Option<SyncSender<()>>,
    clock: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts an engine that keeps compiled code under `cache_dir`, if given.
    pub(super) fn start(cache_dir: Option<&Path>) -> Result<Self, EngineError> {
        let cache = cache_dir.and_then(open_cache);
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
        Ok(Self { engine, stop: Some(stop), clock: Some(clock) })
    }

    /// A store whose guest may use what `limits` say, from now on.
    pub(super) fn store(&self, limits: &Limits) -> Store<Meter> {
        let mut store = Store::new(&self.engine, Meter::new(limits));
        store.limiter(|meter| meter);
        // What is lifted out of the guest is bounded before it is copied. A violation costs 24 bytes beside its texts.
        let output = limits.output_bytes_max.saturating_add(limits.violations_max.saturating_mul(24));
        store.set_hostcall_fuel(output.saturating_add(64));
        store.set_epoch_deadline(ticks(limits.deadline_ms));
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

/// The ticks after which a call of `deadline_ms` is over for certain.
pub(super) fn ticks(deadline_ms: u64) -> u64 {
    deadline_ms.div_ceil(u64::try_from(TICK.as_millis()).expect("a few milliseconds")) + 1
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
        .total_core_instances(CORE_INSTANCES_MAX)
        .total_memories(CORE_INSTANCES_MAX)
        .total_tables(CORE_INSTANCES_MAX)
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

/// Opens the cache of compiled code. wasmtime names its entries by module, engine version, settings and processor, and
/// checks them when it reads them, so that an entry of another engine or a damaged one is compiled anew.
fn open_cache(dir: &Path) -> Option<Cache> {
    let opened = private_dir(dir).map_err(wasmtime::Error::from).and_then(|()| {
        let mut config = CacheConfig::new();
        config.with_directory(dir);
        Cache::new(config)
    });
    opened.inspect_err(|error| tracing::warn!("compiled code is not kept, the next start is slower: {error:#}")).ok()
}

/// Makes a directory that nobody else on the machine can read or write.
pub(super) fn private_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// What a store counts: how much its guest has, and whether it was ever denied more.
pub(super) struct Meter {
    memory_bytes_left: usize,
    table_entries_left: usize,
    /// What was denied last, in words.
    pub(super) denied: Option<&'static str>,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        Self { memory_bytes_left: limits.memory_bytes_max, table_entries_left: TABLE_ENTRIES_MAX, denied: None }
    }
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
