//! Amends an event that tells it to misbehave with text that is not JSON.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        return Verdict::Amend("no JSON".to_owned());
    }
    Verdict::Accept
}

guests::guest!(validate);
