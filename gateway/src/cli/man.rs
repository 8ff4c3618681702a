//! `eye man`: the manual pages. They have the texts of `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::NaiveDate;
use clap::Args;
use clap_mangen::Man;

use super::output::say;
use super::{Failure, shown_commands};

/// The last section of every page.
const EXIT_STATUS: &str = "\
.SH \"EXIT STATUS\"
0 for success, 1 for a failure, 64 for wrong usage or configuration.
";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Write the pages of all commands into this folder, a file for each, instead of printing the first
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The day that the pages bear, such as 2026-01-31
    #[arg(long, value_name = "DAY")]
    date: Option<NaiveDate>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut commands = shown_commands().disable_help_subcommand(true);
    commands.build();
    let date = arguments.date.map(|date| date.to_string()).unwrap_or_default();
    match &arguments.dir {
        None => Ok(say(page(commands, &date)?.1.trim_end())?),
        Some(dir) => Ok(fs::create_dir_all(dir)
            .map_err(anyhow::Error::from)
            .and_then(|()| write(commands, &date, dir))
            .with_context(|| dir.display().to_string())?),
    }
}

/// Writes the page of a command, and those of the commands below it.
fn write(command: clap::Command, date: &str, dir: &Path) -> anyhow::Result<()> {
    for below in command.get_subcommands() {
        write(below.clone(), date, dir)?;
    }
    let (name, page) = page(command, date)?;
    fs::write(dir.join(&name), page)?;
    say(name)
}

/// The file name and the text of a command's page.
fn page(command: clap::Command, date: &str) -> anyhow::Result<(String, String)> {
    let version = concat!("The Eye ", env!("CARGO_PKG_VERSION"));
    let title = command.get_display_name().unwrap_or("eye").to_uppercase();
    let man = Man::new(command).title(title).date(date).source(version).manual("The Eye");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let page = String::from_utf8(page)?;
    // The library writes no quotes for an empty date, and two line breaks in place of an empty line.
    let page = page.replacen(" 1  \"", " 1 \"\" \"", 1).replace("\n.br\n\n.br\n", "\n.sp\n");
    Ok((man.get_filename(), page + EXIT_STATUS))
}
