//! Reading JSON text: one linear pass over the bytes of an event, by a [`Cursor`].
//!
//! Promises to say exactly whether Postgres 15 (with a UTF-8 database) takes the text as `jsonb` without loss, to name the
//! reasons when it does not, and never to recurse, so that no text can overflow a stack. A value without flaws is scanned
//! without allocating, once the caller's [`Scratch`] has warmed up.
//! What the fields of an event mean is left to the envelope; the text of a value is handed on as it came, never rewritten.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

/// Objects with no more keys than this are searched for duplicates pair by pair, which needs neither hashes nor a table;
/// larger ones are hashed, so that their cost stays linear.
const PAIRED_KEYS_MAX: usize = 16;

/// Longest pointer in a [`Flaw`]. Keys are as long as the sender likes, and a flaw repeats all keys on the way to it.
const POINTER_BYTES_MAX: usize = 1024;

/// What a [`Scratch`] may keep from one value to the next, per buffer and in elements.
const SCRATCH_KEPT_MAX: usize = 16 * 1024;

/// Numeric's weight is 16 bits wide and counts groups of four digits: 4 * 2^15 digits before the point.
const WHOLE_DIGITS_MAX: i64 = 131_072;

/// Numeric's display scale is 14 bits wide: this many digits after the point, zeros included.
const FRACTION_DIGITS_MAX: i64 = 16_383;

/// Postgres refuses an exponent from `INT_MAX / 2` on before it looks at the digits, even those of zero.
const EXPONENT_BOUND: i64 = (i32::MAX / 2) as i64;

/// Why a text is not JSON at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Where, in bytes from the start of the text; its length when the text ends too early.
    pub offset: usize,
    /// What stands there, or should; a part of a sentence, without position.
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

/// Why a value, although JSON, is not stored: jsonb cannot hold it without loss, or it passes one of our [`Limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// RFC 6901 pointer from the scanned value. What cannot be written in it (NUL, lone surrogates) stands as U+FFFD; if it
    /// ends in `…` it was too long and was cut.
    pub pointer: String,
    /// One of `nul`, `surrogate`, `number_range`, `number_digits`, `duplicate_key`, `depth`, `size`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What a scanned value may cost. Beyond them the scan goes on for syntax alone and tracks nothing, so that memory stays
/// bounded by them, whatever the text.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest text of the value, in bytes. A longer one has the flaw `size`, and keys beyond are not searched for duplicates.
    pub bytes_max: usize,
    /// Deepest nesting: a scalar has 0, `{}` and `[1]` have 1. A deeper one has one flaw `depth`, and what is wrong below that
    /// level is not reported.
    pub nesting_max: usize,
    /// How many bytes all numbers with an exponent may take together when written in full, as Postgres does on every read:
    /// `1e131071` is 8 bytes that become 131,072. Numbers without exponent do not grow and do not count.
    pub expanded_bytes_max: usize,
    /// How many digits a number may have when it is written without exponent, on both sides of the point together. Readers
    /// take longer ones apart in more than linear time, or not at all.
    pub number_digits_max: usize,
    /// How many flaws are told; others are dropped. 0 is taken as 1, so that a flawed value never looks sound.
    pub flaws_max: usize,
}

/// The kinds of JSON values, as their first byte tells.
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
    /// What it is.
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
    /// What stands between the quotes.
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

fn characters(raw: &str, escaped: bool) -> Cow<'_, str> {
    if escaped { unescape(raw) } else { Cow::Borrowed(raw) }
}

/// The characters that a string's raw text, without its quotes, stands for; borrowed if it has no escapes.
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

/// The character of the escape that `bytes` begin with, and how many bytes it takes.
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

