//! Two builds of the gateway beside each other: `eye-bench compare OLD NEW [ROUNDS]`. Machines drift by more within minutes
//! than most changes bring, so the two run at the same time, each idle while the other is under load, and every figure is the
//! ratio of two loads that followed each other. Each has a database of its own, with its own schema, on the one server. A script
//! that ends in `exec` in place of a program compares settings.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::database::Database;
use crate::load::{Closed, Open, Shared, Tally, shared};
use crate::report::{Goal, Series};
use crate::subject::{Modules, Setup, Subject};
use crate::throughput::{BATCH_CONNECTIONS, EVENTS_PER_BATCH, PEER_CONNECTIONS, SINGLE_CONNECTIONS, used};
use crate::{Run, micros};

/// Who begins changes from round to round, so there is always an even number of them.
const ROUNDS: usize = 10;

/// What is compared.
pub(crate) struct Pair {
    programs: [PathBuf; 2],
    rounds: usize,
}

impl Pair {
    /// From the words of the command line.
    pub(crate) fn new(words: &[String]) -> Result<Self> {
        let usage = "usage: eye-bench compare OLD NEW [ROUNDS]";
        let [old, new, rest @ ..] = words else { anyhow::bail!(usage) };
        let program = |word: &str| Path::new(word).canonicalize().with_context(|| word.to_owned());
        let rounds = match rest {
            [] => ROUNDS,
            [rounds] => rounds.parse::<usize>().context(usage)?.max(1).next_multiple_of(2),
            _ => anyhow::bail!(usage),
        };
        Ok(Self { programs: [program(old)?, program(new)?], rounds })
    }
}

/// What one of the two came to.
#[derive(Default)]
struct Figures {
    batched: Series,
    batched_us: Series,
    many: Series,
    many_us: Series,
    many_postgres_us: Series,
    few: Series,
    median: Series,
    high: Series,
}

/// One of the two.
struct Side {
    gateway: Subject,
    database: Database,
    figures: Figures,
}

/// All loads on both, in turn; who begins changes from round to round.
pub(crate) async fn gateways(run: &mut Run, pair: &Pair) -> Result<()> {
    let mut sides = Vec::new();
    for (name, program) in ["old", "new"].into_iter().zip(&pair.programs) {
        let workshop = run.workshop.with_program(program);
        let database = run.server.database(&workshop, &format!("compared_{name}")).await?;
        let gateway =
            workshop.gateway(&Setup { name, database_url: database.url(run.way), modules: Modules::ForAll }).await?;
        sides.push(Side { gateway, database, figures: Figures::default() });
    }
    let (batches, singles) = (shared(EVENTS_PER_BATCH, 1), shared(1, 1));
    let mut rate = None;
    for round in 0..pair.rounds {
        let turns = [round % 2, (round + 1) % 2];
        for turn in turns {
            let side = &mut sides[turn];
            let tally = closed(run, side, BATCH_CONNECTIONS, &batches).await?;
            side.figures.batched.push(tally.per_second);
            side.figures.batched_us.push(micros(tally.used[0], tally.events));
        }
        for turn in turns {
            let side = &mut sides[turn];
            let tally = closed(run, side, SINGLE_CONNECTIONS, &singles).await?;
            side.figures.many.push(tally.per_second);
            side.figures.many_us.push(micros(tally.used[0], tally.events));
            side.figures.many_postgres_us.push(micros(tally.used[1], tally.events));
        }
        for turn in turns {
            let side = &mut sides[turn];
            let tally = closed(run, side, PEER_CONNECTIONS, &singles).await?;
            side.figures.few.push(tally.per_second);
        }
        // The same for both in all rounds.
        let per_second = *rate.get_or_insert(sides[0].figures.many.median() / 2.0);
        for turn in turns {
            let side = &mut sides[turn];
            side.database.empty().await?;
            let load = Open {
                address: side.gateway.address,
                connections: SINGLE_CONNECTIONS,
                source: Shared::clone(&singles),
                per_second,
                warm_up: run.plan.warm_up,
                window: run.plan.window,
            };
            let times = load.run().await?;
            side.figures.median.push(times.value_at_quantile(0.5) as f64 / 1e3);
            side.figures.high.push(times.value_at_quantile(0.99) as f64 / 1e3);
        }
        println!("round {} of {}", round + 1, pair.rounds);
    }
    tell(run, &sides[0].figures, &sides[1].figures, rate.unwrap_or_default());
    for side in sides {
        side.gateway.stop()?;
    }
    println!("\n{}", run.table.markdown());
    Ok(())
}

async fn closed(run: &Run, side: &mut Side, connections: usize, source: &Shared) -> Result<Tally> {
    side.database.empty().await?;
    let load = Closed {
        address: side.gateway.address,
        connections,
        source: Shared::clone(source),
        warm_up: run.plan.warm_up,
        window: run.plan.window,
    };
    let tally = load.run(|| used(&side.gateway, &run.server)).await?.sound()?;
    ensure!(tally.used[0] > 0.0, "the program used no time: a script must end in `exec`");
    side.database.prove(&tally).await?;
    Ok(tally)
}

fn tell(run: &mut Run, old: &Figures, new: &Figures, rate: f64) {
    let mut tell = |figure: &str, old: &Series, new: &Series| run.table.ratio(figure, new, ("old", old), Goal::None);
    tell("events/s, 100 a request", &old.batched, &new.batched);
    tell("CPU of the gateway, us an event in batches", &old.batched_us, &new.batched_us);
    tell("events/s, one a request, 64 connections", &old.many, &new.many);
    tell("CPU of the gateway, us a single event", &old.many_us, &new.many_us);
    tell("CPU of Postgres, us a single event", &old.many_postgres_us, &new.many_postgres_us);
    tell("events/s, one a request, 32 connections", &old.few, &new.few);
    tell(&format!("p50 of an answer at {rate:.0} events/s, ms"), &old.median, &new.median);
    tell("p99, ms", &old.high, &new.high);
}
