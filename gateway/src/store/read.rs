//! Reads for the answers of the gateway. Paging is by key: each page begins where the one before it ended.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Error, Store};

/// The last event of a page of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionCursor {
    /// Microseconds since 1970.
    pub timestamp_us: i64,
    /// Microseconds since 1970; orders events of the same timestamp by arrival.
    pub received_at_us: i64,
    /// Makes the order whole.
    pub id: Uuid,
}

/// An event as it was stored, with its numbers turned into words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The event's own id.
    pub id: Uuid,
    /// The session it belongs to.
    pub session_id: Uuid,
    /// First half of the event type.
    pub category: String,
    /// Second half of the event type.
    pub name: String,
    /// When it occurred: microseconds since 1970.
    pub timestamp_us: i64,
    /// When the gateway took it: microseconds since 1970.
    pub received_at_us: i64,
    /// The name of the application that sent it.
    pub application: String,
    /// The digest of the module that judged it, if one did.
    pub module: Option<Vec<u8>>,
    /// The data as JSON text.
    pub data: String,
}

#[derive(sqlx::FromRow)]
struct EventColumns {
    id: Uuid,
    session_id: Uuid,
    category: String,
    name: String,
    timestamp: DateTime<Utc>,
    received_at: DateTime<Utc>,
    application: String,
    module: Option<Vec<u8>>,
    data: String,
}

impl From<EventColumns> for StoredEvent {
    fn from(row: EventColumns) -> StoredEvent {
        StoredEvent {
            id: row.id,
            session_id: row.session_id,
            category: row.category,
            name: row.name,
            timestamp_us: row.timestamp.timestamp_micros(),
            received_at_us: row.received_at.timestamp_micros(),
            application: row.application,
            module: row.module,
            data: row.data,
        }
    }
}

impl Store {
    /// A page of a session, in the order in which it occurred.
    pub async fn session_page(
        &self,
        session_id: Uuid,
        after: Option<SessionCursor>,
        limit: u32,
    ) -> Result<Vec<StoredEvent>, Error> {
        // The bound on timestamp alone is what the primary key can begin at; the comparison of the whole key then
        // leaves out the few events of that very microsecond that were on the page before. The words are joined to
        // the rows of the page only.
        let query = sqlx::query_as::<_, EventColumns>(
            "select page.id, page.session_id, event_types.category, event_types.name, page.timestamp, \
                 page.received_at, coalesce(applications.name, '') as application, modules.digest as module, \
                 page.data::text as data \
             from (select * from events where session_id = $1 \
                     and ($2::timestamptz is null or timestamp >= $2 and (timestamp, received_at, id) > ($2, $3, $4)) \
                   order by timestamp, received_at, id limit $5) page \
             join event_types on event_types.id = page.event_type_id \
             left join applications on applications.id = page.application_id \
             left join modules on modules.id = page.module_id \
             order by page.timestamp, page.received_at, page.id",
        )
        .bind(session_id)
        .bind(after.map(|after| time(after.timestamp_us)))
        .bind(after.map(|after| time(after.received_at_us)))
        .bind(after.map(|after| after.id))
        .bind(i64::from(limit));
        let rows = self.read(query.fetch_all(&self.reads)).await?;
        Ok(rows.into_iter().map(StoredEvent::from).collect())
    }
}

/// A cursor comes from outside and may hold anything; a time that is none lies before all events.
fn time(microseconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(microseconds).unwrap_or(DateTime::UNIX_EPOCH)
}
