//! Keeps the tables within their bounds. One gateway of a database tends them: it creates partitions ahead and on
//! demand, and removes rows that are too old or too many, oldest first, in small steps that do not block writers. It
//! trusts neither a single clock nor a single change of a setting, see [`due`]. The store knows how to remove rows and
//! partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::duties::Duties;
use crate::store::{Cause, Duty, Error, Partition, Partitioned, Removed, Store, Strays, Taken, Tending};

pub mod due;

use due::{Announcement, Ledger, Rule};

/// The time between two checks of the default partition for months without a partition. Each check is one index lookup.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest pause before the right to tend the tables is taken again.
const AGAIN: Duration = Duration::from_secs(5);
/// Longest time for one round. A database that hangs must not keep the right to tend forever.
const ROUND_TIME: Duration = Duration::from_secs(900);
/// When dead letters have too many bytes, they are trimmed to this percentage of the bound, so that trimming is rare.
const TRIM_TO_PERCENT: i64 = 90;
/// Events before this time share the default partition. Such times are mistakes of senders, and each partition has a
/// cost.
const STRAYS_SINCE: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// The bounds of the tables, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Days after which events are removed, in whole months; 0 keeps them forever.
    pub events_days: u64,
    /// Days after which dead letters are removed; 0 keeps them forever.
    pub dead_letters_days: u64,
    /// Most bytes of dead letters on disk, with indexes.
    pub dead_letters_bytes_max: i64,
    /// Days after which counts by the minute are removed; 0 keeps them forever.
    pub counts_minute_days: u64,
    /// Days after which entries of the audit trail are removed; 0 keeps them forever.
    pub audit_days: u64,
    /// How many months after the current one get their partitions ahead.
    pub ahead_months: u32,
    /// Most partitions of events that are created on demand.
    pub event_partitions_max: usize,
    /// Nothing is removed while the clocks of this gateway and the database differ by more.
    pub clock_skew_max: Duration,
}

impl Policy {
    /// The days that a rule by age keeps rows.
    fn days(&self, rule: Rule) -> u64 {
        match rule {
            Rule::EventsAge => self.events_days,
            Rule::DeadLettersAge => self.dead_letters_days,
            Rule::CountMinutesAge => self.counts_minute_days,
            Rule::AuditAge => self.audit_days,
            Rule::DeadLettersSize => 0,
        }
    }
}

/// The rows that this gateway has removed since its start, for the metrics. The table `trimmed` has the sums of all
/// gateways.
#[derive(Debug, Default)]
pub struct Trimmed {
    /// Dead letters that were too old.
    pub letters_by_age: AtomicI64,
    /// The oldest dead letters, when there were too many bytes of them.
    pub letters_by_size: AtomicI64,
    /// Bytes of both.
    pub letter_bytes: AtomicI64,
    /// Events that were too old. Of a whole month it is the planner's estimate.
    pub events_by_age: AtomicI64,
    /// Bytes of these.
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

/// What holds retention back, as of the last check of this gateway. Readiness and metrics read it.
#[derive(Debug, Default)]
struct Held {
    /// The database's clock minus this gateway's, in microseconds.
    clock_skew_us: AtomicI64,
    /// Whether the difference is more than `clock_skew_max`.
    clocks_differ: AtomicBool,
    /// A bit for each rule with an announcement, in the order of [`Rule::ALL`].
    announced: AtomicU8,
}

/// Keeps the tables within the policy. The metrics read its counters.
#[derive(Debug)]
pub struct Retention {
    /// Each round keeps the terms with which it began.
    terms: ArcSwap<Terms>,
    /// Notified when the terms change, so that no pause of the former length goes on.
    changed: Notify,
    /// The rows that this gateway has removed. The metrics read it.
    pub trimmed: Trimmed,
    held: Held,
}

/// The bounds, and the time between two rounds.
#[derive(Debug)]
struct Terms {
    policy: Policy,
    every: Duration,
}

impl Retention {
    /// Runs a round of trimming each `every`.
    pub fn new(policy: Policy, every: Duration) -> Self {
        let (trimmed, held, changed) = Default::default();
        Self { terms: ArcSwap::from_pointee(Terms { policy, every }), changed, trimmed, held }
    }

    /// Changes the bounds and the time between two rounds. The ledger in the database decides how far the next round may
    /// go, as after a restart with these bounds.
    pub fn change(&self, policy: Policy, every: Duration) {
        self.terms.store(Arc::new(Terms { policy, every }));
        self.changed.notify_one();
    }