/// The scan's working memory. It belongs to the caller, who keeps one for many values: then sound ones
/// cost no allocation. It carries nothing from one value to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The containers that are open, down to the nesting limit.
    frames: Vec<Frame>,
    /// The keys of all open objects, outermost first; an object's own are a contiguous tail once its children are closed.
    keys: Vec<SeenKey>,
    /// The characters of keys that have escapes.
    decoded: String,
    /// The kinds of the open containers beyond the nesting limit, a bit each: an eighth of a byte per byte of text is all
    /// that the deepest nesting costs.
    buried: Vec<u64>,
    /// Open-addressed table of key numbers, for the object that is being searched for duplicates. 0 is free.
    slots: Vec<usize>,
    /// Seeded at random, so that nobody can choose keys that collide.
    hasher: RandomState,
}

impl Scratch {
    /// An empty one. The first values fill it to what the sender's events need.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the last value, and gives back what is more than most values need.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.keys.clear();
        self.decoded.clear();
        self.buried.clear();
        self.slots.clear();
        // One monstrous event must not hold memory for as long as its connection lives. Below the bound these do nothing.
        self.frames.shrink_to(SCRATCH_KEPT_MAX);
        self.keys.shrink_to(SCRATCH_KEPT_MAX);
        self.decoded.shrink_to(SCRATCH_KEPT_MAX);
        self.buried.shrink_to(SCRATCH_KEPT_MAX);
        self.slots.shrink_to(SCRATCH_KEPT_MAX);
    }
}

/// An open container.
#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Where its keys begin. For an array, where they would.
    keys_start: usize,
    /// Number of the element being read, if it is an array.
    index: usize,
    is_object: bool,
}

/// A key of an open object, as a span of the text, or of the decoded keys if it had escapes.
#[derive(Clone, Copy, Debug)]
struct SeenKey {
    start: usize,
    end: usize,
    /// Tells most keys apart without touching their bytes.
    fingerprint: u64,
    decoded: bool,
    /// Whether it was told to be repeated: however often a key is given, that is one flaw.
    told: bool,
}

impl SeenKey {
    fn bytes<'k>(&self, text: &'k str, decoded: &'k str) -> &'k [u8] {
        let source = if self.decoded { decoded } else { text };
        &source.as_bytes()[self.start..self.end]
    }
}

/// A position in a text that is read from front to back.
///
/// The caller enters the containers it knows with [`enter_object`](Self::enter_object) and [`enter_array`](Self::enter_array),
/// calls [`next_member`](Self::next_member) or [`next_element`](Self::next_element) until they say that the container has
/// ended, and reads (by [`scan_value`](Self::scan_value) or by entering it) exactly one value after each that did not.
/// After an error the position means nothing.
#[derive(Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Just entered a container: no comma is due before what comes next.
    fresh: bool,
}

