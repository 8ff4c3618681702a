//! `eye validator doctor`: what a language's tools need on this machine, what is missing, and how to get it.

use anyhow::anyhow;
use clap::Args;
use serde_json::json;

use super::language::{self, Language};
use super::terminal::{Look, Progress};
use super::{project, usage};
use crate::cli::output::say;
use crate::cli::reach::quiet_gateway;
use crate::cli::{Failure, Source};

#[derive(Debug, Args)]
pub(in crate::cli) struct Doctor {
    /// The language [default: that of the project; outside of one, all]
    #[arg(long = "lang", value_name = "LANGUAGE", value_parser = language::named)]
    language: Option<&'static Language>,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// One thing that was looked for.
struct Found {
    what: String,
    found: Option<String>,
    get: String,
    is_needed: bool,
}

pub(in crate::cli) async fn run(doctor: Doctor) -> Result<(), Failure> {
    let project = project()?;
    let languages = match (doctor.language, &project) {
        (Some(language), _) => vec![language],
        (None, Some(project)) => vec![project.language],
        (None, None) => language::ALL.to_vec(),
    };
    if languages.is_empty() {
        return Err(usage("there is no language"));
    }
    let mut all = Vec::new();
    {
        let _going_on = Progress::of("looking at the tools");
        for need in languages.iter().flat_map(|language| (language.needs)()) {
            all.push(Found { what: need.what, found: need.found, get: need.get.to_owned(), is_needed: true });
        }
    }
    all.push(gateway(&doctor.source, project.as_ref().and_then(|project| project.gateway.as_ref())).await);
    let missing = all.iter().filter(|one| one.is_needed && one.found.is_none()).count();
    if doctor.json {
        let rows = all
            .iter()
            .map(|one| json!({"what": one.what, "found": one.found, "get": one.get, "needed": one.is_needed}));
        say(json!({"missing": missing, "looked_for": rows.collect::<Vec<_>>()}))?;
    } else {
        let look = Look::of_output();
        for one in &all {
            let (mark, text) = match &one.found {
                Some(found) => (look.good("there   "), found.clone()),
                None if one.is_needed => (look.bad("missing "), one.get.clone()),
                None => ("not now ".to_owned(), one.get.clone()),
            };
            say(look.paragraph(&format!("{mark} {:<36} ", one.what), &text))?;
        }
    }
    if missing > 0 {
        return Err(anyhow!("{missing} missing: get what is named above, then ask again").into());
    }
    Ok(())
}

/// The gateway to which modules are shipped. Building and testing need none.
async fn gateway(source: &Source, place: Option<&crate::cli::reach::NamedGateway>) -> Found {
    let what = "a gateway to ship to".to_owned();
    let found = match quiet_gateway(source, place) {
        Ok((gateway, _)) => gateway.read("/v1/validators").await.map(|_| gateway.url()),
        Err(Failure::Failed(error)) => Err(error),
        Err(other @ (Failure::Configuration(_) | Failure::Beyond(_))) => Err(anyhow!("{other}")),
    };
    match found {
        Ok(url) => Found { what, found: Some(url), get: String::new(), is_needed: false },
        Err(error) => Found { what, found: None, get: format!("{error:#}"), is_needed: false },
    }
}
