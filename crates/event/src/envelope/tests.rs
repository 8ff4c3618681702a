//! Bodies, events and their violations.

use super::*;

const RULES: Rules =
    Rules { data_bytes_max: 1024, nesting_max: 8, number_digits_max: 1_000, future_us_max: 60_000_000, events_max: 3 };
const NOW: i64 = 1_800_000_000_000_000;

fn one(text: &str) -> Element {
    match parse(&Bytes::copy_from_slice(text.as_bytes()), Format::Json, &RULES, NOW) {
        Ok(Parsed::One(element)) => element,
        other => panic!("not one event: {other:?}"),
    }
}

fn codes(text: &str) -> Vec<(String, String)> {
    let broken = one(text).expect_err("violations");
    broken.violations.iter().map(|violation| (violation.pointer.clone(), violation.code.to_string())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned())).collect()
}

const SESSION: &str = "e2085be5-9137-4e4e-80b5-f1ffddc25423";

#[test]
fn a_sound_event_borrows_its_parts() {
    let event = one(&format!(
        r#"{{"session_id":"{SESSION}","category":"page interaction","name":"page\u0076iew","timestamp":"2021-01-01 09:15:27.243860","data":{{"host":"h", "n": 12345678901234567890.5}}}}"#
    ))
    .expect("sound");
    assert_eq!(&*event.name, "pageview");
    assert_eq!(&*event.data, r#"{"host":"h", "n": 12345678901234567890.5}"#);
    assert_eq!(event.timestamp_us, 1_609_492_527_243_860);
    assert_eq!(event.id.get_version_num(), 7);
}

#[test]
fn all_violations_are_told_at_once() {
    assert_eq!(
        codes(
            r#"{"id":7,"session_id":"x","category":" a","name":"","timestamp":"yesterday","data":[],"who":1,"id":2}"#
        ),
        pairs(&[
            ("/id", "type"),
            ("/session_id", "uuid"),
            ("/category", "space"),
            ("/name", "length"),
            ("/timestamp", "timestamp"),
            ("/data", "type"),
            ("/who", "unknown_field"),
            ("/id", "duplicate_key"),
        ])
    );
    assert_eq!(codes("{}").len(), 5);
}

#[test]
fn what_jsonb_cannot_hold_is_a_violation_with_its_place() {
    let text = format!(
        r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"2021-01-01T00:00:00Z","data":{{"a":"\u0000","b":["\ud800"],"c":1e131073,"d":1,"d":2}}}}"#
    );
    assert_eq!(
        codes(&text),
        pairs(&[
            ("/data/a", "nul"),
            ("/data/b/0", "surrogate"),
            ("/data/c", "number_range"),
            ("/data/d", "duplicate_key")
        ])
    );
}

#[test]
fn the_future_begins_a_minute_ahead() {
    let at = |text: &str| {
        one(&format!(r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"{text}","data":{{}}}}"#))
    };
    assert!(at("2027-01-15T08:01:00Z").is_ok());
    assert_eq!(at("2027-01-15T08:01:00.000001Z").expect_err("future").violations[0].code, "future");
}

#[test]
fn what_cannot_be_seen_is_in_no_category_and_no_name() {
    let with = |category: &str, name: &str| {
        let text = format!(
            r#"{{"session_id":"{SESSION}","category":"{category}","name":"{name}","timestamp":"2021-01-01T00:00:00Z","data":{{}}}}"#
        );
        one(&text).map_err(|broken| broken.violations[0].code.to_string()).map(|event| event.category.to_string())
    };
    for hidden in ["\u{202e}", "\u{200b}", "\u{feff}", "\u{ad}", "\u{2028}", "\u{85}", "\u{e000}", "\u{e0041}"] {
        let text = format!("sh{hidden}op");
        assert_eq!(with(&text, "sale"), Err("control_character".to_owned()), "{}", text.escape_unicode());
        assert_eq!(with("shop", &text), Err("control_character".to_owned()), "{}", text.escape_unicode());
    }
    assert_eq!(with(r"sh\u202eop", "sale"), Err("control_character".to_owned()), "however it is written");
    for seen in ["Käse", "сыр", "奶酪 2", "e\u{301}", "🧀"] {
        assert_eq!(with(seen, seen), Ok(seen.to_owned()));
    }
}

