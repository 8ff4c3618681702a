//! The parts of JSON text: spaces, literals, strings and their escapes. The functions take the bytes of the text and a
//! position, and return the position behind what they have read. They are the hot path of every event, so that most of
//! them are inlined.

use std::borrow::Cow;

use super::{Kind, SyntaxError};

/// Mark of a string that has escapes.
pub(super) const ESCAPED: u8 = 1;
/// Mark of a string that holds U+0000, which Postgres cannot store.
pub(super) const NUL: u8 = 2;
/// Mark of a string that holds half of a surrogate pair, which is no character.
pub(super) const SURROGATE: u8 = 4;

/// Returns the byte at a position, or 0 behind the end: no rule of JSON begins with 0.
#[inline]
pub(super) fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Steps over space.
#[inline]
pub(super) fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    // Mostly there is none, and one comparison is enough.
    while byte_at(bytes, at) <= b' ' && matches!(byte_at(bytes, at), b' ' | b'\t' | b'\n' | b'\r') {
        at += 1;
    }
    at
}

/// The error at a position, or that the text has ended.
#[cold]
pub(super) fn unexpected(bytes: &[u8], at: usize, message: &'static str) -> SyntaxError {
    let message = if at < bytes.len() { message } else { "unexpected end of the text" };
    SyntaxError { offset: at, message }
}

/// Steps over space and the given byte.
#[inline]
pub(super) fn expect(bytes: &[u8], at: usize, byte: u8, message: &'static str) -> Result<usize, SyntaxError> {
    let at = skip_space(bytes, at);
    if byte_at(bytes, at) == byte { Ok(at + 1) } else { Err(unexpected(bytes, at, message)) }
}

/// Returns the kind of the value at `at`, by its first byte.
pub(super) fn kind_at(bytes: &[u8], at: usize) -> Result<Kind, SyntaxError> {
    Ok(match byte_at(bytes, at) {
        b'{' => Kind::Object,
        b'[' => Kind::Array,
        b'"' => Kind::String,
        b'-' | b'0'..=b'9' => Kind::Number,
        b't' => Kind::True,
        b'f' => Kind::False,
        b'n' => Kind::Null,
        _ => return Err(unexpected(bytes, at, "expected a value")),
    })
}

/// Steps over a literal.
pub(super) fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, SyntaxError> {
    if bytes[at..].starts_with(word) {
        Ok(at + word.len())
    } else {
        Err(SyntaxError { offset: at, message: "expected a value" })
    }
}

/// The part of a string between its quotes.
#[derive(Clone, Copy)]
pub(super) struct Body {
    /// Position behind the opening quote.
    pub(super) start: usize,
    /// Position of the closing quote.
    pub(super) end: usize,
    /// [`ESCAPED`], [`NUL`] and [`SURROGATE`], as far as they were seen.
    pub(super) marks: u8,
}

/// Reads the key at `at`, and steps over its colon.
#[inline]
pub(super) fn key_at(bytes: &[u8], at: usize) -> Result<(Body, usize), SyntaxError> {
    if byte_at(bytes, at) != b'"' {
        return Err(unexpected(bytes, at, "expected a key in double quotes"));
    }
    let key = string_at(bytes, at)?;
    Ok((key, expect(bytes, key.end + 1, b':', "expected `:`")?))
}

/// Reads the string whose opening quote stands at `at`.
#[inline]
pub(super) fn string_at(bytes: &[u8], at: usize) -> Result<Body, SyntaxError> {
    let start = at + 1;
    let end = plain_end(bytes, start);
    if byte_at(bytes, end) == b'"' {
        return Ok(Body { start, end, marks: 0 });
    }
    escaped_string(bytes, start, end)
}

/// Goes on with a string at its first special byte, `at`, which is not the closing quote.
fn escaped_string(bytes: &[u8], start: usize, mut at: usize) -> Result<Body, SyntaxError> {
    let mut marks = 0;
    loop {
        match byte_at(bytes, at) {
            b'"' => return Ok(Body { start, end: at, marks }),
            b'\\' => {
                let (after, mark) = escape_at(bytes, at)?;
                marks |= ESCAPED | mark;
                at = plain_end(bytes, after);
            }
            _ => return Err(unexpected(bytes, at, "control characters in a string must be escaped")),
        }
    }
}

