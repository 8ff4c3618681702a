//! Pages of events, whatever they are chosen by. Every statement here is one walk along an index in the order that is asked
//! for, which ends with the page: the primary key for a session, `(event_type_id, timestamp)` merged over the event types of
//! a category, else `timestamp`. What no index can choose (an application, an event type within a session) is left out
//! while walking, a stretch of bounded length at a time; a page that has walked for long ends early.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::scan::{Window, Windows};
use super::{Page, PageLimits, Position, Reading, application_id, event_types, time, within};
use crate::store::{Error, Store};

/// Events of one stretch of a walk that leaves events out.
const STRETCH_MAX: u32 = 10_000;
/// Event types that are walked one beside the other. More than that are picked out while walking all events.
const TYPES_MERGED_MAX: usize = 64;
/// Events of a first statement. Later ones ask for what still fits, going by how large the events were so far.
const FIRST_ROWS: u32 = 128;
/// Bytes of a row besides its data, roughly.
const ROW_BYTES: usize = 200;

const COLUMNS: &str = "session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data";

/// Which events are asked for. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Not before: microseconds since 1970.
    pub from_us: Option<i64>,
    /// Before: microseconds since 1970.
    pub to_us: Option<i64>,
    /// The session.
    pub session_id: Option<Uuid>,
    /// First half of the event type.
    pub category: Option<String>,
    /// Second half of the event type.
    pub name: Option<String>,
    /// The name of the application that sent them.
    pub application: Option<String>,
    /// The latest first.
    pub descending: bool,
}

/// An event as it was stored, with its numbers turned into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event's own id.
    pub id: Uuid,
    /// The session it belongs to.
    pub session_id: Uuid,
    /// First half of the event type.
    pub category: String,
    /// Second half of the event type.
    pub name: String,
    /// When it occurred: microseconds since 1970.
    pub timestamp_us: i64,
    /// When the gateway took it: microseconds since 1970.
    pub received_at_us: i64,
    /// The name of the application that sent it.
    pub application: String,
    /// The digest of the module that judged it, if one did.
    pub module: Option<Vec<u8>>,
    /// The data as JSON text.
    pub data: String,
}

impl StoredEvent {
    /// Where it stands among the others.
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
    /// A page of the events that the filter lets through, after `after`.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn events_page(
        &self,
        filter: &EventFilter,
        after: Option<Position>,
        limits: PageLimits,
        now_us: i64,
    ) -> Result<Page<StoredEvent, Position>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = (reading.until, reading.time);
        let Some(choice) = within(until, limit, Choice::of(reading.connection(), filter)).await? else {
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

    /// Which of these keys (session, microseconds since 1970, id) are those of stored events.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn events_known(&self, keys: &[(Uuid, i64, Uuid)]) -> Result<Vec<(Uuid, i64, Uuid)>, Error> {
        let mut reading = self.reading().await?;
        let sessions: Vec<Uuid> = keys.iter().map(|key| key.0).collect();
        let times: Vec<DateTime<Utc>> = keys.iter().map(|key| time(key.1)).collect();
        let ids: Vec<Uuid> = keys.iter().map(|key| key.2).collect();
        // Key by key along the primary key: nothing of the events themselves is read.
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

    /// One event of a session; the first of them if several share an id, which their timestamps then tell apart. Looks
    /// through the keys of the session's events, since its time is not known.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn event(&self, session_id: Uuid, id: Uuid) -> Result<Option<StoredEvent>, Error> {
        let mut reading = self.reading().await?;
        let mut query = QueryBuilder::new("");
        push_words(&mut query, |query| {
            query.push(format!("select {COLUMNS} from events where session_id = ")).push_bind(session_id);
            query.push(" and id = ").push_bind(id).push(" order by timestamp limit 1");
        });
        let query = query.build_query_as::<EventColumns>().persistent(false);
        let (until, limit) = (reading.until, reading.time);
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

/// The windows in which a filter is walked.
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

/// What is left of a range after a position. The position's own microsecond is still in it.
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

/// A time in the first month that has a partition, from the partitions' names; what is older lies in the default one.
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

/// What a filter comes down to in numbers.
struct Choice {
    session_id: Option<Uuid>,
    /// Event types to choose, each by its index.
    types: Option<Vec<i32>>,
    /// Event types to pick out while walking.
    types_picked: Option<Vec<i32>>,
    /// The application to pick out while walking.
    application_id: Option<i32>,
}

impl Choice {
    /// None if there is no such event type or application, and so no such event.
    async fn of(connection: &mut PgConnection, filter: &EventFilter) -> Result<Option<Choice>, sqlx::Error> {
        let mut choice =
            Choice { session_id: filter.session_id, types: None, types_picked: None, application_id: None };
        if filter.category.is_some() || filter.name.is_some() {
            let types = event_types(connection, filter.category.as_deref(), filter.name.as_deref()).await?;
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
            if choice.application_id.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(choice))
    }

    fn picks(&self) -> bool {
        self.types_picked.is_some() || self.application_id.is_some()
    }
}

enum Progress {
    /// There may be more in this window.
    More,
    /// The window is done.
    Done,
}

/// A page in the making.
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

    /// One row more than a page tells that there is a next one.
    fn wanted(&self) -> u32 {
        self.limits.rows + 1 - u32::try_from(self.rows.len()).unwrap_or(u32::MAX).min(self.limits.rows)
    }

    /// How many of them one statement asks for: what goes beyond the page's bytes would be read for nothing.
    fn asked(&self) -> u32 {
        let fit = match self.bytes.checked_div(self.rows.len()) {
            Some(bytes) => {
                u32::try_from(self.limits.bytes.saturating_sub(self.bytes) / bytes.max(1)).unwrap_or(u32::MAX)
            }
            None => FIRST_ROWS,
        };
        fit.saturating_add(1).min(self.wanted())
    }

    /// The page, without the row that only told that there is more.
    fn cut(mut self) -> Page<StoredEvent, Position> {
        self.rows.truncate(self.limits.rows as usize);
        Page { next: self.rows.last().map(StoredEvent::position), rows: self.rows }
    }

    /// Reads on in a window.
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
        // Events that came between the two statements end the stretch sooner. What was read beyond is not read again.
        let read = self.rows.last().map(StoredEvent::position).filter(|read| self.is_beyond(read, &end));
        self.after = Some(read.unwrap_or(end));
        Ok(Progress::More)
    }

    /// Whether the walk comes to `one` later than to `other`.
    fn is_beyond(&self, one: &Position, other: &Position) -> bool {
        let key = |position: &Position| (position.timestamp_us, position.received_at_us, position.id);
        if self.descending { key(one) < key(other) } else { key(one) > key(other) }
    }

    /// The statement that gives the next rows of a window.
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

    /// A walk along one index, or along the same index at several places at once.
    fn push_ordered(&self, query: &mut QueryBuilder<Postgres>, window: Window, columns: &str, limit: u32) {
        match self.choice.types.as_deref() {
            Some(types) => {
                query.push(format!("select {columns} from ("));
                for (place, event_type) in types.iter().enumerate() {
                    if place > 0 {
                        query.push(" union all ");
                    }
                    // Each in order and no longer than what is wanted of all: only then are they merged as far as that
                    // goes, instead of being read to their ends and sorted.
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

    /// The bounds on the time choose the partitions. With the comparison of the whole position the index leads to where the
    /// page before ended, also among events of one moment; the primary key, by which a session is read, leads to the first
    /// event of that moment, and those that were on the page before are left out.
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

/// Joins the words to the rows of `page`, and only to them.
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
