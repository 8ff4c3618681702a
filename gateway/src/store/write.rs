//! Writing: one batch is one transaction, and a batch that is tried again is never there twice.
//!
//! The straight path is `copy` into the table itself, or, for few events, one `insert` that counts them as well: it costs
//! the server more for a row and less for a batch, since it is one round trip instead of four (BENCHMARKS.md has what was
//! measured). When a row is there already, either can only fail, so the batch
//! goes the conflict path: `copy` into a temporary table, then `insert ... on conflict do nothing`, which tells the new
//! rows from those that were there. What the batch counts (see `counts.rs`) is part of the same transaction: sent along
//! with `begin` on the straight path, where it is known before, and with `commit` on the conflict path.
//!
//! When a connection breaks while a commit is under way, nobody knows whether the rows are there. The same batch then
//! goes the conflict path, and a row that is there with the very `received_at` of the item is this batch's own, so its
//! sender is told `stored`, which is the truth.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, Postgres};
use sqlx::query::Query;
use sqlx::{Arguments as _, AssertSqlSafe, Executor, Row as _};
use tokio::time::{Instant, timeout};
use tracing::debug;
use uuid::Uuid;

use super::copy::{self, HEADER, Ids, Jsonb, TRAILER, Timestamp};
use super::counts::{self, Appended, Counted, DeltaRow, Ended, List, Tally};
use super::link::{Backend, Class, Link, class, words};
use super::partitions::OnDemand;
use super::schema::SchemaGate;
use crate::batch::{Failure, Fate, Sink, Weigh};
use crate::event::{DeadLetter, EventRow};
use crate::verdict::{Digest, Violation};

/// Rows are sent whenever this many bytes have gathered, so the buffer stays small however large the batch is.
const CHUNK_BYTES: usize = 128 * 1024;
/// Batches of more rows are cheaper by `copy`.
const INSERT_ROWS_MAX: usize = 64;
/// Batches of more bytes go by `copy` too: the server reads all arguments of a statement before it writes a row, and what it makes of
/// JSON on the way may take two hundred times as much memory as its text. By `copy` it lets go of that with each row.
const INSERT_BYTES_MAX: usize = 256 * 1024;
/// A buffer that one large row has blown up beyond this is given back.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// After a conflict, so many batches without one must pass before the straight path is tried again: senders that
/// repeat themselves do so in runs, and a `copy` that fails leaves dead rows behind.
const WARY_BATCHES: u32 = 8;
/// Longest wait for a connection. Short, because whoever waits for one that never answers does not see that the next
/// one would: with the longest pause between tries, a server that is back is found within two seconds.
const OPEN_MOST: Duration = Duration::from_millis(1_400);
/// What a write gets on a server that has been fast so far. A connection that was lost without a word is noticed after
/// this time, so it must leave room within two seconds for a new connection and the write.
const FLUSH_FIRST: Duration = Duration::from_secs(1);
/// A write gets so many times what the one before took, if that is more: a server that is slow is not one that is gone.
const FLUSH_SLACK: u32 = 4;
/// Each time-out doubles the time of the next try up to this, so that a slow server is not hammered for ever with
/// batches that it can never finish.
const FLUSH_MOST: Duration = Duration::from_secs(60);
/// Fixed bytes of a row, roughly: ids, times, lengths.
const ROW_BYTES: usize = 128;

macro_rules! event_columns {
    () => {
        "session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data"
    };
}

macro_rules! dead_letter_columns {
    () => {
        "received_at, id, reason, code, detail, violations, application_id, module_id, event_id, session_id, \
         category, name, raw, raw_bytes"
    };
}

/// The row's key as the conflict path compares it.
pub(super) type Key = (Uuid, i64, Uuid);

