//! Keeps this gateway in step with the others on its database. Each gateway writes a row of itself every second. With
//! `modules_from = "database"` it also prepares the modules that are to serve, tells what it thinks of them, and swaps to
//! each new generation as soon as the database says that there is one. The database decides what the current generation
//! is; a gateway that cannot ask it serves on with its last one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use eye_event::verdict::Digest;
use eye_judge::{Generation, ModulesFrom, Refusal, Role, Slot, SlotModule, Unprepared, Validators};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::{self, Beat, GatewayRow, GenerationId, Head, LIVING, Pending, PreparationRow, SlotRow, Store};

/// The time between two rows of this gateway, and between two looks at the generation if no notification comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a gateway that knows of a newer generation may serve the one before and still be ready.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// How long a starting gateway waits for the database before it serves its last generation.
const RESUME_AFTER: Duration = Duration::from_secs(2);
/// The time between two tries of modules that the generation has and this gateway cannot load.
const HELD_RETRY: Duration = Duration::from_secs(5);
/// The time between two tries of a module that found no room.
const PASSING_RETRY: Duration = Duration::from_secs(1);
/// The time between two looks whether the schema is proved.
const READY_LOOK: Duration = Duration::from_millis(20);
/// The pause after an error of the database.
const ERROR_PAUSE: Duration = Duration::from_millis(500);
/// Longest time for writing the row of this gateway.
const BEAT_TIME: Duration = Duration::from_secs(2);
/// Longest time for saying goodbye.
const LEAVE: Duration = Duration::from_secs(1);
/// Modules that are prepared side by side. The validators bound how many of them load at once.
const PREPARED_AT_ONCE: usize = 16;
/// Preparations under way at once. Each holds the contents of its modules, and a connection to read them.
const PREPARATIONS_AT_ONCE: usize = 4;
/// Bytes of contents that are read from the database together, and how many contents at most.
const CONTENTS_BYTES: usize = 16 << 20;
const CONTENTS_AT_ONCE: usize = 64;
/// The time between two removals of what the database need not keep.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// After this time without an answer of the database a gateway takes itself for gone, as the others soon do.
const LEASE: Duration = LIVING.saturating_sub(Duration::from_secs(2));
/// Most characters of a problem.
const PROBLEM_CHARACTERS: usize = 500;
/// Problems that the row of a gateway has, and most bytes of them.
const PROBLEMS_MAX: usize = 50;
const PROBLEMS_BYTES_MAX: usize = 48 << 10;
/// The time between two looks at a preparation, if nothing is told of it.
const PREPARATION_LOOK: Duration = Duration::from_millis(250);

/// The modules of a generation.
type Slots = BTreeMap<(Role, Slot), SlotModule>;

/// What this gateway says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// The address on which it takes events.
    pub listen: String,
    /// Where its modules come from.
    pub modules_from: ModulesFrom,
}

/// This gateway among those on its database.
#[derive(Debug)]
pub struct Fleet {
    store: Store,
    validators: Validators,
    identity: Identity,
    standing: Mutex<Standing>,
    /// Other gateways on this database that are alive.
    others: AtomicI64,
    guard_minutes: AtomicU64,
    /// Its row was written once. From then on generations wait for it, so it may serve them.
    joined: AtomicBool,
    /// Wakes the task that follows the generations.
    asked: Notify,
    /// Wakes the task that writes the row of this gateway: it serves another generation.
    swapped: Notify,
    /// Changes whenever the database told of a change, or this gateway swapped.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Standing {
    /// The generation that serves.
    served: Option<(GenerationId, Slots)>,
    /// Since when a newer one is known.
    behind_since: Option<Instant>,
    /// When the database last told the current generation, and when it last took the row of this gateway. `None` before.
    looked_at: Option<Instant>,
    beat_at: Option<Instant>,
    preparing: usize,
    /// Why the generation of the database is not taken, and which one it was.
    doubt: Option<String>,
    doubted: GenerationId,
}

/// The end of work beside the task that follows the fleet.
enum Ended {
    /// A preparation. Without a refusal, and passing, it failed for the database, and nothing is told of it.
    Prepared { id: Uuid, refusal: Option<Value>, is_passing: bool },
    /// Another try of the modules that this gateway could not load.
    Retried(Vec<SlotModule>),
    /// Nobody needs the preparation any more.
    Dropped,
    /// It panicked.
    Lost,
}

