//! The partitions of `events` and `dead_letters`: lists them, and creates those that are missing, ahead and on demand.
//! Each is created alone, within a time that no writer notices. A default partition that takes longer to scan keeps its
//! rows. `retention.rs` removes partitions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Months, NaiveDate, NaiveDateTime, Utc};
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool, Row as _};
use tokio::time::{Instant, timeout};

use super::{Error, Store, cause};
use crate::audit::{Action, Actor, Entry};

/// Longest wait for one lock. Writers queue behind it.
const LOCK_MS: u64 = 30;
/// Longest time from the first request for a lock to the last change: writers may wait this long.
const LOCKED_MS: u64 = 80;
/// Longest time of the preparation, during which no writer waits, on a server with little processor time.
const PREPARED_MS: u64 = 2_000;
/// The same for a writer, whose batch waits for it.
const ON_DEMAND_MS: u64 = 200;
/// The same for all months of a batch together, including the wait for a connection.
const COVER_TIME: Duration = Duration::from_millis(700);
/// Most rows and bytes that are moved out of a default partition at once, while writers wait.
const MOVED_ROWS_MAX: u64 = 2_000;
const MOVED_BYTES_MAX: u64 = 4 << 20;
/// The largest default partition that is scanned while writers wait.
const DEFAULT_BYTES_MAX: u64 = 32 << 20;
/// Attempts of one change before it is left for later, and the pause between them.
pub(super) const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);
/// Most partitions that a writer creates for one batch. A later batch creates those of further months.
const MONTHS_OF_BATCH_MAX: usize = 3;
/// How long writers rely on their knowledge of a month: that it has a partition, that it cannot get one now, and that
/// the table is locked.
const THERE_TIME: Duration = Duration::from_secs(600);
const CROWDED_TIME: Duration = Duration::from_secs(60);
const BUSY_TIME: Duration = Duration::from_secs(1);
/// Most months that writers remember.
const MONTHS_MAX: usize = 4_096;

/// A table that is partitioned by month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioned {
    /// Partitioned by the event's timestamp.
    Events,
    /// Partitioned by the time of receipt.
    DeadLetters,
}

impl Partitioned {
    /// Both tables.
    pub const ALL: [Self; 2] = [Self::Events, Self::DeadLetters];

    /// The name of the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::DeadLetters => "dead_letters",
        }
    }
}

/// A partition of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The table of the partition.
    pub table_name: String,
    /// The name of the partition.
    pub name: String,
    /// The first moment of its range; `None` for the default partition.
    pub first: Option<DateTime<Utc>>,
    /// The first moment after its range; `None` for the default partition.
    pub end: Option<DateTime<Utc>>,
    /// The planner's last estimate of its rows; `None` if there is none.
    pub rows_estimate: Option<i64>,
    /// Bytes on disk, including indexes.
    pub bytes: i64,
}

from_row!(Partition { table_name, name, first, end, rows_estimate, bytes });

/// The result of creating a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// The partition existed.
    There,
    /// It is new, and has the rows of its month that were in the default partition.
    Made,
    /// The default partition is too large to be scanned while writers wait. Nothing was changed.
    Crowded,
    /// The table was locked all the time.
    Busy,
}

impl Store {
    /// Reads all partitions, by table and time; default partitions last.
    pub async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        self.reading().await?.run(partitions).await
    }
}

/// Reads all partitions, by table and time; default partitions last.
pub(super) async fn partitions(connection: &mut PgConnection) -> Result<Vec<Partition>, sqlx::Error> {
    sqlx::query_as(
        "select parent.relname::text as table_name, child.relname::text as name, \
             (regexp_match(pg_get_expr(child.relpartbound, child.oid), $$FROM \\('([^']*)'\\)$$))[1]::timestamptz as first, \
             (regexp_match(pg_get_expr(child.relpartbound, child.oid), $$TO \\('([^']*)'\\)$$))[1]::timestamptz as end, \
             nullif(child.reltuples, -1)::bigint as rows_estimate, pg_total_relation_size(child.oid) as bytes \
         from pg_inherits \
         join pg_class child on child.oid = pg_inherits.inhrelid \
         join pg_class parent on parent.oid = pg_inherits.inhparent \
         where parent.oid in (to_regclass('events'), to_regclass('dead_letters')) \
         order by parent.relname desc, first nulls last",
    )
    .fetch_all(connection)
    .await
}

