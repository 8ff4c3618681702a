//! What a candidate in shadow costs the events that the module beside it judges, at half of the best rate: their answers while
//! it spins, and processor time while it is sound. And how many events pass until the guard takes back one that refuses.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::events::CATEGORY;
use crate::load::{Open, shared};
use crate::process::family_time;
use crate::report::{Goal, Series};
use crate::subject::{Modules, Setup, Subject};
use crate::{Run, micros, series};

const CONNECTIONS: usize = 64;
/// Loads with and without the candidate that spins, in turn.
const PAIRS: usize = 9;
/// Loads with and without the sound one.
const SOUND_PAIRS: usize = 5;
/// A load of a pair lasts at least so long. In a shorter one a single hiccup of the machine decides the percentile.
const PAIR_WINDOW: Duration = Duration::from_secs(5);
/// A file is seen, loaded and tried in this time, and taken back in it.
const SEEN_MOST: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The load under which the guard decides lasts at least so long.
const GUARDED: Duration = Duration::from_secs(4);

/// A gateway with one module for all types, and the place of its candidate.
struct Bench<'a> {
    run: &'a mut Run,
    gateway: Subject,
    folder: PathBuf,
    per_second: f64,
}

impl Bench<'_> {
    fn load(&self, window: Duration) -> Open {
        Open {
            address: self.gateway.address,
            connections: CONNECTIONS,
            source: shared(1, 1),
            per_second: self.per_second,
            warm_up: self.run.plan.warm_up,
            window,
        }
    }

    /// Puts a candidate in shadow beside the module, or takes it away.
    fn put(&self, file: &str, settings: &str, content: Option<&[u8]>) -> Result<()> {
        let path = self.folder.join(file);
        match content {
            Some(content) => {
                std::fs::create_dir_all(&self.folder)?;
                std::fs::write(self.folder.join("_.toml"), format!("mode = \"shadow\"\n{settings}"))?;
                let beside = path.with_extension("new");
                std::fs::write(&beside, content)?;
                std::fs::rename(&beside, &path)?;
            }
            None => std::fs::remove_file(&path)?,
        }
        Ok(())
    }

    /// Waits until the gateway tries a candidate, or none. Returns when that was.
    async fn until(&self, is_tried: bool) -> Result<Instant> {
        let since = Instant::now();
        loop {
            let report: Value = serde_json::from_str(&self.gateway.get("/v1/validators").await?.1)?;
            if report["validators"][0]["candidate"].is_null() != is_tried {
                return Ok(Instant::now());
            }
            ensure!(since.elapsed() < SEEN_MOST, "the candidate is not as it should be: {report}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Percentiles of the times of answers, in ms, and the gateway's processor time for an event, in us.
    async fn answers(&mut self) -> Result<[f64; 3]> {
        self.run.main.empty().await?;
        let load = self.load(self.run.plan.window.max(PAIR_WINDOW));
        let before = family_time(self.gateway.pid())?;
        let times = load.run().await?;
        let used = family_time(self.gateway.pid())?.saturating_sub(before);
        let events = self.per_second * (load.warm_up + load.window).as_secs_f64();
        let [median, high] = [0.5, 0.99].map(|part| times.value_at_quantile(part) as f64 / 1e3);
        Ok([median, high, micros(used.as_secs_f64(), events)])
    }

    /// Loads without and with a candidate, in turn: each percentile and the processor time, without and with.
    async fn pairs(&mut self, file: &str, content: &[u8], count: usize) -> Result<[[Series; 2]; 3]> {
        let mut all: [[Series; 2]; 3] = Default::default();
        for _ in 0..count {
            let without = self.answers().await?;
            self.put(file, "guard = false", Some(content))?;
            self.until(true).await?;
            let with = self.answers().await?;
            self.put(file, "", None)?;
            self.until(false).await?;
            for ((series, without), with) in all.iter_mut().zip(without).zip(with) {
                series[0].push(without);
                series[1].push(with);
            }
        }
        Ok(all)
    }

    /// How many events came until a candidate was taken back that refuses 15 of 100.
    async fn guard(&mut self, number: usize) -> Result<f64> {
        self.run.main.empty().await?;
        // Events have positions from 0 to 39.
        let schema = json!({"title": format!("{number}"), "properties": {"position": {"maximum": 33}}}).to_string();
        let load = self.load(self.run.plan.window.max(GUARDED));
        let watch = async {
            self.put("_.schema.json", "", Some(schema.as_bytes()))?;
            let began = self.until(true).await?;
            Ok::<_, anyhow::Error>(self.until(false).await?.duration_since(began))
        };
        let (_, took) = tokio::try_join!(load.run(), watch)?;
        self.put("_.schema.json", "", None)?;
        Ok(self.per_second * took.as_secs_f64())
    }
}

/// The module that never comes back, which tests use too.
fn spins() -> Result<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let path = root.join("target/wasm32-unknown-unknown/guest/examples/spins_always.wasm");
    std::fs::read(&path).with_context(|| format!("{}: run `make bench-build`", path.display()))
}

/// In shadow: one that spins, one that is sound, and one that refuses.
pub(crate) async fn shadows(run: &mut Run) -> Result<()> {
    let best = match run.best {
        Some(best) => best,
        None => crate::throughput::singles(run).await?,
    };
    let setup = Setup { name: "shadowed", database_url: run.main.url(run.way), modules: Modules::ForAll };
    let gateway = run.workshop.gateway(&setup).await?;
    let folder = run.workshop.folder.join("shadowed/modules/.candidates").join(CATEGORY);
    let (repeats, sound) = (run.plan.repeats, run.workshop.module(1));
    let mut bench = Bench { run, gateway, folder, per_second: best.gateway / 2.0 };
    let [medians, highs, _] = bench.pairs("_.wasm", &spins()?, PAIRS).await?;
    let [_, sound_highs, used] = bench.pairs("_.wasm", &sound, SOUND_PAIRS).await?;
    let mut guarded = series::<1>();
    for number in 0..repeats {
        guarded[0].push(bench.guard(number).await?);
    }
    let Bench { run, gateway, per_second, .. } = bench;
    let figure = |what: &str| format!("{what} at {per_second:.0} events/s");
    let spinning = figure("p50 of an answer beside a shadow that spins, ms,");
    run.table.ratio(&spinning, &medians[1], ("without it", &medians[0]), Goal::None);
    run.table.ratio("p99, ms", &highs[1], ("without it", &highs[0]), Goal::AtMost(1.25));
    let sound = figure("p99 of an answer beside a sound shadow, ms,");
    run.table.ratio(&sound, &sound_highs[1], ("without it", &sound_highs[0]), Goal::None);
    run.table.ratio("CPU of the gateway with it, us an event", &used[1], ("without it", &used[0]), Goal::None);
    let figure = figure("events until a shadow that refuses 15 of 100 is taken back");
    run.table.plain(&figure, &guarded[0], Goal::None);
    gateway.stop()
}
