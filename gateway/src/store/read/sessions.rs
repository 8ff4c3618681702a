//! Lists the sessions that were active in a range, the latest first. There is no table of sessions, since writers would
//! contend for the row of a busy session. Instead the events are walked backwards from the latest, and a session is
//! listed at its latest event in the range. A page walks a bounded number of events, and may end early for that.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::events::{TYPES_MERGED_MAX, narrowed};
use super::scan::{Window, Windows};
use super::sight::Sight;
use super::{Page, PageLimits, Position, Reading, time, within};
use crate::store::{Error, Store};
use crate::trust::visible::Visible;

/// Events of one step.
const STRETCH_MAX: u32 = 2_000;
/// Most events of one page.
const EVENTS_MAX: u32 = 20_000;
/// Most events of a session that are counted.
const COUNTED_MAX: i64 = 10_000;

/// Selects the sessions with an event in this range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Not before this time, in microseconds since 1970.
    pub from_us: Option<i64>,
    /// Before this time, in microseconds since 1970.
    pub to_us: Option<i64>,
}

/// The first or last event of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEdge {
    /// The event's id.
    pub id: Uuid,
    /// The category.
    pub category: String,
    /// The name.
    pub name: String,
    /// The timestamp, in microseconds since 1970.
    pub timestamp_us: i64,
}

/// A session with all of its visible events, also those outside the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// The session's id.
    pub session_id: Uuid,
    /// The first event.
    pub first: SessionEdge,
    /// The last event.
    pub last: SessionEdge,
    /// The number of events, as far as they are counted.
    pub count: i64,
    /// Whether `count` has all events.
    pub count_is_exact: bool,
    /// The names of the applications that sent the counted events.
    pub applications: Vec<String>,
}

struct SessionColumns {
    session_id: Uuid,
    counted: i64,
    applications: Vec<String>,
    first_id: Uuid,
    first_timestamp: DateTime<Utc>,
    first_category: String,
    first_name: String,
    last_id: Uuid,
    last_timestamp: DateTime<Utc>,
    last_category: String,
    last_name: String,
}

from_row!(SessionColumns {
    session_id,
    counted,
    applications,
    first_id,
    first_timestamp,
    first_category,
    first_name,
    last_id,
    last_timestamp,
    last_category,
    last_name
});

/// The place of a session in the order of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPosition {
    /// The latest event of the session in the range.
    pub last: Position,
    /// The time of the first page, in microseconds since 1970. All pages show the events received until then, so that a
    /// session with a new event between two pages is neither lost nor shown twice.
    pub as_of_us: i64,
}

/// A session with the position of its latest event in the range.
type Sighting = (Uuid, Position);

impl Store {
    /// A page of the sessions that have a visible event in the range, by the latest one. The rows are made of the visible
    /// events alone.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn sessions_page(
        &self,
        visible: &Visible,
        filter: SessionFilter,
        after: Option<SessionPosition>,
        limits: PageLimits,
        now_us: i64,
    ) -> Result<Page<SessionRow, SessionPosition>, Error> {
        let mut reading = self.reading().await?;
        let (until, limit) = reading.limits();
        let sight = within(until, limit, Sight::of(reading.connection(), visible)).await?;
        if sight.is_nothing() {
            return Ok(Page::empty());
        }
        let range = Window { from_us: filter.from_us, to_us: filter.to_us };
        let as_of_us = after.map_or(now_us, |after| after.as_of_us);
        let after = after.map(|after| after.last);
        let mut walk =
            Walk { sight, range, as_of_us, after, at: after, seen: HashSet::new(), found: Vec::new(), looked_at: 0 };
        let wanted = limits.rows as usize;
        let mut next = None;
        'walk: for window in Windows::new(narrowed(range, true, after), true, now_us) {
            while walk.step(&mut reading, window).await? {
                if walk.found.len() > wanted {
                    break 'walk;
                }
                if walk.looked_at >= EVENTS_MAX || reading.late() {
                    next = walk.at;
                    break 'walk;
                }
            }
        }
        if walk.found.len() > wanted {
            walk.found.truncate(wanted);
            next = walk.found.last().map(|(_, position)| *position);
        }
        let ids: Vec<Uuid> = walk.found.iter().map(|(session_id, _)| *session_id).collect();
        let next = next.map(|last| SessionPosition { last, as_of_us });
        Ok(Page { rows: describe(&mut reading, walk.sight, &ids).await?, next })
    }
}

