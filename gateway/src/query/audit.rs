//! The audit trail over HTTP: pages of entries, the latest first.

use std::sync::Arc;

use chrono::DateTime;

use super::list::{List, Listing};
use super::rows_as_json;
use crate::parameters::{Parameters, bad};
use crate::response::Refusal;
use crate::store::AuditFilter;
use crate::trust::visible::Visible;

/// `GET /v1/audit`.
pub(super) fn listing(visible: &Arc<Visible>, query: Option<&str>) -> Result<Listing, Refusal> {
    let parameters = Parameters::read(query, &["from", "to", "action", "actor", "subject", "limit", "cursor"])?;
    let (from_us, to_us) = parameters.range()?;
    // Postgres cannot hold a NUL. Any other text may be a subject.
    let text = |name| match parameters.text(name) {
        Some(text) if text.contains('\0') => Err(bad(name, "must not hold a NUL")),
        text => Ok(text.map(str::to_owned)),
    };
    let filter = AuditFilter {
        from: from_us.and_then(DateTime::from_timestamp_micros),
        to: to_us.and_then(DateTime::from_timestamp_micros),
        action: text("action")?,
        actor: text("actor")?,
        subject: text("subject")?,
    };
    let head = rows_as_json::range(from_us, to_us);
    Ok(Listing::new(visible, List::Audit(filter), parameters, head, "entries"))
}
