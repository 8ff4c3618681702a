//! Judges the names in the modules directory beyond the event type that `slot.rs` reads from them. It finds why a file
//! serves nothing or could never match an event, and the nearest right name. It compares names in the way that people
//! confuse them: by case, spaces, Unicode normal form, percent-encoding, and within two letters.

use std::path::{Path, PathBuf};

use eye_event::envelope;
use eye_event::legible::{is_hidden, legible};
use percent_encoding::percent_decode_str;
use unicode_normalization::UnicodeNormalization as _;

use super::kind::{Kind, settings_of};
use super::slot::Slot;

/// Characters of a name that are compared. No event type has a longer name.
const COMPARED_MAX: usize = 500;

/// Characters of a name that a message quotes.
const NAMED_CHARACTERS_MAX: usize = 60;

/// Why a file or folder serves nothing, for operators and authors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stray {
    /// The mistake, and how to mend it.
    pub(super) why: String,
    /// The nearest name under which it would serve.
    pub(super) nearest: Option<PathBuf>,
    /// It does not look like a module, so it causes no warning. It may be a note of the team, or a file that a copy is
    /// first written into.
    pub(super) is_other: bool,
}

impl Stray {
    pub(super) fn told(why: String) -> Self {
        Self { why, nearest: None, is_other: false }
    }

    fn near(why: String, nearest: impl Into<PathBuf>) -> Self {
        Self { why, nearest: Some(nearest.into()), is_other: false }
    }
}

/// Returns the event types that a file with the name of a module serves. If no event can have one of them, returns the
/// reason.
pub(super) fn slot_of(file: &Path) -> Result<Slot, Stray> {
    if let Some(near) = starred(file) {
        let why = "a `*` in a file name is no wildcard: _.wasm in the folder of a category serves its other names, and _.wasm \
                   at the top everything else; a literal one is written %2A";
        return Err(Stray::near(why.into(), near));
    }
    let slot = Slot::of_path(file).map_err(|why| Stray { nearest: mended(file), ..Stray::told(why) })?;
    let words = match &slot {
        Slot::Any => [None, None],
        Slot::Category(category) => [Some(category), None],
        Slot::Exact(category, name) => [Some(category), Some(name)],
    };
    let wrong = words.into_iter().flatten().find_map(|word| Some((word, envelope::wrong_word(word)?)));
    let Some((word, (_, message))) = wrong else { return Ok(slot) };
    let which = format!("`{}`", legible(word, NAMED_CHARACTERS_MAX));
    let why = format!("no event could ever match this file: {which} {message}");
    Err(Stray { nearest: mended(file), ..Stray::told(why) })
}

/// The right name for a file whose name has a `*` for a wildcard.
fn starred(file: &Path) -> Option<PathBuf> {
    let stem = file.file_stem()? == "*";
    let folder = file.parent().is_some_and(|folder| folder == Path::new("*"));
    let at_top = file.parent().is_some_and(|folder| folder.as_os_str().is_empty());
    (stem || folder).then(|| if folder || at_top { "_.wasm".into() } else { file.with_file_name("_.wasm") })
}

/// The message for settings without a module beside them.
pub(super) fn lone_settings<'a>(file: &Path, modules: impl Iterator<Item = &'a Path>) -> Stray {
    let module = file.with_extension("wasm");
    let why = format!(
        "these are the settings of {}, which is not there, nor a schema file for it; they are named like the module beside \
         them",
        module.display()
    );
    let plain = |path: &Path| plain(path).chars().collect::<Vec<char>>();
    let (folder, stem) = (file.parent(), plain(&module));
    let near = modules.filter(|other| other.parent() == folder).find(|other| within_two(&plain(other), &stem));
    Stray { nearest: near.map(settings_of), ..Stray::told(why) }
}

/// The message for one of several files of an event type.
pub(super) fn double(other: &Path, canonical: &Path) -> Stray {
    let why = format!(
        "{} serves the same event type, so neither is taken and what served last serves on: remove one of them",
        other.display()
    );
    Stray::near(why, canonical)
}

/// The message for a folder within the folder of a category.
pub(super) fn nested_folder(is_link: bool) -> Stray {
    let why = if is_link {
        "a link to a folder within the folder of a category is not followed: a module lies at <category>/<name>.wasm"
    } else {
        "folders within the folder of a category are not looked into: a module lies at <category>/<name>.wasm"
    };
    Stray { is_other: true, ..Stray::told(why.into()) }
}

/// The message for a module in a folder within the folder of a category.
pub(super) fn nested_module(file: &Path) -> Stray {
    let text = file.to_string_lossy();
    let (category, rest) = text.split_once('/').unwrap_or(("", &text));
    let name = rest.rsplit('/').next().unwrap_or(rest);
    let why = format!(
        "a module lies directly in the folder of its category; for a name with slashes, name it {category}/{}",
        rest.replace('/', "%2F")
    );
    Stray {
        nearest: mended(&Path::new(category).join(name)).or_else(|| Some(Path::new(category).join(name))),
        ..Stray::told(why)
    }
}

