//! The threads that load modules, so that no request waits for a compiler: a few of them, owned, joined on drop. A worker
//! reads a file, and takes it as far as it goes; what that means for the slot is decided by who asked.

use std::fs;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::component::{CheckAmended, Program, Step, Trial};
use super::directory::{self, Signature};
use super::engine::Sandbox;
use super::history::{History, Version};
use super::settings::Limits;
use super::slot::Slot;
use super::world::Refusal;
use crate::verdict::Digest;

/// Bytes of a module file. JavaScript and Python validators carry their interpreter, and stay far below.
pub(super) const MODULE_BYTES_MAX: u64 = 64 << 20;

/// What the self-test of a module may take in all.
const SELF_TEST: Duration = Duration::from_secs(5);

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

impl State {
    /// All, in the order in which a file goes through them.
    pub const ALL: [Self; 6] =
        [Self::Settling, Self::Checking, Self::Compiling, Self::SelfTest, Self::Active, Self::Refused];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settling => "settling",
            Self::Checking => "checking",
            Self::Compiling => "compiling",
            Self::SelfTest => "self-test",
            Self::Active => "active",
            Self::Refused => "refused",
        }
    }
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
    /// Which life of the slot asks: its file may go and come again meanwhile.
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    /// The file is not to be looked into, or there is none: only a kept version can serve.
    pub(super) is_barred: bool,
    pub(super) limits: Limits,
    /// The content seen last, for good or bad: it is not loaded again.
    pub(super) known: Option<Digest>,
    /// What serves now.
    pub(super) serving: Option<Digest>,
    /// Whether a kept version is to serve if the file cannot.
    pub(super) falls_back: bool,
    /// But not yet if the file only ran out of time or room: it is tried again soon, and its events wait.
    pub(super) is_patient: bool,
    pub(super) state: Arc<StateCell>,
}

/// What a worker found.
pub(super) struct Done {
    pub(super) slot: Slot,
    pub(super) generation: u64,
    pub(super) outcome: Outcome,
    /// The version that is to serve in place of the file.
    pub(super) kept: Option<(Digest, Program)>,
    /// The versions of the slot, the newest first, where they were looked up.
    pub(super) versions: Option<Vec<Version>>,
}

/// How far a file came.
pub(super) enum Outcome {
    /// The content is the one seen last.
    Same,
    /// The content is the one that serves, after another was seen.
    Serving(Digest),
    /// It can serve.
    Loaded(Digest, Program),
    /// It cannot, as this step showed; an incomplete file is told in the same way.
    Refused(Digest, State, Refusal),
    /// It was written to while it was loaded, so what was loaded may be half of each.
    Rewritten,
    /// It could not be read.
    Unreadable(String),
    /// It was not looked into.
    Barred,
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
                    if !done(work(&tools, job)) {
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

fn work(tools: &Tools, job: Job) -> Done {
    let mut versions = None;
    let outcome = look_into(tools, &job, &mut versions);
    let refused = match &outcome {
        Outcome::Same | Outcome::Serving(_) | Outcome::Loaded(..) => None,
        Outcome::Refused(digest, ..) => Some(Some(*digest)),
        Outcome::Rewritten | Outcome::Unreadable(_) | Outcome::Barred => Some(None),
    };
    let waits = job.is_patient && matches!(&outcome, Outcome::Refused(_, _, refusal) if refusal.passing);
    let kept = refused.filter(|_| job.falls_back && !waits).and_then(|refused| fall_back(tools, &job, refused));
    if refused.is_some() {
        versions = tools.history.versions(&job.slot).ok();
    }
    Done { slot: job.slot, generation: job.generation, outcome, kept, versions }
}

fn look_into(tools: &Tools, job: &Job, versions: &mut Option<Vec<Version>>) -> Outcome {
    if job.is_barred {
        return Outcome::Barred;
    }
    let (bytes, before) = match read(&job.path) {
        Ok(read) => read,
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
        let refusal = Refusal::new("a module of 64 MiB at most", found, "build it for size");
        return Outcome::Refused(digest, State::Settling, refusal);
    }
    let program = match load(tools, job, &bytes) {
        Ok(program) => program,
        Err(refusal) => return Outcome::Refused(digest, job.state.get(), refusal),
    };
    if fs::metadata(&job.path).is_ok_and(|after| before.was_rewritten(&Signature::of(&after))) {
        return Outcome::Rewritten;
    }
    *versions = Some(record(tools, job, digest, &bytes));
    Outcome::Loaded(digest, program)
}

/// The newest kept version that can serve. Without one, the events of this slot would be judged by nobody until its file
/// is mended.
fn fall_back(tools: &Tools, job: &Job, refused: Option<Digest>) -> Option<(Digest, Program)> {
    let kept = tools.history.intact(&job.slot);
    let kept = kept
        .inspect_err(|error| tracing::error!(event_type = %job.slot, "the kept versions cannot be read: {error}"))
        .ok()?;
    kept.filter(|(version, _)| Some(version.digest) != refused)
        .find_map(|(version, bytes)| Some((version.digest, load(tools, job, &bytes).ok()?)))
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
    let (category, name) = job.slot.example();
    let trial = Trial { limits: &job.limits, check_amended: &tools.check_amended, category, name, time: SELF_TEST };
    let attempt = || {
        let built = Program::build(&tools.sandbox, bytes, &trial, begin)?;
        Program::open(&tools.sandbox, built)
    };
    let loaded = catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|_| {
        Err(Refusal::new(
            "a module that can be loaded",
            "one on which the loader itself failed",
            "build it with other tools, and report this file to the makers of the gateway",
        ))
    });
    if let Some(compiled) = &tools.sandbox.compiled {
        compiled.seal();
    }
    loaded
}

/// A history that cannot be written costs the way back, not the module.
fn record(tools: &Tools, job: &Job, digest: Digest, bytes: &[u8]) -> Vec<Version> {
    tools.history.record(&job.slot, digest, bytes).unwrap_or_else(|error| {
        tracing::error!(event_type = %job.slot, %digest, "this version is not kept: {error}");
        Vec::new()
    })
}

/// A file's content, and its signature before it was read.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, Signature)> {
    let file = directory::open(path)?;
    let before = Signature::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes, before))
}
