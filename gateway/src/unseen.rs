//! Events that were quarantined although no module had looked at them, because theirs was off the path. Once it is back, or
//! another took its place, the gateway judges them again by itself, in the order in which they came for each event type and
//! application, one at a time and so many a second, so that they never take a module from new events. One gateway of those
//! that share a database does so; letters of the others and of earlier lives are among them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::gateway::Gateway;
use crate::redrive::{Ended, Redrive};
use crate::response::Refusal;
use crate::store::{self, UnseenLane};

/// How often it is looked whether there are any.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause before letters are tried again whose module could not judge; each is twice the one before.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Event types and applications that are paused. Beyond it all are tried again.
const PAUSED_MAX: usize = 10_000;
/// Letters that are judged and written together.
const PARCEL_LETTERS_MAX: u32 = 50;
/// Event types and applications that are looked at in a round.
const LANES_OF_A_ROUND: usize = 100;
/// Parcels of one event type and application before the next ones have their turn.
const PARCELS_AT_A_TURN: usize = 4;

/// How many letters ended how.
#[derive(Debug, Default)]
pub struct Unseen {
    counts: [AtomicU64; Self::ENDINGS.len()],
}

impl Unseen {
    /// How a letter can end that a module has looked at.
    pub const ENDINGS: [(Ended, &'static str); 4] = [
        (Ended::Stored, "stored"),
        (Ended::Duplicate, "duplicate"),
        (Ended::Rejected, "rejected"),
        (Ended::Quarantined, "quarantined"),
    ];

    /// How many ended so, in the order of [`Unseen::ENDINGS`].
    pub fn counts(&self) -> [u64; Self::ENDINGS.len()] {
        std::array::from_fn(|place| self.counts[place].load(Relaxed))
    }
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{}", .0.code())]
    Refused(Refusal),
}

/// When letters are tried again whose module could not judge, and where the next round goes on.
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

/// Judges them again, now and then, for as long as it is polled.
pub async fn run(gateway: &Gateway) {
    if gateway.config.rejudge_events_per_second_max == 0 {
        return;
    }
    let mut modules = gateway.validators.changes();
    let mut lanes = Lanes::default();
    loop {
        sleep(LOOK_EVERY).await;
        if !gateway.is_migrated() || !gateway.validators.scanned() {
            continue;
        }
        // Another module may judge what the one before could not.
        if modules.has_changed().unwrap_or(false) {
            modules.mark_unchanged();
            lanes.paused.clear();
        }
        if let Err(error) = look(gateway, &mut lanes).await {
            tracing::debug!(%error, "letters that no module has looked at could not be judged again now");
        }
    }
}

async fn look(gateway: &Gateway, lanes: &mut Lanes) -> Result<(), Broken> {
    if gateway.store.next_unseen(None).await?.is_none() {
        lanes.paused.clear();
        return Ok(());
    }
    let Some(turn) = gateway.store.unseen_turn().await? else { return Ok(()) };
    let round = round(gateway, lanes).await;
    turn.end().await;
    round
}

/// Gives each event type and application its turn, from where the round before ended.
async fn round(gateway: &Gateway, lanes: &mut Lanes) -> Result<(), Broken> {
    for _ in 0..LANES_OF_A_ROUND {
        let Some(lane) = gateway.store.next_unseen(lanes.last.as_ref()).await? else {
            lanes.last = None;
            break;
        };
        lanes.last = Some(lane.clone());
        if lanes.rests(&lane) {
            continue;
        }
        match judge(gateway, &lane).await {
            Ok(true) => drop(lanes.paused.remove(&lane)),
            Ok(false) => lanes.pause(lane),
            Err(broken) => {
                // Letters that cannot be stored now must not keep the others from their turn.
                lanes.pause(lane);
                return Err(broken);
            }
        }
    }
    Ok(())
}

/// Judges the first letters of an event type and application. False when their module cannot judge now.
async fn judge(gateway: &Gateway, lane: &UnseenLane) -> Result<bool, Broken> {
    let redrive = Redrive {
        store: &gateway.store,
        rules: &gateway.rules,
        clock: &gateway.clock,
        validators: &gateway.validators,
        events: &gateway.events,
        event_types_max: gateway.config.event_types_max,
        time: Duration::from_millis(gateway.config.answer_ms),
    };
    let mut sum = [0; Unseen::ENDINGS.len()];
    let mut judges = true;
    for _ in 0..PARCELS_AT_A_TURN {
        let parcel = redrive.run_unseen(lane, PARCEL_LETTERS_MAX).await.map_err(Broken::Refused)?;
        for (place, (ending, _)) in Unseen::ENDINGS.into_iter().enumerate() {
            let count = parcel.report.count(ending) as u64;
            gateway.unseen.counts[place].fetch_add(count, Relaxed);
            sum[place] += count;
        }
        let done = u32::try_from(parcel.report.results.len()).unwrap_or(u32::MAX);
        sleep(Duration::from_secs(1) * done / gateway.config.rejudge_events_per_second_max).await;
        judges = parcel.judges;
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
