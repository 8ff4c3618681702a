//! Finds the validator of an event by its event type, calls it, and returns a verdict or a fault. The modules
//! directory, compiling, limits and history are in the modules below; the gateway sees only this file.
//!
//! The same event and the same module give the same verdict, whatever the module judged before.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use eye_event::envelope::Rules;
use eye_event::figures::Distribution;
use eye_event::verdict::{Digest, UnfinishedCode, Unjudged, Verdict, Violation};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

mod anatomy;
mod answer;
mod candidate;
mod circuit;
mod comparing;
mod compiled;
mod component;
mod contract;
mod core_module;
mod directory;
mod engine;
mod entry;
mod extras;
mod figures;
mod files;
mod finished;
mod generation;
pub mod guard;
mod happening;
mod history;
mod installing;
mod keeping;
mod kind;
mod lifecycle;
mod link;
mod loading;
mod losses;
mod memory;
mod module;
mod naming;
mod offload;
mod refusal;
mod registry;
mod report;
mod resident;
mod rest;
mod rewrite;
mod roster;
mod schema;
mod settings;
mod slot;
mod steps;
#[cfg(test)]
mod tests;
mod trial;
mod trial_event;
mod unserved;
mod worker;
mod world;

pub use candidate::{
    ApplicationPairs, CandidateReport, Comparison, Mode, PairCounts, Sample, Share, Trial as CandidateTrial,
};
pub use circuit::Standing;
pub use component::Isolation;
pub use contract::CheckAmended;
pub use engine::EngineError;
pub use figures::{Counts, Faults, Times};
pub use generation::{Generation, Role, SlotModule, Unprepared};
pub use happening::{Happening, Observer};
pub use history::{History, Listed, RetireError, Retired, RollbackError, Version};
pub use installing::{Contents, InDirectory, Installed, install, installed, modules_in, unwritable};
pub use keeping::{Keep, Taking};
pub use kind::{Kind, settings_of};
pub use loading::{LOADER_COMMAND, LoaderLimits, Loading, run_loader};
pub use offload::OffloadLimits;
pub use refusal::Refusal;
pub use report::{Doubts, LoadError, Problem, TypeReport};
pub use roster::Roster;
pub use schema::has_engine;
pub use settings::{Limits, OnFault, Settings};
pub use slot::Slot;
pub use steps::{Step, Steps};
pub use trial::{Trial, TrialError, TrialOptions, Tried, to_component};
pub use trial_event::{Expected, TrialEvent, TrialExample};
pub use unserved::UnservedType;
pub use worker::State;

use candidate::{Beside, Besides, Candidates, Paired};
use circuit::Route;
use comparing::{Comparing, Missing};
use contract::GuestEvent;
use directory::Directory;
use engine::{Bounds, Sandbox};
use generation::Generations;
use keeping::{Decides, Keeping};
use lifecycle::{Lifecycle, Message, Parts};
use loading::Loader;
use module::Module;
use offload::{Offload, Time};
use registry::{Place, Registry, Snapshot};
use report::Reports;
use settings::LimitDefaults;
use unserved::Unserved;
use worker::{QUICK_MAX, Tools, Workers};

/// The verdict on an event whose type has no module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownEventType {
    /// It is accepted as it is.
    #[default]
    Accept,
    /// It is rejected.
    Reject,
}

/// Answers a yes-or-no question about a category and a name.
pub type OfEventType = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// The event types that must have a module.
#[derive(Clone)]
pub struct Required {
    /// Whether the event type with this category and name must have a module.
    pub contains: OfEventType,
    /// The categories, each with a name, or with `None` if all of its names must have a module.
    pub each: Vec<(String, Option<String>)>,
}

impl Default for Required {
    /// No event type must have a module.
    fn default() -> Self {
        Self { contains: Arc::new(|_, _| false), each: Vec::new() }
    }
}

/// Where modules come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModulesFrom {
    /// The watched directory.
    #[default]
    Directory,
    /// The database, as generations. The gateway calls [`Validators::serve`]; the directory is not read.
    Database,
}

