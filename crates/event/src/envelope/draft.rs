//! One event while its members are read: the fields found so far, and every violation of the gateway's own rules.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use uuid::Uuid;

use super::{Broken, EVENT_TYPE_CHARACTERS_MAX, Element, Event, timestamp, wrong_word};
use crate::event::Text;
use crate::json::{Flaw, Kind, Value};
use crate::verdict::Violation;

/// The members of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Id,
    SessionId,
    Category,
    Name,
    Timestamp,
    Data,
}

impl Field {
    /// The members that every event must have.
    const REQUIRED: [Self; 5] = [Self::SessionId, Self::Category, Self::Name, Self::Timestamp, Self::Data];

    /// The field of a key.
    pub(super) fn named(key: &str) -> Option<Self> {
        Some(match key {
            "id" => Self::Id,
            "session_id" => Self::SessionId,
            "category" => Self::Category,
            "name" => Self::Name,
            "timestamp" => Self::Timestamp,
            "data" => Self::Data,
            _ => return None,
        })
    }

    /// The key of the field.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::SessionId => "session_id",
            Self::Category => "category",
            Self::Name => "name",
            Self::Timestamp => "timestamp",
            Self::Data => "data",
        }
    }

    /// The bit of the field in [`Draft::seen`].
    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// An event while its members are read.
#[derive(Default)]
pub(super) struct Draft<'a> {
    /// Most violations that the draft notes. The reader lowers it once a request has many.
    violations_max: usize,
    /// The bits of the fields that were read, well or not. The reader finds duplicates with it, `finish` what is missing.
    pub(super) seen: u8,
    /// The reader sets this field and those below to what it could read.
    pub(super) id: Option<Uuid>,
    pub(super) session_id: Option<Uuid>,
    pub(super) category: Option<Cow<'a, str>>,
    pub(super) name: Option<Cow<'a, str>>,
    pub(super) timestamp_us: Option<i64>,
    pub(super) data: Option<&'a str>,
    /// Violations so far. With any, `finish` returns no event.
    violations: Vec<Violation>,
}

impl<'a> Draft<'a> {
    /// A draft without members, which keeps at most `violations_max` violations.
    pub(super) fn new(violations_max: usize) -> Self {
        Self { violations_max, ..Self::default() }
    }

    /// Notes a violation, up to the most of this event.
    pub(super) fn add(&mut self, pointer: String, code: &'static str, message: impl Into<Cow<'static, str>>) {
        if self.violations.len() < self.violations_max {
            self.violations.push(violation(pointer, code, message));
        }
    }

    /// Notes a member that no event has.
    pub(super) fn unknown(&mut self, key: &str) {
        let shown: String = key.chars().take(EVENT_TYPE_CHARACTERS_MAX).collect();
        let pointer = format!("/{}", shown.replace('~', "~0").replace('/', "~1"));
        let message = "an event has id, session_id, category, name, timestamp and data; put anything else into data";
        self.add(pointer, "unknown_field", message);
    }

    /// Notes the flaws of a value, with pointers from the event.
    fn flaws(&mut self, field: Field, flaws: Vec<Flaw>) {
        for flaw in flaws {
            self.add(format!("/{}{}", field.name(), flaw.pointer), flaw.code, flaw.message);
        }
    }

