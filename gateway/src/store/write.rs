//! Writing: one batch is one transaction, and a batch that is tried again is never there twice.
//!
//! The straight path is `copy` into the table itself, together with what the batch counts (see `counts.rs`), or, for few
//! events, one `insert` that counts them as well: it costs the server more for a row and less for a batch (BENCHMARKS.md has
//! what was measured). Either is one message and its answer: the rows go out behind the statement that takes them, without a
//! wait for the word that it does. When a row is there already, either can only fail, so the batch
//! goes the conflict path: `insert .. on conflict do nothing`, which tells the new
//! rows from those that were there, and then, with the commit, what the batch counts. That is two messages.
//!
//! When a connection breaks while a commit is under way, nobody knows whether the rows are there. The same batch then
//! goes the conflict path, and a row that is there with the very `received_at` of the item is this batch's own, so its
//! sender is told `stored`, which is the truth.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use eye_event::event::{DeadLetter, EventRow};
use eye_event::verdict::{Digest, Violation};
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};
use uuid::Uuid;

use super::copy::{self, HEADER, Ids, JSONB_VERSION, TRAILER};
use super::counts::{self, APPEND, Appended, Counted, DeltaRow, Ended, Tally};
use super::hosts::Hosts;
use super::link::{Backend, Class, Link, class_of_fault, is_of_the_moment};
use super::partitions::OnDemand;
use super::schema::SchemaGate;
use super::wire::{Arguments, Fault, Row, Wire, kind};
use crate::batch::{Failure, Fate, Sink, Weigh};

/// Rows are sent whenever this many bytes have gathered, so the buffer stays small however large the batch is.
const CHUNK_BYTES: usize = 128 * 1024;
/// Batches of more rows are cheaper by `copy`.
const INSERT_ROWS_MAX: usize = 64;
/// Batches of more bytes go by `copy` too: the server reads all arguments of a statement before it writes a row, and what it makes of
/// JSON on the way may take two hundred times as much memory as its text. By `copy` it lets go of that with each row.
const INSERT_BYTES_MAX: usize = 256 * 1024;
/// Nothing but a word in the log of the server, so that the commit of what wrote nothing waits like any other for a synchronous
/// standby: a row that was found there may be committed on this server alone, since a writer that is given up has its wait
/// for the standby ended by its successor.
const MARK: &str = "select pg_logical_emit_message(true, 'eye', '')";
/// After a conflict, so many batches without one must pass before the straight path is tried again: senders that
/// repeat themselves do so in runs, and a `copy` that fails has cost about as much as three batches more on the conflict path.
const WARY_BATCHES: u32 = 3;
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
         category, name, raw, raw_bytes, kept, raw_digest, last_words"
    };
}

/// The row's key as the conflict path compares it.
pub(super) type Key = (Uuid, i64, Uuid);

