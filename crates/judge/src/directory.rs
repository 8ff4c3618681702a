//! The modules directory as the file system shows it: which files there are, and hints that something may have changed.
//! A hint says only "look"; what was lost or never told is found by looking again. Nothing here reads a module, and nothing
//! here follows a link to a folder that lies elsewhere. What a name says is judged by `naming.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::naming::{self, Stray};
use super::slot::Slot;

/// Entries of the directory and of its folders that are looked at. A directory with more is none that people made.
const ENTRIES_MAX: usize = 100_000;

/// Entries below the folders of categories that are looked at for modules that serve nothing there.
const NESTED_ENTRIES_MAX: usize = 1_000;

/// How deep that look goes below the folder of a category.
const NESTED_DEPTH_MAX: usize = 4;

/// Files and folders that are told to serve nothing. Further ones are counted.
const STRAYS_MAX: usize = 500;

/// What is compared to see whether a file may have other content now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, inode and the time of the last change of content or attributes, which no tool can set back.
    identity: (u64, u64, i64, i64),
}

impl Signature {
    /// Bytes of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.len
    }

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

/// What a file holds, if it is a file, and no larger than it may be.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
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
    /// Other files of the same event type: with any, it is not known which one is meant.
    pub(super) others: Vec<PathBuf>,
}

impl Found {
    /// The file of a slot that is not in the directory.
    pub(super) fn absent(slot: &Slot) -> Self {
        let nothing = Signature { len: 0, modified: None, identity: (0, 0, 0, 0) };
        Self { file: slot.file(), signature: nothing, settings: None, others: Vec::new() }
    }
}

/// What one look at the directory showed.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) modules: BTreeMap<Slot, Found>,
    /// Files that serve nothing and folders that cannot be read, relative to the root, and why.
    pub(super) strays: BTreeMap<PathBuf, Stray>,
    /// How many more there are.
    pub(super) strays_omitted: usize,
    /// The folders among them that may hold modules nobody knows of, each with its category.
    pub(super) unread: BTreeMap<PathBuf, String>,
    /// The folders that were read.
    pub(super) read: BTreeSet<PathBuf>,
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
        if let Some(watcher) = &mut self.watcher {
            // Fails when the old directory is gone, and then there is nothing to stop watching.
            let _gone = watcher.unwatch(&self.root);
        }
        true
    }

    /// Looks at every file. Each folder is watched from before it is read, so that no change falls between the two; the
    /// folders within are not, since a watch of all that lies below could walk through a whole disk.
    ///
    /// # Errors
    ///
    /// When the root cannot be read: then the scan tells nothing, least of all that files are gone. Only `NotFound` says
    /// that there is no directory.
    pub(super) fn scan(&mut self) -> io::Result<Scan> {
        let Self { root, watcher, deaf, .. } = self;
        let mut failed = None;
        let scan = scan_entering(root, |folder| {
            if let Some(watcher) = watcher
                && let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive)
            {
                failed = Some(error);
            }
        });
        // A folder that vanished meanwhile, or cannot be read, is told elsewhere.
        let failed = failed.filter(|_| scan.is_ok());
        match &failed {
            Some(error) if !*deaf => {
                tracing::warn!("no file events from all of {}, changes are found by looking: {error}", root.display());
            }
            None if *deaf => tracing::info!("there are file events from {}", root.display()),
            _ => {}
        }
        *deaf = failed.is_some();
        scan
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
    scan_entering(root, |_| {})
}

/// The same; `enter` is called with each folder before it is read.
fn scan_entering(root: &Path, mut enter: impl FnMut(&Path)) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut files = BTreeMap::new();
    let mut nested = Vec::new();
    let mut room = ENTRIES_MAX;
    enter(root);
    for Entry { name, metadata, is_link } in list(root, &mut room)? {
        let within = match metadata {
            Ok(metadata) if metadata.is_dir() => {
                let folder = root.join(&name);
                stays_within(root, &folder, is_link).and_then(|()| {
                    enter(&folder);
                    list(&folder, &mut room)
                })
            }
            // It may be the folder of a category; only these two are files for certain.
            Err(error) if name != Path::new("_.wasm") && name != Path::new("_.toml") => Err(error),
            file => {
                files.insert(name, file);
                continue;
            }
        };
        match within {
            Ok(within) => {
                for Entry { name: file, metadata, is_link } in within {
                    if metadata.as_ref().is_ok_and(Metadata::is_dir) {
                        nested.push((name.join(&file), is_link));
                    }
                    files.insert(name.join(file), metadata);
                }
                scan.read.insert(name);
            }
            // The folder vanished between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => scan.note_unread(name, &error),
        }
    }
    for (file, metadata) in &files {
        scan.sort(file, metadata, &files);
    }
    scan.note_doubles();
    scan.look_below(root, nested);
    Ok(scan)
}

impl Scan {
    fn note_unread(&mut self, folder: PathBuf, error: &io::Error) {
        if let Ok(Slot::Category(category)) = Slot::of_path(&folder.join("_.wasm")) {
            self.unread.insert(folder.clone(), category);
        }
        self.note(folder, Stray::told(format!("this folder cannot be read: {error}")));
    }

    fn note(&mut self, file: PathBuf, stray: Stray) {
        // What cannot be read is always told: it may hold modules.
        if self.strays.len() < STRAYS_MAX || self.unread.contains_key(&file) {
            self.strays.insert(file, stray);
        } else {
            self.strays_omitted += 1;
        }
    }

