//! Outcomes and refusals as HTTP answers: status, headers, body.
//!
//! Every refusal is a problem document (RFC 9457) with a stable `code` for programs and a `detail` that tells a
//! person how to mend the request.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::StatusCode;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
};
use serde::Serialize;
use uuid::Uuid;

mod encoding;
mod unsent;

pub use self::encoding::{Encoder, Encoding};
pub use self::unsent::Unsent;
use crate::outcome::{JudgedBy, Outcome, RejectionCode};
use crate::share::Held;
use crate::verdict::Violation;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a streamed body ended early; the connection is then broken off, so that the client sees a cut answer as cut.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// How much of a whole answer is handed on at once, so that what is not sent yet is known.
const FRAME_BYTES: usize = 64 * 1024;

/// The body of an answer: whole (the usual case, without a boxed stream) or streamed.
pub struct Body(Kind);

enum Kind {
    Whole(Bytes),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self(Kind::Whole(Bytes::new()))
    }

    /// A body whose bytes are made while it is sent.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Kind::Stream(body.map_err(Into::into).boxed_unsync()))
    }

    /// The bytes of a whole body; 0 for a stream, which never holds more than a piece.
    pub fn whole_bytes(&self) -> usize {
        match &self.0 {
            Kind::Whole(bytes) => bytes.len(),
            Kind::Stream(_) => 0,
        }
    }

    /// The same body, whose bytes keep `room` until the last of them is sent.
    pub fn holding(self, room: Held) -> Self {
        match self.0 {
            Kind::Whole(bytes) => Self(Kind::Whole(Bytes::from_owner(Kept { bytes, _room: room }))),
            Kind::Stream(_) => self,
        }
    }
}

