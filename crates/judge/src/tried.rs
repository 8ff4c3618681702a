//! The candidates of the modules directory as trials: which are under way, and which the data directory notes. A file that
//! stays over a restart is the same trial; one that comes again is another.

use std::io;
use std::time::Duration;

use eye_event::verdict::Digest;

use super::Validators;
use super::candidate::Trial;
use super::slot::Slot;
use super::steps::Mode;

/// A file below the candidates that is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct TriedFile {
    /// The event types.
    pub slot: Slot,
    /// The module.
    pub digest: Digest,
    /// How it is tried.
    pub trial: Trial,
}

impl Validators {
    /// The candidates of the modules directory, whether something serves beside them or not.
    #[must_use]
    pub fn tried_files(&self) -> Vec<TriedFile> {
        let tried = self.inner.candidates.tried.now();
        let file = |module: &std::sync::Arc<super::module::Module>| {
            let settings = module.settings();
            let trial = match settings.mode {
                Mode::Shadow => Trial::Shadow,
                Mode::Canary => Trial::Canary(settings.share),
            };
            TriedFile { slot: module.slot.clone(), digest: module.digest, trial }
        };
        tried.modules().map(file).collect()
    }

    /// Whether all files below the candidates were looked at since the start.
    #[must_use]
    pub fn candidates_scanned(&self) -> bool {
        *self.inner.tried_board.watch_scanned().borrow()
    }

    /// The notes of the data directory about trials: the last text of each slot. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn trial_notes(&self) -> io::Result<Vec<(Slot, String)>> {
        self.inner.tried_history.trial_notes()
    }

    /// The note about the last trial of a slot and its age; `None` if this data directory knows of none.
    #[must_use]
    pub fn trial_note(&self, slot: &Slot) -> Option<(String, Duration)> {
        self.inner.tried_history.trial_note(slot)
    }

    /// Replaces the note about the last trial of a slot.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn note_trial(&self, slot: &Slot, text: &str) -> io::Result<()> {
        self.inner.tried_history.note_trial(slot, text)
    }
}
