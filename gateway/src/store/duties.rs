//! The table of duties: leases of the work that one gateway does for all gateways of a database. Each time is the
//! database's, so gateways whose clocks differ agree. A session that works on a duty also holds an advisory lock, and its
//! server process is noted, so that the next holder can end it: a gateway that wakes up late finds its session gone.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::{Error, Store};

/// The time of a lease.
pub(crate) const LEASE: Duration = Duration::from_secs(20);
/// How long a session tries to get the lock of its duty while the server ends the session before it.
const LOCK_TIME: Duration = Duration::from_secs(3);
/// The pause between two of these tries.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// The SQLSTATE for a missing right.
const DENIED: &str = "42501";

/// Work that one gateway does for all gateways of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Creates partitions and removes old rows.
    Retention,
    /// Folds the counts.
    Folds,
    /// Rewrites older dead letters of validators that take secrets out of events.
    Scrub,
    /// Runs jobs.
    Jobs,
}

impl Duty {
    /// All duties.
    pub const ALL: [Self; 4] = [Self::Retention, Self::Folds, Self::Scrub, Self::Jobs];

    /// The word in the database, in answers and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Folds => "folds",
            Self::Scrub => "scrub",
            Self::Jobs => "jobs",
        }
    }

    /// The name of the advisory lock of those that work on it. Programs of the release before take the same locks.
    pub(super) fn lock(self) -> &'static str {
        match self {
            Self::Retention => "eye_retention",
            Self::Folds => "eye_fold_counts",
            Self::Scrub => "eye_scrub",
            Self::Jobs => "eye_unseen_letters",
        }
    }
}

impl Store {
    /// Renews the leases of this gateway, and takes those that are over. Returns the duties that it holds now.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn renew_duties(&self, wanted: &[Duty]) -> Result<Vec<Duty>, Error> {
        // A lease that ends later than any lease can is of a clock that was set back since. A lease does not wait for a standby:
        // while that is away, the work goes on that does not need it. A lease that a failover loses is proved by no session.
        let query = sqlx::query_scalar(
            "insert into duties as kept (duty, holder, holder_name, until) \
             select duty, $2, $3, clock_timestamp() + make_interval(secs => $4) from unnest($1::text[]) wanted (duty) \
             where set_config('synchronous_commit', 'local', true) = 'local' order by duty \
             on conflict (duty) do update set holder = excluded.holder, holder_name = excluded.holder_name, \
                 until = excluded.until, \
                 since = case when kept.holder = excluded.holder then kept.since else clock_timestamp() end \
             where kept.holder = excluded.holder or kept.until <= clock_timestamp() \
                 or kept.until > clock_timestamp() + 2 * make_interval(secs => $4) \
             returning duty",
        )
        .bind(words(wanted))
        .bind(self.id())
        .bind(self.actor().host.clone().unwrap_or_default())
        .bind(LEASE.as_secs_f64());
        let held: Vec<String> = self.ask(query.fetch_all(&self.own)).await?;
        Ok(Duty::ALL.into_iter().filter(|duty| held.iter().any(|word| word == duty.as_str())).collect())
    }

    /// Ends leases of this gateway, so that another one takes them at once.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn give_duties_back(&self, duties: &[Duty]) -> Result<(), Error> {
        let query = sqlx::query(
            "update duties set until = clock_timestamp() \
             where duty = any($1) and holder = $2 and until > clock_timestamp() \
                 and set_config('synchronous_commit', 'local', true) = 'local'",
        )
        .bind(words(duties))
        .bind(self.id());
        self.ask(query.execute(&self.own)).await?;
        Ok(())
    }

    /// Opens a session that works on a duty of this gateway, and ends the one that worked on it before. Returns `None` if
    /// the database knows another holder, or if a session that cannot be ended has the lock.
    pub(super) async fn session_of_duty(&self, duty: Duty) -> Result<Option<PgConnection>, Error> {
        self.ask(async {
            let mut connection = self.session(duty.as_str()).await?;
            self.end_session_before(&mut connection, duty).await?;
            // Before the lock, so that no session that has the lock is unknown to the next holder.
            let noted = sqlx::query(
                "update duties set session_pid = pg_backend_pid(), \
                     session_started = (select backend_start from pg_stat_activity where pid = pg_backend_pid()) \
                 where duty = $1 and holder = $2 and until > clock_timestamp()",
            )
            .bind(duty.as_str())
            .bind(self.id())
            .execute(&mut connection)
            .await?;
            if noted.rows_affected() == 0 {
                connection.close().await?;
                return Ok(None);
            }
            let until = Instant::now() + LOCK_TIME.min(self.read_time / 2);
            loop {
                if try_lock(&mut connection, duty).await? {
                    return Ok(Some(connection));
                }
                if Instant::now() >= until {
                    break;
                }
                sleep(LOCK_PAUSE).await;
            }
            self.tell_of_lock(duty);
            connection.close().await?;
            Ok(None)
        })
        .await
    }

    /// Opens a session for the work of a duty without its lease, for a command. Returns `None` while another session works
    /// on it.
    pub(super) async fn session_beside_duty(&self, duty: Duty) -> Result<Option<PgConnection>, Error> {
        self.ask(async {
            let mut connection = self.session(duty.as_str()).await?;
            Ok(try_lock(&mut connection, duty).await?.then_some(connection))
        })
        .await
    }

    async fn end_session_before(&self, connection: &mut PgConnection, duty: Duty) -> Result<(), sqlx::Error> {
        let ended = sqlx::query_scalar::<_, bool>(
            "select pg_terminate_backend(session_pid) from duties \
             join pg_stat_activity on pid = session_pid and backend_start = session_started \
             where duty = $1 and holder = $2 and until > clock_timestamp() and session_pid <> pg_backend_pid()",
        )
        .bind(duty.as_str())
        .bind(self.id())
        .fetch_optional(&mut *connection)
        .await;
        match ended {
            Ok(None) => {}
            Ok(Some(_)) => {
                tracing::info!(duty = duty.as_str(), "the session that worked on this duty before was ended");
            }
            // The lock tells then whether it still works.
            Err(sqlx::Error::Database(cause)) if cause.code().is_some_and(|code| code == DENIED) => {}
            Err(cause) => return Err(cause),
        }
        Ok(())
    }

    /// Logs once that a session that cannot be ended keeps this gateway from its duty.
    fn tell_of_lock(&self, duty: Duty) {
        if !self.told_of_duties.swap(true, Relaxed) {
            tracing::warn!(
                duty = duty.as_str(),
                "a session that this gateway may not end works on its duty, so it waits: that session is of a command, of a gateway \
                 of the release before, or of another role; let all gateways of a database use the same role"
            );
        }
    }
}

fn words(duties: &[Duty]) -> Vec<&'static str> {
    duties.iter().map(|duty| duty.as_str()).collect()
}

async fn try_lock(connection: &mut PgConnection, duty: Duty) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select pg_try_advisory_lock(hashtext($1))").bind(duty.lock()).fetch_one(connection).await
}
