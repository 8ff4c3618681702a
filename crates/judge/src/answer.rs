//! Reads the answer of a module out of its memory, where it runs without a component around it, and checks it before
//! the gateway uses it. It copies nothing before it knows that the size is allowed. This file knows bytes and limits,
//! and no engine.

use std::borrow::Cow;

use eye_event::legible::legible;
use eye_event::verdict::{Verdict, Violation};

use super::contract::{Broken, CheckAmended};
use super::contract::{Description, Example, Expectation, Verdict as GuestVerdict, Violation as GuestViolation};
use super::engine::output_bytes_max;
use super::settings::Limits;

/// Bytes of the code of a violation.
const CODE_BYTES_MAX: usize = 64;
/// Characters that a message quotes of a wrong answer.
const QUOTED_CHARACTERS_MAX: usize = 200;

/// A module's memory, and the bytes that may still be copied out of it. The canonical ABI of the component model lays
/// down the layout of the types of `wit/validator.wit`.
pub(super) struct Answer<'a> {
    memory: &'a [u8],
    bytes_left: usize,
}

impl<'a> Answer<'a> {
    pub(super) fn new(memory: &'a [u8], limits: &Limits) -> Self {
        Self { memory, bytes_left: output_bytes_max(limits) }
    }

    /// Reads the verdict at an address.
    pub(super) fn verdict(&mut self, address: u32) -> Result<GuestVerdict, Broken> {
        let [kind, at, count] = self.record::<3>(address)?;
        // One byte names the case. The three beside it have no meaning.
        match kind & 0xff {
            0 => Ok(GuestVerdict::Accept),
            1 => self.text(at, count).map(GuestVerdict::Amend),
            2 => {
                let violations = self.records::<6>(at, count)?;
                let read = violations.map(|[pointer, pointer_bytes, code, code_bytes, message, message_bytes]| {
                    Ok(GuestViolation {
                        pointer: self.text(pointer, pointer_bytes)?,
                        code: self.text(code, code_bytes)?,
                        message: self.text(message, message_bytes)?,
                    })
                });
                read.collect::<Result<_, _>>().map(GuestVerdict::Reject)
            }
            other => Err(malformed(format!("there is no verdict number {other}"))),
        }
    }

    /// Reads the description at an address.
    pub(super) fn description(&mut self, address: u32) -> Result<Description, Broken> {
        let [summary, summary_bytes, at, count] = self.record::<4>(address)?;
        let summary = self.text(summary, summary_bytes)?;
        let examples = self.records::<5>(at, count)?;
        let read = examples.map(|[title, title_bytes, data, data_bytes, expect]| {
            Ok(Example {
                title: self.text(title, title_bytes)?,
                data: self.text(data, data_bytes)?,
                expect: match expect & 0xff {
                    0 => Expectation::Accept,
                    1 => Expectation::Amend,
                    2 => Expectation::Reject,
                    other => return Err(malformed(format!("there is no expectation number {other}"))),
                },
            })
        });
        Ok(Description { summary, examples: read.collect::<Result<_, _>>()? })
    }

    /// Reads the text whose address and bytes stand at an address.
    pub(super) fn text_at(&mut self, address: u32) -> Result<String, Broken> {
        let [text, bytes] = self.record::<2>(address)?;
        self.text(text, bytes)
    }

    /// Reads one record of `N` words.
    fn record<const N: usize>(&mut self, address: u32) -> Result<[u32; N], Broken> {
        let mut records = self.records(address, 1)?;
        Ok(records.next().expect("there is one"))
    }

    /// Reads a list of `count` records of `N` words each.
    fn records<const N: usize>(
        &mut self,
        address: u32,
        count: u32,
    ) -> Result<impl Iterator<Item = [u32; N]> + use<'a, N>, Broken> {
        if !address.is_multiple_of(4) {
            return Err(malformed("a list or record does not lie at a multiple of four bytes"));
        }
        let words = self.take(address, count as usize, N * 4)?.as_chunks::<4>().0.as_chunks::<N>().0;
        Ok(words.iter().map(|record| record.map(u32::from_le_bytes)))
    }

    fn text(&mut self, address: u32, bytes: u32) -> Result<String, Broken> {
        let bytes = self.take(address, bytes as usize, 1)?;
        let text = str::from_utf8(bytes).map_err(|error| malformed(format!("a text is not UTF-8: {error}")))?;
        Ok(text.to_owned())
    }

    fn take(&mut self, address: u32, count: usize, size: usize) -> Result<&'a [u8], Broken> {
        let start = address as usize;
        let bytes = count.checked_mul(size).ok_or_else(|| malformed("a list is longer than any memory"))?;
        let found = start.checked_add(bytes).and_then(|end| self.memory.get(start..end));
        let found = found.ok_or_else(|| malformed("a part of it lies outside the memory"))?;
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.ok_or_else(|| Broken::output("it answered with more bytes than are allowed"))?;
        Ok(found)
    }
}