    /// The database's clock minus this gateway's, in seconds.
    pub fn clock_skew_seconds(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a metric needs no more than 53 bits")]
        let us = self.held.clock_skew_us.load(Ordering::Relaxed) as f64;
        us / 1e6
    }

    /// Whether the two clocks differ by more than `clock_skew_max`.
    pub fn clocks_differ(&self) -> bool {
        self.held.clocks_differ.load(Ordering::Relaxed)
    }

    /// Whether this rule has announced a removal.
    pub fn is_announced(&self, rule: Rule) -> bool {
        self.held.announced.load(Ordering::Relaxed) >> rule as u8 & 1 == 1
    }

    /// Compares the clocks and reads the announcements. Every gateway does so, even if another one tends the tables.
    ///
    /// # Errors
    ///
    /// The errors of a read.
    pub async fn look(&self, store: &Store, clock: &Clock) -> Result<(), Error> {
        let asked_us = clock.now_us();
        let there = store.now().await?;
        self.compare(asked_us, there, clock);
        let announced = store.announced().await?;
        let bits = announced.iter().fold(0, |bits, (rule, _)| bits | 1_u8 << *rule as u8);
        self.held.announced.store(bits, Ordering::Relaxed);
        Ok(())
    }

    /// Records the database's time, which was read after `asked_us`. Returns whether the clocks agree.
    fn compare(&self, asked_us: i64, there: DateTime<Utc>, clock: &Clock) -> bool {
        // The database read its clock at an unknown moment of the round trip, so the smaller difference counts.
        let (earliest, latest) = (there.timestamp_micros() - clock.now_us(), there.timestamp_micros() - asked_us);
        let skew_us = if earliest > 0 { earliest } else { latest.min(0) };
        clock.saw_us(there.timestamp_micros());
        self.held.clock_skew_us.store(skew_us, Ordering::Relaxed);
        let differ = skew_us.unsigned_abs() > micros(self.terms.load().policy.clock_skew_max).unsigned_abs();
        let seconds = skew_us / 1_000_000;
        match (self.held.clocks_differ.swap(differ, Ordering::Relaxed), differ) {
            (false, true) => tracing::warn!(
                seconds,
                "the database's clock and this gateway's differ by more than clock_skew_max_s; nothing is trimmed until they \
                 agree: set the clock that is wrong"
            ),
            (true, false) => tracing::info!(seconds, "the database's clock and this gateway's agree again"),
            _ => {}
        }
        !differ
    }

