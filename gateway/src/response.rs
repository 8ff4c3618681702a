//! Turns outcomes into HTTP answers: status, headers, body.

use std::convert::Infallible;

use bytes::Bytes;
use eye_event::outcome::{JudgedBy, Outcome, RejectionCode};
use eye_event::verdict::{Unfinished, UnfinishedCode, Violation};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
    VARY,
};
use serde::Serialize;
use uuid::Uuid;

mod accept;
mod body;
mod encoding;
mod of_store;
mod refusal;
mod request_id;
mod unsent_answers;

pub use self::accept::preferred;
pub use self::body::{Body, BodyError, Response};
pub use self::encoding::{Encoder, Encoding};
pub(crate) use self::of_store::of_store;
pub use self::refusal::{Refusal, Retry};
pub use self::request_id::{named, named_problem};
pub use self::unsent_answers::UnsentAnswers;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An answer of JSON that is already written.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    answer(status, JSON, body.into())
}

/// The formats of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figures {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4.
    Plain,
}

impl Figures {
    /// The format that an `Accept` header prefers. Without a preference it is the older one.
    pub fn accepted(header: &str) -> Self {
        match preferred(header, &["text/plain", "application/openmetrics-text"]) {
            Some(1) => Self::OpenMetrics,
            _ => Self::Plain,
        }
    }
}