/// A table that is written in batches.
pub(super) trait Table: Send + 'static {
    type Item: Send + Sync + 'static;
    const NAME: &'static str;
    /// Into the table itself.
    const COPY: &'static str;
    /// The temporary table of the conflict path; it empties itself with every transaction. That takes a lock which goes to the
    /// log, and so the commit waits for a synchronous standby also when every row was there: such a row may be committed on
    /// this server alone, since a writer that is given up has its wait for the standby ended by its successor.
    const CREATE_INCOMING: &'static str;
    const COPY_INCOMING: &'static str;
    /// From the temporary table into the table; gives the keys of the new rows. Ordered, so that two writers with the
    /// same rows do not wait for each other in a circle.
    const MERGE: &'static str;
    /// In the same transaction as `MERGE`: the keys of the rows that are this batch's own, new or not.
    const OWN: Option<&'static str>;

    fn key(item: &Self::Item) -> Key;
    fn event_type(item: &Self::Item) -> Option<(&str, &str)>;
    fn module(item: &Self::Item) -> Option<&Digest>;
    fn encode(item: &Self::Item, ids: Ids, out: &mut Vec<u8>);
    /// The statement that writes the rows and what they count, if they are few and the table has one. It gives the places of
    /// the latter.
    fn insert<'a>(
        items: &[&'a Self::Item],
        rows: &[usize],
        ids: &[Ids],
        tally: &Tally,
    ) -> Option<Query<'a, Postgres, PgArguments>>;
    /// When the event occurred and when it was received, if its month may have no partition yet.
    fn times(item: &Self::Item) -> Option<(i64, i64)>;
    /// Whether to find the row there counts as a duplicate.
    fn duplicate_counts(item: &Self::Item) -> bool;
    /// As what the row counts, once it is written.
    fn counted(item: &Self::Item, ids: Ids) -> Counted;
}

/// The arguments of the statements for a few events, and about how much they take up besides the rows.
const INSERT_ARGUMENTS: usize = 13;
const INSERT_OVERHEAD_BYTES: usize = 512;

/// The columns of the events as arrays, in the order of `event_columns`, which are taken apart side by side: as a table in `from`, the
/// server would keep each column aside as a whole first. Then what counts them. The tests' proxy knows it by its first words.
macro_rules! insert_events {
    ($deltas:literal) => {
        concat!(
            "with stored as (insert into events (",
            event_columns!(),
            ") select unnest($1::uuid[]), unnest($2::timestamptz[]), unnest($3::uuid[]), unnest($4::timestamptz[]), \
                 unnest($5::integer[]), unnest($6::integer[]), unnest($7::integer[]), unnest($8::jsonb[])) \
             insert into count_deltas (minute, application_id, outcome, event_type_ids, counts) ",
            $deltas,
            " returning ctid::text"
        )
    };
}

/// For events that count in one minute, of one application and with one outcome, as those of most batches do.
const INSERT_EVENTS_ALIKE: &str =
    insert_events!("values ($9::timestamptz, $10::integer, $11::text, $12::integer[], $13::bigint[])");
/// For all others. Arrays within an array would have to be of one length, so each comes as its text.
const INSERT_EVENTS: &str = insert_events!(
    "select unnest($9::timestamptz[]), unnest($10::integer[]), unnest($11::text[]), \
         unnest($12::text[])::integer[], unnest($13::text[])::bigint[]"
);

/// The table `events`.
pub(super) enum Events {}

