//! What was taken back, as the data directory notes it, and the modules that serve though it says so.

use std::io;

use eye_event::verdict::Digest;

use super::Validators;
use super::slot::Slot;

/// The note about a version that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBackNote {
    /// The event types.
    pub slot: Slot,
    /// The version.
    pub digest: Digest,
    /// The text of the note: the reason, and what its writer added in further lines.
    pub text: String,
}

impl Validators {
    /// The notes of the data directory about versions that were taken back. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn taken_back_notes(&self) -> io::Result<Vec<TakenBackNote>> {
        self.inner.tools.history.taken_back_notes()
    }

    /// The modules that serve since the settings beside their files force them. Settings of a candidate force it to be
    /// tried, and nothing to serve.
    #[must_use]
    pub fn forced(&self) -> Vec<(Slot, Digest)> {
        let live = self.inner.registry.now();
        let forced = live.modules().filter(|module| module.settings().force == Some(module.digest));
        forced.map(|module| (module.slot.clone(), module.digest)).collect()
    }
}