impl<'a> Cursor<'a> {
    /// At the start of `text`.
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, fresh: false }
    }

    /// Where the cursor stands, in bytes from the start of the text.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The kind of the value that comes next, before which the cursor then stands. Only its first byte was looked at.
    pub fn kind(&mut self) -> Result<Kind, SyntaxError> {
        self.at = skip_space(self.text.as_bytes(), self.at);
        kind_at(self.text.as_bytes(), self.at)
    }

    /// Steps into the object that comes next.
    pub fn enter_object(&mut self) -> Result<(), SyntaxError> {
        self.enter(b'{', "expected an object")
    }

    /// Steps into the array that comes next.
    pub fn enter_array(&mut self) -> Result<(), SyntaxError> {
        self.enter(b'[', "expected an array")
    }

    fn enter(&mut self, open: u8, message: &'static str) -> Result<(), SyntaxError> {
        self.at = expect(self.text.as_bytes(), self.at, open, message)?;
        self.fresh = true;
        Ok(())
    }

    /// The key of the object's next member, before whose value the cursor then stands; nothing if the object has ended.
    pub fn next_member(&mut self) -> Result<Option<Key<'a>>, SyntaxError> {
        if self.ended(b'}', "expected `,` or `}`")? {
            return Ok(None);
        }
        let (key, after) = key_at(self.text.as_bytes(), self.at)?;
        self.at = after;
        Ok(Some(Key { raw: &self.text[key.start..key.end], escaped: key.marks & ESCAPED != 0 }))
    }

    /// Whether the array has another element, before which the cursor then stands.
    pub fn next_element(&mut self) -> Result<bool, SyntaxError> {
        Ok(!self.ended(b']', "expected `,` or `]`")?)
    }

    /// Steps over the container's closing bracket, or over the comma that is due, and says which.
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

    /// Reads the value that comes next as a whole, and steps over it.
    pub fn scan_value(&mut self, scratch: &mut Scratch, limits: &Limits) -> Result<Value<'a>, SyntaxError> {
        let kind = self.kind()?;
        let start = self.at;
        if kind == Kind::String {
            // Most members of an event are strings that nothing is wrong with, which takes none of what follows.
            let body = string_at(self.text.as_bytes(), start)?;
            let end = body.end + 1;
            if body.marks & (NUL | SURROGATE) == 0 && end - start <= limits.bytes_max {
                (self.at, self.fresh) = (end, false);
                let escaped = body.marks != 0;
                return Ok(Value { raw: &self.text[start..end], kind, escaped, flaws: Vec::new() });
            }
        }
        scratch.clear();
        let mut scan = Scan {
            text: self.text,
            start,
            scratch,
            limits,
            flaws: Vec::new(),
            depth: 0,
            in_object: false,
            tracking: true,
            too_deep: false,
            too_long: false,
            expanded_bytes: 0,
            escaped: false,
        };
        self.at = scan.value(start)?;
        self.fresh = false;
        scan.judge_length(self.at);
        let escaped = kind == Kind::String && scan.escaped;
        Ok(Value { raw: &self.text[start..self.at], kind, escaped, flaws: scan.flaws })
    }

    /// Makes sure that nothing but space is left.
    pub fn end(&mut self) -> Result<(), SyntaxError> {
        self.at = skip_space(self.text.as_bytes(), self.at);
        if self.at == self.text.len() {
            Ok(())
        } else {
            Err(SyntaxError { offset: self.at, message: "expected the end of the text" })
        }
    }
}

/// One value being read.
struct Scan<'a, 's> {
    text: &'a str,
    /// Where the value begins.
    start: usize,
    scratch: &'s mut Scratch,
    limits: &'s Limits,
    flaws: Vec<Flaw>,
    /// How many containers are open.
    depth: usize,
    /// Whether the innermost of them is an object.
    in_object: bool,
    /// Whether keys and flaws are noted: not below the nesting limit, and not beyond the length limit.
    tracking: bool,
    /// Whether the nesting limit was passed; told once.
    too_deep: bool,
    /// Whether the length limit was passed, which ends all tracking.
    too_long: bool,
    /// What the numbers with an exponent take so far when written in full.
    expanded_bytes: usize,
    /// Whether the string read last has escapes.
    escaped: bool,
}

impl Scan<'_, '_> {
    /// Reads the value at `at` and gives the position after it. A loop with a stack of its own in place of recursion.
    fn value(&mut self, mut at: usize) -> Result<usize, SyntaxError> {
        let bytes = self.text.as_bytes();
        loop {
            match byte_at(bytes, at) {
                b'"' => at = self.string(at)?,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                open @ (b'{' | b'[') => {
                    self.open(open == b'{');
                    at = skip_space(bytes, at + 1);
                    // The brackets' codes are two apart. An empty container is closed below, like any other.
                    if byte_at(bytes, at) != open + 2 {
                        if self.in_object {
                            at = self.key(at)?;
                        }
                        continue;
                    }
                }
                b't' => at = literal(bytes, at, b"true")?,
                b'f' => at = literal(bytes, at, b"false")?,
                b'n' => at = literal(bytes, at, b"null")?,
                _ => return Err(unexpected(bytes, at, "expected a value")),
            }
            loop {
                if self.depth == 0 {
                    return Ok(at);
                }
                at = skip_space(bytes, at);
                match byte_at(bytes, at) {
                    b',' => {
                        at = skip_space(bytes, at + 1);
                        break;
                    }
                    b'}' if self.in_object => self.close(),
                    b']' if !self.in_object => self.close(),
                    _ if self.in_object => return Err(unexpected(bytes, at, "expected `,` or `}`")),
                    _ => return Err(unexpected(bytes, at, "expected `,` or `]`")),
                }
                at += 1;
            }
            if self.in_object {
                at = self.key(at)?;
            } else if self.tracking {
                self.next_index();
            }
        }
    }

