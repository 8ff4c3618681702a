//! Accepts an event that is received within a minute of when it occurred, and tells examples apart by all they may say.

use guests::bindings::examples::Example2;
use guests::{Event, Expectation, Verdict, Violation};

fn reject(code: &str) -> Verdict {
    Verdict::Reject(vec![Violation { pointer: String::new(), code: code.to_owned(), message: String::new() }])
}

/// Never called: `validate_at` is there.
fn validate(_: &Event) -> Verdict {
    reject("validate")
}

fn validate_at(event: &Event, received_at: i64) -> Verdict {
    if event.application == "nobody" {
        return reject("nobody");
    }
    if received_at - event.timestamp > 60_000_000 { reject("late") } else { Verdict::Accept }
}

guests::guest!(validate);

impl guests::bindings::validate_at::Guest for Guest {
    fn validate_at(event: Event, received_at: i64) -> Verdict {
        validate_at(&event, received_at)
    }
}

impl guests::bindings::examples::Guest for Guest {
    fn examples() -> Vec<Example2> {
        vec![Example2 {
            title: "an application that nobody knows".to_owned(),
            name: Some("b".to_owned()),
            timestamp: Some(1_600_000_000_000_000),
            application: Some("nobody".to_owned()),
            data: "{}".to_owned(),
            expect: Expectation::Reject,
            codes: vec!["nobody".to_owned()],
        }]
    }
}

guests::bindings::validate_at::export_validate_at!(Guest with_types_in guests::bindings::validate_at);
guests::bindings::examples::export_examples!(Guest with_types_in guests::bindings::examples);
