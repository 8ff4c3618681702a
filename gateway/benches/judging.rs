//! What it costs to judge an event: in an instance that is set back afterwards, in a new one for each event, and in one
//! that is used again as the last event left it, which the gateway never does. The first two are the gateway's own ways;
//! the second takes modules that it cannot set back. Processor time of this thread, the ways in turn.
//! `cargo bench -p eye --bench judging [MODULE.wasm DATA]...`; without arguments, what `make modules` built.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eye::validator::{Limits, Options, SharedLimits, Subject, UnknownEventType, Validators};
use eye::verdict::Verdict;
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{ConstExpr, GlobalSection, GlobalType, Module, ValType};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

const ROUNDS: usize = 9;
const EVENTS: usize = 20_000;

const PAGEVIEW: &str =
    r#"{"host":"www.example.com","path":"/reviews/4711","referrer":"https://www.example.com/search"}"#;
const SUBMIT: &str =
    r#"{"host":"www.example.com","path":"/contact","form_type":"contact","fields":{"name":"A","topic":"b"}}"#;

mod contract {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/modules");
    let mut chosen = Vec::new();
    for pair in arguments.chunks(2) {
        let [file, data] = pair else { anyhow::bail!("each module needs data") };
        chosen.push((Path::new(file).to_owned(), data.clone()));
    }
    if chosen.is_empty() {
        chosen.push((modules.join("page interaction/pageview.wasm"), PAGEVIEW.to_owned()));
        chosen.push((modules.join("form interaction/submit.wasm"), SUBMIT.to_owned()));
    }
    println!("CPU per judged event, median of {ROUNDS} rounds of {EVENTS} events (least to most)");
    for (file, data) in chosen {
        let bytes = std::fs::read(&file).with_context(|| format!("{}: run `make modules`", file.display()))?;
        measure(&file.file_stem().unwrap_or_default().to_string_lossy(), &bytes, &data)?;
    }
    Ok(())
}

fn measure(name: &str, core: &[u8], data: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let folder = tempfile::tempdir()?;
    for (way, bytes) in [("set back", core.to_vec()), ("new", unfit(core)?)] {
        std::fs::create_dir_all(folder.path().join("modules").join(way))?;
        std::fs::write(folder.path().join("modules").join(way).join("judged.wasm"), bytes)?;
    }
    let validators = start(folder.path())?;
    runtime.block_on(validators.wait_scanned());
    let gateway = |way: &str| -> Result<Duration> {
        runtime.block_on(async {
            let began = cpu();
            for _ in 0..EVENTS {
                let judgement = validators.judge(subject(way, data)).await;
                ensure!(judgement.digest.is_some(), "no module serves {way}: {:?}", validators.report());
                ensure!(!matches!(judgement.outcome, Err(_) | Ok(Verdict::Amend(_))), "{judgement:?}");
            }
            Ok(cpu() - began)
        })
    };
    let component = wit_component::ComponentEncoder::default().module(core)?.encode()?;
    let mut reuse = reuse(&component, data).map_err(told)?;
    let (mut back, mut new, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        back.push(gateway("set back")?);
        new.push(gateway("new")?);
        again.push(reuse().map_err(told)?);
    }
    for (way, times) in [("set back", &mut back), ("new instance", &mut new), ("used again as it is", &mut again)] {
        times.sort_unstable();
        let us = |time: Duration| time.as_secs_f64() * 1e6 / EVENTS as f64;
        println!(
            "{name:>10}  {way:<20} {:>7.2} us ({:.2} to {:.2})",
            us(times[ROUNDS / 2]),
            us(times[0]),
            us(times[ROUNDS - 1])
        );
    }
    Ok(())
}

fn start(root: &Path) -> Result<Validators> {
    Ok(Validators::start(Options {
        modules_dir: root.join("modules"),
        data_dir: root.join("data"),
        unknown_event_type: UnknownEventType::Accept,
        requires_module: Arc::new(|_, _| false),
        limits: Limits::default(),
        deadline_ms_max: 1_000,
        shared: SharedLimits::default(),
        rescan: Duration::from_secs(30),
        check_amended: Arc::new(|_| Ok(())),
    })?)
}

fn subject<'a>(way: &'a str, data: &'a str) -> Subject<'a> {
    Subject {
        id: Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001),
        application: "web",
        session_id: Uuid::from_u128(2),
        category: way,
        name: "judged",
        timestamp_us: 1_700_000_000_000_000,
        data,
    }
}

/// The same module, with a global that the gateway does not set back, and so judges in a new instance each time.
fn unfit(core: &[u8]) -> Result<Vec<u8>> {
    struct OneMore;

    impl Reencode for OneMore {
        type Error = std::convert::Infallible;

        fn parse_global_section(
            &mut self,
            globals: &mut GlobalSection,
            section: wasmparser::GlobalSectionReader<'_>,
        ) -> Result<(), Error> {
            utils::parse_global_section(self, globals, section)?;
            let ty = GlobalType { val_type: ValType::V128, mutable: true, shared: false };
            globals.global(ty, &ConstExpr::v128_const(0));
            Ok(())
        }
    }

    let mut module = Module::new();
    OneMore.parse_core_module(&mut module, wasmparser::Parser::new(0), core)?;
    Ok(module.finish())
}

/// A component instance that judges one event after another.
fn reuse(component: &[u8], data: &str) -> wasmtime::Result<impl FnMut() -> wasmtime::Result<Duration>> {
    let engine = Engine::new(Config::new().epoch_interruption(true).concurrency_support(false))?;
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let component = Component::from_binary(&engine, component)?;
    let validator = contract::Validator::instantiate(&mut store, &component, &Linker::new(&engine))?;
    let data = data.to_owned();
    Ok(move || {
        let began = cpu();
        for _ in 0..EVENTS {
            let event = contract::eye::validator::types::Event {
                id: "01900000-0000-7000-8000-000000000001",
                application: "web",
                session_id: "00000000-0000-0000-0000-000000000002",
                category: "set back",
                name: "judged",
                timestamp: 1_700_000_000_000_000,
                data: &data,
            };
            std::hint::black_box(validator.call_validate(&mut store, event)?);
        }
        Ok(cpu() - began)
    })
}

fn told(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// How long this thread has run.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("a thread runs forward")
}