    /// Reads the key at `at` and gives the position of its value.
    #[inline]
    fn key(&mut self, at: usize) -> Result<usize, SyntaxError> {
        let (key, after) = key_at(self.text.as_bytes(), at)?;
        if self.tracking {
            self.note_key(key);
        }
        Ok(skip_space(self.text.as_bytes(), after))
    }

    #[inline]
    fn next_index(&mut self) {
        let array = self.scratch.frames.last_mut().expect("an array that is tracked has a frame");
        array.index += 1;
    }

    #[inline]
    fn string(&mut self, at: usize) -> Result<usize, SyntaxError> {
        let body = string_at(self.text.as_bytes(), at)?;
        self.escaped = body.marks != 0;
        if body.marks & (NUL | SURROGATE) != 0 {
            self.judge_marks(body.marks);
        }
        Ok(body.end + 1)
    }

    #[inline]
    fn number(&mut self, at: usize) -> Result<usize, SyntaxError> {
        let number = number_at(self.text.as_bytes(), at)?;
        // Without exponent, only length can put a number out of range, and it is written as it came.
        let plain_bytes_max = self.limits.number_digits_max.min(FRACTION_DIGITS_MAX as usize);
        if number.exponent || number.end - at > plain_bytes_max {
            self.judge_number(at, number);
        }
        Ok(number.end)
    }

    fn open(&mut self, is_object: bool) {
        if self.depth < self.limits.nesting_max {
            let keys_start = self.scratch.keys.len();
            self.scratch.frames.push(Frame { keys_start, index: 0, is_object });
        } else {
            self.open_untracked(is_object);
        }
        self.depth += 1;
        self.in_object = is_object;
    }

    /// Opens a container below the nesting limit: nothing but its kind is kept.
    #[cold]
    fn open_untracked(&mut self, is_object: bool) {
        let limits = self.limits;
        if !self.too_deep {
            self.flaw("depth", None, || format!("is nested deeper than {} levels", limits.nesting_max));
        }
        self.too_deep = true;
        self.tracking = false;
        let level = self.depth - limits.nesting_max;
        if level / 64 == self.scratch.buried.len() {
            self.scratch.buried.push(0);
        }
        let bit = 1 << (level % 64);
        let word = &mut self.scratch.buried[level / 64];
        *word = if is_object { *word | bit } else { *word & !bit };
    }

    fn close(&mut self) {
        self.depth -= 1;
        if self.depth >= self.limits.nesting_max {
            self.close_untracked();
            return;
        }
        let frame = self.scratch.frames.pop().expect("each level down to the nesting limit has a frame");
        if frame.is_object {
            if self.tracking {
                self.judge_keys(frame.keys_start);
            }
            self.scratch.keys.truncate(frame.keys_start);
        }
        self.in_object = self.scratch.frames.last().is_some_and(|parent| parent.is_object);
    }

    /// Goes on in the parent of a container below the nesting limit.
    #[cold]
    fn close_untracked(&mut self) {
        if self.depth == self.limits.nesting_max {
            self.in_object = self.scratch.frames.last().is_some_and(|parent| parent.is_object);
            self.tracking = !self.too_long;
        } else {
            let level = self.depth - self.limits.nesting_max - 1;
            self.in_object = self.scratch.buried[level / 64] >> (level % 64) & 1 == 1;
        }
    }

