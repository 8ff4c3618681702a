//! Manages applications: the answers of `/v1/applications` (scope `admin`). A token is only in the answer that makes
//! it. This gateway applies a change before it answers; the others apply it within a second.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body as _;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};

pub use self::shown::shown_row;
pub use self::wanted::{Change, Invalid, Wanted, expiry};
use crate::audit::Actor;
use crate::body::{self, BodyLimits};
use crate::response::{self, Refusal, Response};
use crate::server::Incoming;
use crate::share::{Budget, Full, Held};
use crate::store::{self, Store};
use crate::trust::{Application, Trust, token};

mod shown;
mod wanted;

/// Most bytes of a body that describes an application.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The parts that the handler uses.
#[derive(Debug)]
pub struct Applications {
    /// The database with the applications.
    pub store: Store,
    /// The applications as this gateway knows them. The handler refreshes them after each change.
    pub trust: Arc<Trust>,
    /// Bounds of a body.
    pub body_limits: BodyLimits,
    /// The room for bodies in flight, in KiB.
    pub in_flight: Arc<Budget>,
}

impl Applications {
    /// Answers a request of `caller`, an administrator, for `/v1/applications`, or for the path `rest` below it. The audit
    /// trail names `actor`. The answer forbids caches to keep it, since it may hold a token.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]: the description is wrong, or the database is away.
    pub async fn answer(
        &self,
        caller: &Application,
        actor: &Actor,
        request: Request<Incoming>,
        rest: &str,
    ) -> Result<Response, Refusal> {
        let mut response = self.answer_cached(caller, actor, request, rest).await?;
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn answer_cached(
        &self,
        caller: &Application,
        actor: &Actor,
        request: Request<Incoming>,
        rest: &str,
    ) -> Result<Response, Refusal> {
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        let name = match parts.first() {
            Some(part) => percent_decode_str(part).decode_utf8().map_err(|_| Refusal::NotFound)?.into_owned(),
            None => String::new(),
        };
        let method = request.method().clone();
        match (&method, &parts[..]) {
            (&Method::GET | &Method::HEAD, []) => self.list().await,
            (&Method::POST, []) => self.add(self.read(caller, request).await?, actor).await,
            (&Method::GET | &Method::HEAD, [_]) => self.shown(&name, StatusCode::OK, None).await,
            (&Method::PATCH, [_]) => self.change(&name, self.read(caller, request).await?, actor).await,
            (&Method::DELETE, [_]) | (&Method::POST, [_, "revoke"]) => {
                self.store.application_revoke(&name, actor).await.map_err(refusal)?;
                self.shown(&name, StatusCode::OK, None).await
            }
            (&Method::POST, [_, "rotate"]) => self.rotate(&name, self.read(caller, request).await?, actor).await,
            (_, []) => Err(Refusal::MethodNotAllowed { allowed: "GET, HEAD, POST" }),
            (_, [_]) => Err(Refusal::MethodNotAllowed { allowed: "GET, HEAD, PATCH, DELETE" }),
            (_, [_, "rotate" | "revoke"]) => Err(Refusal::MethodNotAllowed { allowed: "POST" }),
            _ => Err(Refusal::NotFound),
        }
    }

    async fn read(&self, caller: &Application, request: Request<Incoming>) -> Result<Bytes, Refusal> {
        let (head, body) = request.into_parts();
        if !body.is_end_stream() {
            body::must_be_json(&head.headers)?;
        }
        let room = Held::none(&self.in_flight, caller.share());
        let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, ..self.body_limits };
        Ok(body::read(&head.headers, body, &limits, room).await?.bytes)
    }

    async fn list(&self) -> Result<Response, Refusal> {
        let rows = self.store.applications().await.map_err(refusal)?;
        let known = self.trust.applications();
        let applications: Vec<Value> = rows
            .iter()
            .map(|row| shown_row(row, known.iter().find(|known| known.id == row.id).map(|known| &**known)))
            .collect();
        let strangers = self.trust.security().strangers().into_iter();
        let unknown: Vec<Value> = strangers
            .map(|(kind, network, count)| json!({"network": network, "refused": kind.as_str(), "count": count}))
            .collect();
        Ok(response::json(StatusCode::OK, json!({"applications": applications, "unknown": unknown}).to_string()))
    }

