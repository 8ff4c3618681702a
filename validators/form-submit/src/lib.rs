//! Judges `form interaction/submit`: a form was submitted. Promises that stored events name the page and hold at least
//! one field, and that values which look like secrets are stored as `[redacted]`. Everything else is kept to the letter.

mod secrets;

use std::borrow::Cow;

use eye_validator::{Event, Json, Object, Verdict, Violations, is_host_name};
use serde::Deserialize;

/// The data of a submitted form. Other fields are let pass.
#[derive(Deserialize)]
struct Submit<'a> {
    #[serde(borrow)]
    host: Cow<'a, str>,
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    form: Object<'a>,
}

fn judge(event: &Event<Submit>) -> Verdict {
    let Submit { host, path, form } = &event.data;
    let mut violations = Violations::new();
    violations.require(
        is_host_name(host),
        "/host",
        "bad_host",
        "Give the host name alone, such as `shop.example`: no scheme, port or path.",
    );
    violations.require(path.starts_with('/'), "/path", "bad_path", "Give the path of the page, beginning with `/`.");
    violations.require(!form.is_empty(), "/form", "empty", "Give the form's fields: there is none.");
    match Json::from(form).rewrite(secrets::redaction) {
        Ok(Some(redacted)) => {
            let mut data = event.object();
            data.set("form", redacted);
            violations.verdict_with(&data)
        }
        _ => violations.verdict(),
    }
}

/// What may be kept of a form that is not stored, whatever it is that was sent as one: secrets are known wherever they
/// stand, and what breaks a rule may hold anything.
fn redact(mut data: Object<'_>) -> Object<'_> {
    if let Ok(Some(redacted)) = data.rewrite(secrets::redaction) {
        data = redacted;
    }
    let text = |data: &Object<'_>, key: &str| data.get(key).and_then(|value| value.as_str().map(Cow::into_owned));
    let rules: [(&str, bool); 3] = [
        ("host", text(&data, "host").is_some_and(|host| is_host_name(&host))),
        ("path", text(&data, "path").is_some_and(|path| path.starts_with('/'))),
        ("form", data.get("form").is_some_and(|form| form.text().starts_with('{'))),
    ];
    for (key, kept) in rules {
        if !kept && data.get(key).is_some() {
            data.set(key, Json::from(secrets::REDACTED));
        }
    }
    data
}

eye_validator::validator! {
    judge,
    redact: redact,
    summary: "A form was submitted: `host`, `path` and the fields in `form`, of which secrets are stored as [redacted].",
    examples: [
        accept "a form": r#"{"host":"shop.example","path":"/sign-up","form":{"name":"Ada","amount":12.50}}"#,
        amend "a password": r#"{"host":"shop.example","path":"/sign-in","form":{"user":"ada","password":"x"}}"#,
        amend "a card number": r#"{"host":"shop.example","path":"/pay","form":{"note":"4111 1111 1111 1111"}}"#,
        reject "a form has fields": r#"{"host":"shop.example","path":"/","form":{}}"#,
        reject "a form is an object": r#"{"host":"shop.example","path":"/","form":["Ada"]}"#,
        reject "all fields are required": r#"{"form":{"name":"Ada"}}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stored data of a form, or nothing if it is stored as it was sent.
    fn amended(form: &str) -> Option<String> {
        let data = format!(r#"{{"host":"a.example", "n":12345678901234567890.123456789,"form":{form},"path":"/"}}"#);
        match eye_validator::testing::judge::<EyeValidator>(&data) {
            Verdict::Amend(data) => Some(data),
            Verdict::Accept => None,
            Verdict::Reject(violations) => panic!("rejected: {violations:?}"),
        }
    }

    #[test]
    fn secrets_are_redacted_and_the_rest_is_kept_to_the_letter() {
        let form = r#"{"a":[1e400, {"API-Key":{"v":1}, "pin":1234, "shipping":"x"}], "c":"4111-1111-1111-1111!"}"#;
        let kept = r#"{"a":[1e400, {"API-Key":"[redacted]", "pin":"[redacted]", "shipping":"x"}],"c":"[redacted]"}"#;
        let stored = amended(form).expect("there are secrets");
        assert_eq!(
            stored,
            format!(r#"{{"host":"a.example","n":12345678901234567890.123456789,"form":{kept},"path":"/"}}"#)
        );
        assert_eq!(amended(kept), None, "a second judgement changes nothing");
    }

    #[test]
    fn of_a_form_that_is_refused_no_secret_is_kept() {
        for (data, kept) in [
            (
                r#"{"host":"https://a:b@c","path":"/","form":{"password":"x","name":"Ada"},"token":"y"}"#,
                r#"{"host":"[redacted]","path":"/","form":{"password":"[redacted]","name":"Ada"},"token":"[redacted]"}"#,
            ),
            (r#"{"host":"a.example","form":"password=x"}"#, r#"{"host":"a.example","form":"[redacted]"}"#),
            (r#"{"path":["x"],"form":[{"pin":1}]}"#, r#"{"path":"[redacted]","form":"[redacted]"}"#),
            (r#"{"n":1.50,"nested":{"cvv":"123"}}"#, r#"{"n":1.50,"nested":{"cvv":"[redacted]"}}"#),
            ("{}", "{}"),
        ] {
            assert_eq!(eye_validator::testing::redact::<EyeValidator>(data), kept, "{data}");
        }
    }

    #[test]
    fn what_is_no_secret_is_accepted_as_it_stands() {
        for form in [
            r#"{"show_password":true,"token":null,"secret":""}"#,
            r#"{"time_ms":1700000000000,"phone":"+49 30 1234567","order":"4111111111111112"}"#,
        ] {
            assert_eq!(amended(form), None, "{form}");
        }
    }
}