/// A table that is written in batches.
pub(super) trait Table: Send + 'static {
    type Item: Weigh + Send + Sync + 'static;
    const NAME: &'static str;
    /// Into the table itself.
    const COPY: &'static str;
    /// From arrays into the table, but for what is there; gives the keys of the new rows. The rows come in their order, so
    /// that two writers with the same rows do not wait for each other in a circle.
    const MERGE: &'static str;
    /// In the same transaction as `MERGE`: the keys of the rows that are this batch's own, new or not.
    const OWN: Option<&'static str>;

    fn key(item: &Self::Item) -> Key;
    /// The key in a row of `MERGE` or `OWN`.
    fn read_key(row: &Row) -> Result<Key, Fault>;
    fn event_type(item: &Self::Item) -> Option<(&str, &str)>;
    fn module(item: &Self::Item) -> Option<&Digest>;
    fn encode(item: &Self::Item, ids: Ids, out: &mut Vec<u8>);
    /// The columns as arrays, in their order: the arguments of `MERGE`.
    fn columns(items: &[&Self::Item], rows: &[usize], ids: &[Ids], arguments: &mut Arguments<'_>);
    /// The arguments of `OWN`.
    fn own_columns(items: &[&Self::Item], rows: &[usize], arguments: &mut Arguments<'_>);
    /// The statement that writes few rows and what they count in these deltas, if the table has one. It gives the places of
    /// the deltas; its arguments are the columns and then those of the deltas.
    fn insert(deltas: &[DeltaRow]) -> Option<&'static str>;
    /// When the event occurred and when it was received, if its month may have no partition yet.
    fn times(item: &Self::Item) -> Option<(i64, i64)>;
    /// Whether to find the row there counts as a duplicate.
    fn duplicate_counts(item: &Self::Item) -> bool;
    /// As what the row counts, once it is written.
    fn counted(item: &Self::Item, ids: Ids) -> Counted;
}

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
            " returning ctid"
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
    const MERGE: &'static str = concat!(
        "insert into events (",
        event_columns!(),
        ") select unnest($1::uuid[]), unnest($2::timestamptz[]), unnest($3::uuid[]), unnest($4::timestamptz[]), \
             unnest($5::integer[]), unnest($6::integer[]), unnest($7::integer[]), unnest($8::jsonb[]) \
         on conflict do nothing returning session_id, timestamp, id"
    );
    // `limit` keeps the planner from turning this into a join that reads the whole table.
    const OWN: Option<&'static str> = Some(
        "select wanted.session_id, wanted.timestamp, wanted.id \
         from (select unnest($1::uuid[]) as session_id, unnest($2::timestamptz[]) as timestamp, \
             unnest($3::uuid[]) as id, unnest($4::timestamptz[]) as received_at) wanted \
         cross join lateral (select received_at from events where events.session_id = wanted.session_id \
             and events.timestamp = wanted.timestamp and events.id = wanted.id limit 1) found \
         where found.received_at = wanted.received_at",
    );

    fn key(item: &EventRow) -> Key {
        (item.session_id, item.timestamp_us, item.id)
    }

    fn read_key(row: &Row) -> Result<Key, Fault> {
        Ok((row.uuid(0)?, row.time_us(1)?, row.uuid(2)?))
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

    fn columns(items: &[&EventRow], rows: &[usize], ids: &[Ids], arguments: &mut Arguments<'_>) {
        let events = || rows.iter().map(|&index| items[index]);
        Self::own_columns(items, rows, arguments);
        arguments.integers(rows.iter().map(|&index| ids[index].event_type));
        arguments.integers(events().map(|event| event.application_id));
        arguments.optional_integers(rows.iter().map(|&index| ids[index].module));
        arguments.array(kind::JSONB, events(), |out, event| {
            out.push(JSONB_VERSION);
            out.extend_from_slice(event.data.as_bytes());
            true
        });
    }

    fn own_columns(items: &[&EventRow], rows: &[usize], arguments: &mut Arguments<'_>) {
        let events = || rows.iter().map(|&index| items[index]);
        arguments.uuids(events().map(|event| event.session_id));
        arguments.times(events().map(|event| event.timestamp_us));
        arguments.uuids(events().map(|event| event.id));
        arguments.times(events().map(|event| event.received_at_us));
    }

    fn insert(deltas: &[DeltaRow]) -> Option<&'static str> {
        Some(if deltas.len() == 1 { INSERT_EVENTS_ALIKE } else { INSERT_EVENTS })
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
    const MERGE: &'static str = concat!(
        "insert into dead_letters (",
        dead_letter_columns!(),
        ") select unnest($1::timestamptz[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::text[]), \
             unnest($5::text[]), unnest($6::jsonb[]), unnest($7::integer[]), unnest($8::integer[]), \
             unnest($9::uuid[]), unnest($10::uuid[]), unnest($11::text[]), unnest($12::text[]), \
             unnest($13::bytea[]), unnest($14::integer[]), unnest($15::text[]), unnest($16::bytea[]) \
         on conflict do nothing returning id, received_at"
    );
    // The gateway makes the id of a dead letter, so a row that is there is always its own.
    const OWN: Option<&'static str> = None;

    fn key(item: &DeadLetter) -> Key {
        (item.id, item.received_at_us, item.id)
    }

    fn read_key(row: &Row) -> Result<Key, Fault> {
        Ok((row.uuid(0)?, row.time_us(1)?, row.uuid(0)?))
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

    fn columns(items: &[&DeadLetter], rows: &[usize], ids: &[Ids], arguments: &mut Arguments<'_>) {
        let letters = || rows.iter().map(|&index| items[index]);
        let texts = |arguments: &mut Arguments<'_>, text: fn(&DeadLetter) -> Option<&str>| {
            arguments.array(kind::TEXT, letters(), |out, letter| {
                text(letter).map(|text| out.extend_from_slice(copy::clean(text).as_bytes())).is_some()
            });
        };
        let uuids = |arguments: &mut Arguments<'_>, uuid: fn(&DeadLetter) -> Option<Uuid>| {
            arguments.array(kind::UUID, letters(), |out, letter| {
                uuid(letter).map(|uuid| out.extend_from_slice(uuid.as_bytes())).is_some()
            });
        };
        arguments.times(letters().map(|letter| letter.received_at_us));
        arguments.uuids(letters().map(|letter| letter.id));
        texts(arguments, |letter| Some(letter.reason.as_str()));
        texts(arguments, |letter| Some(&letter.code));
        texts(arguments, |letter| Some(&letter.detail));
        arguments.array(kind::JSONB, letters(), |out, letter| {
            out.push(JSONB_VERSION);
            out.extend_from_slice(copy::violations(&letter.violations).as_bytes());
            true
        });
        arguments.integers(letters().map(|letter| letter.application_id));
        arguments.optional_integers(rows.iter().map(|&index| ids[index].module));
        uuids(arguments, |letter| letter.event_id);
        uuids(arguments, |letter| letter.session_id);
        texts(arguments, |letter| letter.category.as_deref());
        texts(arguments, |letter| letter.name.as_deref());
        arguments.array(kind::BYTEA, letters(), |out, letter| {
            out.extend_from_slice(&letter.raw);
            true
        });
        arguments.integers(letters().map(|letter| i32::try_from(letter.raw_bytes).unwrap_or(i32::MAX)));
        texts(arguments, |letter| Some(letter.kept.as_str()));
        arguments.array(kind::BYTEA, letters(), |out, letter| {
            letter.raw_digest.map(|digest| out.extend_from_slice(&digest.0)).is_some()
        });
        texts(arguments, |letter| letter.last_words.as_deref());
    }

    fn own_columns(_: &[&DeadLetter], _: &[usize], _: &mut Arguments<'_>) {}

    fn insert(_: &[DeltaRow]) -> Option<&'static str> {
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
        let last_words = self.last_words.as_ref().map_or(0, String::len);
        self.raw.len() + self.detail.len() + last_words + violations + ROW_BYTES
    }
}