/// The work under way.
#[derive(Default)]
struct Working {
    tasks: JoinSet<Ended>,
    /// The preparations, with the number of their modules.
    under_way: HashMap<Uuid, (AbortHandle, usize)>,
    /// Preparations that are tried again, and when.
    retries: HashMap<Uuid, Instant>,
    retries_held: bool,
}

impl Fleet {
    /// A gateway that has not asked its database yet.
    pub fn new(store: Store, validators: Validators, identity: Identity) -> Self {
        Self {
            store,
            validators,
            identity,
            standing: Mutex::default(),
            guard_minutes: AtomicU64::new(0),
            others: AtomicI64::new(0),
            joined: AtomicBool::new(false),
            asked: Notify::new(),
            swapped: Notify::new(),
            changes: watch::Sender::new(0),
        }
    }

    /// Changes how long the guard may still go back to a version, so that its content is kept.
    pub fn set_guard_minutes(&self, minutes: u64) {
        self.guard_minutes.store(minutes, Relaxed);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the modules of this gateway come from.
    pub fn modules_from(&self) -> ModulesFrom {
        self.identity.modules_from
    }

    /// How many other gateways on this database were alive at the last look.
    pub fn others(&self) -> i64 {
        self.others.load(Relaxed)
    }

    /// Whether this gateway has known of another generation for longer than it may and still be ready, or cannot know
    /// whether there is one: then no generation waits for it any more.
    pub fn is_behind(&self) -> bool {
        if self.identity.modules_from == ModulesFrom::Directory {
            return false;
        }
        let is_over = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() > LEASE);
        let standing = self.standing();
        standing.doubt.is_some()
            || standing.behind_since.is_some_and(|since| since.elapsed() > BEHIND_MAX)
            || is_over(standing.looked_at)
            || is_over(standing.beat_at)
    }

    /// Whether a row is that of this gateway, now or before a restart: then it was written last before this gateway wrote
    /// its first. Two machines made of one image have the same name and address, and are two.
    pub fn is_own(&self, row: &GatewayRow, rows: &[GatewayRow]) -> bool {
        let is_alike = row.name == self.identity.name && row.listen == self.identity.listen;
        let own = rows.iter().find(|one| one.id == self.store.id());
        row.id == self.store.id() || is_alike && own.is_some_and(|own| row.seen <= own.since)
    }

    /// Why this gateway does not take the generation of the database, if it does not.
    pub fn in_doubt(&self) -> Option<String> {
        self.standing().doubt.clone()
    }

    /// The number of the generation that serves. While it is doubted what is current, it is none.
    pub fn serves(&self) -> u64 {
        if self.in_doubt().is_some() { 0 } else { self.validators.generation() }
    }

    /// Lets the task look at once: this gateway has asked for a preparation.
    pub fn wake(&self) {
        self.asked.notify_one();
    }

    /// Follows the fleet until `stop`, from the moment on at which the schema is proved.
    pub async fn run(self: Arc<Self>, is_ready: impl Fn() -> bool + Sync, stop: CancellationToken) {
        let follows = self.identity.modules_from == ModulesFrom::Database;
        // A reader writes nothing, so nothing waits for it; it only serves what there is.
        let writes = self.store.role() == store::Role::Full;
        self.joined.store(!writes, Relaxed);
        tokio::select! {
            () = stop.cancelled() => {}
            never = self.beat(&is_ready), if writes => match never {},
            never = self.listen(&is_ready), if follows && writes => match never {},
            never = self.follow(&is_ready), if follows => match never {},
        }
        if is_ready() && writes {
            let _gone = timeout(LEAVE, self.store.gateway_leave()).await;
        }
    }

