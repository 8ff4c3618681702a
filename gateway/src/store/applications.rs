//! Reads and changes applications. The store has digests of tokens, never tokens.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use sqlx::types::Json;

use super::tokens::{Expiry, TokenFacts, first_end, ids_of};
use super::{Error, Store, audit, greeted};
use crate::audit::{Action, Actor, Entry};
use crate::trust::token::id_of;

/// The rate limit of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Events per second, on average.
    pub events_per_second: NonZeroU32,
    /// Most events at once.
    pub burst_events: NonZeroU32,
}

const CHANNEL: &str = "eye_applications";

/// A row of `applications`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplicationRow {
    /// The id of the row. Rows of events refer to it.
    pub id: i32,
    /// The name.
    pub name: String,
    /// SHA-256 of each token that was not ended, the newest last.
    pub token_digests: Vec<Vec<u8>>,
    /// SHA-256 of the tokens that were ended last. A caller with one of them is refused as known.
    pub retired_token_digests: Vec<Vec<u8>>,
    /// SHA-256 of each client certificate that identifies it.
    pub certificate_digests: Vec<Vec<u8>>,
    /// The networks that identify it.
    pub networks: Vec<IpNet>,
    /// What identifies it: `token`, `network` or `both`.
    pub known_by: String,
    /// Its scopes: `ingest`, `read`, `raw`, `ship`, `admin`.
    pub scopes: Vec<String>,
    /// Most events per second; `None` for no limit.
    pub events_per_second: Option<i32>,
    /// Most events at once; `None` for as many as per second.
    pub burst_events: Option<i32>,
    /// Patterns of the event types that it may send; empty for all.
    pub event_types: Vec<String>,
    /// Patterns of the event types that it may read; empty for all.
    pub read_event_types: Vec<String>,
    /// The names of the applications whose events it may read; empty for all.
    pub read_applications: Vec<String>,
    /// Patterns of the event types whose modules it may ship; empty for all.
    pub ship_event_types: Vec<String>,
    /// The secret of its cursors, if its reading is limited.
    pub cursor_key: Vec<u8>,
    /// False if it is suspended or revoked.
    pub active: bool,
    /// When it was revoked, which is final.
    pub revoked_at: Option<DateTime<Utc>>,
    /// A note of its operators.
    pub note: String,
    /// When it was added.
    pub created_at: DateTime<Utc>,
    /// The known facts about its tokens, live or ended, in no order. [`Store::applications`] fills them in.
    pub tokens: Vec<TokenFacts>,
}

/// Whether an application may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may call.
    Active,
    /// It may not call until an operator ends the suspension.
    Suspended,
    /// It may never call again.
    Revoked,
}

impl State {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }
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
    read_event_types,
    read_applications,
    ship_event_types,
    cursor_key,
    active,
    revoked_at,
    note,
    created_at
} empty { tokens });

impl ApplicationRow {
    /// Whether it may call.
    pub fn state(&self) -> State {
        match (self.active, self.revoked_at) {
            (true, _) => State::Active,
            (false, None) => State::Suspended,
            (false, Some(_)) => State::Revoked,
        }
    }

    /// The known facts about the token with this digest.
    pub fn token(&self, digest: &[u8]) -> Option<&TokenFacts> {
        self.tokens.iter().find(|facts| facts.digest == digest)
    }

    /// When a token that it uses ends, if one does.
    pub fn tokens_end(&self) -> Option<DateTime<Utc>> {
        if self.active { first_end(&self.token_digests, &self.tokens) } else { None }
    }

    /// Its rate limit, if it has one.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        let positive = |number: Option<i32>| NonZeroU32::new(u32::try_from(number?).ok()?);
        let events_per_second = positive(self.events_per_second)?;
        let burst_events = positive(self.burst_events).unwrap_or(events_per_second);
        Some(RateLimit { events_per_second, burst_events })
    }
}

