//! Applications: who may send and read. Tokens never come here, only their digests.

use std::num::NonZeroU32;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use ipnet::IpNet;
use sqlx::postgres::PgListener;

use super::{Error, Store, greeted};

/// What an application may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Events in a second, in the long run.
    pub events_per_second: NonZeroU32,
    /// Events at once.
    pub burst_events: NonZeroU32,
}

const CHANNEL: &str = "eye_applications";

/// An application as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationRow {
    /// Its number, as events hold it.
    pub id: i32,
    /// Its name.
    pub name: String,
    /// SHA-256 of each live token, the newest last.
    pub token_digests: Vec<Vec<u8>>,
    /// SHA-256 of the last tokens that ended.
    pub retired_token_digests: Vec<Vec<u8>>,
    /// SHA-256 of each client certificate that proves it.
    pub certificate_digests: Vec<Vec<u8>>,
    /// The networks from which it is known.
    pub networks: Vec<IpNet>,
    /// What proves it: `token`, `network` or `both`.
    pub known_by: String,
    /// What it may do: `ingest`, `read`, `admin`.
    pub scopes: Vec<String>,
    /// Events that it may send in a second; `None` for no limit.
    pub events_per_second: Option<i32>,
    /// Events that it may send at once; `None` for as many as in a second.
    pub burst_events: Option<i32>,
    /// Patterns of the event types that it may send; empty for all.
    pub event_types: Vec<String>,
    /// False while it is suspended, and once it is revoked.
    pub active: bool,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

from_row!(ApplicationRow {
    id,
    name,
    token_digests,
    retired_token_digests,
    certificate_digests,
    networks,
    known_by,
    scopes,
    events_per_second,
    burst_events,
    event_types,
    active,
    created_at
});

impl ApplicationRow {
    /// Its rate limit, if it has one.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        let positive = |number: Option<i32>| NonZeroU32::new(u32::try_from(number?).ok()?);
        let events_per_second = positive(self.events_per_second)?;
        let burst_events = positive(self.burst_events).unwrap_or(events_per_second);
        Some(RateLimit { events_per_second, burst_events })
    }
}

/// An application to be added.
#[derive(Clone, Debug)]
pub struct NewApplication {
    /// Its name.
    pub name: String,
    /// SHA-256 of its token, if it has one.
    pub token_digest: Option<Digest>,
    /// SHA-256 of each client certificate that proves it.
    pub certificates: Vec<Digest>,
    /// The networks from which it is known.
    pub networks: Vec<IpNet>,
    /// What proves it: `token`, `network` or `both`.
    pub known_by: String,
    /// What it may do: `ingest`, `read`, `admin`.
    pub scopes: Vec<String>,
    /// Events that it may send in a second; `None` for no limit.
    pub events_per_second: Option<i32>,
    /// Events that it may send at once; `None` for as many as in a second.
    pub burst_events: Option<i32>,
    /// Patterns of the event types that it may send; empty for all.
    pub event_types: Vec<String>,
}

/// What is to be different about an application; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ApplicationChange {
    /// The networks from which it is known.
    pub networks: Option<Vec<IpNet>>,
    /// What proves it: `token`, `network` or `both`.
    pub known_by: Option<String>,
    /// SHA-256 of each client certificate that proves it.
    pub certificates: Option<Vec<Digest>>,
    /// What it may do.
    pub scopes: Option<Vec<String>>,
    /// Events in a second and at once; the inner `None` takes the limit away.
    pub rate: Option<Option<(i32, Option<i32>)>>,
    /// Patterns of the event types that it may send.
    pub event_types: Option<Vec<String>>,
    /// False suspends it.
    pub active: Option<bool>,
}

/// Tells when the applications have changed.
#[derive(Debug)]
pub struct ApplicationChanges(PgListener);

