//! Tends the tables. One gateway at a time holds the [`Tending`]. It creates partitions and removes rows, the oldest
//! first and in small steps, so that no writer waits. `crate::retention` decides which rows to remove. The transaction
//! that removes rows also counts them.

use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::audit::REMOVED_MAX;
use super::partitions::{self, Making, Partition, Partitioned};
use super::{Duty, Error, Store};
use crate::audit::{Action, Actor, Entry};

/// Most rows that one statement removes.
const ROWS_MAX: i32 = 1_000;
/// Most months of stray events that one check finds.
const MONTHS_MAX: i64 = 24;
/// A partition that has grown by less since it was trimmed still fills the space that was freed.
const GROWN: f64 = 1.01;

/// Why rows were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// They are too old.
    Age,
    /// There is too much, and they are the oldest.
    Size,
}

impl Cause {
    /// The word in the database and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Size => "size",
        }
    }
}

/// How much was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows. For a whole month of events it is the planner's estimate.
    pub rows: i64,
    /// Bytes on disk.
    pub bytes: i64,
}

from_row!(Removed { rows, bytes });

/// A partition of dead letters, with its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The partition.
    pub partition: Partition,
    /// Its bytes without the space that trimming has freed inside it.
    pub bytes: i64,
}

/// The result of looking for events of months without a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// The number of partitions that were created.
    pub made: usize,
    /// Months that could not get one. They are left until the next round.
    pub left: Vec<String>,
}

/// The right to tend the tables, which one gateway has as long as its connection lives.
#[derive(Debug)]
pub struct Tending {
    pub(super) connection: PgConnection,
    /// The actor in the audit trail.
    actor: Actor,
    /// Months of stray events that wait for the next round, since each attempt costs time.
    left: Vec<NaiveDateTime>,
}

impl Store {
    /// Takes the right to tend the tables, which is the duty of this gateway. Returns `None` while another one has it.
    pub async fn tend(&self) -> Result<Option<Tending>, Error> {
        let session = self.session_of_duty(Duty::Retention).await?;
        Ok(session.map(|connection| Tending { connection, actor: self.actor().clone(), left: Vec::new() }))
    }
}

impl Tending {
    /// Starts a round: creates the partitions of last month, this month and `ahead` more. Returns those that could not
    /// be created now.
    pub async fn make_ahead(&mut self, ahead: u32) -> Result<Vec<String>, Error> {
        self.left.clear();
        Ok(partitions::make_ahead(&mut self.connection, ahead, &self.actor).await?)
    }

    /// Creates partitions for months since `since` whose events are in the default partition, as long as events have
    /// fewer than `partitions_max`. Those that fail are not tried again before the next round.
    pub async fn make_for_strays(&mut self, since: DateTime<Utc>, partitions_max: usize) -> Result<Strays, Error> {
        let months = partitions::stray_months(&mut self.connection, since, &self.left, MONTHS_MAX).await?;
        let mut strays = Strays::default();
        if months.is_empty() {
            return Ok(strays);
        }
        let is_month = |partition: &&Partition| partition.table_name == "events" && partition.first.is_some();
        let there = partitions::partitions(&mut self.connection).await?.iter().filter(is_month).count();
        for month in months {
            let making = if there + strays.made < partitions_max {
                partitions::make(&mut self.connection, Partitioned::Events, month, 1, &self.actor).await?
            } else {
                Making::Crowded
            };
            if making == Making::Made {
                strays.made += 1;
            } else {
                self.left.push(month);
                strays.left.push(month.format("%Y-%m").to_string());
            }
        }
        Ok(strays)
    }

    /// The partitions of a table, the earliest first, the default one last.
    pub async fn partitions(&mut self, table: Partitioned) -> Result<Vec<Partition>, Error> {
        let mut all = partitions::partitions(&mut self.connection).await?;
        all.retain(|partition| partition.table_name == table.as_str());
        Ok(all)
    }

    /// The partitions of dead letters, the earliest first, with their sizes.
    pub async fn taken(&mut self) -> Result<Vec<Taken>, Error> {
        let freed: Vec<(String, i64, i64)> =
            sqlx::query_as("select partition_name, measured_bytes, freed_bytes from dead_letter_space")
                .fetch_all(&mut self.connection)
                .await?;
        let all = self.partitions(Partitioned::DeadLetters).await?;
        Ok(all
            .into_iter()
            .map(|partition| {
                let free = freed.iter().find(|(name, ..)| *name == partition.name);
                let free = free.map_or(0, |&(_, measured, freed)| free_bytes(partition.bytes, measured, freed));
                Taken { bytes: partition.bytes - free, partition }
            })
            .collect())
    }

