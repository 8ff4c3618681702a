//! The description of an application, from a command or from `/v1/applications`. Both apply the same checks.

use std::net::Ipv6Addr;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use eye_event::legible::{is_hidden, legible};
use eye_event::verdict::Digest;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize};

use crate::response::Refusal;
use crate::store::{ApplicationChange, ApplicationRow, Expiry, NewApplication};
use crate::trust::event_types::EventTypes;
use crate::trust::{self, Scope, own, token};

/// Most networks, certificates and event types of an application, each.
const LIST_MAX: usize = 1_000;
/// The highest rate, and the most events at once.
const RATE_MAX: i32 = 1_000_000;
/// Longest name, in characters.
const NAME_CHARACTERS_MAX: usize = 200;
/// Longest note, in characters.
const NOTE_CHARACTERS_MAX: usize = 500;
/// Longest life of a token whose expiry is given as a duration.
const EXPIRES_DAYS_MAX: u64 = 3_650;
/// Networks larger than these do not belong to one organization: one in 256 of all addresses, and the size that a
/// registry gives to a provider. Private networks of IPv6 have a size of their own.
const IPV4_PREFIX_MIN: u8 = 8;
const IPV6_PREFIX_MIN: u8 = 32;
const IPV6_PRIVATE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// The description of a new application.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    /// The name. It never changes.
    pub name: String,
    /// Whether to make a token. By default the application gets one if it has neither a certificate nor a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<bool>,
    /// The networks that identify it. With a token or certificate, a caller needs both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// SHA-256 digests of client certificates that identify it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<String>,
    /// Its scopes; by default it may only send.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Most events per second; no limit by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<i32>,
    /// Most events at once; by default as many as per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_events: Option<i32>,
    /// The event types that it may send; all by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub event_types: Vec<String>,
    /// The event types that it may read; all by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_event_types: Vec<String>,
    /// The applications whose events it may read; all by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub read_applications: Vec<String>,
    /// The event types whose modules it may ship; all by default, if it has the scope `ship`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ship_event_types: Vec<String>,
    /// The end of its token: after `90d`, `12h` or `30m`, or at a date or time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// A note of its operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether very wide networks may have the scopes `raw`, `ship` and `admin`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// The first broken rule of a description: the field, and how to mend it.
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
    /// Checks the description and makes the token, if there is to be one. Returns what the database keeps, and the
    /// token for its owner.
    ///
    /// # Errors
    ///
    /// The first [`Invalid`] field.
    pub fn prove(self) -> Result<(NewApplication, Option<String>), Invalid> {
        if !is_name(&self.name) {
            return invalid(
                "name",
                format!(
                    "give 1 to {NAME_CHARACTERS_MAX} characters, none of which is hidden, such as a line end or a mark of direction"
                ),
            );
        }
        if own::is_own(&self.name) {
            return invalid("name", "gateways make the application of this name by themselves; choose another");
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
        let expires = self.expires.as_deref().map(expiry).transpose()?;
        if expires.is_some() && token.is_none() {
            return invalid("expires", "only a token has an end, and none is made here");
        }
        let known_by = match (secret, self.networks.is_empty()) {
            (true, true) => "token",
            (true, false) => "both",
            (false, _) => "network",
        };
        rate(self.events_per_second, self.burst_events)?;
        let scopes = if self.scopes.is_empty() { vec![Scope::Ingest.as_str().to_owned()] } else { self.scopes };
        let (networks, scopes) = (networks(&self.networks)?, checked_scopes(scopes)?);
        narrow_enough(&networks, &scopes, self.force)?;
        let read_event_types = read_event_types(self.read_event_types)?;
        let read_applications = read_applications(self.read_applications)?;
        limits_hold(&scopes, &read_event_types, &read_applications)?;
        let ship_event_types = ship_event_types(self.ship_event_types)?;
        ships_alone(&scopes, &ship_event_types, !(read_event_types.is_empty() && read_applications.is_empty()))?;
        let new = NewApplication {
            name: self.name,
            token_digest,
            expires,
            certificates,
            networks,
            known_by: known_by.to_owned(),
            scopes,
            events_per_second: self.events_per_second,
            burst_events: self.burst_events,
            event_types: event_types(self.event_types)?,
            read_event_types,
            read_applications,
            ship_event_types,
            note: note(self.note)?.unwrap_or_default(),
        };
        Ok((new, token))
    }
}

