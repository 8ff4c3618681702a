//! How the author's commands look on a terminal: colors where they are wanted, lines as wide as it is, and a sign of life
//! for what takes longer than a second. Output that goes elsewhere is plain.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::terminal;

/// Columns of output that goes to no terminal, or to one that does not say how wide it is.
const COLUMNS: usize = 100;

/// The time after which a step says that it goes on, and between two such signs.
const PATIENCE: Duration = Duration::from_secs(1);

/// The look of standard output.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    has_colors: bool,
    columns: usize,
}

impl Look {
    /// That of standard output.
    pub(super) fn of_output() -> Self {
        let output = std::io::stdout();
        let is_terminal = output.is_terminal();
        let size = rustix::termios::tcgetwinsize(&output).ok().map(|size| usize::from(size.ws_col));
        let columns = terminal::columns().or(size).filter(|columns| *columns > 20).unwrap_or(COLUMNS);
        Self { has_colors: is_terminal && terminal::may_color(), columns }
    }

    /// A text that says that something is right.
    pub(super) fn good(self, text: &str) -> String {
        self.painted("32", text)
    }

    /// A text that says that something is wrong.
    pub(super) fn bad(self, text: &str) -> String {
        self.painted("31", text)
    }

    /// A title.
    pub(super) fn strong(self, text: &str) -> String {
        self.painted("1", text)
    }

    fn painted(self, color: &str, text: &str) -> String {
        if self.has_colors { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A paragraph after a label, broken at spaces. Words that are longer than a line stay whole.
    pub(super) fn paragraph(self, label: &str, text: &str) -> String {
        let indent = " ".repeat(label.chars().count());
        let mut lines = Vec::new();
        for given in text.split('\n') {
            let mut line = String::new();
            for word in given.split(' ') {
                let width = indent.len() + line.chars().count() + 1 + word.chars().count();
                if !line.is_empty() && width > self.columns {
                    lines.push(std::mem::take(&mut line));
                }
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            lines.push(line);
        }
        let lines = lines.iter().enumerate();
        lines
            .map(|(at, line)| format!("{}{line}", if at == 0 { label } else { &indent }))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Says on a terminal every second that a step goes on, until it is dropped.
pub(super) struct Progress {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Begins a step.
    pub(super) fn of(what: impl Into<String>) -> Self {
        let what = what.into();
        if !std::io::stderr().is_terminal() {
            return Self { stop: None, thread: None };
        }
        let (stop, stopped) = sync_channel::<()>(0);
        let began = Instant::now();
        let thread = std::thread::Builder::new().name("eye-progress".into()).spawn(move || {
            let mut said = false;
            // If standard error is closed, nobody waits for the sign.
            while stopped.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = write!(std::io::stderr(), "\r\x1b[K{what} ({} s)", began.elapsed().as_secs());
                said = true;
            }
            if said {
                let _ = write!(std::io::stderr(), "\r\x1b[K");
            }
        });
        Self { stop: Some(stop), thread: thread.ok() }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only writes, and has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// Bytes for people.
pub(super) fn bytes(count: usize) -> String {
    match count {
        0..10_240 => format!("{count} bytes"),
        10_240..10_485_760 => format!("{} KiB", count.div_ceil(1 << 10)),
        _ => format!("{} MiB", count.div_ceil(1 << 20)),
    }
}

/// A time for people.
pub(super) fn time(time: Duration) -> String {
    let micros = time.as_nanos() as f64 / 1_000.0;
    match micros {
        0.0..10.0 => format!("{micros:.1} us"),
        10.0..10_000.0 => format!("{micros:.0} us"),
        10_000.0..10_000_000.0 => format!("{:.0} ms", micros / 1_000.0),
        _ => format!("{:.1} s", micros / 1_000_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_fit_and_long_words_stay_whole() {
        let look = Look { has_colors: false, columns: 30 };
        let text = "one two three four five six seven https://a.example/a/very/long/address/indeed end";
        assert_eq!(
            look.paragraph("  found  ", text),
            "  found  one two three four\n         five six seven\n         https://a.example/a/very/long/address/indeed\n         end"
        );
        assert_eq!(look.bad("x"), "x");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([bytes(12), bytes(20_480), bytes(64 << 20)], ["12 bytes", "20 KiB", "64 MiB"]);
        let shown = [1_500, 250_000, 42_000_000, 12_000_000_000].map(|nanos| time(Duration::from_nanos(nanos)));
        assert_eq!(shown, ["1.5 us", "250 us", "42 ms", "12.0 s"]);
    }
}
