//! Arguments to command, and the program's exit codes: 0, 1 when it failed, 64 for wrong usage or configuration.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use eye::cli::{Cli, Failure};

/// Wrong usage or configuration, as sysexits.h has it.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be told when even this cannot be written.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "eye: {failure}");
            match failure {
                Failure::Configuration(_) => ExitCode::from(USAGE),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}
