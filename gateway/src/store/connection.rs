//! The connection of a writer, with caches that hold only as long as it lasts.

use std::time::Duration;

use eye_event::verdict::Digest;
use foldhash::{HashMap, HashMapExt as _};
use sqlx::postgres::{PgDatabaseError, PgSeverity};
use tracing::{debug, warn};

use super::copy::{Ids, since_epoch};
use super::hosts::Hosts;
use super::table::Table;
use super::url::Address;
use super::wire::{Arguments, Fault, Row, Wire, broken, kind};

/// Most entries of each cache of ids. Senders choose the names of event types, so there must be a bound.
const CACHE_MAX: usize = 16_384;

/// Starts every session of a writer. `stored` promises that the row is on disk, whatever the default of the server is.
/// A writer finds each row by an index or a known place; a plan from when the table was small would scan all of it. The
/// price that `enable_seqscan` puts on a necessary scan would have the plan compiled, hence no `jit`. A writer must see
/// another writer's committed row, so each statement reads what was committed before it.
const BEGIN: &str = "select pg_backend_pid(), \
     (select backend_start from pg_stat_activity where pid = pg_backend_pid()), \
     set_config('synchronous_commit', \
         case current_setting('synchronous_commit') when 'off' then 'on' \
         else current_setting('synchronous_commit') end, false), \
     set_config('enable_seqscan', 'off', false), set_config('jit', 'off', false), \
     set_config('default_transaction_isolation', 'read committed', false), \
     set_config('client_min_messages', 'error', false)";

/// How long a session may hold its locks while the client is silent.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(60);

/// Starts every session of a gateway: when the server gives up a gateway that has lost its power, so that its locks are
/// free again. The server ignores these settings for a Unix socket.
pub(super) fn signs_of_life(address: &Address) -> String {
    let keepalive = address.keepalive.map_or_else(String::new, |keepalive| {
        format!(
            "set_config('tcp_keepalives_idle', '{}', false), set_config('tcp_keepalives_interval', '{}', false), \
             set_config('tcp_keepalives_count', '{}', false), ",
            keepalive.idle.as_secs(),
            keepalive.interval.as_secs(),
            keepalive.count
        )
    });
    format!(
        "select {keepalive}set_config('tcp_user_timeout', '{}', false), \
         set_config('idle_in_transaction_session_timeout', '{}', false)",
        address.user_timeout.map_or(0, |time| time.as_millis()),
        IDLE_IN_TRANSACTION.as_millis()
    )
}

/// The addition for the sessions of a reader.
pub(super) const ONLY_READS: &str = "; select set_config('default_transaction_read_only', 'on', false)";

/// Identifies a server process. The operating system reuses process ids, so the start time is a part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    /// The place of its server.
    pub(super) place: usize,
    pid: i32,
    started_us: Option<i64>,
}

/// A connection and the ids that were read through it. Senders choose event types, and the hash of the maps is fast and
/// randomly seeded: a sender who knew the seed could only make lookups slower.
///
/// The caches end with the connection. After a failover to a server that lacks the last commits, an id read before
/// could belong to another event type; a new connection reads all ids again.
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) backend: Backend,
    /// The key is category, NUL, name. Neither may contain NUL, and one string needs one allocation for a lookup.
    event_types: HashMap<String, i32>,
    modules: HashMap<Digest, i32>,
}

impl Connection {
    /// Connects, and ends the server process of an earlier connection that was lost, if it still runs: it may hold the
    /// locks of an unfinished transaction, for which this connection would wait.
    pub(super) async fn open(hosts: &Hosts, name: &str, lost: Option<Backend>) -> Result<Connection, Fault> {
        let (mut wire, place) = hosts.connect(name).await?;
        let begun = wire.query(BEGIN, |_| {}).await?;
        wire.run(&signs_of_life(hosts.address())).await?;
        let row = begun.first().ok_or_else(|| broken("an answer has no row"))?;
        let started_us = row.bytes(1).map(|_| row.time_us(1)).transpose()?;
        let backend = Backend { place, pid: row.i32(0)?, started_us };
        if let Some(lost) = lost.filter(|lost| lost.place == place) {
            end(&mut wire, lost).await;
        }
        Ok(Connection { wire, backend, event_types: HashMap::new(), modules: HashMap::new() })
    }

