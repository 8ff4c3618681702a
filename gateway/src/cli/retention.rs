//! `eye retention`: shows the removals that retention has announced, and confirms them. Retention announces a removal
//! when much more is due than since the last round: after a clock that jumped, a mistyped setting, or a gateway that
//! was away.

use clap::Subcommand;

use super::output::say;
use super::reach::Database;
use super::{Failure, Source};
use crate::retention::due::{Announcement, NOTICE, Rule};
use crate::store::Store;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show the announced removals: the rule, its setting, since when, and the hours that are left
    Show(Source),
    /// Confirm all announced removals, so that the next round makes them
    Confirm(Source),
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let (Command::Show(source) | Command::Confirm(source)) = &command;
    let (settings, config) = source.gather(Vec::new())?;
    let database = Database::find_proved(&settings, &config).await?;
    let done = work(database.store(), &command).await;
    database.close().await;
    Ok(done?)
}

async fn work(store: &Store, command: &Command) -> anyhow::Result<()> {
    let announced = store.announced().await?;
    if announced.is_empty() {
        say("nothing is announced")?;
    }
    for (rule, announcement) in announced {
        let line = line(rule, &announcement);
        match command {
            Command::Show(_) => say(line)?,
            Command::Confirm(_) if store.confirm_announced(rule, announcement.limit).await? => {
                say(format_args!("confirmed: {line}"))?;
            }
            Command::Confirm(_) => say(format_args!("{}: not announced any more", rule.as_str()))?,
        }
    }
    Ok(())
}

fn line(rule: Rule, announcement: &Announcement) -> String {
    let left = (NOTICE.num_seconds() - announcement.seconds).max(0).div_euclid(3_600);
    let waits = if announcement.confirmed { "confirmed".to_owned() } else { format!("{left} h left") };
    let (rule, setting, limit) = (rule.as_str(), rule.setting(), announcement.limit);
    format!("{rule}\t{setting} = {limit}\tannounced {}\t{waits}", announcement.at.format("%Y-%m-%dT%H:%M:%SZ"))
}