/// The message for a file that ends neither like a module nor like settings.
pub(super) fn other_file(file: &Path) -> Stray {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let end = name.trim().to_lowercase();
    if is_dotted(file) {
        return Stray {
            nearest: mended(file),
            ..Stray::told("a name that begins with a dot is hidden; a literal one is written %2E".into())
        };
    }
    for (ending, what) in [(".wasm", "a module"), (".schema.json", "a schema"), (".toml", "the settings of a module")] {
        if end.ends_with(ending) && !name.ends_with(ending) {
            let why = format!("the name of {what} ends in `{ending}`, in small letters and with nothing after it");
            return Stray { nearest: mended(file), ..Stray::told(why) };
        }
    }
    let why =
        "this is neither a module (`.wasm`), nor a schema (`.schema.json`), nor the settings beside one (`.toml`)";
    let meant = [".wasm", ".schema.json"].into_iter().find_map(|ending| {
        let at = end.find(ending)?;
        Some(name.trim().get(..at + ending.len())?.to_owned())
    });
    let meant = meant.or_else(|| end.strip_suffix(".json").map(|stem| format!("{stem}.schema.json")));
    let nearest = meant.map(|name| file.with_file_name(name));
    let nearest = nearest.map(|near| mended(&near).unwrap_or(near));
    Stray { nearest, is_other: true, ..Stray::told(why.into()) }
}

