//! Writes batches: one batch is one transaction, and a batch that is retried is never stored twice.
//!
//! The straight path is `copy` into the table, together with the batch's counts (see `counts.rs`); for few events it is
//! one `insert` that also counts them, which costs the server more per row and less per batch (BENCHMARKS.md has the
//! figures). Either takes one message and its answer: the rows follow the statement without a wait for its
//! confirmation. Both fail if a row exists already. Then the batch takes the conflict path: `insert .. on conflict do
//! nothing`, which returns the new rows, and then the counts with the commit. That takes two messages.
//!
//! A batch with rows that were written recently (`recent.rs`) takes both paths in one transaction of two messages:
//! these rows by the conflict path, then all others by `copy`.
//!
//! If a connection breaks during a commit, the rows may be stored or not. The retry takes the conflict path. An
//! existing row with the `received_at` of the item was written by the first attempt, so its sender gets `stored`.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use eye_event::event::{DeadLetter, EventRow};
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::connection::{Backend, Class, Connection, class_of_fault, is_of_the_moment};
use super::copy::{HEADER, Ids, TRAILER};
use super::counts::{self, APPEND, Appended, Tally};
use super::hosts::Hosts;
use super::outage::{Outage, Word, shown};
use super::partitions::OnDemand;
use super::prove::Ground;
use super::recent::RecentKeys;
use super::schema::SchemaGate;
use super::table::{DeadLetters, Events, Key, Table};
use super::wire::{Fault, Row, Wire};
use crate::batch::{Failure, Fate, Sink, Weigh};

/// Rows are sent whenever this many bytes have gathered, so that the buffer stays small.
const CHUNK_BYTES: usize = 128 * 1024;
/// Batches of more rows are cheaper by `copy`.
const INSERT_ROWS_MAX: usize = 64;
/// Batches of more bytes take `copy` too. With a statement the server reads all arguments before it writes a row, and
/// parsed JSON may take two hundred times the memory of its text. With `copy` it frees that memory after each row.
const INSERT_BYTES_MAX: usize = 256 * 1024;
/// Writes a word into the server's WAL, so that a transaction without rows waits for a synchronous standby like any
/// other. A row that it found may be committed on this server alone: the successor of an abandoned writer ends that
/// writer's wait for the standby.
const MARK: &str = "select pg_logical_emit_message(true, 'eye', '')";
/// After a conflict, this many batches without one must pass before the straight path is tried again. Senders repeat
/// events in runs, and a failed `copy` costs about as much as three more batches on the conflict path.
const WARY_BATCHES: u32 = 3;
/// Longest wait for a connection. It is short, since another attempt may succeed while one never gets an answer. With
/// the longest pause between attempts, a server that is back is found within two seconds.
const OPEN_MOST: Duration = Duration::from_millis(1_400);
/// The time for a write on a server that has been fast so far. It is how long a silently lost connection stays
/// unnoticed, so it leaves room within two seconds for a new connection and the write.
const FLUSH_FIRST: Duration = Duration::from_secs(1);
/// A write gets this many times the duration of the last one, if that is longer: a slow server is not a lost one.
const FLUSH_SLACK: u32 = 4;
/// Each time-out doubles the time of the next attempt up to this, so that a slow server is not given batches forever
/// that it cannot finish.
const FLUSH_MOST: Duration = Duration::from_secs(60);
/// A writer that writes nothing for this long logs it. A connection that is lost and replaced is not logged.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// Writes accepted events. Each writer task has one.
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

/// Writes dead letters. Each writer task has one.
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

/// The order of a batch's rows, and the repetitions among them.
struct Order {
    /// The indexes of the items to write, ordered by key.
    rows: Vec<usize>,
    /// The fate of each item: stored, unless an earlier item of the batch has its key.
    fates: Vec<Fate>,
}

/// Orders rows by the primary key, so that each page of its index is visited once.
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

