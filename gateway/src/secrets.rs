//! Removes quotes of secrets from dead letters. Every value and key of the received event that is not in its kept form
//! counts as a secret; no pointer, code or message with one is kept. This module only compares texts. `eye_judge`
//! decides which events are redacted and whether anything of them may be kept.

use std::borrow::Cow;
use std::collections::HashSet;

use eye_event::verdict::Violation;

/// Replaces a message that is not kept.
pub const MESSAGE_NOT_KEPT: &str = "The message is not kept: it may quote what the validator takes out.";
/// Replaces a code that is not kept.
const CODE_NOT_KEPT: &str = "not_kept";

/// A message must not have this many bytes in a row in common with a secret, since a quoted part reveals it too.
const WINDOW: usize = 4;
/// From this length on, a token of a pointer may be a key that the module cut.
const CUT_TOKEN_BYTES_MIN: usize = 32;

/// All texts that were taken out of an event.
#[derive(Debug)]
pub struct TakenOut {
    texts: HashSet<String>,
    /// All windows of the texts that are at least one window long.
    windows: HashSet<[u8; WINDOW]>,
}

impl TakenOut {
    /// Finds the texts in `whole` that are not in `kept`. Both may be any text; where it is JSON, the texts are its
    /// strings, numbers and keys.
    pub fn between(whole: &str, kept: &str) -> Self {
        let mut taken = HashSet::new();
        each_text(whole, |text| {
            taken.insert(text.to_lowercase());
        });
        each_text(kept, |text| {
            taken.remove(&text.to_lowercase());
        });
        taken.remove("");
        let windows = taken.iter().flat_map(|text| windows(text)).collect();
        Self { texts: taken, windows }
    }

    /// The violations as they may be kept: without the rest of a pointer from a secret on, and with fixed words for a
    /// code or message that holds a secret.
    pub fn clean(&self, violations: &[Violation]) -> Vec<Violation> {
        let clean = |violation: &Violation| Violation {
            pointer: self.clean_pointer(&violation.pointer).to_owned(),
            code: if self.is_in(&violation.code) { CODE_NOT_KEPT.into() } else { violation.code.clone() },
            message: if self.is_quoted(&violation.message) {
                MESSAGE_NOT_KEPT.into()
            } else {
                violation.message.clone()
            },
        };
        violations.iter().map(clean).collect()
    }

    /// Whether a sentence quotes a secret or a part of one.
    pub fn is_quoted(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        windows(&text).any(|window| self.windows.contains(&window))
            || text.split(|char: char| !char.is_alphanumeric()).any(|word| self.texts.contains(word))
    }

    /// Whether a word is a secret or holds one.
    fn is_in(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        if self.texts.contains(&word) {
            return true;
        }
        let cut = word.trim_end_matches('\u{2026}');
        // The window check is quick and sorts out most words before the search through all texts.
        windows(&word).any(|window| self.windows.contains(&window))
            && self.texts.iter().any(|taken| {
                taken.len() >= WINDOW && word.contains(&**taken)
                    || cut.len() >= CUT_TOKEN_BYTES_MIN && taken.starts_with(cut)
            })
    }

    /// The pointer up to its first token that is a secret. An index of two digits reveals nothing.
    fn clean_pointer<'p>(&self, pointer: &'p str) -> &'p str {
        let mut end = 0;
        for token in pointer.split('/').skip(1) {
            let is_index = token.len() <= 2 && token.bytes().all(|byte| byte.is_ascii_digit());
            let text = if token.contains('~') {
                Cow::Owned(token.replace("~1", "/").replace("~0", "~"))
            } else {
                Cow::Borrowed(token)
            };
            if !is_index && self.is_in(&text) {
                break;
            }
            end += 1 + token.len();
        }
        &pointer[..end]
    }
}

fn windows(text: &str) -> impl Iterator<Item = [u8; WINDOW]> {
    text.as_bytes().windows(WINDOW).map(|window| window.try_into().expect("a window has its size"))
}

