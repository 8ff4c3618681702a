//! Regular expressions as JSON Schema writes them, in the grammar of ECMA-262, made into ones that take linear time. A
//! look around and a reference to a group would need more than that, so they are refused.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// Characters of a pattern.
const CHARACTERS_MAX: usize = 4_096;
/// Levels of groups.
const NESTING_MAX: usize = 50;
/// Bytes of a compiled pattern.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// White space and line ends of ECMA-262, for a class.
const SPACES: &str =
    r"\t\n\x0b\x0c\r\x20\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}";
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

/// Compiles a pattern, which is found anywhere in a text.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let Translated { text, beyond } = translate(pattern)?;
    if let Some(what) = beyond {
        return Err(format!("{what}, which takes more than linear time; write the pattern without it"));
    }
    let mut builder = RegexBuilder::new(&text);
    let built = builder.size_limit(COMPILED_BYTES_MAX).nest_limit(4 * NESTING_MAX as u32).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!("it takes more than {COMPILED_BYTES_MAX} bytes when it is compiled; ask for fewer repetitions")
        }
        _ => "it names a class of characters that is not known here".to_owned(),
    })
}

/// Whether this is a regular expression of ECMA-262, one with a look around among them.
pub(crate) fn is_pattern(text: &str) -> bool {
    translate(text).is_ok()
}

struct Translated {
    text: String,
    /// What no linear time suffices for.
    beyond: Option<&'static str>,
}

fn translate(pattern: &str) -> Result<Translated, String> {
    if pattern.chars().count() > CHARACTERS_MAX {
        return Err(format!("it has more than {CHARACTERS_MAX} characters"));
    }
    let mut translator = Translator { rest: pattern.chars().peekable(), text: String::new(), beyond: None, depth: 0 };
    translator.alternatives()?;
    if translator.rest.next().is_some() {
        return Err("it closes a group that is not open".to_owned());
    }
    let Translator { text, beyond, .. } = translator;
    Ok(Translated { text, beyond })
}

struct Translator<'p> {
    rest: Peekable<Chars<'p>>,
    text: String,
    beyond: Option<&'static str>,
    depth: usize,
}

