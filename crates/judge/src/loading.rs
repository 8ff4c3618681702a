//! Loads modules: turns a file into a program that can judge. The gateway itself never parses the file. A loader does:
//! a child process that has nothing and whose every resource is bounded (`loading/child.rs`). The gateway opens only
//! the answer of this loader, or of an earlier one. It does not try a file again that was too much for its loader.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use eye_event::envelope::Rules;
use eye_event::verdict::Digest;
use serde::Serialize;

use super::compiled::Compiled;
use super::component::{Built, BuiltRunner, Program, Step, no_room};
#[cfg(test)]
use super::contract::CheckAmended;
use super::engine::Sandbox;
use super::kind::Kind;
use super::memory::Claim;
use super::refusal::Refusal;
use super::resident::SchemaEngine;
use super::schema;
use super::settings::Limits;
use super::slot::Slot;

mod child;
mod confine;
mod job;
mod marks;
mod process;

pub use child::run as run_loader;
pub use job::LoaderLimits;
use job::{Bound, Job, Task};
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
    pub(super) kind: Kind,
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
    /// The engine of schema files, once a schema needed it. The thread that makes it holds the lock.
    engine: Mutex<Option<Arc<Engine>>>,
    /// Tests of this crate load in their own process: their program does not have the command.
    #[cfg(test)]
    here: (Sandbox, CheckAmended),
}

