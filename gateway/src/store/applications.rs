//! Applications: who may send and read. Tokens never come here, only their digests.

use ipnet::IpNet;
use sqlx::postgres::{PgListener, PgPoolOptions};

use super::{Error, Store};

const CHANNEL: &str = "eye_applications";

/// An application as the database has it.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ApplicationRow {
    /// Its number, as events hold it.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// SHA-256 of each live token, the newest last.
    pub token_digests: Vec<Vec<u8>>,
    /// The networks from which it is known.
    pub networks: Vec<IpNet>,
    /// What proves it: `token`, `network` or `both`.
    pub known_by: String,
    /// What it may do: `ingest`, `read`, `admin`.
    pub scopes: Vec<String>,
    /// False once it is revoked.
    pub active: bool,
}

/// An application to be added.
#[derive(Clone, Debug)]
pub struct NewApplication {
    /// Its name.
    pub name: String,
    /// SHA-256 of its token, if it has one.
    pub token_digest: Option<[u8; 32]>,
    /// The networks from which it is known.
    pub networks: Vec<IpNet>,
    /// What proves it: `token`, `network` or `both`.
    pub known_by: String,
    /// What it may do: `ingest`, `read`, `admin`.
    pub scopes: Vec<String>,
}

/// Tells when the applications have changed.
#[derive(Debug)]
pub struct Applications(PgListener);

impl Applications {
    /// Waits for the next change. Also returns when the connection was lost, since a change may have been missed then;
    /// the next call connects again.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.0.try_recv().await?;
        // One statement on many rows, or many in a row, need one look at the table, not many.
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}

impl Store {
    /// All applications, revoked ones too, by name.
    pub async fn applications(&self) -> Result<Vec<ApplicationRow>, Error> {
        let query = sqlx::query_as(
            "select id, name, token_digests, networks, known_by, scopes, active from applications order by name",
        );
        self.read(query.fetch_all(&self.reads)).await
    }

    /// Adds an application and gives its number. A revoked name is not given again: events of the former one bear it.
    pub async fn application_add(&self, new: &NewApplication) -> Result<i32, Error> {
        let digests: Vec<&[u8]> = new.token_digest.iter().map(|digest| &digest[..]).collect();
        let query = sqlx::query_scalar(
            "insert into applications (name, token_digests, networks, known_by, scopes) \
             values ($1, $2, $3::cidr[], $4, $5) on conflict (name) do nothing returning id",
        )
        .bind(&new.name)
        .bind(digests)
        .bind(&new.networks)
        .bind(&new.known_by)
        .bind(&new.scopes);
        let id: Option<i32> = self.read(query.fetch_optional(&self.reads)).await?;
        id.ok_or_else(|| Error::ApplicationExists(new.name.clone()))
    }

    /// Gives an application a new token. The newest of the former ones stays live until the next rotation, so that
    /// senders can change over.
    pub async fn application_rotate(&self, name: &str, token_digest: &[u8; 32]) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set token_digests = \
                 token_digests[cardinality(token_digests):cardinality(token_digests)] || array[$2::bytea] \
             where name = $1 and active",
        )
        .bind(name)
        .bind(&token_digest[..]);
        self.changed_one(name, query).await
    }

    /// Ends an application. The row stays, because events name it; its tokens go.
    pub async fn application_revoke(&self, name: &str) -> Result<(), Error> {
        let query =
            sqlx::query("update applications set active = false, token_digests = '{}' where name = $1 and active")
                .bind(name);
        self.changed_one(name, query).await
    }

    /// Makes the application `local` of the embedded default, trusted from loopback, if it is not there.
    pub async fn ensure_local_application(&self) -> Result<(), Error> {
        let query = sqlx::query(
            "insert into applications (name, networks, known_by, scopes) \
             values ('local', '{127.0.0.0/8, ::1/128}', 'network', '{ingest, read, admin}') on conflict do nothing",
        );
        self.read(query.execute(&self.reads)).await?;
        Ok(())
    }

    /// Begins to listen for changes of the applications, on a connection of its own.
    pub async fn listen_applications(&self) -> Result<Applications, Error> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(self.read_time)
            .connect_lazy_with(self.options.clone().application_name("eye listener"));
        let listener = self.read(async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        });
        Ok(Applications(listener.await?))
    }

    async fn changed_one(
        &self,
        name: &str,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<(), Error> {
        let done = self.read(query.execute(&self.reads)).await?;
        if done.rows_affected() == 0 {
            return Err(Error::ApplicationUnknown(name.to_owned()));
        }
        Ok(())
    }
}
