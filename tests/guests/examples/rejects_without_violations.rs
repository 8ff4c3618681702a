//! Rejects an event that tells it to misbehave, and says no reason.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        return Verdict::Reject(Vec::new());
    }
    Verdict::Accept
}

guests::guest!(validate);
