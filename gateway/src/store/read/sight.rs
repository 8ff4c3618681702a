//! Turns what a reader may see into conditions of a statement. Each read begins with it. For a reader that sees everything
//! it asks the database nothing, and leaves each statement as it is.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryAs;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use crate::trust::visible::Visible;

/// The ids of the event types and applications that a reader sees; `None` for all.
#[derive(Debug)]
pub(in crate::store) struct Sight {
    pub(super) types: Option<Vec<i32>>,
    pub(super) applications: Option<Vec<i32>>,
}

impl Sight {
    pub(in crate::store) async fn of(connection: &mut PgConnection, visible: &Visible) -> Result<Self, sqlx::Error> {
        let types = match visible.event_types() {
            None => None,
            Some(_) => {
                let Patterns { categories, categories_of_names, names } = Patterns::of(visible);
                let query = sqlx::query_scalar(
                    "select id from event_types where category = any($1) \
                         or (category, name) in (select * from unnest($2::text[], $3::text[])) order by id",
                );
                let query = query.bind(categories).bind(categories_of_names).bind(names);
                Some(query.fetch_all(&mut *connection).await?)
            }
        };
        Ok(Self { types, applications: applications(connection, visible).await? })
    }

    /// Whether the reader sees everything.
    pub(super) fn is_all(&self) -> bool {
        self.types.is_none() && self.applications.is_none()
    }

    /// Whether it sees nothing.
    pub(super) fn is_nothing(&self) -> bool {
        [&self.types, &self.applications].into_iter().flatten().any(Vec::is_empty)
    }

    /// Those of these event types that it sees.
    pub(super) fn narrow_types(&self, mut types: Vec<i32>) -> Vec<i32> {
        if let Some(seen) = &self.types {
            types.retain(|id| seen.binary_search(id).is_ok());
        }
        types
    }

    /// Whether it sees events of this application.
    pub(super) fn shows_application(&self, id: i32) -> bool {
        self.applications.as_ref().is_none_or(|seen| seen.binary_search(&id).is_ok())
    }

    /// Adds the conditions on `event_type_id` and `application_id`.
    pub(super) fn push(&self, query: &mut QueryBuilder<Postgres>) {
        for (column, ids) in [("event_type_id", &self.types), ("application_id", &self.applications)] {
            if let Some(ids) = ids {
                query.push(format!(" and {column} = any(")).push_bind(ids.clone()).push(")");
            }
        }
    }

    /// The same conditions as text, with the parameters `$first` and the next one, which [`Sight::bind`] binds. Empty for
    /// a reader that sees everything.
    pub(super) fn condition(&self, first: usize) -> String {
        match self.is_all() {
            true => String::new(),
            false => format!(
                " and (${first}::integer[] is null or event_type_id = any(${first})){}",
                self.condition_on_application(first)
            ),
        }
    }

    /// The condition on the application alone, with the same parameters.
    pub(super) fn condition_on_application(&self, first: usize) -> String {
        let second = first + 1;
        match self.is_all() {
            true => String::new(),
            false => format!(" and (${second}::integer[] is null or application_id = any(${second}))"),
        }
    }

    /// Binds the two parameters, if [`Sight::condition`] has any.
    pub(super) fn bind<'q, O>(
        self,
        query: QueryAs<'q, Postgres, O, PgArguments>,
    ) -> QueryAs<'q, Postgres, O, PgArguments> {
        if self.is_all() { query } else { query.bind(self.types).bind(self.applications) }
    }
}

/// What a reader sees of dead letters. They have the text of their event type and no id, since the type of a refused event
/// may be none that was ever stored.
#[derive(Debug)]
pub(in crate::store) struct LetterSight {
    types: Option<Patterns>,
    applications: Option<Vec<i32>>,
}

impl LetterSight {
    pub(in crate::store) async fn of(connection: &mut PgConnection, visible: &Visible) -> Result<Self, sqlx::Error> {
        let types = visible.event_types().map(|_| Patterns::of(visible));
        Ok(Self { types, applications: applications(connection, visible).await? })
    }

    /// Whether it sees letters of this application.
    pub(in crate::store) fn shows_application(&self, id: i32) -> bool {
        self.applications.as_ref().is_none_or(|seen| seen.binary_search(&id).is_ok())
    }

    /// Adds the conditions. A letter whose event type could not be read has null there, and meets no condition on it.
    pub(in crate::store) fn push(&self, query: &mut QueryBuilder<Postgres>) {
        if let Some(Patterns { categories, categories_of_names, names }) = &self.types {
            query.push(" and (category = any(").push_bind(categories.clone()).push(") and name is not null");
            query.push(" or (category, name) in (select * from unnest(").push_bind(categories_of_names.clone());
            query.push("::text[], ").push_bind(names.clone()).push("::text[])))");
        }
        if let Some(ids) = &self.applications {
            query.push(" and application_id = any(").push_bind(ids.clone()).push(")");
        }
    }
}

/// Patterns of event types as parameters of a statement.
#[derive(Debug)]
struct Patterns {
    /// The categories of which it sees all names.
    categories: Vec<String>,
    /// The categories of `names`, at the same places.
    categories_of_names: Vec<String>,
    names: Vec<String>,
}

impl Patterns {
    fn of(visible: &Visible) -> Self {
        let mut patterns = Self { categories: Vec::new(), categories_of_names: Vec::new(), names: Vec::new() };
        for (category, name) in visible.event_types().into_iter().flat_map(|types| types.each()) {
            match name {
                None => patterns.categories.push(category.to_owned()),
                Some(name) => {
                    patterns.categories_of_names.push(category.to_owned());
                    patterns.names.push(name.to_owned());
                }
            }
        }
        patterns
    }
}

async fn applications(connection: &mut PgConnection, visible: &Visible) -> Result<Option<Vec<i32>>, sqlx::Error> {
    let Some(names) = visible.applications() else { return Ok(None) };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let query = sqlx::query_scalar("select id from applications where name = any($1) order by id").bind(names);
    query.fetch_all(connection).await.map(Some)
}
