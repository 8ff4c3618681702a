//! Reads counts: per bucket, and in total per event type. Each read is one statement over the folded counts and the
//! deltas, so that it sees every batch once. It reads no events.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::sight::Sight;
use super::{Page, application_id, event_types, time, within};
use crate::store::{Error, Store};
use crate::trust::visible::Visible;

/// The counts since the last fold, with a row for each event type. The view of this name has the same rows, but a role needs
/// a right of its own for it.
macro_rules! unfolded_counts {
    () => {
        "(select minute, of_type.event_type_id, application_id, outcome, of_type.count from count_deltas \
             cross join lateral unnest(event_type_ids, counts) of_type (event_type_id, count)) unfolded_counts"
    };
}

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
    /// The word in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Bucket::Minute => "minute",
            Bucket::Hour => "hour",
            Bucket::Day => "day",
        }
    }

    /// The width in microseconds.
    pub fn width_us(self) -> i64 {
        match self {
            Bucket::Minute => 60_000_000,
            Bucket::Hour => 3_600_000_000,
            Bucket::Day => 86_400_000_000,
        }
    }
}

/// Selects counts. All given fields must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountFilter {
    /// The width of the buckets.
    pub bucket: Bucket,
    /// The first moment of the first bucket, in microseconds since 1970.
    pub from_us: i64,
    /// The first moment after the last bucket, in microseconds since 1970.
    pub to_us: i64,
    /// The category of the event type.
    pub category: Option<String>,
    /// The name of the event type.
    pub name: Option<String>,
    /// The name of an application.
    pub application: Option<String>,
    /// `stored`, `duplicate`, `rejected` or `quarantined`.
    pub outcome: Option<String>,
}

/// The count of one bucket, event type, application and outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountRow {
    /// The first moment of the bucket, in microseconds since 1970.
    pub start_us: i64,
    /// The name of the application.
    pub application: String,
    /// Category and name; `None` if they were unreadable.
    pub event_type: Option<(String, String)>,
    /// The outcome of the events.
    pub outcome: String,
    /// The number of events.
    pub count: i64,
    /// The place of this row, for the cursor.
    pub position: CountPosition,
}

/// The place of a count in the order of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountPosition {
    /// The first moment of the bucket, in microseconds since 1970.
    pub start_us: i64,
    /// The id of the event type.
    pub event_type_id: i32,
    /// The id of the application.
    pub application_id: i32,
    /// The outcome.
    pub outcome: String,
}

/// An event type with its total counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTypeRow {
    /// The category.
    pub category: String,
    /// The name.
    pub name: String,
    /// Stored events.
    pub stored: i64,
    /// Rejected events.
    pub rejected: i64,
    /// Quarantined events.
    pub quarantined: i64,
    /// Stored events of all names of the category.
    pub category_stored: i64,
}

from_row!(EventTypeRow { category, name, stored, rejected, quarantined, category_stored });

/// The place of an event type in the order of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CategoryPosition {
    /// The category.
    pub category: String,
    /// The name.
    pub name: String,
    /// The stored events of the category, as the page on which it started counted them.
    pub category_stored: i64,
}

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

from_row!(CountColumns { start, event_type_id, application_id, outcome, count, application, category, name });

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
    /// A page of the counts of visible events, by bucket, event type, application and outcome.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn counts_page(
        &self,
        visible: &Visible,
        filter: &CountFilter,
        after: Option<&CountPosition>,
        rows_max: u32,
    ) -> Result<Page<CountRow, CountPosition>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let Some(choice) = within(until, limit, Choice::of(reading.connection(), visible, filter)).await? else {
            return Ok(Page::empty());
        };
        let mut query = counts_query(filter, &choice, after, rows_max);
        let query = query.build_query_as::<CountColumns>().persistent(false);
        let rows = within(until, limit, query.fetch_all(reading.connection())).await?;
        let mut rows: Vec<CountRow> = rows.into_iter().map(CountRow::from).collect();
        let more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows.last().filter(|_| more).map(|row| row.position.clone());
        Ok(Page { rows, next })
    }

    /// A page of event types with the total counts of visible events, by category and name. A reader that is limited to
    /// applications gets the types that those have sent. The sum of a category is computed for the
    /// page on which it starts, and passed on in the cursor, so that a stream of many names computes it once.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn event_types_page(
        &self,
        visible: &Visible,
        after: Option<&CategoryPosition>,
        rows_max: u32,
    ) -> Result<Page<EventTypeRow, CategoryPosition>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let sight = within(until, limit, Sight::of(reading.connection(), visible)).await?;
        let query = sqlx::query_as::<_, EventTypeRow>(sqlx::AssertSqlSafe(event_types_query(&sight)))
            .bind(after.map(|after| &after.category))
            .bind(after.map(|after| &after.name))
            .bind(i64::from(rows_max) + 1)
            .bind(after.map_or(0, |after| after.category_stored));
        let query = sight.bind(query);
        let mut rows = within(until, limit, query.fetch_all(reading.connection())).await?;
        let more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows.last().filter(|_| more).map(|row| CategoryPosition {
            category: row.category.clone(),
            name: row.name.clone(),
            category_stored: row.category_stored,
        });
        Ok(Page { rows, next })
    }
}

