//! Runs a validator on the host, without The Eye and without WebAssembly.

use std::collections::BTreeSet;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::{Expectation, MoreExample, RawEvent, Validator, Verdict, Violation};

/// Bytes of an amendment or of all violations, and violations, that the gateway takes unless it is told otherwise.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
const VIOLATIONS_MAX: usize = 100;

/// An event with this data; the rest of it is made up, and the same as what the gateway makes up when it tries a module. The
/// event type is the one that the crate's `eye.toml` names as its `type`; `test` stands for what it leaves open, as it does in
/// the gateway for what a module's file leaves open.
fn made_up(data: &str) -> RawEvent {
    let (category, name) = event_type();
    RawEvent {
        id: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        application: "test".to_owned(),
        session_id: "67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned(),
        category,
        name,
        timestamp: 1_700_000_000_000_000,
        data: data.to_owned(),
    }
}

/// Judges an event with this data, received as it occurred; the rest of the event is made up.
pub fn judge<V: Validator>(data: &str) -> Verdict {
    let event = made_up(data);
    V::judge_at(&event, event.timestamp)
}

/// What may be kept of an event with this data that is not stored.
///
/// # Panics
///
/// If the validator does not say it, or answers with something that is not a JSON object.
pub fn redact<V: Validator>(data: &str) -> String {
    let kept = V::redact(data).expect("the validator has no function `redact`");
    assert!(is_object(&kept), "redacted to something that is not a JSON object: {kept}");
    kept
}

/// The event type that the tested crate is for.
fn event_type() -> (String, String) {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let project = std::fs::read_to_string(Path::new(&folder).join("eye.toml")).unwrap_or_default();
    named(&project)
}

/// The event type that a project file names: `type = "category/name"`, where `*` and `_` leave a part open and `%` with two
/// digits stands for a character that a file name cannot have.
fn named(project: &str) -> (String, String) {
    let line = project.lines().map(str::trim).take_while(|line| !line.starts_with('['));
    let value = line.filter_map(|line| line.strip_prefix("type")?.trim_start().strip_prefix('=')).next();
    let text = value.unwrap_or_default().trim().trim_matches(['"', '\'']);
    let (category, name) = text.split_once('/').unwrap_or((text, ""));
    let part = |part: &str| match part {
        "" | "*" | "_" => "test".to_owned(),
        part => decoded(part),
    };
    (part(category), part(name))
}

fn decoded(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The violations' pointers and codes, or nothing if the data is not rejected.
pub fn reasons<V: Validator>(data: &str) -> Vec<(String, String)> {
    match judge::<V>(data) {
        Verdict::Reject(violations) => violations.into_iter().map(|it| (it.pointer, it.code)).collect(),
        Verdict::Accept | Verdict::Amend(_) => Vec::new(),
    }
}

/// Gives each example to the validator, as the gateway will.
///
/// # Panics
///
/// If an example's data is not a JSON object, if it does not get the verdict that it expects, or if the verdict is one
/// that the gateway would not take.
pub fn run_examples<V: Validator>() {
    let count = V::EXAMPLES.len() + V::MORE_EXAMPLES.len();
    assert!(count <= 100, "the gateway takes 100 examples at most");
    for example in V::EXAMPLES {
        run_example::<V>(&MoreExample::new(example.expect, example.title, example.data));
    }
    V::MORE_EXAMPLES.iter().for_each(run_example::<V>);
}

fn run_example<V: Validator>(more: &MoreExample) {
    let example = more.example;
    let title = example.title;
    assert!(is_object(example.data), "{title}: the data is not a JSON object");
    let mut event = made_up(example.data);
    event.name = more.name.map_or(event.name, str::to_owned);
    event.timestamp = more.timestamp.unwrap_or(event.timestamp);
    event.application = more.application.map_or(event.application, str::to_owned);
    let verdict = V::judge_at(&event, event.timestamp);
    let given = match &verdict {
        Verdict::Accept => Expectation::Accept,
        Verdict::Amend(data) => {
            assert!(is_object(data), "{title}: amended to something that is not a JSON object: {data}");
            assert!(data.len() <= OUTPUT_BYTES_MAX, "{title}: amended to more than {OUTPUT_BYTES_MAX} bytes");
            Expectation::Amend
        }
        Verdict::Reject(violations) => {
            assert!(!violations.is_empty(), "{title}: rejected without a violation");
            assert!(violations.len() <= VIOLATIONS_MAX, "{title}: more than {VIOLATIONS_MAX} violations");
            let bytes = violations.iter().map(|it| it.pointer.len() + it.code.len() + it.message.len()).sum::<usize>();
            assert!(bytes <= OUTPUT_BYTES_MAX, "{title}: violations of more than {OUTPUT_BYTES_MAX} bytes");
            for violation in violations {
                assert!(is_taken(violation), "{title}: the gateway does not take {violation:?}");
            }
            let found: BTreeSet<&str> = violations.iter().map(|violation| &*violation.code).collect();
            let wanted: BTreeSet<&str> = more.codes.iter().copied().collect();
            assert!(wanted.is_empty() || wanted == found, "{title}: rejected with {found:?}");
            Expectation::Reject
        }
    };
    assert_eq!(given, example.expect, "{title}: got {verdict:?}");
    if let Some(kept) = V::redact(example.data) {
        assert!(is_object(&kept), "{title}: redacted to something that is not a JSON object: {kept}");
    }
}

/// Whether the gateway takes a violation: its code is a word, its pointer is one (RFC 6901), and no text holds a NUL.
fn is_taken(violation: &Violation) -> bool {
    let Violation { pointer, code, message } = violation;
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let escapes = pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    let is_pointer = pointer.is_empty() || pointer.starts_with('/') && escapes;
    let is_code = (1..=64).contains(&code.len()) && code.bytes().all(word);
    is_code && is_pointer && ![pointer, message].into_iter().any(|text| text.contains('\0'))
}

fn is_object(data: &str) -> bool {
    data.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(data).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_event_type_is_that_of_the_project() {
        let pair = |category: &str, name: &str| (category.to_owned(), name.to_owned());
        assert_eq!(named(""), pair("test", "test"));
        assert_eq!(named("# eye\ntype = \"shop/order%2Fplaced\"\nlanguage = \"rust\""), pair("shop", "order/placed"));
        assert_eq!(named("type='shop/*'"), pair("shop", "test"));
        assert_eq!(named("type = \"_\""), pair("test", "test"));
        assert_eq!(named("[other]\ntype = \"a/b\""), pair("test", "test"));
    }

    #[test]
    fn a_violation_that_the_gateway_would_not_take_fails_the_test() {
        let violation = |pointer: &str, code: &str| Violation {
            pointer: pointer.to_owned(),
            code: code.to_owned(),
            message: String::new(),
        };
        assert!(is_taken(&violation("", "no")) && is_taken(&violation("/a~1b", "bad.host-1")));
        for (pointer, code) in [("a", "no"), ("/~", "no"), ("/~2", "no"), ("", ""), ("", "not a word"), ("/\0", "no")] {
            assert!(!is_taken(&violation(pointer, code)), "{pointer:?} {code:?}");
        }
    }
}
