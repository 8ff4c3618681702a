//! The events that a file in the modules directory serves: `<category>/<name>.wasm`, `<category>/_.wasm` or `_.wasm`, or
//! the same with `.schema.json`. Each part is percent-encoded where a file system needs it; a literal `_` is written `%5F`. Case and Unicode normal
//! form are exact. The inverse, the canonical file of a slot, is here too, so that the two cannot drift apart.

use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{percent_decode_str, percent_encode_byte};

use super::kind::Kind;

/// The event types that one file serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// Every event type that no other file serves: `_.wasm`.
    Any,
    /// The names of a category that have no file of their own: `<category>/_.wasm`.
    Category(String),
    /// One event type: `<category>/<name>.wasm`.
    Exact(String, String),
}

/// The characters that a canonical file name encodes beside control characters. Some end a name, some have a meaning
/// here, and some are refused by some systems.
const ENCODED: &[char] = &['/', '\\', '%', ':', '*', '?', '"', '<', '>', '|'];

impl Slot {
    /// Reads a path relative to the modules directory. If it names no slot, the error says why.
    pub(super) fn of_path(path: &Path) -> Result<Self, String> {
        let text = path.to_str().ok_or("the file name is not UTF-8")?;
        let stem = Kind::ALL.into_iter().find_map(|kind| text.strip_suffix(kind.ending()));
        let stem = stem.ok_or("the file name ends neither in .wasm nor in .schema.json")?;
        match stem.split_once('/') {
            None if stem == "_" => Ok(Self::Any),
            None => Err(
                "a module lies in the folder of its category, as <category>/<name>.wasm; only _.wasm and _.schema.json lie at \
                 the top"
                    .into(),
            ),
            Some(("_", _)) => Err("a category named `_` is written %5F".into()),
            Some((category, "_")) => Ok(Self::Category(decode(category)?)),
            Some((category, name)) => Ok(Self::Exact(decode(category)?, decode(name)?)),
        }
    }

    /// Reads an event type as people write it: `_`, `<category>/_` or `<category>/<name>`, percent-encoded as files
    /// are. People may also write `*` for a wildcard, and then `%2A` for a literal `*`.
    ///
    /// # Errors
    ///
    /// A sentence that names the mistake in the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_suffix("/*") {
            _ if text == "*" => Ok(Self::Any),
            Some(category) => Self::of_path(Path::new(&format!("{category}/_.wasm"))),
            None => Self::of_path(Path::new(&format!("{text}.wasm"))),
        }
    }

    /// Reads the last two parts of a URL, which are still percent-encoded. A wildcard is `*` there, and a literal `*` is
    /// `%2A`; an underscore is only an underscore.
    ///
    /// # Errors
    ///
    /// A sentence that names the mistake.
    pub fn of_url(category: &str, name: &str) -> Result<Self, String> {
        match (category, name) {
            ("*", "*") => Ok(Self::Any),
            ("*", _) => Err("a module of all categories serves all names: write */*".into()),
            (category, "*") => Ok(Self::Category(decode(category)?)),
            (category, name) => Ok(Self::Exact(decode(category)?, decode(name)?)),
        }
    }

    /// The last two parts of a URL that name this slot.
    #[must_use]
    pub fn to_url(&self) -> String {
        let part =
            |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        match self {
            Self::Any => "*/*".to_owned(),
            Self::Category(category) => format!("{}/*", part(category)),
            Self::Exact(category, name) => format!("{}/{}", part(category), part(name)),
        }
    }

    /// The category and the name, as far as the slot has them.
    #[must_use]
    pub fn parts(&self) -> (Option<&str>, Option<&str>) {
        match self {
            Self::Any => (None, None),
            Self::Category(category) => (Some(category), None),
            Self::Exact(category, name) => (Some(category), Some(name)),
        }
    }

    /// The event type of made-up events for this slot. For a part that the file leaves open it has `test`, as tests of
    /// validators have that do not name their event type.
    pub(super) fn example(&self) -> (&str, &str) {
        match self {
            Self::Any => ("test", "test"),
            Self::Category(category) => (category, "test"),
            Self::Exact(category, name) => (category, name),
        }
    }

    /// The canonical file of a module of this slot, relative to the modules directory.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.file_of(Kind::Module)
    }

    /// The canonical file of this slot and of a kind, relative to the modules directory.
    #[must_use]
    pub fn file_of(&self, kind: Kind) -> PathBuf {
        PathBuf::from(format!("{self}{}", kind.ending()))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("_"),
            Self::Category(category) => write!(f, "{}/_", encode(category)),
            Self::Exact(category, name) => write!(f, "{}/{}", encode(category), encode(name)),
        }
    }
}

