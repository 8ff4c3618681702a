//! The log's set-up: lines to standard error, for people or for programs. Nothing of an event and no token is ever logged.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, LogFormat};

/// Starts the log. Later calls change nothing.
pub fn start(config: &Config) {
    let level: LevelFilter = config.log_level.parse().unwrap_or(LevelFilter::INFO);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    let log = tracing_subscriber::registry().with(level);
    // Set up already in a test that starts a second gateway: the first log serves both.
    let _ = match config.log_format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json()).try_init(),
    };
}
