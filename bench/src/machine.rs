//! The machine on which was measured, in one sentence.

use anyhow::{Context as _, Result};
use eye::clock::Clock;

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| path.to_owned())
}

/// Processor, cores, memory, kernel, Postgres, day.
pub(crate) fn words(postgres: &str) -> Result<String> {
    let processors = read("/proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo")?;
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).context("MemTotal")?;
    let kib: f64 = memory.trim().trim_end_matches("kB").trim().parse()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let now = chrono::DateTime::from_timestamp_micros(Clock::default().now_us()).context("a time")?;
    Ok(format!(
        "{}: {model}, {cores} cores shared by load generator, gateway and Postgres; {:.0} GiB of memory; Linux {}; \
         Postgres {postgres}.",
        now.format("%Y-%m-%d"),
        kib / 1024.0 / 1024.0,
        kernel.trim(),
    ))
}
