//! What commands print. Whoever reads it may close the pipe when it has enough, as `head` does; then the command ends, and
//! nobody is told of it.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::Context as _;

/// Whoever read the output has gone.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub(super) struct ClosedPipe;

/// Writes a line to standard output.
///
/// # Errors
///
/// [`ClosedPipe`], which ends a command; or why else it cannot be written.
pub(super) fn say(line: impl Display) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ClosedPipe.into()),
        written => written.context("the output cannot be written"),
    }
}

/// Writes a line to standard error. Nothing can be told when even that cannot be written.
pub(super) fn warn(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}
