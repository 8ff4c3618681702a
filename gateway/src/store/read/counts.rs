//! Reads of the counts: per bucket, and per event type since ever. Each is one statement over what is folded and what is
//! not, so that it sees every batch once, and none of them looks at an event.

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};

use super::{Page, time, within};
use crate::store::{Error, Store};

/// The width of a bucket, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bucket {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Bucket {
    /// The word for it in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Bucket::Minute => "minute",
            Bucket::Hour => "hour",
            Bucket::Day => "day",
        }
    }

    /// How long it is, in microseconds.
    pub fn width_us(self) -> i64 {
        match self {
            Bucket::Minute => 60_000_000,
            Bucket::Hour => 3_600_000_000,
            Bucket::Day => 86_400_000_000,
        }
    }
}

/// Which counts are asked for. All that is given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountFilter {
    /// The width of the buckets.
    pub bucket: Bucket,
    /// The first moment of the first bucket: microseconds since 1970.
    pub from_us: i64,
    /// The first moment after the last bucket: microseconds since 1970.
    pub to_us: i64,
    /// First half of the event type.
    pub category: Option<String>,
    /// Second half of the event type.
    pub name: Option<String>,
    /// The name of an application.
    pub application: Option<String>,
    /// `stored`, `duplicate`, `rejected` or `quarantined`.
    pub outcome: Option<String>,
}

/// How many events of one event type and application ended in one way in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// The first moment of the bucket: microseconds since 1970.
    pub start_us: i64,
    /// The name of the application.
    pub application: String,
    /// Category and name; none if the events had none that could be read.
    pub event_type: Option<(String, String)>,
    /// How they ended.
    pub outcome: String,
    /// How many.
    pub count: i64,
    /// Where this row stands among the others.
    pub position: CountPosition,
}

/// Where a count stands among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountPosition {
    /// The first moment of the bucket: microseconds since 1970.
    pub start_us: i64,
    /// The number of the event type.
    pub event_type_id: i32,
    /// The number of the application.
    pub application_id: i32,
    /// The outcome.
    pub outcome: String,
}

/// An event type with its counts since ever.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct EventTypeRow {
    /// First half of the event type.
    pub category: String,
    /// Second half of the event type.
    pub name: String,
    /// Events stored.
    pub stored: i64,
    /// Events rejected.
    pub rejected: i64,
    /// Events quarantined.
    pub quarantined: i64,
    /// Events stored of all names of the category.
    pub category_stored: i64,
}

/// Where an event type stands among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CategoryPosition {
    /// First half of the event type.
    pub category: String,
    /// Second half of the event type.
    pub name: String,
}

#[derive(sqlx::FromRow)]
struct CountColumns {
    start: DateTime<Utc>,
    event_type_id: i32,
    application_id: i32,
    outcome: String,
    count: i64,
    application: String,
    category: Option<String>,
    name: Option<String>,
}

impl From<CountColumns> for CountRow {
    fn from(row: CountColumns) -> CountRow {
        let start_us = row.start.timestamp_micros();
        CountRow {
            start_us,
            application: row.application,
            event_type: row.category.zip(row.name),
            outcome: row.outcome.clone(),
            count: row.count,
            position: CountPosition {
                start_us,
                event_type_id: row.event_type_id,
                application_id: row.application_id,
                outcome: row.outcome,
            },
        }
    }
}

