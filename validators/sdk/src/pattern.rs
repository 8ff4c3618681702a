//! A small language of patterns for whole texts. A pattern is compiled while the validator is, so that a wrong one does
//! not build; and matching takes time in proportion to the length of the text, whatever the sender wrote.

use std::fmt;

/// Steps of a compiled pattern. Each is a bit of a set.
const STEPS_MAX: usize = 128;

/// Ranges of characters in all classes of a pattern.
const RANGES_MAX: usize = 64;

/// A pattern that whole texts match or do not.
///
/// | written | matches |
/// |---|---|
/// | `a`, `\.` | that character |
/// | `.` | any character |
/// | `[A-Z0-9_]`, `[^,]` | one of these, one of all others |
/// | `\d` `\w` `\s`, `\D` `\W` `\S` | an ASCII digit, a letter or digit or `_`, a space; any other |
/// | `ab`, `a\|b`, `(ab)` | one after the other, either, a group |
/// | `a?` `a*` `a+` `a{3}` `a{2,}` `a{2,5}` | repeated |
///
/// `^` at the start and `$` at the end change nothing. There is nothing else: no looking ahead, no references.
///
/// ```
/// use eye_validator::Pattern;
///
/// const SKU: Pattern = Pattern::new("[A-Z]{3}-\\d+");
/// assert!(SKU.matches("ABC-42") && !SKU.matches("ABC-42 "));
/// ```
#[derive(Clone, Copy)]
pub struct Pattern {
    text: &'static str,
    steps: [Step; STEPS_MAX],
    count: usize,
    ranges: [(u32, u32); RANGES_MAX],
    range_count: usize,
}

#[derive(Clone, Copy)]
enum Step {
    Character(u32),
    Any,
    /// Ranges from, to; and whether all others are meant.
    Class(u8, u8, bool),
    /// Goes on at either, counted from here.
    Split(i16, i16),
    Jump(i16),
    End,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Panics
    ///
    /// If it is wrong, or has too many steps. In a constant, that stops the build.
    pub const fn new(text: &'static str) -> Self {
        let mut compiler = Compiler {
            source: text.as_bytes(),
            at: 0,
            pattern: Self {
                text,
                steps: [Step::End; STEPS_MAX],
                count: 0,
                ranges: [(0, 0); RANGES_MAX],
                range_count: 0,
            },
        };
        if compiler.peek() == b'^' {
            compiler.at += 1;
        }
        compiler.either();
        if compiler.peek() == b'$' {
            compiler.at += 1;
        }
        assert!(compiler.at == text.len(), "this pattern has a `)`, `$` or `^` that does not fit");
        compiler.push(Step::End);
        compiler.pattern
    }

