//! Reads dead letters of unseen events, which no module has judged: finds them by lane (event type and application),
//! reads them in the order of receipt, and records the result of judging them. Letters that have only the beginning of
//! their event stay.

use chrono::{DateTime, Utc};
use eye_event::verdict::{Digest, Violation};
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::dead_letters::{COLUMNS, LetterCursor, StoredLetter, push_words};
use super::{Duty, Error, Store};

/// The condition of the index `dead_letters_unseen_idx`.
const UNSEEN: &str = "code in ('off_path', 'busy') and redriven_at is null and octet_length(raw) = raw_bytes";

/// The letters of one event type and application, which are judged in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnseenLane {
    /// The category of the events.
    pub category: String,
    /// The name of the events.
    pub name: String,
    /// The id of the application that sent them.
    pub application_id: i32,
}

from_row!(UnseenLane { category, name, application_id });

/// The result of judging the event of a letter.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The letter's place.
    pub place: LetterCursor,
    /// The new code: `rule`, the kind of fault, and so on.
    pub code: String,
    /// One sentence for readers.
    pub detail: String,
    /// The violations of the event.
    pub violations: Vec<Violation>,
    /// The module that judged it.
    pub module: Option<Digest>,
}

/// The session that judges unseen letters. It keeps gateways of the release before from judging them too.
#[derive(Debug)]
pub struct UnseenTurn {
    _session: PgConnection,
}

impl Store {
    /// Takes the right to judge unseen letters, which is the duty of this gateway. Returns `None` while another one has
    /// it.
    pub async fn unseen_turn(&self) -> Result<Option<UnseenTurn>, Error> {
        Ok(self.session_of_duty(Duty::Jobs).await?.map(|_session| UnseenTurn { _session }))
    }

    /// The next lane with unseen letters.
    pub async fn next_unseen(&self, after: Option<&UnseenLane>) -> Result<Option<UnseenLane>, Error> {
        let mut query = QueryBuilder::new("select category, name, application_id from dead_letters where ");
        query.push(UNSEEN).push(" and category is not null and name is not null");
        if let Some(UnseenLane { category, name, application_id }) = after {
            query.push(" and (category, name, application_id) > (").push_bind(category.clone());
            query.push(", ").push_bind(name.clone()).push(", ").push_bind(*application_id).push(")");
        }
        query.push(" order by category, name, application_id limit 1");
        let query = query.build_query_as::<UnseenLane>().persistent(false);
        self.reading().await?.run(|connection| query.fetch_optional(connection)).await
    }

    /// The first unseen letters of a lane, in the order of receipt.
    pub async fn unseen_letters(&self, lane: &UnseenLane, limit: u32) -> Result<Vec<StoredLetter>, Error> {
        let mut query = QueryBuilder::new("");
        push_words(&mut query, |query| {
            query.push(format!("select {COLUMNS} from dead_letters where {UNSEEN} and category = "));
            query.push_bind(lane.category.clone()).push(" and name = ").push_bind(lane.name.clone());
            query.push(" and application_id = ").push_bind(lane.application_id);
            query.push(format!(" order by received_at, id limit {limit}"));
        });
        query.push(" order by letter.received_at, letter.id");
        let query = query.build_query_as::<StoredLetter>().persistent(false);
        self.reading().await?.run(|connection| query.fetch_all(connection)).await
    }
}

/// Records the results. The reason stays the outcome that the sender got.
pub(super) async fn settle(connection: &mut PgConnection, seen: &[Seen]) -> Result<(), sqlx::Error> {
    let digests: Vec<Option<&[u8]>> =
        seen.iter().map(|seen| seen.module.as_ref().map(|digest| &digest.0[..])).collect();
    let times: Vec<DateTime<Utc>> = seen.iter().map(|seen| seen.place.received_at).collect();
    let ids: Vec<Uuid> = seen.iter().map(|seen| seen.place.id).collect();
    let codes: Vec<&str> = seen.iter().map(|seen| seen.code.as_str()).collect();
    let details: Vec<&str> = seen.iter().map(|seen| seen.detail.as_str()).collect();
    let violations: Vec<String> = seen
        .iter()
        .map(|seen| serde_json::to_string(&seen.violations).expect("violations are texts, which serialize"))
        .collect();
    sqlx::query(
        "insert into modules (digest) select distinct digest from unnest($1::bytea[]) wanted (digest) \
         where digest is not null order by digest on conflict do nothing",
    )
    .bind(&digests)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "update dead_letters set code = seen.code, detail = seen.detail, violations = seen.violations::jsonb, \
             module_id = coalesce(modules.id, dead_letters.module_id) \
         from unnest($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bytea[]) \
             seen (received_at, id, code, detail, violations, digest) \
         left join modules on modules.digest = seen.digest \
         where dead_letters.received_at = seen.received_at and dead_letters.id = seen.id \
             and dead_letters.redriven_at is null and dead_letters.code in ('off_path', 'busy')",
    )
    .bind(times)
    .bind(ids)
    .bind(codes)
    .bind(details)
    .bind(violations)
    .bind(&digests)
    .execute(connection)
    .await?;
    Ok(())
}
