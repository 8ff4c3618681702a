//! Decides how much of an event that is not stored a dead letter keeps. A module that takes secrets out of events
//! decides for its event types: it exports `redact`, or one of its examples is amended. The settings beside it may say
//! otherwise. If the module that serves cannot redact, the newest kept version that can does it. If no version can,
//! nothing is kept. In doubt, nothing is kept.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use eye_event::verdict::{Digest, FaultCode};
use tokio::sync::Semaphore;

use super::component::Program;
use super::contract::{Broken, CheckAmended};
use super::module::Module;
use super::registry::{Place, Snapshot};
use super::settings::{Limits, Settings};
use super::slot::Slot;
use super::worker::{Tools, load_kept};

/// The longest wait for a place to redact in, and for loading a kept version. The sender waits for an answer.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Kept versions that are tried, one after the other.
const VERSIONS_TRIED_MAX: usize = 3;
/// Event types whose kept versions are held loaded.
const FORMER_MAX: usize = 64;
/// How long they are held. By then there may be newer ones.
const FORMER_TIME: Duration = Duration::from_secs(60);
/// The pause before another search where no version could redact.
const FORMER_NONE_TIME: Duration = Duration::from_secs(5);
/// How much of an event that is not stored may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The bytes as they came.
    Whole,
    /// The event with this in place of its data.
    Redacted(String),
    /// Only its size and digest.
    Nothing,
}

/// A module that takes secrets out of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taking {
    /// The event types that it serves.
    pub slot: Slot,
    /// The version that serves.
    pub digest: Digest,
    /// It exports `redact`. Otherwise one of its examples is amended.
    pub redacts: bool,
}

/// The source of the decision about events of a type.
pub(super) enum Decides {
    /// Nothing takes anything out: they are kept whole.
    Nobody,
    /// This module redacts them.
    Module(Arc<Module>),
    /// No module serves now. A version that served once redacts them.
    Former(Slot),
    /// Nothing of them is kept.
    Nothing,
}

/// The rule for keeping, for types with and without a module that serves.
pub(super) struct Keeping {
    tools: Arc<Tools>,
    limits: Limits,
    /// The slots whose modules ever took something out; empty until [`Keeping::know`] is called.
    ever: ArcSwapOption<HashSet<Slot>>,
    former: Mutex<HashMap<(Slot, Option<Digest>), Held>>,
    places: Semaphore,
}

/// Kept versions of one slot that can redact. The version that serves is not among them.
#[derive(Default)]
struct Formers {
    /// The newest first. Empty until they are loaded.
    versions: OnceLock<Vec<Arc<Program>>>,
    /// Held by the task that loads them.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Such versions, and since when they are held.
struct Held {
    formers: Arc<Formers>,
    since: Instant,
}

impl Keeping {
    pub(super) fn new(tools: Arc<Tools>, limits: Limits) -> Self {
        let places = std::thread::available_parallelism().map_or(1, usize::from);
        Self { tools, limits, ever: ArcSwapOption::empty(), former: Mutex::default(), places: Semaphore::new(places) }
    }

    /// Sets the slots whose modules ever took something out.
    pub(super) fn know(&self, ever: HashSet<Slot>) {
        self.ever.store(Some(Arc::new(ever)));
    }

    /// Finds the source of the decision about events of a type.
    pub(super) fn decides(&self, modules: &Snapshot, category: &str, name: &str) -> Decides {
        match modules.find(category, name) {
            Some(Place::Taken(module)) => match rule(module.settings(), module.program()) {
                Rule::Whole => Decides::Nobody,
                Rule::Redacted => Decides::Module(Arc::clone(module)),
                Rule::Nothing => Decides::Nothing,
            },
            Some(Place::Held(_) | Place::Yielding(_)) => Decides::Nothing,
            None => {
                let ever = self.ever.load();
                let Some(ever) = &*ever else { return Decides::Nothing };
                let slots =
                    [Slot::Exact(category.to_owned(), name.to_owned()), Slot::Category(category.to_owned()), Slot::Any];
                slots.into_iter().find(|slot| ever.contains(slot)).map_or(Decides::Nobody, Decides::Former)
            }
        }
    }

    /// The slot whose module takes something out of events of a type, or took it out when it served.
    pub(super) fn taking_slot(&self, modules: &Snapshot, category: &str, name: &str) -> Option<Slot> {
        match self.decides(modules, category, name) {
            Decides::Nobody => None,
            Decides::Module(module) => Some(module.slot.clone()),
            Decides::Former(slot) => Some(slot),
            Decides::Nothing => match modules.find(category, name) {
                Some(Place::Taken(module)) => Some(module.slot.clone()),
                Some(Place::Held(_) | Place::Yielding(_)) | None => None,
            },
        }
    }

    /// Whether anything may be kept of an event whose type could not be read. Once any module takes something out, the
    /// event may be one of that module's.
    pub(super) fn keeps_unread(&self, modules: &Snapshot) -> bool {
        let never = self.ever.load().as_ref().is_some_and(|ever| ever.is_empty());
        never && !modules.takes_out()
    }

