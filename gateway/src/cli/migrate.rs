//! `eye migrate`: migrates a database to the current schema. A signal stops it in order, so that it does not leave the
//! embedded Postgres running that it started.

use std::pin::pin;

use anyhow::Context as _;

use super::output::say;
use super::reach::{Database, ENDED_BY_SIGNAL};
use super::signals::Signals;
use super::{Failure, Source};
use crate::shutdown::Shutdown;

pub(super) async fn run(source: Source) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    let mut signals = Signals::with_hangup().context("signals cannot be heard")?;
    let mut migrated = pin!(migrate(source, &shutdown));
    tokio::select! {
        migrated = &mut migrated => migrated,
        never = signals.stop(&shutdown) => match never {},
    }
}

async fn migrate(source: Source, shutdown: &Shutdown) -> Result<(), Failure> {
    let (settings, config) = source.gather(Vec::new())?;
    let database = Database::find(&settings, &config, Some(shutdown)).await?;
    let migrated = shutdown.drain.run_until_cancelled(database.store().migrate()).await;
    database.close().await;
    say(migrated.context(ENDED_BY_SIGNAL)?.context("the schema could not be brought up")?)?;
    Ok(())
}
