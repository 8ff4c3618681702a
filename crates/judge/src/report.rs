//! What operators and authors are told of every slot, kept apart from the path of events: the life of slots posts here,
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
use super::figures::{Counts, Figures, Times};
use super::history::Version;
use super::module::Module;
use super::naming::Stray;
use super::refusal::Refusal;
use super::registry::Untried;
use super::settings::{Limits, OnFault, Settings};
use super::slot::Slot;
use super::unserved::{self, Candidate, UnservedType};
use super::worker::{State, StateCell};

/// Why the last load failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadError {
    /// When it failed.
    pub at: DateTime<Utc>,
    /// The step at which it failed.
    pub step: State,
    /// Which content failed; none when it could not be read.
    pub digest: Option<Digest>,
    /// What was expected, what was found, how to mend it.
    #[serde(flatten)]
    pub refusal: Refusal,
}

/// What is told of one slot.
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
    /// `active` when a module serves, also while a newer file is looked at or was refused; else where the file stands.
    pub state: State,
    /// Why an event of this type has no outcome while no module serves: the `code` of its answer.
    pub held: Option<&'static str>,
    /// Since when the file is lost, together with most others: the last good version serves on until somebody confirms.
    pub lost_since: Option<DateTime<Utc>>,
    /// What is being done with a newer file while another module serves.
    pub loading: Option<State>,
    /// How the module that serves stands: off the path, its events are not judged.
    pub standing: Option<Standing>,
    /// The applications for which alone it is off the path; empty when it is for all, or for nobody.
    pub off_path_for: Vec<String>,
    /// The module that serves now, which may be older than the newest file.
    pub digest: Option<Digest>,
    /// Since when it serves.
    pub since: Option<DateTime<Utc>>,
    /// How its events are kept from seeing each other; the verdict does not depend on it.
    pub isolation: Option<Isolation>,
    /// Why it is that way.
    pub isolation_reason: Option<String>,
    /// What the module says of itself.
    pub summary: Option<String>,
    /// How many examples it brought.
    pub examples: usize,
    /// What one call may use.
    pub limits: Limits,
    /// What a fault means for the sender.
    pub on_fault: OnFault,
    /// It says what may be kept of events that are not stored.
    pub redacts: bool,
    /// One of its examples is amended, so it may take secrets out.
    pub amends: bool,
    /// What its settings say of that instead.
    pub keep_raw: Option<bool>,
    /// What became of the events put to this module.
    pub counts: Counts,
    /// How long judging took.
    pub judging: Option<Times>,
    /// The versions that served, the newest first; `rollback` puts one back.
    pub versions: Vec<Version>,
    /// Why the newest file is not the one that serves.
    pub last_error: Option<LoadError>,
    /// When that file is tried again, if it only ran out of time or room or could not be read.
    pub retry_at: Option<DateTime<Utc>>,
    /// Why the settings file is not in force.
    pub settings_error: Option<LoadError>,
}

/// What lies in the modules directory and serves nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file or folder, relative to the modules directory; `.` is that itself.
    pub file: String,
    /// Why it serves nothing.
    pub why: String,
    /// The nearest name under which it would serve, relative to the modules directory.
    pub nearest: Option<String>,
}

/// How much is in doubt: what is closed, or stands in for something else, while all else is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Doubts {
    /// Files that were refused, whether or not an older version serves.
    pub refused: usize,
    /// Files for which nothing serves, and that are still being loaded.
    pub loading: usize,
    /// Files and folders for which nothing serves, since they were refused or cannot be read.
    pub unavailable: usize,
    /// Modules that serve on though their files were lost.
    pub lost: usize,
    /// Event types that must have a module and have none.
    pub missing: usize,
    /// The directory, or a folder in it, cannot be read.
    pub unreadable: bool,
}

/// What the life of a slot posts.
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
    /// Folders that cannot be read, and whose events are held.
    unread: usize,
    /// Why the directory cannot be read, and whether that leaves anything in doubt.
    directory_error: Option<(String, bool)>,
    /// Which modules serve on without their files.
    lost: Option<String>,
    /// What each version did that serves or could be put back: it counts on when it is.
    figures: BTreeMap<Slot, Vec<(Digest, Arc<Figures>)>>,
    /// The judging times of versions that are not kept any more.
    retired: Figures,
}

