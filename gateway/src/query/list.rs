//! Gets a result of any kind page by page, and writes its items as JSON. Pages and streams differ only in the separator
//! between the items.

use std::sync::Arc;

use super::cursor::{self, Place};
use super::rows_as_json;
use crate::parameters::Parameters;
use crate::response::{Refusal, of_store};
use crate::store::{
    AuditFilter, CountFilter, EventFilter, JobFilter, LetterFilter, Page, PageLimits, SessionFilter, Store,
};
use crate::trust::visible::Visible;
use crate::turns::Turn;

/// The kinds of results, with their filters.
#[derive(Debug)]
pub(super) enum List {
    Events(EventFilter),
    Sessions(SessionFilter),
    EventTypes,
    Counts(CountFilter),
    DeadLetters(LetterFilter),
    Audit(AuditFilter),
    Jobs(JobFilter),
}

/// A list and the JSON around it.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) list: List,
    pub(super) parameters: Parameters,
    /// What the reader may see.
    visible: Arc<Visible>,
    /// The members before the list, each with its comma.
    head: String,
    /// The name of the list's member.
    name: &'static str,
    /// The text that identifies this query, for its cursors.
    told_by: String,
}

/// The items of a page, with `separator` after each.
#[derive(Debug)]
pub(super) struct Items {
    pub(super) bytes: Vec<u8>,
    /// The number of items.
    pub(super) count: u32,
    /// The cursor of the next page.
    pub(super) next: Option<String>,
}

impl Listing {
    pub(super) fn new(
        visible: &Arc<Visible>,
        list: List,
        parameters: Parameters,
        head: String,
        name: &'static str,
    ) -> Self {
        // The head has the path, and the parameters have the query. For counts the head is left out: a range that ends
        // now ends later in the next request, and the query is still the same.
        let place = if matches!(list, List::Counts(_)) { "" } else { &head };
        let told_by = format!("{name} {place} {}", parameters.told());
        Self { list, parameters, visible: Arc::clone(visible), head, name, told_by }
    }

    /// Gets the items after a cursor. It holds the reader's turn until then.
    pub(super) async fn page(
        &self,
        store: &Store,
        _turn: Turn<'_>,
        after: Option<&str>,
        limits: PageLimits,
        separator: u8,
        now_us: i64,
    ) -> Result<Items, Refusal> {
        let visible = &*self.visible;
        match &self.list {
            List::Events(filter) => {
                let page = store.events_page(visible, filter, self.place(after)?, limits, now_us);
                self.write(separator, page.await.map_err(of_store)?, rows_as_json::event)
            }
            List::Sessions(filter) => {
                let page = store.sessions_page(visible, *filter, self.place(after)?, limits, now_us);
                self.write(separator, page.await.map_err(of_store)?, rows_as_json::session)
            }
            List::EventTypes => {
                let after = self.place(after)?;
                let page = store.event_types_page(visible, after.as_ref(), limits.rows).await.map_err(of_store)?;
                let page = Page { rows: rows_as_json::categories(page.rows), next: page.next };
                self.write(separator, page, rows_as_json::category)
            }
            List::Counts(filter) => {
                let after = self.place(after)?;
                let page = store.counts_page(visible, filter, after.as_ref(), limits.rows).await.map_err(of_store)?;
                self.write(separator, page, rows_as_json::count)
            }
            List::DeadLetters(filter) => {
                let page = store.dead_letters_page(visible, filter, self.place(after)?, limits);
                self.write(separator, page.await.map_err(of_store)?, rows_as_json::dead_letter)
            }
            List::Audit(filter) => {
                let page = store.audit_page(filter, self.place(after)?, limits.rows).await.map_err(of_store)?;
                self.write(separator, page, rows_as_json::audit)
            }
            List::Jobs(filter) => {
                let page = store.jobs_page(filter, self.place(after)?, limits.rows).await.map_err(of_store)?;
                self.write(separator, page, rows_as_json::job)
            }
        }
    }

    fn place<P: Place>(&self, cursor: Option<&str>) -> Result<Option<P>, Refusal> {
        cursor.map(|cursor| cursor::read(&self.told_by, cursor, &self.visible)).transpose()
    }

    fn write<Row, P: Place>(
        &self,
        separator: u8,
        page: Page<Row, P>,
        item: fn(&mut Vec<u8>, &Row),
    ) -> Result<Items, Refusal> {
        let mut bytes = Vec::new();
        for row in &page.rows {
            item(&mut bytes, row);
            bytes.push(separator);
        }
        Ok(Items {
            bytes,
            count: u32::try_from(page.rows.len()).unwrap_or(u32::MAX),
            next: page.next.map(|place| cursor::write(&self.told_by, &place, &self.visible)).transpose()?,
        })
    }

    /// The whole body of a page.
    pub(super) fn whole(&self, page: Items) -> Vec<u8> {
        let mut items = page.bytes;
        items.pop();
        let next = page.next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\""));
        let mut body = format!("{{{}\"{}\":[", self.head, self.name).into_bytes();
        body.append(&mut items);
        body.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
        body
    }
}