/// A page that is being filled.
struct Walk {
    sight: Sight,
    range: Window,
    /// The walk ignores events that were received later.
    as_of_us: i64,
    /// Where the page starts.
    after: Option<Position>,
    /// How far the walk has come.
    at: Option<Position>,
    seen: HashSet<Uuid>,
    found: Vec<Sighting>,
    looked_at: u32,
}

impl Walk {
    /// Reads the next events of a window, and returns whether it may have more.
    async fn step(&mut self, reading: &mut Reading, window: Window) -> Result<bool, Error> {
        let events = self.stretch(reading, narrowed(window, true, self.at)).await?;
        let mut fresh: Vec<Sighting> = Vec::new();
        for (sighting, is_visible) in &events {
            self.at = Some(sighting.1);
            if *is_visible && self.seen.insert(sighting.0) {
                fresh.push(*sighting);
            }
        }
        let shown = self.shown_before(reading, &fresh).await?;
        self.found.extend(fresh.into_iter().filter(|(session_id, _)| !shown.contains(session_id)));
        let count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        self.looked_at = self.looked_at.saturating_add(count);
        Ok(count >= STRETCH_MAX)
    }

    /// The next events, the latest first, each with whether it is visible. Hidden ones count as events of the stretch, so
    /// that its cost has a bound. If few event types are visible, their indexes lead past all others.
    async fn stretch(&self, reading: &mut Reading, window: Window) -> Result<Vec<(Sighting, bool)>, Error> {
        type Columns = (Uuid, DateTime<Utc>, DateTime<Utc>, Uuid);
        let sighting = |(session_id, timestamp, received_at, id): Columns| {
            let (timestamp_us, received_at_us) = (timestamp.timestamp_micros(), received_at.timestamp_micros());
            (session_id, Position { timestamp_us, received_at_us, id })
        };
        let (until, limit) = (reading.until, reading.time);
        if self.sight.is_all() {
            let mut query = QueryBuilder::new("");
            self.push_events(&mut query, "session_id, timestamp, received_at, id", None, window);
            let query = query.build_query_as::<Columns>().persistent(false);
            let rows = within(until, limit, query.fetch_all(reading.connection())).await?;
            return Ok(rows.into_iter().map(|row| (sighting(row), true)).collect());
        }
        const COLUMNS: &str = "session_id, timestamp, received_at, id, event_type_id, application_id";
        let mut query = QueryBuilder::new("select session_id, timestamp, received_at, id, true");
        self.sight.push(&mut query);
        query.push(" from (");
        match self.sight.types.as_deref().filter(|types| types.len() <= TYPES_MERGED_MAX) {
            None => self.push_events(&mut query, COLUMNS, None, window),
            Some(types) => {
                for (place, event_type) in types.iter().enumerate() {
                    query.push(if place > 0 { " union all (" } else { "(" });
                    self.push_events(&mut query, COLUMNS, Some(*event_type), window);
                    query.push(")");
                }
            }
        }
        query.push(format!(") stretch order by timestamp desc, received_at desc, id desc limit {STRETCH_MAX}"));
        let query = query.build_query_as::<(Uuid, DateTime<Utc>, DateTime<Utc>, Uuid, bool)>().persistent(false);
        let rows = within(until, limit, query.fetch_all(reading.connection())).await?;
        Ok(rows
            .into_iter()
            .map(|(session, at, received, id, shown)| (sighting((session, at, received, id)), shown))
            .collect())
    }

    /// A walk along one index: that of one event type, or that of all events.
    fn push_events(&self, query: &mut QueryBuilder<Postgres>, columns: &str, event_type: Option<i32>, window: Window) {
        query.push(format!("select {columns} from events where "));
        if let Some(event_type) = event_type {
            query.push(format!("event_type_id = {event_type} and "));
        }
        query.push("received_at <= ").push_bind(time(self.as_of_us));
        push_range(query, window);
        if let Some(at) = self.at {
            query.push(" and (timestamp, received_at, id) < (");
            push_position(query, at).push(")");
        }
        query.push(format!(" order by timestamp desc, received_at desc, id desc limit {STRETCH_MAX}"));
    }

