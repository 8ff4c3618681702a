//! What more of everything costs: modules, event types, connections, rows in the table. Each beside its own first value.

use anyhow::Result;

use crate::database::Database;
use crate::load::{Closed, Shared, shared};
use crate::process::peak_mib;
use crate::report::{Goal, Series};
use crate::subject::{Modules, Setup, Subject};
use crate::throughput::{batch_load, batch_source, used};
use crate::{Run, series};

const EVENT_TYPES: [usize; 3] = [1, 1_000, 10_000];
const CONNECTIONS: [usize; 3] = [8, 512, 5_000];
const KEPT: Goal = Goal::AtLeast(0.9);
const MEMORY_MIB_MOST: f64 = 400.0;

fn tell(run: &mut Run, what: &str, counts: [usize; 3], [first, second, third]: &[Series; 3]) {
    for (count, series) in [(counts[1], second), (counts[2], third)] {
        let ceiling = format!("with {}", counts[0]);
        run.table.ratio(&format!("events/s with {count} {what}"), series, (&ceiling, first), KEPT);
    }
}

/// Loaded modules: one of them in use, and all of them.
pub(crate) async fn modules(run: &mut Run) -> Result<()> {
    let mut gateways = Vec::new();
    let counts = run.plan.modules;
    for count in counts {
        let name = format!("modules-{count}");
        let setup = Setup { name: &name, database_url: run.main.url(run.way), modules: Modules::Each(count) };
        gateways.push((run.workshop.gateway(&setup).await?, batch_source(count)));
    }
    // The peak of loading, and what each load adds to it.
    let mut memory = Series(vec![peak_mib(gateways[2].0.pid())?]);
    let one_type = batch_source(1);
    let (mut one, mut all) = (series::<3>(), series::<3>());
    for _ in 0..run.plan.repeats {
        for (((gateway, source), one), all) in gateways.iter().zip(&mut one).zip(&mut all) {
            for (source, series) in [(&one_type, one), (source, all)] {
                run.main.empty().await?;
                series.push(batch_load(run, gateway, source, run.plan.growth_window).await?.sound()?.per_second);
            }
        }
        memory.push(peak_mib(gateways[2].0.pid())?);
    }
    tell(run, "loaded modules, one of them in use", counts, &one);
    tell(run, "modules, all of them in use", counts, &all);
    let figure = format!("resident memory with {} modules, peak, MiB", counts[2]);
    run.table.plain(&figure, &memory, Goal::AtMost(MEMORY_MIB_MOST));
    gateways.into_iter().try_for_each(|(gateway, _)| gateway.stop())
}

/// Event types in traffic, all judged by one module.
pub(crate) async fn event_types(run: &mut Run) -> Result<()> {
    let setup = Setup { name: "judging", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    let sources = EVENT_TYPES.map(batch_source);
    let mut all = series::<3>();
    for _ in 0..run.plan.repeats {
        for (source, series) in sources.iter().zip(&mut all) {
            run.main.empty().await?;
            series.push(batch_load(run, &gateway, source, run.plan.growth_window).await?.sound()?.per_second);
        }
    }
    tell(run, "event types in traffic", EVENT_TYPES, &all);
    gateway.stop()
}

/// Connections, each sending one event at a time.
pub(crate) async fn connections(run: &mut Run) -> Result<()> {
    let setup = Setup { name: "judging", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    let source = shared(1, 1);
    let mut all = series::<3>();
    for _ in 0..run.plan.repeats {
        for (connections, series) in CONNECTIONS.into_iter().zip(&mut all) {
            run.main.empty().await?;
            let load = Closed {
                address: gateway.address,
                connections,
                source: Shared::clone(&source),
                warm_up: run.plan.warm_up,
                window: run.plan.growth_window,
            };
            series.push(load.run(|| used(&gateway, &run.server)).await?.sound()?.per_second);
        }
    }
    tell(run, "connections", CONNECTIONS, &all);
    gateway.stop()
}

/// An empty table, and one that has many rows already.
pub(crate) async fn table(run: &mut Run) -> Result<()> {
    let rows = run.plan.big_table_rows;
    // Filling takes longer than measuring, so it is done once.
    let mut big = match run.big.take() {
        Some(big) => big,
        None => {
            let mut big = run.server.database(&run.workshop, "big").await?;
            big.fill(rows).await?;
            big
        }
    };
    let start = async |name, database: &Database| -> Result<Subject> {
        let setup = Setup { name, database_url: database.url(run.way), modules: Modules::ForAll };
        run.workshop.gateway(&setup).await
    };
    let (small_gateway, big_gateway) = (start("judging", &run.main).await?, start("big", &big).await?);
    let source = batch_source(1);
    let [mut empty, mut full] = series();
    for _ in 0..run.plan.repeats {
        run.main.empty().await?;
        let tally = batch_load(run, &small_gateway, &source, run.plan.growth_window).await?;
        empty.push(tally.sound()?.per_second);
        big.settle().await?;
        let tally = batch_load(run, &big_gateway, &source, run.plan.growth_window).await?;
        full.push(tally.sound()?.per_second);
    }
    let figure = format!("events/s into a table of {rows} rows");
    run.table.ratio(&figure, &full, ("into an empty one", &empty), KEPT);
    run.big = Some(big);
    small_gateway.stop()?;
    big_gateway.stop()
}
