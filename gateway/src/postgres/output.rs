//! What the programs of Postgres print: read at once by a thread, so that none of them ever waits for the gateway; the last
//! lines are kept for errors, and the server's lines go to a log of a bounded size.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Error, FAMILY_TIME_MAX, io_error};

/// The log and the one before it each have this size at most.
pub(super) const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is kept in memory of a program's output, for error messages.
pub(super) const TAIL_LINES_MAX: usize = 8;

/// A longer line of output is cut into several.
pub(super) const LINE_BYTES_MAX: u64 = 2048;

/// Postgres has printed this when it accepts connections, in every version; `lc_messages` holds it to English.
pub(super) const READY_LINE: &str = "database system is ready to accept connections";

/// What a program prints: its last lines, and two events. Read by a thread of its own until the last process that holds
/// the other end is gone, so that no program ever waits for the gateway to read.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) tail: Arc<Mutex<VecDeque<String>>>,
    pub(super) ready: oneshot::Receiver<()>,
    pub(super) ended: oneshot::Receiver<()>,
}

impl Output {
    /// Starts to read from a new pipe, also into the log if there is one.
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
                    // Nobody waits for it a second time.
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

    /// The last lines so far, as one.
    pub(super) fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    /// Waits, but not long, for the end of the last process that prints here.
    pub(super) async fn end(&mut self) {
        // One that was told before must not be awaited again.
        if !self.ended.is_terminated() {
            let _ = timeout(FAMILY_TIME_MAX, &mut self.ended).await;
        }
    }

    /// The last lines once the program has ended.
    pub(super) async fn rest(&mut self) -> String {
        self.end().await;
        self.tail()
    }
}

/// The server's log: a file and the one before it, each of a bounded size.
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

    /// Appends. A full disk costs lines of the log, never the server that writes them.
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
