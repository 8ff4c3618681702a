//! The log's set-up: lines to standard error, for people or for programs. Nothing of an event and no token is ever logged.
//! What is logged may quote what others wrote (names of files, titles, causes), so each event is made one line here, whatever is
//! in it: nobody can write a line of the log, or move the cursor of who reads it.

use std::borrow::Cow;
use std::io::{self, Write};

use eye_event::legible::{is_hidden, write_legible};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Longest line for people. Programs get theirs whole, since half a JSON object is none.
const LINE_CHARACTERS_MAX: usize = 16_384;

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Lines of JSON for programs.
    Json,
}

/// Starts the log. Later calls change nothing.
pub fn start(level: &str, format: LogFormat) {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    // What the driver warns of comes back as an error, and is logged where it is handled, once.
    let driver = if level > LevelFilter::INFO { level } else { LevelFilter::OFF };
    let targets = Targets::new().with_default(level).with_target("sqlx", driver);
    // It warns of each watched folder that is removed, since the system ends such a watch by itself.
    let targets = targets.with_target("notify", level.min(LevelFilter::ERROR));
    let lines = fmt::layer().with_target(false).with_ansi(false);
    let log = tracing_subscriber::registry().with(targets);
    // Set up already in a test that starts a second gateway: the first log serves both.
    let _ = match format {
        LogFormat::Text => log.with(lines.with_writer(|| Lines { characters_max: LINE_CHARACTERS_MAX })).try_init(),
        LogFormat::Json => log.with(lines.json().with_writer(|| Lines { characters_max: usize::MAX })).try_init(),
    };
}

/// Standard error, to which each event is written as a whole and becomes one line.
struct Lines {
    characters_max: usize,
}

impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = one_line(&text, self.characters_max);
        // Nothing can be told when even this cannot be written, as when whoever read the log has gone; the gateway goes on.
        let _ = io::stderr().write_all(line.as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

/// The text of an event, which ends with a line end, as one line. Most are one already.
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
    fn a_line_for_programs_stays_json() {
        let value = serde_json::json!({"fields": {"message": "two\nlines \u{2028}\u{e0041}"}});
        let event = format!("{value}\n");
        let line = one_line(&event, usize::MAX);
        assert!(line.trim_end().chars().all(|character| !is_hidden(character)), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON"), value);
    }
}
