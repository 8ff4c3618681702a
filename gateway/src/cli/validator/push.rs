//! `eye validator push` and `try`: ship a module or a schema to a running gateway, to serve or to be tried beside the one that
//! serves.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use eye_event::verdict::Digest;

use super::digest;
use crate::cli::author::{self, Wanted};
use crate::cli::output::say;
use crate::cli::reach::gateway;
use crate::cli::shipment::{self, Shipment, Trial};
use crate::cli::{Failure, Source};

/// The arguments of `push`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Push {
    #[command(flatten)]
    shipping: Shipping,
}

/// The arguments of `try`.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("how").required(true).multiple(true).args(["shadow", "canary", "auto"])))]
pub(in crate::cli) struct Try {
    /// Let it judge copies of events; nothing depends on what it says
    #[arg(long, conflicts_with = "canary")]
    shadow: bool,
    /// Let it judge the events of this share of the sessions
    #[arg(long, value_name = "PERCENT")]
    canary: Option<f64>,
    #[command(flatten)]
    shipping: Shipping,
}

#[derive(Debug, Args)]
struct Shipping {
    #[command(flatten)]
    wanted: Wanted,
    /// Only say whether the gateway would take it
    #[arg(long)]
    dry_run: bool,
    /// Ship it although a gateway cannot serve it, or although it redacts no more
    #[arg(long)]
    force: bool,
    /// The digest that it replaces; nothing changes if another one serves
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    replaces: Option<Digest>,
    /// The file with its settings, as a <name>.toml; `default` for none [default: settings.toml of the project, else those that the slot has]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The commit of its source [default: that of the git checkout in which the file lies]
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,
    /// How many seconds to wait until it serves [default: 20, or 120 for a file of more than 4 MiB]
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Try it, and promote it by these steps while the guard is silent, such as shadow:10m,1%:10m,25%:30m
    #[arg(long, value_name = "STEPS")]
    auto: Option<String>,
    /// More refusals are meant: the guard does not take it back for them
    #[arg(long)]
    expect_refusals: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(Push { shipping }: Push) -> Result<(), Failure> {
    ship(shipping, None, None).await
}

pub(super) async fn run_try(Try { shadow, canary, shipping }: Try) -> Result<(), Failure> {
    let mode = if shadow { Some("shadow") } else { canary.map(|_| "canary") };
    ship(shipping, mode, canary).await
}

async fn ship(push: Shipping, mode: Option<&'static str>, percent: Option<f64>) -> Result<(), Failure> {
    let project = author::project()?;
    let module = push.wanted.resolve(project.as_ref())?;
    // The file that is not there is told before a gateway is asked.
    let content = module.content()?;
    let settings = match &push.settings {
        Some(path) if path.as_os_str() == "default" => Some("default".to_owned()),
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?),
        None => project.as_ref().filter(|_| module.is_of_project).map(author::Project::settings).transpose()?.flatten(),
    };
    let gateway = gateway(&push.source, project.as_ref().and_then(|project| project.gateway.as_ref()))?;
    let kind = module.kind(&content);
    let wait_seconds = push.wait.unwrap_or_else(|| shipment::usual_wait_seconds(&content));
    let shipment = Shipment {
        kind,
        content: content.into(),
        event_type: module.event_type,
        dry_run: push.dry_run,
        force: push.force,
        replaces: push.replaces,
        settings,
        commit: push.commit.or_else(|| shipment::commit_of(&module.file)),
        wait_seconds,
        trial: Trial { mode, percent, auto: push.auto, expect_refusals: push.expect_refusals },
    };
    let answer = shipment.send(&gateway).await.map_err(|error| shipment::told(&error))?;
    Ok(say(shipment::line(&answer))?)
}
