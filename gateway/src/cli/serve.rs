//! `eye serve`: runs the gateway until a signal stops it. SIGHUP makes it read the configuration again.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::signals::Signals;
use super::{Failure, Source};
use crate::config::{Problems, ServiceEnvironment, parts};
use crate::gateway::{self, Configured, Service};
use crate::shutdown::Shutdown;
use crate::sockets::Passed;
use crate::systemd::ServiceManager;
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

pub(super) async fn run(arguments: Arguments, environment: ServiceEnvironment, passed: Passed) -> Result<(), Failure> {
    // First, so that no signal kills a starting gateway.
    let mut signals = Signals::of_gateway().context("signals cannot be heard")?;
    let hangup = signal(SignalKind::hangup()).context("signals cannot be heard")?;
    let mut flags = Vec::new();
    flags.extend(arguments.listen.map(|address| ("listen", address)));
    flags.extend(arguments.modules.map(|dir| ("modules", dir)));
    let source = arguments.source;
    let (settings, config) = source.gather(flags.clone())?;
    telemetry::start(&config.log_level, config.log_format, config.access_log_bytes_max);
    for warning in settings.warnings() {
        tracing::warn!("{warning}");
    }

    let passed = passed.assign(parts::addresses(&config)).map_err(|error| Problems(vec![format!("{error:#}")]))?;
    let shutdown = Shutdown::default();
    let manager = ServiceManager::at(environment.notify_socket.as_deref());
    let service = Service { manager, watchdog: environment.watchdog, passed };
    let read = Box::new(move || source.gather(flags.clone()).map(|(settings, _)| settings));
    let configured = Configured { settings, config, read, hangup };
    let served = tokio::select! {
        served = gateway::serve(configured, !arguments.no_migrate, service, shutdown.clone()) => served,
        never = signals.stop(&shutdown) => match never {},
    };
    telemetry::flush(LAST_LINES);
    Ok(served?)
}
