//! Writes a module into the modules directory for an author who ships it over HTTP, and reads what lies there. A
//! directory that something else fills is not written: the next sync would undo it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::directory;
use super::entry::settings_text;
use super::history::{Staged, remove, sync_folder};
use super::kind::{Kind, settings_of};
use super::naming::Stray;
use super::slot::Slot;

/// The file of a slot in the modules directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The file, relative to the modules directory. It need not exist.
    pub file: PathBuf,
    /// The text of the settings beside it.
    pub settings: Option<String>,
}

/// A module that the modules directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InDirectory {
    /// The event types.
    pub slot: Slot,
    /// The content of its file.
    pub content: Vec<u8>,
    /// The text of the settings beside it.
    pub settings: Option<String>,
}

/// What a directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Its modules, in the order of event types.
    pub modules: Vec<InDirectory>,
    /// Files and folders that serve nothing, each with the reason.
    pub strays: Vec<(PathBuf, String)>,
}

/// Finds the file of a slot and its settings.
///
/// # Errors
///
/// A sentence that names the file that cannot be read, or says that two files claim the slot.
pub fn installed(modules_dir: &Path, slot: &Slot) -> Result<Installed, String> {
    let found = match directory::scan(modules_dir) {
        Ok(mut scan) => scan.modules.remove(slot),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("{}: {error}", modules_dir.display())),
    };
    let Some(found) = found else {
        // The settings of a module that was taken away are there still, and are those of the next one.
        let file = slot.file();
        let settings = settings_text_of(modules_dir, &file)?;
        return Ok(Installed { file, settings });
    };
    if let Some(other) = found.others.first() {
        return Err(format!("{} and {} both serve {slot}: remove one of them", found.file.display(), other.display()));
    }
    let settings = settings_beside(modules_dir, &found)?;
    Ok(Installed { file: found.file, settings })
}

/// Reads all modules of a directory.
///
/// # Errors
///
/// A sentence that names what cannot be read.
pub fn modules_in(modules_dir: &Path) -> Result<Contents, String> {
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let scan = directory::scan(modules_dir).map_err(|error| told(modules_dir, error))?;
    if let Some((folder, _)) = scan.unread.first_key_value() {
        return Err(format!("{}: the folder cannot be read", modules_dir.join(folder).display()));
    }
    let mut modules = Vec::new();
    for (slot, found) in scan.modules {
        if let Some(other) = found.others.first() {
            let (one, other) = (found.file.display(), other.display());
            return Err(format!("{one} and {other} both serve {slot}: remove one of them"));
        }
        let path = modules_dir.join(&found.file);
        let content = directory::read(&path, super::files::MODULE_BYTES_MAX).map_err(|error| told(&path, error))?;
        let settings = settings_beside(modules_dir, &found)?;
        modules.push(InDirectory { slot, content, settings });
    }
    let strays = scan.strays.into_iter().map(|(file, Stray { why, .. })| (file, why)).collect();
    Ok(Contents { modules, strays })
}

fn settings_beside(modules_dir: &Path, found: &directory::Found) -> Result<Option<String>, String> {
    if found.settings.is_some() { settings_text_of(modules_dir, &found.file) } else { Ok(None) }
}

/// The text of the settings of a module file, if they are there.
fn settings_text_of(modules_dir: &Path, file: &Path) -> Result<Option<String>, String> {
    let path = modules_dir.join(settings_of(file));
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(None);
    }
    settings_text(modules_dir, &path).map(Some).map_err(|error| format!("{}: {error}", path.display()))
}

/// Why nothing should be written into a modules directory; `None` if the gateway may.
#[must_use]
pub fn unwritable(modules_dir: &Path) -> Option<String> {
    let shown = modules_dir.display();
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    if is_link(modules_dir) {
        return Some(format!("{shown} is a link, which whoever fills it swaps"));
    }
    if is_link(&modules_dir.join("..data")) {
        return Some(format!("{shown} is a volume that its cluster fills"));
    }
    let whole = std::path::absolute(modules_dir).unwrap_or_else(|_| modules_dir.to_owned());
    if let Some(folder) = whole.ancestors().find(|folder| folder.join(".git").exists())
        && !is_ignored(folder, &whole)
    {
        return Some(format!("{shown} belongs to the git checkout {}", folder.display()));
    }
    let probe = modules_dir.join(format!(".eye-{}", std::process::id()));
    match std::fs::create_dir_all(modules_dir).and_then(|()| std::fs::write(&probe, b"")) {
        Ok(()) => {
            let _gone = std::fs::remove_file(&probe);
            None
        }
        Err(error) => Some(format!("{shown} cannot be written: {error}")),
    }
}

/// Whether a git checkout ignores a folder of its own, as `make run` has it: then nothing but the gateway fills it.
fn is_ignored(checkout: &Path, folder: &Path) -> bool {
    let Ok(inside) = folder.strip_prefix(checkout) else { return false };
    let ignored = std::fs::read_to_string(checkout.join(".gitignore")).unwrap_or_default();
    let mut names = ignored.lines().map(|line| line.trim().trim_matches('/')).filter(|name| !name.is_empty());
    names.any(|name| Path::new(name) == inside)
}

/// What a push changes in the modules directory.
#[derive(Debug)]
pub struct Installing<'a> {
    /// The folder.
    pub modules_dir: &'a Path,
    /// What the slot has there now.
    pub before: &'a Installed,
    /// The new module or schema.
    pub content: &'a [u8],
    /// The text of its settings, as [`Installed::settings`]. The file is written or removed if they differ.
    pub settings: Option<&'a str>,
}

/// Puts a module or a schema into the modules directory, as the slot's file or in place of it, by rename, and its settings
/// beside it. A file of the other kind goes afterwards: while both are there, neither is taken.
///
/// The settings come first, so that a reader of the new module finds its settings. `scans` keeps the gateway from reading the
/// directory between the two. If the module cannot be put there, the settings of before are put back. A gateway that is
/// killed between the two has new settings for the old module, and its author no answer: the next push mends it.
///
/// # Errors
///
/// The errors of the file system.
pub(super) fn install(installing: &Installing<'_>, scans: &Mutex<()>) -> io::Result<()> {
    let Installing { modules_dir, before, content, settings } = *installing;
    let own = modules_dir.join(Kind::of_content(content).beside(&before.file));
    let beside = modules_dir.join(settings_of(&before.file));
    let module = Staged::write(&own, content)?;
    let is_other = settings != before.settings.as_deref();
    let staged = settings.filter(|_| is_other).map(|text| Staged::write(&beside, text.as_bytes())).transpose()?;
    let put_settings = |staged: Option<Staged>| match staged {
        Some(staged) => staged.put(),
        None if is_other => remove(&beside),
        None => Ok(()),
    };
    {
        let _no_scan = scans.lock().unwrap_or_else(PoisonError::into_inner);
        put_settings(staged)?;
        if let Err(error) = module.put() {
            let back = before.settings.as_ref().filter(|_| is_other);
            let back = back.map(|text| Staged::write(&beside, text.as_bytes())).transpose();
            back.and_then(put_settings)
                .unwrap_or_else(|error| tracing::error!("{} was changed, and stays so: {error}", beside.display()));
            return Err(error);
        }
        let file = modules_dir.join(&before.file);
        if own != file {
            remove(&file)?;
        }
    }
    sync_folder(own.parent().expect("a file lies in a folder"))
}
