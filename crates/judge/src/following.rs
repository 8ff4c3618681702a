//! The threads that follow the modules directory and the folder of candidates in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::besides::Candidates;
use super::directory::Directory;
use super::happening::{Happening, Observer};
use super::history::{CANDIDATES, History};
use super::lifecycle::{Lifecycle, Message, Parts};
use super::registry::Registry;
use super::report::Reports;
use super::roster::Roster;
use super::settings::LimitDefaults;
use super::worker::{QUICK_MAX, Tools, Workers};

/// The folder of candidates in the modules directory.
pub(super) const CANDIDATES_DIR: &str = ".candidates";

/// Threads that load candidates side by side.
const CANDIDATE_THREADS: usize = 1;

/// The thread that follows the modules directory, or the folder of candidates in it.
pub(super) struct LifecycleThread {
    inbox: SyncSender<Message>,
    /// Each scan of the directory holds it.
    pub(super) scans: Arc<Mutex<()>>,
    /// `None` once it was ended.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What such a thread follows, and where it posts.
pub(super) struct Followed {
    pub(super) dir: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) tools: Arc<Tools>,
    pub(super) registry: Arc<Registry>,
    pub(super) board: Arc<Reports>,
    pub(super) candidates: Arc<Candidates>,
    pub(super) given: Arc<Mutex<LimitDefaults>>,
    pub(super) observer: Observer,
    pub(super) rescan: Duration,
    pub(super) is_beside_gateway: bool,
    pub(super) is_of_candidates: bool,
}

impl Followed {
    /// The folder of candidates in what this follows.
    pub(super) fn candidates(&self) -> Self {
        let data_dir = self.data_dir.join(CANDIDATES);
        let tools = Tools {
            sandbox: Arc::clone(&self.tools.sandbox),
            loader: Arc::clone(&self.tools.loader),
            history: History::under(&data_dir),
        };
        let history = tools.history.clone();
        let observer = Observer::new(move |slots, happening| {
            if let Happening::Unloaded { .. } = happening {
                slots.iter().for_each(|slot| history.end_trial(slot));
            }
        });
        Self {
            dir: self.dir.join(CANDIDATES_DIR),
            data_dir,
            tools: Arc::new(tools),
            registry: Arc::clone(&self.candidates.tried),
            board: Arc::new(Reports::new()),
            candidates: Arc::clone(&self.candidates),
            given: Arc::clone(&self.given),
            observer,
            rescan: self.rescan,
            is_beside_gateway: self.is_beside_gateway,
            is_of_candidates: true,
        }
    }
}

impl LifecycleThread {
    pub(super) fn start(followed: Followed) -> std::io::Result<Self> {
        let Followed { dir, data_dir, tools, registry, board, candidates, given, observer, .. } = followed;
        let (inbox, messages) = sync_channel(64);
        let done = inbox.clone();
        let (threads, name) = match followed.is_of_candidates {
            true => (CANDIDATE_THREADS, "eye-candidates"),
            false => (QUICK_MAX, "eye-modules"),
        };
        let workers = Workers::start(&tools, threads, move |what| done.send(Message::Done(Box::new(what))).is_ok())?;
        let hinted = Arc::new(AtomicBool::new(false));
        let scans = Arc::new(Mutex::new(()));
        let life = Lifecycle::new(Parts {
            directory: Directory::watch(dir, hinting(inbox.clone(), Arc::clone(&hinted))),
            scans: Arc::clone(&scans),
            hinted,
            inbox: messages,
            workers,
            registry,
            board,
            roster: Roster::under(&data_dir).foreign(followed.is_beside_gateway),
            given,
            rescan: followed.rescan,
            observer,
            candidates,
            is_of_candidates: followed.is_of_candidates,
            history: tools.history.clone(),
        });
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || life.run())?;
        Ok(Self { inbox, scans, thread: Mutex::new(Some(thread)) })
    }

    /// Wakes the thread with a message.
    pub(super) fn tell(&self, message: Message) {
        let _ended = self.inbox.send(message);
    }

    /// Ends the thread, and the threads that it owns.
    pub(super) fn end(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // The thread reads its inbox until it gets this message. If the inbox is closed, the thread has ended.
        let _ended = self.inbox.send(Message::Stop);
        if thread.join().is_err() {
            tracing::error!("the thread that loads modules panicked");
        }
    }
}

/// Returns a function that raises a flag and wakes the thread that reads it. The watcher never waits and queues no
/// event: if the inbox is full, the thread has messages to wake up for.
fn hinting(inbox: SyncSender<Message>, hinted: Arc<AtomicBool>) -> impl Fn() + Send + 'static {
    move || {
        if !hinted.swap(true, AcqRel) {
            let _full = inbox.try_send(Message::Hint);
        }
    }
}
