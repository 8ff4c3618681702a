//! The facts about tokens: which of an application's tokens are live, when each expires, and when it was last used. The
//! store has digests of tokens, never tokens.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;

use super::{Error, Store, audit};
use crate::audit::{Action, Actor, Entry};
use crate::trust::token::id_of;

/// An older token counts as in use for this long after its last use, so that a rotation does not end it.
const IN_USE_HOURS: f64 = 24.0;
/// A recorded last use is renewed only after this time.
const USE_NOTED_SECONDS: f64 = 55.0;

/// The end of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// After this time from now.
    After(Duration),
    /// At this time.
    At(DateTime<Utc>),
}

/// The facts about a token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFacts {
    /// SHA-256 of the token.
    pub digest: Vec<u8>,
    /// When it was made, if that is known.
    pub created_at: Option<DateTime<Utc>>,
    /// When it expires.
    pub expires_at: Option<DateTime<Utc>>,
    /// The last recorded use, accurate to about a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// The seconds until it expires by the database's clock; below zero once it has expired.
    pub seconds_left: Option<f64>,
    /// The seconds since its last use, by the same clock.
    pub seconds_unused: Option<f64>,
}

from_row!(TokenFacts { digest, created_at, expires_at, last_used_at, seconds_left, seconds_unused });

impl TokenFacts {
    /// Whether it has expired.
    pub fn is_expired(&self) -> bool {
        self.seconds_left.is_some_and(|left| left <= 0.0)
    }

    /// Whether it was used within a day.
    fn is_in_use(&self) -> bool {
        self.seconds_unused.is_some_and(|unused| unused < IN_USE_HOURS * 3_600.0)
    }
}

const FACTS: &str = "select digest, created_at, expires_at, last_used_at, \
     extract(epoch from expires_at - now())::float8 as seconds_left, \
     extract(epoch from now() - last_used_at)::float8 as seconds_unused from application_tokens";

/// The result of a rotation for the live tokens.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// These stay live beside the new one, the oldest first.
    Keep(Vec<Vec<u8>>),
    /// Both are in use, and a third one would end one of them.
    BothInUse,
}

/// Decides which tokens stay live. The answer to the last rotation may have been lost, so an unused newest token is
/// replaced and the older one stays. Otherwise the older one is replaced, if it was not used for a day.
fn turn(live: &[Vec<u8>], facts: &[TokenFacts]) -> Turn {
    let of = |digest: &Vec<u8>| facts.iter().find(|facts| facts.digest == *digest);
    let unexpired: Vec<&Vec<u8>> =
        live.iter().filter(|digest| !of(digest).is_some_and(TokenFacts::is_expired)).collect();
    let unused_seconds = |digest: &Vec<u8>| of(digest).and_then(|facts| facts.seconds_unused);
    let [.., older, newest] = &unexpired[..] else {
        return Turn::Keep(unexpired.iter().map(|digest| (*digest).clone()).collect());
    };
    match (unused_seconds(older), unused_seconds(newest)) {
        (_, None) => Turn::Keep(vec![(*older).clone()]),
        (Some(unused), Some(_)) if unused < IN_USE_HOURS * 3_600.0 => Turn::BothInUse,
        (_, Some(_)) => Turn::Keep(vec![(*newest).clone()]),
    }
}

/// When the first of the live tokens that are in use ends; of tokens that nobody uses, when the last one ends. `None` when
/// that has no end.
pub(super) fn first_end(live: &[Vec<u8>], facts: &[TokenFacts]) -> Option<DateTime<Utc>> {
    let live = || live.iter().map(|digest| facts.iter().find(|facts| facts.digest == *digest));
    let used: Vec<&TokenFacts> = live().flatten().filter(|facts| facts.is_in_use()).collect();
    if !used.is_empty() {
        return used.into_iter().filter_map(|facts| facts.expires_at).min();
    }
    let ends: Option<Vec<_>> = live().map(|facts| facts?.expires_at).collect();
    ends?.into_iter().max()
}

impl Store {
    /// Reads the facts about all tokens that applications have or had.
    pub(super) async fn token_facts(&self) -> Result<Vec<TokenFacts>, Error> {
        self.ask(sqlx::query_as(FACTS).fetch_all(&self.own)).await
    }

    /// The time at which a token that is made now expires.
    ///
    /// # Errors
    ///
    /// [`Error::ExpiryPassed`].
    pub async fn expires_at(&self, expiry: Expiry) -> Result<DateTime<Utc>, Error> {
        let (at, after) = match expiry {
            Expiry::At(at) => (Some(at), None),
            Expiry::After(after) => (None, Some(after.as_secs_f64())),
        };
        let query = sqlx::query_as(
            "select ends.at, ends.at > now() \
             from (select coalesce($1, now() + make_interval(secs => $2)) as at) ends",
        )
        .bind(at)
        .bind(after);
        let (at, is_ahead): (DateTime<Utc>, bool) = self.ask(query.fetch_one(&self.own)).await?;
        if is_ahead { Ok(at) } else { Err(Error::ExpiryPassed) }
    }

