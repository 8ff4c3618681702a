//! Reads dead letters: pages by filter, one by its id, and those to redrive, with the mark that keeps a letter from
//! being redriven twice. Pages are walked along the key (`received_at`, `id`). A filter leaves letters out during the
//! walk, which reads a bounded stretch at a time; a page that has walked for long ends early.

use chrono::{DateTime, Utc};
use eye_event::event::KeptAs;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::read::{FIRST_VIOLATION, LetterFilter, LetterSight, Page, PageLimits, Reading, Selection, within};
use super::{Error, Store};
use crate::trust::visible::Visible;

/// Letters of one stretch of a walk.
const STRETCH_MAX: u32 = 10_000;
/// A page to redrive ends at about this many bytes, since violations may be large.
const REDRIVE_BYTES_MAX: usize = 8 << 20;

pub(super) const COLUMNS: &str = "id, received_at, reason, code, detail, violations, application_id, module_id, event_id, session_id, \
     category, name, raw, raw_bytes, kept, raw_digest, last_words, request_id, traceparent, redriven_at, redriven_as";

/// The place of a dead letter in the order of receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct LetterCursor {
    /// The time of receipt.
    pub received_at: DateTime<Utc>,
    /// The id of the letter, which orders letters of the same time.
    pub id: Uuid,
}

impl LetterCursor {
    fn key(self) -> (DateTime<Utc>, Uuid) {
        (self.received_at, self.id)
    }
}

/// A dead letter without its raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// The letter's own id.
    pub id: Uuid,
    /// When the gateway received the event.
    pub received_at: DateTime<Utc>,
    /// The outcome that the sender got: `rejected` or `quarantined`.
    pub reason: String,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    pub code: String,
    /// One sentence for readers.
    pub detail: String,
    /// The violations as JSON text.
    pub violations: String,
    /// The id of the application that sent the event.
    pub application_id: i32,
    /// The name of that application.
    pub application: String,
    /// The digest of the module that judged the event, if any.
    pub module: Option<Vec<u8>>,
    /// The id of the event, from its sender or the gateway; `None` if it had no readable one.
    pub event_id: Option<Uuid>,
    /// The event's session, if it was readable.
    pub session_id: Option<Uuid>,
    /// The event's category, if it was readable.
    pub category: Option<String>,
    /// The event's name, if it was readable.
    pub name: Option<String>,
    /// The number of received bytes.
    pub raw_bytes: i32,
    /// The number of kept bytes.
    pub raw_kept_bytes: i32,
    /// `whole`, `redacted` or `nothing`: which bytes are kept.
    pub kept: String,
    /// The digest of the received bytes, if none are kept.
    pub raw_digest: Option<Vec<u8>>,
    /// The text of the module's panic or exception.
    pub last_words: Option<String>,
    /// The id of the request of the event; `None` if an earlier release wrote the letter.
    pub request_id: Option<String>,
    /// The `traceparent` of that request, if it was valid.
    pub traceparent: Option<String>,
    /// When a redrive stored the event or found it stored.
    pub redriven_at: Option<DateTime<Utc>>,
    /// `stored` or `duplicate`.
    pub redriven_as: Option<String>,
}

from_row!(StoredLetter {
    id,
    received_at,
    reason,
    code,
    detail,
    violations,
    application_id,
    application,
    module,
    event_id,
    session_id,
    category,
    name,
    raw_bytes,
    raw_kept_bytes,
    kept,
    raw_digest,
    last_words,
    request_id,
    traceparent,
    redriven_at,
    redriven_as
});

impl StoredLetter {
    /// The place in the order of receipt.
    pub fn cursor(&self) -> LetterCursor {
        LetterCursor { received_at: self.received_at, id: self.id }
    }

    /// Why the event cannot be redriven: a code and a sentence. `None` if it can.
    pub fn unredrivable(&self) -> Option<(&'static str, &'static str)> {
        if self.redriven_at.is_some() {
            Some(("redriven", "its event is stored already"))
        } else if self.kept == KeptAs::Nothing.as_str() {
            Some(("not_kept", "nothing of its event was kept, since its validator takes secrets out"))
        } else if self.kept == KeptAs::Whole.as_str() && self.raw_kept_bytes < self.raw_bytes {
            Some(("cut", "only the beginning of its raw bytes was kept, so its event cannot be judged again"))
        } else {
            None
        }
    }

    fn bytes(&self) -> usize {
        self.violations.len() + self.detail.len() + 512
    }
}

/// Selects the dead letters to redrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The letters with these ids, even if they were redriven before.
    Ids(Vec<Uuid>),
    /// The letters of a filter that were not redriven.
    Filter(LetterFilter),
}

