//! Reads and writes the rows of the scrub job: the validators that take secrets out of events, and the older dead
//! letters that still have their received bytes. One gateway at a time holds the [`Scrubbing`]. The letters of a page,
//! the place of the next page and the line of the audit trail are one transaction, so that a crash repeats at most one
//! page.

use chrono::{DateTime, Utc};
use eye_event::hex::Hex;
use eye_event::verdict::Digest;
use sqlx::{Executor, PgConnection};
use uuid::Uuid;

use super::{Duty, Error, LetterCursor, Store};
use crate::audit::Action;

/// The word in `event_type` for letters whose event type was unreadable.
pub const UNREAD: &str = "";

const REDACTING: &str = "select event_type, digest, began_at, scrubbed_to, scrubbed_to_id, emptied_to, emptied_to_id, \
     now() as asked_at from redacting_types where ended_at is null order by event_type";

/// An event type whose older letters are rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactingRow {
    /// The name of the module's slot, or [`UNREAD`].
    pub event_type: String,
    /// The digest of the module that serves, or served last.
    pub digest: Vec<u8>,
    /// When its modules began to take secrets out.
    pub began_at: DateTime<Utc>,
    /// Letters up to this place were redacted, if that was possible.
    pub scrubbed_to: DateTime<Utc>,
    /// The second part of that place.
    pub scrubbed_to_id: Uuid,
    /// Letters up to this place that could not be redacted have lost their bytes.
    pub emptied_to: DateTime<Utc>,
    /// The second part of that place.
    pub emptied_to_id: Uuid,
    /// The time of the database when the row was read.
    pub asked_at: DateTime<Utc>,
}

from_row!(RedactingRow {
    event_type,
    digest,
    began_at,
    scrubbed_to,
    scrubbed_to_id,
    emptied_to,
    emptied_to_id,
    asked_at
});

/// The kinds of passes over letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Redacts the letters that can be redacted.
    Redact,
    /// Removes the bytes of the others.
    Empty,
}

impl RedactingRow {
    /// Where the next page of a pass starts.
    pub fn place(&self, pass: Pass) -> LetterCursor {
        let (received_at, id) = match pass {
            Pass::Redact => (self.scrubbed_to, self.scrubbed_to_id),
            Pass::Empty => (self.emptied_to, self.emptied_to_id),
        };
        LetterCursor { received_at, id }
    }
}

/// A letter of a walk, without its bytes.
#[derive(Clone, Debug)]
pub struct WalkedLetter {
    /// The time of receipt.
    pub received_at: DateTime<Utc>,
    /// The letter's own id.
    pub id: Uuid,
    /// Whether it still has its received bytes.
    pub whole: bool,
    /// The code of the refusal.
    pub code: String,
    /// The event's category, if it was readable.
    pub category: Option<String>,
    /// The event's name, if it was readable.
    pub name: Option<String>,
}

from_row!(WalkedLetter { received_at, id, whole, code, category, name });

impl WalkedLetter {
    /// The place in the order of receipt.
    pub fn cursor(&self) -> LetterCursor {
        LetterCursor { received_at: self.received_at, id: self.id }
    }
}

/// The parts of a letter that a pass rewrites.
#[derive(Clone, Debug)]
pub struct LetterText {
    /// The time of receipt.
    pub received_at: DateTime<Utc>,
    /// The letter's own id.
    pub id: Uuid,
    /// The event's id, if it was readable.
    pub event_id: Option<Uuid>,
    /// One sentence for readers.
    pub detail: String,
    /// The violations as JSON text.
    pub violations: String,
    /// The kept bytes.
    pub raw: Vec<u8>,
    /// The number of received bytes.
    pub raw_bytes: i32,
}

from_row!(LetterText { received_at, id, event_id, detail, violations, raw, raw_bytes });

