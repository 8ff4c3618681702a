//! `eye serve`: runs the gateway until a signal. The first signal drains it, a second one ends it at once. SIGHUP makes
//! it read the configuration again.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Failure, Source};
use crate::gateway::{self, Configured};
use crate::telemetry;

/// The time for the access log to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The address to listen on [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// The watched directory of validators [default: ./modules]
    #[arg(long, value_name = "DIR")]
    modules: Option<String>,
    /// Do not migrate the schema
    #[arg(long)]
    no_migrate: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let mut flags = Vec::new();
    flags.extend(arguments.listen.map(|address| ("listen", address)));
    flags.extend(arguments.modules.map(|dir| ("modules", dir)));
    let source = arguments.source;
    let (settings, config) = source.gather(flags.clone())?;
    telemetry::start(&config.log_level, config.log_format, config.access_log_bytes_max);
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }

    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::from)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::from)?;
    let hangup = signal(SignalKind::hangup()).map_err(anyhow::Error::from)?;
    let read = Box::new(move || source.gather(flags.clone()).map(|(settings, _)| settings));
    let configured = Configured { settings, config, read, hangup };
    let mut next = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut serve = std::pin::pin!(gateway::serve(configured, !arguments.no_migrate, shutdown.clone()));
    let served = tokio::select! {
        served = &mut serve => Some(served),
        () = next() => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            shutdown.cancel();
            tokio::select! {
                served = &mut serve => served,
                () = next() => {
                    tracing::warn!("a second signal: the gateway ends at once");
                    Ok(())
                }
            }
        }
    };
    telemetry::flush(LAST_LINES);
    Ok(served?)
}
