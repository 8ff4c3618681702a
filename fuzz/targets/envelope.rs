//! A JSON body: what is taken as an event keeps the rules, what is not JSON is no JSON to another parser either, and
//! each element of an array ends like the same element sent alone.
#![no_main]

use bytes::Bytes;
use eye_event::envelope::{Element, Event, Format, Parsed, Rules, Unreadable, parse};
use libfuzzer_sys::fuzz_target;

const RULES: Rules = Rules { data_bytes_max: 4_096, nesting_max: 64, number_digits_max: 1_000, future_us_max: 60_000_000, events_max: 100 };
/// A time later than any that is worth finding, so that the future does not refuse what is looked for.
const NOW_US: i64 = 4_102_444_800_000_000;

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    match parse(&body, Format::Json, &RULES, NOW_US) {
        Ok(Parsed::One(element)) => hold(&element),
        Ok(Parsed::Many(elements)) => {
            assert!(elements.len() <= RULES.events_max);
            for element in &elements {
                hold(element);
                alone(element);
            }
        }
        // The other parser stops at a nesting of 128, so only what it takes says something; and what it ignores may be no
        // UTF-8.
        Err(Unreadable::NotJson { .. }) => {
            let text = str::from_utf8(&body);
            assert!(text.is_err() || serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err(), "it is JSON");
        }
        Err(Unreadable::Empty) => assert!(body.iter().all(u8::is_ascii_whitespace)),
        Err(Unreadable::TooMany) => {}
    }
});

fn hold(element: &Element) {
    match element {
        Ok(event) => keeps_the_rules(event),
        Err(broken) => assert!(!broken.violations.is_empty(), "a refusal says why"),
    }
}

fn keeps_the_rules(event: &Event) {
    for word in [&event.category, &event.name] {
        assert!((1..=200).contains(&word.chars().count()) && word.trim() == &**word, "{word:?}");
        assert!(!word.chars().any(char::is_control), "{word:?}");
    }
    assert!(event.timestamp_us <= NOW_US + RULES.future_us_max);
    assert!(event.data.len() <= RULES.data_bytes_max);
    let data: serde_json::Value = serde_json::from_str(&event.data).expect("data is JSON");
    assert!(data.is_object());
}

/// The raw bytes of an event, sent alone, are the same event.
fn alone(element: &Element) {
    let Ok(event) = element else { return };
    let Ok(Parsed::One(Ok(again))) = parse(&event.raw, Format::Json, &RULES, NOW_US) else {
        panic!("alone it is no event");
    };
    assert_eq!((&*again.data, &*again.category, &*again.name), (&*event.data, &*event.category, &*event.name));
    assert_eq!((again.session_id, again.timestamp_us), (event.session_id, event.timestamp_us));
}
