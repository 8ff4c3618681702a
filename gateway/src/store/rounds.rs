//! The ledger of retention: what each rule removed last, its announcement, and the database's time.

use chrono::{DateTime, Utc};

use super::retention::Tending;
use super::{Error, Store};
use crate::audit::Action;
use crate::retention::due::{Announcement, Ledger, Rule};

/// A row of `retention_rounds`.
struct Row {
    rule: String,
    cutoff: Option<DateTime<Utc>>,
    bytes_max: Option<i64>,
    announced_limit: Option<i64>,
    announced_at: Option<DateTime<Utc>>,
    announced_seconds: Option<i64>,
    seen_at: Option<DateTime<Utc>>,
    confirmed: bool,
}

from_row!(Row { rule, cutoff, bytes_max, announced_limit, announced_at, announced_seconds, seen_at, confirmed });

impl Row {
    fn ledger(&self) -> Ledger {
        let announcement = || {
            Some(Announcement {
                limit: self.announced_limit?,
                at: self.announced_at?,
                seconds: self.announced_seconds?,
                seen_at: self.seen_at?,
                confirmed: self.confirmed,
            })
        };
        Ledger { cutoff: self.cutoff, bytes_max: self.bytes_max, announcement: announcement() }
    }
}

const LEDGER: &str = "select rule, cutoff, bytes_max, announced_limit, announced_at, announced_seconds, seen_at, confirmed \
    from retention_rounds";

impl Store {
    /// The database's time.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn now(&self) -> Result<DateTime<Utc>, Error> {
        self.ask(sqlx::query_scalar("select clock_timestamp()").fetch_one(&self.own)).await
    }

    /// The end of the last minute in which an event was received, as far as the counts know it; `None` without events.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn last_received(&self) -> Result<Option<DateTime<Utc>>, Error> {
        let query = sqlx::query_scalar(
            "select greatest((select max(start) from counts where bucket = 'minute'), \
                 (select max(minute) from count_deltas)) + interval '1 minute'",
        );
        self.ask(query.fetch_one(&self.own)).await
    }

    /// The announced removals, with their rules.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn announced(&self) -> Result<Vec<(Rule, Announcement)>, Error> {
        let rows: Vec<Row> = self.ask(sqlx::query_as(LEDGER).fetch_all(&self.own)).await?;
        let of = |rule: Rule| rows.iter().find(|row| row.rule == rule.as_str())?.ledger().announcement;
        Ok(Rule::ALL.into_iter().filter_map(|rule| Some((rule, of(rule)?))).collect())
    }

    /// Confirms the announcement of a rule for this limit. Returns false if the rule does not announce it any more.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn confirm_announced(&self, rule: Rule, limit: i64) -> Result<bool, Error> {
        let query = sqlx::query_scalar(
            "with confirmed as (update retention_rounds set confirmed = true where rule = $1 and announced_limit = $2 \
                 returning rule) \
             select rule from confirmed, note_audit($3, rule, jsonb_build_object('limit', $2::bigint))",
        )
        .bind(rule.as_str())
        .bind(limit)
        .bind(Action::RetentionConfirm.as_str());
        let confirmed: Option<String> = self.ask(query.fetch_optional(&self.own)).await?;
        if let Some(rule) = &confirmed {
            self.log_noted(Action::RetentionConfirm, rule);
        }
        Ok(confirmed.is_some())
    }
}

impl Tending {
    /// The database's time.
    ///
    /// # Errors
    ///
    /// [`Error::Away`] and [`Error::Refused`].
    pub async fn now(&mut self) -> Result<DateTime<Utc>, Error> {
        Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut self.connection).await?)
    }

    /// The ledger of a rule.
    ///
    /// # Errors
    ///
    /// [`Error::Away`] and [`Error::Refused`].
    pub async fn ledger(&mut self, rule: Rule) -> Result<Ledger, Error> {
        let rows: Vec<Row> = sqlx::query_as(LEDGER).fetch_all(&mut self.connection).await?;
        Ok(rows.iter().find(|row| row.rule == rule.as_str()).map(Row::ledger).unwrap_or_default())
    }

    /// Writes the ledger of a rule. `full` says that the round removed everything that the setting asks for.
    ///
    /// # Errors
    ///
    /// [`Error::Away`] and [`Error::Refused`].
    pub async fn write_ledger(
        &mut self,
        rule: Rule,
        ledger: &Ledger,
        full: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let announced = ledger.announcement;
        // An operator may have confirmed since the ledger was read. The statement keeps that.
        sqlx::query(
            "insert into retention_rounds as kept (rule, round_at, cutoff, bytes_max, announced_limit, announced_at, \
                 announced_seconds, seen_at) \
             values ($1, case when $2 then $3 end, $4, $5, $6, $7, $8, $9) \
             on conflict (rule) do update set round_at = case when $2 then $3 else kept.round_at end, \
                 cutoff = excluded.cutoff, bytes_max = excluded.bytes_max, announced_limit = excluded.announced_limit, \
                 announced_at = excluded.announced_at, announced_seconds = excluded.announced_seconds, \
                 seen_at = excluded.seen_at, \
                 confirmed = kept.confirmed and kept.announced_limit is not distinct from excluded.announced_limit",
        )
        .bind(rule.as_str())
        .bind(full)
        .bind(now)
        .bind(ledger.cutoff)
        .bind(ledger.bytes_max)
        .bind(announced.map(|one| one.limit))
        .bind(announced.map(|one| one.at))
        .bind(announced.map(|one| one.seconds))
        .bind(announced.map(|one| one.seen_at))
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    /// Whether a rule by age has a row in a range of time. It takes one lookup along an index.
    ///
    /// # Errors
    ///
    /// [`Error::Away`] and [`Error::Refused`].
    pub async fn has_between(
        &mut self,
        rule: Rule,
        since: DateTime<Utc>,
        before: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let query = match rule {
            Rule::EventsAge => "select exists (select 1 from events where timestamp >= $1 and timestamp < $2)",
            Rule::DeadLettersAge | Rule::DeadLettersSize => {
                "select exists (select 1 from dead_letters where received_at >= $1 and received_at < $2)"
            }
            Rule::CountMinutesAge => {
                "select exists (select 1 from counts where bucket = 'minute' and start >= $1 and start < $2)"
            }
            Rule::AuditAge => "select exists (select 1 from audit where at >= $1 and at < $2)",
        };
        Ok(sqlx::query_scalar(query).bind(since).bind(before).fetch_one(&mut self.connection).await?)
    }
}
