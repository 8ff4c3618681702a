//! Finds the validator of an event by its event type, calls it, and returns a verdict or a fault. The modules
//! directory, compiling, limits and history are in the modules below; the gateway sees only this file.
//!
//! The same event and the same module give the same verdict, whatever the module judged before.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use eye_event::envelope::Rules;
use eye_event::figures::Distribution;
use eye_event::verdict::{Digest, UnfinishedCode, Unjudged, Verdict, Violation};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

mod allowance;
mod anatomy;
mod answer;
mod aside;
mod besides;
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
mod following;
mod generation;
pub mod guard;
mod happening;
mod history;
mod installing;
mod judging;
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
mod portable;
mod refusal;
mod registry;
mod replacing;
mod report;
mod resident;
mod rest;
mod rewrite;
mod roster;
mod schema;
mod settings;
mod slot;
mod steps;
mod taken_back;
#[cfg(test)]
mod tests;
mod trial;
mod trial_event;
mod tried;
mod unserved;
mod worker;
mod world;

pub use aside::Aside;
pub use candidate::{ApplicationPairs, CandidateReport, Comparison, PairCounts, Sample, Trial as CandidateTrial};
pub use circuit::Standing;
pub use comparing::CompareLimits;
pub use component::Isolation;
pub use contract::CheckAmended;
pub use engine::EngineError;
pub use figures::{Counts, Faults, Times};
pub use generation::{Generation, Role, SlotModule, Unprepared};
pub use happening::{Happening, Observer};
pub use history::{History, Listed, RetireError, Retired, RollbackError, TRIAL_OVER, Version};
pub use installing::{Contents, InDirectory, Installed, Installing, installed, modules_in, unwritable};
pub use judging::Judging;
pub use keeping::{Keep, Taking};
pub use kind::{Kind, settings_of};
pub use loading::{LOADER_COMMAND, LoaderLimits, Loading, run_loader};
pub use offload::OffloadLimits;
pub use portable::portable;
pub use refusal::Refusal;
pub use replacing::{Newest, Replacement, Served, compared_with};
pub use report::{Doubts, LoadError, Problem, TypeReport};
pub use roster::Roster;
pub use schema::has_engine;
pub use settings::{Limits, OnFault, Settings};
pub use slot::Slot;
pub use steps::{Mode, Share, Step, Steps};
pub use taken_back::TakenBackNote;
pub use trial::{Trial, TrialError, TrialOptions, Tried, to_component};
pub use trial_event::{Expected, TrialEvent, TrialExample};
pub use tried::TriedFile;
pub use unserved::UnservedType;
pub use worker::State;

use besides::Candidates;
use comparing::Comparing;
use contract::GuestEvent;
use engine::{Bounds, Sandbox};
use following::{Followed, LifecycleThread};
use generation::Generations;
use judging::{Dry, unfinished};
use keeping::Keeping;
use lifecycle::Message;
use loading::Loader;
use offload::Offload;
use registry::{Place, Registry};
use report::Reports;
use settings::LimitDefaults;
use unserved::Unserved;
use worker::Tools;

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

impl Terms {
    fn of(options: &Options) -> Self {
        Self {
            unknown_event_type: options.unknown_event_type,
            required: options.required.clone(),
            check_amended: Arc::clone(&options.check_amended),
            wait: options.shared.wait,
            judging: options.shared.judging,
        }
    }
}

