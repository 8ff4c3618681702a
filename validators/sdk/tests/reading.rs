//! What authors can rely on: how data is read into their types, what is told when it does not fit, and that edited
//! data loses nothing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use eye_validator::{Event, Json, Object, Part, Verdict, Violations};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some fields are only read, never looked at")]
struct Order<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    count: u8,
    price: Option<f64>,
    paid: bool,
    kind: Kind,
    lines: Vec<Line>,
    #[serde(default)]
    labels: BTreeMap<String, i64>,
    place: Option<(f64, f64)>,
    #[serde(borrow)]
    extra: Option<Json<'a>>,
    #[serde(borrow, default)]
    form: Option<Object<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "some fields are only read, never looked at")]
enum Kind {
    Plain,
    Gift { card: String },
    Discount(u32),
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "some fields are only read, never looked at")]
struct Line {
    sku: Sku,
    amount: u32,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "some fields are only read, never looked at")]
struct Sku(String);

fn judge(event: &Event<Order>) -> Verdict {
    let mut violations = Violations::new();
    violations.require(event.data.count > 0, "/count", "empty", "Order something.");
    violations.verdict()
}

eye_validator::validator! {
    judge,
    summary: "An order.",
    examples: [
        accept "an order": r#"{"id":"a\n\u00fc\ud83d\ude00","count":1,"price":1.5,"paid":true,"kind":"plain",
            "lines":[{"sku":"x","amount":2,"note":[1,{"a":null}]}],"labels":{"a":-1},"place":[1,2.5e3],
            "extra":12345678901234567890.123456789,"form":{}}"#,
        accept "only what is required": r#"{"id":"","count":1,"paid":false,"kind":{"gift":{"card":"x"}},"lines":[]}"#,
        accept "null for what may be missing":
            r#"{"id":"","count":1,"paid":false,"kind":{"discount":7},"lines":[],"price":null,"form":null}"#,
        reject "no lines": r#"{"id":"","count":1,"paid":false,"kind":"plain"}"#,
    ],
}

/// The reasons as `pointer code`.
fn reasons(data: &str) -> Vec<String> {
    let reasons = eye_validator::testing::reasons::<EyeValidator>(data);
    reasons.into_iter().map(|(pointer, code)| format!("{pointer} {code}")).collect()
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    assert_eq!(
        reasons("{}"),
        ["/id required", "/count required", "/paid required", "/kind required", "/lines required"]
    );
    assert_eq!(
        reasons(
            r#"{"id":1,"count":300,"price":"1","paid":null,"kind":"odd","colour":"red","labels":{"a/b~":"x"},
                "lines":[{"sku":"x","amount":1},{"sku":[],"amount":1.5},{}],"place":[1,2,3],"form":[]}"#
        ),
        [
            "/id type",
            "/count value",
            "/price type",
            "/paid type",
            "/kind unknown_value",
            "/colour unknown_field",
            "/labels/a~1b~0 type",
            "/lines/1/sku type",
            "/lines/1/amount value",
            "/lines/2/sku required",
            "/lines/2/amount required",
            "/place length",
            "/form type",
        ]
    );
    assert_eq!(
        reasons(r#"{"id":"","id":"","count":1,"paid":true,"kind":{"gift":{}},"lines":{}}"#),
        ["/id duplicate", "/kind/gift/card required", "/lines type"]
    );
}

#[test]
fn messages_say_how_to_mend() {
    let Verdict::Reject(violations) =
        eye_validator::testing::judge::<EyeValidator>(r#"{"count":-1,"paid":"yes","kind":"odd","lines":[]}"#)
    else {
        panic!("this order does not fit")
    };
    let messages: Vec<_> = violations.iter().map(|violation| violation.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "Give a whole number from 0 to 255 here.",
            "Give a boolean here, not a string.",
            "Give one of `plain`, `gift`, `discount` here.",
            "Add the field `id`.",
        ]
    );
}

#[test]
fn text_that_is_not_json_is_told_and_never_panics() {
    for data in ["", "{", "{\"id\"", "[]", "nul", "{\"id\":\"\\x\"}", "{}x", "{\"id\":\"\u{1}\"}", "{\"a\":01}"] {
        assert!(!reasons(data).is_empty(), "{data}");
    }
}