/// Bytes with what they take up.
struct Kept {
    bytes: Bytes,
    _room: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Kind::Whole(bytes.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Kind::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let frame = bytes.split_to(bytes.len().min(FRAME_BYTES));
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// An answer of JSON that is already written.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    answer(status, JSON, body.into())
}

/// The figures, in the format that Prometheus reads.
pub fn metrics(text: String) -> Response {
    let format = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer(StatusCode::OK, format, text.into())
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
pub fn stored(id: Uuid) -> Response {
    json(StatusCode::CREATED, brief(id, br#"","outcome":"stored"}"#))
}

/// 200: an event with this id was committed before; nothing was written again.
pub fn duplicate(id: Uuid) -> Response {
    json(StatusCode::OK, brief(id, br#"","outcome":"duplicate"}"#))
}

/// One allocation, no serializer: this is the answer to nearly every request.
fn brief(id: Uuid, rest: &[u8]) -> Vec<u8> {
    let start = br#"{"id":""#;
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = id.hyphenated().encode_lower(&mut text).as_bytes();
    [start, id, rest].concat()
}

/// 202: the validator failed; the event is kept as a dead letter and must not be sent again.
pub fn quarantined(id: Uuid, code: &str) -> Response {
    #[derive(Serialize)]
    struct Quarantined<'a> {
        id: Uuid,
        outcome: &'static str,
        code: &'a str,
    }
    let body = Quarantined { id, outcome: "quarantined", code };
    json(StatusCode::ACCEPTED, written(&body))
}

/// 422: the event breaks the envelope's or its validator's rules. 403: the application may not send its type.
pub fn rejected(
    code: RejectionCode,
    id: Option<Uuid>,
    violations: &[Violation],
    validator: Option<&JudgedBy>,
) -> Response {
    #[derive(Serialize)]
    struct Rejected<'a> {
        #[serde(rename = "type")]
        kind: &'static str,
        title: &'static str,
        status: u16,
        detail: &'static str,
        code: RejectionCode,
        id: Option<Uuid>,
        violations: &'a [Violation],
        validator: Option<&'a JudgedBy>,
    }
    let status = match code {
        RejectionCode::Envelope | RejectionCode::Rule => StatusCode::UNPROCESSABLE_ENTITY,
        RejectionCode::NotAllowed => StatusCode::FORBIDDEN,
    };
    let (kind, title, detail) = match code {
        RejectionCode::Envelope => (
            "urn:eye:problem:envelope",
            "The event is not well formed",
            "Mend what `violations` lists (each `pointer` names the place) and send the event \
             again.",
        ),
        RejectionCode::Rule => (
            "urn:eye:problem:rule",
            "The event breaks a rule of its type",
            "The validator of this event type refused the event. Mend what `violations` lists \
             (each `pointer` names the place) and send it again.",
        ),
        RejectionCode::NotAllowed => (
            "urn:eye:problem:not_allowed",
            "The application may not send this event type",
            "Ask for the event type to be allowed for the application, then send the event again.",
        ),
    };
    let body = Rejected { kind, title, status: status.as_u16(), detail, code, id, violations, validator };
    answer(status, PROBLEM, written(&body))
}

/// The answer to a request that carried one event.
pub fn one(outcome: &Outcome) -> Response {
    match outcome {
        Outcome::Stored { id } => stored(*id),
        Outcome::Duplicate { id } => duplicate(*id),
        Outcome::Rejected { id, code, violations, omitted: _, validator } => {
            rejected(*code, *id, violations, validator.as_ref())
        }
        Outcome::Quarantined { id, code } => quarantined(*id, code),
    }
}

#[derive(Serialize)]
struct Many<'a> {
    stored: usize,
    duplicate: usize,
    rejected: usize,
    quarantined: usize,
    results: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    id: Option<Uuid>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations: Option<&'a [Violation]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    violations_omitted: Option<usize>,
}

/// The answer to a request that carried many events, in the order in which they came: 200 if all are stored or
/// duplicate, else 207. Only those not stored have a line.
pub fn many(outcomes: &[Outcome]) -> Response {
    let mut body = Many { stored: 0, duplicate: 0, rejected: 0, quarantined: 0, results: Vec::new() };
    for (index, outcome) in outcomes.iter().enumerate() {
        let mut violations_omitted = None;
        let (id, outcome, code, violations) = match outcome {
            Outcome::Stored { .. } => {
                body.stored += 1;
                continue;
            }
            Outcome::Duplicate { id } => {
                body.duplicate += 1;
                (Some(*id), "duplicate", None, None)
            }
            Outcome::Rejected { id, code, violations, omitted, validator: _ } => {
                body.rejected += 1;
                violations_omitted = Some(*omitted).filter(|omitted| *omitted > 0);
                let code = Some(code.as_str());
                (*id, "rejected", code, Some(violations.as_slice()))
            }
            Outcome::Quarantined { id, code } => {
                body.quarantined += 1;
                (Some(*id), "quarantined", Some(code.as_ref()), None)
            }
        };
        body.results.push(Line { index, id, outcome, code, violations, violations_omitted });
    }
    let status = if body.rejected + body.quarantined == 0 { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    json(status, written(&body))
}

// The longer details.
const UNKNOWN: &str = "Send `Authorization: Bearer <token>` with the token of a registered application, or send \
    from a network that is registered for one.";
const UNNAMED_PROXY: &str = "The request came through a proxy on the gateway's own machine, which may call for anybody, so \
    calling from this machine makes nobody known. Name the proxy in `trusted_proxies`, or send a token.";
const FOREIGN_ORIGIN: &str = "The request's `Origin` is not the gateway's own, and callers that a browser makes known \
    could not tell. Send an `Authorization` header, or, to send events from pages, name their origin in `cors_origins`.";
const FOREIGN_HOST: &str = "Who is known by where it calls from, or by a certificate, must call the gateway by a name of \
    its own, so that no page can use its browser: `localhost`, an address, or one of the setting `hosts`. Use one of these in \
    the URL, or send an `Authorization` header.";
const OVERLOADED: &str = "There is no room for more events now, and none of this request was stored. Send it again \
    after a pause, waiting longer each time.";
const DATABASE_AWAY: &str = "Some of the events may have been stored. Events with an `id` can be sent again safely: \
    none is stored twice. An event without an `id` may be stored a second time.";
const READS_FULL: &str = "As many reads are at work as may be at once. Try again after a pause, waiting longer each \
    time.";
const INTERNAL: &str = "This is a fault of the gateway; its log has the cause. Events with an `id` can be sent \
    again safely.";

/// Why a request as a whole was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body is not JSON.
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// There is no body, or no event in it.
    Empty,
    /// The body is larger than allowed, as sent or decompressed.
    TooLarge {
        /// The most that is allowed.
        limit_bytes: usize,
    },
    /// There are more events in the request than allowed.
    TooManyEvents {
        /// The most that is allowed.
        limit: usize,
    },
    /// The `Content-Type` is not one that is read here.
    WrongType {
        /// What the request said.
        found: String,
    },
    /// The `Content-Encoding` is not one that is read here.
    WrongEncoding {
        /// What the request said.
        found: String,
    },
    /// The compressed body cannot be decompressed.
    BodyCorrupt {
        /// The encoding that the request named.
        encoding: &'static str,
        /// What the decompressor met.
        message: String,
    },
    /// The sender is not a known application.
    Unknown,
    /// Only calling from this machine would make the sender known, and a proxy that nobody named passed the request on.
    UnnamedProxy,
    /// The application lacks a scope.
    NotAllowed {
        /// The scope that it lacks.
        scope: &'static str,
    },
    /// The request has more headers than it may.
    TooManyHeaders {
        /// How many it may have.
        limit: usize,
    },
    /// A page of another site had a browser send this.
    ForeignOrigin,
    /// A browser was told that this machine goes by a name that is not its own.
    ForeignHost,
    /// The application sends more events than it may.
    RateLimited {
        /// When the same request fits.
        retry_after_seconds: u64,
    },
    /// What the request makes is there already.
    Exists {
        /// What it is.
        message: String,
    },
    /// There is nothing at this path.
    NotFound,
    /// The path does not know the method.
    MethodNotAllowed {
        /// The methods that it knows, as in `Allow`.
        allowed: &'static str,
    },
    /// A parameter of the path or the query cannot be used.
    BadParameter {
        /// The parameter.
        name: Cow<'static, str>,
        /// What is wrong with it and how to mend it.
        message: Cow<'static, str>,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body broke off.
    BodyBroken,
    /// As many watch the outcomes as may.
    TooManyReaders {
        /// The most that is allowed.
        limit: usize,
    },
    /// There is no room for more work now.
    Overloaded,
    /// The database did not confirm: it may or may not have stored the events.
    DatabaseAway,
    /// All connections for reading are at work, or all streams are taken.
    ReadsFull,
    /// A read took longer than it may.
    ReadSlow {
        /// How long it may take, in milliseconds.
        limit_ms: u128,
    },
    /// The database does not answer a read.
    ReadAway,
    /// The gateway is shutting down.
    Draining,
    /// The gateway failed.
    Internal,
}

/// What a refusal says besides the words; only what it has is written.
#[derive(Default, Serialize)]
struct Facts<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
}

impl Refusal {
    /// The stable word for programs, in the problem's `code` and in metrics.
    pub fn code(&self) -> &'static str {
        self.words().1
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.words().0
    }

    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotJson { .. } => (S::BAD_REQUEST, "not_json", "The body is not JSON"),
            Self::Empty => (S::BAD_REQUEST, "empty", "The body is empty"),
            Self::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "too_large", "The body is too large"),
            Self::TooManyEvents { .. } => (S::PAYLOAD_TOO_LARGE, "too_many_events", "There are too many events"),
            Self::WrongType { .. } => (S::UNSUPPORTED_MEDIA_TYPE, "wrong_type", "The content type is not known"),
            Self::WrongEncoding { .. } => {
                (S::UNSUPPORTED_MEDIA_TYPE, "wrong_encoding", "The content encoding is not known")
            }
            Self::BodyCorrupt { .. } => (S::BAD_REQUEST, "body_corrupt", "The body cannot be decompressed"),
            Self::Unknown => (S::UNAUTHORIZED, "unknown_sender", "The sender is not known"),
            Self::UnnamedProxy => (S::UNAUTHORIZED, "unnamed_proxy", "A proxy that is not named sent this"),
            Self::NotAllowed { .. } => (S::FORBIDDEN, "not_allowed", "The application may not do this"),
            Self::TooManyHeaders { .. } => {
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", "There are too many headers")
            }
            Self::ForeignOrigin => (S::FORBIDDEN, "foreign_origin", "A page of another site sent this"),
            Self::ForeignHost => (S::FORBIDDEN, "foreign_host", "The request was meant for another host"),
            Self::RateLimited { .. } => {
                (S::TOO_MANY_REQUESTS, "rate_limited", "The application sends more events than it may")
            }
            Self::Exists { .. } => (S::CONFLICT, "exists", "It is there already"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed { .. } => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not known here")
            }
            Self::BadParameter { .. } => (S::BAD_REQUEST, "bad_parameter", "A parameter is wrong"),
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, "body_timeout", "The body came too slowly"),
            Self::BodyBroken => (S::BAD_REQUEST, "body_broken", "The body broke off"),
            Self::TooManyReaders { .. } => (S::SERVICE_UNAVAILABLE, "too_many_readers", "There are too many readers"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, "overloaded", "The gateway is overloaded"),
            Self::DatabaseAway => (S::SERVICE_UNAVAILABLE, "database_away", "The database does not answer"),
            Self::ReadsFull => (S::SERVICE_UNAVAILABLE, "reads_full", "There is no room for more reads"),
            Self::ReadSlow { .. } => (S::SERVICE_UNAVAILABLE, "read_slow", "The read took too long"),
            Self::ReadAway => (S::SERVICE_UNAVAILABLE, "database_away", "The database does not answer"),
            Self::Draining => (S::SERVICE_UNAVAILABLE, "draining", "The gateway is shutting down"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "The gateway failed"),
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::NotJson { line, column, message } => format!(
                "The body is not valid JSON at line {line}, column {column}: {message}. Mend \
                 it there and send it again."
            )
            .into(),
            Self::Empty => "Put one event, an array of events, or one event a line into the body.".into(),
            Self::TooLarge { limit_bytes } => format!(
                "A body may have {limit_bytes} bytes, also after decompression. Send the \
                 events in several smaller requests."
            )
            .into(),
            Self::TooManyEvents { limit } => {
                format!("A request may carry {limit} events. Send them in several requests.").into()
            }
            Self::WrongType { found } => format!(
                "The content type `{found}` is not read here. Send `application/json` for one \
                 event or an array, or `application/x-ndjson` for one event a line."
            )
            .into(),
            Self::WrongEncoding { found } => format!(
                "The content encoding `{found}` is not read here. Send the body as it is, or \
                 compressed once with `gzip` or `zstd`."
            )
            .into(),
            Self::BodyCorrupt { encoding, message } => format!(
                "The body was announced as `{encoding}` but cannot be decompressed: {message}. \
                 Compress the whole body once, or leave out `Content-Encoding`."
            )
            .into(),
            Self::Unknown => UNKNOWN.into(),
            Self::UnnamedProxy => UNNAMED_PROXY.into(),
            Self::NotAllowed { scope } => {
                format!("This needs the scope `{scope}`. Ask for it to be given to the application.").into()
            }
            Self::TooManyHeaders { limit } => format!("A request may have {limit} headers. Leave some out.").into(),
            Self::ForeignOrigin => FOREIGN_ORIGIN.into(),
            Self::ForeignHost => FOREIGN_HOST.into(),
            Self::RateLimited { retry_after_seconds } => format!(
                "Nothing of this request was stored. Send it again in {retry_after_seconds} s, or ask for a higher rate."
            )
            .into(),
            Self::Exists { message } => message.clone().into(),
            Self::NotFound => "Look at the path: events are sent to `POST /v1/events`.".into(),
            Self::MethodNotAllowed { allowed } => format!("Use one of these methods: {allowed}.").into(),
            Self::BadParameter { name, message } => format!("`{name}`: {message}").into(),
            Self::BodyTimeout => "Send the whole body without pauses, or in several smaller requests.".into(),
            Self::BodyBroken => "The connection broke off before the body was complete. Send the request \
                 again."
                .into(),
            Self::TooManyReaders { limit } => {
                format!("Outcomes are shown to {limit} readers at once. Try again once one has left.").into()
            }
            Self::Overloaded => OVERLOADED.into(),
            Self::DatabaseAway => DATABASE_AWAY.into(),
            Self::ReadsFull => READS_FULL.into(),
            Self::ReadSlow { limit_ms } => format!(
                "The read was ended after {limit_ms} ms. Ask for a shorter range of time or for a smaller page, or try \
                 again when the database has less to do."
            )
            .into(),
            Self::ReadAway => "Nothing is changed by a read: try again after a pause, waiting longer each time.".into(),
            Self::Draining => "None of this request was stored. Send it again on a new connection.".into(),
            Self::Internal => INTERNAL.into(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let none = Facts::default();
        match self {
            Self::NotJson { line, column, .. } => Facts { line: Some(*line), column: Some(*column), ..none },
            Self::TooLarge { limit_bytes } => Facts { limit_bytes: Some(*limit_bytes), ..none },
            Self::TooManyEvents { limit } | Self::TooManyReaders { limit } | Self::TooManyHeaders { limit } => {
                Facts { limit: Some(*limit), ..none }
            }
            Self::WrongType { found } | Self::WrongEncoding { found } => Facts { found: Some(found), ..none },
            Self::NotAllowed { scope } => Facts { scope: Some(scope), ..none },
            Self::BadParameter { name, .. } => Facts { parameter: Some(name), ..none },
            Self::Empty
            | Self::BodyCorrupt { .. }
            | Self::Unknown
            | Self::UnnamedProxy
            | Self::ForeignOrigin
            | Self::ForeignHost
            | Self::RateLimited { .. }
            | Self::Exists { .. }
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Overloaded
            | Self::DatabaseAway
            | Self::ReadsFull
            | Self::ReadSlow { .. }
            | Self::ReadAway
            | Self::Draining
            | Self::Internal => none,
        }
    }

