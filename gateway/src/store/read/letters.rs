//! Selects dead letters: by a filter, and by what the reader may see. Pages, redrives and summaries begin with it.

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::sight::LetterSight;
use super::{Reading, application_id};
use crate::store::Error;
use crate::trust::visible::Visible;

/// Selects dead letters. A field with `None` selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LetterFilter {
    /// `rejected` or `quarantined`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `envelope`, `rule`, the kind of fault, or `unstorable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The code of its first violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<String>,
    /// The name of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The event's category, as far as it was readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// The event's name, as far as it was readable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The digest of the module that judged the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validator: Option<Digest>,
    /// Received at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Received before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
}

/// The code of the first violation of a row of the table.
pub(in crate::store) const FIRST_VIOLATION: &str = "violations -> 0 ->> 'code'";

/// A filter with ids in place of words, and what its reader sees.
pub(in crate::store) struct Selection<'a> {
    filter: &'a LetterFilter,
    sight: LetterSight,
    application_id: Option<i32>,
    module_id: Option<i32>,
}

impl<'a> Selection<'a> {
    /// Returns `None` if no letter can match: the application or the module is unknown, or hidden from the reader.
    pub(in crate::store) async fn of(
        reading: &mut Reading,
        visible: &Visible,
        filter: &'a LetterFilter,
    ) -> Result<Option<Self>, Error> {
        let sight = reading.run(|connection| LetterSight::of(connection, visible)).await?;
        let mut selection = Self { filter, sight, application_id: None, module_id: None };
        if let Some(application) = &filter.application {
            let found = reading.run(|connection| application_id(connection, application)).await?;
            selection.application_id = found.filter(|id| selection.sight.shows_application(*id));
            if selection.application_id.is_none() {
                return Ok(None);
            }
        }
        if let Some(digest) = filter.validator {
            selection.module_id = reading.run(|connection| module_id(connection, digest)).await?;
            if selection.module_id.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(selection))
    }

    /// Whether it asks for the first violation.
    pub(in crate::store) fn has_violation(&self) -> bool {
        self.filter.violation.is_some()
    }

    /// Adds the bounds on the time, which select the partitions.
    pub(in crate::store) fn push_times(&self, query: &mut QueryBuilder<Postgres>) {
        for (condition, value) in [(" and received_at >= ", self.filter.from), (" and received_at < ", self.filter.to)]
        {
            if let Some(value) = value {
                query.push(condition).push_bind(value);
            }
        }
    }

    /// Adds all other conditions. `violation` is the code of the first violation, as the rows have it.
    pub(in crate::store) fn push(&self, query: &mut QueryBuilder<Postgres>, violation: &str) {
        let words = [
            (" and reason = ", &self.filter.reason),
            (" and code = ", &self.filter.code),
            (" and category = ", &self.filter.category),
            (" and name = ", &self.filter.name),
        ];
        for (condition, value) in words {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone());
            }
        }
        if let Some(code) = &self.filter.violation {
            query.push(format!(" and {violation} = ")).push_bind(code.clone());
        }
        for (condition, id) in [(" and application_id = ", self.application_id), (" and module_id = ", self.module_id)]
        {
            if let Some(id) = id {
                query.push(condition).push_bind(id);
            }
        }
        self.sight.push(query);
    }
}

/// The id of a module; `None` if it never judged an event.
async fn module_id(connection: &mut PgConnection, digest: Digest) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar("select id from modules where digest = $1").bind(&digest.0[..]).fetch_optional(connection).await
}
