//! Figures of this process from the operating system: memory, processor time, descriptors. Only Linux has them here;
//! elsewhere these metrics have no samples.

use super::exposition::{Scrape, Value};
use super::names;

/// Adds the figures that can be read.
#[cfg(target_os = "linux")]
pub(super) fn add(scrape: &mut Scrape) {
    let own = |value: Option<Value>| value.map(|value| ([], value));
    scrape.add(&names::PROCESS_CPU, own(Some(Value::CounterSeconds(cpu_seconds()))));
    scrape.add(&names::PROCESS_MEMORY, own(resident_bytes().map(Value::Gauge)));
    scrape.add(&names::PROCESS_FDS, own(open_descriptors().map(Value::Gauge)));
    scrape.add(&names::PROCESS_FDS_MAX, own(descriptors_max().map(Value::Gauge)));
}

#[cfg(not(target_os = "linux"))]
pub(super) fn add(scrape: &mut Scrape) {
    for metric in [&names::PROCESS_CPU, &names::PROCESS_MEMORY, &names::PROCESS_FDS, &names::PROCESS_FDS_MAX] {
        scrape.add(metric, None::<([&str; 0], Value)>);
    }
}

#[cfg(target_os = "linux")]
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib * 1024) as f64)
}

#[cfg(target_os = "linux")]
fn open_descriptors() -> Option<f64> {
    // The read opens the folder itself.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

/// The soft limit; `None` if there is none.
#[cfg(target_os = "linux")]
fn descriptors_max() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
