//! Accepts the first event that an instance sees and rejects each later one, so that a shared instance shows.

use std::sync::atomic::{AtomicU32, Ordering};

use guests::{Event, Verdict, Violation};

static CALLS: AtomicU32 = AtomicU32::new(0);

fn validate(_: &Event) -> Verdict {
    match CALLS.fetch_add(1, Ordering::Relaxed) {
        0 => Verdict::Accept,
        earlier => Verdict::Reject(vec![Violation {
            pointer: String::new(),
            code: "called_before".to_owned(),
            message: format!("{earlier} events were judged before in this instance."),
        }]),
    }
}

guests::guest!(validate);
