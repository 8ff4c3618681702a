//! `eye app`: the applications that may send and read. A token is printed once and kept nowhere; the database has its
//! digest.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::{Failure, ScopeName, Source};
use crate::config::Config;
use crate::postgres::Postgres;
use crate::store::{NewApplication, Store};
use crate::verdict::Digest;

/// Longest time for one statement.
const STATEMENT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Register an application
    Add(Add),
    /// List the applications
    List(Source),
    /// Give an application a new token; the one before it stays live until the next rotation
    Rotate(Named),
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
    /// Know it by this network (CIDR); together with --token, only both count
    #[arg(long, value_name = "CIDR")]
    network: Vec<IpNet>,
    /// What it may do [default: ingest]
    #[arg(long, value_enum)]
    scope: Vec<ScopeName>,
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
        let store = Store::new(&url, 1, STATEMENT, STATEMENT)?;
        Ok(Self { store, own })
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
        Command::Rotate(named) | Command::Revoke(named) => &named.source,
    };
    let (_, config) = source.gather(Vec::new())?;
    let database = Database::open(&config).await?;
    let done = work(database.store(), command).await;
    database.close().await;
    Ok(done?)
}

#[expect(clippy::print_stdout, reason = "what a person asked for goes to standard output")]
async fn work(store: &Store, command: Command) -> anyhow::Result<()> {
    store.migrate().await?;
    match command {
        Command::Add(add) => {
            anyhow::ensure!(
                add.token || !add.network.is_empty(),
                "say how it is known: --token, --network CIDR, or both"
            );
            let token = add.token.then(new_token).transpose()?;
            let new = NewApplication {
                name: add.name,
                token_digest: token.as_ref().map(|token| Digest::of(token.as_bytes()).0),
                known_by: match (add.token, add.network.is_empty()) {
                    (true, true) => "token",
                    (true, false) => "both",
                    (false, _) => "network",
                }
                .to_owned(),
                networks: add.network.iter().map(IpNet::trunc).collect(),
                scopes: scopes(&add.scope),
            };
            store.application_add(&new).await?;
            if let Some(token) = token {
                println!("{token}");
            }
        }
        Command::List(_) => {
            for row in store.applications().await? {
                let networks: Vec<String> = row.networks.iter().map(ToString::to_string).collect();
                let (state, tokens) = (if row.active { "active" } else { "revoked" }, row.token_digests.len());
                println!(
                    "{}\t{state}\tby {}\ttokens {tokens}\t[{}]\t{}",
                    row.name,
                    row.known_by,
                    networks.join(" "),
                    row.scopes.join(" ")
                );
            }
        }
        Command::Rotate(named) => {
            let token = new_token()?;
            store.application_rotate(&named.name, &Digest::of(token.as_bytes()).0).await?;
            println!("{token}");
        }
        Command::Revoke(named) => store.application_revoke(&named.name).await?,
    }
    Ok(())
}

fn scopes(names: &[ScopeName]) -> Vec<String> {
    let all = [(ScopeName::Ingest, "ingest"), (ScopeName::Read, "read"), (ScopeName::Admin, "admin")];
    let chosen =
        all.into_iter().filter(|(name, _)| names.contains(name) || (names.is_empty() && *name == ScopeName::Ingest));
    chosen.map(|(_, word)| word.to_owned()).collect()
}

fn new_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("this machine gives no random numbers"))?;
    Ok(format!("eye_{}", Digest(bytes)))
}