    /// Writes the row of this gateway, each second.
    async fn beat(&self, is_ready: &impl Fn() -> bool) -> Infallible {
        while !is_ready() {
            sleep(READY_LOOK).await;
        }
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut changes, mut problems, mut told_of) = (self.validators.changes(), Vec::new(), false);
        let (mut forget_at, mut forgets) = (Instant::now() + FORGET_EVERY, JoinSet::new());
        changes.mark_changed();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Who looks right after a change sees who serves it.
                () = self.swapped.notified() => {}
            }
            if changes.has_changed().unwrap_or(false) {
                changes.mark_unchanged();
                problems = self.problems();
            }
            let (preparing, doubt) = {
                let standing = self.standing();
                (standing.preparing, standing.doubt.clone())
            };
            let told: Vec<Value> = doubt.map(|why| json!({"why": why})).into_iter().chain(problems.clone()).collect();
            let beat = Beat {
                name: &self.identity.name,
                listen: &self.identity.listen,
                modules_from: self.identity.modules_from.as_str(),
                generation: self.validators.generation(),
                preparing,
                problems: &told,
            };
            // The others count from the moment at which the row was written, which is not before this one.
            let asked_at = Instant::now();
            let beat = timeout(BEAT_TIME, self.store.gateway_beat(&beat)).await;
            match beat.unwrap_or(Err(store::Error::Slow(BEAT_TIME))) {
                Ok(others) => {
                    self.others.store(others, Relaxed);
                    self.standing().beat_at = Some(asked_at);
                    told_of = false;
                    if !self.joined.swap(true, Relaxed) {
                        self.asked.notify_one();
                    }
                }
                Err(error) if !self.store.is_away() && !std::mem::replace(&mut told_of, true) => {
                    tracing::warn!(%error, "this gateway cannot tell the others of itself; trying again");
                }
                Err(error) => tracing::debug!(%error, "the row of this gateway could not be written"),
            }
            while forgets.try_join_next().is_some() {}
            if Instant::now() >= forget_at && forgets.is_empty() {
                forget_at = Instant::now() + FORGET_EVERY;
                let (store, guard) = (self.store.clone(), self.guard_minutes.load(Relaxed) * 60);
                forgets.spawn(async move {
                    if let Err(error) = store.forget_modules(Duration::from_secs(guard)).await {
                        tracing::debug!(%error, "old versions of modules could not be removed");
                    }
                });
            }
        }
    }

    /// What is wrong with the modules of this gateway.
    fn problems(&self) -> Vec<Value> {
        let reports = self.validators.report().into_iter();
        let refused = reports.filter_map(|report| {
            let error = report.last_error?;
            let digest = error.digest.map(|digest| digest.to_string());
            let why: String = error.refusal.to_string().chars().take(PROBLEM_CHARACTERS).collect();
            Some(json!({"event_type": report.event_type, "digest": digest, "why": why}))
        });
        let mut bytes = 0;
        let fits = |problem: &Value| {
            bytes += problem.to_string().len();
            bytes <= PROBLEMS_BYTES_MAX
        };
        refused.take(PROBLEMS_MAX).take_while(fits).collect()
    }

    /// Wakes the task whenever the database tells of a change.
    async fn listen(&self, is_ready: &impl Fn() -> bool) -> Infallible {
        loop {
            if is_ready()
                && let Ok(mut told) = self.store.fleet_changes().await
            {
                self.asked.notify_one();
                while told.changed().await.is_ok() {
                    self.asked.notify_one();
                    self.changes.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            sleep(ERROR_PAUSE).await;
        }
    }

    async fn follow(&self, is_ready: &impl Fn() -> bool) -> Infallible {
        let (began, mut working, mut told) = (Instant::now(), Working::default(), false);
        let (mut ticks, mut held_at) = (interval(LOOK_EVERY), Instant::now());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_resumed = false;
        loop {
            let may_look = is_ready() && self.joined.load(Relaxed);
            let looked = if may_look { self.look(&mut working).await } else { Ok(()) };
            if let Err(error) = &looked
                && !std::mem::replace(&mut told, true)
                && !self.store.is_away()
            {
                tracing::warn!(%error, "the generation of the fleet could not be read; trying again");
            }
            told &= looked.is_err();
            let waits = self.standing().served.is_none();
            if waits && !has_resumed && began.elapsed() >= RESUME_AFTER && (!may_look || looked.is_err()) {
                has_resumed = true;
                self.resume().await;
            }
            if may_look && looked.is_ok() && Instant::now() >= held_at {
                held_at = Instant::now() + HELD_RETRY;
                self.retry_held(&mut working);
            }
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.asked.notified() => {}
                ended = next(&mut working.tasks) => self.ended_work(ended, &mut working).await,
                () = sleep(ERROR_PAUSE), if waits || looked.is_err() => {}
            }
        }
    }

    /// Takes the current generation, begins to prepare what waits, and makes the next generation if all have prepared it.
    async fn look(&self, working: &mut Working) -> Result<(), store::Error> {
        loop {
            let asked_at = Instant::now();
            let head = self.store.fleet_head().await?;
            self.take(&head).await?;
            self.standing().looked_at = Some(asked_at);
            if self.store.role() == store::Role::Reader {
                return Ok(());
            }
            self.forget(&head.pending, working);
            let mut is_new = false;
            for waiting in head.pending {
                let is_due = working.retries.get(&waiting.id).map_or(!waiting.told, |at| Instant::now() >= *at);
                if is_due && !waiting.slots.is_empty() {
                    self.begin(&waiting, working);
                }
                if waiting.told || waiting.over || waiting.slots.is_empty() {
                    match self.store.activate_preparation(waiting.id).await {
                        Ok(state) => is_new |= state == "active",
                        Err(error @ store::Error::Refused(_)) => {
                            tracing::warn!(%error, "a generation could not be made; trying again");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            if !is_new {
                return Ok(());
            }
        }
    }

    /// Drops what was prepared and is not needed any more.
    fn forget(&self, waiting: &[Pending], working: &mut Working) {
        let is_waiting = |id: &Uuid| waiting.iter().any(|one| one.id == *id);
        working.retries.retain(|id, _| is_waiting(id));
        for (id, (task, _)) in &working.under_way {
            if !is_waiting(id) {
                task.abort();
            }
        }
        working.under_way.retain(|id, _| is_waiting(id));
        self.count_preparing(working);
        let slots = waiting.iter().flat_map(|waiting| &waiting.slots).filter_map(|(row, _)| module_of(row));
        let mut needed: HashSet<SlotModule> = slots.collect();
        let standing = self.standing();
        needed.extend(standing.served.iter().flat_map(|(_, slots)| slots.values()).cloned());
        drop(standing);
        self.validators.keep_prepared(&needed);
    }

    fn count_preparing(&self, working: &Working) {
        self.standing().preparing = working.under_way.values().map(|(_, modules)| modules).sum();
    }

    /// Begins to prepare, unless that is under way or enough others are.
    fn begin(&self, waiting: &Pending, working: &mut Working) {
        if working.under_way.len() >= PREPARATIONS_AT_ONCE || working.under_way.contains_key(&waiting.id) {
            return;
        }
        let modules: Vec<(SlotModule, bool)> =
            waiting.slots.iter().filter_map(|(row, must_redact)| Some((module_of(row)?, *must_redact))).collect();
        let (store, validators, id, count) = (self.store.clone(), self.validators.clone(), waiting.id, modules.len());
        let task = working.tasks.spawn(async move {
            let prepared = prepare_all(&store, &validators, &modules).await;
            let (refusal, is_passing) = match prepared {
                Ok(Prepared { refused: None, is_whole }) => (None, !is_whole),
                Ok(Prepared { refused: Some((module, why)), .. }) => {
                    (Some(refusal_of(&module, &why)), why.is_passing())
                }
                // Another look tries again.
                Err(_) => (None, true),
            };
            Ended::Prepared { id, refusal, is_passing }
        });
        working.under_way.insert(id, (task, count));
        self.count_preparing(working);
    }

    async fn ended_work(&self, ended: Ended, working: &mut Working) {
        match ended {
            Ended::Prepared { id, refusal, is_passing } => {
                working.under_way.remove(&id);
                self.count_preparing(working);
                self.tell(id, refusal, is_passing, working).await;
                // Another one may have waited for its place.
                self.asked.notify_one();
            }
            Ended::Dropped => {}
            // It is not known which one it was, so all may begin again; what is prepared already costs nothing.
            Ended::Lost => {
                let over = Instant::now() + PASSING_RETRY;
                working.retries.extend(working.under_way.drain().map(|(id, _)| (id, over)));
                working.retries_held = false;
                self.count_preparing(working);
            }
            Ended::Retried(held) => {
                working.retries_held = false;
                let is_better = held.iter().any(|module| self.validators.unprepared(module).is_none());
                let served = self.standing().served.clone();
                if let Some((generation, slots)) = served.filter(|_| is_better) {
                    self.serve(generation, slots).await;
                }
            }
        }
    }

    /// Tells the others what this gateway thinks of a preparation.
    async fn tell(&self, id: Uuid, refusal: Option<Value>, is_passing: bool, working: &mut Working) {
        working.retries.remove(&id);
        if is_passing {
            working.retries.insert(id, Instant::now() + PASSING_RETRY);
            if refusal.is_none() {
                return;
            }
        }
        if let Err(error) = self.store.note_prepared(id, refusal).await {
            tracing::debug!(%error, "what this gateway has prepared could not be told");
            working.retries.insert(id, Instant::now() + PASSING_RETRY);
        }
    }

    /// Takes the current generation, unless it is the one that serves.
    async fn take(&self, head: &Head) -> Result<(), store::Error> {
        let served = self.standing().served.clone();
        if served.as_ref().is_some_and(|(own, _)| *own == head.generation) {
            let mut standing = self.standing();
            (standing.behind_since, standing.doubt) = (None, None);
            return Ok(());
        }
        self.standing().behind_since.get_or_insert_with(Instant::now);
        let before = served.or_else(|| self.last());
        // What leads from a generation that the database knows to the current one is meant, however much it takes away.
        let changes = match &before {
            Some((own, _)) => self.store.generation_changes(*own, head.generation.number).await?,
            None => None,
        };
        let (generation, slots) = match (before, changes) {
            (Some((_, mut slots)), Some(changes)) => {
                for changed in changes {
                    let Some(key) = key_of(&changed) else { continue };
                    match module_of(&changed) {
                        Some(module) => drop(slots.insert(key, module)),
                        None => drop(slots.remove(&key)),
                    }
                }
                (head.generation, slots)
            }
            // Nothing leads from what serves to what is current, so the whole set is read.
            (before, _) => {
                let (generation, rows) = self.store.generation_slots(None).await?;
                let modules = rows.iter().filter_map(module_of).map(|module| (module.key(), module));
                let slots: Slots = modules.collect();
                if let Some((own, before)) = before
                    && !self.may_follow(own, &before, generation, &slots).await?
                {
                    return Ok(());
                }
                (generation, slots)
            }
        };
        let before = self.standing().served.clone().map(|(_, slots)| slots).unwrap_or_default();
        let new = slots.values().filter(|module| before.get(&module.key()) != Some(module));
        // The generation is decided, so nothing is a reason against it here.
        let new: Vec<(SlotModule, bool)> = new.map(|module| (module.clone(), false)).collect();
        prepare_all(&self.store, &self.validators, &new).await?;
        self.serve(generation, slots).await;
        let mut standing = self.standing();
        (standing.behind_since, standing.doubt) = (None, None);
        Ok(())
    }

    /// Whether a generation may serve although the database knows nothing that leads to it from what serves here. It may
    /// not if most modules would be gone, unless somebody has said after it that this is meant.
    async fn may_follow(
        &self,
        own: GenerationId,
        before: &Slots,
        generation: GenerationId,
        slots: &Slots,
    ) -> Result<bool, store::Error> {
        let doubted = {
            let standing = self.standing();
            standing.doubt.is_some().then_some(standing.doubted)
        };
        if doubted.is_none() {
            tracing::warn!(
                serves = own.number,
                current = generation.number,
                "the database does not know the generation that serves here: it was restored, lost a commit, or is another one"
            );
        }
        if !is_accident(before, slots) {
            return Ok(true);
        }
        if let Some(doubted) = doubted
            && self.store.is_meant_after(doubted).await?
        {
            return Ok(true);
        }
        if doubted.is_none() {
            self.standing().doubted = generation;
        }
        self.doubt().await;
        Ok(false)
    }

    async fn serve(&self, generation: GenerationId, slots: Slots) {
        let GenerationId { number, id } = generation;
        self.validators.serve(Generation { number, id, slots: slots.values().cloned().collect() }).await;
        {
            self.standing().served = Some((generation, slots));
        }
        self.swapped.notify_one();
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The generation that served here last. One that cannot be read is no reason to take it for empty.
    fn last(&self) -> Option<(GenerationId, Slots)> {
        let last = self.validators.last_generation();
        let last =
            last.inspect_err(|error| tracing::error!("the last generation cannot be read: {error}")).ok().flatten()?;
        let id = GenerationId { number: last.number, id: last.id };
        Some((id, last.slots.into_iter().map(|module| (module.key(), module)).collect()))
    }

    /// Keeps the last generation although the database has another one without most of its modules: it may be the wrong
    /// database, or was emptied.
    async fn doubt(&self) {
        if self.standing().doubt.is_some() {
            return;
        }
        let why = "the database has lost most modules of the generation that this gateway served last, and nothing says that \
            this is meant: the gateway serves that generation on, and is not ready. Name the right database, or say what is \
            meant with `eye fleet import DIR` or `eye fleet back N`; to begin without modules, remove generation.json from the \
            data dir and restart";
        tracing::error!("{why}");
        self.standing().doubt = Some(why.to_owned());
        if self.standing().served.is_none() {
            self.resume().await;
        }
    }

    /// Serves the last generation of the data directory.
    async fn resume(&self) {
        let last = match self.validators.last_generation() {
            Ok(Some(last)) => last,
            Ok(None) => return,
            Err(error) => return tracing::error!("the last generation cannot be read: {error}"),
        };
        let prepare = |module: SlotModule| async move { self.validators.prepare(&module, None, false).await.is_ok() };
        let loaded = stream::iter(last.slots.clone()).map(prepare).buffer_unordered(PREPARED_AT_ONCE);
        let count = loaded.filter(|loaded| std::future::ready(*loaded)).count().await;
        let (modules, generation) = (last.slots.len(), last.number);
        tracing::warn!(generation, loaded = count, modules, "the database is away: the last generation serves");
        let slots = last.slots.into_iter().map(|module| (module.key(), module)).collect();
        self.serve(GenerationId { number: last.number, id: last.id }, slots).await;
    }

    /// Tries again to load the modules that this gateway cannot serve.
    fn retry_held(&self, working: &mut Working) {
        let held = self.validators.held();
        if held.is_empty() || std::mem::replace(&mut working.retries_held, true) {
            return;
        }
        let (store, validators) = (self.store.clone(), self.validators.clone());
        working.tasks.spawn(async move {
            let modules: Vec<(SlotModule, bool)> = held.iter().map(|module| (module.clone(), false)).collect();
            let _away = prepare_all(&store, &validators, &modules).await;
            Ended::Retried(held)
        });
    }

    /// Waits until a preparation has ended, or until the time is over. Returns its rows, and waits until this gateway
    /// serves the generation that it became.
    ///
    /// # Errors
    ///
    /// The errors of the store.
    pub async fn ended(&self, preparation: Uuid, wait: Duration) -> Result<Option<PreparationRow>, store::Error> {
        let (until, mut changes) = (Instant::now() + wait, self.changes.subscribe());
        loop {
            let row = self.store.preparation(preparation).await?;
            let Some(found) = &row else { return Ok(None) };
            let generation = found.generation.and_then(|number| u64::try_from(number).ok());
            let serves = |number| self.serves() >= number;
            let is_over = found.state != "preparing" && generation.is_none_or(serves);
            if is_over || Instant::now() >= until {
                return Ok(row);
            }
            let _changed = timeout(PREPARATION_LOOK, changes.changed()).await;
        }
    }
}

/// Lets validators beside a gateway serve the current generation, for a command.
///
/// # Errors
///
/// The errors of the store.
pub async fn serve_current(store: &Store, validators: &Validators) -> Result<(), store::Error> {
    let (GenerationId { number, id }, rows) = store.generation_slots(None).await?;
    let slots: Vec<SlotModule> = rows.iter().filter_map(module_of).collect();
    let modules: Vec<(SlotModule, bool)> = slots.iter().map(|module| (module.clone(), false)).collect();
    prepare_all(store, validators, &modules).await?;
    validators.serve(Generation { number, id, slots }).await;
    Ok(())
}

/// Whether a set without so many modules of another one looks like an accident, as a modules directory would.
fn is_accident(before: &Slots, after: &Slots) -> bool {
    // Candidates come and go.
    let live: Vec<&(Role, Slot)> = before.keys().filter(|(role, _)| *role == Role::Live).collect();
    let lost = live.iter().filter(|key| !after.contains_key(**key)).count();
    live.len() == lost && lost > 0 || lost > 2 && lost * 2 > live.len()
}

/// The next task that ends. Without one it waits for ever.
async fn next(tasks: &mut JoinSet<Ended>) -> Ended {
    match tasks.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) if error.is_cancelled() => Ended::Dropped,
        Some(Err(error)) => {
            tracing::error!(%error, "the preparation of modules panicked");
            Ended::Lost
        }
        None => pending().await,
    }
}

/// What became of modules that were to be prepared.
struct Prepared {
    /// The first module that this gateway refuses.
    refused: Option<(SlotModule, Refusal)>,
    /// False if some could not be tried, since the gateway stops.
    is_whole: bool,
}

impl Prepared {
    /// Takes the result of one module. Returns the module if its content must be given.
    fn note(&mut self, (module, prepared): (SlotModule, Result<bool, Unprepared>)) -> Option<SlotModule> {
        match prepared {
            Ok(_) => None,
            Err(Unprepared::Stopped) => {
                self.is_whole = false;
                None
            }
            Err(Unprepared::NoContent) => Some(module),
            Err(Unprepared::Refused(why)) => {
                self.refused.get_or_insert((module, why));
                None
            }
        }
    }
}

/// Prepares modules, each of which must redact if it says so. Contents that are not kept in the data directory are read
/// from the database, a few at a time.
async fn prepare_all(
    store: &Store,
    validators: &Validators,
    modules: &[(SlotModule, bool)],
) -> Result<Prepared, store::Error> {
    let prepare = |(module, must_redact): (SlotModule, bool), content: Option<Bytes>| async move {
        let prepared = validators.prepare(&module, content, must_redact).await;
        (module, prepared)
    };
    let (mut done, mut missing) = (Prepared { refused: None, is_whole: true }, HashSet::new());
    let mut kept =
        stream::iter(modules.iter().cloned()).map(|one| prepare(one, None)).buffer_unordered(PREPARED_AT_ONCE);
    while let Some(one) = kept.next().await {
        missing.extend(done.note(one));
    }
    drop(kept);
    let missing: Vec<&(SlotModule, bool)> = modules.iter().filter(|(module, _)| missing.contains(module)).collect();
    let digests: Vec<Digest> = missing.iter().map(|(module, _)| module.digest).collect();
    let sizes = if digests.is_empty() { HashMap::new() } else { store.content_sizes(&digests).await? };
    let mut rest = &missing[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take(CONTENTS_AT_ONCE).take_while(|(module, _)| {
            bytes += sizes.get(&module.digest).copied().unwrap_or_default();
            bytes <= CONTENTS_BYTES
        });
        let (some, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let digests: Vec<Digest> = some.iter().map(|(module, _)| module.digest).collect();
        let contents = match store.module_contents(&digests).await {
            // A content that the database cannot read costs its own event type.
            Err(error @ store::Error::Refused(_)) => {
                tracing::error!(%error, "the contents of modules cannot be read");
                HashMap::new()
            }
            read => read?,
        };
        let contents: HashMap<Digest, Bytes> =
            contents.into_iter().map(|(digest, content)| (digest, content.into())).collect();
        let given: Vec<((SlotModule, bool), Option<Bytes>)> =
            some.iter().map(|one| ((*one).clone(), contents.get(&one.0.digest).cloned())).collect();
        let given = stream::iter(given).map(|(one, content)| prepare(one, content));
        let mut given = given.buffer_unordered(PREPARED_AT_ONCE);
        while let Some(one) = given.next().await {
            if let Some(module) = done.note(one) {
                tracing::error!(event_type = %module.slot, digest = %module.digest, "the database has no content of this module");
                done.refused.get_or_insert((module, Refusal::no_content()));
            }
        }
    }
    Ok(done)
}

/// The refusal of a module, as the others read it.
fn refusal_of(module: &SlotModule, why: &Refusal) -> Value {
    json!({
        "event_type": module.role.name(&module.slot),
        "digest": module.digest.to_string(),
        "expected": why.expected,
        "found": why.found,
        "mend": why.mend,
        "passing": why.is_passing(),
    })
}

fn key_of(row: &SlotRow) -> Option<(Role, Slot)> {
    Role::parse(&row.event_type).ok()
}

/// The module of a row; `None` if nothing serves its slot.
fn module_of(row: &SlotRow) -> Option<SlotModule> {
    let digest = Digest(row.digest.as_deref()?.try_into().ok()?);
    let (role, slot) = key_of(row)?;
    Some(SlotModule { slot, role, digest, settings: row.settings.clone() })
}
