//! Judges `github/pull_request`, GitHub's webhook of that name: something was done to a pull request. Promises that
//! stored events name the action, both branches, the repository and who did it, and do not contradict themselves.

use std::borrow::Cow;

use eye_validator::{Event, Verdict, Violations};
use github_words::{Account, Repository, is_commit_id, judge_action, judge_topic};
use serde::Deserialize;

/// The data of the event, as far as it is judged.
#[derive(Deserialize)]
struct Happening<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    number: u64,
    #[serde(borrow)]
    pull_request: PullRequest<'a>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(borrow)]
    sender: Account<'a>,
}

#[derive(Deserialize)]
struct PullRequest<'a> {
    number: u64,
    #[serde(borrow)]
    title: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    merged: Option<bool>,
    #[serde(borrow)]
    head: Branch<'a>,
    #[serde(borrow)]
    base: Branch<'a>,
}

#[derive(Deserialize)]
struct Branch<'a> {
    #[serde(borrow, rename = "ref")]
    reference: Cow<'a, str>,
    #[serde(borrow)]
    sha: Cow<'a, str>,
}

fn judge(event: &Event<Happening>) -> Verdict {
    let Happening { action, number, pull_request, repository, sender } = &event.data;
    let mut violations = Violations::new();
    judge_action(action, &mut violations);
    violations.require(*number > 0, "/number", "bad_number", "Give the pull request's number, which is from 1.");
    violations.require(
        pull_request.number == *number,
        "/pull_request/number",
        "contradiction",
        "Give the same number as in `number`.",
    );
    judge_topic("pull_request", &pull_request.title, Some(&pull_request.state), action, &mut violations);
    violations.require(
        pull_request.merged != Some(true) || pull_request.state == "closed",
        "/pull_request/merged",
        "contradiction",
        "Give `true` only if the pull request is closed.",
    );
    judge_branches(pull_request, &mut violations);
    repository.judge(&mut violations);
    sender.judge_sender(&mut violations);
    violations.verdict()
}

fn judge_branches(pull_request: &PullRequest, violations: &mut Violations) {
    let PullRequest { head, base, .. } = pull_request;
    for (branch, place) in [(head, "/pull_request/head/ref"), (base, "/pull_request/base/ref")] {
        violations.require(!branch.reference.is_empty(), place, "empty", "Give the name of the branch.");
    }
    for (branch, place) in [(head, "/pull_request/head/sha"), (base, "/pull_request/base/sha")] {
        violations.require(is_commit_id(&branch.sha), place, "bad_commit_id", "Give the full id of a commit.");
    }
}

eye_validator::validator! {
    judge,
    summary: "GitHub's pull_request: action, branches, repository and sender are there, and state and action fit.",
    examples: [
        accept "a pull request is opened": r#"{"action":"opened","number":2,"sender":{"login":"octocat"},
            "pull_request":{"number":2,"title":"Mend the roof","state":"open","merged":false,
                "head":{"ref":"roof","sha":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7"},
                "base":{"ref":"main","sha":"95790bf891e76fee5e1747ab589903a6a1f80f22"}},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "what is merged is closed": r#"{"action":"edited","number":2,"sender":{"login":"octocat"},
            "pull_request":{"number":2,"title":"Mend the roof","state":"open","merged":true,
                "head":{"ref":"roof","sha":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7"},
                "base":{"ref":"main","sha":"95790bf891e76fee5e1747ab589903a6a1f80f22"}},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#,
        reject "another webhook's payload": r#"{"action":"opened","issue":{"number":1}}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_told() {
        let data = r#"{"action":"closed","number":2,"sender":{"login":"octocat"},
            "pull_request":{"number":3,"title":"Mend the roof","state":"open",
                "head":{"ref":"","sha":"da15"},"base":{"ref":"main","sha":"95790bf891e76fee5e1747ab589903a6a1f80f22"}},
            "repository":{"id":1,"full_name":"octocat/hello"}}"#;
        let reasons = eye_validator::testing::reasons::<EyeValidator>(data);
        let codes: Vec<_> = reasons.iter().map(|(_, code)| code.as_str()).collect();
        assert_eq!(codes, ["contradiction", "contradiction", "empty", "bad_commit_id"]);
    }
}