impl Table for Events {
    type Item = EventRow;
    const NAME: &'static str = "events";
    const COPY: &'static str = concat!("copy events (", event_columns!(), ") from stdin (format binary)");
    const CREATE_INCOMING: &'static str =
        "create temporary table if not exists incoming (like events) on commit delete rows";
    const COPY_INCOMING: &'static str =
        concat!("copy pg_temp.incoming (", event_columns!(), ") from stdin (format binary)");
    const MERGE: &'static str = concat!(
        "insert into events (",
        event_columns!(),
        ") select ",
        event_columns!(),
        " from pg_temp.incoming order by session_id, timestamp, id on conflict do nothing \
         returning session_id, timestamp, id"
    );
    // `limit` keeps the planner from turning this into a join that reads the whole table: the temporary table has no
    // statistics, so it cannot know how few rows there are.
    const OWN: Option<&'static str> = Some(
        "select incoming.session_id, incoming.timestamp, incoming.id from pg_temp.incoming \
         cross join lateral (select received_at from events where events.session_id = incoming.session_id \
             and events.timestamp = incoming.timestamp and events.id = incoming.id limit 1) found \
         where found.received_at = incoming.received_at",
    );

    fn key(item: &EventRow) -> Key {
        (item.session_id, item.timestamp_us, item.id)
    }

    fn event_type(item: &EventRow) -> Option<(&str, &str)> {
        Some((&item.category, &item.name))
    }

    fn module(item: &EventRow) -> Option<&Digest> {
        item.module.as_ref()
    }

    fn encode(item: &EventRow, ids: Ids, out: &mut Vec<u8>) {
        copy::event(item, ids, out);
    }

    fn insert<'a>(
        items: &[&'a EventRow],
        rows: &[usize],
        ids: &[Ids],
        tally: &Tally,
    ) -> Option<Query<'a, Postgres, PgArguments>> {
        let events = || rows.iter().map(|&index| items[index]);
        let ids = || rows.iter().map(|&index| ids[index]);
        let bytes = events().map(Weigh::bytes).sum::<usize>();
        if rows.len() > INSERT_ROWS_MAX || bytes > INSERT_BYTES_MAX {
            return None;
        }
        let deltas = tally.clone().deltas();
        // Room for all at once: as a buffer that grows, it would be copied several times.
        let mut arguments = PgArguments::default();
        arguments.reserve(INSERT_ARGUMENTS, INSERT_OVERHEAD_BYTES + bytes);
        let statement = if deltas.len() == 1 { INSERT_EVENTS_ALIKE } else { INSERT_EVENTS };
        let query = sqlx::query_with(statement, arguments)
            .bind(events().map(|event| event.session_id).collect::<Vec<_>>())
            .bind(events().map(|event| Timestamp(event.timestamp_us)).collect::<Vec<_>>())
            .bind(events().map(|event| event.id).collect::<Vec<_>>())
            .bind(events().map(|event| Timestamp(event.received_at_us)).collect::<Vec<_>>())
            .bind(ids().map(|ids| ids.event_type).collect::<Vec<_>>())
            .bind(events().map(|event| event.application_id).collect::<Vec<_>>())
            .bind(ids().map(|ids| ids.module).collect::<Vec<_>>())
            .bind(events().map(|event| Jsonb(&event.data)).collect::<Vec<_>>());
        Some(match <[DeltaRow; 1]>::try_from(deltas) {
            Ok([delta]) => query
                .bind(delta.minute())
                .bind(delta.application)
                .bind(delta.outcome)
                .bind(delta.event_types)
                .bind(delta.counts),
            Err(deltas) => query
                .bind(deltas.iter().map(DeltaRow::minute).collect::<Vec<_>>())
                .bind(deltas.iter().map(|delta| delta.application).collect::<Vec<_>>())
                .bind(deltas.iter().map(|delta| delta.outcome).collect::<Vec<_>>())
                .bind(deltas.iter().map(|delta| List(&delta.event_types).to_string()).collect::<Vec<_>>())
                .bind(deltas.iter().map(|delta| List(&delta.counts).to_string()).collect::<Vec<_>>()),
        })
    }

    fn times(item: &EventRow) -> Option<(i64, i64)> {
        Some((item.timestamp_us, item.received_at_us))
    }

    fn duplicate_counts(item: &EventRow) -> bool {
        !item.redriven
    }

    fn counted(item: &EventRow, ids: Ids) -> Counted {
        Counted::new(item.received_at_us, ids.event_type, item.application_id, Ended::Stored)
    }
}

/// The table `dead_letters`.
pub(super) enum DeadLetters {}