/// The changes of an application. Fields that are missing stay as they are.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// The networks that identify it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Vec<String>>,
    /// What identifies it: `token` (or certificate), `network` or `both`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub known_by: Option<String>,
    /// SHA-256 digests of client certificates that identify it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<String>>,
    /// Its scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
    /// Most events per second; null removes the limit.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<Option<i32>>,
    /// Most events at once, only together with `events_per_second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_events: Option<i32>,
    /// The event types that it may send. An empty list allows all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_types: Option<Vec<String>>,
    /// The event types that it may read. An empty list allows all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_event_types: Option<Vec<String>>,
    /// The applications whose events it may read. An empty list allows all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_applications: Option<Vec<String>>,
    /// The event types whose modules it may ship. An empty list allows all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ship_event_types: Option<Vec<String>>,
    /// False suspends it, true ends the suspension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// A note of its operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whether very wide networks may have the scopes `raw`, `ship` and `admin`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// Distinguishes a null from a missing field.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl Change {
    /// Checks the change against the application as it is now.
    ///
    /// # Errors
    ///
    /// The first [`Invalid`] field.
    pub fn prove(self, current: &ApplicationRow) -> Result<ApplicationChange, Invalid> {
        let is_known_otherwise = self.networks.is_some() || self.known_by.is_some() || self.certificates.is_some();
        let is_limited_otherwise = self.read_event_types.is_some() || self.read_applications.is_some();
        if current.name == own::LOCAL && (is_known_otherwise || is_limited_otherwise || self.scopes.is_some()) {
            return invalid(
                "name",
                "what callers from this machine may do without a token is for the setting `local` to say",
            );
        }
        if let Some(word) = self.known_by.as_deref().filter(|word| !["token", "network", "both"].contains(word)) {
            return invalid("known_by", format!("`{word}` is none of token, network, both"));
        }
        if self.burst_events.is_some() && self.events_per_second.is_none() {
            return invalid("burst_events", "give events_per_second with it");
        }
        rate(self.events_per_second.flatten(), self.burst_events)?;
        let (networks, scopes) =
            (self.networks.as_deref().map(networks).transpose()?, self.scopes.map(checked_scopes).transpose()?);
        if networks.is_some() || scopes.is_some() || self.known_by.is_some() {
            let (networks, scopes) = (networks.as_ref(), scopes.as_ref());
            narrow_enough(networks.unwrap_or(&current.networks), scopes.unwrap_or(&current.scopes), self.force)?;
        }
        let read_event_types = self.read_event_types.map(read_event_types).transpose()?;
        let read_applications = self.read_applications.map(read_applications).transpose()?;
        if is_limited_otherwise || scopes.is_some() {
            limits_hold(
                scopes.as_ref().unwrap_or(&current.scopes),
                read_event_types.as_ref().unwrap_or(&current.read_event_types),
                read_applications.as_ref().unwrap_or(&current.read_applications),
            )?;
        }
        let ship_event_types = self.ship_event_types.map(ship_event_types).transpose()?;
        if is_limited_otherwise || scopes.is_some() || ship_event_types.is_some() {
            let (scopes, own) = (scopes.as_ref().unwrap_or(&current.scopes), &current.ship_event_types);
            let is_limited = !(read_event_types.as_ref().unwrap_or(&current.read_event_types).is_empty()
                && read_applications.as_ref().unwrap_or(&current.read_applications).is_empty());
            let ships = Scope::Ship.is_granted_by(scopes);
            let types = ship_event_types.as_deref().unwrap_or(if ships { own } else { &[] });
            ships_alone(scopes, types, is_limited)?;
        }
        Ok(ApplicationChange {
            networks,
            known_by: self.known_by,
            certificates: self.certificates.as_deref().map(certificates).transpose()?,
            scopes,
            rate: self.events_per_second.map(|rate| rate.map(|rate| (rate, self.burst_events))),
            event_types: self.event_types.map(event_types).transpose()?,
            read_event_types,
            read_applications,
            ship_event_types,
            active: self.active,
            note: note(self.note)?,
        })
    }
}

