//! How many events ended how: the part of a batch's transaction that counts its rows, and the fold of what has gathered.
//! Exact, because counts and rows are committed together; no writer waits for it, because each only appends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::read::within;
use super::{Error, Store};

/// Deltas that one fold takes at most, so that it never holds its locks for long.
pub(crate) const FOLD_ROWS_MAX: u32 = 20_000;
/// Longest time of one fold. Its own: it has nothing to do with how long readers may wait.
const FOLD_TIME: Duration = Duration::from_secs(10);
/// What its transaction may take besides.
const FOLD_MARGIN: Duration = Duration::from_secs(2);
const MINUTE_US: i64 = 60_000_000;

/// What one row counts as. Minutes are those of receipt: a refused event may have no other time that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Counted {
    /// Seconds since 1970 of the first moment of the minute.
    minute_seconds: i64,
    event_type: i32,
    application: i32,
    outcome: &'static str,
}

impl Counted {
    pub(super) fn new(received_at_us: i64, event_type: i32, application: i32, outcome: &'static str) -> Self {
        Self { minute_seconds: received_at_us.div_euclid(MINUTE_US) * 60, event_type, application, outcome }
    }

    /// The same event, had it been there already.
    pub(super) fn as_duplicate(self) -> Self {
        Self { outcome: "duplicate", ..self }
    }
}

/// What a batch counts.
#[derive(Debug, Default)]
pub(super) struct Tally(BTreeMap<Counted, u64>);

impl Tally {
    pub(super) fn add(&mut self, counted: Counted) {
        *self.0.entry(counted).or_default() += 1;
    }

    /// The statement that appends it, or nothing. All that goes into the text are numbers and the words of outcomes.
    pub(super) fn statement(&self) -> String {
        let mut text = String::new();
        for (row, count) in &self.0 {
            text.push_str(if text.is_empty() {
                "insert into count_deltas (minute, event_type_id, application_id, outcome, count) values "
            } else {
                ", "
            });
            let Counted { minute_seconds, event_type, application, outcome } = row;
            // Writing to a String cannot fail.
            let _ = write!(text, "(to_timestamp({minute_seconds}), {event_type}, {application}, '{outcome}', {count})");
        }
        if !text.is_empty() {
            text.push(';');
        }
        text
    }
}

impl Store {
    /// Adds up to `rows_max` of what batches have counted to the folded counts, and gives how many deltas it took. To be
    /// called now and then, by any number of gateways: one of them folds at a time, and the others are told that there was
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Refused`], and [`Error::Slow`], after which fewer rows may fit; nothing is lost by any of
    /// them.
    pub async fn fold_counts(&self, rows_max: u32) -> Result<u64, Error> {
        let fold = async {
            let mut transaction = self.own.begin().await?;
            sqlx::query("select set_config('statement_timeout', $1, true)")
                .bind(FOLD_TIME.as_millis().to_string())
                .execute(&mut *transaction)
                .await?;
            // A statement of its own, so that the fold sees what the fold before it has committed.
            let mine: bool = sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtext('eye_fold_counts'))")
                .fetch_one(&mut *transaction)
                .await?;
            let mut taken: i64 = 0;
            if mine {
                taken = sqlx::query_scalar("select fold_counts($1)")
                    .bind(i32::try_from(rows_max).unwrap_or(i32::MAX))
                    .fetch_one(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(u64::try_from(taken).unwrap_or_default())
        };
        within(Instant::now() + FOLD_TIME + FOLD_MARGIN, FOLD_TIME, fold).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_counted_by_minute_type_application_and_outcome() {
        let mut tally = Tally::default();
        assert_eq!(tally.statement(), "");
        for received_at_us in [59_999_999, 60_000_000, 119_999_999] {
            tally.add(Counted::new(received_at_us, 7, 1, "stored"));
        }
        tally.add(Counted::new(60_000_001, 7, 1, "stored").as_duplicate());
        assert_eq!(
            tally.statement(),
            "insert into count_deltas (minute, event_type_id, application_id, outcome, count) values \
             (to_timestamp(0), 7, 1, 'stored', 1), (to_timestamp(60), 7, 1, 'duplicate', 1), \
             (to_timestamp(60), 7, 1, 'stored', 2);"
        );
    }
}
