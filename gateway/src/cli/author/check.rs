//! `eye validator check`: says whether a gateway would take a module, by a gateway's own loader.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::terminal::{Look, bytes};
use super::{Wanted, project, trying};
use crate::cli::Failure;
use crate::cli::output::say;

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    #[command(flatten)]
    wanted: Wanted,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) fn run(check: &Check) -> Result<(), Failure> {
    let project = project()?;
    let module = check.wanted.resolve(project.as_ref())?;
    let (content, settings) = (module.content()?, module.settings(project.as_ref())?);
    let (file, event_type) = (module.file.display().to_string(), module.event_type.to_string());
    let look = Look::of_output();
    match trying::load(&module.event_type, module.kind(&content), &content, settings.as_deref(), true)? {
        Ok(trial) => {
            let (digest, (isolation, reason)) = (trial.digest().to_string(), trial.isolation());
            if check.json {
                let offers = trial.offers();
                return Ok(say(json!({
                    "taken": true, "file": file, "type": event_type, "digest": digest, "bytes": content.len(),
                    "summary": trial.summary(), "examples": trial.example_count(), "exports": offers,
                    "isolation": isolation, "isolation_reason": reason, "warnings": trial.warnings(),
                }))?);
            }
            say(format_args!("{} {file} for {event_type}", look.good("taken:")))?;
            say(look.paragraph("  summary   ", trial.summary()))?;
            say(format_args!("  digest    {digest}, {}", bytes(content.len())))?;
            say(format_args!("  examples  {} pass", trial.example_count()))?;
            let offers = trial.offers();
            if !offers.is_empty() {
                say(format_args!("  exports   {}", offers.join(", ")))?;
            }
            say(look.paragraph("  between events  ", reason))?;
            for warning in trial.warnings() {
                say(look.paragraph("  warning   ", warning))?;
            }
            Ok(())
        }
        Err(refusal) => {
            if check.json {
                say(
                    json!({"taken": false, "file": file, "type": event_type, "bytes": content.len(), "refusal": refusal}),
                )?;
            } else {
                say(format_args!("{} {file} for {event_type}", look.bad("refused:")))?;
                say(look.paragraph("  expected  ", &refusal.expected))?;
                say(look.paragraph("  found     ", &refusal.found))?;
                say(look.paragraph("  mend      ", &refusal.mend))?;
            }
            Err(anyhow!("a gateway would refuse it").into())
        }
    }
}