impl Store {
    /// A page of counts, by bucket, event type, application and outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn counts_page(
        &self,
        filter: &CountFilter,
        after: Option<&CountPosition>,
        rows_max: u32,
    ) -> Result<Page<CountRow, CountPosition>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let mut query = counts_query(filter, after, rows_max);
        let query = query.build_query_as::<CountColumns>().persistent(false);
        let rows = within(until, limit, query.fetch_all(reading.connection())).await?;
        let mut rows: Vec<CountRow> = rows.into_iter().map(CountRow::from).collect();
        let more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows.last().filter(|_| more).map(|row| row.position.clone());
        Ok(Page { rows, next })
    }

    /// A page of event types with their counts since ever, by category and name.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn event_types_page(
        &self,
        after: Option<&CategoryPosition>,
        rows_max: u32,
    ) -> Result<Page<EventTypeRow, CategoryPosition>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let query = sqlx::query_as::<_, EventTypeRow>(
            "with page as materialized (select category, name from event_types \
                 where $1::text is null or (category, name) > ($1, $2) order by category, name limit $3), \
             types as materialized (select id, category, name from event_types \
                 where category in (select category from page)), \
             figures as (select event_type_id, outcome, count from counts \
                     where bucket = 'ever' and event_type_id in (select id from types) \
                 union all select event_type_id, outcome, count from unfolded_counts), \
             sums as (select types.category, types.name, \
                     coalesce(sum(figures.count) filter (where outcome = 'stored'), 0)::bigint as stored, \
                     coalesce(sum(figures.count) filter (where outcome = 'rejected'), 0)::bigint as rejected, \
                     coalesce(sum(figures.count) filter (where outcome = 'quarantined'), 0)::bigint as quarantined \
                 from types left join figures on figures.event_type_id = types.id \
                 group by types.category, types.name), \
             totals as (select category, sum(stored)::bigint as stored from sums group by category) \
             select category, name, sums.stored, sums.rejected, sums.quarantined, totals.stored as category_stored \
             from page join sums using (category, name) join totals using (category) order by category, name",
        )
        .bind(after.map(|after| &after.category))
        .bind(after.map(|after| &after.name))
        .bind(i64::from(rows_max) + 1);
        let mut rows = within(until, limit, query.fetch_all(reading.connection())).await?;
        let more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| CategoryPosition { category: row.category.clone(), name: row.name.clone() });
        Ok(Page { rows, next })
    }
}

fn counts_query(filter: &CountFilter, after: Option<&CountPosition>, rows_max: u32) -> QueryBuilder<Postgres> {
    let from = time(after.map_or(filter.from_us, |after| after.start_us.max(filter.from_us)));
    let (to, bucket) = (time(filter.to_us), filter.bucket.as_str());
    let mut query = QueryBuilder::new(
        "select page.start, page.event_type_id, page.application_id, page.outcome, page.count, \
         coalesce(applications.name, '') as application, event_types.category, event_types.name \
         from (select start, event_type_id, application_id, outcome, sum(count)::bigint as count from (\
         select start, event_type_id, application_id, outcome, count from counts where bucket = ",
    );
    query.push_bind(bucket).push(" and start >= ").push_bind(from).push(" and start < ").push_bind(to);
    query.push(" union all select date_trunc(").push_bind(bucket);
    query.push(", minute, 'UTC'), event_type_id, application_id, outcome, count from unfolded_counts where minute >= ");
    query.push_bind(from).push(" and minute < ").push_bind(to).push(") figures where true");
    if let Some(after) = after {
        query.push(" and (start, event_type_id, application_id, outcome) > (").push_bind(time(after.start_us));
        query.push(", ").push_bind(after.event_type_id).push(", ").push_bind(after.application_id);
        query.push(", ").push_bind(after.outcome.clone()).push(")");
    }
    if let Some(outcome) = &filter.outcome {
        query.push(" and outcome = ").push_bind(outcome.clone());
    }
    if let Some(application) = &filter.application {
        query.push(" and application_id = (select id from applications where name = ");
        query.push_bind(application.clone()).push(")");
    }
    if let Some(category) = &filter.category {
        query.push(" and event_type_id in (select id from event_types where category = ");
        query.push_bind(category.clone()).push(")");
    }
    if let Some(name) = &filter.name {
        query.push(" and event_type_id in (select id from event_types where name = ");
        query.push_bind(name.clone()).push(")");
    }
    query.push(" group by 1, 2, 3, 4 order by 1, 2, 3, 4 limit ").push_bind(i64::from(rows_max) + 1);
    query.push(
        ") page left join event_types on event_types.id = page.event_type_id \
         left join applications on applications.id = page.application_id \
         order by page.start, page.event_type_id, page.application_id, page.outcome",
    );
    query
}
