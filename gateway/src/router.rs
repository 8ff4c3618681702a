//! Method and path to handler: one table.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::figures::{DURATION_BOUNDS_US, Histogram};
use crate::gateway::Gateway;
use crate::response::{self, Refusal, Response};
use crate::trust::Scope;
use crate::{ingest, metrics, query};

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2_048;

/// What a path stands for.
enum Route<'a> {
    Events,
    Session(Cow<'a, str>),
    Validators,
    Health,
    Readiness,
    Metrics,
}

/// The kinds of paths by which requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// Sending.
    Events,
    /// Reading what was stored.
    Read,
    /// How the gateway does: its validators, health and figures.
    Running,
    /// No path of the gateway.
    Unknown,
}

impl RouteClass {
    /// All, in the order of the figures.
    pub const ALL: [Self; 4] = [Self::Events, Self::Read, Self::Running, Self::Unknown];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Read => "read",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// The status codes that are counted apart.
const STATUSES: [&str; 18] = [
    "200", "201", "202", "207", "400", "401", "403", "404", "405", "408", "409", "413", "415", "422", "429", "431",
    "500", "503",
];
/// Counted last: another status, and none, because the sender went away before its answer.
const OTHERS: [&str; 2] = ["other", "none"];

/// What was asked and answered so far.
#[derive(Debug)]
pub struct Requests([ClassFigures; RouteClass::ALL.len()]);

#[derive(Debug)]
struct ClassFigures {
    answered: [AtomicU64; STATUSES.len() + OTHERS.len()],
    /// From the end of the head to the begin of the answer, in microseconds.
    took_us: Histogram,
}

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| ClassFigures {
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            took_us: Histogram::new(DURATION_BOUNDS_US),
        }))
    }
}

impl Requests {
    /// How many requests of a kind had each status, of those that any had.
    pub fn statuses(&self, class: RouteClass) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0[class as usize].answered.iter().map(|count| count.load(Relaxed));
        STATUSES.into_iter().chain(OTHERS).zip(counts).filter(|(_, count)| *count > 0)
    }

    /// How long requests of a kind took, in microseconds.
    pub fn took_us(&self, class: RouteClass) -> &Histogram {
        &self.0[class as usize].took_us
    }
}

/// A request that is being answered; counted when it is dropped, whatever became of it.
struct Asked<'a> {
    requests: &'a Requests,
    class: RouteClass,
    began: Instant,
    status: Option<StatusCode>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let figures = &self.requests.0[self.class as usize];
        let place = match self.status {
            Some(status) => STATUSES.binary_search(&status.as_str()).unwrap_or(STATUSES.len()),
            // The server answers 500 in place of what panicked.
            None if std::thread::panicking() => STATUSES.len() - 2,
            None => STATUSES.len() + 1,
        };
        figures.answered[place].fetch_add(1, Relaxed);
        if self.status.is_some() {
            figures.took_us.record_time(self.began.elapsed());
        }
    }
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        Some(match path {
            "/v1/events" | "/post/create" => Self::Events,
            "/v1/validators" => Self::Validators,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            path => {
                let session_id =
                    path.strip_prefix("/v1/sessions/").filter(|rest| !rest.is_empty() && !rest.contains('/'))?;
                Self::Session(percent_decode_str(session_id).decode_utf8().ok()?)
            }
        })
    }

    fn method(&self) -> (Method, &'static str) {
        match self {
            Self::Events => (Method::POST, "POST"),
            Self::Session(_) | Self::Validators | Self::Health | Self::Readiness | Self::Metrics => {
                (Method::GET, "GET, HEAD")
            }
        }
    }

    fn class(&self) -> RouteClass {
        match self {
            Self::Events => RouteClass::Events,
            Self::Session(_) => RouteClass::Read,
            Self::Validators | Self::Health | Self::Readiness | Self::Metrics => RouteClass::Running,
        }
    }
}

/// Answers any request.
pub async fn answer(gateway: &Gateway, request: Request<Incoming>, peer: IpAddr) -> Response {
    let began = Instant::now();
    let mut asked = Asked { requests: &gateway.requests, class: RouteClass::Unknown, began, status: None };
    let answer = route(gateway, request, peer, &mut asked).await.unwrap_or_else(Refusal::into_response);
    asked.status = Some(answer.status());
    answer
}

/// Answers a request on the address for monitoring, where nobody is asked for a token: only how the gateway does, and
/// nothing of what it holds. Such requests are not counted.
pub async fn answer_monitoring(gateway: &Gateway, request: Request<Incoming>) -> Response {
    let route = match Route::of(request.uri().path()) {
        Some(route @ (Route::Metrics | Route::Health | Route::Readiness)) => route,
        _ => return Refusal::NotFound.into_response(),
    };
    if let Err(refusal) = allowed(&route, request.method()) {
        return refusal.into_response();
    }
    match route {
        Route::Metrics => metrics(gateway).await,
        Route::Readiness => readiness(gateway).await,
        _ => health(),
    }
}

fn allowed(route: &Route<'_>, asked: &Method) -> Result<(), Refusal> {
    let (method, allowed) = route.method();
    let asked = if asked == Method::HEAD { &Method::GET } else { asked };
    if *asked == method { Ok(()) } else { Err(Refusal::MethodNotAllowed { allowed }) }
}

async fn route(
    gateway: &Gateway,
    request: Request<Incoming>,
    peer: IpAddr,
    asked: &mut Asked<'_>,
) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or(Refusal::NotFound)?;
    asked.class = route.class();
    allowed(&route, request.method())?;
    match route {
        Route::Events => ingest::send(gateway, request, peer).await,
        Route::Session(session_id) => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            query::session(gateway, &session_id, uri.query()).await
        }
        Route::Validators => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            let report = serde_json::json!({ "validators": gateway.validators.report() });
            Ok(response::json(StatusCode::OK, report.to_string()))
        }
        Route::Metrics => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            Ok(metrics(gateway).await)
        }
        Route::Health => Ok(health()),
        Route::Readiness => Ok(readiness(gateway).await),
    }
}

fn health() -> Response {
    response::json(StatusCode::OK, r#"{"status":"alive"}"#)
}

async fn metrics(gateway: &Gateway) -> Response {
    response::metrics(metrics::scrape(gateway).await)
}

async fn readiness(gateway: &Gateway) -> Response {
    let readiness = gateway.readiness().await;
    let status = if readiness.ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({
        "ready": readiness.ready(),
        "database": readiness.database,
        "validators": readiness.validators,
        "draining": readiness.draining,
    });
    response::json(status, body.to_string())
}
