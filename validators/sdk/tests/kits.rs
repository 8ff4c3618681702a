//! The kits of all languages say the same: `kits.json` has inputs with the codes, pointers and messages that they get, and where a
//! kit must say something else, what. This reads it for Rust; `make test-authors` runs `kits.ts` for TypeScript and `kits.py` for
//! Python.

use std::collections::BTreeMap;

use eye_validator::{Decimal, Event, Object, Pattern, RawEvent, Verdict, Violation, Violations};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Table {
    rules: Vec<Rule>,
    wrong_patterns: Vec<String>,
    decimals: Vec<Number>,
    reading: Vec<Reading>,
    edits: Vec<Edit>,
}

#[derive(Deserialize)]
struct Rule {
    rule: String,
    arguments: Vec<Value>,
    holds: Vec<Value>,
    breaks: Vec<Value>,
    message: String,
}

#[derive(Deserialize)]
struct Number {
    text: String,
    shown: Option<String>,
}

#[derive(Deserialize)]
struct Reading {
    data: String,
    violations: Vec<Told>,
}

#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    pointer: String,
    code: String,
    message: String,
}

#[derive(Deserialize)]
struct Edit {
    data: String,
    redact: Vec<String>,
    text: String,
}

fn table() -> Table {
    serde_json::from_str(include_str!("kits.json")).expect("the table")
}

/// A pattern of the table. They are few, and live as long as the test.
fn pattern(text: &str) -> Pattern {
    Pattern::new(Box::leak(text.to_owned().into_boxed_str()))
}

fn apply(violations: &mut Violations, rule: &Rule, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let argument = |at: usize| rule.arguments[at].as_str().expect("a text");
    let count = |at: usize| usize::try_from(rule.arguments[at].as_u64().expect("a number")).expect("a small one");
    match rule.rule.as_str() {
        "required" => violations.required("/it", &value.as_str()).is_some(),
        "one_of" => {
            violations.one_of("/it", text, &rule.arguments.iter().filter_map(Value::as_str).collect::<Vec<_>>())
        }
        "length" => match value.as_array() {
            Some(list) => violations.length("/it", list, count(0)..=count(1)),
            None => violations.length("/it", text, count(0)..=count(1)),
        },
        "range" => match value.as_i64() {
            Some(number) => {
                let bound = |at: usize| rule.arguments[at].as_i64().expect("a whole number");
                violations.range("/it", number, bound(0)..=bound(1))
            }
            None => violations.range("/it", decimal(text), decimal(argument(0))..=decimal(argument(1))),
        },
        "decimals" => violations.decimals("/it", decimal(text), u32::try_from(count(0)).expect("a small one")),
        "pattern" => violations.pattern("/it", text, &pattern(argument(0))),
        "email" => violations.email("/it", text),
        "url" => violations.url("/it", text),
        "uuid" => violations.uuid("/it", text),
        "host" => violations.host("/it", text),
        "currency" => violations.currency("/it", text),
        "country" => violations.country("/it", text),
        other => panic!("no rule {other}"),
    }
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse(text).expect("a decimal number")
}

fn told(violations: &[Violation]) -> Vec<Told> {
    let one = |it: &Violation| Told { pointer: it.pointer.clone(), code: it.code.clone(), message: it.message.clone() };
    let mut told: Vec<Told> = violations.iter().map(one).collect();
    told.sort();
    told
}

#[test]
fn rules_hold_and_break_as_the_table_says() {
    for rule in table().rules {
        for value in &rule.holds {
            let mut violations = Violations::new();
            assert!(apply(&mut violations, &rule, value) && violations.is_empty(), "{} {value}", rule.rule);
        }
        for value in &rule.breaks {
            let mut violations = Violations::new();
            assert!(!apply(&mut violations, &rule, value), "{} {value}", rule.rule);
            let found: Vec<_> = violations.iter().map(|it| (&*it.pointer, &*it.code, &*it.message)).collect();
            assert_eq!(found, [("/it", &*rule.rule, &*rule.message)], "{value}");
        }
    }
}

#[test]
fn wrong_patterns_and_numbers_are_none_as_the_table_says() {
    for wrong in table().wrong_patterns {
        assert!(std::panic::catch_unwind(|| pattern(&wrong)).is_err(), "{wrong}");
    }
    for number in table().decimals {
        assert_eq!(Decimal::parse(&number.text).map(|it| it.to_string()), number.shown, "{:?}", number.text);
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "what is read is not looked at")]
struct Order {
    order: String,
    total: Decimal,
    paid: bool,
    count: u8,
    kind: Kind,
    note: Option<String>,
    lines: Vec<Line>,
    #[serde(default)]
    shift: i64,
    more: Option<BTreeMap<String, Decimal>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    New,
    Old,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "what is read is not looked at")]
struct Line {
    product: String,
    quantity: u32,
}

#[test]
fn data_is_read_as_the_table_says() {
    for mut reading in table().reading {
        let event = RawEvent {
            id: String::new(),
            application: String::new(),
            session_id: String::new(),
            category: String::new(),
            name: String::new(),
            timestamp: 0,
            data: reading.data.clone(),
        };
        let found = match eye_validator::judge(&event, |_: &Event<'_, Order>| Verdict::Accept) {
            Verdict::Reject(violations) => told(&violations),
            Verdict::Accept | Verdict::Amend(_) => Vec::new(),
        };
        reading.violations.sort();
        assert_eq!(found, reading.violations, "{}", reading.data);
    }
}

#[test]
fn edits_lose_nothing_as_the_table_says() {
    for edit in table().edits {
        let mut data = Object::parse(&edit.data).expect("an object");
        data.redact(&edit.redact.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(data.to_text(), edit.text);
    }
}
