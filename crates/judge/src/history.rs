//! The history of every slot: its last versions, under the data directory, and the way back to one. A version is one
//! file, whose name has the time of its activation and its digest. So there is no list that could contradict the
//! contents. A rollback writes the old content into the modules directory. Only that directory decides what serves: a
//! running gateway sees the rollback as it sees any change, and a restart changes nothing.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use eye_event::verdict::Digest;
use serde::Serialize;

use super::directory;
use super::files::MODULE_BYTES_MAX;
use super::files::private_dir;
use super::files::wall_time;
use super::kind::{Kind, settings_of};
use super::roster::Roster;
use super::slot::Slot;
use super::taken_back::TakenBackNote;

mod times;

/// Versions that are kept of each slot.
const VERSIONS_MAX: usize = 10;

/// The folder of candidates in the data directory. It has a history of its own.
pub(super) const CANDIDATES: &str = "candidates";

/// The file in a slot's folder that says whose it is, since the folder's name cannot.
const EVENT_TYPE: &str = "event-type";

/// The last part of the name of a note that a version was taken back.
const TAKEN_BACK: &str = "taken-back";

/// The note about the last trial in a slot.
const TRIAL: &str = "trial";

/// The text of this note once the trial is over.
pub const TRIAL_OVER: &str = "over";

/// The first part of the name of a content that never served.
const PREPARED: &str = "prepared-";

/// Files that this process has written so far.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// How old a half written file is that a process of the same number may have left.
const LEFTOVER_TIME: Duration = Duration::from_secs(3_600);

/// How long such a content is kept.
const PREPARED_TIME: Duration = Duration::from_secs(86_400);

/// One version that served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The digest of its file.
    pub digest: Digest,
    /// When it was activated last.
    pub at: DateTime<Utc>,
}

/// Why [`History::rollback`] put no version back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No other version ever served this slot.
    #[error("{0} has no other version to go back to")]
    NoOther(Slot),
    /// The named version is not kept.
    #[error("{0} has no version {1}; `eye validator history` lists those that are kept")]
    Unknown(Slot, Digest),
    /// The content does not fit the digest any more.
    #[error("the kept version {0} is damaged, and was not put back")]
    Damaged(Digest),
    /// A directory could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// Why [`History::retire`] took no module away.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// No module serves this slot, and none ever did.
    #[error("{0} has no module, and had none; `eye validator list` shows those that are there")]
    Nothing(Slot),
    /// A file could not be removed, or the mark could not be written.
    #[error("{}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The result of taking a module away on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// The removed files, relative to the modules directory.
    pub files: Vec<PathBuf>,
    /// A settings file that stays in its place. It applies to no module.
    pub settings: Option<PathBuf>,
    /// A module served this slot when a gateway last looked.
    pub served: bool,
}

/// The versions of all slots.
#[derive(Debug, Clone)]
pub struct History {
    root: PathBuf,
    /// What this process has noted as taken back, and why.
    taken_back: Arc<Mutex<HashMap<(Slot, Digest), String>>>,
}

/// The file of one slot in the modules directory, and its versions in the history.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The event type as its file is named.
    pub event_type: String,
    /// The file, relative to the modules directory.
    pub file: PathBuf,
    /// The digest of the file as it is now; `None` when the file cannot be read.
    pub digest: Option<Digest>,
    /// The versions that served, the newest first.
    pub versions: Vec<Version>,
    /// Why the file or its versions cannot be read. The error of one event type hides no other event type.
    pub error: Option<String>,
}

impl History {
    /// The history under a data directory, which need not exist.
    #[must_use]
    pub fn under(data_dir: &Path) -> Self {
        Self { root: data_dir.join("versions"), taken_back: Arc::default() }
    }

    /// The history of the candidates beside this one.
    pub(super) fn of_candidates(&self) -> Self {
        let data_dir = self.root.parent().unwrap_or(&self.root);
        Self::under(&data_dir.join(CANDIDATES))
    }

    /// The versions of a slot, the newest first.
    ///
    /// # Errors
    ///
    /// When the history cannot be read. One that does not exist is empty.
    pub fn versions(&self, slot: &Slot) -> io::Result<Vec<Version>> {
        Ok(self.files(slot)?.into_iter().map(|(version, _)| version).collect())
    }

