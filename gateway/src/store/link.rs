//! One connection of a writer, with what is known only as long as it lasts.

use chrono::{DateTime, Utc};
use foldhash::{HashMap, HashMapExt as _};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSeverity};
use sqlx::{ConnectOptions, Row};
use tracing::{debug, warn};

use super::copy::Ids;
use super::write::Table;
use crate::verdict::Digest;

/// Entries in each cache of ids. Senders choose the names of their event types, so there must be a bound.
const CACHE_MAX: usize = 16_384;

/// Names a server process beyond doubt: process ids are used again, the time of start is not.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    pid: i32,
    started: Option<DateTime<Utc>>,
}

/// A connection and the ids that were read through it. Senders choose event types, and the maps' hash is fast and seeded by
/// chance: who found out its seed could at worst make looking up cost more.
///
/// The caches live and die with the connection. After a failover to a server that lacks the last commits, an id read
/// before could belong to another event type; a new connection reads all of them anew.
pub(super) struct Link {
    pub(super) connection: PgConnection,
    pub(super) backend: Backend,
    /// The temporary table of the conflict path is there.
    pub(super) incoming: bool,
    /// By category, NUL, name: neither may hold a NUL, and one string can be looked up without making two.
    event_types: HashMap<String, i32>,
    modules: HashMap<Digest, i32>,
}

impl Link {
    /// Connects, and ends the server process of a former connection that was lost, if it still runs: it may hold the
    /// locks of an unfinished transaction, and this connection would wait for them.
    pub(super) async fn open(options: &PgConnectOptions, lost: Option<Backend>) -> Result<Link, sqlx::Error> {
        let mut connection = options.connect().await?;
        // An answer that says `stored` must mean that the row is on disk, whatever the server's default is. What a writer
        // looks up in a table that grows has an index or a known place; a plan that was made while the table was small would
        // read all of it. Where nothing but reading all is left, the price that this puts on it would have the plan compiled.
        let row = sqlx::query(
            "select pg_backend_pid(), \
                 (select backend_start from pg_stat_activity where pid = pg_backend_pid()), \
                 set_config('synchronous_commit', \
                     case current_setting('synchronous_commit') when 'off' then 'on' \
                     else current_setting('synchronous_commit') end, false), \
                 set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false)",
        )
        .fetch_one(&mut connection)
        .await?;
        let backend = Backend { pid: row.try_get(0)?, started: row.try_get(1)? };
        if let Some(lost) = lost {
            end(&mut connection, &lost).await;
        }
        Ok(Link { connection, backend, incoming: false, event_types: HashMap::new(), modules: HashMap::new() })
    }

    /// The ids of each item's event type and module; those that are new are made.
    pub(super) async fn resolve<T: Table>(&mut self, items: &[&T::Item]) -> Result<Vec<Ids>, sqlx::Error> {
        let mut ids = vec![Ids::default(); items.len()];
        let mut key = String::new();
        let mut types_missing = Vec::new();
        let mut modules_missing = Vec::new();
        // What was found last: most rows are of the same event type as the one before, and judged by the same module.
        let (mut last_type, mut last_module) = (None, None);
        for (index, (item, ids)) in items.iter().zip(&mut ids).enumerate() {
            if let Some((category, name)) = T::event_type(item) {
                match last_type {
                    Some((last, id)) if last == (category, name) => ids.event_type = id,
                    _ => {
                        join(&mut key, category, name);
                        match self.event_types.get(&key) {
                            Some(id) => {
                                ids.event_type = *id;
                                last_type = Some(((category, name), *id));
                            }
                            None => types_missing.push(index),
                        }
                    }
                }
            }
            if let Some(digest) = T::module(item) {
                ids.module = match last_module {
                    Some((last, id)) if last == digest => Some(id),
                    _ => self.modules.get(digest).copied(),
                };
                match ids.module {
                    Some(id) => last_module = Some((digest, id)),
                    None => modules_missing.push(index),
                }
            }
        }
        if !types_missing.is_empty() {
            self.resolve_event_types::<T>(items, &types_missing, &mut ids).await?;
        }
        if !modules_missing.is_empty() {
            self.resolve_modules::<T>(items, &modules_missing, &mut ids).await?;
        }
        Ok(ids)
    }

