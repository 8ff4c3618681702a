//! Jobs: long work with progress that survives restarts. The gateway that has the duty `jobs` runs one job of each kind. It
//! works in steps, and commits each with the progress and the place from which the next one goes on. So any gateway goes on
//! when this one stops, dies or freezes, and a job is cancelled between two steps. Each kind has a file of its own; the
//! store has the rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use eye_event::event::EventRow;
use eye_event::outcome::OutcomeKind;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::rejudge::RejudgeCounts;
use crate::audit::{Action, Actor, Entry};
use crate::batch::Batcher;
use crate::clock::Clock;
use crate::duties::Duties;
use crate::judging::Judges;
use crate::readiness::Readiness;
use crate::redrive::{LetterOutcome, LetterResult, Redrive};
use crate::response::Refusal;
use crate::store::{AskedJob, Duty, Error, JobEnd, JobRow, JobRun, LetterChanges, NewJob, Store};

pub mod redrive;
pub mod rejudge;
pub mod replay;

/// The time between two looks for a job, and the longest until a cancelled job notices that while it waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time for one step. What it has not committed by then is done again.
const STEP_TIME: Duration = Duration::from_secs(60);
/// The time between two removals of jobs that ended long ago.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// A job fails when its steps fail so often in a row.
const FAILURES_MAX: u32 = 5;
/// A job fails when so many gateways in a row went without a word and without progress: it may be what ends them.
const RUNS_LOST_MAX: i32 = 10;
/// Most codes that the progress counts.
const CODES_MAX: usize = 100;

/// The kinds of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Judges dead letters again, for somebody.
    Redrive,
    /// Judges unseen events again. The gateway asks for it by itself.
    Rejudge,
    /// Judges events of the past by another module, for somebody.
    Replay,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Redrive, Self::Rejudge, Self::Replay];
    /// The words of the kinds that somebody may ask for.
    pub const ASKED_FOR: [&'static str; 2] = [Self::Redrive.as_str(), Self::Replay.as_str()];

    /// The word in the database, in answers and in the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive => "redrive",
            Self::Rejudge => "rejudge",
            Self::Replay => "replay",
        }
    }

    /// The kind of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Whether the gateway asks for it by itself. Such a job is tried until it succeeds, and has no entries in the audit
    /// trail.
    fn is_own(self) -> bool {
        self == Self::Rejudge
    }
}

/// The words for the end of a job.
pub const ENDS: [&str; 3] = ["done", "failed", "cancelled"];

/// Counts the jobs that ended at this gateway. The metrics read it.
#[derive(Debug, Default)]
pub struct JobsEnded([[AtomicU64; ENDS.len()]; Kind::ALL.len()]);

impl JobsEnded {
    fn note(&self, kind: Kind, state: &str) {
        if let Some(place) = ENDS.iter().position(|end| *end == state) {
            self.0[kind as usize][place].fetch_add(1, Relaxed);
        }
    }

    /// How many jobs of a kind ended so.
    pub fn count(&self, kind: Kind, state: &str) -> u64 {
        ENDS.iter().position(|end| *end == state).map_or(0, |place| self.0[kind as usize][place].load(Relaxed))
    }
}

/// The words of the states of jobs.
pub const STATES: [&str; 5] = ["waiting", "running", "done", "failed", "cancelled"];

/// How far a job is. All counts are of dead letters, and for a replay of stored events too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Progress {
    /// Those that are done.
    pub done: u64,
    /// Those that there were when the job began; `None` if that is not known.
    pub total: Option<u64>,
    /// Their events were stored, or would be in a dry run.
    pub stored: u64,
    /// Their events were stored before.
    pub duplicate: u64,
    /// Their events were rejected.
    pub rejected: u64,
    /// Their events could not be judged or stored.
    pub quarantined: u64,
    /// They were not tried.
    pub skipped: u64,
    /// How many were not stored, by code.
    pub codes: BTreeMap<String, u64>,
}