/// A new application.
#[derive(Clone, Debug)]
pub struct NewApplication {
    /// The name.
    pub name: String,
    /// SHA-256 of its token, if it gets one.
    pub token_digest: Option<Digest>,
    /// When the token expires.
    pub expires: Option<Expiry>,
    /// SHA-256 of each client certificate that identifies it.
    pub certificates: Vec<Digest>,
    /// The networks that identify it.
    pub networks: Vec<IpNet>,
    /// What identifies it: `token`, `network` or `both`.
    pub known_by: String,
    /// Its scopes: `ingest`, `read`, `raw`, `ship`, `admin`.
    pub scopes: Vec<String>,
    /// Most events per second; `None` for no limit.
    pub events_per_second: Option<i32>,
    /// Most events at once; `None` for as many as per second.
    pub burst_events: Option<i32>,
    /// Patterns of the event types that it may send; empty for all.
    pub event_types: Vec<String>,
    /// Patterns of the event types that it may read; empty for all.
    pub read_event_types: Vec<String>,
    /// The names of the applications whose events it may read; empty for all.
    pub read_applications: Vec<String>,
    /// Patterns of the event types whose modules it may ship; empty for all.
    pub ship_event_types: Vec<String>,
    /// A note of its operators.
    pub note: String,
}

/// The changes of an application. `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct ApplicationChange {
    /// The networks that identify it.
    pub networks: Option<Vec<IpNet>>,
    /// What identifies it: `token`, `network` or `both`.
    pub known_by: Option<String>,
    /// SHA-256 of each client certificate that identifies it.
    pub certificates: Option<Vec<Digest>>,
    /// Its scopes.
    pub scopes: Option<Vec<String>>,
    /// Most events per second and at once. The inner `None` removes the limit.
    pub rate: Option<Option<(i32, Option<i32>)>>,
    /// Patterns of the event types that it may send.
    pub event_types: Option<Vec<String>>,
    /// Patterns of the event types that it may read; empty for all.
    pub read_event_types: Option<Vec<String>>,
    /// The names of the applications whose events it may read; empty for all.
    pub read_applications: Option<Vec<String>>,
    /// Patterns of the event types whose modules it may ship; empty for all.
    pub ship_event_types: Option<Vec<String>>,
    /// False suspends it, true ends the suspension.
    pub active: Option<bool>,
    /// A note of its operators.
    pub note: Option<String>,
}

/// The state of an administrator that a gateway registers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was added now, or got the token now.
    Made,
    /// It had the token already.
    Known,
    /// It exists, and the token is one that was ended.
    TokenEnded,
    /// It exists, and is suspended or revoked.
    Closed,
}

/// Waits for changes of the applications.
#[derive(Debug)]
pub struct ApplicationChanges(PgListener);

impl ApplicationChanges {
    /// Waits for the next change. It also returns after the connection was lost, since a notification may be lost with
    /// it. The next call connects again.
    pub async fn changed(&mut self) -> Result<(), Error> {
        self.0.try_recv().await?;
        // A statement on many rows notifies many times, and one read of the table is enough for all.
        while self.0.next_buffered().is_some() {}
        Ok(())
    }
}

impl Store {
    /// Reads all applications by name, including revoked ones.
    pub async fn applications(&self) -> Result<Vec<ApplicationRow>, Error> {
        let query = sqlx::query_as(
            "select id, name, token_digests, retired_token_digests, certificate_digests, networks, known_by, scopes, \
                 events_per_second, burst_events, event_types, read_event_types, read_applications, ship_event_types, \
                 cursor_key, active, \
                 revoked_at, note, created_at \
             from applications order by name",
        );
        let mut rows: Vec<ApplicationRow> = self.ask(query.fetch_all(&self.own)).await?;
        // The facts are read after the rows. Each token is committed together with its facts, so none of them is
        // missing.
        let mut facts: HashMap<Vec<u8>, TokenFacts> =
            self.token_facts().await?.into_iter().map(|facts| (facts.digest.clone(), facts)).collect();
        for row in &mut rows {
            let digests = row.token_digests.iter().chain(&row.retired_token_digests);
            row.tokens = digests.filter_map(|digest| facts.remove(digest)).collect();
            if !row.read_event_types.is_empty() || !row.read_applications.is_empty() {
                row.scopes.iter_mut().for_each(|scope| *scope = plain_scope(scope).to_owned());
            }
        }
        Ok(rows)
    }

    /// Reads the application of this name, even if it is revoked.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`].
    pub async fn application(&self, name: &str) -> Result<ApplicationRow, Error> {
        let found = self.applications().await?.into_iter().find(|row| row.name == name);
        found.ok_or_else(|| Error::ApplicationUnknown(name.to_owned()))
    }

