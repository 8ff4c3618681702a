//! `eye fleet`: the gateways on one database, and the sets of modules that they serve. It works over HTTP or on the
//! database; a directory is imported on the database alone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use eye_event::verdict::Digest;
use eye_judge::{Contents, InDirectory, ModulesFrom, Options, Role, SlotModule, Unprepared, Validators, modules_in};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::output::{say, warn};
use super::reach::{Database, Reached};
use super::remote::Gateway;
use super::{Failure, Source};
use crate::audit::{Action, Entry};
use crate::config::parts;
use crate::shipping::differences;
use crate::shipping::going_back::{StepBack, brought_back, named, told};
use crate::shipping::terms::forces;
use crate::store::{NewPreparation, NewSlot, NewVersion, SlotRow, Store, TakenBackRow};

/// How often the command looks how far a generation is.
const LOOK: Duration = Duration::from_millis(250);
/// Modules that are loaded side by side. The engine bounds how many of them it compiles at once.
const CHECKED_AT_ONCE: usize = 8;
/// How much longer than the fleet the command waits for the answer.
const MARGIN: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the gateways: what they serve, prepare and cannot serve
    Status(Source),
    /// List the generations, the latest first
    Generations(Source),
    /// Show what would change if an earlier generation came back, and with --yes put it back
    Back(Back),
    /// Show what would change if the modules of a directory were the next generation, and with --yes make it
    Import(Import),
}

#[derive(Debug, Args)]
pub(super) struct Back {
    /// The number of the generation
    number: u64,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The directory, as a modules directory
    dir: PathBuf,
    /// How many modules this takes away, if it takes away most
    #[arg(long, value_name = "COUNT")]
    retire: Option<usize>,
    #[command(flatten)]
    change: Change,
}

/// The arguments of a change of the whole set.
#[derive(Debug, Args)]
struct Change {
    /// Make the change
    #[arg(long)]
    yes: bool,
    /// Make it although a gateway cannot serve it
    #[arg(long)]
    force: bool,
    /// How many seconds to wait for the fleet
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let source = match &command {
        Command::Status(source) | Command::Generations(source) => source,
        Command::Back(back) => &back.change.source,
        Command::Import(import) => &import.change.source,
    };
    match Reached::find(source).await? {
        Reached::Gateway(gateway) => Ok(ask(&gateway, command).await?),
        Reached::Database(database) => {
            let done = work(&database, command).await;
            database.close().await;
            Ok(done?)
        }
    }
}

async fn ask(gateway: &Gateway, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status(_) => {
            let told = gateway.ask(Method::GET, "/v1/gateways", None).await?;
            for one in told["gateways"].as_array().context("its answer is no list of gateways")? {
                say(gateway_line(one, told["generation"].as_u64().unwrap_or_default()))?;
            }
        }
        Command::Generations(_) => {
            let told = gateway.ask(Method::GET, "/v1/generations", None).await?;
            for one in told["generations"].as_array().context("its answer is no list of generations")? {
                say(generation_line(one))?;
            }
        }
        Command::Back(Back { number, change }) => {
            let path = format!("/v1/generations/{number}/back?force={}", change.force);
            let diff = gateway.ask(Method::POST, &format!("{path}&dry_run=true"), None).await?;
            let changes = diff["changes"].as_array().context("its answer has no changes")?;
            // A gateway of the release before has neither list.
            let list = |key: &str| diff[key].as_array().map(Vec::as_slice).unwrap_or_default();
            show_left_out(list("left_out"))?;
            show_taken_back(list("taken_back"), &change)?;
            if !tell(changes, &change)? {
                return Ok(());
            }
            let headers = [("prefer", format!("wait={}", change.wait))];
            let wait = Duration::from_secs(change.wait) + MARGIN;
            let answer = gateway.request(Method::POST, &path, &headers, None, wait).await?;
            say(format_args!(
                "{}\tgeneration {}",
                answer["state"].as_str().unwrap_or("unknown"),
                answer["generation"]
            ))?;
        }
        Command::Import(_) => bail!(
            "a directory is imported on the database: unset EYE_GATEWAY, and name the database with --database-url or \
             EYE_DATABASE_URL"
        ),
    }
    Ok(())
}

