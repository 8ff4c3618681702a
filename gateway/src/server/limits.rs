//! The bounds of a listener that are in force, and the permits of its connections. A reload changes both: each connection
//! keeps the bounds with which it was accepted, and a smaller number of connections waits for old ones to end.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::ServerLimits;

/// The bounds in force.
#[derive(Debug)]
pub struct LimitsInForce {
    limits: ArcSwap<ServerLimits>,
    /// Notified when the bounds change. A listener without a permit waits for it.
    changed: Notify,
}

impl LimitsInForce {
    /// Begins with these bounds.
    pub fn new(limits: ServerLimits) -> Self {
        Self { limits: ArcSwap::from_pointee(limits), changed: Notify::new() }
    }

    /// The bounds for a connection that is accepted now.
    pub fn now(&self) -> ServerLimits {
        **self.limits.load()
    }

    /// Changes the bounds, for connections that are accepted from now on.
    pub fn set(&self, limits: ServerLimits) {
        self.limits.store(Arc::new(limits));
        self.changed.notify_waiters();
    }
}

/// The permits of one listener. Only its loop takes them.
#[derive(Debug, Default)]
pub(super) struct Permits {
    taken: AtomicUsize,
    returned: Notify,
}

/// A permit for a connection. Its drop returns it.
#[derive(Debug)]
pub(super) struct Permit(Arc<Permits>);

impl Permits {
    fn try_take(self: &Arc<Self>, most: usize) -> Option<Permit> {
        if self.taken.load(Relaxed) >= most {
            return None;
        }
        self.taken.fetch_add(1, Relaxed);
        Some(Permit(Arc::clone(self)))
    }

    /// Waits until fewer connections have a permit than the bounds allow. It calls `full` before it waits.
    pub(super) async fn take(self: &Arc<Self>, limits: &LimitsInForce, full: impl FnOnce()) -> Permit {
        if let Some(permit) = self.try_take(limits.now().connections_max) {
            return permit;
        }
        full();
        loop {
            let (mut changed, mut returned) = (pin!(limits.changed.notified()), pin!(self.returned.notified()));
            // Enabled before the attempt, so that no change in between is missed.
            changed.as_mut().enable();
            returned.as_mut().enable();
            if let Some(permit) = self.try_take(limits.now().connections_max) {
                return permit;
            }
            tokio::select! {
                () = changed => {}
                () = returned => {}
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
        self.0.returned.notify_waiters();
    }
}
