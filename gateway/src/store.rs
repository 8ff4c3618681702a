//! Postgres: the only SQL of the gateway.
//!
//! Reads share a small pool. Each writer owns a connection, so that no read delays a write. The gateway's own questions
//! (does the database answer, which applications exist, fold the counts) have pools of two, so that readers cannot make
//! the gateway look unready.

/// Implements `FromRow` for a struct whose row has a column for each field, except for those that are filled later. The
/// derive of sqlx would compile the driver a second time, for the compiler.
macro_rules! from_row {
    ($name:ident { $($field:ident),* $(,)? } $(empty { $($empty:ident),* })?) => {
        impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for $name {
            fn from_row(row: &'r sqlx::postgres::PgRow) -> sqlx::Result<Self> {
                Ok(Self {
                    $($field: sqlx::Row::try_get(row, stringify!($field))?,)*
                    $($($empty: Default::default(),)*)?
                })
            }
        }
    };
}

mod applications;
mod audit;
mod backup;
mod bridge;
mod candidates;
mod cause;
mod connection;
pub mod copy;
mod counts;
mod dead_letters;
mod dial;
mod duties;
mod fleet;
mod hosts;
mod jobs;
mod migrations;
mod outage;
mod panel;
mod partitions;
mod prove;
mod read;
mod recent;
mod retention;
mod rounds;
mod schema;
mod scrub;
mod table;
mod taken_back;
mod tls;
mod tokens;
mod unseen;
mod upkeep;
mod url;
mod wire;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio::time::timeout;
use tracing::log::LevelFilter;
use uuid::Uuid;

pub use applications::{
    ApplicationChange, ApplicationChanges, ApplicationRow, Ensured, NewApplication, RateLimit, State,
};
pub use audit::{AuditCursor, AuditFilter, AuditRow};
use bridge::Bridge;
pub use candidates::{
    CandidateRow, NewPairs, Pairs, PairsKey, PairsRow, ServedRow, SteppedRow, TakeBack, TakenBackRow,
};
pub(crate) use counts::FOLD_ROWS_MAX;
pub use dead_letters::{Choice, LetterCursor, StoredLetter};
pub use duties::Duty;
pub(crate) use duties::LEASE;
pub use fleet::{
    AskedRow, Beat, FleetChanges, GatewayRow, GenerationId, GenerationRow, Head, LIVING, NewPreparation, NewSlot,
    NewVersion, Pending, PreparationRow, SlotRow, VersionRow,
};
use hosts::Hosts;
pub use jobs::{AskedJob, JobCursor, JobEnd, JobFilter, JobRow, JobRun, LetterChanges, NewJob};
use outage::Outage;
pub use panel::{PanelSessionRow, SESSION_IDLE, SignedIn};
use partitions::OnDemand;
pub use partitions::{Making, Partition, Partitioned};
use prove::Ground;
pub use read::{
    Bucket, CategoryPosition, CountFilter, CountPosition, CountRow, EventFilter, EventTypeRow, GroupBy, LetterBucket,
    LetterFilter, LetterGroup, LetterSummary, Page, PageLimits, PastEvent, PastRange, Position, SessionEdge,
    SessionFilter, SessionPosition, SessionRow, StoredEvent,
};
use recent::RecentKeys;
pub use retention::{Cause, Removed, Strays, Taken, Tending};
pub use schema::Schema;
use schema::SchemaGate;
pub use scrub::{LetterText, Pass, RedactingRow, Rewritten, Scrubbing, UNREAD, WalkedLetter};
pub use taken_back::TakenBackList;
pub use tokens::{Expiry, TokenFacts};
pub use unseen::{Seen, UnseenLane, UnseenTurn};
pub use upkeep::{TableUpkeep, Upkeep};
pub use url::LibpqEnvironment;
use url::{Address, Place};
pub use write::{DeadLetterSink, EventSink};

use crate::audit::Actor;

