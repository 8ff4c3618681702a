//! Amends each event with its own name, so that a stored event tells which module judged it.

use guests::{Event, Expectation, Verdict};

fn validate(event: &Event) -> Verdict {
    let rest = event.data.trim_start().trim_start_matches('{').trim_start();
    let comma = if rest.starts_with('}') { "" } else { "," };
    Verdict::Amend(format!(r#"{{"judge":"one"{comma}{rest}"#))
}

guests::guest!(validate, || guests::describe_with(Expectation::Amend));
