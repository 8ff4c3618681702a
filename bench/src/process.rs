//! What processes use: processor time and memory, as Linux tells it under `/proc`.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// What `getconf CLK_TCK` says on Linux, everywhere.
const TICKS_PER_SECOND: f64 = 100.0;

/// The numbers of `/proc/<pid>/stat` from the third field on, which follow the name in brackets.
fn stat(pid: u32) -> Result<Vec<i64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("needs Linux's /proc")?;
    let (_, fields) = stat.rsplit_once(") ").context("a name in brackets")?;
    Ok(fields.split_whitespace().skip(1).map(|field| field.parse().unwrap_or_default()).collect())
}

fn ticks(fields: &[i64]) -> Duration {
    Duration::from_secs_f64(fields.iter().sum::<i64>() as f64 / TICKS_PER_SECOND)
}

/// Processor time of a process so far, to a hundredth of a second.
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    // Field 4 is the first here; user and system time are fields 14 and 15.
    Ok(ticks(stat(pid)?.get(10..12).context("times")?))
}

/// Processor time of a process with its children, those that have ended included.
pub(crate) fn family_time(pid: u32) -> Result<Duration> {
    let mut sum = ticks(stat(pid)?.get(10..14).context("times")?);
    for entry in std::fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the two looks.
        if let Ok(fields) = stat(child)
            && fields.first() == Some(&i64::from(pid))
        {
            sum += ticks(fields.get(10..14).context("times")?);
        }
    }
    Ok(sum)
}

/// Resident memory of a process now, in MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    memory_mib(pid, "VmRSS:")
}

/// The most resident memory that a process ever had, in MiB.
pub(crate) fn peak_mib(pid: u32) -> Result<f64> {
    memory_mib(pid, "VmHWM:")
}

fn memory_mib(pid: u32, word: &'static str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(word)).context(word)?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
