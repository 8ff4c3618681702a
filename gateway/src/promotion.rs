//! Promotes candidates by the steps that their settings name. The gateway that has the duty `jobs` looks each second: a step is
//! over after its time, once enough events were compared in it; the guard takes a bad candidate back meanwhile. Which step it
//! is and since when stands in the generation, so another gateway goes on where this one stops.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use eye_event::verdict::Digest;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::audit::{Action, Actor, Entry};
use crate::duties::Duties;
use crate::fleet::Fleet;
use crate::shipping::terms::{STEP_COMPARED_MIN, Terms, promoted, settings_of};
use crate::store::{Duty, Error, NewPreparation, NewSlot, SteppedRow, Store};

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a step waits for gateways that prepare it.
const PREPARATION_TIME: Duration = Duration::from_secs(600);

/// Promotes candidates step by step.
#[derive(Debug)]
pub struct Promotion {
    store: Store,
    duties: Arc<Duties>,
    fleet: Arc<Fleet>,
    /// The step of each candidate, from 1, by event type. Metrics read it.
    steps: Mutex<BTreeMap<String, usize>>,
}

impl Promotion {
    /// Looks only while this gateway has the duty.
    pub fn new(store: Store, duties: Arc<Duties>, fleet: Arc<Fleet>) -> Self {
        Self { store, duties, fleet, steps: Mutex::default() }
    }

    /// The step of each candidate that is promoted by itself, from 1, at the gateway with the duty.
    pub fn steps(&self) -> BTreeMap<String, usize> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Promotes until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let steps = match self.duties.holds(Duty::Jobs) {
                true => self.duties.while_held(Duty::Jobs, self.look()).await.unwrap_or_else(|| Ok(BTreeMap::new())),
                false => Ok(BTreeMap::new()),
            };
            match steps {
                Ok(steps) => *self.steps.lock().unwrap_or_else(PoisonError::into_inner) = steps,
                Err(error) => tracing::debug!(%error, "candidates could not be promoted; trying again"),
            }
        }
    }

    async fn look(&self) -> Result<BTreeMap<String, usize>, Error> {
        let mut steps = BTreeMap::new();
        for row in self.store.stepped_candidates().await? {
            let terms = Terms::of(row.settings.as_deref());
            let Some(place) = terms.place() else { continue };
            steps.insert(row.event_type.clone(), place + 1);
            let Some((step, next)) = terms.steps().and_then(|steps| steps.at(terms.mode, terms.share)) else {
                continue;
            };
            let is_over = row.seconds >= step.time.as_secs_f64() && row.compared >= STEP_COMPARED_MIN;
            if !is_over || row.is_busy {
                continue;
            }
            let next = next.map(|next| Terms::of_step(next, terms.auto.as_deref().unwrap_or_default()));
            if let Err(error) = self.promote(&row, next.as_ref()).await {
                tracing::warn!(%error, event_type = row.event_type, "a candidate is not promoted yet; trying again");
            }
        }
        Ok(steps)
    }

    /// Asks for the next step, or lets the candidate serve after the last one.
    async fn promote(&self, row: &SteppedRow, next: Option<&Terms>) -> Result<(), Error> {
        let digest = |bytes: &[u8]| bytes.try_into().ok().map(Digest);
        let Some(candidate) = digest(&row.digest) else { return Ok(()) };
        let settings = match next {
            Some(_) => settings_of(row.settings.as_deref(), candidate, next, false),
            None => promoted(row.settings.as_deref(), row.serves_settings.as_deref(), candidate),
        };
        let tried = NewSlot {
            event_type: row.slot.clone(),
            digest: next.map(|_| candidate),
            settings: settings.clone().filter(|_| next.is_some()),
            replaces: Some(candidate),
            replaces_settings: row.settings.clone(),
        };
        let serving = next.is_none().then(|| NewSlot {
            event_type: row.event_type.clone(),
            digest: Some(candidate),
            settings,
            replaces: row.serves.as_deref().and_then(digest),
            replaces_settings: row.serves_settings.clone(),
        });
        let actor = Actor::gateway();
        let entry = Entry::new(Action::ValidatorPromote, &row.event_type, &actor)
            .with("digest", candidate.to_string())
            .with("mode", next.map(|next| next.mode.as_str()))
            .with("percent", next.and_then(Terms::percent));
        let new = NewPreparation {
            id: Uuid::now_v7(),
            cause: "promote",
            forced: false,
            based_on: None,
            wait: PREPARATION_TIME,
            slots: std::iter::once(tried).chain(serving).collect(),
        };
        self.store.ask_preparation(&new, &actor, &entry).await?;
        self.fleet.wake();
        Ok(())
    }
}
