//! `eye jobs`: lists, shows and cancels jobs, on a gateway over HTTP or on the database. Other commands follow a job that
//! they have asked for by the functions of this file.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::output::{say, warn};
use super::reach::Reached;
use super::{Failure, Source};
use crate::jobs::{self, Kind, Progress, STATES, redrive};
use crate::query::rows_as_json::job_json;
use crate::store::{AskedJob, JobFilter};

/// The time between two looks at a job that a command follows.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often a look may fail in a row before the command gives up; the job goes on.
const LOOKS_FAILED_MAX: u32 = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, the latest first, a JSON line each
    List(List),
    /// Show one job: what was asked, how far it is, and what came of it
    Show(One),
    /// Cancel a job: it ends after its current step, and what it has done stays
    Cancel(One),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// redrive, rejudge or replay
    #[arg(long, value_parser = Kind::ALL.map(Kind::as_str))]
    kind: Option<String>,
    /// waiting, running, done, failed or cancelled
    #[arg(long, value_parser = STATES)]
    state: Option<String>,
    /// Most jobs
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The job's id
    id: Uuid,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let (Command::List(List { source, .. }) | Command::Show(One { source, .. }) | Command::Cancel(One { source, .. })) =
        &command;
    let reached = Reached::find(source).await?;
    let done = work(&reached, &command).await;
    reached.close().await;
    Ok(done?)
}

async fn work(reached: &Reached, command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List(list) => listed(reached, list).await?.iter().try_for_each(say),
        Command::Show(one) => say(format_args!("{:#}", shown(reached, one.id).await?)),
        Command::Cancel(one) => {
            let job = match reached {
                Reached::Gateway(gateway) => gateway.ask(Method::DELETE, &path(one.id), None).await?,
                Reached::Database(database) => {
                    let store = database.store();
                    let job = jobs::cancel(store, one.id, store.actor()).await?;
                    job_json(&job.with_context(|| format!("there is no job {}", one.id))?)
                }
            };
            say(format_args!("{job:#}"))
        }
    }
}

fn path(id: Uuid) -> String {
    format!("/v1/jobs/{id}")
}

async fn listed(reached: &Reached, list: &List) -> anyhow::Result<Vec<Value>> {
    let List { kind, state, limit, .. } = list;
    match reached {
        Reached::Gateway(gateway) => {
            let mut path = format!("/v1/jobs?limit={limit}");
            for (name, word) in [("kind", kind), ("state", state)] {
                if let Some(word) = word {
                    path.push_str(&format!("&{name}={word}"));
                }
            }
            let answer = gateway.ask(Method::GET, &path, None).await?;
            Ok(answer["jobs"].as_array().cloned().unwrap_or_default())
        }
        Reached::Database(database) => {
            let filter = JobFilter { kind: kind.clone(), state: state.clone() };
            let page = database.store().jobs_page(&filter, None, *limit).await?;
            Ok(page.rows.iter().map(job_json).collect())
        }
    }
}

async fn shown(reached: &Reached, id: Uuid) -> anyhow::Result<Value> {
    match reached {
        Reached::Gateway(gateway) => gateway.ask(Method::GET, &path(id), None).await,
        Reached::Database(database) => {
            let job = database.store().job(id).await?;
            Ok(job_json(&job.with_context(|| format!("there is no job {id}"))?))
        }
    }
}

/// Asks for a redrive of these letters that stores what is accepted, and follows it to its end.
pub(super) async fn redrive(reached: &Reached, request: &redrive::Request) -> anyhow::Result<()> {
    let job = match reached {
        Reached::Gateway(gateway) => {
            let mut body = request.as_json();
            body["kind"] = Kind::Redrive.as_str().into();
            body["dry_run"] = json!(false);
            gateway.ask(Method::POST, "/v1/jobs", Some(body)).await?
        }
        Reached::Database(database) => {
            let store = database.store();
            match jobs::ask(store, Kind::Redrive, false, request.as_json(), store.actor()).await? {
                AskedJob::New(job) => job_json(&job),
                AskedJob::Running(id) => {
                    bail!(
                        "a redrive waits or runs already: look at it with `eye jobs show {id}`, or end it with `eye jobs cancel {id}`"
                    )
                }
            }
        }
    };
    let id = job["id"].as_str().and_then(|id| Uuid::try_parse(id).ok()).context("the answer has no job")?;
    warn(format_args!("eye: job {id}; it goes on if this command ends, and `eye jobs cancel {id}` ends it"));
    follow(reached, id).await
}

/// Follows a job to its end, with a line of its progress on a terminal, and prints its counts.
async fn follow(reached: &Reached, id: Uuid) -> anyhow::Result<()> {
    let is_terminal = std::io::stderr().is_terminal();
    let mut failed = 0;
    loop {
        let job = match shown(reached, id).await {
            Ok(job) => job,
            Err(_) if failed < LOOKS_FAILED_MAX => {
                failed += 1;
                sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        failed = 0;
        let progress: Progress = serde_json::from_value(job["progress"].clone()).unwrap_or_default();
        if is_terminal {
            // A terminal that is gone needs no progress.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", line(&job, &progress));
        }
        let state = job["state"].as_str().unwrap_or_default();
        if !["waiting", "running"].contains(&state) {
            if is_terminal {
                warn("");
            }
            let words = progress.counts().map(|(word, count)| format!("{word} {count}"));
            say(words.join(", "))?;
            return match (state, job["problem"].as_str()) {
                ("done", _) => Ok(()),
                (_, Some(problem)) => bail!("the job {id} failed: {problem}"),
                (state, None) => bail!("the job {id} was {state}"),
            };
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The progress of a job in one line.
pub(super) fn progress_line(job: &Value) -> String {
    line(job, &serde_json::from_value(job["progress"].clone()).unwrap_or_default())
}

/// The progress in one line.
fn line(job: &Value, progress: &Progress) -> String {
    let state = job["state"].as_str().unwrap_or_default();
    let of = progress.total.map(|total| format!(" of {total}")).unwrap_or_default();
    let counts: Vec<String> = progress
        .counts()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(word, count)| format!("{word} {count}"))
        .collect();
    format!("{state}: {}{of} {}", progress.done, counts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_is_one_line_of_what_there_is() {
        let progress = Progress { done: 3, total: Some(9), stored: 2, skipped: 1, ..Progress::default() };
        assert_eq!(line(&json!({"state": "running"}), &progress), "running: 3 of 9 stored 2, skipped 1");
        let progress = Progress::default();
        assert_eq!(line(&json!({"state": "waiting"}), &progress).trim_end(), "waiting: 0");
    }
}
