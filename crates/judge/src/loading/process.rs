//! A loader as the gateway sees it: a child process. The gateway gives it a job, reads its answer, measures it, and
//! kills it when it exceeds a bound or the gateway stops. The gateway always waits for its end, so that no child is
//! left behind.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use eye_event::legible::legible;

use super::super::component::{Built, Step};
use super::super::refusal::Refusal;
use super::LOADER_COMMAND;
use super::job::{Bound, FRAME_HEAD, Frame, Job, Told, Usage, seal};

/// The time between two measurements of a loader.
const LOOK: Duration = Duration::from_millis(10);

/// Bytes of a loader's standard error that are kept for the log.
const LAST_WORDS_BYTES: usize = 4 << 10;

/// How a loader ended.
pub(super) enum Ended {
    /// It answered.
    Built(Built),
    Refused(Refusal),
    /// It exceeded a bound, and the gateway killed it.
    Over(Bound, Usage),
    /// It ended by itself without an answer. The text says how.
    Crashed(String, Usage),
    /// Another process killed it, or the machine did because it had no memory left.
    Killed,
    /// The gateway stops, or the result is not needed any more.
    Stopped,
    /// It could not be started.
    Unstarted(std::io::Error),
}

/// A child process. Dropping it kills the child and waits for its end.
struct Leash(Child);

impl Drop for Leash {
    fn drop(&mut self) {
        // A child that has ended already makes this fail, which does no harm.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

/// Messages of the threads that read a loader's pipes.
enum Heard {
    Step(Step),
    Answer(Frame, Vec<u8>),
    /// It sent more than it may, or bytes that no loader sends.
    Flood,
    Nonsense,
    /// Its output ended.
    Closed,
}

/// Runs `program` to load a file. Calls `begin` at each step.
pub(super) fn load(
    program: &Path,
    job: &Job,
    (engine, file): (&[u8], &[u8]),
    stops: impl Fn() -> bool,
    begin: impl Fn(Step),
) -> Ended {
    let mut command = Command::new(program);
    command.arg(LOADER_COMMAND).arg("--gateway").arg(std::process::id().to_string());
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt as _;
        // A Ctrl-C is meant for the gateway, which ends its loaders when it stops.
        command.arg0("eye-loader").process_group(0);
    }
    let mut leash = match command.spawn() {
        Ok(child) => Leash(child),
        Err(error) => return Ended::Unstarted(error),
    };
    let child = &mut leash.0;
    let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are piped")
    };
    let head = postcard::to_allocvec(job).expect("a job is plain data");
    std::thread::scope(|scope| {
        let (told, heard) = sync_channel(16);
        let threads = [
            std::thread::Builder::new()
                .name("eye-load-in".into())
                .spawn_scoped(scope, move || give(input, &head, engine, file)),
            std::thread::Builder::new()
                .name("eye-load-out".into())
                .spawn_scoped(scope, move || listen(output, job.bounds.answer_bytes, &told)),
        ];
        let words =
            std::thread::Builder::new().name("eye-load-err".into()).spawn_scoped(scope, move || last_words(errors));
        match (threads.into_iter().find_map(Result::err), words) {
            (None, Ok(words)) => {
                let mut used = Usage::default();
                let outcome = watch(child, job, &heard, &mut used, stops, begin);
                tracing::debug!(
                    category = job.category,
                    name = job.name,
                    memory_mib = used.memory_bytes >> 20,
                    processor_ms = used.processor.as_millis(),
                    waited_ms = used.waited.as_millis(),
                    wall_ms = used.wall.as_millis(),
                    "a loader is at an end"
                );
                // The threads end with their pipes.
                let _ended = child.kill();
                let _waited = child.wait();
                // A full channel would keep the thread that sends from ending.
                drop(heard);
                match (outcome, words.join()) {
                    (Ended::Crashed(how, used), Ok(words)) => crashed(&how, &words, used, job),
                    (outcome, _) => outcome,
                }
            }
            (Some(error), _) | (_, Err(error)) => {
                let _ended = child.kill();
                Ended::Unstarted(error)
            }
        }
    })
}

/// Writes the job, the engine if the file is a schema, and the file. A loader that ends early does not read all of it; its answer or its end says why.
fn give(mut input: ChildStdin, head: &[u8], engine: &[u8], file: &[u8]) {
    let length = u32::try_from(head.len()).expect("a job is short").to_le_bytes();
    let _read = [&length, head, engine, file].into_iter().try_for_each(|part| input.write_all(part));
}

