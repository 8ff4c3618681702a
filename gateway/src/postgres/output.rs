//! Reads the output of the programs of Postgres on a thread of its own, so that none of them waits for the gateway.
//! Keeps the last lines for errors, and writes the server's lines to a log of bounded size.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Error, FAMILY_TIME_MAX, io_error};

/// Most bytes of the log, and of the log before it.
pub(super) const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Most lines of a program's output that are kept for error messages.
pub(super) const TAIL_LINES_MAX: usize = 8;

/// Longest line. Longer output becomes several lines.
pub(super) const LINE_BYTES_MAX: u64 = 2048;

/// Every version of Postgres prints this when it accepts connections. `lc_messages` keeps it in English.
pub(super) const READY_LINE: &str = "database system is ready to accept connections";

/// The output of a program: its last lines, and two events. A thread reads it until the last process that holds the
/// other end has ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) tail: Arc<Mutex<VecDeque<String>>>,
    pub(super) ready: oneshot::Receiver<()>,
    pub(super) ended: oneshot::Receiver<()>,
}

impl Output {
    /// Starts to read a new pipe. With `log` its lines also go there.
    pub(super) fn collect(log: Option<Arc<Mutex<Log>>>) -> io::Result<(PipeWriter, Output)> {
        let (reader, writer) = io::pipe()?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES_MAX)));
        let (ready_tx, ready) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let output = Output { tail: tail.clone(), ready, ended };
        std::thread::Builder::new().name("postgres-output".to_owned()).spawn(move || {
            let mut ready_tx = Some(ready_tx);
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if let Some(log) = &log {
                    log.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
                }
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.contains(READY_LINE) {
                    // The receiver gets the event once. Later lines of this kind have no receiver.
                    let _ = ready_tx.take().map(|tx| tx.send(()));
                }
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.len() == TAIL_LINES_MAX {
                    tail.pop_front();
                }
                tail.push_back(text);
                line.clear();
            }
            let _ = ended_tx.send(());
        })?;
        Ok((writer, output))
    }

    /// The last lines so far, joined.
    pub(super) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    /// Waits briefly for the end of the last process that writes to this pipe.
    pub(super) async fn end(&mut self) {
        // A receiver that has returned must not be polled again.
        if !self.ended.is_terminated() {
            let _ = timeout(FAMILY_TIME_MAX, &mut self.ended).await;
        }
    }

    /// The last lines, after the program has ended.
    pub(super) async fn rest(&mut self) -> String {
        self.end().await;
        self.tail()
    }
}

/// The server's log: the current file and the one before it, both of bounded size.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

impl Log {
    pub(super) fn open(path: PathBuf) -> Result<Log, Error> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = opened.map_err(io_error("open", &path))?;
        let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        Ok(Log { path, file, bytes })
    }

    /// Appends a line. On a full disk the log loses lines, and the server that writes them goes on.
    pub(super) fn write(&mut self, line: &[u8]) {
        if self.bytes + line.len() as u64 > LOG_BYTES_MAX {
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
            if let Ok(next) = Log::open(self.path.clone()) {
                *self = next;
            }
        }
        if self.file.write_all(line).is_ok() {
            self.bytes += line.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_keeps_two_files_of_a_bounded_size() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("postgres.log");
        let mut log = Log::open(path.clone()).expect("a log");
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..20 {
            log.write(&line);
        }
        let bytes = |path: &std::path::Path| fs::metadata(path).expect("a file").len();
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 2);
        assert!(bytes(&path) <= LOG_BYTES_MAX && bytes(&path.with_extension("log.1")) <= LOG_BYTES_MAX);
    }
}
