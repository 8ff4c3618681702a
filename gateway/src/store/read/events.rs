//! Pages of events, for all filters. Each statement walks along an index in the requested order and ends with the page:
//! the primary key for a session, `(event_type_id, timestamp)` merged over the event types of a category, otherwise
//! `timestamp`. Events that no index can select (by application, or by type within a session) are filtered during the
//! walk, which reads a bounded stretch at a time; a page that has walked for long ends early.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::scan::{Window, Windows};
use super::sight::Sight;
use super::{Page, PageLimits, Position, Reading, application_id, event_types, time, within};
use crate::store::{Error, Store};
use crate::trust::visible::Visible;

/// Events of one stretch of a walk with a filter.
const STRETCH_MAX: u32 = 10_000;
/// Most event types whose indexes are merged. With more, the walk reads all events and filters.
pub(super) const TYPES_MERGED_MAX: usize = 64;
/// Rows of the first statement. The sizes of its events decide the rows of the next one.
const FIRST_ROWS: u32 = 128;
/// About the bytes of a row without its data.
const ROW_BYTES: usize = 200;

const COLUMNS: &str = "session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data";

/// Selects events. All given fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Not before this time, in microseconds since 1970.
    pub from_us: Option<i64>,
    /// Before this time, in microseconds since 1970.
    pub to_us: Option<i64>,
    /// The session.
    pub session_id: Option<Uuid>,
    /// The category of the event type.
    pub category: Option<String>,
    /// The name of the event type.
    pub name: Option<String>,
    /// The name of the application.
    pub application: Option<String>,
    /// Whether the latest come first.
    pub descending: bool,
}

/// A stored event, with words in place of ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event's id.
    pub id: Uuid,
    /// The session.
    pub session_id: Uuid,
    /// The category.
    pub category: String,
    /// The name.
    pub name: String,
    /// The timestamp, in microseconds since 1970.
    pub timestamp_us: i64,
    /// The time of receipt, in microseconds since 1970.
    pub received_at_us: i64,
    /// The name of the application that sent it.
    pub application: String,
    /// The digest of the module that judged it, if any.
    pub module: Option<Vec<u8>>,
    /// The data as JSON text.
    pub data: String,
}

impl StoredEvent {
    /// The place in the order of pages.
    pub fn position(&self) -> Position {
        Position { timestamp_us: self.timestamp_us, received_at_us: self.received_at_us, id: self.id }
    }
}

struct EventColumns {
    id: Uuid,
    session_id: Uuid,
    category: String,
    name: String,
    timestamp: DateTime<Utc>,
    received_at: DateTime<Utc>,
    application: String,
    module: Option<Vec<u8>>,
    data: String,
}

from_row!(EventColumns { id, session_id, category, name, timestamp, received_at, application, module, data });

impl From<EventColumns> for StoredEvent {
    fn from(row: EventColumns) -> StoredEvent {
        StoredEvent {
            id: row.id,
            session_id: row.session_id,
            category: row.category,
            name: row.name,
            timestamp_us: row.timestamp.timestamp_micros(),
            received_at_us: row.received_at.timestamp_micros(),
            application: row.application,
            module: row.module,
            data: row.data,
        }
    }
}

