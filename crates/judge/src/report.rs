//! Reports for operators and authors about every slot, kept apart from the path of events. The lifecycle posts here;
//! reports read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use eye_event::figures::Distribution;
use eye_event::verdict::Digest;
use serde::Serialize;
use tokio::sync::watch;

use super::circuit::Standing;
use super::component::Isolation;
use super::figures::{Counts, Faults, Figures, Times};
use super::history::Version;
use super::kind::Kind;
use super::module::Module;
use super::naming::Stray;
use super::refusal::Refusal;
use super::registry::Untried;
use super::settings::{Limits, OnFault, Settings};
use super::slot::Slot;
use super::unserved::{self, Candidate, UnservedType};
use super::worker::{State, StateCell};

/// Why the last try to load a file failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadError {
    /// When it failed.
    pub at: DateTime<Utc>,
    /// The step at which it failed.
    pub step: State,
    /// The digest of the content that failed; `None` when it could not be read.
    pub digest: Option<Digest>,
    /// The expectation, the finding, and how its author can mend it.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// The report about one slot.
#[derive(Debug, Clone, Serialize)]
pub struct TypeReport {
    /// The event type as its file is named: `<category>/<name>`, `<category>/_` or `_`.
    pub event_type: String,
    /// The category, if the slot has one.
    pub category: Option<String>,
    /// The name, if the slot has one.
    pub name: Option<String>,
    /// The file, relative to the modules directory.
    pub file: String,
    /// `module` or `schema`: what serves, or what the file is while nothing does.
    pub kind: Kind,
    /// The version of the engine that judges by the schema that serves.
    pub engine: Option<String>,
    /// What the author of the schema that serves may have meant otherwise, each with its line.
    pub warnings: Vec<String>,
    /// `active` when a module serves, even while a newer file is loading or was refused. Otherwise the step of the
    /// file.
    pub state: State,
    /// Why an event of this type has no outcome while no module serves. It is the `code` of the answer.
    pub held: Option<&'static str>,
    /// When the file was lost, together with most others. The last good version serves on until an operator confirms
    /// the loss.
    pub lost_since: Option<DateTime<Utc>>,
    /// The step of a newer file while another module serves.
    pub loading: Option<State>,
    /// Whether the module that serves is healthy, slow or off the path. Off the path, its events are not judged.
    pub standing: Option<Standing>,
    /// The applications for which alone the module is off the path. Empty when it is off for all, or for none.
    pub off_path_for: Vec<String>,
    /// The module that serves now. It may be older than the newest file.
    pub digest: Option<Digest>,
    /// When it began to serve.
    pub since: Option<DateTime<Utc>>,
    /// How its events are kept from seeing each other. The verdict does not depend on it.
    pub isolation: Option<Isolation>,
    /// Why they are kept apart in this way.
    pub isolation_reason: Option<String>,
    /// The module's own summary.
    pub summary: Option<String>,
    /// How many examples the module brought.
    pub examples: usize,
    /// The limits of one call.
    pub limits: Limits,
    /// Whether a fault quarantines the event or asks the sender for a retry.
    pub on_fault: OnFault,
    /// The module exports `redact`.
    pub redacts: bool,
    /// One of its examples is amended, so the module may take secrets out.
    pub amends: bool,
    /// The setting `keep_raw`, if the module has it: whether dead letters keep whole events or nothing of them.
    pub keep_raw: Option<bool>,
    /// Counts of the events that this module got.
    pub counts: Counts,
    /// Times of judging by this module.
    pub judging: Option<Times>,
    /// The versions that served, the newest first; `rollback` puts one back.
    pub versions: Vec<Version>,
    /// Why the newest file is not the one that serves.
    pub last_error: Option<LoadError>,
    /// When the refused file is tried again. Only a file that ran out of time or room, or could not be read, has this.
    pub retry_at: Option<DateTime<Utc>>,
    /// Why the settings file is not in force.
    pub settings_error: Option<LoadError>,
}

/// A file or folder in the modules directory that serves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or folder, relative to the modules directory. `.` is the directory itself.
    pub file: String,
    /// Why it serves nothing.
    pub why: String,
    /// The nearest name under which it would serve, relative to the modules directory.
    pub nearest: Option<String>,
}

