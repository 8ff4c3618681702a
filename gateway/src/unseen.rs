//! Judges unseen events: events that were quarantined before any module judged them, since theirs was off the path.
//! Once that module is back, or another replaces it, the gateway judges them again by itself. It keeps their order
//! within an event type and application, and judges one at a time and a bounded number per second, so that new events
//! have the module first. One gateway at a time does so for all gateways of a database.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use eye_event::event::EventRow;
use eye_event::outcome::OutcomeKind;
use tokio::time::{Instant, sleep};

use crate::batch::Batcher;
use crate::clock::Clock;
use crate::duties::Duties;
use crate::judging::Judges;
use crate::readiness::Readiness;
use crate::redrive::Redrive;
use crate::response::Refusal;
use crate::store::{self, Duty, UnseenLane};

/// The time between two checks for unseen letters.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause before letters whose module could not judge are tried again. Each pause is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most lanes (pairs of event type and application) that are paused. Beyond it all pauses end.
const PAUSED_MAX: usize = 10_000;
/// Letters that are judged and written together.
const GROUP_LETTERS_MAX: u32 = 50;
/// Lanes of one round.
const LANES_OF_A_ROUND: usize = 100;
/// Groups of one lane before the next lane has its turn.
const GROUPS_AT_A_TURN: usize = 4;

/// Counts the outcomes of unseen letters. The metrics read it.
#[derive(Debug, Default)]
pub struct UnseenCounts([AtomicU64; Self::OUTCOMES.len()]);

impl UnseenCounts {
    /// The outcomes of a letter that a module has judged.
    pub const OUTCOMES: [OutcomeKind; OutcomeKind::ALL.len()] = OutcomeKind::ALL;

    /// The counts, in the order of [`UnseenCounts::OUTCOMES`].
    pub fn counts(&self) -> [u64; Self::OUTCOMES.len()] {
        std::array::from_fn(|place| self.0[place].load(Relaxed))
    }
}

/// The parts that this task uses.
#[derive(Debug)]
pub struct Unseen {
    /// The settings. A reload replaces them.
    pub settings: ArcSwap<UnseenSettings>,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// The queue of rows.
    pub events: Batcher<EventRow>,
    /// The task waits until the schema is proved.
    pub readiness: Arc<Readiness>,
    /// The task works while this gateway has the duty of jobs.
    pub duties: Arc<Duties>,
    /// Counts the outcomes.
    pub counts: Arc<UnseenCounts>,
}

/// The settings of this task. Each round keeps those with which it began.
#[derive(Debug)]
pub struct UnseenSettings {
    /// Judges the events of the letters.
    pub judges: Judges,
    /// The time for one group of letters.
    pub time: Duration,
    /// Most letters per second; 0 turns the task off.
    pub events_per_second_max: u32,
}

/// The reasons why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{}", .0.code())]
    Refused(Refusal),
}

/// The lanes that are paused, and where the next round continues.
#[derive(Default)]
struct Lanes {
    paused: HashMap<UnseenLane, (Instant, Duration)>,
    last: Option<UnseenLane>,
}

impl Lanes {
    fn rests(&self, lane: &UnseenLane) -> bool {
        self.paused.get(lane).is_some_and(|(until, _)| Instant::now() < *until)
    }

    fn pause(&mut self, lane: UnseenLane) {
        if self.paused.len() >= PAUSED_MAX {
            self.paused.clear();
        }
        let pause = self.paused.get(&lane).map_or(LOOK_EVERY, |(_, pause)| (*pause * 2).min(PAUSE_MAX));
        self.paused.insert(lane, (Instant::now() + pause, pause));
    }
}

impl Unseen {
    /// Judges unseen letters now and then, as long as it is polled.
    pub async fn run(&self) {
        let mut modules = self.settings.load().judges.validators.changes();
        let mut lanes = Lanes::default();
        loop {
            sleep(LOOK_EVERY).await;
            let settings = self.settings.load_full();
            let is_off = settings.events_per_second_max == 0 || !self.duties.holds(Duty::Jobs);
            if is_off || !self.readiness.is_migrated() || !settings.judges.validators.scanned() {
                continue;
            }
            // A new module may judge what the earlier one could not.
            if modules.has_changed().unwrap_or(false) {
                modules.mark_unchanged();
                lanes.paused.clear();
            }
            let look = self.duties.while_held(Duty::Jobs, self.look(&settings, &mut lanes));
            if let Some(Err(error)) = look.await {
                tracing::debug!(%error, "unseen letters could not be judged again now");
            }
        }
    }

    async fn look(&self, settings: &UnseenSettings, lanes: &mut Lanes) -> Result<(), Broken> {
        let store = &settings.judges.store;
        if store.next_unseen(None).await?.is_none() {
            lanes.paused.clear();
            return Ok(());
        }
        let Some(turn) = store.unseen_turn().await? else { return Ok(()) };
        let round = self.round(settings, lanes).await;
        turn.end().await;
        round
    }

    /// Gives each lane its turn, starting where the last round ended.
    async fn round(&self, settings: &UnseenSettings, lanes: &mut Lanes) -> Result<(), Broken> {
        for _ in 0..LANES_OF_A_ROUND {
            let Some(lane) = settings.judges.store.next_unseen(lanes.last.as_ref()).await? else {
                lanes.last = None;
                break;
            };
            lanes.last = Some(lane.clone());
            if lanes.rests(&lane) {
                continue;
            }
            match self.judge(settings, &lane).await {
                Ok(true) => drop(lanes.paused.remove(&lane)),
                Ok(false) => lanes.pause(lane),
                Err(broken) => {
                    // The pause keeps letters that cannot be stored now from blocking the other lanes.
                    lanes.pause(lane);
                    return Err(broken);
                }
            }
        }
        Ok(())
    }

    /// Judges the first letters of a lane. Returns false when their module cannot judge now.
    async fn judge(&self, settings: &UnseenSettings, lane: &UnseenLane) -> Result<bool, Broken> {
        let redrive = Redrive {
            judges: &settings.judges,
            clock: &self.clock,
            events: &self.events,
            time: settings.time,
            entry: None,
        };
        let mut sum = [0; UnseenCounts::OUTCOMES.len()];
        let mut judges = true;
        for _ in 0..GROUPS_AT_A_TURN {
            let group = redrive.run_unseen(lane, GROUP_LETTERS_MAX).await.map_err(Broken::Refused)?;
            for (place, outcome) in UnseenCounts::OUTCOMES.into_iter().enumerate() {
                let count = group.report.count(outcome.into()) as u64;
                self.counts.0[place].fetch_add(count, Relaxed);
                sum[place] += count;
            }
            let done = u32::try_from(group.report.results.len()).unwrap_or(u32::MAX);
            sleep(Duration::from_secs(1) * done / settings.events_per_second_max).await;
            judges = group.judges;
            if !judges || done == 0 {
                break;
            }
        }
        let [stored, duplicate, rejected, quarantined] = sum;
        if sum.iter().any(|count| *count > 0) {
            tracing::info!(
                event_type = format!("{}/{}", lane.category, lane.name),
                stored,
                duplicate,
                rejected,
                quarantined,
                "events that were quarantined while their module was off the path were judged"
            );
        }
        Ok(judges)
    }
}
