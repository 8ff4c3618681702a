//! The life of every slot: seen, settling, loading, active or refused, gone. One owned thread decides; it waits for hints
//! from the directory, for workers that are done, and for the times at which it looks again by itself. The content's
//! digest is the truth: a file that cannot be taken is only refused once its content has rested for the settle time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::component::Program;
use super::directory::{self, Directory, Found, Scan};
use super::history::{Version, wall_time};
use super::module::Module;
use super::registry::{Place, Registry, Untried};
use super::report::{Board, LoadError, Posted};
use super::settings::{Given, Settings};
use super::slot::Slot;
use super::worker::{Done, Job, Outcome, State, StateCell, Workers};
use super::world::Refusal;
use crate::verdict::Digest;

/// How long content must rest before a failure to load counts, and the directory before a module whose file is missing is
/// unloaded: a directory that is removed and copied anew has its files one after the other.
pub(super) const SETTLE: Duration = Duration::from_millis(300);

/// How long a file may be missing before its module is unloaded, however restless the directory is.
pub(super) const MISSING_MAX: Duration = Duration::from_secs(10);

/// How often the root's identity is looked at: a replaced directory tells no event.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// The least time between two scans, however many hints come.
const SCAN_PAUSE: Duration = Duration::from_millis(10);

/// The longest time between two scans while something could not be read since the start; the first is a heartbeat, and
/// each is twice the one before.
const UNREAD_PAUSE_MAX: Duration = Duration::from_secs(8);

/// What is told of what could not be read since the start.
const HELD: &str = "until it was read once, its events are not judged: an event alone is answered 503";

/// Tries of a file of the start that runs out of time or room, before its events are judged without it. One that always
/// does must not keep the gateway from being ready.
const TRIES_MAX: u32 = 3;

/// How long a file of the start may be written to, for the same reason.
const RESTLESS_MAX: Duration = Duration::from_secs(10);

/// How soon a file is tried again that only ran out of time or room. Each pause is twice the one before, up to a rescan.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Bytes of a settings file.
const SETTINGS_BYTES_MAX: u64 = 64 << 10;

/// What the thread is told.
pub(super) enum Message {
    /// Wake up: something may have changed in the directory.
    Hint,
    /// A worker is done.
    Done(Box<Done>),
    /// The end.
    Stop,
}

/// What is known of one slot.
struct Entry {
    /// Which of the lives of this slot this is.
    generation: u64,
    found: Found,
    state: Arc<StateCell>,
    /// Digest of the content seen last, and since when.
    content: Option<(Digest, Instant)>,
    /// Why that content was not taken.
    refusal: Option<(State, Refusal)>,
    /// When to look into the file again, whatever the directory says.
    look_at: Option<Instant>,
    /// When it was first looked into since it could be read.
    looked_since: Option<Instant>,
    /// How often it ran out of time or room since then.
    tries: u32,
    /// How often this content was tried again.
    retries: u32,
    /// When the next try is, for people.
    retry_at: Option<DateTime<Utc>>,
    /// Waits in the queue or is with a worker.
    loading: bool,
    /// The file changed while it was with a worker.
    again: bool,
    /// The next look loads the file whatever was found before: something else than its content may have mended it.
    anew: bool,
    /// No kept version can serve in place of the file either.
    forsaken: bool,
    /// A module was taken that is not told to be active yet.
    taken: bool,
    /// It was refused, and is not told to be yet.
    refused: bool,
    missing_since: Option<Instant>,
    settings: Settings,
    /// The settings were read well once, so that there are last good ones.
    settings_read: bool,
    versions: Vec<Version>,
    last_error: Option<LoadError>,
    settings_error: Option<LoadError>,
    serving: Option<(Arc<Module>, DateTime<Utc>)>,
}

