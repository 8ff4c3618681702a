//! `eye migrate`: migrates a database to the current schema.

use anyhow::Context as _;

use super::output::say;
use super::reach::Database;
use super::{Failure, Source};

pub(super) async fn run(source: Source) -> Result<(), Failure> {
    let (settings, config) = source.gather(Vec::new())?;
    let database = Database::find(&settings, &config, true).await?;
    let migrated = database.store().migrate().await.context("the schema could not be brought up");
    database.close().await;
    say(migrated?)?;
    Ok(())
}
