//! The scan of a whole value, which decides whether Postgres can store it. It notes the keys of open objects to find
//! duplicates and to write pointers, and only flaws allocate.

use std::hash::{BuildHasher, RandomState};

use super::number::{FRACTION_DIGITS_MAX, Number, WHOLE_DIGITS_MAX, number_at, plain};
use super::text::{Body, NUL, SURROGATE, byte_at, key_at, literal, skip_space, string_at, unescape, unexpected};
use super::{Flaw, Limits, SyntaxError};

/// The scan compares the keys of smaller objects pair by pair, which needs neither hashes nor a table. It hashes those of
/// larger ones, so that their cost stays linear.
const PAIRED_KEYS_MAX: usize = 16;

/// Longest pointer in a [`Flaw`], in bytes. A sender chooses the length of keys, and a pointer repeats all keys on its way.
pub(super) const POINTER_BYTES_MAX: usize = 1024;

/// Elements that each buffer of a [`Scratch`] may keep from one value to the next.
pub(super) const SCRATCH_KEPT_MAX: usize = 16 * 1024;

/// The scan's working memory. A caller keeps one for many values, so that sound ones cost no allocation. It carries nothing
/// from one value to the next.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The containers that are open, down to the nesting limit.
    frames: Vec<Frame>,
    /// The keys of all open objects, outermost first. Once its children are closed, the keys of an object are the tail.
    pub(super) keys: Vec<SeenKey>,
    /// The characters of keys that have escapes.
    decoded: String,
    /// The kinds of the open containers beyond the nesting limit, a bit each: the deepest nesting costs an eighth of a byte
    /// for each byte of text.
    pub(super) buried: Vec<u64>,
    /// Open-addressed table of key numbers, for the object whose keys are being compared. 0 is free.
    slots: Vec<usize>,
    /// Seeded at random, so that no sender can choose keys that collide.
    hasher: RandomState,
}

impl Scratch {
    /// An empty one. The first values grow it to the needs of the events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drops the last value, and frees memory beyond the needs of most values.
    pub fn clear(&mut self) {
        self.frames.clear();
        self.keys.clear();
        self.decoded.clear();
        self.buried.clear();
        self.slots.clear();
        // One huge event must not hold memory for the lifetime of its thread. Below the bound these calls do nothing.
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
    /// Index of its first key. For an array, of the first key within it.
    keys_start: usize,
    /// Index of the element being read, if it is an array. Pointers show it.
    index: usize,
    is_object: bool,
}

/// A key of an open object: a span of the text, or of the decoded keys if it has escapes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenKey {
    start: usize,
    end: usize,
    /// Distinguishes most keys without touching their bytes.
    fingerprint: u64,
    decoded: bool,
    /// Whether it is reported as a duplicate. A key that occurs many times is one flaw.
    told: bool,
}

impl SeenKey {
    fn bytes<'k>(&self, text: &'k str, decoded: &'k str) -> &'k [u8] {
        let source = if self.decoded { decoded } else { text };
        &source.as_bytes()[self.start..self.end]
    }
}

/// One value being read.
pub(super) struct Scan<'a, 's> {
    text: &'a str,
    /// Position of the first byte of the value.
    start: usize,
    scratch: &'s mut Scratch,
    limits: &'s Limits,
    /// Flaws found so far. The cursor returns them with the value.
    pub(super) flaws: Vec<Flaw>,
    /// Number of open containers.
    depth: usize,
    /// Whether the innermost of them is an object.
    in_object: bool,
    /// Whether the scan notes keys and flaws. It does not below the nesting limit, nor beyond the length limit.
    tracking: bool,
    /// Whether the value exceeds the nesting limit. The scan reports that once.
    too_deep: bool,
    /// Whether the value exceeds the length limit. That ends all tracking.
    too_long: bool,
    /// Bytes of the numbers with an exponent so far, written in full.
    expanded_bytes: usize,
    /// Whether the last string has escapes. The cursor reads it if the value is a string.
    pub(super) escaped: bool,
}

