//! Loads modules: turns a file into a program that can judge. The gateway itself never parses the file. A loader does:
//! a child process that has nothing and whose every resource is bounded (`loading/child.rs`). The gateway opens only
//! the answer of this loader, or of an earlier one. It does not try a file again that was too much for its loader.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use eye_event::envelope::Rules;
use eye_event::verdict::Digest;
use serde::Serialize;

use super::compiled::Compiled;
#[cfg(test)]
use super::component::SelfTest;
use super::component::{Built, Program, Step};
#[cfg(test)]
use super::contract::CheckAmended;
use super::engine::Sandbox;
use super::refusal::Refusal;
use super::settings::Limits;
use super::slot::Slot;

mod child;
mod confine;
mod job;
mod marks;
mod process;

pub use child::run as run_loader;
pub use job::LoaderLimits;
use job::{Bound, Job};
use marks::{Mark, Marks};
use process::Ended;

/// The command of the program that runs a loader. It is not for people.
pub const LOADER_COMMAND: &str = "load-module";

/// How modules are loaded.
#[derive(Debug, Clone)]
pub struct Loading {
    /// The program that has [`LOADER_COMMAND`].
    pub program: PathBuf,
    /// Bounds of a loader.
    pub limits: LoaderLimits,
    /// The rules that a self-test checks amended data against.
    pub rules: Rules,
}

impl Loading {
    /// Uses this very program as the loader, even if somebody replaced its file since it was started.
    #[must_use]
    pub fn by_this_program(limits: LoaderLimits, rules: Rules) -> Self {
        let own = PathBuf::from("/proc/self/exe");
        let program = if own.exists() { own } else { std::env::current_exe().unwrap_or(own) };
        Self { program, limits, rules }
    }
}

/// The lane of a file: which other files its loader runs beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Files that take little time, or whose first try this is.
    Quick,
    /// Files that take long.
    Heavy,
}

/// A file to load, and the slot that it is to serve.
pub(super) struct Asked<'a> {
    pub(super) slot: &'a Slot,
    pub(super) limits: &'a Limits,
    pub(super) digest: Digest,
    pub(super) bytes: &'a [u8],
    /// Raised when the result is not needed any more: the slot has another file by now.
    pub(super) cancelled: &'a AtomicBool,
    /// The examples are not judged but come with the program.
    pub(super) lists_examples: bool,
}

/// Why loading returned no program.
pub(super) enum Unloaded {
    Refused(Refusal),
    /// It takes longer than a file of this lane may take.
    Slow,
    /// The gateway stops, or the slot has another file by now.
    Stopped,
}

/// Loads files in child processes.
pub(super) struct Loader {
    loading: Loading,
    /// The rules for the next loads; those of `loading` are of the start.
    rules: Mutex<Rules>,
    compiled: Option<Compiled>,
    marks: Marks,
    stopped: AtomicBool,
    /// Tests of this crate load in their own process: their program does not have the command.
    #[cfg(test)]
    here: (Sandbox, CheckAmended),
}

/// Everything that decides the result of loading a file. The same identity always gives the same result.
#[derive(Serialize)]
struct Identity<'a> {
    file: [u8; 32],
    limits: &'a Limits,
    rules: &'a Rules,
    event_type: (&'a str, &'a str),
    lists_examples: bool,
    version: &'a str,
    /// Bytes and time of the program's file, since another build may compile in another way.
    program: (u64, u128),
}

impl Loader {
    /// Makes a loader that keeps what it built under `data_dir`.
    pub(super) fn new(loading: Loading, data_dir: &Path, #[cfg(test)] here: (Sandbox, CheckAmended)) -> Self {
        let compiled = Compiled::open(&data_dir.join("compiled"));
        let marks = Marks::open(&data_dir.join("loading"), &loading.limits);
        Self {
            rules: Mutex::new(loading.rules),
            loading,
            compiled,
            marks,
            stopped: AtomicBool::new(false),
            #[cfg(test)]
            here,
        }
    }