    /// Finds the ids of the event type and the module of each item. It inserts those that are missing.
    pub(super) async fn resolve<T: Table>(&mut self, items: &[&T::Item]) -> Result<Vec<Ids>, Fault> {
        let mut ids = vec![Ids::default(); items.len()];
        let mut key = String::new();
        let mut types_missing = Vec::new();
        let mut modules_missing = Vec::new();
        // The last lookup. Most rows have the event type and the module of the row before.
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
    ) -> Result<(), Fault> {
        let mut wanted: Vec<(&str, &str)> = missing.iter().filter_map(|&index| T::event_type(items[index])).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (categories, names): (Vec<&str>, Vec<&str>) = wanted.iter().copied().unzip();
        let mut found = self.read_event_types(&categories, &names).await?;
        if found.len() < wanted.len() {
            // Ordered, so that two gateways that insert the same types do not deadlock.
            let insert = "insert into event_types (category, name) \
                 select category, name from unnest($1::text[], $2::text[]) wanted (category, name) \
                 order by category, name on conflict do nothing";
            self.wire
                .query(insert, |arguments| {
                    arguments.texts(categories.iter().copied());
                    arguments.texts(names.iter().copied());
                })
                .await?;
            found = self.read_event_types(&categories, &names).await?;
        }
        let mut key = String::new();
        for &index in missing {
            if let Some((category, name)) = T::event_type(items[index]) {
                join(&mut key, category, name);
                ids[index].event_type = *found.get(&key).ok_or_else(gone)?;
            }
        }
        remember(&mut self.event_types, found);
        Ok(())
    }

    async fn read_event_types(&mut self, categories: &[&str], names: &[&str]) -> Result<HashMap<String, i32>, Fault> {
        let select = "select event_types.category, event_types.name, event_types.id \
             from unnest($1::text[], $2::text[]) wanted (category, name) join event_types using (category, name)";
        let rows = self.wire.query(select, |arguments| {
            arguments.texts(categories.iter().copied());
            arguments.texts(names.iter().copied());
        });
        let found = |row: &Row| {
            let mut key = String::new();
            join(&mut key, row.text(0)?, row.text(1)?);
            Ok((key, row.i32(2)?))
        };
        rows.await?.iter().map(found).collect()
    }

