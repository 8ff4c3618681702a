//! The table of jobs: asks for one, takes one up, commits its progress and its place, and ends it. A run that another run
//! has replaced can write nothing more, since each statement names the number of its run.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{Connection as _, PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::read::Page;
use super::{Duty, Error, LetterCursor, Seen, Store, audit, dead_letters, unseen};
use crate::audit::{Action, Actor, Entry};

/// The columns of a row, with `jsonb` as text.
const COLUMNS: &str = "id, kind, state, dry_run, request::text as request, actor, name, token_id, host, peer, forwarded, \
     request_id, requested_at, started_at, ended_at, runner_name, run, runs_lost, progress::text as progress, \
     place::text as place, result::text as result, problem, cancel_requested";
/// The same for a list. What may be long in a result is left out, and so is the place.
const LISTED_COLUMNS: &str = "id, kind, state, dry_run, request::text as request, actor, name, token_id, host, peer, forwarded, \
     request_id, requested_at, started_at, ended_at, runner_name, run, runs_lost, progress::text as progress, \
     null::text as place, (result - '{changes,amendments}'::text[])::text as result, problem, cancel_requested";
/// Longest time for writing or reading the module of a job.
const MODULE_TIME: Duration = Duration::from_secs(60);
/// How often a request for a job tries again when the job before it ends meanwhile.
const ASK_TRIES: u32 = 3;
/// Days for which jobs that have ended are kept.
const KEPT_DAYS: i32 = 30;
/// Most jobs that have ended, and most of those that gateways asked for by themselves.
const KEPT_MAX: i64 = 1_000;
const KEPT_OWN_MAX: i64 = 100;
/// Minutes without a job of a kind that gateways ask for by themselves, after somebody cancelled one.
const CANCELLED_MINUTES: i32 = 10;

/// A job to ask for.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Its id.
    pub id: Uuid,
    /// The word of its kind.
    pub kind: &'static str,
    /// It only says what would come of it.
    pub dry_run: bool,
    /// What to work on, as JSON text.
    pub request: String,
    /// Who asks for it.
    pub actor: Actor,
    /// The content of the module that it judges by, if its kind takes one.
    pub module: Option<Bytes>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRow {
    /// Its id.
    pub id: Uuid,
    /// The word of its kind.
    pub kind: String,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// It only says what would come of it.
    pub dry_run: bool,
    /// What to work on, as JSON text.
    pub request: String,
    /// The kind of actor that asked for it.
    pub actor: String,
    /// The name of that actor.
    pub name: String,
    /// The id of the application's token.
    pub token_id: Option<String>,
    /// The machine of a command or gateway.
    pub host: Option<String>,
    /// The other end of the request's connection.
    pub peer: Option<String>,
    /// The caller's address, as a trusted proxy gives it.
    pub forwarded: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// When a gateway took it up first.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// The machine of the gateway that runs it, or ran it last.
    pub runner_name: Option<String>,
    /// How often a gateway took it up.
    pub run: i32,
    /// How many gateways in a row lost it without progress.
    pub runs_lost: i32,
    /// The counts so far, as JSON text.
    pub progress: String,
    /// From where the next run goes on, as JSON text.
    pub place: Option<String>,
    /// What came of it, as JSON text.
    pub result: Option<String>,
    /// Why it failed.
    pub problem: Option<String>,
    /// Somebody wants it to end.
    pub cancel_requested: bool,
}

from_row!(JobRow {
    id,
    kind,
    state,
    dry_run,
    request,
    actor,
    name,
    token_id,
    host,
    peer,
    forwarded,
    request_id,
    requested_at,
    started_at,
    ended_at,
    runner_name,
    run,
    runs_lost,
    progress,
    place,
    result,
    problem,
    cancel_requested
});

impl JobRow {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended_at.is_some()
    }
}

/// Chooses jobs. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// The kind.
    pub kind: Option<String>,
    /// The state.
    pub state: Option<String>,
}

/// The place of a job among all, by the time at which it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCursor {
    /// When it was asked for.
    pub requested_at: DateTime<Utc>,
    /// Orders the jobs of one time.
    pub id: Uuid,
}

/// What became of a request for a job.
#[derive(Clone, Debug)]
pub enum AskedJob {
    /// It waits for a gateway.
    New(Box<JobRow>),
    /// There is one of this kind that has not ended.
    Running(Uuid),
}

