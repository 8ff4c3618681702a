//! Judges `github/push`, GitHub's webhook of that name: commits, a branch or a tag were pushed. Promises that stored
//! events name the repository, the ref and the commits, and do not contradict themselves.

use std::borrow::Cow;

use eye_validator::{Event, Verdict, Violations};
use github_words::{Account, Repository, is_commit_id, is_no_commit};
use serde::Deserialize;

/// The data of a push, as far as it is judged.
#[derive(Deserialize)]
struct Push<'a> {
    #[serde(borrow, rename = "ref")]
    reference: Cow<'a, str>,
    #[serde(borrow)]
    before: Cow<'a, str>,
    #[serde(borrow)]
    after: Cow<'a, str>,
    created: bool,
    deleted: bool,
    #[serde(borrow)]
    commits: Vec<Commit<'a>>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(borrow)]
    pusher: Pusher<'a>,
    /// A push by a deploy key has no sender.
    #[serde(borrow)]
    sender: Option<Account<'a>>,
}

#[derive(Deserialize)]
struct Commit<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Pusher<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

fn judge(event: &Event<Push>) -> Verdict {
    let push = &event.data;
    let mut violations = Violations::new();
    let full = push.reference.strip_prefix("refs/").is_some_and(|rest| !rest.is_empty());
    violations.require(full, "/ref", "bad_ref", "Give the full name of the ref, such as `refs/heads/main`.");
    judge_ends(push, &mut violations);
    judge_commits(&push.commits, &mut violations);
    push.repository.judge(&mut violations);
    violations.require(!push.pusher.name.is_empty(), "/pusher/name", "empty", "Give the name of who pushed.");
    if let Some(sender) = &push.sender {
        sender.judge_sender(&mut violations);
    }
    violations.verdict()
}

/// A ref that is created had no commit before, and one that is deleted has none after.
fn judge_ends(push: &Push, violations: &mut Violations) {
    let ends = [("/before", &push.before, push.created), ("/after", &push.after, push.deleted)];
    for (pointer, id, none) in ends {
        if violations.require(is_commit_id(id), pointer, "bad_commit_id", "Give the full id of a commit.") {
            violations.require(
                is_no_commit(id) == none,
                pointer,
                "contradiction",
                "Give zeros if, and only if, the ref was `created` (here: before) or `deleted` (here: after).",
            );
        }
    }
}

fn judge_commits(commits: &[Commit], violations: &mut Violations) {
    violations.each("/commits", commits, |violations, at, commit| {
        violations.require(is_commit_id(&commit.id), at.key("id"), "bad_commit_id", "Give the full id of a commit.");
    });
}

eye_validator::validator! {
    judge,
    summary: "GitHub's push: ref, both ends, commits, repository and pusher are there and do not contradict each other.",
    examples: [
        accept "one commit to a branch": r#"{"ref":"refs/heads/main","created":false,"deleted":false,"forced":false,
            "before":"95790bf891e76fee5e1747ab589903a6a1f80f22","after":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
            "commits":[{"id":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7","message":"Mend the roof"}],
            "repository":{"id":1,"full_name":"octocat/hello"},"pusher":{"name":"octocat"},"sender":{"login":"octocat"}}"#,
        accept "a tag is deleted": r#"{"ref":"refs/tags/v1","created":false,"deleted":true,"commits":[],
            "before":"95790bf891e76fee5e1747ab589903a6a1f80f22","after":"0000000000000000000000000000000000000000",
            "repository":{"id":1,"full_name":"octocat/hello"},"pusher":{"name":"octocat"}}"#,
        reject "a branch is created, but was there before": r#"{"ref":"refs/heads/main","created":true,"deleted":false,
            "before":"95790bf891e76fee5e1747ab589903a6a1f80f22","after":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
            "commits":[],"repository":{"id":1,"full_name":"octocat/hello"},"pusher":{"name":"octocat"}}"#,
        reject "another webhook's payload": r#"{"action":"opened","issue":{"number":1}}"#,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_commit_that_has_no_full_id_is_told() {
        let data = r#"{"ref":"main","created":false,"deleted":false,"commits":[{"id":"da15"},{"id":""}],
            "before":"95790bf891e76fee5e1747ab589903a6a1f80f22","after":"da1560886d4f094c3e6c9ef40349f7d38b5d27d7",
            "repository":{"id":1,"full_name":"octocat"},"pusher":{"name":"octocat"}}"#;
        let reasons = eye_validator::testing::reasons::<EyeValidator>(data);
        let pointers: Vec<_> = reasons.iter().map(|(pointer, _)| pointer.as_str()).collect();
        assert_eq!(pointers, ["/ref", "/commits/0/id", "/commits/1/id", "/repository/full_name"]);
    }
}