impl Posts {
    /// Ends the figures of a slot but for those that `stay`.
    fn retire(&mut self, slot: &Slot, stays: impl Fn(Digest) -> bool) {
        let Some(figures) = self.figures.get_mut(slot) else { return };
        for (_, gone) in figures.extract_if(.., |(digest, _)| !stays(*digest)) {
            self.retired.add_times(&gone);
        }
        if figures.is_empty() {
            self.figures.remove(slot);
        }
    }
}

/// The board itself.
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
    }

    /// The figures of a version, new ones if it never served.
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

    /// Notes how many folders cannot be read, so that events are held.
    pub(super) fn unread(&self, count: usize) {
        self.posts().unread = count;
    }

    /// Notes whether the directory can be read, and whether that leaves anything in doubt; logs when that changes.
    pub(super) fn directory_error(&self, error: Option<(String, bool)>) {
        let mut posts = self.posts();
        if posts.directory_error == error {
            return;
        }
        match &error {
            Some((error, _)) => {
                tracing::warn!("the modules directory cannot be read, what serves goes on serving: {error}");
            }
            None => tracing::info!("the modules directory can be read"),
        }
        posts.directory_error = error;
    }

    /// Notes which modules serve on without their files.
    pub(super) fn set_lost(&self, lost: Option<String>) {
        self.posts().lost = lost;
    }

    /// What is told of them.
    pub(super) fn lost(&self) -> Option<String> {
        self.posts().lost.clone()
    }

    pub(super) fn count_accident(&self) {
        self.accidents.fetch_add(1, Relaxed);
    }

    /// How often most files of the directory were lost at once.
    pub(super) fn accidents(&self) -> u64 {
        self.accidents.load(Relaxed)
    }

    /// Notes that every file of the first scan was tried.
    pub(super) fn scanned(&self) {
        self.scanned.send_if_modified(|scanned| !std::mem::replace(scanned, true));
    }

    /// Wakes those who wait for a change.
    pub(super) fn tell(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn watch_scanned(&self) -> watch::Receiver<bool> {
        self.scanned.subscribe()
    }

    pub(super) fn watch_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Everything, in the order of event types.
    pub(super) fn report(&self) -> Vec<TypeReport> {
        self.posts().slots.iter().map(|(slot, posted)| posted.report(slot)).collect()
    }

    /// How long judging took, over all modules that serve or ever served.
    pub(super) fn judging(&self) -> Distribution {
        let posts = self.posts();
        let sum = Figures::default();
        sum.add_times(&posts.retired);
        for (_, figures) in posts.figures.values().flatten() {
            sum.add_times(figures);
        }
        sum.distribution()
    }

    /// Files that serve nothing, and why; and the directory itself, if it cannot be read or lost its files. `unserved` are
    /// the event types that nobody judged, each with its nearest file: a module that judges nothing may be meant for one.
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

    /// Finds the nearest file of each event type that nobody judged.
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

    /// How much is in doubt.
    pub(super) fn doubts(&self) -> Doubts {
        let posts = self.posts();
        let slots = |is: fn(&Posted) -> bool| posts.slots.values().filter(|posted| is(posted)).count();
        Doubts {
            refused: slots(|posted| posted.last_error.is_some()),
            loading: slots(|posted| posted.held == Some(Untried::Waiting)),
            unavailable: slots(|posted| posted.held == Some(Untried::Unreadable)) + posts.unread,
            lost: slots(|posted| posted.lost_since.is_some()),
            // What must be there, the registry knows.
            missing: 0,
            unreadable: posts.unread > 0 || posts.directory_error.as_ref().is_some_and(|(_, in_doubt)| *in_doubt),
        }
    }
}

impl Posted {
    /// Whether a module serves that no event came to.
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
            // The state moves by itself, a moment before what serves is posted: nobody is told of an active module without one.
            State::Active if module.is_none() => State::SelfTest,
            state => state,
        };
        let working = !matches!(stands, State::Active | State::Refused);
        TypeReport {
            event_type: slot.to_string(),
            category,
            name,
            file: self.file.display().to_string(),
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
