//! The threads that load modules, so that no request waits for a compiler. There are a few; they are joined on drop. A
//! worker reads a file and loads it as far as it can. The lifecycle of the slot, which sent the job, decides about the
//! result. There are two lanes. Every file begins in the quick one; a file that does not end there in little time goes
//! on in the heavy one. So a small file never waits for large ones.

use std::fs;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use eye_event::verdict::Digest;
use serde::Serialize;

use super::component::{Program, Step};
use super::directory::{self, Signature};
use super::engine::Sandbox;
use super::files::MODULE_BYTES_MAX;
use super::history::{History, Version};
use super::kind::{Kind, settings_of};
use super::loading::{Asked, Lane, Loader, Unloaded};
use super::refusal::Refusal;
use super::settings::Limits;
use super::slot::Slot;

/// Threads of the quick lane at most. The heavy lane has half as many, since its files take processors for long.
pub(super) const QUICK_MAX: usize = 4;

/// Files that may wait for the heavy lane. No gateway has so many.
const HEAVY_WAITING_MAX: usize = 100_000;

/// The step that the newest file of a slot has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum State {
    /// The file was seen. It is incomplete, or still being written.
    Settling,
    /// The loader compares it with the contract.
    Checking,
    /// The loader compiles it.
    Compiling,
    /// `describe` and the examples run.
    SelfTest,
    /// It serves.
    Active,
    /// The gateway refused it; `last_error` says why. The last good module, if there is one, still serves.
    Refused,
}

impl State {
    /// All states, in the order in which a file goes through them.
    pub const ALL: [Self; 6] =
        [Self::Settling, Self::Checking, Self::Compiling, Self::SelfTest, Self::Active, Self::Refused];

    /// The word in reports.
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

/// A state that a worker changes while reports read it.
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

/// One file to load.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) slot: Slot,
    /// Which life of the slot sent the job: the file may go and come again meanwhile. The lifecycle drops results of an
    /// earlier life.
    pub(super) generation: u64,
    pub(super) path: PathBuf,
    /// The file must not be read, or there is none. Only a kept version can serve.
    pub(super) is_barred: bool,
    pub(super) limits: Limits,
    /// The settings file as it was when these limits were read.
    pub(super) settings: Option<Signature>,
    /// The content seen last, whether it was taken or not. It is not loaded again.
    pub(super) known: Option<Digest>,
    /// The version that serves now.
    pub(super) serving: Option<Digest>,
    /// Whether a kept version is to serve if the file cannot.
    pub(super) falls_back: bool,
    /// If the file only ran out of time or room, no kept version serves yet: the file is tried again soon, and its
    /// events wait.
    pub(super) is_patient: bool,
    /// The version that serves could not be kept in the history, and is to be kept now.
    pub(super) unkept: bool,
    /// The version that serves takes secrets out of dead letters. The file that replaces it must do so too,
    pub(super) must_redact: bool,
    /// unless it is this version.
    pub(super) force: Option<Digest>,
    /// The version that is meant to refuse more.
    pub(super) expects_refusals: Option<Digest>,
    /// The limits in force. New ones may have been refused, and an earlier version does not serve with those.
    pub(super) limits_in_force: Limits,
    pub(super) state: Arc<StateCell>,
    /// Raised when the slot has another file by now, so that the result is useless.
    pub(super) cancelled: Arc<AtomicBool>,
}

/// The result of a job.
pub(super) struct Done {
    pub(super) slot: Slot,
    pub(super) generation: u64,
    pub(super) outcome: Outcome,
    /// The version that is to serve in place of the file.
    pub(super) kept: Option<(Digest, Program)>,
    /// The newest version of the history before this job.
    pub(super) newest: Option<Digest>,
    /// The versions of the slot, the newest first; `None` if the worker did not look them up.
    pub(super) versions: Option<Vec<Version>>,
    /// Why the version that serves could not be kept in the history.
    pub(super) unkept: Option<Refusal>,
}

