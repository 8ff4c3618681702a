//! Traps on an event that tells it to misbehave.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        panic!("this guest was told to trap");
    }
    Verdict::Accept
}

guests::guest!(validate);