/// Whether the name begins with a dot, so that most tools hide the file.
pub(super) fn is_dotted(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether the author may have meant a file with this name as a module, although it is hidden.
pub(super) fn ends_like_a_module(name: &Path) -> bool {
    let lower = name.as_os_str().to_ascii_lowercase();
    Kind::of_file(Path::new(&lower)).is_some() && !name.as_os_str().as_encoded_bytes().starts_with(b"..")
}

/// Returns the nearest right name of a file, if there is one. It leaves out all that no event can have.
fn mended(file: &Path) -> Option<PathBuf> {
    let text = file.to_str()?;
    let Some((folder, name)) = text.rsplit_once('/') else {
        // At the top only one name has a meaning.
        let (stem, ending) = split_ending(text.trim())?;
        let mended = PathBuf::from(format!("_.{}", ending.trim().to_lowercase()));
        return (stem.trim() == "_" && mended != file).then_some(mended);
    };
    let (stem, ending) = split_ending(name.trim())?;
    let category = cleaned(folder)?;
    let slot = match stem.trim().trim_start_matches('.') {
        "_" | "*" => Slot::Category(category),
        stem => Slot::Exact(category, cleaned(stem)?),
    };
    let mended = PathBuf::from(format!("{slot}.{}", ending.trim().to_lowercase()));
    (mended != file).then_some(mended)
}

/// The stem and the ending of a file name.
fn split_ending(name: &str) -> Option<(&str, &str)> {
    const SCHEMA: &str = "schema.json";
    let at = name.len().checked_sub(SCHEMA.len()).filter(|at| name.is_char_boundary(*at));
    let schema = at.map(|at| name.split_at(at)).filter(|(_, ending)| ending.eq_ignore_ascii_case(SCHEMA));
    let schema = schema.and_then(|(stem, ending)| Some((stem.strip_suffix('.')?, ending)));
    schema.or_else(|| name.rsplit_once('.'))
}

/// Removes the characters that no category or name may have.
fn cleaned(part: &str) -> Option<String> {
    let text = percent_decode_str(part).decode_utf8().ok()?;
    let kept: String = text.chars().filter(|character| !is_hidden(*character)).collect();
    let kept = kept.trim();
    (envelope::wrong_word(kept).is_none()).then(|| kept.to_owned())
}

/// A path or an event type in the form for comparing: decoded, in one normal form and case, without invisible
/// characters.
pub(super) fn plain(path: &Path) -> String {
    let text = path.to_string_lossy();
    let stem = Kind::ALL.into_iter().find_map(|kind| text.strip_suffix(kind.ending()));
    let text = stem.unwrap_or(&text);
    text.split('/').map(plain_part).collect::<Vec<_>>().join("/")
}

/// A category or a name in the form for comparing.
pub(super) fn plain_part(part: &str) -> String {
    // Decoding twice finds a name that was encoded twice, since the gateway decodes it once.
    let once = percent_decode_str(part).decode_utf8_lossy().into_owned();
    let text = percent_decode_str(&once).decode_utf8_lossy();
    let seen = text.nfkc().filter(|character| character.is_whitespace() || !is_hidden(*character)).take(COMPARED_MAX);
    let lower: String = seen.flat_map(char::to_lowercase).nfkc().collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether two names in the form for comparing are the same or differ in at most two letters. In short names every
/// letter counts.
pub(super) fn within_two(one: &[char], other: &[char]) -> bool {
    if one == other {
        return true;
    }
    let most = match one.len().max(other.len()) {
        0..=4 => return false,
        5..=7 => 1,
        _ => 2,
    };
    distance(one, other, most).is_some()
}

/// Letters to change, add or remove to make one name of the other; `None` if they are more than `most`.
fn distance(one: &[char], other: &[char], most: usize) -> Option<usize> {
    if one.len().abs_diff(other.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (place, right) in other.iter().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
        if row.iter().min().is_some_and(|least| *least > most) {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest(stray: &Stray) -> &str {
        stray.nearest.as_deref().and_then(Path::to_str).unwrap_or_default()
    }

    #[test]
    fn a_file_that_no_event_can_match_is_told_with_the_nearest_name() {
        let long = format!("shop/{}.wasm", "x".repeat(201));
        for (file, near) in [
            ("shop/ sale.wasm", "shop/sale.wasm"),
            ("shop/sale .wasm", "shop/sale.wasm"),
            (" shop/sale.wasm", "shop/sale.wasm"),
            ("shop/%20sale.wasm", "shop/sale.wasm"),
            ("shop/sa%07le.wasm", "shop/sale.wasm"),
            ("shop/sale%0A.wasm", "shop/sale.wasm"),
            ("shop/sa%E2%80%8Ble.wasm", "shop/sale.wasm"),
            ("shop/\u{202e}sale.wasm", "shop/sale.wasm"),
            ("shop/*.wasm", "shop/_.wasm"),
            ("*/*.wasm", "_.wasm"),
            ("*.wasm", "_.wasm"),
            ("_/view.wasm", "%5F/view.wasm"),
            ("stray.wasm", ""),
            ("a/%zz.wasm", "a/%25zz.wasm"),
            ("shop/ sale.schema.json", "shop/sale.schema.json"),
            ("stray.schema.json", ""),
            (long.as_str(), ""),
        ] {
            let stray = slot_of(Path::new(file)).expect_err(file);
            assert_eq!((nearest(&stray), stray.is_other), (near, false), "{file}: {stray:?}");
        }
        assert_eq!(slot_of(Path::new("shop/sale.wasm")), Ok(Slot::Exact("shop".into(), "sale".into())));
        assert!(slot_of(Path::new(&format!("shop/{}.wasm", "x".repeat(200)))).is_ok());
        assert_eq!(slot_of(Path::new("shop/%2A.wasm")), Ok(Slot::Exact("shop".into(), "*".into())));
    }

    #[test]
    fn other_files_are_told_with_what_they_may_have_been_meant_to_be() {
        for (file, near, is_other) in [
            ("shop/sale.WASM", "shop/sale.wasm", false),
            ("shop/sale.Wasm ", "shop/sale.wasm", false),
            ("shop/sale.TOML", "shop/sale.toml", false),
            ("shop/.sale.wasm", "shop/sale.wasm", false),
            ("_.WASM", "_.wasm", false),
            ("shop/_.WASM", "shop/_.wasm", false),
            ("shop/sale.wasm.bak", "shop/sale.wasm", true),
            ("shop/sale.schema.json~", "shop/sale.schema.json", true),
            ("shop/sale.json", "shop/sale.schema.json", true),
            ("shop/sale.Schema.JSON", "shop/sale.schema.json", false),
            ("shop/README.md", "", true),
        ] {
            let stray = other_file(Path::new(file));
            assert_eq!((nearest(&stray), stray.is_other), (near, is_other), "{file}: {stray:?}");
        }
        assert_eq!(nearest(&nested_module(Path::new("shop/eu/de/sale.wasm"))), "shop/sale.wasm");
        let modules = [Path::new("shop/sale.wasm"), Path::new("other/sales.wasm")];
        let lone = lone_settings(Path::new("shop/Sales.toml"), modules.into_iter());
        assert_eq!(nearest(&lone), "shop/sale.toml", "{lone:?}");
    }

    #[test]
    fn names_that_people_confuse_are_near_and_others_are_not() {
        let plain = |text: &str| plain(Path::new(text)).chars().collect::<Vec<char>>();
        let near = |one: &str, other: &str| within_two(&plain(one), &plain(other));
        for (one, other) in [
            ("Shop/order_placed", "shop/order placed"),
            ("shop/order%20placed", "shop/order placed"),
            ("shop/order%2520placed", "shop/order placed"),
            ("shop/caf\u{e9}", "shop/cafe\u{301}"),
            ("shop/sale", "shop/sael"),
            ("shop/sa\u{200b}le", "shop/sale"),
            ("a/B", "A/b"),
        ] {
            assert!(near(one, other), "{one} and {other}");
        }
        for (one, other) in [("a/b", "c/d"), ("shop/sale", "shop/theft"), ("page/view", "page/click")] {
            assert!(!near(one, other), "{one} and {other}");
        }
    }

    #[test]
    fn the_distance_is_found_as_far_as_it_is_asked_for() {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        assert_eq!(distance(&chars("kitten"), &chars("sitting"), 3), Some(3));
        assert_eq!(distance(&chars("kitten"), &chars("sitting"), 2), None);
        assert_eq!(distance(&chars("same"), &chars("same"), 0), Some(0));
    }
}