/// Longest wait for the connections to close.
const CLOSE_TIME: Duration = Duration::from_secs(1);
const READY_TIME: Duration = Duration::from_secs(1);
/// How long a connection that returns to its pool may take to prove that it works. A connection whose read was given up
/// may never answer again.
const RELEASE_TIME: Duration = Duration::from_secs(1);
const SLOW_STATEMENT: Duration = Duration::from_secs(1);
/// Connections for the gateway's own questions.
const OWN_CONNECTIONS: u32 = 2;
/// Connections for the question whether the database answers. Nothing else that waits on a lost connection delays them.
const READY_CONNECTIONS: u32 = 2;
/// Longest wait of a read for a connection, unless the configuration sets it.
const READ_WAIT: Duration = Duration::from_secs(1);

/// The work of a gateway on its database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The gateway takes events, and tends the database.
    #[default]
    Full,
    /// The gateway serves reads and changes nothing, so a standby is enough.
    Reader,
}

impl Role {
    /// The words of the configuration.
    pub const WORDS: [&'static str; 2] = ["full", "reader"];

    /// The word of this role.
    pub fn as_str(self) -> &'static str {
        Self::WORDS[self as usize]
    }

    /// Returns the role of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Full, Self::Reader].into_iter().find(|role| role.as_str() == word)
    }
}

/// Errors of the database outside of writes (for those see [`crate::batch::Failure`]).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database URL is not valid. The message quotes nothing of it, since any part may be the password.
    #[error("the database URL is not valid (expected postgres://user:password@host:port/database): {0}")]
    Url(String),
    /// The socket through which sqlx connects could not be made.
    #[error("no socket of its own can be made for the way to the database: {0}")]
    Bridge(std::io::Error),
    /// The database does not answer, or not in time.
    #[error("no connection to the database: {}", cause::of(.0))]
    Away(sqlx::Error),
    /// The process may open no more files, so the gateway did not ask the database.
    #[error("{}", cause::NO_DESCRIPTORS_WORDS)]
    NoDescriptors,
    /// All connections for reads are in use, and none became free in time.
    #[error("all connections for reads are in use")]
    Busy,
    /// The statement took longer than its time limit.
    #[error("the database took longer than {} ms", .0.as_millis())]
    Slow(Duration),
    /// The server ended the statement for a conflict with other work, such as the replay of a standby. A retry may succeed.
    #[error("the database ended the statement for a conflict with other work: {}", cause::of(.0))]
    Conflict(sqlx::Error),
    /// The database answered with an error.
    #[error("the database refused: {}", cause::of(.0))]
    Refused(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the migration failed: {}", migration(.0))]
    Migrate(MigrateError),
    /// The role may not see something that the gateway needs.
    #[error("{0}")]
    Hidden(String),
    /// The schema lacks versions that this program needs.
    #[error("{}", behind(*.version, *.program))]
    SchemaBehind {
        /// The schema's version; 0 when there is no schema.
        version: i64,
        /// The version that this program knows.
        program: i64,
    },
    /// A newer program migrated the schema so far that it does not serve this one.
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
    /// An application of this name exists.
    #[error("there is already an application named {0}")]
    ApplicationExists(String),
    /// No active application has this name.
    #[error("there is no active application named {0} for which this can be done")]
    ApplicationUnknown(String),
    /// A revoked application stays revoked.
    #[error("{0} was revoked, and stays so: add an application of another name")]
    ApplicationRevoked(String),
    /// A new token would end a token that is in use.
    #[error(
        "{0} has two tokens that were both used within a day, and a third would end one of them: end the older one first, with \
         `eye app rotate {0} --expire-old`"
    )]
    TokensInUse(String),
    /// The application gets no more codes for the panel now.
    #[error(
        "{0} has got 60 codes for the panel within an hour, and gets no more now: use one that works, or try again later"
    )]
    PanelCodesMany(String),
    /// As many changes of modules wait for gateways as may.
    #[error(
        "too many changes of modules wait for gateways (10 of one application, 100 of all): wait until they have ended, and push again"
    )]
    PreparationsMany,
    /// The token would have expired when it is made.
    #[error("the token would end before it begins: give a time that is ahead")]
    ExpiryPassed,
    /// An application without a network cannot be identified by its network.
    #[error("{0} would be known by its network and has none: give it a network, or let it be known by its token")]
    ApplicationWithoutNetwork(String),
    /// An application that is identified by its token alone has no use for a network.
    #[error(
        "{0} is known by its token alone, wherever it is: with networks, say that it is known by `both` or by `network`"
    )]
    ApplicationNetworksUnused(String),
    /// An administrator sees everything, so limits of its reading would not hold.
    #[error("{0} has the scope admin and limits of what it reads, which would not hold: take one of them away")]
    ApplicationLimitedAdmin(String),
}