/// One run of a job by one gateway.
#[derive(Clone, Copy, Debug)]
pub struct JobRun {
    /// The job.
    pub id: Uuid,
    /// The number of the run.
    pub run: i32,
}

/// What a step of a job has found out about dead letters.
#[derive(Clone, Debug, Default)]
pub struct LetterChanges {
    /// Letters whose event is stored: `true` if this step stored it, `false` if it was there before.
    pub marks: Vec<(LetterCursor, bool)>,
    /// Letters that a module has judged now.
    pub seen: Vec<Seen>,
}

/// How a job ends.
#[derive(Clone, Debug)]
pub struct JobEnd {
    /// `done`, `failed` or `cancelled`.
    pub state: &'static str,
    /// What came of it, as JSON text.
    pub result: Option<String>,
    /// Why it failed.
    pub problem: Option<String>,
    /// The entry of the audit trail.
    pub entry: Option<Entry>,
}

impl Store {
    /// Asks for a job. Its entry of the audit trail is written with it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`]. Then the job may be there or not.
    pub async fn job_ask(&self, job: &NewJob, entry: Option<&Entry>) -> Result<AskedJob, Error> {
        if job.module.is_none() {
            return self.ask(async { ask(&mut *self.own.acquire().await?, job, entry).await }).await;
        }
        // On a session of its own, so that a large module keeps nothing else waiting.
        let write = async {
            let mut connection = self.session("modules").await?;
            let asked = ask(&mut connection, job, entry).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(asked)
        };
        super::within(MODULE_TIME, write).await
    }

