//! Counts events by outcome: the part of a batch's transaction that counts its rows, the gathering of many such parts
//! by a writer, and the fold of all of them. Counts are exact, since they are committed with their rows. No batch waits
//! for another, since each only appends.

use std::fmt::{self, Display, Write as _};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use eye_event::event::Reason;
use tokio::time::Instant;

use super::read::within;
use super::wire::{Arguments, Fault, Wire, kind};
use super::{Duty, Error, Store};

/// Most deltas of one fold, so that it does not hold its locks for long. Each has up to as many event types as a batch
/// has events, or as the gathered small batches have.
pub(crate) const FOLD_ROWS_MAX: u32 = 1_000;
/// Longest time of one fold. It is independent of the time limit of reads.
const FOLD_TIME: Duration = Duration::from_secs(10);
/// The additional time for its transaction.
const FOLD_MARGIN: Duration = Duration::from_secs(2);
/// Longest silence of a gateway within its transaction.
const FOLD_SILENT: Duration = Duration::from_secs(5);
const MINUTE_US: i64 = 60_000_000;

/// Longest time of a gather, since the next batch of its writer waits for it. The fold takes what is left.
const GATHER_TIME: &str = "select set_config('statement_timeout', '50', true)";

/// How many small batches a writer gathers at once.
const GATHER_BATCHES: usize = 64;
/// Average number of deltas per batch above which gathering is useless: deltas of different applications, outcomes or
/// minutes cannot be merged.
const GATHER_DELTAS_MAX: usize = 2;
/// How long a fold waits for running gathers.
const GATHERS_END: Duration = Duration::from_secs(1);
/// Merges the deltas at these places into one for each minute, application and outcome. The statement adds exactly the
/// deltas that it deletes, so it may find other rows at these places. It does not wait for a running fold, and makes
/// way for a waiting one. It does not wait for its commit either: if that is lost, the old deltas are still there.
const GATHERED: &str = "with taken as (delete from count_deltas where ctid = any($1::tid[]) and ( \
         select set_config('synchronous_commit', 'off', true) = 'off' \
             and pg_try_advisory_xact_lock_shared(hashtext('eye_gather_counts'))) \
         returning minute, application_id, outcome, event_type_ids, counts), \
     pairs as (select minute, application_id, outcome, of_type.event_type_id, sum(of_type.count)::bigint as count \
         from taken cross join lateral unnest(event_type_ids, counts) as of_type (event_type_id, count) \
         group by minute, application_id, outcome, of_type.event_type_id) \
     insert into count_deltas (minute, application_id, outcome, event_type_ids, counts) \
     select minute, application_id, outcome, array_agg(event_type_id), array_agg(count) \
     from pairs group by minute, application_id, outcome";

/// The outcome of an event in the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ended {
    Stored,
    Duplicate,
    Rejected,
    Quarantined,
}

impl Ended {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Rejected => Reason::Rejected.as_str(),
            Self::Quarantined => Reason::Quarantined.as_str(),
        }
    }
}

impl From<Reason> for Ended {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Rejected => Self::Rejected,
            Reason::Quarantined => Self::Quarantined,
        }
    }
}

/// The counter of a row. Minutes are those of receipt, since a refused event may have no readable time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counted {
    /// The parts that all rows of one delta have in common.
    delta: Delta,
    event_type: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Delta {
    /// The first moment of the minute, in seconds since 1970.
    minute_seconds: i64,
    application: i32,
    ended: Ended,
}

impl Counted {
    pub(super) fn new(received_at_us: i64, event_type: i32, application: i32, ended: Ended) -> Self {
        let minute_seconds = received_at_us.div_euclid(MINUTE_US) * 60;
        Self { delta: Delta { minute_seconds, application, ended }, event_type }
    }

    /// The counter of the same event as a duplicate.
    pub(super) fn as_duplicate(self) -> Self {
        Self { delta: Delta { ended: Ended::Duplicate, ..self.delta }, ..self }
    }
}

/// The counts of a batch: runs of rows with the same counter. A batch of one event type has one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Vec<(Counted, u64)>);

impl Tally {
    pub(super) fn add(&mut self, counted: Counted) {
        match self.0.last_mut() {
            Some((last, count)) if *last == counted => *count += 1,
            _ => self.0.push((counted, 1)),
        }
    }

    /// Merges runs with the same counter.
    fn add_up(&mut self) {
        self.0.sort_unstable_by_key(|(counted, _)| *counted);
        self.0.dedup_by(|(later, more), (counted, count)| {
            let same = later == counted;
            *count += if same { *more } else { 0 };
            same
        });
    }