/// Counts of doubts: events that are held, or judged by a stand-in, while all other events are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doubts {
    /// Files that were refused, whether or not an older version serves.
    pub refused: usize,
    /// Files that are still loading and for which nothing serves.
    pub loading: usize,
    /// Files and folders that were refused or cannot be read, and for which nothing serves.
    pub unavailable: usize,
    /// Modules that serve on though their files were lost.
    pub lost: usize,
    /// Event types that must have a module and have none.
    pub missing: usize,
    /// The directory, or a folder in it, cannot be read.
    pub unreadable: bool,
}

/// The state of a slot as the lifecycle posts it.
pub(super) struct Posted {
    pub(super) file: PathBuf,
    pub(super) state: Arc<StateCell>,
    pub(super) serving: Option<(Arc<Module>, DateTime<Utc>)>,
    pub(super) settings: Settings,
    pub(super) lost_since: Option<DateTime<Utc>>,
    pub(super) held: Option<Untried>,
    pub(super) versions: Vec<Version>,
    pub(super) last_error: Option<LoadError>,
    pub(super) retry_at: Option<DateTime<Utc>>,
    pub(super) settings_error: Option<LoadError>,
}

#[derive(Default)]
struct Posts {
    slots: BTreeMap<Slot, Posted>,
    strays: BTreeMap<PathBuf, Stray>,
    strays_omitted: usize,
    /// Folders that cannot be read. Events of their categories are held.
    unread: usize,
    /// Why the directory cannot be read, and whether that leaves modules in doubt.
    directory_error: Option<(String, bool)>,
    /// The message about modules that serve on without their files.
    lost: Option<String>,
    /// The counts of each version that serves or could be put back. They go on when it is.
    figures: BTreeMap<Slot, Vec<(Digest, Arc<Figures>)>>,
    /// The judging times of versions that are not kept any more.
    retired: Figures,
    /// The faults of versions that are not kept any more, by slot.
    retired_faults: BTreeMap<Slot, Faults>,
}

impl Posts {
    /// Drops the figures of a slot except for those that `stays` names, and adds their times and faults to those of other
    /// retired versions.
    fn retire(&mut self, slot: &Slot, stays: impl Fn(Digest) -> bool) {
        let Some(figures) = self.figures.get_mut(slot) else { return };
        for (_, gone) in figures.extract_if(.., |(digest, _)| !stays(*digest)) {
            self.retired.add_times(&gone);
            let faults = self.retired_faults.entry(slot.clone()).or_default();
            faults.iter_mut().zip(gone.faults()).for_each(|(sum, count)| *sum += count);
        }
        if figures.is_empty() {
            self.figures.remove(slot);
        }
    }
}

/// The posts and counters of all slots.
pub(super) struct Reports {
    posts: Mutex<Posts>,
    scanned: watch::Sender<bool>,
    changes: watch::Sender<u64>,
    accidents: AtomicU64,
}

impl Reports {
    pub(super) fn new() -> Self {
        Self {
            posts: Mutex::default(),
            scanned: watch::Sender::new(false),
            changes: watch::Sender::new(0),
            accidents: AtomicU64::new(0),
        }
    }