impl Table for DeadLetters {
    type Item = DeadLetter;
    const NAME: &'static str = "dead_letters";
    const COPY: &'static str = concat!("copy dead_letters (", dead_letter_columns!(), ") from stdin (format binary)");
    const CREATE_INCOMING: &'static str =
        "create temporary table if not exists incoming (like dead_letters) on commit delete rows";
    const COPY_INCOMING: &'static str =
        concat!("copy pg_temp.incoming (", dead_letter_columns!(), ") from stdin (format binary)");
    const MERGE: &'static str = concat!(
        "insert into dead_letters (",
        dead_letter_columns!(),
        ") select ",
        dead_letter_columns!(),
        " from pg_temp.incoming order by id, received_at on conflict do nothing returning id, received_at, id"
    );
    // The gateway makes the id of a dead letter, so a row that is there is always its own.
    const OWN: Option<&'static str> = None;

    fn key(item: &DeadLetter) -> Key {
        (item.id, item.received_at_us, item.id)
    }

    // Only for the counts: the row keeps the words. What no event could be named is no event type.
    fn event_type(item: &DeadLetter) -> Option<(&str, &str)> {
        let (category, name) = (item.category.as_deref()?, item.name.as_deref()?);
        (is_word(category) && is_word(name)).then_some((category, name))
    }

    fn module(item: &DeadLetter) -> Option<&Digest> {
        item.module.as_ref()
    }

    fn encode(item: &DeadLetter, ids: Ids, out: &mut Vec<u8>) {
        copy::dead_letter(item, ids, out);
    }

    fn insert<'a>(_: &[&'a DeadLetter], _: &[usize], _: &[Ids], _: &Tally) -> Option<Query<'a, Postgres, PgArguments>> {
        None
    }

    // Their months are made ahead.
    fn times(_: &DeadLetter) -> Option<(i64, i64)> {
        None
    }

    fn duplicate_counts(_: &DeadLetter) -> bool {
        true
    }

    fn counted(item: &DeadLetter, ids: Ids) -> Counted {
        Counted::new(item.received_at_us, ids.event_type, item.application_id, item.reason.into())
    }
}

/// Whether the envelope lets this be a category or a name.
fn is_word(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && text.trim() == text && !text.chars().any(char::is_control)
}

impl Weigh for EventRow {
    fn bytes(&self) -> usize {
        self.data.as_bytes().len() + ROW_BYTES
    }
}

impl Weigh for DeadLetter {
    fn bytes(&self) -> usize {
        let violations: usize = self.violations.iter().map(Violation::bytes).sum();
        self.raw.len() + self.detail.len() + violations + ROW_BYTES
    }
}

/// Writes accepted events; one for each writer task.
pub struct EventSink(pub(super) Writer<Events>);

impl Sink for EventSink {
    type Item = EventRow;

    async fn write(&mut self, items: &[&EventRow]) -> Result<Vec<Fate>, Failure> {
        self.0.write(items).await
    }

    async fn batch_ended(&mut self) {
        self.0.batch_ended().await;
    }
}

/// Writes dead letters; one for each writer task.
pub struct DeadLetterSink(pub(super) Writer<DeadLetters>);

impl Sink for DeadLetterSink {
    type Item = DeadLetter;

    async fn write(&mut self, items: &[&DeadLetter]) -> Result<Vec<Fate>, Failure> {
        self.0.write(items).await
    }

    async fn batch_ended(&mut self) {
        self.0.batch_ended().await;
    }
}

/// Where the rows of a batch stand in their order, and which of them are only repetitions.
struct Order {
    /// Indexes of the items to write, ordered by key.
    rows: Vec<usize>,
    /// For each item: stored, unless an earlier item of the same batch has its key.
    fates: Vec<Fate>,
}

/// Rows in the order of the primary key touch each page of its index once.
fn order<T: Table>(items: &[&T::Item]) -> Order {
    let mut rows: Vec<usize> = (0..items.len()).collect();
    rows.sort_by_cached_key(|&index| (T::key(items[index]), index));
    let mut fates = vec![Fate::Stored; items.len()];
    rows.dedup_by(|later, first| {
        let same = T::key(items[*later]) == T::key(items[*first]);
        if same {
            fates[*later] = Fate::Duplicate;
        }
        same
    });
    Order { rows, fates }
}

/// What a write gets after one that got `allowed` and took less. It comes down by halves, since a small batch says little
/// of the next large one.
fn allowed_after(took: Duration, allowed: Duration, flush_time: Duration) -> Duration {
    (took * FLUSH_SLACK).max(allowed / 2).max(FLUSH_FIRST).min(flush_time)
}