/// The answer of `/metrics`, in one of the formats that Prometheus reads.
pub fn metrics(text: String, format: Figures) -> Response {
    let content_type = HeaderValue::from_static(match format {
        Figures::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Figures::Plain => "text/plain; version=0.0.4; charset=utf-8",
    });
    let mut response = answer(StatusCode::OK, content_type, text.into());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// A page for people, in the format that their client prefers. `policy` is the Content Security Policy of the page.
pub fn page(content_type: &'static str, text: impl Into<Bytes>, policy: &'static str) -> Response {
    let mut response = answer(StatusCode::OK, HeaderValue::from_static(content_type), text.into());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// The page of the panel, or a file that it needs. `policy` is the Content Security Policy, `caching` how long a browser
/// keeps it.
pub fn part_of_page(
    content_type: &'static str,
    content: impl Into<Bytes>,
    policy: &'static str,
    caching: &'static str,
) -> Response {
    let mut response = answer(StatusCode::OK, HeaderValue::from_static(content_type), content.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

/// The content of a file.
pub fn file(content_type: HeaderValue, content: impl Into<Bytes>) -> Response {
    answer(StatusCode::OK, content_type, content.into())
}

/// An answer of a read. It varies with the `Accept` headers.
pub fn read(body: impl Into<Bytes>) -> Response {
    varying(json(StatusCode::OK, body))
}

/// An answer of lines. The stream makes each while the answer is sent.
pub fn lines(pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::stream(StreamBody::new(pieces.map_ok(Frame::data))));
    response.headers_mut().insert(CONTENT_TYPE, LINES);
    varying(response)
}

/// Adds the headers of a compressed body.
pub fn compressed(mut response: Response, encoding: Encoding) -> Response {
    if let Some(word) = encoding.as_str() {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(word));
    }
    response
}

fn varying(mut response: Response) -> Response {
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    response
}

/// An answer of server-sent events, as long as the stream has any.
pub fn event_stream(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let frames = events.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(Body::stream(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn answer(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS {
        let second = HeaderValue::from_static("1");
        response.headers_mut().insert(RETRY_AFTER, second);
    }
    response
}

fn written(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("answers are structs with text keys, which always serialize").into()
}

/// 201: the event was committed.
pub fn stored(id: Uuid, dry_run: bool) -> Response {
    let rest: &[u8] = if dry_run { br#"","would":"stored"}"# } else { br#"","outcome":"stored"}"# };
    json(StatusCode::CREATED, brief(id, rest))
}

/// 200: an event with this id had been committed before, and nothing was written.
pub fn duplicate(id: Uuid, dry_run: bool) -> Response {
    let rest: &[u8] = if dry_run { br#"","would":"duplicate"}"# } else { br#"","outcome":"duplicate"}"# };
    json(StatusCode::OK, brief(id, rest))
}

/// The text with one allocation and no serializer, since this is the answer to nearly every request.
fn brief(id: Uuid, rest: &[u8]) -> Vec<u8> {
    let start = br#"{"id":""#;
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = id.hyphenated().encode_lower(&mut text).as_bytes();
    [start, id, rest].concat()
}

/// An event's outcome as a member of an answer.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// The outcome; null for an unfinished event.
    Outcome(Option<&'static str>),
    /// The outcome that it would have had. The gateway did nothing.
    Would(Option<&'static str>),
}

impl Said {
    fn of(word: Option<&'static str>, dry_run: bool) -> Self {
        if dry_run { Self::Would(word) } else { Self::Outcome(word) }
    }
}

/// 202: the validator failed; the event is kept as a dead letter and must not be sent again.
pub fn quarantined(id: Uuid, code: &str, dry_run: bool) -> Response {
    #[derive(Serialize)]
    struct Quarantined<'a> {
        id: Uuid,
        #[serde(flatten)]
        said: Said,
        code: &'a str,
    }
    let body = Quarantined { id, said: Said::of(Some("quarantined"), dry_run), code };
    json(StatusCode::ACCEPTED, written(&body))
}

/// 422: the event breaks rules of the envelope or of its validator. 403: the application may not send its type.
pub fn rejected(
    code: RejectionCode,
    id: Option<Uuid>,
    violations: &[Violation],
    validator: Option<&JudgedBy>,
    dry_run: bool,
) -> Response {
    #[derive(Serialize)]
    struct Rejected<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        title: &'static str,
        status: u16,
        detail: &'static str,
        code: RejectionCode,
        retry: Retry,
        id: Option<Uuid>,
        violations: &'a [Violation],
        validator: Option<&'a JudgedBy>,
        /// In a dry run, the outcome that it would have had.
        #[serde(skip_serializing_if = "Option::is_none")]
        would: Option<&'static str>,
    }
    let would = dry_run.then_some("rejected");
    let status = match code {
        RejectionCode::Envelope | RejectionCode::Rule => StatusCode::UNPROCESSABLE_ENTITY,
        RejectionCode::NotAllowed => StatusCode::FORBIDDEN,
    };
    let (kind, title, detail) = match code {
        RejectionCode::Envelope => (
            "/problems/envelope",
            "The event is not well formed",
            "Mend what `violations` lists (each `pointer` names the place) and send the event \
             again.",
        ),
        RejectionCode::Rule => (
            "/problems/rule",
            "The event breaks a rule of its type",
            "The validator of this event type refused the event. Mend what `violations` lists \
             (each `pointer` names the place) and send it again.",
        ),
        RejectionCode::NotAllowed => (
            "/problems/not_allowed",
            "The application may not send this event type",
            "Ask for the event type to be allowed for the application, then send the event again.",
        ),
    };
    let body = Rejected {
        kind,
        title,
        status: status.as_u16(),
        detail,
        code,
        retry: Retry::Never,
        id,
        violations,
        validator,
        would,
    };
    answer(status, PROBLEM, written(&body))
}

/// 503: the event has no outcome yet. The gateway keeps nothing of it, so the sender sends it again.
pub fn unfinished(id: Option<Uuid>, why: Unfinished) -> Response {
    #[derive(Serialize)]
    struct Problem {
        #[serde(rename = "type")]
        kind: String,
        title: &'static str,
        status: u16,
        detail: &'static str,
        code: &'static str,
        retry: Retry,
        id: Option<Uuid>,
    }
    let (title, detail) = match why.code {
        UnfinishedCode::ModuleBusy => (
            "The module of this event type is busy",
            "The event was not judged in time, and nothing of it is kept. Send it again after a pause, waiting longer \
             each time; with the `id` given here it is stored once at most.",
        ),
        UnfinishedCode::ModuleUnavailable => (
            "The module of this event type cannot judge now",
            "The event was not judged, and nothing of it is kept. Send it again after a pause, waiting longer each \
             time; with the `id` given here it is stored once at most. `GET /v1/validators` says what is wrong.",
        ),
        UnfinishedCode::ModuleLoading => (
            "The module of this event type is still being loaded",
            "The event was not judged, and nothing of it is kept. Send it again after a pause; with the `id` given \
             here it is stored once at most.",
        ),
        UnfinishedCode::NotKept => (
            "The event could not be kept",
            "The event was not accepted, and may not be kept as it is, so nothing of it is kept. Send it again after a \
             pause; with the `id` given here it is stored once at most.",
        ),
    };
    let code = why.code.as_str();
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let kind = format!("/problems/{code}");
    let mut response = answer(
        status,
        PROBLEM,
        written(&Problem { kind, title, status: status.as_u16(), detail, code, retry: Retry::After, id }),
    );
    response.headers_mut().insert(RETRY_AFTER, why.retry_after_seconds.into());
    response
}

/// The answer to a request with one event. In a dry run, the same with the outcome that the event would have had.
pub fn one(outcome: &Outcome, dry_run: bool) -> Response {
    match outcome {
        Outcome::Stored { id } => stored(*id, dry_run),
        Outcome::Duplicate { id } => duplicate(*id, dry_run),
        Outcome::Rejected { id, code, violations, omitted: _, validator } => {
            rejected(*code, *id, violations, validator.as_ref(), dry_run)
        }
        Outcome::Quarantined { id, code } => quarantined(*id, code, dry_run),
        Outcome::Unfinished { id, why } => unfinished(*id, *why),
    }
}

#[derive(Serialize)]
struct Many<'a> {
    /// True in a dry run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    stored: usize,
    duplicate: usize,
    rejected: usize,
    quarantined: usize,
    unfinished: usize,
    results: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    id: Option<Uuid>,
    #[serde(flatten)]
    said: Said,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    /// Seconds until the sender may send the event again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'a [Violation]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations_omitted: Option<usize>,
}

/// The answer to a request with many events, in their order: 200 if all are stored or duplicate, otherwise 207. Stored events
/// have no line.
pub fn many(outcomes: &[Outcome], dry_run: bool) -> Response {
    let mut body =
        Many { dry_run, stored: 0, duplicate: 0, rejected: 0, quarantined: 0, unfinished: 0, results: Vec::new() };
    for (index, outcome) in outcomes.iter().enumerate() {
        let (mut violations_omitted, mut retry_after) = (None, None);
        let (id, outcome, code, violations) = match outcome {
            Outcome::Stored { .. } => {
                body.stored += 1;
                continue;
            }
            Outcome::Duplicate { id } => {
                body.duplicate += 1;
                (Some(*id), Some("duplicate"), None, None)
            }
            Outcome::Rejected { id, code, violations, omitted, validator: _ } => {
                body.rejected += 1;
                violations_omitted = Some(*omitted).filter(|omitted| *omitted > 0);
                let code = Some(code.as_str());
                (*id, Some("rejected"), code, Some(violations.as_slice()))
            }
            Outcome::Quarantined { id, code } => {
                body.quarantined += 1;
                (Some(*id), Some("quarantined"), Some(code.as_ref()), None)
            }
            Outcome::Unfinished { id, why } => {
                body.unfinished += 1;
                retry_after = Some(why.retry_after_seconds);
                (*id, None, Some(why.code.as_str()), None)
            }
        };
        let said = Said::of(outcome, dry_run);
        body.results.push(Line { index, id, said, code, retry_after, violations, violations_omitted });
    }
    let all_stored = body.rejected + body.quarantined + body.unfinished == 0;
    let status = if all_stored { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    json(status, written(&body))
}

#[cfg(test)]
pub(crate) mod tests;
