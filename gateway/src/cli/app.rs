//! `eye app`: the applications that may send and read. A token is printed once and kept nowhere; the database has its
//! digest.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::app_removals::Removals;
use super::output::say;
use super::{Failure, ScopeName, Source};
use crate::applications::{Change, Wanted};
use crate::config::{self, Config};
use crate::postgres::Postgres;
use crate::store::{ApplicationRow, Store};
use crate::trust::token;

/// Longest time for one statement.
const STATEMENT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register an application
    Add(Add),
    /// List the applications
    List(Source),
    /// Change what an application may do, or suspend it
    Change(Changed),
    /// Give an application a new token; the one before it stays live until it is ended
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
    /// Know it by this network (CIDR); together with --token or a certificate, only both count
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// Know it by a client certificate: the SHA-256 of its DER form
    #[arg(long, value_name = "HEX")]
    certificate_sha256: Vec<String>,
    /// What it may do [default: ingest]
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
    /// How many events it may send to each gateway in a second [default: no limit]
    #[arg(long, value_name = "N")]
    events_per_second: Option<i32>,
    /// How many events it may send at once [default: as many as in a second]
    #[arg(long, value_name = "N", requires = "events_per_second")]
    burst_events: Option<i32>,
    /// What it may send: category/name or category/*, percent-encoded [default: all]
    #[arg(long, value_name = "PATTERN")]
    event_type: Vec<String>,
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Changed {
    /// The application's name
    name: String,
    /// Know it by these networks instead
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// What proves it: its token or certificate, its network, or only both
    #[arg(long, value_parser = ["token", "network", "both"])]
    known_by: Option<String>,
    /// Know it by these client certificates instead
    #[arg(long, value_name = "HEX")]
    certificate_sha256: Vec<String>,
    /// What it may do instead
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
    /// How many events it may send to each gateway in a second
    #[arg(long, value_name = "N")]
    events_per_second: Option<i32>,
    /// How many events it may send at once
    #[arg(long, value_name = "N", requires = "events_per_second")]
    burst_events: Option<i32>,
    /// Take the rate limit away
    #[arg(long, conflicts_with = "events_per_second")]
    any_rate: bool,
    /// What it may send instead
    #[arg(long, value_name = "PATTERN")]
    event_type: Vec<String>,
    /// Let it send every event type
    #[arg(long, conflicts_with = "event_type")]
    any_event_type: bool,
    /// Suspend it (false), or let it in again (true)
    #[arg(long)]
    active: Option<bool>,
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

/// The database that a command works on: the configured one, or the embedded one, started for the command.
pub(super) struct Database {
    store: Store,
    own: Option<Postgres>,
}

impl Database {
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let own = match &config.database_url {
            Some(_) => None,
            None => Some(Postgres::start(&config.postgres_options()).await.context(
                "the embedded Postgres; while a gateway runs on this data dir, name its database with --database-url",
            )?),
        };
        let url = match (&own, &config.database_url) {
            (Some(own), _) => own.url().to_owned(),
            (None, url) => url.as_ref().map(|url| url.expose().to_owned()).unwrap_or_default(),
        };
        let store = Store::new(&url, config::libpq_environment(), 1, STATEMENT, STATEMENT)?;
        let database = Self { store, own };
        // A pool would try on until its time is over, and not say why.
        match database.store.reach().await {
            Ok(()) => Ok(database),
            Err(cause) => {
                database.close().await;
                Err(anyhow::anyhow!("no connection to the database: {cause}"))
            }
        }
    }

    /// Opens a database whose schema serves this program. Commands change no schema.
    pub(super) async fn open_proved(config: &Config) -> anyhow::Result<Self> {
        let database = Self::open(config).await?;
        match database.store.prove_schema().await {
            Ok(_) => Ok(database),
            Err(error) => {
                database.close().await;
                Err(error.into())
            }
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) async fn close(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let source = match &command {
        Command::Add(add) => &add.source,
        Command::List(source) => source,
        Command::Change(changed) => &changed.source,
        Command::Rotate(rotate) => &rotate.source,
        Command::Revoke(named) => &named.source,
    };
    let (_, config) = source.gather(Vec::new())?;
    let database = Database::open_proved(&config).await?;
    let done = work(database.store(), command).await;
    database.close().await;
    Ok(done?)
}

async fn work(store: &Store, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Add(add) => {
            let wanted = Wanted {
                name: add.name,
                token: Some(add.token),
                networks: add.network,
                certificates: add.certificate_sha256,
                scopes: ScopeName::words(&add.scope),
                events_per_second: add.events_per_second,
                burst_events: add.burst_events,
                event_types: add.event_type,
            };
            let (new, token) = wanted.prove()?;
            store.application_add(&new).await?;
            if let Some(token) = token {
                say(&token)?;
            }
        }
        Command::List(_) => {
            for row in store.applications().await? {
                say(line(&row))?;
            }
        }
        Command::Change(changed) => {
            let mut change = changed.change();
            if !changed.removals.are_none() {
                let rows = store.applications().await?;
                let row = rows.iter().find(|row| row.name == changed.name);
                let row = row.with_context(|| format!("there is no application named {}", changed.name))?;
                changed.removals.take_from(row, &mut change)?;
            }
            store.application_change(&changed.name, &change.prove()?).await?;
        }
        Command::Rotate(rotate) if rotate.expire_old => store.application_expire(&rotate.name).await?,
        Command::Rotate(rotate) => {
            let (token, digest) = token::make()?;
            store.application_rotate(&rotate.name, digest).await?;
            say(&token)?;
        }
        Command::Revoke(named) => store.application_revoke(&named.name).await?,
    }
    Ok(())
}

fn line(row: &ApplicationRow) -> String {
    let networks: Vec<String> = row.networks.iter().map(ToString::to_string).collect();
    let (state, tokens) = (if row.active { "active" } else { "revoked" }, row.token_digests.len());
    let rate = row.rate_limit().map_or_else(
        || "any rate".to_owned(),
        |limit| format!("{} events/s, {} at once", limit.events_per_second, limit.burst_events),
    );
    let types = if row.event_types.is_empty() { "all types".to_owned() } else { row.event_types.join(" ") };
    format!(
        "{}\t{state}\tby {}\ttokens {tokens}\tcertificates {}\t[{}]\t{}\t{rate}\t{types}",
        row.name,
        row.known_by,
        row.certificate_digests.len(),
        networks.join(" "),
        row.scopes.join(" ")
    )
}

impl Changed {
    fn change(&self) -> Change {
        fn some<T: Clone>(list: &[T]) -> Option<Vec<T>> {
            (!list.is_empty()).then(|| list.to_vec())
        }
        let rate = if self.any_rate { Some(None) } else { self.events_per_second.map(Some) };
        Change {
            networks: some(&self.network),
            known_by: self.known_by.clone(),
            certificates: some(&self.certificate_sha256),
            scopes: some(&ScopeName::words(&self.scope)),
            events_per_second: rate,
            burst_events: self.burst_events,
            event_types: if self.any_event_type { Some(Vec::new()) } else { some(&self.event_type) },
            active: self.active,
        }
    }
}
