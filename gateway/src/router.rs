//! One table from method and path to the handler.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};
use hyper::{Method, Request, StatusCode};
use percent_encoding::percent_decode_str;
use tracing::Instrument as _;

use crate::access_log::{AccessLog, Record};
use crate::applications::Applications;
use crate::audit::Actor;
use crate::config::Problems;
use crate::cors::Cors;
use crate::ingest::Ingest;
use crate::live::{self, Live};
use crate::metrics::{self, Metrics};
use crate::panel::{self, Panel};
use crate::parameters::Parameters;
use crate::problems;
use crate::query::{self, Query, Read, Reader};
use crate::readiness::Readiness;
use crate::reload::Reload;
use crate::request_ids::RequestIds;
use crate::requests::{RequestTimer, Requests, RouteClass};
use crate::response::{self, Figures, Refusal, Response, UnsentAnswers};
use crate::server::{Incoming, form};
use crate::shipping::Shipping;
use crate::store::Role;
use crate::trail::Trail;
use crate::trust::{Application, Peer, Scope, Trust};

/// Longest path that the router matches. The longest path of the table has a category of 200 characters, each of which
/// takes up to twelve bytes when percent-encoded.
const PATH_BYTES_MAX: usize = 4_096;

/// Every path of the gateway, with its methods as in `Allow`. `openapi.json` describes the same paths. A part in braces
/// is a parameter. If two rows match a path, the row without parameters wins.
pub const ROUTES: &[(&str, &str)] = &[
    ("/v1/events", "GET, HEAD, POST"),
    ("/post/create", "POST"),
    ("/v1/sessions", "GET, HEAD"),
    ("/v1/sessions/{session_id}", "GET, HEAD"),
    ("/v1/sessions/{session_id}/events/{id}", "GET, HEAD"),
    ("/v1/categories", "GET, HEAD"),
    ("/v1/categories/{category}", "GET, HEAD"),
    ("/v1/stats", "GET, HEAD"),
    ("/v1/dead-letters", "GET, HEAD"),
    ("/v1/dead-letters/summary", "GET, HEAD"),
    ("/v1/dead-letters/{id}", "GET, HEAD"),
    ("/v1/dead-letters/redrive", "POST"),
    ("/v1/live", "GET, HEAD"),
    ("/v1/validators", "GET, HEAD"),
    ("/v1/validators/{category}/{name}", "GET, HEAD, PUT, DELETE"),
    ("/v1/validators/{category}/{name}/candidate", "GET, HEAD, DELETE"),
    ("/v1/validators/{category}/{name}/candidate/promote", "POST"),
    ("/v1/validators/{category}/{name}/rollback", "POST"),
    ("/v1/validators/{category}/{name}/retire", "POST"),
    ("/v1/validators/{category}/{name}/versions/{digest}", "GET, HEAD"),
    ("/v1/gateways", "GET, HEAD"),
    ("/v1/generations", "GET, HEAD"),
    ("/v1/generations/{number}", "GET, HEAD"),
    ("/v1/generations/{number}/back", "POST"),
    ("/v1/settings", "GET, HEAD"),
    ("/v1/settings/reload", "POST"),
    ("/v1/audit", "GET, HEAD"),
    ("/v1/jobs", "GET, HEAD, POST"),
    ("/v1/jobs/{id}", "GET, HEAD, DELETE"),
    ("/v1/panel/codes", "POST"),
    ("/v1/panel/session", "GET, HEAD, POST, DELETE"),
    ("/v1/applications", "GET, HEAD, POST"),
    ("/v1/applications/{name}", "GET, HEAD, PATCH, DELETE"),
    ("/v1/applications/{name}/rotate", "POST"),
    ("/v1/applications/{name}/revoke", "POST"),
    ("/healthz", "GET, HEAD"),
    ("/readyz", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
    ("/problems/{code}", "GET, HEAD"),
    ("/", "GET, HEAD"),
    ("/panel/{file}", "GET, HEAD"),
];

/// The OpenAPI description, for readers of `/openapi.json`.
const OPENAPI: &str = include_str!("../openapi.json");

/// The row that matches a path, with the values of its parameters.
struct Found<'a> {
    path: &'static str,
    methods: &'static str,
    parameters: Vec<Cow<'a, str>>,
}

