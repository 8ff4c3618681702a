//! Candidates in the database: the secret by which canaries choose sessions, what two modules say of the same events, summed
//! for all gateways, and the modules that the guard took back.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;

use super::fleet::asked_by;
use super::{Error, LIVING, Store, audit};
use crate::audit::{Action, Actor, Entry};

/// Which pairs are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairsKey {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The new module.
    pub digest: Digest,
    /// The module that it is compared with.
    pub against: Digest,
    /// `shadow`, `canary` or `replacement`.
    pub trial: &'static str,
    /// The share of a canary in thousandths of a percent; else 0.
    pub share: u32,
}

/// Counts of pairs, with the names of their columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Pairs {
    /// Both say the same.
    pub same: i64,
    /// The new module refuses what the old one takes.
    pub would_refuse: i64,
    /// The new module takes what the old one refuses or breaks on.
    pub would_take: i64,
    /// Both take it, with other data.
    pub amends_otherwise: i64,
    /// The new module breaks, and the old one does not.
    pub faulted: i64,
    /// There was no room or no time for one of them.
    pub not_compared: i64,
    /// What the old module refused, of what was compared.
    pub old_refused: i64,
    /// What the new module refused, of what was compared.
    pub new_refused: i64,
    /// What a canary judged for senders.
    pub judged: i64,
    /// Of these, what it refused.
    pub judged_refused: i64,
}

impl Pairs {
    /// Events that both judged.
    pub fn compared(&self) -> i64 {
        self.same + self.would_refuse + self.would_take + self.amends_otherwise + self.faulted
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.same += other.same;
        self.would_refuse += other.would_refuse;
        self.would_take += other.would_take;
        self.amends_otherwise += other.amends_otherwise;
        self.faulted += other.faulted;
        self.not_compared += other.not_compared;
        self.old_refused += other.old_refused;
        self.new_refused += other.new_refused;
        self.judged += other.judged;
        self.judged_refused += other.judged_refused;
    }
}

/// Pairs that a gateway has counted and not written yet.
#[derive(Clone, Debug)]
pub struct NewPairs {
    /// Which pairs they are.
    pub key: PairsKey,
    /// The counts.
    pub counts: Pairs,
    /// `compared` and `would_refuse` of each application.
    pub applications: Value,
    /// Events on which the two differ.
    pub samples: Vec<Value>,
}

/// The pairs of all gateways.
#[derive(Clone, Debug)]
pub struct PairsRow {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The new module.
    pub digest: Vec<u8>,
    /// The module that it is compared with.
    pub against: Vec<u8>,
    /// `shadow`, `canary` or `replacement`.
    pub trial: String,
    /// The share of a canary; else 0.
    pub percent: f64,
    /// The counts.
    pub counts: Json<Pairs>,
    /// `compared` and `would_refuse` of each application.
    pub applications: Json<Value>,
    /// Events on which the two differ.
    pub samples: Json<Value>,
    /// When the first of them was counted.
    pub since: DateTime<Utc>,
}

from_row!(PairsRow { event_type, digest, against, trial, percent, counts, applications, samples, since });

/// A module that the guard takes back.
#[derive(Clone, Debug)]
pub struct TakeBack<'a> {
    /// Which pairs speak against it.
    pub key: &'a PairsKey,
    /// The word of the reason.
    pub code: &'static str,
    /// The reason for people.
    pub reason: &'a str,
    /// The counts by which the guard decided.
    pub counts: &'a Pairs,
}

impl TakeBack<'_> {
    /// Events of senders that it had refused by then, as far as they were compared.
    pub fn refused(&self) -> i64 {
        match self.key.trial {
            "canary" => self.counts.judged_refused,
            "replacement" => self.counts.new_refused,
            _ => 0,
        }
    }
}

/// A module that the guard took back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBackRow {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The module.
    pub digest: Vec<u8>,
    /// When.
    pub at: DateTime<Utc>,
    /// How it was tried: `shadow`, `canary` or `replacement`.
    pub trial: String,
    /// The word of the reason.
    pub code: String,
    /// The reason for people.
    pub reason: String,
    /// The counts by which the guard decided.
    pub counts: Json<Value>,
    /// Events of senders that it had refused by then, as far as they were compared.
    pub refused: i64,
    /// The module that serves since.
    pub serves: Option<Vec<u8>>,
}

from_row!(TakenBackRow { event_type, digest, at, trial, code, reason, counts, refused, serves });

/// A version of an event type for the time in which it served.
#[derive(Clone, Debug)]
pub struct ServedRow {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The module; `None` while there was none.
    pub digest: Option<Vec<u8>>,
    /// Its last settings.
    pub settings: Option<String>,
    /// How many seconds ago it began to serve.
    pub age_s: f64,
    /// Somebody, or the guard, put it back on purpose.
    pub is_put_back: bool,
    /// More refusals than before were meant.
    pub is_expected: bool,
    /// The guard took it back.
    pub is_taken_back: bool,
}

