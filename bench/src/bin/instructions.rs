//! Instructions for each step of the hot path, counted by callgrind: parse one event, encode its row, answer. Judging asks
//! the system how long its thread ran once a call is slow, as every first call under callgrind is, and rustix reads that
//! clock from a page which valgrind hides; so it is timed, by processor time.
//! Counts do not depend on what else the machine does, so a change of a few in a hundred is seen. Each step runs twice,
//! the second time with as many more rounds as are counted, so that the start of the program falls out.
//! `make bench-instructions`

#[path = "../events.rs"]
#[expect(dead_code, reason = "the load needs more of it")]
mod events;
#[path = "../process.rs"]
#[expect(dead_code, reason = "the measurements need more of it")]
mod process;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use eye::response;
use eye::store::copy::{self, Ids};
use eye_event::envelope::{self, Event, Format, Parsed, Rules};
use eye_event::event::EventRow;
use eye_event::outcome::Outcome;
use eye_judge::{Limits, LoaderLimits, Loading, Options, SharedLimits, Subject, UnknownEventType, Validators};
use uuid::Uuid;

use events::{CATEGORY, Source};

const STEPS: [(&str, &str); 5] = [
    ("parse", "parse one event, alone in its request"),
    ("parse-many", "parse one event of 100 in a request"),
    ("encode", "encode one row"),
    ("answer", "answer one event, alone in its request"),
    ("answer-many", "answer one event of 100 in a request"),
];
const EVENTS_PER_REQUEST: usize = 100;
/// Rounds that fall out, and rounds that are counted.
const ROUNDS_BEFORE: usize = 200;
const ROUNDS: usize = 2_000;
/// Events judged for one time: processor time is told in hundredths of a second.
const JUDGED: usize = 1_000_000;
const RULES: Rules = Rules {
    data_bytes_max: 1 << 18,
    nesting_max: 64,
    number_digits_max: 1_000,
    future_us_max: 60_000_000,
    events_max: 10_000,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => count_all(),
        [step, rounds, folder] => run(step, rounds.parse()?, Path::new(folder)),
        _ => bail!("usage: instructions"),
    }
}

fn count_all() -> Result<()> {
    let folder = tempfile::tempdir_in("/var/tmp")?;
    println!("| step | instructions |\n|---|---|");
    for (step, words) in STEPS {
        let before = count(step, ROUNDS_BEFORE, folder.path())?;
        let with = count(step, ROUNDS_BEFORE + ROUNDS, folder.path())?;
        println!("| {words} | {} |", with.saturating_sub(before) / ROUNDS as u64);
    }
    let output = command(&[], "judge", JUDGED, folder.path())?.output()?;
    ensure!(output.status.success(), "judge: {}", String::from_utf8_lossy(&output.stderr));
    println!("| judge one event | {} ns |", String::from_utf8_lossy(&output.stdout).trim());
    Ok(())
}

fn command(before: &[&str], step: &str, rounds: usize, folder: &Path) -> Result<Command> {
    let own = std::env::current_exe()?;
    let mut command = match before {
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(own);
            command
        }
        [] => Command::new(own),
    };
    command.arg(step).arg(rounds.to_string()).arg(folder);
    Ok(command)
}

/// Instructions of a whole run.
fn count(step: &str, rounds: usize, folder: &Path) -> Result<u64> {
    let valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
    let output = command(&valgrind, step, rounds, folder)?.output().context("needs valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{step}: {text}");
    let line = text.lines().find_map(|line| line.split_once("Collected :")).context("a count")?;
    Ok(line.1.trim().parse()?)
}

fn run(step: &str, rounds: usize, folder: &Path) -> Result<()> {
    match step {
        "parse" => parse(rounds, 1),
        "parse-many" => parse(rounds, EVENTS_PER_REQUEST),
        "judge" => judge(rounds, folder),
        "encode" => encode(rounds),
        "answer" => {
            for number in 0..rounds {
                let id = Uuid::from_u128(number as u128);
                black_box(response::one(&black_box(Outcome::Stored { id }), false));
            }
            Ok(())
        }
        "answer-many" => {
            let outcome = |number| Outcome::Stored { id: Uuid::from_u128(number as u128) };
            let outcomes: Vec<Outcome> = (0..EVENTS_PER_REQUEST).map(outcome).collect();
            for _ in 0..rounds / EVENTS_PER_REQUEST {
                black_box(response::many(black_box(&outcomes), false));
            }
            Ok(())
        }
        _ => bail!("no step {step}"),
    }
}