    /// Remembers a key of the innermost object, for its pointers and for the search for duplicates.
    #[inline]
    fn note_key(&mut self, key: Body) {
        let bytes = self.text.as_bytes();
        if key.end - self.start > self.limits.bytes_max {
            self.too_long = true;
            self.tracking = false;
            return;
        }
        if key.marks == 0 {
            let fingerprint = fingerprint(bytes, key.start, key.end);
            self.scratch.keys.push(SeenKey {
                start: key.start,
                end: key.end,
                fingerprint,
                decoded: false,
                told: false,
            });
        } else {
            self.note_escaped_key(key);
        }
    }

    #[cold]
    fn note_escaped_key(&mut self, key: Body) {
        let characters = unescape(&self.text[key.start..key.end]);
        let start = self.scratch.decoded.len();
        self.scratch.decoded.push_str(&characters);
        let end = self.scratch.decoded.len();
        let fingerprint = fingerprint(self.scratch.decoded.as_bytes(), start, end);
        self.scratch.keys.push(SeenKey { start, end, fingerprint, decoded: true, told: false });
        self.judge_marks(key.marks);
    }

    /// Searches the keys of the object that ends, which are all from `keys_start` on, for duplicates.
    #[inline]
    fn judge_keys(&mut self, keys_start: usize) {
        let count = self.scratch.keys.len() - keys_start;
        if count > PAIRED_KEYS_MAX {
            return self.judge_many_keys(keys_start);
        }
        // One bit for each fingerprint: a key whose bit is new has no duplicate before it.
        let mut seen = 0_u64;
        for later in keys_start..keys_start + count {
            let fingerprint = self.scratch.keys[later].fingerprint;
            let bit = 1 << (fingerprint % 64);
            if seen & bit != 0 {
                self.judge_pairs(keys_start, later);
            }
            seen |= bit;
        }
    }

    /// Compares a key with all before it.
    fn judge_pairs(&mut self, keys_start: usize, later: usize) {
        if let Some(earlier) = (keys_start..later).find(|&earlier| self.is_same_key(earlier, later)) {
            self.tell_duplicate(keys_start, earlier);
        }
    }

    fn judge_many_keys(&mut self, keys_start: usize) {
        let keys_end = self.scratch.keys.len();
        let slot_count = ((keys_end - keys_start) * 2).next_power_of_two();
        self.scratch.slots.clear();
        self.scratch.slots.resize(slot_count, 0);
        for later in keys_start..keys_end {
            let bytes = self.key_bytes(later);
            // Truncation is what a table index is.
            let mut slot = self.scratch.hasher.hash_one(bytes) as usize % slot_count;
            loop {
                match self.scratch.slots[slot] {
                    0 => {
                        self.scratch.slots[slot] = later + 1;
                        break;
                    }
                    earlier if self.is_same_key(earlier - 1, later) => {
                        self.tell_duplicate(keys_start, earlier - 1);
                        break;
                    }
                    _ => slot = (slot + 1) % slot_count,
                }
            }
        }
    }

    fn key_bytes(&self, key: usize) -> &[u8] {
        self.scratch.keys[key].bytes(self.text, &self.scratch.decoded)
    }

    fn is_same_key(&self, one: usize, other: usize) -> bool {
        self.scratch.keys[one].fingerprint == self.scratch.keys[other].fingerprint
            && self.key_bytes(one) == self.key_bytes(other)
    }

    #[cold]
    fn tell_duplicate(&mut self, keys_start: usize, key: usize) {
        if std::mem::replace(&mut self.scratch.keys[key].told, true) {
            return;
        }
        let member = Member { keys_start, key };
        self.flaw("duplicate_key", Some(member), || "is given twice in one object".to_owned());
    }

    /// Tells what is wrong in the string that was read last, by its marks.
    #[cold]
    fn judge_marks(&mut self, marks: u8) {
        if marks & NUL != 0 {
            self.flaw("nul", None, || "contains the character U+0000, which cannot be stored".to_owned());
        }
        if marks & SURROGATE != 0 {
            self.flaw("surrogate", None, || "contains half of a surrogate pair, which is not a character".to_owned());
        }
    }

