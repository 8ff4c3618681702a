//! The lifecycle of every slot: seen, settling, loading, active or refused, gone. One owned thread decides. It waits for
//! hints from the directory, for workers that answer, and for the times at which it looks again by itself. This file owns
//! the thread, its state and its loop. Below it, `scans.rs` compares the directory with the slots, `accidents.rs` decides
//! about missing files, and `loads.rs` gives files to workers and takes their answers.
//!
//! The digest of the content is the truth: a file that does not load is refused only once its content has rested for the
//! settle time. In doubt the gateway stores no event unjudged: from the first scan that shows a file until it serves, its
//! events are unfinished. The module that served last serves on when its file is refused, unreadable, or lost with most
//! others.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eye_event::verdict::Digest;

use super::besides::Candidates;
use super::directory::Directory;
use super::entry::{Entry, SETTLE};
use super::happening::{Happening, Observer};
use super::history::History;
use super::losses::Losses;
use super::naming::Stray;
use super::registry::{Place, Registry, Untried};
use super::report::Reports;
use super::roster::Roster;
use super::settings::LimitDefaults;
use super::slot::Slot;
use super::worker::{Done, State, Workers};

mod accidents;
mod loads;
mod scans;

/// Longest time that a file may be missing before its module is unloaded, however restless the directory is.
pub(super) const MISSING_MAX: Duration = Duration::from_secs(10);

/// Longest pause of the loop. A directory that is replaced sends no event, so the thread compares its identity this often.
const HEARTBEAT: Duration = Duration::from_millis(250);

/// Least time between two scans, however many hints come.
const SCAN_PAUSE: Duration = Duration::from_millis(10);

/// Longest time between two scans while something has been unreadable since start-up. The first pause is a heartbeat, and
/// each is twice the one before.
const UNREAD_PAUSE_MAX: Duration = Duration::from_secs(8);

/// Message for files and folders that have been unreadable since start-up.
const HELD: &str = "until it was read once, its events are not judged: an event alone is answered 503";

/// Message for a directory that became unreadable later.
const SERVES_ON: &str = "what served last serves on";

/// Pause between two looks for files that an operator retired.
const CONFIRM_PAUSE: Duration = Duration::from_secs(1);

/// Messages to the lifecycle thread.
pub(super) enum Message {
    /// The watcher saw the directory change. It only wakes the thread, which then reads `hinted`.
    Hint,
    /// A worker answers a job.
    Done(Box<Done>),
    /// This version of the slot was taken back. The one before serves.
    TakenBack(Slot, Digest),
    /// It is not taken back any more.
    Lifted(Slot),
    /// The thread must end.
    Stop,
}

/// The parts that the thread works with.
pub(super) struct Parts {
    /// The modules directory. Each scan reads it.
    pub(super) directory: Directory,
    /// A writer of several files that belong together holds this lock. Each scan waits for it.
    pub(super) scans: Arc<Mutex<()>>,
    /// The watcher of the directory raises it; the loop lowers it and plans a scan.
    pub(super) hinted: Arc<AtomicBool>,
    /// Messages of watcher, workers and owner. The loop waits here.
    pub(super) inbox: Receiver<Message>,
    /// The loading threads. The loop gives them jobs while they are free.
    pub(super) workers: Workers,
    /// The modules that judge. Each publication replaces its content.
    pub(super) registry: Arc<Registry>,
    /// The reports for operators. Each publication posts the slots that changed.
    pub(super) board: Arc<Reports>,
    /// The slots that served before the start. The first scan compares them with the files.
    pub(super) roster: Roster,
    /// Limits of modules whose settings file sets none.
    pub(super) given: Arc<Mutex<LimitDefaults>>,
    /// Longest time between two scans of a directory that can be read.
    pub(super) rescan: Duration,
    /// Gets the changes of slots after each publication.
    pub(super) observer: Observer,
    /// Looks at the registry after each publication.
    pub(super) candidates: Arc<Candidates>,
    /// The directory of candidates, which most gateways do not have.
    pub(super) is_of_candidates: bool,
    /// The versions of all slots.
    pub(super) history: History,
}

