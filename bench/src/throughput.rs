//! Events stored a second, in batches and one by one, each beside its ceiling and beside the same without a validator;
//! and the processor time that it takes.

use std::time::Duration;

use anyhow::Result;

use crate::database::Server;
use crate::events::Source;
use crate::load::{Closed, Shared, Tally, shared};
use crate::process::{peak_mib, processor_time, resident_mib};
use crate::report::{Goal, Series};
use crate::subject::{Modules, Setup, Subject};
use crate::{Best, Run, micros, series};

pub(crate) const EVENTS_PER_BATCH: usize = 100;
pub(crate) const BATCH_CONNECTIONS: usize = 32;
pub(crate) const SINGLE_CONNECTIONS: usize = 64;
/// What the peers were measured with.
pub(crate) const PEER_CONNECTIONS: usize = 32;
/// One and a half times the 95,600 rows/s of the fastest peer, by the 168,000 rows/s of COPY on its machine.
const BESIDE_PEERS_BATCHED: f64 = 0.85;
/// Three times the 12,600 events/s of the fastest peer that loses none, by the 152,000 requests/s of a bare hyper server.
const BESIDE_PEERS_SINGLE: f64 = 0.25;

/// Seconds of processor time so far: of the program, of Postgres, and of this process, which makes the load.
pub(crate) fn used(subject: &Subject, server: &Server) -> Result<Vec<f64>> {
    Ok(vec![
        processor_time(subject.pid())?.as_secs_f64(),
        server.used_s()?,
        processor_time(std::process::id())?.as_secs_f64(),
    ])
}

/// A load of full batches on a gateway.
pub(crate) async fn batch_load(run: &Run, gateway: &Subject, source: &Shared, window: Duration) -> Result<Tally> {
    let load = Closed {
        address: gateway.address,
        connections: BATCH_CONNECTIONS,
        source: Shared::clone(source),
        warm_up: run.plan.warm_up,
        window,
    };
    load.run(|| used(gateway, &run.server)).await
}

/// A source of full batches.
pub(crate) fn batch_source(types: usize) -> Shared {
    shared(EVENTS_PER_BATCH, types)
}

/// 100 events per request.
pub(crate) async fn batches(run: &mut Run) -> Result<()> {
    let setup = |name, modules, url| Setup { name, database_url: url, modules };
    let judging = run.workshop.gateway(&setup("judging", Modules::ForAll, run.main.url(run.way))).await?;
    let accepting = run.workshop.gateway(&setup("accepting", Modules::None, run.main.url(run.way))).await?;
    let idle = Series(vec![resident_mib(judging.pid())?]);
    let source = batch_source(1);
    let [mut judged, mut accepted, mut copied, mut memory] = series();
    let [mut gateway_us, mut accepting_us, mut postgres_us, mut load_us, mut copy_us] = series();
    for _ in 0..run.plan.repeats {
        run.main.empty().await?;
        let tally = batch_load(run, &judging, &source, run.plan.window).await?.sound()?;
        memory.push(peak_mib(judging.pid())?);
        run.main.prove(&tally).await?;
        judged.push(tally.per_second);
        for (series, used) in [&mut gateway_us, &mut postgres_us, &mut load_us].into_iter().zip(&tally.used) {
            series.push(micros(*used, tally.events));
        }
        run.main.empty().await?;
        let tally = batch_load(run, &accepting, &source, run.plan.window).await?.sound()?;
        accepted.push(tally.per_second);
        accepting_us.push(micros(tally.used[0], tally.events));
        run.main.empty().await?;
        let mut rows = Source::new(EVENTS_PER_BATCH, 1);
        let (per_second, used_s) = run.main.copy(&run.server, &mut rows, run.plan.window).await?;
        copied.push(per_second);
        copy_us.push(used_s * 1e6);
    }
    let table = &mut run.table;
    let copy = ("rows/s by one client's COPY", &copied);
    table.ratio("events/s, 100 a request, each judged", &judged, copy, Goal::AtLeast(0.7));
    table.ratio("1.5 times the fastest peer, in batches", &judged, copy, Goal::AtLeast(BESIDE_PEERS_BATCHED));
    let figure = "events/s, 100 a request, each judged";
    table.ratio(figure, &judged, ("without validator", &accepted), Goal::AtLeast(0.95));
    table.ratio("CPU of the gateway, us an event", &gateway_us, ("of Postgres", &postgres_us), Goal::AtMost(0.5));
    table.plain("CPU of the gateway, us an event in batches", &gateway_us, Goal::AtMost(3.0));
    table.plain("the same without validator", &accepting_us, Goal::None);
    table.plain("CPU of the load generator, us an event in batches", &load_us, Goal::None);
    table.plain("CPU of Postgres for a row of the plain client, us", &copy_us, Goal::None);
    table.plain("resident memory when idle, MiB", &idle, Goal::AtMost(60.0));
    table.plain("resident memory at full speed, peak, MiB", &memory, Goal::AtMost(200.0));
    judging.stop()?;
    accepting.stop()
}

