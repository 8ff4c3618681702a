//! Overflows its stack on an event that tells it to misbehave.

use std::hint::black_box;

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        black_box(deeper(event.data.len() as u64));
    }
    Verdict::Accept
}

/// Does something with what the call gives back, so that no optimizer can make a loop of it.
#[expect(unconditional_recursion, reason = "that is the fault")]
fn deeper(level: u64) -> u64 {
    deeper(level.wrapping_mul(3)).rotate_left(3) ^ level
}

guests::guest!(validate);