    /// Whether numeric can hold a number, and how much it grows.
    fn judge_number(&mut self, at: usize, number: Number) {
        if !self.tracking {
            return;
        }
        let Some(plain) = plain(&self.text.as_bytes()[at..number.end]) else {
            return self.flaw("number_range", None, || {
                format!("has more than {WHOLE_DIGITS_MAX} digits before or {FRACTION_DIGITS_MAX} after the point")
            });
        };
        let digits_max = self.limits.number_digits_max;
        if plain.digits > digits_max {
            return self.flaw("number_digits", None, || {
                format!(
                    "has {} digits when it is written without exponent; at most {digits_max} are taken",
                    plain.digits
                )
            });
        }
        if !number.exponent {
            return;
        }
        let expanded_bytes_max = self.limits.expanded_bytes_max;
        let was_within = self.expanded_bytes <= expanded_bytes_max;
        self.expanded_bytes = self.expanded_bytes.saturating_add(plain.bytes);
        if was_within && self.expanded_bytes > expanded_bytes_max {
            self.flaw("size", None, || {
                format!(
                    "with the numbers before it, written without exponent, takes more than {expanded_bytes_max} bytes"
                )
            });
        }
    }

    /// Judges the length of the value, which ends at `end`.
    fn judge_length(&mut self, end: usize) {
        let limits = self.limits;
        if end - self.start > limits.bytes_max && self.has_room() {
            let message = format!("is longer than {} bytes", limits.bytes_max);
            self.flaws.push(Flaw { pointer: String::new(), code: "size", message });
        }
    }

    fn has_room(&self) -> bool {
        self.flaws.len() < self.limits.flaws_max.max(1)
    }

    /// Notes a flaw of the value that is being read, or of a member of the object that has just ended.
    #[cold]
    fn flaw(&mut self, code: &'static str, member: Option<Member>, message: impl FnOnce() -> String) {
        if !self.tracking || !self.has_room() {
            return;
        }
        let pointer = self.pointer(member);
        // A key and its value may be wrong in the same way.
        if !self.flaws.iter().any(|flaw| flaw.code == code && flaw.pointer == pointer) {
            self.flaws.push(Flaw { pointer, code, message: message() });
        }
    }

    /// The way to the value that is being read, or to a member of the object that has just ended.
    fn pointer(&self, member: Option<Member>) -> String {
        let mut pointer = String::new();
        let frames = &self.scratch.frames;
        for (level, frame) in frames.iter().enumerate() {
            if !frame.is_object {
                push_token(&mut pointer, &frame.index.to_string());
                continue;
            }
            // An object's latest key is the last before those of the container within it.
            let keys_end = match (frames.get(level + 1), &member) {
                (Some(inner), _) => inner.keys_start,
                (None, Some(member)) => member.keys_start,
                (None, None) => self.scratch.keys.len(),
            };
            push_token(&mut pointer, self.key_text(keys_end - 1));
        }
        if let Some(member) = member {
            push_token(&mut pointer, self.key_text(member.key));
        }
        pointer
    }

    fn key_text(&self, key: usize) -> &str {
        let SeenKey { start, end, decoded, .. } = self.scratch.keys[key];
        if decoded { &self.scratch.decoded[start..end] } else { &self.text[start..end] }
    }
}

/// A member of an object that has just ended, whose keys are still there.
struct Member {
    keys_start: usize,
    key: usize,
}

/// Appends a reference token to a pointer, unless that has become too long.
fn push_token(pointer: &mut String, token: &str) {
    const CUT: char = '…';
    if pointer.ends_with(CUT) && pointer.len() >= POINTER_BYTES_MAX {
        return;
    }
    pointer.push('/');
    for character in token.chars() {
        match character {
            _ if pointer.len() >= POINTER_BYTES_MAX => return pointer.push(CUT),
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            '\0' => pointer.push(char::REPLACEMENT_CHARACTER),
            other => pointer.push(other),
        }
    }
}

