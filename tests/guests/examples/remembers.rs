//! Tells the data of the event before, if the instance saw one, so that a leak between senders shows.

use std::sync::Mutex;

use guests::{Event, Verdict, Violation};

static BEFORE: Mutex<Option<String>> = Mutex::new(None);

fn validate(event: &Event) -> Verdict {
    let before = BEFORE.lock().expect("no guest panics while it holds the lock").replace(event.data.clone());
    match before {
        None => Verdict::Accept,
        Some(data) => {
            let message = format!("The event before was {data}.");
            Verdict::Reject(vec![Violation { pointer: String::new(), code: "remembered".to_owned(), message }])
        }
    }
}

guests::guest!(validate);
