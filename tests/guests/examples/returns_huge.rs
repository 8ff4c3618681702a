//! Amends an event that tells it to misbehave with 100 MB: far more than may be given back. They are made where they stay,
//! so that a module which may have 256 MiB is within its memory.

use guests::{Event, Verdict};

/// All of the answer.
const BYTES: usize = 100_000_000;

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        let (start, end) = (br#"{"huge":""#, br#""}"#);
        let mut bytes = vec![b'x'; BYTES];
        bytes[..start.len()].copy_from_slice(start);
        bytes[BYTES - end.len()..].copy_from_slice(end);
        return Verdict::Amend(String::from_utf8(bytes).expect("it is ASCII"));
    }
    Verdict::Accept
}

guests::guest!(validate);
