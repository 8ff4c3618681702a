//! What is kept, and for how long: the loop of the one gateway that tends the tables. It makes partitions ahead and on
//! demand, and has what is too old or too much removed, oldest first, in steps that no writer waits for. How rows and
//! partitions are removed is the store's.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};

use crate::clock::Clock;
use crate::config::Config;
use crate::store::{Cause, Error, Partition, Partitioned, Removed, Store, Strays, Taken, Tending};

/// How often the default partition is looked at for months that have none of their own. One step along an index.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest time for one round; a database that hangs must not hold the right to tend for ever.
const ROUND_TIME: Duration = Duration::from_secs(900);
/// Once there is too much, dead letters are trimmed to this share of the bound, in percent, so that the next trimming is
/// a while away.
const TRIM_TO_PERCENT: i64 = 90;
/// Events from before this time share the default partition: nobody means such a time, and each month has its price.
const STRAYS_SINCE: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// What may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Days that events are kept, whole months of them; 0 for ever.
    pub events_days: u64,
    /// Days that dead letters are kept; 0 for ever.
    pub dead_letters_days: u64,
    /// Most bytes of dead letters on disk, with indexes.
    pub dead_letters_bytes_max: i64,
    /// Days that counts by the minute are kept; 0 for ever.
    pub counts_minute_days: u64,
    /// Months after this one whose partitions are made.
    pub ahead_months: u32,
    /// Most partitions of events that are made on demand.
    pub event_partitions_max: usize,
}

impl Policy {
    /// What the settings say.
    pub fn of(config: &Config) -> Self {
        Self {
            events_days: config.events_days,
            dead_letters_days: config.dead_letters_days,
            dead_letters_bytes_max: config.dead_letters_bytes_max,
            counts_minute_days: config.counts_minute_days,
            ahead_months: config.partitions_ahead_months,
            event_partitions_max: config.event_partitions_max,
        }
    }
}

/// What this gateway has removed since it was started. The table `trimmed` has the sums of all gateways.
#[derive(Debug, Default)]
pub struct Trimmed {
    /// Dead letters that were too old.
    pub letters_by_age: AtomicI64,
    /// The oldest dead letters, when there were too many bytes of them.
    pub letters_by_size: AtomicI64,
    /// Bytes of both.
    pub letter_bytes: AtomicI64,
    /// Events that were too old; of a whole month, as many as the planner knew of.
    pub events_by_age: AtomicI64,
    /// Bytes of those.
    pub event_bytes: AtomicI64,
}

impl Trimmed {
    fn count(&self, table: Partitioned, cause: Cause, removed: Removed) {
        let (rows, bytes) = match (table, cause) {
            (Partitioned::Events, _) => (&self.events_by_age, &self.event_bytes),
            (Partitioned::DeadLetters, Cause::Age) => (&self.letters_by_age, &self.letter_bytes),
            (Partitioned::DeadLetters, Cause::Size) => (&self.letters_by_size, &self.letter_bytes),
        };
        rows.fetch_add(removed.rows, Ordering::Relaxed);
        bytes.fetch_add(removed.bytes, Ordering::Relaxed);
    }
}

/// Keeps the tables within the policy.
#[derive(Debug)]
pub struct Retention {
    policy: Policy,
    every: Duration,
    /// What was removed, for whoever watches.
    pub trimmed: Trimmed,
}

impl Retention {
    /// A round of trimming is run `every` so often.
    pub fn new(policy: Policy, every: Duration) -> Self {
        Self { policy, every, trimmed: Trimmed::default() }
    }

    /// Tends the tables for as long as it is polled. While another gateway does so, this one asks once a round whether
    /// that one is gone.
    pub async fn tend(&self, store: &Store, clock: &Clock) {
        loop {
            match store.tend().await {
                Ok(None) => {}
                Ok(Some(tending)) => {
                    if let Err(error) = self.rounds(tending, clock).await {
                        tracing::warn!(%error, "the tables could not be tended; trying again");
                    }
                }
                Err(error) => tracing::warn!(%error, "the tables cannot be tended now; trying again"),
            }
            tokio::time::sleep(self.every).await;
        }
    }

