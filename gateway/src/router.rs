//! Method and path to handler: one table.

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::gateway::Gateway;
use crate::query::Read;
use crate::response::{self, Refusal, Response};
use crate::trust::Scope;
use crate::{ingest, query};

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2_048;

/// What a path stands for.
enum Route<'a> {
    Events,
    Create,
    Read(Read<'a>),
    Validators,
    Health,
    Readiness,
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
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            path => Self::Read(read(path)?),
        })
    }

    /// The methods that it knows, as in `Allow`.
    fn methods(&self) -> &'static str {
        match self {
            Self::Events => "GET, HEAD, POST",
            Self::Create => "POST",
            Self::Read(_) | Self::Validators | Self::Health | Self::Readiness => "GET, HEAD",
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
    route(gateway, request, peer).await.unwrap_or_else(Refusal::into_response)
}

async fn route(gateway: &Gateway, request: Request<Incoming>, peer: IpAddr) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or(Refusal::NotFound)?;
    let allowed = route.methods();
    if !allowed.split(", ").any(|method| method == request.method().as_str()) {
        return Err(Refusal::MethodNotAllowed { allowed });
    }
    let route = match route {
        Route::Events if request.method() != Method::POST => Route::Read(Read::Events),
        route => route,
    };
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
        Route::Health => Ok(response::json(StatusCode::OK, r#"{"status":"alive"}"#)),
        Route::Readiness => Ok(readiness(gateway).await),
    }
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