impl ModulesFrom {
    /// The words of the configuration.
    pub const WORDS: [&'static str; 2] = ["directory", "database"];

    /// The word of this source.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// How validators are run. The gateway makes it from the configuration.
#[derive(Clone)]
pub struct Options {
    /// Where modules come from.
    pub modules_from: ModulesFrom,
    /// The folder in which operators put modules. It need not exist yet.
    pub modules_dir: PathBuf,
    /// The folder for compiled code and old versions. [`Validators::start`] makes it if it is missing.
    pub data_dir: PathBuf,
    /// The verdict on an event whose type has no module.
    pub unknown_event_type: UnknownEventType,
    /// The event types whose events are refused as unfinished while no module serves them.
    pub required: Required,
    /// A gateway may be running on the same data directory: leave its notes of modules as they are.
    pub is_beside_gateway: bool,
    /// Limits of one call, unless a `<name>.toml` says otherwise.
    pub limits: Limits,
    /// The longest deadline that a `<name>.toml` may ask for, in milliseconds.
    pub deadline_ms_max: u64,
    /// Limits that all modules share.
    pub shared: SharedLimits,
    /// The time between two scans of the directory, which find the changes that no file event reported.
    pub rescan: Duration,
    /// Checks an amended `data` as the envelope checks the data of senders. The text says why Postgres cannot store it.
    pub check_amended: CheckAmended,
    /// How files are loaded.
    pub loading: Loading,
    /// Gets the changes of slots.
    pub observer: Observer,
}

/// The part of the options that decides about single requests. It may change while the validators run; a request keeps
/// the terms that its [`Validators`] had.
#[derive(Clone)]
pub struct Terms {
    /// The verdict on an event whose type has no module.
    pub unknown_event_type: UnknownEventType,
    /// The event types whose events are refused as unfinished while no module serves them.
    pub required: Required,
    /// Checks an amended `data`, see [`Options::check_amended`].
    pub check_amended: CheckAmended,
    /// How long the events of a request may wait for places of their modules, see [`SharedLimits::wait`].
    pub wait: Duration,
    /// How long judging all events of a request may take, see [`SharedLimits::judging`].
    pub judging: Duration,
}

/// The options that may change while the validators run.
#[derive(Clone)]
pub struct Change {
    /// The terms of requests that begin from now on.
    pub terms: Terms,
    /// Bounds of the calls away from the request threads. The number of places stays as it was.
    pub away: OffloadLimits,
    /// The longest deadline that a `<name>.toml` may ask for. It counts for files that are read from now on.
    pub deadline_ms_max: u64,
    /// The rules that the self-tests of later loads check amended data against.
    pub rules: Rules,
}

/// Limits of all modules together, so that no module takes everything from the others.
#[derive(Debug, Clone, Copy)]
pub struct SharedLimits {
    /// Bounds of the calls away from the request threads.
    pub away: OffloadLimits,
    /// Bytes that modules may take together between calls: their code, the memory that `describe` left, and kept
    /// instances.
    pub memory_bytes_max: usize,
    /// How long the events of a request may wait for places of their modules. The time begins with the first event.
    pub wait: Duration,
    /// How long judging all events of a request may take. Later events have no outcome yet, so that the others are
    /// stored in time.
    pub judging: Duration,
}

impl Default for SharedLimits {
    fn default() -> Self {
        Self {
            away: OffloadLimits::default(),
            memory_bytes_max: 1 << 30,
            wait: Duration::from_millis(2_500),
            judging: Duration::from_millis(3_750),
        }
    }
}

/// Why [`Validators::start`] failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not start on this machine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread could not be started.
    #[error("a thread for loading modules does not start")]
    Thread(#[source] std::io::Error),
}

/// The parts of an event that a validator sees.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The event's id.
    pub id: Uuid,
    /// The application that sent it.
    pub application: &'a str,
    /// The event's session.
    pub session_id: Uuid,
    /// The first half of the event type.
    pub category: &'a str,
    /// The second half of the event type.
    pub name: &'a str,
    /// When the event occurred, in microseconds since 1970.
    pub timestamp_us: i64,
    /// When a gateway first received the event, in microseconds since 1970.
    pub received_at_us: i64,
    /// The text of a JSON object.
    pub data: &'a str,
}

/// The result of judging one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict, or why there is none.
    pub outcome: Result<Verdict, Unjudged>,
    /// The module that judged; `None` if no module serves the event type.
    pub digest: Option<Digest>,
}

/// All validators, and the terms of requests. A clone is cheap; dropping the last one stops everything.
#[derive(Clone)]
pub struct Validators {
    inner: Arc<Inner>,
    terms: Arc<Terms>,
}

struct Inner {
    sandbox: Arc<Sandbox>,
    /// Shared with the threads that load modules.
    tools: Arc<Tools>,
    away: Offload,
    registry: Arc<Registry>,
    board: Arc<Reports>,
    /// The terms of the last change, for reports about all requests.
    latest: ArcSwap<Terms>,
    /// The thread that loads modules reads it for each file.
    given: Arc<Mutex<LimitDefaults>>,
    unserved: Unserved,
    keeping: Keeping,
    generations: Arc<Generations>,
    /// The modules that are compared with those that serve.
    candidates: Arc<Candidates>,
    comparing: Comparing,
    /// The reports of candidates in the modules directory, and the history of these.
    tried_board: Arc<Reports>,
    tried_history: History,
    /// Those of the modules directory and of its candidates; `None` if the modules come from the database.
    lifecycles: Option<[LifecycleThread; 2]>,
}

