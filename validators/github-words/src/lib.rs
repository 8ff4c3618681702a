//! What the validators of GitHub's webhooks share: the types and rules that hold for several of its events. Only what
//! GitHub always sends is asked for, and new values of growing lists (actions, states) are let pass.

use std::borrow::Cow;

use eye_validator::{Pattern, Place, Violations};
use serde::Deserialize;

/// The repository in which something happened.
#[derive(Deserialize)]
pub struct Repository<'a> {
    /// The number that a repository keeps when it is renamed.
    pub id: u64,
    /// The owner's name, a slash, the repository's name.
    #[serde(borrow)]
    pub full_name: Cow<'a, str>,
}

impl Repository<'_> {
    /// Judges the repository, which lies at `/repository`.
    pub fn judge(&self, violations: &mut Violations) {
        violations.require(self.id > 0, "/repository/id", "bad_id", "Give the repository's id, a number from 1.");
        violations.require(
            FULL_NAME.matches(&self.full_name),
            "/repository/full_name",
            "bad_full_name",
            "Give owner and name of the repository, such as `octocat/hello-world`.",
        );
    }
}

/// The account that did something.
#[derive(Deserialize)]
pub struct Account<'a> {
    /// The name by which the account signs in.
    #[serde(borrow)]
    pub login: Cow<'a, str>,
}

impl Account<'_> {
    /// Judges the account, which lies at `/sender`.
    pub fn judge_sender(&self, violations: &mut Violations) {
        violations.require(!self.login.is_empty(), "/sender/login", "empty", "Give the login of the account.");
    }
}

/// Judges the action, which lies at `/action`. GitHub adds new ones, so any that is written like one will do.
pub fn judge_action(action: &str, violations: &mut Violations) {
    violations.require(
        ACTION.matches(action),
        "/action",
        "bad_action",
        "Give the action as GitHub sends it, such as `opened`.",
    );
}

/// Judges the title and the state of the issue or pull request at `place`, given the action that was taken on it.
pub fn judge_topic(place: &str, title: &str, state: Option<&str>, action: &str, violations: &mut Violations) {
    let topic = Place::DATA;
    let topic = topic.key(place);
    let titled = !title.trim().is_empty();
    violations.require(titled, topic.key("title"), "empty", "Give the title, which GitHub does not let be empty.");
    let Some(state) = state else { return };
    let at = topic.key("state");
    if violations.require(matches!(state, "open" | "closed"), &at, "bad_state", "Give `open` or `closed`.") {
        let fits = !matches!((action, state), ("closed", "open") | ("reopened", "closed"));
        violations.require(fits, &at, "contradiction", "Give the state in which the action left it.");
    }
}

/// Whether this is the id of a commit: SHA-1 or SHA-256, in hexadecimal digits of lower case.
pub fn is_commit_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether this is the id by which GitHub says that there is no commit: zeros.
pub fn is_no_commit(id: &str) -> bool {
    id.bytes().all(|byte| byte == b'0')
}

/// Owner and name of a repository.
const FULL_NAME: Pattern = Pattern::new("[\\w.-]+/[\\w.-]+");

/// An action as GitHub writes one.
const ACTION: Pattern = Pattern::new("[a-z_]+");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_have_an_owner_and_a_name() {
        for name in ["octocat/hello-world", "a/b.c_d", "team_corp/.github"] {
            assert!(FULL_NAME.matches(name), "{name}");
        }
        for name in ["", "/", "octocat", "octocat/", "/x", "a/b/c", "a b/c"] {
            assert!(!FULL_NAME.matches(name), "{name}");
        }
    }

    #[test]
    fn commit_ids_are_hexadecimal_of_either_length() {
        assert!(is_commit_id(&"0a".repeat(20)) && is_commit_id(&"0a".repeat(32)));
        assert!(!is_commit_id(&"0A".repeat(20)) && !is_commit_id("0a") && !is_commit_id(&"g".repeat(40)));
    }
}
