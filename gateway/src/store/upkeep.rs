//! The condition of the tables, for metrics: their sizes, how far their months are made, what lies where it should not, and
//! when retention looked at them last. Every count has a bound, so a look stays cheap however much there is.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::partitions::Partitioned;
use super::{Error, Store, within};

/// Longest time for one look. Somebody may hold a table.
const UPKEEP_TIME: Duration = Duration::from_secs(2);

/// Rows of a default partition that are counted at most.
const DEFAULT_ROWS_MAX: i64 = 10_000;
/// Rows of `count_deltas` that are counted at most.
const UNFOLDED_ROWS_MAX: i64 = 100_000;

/// The condition of all tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// That of each partitioned table.
    pub tables: Vec<TableUpkeep>,
    /// Rows of `count_deltas`, up to a hundred thousand.
    pub unfolded_rows: i64,
    /// When a round of retention ran last, on any gateway. `None` before the first.
    pub retention_round: Option<DateTime<Utc>>,
}

/// The condition of one partitioned table.
#[derive(Clone, Debug, PartialEq)]
pub struct TableUpkeep {
    /// Its name.
    pub table_name: String,
    /// Bytes on disk, with indexes.
    pub bytes: i64,
    /// How long from now on each month has its partition; 0 when this month has none.
    pub ahead_seconds: f64,
    /// Whether the role of this gateway may look into the default partition.
    pub is_readable: bool,
    /// Rows in the default partition that belong into one of a month, up to ten thousand. `None` when the role may not look.
    pub default_rows: Option<i64>,
}

from_row!(TableUpkeep { table_name, bytes, ahead_seconds, is_readable } empty { default_rows });

/// Settings make no more than 120 months ahead, so a month without a partition is always found.
const TABLES: &str = "select parent.name as table_name, \
        (select coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint from pg_inherits \
            where inhparent = to_regclass(parent.name)) as bytes, \
        greatest(extract(epoch from missing.month at time zone 'utc' - now()), 0)::float8 as ahead_seconds, \
        coalesce(has_table_privilege(to_regclass(parent.name || '_default'), 'select'), false) as is_readable \
    from (values ('events'), ('dead_letters')) as parent (name) \
    cross join lateral ( \
        select min(month) as month \
        from (select date_trunc('month', now() at time zone 'utc') as this_month) as now_is \
        cross join lateral generate_series(this_month, this_month + interval '121 months', interval '1 month') as month \
        where (select relispartition from pg_class \
            where oid = to_regclass(parent.name || to_char(month, '_YYYY_MM'))) is not true) as missing \
    order by parent.name desc";

/// Events from before 1970 have no months of their own.
const STRAY_EVENTS: &str = "select count(*) from (select from events_default \
    where timestamp >= '1970-01-01 00:00:00+00' limit $1) as found";

impl Store {
    /// Looks at the condition of the tables. The schema must be there.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn upkeep(&self) -> Result<Upkeep, Error> {
        within(UPKEEP_TIME, async {
            let mut connection = self.own.acquire().await?;
            let mut tables: Vec<TableUpkeep> = sqlx::query_as(TABLES).fetch_all(&mut *connection).await?;
            for table in tables.iter_mut().filter(|table| table.is_readable) {
                let query = match table.table_name == Partitioned::Events.as_str() {
                    true => STRAY_EVENTS,
                    false => "select count(*) from (select from dead_letters_default limit $1) as found",
                };
                let rows = sqlx::query_scalar(query).bind(DEFAULT_ROWS_MAX).fetch_one(&mut *connection);
                table.default_rows = Some(rows.await?);
            }
            let rest = sqlx::query_as(
                "select (select count(*) from (select from count_deltas limit $1) as found), \
                     (select max(greatest(round_at, seen_at)) from retention_rounds)",
            );
            let (unfolded_rows, retention_round) = rest.bind(UNFOLDED_ROWS_MAX).fetch_one(&mut *connection).await?;
            Ok::<_, sqlx::Error>(Upkeep { tables, unfolded_rows, retention_round })
        })
        .await
    }
}
