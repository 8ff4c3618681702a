//! Outcomes as HTTP answers: status, headers, body.

use std::convert::Infallible;

use bytes::Bytes;
use eye_event::outcome::{JudgedBy, Outcome, RejectionCode};
use eye_event::verdict::{Unfinished, UnfinishedCode, Violation};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::StreamBody;
use hyper::StatusCode;
use hyper::body::Frame;
use hyper::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY,
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
pub use self::request_id::{caller_request_id, named};
pub use self::unsent_answers::UnsentAnswers;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An answer of JSON that is already written.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    answer(status, JSON, body.into())
}

/// The formats in which figures are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figures {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4.
    Plain,
}

impl Figures {
    /// The format that an `Accept` header prefers: the older one unless the newer is asked for by its name.
    pub fn accepted(header: &str) -> Self {
        match preferred(header, &["text/plain", "application/openmetrics-text"]) {
            Some(1) => Self::OpenMetrics,
            _ => Self::Plain,
        }
    }
}

/// The figures, in one of the formats that Prometheus reads.
pub fn metrics(text: String, format: Figures) -> Response {
    let content_type = HeaderValue::from_static(match format {
        Figures::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Figures::Plain => "text/plain; version=0.0.4; charset=utf-8",
    });
    let mut response = answer(StatusCode::OK, content_type, text.into());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// A page for people, in the format that their client prefers. `policy` is the Content Security Policy to which a browser holds it.
pub fn page(content_type: &'static str, text: impl Into<Bytes>, policy: &'static str) -> Response {
    let mut response = answer(StatusCode::OK, HeaderValue::from_static(content_type), text.into());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// An answer of a read, which is another one when other things are accepted.
pub fn read(body: impl Into<Bytes>) -> Response {
    varying(json(StatusCode::OK, body))
}

/// An answer of lines that are made while they are sent.
pub fn lines(pieces: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Response {
    let mut response = Response::new(Body::stream(StreamBody::new(pieces.map_ok(Frame::data))));
    response.headers_mut().insert(CONTENT_TYPE, LINES);
    varying(response)
}

/// Says that a body is compressed.
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

/// An answer of server-sent events, for as long as there are any.
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

/// 201: the event is committed.
pub fn stored(id: Uuid, dry_run: bool) -> Response {
    let rest: &[u8] = if dry_run { br#"","would":"stored"}"# } else { br#"","outcome":"stored"}"# };
    json(StatusCode::CREATED, brief(id, rest))
}

/// 200: an event with this id was committed before; nothing was written again.
pub fn duplicate(id: Uuid, dry_run: bool) -> Response {
    let rest: &[u8] = if dry_run { br#"","would":"duplicate"}"# } else { br#"","outcome":"duplicate"}"# };
    json(StatusCode::OK, brief(id, rest))
}

/// One allocation, no serializer: this is the answer to nearly every request.
fn brief(id: Uuid, rest: &[u8]) -> Vec<u8> {
    let start = br#"{"id":""#;
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = id.hyphenated().encode_lower(&mut text).as_bytes();
    [start, id, rest].concat()
}

/// What is said of an event.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    /// How it ended; null while it has no outcome.
    Outcome(Option<&'static str>),
    /// How it would have ended: nothing was done.
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

/// 422: the event breaks the envelope's or its validator's rules. 403: the application may not send its type.
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
        /// In a dry run: what it would have been.
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

/// 503: the event has no outcome yet. Nothing of it is kept, so its sender sends it again.
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

/// The answer to a request that carried one event; of a dry run, the same with what would have become of it.
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
    /// True where nothing was done.
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
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'a [Violation]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations_omitted: Option<usize>,
}

/// The answer to a request that carried many events, in the order in which they came: 200 if all are stored or
/// duplicate, else 207. Only those not stored have a line.
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
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;
    use hyper::header::{ALLOW, WWW_AUTHENTICATE};
    use serde_json::{Value, json};

    use super::*;
    use crate::share::Full;
    use eye_event::verdict::Digest;

    const ID: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    fn parts(response: Response) -> (StatusCode, hyper::HeaderMap, Value) {
        let (head, mut body) = response.into_parts();
        let frame = body.frame().now_or_never().expect("it is there").expect("a piece").expect("it does not end early");
        let bytes = frame.into_data().expect("bytes");
        let body = serde_json::from_slice(&bytes).expect("answers are JSON");
        (head.status, head.headers, body)
    }

    fn rejection(id: Option<Uuid>, judged: bool) -> Outcome {
        Outcome::Rejected {
            id,
            code: if judged { RejectionCode::Rule } else { RejectionCode::Envelope },
            violations: vec![Violation {
                pointer: "/price".to_owned(),
                code: "negative".into(),
                message: "must not be negative".into(),
            }],
            omitted: 0,
            validator: judged.then(|| JudgedBy { event_type: "shop/sale".to_owned(), digest: Digest([0xab; 32]) }),
        }
    }

    #[test]
    fn one_event() {
        let (status, headers, body) = parts(one(&Outcome::Stored { id: ID }, false));
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::CREATED, &JSON));
        assert_eq!(body, json!({"id": ID, "outcome": "stored"}));
        let (status, _, body) = parts(one(&Outcome::Duplicate { id: ID }, false));
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({"id": ID, "outcome": "duplicate"}));
        let code = "deadline".into();
        let (status, _, body) = parts(one(&Outcome::Quarantined { id: ID, code }, false));
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(body, json!({"id": ID, "outcome": "quarantined", "code": "deadline"}));
    }

    #[test]
    fn an_event_without_an_outcome_is_to_be_sent_again() {
        for code in UnfinishedCode::ALL {
            let why = Unfinished { code, retry_after_seconds: 7 };
            let (status, headers, body) = parts(one(&Outcome::Unfinished { id: Some(ID), why }, false));
            assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::SERVICE_UNAVAILABLE, &PROBLEM));
            assert_eq!(headers[RETRY_AFTER], "7");
            assert_eq!((&body["code"], &body["id"]), (&json!(code.as_str()), &json!(ID)));
            assert_eq!(body["type"], format!("/problems/{}", code.as_str()));
            let detail = body["detail"].as_str().expect("a text");
            assert!(detail.contains("nothing of it is kept") && !detail.contains("  "), "{detail}");
        }
        let why = Unfinished::of(UnfinishedCode::ModuleLoading);
        let mixed = [Outcome::Stored { id: ID }, Outcome::Unfinished { id: Some(ID), why }];
        let (status, _, body) = parts(many(&mixed, false));
        assert_eq!(status, StatusCode::MULTI_STATUS);
        let expected = json!({"stored": 1, "duplicate": 0, "rejected": 0, "quarantined": 0, "unfinished": 1, "results": [
            {"index": 1, "id": ID, "outcome": null, "code": "module_loading", "retry_after": 1},
        ]});
        assert_eq!(body, expected);
    }

    #[test]
    fn a_dry_run_says_what_would_be_with_the_same_status() {
        let quarantined = || Outcome::Quarantined { id: ID, code: "trap".into() };
        for (outcome, would) in [
            (Outcome::Stored { id: ID }, json!({"id": ID, "would": "stored"})),
            (Outcome::Duplicate { id: ID }, json!({"id": ID, "would": "duplicate"})),
            (quarantined(), json!({"id": ID, "would": "quarantined", "code": "trap"})),
        ] {
            let (real, dry) = (parts(one(&outcome, false)), parts(one(&outcome, true)));
            assert_eq!((real.0, dry.2), (dry.0, would));
        }
        let (status, _, body) = parts(one(&rejection(Some(ID), true), true));
        assert_eq!((status, &body["would"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("rejected")));
        let why = Unfinished::of(UnfinishedCode::ModuleBusy);
        let all = [Outcome::Stored { id: ID }, quarantined(), Outcome::Unfinished { id: Some(ID), why }];
        let (status, _, body) = parts(many(&all, true));
        assert_eq!(status, StatusCode::MULTI_STATUS);
        let expected = json!({"dry_run": true, "stored": 1, "duplicate": 0, "rejected": 0, "quarantined": 1, "unfinished": 1,
        "results": [
            {"index": 1, "id": ID, "would": "quarantined", "code": "trap"},
            {"index": 2, "id": ID, "would": null, "code": "module_busy", "retry_after": 1},
        ]});
        assert_eq!(body, expected);
    }

    #[test]
    fn one_event_rejected() {
        let (status, headers, body) = parts(one(&rejection(Some(ID), true), false));
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(headers[CONTENT_TYPE], PROBLEM);
        assert_eq!(body["type"], "/problems/rule");
        assert_eq!((&body["code"], &body["id"]), (&json!("rule"), &json!(ID)));
        assert_eq!(
            body["violations"],
            json!([{"pointer": "/price", "code": "negative", "message": "must not be negative"}])
        );
        let digest = "ab".repeat(32);
        assert_eq!(body["validator"], json!({"event_type": "shop/sale", "digest": digest}));
        let (_, _, body) = parts(one(&rejection(None, false), false));
        assert_eq!(body["code"], "envelope");
        let object = body.as_object().expect("an object");
        assert_eq!((&object["id"], &object["validator"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn many_events() {
        let fine = [Outcome::Stored { id: ID }, Outcome::Duplicate { id: ID }];
        let (status, _, body) = parts(many(&fine, false));
        assert_eq!(status, StatusCode::OK);
        let expected = json!({"stored": 1, "duplicate": 1, "rejected": 0, "quarantined": 0, "unfinished": 0,
            "results": [{"index": 1, "id": ID, "outcome": "duplicate"}]});
        assert_eq!(body, expected);
        let mixed =
            [Outcome::Stored { id: ID }, rejection(None, false), Outcome::Quarantined { id: ID, code: "trap".into() }];
        let (status, _, body) = parts(many(&mixed, false));
        assert_eq!(status, StatusCode::MULTI_STATUS);
        let violation = json!({"pointer": "/price", "code": "negative", "message": "must not be negative"});
        let expected = json!({"stored": 1, "duplicate": 0, "rejected": 1, "quarantined": 1, "unfinished": 0, "results": [
            {"index": 1, "id": null, "outcome": "rejected", "code": "envelope", "violations": [violation]},
            {"index": 2, "id": ID, "outcome": "quarantined", "code": "trap"},
        ]});
        assert_eq!(body, expected);
    }

    #[test]
    fn violations_that_are_left_out_are_counted() {
        let code = RejectionCode::Rule;
        let cut = Outcome::Rejected { id: Some(ID), code, violations: Vec::new(), omitted: 37, validator: None };
        let (status, _, body) = parts(many(&[cut], false));
        assert_eq!(status, StatusCode::MULTI_STATUS);
        let line = json!({"index": 0, "id": ID, "outcome": "rejected", "code": "rule", "violations": [],
            "violations_omitted": 37});
        assert_eq!(body["results"], json!([line]));
    }

    #[test]
    fn refusals_are_problems_that_say_how_to_mend_them() {
        let refusals = [
            Refusal::NotJson { line: 3, column: 7, message: "expected `,`".to_owned() },
            Refusal::Empty,
            Refusal::TooLarge { limit_bytes: 10 },
            Refusal::TooManyEvents { limit: 10 },
            Refusal::WrongType { found: "text/plain".to_owned() },
            Refusal::WrongEncoding { found: "br".to_owned() },
            Refusal::BodyCorrupt { encoding: "gzip", message: "it ends too early".to_owned() },
            Refusal::Unknown,
            Refusal::UnnamedProxy,
            Refusal::NotAllowed { scope: "send" },
            Refusal::TooManyHeaders { limit: 100 },
            Refusal::BadHost { found: "has no `Host`" },
            Refusal::WrongTransferEncoding { found: "gzip, chunked".to_owned() },
            Refusal::ForeignOrigin,
            Refusal::ForeignHost,
            Refusal::RateLimited { retry_after_seconds: 7 },
            Refusal::Exists { message: "there is already one".to_owned() },
            Refusal::NotFound,
            Refusal::MethodNotAllowed { allowed: "GET, HEAD" },
            Refusal::BadParameter { name: "limit".into(), message: "give 1 to 1000".into() },
            Refusal::BodyTimeout,
            Refusal::BodyBroken,
            Refusal::TooManyReaders { limit: 10, full: Full::All },
            Refusal::Overloaded,
            Refusal::DatabaseAway,
            Refusal::Draining,
            Refusal::Internal,
        ];
        for refusal in refusals {
            let (expected, code) = (refusal.status(), refusal.code());
            let (status, headers, body) = parts(refusal.into_response());
            assert_eq!(status, expected);
            assert_eq!(headers[CONTENT_TYPE], PROBLEM);
            assert_eq!(body["status"], status.as_u16());
            assert_eq!((&body["code"], &body["type"]), (&json!(code), &json!(format!("/problems/{code}"))));
            assert!(body["title"].is_string());
            let detail = body["detail"].as_str().expect("a text");
            assert!(detail.len() > 10 && !detail.contains("  "), "{detail}");
            let passing = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status);
            assert_eq!(headers.contains_key(RETRY_AFTER), passing);
            if code == "rate_limited" {
                assert_eq!(headers[RETRY_AFTER], "7");
            }
            assert_eq!(headers.contains_key(ALLOW), status == StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(headers.contains_key(WWW_AUTHENTICATE), status == StatusCode::UNAUTHORIZED);
            if code == "not_json" {
                assert_eq!((&body["line"], &body["column"]), (&json!(3), &json!(7)));
            }
        }
    }
}
