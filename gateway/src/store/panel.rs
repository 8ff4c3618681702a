//! The codes and the sessions of the panel. The store has their digests alone, never a code, a cookie or a secret. The
//! clock of the database decides when they end.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use sqlx::PgConnection;

use super::{Error, Store, audit};
use crate::audit::{Action, Actor, Entry};

/// Most codes of an application that work at once. A further one ends the oldest.
const CODES_MAX: i64 = 10;
/// Most codes that an application gets within an hour. Each has an entry in the audit trail, and this bounds them.
const CODES_PER_HOUR_MAX: i64 = 60;
/// Most sessions of an application. A further one ends the one that was used least recently.
const SESSIONS_MAX: i64 = 20;
/// Most sessions that a gateway knows, the newest ones.
const SESSIONS_KNOWN_MAX: i64 = 10_000;
/// How long a session may last.
const SESSION_HOURS: i32 = 12;
/// How long a session may stay unused.
pub const SESSION_IDLE: Duration = Duration::from_secs(2 * 3_600);
/// A recorded last use is renewed only after this time.
const USE_NOTED_SECONDS: f64 = 55.0;

/// A session that is open.
#[derive(Clone, Debug, PartialEq)]
pub struct PanelSessionRow {
    /// SHA-256 of its cookie and its secret together.
    pub digest: Vec<u8>,
    /// The application for which it acts.
    pub application_id: i32,
    /// When it ends even if it is used.
    pub ends_at: DateTime<Utc>,
    /// The seconds until it ends if it is not used, by the database's clock.
    pub seconds_left: f64,
}

from_row!(PanelSessionRow { digest, application_id, ends_at, seconds_left });

/// A session that a code was exchanged for.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedIn {
    /// The application for which it acts.
    pub application_id: i32,
    /// The name of the application.
    pub name: String,
    /// When it ends even if it is used.
    pub ends_at: DateTime<Utc>,
}

from_row!(SignedIn { application_id, name, ends_at });