impl Store {
    /// A page of the filter's events that are visible, after `after`.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn events_page(
        &self,
        visible: &Visible,
        filter: &EventFilter,
        after: Option<Position>,
        limits: PageLimits,
        now_us: i64,
    ) -> Result<Page<StoredEvent, Position>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let Some(choice) = within(until, limit, Choice::of(reading.connection(), visible, filter)).await? else {
            return Ok(Page::empty());
        };
        let windows = within(until, limit, windows(reading.connection(), filter, after, now_us)).await?;
        let mut walk = Walk { choice, descending: filter.descending, after, rows: Vec::new(), bytes: 0, limits };
        for window in windows {
            loop {
                let Progress::More = walk.step(&mut reading, window).await? else { break };
                if walk.full() {
                    return Ok(walk.cut());
                }
                if reading.late() {
                    return Ok(Page { next: walk.after, rows: walk.rows });
                }
            }
        }
        Ok(Page { rows: walk.rows, next: None })
    }

    /// Returns those of these keys (session, timestamp in microseconds since 1970, id) that are stored.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn events_known(&self, keys: &[(Uuid, i64, Uuid)]) -> Result<Vec<(Uuid, i64, Uuid)>, Error> {
        let mut reading = self.reading().await?;
        let sessions: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
        let times: Vec<DateTime<Utc>> = keys.iter().map(|key| time(key.1)).collect();
        let ids: Vec<Uuid> = keys.iter().map(|key| key.2).collect();
        // Looks up each key along the primary key. It reads no event.
        let query = sqlx::query_scalar(
            "select wanted.place from unnest($1::uuid[], $2::timestamptz[], $3::uuid[]) with ordinality \
                 as wanted (session_id, timestamp, id, place) \
             where exists (select from events where events.session_id = wanted.session_id \
                 and events.timestamp = wanted.timestamp and events.id = wanted.id)",
        )
        .bind(&sessions)
        .bind(&times)
        .bind(&ids);
        let places: Vec<i64> = reading.run(|connection| query.fetch_all(connection)).await?;
        Ok(places.into_iter().filter_map(|place| keys.get(usize::try_from(place - 1).ok()?).copied()).collect())
    }

    /// One visible event of a session. If several share the id, with different timestamps, it is the first. It walks along the
    /// keys of the session's events, since the timestamp is not given.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn event(&self, visible: &Visible, session_id: Uuid, id: Uuid) -> Result<Option<StoredEvent>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let sight = within(until, limit, Sight::of(reading.connection(), visible)).await?;
        let mut query = QueryBuilder::new("");
        push_words(&mut query, |query| {
            query.push(format!("select {COLUMNS} from events where session_id = ")).push_bind(session_id);
            query.push(" and id = ").push_bind(id);
            sight.push(query);
            query.push(" order by timestamp limit 1");
        });
        let query = query.build_query_as::<EventColumns>().persistent(false);
        Ok(within(until, limit, query.fetch_optional(reading.connection())).await?.map(StoredEvent::from))
    }

    /// Whether an event with this key is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn has_event(&self, session_id: Uuid, timestamp_us: i64, id: Uuid) -> Result<bool, Error> {
        let query = sqlx::query_scalar(
            "select exists (select from events where session_id = $1 and timestamp = $2 and id = $3)",
        )
        .bind(session_id)
        .bind(time(timestamp_us))
        .bind(id);
        self.reading().await?.run(|connection| query.fetch_one(connection)).await
    }
}

/// The windows of a filter's walk.
async fn windows(
    connection: &mut PgConnection,
    filter: &EventFilter,
    after: Option<Position>,
    now_us: i64,
) -> Result<Windows, sqlx::Error> {
    let range = narrowed(Window { from_us: filter.from_us, to_us: filter.to_us }, filter.descending, after);
    if filter.session_id.is_some() {
        return Ok(Windows::whole(range));
    }
    let origin_us =
        if filter.descending || range.from_us.is_some() { now_us } else { oldest_month(connection, now_us).await? };
    Ok(Windows::new(range, filter.descending, origin_us))
}

/// The rest of a range after a position. It includes the position's own microsecond.
pub(super) fn narrowed(range: Window, descending: bool, after: Option<Position>) -> Window {
    let Some(after) = after else { return range };
    if descending {
        let to_us = after.timestamp_us.saturating_add(1);
        Window { to_us: Some(range.to_us.map_or(to_us, |bound| bound.min(to_us))), ..range }
    } else {
        let from_us = after.timestamp_us;
        Window { from_us: Some(range.from_us.map_or(from_us, |bound| bound.max(from_us))), ..range }
    }
}

/// A time in the first month that has a partition, from the names of the partitions. Older events are in the default
/// one.
async fn oldest_month(connection: &mut PgConnection, now_us: i64) -> Result<i64, sqlx::Error> {
    let oldest: Option<DateTime<Utc>> = sqlx::query_scalar(
        "select min(to_timestamp(substring(partition.relname from '^events_(\\d{4}_\\d{2})$') || '+00', 'YYYY_MMTZH')) \
         from pg_inherits join pg_class partition on partition.oid = pg_inherits.inhrelid \
         where pg_inherits.inhparent = 'events'::regclass",
    )
    .fetch_one(connection)
    .await?;
    Ok(oldest.map_or(now_us, |oldest| oldest.timestamp_micros()))
}

/// A filter with ids in place of words.
struct Choice {
    session_id: Option<Uuid>,
    /// Event types to select by index.
    types: Option<Vec<i32>>,
    /// Event types to filter during the walk.
    types_picked: Option<Vec<i32>>,
    /// The application to filter during the walk.
    application_id: Option<i32>,
    /// The applications that the reader sees, to filter during the walk.
    applications_seen: Option<Vec<i32>>,
}

