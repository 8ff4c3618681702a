//! `eye dead-letters`: lists, shows, redrives and scrubs dead letters. It works on the database; a redrive works over HTTP too.
//! On the database it uses the modules directory of the settings and the code of the gateway. One that stores the letters of a
//! filter is a job of a gateway, if one runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use eye_event::event::EventRow;
use eye_event::outcome::OutcomeKind;
use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Options, Validators};
use serde_json::{Value, json};
use uuid::Uuid;

use super::output::say;
use super::reach::{Database, Reached};
use super::remote::{Gateway, Refused};
use super::{Failure, Source, jobs};
use crate::batch::{Batcher, Limits};
use crate::clock::Clock;
use crate::config::{Config, parts};
use crate::fleet;
use crate::jobs::redrive::Request;
use crate::judging::Judges;
use crate::query::rows_as_json::{letter_json, whole_json};
use crate::redrive::{LetterOutcome, Redrive, RedriveRequest, Report};
use crate::scrub::{Scrub, ScrubLimits};
use crate::store::{Choice, LetterFilter, PageLimits, Store};
use crate::trust::visible::Visible;

/// Most letters of one page.
const PAGE: u32 = 500;
/// Most bytes of one page of the list.
const PAGE_BYTES: usize = 8 << 20;
/// After this time a page of a redrive ends, and the next one continues.
const REDRIVE_TIME: Duration = Duration::from_secs(60);
/// Both name letters.
const IDS_OR_FILTER: &str = "give ids or a filter, not both";
/// The time for the writer to finish.
const LAST_WRITES: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List dead letters, the latest first, a JSON line each
    List(List),
    /// Show one dead letter with its raw bytes
    Show(Show),
    /// Judge dead letters again with the current modules, and print the outcomes; with --store, store the accepted
    /// events
    Redrive(Again),
    /// Scrub older dead letters of validators that take secrets out of events, as a running gateway does by itself
    Scrub(Scrubs),
}

#[derive(Clone, Debug, Args)]
pub(super) struct Filter {
    /// rejected or quarantined
    #[arg(long, value_parser = ["rejected", "quarantined"])]
    reason: Option<String>,
    /// envelope, rule, the kind of fault, or unstorable
    #[arg(long)]
    code: Option<String>,
    /// The code of the first violation
    #[arg(long, value_name = "CODE")]
    violation: Option<String>,
    /// The application that sent the event
    #[arg(long)]
    application: Option<String>,
    /// The event's category
    #[arg(long)]
    category: Option<String>,
    /// The event's name
    #[arg(long)]
    name: Option<String>,
    /// The digest of the module that judged the event
    #[arg(long, value_name = "DIGEST")]
    validator: Option<Digest>,
    /// Received at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
    /// Received before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
}

