//! The schema and the program: which versions the database has, whether this program may use them, and how to migrate
//! it.
//!
//! A program uses a schema that is newer than its own, unless a migration raised `schema_floor` above the program's
//! version. It never changes such a schema. Writers wait until the schema is proved, so that no row is written into a
//! schema that does not serve this program.

use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor};
use tokio::sync::watch;

use super::{Error, Store, audit, connection, migrations, partitions, within};
use crate::audit::Action;

/// Longest wait for a connection to migrate on. The pool pauses for up to a fifth of it between its attempts, so a
/// longer one would notice later that a database is back.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Longest time for the missing migrations: a table of a billion rows takes hours. The server has the same limit, so
/// that no abandoned change keeps its locks. A server that hangs delays only a gateway that has something to migrate.
const MIGRATE_TIME: Duration = Duration::from_secs(6 * 3_600);
/// Longest time for creating partitions ahead. Usually they exist; otherwise each is tried a few times.
const AHEAD_TIME: Duration = Duration::from_secs(60);
/// A migration creates partitions for this many months after this one. `crate::retention` creates the next ones.
const AHEAD_MONTHS: u32 = 2;
/// The SQLSTATE for a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

/// A schema that this program may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// It has exactly the versions that this program knows.
    Current {
        /// The version of the schema.
        version: i64,
    },
    /// A newer program migrated it, and it still serves this one.
    Newer {
        /// The version of the schema.
        version: i64,
        /// The version of this program.
        program: i64,
        /// The least version of a program that may use the schema.
        floor: i64,
    },
}

impl std::fmt::Display for Schema {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Current { version } => write!(formatter, "the database has schema version {version}"),
            Self::Newer { version, program, floor } => write!(
                formatter,
                "the database has schema version {version}, which is newer than version {program} of this program; it \
                 serves programs that know version {floor} or later, so this one may use it"
            ),
        }
    }
}

/// A gate that opens once the schema is proved. Writers wait at it.
#[derive(Clone, Debug)]
pub(super) struct SchemaGate(watch::Sender<bool>);