/// Writes accepted events; one for each writer task.
pub struct EventSink(pub(super) Writer<Events>);

impl Sink for EventSink {
    type Item = EventRow;

    async fn write(&mut self, items: &[&EventRow]) -> Result<Vec<Fate>, Failure> {
        self.0.write(items).await
    }

    async fn begin(&mut self) {
        self.0.begin().await;
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

    async fn begin(&mut self) {
        self.0.begin().await;
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
    hosts: Arc<Hosts>,
    /// For what is to be made before a batch can be written.
    own: PgPool,
    name: String,
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
    months: Arc<OnDemand>,
    schema: SchemaGate,
    /// The gate was seen open.
    proved: bool,
    table: std::marker::PhantomData<fn() -> T>,
}

impl<T: Table> Writer<T> {
    pub(super) fn new(
        hosts: Arc<Hosts>,
        own: PgPool,
        flush_time: Duration,
        months: Arc<OnDemand>,
        schema: SchemaGate,
    ) -> Self {
        Writer {
            name: format!("{} writer {}", hosts.address().application_name, T::NAME),
            hosts,
            own,
            flush_time,
            allowed: FLUSH_FIRST.min(flush_time),
            link: None,
            lost: None,
            uncertain: false,
            wary: 0,
            appended: Appended::default(),
            months,
            schema,
            proved: false,
            table: std::marker::PhantomData,
        }
    }

    /// The connection of the last write, or a new one.
    async fn link(&mut self) -> Result<Link, Failure> {
        if let Some(link) = self.link.take() {
            return Ok(link);
        }
        let limit = OPEN_MOST.max(self.hosts.connect_time());
        match timeout(limit, pin!(Link::open(&self.hosts, &self.name, self.lost))).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(cause)) => Err(Failure::Transient(cause.to_string())),
            Err(_) => Err(Failure::Transient(format!("no connection within {} ms", limit.as_millis()))),
        }
    }

    /// Before the first batch comes. A database that is away is found again with that batch.
    async fn begin(&mut self) {
        match self.link().await {
            Ok(link) => self.link = Some(link),
            Err(
                Failure::Transient(cause)
                | Failure::Data { message: cause, .. }
                | Failure::Refusal { message: cause, .. },
            ) => {
                warn!(writer = self.name, cause, "no connection to begin with");
            }
        }
    }