impl Store {
    /// Keeps a code for an application that a token identifies. `token` is the token that asked for the code: its end is
    /// the end of the session too. Without one the last end of the application's tokens counts. Returns when the code ends.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`] if no application of this name has such a token; [`Error::PanelCodesMany`].
    pub async fn panel_code_add(
        &self,
        name: &str,
        token: Option<Digest>,
        code: Digest,
        by: &Actor,
    ) -> Result<DateTime<Utc>, Error> {
        let entry = Entry::new(Action::PanelCode, name, by);
        let added = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let Some(id) = tokens_holder(&mut transaction, name, token).await? else {
                return Ok(Err(Error::ApplicationUnknown(name.to_owned())));
            };
            lock(&mut transaction, id).await?;
            let made: i64 = sqlx::query_scalar(
                "select count(*) from panel_codes where application_id = $1 and made_at > now() - interval '1 hour'",
            )
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
            if made >= CODES_PER_HOUR_MAX {
                return Ok(Err(Error::PanelCodesMany(name.to_owned())));
            }
            sqlx::query(
                "update panel_codes set expires_at = now() where digest in (select digest from panel_codes \
                     where application_id = $1 and used_at is null and expires_at > now() \
                     order by made_at desc, digest offset $2)",
            )
            .bind(id)
            .bind(CODES_MAX - 1)
            .execute(&mut *transaction)
            .await?;
            let expires_at: DateTime<Utc> = sqlx::query_scalar(
                "insert into panel_codes (digest, application_id, tokens_digest, sessions_end_at) \
                 select $1, id, sha256(array_send(token_digests)), \
                     (select case when bool_and(expires_at is not null) then max(expires_at) end \
                         from unnest(token_digests) live (digest) left join application_tokens using (digest) \
                         where $3::bytea is null or live.digest = $3) \
                 from applications where id = $2 returning expires_at",
            )
            .bind(&code.0[..])
            .bind(id)
            .bind(token.map(|token| token.0.to_vec()))
            .fetch_one(&mut *transaction)
            .await?;
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(Ok(expires_at))
        });
        let expires_at = added.await??;
        entry.log();
        Ok(expires_at)
    }

    /// Uses a code up for a session. Of several gateways that try at once, one succeeds. Returns `None` if the code is
    /// unknown, was used, has ended, or if its application has other tokens by now. `by` makes the actor of the audit
    /// trail of the application's name.
    pub async fn panel_sign_in(
        &self,
        code: Digest,
        session: Digest,
        by: impl Fn(&str) -> Actor,
    ) -> Result<Option<SignedIn>, Error> {
        let signed_in = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let made: Option<SignedIn> = sqlx::query_as(
                "with taken as (update panel_codes set used_at = now() \
                     where digest = $1 and used_at is null and expires_at > now() \
                     returning application_id, tokens_digest, sessions_end_at), \
                 made as (insert into panel_sessions (digest, application_id, tokens_digest, ends_at) \
                     select $2, applications.id, taken.tokens_digest, \
                         least(now() + make_interval(hours => $3), taken.sessions_end_at) \
                     from taken join applications on applications.id = taken.application_id \
                     where applications.active and applications.known_by <> 'network' \
                         and taken.tokens_digest = sha256(array_send(applications.token_digests)) \
                         and coalesce(taken.sessions_end_at > now(), true) \
                     returning application_id, ends_at) \
                 select application_id, applications.name, made.ends_at \
                 from made join applications on applications.id = made.application_id",
            )
            .bind(&code.0[..])
            .bind(&session.0[..])
            .bind(SESSION_HOURS)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some(made) = made else {
                // The code is used up, although it gave no session.
                transaction.commit().await?;
                return Ok(None);
            };
            lock(&mut transaction, made.application_id).await?;
            sqlx::query(
                "delete from panel_sessions where digest in (select digest from panel_sessions \
                     where application_id = $1 and digest <> $2 order by last_used_at desc, digest offset $3)",
            )
            .bind(made.application_id)
            .bind(&session.0[..])
            .bind(SESSIONS_MAX - 1)
            .execute(&mut *transaction)
            .await?;
            let entry = Entry::new(Action::PanelSignIn, &made.name, &by(&made.name));
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(Some((made, entry)))
        });
        Ok(signed_in.await?.map(|(made, entry)| {
            entry.log();
            made
        }))
    }

    /// Ends a session. Returns whether it was open.
    pub async fn panel_sign_out(&self, session: Digest, name: &str, by: &Actor) -> Result<bool, Error> {
        let entry = Entry::new(Action::PanelSignOut, name, by);
        let ended = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let query = sqlx::query("delete from panel_sessions where digest = $1").bind(&session.0[..]);
            if query.execute(&mut *transaction).await?.rows_affected() == 0 {
                return Ok(false);
            }
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(true)
        });
        let ended = ended.await?;
        if ended {
            entry.log();
        }
        Ok(ended)
    }

    /// Reads the open sessions. One whose application was suspended or revoked, or has other tokens by now, is not open.
    pub async fn panel_sessions(&self) -> Result<Vec<PanelSessionRow>, Error> {
        let query = sqlx::query_as(
            "select digest, application_id, ends_at, \
                 extract(epoch from least(ends_at, last_used_at + make_interval(secs => $1)) - now())::float8 as seconds_left \
             from panel_sessions join applications on applications.id = application_id \
             where active and known_by <> 'network' and tokens_digest = sha256(array_send(token_digests)) \
                 and ends_at > now() and last_used_at > now() - make_interval(secs => $1) \
             order by panel_sessions.made_at desc, digest limit $2",
        )
        .bind(SESSION_IDLE.as_secs_f64())
        .bind(SESSIONS_KNOWN_MAX);
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Records that sessions were used now. A use that any gateway recorded within the last minute stays.
    pub async fn note_panel_uses(&self, sessions: &[Digest]) -> Result<(), Error> {
        let query = sqlx::query(
            "update panel_sessions set last_used_at = now() \
             where digest = any($1) and last_used_at < now() - make_interval(secs => $2)",
        )
        .bind(sessions.iter().map(|digest| &digest.0[..]).collect::<Vec<_>>())
        .bind(USE_NOTED_SECONDS);
        self.ask(query.execute(&self.own)).await?;
        Ok(())
    }

    /// Removes codes and sessions that are over. Codes stay for an hour, since they are counted.
    pub async fn forget_panel(&self) -> Result<(), Error> {
        self.ask(async {
            sqlx::query("delete from panel_codes where made_at < now() - interval '1 hour'").execute(&self.own).await?;
            let query = sqlx::query(
                "delete from panel_sessions \
                 where ends_at <= now() or last_used_at <= now() - make_interval(secs => $1)",
            );
            query.bind(SESSION_IDLE.as_secs_f64()).execute(&self.own).await?;
            Ok(())
        })
        .await
    }
}

/// The id of the active application of this name that has a token which is not over: `token`, or any.
async fn tokens_holder(
    connection: &mut PgConnection,
    name: &str,
    token: Option<Digest>,
) -> Result<Option<i32>, sqlx::Error> {
    let query = sqlx::query_scalar(
        "select id from applications where name = $1 and active and known_by <> 'network' and exists ( \
             select from unnest(token_digests) live (digest) left join application_tokens using (digest) \
             where ($2::bytea is null or live.digest = $2) and coalesce(expires_at > now(), true))",
    );
    query.bind(name).bind(token.map(|token| token.0.to_vec())).fetch_optional(connection).await
}

/// Waits until no other transaction counts the codes or sessions of this application.
async fn lock(connection: &mut PgConnection, application_id: i32) -> Result<(), sqlx::Error> {
    let query = sqlx::query("select pg_advisory_xact_lock(hashtext('eye_panel'), $1)");
    query.bind(application_id).execute(connection).await?;
    Ok(())
}