/// The folder of candidates in the modules directory.
pub const CANDIDATES_DIR: &str = ".candidates";

/// Threads that load candidates side by side.
const CANDIDATE_THREADS: usize = 1;

/// The thread that follows the modules directory, or the folder of candidates in it.
struct LifecycleThread {
    inbox: SyncSender<Message>,
    /// `None` once it was ended.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What such a thread follows, and where it posts.
struct Followed {
    dir: PathBuf,
    data_dir: PathBuf,
    tools: Arc<Tools>,
    registry: Arc<Registry>,
    board: Arc<Reports>,
    candidates: Arc<Candidates>,
    given: Arc<Mutex<LimitDefaults>>,
    observer: Observer,
    rescan: Duration,
    is_beside_gateway: bool,
    is_of_candidates: bool,
}

impl Followed {
    /// The folder of candidates in what this follows.
    fn candidates(&self) -> Self {
        let data_dir = self.data_dir.join("candidates");
        let tools = Tools {
            sandbox: Arc::clone(&self.tools.sandbox),
            loader: Arc::clone(&self.tools.loader),
            history: History::under(&data_dir),
        };
        Self {
            dir: self.dir.join(CANDIDATES_DIR),
            data_dir,
            tools: Arc::new(tools),
            registry: Arc::clone(&self.candidates.tried),
            board: Arc::new(Reports::new()),
            candidates: Arc::clone(&self.candidates),
            given: Arc::clone(&self.given),
            observer: Observer::default(),
            rescan: self.rescan,
            is_beside_gateway: self.is_beside_gateway,
            is_of_candidates: true,
        }
    }
}

impl LifecycleThread {
    fn start(followed: Followed) -> std::io::Result<Self> {
        let Followed { dir, data_dir, tools, registry, board, candidates, given, observer, .. } = followed;
        let (inbox, messages) = sync_channel(64);
        let done = inbox.clone();
        let (threads, name) = match followed.is_of_candidates {
            true => (CANDIDATE_THREADS, "eye-candidates"),
            false => (QUICK_MAX, "eye-modules"),
        };
        let workers = Workers::start(&tools, threads, move |what| done.send(Message::Done(Box::new(what))).is_ok())?;
        let hinted = Arc::new(AtomicBool::new(false));
        let life = Lifecycle::new(Parts {
            directory: Directory::watch(dir, hinting(inbox.clone(), Arc::clone(&hinted))),
            hinted,
            inbox: messages,
            workers,
            registry,
            board,
            roster: Roster::under(&data_dir).foreign(followed.is_beside_gateway),
            given,
            rescan: followed.rescan,
            observer,
            candidates,
            is_of_candidates: followed.is_of_candidates,
        });
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || life.run())?;
        Ok(Self { inbox, thread: Mutex::new(Some(thread)) })
    }

    /// Wakes the thread with a message.
    fn tell(&self, message: Message) {
        let _ended = self.inbox.send(message);
    }

