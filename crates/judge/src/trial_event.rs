//! Events and examples as the author's commands have them: owned, and with everything that a module sees of them.

use serde::{Deserialize, Serialize};

/// The parts of an event that decide about its verdict. Ids are made up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialEvent {
    /// The first half of the event type.
    pub category: String,
    /// The second half of the event type.
    pub name: String,
    /// The application that sends it.
    pub application: String,
    /// When it occurs, in microseconds since 1970.
    pub timestamp_us: i64,
    /// When a gateway first received it, in microseconds since 1970.
    pub received_at_us: i64,
    /// The text of a JSON object.
    pub data: String,
}

/// The verdict that an example names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// Stored as it was sent.
    Accept,
    /// Stored with other data.
    Amend,
    /// Not stored.
    Reject,
}

/// An example that a module brings along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialExample {
    /// What it shows, for people.
    pub title: String,
    /// Its event.
    pub event: TrialEvent,
    /// The verdict that the module must give.
    pub expect: Expected,
    /// The codes of the violations, in any order; empty for any.
    pub codes: Vec<String>,
}
