//! The modules directory as the file system shows it: its files, and hints that something may have changed. A hint only
//! asks for a scan; a scan finds changes that no hint reported. This file reads no module, and follows no link to a
//! folder that lies elsewhere. `naming.rs` judges the names of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::kind::{Kind, settings_of};
use super::naming::{self, Stray};
use super::slot::Slot;

/// Entries of the directory and its folders that a scan reads. No team makes a directory with more.
const ENTRIES_MAX: usize = 100_000;

/// Entries below the folders of categories that a scan reads to find misplaced modules.
const NESTED_ENTRIES_MAX: usize = 1_000;

/// Levels below the folder of a category that a scan reads for them.
const NESTED_DEPTH_MAX: usize = 4;

/// Files and folders that a scan lists as serving nothing. It counts further ones.
const STRAYS_MAX: usize = 500;

/// The attributes that show whether a file may have other content now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    len: u64,
    modified: Option<SystemTime>,
    /// Device, inode, and the time of the last change of content or attributes. No tool can set that time back.
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

    /// The signature of a file in a scan. It is empty if the file could not be looked at.
    fn seen(metadata: &io::Result<Metadata>) -> Self {
        metadata.as_ref().map_or(Self { len: 0, modified: None, identity: (0, 0, 0, 0) }, Self::of)
    }

    /// The signature of the file with this name, as a scan would find it. `None` if there is none.
    pub(super) fn at(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path);
        let is_absent =
            |error: &io::Error| error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err();
        if metadata.as_ref().is_err_and(is_absent) { None } else { Some(Self::seen(&metadata)) }
    }

    /// Whether `later` is the same file with what may be other content. If another file took its place, this is false:
    /// the first one was whole.
    pub(super) fn was_rewritten(&self, later: &Self) -> bool {
        let file = |signature: &Self| (signature.identity.0, signature.identity.1);
        file(self) == file(later) && self != later
    }
}

/// Opens a file and nothing else. Opening a device may have effects, and opening a pipe waits for a writer.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() { open_unwaiting(path) } else { Err(io::Error::other(NO_FILE)) }
}

/// Opens a file without waiting, even if something else took its place after the check.
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

/// Reads a file of at most `bytes_max` bytes.
pub(super) fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// The message for a name that leads to no file.
const NO_FILE: &str = "it is no regular file";

/// One module file, and the settings beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Relative to the root.
    pub(super) file: PathBuf,
    pub(super) signature: Signature,
    pub(super) settings: Option<Signature>,
    /// Other files of the same event type. If there are any, it is unknown which one its author means.
    pub(super) others: Vec<PathBuf>,
}

impl Found {
    /// The file of a slot that has none in the directory.
    pub(super) fn absent(slot: &Slot) -> Self {
        let nothing = Signature { len: 0, modified: None, identity: (0, 0, 0, 0) };
        Self { file: slot.file(), signature: nothing, settings: None, others: Vec::new() }
    }
}

/// The result of one scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) modules: BTreeMap<Slot, Found>,
    /// Files that serve nothing and folders that cannot be read, relative to the root, each with the reason.
    pub(super) strays: BTreeMap<PathBuf, Stray>,
    /// How many of them exceed [`STRAYS_MAX`].
    pub(super) strays_omitted: usize,
    /// Folders that cannot be read and may hold unknown modules, each with its category.
    pub(super) unread: BTreeMap<PathBuf, String>,
    /// Folders that were read.
    pub(super) read: BTreeSet<PathBuf>,
}

/// The modules directory.
pub(super) struct Directory {
    pub(super) root: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched now. When it differs from the root, another directory took its place.
    watched: Option<(u64, u64)>,
    /// Some of it is not watched: a folder cannot be read, or the system has no more watches to give.
    deaf: bool,
}

impl Directory {
    /// Begins to watch `root`, which need not exist yet. A thread of the watcher calls `hint`.
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

    /// Moves the watch when the root appeared, vanished or was replaced. Returns true when it did; then the caller
    /// scans.
    pub(super) fn follow(&mut self) -> bool {
        let now = fs::metadata(&self.root).ok().filter(Metadata::is_dir).map(|metadata| identity(&metadata));
        if now == self.watched {
            return false;
        }
        self.watched = now;
        if let Some(watcher) = &mut self.watcher {
            // This fails when the old directory is gone. Then there is nothing to stop.
            let _gone = watcher.unwatch(&self.root);
        }
        true
    }

