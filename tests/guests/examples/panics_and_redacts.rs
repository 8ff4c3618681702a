//! Panics with a message that quotes what it takes out of events.

use eye_validator::{Event, Object, Verdict, Violations};

#[derive(serde::Deserialize)]
struct Told {
    password: Option<String>,
}

fn judge(event: &Event<Told>) -> Verdict {
    if let Some(password) = &event.data.password {
        panic!("no room for {password}");
    }
    Violations::new().verdict()
}

fn redact(mut data: Object<'_>) -> Object<'_> {
    data.remove("password");
    data
}

eye_validator::validator! {
    judge,
    redact: redact,
    summary: "Panics on a password, and keeps none.",
    examples: [accept "no password": r#"{}"#],
}
