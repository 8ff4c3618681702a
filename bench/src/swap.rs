//! Hot swap at full speed: the module that judges all traffic is replaced again and again under load. No request may fail
//! of it, and the new modules must be seen to judge.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::report::Goal;
use crate::subject::{Modules, Setup, Workshop};
use crate::throughput::{batch_load, batch_source};
use crate::{Run, series};

/// Between two versions.
const SWAP_EVERY: Duration = Duration::from_millis(500);

/// Replaces the module as a careful author does, by rename, until it is dropped.
async fn replace(workshop: &Workshop, path: &Path, next: &mut usize) -> Result<()> {
    loop {
        *next += 1;
        let beside = path.with_extension("new");
        std::fs::write(&beside, workshop.module(*next))?;
        std::fs::rename(&beside, path)?;
        tokio::time::sleep(SWAP_EVERY).await;
    }
}

/// With and without swaps.
pub(crate) async fn modules(run: &mut Run) -> Result<()> {
    let setup = Setup { name: "swapping", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    let path = run.workshop.module_for_all(setup.name);
    let source = batch_source(1);
    let [mut quiet, mut swapped, mut failures] = series();
    let mut versions = series::<1>();
    let mut next = 0;
    for _ in 0..run.plan.repeats {
        run.main.empty().await?;
        quiet.push(batch_load(run, &gateway, &source, run.plan.window).await?.sound()?.per_second);
        run.main.empty().await?;
        let tally = tokio::select! {
            tally = batch_load(run, &gateway, &source, run.plan.window) => tally?,
            replaced = replace(&run.workshop, &path, &mut next) => return replaced,
        };
        swapped.push(tally.per_second);
        failures.push(tally.failures as f64);
        let seen = run.main.modules_seen().await?;
        ensure!(seen > 1, "no new module judged");
        versions[0].push(seen as f64);
    }
    let figure = format!("events/s with a new module every {} ms", SWAP_EVERY.as_millis());
    run.table.ratio(&figure, &swapped, ("without", &quiet), Goal::AtLeast(0.95));
    run.table.plain("failed requests of it", &failures, Goal::AtMost(0.0));
    run.table.plain("modules that judged in it", &versions[0], Goal::None);
    gateway.stop()
}
