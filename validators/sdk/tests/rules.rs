//! The table to which the kits of all languages are held: inputs, and the violations that a kit must find, with their words.

use std::collections::BTreeMap;

use eye_validator::{Decimal, Event, Pattern, Verdict, Violation, Violations};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[expect(dead_code, reason = "the fields are only read, never looked at")]
struct Line {
    product: String,
    quantity: u32,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "the fields are only read, never looked at")]
struct Order {
    order: String,
    total: Decimal,
    paid: bool,
    lines: Vec<Line>,
    note: Option<String>,
    #[serde(default)]
    shift: i64,
    more: Option<BTreeMap<String, Decimal>>,
}

fn judge(_: &Event<Order>) -> Verdict {
    Verdict::Accept
}

eye_validator::validator! {
    judge,
    summary: "Takes what fits the type.",
    examples: [reject "nothing": "{}"],
}

#[derive(Deserialize)]
struct Table {
    rules: Vec<Case>,
    decimals: Vec<(String, Option<String>)>,
}

#[derive(Deserialize)]
struct Case {
    rule: String,
    value: Value,
    #[serde(default)]
    arguments: Vec<Value>,
    violations: Vec<Told>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Told {
    pointer: String,
    code: String,
    message: String,
}

impl From<&Violation> for Told {
    fn from(one: &Violation) -> Self {
        Self { pointer: one.pointer.clone(), code: one.code.clone(), message: one.message.clone() }
    }
}

fn decimal(value: &Value) -> Decimal {
    Decimal::parse(text(value)).expect("a decimal number")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// A range of whole numbers or of decimal ones, as the value is one or the other.
fn range(violations: &mut Violations, value: &Value, arguments: &[Value]) {
    if value.is_string() {
        violations.range("/at", decimal(value), decimal(&arguments[0])..=decimal(&arguments[1]));
        return;
    }
    let whole = |value: &Value| value.as_i64().expect("a whole number");
    violations.range("/at", whole(value), whole(&arguments[0])..=whole(&arguments[1]));
}

fn length(violations: &mut Violations, value: &Value, arguments: &[Value]) {
    let bound = |at: usize| usize::try_from(arguments[at].as_u64().expect("a bound")).expect("a bound");
    let allowed = bound(0)..=bound(1);
    match value.as_array() {
        Some(list) => violations.length("/at", list, allowed),
        None => violations.length("/at", text(value), allowed),
    };
}

fn found(case: &Case) -> Vec<Told> {
    let Case { rule, value, arguments, .. } = case;
    let mut violations = Violations::new();
    match &**rule {
        "read" => {
            return match eye_validator::testing::judge::<EyeValidator>(text(value)) {
                Verdict::Reject(violations) => violations.iter().map(Told::from).collect(),
                _ => Vec::new(),
            };
        }
        "required" => drop(violations.required("/at", &value.as_str())),
        "one_of" => {
            let allowed: Vec<&str> = arguments[0].as_array().expect("a list").iter().map(text).collect();
            violations.one_of("/at", text(value), &allowed);
        }
        "length" => length(&mut violations, value, arguments),
        "range" => range(&mut violations, value, arguments),
        "decimals" => {
            let places_max = u32::try_from(arguments[0].as_u64().expect("places")).expect("places");
            violations.decimals("/at", decimal(value), places_max);
        }
        "pattern" => {
            let pattern = Pattern::new(text(&arguments[0]).to_owned().leak());
            violations.pattern("/at", text(value), &pattern);
        }
        _ => {
            let method = match &**rule {
                "email" => Violations::email,
                "url" => Violations::url,
                "uuid" => Violations::uuid,
                "host" => Violations::host,
                "currency" => Violations::currency,
                "country" => Violations::country,
                other => panic!("the table has a rule that this test does not know: {other}"),
            };
            method(&mut violations, "/at", text(value));
        }
    }
    violations.iter().map(Told::from).collect()
}

#[test]
fn the_table_of_all_kits_says_what_this_one_says() {
    let table: Table = serde_json::from_str(include_str!("rules.json")).expect("the table");
    assert!(table.rules.len() > 150, "{}", table.rules.len());
    for case in &table.rules {
        assert_eq!(found(case), case.violations, "{} of {} {:?}", case.rule, case.value, case.arguments);
    }
    for (text, whole) in &table.decimals {
        assert_eq!(Decimal::parse(text), whole.as_deref().and_then(Decimal::parse), "{text:?}");
    }
}