/// One request, its time, and its events.
fn request(events_per_request: usize) -> (Bytes, i64) {
    let mut source = Source::new(events_per_request, 1);
    let mut request = Vec::new();
    let start = source.fill(&mut request);
    (Bytes::from(request).slice(start..), eye::clock::Clock::default().now_us())
}

fn event() -> Result<Event> {
    let (body, now_us) = request(1);
    match envelope::parse(&body, Format::Json, &RULES, now_us) {
        Ok(Parsed::One(Ok(event))) => Ok(event),
        other => bail!("{other:?}"),
    }
}

fn parse(rounds: usize, events_per_request: usize) -> Result<()> {
    let (body, now_us) = request(events_per_request);
    for _ in 0..rounds / events_per_request {
        let parsed = envelope::parse(black_box(&body), Format::Json, &RULES, now_us);
        ensure!(parsed.is_ok(), "{parsed:?}");
        black_box(&parsed);
    }
    Ok(())
}

fn encode(rounds: usize) -> Result<()> {
    let Event { id, session_id, category, name, timestamp_us, data, raw } = event()?;
    let row = EventRow {
        id,
        session_id,
        timestamp_us,
        received_at_us: timestamp_us,
        category,
        name,
        application_id: 1,
        module: None,
        data,
        raw,
        redriven: false,
    };
    let mut out = Vec::with_capacity(4096);
    for _ in 0..rounds {
        out.clear();
        copy::event(black_box(&row), Ids { event_type: 1, module: Some(1) }, &mut out);
        black_box(&out);
    }
    Ok(())
}

fn judge(rounds: usize, folder: &Path) -> Result<()> {
    let modules_dir = folder.join("modules");
    let module = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/modules").join(CATEGORY);
    std::fs::create_dir_all(modules_dir.join(CATEGORY))?;
    std::fs::copy(module.join("pageview.wasm"), modules_dir.join(CATEGORY).join("pageview.wasm"))
        .context("run `make modules`")?;
    let options = Options {
        modules_from: Default::default(),
        modules_dir,
        data_dir: folder.join("data"),
        unknown_event_type: UnknownEventType::Reject,
        required: eye_judge::Required::default(),
        is_beside_gateway: false,
        limits: Limits {
            // More, and the module is judged on another thread, which is not measured.
            deadline_ms: 100,
            memory_bytes_max: 64 << 20,
            output_bytes_max: 256 << 10,
            violations_max: 100,
        },
        deadline_ms_max: 100,
        shared: SharedLimits::default(),
        rescan: Duration::from_secs(3_600),
        check_amended: Arc::new(|data| envelope::check_data(data, &RULES)),
        observer: eye_judge::Observer::default(),
        loading: Loading {
            program: std::env::current_exe()?.with_file_name("eye"),
            limits: LoaderLimits::default(),
            rules: RULES,
        },
    };
    let event = event()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let validators = Validators::start(options)?;
        validators.wait_scanned().await;
        let before = process::processor_time(std::process::id())?;
        for _ in 0..rounds {
            let subject = Subject {
                id: event.id,
                application: "bench",
                session_id: event.session_id,
                category: &event.category,
                name: &event.name,
                timestamp_us: event.timestamp_us,
                received_at_us: event.timestamp_us,
                data: &event.data,
            };
            let judgement = validators.judge(black_box(subject)).await;
            ensure!(judgement.outcome == Ok(eye_event::verdict::Verdict::Accept), "{judgement:?}");
        }
        let took = process::processor_time(std::process::id())?.saturating_sub(before);
        println!("{}", took.as_nanos() / rounds as u128);
        validators.stop().await;
        Ok(())
    })
}
