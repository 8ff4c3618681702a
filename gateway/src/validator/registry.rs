//! The modules that serve now: an immutable snapshot, swapped in one step, looked up without an allocation or a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;

use super::module::Module;
use super::slot::Slot;

/// One snapshot.
#[derive(Default)]
pub(super) struct Snapshot {
    any: Option<Arc<Module>>,
    categories: HashMap<String, Category>,
}

#[derive(Default)]
struct Category {
    fallback: Option<Arc<Module>>,
    names: HashMap<String, Arc<Module>>,
}

/// The snapshot of now.
#[derive(Default)]
pub(super) struct Registry {
    now: ArcSwap<Snapshot>,
    complete: AtomicBool,
}

impl Snapshot {
    /// The module that serves an event type: its own, else its category's, else everything's.
    pub(super) fn find(&self, category: &str, name: &str) -> Option<&Arc<Module>> {
        self.categories
            .get(category)
            .and_then(|category| category.names.get(name).or(category.fallback.as_ref()))
            .or(self.any.as_ref())
    }
}

impl Registry {
    /// Whether every file of the first scan was tried. Until then a module may be missing that is only not loaded yet. To
    /// be asked before [`Registry::now`], or what is found may be older than the answer.
    pub(super) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// Notes that every file of the first scan was tried, and that what came of it is in the snapshot.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// The snapshot of now, for the events of one request.
    pub(super) fn now(&self) -> Arc<Snapshot> {
        self.now.load_full()
    }

    /// Replaces the whole snapshot. Events in flight end on the module that they began with.
    pub(super) fn replace<'a>(&self, modules: impl Iterator<Item = &'a Arc<Module>>) {
        let mut snapshot = Snapshot::default();
        for module in modules {
            let slot = &module.slot;
            let module = Arc::clone(module);
            match slot {
                Slot::Any => snapshot.any = Some(module),
                Slot::Category(category) => {
                    snapshot.categories.entry(category.clone()).or_default().fallback = Some(module);
                }
                Slot::Exact(category, name) => {
                    let name = name.clone();
                    snapshot.categories.entry(category.clone()).or_default().names.insert(name, module);
                }
            }
        }
        self.now.store(Arc::new(snapshot));
    }
}