fn decode(part: &str) -> Result<String, String> {
    let bytes = part.as_bytes();
    for (index, _) in part.match_indices('%') {
        let digits = bytes.get(index + 1..index + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(format!("`{part}` has a % that no two hexadecimal digits follow; a literal % is written %25"));
        }
    }
    let text = percent_decode_str(part).decode_utf8().map_err(|_| format!("`{part}` does not decode to UTF-8"))?;
    if text.is_empty() {
        return Err("an empty category or name".into());
    }
    Ok(text.into_owned())
}

fn encode(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for (index, character) in part.chars().enumerate() {
        let hides = index == 0 && character == '.';
        if part == "_" || hides || character.is_control() || ENCODED.contains(&character) {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                text.push_str(percent_encode_byte(byte));
            }
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_slots_and_slots_name_paths() {
        for (path, slot) in [
            ("_.wasm", Slot::Any),
            ("page/_.wasm", Slot::Category("page".into())),
            ("page/view.wasm", Slot::Exact("page".into(), "view".into())),
            ("a b/c%2Fd.wasm", Slot::Exact("a b".into(), "c/d".into())),
            ("%5F/%5F.wasm", Slot::Exact("_".into(), "_".into())),
            ("%2Ehidden/\u{e9}.wasm", Slot::Exact(".hidden".into(), "\u{e9}".into())),
            ("x/100%25.wasm", Slot::Exact("x".into(), "100%".into())),
        ] {
            assert_eq!(Slot::of_path(Path::new(path)), Ok(slot.clone()), "{path}");
            assert_eq!(slot.file(), Path::new(path));
        }
    }

    #[test]
    fn people_may_write_a_wildcard_as_a_star() {
        for (text, slot) in [
            ("*", Slot::Any),
            ("_", Slot::Any),
            ("page/*", Slot::Category("page".into())),
            ("page/%2A", Slot::Exact("page".into(), "*".into())),
        ] {
            assert_eq!(Slot::parse(text), Ok(slot.clone()), "{text}");
            assert_eq!(Slot::parse(&slot.to_string()), Ok(slot), "{text}");
        }
    }

    #[test]
    fn urls_name_slots_and_slots_name_urls() {
        for (category, name, slot) in [
            ("*", "*", Slot::Any),
            ("page", "*", Slot::Category("page".into())),
            ("page", "%2A", Slot::Exact("page".into(), "*".into())),
            ("page", "_", Slot::Exact("page".into(), "_".into())),
            ("a%20b", "c%2Fd", Slot::Exact("a b".into(), "c/d".into())),
        ] {
            assert_eq!(Slot::of_url(category, name), Ok(slot.clone()), "{category}/{name}");
            let url = slot.to_url();
            let (category, name) = url.split_once('/').expect("two parts");
            assert_eq!(Slot::of_url(category, name), Ok(slot), "{url}");
        }
        for (category, name) in [("*", "view"), ("page", "%zz"), ("%ff", "x")] {
            assert!(Slot::of_url(category, name).is_err(), "{category}/{name}");
        }
    }

    #[test]
    fn normal_forms_stay_apart() {
        let composed = Slot::of_path(Path::new("x/\u{e9}.wasm"));
        let decomposed = Slot::of_path(Path::new("x/e\u{301}.wasm"));
        assert_ne!(composed, decomposed);
    }

    #[test]
    fn paths_that_name_nothing_say_why() {
        for path in ["stray.wasm", "_/view.wasm", "a/%zz.wasm", "a/%ff.wasm", "a/.wasm", "a/%2.wasm"] {
            assert!(Slot::of_path(Path::new(path)).is_err(), "{path}");
        }
    }
}