from_row!(ServedRow { event_type, digest, settings, age_s, is_put_back, is_expected, is_taken_back });

/// A candidate of the current generation.
#[derive(Clone, Debug)]
pub struct CandidateRow {
    /// The module.
    pub digest: Vec<u8>,
    /// Its settings, which say how it is tried.
    pub settings: Option<String>,
    /// When the generation was made that tries it in this way.
    pub since: DateTime<Utc>,
    /// Who shipped the module.
    pub made_by: String,
}

from_row!(CandidateRow { digest, settings, since, made_by });

/// A candidate with how far its step is.
#[derive(Clone, Debug)]
pub struct SteppedRow {
    /// The event type, as its file would be named.
    pub event_type: String,
    /// The name of the candidate's slot.
    pub slot: String,
    /// The candidate.
    pub digest: Vec<u8>,
    /// Its settings, with its steps.
    pub settings: Option<String>,
    /// The module that serves.
    pub serves: Option<Vec<u8>>,
    /// Its settings.
    pub serves_settings: Option<String>,
    /// How long it has been tried in this way.
    pub seconds: f64,
    /// Events that were compared meanwhile.
    pub compared: i64,
    /// A change of it waits for gateways, or came to nothing a moment ago.
    pub is_busy: bool,
}

from_row!(SteppedRow { event_type, slot, digest, settings, serves, serves_settings, seconds, compared, is_busy });

// A candidate may be older than the oldest generation that is kept.
const STEPPED: &str = "select event_type_of(tried.event_type) as event_type, tried.event_type as slot, tried.digest, \
         tried.settings, live.digest as serves, live.settings as serves_settings, \
         extract(epoch from clock_timestamp() - tried.since)::float8 as seconds, \
         coalesce((select sum(same + would_refuse + would_take + amends_otherwise + faulted) from candidate_pairs pairs \
             where pairs.event_type = event_type_of(tried.event_type) and pairs.digest = tried.digest \
                 and pairs.against = live.digest and trial <> 'replacement' and pairs.since >= tried.since), 0 \
         )::bigint as compared, \
         exists (select from preparations join preparation_slots slots on slots.preparation_id = preparations.id \
             where slots.event_type = tried.event_type and (state = 'preparing' \
                 or state <> 'active' and cause = 'promote' and asked_at > clock_timestamp() - interval '1 minute') \
         ) as is_busy \
     from ( \
         select distinct on (event_type) event_type, digest, settings, \
             coalesce(made_at, (select min(made_at) from generations)) as since \
         from generation_changes left join generations using (number) \
         where starts_with(event_type, candidate_name('')) order by event_type, number desc \
     ) tried left join lateral ( \
         select digest, settings from generation_changes changes \
         where changes.event_type = event_type_of(tried.event_type) order by number desc limit 1 \
     ) live on true \
     where tried.digest is not null and position('auto' in coalesce(tried.settings, '')) > 0";

// In the order of their keys, so that two gateways never wait for each other.
const ADD: &str = "insert into candidate_pairs as pairs (event_type, digest, against, trial, percent, same, would_refuse, \
         would_take, amends_otherwise, faulted, not_compared, old_refused, new_refused, judged, judged_refused, \
         applications, samples) \
     select event_type, decode(digest, 'hex'), decode(against, 'hex'), trial, share / 1000.0, same, would_refuse, \
         would_take, amends_otherwise, faulted, not_compared, old_refused, new_refused, judged, judged_refused, \
         applications, samples \
     from jsonb_to_recordset($1) new_pairs (event_type text, digest text, against text, trial text, \
         share double precision, same bigint, would_refuse bigint, would_take bigint, amends_otherwise bigint, \
         faulted bigint, not_compared bigint, old_refused bigint, new_refused bigint, judged bigint, \
         judged_refused bigint, applications jsonb, samples jsonb) \
     order by 1, 2, 3, 4, 5 \
     on conflict (event_type, digest, against, trial, percent) do update set \
         same = pairs.same + excluded.same, \
         would_refuse = pairs.would_refuse + excluded.would_refuse, \
         would_take = pairs.would_take + excluded.would_take, \
         amends_otherwise = pairs.amends_otherwise + excluded.amends_otherwise, \
         faulted = pairs.faulted + excluded.faulted, \
         not_compared = pairs.not_compared + excluded.not_compared, \
         old_refused = pairs.old_refused + excluded.old_refused, \
         new_refused = pairs.new_refused + excluded.new_refused, \
         judged = pairs.judged + excluded.judged, \
         judged_refused = pairs.judged_refused + excluded.judged_refused, \
         applications = add_applications(pairs.applications, excluded.applications), \
         samples = add_samples(pairs.samples, excluded.samples), \
         changed_at = clock_timestamp() \
     returning event_type, digest, against, trial, percent, applications, '[]'::jsonb as samples, since, \
         jsonb_build_object('same', same, 'would_refuse', would_refuse, 'would_take', would_take, \
             'amends_otherwise', amends_otherwise, 'faulted', faulted, 'not_compared', not_compared, \
             'old_refused', old_refused, 'new_refused', new_refused, 'judged', judged, \
             'judged_refused', judged_refused) as counts";

