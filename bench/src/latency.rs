//! How long an answer takes at half of the best rate, counted from when its request was due, beside how long the commit
//! of one row takes for a plain client, and an answer of the bare server.

use anyhow::Result;

use crate::load::{Open, shared};
use crate::report::Goal;
use crate::subject::{Modules, Setup, Subject};
use crate::{Run, series};

const CONNECTIONS: usize = 64;

/// 50th, 99th and 99.9th percentile.
pub(crate) async fn answers(run: &mut Run) -> Result<()> {
    let best = match run.best {
        Some(best) => best,
        None => crate::throughput::singles(run).await?,
    };
    let setup = Setup { name: "judging", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    let bare = Subject::bare(&run.workshop.folder).await?;
    let source = shared(1, 1);
    let [mut commit, mut commit_high, mut median, mut high, mut highest, mut bare_high] = series();
    for _ in 0..run.plan.repeats {
        run.main.empty().await?;
        let load = |subject: &Subject, best: f64| Open {
            address: subject.address,
            connections: CONNECTIONS,
            source: source.clone(),
            per_second: best / 2.0,
            warm_up: run.plan.warm_up,
            window: run.plan.window,
        };
        let times = load(&gateway, best.gateway).run().await?;
        for (series, part) in [(&mut median, 0.5), (&mut high, 0.99), (&mut highest, 0.999)] {
            series.push(times.value_at_quantile(part) as f64 / 1e3);
        }
        run.main.empty().await?;
        let times = run.main.commits(run.plan.window / 2).await?;
        commit.push(times.value_at_quantile(0.5) as f64 / 1e3);
        commit_high.push(times.value_at_quantile(0.99) as f64 / 1e3);
        run.main.settle().await?;
        let times = load(&bare, best.bare).run().await?;
        bare_high.push(times.value_at_quantile(0.99) as f64 / 1e3);
    }
    let ceiling = ("commit of one row, median, ms", &commit);
    let rate = format!("at {:.0} events/s", best.gateway / 2.0);
    run.table.ratio(&format!("p50 of an answer {rate}, ms"), &median, ceiling, Goal::None);
    run.table.ratio("p99, ms", &high, ceiling, Goal::AtMost(10.0));
    run.table.ratio("p99.9, ms", &highest, ceiling, Goal::None);
    // These tell the gateway's part from the disk's, and from what it costs to share the processors.
    run.table.plain("p99 of the commit of one row, nothing else running, ms", &commit_high, Goal::None);
    let figure = format!(
        "p99 of an answer of the bare hyper server at half of its best rate, {:.0} requests/s, ms",
        best.bare / 2.0
    );
    run.table.plain(&figure, &bare_high, Goal::None);
    gateway.stop()?;
    bare.stop()
}