/// The time for the next write after one that had `allowed` and took less. It shrinks by halves at most, since a small
/// batch says little about the next large one.
fn allowed_after(took: Duration, allowed: Duration, flush_time: Duration) -> Duration {
    (took * FLUSH_SLACK).max(allowed / 2).max(FLUSH_FIRST).min(flush_time)
}

/// The time for the next write after one without an answer.
fn allowed_after_none(allowed: Duration, flush_time: Duration) -> Duration {
    (allowed * 2).min(FLUSH_MOST.max(flush_time))
}

/// The connection of one writer, and its state between attempts.
pub(super) struct Writer<T: Table> {
    hosts: Arc<Hosts>,
    /// Creates partitions before a batch is written.
    own: PgPool,
    name: String,
    flush_time: Duration,
    /// The time for the next write.
    allowed: Duration,
    /// Taken during a write, so that a write that ends early drops the connection.
    link: Option<Connection>,
    /// The server's process of the last connection. The next connection ends it.
    lost: Option<Backend>,
    /// An attempt at this batch ended during its commit, so any row of it may exist.
    uncertain: bool,
    /// The number of batches that still take the conflict path.
    wary: u32,
    appended: Appended,
    months: Arc<OnDemand>,
    schema: SchemaGate,
    /// The gate has been open.
    proved: bool,
    /// Recently written keys, for the table of events only.
    recent: Option<Arc<RecentKeys>>,
    /// Whether the database is known to be away.
    ground: Arc<Ground>,
    /// Whether this writer fails to write.
    outage: Outage,
    table: std::marker::PhantomData<fn() -> T>,
}