/// Returns the position of the first byte, from `at` on, that is not an ordinary one of a string: a quote, a backslash, a
/// control character, or the end of the text.
#[inline]
pub(super) fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < bytes.len() && !matches!(bytes[at], 0..=0x1F | b'"' | b'\\') {
        at += 1;
    }
    at
}

/// Sets the top bit of the first byte that is a quote, a backslash or a control character. Bytes above it may be marked
/// wrongly, because the subtractions borrow. Bytes below it never are, and a word without such a byte has no mark.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xFF;
    let quotes = word ^ (ONES * b'"' as u64);
    let backslashes = word ^ (ONES * b'\\' as u64);
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = quotes.wrapping_sub(ONES) & !quotes;
    let backslashes = backslashes.wrapping_sub(ONES) & !backslashes;
    (controls | quotes | backslashes) & (ONES << 7)
}

/// Steps over the escape at `at`, and marks a character that Postgres cannot store.
fn escape_at(bytes: &[u8], at: usize) -> Result<(usize, u8), SyntaxError> {
    match byte_at(bytes, at + 1) {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok((at + 2, 0)),
        b'u' => {
            let Some(unit) = hex_unit(bytes, at + 2) else {
                return Err(SyntaxError { offset: at, message: "expected four hexadecimal digits after `\\u`" });
            };
            Ok(match unit {
                0 => (at + 6, NUL),
                0xD800..=0xDFFF if low_of_pair(bytes, at, unit).is_some() => (at + 12, 0),
                0xD800..=0xDFFF => (at + 6, SURROGATE),
                _ => (at + 6, 0),
            })
        }
        _ => Err(SyntaxError { offset: at, message: "expected one of the escapes of JSON" }),
    }
}

/// Returns the second half of the surrogate pair whose first half, `high`, is escaped at `at`; none if they make no pair.
fn low_of_pair(bytes: &[u8], at: usize, high: u16) -> Option<u16> {
    let is_pair = (0xD800..0xDC00).contains(&high) && byte_at(bytes, at + 6) == b'\\' && byte_at(bytes, at + 7) == b'u';
    if !is_pair {
        return None;
    }
    hex_unit(bytes, at + 8).filter(|low| (0xDC00..0xE000).contains(low))
}

/// Returns the number that four hexadecimal digits write.
fn hex_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// The characters of a string of the text, borrowed if it has no escapes.
pub(super) fn characters(raw: &str, escaped: bool) -> Cow<'_, str> {
    if escaped { unescape(raw) } else { Cow::Borrowed(raw) }
}

/// Returns the characters that the raw text of a string, without its quotes, stands for; borrowed if it has no escapes.
///
/// A lone surrogate, which has no character, becomes U+FFFD, as does a malformed escape, which scanned text never has.
pub fn unescape(raw: &str) -> Cow<'_, str> {
    let Some(mut next) = raw.find('\\') else {
        return Cow::Borrowed(raw);
    };
    let mut characters = String::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        characters.push_str(&rest[..next]);
        rest = &rest[next..];
        let (character, len) = unescape_one(rest.as_bytes());
        characters.push(character);
        rest = rest.get(len..).unwrap_or_default();
        match rest.find('\\') {
            Some(at) => next = at,
            None => {
                characters.push_str(rest);
                return Cow::Owned(characters);
            }
        }
    }
}

/// Returns the character of the escape that `bytes` begin with, and its length in bytes.
fn unescape_one(bytes: &[u8]) -> (char, usize) {
    let character = match byte_at(bytes, 1) {
        byte @ (b'"' | b'\\' | b'/') => char::from(byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unicode(bytes),
        _ => return (char::REPLACEMENT_CHARACTER, 1),
    };
    (character, 2)
}

/// The same for an escape with hexadecimal digits, or a pair of these.
fn unescape_unicode(bytes: &[u8]) -> (char, usize) {
    let Some(high) = hex_unit(bytes, 2) else {
        return (char::REPLACEMENT_CHARACTER, 1);
    };
    if let Some(low) = low_of_pair(bytes, 0, high) {
        let point = 0x1_0000 + ((u32::from(high) - 0xD800) << 10) + (u32::from(low) - 0xDC00);
        return (char::from_u32(point).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
    }
    (char::from_u32(u32::from(high)).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}
