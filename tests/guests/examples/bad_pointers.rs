//! Rejects an event that tells it to misbehave with a pointer that is none.

use guests::{Event, Verdict, Violation};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        return Verdict::Reject(vec![Violation {
            pointer: "no-slash~2".to_owned(),
            code: "bad_pointer".to_owned(),
            message: "This pointer has no slash and an escape that does not exist.".to_owned(),
        }]);
    }
    Verdict::Accept
}

guests::guest!(validate);