impl ApplicationChanges {
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
            "select id, name, token_digests, retired_token_digests, certificate_digests, networks, known_by, scopes, \
                 events_per_second, burst_events, event_types, active, created_at from applications order by name",
        );
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Each application's number with the category and the name of an event type that it has sent, as far as the counts are
    /// folded.
    pub async fn event_types_by_application(&self) -> Result<Vec<(i32, String, String)>, Error> {
        let query = sqlx::query_as(
            "select sent.application_id, event_types.category, event_types.name \
             from (select distinct application_id, event_type_id from counts where bucket = 'ever') sent \
             join event_types on event_types.id = sent.event_type_id",
        );
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Whether an application has sent events of a type before, or fewer than `most` types, as far as the counts are folded.
    pub async fn admits_event_type(
        &self,
        application_id: i32,
        category: &str,
        name: &str,
        most: usize,
    ) -> Result<bool, Error> {
        let query = sqlx::query_scalar(
            "select count(*) < $4 or bool_or(event_types.category = $2 and event_types.name = $3) \
             from (select distinct event_type_id from counts where bucket = 'ever' and application_id = $1) sent \
             join event_types on event_types.id = sent.event_type_id",
        )
        .bind(application_id)
        .bind(category)
        .bind(name)
        .bind(i64::try_from(most).unwrap_or(i64::MAX));
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Adds an application and gives its number. A revoked name is not given again: events of the former one bear it.
    pub async fn application_add(&self, new: &NewApplication) -> Result<i32, Error> {
        let query = sqlx::query_scalar(
            "insert into applications (name, token_digests, networks, known_by, scopes, certificate_digests, \
                 events_per_second, burst_events, event_types) \
             values ($1, $2, $3::cidr[], $4, $5, $6, $7, $8, $9) on conflict (name) do nothing returning id",
        )
        .bind(&new.name)
        .bind(bytes(new.token_digest.as_slice()))
        .bind(&new.networks)
        .bind(&new.known_by)
        .bind(&new.scopes)
        .bind(bytes(&new.certificates))
        .bind(new.events_per_second)
        .bind(new.burst_events)
        .bind(&new.event_types);
        let id: Option<i32> = self.ask(query.fetch_optional(&self.own)).await?;
        id.ok_or_else(|| Error::ApplicationExists(new.name.clone()))
    }

    /// Gives an application a new token. The newest of the former ones stays live until the next rotation or until
    /// [`Store::application_expire`], so that senders can change over; at most two live at once. An application that is
    /// known by its network alone has no use for one.
    pub async fn application_rotate(&self, name: &str, token_digest: Digest) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set \
                 token_digests = token_digests[cardinality(token_digests):] || array[$2::bytea], \
                 retired_token_digests = \
                     (token_digests[:cardinality(token_digests) - 1] || retired_token_digests)[:16] \
             where name = $1 and active and known_by <> 'network'",
        )
        .bind(name)
        .bind(&token_digest.0[..]);
        self.changed_one(name, query).await
    }

    /// Ends all tokens of an application but the newest: the second half of a rotation.
    pub async fn application_expire(&self, name: &str) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set \
                 token_digests = token_digests[cardinality(token_digests):], \
                 retired_token_digests = \
                     (token_digests[:cardinality(token_digests) - 1] || retired_token_digests)[:16] \
             where name = $1 and active and known_by <> 'network'",
        )
        .bind(name);
        self.changed_one(name, query).await
    }

    /// Ends an application. The row stays, because events name it; its tokens and certificates go.
    pub async fn application_revoke(&self, name: &str) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set active = false, token_digests = '{}', certificate_digests = '{}', \
                 retired_token_digests = (token_digests || retired_token_digests)[:16] \
             where name = $1 and (active or token_digests <> '{}' or certificate_digests <> '{}')",
        )
        .bind(name);
        self.changed_one(name, query).await
    }

    /// Changes an application, suspended ones too.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`]; [`Error::ApplicationWithoutNetwork`] when it would be known by a network and has none;
    /// [`Error::ApplicationNetworksUnused`] when it is given networks and would still be known from everywhere.
    pub async fn application_change(&self, name: &str, change: &ApplicationChange) -> Result<(), Error> {
        let (rate, burst) = change.rate.flatten().unzip();
        let query = sqlx::query(
            "update applications set \
                 networks = coalesce($2::cidr[], networks), known_by = coalesce($3, known_by), \
                 certificate_digests = coalesce($4, certificate_digests), scopes = coalesce($5, scopes), \
                 events_per_second = case when $6 then $7 else events_per_second end, \
                 burst_events = case when $6 then $8 else burst_events end, \
                 event_types = coalesce($9, event_types), active = coalesce($10, active) \
             where name = $1 and not (coalesce($3, known_by) = 'token' and cardinality(coalesce($2::cidr[], '{}')) > 0)",
        )
        .bind(name)
        .bind(&change.networks)
        .bind(&change.known_by)
        .bind(change.certificates.as_deref().map(bytes))
        .bind(&change.scopes)
        .bind(change.rate.is_some())
        .bind(rate)
        .bind(burst.flatten())
        .bind(&change.event_types)
        .bind(change.active);
        match self.changed_one(name, query).await {
            Err(Error::ApplicationUnknown(_)) if self.application_exists(name).await? => {
                Err(Error::ApplicationNetworksUnused(name.to_owned()))
            }
            changed => changed,
        }
    }

    async fn application_exists(&self, name: &str) -> Result<bool, Error> {
        let query = sqlx::query_scalar("select exists (select from applications where name = $1)").bind(name);
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Makes the application `local` of the embedded default, trusted from loopback, if it is not there.
    pub async fn ensure_local_application(&self) -> Result<(), Error> {
        let query = sqlx::query(
            "insert into applications (name, networks, known_by, scopes) \
             values ('local', '{127.0.0.0/8, ::1/128}', 'network', '{ingest, read, admin}') on conflict do nothing",
        );
        self.ask(query.execute(&self.own)).await?;
        Ok(())
    }

    /// Begins to listen for changes of the applications, on a connection of its own.
    pub async fn listen_applications(&self) -> Result<ApplicationChanges, Error> {
        let pool = greeted(Arc::clone(&self.greeting))
            .max_connections(1)
            .acquire_timeout(self.read_time)
            .connect_lazy_with(self.options_for("listener"));
        let listener = self.ask(async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            Ok(listener)
        });
        Ok(ApplicationChanges(listener.await?))
    }

    async fn changed_one(
        &self,
        name: &str,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
    ) -> Result<(), Error> {
        let done = self.ask(query.execute(&self.own)).await.map_err(|error| match error {
            Error::Refused(cause) if violates(&cause, "applications_networks_check") => {
                Error::ApplicationWithoutNetwork(name.to_owned())
            }
            error => error,
        })?;
        if done.rows_affected() == 0 {
            return Err(Error::ApplicationUnknown(name.to_owned()));
        }
        Ok(())
    }
}

fn bytes(digests: &[Digest]) -> Vec<&[u8]> {
    digests.iter().map(|digest| &digest.0[..]).collect()
}

fn violates(cause: &sqlx::Error, constraint: &str) -> bool {
    cause.as_database_error().and_then(|error| error.constraint()) == Some(constraint)
}
