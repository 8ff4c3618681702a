//! Method and path to handler: one table.

mod requests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::gateway::Gateway;
use crate::query::Read;
use crate::response::{self, Refusal, Response};
use crate::trust::Scope;
use crate::{ingest, metrics, query};

pub use requests::{Requests, RouteClass};

use requests::Asked;

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2_048;

/// Every path that is answered, with its methods as in `Allow`. `openapi.json` describes the same paths.
pub const ROUTES: &[(&str, &str)] = &[
    ("/v1/events", "GET, HEAD, POST"),
    ("/post/create", "POST"),
    ("/v1/sessions", "GET, HEAD"),
    ("/v1/sessions/{session_id}", "GET, HEAD"),
    ("/v1/sessions/{session_id}/events/{id}", "GET, HEAD"),
    ("/v1/categories", "GET, HEAD"),
    ("/v1/categories/{category}", "GET, HEAD"),
    ("/v1/stats", "GET, HEAD"),
    ("/v1/validators", "GET, HEAD"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
];

/// What programs are told of this surface.
const OPENAPI: &str = include_str!("../openapi.json");

/// What a path stands for.
enum Route<'a> {
    Events,
    Create,
    Read(Read<'a>),
    Validators,
    OpenApi,
    Health,
    Readiness,
    Metrics,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        Some(match path {
            "/v1/events" => Self::Events,
            "/post/create" => Self::Create,
            "/v1/validators" => Self::Validators,
            "/openapi.json" => Self::OpenApi,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            path => Self::Read(read(path)?),
        })
    }

    /// The methods that it knows, as in `Allow`.
    fn methods(&self) -> &'static str {
        match self {
            Self::Events => "GET, HEAD, POST",
            Self::Create => "POST",
            Self::Read(_) | Self::Validators | Self::OpenApi | Self::Health | Self::Readiness | Self::Metrics => {
                "GET, HEAD"
            }
        }
    }

    fn class(&self) -> RouteClass {
        match self {
            Self::Events | Self::Create => RouteClass::Events,
            Self::Read(_) => RouteClass::Read,
            Self::Validators | Self::OpenApi | Self::Health | Self::Readiness | Self::Metrics => RouteClass::Running,
        }
    }
}

/// What a path below `/v1` reads. Split before it is decoded, so that a category may hold a slash.
fn read(path: &str) -> Option<Read<'_>> {
    fn decoded(text: &str) -> Option<Cow<'_, str>> {
        percent_decode_str(text).decode_utf8().ok()
    }
    let segments: Vec<&str> = path.strip_prefix("/v1/")?.split('/').collect();
    Some(match segments[..] {
        ["sessions"] => Read::Sessions,
        ["sessions", session_id] if !session_id.is_empty() => Read::Session(decoded(session_id)?),
        ["sessions", session_id, "events", id] => Read::SessionEvent(decoded(session_id)?, decoded(id)?),
        ["categories"] => Read::Categories,
        ["categories", category] if !category.is_empty() => Read::Category(decoded(category)?),
        ["stats"] => Read::Stats,
        _ => return None,
    })
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
    let allowed = route.methods();
    let known = allowed.split(", ").any(|method| method == asked.as_str());
    if known { Ok(()) } else { Err(Refusal::MethodNotAllowed { allowed }) }
}

async fn route(
    gateway: &Gateway,
    request: Request<Incoming>,
    peer: IpAddr,
    asked: &mut Asked<'_>,
) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or(Refusal::NotFound)?;
    allowed(&route, request.method()).inspect_err(|_| asked.class = route.class())?;
    let route = match route {
        Route::Events if request.method() != Method::POST => Route::Read(Read::Events),
        route => route,
    };
    asked.class = route.class();
    match route {
        Route::Events | Route::Create => ingest::send(gateway, request, peer).await,
        Route::Read(read) => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            query::answer(gateway, request.headers(), read, uri.query()).await
        }
        Route::Validators => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            let report = serde_json::json!({ "validators": gateway.validators.report() });
            Ok(response::json(StatusCode::OK, report.to_string()))
        }
        Route::OpenApi => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            Ok(response::json(StatusCode::OK, OPENAPI))
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