async fn work(database: &Database, command: Command) -> anyhow::Result<()> {
    let store = database.store();
    match command {
        Command::Status(_) => {
            let head = store.fleet_head().await?;
            for row in store.gateways().await? {
                let one = json!({
                    "name": row.name, "version": row.version, "listen": row.listen, "modules_from": row.modules_from,
                    "generation": row.generation, "preparing": row.preparing, "live": row.is_live, "duties": row.duties,
                    "problems": row.problems.0, "seen": row.seen.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
                });
                say(gateway_line(&one, head.generation.number))?;
            }
        }
        Command::Generations(_) => {
            for row in store.generations(None, 100).await? {
                let one = json!({
                    "number": row.number, "cause": row.cause, "by": row.made_by, "changes": row.changes.0,
                    "at": row.made_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "forced": row.forced,
                });
                say(generation_line(&one))?;
            }
        }
        Command::Back(Back { number, change }) => {
            let back = StepBack::to(store, number).await?;
            let back = back.with_context(|| {
                format!("generation {number} is not known; `eye fleet generations` lists those that are")
            })?;
            let digests: Vec<Digest> = back.slots.iter().filter_map(|slot| slot.digest).collect();
            let kept = store.content_sizes(&digests).await?;
            if let Some(gone) = digests.iter().find(|digest| !kept.contains_key(digest)) {
                bail!("modules of generation {number} are not kept any more, such as {gone}: push them again");
            }
            let left_out = back.left_out();
            show_left_out(&left_out)?;
            must_not_be_taken_back(&back.slots, &back.taken_back, &change)?;
            if tell(&shown(&back.slots), &change)? {
                let entry = Entry::new(Action::FleetBack, &number.to_string(), store.actor())
                    .with("slots", back.slots.len())
                    .with("left_out", Some(left_out.len()).filter(|count| *count > 0));
                make(store, "back", back.based_on, back.slots, &change, &entry).await?;
            }
        }
        Command::Import(import) => import_directory(store, &import).await?,
    }
    Ok(())
}

async fn import_directory(store: &Store, import: &Import) -> anyhow::Result<()> {
    let Import { dir, retire, change } = import;
    let Contents { modules, strays } = modules_in(dir).map_err(anyhow::Error::msg)?;
    for (file, why) in &strays {
        warn(format_args!("eye: {} is left out: {why}", file.display()));
    }
    let wanted: Vec<SlotRow> = modules.iter().map(row_of).collect();
    let (current, mut serves) = store.generation_slots(None).await?;
    // A directory says nothing of candidates: they stay where something serves beside them.
    serves.retain(|row| match Role::parse(&row.event_type) {
        Ok((Role::Candidate, slot)) => !wanted.iter().any(|one| one.event_type == slot.to_string()),
        _ => true,
    });
    let slots = differences(&serves, &wanted);
    let gone = slots.iter().filter(|slot| slot.digest.is_none()).count();
    if gone > 2 && gone * 2 > serves.len() && *retire != Some(gone) {
        show(&shown(&slots))?;
        bail!("this takes {gone} of {} modules away: say that it is meant with --retire {gone}", serves.len());
    }
    let is_forced = |slot: &NewSlot| slot.digest.is_some_and(|digest| forces(slot.settings.as_deref(), digest));
    let mut taken_back = brought_back(store, &slots).await?;
    // The settings beside a file may force it.
    taken_back.retain(|row| !slots.iter().any(|slot| slot.event_type == row.event_type && is_forced(slot)));
    must_not_be_taken_back(&slots, &taken_back, change)?;
    if !tell(&shown(&slots), change)? {
        return Ok(());
    }
    let redacts = check(&change.source, &modules).await?;
    // One after the other, so that a large directory is not in memory twice.
    for (InDirectory { slot, content, .. }, redacts) in modules.iter().zip(redacts) {
        let version =
            NewVersion { event_type: slot.to_string(), digest: Digest::of(content), commit_id: None, redacts };
        store.keep_modules(&[(version, content)], store.actor()).await?;
    }
    let entry = Entry::new(Action::FleetImport, "", store.actor()).with("slots", slots.len());
    make(store, "import", current.number, slots, change, &entry).await
}