/// The options that may change while the validators run.
#[derive(Clone)]
pub struct Change {
    /// The terms of requests that begin from now on.
    pub terms: Terms,
    /// Bounds of the calls away from the request threads. The number of places stays as it was.
    pub away: OffloadLimits,
    /// Bounds of the events that wait to be compared.
    pub compare: CompareLimits,
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
    /// Bounds of the events that wait to be compared, by candidates and by modules that were replaced.
    pub compare: CompareLimits,
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
            compare: CompareLimits::default(),
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

impl<'a> Subject<'a> {
    /// The event as a module sees it. The buffers hold the texts of its ids.
    fn guest_event(self, id: &'a mut [u8], session_id: &'a mut [u8]) -> GuestEvent<'a> {
        GuestEvent {
            id: self.id.hyphenated().encode_lower(id),
            application: self.application,
            session_id: self.session_id.hyphenated().encode_lower(session_id),
            category: self.category,
            name: self.name,
            timestamp_us: self.timestamp_us,
            received_at_us: self.received_at_us,
            data: self.data,
        }
    }
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
        let terms = Arc::new(Terms::of(&options));
        let candidates = Arc::new(Candidates::new(Arc::clone(&registry)));
        let generations = Generations::new(
            Arc::clone(&tools),
            Arc::clone(&registry),
            Arc::clone(&board),
            Arc::clone(&given),
            Arc::clone(&candidates),
            (&options.data_dir, !options.is_beside_gateway),
        );
        let from = options.modules_from;
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
        let start = |followed| LifecycleThread::start(followed).map_err(Error::Thread);
        let lifecycles = match from {
            ModulesFrom::Directory => Some([start(followed)?, start(tried)?]),
            ModulesFrom::Database => None,
        };
        let comparing = Comparing::new(Arc::clone(&sandbox), shared.compare);
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
    pub fn change(&self, Change { terms, away, compare, deadline_ms_max, rules }: Change) -> Self {
        let (inner, terms) = (Arc::clone(&self.inner), Arc::new(terms));
        inner.away.set_limits(away);
        inner.comparing.set_limits(compare);
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
            dry: Dry::No,
        }
    }

    /// Like [`Validators::begin`], for events that no request waits for. Only the limits of the modules bound their
    /// time, and no candidate sees them.
    #[must_use]
    pub fn begin_unhurried(&self) -> Judging<'_> {
        Judging { latest: None, besides: None, ..self.begin() }
    }

    /// Like [`Validators::begin`], for the events of a dry run. The counts of candidates leave them out. With
    /// `by_candidates`, the candidate of a slot that has one judges all its events.
    #[must_use]
    pub fn begin_dry(&self, by_candidates: bool) -> Judging<'_> {
        let dry = if by_candidates { Dry::ByCandidates } else { Dry::Yes };
        Judging { dry, ..self.begin() }
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

    /// The settings of a module that is to serve: the defaults, changed by its text.
    ///
    /// # Errors
    ///
    /// [`Unprepared`] with the place where the text is wrong.
    pub fn settings(&self, wanted: &SlotModule) -> Result<Settings, Unprepared> {
        self.inner.generations.settings(wanted)
    }

    /// Puts a module and its settings into the modules directory. No event is judged by the one without the other.
    ///
    /// # Errors
    ///
    /// The errors of the file system. Then the files are as they were.
    pub fn install(&self, role: Role, installing: &Installing<'_>) -> std::io::Result<()> {
        let scans = self.inner.lifecycles.as_ref().map(|[modules, candidates]| match role {
            Role::Live => Arc::clone(&modules.scans),
            Role::Candidate => Arc::clone(&candidates.scans),
        });
        installing::install(installing, &scans.unwrap_or_default())
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
    /// before serves, or the one that is named, or none if there is none; a generation is the matter of the database. The
    /// first line of `note` is the reason. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// The errors of the file system. Then a restart may take the version again.
    pub fn take_back(&self, slot: &Slot, digest: Digest, note: &str, serves: Option<Digest>) -> std::io::Result<()> {
        let Inner { tools, tried_history, lifecycles, .. } = &*self.inner;
        let noted = tools.history.note_taken_back(slot, digest, note);
        let noted = noted.and(tried_history.note_taken_back(slot, digest, note));
        let noted = noted.and(serves.map_or(Ok(()), |serves| tools.history.put_back(slot, serves)));
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

    /// Whether a version takes secrets out of dead letters and the one before it does not, by the data directory.
    #[must_use]
    pub fn unredacts(&self, slot: &Slot, digest: Digest, before: Digest) -> bool {
        let history = &self.inner.tools.history;
        history.redacts(slot, digest) && !history.redacts(slot, before)
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