    /// Ends the thread, and the threads that it owns.
    fn end(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The thread reads its inbox until it gets this message. If the inbox is closed, the thread has ended.
        let _ended = self.inbox.send(Message::Stop);
        if thread.join().is_err() {
            tracing::error!("the thread that loads modules panicked");
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("modules_dir", &self.modules_dir)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Validators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Validators").finish_non_exhaustive()
    }
}

impl Validators {
    /// Starts the engine and begins to load modules. A missing directory or a bad module does not stop the gateway:
    /// reports and logs name it.
    ///
    /// # Errors
    ///
    /// When the machine cannot run the engine at all, or gives no threads.
    pub fn start(options: Options) -> Result<Self, Error> {
        let shared = options.shared;
        // One more thread compares candidates.
        let threads = request_threads() + shared.away.places() + 1;
        let bounds = Bounds::of_threads(threads, shared.memory_bytes_max);
        let sandbox = Arc::new(Sandbox::with_bounds(bounds)?);
        let registry = Arc::new(Registry::new());
        let board = Arc::new(Reports::new());
        let tools = Arc::new(Tools {
            sandbox: Arc::clone(&sandbox),
            loader: Arc::new(Loader::new(
                options.loading.clone(),
                &options.data_dir,
                #[cfg(test)]
                (Sandbox::for_loading()?, Arc::clone(&options.check_amended)),
            )),
            history: History::under(&options.data_dir),
        });
        let keeping = Keeping::new(Arc::clone(&tools), options.limits);
        let given = LimitDefaults { defaults: options.limits, deadline_ms_max: options.deadline_ms_max };
        let given = Arc::new(Mutex::new(given));
        let terms = Arc::new(Terms {
            unknown_event_type: options.unknown_event_type,
            required: options.required.clone(),
            check_amended: Arc::clone(&options.check_amended),
            wait: shared.wait,
            judging: shared.judging,
        });
        let candidates = Arc::new(Candidates::new(Arc::clone(&registry)));
        let generations = Generations::new(
            Arc::clone(&tools),
            Arc::clone(&registry),
            Arc::clone(&board),
            Arc::clone(&given),
            Arc::clone(&candidates),
            (&options.data_dir, !options.is_beside_gateway),
        );
        let followed = Followed {
            dir: options.modules_dir,
            data_dir: options.data_dir,
            tools: Arc::clone(&tools),
            registry: Arc::clone(&registry),
            board: Arc::clone(&board),
            candidates: Arc::clone(&candidates),
            given: Arc::clone(&given),
            observer: options.observer,
            rescan: options.rescan,
            is_beside_gateway: options.is_beside_gateway,
            is_of_candidates: false,
        };
        let tried = followed.candidates();
        let (tried_board, tried_history) = (Arc::clone(&tried.board), tried.tools.history.clone());
        let lifecycles = match options.modules_from {
            ModulesFrom::Directory => {
                let start = |followed| LifecycleThread::start(followed).map_err(Error::Thread);
                Some([start(followed)?, start(tried)?])
            }
            ModulesFrom::Database => None,
        };
        let comparing = Comparing::new(Arc::clone(&sandbox));
        let inner = Inner {
            sandbox,
            tools,
            away: Offload::new(shared.away),
            registry,
            board,
            latest: ArcSwap::new(Arc::clone(&terms)),
            given,
            unserved: Unserved::default(),
            keeping,
            generations: Arc::new(generations),
            candidates,
            comparing,
            tried_board,
            tried_history,
            lifecycles,
        };
        Ok(Self { inner: Arc::new(inner), terms })
    }

    /// Changes the options of the running validators. Requests of the result have the new terms, and requests of `self`
    /// keep theirs.
    #[must_use]
    pub fn change(&self, Change { terms, away, deadline_ms_max, rules }: Change) -> Self {
        let (inner, terms) = (Arc::clone(&self.inner), Arc::new(terms));
        inner.away.set_limits(away);
        inner.tools.loader.set_rules(rules);
        inner.given.lock().unwrap_or_else(PoisonError::into_inner).deadline_ms_max = deadline_ms_max;
        inner.latest.store(Arc::clone(&terms));
        Self { inner, terms }
    }

    /// Begins to judge the events of one request, with the modules that serve now.
    #[must_use]
    pub fn begin(&self) -> Judging<'_> {
        let began = Instant::now();
        let latest = Some(began + self.terms.judging);
        Judging {
            validators: self,
            modules: self.inner.registry.now(),
            began,
            latest,
            asked: 0,
            yielded: began,
            late: false,
            besides: self.inner.candidates.now(),
            is_dry: false,
        }
    }

