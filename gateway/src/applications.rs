//! Who may call, managed: the checks of what an application may be, the same for the command and for
//! `/v1/applications`, and the answers of that path (scope `admin`). A token is in the answer that makes it and nowhere
//! else; the gateway that answers knows the change when it answers, the others within a second.

use std::sync::Arc;

use bytes::Bytes;
use chrono::SecondsFormat;
use eye_event::legible::is_hidden;
use eye_event::verdict::Digest;
use hyper::body::Body as _;
use hyper::{Method, Request, StatusCode};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::body::{self, BodyLimits};
use crate::response::{self, Refusal, Response};
use crate::server::Incoming;
use crate::share::{Budget, Full, Held};
use crate::store::{self, ApplicationChange, ApplicationRow, NewApplication, Store};
use crate::trust::event_types::EventTypes;
use crate::trust::security::Kind;
use crate::trust::{self, Application, Scope, Trust, token};

/// Largest body that describes an application.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Most networks, certificates and event types of an application, each.
const LIST_MAX: usize = 1_000;
/// The highest rate, which is also the most events at once.
const RATE_MAX: i32 = 1_000_000;
/// Longest name, in characters.
const NAME_CHARACTERS_MAX: usize = 200;

/// An application to be added, as a person or a program describes it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// Its name, which it keeps for ever.
    pub name: String,
    /// Whether to make a token; by default, if there is nothing else that proves it.
    pub token: Option<bool>,
    /// The networks from which it is known; together with a token or certificate only both count.
    pub networks: Vec<IpNet>,
    /// SHA-256 of client certificates that prove it.
    pub certificates: Vec<String>,
    /// What it may do; sending events if nothing is said.
    pub scopes: Vec<String>,
    /// Events in a second.
    pub events_per_second: Option<i32>,
    /// Events at once.
    pub burst_events: Option<i32>,
    /// Event types that it may send; all if nothing is said.
    pub event_types: Vec<String>,
}

/// What a description breaks: the field, and how to mend it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    field: &'static str,
    problem: String,
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::BadParameter { name: invalid.field.into(), message: invalid.problem.into() }
    }
}

fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid { field, problem: problem.into() })
}

impl Wanted {
    /// Checks it, and makes its token if it is to have one: what the database keeps, and the token for its owner.
    ///
    /// # Errors
    ///
    /// [`Invalid`], the first that is found.
    pub fn prove(self) -> Result<(NewApplication, Option<String>), Invalid> {
        let length = self.name.chars().count();
        if length == 0 || length > NAME_CHARACTERS_MAX || self.name.chars().any(is_hidden) {
            return invalid(
                "name",
                format!(
                    "give 1 to {NAME_CHARACTERS_MAX} characters, none of which is hidden, such as a line end or a mark of direction"
                ),
            );
        }
        if self.name == trust::LOCAL {
            return invalid("name", "this is the application of gateways with a Postgres of their own; choose another");
        }
        let certificates = certificates(&self.certificates)?;
        let wants_token = self.token.unwrap_or(self.networks.is_empty() && certificates.is_empty());
        let secret = wants_token || !certificates.is_empty();
        if !secret && self.networks.is_empty() {
            return invalid(
                "networks",
                "say how it is known: a token, a certificate, a network, or a network with one",
            );
        }
        let made = match wants_token.then(token::make).transpose() {
            Ok(made) => made,
            Err(error) => return invalid("token", error.to_string()),
        };
        let (token, token_digest) = made.unzip();
        let known_by = match (secret, self.networks.is_empty()) {
            (true, true) => "token",
            (true, false) => "both",
            (false, _) => "network",
        };
        rate(self.events_per_second, self.burst_events)?;
        let scopes = if self.scopes.is_empty() { vec![Scope::Ingest.as_str().to_owned()] } else { self.scopes };
        let new = NewApplication {
            name: self.name,
            token_digest,
            certificates,
            networks: networks(&self.networks)?,
            known_by: known_by.to_owned(),
            scopes: checked_scopes(scopes)?,
            events_per_second: self.events_per_second,
            burst_events: self.burst_events,
            event_types: event_types(self.event_types)?,
        };
        Ok((new, token))
    }
}

