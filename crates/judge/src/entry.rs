//! One slot as the lifecycle thread knows it: its file, the settings of its file, the module that serves, and the outcome
//! of the last load. An entry decides what an outcome changes for its own slot. It leaves the directory, the queue and the
//! workers to the lifecycle.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Release};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;

use super::component::Program;
use super::directory::{self, Found};
use super::files::wall_time;
use super::happening::Happening;
use super::history::Version;
use super::kind::settings_of;
use super::module::Module;
use super::refusal::Refusal;
use super::registry::{Place, Untried};
use super::report::{LoadError, Posted, Reports};
use super::settings::{LimitDefaults, Settings};
use super::slot::Slot;
use super::worker::{Outcome, State, StateCell};

/// How long the content of a file must rest before a failure to load counts. The lifecycle waits as long before it unloads
/// a module whose file is missing: an operator who copies a directory anew brings its files one after the other.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// First pause before the retry of a file that ran out of time or room. Each pause is twice the one before, up to a rescan.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Tries of a file of the start that runs out of time or room. After these its events no longer wait for it, so that one
/// bad file cannot keep the gateway from being ready.
pub(super) const TRIES_MAX: u32 = 3;

/// Pause before the gateway reads an unreadable file again.
const UNREADABLE_PAUSE: Duration = Duration::from_millis(250);

/// Pause before the history tries again to keep a version that serves.
const UNKEPT_PAUSE: Duration = Duration::from_secs(2);

/// Most bytes of a settings file.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// The state of one slot. The lifecycle thread owns it and is the only one that reads or writes it.
pub(super) struct Entry {
    /// Number of this life of the slot. The lifecycle drops answers of workers that carry another one.
    pub(super) generation: u64,
    /// The file as the last scan showed it. Scans compare it, jobs take their path from it.
    pub(super) found: Found,
    /// The last scan that could read the folder showed the file. Outcomes of a file that is not present are no refusals.
    pub(super) present: bool,
    /// Why workers must not load the file. Each job carries it.
    pub(super) barred: Option<Refusal>,
    /// A wider module judged these events when the file came. The registry lets it judge on until this slot serves.
    pub(super) yields: bool,
    /// Since when the file is lost together with most others. The module serves on until an operator retires it; reports show
    /// the time.
    pub(super) lost: Option<DateTime<Utc>>,
    /// Step of the load. The worker sets it, reports read it.
    pub(super) state: Arc<StateCell>,
    /// Digest of the content seen last, and since when. The next job does not load the same content again.
    pub(super) content: Option<(Digest, Instant)>,
    /// Why that content failed to load. It becomes a refusal once the content has rested for the settle time.
    refusal: Option<(State, Refusal)>,
    /// When the lifecycle queues the file again, whatever the directory shows.
    pub(super) look_at: Option<Instant>,
    /// When a worker first took the file since it became readable. Bounds how long its events wait for it.
    pub(super) looked_since: Option<Instant>,
    /// Loads since then that ran out of time or room. Compared with [`TRIES_MAX`] after each load.
    pub(super) tries: u32,
    /// Retries of this content. Each doubles the pause before the next.
    retries: u32,
    /// Wall time of the next try. Reports show it to the operator.
    pub(super) retry_at: Option<DateTime<Utc>>,
    /// The slot is in the queue or with a worker, so it is not queued once more.
    pub(super) loading: bool,
    /// Raised when the file changed or went. The worker reads it and stops.
    pub(super) cancelled: Arc<AtomicBool>,
    /// The load goes on in the heavy lane. A new version of the file does not wait for it.
    pub(super) heavy: bool,
    /// The file changed while a worker had it. The lifecycle queues it again when the worker answers.
    pub(super) again: bool,
    /// The next job loads the file even if its content is known: something other than its content may have mended it.
    pub(super) anew: bool,
    /// The version that serves was taken back. The next job looks for another one.
    pub(super) displaced: bool,
    /// What was taken back while a worker had the file.
    pub(super) taken_back: Vec<Digest>,
    /// The version that was taken back, while a worker looks for another one. Without another one none serves.
    pub(super) ousted: Option<Digest>,
    /// The history could not keep the version that serves. The next job tries again.
    pub(super) unkept: bool,
    /// No kept version can serve in place of the file either. The next job does not look for one.
    pub(super) forsaken: bool,
    /// A module was taken since the last publication, which logs it.
    taken: bool,
    /// The module that served before the last load, or before this process started.
    pub(super) served_last: Option<Digest>,
    /// Changes since the last publication, which passes them to the observer.
    pub(super) happenings: Vec<Happening>,
    /// The file was refused since the last publication, which then sets the state.
    pub(super) refused: bool,
    /// Since when the file is missing. The lifecycle unloads the module after a while.
    pub(super) missing_since: Option<Instant>,
    /// The settings in force. The next module is made with them.
    pub(super) settings: Settings,
    /// The text of these settings. The roster keeps it for the next start.
    pub(super) settings_text: Option<String>,
    /// New limits that are not in force yet. The next job loads the module that serves with them first.
    pub(super) wanted: Option<(Settings, Option<String>)>,
    /// The settings of the load under way. Its outcome puts them in force.
    pub(super) trying: Settings,
    /// Loads that failed with the new limits for a passing reason. Bounds their retries.
    settings_tries: u32,
    /// The settings file was read well once. After that, a broken one leaves the last good settings in force.
    settings_read: bool,
    /// Kept versions of the slot, the newest first. Reports list them.
    pub(super) versions: Vec<Version>,
    /// Why the file was refused. Reports and the registry read it.
    last_error: Option<LoadError>,
    /// Why the settings file was refused. Reports read it.
    settings_error: Option<LoadError>,
    /// The module that judges, and since when. The registry takes it at each publication.
    pub(super) serving: Option<(Arc<Module>, DateTime<Utc>)>,
}

