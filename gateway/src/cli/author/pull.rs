//! `eye validator fixtures pull`: real events of a type as fixtures, those that were stored and those that its validator
//! refused, with other values of the same kinds in place of what senders wrote.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use eye_event::verdict::Digest;
use eye_judge::{Expected, Slot};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::disguise::Disguise;
use super::fixtures::{Written, folder_of};
use super::terminal::Progress;
use super::{names, project, usage};
use crate::cli::output::{say, warn};
use crate::cli::reach::gateway;
use crate::cli::remote::Gateway;
use crate::cli::{Failure, Source};

/// Most fixtures of a kind that one pull makes.
const LIMIT_MAX: u16 = 500;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Fixtures {
    /// Make fixtures of real events, with other values of the same kinds
    Pull(Pull),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Pull {
    /// The event type [default: that of the project]
    #[arg(long = "type", value_name = "TYPE", value_parser = names::event_type)]
    event_type: Option<Slot>,
    /// Keep what lies at this pointer of the data as it is, such as /currency; may be repeated
    #[arg(long, value_name = "POINTER", value_parser = pointer)]
    keep: Vec<String>,
    /// How many stored and how many refused events, the latest first
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=i64::from(LIMIT_MAX)))]
    limit: u16,
    /// The folder for the fixtures [default: that of the project]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

#[derive(Deserialize)]
struct Events {
    events: Vec<Event>,
}

/// A stored event, or the bytes of one that was not.
#[derive(Deserialize)]
struct Event {
    data: Box<RawValue>,
}

#[derive(Deserialize)]
struct Letters {
    dead_letters: Vec<Letter>,
}

#[derive(Deserialize)]
struct Letter {
    id: String,
    code: String,
    kept: String,
    redrivable: bool,
}

#[derive(Deserialize)]
struct WholeLetter {
    raw: Option<String>,
    raw_encoding: Option<String>,
    #[serde(default)]
    violations: Vec<Violation>,
}

#[derive(Deserialize)]
struct Violation {
    code: String,
}

/// What a pull made.
#[derive(Default)]
struct Made {
    accept: usize,
    reject: usize,
    known: usize,
    unread: usize,
}

fn pointer(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(format!("a pointer begins with a slash: /{text}")),
    }
}

pub(in crate::cli) async fn run(Fixtures::Pull(pull): Fixtures) -> Result<(), Failure> {
    let project = project()?;
    let event_type = pull.event_type.or_else(|| project.as_ref().map(|project| project.event_type.clone()));
    let event_type = event_type.ok_or_else(|| usage("name the event type: --type category/name"))?;
    let into = pull.into.or_else(|| project.as_ref().map(|project| project.fixtures.clone()));
    let into = into.ok_or_else(|| usage("name the folder for the fixtures: --into DIR"))?;
    let gateway = gateway(&pull.source, project.as_ref().and_then(|project| project.gateway.as_ref()))?;
    let parameters = format!("limit={}{}", pull.limit, filter(&event_type));
    let mut pulling = Pulling { gateway, into, disguise: Disguise::new(pull.keep), made: Made::default() };
    {
        let _going_on = Progress::of("reading events");
        pulling.stored(&parameters).await?;
        pulling.refused(&parameters).await?;
    }
    let Pulling { made, into, .. } = pulling;
    if made.unread > 0 {
        warn(format_args!(
            "eye: {} refused events are not there as they were sent: they were redacted or cut, or the token lacks the scope `raw`",
            made.unread
        ));
    }
    let Made { accept, reject, known, .. } = made;
    Ok(say(format_args!(
        "{accept} to accept and {reject} to reject in {}; {known} were there already. `eye validator test` says which of them depend \
         on a value: pull those again with --keep",
        into.display()
    ))?)
}

/// The parameters of a list of events of these types.
fn filter(event_type: &Slot) -> String {
    let (category, name) = event_type.parts();
    let part = |key: &str, value: Option<&str>| {
        value.map(|value| format!("&{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))).unwrap_or_default()
    };
    format!("{}{}", part("category", category), part("name", name))
}

/// A pull under way.
struct Pulling {
    gateway: Gateway,
    into: PathBuf,
    disguise: Disguise,
    made: Made,
}

impl Pulling {
    async fn read<T: for<'de> Deserialize<'de>>(&self, path: &str) -> anyhow::Result<T> {
        let bytes = self.gateway.bytes(path).await?;
        serde_json::from_slice(&bytes).context("the gateway's answer")
    }

    async fn stored(&mut self, parameters: &str) -> anyhow::Result<()> {
        let found: Events = self.read(&format!("/v1/events?order=desc&{parameters}")).await?;
        found.events.into_iter().try_for_each(|event| self.put(Expected::Accept, &event, Vec::new()))
    }

    async fn refused(&mut self, parameters: &str) -> anyhow::Result<()> {
        let found: Letters = self.read(&format!("/v1/dead-letters?reason=rejected&code=rule&{parameters}")).await?;
        for letter in found.dead_letters.iter().filter(|letter| letter.code == "rule") {
            let whole: WholeLetter = self.read(&format!("/v1/dead-letters/{}", letter.id)).await?;
            let text = whole.raw.filter(|_| letter.kept == "whole" && letter.redrivable);
            let text = text.filter(|_| whole.raw_encoding.as_deref() == Some("utf8"));
            let Some(event) = text.and_then(|text| serde_json::from_str::<Event>(&text).ok()) else {
                self.made.unread += 1;
                continue;
            };
            let mut codes: Vec<String> = whole.violations.into_iter().map(|one| one.code).collect();
            codes.sort();
            codes.dedup();
            self.put(Expected::Reject, &event, codes)?;
        }
        Ok(())
    }

    /// Writes an event in disguise, under the digest of what the file holds. One that is there is not written again.
    fn put(&mut self, expect: Expected, event: &Event, codes: Vec<String>) -> anyhow::Result<()> {
        let text = Written::new(self.disguise.data(&event.data)?, codes).text()?;
        let digest = Digest::of(text.as_bytes()).to_string();
        let folder = self.into.join(folder_of(expect));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(format!("pulled-{}.json", digest.get(..12).context("a digest")?));
        if file.exists() {
            self.made.known += 1;
            return Ok(());
        }
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        match expect {
            Expected::Reject => self.made.reject += 1,
            Expected::Accept | Expected::Amend => self.made.accept += 1,
        }
        Ok(())
    }
}
