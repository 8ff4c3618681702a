//! Never comes back from any event. It has no self-test, so that it can be loaded.

use std::hint::black_box;

use guests::{Description, Event, Verdict};

fn validate(event: &Event) -> Verdict {
    loop {
        black_box(event);
    }
}

guests::guest!(validate, || Description { summary: "It spins.".to_owned(), examples: Vec::new() });
