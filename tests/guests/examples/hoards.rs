//! Takes memory without end on an event that tells it to misbehave.

use std::hint::black_box;

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        let mut hoard = Vec::new();
        loop {
            hoard.push(black_box(vec![1u8; 1 << 20]));
        }
    }
    Verdict::Accept
}

guests::guest!(validate);
