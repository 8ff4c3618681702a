//! The event types whose events were stored though no module judged them, and the files that their authors may have
//! meant for them. A module for a type that no application sends looks like any other, while events of the type that
//! its author meant pass unjudged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use foldhash::HashMap;
use serde::Serialize;

use super::naming;
use super::slot::Slot;

/// Event types that are counted each. Events of further types are counted together, since senders choose the names.
const TYPES_MAX: usize = 1_000;

/// Pairs of names that one report compares. Beyond that, the last event types of a report have no nearest file.
const COMPARISONS_MAX: usize = 100_000;

/// An event type whose events were stored with no validator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnservedType {
    /// The category.
    pub category: String,
    /// The name.
    pub name: String,
    /// How many of its events were stored so since the gateway started.
    pub stored: u64,
    /// The file with the nearest name, relative to the modules directory, if a name is near enough to be meant.
    pub nearest: Option<String>,
}

type Categories = HashMap<Box<str>, HashMap<Box<str>, AtomicU64>>;

/// The counts of all these event types.
#[derive(Debug, Default)]
pub(super) struct Unserved {
    types: RwLock<(Categories, usize)>,
    others: AtomicU64,
}

impl Unserved {
    /// Counts an event that was stored.
    pub(super) fn count(&self, category: &str, name: &str) {
        let add = |categories: &Categories| {
            let count = categories.get(category).and_then(|names| names.get(name));
            count.map(|count| count.fetch_add(1, Relaxed)).is_some()
        };
        {
            let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
            if add(&types.0) {
                return;
            }
            if types.1 >= TYPES_MAX {
                self.others.fetch_add(1, Relaxed);
                return;
            }
        }
        let mut types = self.types.write().unwrap_or_else(PoisonError::into_inner);
        if add(&types.0) {
            return;
        }
        if types.1 >= TYPES_MAX {
            self.others.fetch_add(1, Relaxed);
            return;
        }
        types.0.entry(category.into()).or_default().insert(name.into(), AtomicU64::new(1));
        types.1 += 1;
    }

    /// All of them in order, without a nearest file.
    pub(super) fn types(&self) -> Vec<UnservedType> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        let all = types.0.iter().flat_map(|(category, names)| {
            names.iter().map(|(name, stored)| UnservedType {
                category: category.to_string(),
                name: name.to_string(),
                stored: stored.load(Relaxed),
                nearest: None,
            })
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|one, other| (&one.category, &one.name).cmp(&(&other.category, &other.name)));
        all
    }

    /// How many events of further types were stored with no validator.
    pub(super) fn others(&self) -> u64 {
        self.others.load(Relaxed)
    }
}

/// A file that its author may have meant for an event type.
pub(super) struct Candidate {
    file: PathBuf,
    /// The category and the name in the form in which names are compared. The category is missing if the file lies in
    /// none, the name if the file serves all of them.
    category: Option<String>,
    name: Option<String>,
    /// Both, as one text.
    letters: Vec<char>,
}

impl Candidate {
    fn new(file: &Path, category: Option<&str>, name: Option<&str>) -> Self {
        let (category, name) = (category.map(naming::plain_part), name.map(naming::plain_part));
        let letters = [&category, &name].into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join("/");
        Self { file: file.to_owned(), category, name, letters: letters.chars().collect() }
    }

    /// The file of a slot; `None` if it serves everything.
    pub(super) fn of_slot(slot: &Slot, file: &Path) -> Option<Self> {
        match slot {
            Slot::Any => None,
            Slot::Category(category) => Some(Self::new(file, Some(category), None)),
            Slot::Exact(category, name) => Some(Self::new(file, Some(category), Some(name))),
        }
    }

