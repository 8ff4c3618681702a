//! What the scan takes, and what it says of the rest.

use super::number::{Plain, plain};
use super::scan::{POINTER_BYTES_MAX, SCRATCH_KEPT_MAX};
use super::text::plain_end;
use super::*;
use proptest::prelude::*;
use serde_json::value::RawValue;

const LIMITS: Limits = Limits {
    bytes_max: 1 << 20,
    nesting_max: 8,
    expanded_bytes_max: 1 << 20,
    number_digits_max: usize::MAX,
    flaws_max: 4,
};

fn scan_with(text: &str, limits: Limits) -> Result<Vec<(String, &'static str)>, SyntaxError> {
    let mut cursor = Cursor::new(text);
    let value = cursor.scan_value(&mut Scratch::new(), &limits)?;
    cursor.end()?;
    Ok(value.flaws.into_iter().map(|flaw| (flaw.pointer, flaw.code)).collect())
}

fn scan(text: &str) -> Result<Vec<(String, &'static str)>, SyntaxError> {
    scan_with(text, LIMITS)
}

fn flaws(text: &str) -> Vec<(String, &'static str)> {
    scan(text).expect("the test's text is JSON")
}

fn flaw(pointer: &str, code: &'static str) -> (String, &'static str) {
    (pointer.to_owned(), code)
}

