//! `eye validator bench`: time, memory, size and start of a module, against its limits and against the version that
//! serves, by the same engine in the same run.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use eye_judge::{Kind, Slot, Trial};
use serde::Serialize;
use serde_json::json;

use super::events::Subject;
use super::terminal::{Look, Progress, bytes, time};
use super::{MODULE_BYTES_MAX, Wanted, events, fixtures, project, trying};
use crate::cli::output::say;
use crate::cli::reach::{NamedGateway, quiet_gateway};
use crate::cli::remote::Refused;
use crate::cli::{Failure, Source};

/// Calls that are measured, and the processor time after which no further one is begun.
const CALLS_MAX: usize = 20_000;
const RUN_MAX: Duration = Duration::from_secs(3);

/// Calls before the first that is measured.
const WARM_UP: usize = 50;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    wanted: Wanted,
    /// Do not ask a gateway for the version that serves
    #[arg(long)]
    alone: bool,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// The figures of one module.
#[derive(Debug, Serialize)]
struct Figures {
    digest: String,
    calls: usize,
    p50_ns: u64,
    p99_ns: u64,
    /// Memory of one instance that the largest of the events needs.
    memory_bytes: usize,
    file_bytes: usize,
    /// From the file to a module that can judge, which a gateway does once for each version.
    loading_us: u64,
    /// The first event in a new instance.
    first_event_ns: u64,
}

pub(in crate::cli) async fn run(bench: Bench) -> Result<(), Failure> {
    let project = project()?;
    let module = bench.wanted.resolve(project.as_ref())?;
    let (content, settings) = (module.content()?, module.settings(project.as_ref())?);
    let trial = taken(&module.event_type, module.kind(&content), &content, settings.as_deref())?;
    let folder = project.as_ref().filter(|_| module.is_of_project).map(|project| project.fixtures.as_path());
    let fixtures = folder.map(fixtures::read).transpose()?.unwrap_or_default();
    let subjects = events::of(&trial, &fixtures)?;
    if subjects.is_empty() {
        return Err(anyhow!("there is no event to judge: the module has no examples, and there are no fixtures").into());
    }
    let this = measure(&trial, content.len(), &subjects)?;
    let place = project.as_ref().and_then(|project| project.gateway.as_ref());
    let serving = if bench.alone {
        Err("not asked for".to_owned())
    } else {
        let served = serving(&bench.source, place, &module.event_type).await;
        served.and_then(|content| {
            let trial = taken(&module.event_type, Kind::of_content(&content), &content, settings.as_deref());
            trial.and_then(|trial| measure(&trial, content.len(), &subjects)).map_err(|error| error.to_string())
        })
    };
    let limits = trial.limits();
    if bench.json {
        let (served, why) = (serving.as_ref().ok(), serving.as_ref().err());
        say(json!({"this": this, "serving": served, "not_compared": why, "limits": limits}))?;
    } else {
        show(&this, serving.as_ref(), &trial)?;
    }
    let deadline = Duration::from_millis(limits.deadline_ms);
    if Duration::from_nanos(this.p99_ns) >= deadline {
        return Err(anyhow!("one event in a hundred takes the whole deadline of {} ms", limits.deadline_ms).into());
    }
    Ok(())
}

/// A module that a gateway would take, though it may fail its examples.
fn taken(event_type: &Slot, kind: Kind, content: &[u8], settings: Option<&str>) -> Result<Trial, Failure> {
    trying::load(event_type, kind, content, settings, false)?
        .map_err(|refusal| anyhow!("a gateway would refuse it: {refusal}").into())
}

fn measure(trial: &Trial, file_bytes: usize, subjects: &[Subject]) -> Result<Figures, Failure> {
    let _going_on = Progress::of("measuring");
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let first = trial.judge(&subjects[0].event).ran;
    for one in subjects.iter().cycle().take(WARM_UP.max(subjects.len())) {
        if let Err(fault) = trial.judge(&one.event).outcome {
            return Err(anyhow!("{} breaks the module: {}", one.title, trying::told_fault(&fault)).into());
        }
    }
    let (mut times, mut ran) = (Vec::with_capacity(CALLS_MAX), Duration::ZERO);
    for one in subjects.iter().cycle().take(CALLS_MAX) {
        let took = trial.judge(&one.event).ran;
        ran += took;
        times.push(took);
        if ran > RUN_MAX && times.len() >= subjects.len() {
            break;
        }
    }
    times.sort_unstable();
    let at = |share: usize| nanos(times[(times.len() * share / 100).min(times.len() - 1)]);
    let memory = subjects.iter().max_by_key(|one| one.event.data.len()).map_or(0, |one| trial.memory_bytes(&one.event));
    Ok(Figures {
        digest: trial.digest().to_string(),
        calls: times.len(),
        p50_ns: at(50),
        p99_ns: at(99),
        memory_bytes: memory,
        file_bytes,
        loading_us: u64::try_from(trial.loading_time().as_micros()).unwrap_or(u64::MAX),
        first_event_ns: nanos(first),
    })
}

/// The content of the module that serves an event type, or why there is none to compare with.
async fn serving(source: &Source, place: Option<&NamedGateway>, event_type: &Slot) -> Result<Vec<u8>, String> {
    let (gateway, _) = quiet_gateway(source, place).map_err(|error| error.to_string())?;
    let path = format!("/v1/validators/{}", event_type.to_url());
    let told = |error: anyhow::Error| format!("{error:#}");
    let one = gateway.read(&path).await.map_err(|error| match error.downcast_ref::<Refused>() {
        Some(refused) if refused.status == 404 => format!("nothing serves {event_type} there yet"),
        _ => told(error),
    })?;
    let digest = one["digest"].as_str().context("no module serves this event type").map_err(told)?;
    gateway.bytes(&format!("{path}/versions/{digest}")).await.map_err(told)
}

/// A figure in words.
type Shown = fn(&Figures) -> String;

fn show(this: &Figures, serving: Result<&Figures, &String>, trial: &Trial) -> anyhow::Result<()> {
    let (look, limits) = (Look::of_output(), trial.limits());
    let rows: [(&str, Shown, String); 6] = [
        ("time, half of the events", |it| time(Duration::from_nanos(it.p50_ns)), String::new()),
        ("time, 99 of 100 events", |it| time(Duration::from_nanos(it.p99_ns)), format!("{} ms", limits.deadline_ms)),
        ("memory of an instance", |it| bytes(it.memory_bytes), bytes(limits.memory_bytes_max)),
        ("size of the file", |it| bytes(it.file_bytes), bytes(usize::try_from(MODULE_BYTES_MAX).unwrap_or(usize::MAX))),
        ("start: from the file", |it| time(Duration::from_micros(it.loading_us)), String::new()),
        ("start: the first event", |it| time(Duration::from_nanos(it.first_event_ns)), String::new()),
    ];
    let served = |it: Shown| serving.map_or_else(|_| "-".to_owned(), it);
    let row =
        |title: &str, this: &str, serving: &str, limit: &str| format!("{title:<26}{this:>12}{serving:>12}{limit:>12}");
    say(look.strong(row("", "this", "serving", "limit").trim_end()))?;
    for (title, figure, limit) in rows {
        say(row(title, &figure(this), &served(figure), &limit).trim_end())?;
    }
    say(format_args!("{} calls; processor time, the gateway's own part included", this.calls))?;
    match serving {
        Ok(serving) if serving.digest == this.digest => say("the same module serves"),
        Ok(serving) => say(format_args!("serving is {}", serving.digest)),
        Err(why) => say(look.paragraph("not compared: ", why)),
    }
}