    /// Reads which application has sent which event types, as far as the counts are folded: the application's id,
    /// category and name.
    pub async fn event_types_by_application(&self) -> Result<Vec<(i32, String, String)>, Error> {
        let query = sqlx::query_as(
            "select sent.application_id, event_types.category, event_types.name \
             from (select distinct application_id, event_type_id from counts where bucket = 'ever') sent \
             join event_types on event_types.id = sent.event_type_id",
        );
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Whether an application has sent events of this type before, or fewer than `most` types, as far as the counts are
    /// folded.
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

    /// Adds an application and returns its id. The audit trail names `by`. A revoked name is not available again, since
    /// events refer to it.
    pub async fn application_add(&self, new: &NewApplication, by: &Actor) -> Result<i32, Error> {
        let expires_at = match new.expires.filter(|_| new.token_digest.is_some()) {
            Some(expires) => Some(self.expires_at(expires).await?),
            None => None,
        };
        let query = sqlx::query_scalar(
            "with added as ( \
                 insert into applications (name, token_digests, networks, known_by, scopes, certificate_digests, \
                     events_per_second, burst_events, event_types, note, read_event_types, read_applications, \
                     ship_event_types) \
                 values ($1, $2, $3::cidr[], $4, $5, $6, $7, $8, $9, $10, $12, $13, $14) on conflict (name) do nothing returning id \
             ), noted as ( \
                 insert into application_tokens (digest, application_id, expires_at) \
                 select digest, added.id, $11 from added, unnest($2) digest on conflict (digest) do nothing \
             ) \
             select id from added",
        )
        .bind(&new.name)
        .bind(bytes(new.token_digest.as_slice()))
        .bind(&new.networks)
        .bind(&new.known_by)
        .bind(&new.scopes)
        .bind(bytes(&new.certificates))
        .bind(new.events_per_second)
        .bind(new.burst_events)
        .bind(&new.event_types)
        .bind(&new.note)
        .bind(expires_at)
        .bind(&new.read_event_types)
        .bind(&new.read_applications)
        .bind(&new.ship_event_types);
        let entry = Entry::new(Action::ApplicationAdd, &new.name, by)
            .with("known_by", new.known_by.as_str())
            .with("token_id", new.token_digest.map(id_of))
            .with("expires_at", expires_at.map(|at| at.to_rfc3339()))
            .with("networks", listed(&new.networks))
            .with("certificates", listed(&new.certificates))
            .with("scopes", new.scopes.clone())
            .with("events_per_second", new.events_per_second)
            .with("burst_events", new.burst_events)
            .with("event_types", listed(&new.event_types))
            .with("read_event_types", listed(&new.read_event_types))
            .with("read_applications", listed(&new.read_applications))
            .with("ship_event_types", listed(&new.ship_event_types));
        let added = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let id: Option<i32> = query.fetch_optional(&mut *transaction).await?;
            if id.is_some() {
                audit::write(&mut transaction, &entry).await?;
                transaction.commit().await?;
            }
            Ok(id)
        });
        let id = added.await?.ok_or_else(|| Error::ApplicationExists(new.name.clone()))?;
        entry.log();
        Ok(id)
    }

    /// Revokes an application for good. The row stays, since events refer to it; its tokens and certificates end.
    pub async fn application_revoke(&self, name: &str, by: &Actor) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set active = false, revoked_at = now(), token_digests = '{}', \
                 certificate_digests = '{}', retired_token_digests = (token_digests || retired_token_digests)[:16] \
             where name = $1 and revoked_at is null",
        )
        .bind(name);
        self.changed_one(query, Entry::new(Action::ApplicationRevoke, name, by)).await
    }

    /// Changes an application, even if it is suspended.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`]; [`Error::ApplicationRevoked`]; [`Error::ApplicationWithoutNetwork`] if its
    /// network were to identify it and it has none; [`Error::ApplicationNetworksUnused`] if it gets networks and its
    /// token alone identifies it; [`Error::ApplicationLimitedAdmin`] if it had the scope `admin` and limits of its reading.
    pub async fn application_change(&self, name: &str, change: &ApplicationChange, by: &Actor) -> Result<(), Error> {
        let (rate, burst) = change.rate.flatten().unzip();
        let query = sqlx::query(
            "update applications set \
                 networks = coalesce($2::cidr[], networks), known_by = coalesce($3, known_by), \
                 certificate_digests = coalesce($4, certificate_digests), scopes = coalesce($5, scopes), \
                 events_per_second = case when $6 then $7 else events_per_second end, \
                 burst_events = case when $6 then $8 else burst_events end, \
                 event_types = coalesce($9, event_types), active = coalesce($10, active), note = coalesce($11, note), \
                 read_event_types = coalesce($12, read_event_types), read_applications = coalesce($13, read_applications), \
                 ship_event_types = case when 'ship' = any (coalesce($5, scopes)) then coalesce($14, ship_event_types) else '{}' end \
             where name = $1 and revoked_at is null and not (coalesce($3, known_by) = 'token' and cardinality(coalesce($2::cidr[], '{}')) > 0)",
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
        .bind(change.active)
        .bind(&change.note)
        .bind(&change.read_event_types)
        .bind(&change.read_applications)
        .bind(&change.ship_event_types);
        match self.changed_one(query, Entry::new(Action::ApplicationChange, name, by)).await {
            Err(Error::ApplicationUnknown(_)) => Err(match self.application(name).await?.state() {
                State::Revoked => Error::ApplicationRevoked(name.to_owned()),
                State::Active | State::Suspended => Error::ApplicationNetworksUnused(name.to_owned()),
            }),
            changed => changed,
        }
    }

    /// Adds the application `local` of the embedded Postgres, which loopback addresses identify, or gives it these
    /// scopes.
    pub async fn ensure_local_application(&self, scopes: &[String]) -> Result<(), Error> {
        let query = sqlx::query_scalar(
            "with made as (insert into applications (name, networks, known_by, scopes) \
                 values ('local', '{127.0.0.0/8, ::1/128}', 'network', $1) \
                 on conflict (name) do update set scopes = excluded.scopes \
                 where applications.known_by = 'network' and applications.scopes is distinct from excluded.scopes \
                 returning name) \
             select name from made, note_audit($2, name, jsonb_build_object('scopes', $1::text[]))",
        )
        .bind(scopes)
        .bind(Action::ApplicationBootstrap.as_str());
        let made: Option<String> = self.ask(query.fetch_optional(&self.own)).await?;
        if let Some(name) = made {
            self.log_noted(Action::ApplicationBootstrap, &name);
        }
        Ok(())
    }

    /// Adds an administrator with this token, or replaces its token by this one.
    pub async fn ensure_administrator(&self, name: &str, token: Digest) -> Result<Ensured, Error> {
        let entry = Entry::new(Action::ApplicationBootstrap, name, self.actor())
            .with("token_id", id_of(token))
            .with("scopes", ["admin"].to_vec());
        let ensured = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let insert = sqlx::query(
                "insert into applications (name, token_digests, known_by, scopes) \
                 values ($1, array[$2::bytea], 'token', '{admin}') on conflict (name) do nothing",
            );
            let made = insert.bind(name).bind(&token.0[..]).execute(&mut *transaction).await?.rows_affected() > 0;
            let update = sqlx::query(
                "update applications set token_digests = array[$2::bytea], \
                     retired_token_digests = (token_digests || retired_token_digests)[:16] \
                 where name = $1 and active and not token_digests @> array[$2::bytea] \
                     and not retired_token_digests @> array[$2::bytea]",
            );
            let changed = update.bind(name).bind(&token.0[..]).execute(&mut *transaction).await?.rows_affected() > 0;
            if made || changed {
                audit::write(&mut transaction, &entry).await?;
            }
            let found: (bool, bool) =
                sqlx::query_as("select active, token_digests @> array[$2::bytea] from applications where name = $1")
                    .bind(name)
                    .bind(&token.0[..])
                    .fetch_one(&mut *transaction)
                    .await?;
            transaction.commit().await?;
            Ok((made || changed, found))
        });
        let (is_new, found) = ensured.await?;
        if is_new {
            entry.log();
        }
        Ok(match found {
            (true, true) if is_new => Ensured::Made,
            (true, true) => Ensured::Known,
            (true, false) => Ensured::TokenEnded,
            (false, _) => Ensured::Closed,
        })
    }

    /// Whether an application other than `besides` has the scope `admin` and can call.
    pub async fn has_administrator(&self, besides: &[&str]) -> Result<bool, Error> {
        let query = sqlx::query_scalar(
            "select exists (select from applications where active and scopes @> '{admin}' and name <> all($1) \
                 and (cardinality(certificate_digests) > 0 or known_by = 'network' or exists ( \
                     select from unnest(token_digests) live where not exists (select from application_tokens \
                         where application_tokens.digest = live and application_tokens.expires_at <= now()))))",
        )
        .bind(besides);
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Listens for changes of the applications, on a connection of its own.
    pub async fn listen_applications(&self) -> Result<ApplicationChanges, Error> {
        let pool = greeted(Arc::clone(&self.greeting), Arc::clone(&self.actor))
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

    /// Changes the application that is the subject of `entry`, and writes the entry with all differences. Without a
    /// difference it writes none.
    pub(super) async fn changed_one(
        &self,
        query: sqlx::query::Query<'_, sqlx::Postgres, sqlx::postgres::PgArguments>,
        entry: Entry,
    ) -> Result<(), Error> {
        let name = entry.subject.clone();
        let changed = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let before = facts_of(&mut transaction, &name).await?;
            if query.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(None);
            }
            let after = facts_of(&mut transaction, &name).await?;
            let entry = before.zip(after).and_then(|(before, after)| {
                let different = differences(&before, &after);
                Some(entry.with_all(different.clone())).filter(|_| !different.is_empty())
            });
            if let Some(entry) = &entry {
                audit::write(&mut transaction, entry).await?;
            }
            transaction.commit().await?;
            Ok(Some(entry))
        });
        let changed = changed.await.map_err(|error| match error {
            Error::Refused(cause) if violates(&cause, "applications_networks_check") => {
                Error::ApplicationWithoutNetwork(name.clone())
            }
            Error::Refused(cause) if violates(&cause, "applications_read_limits_check") => {
                Error::ApplicationLimitedAdmin(name.clone())
            }
            error => error,
        })?;
        match changed {
            None => Err(Error::ApplicationUnknown(name)),
            Some(entry) => {
                if let Some(entry) = entry {
                    entry.log();
                }
                Ok(())
            }
        }
    }
}

