//! The life of every slot: seen, settling, loading, active or refused, gone. One owned thread decides; it waits for hints
//! from the directory, for workers that are done, and for the times at which it looks again by itself. The content's
//! digest is the truth: a file that cannot be taken is only refused once its content has rested for the settle time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::component::Program;
use super::directory::{Directory, Found, Scan};
use super::history::{Version, wall_time};
use super::module::Module;
use super::registry::Registry;
use super::report::{Board, LoadError, Posted};
use super::settings::{Limits, Settings};
use super::slot::Slot;
use super::worker::{Done, Job, Outcome, State, StateCell, Workers};
use super::world::Refusal;
use crate::verdict::Digest;

/// How long content must rest before a failure to load counts, and a file must be missing before its module is unloaded.
const SETTLE: Duration = Duration::from_millis(300);

/// How often the root's identity is looked at: a replaced directory tells no event.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// The least time between two scans, however many hints come.
const SCAN_PAUSE: Duration = Duration::from_millis(10);

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
    found: Found,
    state: Arc<StateCell>,
    /// Digest of the content seen last, and since when.
    content: Option<(Digest, Instant)>,
    /// Why that content was not taken.
    refusal: Option<(State, Refusal)>,
    /// When to look into the file again, whatever the directory says.
    look_at: Option<Instant>,
    /// Waits in the queue or is with a worker.
    loading: bool,
    /// The file changed while it was with a worker.
    again: bool,
    missing_since: Option<Instant>,
    settings: Settings,
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
    pub(super) defaults: Limits,
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
    /// The first scan happened, and these of its slots have not been tried yet.
    first: Option<BTreeSet<Slot>>,
    /// Something was activated or unloaded and is not in the registry yet.
    changed: bool,
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
            first: None,
            changed: false,
        }
    }

    /// Lives until it is told to stop.
    pub(super) fn run(mut self) {
        self.scan();
        self.first = Some(self.entries.keys().cloned().collect());
        loop {
            self.dispatch();
            self.publish();
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
        let missing = self.entries.values().filter_map(|entry| entry.missing_since.map(|since| since + SETTLE));
        looks.chain(missing).chain(self.follow_up_at).chain([self.scan_at]).fold(heartbeat, Instant::min)
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
        }
        let missing_over = |entry: &Entry| entry.missing_since.is_some_and(|since| now >= since + SETTLE);
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
        match self.parts.directory.scan() {
            Ok(scan) => self.compare(scan, began),
            // A missing or unreadable directory tells nothing of its files: what serves goes on serving.
            Err(error) => {
                self.parts.board.directory_error(Some(format!("{}: {error}", self.parts.directory.root.display())))
            }
        }
        self.scan_pause = SCAN_PAUSE.max(began.elapsed() * 2);
        self.scanned_at = Instant::now();
        self.scan_at = self.scanned_at + self.parts.rescan;
    }

    fn compare(&mut self, mut scan: Scan, now: Instant) {
        self.parts.board.directory_error(None);
        self.strays = std::mem::take(&mut scan.strays);
        self.parts.board.strays(&self.strays);
        let found = std::mem::take(&mut scan.modules);
        let mut gone = Vec::new();
        for (slot, entry) in &mut self.entries {
            if found.contains_key(slot) || self.strays.keys().any(|stray| entry.found.file.starts_with(stray)) {
                entry.missing_since = None;
            } else if now >= *entry.missing_since.get_or_insert(now) + SETTLE {
                gone.push(slot.clone());
            }
        }
        for slot in gone {
            self.unload(&slot);
        }
        for (slot, found) in found {
            self.see(slot, found);
        }
    }

    fn unload(&mut self, slot: &Slot) {
        self.entries.remove(slot);
        if let Some(waiting) = &mut self.first {
            waiting.remove(slot);
        }
        self.parts.board.remove(slot);
        self.changed = true;
        tracing::info!(event_type = %slot, "the file is gone, the module is unloaded");
    }

    /// Takes note of a file as the directory shows it.
    fn see(&mut self, slot: Slot, found: Found) {
        let root = &self.parts.directory.root;
        match self.entries.get_mut(&slot) {
            None => {
                let mut entry = Entry::new(found, self.parts.defaults);
                entry.read_settings(root, self.parts.defaults);
                enqueue(&mut self.queue, &slot, &mut entry);
                self.parts.board.post(&slot, entry.posted());
                self.entries.insert(slot, entry);
            }
            Some(entry) if entry.found == found => {}
            Some(entry) => {
                let content = entry.found.signature != found.signature || entry.found.file != found.file;
                let settings = entry.found.settings != found.settings || entry.found.file != found.file;
                entry.found = found;
                if settings && entry.read_settings(root, self.parts.defaults) {
                    self.changed = true;
                }
                if content {
                    enqueue(&mut self.queue, &slot, entry);
                }
                self.parts.board.post(&slot, entry.posted());
            }
        }
    }

    /// Gives waiting slots to free workers.
    fn dispatch(&mut self) {
        while let Some(slot) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            let job = Job {
                slot: slot.clone(),
                path: self.parts.directory.root.join(&entry.found.file),
                limits: entry.settings.limits,
                known: entry.content.map(|(digest, _)| digest),
                serving: entry.serving.as_ref().map(|(module, _)| module.digest),
                state: Arc::clone(&entry.state),
            };
            if !self.parts.workers.try_load(job) {
                self.queue.push_front(slot);
                break;
            }
        }
    }

    fn done(&mut self, done: Done) {
        if let Some(waiting) = &mut self.first {
            waiting.remove(&done.slot);
        }
        let Some(entry) = self.entries.get_mut(&done.slot) else {
            return;
        };
        let now = Instant::now();
        entry.loading = false;
        match done.outcome {
            Outcome::Same => entry.rested(&done.slot, now),
            Outcome::Serving(digest) => entry.came_back(digest, now),
            Outcome::Loaded(digest, program, versions) => {
                entry.versions = versions;
                entry.activate(&done.slot, digest, program, now);
                self.changed = true;
            }
            Outcome::Refused(digest, refusal) => {
                entry.content = Some((digest, now));
                entry.refusal = Some((entry.state.get(), refusal));
                entry.state.set(State::Settling);
                entry.look_at = Some(now + SETTLE);
            }
            Outcome::Unreadable(error) => {
                entry.content = None;
                entry.look_at = Some(now + HEARTBEAT);
                let expected = "a file that the gateway may read";
                entry.refuse(
                    &done.slot,
                    State::Settling,
                    None,
                    Refusal::new(expected, error, "check its owner and mode"),
                );
            }
        }
        if std::mem::take(&mut entry.again) {
            enqueue(&mut self.queue, &done.slot, entry);
        }
        self.parts.board.post(&done.slot, entry.posted());
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.parts
                .registry
                .replace(self.entries.values().filter_map(|entry| entry.serving.as_ref()).map(|(module, _)| module));
        }
        if self.first.take_if(|waiting| waiting.is_empty()).is_some() {
            self.parts.board.scanned();
        }
        self.parts.board.tell();
    }
}