impl Progress {
    fn add(&mut self, results: &[LetterResult]) {
        for result in results {
            self.done += 1;
            *match result.outcome {
                LetterOutcome::Is(OutcomeKind::Stored) => &mut self.stored,
                LetterOutcome::Is(OutcomeKind::Duplicate) => &mut self.duplicate,
                LetterOutcome::Is(OutcomeKind::Rejected) => &mut self.rejected,
                LetterOutcome::Is(OutcomeKind::Quarantined) => &mut self.quarantined,
                LetterOutcome::Skipped => &mut self.skipped,
            } += 1;
            if let Some(code) = &result.code {
                self.count_code(code, 1);
            }
        }
    }

    fn count_code(&mut self, code: &str, count: u64) {
        if self.codes.len() < CODES_MAX || self.codes.contains_key(code) {
            *self.codes.entry(code.to_owned()).or_default() += count;
        }
    }

    /// Adds the counts of a step. `total` stays.
    fn merge(&mut self, step: &Self) {
        self.done += step.done;
        self.stored += step.stored;
        self.duplicate += step.duplicate;
        self.rejected += step.rejected;
        self.quarantined += step.quarantined;
        self.skipped += step.skipped;
        for (code, count) in &step.codes {
            self.count_code(code, *count);
        }
    }

    /// The counts by outcome, with their words.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        [
            (OutcomeKind::Stored.as_str(), self.stored),
            (OutcomeKind::Duplicate.as_str(), self.duplicate),
            (OutcomeKind::Rejected.as_str(), self.rejected),
            (OutcomeKind::Quarantined.as_str(), self.quarantined),
            (LetterOutcome::Skipped.as_str(), self.skipped),
        ]
    }

    fn as_text(&self) -> String {
        serde_json::to_string(self).expect("counts and codes serialize")
    }
}

/// One step of a job. Nothing of it is written yet.
#[derive(Debug)]
struct Step {
    /// The letters that it has done.
    results: Vec<LetterResult>,
    /// Counts of what it has done beside these.
    added: Progress,
    /// How many letters there are, if the step has counted them.
    total: Option<u64>,
    /// From where the next step goes on; `None` if nothing is to be written.
    place: Option<Value>,
    /// What to write about the letters.
    changes: LetterChanges,
    next: Next,
}

/// When a job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Now,
    After(Duration),
    Done,
}

impl Step {
    /// A step that did nothing.
    fn idle(next: Next) -> Self {
        Self {
            results: Vec::new(),
            added: Progress::default(),
            total: None,
            place: None,
            changes: LetterChanges::default(),
            next,
        }
    }
}

/// The settings of jobs. Each step keeps those with which it began.
#[derive(Debug)]
pub struct JobSettings {
    /// Judges the events of the letters.
    pub judges: Judges,
    /// The time for one group of unseen letters.
    pub time: Duration,
    /// Most unseen letters per second; 0 turns judging them off.
    pub unseen_per_second_max: u32,
}

/// The parts that jobs use.
#[derive(Debug)]
pub struct Jobs {
    /// The settings. A reload replaces them.
    pub settings: ArcSwap<JobSettings>,
    /// The database with the jobs.
    pub store: Store,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// The queue of rows.
    pub events: Batcher<EventRow>,
    /// Jobs wait until the schema is proved.
    pub readiness: Arc<Readiness>,
    /// Jobs run while this gateway has their duty.
    pub duties: Arc<Duties>,
    /// Counts the outcomes of unseen letters.
    pub counts: RejudgeCounts,
    /// Counts the jobs that ended.
    pub ended: JobsEnded,
}

/// The work of a job, which each kind does in its own way.
enum Work {
    Redrive(redrive::Work),
    Rejudge(rejudge::Work),
    Replay(Box<replay::Work>),
}

/// The reasons why a run of a job broke off. The next one begins at the last place that was committed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Store(#[from] Error),
    /// The step would fail again.
    #[error("a step failed: {0}")]
    Step(&'static str),
}

/// The failures of one job in a row.
#[derive(Debug, Default)]
struct Failures {
    job: Option<Uuid>,
    count: u32,
    last: String,
}

impl Failures {
    fn note(&mut self, job: Uuid, broken: &Broken) {
        if self.job != Some(job) {
            *self = Self { job: Some(job), ..Self::default() };
        }
        self.count += 1;
        self.last = broken.to_string();
    }
}