    /// Lists the modules directory as it is now. It needs no gateway.
    ///
    /// # Errors
    ///
    /// When the modules directory cannot be read. If only a file cannot be read, the list has it with the reason.
    pub fn list(&self, modules_dir: &Path) -> io::Result<Vec<Listed>> {
        let scan = directory::scan(modules_dir)?;
        let listed = scan.modules.into_iter().map(|(slot, found)| {
            let digest = read(&modules_dir.join(&found.file)).map(|bytes| Digest::of(&bytes));
            let versions = self.versions(&slot);
            let error = digest.as_ref().err().or(versions.as_ref().err()).map(ToString::to_string);
            Listed {
                event_type: slot.to_string(),
                file: found.file,
                digest: digest.ok(),
                versions: versions.unwrap_or_default(),
                error,
            }
        });
        Ok(listed.collect())
    }

    /// Puts a version back: the one named, or else the newest that is not the present file. Returns that version. The
    /// history keeps the replaced version too, so a second rollback without a digest returns to it.
    pub fn rollback(&self, modules_dir: &Path, slot: &Slot, to: Option<Digest>) -> Result<Version, RollbackError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RollbackError::File { path, source }
        };
        let files = self.files(slot).map_err(failed(&self.root))?;
        let file = match directory::scan(modules_dir) {
            Ok(mut scan) => scan.modules.remove(slot).map_or_else(|| slot.file(), |found| found.file),
            Err(_) => slot.file(),
        };
        let path = modules_dir.join(&file);
        let now = read(&path).ok().map(|bytes| Digest::of(&bytes));
        let is_other =
            |version: &Version| Some(version.digest) != now && self.taken_back(slot, version.digest).is_none();
        let wanted = |version: &Version| to.map_or_else(|| is_other(version), |digest| digest == version.digest);
        let Some((version, kept)) = files.into_iter().find(|(version, _)| wanted(version)) else {
            return Err(match to {
                Some(digest) => RollbackError::Unknown(slot.clone(), digest),
                None => RollbackError::NoOther(slot.clone()),
            });
        };
        let bytes = read(&kept).map_err(failed(&kept))?;
        if Digest::of(&bytes) != version.digest {
            return Err(RollbackError::Damaged(version.digest));
        }
        // Noted before the file is there, so that no gateway takes the file for a change of somebody else.
        // Going back matters more than the note.
        if let Err(error) = self.note_put_back(slot, version.digest) {
            tracing::warn!(event_type = %slot, "the guard may take the version for a new one: {error}");
        }
        put_in_place(modules_dir, &file, &bytes).map_err(|source| {
            self.forget_put_back(slot, version.digest);
            failed(&path)(source)
        })?;
        Ok(version)
    }

    /// The event types that had a module when a gateway last looked, and whose file is missing now.
    ///
    /// # Errors
    ///
    /// When the modules directory or the roster cannot be read: then it is unknown which files are missing.
    pub fn missing(&self, modules_dir: &Path, roster: &mut Roster) -> io::Result<Vec<Slot>> {
        let scan = directory::scan(modules_dir)?;
        roster.load()?;
        let is_unread = |slot: &Slot| scan.unread.keys().any(|folder| slot.file().starts_with(folder));
        Ok(roster.slots().filter(|slot| !scan.modules.contains_key(slot) && !is_unread(slot)).cloned().collect())
    }

    /// Takes the module of a slot away on purpose. It removes the file, if there is one. A running gateway, or the next
    /// one, then knows that the operator meant it. The versions stay, so `rollback` brings the module back.
    ///
    /// # Errors
    ///
    /// When there is nothing to take away, or a directory cannot be written.
    pub fn retire(&self, modules_dir: &Path, roster: &Roster, slot: &Slot) -> Result<Retired, RetireError> {
        let failed = |path: PathBuf| move |source| RetireError::File { path, source };
        // An operator may call this to confirm that the directory is lost, so an unreadable one is no error.
        let found = directory::scan(modules_dir).ok().and_then(|mut scan| scan.modules.remove(slot));
        let served = roster.had(slot);
        if found.is_none() && !served && self.versions(slot).is_ok_and(|versions| versions.is_empty()) {
            return Err(RetireError::Nothing(slot.clone()));
        }
        let (mut files, mut settings) = (Vec::new(), None);
        if let Some(found) = found {
            settings = found.settings.map(|_| settings_of(&found.file));
            for file in std::iter::once(found.file).chain(found.others) {
                let path = modules_dir.join(&file);
                fs::remove_file(&path).map_err(failed(path))?;
                files.push(file);
            }
        }
        roster.retire(slot).map_err(failed(self.root.clone()))?;
        self.note_gone(slot);
        Ok(Retired { files, settings, served })
    }

    /// The kept versions whose content fits their digest, the newest first, each with its content.
    pub(super) fn intact(&self, slot: &Slot) -> io::Result<impl Iterator<Item = (Version, Vec<u8>)>> {
        let files = self.files(slot)?.into_iter();
        Ok(files.filter_map(|(version, path)| {
            let bytes = read(&path).ok()?;
            (Digest::of(&bytes) == version.digest).then_some((version, bytes))
        }))
    }

    /// Keeps a version that begins to serve, and removes the oldest. If this version served last too, it keeps its
    /// time.
    pub(super) fn record(&self, slot: &Slot, digest: Digest, bytes: &[u8]) -> io::Result<Vec<Version>> {
        self.put(slot, digest, bytes)?;
        self.activate(slot, digest)
    }

    /// Keeps the content of a version that may serve later. It becomes a version of the slot when it serves.
    pub(super) fn put(&self, slot: &Slot, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let kept = self.files(slot)?.into_iter().find(|(version, _)| version.digest == digest).map(|(_, path)| path);
        let path = kept.unwrap_or_else(|| self.prepared(slot, digest, Kind::of_content(bytes)));
        if holds(&path, bytes) {
            return Ok(());
        }
        self.make_folder(slot)?;
        remove_leftovers(&self.folder(slot))?;
        replace(&path, bytes)
    }

    /// Makes the folder of a slot, which says whose it is.
    fn make_folder(&self, slot: &Slot) -> io::Result<()> {
        let folder = self.folder(slot);
        private_dir(&folder)?;
        let note = folder.join(EVENT_TYPE);
        let own = slot.to_string();
        if holds(&note, own.as_bytes()) { Ok(()) } else { replace(&note, own.as_bytes()) }
    }

    /// Makes a version whose content is kept the newest one, and removes the oldest.
    pub(super) fn activate(&self, slot: &Slot, digest: Digest) -> io::Result<Vec<Version>> {
        let mut files = self.files(slot)?;
        let versions = |files: Vec<(Version, PathBuf)>| files.into_iter().map(|(version, _)| version).collect();
        if let Some((newest, _)) = files.first().filter(|(newest, _)| newest.digest == digest) {
            self.forget_gone_since(slot, newest.at)?;
            return Ok(versions(files));
        }
        // The version that came last must be the newest, even if the clock was set back meanwhile.
        let after = files.first().map(|(newest, _)| newest.at + TimeDelta::microseconds(1));
        let version = Version { digest, at: after.map_or(wall_time(), |after| after.max(wall_time())) };
        let kept = files.iter().position(|(version, _)| version.digest == digest).map(|place| files.remove(place));
        if let Some((earlier, _)) = &kept {
            self.note_time(slot, earlier.at, Some(digest))?;
        }
        let kept = kept.map(|(_, path)| path).unwrap_or_else(|| self.found_prepared(slot, digest));
        let ending = Kind::of_file(&kept).unwrap_or(Kind::Module).ending();
        let path = self.folder(slot).join(format!("{:020}-{digest}{ending}", version.at.timestamp_micros()));
        fs::rename(kept, &path)?;
        self.take_put_back(slot, &version)?;
        files.insert(0, (version, path));
        for (version, old) in files.drain(VERSIONS_MAX.min(files.len())..) {
            if Kind::of_file(&old) == Some(Kind::Schema) {
                // A schema of a release that did not note it has none.
                let _none = fs::remove_file(self.engine_note(slot, version.digest));
            }
            fs::remove_file(old)?;
            remove(&self.note(slot, version.digest, "redacts"))?;
            self.forget_times(slot, version.digest)?;
        }
        Ok(versions(files))
    }

    /// The content of a version, or of one that never served, if it is kept and fits its digest.
    ///
    /// # Errors
    ///
    /// When it is there and cannot be read.
    pub fn content(&self, slot: &Slot, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        let kept = self.files(slot)?.into_iter().find(|(version, _)| version.digest == digest).map(|(_, path)| path);
        match read(&kept.unwrap_or_else(|| self.found_prepared(slot, digest))) {
            Ok(bytes) => Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes contents of a slot that were kept long ago and never served.
    pub(super) fn forget_prepared(&self, slot: &Slot) -> io::Result<()> {
        for entry in fs::read_dir(self.folder(slot))? {
            let entry = entry?;
            let is_prepared = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREPARED));
            let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
            if is_prepared && age().is_some_and(|age| age > PREPARED_TIME) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The file of a content that never served. Its name has no time, so that no list of versions has it.
    fn prepared(&self, slot: &Slot, digest: Digest, kind: Kind) -> PathBuf {
        self.folder(slot).join(format!("{PREPARED}{digest}{}", kind.ending()))
    }

    /// That file of the kind that is there.
    fn found_prepared(&self, slot: &Slot, digest: Digest) -> PathBuf {
        let schema = self.prepared(slot, digest, Kind::Schema);
        if schema.exists() { schema } else { self.prepared(slot, digest, Kind::Module) }
    }

    /// Notes the version of the engine by which a schema serves, beside the schema.
    pub(super) fn note_engine(&self, slot: &Slot, digest: Digest, engine: &str) -> io::Result<()> {
        let note = self.engine_note(slot, digest);
        if read(&note).is_ok_and(|known| known == engine.as_bytes()) {
            Ok(())
        } else {
            replace(&note, engine.as_bytes())
        }
    }

    fn engine_note(&self, slot: &Slot, digest: Digest) -> PathBuf {
        self.note(slot, digest, "engine")
    }

    /// Notes that a version takes secrets out of dead letters. A later version that does not is refused only if the one
    /// before it did.
    pub(super) fn note_redacts(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        let note = self.note(slot, digest, "redacts");
        if note.exists() { Ok(()) } else { File::create(note)?.sync_all() }
    }

    /// Whether a version has this note.
    pub(super) fn redacts(&self, slot: &Slot, digest: Digest) -> bool {
        self.note(slot, digest, "redacts").exists()
    }

    /// Notes that a version was taken back. The first line of the note is the reason. The version is not taken again
    /// unless somebody forces it. Without room on the disk the note lives as long as this process.
    pub(super) fn note_taken_back(&self, slot: &Slot, digest: Digest, note: &str) -> io::Result<()> {
        self.unwritten().insert((slot.clone(), digest), note.to_owned());
        self.make_folder(slot)?;
        replace(&self.note(slot, digest, TAKEN_BACK), note.as_bytes())
    }

    /// Why a version was taken back, if it was.
    pub(super) fn taken_back(&self, slot: &Slot, digest: Digest) -> Option<String> {
        let known = self.unwritten().get(&(slot.clone(), digest)).cloned();
        let note = known.or_else(|| {
            let note = read(&self.note(slot, digest, TAKEN_BACK)).ok()?;
            Some(String::from_utf8_lossy(&note).into_owned())
        });
        Some(note?.lines().next().unwrap_or_default().to_owned())
    }

    /// All such notes.
    pub(super) fn taken_back_notes(&self) -> io::Result<Vec<TakenBackNote>> {
        let mut notes = self.unwritten().clone();
        for (slot, folder) in self.folders()? {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let digest = name.and_then(|name| name.strip_suffix(TAKEN_BACK)?.strip_suffix('.')?.parse().ok());
                let Some(digest) = digest else { continue };
                match read(&path) {
                    Ok(text) => drop(notes.insert((slot.clone(), digest), String::from_utf8_lossy(&text).into_owned())),
                    // It hides no other.
                    Err(error) => tracing::debug!(event_type = %slot, %digest, "a note cannot be read: {error}"),
                }
            }
        }
        Ok(notes.into_iter().map(|((slot, digest), text)| TakenBackNote { slot, digest, text }).collect())
    }

    /// The folders of slots. One that does not say whose it is is left out.
    fn folders(&self) -> io::Result<Vec<(Slot, PathBuf)>> {
        let folders = match fs::read_dir(&self.root) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for folder in folders {
            let folder = folder?.path();
            let Ok(event_type) = read(&folder.join(EVENT_TYPE)) else { continue };
            if let Ok(slot) = Slot::parse(&String::from_utf8_lossy(&event_type)) {
                found.push((slot, folder));
            }
        }
        Ok(found)
    }

    /// The note about the last trial in a slot, and its age.
    pub(super) fn trial_note(&self, slot: &Slot) -> Option<(String, Duration)> {
        let path = self.folder(slot).join(TRIAL);
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().unwrap_or_default();
        Some((String::from_utf8_lossy(&read(&path).ok()?).into_owned(), age))
    }

    /// All such notes.
    pub(super) fn trial_notes(&self) -> io::Result<Vec<(Slot, String)>> {
        let notes = self.folders()?.into_iter().filter_map(|(slot, _)| Some((self.trial_note(&slot)?.0, slot)));
        Ok(notes.map(|(note, slot)| (slot, note)).collect())
    }

    /// Notes that the trial in a slot is over.
    pub(super) fn end_trial(&self, slot: &Slot) {
        if let Err(error) = self.note_trial(slot, TRIAL_OVER) {
            tracing::warn!(event_type = %slot, "the next trial of the same file goes on with the counts of this one: {error}");
        }
    }

    /// Replaces that note.
    pub(super) fn note_trial(&self, slot: &Slot, text: &str) -> io::Result<()> {
        self.make_folder(slot)?;
        replace(&self.folder(slot).join(TRIAL), text.as_bytes())
    }

    /// Removes that note.
    pub(super) fn lift(&self, slot: &Slot, digest: Digest) -> io::Result<()> {
        self.unwritten().remove(&(slot.clone(), digest));
        remove(&self.note(slot, digest, TAKEN_BACK))
    }

    fn unwritten(&self) -> MutexGuard<'_, HashMap<(Slot, Digest), String>> {
        self.taken_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of a note about a version.
    fn note(&self, slot: &Slot, digest: Digest, what: &str) -> PathBuf {
        self.folder(slot).join(format!("{digest}.{what}"))
    }

    fn folder(&self, slot: &Slot) -> PathBuf {
        // A slot's text may be longer than a name in this file system, so the folder is named by its digest.
        self.root.join(Digest::of(slot.to_string().as_bytes()).to_string())
    }

    /// The versions and their files, the newest first.
    fn files(&self, slot: &Slot) -> io::Result<Vec<(Version, PathBuf)>> {
        let entries = match fs::read_dir(self.folder(slot)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let stem = name.and_then(|name| Kind::ALL.into_iter().find_map(|kind| name.strip_suffix(kind.ending())));
            if let Some((at, digest)) = stem.and_then(|name| name.split_once('-'))
                && let (Ok(at_us), Ok(digest)) = (at.parse(), digest.parse())
                && let Some(at) = DateTime::from_timestamp_micros(at_us)
            {
                files.push((Version { digest, at }, path));
            }
        }
        files.sort_by_key(|(version, _)| std::cmp::Reverse(version.at));
        Ok(files)
    }
}