/// Names the modules of a change which the guard took back, and refuses to make it unless it is forced. Who only looks sees
/// the difference.
fn must_not_be_taken_back(slots: &[NewSlot], taken_back: &[TakenBackRow], change: &Change) -> anyhow::Result<()> {
    if taken_back.is_empty() || change.force {
        return Ok(());
    }
    if !change.yes {
        return show_taken_back(&taken_back.iter().map(named).collect::<Vec<_>>(), change);
    }
    show(&shown(slots))?;
    bail!("nothing was changed (taken_back): {}; mend it, or say that it is meant with --force", told(taken_back))
}

/// Loads each module, as a gateway does. Returns whether each redacts.
async fn check(source: &Source, modules: &[InDirectory]) -> anyhow::Result<Vec<bool>> {
    let (_, config) = source.gather(Vec::new())?;
    let options =
        Options { modules_from: ModulesFrom::Database, is_beside_gateway: true, ..parts::validator_options(&config) };
    let validators = Validators::start(options).context("the validators")?;
    let one = |module: &InDirectory| SlotModule {
        role: Role::Live,
        slot: module.slot.clone(),
        digest: Digest::of(&module.content),
        settings: module.settings.clone(),
    };
    let mut checked = Vec::with_capacity(modules.len());
    for some in modules.chunks(CHECKED_AT_ONCE) {
        let checks = some.iter().map(|module| async {
            let (wanted, content) = (one(module), Bytes::copy_from_slice(&module.content));
            let checked = validators.check(&wanted, content, Some(false)).await;
            (wanted, checked)
        });
        checked.extend(join_all(checks).await);
    }
    validators.stop().await;
    let (mut redacts, mut refused) = (Vec::with_capacity(checked.len()), 0);
    for (wanted, checked) in checked {
        match checked {
            Ok(does) => redacts.push(does),
            Err(Unprepared::Refused(why)) => {
                warn(format_args!("eye: {} is refused: {why}", wanted.slot));
                refused += 1;
            }
            Err(_) => bail!("{} could not be loaded", wanted.slot),
        }
    }
    if refused > 0 {
        bail!("nothing was changed: {refused} of {} modules are refused", modules.len());
    }
    Ok(redacts)
}

fn row_of(module: &InDirectory) -> SlotRow {
    SlotRow {
        event_type: module.slot.to_string(),
        digest: Some(Digest::of(&module.content).0.to_vec()),
        settings: module.settings.clone(),
    }
}

/// Asks for a generation and waits until it is one. Without a gateway that runs it is made at once.
async fn make(
    store: &Store,
    cause: &'static str,
    based_on: u64,
    slots: Vec<NewSlot>,
    change: &Change,
    entry: &Entry,
) -> anyhow::Result<()> {
    let (id, wait) = (Uuid::now_v7(), Duration::from_secs(change.wait));
    let new = NewPreparation { id, cause, forced: change.force, based_on: Some(based_on), wait, slots };
    store.ask_preparation(&new, store.actor(), entry).await?;
    let until = Instant::now() + wait + LOOK;
    loop {
        let state = store.activate_preparation(id).await?;
        let row = store.preparation(id).await?.context("the preparation is gone")?;
        let problem = row.problem.map(|problem| problem.0).unwrap_or_default();
        match state.as_str() {
            "active" => return say(format_args!("active\tgeneration {}", row.generation.unwrap_or_default())),
            "changed" => bail!("nothing was changed: another generation came first; look at the difference again"),
            "refused" => bail!("nothing was changed: {}", refusals(&problem["gateways"])),
            _ if Instant::now() >= until => {
                return say(format_args!("preparing\twaits for {}", refusals(&row.waits_for.0)));
            }
            _ => sleep(LOOK).await,
        }
    }
}