const PAIRS: &str = "select event_type, digest, against, trial, percent, applications, samples, since, \
         jsonb_build_object('same', same, 'would_refuse', would_refuse, 'would_take', would_take, \
             'amends_otherwise', amends_otherwise, 'faulted', faulted, 'not_compared', not_compared, \
             'old_refused', old_refused, 'new_refused', new_refused, 'judged', judged, \
             'judged_refused', judged_refused) as counts \
     from candidate_pairs where event_type = $1 and digest = $2 order by changed_at desc limit 100";

const TAKEN_BACK: &str = "select event_type, digest, at, trial, code, reason, counts, refused, serves \
     from taken_back where event_type = $1 order by at desc limit 100";

impl Store {
    /// The secret by which canaries choose sessions.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn canary_key(&self) -> Result<[u8; 32], Error> {
        let query = sqlx::query_scalar("select secret from canary_secret");
        let secret: Vec<u8> = self.ask(query.fetch_one(&self.own)).await?;
        // 32 bytes, whatever its length.
        Ok(Digest::of(&secret).0)
    }

    /// Adds pairs to those of all gateways. Returns the sums, without samples.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn add_pairs(&self, pairs: &[NewPairs]) -> Result<Vec<PairsRow>, Error> {
        let rows = pairs.iter().map(|NewPairs { key, counts, applications, samples }| {
            let mut row = json!(counts);
            row["event_type"] = key.event_type.as_str().into();
            row["digest"] = key.digest.to_string().into();
            row["against"] = key.against.to_string().into();
            row["trial"] = key.trial.into();
            row["share"] = key.share.into();
            row["applications"] = applications.clone();
            row["samples"] = samples.as_slice().into();
            row
        });
        let query = sqlx::query_as(ADD).bind(Json(rows.collect::<Value>()));
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Forgets what was compared in earlier trials of a module, since a new one begins. `noted` is how long ago this gateway's
    /// last one ended: what began since then is a trial that another gateway counts, and goes on. Without it, so does what
    /// somebody counted within an hour.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn begin_trial(&self, event_type: &str, digest: Digest, noted: Option<Duration>) -> Result<(), Error> {
        let query = sqlx::query(
            "delete from candidate_pairs where event_type = $1 and digest = $2 and trial <> 'replacement' \
                 and case when $3::float8 is null then changed_at < clock_timestamp() - interval '1 hour' \
                     else since < clock_timestamp() - make_interval(secs => $3) end",
        )
        .bind(event_type)
        .bind(digest.0.to_vec())
        .bind(noted.map(|age| age.as_secs_f64()));
        self.ask(query.execute(&self.own)).await.map(drop)
    }

    /// The pairs of a module.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn pairs_of(&self, event_type: &str, digest: Digest) -> Result<Vec<PairsRow>, Error> {
        let query = sqlx::query_as(PAIRS).bind(event_type).bind(digest.0.to_vec());
        self.ask(query.fetch_all(&self.own)).await
    }

    /// The candidate of an event type in the current generation.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn candidate(&self, event_type: &str) -> Result<Option<CandidateRow>, Error> {
        let query = sqlx::query_as(
            "select newest.digest, settings, coalesce(made_at, (select min(made_at) from generations)) as since, \
                 coalesce(shipped_by, made_by, '') as made_by from ( \
                 select number, digest, settings from generation_changes where event_type = candidate_name($1) \
                 order by number desc limit 1 \
             ) newest left join generations using (number) \
             left join module_versions versions on versions.event_type = $1 and versions.digest = newest.digest \
             where newest.digest is not null",
        )
        .bind(event_type);
        self.ask(query.fetch_optional(&self.own)).await
    }

    /// The candidates that may be promoted by themselves.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn stepped_candidates(&self) -> Result<Vec<SteppedRow>, Error> {
        self.ask(sqlx::query_as(STEPPED).fetch_all(&self.own)).await
    }

    /// Takes a module back, unless it is not in its slot any more. Returns the generation that does it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn take_back(&self, back: &TakeBack<'_>) -> Result<Option<u64>, Error> {
        let TakeBack { key, code, reason, counts } = *back;
        let actor = Actor::gateway();
        let query = sqlx::query_scalar("select take_back($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
            .bind(&key.event_type)
            .bind(key.digest.0.to_vec())
            .bind(key.against.0.to_vec())
            .bind(key.trial)
            .bind(code)
            .bind(reason)
            .bind(Json(counts))
            .bind(back.refused())
            .bind(Json(asked_by(&actor)))
            .bind(LIVING);
        let made: Option<i64> = self.ask(query.fetch_one(&self.own)).await?;
        if made.is_some() {
            let entry = Entry::new(Action::Guard, &key.event_type, &actor);
            entry.with("digest", key.digest.to_string()).with("reason", reason).log();
        }
        Ok(made.and_then(|number| u64::try_from(number).ok()))
    }

    /// The versions that served the event types whose module changed within a time, by event type, the newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn served_lately(&self, within: Duration) -> Result<Vec<ServedRow>, Error> {
        let query = sqlx::query_as(
            "select event_type, digest, settings, extract(epoch from age)::float8 as age_s, is_put_back, is_expected, \
                 is_taken_back \
             from served_lately(make_interval(secs => $1)) order by event_type, place",
        )
        .bind(within.as_secs_f64());
        self.ask(query.fetch_all(&self.own)).await
    }

    /// Forgets what a module said beside the one that it replaced, if no gateway added to it for a time: that was an earlier
    /// time of the same module.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn forget_replacement_before(
        &self,
        event_type: &str,
        digest: Digest,
        age: Duration,
    ) -> Result<(), Error> {
        let query = sqlx::query(
            "delete from candidate_pairs where event_type = $1 and digest = $2 and trial = 'replacement' \
                 and changed_at < clock_timestamp() - make_interval(secs => $3)",
        )
        .bind(event_type)
        .bind(digest.0.to_vec())
        .bind(age.as_secs_f64());
        self.ask(query.execute(&self.own)).await.map(drop)
    }

    /// Notes that a file of the modules directory was taken back. Returns the row.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn note_taken_back(&self, back: &TakeBack<'_>) -> Result<TakenBackRow, Error> {
        let TakeBack { key, code, reason, counts } = *back;
        let entry = Entry::new(Action::Guard, &key.event_type, &Actor::gateway())
            .with("digest", key.digest.to_string())
            .with("trial", key.trial)
            .with("code", code)
            .with("reason", reason)
            .with("serves", key.against.to_string())
            .with("refused", back.refused());
        let note = async {
            let mut transaction = self.own.begin().await?;
            let row = sqlx::query_as(
                "insert into taken_back (event_type, digest, trial, code, reason, counts, refused, serves) \
                 values ($1, $2, $3, $4, left($5, 1000), $6, $7, $8) \
                 on conflict (event_type, digest) do update set at = clock_timestamp(), trial = excluded.trial, \
                     code = excluded.code, reason = excluded.reason, counts = excluded.counts, \
                     refused = excluded.refused, serves = excluded.serves \
                 returning event_type, digest, at, trial, code, reason, counts, refused, serves",
            )
            .bind(&key.event_type)
            .bind(key.digest.0.to_vec())
            .bind(key.trial)
            .bind(code)
            .bind(reason)
            .bind(Json(counts))
            .bind(back.refused())
            .bind(key.against.0.to_vec())
            .fetch_one(&mut *transaction)
            .await?;
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(row)
        };
        let row = self.ask(note).await?;
        entry.log();
        Ok(row)
    }

    /// How many dead letters a module left that were not redriven, a hundred thousand at most, and how many of them have no
    /// bytes to judge again.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn letters_of_module(&self, digest: Digest) -> Result<(i64, i64), Error> {
        let query = sqlx::query_as(
            "select count(*), count(*) filter (where raw is null) from ( \
                 select raw from dead_letters where redriven_at is null \
                     and module_id = (select id from modules where digest = $1) limit 100000 \
             ) letters",
        )
        .bind(digest.0.to_vec());
        self.ask(query.fetch_one(&self.own)).await
    }

    /// Forgets that a file of the modules directory was taken back, and what it said, since somebody forces it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn lift_taken_back(&self, event_type: &str, digest: Digest) -> Result<(), Error> {
        let query = sqlx::query(
            "with lifted as (delete from taken_back where event_type = $1 and digest = $2) \
             delete from candidate_pairs where event_type = $1 and digest = $2",
        )
        .bind(event_type)
        .bind(digest.0.to_vec());
        self.ask(query.execute(&self.own)).await.map(drop)
    }

    /// The modules of an event type that the guard took back, the latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn taken_back(&self, event_type: &str) -> Result<Vec<TakenBackRow>, Error> {
        self.ask(sqlx::query_as(TAKEN_BACK).bind(event_type).fetch_all(&self.own)).await
    }
}