impl<'a> Found<'a> {
    fn of(path: &'a str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        if let Some((path, methods)) = ROUTES.iter().find(|(row, _)| *row == path) {
            return Some(Self { path, methods, parameters: Vec::new() });
        }
        let (row, methods) = ROUTES.iter().find(|(row, _)| fits(row, path))?;
        // The path is split before it is decoded, so that a category may contain a slash.
        let given = row.split('/').zip(path.split('/')).filter(|(part, _)| part.starts_with('{'));
        let decoded = given.map(|(_, value)| percent_decode_str(value).decode_utf8().ok());
        Some(Self { path: row, methods, parameters: decoded.collect::<Option<_>>()? })
    }

    fn allow(&self, method: &Method) -> Result<(), Refusal> {
        let allowed = self.methods.split(", ").any(|one| one == method.as_str());
        if allowed { Ok(()) } else { Err(Refusal::MethodNotAllowed { allowed: self.methods }) }
    }

    fn class(&self, method: &Method) -> RouteClass {
        match self.path {
            "/v1/events" if method == Method::POST => RouteClass::Events,
            "/post/create" => RouteClass::Events,
            "/healthz"
            | "/readyz"
            | "/metrics"
            | "/openapi.json"
            | "/problems/{code}"
            | "/"
            | "/panel/{file}"
            | "/v1/validators"
            | "/v1/settings"
            | "/v1/settings/reload"
            | "/v1/audit"
            | "/v1/jobs"
            | "/v1/jobs/{id}" => RouteClass::Running,
            path if path.starts_with("/v1/applications") || path.starts_with("/v1/panel/") => RouteClass::Running,
            _ if self.is_shipping() => RouteClass::Running,
            _ => RouteClass::Read,
        }
    }

    /// The scope that the path needs with this method and query.
    fn scope(&self, method: &Method, query: Option<&str>) -> Scope {
        match self.path {
            "/v1/settings" | "/v1/settings/reload" | "/v1/audit" | "/v1/generations/{number}/back" => Scope::Admin,
            "/v1/jobs" if *method == Method::POST && query::replay::is_asked(query) => Scope::Ship,
            "/v1/jobs" => Scope::Admin,
            // Who ships modules sees the replays of their events.
            "/v1/jobs/{id}" => Scope::Ship,
            "/v1/validators/{category}/{name}" if !matches!(*method, Method::GET | Method::HEAD) => Scope::Ship,
            "/v1/validators/{category}/{name}/candidate" if matches!(*method, Method::GET | Method::HEAD) => {
                Scope::Read
            }
            path if path.starts_with("/v1/validators/{category}/{name}/") => Scope::Ship,
            path if path.starts_with("/v1/applications") => Scope::Admin,
            _ => Scope::Read,
        }
    }

    /// Whether the path is one of modules, gateways and generations.
    fn is_shipping(&self) -> bool {
        ["/v1/validators/", "/v1/gateways", "/v1/generations"].iter().any(|start| self.path.starts_with(start))
    }

    /// The read of events that the path asks for; `None` if it is no such path.
    fn read(self) -> Option<Read<'a>> {
        let mut parameters = self.parameters.into_iter();
        let mut next = || parameters.next().expect("the row has this parameter");
        Some(match self.path {
            "/v1/events" => Read::Events,
            "/v1/sessions" => Read::Sessions,
            "/v1/sessions/{session_id}" => Read::Session(next()),
            "/v1/sessions/{session_id}/events/{id}" => Read::SessionEvent(next(), next()),
            "/v1/categories" => Read::Categories,
            "/v1/categories/{category}" => Read::Category(next()),
            "/v1/stats" => Read::Stats,
            "/v1/dead-letters" => Read::DeadLetters,
            "/v1/audit" => Read::Audit,
            "/v1/jobs" => Read::Jobs,
            _ => return None,
        })
    }
}