impl Parts {
    /// The limits for a settings file that is read now.
    fn given(&self) -> LimitDefaults {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own state. Only this thread reads and writes it.
pub(super) struct Lifecycle {
    parts: Parts,
    /// The slots that have a file, or had one that counts as missing or lost.
    entries: BTreeMap<Slot, Entry>,
    /// Files that serve nothing, as the last scan showed them. The next one logs only those that differ.
    strays: BTreeMap<PathBuf, Stray>,
    /// When a scan first showed each file that does not look like a module. Young ones are not reported: a copy writes into
    /// such a file first and renames it soon.
    others_since: BTreeMap<PathBuf, Instant>,
    /// Slots that wait for a worker, each at most once.
    queue: VecDeque<Slot>,
    /// When the next scan is due.
    scan_at: Instant,
    /// When a scan is due because a hint came a settle time before.
    follow_up_at: Option<Instant>,
    /// When the last scan ended. The next one keeps its distance.
    scanned_at: Instant,
    /// Least time between two scans. It grows with the time that a scan takes, so that the thread does not only scan.
    scan_pause: Duration,
    /// When a scan last differed from the one before. Missing files wait until the directory is at rest.
    restless_at: Instant,
    /// Number of the newest life of a slot. Each new one takes the next.
    generations: u64,
    /// A scan has shown which files there are, or that there is no directory. Readiness waits for it.
    begun: bool,
    /// Slots whose file has been there from the start and was not tried yet. Readiness waits for them.
    untried: BTreeMap<Slot, Untried>,
    /// Folders that have been unreadable since start-up, or since they came. The registry holds the events of their category.
    unread: BTreeMap<PathBuf, Unread>,
    /// Folders that a scan has read. If one becomes unreadable later, its files are known.
    read: BTreeSet<PathBuf>,
    /// The rule for accidents. Each scan passes it the files that are there.
    losses: Losses,
    /// Settings of slots that were unloaded lately. Read when their removal turns out to be part of an accident.
    went: BTreeMap<Slot, Option<String>>,
    /// Number of modules before the last accident. The message to the operator names it.
    lost_of: usize,
    /// When the thread next looks for retired slots among the lost ones.
    confirm_at: Instant,
    /// Pause before the next scan while something has been unreadable since start-up.
    unread_pause: Duration,
    /// An entry changed in a way that the registry does not have yet. The next publication replaces the registry.
    changed: bool,
    /// Slots that the next publication reports, once the registry has them: a module reported as active does serve.
    due: BTreeSet<Slot>,
    /// Slots that the next publication tells to be unloaded, with the module that served.
    unloaded: Vec<(Slot, Option<Digest>)>,
}

/// A folder that the gateway cannot read.
struct Unread {
    /// The registry holds the events of this category.
    category: String,
    /// A wider module judged these events when the folder came, and goes on.
    yields: bool,
}

impl Lifecycle {
    /// The state before the first scan.
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
            unloaded: Vec::new(),
        }
    }

