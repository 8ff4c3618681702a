//! The threads that load modules, so that no request waits for a compiler: a few of them, owned, joined on drop. A worker
//! reads a file, and takes it as far as it goes; what that means for the slot is decided by who asked.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::Serialize;

use super::component::{CheckAmended, Program, Step};
use super::engine::Sandbox;
use super::history::{History, Version};
use super::settings::Limits;
use super::slot::Slot;
use super::world::Refusal;
use crate::verdict::Digest;

/// Bytes of a module file. JavaScript and Python validators carry their interpreter, and stay far below.
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// Where the newest file of a slot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum State {
    /// The file was seen, and is not complete or not yet at rest.
    Settling,
    /// It is compared with the contract.
    Checking,
    /// It is compiled.
    Compiling,
    /// `describe` and the examples run.
    SelfTest,
    /// It serves.
    Active,
    /// It was not taken; `last_error` says why. The last good module, if there was one, still serves.
    Refused,
}

/// A state that a worker moves while others look on.
#[derive(Debug)]
pub(super) struct StateCell(AtomicU8);

impl StateCell {
    pub(super) fn new(state: State) -> Self {
        Self(AtomicU8::new(state as u8))
    }

    pub(super) fn set(&self, state: State) {
        self.0.store(state as u8, Relaxed);
    }

    pub(super) fn get(&self) -> State {
        match self.0.load(Relaxed) {
            0 => State::Settling,
            1 => State::Checking,
            2 => State::Compiling,
            3 => State::SelfTest,
            4 => State::Active,
            _ => State::Refused,
        }
    }
}

/// One file to look into.
pub(super) struct Job {
    pub(super) slot: Slot,
    pub(super) path: PathBuf,
    pub(super) limits: Limits,
    /// The content seen last, for good or bad: it is not loaded again.
    pub(super) known: Option<Digest>,
    /// What serves now.
    pub(super) serving: Option<Digest>,
    pub(super) state: Arc<StateCell>,
}

/// What a worker found.
pub(super) struct Done {
    pub(super) slot: Slot,
    pub(super) outcome: Outcome,
}

/// How far a file came.
pub(super) enum Outcome {
    /// The content is the one seen last.
    Same,
    /// The content is the one that serves, after another was seen.
    Serving(Digest),
    /// It can serve. The versions of its slot, itself the newest.
    Loaded(Digest, Program, Vec<Version>),
    /// It cannot; an incomplete file is told in the same way.
    Refused(Digest, Refusal),
    /// It could not be read.
    Unreadable(String),
}

/// What workers need beside their job.
pub(super) struct Tools {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) check_amended: CheckAmended,
    pub(super) history: History,
}

/// The loading threads.
pub(super) struct Workers {
    /// Dropped to stop them.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts as many threads as the machine has processors, four at most. Each calls `done` with what it found, and ends
    /// when that says that nobody listens.
    pub(super) fn start(
        tools: &Arc<Tools>,
        done: impl Fn(Done) -> bool + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let (jobs, queue) = sync_channel::<Job>(count);
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = Self { jobs: Some(jobs), threads: Vec::with_capacity(count) };
        for _ in 0..count {
            let (tools, queue, done) = (Arc::clone(tools), Arc::clone(&queue), done.clone());
            let thread = std::thread::Builder::new().name("eye-load".into()).spawn(move || {
                while let Some(job) = next(&queue) {
                    let outcome = look_into(&tools, &job);
                    if !done(Done { slot: job.slot, outcome }) {
                        break;
                    }
                }
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Hands a job over; false when every worker is busy.
    pub(super) fn try_load(&self, job: Job) -> bool {
        let jobs = self.jobs.as_ref().expect("the sender lives until drop");
        jobs.try_send(job).is_ok()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            thread.join().expect("a worker catches what its job panics with");
        }
    }
}

/// Waits for a job; `None` when there will be no more.
fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn look_into(tools: &Tools, job: &Job) -> Outcome {
    let bytes = match read(&job.path) {
        Ok(bytes) => bytes,
        Err(error) => return Outcome::Unreadable(error.to_string()),
    };
    let digest = Digest::of(&bytes);
    if job.known == Some(digest) {
        return Outcome::Same;
    }
    if job.serving == Some(digest) {
        return Outcome::Serving(digest);
    }
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        let found = format!("more than {MODULE_BYTES_MAX} bytes");
        return Outcome::Refused(digest, Refusal::new("a module of 64 MiB at most", found, "build it for size"));
    }
    match load(tools, job, &bytes) {
        Ok(program) => Outcome::Loaded(digest, program, record(tools, job, digest, &bytes)),
        Err(refusal) => Outcome::Refused(digest, refusal),
    }
}

/// A library that panics on a strange file costs that file, not the gateway.
pub(super) fn load(tools: &Tools, job: &Job, bytes: &[u8]) -> Result<Program, Refusal> {
    let begin = |step| {
        job.state.set(match step {
            Step::Checking => State::Checking,
            Step::Compiling => State::Compiling,
            Step::SelfTest => State::SelfTest,
        });
    };
    let attempt = || Program::load(&tools.sandbox, bytes, &job.limits, &tools.check_amended, begin);
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        Err(Refusal::new(
            "a module that can be loaded",
            "one on which the loader itself failed",
            "build it with other tools, and report this file to the makers of the gateway",
        ))
    })
}

/// A history that cannot be written costs the way back, not the module.
fn record(tools: &Tools, job: &Job, digest: Digest, bytes: &[u8]) -> Vec<Version> {
    tools.history.record(&job.slot, digest, bytes).unwrap_or_else(|error| {
        tracing::error!(event_type = %job.slot, %digest, "this version is not kept: {error}");
        Vec::new()
    })
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
