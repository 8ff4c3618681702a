//! What the engine says beyond valid and invalid: pointers, codes, messages, secrets, and why a file is refused.

use json_schema::{Room, Violation, configured, examples, judge, redact, summary};

const ROOM: Room = Room { violations: 100, bytes: 1 << 18 };

fn program(schema: &str) -> json_schema::Program {
    let schema: &'static str = schema.to_owned().leak();
    configured(schema.as_bytes()).unwrap_or_else(|why| panic!("{schema}: {why}")).0
}

fn refusal(schema: &str) -> serde_json::Value {
    let schema: &'static str = schema.to_owned().leak();
    let answer = configured(schema.as_bytes()).expect_err(schema);
    serde_json::from_str(&answer).expect("JSON")
}

fn violations(schema: &str, data: &str) -> Vec<(String, &'static str, String)> {
    let told = judge(&program(schema), ROOM, data).expect_err("it does not fit");
    told.into_iter().map(|Violation { pointer, code, message }| (pointer, code, message)).collect()
}

fn place_and_code(schema: &str, data: &str) -> Vec<(String, &'static str)> {
    violations(schema, data).into_iter().map(|(pointer, code, _)| (pointer, code)).collect()
}

#[test]
fn each_keyword_tells_its_place_and_its_name_in_snake_case() {
    for (schema, data, pointer, code) in [
        (r#"{"required":["a/b"]}"#, "{}", "/a~1b", "required"),
        (r#"{"properties":{"a":{"multipleOf":0.01}}}"#, r#"{"a":19.999}"#, "/a", "multiple_of"),
        (r#"{"properties":{"a":{"exclusiveMinimum":0}}}"#, r#"{"a":0}"#, "/a", "exclusive_minimum"),
        (r#"{"properties":{"a":{"minLength":2}}}"#, r#"{"a":"ä"}"#, "/a", "min_length"),
        (r#"{"properties":{"a":{"maxItems":1}}}"#, r#"{"a":[1,2]}"#, "/a", "max_items"),
        (r#"{"minProperties":1}"#, "{}", "", "min_properties"),
        (r#"{"properties":{"a":{"uniqueItems":true}}}"#, r#"{"a":[1,1.0]}"#, "/a", "unique_items"),
        (r#"{"additionalProperties":false}"#, r#"{"a":1}"#, "/a", "additional_properties"),
        (r#"{"unevaluatedProperties":false}"#, r#"{"a":1}"#, "/a", "unevaluated_properties"),
        (r#"{"properties":{"a":{"items":{"type":"string"}}}}"#, r#"{"a":["",1]}"#, "/a/1", "type"),
        (r#"{"properties":{"a":{"prefixItems":[{}],"items":false}}}"#, r#"{"a":[1,2]}"#, "/a/1", "items"),
        (r#"{"dependentRequired":{"a":["b"]}}"#, r#"{"a":1}"#, "/b", "dependent_required"),
        (r#"{"propertyNames":{"pattern":"^a"}}"#, r#"{"b":1}"#, "/b", "property_names"),
        (r#"{"properties":{"a":{"anyOf":[{"type":"string"},{"const":1}]}}}"#, r#"{"a":2}"#, "/a", "any_of"),
        (r#"{"properties":{"a":{"oneOf":[{},{}]}}}"#, r#"{"a":2}"#, "/a", "one_of"),
        (r#"{"properties":{"a":{"not":{}}}}"#, r#"{"a":2}"#, "/a", "not"),
        (r#"{"properties":{"a":{"contains":{"const":1}}}}"#, r#"{"a":[]}"#, "/a", "contains"),
        (r#"{"properties":{"a":{"format":"date"}}}"#, r#"{"a":"2023-02-29"}"#, "/a", "format"),
        (r##"{"allOf":[{"$ref":"#/$defs/x"}],"$defs":{"x":{"required":["y"]}}}"##, "{}", "/y", "required"),
        (r#"{"if":{"required":["a"]},"then":{"required":["b"]}}"#, r#"{"a":1}"#, "/b", "required"),
    ] {
        assert_eq!(place_and_code(schema, data), [(pointer.to_owned(), code)], "{schema}");
    }
    assert!(judge(&program(r#"{"properties":{"a":{"type":"integer"}}}"#), ROOM, r#"{"a":3.0}"#).is_ok());
}

#[test]
fn no_message_quotes_the_data() {
    let schema = r#"{"type":"object","properties":{
        "a":{"type":"string","pattern":"^x","format":"uuid","maxLength":3,"enum":["x"],"const":"x","not":{"type":"string"}},
        "b":{"type":"array","uniqueItems":true,"items":{"maximum":1,"multipleOf":2}}},"additionalProperties":false}"#;
    let told = violations(schema, r#"{"a":"hunter2","b":[4111,4111]}"#);
    assert!(told.len() >= 9, "{told:?}");
    assert!(told.iter().all(|(_, _, message)| !message.contains("hunter2") && !message.contains("4111")), "{told:?}");
}

#[test]
fn what_the_author_says_stands_in_place_of_the_engines_words() {
    let schema = r#"{"required":["total","name"],"x-eye-message":{"required":"It belongs here."},"properties":{
        "total":{"minimum":1,"x-eye-message":"Give the total in cents."},"name":{"minLength":3}}}"#;
    let message = |data: &str| violations(schema, data).remove(0).2;
    assert_eq!(message(r#"{"total":0,"name":"abc"}"#), "Give the total in cents.");
    assert_eq!(message(r#"{"name":"abc"}"#), "Give the total in cents.");
    assert_eq!(message(r#"{"total":1}"#), "It belongs here.");
    assert_eq!(message(r#"{"total":1,"name":"a"}"#), "must have 3 characters or more");
}

#[test]
fn secrets_are_taken_out_of_what_fits_and_of_what_does_not() {
    let schema = r##"{"properties":{"user":{"type":"string"},"password":{"type":"string","writeOnly":true},
        "cards":{"type":"array","items":{"$ref":"#/$defs/card"}}},
        "$defs":{"card":{"type":"object","properties":{"number":{"type":"string","x-eye-redact":true}}}}}"##;
    let program = program(schema);
    let data = r#"{"user":"a","password":"hunter2","cards":[{"number":"4111","exp":1.50},{}]}"#;
    let kept = r#"{"user":"a","password":"[redacted]","cards":[{"number":"[redacted]","exp":1.50},{}]}"#;
    assert_eq!(judge(&program, ROOM, data), Ok(Some(kept.to_owned())));
    // What was taken out before fits, and stays as it is.
    assert_eq!(judge(&program, ROOM, kept), Ok(None));
    let broken = r#"{"password":{"deep":"hunter2"},"password":["hunter2"],"cards":[{"number":4111}],"user":1}"#;
    assert!(judge(&program, ROOM, broken).is_err());
    let redacted = redact(&program, broken.to_owned());
    assert!(!redacted.contains("hunter2") && !redacted.contains("4111"), "{redacted}");
    assert_eq!(redact(&program, "{\"user\": \"a\"}".to_owned()), r#"{"user":"a"}"#);
}

#[test]
fn alternatives_that_fit_decide_what_is_secret_and_else_all_of_them_do() {
    let schema = r#"{"oneOf":[
        {"properties":{"kind":{"const":"card"},"number":{"writeOnly":true}},"required":["kind"]},
        {"properties":{"kind":{"const":"bill"}},"required":["kind"]}]}"#;
    let program = program(schema);
    assert_eq!(judge(&program, ROOM, r#"{"kind":"bill","number":"7"}"#), Ok(None));
    assert!(redact(&program, r#"{"kind":"card","number":"7"}"#.to_owned()).contains("[redacted]"));
    assert!(redact(&program, r#"{"kind":"cart","number":"7"}"#.to_owned()).contains("[redacted]"));
    let whole = self::program(r#"{"writeOnly":true}"#);
    assert_eq!(redact(&whole, r#"{"a":1}"#.to_owned()), "{}");
}

#[test]
fn what_is_refused_is_told_with_its_line_and_column() {
    for (schema, place, words) in [
        ("{\n  \"type\": \"object\",\n}", "line 3, column 1", "no JSON"),
        ("{\"propertys\":{}}", "line 1, column 2", "nearly `properties`"),
        ("{\n \"properties\":{\"a\":{\"minimun\":1}}}", "line 2, column 21", "nearly `minimum`"),
        ("{\"minimum\":\"1\"}", "line 1, column 12", "a string as `minimum`"),
        ("{\"type\":\"text\"}", "line 1, column 9", "`text`"),
        ("{\"pattern\":\"a(?=b)\"}", "line 1, column 12", "looks around"),
        ("{\"$ref\":\"http://example.com/s.json\"}", "line 1, column 9", "lies outside"),
        ("{\"$ref\":\"#/$defs/none\"}", "line 1, column 9", "where there is nothing"),
        ("{\"$ref\":\"#\"}", "line 1, column 1", "refers to itself"),
        ("{\"allOf\":[{\"$ref\":\"#/allOf/0\"}]}", "line 1, column 11", "refers to itself"),
        ("{\"items\":[{}]}", "line 1, column 10", "a list"),
        ("{\"exclusiveMinimum\":true}", "line 1, column 21", "as draft 4 has it"),
        ("{\"$schema\":\"http://json-schema.org/draft-03/schema#\"}", "line 1, column 12", "draft-03"),
        ("{\"type\":\"object\",\"type\":\"object\"}", "line 1, column 2", "again"),
        ("{\"x-eye-mesage\":\"x\"}", "line 1, column 2", "which is none"),
        ("{\"examples\":[1]}", "line 1, column 14", "a number among them"),
        ("{\"properties\":{\"a\":{\"x-eye-rejects\":[]}}}", "line 1, column 37", "within the file"),
        ("{\"$defs\":{\"unused\":{\"maxLength\":-1}}}", "line 1, column 33", "as `maxLength`"),
        ("[]", "line 1, column 1", "no schema of an event"),
    ] {
        let refusal = refusal(schema);
        let found = refusal["found"].as_str().unwrap_or_default();
        assert!(found.ends_with(&format!("at {place}")) && found.contains(words), "{schema}: {refusal}");
        assert!(refusal["mend"].as_str().is_some_and(|mend| !mend.is_empty()));
    }
    let large = format!("{{\"$comment\":\"{}\"}}", "x".repeat(1 << 20));
    assert!(refusal(&large)["found"].as_str().is_some_and(|found| found.contains("bytes")));
    let deep = format!("{}{}", "{\"not\":".repeat(5_000), "{}");
    assert!(refusal(&deep)["found"].as_str().is_some_and(|found| found.contains("deeply")));
}

#[test]
fn unknown_words_are_let_through_and_told() {
    let schema = r#"{"title":"An order","owner":"team","x-team":"shop","format":"color","$schema":"http://json-schema.org/draft-07/schema#",
        "prefixItems":[]}"#;
    let schema: &'static str = schema.to_owned().leak();
    let (program, answer) = configured(schema.as_bytes()).expect("a schema");
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let warnings: Vec<&str> =
        answer["warnings"].as_array().into_iter().flatten().filter_map(|one| one.as_str()).collect();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].starts_with("line 1, column 21: `owner`"), "{warnings:?}");
    assert!(warnings.iter().any(|one| one.contains("color")) && warnings.iter().any(|one| one.contains("prefixItems")));
    assert_eq!(answer["draft"], "draft 7");
    assert_eq!(summary(&program), "JSON Schema (draft 7): An order");
}

#[test]
fn examples_say_what_they_end_in() {
    let schema = r#"{"properties":{"pin":{"writeOnly":true},"n":{"type":"integer"}},
        "examples":[{"n":1},{"pin":"1"}],"x-eye-rejects":[{"n":"x"}]}"#;
    let told = examples(&program(schema));
    let told: Vec<String> = told.iter().map(|(title, data, expect)| format!("{title} {data} {expect:?}")).collect();
    assert_eq!(
        told,
        [
            r#"/examples/0 {"n":1} Expectation::Accept"#,
            r#"/examples/1 {"pin":"1"} Expectation::Amend"#,
            r#"/x-eye-rejects/0 {"n":"x"} Expectation::Reject"#
        ]
    );
}

#[test]
fn what_is_told_stays_within_its_room() {
    let schema = program(r#"{"additionalProperties":false}"#);
    let members: Vec<String> = (0..1_000).map(|number| format!("\"key{number}\":1")).collect();
    let data = format!("{{{}}}", members.join(","));
    assert_eq!(judge(&schema, Room { violations: 5, bytes: 1 << 18 }, &data).expect_err("too many").len(), 5);
    assert_eq!(judge(&schema, Room { violations: 100, bytes: 200 }, &data).expect_err("too long").len(), 3);
    let long = format!("{{\"{}\":1}}", "k".repeat(1_000));
    let told = judge(&schema, Room { violations: 100, bytes: 200 }, &long).expect_err("one at least");
    assert_eq!((told.len(), &*told[0].pointer), (1, ""));
}

#[test]
fn a_hostile_schema_takes_linear_time() {
    let keys: Vec<String> = (0..10_000).map(|number| format!("\"p{number}\":{{\"type\":\"string\"}}")).collect();
    let many = program(&format!("{{\"properties\":{{{}}}}}", keys.join(",")));
    assert!(judge(&many, ROOM, r#"{"p9999":1}"#).is_err());
    let slow = program(r#"{"properties":{"a":{"pattern":"^(([a-z])+.)+[A-Z]([a-z])+$"}}}"#);
    assert!(judge(&slow, ROOM, &format!("{{\"a\":\"{}\"}}", "a".repeat(20_000))).is_err());
    let twins: Vec<String> = (0..20_000).map(|number| number.to_string()).collect();
    let unique = program(r#"{"properties":{"a":{"uniqueItems":true}}}"#);
    assert_eq!(judge(&unique, ROOM, &format!("{{\"a\":[{}]}}", twins.join(","))), Ok(None));
}
