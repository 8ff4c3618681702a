//! Postgres: the only SQL of the gateway.
//!
//! Reads share a small pool. Each writer owns a connection of its own, so that no read can stand before a write; and what
//! the gateway itself asks (is the database there, who may call, fold the counts) has a pool of two, so that no reader can
//! make the gateway look unready.

mod applications;
pub mod copy;
mod counts;
mod dead_letters;
mod link;
mod partitions;
mod read;
mod retention;
mod rounds;
mod schema;
mod unseen;
mod write;

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::time::timeout;
use tracing::log::LevelFilter;

pub use applications::{ApplicationChange, ApplicationRow, Applications, NewApplication};
pub(crate) use counts::FOLD_ROWS_MAX;
pub use dead_letters::{Choice, LetterCursor, LetterFilter, StoredLetter};
use partitions::OnDemand;
pub use partitions::{Making, Partition, Partitioned};
pub use read::{
    Bucket, CategoryPosition, CountFilter, CountPosition, CountRow, EventFilter, EventTypeRow, Page, PageLimits,
    Position, SessionEdge, SessionFilter, SessionPosition, SessionRow, StoredEvent,
};
pub use retention::{Cause, Removed, Strays, Taken, Tending};
pub use schema::Schema;
use schema::SchemaGate;
pub use unseen::{Seen, UnseenLane, UnseenTurn};
pub use write::{DeadLetterSink, EventSink};

/// Longest wait for the end of the connections for reading.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const READY_TIME: Duration = Duration::from_secs(1);
/// How long a connection that comes back to its pool may take to show that it is in step. One that a read has given up
/// may never answer again, and would keep its place.
const RELEASE_TIME: Duration = Duration::from_secs(1);
const SLOW_STATEMENT: Duration = Duration::from_secs(1);
/// Connections for what the gateway itself asks.
const OWN_CONNECTIONS: u32 = 2;
/// Longest wait of a read for a connection, unless the configuration says otherwise.
const READ_WAIT: Duration = Duration::from_secs(1);

/// What can go wrong with the database, other than in a write (see [`crate::batch::Failure`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database URL cannot be understood. The cause is left out: it may quote the password.
    #[error("the database URL is not valid; expected postgres://user:password@host:port/database")]
    Url,
    /// The database does not answer, or not in time.
    #[error("the database is away: {0}")]
    Away(#[source] sqlx::Error),
    /// All connections for reading are at work, and none became free in time.
    #[error("all connections for reading are at work")]
    Busy,
    /// The read took longer than it may.
    #[error("the database took longer than {} ms", .0.as_millis())]
    Slow(Duration),
    /// The database answered with an error.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the migration failed: {0}")]
    Migrate(#[source] MigrateError),
    /// The schema lacks versions that this program needs.
    #[error("{}", behind(*.version, *.program))]
    SchemaBehind {
        /// The schema's version; 0 when there is no schema.
        version: i64,
        /// The version that this program knows.
        program: i64,
    },
    /// A newer program brought the schema up, and it serves this one no more.
    #[error(
        "the database has schema version {version}, which serves programs that know version {floor} or later; this \
         program knows version {program}: run a newer release of `eye`"
    )]
    SchemaFloor {
        /// The schema's version.
        version: i64,
        /// The version that a program must know.
        floor: i64,
        /// The version that this program knows.
        program: i64,
    },
    /// An application of this name is there already.
    #[error("there is already an application named {0}")]
    ApplicationExists(String),
    /// There is no active application of this name.
    #[error("there is no active application named {0} for which this can be done")]
    ApplicationUnknown(String),
    /// An application cannot be known by a network that it does not have.
    #[error("{0} would be known by its network and has none: give it a network, or let it be known by its token")]
    ApplicationWithoutNetwork(String),
    /// An application that is known by its token alone has no use for a network.
    #[error(
        "{0} is known by its token alone, wherever it is: with networks, say that it is known by `both` or by `network`"
    )]
    ApplicationNetworksUnused(String),
}

/// What to do about a schema that is older than the program.
fn behind(version: i64, program: i64) -> String {
    let found = match version {
        0 => "the database has no schema yet".to_owned(),
        version => format!("the database has schema version {version}"),
    };
    format!("{found}, and this program needs version {program}: run `eye migrate`, or `eye serve` without --no-migrate")
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Error {
        match link::class(&cause) {
            link::Class::Lost => Error::Away(cause),
            _ => Error::Refused(cause),
        }
    }
}

impl From<MigrateError> for Error {
    fn from(cause: MigrateError) -> Error {
        match cause {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if link::away(&cause) => {
                Error::Away(cause)
            }
            cause => Error::Migrate(cause),
        }
    }
}

