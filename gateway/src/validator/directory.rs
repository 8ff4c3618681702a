//! The modules directory as the file system shows it: which files there are, and hints that something may have changed.
//! A hint says only "look"; what was lost or never told is found by looking again. Nothing here reads a module.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::slot::Slot;

/// What is compared to see whether a file may have other content now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, inode and the time of the last change of content or attributes, which no tool can set back.
    identity: (u64, u64, i64, i64),
}

impl Signature {
    pub(super) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        #[cfg(not(unix))]
        let identity = (0, 0, 0, 0);
        Self { len: metadata.len(), modified: metadata.modified().ok(), identity }
    }

    /// That of a file as a look at it showed it, which tells nothing if it could not be looked at.
    fn seen(metadata: &io::Result<Metadata>) -> Self {
        metadata.as_ref().map_or(Self { len: 0, modified: None, identity: (0, 0, 0, 0) }, Self::of)
    }

    /// Whether `later` is the same file with what may be other content. Another file in its place is no such thing: this
    /// one was whole.
    pub(super) fn was_rewritten(&self, later: &Self) -> bool {
        let file = |signature: &Self| (signature.identity.0, signature.identity.1);
        file(self) == file(later) && self != later
    }
}

/// Opens a file, and nothing else: opening a device may do something, and opening a pipe waits for somebody who writes to
/// it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { open_unwaiting(path) } else { Err(io::Error::other(NO_FILE)) }
}

/// Opens a file without waiting, whatever took its place since it was looked at.
pub(super) fn open_unwaiting(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    }
    let file = options.open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NO_FILE)) }
}

/// What is told of a name that leads to something else than a file.
const NO_FILE: &str = "it is no regular file";

/// One module file, and the settings beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Relative to the root.
    pub(super) file: PathBuf,
    pub(super) signature: Signature,
    pub(super) settings: Option<Signature>,
}

/// What one look at the directory showed.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) modules: BTreeMap<Slot, Found>,
    /// Files that serve nothing and folders that cannot be read, relative to the root, and why.
    pub(super) strays: BTreeMap<PathBuf, String>,
    /// The folders among them that may hold modules nobody knows of, each with its category.
    pub(super) unread: BTreeMap<PathBuf, String>,
}

/// The modules directory.
pub(super) struct Directory {
    pub(super) root: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched now, to notice when another one takes its place.
    watched: Option<(u64, u64)>,
    /// Not all of it could be watched: something cannot be read, or the system has no more watches to give.
    deaf: bool,
}