fn certificates(texts: &[String]) -> Result<Vec<Digest>, Invalid> {
    few("certificates", texts.len())?;
    let digest = |text: &String| {
        // openssl prints digests with colons.
        let plain: String = text.chars().filter(|character| *character != ':').collect();
        let digest = plain.to_lowercase().parse().ok();
        digest.map_or_else(|| invalid("certificates", "give the SHA-256 of a certificate: 64 hexadecimal digits"), Ok)
    };
    texts.iter().map(digest).collect()
}

fn networks(texts: &[String]) -> Result<Vec<IpNet>, Invalid> {
    few("networks", texts.len())?;
    let network = |text: &String| match text.parse::<IpNet>() {
        Ok(network) => Ok(trust::canonical(network.trunc())),
        Err(_) => invalid(
            "networks",
            format!(
                "`{}` is no network: write an address and a length, such as 10.0.0.0/8 or fd00::/8",
                legible(text, 60)
            ),
        ),
    };
    texts.iter().map(network).collect()
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

/// Unlike those of sending, such a pattern must be one that an event can have: a limit that shows nothing by mistake would
/// look like a database without events.
fn read_event_types(patterns: Vec<String>) -> Result<Vec<String>, Invalid> {
    possible_event_types("read_event_types", patterns)
}

fn ship_event_types(patterns: Vec<String>) -> Result<Vec<String>, Invalid> {
    possible_event_types("ship_event_types", patterns)
}

fn possible_event_types(field: &'static str, patterns: Vec<String>) -> Result<Vec<String>, Invalid> {
    few(field, patterns.len())?;
    let types = match EventTypes::parse(&patterns) {
        Ok(types) => types,
        Err(problem) => return invalid(field, problem),
    };
    let is_possible =
        |word: &str| (1..=NAME_CHARACTERS_MAX).contains(&word.chars().count()) && !word.chars().any(char::is_control);
    if !types.each().all(|(category, name)| is_possible(category) && name.is_none_or(is_possible)) {
        let rule = format!(
            "a category or name has 1 to {NAME_CHARACTERS_MAX} characters, none of which is a control character"
        );
        return invalid(field, rule);
    }
    Ok(patterns)
}

fn read_applications(names: Vec<String>) -> Result<Vec<String>, Invalid> {
    few("read_applications", names.len())?;
    match names.iter().all(|name| is_name(name)) {
        true => Ok(names),
        false => invalid(
            "read_applications",
            format!("the name of an application has 1 to {NAME_CHARACTERS_MAX} characters, none of which is hidden"),
        ),
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&text.chars().count()) && !text.chars().any(is_hidden)
}

/// Refuses limits of reading that would not hold, or that limit nothing.
fn limits_hold(scopes: &[String], event_types: &[String], applications: &[String]) -> Result<(), Invalid> {
    if event_types.is_empty() && applications.is_empty() {
        return Ok(());
    }
    if Scope::Admin.is_granted_by(scopes) {
        return invalid(
            "scopes",
            "an application with the scope `admin` sees everything, so limits of what it reads (read_event_types, \
             read_applications) would not hold: leave out the scope or the limits",
        );
    }
    if !Scope::Read.is_granted_by(scopes) {
        return invalid(
            "scopes",
            "it has limits of what it reads (read_event_types, read_applications) and may not read: give it the scope `read` or \
             `raw` too, or take the limits away",
        );
    }
    Ok(())
}

/// Refuses event types to ship without the scope, and the scope together with limits of reading, which would not hold:
/// who ships a module reads its events.
fn ships_alone(scopes: &[String], event_types: &[String], is_limited: bool) -> Result<(), Invalid> {
    let ships = scopes.iter().any(|scope| scope == Scope::Ship.as_str());
    if !ships && !event_types.is_empty() {
        return invalid(
            "scopes",
            "it has event types to ship (ship_event_types) and may not ship: give it the scope `ship` too, or leave them out",
        );
    }
    if ships && is_limited {
        return invalid(
            "scopes",
            "an application with the scope `ship` reads the events of the modules that it ships, so limits of what it reads \
             (read_event_types, read_applications) would not hold: limit what it ships (ship_event_types), and give other \
             reading to another application",
        );
    }
    Ok(())
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

/// Refuses a very wide network together with a scope that would open much to it.
fn narrow_enough(networks: &[IpNet], scopes: &[String], force: bool) -> Result<(), Invalid> {
    let wide = networks.iter().map(|network| trust::canonical(*network)).find(|network| match network {
        IpNet::V4(network) => network.prefix_len() < IPV4_PREFIX_MIN,
        IpNet::V6(network) => network.prefix_len() < IPV6_PREFIX_MIN && !IPV6_PRIVATE.contains(network),
    });
    let much = [Scope::Admin, Scope::Ship, Scope::Raw]
        .into_iter()
        .find(|scope| scopes.iter().any(|word| word == scope.as_str()));
    match (wide, much) {
        (Some(network), Some(scope)) if !force => invalid(
            "networks",
            format!(
                "{network} is a large part of the internet, and the scope `{}` is much: name smaller networks, or say that you \
                 mean it (`--force`, or `\"force\":true`)",
                scope.as_str()
            ),
        ),
        _ => Ok(()),
    }
}

fn note(note: Option<String>) -> Result<Option<String>, Invalid> {
    match &note {
        Some(text) if text.chars().count() > NOTE_CHARACTERS_MAX || text.chars().any(is_hidden) => invalid(
            "note",
            format!("give {NOTE_CHARACTERS_MAX} characters at most, none of which is hidden, such as a line end"),
        ),
        _ => Ok(note),
    }
}

/// Parses the end of a token: `90d`, `12h`, `30m`, `2027-01-31` (the start of that day in UTC) or RFC 3339.
///
/// # Errors
///
/// An [`Invalid`] field.
pub fn expiry(text: &str) -> Result<Expiry, Invalid> {
    let wrong = || {
        invalid(
            "expires",
            format!(
                "`{}` is no time: give how long, such as 90d, 12h or 30m ({EXPIRES_DAYS_MAX}d at most), a date such as \
                 2027-01-31, or a time such as 2027-01-31T12:00:00Z",
                text.chars().filter(|character| !is_hidden(*character)).take(40).collect::<String>()
            ),
        )
    };
    let unit = match text.bytes().last() {
        Some(b'd') => 86_400,
        Some(b'h') => 3_600,
        Some(b'm') => 60,
        _ => 0,
    };
    if let Some(number) = text.get(..text.len().saturating_sub(1)).filter(|_| unit > 0) {
        let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        return match seconds.filter(|seconds| (1..=EXPIRES_DAYS_MAX * 86_400).contains(seconds)) {
            Some(seconds) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Expiry::After(Duration::from_secs(seconds)))
            }
            _ => wrong(),
        };
    }
    let day = || text.parse::<NaiveDate>().ok().and_then(|day| day.and_hms_opt(0, 0, 0)).map(|time| time.and_utc());
    let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.with_timezone(&Utc)).or_else(day);
    match time.filter(|time| (1..=9_999).contains(&time.year())) {
        Some(time) => Ok(Expiry::At(time)),
        None => wrong(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wanted(body: Value) -> Result<(NewApplication, Option<String>), Invalid> {
        serde_json::from_value::<Wanted>(body).expect("the shape is right").prove()
    }

    fn row(name: &str) -> ApplicationRow {
        ApplicationRow {
            id: 1,
            name: name.to_owned(),
            token_digests: Vec::new(),
            retired_token_digests: Vec::new(),
            certificate_digests: Vec::new(),
            networks: Vec::new(),
            known_by: "token".to_owned(),
            scopes: vec!["ingest".to_owned()],
            events_per_second: None,
            burst_events: None,
            event_types: Vec::new(),
            read_event_types: Vec::new(),
            ship_event_types: Vec::new(),
            read_applications: Vec::new(),
            cursor_key: vec![7; 32],
            active: true,
            revoked_at: None,
            note: String::new(),
            created_at: DateTime::UNIX_EPOCH,
            tokens: Vec::new(),
        }
    }

    #[test]
    fn a_large_part_of_the_internet_gets_no_large_scope_unless_it_is_meant() {
        for (network, is_wide) in [
            ("0.0.0.0/0", true),
            ("::/0", true),
            ("128.0.0.0/1", true),
            ("12.0.0.0/7", true),
            ("2000::/3", true),
            ("2001::/16", true),
            ("::ffff:0.0.0.0/96", true),
            ("10.0.0.0/8", false),
            ("203.0.113.0/24", false),
            ("2001:db8::/32", false),
            ("fd00::/8", false),
            ("fc00::/7", false),
        ] {
            for (scope, is_much) in [("ingest", false), ("read", false), ("raw", true), ("admin", true)] {
                let body = |force| json!({"name": "a", "networks": [network], "scopes": [scope], "force": force});
                assert_eq!(wanted(body(false)).is_err(), is_wide && is_much, "{network} {scope}");
                assert!(wanted(body(true)).is_ok(), "{network} {scope}");
                let change = |current: ApplicationRow, body: Value| {
                    serde_json::from_value::<Change>(body).expect("the shape").prove(&current).is_err()
                };
                let known = ApplicationRow {
                    networks: vec![network.parse().expect("a network")],
                    known_by: "both".to_owned(),
                    ..row("a")
                };
                assert_eq!(change(known.clone(), json!({"scopes": [scope]})), is_wide && is_much, "{network} {scope}");
                assert!(!change(known.clone(), json!({"scopes": [scope], "force": true})));
                let scoped = ApplicationRow { scopes: vec![scope.to_owned()], ..known };
                assert!(
                    !change(scoped.clone(), json!({"active": false})),
                    "what is there is not looked at for nothing"
                );
                assert_eq!(change(scoped, json!({"known_by": "network"})), is_wide && is_much, "{network} {scope}");
            }
        }
    }

    #[test]
    fn a_token_ends_after_a_time_or_at_one() {
        let at = |text: &str| Ok(Expiry::At(text.parse().expect("a time")));
        let after = |seconds| Ok(Expiry::After(Duration::from_secs(seconds)));
        assert_eq!(expiry("90d"), after(90 * 86_400));
        assert_eq!((expiry("12h"), expiry("1m")), (after(43_200), after(60)));
        assert_eq!(expiry("2027-01-31"), at("2027-01-31T00:00:00Z"));
        assert_eq!(expiry("2027-01-31T12:00:00+02:00"), at("2027-01-31T10:00:00Z"));
        for wrong in [
            "",
            "d",
            "0d",
            "-1d",
            "+1d",
            "1.5h",
            "90",
            "90 d",
            "3651d",
            "99999999999999999999d",
            "soon",
            "2027-13-01",
            "\u{e9}d",
        ] {
            assert!(expiry(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            wanted(json!({"name": "a", "networks": ["10.0.0.0/8"], "expires": "1d"})).expect_err("no token").field,
            "expires"
        );
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
    fn limits_of_reading_are_only_for_applications_that_read_and_do_not_see_everything() {
        let reader = ApplicationRow {
            scopes: vec!["ingest".to_owned(), "raw".to_owned()],
            read_event_types: vec!["shop/*".to_owned()],
            ..row("a")
        };
        let change = |body| serde_json::from_value::<Change>(body).expect("the shape").prove(&reader);
        for body in [
            json!({"scopes": ["admin"]}),
            json!({"scopes": ["ingest"]}),
            json!({"scopes": ["ingest"], "read_applications": []}),
            json!({"scopes": ["read", "admin"], "read_applications": ["b"]}),
        ] {
            assert_eq!(change(body.clone()).expect_err("refused").field, "scopes", "{body}");
        }
        for body in [
            json!({"scopes": ["read"]}),
            json!({"scopes": ["admin"], "read_event_types": []}),
            json!({"scopes": ["ingest"], "read_event_types": []}),
            json!({"read_event_types": ["page/view"], "read_applications": ["b"]}),
            json!({"note": "x"}),
        ] {
            assert!(change(body.clone()).is_ok(), "{body}");
        }
        let taken_away = change(json!({"read_event_types": []})).expect("sound");
        assert_eq!((taken_away.read_event_types, taken_away.read_applications), (Some(Vec::new()), None));
    }

    #[test]
    fn what_no_application_can_be_is_refused_with_its_field() {
        for (body, field) in [
            (json!({"name": ""}), "name"),
            (json!({"name": "x".repeat(201)}), "name"),
            (json!({"name": "local"}), "name"),
            (json!({"name": "a", "token": false}), "networks"),
            (json!({"name": "a", "networks": ["10.0.0.0/8", "10.0.0.1"]}), "networks"),
            (json!({"name": "a", "networks": ["10.0.0.0/33"]}), "networks"),
            (json!({"name": "a", "certificates": ["abc"]}), "certificates"),
            (json!({"name": "a", "scopes": ["root"]}), "scopes"),
            (json!({"name": "a", "events_per_second": 0}), "events_per_second"),
            (json!({"name": "a", "burst_events": 5}), "burst_events"),
            (json!({"name": "a", "event_types": ["shop"]}), "event_types"),
            (json!({"name": "a", "scopes": ["read"], "read_event_types": ["shop"]}), "read_event_types"),
            (json!({"name": "a", "scopes": ["read"], "read_event_types": ["shop/%00"]}), "read_event_types"),
            (
                json!({"name": "a", "scopes": ["read"], "read_event_types": [format!("a/{}", "x".repeat(201))]}),
                "read_event_types",
            ),
            (json!({"name": "a", "scopes": ["read"], "read_event_types": vec!["a/b"; 1_001]}), "read_event_types"),
            (json!({"name": "a", "scopes": ["read"], "read_applications": [""]}), "read_applications"),
            (json!({"name": "a", "scopes": ["read"], "read_applications": ["a\nb"]}), "read_applications"),
            (json!({"name": "a", "scopes": ["read"], "read_applications": vec!["a"; 1_001]}), "read_applications"),
            (json!({"name": "a", "read_applications": ["b"]}), "scopes"),
            (json!({"name": "a", "scopes": ["read", "admin"], "read_event_types": ["a/*"]}), "scopes"),
            (json!({"name": "a", "expires": "soon"}), "expires"),
            (json!({"name": "a", "note": "a\nb"}), "note"),
            (json!({"name": "a", "note": "x".repeat(501)}), "note"),
        ] {
            assert_eq!(wanted(body).expect_err("refused").field, field);
        }
        let change_of = |name: &str, body| serde_json::from_value::<Change>(body).expect("the shape").prove(&row(name));
        let change = |body| change_of("a", body);
        assert_eq!(change(json!({"known_by": "luck"})).expect_err("refused").field, "known_by");
        assert_eq!(
            change(json!({"networks": ["everywhere\u{202e}"]})).expect_err("refused").to_string(),
            "networks: `everywhere\\u202e` is no network: write an address and a length, such as 10.0.0.0/8 or fd00::/8"
        );
        for body in [
            json!({"scopes": ["admin"]}),
            json!({"networks": ["0.0.0.0/0"]}),
            json!({"known_by": "both"}),
            json!({"read_event_types": ["a/b"]}),
            json!({"read_applications": ["a"]}),
        ] {
            assert_eq!(change_of("local", body).expect_err("refused").field, "name");
        }
        assert!(change_of("local", json!({"active": false})).is_ok());
        let unlimited = change(json!({"events_per_second": null})).expect("sound");
        assert_eq!((unlimited.rate, change(json!({})).expect("sound").rate), (Some(None), None));
    }
}
