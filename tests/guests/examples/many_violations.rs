//! Rejects an event that tells it to misbehave with 10,000 violations.

use guests::{Event, Verdict, Violation};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        let violation = |index| Violation {
            pointer: format!("/{index}"),
            code: "one_of_many".to_owned(),
            message: "This is one of 10,000.".to_owned(),
        };
        return Verdict::Reject((0..10_000).map(violation).collect());
    }
    Verdict::Accept
}

guests::guest!(validate);