/// What is to be different about an application.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// The networks from which it is known.
    pub networks: Option<Vec<IpNet>>,
    /// What proves it: `token` (or certificate), `network` or `both`.
    pub known_by: Option<String>,
    /// SHA-256 of client certificates that prove it.
    pub certificates: Option<Vec<String>>,
    /// What it may do.
    pub scopes: Option<Vec<String>>,
    /// Events in a second; null takes the limit away.
    #[serde(deserialize_with = "given")]
    pub events_per_second: Option<Option<i32>>,
    /// Events at once; only together with `events_per_second`.
    pub burst_events: Option<i32>,
    /// Event types that it may send; an empty list allows all.
    pub event_types: Option<Vec<String>>,
    /// False suspends it, true lets it in again.
    pub active: Option<bool>,
}

/// Tells a null from a field that is not there.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Change {
    /// Checks it.
    ///
    /// # Errors
    ///
    /// [`Invalid`], the first that is found.
    pub fn prove(self) -> Result<ApplicationChange, Invalid> {
        if let Some(word) = self.known_by.as_deref().filter(|word| !["token", "network", "both"].contains(word)) {
            return invalid("known_by", format!("`{word}` is none of token, network, both"));
        }
        if self.burst_events.is_some() && self.events_per_second.is_none() {
            return invalid("burst_events", "give events_per_second with it");
        }
        rate(self.events_per_second.flatten(), self.burst_events)?;
        Ok(ApplicationChange {
            networks: self.networks.as_deref().map(networks).transpose()?,
            known_by: self.known_by,
            certificates: self.certificates.as_deref().map(certificates).transpose()?,
            scopes: self.scopes.map(checked_scopes).transpose()?,
            rate: self.events_per_second.map(|rate| rate.map(|rate| (rate, self.burst_events))),
            event_types: self.event_types.map(event_types).transpose()?,
            active: self.active,
        })
    }
}

fn certificates(texts: &[String]) -> Result<Vec<Digest>, Invalid> {
    few("certificates", texts.len())?;
    let digest = |text: &String| {
        // As openssl prints them, with colons, too.
        let plain: String = text.chars().filter(|character| *character != ':').collect();
        let digest = plain.to_lowercase().parse().ok();
        digest.map_or_else(|| invalid("certificates", "give the SHA-256 of a certificate: 64 hexadecimal digits"), Ok)
    };
    texts.iter().map(digest).collect()
}

fn networks(networks: &[IpNet]) -> Result<Vec<IpNet>, Invalid> {
    few("networks", networks.len())?;
    Ok(networks.iter().map(IpNet::trunc).map(trust::canonical).collect())
}

fn checked_scopes(scopes: Vec<String>) -> Result<Vec<String>, Invalid> {
    let known = Scope::ALL.map(Scope::as_str);
    few("scopes", scopes.len())?;
    match scopes.iter().find(|scope| !known.contains(&scope.as_str())) {
        Some(scope) => invalid("scopes", format!("`{scope}` is none of {}", known.join(", "))),
        None => Ok(scopes),
    }
}

fn event_types(patterns: Vec<String>) -> Result<Vec<String>, Invalid> {
    few("event_types", patterns.len())?;
    match EventTypes::parse(&patterns) {
        Ok(_) => Ok(patterns),
        Err(problem) => invalid("event_types", problem),
    }
}

fn rate(events_per_second: Option<i32>, burst_events: Option<i32>) -> Result<(), Invalid> {
    for (field, number) in [("events_per_second", events_per_second), ("burst_events", burst_events)] {
        if number.is_some_and(|number| !(1..=RATE_MAX).contains(&number)) {
            return invalid(field, format!("give 1 to {RATE_MAX}"));
        }
    }
    if burst_events.is_some() && events_per_second.is_none() {
        return invalid("burst_events", "give events_per_second with it");
    }
    Ok(())
}

