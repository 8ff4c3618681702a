//! `eye app`: manages applications, in the database or over HTTP. It prints a token once; the database has only its
//! digest.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use hyper::Method;
use ipnet::IpNet;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::app_removals::Removals;
use super::output::{say, warn};
use super::reach::Reached;
use super::remote::Gateway;
use super::{Failure, ScopeName, Source};
use crate::applications::{Change, Wanted, expiry, shown_row};
use crate::store::Store;
use crate::trust::token;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register an application
    Add(Add),
    /// List the applications
    List(Source),
    /// Change what an application may do, or suspend it
    Change(Changed),
    /// Give an application a new token; the one in use stays live until it is ended. A second call replaces a new token
    /// that was not used yet
    Rotate(Rotate),
    /// End an application: its tokens and networks stop working everywhere within a second
    Revoke(Named),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name, as validators and readers see it
    name: String,
    /// Make a token and print it, once
    #[arg(long)]
    token: bool,
    /// Identify it by this network (CIDR); with --token or a certificate, a caller needs both
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// Identify it by a client certificate: the SHA-256 of its DER form
    #[arg(long, value_name = "HEX")]
    certificate_sha256: Vec<String>,
    /// Its scopes [default: ingest]
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
    /// Most events per second at each gateway [default: no limit]
    #[arg(long, value_name = "N")]
    events_per_second: Option<i32>,
    /// Most events at once [default: as many as per second]
    #[arg(long, value_name = "N", requires = "events_per_second")]
    burst_events: Option<i32>,
    /// The event types that it may send: category/name or category/*, percent-encoded [default: all]
    #[arg(long, value_name = "PATTERN")]
    event_type: Vec<String>,
    /// The event types that it may read: category/name or category/*, percent-encoded [default: all]
    #[arg(long, value_name = "PATTERN")]
    read_event_type: Vec<String>,
    /// The applications whose events it may read [default: all]
    #[arg(long, value_name = "NAME")]
    read_application: Vec<String>,
    /// The event types whose modules it may ship: category/name or category/*, percent-encoded [default: all]
    #[arg(long, value_name = "PATTERN")]
    ship_event_type: Vec<String>,
    /// When its token expires: 90d, 12h, 30m, a date or a time [default: never]
    #[arg(long, value_name = "WHEN", requires = "token")]
    expires: Option<String>,
    /// A note about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Let very wide networks have the scopes raw, ship and admin
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Changed {
    /// The application's name
    name: String,
    /// Identify it by these networks instead
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// What identifies it: its token or certificate, its network, or both together
    #[arg(long, value_parser = ["token", "network", "both"])]
    known_by: Option<String>,
    /// Identify it by these client certificates instead
    #[arg(long, value_name = "HEX")]
    certificate_sha256: Vec<String>,
    /// Its scopes instead
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
    /// Most events per second at each gateway
    #[arg(long, value_name = "N")]
    events_per_second: Option<i32>,
    /// Most events at once
    #[arg(long, value_name = "N", requires = "events_per_second")]
    burst_events: Option<i32>,
    /// Remove the rate limit
    #[arg(long, conflicts_with = "events_per_second")]
    any_rate: bool,
    /// The event types that it may send instead
    #[arg(long, value_name = "PATTERN")]
    event_type: Vec<String>,
    /// Let it send every event type
    #[arg(long, conflicts_with = "event_type")]
    any_event_type: bool,
    /// The event types that it may read instead
    #[arg(long, value_name = "PATTERN")]
    read_event_type: Vec<String>,
    /// Let it read every event type
    #[arg(long, conflicts_with = "read_event_type")]
    any_read_event_type: bool,
    /// The applications whose events it may read instead
    #[arg(long, value_name = "NAME")]
    read_application: Vec<String>,
    /// Let it read the events of every application
    #[arg(long, conflicts_with = "read_application")]
    any_read_application: bool,
    /// The event types whose modules it may ship instead
    #[arg(long, value_name = "PATTERN")]
    ship_event_type: Vec<String>,
    /// Let it ship modules of every event type
    #[arg(long, conflicts_with = "ship_event_type")]
    any_ship_event_type: bool,
    /// Suspend it (false), or end its suspension (true); a revoked application stays revoked
    #[arg(long)]
    active: Option<bool>,
    /// A note about it instead; an empty text removes it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Let very wide networks have the scopes raw, ship and admin
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    removals: Removals,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The application's name
    name: String,
    /// Make no token, but end all of them except the newest: the second half of a rotation
    #[arg(long)]
    expire_old: bool,
    /// When the new token expires: 90d, 12h, 30m, a date or a time [default: never]
    #[arg(long, value_name = "WHEN", conflicts_with = "expire_old")]
    expires: Option<String>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Named {
    /// The application's name
    name: String,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let source = match &command {
        Command::Add(add) => &add.source,
        Command::List(source) => source,
        Command::Change(changed) => &changed.source,
        Command::Rotate(rotate) => &rotate.source,
        Command::Revoke(named) => &named.source,
    };
    match Reached::find(source).await? {
        Reached::Database(database) => {
            let done = work(database.store(), command).await;
            database.close().await;
            Ok(done?)
        }
        Reached::Gateway(gateway) => Ok(ask(&gateway, command).await?),
    }
}

async fn work(store: &Store, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(add) => {
            warn_of_ship(&add.scope);
            let (new, token) = add.wanted().prove()?;
            store.application_add(&new, store.actor()).await?;
            if let Some(token) = token {
                say(&token)?;
            }
        }
        Command::List(_) => {
            for row in store.applications().await? {
                say(line(&shown_row(&row, None)))?;
            }
        }
        Command::Change(changed) => {
            warn_of_ship(&changed.scope);
            let current = store.application(&changed.name).await?;
            let mut change = changed.change();
            changed.removals.take_from(&shown_row(&current, None), &mut change)?;
            store.application_change(&changed.name, &change.prove(&current)?, store.actor()).await?;
        }
        Command::Rotate(rotate) if rotate.expire_old => store.application_expire(&rotate.name, store.actor()).await?,
        Command::Rotate(rotate) => {
            let expires_at = match &rotate.expires {
                Some(expires) => Some(store.expires_at(expiry(expires)?).await?),
                None => None,
            };
            let (token, digest) = token::make()?;
            store.application_rotate(&rotate.name, digest, expires_at, store.actor()).await?;
            say(&token)?;
        }
        Command::Revoke(named) => store.application_revoke(&named.name, store.actor()).await?,
    }
    Ok(())
}

