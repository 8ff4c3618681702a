//! `eye migrate`: brings a database to the current schema.

use anyhow::Context as _;

use super::output::say;
use super::{Failure, Source, app};

pub(super) async fn run(source: Source) -> Result<(), Failure> {
    let (_, config) = source.gather(Vec::new())?;
    let database = app::Database::open(&config).await?;
    let migrated = database.store().migrate().await.context("the schema could not be brought up");
    database.close().await;
    say(migrated?)?;
    Ok(())
}