impl Entry {
    fn new(found: Found, defaults: Limits) -> Self {
        Self {
            found,
            state: Arc::new(StateCell::new(State::Settling)),
            content: None,
            refusal: None,
            look_at: None,
            loading: false,
            again: false,
            missing_since: None,
            settings: Settings { limits: defaults, ..Settings::default() },
            versions: Vec::new(),
            last_error: None,
            settings_error: None,
            serving: None,
        }
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
        self.last_error = None;
        self.state.set(State::Active);
    }

    fn refuse(&mut self, slot: &Slot, step: State, digest: Option<Digest>, refusal: Refusal) {
        self.state.set(State::Refused);
        if self.last_error.as_ref().is_some_and(|last| last.digest == digest && last.refusal == refusal) {
            return;
        }
        tracing::warn!(event_type = %slot, file = %self.found.file.display(), "the module is refused: {refusal}");
        self.last_error = Some(LoadError { at: wall_time(), step, digest, refusal });
    }

    fn activate(&mut self, slot: &Slot, digest: Digest, program: Program, now: Instant) {
        self.content = Some((digest, now));
        self.refusal = None;
        // A write within the same tick of the file system's clock leaves no other trace than the content.
        self.look_at = Some(now + SETTLE);
        self.state.set(State::Active);
        self.last_error = None;
        let module = Module::new(slot.clone(), digest, program, self.settings);
        self.serving = Some((Arc::new(module), wall_time()));
        tracing::info!(event_type = %slot, %digest, "the module is active");
    }

    /// Reads the settings file again. True when what serves must be published with other settings.
    fn read_settings(&mut self, root: &Path, defaults: Limits) -> bool {
        let path = root.join(self.found.file.with_extension("toml"));
        let read = match &self.found.settings {
            None => Ok(Settings { limits: defaults, ..Settings::default() }),
            Some(_) => settings_text(&path).and_then(|text| Settings::parse(&text, defaults)),
        };
        let settings = match read {
            Ok(settings) => settings,
            Err(found) => {
                let expected = "settings as the README describes them";
                let refusal = Refusal::new(expected, found, "mend the file; the last good settings stay in force");
                tracing::warn!(file = %path.display(), "the settings are refused: {refusal}");
                self.settings_error = Some(LoadError { at: wall_time(), step: State::Checking, digest: None, refusal });
                return false;
            }
        };
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
            settings_error: self.settings_error.clone(),
        }
    }
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
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(SETTINGS_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
