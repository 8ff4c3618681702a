//! Amends an event that tells it to misbehave with 32 MiB: far more than may be given back, but within its memory.

use guests::{Event, Verdict};

fn validate(event: &Event) -> Verdict {
    if guests::misbehaves(event) {
        return Verdict::Amend(format!(r#"{{"huge":"{}"}}"#, "x".repeat(32 << 20)));
    }
    Verdict::Accept
}

guests::guest!(validate);
