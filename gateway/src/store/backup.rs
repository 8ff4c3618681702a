//! The questions of `eye backup` and `eye restore`, and the way to the database for the programs of Postgres that do the
//! work.

use std::ffi::OsString;

use sqlx::{Connection, Executor};

use super::url::{Place, SslMode, Wanted};
use super::{Error, Store};

/// The database that a backup is made of or restored into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The major version of its server.
    pub major: u32,
    /// Whether the schema holds any table.
    pub has_tables: bool,
    /// Whether the tables are those of a gateway.
    pub is_ours: bool,
}

/// Postgres lets everybody call a new function. A backup has no rights, so those that the migrations took from everybody
/// are back after a restore.
const CLOSE_FUNCTIONS: &str = "do $$ declare lends regprocedure; begin \
    for lends in select oid from pg_proc where prosecdef and pronamespace = current_schema()::regnamespace loop \
        execute format('revoke execute on function %s from public', lends); \
    end loop; end $$";

impl Store {
    /// Describes the database.
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn describe(&self) -> Result<Database, Error> {
        let described = sqlx::query_as(
            "select current_setting('server_version_num')::int4 / 10000, \
                 exists (select from pg_class where relnamespace = current_schema()::regnamespace and relkind in ('r', 'p', 'v', 'm')), \
                 to_regclass('events') is not null and to_regclass('applications') is not null",
        );
        let (major, has_tables, is_ours): (i32, bool, bool) = self.ask(described.fetch_one(&self.own)).await?;
        Ok(Database { major: u32::try_from(major).unwrap_or_default(), has_tables, is_ours })
    }

    /// Takes from everybody the right to call the functions that run with the rights of their owner.
    ///
    /// # Errors
    ///
    /// The errors of a statement.
    pub async fn close_functions(&self) -> Result<(), Error> {
        let mut connection = self.session("restore").await?;
        connection.execute(CLOSE_FUNCTIONS).await?;
        Ok(connection.close().await?)
    }

    /// Collects the planner's statistics anew. A backup has none, and without them reads walk whole tables. It takes as
    /// long as the tables are large.
    ///
    /// # Errors
    ///
    /// The errors of a statement.
    pub async fn analyze(&self) -> Result<(), Error> {
        let mut connection = self.session("restore").await?;
        connection.execute("analyze").await?;
        Ok(connection.close().await?)
    }

    /// The way to this database as the variables of libpq. A program gets them in its environment, which other users of
    /// the machine cannot read, unlike its arguments.
    pub fn libpq_variables(&self) -> Vec<(&'static str, OsString)> {
        let address = self.hosts.address();
        let list = |part: fn(&Place) -> OsString| {
            let parts: Vec<OsString> = address.places.iter().map(part).collect();
            parts.join(&OsString::from(","))
        };
        let host = |place: &Place| match place {
            Place::Tcp { name, .. } => name.into(),
            Place::Unix { folder, .. } => folder.clone().into_os_string(),
        };
        let port = |place: &Place| match place {
            Place::Tcp { port, .. } | Place::Unix { port, .. } => port.to_string().into(),
        };
        let target = match address.wanted {
            Wanted::Any => "any",
            Wanted::ReadWrite => "read-write",
            Wanted::ReadOnly => "read-only",
            Wanted::Primary => "primary",
            Wanted::Standby => "standby",
            Wanted::PreferStandby => "prefer-standby",
        };
        let ssl_mode = match address.ssl_mode {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        };
        let mut variables = vec![
            ("PGHOST", list(host)),
            ("PGPORT", list(port)),
            ("PGUSER", address.user().into()),
            ("PGDATABASE", address.database().into()),
            ("PGTARGETSESSIONATTRS", target.into()),
            ("PGSSLMODE", ssl_mode.into()),
            ("PGCONNECT_TIMEOUT", address.connect_time.as_secs().max(2).to_string().into()),
        ];
        if address.places.iter().any(|place| matches!(place, Place::Tcp { address: Some(_), .. })) {
            variables.push((
                "PGHOSTADDR",
                list(|place| match place {
                    Place::Tcp { address, .. } => address.clone().unwrap_or_default().into(),
                    Place::Unix { .. } => OsString::new(),
                }),
            ));
        }
        let (certificate, key) = address.ssl_client.clone().unzip();
        variables.extend(address.password.clone().map(|password| ("PGPASSWORD", password.into())));
        variables.extend(address.options.clone().map(|options| ("PGOPTIONS", options.into())));
        let files = [
            ("PGPASSFILE", address.passfile.clone()),
            ("PGSSLROOTCERT", address.ssl_root.clone()),
            ("PGSSLCERT", certificate),
            ("PGSSLKEY", key),
        ];
        variables.extend(files.into_iter().filter_map(|(name, file)| Some((name, file?.into_os_string()))));
        variables
    }
}
