//! A module on its way to a running gateway, and what became of it in one line.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use eye_event::verdict::Digest;
use eye_judge::{Kind, Slot};
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::remote::{Body, Gateway};

/// How much longer than the fleet the command waits for the answer.
const MARGIN: Duration = Duration::from_secs(30);

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
    let before = text("replaces").map(|digest| format!(", in place of {digest}")).unwrap_or_default();
    let generation = answer["generation"].as_u64().map(|number| format!(", generation {number}")).unwrap_or_default();
    if let Some(would) = text("would") {
        return format!("{event_type}\twould {would} {module}{before}");
    }
    let state = text("state").unwrap_or("unknown");
    let waits = answer["waits_for"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = waits.iter().filter_map(|one| one["gateway"].as_str()).collect();
    let waits = if names.is_empty() { String::new() } else { format!("; waits for {}", names.join(", ")) };
    format!("{event_type}\t{state}\t{module}{before}{generation}{waits}")
}
