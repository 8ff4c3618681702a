//! Judges `github/issues`, GitHub's webhook of that name: something was done to an issue. Promises that stored events
//! name the action, the issue, the repository and who did it, and do not contradict themselves.

use std::borrow::Cow;

use eye_validator::{Event, Verdict, Violations};
use github_words::{Account, Repository, judge_action, judge_topic};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The data of the event, as far as it is judged.
#[derive(Deserialize)]
struct Issues<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    issue: Issue<'a>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(borrow)]
    sender: Account<'a>,
    /// Only there if this is no `issues` event, but the very similar `issue_comment`.
    comment: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Issue<'a> {
    number: u64,
    #[serde(borrow)]
    title: Cow<'a, str>,
    /// GitHub leaves it out for some actions, such as `pinned`.
    #[serde(borrow)]
    state: Option<Cow<'a, str>>,
}

fn judge(event: &Event<Issues>) -> Verdict {
    let Issues { action, issue, repository, sender, comment } = &event.data;
    let mut violations = Violations::new();
    violations.require(
        comment.is_none(),
        "/comment",
        "wrong_webhook",
        "Send this as `issue_comment`: an `issues` event has no comment.",
    );
    judge_action(action, &mut violations);
    violations.require(issue.number > 0, "/issue/number", "bad_number", "Give the issue's number, which is from 1.");
    judge_topic("issue", &issue.title, issue.state.as_deref(), action, &mut violations);
    repository.judge(&mut violations);
    sender.judge_sender(&mut violations);
    violations.verdict()
}

eye_validator::validator! {
    judge,
    summary: "GitHub's issues: action, issue, repository and sender are there, and state and action fit.",
    examples: [
        accept "an issue is opened": r#"{"action":"opened","sender":{"login":"octocat"},
            "issue":{"number":1,"title":"The roof leaks","state":"open","labels":[]},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        accept "a pinned issue has no state": r#"{"action":"pinned","sender":{"login":"octocat"},
            "issue":{"number":1,"title":"The roof leaks"},"repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "an issue that was closed is not open": r#"{"action":"closed","sender":{"login":"octocat"},
            "issue":{"number":1,"title":"The roof leaks","state":"open"},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "issues are counted from 1": r#"{"action":"opened","sender":{"login":"octocat"},
            "issue":{"number":0,"title":"The roof leaks","state":"open"},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "an issue_comment event": r#"{"action":"created","sender":{"login":"octocat"},"comment":{"id":1},
            "issue":{"number":1,"title":"The roof leaks","state":"open"},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "another webhook's payload": r#"{"ref":"refs/heads/main","commits":[]}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_told_at_once() {
        let reasons = eye_validator::testing::reasons::<EyeValidator>;
        let pair = |pointer: &str, code: &str| (pointer.to_owned(), code.to_owned());
        assert_eq!(
            reasons(r#"{"action":7,"issue":{"number":-1,"state":"open"},"repository":{"id":1,"full_name":"a/b"}}"#),
            [
                pair("/action", "type"),
                pair("/issue/number", "value"),
                pair("/issue/title", "required"),
                pair("/sender", "required"),
            ]
        );
    }
}
