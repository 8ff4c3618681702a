//! What the gateway calls: the functions of every validator, and `configure`, which comes before them.

use std::sync::OnceLock;

use eye_validator::Violation;
use eye_validator::bindings::redact::{Guest as RedactGuest, export_redact};
use eye_validator::bindings::validator::eye::validator::types::Example;
use eye_validator::bindings::validator::{Description, Event, Guest, Verdict, export_validator};

use super::judge::Room;
use super::program::Program;
use super::{configured, examples, judge, redact, summary};

/// The schema of this instance.
static PROGRAM: OnceLock<(Program, Room)> = OnceLock::new();

/// An answer: the address of a text, and its bytes.
#[repr(C)]
struct Answer(*const u8, usize);

#[expect(unsafe_code, reason = "the gateway calls it by its name, with a text that it has put into this memory")]
#[unsafe(no_mangle)]
extern "C" fn configure(text: *mut u8, bytes: usize, violations: u32, output_bytes: u32) -> *const Answer {
    // SAFETY: the gateway got this place from the allocator of this module, and has filled it.
    let text = unsafe { std::slice::from_raw_parts(text, bytes) };
    let answer = match configured(text) {
        Ok((program, answer)) => {
            let room = Room { violations: violations as usize, bytes: output_bytes as usize };
            // Each instance is given one schema.
            let _first = PROGRAM.set((program, room));
            answer
        }
        Err(answer) => answer,
    };
    let answer = answer.leak();
    Box::leak(Box::new(Answer(answer.as_ptr(), answer.len())))
}

struct Engine;

fn program() -> &'static (Program, Room) {
    PROGRAM.get().expect("the gateway calls `configure` first")
}

impl Guest for Engine {
    fn describe() -> Description {
        let (program, _) = program();
        let examples = examples(program).into_iter().map(|(title, data, expect)| Example { title, data, expect });
        Description { summary: summary(program), examples: examples.collect() }
    }

    fn validate(event: Event) -> Verdict {
        let (program, room) = program();
        match judge(program, *room, &event.data) {
            Ok(None) => Verdict::Accept,
            Ok(Some(data)) => Verdict::Amend(data),
            Err(violations) => Verdict::Reject(
                violations
                    .into_iter()
                    .map(|one| Violation { pointer: one.pointer, code: one.code.to_owned(), message: one.message })
                    .collect(),
            ),
        }
    }
}

impl RedactGuest for Engine {
    fn redact(data: String) -> String {
        redact(&program().0, data)
    }
}

export_validator!(Engine);
export_redact!(Engine);
