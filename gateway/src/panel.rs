//! Signing in to the panel. A token gets a code, which stands behind the `#` of an address, so that no log of a proxy has
//! it. The page of that address exchanges the code, once, for a cookie and a secret that its tab keeps. Both together act
//! for the application of the token, with the scopes that this has at each request. `files.rs` has the page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use hyper::body::Body as _;
use hyper::header::{CACHE_CONTROL, HeaderValue, ORIGIN, SET_COOKIE};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::access_log::Record;
use crate::audit::Actor;
use crate::body::{self, BodyLimits};
use crate::cors;
use crate::parameters::Parameters;
use crate::response::{self, Refusal, Response};
use crate::server::Incoming;
use crate::share::{Budget, Held, Share};
use crate::store::{self, Role, SESSION_IDLE, Store};
use crate::trust::attempts::Attempts;
use crate::trust::{self, Application, Peer, Trust, panel, token};

pub mod files;

/// Most bytes of a body with a code.
const BODY_BYTES_MAX: usize = 1_024;
/// The seconds after which a request for a code is worth another try, when an application has got too many.
const CODES_RETRY_SECONDS: u64 = 600;
/// Longest wait for a turn.
const TURN: Duration = Duration::from_secs(2);

/// The parts that the handler uses.
#[derive(Debug)]
pub struct Panel {
    /// Whether this gateway has a panel.
    pub enabled: bool,
    /// Whether connections are encrypted.
    pub secure: bool,
    /// The database with the codes and the sessions.
    pub store: Store,
    /// Knows the open sessions.
    pub trust: Arc<Trust>,
    /// Bounds of a body.
    pub body_limits: BodyLimits,
    /// The room for bodies in flight, in KiB.
    pub in_flight: Arc<Budget>,
    /// The bounds of signing in.
    pub sign_ins: Arc<SignIns>,
}

/// The bounds of signing in, which last as long as the gateway.
#[derive(Debug)]
pub struct SignIns {
    /// The share of the room for bodies for callers who sign in, who are not known yet.
    share: Arc<Share>,
    /// Bounds wrong codes.
    attempts: Attempts,
    /// One change at a time, so that callers who sign in leave the gateway connections for its own questions.
    turn: Semaphore,
}

impl Default for SignIns {
    fn default() -> Self {
        Self { share: Arc::default(), attempts: Attempts::default(), turn: Semaphore::new(1) }
    }
}

impl Panel {
    /// Whether this gateway has the path of a row of the router.
    pub fn has(&self, path: &str) -> bool {
        self.enabled || path != "/" && !path.starts_with("/panel/") && !path.starts_with("/v1/panel/")
    }

    /// Looks for the session that a request shows, if its address serves the panel. A request that a page of another origin
    /// makes a browser send has none.
    pub async fn look_for_session(&self, request: &mut Request<Incoming>, is_served: bool) {
        if self.enabled && is_served && cors::is_same_origin(request, self.secure) {
            self.trust.look_for_session(&self.store, request).await;
        }
    }

    /// Answers `POST /v1/panel/codes`: makes a code for the application of the token in the request.
    ///
    /// # Errors
    ///
    /// [`Refusal::TokenNeeded`]; [`Refusal::TooManyAttempts`] if the application has got too many codes; or the database is
    /// away.
    pub async fn code(
        &self,
        caller: &Application,
        actor: &Actor,
        request: &Request<Incoming>,
    ) -> Result<Response, Refusal> {
        Parameters::read(request.uri().query(), &[])?;
        let token = trust::token_of(request).ok_or(Refusal::TokenNeeded)?;
        let code = token::secret().map_err(|_| Refusal::Internal)?;
        let digest = Digest::of(code.as_bytes());
        let _turn = self.turn().await?;
        let expires_at = self.store.panel_code_add(&caller.name, Some(token), digest, actor).await.map_err(refusal)?;
        let answer = json!({"code": code, "application": caller.name, "expires_at": time(expires_at)});
        Ok(secret(response::json(StatusCode::CREATED, answer.to_string())))
    }

