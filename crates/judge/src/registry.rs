//! The modules that serve now: an immutable snapshot. The lifecycle swaps it in one step; requests look modules up
//! without an allocation or a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use eye_event::verdict::UnfinishedCode;
use foldhash::HashMap;

use super::module::Module;
use super::slot::Slot;

/// Why the module of a slot is not known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untried {
    /// Its file was not tried yet.
    Waiting,
    /// Its file or folder cannot be read, or the file was refused, and no version is known that served before.
    Unreadable,
}

impl Untried {
    /// The code of the answer to the sender of such an event.
    pub(super) fn code(self) -> UnfinishedCode {
        match self {
            Self::Waiting => UnfinishedCode::ModuleLoading,
            Self::Unreadable => UnfinishedCode::ModuleUnavailable,
        }
    }
}

/// The judge of a slot's events.
#[derive(Clone)]
pub(super) enum Place {
    Taken(Arc<Module>),
    /// There may be a module, so no wider one may judge the events.
    Held(Untried),
    /// A new module beside a wider one. The wider one judged the events until now, and does so until the new one is
    /// taken.
    Yielding(Untried),
}

/// One snapshot.
#[derive(Default)]
pub(super) struct Snapshot {
    any: Option<Place>,
    categories: HashMap<String, Category>,
    /// A module takes secrets out of dead letters, or may do so.
    takes_out: bool,
}

#[derive(Default)]
struct Category {
    fallback: Option<Place>,
    names: HashMap<String, Place>,
}

/// The snapshot of now.
pub(super) struct Registry(ArcSwap<Snapshot>);

impl Snapshot {
    /// Finds the place of an event type: its own, else that of its category, else that of all events.
    pub(super) fn find(&self, category: &str, name: &str) -> Option<&Place> {
        let category = self.categories.get(category);
        let own = category.and_then(|category| category.names.get(name));
        let fallback = category.and_then(|category| category.fallback.as_ref());
        let mut places = own.into_iter().chain(fallback).chain(&self.any);
        let first = places.next();
        match first {
            Some(Place::Yielding(_)) => places.find(|place| !matches!(place, Place::Yielding(_))).or(first),
            _ => first,
        }
    }
}

impl Snapshot {
    /// Whether a module judges this event type. Without a name: any event type of this category.
    pub(super) fn serves(&self, category: &str, name: Option<&str>) -> bool {
        let is_taken = |place: &Place| matches!(place, Place::Taken(_));
        match name {
            Some(name) => self.find(category, name).is_some_and(is_taken),
            None => {
                let category = self.categories.get(category);
                let own = category.into_iter().flat_map(|one| one.names.values().chain(&one.fallback));
                own.chain(&self.any).any(is_taken)
            }
        }
    }

    /// Whether a module takes secrets out of dead letters, or a module that is not known yet may do so.
    pub(super) fn takes_out(&self) -> bool {
        self.takes_out
    }

    /// The modules that take secrets out.
    pub(super) fn taking(&self) -> impl Iterator<Item = &Arc<Module>> {
        self.modules().filter(|module| module.takes_out())
    }

    /// The modules.
    pub(super) fn modules(&self) -> impl Iterator<Item = &Arc<Module>> {
        let categories = self.categories.values();
        let places = categories.flat_map(|category| category.names.values().chain(&category.fallback));
        self.any.iter().chain(places).filter_map(|place| match place {
            Place::Taken(module) => Some(module),
            Place::Held(_) | Place::Yielding(_) => None,
        })
    }

    /// The module of this very slot, if it has one.
    pub(super) fn module(&self, slot: &Slot) -> Option<&Arc<Module>> {
        match self.own(slot) {
            Some(Place::Taken(module)) => Some(module),
            _ => None,
        }
    }

    /// The place of this very slot, if it has one.
    pub(super) fn own(&self, slot: &Slot) -> Option<&Place> {
        match slot {
            Slot::Any => self.any.as_ref(),
            Slot::Category(category) => self.categories.get(category)?.fallback.as_ref(),
            Slot::Exact(category, name) => self.categories.get(category)?.names.get(name),
        }
    }
}

impl Registry {
    /// Before the directory was read, no event type is known.
    pub(super) fn new() -> Self {
        let unread = Snapshot { any: Some(Place::Held(Untried::Waiting)), takes_out: true, ..Snapshot::default() };
        Self(ArcSwap::from_pointee(unread))
    }

    /// Returns the snapshot of now, for the events of one request.
    pub(super) fn now(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces the whole snapshot. Of two places for one slot the later counts. Events in flight end on the module
    /// that they began with.
    pub(super) fn replace(&self, places: impl Iterator<Item = (Slot, Place)>) {
        let mut snapshot = Snapshot::default();
        for (slot, place) in places {
            snapshot.takes_out |= match &place {
                Place::Taken(module) => module.takes_out(),
                Place::Held(_) | Place::Yielding(_) => true,
            };
            match slot {
                Slot::Any => snapshot.any = Some(place),
                Slot::Category(category) => snapshot.categories.entry(category).or_default().fallback = Some(place),
                Slot::Exact(category, name) => {
                    snapshot.categories.entry(category).or_default().names.insert(name, place);
                }
            }
        }
        self.0.store(Arc::new(snapshot));
    }
}
