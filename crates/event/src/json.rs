//! Reads JSON text: one linear pass over the bytes of an event, by a [`Cursor`].
//!
//! The scan decides exactly whether Postgres 15 (with a UTF-8 database) takes the text as `jsonb` without loss, and names
//! the reasons when it does not. It never recurses, so that no text can overflow a stack. It scans a value without flaws
//! without allocating, once the caller's [`Scratch`] has warmed up. The envelope decides about the fields of an event; the
//! text of a value is passed on as it came, never rewritten.
//!
//! This file holds the cursor and what it returns. `json/scan.rs` scans a whole value, `json/text.rs` reads the parts of the
//! text, and `json/number.rs` its numbers.

use std::borrow::Cow;

use self::scan::Scan;
use self::text::{ESCAPED, NUL, SURROGATE, byte_at, characters, expect, key_at, kind_at, skip_space, string_at};

mod number;
mod scan;
mod text;

pub use self::scan::Scratch;
pub use self::text::unescape;

/// Why a text is not JSON at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Position in bytes from the start of the text; its length when the text ends too early.
    pub offset: usize,
    /// What is wrong there; a part of a sentence, without position.
    pub message: &'static str,
}

impl SyntaxError {
    /// Line and column of the error for people, both from 1, the column in characters. Only a line feed ends a line.
    pub fn line_column(&self, text: &str) -> (usize, usize) {
        line_column(text, self.offset)
    }
}

/// Line and column of a byte offset in `text`, both from 1, the column in characters. An offset beyond the end means the end.
pub fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    // Every character has exactly one byte that does not continue another.
    let column = before[line_start..].iter().filter(|&&byte| byte & 0xC0 != 0x80).count() + 1;
    (line, column)
}

/// Why a value is not stored although it is JSON: jsonb cannot hold it without loss, or it exceeds one of the [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// RFC 6901 pointer from the scanned value. NUL and lone surrogates, which it cannot hold, are U+FFFD. One that was too
    /// long ends in `…`.
    pub pointer: String,
    /// One of `nul`, `surrogate`, `number_range`, `number_digits`, `duplicate_key`, `depth`, `size`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Bounds of a scanned value. Beyond them the scan only checks the syntax and tracks nothing, so that they bound its memory,
/// whatever the text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest text of the value, in bytes. A longer one has the flaw `size`, and the scan compares no keys beyond it.
    pub bytes_max: usize,
    /// Deepest nesting: a scalar has 0, `{}` and `[1]` have 1. A deeper one has one flaw `depth`, and the scan reports no flaw
    /// below that level.
    pub nesting_max: usize,
    /// Most bytes of all numbers with an exponent together, written in full, as Postgres does on every read: `1e131071` is 8
    /// bytes that become 131,072. Numbers without exponent do not grow and do not count.
    pub expanded_bytes_max: usize,
    /// Most digits of a number that is written without exponent, on both sides of the point together. Readers parse longer
    /// ones in more than linear time, or not at all.
    pub number_digits_max: usize,
    /// Most flaws that the scan reports; it drops further ones. 0 counts as 1, so that a flawed value never looks sound.
    pub flaws_max: usize,
}

/// The kinds of JSON values. The first byte of a value decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say all")]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    True,
    False,
    Null,
}

/// A complete value in the text.
#[derive(Debug)]
pub struct Value<'a> {
    /// Its text as it came, from the first byte to the last, quotes included.
    pub raw: &'a str,
    /// Its kind.
    pub kind: Kind,
    /// Whether a string has escapes; false for other kinds.
    pub escaped: bool,
    /// Why it cannot be stored; empty for a sound value.
    pub flaws: Vec<Flaw>,
}

impl<'a> Value<'a> {
    /// The characters of a string, borrowed if it has no escapes; nothing for other kinds.
    pub fn string(&self) -> Option<Cow<'a, str>> {
        (self.kind == Kind::String).then(|| characters(&self.raw[1..self.raw.len() - 1], self.escaped))
    }
}

/// The key of a member.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Its text between the quotes.
    pub raw: &'a str,
    /// Whether it has escapes.
    pub escaped: bool,
}

impl<'a> Key<'a> {
    /// The characters of the key, borrowed if it has no escapes.
    pub fn string(&self) -> Cow<'a, str> {
        characters(self.raw, self.escaped)
    }
}

