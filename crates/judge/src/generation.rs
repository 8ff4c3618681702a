//! The other source of the registry, beside the modules directory: generations, which all gateways on one database serve.
//! The gateway asks for each module of the next generation to be prepared, and swaps all of them in one step. A prepared
//! module is loaded, has passed its examples, and its content is kept under the data directory, so that a restart can
//! serve the last generation without the database.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::besides::Candidates;
use super::component::Program;
use super::directory;
use super::files::{MODULE_BYTES_MAX, wall_time};
use super::history::{Version, replace};
use super::kind::Kind;
use super::loading::{Lane, Unloaded};
use super::module::Module;
use super::refusal::Refusal;
use super::registry::{Place, Registry, Untried};
use super::report::{LoadError, Posted, Reports};
use super::settings::{LimitDefaults, Settings};
use super::slot::Slot;
use super::worker::{QUICK_MAX, State, StateCell, Tools, load_content, note_engine, unredacting};

/// Most bytes of the file with the last generation.
const LAST_BYTES_MAX: u64 = 64 << 20;

/// What a module of a generation does in its slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It serves.
    #[default]
    Live,
    /// It is tried beside the one that serves.
    Candidate,
}

impl Role {
    /// What names a candidate's slot in the database. No file name begins so, and a program that knows no candidates takes
    /// it for no slot.
    const CANDIDATE: &str = "_/candidate/";

    /// The name of a slot in the database.
    #[must_use]
    pub fn name(self, slot: &Slot) -> String {
        match self {
            Self::Live => slot.to_string(),
            Self::Candidate => format!("{}{slot}", Self::CANDIDATE),
        }
    }

    /// Reads the name of a slot in the database.
    ///
    /// # Errors
    ///
    /// A sentence that names the mistake in the text.
    pub fn parse(name: &str) -> Result<(Self, Slot), String> {
        match name.strip_prefix(Self::CANDIDATE) {
            Some(slot) => Ok((Self::Candidate, Slot::parse(slot)?)),
            None => Ok((Self::Live, Slot::parse(name)?)),
        }
    }
}

/// A slot of a generation: which module serves it, or is tried in it, and with which settings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotModule {
    /// The event types.
    pub slot: Slot,
    /// Whether it serves.
    pub role: Role,
    /// The module's digest.
    pub digest: Digest,
    /// The text of its settings, as a `<name>.toml` has them; `None` for the defaults.
    pub settings: Option<String>,
}

impl SlotModule {
    /// What a generation has at most one module for.
    #[must_use]
    pub fn key(&self) -> (Role, Slot) {
        (self.role, self.slot.clone())
    }
}

/// The slots of a generation and its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The number.
    pub number: u64,
    /// The id, which tells it from another one of the same number.
    pub id: Uuid,
    /// Its slots, each at most once.
    pub slots: Vec<SlotModule>,
}

/// Why a module is not prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprepared {
    /// This gateway does not take it.
    Refused(Refusal),
    /// Its content is not kept here, so it must be given.
    NoContent,
    /// The gateway stops.
    Stopped,
}

/// A prepared module.
struct Prepared {
    program: Program,
    settings: Settings,
}

/// A slot of the generation that serves.
struct Serving {
    wanted: SlotModule,
    settings: Settings,
    /// `None` if this gateway could not load the module. Its events are then held.
    module: Option<Arc<Module>>,
    since: DateTime<Utc>,
    versions: Vec<Version>,
}

/// The modules that are prepared, and the generation that serves.
pub(super) struct Generations {
    tools: Arc<Tools>,
    registry: Arc<Registry>,
    board: Arc<Reports>,
    given: Arc<Mutex<LimitDefaults>>,
    prepared: Mutex<HashMap<SlotModule, Prepared>>,
    /// Why modules were not prepared. Reports show it once a generation needs them.
    refused: Mutex<HashMap<SlotModule, LoadError>>,
    serving: Mutex<BTreeMap<(Role, Slot), Serving>>,
    candidates: Arc<Candidates>,
    /// The number of the generation that serves; 0 before the first.
    number: AtomicU64,
    quick: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    /// The file with the last generation.
    last: PathBuf,
    /// Whether contents and generations are kept in the data directory. A command beside a gateway keeps nothing there.
    keeps: bool,
}