    async fn write(&mut self, items: &[&T::Item]) -> Result<Vec<Fate>, Failure> {
        self.proved = self.proved || self.schema.opened(OPEN_MOST).await;
        if !self.proved {
            return Err(Failure::Transient("the schema of the database is not proved yet".to_owned()));
        }
        let link = self.link().await?;
        self.months.cover(&self.own, items.iter().filter_map(|item| T::times(item))).await;
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
            Err(cause) => Err(match (class_of_fault(&cause), cause) {
                (Class::Data, Fault::Refused(refusal)) => {
                    Failure::Data { code: refusal.code, message: refusal.message }
                }
                // A unique violation comes to here only from the small tables, where the next try finds the row.
                (_, cause) if is_of_the_moment(&cause) => Failure::Transient(cause.to_string()),
                (_, Fault::Refused(refusal)) => Failure::Refusal { code: refusal.code, message: refusal.message },
                (_, cause) => Failure::Transient(cause.to_string()),
            }),
        }
    }

    /// One try. May be dropped at any point: `link` is empty then, and `uncertain` says whether a commit was sent.
    async fn attempt(&mut self, mut link: Link, items: &[&T::Item]) -> Result<Vec<Fate>, Fault> {
        self.lost = Some(link.backend);
        let repeat = self.uncertain;
        let result = self.store(&mut link, items, repeat).await;
        if result.as_ref().is_err_and(|cause| class_of_fault(cause) == Class::Lost) {
            // The connection is dropped, not closed in order: it may be out of step.
            self.hosts.doubt();
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
        match timeout(FLUSH_FIRST, counts::gather(&mut link.wire, places)).await {
            Ok(Err(error)) if !error.in_order() => debug!(%error, "counts could not be gathered"),
            Ok(_) => self.link = Some(link),
            // The connection is out of step, and goes; nothing else is lost.
            Err(_) => debug!("counts could not be gathered in time"),
        }
    }

    async fn store(&mut self, link: &mut Link, items: &[&T::Item], repeat: bool) -> Result<Vec<Fate>, Fault> {
        let ids = link.resolve::<T>(items).await?;
        let order = order::<T>(items);
        if !repeat && self.wary == 0 {
            match self.write_straight(&mut link.wire, items, &order, &ids).await {
                Ok(()) => return Ok(order.fates),
                // Nothing was committed.
                Err(cause) if class_of_fault(&cause) == Class::Unique => self.uncertain = false,
                Err(cause) => return Err(cause),
            }
        }
        self.merge(&mut link.wire, items, order, &ids, repeat).await
    }

    /// The straight path: one message, which is a transaction, and its answer.
    async fn write_straight(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: &Order,
        ids: &[Ids],
    ) -> Result<(), Fault> {
        let mut tally = Tally::default();
        for (index, fate) in order.fates.iter().enumerate() {
            let counted = T::counted(items[index], ids[index]);
            if *fate == Fate::Stored {
                tally.add(counted);
            } else if T::duplicate_counts(items[index]) {
                tally.add(counted.as_duplicate());
            }
        }
        if is_few::<T>(items, &order.rows) {
            let deltas = tally.clone().deltas();
            if let Some(insert) = T::insert(&deltas) {
                wire.statement(insert, |arguments| {
                    T::columns(items, &order.rows, ids, arguments);
                    match &deltas[..] {
                        [delta] => delta.put(arguments),
                        deltas => counts::put_all(deltas, arguments),
                    }
                });
                wire.commit();
                self.uncertain = true;
                wire.send().await?;
                let places = wire.finish().await?;
                self.appended.add(places.iter().map(|row| row.array(0)).collect::<Result<_, _>>()?);
                return Ok(());
            }
        }
        wire.script(&format!("{}{}", tally.statement(), T::COPY));
        self.copy(wire, items, &order.rows, ids).await?;
        wire.finish().await?;
        Ok(())
    }

    /// The conflict path: the rows, and then what they count with the commit.
    async fn merge(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: Order,
        ids: &[Ids],
        repeat: bool,
    ) -> Result<Vec<Fate>, Fault> {
        let Order { rows, mut fates } = order;
        let (mut own, found) = match self.ask(wire, items, &rows, ids, repeat).await {
            Err(cause) if class_of_fault(&cause) != Class::Lost => {
                wire.give_up().await?;
                return Err(cause);
            }
            answers => answers?,
        };
        let (new, conflicts) = (own.len(), own.len() < rows.len());
        let mut tally = Tally::default();
        for &index in rows.iter().filter(|&&index| own.contains(&T::key(items[index]))) {
            tally.add(T::counted(items[index], ids[index]));
        }
        match T::OWN {
            Some(_) => own.extend(found),
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
        if tally.is_empty() {
            wire.statement(MARK, |_| {});
        } else {
            wire.statement(APPEND, |arguments| counts::put_all(&tally.deltas(), arguments));
        }
        wire.commit();
        self.uncertain = true;
        wire.send().await?;
        wire.finish().await?;
        self.wary = if conflicts { WARY_BATCHES } else { self.wary.saturating_sub(1) };
        debug!(table = T::NAME, rows = rows.len(), own = own.len(), "wrote on the conflict path");
        Ok(fates)
    }

    /// Puts the rows that are not there, and asks which they were and, if the batch may be there already, which of all
    /// are its own. The transaction stays open.
    async fn ask(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        rows: &[usize],
        ids: &[Ids],
        repeat: bool,
    ) -> Result<(HashSet<Key>, HashSet<Key>), Fault> {
        let parts = parts::<T>(items, rows);
        for part in &parts {
            wire.statement(T::MERGE, |arguments| T::columns(items, part, ids, arguments));
        }
        let own = T::OWN.filter(|_| repeat);
        for (part, own) in parts.iter().filter_map(|part| Some((part, own?))) {
            wire.statement(own, |arguments| T::own_columns(items, part, arguments));
        }
        wire.ask();
        wire.send().await?;
        let keys = |rows: Vec<Row>| rows.iter().map(T::read_key).collect::<Result<HashSet<Key>, Fault>>();
        let new = keys(wire.answers(parts.len()).await?)?;
        let found = keys(wire.answers(own.map_or(0, |_| parts.len())).await?)?;
        Ok((new, found))
    }

    /// Sends the rows.
    async fn copy(&mut self, wire: &mut Wire, items: &[&T::Item], rows: &[usize], ids: &[Ids]) -> Result<(), Fault> {
        let mut left = rows.iter();
        let mut first = true;
        while !left.as_slice().is_empty() {
            wire.rows(|out| {
                let start = out.len();
                if std::mem::take(&mut first) {
                    out.extend_from_slice(HEADER);
                }
                while out.len() - start < CHUNK_BYTES
                    && let Some(&index) = left.next()
                {
                    T::encode(items[index], ids[index], out);
                }
                if left.as_slice().is_empty() {
                    out.extend_from_slice(&TRAILER);
                }
            });
            if left.as_slice().is_empty() {
                wire.rows_end();
                // From here on it may be committed.
                self.uncertain = true;
            }
            wire.send().await?;
        }
        Ok(())
    }
}

/// Whether these rows go by one statement.
fn is_few<T: Table>(items: &[&T::Item], rows: &[usize]) -> bool {
    rows.len() <= INSERT_ROWS_MAX && rows.iter().map(|&index| items[index].bytes()).sum::<usize>() <= INSERT_BYTES_MAX
}

/// Rows in parts that one statement may have, one row at least in each.
fn parts<'a, T: Table>(items: &[&T::Item], rows: &'a [usize]) -> Vec<&'a [usize]> {
    let mut bytes = 0;
    let mut parts = Vec::with_capacity(1);
    let mut start = 0;
    for (place, &index) in rows.iter().enumerate() {
        let more = items[index].bytes();
        if bytes > 0 && bytes + more > INSERT_BYTES_MAX {
            parts.push(&rows[start..place]);
            (start, bytes) = (place, 0);
        }
        bytes += more;
    }
    parts.push(&rows[start..]);
    parts
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
            is_few::<Events>(&vec![&row; count], &Vec::from_iter(0..count))
        };
        assert!(goes(1, 1) && goes(64, 300) && goes(1, INSERT_BYTES_MAX - ROW_BYTES));
        assert!(!goes(65, 1) && !goes(1, INSERT_BYTES_MAX) && !goes(64, INSERT_BYTES_MAX / 64));
    }
}