    /// Returns a string without flaws, or notes why there is none. `wanted` is the message for another kind.
    fn string(&mut self, field: Field, value: &Value<'a>, wanted: &'static str) -> Option<Cow<'a, str>> {
        let found = value.string();
        match found {
            Some(_) if value.flaws.is_empty() => found,
            Some(_) => {
                self.flaws(field, value.flaws.clone());
                None
            }
            None => {
                self.add(format!("/{}", field.name()), "type", wanted);
                None
            }
        }
    }

    /// Returns a UUID, or notes why there is none.
    pub(super) fn uuid(&mut self, field: Field, value: &Value<'a>) -> Option<Uuid> {
        let wanted = "must be a UUID in its usual form, such as 0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15";
        let text = self.string(field, value, wanted)?;
        // The other notations of a UUID (braces, URN, no hyphens) would name the same session in another way.
        let uuid = (text.len() == 36).then(|| Uuid::try_parse(&text).ok()).flatten();
        if uuid.is_none() {
            self.add(format!("/{}", field.name()), "uuid", wanted);
        }
        uuid
    }

    /// Returns a category or a name, or notes why there is none.
    pub(super) fn word(&mut self, field: Field, value: &Value<'a>) -> Option<Cow<'a, str>> {
        let text = self.string(field, value, "must be a string")?;
        if is_plain_word(&text) {
            return Some(text);
        }
        match wrong_word(&text) {
            Some((code, message)) => {
                self.add(format!("/{}", field.name()), code, message);
                None
            }
            None => Some(text),
        }
    }

    /// Returns a timestamp in microseconds since 1970, or notes why there is none.
    pub(super) fn time(&mut self, value: &Value<'a>, now_us: i64, future_us_max: i64) -> Option<i64> {
        let wanted = "must be a string such as 2026-11-23T09:30:00.123456Z (RFC 3339), or 2026-11-23 09:30:00 for UTC, \
            within the years 0001 to 9999 of UTC";
        let text = self.string(Field::Timestamp, value, wanted)?;
        match timestamp::parse(&text) {
            None => {
                self.add("/timestamp".to_owned(), "timestamp", wanted);
                None
            }
            Some(time) if time > now_us.saturating_add(future_us_max) => {
                let seconds = future_us_max / 1_000_000;
                let message = format!(
                    "lies in the future: at most {seconds} s ahead of the gateway's clock; check the sender's clock and zone"
                );
                self.add("/timestamp".to_owned(), super::FUTURE, message);
                None
            }
            time => time,
        }
    }

    /// Returns the text of `data`, or notes why there is none.
    pub(super) fn object(&mut self, value: Value<'a>) -> Option<&'a str> {
        if value.kind != Kind::Object {
            self.add("/data".to_owned(), "type", "must be a JSON object");
            return None;
        }
        let sound = value.flaws.is_empty();
        self.flaws(Field::Data, value.flaws);
        sound.then_some(value.raw)
    }

    /// Returns the event, or all violations with the fields that could be read.
    pub(super) fn finish(mut self, body: &ByteString, raw: Bytes) -> Element {
        for field in Field::REQUIRED {
            if self.seen & field.bit() == 0 {
                self.add(format!("/{}", field.name()), "required", "is missing");
            }
        }
        match (self.session_id, self.category, self.name, self.timestamp_us, self.data) {
            (Some(session_id), Some(category), Some(name), Some(timestamp_us), Some(data))
                if self.violations.is_empty() =>
            {
                Ok(Event {
                    id: self.id.unwrap_or_else(Uuid::now_v7),
                    session_id,
                    category: text_of(body, category),
                    name: text_of(body, name),
                    timestamp_us,
                    data: Text::within(body, data),
                    raw,
                })
            }
            (session_id, category, name, _, _) => Err(Box::new(Broken {
                violations: self.violations,
                id: self.id,
                session_id,
                category: category.map(Cow::into_owned),
                name: name.map(Cow::into_owned),
                raw,
            })),
        }
    }
}

/// Whether a text is a category or a name as nearly all are. One look at each byte decides.
fn is_plain_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= EVENT_TYPE_CHARACTERS_MAX
        && *first != b' '
        && *last != b' '
        && bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The text as a part of the body, or on its own if it had escapes.
fn text_of(body: &ByteString, text: Cow<'_, str>) -> Text {
    match text {
        Cow::Borrowed(text) => Text::within(body, text),
        Cow::Owned(text) => Text::from(text),
    }
}

/// A violation with a code of the gateway.
pub(super) fn violation(pointer: String, code: &'static str, message: impl Into<Cow<'static, str>>) -> Violation {
    Violation { pointer, code: Cow::Borrowed(code), message: message.into() }
}