fn listen(mut output: ChildStdout, answer_bytes: u64, told: &SyncSender<Heard>) {
    let heard = loop {
        let mut head = [0; FRAME_HEAD];
        if output.read_exact(&mut head).is_err() {
            break Heard::Closed;
        }
        match Frame::read(head) {
            None => break Heard::Nonsense,
            Some((Frame::Step(step), 0)) => {
                if told.send(Heard::Step(step)).is_err() {
                    return;
                }
            }
            Some((Frame::Step(_), _)) => break Heard::Nonsense,
            Some((_, bytes)) if bytes > answer_bytes => break Heard::Flood,
            Some((frame, bytes)) => {
                let mut answer = Vec::new();
                match output.take(bytes).read_to_end(&mut answer) {
                    Ok(read) if read as u64 == bytes => break Heard::Answer(frame, answer),
                    _ => break Heard::Closed,
                }
            }
        }
    };
    // The reader may be gone already: it has its answer.
    let _told = told.send(heard);
}

/// Returns the beginning of a loader's standard error. It reads and drops the rest, so that the loader never waits.
fn last_words(mut errors: ChildStderr) -> String {
    let mut words = Vec::new();
    let _kept = errors.by_ref().take(LAST_WORDS_BYTES as u64).read_to_end(&mut words);
    let _dropped = std::io::copy(&mut errors, &mut std::io::sink());
    String::from_utf8_lossy(&words).into_owned()
}

