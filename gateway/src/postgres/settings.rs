//! The settings of the embedded Postgres. They keep it durable whatever the cluster's files say, and fit the machine's
//! memory.

use std::fs;
use std::path::{Path, PathBuf};

/// Settings of the command line, which override those in the cluster's files. Those for durability are explicit, since
/// the gateway promises that stored events are durable, and no file may weaken that.
pub(super) const SETTINGS: &[&str] = &[
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    // Only the private socket: TCP would need a port and a guard for it.
    "listen_addresses=",
    "unix_socket_permissions=0700",
    // The cluster has no subscribers, so the launcher would be a useless process.
    "max_logical_replication_workers=0",
    "wal_buffers=16MB",
    // Images of whole pages are most of the log, since the keys are random, and random data does not compress. In a
    // table of 8 million events, compression saved 5 % of the log and made an insert after a checkpoint take three
    // times as long.
    "wal_compression=off",
    "min_wal_size=256MB",
    "checkpoint_timeout=5min",
    // After a crash Postgres syncs everything before the replay. With syncfs this is one call instead of one for each
    // of a thousand files, which takes seconds on a busy disk. Linux reports failed writes there since 5.8; other
    // systems lack it.
    #[cfg(target_os = "linux")]
    "recovery_init_sync_method=syncfs",
    // A read across years locks each month's partition and its four indexes; 240 months must fit.
    "max_locks_per_transaction=512",
    // Statements of ingest are short, and compiling them would cost more than it saves.
    "jit=off",
    "autovacuum=on",
    // The gateway uses UTC everywhere.
    "timezone=UTC",
    "log_timezone=UTC",
    // The gateway writes the log itself, with a bounded size.
    "logging_collector=off",
    "log_destination=stderr",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] ",
    "lc_messages=C",
    // Statements and details quote events, which the log must not contain.
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_statement=none",
    "log_min_duration_statement=-1",
];

const MIB: u64 = 1 << 20;

/// The settings that depend on the memory.
///
/// The primary key starts with the session, so consecutive events go to different pages of its index. If the index is
/// larger than `shared_buffers`, each event reads a page and writes another one back.
///
/// The primary key begins with the session, so that each event goes to a page of its index that no other is at. Once the
/// index is larger than `shared_buffers`, every event reads a page and writes another back.
pub(super) fn sized(memory_bytes: Option<u64>) -> [String; 2] {
    // Without a figure it assumes 1 GiB.
    let memory_mib = memory_bytes.unwrap_or(1 << 30) / MIB;
    let buffers_mib = (memory_mib / 8).clamp(128, 1_024);
    // After each checkpoint the first change of a page writes the whole page to the log. So checkpoints are as rare as
    // the replay after a crash allows, which takes seconds for each GiB. The log takes this much disk space.
    let log_mib = (memory_mib / 8).clamp(1_024, 2_048);
    [format!("shared_buffers={buffers_mib}MB"), format!("max_wal_size={log_mib}MB")]
}

/// The memory that this process and its children may use: the machine's, or the least limit of its control groups.
pub(super) fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let own = fs::read_to_string("/proc/self/cgroup").ok().and_then(|text| group(&text)).unwrap_or_default();
    let first_version = PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    let files = own.ancestors().map(|group| Path::new("/sys/fs/cgroup").join(group).join("memory.max"));
    let limits = files.chain([first_version]).filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    machine.into_iter().chain(limits).min()
}

/// The control group in `/proc/self/cgroup`, relative to their root.
fn group(text: &str) -> Option<PathBuf> {
    Some(text.lines().find_map(|line| line.strip_prefix("0::/"))?.into())
}

/// The machine's memory in `/proc/meminfo`.
fn total(meminfo: &str) -> Option<u64> {
    let kib: u64 =
        meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim_end_matches("kB").trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_and_log_grow_with_the_machine_within_bounds() {
        let both = |buffers: u64, log: u64| [format!("shared_buffers={buffers}MB"), format!("max_wal_size={log}MB")];
        assert_eq!(sized(None), both(128, 1_024));
        assert_eq!(sized(Some(512 * MIB)), both(128, 1_024));
        assert_eq!(sized(Some(6 << 30)), both(768, 1_024));
        assert_eq!(sized(Some(1 << 40)), both(1_024, 2_048));
    }

    #[test]
    fn the_memory_of_a_machine_is_read_from_the_kernel() {
        assert_eq!(total("MemTotal:       24689764 kB\nMemFree:  1 kB\n"), Some(24_689_764 << 10));
        assert_eq!(total("MemFree:  1 kB\n"), None);
        assert_eq!(group("1:name=systemd:/a\n0::/system.slice/eye.service\n"), Some("system.slice/eye.service".into()));
        assert_eq!(group("0::/\n"), Some(PathBuf::new()));
        #[cfg(target_os = "linux")]
        assert!(memory_bytes().is_some_and(|bytes| bytes > 64 * MIB));
    }
}