/// Writes a content as the file of its kind beside `file`, and takes `file` away if it is of the other kind.
fn put_in_place(modules_dir: &Path, file: &Path, content: &[u8]) -> io::Result<()> {
    let own = Kind::of_content(content).beside(file);
    replace(&modules_dir.join(&own), content)?;
    if own == file { Ok(()) } else { remove(&modules_dir.join(file)) }
}

/// Removes a file, which need not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a hidden file beside `path`, and renames it. So readers see the old content or the new one, and nothing
/// between.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Staged::write(path, bytes)?.put()?;
    sync_folder(path.parent().expect("a file lies in a folder"))
}

/// A content that lies in a hidden file beside its place. One rename puts it there. Dropped before, it leaves nothing.
#[derive(Debug)]
pub(super) struct Staged {
    hidden: PathBuf,
    path: PathBuf,
}

impl Staged {
    pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<Self> {
        let folder = path.parent().expect("a file lies in a folder");
        fs::create_dir_all(folder)?;
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        let digest = Digest::of(name.as_bytes()).to_string();
        // Two threads may write the same file at once.
        let number = WRITTEN.fetch_add(1, Relaxed);
        let hidden = folder.join(format!(".{}-{number}-{}", &digest[..16], std::process::id()));
        let staged = Self { hidden, path: path.to_owned() };
        let mut file = File::create(&staged.hidden)?;
        file.write_all(bytes)?;
        // Without this, a loss of power could keep the name and lose the content.
        file.sync_all()?;
        Ok(staged)
    }

