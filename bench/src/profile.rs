//! Where the gateway's time goes: perf looks at it under each of the two loads, and the symbols that were met most often
//! are told. `make profile`

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Run;
use crate::load::{Closed, Shared, shared};
use crate::subject::{Modules, Setup, Subject};
use crate::throughput::{BATCH_CONNECTIONS, EVENTS_PER_BATCH, SINGLE_CONNECTIONS, used};

/// How long perf looks.
const LOOK: Duration = Duration::from_secs(10);
/// Looks a second; no round number, so that they do not fall in step with timers.
const LOOKS_PER_SECOND: &str = "997";
/// Symbols that are told.
const SYMBOLS_MAX: usize = 10;

/// Both loads, one after the other.
pub(crate) async fn gateway(run: &mut Run) -> Result<()> {
    let setup = Setup { name: "judging", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    for (words, per_request, connections) in
        [("100 events a request", EVENTS_PER_BATCH, BATCH_CONNECTIONS), ("one event a request", 1, SINGLE_CONNECTIONS)]
    {
        run.main.empty().await?;
        let source = shared(per_request, 1);
        println!("\n{words}:\n\n{}", look(run, &gateway, connections, source).await?);
    }
    gateway.stop()
}

async fn look(run: &Run, gateway: &Subject, connections: usize, source: Shared) -> Result<String> {
    let file = run.workshop.folder.join("perf.data");
    let load = Closed {
        address: gateway.address,
        connections,
        source,
        warm_up: run.plan.warm_up,
        // Until perf has started and ended.
        window: LOOK + Duration::from_secs(2),
    };
    let mut perf = Command::new("perf")
        // Without a counter of cycles, as in most virtual machines, perf takes the processor's clock by itself.
        .args(["record", "--quiet", "--freq", LOOKS_PER_SECOND, "--pid", &gateway.pid().to_string(), "--output"])
        .arg(&file)
        .args(["--", "sleep", &LOOK.as_secs().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .context("needs perf")?;
    let loaded = load.run(|| used(gateway, &run.server)).await;
    let status = perf.wait()?;
    let tally = loaded?.sound()?;
    ensure!(status.success(), "perf record: {status}");
    Ok(format!("{:.0} events/s while perf looked\n\n{}", tally.per_second, symbols(&file)?))
}

/// The symbols met most often, with their share of all looks.
fn symbols(file: &Path) -> Result<String> {
    let output = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "--sort", "symbol", "--percent-limit", "0.1", "--input"])
        .arg(file)
        .output()?;
    ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter(|line| line.contains('%') && !line.starts_with('#')).take(SYMBOLS_MAX);
    // What follows the symbol in columns of their own tells of inlining, which is not asked for.
    Ok(lines.map(|line| line.trim_end_matches([' ', '-'])).collect::<Vec<_>>().join("\n"))
}