    async fn resolve_event_types<T: Table>(
        &mut self,
        items: &[&T::Item],
        missing: &[usize],
        ids: &mut [Ids],
    ) -> Result<(), sqlx::Error> {
        let mut wanted: Vec<(&str, &str)> = missing.iter().filter_map(|&index| T::event_type(items[index])).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (categories, names): (Vec<&str>, Vec<&str>) = wanted.iter().copied().unzip();
        let mut found = self.read_event_types(&categories, &names).await?;
        if found.len() < wanted.len() {
            // Ordered, so that two gateways that make the same ones do not wait for each other in a circle.
            sqlx::query(
                "insert into event_types (category, name) \
                 select category, name from unnest($1::text[], $2::text[]) wanted (category, name) \
                 order by category, name on conflict do nothing",
            )
            .bind(&categories)
            .bind(&names)
            .execute(&mut self.connection)
            .await?;
            found = self.read_event_types(&categories, &names).await?;
        }
        let mut key = String::new();
        for &index in missing {
            if let Some((category, name)) = T::event_type(items[index]) {
                join(&mut key, category, name);
                ids[index].event_type = *found.get(&key).ok_or(sqlx::Error::RowNotFound)?;
            }
        }
        remember(&mut self.event_types, found);
        Ok(())
    }

    async fn read_event_types(
        &mut self,
        categories: &[&str],
        names: &[&str],
    ) -> Result<HashMap<String, i32>, sqlx::Error> {
        let rows: Vec<(String, String, i32)> = sqlx::query_as(
            "select event_types.category, event_types.name, event_types.id \
             from unnest($1::text[], $2::text[]) wanted (category, name) join event_types using (category, name)",
        )
        .bind(categories)
        .bind(names)
        .fetch_all(&mut self.connection)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(mut key, name, id)| {
                key.push('\0');
                key.push_str(&name);
                (key, id)
            })
            .collect())
    }

    async fn resolve_modules<T: Table>(
        &mut self,
        items: &[&T::Item],
        missing: &[usize],
        ids: &mut [Ids],
    ) -> Result<(), sqlx::Error> {
        let mut wanted: Vec<&[u8]> =
            missing.iter().filter_map(|&index| T::module(items[index])).map(|digest| &digest.0[..]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = self.read_modules(&wanted).await?;
        if found.len() < wanted.len() {
            sqlx::query(
                "insert into modules (digest) select digest from unnest($1::bytea[]) wanted (digest) \
                 order by digest on conflict do nothing",
            )
            .bind(&wanted)
            .execute(&mut self.connection)
            .await?;
            found = self.read_modules(&wanted).await?;
        }
        for &index in missing {
            if let Some(digest) = T::module(items[index]) {
                ids[index].module = Some(*found.get(digest).ok_or(sqlx::Error::RowNotFound)?);
            }
        }
        remember(&mut self.modules, found);
        Ok(())
    }

    async fn read_modules(&mut self, wanted: &[&[u8]]) -> Result<HashMap<Digest, i32>, sqlx::Error> {
        let rows: Vec<([u8; 32], i32)> =
            sqlx::query_as("select digest, id from modules where digest = any($1::bytea[])")
                .bind(wanted)
                .fetch_all(&mut self.connection)
                .await?;
        Ok(rows.into_iter().map(|(digest, id)| (Digest(digest), id)).collect())
    }
}

/// Best effort: what this cannot end, the primary key keeps from doubling rows.
async fn end(connection: &mut PgConnection, lost: &Backend) {
    let ended = sqlx::query_scalar::<_, bool>(
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start = $2",
    )
    .bind(lost.pid)
    .bind(lost.started)
    .fetch_optional(connection)
    .await;
    match ended {
        Ok(Some(ended)) => debug!(pid = lost.pid, ended, "a lost connection was still open on the server"),
        Ok(None) => {}
        Err(cause) => {
            warn!(pid = lost.pid, %cause, "a lost connection could not be ended on the server")
        }
    }
}