    /// Runs until the owner sends [`Message::Stop`].
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
            Message::TakenBack(slot, digest) => self.take_back(&slot, digest),
            Message::Lifted(slot) => self.look_anew(&slot),
            Message::Hint | Message::Stop => {}
        }
    }

    /// When the loop must look again even if no message comes.
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

    /// Does everything whose time has come.
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

    /// Reads the directory and compares it with the slots.
    fn scan(&mut self) {
        let scans = Arc::clone(&self.parts.scans);
        let _nobody_writes = scans.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        if self.follow_up_at.is_some_and(|at| began >= at) {
            self.follow_up_at = None;
        }
        match self.parts.directory.scan() {
            Ok(scan) => self.compare(scan, began),
            // A missing or unreadable directory proves nothing about its files, not even that they are missing. All modules
            // serve on.
            Err(error) => {
                self.entries.values_mut().for_each(|entry| entry.missing_since = None);
                if error.kind() == io::ErrorKind::NotFound {
                    self.begin(BTreeMap::new(), None);
                }
                let told = format!("{}: {error}", self.parts.directory.root.display());
                // A directory that never existed holds back no event.
                let is_absent = self.begun && self.entries.is_empty() && error.kind() == io::ErrorKind::NotFound;
                let then = if self.begun { SERVES_ON } else { HELD };
                let told = if is_absent { told } else { format!("{told}; {then}") };
                // Most gateways have no candidates, and the modules directory tells its own errors.
                let is_told = !self.parts.is_of_candidates
                    || !is_absent && self.parts.directory.root.parent().is_some_and(|dir| dir.read_dir().is_ok());
                if is_told {
                    self.parts.board.directory_error(Some((told, !is_absent)));
                }
            }
        }
        self.scan_pause = SCAN_PAUSE.max(began.elapsed() * 2);
        self.scanned_at = Instant::now();
        self.scan_at = self.scanned_at + self.next_scan_after();
    }

    /// Pause before the next scan, whatever happens.
    fn next_scan_after(&mut self) -> Duration {
        if self.begun && self.unread.is_empty() {
            self.unread_pause = HEARTBEAT;
            return self.parts.rescan;
        }
        let pause = self.unread_pause;
        self.unread_pause = (pause * 2).min(UNREAD_PAUSE_MAX);
        pause.min(self.parts.rescan)
    }

    /// Whether a module of this slot judges now.
    fn serves(&self, slot: &Slot) -> bool {
        self.entries.get(slot).is_some_and(|entry| entry.serving.is_some())
    }

    /// Whether a module of a wider slot judges the events of this one.
    fn judges_wider(&self, slot: &Slot) -> bool {
        match slot {
            Slot::Any => false,
            Slot::Category(_) => self.serves(&Slot::Any),
            Slot::Exact(category, _) => self.serves(&Slot::Category(category.clone())) || self.serves(&Slot::Any),
        }
    }

    /// Unloads the module of a slot whose file is gone.
    fn unload(&mut self, slot: Slot) {
        let gone = self.entries.remove(&slot);
        if let Some(entry) = &gone {
            entry.cancelled.store(true, Release);
        }
        let before = gone.and_then(|entry| entry.serving).map(|(module, _)| module.digest);
        self.unloaded.push((slot.clone(), before));
        self.queue.retain(|waiting| *waiting != slot);
        self.untried.remove(&slot);
        self.parts.roster.strike(&slot);
        self.parts.history.note_gone(&slot);
        if self.parts.is_of_candidates {
            tracing::info!(event_type = %slot, "the file is gone: the slot has no candidate any more");
        } else if self.judges_wider(&slot) {
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

    /// Lets a version serve no more. It serves on until a worker has loaded the version before.
    fn take_back(&mut self, slot: &Slot, digest: Digest) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        if entry.loading {
            // The worker may have looked for the note before it was there.
            entry.taken_back.push(digest);
        }
        self.changed |= entry.displace(digest, self.parts.is_of_candidates);
        self.look_anew(slot);
    }

    /// Looks at the file of a slot as if it were new.
    fn look_anew(&mut self, slot: &Slot) {
        let Some(entry) = self.entries.get_mut(slot) else { return };
        entry.anew = true;
        enqueue(&mut self.queue, slot, entry);
        self.due.insert(slot.clone());
    }

    /// Replaces the registry if an entry changed, and then reports the slots that are due.
    fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            let places = self.entries.iter().map(|(slot, entry)| (slot.clone(), entry.place()));
            let unread = self.unread.values().map(|Unread { category, yields }| {
                let why = Untried::Unreadable;
                let place = if *yields { Place::Yielding(why) } else { Place::Held(why) };
                (Slot::Category(category.clone()), place)
            });
            self.parts.registry.replace(places.chain(unread));
            self.parts.candidates.sync();
            self.parts.board.unread(self.unread.len());
        }
        for (slot, before) in std::mem::take(&mut self.unloaded) {
            self.parts.observer.tell(&[&slot], Happening::Unloaded { before });
        }
        for slot in std::mem::take(&mut self.due) {
            let Some(entry) = self.entries.get_mut(&slot) else {
                self.parts.board.remove(&slot);
                continue;
            };
            entry.tell_taken(&slot, self.parts.is_of_candidates);
            for happening in std::mem::take(&mut entry.happenings) {
                self.parts.observer.tell(&[&slot], happening);
            }
            self.parts.board.post(&slot, entry.posted());
            // The reason is posted before the state, since readers of the state look the reason up.
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

/// When to unload a module whose file is missing, in a directory that changed last at `restless_at`.
pub(super) fn unload_at(missing_since: Instant, restless_at: Instant) -> Instant {
    (missing_since.max(restless_at) + SETTLE).min(missing_since + MISSING_MAX)
}

/// Queues a slot for a worker. If it is queued or with a worker already, it is queued again after the answer.
fn enqueue(queue: &mut VecDeque<Slot>, slot: &Slot, entry: &mut Entry) {
    if entry.loading {
        entry.again = true;
    } else {
        entry.loading = true;
        queue.push_back(slot.clone());
    }
}
