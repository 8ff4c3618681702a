//! Takes as many thousand steps for an event as its data says in `work`, and spins when it is told to misbehave.

use std::hint::black_box;

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    let work = event.data.split("\"work\":").nth(1).unwrap_or_default();
    let digits = work.trim_start().split(|character: char| !character.is_ascii_digit()).next().unwrap_or_default();
    let thousands: u64 = digits.parse().unwrap_or_default();
    for step in 0..thousands * 1_000 {
        black_box(step);
    }
    while guests::misbehaves(event) {
        black_box(event);
    }
    Verdict::Accept
}

guests::guest!(validate);