    /// Takes a file for what its name says.
    fn sort(&mut self, file: &Path, metadata: &io::Result<Metadata>, files: &BTreeMap<PathBuf, io::Result<Metadata>>) {
        let is_folder = metadata.as_ref().is_ok_and(Metadata::is_dir);
        if file.extension().is_some_and(|end| end == "wasm") && !naming::is_dotted(file) {
            if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
                self.note(file.to_owned(), Stray::told(NO_FILE.into()));
            }
            match naming::slot_of(file) {
                Ok(slot) => self.take(slot, file, metadata, files.get(&file.with_extension("toml"))),
                Err(stray) => self.note(file.to_owned(), stray),
            }
        } else if !is_folder && file.extension().is_some_and(|end| end == "toml") && !naming::is_dotted(file) {
            if !files.contains_key(&file.with_extension("wasm")) {
                let others = files.keys().filter(|other| other.extension().is_some_and(|end| end == "wasm"));
                self.note(file.to_owned(), naming::lone_settings(file, others.map(PathBuf::as_path)));
            }
        } else if !is_folder {
            self.note(file.to_owned(), naming::other_file(file));
        }
    }

    fn take(
        &mut self,
        slot: Slot,
        file: &Path,
        metadata: &io::Result<Metadata>,
        settings: Option<&io::Result<Metadata>>,
    ) {
        let mut found = Found {
            file: file.to_owned(),
            signature: Signature::seen(metadata),
            settings: settings.map(Signature::seen),
            others: Vec::new(),
        };
        // The canonical name stands for all of them, else the first in order.
        if let Some(mut other) = self.modules.remove(&slot) {
            if slot.file() != file {
                std::mem::swap(&mut found, &mut other);
            }
            found.others = std::mem::take(&mut other.others);
            found.others.push(other.file);
        }
        self.modules.insert(slot, found);
    }

    /// Tells of every file that is one of several for its event type.
    fn note_doubles(&mut self) {
        let mut doubles = Vec::new();
        for found in self.modules.values().filter(|found| !found.others.is_empty()) {
            let all: Vec<&PathBuf> = std::iter::once(&found.file).chain(&found.others).collect();
            for file in &all {
                let other = all.iter().find(|other| other != &file).expect("there are two at least");
                doubles.push(((*file).clone(), naming::double(other, &found.file)));
            }
        }
        doubles.into_iter().for_each(|(file, stray)| self.note(file, stray));
    }

    /// Tells of modules in folders within folders, as far as a bounded look finds them. No link is followed.
    fn look_below(&mut self, root: &Path, mut nested: Vec<(PathBuf, bool)>) {
        nested.sort();
        let mut room = NESTED_ENTRIES_MAX;
        for (folder, is_link) in nested {
            // One that is named like a module is told as a module that cannot be read.
            if folder.extension().is_some_and(|end| end == "wasm") {
                continue;
            }
            let modules = if is_link { Vec::new() } else { modules_below(&root.join(&folder), &mut room) };
            if modules.is_empty() {
                self.note(folder.clone(), naming::nested_folder(is_link));
            }
            for below in modules {
                let file = folder.join(below);
                let stray = naming::nested_module(&file);
                self.note(file, stray);
            }
        }
    }
}

/// The files below a folder that end like modules, relative to it.
fn modules_below(folder: &Path, room: &mut usize) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    let mut folders = vec![(PathBuf::new(), 1)];
    while let Some((within, depth)) = folders.pop() {
        // What cannot be read, or is more than may be looked at, leaves the folder itself to be told.
        let Ok(entries) = fs::read_dir(folder.join(&within)) else { continue };
        for entry in entries.map_while(Result::ok) {
            let Some(left) = room.checked_sub(1) else { return modules };
            *room = left;
            let (path, kind) = (within.join(entry.file_name()), entry.file_type());
            if kind.is_ok_and(|kind| kind.is_dir()) {
                if depth < NESTED_DEPTH_MAX {
                    folders.push((path, depth + 1));
                }
            } else if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("wasm")) {
                modules.push(path);
            }
        }
    }
    modules.sort();
    modules
}

/// Whether a link leads to a folder below the root, as those of container volumes do (`page -> ..data/page`). One that
/// leads elsewhere could lead through a whole disk.
fn stays_within(root: &Path, folder: &Path, is_link: bool) -> io::Result<()> {
    if !is_link || fs::canonicalize(folder)?.starts_with(fs::canonicalize(root)?) {
        return Ok(());
    }
    Err(io::Error::other(
        "it is a link to a folder outside the modules directory, which is not followed; put the folder itself here, or \
         mount it here",
    ))
}

/// Whether what a file is read from lies below the root, whatever links lead there.
pub(super) fn lies_within(root: &Path, file: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(file)?.starts_with(fs::canonicalize(root)?))
}

/// A name in a folder.
struct Entry {
    name: PathBuf,
    /// Of what it leads to.
    metadata: io::Result<Metadata>,
    is_link: bool,
}

/// Names and what they lead to, symlinks followed. Hidden folders, among them the `..data` of container volumes, are not
/// looked at, and hidden files only if they end like a module. What cannot be looked at hides nothing else.
fn list(dir: &Path, room: &mut usize) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        *room =
            room.checked_sub(1).ok_or_else(|| io::Error::other(format!("it has more than {ENTRIES_MAX} entries")))?;
        let name = PathBuf::from(entry.file_name());
        let is_module = || naming::ends_like_a_module(&name) && entry.file_type().is_ok_and(|kind| kind.is_file());
        // Every volume of its own has a `lost+found` that only root may read.
        if naming::is_dotted(&name) && !is_module() || name == Path::new("lost+found") {
            continue;
        }
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let metadata = match fs::metadata(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_link || fs::symlink_metadata(entry.path()).is_err() {
                    // It vanished between the two looks.
                    continue;
                }
                Err(io::Error::other("it is a link that leads nowhere"))
            }
            metadata => metadata,
        };
        entries.push(Entry { name, metadata, is_link });
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
