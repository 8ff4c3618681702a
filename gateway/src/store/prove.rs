//! Checks what the gateway needs of its database, when it first answers and each time it is back: encoding, write
//! access (a reader needs none), the rights of the role, sessions that stay the same, and room for locks. A problem is one
//! sentence.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use super::outage::{Outage, Word, shown};
use super::wire::{Fault, Row, Wire, broken};
use super::{Error, READY_TIME, Role, Store, cause, connection};

/// With fewer locks per transaction a read across years may fail.
const LOCKS_MIN: i32 = 256;
/// Longest time for the check of sessions, which needs two connections.
const SESSIONS_TIME: Duration = Duration::from_secs(5);
/// Rounds of that check. A pooler that takes its connections in turn shows in the second.
const SESSION_ROUNDS: usize = 3;

/// A prepared statement is missing, exists already, or has other arguments.
const FORGOTTEN: [&str; 3] = ["26000", "42P05", "08P01"];

/// The rights on tables that the gateway needs. The documentation lists the same. A reader needs only `select`.
const RIGHTS: &str = "select coalesce(string_agg(wanted.right_name || ' on ' || wanted.table_name, ', '), '') \
     from (values ('events', 'select'), ('events', 'insert'), ('dead_letters', 'select'), ('dead_letters', 'insert'), \
         ('dead_letters', 'update'), ('event_types', 'select'), ('event_types', 'insert'), ('modules', 'select'), \
         ('modules', 'insert'), ('applications', 'select'), ('application_tokens', 'select'), ('count_deltas', 'select'), ('count_deltas', 'insert'), \
         ('count_deltas', 'delete'), ('counts', 'select'), ('counts', 'insert'), ('counts', 'update'), ('counts', 'delete') \
     ) wanted (table_name, right_name) \
     where to_regclass(wanted.table_name) is not null and (wanted.right_name = 'select' or $1) \
         and not has_table_privilege(to_regclass(wanted.table_name), wanted.right_name)";

/// The schema of the tables if the role may not use it, since its tables look missing then.
const UNUSABLE: &str = "select pg_namespace.nspname::text from pg_class \
     join pg_namespace on pg_namespace.oid = pg_class.relnamespace \
     where pg_class.relname = '_sqlx_migrations' and pg_class.relkind in ('r', 'p') \
         and to_regclass('events') is null and not has_schema_privilege(pg_namespace.oid, 'usage')";

const FACTS: &str = "select current_setting('server_encoding'), current_setting('max_locks_per_transaction')::integer, \
     to_regclass('events') is not null";

/// Whether the server is a standby, whether its sessions may write, and the age of the last commit that a standby has
/// replayed.
const STANDING: &str = "select pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
     case when pg_is_in_recovery() then greatest( \
         extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000, 0)::bigint end";

/// The last known state of the database. The store and its writers share it.
#[derive(Debug, Default)]
pub(super) struct Ground {
    /// The checks have passed since the database was last away.
    proved: AtomicBool,
    /// The outage, while the database is away.
    outage: Outage,
    /// The error of the last check that found the database away.
    met: Mutex<String>,
    locks_told: AtomicBool,
    /// The age of the last commit that the standby has replayed, in milliseconds. 0 on a primary.
    replayed_ms: AtomicI64,
    problem: Mutex<Option<String>>,
}

impl Ground {
    /// Whether the last check found the database away. Its outage is logged then, so other code logs no errors that
    /// follow from it.
    pub(super) fn is_away(&self) -> bool {
        self.outage.is_on()
    }

    fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records the problem, or that there is none, and logs a change.
    fn note(&self, problem: Option<String>) {
        let mut last = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == problem {
            return;
        }
        match &problem {
            Some(problem) => tracing::error!(problem, "the database cannot be used"),
            None => tracing::info!("the database can be used again"),
        }
        *last = problem;
    }
}

impl Store {
    /// The known problem of the database, in one sentence.
    pub fn problem(&self) -> Option<String> {
        self.ground.problem()
    }

