//! `eye validator replay`: judges the events of the past by a module that does not serve yet. It sends the module to a
//! gateway, follows the job, and prints what could not be compared, then what would change. A signal cancels the job.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use eye_event::legible::legible;
use eye_event::verdict::Digest;
use hyper::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::digest;
use crate::cli::author::{self, Project, Wanted};
use crate::cli::jobs::progress_line;
use crate::cli::output::{say, warn};
use crate::cli::reach::{ENDED_BY_SIGNAL, gateway};
use crate::cli::remote::{Body, Gateway};
use crate::cli::signals::Signals;
use crate::cli::{Failure, Source};
use crate::shutdown::Shutdown;

/// The time between two looks at the job.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often a look may fail in a row before the command gives up; the job goes on.
const LOOKS_FAILED_MAX: u32 = 100;
/// Longest time for sending a module, which the gateway loads before it answers.
const SEND_TIME: Duration = Duration::from_secs(150);
/// Characters of a text of events in a line.
const TEXT_CHARACTERS_MAX: usize = 200;

/// Why events are not compared, in words.
const REASONS: [(&str, &str); 7] = [
    ("amended", "their module amends, so what is stored may not be what was sent"),
    ("envelope", "refused by the gateway's own rules, before a module saw them"),
    ("not_allowed", "refused since their application might not send them"),
    ("not_kept", "nothing of them was kept"),
    ("cut", "only their beginning was kept"),
    ("unstorable", "refused by Postgres, whatever a module said"),
    ("gone", "removed while the replay ran"),
];

#[derive(Debug, Args)]
pub(in crate::cli) struct Replay {
    #[command(flatten)]
    wanted: Wanted,
    /// A version or a candidate that is kept, instead of a file
    #[arg(long, value_name = "SHA256", value_parser = digest)]
    digest: Option<Digest>,
    /// The range of time until now: a number with m, h, d or w [default: 7d]
    #[arg(long, value_name = "RANGE", conflicts_with_all = ["from", "to"])]
    last: Option<String>,
    /// The begin of the range, such as 2026-11-23T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// The end of the range [default: now]
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<String>,
    /// Judge about so many events, spread over the range
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    sample: Option<u32>,
    /// The file with its settings, as a <name>.toml [default: settings.toml of the project, else those that the slot has]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Exit with 3 if the module refuses a larger part of the events that are stored, or faults on them
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    refuse_max: Option<f64>,
    /// Print the job with its result, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "a part such as 0.1%, up to 100%".to_owned())
}

pub(super) async fn run(replay: Replay) -> Result<(), Failure> {
    let project = author::project()?;
    let (path, body) = request(&replay, project.as_ref())?;
    let gateway = gateway(&replay.source, project.as_ref().and_then(|project| project.gateway.as_ref()))?;
    let shutdown = Shutdown::default();
    let mut signals = Signals::with_hangup().context("signals cannot be heard")?;
    let job = tokio::select! {
        job = replayed(&gateway, &path, body, &shutdown) => job?,
        never = signals.stop(&shutdown) => match never {},
    };
    if replay.json {
        say(&job)?;
    } else {
        print(&job["result"])?;
    }
    replay.refuse_max.map_or(Ok(()), |most| within(&job["result"], most))
}

/// The path and the body of the request.
fn request(replay: &Replay, project: Option<&Project>) -> Result<(String, Body), Failure> {
    let (event_type, body, own) = match replay.digest {
        Some(digest) => {
            let event_type = replay.wanted.event_type_alone(project)?;
            let body = json!({"digest": digest.to_string()}).to_string();
            (event_type, Body { content_type: "application/json", bytes: body.into() }, None)
        }
        None => {
            let module = replay.wanted.resolve(project)?;
            let content = module.content()?;
            let own = project.filter(|_| module.is_of_project).map(Project::settings).transpose()?.flatten();
            let content_type = module.kind(&content).content_type();
            (module.event_type, Body { content_type, bytes: content.into() }, own)
        }
    };
    let settings = match &replay.settings {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?),
        None => own,
    };
    let last = replay.last.clone().or_else(|| replay.from.is_none().then(|| "7d".to_owned()));
    let parameters = [
        ("type", Some(event_type.to_string())),
        ("last", last),
        ("from", replay.from.clone()),
        ("to", replay.to.clone()),
        ("sample", replay.sample.map(|number| number.to_string())),
        ("settings", settings),
    ];
    let given = parameters.into_iter().filter_map(|(key, value)| Some((key, value?)));
    let query: Vec<String> =
        given.map(|(key, value)| format!("{key}={}", utf8_percent_encode(&value, NON_ALPHANUMERIC))).collect();
    Ok((format!("/v1/jobs?kind=replay&{}", query.join("&")), body))
}

