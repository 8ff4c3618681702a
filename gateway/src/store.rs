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
mod write;

use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
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
pub use write::{DeadLetterSink, EventSink};

/// Longest wait for a connection to migrate on. The pool pauses for up to a fifth of it between its own tries, so a
/// longer one would leave a database that is back unseen for longer.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Longest time for the changes of the schema that are missing: that of a table of a billion rows takes hours. The server
/// ends by itself then too, so that nothing of a change that was given up goes on behind its locks. A server that hangs holds
/// up only a gateway that has something to change.
const MIGRATE_TIME: Duration = Duration::from_secs(6 * 3_600);
/// Longest time for making partitions ahead: nearly always they are there, and else each is tried a few times.
const AHEAD_TIME: Duration = Duration::from_secs(60);
/// Longest wait for the end of the connections for reading.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const READY_TIME: Duration = Duration::from_secs(1);
/// How long a connection that comes back to its pool may take to show that it is in step. One that a read has given up
/// may never answer again, and would keep its place.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Months after this one that a migration makes partitions for; `crate::retention` goes on from there.
const AHEAD_MONTHS: u32 = 2;
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

/// The schema's versions.
static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// Whether the schema has these versions and no others, so that there is nothing to change and nothing to complain of.
async fn is_current(pool: &PgPool) -> Result<bool, sqlx::Error> {
    let applied: Result<Vec<(i64, Vec<u8>)>, _> =
        sqlx::query_as("select version, checksum from _sqlx_migrations where success order by version")
            .fetch_all(pool)
            .await;
    let wanted = MIGRATOR.iter().map(|migration| (migration.version, &*migration.checksum));
    match applied {
        Ok(applied) => Ok(applied.iter().map(|(version, checksum)| (*version, &checksum[..])).eq(wanted)),
        // The table of versions comes with the first of them.
        Err(error) if link::words(&error).0 == "42P01" => Ok(false),
        Err(error) => Err(error),
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

    /// Brings the schema up to date and makes the partitions of the months around now. Several gateways may do so at
    /// once.
    ///
    /// # Errors
    ///
    /// [`Error::Away`] and [`Error::Slow`], after which it may go well; all others want somebody to look.
    pub async fn migrate(&self) -> Result<(), Error> {
        // A pool of one, because the compiler can prove that a task may run a migration on a pool, but not that it may
        // on a connection.
        let options = self.options.clone().application_name("eye migrate");
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIME).connect_with(options).await?;
        if !within(CONNECT_TIME, is_current(&pool)).await? {
            // The pool is of one connection, so this is the one that migrates.
            let bound = format!("set statement_timeout = {}", MIGRATE_TIME.as_millis());
            within(CONNECT_TIME, (&pool).execute(AssertSqlSafe(bound))).await?;
            within(MIGRATE_TIME, MIGRATOR.run(&pool)).await?;
        }
        let mut connection = pool.acquire().await?;
        let left = within(AHEAD_TIME, partitions::make_ahead(&mut connection, AHEAD_MONTHS)).await?;
        drop(connection);
        pool.close().await;
        if !left.is_empty() {
            tracing::warn!(partitions = left.join(", "), "partitions could not be made ahead");
        }
        Ok(())
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
        EventSink(write::Writer::new(self.options.clone(), self.flush_time, Arc::clone(&self.months)))
    }

    /// A new writer of dead letters.
    pub fn dead_letter_sink(&self) -> DeadLetterSink {
        DeadLetterSink(write::Writer::new(self.options.clone(), self.flush_time, Arc::clone(&self.months)))
    }

    /// Asks something for the gateway itself within the time of a read, the wait for a connection included.
    async fn ask<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        match timeout(self.read_time, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::Slow(self.read_time)),
        }
    }
}