    /// Those that an earlier page has shown: they have a visible event in the range that is at or beyond the start of this
    /// page.
    async fn shown_before(&self, reading: &mut Reading, fresh: &[Sighting]) -> Result<HashSet<Uuid>, Error> {
        let Some(after) = self.after else { return Ok(HashSet::new()) };
        let (until, limit) = (reading.until, reading.time);
        let ids: Vec<Uuid> = fresh.iter().map(|(session_id, _)| *session_id).collect();
        // `limit` keeps the planner from reading and joining all events of the range.
        let mut query = QueryBuilder::new("select wanted.session_id from unnest(");
        query.push_bind(ids).push(
            "::uuid[]) wanted (session_id) cross join lateral \
             (select 1 from events where events.session_id = wanted.session_id and received_at <= ",
        );
        query.push_bind(time(self.as_of_us));
        push_range(&mut query, Window { from_us: Some(after.timestamp_us), to_us: self.range.to_us });
        query.push(" and (timestamp, received_at, id) >= (");
        push_position(&mut query, after).push(")");
        self.sight.push(&mut query);
        query.push(" limit 1) later");
        let query = query.build_query_scalar::<Uuid>().persistent(false);
        Ok(within(until, limit, query.fetch_all(reading.connection())).await?.into_iter().collect())
    }
}

fn push_range(query: &mut QueryBuilder<Postgres>, window: Window) {
    if let Some(from_us) = window.from_us {
        query.push(" and timestamp >= ").push_bind(time(from_us));
    }
    if let Some(to_us) = window.to_us {
        query.push(" and timestamp < ").push_bind(time(to_us));
    }
}

fn push_position(query: &mut QueryBuilder<Postgres>, position: Position) -> &mut QueryBuilder<Postgres> {
    query.push_bind(time(position.timestamp_us)).push(", ").push_bind(time(position.received_at_us));
    query.push(", ").push_bind(position.id)
}

/// Reads the rows of sessions, in the order of `ids`.
async fn describe(reading: &mut Reading, sight: Sight, ids: &[Uuid]) -> Result<Vec<SessionRow>, Error> {
    let (until, limit) = (reading.until, reading.time);
    let seen = sight.condition(3);
    let query = sqlx::query_as::<_, SessionColumns>(sqlx::AssertSqlSafe(format!(
        "select wanted.session_id, tally.counted, \
             array(select name from applications where id = any (tally.applications) order by name) as applications, \
             first.id as first_id, first.timestamp as first_timestamp, \
             first_type.category as first_category, first_type.name as first_name, \
             last.id as last_id, last.timestamp as last_timestamp, \
             last_type.category as last_category, last_type.name as last_name \
         from unnest($1::uuid[]) with ordinality wanted (session_id, place) \
         cross join lateral (select count(*) as counted, array_agg(distinct sent.application_id) as applications \
             from (select application_id from events where events.session_id = wanted.session_id{seen} limit $2) sent) tally \
         cross join lateral (select id, timestamp, event_type_id from events \
             where events.session_id = wanted.session_id{seen} order by timestamp, received_at, id limit 1) first \
         cross join lateral (select id, timestamp, event_type_id from events \
             where events.session_id = wanted.session_id{seen} \
             order by timestamp desc, received_at desc, id desc limit 1) last \
         join event_types first_type on first_type.id = first.event_type_id \
         join event_types last_type on last_type.id = last.event_type_id \
         order by wanted.place",
    )))
    .bind(ids)
    .bind(COUNTED_MAX + 1);
    let query = sight.bind(query);
    let rows = within(until, limit, query.fetch_all(reading.connection())).await?;
    Ok(rows.into_iter().map(SessionRow::from).collect())
}

impl From<SessionColumns> for SessionRow {
    fn from(row: SessionColumns) -> SessionRow {
        SessionRow {
            session_id: row.session_id,
            first: SessionEdge {
                id: row.first_id,
                category: row.first_category,
                name: row.first_name,
                timestamp_us: row.first_timestamp.timestamp_micros(),
            },
            last: SessionEdge {
                id: row.last_id,
                category: row.last_category,
                name: row.last_name,
                timestamp_us: row.last_timestamp.timestamp_micros(),
            },
            count: row.counted.min(COUNTED_MAX),
            count_is_exact: row.counted <= COUNTED_MAX,
            applications: row.applications,
        }
    }
}