/// What a write gets after one that got no answer.
fn allowed_after_none(allowed: Duration, flush_time: Duration) -> Duration {
    (allowed * 2).min(FLUSH_MOST.max(flush_time))
}

/// One writer's connection to the database and what it must remember between tries.
pub(super) struct Writer<T: Table> {
    options: PgConnectOptions,
    flush_time: Duration,
    /// What the next write gets.
    allowed: Duration,
    /// Taken out while a write runs: if the write breaks off at any point, the connection goes with it.
    link: Option<Link>,
    /// The server's side of the connection that was last in use.
    lost: Option<Backend>,
    /// A commit of this batch was under way when a try broke off, so any row of it may be there already.
    uncertain: bool,
    /// Batches that still go the conflict path.
    wary: u32,
    appended: Appended,
    buffer: Vec<u8>,
    months: Arc<OnDemand>,
    schema: SchemaGate,
    table: std::marker::PhantomData<fn() -> T>,
}

impl<T: Table> Writer<T> {
    pub(super) fn new(
        options: PgConnectOptions,
        flush_time: Duration,
        months: Arc<OnDemand>,
        schema: SchemaGate,
    ) -> Self {
        Writer {
            options: options.application_name(&format!("eye writer {}", T::NAME)),
            flush_time,
            allowed: FLUSH_FIRST.min(flush_time),
            link: None,
            lost: None,
            uncertain: false,
            wary: 0,
            appended: Appended::default(),
            buffer: Vec::new(),
            months,
            schema,
            table: std::marker::PhantomData,
        }
    }

    async fn write(&mut self, items: &[&T::Item]) -> Result<Vec<Fate>, Failure> {
        let link = match self.link.take() {
            Some(link) => link,
            None if !self.schema.opened(OPEN_MOST).await => {
                return Err(Failure::Transient("the schema of the database is not proved yet".to_owned()));
            }
            None => match timeout(OPEN_MOST, Link::open(&self.options, self.lost.clone())).await {
                Ok(Ok(link)) => link,
                Ok(Err(cause)) => return Err(Failure::Transient(cause.to_string())),
                Err(_) => {
                    return Err(Failure::Transient(format!("no connection within {} ms", OPEN_MOST.as_millis())));
                }
            },
        };
        let (allowed, began) = (self.allowed, Instant::now());
        let result = {
            // Pinned here, since it is large, and the time limit would move it.
            let attempt = pin!(self.attempt(link, items));
            timeout(allowed, attempt).await
        };
        let Ok(result) = result else {
            self.allowed = allowed_after_none(allowed, self.flush_time);
            return Err(Failure::Transient(format!("no answer within {} ms", allowed.as_millis())));
        };
        match result {
            Ok(fates) => {
                self.allowed = allowed_after(began.elapsed(), allowed, self.flush_time);
                Ok(fates)
            }
            Err(cause) => {
                let (code, message) = words(&cause);
                match class(&cause) {
                    Class::Data => Err(Failure::Data { code, message }),
                    // A unique violation comes to here only from the small tables, where the next try finds the row.
                    Class::Unique | Class::Again | Class::Lost => Err(Failure::Transient(cause.to_string())),
                }
            }
        }
    }

    /// One try. May be dropped at any point: `link` is empty then, and `uncertain` says whether a commit was sent.
    async fn attempt(&mut self, mut link: Link, items: &[&T::Item]) -> Result<Vec<Fate>, sqlx::Error> {
        self.lost = Some(link.backend.clone());
        let repeat = self.uncertain;
        let result = self.store(&mut link, items, repeat).await;
        if result.as_ref().is_err_and(|cause| class(cause) == Class::Lost) {
            // The connection is dropped, not closed in order: it may be out of step.
            return result;
        }
        // Also after a success: these may be only a part of the batch whose commit was lost from sight.
        self.uncertain = repeat;
        self.link = Some(link);
        result
    }

