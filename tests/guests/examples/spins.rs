//! Never comes back from an event that tells it to misbehave.

use std::hint::black_box;

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        loop {
            black_box(event);
        }
    }
    Verdict::Accept
}

guests::guest!(validate);
