//! The watched directory. What the system tells of it is only a hint to look; what is there is found by looking, and what
//! a file holds by its digest. One thread looks, and compiles what is new on as many more as there are processors, so that
//! no request waits for a module. A file that does not load may still be growing: it is refused only once it has stayed as
//! it is for a while.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use percent_encoding::percent_decode_str;

use super::component::Module;
use super::engine::Engine;
use super::figures::Counts;
use super::report::{LoadError, State, TypeReport};
use super::{Error, Options, Registry};
use crate::verdict::Digest;

/// How long a file that does not load must stay as it is before it is refused.
const SETTLED: Duration = Duration::from_millis(300);
/// How soon to look again while a file settles, or while the directory is not there.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Largest module file.
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// Which events a file of the directory serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `<category>/<name>.wasm`.
    Type {
        /// The category, decoded.
        category: String,
        /// The name, decoded.
        name: String,
    },
    /// `<category>/_.wasm`.
    Category(String),
    /// `_.wasm`.
    Everything,
}

impl Key {
    /// The key of a file by its path inside of the directory; nothing for files that are no modules.
    fn of(path: &Path) -> Option<Self> {
        let parts: Vec<&OsStr> = path.iter().collect();
        let stem = |part: &OsStr| part.to_str().and_then(|part| part.strip_suffix(".wasm")).map(str::to_owned);
        let decoded = |part: &str| percent_decode_str(part).decode_utf8().ok().map(|part| part.into_owned());
        match parts[..] {
            [file] => (stem(file)? == "_").then_some(Self::Everything),
            [category, file] => {
                let category = decoded(category.to_str()?)?;
                let stem = stem(file)?;
                if stem == "_" {
                    Some(Self::Category(category))
                } else {
                    Some(Self::Type { category, name: decoded(&stem)? })
                }
            }
            _ => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { category, name } => write!(formatter, "{category}/{name}"),
            Self::Category(category) => write!(formatter, "{category}/_"),
            Self::Everything => formatter.write_str("_"),
        }
    }
}

/// What tells that a file has changed, short of reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    inode: u64,
    modified: (i64, i64),
}

/// A file as it was last looked at.
#[derive(Debug)]
struct File {
    stamp: Stamp,
    /// Since when the stamp has been the same.
    since: Instant,
    /// The digest of what was read, and why it did not load, if it did not. Told once settled.
    read: Option<(Digest, Option<LoadError>)>,
}

/// What is known of one key.
#[derive(Clone, Debug, Default)]
struct Known {
    module: Option<(Arc<Module>, String)>,
    loading: Option<State>,
    last_error: Option<LoadError>,
}

