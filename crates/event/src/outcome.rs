//! The outcome of an event, in the words of the answers.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::verdict::{Digest, Unfinished, Violation};

/// The four ways in which an event ends. Each event ends in exactly one of them, or has no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// Its row is committed.
    Stored,
    /// Its row was committed before.
    Duplicate,
    /// It breaks a rule.
    Rejected,
    /// It could not be judged or stored. A dead letter keeps it.
    Quarantined,
}

impl OutcomeKind {
    /// All kinds, in the order of their values.
    pub const ALL: [Self; 4] = [Self::Stored, Self::Duplicate, Self::Rejected, Self::Quarantined];

    /// The word in answers, figures and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Quarantined => "quarantined",
        }
    }
}

/// The word for an event that has no outcome yet.
pub const UNFINISHED: &str = "unfinished";

/// The outcome of one event.
#[derive(Debug)]
pub enum Outcome {
    /// Its row is committed.
    Stored {
        /// The event's id: the sender's own, or the one that the gateway made.
        id: Uuid,
    },
    /// An event with this id was committed before.
    Duplicate {
        /// The event's id.
        id: Uuid,
    },
    /// The event breaks a rule, and the sender has to mend it.
    Rejected {
        /// The event's id, if it could be read or the gateway made one.
        id: Option<Uuid>,
        /// Whether the gateway or the validator refused the event.
        code: RejectionCode,
        /// Each rule that the event breaks, with the place in it.
        violations: Vec<Violation>,
        /// How many violations this answer omits, since its request has too many. The dead letter has them all.
        omitted: usize,
        /// The validator that judged the event; `None` if the gateway refused the event before any did.
        validator: Option<JudgedBy>,
    },
    /// Its validator failed, or Postgres refused its row. A dead letter keeps the event, and the sender must not send
    /// it again.
    Quarantined {
        /// The event's id.
        id: Uuid,
        /// The kind of failure.
        code: Cow<'static, str>,
    },
    /// The event has no outcome yet: it could not be judged or kept now. The gateway keeps nothing of it; the sender
    /// sends it again.
    Unfinished {
        /// The event's id, if it could be read or the gateway made one. A retry with this id is stored once at most.
        id: Option<Uuid>,
        /// The reason, and when to try again.
        why: Unfinished,
    },
}

impl Outcome {
    /// The kind of this outcome; `None` for an event that has none yet.
    pub fn kind(&self) -> Option<OutcomeKind> {
        match self {
            Self::Stored { .. } => Some(OutcomeKind::Stored),
            Self::Duplicate { .. } => Some(OutcomeKind::Duplicate),
            Self::Rejected { .. } => Some(OutcomeKind::Rejected),
            Self::Quarantined { .. } => Some(OutcomeKind::Quarantined),
            Self::Unfinished { .. } => None,
        }
    }
}

/// Whether the gateway or a validator refused the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The gateway: the bytes do not have the shape of an event.
    Envelope,
    /// The validator of the event's type.
    Rule,
    /// The gateway: the application may not send this event type.
    NotAllowed,
}

impl RejectionCode {
    /// The stable word in answers and dead letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Rule => "rule",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// The validator that judged an event.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedBy {
    /// The event type, as `category/name`.
    pub event_type: String,
    /// The digest of the module. With it, its author finds the version whose rule refused the event.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}
