//! Made-up misuse: the data of a right event, with each of its fields in turn missing, of another kind, empty, huge, odd
//! or deep. Whatever of it a gateway would let pass must get a verdict, and never break the module.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Events from which misuse is made.
const SEEDS_MAX: usize = 50;

/// Fields of one event that are misused.
const FIELDS_MAX: usize = 200;

/// Events that are made.
pub(super) const CASES_MAX: usize = 20_000;

/// Bytes of a huge text. With the rest of the event it stays below what a gateway takes.
const HUGE_BYTES: usize = 200 << 10;

/// Levels of a deep value, beside those around it. A gateway takes 64.
const DEEP: usize = 50;

/// What stands in a text for the value that is put there.
const MARK: &str = "\u{e000}eye\u{e000}";

/// An event that is misused.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// What was done, and to which field.
    pub(super) title: String,
    /// The text of its data.
    pub(super) data: String,
}

/// Values that are put in place of a field: a name, and JSON text.
fn values() -> Vec<(&'static str, String)> {
    let text = |content: &str| Value::String(content.to_owned()).to_string();
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(DEEP), close.repeat(DEEP));
    let list = |element: &str, count: usize| format!("[{}]", vec![element; count].join(","));
    vec![
        ("null", "null".to_owned()),
        ("true", "true".to_owned()),
        ("false", "false".to_owned()),
        ("an empty text", text("")),
        ("a space", text(" ")),
        ("a text", text("misuse")),
        ("a huge text", text(&"x".repeat(HUGE_BYTES))),
        ("a huge text of four-byte characters", text(&"\u{1F600}".repeat(HUGE_BYTES / 8))),
        ("a text of escapes", format!("\"{}\"", "\\u0001".repeat(5_000))),
        ("an escaped pair", "\"\\ud83d\\ude00\"".to_owned()),
        ("control characters", text("a\u{1}\u{7f}\u{85}\r\n\tb")),
        ("a text that runs backwards", text("\u{202e}abc\u{2066}")),
        ("combining characters", text(&"e\u{301}\u{300}".repeat(100))),
        ("invisible characters", text("\u{feff}\u{200b}\u{200d}\u{ad}")),
        ("no characters of Unicode", text("\u{ffff}\u{fdd0}\u{10ffff}\u{fffd}")),
        ("digits of other scripts", text("\u{661}\u{662}\u{663}\u{ff11}")),
        ("a byte that begins a character", text("\u{e9}")),
        ("a text of slashes and dots", text("../../%2e%2e/~1~0//")),
        ("a date that is none", text("2026-02-30T25:61:61Z")),
        ("a number as text", text("1e999")),
        ("zero", "0".to_owned()),
        ("zero below zero", "-0".to_owned()),
        ("one below zero", "-1".to_owned()),
        ("half", "0.5".to_owned()),
        ("an amount", "19.99".to_owned()),
        ("a number with an exponent", "1E+2".to_owned()),
        ("a number that no float holds", "9007199254740993".to_owned()),
        ("the largest of 64 bits", "18446744073709551615".to_owned()),
        ("one more", "18446744073709551616".to_owned()),
        ("the least of 64 bits", "-9223372036854775808".to_owned()),
        ("a number of 300 digits", "7".repeat(300)),
        ("a number beyond floats", "1e400".to_owned()),
        ("a number next to nothing", "1e-400".to_owned()),
        ("300 digits after the point", format!("0.{}", "3".repeat(300))),
        ("an empty list", "[]".to_owned()),
        ("a list in a list", "[[]]".to_owned()),
        ("a list of nulls", list("null", 100)),
        ("a list of everything", "[1,\"a\",null,true,{},[]]".to_owned()),
        ("a huge list", list("1", HUGE_BYTES / 4)),
        ("a huge list of objects", list("{}", HUGE_BYTES / 4)),
        ("a deep list", deep("[", "]")),
        ("an empty object", "{}".to_owned()),
        ("an object with an empty key", "{\"\":1}".to_owned()),
        (
            "an object with odd keys",
            "{\"~\":1,\"/\":2,\"a b\":3,\"\\u0001\":4,\"__proto__\":5,\"\u{e9}\":6}".to_owned(),
        ),
        ("a deep object", deep("{\"a\":", "}")),
        (
            "a huge object",
            format!("{{{}}}", (0..10_000).map(|key| format!("\"k{key}\":1")).collect::<Vec<_>>().join(",")),
        ),
    ]
}