/// Asks for the job and follows it to its end, or cancels it when a signal asks to stop.
async fn replayed(gateway: &Gateway, path: &str, body: Body, shutdown: &Shutdown) -> anyhow::Result<Value> {
    let asked = gateway.request(Method::POST, path, &[], Some(body), SEND_TIME).await?;
    let id = asked["id"].as_str().context("the answer has no job")?.to_owned();
    warn(format_args!("eye: job {id}; a signal to this command cancels it"));
    let Some(job) = shutdown.drain.run_until_cancelled(follow(gateway, &id)).await else {
        let cancelled = gateway.ask(Method::DELETE, &format!("/v1/jobs/{id}"), None).await;
        match cancelled {
            Ok(_) => bail!("{ENDED_BY_SIGNAL}, and the job {id} is cancelled"),
            Err(error) => {
                bail!("{ENDED_BY_SIGNAL}, and the job {id} goes on ({error:#}): end it with `eye jobs cancel {id}`")
            }
        }
    };
    let job = job?;
    match (job["state"].as_str().unwrap_or_default(), job["problem"].as_str()) {
        ("done", _) => Ok(job),
        (_, Some(problem)) => bail!("the job {id} failed: {problem}"),
        (state, None) => bail!("the job {id} was {state}"),
    }
}