    /// No item of the batch comes again, so nothing that is there now can be of a former try. Its senders have their answers,
    /// so this is the time for what the writer does for itself.
    async fn batch_ended(&mut self) {
        self.uncertain = false;
        let Some(places) = self.appended.take() else { return };
        let Some(mut link) = self.link.take() else { return };
        match timeout(FLUSH_FIRST, counts::gather(&mut link.connection, places)).await {
            Ok(Err(error)) if class(&error) == Class::Lost => debug!(%error, "counts could not be gathered"),
            Ok(_) => self.link = Some(link),
            // The connection is out of step, and goes; nothing else is lost.
            Err(_) => debug!("counts could not be gathered in time"),
        }
    }

    async fn store(&mut self, link: &mut Link, items: &[&T::Item], repeat: bool) -> Result<Vec<Fate>, sqlx::Error> {
        let ids = link.resolve::<T>(items).await?;
        self.months.cover(&mut link.connection, items.iter().filter_map(|item| T::times(item))).await?;
        let order = order::<T>(items);
        if !repeat && self.wary == 0 {
            match self.write_straight(&mut link.connection, items, &order, &ids).await {
                Ok(()) => return Ok(order.fates),
                Err(cause) if class(&cause) == Class::Lost => return Err(cause),
                Err(cause) => {
                    link.connection.execute("rollback").await?;
                    if class(&cause) != Class::Unique {
                        return Err(cause);
                    }
                }
            }
        }
        if !link.incoming {
            link.connection.execute(T::CREATE_INCOMING).await?;
            link.incoming = true;
        }
        link.connection.execute("begin").await?;
        match self.merge(&mut link.connection, items, order, &ids, repeat).await {
            Err(cause) if class(&cause) != Class::Lost => {
                link.connection.execute("rollback").await?;
                Err(cause)
            }
            result => result,
        }
    }

    /// The straight path, up to its commit.
    async fn write_straight(
        &mut self,
        connection: &mut PgConnection,
        items: &[&T::Item],
        order: &Order,
        ids: &[Ids],
    ) -> Result<(), sqlx::Error> {
        let mut tally = Tally::default();
        for (index, fate) in order.fates.iter().enumerate() {
            let counted = T::counted(items[index], ids[index]);
            if *fate == Fate::Stored {
                tally.add(counted);
            } else if T::duplicate_counts(items[index]) {
                tally.add(counted.as_duplicate());
            }
        }
        if let Some(insert) = T::insert(items, &order.rows, ids, &tally) {
            self.uncertain = true;
            let places = insert.fetch_all(connection).await?;
            self.appended.add(places.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?);
            return Ok(());
        }
        connection.execute(AssertSqlSafe(format!("begin; {}", tally.statement()))).await?;
        self.copy(connection, T::COPY, items, &order.rows, ids).await?;
        self.uncertain = true;
        connection.execute("commit").await?;
        Ok(())
    }

    /// The conflict path, from after `begin` through `commit`.
    async fn merge(
        &mut self,
        connection: &mut PgConnection,
        items: &[&T::Item],
        order: Order,
        ids: &[Ids],
        repeat: bool,
    ) -> Result<Vec<Fate>, sqlx::Error> {
        let Order { rows, mut fates } = order;
        self.copy(connection, T::COPY_INCOMING, items, &rows, ids).await?;
        let mut own = keys(connection, T::MERGE).await?;
        let (new, conflicts) = (own.len(), own.len() < rows.len());
        let mut tally = Tally::default();
        for &index in rows.iter().filter(|&&index| own.contains(&T::key(items[index]))) {
            tally.add(T::counted(items[index], ids[index]));
        }
        match T::OWN {
            Some(query) if conflicts && repeat => own = keys(connection, query).await?,
            Some(_) => {}
            None => own.extend(rows.iter().map(|&index| T::key(items[index]))),
        }
        for &index in rows.iter().filter(|&&index| !own.contains(&T::key(items[index]))) {
            fates[index] = Fate::Duplicate;
        }
        // A former try of this batch that was committed unseen has counted its duplicates. If none of the rows is new,
        // it may have been, and they are not counted again.
        if !repeat || new > 0 {
            let counts = |index: usize| fates[index] == Fate::Duplicate && T::duplicate_counts(items[index]);
            for index in (0..items.len()).filter(|&index| counts(index)) {
                tally.add(T::counted(items[index], ids[index]).as_duplicate());
            }
        }
        self.uncertain = true;
        connection.execute(AssertSqlSafe(format!("{} commit", tally.statement()))).await?;
        self.wary = if conflicts { WARY_BATCHES } else { self.wary.saturating_sub(1) };
        debug!(table = T::NAME, rows = rows.len(), own = own.len(), "wrote on the conflict path");
        Ok(fates)
    }

