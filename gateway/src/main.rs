//! Runs the command that the arguments name. The program exits with 0, with 1 when the command failed, with 3 when it found
//! more than its caller allows, and with 64 for wrong usage or configuration.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use eye::cli::{Cli, Failure};

/// The exit code for wrong usage or configuration, `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;
/// The exit code of a command that found more than its caller allows.
const BEYOND: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // If standard error is closed, no channel is left for the message.
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
                Failure::Beyond(_) => ExitCode::from(BEYOND),
            }
        }
    }
}