impl Translator<'_> {
    fn take(&mut self, character: char) -> bool {
        self.rest.next_if_eq(&character).is_some()
    }

    fn looks_at(&self, text: &str) -> bool {
        self.rest.clone().zip(text.chars()).filter(|(one, other)| one == other).count() == text.chars().count()
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.rest.next();
        }
    }

    /// Reads up to the end of the group.
    fn alternatives(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > NESTING_MAX {
            return Err(format!("its groups are nested more than {NESTING_MAX} deep"));
        }
        while let Some(character) = self.rest.next_if(|next| *next != ')') {
            let repeats = match character {
                '|' => {
                    self.text.push('|');
                    continue;
                }
                '^' | '$' => {
                    self.text.push(character);
                    continue;
                }
                '*' | '+' | '?' => return Err("nothing stands before a repetition".to_owned()),
                '(' => self.group()?,
                '[' => self.class()?,
                '.' => {
                    self.text.push_str("[^");
                    self.text.push_str(LINE_ENDS);
                    self.text.push(']');
                    true
                }
                '\\' => self.escape()?,
                _ => {
                    literal(character, &mut self.text);
                    true
                }
            };
            self.repetition(repeats)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads a group after its parenthesis. Returns whether it can be repeated.
    fn group(&mut self) -> Result<bool, String> {
        let around = ["?=", "?!", "?<=", "?<!"].into_iter().find(|kind| self.looks_at(kind));
        self.text.push_str("(?:");
        if let Some(kind) = around {
            self.beyond = Some("it looks around (`(?=`, `(?!`, `(?<=` or `(?<!`)");
            self.skip(kind.len());
        } else if self.take('?') && !self.take(':') {
            if !self.take('<') {
                return Err("there is no such kind of group".to_owned());
            }
            let mut name = String::new();
            while let Some(character) = self.rest.next_if(|next| *next != '>') {
                name.push(character);
            }
            let starts = name.starts_with(|first: char| first.is_alphabetic() || first == '_' || first == '$');
            if !self.take('>') || !starts {
                return Err("the name of a group is wrong".to_owned());
            }
        }
        self.alternatives()?;
        if !self.take(')') {
            return Err("a group is not closed".to_owned());
        }
        self.text.push(')');
        Ok(around.is_none_or(|kind| kind.len() == 2))
    }

    /// Reads how often what stands before is repeated.
    fn repetition(&mut self, repeats: bool) -> Result<(), String> {
        let repetition = match self.rest.peek() {
            Some(sign @ ('*' | '+' | '?')) => {
                let sign = sign.to_string();
                self.skip(1);
                sign
            }
            Some('{') => match self.counts()? {
                Some(counts) => counts,
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        if !repeats {
            return Err("a repetition stands where nothing can be repeated".to_owned());
        }
        self.text.push_str(&repetition);
        if self.take('?') {
            self.text.push('?');
        }
        Ok(())
    }

    /// Reads `{2}`, `{2,}` or `{2,3}`. Anything else that begins so is a brace.
    fn counts(&mut self) -> Result<Option<String>, String> {
        let inner: String = self.rest.clone().skip(1).take_while(|next| *next != '}').take(32).collect();
        let closes = self.rest.clone().nth(inner.chars().count() + 1) == Some('}');
        let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !closes || !digits(least) || !(most.is_empty() && inner.contains(',') || digits(most)) {
            return Ok(None);
        }
        self.skip(inner.chars().count() + 2);
        let number = |text: &str| text.parse::<u32>().map_err(|_| "a repetition counts too far".to_owned());
        if !most.is_empty() && number(least)? > number(most)? {
            return Err("a repetition ends before it begins".to_owned());
        }
        number(least)?;
        Ok(Some(format!("{{{inner}}}")))
    }

    /// Reads an escape outside of a class. Returns whether it can be repeated.
    fn escape(&mut self) -> Result<bool, String> {
        match self.rest.peek() {
            Some(bound @ ('b' | 'B')) => {
                self.text.push_str(if *bound == 'b' { r"(?-u:\b)" } else { r"(?-u:\B)" });
                self.skip(1);
                return Ok(false);
            }
            Some('1'..='9') => {
                self.beyond = Some("it refers to what a group found");
                while self.rest.next_if(char::is_ascii_digit).is_some() {}
                return Ok(true);
            }
            Some('k') => {
                self.beyond = Some("it refers to what a group found");
                self.skip(1);
                while self.rest.next_if(|next| *next != '>').is_some() {}
                return if self.take('>') { Ok(true) } else { Err("the name of a group is wrong".to_owned()) };
            }
            _ => {}
        }
        match self.atom()? {
            Atom::Character(character) => literal(character, &mut self.text),
            Atom::Class(class) => self.text.push_str(&class),
        }
        Ok(true)
    }

    /// Reads an escape after its backslash, as it may stand within a class and outside.
    fn atom(&mut self) -> Result<Atom, String> {
        let wrong = || "it escapes what needs no escape, or ends in a backslash".to_owned();
        let character = self.rest.next().ok_or_else(wrong)?;
        Ok(Atom::Character(match character {
            'd' => return Ok(Atom::Class("[0-9]".to_owned())),
            'D' => return Ok(Atom::Class("[^0-9]".to_owned())),
            'w' => return Ok(Atom::Class("[0-9A-Za-z_]".to_owned())),
            'W' => return Ok(Atom::Class("[^0-9A-Za-z_]".to_owned())),
            's' => return Ok(Atom::Class(format!("[{SPACES}]"))),
            'S' => return Ok(Atom::Class(format!("[^{SPACES}]"))),
            'p' | 'P' => return self.property(character),
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'v' => '\u{b}',
            'f' => '\u{c}',
            '0' if !self.rest.peek().is_some_and(char::is_ascii_digit) => '\0',
            'c' => {
                let letter = self.rest.next().filter(char::is_ascii_alphabetic).ok_or_else(wrong)?;
                char::from(letter as u8 % 32)
            }
            'x' => self.hexadecimal(2)?,
            'u' => self.unit()?,
            other if other.is_ascii_alphanumeric() => return Err(wrong()),
            other => other,
        }))
    }

    fn property(&mut self, sign: char) -> Result<Atom, String> {
        let wrong = || "a class of characters is written `\\p{...}`".to_owned();
        if !self.take('{') {
            return Err(wrong());
        }
        let mut name = String::new();
        while let Some(character) = self.rest.next_if(|next| next.is_ascii_alphanumeric() || "_=".contains(*next)) {
            name.push(character);
        }
        if !self.take('}') || name.is_empty() {
            return Err(wrong());
        }
        Ok(Atom::Class(format!("\\{sign}{{{name}}}")))
    }

    fn digits(&mut self, count: usize) -> Result<u32, String> {
        let digits: String = self.rest.clone().take(count).collect();
        let wrong = || format!("{count} hexadecimal digits are expected after `\\x` or `\\u`");
        if digits.len() != count || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        self.skip(count);
        u32::from_str_radix(&digits, 16).map_err(|_| wrong())
    }

    fn hexadecimal(&mut self, count: usize) -> Result<char, String> {
        char::from_u32(self.digits(count)?).ok_or_else(no_character)
    }

    fn unit(&mut self) -> Result<char, String> {
        if self.take('{') {
            let mut digits = String::new();
            while let Some(digit) = self.rest.next_if(char::is_ascii_hexdigit) {
                digits.push(digit);
            }
            let code = u32::from_str_radix(&digits, 16).ok().filter(|_| self.take('}'));
            return code.and_then(char::from_u32).ok_or_else(no_character);
        }
        let first = self.digits(4)?;
        if (0xd800..0xdc00).contains(&first) && self.looks_at("\\u") {
            self.skip(2);
            let second = self.digits(4)?;
            let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400).ok_or_else(no_character)?;
            return char::from_u32(0x10000 + ((first - 0xd800) << 10) + low).ok_or_else(no_character);
        }
        char::from_u32(first).ok_or_else(no_character)
    }

    /// Reads a class after its bracket.
    fn class(&mut self) -> Result<bool, String> {
        let is_negated = self.take('^');
        if self.take(']') {
            // No character is in `[]`, and each is in `[^]`.
            self.text.push_str(if is_negated { r"[\x00-\u{10ffff}]" } else { r"[^\x00-\u{10ffff}]" });
            return Ok(true);
        }
        self.text.push_str(if is_negated { "[^" } else { "[" });
        while !self.take(']') {
            let from = self.member()?;
            let is_range = self.rest.peek() == Some(&'-') && self.rest.clone().nth(1).is_some_and(|next| next != ']');
            match from {
                Atom::Character(from) if is_range => {
                    self.skip(1);
                    match self.member()? {
                        Atom::Character(to) if from <= to => {
                            literal(from, &mut self.text);
                            self.text.push('-');
                            literal(to, &mut self.text);
                        }
                        Atom::Character(_) => return Err("a range of characters ends before it begins".to_owned()),
                        Atom::Class(_) => return Err("a range of characters ends in a class".to_owned()),
                    }
                }
                Atom::Character(character) => literal(character, &mut self.text),
                Atom::Class(class) => self.text.push_str(&class),
            }
        }
        self.text.push(']');
        Ok(true)
    }

    fn member(&mut self) -> Result<Atom, String> {
        match self.rest.next() {
            None => Err("a class is not closed".to_owned()),
            Some('\\') if self.take('b') => Ok(Atom::Character('\u{8}')),
            Some('\\') => self.atom(),
            Some(character) => Ok(Atom::Character(character)),
        }
    }
}

enum Atom {
    Character(char),
    Class(String),
}

fn no_character() -> String {
    "it names a character that does not exist".to_owned()
}

/// Writes a character so that it means only itself, within a class and outside.
fn literal(character: char, text: &mut String) {
    if character.is_ascii_alphanumeric() || !character.is_ascii() || character == '_' {
        text.push(character);
    } else {
        text.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(pattern: &str, text: &str) -> bool {
        compile(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}")).is_match(text)
    }

    #[test]
    fn patterns_mean_what_they_mean_in_ecma_262() {
        for (pattern, text, found) in [
            (r"^\d+$", "123", true),
            (r"^\d+$", "١", false),
            (r"^\w$", "é", false),
            (r"^\s$", "\u{feff}", true),
            (r"^\S$", "\u{2003}", false),
            (r"^.$", "\u{2028}", false),
            (r"^[[a]$", "[", true),
            (r"^[a&&b]+$", "&a", true),
            (r"^[^]$", "x", true),
            (r"[]", "x", false),
            (r"a{,2}", "a{,2}", true),
            (r"^a{2,}$", "aaa", true),
            (r"^(?<year>\d{4})-x$", "2024-x", true),
            (r"^\cA\x41\u0042\u{43}\/$", "\u{1}ABC/", true),
            (r"^🐲*$", "🐲🐲", true),
            (r"^\ud83d\udc32$", "🐲", true),
            (r"\bb\b", "a b c", true),
            (r"^[\b]$", "\u{8}", true),
            (r"^\p{Letter}+$", "Lé", true),
            (r"^[\p{Lu}\d-]+$", "A1-", true),
            ("ab", "xaby", true),
            ("^$", "a\n", false),
        ] {
            assert_eq!(finds(pattern, text), found, "{pattern} in {text}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_takes_more_than_linear_time_is_told() {
        for (pattern, words) in [
            ("a(?=b)", "looks around"),
            ("(?<!a)b", "looks around"),
            (r"(a)\1", "refers"),
            ("(a", "not closed"),
            ("a)", "not open"),
            ("[a", "not closed"),
            ("*a", "before a repetition"),
            ("a**", "before a repetition"),
            (r"\a", "escapes"),
            ("[b-a]", "range"),
            ("a{3,2}", "ends before"),
            ("((a{1000}){1000}){1000}", "bytes"),
            (r"\p{Nothing}", "not known"),
            (&"(".repeat(60), "nested"),
            (&"a".repeat(5_000), "characters"),
        ] {
            let why = compile(pattern).expect_err(pattern);
            assert!(why.contains(words), "{pattern}: {why}");
        }
        assert!(is_pattern("a(?=b)") && !is_pattern("^(abc]"));
    }
}