/// The misuse of these events, without doubles. Says how much there would be beyond the bound.
pub(super) fn of(seeds: &[&str], passes: impl Fn(&str) -> bool) -> (Vec<Case>, usize) {
    let (mut cases, mut known, mut left) = (Vec::new(), HashSet::new(), 0);
    let mut add = |title: String, data: String| {
        if passes(&data) && known.insert(data.clone()) {
            if cases.len() < CASES_MAX {
                cases.push(Case { title, data });
            } else {
                left += 1;
            }
        }
    };
    let values = values();
    add("no field at all".to_owned(), "{}".to_owned());
    for (name, value) in &values {
        add(format!("{name} beside nothing"), format!("{{\"misuse\":{value}}}"));
    }
    for seed in seeds.iter().take(SEEDS_MAX) {
        let Ok(data) = serde_json::from_str::<Value>(seed) else { continue };
        let mut pointers = Vec::new();
        pointers_of(&data, String::new(), &mut pointers);
        for pointer in pointers.iter().take(FIELDS_MAX) {
            if let Some(text) = without(&data, pointer) {
                add(format!("{pointer} is missing"), text);
            }
            let Some(marked) = marked(&data, pointer) else { continue };
            let place = Value::String(MARK.to_owned()).to_string();
            for (name, value) in &values {
                add(format!("{pointer} is {name}"), marked.replacen(&place, value, 1));
            }
        }
        if let Value::Object(members) = &data {
            add("a thousand more fields".to_owned(), with_more(members));
        }
    }
    (cases, left)
}

/// The pointers of all values within one, breadth first is not needed: outer ones come before those within.
fn pointers_of(value: &Value, at: String, found: &mut Vec<String>) {
    if found.len() > FIELDS_MAX {
        return;
    }
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => {
            members.iter().map(|(key, value)| (format!("{at}/{}", escaped(key)), value)).collect()
        }
        // Elements of a list are of one kind, most of the time.
        Value::Array(list) => {
            list.iter().take(3).enumerate().map(|(index, value)| (format!("{at}/{index}"), value)).collect()
        }
        _ => Vec::new(),
    };
    for (pointer, child) in children {
        found.push(pointer.clone());
        pointers_of(child, pointer, found);
    }
}

/// The data with a mark in place of a value.
fn marked(data: &Value, pointer: &str) -> Option<String> {
    let mut data = data.clone();
    *data.pointer_mut(pointer)? = Value::String(MARK.to_owned());
    Some(data.to_string())
}

/// The data without a value.
fn without(data: &Value, pointer: &str) -> Option<String> {
    let mut data = data.clone();
    let (parent, key) = pointer.rsplit_once('/')?;
    match data.pointer_mut(parent)? {
        Value::Object(members) => drop(members.remove(&key.replace("~1", "/").replace("~0", "~"))),
        Value::Array(list) => drop(list.remove(key.parse().ok()?)),
        _ => return None,
    }
    Some(data.to_string())
}

fn with_more(members: &Map<String, Value>) -> String {
    let mut members = members.clone();
    members.extend((0..1_000).map(|number| (format!("more{number}"), Value::from(number))));
    Value::Object(members).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_misused_in_every_way_and_the_rest_stays() {
        let (cases, left) = of(&["{\"a\":1,\"b\":{\"c/d\":[\"x\",\"y\"]}}"], |_| true);
        assert_eq!(left, 0);
        let find = |title: &str| cases.iter().find(|case| case.title == title).map(|case| case.data.as_str());
        assert_eq!(find("/a is missing"), Some("{\"b\":{\"c/d\":[\"x\",\"y\"]}}"));
        assert_eq!(find("/b/c~1d/1 is null"), Some("{\"a\":1,\"b\":{\"c/d\":[\"x\",null]}}"));
        assert_eq!(find("/a is a number beyond floats"), Some("{\"a\":1e400,\"b\":{\"c/d\":[\"x\",\"y\"]}}"));
        assert!(cases.len() > 5 * 40, "{}", cases.len());
        let mut seen = HashSet::new();
        assert!(cases.iter().all(|case| seen.insert(&case.data)), "no event comes twice");
    }

    #[test]
    fn all_of_it_is_json_that_a_gateway_lets_pass_or_leaves_out() {
        let check = super::super::trying::check_data().expect("the defaults");
        let (cases, _) = of(&["{\"a\":{\"b\":[1]}}"], |data| check(data).is_ok());
        for case in &cases {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(&case.data).is_ok(), "{}", case.title);
        }
        for wanted in
            ["/a is a huge text", "/a/b/0 is a deep list", "/a is a deep object", "/a is no characters of Unicode"]
        {
            assert!(cases.iter().any(|case| case.title == wanted), "{wanted} passes");
        }
    }
}