/// Runs a part of the work for no longer than `time`.
async fn within<T, E>(time: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    Ok(timeout(time, work).await.map_err(|_| Error::Slow(time))??)
}

/// The database, or rather the way to it: nothing here needs it to be reachable before it is asked something.
#[derive(Clone, Debug)]
pub struct Store {
    options: PgConnectOptions,
    reads: PgPool,
    /// For what the gateway itself asks.
    own: PgPool,
    read_wait: Duration,
    read_time: Duration,
    flush_time: Duration,
    /// What the writers know of partitions.
    months: Arc<OnDemand>,
    /// Writers wait here until the schema is proved.
    schema: SchemaGate,
}

impl Store {
    /// Notes where the database is. Connects only when it is first needed. Must be called within a Tokio runtime.
    pub fn new(url: &str, read_connections: u32, read_time: Duration, flush_time: Duration) -> Result<Store, Error> {
        let options: PgConnectOptions = url.parse().map_err(|_| Error::Url)?;
        let options = options
            .application_name("eye")
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
        let pool = |connections| {
            let limit_ms = read_time.as_millis();
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(read_time)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        // The server must stop working on what nobody here waits for any more.
                        // A page is a walk along an index in its order, and ends with the page. A bitmap would first
                        // gather all of the range to sort it, and what is walked to is mostly in memory.
                        let settings = "select set_config('statement_timeout', $1, false), \
                            set_config('enable_bitmapscan', 'off', false), set_config('random_page_cost', '1.1', false)";
                        sqlx::query(settings)
                            .bind(limit_ms.to_string())
                            .execute(connection)
                            .await?;
                        Ok(())
                    })
                })
                .after_release(|connection, _| {
                    Box::pin(async move { Ok(matches!(timeout(RELEASE_TIME, connection.ping()).await, Ok(Ok(())))) })
                })
                .connect_lazy_with(options.clone())
        };
        let (reads, own) = (pool(read_connections), pool(OWN_CONNECTIONS));
        Ok(Store {
            options,
            reads,
            own,
            read_wait: READ_WAIT.min(read_time),
            read_time,
            flush_time,
            months: Arc::default(),
            schema: SchemaGate::default(),
        })
    }

    /// With partitions that writers make for the months of their batches, up to `partitions_max` of events, and none for
    /// months older than `events_days` (0 for ever).
    #[must_use]
    pub fn with_partitions_on_demand(self, partitions_max: usize, events_days: u64) -> Store {
        Store { months: Arc::new(OnDemand::new(partitions_max, events_days)), ..self }
    }

    /// With another bound on the wait of a read for a connection.
    #[must_use]
    pub fn with_read_wait(self, read_wait: Duration) -> Store {
        Store { read_wait, ..self }
    }

    /// Closes the connections but for those of the writers; the writers close their own. A server that does not answer the farewell is
    /// left without one.
    pub async fn close(&self) {
        if timeout(CLOSE_TIME, async { tokio::join!(self.reads.close(), self.own.close()) }).await.is_err() {
            tracing::warn!("the database did not answer when its connections were closed");
        }
    }

    /// Asks whether the database answers now.
    pub async fn ready(&self) -> bool {
        matches!(timeout(READY_TIME, (&self.own).execute("select 1")).await, Ok(Ok(_)))
    }

    /// Counts the partitions of each partitioned table; none before the schema is there. Gives up soon, since whoever asks
    /// wants to know whether the database answers.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] or [`Error::Refused`].
    pub async fn partition_counts(&self) -> Result<Vec<(String, i64)>, Error> {
        let counted = sqlx::query_as(
            "select pg_class.relname::text, count(pg_inherits.inhrelid) from pg_class \
             join pg_inherits on pg_inherits.inhparent = pg_class.oid \
             where pg_class.oid in (to_regclass('events'), to_regclass('dead_letters')) group by 1 order by 1",
        )
        .fetch_all(&self.own);
        match timeout(READY_TIME, counted).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(Error::Slow(READY_TIME)),
        }
    }

    /// A new writer of accepted events.
    pub fn event_sink(&self) -> EventSink {
        EventSink(write::Writer::new(
            self.options.clone(),
            self.flush_time,
            Arc::clone(&self.months),
            self.schema.clone(),
        ))
    }

    /// A new writer of dead letters.
    pub fn dead_letter_sink(&self) -> DeadLetterSink {
        DeadLetterSink(write::Writer::new(
            self.options.clone(),
            self.flush_time,
            Arc::clone(&self.months),
            self.schema.clone(),
        ))
    }

    /// Asks something for the gateway itself within the time of a read, the wait for a connection included.
    async fn ask<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        match timeout(self.read_time, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::Slow(self.read_time)),
        }
    }
}