    fn posts(&self) -> MutexGuard<'_, Posts> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn post(&self, slot: &Slot, posted: Posted) {
        let serving = posted.serving.as_ref().map(|(module, _)| module.digest);
        let mut posts = self.posts();
        posts.retire(slot, |digest| {
            serving == Some(digest) || posted.versions.iter().any(|version| version.digest == digest)
        });
        posts.slots.insert(slot.clone(), posted);
    }

    pub(super) fn remove(&self, slot: &Slot) {
        let mut posts = self.posts();
        posts.slots.remove(slot);
        posts.retire(slot, |_| false);
        posts.retired_faults.remove(slot);
    }

    /// Returns the figures of a version. A version that never served gets new ones.
    pub(super) fn figures(&self, slot: &Slot, digest: Digest) -> Arc<Figures> {
        let mut posts = self.posts();
        let figures = posts.figures.entry(slot.clone()).or_default();
        if let Some((_, figures)) = figures.iter().find(|(own, _)| *own == digest) {
            return Arc::clone(figures);
        }
        let new = Arc::new(Figures::default());
        figures.push((digest, Arc::clone(&new)));
        new
    }

    pub(super) fn strays(&self, strays: &BTreeMap<PathBuf, Stray>, omitted: usize) {
        let mut posts = self.posts();
        posts.strays.clone_from(strays);
        posts.strays_omitted = omitted;
    }

    /// Sets how many folders cannot be read. Events of their categories are held.
    pub(super) fn unread(&self, count: usize) {
        self.posts().unread = count;
    }

    /// Sets why the directory cannot be read, and whether that leaves modules in doubt. Logs a change.
    pub(super) fn directory_error(&self, error: Option<(String, bool)>) {
        let mut posts = self.posts();
        if posts.directory_error == error {
            return;
        }
        match &error {
            // A new gateway has none, until the first push makes it.
            Some((error, false)) => tracing::info!("there is no modules directory yet: {error}"),
            Some((error, true)) => {
                tracing::warn!("the modules directory cannot be read, what serves goes on serving: {error}");
            }
            None => tracing::info!("the modules directory can be read"),
        }
        posts.directory_error = error;
    }

    /// Sets the message about modules that serve on without their files.
    pub(super) fn set_lost(&self, lost: Option<String>) {
        self.posts().lost = lost;
    }

    /// Returns that message.
    pub(super) fn lost(&self) -> Option<String> {
        self.posts().lost.clone()
    }

    pub(super) fn count_accident(&self) {
        self.accidents.fetch_add(1, Relaxed);
    }

    /// How often the directory lost most of its files at once.
    pub(super) fn accidents(&self) -> u64 {
        self.accidents.load(Relaxed)
    }

    /// Notes that every file of the first scan was tried.
    pub(super) fn scanned(&self) {
        self.scanned.send_if_modified(|scanned| !std::mem::replace(scanned, true));
    }

    /// Wakes the tasks that wait for a change.
    pub(super) fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn watch_scanned(&self) -> watch::Receiver<bool> {
        self.scanned.subscribe()
    }

    pub(super) fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The reports of all slots, in the order of event types.
    pub(super) fn report(&self) -> Vec<TypeReport> {
        self.posts().slots.iter().map(|(slot, posted)| posted.report(slot)).collect()
    }

    /// The faults of each slot over all its versions, since the slot is there. They never go down meanwhile.
    pub(super) fn slot_faults(&self) -> Vec<(String, Faults)> {
        let posts = self.posts();
        let of = |slot| {
            let mut sum = posts.retired_faults.get(slot).copied().unwrap_or_default();
            for (_, figures) in posts.figures.get(slot).into_iter().flatten() {
                sum.iter_mut().zip(figures.faults()).for_each(|(sum, count)| *sum += count);
            }
            sum
        };
        posts.slots.keys().map(|slot| (slot.to_string(), of(slot))).collect()
    }

    /// The times of judging, over all modules that serve or ever served.
    pub(super) fn judging(&self) -> Distribution {
        let posts = self.posts();
        let sum = Figures::default();
        sum.add_times(&posts.retired);
        for (_, figures) in posts.figures.values().flatten() {
            sum.add_times(figures);
        }
        sum.distribution()
    }

    /// Files that serve nothing, each with the reason, and the directory itself if it cannot be read or lost its files.
    /// `unserved` are the event types that no module judged, each with its nearest file. A module that got no event may
    /// be meant for one of them.
    pub(super) fn problems(&self, unserved: &[UnservedType]) -> Vec<Problem> {
        let posts = self.posts();
        let of_all = |why: &String| Problem { file: ".".into(), why: why.clone(), nearest: None };
        let mut problems: Vec<_> =
            posts.directory_error.iter().map(|(why, _)| of_all(why)).chain(posts.lost.iter().map(of_all)).collect();
        let path = |path: &Path| path.display().to_string();
        let meant = |file: &Path| unserved.iter().find(|one| one.nearest.as_deref() == file.to_str());
        problems.extend(posts.strays.iter().map(|(file, stray)| Problem {
            file: path(file),
            why: stray.why.clone(),
            nearest:
                stray.nearest.as_deref().map(path).or_else(|| {
                    meant(file).map(|one| path(&Slot::Exact(one.category.clone(), one.name.clone()).file()))
                }),
        }));
        if posts.strays_omitted > 0 {
            problems.push(of_all(&format!("{} more files and folders serve nothing", posts.strays_omitted)));
        }
        if unserved.is_empty() {
            return problems;
        }
        for (slot, posted) in posts.slots.iter().filter(|(_, posted)| posted.has_judged_nothing()) {
            let file = path(&posted.file);
            if let Some(meant) = meant(&posted.file) {
                let right = Slot::Exact(meant.category.clone(), meant.name.clone());
                let why = format!(
                    "no event of `{slot}` came since the gateway started, and {} of `{right}` were stored with no \
                     validator: if they are meant, rename the file",
                    meant.stored
                );
                let right = if let Slot::Category(_) = slot { Slot::Category(meant.category.clone()) } else { right };
                problems.push(Problem { file, why, nearest: Some(path(&right.file())) });
            }
        }
        problems
    }

    /// Sets the nearest file of each event type that no module judged.
    pub(super) fn find_nearest(&self, types: &mut [UnservedType]) {
        let candidates: Vec<Candidate> = {
            let posts = self.posts();
            let slots = posts.slots.iter().filter_map(|(slot, posted)| Candidate::of_slot(slot, &posted.file));
            let strays = posts.strays.iter();
            let strays = strays.filter_map(|(file, stray)| Candidate::of_stray(file, stray.nearest.as_deref()));
            slots.chain(strays).collect()
        };
        unserved::find_nearest(types, &candidates);
    }

    /// Counts the doubts.
    pub(super) fn doubts(&self) -> Doubts {
        let posts = self.posts();
        let slots = |is: fn(&Posted) -> bool| posts.slots.values().filter(|posted| is(posted)).count();
        Doubts {
            refused: slots(|posted| posted.last_error.is_some()),
            loading: slots(|posted| posted.held == Some(Untried::Waiting)),
            unavailable: slots(|posted| posted.held == Some(Untried::Unreadable)) + posts.unread,
            lost: slots(|posted| posted.lost_since.is_some()),
            // Only the registry knows which event types must have a module, so [`super::Validators::doubts`] sets this.
            missing: 0,
            unreadable: posts.unread > 0 || posts.directory_error.as_ref().is_some_and(|(_, in_doubt)| *in_doubt),
        }
    }
}