    async fn add(&self, body: Bytes, actor: &Actor) -> Result<Response, Refusal> {
        let (new, token) = parsed::<Wanted>(&body)?.prove()?;
        self.store.application_add(&new, actor).await.map_err(refusal)?;
        self.shown(&new.name, StatusCode::CREATED, token).await
    }

    async fn change(&self, name: &str, body: Bytes, actor: &Actor) -> Result<Response, Refusal> {
        let change = parsed::<Change>(&body)?;
        let current = self.store.application(name).await.map_err(refusal)?;
        self.store.application_change(name, &change.prove(&current)?, actor).await.map_err(refusal)?;
        self.shown(name, StatusCode::OK, None).await
    }

    async fn rotate(&self, name: &str, body: Bytes, actor: &Actor) -> Result<Response, Refusal> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Rotation {
            expire_old: bool,
            expires: Option<String>,
        }
        let rotation = if body.is_empty() { Rotation::default() } else { parsed(&body)? };
        if rotation.expire_old {
            if rotation.expires.is_some() {
                let message = "no token is made with `expire_old`, so none can end";
                return Err(Refusal::BadParameter { name: "expires".into(), message: message.into() });
            }
            self.store.application_expire(name, actor).await.map_err(refusal)?;
            return self.shown(name, StatusCode::OK, None).await;
        }
        let expires_at = match rotation.expires {
            Some(expires) => Some(self.store.expires_at(expiry(&expires)?).await.map_err(refusal)?),
            None => None,
        };
        // Rotation keeps tokens in use, so their uses are recorded first.
        self.trust.note_uses(&self.store, true).await.map_err(refusal)?;
        let (token, digest) = token::make().map_err(|_| Refusal::Internal)?;
        self.store.application_rotate(name, digest, expires_at, actor).await.map_err(refusal)?;
        self.shown(name, StatusCode::OK, Some(token)).await
    }

    /// Returns the application as it is now, after this gateway has applied the change.
    async fn shown(&self, name: &str, status: StatusCode, token: Option<String>) -> Result<Response, Refusal> {
        self.trust.refresh(&self.store).await.map_err(refusal)?;
        let rows = self.store.applications().await.map_err(refusal)?;
        let row = rows.iter().find(|row| row.name == name).ok_or(Refusal::NotFound)?;
        let known = self.trust.applications();
        let mut shown = shown_row(row, known.iter().find(|known| known.id == row.id).map(|known| &**known));
        if let Some(token) = token {
            shown["token"] = token.into();
        }
        Ok(response::json(status, shown.to_string()))
    }
}

fn parsed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        if error.is_data() {
            return Refusal::BadParameter { name: "body".into(), message: error.to_string().into() };
        }
        Refusal::NotJson { line: error.line(), column: error.column(), message: "it is not JSON".to_owned() }
    })
}

fn refusal(error: store::Error) -> Refusal {
    use store::Error as E;
    match error {
        E::ApplicationExists(_) => Refusal::Exists { message: format!("{error}. Choose another name.") },
        E::ApplicationUnknown(_) => Refusal::NotFound,
        E::ApplicationRevoked(_) => Refusal::Revoked { message: error.to_string() },
        E::TokensInUse(_) => Refusal::TokensInUse { message: error.to_string() },
        E::ExpiryPassed => Refusal::BadParameter { name: "expires".into(), message: error.to_string().into() },
        E::ApplicationWithoutNetwork(_) | E::ApplicationNetworksUnused(_) => {
            Refusal::BadParameter { name: "networks".into(), message: error.to_string().into() }
        }
        E::ApplicationLimitedAdmin(_) => {
            Refusal::BadParameter { name: "scopes".into(), message: error.to_string().into() }
        }
        E::Busy => Refusal::ReadsFull { full: Full::All },
        E::Away(_) | E::Slow(_) | E::Conflict(_) => Refusal::DatabaseAway,
        E::NoDescriptors => Refusal::NoDescriptors,
        E::Url(_)
        | E::Bridge(_)
        | E::Refused(_)
        | E::Hidden(_)
        | E::Migrate(_)
        | E::PanelCodesMany(_)
        | E::PreparationsMany
        | E::SchemaBehind { .. }
        | E::SchemaFloor { .. } => {
            tracing::error!(%error, "the applications cannot be read or changed");
            Refusal::Internal
        }
    }
}
