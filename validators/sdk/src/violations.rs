//! Collects the reasons why an event is rejected, so that the sender is told all of them at once.

use crate::{Object, Verdict, Violation};

/// The gateway takes no more violations than this of one event.
const VIOLATIONS_MAX: usize = 100;

/// The reasons found so far. Allocates nothing while there are none.
#[derive(Debug, Default)]
pub struct Violations(Vec<Violation>);

impl Violations {
    /// Starts with none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a violation unless `held` is true, and gives `held` back.
    ///
    /// `pointer` is the RFC 6901 pointer of the value within the data, `code` a stable word for programs, `message` a
    /// sentence for people that says how to mend the event.
    pub fn require(&mut self, held: bool, pointer: &str, code: &str, message: &str) -> bool {
        if !held {
            self.add(pointer, code, message);
        }
        held
    }

    /// Adds a violation; see [`Violations::require`]. After the hundredth, nothing is added: the gateway takes no more.
    pub fn add(&mut self, pointer: impl Into<String>, code: impl Into<String>, message: impl Into<String>) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(Violation { pointer: pointer.into(), code: code.into(), message: message.into() });
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Accepts the event as it was sent if there are no violations, else rejects it.
    pub fn verdict(self) -> Verdict {
        if self.is_empty() { Verdict::Accept } else { Verdict::Reject(self.0) }
    }

    /// Accepts the event with changed data if there are no violations, else rejects it.
    pub fn verdict_with(self, data: &Object<'_>) -> Verdict {
        if self.is_empty() { Verdict::Amend(data.to_text()) } else { Verdict::Reject(self.0) }
    }
}

/// Makes an RFC 6901 pointer of keys and indexes: `pointer(["commits", "0", "a/b"])` is `/commits/0/a~1b`.
pub fn pointer<'a>(tokens: impl IntoIterator<Item = &'a str>) -> String {
    tokens.into_iter().fold(String::new(), push_token)
}

pub(crate) fn push_token(mut pointer: String, token: &str) -> String {
    pointer.push('/');
    for char in token.chars() {
        match char {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(char),
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointer_escapes_its_tokens() {
        assert_eq!(pointer([]), "");
        assert_eq!(pointer(["a/b", "~", "0", ""]), "/a~1b/~0/0/");
    }

    #[test]
    fn no_more_than_a_hundred_are_kept() {
        let mut violations = Violations::new();
        assert!(violations.is_empty());
        for _ in 0..1000 {
            violations.require(false, "", "code", "message");
        }
        let Verdict::Reject(kept) = violations.verdict() else { panic!("violations reject") };
        assert_eq!(kept.len(), 100);
    }
}