fn fits(row: &str, path: &str) -> bool {
    let (mut parts, mut given) = (row.split('/'), path.split('/'));
    loop {
        match (parts.next(), given.next()) {
            (None, None) => return true,
            (Some(part), Some(value)) if part == value || part.starts_with('{') && !value.is_empty() => {}
            _ => return false,
        }
    }
}

/// The handlers, and the checks that each request passes before it reaches one.
#[derive(Debug)]
pub struct Router {
    /// Most headers of a request.
    pub headers_max: usize,
    /// Answers preflights, and refuses writes that pages of other sites make.
    pub cors: Arc<Cors>,
    /// Identifies callers.
    pub trust: Arc<Trust>,
    /// Counts requests by status.
    pub requests: Arc<Requests>,
    /// Writes the access log.
    pub access_log: Arc<AccessLog>,
    /// The room for answers that are not sent yet.
    pub unsent: Arc<UnsentAnswers>,
    /// Handles sending requests.
    pub ingest: Ingest,
    /// Handles reads.
    pub query: Query,
    /// Manages applications.
    pub applications: Applications,
    /// Ships modules, and shows the fleet.
    pub shipping: Shipping,
    /// Signs in to the panel.
    pub panel: Panel,
    /// Serves the live stream.
    pub live: Arc<Live>,
    /// Reads the configuration again.
    pub reload: Arc<Reload>,
    /// Counts refused requests for administration.
    pub trail: Arc<Trail>,
    /// Serves metrics and health.
    pub monitoring: Monitoring,
}

/// The address on which a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The address that serves all paths.
    Whole,
    /// The address for senders, if `admin_listen` is set for reads and administration.
    Sending,
    /// The address `metrics_listen`.
    Monitoring,
}

impl Door {
    /// Whether this address serves a request. To the others it answers as if the path did not exist.
    fn opens(self, request: &Request<Incoming>) -> bool {
        let path = request.uri().path();
        let is_sent = || request.method() == Method::POST && matches!(path, "/v1/events" | "/post/create");
        let is_open = || matches!(path, "/healthz" | "/readyz") || fits("/problems/{code}", path);
        self == Self::Whole || is_sent() || is_open()
    }
}

/// Serves metrics and health.
#[derive(Debug)]
pub struct Monitoring {
    /// The metrics.
    pub metrics: Metrics,
    /// The readiness of the gateway.
    pub readiness: Arc<Readiness>,
}

impl Monitoring {
    /// Answers a request on the address for monitoring, which asks for no token. It serves the state of the gateway and
    /// no events. The gateway neither counts nor logs these requests.
    pub async fn answer(&self, request: Request<Incoming>) -> Response {
        if let Err(refusal) = form::prove(&request) {
            return refusal.into_response();
        }
        let found = Found::of(request.uri().path());
        let Some(found) = found.filter(|found| matches!(found.path, "/metrics" | "/healthz" | "/readyz")) else {
            return Refusal::NotFound.into_response();
        };
        if let Err(refusal) = found.allow(request.method()) {
            return refusal.into_response();
        }
        match found.path {
            "/metrics" => self.scrape(request.headers()).await,
            "/readyz" => self.ready().await,
            _ => health(),
        }
    }

    async fn scrape(&self, headers: &HeaderMap) -> Response {
        let format = Figures::accepted(&query::header(headers, &ACCEPT));
        response::metrics(metrics::scrape(&self.metrics, format).await, format)
    }

    async fn ready(&self) -> Response {
        let (ready, report) = self.readiness.report().await;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response::json(status, report.to_string())
    }
}

/// The records that a handler fills while it answers: for the metrics and for the access log.
struct Noting<'n, 't> {
    timer: &'n mut RequestTimer<'t>,
    record: &'n mut Record,
}