    /// Returns how much may be kept of an event with this data.
    pub(super) async fn keep(&self, decides: Decides, data: &str, check_amended: &CheckAmended) -> Keep {
        let (slot, own) = match decides {
            Decides::Nobody => return Keep::Whole,
            Decides::Nothing => return Keep::Nothing,
            Decides::Module(module) => (module.slot.clone(), Some(module)),
            Decides::Former(slot) => (slot, None),
        };
        if let Some(module) = own.as_ref().filter(|module| module.rest.is_over()) {
            let redacted = self.redact(module.program_owned(), module.settings().limits, data, check_amended).await;
            module.rest.note(redacted.as_ref().err());
            match redacted {
                Ok(redacted) => return Keep::Redacted(redacted),
                // The log has no words of the fault, since they may quote the event.
                Err(broken) => tracing::debug!(event_type = %slot, code = %broken.code, "`redact` broke"),
            }
        }
        let limits = own.as_ref().map_or(self.limits, |module| module.settings().limits);
        let Some(formers) = self.former(slot, own.map(|own| own.digest), limits).await else { return Keep::Nothing };
        for former in formers.versions.get().into_iter().flatten() {
            if let Ok(redacted) = self.redact(Arc::clone(former), limits, data, check_amended).await {
                return Keep::Redacted(redacted);
            }
        }
        Keep::Nothing
    }

    /// Calls `redact` on a blocking thread, once there is a place.
    async fn redact(
        &self,
        program: Arc<Program>,
        limits: Limits,
        data: &str,
        check_amended: &CheckAmended,
    ) -> Result<String, Broken> {
        let busy = || Broken::new(FaultCode::Busy, "there was no place to redact in");
        let place = tokio::time::timeout(WAIT_MAX, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else { return Err(busy()) };
        let (tools, check_amended) = (Arc::clone(&self.tools), Arc::clone(check_amended));
        let data = data.to_owned();
        let call = move || program.redact(&tools.sandbox, &limits, &data, &check_amended);
        match tokio::task::spawn_blocking(call).await {
            Ok(answer) => answer,
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    /// Returns the newest kept versions of a slot that can redact, without the one that serves. Loads them when they
    /// are first needed.
    async fn former(&self, slot: Slot, serving: Option<Digest>, limits: Limits) -> Option<Arc<Formers>> {
        let formers = self.held(&slot, serving);
        if formers.versions.get().is_some() {
            return Some(formers);
        }
        let (tools, filled) = (Arc::clone(&self.tools), Arc::clone(&formers));
        let load = async {
            let turn = Arc::clone(&formers.turn).lock_owned().await;
            // Loading goes on when this event stops waiting for it, so that the next event finds it done.
            let load = move || {
                let _turn = turn;
                let _versions = filled.versions.get_or_init(|| load_former(&tools, &slot, serving, &limits));
            };
            tokio::task::spawn_blocking(load).await
        };
        matches!(tokio::time::timeout(WAIT_MAX, load).await, Ok(Ok(()))).then_some(Arc::clone(&formers))
    }

    fn held(&self, slot: &Slot, serving: Option<Digest>) -> Arc<Formers> {
        let mut held = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, held| !held.is_old());
        if held.len() >= FORMER_MAX {
            held.clear();
        }
        let new = || Held { formers: Arc::default(), since: Instant::now() };
        Arc::clone(&held.entry((slot.clone(), serving)).or_insert_with(new).formers)
    }
}

impl Held {
    fn is_old(&self) -> bool {
        let none = self.formers.versions.get().is_some_and(Vec::is_empty);
        self.since.elapsed() > if none { FORMER_NONE_TIME } else { FORMER_TIME }
    }
}

fn load_former(tools: &Tools, slot: &Slot, serving: Option<Digest>, limits: &Limits) -> Vec<Arc<Program>> {
    let kept = match tools.history.intact(slot) {
        Ok(kept) => kept,
        Err(error) => {
            tracing::error!(event_type = %slot, "the kept versions cannot be read: {error}");
            return Vec::new();
        }
    };
    let kept = kept.filter(|(version, _)| Some(version.digest) != serving);
    let kept = kept.filter(|(version, _)| tools.history.redacts(slot, version.digest)).take(VERSIONS_TRIED_MAX);
    let load = |(_, bytes): (_, Vec<u8>)| load_kept(tools, slot, limits, &bytes);
    kept.filter_map(load).filter(|program| program.offers().redact).map(Arc::new).collect()
}

/// The rule of a module and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Whole,
    Redacted,
    Nothing,
}

fn rule(settings: &Settings, program: &Program) -> Rule {
    rule_of(settings.keep_raw, program.offers().redact, program.amends)
}

fn rule_of(keep_raw: Option<bool>, redacts: bool, amends: bool) -> Rule {
    match (keep_raw, redacts, amends) {
        (Some(true), ..) => Rule::Whole,
        (Some(false), ..) | (None, false, true) => Rule::Nothing,
        (None, true, _) => Rule::Redacted,
        (None, false, false) => Rule::Whole,
    }
}

impl Module {
    /// Whether nothing may be kept of its events that are not stored.
    pub(super) fn keeps_nothing(&self) -> bool {
        rule(self.settings(), self.program()) == Rule::Nothing
    }

    /// Whether the module takes something out of dead letters.
    pub(super) fn takes_out(&self) -> bool {
        rule(self.settings(), self.program()) != Rule::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_takes_something_out_lets_nothing_be_kept_whole_unless_its_settings_say_so() {
        for (keep_raw, redacts, amends, wanted) in [
            (None, false, false, Rule::Whole),
            (None, false, true, Rule::Nothing),
            (None, true, false, Rule::Redacted),
            (None, true, true, Rule::Redacted),
            (Some(true), true, true, Rule::Whole),
            (Some(false), true, true, Rule::Nothing),
            (Some(false), false, false, Rule::Nothing),
        ] {
            assert_eq!(rule_of(keep_raw, redacts, amends), wanted, "{keep_raw:?} {redacts} {amends}");
        }
    }
}