/// The file with the last generation.
#[derive(Serialize, Deserialize)]
struct Last {
    number: u64,
    id: Uuid,
    slots: Vec<LastSlot>,
}

#[derive(Serialize, Deserialize)]
struct LastSlot {
    event_type: String,
    digest: String,
    settings: Option<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Generations {
    pub(super) fn new(
        tools: Arc<Tools>,
        registry: Arc<Registry>,
        board: Arc<Reports>,
        given: Arc<Mutex<LimitDefaults>>,
        candidates: Arc<Candidates>,
        (data_dir, keeps): (&Path, bool),
    ) -> Self {
        let quick = std::thread::available_parallelism().map_or(1, usize::from).min(QUICK_MAX);
        Self {
            tools,
            registry,
            board,
            given,
            prepared: Mutex::default(),
            refused: Mutex::default(),
            serving: Mutex::default(),
            candidates,
            number: AtomicU64::new(0),
            quick: Arc::new(Semaphore::new(quick)),
            heavy: Arc::new(Semaphore::new(quick.div_ceil(2))),
            last: data_dir.join("generation.json"),
            keeps,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number.load(Relaxed)
    }

    /// Loads a module that is to serve, and keeps it until a generation takes it. `content` is only needed if the data
    /// directory has none. Returns whether it redacts.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        wanted: &SlotModule,
        content: Option<Bytes>,
        must_redact: bool,
    ) -> Result<bool, Unprepared> {
        if let Some(redacts) = self.redacts(wanted) {
            // It may have been prepared for somebody who forced it.
            let may_stop = !must_redact || redacts || self.settings(wanted)?.force == Some(wanted.digest);
            return if may_stop { Ok(redacts) } else { Err(Unprepared::Refused(unredacting(wanted.digest))) };
        }
        let loaded = self.load(wanted, content, must_redact, self.keeps).await;
        match &loaded {
            Ok(_) | Err(Unprepared::NoContent | Unprepared::Stopped) => drop(lock(&self.refused).remove(wanted)),
            Err(Unprepared::Refused(refusal)) => {
                let (at, digest) = (wall_time(), Some(wanted.digest));
                let error = LoadError { at, step: State::Refused, digest, refusal: refusal.clone() };
                lock(&self.refused).insert(wanted.clone(), error);
            }
        }
        let prepared = loaded?;
        let redacts = prepared.program.offers().redact;
        lock(&self.prepared).insert(wanted.clone(), prepared);
        Ok(redacts)
    }

    /// Loads a module as [`Generations::prepare`] does, and keeps nothing of it. Without `must_redact` it must do so if the
    /// history says that the module before does.
    pub(super) async fn check(
        self: &Arc<Self>,
        wanted: &SlotModule,
        content: Bytes,
        must_redact: Option<bool>,
    ) -> Result<bool, Unprepared> {
        let must_redact = must_redact.unwrap_or_else(|| self.follows_one_that_redacts(wanted));
        self.load(wanted, Some(content), must_redact, false).await.map(|checked| checked.program.offers().redact)
    }

    /// Whether a module redacts, if it is prepared or serves.
    fn redacts(&self, wanted: &SlotModule) -> Option<bool> {
        if let Some(prepared) = lock(&self.prepared).get(wanted) {
            return Some(prepared.program.offers().redact);
        }
        let serving = lock(&self.serving);
        let entry = serving.get(&wanted.key()).filter(|entry| entry.wanted == *wanted)?;
        entry.module.as_ref().map(|module| module.program().offers().redact)
    }

    async fn load(
        self: &Arc<Self>,
        wanted: &SlotModule,
        content: Option<Bytes>,
        must_redact: bool,
        keep: bool,
    ) -> Result<Prepared, Unprepared> {
        let settings = self.settings(wanted)?;
        let must_redact = must_redact && settings.force != Some(wanted.digest);
        let mut content = content;
        for (lane, places) in [(Lane::Quick, &self.quick), (Lane::Heavy, &self.heavy)] {
            let place = Arc::clone(places).acquire_owned().await.map_err(|_| Unprepared::Stopped)?;
            let (own, asked, given) = (Arc::clone(self), wanted.clone(), content.take());
            // The thread gives the place back, so that it is free although nobody waits for the result any more.
            let load = move || {
                let loaded = own.load_content(&asked, given, settings, lane, keep);
                drop(place);
                loaded
            };
            let loaded = tokio::task::spawn_blocking(load).await.map_err(|_| Unprepared::Stopped)?;
            match loaded {
                (_, Err(Unloaded::Slow)) if lane == Lane::Heavy => return Err(Unprepared::Refused(slow())),
                (whole, Err(Unloaded::Slow)) => content = whole,
                (_, Err(Unloaded::Stopped)) => return Err(Unprepared::Stopped),
                (None, Err(Unloaded::Refused(_))) => return Err(Unprepared::NoContent),
                (Some(_), Err(Unloaded::Refused(refusal))) => return Err(Unprepared::Refused(refusal)),
                (_, Ok(program)) if must_redact && !program.offers().redact => {
                    return Err(Unprepared::Refused(unredacting(wanted.digest)));
                }
                (_, Ok(program)) => return Ok(Prepared { program, settings }),
            }
        }
        Err(Unprepared::Stopped)
    }

    /// Loads a content on this thread. Returns the content too; `None` if there is none.
    fn load_content(
        &self,
        wanted: &SlotModule,
        content: Option<Bytes>,
        settings: Settings,
        lane: Lane,
        keep: bool,
    ) -> (Option<Bytes>, Result<Program, Unloaded>) {
        let SlotModule { slot, digest, .. } = wanted;
        let history = &self.tools.history;
        let content = content.or_else(|| history.content(slot, *digest).ok().flatten().map(Bytes::from));
        let Some(content) = content.filter(|content| Digest::of(content) == *digest) else {
            return (None, Err(Unloaded::Refused(Refusal::new("the content of the module", "none", "give it"))));
        };
        if content.len() as u64 > MODULE_BYTES_MAX {
            let found = format!("{} bytes", content.len());
            let refusal = Refusal::new("a module of 64 MiB at most", found, "build it for size");
            return (Some(content), Err(Unloaded::Refused(refusal)));
        }
        let loaded = load_content(&self.tools, slot, &settings.limits, lane, &content);
        if let Ok(program) = &loaded
            && keep
        {
            let kept = history.put(slot, *digest, &content).and_then(|()| history.forget_prepared(slot));
            let kept = kept.and_then(|()| note_engine(history, slot, *digest, program));
            let noted = kept.and_then(|()| match program.offers().redact {
                true => history.note_redacts(slot, *digest),
                false => Ok(()),
            });
            if let Err(error) = noted {
                tracing::warn!(
                    event_type = %slot, %digest,
                    "this module is not kept in the data directory, so a start without the database cannot serve it: {error}"
                );
            }
        }
        (Some(content), loaded)
    }

    pub(super) fn settings(&self, wanted: &SlotModule) -> Result<Settings, Unprepared> {
        let given = *lock(&self.given);
        let Some(text) = &wanted.settings else { return Ok(Settings::of(given.defaults)) };
        Settings::parse(text, given).map_err(|found| {
            let expected = "settings as docs/validators.md describes them";
            Unprepared::Refused(Refusal::new(expected, found, "mend the settings and push them again"))
        })
    }

    /// Whether the version before takes secrets out of dead letters, by the history on this disk.
    fn follows_one_that_redacts(&self, wanted: &SlotModule) -> bool {
        let newest = self.tools.history.versions(&wanted.slot).ok().and_then(|versions| versions.first().copied());
        let redacts = |digest| self.tools.history.redacts(&wanted.slot, digest);
        newest.is_some_and(|newest| newest.digest != wanted.digest && redacts(newest.digest))
    }

    /// Drops the modules that were prepared and that nobody needs any more.
    pub(super) fn keep_prepared(&self, needed: &HashSet<SlotModule>) {
        lock(&self.prepared).retain(|prepared, _| needed.contains(prepared));
        lock(&self.refused).retain(|refused, _| needed.contains(refused));
    }

    /// Serves a generation, in one step. The events of a slot whose module is not prepared are held: another gateway
    /// judges them by that module, so no other one may judge them here. After that step it waits for the disk.
    pub(super) fn serve(&self, generation: &Generation) {
        let mut serving = lock(&self.serving);
        let mut before = std::mem::take(&mut *serving);
        let mut changed = Vec::new();
        for wanted in &generation.slots {
            let entry = match before.remove(&wanted.key()) {
                Some(kept) if kept.wanted == *wanted && kept.module.is_some() => kept,
                _ => {
                    changed.push(wanted.key());
                    self.begin(wanted)
                }
            };
            serving.insert(wanted.key(), entry);
        }
        for (role, registry) in [(Role::Live, &self.registry), (Role::Candidate, &self.candidates.tried)] {
            let own = serving.iter().filter(|((own, _), _)| *own == role);
            registry.replace(own.map(|((_, slot), entry)| {
                let held = Place::Held(Untried::Unreadable);
                (slot.clone(), entry.module.as_ref().map_or(held, |module| Place::Taken(Arc::clone(module))))
            }));
        }
        self.candidates.sync();
        self.number.store(generation.number, Relaxed);
        for (role, slot) in before.keys().filter(|key| !serving.contains_key(*key)) {
            match role {
                Role::Live => {
                    tracing::warn!(event_type = %slot, generation = generation.number, "the module is taken away");
                    self.board.remove(slot);
                }
                Role::Candidate => {
                    tracing::info!(event_type = %slot, generation = generation.number, "the slot has no candidate any more");
                }
            }
        }
        for key in &changed {
            if let Some(entry) = serving.get_mut(key) {
                self.report(generation.number, entry);
            }
        }
        self.board.scanned();
        self.board.tell();
        drop(serving);
        if self.keeps
            && let Err(error) = self.note_last(generation)
        {
            tracing::warn!("a start without the database cannot serve this generation: {error}");
        }
    }

    fn begin(&self, wanted: &SlotModule) -> Serving {
        let prepared = lock(&self.prepared).remove(wanted);
        let settings = prepared.as_ref().map(|prepared| prepared.settings).or_else(|| self.settings(wanted).ok());
        let settings = settings.unwrap_or_else(|| Settings::of(lock(&self.given).defaults));
        let module = prepared.map(|Prepared { program, settings }| match wanted.role {
            Role::Live => {
                let figures = self.board.figures(&wanted.slot, wanted.digest);
                Arc::new(Module::new(wanted.slot.clone(), wanted.digest, program, settings, figures))
            }
            Role::Candidate => Arc::new(Module::candidate(wanted.slot.clone(), wanted.digest, program, settings)),
        });
        Serving { wanted: wanted.clone(), settings, module, since: wall_time(), versions: Vec::new() }
    }

    /// Keeps the version that begins to serve in the history, reports the slot and logs it.
    fn report(&self, number: u64, entry: &mut Serving) {
        let SlotModule { slot, digest, role, .. } = &entry.wanted;
        if *role == Role::Candidate {
            return self.report_candidate(number, entry);
        }
        let mut last_error = lock(&self.refused).get(&entry.wanted).cloned();
        if entry.module.is_some() {
            tracing::info!(event_type = %slot, %digest, generation = number, "the module is active");
            if self.keeps {
                match self.tools.history.activate(slot, *digest) {
                    Ok(versions) => entry.versions = versions,
                    Err(error) => tracing::warn!(event_type = %slot, %digest, "this version is not kept: {error}"),
                }
            }
        } else {
            let refusal = Refusal::new(
                "a module that this gateway can load, as the others do",
                "one that it could not load",
                "look at this gateway's log and memory; it tries again",
            );
            let error = LoadError { at: wall_time(), step: State::Refused, digest: Some(*digest), refusal };
            let error = last_error.get_or_insert(error);
            tracing::error!(
                event_type = %slot, %digest, generation = number,
                "this gateway cannot serve the module, and holds its events: {}", error.refusal
            );
        }
        let is_active = entry.module.is_some();
        let posted = Posted {
            file: slot.file_of(entry.module.as_ref().map_or(Kind::Module, |module| module.program().kind())),
            state: Arc::new(StateCell::new(if is_active { State::Active } else { State::Refused })),
            serving: entry.module.clone().map(|module| (module, entry.since)),
            settings: entry.settings,
            lost_since: None,
            held: (!is_active).then_some(Untried::Unreadable),
            versions: entry.versions.clone(),
            last_error,
            retry_at: None,
            settings_error: None,
        };
        self.board.post(slot, posted);
    }

    fn report_candidate(&self, number: u64, entry: &Serving) {
        let SlotModule { slot, digest, .. } = &entry.wanted;
        let (mode, percent) = (entry.settings.mode.as_str(), entry.settings.share.percent());
        match &entry.module {
            Some(_) => {
                tracing::info!(event_type = %slot, %digest, generation = number, mode, percent, "a candidate is tried")
            }
            None => tracing::error!(
                event_type = %slot, %digest, generation = number,
                "this gateway cannot try the candidate; the module that serves judges all events"
            ),
        }
    }

    /// The slots of the generation that this gateway cannot serve.
    pub(super) fn held(&self) -> Vec<SlotModule> {
        let serving = lock(&self.serving);
        serving.values().filter(|entry| entry.module.is_none()).map(|entry| entry.wanted.clone()).collect()
    }

    /// Why a module was not prepared the last time.
    pub(super) fn refusal(&self, wanted: &SlotModule) -> Option<Refusal> {
        lock(&self.refused).get(wanted).map(|error| error.refusal.clone())
    }

    fn note_last(&self, generation: &Generation) -> io::Result<()> {
        let slot = |SlotModule { slot, role, digest, settings }: &SlotModule| LastSlot {
            event_type: role.name(slot),
            digest: digest.to_string(),
            settings: settings.clone(),
        };
        let last =
            Last { number: generation.number, id: generation.id, slots: generation.slots.iter().map(slot).collect() };
        replace(&self.last, &serde_json::to_vec(&last)?)
    }

    /// The generation that served here last; `None` if none did.
    pub(super) fn last(&self) -> io::Result<Option<Generation>> {
        let text = match directory::read(&self.last, LAST_BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let last: Last = serde_json::from_slice(&text)?;
        let slot = |LastSlot { event_type, digest, settings }: LastSlot| {
            let (role, slot) = Role::parse(&event_type).map_err(io::Error::other)?;
            Ok(SlotModule { slot, role, digest: digest.parse().map_err(io::Error::other)?, settings })
        };
        let slots = last.slots.into_iter().map(slot).collect::<io::Result<_>>()?;
        Ok(Some(Generation { number: last.number, id: last.id, slots }))
    }
}

fn slow() -> Refusal {
    Refusal::new(
        "a module that loads within its bounds",
        "one that takes longer than a small machine may give it",
        "build it for size, or raise loader_bounds_percent",
    )
}