/// The new parts of a letter.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// The letter's place.
    pub place: LetterCursor,
    /// `redacted` or `nothing`.
    pub kept: &'static str,
    /// One sentence for readers.
    pub detail: String,
    /// The violations as JSON text.
    pub violations: String,
    /// The bytes that are left.
    pub raw: Vec<u8>,
    /// The digest of the received bytes.
    pub raw_digest: Option<Digest>,
    /// Its event type was unreadable, so its category and name are removed too.
    pub unread: bool,
}

impl Store {
    /// Records the modules that take secrets out (slot, digest, and whether they redact), and the slots in `ended`,
    /// whose modules do so no more. Returns the rows in force.
    pub async fn note_redacting(
        &self,
        taking: &[(String, Digest, bool)],
        ended: &[String],
    ) -> Result<Vec<RedactingRow>, Error> {
        let types: Vec<&str> = taking.iter().map(|(event_type, ..)| &**event_type).collect();
        let digests: Vec<&[u8]> = taking.iter().map(|(_, digest, _)| &digest.0[..]).collect();
        let redacts: Vec<bool> = taking.iter().map(|(.., redacts)| *redacts).collect();
        self.ask(async {
            sqlx::query("update redacting_types set ended_at = now() where ended_at is null and event_type = any($1)")
                .bind(ended)
                .execute(&self.own)
                .await?;
            // A new version may redact letters that the earlier one could not.
            sqlx::query(
                "insert into redacting_types (event_type, digest, redacts) \
                 select * from unnest($1::text[], $2::bytea[], $3::boolean[]) \
                 on conflict (event_type) do update set digest = excluded.digest, redacts = excluded.redacts, \
                     began_at = case when redacting_types.ended_at is null then redacting_types.began_at else now() end, \
                     scrubbed_to = 'epoch', scrubbed_to_id = '00000000-0000-0000-0000-000000000000', \
                     emptied_to = case when redacting_types.ended_at is null then redacting_types.emptied_to \
                         else 'epoch' end, \
                     ended_at = null \
                 where redacting_types.digest <> excluded.digest or redacting_types.ended_at is not null \
                     or redacting_types.redacts <> excluded.redacts",
            )
            .bind(types)
            .bind(digests)
            .bind(redacts)
            .execute(&self.own)
            .await?;
            sqlx::query_as(REDACTING).fetch_all(&self.own).await
        })
        .await
    }

    /// The rows in force.
    pub async fn redacting_types(&self) -> Result<Vec<RedactingRow>, Error> {
        self.ask(async { sqlx::query_as(REDACTING).fetch_all(&self.own).await }).await
    }

    /// Takes the right to rewrite letters, for a gateway whose duty it is or for a command. Returns `None` while another
    /// session has it.
    pub async fn scrub(&self, is_duty: bool) -> Result<Option<Scrubbing>, Error> {
        let session = match is_duty {
            true => self.session_of_duty(Duty::Scrub).await?,
            false => self.session_beside_duty(Duty::Scrub).await?,
        };
        Ok(session.map(|connection| Scrubbing { connection }))
    }
}

/// The right to rewrite dead letters, as long as its connection lives.
#[derive(Debug)]
pub struct Scrubbing {
    connection: PgConnection,
}

impl Scrubbing {
    /// Reads up to `limit` letters after a place, in the order of receipt. It filters none out, so that no walk takes
    /// long.
    pub async fn walk(&mut self, after: LetterCursor, limit: u32) -> Result<Vec<WalkedLetter>, Error> {
        let rows = sqlx::query_as(
            "select received_at, id, kept = 'whole' as whole, code, category, name from dead_letters \
             where received_at >= $1 and (received_at, id) > ($1, $2) order by received_at, id limit $3",
        )
        .bind(after.received_at)
        .bind(after.id)
        .bind(i64::from(limit))
        .fetch_all(&mut self.connection)
        .await?;
        Ok(rows)
    }

    /// Reads one letter.
    pub async fn text(&mut self, place: LetterCursor) -> Result<Option<LetterText>, Error> {
        let row = sqlx::query_as(
            "select received_at, id, event_id, detail, violations::text as violations, raw, raw_bytes from dead_letters \
             where received_at = $1 and id = $2 and kept = 'whole'",
        )
        .bind(place.received_at)
        .bind(place.id)
        .fetch_optional(&mut self.connection)
        .await?;
        Ok(row)
    }