/// Does the same over HTTP, through the public API.
async fn ask(gateway: &Gateway, command: Command) -> anyhow::Result<()> {
    let path =
        |name: &str, rest: &str| format!("/v1/applications/{}{rest}", utf8_percent_encode(name, NON_ALPHANUMERIC));
    let answer = match command {
        Command::Add(add) => {
            warn_of_ship(&add.scope);
            let wanted = serde_json::to_value(add.wanted())?;
            gateway.ask(Method::POST, "/v1/applications", Some(wanted)).await?
        }
        Command::List(_) => {
            let list = gateway.ask(Method::GET, "/v1/applications", None).await?;
            let applications = list["applications"].as_array().context("its answer is no list of applications")?;
            for application in applications {
                say(line(application))?;
            }
            return Ok(());
        }
        Command::Change(changed) => {
            warn_of_ship(&changed.scope);
            let mut change = changed.change();
            if !changed.removals.are_none() {
                let current = gateway.ask(Method::GET, &path(&changed.name, ""), None).await?;
                changed.removals.take_from(&current, &mut change)?;
            }
            let change = serde_json::to_value(change)?;
            gateway.ask(Method::PATCH, &path(&changed.name, ""), Some(change)).await?
        }
        Command::Rotate(rotate) => {
            let mut rotation = json!({"expire_old": rotate.expire_old});
            if let Some(expires) = &rotate.expires {
                rotation["expires"] = expires.as_str().into();
            }
            gateway.ask(Method::POST, &path(&rotate.name, "/rotate"), Some(rotation)).await?
        }
        Command::Revoke(named) => gateway.ask(Method::POST, &path(&named.name, "/revoke"), None).await?,
    };
    if let Some(token) = answer["token"].as_str() {
        say(token)?;
    }
    Ok(())
}

