//! Which modules are beside those that serve: candidates, and for a while those that were replaced. This file also says who
//! judges an event of a canary.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use eye_event::verdict::Digest;
use uuid::Uuid;

use super::candidate::{Beside, CandidateReport, Comparison, Trial};
use super::module::Module;
use super::registry::{Registry, Snapshot};
use super::replacing::{Newest, Replacement};
use super::slot::Slot;
use super::steps::Mode;

/// The modules beside one slot.
#[derive(Default, Clone)]
pub(super) struct Besides {
    pub(super) candidate: Option<Arc<Beside>>,
    pub(super) replaced: Option<Arc<Beside>>,
}

/// The modules beside all slots.
pub(super) struct Candidates {
    /// The modules that serve.
    live: Arc<Registry>,
    /// The candidates. Their source replaces its content, as that of the modules that serve.
    pub(super) tried: Arc<Registry>,
    /// The modules that served at the last look.
    last: Mutex<Arc<Snapshot>>,
    /// How often that changed what serves.
    swaps: AtomicU64,
    besides: ArcSwap<HashMap<Slot, Besides>>,
    /// What the last looks have not taken of modules that are not beside any more.
    left: Mutex<Vec<(Slot, Arc<Beside>)>>,
    /// The secret of the database. Without it no canary judges, since gateways would disagree.
    key: ArcSwap<Option<[u8; 32]>>,
}

impl Candidates {
    pub(super) fn new(live: Arc<Registry>) -> Self {
        Self {
            last: Mutex::new(live.now()),
            swaps: AtomicU64::new(0),
            live,
            tried: Arc::new(Registry::new()),
            besides: ArcSwap::default(),
            left: Mutex::default(),
            key: ArcSwap::default(),
        }
    }