impl Choice {
    /// Returns `None` if no visible event matches, since the event type or the application does not exist or is hidden.
    async fn of(
        connection: &mut PgConnection,
        visible: &Visible,
        filter: &EventFilter,
    ) -> Result<Option<Choice>, sqlx::Error> {
        let sight = Sight::of(connection, visible).await?;
        if sight.is_nothing() {
            return Ok(None);
        }
        let mut choice = Choice {
            session_id: filter.session_id,
            types: None,
            types_picked: None,
            application_id: None,
            applications_seen: None,
        };
        let types = if filter.category.is_some() || filter.name.is_some() {
            let types = event_types(connection, filter.category.as_deref(), filter.name.as_deref()).await?;
            Some(sight.narrow_types(types))
        } else {
            sight.types.clone()
        };
        if let Some(types) = types {
            if types.is_empty() {
                return Ok(None);
            }
            if filter.session_id.is_some() || types.len() > TYPES_MERGED_MAX {
                choice.types_picked = Some(types);
            } else {
                choice.types = Some(types);
            }
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

    fn picks(&self) -> bool {
        self.types_picked.is_some() || self.application_id.is_some() || self.applications_seen.is_some()
    }
}

enum Progress {
    /// The window may have more rows.
    More,
    /// The window is finished.
    Done,
}

/// A page that is being filled.
struct Walk {
    choice: Choice,
    descending: bool,
    after: Option<Position>,
    rows: Vec<StoredEvent>,
    bytes: usize,
    limits: PageLimits,
}

impl Walk {
    fn full(&self) -> bool {
        self.rows.len() > self.limits.rows as usize || self.bytes >= self.limits.bytes
    }

    /// One row more than the page holds, which shows that there is a next page.
    fn wanted(&self) -> u32 {
        self.limits.rows + 1 - u32::try_from(self.rows.len()).unwrap_or(u32::MAX).min(self.limits.rows)
    }

    /// The rows of the next statement. Rows beyond the page's bytes would be read in vain.
    fn asked(&self) -> u32 {
        let fit = match self.bytes.checked_div(self.rows.len()) {
            Some(bytes) => {
                u32::try_from(self.limits.bytes.saturating_sub(self.bytes) / bytes.max(1)).unwrap_or(u32::MAX)
            }
            None => FIRST_ROWS,
        };
        fit.saturating_add(1).min(self.wanted())
    }

    /// The page, without that additional row.
    fn cut(mut self) -> Page<StoredEvent, Position> {
        self.rows.truncate(self.limits.rows as usize);
        Page { next: self.rows.last().map(StoredEvent::position), rows: self.rows }
    }

    /// Reads the next rows of a window.
    async fn step(&mut self, reading: &mut Reading, window: Window) -> Result<Progress, Error> {
        let (until, limit, asked) = (reading.until, reading.time, self.asked());
        let mut query = QueryBuilder::new("");
        self.push(&mut query, window);
        let mut found = 0;
        {
            let query = query.build_query_as::<EventColumns>().persistent(false);
            let mut rows = query.fetch(reading.connection());
            while !self.full() {
                let Some(row) = within(until, limit, rows.try_next()).await? else { break };
                self.bytes += row.data.len() + ROW_BYTES;
                self.rows.push(row.into());
                found += 1;
            }
        }
        if self.full() || found == asked {
            self.after = self.rows.last().map(StoredEvent::position);
            return Ok(Progress::More);
        }
        if !self.choice.picks() {
            return Ok(Progress::Done);
        }
        let mut query = QueryBuilder::new("select timestamp, received_at, id from (");
        self.push_stretch(&mut query, window, "session_id, timestamp, received_at, id");
        query.push(format!(") stretch offset {}", STRETCH_MAX - 1));
        let query = query.build_query_as::<(DateTime<Utc>, DateTime<Utc>, Uuid)>().persistent(false);
        let last = within(until, limit, query.fetch_optional(reading.connection())).await?;
        let Some((timestamp, received_at, id)) = last else { return Ok(Progress::Done) };
        let (timestamp_us, received_at_us) = (timestamp.timestamp_micros(), received_at.timestamp_micros());
        let end = Position { timestamp_us, received_at_us, id };
        // Events that came between the two statements move the end of the stretch back. Rows beyond it are not read
        // again.
        let read = self.rows.last().map(StoredEvent::position).filter(|read| self.is_beyond(read, &end));
        self.after = Some(read.unwrap_or(end));
        Ok(Progress::More)
    }

    /// Whether the walk reaches `one` after `other`.
    fn is_beyond(&self, one: &Position, other: &Position) -> bool {
        let key = |position: &Position| (position.timestamp_us, position.received_at_us, position.id);
        if self.descending { key(one) < key(other) } else { key(one) > key(other) }
    }

    /// The statement for the next rows of a window.
    fn push(&self, query: &mut QueryBuilder<Postgres>, window: Window) {
        push_words(query, |query| {
            if !self.choice.picks() {
                self.push_ordered(query, window, COLUMNS, self.asked());
                return;
            }
            query.push(format!("select {COLUMNS} from ("));
            self.push_stretch(query, window, COLUMNS);
            query.push(") stretch where true");
            if let Some(types) = &self.choice.types_picked {
                query.push(" and event_type_id = any(").push_bind(types.clone()).push(")");
            }
            if let Some(application_id) = self.choice.application_id {
                query.push(" and application_id = ").push_bind(application_id);
            }
            if let Some(seen) = &self.choice.applications_seen {
                query.push(" and application_id = any(").push_bind(seen.clone()).push(")");
            }
            query.push(format!(" order by {} limit {}", self.order(""), self.asked()));
        });
        query.push(format!(" order by {}", self.order("page.")));
    }

    fn push_stretch(&self, query: &mut QueryBuilder<Postgres>, window: Window, columns: &str) {
        self.push_ordered(query, window, columns, STRETCH_MAX);
    }

    fn order(&self, of: &str) -> String {
        let way = if self.descending { "desc" } else { "asc" };
        format!("{of}timestamp {way}, {of}received_at {way}, {of}id {way}")
    }

    /// A walk along one index, or along several parts of it at once.
    fn push_ordered(&self, query: &mut QueryBuilder<Postgres>, window: Window, columns: &str, limit: u32) {
        match self.choice.types.as_deref() {
            Some(types) => {
                query.push(format!("select {columns} from ("));
                for (place, event_type) in types.iter().enumerate() {
                    if place > 0 {
                        query.push(" union all ");
                    }
                    // Each part is ordered and has no more rows than all together need. Only then does Postgres merge
                    // them as far as needed, instead of reading and sorting all.
                    query.push(format!("(select {columns} from events where event_type_id = {event_type}"));
                    self.push_bounds(query, window);
                    query.push(format!(" order by {} limit {limit})", self.order("")));
                }
                query.push(") merged");
            }
            None => {
                query.push(format!("select {columns} from events where "));
                match self.choice.session_id {
                    Some(session_id) => query.push("session_id = ").push_bind(session_id),
                    None => query.push("true"),
                };
                self.push_bounds(query, window);
            }
        }
        query.push(format!(" order by {} limit {limit}", self.order("")));
    }

    /// The bounds on the time select the partitions. The comparison of the whole position leads the index to the end of
    /// the last page, even among events of one moment. The primary key, for sessions, leads to the first event of that
    /// moment; the comparison then leaves out the events of the last page.
    fn push_bounds(&self, query: &mut QueryBuilder<Postgres>, window: Window) {
        let window = narrowed(window, self.descending, self.after);
        if let Some(from_us) = window.from_us {
            query.push(" and timestamp >= ").push_bind(time(from_us));
        }
        if let Some(to_us) = window.to_us {
            query.push(" and timestamp < ").push_bind(time(to_us));
        }
        if let Some(after) = self.after {
            query.push(format!(" and (timestamp, received_at, id) {} (", if self.descending { "<" } else { ">" }));
            query.push_bind(time(after.timestamp_us)).push(", ").push_bind(time(after.received_at_us));
            query.push(", ").push_bind(after.id).push(")");
        }
    }
}

/// Joins names and digests to the rows of `page` only.
fn push_words(query: &mut QueryBuilder<Postgres>, page: impl FnOnce(&mut QueryBuilder<Postgres>)) {
    query.push(
        "select page.id, page.session_id, event_types.category, event_types.name, page.timestamp, page.received_at, \
         coalesce(applications.name, '') as application, modules.digest as module, page.data::text as data from (",
    );
    page(query);
    query.push(
        ") page join event_types on event_types.id = page.event_type_id \
         left join applications on applications.id = page.application_id \
         left join modules on modules.id = page.module_id",
    );
}
