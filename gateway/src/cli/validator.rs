//! `eye validator`: ships modules to a running gateway, shows them and their earlier versions, and changes them. `replay`,
//! `push` and `status` work over HTTP. `rollback` and `retire` do so where `EYE_GATEWAY` names a gateway; otherwise they work on files
//! alone and need no running gateway, which notices the change like any other of the directory. What authors do before they
//! ship is in `author.rs`.

use std::path::Path;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use eye_event::legible::legible;
use eye_event::verdict::Digest;
use eye_judge::{History, Listed, ModulesFrom, Retired, Roster, Slot, Version};
use hyper::Method;
use serde_json::{Value, json};

use super::author::{self, Project};
use super::output::{say, warn};
use super::reach::gateway;
use super::{Failure, Source, shipment};
use crate::audit::{Action, Actor, Entry};
use crate::clock::Clock;
use crate::config::{Config, remote};
use crate::trail;

mod candidate;
mod push;
mod replay;
mod status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Begin a project: a validator that builds and tests at once
    New(author::New),
    /// Build the project into one component
    Build(author::Build),
    /// Say what is missing on this machine, and how to get it
    Doctor(author::Doctor),
    /// Say whether a gateway would take a module, and if not, how to mend it
    Check(author::Check),
    /// Judge examples, fixtures and made-up misuse with the gateway's own engine
    Test(author::Test),
    /// Build, test and push at each change
    Dev(author::Dev),
    /// Measure time, memory, size and start against the limits and the version that serves
    Bench(author::Bench),
    /// Make one ES module of a rule, for a page or Node
    Bundle(author::Bundle),
    /// Make fixtures of real events
    #[command(subcommand)]
    Fixtures(author::Fixtures),
    /// Judge the events of the past by a module, and say what it would change
    Replay(replay::Replay),
    /// Ship a module to a running gateway, and to all others on its database
    Push(push::Push),
    /// Try a module beside the one that serves
    Try(push::Try),
    /// Let the candidate serve
    Promote(candidate::Promote),
    /// Try the candidate no longer
    Discard(candidate::Discard),
    /// Show what a running gateway serves, and who shipped it
    Status(status::Status),
    /// List the modules, and how many versions of each are kept
    List(Place),
    /// List the versions of an event type's module that served, the newest first
    History(Typed),
    /// Put an earlier version back: the one before, or the one with --digest
    Rollback(Rollback),
    /// Remove modules, and confirm that missing files were removed on purpose
    Retire(Retire),
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The directory of validators [default: ./modules]
    #[arg(long, value_name = "DIR")]
    modules: Option<String>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Typed {
    /// The event type as its file is named: `<category>/<name>`, `<category>/_` or `_` [default: that of the project]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_type: Option<Slot>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The event type [default: that of the project]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_type: Option<Slot>,
    #[command(flatten)]
    place: Place,
    /// The version to put back, as `history` shows it
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    digest: Option<Digest>,
}

#[derive(Debug, Args)]
pub(super) struct Retire {
    /// The event types as their files are named: `<category>/<name>`, `<category>/_` or `_` [default: that of the project]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_types: Vec<Slot>,
    /// All event types whose files are gone now
    #[arg(long)]
    missing: bool,
    #[command(flatten)]
    place: Place,
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|not| format!("{not}; `eye validator history` shows them"))
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::New(new) => author::new(&new),
        Command::Build(build) => author::build(&build),
        Command::Doctor(doctor) => author::doctor(doctor).await,
        Command::Check(check) => author::check(&check),
        Command::Test(test) => author::test(&test),
        Command::Dev(dev) => author::dev(dev).await,
        Command::Bench(bench) => author::bench(bench).await,
        Command::Bundle(bundle) => author::bundle(&bundle),
        Command::Fixtures(fixtures) => author::fixtures(fixtures).await,
        Command::Replay(replay) => replay::run(replay).await,
        Command::Push(push) => push::run(push).await,
        Command::Try(tried) => push::run_try(tried).await,
        Command::Promote(promote) => candidate::promote(promote).await,
        Command::Discard(discard) => candidate::discard(discard).await,
        Command::Status(status) => status::run(status).await,
        Command::Rollback(rollback) => roll_back(rollback).await,
        Command::Retire(retire) => retire_all(retire).await,
        Command::List(ref place) | Command::History(Typed { ref place, .. }) if is_of_database(place)? => {
            Err(anyhow::anyhow!(
                "the modules come from the database (modules_from), so no directory has them: `eye validator status` asks a \
                 gateway, and `eye fleet generations` the database"
            )
            .into())
        }
        Command::List(place) => list(&place),
        Command::History(typed) => history(&typed),
    }
}