impl Router {
    /// Answers a request on this address.
    pub async fn answer_at(&self, door: Door, request: Request<Incoming>, peer: Peer, ids: RequestIds) -> Response {
        if door == Door::Monitoring {
            return Box::pin(self.monitoring.answer(request)).await;
        }
        pin!(self.answer(request, peer, ids, door)).await
    }

    /// Answers a request on this address and records it.
    async fn answer(&self, request: Request<Incoming>, peer: Peer, ids: RequestIds, door: Door) -> Response {
        let mut record = self.access_log.begin(&ids, request.method(), || self.trust.address_of(&request, peer));
        let span = record.span();
        let response = {
            let answered = pin!(self.answer_noted(request, peer, &ids, door, &mut record));
            match span {
                None => answered.await,
                Some(span) => answered.instrument(span).await,
            }
        };
        record.status(response.status());
        response
    }

    async fn answer_noted(
        &self,
        mut request: Request<Incoming>,
        peer: Peer,
        ids: &RequestIds,
        door: Door,
        record: &mut Record,
    ) -> Response {
        let form = self.examine(&request);
        if let Some(response) = self.cors.preflight(&request).filter(|_| form.is_ok()) {
            return response;
        }
        let began = Instant::now();
        let mut timer = RequestTimer { requests: &self.requests, class: RouteClass::Unknown, began, status: None };
        let origin = self.cors.sending_origin(&request);
        let form = form.and_then(|()| if door.opens(&request) { Ok(()) } else { Err(Refusal::NotFound) });
        // Pages of other origins may send events, but never with a session of the panel.
        let shows_session = Trust::shows_session(&request);
        let admitted = form.and_then(|()| self.admit(&request, peer, origin.is_some() && !shows_session));
        if shows_session && admitted.is_ok() {
            Box::pin(self.panel.look_for_session(&mut request, door == Door::Whole)).await;
        }
        let answered = match admitted {
            Ok(()) => self.route(request, peer, ids, Noting { timer: &mut timer, record }).await,
            Err(refusal) => Err(refusal),
        };
        let answered = answered.map_err(|refusal| match refusal {
            // A missing file descriptor looks like a lost database, so the store distinguishes the two.
            Refusal::DatabaseAway | Refusal::ReadAway if self.query.store.lacks_descriptors() => Refusal::NoDescriptors,
            refusal => refusal,
        });
        let mut response = answered.unwrap_or_else(Refusal::into_response);
        self.cors.mark(origin, &mut response);
        timer.status = Some(response.status());
        response
    }

    /// The checks that do not depend on the route.
    fn examine(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        let limit = self.headers_max;
        if request.headers().len() > limit { Err(Refusal::TooManyHeaders { limit }) } else { form::prove(request) }
    }

