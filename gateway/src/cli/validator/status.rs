//! `eye validator status`: what a running gateway serves, and who shipped it.

use anyhow::anyhow;
use clap::Args;
use eye_event::legible::legible;
use eye_judge::Slot;
use hyper::Method;
use serde_json::Value;

use crate::cli::author;
use crate::cli::output::{say, warn};
use crate::cli::reach::gateway;
use crate::cli::remote::Refused;
use crate::cli::{Failure, Source};

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// The event type [default: that of the project; outside of one, all of them]
    #[arg(value_name = "TYPE", value_parser = author::event_type)]
    event_type: Option<Slot>,
    /// All event types, also within a project
    #[arg(long, conflicts_with = "event_type")]
    all: bool,
    /// Print the gateway's answer, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(status: Status) -> Result<(), Failure> {
    let project = author::project()?;
    let gateway = gateway(&status.source, project.as_ref().and_then(|project| project.gateway.as_ref()))?;
    let of_project = project.filter(|_| !status.all).map(|project| project.event_type);
    match &status.event_type.or(of_project) {
        None => {
            let all = gateway.ask(Method::GET, "/v1/validators", None).await?;
            if status.json {
                return Ok(say(&all)?);
            }
            let list = all["validators"].as_array().map(Vec::as_slice).unwrap_or_default();
            if list.is_empty() {
                warn("the gateway serves no module");
            }
            for one in list {
                say(line(one))?;
            }
        }
        Some(slot) => {
            let path = format!("/v1/validators/{}", slot.to_url());
            let one = gateway.ask(Method::GET, &path, None).await.map_err(|error| match error.downcast_ref::<Refused>() {
                Some(refused) if refused.status == 404 => anyhow!(
                    "{slot} has no module there, and had none, or the token may not see it: `eye validator status --all` shows \
                     those that are there, `eye validator push` ships one"
                ),
                _ => error,
            })?;
            if status.json {
                return Ok(say(&one)?);
            }
            say(line(&one))?;
            if one["candidate"].is_object() {
                let path = format!("/v1/validators/{}/candidate", slot.to_url());
                say(candidate_lines(&gateway.ask(Method::GET, &path, None).await?))?;
            }
            for taken_back in one["taken_back"].as_array().into_iter().flatten() {
                say(taken_back_line(taken_back))?;
            }
            for version in one["versions"].as_array().into_iter().flatten() {
                say(version_line(version))?;
            }
        }
    }
    Ok(())
}

fn line(one: &Value) -> String {
    let text = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
    let error = &one["last_error"];
    let why = ["expected", "found", "mend"].map(|key| error[key].as_str().unwrap_or_default().to_owned());
    let [expected, found, mend] = &why;
    let told = if error.is_object() { format!("\texpected {expected}; found {found}; {mend}") } else { String::new() };
    let counts = &one["counts"];
    let judged = ["accepted", "amended", "rejected"].map(|key| counts[key].as_u64().unwrap_or(0)).iter().sum::<u64>();
    let line = format!(
        "{}\t{}\t{}\tsince {}\tjudged {judged}{told}",
        text("event_type"),
        text("state"),
        text("digest"),
        text("since")
    );
    // Names and refusals may hold characters that a terminal would obey.
    legible(&line, 4_000).to_string().replace("\\t", "\t")
}

/// The candidate, its pairs, and one event of each kind on which it differs.
fn candidate_lines(one: &Value) -> String {
    let (text, counts) = (|key: &str| one[key].as_str().unwrap_or("-").to_owned(), &one["counts"]);
    let percent = one["percent"].as_f64().map(|percent| format!(" of {percent} %")).unwrap_or_default();
    let pairs = ["same", "would_refuse", "would_take", "amends_otherwise", "faulted", "not_compared"];
    let pairs: Vec<String> =
        pairs.iter().map(|key| format!("{key} {}", counts[key].as_u64().unwrap_or_default())).collect();
    let mut lines = format!(
        "  candidate {}\t{}{percent}\tsince {}\tby {}\n    compared {} with {}: {}",
        text("digest"),
        text("mode"),
        text("since"),
        text("by"),
        one["compared"],
        text("against"),
        pairs.join(", ")
    );
    for step in one["auto"]["steps"].as_array().into_iter().flatten() {
        let text = |key: &str| step[key].as_str().unwrap_or("-");
        lines.push_str(&format!("\n    step {}\t{}\tcompared {}", text("step"), text("state"), step["compared"]));
    }
    let mut kinds: Vec<&str> = Vec::new();
    for sample in one["samples"].as_array().into_iter().flatten() {
        let text = |key: &str| sample[key].as_str().unwrap_or("-");
        if kinds.contains(&text("what")) {
            continue;
        }
        kinds.push(text("what"));
        let codes = sample["new"].as_array().into_iter().flatten();
        let codes: Vec<String> = codes
            .map(|one| {
                format!(
                    "{} at {:?}",
                    one["code"].as_str().unwrap_or_default(),
                    one["pointer"].as_str().unwrap_or_default()
                )
            })
            .collect();
        let why = if codes.is_empty() { String::new() } else { format!(": {}", codes.join(", ")) };
        lines.push_str(&format!("\n    {} such as event {} of {}{why}", text("what"), text("id"), text("application")));
    }
    legible(&lines, 8_000).to_string().replace("\\t", "\t").replace("\\n", "\n")
}

fn taken_back_line(one: &Value) -> String {
    let text = |key: &str| one[key].as_str().unwrap_or("-");
    format!("  taken back {}\tat {}\t{}\t{}", text("digest"), text("at"), text("trial"), text("reason"))
}

fn version_line(version: &Value) -> String {
    // With modules from a directory only the time of a version is known; the audit trail has the rest.
    let known = ["at", "by", "from", "commit"]
        .into_iter()
        .filter_map(|key| version[key].as_str().map(|text| format!("\t{key} {text}")));
    format!("  {}{}", version["digest"].as_str().unwrap_or("-"), known.collect::<String>())
}
