//! Takes the member `secret` out of events, both of those that are stored and of those that are not, and does to them what
//! `do` says: accepts, rejects and quotes all of it, traps, spins, answers with no JSON, or breaks in `redact` too.

use guests::{Event, Example, Expectation, Verdict, Violation};

/// The text of a member whose value is a string without escapes.
fn member<'d>(data: &'d str, key: &str) -> &'d str {
    let key = format!("\"{key}\":\"");
    data.split_once(&key).and_then(|(_, rest)| rest.split_once('"')).map_or("", |(value, _)| value)
}

fn redacted(data: &str) -> String {
    let secret = member(data, "secret");
    if secret.is_empty() { data.to_owned() } else { data.replace(secret, "[redacted]") }
}

fn validate(event: &Event) -> Verdict {
    match member(&event.data, "do") {
        "reject" => Verdict::Reject(vec![Violation {
            pointer: format!("/{}", member(&event.data, "secret")),
            code: "bad".to_owned(),
            message: format!("I will not have {}", event.data),
        }]),
        "trap" | "trap twice" => panic!("{}", event.data),
        "spin" => loop {
            std::hint::black_box(());
        },
        "lie" => Verdict::Amend(event.data.replace('{', "no JSON: ")),
        _ => Verdict::Amend(redacted(&event.data)),
    }
}

fn redact(data: &str) -> String {
    assert!(member(data, "do") != "trap twice", "{data}");
    redacted(data)
}

guests::guest!(validate, || {
    let example = Example {
        title: "a secret".to_owned(),
        data: r#"{"do":"accept","secret":"hush"}"#.to_owned(),
        expect: Expectation::Amend,
    };
    guests::Description { summary: "Takes secrets out.".to_owned(), examples: vec![example] }
});
guests::redacts!(redact);
