//! Makes refusals of errors of the store.

use super::Refusal;
use crate::log_limit::LogLimit;
use crate::share::Full;
use crate::store::Error;

/// The refusal for an error of a read or of another question to the database.
pub(crate) fn of_store(error: Error) -> Refusal {
    static FAILED: LogLimit = LogLimit::new();
    match error {
        Error::Busy => Refusal::ReadsFull { full: Full::All },
        Error::Slow(limit) => Refusal::ReadSlow { limit_ms: limit.as_millis() },
        Error::Refused(_) | Error::Hidden(_) => {
            if let Some(more) = FAILED.open() {
                tracing::error!(%error, more, "a read failed");
            }
            error.state().map_or(Refusal::Internal, |state| Refusal::DatabaseRefused { state })
        }
        Error::NoDescriptors => {
            if let Some(more) = FAILED.open() {
                tracing::warn!(%error, more, "a read failed");
            }
            Refusal::NoDescriptors
        }
        // The store logs an outage once.
        error => {
            tracing::debug!(%error, "a read failed");
            Refusal::ReadAway
        }
    }
}
