//! The order to stop, in two steps: to drain, and later to end at once.

use tokio_util::sync::CancellationToken;

/// Signals cancel the tokens. The gateway and the embedded Postgres wait for them.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Begin nothing new, and finish what was taken.
    pub drain: CancellationToken,
    /// Finish nothing more, but leave no process behind.
    pub at_once: CancellationToken,
}