    /// Converts the tally to rows of `count_deltas`.
    pub(super) fn deltas(mut self) -> Vec<DeltaRow> {
        self.add_up();
        let alike = self.0.chunk_by(|(one, _), (next, _)| one.delta == next.delta);
        alike
            .map(|rows| {
                let Delta { minute_seconds, application, ended } = rows[0].0.delta;
                DeltaRow {
                    minute_seconds,
                    application,
                    outcome: ended.as_str(),
                    event_types: rows.iter().map(|(counted, _)| counted.event_type).collect(),
                    counts: rows.iter().map(|(_, count)| i64::try_from(*count).expect("a batch is bounded")).collect(),
                }
            })
            .collect()
    }

    /// Whether the tally counts nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The statement that appends the tally, or an empty text. The text contains only numbers and words for outcomes.
    pub(super) fn statement(self) -> String {
        let mut text = String::new();
        for row in self.deltas() {
            text.push_str(if text.is_empty() {
                "insert into count_deltas (minute, application_id, outcome, event_type_ids, counts) values "
            } else {
                ", "
            });
            let DeltaRow { minute_seconds, application, outcome, event_types, counts } = &row;
            let (types, counts) = (List(event_types), List(counts));
            // Writing to a String cannot fail.
            let _ = write!(text, "(to_timestamp({minute_seconds}), {application}, '{outcome}', '{types}', '{counts}')");
        }
        if !text.is_empty() {
            text.push(';');
        }
        text
    }
}

/// A row of `count_deltas`: events of one minute, application and outcome.
#[derive(Clone, Debug)]
pub(super) struct DeltaRow {
    minute_seconds: i64,
    application: i32,
    outcome: &'static str,
    event_types: Vec<i32>,
    /// The number of events of each event type.
    counts: Vec<i64>,
}

impl DeltaRow {
    /// Adds the five columns as arguments.
    pub(super) fn put(&self, arguments: &mut Arguments<'_>) {
        arguments.time(self.minute_us());
        arguments.value(|out| out.extend_from_slice(&self.application.to_be_bytes()));
        arguments.value(|out| out.extend_from_slice(self.outcome.as_bytes()));
        arguments.integers(self.event_types.iter().copied());
        arguments.bigints(self.counts.iter().copied());
    }

    fn minute_us(&self) -> i64 {
        self.minute_seconds.saturating_mul(1_000_000)
    }
}

/// Adds the columns of all deltas as arguments. Arrays within an array must have the same length, so each is passed as
/// text.
pub(super) fn put_all(deltas: &[DeltaRow], arguments: &mut Arguments<'_>) {
    arguments.times(deltas.iter().map(DeltaRow::minute_us));
    arguments.integers(deltas.iter().map(|delta| delta.application));
    arguments.texts(deltas.iter().map(|delta| delta.outcome));
    let written = |out: &mut Vec<u8>, text: String| {
        out.extend_from_slice(text.as_bytes());
        true
    };
    arguments.array(kind::TEXT, deltas.iter().map(|delta| List(&delta.event_types).to_string()), written);
    arguments.array(kind::TEXT, deltas.iter().map(|delta| List(&delta.counts).to_string()), written);
}

/// Appends deltas from the arguments of [`put_all`].
pub(super) const APPEND: &str = "insert into count_deltas (minute, application_id, outcome, event_type_ids, counts) \
     select unnest($1::timestamptz[]), unnest($2::integer[]), unnest($3::text[]), \
         unnest($4::text[])::integer[], unnest($5::text[])::bigint[]";

/// Numbers in the text form of a Postgres array.
struct List<'a, N>(&'a [N]);

impl<N: Display> Display for List<'_, N> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = '{';
        for number in self.0 {
            write!(formatter, "{before}{number}")?;
            before = ',';
        }
        formatter.write_str(if self.0.is_empty() { "{}" } else { "}" })
    }
}

/// The places of the deltas of a writer's small batches. There are thousands of such batches per second. A fold of so
/// many deltas would delay batches longer than the writer takes to merge its own between two batches.
#[derive(Debug, Default)]
pub(super) struct Appended {
    batches: usize,
    places: Vec<RowPlace>,
}

/// The place of a row: its block and its number there, as the server sends it.
pub(super) type RowPlace = [u8; 6];

impl Appended {
    /// Adds the places of one batch's deltas.
    pub(super) fn add(&mut self, places: Vec<RowPlace>) {
        self.batches += 1;
        self.places.extend(places);
    }

    /// Returns the places once there are enough to gather. If gathering is useless it drops them, and the fold takes
    /// the deltas.
    pub(super) fn take(&mut self) -> Option<Vec<RowPlace>> {
        if self.batches < GATHER_BATCHES {
            return None;
        }
        let Self { batches, places } = std::mem::take(self);
        (places.len() <= batches * GATHER_DELTAS_MAX).then_some(places)
    }
}