/// Names gateways and their reasons.
fn refusals(gateways: &Value) -> String {
    let each = gateways.as_array().into_iter().flatten().map(|one| {
        let name = one["gateway"].as_str().unwrap_or("a gateway");
        match (one["refusal"]["event_type"].as_str(), one["refusal"]["found"].as_str(), one["refusal"]["mend"].as_str())
        {
            (Some(event_type), Some(found), Some(mend)) => format!("{name} for {event_type} found {found} ({mend})"),
            _ => format!("{name} has said nothing yet"),
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

fn shown(slots: &[NewSlot]) -> Vec<Value> {
    let text = |digest: Option<Digest>| digest.map(|digest| digest.to_string());
    let each = slots.iter().map(|slot| {
        json!({"event_type": slot.event_type, "digest": text(slot.digest), "replaces": text(slot.replaces), "settings": slot.settings})
    });
    each.collect()
}

/// Prints the difference. Returns whether the change is to be made.
fn tell(changes: &[Value], change: &Change) -> anyhow::Result<bool> {
    show(changes)?;
    if changes.is_empty() {
        warn("eye: nothing differs, so nothing is changed");
        return Ok(false);
    }
    if !change.yes {
        warn("eye: nothing is changed yet; --yes makes this change");
    }
    Ok(change.yes)
}

/// Prints the candidates that a step back leaves out.
fn show_left_out(left_out: &[Value]) -> anyhow::Result<()> {
    for one in left_out {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        say(format_args!(
            "{}\tcandidate {} is left out: the guard took it back, since {}",
            text("event_type"),
            text("digest"),
            text("reason")
        ))?;
    }
    Ok(())
}

/// Prints the modules that a change brings to serve only with force.
fn show_taken_back(taken_back: &[Value], change: &Change) -> anyhow::Result<()> {
    let needs = if change.force { "is forced" } else { "needs --force" };
    for one in taken_back {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let (event_type, digest, reason) = (text("event_type"), text("digest"), text("reason"));
        say(format_args!("{event_type}\t{digest} {needs}: the guard took it back, since {reason}"))?;
    }
    Ok(())
}

fn show(changes: &[Value]) -> anyhow::Result<()> {
    for one in changes {
        let text = |key: &str| one[key].as_str().unwrap_or("none").to_owned();
        let settings = one["settings"].as_str().map(|text| format!("\tsettings {text:?}")).unwrap_or_default();
        say(format_args!("{}\t{} -> {}{settings}", text("event_type"), text("replaces"), text("digest")))?;
    }
    Ok(())
}

fn gateway_line(one: &Value, generation: u64) -> String {
    let text = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
    let own = one["generation"].as_u64().unwrap_or_default();
    let state = match (one["live"].as_bool().unwrap_or(false), one["modules_from"].as_str()) {
        (false, _) => "gone".to_owned(),
        (true, Some("directory")) => "serves its directory".to_owned(),
        (true, _) if own == generation => format!("generation {own}"),
        (true, _) => format!("generation {own}, behind {generation}"),
    };
    let preparing = one["preparing"].as_u64().filter(|count| *count > 0);
    let preparing = preparing.map(|count| format!("\tprepares {count}")).unwrap_or_default();
    let words =
        |key: &str| one[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let problems = one["problems"].as_array().into_iter().flatten().map(|problem| {
        let event_type = problem["event_type"].as_str().unwrap_or_default();
        format!("\n  {event_type}\t{}", problem["why"].as_str().unwrap_or_default())
    });
    format!(
        "{}\t{}\t{}\teye {}\tseen {}\t[{}]{preparing}{}",
        text("name"),
        text("listen"),
        state,
        text("version"),
        text("seen"),
        words("duties"),
        problems.collect::<String>()
    )
}

fn generation_line(one: &Value) -> String {
    let changes = one["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = changes.first().and_then(|change| change["event_type"].as_str()).unwrap_or_default();
    let more = changes.len().saturating_sub(1);
    let what = if more == 0 { first.to_owned() } else { format!("{first} and {more} more") };
    let forced = if one["forced"] == true { "\tforced" } else { "" };
    let text = |key: &str| one[key].as_str().unwrap_or("-").to_owned();
    format!("{}\t{}\t{}\tby {}\t{what}{forced}", one["number"], text("at"), text("cause"), text("by"))
}
