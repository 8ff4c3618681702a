//! Accepts the one example that it says it rejects.

use guests::{Event, Expectation, Verdict};

fn validate(_: &Event) -> Verdict {
    Verdict::Accept
}

guests::guest!(validate, || guests::describe_with(Expectation::Reject));
