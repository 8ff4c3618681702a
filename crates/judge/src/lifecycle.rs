//! The life of every slot: seen, settling, loading, active or refused, gone. One owned thread decides; it waits for hints
//! from the directory, for workers that are done, and for the times at which it looks again by itself. The content's
//! digest is the truth: a file that cannot be taken is only refused once its content has rested for the settle time.
//! Doubt closes: from the first look that shows a file until it serves, nobody stores its events unjudged; what served
//! last serves on where a file is refused, cannot be read, or went with most others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use eye_event::legible::legible;
use eye_event::verdict::Digest;

use super::component::Program;
use super::directory::{self, Directory, Found, Scan};
use super::files::wall_time;
use super::history::Version;
use super::losses::Losses;
use super::module::Module;
use super::naming::Stray;
use super::refusal::Refusal;
use super::registry::{Place, Registry, Untried};
use super::report::{LoadError, Posted, Reports};
use super::roster::Roster;
use super::settings::{LimitDefaults, Settings};
use super::slot::Slot;
use super::worker::{Done, Job, Outcome, State, StateCell, Workers};

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

/// What is told of a directory that cannot be read later.
const SERVES_ON: &str = "what served last serves on";

/// How often it is looked whether an operator confirmed that files are gone.
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);

/// Characters of a line of the log about a file that serves nothing.
const TOLD_CHARACTERS_MAX: usize = 1_000;

/// Event types that a sentence names. Further ones are counted.
const NAMED_MAX: usize = 20;

/// Tries of a file of the start that runs out of time or room, before its events are judged without it. One that always
/// does must not keep the gateway from being ready.
const TRIES_MAX: u32 = 3;

/// How long a file of the start may be written to, for the same reason.
const RESTLESS_MAX: Duration = Duration::from_secs(10);

/// How soon a file is tried again that only ran out of time or room. Each pause is twice the one before, up to a rescan.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Slots at the front of the queue that are compared.
const FRONT: usize = 64;

/// How soon a version that serves and could not be kept is tried to be.
const UNKEPT_PAUSE: Duration = Duration::from_secs(2);

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
    /// The last look that could tell showed its file.
    present: bool,
    /// Why the file is not looked into.
    barred: Option<Refusal>,
    /// A wider module judged these events when the file came, and does so until it is taken.
    yields: bool,
    /// Since when its file is lost, with most others: then the module serves on until somebody confirms.
    lost: Option<DateTime<Utc>>,
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
    /// Raised when nobody wants any more what the worker is at.
    cancelled: Arc<AtomicBool>,
    /// It is or waits in the heavy lane, for which no other file of the slot waits.
    heavy: bool,
    /// The file changed while it was with a worker.
    again: bool,
    /// The next look loads the file whatever was found before: something else than its content may have mended it.
    anew: bool,
    /// What serves could not be kept as a version, and is tried again.
    unkept: bool,
    /// No kept version can serve in place of the file either.
    forsaken: bool,
    /// A module was taken that is not told to be active yet.
    taken: bool,
    /// It was refused, and is not told to be yet.
    refused: bool,
    missing_since: Option<Instant>,
    /// The settings in force, and the text that they were read from.
    settings: Settings,
    settings_text: Option<String>,
    /// Other limits, with which the module that serves is to be loaded before they are in force.
    wanted: Option<(Settings, Option<String>)>,
    /// What the load under way is tried with.
    trying: Settings,
    /// How often those limits were tried.
    settings_tries: u32,
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
    pub(super) board: Arc<Reports>,
    pub(super) roster: Roster,
    pub(super) given: LimitDefaults,
    pub(super) rescan: Duration,
}

