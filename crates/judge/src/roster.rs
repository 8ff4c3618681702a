//! The event types that had a module when the gateway last looked, kept under the data directory. A gateway that starts
//! and finds fewer files can tell files that went by accident from an installation that never had them. The roster also
//! keeps the last settings in force, in case a settings file is broken later. It removes a slot only when the module
//! was unloaded, or by `eye validator retire`. That command leaves a mark, by which a running gateway knows the
//! operator's decision.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};

use super::directory;
use super::files::private_dir;
use super::slot::Slot;

/// Bytes of a note. It has the text of a settings file and an event type.
const NOTE_BYTES_MAX: u64 = 256 << 10;

/// Notes that are read at a start. The gateway does not read a modules directory with more files either.
const NOTES_MAX: usize = 100_000;

/// The note about one slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    event_type: String,
    /// The text of the settings file in force; `None` when there was no file.
    settings: Option<String>,
}

/// The notes of all slots.
#[derive(Debug)]
pub struct Roster {
    root: PathBuf,
    /// The notes on disk, so that none is written twice.
    noted: BTreeMap<Slot, Option<String>>,
    /// This is a command beside a gateway, to which the roster belongs. It writes nothing.
    is_foreign: bool,
}

impl Roster {
    /// The roster under a data directory, which need not exist.
    #[must_use]
    pub fn under(data_dir: &Path) -> Self {
        Self { root: data_dir.join("roster"), noted: BTreeMap::new(), is_foreign: false }
    }

    /// Sets whether a command beside a gateway uses this roster. A file that such a command misses may be there for the
    /// gateway.
    pub(super) fn foreign(self, is_foreign: bool) -> Self {
        Self { is_foreign, ..self }
    }

    /// Reads the roster. A damaged note is left out and hides no other.
    ///
    /// # Errors
    ///
    /// When it cannot be read. A roster that does not exist is empty.
    pub(super) fn load(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries.take(NOTES_MAX) {
            let path = entry?.path();
            if path.extension().is_some() {
                continue;
            }
            match read(&path) {
                Ok((slot, settings)) => drop(self.noted.insert(slot, settings)),
                Err(error) => tracing::warn!(file = %path.display(), "this note of a module is damaged: {error}"),
            }
        }
        Ok(())
    }

    /// The slots that had a module.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.noted.keys()
    }

    /// The settings of a slot that were in force last; `None` if they are unknown.
    pub(super) fn settings(&self, slot: &Slot) -> Option<&Option<String>> {
        self.noted.get(slot)
    }

    /// Notes that a slot has a file now, and its settings. This removes the mark of an earlier `retire`.
    pub(super) fn note(&mut self, slot: &Slot, settings: Option<&str>) {
        if self.noted.get(slot).is_some_and(|noted| noted.as_deref() == settings) {
            return;
        }
        let settings = settings.map(str::to_owned);
        if self.is_foreign {
            self.noted.insert(slot.clone(), settings);
            return;
        }
        let note = Note { event_type: slot.to_string(), settings: settings.clone() };
        let write = || {
            private_dir(&self.root)?;
            let beside = self.path(slot).with_extension("new");
            fs::write(&beside, serde_json::to_vec(&note)?)?;
            fs::rename(&beside, self.path(slot))?;
            remove(&self.retired_path(slot))
        };
        match write() {
            Ok(()) => drop(self.noted.insert(slot.clone(), settings)),
            Err(error) => {
                tracing::warn!(event_type = %slot, "a restart without this module's file will not notice: {error}");
            }
        }
    }

    /// Forgets a note, so that the next one is written again: a `retire` may have removed it from disk.
    pub(super) fn doubt(&mut self, slot: &Slot) {
        self.noted.remove(slot);
    }

    /// Removes a slot.
    pub(super) fn strike(&mut self, slot: &Slot) {
        self.noted.remove(slot);
        if self.is_foreign {
            return;
        }
        if let Err(error) = remove(&self.path(slot)).and_then(|()| remove(&self.retired_path(slot))) {
            tracing::warn!(event_type = %slot, "the note of a module that is gone cannot be removed: {error}");
        }
    }

    /// Whether an operator retired this slot.
    pub(super) fn is_retired(&self, slot: &Slot) -> bool {
        self.retired_path(slot).exists()
    }

    /// Whether a slot had a module when a gateway last looked.
    pub(super) fn had(&self, slot: &Slot) -> bool {
        self.path(slot).exists()
    }

    /// Marks a slot as retired. Returns true when it had a module.
    ///
    /// # Errors
    ///
    /// When the roster cannot be written.
    pub fn retire(&self, slot: &Slot) -> io::Result<bool> {
        let had = self.had(slot);
        private_dir(&self.root)?;
        fs::write(self.retired_path(slot), slot.to_string())?;
        remove(&self.path(slot))?;
        Ok(had)
    }

    fn path(&self, slot: &Slot) -> PathBuf {
        // A slot's text may be longer than a name in this file system, so the file is named by its digest.
        self.root.join(Digest::of(slot.to_string().as_bytes()).to_string())
    }

    fn retired_path(&self, slot: &Slot) -> PathBuf {
        self.path(slot).with_extension("retired")
    }
}

fn read(path: &Path) -> io::Result<(Slot, Option<String>)> {
    let note: Note = serde_json::from_slice(&directory::read(path, NOTE_BYTES_MAX)?)?;
    let slot = Slot::parse(&note.event_type).map_err(io::Error::other)?;
    Ok((slot, note.settings))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(root: &Path) -> Vec<String> {
        let mut roster = Roster::under(root);
        roster.load().expect("readable");
        roster.slots().map(ToString::to_string).collect()
    }

    #[test]
    fn what_had_a_module_is_known_after_a_restart_until_it_is_struck_off_or_retired() {
        let dir = tempfile::tempdir().expect("a directory");
        let [one, two] = ["a/b", "_"].map(|text| Slot::parse(text).expect("an event type"));
        let mut roster = Roster::under(dir.path());
        roster.load().expect("there is none");
        roster.note(&one, Some("deadline_ms = 7"));
        roster.note(&two, None);
        assert_eq!(slots(dir.path()), ["_", "a/b"]);
        assert!(!roster.is_retired(&one));
        assert!(Roster::under(dir.path()).retire(&one).expect("written"), "by another process");
        assert!(roster.is_retired(&one));
        assert_eq!(slots(dir.path()), ["_"]);
        roster.doubt(&one);
        roster.note(&one, None);
        assert!(!roster.is_retired(&one), "it came back");
        roster.strike(&one);
        roster.strike(&two);
        assert_eq!(slots(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn a_command_beside_a_gateway_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        Roster::under(dir.path()).note(&Slot::Any, None);
        let mut beside = Roster::under(dir.path()).foreign(true);
        beside.load().expect("readable");
        beside.strike(&Slot::Any);
        beside.note(&Slot::Category("a".into()), None);
        assert_eq!(slots(dir.path()), ["_"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_damaged_note_and_a_pipe_hide_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut roster = Roster::under(dir.path());
        roster.note(&Slot::Any, None);
        fs::write(dir.path().join("roster/damaged"), "{").expect("written");
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("roster/pipe")).status();
        assert!(made.expect("mkfifo").success());
        assert_eq!(slots(dir.path()), ["_"]);
    }
}
