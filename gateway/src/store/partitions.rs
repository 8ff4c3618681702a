//! The partitions of `events` and `dead_letters`: which there are, and the making of those that are missing, ahead and
//! on demand. Each is made by itself under a short lock time, so that no writer waits for long; a default partition that
//! is too full to be looked through in that time keeps its rows. What is removed is `retention.rs`'s affair.

use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{Error, Store};

/// Longest wait for one lock. Writers stand behind whoever waits for a lock, and a change takes up to three.
const LOCK_MS: u64 = 30;
/// Longest time of one change, for a server that does not get to work.
const CHANGE_MS: u64 = 2_000;
/// Rows that are moved out of a default partition at once; writers wait meanwhile.
const MOVED_ROWS_MAX: i64 = 2_000;
/// The largest default partition that is looked through while writers wait.
const DEFAULT_BYTES_MAX: i64 = 32 << 20;
/// Tries of one change before it is left for later, and the pause between them.
const TRIES: u32 = 5;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A table that is partitioned by month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioned {
    /// By the event's own timestamp.
    Events,
    /// By the time of receipt.
    DeadLetters,
}

impl Partitioned {
    /// Both tables.
    pub const ALL: [Self; 2] = [Self::Events, Self::DeadLetters];

    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::DeadLetters => "dead_letters",
        }
    }
}

/// A partition as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Partition {
    /// The table it belongs to.
    pub table_name: String,
    /// Its own name.
    pub name: String,
    /// The first moment of its range; none for the default partition.
    pub first: Option<DateTime<Utc>>,
    /// The first moment after its range; none for the default partition.
    pub end: Option<DateTime<Utc>>,
    /// Rows, as the planner last estimated them; none if it never did.
    pub rows_estimate: Option<i64>,
    /// Bytes on disk, with indexes.
    pub bytes: i64,
}

/// What came of making a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// It was there.
    There,
    /// It is new, and took over the rows of its month that lay in the default partition.
    Made,
    /// The default partition is too full to be looked through while writers wait; nothing was changed.
    Crowded,
    /// Others held the table for the whole time.
    Busy,
}

impl Store {
    /// All partitions, by table and time; default partitions last.
    pub async fn partitions(&self) -> Result<Vec<Partition>, Error> {
        self.reading().await?.run(partitions).await
    }
}

/// All partitions, by table and time; default partitions last.
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

/// Makes the partitions of both tables from last month, for late events, to `ahead` months after this one, so that no
/// month begins without its own. Gives the months, as `table month`, that could not be made now.
pub(super) async fn make_ahead(connection: &mut PgConnection, ahead: u32) -> Result<Vec<String>, sqlx::Error> {
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
            let mut making = make(connection, table, month).await?;
            // Last month, this one, and then those in which nothing can have happened yet.
            if making == Making::Crowded && place >= 2 {
                prove_gap(connection, table, month).await?;
                making = make(connection, table, month).await?;
            }
            if matches!(making, Making::Crowded | Making::Busy) {
                left.push(format!("{} {}", table.as_str(), month.format("%Y-%m")));
            }
        }
    }
    Ok(left)
}

/// Makes one partition, trying again for a while if others hold the table.
pub(super) async fn make(
    connection: &mut PgConnection,
    table: Partitioned,
    month: NaiveDateTime,
) -> Result<Making, sqlx::Error> {
    let values =
        [table.as_str().to_owned(), month.to_string(), MOVED_ROWS_MAX.to_string(), DEFAULT_BYTES_MAX.to_string()];
    let made = changed(connection, "select make_partition($1, $2::timestamp, $3::bigint, $4::bigint)", &values).await?;
    Ok(match made.as_ref().and_then(|made| made.as_deref()) {
        None => Making::Busy,
        Some("there") => Making::There,
        Some("crowded") => Making::Crowded,
        Some(_) => Making::Made,
    })
}

/// Proves, without a lock that writers would wait for, that a large default partition holds nothing of a month to come;
/// with that proof the month's partition is made without looking through the default one.
async fn prove_gap(connection: &mut PgConnection, table: Partitioned, month: NaiveDateTime) -> Result<(), sqlx::Error> {
    let table_name = table.as_str();
    let key = if table == Partitioned::Events { "timestamp" } else { "received_at" };
    let gap = format!("{table_name}_{}_gap", month.format("%Y_%m"));
    let after = month.checked_add_months(chrono::Months::new(1)).unwrap_or(month);
    // Names and times are of our own making, so this is no place where a stranger's text could come in.
    let add = format!(
        "alter table {table_name}_default add constraint {gap} \
         check ({key} < '{month}+00' or {key} >= '{after}+00') not valid"
    );
    let there: bool = sqlx::query_scalar(
        "select exists(select 1 from pg_constraint where conname = $1 and conrelid = to_regclass($2))",
    )
    .bind(&gap)
    .bind(format!("{table_name}_default"))
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        let added = changed(connection, &add, &[]).await?;
        if added.is_none() {
            return Ok(());
        }
    }
    let validate = format!("alter table {table_name}_default validate constraint {gap}");
    match connection.execute(AssertSqlSafe(validate)).await {
        // There are rows of that month after all, so it cannot be made, and the constraint must not stay.
        Err(error) if code(&error) == "23514" => {
            let drop = format!("alter table {table_name}_default drop constraint {gap}");
            changed(connection, &drop, &[]).await?;
            Ok(())
        }
        result => result.map(|_| ()),
    }
}

/// The months of events in the default partition since 1970, the earliest first; found by a few steps along its index.
pub(super) async fn stray_months(
    connection: &mut PgConnection,
    since: DateTime<Utc>,
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
         select month from months where month is not null limit $2",
    )
    .bind(since)
    .bind(months_max)
    .fetch_all(connection)
    .await
}

/// Runs one change of the schema in a transaction of its own within the lock time, again and again for a while if others
/// hold the table. Gives what it says, if anything; `None` if others held the table all the time. `values` are bound as
/// texts; the statement itself must hold no stranger's words.
pub(super) async fn changed(
    connection: &mut PgConnection,
    statement: &str,
    values: &[String],
) -> Result<Option<Option<String>>, sqlx::Error> {
    for _ in 0..TRIES {
        let mut transaction = connection.begin().await?;
        let limits = format!("set local lock_timeout = {LOCK_MS}; set local statement_timeout = {CHANGE_MS}");
        transaction.execute(AssertSqlSafe(limits)).await?;
        let mut change = sqlx::query_scalar::<_, String>(AssertSqlSafe(statement.to_owned())).persistent(false);
        for value in values {
            change = change.bind(value);
        }
        match change.fetch_optional(&mut *transaction).await {
            Ok(said) => {
                transaction.commit().await?;
                return Ok(Some(said));
            }
            Err(error) if matches!(&*code(&error), "55P03" | "57014" | "40P01") => transaction.rollback().await?,
            Err(error) => return Err(error),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(None)
}

/// The SQLSTATE of an error; empty if it has none.
fn code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}
