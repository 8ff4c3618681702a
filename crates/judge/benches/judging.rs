//! What it costs to judge an event: in an instance that is set back afterwards, in a new core instance for each event, in a
//! new component in which `describe` runs first, and in one that is used again as the last event left it, which the gateway
//! never does. The first three are the gateway's own ways: the second takes modules whose writes it cannot follow, the third
//! those whose state it cannot take. Processor time of this thread, the ways in turn; and the same with 1 MiB that
//! `describe` has filled. `cargo bench -p eye-judge --bench judging [MODULE.wasm DATA]...`; without arguments, what `make modules`
//! built. A release build of the gateway must be there too, whose hidden command loads the modules.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eye_event::envelope::Rules;
use eye_event::verdict::Verdict;
use eye_judge::{Limits, LoaderLimits, Loading, Options, SharedLimits, Subject, UnknownEventType, Validators};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, ConstExpr, Function, FunctionSection, GlobalSection, GlobalType, HeapType, Instruction, Module,
    RefType, TypeSection, ValType,
};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Store};

const ROUNDS: usize = 9;
const EVENTS: usize = 20_000;

/// What a round of events takes at most, so that slow ways do not make the others wait.
const ROUND: Duration = Duration::from_millis(100);

const PAGEVIEW: &str =
    r#"{"host":"www.example.com","path":"/reviews/4711","referrer":"https://www.example.com/search"}"#;
const SUBMIT: &str =
    r#"{"host":"www.example.com","path":"/contact","form_type":"contact","fields":{"name":"A","topic":"b"}}"#;
const PUSH: &str = r#"{"ref":"refs/heads/main","before":"0f1e2d","after":"4c5b6a","repository":{"full_name":"a/b"},"pusher":{"name":"a"},"commits":[{"id":"4c5b6a","message":"Mend the gate","timestamp":"2026-11-23T09:15:27Z","author":{"name":"a"}}]}"#;

/// The built gateway, beside which this program lies in a folder.
fn loader() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.ancestors().nth(2).context("target/<profile>/deps")?.join("eye");
    ensure!(program.exists(), "{}: build it with `cargo build --release`", program.display());
    Ok(program)
}

mod contract {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "validator",
        ownership: Borrowing { duplicate_if_necessary: true },
    });
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/modules");
    let mut chosen = Vec::new();
    for pair in arguments.chunks(2) {
        let [file, data] = pair else { anyhow::bail!("each module needs data") };
        chosen.push((Path::new(file).to_owned(), data.clone()));
    }
    if chosen.is_empty() {
        chosen.push((modules.join("page interaction/pageview.wasm"), PAGEVIEW.to_owned()));
        chosen.push((modules.join("form interaction/submit.wasm"), SUBMIT.to_owned()));
        chosen.push((modules.join("github/push.wasm"), PUSH.to_owned()));
    }
    println!("CPU per judged event, median of {ROUNDS} rounds of up to {EVENTS} events (least to most)");
    if arguments.is_empty() {
        measure("1 MiB", &filled()?, "{}")?;
    }
    for (file, data) in chosen {
        let bytes = std::fs::read(&file).with_context(|| format!("{}: run `make modules`", file.display()))?;
        measure(&file.file_stem().unwrap_or_default().to_string_lossy(), &bytes, &data)?;
    }
    Ok(())
}

fn measure(name: &str, module: &[u8], data: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let folder = tempfile::tempdir()?;
    let mut ways = vec![("as it is", module.to_vec())];
    let component = if wasmparser::Parser::is_core_wasm(module) {
        ways.push(("new", unfit(module, Unfit::Followed)?));
        ways.push(("new component", unfit(module, Unfit::Taken)?));
        wit_component::ComponentEncoder::default().module(module)?.encode()?
    } else {
        module.to_vec()
    };
    for (way, bytes) in &ways {
        std::fs::create_dir_all(folder.path().join("modules").join(way))?;
        std::fs::write(folder.path().join("modules").join(way).join("judged.wasm"), bytes)?;
    }
    let validators = start(folder.path())?;
    runtime.block_on(validators.wait_scanned());
    for report in validators.report() {
        println!("{name:>10}  {}: {:?}, {:?}", report.event_type, report.isolation, report.isolation_reason);
    }
    let gateway = |way: &str| -> Result<f64> {
        runtime.block_on(async {
            let began = cpu();
            let mut judged = 0;
            while judged < EVENTS && (judged % 100 > 0 || cpu() - began < ROUND) {
                judged += 1;
                let judgement = validators.judge(subject(way, data)).await;
                ensure!(judgement.digest.is_some(), "no module serves {way}: {:?}", validators.report());
                ensure!(!matches!(judgement.outcome, Err(_) | Ok(Verdict::Amend(_))), "{judgement:?}");
            }
            Ok(us_an_event(cpu() - began, judged))
        })
    };
    let mut reuse = reuse(&component, data).map_err(told)?;
    let mut times: Vec<(&str, Vec<f64>)> = ways.iter().map(|(way, _)| (*way, Vec::new())).collect();
    let mut again = Vec::new();
    for _ in 0..ROUNDS {
        for (way, times) in &mut times {
            times.push(gateway(way)?);
        }
        again.push(us_an_event(reuse().map_err(told)?, EVENTS));
    }
    times.push(("used again", again));
    for (way, times) in &mut times {
        times.sort_by(f64::total_cmp);
        let [median, least, most] = [times[ROUNDS / 2], times[0], times[ROUNDS - 1]];
        println!("{name:>10}  {way:<20} {median:>7.2} us ({least:.2} to {most:.2})");
    }
    Ok(())
}

