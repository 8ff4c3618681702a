//! Changes of slots, for the audit trail of the gateway: a new module, a refused file, an unloaded module. The lifecycle
//! thread calls the observer right after the registry has the change.

use std::fmt;
use std::sync::Arc;

use eye_event::verdict::Digest;

use super::slot::Slot;

/// A change of one or more slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// The slot has another module than before. The history knows the one before a restart.
    Replaced {
        /// The new module.
        digest: Digest,
        /// The module before; `None` if there was none.
        before: Option<Digest>,
    },
    /// The file was refused.
    Refused {
        /// The digest of its content; `None` if it could not be read.
        digest: Option<Digest>,
        /// The expectation, the finding, and the way to mend it.
        why: String,
    },
    /// The file cannot be loaded, and an earlier version serves instead.
    FellBack {
        /// The earlier version.
        digest: Digest,
    },
    /// The file is gone, and the module was unloaded.
    Unloaded {
        /// The module that served; `None` if there was none.
        before: Option<Digest>,
    },
    /// The files of these slots were lost by accident. Their modules serve on.
    Lost,
}

/// What an observer does with each happening.
type Observe = dyn Fn(&[&Slot], Happening) + Send + Sync;

/// Gets the changes. The lifecycle thread calls it, so it must return fast.
#[derive(Clone)]
pub struct Observer(Arc<Observe>);

impl Observer {
    /// Calls `take` with the slots and their change.
    pub fn new(take: impl Fn(&[&Slot], Happening) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }

    pub(super) fn tell(&self, slots: &[&Slot], happening: Happening) {
        (self.0)(slots, happening);
    }
}

impl Default for Observer {
    /// Ignores all changes.
    fn default() -> Self {
        Self::new(|_, _| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Observer").finish_non_exhaustive()
    }
}