/// Result of reading the settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing changes for the module.
    None,
    /// The module that serves has new settings from the next registry on.
    InForce,
    /// The file must be loaded with the new settings.
    ToLoad,
}

impl Entry {
    /// The entry of a file that no worker has taken yet.
    pub(super) fn new(generation: u64, found: Found, given: LimitDefaults) -> Self {
        Self {
            generation,
            found,
            present: false,
            barred: None,
            yields: false,
            lost: None,
            state: Arc::new(StateCell::new(State::Settling)),
            content: None,
            refusal: None,
            look_at: None,
            looked_since: None,
            tries: 0,
            retries: 0,
            retry_at: None,
            loading: false,
            cancelled: Arc::default(),
            heavy: false,
            again: false,
            anew: false,
            displaced: false,
            taken_back: Vec::new(),
            ousted: None,
            unkept: false,
            forsaken: false,
            taken: false,
            served_last: None,
            happenings: Vec::new(),
            refused: false,
            missing_since: None,
            settings: Settings::of(given.defaults),
            settings_text: None,
            wanted: None,
            trying: Settings::of(given.defaults),
            settings_tries: 0,
            settings_read: false,
            versions: Vec::new(),
            last_error: None,
            settings_error: None,
            serving: None,
        }
    }

    /// Whether the current file was refused, or is about to be.
    pub(super) fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.last_error.is_some()
    }

    /// Whether the lifecycle knows which module judges these events: the one of the file, the one that served before, or
    /// none.
    pub(super) fn is_decided(&self) -> bool {
        let rests = self.content.is_some() && self.refusal.is_none() && self.retry_at.is_none();
        self.serving.is_some() || rests || self.barred.is_some()
    }

    /// The place of this slot in the next registry.
    pub(super) fn place(&self) -> Place {
        if let Some((module, _)) = &self.serving {
            return Place::Taken(Arc::clone(module));
        }
        // A file that ran out of time or room is retried. During its first tries it counts as still loading.
        let is_tried_again = self.retry_at.is_some() && self.content.is_some() && self.tries < TRIES_MAX;
        let is_refused = self.last_error.is_some() || self.lost.is_some();
        let why = if is_refused && !is_tried_again { Untried::Unreadable } else { Untried::Waiting };
        if self.yields { Place::Yielding(why) } else { Place::Held(why) }
    }

    /// The content of the reports on this slot.
    pub(super) fn posted(&self) -> Posted {
        Posted {
            file: self.found.file.clone(),
            state: Arc::clone(&self.state),
            serving: self.serving.clone(),
            settings: self.settings,
            lost_since: self.lost,
            held: match self.place() {
                Place::Taken(_) => None,
                Place::Held(why) | Place::Yielding(why) => Some(why),
            },
            versions: self.versions.clone(),
            last_error: self.last_error.clone(),
            retry_at: self.retry_at,
            settings_error: self.settings_error.clone(),
        }
    }

    /// Decides whether workers may load the file. Returns true when that differs from before.
    pub(super) fn bar(&mut self) -> bool {
        let barred = match self.found.others.first() {
            Some(other) => Some(Refusal::new(
                "one file for this event type",
                format!("{} and {}", self.found.file.display(), other.display()),
                "remove all but one of them",
            )),
            None if !self.settings_read => self.settings_error.as_ref().map(|error| error.refusal.clone()),
            None => None,
        };
        std::mem::replace(&mut self.barred, barred) != self.barred
    }

    /// Clears everything that concerns a file, since there is none to load or report.
    pub(super) fn rest_without_file(&mut self) {
        self.last_error.take_if(|error| error.digest.is_none());
        (self.look_at, self.retry_at, self.refused) = (None, None, false);
        self.state.set(if self.serving.is_some() { State::Active } else { State::Refused });
    }

    /// Takes the answer to a job of a barred file: the module that served last serves on.
    fn stay_barred(&mut self, slot: &Slot) {
        self.content = None;
        match self.barred.clone() {
            // The report of missing files covers it.
            Some(_) if !self.present => self.rest_without_file(),
            Some(refusal) => self.refuse(slot, State::Settling, None, refusal),
            None => self.look_at = Some(Instant::now()),
        }
    }

    /// Cancels a load in the heavy lane, since the file is another one by now. The new generation makes its answer void.
    pub(super) fn let_go_of_heavy(&mut self, generation: u64) {
        if !self.heavy {
            return;
        }
        self.cancelled.store(true, Release);
        self.cancelled = Arc::default();
        self.generation = generation;
        self.state = Arc::new(StateCell::new(State::Settling));
        (self.heavy, self.loading) = (false, false);
    }

    /// Takes the outcome of a load. `root` is the modules directory, `rescan` the longest pause before a retry.
    pub(super) fn take_outcome(
        &mut self,
        slot: &Slot,
        outcome: Outcome,
        now: Instant,
        root: &Path,
        rescan: Duration,
        board: &Reports,
    ) {
        match outcome {
            Outcome::Same => self.rested(slot, now),
            Outcome::Serving(digest) => self.came_back(digest, now),
            Outcome::Loaded(digest, program) => {
                self.take(digest, now);
                self.put_in_force();
                self.serve(slot, digest, program, board);
            }
            // What was taken back is refused for itself, and not for its new limits.
            Outcome::Refused(digest, step, refusal) if self.ousted != Some(digest) && self.tries_limits_on(digest) => {
                self.refuse_limits(slot, step, digest, refusal, now);
            }
            Outcome::Refused(digest, step, refusal) if refusal.passing => {
                self.tries = self.tries.saturating_add(1);
                self.retry(digest, now, rescan);
                self.refuse(slot, step, Some(digest), refusal);
            }
            Outcome::Refused(digest, step, refusal) => {
                self.content = Some((digest, now));
                self.refusal = Some((step, refusal));
                self.settle(now + SETTLE);
            }
            // The module that served before, if any, serves until the heavy lane answers.
            Outcome::Heavy => {}
            Outcome::Rewritten => {
                self.content = None;
                self.settle(now + SETTLE);
            }
            // Only a scan of a directory at rest decides that a file is gone.
            Outcome::Unreadable(_) if !self.present || is_gone(&root.join(&self.found.file)) => {
                self.content = None;
                self.rest_without_file();
            }
            Outcome::Unreadable(error) => self.refuse_unreadable(slot, &error, now),
            Outcome::Barred => self.stay_barred(slot),
        }
    }

    /// Lets a version serve no more, if it does. A candidate ends at once; another one serves until a worker has looked for
    /// the version before. Returns whether the registry must change.
    pub(super) fn displace(&mut self, digest: Digest, is_of_candidates: bool) -> bool {
        if self.serving.as_ref().is_none_or(|(module, _)| module.digest != digest) {
            return false;
        }
        self.displaced = !is_of_candidates;
        is_of_candidates && self.serving.take().is_some()
    }

    /// Lets a version that was taken back serve no more, after a worker found no other one. Its events wait then: they
    /// are stored neither unjudged nor judged by what the guard does not trust.
    pub(super) fn oust(&mut self, slot: &Slot) {
        if self.heavy {
            return;
        }
        let Some(ousted) = self.ousted.take() else { return };
        // A file that forces it was loaded anew meanwhile.
        if self.content.is_some_and(|(digest, _)| digest == ousted) && self.refusal.is_none() {
            return;
        }
        if self.serving.take_if(|(module, _)| module.digest == ousted).is_some() {
            tracing::error!(
                event_type = %slot, digest = %ousted,
                "the module was taken back, and no version before it is here: its events wait until its file is mended"
            );
        }
    }

    /// Whether a failed load was one of the module that serves, with new limits.
    fn tries_limits_on(&self, digest: Digest) -> bool {
        let serves = self.serving.as_ref().is_some_and(|(module, _)| module.digest == digest);
        serves && self.wanted.as_ref().is_some_and(|(wanted, _)| *wanted == self.trying)
    }

    /// Keeps the limits in force, since the module that serves does not load with the new ones.
    fn refuse_limits(&mut self, slot: &Slot, step: State, digest: Digest, refusal: Refusal, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        self.last_error = None;
        self.state.set(State::Active);
        self.settings_tries += 1;
        if refusal.passing && self.settings_tries < TRIES_MAX {
            self.anew = true;
            self.look_again(now, RETRY_PAUSE * self.settings_tries);
        }
        let found = format!("with these limits: {}", refusal.found);
        let refusal = Refusal::new(refusal.expected, found, "give it more; the last good settings stay in force");
        if self.settings_error.as_ref().is_none_or(|last| last.refusal != refusal) {
            tracing::warn!(event_type = %slot, "the settings are refused: {refusal}");
            self.settings_error = Some(LoadError { at: wall_time(), step, digest: Some(digest), refusal });
        }
    }

    /// Puts the settings in force with which the module was loaded.
    fn put_in_force(&mut self) {
        let wanted = self.wanted.take_if(|(wanted, _)| *wanted == self.trying);
        if let Some((settings, text)) = wanted {
            (self.settings, self.settings_text, self.settings_error) = (settings, text, None);
        } else if self.wanted.is_none() && self.settings != self.trying {
            // The settings changed during the load. The next load takes the current ones.
            self.wanted = Some((self.settings, self.settings_text.take()));
            self.settings = self.trying;
        }
    }

    /// Plans another try of content that was whole, since the machine may have been too busy for it.
    fn retry(&mut self, digest: Digest, now: Instant, rescan: Duration) {
        if self.content.is_none_or(|(seen, _)| seen != digest) {
            self.retries = 0;
        }
        let pause = RETRY_PAUSE.saturating_mul(1 << self.retries.min(16)).min(rescan);
        self.retries = self.retries.saturating_add(1);
        self.content = Some((digest, now));
        self.refusal = None;
        self.anew = true;
        self.look_again(now, pause);
    }

    /// Plans another look, and shows the operator when.
    fn look_again(&mut self, now: Instant, pause: Duration) {
        self.look_at = Some(now + pause);
        self.retry_at = Some(wall_time() + pause);
    }

    /// Refuses a file that the gateway cannot read, and plans to read it again soon.
    fn refuse_unreadable(&mut self, slot: &Slot, error: &str, now: Instant) {
        self.content = None;
        (self.looked_since, self.tries) = (None, 0);
        self.look_again(now, UNREADABLE_PAUSE);
        let expected = "a file that the gateway may read";
        self.refuse(slot, State::Settling, None, Refusal::new(expected, error, "check its owner and mode"));
    }

    /// Notes whether the history keeps the version that serves, and plans another try if not.
    pub(super) fn note_unkept(&mut self, unkept: Option<Refusal>, now: Instant, rescan: Duration) {
        let digest = self.serving.as_ref().map(|(module, _)| module.digest);
        match unkept {
            Some(refusal) => {
                self.unkept = true;
                self.look_again(now, UNKEPT_PAUSE.min(rescan));
                self.last_error = Some(LoadError { at: wall_time(), step: State::Active, digest, refusal });
            }
            None if self.unkept && self.last_error.as_ref().is_none_or(|last| last.step == State::Active) => {
                self.unkept = false;
                self.last_error = None;
            }
            None => {}
        }
    }

    /// Waits until `look_at` for the file to come to rest.
    fn settle(&mut self, look_at: Instant) {
        self.refused = false;
        self.state.set(State::Settling);
        self.look_at = Some(look_at);
    }

    /// Takes content that has not changed since the last look: its failure counts once it has rested.
    fn rested(&mut self, slot: &Slot, now: Instant) {
        let Some((digest, since)) = self.content else {
            return;
        };
        match self.refusal.take() {
            Some((step, refusal)) if now >= since + SETTLE => self.refuse(slot, step, Some(digest), refusal),
            Some(refusal) => {
                self.refusal = Some(refusal);
                self.look_at = Some(since + SETTLE);
            }
            None => {}
        }
    }

    /// Takes content that serves already.
    fn came_back(&mut self, digest: Digest, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        self.retries = 0;
        self.last_error = None;
        self.refused = false;
        self.state.set(State::Active);
    }

    /// Reports a refusal and logs it, unless the last one was the same.
    fn refuse(&mut self, slot: &Slot, step: State, digest: Option<Digest>, refusal: Refusal) {
        self.refused = true;
        if self.last_error.as_ref().is_some_and(|last| last.digest == digest && last.refusal == refusal) {
            return;
        }
        let again = if refusal.passing { ", and tried again soon" } else { "" };
        tracing::warn!(event_type = %slot, file = %self.found.file.display(), "the module is refused{again}: {refusal}");
        self.happenings.push(Happening::Refused { digest, why: refusal.to_string() });
        self.last_error = Some(LoadError { at: wall_time(), step, digest, refusal });
    }

    /// Takes new content that loaded.
    fn take(&mut self, digest: Digest, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        self.retries = 0;
        self.last_error = None;
        self.refused = false;
        self.taken = true;
        // A write within one tick of the file system's clock changes nothing but the content, so the file is read once more.
        self.look_at = Some(now + SETTLE);
    }

    /// Lets a program judge from the next registry on.
    pub(super) fn serve(&mut self, slot: &Slot, digest: Digest, program: Program, board: &Reports) {
        let module = Module::new(slot.clone(), digest, program, self.settings, board.figures(slot, digest));
        self.serving = Some((Arc::new(module), wall_time()));
    }

    /// Logs that the new module serves or is tried, once the registry has it.
    pub(super) fn tell_taken(&mut self, slot: &Slot, is_candidate: bool) {
        if std::mem::take(&mut self.taken)
            && let Some((module, _)) = &self.serving
        {
            self.state.set(State::Active);
            if is_candidate {
                let (mode, percent) = (self.settings.mode.as_str(), self.settings.share.percent());
                tracing::info!(event_type = %slot, digest = %module.digest, mode, percent, "a candidate is tried");
            } else {
                tracing::info!(event_type = %slot, digest = %module.digest, "the module is active");
            }
            let (digest, before) = (module.digest, self.served_last);
            if before != Some(digest) {
                self.happenings.push(Happening::Replaced { digest, before });
            }
        }
    }

    /// Restores the settings that were in force before the restart, since the settings file may be broken by now.
    pub(super) fn recall_settings(&mut self, text: Option<&Option<String>>, given: LimitDefaults) {
        let Some(text) = text else { return };
        let settings = text.as_ref().map_or(Ok(Settings::of(given.defaults)), |text| Settings::parse(text, given));
        if let Ok(settings) = settings {
            (self.settings, self.settings_text, self.settings_read) = (settings, text.clone(), true);
        }
    }

    /// Reads the settings file again. With `with_content`, the content of the module is another one too: then the settings
    /// belong to that content, and are in force once it serves.
    pub(super) fn read_settings(&mut self, root: &Path, given: LimitDefaults, with_content: bool) -> Change {
        let path = root.join(settings_of(&self.found.file));
        let read = match &self.found.settings {
            None => Ok((Settings::of(given.defaults), None)),
            Some(_) => settings_text(root, &path)
                .and_then(|text| Settings::parse(&text, given).map(|settings| (settings, Some(text)))),
        };
        self.settings_tries = 0;
        let (settings, text) = match read {
            Ok(read) => read,
            Err(found) => {
                let expected = "settings as docs/validators.md describes them";
                let mend = if self.settings_read {
                    "mend the file; the last good settings stay in force"
                } else {
                    "mend the file; until then the module is not taken, since nobody knows with which limits"
                };
                let refusal = Refusal::new(expected, found, mend);
                tracing::warn!(file = %path.display(), "the settings are refused: {refusal}");
                self.settings_error = Some(LoadError { at: wall_time(), step: State::Checking, digest: None, refusal });
                self.wanted = None;
                return Change::None;
            }
        };
        self.settings_read = true;
        self.settings_error = None;
        self.wanted = None;
        let waits = settings.limits != self.settings.limits || with_content && settings != self.settings;
        if let Some((module, _)) = &mut self.serving
            && waits
        {
            if settings.keep_raw == Some(false) && self.settings.keep_raw != Some(false) {
                // Until then, nothing is kept that either of them would not keep.
                self.settings.keep_raw = Some(false);
                *module = Arc::new(module.with_settings(self.settings));
            }
            self.wanted = Some((settings, text));
            return Change::ToLoad;
        }
        let changed = settings != self.settings;
        (self.settings, self.settings_text) = (settings, text);
        if !changed {
            return Change::None;
        }
        if let Some((module, _)) = &mut self.serving {
            *module = Arc::new(module.with_settings(settings));
            return Change::InForce;
        }
        if self.loading || self.is_refused() { Change::ToLoad } else { Change::None }
    }
}

/// Reads a settings file. It must lie in the modules directory: a link could lead to secrets of this machine.
pub(super) fn settings_text(root: &Path, path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    if !directory::lies_within(root, path).map_err(|error| error.to_string())? {
        return Err("it is a link to a file outside the modules directory".into());
    }
    let file = directory::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(SETTINGS_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > SETTINGS_BYTES_MAX {
        return Err(format!("it has more than {SETTINGS_BYTES_MAX} bytes"));
    }
    Ok(text)
}

/// Whether the name no longer exists. Any other error than "not found" counts as existing.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}