    /// Like [`Validators::begin`], for events that no request waits for. Only the limits of the modules bound their
    /// time, and no candidate sees them.
    #[must_use]
    pub fn begin_unhurried(&self) -> Judging<'_> {
        Judging { latest: None, besides: None, ..self.begin() }
    }

    /// Like [`Validators::begin`], for events that are not stored. Nobody counts what candidates say of them.
    #[must_use]
    pub fn begin_dry(&self) -> Judging<'_> {
        Judging { is_dry: true, ..self.begin() }
    }

    /// Judges one event that no request waits for, with the module that serves its type now. Only the limits of that
    /// module bound its time.
    pub async fn judge(&self, subject: Subject<'_>) -> Judgement {
        self.begin_unhurried().judge(subject).await
    }

    /// Sets the slots of all modules that ever took secrets out. Until the gateway calls this, it keeps nothing of
    /// events whose type has no module.
    pub fn know_taking(&self, ever: HashSet<Slot>) {
        self.inner.keeping.know(ever);
    }

    /// The modules that serve now and take secrets out of dead letters.
    #[must_use]
    pub fn taking(&self) -> Vec<Taking> {
        let modules = self.inner.registry.now();
        let taking = modules.taking().map(|module| Taking {
            slot: module.slot.clone(),
            digest: module.digest,
            redacts: module.program().offers().redact,
        });
        taking.collect()
    }

    /// Whether a module serves this very slot and takes nothing out.
    pub fn takes_nothing(&self, slot: &Slot) -> bool {
        matches!(self.inner.registry.now().own(slot), Some(Place::Taken(module)) if !module.takes_out())
    }

    fn unknown(&self, subject: &Subject<'_>) -> Judgement {
        if (self.terms.required.contains)(subject.category, subject.name) {
            return unfinished(UnfinishedCode::ModuleUnavailable);
        }
        let outcome = match self.terms.unknown_event_type {
            UnknownEventType::Accept => Verdict::Accept,
            UnknownEventType::Reject => Verdict::Reject(vec![Violation {
                pointer: String::new(),
                code: "unknown_event_type".into(),
                message:
                    "no validator serves this category and name, and this gateway takes only event types that it knows"
                        .into(),
            }]),
        };
        Judgement { outcome: Ok(outcome), digest: None }
    }

    /// Prepares a module of a coming generation: loads it, runs its examples, and keeps its content under the data
    /// directory. `content` is only needed if the data directory has none. Returns whether the module redacts.
    ///
    /// # Errors
    ///
    /// [`Unprepared`]; also if it does not redact and `must_redact` says that it must.
    pub async fn prepare(
        &self,
        wanted: &SlotModule,
        content: Option<Bytes>,
        must_redact: bool,
    ) -> Result<bool, Unprepared> {
        self.inner.generations.prepare(wanted, content, must_redact).await
    }

    /// Whether this gateway would take a module: loads it and runs its examples, and keeps nothing of it. Without
    /// `must_redact` the module must redact if the version before on this disk does. Returns whether it redacts.
    ///
    /// # Errors
    ///
    /// [`Unprepared`].
    pub async fn check(
        &self,
        wanted: &SlotModule,
        content: Bytes,
        must_redact: Option<bool>,
    ) -> Result<bool, Unprepared> {
        self.inner.generations.check(wanted, content, must_redact).await
    }

    /// Serves a generation, whose modules were prepared. One step swaps all of them. The events of a slot whose module
    /// is not prepared are unfinished.
    pub async fn serve(&self, generation: Generation) {
        let generations = Arc::clone(&self.inner.generations);
        if tokio::task::spawn_blocking(move || generations.serve(&generation)).await.is_err() {
            tracing::error!("the change to another generation panicked");
        }
    }

    /// Drops prepared modules that are not among `needed`.
    pub fn keep_prepared(&self, needed: &HashSet<SlotModule>) {
        self.inner.generations.keep_prepared(needed);
    }

    /// The number of the generation that serves; 0 before the first.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.inner.generations.number()
    }

    /// The slots of that generation that this gateway cannot serve.
    #[must_use]
    pub fn held(&self) -> Vec<SlotModule> {
        self.inner.generations.held()
    }

    /// Why a module could not be prepared.
    #[must_use]
    pub fn unprepared(&self, wanted: &SlotModule) -> Option<Refusal> {
        self.inner.generations.refusal(wanted)
    }

    /// The generation that served on this data directory last; `None` if none did.
    ///
    /// # Errors
    ///
    /// When its file cannot be read or is damaged.
    pub fn last_generation(&self) -> std::io::Result<Option<Generation>> {
        self.inner.generations.last()
    }

    /// Whether the gateway has read the modules directory and tried every module of the first scan, or serves a
    /// generation.
    #[must_use]
    pub fn scanned(&self) -> bool {
        *self.inner.board.watch_scanned().borrow()
    }

    /// Waits until [`Validators::scanned`] is true.
    pub async fn wait_scanned(&self) {
        // `self` holds the sender, so the channel stays open.
        let mut scanned = self.inner.board.watch_scanned();
        let _closed = scanned.wait_for(|scanned| *scanned).await;
    }

    /// Changes its value whenever [`Validators::report`] does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.board.watch_changes()
    }

    /// The reports of all slots, in the order of event types.
    #[must_use]
    pub fn report(&self) -> Vec<TypeReport> {
        self.inner.board.report()
    }

    /// Times of judging, over all modules that serve or ever served.
    #[must_use]
    pub fn judging(&self) -> Distribution {
        self.inner.board.judging()
    }

    /// Bytes that all modules take together between calls, and their bound.
    #[must_use]
    pub fn memory_bytes(&self) -> (usize, usize) {
        let memory = &self.inner.sandbox.memory;
        (memory.taken(), memory.bytes_max())
    }

    /// Events that wait now for a place of a slow module.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.away.waiting()
    }

    /// Stops watching the directory and loading modules. The modules that serve can still judge.
    pub async fn stop(&self) {
        let inner = Arc::clone(&self.inner);
        // A module may be compiling just now, and a request thread must not wait that long.
        if tokio::task::spawn_blocking(move || inner.stop()).await.is_err() {
            tracing::error!("the end of the modules directory's watch panicked");
        }
    }

    /// Files in the modules directory that serve nothing, each with the reason. `unserved` is the answer of
    /// [`Validators::unserved`].
    #[must_use]
    pub fn problems(&self, unserved: &[UnservedType]) -> Vec<Problem> {
        self.inner.board.problems(unserved)
    }

    /// Counts of refused, loading, unavailable, lost and missing modules.
    #[must_use]
    pub fn doubts(&self) -> Doubts {
        let modules = self.inner.registry.now();
        let serves = |(category, name): &&(String, Option<String>)| modules.serves(category, name.as_deref());
        let missing = self.inner.latest.load().required.each.iter().filter(|one| !serves(one)).count();
        Doubts { missing, ..self.inner.board.doubts() }
    }

    /// How often the modules directory lost most of its files at once.
    #[must_use]
    pub fn accidents(&self) -> u64 {
        self.inner.board.accidents()
    }

    /// The faults of each slot over all its versions, since the slot is there. They never go down meanwhile.
    #[must_use]
    pub fn slot_faults(&self) -> Vec<(String, Faults)> {
        self.inner.board.slot_faults()
    }

    /// Sets the secret by which canaries choose their sessions. All gateways of a database have the same. Without it no
    /// canary judges.
    pub fn set_canary_key(&self, key: [u8; 32]) {
        self.inner.candidates.set_key(key);
    }

    /// What was compared since the last call, for each module that is compared with another.
    #[must_use]
    pub fn take_comparisons(&self) -> Vec<Comparison> {
        self.inner.candidates.take()
    }

    /// Notes in the data directory that a version was taken back. As a file it is refused from then on, and the version
    /// before serves; a generation is the matter of the database. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// The errors of the file system. Then a restart may take the version again.
    pub fn take_back(&self, slot: &Slot, digest: Digest, reason: &str) -> std::io::Result<()> {
        let Inner { tools, tried_history, lifecycles, .. } = &*self.inner;
        let noted = tools.history.note_taken_back(slot, digest, reason);
        let noted = noted.and(tried_history.note_taken_back(slot, digest, reason));
        for lifecycle in lifecycles.iter().flatten() {
            lifecycle.tell(Message::TakenBack(slot.clone(), digest));
        }
        noted
    }

    /// Removes that note, since somebody wants the version all the same.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn lift(&self, slot: &Slot, digest: Digest) -> std::io::Result<()> {
        let Inner { tools, tried_history, lifecycles, .. } = &*self.inner;
        tools.history.lift(slot, digest).and(tried_history.lift(slot, digest))?;
        for lifecycle in lifecycles.iter().flatten() {
            lifecycle.tell(Message::Lifted(slot.clone()));
        }
        Ok(())
    }

    /// Why a version was taken back, by the data directory.
    #[must_use]
    pub fn taken_back(&self, slot: &Slot, digest: Digest) -> Option<String> {
        self.inner.tools.history.taken_back(slot, digest)
    }

    /// The reports of the candidates in the modules directory, which say why a file is none.
    #[must_use]
    pub fn candidate_files(&self) -> Vec<TypeReport> {
        self.inner.tried_board.report()
    }

    /// Changes its value whenever [`Validators::candidate_files`] does.
    #[must_use]
    pub fn candidate_changes(&self) -> watch::Receiver<u64> {
        self.inner.tried_board.watch_changes()
    }

    /// Compares a slot's module no longer with the one that it replaced.
    pub fn forget_replaced(&self, slot: &Slot) {
        self.inner.candidates.forget_replaced(slot);
    }

    /// The reports of all modules beside those that serve, in the order of event types.
    #[must_use]
    pub fn candidates(&self) -> Vec<CandidateReport> {
        self.inner.candidates.report()
    }

    /// Counts an event that was stored though no module judged it.
    pub fn count_unserved(&self, category: &str, name: &str) {
        self.inner.unserved.count(category, name);
    }

    /// The event types whose events were stored with no validator since the start, each with the file that its author
    /// may have meant for it. The number counts stored events of further types.
    #[must_use]
    pub fn unserved(&self) -> (Vec<UnservedType>, u64) {
        let mut types = self.inner.unserved.types();
        self.inner.board.find_nearest(&mut types);
        (types, self.inner.unserved.others())
    }
}

