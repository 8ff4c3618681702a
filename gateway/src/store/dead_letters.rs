//! Dead letters read back: pages by filter, one by its id, and those that are to be judged again, with the mark that
//! keeps each from being stored a second time. Paging is by key (`received_at`, `id`).

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::{Error, Store};

/// A page ends early once it holds about so many bytes: violations may be large.
const PAGE_BYTES_MAX: usize = 8 << 20;

const SELECT: &str = "select letter.id, letter.received_at, letter.reason, letter.code, letter.detail, \
     letter.violations::text as violations, letter.application_id, coalesce(applications.name, '') as application, \
     modules.digest as module, letter.event_id, letter.session_id, letter.category, letter.name, letter.raw_bytes, \
     octet_length(letter.raw) as raw_kept_bytes, letter.redriven_at, letter.redriven_as \
     from dead_letters letter \
     left join applications on applications.id = letter.application_id \
     left join modules on modules.id = letter.module_id where true";

/// Which dead letters are meant; what is `None` leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// `rejected` or `quarantined`.
    pub reason: Option<String>,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: Option<String>,
    /// The name of the application that sent the event.
    pub application: Option<String>,
    /// The event's category, where it had a readable one.
    pub category: Option<String>,
    /// The event's name, where it had a readable one.
    pub name: Option<String>,
    /// Received then or later.
    pub from: Option<DateTime<Utc>>,
    /// Received before.
    pub to: Option<DateTime<Utc>>,
}

impl LetterFilter {
    fn push(&self, query: &mut QueryBuilder<Postgres>) {
        let words = [
            (" and letter.reason = ", &self.reason),
            (" and letter.code = ", &self.code),
            (" and applications.name = ", &self.application),
            (" and letter.category = ", &self.category),
            (" and letter.name = ", &self.name),
        ];
        for (condition, value) in words {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone());
            }
        }
        for (condition, value) in [(" and letter.received_at >= ", self.from), (" and letter.received_at < ", self.to)]
        {
            if let Some(value) = value {
                query.push(condition).push_bind(value);
            }
        }
    }
}

/// The place of a dead letter in the order of receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterCursor {
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// Makes the order whole.
    pub id: Uuid,
}

/// A dead letter without its raw bytes.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredLetter {
    /// Its own id.
    pub id: Uuid,
    /// When the gateway took the event.
    pub received_at: DateTime<Utc>,
    /// The outcome the sender was told.
    pub reason: String,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: String,
    /// One sentence for people.
    pub detail: String,
    /// The violations as JSON text.
    pub violations: String,
    /// Who sent the event.
    pub application_id: i32,
    /// The name of that application.
    pub application: String,
    /// The digest of the module that judged the event, if one did.
    pub module: Option<Vec<u8>>,
    /// The event's id, its sender's or the gateway's; none when it had no readable one.
    pub event_id: Option<Uuid>,
    /// The event's session, where it had a readable one.
    pub session_id: Option<Uuid>,
    /// The event's category, where it had a readable one.
    pub category: Option<String>,
    /// The event's name, where it had a readable one.
    pub name: Option<String>,
    /// How many bytes came.
    pub raw_bytes: i32,
    /// How many of them are kept.
    pub raw_kept_bytes: i32,
    /// When its event was found to be stored after it was judged again.
    pub redriven_at: Option<DateTime<Utc>>,
    /// `stored` or `duplicate`.
    pub redriven_as: Option<String>,
}

impl StoredLetter {
    /// Its place in the order of receipt.
    pub fn cursor(&self) -> LetterCursor {
        LetterCursor { received_at: self.received_at, id: self.id }
    }

    fn bytes(&self) -> usize {
        self.violations.len() + self.detail.len() + 512
    }
}

/// A page of dead letters.
#[derive(Clone, Debug, Default)]
pub struct LetterPage {
    /// The dead letters, in the order that was asked for.
    pub letters: Vec<StoredLetter>,
    /// Whether there are more after them.
    pub more: bool,
}

/// Which dead letters are to be judged again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// These, whatever became of them before.
    Ids(Vec<Uuid>),
    /// Those that the filter names and that were not redriven yet.
    Filter(LetterFilter),
}