/// The facts of an application for the audit trail. The row stays locked until the transaction ends.
async fn facts_of(connection: &mut PgConnection, name: &str) -> Result<Option<Map<String, Value>>, sqlx::Error> {
    let query = sqlx::query_as(
        "select token_digests, jsonb_build_object('networks', networks::text[], 'known_by', known_by, 'scopes', scopes, \
             'certificates', array(select encode(digest, 'hex') from unnest(certificate_digests) digest), \
             'events_per_second', events_per_second, 'burst_events', burst_events, 'event_types', event_types, \
             'read_event_types', read_event_types, 'read_applications', read_applications, 'active', active, 'revoked', revoked_at is not null, 'note', note) \
         from applications where name = $1 for update",
    );
    type Facts = Json<Map<String, Value>>;
    let found: Option<(Vec<Vec<u8>>, Facts)> = query.bind(name).fetch_optional(connection).await?;
    Ok(found.map(|(tokens, Json(mut facts))| {
        facts.insert("token_ids".to_owned(), ids_of(&tokens).into());
        if let Some(Value::Array(scopes)) = facts.get_mut("scopes") {
            scopes.iter_mut().for_each(|scope| *scope = plain_scope(scope.as_str().unwrap_or_default()).into());
        }
        facts
    }))
}

/// The facts that differ, before and after. The text of a note is left out, since it may hold anything.
fn differences(before: &Map<String, Value>, after: &Map<String, Value>) -> Map<String, Value> {
    let different = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let told = |(key, value): (&String, &Value)| {
        let told = match key.as_str() {
            "note" => "changed".into(),
            _ => json!({"before": before.get(key), "after": value}),
        };
        (key.clone(), told)
    };
    different.map(told).collect()
}

/// The scope that a word of the table means. The words of limited readers are others than those of all others, so that a
/// program that knows no limits lets no limited reader read.
fn plain_scope(word: &str) -> &str {
    match word {
        "limited_read" => "read",
        "limited_raw" => "raw",
        word => word,
    }
}

fn listed<T: ToString>(items: &[T]) -> Option<Vec<String>> {
    Some(items.iter().map(ToString::to_string).collect()).filter(|items: &Vec<String>| !items.is_empty())
}

fn bytes(digests: &[Digest]) -> Vec<&[u8]> {
    digests.iter().map(|digest| &digest.0[..]).collect()
}

fn violates(cause: &sqlx::Error, constraint: &str) -> bool {
    cause.as_database_error().and_then(|error| error.constraint()) == Some(constraint)
}