/// Judges the events of one request. All of them meet the same modules, even if modules are swapped meanwhile.
pub struct Judging<'a> {
    validators: &'a Validators,
    /// Loaded once for the request: all threads share it, and a look for each event would cost more.
    modules: Arc<Snapshot>,
    began: Instant,
    /// Events that are not judged by then have no outcome yet. `None` when no request waits.
    latest: Option<Instant>,
    /// Events that this request has put so far.
    asked: u32,
    /// When this task last gave the thread to others.
    yielded: Instant,
    /// [`Judging::look`] sets it when the time for judging is over.
    late: bool,
    /// The modules beside those that serve; `None` if there are none, or none is to see these events.
    besides: Option<Arc<HashMap<Slot, Besides>>>,
    /// The events are not stored, so they are not compared.
    is_dry: bool,
}

/// Events between two looks at the clock.
const EVENTS_PER_LOOK: u32 = 8;
/// How long the events of a request may hold a request thread before other requests get it. A module that takes a
/// millisecond would else hold the thread for as long as the request has events.
const STRETCH: Duration = Duration::from_millis(5);

impl fmt::Debug for Judging<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Judging").finish_non_exhaustive()
    }
}

impl Judging<'_> {
    /// Looks at the clock once in [`EVENTS_PER_LOOK`] events. It gives the thread to others when due, and notes when no
    /// time is left for more events.
    async fn look(&mut self) {
        self.asked = self.asked.wrapping_add(1);
        if !self.asked.is_multiple_of(EVENTS_PER_LOOK) {
            return;
        }
        let now = Instant::now();
        self.late = self.latest.is_some_and(|latest| now >= latest);
        if now >= self.yielded + STRETCH {
            tokio::task::yield_now().await;
            self.yielded = Instant::now();
        }
    }

    /// Judges one event with the module that serves its type.
    pub async fn judge(&mut self, subject: Subject<'_>) -> Judgement {
        self.look().await;
        let module = match self.modules.find(subject.category, subject.name) {
            Some(Place::Taken(module)) => module,
            Some(Place::Held(why) | Place::Yielding(why)) => return unfinished(why.code()),
            None => return self.validators.unknown(&subject),
        };
        if self.late {
            return Judgement { outcome: Err(module.busy()), digest: Some(module.digest) };
        }
        let (mut id, mut session_id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let event = GuestEvent {
            id: subject.id.hyphenated().encode_lower(&mut id),
            application: subject.application,
            session_id: subject.session_id.hyphenated().encode_lower(&mut session_id),
            category: subject.category,
            name: subject.name,
            timestamp_us: subject.timestamp_us,
            received_at_us: subject.received_at_us,
            data: subject.data,
        };
        if let Some(besides) = self.besides.as_ref().and_then(|besides| besides.get(&module.slot)) {
            return self.judge_beside(module, besides, subject.session_id, event).await;
        }
        Judgement { outcome: self.call(module, event).await, digest: Some(module.digest) }
    }

    /// Calls a module, on this thread or away from it.
    async fn call(&self, module: &Arc<Module>, event: GuestEvent<'_>) -> Result<Verdict, Unjudged> {
        let Inner { sandbox, away, .. } = &*self.validators.inner;
        let Terms { check_amended, wait, .. } = &*self.validators.terms;
        let time = Time { place_until: self.began + *wait, verdict_until: self.latest };
        match module.circuit.way(event.application) {
            Route::Here => module.judge(sandbox, &event, check_amended),
            Route::Offload => away.judge(module, sandbox, event, check_amended, None, time).await,
            Route::Probe(probe) => away.judge(module, sandbox, event, check_amended, Some(probe), time).await,
            Route::Nowhere => Err(module.off_path()),
        }
    }

    /// Judges one event of a slot that has other modules beside the one that serves. A canary judges the events of its
    /// sessions. If it breaks, the module that serves judges them.
    async fn judge_beside(
        &self,
        module: &Arc<Module>,
        besides: &Besides,
        session_id: Uuid,
        event: GuestEvent<'_>,
    ) -> Judgement {
        let Inner { candidates, comparing, .. } = &*self.validators.inner;
        let check_amended = &self.validators.terms.check_amended;
        // A module that came a moment ago is compared from the next request on.
        let is_of_it = |beside: &&Arc<Beside>| Arc::ptr_eq(&beside.serving, module);
        let candidate = besides.candidate.as_ref().filter(is_of_it);
        if let Some(canary) = candidate.filter(|canary| candidates.is_chosen(canary, session_id)) {
            let said = self.call(&canary.module, event).await;
            if let Ok(verdict) = &said {
                if !self.is_dry {
                    canary.judged(verdict);
                    comparing.compare(canary, &event, &said, Missing::Serving, check_amended);
                }
                return Judgement { outcome: said, digest: Some(canary.module.digest) };
            }
            let outcome = self.call(module, event).await;
            if !self.is_dry {
                canary.pair(&Paired::of(&event), &said, &outcome);
            }
            return Judgement { outcome, digest: Some(module.digest) };
        }
        let outcome = self.call(module, event).await;
        let shadow = candidate.filter(|candidate| candidate.trial == CandidateTrial::Shadow);
        let others = shadow.into_iter().chain(besides.replaced.as_ref().filter(is_of_it)).filter(|_| !self.is_dry);
        for beside in others {
            comparing.compare(beside, &event, &outcome, Missing::Beside, check_amended);
        }
        Judgement { outcome, digest: Some(module.digest) }
    }
}