impl Jobs {
    /// Runs the jobs of this gateway's duty until `drain`.
    pub async fn run(&self, drain: &CancellationToken) {
        let runs = join_all(Kind::ALL.map(|kind| self.run_kind(kind, drain)));
        tokio::join!(runs, drain.run_until_cancelled(self.forget()));
    }

    async fn run_kind(&self, kind: Kind, drain: &CancellationToken) {
        let mut failures = Failures::default();
        while drain.run_until_cancelled(sleep(LOOK_EVERY)).await.is_some() {
            if !self.readiness.is_migrated() || !self.settings.load().judges.validators.scanned() {
                continue;
            }
            let looked = self.duties.while_held(Duty::Jobs, self.look(kind, &mut failures, drain)).await;
            match looked {
                Some(Err(error)) if kind.is_own() || self.store.is_away() => {
                    tracing::debug!(%error, kind = kind.as_str(), "a job broke off; trying again");
                }
                Some(Err(error)) => tracing::warn!(%error, kind = kind.as_str(), "a job broke off; trying again"),
                None | Some(Ok(())) => {}
            }
        }
    }

    /// Takes up the job of a kind, if there is one, and works on it.
    async fn look(&self, kind: Kind, failures: &mut Failures, drain: &CancellationToken) -> Result<(), Broken> {
        if kind == Kind::Rejudge {
            rejudge::ask(self).await?;
        }
        let Some(row) = self.store.job_take_up(kind.as_str()).await? else { return Ok(()) };
        if !kind.is_own() {
            tracing::info!(job = %row.id, kind = kind.as_str(), run = row.run, "the gateway works on a job");
        }
        if row.cancel_requested {
            return self.end(kind, &row, "cancelled", None).await;
        }
        if failures.job == Some(row.id) && failures.count >= FAILURES_MAX && !kind.is_own() {
            return self.end(kind, &row, "failed", Some(failures.last.clone())).await;
        }
        if row.runs_lost >= RUNS_LOST_MAX && !kind.is_own() {
            let problem = "gateway after gateway ended while it worked on the job, without any progress";
            return self.end(kind, &row, "failed", Some(problem.to_owned())).await;
        }
        let id = row.id;
        let worked = self.work(kind, row, failures, drain).await;
        if let Err(broken @ (Broken::Step(_) | Broken::Store(Error::Refused(_)))) = &worked {
            failures.note(id, broken);
        }
        worked
    }

    async fn work(
        &self,
        kind: Kind,
        mut row: JobRow,
        failures: &mut Failures,
        drain: &CancellationToken,
    ) -> Result<(), Broken> {
        let run = JobRun { id: row.id, run: row.run };
        let mut work = match Work::begin(kind, &row, self) {
            Ok(work) => work,
            Err(problem) => return self.end(kind, &row, "failed", Some(problem)).await,
        };
        let mut progress: Progress = serde_json::from_str(&row.progress).unwrap_or_default();
        loop {
            if drain.is_cancelled() {
                return Ok(self.store.job_release(run).await?);
            }
            let settings = self.settings.load_full();
            let Some(step) = self.step(kind, &mut work, &settings).await? else {
                return Ok(self.store.job_release(run).await?);
            };
            let cancelled = match &step.place {
                None => self.store.job_is_cancelled(run).await?,
                Some(place) => {
                    progress.add(&step.results);
                    progress.merge(&step.added);
                    progress.total = step.total.or(progress.total);
                    row.progress = progress.as_text();
                    let (place, changes) = (place.to_string(), &step.changes);
                    let cancelled = self.store.job_advance(run, &row.progress, &place, changes).await?;
                    if cancelled.is_some() {
                        work.committed(&step, self);
                        *failures = Failures::default();
                    }
                    cancelled
                }
            };
            match (cancelled, step.next) {
                // Another run has taken the job up.
                (None, _) => return Ok(()),
                (Some(_), Next::Done) => {
                    row.result = Some(work.result().unwrap_or_else(|| row.progress.clone()));
                    return self.end(kind, &row, "done", None).await;
                }
                (Some(true), _) => return self.end(kind, &row, "cancelled", None).await,
                (Some(false), Next::Now) => tokio::task::yield_now().await,
                (Some(false), Next::After(pause)) => self.wait(run, pause, drain).await?,
            }
        }
    }