    pub(super) fn put(self) -> io::Result<()> {
        fs::rename(&self.hidden, &self.path)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Nothing is there once it was put in its place.
        let _gone = fs::remove_file(&self.hidden);
    }
}

/// Removes files that a process left half written when it died. Their names end in the id of the process.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(hidden) = name.to_str().and_then(|name| name.strip_prefix('.')) else { continue };
        let writer = hidden.rsplit_once('-').and_then(|(_, id)| id.parse::<u32>().ok());
        let own = std::process::id();
        let is_old = || entry.metadata().ok()?.modified().ok()?.elapsed().ok().map(|age| age > LEFTOVER_TIME);
        let is_dead = |id: u32| match id == own {
            // Another thread may write it just now, or a process of the same number has left it.
            true => is_old().unwrap_or(false),
            false => !Path::new("/proc").join(id.to_string()).exists(),
        };
        if writer.is_none_or(is_dead) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes a rename in a folder survive a loss of power.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Reads a file. A pipe in its place is an error, so this never waits for a writer.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    directory::read(path, MODULE_BYTES_MAX)
}

/// Whether a kept file has these bytes.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    read(path).is_ok_and(|kept| kept == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::Exact("page".into(), "a/b".into())
    }

    #[test]
    fn the_last_ten_versions_are_kept_and_one_that_comes_back_is_the_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History::under(dir.path());
        for number in 0_u8..12 {
            history.record(&slot(), Digest::of(&[number]), &[number]).expect("kept");
        }
        history.record(&slot(), Digest::of(&[5]), &[5]).expect("kept");
        history.record(&slot(), Digest::of(&[5]), &[5]).expect("kept");
        let digests: Vec<_> =
            history.versions(&slot()).expect("read").into_iter().map(|version| version.digest).collect();
        assert_eq!(digests, [5_u8, 11, 10, 9, 8, 7, 6, 4, 3, 2].map(|number| Digest::of(&[number])));
    }

    #[test]
    fn rolling_back_goes_to_the_newest_other_version_or_the_one_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let (history, modules) = (History::under(dir.path()), dir.path().join("modules"));
        let none = history.rollback(&modules, &slot(), None);
        assert!(matches!(none, Err(RollbackError::NoOther(_))), "{none:?}");
        for text in ["one", "two", "three"] {
            history.record(&slot(), Digest::of(text.as_bytes()), text.as_bytes()).expect("kept");
        }
        let file = modules.join("page/a%2Fb.wasm");
        let read = || fs::read_to_string(&file).expect("put back");
        history.rollback(&modules, &slot(), None).expect("a removed module comes back");
        assert_eq!(read(), "three");
        history.rollback(&modules, &slot(), None).expect("there is an older one");
        assert_eq!(read(), "two");
        history.rollback(&modules, &slot(), Some(Digest::of(b"one"))).expect("it is kept");
        assert_eq!(read(), "one");
        let unknown = history.rollback(&modules, &slot(), Some(Digest::of(b"four")));
        assert!(matches!(unknown, Err(RollbackError::Unknown(..))), "{unknown:?}");
        assert_eq!(fs::read_dir(modules.join("page")).expect("there").count(), 1, "nothing is left beside");
    }

    #[test]
    fn a_damaged_version_is_made_whole_when_it_serves_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History::under(dir.path());
        let digests = [b"one", b"two"].map(|text| Digest::of(text));
        let record = |number: usize| {
            history.record(&slot(), digests[number], [b"one", b"two"][number]).expect("kept");
        };
        let damage = |digest: Digest| {
            let files = history.files(&slot()).expect("read");
            let (_, file) = files.iter().find(|(version, _)| version.digest == digest).expect("it is kept");
            fs::write(file, b"damaged").expect("written");
        };
        let intact =
            || -> Vec<Digest> { history.intact(&slot()).expect("read").map(|(version, _)| version.digest).collect() };
        record(0);
        record(1);
        // The newest is looked at, too, though its time stays.
        for number in [1, 0] {
            damage(digests[number]);
            assert_eq!(intact(), [digests[1 - number]]);
            record(number);
            assert_eq!(intact(), [digests[number], digests[1 - number]]);
            assert_eq!(history.versions(&slot()).expect("read").len(), 2);
        }
    }

    #[test]
    fn a_version_is_the_newest_though_the_clock_was_set_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History::under(dir.path());
        history.record(&slot(), Digest::of(b"one"), b"one").expect("kept");
        let (newest, file) = history.files(&slot()).expect("read").remove(0);
        let ahead = newest.at + TimeDelta::days(1);
        let later = format!("{:020}-{}.wasm", ahead.timestamp_micros(), newest.digest);
        fs::rename(&file, file.with_file_name(later)).expect("renamed");
        let versions = history.record(&slot(), Digest::of(b"two"), b"two").expect("kept");
        assert_eq!(versions[0].digest, Digest::of(b"two"));
        assert_eq!(history.versions(&slot()).expect("read"), versions);
        assert!(versions[0].at > versions[1].at);
    }

    #[test]
    fn what_a_kill_leaves_half_written_hides_no_version_and_is_gone_with_the_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History::under(dir.path());
        history.record(&slot(), Digest::of(b"one"), b"one").expect("kept");
        let folder = history.folder(&slot());
        // A version, and the note of what the folder is for, each cut in the middle; the second writer still lives.
        fs::write(folder.join(".0123456789abcdef-4194304000"), b"tw").expect("written");
        fs::write(folder.join(".0123456789abcdef-1"), b"t").expect("written");
        fs::write(folder.join("event-type"), b"pa").expect("written");
        let intact: Vec<_> = history.intact(&slot()).expect("read").map(|(version, _)| version.digest).collect();
        assert_eq!(intact, [Digest::of(b"one")]);
        history.record(&slot(), Digest::of(b"two"), b"two").expect("kept");
        assert_eq!(history.versions(&slot()).expect("read").len(), 2);
        assert_eq!(fs::read_to_string(folder.join("event-type")).expect("there"), slot().to_string());
        let mut hidden: Vec<_> = fs::read_dir(&folder).expect("there").map(|it| it.expect("one").file_name()).collect();
        hidden.retain(|name| name.to_string_lossy().starts_with('.'));
        assert_eq!(hidden, [".0123456789abcdef-1"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_cannot_be_read_hides_no_other_from_the_list() {
        let dir = tempfile::tempdir().expect("a directory");
        let folder = dir.path().join("page");
        fs::create_dir_all(folder.join("folder.wasm")).expect("made");
        fs::write(folder.join("view.wasm"), b"view").expect("written");
        let listed = History::under(&dir.path().join("data")).list(dir.path()).expect("read");
        let told: Vec<_> =
            listed.iter().map(|one| (one.event_type.as_str(), one.digest, one.error.is_some())).collect();
        assert_eq!(told, [("page/folder", None, true), ("page/view", Some(Digest::of(b"view")), false)]);
    }

    #[test]
    fn a_damaged_version_is_not_put_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History::under(dir.path());
        history.record(&slot(), Digest::of(b"one"), b"not one").expect("kept");
        let damaged = history.rollback(&dir.path().join("modules"), &slot(), None);
        assert!(matches!(damaged, Err(RollbackError::Damaged(_))), "{damaged:?}");
    }
}
