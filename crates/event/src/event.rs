//! The plain words between ingest, batch and store: an event that may be stored, and a dead letter.

use std::fmt;
use std::ops::Deref;
use std::str::Utf8Error;

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

use crate::verdict::{Digest, Violation};

/// Text that is a slice of the request body or a string of its own; cheap to clone.
///
/// A slice shares the body's memory, so an event costs no copy between the socket and the database. Its UTF-8 is proved
/// once, for the whole body; the proof is carried by the type.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(ByteString);

impl Text {
    /// Takes bytes as text, if they are UTF-8.
    pub fn new(bytes: Bytes) -> Result<Text, Utf8Error> {
        ByteString::try_from(bytes).map(Text)
    }

    /// Takes a part of a body that has already been read as text, without a copy and without a second proof.
    ///
    /// # Panics
    /// If `part` does not lie within `body`.
    pub fn within(body: &ByteString, part: &str) -> Text {
        Text(body.slice_ref(part))
    }

    /// The text as UTF-8 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(text.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.into())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

/// An accepted event, ready to be stored.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// The event's own id; with session and timestamp it is the key of the row.
    pub id: Uuid,
    /// The session it belongs to.
    pub session_id: Uuid,
    /// When it occurred: microseconds since 1970.
    pub timestamp_us: i64,
    /// When the gateway took it: microseconds since 1970. No two events of one gateway share it.
    pub received_at_us: i64,
    /// First half of the event type.
    pub category: Text,
    /// Second half of the event type.
    pub name: Text,
    /// Who sent it.
    pub application_id: i32,
    /// The module that judged it, if one serves its event type.
    pub module: Option<Digest>,
    /// The data as JSON text, as sent or as amended.
    pub data: Text,
    /// The event as it came, in case it must become a dead letter.
    pub raw: Bytes,
    /// It is a dead letter that is judged again, so finding it there is no event that came a second time.
    pub redriven: bool,
}

/// Why an event became a dead letter: the outcome its sender was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The envelope or a validator refused it.
    Rejected,
    /// It could not be judged or stored.
    Quarantined,
}

impl Reason {
    /// The word for it in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Quarantined => "quarantined",
        }
    }
}

/// What is kept of an event that was not stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeptAs {
    /// Its bytes as they came.
    #[default]
    Whole,
    /// The event with its data as its validator redacts it.
    Redacted,
    /// Nothing but its size and digest.
    Nothing,
}

impl KeptAs {
    /// The word for it in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            KeptAs::Whole => "whole",
            KeptAs::Redacted => "redacted",
            KeptAs::Nothing => "nothing",
        }
    }
}

/// An event that was not stored, kept with its reason.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// A fresh UUIDv7 of the dead letter itself.
    pub id: Uuid,
    /// When the gateway took the event: microseconds since 1970.
    pub received_at_us: i64,
    /// The outcome the sender was told.
    pub reason: Reason,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: String,
    /// One sentence for people.
    pub detail: String,
    /// What was wrong with the event.
    pub violations: Vec<Violation>,
    /// Who sent it.
    pub application_id: i32,
    /// The module that judged it, if one did.
    pub module: Option<Digest>,
    /// The event's id, where it had a readable one.
    pub event_id: Option<Uuid>,
    /// The event's session, where it had a readable one.
    pub session_id: Option<Uuid>,
    /// The event's category, where it had a readable one.
    pub category: Option<String>,
    /// The event's name, where it had a readable one.
    pub name: Option<String>,
    /// What `raw` is.
    pub kept: KeptAs,
    /// The bytes that are kept, already cut at the configured size.
    pub raw: Bytes,
    /// How many bytes came.
    pub raw_bytes: usize,
    /// The digest of what came, where nothing of it is kept.
    pub raw_digest: Option<Digest>,
    /// The text of the module's panic or exception. Kept with whole bytes alone, since it may quote them.
    pub last_words: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_a_slice_of_the_body_or_its_own() {
        let body = ByteString::from_static("{\"name\":\"gr\u{fc}n\"}");
        let name = Text::within(&body, &body[9..14]);
        assert_eq!(&*name, "gr\u{fc}n");
        assert_eq!(name, Text::from("gr\u{fc}n"));
        assert_eq!(name.as_bytes().as_ptr(), body[9..].as_ptr(), "no copy");
        assert!(Text::new(body.into_bytes().slice(0..12)).is_err(), "cut within a character");
    }
}