    /// Makes one step. A step that cannot be made now is an idle one. Returns `None` if the gateway stops.
    async fn step(&self, kind: Kind, work: &mut Work, settings: &JobSettings) -> Result<Option<Step>, Broken> {
        let step = async {
            match work {
                Work::Redrive(work) => work.step(self, settings).await,
                Work::Rejudge(work) => work.step(self, settings).await,
                Work::Replay(work) => work.step(self, settings).await,
            }
        };
        match timeout(STEP_TIME, step).await.unwrap_or(Err(Refusal::DatabaseAway)) {
            Ok(step) => Ok(Some(step)),
            Err(Refusal::Draining) => Ok(None),
            Err(refusal) if kind.is_own() || is_of_the_moment(&refusal) => {
                tracing::debug!(code = refusal.code(), kind = kind.as_str(), "a step of a job waits");
                Ok(Some(Step::idle(Next::After(LOOK_EVERY))))
            }
            Err(refusal) => Err(Broken::Step(refusal.code())),
        }
    }

    /// Waits for so long, or until the job is cancelled or the gateway stops.
    async fn wait(&self, run: JobRun, pause: Duration, drain: &CancellationToken) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if drain.run_until_cancelled(sleep(left.min(LOOK_EVERY))).await.is_none() || left <= LOOK_EVERY {
                return Ok(());
            }
            if self.store.job_is_cancelled(run).await? != Some(false) {
                return Ok(());
            }
        }
    }

    async fn end(&self, kind: Kind, row: &JobRow, state: &'static str, problem: Option<String>) -> Result<(), Broken> {
        let progress: Progress = serde_json::from_str(&row.progress).unwrap_or_default();
        let counts = progress.counts().into_iter().map(|(word, count)| (word.to_owned(), Value::from(count)));
        let entry = (!kind.is_own()).then(|| {
            let entry = Entry::new(Action::JobEnd, kind.as_str(), self.store.actor());
            let entry = entry.with("job", row.id.to_string()).with("state", state).with("dry_run", row.dry_run);
            entry.with("problem", problem.clone()).with_all(counts.collect::<Map<String, Value>>())
        });
        let end = JobEnd { state, result: row.result.clone(), problem: problem.clone(), entry };
        if !self.store.job_end(JobRun { id: row.id, run: row.run }, &end).await? {
            return Ok(());
        }
        end.entry.iter().for_each(Entry::log);
        self.ended.note(kind, state);
        if kind.is_own() {
            // Its lanes have lines of their own.
            return Ok(());
        }
        let (job, kind, progress) = (row.id, kind.as_str(), &row.progress);
        match problem {
            Some(problem) => tracing::warn!(%job, kind, problem, "a job failed"),
            None => tracing::info!(%job, kind, state, %progress, "a job has ended"),
        }
        Ok(())
    }

    /// Removes jobs that ended long ago, now and then. By their age it does so only while the clocks agree.
    async fn forget(&self) {
        loop {
            self.duties.held(Duty::Jobs).await;
            if let Err(error) = self.store.jobs_forget(!self.readiness.retention.clocks_differ()).await {
                tracing::debug!(%error, "jobs that ended long ago could not be removed");
            }
            sleep(FORGET_EVERY).await;
        }
    }

    /// Judges letters again for a job.
    fn redrive<'a>(&'a self, settings: &'a JobSettings, time: Duration) -> Redrive<'a> {
        Redrive { judges: &settings.judges, clock: &self.clock, events: &self.events, time, entry: None }
    }
}

impl Work {
    /// Begins at the place of the row. Fails with a sentence if the row is not understood.
    fn begin(kind: Kind, row: &JobRow, jobs: &Jobs) -> Result<Self, String> {
        Ok(match kind {
            Kind::Redrive => Self::Redrive(redrive::Work::begin(row)?),
            Kind::Rejudge => Self::Rejudge(rejudge::Work::begin(&jobs.settings.load())),
            Kind::Replay => Self::Replay(Box::new(replay::Work::begin(row)?)),
        })
    }

