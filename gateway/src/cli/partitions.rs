//! `eye partitions`: lists the partitions of the database, with the planner's estimate of their rows and their bytes on
//! disk.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;

use super::output::say;
use super::reach::Database;
use super::{Failure, Source};
use crate::store::Partition;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the partitions: name, first moment, first moment after, rows (an estimate), bytes
    List(Source),
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::List(source) = command;
    let (settings, config) = source.gather(Vec::new())?;
    let database = Database::find_proved(&settings, &config).await?;
    let partitions = database.store().partitions().await;
    database.close().await;
    for partition in partitions.map_err(anyhow::Error::from)? {
        say(line(&partition))?;
    }
    Ok(())
}

fn line(partition: &Partition) -> String {
    let time = |time: Option<DateTime<Utc>>| {
        time.map_or_else(|| "-".to_owned(), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
    };
    let rows = partition.rows_estimate.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
    format!(
        "{}\t{}\t{}\trows {rows}\tbytes {}",
        partition.name,
        time(partition.first),
        time(partition.end),
        partition.bytes
    )
}
