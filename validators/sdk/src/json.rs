//! Reads and edits JSON text in place. Owns the grammar; promises that whatever is not edited keeps its exact text, so
//! that no number loses a digit and no key its place. Turning text into an author's types is left to `read`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Unexpected, Visitor};

/// The name by which [`Json`] asks the reader for the text of a value instead of its content.
pub(crate) const RAW: &str = "$eye_validator::Json";

/// The same for a number, so that what stands in for a wrong one is a number too, and reading goes on behind it.
pub(crate) const RAW_NUMBER: &str = "$eye_validator::Decimal";

/// Containers may be nested this deep. The gateway lets pass 64 by default.
const DEPTH_MAX: u32 = 128;

/// The text is not JSON, or is nested deeper than 128 containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The byte at which the text stops making sense.
    pub at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not JSON at byte {}", self.at)
    }
}

impl std::error::Error for Malformed {}

/// A place in JSON text, moving forward.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(crate) fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    /// Skips white space and returns the next byte, or 0 at the end (which is no byte of JSON).
    pub(crate) fn peek(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// Takes the next byte if it is this one.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { Err(self.malformed()) }
    }

    /// Succeeds if nothing but white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        self.peek();
        if self.at == self.text.len() { Ok(()) } else { Err(self.malformed()) }
    }

    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    fn since(&self, start: usize) -> Result<&'a str, Malformed> {
        self.text.get(start..self.at).ok_or(Malformed { at: start })
    }

    /// Takes a string and returns its text, with the quotes and escapes.
    pub(crate) fn string(&mut self) -> Result<&'a str, Malformed> {
        self.quoted().map(|(quoted, _)| quoted)
    }

    /// Takes a string and returns its content.
    pub(crate) fn content(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let (quoted, escaped) = self.quoted()?;
        Ok(if escaped { unescape(quoted) } else { Cow::Borrowed(inner(quoted)) })
    }

    /// Takes a string, and says whether anything in it is escaped.
    fn quoted(&mut self) -> Result<(&'a str, bool), Malformed> {
        self.peek();
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.at += plain_bytes(self.text.as_bytes().get(self.at..).unwrap_or_default());
            match self.byte() {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.malformed()),
            }
        }
        self.at += 1;
        Ok((self.since(start)?, escaped))
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        match self.byte() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_ascii_hexdigit() {
                        return Err(self.malformed());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    /// Takes a number and returns its text.
    pub(crate) fn number(&mut self) -> Result<&'a str, Malformed> {
        self.peek();
        let start = self.at;
        self.at += usize::from(self.byte() == b'-');
        if self.byte() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), b'+' | b'-'));
            self.digits()?;
        }
        self.since(start)
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(self.malformed()) }
    }

    /// Takes `true`, `false` or `null`.
    pub(crate) fn word(&mut self) -> Result<&'static str, Malformed> {
        self.peek();
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        for word in ["true", "false", "null"] {
            if rest.starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(word);
            }
        }
        Err(self.malformed())
    }

    /// Takes a key and its colon, and returns the key's text with the quotes.
    pub(crate) fn key(&mut self) -> Result<&'a str, Malformed> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Takes a key and its colon, and returns the key.
    pub(crate) fn key_content(&mut self) -> Result<Cow<'a, str>, Malformed> {
        let key = self.content()?;
        self.expect(b':')?;
        Ok(key)
    }

    /// Takes a value of any kind and returns its text.
    pub(crate) fn value(&mut self) -> Result<&'a str, Malformed> {
        let first = self.peek();
        let start = self.at;
        match first {
            b'{' | b'[' => self.walk(|_, _| Ok(false))?,
            _ => drop(self.scalar(first)?),
        }
        self.since(start)
    }

    /// Takes a value that holds no others, of which this is the first byte.
    fn scalar(&mut self, first: u8) -> Result<&'a str, Malformed> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.word(),
        }
    }

    /// Takes a value, calling `visit` in front of it and of each value within it, with the key for those that have one.
    /// A visitor that takes the value itself says `true`. Loops instead of recursing, so that depth costs no stack.
    fn walk(
        &mut self,
        mut visit: impl FnMut(&mut Self, Option<&'a str>) -> Result<bool, Malformed>,
    ) -> Result<(), Malformed> {
        let mut key = None;
        let mut depth = 0;
        // One bit for each open container, the innermost lowest: 1 is an object, 0 a list.
        let mut objects = 0u128;
        loop {
            let first = self.peek();
            if !visit(self, key)? {
                match first {
                    b'{' | b'[' => {
                        self.at += 1;
                        let object = first == b'{';
                        if !self.take(if object { b'}' } else { b']' }) {
                            depth += 1;
                            if depth > DEPTH_MAX {
                                return Err(self.malformed());
                            }
                            objects = objects << 1 | u128::from(object);
                            key = if object { Some(self.key()?) } else { None };
                            continue;
                        }
                    }
                    _ => drop(self.scalar(first)?),
                }
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let object = objects & 1 == 1;
                if self.take(b',') {
                    key = if object { Some(self.key()?) } else { None };
                    break;
                }
                self.expect(if object { b'}' } else { b']' })?;
                depth -= 1;
                objects >>= 1;
            }
        }
    }
}