    /// Checks whether the database answers and serves a gateway. After an outage it repeats all checks.
    pub async fn ready(&self) -> bool {
        match timeout(READY_TIME, self.is_read_only()).await {
            Ok(Ok(read_only)) => {
                if let Some(time) = self.ground.outage.works() {
                    tracing::info!(after = shown(time), "the database is back");
                }
                self.stands(read_only).await
            }
            // A session that has lost its prepared statements: a pooler has changed it.
            Ok(Err(cause)) if FORGOTTEN.contains(&connection::words(&cause).0.as_str()) => {
                self.ground.proved.store(false, Relaxed);
                self.stands(None).await
            }
            Ok(Err(cause)) => self.found_away(cause::of(&cause)),
            Err(_) => self.found_away(Error::Slow(READY_TIME).to_string()),
        }
    }

    fn found_away(&self, met: String) -> bool {
        self.ground.proved.store(false, Relaxed);
        self.ground.outage.begins();
        *self.ground.met.lock().unwrap_or_else(PoisonError::into_inner) = met;
        false
    }

    /// The age of the last commit that the standby has replayed, in seconds, at the last check. 0 on a primary.
    pub fn replayed_commit_age_seconds(&self) -> f64 {
        self.ground.replayed_ms.load(Relaxed) as f64 / 1e3
    }

    /// Whether the last check found the database away.
    pub fn is_away(&self) -> bool {
        self.ground.is_away()
    }

    /// Whether the last connection failed because the process may open no more files.
    pub fn lacks_descriptors(&self) -> bool {
        self.hosts.lacks_descriptors()
    }

    /// Logs that the database is away, with the cause, if the last check found so: once, and again for each other
    /// cause. The check that finds it back logs that.
    pub async fn tell_outage(&self) {
        if !self.ground.is_away() {
            return;
        }
        let met = self.ground.met.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cause = self.reach().await.err().unwrap_or(met);
        // Another check may have found it back meanwhile.
        if !self.ground.is_away() {
            return;
        }
        match self.ground.outage.fails(&cause, Duration::ZERO) {
            Some(Word::Begins) if self.lacks_descriptors() => {
                tracing::warn!(%cause, "the database cannot be asked");
            }
            Some(Word::Begins) => tracing::warn!(%cause, "the database is away"),
            Some(Word::Changes) => tracing::warn!(%cause, "the database is still away, for another cause"),
            None => {}
        }
    }

