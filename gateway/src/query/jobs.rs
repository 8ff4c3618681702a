//! Jobs over HTTP: pages, one job, asking for one, and cancelling one. `crate::jobs` runs them.

use std::sync::Arc;

use hyper::header::{ACCEPT_ENCODING, HeaderValue, LOCATION};
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::list::{List, Listing};
use super::rows_as_json::job_json;
use super::{Query, dead_letters, header, send};
use crate::audit::Actor;
use crate::body;
use crate::jobs::{self, Kind, STATES, redrive, replay};
use crate::parameters::{Parameters, bad, id};
use crate::response::{self, Encoding, Refusal, Response, of_store};
use crate::server::Incoming;
use crate::share::Held;
use crate::store::{AskedJob, JobFilter, JobRow};
use crate::trust::visible::Visible;
use crate::trust::{Application, Scope};

/// `GET /v1/jobs`: a page, the latest first.
pub(super) fn listing(visible: &Arc<Visible>, query: Option<&str>) -> Result<Listing, Refusal> {
    let parameters = Parameters::read(query, &["kind", "state", "limit", "cursor"])?;
    let word = |name, words: &[&'static str]| {
        let words: Vec<(&'static str, &'static str)> = words.iter().map(|word| (*word, *word)).collect();
        let chosen = parameters.text(name).map(|_| parameters.choice(name, &words)).transpose()?;
        Ok::<_, Refusal>(chosen.map(str::to_owned))
    };
    let filter = JobFilter { kind: word("kind", &Kind::ALL.map(Kind::as_str))?, state: word("state", &STATES)? };
    Ok(Listing::new(visible, List::Jobs(filter), parameters, String::new(), "jobs"))
}

/// Whether a caller may see a job and cancel it: an administrator every one, who ships modules the replays of their events.
fn shows(caller: &Application, job: &JobRow) -> bool {
    if caller.has(Scope::Admin) {
        return true;
    }
    let slot = (job.kind == Kind::Replay.as_str()).then(|| replay::Request::slot_of(&job.request)).flatten();
    caller.ships().zip(slot).is_some_and(|(ships, slot)| {
        let (category, name) = slot.parts();
        ships.shows_slot(category, name)
    })
}

/// `GET /v1/jobs/{id}`: one job.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::NotFound`], and the refusals of a read.
pub async fn show(
    query: &Query,
    caller: &Application,
    headers: &HeaderMap,
    job_id: &str,
    parameters: Option<&str>,
) -> Result<Response, Refusal> {
    let job_id = id("id", job_id)?;
    Parameters::read(parameters, &[])?;
    let turn = query.turns.take(caller.reads_share()).await?;
    let job = query.store.job(job_id).await.map_err(of_store)?;
    let job = job.filter(|job| shows(caller, job)).ok_or(Refusal::NotFound)?;
    drop(turn);
    send(job_json(&job).to_string().into_bytes(), Encoding::accepted(&header(headers, &ACCEPT_ENCODING))).await
}

/// The members that every kind has. The others are those of the kind.
#[derive(Deserialize)]
struct Ask {
    kind: String,
    /// True by default, so that a missing member causes no change that cannot be undone.
    dry_run: Option<bool>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// `POST /v1/jobs`: asks for a job of an administrator, who sees everything.
///
/// # Errors
///
/// The refusals of a body and of a read, [`Refusal::BadParameter`], and [`Refusal::JobRunning`].
pub async fn ask(
    query: &Query,
    caller: &Application,
    actor: &Actor,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    Parameters::read(head.uri.query(), &[])?;
    body::must_be_json(&head.headers)?;
    let room = Held::none(&query.redriving.in_flight, caller.share());
    let received = body::read(&head.headers, body, &query.redriving.body_limits, room).await?;
    let (kind, dry_run, request) = job_request(&received.bytes)?;
    match jobs::ask(&query.store, kind, dry_run, request, actor).await.map_err(of_store)? {
        AskedJob::Running(id) => Err(Refusal::JobRunning { id, kind: kind.as_str() }),
        AskedJob::New(job) => Ok(accepted(&job)),
    }
}

/// The answer to a request for a job that a gateway will take up.
pub(super) fn accepted(job: &JobRow) -> Response {
    let mut response = response::json(StatusCode::ACCEPTED, job_json(job).to_string());
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)).expect("a UUID is ASCII");
    response.headers_mut().insert(LOCATION, location);
    response
}

fn job_request(body: &[u8]) -> Result<(Kind, bool, Value), Refusal> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            bad("body", &format!("{error}; it takes kind, dry_run, and what the kind takes"))
        }
        _ => Refusal::NotJson { line: error.line(), column: error.column(), message: error.to_string() },
    })?;
    let dry_run = ask.dry_run.unwrap_or(true);
    match Kind::of_word(&ask.kind) {
        Some(kind @ Kind::Redrive) => {
            let request = redrive::Request::of(dead_letters::job_choice(ask.rest)?);
            Ok((kind, dry_run, request.as_json()))
        }
        Some(Kind::Replay) => {
            Err(bad("kind", "is `replay`, which is asked for in the address: POST /v1/jobs?kind=replay&type=T&last=7d"))
        }
        Some(Kind::Rejudge) | None => Err(bad("kind", &format!("must be one of `{}`", Kind::ASKED_FOR.join("`, `")))),
    }
}

/// `DELETE /v1/jobs/{id}`: cancels a job. One that has ended stays as it is.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::NotFound`], and the refusals of a read.
pub async fn cancel(
    query: &Query,
    caller: &Application,
    actor: &Actor,
    job_id: &str,
    parameters: Option<&str>,
) -> Result<Response, Refusal> {
    let job_id = id("id", job_id)?;
    Parameters::read(parameters, &[])?;
    if !caller.has(Scope::Admin) {
        let job = query.store.job(job_id).await.map_err(of_store)?;
        job.filter(|job| shows(caller, job)).ok_or(Refusal::NotFound)?;
    }
    let job = jobs::cancel(&query.store, job_id, actor).await.map_err(of_store)?.ok_or(Refusal::NotFound)?;
    let status = if job.has_ended() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(response::json(status, job_json(&job).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_dry_unless_it_is_said_otherwise() {
        let (kind, dry_run, request) = job_request(br#"{"kind":"redrive","filter":{"code":"trap"}}"#).expect("a job");
        assert_eq!(
            (kind, dry_run, request.to_string()),
            (Kind::Redrive, true, r#"{"filter":{"code":"trap"}}"#.to_owned())
        );
        assert!(!job_request(br#"{"kind":"redrive","filter":{},"dry_run":false}"#).expect("a job").1);
        for body in [
            r#"{"filter":{}}"#,
            r#"{"kind":"rejudge"}"#,
            r#"{"kind":"nothing"}"#,
            r#"{"kind":"replay"}"#,
            r#"{"kind":"redrive"}"#,
            r#"{"kind":"redrive","ids":[]}"#,
            r#"{"kind":"redrive","filter":{"reason":"bad"}}"#,
            r#"{"kind":"redrive","filter":{},"ids":[]}"#,
            r#"{"kind":"redrive","filter":{},"limit":1}"#,
        ] {
            assert!(matches!(job_request(body.as_bytes()), Err(Refusal::BadParameter { .. })), "{body}");
        }
        assert!(matches!(job_request(b"{"), Err(Refusal::NotJson { .. })));
    }
}