/// Says how to migrate a schema that is older than the program.
fn behind(version: i64, program: i64) -> String {
    let found = match version {
        0 => "the database has no schema yet".to_owned(),
        version => format!("the database has schema version {version}"),
    };
    format!("{found}, and this program needs version {program}: run `eye migrate`, or `eye serve` without --no-migrate")
}

/// The message of a failed migration.
fn migration(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(cause) => cause::of(cause),
        MigrateError::ExecuteMigration(cause, version) => format!("version {version}: {}", cause::of(cause)),
        other => other.to_string(),
    }
}

impl Error {
    /// The error of a statement on an open connection. The database is away only if the error is about the whole server.
    fn of_statement(cause: sqlx::Error) -> Error {
        match Error::from(cause) {
            Error::Away(cause) if !connection::is_of_the_server(&cause) => Error::Refused(cause),
            error => error,
        }
    }

    /// The SQLSTATE of the database's answer, if it gave one.
    pub fn state(&self) -> Option<String> {
        match self {
            Error::Away(cause) | Error::Refused(cause) => {
                Some(connection::words(cause).0).filter(|state| !state.is_empty())
            }
            _ => None,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(cause: sqlx::Error) -> Error {
        match connection::class(&cause) {
            _ if cause::sqlx_lacks_descriptors(&cause) => Error::NoDescriptors,
            connection::Class::Again => Error::Conflict(cause),
            connection::Class::Lost if !connection::refuses(&cause) => Error::Away(cause),
            _ => Error::Refused(cause),
        }
    }
}

impl From<MigrateError> for Error {
    fn from(cause: MigrateError) -> Error {
        match cause {
            MigrateError::Execute(cause) | MigrateError::ExecuteMigration(cause, _) if connection::away(&cause) => {
                Error::Away(cause)
            }
            cause => Error::Migrate(cause),
        }
    }
}

/// Runs `work` for at most `time`.
async fn within<T, E>(time: Duration, work: impl Future<Output = Result<T, E>>) -> Result<T, Error>
where
    Error: From<E>,
{
    Ok(timeout(time, work).await.map_err(|_| Error::Slow(time))??)
}

/// The way to the database. The database may be away until a method needs it.
#[derive(Clone, Debug)]
pub struct Store {
    /// The id of this process among the gateways of the database.
    id: Uuid,
    role: Role,
    /// The hosts of the database, and which of them answers.
    hosts: Arc<Hosts>,
    /// The socket that `options` connect to, unless the database has a socket file.
    _bridge: Option<Arc<Bridge>>,
    options: PgConnectOptions,
    /// The statement that starts every session.
    greeting: Arc<str>,
    /// The actor in the audit trail; a gateway unless [`Store::acting_as`] sets another one.
    actor: Arc<OnceLock<Actor>>,
    reads: PgPool,
    /// The pool for the gateway's own questions.
    own: PgPool,
    /// The pool for the question whether the database answers.
    asked: PgPool,
    read_wait: Duration,
    read_time: Duration,
    flush_time: Duration,
    /// The partitions that writers create on demand.
    months: Arc<OnDemand>,
    /// Folds of the counts that the database refused or did not finish. The metrics read it.
    folds_failed: Arc<AtomicU64>,
    /// The log has said that a session that cannot be ended works on a duty of this gateway.
    told_of_duties: Arc<AtomicBool>,
    /// The last known state of the database.
    ground: Arc<Ground>,
    /// Whether reads get no connection.
    unread: Arc<Outage>,
    /// Writers wait here until the schema is proved.
    schema: SchemaGate,
    /// Keys of events that the writers wrote recently.
    recent: Arc<RecentKeys>,
}

impl Store {
    /// Parses the URL. It connects only when a method needs a connection. Must be called within a Tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] and [`Error::Bridge`].
    pub fn new(
        url: &str,
        environment: LibpqEnvironment,
        read_connections: u32,
        read_time: Duration,
        flush_time: Duration,
    ) -> Result<Store, Error> {
        Self::of_role(Role::Full, url, environment, read_connections, read_time, flush_time)
    }

    /// Makes the store of a gateway with this role. The sessions of a reader are read-only.
    ///
    /// # Errors
    ///
    /// [`Error::Url`] and [`Error::Bridge`].
    pub fn of_role(
        role: Role,
        url: &str,
        environment: LibpqEnvironment,
        read_connections: u32,
        read_time: Duration,
        flush_time: Duration,
    ) -> Result<Store, Error> {
        let address = Address::parse(url).map_err(Error::Url)?;
        let address = if role == Role::Reader { address.for_reading() } else { address };
        let hosts = Arc::new(Hosts::new(address.or(environment.user, environment.password, environment.passfile)));
        let bridge = match hosts.address().is_one_socket() {
            true => None,
            false => Some(Arc::new(Bridge::start(Arc::clone(&hosts)).map_err(Error::Bridge)?)),
        };
        let options = options(hosts.address(), bridge.as_deref())?;
        let mut greeting = connection::signs_of_life(hosts.address());
        if role == Role::Reader {
            greeting.push_str(connection::ONLY_READS);
        }
        let greeting: Arc<str> = greeting.into();
        // The server must end a statement whose caller has gone. A page is a walk along an index in its order that ends
        // with the page; a bitmap would first collect and sort the whole range. Most of the walked rows are in memory.
        let settings: Arc<str> = format!(
            "{greeting}; select set_config('statement_timeout', '{}', false), \
                set_config('enable_bitmapscan', 'off', false), set_config('random_page_cost', '1.1', false)",
            read_time.as_millis()
        )
        .into();
        let actor = Arc::<OnceLock<Actor>>::default();
        let pool = |connections| {
            greeted(Arc::clone(&settings), Arc::clone(&actor))
                .max_connections(connections)
                .acquire_timeout(read_time)
                .after_release(|connection, _| {
                    Box::pin(async move { Ok(matches!(timeout(RELEASE_TIME, connection.ping()).await, Ok(Ok(())))) })
                })
                .connect_lazy_with(options.clone())
        };
        let (reads, own, asked) = (pool(read_connections), pool(OWN_CONNECTIONS), pool(READY_CONNECTIONS));
        Ok(Store {
            id: Uuid::now_v7(),
            role,
            hosts,
            _bridge: bridge,
            options,
            greeting,
            actor,
            reads,
            own,
            asked,
            read_wait: READ_WAIT.min(read_time),
            read_time,
            flush_time,
            months: Arc::default(),
            folds_failed: Arc::default(),
            told_of_duties: Arc::default(),
            ground: Arc::default(),
            unread: Arc::default(),
            schema: SchemaGate::default(),
            recent: Arc::default(),
        })
    }

    /// The id of this process among the gateways of the database.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The role of the gateway.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The options of a connection that has this name on the server.
    fn options_for(&self, name: &str) -> PgConnectOptions {
        let ours = &self.hosts.address().application_name;
        self.options.clone().application_name(&format!("{ours} {name}"))
    }

    /// Opens a connection outside the pools.
    async fn session(&self, name: &str) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options_for(name).connect().await?;
        connection.execute(AssertSqlSafe(audit::greeting(&self.greeting, self.actor()))).await?;
        Ok(connection)
    }

    /// Lets writers create partitions for the months of their batches: up to `partitions_max` of events, and none for
    /// months older than `events_days` (0 for no limit).
    #[must_use]
    pub fn with_partitions_on_demand(self, partitions_max: usize, events_days: u64) -> Store {
        let months = OnDemand::new(partitions_max, events_days, Arc::clone(&self.actor));
        Store { months: Arc::new(months), ..self }
    }

    /// Changes these bounds in all clones.
    pub fn set_partitions_on_demand(&self, partitions_max: usize, events_days: u64) {
        self.months.change(partitions_max, events_days);
    }

    /// Sets the longest wait of a read for a connection.
    #[must_use]
    pub fn with_read_wait(self, read_wait: Duration) -> Store {
        Store { read_wait, ..self }
    }

    /// How many folds of the counts the database refused or did not finish.
    pub fn folds_failed(&self) -> u64 {
        self.folds_failed.load(Relaxed)
    }

    /// Closes the connections except those of the writers, which close their own. It gives up on a server that does not
    /// answer.
    pub async fn close(&self) {
        if timeout(CLOSE_TIME, async { tokio::join!(self.reads.close(), self.own.close(), self.asked.close()) })
            .await
            .is_err()
        {
            tracing::warn!("the database did not answer when its connections were closed");
        }
    }

    /// Counts the partitions of each partitioned table; none before the schema exists. It gives up soon, since a scrape
    /// also reports by it whether the database answers.
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

    /// Makes a writer of accepted events.
    pub fn event_sink(&self) -> EventSink {
        EventSink(self.writer(Some(Arc::clone(&self.recent))))
    }

    /// Makes a writer of dead letters.
    pub fn dead_letter_sink(&self) -> DeadLetterSink {
        DeadLetterSink(self.writer(None))
    }

    fn writer<T: table::Table>(&self, recent: Option<Arc<RecentKeys>>) -> write::Writer<T> {
        let (hosts, months) = (Arc::clone(&self.hosts), Arc::clone(&self.months));
        let ground = Arc::clone(&self.ground);
        write::Writer::new(hosts, self.own.clone(), self.flush_time, months, self.schema.clone(), recent, ground)
    }

    /// Runs a question of the gateway within the time of a read, including the wait for a connection.
    async fn ask<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
        match timeout(self.read_time, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(Error::Slow(self.read_time)),
        }
    }
}