/// The thread's own state.
pub(super) struct Lifecycle {
    parts: Parts,
    entries: BTreeMap<Slot, Entry>,
    strays: BTreeMap<PathBuf, Stray>,
    /// Files that look like no module, since when they are seen: what a copy is written into first is soon gone.
    others_since: BTreeMap<PathBuf, Instant>,
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
    /// Folders that could not be read since the start, or since they came.
    unread: BTreeMap<PathBuf, Unread>,
    /// Folders that were read. What was in one of them is known, should it be unreadable later.
    read: BTreeSet<PathBuf>,
    losses: Losses,
    /// The settings of what was unloaded lately, in case it was an accident.
    went: BTreeMap<Slot, Option<String>>,
    /// How many modules there were when files were lost last.
    lost_of: usize,
    /// When to look whether somebody confirmed a loss.
    confirm_at: Instant,
    /// How soon to scan again while something could not be read since the start.
    unread_pause: Duration,
    /// Something was activated or unloaded and is not in the registry yet.
    changed: bool,
    /// Slots of which something is to be told once the registry has it: what is told to serve serves.
    due: BTreeSet<Slot>,
}

/// A folder that cannot be read.
struct Unread {
    category: String,
    /// Another module judged the events of its category when it came, and goes on.
    yields: bool,
}

