//! Judges `page interaction/cta click`: a call to action was clicked. Promises that stored events name the page and the
//! element.

use std::borrow::Cow;

use eye_validator::{Event, Verdict, Violations, is_host_name};
use serde::Deserialize;

/// The data of a click. Other fields are let pass.
#[derive(Deserialize)]
struct Click<'a> {
    #[serde(borrow)]
    host: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    element: Cow<'a, str>,
}

fn judge(event: &Event<Click>) -> Verdict {
    let Click { host, path, element } = &event.data;
    let mut violations = Violations::new();
    violations.require(
        is_host_name(host),
        "/host",
        "bad_host",
        "Give the host name alone, such as `shop.example`: no scheme, port or path.",
    );
    violations.require(path.starts_with('/'), "/path", "bad_path", "Give the path of the page, beginning with `/`.");
    violations.require(
        !element.trim().is_empty(),
        "/element",
        "empty",
        "Name the element that was clicked, such as `hero-sign-up`.",
    );
    violations.verdict()
}

eye_validator::validator! {
    judge,
    summary: "A call to action was clicked: `host` is a host name, `path` begins with `/`, `element` is not empty.",
    examples: [
        accept "a click": r#"{"host":"shop.example","path":"/","element":"hero-sign-up"}"#,
        accept "other fields are kept": r#"{"host":"shop.example","path":"/","element":"buy","x":12.5,"y":40}"#,
        reject "an element has a name": r#"{"host":"shop.example","path":"/","element":" "}"#,
        reject "an element is text": r#"{"host":"shop.example","path":"/","element":{"id":"buy"}}"#,
        reject "all fields are required": r#"{"path":"/"}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_told_at_once() {
        let reasons = eye_validator::testing::reasons::<EyeValidator>;
        let pair = |pointer: &str, code: &str| (pointer.to_owned(), code.to_owned());
        assert_eq!(reasons(r#"{"path":"/"}"#), [pair("/host", "required"), pair("/element", "required")]);
        assert_eq!(
            reasons(r#"{"host":"a b","path":"x","element":""}"#),
            [pair("/host", "bad_host"), pair("/path", "bad_path"), pair("/element", "empty")]
        );
    }
}