impl<'a, 's> Scan<'a, 's> {
    /// A scan of the value at `start`, before its first byte is read.
    pub(super) fn new(text: &'a str, start: usize, scratch: &'s mut Scratch, limits: &'s Limits) -> Self {
        scratch.clear();
        Self {
            text,
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
        }
    }

    /// Reads the value at `at` and returns the position behind it. A loop with its own stack, in place of recursion.
    pub(super) fn value(&mut self, mut at: usize) -> Result<usize, SyntaxError> {
        let bytes = self.text.as_bytes();
        loop {
            match byte_at(bytes, at) {
                b'"' => at = self.string(at)?,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                open @ (b'{' | b'[') => {
                    self.open(open == b'{');
                    at = skip_space(bytes, at + 1);
                    // The codes of the two brackets differ by two. The loop below closes an empty container like any other.
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

    /// Reads the key at `at` and returns the position of its value.
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
        // A number without exponent is out of range only if it is long, and is stored as it came.
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

    /// Opens a container below the nesting limit. The scan keeps only its kind.
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

    /// Closes a container below the nesting limit, and goes on in its parent.
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

    /// Notes a key of the innermost object, for pointers and for the search for duplicates.
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

    /// Searches the keys of the object that ends for duplicates. They are all keys from `keys_start` on.
    #[inline]
    fn judge_keys(&mut self, keys_start: usize) {
        let count = self.scratch.keys.len() - keys_start;
        if count > PAIRED_KEYS_MAX {
            return self.judge_many_keys(keys_start);
        }
        // One bit for each fingerprint. A key with a new bit has no duplicate before it.
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

    /// Compares a key with all keys before it.
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
            // A table index may truncate the hash.
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

    /// Reports the flaws of the last string, by its marks.
    #[cold]
    fn judge_marks(&mut self, marks: u8) {
        if marks & NUL != 0 {
            self.flaw("nul", None, || "contains the character U+0000, which cannot be stored".to_owned());
        }
        if marks & SURROGATE != 0 {
            self.flaw("surrogate", None, || "contains half of a surrogate pair, which is not a character".to_owned());
        }
    }

    /// Reports a number that numeric cannot hold, that has too many digits, or that grows too much.
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

    /// Reports a value that is too long. It ends at `end`.
    pub(super) fn judge_length(&mut self, end: usize) {
        let limits = self.limits;
        if end - self.start > limits.bytes_max && self.has_room() {
            let message = format!("is longer than {} bytes", limits.bytes_max);
            self.flaws.push(Flaw { pointer: String::new(), code: "size", message });
        }
    }

    fn has_room(&self) -> bool {
        self.flaws.len() < self.limits.flaws_max.max(1)
    }

    /// Reports a flaw of the value that is being read, or of a member of the object that has just ended.
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

    /// The pointer to the value that is being read, or to a member of the object that has just ended.
    fn pointer(&self, member: Option<Member>) -> String {
        let mut pointer = String::new();
        let frames = &self.scratch.frames;
        for (level, frame) in frames.iter().enumerate() {
            if !frame.is_object {
                push_token(&mut pointer, &frame.index.to_string());
                continue;
            }
            // The current key of an object is the last before the keys of the container within it.
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

/// A member of an object that has just ended, while its keys are still noted.
struct Member {
    keys_start: usize,
    key: usize,
}

/// Appends a reference token to a pointer, unless the pointer has become too long.
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

/// Mixes the length and up to 16 bytes of the key that spans `start..end`: its first 8 and its last 8. A sender can find keys
/// that collide, and then gains only that [`PAIRED_KEYS_MAX`] keys are compared with each other.
#[inline]
fn fingerprint(text: &[u8], start: usize, end: usize) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let len = end - start;
    let head = match text.get(start..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(head) => u64::from_le_bytes(*head),
        None => text[start..end].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let mixed = if len < 8 {
        // Bytes behind the key do not count.
        head & ((1 << (len * 8)) - 1)
    } else {
        let tail = text[..end].last_chunk::<8>().map_or(0, |tail| u64::from_le_bytes(*tail));
        head ^ tail.rotate_left(29)
    };
    let mixed = (mixed ^ len as u64).wrapping_mul(ODD);
    mixed ^ mixed >> 32
}