    /// Its text.
    pub const fn text(&self) -> &'static str {
        self.text
    }

    /// Whether the whole of a text matches.
    pub fn matches(&self, text: &str) -> bool {
        let mut states = self.reached(0, 0);
        for character in text.chars() {
            let (mut left, mut next) = (states, 0);
            while left != 0 {
                let step = left.trailing_zeros() as usize;
                left &= left - 1;
                if self.takes(self.steps[step], u32::from(character)) {
                    next = self.reached(next, step + 1);
                }
            }
            if next == 0 {
                return false;
            }
            states = next;
        }
        states & (1 << (self.count - 1)) != 0
    }

    fn takes(&self, step: Step, character: u32) -> bool {
        match step {
            Step::Character(this) => this == character,
            Step::Any => true,
            Step::Class(from, to, others) => {
                let ranges = &self.ranges[usize::from(from)..usize::from(to)];
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != others
            }
            Step::Split(..) | Step::Jump(_) | Step::End => false,
        }
    }

    /// Adds to a set of steps all that is reached from a step without a character.
    fn reached(&self, mut set: u128, step: usize) -> u128 {
        let mut waiting = 1u128 << step;
        while waiting != 0 {
            let step = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            if set & (1 << step) != 0 {
                continue;
            }
            set |= 1 << step;
            let to = |offset: i16| 1u128 << step.wrapping_add_signed(isize::from(offset));
            match self.steps[step] {
                Step::Split(one, other) => waiting |= to(one) | to(other),
                Step::Jump(there) => waiting |= to(there),
                _ => {}
            }
        }
        set
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

struct Compiler {
    source: &'static [u8],
    at: usize,
    pattern: Pattern,
}

impl Compiler {
    const fn peek(&self) -> u8 {
        if self.at < self.source.len() { self.source[self.at] } else { 0 }
    }

    const fn push(&mut self, step: Step) {
        assert!(self.pattern.count < STEPS_MAX, "this pattern is too long; counted repetitions are written out");
        self.pattern.steps[self.pattern.count] = step;
        self.pattern.count += 1;
    }

    /// Puts a step in front of those from `at` on. Their jumps stay right, since all of them end among them.
    const fn insert(&mut self, at: usize, step: Step) {
        self.push(Step::End);
        let mut moved = self.pattern.count - 1;
        while moved > at {
            self.pattern.steps[moved] = self.pattern.steps[moved - 1];
            moved -= 1;
        }
        self.pattern.steps[at] = step;
    }

    const fn either(&mut self) {
        let start = self.pattern.count;
        self.sequence();
        if self.peek() != b'|' {
            return;
        }
        self.at += 1;
        let length = self.pattern.count - start;
        self.insert(start, Step::Split(1, offset(length + 2)));
        let jump = self.pattern.count;
        self.push(Step::Jump(0));
        self.either();
        self.pattern.steps[jump] = Step::Jump(offset(self.pattern.count - jump));
    }

    const fn sequence(&mut self) {
        while self.at < self.source.len() {
            match self.peek() {
                b'|' | b')' => return,
                b'$' if self.at + 1 == self.source.len() => return,
                _ => self.repeated(),
            }
        }
    }

    const fn repeated(&mut self) {
        let start = self.pattern.count;
        self.atom();
        match self.peek() {
            b'*' => self.repeat(start, 0, usize::MAX),
            b'+' => self.repeat(start, 1, usize::MAX),
            b'?' => self.repeat(start, 0, 1),
            b'{' => {
                self.at += 1;
                let least = self.number();
                let mut most = least;
                if self.peek() == b',' {
                    self.at += 1;
                    most = if self.peek() == b'}' { usize::MAX } else { self.number() };
                }
                assert!(self.peek() == b'}' && least <= most, "a repetition is written {{3}}, {{2,}} or {{2,5}}");
                self.repeat(start, least, most);
            }
            _ => return,
        }
        assert!(!matches!(self.peek(), b'*' | b'+' | b'?' | b'{'), "a repetition is not repeated; use a group");
    }

    const fn number(&mut self) -> usize {
        let (mut number, start) = (0, self.at);
        while self.peek().is_ascii_digit() {
            number = number * 10 + (self.peek() - b'0') as usize;
            assert!(number <= STEPS_MAX, "a repetition is counted too high");
            self.at += 1;
        }
        assert!(self.at > start, "a repetition is written {{3}}, {{2,}} or {{2,5}}");
        number
    }

    /// Repeats the steps from `start` on, and passes over the sign that says so.
    const fn repeat(&mut self, start: usize, least: usize, most: usize) {
        self.at += 1;
        let (once, length) = (self.pattern.steps, self.pattern.count - start);
        self.pattern.count = start;
        let mut copies = 0;
        while copies < least {
            self.copy(&once, start, length);
            copies += 1;
        }
        if most == usize::MAX {
            self.push(Step::Split(1, offset(length + 2)));
            self.copy(&once, start, length);
            self.push(Step::Jump(-offset(length + 1)));
            return;
        }
        while copies < most {
            self.push(Step::Split(1, offset(length + 1)));
            self.copy(&once, start, length);
            copies += 1;
        }
    }

    const fn copy(&mut self, steps: &[Step; STEPS_MAX], start: usize, length: usize) {
        let mut copied = 0;
        while copied < length {
            self.push(steps[start + copied]);
            copied += 1;
        }
    }

    const fn atom(&mut self) {
        match self.peek() {
            b'(' => {
                self.at += 1;
                if self.peek() == b'?' {
                    assert!(
                        self.at + 1 < self.source.len() && self.source[self.at + 1] == b':',
                        "there is no looking ahead or behind, and no flags"
                    );
                    self.at += 2;
                }
                self.either();
                assert!(self.peek() == b')', "a `(` is not closed");
                self.at += 1;
            }
            b'[' => self.class(),
            b'.' => {
                self.at += 1;
                self.push(Step::Any);
            }
            b'\\' => {
                self.at += 1;
                let from = self.pattern.range_count;
                let letter = self.peek();
                if self.ranges_of(letter | 0x20) && letter.is_ascii_alphabetic() {
                    self.at += 1;
                    self.push_class(from, letter.is_ascii_uppercase());
                } else {
                    self.pattern.range_count = from;
                    let character = self.escaped();
                    self.push(Step::Character(character));
                }
            }
            b'*' | b'+' | b'?' | b'{' => panic!("nothing stands before a repetition"),
            b'^' | b'$' => panic!("`^` stands only at the start and `$` at the end; otherwise escape them"),
            _ => {
                let character = self.character();
                self.push(Step::Character(character));
            }
        }
    }

    const fn push_class(&mut self, from: usize, others: bool) {
        // There are fewer ranges than a byte can count.
        self.push(Step::Class(from as u8, self.pattern.range_count as u8, others));
    }

    const fn class(&mut self) {
        self.at += 1;
        let others = self.peek() == b'^';
        if others {
            self.at += 1;
        }
        let from = self.pattern.range_count;
        while self.peek() != b']' {
            assert!(self.at < self.source.len(), "a `[` is not closed");
            if self.peek() == b'\\' && self.at + 1 < self.source.len() && self.ranges_of(self.source[self.at + 1]) {
                self.at += 2;
                continue;
            }
            let low = self.in_class();
            let is_range = self.peek() == b'-' && self.at + 1 < self.source.len() && self.source[self.at + 1] != b']';
            let mut high = low;
            if is_range {
                self.at += 1;
                high = self.in_class();
            }
            assert!(low <= high, "a range of characters runs backwards");
            self.range(low, high);
        }
        assert!(self.pattern.range_count > from, "a class of no characters");
        self.at += 1;
        self.push_class(from, others);
    }

    const fn in_class(&mut self) -> u32 {
        if self.peek() == b'\\' {
            self.at += 1;
            return self.escaped();
        }
        self.character()
    }

    const fn range(&mut self, low: u32, high: u32) {
        assert!(self.pattern.range_count < RANGES_MAX, "this pattern has too many ranges of characters");
        self.pattern.ranges[self.pattern.range_count] = (low, high);
        self.pattern.range_count += 1;
    }

    /// Adds the ranges that a letter after a backslash stands for. Says whether it stands for any.
    const fn ranges_of(&mut self, letter: u8) -> bool {
        match letter {
            b'd' => self.range('0' as u32, '9' as u32),
            b'w' => {
                self.range('0' as u32, '9' as u32);
                self.range('A' as u32, 'Z' as u32);
                self.range('a' as u32, 'z' as u32);
                self.range('_' as u32, '_' as u32);
            }
            b's' => {
                self.range(' ' as u32, ' ' as u32);
                self.range('\t' as u32, '\r' as u32);
            }
            _ => return false,
        }
        true
    }

    const fn escaped(&mut self) -> u32 {
        let byte = self.peek();
        self.at += 1;
        match byte {
            b'n' => '\n' as u32,
            b'r' => '\r' as u32,
            b't' => '\t' as u32,
            _ if byte.is_ascii_punctuation() => byte as u32,
            _ => panic!("a backslash stands before d, w, s, n, r, t or a sign"),
        }
    }

    /// The next character of the pattern, decoded from UTF-8.
    const fn character(&mut self) -> u32 {
        let first = self.peek();
        let (length, mut character) = match first {
            0..0x80 => (1, first as u32),
            0x80..0xE0 => (2, (first & 0x1F) as u32),
            0xE0..0xF0 => (3, (first & 0x0F) as u32),
            _ => (4, (first & 0x07) as u32),
        };
        let mut read = 1;
        while read < length {
            character = character << 6 | (self.source[self.at + read] & 0x3F) as u32;
            read += 1;
        }
        self.at += length;
        character
    }
}

/// There are fewer steps than an `i16` can count.
const fn offset(steps: usize) -> i16 {
    steps as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(pattern: &'static str, matching: &[&str], others: &[&str]) {
        let compiled = Pattern::new(pattern);
        for text in matching {
            assert!(compiled.matches(text), "{pattern} matches {text:?}");
        }
        for text in others {
            assert!(!compiled.matches(text), "{pattern} does not match {text:?}");
        }
    }

    #[test]
    fn patterns_match_whole_texts() {
        holds("", &[""], &["a"]);
        holds("abc", &["abc"], &["", "ab", "abcd", "xabc"]);
        holds("^abc$", &["abc"], &["abc$"]);
        holds("a.c", &["abc", "a\u{1F600}c", "a\nc"], &["ac", "abbc"]);
        holds("[A-Z]{3}-\\d+", &["ABC-1", "XYZ-0042"], &["AB-1", "ABCD-1", "ABC-", "abc-1", "ABC-\u{661}"]);
        holds("[^,;]+", &["a b", "\u{e9}"], &["", "a,b"]);
        holds("[a\\-\\]z]", &["a", "-", "]", "z"], &["b", "\\"]);
        holds("[a-]", &["a", "-"], &["b"]);
        holds("\\w+\\s\\S\\D\\W", &["a_9 xy-"], &["a xy", "a  xy-", "a x1-"]);
        holds("\u{e4}|[\u{4e00}-\u{4fff}]", &["\u{e4}", "\u{4e8c}"], &["a", "\u{5000}"]);
        holds("\\.\\(\\)\\n", &[".()\n"], &["a()\n"]);
    }

    #[test]
    fn repetitions_and_groups_do_as_they_say() {
        holds("a*", &["", "a", "aaaa"], &["b", "ab"]);
        holds("a+b?", &["a", "aab"], &["", "b", "abb"]);
        holds("a{2}", &["aa"], &["a", "aaa"]);
        holds("a{2,}", &["aa", "aaaaaa"], &["a"]);
        holds("a{1,3}", &["a", "aa", "aaa"], &["", "aaaa"]);
        holds("a{0}b", &["b"], &["ab"]);
        holds("(ab|c)*d", &["d", "abd", "cabcd"], &["ad", "abab"]);
        holds("(?:a|b|c){2}", &["ab", "cc"], &["a", "abc"]);
        holds("(a*)*b", &["b", "aaab"], &["a"]);
        holds("|a", &["", "a"], &["b"]);
        holds("(a|)b", &["ab", "b"], &["aab"]);
    }

    /// Takes a backtracking engine 2^30 steps.
    #[test]
    fn a_hostile_text_takes_no_longer_than_another() {
        let pattern = Pattern::new("(a?){30}a{30}");
        assert!(pattern.matches(&"a".repeat(30)));
        let evil = Pattern::new("(a+)+b");
        assert!(!evil.matches(&"a".repeat(200_000)));
    }

    #[test]
    fn a_wrong_pattern_is_none() {
        for wrong in [
            "(",
            ")",
            "[",
            "[]",
            "a**",
            "*",
            "a{",
            "a{2",
            "a{3,2}",
            "[z-a]",
            "\\q",
            "(?=a)",
            "a^b",
            "a$b",
            "a{999}",
            "(\\w{60}){3}",
        ] {
            assert!(std::panic::catch_unwind(|| Pattern::new(wrong)).is_err(), "{wrong}");
        }
    }
}