/// What the thread works with.
pub(super) struct Parts {
    pub(super) directory: Directory,
    /// Raised by the watcher of the directory.
    pub(super) hinted: Arc<AtomicBool>,
    pub(super) inbox: Receiver<Message>,
    pub(super) workers: Workers,
    pub(super) registry: Arc<Registry>,
    pub(super) board: Arc<Board>,
    pub(super) given: Given,
    pub(super) rescan: Duration,
}

/// The thread's own state.
pub(super) struct Life {
    parts: Parts,
    entries: BTreeMap<Slot, Entry>,
    strays: BTreeMap<PathBuf, String>,
    /// Slots whose file is to be looked into; each is here once at most.
    queue: VecDeque<Slot>,
    scan_at: Instant,
    follow_up_at: Option<Instant>,
    scanned_at: Instant,
    /// Grows with the time that a scan takes, so that scanning never becomes all that this thread does.
    scan_pause: Duration,
    /// When a scan last found something else than the one before.
    restless_at: Instant,
    /// How many lives of slots began.
    generations: u64,
    /// The root was read once, or is not there: it is known which files there are.
    begun: bool,
    /// Slots whose file was never tried, though it was there from the start.
    untried: BTreeMap<Slot, Untried>,
    /// Folders that could not be read since the start, each with its category.
    unread: BTreeMap<PathBuf, String>,
    /// How soon to scan again while something could not be read since the start.
    unread_pause: Duration,
    /// Something was activated or unloaded and is not in the registry yet.
    changed: bool,
    /// Slots of which something is to be told once the registry has it: what is told to serve serves.
    due: BTreeSet<Slot>,
}

