//! The tables that are written in batches: their columns, the statements that write them, and the counters of their
//! rows.

use eye_event::event::{DeadLetter, EventRow};
use eye_event::verdict::{Digest, Violation};
use uuid::Uuid;

use super::copy::{self, Ids, JSONB_VERSION};
use super::counts::{Counted, DeltaRow, Ended};
use super::wire::{Arguments, Fault, Row, kind};
use crate::batch::Weigh;

/// About the fixed bytes of a row: ids, times, lengths.
pub(super) const ROW_BYTES: usize = 128;

macro_rules! event_columns {
    () => {
        "session_id, timestamp, id, received_at, event_type_id, application_id, module_id, data"
    };
}

macro_rules! dead_letter_columns {
    () => {
        "received_at, id, reason, code, detail, violations, application_id, module_id, event_id, session_id, \
         category, name, raw, raw_bytes, kept, raw_digest, last_words, request_id, traceparent"
    };
}

/// The key of a row, as the conflict path compares it.
pub(super) type Key = (Uuid, i64, Uuid);

/// A table that is written in batches.
pub(super) trait Table: Send + 'static {
    type Item: Weigh + Send + Sync + 'static;
    const NAME: &'static str;
    /// Copies rows into the table.
    const COPY: &'static str;
    /// Inserts rows from arrays except for those that exist, and returns the keys of the new rows. The rows are
    /// ordered, so that two writers with the same rows do not deadlock.
    const MERGE: &'static str;
    /// Runs in the transaction of `MERGE`. Returns the keys of the rows that this batch has written, now or in an
    /// earlier attempt.
    const OWN: Option<&'static str>;

    fn key(item: &Self::Item) -> Key;
    /// The key in a row of `MERGE` or `OWN`.
    fn read_key(row: &Row) -> Result<Key, Fault>;
    fn event_type(item: &Self::Item) -> Option<(&str, &str)>;
    fn module(item: &Self::Item) -> Option<&Digest>;
    fn encode(item: &Self::Item, ids: Ids, out: &mut Vec<u8>);
    /// Adds the columns as arrays, in their order: the arguments of `MERGE`.
    fn columns(items: &[&Self::Item], rows: &[usize], ids: &[Ids], arguments: &mut Arguments<'_>);
    /// Adds the arguments of `OWN`.
    fn own_columns(items: &[&Self::Item], rows: &[usize], arguments: &mut Arguments<'_>);
    /// The statement that inserts a few rows and their deltas, if the table has one. It returns the places of the
    /// deltas. Its arguments are the columns, then those of the deltas.
    fn insert(deltas: &[DeltaRow]) -> Option<&'static str>;
    /// The time of the event and of its receipt, if its month may lack a partition.
    fn times(item: &Self::Item) -> Option<(i64, i64)>;
    /// Whether an existing row counts as a duplicate.
    fn duplicate_counts(item: &Self::Item) -> bool;
    /// The counter of a written row.
    fn counted(item: &Self::Item, ids: Ids) -> Counted;
}

/// Inserts events from arrays in the order of `event_columns`, and then their counts. The arrays are unnested side by
/// side: in `from` the server would first store each column as a whole. The tests' proxy recognizes the statement by
/// its first words.
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

/// For events of one minute, application and outcome, as in most batches.
const INSERT_EVENTS_ALIKE: &str =
    insert_events!("values ($9::timestamptz, $10::integer, $11::text, $12::integer[], $13::bigint[])");
/// For other events. Arrays within an array must have the same length, so each is passed as text.
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
             unnest($13::bytea[]), unnest($14::integer[]), unnest($15::text[]), unnest($16::bytea[]), unnest($17::text[]), \
             unnest($18::text[]), unnest($19::text[]) \
         on conflict do nothing returning id, received_at"
    );
    // The gateway makes the ids of dead letters, so an existing row is always its own.
    const OWN: Option<&'static str> = None;

    fn key(item: &DeadLetter) -> Key {
        (item.id, item.received_at_us, item.id)
    }

    fn read_key(row: &Row) -> Result<Key, Fault> {
        Ok((row.uuid(0)?, row.time_us(1)?, row.uuid(0)?))
    }

    // Only for the counts, since the row has the words. Words that no event may have are no event type.
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
        texts(arguments, |letter| letter.request_id.as_deref());
        texts(arguments, |letter| letter.traceparent.as_deref());
    }

    fn own_columns(_: &[&DeadLetter], _: &[usize], _: &mut Arguments<'_>) {}

    fn insert(_: &[DeltaRow]) -> Option<&'static str> {
        None
    }

    // Retention creates their months ahead.
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

/// Whether the envelope allows this text as a category or a name.
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
        let optional = [&self.last_words, &self.request_id, &self.traceparent];
        let optional: usize = optional.into_iter().flatten().map(String::len).sum();
        self.raw.len() + self.detail.len() + optional + violations + ROW_BYTES
    }
}
