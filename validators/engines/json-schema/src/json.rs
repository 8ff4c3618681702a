//! JSON as the engine reads it: a tree that borrows from its text. Numbers stay as they are written, and each value
//! knows where it stands, so that a refusal can name the line.

use std::borrow::Cow;
use std::fmt;

/// Members of an object that are searched one by one. A larger object has an index.
const SEARCHED_MAX: usize = 8;

/// A value and the place of its first byte.
#[derive(Debug)]
pub(crate) struct Value<'t> {
    pub(crate) at: usize,
    pub(crate) kind: Kind<'t>,
}

#[derive(Debug)]
pub(crate) enum Kind<'t> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'t str),
    Text(Cow<'t, str>),
    List(Vec<Value<'t>>),
    Object(Object<'t>),
}

/// The members of an object, as they are written.
#[derive(Debug)]
pub(crate) struct Object<'t> {
    pub(crate) members: Vec<Member<'t>>,
    /// The members in the order of their keys; empty if there are few.
    index: Vec<u32>,
}

#[derive(Debug)]
pub(crate) struct Member<'t> {
    pub(crate) key: Cow<'t, str>,
    /// The place of the key.
    pub(crate) at: usize,
    pub(crate) value: Value<'t>,
}

/// What is wrong with a text, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) at: usize,
    pub(crate) why: String,
}

impl<'t> Object<'t> {
    fn new(members: Vec<Member<'t>>) -> Self {
        let mut index = Vec::new();
        if members.len() > SEARCHED_MAX {
            index.extend(0..u32::try_from(members.len()).unwrap_or(u32::MAX));
            index.sort_by(|one, other| members[*one as usize].key.cmp(&members[*other as usize].key));
        }
        Self { members, index }
    }

    /// The last member with this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'t>> {
        self.place(key).map(|place| &self.members[place].value)
    }

    /// The place of the last member with this key.
    pub(crate) fn place(&self, key: &str) -> Option<usize> {
        if self.index.is_empty() {
            return self.members.iter().rposition(|member| member.key == key);
        }
        let after = self.index.partition_point(|place| *self.members[*place as usize].key <= *key);
        let place = *self.index.get(after.checked_sub(1)?)? as usize;
        (self.members[place].key == key).then_some(place)
    }
}

impl<'t> Value<'t> {
    /// Reads a text, with at most `nesting_max` levels of lists and objects.
    pub(crate) fn parse(text: &'t str, nesting_max: usize) -> Result<Self, Malformed> {
        let mut reader = Reader { text, at: 0, room: nesting_max };
        reader.space();
        let value = reader.value()?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.wrong("there is more after the end of the value"));
        }
        Ok(value)
    }

    pub(crate) fn object(&self) -> Option<&Object<'t>> {
        match &self.kind {
            Kind::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(items) => Some(items),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What the value is, with its article.
    pub(crate) fn named(&self) -> &'static str {
        match self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "a string",
            Kind::List(_) => "a list",
            Kind::Object(_) => "an object",
        }
    }
}

/// Writes the value as JSON, its numbers as they came.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with(self, f, &mut |_, _| None)
    }
}

/// Writes a value as JSON, and the text that `instead` gives in place of a value.
pub(crate) fn write_with(
    value: &Value<'_>,
    out: &mut impl fmt::Write,
    instead: &mut impl FnMut(&Value<'_>, bool) -> Option<&'static str>,
) -> fmt::Result {
    if let Some(text) = instead(value, true) {
        return out.write_str(text);
    }
    match &value.kind {
        Kind::Null => out.write_str("null"),
        Kind::Bool(true) => out.write_str("true"),
        Kind::Bool(false) => out.write_str("false"),
        Kind::Number(text) => out.write_str(text),
        Kind::Text(text) => write_text(text, out),
        Kind::List(items) => {
            out.write_char('[')?;
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.write_char(',')?;
                }
                write_with(item, out, instead)?;
            }
            out.write_char(']')
        }
        Kind::Object(object) => {
            out.write_char('{')?;
            for (place, member) in object.members.iter().enumerate() {
                if place > 0 {
                    out.write_char(',')?;
                }
                write_text(&member.key, out)?;
                out.write_char(':')?;
                write_with(&member.value, out, instead)?;
            }
            out.write_char('}')
        }
    }
}

/// Writes a text as a JSON string.
pub(crate) fn write_text(text: &str, out: &mut impl fmt::Write) -> fmt::Result {
    out.write_char('"')?;
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte != b'"' && byte != b'\\' && byte >= b' ' {
            continue;
        }
        out.write_str(&text[from..at])?;
        from = at + 1;
        match byte {
            b'"' | b'\\' => {
                out.write_char('\\')?;
                out.write_char(char::from(byte))?;
            }
            _ => write!(out, "\\u{byte:04x}")?,
        }
    }
    out.write_str(&text[from..])?;
    out.write_char('"')
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// Levels of nesting that may still come.
    room: usize,
}

impl<'t> Reader<'t> {
    fn wrong(&self, why: &str) -> Malformed {
        Malformed { at: self.at, why: why.to_owned() }
    }

