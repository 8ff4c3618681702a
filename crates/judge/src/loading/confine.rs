//! Everything that a loader gives up before it reads a file that anybody may have made: its privileges, the file
//! system, the network, all descriptors but its three pipes, and resources beyond its bounds. The loader makes these
//! calls itself, and they are safe, so that the gateway runs no code between fork and exec.

use super::job::Bounds;

/// Ties the loader's life to its gateway, closes the descriptors that it inherited, and makes it the first process that
/// a machine without memory kills. The loader calls this before it reads anything.
///
/// # Errors
///
/// When the gateway that started it is gone, or the kernel refuses.
#[cfg(target_os = "linux")]
pub(super) fn begin(parent: i32) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| format!("no signal of the end: {error}"))?;
    // The gateway may have ended before the call above, and then no signal comes.
    if getppid().map(rustix::process::Pid::as_raw_pid) != Some(parent) {
        return Err("the gateway is gone".into());
    }
    close_inherited();
    // Only a kernel without this file refuses. Then the kernel itself chooses which process to kill.
    let _chosen = std::fs::write("/proc/self/oom_score_adj", "1000");
    // Otherwise a loader that works would keep a file system from being unmounted.
    let _there = std::env::set_current_dir("/");
    Ok(())
}

/// Closes descriptors that the process which started the gateway left open in it. The gateway itself leaves none open.
#[cfg(target_os = "linux")]
fn close_inherited() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let names = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let inherited: Vec<i32> = names.filter(|number| *number > 2).collect();
    for number in inherited {
        // The descriptor of this folder is in the list too, and is closed already.
        let _closed = nix::unistd::close(number);
    }
}

/// Sets the bounds, and gives up the file system, the network and every call that computing does not need. The loader
/// calls this before it starts another thread, so that all threads are bound.
#[cfg(target_os = "linux")]
pub(super) fn bind(bounds: &Bounds) -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, nice, setrlimit};

    let limit = |resource, most: u64| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
            .map_err(|error| format!("the bound of {resource:?} is refused: {error}"))
    };
    // The gateway counts more finely and ends a loader first. These bounds hold when the gateway cannot.
    let seconds = bounds.processor.as_secs().saturating_add(2);
    let _told = setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds + 1) });
    limit(Resource::Data, bounds.memory_bytes.saturating_mul(2).saturating_add(bounds.stack_bytes))?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, 256)?;
    if bounds.yields {
        let _rank = nice(5);
    }
    leave_files();
    leave_calls()
}

/// Landlock: where the kernel has it, the loader can open no path and connect to no address.
#[cfg(target_os = "linux")]
fn leave_files() {
    use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _};

    let left = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    // The filter of calls forbids the same, so an older kernel without Landlock keeps the promise too.
    drop(left);
}

/// The calls that computing needs: memory, threads, clocks, signals, the pipes, and the descriptors of memory images.
#[cfg(target_os = "linux")]
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Seccomp: every other call fails in this process as if the kernel did not have it.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn leave_calls() -> Result<(), String> {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    };

    let filter = || -> Result<BpfProgram, seccompiler::BackendError> {
        let only = |place, length, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(place, length, operator, value)?])
        };
        let thread = u64::from(libc::CLONE_THREAD.cast_unsigned());
        let own = u64::from(std::process::id());
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
        rules.insert(libc::SYS_clone, vec![only(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)?]);
        // A process ends itself by this call.
        rules.insert(libc::SYS_tgkill, vec![only(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, own)?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_poll, Vec::new());
        rules.insert(libc::SYS_ppoll, Vec::new());
        let missing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        let arch = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(rules, missing, SeccompAction::Allow, arch)?.try_into()
    };
    let filter = filter().map_err(|error| format!("the filter of system calls: {error}"))?;
    match seccompiler::apply_filter(&filter) {
        Ok(()) => Ok(()),
        // This kernel was built without seccomp.
        Err(seccompiler::Error::Seccomp(error)) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        Err(error) => Err(format!("the filter of system calls: {error}")),
    }
}

#[cfg(all(target_os = "linux", not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn leave_calls() -> Result<(), String> {
    Ok(())
}

/// On other systems a loader is a process of its own and has no further bounds.
#[cfg(not(target_os = "linux"))]
pub(super) fn begin(_: i32) -> Result<(), String> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn bind(_: &Bounds) -> Result<(), String> {
    Ok(())
}