/// Reads a loader's messages and measures it until it ends. The loader may still run when this returns.
fn watch(
    child: &mut Child,
    job: &Job,
    heard: &Receiver<Heard>,
    used: &mut Usage,
    stops: impl Fn() -> bool,
    begin: impl Fn(Step),
) -> Ended {
    let began = Instant::now();
    let mut closed = false;
    loop {
        let news = if closed {
            std::thread::sleep(LOOK);
            Err(RecvTimeoutError::Timeout)
        } else {
            heard.recv_timeout(LOOK)
        };
        used.wall = began.elapsed();
        measure(child.id(), used);
        if stops() {
            return Ended::Stopped;
        }
        match news {
            Ok(Heard::Step(step)) => begin(step),
            Ok(Heard::Answer(frame, answer)) => return read_answer(frame, &answer, *used),
            Ok(Heard::Flood) => return Ended::Over(Bound::Answer, *used),
            Ok(Heard::Nonsense) => return Ended::Crashed("it said what no loader says".into(), *used),
            Ok(Heard::Closed) | Err(RecvTimeoutError::Disconnected) => closed = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(bound) = over(job, used) {
            return Ended::Over(bound, *used);
        }
        match child.try_wait() {
            // Its last message may still be on its way, so this waits until the pipe is closed.
            Ok(Some(status)) if closed => return ended(status, *used),
            Ok(_) => {}
            Err(error) => return Ended::Unstarted(error),
        }
    }
}

fn read_answer(frame: Frame, answer: &[u8], used: Usage) -> Ended {
    let nonsense = || Ended::Crashed("its answer cannot be read".into(), used);
    match frame {
        Frame::Refused => {
            postcard::from_bytes::<Told>(answer).map_or_else(|_| nonsense(), |it| Ended::Refused(it.into()))
        }
        Frame::Built => {
            let Some((digest, built)) = answer.split_first_chunk() else { return nonsense() };
            if seal(built) != *digest {
                return Ended::Crashed("its answer does not fit its seal".into(), used);
            }
            postcard::from_bytes(built).map_or_else(|_| nonsense(), Ended::Built)
        }
        Frame::Step(_) => nonsense(),
    }
}

fn over(job: &Job, used: &Usage) -> Option<Bound> {
    let bounds = &job.bounds;
    if used.memory_bytes > bounds.memory_bytes {
        Some(Bound::Memory)
    } else if used.processor > bounds.processor {
        Some(Bound::Processor)
    } else if used.wall.saturating_sub(used.waited) > bounds.wall {
        Some(Bound::Wall)
    } else {
        None
    }
}

/// How a loader ended that is gone without an answer.
#[cfg(unix)]
fn ended(status: ExitStatus, used: Usage) -> Ended {
    use std::os::unix::process::ExitStatusExt as _;
    match status.signal().map(rustix::process::Signal::from_named_raw) {
        Some(Some(rustix::process::Signal::KILL)) => Ended::Killed,
        Some(Some(rustix::process::Signal::XCPU)) => Ended::Over(Bound::Processor, used),
        _ => Ended::Crashed(status.to_string(), used),
    }
}

#[cfg(not(unix))]
fn ended(status: ExitStatus, used: Usage) -> Ended {
    Ended::Crashed(status.to_string(), used)
}

/// Names a crash by the loader's last words: two of the bounds end a loader in a way that looks like a crash.
fn crashed(how: &str, words: &str, used: Usage, job: &Job) -> Ended {
    tracing::warn!(category = job.category, name = job.name, "a loader crashed ({how}): {}", legible(words, 1_000));
    if words.contains("has overflowed its stack") {
        return Ended::Over(Bound::Stack, used);
    }
    if words.contains("memory allocation of ") {
        return Ended::Over(Bound::Memory, used);
    }
    let last = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("no last words");
    Ended::Crashed(format!("{how}: {}", legible(last, 200)), used)
}

/// Updates what a loader has used. A value that cannot be read stays as it was; then the bounds that the loader set
/// itself hold.
#[cfg(target_os = "linux")]
fn measure(pid: u32, used: &mut Usage) {
    if let Some(bytes) = std::fs::read_to_string(format!("/proc/{pid}/status")).ok().as_deref().and_then(peak_bytes) {
        used.memory_bytes = used.memory_bytes.max(bytes);
    }
    if let Some(ran) = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref().and_then(ran) {
        used.processor = used.processor.max(ran);
    }
    // The thread that works waits the longest; the other threads wait at the same time.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let waited =
        threads.filter_map(|thread| waited(&std::fs::read_to_string(thread.path().join("schedstat")).ok()?)).max();
    used.waited = used.waited.max(waited.unwrap_or_default());
}

/// How long a thread was ready to run and had no processor, from its `schedstat`.
#[cfg(target_os = "linux")]
fn waited(schedstat: &str) -> Option<Duration> {
    Some(Duration::from_nanos(schedstat.split_ascii_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(not(target_os = "linux"))]
fn measure(_: u32, _: &mut Usage) {}

/// The most memory that a process ever had, from its `status`.
#[cfg(target_os = "linux")]
fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How long a process has run, from its `stat`. The name stands there in parentheses and may contain anything.
#[cfg(target_os = "linux")]
fn ran(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks.saturating_mul(1_000) / rustix::param::clock_ticks_per_second().max(1)))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::super::super::settings::Limits;
    use super::super::job::{Bounds, LoaderLimits, Task};
    use super::*;
    use eye_event::envelope::Rules;

    fn bounds() -> Bounds {
        Bounds {
            processor: Duration::from_millis(300),
            wall: Duration::from_secs(60),
            ..LoaderLimits::default().of(10, &Limits::default(), true)
        }
    }

    /// What becomes of a loader that is this shell script instead.
    fn load_by(script: &str, bounds: Bounds, stops: impl Fn() -> bool) -> Ended {
        let folder = tempfile::tempdir().expect("a folder");
        let program: PathBuf = folder.path().join("loader");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let rules = Rules { data_bytes_max: 1, nesting_max: 1, future_us_max: 1, events_max: 1, number_digits_max: 1 };
        let job = Job {
            task: Task::Module,
            file_bytes: 10,
            limits: Limits::default(),
            rules,
            category: "a".into(),
            name: "b".into(),
            bounds,
            lists_examples: false,
        };
        load(&program, &job, (b"", b"0123456789"), stops, |_| {})
    }

    fn crash_of(script: &str) -> String {
        match load_by(script, bounds(), || false) {
            Ended::Crashed(how, _) => how,
            _ => panic!("{script} ends in another way"),
        }
    }

    #[test]
    fn a_loader_that_floods_its_pipes_stops_or_lies_is_ended_and_told() {
        assert!(crash_of("while :; do echo y; done").contains("what no loader says"));
        assert!(crash_of("exit 0").contains("exit status: 0"));
        assert!(crash_of("echo oh no >&2; exit 3").contains("oh no"));
        // A frame with code whose seal is zeros.
        assert!(crash_of(r"printf '\003\041\0\0\0\0\0\0\0%033d' 0").contains("seal"));
        let over = |script: &str, bounds: Bounds| match load_by(script, bounds, || false) {
            Ended::Over(bound, used) => (bound, used),
            Ended::Crashed(how, _) => panic!("{script}: {how}"),
            _ => panic!("{script} ends in another way"),
        };
        let (bound, used) = over("while :; do echo y >&2; done", bounds());
        assert!(bound == Bound::Processor && used.processor > Duration::from_millis(300), "{bound:?} {used:?}");
        assert_eq!(over(r"printf '\003\0\0\0\0\0\0\0\001'", bounds()).0, Bound::Answer);
        let short = Bounds { wall: Duration::from_millis(200), ..bounds() };
        assert_eq!(over("kill -STOP $$", short).0, Bound::Wall);
        assert_eq!(
            over("read -r _; echo 'thread has overflowed its stack' >&2; kill -ABRT $$", bounds()).0,
            Bound::Stack
        );
        assert!(matches!(load_by("kill -KILL $$", bounds(), || false), Ended::Killed));
        assert!(matches!(load_by("while :; do :; done", bounds(), || true), Ended::Stopped));
    }

    #[test]
    fn a_program_that_is_not_there_is_no_fault_of_the_file() {
        let rules = Rules { data_bytes_max: 1, nesting_max: 1, future_us_max: 1, events_max: 1, number_digits_max: 1 };
        let (limits, bounds) = (Limits::default(), bounds());
        let job = Job {
            task: Task::Module,
            file_bytes: 0,
            limits,
            rules,
            category: String::new(),
            name: String::new(),
            bounds,
            lists_examples: false,
        };
        let ended = load(Path::new("/nowhere/eye"), &job, (b"", b""), || false, |_| {});
        assert!(matches!(ended, Ended::Unstarted(_)));
    }
}
