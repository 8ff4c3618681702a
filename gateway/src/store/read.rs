//! Reads for answers: pages by key, each of which continues after the one before. A read waits for a connection and
//! works within time limits of its own, on connections that no writer uses. The cost of a page depends on the page and
//! not on the requested range; `scan.rs` explains how. Each read for answers takes what its reader may see, so that none
//! can forget it; `sight.rs` makes conditions of it.

mod counts;
mod events;
mod letter_summary;
mod letters;
mod past;
mod scan;
mod sessions;
mod sight;

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Utc};
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

pub use counts::{Bucket, CategoryPosition, CountFilter, CountPosition, CountRow, EventTypeRow};
pub use events::{EventFilter, StoredEvent};
pub use letter_summary::{GroupBy, LetterBucket, LetterGroup, LetterSummary};
pub use letters::LetterFilter;
pub(super) use letters::{FIRST_VIOLATION, Selection};
pub use past::{PastEvent, PastRange};
pub use sessions::{SessionEdge, SessionFilter, SessionPosition, SessionRow};
pub(super) use sight::LetterSight;

use super::outage::{Word, shown};
use super::{Error, Store};

/// The place of an event in the order of pages: by timestamp, then by receipt, then by id, so that no two events have
/// the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
pub struct Position {
    /// The timestamp, in microseconds since 1970.
    pub timestamp_us: i64,
    /// The time of receipt, in microseconds since 1970.
    pub received_at_us: i64,
    /// The event's id.
    pub id: Uuid,
}

/// One page of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<Row, Place> {
    /// The rows, in order. There may be fewer than requested, or none, before the end of the result, if the page ended
    /// early.
    pub rows: Vec<Row>,
    /// The place after which the next page starts; `None` at the end of the result.
    pub next: Option<Place>,
}

impl<Row, Place> Page<Row, Place> {
    fn empty() -> Self {
        Self { rows: Vec::new(), next: None }
    }
}

/// Bounds of a page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Most rows.
    pub rows: u32,
    /// Most bytes of data. The row that exceeds them is the last one.
    pub bytes: usize,
}

/// A connection for one page, with its time limit.
pub(super) struct Reading {
    connection: PoolConnection<Postgres>,
    until: Instant,
    time: Duration,
}

impl Reading {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// When its time ends, and how long it is.
    pub(super) fn limits(&self) -> (Instant, Duration) {
        (self.until, self.time)
    }

    /// Runs a read that needs nothing but the connection and its time.
    pub(super) async fn run<'a, T, F>(&'a mut self, work: impl FnOnce(&'a mut PgConnection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        within(self.until, self.time, work(&mut self.connection)).await
    }

    /// Whether so much of the time has passed that a page should end early.
    pub(super) fn late(&self) -> bool {
        self.until.duration_since(Instant::now()) < self.time / 2
    }
}

/// Runs a part of a read until the end of its time. The server ends the statement at the same limit.
pub(super) async fn within<T>(
    until: Instant,
    time: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout_at(until, work).await {
        Ok(Err(sqlx::Error::Database(cause))) if cause.code().is_some_and(|code| code == STATEMENT_TIMEOUT) => {
            Err(Error::Slow(time))
        }
        Ok(result) => result.map_err(Error::of_statement),
        Err(_) => Err(Error::Slow(time)),
    }
}

/// Reads that get no connection for this long are logged.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// The SQLSTATE of a statement that the server ended at its time limit.
const STATEMENT_TIMEOUT: &str = "57014";

impl Store {
    /// Takes a connection for reads. It waits briefly, and then returns [`Error::Busy`] if all are in use.
    pub(super) async fn reading(&self) -> Result<Reading, Error> {
        let start = Instant::now();
        match timeout(self.read_wait, self.reads.acquire()).await {
            Ok(Ok(connection)) => {
                if let Some(time) = self.unread.works() {
                    tracing::info!(after = shown(time), "reads get connections again");
                }
                Ok(Reading { connection, until: start + self.read_time, time: self.read_time })
            }
            Ok(Err(sqlx::Error::PoolTimedOut)) | Err(_) if self.all_reading() => Err(Error::Busy),
            Ok(Err(cause)) => Err(self.no_reading(cause.into())),
            Err(_) => Err(self.no_reading(Error::Away(sqlx::Error::PoolTimedOut))),
        }
    }

    /// Logs that reads get no connection, if this lasts and the log does not have the outage of the database as its
    /// cause.
    fn no_reading(&self, error: Error) -> Error {
        if !self.is_away()
            && let Some(word) = self.unread.fails(&error.to_string(), TOLD_AFTER)
        {
            let goes_on = word == Word::Changes;
            tracing::warn!(%error, goes_on, "reads get no connection");
        }
        error
    }

    /// Whether all connections for reads are open and in use.
    fn all_reading(&self) -> bool {
        self.reads.size() >= self.reads.options().get_max_connections() && self.reads.num_idle() == 0
    }
}

/// The ids of the event types of a category, of a name, or of both.
async fn event_types(
    connection: &mut PgConnection,
    category: Option<&str>,
    name: Option<&str>,
) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query_scalar(
        "select id from event_types \
         where ($1::text is null or category = $1) and ($2::text is null or name = $2) order by id",
    )
    .bind(category)
    .bind(name)
    .fetch_all(connection)
    .await
}

/// The id of an application.
pub(super) async fn application_id(connection: &mut PgConnection, name: &str) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar("select id from applications where name = $1").bind(name).fetch_optional(connection).await
}

/// A time from a cursor, which may hold any number. A number that is no time, or none that Postgres knows, matches no
/// event.
fn time(microseconds: i64) -> DateTime<Utc> {
    let time = DateTime::from_timestamp_micros(microseconds);
    time.filter(|time| YEARS.contains(&time.year())).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Years that Postgres can hold, with room for the steps of a walk on both sides of the allowed timestamps.
const YEARS: std::ops::Range<i32> = -4_000..20_000;
