//! Bytes to events: the gateway's own rules, before a validator judges. A reader takes one event, an array of events, or one
//! for each line, finds every violation of an event at once, and borrows the parts of an event from the body. Validators
//! decide about the meaning of `data`. The reader proves that Postgres can hold it, so that no row of a batch fails for its
//! content.

use std::borrow::Cow;
use std::cell::Cell;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::draft::{Draft, Field, violation};
use crate::event::Text;
use crate::json::{Cursor, Key, Kind, Limits, Scratch, SyntaxError, line_column};
use crate::legible;
use crate::verdict::Violation;

mod draft;
pub mod timestamp;

/// The code of the violation of an event whose timestamp lies in the future.
pub const FUTURE: &str = "future";

/// Most characters of a category, and of a name.
pub const EVENT_TYPE_CHARACTERS_MAX: usize = 200;
/// Most violations of one event in its answer.
const VIOLATIONS_MAX: usize = 100;
/// Once the events of a request have this many bytes of violations, the reader notes only one of each further event. All are
/// in memory together, and could take twenty times the bytes of the request.
const VIOLATIONS_BYTES_MAX: usize = 16 << 20;
/// Deepest nesting of a misplaced value. Fields other than `data` hold no containers.
const MISPLACED_NESTING_MAX: usize = 64;

thread_local! {
    /// Kept from one body to the next, so that sound events allocate it once.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The bounds of an event. The reader checks them, and again the data that a validator amended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Longest text of `data`, in bytes; numbers with exponents count as long as Postgres writes them.
    pub data_bytes_max: usize,
    /// Deepest nesting of `data`.
    pub nesting_max: usize,
    /// Most digits of a number in `data`, written without exponent.
    pub number_digits_max: usize,
    /// How far `timestamp` may lie ahead of the gateway's clock, in microseconds.
    pub future_us_max: i64,
    /// Most events of one request.
    pub events_max: usize,
}

/// How a sender wrote the events of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`: one object, or an array of them.
    Json,
    /// `application/x-ndjson`: one object on each line.
    Lines,
}

/// An event that keeps the gateway's own rules.
#[derive(Debug)]
pub struct Event {
    /// The sender's id, or a new UUIDv7.
    pub id: Uuid,
    /// The session that the event belongs to.
    pub session_id: Uuid,
    /// First half of the event type.
    pub category: Text,
    /// Second half of the event type.
    pub name: Text,
    /// Time of the event, in microseconds since 1970.
    pub timestamp_us: i64,
    /// A JSON object that jsonb holds without loss.
    pub data: Text,
    /// The bytes of the event as they came, for a dead letter.
    pub raw: Bytes,
}

/// An element of a body that is no event, with the fields that could be read.
#[derive(Debug)]
pub struct Broken {
    /// Every reason; pointers start at the event.
    pub violations: Vec<Violation>,
    /// The sender's id, if it is a UUID.
    pub id: Option<Uuid>,
    /// Likewise the session.
    pub session_id: Option<Uuid>,
    /// Likewise the category.
    pub category: Option<String>,
    /// Likewise the name.
    pub name: Option<String>,
    /// The bytes as they came.
    pub raw: Bytes,
}

/// One element of a body.
pub type Element = Result<Event, Box<Broken>>;

/// The events of a body.
#[derive(Debug)]
pub enum Parsed {
    /// The body was one event.
    One(Element),
    /// The body was an array, or lines.
    Many(Vec<Element>),
}

/// Why a whole body is rejected.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Only space, in place of an object or an array.
    Empty,
    /// The body is not JSON.
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: &'static str,
    },
    /// More elements than the rules allow.
    TooMany,
}

/// Reads the events of `body`. `now_us` is the gateway's clock, in microseconds since 1970.
pub fn parse(body: &Bytes, format: Format, rules: &Rules, now_us: i64) -> Result<Parsed, Unreadable> {
    let scratch = SCRATCH.take();
    let mut reader = Reader { body, rules, now_us, scratch, violations_bytes_left: VIOLATIONS_BYTES_MAX };
    let parsed = match format {
        Format::Json => reader.json(),
        Format::Lines => reader.lines(),
    };
    reader.scratch.clear();
    SCRATCH.set(reader.scratch);
    parsed
}