impl Store {
    /// A page of dead letters, the latest first.
    pub async fn dead_letters_page(
        &self,
        filter: &LetterFilter,
        after: Option<LetterCursor>,
        limit: u32,
    ) -> Result<LetterPage, Error> {
        let mut query = QueryBuilder::new(SELECT);
        filter.push(&mut query);
        if let Some(after) = after {
            query.push(" and (letter.received_at, letter.id) < (").push_bind(after.received_at);
            query.push(", ").push_bind(after.id).push(")");
        }
        query.push(" order by letter.received_at desc, letter.id desc limit ").push_bind(i64::from(limit) + 1);
        self.letters(query, limit).await
    }

    /// A page of dead letters to judge again, in the order in which they were received.
    pub async fn dead_letters_to_redrive(
        &self,
        choice: &Choice,
        after: Option<LetterCursor>,
        limit: u32,
    ) -> Result<LetterPage, Error> {
        let mut query = QueryBuilder::new(SELECT);
        match choice {
            Choice::Ids(ids) => {
                query.push(" and letter.id = any(").push_bind(ids.clone()).push(")");
            }
            Choice::Filter(filter) => {
                query.push(" and letter.redriven_at is null");
                filter.push(&mut query);
            }
        }
        if let Some(after) = after {
            query.push(" and (letter.received_at, letter.id) > (").push_bind(after.received_at);
            query.push(", ").push_bind(after.id).push(")");
        }
        query.push(" order by letter.received_at, letter.id limit ").push_bind(i64::from(limit) + 1);
        self.letters(query, limit).await
    }

    async fn letters(&self, mut query: QueryBuilder<Postgres>, limit: u32) -> Result<LetterPage, Error> {
        let mut reading = self.reading().await?;
        let read = reading.run(async move |connection| {
            let mut rows = query.build_query_as::<StoredLetter>().fetch(connection);
            let (mut page, mut bytes) = (LetterPage::default(), 0);
            while let Some(letter) = rows.try_next().await? {
                if page.letters.len() == limit as usize || bytes > PAGE_BYTES_MAX {
                    page.more = true;
                    break;
                }
                bytes += letter.bytes();
                page.letters.push(letter);
            }
            Ok(page)
        });
        read.await
    }

    /// One dead letter and what is kept of its raw bytes.
    pub async fn dead_letter(&self, id: Uuid) -> Result<Option<(StoredLetter, Vec<u8>)>, Error> {
        let mut query = QueryBuilder::new(SELECT);
        query.push(" and letter.id = ").push_bind(id).push(" limit 1");
        let Some(letter) = self.letters(query, 1).await?.letters.pop() else { return Ok(None) };
        let raw = self.dead_letter_raws(&[letter.cursor()]).await?.pop().flatten();
        Ok(raw.map(|raw| (letter, raw)))
    }

    /// What is kept of the raw bytes of each; `None` for one that is gone.
    pub async fn dead_letter_raws(&self, places: &[LetterCursor]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let (times, ids): (Vec<DateTime<Utc>>, Vec<Uuid>) =
            places.iter().map(|place| (place.received_at, place.id)).unzip();
        // By key for each, so that no plan can come to read a whole partition.
        let query = sqlx::query_scalar(
            "select found.raw from unnest($1::timestamptz[], $2::uuid[]) with ordinality wanted (received_at, id, place) \
             left join lateral (select raw from dead_letters where dead_letters.received_at = wanted.received_at \
                 and dead_letters.id = wanted.id limit 1) found on true \
             order by wanted.place",
        )
        .bind(times)
        .bind(ids);
        self.reading().await?.run(|connection| query.fetch_all(connection)).await
    }

    /// Notes of each that its event is in `events`, and whether it was stored now (else it was there already).
    pub async fn mark_redriven(&self, marks: &[(LetterCursor, bool)]) -> Result<(), Error> {
        let times: Vec<DateTime<Utc>> = marks.iter().map(|(place, _)| place.received_at).collect();
        let ids: Vec<Uuid> = marks.iter().map(|(place, _)| place.id).collect();
        let words: Vec<&str> = marks.iter().map(|(_, stored)| if *stored { "stored" } else { "duplicate" }).collect();
        let query = sqlx::query(
            "update dead_letters set redriven_at = now(), redriven_as = marks.word \
             from unnest($1::timestamptz[], $2::uuid[], $3::text[]) marks (received_at, id, word) \
             where dead_letters.received_at = marks.received_at and dead_letters.id = marks.id \
                 and dead_letters.redriven_at is null",
        )
        .bind(times)
        .bind(ids)
        .bind(words);
        self.reading().await?.run(|connection| query.execute(connection)).await?;
        Ok(())
    }
}