    /// Removes up to a thousand of the oldest rows of a partition that are older than `before`, until `bytes_wanted`
    /// are freed.
    pub async fn remove_rows(
        &mut self,
        partition: &Partition,
        before: DateTime<Utc>,
        bytes_wanted: i64,
        cause: Cause,
    ) -> Result<Removed, Error> {
        Ok(sqlx::query_as("select rows, bytes from trim_rows($1, $2, $3, $4, $5, $6)")
            .bind(&partition.table_name)
            .bind(&partition.name)
            .bind(before)
            .bind(ROWS_MAX)
            .bind(bytes_wanted)
            .bind(cause.as_str())
            .fetch_one(&mut self.connection)
            .await?)
    }

    /// Removes up to a thousand counts of minutes before `before`. The counts of hours and days still have these
    /// events. Returns the number of removed rows.
    pub async fn remove_minutes(&mut self, before: DateTime<Utc>) -> Result<u64, Error> {
        let removed = sqlx::query(
            "delete from counts where ctid = any (array( \
                 select ctid from counts where bucket = 'minute' and start < $1 order by start limit $2))",
        )
        .bind(before)
        .bind(ROWS_MAX)
        .execute(&mut self.connection)
        .await?;
        Ok(removed.rows_affected())
    }

    /// Removes up to a thousand of the oldest entries of the audit trail from before `before`. Returns their number.
    pub async fn remove_audit(&mut self, before: DateTime<Utc>) -> Result<u64, Error> {
        let removed = sqlx::query(
            "delete from audit where id = any (array(select id from audit where at < $1 order by at, id limit $2))",
        )
        .bind(before)
        .bind(REMOVED_MAX)
        .execute(&mut self.connection)
        .await?;
        Ok(removed.rows_affected())
    }

    /// Lets new rows use the space of removed ones. It takes long for a large partition, and blocks no writer.
    pub async fn reuse(&mut self, partition: &Partition) -> Result<(), Error> {
        let vacuum = format!("vacuum (truncate false) {}", quoted(&partition.name));
        self.connection.execute(AssertSqlSafe(vacuum)).await?;
        Ok(())
    }

    /// Removes a whole partition. Returns `None`, with nothing changed, if the table was locked all the time.
    pub async fn remove_partition(&mut self, partition: &Partition, cause: Cause) -> Result<Option<Removed>, Error> {
        let names = [&partition.table_name, &partition.name].map(|name| name.replace('\'', "''"));
        let detach =
            format!("select 'detached' from detach_partition('{}', '{}', '{}')", names[0], names[1], cause.as_str());
        if partitions::changed(&mut self.connection, "", &detach, partitions::TRIES).await?.is_none() {
            return Ok(None);
        }
        // `detach_partition` has written the entry.
        Entry::new(Action::PartitionDrop, &partition.name, &self.actor).with("cause", cause.as_str()).log();
        let name = format!("{}_trimmed_{}", partition.name, cause.as_str());
        Ok(Some(self.drop_detached(&partition.table_name, &name, cause).await?))
    }

    /// Finishes the work of a gateway that was killed: drops the partitions that it detached from their table.
    pub async fn sweep(&mut self) -> Result<Vec<(Partitioned, Cause, Removed)>, Error> {
        let left: Vec<(String, String, String)> = sqlx::query_as(
            "select parts[1], relname::text, parts[2] from pg_class, \
                 regexp_match(relname, '^(events|dead_letters)_[0-9]{4}_[0-9]{2}_trimmed_(age|size)$') parts \
             where relkind = 'r' and parts is not null and oid = to_regclass(quote_ident(relname))",
        )
        .fetch_all(&mut self.connection)
        .await?;
        let mut swept = Vec::with_capacity(left.len());
        for (table, name, why) in left {
            let cause = if why == Cause::Age.as_str() { Cause::Age } else { Cause::Size };
            let of = if table == Partitioned::Events.as_str() { Partitioned::Events } else { Partitioned::DeadLetters };
            swept.push((of, cause, self.drop_detached(&table, &name, cause).await?));
        }
        Ok(swept)
    }

    async fn drop_detached(&mut self, table: &str, name: &str, cause: Cause) -> Result<Removed, Error> {
        Ok(sqlx::query_as("select rows, bytes from drop_detached($1, $2, $3)")
            .bind(table)
            .bind(name)
            .bind(cause.as_str())
            .fetch_one(&mut self.connection)
            .await?)
    }
}

/// The freed space that is still free in a partition: all of it until the partition grows, then none.
fn free_bytes(bytes: i64, measured: i64, freed: i64) -> i64 {
    #[expect(clippy::cast_precision_loss, reason = "a share of a size need not be exact")]
    let grown = bytes as f64 > measured as f64 * GROWN;
    if grown { 0 } else { freed.clamp(0, bytes) }
}

/// A name of the catalog as an identifier.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_room_counts_until_the_partition_grows() {
        assert_eq!(free_bytes(1_000, 1_000, 300), 300);
        assert_eq!(free_bytes(1_009, 1_000, 300), 300, "not yet");
        assert_eq!(free_bytes(1_100, 1_000, 300), 0, "the room is used up");
        assert_eq!(free_bytes(100, 1_000, 300), 100, "never more than there is");
    }

    #[test]
    fn a_name_is_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