fn few(field: &'static str, count: usize) -> Result<(), Invalid> {
    if count > LIST_MAX { invalid(field, format!("give {LIST_MAX} at most")) } else { Ok(()) }
}

/// What managing who may call takes.
#[derive(Debug)]
pub struct Applications {
    /// Where the applications are.
    pub store: Store,
    /// Who is known on this gateway.
    pub trust: Arc<Trust>,
    /// Bounds of a body.
    pub body_limits: BodyLimits,
    /// Bytes in flight, in KiB.
    pub in_flight: Arc<Budget>,
}

impl Applications {
    /// Answers what `caller` asks of `/v1/applications` and, in `rest`, of what is under it.
    ///
    /// # Errors
    ///
    /// A [`Refusal`]: of the caller, of what it describes, or because the database is away.
    pub async fn answer(
        &self,
        caller: &Application,
        request: Request<Incoming>,
        rest: &str,
    ) -> Result<Response, Refusal> {
        caller.allow(Scope::Admin)?;
        let parts: Vec<&str> = rest.split('/').skip(1).collect();
        let name = match parts.first() {
            Some(part) => percent_decode_str(part).decode_utf8().map_err(|_| Refusal::NotFound)?.into_owned(),
            None => String::new(),
        };
        let method = request.method().clone();
        match (&method, &parts[..]) {
            (&Method::GET | &Method::HEAD, []) => self.list().await,
            (&Method::POST, []) => self.add(self.read(caller, request).await?).await,
            (&Method::GET | &Method::HEAD, [_]) => self.shown(&name, StatusCode::OK, None).await,
            (&Method::PATCH, [_]) => self.change(&name, self.read(caller, request).await?).await,
            (&Method::DELETE, [_]) | (&Method::POST, [_, "revoke"]) => {
                self.store.application_revoke(&name).await.map_err(refusal)?;
                self.shown(&name, StatusCode::OK, None).await
            }
            (&Method::POST, [_, "rotate"]) => self.rotate(&name, self.read(caller, request).await?).await,
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

    async fn add(&self, body: Bytes) -> Result<Response, Refusal> {
        let (new, token) = parsed::<Wanted>(&body)?.prove()?;
        self.store.application_add(&new).await.map_err(refusal)?;
        self.shown(&new.name, StatusCode::CREATED, token).await
    }

    async fn change(&self, name: &str, body: Bytes) -> Result<Response, Refusal> {
        let change = parsed::<Change>(&body)?.prove()?;
        self.store.application_change(name, &change).await.map_err(refusal)?;
        self.shown(name, StatusCode::OK, None).await
    }

    async fn rotate(&self, name: &str, body: Bytes) -> Result<Response, Refusal> {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct Rotation {
            expire_old: bool,
        }
        let rotation = if body.is_empty() { Rotation::default() } else { parsed(&body)? };
        if rotation.expire_old {
            self.store.application_expire(name).await.map_err(refusal)?;
            return self.shown(name, StatusCode::OK, None).await;
        }
        let (token, digest) = token::make().map_err(|_| Refusal::Internal)?;
        self.store.application_rotate(name, digest).await.map_err(refusal)?;
        self.shown(name, StatusCode::OK, Some(token)).await
    }

    /// The application as it is now, in force on this gateway.
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

fn shown_row(row: &ApplicationRow, known: Option<&Application>) -> Value {
    let certificates: Vec<String> = row
        .certificate_digests
        .iter()
        .filter_map(|digest| digest[..].try_into().ok())
        .map(|digest| Digest(digest).to_string())
        .collect();
    let limit = row.rate_limit();
    let refused = known.map(|known| {
        let counts = Kind::ALL.map(|kind| (kind.as_str().to_owned(), Value::from(known.refused().get(kind))));
        Value::Object(counts.into_iter().filter(|(_, count)| *count != 0).collect())
    });
    json!({
        "name": row.name,
        "active": row.active,
        "known_by": row.known_by,
        "tokens": row.token_digests.len(),
        "certificates": certificates,
        "networks": row.networks,
        "scopes": row.scopes,
        "events_per_second": limit.map(|limit| limit.events_per_second.get()),
        "burst_events": limit.map(|limit| limit.burst_events.get()),
        "event_types": row.event_types,
        "created_at": row.created_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        "refused": refused,
    })
}

fn refusal(error: store::Error) -> Refusal {
    use store::Error as E;
    match error {
        E::ApplicationExists(_) => Refusal::Exists { message: format!("{error}. Choose another name.") },
        E::ApplicationUnknown(_) => Refusal::NotFound,
        E::ApplicationWithoutNetwork(_) | E::ApplicationNetworksUnused(_) => {
            Refusal::BadParameter { name: "networks".into(), message: error.to_string().into() }
        }
        E::Busy => Refusal::ReadsFull { full: Full::All },
        E::Away(_) | E::Slow(_) => Refusal::DatabaseAway,
        E::NoDescriptors => Refusal::NoDescriptors,
        E::Url(_)
        | E::Bridge(_)
        | E::Refused(_)
        | E::Hidden(_)
        | E::Migrate(_)
        | E::SchemaBehind { .. }
        | E::SchemaFloor { .. } => {
            tracing::error!(%error, "the applications cannot be read or changed");
            Refusal::Internal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(body: Value) -> Result<(NewApplication, Option<String>), Invalid> {
        serde_json::from_value::<Wanted>(body).expect("the shape is right").prove()
    }

    #[test]
    fn what_proves_an_application_follows_from_what_it_is_given() {
        let digest = "AB:".repeat(31) + "ab";
        for (body, known_by, has_token) in [
            (json!({"name": "a"}), "token", true),
            (json!({"name": "a", "networks": ["10.0.0.0/8"]}), "network", false),
            (json!({"name": "a", "networks": ["10.0.0.0/8"], "token": true}), "both", true),
            (json!({"name": "a", "certificates": [digest]}), "token", false),
            (json!({"name": "a", "certificates": [digest], "networks": ["::/0"]}), "both", false),
        ] {
            let (new, token) = wanted(body.clone()).expect("sound");
            assert_eq!((new.known_by.as_str(), token.is_some()), (known_by, has_token), "{body}");
            assert_eq!(new.token_digest, token.map(|token| Digest::of(token.as_bytes())), "only the digest is kept");
            assert_eq!(new.scopes, ["ingest"]);
        }
    }

    #[test]
    fn what_no_application_can_be_is_refused_with_its_field() {
        for (body, field) in [
            (json!({"name": ""}), "name"),
            (json!({"name": "x".repeat(201)}), "name"),
            (json!({"name": "local"}), "name"),
            (json!({"name": "a", "token": false}), "networks"),
            (json!({"name": "a", "certificates": ["abc"]}), "certificates"),
            (json!({"name": "a", "scopes": ["root"]}), "scopes"),
            (json!({"name": "a", "events_per_second": 0}), "events_per_second"),
            (json!({"name": "a", "burst_events": 5}), "burst_events"),
            (json!({"name": "a", "event_types": ["shop"]}), "event_types"),
        ] {
            assert_eq!(wanted(body).expect_err("refused").field, field);
        }
        let change = |body| serde_json::from_value::<Change>(body).expect("the shape").prove();
        assert_eq!(change(json!({"known_by": "luck"})).expect_err("refused").field, "known_by");
        let unlimited = change(json!({"events_per_second": null})).expect("sound");
        assert_eq!((unlimited.rate, change(json!({})).expect("sound").rate), (Some(None), None));
    }
}