    /// Connects to the database without a pool and returns the cause of a failure in one sentence. A pool would retry
    /// until its time limit and give no cause.
    ///
    /// # Errors
    ///
    /// The sentence.
    pub async fn reach(&self) -> Result<(), String> {
        let limit = self.hosts.connect_time() + READY_TIME;
        match timeout(limit, self.look()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_) => Err(format!(
                "it accepts connections and does not answer within {} ms; look at the server's log, and at the network",
                limit.as_millis()
            )),
        }
    }

    async fn stands(&self, read_only: Option<&'static str>) -> bool {
        if let Some(problem) = read_only {
            self.ground.proved.store(false, Relaxed);
            self.hosts.doubt();
            if self.ground.problem().as_deref() != Some(problem) {
                // A pooler may have given this session the settings of another one. Then the pooler is the problem.
                let shared = timeout(SESSIONS_TIME, self.shared()).await;
                let shared = shared.ok().and_then(Result::ok).flatten();
                self.ground.note(Some(shared.unwrap_or_else(|| problem.to_owned())));
            }
            return false;
        }
        if !self.ground.proved.load(Relaxed) {
            match timeout(SESSIONS_TIME, self.prove()).await {
                Ok(Ok((problem, whole))) => {
                    self.ground.proved.store(whole && problem.is_none(), Relaxed);
                    self.ground.note(problem);
                }
                Ok(Err(fault)) => return self.found_away(fault.to_string()),
                Err(_) => return self.found_away("its checks did not end in time".to_owned()),
            }
        }
        self.ground.problem().is_none()
    }

    async fn is_read_only(&self) -> Result<Option<&'static str>, sqlx::Error> {
        let mut connection = self.asked.acquire().await?;
        let (standby, read_only, replayed_ms): (bool, bool, Option<i64>) =
            sqlx::query_as(STANDING).fetch_one(&mut *connection).await?;
        self.ground.replayed_ms.store(replayed_ms.unwrap_or_default(), Relaxed);
        let problem = match (standby, read_only) {
            _ if self.role == Role::Reader => None,
            (true, _) => Some("it is a standby, which cannot be written to; name the primary in the URL"),
            (_, true) => Some("it is read-only (default_transaction_read_only is on)"),
            _ => None,
        };
        if problem.is_some() {
            // The session keeps the setting that it started with.
            connection.close_on_drop();
        }
        Ok(problem)
    }

    /// The problem, if a pooler before the database assigns a session to each transaction.
    async fn shared(&self) -> Result<Option<String>, Fault> {
        let (mut one, mut other) = (self.look().await?, self.look().await?);
        shared_sessions(&mut one, &mut other).await
    }

    /// The problem, and whether everything was checked. Before the first migration some checks have nothing to look at.
    async fn prove(&self) -> Result<(Option<String>, bool), Fault> {
        let (mut one, mut other) = (self.look().await?, self.look().await?);
        if let Some(problem) = shared_sessions(&mut one, &mut other).await? {
            return Ok((Some(problem), true));
        }
        drop(other);
        let facts = one.run(FACTS).await?;
        let facts = first(&facts)?;
        let encoding = facts.text(0)?;
        if encoding != "UTF8" {
            let problem = format!(
                "it has the encoding {encoding}, and events need UTF8; make it anew with `create database .. encoding 'UTF8' \
                 template template0`"
            );
            return Ok((Some(problem), true));
        }
        let locks: i32 = facts.text(1)?.parse().unwrap_or(LOCKS_MIN);
        if locks < LOCKS_MIN && !self.ground.locks_told.swap(true, Relaxed) {
            tracing::warn!(
                max_locks_per_transaction = locks,
                "reads across years lock each month and its indexes; set max_locks_per_transaction = 512 on the server"
            );
        }
        let whole = facts.text(2)? == "t";
        if let Some(schema) = one.run(UNUSABLE).await?.first() {
            return Ok((Some(format!("its role lacks rights: usage on schema {}", schema.text(0)?)), true));
        }
        let writes = self.role == Role::Full;
        let missing = one.query(RIGHTS, |arguments| arguments.value(|out| out.push(u8::from(writes)))).await?;
        let missing = first(&missing)?.text(0)?;
        let problem = (!missing.is_empty()).then(|| format!("its role lacks rights: {missing}"));
        Ok((problem, whole))
    }

    async fn look(&self) -> Result<Wire, Fault> {
        Ok(self.hosts.connect(&format!("{} look", self.hosts.address().application_name)).await?.0)
    }
}

fn first(rows: &[Row]) -> Result<&Row, Fault> {
    rows.first().ok_or_else(|| broken("an answer has no row"))
}

/// Whether two open sessions share one session of the server, or one of them changes: the signs of a pooler that
/// assigns sessions to transactions.
async fn shared_sessions(one: &mut Wire, other: &mut Wire) -> Result<Option<String>, Fault> {
    let mut seen = Vec::new();
    for _ in 0..SESSION_ROUNDS {
        let mut pids = Vec::new();
        for wire in [&mut *one, &mut *other] {
            pids.push(first(&wire.run("select pg_backend_pid()").await?)?.text(0)?.to_owned());
        }
        seen.push(pids);
    }
    let shared = seen.iter().any(|pids| pids[0] == pids[1] || *pids != seen[0]);
    Ok(shared.then(|| {
        "a pooler before it gives sessions to transactions (pool_mode = transaction or statement); a gateway needs \
         pool_mode = session, or the server itself"
            .to_owned()
    }))
}
