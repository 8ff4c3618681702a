//! Tokens as the database knows them: which of an application's live, until when, and when each was last used. The tokens
//! themselves never come here, only their digests.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;

use super::{Error, Store};

/// How long an older token counts as in use after it was last used, so that a rotation does not end it.
const IN_USE_HOURS: f64 = 24.0;
/// How old what is known of a token's last use must be before it is written anew.
const USE_NOTED_SECONDS: f64 = 55.0;

/// When a token is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// So long after now.
    After(Duration),
    /// Then.
    At(DateTime<Utc>),
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFacts {
    /// Its SHA-256.
    pub digest: Vec<u8>,
    /// When it was made, if that is known.
    pub created_at: Option<DateTime<Utc>>,
    /// From when on it opens nothing.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was used, to a minute or so.
    pub last_used_at: Option<DateTime<Utc>>,
    /// What is left of its time by the database's clock; below zero once it is over.
    pub seconds_left: Option<f64>,
    /// How long ago it was used, by the same clock.
    pub seconds_unused: Option<f64>,
}

from_row!(TokenFacts { digest, created_at, expires_at, last_used_at, seconds_left, seconds_unused });

impl TokenFacts {
    /// Whether its time is over.
    pub fn is_expired(&self) -> bool {
        self.seconds_left.is_some_and(|left| left <= 0.0)
    }
}

const FACTS: &str = "select digest, created_at, expires_at, last_used_at, \
     extract(epoch from expires_at - now())::float8 as seconds_left, \
     extract(epoch from now() - last_used_at)::float8 as seconds_unused from application_tokens";

/// What becomes of the live tokens when another one is made.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// These live on beside it, the oldest first.
    Keep(Vec<Vec<u8>>),
    /// Two are in use, and a third would end one of them.
    BothInUse,
}

/// Decides which tokens live on. The answer to the rotation before may have been lost, so a newest token that nobody has used
/// makes room, and the one before it stays; an older one makes room once it has not been used for a day.
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

impl Store {
    /// What is known of the tokens that applications have or had.
    pub(super) async fn token_facts(&self) -> Result<Vec<TokenFacts>, Error> {
        self.ask(sqlx::query_as(FACTS).fetch_all(&self.own)).await
    }

    /// The time at which a token that is made now ends.
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

    /// Gives an application a new token beside the one that is in use; at most two live at once. The same again, after an answer
    /// that was lost, replaces the token that nobody has used. An application that is known by its network alone has no use for
    /// one.
    ///
    /// # Errors
    ///
    /// [`Error::ApplicationUnknown`]; [`Error::TokensInUse`] when it has two that were both used of late.
    pub async fn application_rotate(
        &self,
        name: &str,
        token: Digest,
        expires_at: Option<DateTime<Utc>>,
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
            // Constant parts alone: no name and no token is ever part of the text.
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
            // Nothing is kept of tokens that even the list of those that ended has forgotten.
            sqlx::query(
                "delete from application_tokens using applications where applications.id = $1 \
                 and application_tokens.application_id = $1 \
                 and application_tokens.digest <> all(applications.token_digests || applications.retired_token_digests)",
            )
            .bind(id)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(Ok(()))
        });
        rotated.await?
    }

    /// Ends all tokens of an application but the newest whose time is not over: the second half of a rotation.
    pub async fn application_expire(&self, name: &str) -> Result<(), Error> {
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
        self.changed_one(name, query).await
    }

    /// Notes that tokens were used now. What was noted within the last minute is left as it is, whichever gateway did it.
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

    /// Ends the tokens whose time is over for programs of the release before too, which know no such time.
    pub async fn retire_expired(&self) -> Result<(), Error> {
        let query = sqlx::query(
            "update applications set \
                 token_digests = array(select live.digest from unnest(token_digests) with ordinality live (digest, place) \
                     where live.digest <> all(ended.digests) order by live.place), \
                 retired_token_digests = (ended.digests || retired_token_digests)[:16] \
             from (select application_id, array_agg(digest) as digests from application_tokens \
                 where expires_at <= now() group by application_id) ended \
             where applications.id = ended.application_id and applications.token_digests && ended.digests",
        );
        self.ask(query.execute(&self.own)).await?;
        Ok(())
    }
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
