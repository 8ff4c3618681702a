//! The modules that serve now: an immutable snapshot, swapped in one step, looked up without an allocation or a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use eye_event::verdict::UnfinishedCode;
use foldhash::HashMap;

use super::module::Module;
use super::slot::Slot;

/// Why it is not known yet who judges the events of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Untried {
    /// Its file is still to be tried.
    Waiting,
    /// Its file or folder cannot be read, or was refused, and no version of it is known that served before.
    Unreadable,
}

impl Untried {
    /// What the sender of such an event is told.
    pub(super) fn code(self) -> UnfinishedCode {
        match self {
            Self::Waiting => UnfinishedCode::ModuleLoading,
            Self::Unreadable => UnfinishedCode::ModuleUnavailable,
        }
    }
}

/// Who judges the events of a slot.
#[derive(Clone)]
pub(super) enum Place {
    Taken(Arc<Module>),
    /// Perhaps a module: nobody else may judge them.
    Held(Untried),
    /// A new module, beside a wider one that judged its events until now and does so until it is taken.
    Yielding(Untried),
}

/// One snapshot.
#[derive(Default)]
pub(super) struct Snapshot {
    any: Option<Place>,
    categories: HashMap<String, Category>,
    /// A module takes secrets out of what is kept, or may do so.
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
    /// Who judges an event type: its own module, else its category's, else everything's.
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
    /// Whether a module judges an event type, or, without a name, any one of a category.
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

    /// Whether a module takes secrets out of what is kept, or one may do so of which nothing is known yet.
    pub(super) fn takes_out(&self) -> bool {
        self.takes_out
    }

    /// The modules that do.
    pub(super) fn taking(&self) -> impl Iterator<Item = &Arc<Module>> {
        let categories = self.categories.values();
        let places = categories.flat_map(|category| category.names.values().chain(&category.fallback));
        self.any.iter().chain(places).filter_map(|place| match place {
            Place::Taken(module) if module.takes_out() => Some(module),
            _ => None,
        })
    }

    /// The module of a slot, if it has one of its own.
    pub(super) fn own(&self, slot: &Slot) -> Option<&Place> {
        match slot {
            Slot::Any => self.any.as_ref(),
            Slot::Category(category) => self.categories.get(category)?.fallback.as_ref(),
            Slot::Exact(category, name) => self.categories.get(category)?.names.get(name),
        }
    }
}

impl Registry {
    /// Before the directory was read, nothing is known of any event type.
    pub(super) fn new() -> Self {
        let unread = Snapshot { any: Some(Place::Held(Untried::Waiting)), takes_out: true, ..Snapshot::default() };
        Self(ArcSwap::from_pointee(unread))
    }

    /// The snapshot of now, for the events of one request.
    pub(super) fn now(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Replaces the whole snapshot; of two places for one slot the later counts. Events in flight end on the module that
    /// they began with.
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
