//! Refusals of whole requests, as problem documents (RFC 9457): a stable `code` for programs, and a `detail` that says
//! how to mend the request.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{PROBLEM, Response, answer, written};
use crate::share::Full;

// Details of more than one line.
const UNKNOWN: &str = "Send `Authorization: Bearer <token>` with the token of a registered application, or send \
    from a network that is registered for one.";
const TOKEN_EXPIRED: &str = "The token has expired. Ask for a new one: `eye app rotate NAME` makes it.";
const UNNAMED_PROXY: &str = "The request came through a proxy on the gateway's own machine, or by HTTP/1.0 as from \
    one. A proxy may call for anybody, so the gateway identifies no caller by this machine's address. Name the proxy \
    in `trusted_proxies`, or send a token.";
const FOREIGN_ORIGIN: &str = "The request's `Origin` is not the gateway's own, and a caller that its browser makes \
    known may not have intended it. Send an `Authorization` header, or, to send events from pages, name their origin \
    in `cors_origins`.";
const FOREIGN_HOST: &str = "A caller that its network or a certificate makes known must call the gateway by a name of \
    its own, so that neither a page nor a proxy can use its place: `localhost` or a loopback address for callers from \
    the gateway's own machine, else an address or one of the setting `hosts`. Use one of these in the URL, or send an \
    `Authorization` header.";
const OVERLOADED: &str = "There is no room for more events now, and none of this request was stored. Send it again \
    after a pause, waiting longer each time.";
const DATABASE_AWAY: &str = "Some of the events may have been stored. Events with an `id` can be sent again safely: \
    none is stored twice. An event without an `id` may be stored a second time.";
const BODY_BROKEN: &str = "The connection broke off before the body was complete. Send the request again.";
const BAD_CONFIGURATION: &str = "The gateway applied none of it and keeps its settings. Mend what `problems` lists and \
    send the request again.";
const READS_FULL: &str = "The gateway runs as many reads at once as it may. Try again after a pause, waiting longer \
    each time.";
const READS_FULL_OWN: &str = "The application's own reads fill its share of the reads that may run at once; others can \
    still read. Wait for one of them to end, then try again.";
const NO_DESCRIPTORS: &str = "The gateway has as many open files as it may have, so it gets no connection to its database. Events \
    with an `id` can be sent again safely, after a pause; a read changed nothing.";
const READS_ONLY: &str = "This gateway serves reads from a standby: it takes no events, changes nothing and has no outcomes \
    to show. Nothing of this request was stored or changed. Send it to a gateway with `role = \"full\"`.";
const NO_SESSION: &str = "The session of the panel is not known, or it has ended; its cookie and the header `x-eye-panel` of \
    its tab count together alone. Sign in again with an address that `eye panel` prints.";
const UNKNOWN_CODE: &str = "The code works once, within ten minutes, and while the tokens of its application stay the same. \
    This one is not known, was used, or is over. Get another address with `eye panel`.";
const TOKEN_NEEDED: &str = "A code for the panel is given for a token alone, and not for a network, a certificate or a \
    session of the panel. Send `Authorization: Bearer <token>`.";
const SIGN_IN_AWAY: &str = "The database does not answer, so the gateway cannot tell whether the code or the session is good. \
    Try again after a pause, waiting longer each time.";
const INTERNAL: &str = "This is a fault of the gateway; its log has the cause. Events with an `id` can be sent \
    again safely.";

