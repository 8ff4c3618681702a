//! Arguments to command, and the program's exit codes: 0, 1 when it failed, 64 for wrong usage or configuration.

use std::process::ExitCode;

use clap::Parser as _;
use eye::cli::{self, Cli, Failure};

/// Wrong usage or configuration, as sysexits.h has it.
const USAGE: u8 = 64;

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be told when even this cannot be written.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    if let Some(ended) = cli.run_alone() {
        return code(ended);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("eye: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = code(runtime.block_on(cli::run(cli)));
    // Work that a second signal left behind must not hold the program.
    runtime.shutdown_background();
    code
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn code(ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("eye: {failure}");
            match failure {
                Failure::Configuration(_) => ExitCode::from(USAGE),
                Failure::Failed(_) => ExitCode::FAILURE,
            }
        }
    }
}