/// Mixes the length and up to 16 bytes of the key that spans `start..end`: its first 8 and its last 8. Not proof against a sender
/// who looks for keys that collide, who gains no more than [`PAIRED_KEYS_MAX`] compared with each other.
#[inline]
fn fingerprint(text: &[u8], start: usize, end: usize) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let len = end - start;
    let head = match text.get(start..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(head) => u64::from_le_bytes(*head),
        None => text[start..end].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let mixed = if len < 8 {
        // What stands behind the key does not count.
        head & ((1 << (len * 8)) - 1)
    } else {
        let tail = text[..end].last_chunk::<8>().map_or(0, |tail| u64::from_le_bytes(*tail));
        head ^ tail.rotate_left(29)
    };
    let mixed = (mixed ^ len as u64).wrapping_mul(ODD);
    mixed ^ mixed >> 32
}

/// The byte at a position, or 0 behind the end: no rule of JSON begins with 0.
#[inline]
fn byte_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

#[inline]
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    // Most often there is none, which one comparison tells.
    while byte_at(bytes, at) <= b' ' && matches!(byte_at(bytes, at), b' ' | b'\t' | b'\n' | b'\r') {
        at += 1;
    }
    at
}

#[cold]
fn unexpected(bytes: &[u8], at: usize, message: &'static str) -> SyntaxError {
    let message = if at < bytes.len() { message } else { "unexpected end of the text" };
    SyntaxError { offset: at, message }
}

/// Steps over space and the given byte.
#[inline]
fn expect(bytes: &[u8], at: usize, byte: u8, message: &'static str) -> Result<usize, SyntaxError> {
    let at = skip_space(bytes, at);
    if byte_at(bytes, at) == byte { Ok(at + 1) } else { Err(unexpected(bytes, at, message)) }
}