fn malformed(why: impl std::fmt::Display) -> Broken {
    Broken::output(format!("its answer is malformed: {why}"))
}

/// Checks sizes, pointers and codes of a verdict, and that an amendment could be stored.
pub(super) fn check_answer(
    verdict: GuestVerdict,
    limits: &Limits,
    check_amended: &CheckAmended,
) -> Result<Verdict, Broken> {
    match verdict {
        GuestVerdict::Accept => Ok(Verdict::Accept),
        GuestVerdict::Amend(data) => check_data_answer(data, limits, check_amended).map(Verdict::Amend),
        GuestVerdict::Reject(list) => {
            if list.is_empty() {
                return Err(Broken::output("it rejected without a violation"));
            }
            if list.len() > limits.violations_max {
                return Err(Broken::output(format!(
                    "it gave {} violations, and {} are allowed",
                    list.len(),
                    limits.violations_max
                )));
            }
            let bytes = list.iter().map(|v| v.pointer.len() + v.code.len() + v.message.len()).sum::<usize>();
            if bytes > limits.output_bytes_max {
                return Err(too_large(bytes, limits));
            }
            list.into_iter()
                .map(|violation| {
                    believe_violation(violation.pointer, violation.code, violation.message).map_err(Broken::output)
                })
                .collect::<Result<_, _>>()
                .map(Verdict::Reject)
        }
    }
}

/// Checks the data that an answer puts in the place of an event's data.
pub(super) fn check_data_answer(data: String, limits: &Limits, check_amended: &CheckAmended) -> Result<String, Broken> {
    if data.len() > limits.output_bytes_max {
        return Err(too_large(data.len(), limits));
    }
    check_amended(&data).map_err(|why| Broken::output(format!("it amended to what is no data: {why}")))?;
    Ok(data)
}

fn too_large(bytes: usize, limits: &Limits) -> Broken {
    Broken::output(format!("it answered with {bytes} bytes, and {} are allowed", limits.output_bytes_max))
}

fn believe_violation(pointer: String, code: String, message: String) -> Result<Violation, String> {
    if !is_pointer(&pointer) {
        // The message does not quote the pointer, since it may hold data of the sender.
        return Err("a violation's pointer is no JSON Pointer".into());
    }
    if code.is_empty() {
        return Err("a violation without a code".into());
    }
    if !is_code(&code) {
        let code = legible(&code, QUOTED_CHARACTERS_MAX);
        return Err(format!("`{code}` is no code of a violation: 1 to 64 of A-Z, a-z, 0-9, `_`, `.` and `-`"));
    }
    if [&pointer, &code, &message].into_iter().any(|text| text.contains('\0')) {
        return Err("a violation with a NUL character".into());
    }
    Ok(Violation { pointer, code: Cow::Owned(code), message: Cow::Owned(message) })
}

/// Whether this is a stable word for programs. Other systems may make it a part of a name.
fn is_code(text: &str) -> bool {
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=CODE_BYTES_MAX).contains(&text.len()) && text.bytes().all(may_be)
}

/// RFC 6901: empty, or parts that each begin with a slash, in which `~` stands only in `~0` and `~1`.
fn is_pointer(text: &str) -> bool {
    let escapes = || text.match_indices('~').all(|(at, _)| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')));
    text.is_empty() || text.starts_with('/') && escapes()
}

#[cfg(test)]
mod tests {
    use super::{believe_violation, is_pointer};

    #[test]
    fn pointers_follow_the_rfc() {
        for good in ["", "/", "/a/0", "/a~1b/~0", "//"] {
            assert!(is_pointer(good), "{good}");
        }
        for bad in ["a", "#/a", "/~", "/a~2", "a/b"] {
            assert!(!is_pointer(bad), "{bad}");
        }
    }
    #[test]
    fn codes_are_short_words_for_programs() {
        let believed = |code: &str| believe_violation("/a".to_owned(), code.to_owned(), "mend\nit".to_owned());
        for good in ["a", "bad_host", "multiple_of", "E-1.2", &"x".repeat(64)] {
            assert_eq!(believed(good).expect("a code").code, good);
        }
        for bad in [
            "",
            "two words",
            "line\nend",
            "\u{1b}[2J",
            "käse",
            "a/b",
            "a\u{202e}",
            &"x".repeat(65),
            &"x".repeat(1 << 18),
        ] {
            let why = believed(bad).expect_err("no code");
            assert!(why.len() < 1_000 && !why.contains(char::is_control), "{why}");
        }
    }
}