/// The violations of an unreadable event: only the parts that the gateway writes for every such event.
pub fn clean_unread(violations: &[Violation]) -> Vec<Violation> {
    let fields = ["/id", "/session_id", "/category", "/name", "/timestamp", "/data"];
    let clean = |violation: &Violation| {
        let field = fields.into_iter().find(|field| {
            violation.pointer.strip_prefix(field).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        Violation {
            pointer: field.unwrap_or_default().to_owned(),
            code: violation.code.clone(),
            message: match &violation.message {
                Cow::Borrowed(fixed) => Cow::Borrowed(fixed),
                Cow::Owned(_) => MESSAGE_NOT_KEPT.into(),
            },
        }
    };
    violations.iter().map(clean).collect()
}

/// Calls `take` with each string, number and key of a text. Strings come without their escapes.
fn each_text(text: &str, mut take: impl FnMut(&str)) {
    let bytes = text.as_bytes();
    let ends_word = |byte: u8| byte.is_ascii_whitespace() || b"{}[],:\"".contains(&byte);
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        if bytes[at] == b'"' {
            at += 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            let end = at.min(bytes.len());
            at = end + 1;
            let quoted = text.get(start..at.min(bytes.len())).unwrap_or_default();
            match serde_json::from_str::<Cow<'_, str>>(quoted) {
                Ok(string) => take(&string),
                // The text is not JSON, so it counts as it is.
                Err(_) => take(text.get(start + 1..end).unwrap_or_default()),
            }
        } else if ends_word(bytes[at]) {
            at += 1;
        } else {
            while at < bytes.len() && !ends_word(bytes[at]) {
                at += 1;
            }
            let word = text.get(start..at).unwrap_or_default();
            if !matches!(word, "true" | "false" | "null") {
                take(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violation(pointer: &str, code: &str, message: &str) -> Violation {
        Violation { pointer: pointer.to_owned(), code: code.to_owned().into(), message: message.to_owned().into() }
    }

    fn cleaned(taken: &TakenOut, pointer: &str, code: &str, message: &str) -> (String, String, bool) {
        let [clean] = &taken.clean(&[violation(pointer, code, message)])[..] else { panic!("one is one") };
        (clean.pointer.clone(), clean.code.to_string(), clean.message != MESSAGE_NOT_KEPT)
    }

    #[test]
    fn what_holds_a_secret_is_not_kept_and_the_rest_is() {
        let whole =
            r#"{"host":"shop.example","form":{"password":"hunter2-Secret","pin":1234,"cvv":"123","a/b\u0043":[7]}}"#;
        let kept = r#"{"host":"shop.example","form":{"password":"[redacted]","pin":"[redacted]","cvv":"[redacted]"}}"#;
        let taken = TakenOut::between(whole, kept);
        for (pointer, code, message, wanted) in [
            ("/form/password", "bad", "The host is not ours.", ("/form/password", "bad", true)),
            ("/form/password", "bad", "`HUNTER2-secret` is too short", ("/form/password", "bad", false)),
            ("/form/password", "bad", "it begins with hunt", ("/form/password", "bad", false)),
            ("/form/pin", "bad", "the PIN 1234 is known", ("/form/pin", "bad", false)),
            ("/form/cvv", "bad", "123, no less", ("/form/cvv", "bad", false)),
            ("/form/cvv", "bad", "give all 1230 of them", ("/form/cvv", "bad", true)),
            ("/form/a~1bc/0", "bad", "no", ("/form", "bad", true)),
            ("/form/hunter2-secret/x", "bad", "no", ("/form", "bad", true)),
            ("/host", "bad_hunter2-secret", "shop.example is not ours", ("/host", "not_kept", true)),
            ("", "form", "", ("", "form", true)),
        ] {
            let wanted = (wanted.0.to_owned(), wanted.1.to_owned(), wanted.2);
            assert_eq!(cleaned(&taken, pointer, code, message), wanted, "{pointer} {code} {message}");
        }
        let all = TakenOut::between(whole, "");
        assert_eq!(cleaned(&all, "/form/password", "bad", "Say it shop.").0, "", "keys are no better than values");
    }

    #[test]
    fn a_key_that_was_cut_is_known_by_its_beginning() {
        let key = "k".repeat(300);
        let taken = TakenOut::between(&format!("{{\"{key}\":1}}"), "{}");
        assert_eq!(cleaned(&taken, &format!("/{}", &key[..200]), "c", "").0, "");
        assert_eq!(cleaned(&taken, &format!("/{}\u{2026}", &key[..100]), "c", "").0, "");
    }

    #[test]
    fn texts_are_found_in_whatever_comes() {
        for text in
            ["\"", "\"\\", "{\"a", "\\\"", "\u{e9}\"\u{e9}", "\"\\u00\"", "secret", "[[[[", "\"\u{fffd}\\\u{e9}\""]
        {
            let _taken = TakenOut::between(text, text);
        }
        assert!(TakenOut::between("password=hunter2 ", "").is_quoted("hunter2"));
        assert!(TakenOut::between("{\"a\": \"hunter2\\q\"}", "").is_quoted("hunter2"));
    }

    #[test]
    fn of_what_was_not_read_only_the_gateways_own_words_are_kept() {
        let fixed = Violation { message: "must be a string".into(), ..violation("/name", "type", "") };
        let quoting = violation("/data/hunter2", "duplicate_key", "`hunter2` is given twice");
        let unknown = Violation { message: "put it into data".into(), ..violation("/hunter2", "unknown_field", "") };
        let kept = clean_unread(&[fixed.clone(), quoting, unknown]);
        assert_eq!(kept[0], fixed);
        assert_eq!(
            (&*kept[1].pointer, &*kept[1].code, &*kept[1].message),
            ("/data", "duplicate_key", MESSAGE_NOT_KEPT)
        );
        assert_eq!((&*kept[2].pointer, &*kept[2].message), ("", "put it into data"));
    }
}