#[test]
fn a_number_of_many_digits_is_a_violation_where_it_stands() {
    let text = format!(
        r#"{{"session_id":"{SESSION}","category":"a","name":"b","timestamp":"2021-01-01T00:00:00Z","data":{{"a":1e1000,"b":[1e999,[-1e-1000]]}}}}"#
    );
    assert_eq!(codes(&text), pairs(&[("/data/a", "number_digits"), ("/data/b/1/0", "number_digits")]));
    assert!(check_data(r#"{"a":1e1000}"#, &RULES).is_err(), "a validator may not make one either");
}

#[test]
fn no_lines_are_no_events() {
    for text in ["", "\n\n", " \r\n"] {
        let parsed = parse(&Bytes::copy_from_slice(text.as_bytes()), Format::Lines, &RULES, NOW);
        assert!(matches!(&parsed, Ok(Parsed::Many(elements)) if elements.is_empty()), "{parsed:?}");
    }
}

#[test]
fn bodies_that_hold_no_events_say_why() {
    let unreadable =
        |text: &[u8]| parse(&Bytes::copy_from_slice(text), Format::Json, &RULES, NOW).expect_err("unreadable");
    assert_eq!(unreadable(b" \n"), Unreadable::Empty);
    assert!(matches!(unreadable(b"{\n  \"a\": nope}"), Unreadable::NotJson { line: 2, column: 8, .. }));
    assert!(matches!(unreadable(b"{\"a\":\"\xff\"}"), Unreadable::NotJson { line: 1, column: 7, .. }));
    assert_eq!(unreadable(b"[1,2,3,4]"), Unreadable::TooMany);
}

#[test]
fn a_bad_line_is_one_rejected_event() {
    let body = Bytes::from(format!(
        "{{\"session_id\":\"{SESSION}\",\"category\":\"a\",\"name\":\"b\",\"timestamp\":\"2021-01-01T00:00:00Z\",\"data\":{{}}}}\r\n\n{{oops\n7\n"
    ));
    let Ok(Parsed::Many(elements)) = parse(&body, Format::Lines, &RULES, NOW) else { panic!("lines") };
    assert!(elements[0].is_ok());
    assert_eq!(elements[1].as_ref().expect_err("bad line").violations[0].code, "json");
    assert_eq!(elements[2].as_ref().expect_err("no object").violations[0].code, "type");
}

#[test]
fn what_many_broken_events_are_told_is_bounded() {
    let unknown: Vec<String> = (0..200).map(|field| format!(r#""f{field}":1"#)).collect();
    let body = format!("[{}]", vec![format!("{{{}}}", unknown.join(",")); 3_000].join(","));
    let rules = Rules { events_max: 3_000, ..RULES };
    let Ok(Parsed::Many(elements)) = parse(&body.into(), Format::Json, &rules, NOW) else { panic!("an array") };
    let counts: Vec<usize> =
        elements.iter().map(|element| element.as_ref().expect_err("broken").violations.len()).collect();
    assert_eq!((counts[0], counts[2_999]), (VIOLATIONS_MAX, 1));
    let bytes: usize = elements
        .iter()
        .flat_map(|element| &element.as_ref().expect_err("broken").violations)
        .map(Violation::bytes)
        .sum();
    assert!(bytes < 2 * VIOLATIONS_BYTES_MAX, "{bytes}");
}

#[test]
fn amended_data_is_an_object_that_jsonb_holds() {
    assert_eq!(check_data(r#"{"a":1}"#, &RULES), Ok(()));
    for bad in ["[1]", "nope", r#"{"a":"\u0000"}"#, "{} {}"] {
        assert!(check_data(bad, &RULES).is_err(), "{bad}");
    }
}