    /// Answers requests for `/v1/panel/session`.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]: the code or the session opens nothing, or the database is away.
    pub async fn session(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        record: &mut Record,
    ) -> Result<Response, Refusal> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && self.store.role() == Role::Reader {
            return Err(Refusal::ReadsOnly);
        }
        if !reads && !cors::is_same_origin(&request, self.secure) {
            self.trust.foreign_page(&request, peer);
            return Err(Refusal::ForeignOrigin);
        }
        Parameters::read(request.uri().query(), &[])?;
        if *request.method() == Method::POST {
            return self.sign_in(request, peer, record).await.map(secret);
        }
        if !Trust::shows_session(&request) {
            return Err(Refusal::NoSession);
        }
        let caller = self.trust.identify(&request, peer)?;
        record.application(&caller.name);
        let (digest, ends_at) = self.trust.session(&request).ok_or(Refusal::NoSession)?;
        if reads {
            let answer = shown(&caller.name, caller.scopes(), ends_at);
            return Ok(secret(response::json(StatusCode::OK, answer.to_string())));
        }
        let actor = self.trust.actor(Some(&caller), &request, peer);
        let _turn = self.turn().await?;
        self.store.panel_sign_out(digest, &caller.name, &actor).await.map_err(refusal)?;
        self.trust.refresh_sessions(&self.store).await;
        let mut response = response::json(StatusCode::OK, json!({"signed_out": true}).to_string());
        self.set_cookie(&mut response, &request, "", "; Max-Age=0")?;
        Ok(secret(response))
    }

    async fn turn(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        timeout(TURN, self.sign_ins.turn.acquire()).await.ok().and_then(Result::ok).ok_or(Refusal::SignInAway)
    }

    /// Exchanges a code for a session.
    async fn sign_in(&self, request: Request<Incoming>, peer: Peer, record: &mut Record) -> Result<Response, Refusal> {
        let (address, actor) = (self.trust.address_of(&request, peer), self.trust.actor(None, &request, peer));
        let (head, body) = request.into_parts();
        if !body.is_end_stream() {
            body::must_be_json(&head.headers)?;
        }
        let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, ..self.body_limits };
        let room = Held::none(&self.in_flight, &self.sign_ins.share);
        let body = body::read(&head.headers, body, &limits, room).await?.bytes;
        let request = Request::from_parts(head, ());
        self.sign_ins.attempts.take(address, Instant::now()).map_err(|wait| Refusal::TooManyAttempts {
            message: "Too many wrong codes came from this address, or from all together.".into(),
            retry_after_seconds: wait.as_secs() + 1,
        })?;
        let code = code_in(&body).inspect_err(|_| self.sign_ins.attempts.give_back(address))?;
        let secrets = token::secret().and_then(|cookie| Ok((cookie, token::secret()?)));
        let (cookie, tab) = secrets.map_err(|_| Refusal::Internal)?;
        let digest = panel::digest_of(&cookie, &tab);
        let by = |name: &str| Actor {
            peer: actor.peer,
            forwarded: actor.forwarded,
            request_id: actor.request_id.clone(),
            panel_session: Some(token::id_of(digest)),
            ..Actor::application(name)
        };
        let turn = self.turn().await.inspect_err(|_| self.sign_ins.attempts.give_back(address))?;
        let signed_in = self.store.panel_sign_in(code, digest, by).await;
        drop(turn);
        if !matches!(signed_in, Ok(None)) {
            self.sign_ins.attempts.give_back(address);
        }
        let Some(session) = signed_in.map_err(refusal)? else {
            self.trust.unknown_code(address);
            return Err(Refusal::UnknownCode);
        };
        record.application(&session.name);
        // The next request of the page may come to this gateway at once.
        self.trust.refresh_sessions(&self.store).await;
        let known = self.trust.applications().into_iter().find(|known| known.id == session.application_id);
        let scopes = known.as_ref().map(|known| known.scopes()).unwrap_or_default();
        let mut answer = shown(&session.name, scopes, session.ends_at);
        answer["secret"] = tab.into();
        let mut response = response::json(StatusCode::CREATED, answer.to_string());
        self.set_cookie(&mut response, &request, &cookie, "")?;
        Ok(response)
    }

    /// Sets the cookie of a session. The browser keeps it from pages and from other sites, and over TLS also from plain HTTP.
    fn set_cookie<B>(
        &self,
        response: &mut Response,
        request: &Request<B>,
        value: &str,
        more: &str,
    ) -> Result<(), Refusal> {
        // A proxy may have ended TLS. The browser then names a secure origin.
        let origin = request.headers().get(ORIGIN).map(HeaderValue::as_bytes);
        let secure = self.secure || origin.is_some_and(|origin| origin.starts_with(b"https://"));
        let (name, only) = (panel::cookie_name(trust::host(request), secure), if secure { "; Secure" } else { "" });
        let cookie = format!("{name}={value}; HttpOnly; SameSite=Strict; Path=/{only}{more}");
        let cookie = HeaderValue::try_from(cookie).map_err(|_| Refusal::Internal)?;
        response.headers_mut().append(SET_COOKIE, cookie);
        Ok(())
    }
}

/// The digest of the code in a body.
fn code_in(body: &[u8]) -> Result<Digest, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct SignIn {
        code: String,
    }
    if body.is_empty() {
        return Err(Refusal::Empty);
    }
    // The error of the parser could quote the code.
    let read: SignIn = serde_json::from_slice(body).map_err(|error| match error.is_data() {
        true => {
            Refusal::BadParameter { name: "body".into(), message: "send {\"code\":\"...\"} and nothing else".into() }
        }
        false => Refusal::NotJson { line: error.line(), column: error.column(), message: "it is not JSON".to_owned() },
    })?;
    Ok(Digest::of(read.code.as_bytes()))
}

/// Who is signed in, what they may do, and until when.
fn shown(application: &str, scopes: &[String], ends_at: DateTime<Utc>) -> serde_json::Value {
    json!({
        "application": application,
        "scopes": scopes,
        "ends_at": time(ends_at),
        "idle_seconds": SESSION_IDLE.as_secs(),
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Forbids caches to keep an answer.
fn secret(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(error: store::Error) -> Refusal {
    use store::Error as E;
    match error {
        // The token was ended since this gateway has read the applications.
        E::ApplicationUnknown(_) => Refusal::Unknown,
        E::PanelCodesMany(_) => {
            let message = format!("{error}.").into();
            Refusal::TooManyAttempts { message, retry_after_seconds: CODES_RETRY_SECONDS }
        }
        E::Away(_) | E::Slow(_) | E::Conflict(_) | E::Busy => Refusal::SignInAway,
        E::NoDescriptors => Refusal::NoDescriptors,
        error => {
            tracing::error!(%error, "the sessions of the panel cannot be read or changed");
            Refusal::Internal
        }
    }
}
