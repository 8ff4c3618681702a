//! What became of an event, in the words that the answers use.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::verdict::{Digest, Unfinished, Violation};

/// How an event ends. Each ends in exactly one way, or has no outcome yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeKind {
    /// It is committed.
    Stored,
    /// It was committed before.
    Duplicate,
    /// It breaks a rule.
    Rejected,
    /// It could not be judged or stored, and is kept as a dead letter.
    Quarantined,
}

impl OutcomeKind {
    /// All of them, in the order of their values.
    pub const ALL: [Self; 4] = [Self::Stored, Self::Duplicate, Self::Rejected, Self::Quarantined];

    /// The word for it in answers, figures and tables.
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

/// What became of one event.
#[derive(Debug)]
pub enum Outcome {
    /// It is committed.
    Stored {
        /// The event's id, the sender's own or the one that was made for it.
        id: Uuid,
    },
    /// An event with this id was committed before.
    Duplicate {
        /// The event's id.
        id: Uuid,
    },
    /// It breaks a rule: the sender has to mend it.
    Rejected {
        /// The event's id, where one could be read or was made.
        id: Option<Uuid>,
        /// Who refused it.
        code: RejectionCode,
        /// What is wrong with it, and where.
        violations: Vec<Violation>,
        /// How many violations are left out here, because those of its request are too many; the dead letter has them.
        omitted: usize,
        /// The validator that judged it; `None` if the envelope already failed.
        validator: Option<JudgedBy>,
    },
    /// Its validator failed: it is kept as a dead letter and must not be sent again.
    Quarantined {
        /// The event's id.
        id: Uuid,
        /// The kind of failure.
        code: Cow<'static, str>,
    },
    /// It has no outcome yet: it could not be judged or kept now. Nothing of it is kept, and it is to be sent again.
    Unfinished {
        /// The event's id, where one could be read or was made. A retry with it is stored once at most.
        id: Option<Uuid>,
        /// Why, and when to try again.
        why: Unfinished,
    },
}

impl Outcome {
    /// Which one it is; `None` of an event that has none yet.
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

/// Who refused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionCode {
    /// The gateway: the event does not have the shape of an event.
    Envelope,
    /// The validator of the event's type.
    Rule,
    /// The gateway: the application may not send this event type.
    NotAllowed,
}

impl RejectionCode {
    /// The stable word that stands in answers and dead letters.
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
    /// The digest of the module, so that the very rule can be found again.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}
