//! How long the validators take to be ready with 1,000 different modules: cold, with nothing compiled before, and warm, from
//! compiled code on disk; and the memory that it takes. `cargo bench --bench start`, with `MODULES` (1000) and `ROUNDS` (3).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eye_event::envelope::Rules;
use eye_judge::{Limits, LoaderLimits, Loading, Options, SharedLimits, UnknownEventType, Validators};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A module with a number in place of the beginning of its summary. A custom section would not do: it is no part of what
/// is compiled, and all of them would be found compiled once one is.
fn salted(module: &[u8], number: usize) -> anyhow::Result<Vec<u8>> {
    let text = b"A page was seen";
    let at = module.windows(text.len()).position(|bytes| bytes == text).context("the summary is in the module")?;
    let mut bytes = module.to_vec();
    bytes[at..at + text.len()].copy_from_slice(format!("{number:>width$}", width = text.len()).as_bytes());
    Ok(bytes)
}

fn resident_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

async fn start(root: &Path, modules: usize) -> anyhow::Result<(Duration, f64)> {
    let before = resident_mib().context("only Linux tells the memory")?;
    let began = Instant::now();
    let validators = Validators::start(Options {
        modules_from: Default::default(),
        modules_dir: root.join("modules"),
        data_dir: root.join("data"),
        unknown_event_type: UnknownEventType::Accept,
        required: eye_judge::Required::default(),
        is_beside_gateway: false,
        limits: Limits::default(),
        deadline_ms_max: 1_000,
        shared: SharedLimits::default(),
        rescan: Duration::from_secs(30),
        check_amended: Arc::new(|_| Ok(())),
        observer: eye_judge::Observer::default(),
        loading: Loading {
            program: env!("CARGO_BIN_EXE_eye").into(),
            limits: LoaderLimits::default(),
            rules: Rules {
                data_bytes_max: 256 << 10,
                nesting_max: 64,
                number_digits_max: 1_000,
                future_us_max: 60_000_000,
                events_max: 10_000,
            },
        },
    })?;
    validators.wait_scanned().await;
    let took = began.elapsed();
    let serving = validators.report().iter().filter(|report| report.digest.is_some()).count();
    anyhow::ensure!(serving == modules, "{serving} of {modules} modules serve");
    let memory = resident_mib().context("only Linux tells the memory")? - before;
    validators.stop().await;
    Ok((took, memory))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (modules, rounds) = (number("MODULES", 1_000), number("ROUNDS", 3));
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).context("target/<profile>/eye")?;
    let file = target.join("wasm32-unknown-unknown/guest/pageview.wasm");
    let module = std::fs::read(&file).with_context(|| format!("{}: make modules builds it", file.display()))?;
    for round in 1..=rounds {
        let root = tempfile::tempdir()?;
        std::fs::create_dir_all(root.path().join("modules/many"))?;
        for number in 0..modules {
            std::fs::write(root.path().join(format!("modules/many/{number}.wasm")), salted(&module, number)?)?;
        }
        let (cold, cold_memory) = start(root.path(), modules).await?;
        let (warm, warm_memory) = start(root.path(), modules).await?;
        println!(
            "round {round}, {modules} modules of {} KiB: cold {:.2} s ({cold_memory:.0} MiB more resident), warm {:.2} s \
             ({warm_memory:.0} MiB more)",
            module.len() / 1024,
            cold.as_secs_f64(),
            warm.as_secs_f64()
        );
    }
    Ok(())
}