/// Says what the scope `ship` includes.
fn warn_of_ship(scopes: &[ScopeName]) {
    if scopes.contains(&ScopeName::Ship) {
        warn(format_args!(
            "the scope ship includes reading all events of its event types, since a module sees them, and deciding which of \
             them are stored: give it as you give access to the database"
        ));
    }
}

/// A line of the list, from an application in the form of an answer.
fn line(shown: &Value) -> String {
    let text = |key: &str| shown[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| shown[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let words = |key: &str| list(key).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    let tokens = list("token_details");
    let of_tokens = |key: &'static str| tokens.iter().filter_map(move |token| token[key].as_str());
    let used = match (tokens.is_empty(), of_tokens("last_used_at").max()) {
        (true, _) => "-",
        (false, used) => used.unwrap_or("never"),
    };
    // The token that expires first needs attention first.
    let ends = of_tokens("expires_at").min().unwrap_or("-");
    let rate = match (shown["events_per_second"].as_u64(), shown["burst_events"].as_u64()) {
        (Some(rate), Some(burst)) => format!("{rate} events/s, {burst} at once"),
        _ => "any rate".to_owned(),
    };
    let types = if list("event_types").is_empty() { "all types".to_owned() } else { words("event_types") };
    let reads = match (list("read_event_types").is_empty(), list("read_applications").is_empty()) {
        (true, true) => "reads all".to_owned(),
        (false, true) => format!("reads {}", words("read_event_types")),
        (true, false) => format!("reads all types of {}", words("read_applications")),
        (false, false) => format!("reads {} of {}", words("read_event_types"), words("read_applications")),
    };
    let ships = match list("ship_event_types").is_empty() {
        true => String::new(),
        false => format!("\tships {}", words("ship_event_types")),
    };
    format!(
        "{}\t{}\tby {}\ttokens {}\tcertificates {}\t[{}]\t{}\t{rate}\t{types}\t{reads}{ships}\tused {used}\texpires {ends}\t{}",
        text("name"),
        text("state"),
        text("known_by"),
        shown["tokens"],
        list("certificates").len(),
        words("networks"),
        words("scopes"),
        text("note")
    )
}

impl Add {
    fn wanted(self) -> Wanted {
        Wanted {
            name: self.name,
            token: Some(self.token),
            networks: self.network.iter().map(ToString::to_string).collect(),
            certificates: self.certificate_sha256,
            scopes: ScopeName::words(&self.scope),
            events_per_second: self.events_per_second,
            burst_events: self.burst_events,
            event_types: self.event_type,
            read_event_types: self.read_event_type,
            read_applications: self.read_application,
            ship_event_types: self.ship_event_type,
            expires: self.expires,
            note: self.note,
            force: self.force,
        }
    }
}

impl Changed {
    fn change(&self) -> Change {
        fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
            (!list.is_empty()).then(|| list.to_vec())
        }
        let rate = if self.any_rate { Some(None) } else { self.events_per_second.map(Some) };
        Change {
            networks: some(&self.network).map(|networks| networks.iter().map(ToString::to_string).collect()),
            known_by: self.known_by.clone(),
            certificates: some(&self.certificate_sha256),
            scopes: some(&ScopeName::words(&self.scope)),
            events_per_second: rate,
            burst_events: self.burst_events,
            event_types: if self.any_event_type { Some(Vec::new()) } else { some(&self.event_type) },
            read_event_types: if self.any_read_event_type { Some(Vec::new()) } else { some(&self.read_event_type) },
            read_applications: if self.any_read_application { Some(Vec::new()) } else { some(&self.read_application) },
            ship_event_types: if self.any_ship_event_type { Some(Vec::new()) } else { some(&self.ship_event_type) },
            active: self.active,
            note: self.note.clone(),
            force: self.force,
        }
    }
}
