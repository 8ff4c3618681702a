//! The scan of JSON against another parser: both take the same texts, and strings mean the same. What Postgres takes is
//! compared by a property test of the suite, with a real one.
#![no_main]

use eye_event::json::{Cursor, Kind, Limits, Scratch};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const LIMITS: Limits =
    Limits { bytes_max: 1 << 20, nesting_max: 64, expanded_bytes_max: 1 << 20, number_digits_max: 1_000, flaws_max: 10 };
/// The other parser refuses what is nested more deeply than this.
const OTHER_NESTING_MAX: usize = 120;

fuzz_target!(|text: &str| {
    let mut cursor = Cursor::new(text);
    let scanned = cursor.scan_value(&mut Scratch::new(), &LIMITS).and_then(|value| cursor.end().map(|()| value));
    let other: Result<&RawValue, _> = serde_json::from_str(text);
    match (&scanned, &other) {
        (Ok(value), Ok(other)) => assert_eq!(value.raw, other.get()),
        (Err(error), Ok(_)) => panic!("refused here alone: {error}"),
        (Ok(_), Err(error)) => {
            let brackets = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
            assert!(brackets > OTHER_NESTING_MAX, "taken here alone: {error}");
        }
        (Err(error), Err(_)) => assert!(error.offset <= text.len()),
    }
    let Ok(value) = scanned else { return };
    if value.kind == Kind::String && value.flaws.is_empty() {
        let other: String = serde_json::from_str(text).expect("a string without flaws is one to all");
        assert_eq!(value.string().expect("a string"), other);
    }
});
