//! Why a module is not taken, in words that its author can act on: what was expected, what was found, how to mend it.

use eye_event::legible::legible;
use serde::Serialize;

/// How much of each part of a refusal is told.
const PART_CHARACTERS_MAX: usize = 2_000;

/// Why a module is not taken, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What the gateway expects of a module.
    pub expected: String,
    /// What it found instead.
    pub found: String,
    /// How to mend it.
    pub mend: String,
    /// The machine may have been too busy for it: worth another try though nothing was changed.
    #[serde(skip)]
    pub(super) passing: bool,
}

impl Refusal {
    /// Each part may quote what a file says: it is told on one line, and not without end.
    pub(super) fn new(expected: impl AsRef<str>, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        let told = |text: &str| legible(text, PART_CHARACTERS_MAX).to_string();
        Self {
            expected: told(expected.as_ref()),
            found: told(found.as_ref()),
            mend: told(mend.as_ref()),
            passing: false,
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}; found {}; {}", self.expected, self.found, self.mend)
    }
}
