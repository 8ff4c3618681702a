//! Method and path to handler: one table.

mod requests;

use std::borrow::Cow;
use std::time::Instant;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::gateway::Gateway;
use crate::response::{self, Refusal, Response};
use crate::trust::{Peer, Scope};
use crate::{applications, ingest, metrics, query};

pub use requests::{Requests, RouteClass};

use requests::Asked;

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2_048;

/// Every path that is answered, with its methods as in `Allow`. `openapi.json` describes the same paths.
pub const ROUTES: &[(&str, &str)] = &[
    ("/v1/events", "POST"),
    ("/post/create", "POST"),
    ("/v1/sessions/{session_id}", "GET, HEAD"),
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
    Session(Cow<'a, str>),
    Validators,
    OpenApi,
    /// What comes after `/v1/applications`; it has methods of its own.
    Applications(&'a str),
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
            "/v1/events" | "/post/create" => Self::Events,
            "/v1/validators" => Self::Validators,
            "/openapi.json" => Self::OpenApi,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            path if path
                .strip_prefix("/v1/applications")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) =>
            {
                Self::Applications(&path["/v1/applications".len()..])
            }
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
            Self::Session(_)
            | Self::Validators
            | Self::OpenApi
            | Self::Applications(_)
            | Self::Health
            | Self::Readiness
            | Self::Metrics => (Method::GET, "GET, HEAD"),
        }
    }

    fn class(&self) -> RouteClass {
        match self {
            Self::Events => RouteClass::Events,
            Self::Session(_) => RouteClass::Read,
            Self::Validators | Self::OpenApi | Self::Applications(_) | Self::Health | Self::Readiness | Self::Metrics => RouteClass::Running,
        }
    }
}

/// Answers any request.
pub async fn answer(gateway: &Gateway, request: Request<Incoming>, peer: Peer) -> Response {
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
    peer: Peer,
    asked: &mut Asked<'_>,
) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or(Refusal::NotFound)?;
    asked.class = route.class();
    if let Route::Applications(rest) = route {
        return applications::answer(gateway, request, peer, rest).await;
    }
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
        Route::OpenApi => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            Ok(response::json(StatusCode::OK, OPENAPI))
        }
        Route::Metrics => {
            gateway.trust.identify(request.headers(), peer)?.allow(Scope::Read)?;
            Ok(metrics(gateway).await)
        }
        Route::Applications(_) => Err(Refusal::NotFound),
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