    /// What came of the job as JSON text, if that is more than its progress.
    fn result(&self) -> Option<String> {
        match self {
            Self::Redrive(_) | Self::Rejudge(_) => None,
            Self::Replay(work) => work.result().map(|result| result.to_string()),
        }
    }

    /// The step is committed.
    fn committed(&mut self, step: &Step, jobs: &Jobs) {
        match self {
            Self::Redrive(_) | Self::Replay(_) => {}
            Self::Rejudge(work) => work.committed(step, &jobs.counts),
        }
    }
}

/// Whether a step may succeed when it is tried again.
fn is_of_the_moment(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Overloaded
            | Refusal::DatabaseAway
            | Refusal::ReadAway
            | Refusal::ReadSlow { .. }
            | Refusal::ReadsFull { .. }
            | Refusal::NoDescriptors
    )
}

/// Asks for a job, with its entry of the audit trail.
///
/// # Errors
///
/// The errors of the store. Then the job may be there or not.
pub async fn ask(store: &Store, kind: Kind, dry_run: bool, request: Value, actor: &Actor) -> Result<AskedJob, Error> {
    ask_with(store, (kind, dry_run), request, None, actor).await
}

/// Asks for a job that judges by this module.
///
/// # Errors
///
/// Those of [`ask`].
pub async fn ask_replay(
    store: &Store,
    request: &replay::Request,
    module: Bytes,
    actor: &Actor,
) -> Result<AskedJob, Error> {
    ask_with(store, (Kind::Replay, true), request.as_json(), Some(module), actor).await
}

async fn ask_with(
    store: &Store,
    (kind, dry_run): (Kind, bool),
    request: Value,
    module: Option<Bytes>,
    actor: &Actor,
) -> Result<AskedJob, Error> {
    let id = Uuid::now_v7();
    let entry = Entry::new(Action::JobAsk, kind.as_str(), actor).with("job", id.to_string()).with("dry_run", dry_run);
    let entry = entry.with_all(request.as_object().cloned().unwrap_or_default());
    let job = NewJob { id, kind: kind.as_str(), dry_run, request: request.to_string(), actor: actor.clone(), module };
    let asked = store.job_ask(&job, Some(&entry)).await?;
    if matches!(asked, AskedJob::New(_)) {
        entry.log();
    }
    Ok(asked)
}

/// Cancels a job, with an entry of the audit trail if it has not ended. Returns it; `None` if there is none.
///
/// # Errors
///
/// The errors of the store.
pub async fn cancel(store: &Store, id: Uuid, actor: &Actor) -> Result<Option<JobRow>, Error> {
    let Some((job, entry)) = store.job_cancel(id, actor).await? else { return Ok(None) };
    entry.iter().for_each(Entry::log);
    Ok(Some(job))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(outcome: LetterOutcome, code: Option<&str>) -> LetterResult {
        LetterResult {
            id: Uuid::nil(),
            event_id: None,
            outcome,
            redacted: false,
            code: code.map(|code| code.to_owned().into()),
            detail: None,
            violations: Vec::new(),
            module: None,
        }
    }

    #[test]
    fn counts_add_up_and_codes_are_bounded() {
        let mut progress = Progress::default();
        let kinds = OutcomeKind::ALL.map(LetterOutcome::Is).into_iter().chain([LetterOutcome::Skipped]);
        let results: Vec<LetterResult> = kinds.map(|outcome| result(outcome, Some("rule"))).collect();
        progress.add(&results);
        assert_eq!(progress.counts().map(|(_, count)| count), [1; 5]);
        for number in 0..2 * CODES_MAX {
            progress.add(&[result(LetterOutcome::Skipped, Some(&format!("code{number}")))]);
        }
        let sum: u64 = progress.counts().iter().map(|(_, count)| count).sum();
        assert_eq!((progress.done, progress.codes.len(), progress.codes["rule"]), (sum, CODES_MAX, 5));
        let again: Progress = serde_json::from_str(&progress.as_text()).expect("its own text");
        assert_eq!(again, progress);
    }

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_word(kind.as_str()), Some(kind));
        }
        assert!(Kind::ASKED_FOR.iter().all(|word| Kind::of_word(word).is_some_and(|kind| !kind.is_own())));
    }
}