    /// Gives an application a new token beside the one in use; at most two are live. A repeated call, after a lost
    /// answer, replaces the token that was never used. An application that its network alone identifies gets no token.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`]; [`Error::TokensInUse`] if it has two tokens that were both used recently.
    pub async fn application_rotate(
        &self,
        name: &str,
        token: Digest,
        expires_at: Option<DateTime<Utc>>,
        by: &Actor,
    ) -> Result<(), Error> {
        let unknown = || Error::ApplicationUnknown(name.to_owned());
        let rotated = self.ask(async {
            let mut transaction = self.own.begin().await?;
            let found: Option<(i32, Vec<Vec<u8>>)> = sqlx::query_as(
                "select id, token_digests from applications \
                 where name = $1 and active and known_by <> 'network' for update",
            )
            .bind(name)
            .fetch_optional(&mut *transaction)
            .await?;
            let Some((id, live)) = found else { return Ok(Err(unknown())) };
            // The text has constant parts only, never a name or a token.
            let facts: Vec<TokenFacts> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{FACTS} where digest = any($1)")))
                .bind(&live)
                .fetch_all(&mut *transaction)
                .await?;
            let kept = match turn(&live, &facts) {
                Turn::Keep(kept) => kept,
                Turn::BothInUse => return Ok(Err(Error::TokensInUse(name.to_owned()))),
            };
            let ended: Vec<Vec<u8>> = live.iter().rev().filter(|digest| !kept.contains(digest)).cloned().collect();
            let made = [&kept[..], &[token.0.to_vec()]].concat();
            sqlx::query(
                "update applications set token_digests = $2, \
                     retired_token_digests = ($3::bytea[] || retired_token_digests)[:16] where id = $1",
            )
            .bind(id)
            .bind(&made)
            .bind(&ended)
            .execute(&mut *transaction)
            .await?;
            sqlx::query(
                "insert into application_tokens (digest, application_id, expires_at) values ($1, $2, $3) \
                 on conflict (digest) do nothing",
            )
            .bind(&token.0[..])
            .bind(id)
            .bind(expires_at)
            .execute(&mut *transaction)
            .await?;
            // Removes the facts about tokens that are no longer in the list of ended ones.
            sqlx::query(
                "delete from application_tokens using applications where applications.id = $1 \
                 and application_tokens.application_id = $1 \
                 and application_tokens.digest <> all(applications.token_digests || applications.retired_token_digests)",
            )
            .bind(id)
            .execute(&mut *transaction)
            .await?;
            let entry = Entry::new(Action::ApplicationRotate, name, by)
                .with("token_id", id_of(token))
                .with("expires_at", expires_at.map(|at| at.to_rfc3339()))
                .with("ended", Some(ids_of(&ended)).filter(|ended| !ended.is_empty()));
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(Ok(entry))
        });
        rotated.await??.log();
        Ok(())
    }

