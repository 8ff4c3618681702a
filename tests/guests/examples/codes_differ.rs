//! One of its further examples names other codes than it gives, so it must not be taken.

use guests::bindings::examples::Example2;
use guests::{Event, Expectation, Verdict, Violation};

fn validate(event: &Event) -> Verdict {
    if event.data == "{}" {
        return Verdict::Accept;
    }
    Verdict::Reject(vec![Violation { pointer: String::new(), code: "found".to_owned(), message: String::new() }])
}

guests::guest!(validate);

impl guests::bindings::examples::Guest for Guest {
    fn examples() -> Vec<Example2> {
        let (title, data, codes) = ("a code".to_owned(), r#"{"a":1}"#.to_owned(), vec!["wanted".to_owned()]);
        let expect = Expectation::Reject;
        vec![Example2 { title, name: None, timestamp: None, application: None, data, expect, codes }]
    }
}

guests::bindings::examples::export_examples!(Guest with_types_in guests::bindings::examples);
