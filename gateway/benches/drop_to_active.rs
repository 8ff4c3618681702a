//! How long it takes from a file that is dropped into the modules directory until its module judges, for a small Rust
//! module: renamed into place as people are told to, and copied in. Each drop is another content, so nothing is found
//! compiled. The two ways take turns. `cargo bench --bench drop_to_active`, with `DROPS` (40 of each way).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eye_event::envelope::Rules;
use eye_event::verdict::Digest;
use eye_judge::{Limits, LoaderLimits, Loading, Options, SharedLimits, UnknownEventType, Validators};

/// Longer than any drop takes.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// Waits until these bytes serve; gives the time since they were complete in their place.
async fn active(validators: &Validators, bytes: &[u8], dropped: Instant) -> anyhow::Result<Duration> {
    let digest = Digest::of(bytes);
    let mut changes = validators.changes();
    let serves = async {
        while !validators.report().iter().any(|report| report.digest == Some(digest)) {
            changes.changed().await?;
        }
        anyhow::Ok(dropped.elapsed())
    };
    tokio::time::timeout(PATIENCE, serves).await.context("a drop was never active")?
}

fn tell(way: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let ms = |hundredths: usize| times[(times.len() * hundredths).div_ceil(100) - 1].as_secs_f64() * 1e3;
    println!("{way}: p50 {:.1} ms, p99 {:.1} ms, of {} drops", ms(50), ms(99), times.len());
}

async fn measure(root: &Path, module: &[u8], drops: usize) -> anyhow::Result<()> {
    let place = root.join("modules/page/view.wasm");
    let beside = root.join("modules/page/.view.part");
    std::fs::create_dir_all(root.join("modules/page"))?;
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
    let (mut renamed, mut copied) = (Vec::with_capacity(drops), Vec::with_capacity(drops));
    for number in 0..drops {
        let bytes = salted(module, 2 * number)?;
        std::fs::write(&beside, &bytes)?;
        std::fs::rename(&beside, &place)?;
        renamed.push(active(&validators, &bytes, Instant::now()).await?);
        let bytes = salted(module, 2 * number + 1)?;
        std::fs::write(&place, &bytes)?;
        copied.push(active(&validators, &bytes, Instant::now()).await?);
    }
    validators.stop().await;
    println!("a module of {} KiB", module.len() / 1024);
    tell("renamed into place", renamed);
    tell("copied into place", copied);
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let drops = number("DROPS", 40).max(1);
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).context("target/<profile>/eye")?;
    let file = target.join("wasm32-unknown-unknown/guest/pageview.wasm");
    let module = std::fs::read(&file).with_context(|| format!("{}: make modules builds it", file.display()))?;
    let root = tempfile::tempdir()?;
    measure(root.path(), &module, drops).await
}
