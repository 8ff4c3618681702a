//! Judges the events of one request: finds the module of each, calls it, and lets a canary judge the events of its sessions.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use eye_event::verdict::{UnfinishedCode, Unjudged, Verdict};
use tokio::time::Instant;
use uuid::Uuid;

use super::besides::Besides;
use super::candidate::{Beside, Missing, Paired, Trial};
use super::circuit::Route;
use super::contract::GuestEvent;
use super::keeping::{Decides, Keep};
use super::module::Module;
use super::offload::Time;
use super::registry::{Place, Snapshot};
use super::slot::Slot;
use super::{Inner, Judgement, Subject, Terms, Validators};

/// Whether the events of a request are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dry {
    /// They are.
    No,
    /// They are not, so they are not compared.
    Yes,
    /// They are not, and candidates judge them wherever there are some.
    ByCandidates,
}

/// Judges the events of one request. All of them meet the same modules, even if modules are swapped meanwhile.
pub struct Judging<'a> {
    pub(super) validators: &'a Validators,
    /// Loaded once for the request: all threads share it, and a look for each event would cost more.
    pub(super) modules: Arc<Snapshot>,
    pub(super) began: Instant,
    /// Events that are not judged by then have no outcome yet. `None` when no request waits.
    pub(super) latest: Option<Instant>,
    /// Events that this request has put so far.
    pub(super) asked: u32,
    /// When this task last gave the thread to others.
    pub(super) yielded: Instant,
    /// [`Judging::look`] sets it when the time for judging is over.
    pub(super) late: bool,
    /// The modules beside those that serve; `None` if there are none, or none is to see these events.
    pub(super) besides: Option<Arc<HashMap<Slot, Besides>>>,
    /// Whether the events are not stored.
    pub(super) dry: Dry,
}

/// Events between two looks at the clock.
const EVENTS_PER_LOOK: u32 = 8;
/// A canary gets so small a part of the time for a place.
const CANARY_PART: u32 = 3;
/// How long the events of a request may hold a request thread before other requests get it. A module that takes a
/// millisecond would else hold the thread for as long as the request has events.
const STRETCH: Duration = Duration::from_millis(5);

impl fmt::Debug for Judging<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Judging").finish_non_exhaustive()
    }
}

impl Judging<'_> {
    /// Looks at the clock once in [`EVENTS_PER_LOOK`] events. It gives the thread to others when due, and notes when no
    /// time is left for more events.
    async fn look(&mut self) {
        self.asked = self.asked.wrapping_add(1);
        if !self.asked.is_multiple_of(EVENTS_PER_LOOK) {
            return;
        }
        let now = Instant::now();
        self.late = self.latest.is_some_and(|latest| now >= latest);
        if now >= self.yielded + STRETCH {
            tokio::task::yield_now().await;
            self.yielded = Instant::now();
        }
    }

    /// Judges one event with the module that serves its type.
    pub async fn judge(&mut self, subject: Subject<'_>) -> Judgement {
        self.look().await;
        let module = match self.modules.find(subject.category, subject.name) {
            Some(Place::Taken(module)) => module,
            Some(Place::Held(why) | Place::Yielding(why)) => return unfinished(why.code()),
            None => return self.validators.unknown(&subject),
        };
        if self.late {
            return Judgement { outcome: Err(module.busy()), digest: Some(module.digest) };
        }
        let (mut id, mut session_id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let event = subject.guest_event(&mut id, &mut session_id);
        if let Some(besides) = self.besides.as_ref().and_then(|besides| besides.get(&module.slot)) {
            return self.judge_beside(module, besides, subject.session_id, event).await;
        }
        Judgement { outcome: self.call(module, event).await, digest: Some(module.digest) }
    }

    /// Calls a module, on this thread or away from it.
    async fn call(&self, module: &Arc<Module>, event: GuestEvent<'_>) -> Result<Verdict, Unjudged> {
        let time = Time { place_until: self.began + self.validators.terms.wait, verdict_until: self.latest };
        self.call_within(time, module, event).await
    }

    /// Calls a canary. It gets a part of the time, so that the module that serves can still judge the event.
    async fn call_canary(&self, canary: &Arc<Module>, event: GuestEvent<'_>) -> Result<Verdict, Unjudged> {
        let (now, part) = (Instant::now(), self.validators.terms.wait / CANARY_PART);
        let until = self.latest.map_or(now + part, |latest| latest.min(now + part));
        let time = Time { place_until: until, verdict_until: Some(until) };
        self.call_within(time, canary, event).await
    }

    async fn call_within(&self, time: Time, module: &Arc<Module>, event: GuestEvent<'_>) -> Result<Verdict, Unjudged> {
        let Inner { sandbox, away, .. } = &*self.validators.inner;
        let Terms { check_amended, .. } = &*self.validators.terms;
        match module.circuit.way(event.application) {
            Route::Here => module.judge(sandbox, &event, check_amended),
            Route::Offload => away.judge(module, sandbox, event, check_amended, None, time).await,
            Route::Probe(probe) => away.judge(module, sandbox, event, check_amended, Some(probe), time).await,
            Route::Nowhere => Err(module.off_path()),
        }
    }

    /// Judges one event of a slot that has other modules beside the one that serves. A canary judges the events of its
    /// sessions. If it breaks, the module that serves judges them.
    async fn judge_beside(
        &self,
        module: &Arc<Module>,
        besides: &Besides,
        session_id: Uuid,
        event: GuestEvent<'_>,
    ) -> Judgement {
        let Inner { candidates, comparing, .. } = &*self.validators.inner;
        let check_amended = &self.validators.terms.check_amended;
        // A module that came a moment ago is compared from the next request on.
        let is_of_it = |beside: &&Arc<Beside>| Arc::ptr_eq(&beside.serving, module);
        let candidate = besides.candidate.as_ref().filter(is_of_it);
        if let Some(candidate) = candidate.filter(|_| self.dry == Dry::ByCandidates) {
            let outcome = self.call(&candidate.module, event).await;
            return Judgement { outcome, digest: Some(candidate.module.digest) };
        }
        if let Some(canary) = candidate.filter(|canary| candidates.is_chosen(canary, session_id)) {
            let said = self.call_canary(&canary.module, event).await;
            if let Ok(verdict) = &said {
                if self.dry == Dry::No {
                    canary.judged(verdict);
                    comparing.compare(canary, &event, &said, Missing::Serving, check_amended);
                }
                return Judgement { outcome: said, digest: Some(canary.module.digest) };
            }
            let outcome = self.call(module, event).await;
            if self.dry == Dry::No {
                canary.pair(&Paired::of(&event), &said, &outcome);
            }
            return Judgement { outcome, digest: Some(module.digest) };
        }
        let outcome = self.call(module, event).await;
        let shadow = candidate.filter(|candidate| candidate.trial == Trial::Shadow);
        let others =
            shadow.into_iter().chain(besides.replaced.as_ref().filter(is_of_it)).filter(|_| self.dry == Dry::No);
        for beside in others {
            comparing.compare(beside, &event, &outcome, Missing::Beside, check_amended);
        }
        Judgement { outcome, digest: Some(module.digest) }
    }
}