/// Follows a job to its end, with a line of its progress on a terminal.
async fn follow(gateway: &Gateway, id: &str) -> anyhow::Result<Value> {
    let is_terminal = std::io::stderr().is_terminal();
    let mut failed = 0;
    loop {
        let job = match gateway.read(&format!("/v1/jobs/{id}")).await {
            Ok(job) => job,
            Err(_) if failed < LOOKS_FAILED_MAX => {
                failed += 1;
                sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        failed = 0;
        if is_terminal {
            // A terminal that is gone needs no progress.
            let _ = write!(std::io::stderr(), "\r\x1b[K{}", progress_line(&job));
        }
        if !job["ended_at"].is_null() {
            if is_terminal {
                warn("");
            }
            return Ok(job);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Prints what could not be compared, then the tables, the changes and the amendments.
fn print(result: &Value) -> anyhow::Result<()> {
    for (reason, words) in REASONS {
        if let Some(count) = result["not_compared"][reason].as_u64() {
            say(format_args!("not compared  {count:>9}  {reason}: {words}"))?;
        }
    }
    if let Some(count) = result["unsure"].as_u64().filter(|count| *count > 0) {
        say(format_args!(
            "not certain   {count:>9}  compared, but their module is not kept, and may have amended them"
        ))?;
    }
    let events = result["events"].as_u64().unwrap_or_default();
    let letters = &result["letters"];
    match result["sampled"].as_object() {
        None => say(format_args!("looked at     {events:>9}  stored events, and {letters} dead letters"))?,
        Some(of) => say(format_args!(
            "looked at     {events:>9}  of about {} stored events, and {letters} of {} dead letters",
            of["events"], of["letters"]
        ))?,
    }
    table("then", &result["rows"])?;
    table("redacted", &result["redacted"])?;
    for change in result["changes"].as_array().into_iter().flatten() {
        say(change_line(change))?;
    }
    others("changes", &result["changes_others"])?;
    for amendment in result["amendments"].as_array().into_iter().flatten() {
        say(format_args!("amended  {}  {}", text(&amendment["application"]), shown_id(amendment)))?;
        for change in amendment["changes"].as_array().into_iter().flatten() {
            let value = |key: &str| change.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
            let (old, new) = (value("old"), value("new"));
            let (old, new) = (legible(&old, TEXT_CHARACTERS_MAX), legible(&new, TEXT_CHARACTERS_MAX));
            say(format_args!("  {}: {old} -> {new}", text(&change["pointer"])))?;
        }
        others("places", &amendment["more"])?;
    }
    others("amendments", &result["amendments_others"])
}

fn others(what: &str, count: &Value) -> anyhow::Result<()> {
    match count.as_u64() {
        Some(count) if count > 0 => say(format_args!("and {count} more {what}")),
        _ => Ok(()),
    }
}

/// A table of the outcomes of the past by those of the module. One without events is not printed.
fn table(title: &str, rows: &Value) -> anyhow::Result<()> {
    let Some(rows) = rows.as_array().filter(|rows| !rows.is_empty()) else { return Ok(()) };
    say("")?;
    say(format_args!("{title:<12}{:>10}{:>10}{:>10}{:>10}", "stored", "amended", "refused", "faulted"))?;
    for old in ["stored", "refused", "quarantined"] {
        let count = |new: &str| {
            let row = rows.iter().find(|row| row["old"] == old && row["new"] == new);
            row.and_then(|row| row["count"].as_u64()).unwrap_or_default()
        };
        let counts = ["stored", "amended", "refused", "faulted"].map(count);
        if counts.iter().any(|count| *count > 0) {
            let cells: String = counts.iter().map(|count| format!("{count:>10}")).collect();
            say(format_args!("{old:<12}{cells}"))?;
        }
    }
    say("")
}

fn change_line(change: &Value) -> String {
    let pointer = text(&change["pointer"]);
    let pointer = if pointer.is_empty() { "the event" } else { &pointer };
    let examples: Vec<String> = change["examples"].as_array().into_iter().flatten().take(2).map(shown_id).collect();
    format!(
        "{:>9}  {} -> {}  {pointer}  {}  {}  {} to {}  such as {}",
        change["count"].as_u64().unwrap_or_default(),
        text(&change["old"]),
        text(&change["new"]),
        text(&change["code"]),
        text(&change["application"]),
        text(&change["first"]),
        text(&change["last"]),
        examples.join(", ")
    )
}

/// The id of an example: of the dead letter, else of the event.
fn shown_id(example: &Value) -> String {
    match example["dead_letter_id"].as_str() {
        Some(id) => format!("dead letter {id}"),
        None => format!("event {}", example["event_id"].as_str().unwrap_or_default()),
    }
}

fn text(value: &Value) -> String {
    legible(value.as_str().unwrap_or_default(), TEXT_CHARACTERS_MAX).to_string()
}

/// Fails if the module refuses too large a part of the events that are stored, or faults on them.
fn within(result: &Value, most: f64) -> Result<(), Failure> {
    let count = |news: &[&str]| -> u64 {
        let rows = result["rows"].as_array().into_iter().flatten();
        let rows = rows.filter(|row| row["old"] == "stored" && news.iter().any(|new| row["new"] == *new));
        rows.filter_map(|row| row["count"].as_u64()).sum()
    };
    let (lost, all) = (count(&["refused", "faulted"]), count(&["stored", "amended", "refused", "faulted"]));
    if all == 0 {
        warn("eye: no stored event was compared, so --refuse-max says nothing");
    }
    if (lost as f64) * 100.0 > most * (all as f64) {
        return Err(Failure::Beyond(format!(
            "the module refuses or faults on {lost} of {all} stored events, which is more than {most}%"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_percentage() {
        assert_eq!((percent("0.1%"), percent("5"), percent("0%")), (Ok(0.1), Ok(5.0), Ok(0.0)));
        assert!(["", "-1%", "101%", "a%", "NaN"].iter().all(|text| percent(text).is_err()));
    }

    #[test]
    fn refused_and_faulted_events_count_against_the_stored_ones() {
        let row = |old: &str, new: &str, count: u64| json!({"old": old, "new": new, "count": count});
        let rows = [
            row("stored", "stored", 990),
            row("stored", "amended", 8),
            row("stored", "refused", 1),
            row("stored", "faulted", 1),
            row("refused", "refused", 500),
        ];
        let result = json!({ "rows": rows });
        assert!(within(&result, 0.2).is_ok());
        assert!(matches!(within(&result, 0.19), Err(Failure::Beyond(_))));
        assert!(within(&json!({"rows": []}), 0.0).is_ok());
    }

    #[test]
    fn a_change_is_one_line_without_hidden_characters() {
        let change = json!({
            "pointer": "/total", "code": "maximum", "old": "stored", "new": "refused", "application": "sh\u{202e}op", "count": 12,
            "first": "2026-11-23T09:15:00Z", "last": "2026-11-24T09:15:00Z",
            "examples": [{"event_id": "e", "session_id": "s", "dead_letter_id": null}],
        });
        let line = change_line(&change);
        assert!(
            line.starts_with("       12  stored -> refused  /total  maximum") && line.ends_with("such as event e"),
            "{line}"
        );
        assert!(!line.contains('\u{202e}'), "{line}");
    }
}
