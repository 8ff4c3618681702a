//! Postgres: the only SQL of the gateway.
//!
//! Reads share a small pool. Each writer owns a connection of its own, so that no read can stand before a write.

mod applications;
mod copy;
mod link;
mod read;
mod write;

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::time::timeout;
use tracing::log::LevelFilter;

pub use applications::{ApplicationRow, Applications, NewApplication};
pub use read::{SessionCursor, StoredEvent};
pub use write::{DeadLetterSink, EventSink};

/// Longest wait for a connection to migrate on. The pool pauses for up to a fifth of it between its own tries, so a
/// longer one would leave a database that is back unseen for longer.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Longest wait for the end of the connections for reading.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const READY_TIME: Duration = Duration::from_secs(1);
const SLOW_STATEMENT: Duration = Duration::from_secs(1);

/// What can go wrong with the database, other than in a write (see [`crate::batch::Failure`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database URL cannot be understood. The cause is left out: it may quote the password.
    #[error("the database URL is not valid; expected postgres://user:password@host:port/database")]
    Url,
    /// The database does not answer, or not in time.
    #[error("the database is away: {0}")]
    Away(#[source] sqlx::Error),
    /// The read took longer than it may.
    #[error("the database took longer than {} ms", .0.as_millis())]
    Slow(Duration),
    /// The database answered with an error.
    #[error("the database refused: {0}")]
    Refused(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the migration failed: {0}")]
    Migrate(#[from] MigrateError),
    /// An application of this name is there already.
    #[error("there is already an application named {0}")]
    ApplicationExists(String),
    /// There is no active application of this name.
    #[error("there is no active application named {0}")]
    ApplicationUnknown(String),
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Error {
        match link::class(&cause) {
            link::Class::Lost => Error::Away(cause),
            _ => Error::Refused(cause),
        }
    }
}

/// The database, or rather the way to it: nothing here needs it to be reachable before it is asked something.
#[derive(Clone, Debug)]
pub struct Store {
    options: PgConnectOptions,
    reads: PgPool,
    read_time: Duration,
    flush_time: Duration,
}

impl Store {
    /// Notes where the database is. Connects only when it is first needed. Must be called within a Tokio runtime.
    pub fn new(url: &str, read_connections: u32, read_time: Duration, flush_time: Duration) -> Result<Store, Error> {
        let options: PgConnectOptions = url.parse().map_err(|_| Error::Url)?;
        let options = options
            .application_name("eye")
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
        let limit_ms = read_time.as_millis();
        let reads = PgPoolOptions::new()
            .max_connections(read_connections)
            .acquire_timeout(read_time)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    // The server must stop working on what nobody here waits for any more.
                    sqlx::query("select set_config('statement_timeout', $1, false)")
                        .bind(limit_ms.to_string())
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Store { options, reads, read_time, flush_time })
    }

    /// Brings the schema up to date and makes the partitions of the months around now. Several gateways may do so at
    /// once.
    pub async fn migrate(&self) -> Result<(), Error> {
        // A pool of one, because the compiler can prove that a task may run a migration on a pool, but not that it may
        // on a connection.
        let options = self.options.clone().application_name("eye migrate");
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIME).connect_with(options).await?;
        sqlx::migrate!("../migrations").run(&pool).await?;
        pool.close().await;
        self.make_partitions().await
    }

    /// Makes the partitions of the months around now that are missing. To be called now and then: a gateway may run
    /// for longer than the partitions reach.
    pub async fn make_partitions(&self) -> Result<(), Error> {
        let mut connection = self.options.clone().application_name("eye migrate").connect().await?;
        make_partitions(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// Closes the connections for reading; the writers close their own. A server that does not answer the farewell is
    /// left without one.
    pub async fn close(&self) {
        if timeout(CLOSE_TIME, self.reads.close()).await.is_err() {
            tracing::warn!("the database did not answer when its connections were closed");
        }
    }

    /// Asks whether the database answers now.
    pub async fn ready(&self) -> bool {
        matches!(timeout(READY_TIME, (&self.reads).execute("select 1")).await, Ok(Ok(_)))
    }

    /// A new writer of accepted events.
    pub fn event_sink(&self) -> EventSink {
        EventSink(write::Writer::new(self.options.clone(), self.flush_time))
    }

    /// A new writer of dead letters.
    pub fn dead_letter_sink(&self) -> DeadLetterSink {
        DeadLetterSink(write::Writer::new(self.options.clone(), self.flush_time))
    }

    /// Runs a read within its time, the wait for a connection included.
    async fn read<T>(&self, read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        match timeout(self.read_time, read).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::Slow(self.read_time)),
        }
    }
}

/// One month back for late events, two ahead so that a new month never begins without its partition.
async fn make_partitions(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    connection.execute("select make_partitions(now() - interval '1 month', now() + interval '2 months')").await?;
    Ok(())
}