impl Directory {
    /// Begins to watch `root`, which need not exist yet. `hint` is called from a thread of the watcher.
    pub(super) fn watch(root: PathBuf, hint: impl Fn() + Send + 'static) -> Self {
        let handler = move |event: notify::Result<notify::Event>| {
            if is_worth_a_look(&event) {
                hint();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| tracing::warn!("no file events, changes are found by looking: {error}"))
            .ok();
        let mut directory = Self { root, watcher, watched: None, deaf: false };
        directory.follow();
        directory
    }

    /// Moves the watch when the root appeared, vanished or was replaced. True when it did, and a scan is due.
    pub(super) fn follow(&mut self) -> bool {
        let now = fs::metadata(&self.root).ok().filter(Metadata::is_dir).map(|metadata| identity(&metadata));
        if now == self.watched {
            return false;
        }
        self.watched = now;
        self.deaf = false;
        if let Some(watcher) = &mut self.watcher {
            // Fails when the old directory is gone, and then there is nothing to stop watching.
            let _gone = watcher.unwatch(&self.root);
            if now.is_some()
                && let Err(error) = watcher.watch(&self.root, RecursiveMode::Recursive)
            {
                tracing::warn!("no file events from {}, changes are found by looking: {error}", self.root.display());
                self.deaf = true;
            }
        }
        true
    }

    /// Tries again to watch what could not be watched; the next scan finds what changed before.
    pub(super) fn listen_again(&mut self) {
        if self.deaf
            && let Some(watcher) = &mut self.watcher
            && watcher.watch(&self.root, RecursiveMode::Recursive).is_ok()
        {
            tracing::info!("there are file events from {}", self.root.display());
            self.deaf = false;
        }
    }

    /// Looks at every file.
    ///
    /// # Errors
    ///
    /// When the root cannot be read: then the scan tells nothing, least of all that files are gone. Only `NotFound` says
    /// that there is no directory.
    pub(super) fn scan(&self) -> io::Result<Scan> {
        scan(&self.root)
    }
}

/// Whether something may have changed. Our own reading opens and closes files, which changes nothing.
pub(super) fn is_worth_a_look(event: &notify::Result<notify::Event>) -> bool {
    use notify::event::{AccessKind, AccessMode};
    match event {
        // The system kept fewer events than there were.
        Ok(event) if event.need_rescan() => true,
        Ok(event) => match event.kind {
            EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
            _ => true,
        },
        Err(_) => true,
    }
}

/// Looks at every file under `root`, as [`Directory::scan`] does.
pub(super) fn scan(root: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut files = BTreeMap::new();
    for (name, metadata) in list(root)? {
        let within = match metadata {
            Ok(metadata) if metadata.is_dir() => list(&root.join(&name)),
            // It may be the folder of a category; only these two are files for certain.
            Err(error) if name != Path::new("_.wasm") && name != Path::new("_.toml") => Err(error),
            file => {
                files.insert(name, file);
                continue;
            }
        };
        match within {
            Ok(within) => files.extend(within.into_iter().map(|(file, metadata)| (name.join(file), metadata))),
            // The folder vanished between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => scan.note_unread(name, &error),
        }
    }
    for (file, metadata) in files.iter().filter(|(file, _)| file.extension().is_some_and(|end| end == "wasm")) {
        if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            scan.strays.insert(file.clone(), NO_FILE.into());
            continue;
        }
        match Slot::of_path(file) {
            Ok(slot) => scan.take(slot, file, metadata, files.get(&file.with_extension("toml"))),
            Err(why) => {
                scan.strays.insert(file.clone(), why);
            }
        }
    }
    Ok(scan)
}

impl Scan {
    fn note_unread(&mut self, folder: PathBuf, error: &io::Error) {
        if let Ok(Slot::Category(category)) = Slot::of_path(&folder.join("_.wasm")) {
            self.unread.insert(folder.clone(), category);
        }
        self.strays.insert(folder, format!("this folder cannot be read: {error}"));
    }

    fn take(
        &mut self,
        slot: Slot,
        file: &Path,
        metadata: &io::Result<Metadata>,
        settings: Option<&io::Result<Metadata>>,
    ) {
        // Two spellings of one event type: the canonical one serves, else the first in order.
        if let Some(other) = self.modules.get(&slot) {
            let canonical = slot.file() == file;
            let (serves, idle) = if canonical { (file, &*other.file) } else { (&*other.file, file) };
            self.strays.insert(idle.to_owned(), format!("{} serves the same event type", serves.display()));
            if !canonical {
                return;
            }
        }
        let found = Found {
            file: file.to_owned(),
            signature: Signature::seen(metadata),
            settings: settings.map(Signature::seen),
        };
        self.modules.insert(slot, found);
    }
}

/// Names and what they lead to, symlinks followed. Hidden entries, among them the `..data` of container volumes, are not
/// modules; a link that leads nowhere is not there. What cannot be looked at hides nothing else.
fn list(dir: &Path) -> io::Result<Vec<(PathBuf, io::Result<Metadata>)>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        // Every volume of its own has a `lost+found` that only root may read.
        if name.as_encoded_bytes().starts_with(b".") || name == "lost+found" {
            continue;
        }
        match fs::metadata(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            metadata => entries.push((PathBuf::from(name), metadata)),
        }
    }
    Ok(entries)
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> (u64, u64) {
    (0, 0)
}