/// Returns why `data` that a validator amended cannot be stored: it must be an object that jsonb holds without loss.
pub fn check_data(text: &str, rules: &Rules) -> Result<(), String> {
    let mut cursor = Cursor::new(text);
    let value =
        cursor.scan_value(&mut Scratch::new(), &data_limits(rules)).and_then(|value| cursor.end().map(|()| value));
    match value {
        Err(error) => Err(format!("amended data is not JSON: {error} at byte {}", error.offset)),
        Ok(value) if value.kind != Kind::Object => Err("amended data is not an object".to_owned()),
        Ok(value) => match value.flaws.first() {
            // Without the pointer, since that repeats keys that a sender chose.
            Some(flaw) => Err(format!("amended data cannot be stored: {} ({})", flaw.message, flaw.code)),
            None => Ok(()),
        },
    }
}

fn data_limits(rules: &Rules) -> Limits {
    Limits {
        bytes_max: rules.data_bytes_max,
        nesting_max: rules.nesting_max,
        expanded_bytes_max: rules.data_bytes_max,
        number_digits_max: rules.number_digits_max,
        flaws_max: VIOLATIONS_MAX,
    }
}

/// One body being read.
struct Reader<'a> {
    body: &'a Bytes,
    rules: &'a Rules,
    now_us: i64,
    scratch: Scratch,
    /// Bytes of violations that further elements may have. Without any left, each has one violation.
    violations_bytes_left: usize,
}