    /// The id of the job of a kind that has not ended.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_of_kind(&self, kind: &str) -> Result<Option<Uuid>, Error> {
        self.ask(async { running(&mut *self.own.acquire().await?, kind).await }).await
    }

    /// The content of the module of a job; `None` if it has none, or has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_module(&self, id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        let read = async {
            let mut connection = self.session("modules").await?;
            let query = sqlx::query_scalar("select module from jobs where id = $1").bind(id);
            let module: Option<Option<Vec<u8>>> = query.fetch_optional(&mut connection).await?;
            connection.close().await?;
            Ok::<_, sqlx::Error>(module.flatten())
        };
        super::within(MODULE_TIME, read).await
    }

    /// Asks for a job of a kind that gateways ask for by themselves, unless there is one or somebody has cancelled one just
    /// now.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_ask_own(&self, job: &NewJob) -> Result<(), Error> {
        self.ask(async {
            let mut connection = self.own.acquire().await?;
            let rests: bool = sqlx::query_scalar(
                "select exists (select from jobs where kind = $1 and (state in ('waiting', 'running') \
                     or state = 'cancelled' and ended_at > clock_timestamp() - make_interval(mins => $2)))",
            )
            .bind(job.kind)
            .bind(CANCELLED_MINUTES)
            .fetch_one(&mut *connection)
            .await?;
            if !rests {
                insert(&mut connection, job).await?;
            }
            Ok(())
        })
        .await
    }

    /// One job.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job(&self, id: Uuid) -> Result<Option<JobRow>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(format!("select {COLUMNS} from jobs where id = "));
        query.push_bind(id);
        let query = query.build_query_as::<JobRow>().persistent(false);
        self.reading().await?.run(|connection| query.fetch_optional(connection)).await
    }

    /// A page of jobs, the latest first, without the changes and amendments of replays.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn jobs_page(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        rows_max: u32,
    ) -> Result<Page<JobRow, JobCursor>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(format!("select {LISTED_COLUMNS} from jobs where true"));
        for (condition, word) in [(" and kind = ", &filter.kind), (" and state = ", &filter.state)] {
            if let Some(word) = word {
                query.push(condition).push_bind(word.clone());
            }
        }
        if let Some(after) = after {
            query.push(" and (requested_at, id) < (").push_bind(after.requested_at);
            query.push(", ").push_bind(after.id).push(")");
        }
        query.push(" order by requested_at desc, id desc limit ").push_bind(i64::from(rows_max) + 1);
        let query = query.build_query_as::<JobRow>().persistent(false);
        let mut rows = self.reading().await?.run(|connection| query.fetch_all(connection)).await?;
        let is_more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows.last().filter(|_| is_more);
        let next = next.map(|row| JobCursor { requested_at: row.requested_at, id: row.id });
        Ok(Page { rows, next })
    }

    /// Cancels a job: one that waits ends at once, and one that runs ends after its current step. A job that has ended stays
    /// as it is. Returns it with the entry that was written; `None` if there is no such job.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_cancel(&self, id: Uuid, actor: &Actor) -> Result<Option<(JobRow, Option<Entry>)>, Error> {
        self.ask(async {
            let mut connection = self.own.acquire().await?;
            let mut transaction = connection.begin().await?;
            let mut query = QueryBuilder::<Postgres>::new(
                "update jobs set cancel_requested = true, \
                     state = case state when 'waiting' then 'cancelled' else state end, \
                     ended_at = case state when 'waiting' then clock_timestamp() end \
                 where state in ('waiting', 'running') and not cancel_requested and id = ",
            );
            query.push_bind(id).push(format!(" returning {COLUMNS}"));
            let query = query.build_query_as::<JobRow>().persistent(false);
            if let Some(row) = query.fetch_optional(&mut *transaction).await? {
                let entry = Entry::new(Action::JobCancel, &row.kind, actor).with("job", id.to_string());
                audit::write(&mut transaction, &entry).await?;
                transaction.commit().await?;
                return Ok(Some((row, Some(entry))));
            }
            let mut query = QueryBuilder::<Postgres>::new(format!("select {COLUMNS} from jobs where id = "));
            query.push_bind(id);
            let row = query.build_query_as::<JobRow>().persistent(false).fetch_optional(&mut *transaction).await?;
            Ok(row.map(|row| (row, None)))
        })
        .await
    }

    /// Takes up the job of a kind that waits, or that no gateway runs any more. Returns `None` if there is none, or if the
    /// jobs are not the duty of this gateway.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_take_up(&self, kind: &str) -> Result<Option<JobRow>, Error> {
        let mut query = QueryBuilder::<Postgres>::new("update jobs set state = 'running', runner = ");
        query.push_bind(self.id()).push(", runner_name = ").push_bind(self.actor().host.clone());
        query.push(", run = run + 1, started_at = coalesce(started_at, clock_timestamp()), ");
        query.push("runs_lost = runs_lost + (state = 'running' and runner <> ").push_bind(self.id());
        query.push(")::integer where state in ('waiting', 'running') and kind = ").push_bind(kind);
        query.push(" and exists (select from duties where until > clock_timestamp() and duty = ");
        query.push_bind(Duty::Jobs.as_str()).push(" and holder = ").push_bind(self.id());
        query.push(format!(") returning {COLUMNS}"));
        let query = query.build_query_as::<JobRow>();
        self.ask(query.fetch_optional(&self.own)).await
    }

    /// Commits a step of a job: what it found out about letters, its progress, and the place from which the next step goes
    /// on. Returns whether somebody has cancelled the job; `None` if this run was replaced, and then nothing is committed.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`]. Then the step may be committed or not.
    pub async fn job_advance(
        &self,
        run: JobRun,
        progress: &str,
        place: &str,
        changes: &LetterChanges,
    ) -> Result<Option<bool>, Error> {
        self.ask(async {
            let mut connection = self.own.acquire().await?;
            let mut transaction = connection.begin().await?;
            // First, so that two runs wait for each other here.
            let cancelled: Option<bool> = sqlx::query_scalar(
                "update jobs set progress = $3::jsonb, place = $4::jsonb, runs_lost = 0 \
                 where id = $1 and run = $2 and state = 'running' returning cancel_requested",
            )
            .bind(run.id)
            .bind(run.run)
            .bind(progress)
            .bind(place)
            .fetch_optional(&mut *transaction)
            .await?;
            if cancelled.is_some() {
                if !changes.marks.is_empty() {
                    dead_letters::mark(&mut transaction, &changes.marks, None).await?;
                }
                if !changes.seen.is_empty() {
                    unseen::settle(&mut transaction, &changes.seen).await?;
                }
                transaction.commit().await?;
            }
            Ok(cancelled)
        })
        .await
    }

    /// Whether somebody has cancelled the job of a run; `None` if this run was replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_is_cancelled(&self, run: JobRun) -> Result<Option<bool>, Error> {
        let query =
            sqlx::query_scalar("select cancel_requested from jobs where id = $1 and run = $2 and state = 'running'");
        self.ask(query.bind(run.id).bind(run.run).fetch_optional(&self.own)).await
    }

    /// Gives a job up in order, so that another gateway goes on with it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_release(&self, run: JobRun) -> Result<(), Error> {
        let query = sqlx::query(
            "update jobs set state = 'waiting' where id = $1 and run = $2 and state = 'running' and not cancel_requested",
        );
        self.ask(query.bind(run.id).bind(run.run).execute(&self.own)).await?;
        Ok(())
    }

    /// Ends a job, with its entry of the audit trail. Returns whether this run could.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn job_end(&self, run: JobRun, end: &JobEnd) -> Result<bool, Error> {
        self.ask(async {
            let mut connection = self.own.acquire().await?;
            let mut transaction = connection.begin().await?;
            let ended = sqlx::query(
                "update jobs set state = $3, ended_at = clock_timestamp(), result = $4::jsonb, problem = $5 \
                 where id = $1 and run = $2 and state = 'running'",
            )
            .bind(run.id)
            .bind(run.run)
            .bind(end.state)
            .bind(&end.result)
            .bind(&end.problem)
            .execute(&mut *transaction)
            .await?;
            let could = ended.rows_affected() > 0;
            if could && let Some(entry) = &end.entry {
                audit::write(&mut transaction, entry).await?;
            }
            transaction.commit().await?;
            Ok(could)
        })
        .await
    }

    /// Removes jobs that ended too long ago, if `by_age`, and the oldest of those that are too many. Returns their number.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn jobs_forget(&self, by_age: bool) -> Result<u64, Error> {
        let query = sqlx::query(
            "delete from jobs where id in (select id from (select id, ended_at, actor, \
                 row_number() over (order by ended_at desc) as place, \
                 row_number() over (partition by actor order by ended_at desc) as place_of_actor \
                 from jobs where ended_at is not null) ended \
             where $1 and ended_at < clock_timestamp() - make_interval(days => $2) or place > $3 \
                 or actor = 'gateway' and place_of_actor > $4)",
        );
        let query = query.bind(by_age).bind(KEPT_DAYS).bind(KEPT_MAX).bind(KEPT_OWN_MAX);
        Ok(self.ask(query.execute(&self.own)).await?.rows_affected())
    }

    /// Whether a gateway has the duty to run jobs now.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn runs_jobs(&self) -> Result<bool, Error> {
        let query =
            sqlx::query_scalar("select exists (select from duties where duty = $1 and until > clock_timestamp())");
        self.ask(query.bind(Duty::Jobs.as_str()).fetch_one(&self.own)).await
    }
}