/// Creates the partitions of both tables from last month, for late events, to `ahead` months after this one, so that
/// every month starts with one. Returns the months (`table month`) that could not get one now.
pub(super) async fn make_ahead(
    connection: &mut PgConnection,
    ahead: u32,
    actor: &Actor,
) -> Result<Vec<String>, sqlx::Error> {
    let months: Vec<NaiveDateTime> = sqlx::query_scalar(
        "select generate_series(date_trunc('month', now() at time zone 'utc') - interval '1 month', \
             date_trunc('month', now() at time zone 'utc') + make_interval(months => $1), interval '1 month')",
    )
    .bind(i32::try_from(ahead).unwrap_or(i32::MAX))
    .fetch_all(&mut *connection)
    .await?;
    let mut left = Vec::new();
    for table in Partitioned::ALL {
        for (place, &month) in months.iter().enumerate() {
            let mut making = make(connection, table, month, TRIES, actor).await?;
            // The first two are last month and this one. The default partition has no rows of later months.
            if making == Making::Crowded && place >= 2 {
                prove_gap(connection, table, month).await?;
                making = make(connection, table, month, TRIES, actor).await?;
            }
            if matches!(making, Making::Crowded | Making::Busy) {
                left.push(format!("{} {}", table.as_str(), month.format("%Y-%m")));
            }
        }
    }
    drop_gaps(connection).await?;
    Ok(left)
}

/// Creates one partition. While the table is locked it retries for a while.
pub(super) async fn make(
    connection: &mut PgConnection,
    table: Partitioned,
    month: NaiveDateTime,
    tries: u32,
    actor: &Actor,
) -> Result<Making, sqlx::Error> {
    let table = table.as_str();
    let prepare = format!(
        "select prepare_partition('{table}', '{month}', {MOVED_ROWS_MAX}, {MOVED_BYTES_MAX}, {DEFAULT_BYTES_MAX})"
    );
    let attach = format!("select attach_partition('{table}', '{month}')");
    Ok(match changed(connection, &prepare, &attach, tries).await? {
        None => Making::Busy,
        Some(said) if said == "there" => Making::There,
        Some(said) if said == "crowded" => Making::Crowded,
        Some(_) => {
            // `attach_partition` has written the entry.
            Entry::new(Action::PartitionMake, &format!("{table}_{}", month.format("%Y_%m")), actor).log();
            Making::Made
        }
    })
}

/// Proves, without a lock that blocks writers, that a large default partition has no rows of a future month. With this
/// constraint Postgres attaches the month's partition without a scan.
async fn prove_gap(connection: &mut PgConnection, table: Partitioned, month: NaiveDateTime) -> Result<(), sqlx::Error> {
    let table_name = table.as_str();
    let gap = format!("{table_name}_{}_gap", month.format("%Y_%m"));
    let call = |name: &str| format!("select '{name}' from {name}('{table_name}', '{month}')");
    let there: bool = sqlx::query_scalar(
        "select exists(select 1 from pg_constraint where conname = $1 and conrelid = to_regclass($2))",
    )
    .bind(&gap)
    .bind(format!("{table_name}_default"))
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        let added = changed(connection, "", &call("add_gap"), TRIES).await?;
        if added.is_none() {
            return Ok(());
        }
    }
    match connection.execute(AssertSqlSafe(call("prove_gap"))).await {
        // The default partition has rows of that month, so the partition cannot be created, and the constraint must go.
        Err(error) if code(&error) == "23514" => drop_gap(connection, table_name, month).await,
        result => result.map(|_| ()),
    }
}