impl Judging<'_> {
    /// How much of an event of this type with this data may be kept, if the event is not stored.
    pub async fn keep(&self, category: &str, name: &str, data: &str) -> Keep {
        let keeping = &self.validators.inner.keeping;
        let check_amended = &self.validators.terms.check_amended;
        let decides = keeping.decides(&self.modules, category, name);
        let kept = if matches!(decides, Decides::Nobody) {
            Keep::Whole
        } else {
            keeping.keep(decides, data, check_amended).await
        };
        // What a canary calls a secret is one, whoever judged the event.
        let Some(canary) = self.taking_canary(category, name) else { return kept };
        match kept {
            Keep::Nothing => Keep::Nothing,
            Keep::Whole => keeping.keep(Decides::Module(canary), data, check_amended).await,
            Keep::Redacted(data) => keeping.keep(Decides::Module(canary), &data, check_amended).await,
        }
    }

    /// The canary of an event type, if it takes something out of dead letters.
    fn taking_canary(&self, category: &str, name: &str) -> Option<Arc<Module>> {
        let besides = self.besides.as_ref()?;
        let Some(Place::Taken(module)) = self.modules.find(category, name) else { return None };
        let candidate = besides.get(&module.slot)?.candidate.as_ref()?;
        candidate.takes_out().then(|| Arc::clone(&candidate.module))
    }

    /// Whether a dead letter may keep an event whose type could not be read.
    pub fn keeps_unread(&self) -> bool {
        let candidates =
            self.besides.iter().flat_map(|besides| besides.values()).filter_map(|one| one.candidate.as_ref());
        self.validators.inner.keeping.keeps_unread(&self.modules) && !candidates.into_iter().any(|one| one.takes_out())
    }

    /// Whether dead letters of this event type may lack a part of the event.
    pub fn takes_out(&self, category: &str, name: &str) -> bool {
        self.taking_canary(category, name).is_some()
            || !matches!(self.validators.inner.keeping.decides(&self.modules, category, name), Decides::Nobody)
    }

    /// The slot whose module takes something out of events of this type, or took it out when it served.
    pub fn taking_slot(&self, category: &str, name: &str) -> Option<Slot> {
        self.validators.inner.keeping.taking_slot(&self.modules, category, name)
    }

    /// Whether the module that serves this event type judges by the time of receipt.
    pub fn judges_at(&self, category: &str, name: &str) -> bool {
        matches!(self.modules.find(category, name), Some(Place::Taken(module)) if module.program().offers().validate_at)
    }
}

impl Inner {
    /// Cancels the loads under way, and ends the thread that follows the directory.
    fn stop(&self) {
        self.tools.loader.stop();
        self.lifecycles.iter().flatten().for_each(LifecycleThread::end);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Threads that may judge events of requests at one moment.
fn request_threads() -> usize {
    let runtime = tokio::runtime::Handle::try_current().map(|runtime| runtime.metrics().num_workers());
    runtime.unwrap_or(1).max(std::thread::available_parallelism().map_or(1, usize::from))
}

/// The judgement of an event that no module saw.
fn unfinished(code: UnfinishedCode) -> Judgement {
    Judgement { outcome: Err(code.into()), digest: None }
}

/// Returns a function that raises a flag and wakes the thread that reads it. The watcher never waits and queues no
/// event: if the inbox is full, the thread has messages to wake up for.
fn hinting(inbox: SyncSender<Message>, hinted: Arc<AtomicBool>) -> impl Fn() + Send + 'static {
    move || {
        if !hinted.swap(true, AcqRel) {
            let _full = inbox.try_send(Message::Hint);
        }
    }
}