#[test]
fn large_hostile_data_is_told_in_bounded_time() {
    let lines = vec!["{}"; 80_000].join(",");
    let told = reasons(&format!(r#"{{"id":"","count":1,"paid":true,"kind":"plain","lines":[{lines}]}}"#));
    assert!((1..=5).contains(&told.len()), "{}", told.len());
}

#[test]
fn edited_data_keeps_every_digit_and_the_order_of_keys() {
    let text = r#"{"z": 12345678901234567890.123456789, "a\u0062": 1e400, "m": [1.0, -0.0], "é": "\u00e9"}"#;
    let mut object = Object::parse(text).expect("this is an object");
    object.set("m", "new \"m\" \u{1}");
    object.set("added", true);
    assert_eq!(object.get("ab").map(|value| value.text().to_owned()).as_deref(), Some("1e400"));
    assert!(object.remove("é") && !object.remove("é"));
    assert_eq!(
        object.to_text(),
        r#"{"z":12345678901234567890.123456789,"a\u0062":1e400,"m":"new \"m\" \u0001","added":true}"#
    );
}

#[test]
fn rewriting_replaces_whole_values_and_keeps_the_rest() {
    let text = r#" {"a": [1, {"secret": {"b": [2]}}, "x"], "secret" : 3, "c": 4.0} "#;
    let json = Json::parse(text).expect("this is JSON");
    let redacted = json.rewrite(|key, _| (key == Some("secret")).then(|| Json::from("*"))).expect("this is JSON");
    assert_eq!(
        redacted.expect("something is replaced").text(),
        r#"{"a": [1, {"secret": "*"}, "x"], "secret" : "*", "c": 4.0}"#
    );
    assert_eq!(json.rewrite(|_, part| (part == Part::Other("5")).then(|| true.into())), Ok(None));
}

proptest! {
    /// The sdk's reader takes the same texts as serde_json, and finds the same in them.
    #[test]
    fn reads_as_serde_json_does(text in json(), cut in any::<prop::sample::Index>(), byte in "[]{}\":,\\\\0-9eE.u \u{1}]") {
        let theirs: serde_json::Value = serde_json::from_str(&text).expect("json() makes JSON");
        let ours = Json::parse(&text).expect("json() makes JSON");
        prop_assert_eq!(ours.text(), text.trim());
        prop_assert_eq!(strings(&ours), strings_of(&theirs));

        let mut bytes = text.into_bytes();
        let at = cut.index(bytes.len());
        bytes.splice(at..=at, byte.bytes());
        if let Ok(broken) = String::from_utf8(bytes) {
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&broken);
            prop_assert_eq!(Json::parse(&broken).is_ok(), theirs.is_ok(), "{}", broken);
        }
    }

    #[test]
    fn a_string_survives_quoting(text in any::<String>()) {
        let json = Json::from(text.as_str());
        prop_assert_eq!(json.as_str().map(Cow::into_owned), Some(text.clone()));
        prop_assert_eq!(serde_json::from_str::<String>(json.text()).ok(), Some(text));
    }
}

/// The strings in a value, in order.
fn strings(json: &Json<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let rewritten = json.rewrite(|_, part| {
        if let Part::Text(text) = part {
            found.push(text.into_owned());
        }
        None
    });
    assert_eq!(rewritten, Ok(None));
    found
}

fn strings_of(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text.clone()],
        serde_json::Value::Array(list) => list.iter().flat_map(strings_of).collect(),
        serde_json::Value::Object(members) => members.values().flat_map(strings_of).collect(),
        _ => Vec::new(),
    }
}

/// JSON text with white space, escapes and numbers of all shapes. Keys are in order, as serde_json sorts them.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a string is JSON")),
        Just("\"\\ud83d\\ude00\\/\\u00e9\"".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[ {} ]", list.join(" ,\n"))),
            prop::collection::vec(inner, 0..5).prop_map(|list| {
                let members: Vec<_> =
                    list.iter().enumerate().map(|(key, value)| format!("\"{key}\" :\t{value}")).collect();
                format!("{{{}}}", members.join(", "))
            }),
        ]
    })
}

#[test]
fn what_lies_at_a_pointer_is_redacted_and_the_rest_is_kept_to_the_letter() {
    let data = r#"{"a":1.50,"p":"x","cards":[{"number":1, "k":1e400},{"n":2},7],"m":{"a/b":{"c":[1]},"~":2},"p":3}"#;
    let redacted = |pointers: &[&str]| {
        let mut object = Object::parse(data).expect("an object");
        object.redact(pointers);
        object.to_text()
    };
    assert_eq!(redacted(&[]), data);
    assert_eq!(redacted(&["/none", "/a/b", "/cards/9", "/cards/*/none/x", ""]), data);
    assert_eq!(
        redacted(&["/p"]),
        data.replace("\"p\":\"x\"", "\"p\":\"[redacted]\"").replace("\"p\":3", "\"p\":\"[redacted]\"")
    );
    assert_eq!(redacted(&["/cards/*/number"]), data.replace("{\"number\":1, ", "{\"number\":\"[redacted]\","));
    assert_eq!(redacted(&["/cards/1"]), data.replace("{\"n\":2}", "\"[redacted]\""));
    assert_eq!(
        redacted(&["/m/a~1b/c/0", "/m/~0"]),
        data.replace("[1]", "[\"[redacted]\"]").replace("\"~\":2", "\"~\":\"[redacted]\"")
    );
    assert_eq!(redacted(&["/*"]).matches("[redacted]").count(), 5);
}