/// Drops the constraints that are no longer needed: of months that have a partition or have begun without one.
async fn drop_gaps(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let served: Vec<(String, NaiveDateTime)> = sqlx::query_as(
        "select left(conname, -12), to_timestamp(right(left(conname, -4), 7) || '+00', 'YYYY_MMTZH') at time zone 'utc' \
         from pg_constraint \
         where conrelid in (to_regclass('events_default'), to_regclass('dead_letters_default')) \
             and conname ~ '^(events|dead_letters)_[0-9]{4}_[0-9]{2}_gap$' \
             and (to_regclass(left(conname, -4)) is not null \
                 or to_timestamp(right(left(conname, -4), 7) || '+00', 'YYYY_MMTZH') <= now())",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (table, month) in served {
        drop_gap(connection, &table, month).await?;
    }
    Ok(())
}

/// If the table is locked all the time, the next round finds the constraint again.
async fn drop_gap(connection: &mut PgConnection, table: &str, month: NaiveDateTime) -> Result<(), sqlx::Error> {
    let drop = format!("select 'dropped' from drop_gap('{table}', '{month}')");
    changed(connection, "", &drop, TRIES).await?;
    Ok(())
}

/// The months since `since` that have events in the default partition, the earliest first, except those of `but`. It
/// takes a few lookups along the index.
pub(super) async fn stray_months(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
    but: &[NaiveDateTime],
    months_max: i64,
) -> Result<Vec<NaiveDateTime>, sqlx::Error> {
    sqlx::query_scalar(
        "with recursive months as ( \
             select date_trunc('month', min(timestamp) at time zone 'utc') as month from events_default \
             where timestamp >= $1 \
             union all \
             select (select date_trunc('month', min(timestamp) at time zone 'utc') from events_default \
                 where timestamp >= (months.month + interval '1 month') at time zone 'utc') \
             from months where months.month is not null) \
         select month from months where month is not null and month <> all($2) limit $3",
    )
    .bind(since)
    .bind(but)
    .bind(months_max)
    .fetch_all(connection)
    .await
}

/// Runs one change of the schema in a transaction of its own, within the time limits above, and retries for a while if
/// the table is locked. Returns the last value that it selects, or an empty text; `None` if the table was locked all
/// the time. Neither statement may contain text of a sender.
pub(super) async fn changed(
    connection: &mut PgConnection,
    prepare: &str,
    change: &str,
    tries: u32,
) -> Result<Option<String>, sqlx::Error> {
    // One message and one transaction, so that the locks wait neither for this program nor for the disk. A crash may
    // undo the change, but then it also undoes everything after it.
    let prepared_ms = if tries == 1 { ON_DEMAND_MS } else { PREPARED_MS };
    let script = format!(
        "set local synchronous_commit = off; set local lock_timeout = {LOCK_MS}; \
         set local statement_timeout = {prepared_ms}; {prepare}; set local statement_timeout = {LOCKED_MS}; {change}"
    );
    for left in (0..tries).rev() {
        match sqlx::raw_sql(AssertSqlSafe(script.clone())).fetch_all(&mut *connection).await {
            Ok(rows) => {
                let said = rows.last().map(|row| row.try_get(0)).transpose()?;
                return Ok(Some(said.unwrap_or_default()));
            }
            Err(error) if !matches!(&*code(&error), "55P03" | "57014" | "40P01") => return Err(error),
            Err(_) if left > 0 => tokio::time::sleep(PAUSE).await,
            Err(_) => {}
        }
    }
    Ok(None)
}

/// The SQLSTATE of an error; empty if it has none.
fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

/// Partitions on demand: before a batch is written, its months get partitions, so that no rows gather in the default
/// one. The writers of a gateway share this knowledge of months, and only ask the database about unknown months.
#[derive(Debug, Default)]
pub(super) struct OnDemand {
    /// Most partitions of events; 0 creates none.
    partitions_max: AtomicUsize,
    /// The days that events are kept. Older months get no partition, since retention would remove it at once. 0 is no
    /// limit.
    events_days: AtomicU64,
    /// The actor in the audit trail.
    actor: Arc<OnceLock<Actor>>,
    /// Until when nothing is to be done for a month.
    settled: Mutex<HashMap<NaiveDate, Instant>>,
}

impl OnDemand {
    pub(super) fn new(partitions_max: usize, events_days: u64, actor: Arc<OnceLock<Actor>>) -> Self {
        let (partitions_max, events_days) = (AtomicUsize::new(partitions_max), AtomicU64::new(events_days));
        Self { partitions_max, events_days, actor, settled: Mutex::default() }
    }

    /// Changes both bounds, for batches that come from now on.
    pub(super) fn change(&self, partitions_max: usize, events_days: u64) {
        self.partitions_max.store(partitions_max, Relaxed);
        self.events_days.store(events_days, Relaxed);
    }

    /// Creates the partitions that rows with these times (of the event and of its receipt) need. Without a partition a
    /// row goes into the default one.
    pub(super) async fn cover(&self, pool: &PgPool, times_us: impl Iterator<Item = (i64, i64)>) {
        if self.partitions_max.load(Relaxed) == 0 {
            return;
        }
        let missing = self.unsettled(times_us);
        if missing.is_empty() {
            return;
        }
        let made = timeout(COVER_TIME, async { self.make(&mut *pool.acquire().await?, missing).await });
        match made.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(cause = cause::of(&error), "a partition could not be made on demand"),
            Err(_) => tracing::warn!("a partition could not be made on demand in time"),
        }
    }

    async fn make(&self, connection: &mut PgConnection, missing: Vec<NaiveDate>) -> Result<(), sqlx::Error> {
        let actor = self.actor.get_or_init(Actor::gateway);
        let months: Vec<NaiveDateTime> = sqlx::query_scalar(
            "select to_timestamp(right(child.relname, 7) || '+00', 'YYYY_MMTZH') at time zone 'utc' \
             from pg_inherits join pg_class child on child.oid = pg_inherits.inhrelid \
             where pg_inherits.inhparent = to_regclass('events') and child.relname ~ '^events_[0-9]{4}_[0-9]{2}$'",
        )
        .fetch_all(&mut *connection)
        .await?;
        let mut count = months.len();
        for month in months {
            self.settle(month.date(), THERE_TIME);
        }
        for month in self.still_missing(missing) {
            // Recorded before the attempt, so that an error does not make each batch try again.
            self.settle(month, CROWDED_TIME);
            if count >= self.partitions_max.load(Relaxed) {
                continue;
            }
            match make(connection, Partitioned::Events, month.and_time(chrono::NaiveTime::MIN), 1, actor).await? {
                Making::Made => {
                    tracing::info!(month = %month.format("%Y-%m"), "a partition was made for events of a new month");
                    self.settle(month, THERE_TIME);
                    count += 1;
                }
                Making::There => self.settle(month, THERE_TIME),
                Making::Busy => {
                    self.settle(month, BUSY_TIME);
                    // The batch has waited long enough.
                    break;
                }
                Making::Crowded => {}
            }
        }
        Ok(())
    }

    /// The months that may need a partition, each once.
    fn unsettled(&self, times_us: impl Iterator<Item = (i64, i64)>) -> Vec<NaiveDate> {
        let mut missing = Vec::new();
        let mut last = 0..0;
        let (mut settled, events_days) = (None, self.events_days.load(Relaxed));
        for (time_us, received_at_us) in times_us {
            // Most events of a batch are in the same month.
            if last.contains(&time_us) {
                continue;
            }
            let Some(month) = month_of(time_us) else { continue };
            last = range_us(month);
            let days = if events_days == 0 { i64::MAX } else { i64::try_from(events_days).unwrap_or(i64::MAX) };
            if month.year() < 1970 || last.end <= received_at_us.saturating_sub(days.saturating_mul(DAY_US)) {
                continue;
            }
            let settled = settled.get_or_insert_with(|| self.settled.lock().unwrap_or_else(PoisonError::into_inner));
            let known = settled.get(&month).is_some_and(|until| Instant::now() < *until);
            if !known && !missing.contains(&month) && missing.len() < MONTHS_OF_BATCH_MAX {
                missing.push(month);
            }
        }
        missing
    }

    fn still_missing(&self, mut months: Vec<NaiveDate>) -> Vec<NaiveDate> {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        months.retain(|month| settled.get(month).is_none_or(|until| *until <= Instant::now()));
        months
    }

    fn settle(&self, month: NaiveDate, time: Duration) {
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        if settled.len() >= MONTHS_MAX {
            settled.clear();
        }
        settled.insert(month, Instant::now() + time);
    }
}

