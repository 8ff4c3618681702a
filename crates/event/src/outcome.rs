//! What became of an event, in the words that the answers use.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::verdict::{Digest, Unfinished, Violation};

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