    /// Ends all tokens of an application except the newest that has not expired: the second half of a rotation.
    pub async fn application_expire(&self, name: &str, by: &Actor) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set token_digests = kept.digests, \
                 retired_token_digests = (array(select ended from unnest(token_digests) ended \
                     where ended <> all(kept.digests)) || retired_token_digests)[:16] \
             from (select id, array(select live.digest from unnest(token_digests) with ordinality live (digest, place) \
                     where not exists (select from application_tokens \
                         where application_tokens.digest = live.digest and application_tokens.expires_at <= now()) \
                     order by live.place desc limit 1) as digests \
                 from applications where name = $1) kept \
             where applications.id = kept.id and active and known_by <> 'network'",
        )
        .bind(name);
        self.changed_one(query, Entry::new(Action::ApplicationExpire, name, by)).await
    }

    /// Records that tokens were used now. A use that any gateway recorded within the last minute stays.
    pub async fn note_uses(&self, uses: &[(Digest, i32)]) -> Result<(), Error> {
        let (digests, applications): (Vec<&[u8]>, Vec<i32>) =
            uses.iter().map(|(digest, id)| (&digest.0[..], *id)).unzip();
        let query = sqlx::query(
            "insert into application_tokens (digest, application_id, created_at, last_used_at) \
             select used.digest, used.application_id, null, now() \
             from unnest($1::bytea[], $2::integer[]) used (digest, application_id) \
             on conflict (digest) do update set last_used_at = excluded.last_used_at \
             where application_tokens.last_used_at is null \
                 or application_tokens.last_used_at < now() - make_interval(secs => $3)",
        )
        .bind(digests)
        .bind(applications)
        .bind(USE_NOTED_SECONDS);
        self.ask(query.execute(&self.own)).await?;
        Ok(())
    }

    /// Ends expired tokens in the rows of applications too, since programs of the last release know no expiry.
    pub async fn retire_expired(&self) -> Result<(), Error> {
        let query = sqlx::query_scalar(
            "with ended as (select application_id, array_agg(digest) as digests from application_tokens \
                 where expires_at <= now() group by application_id), \
             retired as (update applications set \
                 token_digests = array(select live.digest from unnest(token_digests) with ordinality live (digest, place) \
                     where live.digest <> all(ended.digests) order by live.place), \
                 retired_token_digests = (ended.digests || retired_token_digests)[:16] \
             from ended \
             where applications.id = ended.application_id and applications.token_digests && ended.digests \
             returning name) \
             select name from retired, note_audit($1, name, '{\"over\": true}')",
        )
        .bind(Action::ApplicationExpire.as_str());
        let retired: Vec<String> = self.ask(query.fetch_all(&self.own)).await?;
        retired.iter().for_each(|name| self.log_noted(Action::ApplicationExpire, name));
        Ok(())
    }
}

/// The ids of tokens, from their digests.
pub(super) fn ids_of(digests: &[Vec<u8>]) -> Vec<String> {
    digests.iter().filter_map(|digest| digest[..].try_into().ok()).map(|digest| id_of(Digest(digest))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(digest: u8, left: Option<f64>, unused: Option<f64>) -> TokenFacts {
        TokenFacts {
            digest: vec![digest],
            created_at: None,
            expires_at: None,
            last_used_at: None,
            seconds_left: left,
            seconds_unused: unused,
        }
    }

    #[test]
    fn the_first_end_of_tokens_in_use_counts_and_otherwise_the_last_end() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a time");
        let token =
            |digest, end: Option<i64>, unused| TokenFacts { expires_at: end.map(at), ..facts(digest, None, unused) };
        let (fresh, old) = (Some(5.0), Some(90_000.0));
        let live = [vec![1], vec![2]];
        let both = |first, second| first_end(&live, &[first, second]);
        assert_eq!(first_end(&[], &[]), None);
        assert_eq!(first_end(&live, &[token(1, Some(7), fresh)]), Some(at(7)), "nothing is known of the other");
        assert_eq!(first_end(&live, &[token(1, Some(7), old)]), None, "the other has no end");
        assert_eq!(both(token(1, Some(7), fresh), token(2, None, None)), Some(at(7)));
        assert_eq!(both(token(1, Some(7), fresh), token(2, Some(5), fresh)), Some(at(5)));
        assert_eq!(both(token(1, Some(7), old), token(2, None, fresh)), None, "its senders have changed over");
        assert_eq!(both(token(1, Some(7), None), token(2, Some(5), None)), Some(at(7)));
    }

    #[test]
    fn a_rotation_ends_no_token_that_is_in_use() {
        let (fresh, old) = (Some(5.0), Some(90_000.0));
        let after = |first: Option<f64>, second: Option<f64>| {
            turn(&[vec![1], vec![2]], &[facts(1, None, first), facts(2, Some(60.0), second)])
        };
        let keep = |digests: &[u8]| Turn::Keep(digests.iter().map(|digest| vec![*digest]).collect());
        assert_eq!(turn(&[], &[]), keep(&[]));
        assert_eq!(turn(&[vec![1]], &[]), keep(&[1]));
        assert_eq!(turn(&[vec![1], vec![2]], &[]), keep(&[1]), "of which nothing is known");
        assert_eq!(after(fresh, None), keep(&[1]), "the newest was never used: its answer may have been lost");
        assert_eq!(after(None, None), keep(&[1]));
        assert_eq!(after(None, fresh), keep(&[2]));
        assert_eq!(after(old, fresh), keep(&[2]), "the senders have changed over");
        assert_eq!(after(fresh, fresh), Turn::BothInUse);
        assert_eq!(after(fresh, old), Turn::BothInUse);
        let expired = [facts(1, Some(-1.0), fresh), facts(2, None, fresh)];
        assert_eq!(turn(&[vec![1], vec![2]], &expired), keep(&[2]));
        let expired = [facts(1, None, fresh), facts(2, Some(0.0), fresh)];
        assert_eq!(turn(&[vec![1], vec![2]], &expired), keep(&[1]));
    }
}