/// Merges the deltas at these places. The fold takes those that cannot be merged.
pub(super) async fn gather(wire: &mut Wire, places: Vec<RowPlace>) -> Result<(), Fault> {
    let put = |arguments: &mut Arguments<'_>| {
        arguments.array(kind::TID, places.iter(), |out, place| {
            out.extend_from_slice(place);
            true
        });
    };
    // One transaction in one message.
    wire.statement(GATHER_TIME, |_| {});
    wire.statement(GATHERED, put);
    wire.commit();
    wire.send().await?;
    wire.finish().await?;
    Ok(())
}

impl Store {
    /// Adds up to `rows_max` deltas to the folded counts, and returns how many it took. Any number of gateways may call
    /// it; one folds at a time, and for the others it returns 0. A fold costs as much for few deltas of an event type
    /// as for many, so a caller should repeat it at once only if it took as many as it could.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Refused`], and [`Error::Slow`], after which a call with fewer rows may succeed. No
    /// error loses counts.
    pub async fn fold_counts(&self, rows_max: u32) -> Result<u64, Error> {
        let fold = async {
            let mut transaction = self.own.begin().await?;
            // The fold does not wait for its commit: if that is lost, the deltas are still there.
            sqlx::query(
                "select set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), \
                     set_config('synchronous_commit', 'off', true), \
                     set_config('idle_in_transaction_session_timeout', $3, true)",
            )
            .bind(FOLD_TIME.as_millis().to_string())
            .bind(GATHERS_END.as_millis().to_string())
            // A gateway that is frozen within its fold must not keep the others from folding.
            .bind(FOLD_SILENT.as_millis().to_string())
            .execute(&mut *transaction)
            .await?;
            // A statement of its own, so that the fold sees the commit of the fold before it.
            let mine: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtext($1))")
                .bind(Duty::Folds.lock())
                .fetch_one(&mut *transaction)
                .await?;
            let mut taken: i64 = 0;
            if mine {
                sqlx::query("select pg_advisory_xact_lock(hashtext('eye_gather_counts'))")
                    .execute(&mut *transaction)
                    .await?;
                taken = sqlx::query_scalar("select fold_counts($1)")
                    .bind(i32::try_from(rows_max).unwrap_or(i32::MAX))
                    .fetch_one(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(u64::try_from(taken).unwrap_or_default())
        };
        let folded = within(Instant::now() + FOLD_TIME + FOLD_MARGIN, FOLD_TIME, fold).await;
        if matches!(folded, Err(Error::Refused(_) | Error::Slow(_))) {
            self.folds_failed.fetch_add(1, Relaxed);
        }
        folded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_of_many_applications_are_not_gathered() {
        let (mut few, mut many) = (Appended::default(), Appended::default());
        for batch in 0..64 {
            assert!(few.take().is_none() && many.take().is_none(), "{batch} batches");
            few.add(vec![[0; 6]]);
            many.add(vec![[0; 6]; 3]);
        }
        assert_eq!((few.take().map(|places| places.len()), many.take()), (Some(64), None));
        assert!(few.take().is_none() && many.places.is_empty(), "they are forgotten either way");
    }

    #[test]
    fn every_outcome_is_one_that_counts_may_have() {
        let schema = include_str!("../../../migrations/0005_counts.sql");
        let check = schema.lines().find(|line| line.contains("counts_outcome_check")).expect("the check of the table");
        for ended in [Ended::Stored, Ended::Duplicate, Reason::Rejected.into(), Reason::Quarantined.into()] {
            assert!(check.contains(&format!("'{}'", ended.as_str())), "{ended:?}");
        }
    }

    #[test]
    fn a_batch_is_counted_in_one_row_for_each_minute_application_and_outcome() {
        assert_eq!(Tally::default().statement(), "");
        let mut tally = Tally::default();
        for received_at_us in [59_999_999, 60_000_000, 119_999_999] {
            tally.add(Counted::new(received_at_us, 7, 1, Ended::Stored));
        }
        tally.add(Counted::new(60_000_001, 9, 1, Ended::Stored));
        tally.add(Counted::new(60_000_001, 7, 1, Ended::Stored).as_duplicate());
        tally.add(Counted::new(60_000_001, 7, 1, Ended::Stored));
        tally.add(Counted::new(60_000_001, 7, 2, Reason::Rejected.into()));
        assert_eq!(
            tally.statement(),
            "insert into count_deltas (minute, application_id, outcome, event_type_ids, counts) values \
             (to_timestamp(0), 1, 'stored', '{7}', '{1}'), (to_timestamp(60), 1, 'stored', '{7,9}', '{3,1}'), \
             (to_timestamp(60), 1, 'duplicate', '{7}', '{1}'), (to_timestamp(60), 2, 'rejected', '{7}', '{1}');"
        );
    }
}
