//! The table of the audit trail. The store writes the entry of a change in the transaction of the change. Entries of changes
//! elsewhere are written afterwards; writing an entry twice changes nothing.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::read::Page;
use super::{Error, Store};
use crate::audit::{Action, Actor, Entry};

/// Most entries that one statement removes.
pub(super) const REMOVED_MAX: i32 = 1_000;

const COLUMNS: &str =
    "id, at, action, subject, actor, name, token_id, host, peer, forwarded, request_id, details::text as details";

/// Chooses entries. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
    /// The action.
    pub action: Option<String>,
    /// The name of an application or user, or a kind of actor.
    pub actor: Option<String>,
    /// The subject.
    pub subject: Option<String>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Its own id.
    pub id: Uuid,
    /// The time of the change, by the clock of the database.
    pub at: DateTime<Utc>,
    /// The action.
    pub action: String,
    /// The subject.
    pub subject: String,
    /// The kind of actor.
    pub actor: String,
    /// The actor's name.
    pub name: String,
    /// The id of the application's token.
    pub token_id: Option<String>,
    /// The machine of a command or gateway.
    pub host: Option<String>,
    /// The other end of the request's connection.
    pub peer: Option<String>,
    /// The caller's address, as a trusted proxy gives it.
    pub forwarded: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// The details as JSON text.
    pub details: String,
}

from_row!(AuditRow { id, at, action, subject, actor, name, token_id, host, peer, forwarded, request_id, details });

/// The place of an entry in the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// The time of the change.
    pub at: DateTime<Utc>,
    /// Orders the entries of one time.
    pub id: Uuid,
}

impl Store {
    /// The actor of this store: the gateway, or a command. Each session has it in the setting `eye.actor`.
    pub fn actor(&self) -> &Actor {
        self.actor.get_or_init(Actor::gateway)
    }

    /// Sets the actor. The store must not have opened a session yet.
    #[must_use]
    pub fn acting_as(self, actor: Actor) -> Store {
        let _is_set = self.actor.set(actor);
        self
    }

    /// Logs an entry that the database itself has written for the actor of this store.
    pub(super) fn log_noted(&self, action: Action, subject: &str) {
        Entry::new(action, subject, self.actor()).log();
    }

    /// Writes entries. Entries that are there already stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn audit_write(&self, entries: &[Entry]) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.ask(async { write_all(&mut *self.own.acquire().await?, entries).await }).await
    }

    /// A page of the trail, the latest entries first.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Away`], [`Error::Slow`] and [`Error::Refused`].
    pub async fn audit_page(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        rows_max: u32,
    ) -> Result<Page<AuditRow, AuditCursor>, Error> {
        let mut query = QueryBuilder::new("");
        push_page(&mut query, filter, after, rows_max);
        let query = query.build_query_as::<AuditRow>().persistent(false);
        let mut rows = self.reading().await?.run(|connection| query.fetch_all(connection)).await?;
        let is_more = rows.len() > rows_max as usize;
        rows.truncate(rows_max as usize);
        let next = rows.last().filter(|_| is_more).map(|row| AuditCursor { at: row.at, id: row.id });
        Ok(Page { rows, next })
    }
}

fn push_page(query: &mut QueryBuilder<Postgres>, filter: &AuditFilter, after: Option<AuditCursor>, rows_max: u32) {
    query.push(format!("select {COLUMNS} from audit where true"));
    for (condition, time) in [(" and at >= ", filter.from), (" and at < ", filter.to)] {
        if let Some(time) = time {
            query.push(condition).push_bind(time);
        }
    }
    for (condition, word) in [(" and action = ", &filter.action), (" and subject = ", &filter.subject)] {
        if let Some(word) = word {
            query.push(condition).push_bind(word.clone());
        }
    }
    if let Some(actor) = &filter.actor {
        query.push(" and (name = ").push_bind(actor.clone()).push(" or actor = ").push_bind(actor.clone()).push(")");
    }
    if let Some(after) = after {
        query.push(" and (at, id) < (").push_bind(after.at).push(", ").push_bind(after.id).push(")");
    }
    query.push(" order by at desc, id desc limit ").push_bind(i64::from(rows_max) + 1);
}

/// Writes an entry in the transaction of its change.
pub(super) async fn write(connection: &mut PgConnection, entry: &Entry) -> Result<(), sqlx::Error> {
    write_all(connection, std::slice::from_ref(entry)).await
}

async fn write_all(connection: &mut PgConnection, entries: &[Entry]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Postgres>::new(
        "insert into audit (id, at, action, subject, actor, name, token_id, host, peer, forwarded, request_id, details) ",
    );
    query.push_values(entries, |mut row, entry| {
        let Actor { kind, name, token_id, panel_session: _, host, login: _, peer, forwarded, request_id } =
            &entry.actor;
        row.push_bind(entry.id);
        row.push("now() - make_interval(secs => ").push_bind_unseparated(entry.happened.elapsed().as_secs_f64());
        row.push_unseparated(")");
        row.push_bind(entry.action.as_str()).push_bind(entry.subject.clone()).push_bind(kind.as_str());
        row.push_bind(name.clone()).push_bind(token_id.clone()).push_bind(host.clone());
        row.push_bind(peer.map(|peer| peer.to_string())).push_bind(forwarded.map(|peer| peer.to_string()));
        row.push_bind(request_id.clone());
        row.push_bind(entry.details()).push_unseparated("::jsonb");
    });
    query.push(" on conflict (id) do nothing");
    query.build().persistent(false).execute(connection).await?;
    Ok(())
}

/// Adds the setting `eye.actor` to the statement that starts a session.
pub(super) fn greeting(words: &str, actor: &Actor) -> String {
    let mut greeting = words.to_owned();
    // Writing to a String cannot fail.
    let _ = write!(greeting, ", set_config('eye.actor', '{}', false)", actor.as_session().replace('\'', "''"));
    greeting
}