/// The problem of a database URL, in words that quote nothing of it.
pub fn url_problem(url: &str) -> Option<String> {
    Address::parse(url).err()
}

/// Whether a database URL contains a password.
pub fn url_has_password(url: &str) -> bool {
    Address::parse(url).is_ok_and(|address| address.password.is_some())
}

/// The files that a database URL names, with their parameters.
pub fn url_files(url: &str) -> Vec<(&'static str, PathBuf)> {
    Address::parse(url).map(Address::files).unwrap_or_default()
}

/// A pool whose sessions start with this statement.
fn greeted(words: Arc<str>, actor: Arc<OnceLock<Actor>>) -> PgPoolOptions {
    PgPoolOptions::new().after_connect(move |connection, _| {
        let words = audit::greeting(&words, actor.get_or_init(Actor::gateway));
        Box::pin(async move { connection.execute(AssertSqlSafe(words)).await.map(|_| ()) })
    })
}

/// The options by which sqlx connects: to the socket file, or to the bridge, which does the rest.
fn options(address: &Address, bridge: Option<&Bridge>) -> Result<PgConnectOptions, Error> {
    // Poolers reject the parameter `options` even if it is empty, so it is set only if the URL has it.
    let given = address.options.as_deref().map(|options| utf8_percent_encode(options, NON_ALPHANUMERIC));
    let plain: PgConnectOptions = given
        .map_or_else(
            || "postgres://localhost/".to_owned(),
            |options| format!("postgres://localhost/?options={options}"),
        )
        .parse()
        .map_err(|_| Error::Url("its options are not understood".to_owned()))?;
    let first = address.places.first();
    let (folder, port) = match (bridge, first) {
        (Some(bridge), _) => (PathBuf::from(bridge.folder()), bridge::PORT),
        (None, Some(Place::Unix { folder, port })) => (folder.clone(), *port),
        (None, _) => return Err(Error::Url("it names no host".to_owned())),
    };
    let options = plain
        .socket(folder)
        .port(port)
        .username(address.user())
        .database(address.database())
        .ssl_mode(PgSslMode::Disable)
        // Poolers reject this parameter, and the gateway reads no floating-point number as text.
        .extra_float_digits(None)
        .application_name(&address.application_name)
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
    // An unreadable password file is reported when a connection is made.
    Ok(match address.only_password().map_err(Error::Url)? {
        Some(password) => options.password(&password),
        None => options,
    })
}
