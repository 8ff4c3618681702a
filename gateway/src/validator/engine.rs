//! The engine that compiles and runs components, and the clock by which it stops those that take too long: a thread of
//! its own that counts epochs up, and that ends with the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::{Error, Limits};

/// How long an epoch is. A call may run one longer than its deadline, since it starts in the middle of one.
const EPOCH: Duration = Duration::from_millis(2);
/// Calls that may run at once; far more than there are threads.
const INSTANCES_MAX: u32 = 256;
/// Bytes of a memory that are cleared by writing zeros when an instance ends; what lies beyond goes back to the kernel.
/// A small validator never touches more.
const KEPT_BYTES: usize = 256 * 1024;
/// Depth of a validator's stack.
const STACK_BYTES_MAX: usize = 512 * 1024;

/// The engine, with its clock.
#[derive(Debug)]
pub(super) struct Engine {
    engine: wasmtime::Engine,
    stop: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Engine {
    pub(super) fn start(limits: &Limits) -> Result<Arc<Self>, Error> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(INSTANCES_MAX)
            .total_core_instances(INSTANCES_MAX * 4)
            .total_memories(INSTANCES_MAX)
            .total_tables(INSTANCES_MAX * 4)
            .max_memories_per_component(1)
            .max_memory_size(limits.memory_bytes_max)
            .linear_memory_keep_resident(KEPT_BYTES)
            .table_keep_resident(4096)
            .pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .epoch_interruption(true)
            .wasm_component_model(true)
            .max_wasm_stack(STACK_BYTES_MAX);
        let engine = wasmtime::Engine::new(&config).map_err(|error| Error::Engine(error.to_string()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ticks, stopped) = (engine.clone(), Arc::clone(&stop));
        let ticker = std::thread::Builder::new().name("epochs".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(EPOCH);
                ticks.increment_epoch();
            }
        })?;
        Ok(Arc::new(Self { engine, stop, ticker: Some(ticker) }))
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// The epochs that a deadline takes, rounded up.
    pub(super) fn epochs(deadline_ms: u64) -> u64 {
        deadline_ms.div_ceil(EPOCH.as_millis() as u64) + 1
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            // It only counts; there is nothing to lose when it has panicked.
            let _ = ticker.join();
        }
    }
}