    /// Looks which modules serve and which are tried, after one of the two has changed. A module that serves in place of
    /// another is compared with that one.
    pub(super) fn sync(&self) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (live, tried) = (self.live.now(), self.tried.now());
        let is_new =
            |module: &&Arc<Module>| last.module(&module.slot).is_none_or(|before| !Arc::ptr_eq(before, module));
        let is_same =
            |module: &Arc<Module>| last.module(&module.slot).is_some_and(|before| before.digest == module.digest);
        if live.modules().count() != last.modules().count() || !live.modules().all(is_same) {
            self.swaps.fetch_add(1, Relaxed);
        }
        let mut slots: HashSet<Slot> = live.modules().filter(is_new).map(|module| module.slot.clone()).collect();
        slots.extend(tried.modules().map(|module| module.slot.clone()));
        slots.extend(self.besides.load().keys().cloned());
        for slot in slots {
            let replaced = last
                .module(&slot)
                .filter(|before| live.module(&slot).is_some_and(|serving| !Arc::ptr_eq(serving, before)));
            self.set(&slot, live.module(&slot), tried.module(&slot), replaced);
        }
        *last = live;
    }

    /// Those of now, for the events of one request; `None` if there are none.
    pub(super) fn now(&self) -> Option<Arc<HashMap<Slot, Besides>>> {
        let besides = self.besides.load();
        (!besides.is_empty()).then(|| Arc::clone(&besides))
    }

    /// Sets the secret of the database.
    pub(super) fn set_key(&self, key: [u8; 32]) {
        self.key.store(Arc::new(Some(key)));
    }

    /// Sets the modules beside the one that serves a slot: its candidate, and the one that it has just replaced.
    fn set(
        &self,
        slot: &Slot,
        serving: Option<&Arc<Module>>,
        candidate: Option<&Arc<Module>>,
        replaced: Option<&Arc<Module>>,
    ) {
        let beside = |module: &Arc<Module>, trial: Trial, kept: Option<Arc<Beside>>| {
            let serving = serving?;
            let is_it = |kept: &Arc<Beside>| {
                Arc::ptr_eq(&kept.module, module) && Arc::ptr_eq(&kept.serving, serving) && kept.trial == trial
            };
            let new = || Arc::new(Beside::new(Arc::clone(module), trial, Arc::clone(serving)));
            Some(kept.filter(is_it).unwrap_or_else(new))
        };
        let trial = |module: &Arc<Module>| match module.settings().mode {
            Mode::Shadow => Trial::Shadow,
            Mode::Canary => Trial::Canary(module.settings().share),
        };
        let before = self.besides.load().get(slot).cloned().unwrap_or_default();
        let candidate = candidate.and_then(|module| beside(module, trial(module), before.candidate));
        // The same code with other settings replaces nothing, and what replaced another one a moment ago is no measure.
        let is_other = |gone: &Arc<Module>| serving.is_some_and(|serving| serving.digest != gone.digest);
        let stood = replaced.map(|gone| match &before.replaced {
            Some(earlier) if earlier.serving.digest == gone.digest && !earlier.expects_refusals() => &earlier.module,
            _ => gone,
        });
        let replaced = match stood.filter(|_| replaced.is_some_and(is_other)) {
            Some(gone) => {
                Some(gone).filter(|gone| is_other(gone)).and_then(|gone| beside(gone, Trial::Replacement, None))
            }
            None => {
                let kept = before.replaced.clone();
                kept.and_then(|one| beside(&Arc::clone(&one.module), Trial::Replacement, Some(one)))
            }
        };
        self.change(slot, |besides| {
            besides.candidate.clone_from(&candidate);
            besides.replaced.clone_from(&replaced);
        });
    }

    /// Compares a slot's module no longer with the one that it replaced.
    pub(super) fn forget_replaced(&self, slot: &Slot) {
        self.change(slot, |besides| besides.replaced = None);
    }

    /// A number that grows when another module begins to serve. It does not change while [`Candidates::compare_replaced`]
    /// works.
    pub(super) fn swaps(&self) -> u64 {
        self.swaps.load(Relaxed)
    }

    /// Compares modules with those that they replaced as it is `known`, by the swaps so far. Of a slot of which nothing is
    /// known, or another module than the one that serves, what is compared goes on for the time of the guard. Returns the
    /// pairs whose earlier module must be loaded first; `None` if a module was swapped since.
    pub(super) fn compare_replaced(
        &self,
        known: &HashMap<Slot, Newest>,
        swaps: u64,
        guard: Duration,
    ) -> Option<Vec<Replacement>> {
        // No module is swapped meanwhile.
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if self.swaps() != swaps {
            return None;
        }
        let besides = self.besides.load();
        for (slot, one) in besides.iter().filter_map(|(slot, besides)| Some((slot, besides.replaced.as_ref()?))) {
            let goes_on = match known.get(slot).filter(|newest| newest.digest == one.serving.digest) {
                Some(newest) => newest.against.as_ref().is_some_and(|(against, _)| *against == one.module.digest),
                None => one.began.elapsed() < guard,
            };
            if !goes_on {
                self.forget_replaced(slot);
            }
        }
        let missing = known.iter().filter_map(|(slot, newest)| {
            let (against, settings) = newest.against.clone()?;
            let serves = last.module(slot).is_some_and(|module| module.digest == newest.digest);
            let now = besides.get(slot).and_then(|besides| besides.replaced.as_ref());
            let is_there = now.is_some_and(|now| (now.serving.digest, now.module.digest) == (newest.digest, against));
            let pair = Replacement { slot: slot.clone(), digest: newest.digest, against, settings };
            (serves && !is_there).then_some(pair)
        });
        Some(missing.collect())
    }

    /// Compares the module that serves a slot with an earlier one, if it is still the one that is meant.
    pub(super) fn add_replaced(&self, pair: &Replacement, module: Arc<Module>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(serving) = last.module(&pair.slot).filter(|serving| serving.digest == pair.digest) else { return };
        let beside = Arc::new(Beside::new(module, Trial::Replacement, Arc::clone(serving)));
        self.change(&pair.slot, |besides| besides.replaced = Some(Arc::clone(&beside)));
    }

    /// The reports of all candidates.
    pub(super) fn report(&self) -> Vec<CandidateReport> {
        let besides = self.besides.load();
        let mut reports: Vec<CandidateReport> = besides
            .iter()
            .flat_map(|(slot, besides)| besides.candidate.iter().chain(&besides.replaced).map(move |one| (slot, one)))
            .map(|(slot, beside)| CandidateReport {
                slot: slot.clone(),
                trial: beside.trial,
                digest: beside.new_and_old().0.digest,
                against: beside.new_and_old().1.digest,
                counts: beside.module.figures.counts(),
                judging: beside.module.figures.times(),
                standing: beside.module.circuit.standing(),
                guard: beside.new_and_old().0.settings().guard,
                expects_refusals: beside.expects_refusals(),
            })
            .collect();
        reports.sort_by(|one, other| (&one.slot, one.trial).cmp(&(&other.slot, other.trial)));
        reports
    }

    /// Changes the modules beside a slot.
    fn change(&self, slot: &Slot, change: impl Fn(&mut Besides)) {
        let before = self.besides.rcu(|now| {
            let mut next = HashMap::clone(now);
            let besides = next.entry(slot.clone()).or_default();
            change(besides);
            if besides.candidate.is_none() && besides.replaced.is_none() {
                next.remove(slot);
            }
            next
        });
        let gone = before.get(slot).cloned().unwrap_or_default();
        let now = self.besides.load().get(slot).cloned().unwrap_or_default();
        let stays = |one: &Arc<Beside>| {
            [&now.candidate, &now.replaced].into_iter().flatten().any(|other| Arc::ptr_eq(one, other))
        };
        let gone = [gone.candidate, gone.replaced].into_iter().flatten().filter(|one| !stays(one));
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(gone.map(|one| (slot.clone(), one)));
    }

    /// Whether a canary judges the events of a session.
    pub(super) fn is_chosen(&self, beside: &Beside, session_id: Uuid) -> bool {
        let Trial::Canary(share) = beside.trial else { return false };
        let Some(key) = **self.key.load() else { return false };
        let mut text = [0; 80];
        text[..32].copy_from_slice(&key);
        text[32..64].copy_from_slice(&beside.module.digest.0);
        text[64..].copy_from_slice(session_id.as_bytes());
        let digest = Digest::of(&text);
        let (first, _) = digest.0.split_first_chunk().expect("a digest has 32 bytes");
        share.has(u64::from_be_bytes(*first))
    }

    /// What was compared since the last call.
    pub(super) fn take(&self) -> Vec<Comparison> {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        let besides = self.besides.load();
        let now = besides.iter().flat_map(|(slot, Besides { candidate, replaced })| {
            candidate.iter().chain(replaced).map(move |beside| (slot, beside))
        });
        left.iter()
            .map(|(slot, beside)| (slot, beside, true))
            .chain(now.map(|(slot, beside)| (slot, beside, false)))
            .filter_map(|(slot, beside, is_over)| beside.take(slot, is_over))
            .collect()
    }
}