/// The statement of [`Store::event_types_page`].
fn event_types_query(sight: &Sight) -> String {
    const UNFOLDED: &str = unfolded_counts!();
    let sent = sight.condition_on_application(5);
    let (begins, seen) = if sight.is_all() {
        ("where $1::text is null or (category, name) > ($1, $2)".to_owned(), String::new())
    } else {
        let seen = format!(
            " and ($5::integer[] is null or id = any($5)) and ($6::integer[] is null or id in ( \
                 select event_type_id from counts where bucket = 'ever' and application_id = any($6) \
                 union select event_type_id from {UNFOLDED} where application_id = any($6)))"
        );
        (format!("where ($1::text is null or (category, name) > ($1, $2)){seen}"), seen)
    };
    format!(
        "with page as materialized (select id, category, name from event_types \
             {begins} order by category, name limit $3), \
         sums as (select event_type_id, \
                 coalesce(sum(count) filter (where outcome = 'stored'), 0)::bigint as stored, \
                 coalesce(sum(count) filter (where outcome = 'rejected'), 0)::bigint as rejected, \
                 coalesce(sum(count) filter (where outcome = 'quarantined'), 0)::bigint as quarantined \
             from (select event_type_id, outcome, count from counts \
                     where bucket = 'ever' and event_type_id in (select id from page){sent} \
                 union all select event_type_id, outcome, count from {UNFOLDED} \
                     where event_type_id in (select id from page){sent}) figures group by event_type_id), \
         begun as materialized (select id, category from event_types \
             where category in (select category from page) and category is distinct from $1{seen}), \
         totals as (select begun.category, sum(figures.count)::bigint as stored \
             from begun join (select event_type_id, count from counts \
                     where bucket = 'ever' and outcome = 'stored' and event_type_id in (select id from begun){sent} \
                 union all select event_type_id, count from {UNFOLDED} \
                     where outcome = 'stored'{sent}) figures \
                 on figures.event_type_id = begun.id group by begun.category) \
         select page.category, page.name, coalesce(sums.stored, 0) as stored, \
             coalesce(sums.rejected, 0) as rejected, coalesce(sums.quarantined, 0) as quarantined, \
             case when page.category = $1 then $4 else coalesce(totals.stored, 0) end as category_stored \
         from page left join sums on sums.event_type_id = page.id left join totals on totals.category = page.category \
         order by page.category, page.name"
    )
}

/// A filter with ids in place of words.
struct Choice {
    types: Option<Vec<i32>>,
    application_id: Option<i32>,
    /// The applications that the reader sees.
    applications_seen: Option<Vec<i32>>,
}

impl Choice {
    /// Returns `None` if nothing visible was counted, since the event type or the application does not exist or is hidden.
    async fn of(
        connection: &mut PgConnection,
        visible: &Visible,
        filter: &CountFilter,
    ) -> Result<Option<Choice>, sqlx::Error> {
        let sight = Sight::of(connection, visible).await?;
        if sight.is_nothing() {
            return Ok(None);
        }
        let mut choice = Choice { types: sight.types.clone(), application_id: None, applications_seen: None };
        if filter.category.is_some() || filter.name.is_some() {
            let types = event_types(connection, filter.category.as_deref(), filter.name.as_deref()).await?;
            let types = sight.narrow_types(types);
            if types.is_empty() {
                return Ok(None);
            }
            choice.types = Some(types);
        }
        if let Some(application) = &filter.application {
            choice.application_id = application_id(connection, application).await?;
            if choice.application_id.is_none_or(|id| !sight.shows_application(id)) {
                return Ok(None);
            }
        } else {
            choice.applications_seen = sight.applications;
        }
        Ok(Some(choice))
    }
}

fn counts_query(
    filter: &CountFilter,
    choice: &Choice,
    after: Option<&CountPosition>,
    rows_max: u32,
) -> QueryBuilder<Postgres> {
    let from = time(after.map_or(filter.from_us, |after| after.start_us.max(filter.from_us)));
    let (to, bucket) = (time(filter.to_us), filter.bucket.as_str());
    let mut query = QueryBuilder::new(
        "select page.start, page.event_type_id, page.application_id, page.outcome, page.count, \
         coalesce(applications.name, '') as application, event_types.category, event_types.name \
         from (select start, event_type_id, application_id, outcome, sum(count)::bigint as count from (\
         (select start, event_type_id, application_id, outcome, count from counts where bucket = ",
    );
    query.push_bind(bucket).push(" and start >= ").push_bind(from).push(" and start < ").push_bind(to);
    // Both parts are in the order of the page, so Postgres merges them only as far as the page goes.
    query.push(" order by 1, 2, 3, 4) union all (select date_trunc(").push_bind(bucket);
    query.push(", minute, 'UTC'), event_type_id, application_id, outcome, count from ");
    query.push(concat!(unfolded_counts!(), " where minute >= "));
    query.push_bind(from).push(" and minute < ").push_bind(to);
    query.push(" order by 1, 2, 3, 4)) figures where true");
    if let Some(after) = after {
        query.push(" and (start, event_type_id, application_id, outcome) > (").push_bind(time(after.start_us));
        query.push(", ").push_bind(after.event_type_id).push(", ").push_bind(after.application_id);
        query.push(", ").push_bind(after.outcome.clone()).push(")");
    }
    if let Some(outcome) = &filter.outcome {
        query.push(" and outcome = ").push_bind(outcome.clone());
    }
    if let Some(application_id) = choice.application_id {
        query.push(" and application_id = ").push_bind(application_id);
    }
    if let Some(seen) = &choice.applications_seen {
        query.push(" and application_id = any(").push_bind(seen.clone()).push(")");
    }
    if let Some(types) = &choice.types {
        query.push(" and event_type_id = any(").push_bind(types.clone()).push(")");
    }
    query.push(" group by 1, 2, 3, 4 order by 1, 2, 3, 4 limit ").push_bind(i64::from(rows_max) + 1);
    query.push(
        ") page left join event_types on event_types.id = page.event_type_id \
         left join applications on applications.id = page.application_id \
         order by page.start, page.event_type_id, page.application_id, page.outcome",
    );
    query
}
