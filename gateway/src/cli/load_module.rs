//! The command that a gateway starts to load a module file. It reads a job and the file from standard input, and writes
//! the finished code or a refusal to standard output. It reads no settings and gives up its rights.

use clap::Args;

use super::Failure;
use crate::config::parts;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The process that waits for the answer
    #[arg(long, value_name = "PID")]
    gateway: i32,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = eye_judge::run_loader(arguments.gateway, parts::check_amended);
    loaded.map_err(|why| Failure::Failed(anyhow::anyhow!("no module was loaded: {why}")))
}
