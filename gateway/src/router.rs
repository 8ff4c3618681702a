//! Method and path to handler: one table.

use std::borrow::Cow;
use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;

use crate::gateway::Gateway;
use crate::response::{self, Refusal, Response};
use crate::trust::Scope;
use crate::{ingest, query};

/// Longest path that is looked at.
const PATH_BYTES_MAX: usize = 2_048;

/// What a path stands for.
enum Route<'a> {
    Events,
    Session(Cow<'a, str>),
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
            "/v1/events" | "/post/create" => Self::Events,
            "/v1/validators" => Self::Validators,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
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
            Self::Session(_) | Self::Validators | Self::Health | Self::Readiness => (Method::GET, "GET, HEAD"),
        }
    }
}

/// Answers any request.
pub async fn answer(gateway: &Gateway, request: Request<Incoming>, peer: IpAddr) -> Response {
    route(gateway, request, peer).await.unwrap_or_else(Refusal::into_response)
}

async fn route(gateway: &Gateway, request: Request<Incoming>, peer: IpAddr) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let route = Route::of(uri.path()).ok_or(Refusal::NotFound)?;
    let (method, allowed) = route.method();
    let asked = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    if *asked != method {
        return Err(Refusal::MethodNotAllowed { allowed });
    }
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