/// How many bytes in front mean themselves within a string: all but quotes, backslashes and control characters. Most of an
/// event's data is such text, so eight bytes are looked at together.
fn plain_bytes(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    const TOP: u64 = EACH << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (place, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The top bit of each byte that is less than `bound`; a borrow can only reach bytes behind one that is.
        let below = |word: u64, bound: u8| word.wrapping_sub(EACH * u64::from(bound)) & !word & TOP;
        let equal = |byte: u8| below(word ^ (EACH * u64::from(byte)), 1);
        let special = equal(b'"') | equal(b'\\') | below(word, b' ');
        if special != 0 {
            return place * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}

/// The content of a JSON string, given its text with the quotes. Borrows unless something is escaped. A lone surrogate
/// becomes U+FFFD; the gateway lets none pass.
pub(crate) fn unescape(quoted: &str) -> Cow<'_, str> {
    let inner = inner(quoted);
    if !inner.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    let mut content = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some((before, after)) = rest.split_once('\\') {
        content.push_str(before);
        let mut chars = after.chars();
        let plain = match chars.next() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let mut unit = code_unit(after);
                chars = after.get(5..).unwrap_or_default().chars();
                if (0xD800..0xDC00).contains(&unit)
                    && let Some(second) = chars.as_str().strip_prefix('\\')
                    && (0xDC00..0xE000).contains(&code_unit(second))
                {
                    unit = 0x10000 + ((unit - 0xD800) << 10) + (code_unit(second) - 0xDC00);
                    chars = second.get(5..).unwrap_or_default().chars();
                }
                char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            Some(other) => other,
            None => break,
        };
        content.push(plain);
        rest = chars.as_str();
    }
    content.push_str(rest);
    Cow::Owned(content)
}

/// What stands between the quotes.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default()
}

/// The code unit of `uXXXX`, or 0 if the text does not begin like that.
fn code_unit(text: &str) -> u32 {
    text.strip_prefix('u')
        .and_then(|digits| digits.get(..4))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(0)
}