    /// The problem document.
    pub fn problem(&self) -> Bytes {
        #[derive(Serialize)]
        struct Problem<'a> {
            #[serde(rename = "type")]
            kind: String,
            title: &'static str,
            status: u16,
            detail: Cow<'static, str>,
            code: &'static str,
            #[serde(flatten)]
            facts: Facts<'a>,
        }
        let (status, code, title) = self.words();
        written(&Problem {
            kind: format!("urn:eye:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            code,
            facts: self.facts(),
        })
    }

    /// The problem document with its status and headers.
    pub fn into_response(self) -> Response {
        let status = self.status();
        let body = self.problem();
        let mut response = answer(status, PROBLEM, body);
        let headers = response.headers_mut();
        if let Self::MethodNotAllowed { allowed } = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if let Self::RateLimited { retry_after_seconds } = self {
            headers.insert(RETRY_AFTER, retry_after_seconds.max(1).into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::verdict::Digest;

    const ID: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);

    fn parts(response: Response) -> (StatusCode, hyper::HeaderMap, Value) {
        let (head, body) = response.into_parts();
        let Kind::Whole(bytes) = body.0 else {
            panic!("answers are whole");
        };
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
        let (status, headers, body) = parts(one(&Outcome::Stored { id: ID }));
        assert_eq!((status, &headers[CONTENT_TYPE]), (StatusCode::CREATED, &JSON));
        assert_eq!(body, json!({"id": ID, "outcome": "stored"}));
        let (status, _, body) = parts(one(&Outcome::Duplicate { id: ID }));
        assert_eq!(status, StatusCode::OK);
        assert_eq!(body, json!({"id": ID, "outcome": "duplicate"}));
        let code = "deadline".into();
        let (status, _, body) = parts(one(&Outcome::Quarantined { id: ID, code }));
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(body, json!({"id": ID, "outcome": "quarantined", "code": "deadline"}));
    }

    #[test]
    fn one_event_rejected() {
        let (status, headers, body) = parts(one(&rejection(Some(ID), true)));
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(headers[CONTENT_TYPE], PROBLEM);
        assert_eq!(body["type"], "urn:eye:problem:rule");
        assert_eq!((&body["code"], &body["id"]), (&json!("rule"), &json!(ID)));
        assert_eq!(
            body["violations"],
            json!([{"pointer": "/price", "code": "negative", "message": "must not be negative"}])
        );
        let digest = "ab".repeat(32);
        assert_eq!(body["validator"], json!({"event_type": "shop/sale", "digest": digest}));
        let (_, _, body) = parts(one(&rejection(None, false)));
        assert_eq!(body["code"], "envelope");
        let object = body.as_object().expect("an object");
        assert_eq!((&object["id"], &object["validator"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn many_events() {
        let fine = [Outcome::Stored { id: ID }, Outcome::Duplicate { id: ID }];
        let (status, _, body) = parts(many(&fine));
        assert_eq!(status, StatusCode::OK);
        let expected = json!({"stored": 1, "duplicate": 1, "rejected": 0, "quarantined": 0,
            "results": [{"index": 1, "id": ID, "outcome": "duplicate"}]});
        assert_eq!(body, expected);
        let mixed =
            [Outcome::Stored { id: ID }, rejection(None, false), Outcome::Quarantined { id: ID, code: "trap".into() }];
        let (status, _, body) = parts(many(&mixed));
        assert_eq!(status, StatusCode::MULTI_STATUS);
        let violation = json!({"pointer": "/price", "code": "negative", "message": "must not be negative"});
        let expected = json!({"stored": 1, "duplicate": 0, "rejected": 1, "quarantined": 1, "results": [
            {"index": 1, "id": null, "outcome": "rejected", "code": "envelope", "violations": [violation]},
            {"index": 2, "id": ID, "outcome": "quarantined", "code": "trap"},
        ]});
        assert_eq!(body, expected);
    }

    #[test]
    fn violations_that_are_left_out_are_counted() {
        let code = RejectionCode::Rule;
        let cut = Outcome::Rejected { id: Some(ID), code, violations: Vec::new(), omitted: 37, validator: None };
        let (status, _, body) = parts(many(&[cut]));
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
            Refusal::ForeignOrigin,
            Refusal::ForeignHost,
            Refusal::RateLimited { retry_after_seconds: 7 },
            Refusal::Exists { message: "there is already one".to_owned() },
            Refusal::NotFound,
            Refusal::MethodNotAllowed { allowed: "GET, HEAD" },
            Refusal::BadParameter { name: "limit".into(), message: "give 1 to 1000".into() },
            Refusal::BodyTimeout,
            Refusal::BodyBroken,
            Refusal::TooManyReaders { limit: 10 },
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
            assert_eq!((&body["code"], &body["type"]), (&json!(code), &json!(format!("urn:eye:problem:{code}"))));
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
