//! Panics on its own example.

use eye_validator::{Event, Verdict, Violations};

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

eye_validator::validator! {
    judge,
    summary: "Panics on its example.",
    examples: [accept "no password": r#"{}"#, reject "a password": r#"{"password":"of an example"}"#],
}