impl Life {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            entries: BTreeMap::new(),
            strays: BTreeMap::new(),
            queue: VecDeque::new(),
            scan_at: Instant::now(),
            follow_up_at: None,
            scanned_at: Instant::now(),
            scan_pause: SCAN_PAUSE,
            restless_at: Instant::now(),
            generations: 0,
            begun: false,
            untried: BTreeMap::new(),
            unread: BTreeMap::new(),
            unread_pause: HEARTBEAT,
            changed: false,
            due: BTreeSet::new(),
        }
    }

    /// Lives until it is told to stop.
    pub(super) fn run(mut self) {
        self.scan();
        loop {
            self.publish();
            self.dispatch();
            let wait = self.next_look().saturating_duration_since(Instant::now());
            match self.parts.inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            while let Ok(message) = self.parts.inbox.try_recv() {
                if matches!(message, Message::Stop) {
                    return;
                }
                self.take(message);
            }
            if self.changed {
                self.publish();
            }
            self.look();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Done(done) => self.done(*done),
            Message::Hint | Message::Stop => {}
        }
    }

    fn next_look(&self) -> Instant {
        let heartbeat = Instant::now() + HEARTBEAT;
        let entries = self.entries.values().filter(|entry| !entry.loading);
        let looks = entries.filter_map(|entry| entry.look_at);
        let missing = self.entries.values().filter_map(|entry| entry.missing_since.map(|since| self.unload_at(since)));
        looks.chain(missing).chain(self.follow_up_at).chain([self.scan_at]).fold(heartbeat, Instant::min)
    }

    fn unload_at(&self, missing_since: Instant) -> Instant {
        unload_at(missing_since, self.restless_at)
    }

    /// Does what is due.
    fn look(&mut self) {
        let now = Instant::now();
        if self.parts.hinted.swap(false, AcqRel) {
            self.scan_at = self.scan_at.min(self.scanned_at + self.scan_pause);
            self.follow_up_at = Some(now + SETTLE);
        }
        if self.parts.directory.follow() {
            self.scan_at = now;
            self.follow_up_at = Some(now + SETTLE);
            self.restless_at = now;
        }
        let missing_over = |entry: &Entry| entry.missing_since.is_some_and(|since| now >= self.unload_at(since));
        if now >= self.scan_at
            || self.follow_up_at.is_some_and(|at| now >= at)
            || self.entries.values().any(missing_over)
        {
            self.scan();
        }
        for (slot, entry) in &mut self.entries {
            if entry.look_at.is_some_and(|at| now >= at) {
                entry.look_at = None;
                enqueue(&mut self.queue, slot, entry);
            }
        }
    }

    fn scan(&mut self) {
        let began = Instant::now();
        if self.follow_up_at.is_some_and(|at| began >= at) {
            self.follow_up_at = None;
        }
        self.parts.directory.listen_again();
        match self.parts.directory.scan() {
            Ok(scan) => self.compare(scan, began),
            // A missing or unreadable directory tells nothing of its files, not even that they are missing: what serves
            // goes on serving.
            Err(error) => {
                self.entries.values_mut().for_each(|entry| entry.missing_since = None);
                if error.kind() == io::ErrorKind::NotFound {
                    self.begin(BTreeMap::new());
                }
                let mut told = format!("{}: {error}", self.parts.directory.root.display());
                if !self.begun {
                    told = format!("{told}; {HELD}");
                }
                self.parts.board.directory_error(Some(told));
            }
        }
        self.scan_pause = SCAN_PAUSE.max(began.elapsed() * 2);
        self.scanned_at = Instant::now();
        self.scan_at = self.scanned_at + self.next_scan_after();
    }

    /// How long after a scan the next one is due, whatever happens.
    fn next_scan_after(&mut self) -> Duration {
        if self.begun && self.unread.is_empty() {
            self.unread_pause = HEARTBEAT;
            return self.parts.rescan;
        }
        let pause = self.unread_pause;
        self.unread_pause = (pause * 2).min(UNREAD_PAUSE_MAX);
        pause.min(self.parts.rescan)
    }

    /// From the first scan that shows which files there are, only what is not known of these is waited for. A folder
    /// that comes later and cannot be read takes nothing from those who judge its category.
    fn begin(&mut self, unread: BTreeMap<PathBuf, String>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.untried.extend(self.entries.keys().map(|slot| (slot.clone(), Untried::Waiting)));
            self.unread = unread;
            self.changed = true;
        }
    }

    /// Lets go of folders that can be read now, or are gone. What is in them is still to be tried.
    fn let_go_of_read(&mut self, scan: &Scan) {
        let read: BTreeMap<_, _> = self.unread.extract_if(.., |folder, _| !scan.unread.contains_key(folder)).collect();
        if read.is_empty() {
            return;
        }
        self.changed = true;
        for (slot, found) in &scan.modules {
            if read.keys().any(|folder| found.file.starts_with(folder)) && !self.entries.contains_key(slot) {
                self.untried.insert(slot.clone(), Untried::Waiting);
            }
        }
    }

    fn compare(&mut self, scan: Scan, now: Instant) {
        self.parts.board.directory_error(None);
        self.let_go_of_read(&scan);
        let Scan { modules, mut strays, unread } = scan;
        for (folder, why) in &mut strays {
            if self.unread.contains_key(folder) || !self.begun && unread.contains_key(folder) {
                *why = format!("{why}; {HELD}");
            }
        }
        let mut restless = self.note_strays(strays);
        for (slot, found) in &modules {
            restless |= self.see(slot, found);
        }
        for entry in self.entries.iter_mut().filter(|(slot, _)| !modules.contains_key(slot)).map(|(_, entry)| entry) {
            if self.strays.keys().any(|stray| entry.found.file.starts_with(stray)) {
                entry.missing_since = None;
            } else {
                restless |= entry.missing_since.is_none();
                entry.missing_since.get_or_insert(now);
            }
        }
        if restless {
            self.restless_at = now;
        }
        let gone = |entry: &Entry| entry.missing_since.is_some_and(|since| now >= self.unload_at(since));
        let gone: Vec<_> = self.entries.iter().filter(|(_, entry)| gone(entry)).map(|(slot, _)| slot.clone()).collect();
        for slot in gone {
            self.unload(slot);
        }
        self.begin(unread);
    }

    /// Takes note of what serves nothing. True when that is something else than before.
    fn note_strays(&mut self, strays: BTreeMap<PathBuf, String>) -> bool {
        if strays == self.strays {
            return false;
        }
        for (file, why) in strays.iter().filter(|(file, why)| self.strays.get(*file) != Some(*why)) {
            tracing::warn!(file = %file.display(), "this serves no events: {why}");
        }
        self.parts.board.strays(&strays);
        self.strays = strays;
        true
    }

    fn unload(&mut self, slot: Slot) {
        self.entries.remove(&slot);
        self.queue.retain(|waiting| *waiting != slot);
        self.untried.remove(&slot);
        self.changed = true;
        self.due.insert(slot);
    }

    /// Takes note of a file as the directory shows it. True when it is new or another one.
    fn see(&mut self, slot: &Slot, found: &Found) -> bool {
        let (root, given) = (&self.parts.directory.root, self.parts.given);
        let Some(entry) = self.entries.get_mut(slot) else {
            self.generations += 1;
            let mut entry = Entry::new(self.generations, found.clone(), given);
            entry.read_settings(root, given);
            enqueue(&mut self.queue, slot, &mut entry);
            self.entries.insert(slot.clone(), entry);
            self.due.insert(slot.clone());
            return true;
        };
        entry.missing_since = None;
        if entry.found == *found {
            return false;
        }
        let content = entry.found.signature != found.signature || entry.found.file != found.file;
        let settings = entry.found.settings != found.settings || entry.found.file != found.file;
        entry.found = found.clone();
        let before = entry.settings;
        if settings && entry.read_settings(root, given) {
            self.changed = true;
        }
        let mended = entry.settings != before && (entry.loading || entry.is_refused());
        entry.anew |= mended;
        if content || mended {
            enqueue(&mut self.queue, slot, entry);
        }
        self.due.insert(slot.clone());
        true
    }

    /// Gives waiting slots to free workers.
    fn dispatch(&mut self) {
        while let Some(slot) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            let anew = entry.anew;
            let looked_since = *entry.looked_since.get_or_insert_with(Instant::now);
            let job = Job {
                slot: slot.clone(),
                generation: entry.generation,
                path: self.parts.directory.root.join(&entry.found.file),
                limits: entry.settings.limits,
                known: entry.content.map(|(digest, _)| digest).filter(|_| !anew),
                serving: entry.serving.as_ref().map(|(module, _)| module.digest),
                falls_back: entry.serving.is_none() && (anew || !entry.forsaken),
                is_patient: self.untried.contains_key(&slot)
                    && entry.tries + 1 < TRIES_MAX
                    && looked_since.elapsed() < RESTLESS_MAX,
                state: Arc::clone(&entry.state),
            };
            if !self.parts.workers.try_load(job) {
                self.queue.push_front(slot);
                break;
            }
            entry.anew = false;
        }
    }

    fn done(&mut self, done: Done) {
        let Done { slot, generation, outcome, kept, versions } = done;
        // The file may have gone meanwhile, and come again: then what was found concerns nobody.
        let Some(entry) = self.entries.get_mut(&slot).filter(|entry| entry.generation == generation) else {
            return;
        };
        let now = Instant::now();
        let unreadable = matches!(outcome, Outcome::Unreadable(_));
        entry.loading = false;
        entry.retry_at = None;
        if let Some(versions) = versions {
            entry.versions = versions;
        }
        entry.forsaken = kept.is_none();
        if let Some((digest, program)) = kept {
            tracing::warn!(event_type = %slot, %digest, "the file cannot be taken, and the last version that served does again");
            entry.serve(&slot, digest, program, &self.parts.board);
            self.changed = true;
        }
        match outcome {
            Outcome::Same => entry.rested(&slot, now),
            Outcome::Serving(digest) => entry.came_back(digest, now),
            Outcome::Loaded(digest, program) => {
                entry.take(digest, now);
                entry.serve(&slot, digest, program, &self.parts.board);
                self.changed = true;
            }
            Outcome::Refused(digest, step, refusal) if refusal.passing => {
                entry.tries = entry.tries.saturating_add(1);
                entry.retry(digest, now, self.parts.rescan);
                entry.refuse(&slot, step, Some(digest), refusal);
            }
            Outcome::Refused(digest, step, refusal) => {
                entry.content = Some((digest, now));
                entry.refusal = Some((step, refusal));
                entry.settle(now + SETTLE);
            }
            Outcome::Rewritten => {
                entry.content = None;
                entry.settle(now + SETTLE);
            }
            Outcome::Unreadable(error) => {
                entry.content = None;
                (entry.looked_since, entry.tries) = (None, 0);
                entry.look_again(now, HEARTBEAT);
                let expected = "a file that the gateway may read";
                entry.refuse(&slot, State::Settling, None, Refusal::new(expected, error, "check its owner and mode"));
            }
        }
        if std::mem::take(&mut entry.again) {
            enqueue(&mut self.queue, &slot, entry);
        }
        if let Some(untried) = self.untried.get_mut(&slot) {
            let why = if unreadable { Untried::Unreadable } else { Untried::Waiting };
            self.changed |= std::mem::replace(untried, why) != why;
            let restless = entry.looked_since.is_some_and(|since| now - since >= RESTLESS_MAX);
            if entry.is_decided() || entry.tries >= TRIES_MAX || restless {
                self.untried.remove(&slot);
                self.changed = true;
            }
        }
        self.due.insert(slot);
    }

    /// Lets what was taken serve, and then tells of it.
    fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            let untried = self.untried.iter().map(|(slot, why)| (slot.clone(), Place::Held(*why)));
            let serving = self.entries.values().filter_map(|entry| entry.serving.as_ref());
            let serving = serving.map(|(module, _)| (module.slot.clone(), Place::Taken(Arc::clone(module))));
            let unread = self.unread.values();
            let unread = unread.map(|category| (Slot::Category(category.clone()), Place::Held(Untried::Unreadable)));
            self.parts.registry.replace(untried.chain(serving).chain(unread));
        }
        for slot in std::mem::take(&mut self.due) {
            let Some(entry) = self.entries.get_mut(&slot) else {
                self.parts.board.remove(&slot);
                tracing::info!(event_type = %slot, "the file is gone, the module is unloaded");
                continue;
            };
            entry.tell_taken(&slot);
            self.parts.board.post(&slot, entry.posted());
            // After the reason is there: the state is read as it stands.
            if std::mem::take(&mut entry.refused) {
                entry.state.set(State::Refused);
            }
        }
        if self.begun && !self.untried.values().any(|why| *why == Untried::Waiting) {
            self.parts.board.scanned();
        }
        self.parts.board.tell();
    }
}

