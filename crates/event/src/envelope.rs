//! Bytes to events: the gateway's own rules, before any validator is asked. It reads one event, an array of them, or a
//! line each, finds every violation of an event at once, and borrows what it keeps from the body. What `data` means is
//! for validators to say; that Postgres can hold it is proved here, so that no row of a batch fails for its content.

use std::borrow::Cow;
use std::cell::Cell;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::event::Text;
use crate::json::{Cursor, Flaw, Key, Kind, Limits, Scratch, SyntaxError, Value, line_column};
use crate::legible;
use crate::verdict::Violation;

pub mod timestamp;

/// Category and name: at most so many characters.
pub const EVENT_TYPE_CHARACTERS_MAX: usize = 200;
/// How many violations of one event are told.
const VIOLATIONS_MAX: usize = 100;
/// Once the events of a request have so many bytes of violations, only one is found of each further event: they are in memory
/// together, and could be twenty times what was sent.
const VIOLATIONS_BYTES_MAX: usize = 16 << 20;
/// How deep a misplaced value is followed; fields other than `data` hold no containers.
const MISPLACED_NESTING_MAX: usize = 64;

thread_local! {
    /// Kept from one body to the next: what a sound event needs of it is allocated once.
    static SCRATCH: Cell<Scratch> = Cell::default();
}

/// The bounds that an event must keep.
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

/// How the events of a body are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`: one object, or an array of them.
    Json,
    /// `application/x-ndjson`: a line each.
    Lines,
}

/// An event that keeps the gateway's own rules.
#[derive(Debug)]
pub struct Event {
    /// The sender's, or a fresh UUIDv7.
    pub id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// First half of the event type.
    pub category: Text,
    /// Second half of the event type.
    pub name: Text,
    /// When it occurred, in microseconds since 1970.
    pub timestamp_us: i64,
    /// A JSON object that jsonb holds without loss.
    pub data: Text,
    /// The event as it came, for a dead letter.
    pub raw: Bytes,
}