/// Writes `content` as a JSON string, with quotes.
fn quote(content: &str) -> String {
    let mut quoted = String::with_capacity(content.len() + 2);
    quoted.push('"');
    for char in content.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\0'..'\u{20}' => {
                quoted.push_str("\\u00");
                for nibble in [u32::from(char) >> 4, u32::from(char) & 15] {
                    quoted.push(char::from_digit(nibble, 16).unwrap_or('0'));
                }
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// One JSON value, held as its text, so that nothing of it is lost: a number keeps all its digits.
///
/// As a field of an author's type it takes whatever value is there. It is made from what Rust calls a `&str` (which
/// becomes a JSON string), a `bool`, an `i64` or a `u64`, an [`Object`], or by [`Json::parse`] from JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json<'a>(Cow<'a, str>);

impl<'a> Json<'a> {
    /// Takes the text of one JSON value.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the text is not one JSON value.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(text);
        let value = cursor.value()?;
        cursor.end()?;
        Ok(Self(Cow::Borrowed(value)))
    }

    /// The text of the value, as the sender wrote it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The content of the value if it is a string, else nothing.
    pub fn as_str(&self) -> Option<Cow<'_, str>> {
        self.0.starts_with('"').then(|| unescape(&self.0))
    }

    /// Replaces values anywhere within this one, in a single pass whose time grows with the length of the text alone.
    ///
    /// `replace` is asked about this value and about each value within it, outermost first, with the key for those
    /// that have one. An answer takes the place of the whole value; without one, the values within are asked about.
    /// Returns nothing if nothing was replaced.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the text turns out not to be JSON.
    pub fn rewrite(
        &self,
        mut replace: impl FnMut(Option<&str>, Part<'_>) -> Option<Json<'static>>,
    ) -> Result<Option<Json<'static>>, Malformed> {
        let text = self.text();
        let mut cursor = Cursor::new(text);
        let mut rewritten = String::new();
        let mut copied = 0;
        cursor.walk(|cursor, key| {
            let start = cursor.at;
            let part = match cursor.peek() {
                b'{' => Part::Object,
                b'[' => Part::List,
                b'"' => Part::Text(cursor.content()?),
                _ => Part::Other(cursor.value()?),
            };
            let container = matches!(part, Part::Object | Part::List);
            let Some(new) = replace(key.map(unescape).as_deref(), part) else {
                return Ok(!container);
            };
            rewritten.push_str(text.get(copied..start).unwrap_or_default());
            rewritten.push_str(new.text());
            if container {
                cursor.value()?;
            }
            copied = cursor.at;
            Ok(true)
        })?;
        if copied == 0 {
            return Ok(None);
        }
        rewritten.push_str(text.get(copied..).unwrap_or_default());
        Ok(Some(Json(Cow::Owned(rewritten))))
    }
}

/// What [`Json::rewrite`] asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// An object, whose members are asked about next.
    Object,
    /// A list, whose elements are asked about next.
    List,
    /// A string's content.
    Text(Cow<'a, str>),
    /// The text of a number, `true`, `false` or `null`.
    Other(&'a str),
}

impl From<&str> for Json<'static> {
    fn from(content: &str) -> Self {
        Self(Cow::Owned(quote(content)))
    }
}

impl From<bool> for Json<'static> {
    fn from(value: bool) -> Self {
        Self(Cow::Borrowed(if value { "true" } else { "false" }))
    }
}

impl From<i64> for Json<'static> {
    fn from(value: i64) -> Self {
        Self(Cow::Owned(value.to_string()))
    }
}

impl From<u64> for Json<'static> {
    fn from(value: u64) -> Self {
        Self(Cow::Owned(value.to_string()))
    }
}

impl From<&Object<'_>> for Json<'static> {
    fn from(object: &Object<'_>) -> Self {
        Self(Cow::Owned(object.to_text()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        raw_text(deserializer, RAW).map(|text| Self(Cow::Borrowed(text)))
    }
}

/// A JSON object that can be edited without loss: keys keep their order, and a value that is not set keeps its exact
/// text. `12345678901234567890.123456789` stays what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// Key with quotes, and value, both as JSON text.
    members: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Object<'a> {
    /// Takes the text of a JSON object.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the text is not one JSON object.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(text);
        let mut members = Vec::new();
        cursor.expect(b'{')?;
        if !cursor.take(b'}') {
            loop {
                let key = cursor.key()?;
                members.push((Cow::Borrowed(key), Cow::Borrowed(cursor.value()?)));
                if !cursor.take(b',') {
                    break;
                }
            }
            cursor.expect(b'}')?;
        }
        cursor.end()?;
        Ok(Self { members })
    }

