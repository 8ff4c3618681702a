//! Reads for the answers of the gateway: pages by key, each of which begins where the one before it ended. A read waits
//! for a connection and works within bounds of its own, on connections that no writer needs. What a page costs is bound
//! by the page and not by the range that was asked for; `scan.rs` says how.

mod counts;
mod events;
mod scan;
mod sessions;

use std::time::Duration;

use chrono::{DateTime, Datelike as _, Utc};
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use tokio::time::{Instant, timeout, timeout_at};
use uuid::Uuid;

pub use counts::{Bucket, CategoryPosition, CountFilter, CountPosition, CountRow, EventTypeRow};
pub use events::{EventFilter, StoredEvent};
pub use sessions::{SessionEdge, SessionFilter, SessionPosition, SessionRow};

use super::outage::{Word, shown};
use super::{Error, Store};

/// Where an event stands among the others: by its time, by its receipt among those of the same microsecond, and by its id
/// to make the order whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Microseconds since 1970.
    pub timestamp_us: i64,
    /// Microseconds since 1970.
    pub received_at_us: i64,
    /// The event's own id.
    pub id: Uuid,
}

/// A part of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<Row, Place> {
    /// The rows, in order. There may be fewer than were asked for, and even none, before the end of the result: then
    /// the rest of the work is left to the next page.
    pub rows: Vec<Row>,
    /// After what the next page begins; none at the end of the result.
    pub next: Option<Place>,
}

impl<Row, Place> Page<Row, Place> {
    fn empty() -> Self {
        Self { rows: Vec::new(), next: None }
    }
}

/// How large a page may be.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Rows.
    pub rows: u32,
    /// Bytes of data. A page ends with the row that goes beyond.
    pub bytes: usize,
}

/// A connection for one page, and until when it may work on it.
pub(super) struct Reading {
    connection: PoolConnection<Postgres>,
    until: Instant,
    time: Duration,
}

impl Reading {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Until when it may work, and how long that is in all.
    pub(super) fn limits(&self) -> (Instant, Duration) {
        (self.until, self.time)
    }

    /// Runs all of a read that needs no more than one connection and its time.
    pub(super) async fn run<'a, T, F>(&'a mut self, work: impl FnOnce(&'a mut PgConnection) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        within(self.until, self.time, work(&mut self.connection)).await
    }

    /// Whether so much of the time is gone that a page should rather end early.
    pub(super) fn late(&self) -> bool {
        self.until.duration_since(Instant::now()) < self.time / 2
    }
}

/// Runs a part of a read, or of what else has its time, until that is over. The statement ends on the server too: it has the same limit there.
pub(super) async fn within<T>(
    until: Instant,
    time: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, Error> {
    match timeout_at(until, work).await {
        Ok(Err(sqlx::Error::Database(cause))) if cause.code().is_some_and(|code| code == STATEMENT_TIMEOUT) => {
            Err(Error::Slow(time))
        }
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::Slow(time)),
    }
}

/// Reads that get no connection for so long are told of.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// SQLSTATE of a statement that the server ended for its time.
const STATEMENT_TIMEOUT: &str = "57014";

impl Store {
    /// Takes one of the connections for reading, or says after a short wait that there is none.
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

    /// Tells that reads get no connection, if it lasts and is not that the database is away, which is told already.
    fn no_reading(&self, error: Error) -> Error {
        if !self.is_away()
            && let Some(word) = self.unread.fails(&error.to_string(), TOLD_AFTER)
        {
            let goes_on = word == Word::Changes;
            tracing::warn!(%error, goes_on, "reads get no connection");
        }
        error
    }

    /// Whether each connection for reading is there and at work.
    fn all_reading(&self) -> bool {
        self.reads.size() >= self.reads.options().get_max_connections() && self.reads.num_idle() == 0
    }
}

/// The numbers of the event types of a category, of a name, or of both.
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

/// The number of an application.
pub(super) async fn application_id(connection: &mut PgConnection, name: &str) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar("select id from applications where name = $1").bind(name).fetch_optional(connection).await
}

/// A cursor comes from outside and may hold anything; a time that is none, or none that Postgres knows, is of no event.
fn time(microseconds: i64) -> DateTime<Utc> {
    let time = DateTime::from_timestamp_micros(microseconds);
    time.filter(|time| YEARS.contains(&time.year())).unwrap_or(DateTime::UNIX_EPOCH)
}

/// Years that Postgres can hold, with room for a step of any walk on both sides of those that a timestamp may name.
const YEARS: std::ops::Range<i32> = -4_000..20_000;