/// How far loading a file went.
pub(super) enum Outcome {
    /// The content is the one seen last.
    Same,
    /// The content is the one that serves, though another was seen in between.
    Serving(Digest),
    /// The module can serve.
    Loaded(Digest, Program),
    /// The module cannot serve, and this step found why. An incomplete file gives this too.
    Refused(Digest, State, Refusal),
    /// It takes longer than other files should wait, and goes on in the heavy lane. A second result of this job will
    /// come.
    Heavy,
    /// Somebody wrote to the file while it was loaded, so the loaded content may be half old and half new.
    Rewritten,
    /// The file could not be read.
    Unreadable(String),
    /// The job forbids reading the file.
    Barred,
}

/// Everything that workers need beside their job.
pub(super) struct Tools {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) loader: Arc<Loader>,
    pub(super) history: History,
}

/// The loading threads.
pub(super) struct Workers {
    /// Dropping it stops the threads.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts as many threads for the quick lane as the machine has processors, `threads_max` at most. Each thread calls `done`
    /// with its results, and ends when `done` returns false because its reader is gone.
    pub(super) fn start(
        tools: &Arc<Tools>,
        threads_max: usize,
        done: impl Fn(Done) -> bool + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(threads_max);
        let (jobs, queue) = sync_channel::<Job>(count);
        let (heavy_jobs, heavy_queue) = sync_channel::<Job>(HEAVY_WAITING_MAX);
        let (queue, heavy_queue) = (Arc::new(Mutex::new(queue)), Arc::new(Mutex::new(heavy_queue)));
        let mut workers = Self { jobs: Some(jobs), threads: Vec::with_capacity(count + count.div_ceil(2)) };
        for _ in 0..count {
            let (tools, queue, done, heavy) = (Arc::clone(tools), Arc::clone(&queue), done.clone(), heavy_jobs.clone());
            workers.spawn("eye-load", move || {
                while let Some(job) = next(&queue) {
                    let found = work(&tools, &job, Lane::Quick);
                    let goes_on = matches!(found.outcome, Outcome::Heavy).then(|| job.going_on(&found));
                    if !done(found) {
                        break;
                    }
                    // The lane has room for more files than there are, so it is never full.
                    if let Some(job) = goes_on {
                        drop(heavy.try_send(job));
                    }
                }
            })?;
        }
        for _ in 0..count.div_ceil(2) {
            let (tools, queue, done) = (Arc::clone(tools), Arc::clone(&heavy_queue), done.clone());
            workers.spawn("eye-load-heavy", move || {
                while let Some(job) = next(&queue) {
                    if !done(work(&tools, &job, Lane::Heavy)) {
                        break;
                    }
                }
            })?;
        }
        Ok(workers)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }

    /// Gives a job to a worker. Returns false when all are busy.
    pub(super) fn try_load(&self, job: Job) -> bool {
        let jobs = self.jobs.as_ref().expect("the sender lives until drop");
        jobs.try_send(job).is_ok()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that loads modules panicked");
            }
        }
    }
}

/// Waits for a job. Returns `None` when no more will come.
fn next(queue: &Mutex<Receiver<Job>>) -> Option<Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

impl Job {
    /// The same job for the heavy lane, after the quick lane found `found`.
    fn going_on(&self, found: &Done) -> Self {
        let kept = found.kept.as_ref().map(|(digest, _)| *digest);
        Self { serving: self.serving.or(kept), falls_back: self.falls_back && kept.is_none(), ..self.clone() }
    }
}

fn work(tools: &Tools, job: &Job, lane: Lane) -> Done {
    // The lifecycle knows a module that serves.
    let newest = job.serving.is_none().then(|| tools.history.versions(&job.slot).ok()).flatten();
    let newest = newest.and_then(|versions| versions.first().map(|newest| newest.digest));
    let mut recorded = None;
    let outcome = look_into(tools, job, lane, &mut recorded);
    let refused = match &outcome {
        Outcome::Same | Outcome::Serving(_) | Outcome::Loaded(..) => None,
        Outcome::Refused(digest, ..) => Some(Some(*digest)),
        Outcome::Heavy | Outcome::Rewritten | Outcome::Unreadable(_) | Outcome::Barred => Some(None),
    };
    let waits = job.is_patient && matches!(&outcome, Outcome::Refused(_, _, refusal) if refusal.passing);
    let kept = refused.filter(|_| job.falls_back && !waits).and_then(|refused| fall_back(tools, job, lane, refused));
    let unkept = recorded.as_ref().and_then(|recorded| recorded.as_ref().err()).map(unkept);
    let versions = match recorded {
        Some(Ok(versions)) => Some(versions),
        None if refused.is_none() => None,
        _ => tools.history.versions(&job.slot).ok(),
    };
    Done { slot: job.slot.clone(), generation: job.generation, outcome, kept, newest, versions, unkept }
}