impl<T: Table> Writer<T> {
    pub(super) fn new(
        hosts: Arc<Hosts>,
        own: PgPool,
        flush_time: Duration,
        months: Arc<OnDemand>,
        schema: SchemaGate,
        recent: Option<Arc<RecentKeys>>,
        ground: Arc<Ground>,
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
            recent,
            ground,
            outage: Outage::default(),
            table: std::marker::PhantomData,
        }
    }

    /// The connection of the last write, or a new one.
    async fn link(&mut self) -> Result<Connection, Failure> {
        if let Some(link) = self.link.take() {
            return Ok(link);
        }
        let limit = OPEN_MOST.max(self.hosts.connect_time());
        match timeout(limit, pin!(Connection::open(&self.hosts, &self.name, self.lost))).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(cause)) => Err(Failure::Transient(cause.to_string())),
            Err(_) => Err(Failure::Transient(format!("no connection within {} ms", limit.as_millis()))),
        }
    }

    /// Connects before the first batch. If that fails, the first batch connects.
    async fn begin(&mut self) {
        match self.link().await {
            Ok(link) => self.link = Some(link),
            Err(
                Failure::Transient(cause)
                | Failure::Data { message: cause, .. }
                | Failure::Refusal { message: cause, .. },
            ) => {
                debug!(writer = self.name, cause, "no connection to begin with");
            }
        }
    }

    async fn write(&mut self, items: &[&T::Item]) -> Result<Vec<Fate>, Failure> {
        let result = self.write_untold(items).await;
        match &result {
            Err(Failure::Transient(cause)) => self.tell(cause),
            _ => {
                if let Some(time) = self.outage.works() {
                    info!(writer = self.name, after = shown(time), "the writer writes again");
                }
            }
        }
        result
    }

    /// Logs why this writer does not write, if that lasts and the log does not have the outage of the database as its
    /// cause.
    fn tell(&self, cause: &str) {
        if self.ground.is_away() {
            return;
        }
        match self.outage.fails(cause, TOLD_AFTER) {
            Some(Word::Begins) => warn!(writer = self.name, cause, "a writer gets nothing written"),
            Some(Word::Changes) => {
                warn!(writer = self.name, cause, "a writer still gets nothing written, for another cause")
            }
            None => {}
        }
    }

    async fn write_untold(&mut self, items: &[&T::Item]) -> Result<Vec<Fate>, Failure> {
        self.proved = self.proved || self.schema.opened(OPEN_MOST).await;
        if !self.proved {
            return Err(Failure::Transient("the schema of the database is not proved yet".to_owned()));
        }
        let link = self.link().await?;
        self.months.cover(&self.own, items.iter().filter_map(|item| T::times(item))).await;
        let (allowed, began) = (self.allowed, Instant::now());
        let result = {
            // Pinned here, since the future is large, and the time limit would move it.
            let attempt = pin!(self.attempt(link, items));
            timeout(allowed, attempt).await
        };
        let Ok(result) = result else {
            self.allowed = allowed_after_none(allowed, self.flush_time);
            if let Some(lost) = self.lost {
                self.hosts.avoid(lost.place);
            }
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
                // A unique violation gets here only from small tables. The retry finds the row.
                (_, cause) if is_of_the_moment(&cause) => Failure::Transient(cause.to_string()),
                (_, Fault::Refused(refusal)) => Failure::Refusal { code: refusal.code, message: refusal.message },
                (_, cause) => Failure::Transient(cause.to_string()),
            }),
        }
    }

    /// One attempt. If it is dropped, `link` is empty, and `uncertain` says whether a commit was sent.
    async fn attempt(&mut self, mut link: Connection, items: &[&T::Item]) -> Result<Vec<Fate>, Fault> {
        self.lost = Some(link.backend);
        let repeat = self.uncertain;
        let result = self.store(&mut link, items, repeat).await;
        if result.as_ref().is_err_and(|cause| class_of_fault(cause) == Class::Lost) {
            // The connection is dropped without a farewell, since it may be out of step.
            self.hosts.doubt();
            return result;
        }
        // Kept after a success too: these items may be only a part of a batch whose commit was lost.
        self.uncertain = repeat;
        self.link = Some(link);
        result
    }

    /// No item of the batch comes again, so no existing row can be of an earlier attempt. The senders have their
    /// answers, so the writer has time for its own work.
    async fn batch_ended(&mut self) {
        self.uncertain = false;
        let Some(places) = self.appended.take() else { return };
        let Some(mut link) = self.link.take() else { return };
        match timeout(FLUSH_FIRST, counts::gather(&mut link.wire, places)).await {
            Ok(Err(error)) if !error.in_order() => debug!(%error, "counts could not be gathered"),
            Ok(_) => self.link = Some(link),
            // The connection is out of step and is dropped. Nothing else is lost.
            Err(_) => debug!("counts could not be gathered in time"),
        }
    }

    async fn store(&mut self, link: &mut Connection, items: &[&T::Item], repeat: bool) -> Result<Vec<Fate>, Fault> {
        let ids = link.resolve::<T>(items).await?;
        let order = order::<T>(items);
        let again = if repeat { Vec::new() } else { self.likely_there(items, &order.rows) };
        let fates = self.store_rows(&mut link.wire, items, order, &again, &ids, repeat).await?;
        if let Some(recent) = &self.recent {
            for item in items {
                recent.note(&T::key(item));
            }
        }
        Ok(fates)
    }

    /// The rows that were written recently, in their order.
    fn likely_there(&self, items: &[&T::Item], rows: &[usize]) -> Vec<usize> {
        let Some(recent) = &self.recent else { return Vec::new() };
        rows.iter().copied().filter(|&index| recent.holds(&T::key(items[index]))).collect()
    }

    async fn store_rows(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: Order,
        again: &[usize],
        ids: &[Ids],
        repeat: bool,
    ) -> Result<Vec<Fate>, Fault> {
        // A few rows beside recent ones are not worth a `copy`.
        let mixed = !again.is_empty() && order.rows.len() - again.len() <= INSERT_ROWS_MAX;
        let tried = if repeat || self.wary > 0 || mixed {
            None
        } else if again.is_empty() {
            Some(self.write_straight(wire, items, &order, ids).await.map(|()| order.fates.clone()))
        } else {
            Some(self.write_around(wire, items, &order, again, ids).await)
        };
        match tried {
            None => {}
            Some(Ok(fates)) => return Ok(fates),
            // Nothing was committed.
            Some(Err(cause)) if class_of_fault(&cause) == Class::Unique => {
                debug!(table = T::NAME, rows = order.rows.len(), again = again.len(), %cause, "some rows are there already");
                self.uncertain = false;
            }
            Some(Err(cause)) => return Err(cause),
        }
        self.merge(wire, items, order, again.len(), ids, repeat).await
    }

    /// The straight path: one message, which is a transaction, and its answer.
    async fn write_straight(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: &Order,
        ids: &[Ids],
    ) -> Result<(), Fault> {
        let tally = tally_of::<T>(items, &order.fates, ids);
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

    /// Writes the rows that probably exist by the conflict path, and then all others by `copy` with the counts of the
    /// batch, in one transaction of two messages.
    async fn write_around(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: &Order,
        again: &[usize],
        ids: &[Ids],
    ) -> Result<Vec<Fate>, Fault> {
        let own = match self.ask(wire, items, again, ids, false).await {
            Err(cause) if class_of_fault(&cause) != Class::Lost => {
                wire.give_up().await?;
                return Err(cause);
            }
            answers => answers?.0,
        };
        let mut fates = order.fates.clone();
        for &index in again.iter().filter(|&&index| !own.contains(&T::key(items[index]))) {
            fates[index] = Fate::Duplicate;
        }
        let mut skipped = again.iter().peekable();
        let others: Vec<usize> =
            order.rows.iter().copied().filter(|index| skipped.next_if_eq(&index).is_none()).collect();
        // Two statements as text. After them the server ends the transaction that the rows before began.
        wire.script(&format!("{}{}", tally_of::<T>(items, &fates, ids).statement(), T::COPY));
        self.copy(wire, items, &others, ids).await?;
        wire.finish().await?;
        debug!(table = T::NAME, rows = order.rows.len(), again = again.len(), "wrote around what was likely there");
        Ok(fates)
    }

    /// The conflict path: the rows, then their counts with the commit. `expected` rows probably exist already; finding
    /// them does not make the writer wary.
    async fn merge(
        &mut self,
        wire: &mut Wire,
        items: &[&T::Item],
        order: Order,
        expected: usize,
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
        let (new, conflicts) = (own.len(), rows.len() - own.len() > expected);
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
        // An earlier attempt that was committed without an answer has counted its duplicates. If no row is new, this
        // may be such a batch, so they are not counted again.
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
        debug!(table = T::NAME, rows = rows.len(), new, expected, wary = self.wary, "wrote on the conflict path");
        Ok(fates)
    }

    /// Inserts the rows that do not exist, and returns their keys. If the batch may be stored already, it also returns
    /// the keys of its own rows. The transaction stays open.
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
                // From here on the batch may be committed.
                self.uncertain = true;
            }
            wire.send().await?;
        }
        Ok(())
    }
}

/// The counts of a batch, after the fate of each item is known.
fn tally_of<T: Table>(items: &[&T::Item], fates: &[Fate], ids: &[Ids]) -> Tally {
    let mut tally = Tally::default();
    for (index, fate) in fates.iter().enumerate() {
        let counted = T::counted(items[index], ids[index]);
        if *fate == Fate::Stored {
            tally.add(counted);
        } else if T::duplicate_counts(items[index]) {
            tally.add(counted.as_duplicate());
        }
    }
    tally
}

/// Whether these rows are written by one statement.
fn is_few<T: Table>(items: &[&T::Item], rows: &[usize]) -> bool {
    rows.len() <= INSERT_ROWS_MAX && rows.iter().map(|&index| items[index].bytes()).sum::<usize>() <= INSERT_BYTES_MAX
}

/// Divides rows into parts for one statement each. A part has at least one row.
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
    use uuid::Uuid;

    use super::super::table::ROW_BYTES;
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