    /// A file that serves nothing, by the nearest right name or else by its own.
    pub(super) fn of_stray(file: &Path, nearest: Option<&Path>) -> Option<Self> {
        let named = nearest.unwrap_or(file);
        if !named.extension().is_some_and(|end| end.eq_ignore_ascii_case("wasm")) {
            return None;
        }
        // A file outside a folder has no category, so only its name can be compared.
        if named.parent().is_some_and(|folder| folder.as_os_str().is_empty()) {
            return Some(Self::new(file, None, Some(named.file_stem()?.to_str()?)));
        }
        Self::of_slot(&Slot::of_path(named).ok()?, file)
    }

    fn key(&self) -> (Option<&str>, Option<&str>) {
        (self.category.as_deref(), self.name.as_deref())
    }
}

/// Finds the nearest file for each type. A file comes first whose name differs only as people confuse names, then one
/// within two letters.
pub(super) fn find_nearest(types: &mut [UnservedType], candidates: &[Candidate]) {
    let mut same: BTreeMap<(Option<&str>, Option<&str>), &Candidate> = BTreeMap::new();
    for candidate in candidates {
        same.entry(candidate.key()).or_insert(candidate);
    }
    let mut room = COMPARISONS_MAX;
    for one in types {
        let (category, name) = (naming::plain_part(&one.category), naming::plain_part(&one.name));
        let keys = [(Some(&*category), Some(&*name)), (Some(&*category), None), (None, Some(&*name))];
        let exact = keys.into_iter().find_map(|key| same.get(&key).copied());
        let near = exact.or_else(|| {
            room = room.checked_sub(candidates.len())?;
            let both: Vec<char> = format!("{category}/{name}").chars().collect();
            let (category, name): (Vec<char>, Vec<char>) = (category.chars().collect(), name.chars().collect());
            let near = |candidate: &&Candidate| {
                let meant = match candidate.key() {
                    (Some(_), Some(_)) => &both,
                    (Some(_), None) => &category,
                    (None, _) => &name,
                };
                naming::within_two(&candidate.letters, meant)
            };
            // A file for the very name is nearer than a file for the category.
            let named = candidates.iter().filter(|candidate| candidate.name.is_some()).find(near);
            named.or_else(|| candidates.iter().find(near))
        });
        one.nearest = near.map(|candidate| candidate.file.display().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_counted_apart_up_to_a_bound() {
        let unserved = Unserved::default();
        for number in 0..TYPES_MAX + 2 {
            unserved.count("c", &number.to_string());
            unserved.count("c", "0");
        }
        assert_eq!((unserved.types().len(), unserved.others()), (TYPES_MAX, 2));
        let first = &unserved.types()[0];
        assert_eq!((&*first.name, first.stored), ("0", TYPES_MAX as u64 + 3));
    }

    #[test]
    fn the_nearest_file_is_found() {
        let unserved = Unserved::default();
        for (category, name) in [("shop", "order placed"), ("page", "view"), ("shop", "sale"), ("game", "start")] {
            unserved.count(category, name);
        }
        let file = |text: &str| Candidate::of_slot(&Slot::of_path(Path::new(text)).expect("a slot"), Path::new(text));
        let mut candidates: Vec<_> = ["Shop/order_placed.wasm", "Page/_.wasm", "other/thing.wasm", "_.wasm"]
            .into_iter()
            .filter_map(file)
            .collect();
        candidates.extend(Candidate::of_stray(Path::new("shop/sale.WASM"), Some(Path::new("shop/sale.wasm"))));
        candidates.extend(Candidate::of_stray(Path::new("start.wasm"), None));
        let mut types = unserved.types();
        find_nearest(&mut types, &candidates);
        let near: Vec<_> = types.iter().map(|one| (one.name.as_str(), one.nearest.as_deref())).collect();
        let expected = [
            ("start", Some("start.wasm")),
            ("view", Some("Page/_.wasm")),
            ("order placed", Some("Shop/order_placed.wasm")),
            ("sale", Some("shop/sale.WASM")),
        ];
        assert_eq!(near, expected);
    }
}
