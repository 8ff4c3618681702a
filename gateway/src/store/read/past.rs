//! Events of the past for a replay: those of one event type in the order of their timestamps, a page at a time, each of which
//! goes on after the one before. Of a sample only the chosen events come with their data.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::{Page, PageLimits, Position, event_types, time, within};
use crate::store::{Error, Store};

/// About the bytes of a row without its data.
const ROW_BYTES: usize = 200;

/// A stored event of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// The event's id.
    pub id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// When it occurred.
    pub timestamp: DateTime<Utc>,
    /// When the gateway received it.
    pub received_at: DateTime<Utc>,
    /// The id of the application that sent it.
    pub application_id: i32,
    /// The name of that application.
    pub application: String,
    /// The digest of the module that judged it, if any.
    pub module: Option<Vec<u8>>,
    /// The data as JSON text; `None` if the sample leaves it out.
    pub data: Option<String>,
}

from_row!(PastEvent { id, session_id, timestamp, received_at, application_id, application, module, data });

impl PastEvent {
    fn position(&self) -> Position {
        Position {
            timestamp_us: self.timestamp.timestamp_micros(),
            received_at_us: self.received_at.timestamp_micros(),
            id: self.id,
        }
    }
}

/// A range of time in microseconds since 1970, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastRange {
    /// From this time on.
    pub from_us: i64,
    /// Before this time.
    pub to_us: i64,
}

impl PastRange {
    fn push(self, query: &mut QueryBuilder<Postgres>) {
        query.push(" and timestamp >= ").push_bind(time(self.from_us));
        query.push(" and timestamp < ").push_bind(time(self.to_us));
    }
}

impl Store {
    /// The event types, by category and name, that come after one: of a category, or all.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn event_types_after(
        &self,
        category: Option<&str>,
        after: Option<&(String, String)>,
        rows_max: u32,
    ) -> Result<Vec<(String, String)>, Error> {
        let mut query = QueryBuilder::<Postgres>::new("select category, name from event_types where true");
        if let Some(category) = category {
            query.push(" and category = ").push_bind(category.to_owned());
        }
        if let Some((category, name)) = after {
            query.push(" and (category, name) > (").push_bind(category.clone());
            query.push(", ").push_bind(name.clone()).push(")");
        }
        query.push(format!(" order by category, name limit {rows_max}"));
        let query = query.build_query_as().persistent(false);
        self.reading().await?.run(|connection| query.fetch_all(connection)).await
    }

    /// A page of the events of a type after `after`. With a share, of 2^32, it chooses events by their ids, so that each
    /// page of the same share chooses the same ones.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn past_events(
        &self,
        (category, name): (&str, &str),
        range: PastRange,
        after: Option<Position>,
        share: Option<u32>,
        limits: PageLimits,
    ) -> Result<Page<PastEvent, Position>, Error> {
        let mut reading = self.reading().await?;
        let found = reading.run(|connection| event_types(connection, Some(category), Some(name))).await?;
        let Some(&event_type_id) = found.first() else { return Ok(Page::empty()) };
        let mut query = QueryBuilder::<Postgres>::new(
            "select page.id, page.session_id, page.timestamp, page.received_at, page.application_id, \
                 coalesce(applications.name, '') as application, modules.digest as module, page.data::text as data \
             from (select id, session_id, timestamp, received_at, application_id, module_id, ",
        );
        match share {
            None => query.push("data"),
            Some(share) => query
                .push("case when uuid_hash_extended(id, 0) & 4294967295 < ")
                .push_bind(i64::from(share))
                .push(" then data end as data"),
        };
        query.push(format!(" from events where event_type_id = {event_type_id}"));
        range.push(&mut query);
        if let Some(after) = after {
            query.push(" and timestamp >= ").push_bind(time(after.timestamp_us));
            query.push(" and (timestamp, received_at, id) > (").push_bind(time(after.timestamp_us));
            query.push(", ").push_bind(time(after.received_at_us)).push(", ").push_bind(after.id).push(")");
        }
        query.push(format!(" order by timestamp, received_at, id limit {}", limits.rows));
        query.push(
            ") page left join applications on applications.id = page.application_id \
             left join modules on modules.id = page.module_id \
             order by page.timestamp, page.received_at, page.id",
        );
        let query = query.build_query_as::<PastEvent>().persistent(false);
        let (until, limit) = reading.limits();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut found = query.fetch(reading.connection());
        while rows.len() < limits.rows as usize && bytes < limits.bytes {
            let Some(row) = within(until, limit, found.try_next()).await? else { return Ok(Page { rows, next: None }) };
            bytes += row.data.as_ref().map_or(0, String::len) + ROW_BYTES;
            rows.push(row);
        }
        Ok(Page { next: rows.last().map(PastEvent::position), rows })
    }

    /// Counts the events of these types. Returns `None` if counting takes too long.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`] and [`Error::Refused`].
    pub async fn past_events_count(&self, types: &[(String, String)], range: PastRange) -> Result<Option<u64>, Error> {
        let mut reading = self.reading().await?;
        let ids = reading.run(|connection| ids_of(connection, types)).await?;
        let mut query = QueryBuilder::<Postgres>::new("select count(*) from events where event_type_id = any(");
        query.push_bind(ids).push(")");
        range.push(&mut query);
        let query = query.build_query_scalar::<i64>().persistent(false);
        let (until, limit) = reading.limits();
        match within(until, limit, query.fetch_one(reading.connection())).await {
            Ok(count) => Ok(Some(u64::try_from(count).unwrap_or_default())),
            Err(Error::Slow(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// About how many events of all types there are in a range, as the server guesses them.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn past_events_guess(&self, types: &[(String, String)], range: PastRange) -> Result<u64, Error> {
        let mut reading = self.reading().await?;
        let ids = reading.run(|connection| ids_of(connection, types)).await?;
        let mut query =
            QueryBuilder::<Postgres>::new("explain (format json) select 1 from events where event_type_id = any(");
        query.push_bind(ids).push(")");
        range.push(&mut query);
        let query = query.build_query_scalar::<sqlx::types::Json<serde_json::Value>>().persistent(false);
        let plan = reading.run(|connection| query.fetch_one(connection)).await?;
        let guess = plan.0[0]["Plan"]["Plan Rows"].as_u64().or_else(|| {
            let rows = plan.0[0]["Plan"]["Plan Rows"].as_f64().filter(|rows| rows.is_finite() && *rows > 0.0)?;
            format!("{rows:.0}").parse().ok()
        });
        Ok(guess.unwrap_or_default())
    }
}

/// The ids of event types. One that was never stored has none.
async fn ids_of(connection: &mut PgConnection, types: &[(String, String)]) -> Result<Vec<i32>, sqlx::Error> {
    let (categories, names): (Vec<&str>, Vec<&str>) =
        types.iter().map(|(category, name)| (category.as_str(), name.as_str())).unzip();
    sqlx::query_scalar(
        "select id from event_types where (category, name) in (select * from unnest($1::text[], $2::text[])) order by id",
    )
    .bind(categories)
    .bind(names)
    .fetch_all(connection)
    .await
}