impl Entry {
    fn new(generation: u64, found: Found, given: Given) -> Self {
        Self {
            generation,
            found,
            state: Arc::new(StateCell::new(State::Settling)),
            content: None,
            refusal: None,
            look_at: None,
            looked_since: None,
            tries: 0,
            retries: 0,
            retry_at: None,
            loading: false,
            again: false,
            anew: false,
            forsaken: false,
            taken: false,
            refused: false,
            missing_since: None,
            settings: Settings::of(given.defaults),
            settings_read: false,
            versions: Vec::new(),
            last_error: None,
            settings_error: None,
            serving: None,
        }
    }

    /// Whether the file as it is now was not taken.
    fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.last_error.is_some()
    }

    /// Whether it is known who judges the events of this slot: what the file holds, what served before, or nothing of
    /// both.
    fn is_decided(&self) -> bool {
        let rests = self.content.is_some() && self.refusal.is_none() && self.retry_at.is_none();
        self.serving.is_some() || rests
    }

    /// The content was whole, but the machine may have been too busy for it.
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

    fn look_again(&mut self, now: Instant, pause: Duration) {
        self.look_at = Some(now + pause);
        self.retry_at = Some(wall_time() + pause);
    }

    /// The file is not at rest, or may not be.
    fn settle(&mut self, look_at: Instant) {
        self.refused = false;
        self.state.set(State::Settling);
        self.look_at = Some(look_at);
    }

    /// The content did not change since the last look: what was found then counts now.
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

    /// The file holds what serves already.
    fn came_back(&mut self, digest: Digest, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        self.retries = 0;
        self.last_error = None;
        self.refused = false;
        self.state.set(State::Active);
    }

    fn refuse(&mut self, slot: &Slot, step: State, digest: Option<Digest>, refusal: Refusal) {
        self.refused = true;
        if self.last_error.as_ref().is_some_and(|last| last.digest == digest && last.refusal == refusal) {
            return;
        }
        let again = if refusal.passing { ", and tried again soon" } else { "" };
        tracing::warn!(event_type = %slot, file = %self.found.file.display(), "the module is refused{again}: {refusal}");
        self.last_error = Some(LoadError { at: wall_time(), step, digest, refusal });
    }

    /// Takes the content of the file.
    fn take(&mut self, digest: Digest, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        self.retries = 0;
        self.last_error = None;
        self.refused = false;
        self.taken = true;
        // A write within the same tick of the file system's clock leaves no other trace than the content.
        self.look_at = Some(now + SETTLE);
    }

    /// Has a program judge from the next registry on.
    fn serve(&mut self, slot: &Slot, digest: Digest, program: Program, board: &Board) {
        let module = Module::new(slot.clone(), digest, program, self.settings, board.figures(slot, digest));
        self.serving = Some((Arc::new(module), wall_time()));
    }

    /// Tells that what was taken serves.
    fn tell_taken(&mut self, slot: &Slot) {
        if std::mem::take(&mut self.taken)
            && let Some((module, _)) = &self.serving
        {
            self.state.set(State::Active);
            tracing::info!(event_type = %slot, digest = %module.digest, "the module is active");
        }
    }

    /// Reads the settings file again. True when what serves must be published with other settings.
    fn read_settings(&mut self, root: &Path, given: Given) -> bool {
        let path = root.join(self.found.file.with_extension("toml"));
        let read = match &self.found.settings {
            None => Ok(Settings::of(given.defaults)),
            Some(_) => settings_text(&path).and_then(|text| Settings::parse(&text, given)),
        };
        let settings = match read {
            Ok(settings) => settings,
            Err(found) => {
                let expected = "settings as the README describes them";
                let mend = if self.settings_read {
                    "mend the file; the last good settings stay in force"
                } else {
                    "mend the file; until then the gateway's own limits are in force"
                };
                let refusal = Refusal::new(expected, found, mend);
                tracing::warn!(file = %path.display(), "the settings are refused: {refusal}");
                self.settings_error = Some(LoadError { at: wall_time(), step: State::Checking, digest: None, refusal });
                return false;
            }
        };
        self.settings_read = true;
        self.settings_error = None;
        let changed = settings != self.settings;
        self.settings = settings;
        let Some((module, _)) = self.serving.as_mut().filter(|_| changed) else {
            return false;
        };
        *module = Arc::new(module.with_settings(settings));
        true
    }

    fn posted(&self) -> Posted {
        Posted {
            file: self.found.file.clone(),
            state: Arc::clone(&self.state),
            serving: self.serving.clone(),
            settings: self.settings,
            versions: self.versions.clone(),
            last_error: self.last_error.clone(),
            retry_at: self.retry_at,
            settings_error: self.settings_error.clone(),
        }
    }
}

/// When a module is unloaded whose file is missing, in a directory that was last seen to change at `restless_at`.
pub(super) fn unload_at(missing_since: Instant, restless_at: Instant) -> Instant {
    (missing_since.max(restless_at) + SETTLE).min(missing_since + MISSING_MAX)
}

fn enqueue(queue: &mut VecDeque<Slot>, slot: &Slot, entry: &mut Entry) {
    if entry.loading {
        entry.again = true;
    } else {
        entry.loading = true;
        queue.push_back(slot.clone());
    }
}

fn settings_text(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = directory::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(SETTINGS_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