impl Lifecycle {
    pub(super) fn new(mut parts: Parts) -> Self {
        if let Err(error) = parts.roster.load() {
            tracing::error!("it is not known which modules served before: {error}");
        }
        Self {
            parts,
            entries: BTreeMap::new(),
            strays: BTreeMap::new(),
            others_since: BTreeMap::new(),
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
            read: BTreeSet::new(),
            losses: Losses::default(),
            went: BTreeMap::new(),
            lost_of: 0,
            confirm_at: Instant::now(),
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
        if now >= self.confirm_at {
            self.confirm_at = now + CONFIRM_PAUSE;
            self.take_confirmations();
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
        match self.parts.directory.scan() {
            Ok(scan) => self.compare(scan, began),
            // A missing or unreadable directory tells nothing of its files, not even that they are missing: what serves
            // goes on serving.
            Err(error) => {
                self.entries.values_mut().for_each(|entry| entry.missing_since = None);
                if error.kind() == io::ErrorKind::NotFound {
                    self.begin(BTreeMap::new(), None);
                }
                let told = format!("{}: {error}", self.parts.directory.root.display());
                // A directory that was never there keeps nothing from anybody.
                let is_absent = self.begun && self.entries.is_empty() && error.kind() == io::ErrorKind::NotFound;
                let then = if self.begun { SERVES_ON } else { HELD };
                let told = if is_absent { told } else { format!("{told}; {then}") };
                self.parts.board.directory_error(Some((told, !is_absent)));
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

    /// From the first scan that shows which files there are, only what is not known of these is waited for. What the
    /// directory had before and has no more is `missing_since` now, unless there is no directory to tell.
    fn begin(&mut self, unread: BTreeMap<PathBuf, String>, missing_since: Option<Instant>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let slots: Vec<Slot> =
            self.parts.roster.slots().filter(|slot| !self.entries.contains_key(*slot)).cloned().collect();
        for slot in slots {
            let text = self.parts.roster.settings(&slot).cloned();
            self.recall(&slot, text.as_ref());
            let entry = self.entries.get_mut(&slot).expect("it was just recalled");
            let is_unread = unread.keys().any(|folder| entry.found.file.starts_with(folder));
            entry.missing_since = missing_since.filter(|_| !is_unread);
        }
        self.untried.extend(self.entries.keys().map(|slot| (slot.clone(), Untried::Waiting)));
        let held = unread.into_iter().map(|(folder, category)| (folder, Unread { category, yields: false }));
        self.unread = held.collect();
        self.losses.recall(self.parts.roster.slots().cloned().collect());
        self.changed = true;
    }

    /// Lets a slot serve whose file is not there: by the last version that is kept.
    fn recall(&mut self, slot: &Slot, settings: Option<&Option<String>>) {
        self.generations += 1;
        let mut entry = Entry::new(self.generations, Found::absent(slot), self.parts.given);
        entry.recall_settings(settings, self.parts.given);
        entry.barred = Some(Refusal::new(
            "the file that served this event type before",
            "no file",
            "bring it back, or say that it is gone on purpose: `eye validator retire`",
        ));
        enqueue(&mut self.queue, slot, &mut entry);
        self.entries.insert(slot.clone(), entry);
        self.due.insert(slot.clone());
        self.changed = true;
    }

    /// Lets go of folders that can be read now, or are gone, and takes note of new ones that cannot. What is in the former
    /// is still to be tried; the latter take nothing from those who judge their category, and let nothing through that
    /// nobody judges. A folder that was read before hides nothing new.
    fn note_unread(&mut self, scan: &Scan) -> BTreeMap<PathBuf, Unread> {
        let opened: BTreeMap<_, _> =
            self.unread.extract_if(.., |folder, _| !scan.unread.contains_key(folder)).collect();
        self.changed |= !opened.is_empty();
        for (slot, found) in &scan.modules {
            if opened.keys().any(|folder| found.file.starts_with(folder)) && !self.entries.contains_key(slot) {
                self.untried.insert(slot.clone(), Untried::Waiting);
            }
        }
        if self.begun {
            for (folder, category) in &scan.unread {
                if !self.unread.contains_key(folder) && !self.read.contains(folder) {
                    let yields = self.serves(&Slot::Category(category.clone())) || self.serves(&Slot::Any);
                    self.unread.insert(folder.clone(), Unread { category: category.clone(), yields });
                    self.changed = true;
                }
            }
        }
        self.read.retain(|folder| scan.unread.contains_key(folder));
        self.read.extend(scan.read.iter().cloned());
        opened
    }

    fn serves(&self, slot: &Slot) -> bool {
        self.entries.get(slot).is_some_and(|entry| entry.serving.is_some())
    }

    /// Whether a module of more than this slot judges its events.
    fn judges_wider(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Any => false,
            Slot::Category(_) => self.serves(&Slot::Any),
            Slot::Exact(category, _) => self.serves(&Slot::Category(category.clone())) || self.serves(&Slot::Any),
        }
    }

    fn compare(&mut self, scan: Scan, now: Instant) {
        self.parts.board.directory_error(None);
        let opened = self.note_unread(&scan);
        let Scan { modules, mut strays, strays_omitted, unread, .. } = scan;
        for (folder, stray) in &mut strays {
            if self.unread.contains_key(folder) || !self.begun && unread.contains_key(folder) {
                stray.why = format!("{}; {HELD}", stray.why);
            }
        }
        // Nobody else judged what lay in a folder that could not be read.
        let was_held =
            |found: &Found| opened.iter().any(|(folder, unread)| !unread.yields && found.file.starts_with(folder));
        let mut restless = false;
        for (slot, found) in &modules {
            restless |= self.see(slot, found, was_held(found));
        }
        for (slot, entry) in &mut self.entries {
            if modules.contains_key(slot) || entry.lost.is_some() {
                continue;
            }
            let file = &entry.found.file;
            if unread.keys().any(|folder| file.starts_with(folder)) || strays.contains_key(file) {
                entry.missing_since = None;
            } else {
                if entry.missing_since.is_none() {
                    restless = true;
                    entry.present = false;
                    entry.rest_without_file();
                }
                entry.missing_since.get_or_insert(now);
            }
        }
        restless |= self.note_strays(strays, strays_omitted, now);
        if restless {
            self.restless_at = now;
        }
        self.let_go(now);
        self.begin(unread, Some(now));
        let whole = self.entries.values().all(|entry| entry.missing_since.is_none());
        let present = self.entries.iter().filter(|(_, entry)| entry.missing_since.is_none() && entry.lost.is_none());
        self.losses.see(present.map(|(slot, _)| slot.clone()).collect(), whole, now);
        self.went.retain(|slot, _| self.losses.is_gone(slot));
    }

    /// Unloads what is missing for long enough, unless so much is missing that it can only be an accident.
    fn let_go(&mut self, now: Instant) {
        let gone = |entry: &Entry| entry.missing_since.is_some_and(|since| now >= self.unload_at(since));
        let gone: Vec<Slot> =
            self.entries.iter().filter(|(_, entry)| gone(entry)).map(|(slot, _)| slot.clone()).collect();
        let (retired, going): (BTreeSet<Slot>, BTreeSet<Slot>) =
            gone.into_iter().partition(|slot| self.parts.roster.is_retired(slot));
        for slot in retired {
            self.unload(slot);
        }
        if going.is_empty() {
            return;
        }
        let mut lost = self.losses.accident(&going);
        // Until somebody confirmed what is lost, nothing else that goes is believed to be gone.
        if self.entries.values().any(|entry| entry.lost.is_some()) {
            lost.extend(going.iter().cloned());
        }
        if lost.is_empty() {
            for slot in &going {
                let text = self.entries.get(slot).and_then(|entry| entry.settings_text.clone());
                self.went.insert(slot.clone(), text);
                self.unload(slot.clone());
            }
            self.losses.went(going, now);
        } else {
            self.lose(&lost);
        }
    }

    /// Has the modules serve on whose files went by accident.
    fn lose(&mut self, lost: &BTreeSet<Slot>) {
        for slot in lost {
            if !self.entries.contains_key(slot) {
                // It was unloaded before there were so many.
                let text = self.went.remove(slot);
                self.recall(slot, text.as_ref());
                self.parts.roster.note(slot, text.flatten().as_deref());
            }
            let entry = self.entries.get_mut(slot).expect("it is there or was recalled");
            (entry.missing_since, entry.lost) = (None, Some(wall_time()));
            self.due.insert(slot.clone());
        }
        self.lost_of = self.losses.had();
        self.changed = true;
        self.parts.board.count_accident();
        self.tell_lost();
        if let Some(told) = self.parts.board.lost() {
            tracing::warn!("an accident in the modules directory: {told}");
        }
    }

    /// Tells which modules serve on without their files.
    fn tell_lost(&self) {
        let lost: Vec<&Slot> =
            self.entries.iter().filter(|(_, entry)| entry.lost.is_some()).map(|(slot, _)| slot).collect();
        let told = (!lost.is_empty()).then(|| {
            format!(
                "the files of {} of {} modules are gone, which is taken for an accident, and the last good versions serve \
                 on: {}; bring the files back, or confirm that they are gone with `eye validator retire TYPE...`",
                lost.len(),
                self.lost_of.max(lost.len()),
                named(&lost)
            )
        });
        self.parts.board.set_lost(told);
    }

    /// Unloads those of the lost modules that somebody retired.
    fn take_confirmations(&mut self) {
        let roster = &self.parts.roster;
        let lost = self.entries.iter().filter(|(slot, entry)| entry.lost.is_some() && roster.is_retired(slot));
        let confirmed: Vec<Slot> = lost.map(|(slot, _)| slot.clone()).collect();
        if confirmed.is_empty() {
            return;
        }
        for slot in confirmed {
            self.unload(slot);
        }
        self.tell_lost();
    }

    /// Takes note of what serves nothing. True when that is something else than before.
    fn note_strays(&mut self, mut strays: BTreeMap<PathBuf, Stray>, omitted: usize, now: Instant) -> bool {
        self.others_since.retain(|file, _| strays.get(file).is_some_and(|stray| stray.is_other));
        for file in strays.iter().filter(|(_, stray)| stray.is_other).map(|(file, _)| file) {
            if !self.others_since.contains_key(file) {
                self.others_since.insert(file.clone(), now);
            }
        }
        let young = |since: &Instant| now < *since + SETTLE;
        if self.others_since.values().any(young) {
            self.follow_up_at.get_or_insert(now + SETTLE);
        }
        strays.retain(|file, _| !self.others_since.get(file).is_some_and(young));
        if strays == self.strays {
            return false;
        }
        for (file, stray) in strays.iter().filter(|(file, stray)| self.strays.get(*file) != Some(*stray)) {
            // A name may hold line ends.
            let file = file.display().to_string();
            let file = legible(&file, TOLD_CHARACTERS_MAX);
            let nearest = stray.nearest.as_ref().map(|near| format!("; the nearest right name is {}", near.display()));
            let why = format!("{}{}", stray.why, nearest.unwrap_or_default());
            let why = legible(&why, TOLD_CHARACTERS_MAX);
            if stray.is_other {
                tracing::info!(%file, "this serves no events: {why}");
            } else {
                tracing::warn!(%file, "this serves no events: {why}");
            }
        }
        self.parts.board.strays(&strays, omitted);
        self.strays = strays;
        true
    }

    fn unload(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.remove(&slot) {
            entry.cancelled.store(true, Release);
        }
        self.queue.retain(|waiting| *waiting != slot);
        self.untried.remove(&slot);
        self.parts.roster.strike(&slot);
        if self.judges_wider(&slot) {
            tracing::warn!(event_type = %slot, "the file is gone, the module is unloaded: a wider module judges its events now");
        } else {
            tracing::warn!(
                event_type = %slot,
                "the file is gone, the module is unloaded: nobody judges its events now; \
                 `unknown_event_type` and `require_module` say what becomes of them"
            );
        }
        self.changed = true;
        self.due.insert(slot);
    }

    /// Takes note of a file as the directory shows it. True when it is new or another one. `was_held` says that nobody
    /// judged its events before.
    fn see(&mut self, slot: &Slot, found: &Found, was_held: bool) -> bool {
        let (root, given) = (&self.parts.directory.root, self.parts.given);
        if !self.entries.contains_key(slot) {
            self.generations += 1;
            let mut entry = Entry::new(self.generations, found.clone(), given);
            entry.recall_settings(self.parts.roster.settings(slot), given);
            entry.present = true;
            entry.yields = self.begun && !was_held && self.judges_wider(slot);
            entry.read_settings(root, given);
            entry.bar();
            enqueue(&mut self.queue, slot, &mut entry);
            self.entries.insert(slot.clone(), entry);
            self.due.insert(slot.clone());
            // From now on nobody stores its events unjudged.
            self.changed = true;
            return true;
        }
        let entry = self.entries.get_mut(slot).expect("it was just looked for");
        let was_lost = entry.lost.take().is_some();
        entry.missing_since = None;
        let came_back = !std::mem::replace(&mut entry.present, true);
        if came_back {
            // What was said of it while it was gone is over.
            self.parts.roster.doubt(slot);
            self.parts.roster.note(slot, entry.settings_text.as_deref());
        }
        let is_other = entry.found != *found;
        if came_back && !is_other {
            enqueue(&mut self.queue, slot, entry);
        }
        if is_other {
            let content = entry.found.signature != found.signature || entry.found.file != found.file;
            let settings = entry.found.settings != found.settings || entry.found.file != found.file;
            entry.found = found.clone();
            let mut again = content;
            if settings {
                let force = entry.settings.force;
                let change = entry.read_settings(root, given);
                if entry.settings.force != force && entry.is_refused() {
                    // What was refused may be what is to be taken now.
                    (entry.anew, again) = (true, true);
                }
                match change {
                    Change::None => {}
                    Change::InForce => self.changed = true,
                    Change::ToLoad => (entry.anew, again) = (true, true),
                }
            }
            if entry.bar() {
                (entry.anew, again) = (true, true);
            }
            if again {
                self.generations += 1;
                entry.let_go_of_heavy(self.generations);
                enqueue(&mut self.queue, slot, entry);
            }
        }
        if is_other || was_lost {
            self.due.insert(slot.clone());
        }
        if was_lost {
            self.tell_lost();
        }
        is_other
    }

    /// The slot to look into next: of those at the front, the one with the smallest file, since a fix is mostly small, and
    /// what takes long mostly is not.
    fn next_waiting(&mut self) -> Option<Slot> {
        let bytes = |slot: &Slot| self.entries.get(slot).map_or(0, |entry| entry.found.signature.bytes());
        let front = self.queue.iter().take(FRONT).enumerate();
        let (place, _) = front.min_by_key(|(_, slot)| bytes(slot))?;
        self.queue.remove(place)
    }

    /// Gives waiting slots to free workers.
    fn dispatch(&mut self) {
        while let Some(slot) = self.next_waiting() {
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            let anew = entry.anew;
            let looked_since = *entry.looked_since.get_or_insert_with(Instant::now);
            entry.trying = entry.wanted.as_ref().map_or(entry.settings, |(wanted, _)| *wanted);
            let serving = entry.serving.as_ref().map(|(module, _)| module.digest);
            let job = Job {
                slot: slot.clone(),
                generation: entry.generation,
                path: self.parts.directory.root.join(&entry.found.file),
                is_barred: entry.barred.is_some(),
                limits: entry.trying.limits,
                known: entry.content.map(|(digest, _)| digest).filter(|_| !anew),
                // With other limits, what serves is to be loaded again.
                serving: serving.filter(|_| entry.wanted.is_none()),
                falls_back: serving.is_none() && (anew || !entry.forsaken),
                is_patient: self.untried.contains_key(&slot)
                    && entry.tries + 1 < TRIES_MAX
                    && looked_since.elapsed() < RESTLESS_MAX,
                unkept: entry.unkept,
                must_redact: entry.serving.as_ref().is_some_and(|(module, _)| module.program().offers().redact),
                force: entry.wanted.as_ref().map_or(entry.settings.force, |(settings, _)| settings.force),
                state: Arc::clone(&entry.state),
                cancelled: Arc::clone(&entry.cancelled),
            };
            if !self.parts.workers.try_load(job) {
                self.queue.push_front(slot);
                break;
            }
            entry.anew = false;
        }
    }

    fn done(&mut self, done: Done) {
        let Done { slot, generation, outcome, kept, versions, unkept } = done;
        // The file may have gone meanwhile, and come again: then what was found concerns nobody.
        let Some(entry) = self.entries.get_mut(&slot).filter(|entry| entry.generation == generation) else {
            return;
        };
        let now = Instant::now();
        let unreadable = matches!(outcome, Outcome::Unreadable(_));
        entry.heavy = matches!(outcome, Outcome::Heavy);
        entry.loading = entry.heavy;
        entry.retry_at = None;
        if let Some(versions) = versions {
            entry.versions = versions;
        }
        entry.forsaken = kept.is_none();
        if let Some((digest, program)) = kept {
            tracing::warn!(event_type = %slot, %digest, "the file cannot be taken, and the last version that served does again");
            entry.serve(&slot, digest, program, &self.parts.board);
        }
        entry.note_outcome(&slot, outcome, now, &self.parts);
        entry.note_unkept(unkept, now, self.parts.rescan);
        if entry.again {
            self.generations += 1;
            entry.let_go_of_heavy(self.generations);
        }
        if !entry.loading && std::mem::take(&mut entry.again) {
            enqueue(&mut self.queue, &slot, entry);
        }
        if let Some(untried) = self.untried.get_mut(&slot) {
            let why = if unreadable { Untried::Unreadable } else { Untried::Waiting };
            self.changed |= std::mem::replace(untried, why) != why;
            let restless = entry.looked_since.is_some_and(|since| now - since >= RESTLESS_MAX);
            if entry.is_decided() || entry.tries >= TRIES_MAX || restless {
                self.untried.remove(&slot);
            }
        }
        if entry.present {
            self.parts.roster.note(&slot, entry.settings_text.as_deref());
        }
        self.changed = true;
        self.due.insert(slot);
    }

    /// Lets what was taken serve, and then tells of it.
    fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            let places = self.entries.iter().map(|(slot, entry)| (slot.clone(), entry.place()));
            let unread = self.unread.values().map(|Unread { category, yields }| {
                let why = Untried::Unreadable;
                let place = if *yields { Place::Yielding(why) } else { Place::Held(why) };
                (Slot::Category(category.clone()), place)
            });
            self.parts.registry.replace(places.chain(unread));
            self.parts.board.unread(self.unread.len());
        }
        for slot in std::mem::take(&mut self.due) {
            let Some(entry) = self.entries.get_mut(&slot) else {
                self.parts.board.remove(&slot);
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
    /// Takes note of how far the file came.
    fn note_outcome(&mut self, slot: &Slot, outcome: Outcome, now: Instant, parts: &Parts) {
        match outcome {
            Outcome::Same => self.rested(slot, now),
            Outcome::Serving(digest) => self.came_back(digest, now),
            Outcome::Loaded(digest, program) => {
                self.take(digest, now);
                self.put_in_force();
                self.serve(slot, digest, program, &parts.board);
            }
            Outcome::Refused(digest, step, refusal) if self.tries_limits_on(digest) => {
                self.refuse_limits(slot, step, digest, refusal, now);
            }
            Outcome::Refused(digest, step, refusal) if refusal.passing => {
                self.tries = self.tries.saturating_add(1);
                self.retry(digest, now, parts.rescan);
                self.refuse(slot, step, Some(digest), refusal);
            }
            Outcome::Refused(digest, step, refusal) => {
                self.content = Some((digest, now));
                self.refusal = Some((step, refusal));
                self.settle(now + SETTLE);
            }
            // What was there before serves, as far as there was something, until the heavy lane has answered.
            Outcome::Heavy => {}
            Outcome::Rewritten => {
                self.content = None;
                self.settle(now + SETTLE);
            }
            // That it is gone is for the directory to tell, when it is at rest.
            Outcome::Unreadable(_) if !self.present || is_gone(&parts.directory.root.join(&self.found.file)) => {
                self.content = None;
                self.rest_without_file();
            }
            Outcome::Unreadable(error) => self.refuse_unreadable(slot, &error, now),
            Outcome::Barred => self.stay_barred(slot),
        }
    }

    fn new(generation: u64, found: Found, given: LimitDefaults) -> Self {
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
            unkept: false,
            forsaken: false,
            taken: false,
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

    /// Lets go of what is in the heavy lane, if it is there: the file is another one by now. What is still found of it
    /// concerns nobody.
    fn let_go_of_heavy(&mut self, generation: u64) {
        if !self.heavy {
            return;
        }
        self.cancelled.store(true, Release);
        self.cancelled = Arc::default();
        self.generation = generation;
        self.state = Arc::new(StateCell::new(State::Settling));
        (self.heavy, self.loading) = (false, false);
    }

    /// Whether the file as it is now was not taken.
    fn is_refused(&self) -> bool {
        self.refusal.is_some() || self.last_error.is_some()
    }

    /// Whether it is known who judges the events of this slot: what the file holds, what served before, or nothing of
    /// both.
    fn is_decided(&self) -> bool {
        let rests = self.content.is_some() && self.refusal.is_none() && self.retry_at.is_none();
        self.serving.is_some() || rests || self.barred.is_some()
    }

    /// Who judges the events of this slot now.
    fn place(&self) -> Place {
        if let Some((module, _)) = &self.serving {
            return Place::Taken(Arc::clone(module));
        }
        // What only ran out of time or room is tried again, at first as if it were still being loaded.
        let is_tried_again = self.retry_at.is_some() && self.content.is_some() && self.tries < TRIES_MAX;
        let is_refused = self.last_error.is_some() || self.lost.is_some();
        let why = if is_refused && !is_tried_again { Untried::Unreadable } else { Untried::Waiting };
        if self.yields { Place::Yielding(why) } else { Place::Held(why) }
    }

    /// Finds out whether the file may be looked into. True when that is something else than before.
    fn bar(&mut self) -> bool {
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

    /// There is no file to look into, or to tell anything of.
    fn rest_without_file(&mut self) {
        self.last_error.take_if(|error| error.digest.is_none());
        (self.look_at, self.retry_at, self.refused) = (None, None, false);
        self.state.set(if self.serving.is_some() { State::Active } else { State::Refused });
    }

    /// The file was not looked into: what served last serves on.
    fn stay_barred(&mut self, slot: &Slot) {
        self.content = None;
        match self.barred.clone() {
            // It is told with all others that are missing.
            Some(_) if !self.present => self.rest_without_file(),
            Some(refusal) => self.refuse(slot, State::Settling, None, refusal),
            None => self.look_at = Some(Instant::now()),
        }
    }

    /// Whether a load that failed was one of what serves, with other limits.
    fn tries_limits_on(&self, digest: Digest) -> bool {
        let serves = self.serving.as_ref().is_some_and(|(module, _)| module.digest == digest);
        serves && self.wanted.as_ref().is_some_and(|(wanted, _)| *wanted == self.trying)
    }

    /// What serves cannot be loaded with other limits, so those before stay in force.
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

    /// What was loaded serves with the settings that it was loaded with.
    fn put_in_force(&mut self) {
        let wanted = self.wanted.take_if(|(wanted, _)| *wanted == self.trying);
        if let Some((settings, text)) = wanted {
            (self.settings, self.settings_text, self.settings_error) = (settings, text, None);
        } else if self.wanted.is_none() && self.settings != self.trying {
            // They changed meanwhile: the next load is with those of now.
            self.wanted = Some((self.settings, self.settings_text.take()));
            self.settings = self.trying;
        }
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

    /// The file cannot be read, and is looked at again soon.
    fn refuse_unreadable(&mut self, slot: &Slot, error: &str, now: Instant) {
        self.content = None;
        (self.looked_since, self.tries) = (None, 0);
        self.look_again(now, HEARTBEAT);
        let expected = "a file that the gateway may read";
        self.refuse(slot, State::Settling, None, Refusal::new(expected, error, "check its owner and mode"));
    }

    /// Takes note of whether what serves is kept as a version.
    fn note_unkept(&mut self, unkept: Option<Refusal>, now: Instant, rescan: Duration) {
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
    fn serve(&mut self, slot: &Slot, digest: Digest, program: Program, board: &Reports) {
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

    /// Takes up the settings that were in force before the restart, in case the file is broken now.
    fn recall_settings(&mut self, text: Option<&Option<String>>, given: LimitDefaults) {
        let Some(text) = text else { return };
        let settings = text.as_ref().map_or(Ok(Settings::of(given.defaults)), |text| Settings::parse(text, given));
        if let Ok(settings) = settings {
            (self.settings, self.settings_text, self.settings_read) = (settings, text.clone(), true);
        }
    }

    /// Reads the settings file again.
    fn read_settings(&mut self, root: &Path, given: LimitDefaults) -> Change {
        let path = root.join(self.found.file.with_extension("toml"));
        let read = match &self.found.settings {
            None => Ok((Settings::of(given.defaults), None)),
            Some(_) => settings_text(root, &path)
                .and_then(|text| Settings::parse(&text, given).map(|settings| (settings, Some(text)))),
        };
        self.settings_tries = 0;
        let (settings, text) = match read {
            Ok(read) => read,
            Err(found) => {
                let expected = "settings as the README describes them";
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
        if self.serving.is_some() && settings.limits != self.settings.limits {
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

    fn posted(&self) -> Posted {
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

/// What came of reading the settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// Nothing is to be done.
    None,
    /// What serves does so with other settings from the next registry on.
    InForce,
    /// The file is to be loaded with them.
    ToLoad,
}

/// The text of a settings file, which must lie in the modules directory: a link could lead to secrets of this machine.
fn settings_text(root: &Path, path: &Path) -> Result<String, String> {
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

/// Whether there is no such name any more. What cannot be found out is there.
fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Some event types by name, and how many more there are.
fn named(slots: &[&Slot]) -> String {
    let names: Vec<String> = slots.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = slots.len().saturating_sub(NAMED_MAX);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}
