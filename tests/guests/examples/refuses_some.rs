//! Rejects the events whose data says `"refuse": true`, with the code `told_to`.

use guests::{Event, Verdict, Violation};

fn validate(event: &Event) -> Verdict {
    let data: String = event.data.split_whitespace().collect();
    if !data.contains("\"refuse\":true") {
        return Verdict::Accept;
    }
    Verdict::Reject(vec![Violation {
        pointer: "/refuse".to_owned(),
        code: "told_to".to_owned(),
        message: "Leave `refuse` out.".to_owned(),
    }])
}

guests::guest!(validate);
