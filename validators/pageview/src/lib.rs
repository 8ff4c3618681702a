//! Judges `page interaction/pageview`: a page was seen. Promises that stored events name a host that can exist and a
//! path on it. Built with the feature `strict`, it also keeps query strings out.

use std::borrow::Cow;

use eye_validator::{Event, Verdict, Violations, is_host_name};
use serde::Deserialize;

/// The data of a pageview. Other fields are let pass.
#[derive(Deserialize)]
struct Pageview<'a> {
    #[serde(borrow)]
    host: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
}

fn judge(event: &Event<Pageview>) -> Verdict {
    let Pageview { host, path } = &event.data;
    let mut violations = Violations::new();
    violations.require(
        is_host_name(host),
        "/host",
        "bad_host",
        "Give the host name alone, such as `shop.example`: no scheme, port or path.",
    );
    violations.require(path.starts_with('/'), "/path", "bad_path", "Give the path of the page, beginning with `/`.");
    violations.require(
        !cfg!(feature = "strict") || !path.contains('?'),
        "/path",
        "query_string",
        "Send the path without `?` and what follows it: a query string can hold personal data.",
    );
    violations.verdict()
}

eye_validator::validator! {
    judge,
    summary: if cfg!(feature = "strict") {
        "A page was seen: `host` is a host name, `path` begins with `/` and has no query string."
    } else {
        "A page was seen: `host` is a host name, `path` begins with `/`."
    },
    examples: [
        accept "a page": r#"{"host":"shop.example","path":"/shoes"}"#,
        accept "other fields are kept": r#"{"host":"localhost","path":"/","title":"Home","ms":12.50}"#,
        reject "a URL is not a host": r#"{"host":"https://shop.example/","path":"/"}"#,
        reject "a path begins with a slash": r#"{"host":"shop.example","path":"shoes"}"#,
        reject "both fields are required": r#"{"title":"Home"}"#,
        reject "a host is a string": r#"{"host":7,"path":"/"}"#,
        #[cfg(feature = "strict")]
        reject "a query string can hold personal data": r#"{"host":"shop.example","path":"/?email=a@b.example"}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_told_at_once() {
        let reasons = eye_validator::testing::reasons::<EyeValidator>;
        let pair = |pointer: &str, code: &str| (pointer.to_owned(), code.to_owned());
        assert_eq!(reasons("{}"), [pair("/host", "required"), pair("/path", "required")]);
        assert_eq!(reasons(r#"{"path":null}"#), [pair("/path", "type"), pair("/host", "required")]);
        assert_eq!(reasons(r#"{"host":"","path":""}"#), [pair("/host", "bad_host"), pair("/path", "bad_path")]);
    }
}
