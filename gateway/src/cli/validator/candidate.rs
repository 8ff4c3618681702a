//! `eye validator promote` and `discard`: end the trial of a candidate at a running gateway.

use clap::Args;
use eye_judge::Slot;
use hyper::Method;

use crate::cli::author;
use crate::cli::output::say;
use crate::cli::reach::gateway;
use crate::cli::shipment;
use crate::cli::{Failure, Source};

/// The arguments of `promote`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Promote {
    /// The event type [default: that of the project]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_type: Option<Slot>,
    /// Promote it although a gateway cannot serve it, or although it redacts no more
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    source: Source,
}

/// The arguments of `discard`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Discard {
    /// The event type [default: that of the project]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_type: Option<Slot>,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn promote(Promote { event_type, force, source }: Promote) -> Result<(), Failure> {
    let query = if force { "?force=true" } else { "" };
    ask(event_type, &source, Method::POST, &format!("/promote{query}")).await
}

pub(super) async fn discard(Discard { event_type, source }: Discard) -> Result<(), Failure> {
    ask(event_type, &source, Method::DELETE, "").await
}

async fn ask(event_type: Option<Slot>, source: &Source, method: Method, rest: &str) -> Result<(), Failure> {
    let project = author::project()?;
    let slots = super::or_project(event_type.into_iter().collect(), project.as_ref())?;
    let gateway = gateway(source, project.as_ref().and_then(|project| project.gateway.as_ref()))?;
    let path = format!("/v1/validators/{}/candidate{rest}", slots[0].to_url());
    Ok(say(shipment::line(&gateway.ask(method, &path, None).await?))?)
}