impl Judging<'_> {
    /// How much of an event of this type with this data may be kept, if the event is not stored.
    pub async fn keep(&self, category: &str, name: &str, data: &str) -> Keep {
        let keeping = &self.validators.inner.keeping;
        let check_amended = &self.validators.terms.check_amended;
        let decides = keeping.decides(&self.modules, category, name);
        let kept = if matches!(decides, Decides::Nobody) {
            Keep::Whole
        } else {
            keeping.keep(decides, data, check_amended).await
        };
        // If a canary takes a text out as a secret, no letter of its slot keeps that text, whichever module judged.
        let Some(canary) = self.taking_canary(category, name) else { return kept };
        match kept {
            Keep::Nothing => Keep::Nothing,
            _ if canary.keeps_nothing() => Keep::Nothing,
            Keep::Whole => keeping.keep(Decides::Module(canary), data, check_amended).await,
            Keep::Redacted(data) => keeping.keep(Decides::Module(canary), &data, check_amended).await,
        }
    }

    /// The canary of an event type, if it takes something out of dead letters.
    fn taking_canary(&self, category: &str, name: &str) -> Option<Arc<Module>> {
        let besides = self.besides.as_ref()?;
        let Some(Place::Taken(module)) = self.modules.find(category, name) else { return None };
        let candidate = besides.get(&module.slot)?.candidate.as_ref()?;
        candidate.takes_out().then(|| Arc::clone(&candidate.module))
    }

    /// Whether a dead letter may keep an event whose type could not be read.
    pub fn keeps_unread(&self) -> bool {
        let candidates =
            self.besides.iter().flat_map(|besides| besides.values()).filter_map(|one| one.candidate.as_ref());
        self.validators.inner.keeping.keeps_unread(&self.modules) && !candidates.into_iter().any(|one| one.takes_out())
    }

    /// Whether dead letters of this event type may lack a part of the event.
    pub fn takes_out(&self, category: &str, name: &str) -> bool {
        self.taking_canary(category, name).is_some()
            || !matches!(self.validators.inner.keeping.decides(&self.modules, category, name), Decides::Nobody)
    }

    /// The slot whose module takes something out of events of this type, or took it out when it served.
    pub fn taking_slot(&self, category: &str, name: &str) -> Option<Slot> {
        self.validators.inner.keeping.taking_slot(&self.modules, category, name)
    }

    /// Whether a refusal of this event type may be one of an event that is stored: its module judges by the time of
    /// receipt, or a canary has judged what another module took before.
    pub fn judges_anew(&self, category: &str, name: &str) -> bool {
        let Some(Place::Taken(module)) = self.modules.find(category, name) else { return false };
        let besides = self.besides.as_ref().and_then(|besides| besides.get(&module.slot));
        let candidate = besides.and_then(|besides| besides.candidate.as_ref());
        module.program().offers().validate_at || candidate.is_some_and(|one| one.trial != Trial::Shadow)
    }
}

/// The judgement of an event that no module saw.
pub(super) fn unfinished(code: UnfinishedCode) -> Judgement {
    Judgement { outcome: Err(code.into()), digest: None }
}
