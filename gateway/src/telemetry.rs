//! The log's set-up: lines to standard error, for people or for programs. Nothing of an event and no token is ever logged.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};

/// Starts the log. Later calls change nothing.
pub fn start(config: &Config) {
    let level: LevelFilter = config.log_level.parse().unwrap_or(LevelFilter::INFO);
    // What the driver warns of comes back as an error, and is logged where it is handled.
    let targets = Targets::new().with_default(level).with_target("sqlx", level.min(LevelFilter::ERROR));
    // It warns of each watched folder that is removed, since the system ends such a watch by itself.
    let targets = targets.with_target("notify", level.min(LevelFilter::ERROR));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let log = tracing_subscriber::registry().with(targets);
    // Set up already in a test that starts a second gateway: the first log serves both.
    let _ = match config.log_format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json()).try_init(),
    };
}
