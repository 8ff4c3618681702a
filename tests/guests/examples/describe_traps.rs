//! Traps as soon as it is asked what it is.

use guests::{Event, Verdict};

fn validate(_: &Event) -> Verdict {
    Verdict::Accept
}

guests::guest!(validate, || panic!("this guest does not say what it is"));
