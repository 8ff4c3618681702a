//! The job `rejudge`: judges unseen events, which were quarantined before any module judged them, since theirs was off the
//! path. The gateway asks for it by itself when there are any. Once that module is back, or another replaces it, the job
//! judges them. It keeps their order within an event type and application, and judges one at a time and a bounded number
//! per second, so that new events have the module first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use eye_event::outcome::OutcomeKind;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::{JobSettings, Jobs, Kind, Next, Progress, Step};
use crate::redrive::LetterOutcome;
use crate::response::{Refusal, of_store};
use crate::store::{Error, NewJob, Store, UnseenLane, UnseenTurn};

/// The pause while no lane can be judged.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause before letters whose module could not judge are tried again. Each pause is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most lanes (pairs of event type and application) that are paused. Beyond it all pauses end.
const PAUSED_MAX: usize = 10_000;
/// Letters that are judged and written together.
const GROUP_LETTERS_MAX: u32 = 50;
/// Most lanes that are looked at in one step.
const LANES_OF_A_STEP: usize = 100;
/// Groups of one lane before the next lane has its turn.
const GROUPS_AT_A_TURN: u32 = 4;

/// Counts the outcomes of unseen letters. The metrics read it.
#[derive(Debug, Default)]
pub struct RejudgeCounts([AtomicU64; Self::OUTCOMES.len()]);

impl RejudgeCounts {
    /// The outcomes of a letter that a module has judged.
    pub const OUTCOMES: [OutcomeKind; OutcomeKind::ALL.len()] = OutcomeKind::ALL;

    /// The counts, in the order of [`RejudgeCounts::OUTCOMES`].
    pub fn counts(&self) -> [u64; Self::OUTCOMES.len()] {
        std::array::from_fn(|place| self.0[place].load(Relaxed))
    }
}

/// Asks for the job when there are unseen letters.
pub(super) async fn ask(jobs: &Jobs) -> Result<(), Error> {
    if jobs.settings.load().unseen_per_second_max == 0 || jobs.store.next_unseen(None).await?.is_none() {
        return Ok(());
    }
    let actor = jobs.store.actor().clone();
    let (kind, request) = (Kind::Rejudge.as_str(), json!({}).to_string());
    jobs.store.job_ask_own(&NewJob { id: Uuid::now_v7(), kind, dry_run: false, request, actor, module: None }).await
}

/// The lane whose turn it is.
struct Turn {
    lane: UnseenLane,
    groups: u32,
    sum: Progress,
}

/// The lanes that are paused, and where the next round continues.
#[derive(Default)]
struct Lanes {
    paused: HashMap<UnseenLane, (Instant, Duration)>,
    last: Option<UnseenLane>,
}

/// The next thing to do.
enum Found {
    Lane(UnseenLane),
    /// All lanes that were looked at are paused.
    Paused,
    /// There are no unseen letters.
    Nothing,
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

    /// Gives each lane its turn, starting after the last one.
    async fn next(&mut self, store: &Store) -> Result<Found, Error> {
        for _ in 0..LANES_OF_A_STEP {
            let Some(lane) = store.next_unseen(self.last.as_ref()).await? else {
                return Ok(if self.last.take().is_some() { Found::Paused } else { Found::Nothing });
            };
            self.last = Some(lane.clone());
            if !self.rests(&lane) {
                return Ok(Found::Lane(lane));
            }
        }
        Ok(Found::Paused)
    }
}

/// A run of the job.
pub(super) struct Work {
    lanes: Lanes,
    turn: Option<Turn>,
    modules: watch::Receiver<u64>,
    session: Option<UnseenTurn>,
}

impl Work {
    pub(super) fn begin(settings: &JobSettings) -> Self {
        let modules = settings.judges.validators.changes();
        Self { lanes: Lanes::default(), turn: None, modules, session: None }
    }

    pub(super) async fn step(&mut self, jobs: &Jobs, settings: &JobSettings) -> Result<Step, Refusal> {
        let rate = settings.unseen_per_second_max;
        if self.session.is_none() {
            self.session = jobs.store.unseen_turn().await.map_err(of_store)?;
        }
        if rate == 0 || self.session.is_none() {
            return Ok(Step::idle(Next::After(LOOK_EVERY)));
        }
        // A new module may judge what the earlier one could not.
        if self.modules.has_changed().unwrap_or(false) {
            self.modules.mark_unchanged();
            self.lanes.paused.clear();
        }
        let mut turn = match self.turn.take() {
            Some(turn) => turn,
            None => match self.lanes.next(&jobs.store).await.map_err(of_store)? {
                Found::Lane(lane) => Turn { lane, groups: 0, sum: Progress::default() },
                Found::Paused => return Ok(Step::idle(Next::After(LOOK_EVERY))),
                Found::Nothing => return Ok(Step::idle(Next::Done)),
            },
        };
        let redrive = jobs.redrive(settings, settings.time);
        let mut group = match redrive.run_unseen(&turn.lane, GROUP_LETTERS_MAX).await {
            Ok(group) => group,
            Err(refusal) => {
                // The pause keeps letters that cannot be stored now from blocking the other lanes.
                self.lanes.pause(turn.lane);
                return Err(refusal);
            }
        };
        let was_empty = group.judges && group.report.results.is_empty();
        // Letters that were left are tried again, so they are not done.
        group.report.results.retain(|result| result.outcome != LetterOutcome::Skipped);
        let results = group.report.results;
        let done = u32::try_from(results.len()).unwrap_or(u32::MAX);
        turn.groups += 1;
        turn.sum.add(&results);
        if !group.judges || (done == 0 && !was_empty) {
            turn.say();
            self.lanes.pause(turn.lane);
        } else if was_empty || turn.groups >= GROUPS_AT_A_TURN {
            turn.say();
            self.lanes.paused.remove(&turn.lane);
        } else {
            self.turn = Some(turn);
        }
        let place = (done > 0).then(|| json!({}));
        let next = Next::After(Duration::from_secs(1) * done / rate);
        Ok(Step { results, added: Progress::default(), total: None, place, changes: group.changes, next })
    }

    /// Counts a step that is committed.
    pub(super) fn committed(&mut self, step: &Step, counts: &RejudgeCounts) {
        for (place, outcome) in RejudgeCounts::OUTCOMES.into_iter().enumerate() {
            let count = step.results.iter().filter(|result| result.outcome == outcome.into()).count();
            counts.0[place].fetch_add(count as u64, Relaxed);
        }
    }
}

impl Turn {
    fn say(&self) {
        let Progress { done, stored, duplicate, rejected, quarantined, .. } = self.sum;
        if done == 0 {
            return;
        }
        tracing::info!(
            event_type = format!("{}/{}", self.lane.category, self.lane.name),
            stored,
            duplicate,
            rejected,
            quarantined,
            "events that were quarantined while their module was off the path were judged"
        );
    }
}