    /// Rewrites letters, moves the place to `to`, and writes a line of the audit trail if it rewrote any. The place
    /// stays a minute behind, since letters that are being written now may have earlier times of receipt.
    pub async fn rewrite(
        &mut self,
        row: &RedactingRow,
        pass: Pass,
        letters: &[Rewritten],
        to: LetterCursor,
    ) -> Result<(), Error> {
        self.connection.execute("begin").await?;
        let done = self.rewrite_within(row, pass, letters, to).await;
        self.connection.execute(if done.is_ok() { "commit" } else { "rollback" }).await?;
        Ok(done?)
    }

    async fn rewrite_within(
        &mut self,
        row: &RedactingRow,
        pass: Pass,
        letters: &[Rewritten],
        to: LetterCursor,
    ) -> Result<(), sqlx::Error> {
        for letter in letters {
            sqlx::query(
                "update dead_letters set kept = $3, detail = $4, violations = $5::jsonb, raw = $6, raw_digest = $7, last_words = null, \
                     category = case when $8 then null else category end, name = case when $8 then null else name end \
                 where received_at = $1 and id = $2 and kept = 'whole'",
            )
            .bind(letter.place.received_at)
            .bind(letter.place.id)
            .bind(letter.kept)
            .bind(&letter.detail)
            .bind(&letter.violations)
            .bind(&letter.raw)
            .bind(letter.raw_digest.map(|digest| digest.0.to_vec()))
            .bind(letter.unread)
            .execute(&mut self.connection)
            .await?;
        }
        let place = match pass {
            Pass::Redact => {
                "update redacting_types set scrubbed_to = $2, scrubbed_to_id = $3 \
                 where event_type = $1 and digest = $4 and $2 < now() - interval '1 minute'"
            }
            Pass::Empty => {
                "update redacting_types set emptied_to = $2, emptied_to_id = $3 \
                 where event_type = $1 and digest = $4 and $2 < now() - interval '1 minute'"
            }
        };
        sqlx::query(place)
            .bind(&row.event_type)
            .bind(to.received_at)
            .bind(to.id)
            .bind(&row.digest)
            .execute(&mut self.connection)
            .await?;
        if letters.is_empty() {
            return Ok(());
        }
        let redacted = letters.iter().filter(|letter| letter.kept == "redacted").count();
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        sqlx::query(
            "insert into scrubs (event_type, digest, redacted, emptied, received_to) values ($1, $2, $3, $4, $5)",
        )
        .bind(&row.event_type)
        .bind(&row.digest)
        .bind(count(redacted))
        .bind(count(letters.len() - redacted))
        .bind(to.received_at)
        .execute(&mut self.connection)
        .await?;
        // One audit entry a day for each event type and module, since there may be very many pages.
        sqlx::query(
            "with last as (select id from audit where action = $1 and subject = left($2, 250) and details ->> 'digest' = $3 \
                 and at > now() - interval '1 day' order by at desc limit 1), \
             counted as (update audit set details = details || jsonb_build_object( \
                     'redacted', (details ->> 'redacted')::bigint + $4, 'emptied', (details ->> 'emptied')::bigint + $5) \
                 from last where audit.id = last.id returning audit.id) \
             select note_audit($1, $2, jsonb_build_object('digest', $3, 'redacted', $4::bigint, 'emptied', $5::bigint)) \
             where not exists (select from counted)",
        )
        .bind(Action::Scrub.as_str())
        .bind(&row.event_type)
        .bind(Hex(&row.digest).to_string())
        .bind(i64::from(count(redacted)))
        .bind(i64::from(count(letters.len() - redacted)))
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Removes the old versions of the rewritten rows from the table. If the role may not, the server does so later by
    /// itself.
    pub async fn vacuum(&mut self) -> Result<(), Error> {
        self.connection.execute("vacuum (skip_locked) dead_letters").await?;
        Ok(())
    }
}
