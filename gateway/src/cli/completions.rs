//! `eye completions`: the script with which a shell completes the commands of this program.

use clap::Args;
use clap_complete::Shell;

use super::output::say;
use super::{Failure, shown_commands};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut shown_commands(), "eye", &mut text);
    Ok(say(String::from_utf8_lossy(&text).trim_end())?)
}
