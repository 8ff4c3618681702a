//! A body of lines: each line that is not blank is one element, and ends like the same line sent alone.
#![no_main]

use bytes::Bytes;
use eye_event::envelope::{Element, Format, Parsed, Rules, Unreadable, parse};
use libfuzzer_sys::fuzz_target;

const RULES: Rules = Rules { data_bytes_max: 4_096, nesting_max: 64, number_digits_max: 1_000, future_us_max: 60_000_000, events_max: 100 };
const NOW_US: i64 = 4_102_444_800_000_000;

fuzz_target!(|body: &[u8]| {
    let lines: Vec<&[u8]> =
        body.split(|byte| *byte == b'\n').filter(|line| !line.iter().all(u8::is_ascii_whitespace)).collect();
    let body = Bytes::copy_from_slice(body);
    match parse(&body, Format::Lines, &RULES, NOW_US) {
        Ok(Parsed::Many(elements)) => {
            assert_eq!(elements.len(), lines.len());
            for (element, line) in elements.iter().zip(lines) {
                let line = Bytes::copy_from_slice(line);
                let Ok(Parsed::Many(alone)) = parse(&line, Format::Lines, &RULES, NOW_US) else { panic!("one line") };
                assert_eq!(told(element), told(&alone[0]));
            }
        }
        Ok(Parsed::One(_)) => panic!("lines are many, also when there is one"),
        Err(Unreadable::Empty) => panic!("no lines are no events, which is an answer"),
        Err(Unreadable::TooMany) => assert!(lines.len() > RULES.events_max),
        Err(Unreadable::NotJson { .. }) => panic!("a bad line costs only itself"),
    }
});

/// What there is to say of an element, but for the id that the gateway may have made.
fn told(element: &Element) -> Result<(String, String, i64), String> {
    match element {
        Ok(event) => Ok((event.session_id.to_string(), event.data.to_string(), event.timestamp_us)),
        Err(broken) => Err(format!("{:?}", broken.violations)),
    }
}