    /// Finds the row of a path that this gateway has.
    fn found<'a>(&self, path: &'a str) -> Result<Found<'a>, Refusal> {
        Found::of(path).filter(|found| self.panel.has(found.path)).ok_or(Refusal::NotFound)
    }

    /// Refuses a request that a page of another site makes a browser send, if the path exists. A path or method that
    /// does not exist gets the same answer for every page.
    fn admit(&self, request: &Request<Incoming>, peer: Peer, allowed: bool) -> Result<(), Refusal> {
        let Err(foreign) = self.cors.admit(request, allowed) else { return Ok(()) };
        self.found(request.uri().path())?.allow(request.method())?;
        self.trust.foreign_page(request, peer);
        Err(foreign)
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        ids: &RequestIds,
        noting: Noting<'_, '_>,
    ) -> Result<Response, Refusal> {
        // Nearly every request is a sending one, and needs nothing of the rest.
        let sends = ["/v1/events", "/post/create"].into_iter().find(|path| *path == request.uri().path());
        if let (Some(path), &Method::POST) = (sends, request.method()) {
            noting.timer.class = RouteClass::Events;
            noting.record.route(path);
            if self.query.store.role() == Role::Reader {
                noting.record.application(&self.trust.identify(&request, peer)?.name);
                return Err(Refusal::ReadsOnly);
            }
            return self.ingest.send(request, peer, ids, noting.record).await;
        }
        // Boxed, since its future is several times as large as that of sending, and every connection would reserve it.
        Box::pin(self.route_rest(request, peer, ids, noting)).await
    }

    /// Answers all requests but sending ones.
    async fn route_rest(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        ids: &RequestIds,
        Noting { timer, record }: Noting<'_, '_>,
    ) -> Result<Response, Refusal> {
        let uri = request.uri().clone();
        let found = self.found(uri.path())?;
        timer.class = found.class(request.method());
        record.route(found.path);
        found.allow(request.method())?;
        match found.path {
            "/healthz" => return Ok(health()),
            "/readyz" => return Ok(self.monitoring.ready().await),
            "/problems/{code}" => {
                return problems::page(&found.parameters[0], &query::header(request.headers(), &ACCEPT));
            }
            "/" => return Ok(panel::files::page(&query::header(request.headers(), &ACCEPT_ENCODING))),
            "/panel/{file}" => {
                let accepted = query::header(request.headers(), &ACCEPT_ENCODING);
                return panel::files::file(&found.parameters[0], &accepted);
            }
            "/v1/panel/session" => return self.panel.session(request, peer, record).await,
            _ => {}
        }
        let scope = found.scope(request.method(), uri.query());
        let caller = self.admitted(&request, peer, scope, found.path, record)?;
        if self.query.store.role() == Role::Reader && !is_read_anywhere(found.path, request.method()) {
            return Err(Refusal::ReadsOnly);
        }
        let told = |response| self.unsent.hold_told(caller.share(), response);
        let actor = || self.trust.actor(Some(&caller), &request, peer);
        if let Some(rest) = found.path.strip_prefix("/v1/applications").and(uri.path().strip_prefix("/v1/applications"))
        {
            let actor = actor();
            return self.applications.answer(&caller, &actor, request, rest).await.map(told);
        }
        if found.is_shipping() {
            let actor = actor();
            return self.shipping.answer(&caller, &actor, request).await.map(told);
        }
        if found.path == "/v1/dead-letters/redrive" {
            let (actor, method) = (actor(), request.method().clone());
            let answered = query::dead_letters::redrive(&self.query, &caller, &actor, request).await;
            if let Err(refusal @ (Refusal::NotAllowed { .. } | Refusal::NotAllowedHere { .. })) = &answered {
                self.trail.refused(actor, None, refusal.code(), method.as_str(), found.path);
            }
            return answered.map(told);
        }
        if found.path.starts_with("/v1/jobs") && matches!(*request.method(), Method::POST | Method::DELETE) {
            let actor = actor();
            return self.change_jobs(&caller, &actor, request, &found).await.map(told);
        }
        if found.path == "/v1/panel/codes" {
            return self.panel.code(&caller, &actor(), &request).await;
        }
        if found.path == "/v1/settings" {
            return self.settings(uri.query()).await.map(told);
        }
        if found.path == "/v1/settings/reload" {
            return self.reload(uri.query(), &actor()).await.map(told);
        }
        let response = self.read(&caller, request, peer, ids, found).await?;
        self.unsent.hold(caller.answers_share(), response)
    }

    /// Asks for a job, or cancels one.
    async fn change_jobs(
        &self,
        caller: &Application,
        actor: &Actor,
        request: Request<Incoming>,
        found: &Found<'_>,
    ) -> Result<Response, Refusal> {
        let query = request.uri().query();
        match found.parameters.first() {
            Some(id) => query::jobs::cancel(&self.query, caller, actor, id, query).await,
            None if query::replay::is_asked(query) => query::replay::ask(&self.query, caller, actor, request).await,
            None => query::jobs::ask(&self.query, caller, actor, request).await,
        }
    }

    /// Identifies the caller, and proves its scope. A refused request for administration is counted for the audit trail.
    fn admitted(
        &self,
        request: &Request<Incoming>,
        peer: Peer,
        scope: Scope,
        route: &'static str,
        record: &mut Record,
    ) -> Result<Arc<Application>, Refusal> {
        let refused = |caller: Option<&Application>, refusal: &Refusal| {
            if matches!(scope, Scope::Admin | Scope::Ship) && !matches!(refusal, Refusal::DatabaseAway) {
                let actor = self.trust.actor(caller, request, peer);
                let network = caller.is_none().then(|| self.trust.network_of(request, peer));
                self.trail.refused(actor, network, refusal.code(), request.method().as_str(), route);
            }
        };
        let caller = self.trust.identify(request, peer).inspect_err(|refusal| refused(None, refusal))?;
        record.application(&caller.name);
        caller.allow(scope).inspect_err(|refusal| refused(Some(&caller), refusal))?;
        Ok(caller)
    }

    /// Shows the settings in force.
    async fn settings(&self, query: Option<&str>) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        let settings = self.reload.in_force().await.ok_or(Refusal::Internal)?;
        Ok(response::json(StatusCode::OK, serde_json::json!({ "settings": settings }).to_string()))
    }

    /// Reads the configuration again.
    async fn reload(&self, query: Option<&str>, actor: &Actor) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        match self.reload.run_aside(actor).await {
            Some(Ok(reloaded)) => Ok(response::json(StatusCode::OK, serde_json::json!(reloaded).to_string())),
            Some(Err(Problems(problems))) => Err(Refusal::BadConfiguration { problems }),
            None => Err(Refusal::Internal),
        }
    }

    /// Answers reads, whose scope the caller has.
    async fn read(
        &self,
        caller: &Application,
        request: Request<Incoming>,
        peer: Peer,
        ids: &RequestIds,
        found: Found<'_>,
    ) -> Result<Response, Refusal> {
        let uri = request.uri();
        let scope = found.scope(request.method(), uri.query());
        let still_known = || self.trust.still_known(&request, peer, caller, scope);
        match found.path {
            "/v1/dead-letters/summary" => {
                query::letter_summary::summary(&self.query, caller, request.headers(), uri.query()).await
            }
            "/v1/dead-letters/{id}" => {
                let id = &found.parameters[0];
                query::dead_letters::show(&self.query, caller, request.headers(), id, uri.query()).await
            }
            "/v1/jobs/{id}" => {
                let id = &found.parameters[0];
                query::jobs::show(&self.query, caller, request.headers(), id, uri.query()).await
            }
            "/v1/live" => {
                let half_closed = request.body().half_closed();
                live::watch(
                    &self.live,
                    caller.visible(),
                    caller.watching_share(),
                    uri.query(),
                    half_closed,
                    still_known(),
                )
            }
            "/v1/validators" => self.shipping.list(caller.visible()).await,
            "/openapi.json" => Ok(response::json(StatusCode::OK, OPENAPI)),
            // The figures name all applications and event types.
            "/metrics" if !caller.visible().is_all() => Err(Refusal::NotFound),
            "/metrics" => Ok(self.monitoring.scrape(request.headers()).await),
            _ => {
                let read = found.read().ok_or(Refusal::NotFound)?;
                let reader = Reader {
                    headers: request.headers(),
                    ids,
                    visible: caller.visible(),
                    reads: caller.reads_share(),
                    streams: caller.streams_share(),
                    still_known: &still_known,
                };
                self.query.answer(reader, read, uri.query()).await
            }
        }
    }
}

/// Whether a reader answers this request: it refuses changes of the database, and the live outcomes that it does not have.
fn is_read_anywhere(path: &str, method: &Method) -> bool {
    match path {
        "/v1/live" => false,
        "/v1/settings/reload" => true,
        _ => matches!(*method, Method::GET | Method::HEAD),
    }
}

fn health() -> Response {
    response::json(StatusCode::OK, r#"{"status":"alive"}"#)
}