/// The reasons to refuse a whole request.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The body is not JSON.
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
        /// The problem at this place.
        message: String,
    },
    /// The body is empty or has no event.
    Empty,
    /// The body is larger than allowed, as sent or decompressed.
    TooLarge {
        /// Most bytes.
        limit_bytes: usize,
    },
    /// The request has too many events.
    TooManyEvents {
        /// Most events.
        limit: usize,
    },
    /// The gateway does not read this `Content-Type`.
    WrongType {
        /// The type of the request.
        found: String,
    },
    /// The gateway does not read this `Content-Encoding`.
    WrongEncoding {
        /// The encoding of the request.
        found: String,
    },
    /// The compressed body cannot be decompressed.
    BodyCorrupt {
        /// The encoding that the request named.
        encoding: &'static str,
        /// The error of the decompressor.
        message: String,
    },
    /// The sender is not a known application.
    Unknown,
    /// The token of the sender has expired.
    TokenExpired,
    /// Only its loopback address would identify the sender, and an unnamed proxy relayed the request.
    UnnamedProxy,
    /// The application lacks a scope.
    NotAllowed {
        /// The missing scope.
        scope: &'static str,
    },
    /// The caller is identified by its loopback address, which does not give this scope.
    NotAllowedHere {
        /// The missing scope.
        scope: &'static str,
    },
    /// The request has too many headers.
    TooManyHeaders {
        /// Most headers.
        limit: usize,
    },
    /// The request names no host, or several.
    BadHost {
        /// The fault of the request.
        found: &'static str,
    },
    /// The `Transfer-Encoding` is not `chunked` alone.
    WrongTransferEncoding {
        /// The encoding of the request.
        found: String,
    },
    /// A page of another site made a browser send the request.
    ForeignOrigin,
    /// The request names a host that is not the gateway's. A page may have its own name resolved to this machine.
    ForeignHost,
    /// The application exceeds its rate.
    RateLimited {
        /// The time after which the same request fits.
        retry_after_seconds: u64,
    },
    /// The configuration has problems, so a reload changed nothing.
    BadConfiguration {
        /// All problems, a line for each.
        problems: Vec<String>,
    },
    /// The request adds something that exists.
    Exists {
        /// Names what exists.
        message: String,
    },
    /// There is a job of this kind that has not ended.
    JobRunning {
        /// That job.
        id: Uuid,
        /// The word of the kind.
        kind: &'static str,
    },
    /// The application was revoked, which is final.
    Revoked {
        /// Names the application, and says what to do instead.
        message: String,
    },
    /// The application has two tokens in use, and a third would end one of them.
    TokensInUse {
        /// Says what to do first.
        message: String,
    },
    /// The body of a push is announced as something else than a module.
    NotAModule {
        /// The type of the request.
        found: String,
    },
    /// The application may ship other event types.
    NotShipped {
        /// Names those and this one.
        message: String,
    },
    /// The gateway does not take the module.
    ModuleRefused {
        /// What it expects of a module.
        expected: String,
        /// What it found.
        found: String,
        /// How the author can mend it.
        mend: String,
    },
    /// A gateway of the fleet cannot serve what was to be served.
    FleetRefused {
        /// The gateways, each with the reason.
        gateways: Value,
    },
    /// The modules of this gateway are not for it to write.
    ModulesElsewhere {
        /// Why, in one sentence.
        message: String,
    },
    /// Another change came first.
    ChangedMeanwhile {
        /// What serves now.
        message: String,
        /// The digest that serves now.
        digest: Option<String>,
    },
    /// As many changes of modules wait for gateways as may.
    PushesMany {
        /// How many may.
        message: String,
    },
    /// There is no version to go back to, or no module to take away.
    NoVersion {
        /// Names the event type and what there is.
        message: String,
    },
    /// The event type has no candidate.
    NoCandidate {
        /// Names the event type.
        message: String,
    },
    /// The guard took this module back.
    TakenBack {
        /// Why, and how to force it.
        message: String,
        /// The module.
        digest: String,
    },
    /// The session of the panel that the request shows is not open, or the request shows half of one.
    NoSession,
    /// The code was used, has expired or never existed.
    UnknownCode,
    /// A code for the panel is given for a token alone.
    TokenNeeded,
    /// There were too many wrong codes, or an application got too many codes.
    TooManyAttempts {
        /// Which of the two.
        message: Cow<'static, str>,
        /// The time after which the next one fits.
        retry_after_seconds: u64,
    },
    /// The database does not answer, so that a session or code may be good or not.
    SignInAway,
    /// The database did not answer while modules were to change.
    ShipAway {
        /// What is known of the change, and what to do.
        message: String,
    },
    /// The path does not exist.
    NotFound,
    /// The path does not have this method.
    MethodNotAllowed {
        /// The methods of the path, as in `Allow`.
        allowed: &'static str,
    },
    /// A parameter of the path or the query is wrong.
    BadParameter {
        /// The parameter.
        name: Cow<'static, str>,
        /// The fault, and how to mend it.
        message: Cow<'static, str>,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body broke off.
    BodyBroken,
    /// The live stream has as many readers as allowed.
    TooManyReaders {
        /// Most readers.
        limit: usize,
        /// Whose room is full.
        full: Full,
    },
    /// The gateway has no room for more work now.
    Overloaded,
    /// The database did not confirm the write, so the events may be stored or not.
    DatabaseAway,
    /// All connections for reads are in use, or all streams are taken.
    ReadsFull {
        /// Whose room is full.
        full: Full,
    },
    /// The read exceeded its time.
    ReadSlow {
        /// The time limit, in milliseconds.
        limit_ms: u128,
    },
    /// The database did not answer a read.
    ReadAway,
    /// The database answered with an error.
    DatabaseRefused {
        /// The SQLSTATE.
        state: String,
    },
    /// The gateway may open no more files, so it gets no connection to the database.
    NoDescriptors,
    /// The gateway is a reader and takes no events and no changes.
    ReadsOnly,
    /// The gateway drains.
    Draining,
    /// A fault of the gateway.
    Internal,
}

