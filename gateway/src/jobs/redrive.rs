//! The job `redrive`: judges the dead letters of a filter or of a list of ids again, group by group, in the order of their
//! receipt. `crate::redrive` judges a group. Letters that are received after the job began do not belong to it.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{JobSettings, Jobs, Next, Progress, Step};
use crate::redrive::RedriveRequest;
use crate::response::{Refusal, of_store};
use crate::store::{Choice, JobRow, LetterChanges, LetterCursor, LetterFilter};
use crate::trust::visible::Visible;

/// Most letters of one step.
const LETTERS_MAX: u32 = 200;
/// After this time a step judges no more letters, so that a job can be cancelled soon.
const TIME: Duration = Duration::from_secs(2);

/// What to judge again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// These letters; `None` for those of the filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<Uuid>>,
    /// The letters of this filter that were not redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<LetterFilter>,
    /// The event types that whoever asked may see; `None` for all. Other letters do not exist for the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_types: Option<Vec<String>>,
}

impl Request {
    /// The request for a choice of letters, by an administrator.
    pub fn of(choice: Choice) -> Self {
        match choice {
            Choice::Ids(ids) => Self { ids: Some(ids), ..Self::default() },
            Choice::Filter(filter) => Self { filter: Some(filter), ..Self::default() },
        }
    }

    /// The JSON in the row of the job.
    pub fn as_json(&self) -> Value {
        serde_json::to_value(self).expect("ids, words and times serialize")
    }

    fn visible(&self) -> Visible {
        match self.event_types.as_deref() {
            None => Visible::ALL,
            // A list without any pattern is no limit for a reader, but here it allows nothing.
            Some([]) => Visible::limited(&[String::new()], &[], &[]),
            Some(types) => Visible::limited(types, &[], &[]),
        }
    }
}

/// From where the next step goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Place {
    /// Only letters that were received before this time belong to the job.
    until: DateTime<Utc>,
    /// The last letter that is done.
    after: Option<LetterCursor>,
}

/// A run of the job.
#[derive(Debug)]
pub(super) struct Work {
    choice: Choice,
    visible: Arc<Visible>,
    dry_run: bool,
    place: Option<Place>,
}

impl Work {
    pub(super) fn begin(row: &JobRow) -> Result<Self, String> {
        let request: Request = serde_json::from_str(&row.request)
            .map_err(|error| format!("this release does not understand the request of the job: {error}"))?;
        let visible = Arc::new(request.visible());
        let choice = match (request.ids, request.filter) {
            (Some(ids), None) => Choice::Ids(ids),
            (None, Some(filter)) => Choice::Filter(filter),
            _ => return Err("the request of the job names neither ids nor a filter".to_owned()),
        };
        let place = row.place.as_deref().map(serde_json::from_str).transpose();
        let place = place.map_err(|error| format!("this release does not understand the place of the job: {error}"))?;
        Ok(Self { choice, visible, dry_run: row.dry_run, place })
    }

    pub(super) async fn step(&mut self, jobs: &Jobs, settings: &JobSettings) -> Result<Step, Refusal> {
        let Some(place) = self.place else { return self.first(jobs, settings).await };
        let group = jobs.redrive(settings, TIME).run_group(&self.request(place)).await?;
        let next = group.report.next;
        // Also after the last group, so that a run that begins after it finds nothing to do again.
        let place = Place { after: next.or(group.last).or(place.after), ..place };
        self.place = Some(place);
        Ok(Step {
            results: group.report.results,
            added: Progress::default(),
            total: None,
            place: Some(as_json(place)),
            changes: group.changes,
            next: if next.is_some() { Next::Now } else { Next::Done },
        })
    }

    /// The first step finds out which letters there are.
    async fn first(&mut self, jobs: &Jobs, settings: &JobSettings) -> Result<Step, Refusal> {
        let newest = jobs.store.newest_dead_letter().await.map_err(of_store)?.unwrap_or_default();
        let place = Place { until: newest + TimeDelta::microseconds(1), after: None };
        let request = self.request(place);
        let (total, unknown) = match &request.choice {
            Choice::Ids(ids) => {
                let unknown = jobs.redrive(settings, TIME).unknown(&request).await?;
                (u64::try_from(ids.len()).ok(), unknown)
            }
            Choice::Filter(filter) => {
                (jobs.store.dead_letters_left(&self.visible, filter).await.map_err(of_store)?, Vec::new())
            }
        };
        self.place = Some(place);
        let (place, changes) = (Some(as_json(place)), LetterChanges::default());
        Ok(Step { results: unknown, added: Progress::default(), total, place, changes, next: Next::Now })
    }

    fn request(&self, place: Place) -> RedriveRequest {
        let choice = match &self.choice {
            Choice::Filter(filter) => {
                let to = filter.to.map_or(place.until, |to| to.min(place.until));
                Choice::Filter(LetterFilter { to: Some(to), ..filter.clone() })
            }
            ids @ Choice::Ids(_) => ids.clone(),
        };
        let visible = Arc::clone(&self.visible);
        RedriveRequest { visible, choice, after: place.after, limit: LETTERS_MAX, dry_run: self.dry_run }
    }
}

fn as_json(place: Place) -> Value {
    serde_json::to_value(place).expect("times and ids serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_row_and_shows_no_more_than_its_event_types() {
        let filter = LetterFilter { code: Some("trap".to_owned()), ..LetterFilter::default() };
        let all = Request::of(Choice::Filter(filter));
        assert_eq!(all.as_json().to_string(), r#"{"filter":{"code":"trap"}}"#);
        assert_eq!(serde_json::from_value::<Request>(all.as_json()).expect("its own"), all);
        assert!(all.visible().is_all());
        let some = Request { event_types: Some(vec!["shop/*".to_owned()]), ..all.clone() };
        assert!(
            some.visible().shows("a", Some("shop"), Some("sale")) && !some.visible().shows("a", Some("page"), None)
        );
        let none = Request { event_types: Some(Vec::new()), ..all };
        assert!(!none.visible().shows("a", Some("shop"), Some("sale")) && !none.visible().is_all());
    }

    #[test]
    fn a_place_keeps_each_microsecond() {
        let received_at = "2026-11-23T09:15:27.000001Z".parse().expect("a time");
        let place = Place { until: received_at, after: Some(LetterCursor { received_at, id: Uuid::now_v7() }) };
        assert_eq!(serde_json::from_value::<Place>(as_json(place)).expect("its own"), place);
    }
}
