//! A module on its way to a running gateway, and what became of it in one line.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use eye_event::verdict::Digest;
use eye_judge::{Kind, Refusal, Slot};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::output::refusal_lines;
use super::remote::{Body, Gateway, Refused};

/// How much longer than the fleet the command waits for the answer.
const MARGIN: Duration = Duration::from_secs(30);

/// Bytes of a module that is loaded at once.
const SMALL_BYTES_MAX: usize = 4 << 20;

/// A module to ship, and on which terms.
#[derive(Debug)]
pub(super) struct Shipment {
    /// The file's bytes.
    pub(super) content: Bytes,
    /// Whether it is a module or a schema.
    pub(super) kind: Kind,
    /// The event types that it is to serve.
    pub(super) event_type: Slot,
    /// Only says whether the gateway would take it.
    pub(super) dry_run: bool,
    /// Ships it although a gateway cannot serve it, or although it redacts no more.
    pub(super) force: bool,
    /// The digest that it replaces; nothing changes if another one serves.
    pub(super) replaces: Option<Digest>,
    /// The text of its settings; `default` for none.
    pub(super) settings: Option<String>,
    /// The commit of its source.
    pub(super) commit: Option<String>,
    /// How many seconds to wait for the fleet.
    pub(super) wait_seconds: u64,
    /// How it is tried; without it, it is to serve.
    pub(super) trial: Trial,
}

/// How a module is tried, and what is meant by it. By default it serves at once.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// `shadow` or `canary`.
    pub(super) mode: Option<&'static str>,
    /// The share of the sessions that a canary judges.
    pub(super) percent: Option<f64>,
    /// The steps by which it is promoted.
    pub(super) auto: Option<String>,
    /// More refusals are meant.
    pub(super) expect_refusals: bool,
}

/// How many seconds to wait for the fleet, unless it is said: longer for a module with an interpreter in it, which gateways load
/// for half a minute.
pub(super) fn usual_wait_seconds(content: &[u8]) -> u64 {
    if content.len() > SMALL_BYTES_MAX { 120 } else { 20 }
}

impl Shipment {
    /// Sends it, and returns the gateway's answer.
    ///
    /// # Errors
    ///
    /// Those of [`Gateway::request`].
    pub(super) async fn send(self, gateway: &Gateway) -> anyhow::Result<Value> {
        let parameters = [
            ("dry_run", self.dry_run.then(|| "true".to_owned())),
            ("force", self.force.then(|| "true".to_owned())),
            ("commit", self.commit),
            ("settings", self.settings),
            ("mode", self.trial.mode.map(str::to_owned)),
            ("percent", self.trial.percent.map(|percent| percent.to_string())),
            ("auto", self.trial.auto),
            ("expect_refusals", self.trial.expect_refusals.then(|| "true".to_owned())),
        ];
        let given = parameters.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let query: Vec<String> =
            given.map(|(key, value)| format!("{key}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC))).collect();
        let path = format!("/v1/validators/{}?{}", self.event_type.to_url(), query.join("&"));
        let mut headers = vec![("prefer", format!("wait={}", self.wait_seconds))];
        headers.extend(self.replaces.map(|digest| ("if-match", format!("\"{digest}\""))));
        let body = Body { content_type: self.kind.content_type(), bytes: self.content };
        let wait = Duration::from_secs(self.wait_seconds) + MARGIN;
        gateway.request(Method::PUT, path.trim_end_matches('?'), &headers, Some(body), wait).await
    }
}

/// Why a gateway takes no module, for its author.
pub(super) fn told(error: &anyhow::Error) -> anyhow::Error {
    let Some(refused) = error.downcast_ref::<Refused>() else { return anyhow!("{error:#}") };
    match (refused.status, refused.code.as_str()) {
        (404 | 405, _) => anyhow!(
            "the gateway is older than this program, or has another address for administration (admin_listen): it takes no \
             modules here ({error:#})"
        ),
        (_, "module_refused") => {
            let part = |key: &str| refused.body[key].as_str().unwrap_or_default().to_owned();
            let refusal = Refusal::of_parts(&part("expected"), &part("found"), &part("mend"));
            let lines = refusal_lines(&refusal);
            anyhow!("the gateway refuses the module; what served before serves on:\n{lines}")
        }
        // With `ship`, the words of the refusal name the event types.
        (401, _) => anyhow!("the gateway does not know the token: {error:#}"),
        (403, _) => {
            anyhow!("the gateway refuses the token, which needs the scope `ship` for this event type: {error:#}")
        }
        _ => anyhow!("the gateway refuses it: {error:#}"),
    }
}

/// The commit of the checkout in which a file lies, if git is there and knows one.
pub(super) fn commit_of(file: &Path) -> Option<String> {
    let whole = std::path::absolute(file).ok()?;
    let mut command = Command::new("git");
    command.arg("-C").arg(whole.parent()?).args(["rev-parse", "HEAD"]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned()).filter(|commit| !commit.is_empty())
}

/// What became of a change, in one line.
pub(super) fn line(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str();
    let module = text("digest").map_or_else(|| "no module".to_owned(), str::to_owned);
    let event_type = text("event_type").unwrap_or_default();
    let before = text("replaces").map(|digest| match text("digest") == Some(digest) {
        true => ", as before".to_owned(),
        false => format!(", in place of {digest}"),
    });
    let before = before.unwrap_or_default();
    let generation = answer["generation"].as_u64().map(|number| format!(", generation {number}")).unwrap_or_default();
    if let Some(would) = text("would") {
        return format!("{event_type}\twould {would} {module}{before}");
    }
    let tried = match (text("mode"), answer["percent"].as_f64()) {
        (Some(mode), Some(percent)) => format!(", tried as a {mode} of {percent} %"),
        (Some(mode), None) => format!(", tried as a {mode}"),
        (None, _) => String::new(),
    };
    let state = text("state").unwrap_or("unknown");
    let waits = answer["waits_for"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = waits.iter().filter_map(|one| one["gateway"].as_str()).collect();
    let waits = if names.is_empty() { String::new() } else { format!("; waits for {}", names.join(", ")) };
    let redrive = &answer["redrive"];
    let redrive = match (redrive["letters"].as_u64(), redrive["letters_without_bytes"].as_u64()) {
        (Some(letters), Some(without)) => format!(
            "\n{letters} dead letters of the module before can be judged again, except for {without} without bytes:\n  {}",
            redrive["command"].as_str().unwrap_or_default()
        ),
        _ => String::new(),
    };
    format!("{event_type}\t{state}\t{module}{tried}{before}{generation}{waits}{redrive}")
}