/// The engine of schema files, and its part of the memory of all modules.
struct Engine {
    schemas: SchemaEngine,
    _room: Claim,
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
    /// Bytes and time of the program's file, since another build may compile in another way. It has the engine of schema
    /// files in it.
    program: (u64, u128),
    kind: Kind,
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
            engine: Mutex::new(None),
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
        let engine = match asked.kind {
            Kind::Module => None,
            Kind::Schema => Some(self.engine(sandbox, asked, lane)?),
        };
        let schemas = engine.as_ref().map(|engine| &engine.schemas);
        let rules = *self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key(asked, &rules);
        if let Some(built) = self.compiled.as_ref().and_then(|compiled| compiled.find(&key)) {
            match Program::open(sandbox, built, schemas) {
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
        let built = self.build(asked, (rules, schemas), &key, lane, begin)?;
        if let Some(compiled) = &self.compiled {
            compiled.keep(&key, &built);
        }
        Program::open(sandbox, built, schemas).map_err(|refusal| {
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
            kind: asked.kind,
        };
        Digest::of(&postcard::to_allocvec(&identity).expect("it is plain data"))
    }

    /// The engine of schema files. The first schema has it compiled, in the heavy lane: it takes longer than other files
    /// should wait.
    fn engine(&self, sandbox: &Sandbox, asked: &Asked<'_>, lane: Lane) -> Result<Arc<Engine>, Unloaded> {
        let bytes = schema::engine().map_err(Unloaded::Refused)?;
        let mut held = self.engine_lock(lane)?;
        if let Some(engine) = &*held {
            return Ok(Arc::clone(engine));
        }
        let identity = (Digest::of(bytes).0, env!("CARGO_PKG_VERSION"), program_identity(&self.loading.program));
        let key = Digest::of(&postcard::to_allocvec(&identity).expect("it is plain data"));
        let found = self.compiled.as_ref().and_then(|compiled| compiled.find(&key));
        let built = match found {
            Some(built) => built,
            None if lane == Lane::Quick => return Err(Unloaded::Slow),
            None => {
                let built = self.build_engine(bytes.len() as u64, asked)?;
                if let Some(compiled) = &self.compiled {
                    compiled.keep(&key, &built);
                }
                built
            }
        };
        let BuiltRunner::Engine(built) = built.way else {
            self.forget(&key);
            return Err(Unloaded::Slow);
        };
        let schemas = SchemaEngine::open(sandbox, &built).map_err(|error| {
            self.forget(&key);
            Unloaded::Refused(unengined(&format!("one that does not open: {error:#}")))
        })?;
        let room = sandbox.memory.reserve(schemas.memory_bytes());
        let room = room.map_err(|full| Unloaded::Refused(no_room(full)))?;
        let engine = Arc::new(Engine { schemas, _room: room });
        *held = Some(Arc::clone(&engine));
        Ok(engine)
    }

    fn engine_lock(&self, lane: Lane) -> Result<MutexGuard<'_, Option<Arc<Engine>>>, Unloaded> {
        match self.engine.try_lock() {
            Ok(held) => Ok(held),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if lane == Lane::Quick => Err(Unloaded::Slow),
            Err(TryLockError::WouldBlock) => Ok(self.engine.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn build_engine(&self, bytes: u64, asked: &Asked<'_>) -> Result<Built, Unloaded> {
        let (rules, limits) = (self.loading.rules, Limits::default());
        let bounds = self.loading.limits.of(bytes, &limits, false);
        let (category, name) = (String::new(), String::new());
        let lists_examples = false;
        let job = Job { task: Task::Engine, file_bytes: 0, limits, rules, category, name, bounds, lists_examples };
        #[cfg(test)]
        if self.loading.program.as_os_str().is_empty() {
            return self.build_here(&job, &[], &[], |_| {}).map_err(Unloaded::Refused);
        }
        let stops = || self.stopped.load(Relaxed) || asked.cancelled.load(Relaxed);
        let refusal = match process::load(&self.loading.program, &job, (&[], &[]), stops, |_| {}) {
            Ended::Built(built) => return Ok(built),
            Ended::Stopped => return Err(Unloaded::Stopped),
            Ended::Refused(refusal) => refusal,
            Ended::Over(bound, used) => bound.refusal(&bounds, &used, &self.loading.limits),
            Ended::Crashed(how, _) => unengined(&format!("one on which the loader failed ({how})")),
            Ended::Killed => killed(),
            Ended::Unstarted(error) => unstarted(&error),
        };
        // That says nothing against the schema.
        Err(Unloaded::Refused(Refusal { passing: true, ..refusal }))
    }

    fn build(
        &self,
        asked: &Asked<'_>,
        (rules, schemas): (Rules, Option<&SchemaEngine>),
        key: &Digest,
        lane: Lane,
        begin: impl Fn(Step),
    ) -> Result<Built, Unloaded> {
        let (category, name) = asked.slot.example();
        let limits = &self.loading.limits;
        let bounds = limits.of(asked.bytes.len() as u64, asked.limits, lane == Lane::Quick);
        let engine = schemas.map(|schemas| schemas.built().map_err(|error| error.to_string()));
        let engine = engine.map(|built| postcard::to_allocvec(&built?).map_err(|error| error.to_string()));
        let engine = engine.transpose().map_err(|why| Unloaded::Refused(unengined(&why)))?;
        let job = Job {
            task: engine.as_ref().map_or(Task::Module, |engine| Task::Schema(engine.len() as u64)),
            file_bytes: asked.bytes.len() as u64,
            limits: *asked.limits,
            rules,
            category: category.to_owned(),
            name: name.to_owned(),
            bounds,
            lists_examples: asked.lists_examples,
        };
        let engine = engine.unwrap_or_default();
        let stops = || self.stopped.load(Relaxed) || asked.cancelled.load(Relaxed);
        if stops() {
            return Err(Unloaded::Stopped);
        }
        #[cfg(test)]
        if self.loading.program.as_os_str().is_empty() {
            return self.build_here(&job, &engine, asked.bytes, begin).map_err(Unloaded::Refused);
        }
        self.marks.begin(key);
        let refusal = match process::load(&self.loading.program, &job, (&engine, asked.bytes), stops, begin) {
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
    fn build_here(&self, job: &Job, engine: &[u8], bytes: &[u8], begin: impl Fn(Step)) -> Result<Built, Refusal> {
        let (sandbox, check_amended) = &self.here;
        child::build(sandbox, job, engine, bytes, check_amended, begin).expect("the engine opens")
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

fn unengined(found: &str) -> Refusal {
    let mend = "report this to the makers of the gateway; it is tried again";
    Refusal { passing: true, ..Refusal::new("the engine of schema files", found, mend) }
}

fn unstarted(error: &std::io::Error) -> Refusal {
    let refusal = Refusal::new(
        "a process that loads the module",
        format!("none could be started: {error}"),
        "see to it that the gateway may start processes, has memory for them, and that /proc is mounted",
    );
    Refusal { passing: true, ..refusal }
}
