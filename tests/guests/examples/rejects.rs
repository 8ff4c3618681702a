//! A healthy guest that rejects every event with the code `always`.

use guests::{Event, Expectation, Verdict, Violation};

fn validate(_: &Event) -> Verdict {
    Verdict::Reject(vec![Violation {
        pointer: String::new(),
        code: "always".to_owned(),
        message: "Send nothing: everything is rejected.".to_owned(),
    }])
}

guests::guest!(validate, || guests::describe_with(Expectation::Reject));