/// Whether and when the sender may send the same request again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// At once or later. Events with ids are stored at most once.
    Safe,
    /// After the time in `Retry-After`.
    After,
    /// Not unchanged, since the gateway would refuse it again.
    Never,
}

/// Further members of the problem, each only for the refusals that have it.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    problems: Option<&'a [String]>,
    /// Whose room is full: `application` or `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    full: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateways: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    /// The job that has not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Uuid>,
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

    /// Whether and when the sender may send the same request again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::BodyTimeout | Self::BodyBroken | Self::DatabaseRefused { .. } | Self::Internal => Retry::Safe,
            Self::RateLimited { .. }
            | Self::TooManyAttempts { .. }
            | Self::SignInAway
            | Self::ShipAway { .. }
            | Self::PushesMany { .. }
            | Self::TooManyReaders { .. }
            | Self::Overloaded
            | Self::DatabaseAway
            | Self::ReadsFull { .. }
            | Self::ReadSlow { .. }
            | Self::ReadAway
            | Self::NoDescriptors
            | Self::ReadsOnly
            | Self::Draining => Retry::After,
            Self::NotJson { .. }
            | Self::Empty
            | Self::TooLarge { .. }
            | Self::TooManyEvents { .. }
            | Self::WrongType { .. }
            | Self::WrongEncoding { .. }
            | Self::BodyCorrupt { .. }
            | Self::Unknown
            | Self::TokenExpired
            | Self::UnnamedProxy
            | Self::NotAllowed { .. }
            | Self::NotAllowedHere { .. }
            | Self::TooManyHeaders { .. }
            | Self::BadHost { .. }
            | Self::WrongTransferEncoding { .. }
            | Self::ForeignOrigin
            | Self::ForeignHost
            | Self::BadConfiguration { .. }
            | Self::Exists { .. }
            | Self::JobRunning { .. }
            | Self::Revoked { .. }
            | Self::TokensInUse { .. }
            | Self::NotAModule { .. }
            | Self::NotShipped { .. }
            | Self::ModuleRefused { .. }
            | Self::FleetRefused { .. }
            | Self::ModulesElsewhere { .. }
            | Self::ChangedMeanwhile { .. }
            | Self::NoVersion { .. }
            | Self::NoCandidate { .. }
            | Self::TakenBack { .. }
            | Self::NoSession
            | Self::UnknownCode
            | Self::TokenNeeded
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BadParameter { .. } => Retry::Never,
        }
    }

    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotJson { .. } => (S::BAD_REQUEST, "not_json", "The body is not JSON"),
            Self::Empty => (S::BAD_REQUEST, "empty", "The body is empty"),
            Self::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "too_large", "The body is too large"),
            Self::TooManyEvents { .. } => (S::PAYLOAD_TOO_LARGE, "too_many_events", "There are too many events"),
            Self::WrongType { .. } | Self::NotAModule { .. } => {
                (S::UNSUPPORTED_MEDIA_TYPE, "wrong_type", "The content type is not known")
            }
            Self::WrongEncoding { .. } => {
                (S::UNSUPPORTED_MEDIA_TYPE, "wrong_encoding", "The content encoding is not known")
            }
            Self::BodyCorrupt { .. } => (S::BAD_REQUEST, "body_corrupt", "The body cannot be decompressed"),
            Self::Unknown => (S::UNAUTHORIZED, "unknown_sender", "The sender is not known"),
            Self::TokenExpired => (S::UNAUTHORIZED, "token_expired", "The token has expired"),
            Self::UnnamedProxy => (S::UNAUTHORIZED, "unnamed_proxy", "An unnamed proxy relayed the request"),
            Self::NotAllowed { .. } | Self::NotAllowedHere { .. } | Self::NotShipped { .. } => {
                (S::FORBIDDEN, "not_allowed", "The application may not do this")
            }
            Self::TooManyHeaders { .. } => {
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_many_headers", "There are too many headers")
            }
            Self::BadHost { .. } => (S::BAD_REQUEST, "bad_host", "The request names no valid host"),
            Self::WrongTransferEncoding { .. } => {
                (S::NOT_IMPLEMENTED, "wrong_transfer_encoding", "The transfer encoding is not known")
            }
            Self::ForeignOrigin => (S::FORBIDDEN, "foreign_origin", "A page of another site sent the request"),
            Self::ForeignHost => (S::FORBIDDEN, "foreign_host", "The request was meant for another host"),
            Self::RateLimited { .. } => {
                (S::TOO_MANY_REQUESTS, "rate_limited", "The application sends more events than it may")
            }
            Self::BadConfiguration { .. } => {
                (S::UNPROCESSABLE_ENTITY, "bad_configuration", "The configuration has problems")
            }
            Self::Exists { .. } => (S::CONFLICT, "exists", "It exists already"),
            Self::JobRunning { .. } => (S::CONFLICT, "job_running", "A job of this kind is not done yet"),
            Self::Revoked { .. } => (S::CONFLICT, "revoked", "The application was revoked"),
            Self::TokensInUse { .. } => (S::CONFLICT, "tokens_in_use", "Two tokens are in use"),
            Self::ModuleRefused { .. } => {
                (S::UNPROCESSABLE_ENTITY, "module_refused", "The gateway does not take this module")
            }
            Self::FleetRefused { .. } => (S::CONFLICT, "fleet_refused", "A gateway cannot serve this"),
            Self::ModulesElsewhere { .. } => (S::CONFLICT, "modules_elsewhere", "The modules come from elsewhere"),
            Self::ChangedMeanwhile { .. } => (S::PRECONDITION_FAILED, "changed_meanwhile", "Another change came first"),
            Self::NoVersion { .. } => (S::CONFLICT, "no_version", "There is no such version"),
            Self::NoCandidate { .. } => (S::NOT_FOUND, "no_candidate", "There is no candidate"),
            Self::TakenBack { .. } => (S::CONFLICT, "taken_back", "The guard took this module back"),
            Self::NoSession => (S::UNAUTHORIZED, "no_session", "There is no such session of the panel"),
            Self::UnknownCode => (S::UNAUTHORIZED, "unknown_code", "The code opens nothing"),
            Self::TokenNeeded => (S::FORBIDDEN, "token_needed", "This needs a token"),
            Self::TooManyAttempts { .. } => (S::TOO_MANY_REQUESTS, "too_many_attempts", "There were too many attempts"),
            Self::NotFound => (S::NOT_FOUND, "not_found", "There is nothing here"),
            Self::MethodNotAllowed { .. } => {
                (S::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not known here")
            }
            Self::BadParameter { .. } => (S::BAD_REQUEST, "bad_parameter", "A parameter is wrong"),
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, "body_timeout", "The body came too slowly"),
            Self::BodyBroken => (S::BAD_REQUEST, "body_broken", "The body broke off"),
            _ => self.words_of_gateway(),
        }
    }

    /// The words where the fault is not the request's.
    fn words_of_gateway(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::TooManyReaders { .. } => (S::SERVICE_UNAVAILABLE, "too_many_readers", "There are too many readers"),
            Self::PushesMany { .. } | Self::Overloaded => {
                (S::SERVICE_UNAVAILABLE, "overloaded", "The gateway is overloaded")
            }
            Self::DatabaseAway | Self::ReadAway | Self::SignInAway | Self::ShipAway { .. } => {
                (S::SERVICE_UNAVAILABLE, "database_away", "The database does not answer")
            }
            Self::ReadsFull { .. } => (S::SERVICE_UNAVAILABLE, "reads_full", "There is no room for more reads"),
            Self::ReadSlow { .. } => (S::SERVICE_UNAVAILABLE, "read_slow", "The read took too long"),
            Self::DatabaseRefused { .. } => {
                (S::INTERNAL_SERVER_ERROR, "database_refused", "The database refused what the gateway asked")
            }
            Self::NoDescriptors => (S::SERVICE_UNAVAILABLE, "no_descriptors", "The gateway has too many open files"),
            Self::ReadsOnly => (S::SERVICE_UNAVAILABLE, "reads_only", "This gateway only reads"),
            Self::Draining => (S::SERVICE_UNAVAILABLE, "draining", "The gateway is shutting down"),
            _ => (S::INTERNAL_SERVER_ERROR, "internal", "The gateway failed"),
        }
    }

    fn detail(&self) -> Cow<'static, str> {
        match self {
            Self::NotJson { line, column, message } => not_json(*line, *column, message).into(),
            Self::Empty => "Put one event, an array of events, or one event a line into the body.".into(),
            Self::TooLarge { limit_bytes } => too_large(*limit_bytes).into(),
            Self::TooManyEvents { limit } => {
                format!("A request may carry {limit} events. Send them in several requests.").into()
            }
            Self::WrongType { found } => wrong_type(found).into(),
            Self::WrongEncoding { found } => wrong_encoding(found).into(),
            Self::BodyCorrupt { encoding, message } => body_corrupt(encoding, message).into(),
            Self::Unknown => UNKNOWN.into(),
            Self::TokenExpired => TOKEN_EXPIRED.into(),
            Self::UnnamedProxy => UNNAMED_PROXY.into(),
            Self::NotAllowed { scope } => {
                format!("This needs the scope `{scope}`. Ask for it to be given to the application.").into()
            }
            Self::NotAllowedHere { scope } => not_allowed_here(scope).into(),
            Self::TooManyHeaders { limit } => format!("A request may have {limit} headers. Leave some out.").into(),
            Self::BadHost { found } => bad_host(found).into(),
            Self::WrongTransferEncoding { found } => wrong_transfer_encoding(found).into(),
            Self::ForeignOrigin => FOREIGN_ORIGIN.into(),
            Self::ForeignHost => FOREIGN_HOST.into(),
            Self::RateLimited { retry_after_seconds } => format!(
                "Nothing of this request was stored. Send it again in {retry_after_seconds} s, or ask for a higher rate."
            )
            .into(),
            Self::BadConfiguration { .. } => BAD_CONFIGURATION.into(),
            Self::Exists { message }
            | Self::Revoked { message }
            | Self::TokensInUse { message }
            | Self::NotShipped { message }
            | Self::ModulesElsewhere { message }
            | Self::ChangedMeanwhile { message, .. }
            | Self::PushesMany { message }
            | Self::ShipAway { message }
            | Self::NoCandidate { message }
            | Self::TakenBack { message, .. }
            | Self::NoVersion { message } => message.clone().into(),
            Self::ModuleRefused { expected, found, mend } => module_refused(expected, found, mend).into(),
            Self::FleetRefused { gateways } => fleet_refused(gateways).into(),
            Self::NotAModule { found } => not_a_module(found).into(),
            Self::JobRunning { kind, .. } => job_running(kind).into(),
            Self::NoSession => NO_SESSION.into(),
            Self::UnknownCode => UNKNOWN_CODE.into(),
            Self::TokenNeeded => TOKEN_NEEDED.into(),
            Self::TooManyAttempts { message, retry_after_seconds: after } => too_many_attempts(message, *after).into(),
            Self::SignInAway => SIGN_IN_AWAY.into(),
            Self::NotFound => "Look at the path: events are sent to `POST /v1/events`.".into(),
            Self::MethodNotAllowed { allowed } => format!("Use one of these methods: {allowed}.").into(),
            Self::BadParameter { name, message } => format!("`{name}`: {message}").into(),
            Self::BodyTimeout => "Send the whole body without pauses, or in several smaller requests.".into(),
            Self::BodyBroken => BODY_BROKEN.into(),
            Self::TooManyReaders { limit, full } => too_many_readers(*limit, *full).into(),
            Self::Overloaded => OVERLOADED.into(),
            Self::DatabaseAway => DATABASE_AWAY.into(),
            Self::ReadsFull { full: Full::All } => READS_FULL.into(),
            Self::ReadsFull { full: Full::Application } => READS_FULL_OWN.into(),
            Self::ReadSlow { limit_ms } => read_slow(*limit_ms).into(),
            Self::ReadAway => "Nothing is changed by a read: try again after a pause, waiting longer each time.".into(),
            Self::DatabaseRefused { state } => format!(
                "The database answered with SQLSTATE {state}; the gateway's log has its message. Ask for a shorter range \
                 or for fewer rows. If the answer stays the same, tell the operator."
            )
            .into(),
            Self::NoDescriptors => NO_DESCRIPTORS.into(),
            Self::ReadsOnly => READS_ONLY.into(),
            Self::Draining => "None of this request was stored. Send it again on a new connection.".into(),
            Self::Internal => INTERNAL.into(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let none = Facts::default();
        match self {
            Self::NotJson { line, column, .. } => Facts { line: Some(*line), column: Some(*column), ..none },
            Self::TooLarge { limit_bytes } => Facts { limit_bytes: Some(*limit_bytes), ..none },
            Self::TooManyEvents { limit } | Self::TooManyHeaders { limit } => Facts { limit: Some(*limit), ..none },
            Self::TooManyReaders { limit, full } => Facts { limit: Some(*limit), full: Some(full.as_str()), ..none },
            Self::ReadsFull { full } => Facts { full: Some(full.as_str()), ..none },
            Self::WrongType { found }
            | Self::NotAModule { found }
            | Self::WrongEncoding { found }
            | Self::WrongTransferEncoding { found } => Facts { found: Some(found), ..none },
            Self::NotShipped { .. } => Facts { scope: Some("ship"), ..none },
            Self::NotAllowed { scope } | Self::NotAllowedHere { scope } => Facts { scope: Some(scope), ..none },
            Self::BadConfiguration { problems } => Facts { problems: Some(problems), ..none },
            Self::JobRunning { id, .. } => Facts { job: Some(*id), ..none },
            Self::BadParameter { name, .. } => Facts { parameter: Some(name), ..none },
            Self::ModuleRefused { expected, found, mend } => {
                Facts { expected: Some(expected), found: Some(found), mend: Some(mend), ..none }
            }
            Self::FleetRefused { gateways } => Facts { gateways: Some(gateways), ..none },
            Self::ChangedMeanwhile { digest, .. } => Facts { digest: digest.as_deref(), ..none },
            Self::TakenBack { digest, .. } => Facts { digest: Some(digest), ..none },
            Self::ModulesElsewhere { .. }
            | Self::PushesMany { .. }
            | Self::NoVersion { .. }
            | Self::NoCandidate { .. } => none,
            Self::Empty
            | Self::BodyCorrupt { .. }
            | Self::Unknown
            | Self::TokenExpired
            | Self::UnnamedProxy
            | Self::BadHost { .. }
            | Self::ForeignOrigin
            | Self::ForeignHost
            | Self::RateLimited { .. }
            | Self::Exists { .. }
            | Self::Revoked { .. }
            | Self::TokensInUse { .. }
            | Self::NoSession
            | Self::UnknownCode
            | Self::TokenNeeded
            | Self::TooManyAttempts { .. }
            | Self::SignInAway
            | Self::ShipAway { .. }
            | Self::NotFound
            | Self::MethodNotAllowed { .. }
            | Self::BodyTimeout
            | Self::BodyBroken
            | Self::Overloaded
            | Self::DatabaseAway
            | Self::ReadSlow { .. }
            | Self::ReadAway
            | Self::DatabaseRefused { .. }
            | Self::NoDescriptors
            | Self::ReadsOnly
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
            retry: Retry,
            #[serde(flatten)]
            facts: Facts<'a>,
        }
        let (status, code, title) = self.words();
        written(&Problem {
            kind: format!("/problems/{code}"),
            title,
            status: status.as_u16(),
            detail: self.detail(),
            code,
            retry: self.retry(),
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
        if let Self::RateLimited { retry_after_seconds } | Self::TooManyAttempts { retry_after_seconds, .. } = self {
            headers.insert(RETRY_AFTER, retry_after_seconds.max(1).into());
        }
        if let Self::BadHost { .. } | Self::WrongTransferEncoding { .. } = self {
            // A proxy may have understood the request differently, so the bytes after it may be a part of it.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

fn too_many_attempts(message: &str, retry_after_seconds: u64) -> String {
    format!("{message} Try again in {retry_after_seconds} s.")
}

fn not_json(line: usize, column: usize, message: &str) -> String {
    format!("The body is not valid JSON at line {line}, column {column}: {message}. Mend it there and send it again.")
}

fn read_slow(limit_ms: u128) -> String {
    format!(
        "The read was ended after {limit_ms} ms. Ask for a shorter range of time or for a smaller page, or try again when the \
         database has less to do."
    )
}

fn not_a_module(found: &str) -> String {
    format!(
        "The content type `{found}` is not read here. Send a module as `application/wasm`, and a JSON Schema as \
         `application/schema+json`."
    )
}

fn module_refused(expected: &str, found: &str, mend: &str) -> String {
    format!("Expected {expected}; found {found}; {mend}.")
}

/// Names each gateway and its reason.
fn fleet_refused(gateways: &Value) -> String {
    let each = gateways.as_array().into_iter().flatten().map(|one| {
        let name = one["gateway"].as_str().unwrap_or("a gateway");
        match (one["refusal"]["found"].as_str(), one["refusal"]["mend"].as_str()) {
            (Some(found), Some(mend)) => format!("{name} found {found} ({mend})"),
            _ => format!("{name} has said nothing of it"),
        }
    });
    format!(
        "Nothing has changed: {}. Mend that gateway, or stop it, and push again; with force the others serve it, and that \
         gateway holds the events.",
        each.collect::<Vec<_>>().join("; ")
    )
}

fn too_large(limit_bytes: usize) -> String {
    format!(
        "A body may have {limit_bytes} bytes, also after decompression. Send the events in several smaller requests."
    )
}

fn body_corrupt(encoding: &str, message: &str) -> String {
    format!(
        "The body was announced as `{encoding}` but cannot be decompressed: {message}. Compress the whole body once, or \
         leave out `Content-Encoding`."
    )
}

fn wrong_type(found: &str) -> String {
    format!(
        "The content type `{found}` is not read here. Send `application/json` for one \
         event or an array, or `application/x-ndjson` for one event a line."
    )
}

fn wrong_encoding(found: &str) -> String {
    format!(
        "The content encoding `{found}` is not read here. Send the body as it is, or \
         compressed once with `gzip` or `zstd`."
    )
}

fn bad_host(found: &str) -> String {
    format!("The request {found}. Send one `Host` with a name or an address, and a port if it has one.")
}

fn job_running(kind: &str) -> String {
    format!("One job `{kind}` at a time waits or runs, and there is one: wait until it is done, or cancel it.")
}

fn not_allowed_here(scope: &str) -> String {
    format!(
        "This needs the scope `{scope}`, and callers from the gateway's own machine have it by a token alone. Send \
         `Authorization: Bearer <token>`; the token of the administrator is the file `admin.token` in the gateway's \
         data dir."
    )
}

fn wrong_transfer_encoding(found: &str) -> String {
    format!(
        "The transfer encoding `{found}` is not read here. Send `Transfer-Encoding: chunked` alone, or a \
         `Content-Length`; a compressed body names its compression in `Content-Encoding`."
    )
}

fn too_many_readers(limit: usize, full: Full) -> String {
    match full {
        Full::All => format!("Outcomes are shown to {limit} readers at once. Try again once one has left."),
        Full::Application => format!(
            "Outcomes are shown to {limit} readers at once, and the application's own fill its share of them. Try again \
             once one of them has left."
        ),
    }
}