fn us_an_event(time: Duration, events: usize) -> f64 {
    time.as_secs_f64() * 1e6 / events as f64
}

fn start(root: &Path) -> Result<Validators> {
    Ok(Validators::start(Options {
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
            program: loader()?,
            limits: LoaderLimits::default(),
            rules: Rules {
                data_bytes_max: 256 << 10,
                nesting_max: 64,
                number_digits_max: 1_000,
                future_us_max: 60_000_000,
                events_max: 10_000,
            },
        },
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
        received_at_us: 1_700_000_000_000_000,
        data,
    }
}

/// What the gateway cannot do with a module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfit {
    /// Follow its writes: one function ends in a call, which is beyond what is understood.
    Followed,
    /// Take its state: a global holds a reference.
    Taken,
}

/// The same module with a part that nothing uses.
fn unfit(core: &[u8], what: Unfit) -> Result<Vec<u8>> {
    struct OneMore {
        what: Unfit,
        types: u32,
        functions: u32,
    }

    impl Reencode for OneMore {
        type Error = std::convert::Infallible;

        fn parse_type_section(
            &mut self,
            types: &mut TypeSection,
            section: wasmparser::TypeSectionReader<'_>,
        ) -> Result<(), Error> {
            utils::parse_type_section(self, types, section)?;
            self.types = types.len();
            types.ty().function([], []);
            Ok(())
        }

        fn parse_function_section(
            &mut self,
            functions: &mut FunctionSection,
            section: wasmparser::FunctionSectionReader<'_>,
        ) -> Result<(), Error> {
            utils::parse_function_section(self, functions, section)?;
            self.functions = functions.len();
            functions.function(self.types);
            Ok(())
        }

        fn parse_global_section(
            &mut self,
            globals: &mut GlobalSection,
            section: wasmparser::GlobalSectionReader<'_>,
        ) -> Result<(), Error> {
            utils::parse_global_section(self, globals, section)?;
            if self.what == Unfit::Taken {
                let ty = GlobalType { val_type: ValType::Ref(RefType::FUNCREF), mutable: true, shared: false };
                globals.global(ty, &ConstExpr::ref_null(HeapType::FUNC));
            }
            Ok(())
        }

        fn parse_code_section(
            &mut self,
            code: &mut CodeSection,
            section: wasmparser::CodeSectionReader<'_>,
        ) -> Result<(), Error> {
            utils::parse_code_section(self, code, section)?;
            let mut ends_in_a_call = Function::new([]);
            if self.what == Unfit::Followed {
                ends_in_a_call.instruction(&Instruction::ReturnCall(self.functions));
            }
            code.function(ends_in_a_call.instruction(&Instruction::End));
            Ok(())
        }
    }

    let mut module = Module::new();
    OneMore { what, types: 0, functions: 0 }.parse_core_module(&mut module, wasmparser::Parser::new(0), core)?;
    Ok(module.finish())
}

/// A module that accepts everything after a look at 1 MiB that `describe` has filled.
fn filled() -> Result<Vec<u8>> {
    let text = r#"(module
        (memory (export "memory") 20)
        (global $top (mut i32) (i32.const 1114112))
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
          (if (i32.gt_u (global.get $top) (i32.const 1200000)) (then (global.set $top (i32.const 1114112))))
          (global.get $top)
          (global.set $top (i32.add (global.get $top) (local.get 3))))
        (func (export "describe") (result i32)
          (memory.fill (i32.const 65536) (i32.const 7) (i32.const 1048576))
          (i32.const 1024))
        (func (export "validate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32) (result i32)
          (local $at i32)
          (local.set $at (i32.const 65536))
          (loop (br_if 0 (i32.lt_u
            (local.tee $at (i32.add (local.get $at) (i32.load8_u (local.get $at)))) (i32.const 66560))))
          (i32.const 2048))
        (data (i32.const 1024) "\00\08\00\00\01\00\00\00\00\00\00\00\00\00\00\00"))"#;
    let mut bytes = wat::parse_str(text)?;
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("validator.wit", include_str!("../../../wit/validator.wit"))?;
    let world = resolve.select_world(&[package], None)?;
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, wit_component::StringEncoding::UTF8)?;
    Ok(bytes)
}

/// A component instance that judges one event after another.
fn reuse(component: &[u8], data: &str) -> wasmtime::Result<impl FnMut() -> wasmtime::Result<Duration>> {
    let engine = Engine::new(Config::new().epoch_interruption(true).concurrency_support(false))?;
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(u64::MAX / 2);
    let component = Component::from_binary(&engine, component)?;
    let validator = contract::Validator::instantiate(&mut store, &component, &Linker::new(&engine))?;
    let data = data.to_owned();
    validator.call_describe(&mut store)?;
    Ok(move || {
        let began = cpu();
        for _ in 0..EVENTS {
            let event = contract::eye::validator::types::Event {
                id: "01900000-0000-7000-8000-000000000001",
                application: "web",
                session_id: "00000000-0000-0000-0000-000000000002",
                category: "as it is",
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
