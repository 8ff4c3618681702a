//! `eye validator bundle`: the rule of a project for a page or Node, so that a form can say what the gateway would say.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use super::needed_project;
use super::terminal::bytes;
use crate::cli::Failure;
use crate::cli::output::say;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bundle {
    /// One ES module that exports `validate(event)`
    #[arg(long, required = true)]
    js: bool,
    /// The file to write, such as rule.mjs; one that is there is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(bundle: &Bundle) -> Result<(), Failure> {
    let project = needed_project()?;
    let language = project.language;
    let make = language.bundle.ok_or_else(|| {
        anyhow!(
            "a rule in {} has no source for JavaScript: bundle a project in typescript, or ask the gateway what would become of an \
             event (`/v1/events?dry_run=true`)",
            language.name
        )
    })?;
    let out = std::path::absolute(&bundle.out).context("the file to write")?;
    make(&project.folder, &out, &project.event_type.to_string())?;
    let size = std::fs::metadata(&out).with_context(|| out.display().to_string())?.len();
    if bundle.json {
        return Ok(say(json!({"file": out, "bytes": size}))?);
    }
    Ok(say(format_args!("{}\t{}", out.display(), bytes(usize::try_from(size).unwrap_or(usize::MAX))))?)
}