/// The event types that a command is told, or that of the project in which it runs.
fn or_project(event_types: Vec<Slot>, project: Option<&Project>) -> Result<Vec<Slot>, Failure> {
    match project {
        _ if !event_types.is_empty() => Ok(event_types),
        Some(project) => Ok(vec![project.event_type.clone()]),
        None => Err(author::usage(
            "name an event type, such as shop/sale, or run this inside a validator's project (a folder with eye.toml)",
        )),
    }
}

async fn roll_back(rollback: Rollback) -> Result<(), Failure> {
    let Rollback { event_type, place, digest } = rollback;
    let project = author::project()?;
    let slots = or_project(event_type.into_iter().collect(), project.as_ref())?;
    let slot = &slots[0];
    if over_http(&place, project.as_ref())? {
        let body = digest.map(|digest| json!({"digest": digest.to_string()}));
        return change(&place.source, project.as_ref(), slot, "rollback", body).await;
    }
    let (config, history) = files(&place)?;
    let version = history.rollback(&config.modules, slot, digest);
    let version = version.with_context(|| format!("{slot} is not rolled back ({})", looked(&config)))?;
    note(&config, Action::ValidatorRollback, slot, Some(version.digest));
    Ok(say(format_args!("{slot} is back at {}", line(&version)))?)
}

async fn retire_all(retire: Retire) -> Result<(), Failure> {
    let Retire { event_types, missing, place } = retire;
    let project = author::project()?.filter(|_| !missing);
    let slots = if missing { event_types } else { or_project(event_types, project.as_ref())? };
    if !over_http(&place, project.as_ref())? {
        return retire_files(slots, missing, &place);
    }
    if missing {
        return Err(anyhow::anyhow!("--missing looks at a modules directory: name the event types instead").into());
    }
    for slot in &slots {
        change(&place.source, project.as_ref(), slot, "retire", None).await?;
    }
    Ok(())
}

fn is_of_database(place: &Place) -> Result<bool, Failure> {
    let (_, config) = place.source.gather(Vec::new())?;
    Ok(place.modules.is_none() && config.modules_from == ModulesFrom::Database)
}

/// Whether a change goes to a gateway: one is named, and no modules directory is.
fn over_http(place: &Place, project: Option<&Project>) -> Result<bool, Failure> {
    let named = remote::named().is_some()
        || (place.source.data_dir.is_none() && project.is_some_and(|project| project.gateway.is_some()));
    if place.modules.is_none() && named {
        return Ok(true);
    }
    if is_of_database(place)? {
        return Err(anyhow::anyhow!(
            "the modules come from the database (modules_from), so no directory is changed: name a gateway with EYE_GATEWAY \
             and EYE_TOKEN"
        )
        .into());
    }
    Ok(false)
}

async fn change(
    source: &Source,
    project: Option<&Project>,
    slot: &Slot,
    what: &str,
    body: Option<Value>,
) -> Result<(), Failure> {
    let gateway = gateway(source, project.and_then(|project| project.gateway.as_ref()))?;
    let answer = gateway.ask(Method::POST, &format!("/v1/validators/{}/{what}", slot.to_url()), body).await?;
    Ok(say(shipment::line(&answer))?)
}

/// The settings and the history of a command that works on files.
fn files(place: &Place) -> Result<(Config, History), Failure> {
    let flags = place.modules.clone().map(|dir| ("modules", dir)).into_iter().collect();
    let (_, config) = place.source.gather(flags)?;
    let history = History::under(&config.data_dir);
    Ok((config, history))
}

