//! Prints the output of commands. A reader such as `head` may close the pipe early; the command then ends quietly.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::Context as _;
use eye_judge::Refusal;

/// The reader of the output has closed the pipe.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has closed it")]
pub(super) struct ClosedPipe;

/// Writes a line to standard output.
///
/// # Errors
///
/// [`ClosedPipe`], which ends the command; or the error of the write.
pub(super) fn say(line: impl Display) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        written => written.context("the output cannot be written"),
    }
}

/// A refusal on lines of its own.
pub(super) fn refusal_lines(refusal: &Refusal) -> String {
    let Refusal { expected, found, mend, .. } = refusal;
    format!("  expected  {expected}\n  found     {found}\n  mend      {mend}")
}

/// Writes a line to standard error. If that is closed, no channel is left for the error.
pub(super) fn warn(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
