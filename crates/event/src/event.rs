//! The types that ingest, batch and store pass on: an event to store, and a dead letter.

use std::fmt;
use std::ops::Deref;
use std::str::Utf8Error;

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

use crate::verdict::{Digest, Violation};

/// Text: either a slice of the request body or a string of its own. A clone is cheap.
///
/// A slice shares the body's memory, so an event is not copied between the socket and the database. The body is checked
/// for UTF-8 once; the type carries that proof.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(ByteString);

impl Text {
    /// Takes bytes as text if they are UTF-8.
    pub fn new(bytes: Bytes) -> Result<Text, Utf8Error> {
        ByteString::try_from(bytes).map(Text)
    }

    /// Takes a part of a body that is UTF-8 already. It neither copies nor checks the part again.
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
    /// The event's own id. Session, timestamp and id are the key of the row.
    pub id: Uuid,
    /// The event's session.
    pub session_id: Uuid,
    /// When the event occurred, in microseconds since 1970.
    pub timestamp_us: i64,
    /// When the gateway received the event, in microseconds since 1970. No two events of one gateway have the same.
    pub received_at_us: i64,
    /// First half of the event type.
    pub category: Text,
    /// Second half of the event type.
    pub name: Text,
    /// The application that sent the event.
    pub application_id: i32,
    /// The module that judged the event; `None` if no module serves its type.
    pub module: Option<Digest>,
    /// The data as JSON text, as the sender wrote it or as the module amended it.
    pub data: Text,
    /// The event as it came, in case Postgres refuses the row and the event becomes a dead letter.
    pub raw: Bytes,
    /// The event comes from a dead letter. If its row is there already, the store counts no duplicate: no sender sent
    /// it twice.
    pub redriven: bool,
}

/// Why an event became a dead letter. It is the outcome that the sender got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The envelope or a validator refused it.
    Rejected,
    /// The event could not be judged or stored.
    Quarantined,
}

impl Reason {
    /// The word in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Quarantined => "quarantined",
        }
    }
}

/// How much of an event that was not stored its dead letter keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeptAs {
    /// The bytes as they came.
    #[default]
    Whole,
    /// The event, with its data as its validator redacts it.
    Redacted,
    /// Only its size and digest.
    Nothing,
}

impl KeptAs {
    /// The word in the database and in answers.
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
    /// When the gateway received the event, in microseconds since 1970.
    pub received_at_us: i64,
    /// The outcome that the sender got.
    pub reason: Reason,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: String,
    /// One sentence for people.
    pub detail: String,
    /// The violations of the event.
    pub violations: Vec<Violation>,
    /// The application that sent the event.
    pub application_id: i32,
    /// The module that judged the event, if one did.
    pub module: Option<Digest>,
    /// The event's id, if it could be read.
    pub event_id: Option<Uuid>,
    /// The event's session, if it could be read.
    pub session_id: Option<Uuid>,
    /// The event's category, if it could be read.
    pub category: Option<String>,
    /// The event's name, if it could be read.
    pub name: Option<String>,
    /// Whether `raw` is the whole event, the redacted one, or empty.
    pub kept: KeptAs,
    /// The bytes that the dead letter keeps, already cut at the configured size.
    pub raw: Bytes,
    /// How many bytes the sender sent.
    pub raw_bytes: usize,
    /// The digest of the bytes that the sender sent, if the dead letter keeps none of them.
    pub raw_digest: Option<Digest>,
    /// The text of the module's panic or exception. Only a dead letter with whole bytes keeps it, since the text may
    /// quote them.
    pub last_words: Option<String>,
    /// The id of the request that it came in.
    pub request_id: Option<String>,
    /// The `traceparent` of that request, if it had a valid one.
    pub traceparent: Option<String>,
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