/// Inserts a job with its entry of the audit trail, unless there is one of its kind.
async fn ask(connection: &mut PgConnection, job: &NewJob, entry: Option<&Entry>) -> Result<AskedJob, sqlx::Error> {
    for _ in 0..ASK_TRIES {
        let mut transaction = connection.begin().await?;
        if let Some(row) = insert(&mut transaction, job).await? {
            if let Some(entry) = entry {
                audit::write(&mut transaction, entry).await?;
            }
            transaction.commit().await?;
            return Ok(AskedJob::New(Box::new(row)));
        }
        if let Some(id) = running(&mut transaction, job.kind).await? {
            return Ok(AskedJob::Running(id));
        }
    }
    Err(sqlx::Error::RowNotFound)
}

async fn running(connection: &mut PgConnection, kind: &str) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar("select id from jobs where kind = $1 and state in ('waiting', 'running')")
        .bind(kind)
        .fetch_optional(connection)
        .await
}

/// Inserts a job. Returns `None` if there is one of its kind that has not ended.
async fn insert(connection: &mut PgConnection, job: &NewJob) -> Result<Option<JobRow>, sqlx::Error> {
    let Actor { kind, name, token_id, panel_session: _, host, login: _, peer, forwarded, request_id } = &job.actor;
    let mut query = QueryBuilder::<Postgres>::new(
        "insert into jobs (id, kind, dry_run, actor, name, token_id, host, peer, forwarded, request_id, module, request) values (",
    );
    let mut values = query.separated(", ");
    values.push_bind(job.id).push_bind(job.kind).push_bind(job.dry_run).push_bind(kind.as_str());
    values.push_bind(name.clone()).push_bind(token_id.clone()).push_bind(host.clone());
    values.push_bind(peer.map(|peer| peer.to_string())).push_bind(forwarded.map(|peer| peer.to_string()));
    values.push_bind(request_id.clone()).push_bind(job.module.as_deref().map(<[u8]>::to_vec));
    values.push_bind(job.request.clone()).push_unseparated("::jsonb");
    query.push(") on conflict (kind) where state in ('waiting', 'running') do nothing returning ").push(COLUMNS);
    query.build_query_as::<JobRow>().persistent(false).fetch_optional(connection).await
}