    fn next(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.next(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.next() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self) -> Result<Value<'t>, Malformed> {
        let at = self.at;
        let kind = match self.next() {
            Some(b'{') => self.object()?,
            Some(b'[') => self.list()?,
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Kind::Bool(true))?,
            Some(b'f') => self.word("false", Kind::Bool(false))?,
            Some(b'n') => self.word("null", Kind::Null)?,
            Some(_) => return Err(self.wrong("a value is expected here")),
            None => return Err(self.wrong("the text ends where a value is expected")),
        };
        Ok(Value { at, kind })
    }

    fn word(&mut self, word: &str, kind: Kind<'t>) -> Result<Kind<'t>, Malformed> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.wrong("a value is expected here"));
        }
        self.at += word.len();
        Ok(kind)
    }

    fn descend(&mut self) -> Result<(), Malformed> {
        self.room = self.room.checked_sub(1).ok_or_else(|| self.wrong("it is nested too deeply"))?;
        self.at += 1;
        self.space();
        Ok(())
    }

    fn list(&mut self) -> Result<Kind<'t>, Malformed> {
        self.descend()?;
        let mut items = Vec::new();
        if !self.take(b']') {
            loop {
                items.push(self.value()?);
                self.space();
                if self.take(b']') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.wrong("a `,` or `]` is expected here"));
                }
                self.space();
            }
        }
        self.room += 1;
        Ok(Kind::List(items))
    }

    fn object(&mut self) -> Result<Kind<'t>, Malformed> {
        self.descend()?;
        let mut members = Vec::new();
        if !self.take(b'}') {
            loop {
                let at = self.at;
                if self.next() != Some(b'"') {
                    return Err(self.wrong("a key in double quotes is expected here"));
                }
                let key = self.string()?;
                self.space();
                if !self.take(b':') {
                    return Err(self.wrong("a `:` is expected here"));
                }
                self.space();
                let value = self.value()?;
                members.push(Member { key, at, value });
                self.space();
                if self.take(b'}') {
                    break;
                }
                if !self.take(b',') {
                    return Err(self.wrong("a `,` or `}` is expected here"));
                }
                self.space();
            }
        }
        self.room += 1;
        Ok(Kind::Object(Object::new(members)))
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let from = self.at;
        while matches!(self.next(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == from { Err(self.wrong("a digit is expected here")) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Kind<'t>, Malformed> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Kind::Number(&self.text[from..self.at]))
    }

    fn string(&mut self) -> Result<Cow<'t, str>, Malformed> {
        self.at += 1;
        let mut from = self.at;
        let mut owned: Option<String> = None;
        loop {
            match self.next() {
                None => return Err(self.wrong("the text ends within a string")),
                Some(b'"') => {
                    let last = &self.text[from..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(last),
                        Some(text) => Cow::Owned(text + last),
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[from..self.at]);
                    let escaped = self.escape()?;
                    owned.get_or_insert_default().push(escaped);
                    from = self.at;
                }
                Some(..b' ') => return Err(self.wrong("a control character must be escaped in a string")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, Malformed> {
        self.at += 1;
        let byte = self.next().ok_or_else(|| self.wrong("the text ends within a string"))?;
        let escaped = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unit_pair(),
            _ => return Err(self.wrong("there is no such escape in JSON")),
        };
        self.at += 1;
        Ok(escaped)
    }

    /// A character of one or two units of UTF-16.
    fn unit_pair(&mut self) -> Result<char, Malformed> {
        let first = self.unit()?;
        let code = match first {
            0xd800..0xdc00 if self.text[self.at..].starts_with("\\u") => {
                self.at += 1;
                let second = self.unit()?;
                if !(0xdc00..0xe000).contains(&second) {
                    return Err(self.wrong("half of a pair of surrogates stands alone"));
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            _ => first,
        };
        char::from_u32(code).ok_or_else(|| self.wrong("half of a pair of surrogates stands alone"))
    }

    fn unit(&mut self) -> Result<u32, Malformed> {
        let digits = self.text.get(self.at + 1..self.at + 5);
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.wrong("four hexadecimal digits are expected here"))?;
        self.at += 5;
        Ok(unit)
    }
}

/// The line and the column of a place, each from 1. A column counts characters.
pub(crate) fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(at.min(text.len()))];
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_it_was_read() {
        for text in [
            "null",
            r#"{"a":[1,2.50,-0.0,1e400,12345678901234567890],"b":{"":"x\"y\\z"}}"#,
            r#"["\u0000","ä","\u001f"]"#,
        ] {
            assert_eq!(Value::parse(text, 8).expect("JSON").to_string(), text);
        }
        assert_eq!(Value::parse(r#" [ "\ud83d\ude00\/" ] "#, 8).expect("JSON").to_string(), "[\"\u{1f600}/\"]");
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        for (text, at) in [
            ("", 0),
            ("{", 1),
            ("{\"a\":1,}", 7),
            ("[1 2]", 3),
            ("01", 1),
            ("1.", 2),
            ("\"\n\"", 1),
            (r#""\ud800""#, 7),
            ("[[[[[]]]]]", 4),
            ("tru", 0),
        ] {
            assert_eq!(Value::parse(text, 4).expect_err(text).at, at, "{text}");
        }
        assert_eq!(line_and_column("{\n \"ä\": x", 9), (2, 7));
    }

    #[test]
    fn a_member_is_found_among_few_and_among_many() {
        for count in [3, 100] {
            let members: Vec<String> = (0..count).rev().map(|key| format!("\"k{key}\":{key}")).collect();
            let text = format!("{{{},\"k1\":\"last\"}}", members.join(","));
            let value = Value::parse(&text, 4).expect("JSON");
            let object = value.object().expect("an object");
            assert_eq!(object.get("k2").map(ToString::to_string).as_deref(), Some("2"));
            assert_eq!(object.get("k1").and_then(Value::text), Some("last"), "{count}");
            assert!(object.get("k").is_none() && object.get("z").is_none());
        }
    }
}