impl Store {
    /// A page of visible dead letters, the latest first.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn dead_letters_page(
        &self,
        visible: &Visible,
        filter: &LetterFilter,
        after: Option<LetterCursor>,
        limits: PageLimits,
    ) -> Result<Page<StoredLetter, LetterCursor>, Error> {
        self.walk_letters(visible, filter, Order::LatestFirst, after, limits).await
    }

    /// A page of visible dead letters to redrive, in the order of receipt.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn dead_letters_to_redrive(
        &self,
        visible: &Visible,
        choice: &Choice,
        after: Option<LetterCursor>,
        limit: u32,
    ) -> Result<Page<StoredLetter, LetterCursor>, Error> {
        let limits = PageLimits { rows: limit, bytes: REDRIVE_BYTES_MAX };
        let ids = match choice {
            Choice::Filter(filter) => {
                return self.walk_letters(visible, filter, Order::LeftToRedrive, after, limits).await;
            }
            Choice::Ids(ids) => ids,
        };
        let mut reading = self.reading().await?;
        let (until, time) = reading.limits();
        let sight = within(until, time, LetterSight::of(reading.connection(), visible)).await?;
        let mut page = LettersInTheMaking::new(after, limits);
        let mut query = QueryBuilder::new("");
        push_words(&mut query, |query| {
            // A lookup for each id, so that no plan walks along all letters.
            query.push(format!("select {COLUMNS} from (select distinct wanted_id from unnest(")).push_bind(ids.clone());
            query.push(format!(
                "::uuid[]) given (wanted_id)) wanted cross join lateral \
                 (select {COLUMNS} from dead_letters where id = wanted_id"
            ));
            sight.push(query);
            query.push(" limit 1) found where true");
            if let Some(after) = after {
                query.push(" and (received_at, id) > (").push_bind(after.received_at);
                query.push(", ").push_bind(after.id).push(")");
            }
            query.push(format!(" order by received_at, id limit {}", page.asked()));
        });
        query.push(" order by letter.received_at, letter.id");
        page.read(&mut reading, query).await?;
        Ok(page.cut())
    }

    /// Returns those of `ids` that no visible dead letter has.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn dead_letters_unknown(&self, visible: &Visible, ids: &[Uuid]) -> Result<Vec<Uuid>, Error> {
        let mut reading = self.reading().await?;
        let (until, time) = reading.limits();
        let sight = within(until, time, LetterSight::of(reading.connection(), visible)).await?;
        let mut query = QueryBuilder::new("select wanted.id from (select distinct id from unnest(");
        query.push_bind(ids.to_vec()).push(
            "::uuid[]) given (id)) wanted \
             left join lateral (select true as found from dead_letters where dead_letters.id = wanted.id",
        );
        sight.push(&mut query);
        query.push(" limit 1) there on true where there.found is null order by wanted.id");
        let query = query.build_query_scalar();
        reading.run(|connection| query.fetch_all(connection)).await
    }

    async fn walk_letters(
        &self,
        visible: &Visible,
        filter: &LetterFilter,
        order: Order,
        after: Option<LetterCursor>,
        limits: PageLimits,
    ) -> Result<Page<StoredLetter, LetterCursor>, Error> {
        let mut reading = self.reading().await?;
        let Some(selection) = Selection::of(&mut reading, visible, filter).await? else {
            return Ok(Page { rows: Vec::new(), next: None });
        };
        let mut walk = Walk { selection, order, page: LettersInTheMaking::new(after, limits) };
        while walk.step(&mut reading).await? {
            if walk.page.full() {
                return Ok(walk.page.cut());
            }
            if reading.late() {
                return Ok(Page { next: walk.page.after, rows: walk.page.rows });
            }
        }
        Ok(Page { rows: walk.page.rows, next: None })
    }

    /// Reads one visible dead letter with its kept raw bytes.
    pub async fn dead_letter(&self, visible: &Visible, id: Uuid) -> Result<Option<(StoredLetter, Vec<u8>)>, Error> {
        let one = Choice::Ids(vec![id]);
        let mut letters = self.dead_letters_to_redrive(visible, &one, None, 1).await?.rows;
        let raw = self.dead_letter_raws(&letters).await?.pop().flatten();
        Ok(letters.pop().zip(raw))
    }

    /// Reads the kept raw bytes of each letter; `None` for a letter that was removed. A caller that has the letters was
    /// allowed to see them.
    pub async fn dead_letter_raws(&self, letters: &[StoredLetter]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let (times, ids): (Vec<DateTime<Utc>>, Vec<Uuid>) =
            letters.iter().map(|letter| (letter.received_at, letter.id)).unzip();
        // A lookup for each key, so that no plan reads a whole partition.
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

    /// Marks each letter whose event is stored: `true` if this redrive stored it, `false` if it was there before. The same
    /// transaction counts them in `entry` of the audit trail.
    pub async fn mark_redriven(&self, marks: &[(LetterCursor, bool)], entry: Option<Uuid>) -> Result<(), Error> {
        self.reading().await?.run(|connection| mark(connection, marks, entry)).await
    }

    /// When the newest dead letter was received; `None` without any.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn newest_dead_letter(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let query =
            sqlx::query_scalar("select received_at from dead_letters order by received_at desc, id desc limit 1");
        self.reading().await?.run(|connection| query.fetch_optional(connection)).await
    }

    /// Counts the visible letters of a filter that are left to redrive. Returns `None` if counting takes too long.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`] and [`Error::Refused`].
    pub async fn dead_letters_left(&self, visible: &Visible, filter: &LetterFilter) -> Result<Option<u64>, Error> {
        let mut reading = self.reading().await?;
        let Some(selection) = Selection::of(&mut reading, visible, filter).await? else { return Ok(Some(0)) };
        let mut query = QueryBuilder::new("select count(*) from dead_letters where redriven_at is null");
        selection.push_times(&mut query);
        selection.push(&mut query, FIRST_VIOLATION);
        let (until, time) = reading.limits();
        let query = query.build_query_scalar::<i64>().persistent(false);
        match within(until, time, query.fetch_one(reading.connection())).await {
            Ok(count) => Ok(Some(u64::try_from(count).unwrap_or_default())),
            Err(Error::Slow(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Marks letters whose event is stored, and counts them in `entry` of the audit trail.
pub(super) async fn mark(
    connection: &mut PgConnection,
    marks: &[(LetterCursor, bool)],
    entry: Option<Uuid>,
) -> Result<(), sqlx::Error> {
    let times: Vec<DateTime<Utc>> = marks.iter().map(|(place, _)| place.received_at).collect();
    let ids: Vec<Uuid> = marks.iter().map(|(place, _)| place.id).collect();
    let words: Vec<&str> = marks.iter().map(|(_, stored)| if *stored { "stored" } else { "duplicate" }).collect();
    const MARK: &str = "update dead_letters set redriven_at = now(), redriven_as = marks.word \
         from unnest($1::timestamptz[], $2::uuid[], $3::text[]) marks (received_at, id, word) \
         where dead_letters.received_at = marks.received_at and dead_letters.id = marks.id \
             and dead_letters.redriven_at is null";
    let query = match entry {
        None => sqlx::query(MARK),
        Some(_) => sqlx::query(sqlx::AssertSqlSafe(format!(
            "with marked as ({MARK} returning marks.word), \
                 counted as (select count(*) filter (where word = 'stored') as stored, \
                     count(*) filter (where word = 'duplicate') as duplicate from marked) \
             update audit set details = details || jsonb_build_object( \
                 'stored', (details ->> 'stored')::bigint + counted.stored, \
                 'duplicate', (details ->> 'duplicate')::bigint + counted.duplicate) \
             from counted where audit.id = $4"
        ))),
    };
    let query = query.bind(times).bind(ids).bind(words);
    let query = if let Some(entry) = entry { query.bind(entry) } else { query };
    query.execute(connection).await?;
    Ok(())
}

/// The order of a walk, and its letters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// All letters, the latest first.
    LatestFirst,
    /// The letters that were not redriven, in the order of receipt.
    LeftToRedrive,
}

/// A walk along the key.
struct Walk<'a> {
    selection: Selection<'a>,
    order: Order,
    page: LettersInTheMaking,
}

impl Walk<'_> {
    /// Reads the next stretch, and returns whether there may be more.
    ///
    /// The end of the stretch is asked in a statement of its own, which may see other letters than the stretch did. If
    /// letters may leave the walk meanwhile, the end is asked first; otherwise letters would be skipped. If letters may
    /// be added before those that were read, the last letter that was read counts; otherwise it would be read twice.
    async fn step(&mut self, reading: &mut Reading) -> Result<bool, Error> {
        let left = self.order == Order::LeftToRedrive;
        let sooner = if left { self.stretch_end(reading).await? } else { None };
        let mut query = QueryBuilder::new("");
        push_words(&mut query, |query| {
            query.push(format!("select {COLUMNS} from ("));
            self.push_stretch(query, COLUMNS);
            query.push(") stretch where true");
            self.selection.push(query, FIRST_VIOLATION);
            query.push(format!(" order by {} limit {}", self.by(""), self.page.asked()));
        });
        query.push(format!(" order by {}", self.by("letter.")));
        self.page.read(reading, query).await?;
        if self.page.full() {
            return Ok(true);
        }
        let end = if left { sooner } else { self.stretch_end(reading).await? };
        let Some(end) = end else { return Ok(false) };
        let read = self.page.rows.last().map(StoredLetter::cursor);
        let further = |one: LetterCursor, other: LetterCursor| {
            if left { one.key() > other.key() } else { one.key() < other.key() }
        };
        self.page.after = Some(read.filter(|read| further(*read, end)).unwrap_or(end));
        Ok(true)
    }

    /// The end of the next stretch; `None` if fewer letters are left.
    async fn stretch_end(&self, reading: &mut Reading) -> Result<Option<LetterCursor>, Error> {
        let mut query = QueryBuilder::new("select received_at, id from (");
        self.push_stretch(&mut query, "received_at, id");
        query.push(format!(") stretch offset {}", STRETCH_MAX - 1));
        let query = query.build_query_as::<(DateTime<Utc>, Uuid)>().persistent(false);
        let (until, time) = reading.limits();
        let last = within(until, time, query.fetch_optional(reading.connection())).await?;
        Ok(last.map(|(received_at, id)| LetterCursor { received_at, id }))
    }

    fn by(&self, of: &str) -> String {
        let way = if self.order == Order::LatestFirst { "desc" } else { "asc" };
        format!("{of}received_at {way}, {of}id {way}")
    }

    /// The next letters along the index. The bounds on the time select the partitions.
    fn push_stretch(&self, query: &mut QueryBuilder<Postgres>, columns: &str) {
        query.push(format!("select {columns} from dead_letters where true"));
        if self.order == Order::LeftToRedrive {
            query.push(" and redriven_at is null");
        }
        self.selection.push_times(query);
        if let Some(after) = self.page.after {
            let beyond = if self.order == Order::LatestFirst { "<" } else { ">" };
            query.push(format!(" and received_at {beyond}= ")).push_bind(after.received_at);
            query.push(format!(" and (received_at, id) {beyond} (")).push_bind(after.received_at);
            query.push(", ").push_bind(after.id).push(")");
        }
        query.push(format!(" order by {} limit {STRETCH_MAX}", self.by("")));
    }
}

/// A page that is being filled.
struct LettersInTheMaking {
    after: Option<LetterCursor>,
    rows: Vec<StoredLetter>,
    bytes: usize,
    limits: PageLimits,
}

impl LettersInTheMaking {
    fn new(after: Option<LetterCursor>, limits: PageLimits) -> Self {
        Self { after, rows: Vec::new(), bytes: 0, limits }
    }

    fn full(&self) -> bool {
        self.rows.len() > self.limits.rows as usize || self.bytes >= self.limits.bytes
    }

    /// One letter more than the page holds, which shows that there is a next page.
    fn asked(&self) -> u32 {
        self.limits.rows + 1 - u32::try_from(self.rows.len()).unwrap_or(u32::MAX).min(self.limits.rows)
    }

    async fn read(&mut self, reading: &mut Reading, mut query: QueryBuilder<Postgres>) -> Result<(), Error> {
        let (until, time) = reading.limits();
        let mut rows = query.build_query_as::<StoredLetter>().persistent(false).fetch(reading.connection());
        while !self.full() {
            let Some(letter) = within(until, time, rows.try_next()).await? else { break };
            self.bytes += letter.bytes();
            self.rows.push(letter);
        }
        Ok(())
    }

    /// The page, without that additional letter.
    fn cut(mut self) -> Page<StoredLetter, LetterCursor> {
        let full = self.full();
        self.rows.truncate(self.limits.rows as usize);
        Page { next: self.rows.last().filter(|_| full).map(StoredLetter::cursor), rows: self.rows }
    }
}

/// Joins names and digests to the letters of a page only.
pub(super) fn push_words(query: &mut QueryBuilder<Postgres>, page: impl FnOnce(&mut QueryBuilder<Postgres>)) {
    query.push(
        "select letter.id, letter.received_at, letter.reason, letter.code, letter.detail, \
         letter.violations::text as violations, letter.application_id, coalesce(applications.name, '') as application, \
         modules.digest as module, letter.event_id, letter.session_id, letter.category, letter.name, letter.raw_bytes, \
         octet_length(letter.raw) as raw_kept_bytes, letter.kept, letter.raw_digest, letter.last_words, letter.request_id, \
         letter.traceparent, letter.redriven_at, letter.redriven_as from (",
    );
    page(query);
    query.push(
        ") letter left join applications on applications.id = letter.application_id \
         left join modules on modules.id = letter.module_id",
    );
}