/// The result of keeping a version; `None` if it was not to be kept.
type Recorded = Option<std::io::Result<Vec<Version>>>;

/// The message for a version that serves and could not be kept. That costs the way back to it, but not the module.
fn unkept(error: &std::io::Error) -> Refusal {
    Refusal::new(
        "a data directory in which the versions of modules can be kept",
        format!("the version that serves is not kept, so there would be no way back to it: {error}"),
        "make room under the data directory, and see to it that the gateway may write there; it is tried again",
    )
}

fn look_into(tools: &Tools, job: &Job, lane: Lane, recorded: &mut Recorded) -> Outcome {
    if job.is_barred {
        return Outcome::Barred;
    }
    let (bytes, before) = match read(&job.path) {
        Ok(read) => read,
        Err(error) => return Outcome::Unreadable(error.to_string()),
    };
    let digest = Digest::of(&bytes);
    if job.unkept && job.serving == Some(digest) {
        *recorded = Some(record(tools, job, digest, &bytes, job.must_redact));
    }
    if job.known == Some(digest) {
        return Outcome::Same;
    }
    if job.force != Some(digest)
        && let Some(reason) = tools.history.taken_back(&job.slot, digest)
    {
        return Outcome::Refused(digest, State::Checking, taken_back(digest, &reason));
    }
    if job.serving == Some(digest) {
        return Outcome::Serving(digest);
    }
    if bytes.len() as u64 > MODULE_BYTES_MAX {
        let found = format!("more than {MODULE_BYTES_MAX} bytes");
        let refusal = Refusal::new("a module of 64 MiB at most", found, "build it for size");
        return Outcome::Refused(digest, State::Settling, refusal);
    }
    if Signature::at(&settings_of(&job.path)) != job.settings {
        // Both files are being changed. The next scan reads the settings that belong to this content.
        return Outcome::Rewritten;
    }
    let kind = Kind::of_file(&job.path).unwrap_or(Kind::Module);
    let program = match load(tools, job, lane, (kind, digest), &bytes) {
        Ok(program) => program,
        Err(Unloaded::Refused(refusal)) => return Outcome::Refused(digest, job.state.get(), refusal),
        Err(Unloaded::Slow) => return Outcome::Heavy,
        Err(Unloaded::Stopped) => return Outcome::Rewritten,
    };
    if fs::metadata(&job.path).is_ok_and(|after| before.was_rewritten(&Signature::of(&after))) {
        return Outcome::Rewritten;
    }
    if !program.offers().redact && job.force != Some(digest) && must_redact(tools, job, digest) {
        return Outcome::Refused(digest, State::SelfTest, unredacting(digest));
    }
    *recorded = Some(record(tools, job, digest, &bytes, program.offers().redact).and_then(|versions| {
        note_engine(&tools.history, &job.slot, digest, &program)?;
        if job.expects_refusals == Some(digest) {
            tools.history.note_expected(&job.slot, digest)?;
        }
        Ok(versions)
    }));
    Outcome::Loaded(digest, program)
}

/// Returns the newest kept version that can serve. Without one, no module would judge the events of this slot until its
/// file is mended.
fn fall_back(tools: &Tools, job: &Job, lane: Lane, refused: Option<Digest>) -> Option<(Digest, Program)> {
    let job = &Job { limits: job.limits_in_force, ..job.clone() };
    let kept = tools.history.intact(&job.slot);
    let kept = kept
        .inspect_err(|error| tracing::error!(event_type = %job.slot, "the kept versions cannot be read: {error}"))
        .ok()?;
    let may_serve = |digest| {
        Some(digest) != refused && (job.force == Some(digest) || tools.history.taken_back(&job.slot, digest).is_none())
    };
    kept.filter(|(version, _)| may_serve(version.digest)).find_map(|(version, bytes)| {
        let program = load(tools, job, lane, (Kind::of_content(&bytes), version.digest), &bytes).ok()?;
        Some((version.digest, program))
    })
}

