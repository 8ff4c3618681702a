//! The end of a listener, in two steps: first it moves its peers away while it still accepts, then it closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// The two steps, shared by the gateway, its listeners and all their connections.
#[derive(Clone, Debug, Default)]
pub struct Closing(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// Read for each answer, so it must be cheaper than a token.
    leaves: AtomicBool,
    leave: CancellationToken,
    close: CancellationToken,
}

impl Closing {
    /// Closes with this token, without the first step.
    pub fn by(close: CancellationToken) -> Self {
        Self(Arc::new(Steps { close, ..Steps::default() }))
    }

    /// Begins the first step: each answer over HTTP/1 closes its connection, and connections over HTTP/2 get a GOAWAY. New
    /// connections are accepted, so that a peer without another gateway is not refused.
    pub fn ask_to_leave(&self) {
        self.0.leaves.store(true, Relaxed);
        self.0.leave.cancel();
    }

    /// Begins the second step: listeners accept no more connections.
    pub fn close(&self) {
        self.ask_to_leave();
        self.0.close.cancel();
    }

    /// Whether an answer must close its connection.
    pub(super) fn is_leaving(&self) -> bool {
        self.0.leaves.load(Relaxed)
    }

    /// Waits for the first step.
    pub(super) async fn leaving(&self) {
        self.0.leave.cancelled().await;
    }

    /// Waits for the second step.
    pub(super) async fn closed(&self) {
        self.0.close.cancelled().await;
    }

    /// A token of the second step for one connection: a check of a token takes its lock, and each connection checks often.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.close.child_token()
    }
}
