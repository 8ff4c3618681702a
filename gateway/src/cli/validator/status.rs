//! `eye validator status`: what a running gateway serves, and who shipped it.

use clap::Args;
use eye_event::legible::legible;
use eye_judge::Slot;
use hyper::Method;
use serde_json::Value;

use crate::cli::output::{say, warn};
use crate::cli::reach::gateway;
use crate::cli::{Failure, Source};

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// The event type; all of them without it
    #[arg(value_name = "TYPE", value_parser = Slot::parse)]
    event_type: Option<Slot>,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(status: Status) -> Result<(), Failure> {
    let gateway = gateway(&status.source)?;
    match &status.event_type {
        None => {
            let all = gateway.ask(Method::GET, "/v1/validators", None).await?;
            let list = all["validators"].as_array().map(Vec::as_slice).unwrap_or_default();
            if list.is_empty() {
                warn("the gateway serves no module");
            }
            for one in list {
                say(line(one))?;
            }
        }
        Some(slot) => {
            let one = gateway.ask(Method::GET, &format!("/v1/validators/{}", slot.to_url()), None).await?;
            say(line(&one))?;
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

fn version_line(version: &Value) -> String {
    let text = |key: &str| version[key].as_str().unwrap_or("-");
    format!(
        "  {}\tat {}\tby {}\tfrom {}\tcommit {}",
        text("digest"),
        text("at"),
        text("by"),
        text("from"),
        text("commit")
    )
}
