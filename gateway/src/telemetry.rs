//! Sets up the log: lines to standard error, for people or for programs. The gateway logs no content of events and no
//! token. Log lines may quote texts of others (file names, titles, causes), so this module makes one line of each log
//! event. No such text can forge a line, or move the cursor of a reader's terminal.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::OnceLock;
use std::time::Duration;

use eye_event::legible::{is_hidden, write_legible};
use tracing::Metadata;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::log_queue::LogQueue;
use crate::request_ids::RequestId;

/// The target of the access log's lines. They have a setting of their own, and pass at every level.
pub const ACCESS: &str = "eye::access";

/// Longest line for people. Lines for programs are not cut, since half a JSON object is useless.
const LINE_CHARACTERS_MAX: usize = 16_384;

/// The access log's queue. All other lines are written at once, since [`crate::log_limit`] bounds those that requests
/// cause.
static ACCESS_LINES: LogQueue = LogQueue::new();
/// Starts the thread that writes the queue, at its first line. The thread ends with the process.
static ACCESS_WRITER: OnceLock<()> = OnceLock::new();

/// The filter of the log, once it was started. A reload changes it.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Lines of JSON for programs.
    Json,
}

/// Starts the log. `access_bytes_max` bounds the queue of the access log. Later calls change nothing.
pub fn start(level: &str, format: LogFormat, access_bytes_max: usize) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer().with_target(false).with_ansi(false);
    let log = tracing_subscriber::registry().with(filter);
    let output = Output { format, access_bytes_max };
    let started = match format {
        LogFormat::Text => log.with(lines.with_writer(output)).try_init(),
        LogFormat::Json => log.with(lines.json().with_span_list(false).with_writer(output)).try_init(),
    };
    // A test that starts a second gateway has set the log up already. The first log serves both.
    if started.is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Changes the level of the log.
pub fn set_level(level: &str) {
    if let Some(filter) = FILTER.get() {
        // This fails only when the log is gone.
        let _ = filter.reload(targets(level));
    }
}

/// The lines of the access log that were dropped because its reader was too slow. The metrics read it.
pub fn access_lines_dropped() -> u64 {
    ACCESS_LINES.dropped()
}

/// Waits until the access log is written, at most for `longest`. The process ends after it.
pub fn flush(longest: Duration) {
    ACCESS_LINES.flush(longest);
}

fn targets(level: &str) -> Targets {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    // The driver returns its warnings and errors as errors, which are logged where they are handled.
    let driver = if level > LevelFilter::INFO { level } else { LevelFilter::OFF };
    Targets::new()
        .with_default(level)
        .with_target("sqlx", driver)
        // notify warns about each watched folder that is removed, which is normal.
        .with_target("notify", level.min(LevelFilter::ERROR))
        .with_target(ACCESS, LevelFilter::INFO)
}

/// The writers of the log.
struct Output {
    format: LogFormat,
    access_bytes_max: usize,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        Lines { format: self.format, queue_bytes_max: None }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Lines {
        let queue_bytes_max = (event.target() == ACCESS).then_some(self.access_bytes_max);
        Lines { format: self.format, queue_bytes_max }
    }
}

/// Standard error. Each log event is written as a whole and becomes one line.
struct Lines {
    format: LogFormat,
    /// The bound of the queue if this line goes through it; otherwise `None`.
    queue_bytes_max: Option<usize>,
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let characters_max = match self.format {
            LogFormat::Text => LINE_CHARACTERS_MAX,
            LogFormat::Json => usize::MAX,
        };
        let line = one_line(&text, characters_max);
        let line = match RequestId::current() {
            Some(id) => with_request_id(line, &id.to_string(), self.format),
            None => line,
        };
        match self.queue_bytes_max {
            Some(bytes_max) => {
                ACCESS_WRITER.get_or_init(|| {
                    std::thread::spawn(|| {
                        ACCESS_LINES.write_to(io::stderr());
                    });
                });
                ACCESS_LINES.push(line.as_bytes(), bytes_max);
            }
            // If standard error is closed, no channel is left for the error, and the gateway goes on.
            None => drop(io::stderr().write_all(line.as_bytes())),
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// Adds the id of the current request to a line, unless the line has it.
fn with_request_id<'a>(line: Cow<'a, str>, id: &str, format: LogFormat) -> Cow<'a, str> {
    let text = line.strip_suffix('\n').unwrap_or(&line);
    if text.contains(id) {
        return line;
    }
    match (format, text.strip_prefix('{')) {
        (LogFormat::Json, Some(rest)) => format!("{{\"request_id\":\"{id}\",{rest}\n").into(),
        _ => format!("{text} request_id={id}\n").into(),
    }
}

/// Makes one line of a log event, which ends with a line break. Most are one line already.
fn one_line(event: &str, characters_max: usize) -> Cow<'_, str> {
    let text = event.strip_suffix('\n').unwrap_or(event);
    if text.len() <= characters_max && !text.chars().any(is_hidden) {
        return Cow::Borrowed(event);
    }
    let mut line = String::with_capacity(text.len().min(characters_max) + 16);
    let mut characters = text.chars();
    for character in characters.by_ref().take(characters_max) {
        // Writing to a String cannot fail.
        let _ = write_legible(&mut line, character);
    }
    if characters.next().is_some() {
        line.push('…');
    }
    line.push('\n');
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_quotes() {
        let plain = "INFO the module is active file=Käse.wasm\n";
        assert!(matches!(one_line(plain, 100), Cow::Borrowed(line) if line == plain));
        let forged = "WARN refused: expected `x\n2026-11-29T00:00:00Z  INFO all is well` \u{1b}[1A\u{202e}\n";
        let line = one_line(forged, 1_000);
        assert_eq!(line, "WARN refused: expected `x\\n2026-11-29T00:00:00Z  INFO all is well` \\u001b[1A\\u202e\n");
        assert_eq!(one_line(&format!("{}\n", "x".repeat(1 << 20)), 10), "xxxxxxxxxx…\n");
        assert_eq!(one_line("no end", 10), "no end");
    }

    #[test]
    fn a_line_names_its_request_once() {
        let id = "5c3f0a91d2e4-8b1f6c0e92a7d354";
        let with = |line: &'static str, format| with_request_id(line.into(), id, format).into_owned();
        assert_eq!(with("WARN a read failed\n", LogFormat::Text), format!("WARN a read failed request_id={id}\n"));
        let line = with("{\"level\":\"WARN\"}\n", LogFormat::Json);
        assert_eq!(line, format!("{{\"request_id\":\"{id}\",\"level\":\"WARN\"}}\n"));
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(with_request_id(line.clone().into(), id, format), line);
        }
    }

    #[test]
    fn a_line_for_programs_stays_json() {
        let value = serde_json::json!({"fields": {"message": "two\nlines \u{2028}\u{e0041}"}});
        let event = format!("{value}\n");
        let line = one_line(&event, usize::MAX);
        assert!(line.trim_end().chars().all(|character| !is_hidden(character)), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), value);
    }
}