fn kind_at(bytes: &[u8], at: usize) -> Result<Kind, SyntaxError> {
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

fn literal(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, SyntaxError> {
    if bytes[at..].starts_with(word) {
        Ok(at + word.len())
    } else {
        Err(SyntaxError { offset: at, message: "expected a value" })
    }
}

/// What stands between the quotes of a string.
#[derive(Clone, Copy)]
struct Body {
    start: usize,
    /// Where the closing quote stands.
    end: usize,
    /// What was seen on the way.
    marks: u8,
}

const ESCAPED: u8 = 1;
const NUL: u8 = 2;
const SURROGATE: u8 = 4;

/// The key at `at`, and the position behind its colon.
#[inline]
fn key_at(bytes: &[u8], at: usize) -> Result<(Body, usize), SyntaxError> {
    if byte_at(bytes, at) != b'"' {
        return Err(unexpected(bytes, at, "expected a key in double quotes"));
    }
    let key = string_at(bytes, at)?;
    Ok((key, expect(bytes, key.end + 1, b':', "expected `:`")?))
}

/// The string whose opening quote stands at `at`.
#[inline]
fn string_at(bytes: &[u8], at: usize) -> Result<Body, SyntaxError> {
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

/// Where the first byte stands, from `at` on, that is not an ordinary one of a string: a quote, a backslash, a control
/// character, or the end of the text.
#[inline]
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
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

/// Has the top bit of the first byte set that is a quote, a backslash or a control character. Bytes above it may be marked
/// wrongly, because the subtractions borrow, but none below it, and none at all if there is no such byte.
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

/// Steps over the escape at `at`, and marks what it stands for if that cannot be stored.
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

/// The second half of the surrogate pair whose first half, `high`, is escaped at `at`; nothing if they do not make a pair.
fn low_of_pair(bytes: &[u8], at: usize, high: u16) -> Option<u16> {
    let is_pair = (0xD800..0xDC00).contains(&high) && byte_at(bytes, at + 6) == b'\\' && byte_at(bytes, at + 7) == b'u';
    if !is_pair {
        return None;
    }
    hex_unit(bytes, at + 8).filter(|low| (0xDC00..0xE000).contains(low))
}

/// The number that four hexadecimal digits write.
fn hex_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// Where a number ends, and whether it has an exponent.
#[derive(Clone, Copy)]
struct Number {
    end: usize,
    exponent: bool,
}

/// The number that begins, with a sign or a digit, at `at`.
#[inline]
fn number_at(bytes: &[u8], mut at: usize) -> Result<Number, SyntaxError> {
    if byte_at(bytes, at) == b'-' {
        at += 1;
    }
    // A number has no leading zeros: what follows a first 0 belongs to the number no more, and is in the way then.
    at = if byte_at(bytes, at) == b'0' { at + 1 } else { digits_end(bytes, at)? };
    if byte_at(bytes, at) == b'.' {
        at = digits_end(bytes, at + 1)?;
    }
    let exponent = matches!(byte_at(bytes, at), b'e' | b'E');
    if exponent {
        at += 1;
        if matches!(byte_at(bytes, at), b'+' | b'-') {
            at += 1;
        }
        at = digits_end(bytes, at)?;
    }
    Ok(Number { end: at, exponent })
}

/// Where the digits, of which there must be one, end.
#[inline]
fn digits_end(bytes: &[u8], mut at: usize) -> Result<usize, SyntaxError> {
    if !byte_at(bytes, at).is_ascii_digit() {
        return Err(unexpected(bytes, at, "expected a digit"));
    }
    while byte_at(bytes, at).is_ascii_digit() {
        at += 1;
    }
    Ok(at)
}

/// A number as Postgres writes its numeric values, without exponent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plain {
    /// What it takes, with its sign and its point.
    bytes: usize,
    digits: usize,
}

impl Plain {
    fn new(is_negative: bool, whole_digits: i64, fraction_digits: i64) -> Option<Self> {
        let digits = usize::try_from(whole_digits + fraction_digits).ok()?;
        Some(Self { bytes: digits + usize::from(is_negative) + usize::from(fraction_digits > 0), digits })
    }
}

/// How a number is written without exponent; nothing if numeric cannot hold it.
fn plain(number: &[u8]) -> Option<Plain> {
    let mantissa_end = number.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(number.len());
    let exponent = exponent(number.get(mantissa_end + 1..).unwrap_or_default());
    if exponent.abs() >= EXPONENT_BOUND {
        return None;
    }
    let is_negative = number[0] == b'-';
    let mantissa = &number[usize::from(is_negative)..mantissa_end];
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    // Zeros at the end of the fraction count: numeric keeps them.
    let fraction_digits = (mantissa.len().saturating_sub(point + 1) as i64 - exponent).max(0);
    if fraction_digits > FRACTION_DIGITS_MAX {
        return None;
    }
    // Zeros in front do not count, and a number of zeros alone is not even negative.
    let Some(first) = mantissa.iter().position(|byte| matches!(byte, b'1'..=b'9')) else {
        return Plain::new(false, 1, fraction_digits);
    };
    // How many digits stand before the point from the first that is not zero on; negative by the zeros behind the point.
    let whole_digits = point.saturating_sub(first) as i64 - first.saturating_sub(point + 1) as i64 + exponent;
    if whole_digits > WHOLE_DIGITS_MAX {
        return None;
    }
    Plain::new(is_negative, whole_digits.max(1), fraction_digits)
}

/// The exponent that these digits, with or without a sign, write. Beyond 64 bits it stays at the end of that range.
fn exponent(digits: &[u8]) -> i64 {
    let unsigned = digits.strip_prefix(b"+").unwrap_or(digits);
    let (is_negative, unsigned) = match unsigned.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, unsigned),
    };
    let magnitude =
        unsigned.iter().fold(0_i64, |sum, &digit| sum.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    if is_negative { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests;
