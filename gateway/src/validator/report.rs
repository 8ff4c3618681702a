//! What is told of each event type's module, to people who have no access to the gateway's log.

use serde::Serialize;

use super::Limits;
pub use super::figures::{Counts, Times};
use crate::verdict::Digest;

/// The steps of a module's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The file was seen, and may still be growing.
    Settling,
    /// Its form and imports are being looked at.
    Checking,
    /// It is being compiled.
    Compiling,
    /// It describes itself, and its examples are tried.
    SelfTest,
    /// It judges events.
    Active,
    /// It was not taken, and no module serves in its place.
    Refused,
}

/// Why a file was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LoadError {
    /// The step at which it failed.
    pub step: State,
    /// The digest of the file that was not taken.
    pub digest: Option<Digest>,
    /// What it should have been.
    pub expected: String,
    /// What it was.
    pub found: String,
    /// What its author can do.
    pub mend: String,
}

impl LoadError {
    pub(super) fn at(step: State) -> Self {
        Self { step, digest: None, expected: String::new(), found: String::new(), mend: String::new() }
    }
}

/// What is known of the module of one event type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeReport {
    /// `category/name`; `category/_` for the other names of a category, `_` for everything else.
    pub event_type: String,
    /// The module that serves is `active`, also while a newer file is looked at or was refused.
    pub state: State,
    /// What is being done with a newer file, if anything.
    pub loading: Option<State>,
    /// The digest of the module that serves.
    pub digest: Option<Digest>,
    /// When it began to serve, RFC 3339.
    pub since: Option<String>,
    /// What it says of itself.
    pub summary: Option<String>,
    /// What a call may cost.
    pub limits: Limits,
    /// What it has said so far.
    pub counts: Counts,
    /// How long it took.
    pub judging: Option<Times>,
    /// Why the file that lies there now is not the one that serves.
    pub last_error: Option<LoadError>,
}
