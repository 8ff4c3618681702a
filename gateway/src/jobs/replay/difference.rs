//! The difference of two JSON documents: the places where they differ, with both values. Numbers are compared by their
//! text, so that no digit is lost; those that are short are compared by their value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Most places that are listed.
const PLACES_MAX: usize = 20;
/// A longer value is shown by its beginning.
const VALUE_CHARACTERS_MAX: usize = 200;
/// Numbers of so many characters at most have no digit that a double does not hold.
const SHORT_NUMBER: usize = 15;

/// One place where two documents differ.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Difference {
    /// The place, as a JSON pointer.
    pub(super) pointer: String,
    /// The value before; `None` if there was none.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "there")]
    pub(super) old: Option<Value>,
    /// The value now; `None` if there is none.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "there")]
    pub(super) new: Option<Value>,
    /// A value was too long, and its text is shown as far as it fits.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) cut: bool,
}

/// Tells a value that is null from none.
fn there<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

/// A part of a document, which borrows its text.
enum Node<'a> {
    Object(BTreeMap<Cow<'a, str>, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    Scalar(&'a str),
}

impl<'a> Node<'a> {
    fn of(text: &'a str) -> Self {
        let read = match text.as_bytes().first() {
            Some(b'{') => serde_json::from_str::<BTreeMap<Key<'a>, &'a RawValue>>(text)
                .ok()
                .map(|members| Self::Object(members.into_iter().map(|(key, value)| (key.0, value)).collect())),
            Some(b'[') => serde_json::from_str(text).ok().map(Self::Array),
            _ => None,
        };
        read.unwrap_or(Self::Scalar(text))
    }
}

/// The key of a member. It borrows its text where that has no escapes.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The places where two documents differ, in the order of their keys, and how many more there are.
pub(super) fn differences(old: &str, new: &str) -> (Vec<Difference>, u64) {
    let mut found = Found::default();
    found.compare(&mut String::new(), old.trim(), new.trim());
    (found.places, found.more)
}

#[derive(Default)]
struct Found {
    places: Vec<Difference>,
    more: u64,
}

impl Found {
    fn compare(&mut self, pointer: &mut String, old: &str, new: &str) {
        if old == new {
            return;
        }
        match (Node::of(old), Node::of(new)) {
            (Node::Object(before), Node::Object(after)) => {
                let keys: std::collections::BTreeSet<&Cow<'_, str>> = before.keys().chain(after.keys()).collect();
                for key in keys {
                    let key_part = key.replace('~', "~0").replace('/', "~1");
                    self.below(pointer, &key_part, before.get(key).copied(), after.get(key).copied());
                }
            }
            (Node::Array(before), Node::Array(after)) => {
                for place in 0..before.len().max(after.len()) {
                    self.below(pointer, &place.to_string(), before.get(place).copied(), after.get(place).copied());
                }
            }
            (Node::Scalar(before), Node::Scalar(after)) if is_same(before, after) => {}
            _ => self.note(pointer, Some(old), Some(new)),
        }
    }

    fn below(&mut self, pointer: &mut String, part: &str, old: Option<&RawValue>, new: Option<&RawValue>) {
        let length = pointer.len();
        pointer.push('/');
        pointer.push_str(part);
        match (old.map(RawValue::get), new.map(RawValue::get)) {
            (Some(old), Some(new)) => self.compare(pointer, old, new),
            (old, new) => self.note(pointer, old, new),
        }
        pointer.truncate(length);
    }

    fn note(&mut self, pointer: &str, old: Option<&str>, new: Option<&str>) {
        if self.places.len() == PLACES_MAX {
            self.more += 1;
            return;
        }
        let mut cut = false;
        let mut value = |text: &str| shown(text, &mut cut);
        let (old, new) = (old.map(&mut value), new.map(&mut value));
        self.places.push(Difference { pointer: pointer.to_owned(), old, new, cut });
    }
}

fn is_same(old: &str, new: &str) -> bool {
    let text = |one: &str| serde_json::from_str::<String>(one).ok();
    let number = |one: &str| (one.len() <= SHORT_NUMBER).then(|| one.parse::<f64>().ok()).flatten();
    match (text(old), text(new)) {
        (Some(old), Some(new)) => old == new,
        _ => number(old).is_some_and(|old| number(new) == Some(old)),
    }
}

/// A value as it is, or the beginning of its text.
fn shown(text: &str, cut: &mut bool) -> Value {
    if text.chars().count() <= VALUE_CHARACTERS_MAX {
        return serde_json::from_str(text).unwrap_or_else(|_| text.into());
    }
    *cut = true;
    text.chars().take(VALUE_CHARACTERS_MAX).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(old: &str, new: &str) -> Value {
        serde_json::to_value(differences(old, new).0).expect("differences serialize")
    }

    #[test]
    fn places_that_differ_are_told_with_both_values() {
        assert_eq!(told(r#"{"a": 1, "b": [1, 2]}"#, r#"{"b":[1,2],"a":1}"#), json!([]));
        assert_eq!(
            told(
                r#"{"a":{"x/y":"one"},"gone":null,"list":[1,{"n":2}]}"#,
                r#"{"a":{"x/y":"two"},"list":[1,{"n":3},4],"made":[]}"#
            ),
            json!([
                {"pointer": "/a/x~1y", "old": "one", "new": "two"},
                {"pointer": "/gone", "old": null},
                {"pointer": "/list/1/n", "old": 2, "new": 3},
                {"pointer": "/list/2", "new": 4},
                {"pointer": "/made", "new": []},
            ])
        );
    }

    #[test]
    fn spelling_is_no_difference_and_a_digit_is_one() {
        assert_eq!(told(r#"{"a":"\u00e9\/","n":1.50}"#, "{\"a\":\"\u{e9}/\",\"n\":1.5}"), json!([]));
        let places = differences(r#"{"n":12345678901234567890}"#, r#"{"n":12345678901234567891}"#).0;
        assert_eq!(places[0].pointer, "/n");
    }

    #[test]
    fn lists_and_values_are_bounded() {
        let long = "x".repeat(1_000);
        let many: Vec<usize> = (0..100).collect();
        let (places, more) = differences(&json!({"many": []}).to_string(), &json!({"many": many}).to_string());
        assert_eq!((places.len(), more), (PLACES_MAX, 80));
        let (places, _) = differences(&json!({"a": long}).to_string(), r#"{"a":1}"#);
        assert!(places[0].cut && places[0].old.as_ref().is_some_and(|old| old.as_str().expect("text").len() == 200));
        let again: Vec<Difference> = serde_json::from_value(told(r#"{"a":null}"#, "{}")).expect("its own");
        assert_eq!(again[0].old, Some(Value::Null));
    }
}
