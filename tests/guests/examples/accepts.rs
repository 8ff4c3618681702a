//! A healthy guest that accepts every event.

use guests::{Event, Verdict};

fn validate(_: &Event) -> Verdict {
    Verdict::Accept
}

guests::guest!(validate);