    async fn rounds(&self, mut tending: Tending, clock: &Clock) -> Result<(), Error> {
        loop {
            let now = time(clock.now_us());
            let slow = |_| Error::Slow(ROUND_TIME);
            tokio::time::timeout(ROUND_TIME, self.round(&mut tending, now)).await.map_err(slow)??;
            let next = tokio::time::Instant::now() + self.every;
            while tokio::time::Instant::now() < next {
                tokio::time::sleep(LOOK_EVERY.min(self.every)).await;
                tokio::time::timeout(ROUND_TIME, self.take_up_strays(&mut tending, now)).await.map_err(slow)??;
            }
        }
    }

    async fn round(&self, tending: &mut Tending, now: DateTime<Utc>) -> Result<(), Error> {
        for (table, cause, removed) in tending.sweep().await? {
            self.told(table, cause, removed, "what an earlier round left behind");
        }
        let left = tending.make_ahead(self.policy.ahead_months).await?;
        if !left.is_empty() {
            tracing::warn!(partitions = left.join(", "), "partitions could not be made ahead; trying again");
        }
        self.take_up_strays(tending, now).await?;
        if let Some(cutoff) = cutoff(now, self.policy.events_days) {
            self.trim_events(tending, cutoff).await?;
        }
        if let Some(cutoff) = cutoff(now, self.policy.dead_letters_days) {
            self.trim_letters_by_age(tending, cutoff).await?;
        }
        if let Some(cutoff) = cutoff(now, self.policy.counts_minute_days) {
            let mut minutes = 0;
            loop {
                let removed = tending.remove_minutes(cutoff).await?;
                minutes += removed;
                if removed == 0 {
                    break;
                }
            }
            if minutes > 0 {
                tracing::info!(minutes, "counts by the minute were trimmed");
            }
        }
        self.trim_letters_by_size(tending, now).await
    }

    /// Events that lie in the default partition get a partition for their month, unless retention is about to remove
    /// them.
    async fn take_up_strays(&self, tending: &mut Tending, now: DateTime<Utc>) -> Result<(), Error> {
        let kept = cutoff(now, self.policy.events_days).map(month_of);
        let since = kept.map_or(STRAYS_SINCE, |kept| kept.max(STRAYS_SINCE));
        let Strays { made, left } = tending.make_for_strays(since, self.policy.event_partitions_max).await?;
        if made > 0 {
            tracing::info!(made, "partitions were made for events of months that had none");
        }
        if !left.is_empty() {
            tracing::warn!(
                months = left.join(", "),
                "events of these months stay in the default partition: there are too many to move, too many partitions, \
                 or others hold the table; looking again with the next round"
            );
        }
        Ok(())
    }