    /// Sends the rows.
    async fn copy(
        &mut self,
        connection: &mut PgConnection,
        statement: &str,
        items: &[&T::Item],
        rows: &[usize],
        ids: &[Ids],
    ) -> Result<(), sqlx::Error> {
        // An error leaves the statement open; the caller drops the connection for every error but those that the
        // server itself has said at the end, in `finish`.
        let mut copy = connection.copy_in_raw(statement).await?;
        self.buffer.clear();
        self.buffer.extend_from_slice(HEADER);
        for &index in rows {
            T::encode(items[index], ids[index], &mut self.buffer);
            if self.buffer.len() >= CHUNK_BYTES {
                copy.send(&self.buffer[..]).await?;
                self.buffer.clear();
            }
        }
        self.buffer.extend_from_slice(&TRAILER);
        copy.send(&self.buffer[..]).await?;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_MAX);
        copy.finish().await?;
        Ok(())
    }
}

/// Runs one of a table's queries that give keys.
async fn keys(connection: &mut PgConnection, query: &'static str) -> Result<HashSet<Key>, sqlx::Error> {
    let rows: Vec<(Uuid, DateTime<Utc>, Uuid)> = sqlx::query_as(query).fetch_all(connection).await?;
    Ok(rows.into_iter().map(|(first, time, id)| (first, time.timestamp_micros(), id)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_server_gets_time_and_a_fast_one_is_missed_soon() {
        let (ms, flush_time) = (Duration::from_millis, Duration::from_secs(5));
        assert_eq!(allowed_after_none(FLUSH_FIRST, flush_time), ms(2_000));
        assert_eq!(
            allowed_after(ms(1_500), ms(2_000), flush_time),
            flush_time,
            "four times 1.5 s is more than the bound"
        );
        assert_eq!(allowed_after(ms(700), ms(2_000), flush_time), ms(2_800));
        let mut allowed = flush_time;
        for wanted in [2_500, 1_250, 1_000, 1_000] {
            allowed = allowed_after(ms(3), allowed, flush_time);
            assert_eq!(allowed, ms(wanted));
        }
        let grown = (0..10).fold(FLUSH_FIRST, |allowed, _| allowed_after_none(allowed, flush_time));
        assert_eq!(grown, FLUSH_MOST);
        assert_eq!(allowed_after(ms(3), ms(100), ms(100)), ms(100), "a shorter bound holds too");
    }

    #[test]
    fn few_rows_of_few_bytes_go_by_one_statement() {
        let goes = |count: usize, bytes: usize| {
            let row = EventRow {
                id: Uuid::nil(),
                session_id: Uuid::nil(),
                timestamp_us: 0,
                received_at_us: 0,
                category: "c".into(),
                name: "n".into(),
                application_id: 1,
                module: None,
                data: "1".repeat(bytes).into(),
                raw: Default::default(),
                redriven: false,
            };
            let (items, rows, ids) = (vec![&row; count], Vec::from_iter(0..count), vec![Ids::default(); count]);
            Events::insert(&items, &rows, &ids, &Tally::default()).is_some()
        };
        assert!(goes(1, 1) && goes(64, 300) && goes(1, INSERT_BYTES_MAX - ROW_BYTES));
        assert!(!goes(65, 1) && !goes(1, INSERT_BYTES_MAX) && !goes(64, INSERT_BYTES_MAX / 64));
    }
}