impl Reader<'_> {
    fn json(&mut self) -> Result<Parsed, Unreadable> {
        let body = self.body;
        let whole = match ByteString::try_from(body.clone()) {
            Ok(whole) => whole,
            Err(error) => {
                let lossy = String::from_utf8_lossy(&body[..error.valid_up_to()]);
                let (line, column) = line_column(&lossy, error.valid_up_to());
                return Err(Unreadable::NotJson { line, column, message: "the text is not UTF-8" });
            }
        };
        let text = &*whole;
        if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
            return Err(Unreadable::Empty);
        }
        let not_json = |error: SyntaxError| {
            let (line, column) = error.line_column(text);
            Unreadable::NotJson { line, column, message: error.message }
        };
        let mut cursor = Cursor::new(text);
        if cursor.kind().map_err(not_json)? != Kind::Array {
            let element = self.element(&mut cursor, &whole).map_err(not_json)?;
            cursor.end().map_err(not_json)?;
            return Ok(Parsed::One(element));
        }
        cursor.enter_array().map_err(not_json)?;
        let mut elements = Vec::new();
        while cursor.next_element().map_err(not_json)? {
            if elements.len() == self.rules.events_max {
                return Err(Unreadable::TooMany);
            }
            elements.push(self.element(&mut cursor, &whole).map_err(not_json)?);
        }
        cursor.end().map_err(not_json)?;
        Ok(Parsed::Many(elements))
    }

    fn lines(&mut self) -> Result<Parsed, Unreadable> {
        let mut elements = Vec::new();
        for line in self.body.split(|&byte| byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if elements.len() == self.rules.events_max {
                return Err(Unreadable::TooMany);
            }
            elements.push(self.line(line));
        }
        // No lines are no events, as in an empty array: a sender may have none.
        Ok(Parsed::Many(elements))
    }

    fn line(&mut self, line: &[u8]) -> Element {
        let Ok(text) = ByteString::try_from(self.body.slice_ref(line)) else {
            return Err(self.unreadable(line, "the line is not UTF-8".to_owned()));
        };
        let mut cursor = Cursor::new(&text);
        match self.element(&mut cursor, &text).and_then(|element| cursor.end().map(|()| element)) {
            Ok(element) => element,
            Err(error) => {
                let (_, column) = error.line_column(&text);
                Err(self.unreadable(line, format!("the line is not JSON: {error} at column {column}")))
            }
        }
    }

    fn unreadable(&self, raw: &[u8], message: String) -> Box<Broken> {
        let violations = vec![violation(String::new(), "json", message)];
        Box::new(Broken {
            violations,
            id: None,
            session_id: None,
            category: None,
            name: None,
            raw: self.body.slice_ref(raw),
        })
    }

    /// Reads the next element as an event.
    fn element<'t>(&mut self, cursor: &mut Cursor<'t>, text: &'t ByteString) -> Result<Element, SyntaxError> {
        if cursor.kind()? != Kind::Object {
            let limits = self.misplaced_limits();
            let value = cursor.scan_value(&mut self.scratch, &limits)?;
            let message = "an event is a JSON object with session_id, category, name, timestamp and data";
            return Ok(Err(self.unreadable(value.raw.as_bytes(), message.to_owned()).with_code("type")));
        }
        let start = cursor.offset();
        cursor.enter_object()?;
        let violations_max = if self.violations_bytes_left > 0 { VIOLATIONS_MAX } else { 1 };
        let mut draft = Draft::new(violations_max);
        while let Some(key) = cursor.next_member()? {
            self.member(&mut draft, key, cursor)?;
        }
        let raw = self.body.slice_ref(&text.as_bytes()[start..cursor.offset()]);
        let element = draft.finish(text, raw);
        if let Err(broken) = &element {
            let bytes = broken.violations.iter().map(Violation::bytes).sum();
            self.violations_bytes_left = self.violations_bytes_left.saturating_sub(bytes);
        }
        Ok(element)
    }

    fn misplaced_limits(&self) -> Limits {
        Limits {
            bytes_max: self.body.len(),
            nesting_max: MISPLACED_NESTING_MAX,
            expanded_bytes_max: usize::MAX,
            number_digits_max: usize::MAX,
            flaws_max: 1,
        }
    }

    fn member<'t>(&mut self, draft: &mut Draft<'t>, key: Key<'t>, cursor: &mut Cursor<'t>) -> Result<(), SyntaxError> {
        let key = key.string();
        let Some(field) = Field::named(&key) else {
            let limits = self.misplaced_limits();
            cursor.scan_value(&mut self.scratch, &limits)?;
            draft.unknown(&key);
            return Ok(());
        };
        let limits = if field == Field::Data { data_limits(self.rules) } else { self.misplaced_limits() };
        let value = cursor.scan_value(&mut self.scratch, &limits)?;
        if draft.seen & field.bit() != 0 {
            draft.add(format!("/{}", field.name()), "duplicate_key", format!("`{key}` is given twice; give it once"));
            return Ok(());
        }
        draft.seen |= field.bit();
        match field {
            Field::Id => draft.id = draft.uuid(field, &value),
            Field::SessionId => draft.session_id = draft.uuid(field, &value),
            Field::Category => draft.category = draft.word(field, &value),
            Field::Name => draft.name = draft.word(field, &value),
            Field::Timestamp => draft.timestamp_us = draft.time(&value, self.now_us, self.rules.future_us_max),
            Field::Data => draft.data = draft.object(value),
        }
        Ok(())
    }
}

impl Broken {
    fn with_code(mut self: Box<Self>, code: &'static str) -> Box<Self> {
        for violation in &mut self.violations {
            violation.code = Cow::Borrowed(code);
        }
        self
    }
}

/// Returns why a text is no category and no name: a code for programs, and a message.
pub fn wrong_word(text: &str) -> Option<(&'static str, &'static str)> {
    if text.is_empty() || text.chars().count() > EVENT_TYPE_CHARACTERS_MAX {
        Some(("length", "must have 1 to 200 characters"))
    } else if text.chars().any(legible::is_hidden) {
        Some((
            "control_character",
            "must not hold control characters or others that cannot be seen, such as line ends, tabs, zero-width spaces \
             and marks of direction",
        ))
    } else if text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace) {
        Some(("space", "must not start or end with a space"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
