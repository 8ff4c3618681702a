//! Queues the lines of the access log on their way to standard error, so that a slow reader of the log does not delay
//! requests. The queue is bounded in bytes; it drops and counts the lines that find no room.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::log_limit::LogLimit;

/// The lines that wait for the writer. Requests push them.
#[derive(Debug, Default)]
pub(crate) struct LogQueue {
    state: Mutex<State>,
    /// Notified when lines arrive, and when the writer has written all of them.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// The writer has taken lines that it has not written yet.
    is_writing: bool,
}

impl LogQueue {
    pub(crate) const fn new() -> Self {
        let state = State { waiting: Vec::new(), is_writing: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), dropped: AtomicU64::new(0) }
    }

    /// The number of lines that found no room. The metrics read it.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Adds a line, unless more than `bytes_max` would wait.
    pub(crate) fn push(&self, line: &[u8], bytes_max: usize) {
        let mut state = self.lock();
        if line.len() > bytes_max.saturating_sub(state.waiting.len()) {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        // A writer that is writing checks the queue again afterwards.
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Writes lines to `out` forever, on a thread of its own.
    pub(crate) fn write_to(&self, mut out: impl Write) -> ! {
        static TOLD: LogLimit = LogLimit::new();
        let (mut lines, mut told) = (Vec::new(), 0);
        loop {
            self.next(&mut lines);
            // If the log cannot be written, no channel is left for the error.
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            let dropped = self.dropped();
            if dropped > told && TOLD.open().is_some() {
                tracing::warn!(lines = dropped - told, "lines of the access log were left out: its reader is too slow");
                told = dropped;
            }
        }
    }

    /// Waits for lines and takes all of them. `lines` becomes the buffer for the next ones.
    fn next(&self, lines: &mut Vec<u8>) {
        lines.clear();
        let mut state = self.lock();
        state.is_writing = false;
        if state.waiting.is_empty() {
            self.changed.notify_all();
        }
        while state.waiting.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_writing = true;
        std::mem::swap(&mut state.waiting, lines);
    }

    /// Waits until all lines are written, at most for `longest`.
    pub(crate) fn flush(&self, longest: Duration) {
        let is_left = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // The process ends, so the lines that are left are lost.
        drop(self.changed.wait_timeout_while(self.lock(), longest, is_left));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// A writer that writes only when the test allows it.
    struct Slow {
        may_write: Receiver<()>,
        written: SyncSender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.may_write.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_holds_up_nobody_and_lines_without_room_are_counted() {
        let queue: &'static LogQueue = Box::leak(Box::default());
        let (let_it, may_write) = sync_channel(10);
        let (written, lines) = sync_channel(10);
        std::thread::spawn(move || queue.write_to(Slow { may_write, written }));
        queue.push(b"first\n", 12);
        // Waits until the writer has taken the line. It cannot write the line yet.
        while !queue.lock().waiting.is_empty() {
            std::thread::yield_now();
        }
        for line in [b"one..\n", b"two..\n", b"three\n"] {
            queue.push(line, 12);
        }
        assert_eq!(queue.dropped(), 1);
        queue.flush(Duration::ZERO);
        for _ in 0..2 {
            let_it.send(()).expect("the writer waits");
        }
        assert_eq!([lines.recv(), lines.recv()], [Ok(b"first\n".to_vec()), Ok(b"one..\ntwo..\n".to_vec())]);
        queue.flush(Duration::from_secs(60));
        assert!(!queue.lock().is_writing, "all is written");
        queue.push(b"there is no room for a line that is longer\n", 12);
        assert_eq!(queue.dropped(), 2);
    }
}
