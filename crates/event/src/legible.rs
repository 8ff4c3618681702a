//! Text that people can read. [`is_hidden`] finds invisible characters, which names may not have; [`legible`]
//! writes texts of others into logs and onto terminals.

use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

/// Ranges of characters that show nothing or change how others are shown, in order. They are, by Unicode 17: format
/// characters (Cf), separators of lines and paragraphs (Zl, Zp), those that a program may ignore when it does not know
/// them (`Default_Ignorable_Code_Point`), those for private use (Co), which look different everywhere, and the blank of
/// braille. [`is_hidden`] adds control characters (Cc) and code points that are no characters.
const HIDDEN: &[RangeInclusive<char>] = &[
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{600}'..='\u{605}',
    '\u{61c}'..='\u{61c}',
    '\u{6dd}'..='\u{6dd}',
    '\u{70f}'..='\u{70f}',
    '\u{890}'..='\u{891}',
    '\u{8e2}'..='\u{8e2}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{e000}'..='\u{f8ff}',
    '\u{fdd0}'..='\u{fdef}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{110bd}'..='\u{110bd}',
    '\u{110cd}'..='\u{110cd}',
    '\u{13430}'..='\u{1343f}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
    '\u{f0000}'..='\u{10ffff}',
];

/// Whether a character is invisible or changes how its neighbors look.
pub fn is_hidden(character: char) -> bool {
    if character <= '~' {
        return character < ' ';
    }
    // The last two code points of each plane are no characters.
    let no_character = u32::from(character) & 0xfffe == 0xfffe;
    let place = HIDDEN.partition_point(|range| *range.end() < character);
    character.is_control() || no_character || HIDDEN.get(place).is_some_and(|range| range.contains(&character))
}

/// A text of somebody else, on one line and within a bound. It writes each hidden character as JSON escapes it. It does
/// not escape a backslash: people read this text, and no program parses it.
#[derive(Clone, Copy, Debug)]
pub struct Legible<'a> {
    text: &'a str,
    characters_max: usize,
}

/// Makes a [`Legible`] that writes at most `characters_max` characters of `text`.
pub fn legible(text: &str, characters_max: usize) -> Legible<'_> {
    Legible { text, characters_max }
}

impl fmt::Display for Legible<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.text.chars();
        for character in characters.by_ref().take(self.characters_max) {
            write_legible(formatter, character)?;
        }
        if characters.next().is_some() { formatter.write_char('…') } else { Ok(()) }
    }
}

/// Writes one character so that people can see it.
pub fn write_legible(out: &mut impl fmt::Write, character: char) -> fmt::Result {
    match character {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        hidden if is_hidden(hidden) => {
            let mut units = [0; 2];
            hidden.encode_utf16(&mut units).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
        }
        seen => out.write_char(seen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_is_hidden() {
        assert!(HIDDEN.is_sorted_by(|one, next| one.end() < next.start()), "in order, for the search");
        for hidden in [
            '\0',
            '\n',
            '\t',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9f}',
            '\u{ad}',
            '\u{61c}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{2028}',
            '\u{2029}',
            '\u{202e}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{e000}',
            '\u{e0001}',
            '\u{e01ef}',
            '\u{10fffd}',
            '\u{10ffff}',
        ] {
            assert!(is_hidden(hidden), "{}", hidden.escape_unicode());
        }
        for seen in [' ', 'a', '~', '\u{a0}', 'é', '\u{301}', 'ش', '中', '\u{3000}', '\u{fffd}', '🧀', '\u{30000}']
        {
            assert!(!is_hidden(seen), "{}", seen.escape_unicode());
        }
    }

    #[test]
    fn a_text_of_others_is_one_line_and_has_an_end() {
        for (text, written) in [
            ("plain \\ text", "plain \\ text"),
            ("two\r\nlines\t", "two\\r\\nlines\\t"),
            ("\u{1b}[2J\u{202e}txt\u{e0041}", "\\u001b[2J\\u202etxt\\udb40\\udc41"),
            ("Käse 🧀", "Käse 🧀"),
        ] {
            assert_eq!(legible(text, 100).to_string(), written);
        }
        assert_eq!(legible("abcdef", 3).to_string(), "abc…");
        assert_eq!(legible("abc", 3).to_string(), "abc");
    }
}