#[test]
fn envelope_is_read_member_by_member() {
    let text = r#" { "id" : 1, "d\u0061ta":{"a":[1,{}]} ,"name":"x\ny"} "#;
    let mut cursor = Cursor::new(text);
    let mut scratch = Scratch::new();
    cursor.enter_object().expect("an object");
    let mut members = Vec::new();
    while let Some(key) = cursor.next_member().expect("a member") {
        let value = cursor.scan_value(&mut scratch, &LIMITS).expect("a value");
        members.push((key.string().into_owned(), value.raw, value.kind, value.string()));
    }
    cursor.end().expect("the end");
    assert_eq!(
        members,
        [
            ("id".to_owned(), "1", Kind::Number, None),
            ("data".to_owned(), r#"{"a":[1,{}]}"#, Kind::Object, None),
            ("name".to_owned(), r#""x\ny""#, Kind::String, Some("x\ny".into())),
        ]
    );
}

#[test]
fn array_of_events_is_read_element_by_element() {
    let mut cursor = Cursor::new(r#"[ {"a":1,"b":[]} , 2 , {} ]"#);
    cursor.enter_array().expect("an array");
    let mut spans = Vec::new();
    while cursor.next_element().expect("an element") {
        let kind = cursor.kind().expect("a value");
        let start = cursor.offset();
        if kind == Kind::Object {
            cursor.enter_object().expect("an object");
            while cursor.next_member().expect("a member").is_some() {
                cursor.scan_value(&mut Scratch::new(), &LIMITS).expect("a value");
            }
        } else {
            cursor.scan_value(&mut Scratch::new(), &LIMITS).expect("a value");
        }
        spans.push(&cursor.text[start..cursor.offset()]);
    }
    cursor.end().expect("the end");
    assert_eq!(spans, [r#"{"a":1,"b":[]}"#, "2", "{}"]);
}

#[test]
fn cursor_refuses_stray_and_missing_commas() {
    for text in ["{,}", "{\"a\":1,}", "{\"a\":1 \"b\":2}", "{\"a\" 1}", "{\"a\":1", "{\"a\":}", "{1:2}", "{"] {
        let walk = || -> Result<(), SyntaxError> {
            let mut cursor = Cursor::new(text);
            cursor.enter_object()?;
            while cursor.next_member()?.is_some() {
                cursor.scan_value(&mut Scratch::new(), &LIMITS)?;
            }
            cursor.end()
        };
        assert_eq!(walk(), scan(text).map(drop), "{text}");
        assert!(walk().is_err(), "{text}");
    }
    for text in ["[,]", "[1,]", "[1 2]", "[1", "[1,,2]", "["] {
        let walk = || -> Result<(), SyntaxError> {
            let mut cursor = Cursor::new(text);
            cursor.enter_array()?;
            while cursor.next_element()? {
                cursor.scan_value(&mut Scratch::new(), &LIMITS)?;
            }
            cursor.end()
        };
        assert_eq!(walk(), scan(text).map(drop), "{text}");
        assert!(walk().is_err(), "{text}");
    }
}

#[test]
fn syntax_errors_tell_line_and_column_in_characters() {
    let text = "{\n \"\u{e9}\u{1f600}\": x}";
    let error = scan(text).expect_err("x is not a value");
    assert_eq!(&text[error.offset..], "x}");
    assert_eq!(error.line_column(text), (2, 8));
    assert_eq!(line_column("", 0), (1, 1));
    assert_eq!(line_column("a\n", 9), (2, 1));
    assert_eq!(scan("[1").expect_err("no end").to_string(), "unexpected end of the text");
    assert_eq!(scan("\u{feff}{}").expect_err("a byte order mark").offset, 0);
}

#[test]
fn flaws_point_at_their_values() {
    assert_eq!(flaws(r#"{"a":[0,"\u0000"]}"#), [flaw("/a/1", "nul")]);
    assert_eq!(flaws(r#"{"a":{"b\/~":[],"c/~":"\ud800"}}"#), [flaw("/a/c~1~0", "surrogate")]);
    assert_eq!(
        flaws(r#"{"":{"x":0},"\u0000":1e131072}"#),
        [flaw("/\u{fffd}", "nul"), flaw("/\u{fffd}", "number_range")]
    );
    assert_eq!(flaws(r#"[[],{},{"a":{}},"\udc00"]"#), [flaw("/3", "surrogate")]);
    assert_eq!(flaws(r#""\u0000""#), [flaw("", "nul")]);
}

#[test]
fn surrogates_must_come_in_pairs() {
    for sound in [r#""\ud83d\ude00""#, r#""\uD83D\uDE00\ud83d\ude00""#, r#""\uffff\ufffe\ue000\ud7ff""#, r#""\\ud800""#]
    {
        assert_eq!(flaws(sound), [], "{sound}");
    }
    for lone in [r#""\ude00\ud83d""#, r#""\ud83d""#, r#""\ud83dxude00""#, r#""\ud83d\n""#, r#""\ud83d\ud83d\ude00""#] {
        assert_eq!(flaws(lone), [flaw("", "surrogate")], "{lone}");
    }
    assert_eq!(flaws(r#""\ud83d\u0000""#), [flaw("", "nul"), flaw("", "surrogate")]);
    assert!(scan(r#""\ud83d\u00""#).is_err());
}

#[test]
fn duplicate_keys_are_found_after_unescaping_and_per_object() {
    assert_eq!(flaws(r#"{"a":1,"\u0061":2,"a":3}"#), [flaw("/a", "duplicate_key")]);
    assert_eq!(flaws(r#"{"a":{"b":1,"c":{"b":0},"b":1},"b":[]}"#), [flaw("/a/b", "duplicate_key")]);
    assert_eq!(flaws(r#"[{"a":1},{"a":2},{"":1,"":2}]"#), [flaw("/2/", "duplicate_key")]);
    assert_eq!(flaws(r#"{"abc":1,"adc":2,"abcd":3,"A":4}"#), []);
}

fn object_of(keys: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", keys.map(|key| format!("\"{key}\":{{}}")).collect::<Vec<_>>().join(","))
}

#[test]
fn duplicate_keys_are_found_at_any_count() {
    for count in [2, 15, 16, 17, 18, 100, 10_000] {
        let key = |index: usize| format!("key{index:05}");
        assert_eq!(flaws(&object_of((0..count).map(key))), [], "{count}");
        let repeated = (0..count - 1).map(key).chain([r"k\u0065y00000".to_owned()]);
        assert_eq!(flaws(&object_of(repeated)), [flaw("/key00000", "duplicate_key")], "{count}");
    }
}

#[test]
fn nesting_is_limited_and_read_on_to_the_end() {
    let nested = |levels: usize, inner: &str| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(flaws(&nested(8, "1")), []);
    assert_eq!(flaws(&nested(9, "1")), [flaw("/0/0/0/0/0/0/0/0", "depth")]);
    assert_eq!(flaws(&format!(r#"[{},"\u0000",{}]"#, nested(200, "\"\\u0000\""), nested(9, ""))).len(), 2);
    let objects = format!("{}1{}", r#"{"a":[0,"#.repeat(100), "]}".repeat(100));
    assert_eq!(flaws(&objects), [flaw("/a/1/a/1/a/1/a/1", "depth")]);
    assert!(scan(&objects.replace("1]", "1}")).is_err());
    assert_eq!(scan_with("[]", Limits { nesting_max: 0, ..LIMITS }).expect("JSON"), [flaw("", "depth")]);
    assert_eq!(scan_with("0", Limits { nesting_max: 0, ..LIMITS }).expect("JSON"), []);
}

#[test]
fn endless_nesting_overflows_nothing() {
    let text = "[".repeat(8 << 20);
    let mut scratch = Scratch::new();
    let error = Cursor::new(&text).scan_value(&mut scratch, &LIMITS).expect_err("nothing is closed");
    assert_eq!(error.offset, text.len());
    assert!(scratch.buried.capacity() * 8 <= text.len() / 4, "a bit for each level, and the vector's slack");
    let closed = text + &"]".repeat(8 << 20);
    let limits = Limits { bytes_max: usize::MAX, ..LIMITS };
    let value = Cursor::new(&closed).scan_value(&mut scratch, &limits).expect("all is closed");
    assert_eq!(value.flaws.len(), 1);
    Cursor::new("1").scan_value(&mut scratch, &limits).expect("a number");
    assert!(scratch.buried.capacity() <= SCRATCH_KEPT_MAX);
}

#[test]
fn numbers_are_those_of_numeric() {
    let zeros = |count: usize| "0".repeat(count);
    let sound = [
        "0e-16383".to_owned(),
        "0e200000".to_owned(),
        "0e1073741822".to_owned(),
        "1e131071".to_owned(),
        "0.0001e131075".to_owned(),
        format!("-9{}", zeros(131_071)),
        format!("1.{}", zeros(16_383)),
        format!("1.{}e1", zeros(16_384)),
        "1e0000000000000000000000000000000000005".to_owned(),
    ];
    for number in sound {
        assert_eq!(flaws(&number), [], "{number:.40}");
    }
    let beyond = [
        "0e-16384".to_owned(),
        "0e1073741823".to_owned(),
        "1e131072".to_owned(),
        "0.0001e131076".to_owned(),
        format!("-9{}", zeros(131_072)),
        format!("1.{}", zeros(16_384)),
        "0.0e-16383".to_owned(),
        "1e-99999999999999999999999999".to_owned(),
        "1e99999999999999999999999999".to_owned(),
    ];
    for number in beyond {
        assert_eq!(flaws(&number), [flaw("", "number_range")], "{number:.40}");
    }
}

#[test]
fn numbers_written_in_full_have_a_budget() {
    for (number, written) in [
        ("1e3", "1000"),
        ("-1.50e1", "-15.0"),
        ("-0.00e1", "0.0"),
        ("12.5e-3", "0.0125"),
        ("0.012e2", "1.2"),
        ("0e9", "0"),
        ("100e-2", "1.00"),
        ("1E+0", "1"),
    ] {
        let digits = written.bytes().filter(u8::is_ascii_digit).count();
        let plain = plain(number.as_bytes());
        assert_eq!(plain, Some(Plain { bytes: written.len(), digits }), "{number}");
    }
    let limits = Limits { expanded_bytes_max: 2000, ..LIMITS };
    assert_eq!(scan_with("[1e999,1e999,123456]", limits).expect("JSON"), []);
    assert_eq!(scan_with("[1e999,1e999,0e0,1e9]", limits).expect("JSON"), [flaw("/2", "size")]);
}

#[test]
fn digits_are_counted_as_they_would_be_written() {
    let limits = Limits { number_digits_max: 1_000, ..LIMITS };
    let (nines, zeros) = ("9".repeat(1_000), "0".repeat(999));
    let just = [
        "1e999".to_owned(),
        "-1e999".to_owned(),
        "1e-999".to_owned(),
        "123E-999".to_owned(),
        format!("{}e-500", "1".repeat(600)),
        nines.clone(),
        format!("-{nines}"),
        format!("0.{zeros}"),
        format!("{}.{}", "1".repeat(500), "2".repeat(500)),
        "0e5000".to_owned(),
        format!("1e{}3", "0".repeat(5_000)),
        format!("{nines}{zeros}e-999"),
    ];
    let just_not = [
        "1e1000".to_owned(),
        "1e-1000".to_owned(),
        "-1e+5000".to_owned(),
        "0e-1000".to_owned(),
        "0.00e-998".to_owned(),
        format!("{nines}0"),
        format!("0.{zeros}0"),
        format!("{nines}.0"),
        format!("1{zeros}e1"),
    ];
    for number in &just[..11] {
        assert_eq!(scan_with(number, limits).expect("JSON"), [], "{number}");
    }
    for number in just_not.iter().chain(&just[11..]) {
        for (text, pointer) in [
            (number.clone(), ""),
            (format!("[0,{number}]"), "/1"),
            (format!(r#"{{"a":{{"b":[{number}]}}}}"#), "/a/b/0"),
        ] {
            assert_eq!(scan_with(&text, limits).expect("JSON"), [flaw(pointer, "number_digits")], "{text}");
        }
    }
    for number in ["1e131072", "0e2000000000", "1e-99999999999999999999"] {
        assert_eq!(scan_with(number, limits).expect("JSON"), [flaw("", "number_range")], "{number}");
    }
}

#[test]
fn length_is_limited_and_ends_the_tracking() {
    let limits = Limits { bytes_max: 30, ..LIMITS };
    let text = object_of((0..1000).map(|_| "a".to_owned()));
    let mut scratch = Scratch::new();
    let value = Cursor::new(&text).scan_value(&mut scratch, &limits).expect("JSON");
    assert_eq!((value.raw, value.flaws.len()), (&text[..], 1));
    assert_eq!((value.flaws[0].pointer.as_str(), value.flaws[0].code), ("", "size"));
    assert!(scratch.keys.capacity() < 30);
}

#[test]
fn flaws_and_their_pointers_are_bounded() {
    assert_eq!(flaws(&format!("[{}0]", r#""\u0000","#.repeat(100))).len(), LIMITS.flaws_max);
    assert_eq!(scan_with(r#""\u0000""#, Limits { flaws_max: 0, ..LIMITS }).expect("JSON").len(), 1);
    let key = "\u{e9}".repeat(5000);
    let found = flaws(&format!(r#"{{"{key}":{{"{key}":"\u0000"}}}}"#));
    assert!(found[0].0.ends_with('…') && found[0].0.len() < POINTER_BYTES_MAX + 8);
}

#[test]
fn words_find_the_first_special_byte() {
    for at in 0..40 {
        for special in ["\"", "\\", "\u{1f}", "\0", "\n"] {
            let text = format!("{}{special}\u{1f}\"\\ !#[]\u{7f}\u{80}\u{e9}{}", "\u{7f}".repeat(at), " ".repeat(9));
            assert_eq!(plain_end(text.as_bytes(), 0), at, "{text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn syntax_is_what_serde_json_says(text in r#"[ \t\n\[\]{},:"\\01-9eE+.truefalsn\u{1f}é😀dD]{0,24}"#) {
        prop_assert_eq!(scan(&text).is_ok(), serde_json::from_str::<&RawValue>(&text).is_ok());
    }

    #[test]
    fn strings_are_what_serde_json_reads(body in r#"(\\[\\"/bfnrtu]|\\u[dD][89a-fA-F][0-9a-f]{2}|\\u[0-9a-fA-F]{4}|[^\x00-\x1f"\\]){0,12}"#) {
        let text = format!("\"{body}\"");
        let ours = scan(&text).map(|found| found.iter().all(|(_, code)| *code != "surrogate"));
        let theirs = serde_json::from_str::<String>(&text);
        prop_assert_eq!(ours == Ok(true), theirs.is_ok());
        if let Ok(theirs) = theirs {
            prop_assert_eq!(unescape(&body), theirs);
        }
    }

    #[test]
    fn unescape_takes_anything(raw in r#"([\\u]|[0-9a-f]|\PC){0,20}"#) {
        unescape(&raw);
    }
}