    /// Tends the tables as long as it is polled and they are the duty of this gateway.
    pub async fn tend(&self, store: &Store, clock: &Clock, duties: &Duties) {
        loop {
            duties.held(Duty::Retention).await;
            let work = async {
                match store.tend().await? {
                    Some(tending) => self.rounds(tending, clock).await,
                    None => Ok(()),
                }
            };
            let every = self.terms.load().every;
            let pause = match duties.while_held(Duty::Retention, work).await {
                // Another gateway has the duty now.
                None => continue,
                // A session that cannot be ended has the right.
                Some(Ok(())) => every.min(AGAIN),
                Some(Err(error)) => {
                    warn_of(store, &error, "the tables could not be tended; trying again");
                    if matches!(error, Error::Refused(_)) {
                        duties.leave(Duty::Retention).await;
                    }
                    every
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    async fn rounds(&self, mut tending: Tending, clock: &Clock) -> Result<(), Error> {
        loop {
            let slow = |_| Error::Slow(ROUND_TIME);
            let asked_us = clock.now_us();
            let now = tokio::time::timeout(ROUND_TIME, tending.now()).await.map_err(slow)??;
            let agree = self.compare(asked_us, now, clock);
            let policy = self.terms.load().policy;
            let round = self.round(&mut tending, &policy, now, agree);
            tokio::time::timeout(ROUND_TIME, round).await.map_err(slow)??;
            let ended = tokio::time::Instant::now();
            while ended.elapsed() < self.terms.load().every {
                let pause = LOOK_EVERY.min(self.terms.load().every);
                tokio::time::sleep(pause).await;
                let policy = self.terms.load().policy;
                let strays = self.take_up_strays(&mut tending, &policy, now);
                tokio::time::timeout(ROUND_TIME, strays).await.map_err(slow)??;
            }
        }
    }

    /// One round, at the database's time. It removes nothing unless the clocks `agree`.
    async fn round(
        &self,
        tending: &mut Tending,
        policy: &Policy,
        now: DateTime<Utc>,
        agree: bool,
    ) -> Result<(), Error> {
        let left = tending.make_ahead(policy.ahead_months).await?;
        if !left.is_empty() {
            tracing::warn!(partitions = left.join(", "), "partitions could not be made ahead; trying again");
        }
        self.take_up_strays(tending, policy, now).await?;
        if !agree {
            return Ok(());
        }
        for (table, cause, removed) in tending.sweep().await? {
            self.told(table, cause, removed, "what an earlier round left behind");
        }
        for rule in [Rule::EventsAge, Rule::DeadLettersAge, Rule::CountMinutesAge, Rule::AuditAge] {
            self.trim_by_age(tending, policy, rule, now).await?;
        }
        self.keep_size(tending, policy, now).await
    }

    /// Removes the rows that a rule allows to remove now, as far as the ledger allows it, and announces the rest.
    async fn trim_by_age(
        &self,
        tending: &mut Tending,
        policy: &Policy,
        rule: Rule,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let before = tending.ledger(rule).await?;
        let days = policy.days(rule);
        let Some(wanted) = cutoff(now, days) else {
            // The rows are kept forever. A later setting is compared with the cutoff of the last round.
            let kept = Ledger { announcement: None, ..before };
            return if kept == before { Ok(()) } else { tending.write_ledger(rule, &kept, false, now).await };
        };
        let reach = before.reach(wanted);
        let since = reach.before.unwrap_or(wanted - due::WITHOUT_NOTICE);
        let due = match rule {
            // Events are removed in whole months only.
            Rule::EventsAge => month_of(wanted),
            _ => wanted,
        };
        let overdue = match reach.before {
            _ if reach.all => false,
            Some(allowed) => tending.has_between(rule, allowed, due).await?,
            None => tending.has_between(rule, earliest(), due.min(since)).await?,
        };
        let announcement = overdue.then(|| {
            let limit = i64::try_from(days).unwrap_or(i64::MAX);
            Announcement::carried_on(before.announcement, limit, now)
        });
        let waits = announcement.filter(|announcement| !announcement.is_over());
        let until = if waits.is_some() { reach.before } else { Some(wanted) };
        self.say_announced(rule, before.announcement, waits);
        if let Some(until) = until {
            match rule {
                Rule::EventsAge => self.trim_events(tending, until).await?,
                Rule::CountMinutesAge => self.trim_minutes(tending, until).await?,
                Rule::AuditAge => self.trim_audit(tending, until).await?,
                Rule::DeadLettersAge | Rule::DeadLettersSize => self.trim_letters_by_age(tending, until).await?,
            }
        }
        let full = waits.is_none();
        let after = Ledger { cutoff: if full { Some(wanted) } else { before.cutoff }, announcement: waits, ..before };
        tending.write_ledger(rule, &after, full, now).await
    }

    /// Keeps dead letters within their bytes. If the bound was lowered, the removal is announced.
    async fn keep_size(&self, tending: &mut Tending, policy: &Policy, now: DateTime<Utc>) -> Result<(), Error> {
        let rule = Rule::DeadLettersSize;
        let (before, wanted) = (tending.ledger(rule).await?, policy.dead_letters_bytes_max);
        let (bound, all) = before.bound(wanted);
        let overdue = !all && surplus(&tending.taken().await?, wanted) > 0;
        let announcement = overdue.then(|| Announcement::carried_on(before.announcement, wanted, now));
        let waits = announcement.filter(|announcement| !announcement.is_over());
        self.say_announced(rule, before.announcement, waits);
        let bound = if waits.is_some() { bound } else { wanted };
        self.trim_letters_by_size(tending, now, bound).await?;
        let full = waits.is_none();
        let bytes_max = if full { Some(wanted) } else { before.bytes_max };
        tending.write_ledger(rule, &Ledger { bytes_max, announcement: waits, ..before }, full, now).await
    }

    /// Logs once that a removal was announced, was made after its announcement, or was withdrawn.
    fn say_announced(&self, rule: Rule, before: Option<Announcement>, waits: Option<Announcement>) {
        let (rule, setting) = (rule.as_str(), rule.setting());
        match (before, waits) {
            (before, Some(waits)) if before.is_none_or(|before| before.limit != waits.limit) => tracing::warn!(
                rule,
                setting,
                limit = waits.limit,
                "much more is due to be trimmed than fell due since the last round: it is announced, and trimmed after 24 hours; \
                 `eye retention confirm` has it done now, a mended clock or setting withdraws it"
            ),
            (Some(before), None) if before.is_over() => tracing::warn!(rule, "what was announced is trimmed now"),
            (Some(_), None) => tracing::info!(rule, "what was announced is not due any more, and stays"),
            _ => {}
        }
    }

    async fn trim_minutes(&self, tending: &mut Tending, cutoff: DateTime<Utc>) -> Result<(), Error> {
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
        Ok(())
    }

    async fn trim_audit(&self, tending: &mut Tending, cutoff: DateTime<Utc>) -> Result<(), Error> {
        let mut entries = 0;
        loop {
            let removed = tending.remove_audit(cutoff).await?;
            entries += removed;
            if removed == 0 {
                break;
            }
        }
        if entries > 0 {
            tracing::info!(entries, "entries of the audit trail were trimmed");
        }
        Ok(())
    }

    /// Creates partitions for the events in the default partition, unless retention will remove these events soon.
    async fn take_up_strays(&self, tending: &mut Tending, policy: &Policy, now: DateTime<Utc>) -> Result<(), Error> {
        let kept = cutoff(now, policy.events_days).map(month_of);
        let since = kept.map_or(STRAYS_SINCE, |kept| kept.max(STRAYS_SINCE));
        let Strays { made, left } = tending.make_for_strays(since, policy.event_partitions_max).await?;
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

    /// Removes whole months, and row by row the events of such months in the default partition.
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

    /// Removes whole months if all of their letters are too old, and other letters row by row.
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

    async fn trim_letters_by_size(
        &self,
        tending: &mut Tending,
        now: DateTime<Utc>,
        bytes_max: i64,
    ) -> Result<(), Error> {
        let taken = tending.taken().await?;
        let mut surplus = surplus(&taken, bytes_max);
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

    /// Returns the freed bytes.
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

    /// Removes up to a thousand rows in each statement. Returns the freed bytes.
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

/// Logs work that failed and is tried again. While the database is away it logs at `debug`, since the cause of that is
/// in the log already.
fn warn_of(store: &Store, error: &Error, what: &str) {
    if store.is_away() {
        tracing::debug!(%error, "{what}");
    } else {
        tracing::warn!(%error, "{what}");
    }
}

/// The time before which rows are too old, or `None` if they are kept forever.
fn cutoff(now: DateTime<Utc>, days: u64) -> Option<DateTime<Utc>> {
    if days == 0 { None } else { now.checked_sub_days(Days::new(days)) }
}

/// The first moment of the year 1, before any event.
fn earliest() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(1, 1, 1)
        .and_then(|day| day.and_hms_opt(0, 0, 0))
        .map_or(DateTime::UNIX_EPOCH, |day| day.and_utc())
}

/// The first moment of the month of `time`.
fn month_of(time: DateTime<Utc>) -> DateTime<Utc> {
    let first = NaiveDate::from_ymd_opt(time.year(), time.month(), 1).and_then(|day| day.and_hms_opt(0, 0, 0));
    first.map_or(time, |first| first.and_utc())
}

/// The bytes to free: none within the bound, otherwise as many as lead to a little below it.
fn surplus(taken: &[Taken], bytes_max: i64) -> i64 {
    let sum: i64 = taken.iter().map(|taken| taken.bytes).sum();
    if sum <= bytes_max { 0 } else { sum - bytes_max / 100 * TRIM_TO_PERCENT }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_by_more_than_they_may_are_noticed_and_agree_again() {
        let policy = Policy {
            events_days: 30,
            dead_letters_days: 30,
            dead_letters_bytes_max: 1_000,
            counts_minute_days: 0,
            audit_days: 0,
            ahead_months: 1,
            event_partitions_max: 10,
            clock_skew_max: Duration::from_secs(60),
        };
        let retention = Retention::new(policy, Duration::from_secs(60));
        let there = at("2026-11-23T10:00:00Z");
        let us = Arc::new(AtomicI64::new(0));
        let clock = Clock::stepped(Arc::clone(&us));
        // The seconds by which this gateway's clock is ahead.
        for (ahead, agree) in
            [(0, true), (60, true), (61, false), (-60, true), (-61, false), (86_400 * 365, false), (1, true)]
        {
            us.store(there.timestamp_micros() + ahead * 1_000_000, Ordering::Relaxed);
            assert_eq!(retention.compare(clock.now_us(), there, &clock), agree, "ahead by {ahead} s");
            assert_eq!(retention.clocks_differ(), !agree, "ahead by {ahead} s");
            assert!((retention.clock_skew_seconds() + ahead as f64).abs() < 0.001, "ahead by {ahead} s");
        }
        // The answer took two minutes. The database's time lies within them, so the clocks may agree.
        us.store(there.timestamp_micros() + 100_000_000, Ordering::Relaxed);
        assert!(retention.compare(there.timestamp_micros() - 20_000_000, there, &clock));
    }

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
