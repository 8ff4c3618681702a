//! `eye validator push`: ships a module to a running gateway.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use eye_event::verdict::Digest;
use eye_judge::Slot;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::digest;
use crate::cli::output::say;
use crate::cli::reach::gateway;
use crate::cli::remote::{Body, Gateway};
use crate::cli::{Failure, Source};
use crate::shipping::MODULE_BYTES_MAX;

/// How much longer than the fleet the command waits for the answer.
const MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    /// The module
    file: PathBuf,
    /// The event type: category/name, category/* or *, percent-encoded where needed
    #[arg(long = "type", value_name = "TYPE", value_parser = Slot::parse)]
    event_type: Slot,
    /// Only say whether the gateway would take it
    #[arg(long)]
    dry_run: bool,
    /// Ship it although a gateway cannot serve it, or although it redacts no more
    #[arg(long)]
    force: bool,
    /// The digest that it replaces; nothing changes if another one serves
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    replaces: Option<Digest>,
    /// The file with its settings, as a <name>.toml; `default` for none [default: those that the slot has]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The commit of its source [default: that of the git checkout in which the file lies]
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    /// How many seconds to wait for the fleet
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    wait: u64,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(push: Push) -> Result<(), Failure> {
    let gateway = gateway(&push.source)?;
    Ok(ship(&gateway, push).await?)
}

async fn ship(gateway: &Gateway, push: Push) -> anyhow::Result<()> {
    let shown = push.file.display();
    let size = std::fs::metadata(&push.file).with_context(|| format!("{shown}"))?.len();
    if size > MODULE_BYTES_MAX as u64 {
        bail!("{shown} has {size} bytes, and a module has {MODULE_BYTES_MAX} at most: build it for size");
    }
    let content = std::fs::read(&push.file).with_context(|| format!("{shown}"))?;
    let commit = push.commit.clone().or_else(|| commit_of(&push.file));
    let settings = match &push.settings {
        Some(path) if path.as_os_str() == "default" => Some("default".to_owned()),
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?),
        None => None,
    };
    let parameters = [
        ("dry_run", push.dry_run.then(|| "true".to_owned())),
        ("force", push.force.then(|| "true".to_owned())),
        ("commit", commit),
        ("settings", settings),
    ];
    let given = parameters.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let query: Vec<String> =
        given.map(|(key, value)| format!("{key}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC))).collect();
    let path = format!("/v1/validators/{}?{}", push.event_type.to_url(), query.join("&"));
    let mut headers = vec![("prefer", format!("wait={}", push.wait))];
    headers.extend(push.replaces.map(|digest| ("if-match", format!("\"{digest}\""))));
    let body = Body { content_type: "application/wasm", bytes: content.into() };
    let wait = Duration::from_secs(push.wait) + MARGIN;
    let answer = gateway.request(Method::PUT, path.trim_end_matches('?'), &headers, Some(body), wait).await?;
    say(line(&answer))
}

/// The commit of the checkout in which a file lies, if git is there and knows one.
fn commit_of(file: &Path) -> Option<String> {
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