impl From<Filter> for LetterFilter {
    fn from(filter: Filter) -> Self {
        let Filter { reason, code, violation, application, category, name, validator, from, to } = filter;
        Self { reason, code, violation, application, category, name, validator, from, to }
    }
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: Filter,
    /// Most letters
    #[arg(long, default_value_t = 100)]
    limit: u32,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The dead letter's id
    id: Uuid,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Again {
    /// The ids of dead letters; without any, all letters of the filter that were not redriven
    ids: Vec<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// Store the accepted events; without this, nothing changes
    #[arg(long)]
    store: bool,
    /// The directory of validators [default: ./modules]
    #[arg(long, value_name = "DIR")]
    modules: Option<String>,
    #[command(flatten)]
    source: Source,
}

impl Again {
    /// The request for a job, unless the command has to do the work itself: for a dry run, for single letters, and with a
    /// modules directory of its own.
    fn as_job(&self) -> Option<Request> {
        let is_job = self.store && self.ids.is_empty() && self.modules.is_none();
        is_job.then(|| Request::of(Choice::Filter(self.filter.clone().into())))
    }
}

#[derive(Debug, Args)]
pub(super) struct Scrubs {
    /// Print the result, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// The directory of validators [default: ./modules]
    #[arg(long, value_name = "DIR")]
    modules: Option<String>,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let flag = |dir: &Option<String>| dir.clone().map(|dir| ("modules", dir)).into_iter().collect();
    let (source, flags) = match &command {
        Command::List(list) => (&list.source, Vec::new()),
        Command::Show(show) => (&show.source, Vec::new()),
        Command::Redrive(again) => (&again.source, flag(&again.modules)),
        Command::Scrub(scrubs) => (&scrubs.source, flag(&scrubs.modules)),
    };
    if let Command::Redrive(again) = &command
        && again.modules.is_none()
        && let Some(gateway) = Reached::named_gateway(source)?
    {
        return Ok(redrive_over_http(gateway, again).await?);
    }
    let (settings, config) = source.gather(flags)?;
    let job = if let Command::Redrive(again) = &command { again.as_job() } else { None };
    let database = match job {
        Some(request) => match by_gateway(source, &request).await? {
            Some(database) => {
                prove_modules(&config)?;
                database
            }
            None => return Ok(()),
        },
        None => {
            if matches!(command, Command::Redrive(_) | Command::Scrub(_)) {
                prove_modules(&config)?;
            }
            Database::find_proved(&settings, &config).await?
        }
    };
    let done = work(database.store(), &config, command).await;
    database.close().await;
    Ok(done?)
}

/// Has the gateway that the environment names redrive letters: one that stores those of a filter as a job, else page after page.
async fn redrive_over_http(gateway: Gateway, again: &Again) -> anyhow::Result<()> {
    let filter = LetterFilter::from(again.filter.clone());
    anyhow::ensure!(again.ids.is_empty() || filter == LetterFilter::default(), IDS_OR_FILTER);
    let reached = Reached::Gateway(gateway);
    if let Some(request) = again.as_job() {
        match jobs::redrive(&reached, &request).await {
            // Jobs are for administrators. Who ships redrives the letters of its own event types page after page.
            Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == "not_allowed") => {}
            done => return done,
        }
    }
    let Reached::Gateway(gateway) = reached else { return Ok(()) };
    let filter = serde_json::to_value(filter)?;
    let choices: Vec<Value> = match again.ids.is_empty() {
        true => vec![json!({"filter": filter})],
        false => again.ids.chunks(PAGE as usize).map(|ids| json!({"ids": ids})).collect(),
    };
    let mut sums = no_sums();
    for mut body in choices {
        body["dry_run"] = (!again.store).into();
        body["limit"] = PAGE.into();
        loop {
            let report = gateway.post("/v1/dead-letters/redrive", body.clone()).await?;
            report["results"].as_array().context("its answer has no results")?.iter().try_for_each(say)?;
            for (outcome, sum) in &mut sums {
                *sum += report[outcome.as_str()].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
            }
            if report["next"].is_null() {
                break;
            }
            body["cursor"] = report["next"].clone();
        }
    }
    say_sums(&sums, !again.store)
}

/// Has a gateway redrive letters as a job. Returns the database if no gateway of it runs jobs.
async fn by_gateway(source: &Source, request: &Request) -> Result<Option<Database>, Failure> {
    let reached = Reached::find(source).await?;
    let runs = match &reached {
        Reached::Gateway(_) => true,
        Reached::Database(database) => database.store().runs_jobs().await.map_err(anyhow::Error::from)?,
    };
    match reached {
        Reached::Database(database) if !runs => Ok(Some(*database)),
        reached => {
            let done = jobs::redrive(&reached, request).await;
            reached.close().await;
            Ok(done.map(|()| None)?)
        }
    }
}

/// Checks that the modules directory can be read. A gateway would wait until it can, but a command must not wait.
fn prove_modules(config: &Config) -> anyhow::Result<()> {
    let shown = config.modules.display();
    match std::fs::read_dir(&config.modules) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(anyhow::anyhow!("{shown} is no directory; give the directory of the modules with --modules"))
        }
        // The setting `unknown_event_type` decides about event types without a module.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        read => read.map(drop).with_context(|| format!("the modules directory {shown} cannot be read")),
    }
}