    /// Ends all loaders. [`Loader::load`] starts no other afterwards.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    /// Changes the rules of self-tests, for loads that begin from now on.
    pub(super) fn set_rules(&self, rules: Rules) {
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Loads a file, and calls `begin` at each step.
    pub(super) fn load(
        &self,
        sandbox: &Sandbox,
        asked: &Asked<'_>,
        lane: Lane,
        begin: impl Fn(Step),
    ) -> Result<Program, Unloaded> {
        let rules = *self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key(asked, &rules);
        if let Some(built) = self.compiled.as_ref().and_then(|compiled| compiled.find(&key)) {
            match Program::open(sandbox, built) {
                Ok(program) => return Ok(program),
                // There is no room for it just now. That says nothing against the kept code, so it stays.
                Err(refusal) if refusal.passing => return Err(Unloaded::Refused(refusal)),
                // Another version of the engine made this code.
                Err(_) => self.forget(&key),
            }
        }
        let lane = match self.marks.look(&key) {
            Mark::None => lane,
            // A gateway may have ended because of this file. In the heavy lane it harms the least if that happens
            // again.
            Mark::Suspect if lane == Lane::Quick => return Err(Unloaded::Slow),
            Mark::Suspect => lane,
            Mark::Refused(refusal) => return Err(Unloaded::Refused(refusal)),
        };
        let built = self.build(asked, rules, &key, lane, begin)?;
        if let Some(compiled) = &self.compiled {
            compiled.keep(&key, &built);
        }
        Program::open(sandbox, built).map_err(|refusal| {
            if !refusal.passing {
                self.forget(&key);
            }
            Unloaded::Refused(refusal)
        })
    }

    fn forget(&self, key: &Digest) {
        if let Some(compiled) = &self.compiled {
            compiled.forget(key);
        }
    }

    fn key(&self, asked: &Asked<'_>, rules: &Rules) -> Digest {
        let identity = Identity {
            file: asked.digest.0,
            limits: asked.limits,
            rules,
            event_type: asked.slot.example(),
            lists_examples: asked.lists_examples,
            version: env!("CARGO_PKG_VERSION"),
            program: program_identity(&self.loading.program),
        };
        Digest::of(&postcard::to_allocvec(&identity).expect("it is plain data"))
    }

    fn build(
        &self,
        asked: &Asked<'_>,
        rules: Rules,
        key: &Digest,
        lane: Lane,
        begin: impl Fn(Step),
    ) -> Result<Built, Unloaded> {
        let (category, name) = asked.slot.example();
        let limits = &self.loading.limits;
        let bounds = limits.of(asked.bytes.len() as u64, asked.limits, lane == Lane::Quick);
        let job = Job {
            file_bytes: asked.bytes.len() as u64,
            limits: *asked.limits,
            rules,
            category: category.to_owned(),
            name: name.to_owned(),
            bounds,
            lists_examples: asked.lists_examples,
        };
        let stops = || self.stopped.load(Relaxed) || asked.cancelled.load(Relaxed);
        if stops() {
            return Err(Unloaded::Stopped);
        }
        #[cfg(test)]
        if self.loading.program.as_os_str().is_empty() {
            return self.build_here(&job, asked.bytes, begin).map_err(Unloaded::Refused);
        }
        self.marks.begin(key);
        let refusal = match process::load(&self.loading.program, &job, asked.bytes, stops, begin) {
            Ended::Built(built) => {
                self.marks.end(key);
                return Ok(built);
            }
            Ended::Refused(refusal) => refusal,
            Ended::Over(Bound::Processor | Bound::Wall, _) if lane == Lane::Quick => {
                self.marks.end(key);
                return Err(Unloaded::Slow);
            }
            Ended::Over(bound, used) => {
                let refusal = bound.refusal(&bounds, &used, limits);
                if !refusal.passing {
                    return Err(Unloaded::Refused(self.marks.record(key, refusal)));
                }
                refusal
            }
            Ended::Crashed(how, _) => return Err(Unloaded::Refused(self.marks.record(key, crash(&how)))),
            Ended::Killed => return Err(Unloaded::Refused(self.marks.killed(key, killed()))),
            Ended::Stopped => {
                self.marks.end(key);
                return Err(Unloaded::Stopped);
            }
            Ended::Unstarted(error) => unstarted(&error),
        };
        self.marks.end(key);
        Err(Unloaded::Refused(refusal))
    }

    /// How many modules were found compiled, and how many had to be built.
    #[cfg(test)]
    pub(super) fn found_and_kept(&self) -> (u64, u64) {
        self.compiled.as_ref().expect("what is built is kept").found_and_kept()
    }

    #[cfg(test)]
    fn build_here(&self, job: &Job, bytes: &[u8], begin: impl Fn(Step)) -> Result<Built, Refusal> {
        let Job { limits, category, name, bounds, lists_examples, .. } = job;
        let lists_examples = *lists_examples;
        let (sandbox, check_amended) = &self.here;
        let trial = SelfTest { limits, check_amended, category, name, time: bounds.self_test, lists_examples };
        Program::build(sandbox, bytes, &trial, begin)
    }
}

fn program_identity(program: &Path) -> (u64, u128) {
    let Ok(metadata) = std::fs::metadata(program) else { return (0, 0) };
    let changed = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    (metadata.len(), changed.map_or(0, |since| since.as_nanos()))
}

fn crash(how: &str) -> Refusal {
    Refusal::new(
        "a module that can be loaded",
        format!("one on which the loader itself failed ({how})"),
        "build it with other tools, and report this file to the makers of the gateway; it is not tried again as it is",
    )
}

fn killed() -> Refusal {
    let refusal = Refusal::new(
        "a module that can be loaded",
        "one whose loader was ended from outside, as a machine does that has no memory left",
        "give the machine more memory, or make the module smaller; it is tried once more",
    );
    Refusal { passing: true, ..refusal }
}

fn unstarted(error: &std::io::Error) -> Refusal {
    let refusal = Refusal::new(
        "a process that loads the module",
        format!("none could be started: {error}"),
        "see to it that the gateway may start processes, has memory for them, and that /proc is mounted",
    );
    Refusal { passing: true, ..refusal }
}
