//! The loader itself: a process that reads a job and a file from its standard input, compiles the file, and answers on
//! its standard output. A file that breaks the loader harms no other process.

use std::io::{Read, Write};

use eye_event::envelope::Rules;

use super::super::component::{Built, Program, SelfTest, Step, packed};
use super::super::contract::CheckAmended;
use super::super::engine::Sandbox;
use super::super::refusal::Refusal;
use super::super::resident::SchemaEngine;
use super::super::schema;
use super::confine;
use super::job::{Frame, JOB_BYTES_MAX, Job, Task, Told, seal};

/// Runs a loader to its end, for the gateway with this process id.
///
/// # Errors
///
/// Why it could not answer, in words for the gateway's log. The refusal of a file is an answer and no error.
pub fn run(gateway: i32, check_amended: impl FnOnce(Rules) -> CheckAmended) -> Result<(), String> {
    confine::begin(gateway)?;
    let mut input = std::io::stdin().lock();
    let job = read_job(&mut input)?;
    confine::bind(&job.bounds)?;
    let engine = match job.task {
        Task::Schema(bytes) => read_all(&mut input, bytes)?,
        Task::Module | Task::Engine => Vec::new(),
    };
    let bytes = read_all(&mut input, job.file_bytes)?;
    let check_amended = check_amended(job.rules);
    let stack_bytes = usize::try_from(job.bounds.stack_bytes).unwrap_or(usize::MAX);
    // This stack has a size of its own, whatever the limits of the process are.
    let work = std::thread::Builder::new().name("eye-load".into()).stack_size(stack_bytes);
    let work = work
        .spawn(move || answer(&job, &engine, &bytes, &check_amended))
        .map_err(|error| format!("no thread: {error}"))?;
    work.join().map_err(|_| "the loader panicked")?
}

fn read_all(input: &mut impl Read, bytes: u64) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let room = usize::try_from(bytes).map_err(|_| "a file that is too large")?;
    all.try_reserve_exact(room).map_err(|error| format!("no room for the file: {error}"))?;
    input.take(bytes).read_to_end(&mut all).map_err(|error| format!("the file was not read: {error}"))?;
    if all.len() < room { Err("the gateway ended in the middle of the file".into()) } else { Ok(all) }
}

fn read_job(input: &mut impl Read) -> Result<Job, String> {
    let broken = |error: std::io::Error| format!("the job was not read: {error}");
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(broken)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > JOB_BYTES_MAX {
        return Err("a job that is too long".into());
    }
    let mut job = vec![0; length];
    input.read_exact(&mut job).map_err(broken)?;
    postcard::from_bytes(&job).map_err(|error| format!("a job that is none: {error}"))
}

fn answer(job: &Job, engine: &[u8], bytes: &[u8], check_amended: &CheckAmended) -> Result<(), String> {
    let sandbox = Sandbox::for_loading().map_err(|error| error.to_string())?;
    // If this fails, the gateway has ended, and the answer below reports that.
    let begin = |step| drop(say(Frame::Step(step), &[]));
    match build(&sandbox, job, engine, bytes, check_amended, begin)? {
        Ok(built) => {
            let built = packed(&built).map_err(|error| format!("what was built: {error}"))?;
            say(Frame::Built, &[&seal(&built), &built])
        }
        Err(refusal) => refuse(refusal),
    }
}

/// Does the task of a job.
pub(super) fn build(
    sandbox: &Sandbox,
    job: &Job,
    engine: &[u8],
    bytes: &[u8],
    check_amended: &CheckAmended,
    begin: impl Fn(Step),
) -> Result<Result<Built, Refusal>, String> {
    let Job { limits, category, name, bounds, lists_examples, .. } = job;
    let lists_examples = *lists_examples;
    let trial = SelfTest { limits, check_amended, category, name, time: bounds.self_test, lists_examples };
    match job.task {
        Task::Module => Ok(Program::build(sandbox, bytes, &trial, begin)),
        Task::Engine => {
            begin(Step::Compiling);
            Ok(schema::engine().and_then(|engine| Program::build_engine(sandbox, engine)))
        }
        Task::Schema(_) => {
            let engine = postcard::from_bytes(engine).map_err(|error| format!("an engine that is none: {error}"))?;
            let engine = SchemaEngine::open(sandbox, &engine).map_err(|error| format!("the engine: {error:#}"))?;
            Ok(Program::build_schema(sandbox, &engine, bytes, &trial, begin))
        }
    }
}

fn refuse(refusal: Refusal) -> Result<(), String> {
    let told = postcard::to_allocvec(&Told::from(refusal)).map_err(|error| format!("the refusal: {error}"))?;
    say(Frame::Refused, &[&told])
}

fn say(frame: Frame, parts: &[&[u8]]) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    let head = frame.head(parts.iter().map(|part| part.len()).sum());
    let mut write = || {
        output.write_all(&head)?;
        parts.iter().try_for_each(|part| output.write_all(part))?;
        output.flush()
    };
    write().map_err(|error| format!("the gateway does not listen: {error}"))
}