/// What was found in place of an event, with what could be read of it.
#[derive(Debug)]
pub struct Broken {
    /// Every reason found; pointers start at the event.
    pub violations: Vec<Violation>,
    /// The sender's id, where it is a UUID.
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

/// Why a body as a whole holds no events.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Nothing but space, where an object or an array must stand.
    Empty,
    /// Not JSON: where (both from 1) and why.
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What stands there, or should.
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

/// Says why `data` that a validator amended cannot be stored: it must be an object that jsonb holds without loss.
pub fn check_data(text: &str, rules: &Rules) -> Result<(), String> {
    let mut cursor = Cursor::new(text);
    let value =
        cursor.scan_value(&mut Scratch::new(), &data_limits(rules)).and_then(|value| cursor.end().map(|()| value));
    match value {
        Err(error) => Err(format!("amended data is not JSON: {error} at byte {}", error.offset)),
        Ok(value) if value.kind != Kind::Object => Err("amended data is not an object".to_owned()),
        Ok(value) => match value.flaws.first() {
            // Not where: the way there may be made of keys that a sender chose.
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
    /// What the elements that follow may have of violations, but for one each.
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
        // None are none, as in an array: a sender may have nothing to say.
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

    /// Reads the element that comes next as an event.
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
        let mut draft = Draft { violations_max, ..Draft::default() };
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    SessionId,
    Category,
    Name,
    Timestamp,
    Data,
}

impl Field {
    const REQUIRED: [Self; 5] = [Self::SessionId, Self::Category, Self::Name, Self::Timestamp, Self::Data];

    fn named(key: &str) -> Option<Self> {
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

    fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::SessionId => "session_id",
            Self::Category => "category",
            Self::Name => "name",
            Self::Timestamp => "timestamp",
            Self::Data => "data",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// An event while its members are read.
#[derive(Default)]
struct Draft<'a> {
    violations_max: usize,
    seen: u8,
    id: Option<Uuid>,
    session_id: Option<Uuid>,
    category: Option<Cow<'a, str>>,
    name: Option<Cow<'a, str>>,
    timestamp_us: Option<i64>,
    data: Option<&'a str>,
    violations: Vec<Violation>,
}

impl<'a> Draft<'a> {
    fn add(&mut self, pointer: String, code: &'static str, message: impl Into<Cow<'static, str>>) {
        if self.violations.len() < self.violations_max {
            self.violations.push(violation(pointer, code, message));
        }
    }

    fn unknown(&mut self, key: &str) {
        let shown: String = key.chars().take(EVENT_TYPE_CHARACTERS_MAX).collect();
        let pointer = format!("/{}", shown.replace('~', "~0").replace('/', "~1"));
        let message = "an event has id, session_id, category, name, timestamp and data; put anything else into data";
        self.add(pointer, "unknown_field", message);
    }

    fn flaws(&mut self, field: Field, flaws: Vec<Flaw>) {
        for flaw in flaws {
            self.add(format!("/{}{}", field.name(), flaw.pointer), flaw.code, flaw.message);
        }
    }

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

    fn uuid(&mut self, field: Field, value: &Value<'a>) -> Option<Uuid> {
        let wanted = "must be a UUID in its usual form, such as 0198c5a4-6f3e-7c1d-9b52-3f0e8a7d6c15";
        let text = self.string(field, value, wanted)?;
        // The other notations of a UUID (braces, URN, no hyphens) would be stored as the same session under another name.
        let uuid = (text.len() == 36).then(|| Uuid::try_parse(&text).ok()).flatten();
        if uuid.is_none() {
            self.add(format!("/{}", field.name()), "uuid", wanted);
        }
        uuid
    }

    fn word(&mut self, field: Field, value: &Value<'a>) -> Option<Cow<'a, str>> {
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

    fn time(&mut self, value: &Value<'a>, now_us: i64, future_us_max: i64) -> Option<i64> {
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
                self.add("/timestamp".to_owned(), "future", message);
                None
            }
            time => time,
        }
    }

    fn object(&mut self, value: Value<'a>) -> Option<&'a str> {
        if value.kind != Kind::Object {
            self.add("/data".to_owned(), "type", "must be a JSON object");
            return None;
        }
        let sound = value.flaws.is_empty();
        self.flaws(Field::Data, value.flaws);
        sound.then_some(value.raw)
    }

    fn finish(mut self, body: &ByteString, raw: Bytes) -> Element {
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

/// Why a text is neither a category nor a name: a code for programs, and what it must be.
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

/// Whether a text is a category or a name as nearly all are: it takes one look at each byte to know.
fn is_plain_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    bytes.len() <= EVENT_TYPE_CHARACTERS_MAX
        && *first != b' '
        && *last != b' '
        && bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

fn text_of(body: &ByteString, text: Cow<'_, str>) -> Text {
    match text {
        Cow::Borrowed(text) => Text::within(body, text),
        Cow::Owned(text) => Text::from(text),
    }
}

fn violation(pointer: String, code: &'static str, message: impl Into<Cow<'static, str>>) -> Violation {
    Violation { pointer, code: Cow::Borrowed(code), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        data_bytes_max: 1024,
        nesting_max: 8,
        number_digits_max: 1_000,
        future_us_max: 60_000_000,
        events_max: 3,
    };
    const NOW: i64 = 1_800_000_000_000_000;

    fn one(text: &str) -> Element {
        match parse(&Bytes::copy_from_slice(text.as_bytes()), Format::Json, &RULES, NOW) {
            Ok(Parsed::One(element)) => element,
            other => panic!("not one event: {other:?}"),
        }
    }

    fn codes(text: &str) -> Vec<(String, String)> {
        let broken = one(text).expect_err("violations");
        broken.violations.iter().map(|violation| (violation.pointer.clone(), violation.code.to_string())).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect()
    }

    const SESSION: &str = "e2085be5-9137-4e4e-80b5-f1ffddc25423";

    #[test]
    fn a_sound_event_borrows_its_parts() {
        let event = one(&format!(
            r#"{{"session_id":"{SESSION}","category":"page interaction","name":"page\u0076iew","timestamp":"2021-01-01 09:15:27.243860","data":{{"host":"h", "n": 12345678901234567890.5}}}}"#
        ))
        .expect("sound");
        assert_eq!(&*event.name, "pageview");
        assert_eq!(&*event.data, r#"{"host":"h", "n": 12345678901234567890.5}"#);
        assert_eq!(event.timestamp_us, 1_609_492_527_243_860);
        assert_eq!(event.id.get_version_num(), 7);
    }

    #[test]
    fn all_violations_are_told_at_once() {
        assert_eq!(
            codes(
                r#"{"id":7,"session_id":"x","category":" a","name":"","timestamp":"yesterday","data":[],"who":1,"id":2}"#
            ),
            pairs(&[
                ("/id", "type"),
                ("/session_id", "uuid"),
                ("/category", "space"),
                ("/name", "length"),
                ("/timestamp", "timestamp"),
                ("/data", "type"),
                ("/who", "unknown_field"),
                ("/id", "duplicate_key"),
            ])
        );
        assert_eq!(codes("{}").len(), 5);
    }

    #[test]
    fn what_jsonb_cannot_hold_is_a_violation_with_its_place() {
        let text = format!(
            r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"2021-01-01T00:00:00Z","data":{{"a":"\u0000","b":["\ud800"],"c":1e131073,"d":1,"d":2}}}}"#
        );
        assert_eq!(
            codes(&text),
            pairs(&[
                ("/data/a", "nul"),
                ("/data/b/0", "surrogate"),
                ("/data/c", "number_range"),
                ("/data/d", "duplicate_key")
            ])
        );
    }

    #[test]
    fn the_future_begins_a_minute_ahead() {
        let at = |text: &str| {
            one(&format!(r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"{text}","data":{{}}}}"#))
        };
        assert!(at("2027-01-15T08:01:00Z").is_ok());
        assert_eq!(at("2027-01-15T08:01:00.000001Z").expect_err("future").violations[0].code, "future");
    }

    #[test]
    fn what_cannot_be_seen_is_in_no_category_and_no_name() {
        let with = |category: &str, name: &str| {
            let text = format!(
                r#"{{"session_id":"{SESSION}","category":"{category}","name":"{name}","timestamp":"2021-01-01T00:00:00Z","data":{{}}}}"#
            );
            one(&text).map_err(|broken| broken.violations[0].code.to_string()).map(|event| event.category.to_string())
        };
        for hidden in ["\u{202e}", "\u{200b}", "\u{feff}", "\u{ad}", "\u{2028}", "\u{85}", "\u{e000}", "\u{e0041}"] {
            let text = format!("sh{hidden}op");
            assert_eq!(with(&text, "sale"), Err("control_character".to_owned()), "{}", text.escape_unicode());
            assert_eq!(with("shop", &text), Err("control_character".to_owned()), "{}", text.escape_unicode());
        }
        assert_eq!(with(r"sh\u202eop", "sale"), Err("control_character".to_owned()), "however it is written");
        for seen in ["Käse", "сыр", "奶酪 2", "e\u{301}", "🧀"] {
            assert_eq!(with(seen, seen), Ok(seen.to_owned()));
        }
    }

    #[test]
    fn a_number_of_many_digits_is_a_violation_where_it_stands() {
        let text = format!(
            r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"2021-01-01T00:00:00Z","data":{{"a":1e1000,"b":[1e999,[-1e-1000]]}}}}"#
        );
        assert_eq!(codes(&text), pairs(&[("/data/a", "number_digits"), ("/data/b/1/0", "number_digits")]));
        assert!(check_data(r#"{"a":1e1000}"#, &RULES).is_err(), "a validator may not make one either");
    }

    #[test]
    fn no_lines_are_no_events() {
        for text in ["", "\n\n", " \r\n"] {
            let parsed = parse(&Bytes::copy_from_slice(text.as_bytes()), Format::Lines, &RULES, NOW);
            assert!(matches!(&parsed, Ok(Parsed::Many(elements)) if elements.is_empty()), "{parsed:?}");
        }
    }

    #[test]
    fn bodies_that_hold_no_events_say_why() {
        let unreadable =
            |text: &[u8]| parse(&Bytes::copy_from_slice(text), Format::Json, &RULES, NOW).expect_err("unreadable");
        assert_eq!(unreadable(b" \n"), Unreadable::Empty);
        assert!(matches!(unreadable(b"{\n  \"a\": nope}"), Unreadable::NotJson { line: 2, column: 8, .. }));
        assert!(matches!(unreadable(b"{\"a\":\"\xff\"}"), Unreadable::NotJson { line: 1, column: 7, .. }));
        assert_eq!(unreadable(b"[1,2,3,4]"), Unreadable::TooMany);
    }

    #[test]
    fn a_bad_line_is_one_rejected_event() {
        let body = Bytes::from(format!(
            "{{\"session_id\":\"{SESSION}\",\"category\":\"a\",\"name\":\"b\",\"timestamp\":\"2021-01-01T00:00:00Z\",\"data\":{{}}}}\r\n\n{{oops\n7\n"
        ));
        let Ok(Parsed::Many(elements)) = parse(&body, Format::Lines, &RULES, NOW) else { panic!("lines") };
        assert!(elements[0].is_ok());
        assert_eq!(elements[1].as_ref().expect_err("bad line").violations[0].code, "json");
        assert_eq!(elements[2].as_ref().expect_err("no object").violations[0].code, "type");
    }

    #[test]
    fn what_many_broken_events_are_told_is_bounded() {
        let unknown: Vec<String> = (0..200).map(|field| format!(r#""f{field}":1"#)).collect();
        let body = format!("[{}]", vec![format!("{{{}}}", unknown.join(",")); 3_000].join(","));
        let rules = Rules { events_max: 3_000, ..RULES };
        let Ok(Parsed::Many(elements)) = parse(&body.into(), Format::Json, &rules, NOW) else { panic!("an array") };
        let counts: Vec<usize> =
            elements.iter().map(|element| element.as_ref().expect_err("broken").violations.len()).collect();
        assert_eq!((counts[0], counts[2_999]), (VIOLATIONS_MAX, 1));
        let bytes: usize = elements
            .iter()
            .flat_map(|element| &element.as_ref().expect_err("broken").violations)
            .map(Violation::bytes)
            .sum();
        assert!(bytes < 2 * VIOLATIONS_BYTES_MAX, "{bytes}");
    }

    #[test]
    fn amended_data_is_an_object_that_jsonb_holds() {
        assert_eq!(check_data(r#"{"a":1}"#, &RULES), Ok(()));
        for bad in ["[1]", "nope", r#"{"a":"\u0000"}"#, "{} {}"] {
            assert!(check_data(bad, &RULES).is_err(), "{bad}");
        }
    }
}