    async fn resolve_modules<T: Table>(
        &mut self,
        items: &[&T::Item],
        missing: &[usize],
        ids: &mut [Ids],
    ) -> Result<(), Fault> {
        let mut wanted: Vec<&[u8]> =
            missing.iter().filter_map(|&index| T::module(items[index])).map(|digest| &digest.0[..]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut found = self.read_modules(&wanted).await?;
        if found.len() < wanted.len() {
            let insert = "insert into modules (digest) select digest from unnest($1::bytea[]) wanted (digest) \
                 order by digest on conflict do nothing";
            self.wire.query(insert, |arguments| digests(arguments, &wanted)).await?;
            found = self.read_modules(&wanted).await?;
        }
        for &index in missing {
            if let Some(digest) = T::module(items[index]) {
                ids[index].module = Some(*found.get(digest).ok_or_else(gone)?);
            }
        }
        remember(&mut self.modules, found);
        Ok(())
    }

    async fn read_modules(&mut self, wanted: &[&[u8]]) -> Result<HashMap<Digest, i32>, Fault> {
        let select = "select digest, id from modules where digest = any($1::bytea[])";
        let rows = self.wire.query(select, |arguments| digests(arguments, wanted)).await?;
        rows.iter().map(|row| Ok((Digest(row.array(0)?), row.i32(1)?))).collect()
    }
}

fn digests(arguments: &mut Arguments<'_>, digests: &[&[u8]]) {
    arguments.array(kind::BYTEA, digests.iter(), |out, digest| {
        out.extend_from_slice(digest);
        true
    });
}

fn gone() -> Fault {
    broken("a row that was just written is not there")
}

/// Best effort. If the process runs on, the primary key keeps its rows from being stored twice.
async fn end(wire: &mut Wire, lost: Backend) {
    let terminate = "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1 and backend_start = $2";
    let ended = wire.query(terminate, |arguments| {
        arguments.value(|out| out.extend_from_slice(&lost.pid.to_be_bytes()));
        arguments.value(|out| {
            out.extend_from_slice(&since_epoch(lost.started_us.unwrap_or_default()).to_be_bytes());
        });
    });
    match ended.await {
        Ok(rows) if rows.is_empty() => {}
        Ok(_) => debug!(pid = lost.pid, "a lost connection was still open on the server"),
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

/// A cache that would exceed its bound is cleared. The entries in use return with the next batch.
fn remember<K: std::hash::Hash + Eq>(cache: &mut HashMap<K, i32>, found: HashMap<K, i32>) {
    if cache.len() + found.len() > CACHE_MAX {
        cache.clear();
    }
    if found.len() <= CACHE_MAX {
        cache.extend(found);
    }
}

/// The meaning of an error for the batch and the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A row exists already.
    Unique,
    /// A row is at fault.
    Data,
    /// The same connection can retry.
    Again,
    /// No known fault of a row: a fault of the server, or of a trigger.
    Server,
    /// A new connection can retry.
    Lost,
}

/// Classifies an error. `Unique`, `Data` and `Again` are only for errors after which nothing was written and the
/// connection is still in step.
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

/// The same for an error of a writer's connection.
pub(super) fn class_of_fault(fault: &Fault) -> Class {
    match fault {
        Fault::Refused(refusal) if refusal.in_order => class_of(&refusal.code, refusal.constraint.as_deref()),
        _ => Class::Lost,
    }
}

/// Whether a server that answers refuses a statement, for a missing right or a trigger.
pub(super) fn refuses(error: &sqlx::Error) -> bool {
    let code = words(error).0;
    code == "55000" || code.starts_with("42") && code != "42P01"
}

/// Whether an error is about the server or the connection, and not about the statement. Every other statement would fail
/// as well.
pub(super) fn is_of_the_server(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(answer) => {
            let ends = answer
                .try_downcast_ref::<PgDatabaseError>()
                .is_none_or(|answer| answer.severity() != PgSeverity::Error);
            ends || answer.code().is_none_or(|code| is_state_of_the_server(&code))
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether a SQLSTATE is about the connection, a standby, the authorization, a database, schema or table that is not
/// there (yet), a session without its statements, or a server that stops.
fn is_state_of_the_server(code: &str) -> bool {
    matches!(code.get(..2).unwrap_or_default(), "08" | "25" | "26" | "28" | "3D" | "3F")
        || code.starts_with("57P")
        || matches!(code, "42P01" | "53300")
}

/// Whether a server reports that it is stopping or starting. The same statement may succeed later.
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
        // Deadlock or serialization failure, because of another writer.
        "40" => Class::Again,
        // A change of the schema has made a plan or a prepared statement stale.
        "0A" | "26" => Class::Lost,
        // Connection, transaction state (also of a standby), authorization, missing database, schema or table,
        // resources, locks, shutdown, the machine. Another server may answer the next connection.
        "08" | "25" | "28" | "3D" | "3F" | "42" | "53" | "55" | "57" | "58" => Class::Lost,
        _ if code == "23505" => Class::Unique,
        // This constraint exists only while a partition is created, see `partitions.rs`.
        _ if code == "23514" && constraint.is_some_and(|name| name.ends_with("_gap")) => Class::Again,
        // A wrong value, a constraint, or an error that a trigger raises.
        "22" | "23" => Class::Data,
        _ if code == "P0001" => Class::Data,
        _ => Class::Server,
    }
}

/// Whether an error is due to the current state of the server, whatever the rows are: away, starting, read-only, full,
/// or without a schema. Then it is useless to look for a bad row.
pub(super) fn is_of_the_moment(fault: &Fault) -> bool {
    match fault {
        Fault::Refused(refusal) if refusal.in_order => {
            let code = refusal.code.as_str();
            matches!(code.get(..2).unwrap_or_default(), "08" | "25" | "28" | "3D" | "3F" | "40")
                || code.starts_with("57P")
                || matches!(code, "23505" | "23514" | "42P01" | "53100" | "53300")
        }
        _ => true,
    }
}

/// The SQLSTATE and the message of the server.
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
        for code in ["22P02", "22003", "22021", "23502", "23514", "P0001"] {
            assert_eq!(class_of(code, None), Class::Data, "{code}");
        }
        for code in ["XX000", "XX001", "XX002", "F0000", "54000", "P0002", "38000", "21000", "99999", ""] {
            assert_eq!(class_of(code, None), Class::Server, "{code}");
        }
        assert_eq!(class(&sqlx::Error::PoolTimedOut), Class::Lost);
    }

    #[test]
    fn what_a_server_says_of_a_statement_is_not_said_of_the_server() {
        for code in ["08006", "25006", "26000", "28P01", "3D000", "42P01", "53300", "57P01", "57P03"] {
            assert!(is_state_of_the_server(code), "{code}");
        }
        for code in
            ["0A000", "22012", "40001", "42501", "53100", "53200", "53400", "54001", "55P03", "58030", "XX000", ""]
        {
            assert!(!is_state_of_the_server(code), "{code}");
        }
        let decoded = sqlx::Error::ColumnNotFound("data".to_owned());
        assert!(!is_of_the_server(&decoded) && is_of_the_server(&sqlx::Error::PoolTimedOut));
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