impl Posted {
    /// Whether a module serves that got no event.
    fn has_judged_nothing(&self) -> bool {
        self.serving.as_ref().is_some_and(|(module, _)| module.figures.counts() == Counts::default())
    }

    fn report(&self, slot: &Slot) -> TypeReport {
        let (category, name) = match slot {
            Slot::Any => (None, None),
            Slot::Category(category) => (Some(category.clone()), None),
            Slot::Exact(category, name) => (Some(category.clone()), Some(name.clone())),
        };
        let module = self.serving.as_ref().map(|(module, _)| module);
        let stands = match self.state.get() {
            // The worker changes the state a moment before the lifecycle posts the module. No report may show an active
            // slot without one.
            State::Active if module.is_none() => State::SelfTest,
            state => state,
        };
        let schema = module.and_then(|module| module.program().schema.as_ref());
        let working = !matches!(stands, State::Active | State::Refused);
        TypeReport {
            event_type: slot.to_string(),
            category,
            name,
            file: self.file.display().to_string(),
            kind: module.map_or(Kind::of_file(&self.file).unwrap_or(Kind::Module), |module| module.program().kind()),
            engine: schema.map(|schema| schema.engine.clone()),
            warnings: schema.map(|schema| schema.warnings.clone()).unwrap_or_default(),
            state: if module.is_some() { State::Active } else { stands },
            held: self.held.map(|why| why.code().as_str()),
            lost_since: self.lost_since,
            loading: (module.is_some() && working).then_some(stands),
            standing: module.map(|module| module.circuit.standing()),
            off_path_for: module.map(|module| module.circuit.off_path_for()).unwrap_or_default(),
            digest: module.map(|module| module.digest),
            since: self.serving.as_ref().map(|(_, since)| *since),
            isolation: module.map(|module| module.program().isolation()),
            isolation_reason: module.map(|module| module.program().isolation_reason.clone()),
            summary: module.map(|module| module.program().summary.clone()),
            examples: module.map_or(0, |module| module.program().examples),
            limits: self.settings.limits,
            on_fault: self.settings.on_fault,
            redacts: module.is_some_and(|module| module.program().offers().redact),
            amends: module.is_some_and(|module| module.program().amends),
            keep_raw: self.settings.keep_raw,
            counts: module.map(|module| module.figures.counts()).unwrap_or_default(),
            judging: module.and_then(|module| module.figures.times()),
            versions: self.versions.clone(),
            last_error: self.last_error.clone(),
            retry_at: self.retry_at.filter(|_| !working),
            settings_error: self.settings_error.clone(),
        }
    }
}
