//! How long a healthy event type takes to be answered, alone and beside a module that spins on each of 200 events a second:
//! the built program, real HTTP, its own Postgres, durable. Healthy events are sent at their own times (open loop), and each
//! is timed from when it was due, so that waiting is not hidden. The two ways take turns. `cargo bench --bench neighbour`,
//! with `ROUNDS` (5), `SECONDS` (10 each) and `RATE` (200 healthy events a second).

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SPINS_A_SECOND: u64 = 200;
/// The promise: the p99 of others does not rise by more than half.
const RISE_MOST: f64 = 1.5;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The program, ended in its orderly way when this is dropped.
struct Program {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Program {
    fn start() -> anyhow::Result<Program> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        use std::os::unix::fs::PermissionsExt as _;
        // Postgres runs as a user of its own, who must get in.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        for (name, guest) in [("healthy", "accepts"), ("spins", "spins_always")] {
            let to = folder.path().join("modules/guests");
            std::fs::create_dir_all(&to)?;
            std::fs::copy(guest_file(guest)?, to.join(format!("{name}.wasm")))?;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--modules"]).arg(folder.path().join("modules"));
        command.arg("--data-dir").arg(folder.path().join("data")).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
        let listens = lines.by_ref().map_while(Result::ok).find(|line| line.contains("the gateway listens"));
        let address =
            listens.and_then(|line| Some(line.split("address=").nth(1)?.trim().to_owned())).context("it listens")?;
        // The log must be read, or the program would wait for room in it.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Program { child, address, folder })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = Command::new("kill").arg(self.child.id().to_string()).status();
        let _status = self.child.wait();
        let _removed = std::fs::remove_dir_all(self.folder.path());
    }
}

fn guest_file(name: &str) -> anyhow::Result<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).context("target/<profile>/eye")?;
    let file = target.join(format!("wasm32-unknown-unknown/guest/examples/{name}.wasm"));
    anyhow::ensure!(file.exists(), "{} is not built: make test builds it", file.display());
    Ok(file)
}

fn event(name: &str) -> Value {
    json!({"session_id": uuid::Uuid::now_v7(), "category": "guests", "name": name, "timestamp": "2021-01-01 09:15:27.243860",
        "data": {"host": "www.example.com", "path": "/reviews"}})
}

/// Sends events of a type at their own times; gives the times to answer in microseconds, and how many had which status.
async fn send(
    client: Arc<reqwest::Client>,
    url: String,
    name: &'static str,
    rate: u64,
    seconds: u64,
) -> anyhow::Result<(Histogram<u64>, Vec<u16>)> {
    let start = Instant::now();
    let mut running = JoinSet::new();
    for place in 0..rate * seconds {
        let due = start + Duration::from_nanos(place * 1_000_000_000 / rate);
        tokio::time::sleep_until(due.into()).await;
        let request = client.post(&url).header("content-type", "application/json").body(event(name).to_string());
        running.spawn(async move {
            let status = request.send().await?.status().as_u16();
            anyhow::Ok((due.elapsed(), status))
        });
    }
    let mut times = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let mut statuses = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (took, status) = ended??;
        times.record(u64::try_from(took.as_micros())?)?;
        statuses.push(status);
    }
    Ok((times, statuses))
}

async fn active(client: &reqwest::Client, address: &str) -> anyhow::Result<()> {
    loop {
        let report = client.get(format!("http://{address}/v1/validators")).send().await?.text().await?;
        let report: Value = serde_json::from_str(&report)?;
        let active =
            report["validators"].as_array().map_or(0, |all| all.iter().filter(|one| one["state"] == "active").count());
        if active == 2 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (rounds, seconds, rate) = (number("ROUNDS", 5), number("SECONDS", 10), number("RATE", 200));
    let program = Program::start()?;
    let client = Arc::new(reqwest::Client::new());
    active(&client, &program.address).await?;
    let url = format!("http://{}/v1/events", program.address);
    let healthy = |seconds| send(Arc::clone(&client), url.clone(), "healthy", rate, seconds);
    healthy(2).await?;
    let mut rises = Vec::new();
    for round in 1..=rounds {
        let (alone, told) = healthy(seconds).await?;
        anyhow::ensure!(told.iter().all(|status| *status == 201), "every healthy event is stored");
        let spinning = send(Arc::clone(&client), url.clone(), "spins", SPINS_A_SECOND, seconds);
        let (beside, spinning) = tokio::join!(healthy(seconds), spinning);
        let ((beside, told), (_, spun)) = (beside?, spinning?);
        anyhow::ensure!(told.iter().all(|status| *status == 201), "every healthy event is stored");
        let quarantined = spun.iter().filter(|status| **status == 202).count();
        let (p99_alone, p99_beside) = (alone.value_at_quantile(0.99), beside.value_at_quantile(0.99));
        rises.push(p99_beside as f64 / p99_alone as f64);
        println!(
            "round {round}: alone p50 {} us, p99 {p99_alone} us; beside p50 {} us, p99 {p99_beside} us; of {} spinning events \
             {quarantined} quarantined, {} refused",
            alone.value_at_quantile(0.5),
            beside.value_at_quantile(0.5),
            spun.len(),
            spun.len() - quarantined
        );
    }
    let rise = median(rises);
    println!("p99 beside over p99 alone: median {rise:.2} (goal: at most {RISE_MOST})");
    Ok(())
}