    /// Whole months; and row by row where events of such months lie in the default partition.
    async fn trim_events(&self, tending: &mut Tending, cutoff: DateTime<Utc>) -> Result<(), Error> {
        for partition in tending.partitions(Partitioned::Events).await? {
            match partition.end {
                Some(end) if end <= cutoff => {
                    self.remove_partition(tending, Partitioned::Events, &partition, Cause::Age).await?;
                }
                Some(_) => {}
                None => {
                    self.remove_rows(tending, Partitioned::Events, &partition, month_of(cutoff), i64::MAX, Cause::Age)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Whole months where they are too old as a whole, and row by row what else is.
    async fn trim_letters_by_age(&self, tending: &mut Tending, cutoff: DateTime<Utc>) -> Result<(), Error> {
        for partition in tending.partitions(Partitioned::DeadLetters).await? {
            if partition.end.is_some_and(|end| end <= cutoff) {
                self.remove_partition(tending, Partitioned::DeadLetters, &partition, Cause::Age).await?;
            } else if partition.first.is_none_or(|first| first < cutoff) {
                self.remove_rows(tending, Partitioned::DeadLetters, &partition, cutoff, i64::MAX, Cause::Age).await?;
            }
        }
        Ok(())
    }

    async fn trim_letters_by_size(&self, tending: &mut Tending, now: DateTime<Utc>) -> Result<(), Error> {
        let taken = tending.taken().await?;
        let mut surplus = surplus(&taken, self.policy.dead_letters_bytes_max);
        for Taken { partition, bytes } in taken {
            if surplus <= 0 {
                return Ok(());
            }
            let over = partition.end.is_some_and(|end| end <= now);
            let freed = if over && bytes <= surplus {
                self.remove_partition(tending, Partitioned::DeadLetters, &partition, Cause::Size).await?
            } else {
                let all = DateTime::<Utc>::MAX_UTC;
                self.remove_rows(tending, Partitioned::DeadLetters, &partition, all, surplus, Cause::Size).await?
            };
            surplus -= freed;
        }
        Ok(())
    }

    /// Gives the bytes freed.
    async fn remove_partition(
        &self,
        tending: &mut Tending,
        table: Partitioned,
        partition: &Partition,
        cause: Cause,
    ) -> Result<i64, Error> {
        let Some(removed) = tending.remove_partition(partition, cause).await? else {
            tracing::warn!(partition = partition.name, "others hold the table, so a partition stays for now");
            return Ok(0);
        };
        self.told(table, cause, removed, &partition.name);
        Ok(removed.bytes)
    }

    /// In statements of a thousand rows. Gives the bytes freed.
    async fn remove_rows(
        &self,
        tending: &mut Tending,
        table: Partitioned,
        partition: &Partition,
        before: DateTime<Utc>,
        bytes_wanted: i64,
        cause: Cause,
    ) -> Result<i64, Error> {
        let mut sum = Removed::default();
        while sum.bytes < bytes_wanted {
            let removed = tending.remove_rows(partition, before, bytes_wanted - sum.bytes, cause).await?;
            if removed.rows == 0 {
                break;
            }
            self.trimmed.count(table, cause, removed);
            sum = Removed { rows: sum.rows + removed.rows, bytes: sum.bytes + removed.bytes };
        }
        if sum.rows > 0 {
            tracing::info!(
                partition = partition.name,
                cause = cause.as_str(),
                rows = sum.rows,
                bytes = sum.bytes,
                "trimmed"
            );
            tending.reuse(partition).await?;
        }
        Ok(sum.bytes)
    }

    fn told(&self, table: Partitioned, cause: Cause, removed: Removed, what: &str) {
        self.trimmed.count(table, cause, removed);
        let Removed { rows, bytes } = removed;
        tracing::info!(partition = what, table = table.as_str(), cause = cause.as_str(), rows, bytes, "trimmed");
    }
}

/// The time before which things are too old; none when they are kept for ever.
fn cutoff(now: DateTime<Utc>, days: u64) -> Option<DateTime<Utc>> {
    if days == 0 { None } else { now.checked_sub_days(Days::new(days)) }
}

/// The first moment of the month of a time.
fn month_of(time: DateTime<Utc>) -> DateTime<Utc> {
    let first = NaiveDate::from_ymd_opt(time.year(), time.month(), 1).and_then(|day| day.and_hms_opt(0, 0, 0));
    first.map_or(time, |first| first.and_utc())
}

/// Bytes to be freed: none within the bound, else down to a little below it.
fn surplus(taken: &[Taken], bytes_max: i64) -> i64 {
    let sum: i64 = taken.iter().map(|taken| taken.bytes).sum();
    if sum <= bytes_max { 0 } else { sum - bytes_max / 100 * TRIM_TO_PERCENT }
}

fn time(us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(us).expect("the wall clock is within the years of chrono")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn nothing_is_too_old_when_kept_for_ever() {
        let now = at("2026-11-23T10:00:00Z");
        assert_eq!(cutoff(now, 0), None);
        assert_eq!(cutoff(now, 30), Some(at("2026-10-24T10:00:00Z")));
        assert_eq!(month_of(at("2026-10-24T10:00:00Z")), at("2026-10-01T00:00:00Z"));
    }

    #[test]
    fn a_surplus_is_trimmed_to_below_the_bound() {
        let taken = |bytes| Taken {
            partition: Partition {
                table_name: "dead_letters".to_owned(),
                name: "dead_letters_2026_11".to_owned(),
                first: None,
                end: None,
                rows_estimate: None,
                bytes,
            },
            bytes,
        };
        assert_eq!(surplus(&[taken(600), taken(400)], 1_000), 0);
        assert_eq!(surplus(&[taken(600), taken(500)], 1_000), 200);
    }
}