/// What the looking thread shares with those who ask.
#[derive(Debug, Default)]
struct Shared {
    known: Mutex<BTreeMap<Key, Known>>,
    scanned: AtomicBool,
    stop: AtomicBool,
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        // Each change is one assignment, so that a panic in between leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The watch, its thread, and what it has found.
#[derive(Debug)]
pub(super) struct Directory {
    shared: Arc<Shared>,
    options: Options,
    hint: SyncSender<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Directory {
    pub(super) fn watch(
        options: Options,
        engine: Arc<Engine>,
        registry: Arc<ArcSwap<Registry>>,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        // Room for one hint: any number of events asks for the same look.
        let (hint, hints) = sync_channel(1);
        let looking = Looking {
            options: options.clone(),
            engine,
            registry,
            shared: Arc::clone(&shared),
            files: HashMap::new(),
            hint: hint.clone(),
            watcher: None,
        };
        let thread = std::thread::Builder::new().name("modules".to_owned()).spawn(move || looking.run(&hints))?;
        Ok(Self { shared, options, hint, thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn scanned(&self) -> bool {
        self.shared.scanned.load(Ordering::Acquire)
    }

    pub(super) fn report(&self) -> Vec<TypeReport> {
        let known = self.shared.known();
        known.iter().map(|(key, known)| self.type_report(key, known)).collect()
    }

    fn type_report(&self, key: &Key, known: &Known) -> TypeReport {
        let module = known.module.as_ref().map(|(module, _)| module);
        let state = match (module, known.loading) {
            (Some(_), _) => State::Active,
            (None, Some(loading)) => loading,
            (None, None) => State::Refused,
        };
        TypeReport {
            event_type: key.to_string(),
            state,
            loading: known.loading,
            digest: module.map(|module| module.digest()),
            since: known.module.as_ref().map(|(_, since)| since.clone()),
            summary: module.map(|module| module.summary.clone()),
            limits: module.map_or(self.options.limits, |module| module.limits()),
            counts: module.map_or_else(Counts::default, |module| module.figures.counts()),
            judging: module.and_then(|module| module.figures.times()),
            last_error: known.last_error.clone(),
        }
    }

    /// Ends the thread; waits until it has.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // A full channel holds a hint already, which wakes the thread as well.
        let _ = self.hint.try_send(());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the watch of the modules directory had ended before");
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The looking thread.
struct Looking {
    options: Options,
    engine: Arc<Engine>,
    registry: Arc<ArcSwap<Registry>>,
    shared: Arc<Shared>,
    files: HashMap<Key, File>,
    hint: SyncSender<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Looking {
    fn run(mut self, hints: &Receiver<()>) {
        let mut thorough = Instant::now();
        while !self.shared.stop.load(Ordering::Acquire) {
            let watched = self.keep_watching();
            // Now and then every file is read again: some changes leave no trace in its metadata.
            let read_all = thorough.elapsed() >= self.options.rescan;
            if read_all {
                thorough = Instant::now();
            }
            let settling = self.look(read_all);
            self.shared.scanned.store(true, Ordering::Release);
            let pause = if settling || !watched { LOOK_AGAIN } else { self.options.rescan };
            // Both outcomes mean the same: look again.
            let _ = hints.recv_timeout(pause);
        }
    }

    /// Watches the directory, anew if it was not there or was replaced.
    fn keep_watching(&mut self) -> bool {
        if !self.options.modules_dir.is_dir() {
            self.watcher = None;
            return false;
        }
        if self.watcher.is_some() {
            return true;
        }
        let hint = self.hint.clone();
        // A full channel holds a hint already.
        let tell = move |_: notify::Result<notify::Event>| {
            let _ = hint.try_send(());
        };
        let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
            watcher.watch(&self.options.modules_dir, RecursiveMode::Recursive).map(|()| watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "the modules directory cannot be watched; it is read every now and then")
            }
        }
        self.watcher.is_some()
    }

    /// Looks at all files once, and takes over what is new. Says whether a file is settling.
    fn look(&mut self, read_all: bool) -> bool {
        let found = self.list();
        let gone: Vec<Key> = self.files.keys().filter(|key| !found.contains_key(*key)).cloned().collect();
        for key in gone {
            self.unload(&key);
        }
        let mut changed = Vec::new();
        for (key, (path, stamp)) in found {
            let same = self.files.get(&key).is_some_and(|file| file.stamp == stamp);
            if same && !read_all && self.files.get(&key).is_some_and(|file| file.read.is_some()) {
                continue;
            }
            if !same {
                self.files.insert(key.clone(), File { stamp, since: Instant::now(), read: None });
            }
            changed.push((key, path));
        }
        self.load_all(changed);
        self.tell_settled()
    }

    /// The modules in the directory, with what tells that they have changed.
    fn list(&self) -> BTreeMap<Key, (PathBuf, Stamp)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![(self.options.modules_dir.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            // A folder may vanish while it is read; the next look then finds it gone.
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let (path, hidden) = (entry.path(), entry.file_name().as_encoded_bytes().starts_with(b"."));
                // Links are followed: container volumes swap their content by links to hidden folders.
                let Ok(metadata) = std::fs::metadata(&path) else { continue };
                if metadata.is_dir() && depth == 0 && !hidden {
                    folders.push((path, 1));
                } else if metadata.is_file() && !hidden {
                    let inside = path.strip_prefix(&self.options.modules_dir).unwrap_or(&path);
                    if let Some(key) = Key::of(inside) {
                        let modified = (metadata.mtime(), metadata.mtime_nsec());
                        let stamp = Stamp { bytes: metadata.len(), inode: metadata.ino(), modified };
                        found.insert(key, (path, stamp));
                    }
                }
            }
        }
        found
    }

    fn unload(&mut self, key: &Key) {
        self.files.remove(key);
        self.shared.known().remove(key);
        self.swap(|registry| registry.put(key, None));
        tracing::info!(event_type = %key, "the module is removed");
    }

    fn swap(&self, change: impl FnOnce(&mut Registry)) {
        let mut registry = Registry::clone(&self.registry.load());
        change(&mut registry);
        self.registry.store(Arc::new(registry));
    }

    /// Loads the files, several at once, and takes each over as soon as it is proved.
    fn load_all(&mut self, changed: Vec<(Key, PathBuf)>) {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(changed.len());
        let next = AtomicUsize::new(0);
        let loaded = Mutex::new(Vec::new());
        let this = &*self;
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some((key, path)) = changed.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let read = this.load(key, path);
                        loaded.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), read));
                    }
                });
            }
        });
        for (key, read) in loaded.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let (Some(file), Some(read)) = (self.files.get_mut(&key), read) {
                file.read = Some(read);
            }
        }
    }

    /// Reads and loads one file; nothing if it vanished meanwhile.
    fn load(&self, key: &Key, path: &Path) -> Option<(Digest, Option<LoadError>)> {
        if std::fs::metadata(path).ok()?.len() > MODULE_BYTES_MAX {
            let error = LoadError {
                expected: format!("a file of at most {MODULE_BYTES_MAX} bytes"),
                found: "a larger one".to_owned(),
                mend: "build with the profile `guest`, without debug information".to_owned(),
                ..LoadError::at(State::Checking)
            };
            return Some((Digest::of(&[]), Some(error)));
        }
        let bytes = std::fs::read(path).ok()?;
        let digest = Digest::of(&bytes);
        if let Some((last, error)) = self.files.get(key).and_then(|file| file.read.clone())
            && last == digest
        {
            return Some((digest, error));
        }
        let serves =
            self.shared.known().get(key).and_then(|known| known.module.as_ref().map(|(module, _)| module.digest()));
        if serves == Some(digest) {
            self.tell(key, |known| {
                known.last_error = None;
                known.loading = None;
            });
            return Some((digest, None));
        }
        let step = |state| self.tell(key, |known| known.loading = Some(state));
        step(State::Settling);
        let check_amended = Arc::clone(&self.options.check_amended);
        match Module::load(&self.engine, &bytes, self.options.limits, check_amended, step) {
            Ok(module) => {
                self.take_over(key, Arc::new(module));
                Some((digest, None))
            }
            Err(error) => Some((digest, Some(LoadError { digest: Some(digest), ..error }))),
        }
    }

    fn tell(&self, key: &Key, change: impl FnOnce(&mut Known)) {
        change(self.shared.known().entry(key.clone()).or_default());
    }

    fn take_over(&self, key: &Key, module: Arc<Module>) {
        // Held over the swap, so that two threads do not swap at once and lose one of their modules.
        let mut known = self.shared.known();
        self.swap(|registry| registry.put(key, Some(Arc::clone(&module))));
        let entry = known.entry(key.clone()).or_default();
        tracing::info!(event_type = %key, digest = %module.digest(), "the module serves");
        *entry = Known { module: Some((module, now())), loading: None, last_error: None };
    }

    /// Refuses what did not load and has stayed as it is. Says whether something is still settling.
    fn tell_settled(&mut self) -> bool {
        let mut settling = false;
        for (key, file) in &self.files {
            let Some((digest, Some(error))) = &file.read else {
                settling |= file.read.is_none();
                continue;
            };
            if file.since.elapsed() < SETTLED {
                settling = true;
                self.tell(key, |known| known.loading = Some(State::Settling));
                continue;
            }
            let told = self.shared.known().get(key).is_some_and(|known| known.last_error.as_ref() == Some(error));
            if !told {
                tracing::warn!(event_type = %key, %digest, found = error.found, "the module is refused");
            }
            self.tell(key, |known| {
                known.loading = None;
                known.last_error = Some(error.clone());
            });
        }
        settling
    }
}

#[expect(clippy::disallowed_methods, reason = "people want to know since when a module serves")]
fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_event_types_to_the_letter() {
        let named = |path: &str| Key::of(Path::new(path)).map(|key| key.to_string());
        assert_eq!(named("page interaction/cta click.wasm").as_deref(), Some("page interaction/cta click"));
        assert_eq!(named("a%2Fb/c%20d.wasm").as_deref(), Some("a/b/c d"));
        assert_eq!(Key::of(Path::new("a/_.wasm")), Some(Key::Category("a".to_owned())));
        assert_eq!(
            Key::of(Path::new("a/%5F.wasm")),
            Some(Key::Type { category: "a".to_owned(), name: "_".to_owned() })
        );
        assert_eq!(Key::of(Path::new("_.wasm")), Some(Key::Everything));
        assert_ne!(Key::of(Path::new("a/B.wasm")), Key::of(Path::new("a/b.wasm")));
        for other in ["b.wasm", "a/b.toml", "a/b/c.wasm", "a/%ff.wasm"] {
            assert_eq!(Key::of(Path::new(other)), None, "{other}");
        }
    }
}