impl Default for SchemaGate {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl SchemaGate {
    pub(super) fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the gate is open. Returns false if it is still closed after `longest`.
    pub(super) async fn opened(&self, longest: Duration) -> bool {
        let mut open = self.0.subscribe();
        // The sender lives as long as `self`.
        matches!(tokio::time::timeout(longest, open.wait_for(|open| *open)).await, Ok(Ok(_)))
    }
}

/// The version of this program.
fn program_version() -> i64 {
    migrations::KNOWN.iter().map(|migration| migration.version).max().expect("there are migrations")
}

/// Reads the versions of the database and compares them with those of this program.
///
/// # Errors
///
/// [`Error::SchemaBehind`] if the database lacks versions, [`Error::SchemaFloor`] if the schema does not serve this
/// program, [`Error::Migrate`] if the two have different histories, [`Error::Away`] and [`Error::Refused`].
async fn prove(pool: &PgPool) -> Result<Schema, Error> {
    let applied: Result<Vec<(i64, Vec<u8>, bool)>, _> =
        sqlx::query_as("select version, checksum, success from _sqlx_migrations order by version")
            .fetch_all(pool)
            .await;
    let applied = match applied {
        Ok(applied) => applied,
        // The first migration creates the table of versions.
        Err(error) if connection::words(&error).0 == UNDEFINED_TABLE => match hidden(pool).await? {
            None => Vec::new(),
            Some(words) => return Err(Error::Hidden(words)),
        },
        Err(error) => return Err(error.into()),
    };
    let program = program_version();
    let version = applied.last().map_or(0, |(version, ..)| *version);
    if let Some((dirty, ..)) = applied.iter().find(|(.., success)| !success) {
        return Err(Error::Migrate(MigrateError::Dirty(*dirty)));
    }
    let known = |version: i64| migrations::KNOWN.iter().find(|migration| migration.version == version);
    for (version, checksum, _) in applied.iter().filter(|(version, ..)| *version <= program) {
        match known(*version) {
            None => return Err(Error::Migrate(MigrateError::VersionMissing(*version))),
            Some(migration) if migration.checksum[..] != checksum[..] => {
                return Err(Error::Migrate(MigrateError::VersionMismatch(*version)));
            }
            Some(_) => {}
        }
    }
    if version > program {
        let floor: i64 = sqlx::query_scalar("select version from schema_floor").fetch_one(pool).await?;
        if floor > program {
            return Err(Error::SchemaFloor { version, floor, program });
        }
    }
    let has = |version: i64| applied.binary_search_by_key(&version, |(version, ..)| *version).is_ok();
    if !migrations::KNOWN.iter().all(|migration| has(migration.version)) {
        return Err(Error::SchemaBehind { version, program });
    }
    if version == program {
        return Ok(Schema::Current { version });
    }
    let floor = sqlx::query_scalar("select version from schema_floor").fetch_one(pool).await?;
    Ok(Schema::Newer { version, program, floor })
}

/// Why the table of versions is invisible although it exists: a table in a schema that the role may not use looks
/// missing, and so does a table outside of the search path.
async fn hidden(pool: &PgPool) -> Result<Option<String>, Error> {
    let found: Option<(String, bool, String)> = sqlx::query_as(
        "select pg_namespace.nspname::text, has_schema_privilege(pg_namespace.oid, 'usage'), current_user::text \
         from pg_class join pg_namespace on pg_namespace.oid = pg_class.relnamespace \
         where pg_class.relname = '_sqlx_migrations' and pg_class.relkind in ('r', 'p') order by 1 limit 1",
    )
    .fetch_optional(pool)
    .await?;
    Ok(found.map(|(schema, may_use, role)| match may_use {
        false => format!(
            "the tables of the gateway are in the schema {schema}, which the role {role} may not use: \
             `grant usage on schema {schema} to {role}`"
        ),
        true => format!(
            "the tables of the gateway are in the schema {schema}, which is not in the search path of the role {role}: \
             `alter role {role} set search_path = {schema}`"
        ),
    }))
}

impl Store {
    /// Proves that this program may use the schema. It changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::SchemaBehind`], [`Error::SchemaFloor`] and [`Error::Migrate`] mean that it may not. [`Error::Away`],
    /// [`Error::Slow`] and [`Error::Refused`] leave that open.
    pub async fn prove_schema(&self) -> Result<Schema, Error> {
        let schema = within(self.read_time, prove(&self.own)).await?;
        self.schema.open();
        Ok(schema)
    }

    /// Migrates the schema and creates the partitions of the months around now. Several gateways may do so at once. A
    /// newer schema that serves this program stays as it is.
    ///
    /// # Errors
    ///
    /// After [`Error::Away`] and [`Error::Slow`] a retry may succeed. All other errors need an operator.
    pub async fn migrate(&self) -> Result<Schema, Error> {
        // A pool of one, since the compiler can prove that a task may run a migration on a pool, but not on a
        // connection.
        let options = self.options_for("migrate");
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIME).connect_with(options).await?;
        let schema = match within(CONNECT_TIME, prove(&pool)).await {
            Err(Error::SchemaBehind { .. }) => {
                // The pool has one connection, so this is the one that migrates.
                let bound = audit::greeting(
                    &format!("select set_config('statement_timeout', '{}', false)", MIGRATE_TIME.as_millis()),
                    self.actor(),
                );
                within(CONNECT_TIME, (&pool).execute(AssertSqlSafe(bound))).await?;
                within(MIGRATE_TIME, migrations::KNOWN.run(&pool)).await?;
                self.log_noted(Action::Migrate, &program_version().to_string());
                within(CONNECT_TIME, prove(&pool)).await?
            }
            proved => proved?,
        };
        self.schema.open();
        let mut connection = pool.acquire().await?;
        let left = within(AHEAD_TIME, partitions::make_ahead(&mut connection, AHEAD_MONTHS, self.actor())).await?;
        drop(connection);
        pool.close().await;
        if !left.is_empty() {
            tracing::warn!(partitions = left.join(", "), "partitions could not be made ahead");
        }
        Ok(schema)
    }
}
