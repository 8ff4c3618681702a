//! What operators and authors are told of every slot, kept apart from the path of events: the life of slots posts here,
//! reports read here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;

use super::circuit::Standing;
use super::figures::{Counts, Figures, Times};
use super::history::Version;
use super::module::Module;
use super::settings::{Limits, OnFault, Settings};
use super::slot::Slot;
use super::worker::{State, StateCell};
use super::world::Refusal;
use crate::figures::Distribution;
use crate::verdict::Digest;

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
    /// What the module says of itself.
    pub summary: Option<String>,
    /// How many examples it brought.
    pub examples: usize,
    /// What one call may use.
    pub limits: Limits,
    /// What a fault means for the sender.
    pub on_fault: OnFault,
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
}

/// What the life of a slot posts.
pub(super) struct Posted {
    pub(super) file: PathBuf,
    pub(super) state: Arc<StateCell>,
    pub(super) serving: Option<(Arc<Module>, DateTime<Utc>)>,
    pub(super) settings: Settings,
    pub(super) versions: Vec<Version>,
    pub(super) last_error: Option<LoadError>,
    pub(super) retry_at: Option<DateTime<Utc>>,
    pub(super) settings_error: Option<LoadError>,
}

#[derive(Default)]
struct Posts {
    slots: BTreeMap<Slot, Posted>,
    strays: BTreeMap<PathBuf, String>,
    directory_error: Option<String>,
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
pub(super) struct Board {
    posts: Mutex<Posts>,
    scanned: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

impl Board {
    pub(super) fn new() -> Self {
        Self { posts: Mutex::default(), scanned: watch::Sender::new(false), changes: watch::Sender::new(0) }
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

    pub(super) fn strays(&self, strays: &BTreeMap<PathBuf, String>) {
        self.posts().strays.clone_from(strays);
    }

    /// Notes whether the directory can be read, and logs when that changes.
    pub(super) fn directory_error(&self, error: Option<String>) {
        let mut posts = self.posts();
        if posts.directory_error == error {
            return;
        }
        match &error {
            Some(error) => tracing::warn!("the modules directory cannot be read, what serves goes on serving: {error}"),
            None => tracing::info!("the modules directory can be read"),
        }
        posts.directory_error = error;
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

    /// Files that serve nothing, and why; and the directory itself, if it cannot be read.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let posts = self.posts();
        let problem = |(file, why): (&Path, &String)| Problem { file: file.display().to_string(), why: why.clone() };
        let directory = posts.directory_error.iter().map(|why| (Path::new("."), why));
        directory.chain(posts.strays.iter().map(|(file, why)| (file.as_path(), why))).map(problem).collect()
    }
}

impl Posted {
    fn report(&self, slot: &Slot) -> TypeReport {
        let (category, name) = match slot {
            Slot::Any => (None, None),
            Slot::Category(category) => (Some(category.clone()), None),
            Slot::Exact(category, name) => (Some(category.clone()), Some(name.clone())),
        };
        let module = self.serving.as_ref().map(|(module, _)| module);
        let stands = self.state.get();
        let working = !matches!(stands, State::Active | State::Refused);
        TypeReport {
            event_type: slot.to_string(),
            category,
            name,
            file: self.file.display().to_string(),
            state: if module.is_some() { State::Active } else { stands },
            loading: (module.is_some() && working).then_some(stands),
            standing: module.map(|module| module.circuit.standing()),
            off_path_for: module.map(|module| module.circuit.off_path_for()).unwrap_or_default(),
            digest: module.map(|module| module.digest),
            since: self.serving.as_ref().map(|(_, since)| *since),
            summary: module.map(|module| module.program().summary.clone()),
            examples: module.map_or(0, |module| module.program().examples),
            limits: self.settings.limits,
            on_fault: self.settings.on_fault,
            counts: module.map(|module| module.figures.counts()).unwrap_or_default(),
            judging: module.and_then(|module| module.figures.times()),
            versions: self.versions.clone(),
            last_error: self.last_error.clone(),
            retry_at: self.retry_at.filter(|_| !working),
            settings_error: self.settings_error.clone(),
        }
    }
}
