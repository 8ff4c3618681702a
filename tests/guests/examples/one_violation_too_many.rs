//! Rejects an event that tells it to misbehave with 101 short violations: one more than may be given by default, in far
//! fewer bytes.

use guests::{Event, Verdict, Violation};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        let violation = |_| Violation { pointer: String::new(), code: "many".to_owned(), message: String::new() };
        return Verdict::Reject((0..101).map(violation).collect());
    }
    Verdict::Accept
}

guests::guest!(validate);
