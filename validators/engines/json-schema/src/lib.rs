//! The engine behind every `<name>.schema.json`: it judges events by a JSON Schema of draft 4 to 2020-12. The gateway
//! compiles it once, gives each instance the text of a schema by `configure`, and keeps the state that this leaves; each
//! event finds that state. It reads no other file, no clock, and nothing of other events.

use std::fmt::Write as _;

use eye_validator::Expectation;

use json::{Value, write_text};
pub use judge::{Room, Violation};
pub use program::Program;
use schema::Refused;

mod equal;
#[cfg(target_family = "wasm")]
mod exports;
mod format;
mod json;
mod judge;
mod number;
mod pattern;
mod program;
mod redact;
mod schema;
mod uri;
mod words;

/// The version of the engine. Another one may judge the same events and the same schema in another way.
pub const VERSION: &str = "1";

/// Levels of an event's data. The gateway allows fewer.
const DATA_NESTING_MAX: usize = 256;

/// Makes a program of the bytes of a schema file. Returns it with an answer for the gateway, which is JSON: the draft,
/// whether it takes something out of events, and warnings; or what was expected, what was found and how to mend it.
///
/// # Errors
///
/// The answer that refuses the file.
pub fn configured(bytes: &'static [u8]) -> Result<(Program, String), String> {
    let compiled = match str::from_utf8(bytes) {
        Ok(text) => schema::compile(text),
        Err(error) => Err(Refused {
            expected: "a JSON Schema in UTF-8".to_owned(),
            found: format!("a byte that is no UTF-8 at place {}", error.valid_up_to()),
            mend: "save the file as UTF-8".to_owned(),
        }),
    };
    match compiled {
        Ok(program) => {
            let Program { draft, redacts, .. } = &program;
            let mut answer =
                format!("{{\"engine\":\"{VERSION}\",\"draft\":\"{draft}\",\"redacts\":{redacts},\"warnings\":[");
            for (place, warning) in program.warnings.iter().enumerate() {
                answer.push_str(if place > 0 { "," } else { "" });
                add_text(&mut answer, warning);
            }
            answer.push_str("]}");
            Ok((program, answer))
        }
        Err(Refused { expected, found, mend }) => {
            let mut answer = String::new();
            for (key, text) in [("{\"expected\":", expected), (",\"found\":", found), (",\"mend\":", mend)] {
                answer.push_str(key);
                add_text(&mut answer, &text);
            }
            answer.push('}');
            Err(answer)
        }
    }
}

fn add_text(answer: &mut String, text: &str) {
    write_text(text, answer).expect("a text takes what is written to it");
}

/// Judges the data of an event.
///
/// # Errors
///
/// What does not fit. If all does, returns the data to store in place of it, if the schema takes something out.
pub fn judge(program: &Program, room: Room, data: &str) -> Result<Option<String>, Vec<Violation>> {
    let value = Value::parse(data, DATA_NESTING_MAX).expect("the gateway has read the data before");
    if program.fits(&value) {
        return Ok(program.redact(&value));
    }
    Err(program.violations(&value, room))
}

/// What may be kept of an event that is not stored.
pub fn redact(program: &Program, data: String) -> String {
    let value = Value::parse(&data, DATA_NESTING_MAX).expect("the gateway has read the data before");
    program.redact(&value).unwrap_or_else(|| value.to_string())
}

/// The schema in one line.
pub fn summary(program: &Program) -> String {
    let mut summary = format!("JSON Schema ({})", program.draft);
    for text in [program.title, program.description].into_iter().flatten() {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        write!(summary, ": {line}").expect("a text takes what is written to it");
    }
    summary
}

/// The examples of the file: a title, the data, and what it must end in.
pub fn examples(program: &Program) -> Vec<(String, String, Expectation)> {
    let accepted = program.examples.iter().enumerate().map(|(place, data)| {
        let expect = if program.redact(data).is_some() { Expectation::Amend } else { Expectation::Accept };
        (format!("/examples/{place}"), data.to_string(), expect)
    });
    let rejected = program.rejects.iter().enumerate();
    let rejected =
        rejected.map(|(place, data)| (format!("/x-eye-rejects/{place}"), data.to_string(), Expectation::Reject));
    accepted.chain(rejected).collect()
}
