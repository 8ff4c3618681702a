//! Amends an event that tells it to misbehave with a list, where only an object can be stored.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        return Verdict::Amend("[1]".to_owned());
    }
    Verdict::Accept
}

guests::guest!(validate);
