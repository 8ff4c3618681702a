//! Why a module is refused, in words that its author can act on: what the gateway expected, what it found, how to mend
//! it.

use eye_event::legible::legible;
use serde::Serialize;

/// Characters of each part of a refusal. The rest is cut.
const PART_CHARACTERS_MAX: usize = 2_000;

/// Why a module is refused, for its author and operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What the gateway expects of a module.
    pub expected: String,
    /// What it found instead.
    pub found: String,
    /// How its author can mend it.
    pub mend: String,
    /// The machine may have been too busy. The gateway tries again although nothing changed.
    #[serde(skip)]
    pub(super) passing: bool,
}

impl Refusal {
    /// Each part may quote the file, so this escapes it to one line and cuts it.
    pub(super) fn new(expected: impl AsRef<str>, found: impl AsRef<str>, mend: impl AsRef<str>) -> Self {
        let told = |text: &str| legible(text, PART_CHARACTERS_MAX).to_string();
        Self {
            expected: told(expected.as_ref()),
            found: told(found.as_ref()),
            mend: told(mend.as_ref()),
            passing: false,
        }
    }

    /// Whether the module may be taken later although nothing changes: the machine was too busy, or had no room.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    /// A refusal as another gateway told it.
    #[must_use]
    pub fn of_parts(expected: &str, found: &str, mend: &str) -> Self {
        Self::new(expected, found, mend)
    }

    /// The refusal of a module whose content is nowhere.
    #[must_use]
    pub fn no_content() -> Self {
        Self::new("the content of the module", "none in the data directory and in the database", "push it again")
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "expected {}; found {}; {}", self.expected, self.found, self.mend)
    }
}
