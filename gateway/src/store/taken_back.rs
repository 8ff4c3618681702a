//! The list of what was taken back, for the notes in the data dirs of gateways: what is listed, what somebody lifted, and a
//! mark that changes with both.

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;

use super::{Error, Store, TakenBackRow, audit};
use crate::audit::{Action, Actor, Entry};

/// Modules of a list. It is for a person to read, so no database has so many.
const LISTED_MAX: i64 = 10_000;

/// What was taken back, and what was lifted.
#[derive(Clone, Debug)]
pub struct TakenBackList {
    /// Changes when anything of it does.
    pub mark: String,
    /// The modules that are taken back, the latest first.
    pub rows: Vec<TakenBackRow>,
    /// Event types and digests of what is so no more, since somebody forced it, and when. The latest first.
    pub lifted: Vec<(String, Vec<u8>, DateTime<Utc>)>,
    /// There are more rows than this.
    pub is_cut: bool,
}

const MARK: &str = "select coalesce(md5(string_agg(one, '' order by one)), '') from ( \
         select event_type || ' ' || encode(digest, 'hex') || ' ' || at from taken_back \
         union all select event_type || ' ' || encode(digest, 'hex') || ' lifted ' || at from lifted \
     ) marks (one)";

impl Store {
    /// What was taken back and what was lifted; `None` if the mark is still this one.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn taken_back_list(&self, known: Option<&str>) -> Result<Option<TakenBackList>, Error> {
        // The mark is read first, so what changes meanwhile is read again.
        let mark: String = self.ask(sqlx::query_scalar(MARK).fetch_one(&self.own)).await?;
        if known == Some(&mark) {
            return Ok(None);
        }
        let rows = sqlx::query_as(
            "select event_type, digest, at, trial, code, reason, counts, refused, serves \
             from taken_back order by at desc limit $1",
        );
        let rows: Vec<TakenBackRow> = self.ask(rows.bind(LISTED_MAX).fetch_all(&self.own)).await?;
        let lifted = sqlx::query_as("select event_type, digest, at from lifted order by at desc limit $1");
        let lifted = self.ask(lifted.bind(LISTED_MAX).fetch_all(&self.own)).await?;
        let is_cut = i64::try_from(rows.len()).unwrap_or(LISTED_MAX) >= LISTED_MAX;
        Ok(Some(TakenBackList { mark, rows, lifted, is_cut }))
    }

    /// What was taken back of these modules, each with its event type.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn taken_back_among(&self, modules: &[(String, Digest)]) -> Result<Vec<TakenBackRow>, Error> {
        if modules.is_empty() {
            return Ok(Vec::new());
        }
        let (event_types, digests): (Vec<String>, Vec<Vec<u8>>) =
            modules.iter().map(|(event_type, digest)| (event_type.clone(), digest.0.to_vec())).unzip();
        let query = sqlx::query_as(
            "select event_type, digest, at, trial, code, reason, counts, refused, serves from taken_back \
             where (event_type, digest) in (select * from unnest($1::text[], $2::bytea[])) order by event_type, digest",
        );
        self.ask(query.bind(event_types).bind(digests).fetch_all(&self.own)).await
    }

    /// Writes a row that this database does not have, unless somebody lifted it since. Returns whether it was written.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn restore_taken_back(&self, row: &TakenBackRow) -> Result<bool, Error> {
        let query = sqlx::query(
            "insert into taken_back (event_type, digest, at, trial, code, reason, counts, refused, serves) \
             select $1, $2, $3, $4, $5, left($6, 1000), $7, $8, $9 \
             where not exists (select from lifted where event_type = $1 and digest = $2 and at >= $3) \
             on conflict (event_type, digest) do nothing",
        )
        .bind(&row.event_type)
        .bind(&row.digest)
        .bind(row.at)
        .bind(&row.trial)
        .bind(&row.code)
        .bind(&row.reason)
        .bind(&row.counts)
        .bind(row.refused)
        .bind(&row.serves);
        Ok(self.ask(query.execute(&self.own)).await?.rows_affected() > 0)
    }

    /// Forgets that a module was taken back, and what it said, since the settings beside its file force it.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn lift_by_file(&self, event_type: &str, digest: Digest) -> Result<(), Error> {
        let entry = Entry::new(Action::ValidatorLift, event_type, &Actor::gateway())
            .with("digest", digest.to_string())
            .with("by", "the settings of its file");
        let lift = async {
            let mut transaction = self.own.begin().await?;
            let lifted = sqlx::query("delete from taken_back where event_type = $1 and digest = $2")
                .bind(event_type)
                .bind(digest.0.to_vec())
                .execute(&mut *transaction)
                .await?;
            if lifted.rows_affected() == 0 {
                return Ok(false);
            }
            sqlx::query("delete from candidate_pairs where event_type = $1 and digest = $2")
                .bind(event_type)
                .bind(digest.0.to_vec())
                .execute(&mut *transaction)
                .await?;
            audit::write(&mut transaction, &entry).await?;
            transaction.commit().await?;
            Ok(true)
        };
        if self.ask(lift).await? {
            entry.log();
        }
        Ok(())
    }
}