/// One event per request. Gives the best rates.
pub(crate) async fn singles(run: &mut Run) -> Result<Best> {
    let setup = |name, modules, url| Setup { name, database_url: url, modules };
    let judging = run.workshop.gateway(&setup("judging", Modules::ForAll, run.main.url(run.way))).await?;
    let accepting = run.workshop.gateway(&setup("accepting", Modules::None, run.main.url(run.way))).await?;
    let bare = Subject::bare(&run.workshop.folder).await?;
    let source = shared(1, 1);
    let (many, few) = (SINGLE_CONNECTIONS, PEER_CONNECTIONS);
    let loads = [(&judging, many), (&accepting, many), (&bare, many), (&judging, few), (&bare, few)];
    let mut all: [[Series; 4]; 5] = std::array::from_fn(|_| series());
    for _ in 0..run.plan.repeats {
        for ((subject, connections), series) in loads.into_iter().zip(&mut all) {
            run.main.empty().await?;
            let load = Closed {
                address: subject.address,
                connections,
                source: Shared::clone(&source),
                warm_up: run.plan.warm_up,
                window: run.plan.window,
            };
            let tally = load.run(|| used(subject, &run.server)).await?.sound()?;
            if subject.pid() == judging.pid() {
                run.main.prove(&tally).await?;
            }
            series[0].push(tally.per_second);
            for (series, used) in series[1..].iter_mut().zip(&tally.used) {
                series.push(micros(*used, tally.events));
            }
        }
    }
    let best = Best { gateway: all[0][0].median(), bare: all[2][0].median() };
    tell_singles(run, &all);
    judging.stop()?;
    accepting.stop()?;
    bare.stop()?;
    Ok(best)
}

fn tell_singles(run: &mut Run, [judged, accepted, bare, few, few_bare]: &[[Series; 4]; 5]) {
    let (table, hyper) = (&mut run.table, "requests/s of a bare hyper server");
    let figure = "events/s, one a request, 64 connections";
    table.ratio(figure, &judged[0], (hyper, &bare[0]), Goal::AtLeast(0.35));
    table.ratio(figure, &judged[0], ("without validator", &accepted[0]), Goal::AtLeast(0.95));
    let figure = "3 times the fastest peer, one a request, 32 connections";
    table.ratio(figure, &few[0], (hyper, &few_bare[0]), Goal::AtLeast(BESIDE_PEERS_SINGLE));
    table.ratio("CPU of the gateway, us a single event", &judged[1], ("bare server", &bare[1]), Goal::None);
    table.plain("the same", &judged[1], Goal::AtMost(15.0));
    table.plain("the same without validator", &accepted[1], Goal::None);
    table.plain("CPU of Postgres, us a single event", &judged[2], Goal::None);
    table.plain("CPU of the load generator, us a single event", &judged[3], Goal::None);
}