fn join(key: &mut String, category: &str, name: &str) {
    key.clear();
    key.push_str(category);
    key.push('\0');
    key.push_str(name);
}

/// When a cache would grow over its bound it starts anew: the few that are in use come back with the next batch.
fn remember<K: std::hash::Hash + Eq>(cache: &mut HashMap<K, i32>, found: HashMap<K, i32>) {
    if cache.len() + found.len() > CACHE_MAX {
        cache.clear();
    }
    if found.len() <= CACHE_MAX {
        cache.extend(found);
    }
}

/// What an error means for the batch and for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A row is there already.
    Unique,
    /// The rows are at fault.
    Data,
    /// Try again on the same connection.
    Again,
    /// Try again on a new connection.
    Lost,
}

/// Sorts an error. `Unique`, `Data` and `Again` are said only of errors that the server has answered in order, so that
/// nothing was written and the connection is in step.
pub(super) fn class(error: &sqlx::Error) -> Class {
    let sqlx::Error::Database(error) = error else {
        return Class::Lost;
    };
    let Some(error) = error.try_downcast_ref::<PgDatabaseError>() else {
        return Class::Lost;
    };
    if error.severity() != PgSeverity::Error {
        return Class::Lost;
    }
    class_of(error.code(), error.constraint())
}

/// Whether this is said of the moment, by a server that is gone, or not there yet: the same words may go well later.
pub(super) fn away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        _ => false,
    }
}

fn class_of(code: &str, constraint: Option<&str>) -> Class {
    match code.get(..2).unwrap_or_default() {
        // Deadlock or serialization: another writer was in the way.
        "40" => Class::Again,
        // A plan or prepared statement that a change of the schema has made stale.
        "0A" | "26" => Class::Lost,
        // Connection, transaction state (also: this server is a standby), authorization, no such database, schema or
        // table, resources, locks, shutdown, the machine. Perhaps another server answers the next connection.
        "08" | "25" | "28" | "3D" | "3F" | "42" | "53" | "55" | "57" | "58" => Class::Lost,
        _ if code == "23505" => Class::Unique,
        // It is there only while a partition is being made, see `partitions.rs`.
        _ if code == "23514" && constraint.is_some_and(|name| name.ends_with("_gap")) => Class::Again,
        _ => Class::Data,
    }
}

/// The SQLSTATE and what the server said with it.
pub(super) fn words(error: &sqlx::Error) -> (String, String) {
    match error.as_database_error() {
        Some(error) => (error.code().unwrap_or_default().into_owned(), error.message().to_owned()),
        None => (String::new(), error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_sqlstate() {
        for code in ["08006", "25006", "28P01", "3D000", "42P01", "53100", "55P03", "57P01", "58030"] {
            assert_eq!(class_of(code, None), Class::Lost, "{code}");
        }
        assert_eq!(class_of("40P01", None), Class::Again);
        assert_eq!(class_of("23505", Some("events_pkey")), Class::Unique);
        assert_eq!(class_of("23514", Some("events_2030_01_gap")), Class::Again);
        assert_eq!(class_of("23514", Some("events_data_check")), Class::Data);
        for code in ["22P02", "22003", "22021", "23514", "54000", "P0001", "XX000", ""] {
            assert_eq!(class_of(code, None), Class::Data, "{code}");
        }
        assert_eq!(class(&sqlx::Error::PoolTimedOut), Class::Lost);
    }

    #[test]
    fn a_cache_keeps_its_bound() {
        let mut cache: HashMap<usize, i32> = (0..CACHE_MAX).map(|key| (key, 0)).collect();
        remember(&mut cache, HashMap::from_iter([(CACHE_MAX, 1)]));
        assert_eq!(cache.len(), 1);
        remember(&mut cache, (0..=CACHE_MAX).map(|key| (key, 0)).collect());
        assert!(cache.len() <= CACHE_MAX);
    }
}