    /// Scans every file. It watches each folder before it reads the folder, so that no change falls between the two. It
    /// does not watch folders within these, since a watch of everything below could walk through a whole disk.
    ///
    /// # Errors
    ///
    /// When the root cannot be read. Then nothing is known, least of all that files are gone. Only `NotFound` says that
    /// there is no directory.
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
        // A folder that vanished meanwhile, or cannot be read, is reported elsewhere.
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

/// Whether something may have changed. The gateway's own reads open and close files, which changes nothing.
pub(super) fn is_worth_a_look(event: &notify::Result<notify::Event>) -> bool {
    use notify::event::{AccessKind, AccessMode};
    match event {
        // The system lost some events.
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

/// Like [`scan`]; it calls `enter` with each folder before it reads the folder.
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
            // It may be the folder of a category. Only these names are certainly files.
            Err(error) if !["_.wasm", "_.schema.json", "_.toml"].iter().any(|file| name == Path::new(file)) => {
                Err(error)
            }
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
            // The folder vanished since its name was read.
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
        // A folder that cannot be read is always listed, since it may hold modules.
        if self.strays.len() < STRAYS_MAX || self.unread.contains_key(&file) {
            self.strays.insert(file, stray);
        } else {
            self.strays_omitted += 1;
        }
    }

    /// Sorts a file into modules, settings and strays by its name.
    fn sort(&mut self, file: &Path, metadata: &io::Result<Metadata>, files: &BTreeMap<PathBuf, io::Result<Metadata>>) {
        let is_folder = metadata.as_ref().is_ok_and(Metadata::is_dir);
        if Kind::of_file(file).is_some() && !naming::is_dotted(file) {
            if metadata.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
                self.note(file.to_owned(), Stray::told(NO_FILE.into()));
            }
            match naming::slot_of(file) {
                Ok(slot) => self.take(slot, file, metadata, files.get(&settings_of(file))),
                Err(stray) => self.note(file.to_owned(), stray),
            }
        } else if !is_folder && file.extension().is_some_and(|end| end == "toml") && !naming::is_dotted(file) {
            let module = file.with_extension("wasm");
            if !Kind::ALL.into_iter().any(|kind| files.contains_key(&kind.beside(&module))) {
                let others = files.keys().filter(|other| Kind::of_file(other).is_some());
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
        // The canonical name stands for all files of the slot; without it, the first in order does.
        if let Some(mut other) = self.modules.remove(&slot) {
            if Kind::of_file(file).is_none_or(|kind| slot.file_of(kind) != file) {
                std::mem::swap(&mut found, &mut other);
            }
            found.others = std::mem::take(&mut other.others);
            found.others.push(other.file);
        }
        self.modules.insert(slot, found);
    }

    /// Lists every file that is one of several for its event type.
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

    /// Lists modules in folders within folders, as far as a bounded search finds them. It follows no link.
    fn look_below(&mut self, root: &Path, mut nested: Vec<(PathBuf, bool)>) {
        nested.sort();
        let mut room = NESTED_ENTRIES_MAX;
        for (folder, is_link) in nested {
            // A folder named like a module is listed already, as a module that cannot be read.
            if Kind::of_file(&folder).is_some() {
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

/// The files below a folder whose names end like those of modules, relative to the folder.
fn modules_below(folder: &Path, room: &mut usize) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    let mut folders = vec![(PathBuf::new(), 1)];
    while let Some((within, depth)) = folders.pop() {
        // For a folder that cannot be read, or holds too many entries, the caller lists the folder itself.
        let Ok(entries) = fs::read_dir(folder.join(&within)) else { continue };
        for entry in entries.map_while(Result::ok) {
            let Some(left) = room.checked_sub(1) else { return modules };
            *room = left;
            let (path, kind) = (within.join(entry.file_name()), entry.file_type());
            if kind.is_ok_and(|kind| kind.is_dir()) {
                if depth < NESTED_DEPTH_MAX {
                    folders.push((path, depth + 1));
                }
            } else if naming::ends_like_a_module(&path) {
                modules.push(path);
            }
        }
    }
    modules.sort();
    modules
}

/// Refuses a link to a folder that does not lie below the root, since it could lead through a whole disk. Links of
/// container volumes lie below it (`page -> ..data/page`).
fn stays_within(root: &Path, folder: &Path, is_link: bool) -> io::Result<()> {
    if !is_link || fs::canonicalize(folder)?.starts_with(fs::canonicalize(root)?) {
        return Ok(());
    }
    Err(io::Error::other(
        "it is a link to a folder outside the modules directory, which is not followed; put the folder itself here, or \
         mount it here",
    ))
}

/// Whether the file that `file` leads to lies below the root, whatever links are on the way.
pub(super) fn lies_within(root: &Path, file: &Path) -> io::Result<bool> {
    Ok(fs::canonicalize(file)?.starts_with(fs::canonicalize(root)?))
}

/// A name in a folder.
struct Entry {
    name: PathBuf,
    /// The metadata of the target, if this is a link.
    metadata: io::Result<Metadata>,
    is_link: bool,
}

/// Lists the names of a folder and the targets of links. It leaves out hidden folders, among them the `..data` of
/// container volumes, and hidden files that do not end like a module. An entry that cannot be looked at hides no other.
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
                    // It vanished since its name was read.
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