fn load(
    tools: &Tools,
    job: &Job,
    lane: Lane,
    (kind, digest): (Kind, Digest),
    bytes: &[u8],
) -> Result<Program, Unloaded> {
    let begin = |step| {
        job.state.set(match step {
            Step::Checking => State::Checking,
            Step::Compiling => State::Compiling,
            Step::SelfTest => State::SelfTest,
        });
    };
    let Job { slot, limits, cancelled, .. } = job;
    let asked = Asked { slot, kind, limits, digest, bytes, cancelled, lists_examples: false };
    // The loader's answer was sound when it was built. If the engine panics on it, that costs this file, and not the
    // gateway.
    let attempt = AssertUnwindSafe(|| tools.loader.load(&tools.sandbox, &asked, lane, begin));
    catch_unwind(attempt).unwrap_or_else(|_| {
        Err(Unloaded::Refused(Refusal::new(
            "a module that can be loaded",
            "one on which the engine itself failed",
            "build it with other tools, and report this file to the makers of the gateway",
        )))
    })
}

fn record(tools: &Tools, job: &Job, digest: Digest, bytes: &[u8], redacts: bool) -> std::io::Result<Vec<Version>> {
    let recorded = tools.history.record(&job.slot, digest, bytes).and_then(|versions| {
        if redacts {
            tools.history.note_redacts(&job.slot, digest)?;
        }
        Ok(versions)
    });
    recorded.inspect_err(|error| {
        tracing::error!(event_type = %job.slot, %digest, "this version is not kept: {error}");
    })
}

/// Keeps the version of the engine beside a schema.
pub(super) fn note_engine(history: &History, slot: &Slot, digest: Digest, program: &Program) -> std::io::Result<()> {
    program.schema.as_ref().map_or(Ok(()), |schema| history.note_engine(slot, digest, &schema.engine))
}

/// Whether the version that serves, or served last, takes secrets out of dead letters.
fn must_redact(tools: &Tools, job: &Job, digest: Digest) -> bool {
    if job.serving.is_some() {
        return job.must_redact;
    }
    let newest = tools.history.versions(&job.slot).ok().and_then(|versions| versions.first().copied());
    newest.is_some_and(|newest| newest.digest != digest && tools.history.redacts(&job.slot, newest.digest))
}

pub(super) fn unredacting(digest: Digest) -> Refusal {
    Refusal::new(
        "a module that exports `redact`, or a schema with `writeOnly` or `x-eye-redact`, as the version before has it: it takes \
         secrets out of refused events",
        "one that does not, so that such events would be kept as they came",
        format!(
            "take them out as before, or write `force = \"{digest}\"` into the module's settings if nothing is secret any more"
        ),
    )
}

/// The refusal of a module that was taken back.
pub(super) fn taken_back(digest: Digest, reason: &str) -> Refusal {
    Refusal::new(
        "a module that was not taken back",
        format!("one that was: {reason}"),
        format!("mend it, or write `force = \"{digest}\"` into its settings if this is meant"),
    )
}

/// Loads a kept version that is not to serve: it only redacts.
pub(super) fn load_kept(tools: &Tools, slot: &Slot, limits: &Limits, bytes: &[u8]) -> Option<Program> {
    load_content(tools, slot, limits, Lane::Heavy, bytes).ok()
}

/// Loads a content that is no file of the modules directory.
pub(super) fn load_content(
    tools: &Tools,
    slot: &Slot,
    limits: &Limits,
    lane: Lane,
    bytes: &[u8],
) -> Result<Program, Unloaded> {
    let job = Job {
        slot: slot.clone(),
        generation: 0,
        path: PathBuf::new(),
        is_barred: false,
        limits: *limits,
        settings: None,
        known: None,
        serving: None,
        falls_back: false,
        is_patient: false,
        must_redact: false,
        force: None,
        expects_refusals: None,
        limits_in_force: *limits,
        unkept: false,
        state: Arc::new(StateCell::new(State::Settling)),
        cancelled: Arc::new(AtomicBool::new(false)),
    };
    load(tools, &job, lane, (Kind::of_content(bytes), Digest::of(bytes)), bytes)
}

/// Returns a file's content, and its signature from before it was read.
fn read(path: &Path) -> std::io::Result<(Vec<u8>, Signature)> {
    let file = directory::open(path)?;
    let before = Signature::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(MODULE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok((bytes, before))
}