    /// Copies the object, with other values in the places that `replace` names, as [`Json::rewrite`] does. Returns nothing if
    /// nothing was replaced.
    ///
    /// # Errors
    ///
    /// [`Malformed`] if the text turns out not to be JSON, or if the object itself was replaced by something else.
    pub fn rewrite(
        &self,
        replace: impl FnMut(Option<&str>, Part<'_>) -> Option<Json<'static>>,
    ) -> Result<Option<Object<'static>>, Malformed> {
        let Some(rewritten) = Json::from(self).rewrite(replace)? else { return Ok(None) };
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let members = Object::parse(rewritten.text())?.members;
        Ok(Some(Object { members: members.into_iter().map(|(key, value)| (owned(key), owned(value))).collect() }))
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the object is `{}`.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.members.iter().map(|(key, _)| unescape(key))
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Json<'_>> {
        let index = self.position(key)?;
        self.members.get(index).map(|(_, value)| Json(Cow::Borrowed(value)))
    }

    /// Gives a key a value: in its place if the key is there, else at the end.
    pub fn set(&mut self, key: &str, value: impl Into<Json<'a>>) {
        let value = value.into().0;
        match self.position(key).and_then(|index| self.members.get_mut(index)) {
            Some(member) => member.1 = value,
            None => self.members.push((Cow::Owned(quote(key)), value)),
        }
    }

    /// Takes a key away, and says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let position = self.position(key);
        if let Some(index) = position {
            self.members.remove(index);
        }
        position.is_some()
    }

    /// Puts `[redacted]` in place of the values at these pointers, whatever they are. In a pointer, `*` stands for any key
    /// or index: `/cards/*/number`. What is not there is passed over.
    pub fn redact(&mut self, pointers: &[&str]) {
        for pointer in pointers {
            let tokens: Vec<String> = pointer.split('/').skip(1).map(untoken).collect();
            self.redact_at(&tokens);
        }
    }

    /// Says whether anything was there.
    fn redact_at(&mut self, tokens: &[String]) -> bool {
        let Some((token, rest)) = tokens.split_first() else { return false };
        let mut any = false;
        for (key, value) in &mut self.members {
            if (token == "*" || unescape(key) == **token)
                && let Some(redacted) = redacted(value, rest)
            {
                *value = Cow::Owned(redacted);
                any = true;
            }
        }
        any
    }

    /// The object as JSON text.
    pub fn to_text(&self) -> String {
        let length = self.members.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>();
        let mut text = String::with_capacity(length + 2);
        text.push('{');
        for (index, (key, value)) in self.members.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(key);
            text.push(':');
            text.push_str(value);
        }
        text.push('}');
        text
    }

    fn position(&self, key: &str) -> Option<usize> {
        self.members.iter().position(|(quoted, _)| unescape(quoted) == key)
    }
}

/// A token of a pointer, without its escapes.
fn untoken(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

/// A value with what lies at a pointer within it replaced. `None` if nothing is there.
fn redacted(value: &str, tokens: &[String]) -> Option<String> {
    let Some((token, rest)) = tokens.split_first() else { return Some("\"[redacted]\"".to_owned()) };
    if value.starts_with('{') {
        let mut object = Object::parse(value).ok()?;
        return object.redact_at(tokens).then(|| object.to_text());
    }
    let mut cursor = Cursor::new(value);
    if !cursor.take(b'[') || cursor.peek() == b']' {
        return None;
    }
    let (mut text, mut index, mut any) = ("[".to_owned(), 0, false);
    loop {
        let element = cursor.value().ok()?;
        let is_meant = token == "*" || *token == index.to_string();
        let replaced = is_meant.then(|| redacted(element, rest)).flatten();
        any |= replaced.is_some();
        text.push_str(replaced.as_deref().unwrap_or(element));
        if !cursor.take(b',') {
            break;
        }
        text.push(',');
        index += 1;
    }
    text.push(']');
    any.then_some(text)
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = raw_text(deserializer, RAW)?;
        Self::parse(text).map_err(|_| D::Error::invalid_type(Unexpected::Other("something else"), &"an object"))
    }
}

pub(crate) fn raw_text<'de, D: Deserializer<'de>>(deserializer: D, name: &'static str) -> Result<&'de str, D::Error> {
    struct Text;
    impl<'de> Visitor<'de> for Text {
        type Value = &'de str;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value read by eye_validator")
        }
        fn visit_borrowed_str<E>(self, text: &'de str) -> Result<&'de str, E> {
            Ok(text)
        }
    }
    deserializer.deserialize_newtype_struct(name, Text)
}