/// A position in a text that is read from front to back.
///
/// A caller enters the containers it knows with [`enter_object`](Self::enter_object) and [`enter_array`](Self::enter_array),
/// and calls [`next_member`](Self::next_member) or [`next_element`](Self::next_element) until they report the end of the
/// container. After each other result it reads exactly one value, by [`scan_value`](Self::scan_value) or by entering it.
/// After an error the position has no meaning.
#[derive(Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// The cursor has just entered a container, so the next member or element has no comma before it.
    fresh: bool,
}

impl<'a> Cursor<'a> {
    /// At the start of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, fresh: false }
    }

    /// The position, in bytes from the start of the text.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Returns the kind of the next value, by its first byte, and moves the cursor before it.
    pub fn kind(&mut self) -> Result<Kind, SyntaxError> {
        self.at = skip_space(self.text.as_bytes(), self.at);
        kind_at(self.text.as_bytes(), self.at)
    }

    /// Steps into the next value, which must be an object.
    pub fn enter_object(&mut self) -> Result<(), SyntaxError> {
        self.enter(b'{', "expected an object")
    }

    /// Steps into the next value, which must be an array.
    pub fn enter_array(&mut self) -> Result<(), SyntaxError> {
        self.enter(b'[', "expected an array")
    }

    fn enter(&mut self, open: u8, message: &'static str) -> Result<(), SyntaxError> {
        self.at = expect(self.text.as_bytes(), self.at, open, message)?;
        self.fresh = true;
        Ok(())
    }

    /// Returns the key of the object's next member, and moves the cursor before its value; none if the object has ended.
    pub fn next_member(&mut self) -> Result<Option<Key<'a>>, SyntaxError> {
        if self.ended(b'}', "expected `,` or `}`")? {
            return Ok(None);
        }
        let (key, after) = key_at(self.text.as_bytes(), self.at)?;
        self.at = after;
        Ok(Some(Key { raw: &self.text[key.start..key.end], escaped: key.marks & ESCAPED != 0 }))
    }

    /// Returns whether the array has another element, and moves the cursor before it.
    pub fn next_element(&mut self) -> Result<bool, SyntaxError> {
        Ok(!self.ended(b']', "expected `,` or `]`")?)
    }

    /// Steps over the container's closing bracket, or over the comma that is due. Returns whether it was the bracket.
    fn ended(&mut self, close: u8, message: &'static str) -> Result<bool, SyntaxError> {
        let bytes = self.text.as_bytes();
        self.at = skip_space(bytes, self.at);
        let fresh = std::mem::take(&mut self.fresh);
        if byte_at(bytes, self.at) == close {
            self.at += 1;
            return Ok(true);
        }
        if !fresh {
            self.at = expect(bytes, self.at, b',', message)?;
        }
        self.at = skip_space(bytes, self.at);
        Ok(false)
    }

    /// Reads the next value as a whole, and steps over it.
    pub fn scan_value(&mut self, scratch: &mut Scratch, limits: &Limits) -> Result<Value<'a>, SyntaxError> {
        let kind = self.kind()?;
        let start = self.at;
        if kind == Kind::String {
            // Most members of an event are sound strings, which need nothing of the scan below.
            let body = string_at(self.text.as_bytes(), start)?;
            let end = body.end + 1;
            if body.marks & (NUL | SURROGATE) == 0 && end - start <= limits.bytes_max {
                (self.at, self.fresh) = (end, false);
                let escaped = body.marks != 0;
                return Ok(Value { raw: &self.text[start..end], kind, escaped, flaws: Vec::new() });
            }
        }
        let mut scan = Scan::new(self.text, start, scratch, limits);
        self.at = scan.value(start)?;
        self.fresh = false;
        scan.judge_length(self.at);
        let escaped = kind == Kind::String && scan.escaped;
        Ok(Value { raw: &self.text[start..self.at], kind, escaped, flaws: scan.flaws })
    }

    /// Returns an error unless only space is left.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        self.at = skip_space(self.text.as_bytes(), self.at);
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(SyntaxError { offset: self.at, message: "expected the end of the text" })
        }
    }
}

#[cfg(test)]
mod tests;