fn list(place: &Place) -> Result<(), Failure> {
    let (config, history) = files(place)?;
    let mut roster = Roster::under(&config.data_dir);
    let all = history.list(&config.modules);
    let all = all.with_context(|| format!("the modules cannot be listed ({})", looked(&config)))?;
    if all.is_empty() {
        warn(format_args!("there is no module, and none is kept ({})", looked(&config)));
    }
    for listed in all {
        say(listed_line(&listed))?;
    }
    let missing = history.missing(&config.modules, &mut roster);
    for slot in missing.context("it cannot be known which modules are missing")? {
        say(format_args!("{slot}\tmissing\t`eye validator retire` confirms that it is gone"))?;
    }
    Ok(())
}

fn history(typed: &Typed) -> Result<(), Failure> {
    let (config, history) = files(&typed.place)?;
    let slots = or_project(typed.event_type.clone().into_iter().collect(), author::project()?.as_ref())?;
    let versions = history.versions(&slots[0]);
    let versions = versions.with_context(|| format!("the history cannot be read ({})", looked(&config)))?;
    if versions.is_empty() {
        warn(format_args!("no version of {} is kept ({})", slots[0], looked(&config)));
    }
    for version in versions {
        say(line(&version))?;
    }
    Ok(())
}

fn retire_files(mut event_types: Vec<Slot>, missing: bool, place: &Place) -> Result<(), Failure> {
    let (config, history) = files(place)?;
    let mut roster = Roster::under(&config.data_dir);
    if missing {
        let missing = history.missing(&config.modules, &mut roster);
        event_types.extend(missing.context("it cannot be known which files are missing; name the event types")?);
    }
    let mut failed = 0;
    for slot in &event_types {
        match history.retire(&config.modules, &roster, slot) {
            Ok(retired) => {
                note(&config, Action::ValidatorRetire, slot, None);
                say(format_args!("{slot} is retired{}", retired_line(&retired)))?;
            }
            Err(error) => {
                say(format_args!("{slot} is not retired: {:#}", anyhow::Error::from(error)))?;
                failed += 1;
            }
        }
    }
    if failed > 0 {
        let (all, looked) = (event_types.len(), looked(&config));
        return Err(anyhow::anyhow!("{failed} of {all} were not retired ({looked})").into());
    }
    Ok(())
}

/// Leaves a note for the audit trail.
fn note(config: &Config, action: Action, slot: &Slot, digest: Option<Digest>) {
    let entry = Entry::new(action, &slot.to_string(), &Actor::command());
    let entry = entry.with("digest", digest.map(|digest| digest.to_string()));
    if let Err(error) = trail::leave_note(&config.data_dir, &entry, &Clock::default()) {
        warn(format_args!(
            "the audit trail has no entry for {slot}: no note could be written in the data dir {}: {error}",
            config.data_dir.display()
        ));
    }
}

/// The folders that a command searched, since the operator may have meant others.
fn looked(config: &Config) -> String {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let (modules, data) = (whole(&config.modules), whole(&config.data_dir));
    format!("looked in {modules} and {data}; --modules, --data-dir and --config name others")
}

fn listed_line(listed: &Listed) -> String {
    let digest = listed.digest.map_or_else(|| "unreadable".to_owned(), |digest| digest.to_string());
    // Both may quote the name of a file, whose control characters a terminal would obey.
    let shown = |text: &dyn std::fmt::Display| legible(&text.to_string(), 2_000).to_string();
    let why = listed.error.as_ref().map(|why| format!("\t{}", shown(why))).unwrap_or_default();
    format!("{}\t{digest}\tversions {}{why}", shown(&listed.event_type), listed.versions.len())
}

fn retired_line(retired: &Retired) -> String {
    let mut line = match &retired.files[..] {
        [] => "; its file was gone already".to_owned(),
        files => files.iter().map(|file| format!("; {} is removed", file.display())).collect(),
    };
    if let Some(settings) = &retired.settings {
        line.push_str(&format!("; {} stays, and is in force again with the next module", settings.display()));
    }
    line
}

fn line(version: &Version) -> String {
    format!("{}\t{}", version.digest, version.at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits_and_nothing_else() {
        assert_eq!(digest(&"0f".repeat(32)), Ok(Digest([15; 32])));
        for wrong in ["+f".repeat(32), "0f".repeat(31), "0g".repeat(32)] {
            assert!(digest(&wrong).is_err_and(|told| told.contains("history")), "{wrong}");
        }
    }
}
