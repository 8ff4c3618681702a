//! `eye validator dev`: builds, tests and pushes into a gateway, and again at each change of the project, until a signal
//! ends it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::terminal::Look;
use super::{ModuleFile, Project, build, needed_project, test};
use crate::cli::output::{ClosedPipe, say, warn};
use crate::cli::reach::quiet_gateway;
use crate::cli::shipment::{self, Shipment, Trial};
use crate::cli::signals::Signals;
use crate::cli::{Failure, Source};
use crate::shutdown::Shutdown;
use anyhow::Context as _;
use clap::Args;

/// The time between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks at the files between two tries to reach a gateway that was away.
const LOOKS_PER_TRY: u32 = 8;

/// Files that are watched.
const FILES_MAX: usize = 10_000;

/// How many seconds to wait for the gateways. A module with an interpreter in it takes half a minute to load.
const WAIT_SECONDS: u64 = 60;

#[derive(Debug, Args)]
pub(in crate::cli) struct Dev {
    /// Build and test, and push nothing
    #[arg(long)]
    no_push: bool,
    #[command(flatten)]
    source: Source,
}

/// The files of a project, each with its size and the time of its last change.
type Seen = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

pub(in crate::cli) async fn run(dev: Dev) -> Result<(), Failure> {
    let mut signals = Signals::with_hangup().context("signals cannot be heard")?;
    let shutdown = Shutdown::default();
    tokio::select! {
        ended = watch(&dev) => ended,
        never = signals.stop(&shutdown) => match never {},
        () = shutdown.drain.cancelled() => Ok(()),
    }
}

async fn watch(dev: &Dev) -> Result<(), Failure> {
    loop {
        let project = Arc::new(needed_project()?);
        let before = seen(&project)?;
        let is_away = match round(dev, &project).await {
            Ok(()) => false,
            Err(Failure::Failed(error)) if error.is::<ClosedPipe>() => return Err(error.into()),
            Err(error) => {
                warn(format_args!("{} {error}", Look::of_output().bad("failed:")));
                matches!(&error, Failure::Failed(error) if error.is::<Away>())
            }
        };
        say(format_args!("waiting for a change in {}", project.folder.display()))?;
        change(dev, &project, &before, is_away).await?;
        // An editor writes several files, and each in several steps.
        settle(&project).await?;
    }
}

/// Waits for a change. If the gateway was away, what was built is pushed once it is there.
async fn change(dev: &Dev, project: &Project, before: &Seen, mut is_away: bool) -> Result<(), Failure> {
    let mut again = tokio::time::interval(LOOK_EVERY);
    let mut looks = 0_u32;
    while seen(project)? == *before {
        again.tick().await;
        looks = looks.wrapping_add(1);
        if !is_away || !looks.is_multiple_of(LOOKS_PER_TRY) {
            continue;
        }
        match push(dev, project).await {
            Err(Failure::Failed(error)) if error.is::<Away>() => {}
            Err(Failure::Failed(error)) if error.is::<ClosedPipe>() => return Err(error.into()),
            Err(error) => {
                warn(format_args!("{} {error}", Look::of_output().bad("failed:")));
                is_away = false;
            }
            Ok(()) => is_away = false,
        }
    }
    Ok(())
}

/// Waits until two looks find the same.
async fn settle(project: &Project) -> anyhow::Result<()> {
    let mut last = seen(project)?;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = seen(project)?;
        if now == last {
            return Ok(());
        }
        last = now;
    }
}

/// One build with all that follows.
async fn round(dev: &Dev, project: &Arc<Project>) -> Result<(), Failure> {
    let look = Look::of_output();
    let building = Arc::clone(project);
    let built = tokio::task::spawn_blocking(move || -> Result<_, Failure> {
        let file = build::make(&building).context("not built; the file of the build before is gone")?;
        let event_type = building.event_type.clone();
        let module = ModuleFile { file, event_type, is_of_project: true };
        test::find(&module, Some(&building), &test::How::default())
    });
    let found = built.await.context("the build")??;
    if found.failed() > 0 {
        found.show(look)?;
        return Err(anyhow::anyhow!(
            "the tests: {} failed, so nothing is pushed; what served before serves on",
            found.failed()
        )
        .into());
    }
    say(format_args!("{} {}", look.good("tested:"), found.line()))?;
    if dev.no_push { Ok(()) } else { push(dev, project).await }
}

/// Pushes what was built last.
async fn push(dev: &Dev, project: &Project) -> Result<(), Failure> {
    let file = project.module_file();
    let shipment = Shipment {
        kind: project.language.kind,
        content: std::fs::read(&file).with_context(|| file.display().to_string())?.into(),
        event_type: project.event_type.clone(),
        dry_run: false,
        force: false,
        replaces: None,
        settings: project.settings()?,
        commit: None,
        wait_seconds: WAIT_SECONDS,
        trial: Trial::default(),
    };
    let found = quiet_gateway(&dev.source, project.gateway.as_ref());
    let (gateway, from) = found.map_err(|error| match error {
        Failure::Failed(error) => Failure::Failed(Away(format!("{error:#}")).into()),
        other @ (Failure::Configuration(_) | Failure::Beyond(_)) => other,
    })?;
    let answer = shipment.send(&gateway).await.map_err(|error| told(&error))?;
    let line = shipment::line(&answer);
    Ok(say(format_args!(
        "{} {line}; by {} with the token of {from}",
        Look::of_output().good("pushed:"),
        gateway.url()
    ))?)
}

/// No gateway is there.
#[derive(Debug, thiserror::Error)]
#[error("the gateway is away, and is asked again until it is there: {0}")]
struct Away(String);

/// Says which it is: the gateway is away, is too old, or refuses.
fn told(error: &anyhow::Error) -> anyhow::Error {
    let is_away = error.chain().any(|cause| cause.is::<std::io::Error>());
    if is_away { Away(format!("{error:#}")).into() } else { shipment::told(error) }
}

/// All files of a project that its tools do not make.
fn seen(project: &Project) -> anyhow::Result<Seen> {
    let mut found = Seen::new();
    let mut folders = vec![project.folder.clone()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            let name = entry.file_name();
            let is_made = folder == project.folder && project.language.made_folders.iter().any(|made| name == *made);
            if kind.is_dir() && !is_made && !name.to_string_lossy().starts_with('.') {
                folders.push(path);
            } else if kind.is_file() && !is_passing(&path) {
                let change = entry.metadata().ok();
                let change = change.map(|change| (change.len(), change.modified().ok())).unwrap_or_default();
                found.insert(path, change);
            }
        }
        anyhow::ensure!(found.len() <= FILES_MAX, "{} has more than {FILES_MAX} files", project.folder.display());
    }
    Ok(found)
}

/// Files that editors and tools make for a moment, or for themselves.
fn is_passing(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.ends_with('~') || name.ends_with(".swp") || name == "Cargo.lock"
}
