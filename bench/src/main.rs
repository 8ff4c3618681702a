//! Measures the built gateway: events a second, processor time, times of answers, growth, memory and hot swap. Since
//! machines differ and drift, each figure stands beside a ceiling that is measured in turn with it, in the same run, on
//! a Postgres of the run's own with durable settings. `make bench` runs all, `make bench-quick` the same for less long.

mod bare;
mod candidates;
mod compare;
mod database;
mod events;
mod growth;
mod latency;
mod load;
mod machine;
mod process;
mod profile;
mod report;
mod subject;
mod swap;
mod throughput;
mod ways;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use tokio::signal::unix::{SignalKind, signal};

use database::{Database, Server, Way};
use report::{Series, Table};
use subject::Workshop;

/// How long and how often everything is measured.
struct Plan {
    words: &'static str,
    repeats: usize,
    warm_up: Duration,
    /// What is measured of each load.
    window: Duration,
    /// The same for what is told as growth: there are many of them.
    growth_window: Duration,
    modules: [usize; 3],
    big_table_rows: usize,
}

const FULL: Plan = Plan {
    words: "5 repeats",
    repeats: 5,
    warm_up: Duration::from_millis(500),
    window: Duration::from_millis(2_500),
    growth_window: Duration::from_millis(1_500),
    modules: [1, 100, 1_000],
    big_table_rows: 10_000_000,
};

const QUICK: Plan = Plan {
    words: "quick: 2 repeats only, with short windows",
    repeats: 2,
    warm_up: Duration::from_millis(300),
    window: Duration::from_millis(1_200),
    growth_window: Duration::from_millis(800),
    // Compiling a thousand takes longer than all the rest.
    modules: [1, 10, 100],
    big_table_rows: 200_000,
};

/// What is measured, in order, over each way. Half of the best rate of `singles` is the rate of `answers`.
const PARTS: [&str; 8] = ["batches", "singles", "answers", "modules", "types", "connections", "table", "swap"];
/// What is measured once, since it sets the ways beside each other.
const WAYS: &str = "ways";
/// What is measured once, over TCP.
const CANDIDATES: &str = "candidates";

/// One run: what is measured with, and what has been found.
struct Run {
    plan: Plan,
    workshop: Workshop,
    server: Server,
    main: Database,
    /// The database with many rows, once it is filled.
    big: Option<Database>,
    /// How the gateways under measure get to the server.
    way: Way,
    table: Table,
    /// The best rates of single events, which the open loads take half of.
    best: Option<Best>,
}

/// Requests with one event that were answered in a second.
#[derive(Clone, Copy)]
struct Best {
    gateway: f64,
    bare: f64,
}

/// What is wanted.
enum Work {
    /// These parts, or all.
    Measure(Vec<String>),
    Profile,
    Compare(compare::Pair),
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let word = words.next();
    let plan = match word.as_deref() {
        Some("bare") => return bare::serve(),
        Some("full") => FULL,
        Some("quick" | "profile" | "compare") => QUICK,
        _ => bail!(
            "usage: eye-bench full|quick [PART]... | eye-bench profile | eye-bench compare OLD NEW [ROUNDS]; parts: {} {WAYS} {CANDIDATES}",
            PARTS.join(" ")
        ),
    };
    let words: Vec<String> = words.collect();
    let work = match word.as_deref() {
        Some("profile") => Work::Profile,
        Some("compare") => Work::Compare(compare::Pair::new(&words)?),
        _ => Work::Measure(words),
    };
    if let Work::Measure(parts) = &work
        && let Some(unknown) =
            parts.iter().find(|part| !PARTS.contains(&part.as_str()) && *part != WAYS && *part != CANDIDATES)
    {
        bail!("there is no part `{unknown}`, only {} {WAYS} {CANDIDATES}", PARTS.join(" "));
    }
    let folder = tempfile::tempdir_in("/var/tmp")?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    // One thread for the load, and the runtime's timers with it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::start(folder.path()).await?;
        let workshop = Workshop::new(folder.path())?;
        let main = server.database(&workshop, "main").await?;
        let mut run =
            Run { plan, workshop, server, main, big: None, way: Way::SocketFile, table: Table::default(), best: None };
        let mut terminate = signal(SignalKind::terminate())?;
        // However it ends, what was started is stopped.
        let work = async {
            match work {
                Work::Profile => profile::gateway(&mut run).await,
                Work::Compare(pair) => compare::gateways(&mut run, &pair).await,
                Work::Measure(parts) => measure(&mut run, &parts).await,
            }
        };
        let measured = tokio::select! {
            measured = work => measured,
            _ = terminate.recv() => Err(anyhow!("told to stop")),
            _ = tokio::signal::ctrl_c() => Err(anyhow!("told to stop")),
        };
        run.server.stop().await;
        measured
    })
}

/// Measures the `parts`, or all of them when none is named; only then are the figures written.
async fn measure(run: &mut Run, parts: &[String]) -> Result<()> {
    let start = Instant::now();
    let wanted = |part: &&str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if wanted(&WAYS) {
        run.table.section("The ways beside each other");
        ways::to_the_database(run).await?;
    }
    for (way, words) in [(Way::SocketFile, "Over the socket file"), (Way::Tcp, "Over TCP on loopback")] {
        if !PARTS.iter().any(wanted) {
            break;
        }
        run.table.section(words);
        (run.way, run.best) = (way, None);
        for part in PARTS.into_iter().filter(wanted) {
            match part {
                "batches" => throughput::batches(run).await?,
                "singles" => run.best = Some(throughput::singles(run).await?),
                "answers" => latency::answers(run).await?,
                "modules" => growth::modules(run).await?,
                "types" => growth::event_types(run).await?,
                "connections" => growth::connections(run).await?,
                "table" => growth::table(run).await?,
                _ => swap::modules(run).await?,
            }
        }
    }
    if wanted(&CANDIDATES) {
        run.table.section("Candidates, over TCP on loopback");
        run.way = Way::Tcp;
        candidates::shadows(run).await?;
    }
    let took = start.elapsed().as_secs();
    let figures = format!(
        "{}\n\n{}. Median, and from the least to the most. It took {} min {} s.\n\n{}",
        machine::words(&run.main.version().await?)?,
        run.plan.words,
        took / 60,
        took % 60,
        run.table.markdown(),
    );
    println!("\n{figures}");
    if run.plan.repeats == FULL.repeats && parts.is_empty() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        report::write_figures(&root.join("BENCHMARKS.md"), &figures)?;
        println!("written to BENCHMARKS.md");
    }
    Ok(())
}

/// A series of millionths: seconds of processor time by count.
fn micros(used_s: f64, count: f64) -> f64 {
    used_s * 1e6 / count
}

/// An empty series for each of `names`.
fn series<const N: usize>() -> [Series; N] {
    std::array::from_fn(|_| Series::default())
}