const DAY_US: i64 = 86_400_000_000;

/// The first day of the month of a time.
fn month_of(time_us: i64) -> Option<NaiveDate> {
    DateTime::from_timestamp_micros(time_us)?.date_naive().with_day(1)
}

/// The range of a month in microseconds.
fn range_us(month: NaiveDate) -> std::ops::Range<i64> {
    let start = |month: NaiveDate| month.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros();
    start(month)..month.checked_add_months(Months::new(1)).map_or(i64::MAX, start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(text: &str) -> i64 {
        text.parse::<DateTime<Utc>>().expect("a time").timestamp_micros()
    }

    #[test]
    fn a_batch_asks_for_the_months_that_it_does_not_know_and_that_are_kept() {
        let now = us("2026-11-24T12:00:00Z");
        let times =
            ["2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z", "2019-02-28T23:59:59.999999Z", "1969-12-31T23:59:59Z"];
        let unsettled = |months: &OnDemand| -> Vec<String> {
            let found = months.unsettled(times.iter().map(|time| (us(time), now)));
            found.iter().map(ToString::to_string).collect()
        };
        let months = OnDemand::new(240, 0, Arc::default());
        assert_eq!(unsettled(&months), ["2026-11-01", "2019-02-01"]);
        months.settle(NaiveDate::from_ymd_opt(2026, 11, 1).expect("a day"), THERE_TIME);
        assert_eq!(unsettled(&months), ["2019-02-01"]);
        assert_eq!(
            unsettled(&OnDemand::new(240, 30, Arc::default())),
            ["2026-11-01"],
            "the rest is about to be removed"
        );
    }
}