async fn work(store: &Store, config: &Config, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(List { filter, limit, .. }) => {
            let (filter, mut left, mut after) = (filter.into(), limit, None);
            while left > 0 {
                let limits = PageLimits { rows: left.min(PAGE), bytes: PAGE_BYTES };
                let page = store.dead_letters_page(&Visible::ALL, &filter, after, limits).await?;
                for letter in &page.rows {
                    say(letter_json(letter))?;
                }
                left = left.saturating_sub(u32::try_from(page.rows.len())?);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Command::Show(show) => {
            let found = store.dead_letter(&Visible::ALL, show.id).await?;
            let (letter, raw) = found.with_context(|| format!("there is no dead letter {}", show.id))?;
            say(format_args!("{:#}", whole_json(&letter, Some(&raw))))?;
        }
        Command::Redrive(again) => redrive(store, config, again).await?,
        Command::Scrub(scrubs) => scrub(store, config, scrubs.dry_run).await?,
    }
    Ok(())
}

/// The modules that serve: those of the directory, or of the current generation.
async fn validators(store: &Store, config: &Config, options: Options) -> anyhow::Result<Validators> {
    let is_beside_gateway = options.is_beside_gateway || config.modules_from == ModulesFrom::Database;
    let validators = Validators::start(Options { is_beside_gateway, ..options }).context("the validators")?;
    match config.modules_from {
        ModulesFrom::Directory => validators.wait_scanned().await,
        ModulesFrom::Database => fleet::serve_current(store, &validators).await?,
    }
    Ok(validators)
}

/// Makes one round after the other until no letters are left.
async fn scrub(store: &Store, config: &Config, dry_run: bool) -> anyhow::Result<()> {
    let rules = parts::rules(config);
    let validators = validators(store, config, parts::validator_options(config)).await?;
    let clock = Clock::default();
    let limits = parts::scrub_limits(config);
    let limits = ScrubLimits { letters_max: if dry_run { u32::MAX } else { limits.letters_max }, ..limits };
    let scrub = Scrub { store, validators: &validators, rules, clock: &clock, limits, dry_run, is_duty: false };
    let done = loop {
        let round = match scrub.round().await {
            Ok(Some(round)) => round,
            Ok(None) => break Err(anyhow::anyhow!("a gateway is going over the dead letters now; try again later")),
            Err(error) => break Err(error.into()),
        };
        for scrubbed in &round {
            say(serde_json::to_string(scrubbed)?)?;
        }
        if dry_run || !round.iter().any(|scrubbed| scrubbed.more) {
            break Ok(());
        }
    };
    validators.stop().await;
    done
}

async fn redrive(store: &Store, config: &Config, again: Again) -> anyhow::Result<()> {
    let Again { ids, filter, store: really, .. } = again;
    let options = Options { is_beside_gateway: true, ..parts::validator_options(config) };
    let validators = validators(store, config, options).await?;
    let limits = Limits {
        events_max: config.batch_events_max,
        bytes_max: config.batch_bytes_max,
        age: Duration::ZERO,
        submissions_max: 1,
        wait: REDRIVE_TIME,
    };
    let (events, writers): (Batcher<EventRow>, _) = Batcher::start("redrive", limits, vec![store.event_sink()]);
    let clock = Clock::default();
    let judges = Judges {
        validators: validators.clone(),
        store: store.clone(),
        rules: parts::rules(config),
        raw_bytes_max: config.dead_letter_raw_bytes_max,
        event_types_max: config.event_types_max,
    };
    let filtered = LetterFilter::from(filter);
    anyhow::ensure!(ids.is_empty() || filtered == LetterFilter::default(), IDS_OR_FILTER);
    let choice = if ids.is_empty() { Choice::Filter(filtered) } else { Choice::Ids(ids) };
    let request = RedriveRequest { visible: Arc::default(), choice, after: None, limit: PAGE, dry_run: !really };
    let done = async {
        let entry = really.then(|| request.entry(store.actor()));
        store.audit_write(entry.as_slice()).await?;
        let entry = entry.map(|entry| entry.id);
        let redrive = Redrive { judges: &judges, clock: &clock, events: &events, time: REDRIVE_TIME, entry };
        all(&redrive, request).await
    };
    let done = done.await;
    events.close();
    writers.drain(LAST_WRITES).await;
    validators.stop().await;
    done
}

/// Redrives one page after the other until all chosen letters are done.
async fn all(redrive: &Redrive<'_>, mut request: RedriveRequest) -> anyhow::Result<()> {
    let mut sums = no_sums();
    loop {
        let report: Report = redrive
            .run(&request)
            .await
            .map_err(|refusal| anyhow::anyhow!("redriving broke off: {}", refusal.code()))?;
        for result in &report.results {
            say(serde_json::to_string(result)?)?;
        }
        for (outcome, sum) in &mut sums {
            *sum += report.count(*outcome);
        }
        match report.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    say_sums(&sums, request.dry_run)
}

/// How many letters have each result.
type Sums = Vec<(LetterOutcome, usize)>;

fn no_sums() -> Sums {
    let outcomes = OutcomeKind::ALL.map(LetterOutcome::Is).into_iter().chain([LetterOutcome::Skipped]);
    outcomes.map(|outcome| (outcome, 0)).collect()
}

fn say_sums(sums: &Sums, dry_run: bool) -> anyhow::Result<()> {
    let words: Vec<String> = sums.iter().map(|(outcome, sum)| format!("{} {sum}", outcome.as_str())).collect();
    say(format_args!("{}{}", if dry_run { "dry run: " } else { "" }, words.join(", ")))
}
