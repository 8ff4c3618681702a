//! Finds the database or the gateway that a command works on, in the same order for all commands, and prints which one
//! it is to standard error.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::remote::{Gateway, shown};
use super::{Failure, Source};
use crate::audit::Actor;
use crate::config::{self, Config, Origin, Settings, remote};
use crate::panel_address;
use crate::postgres::Postgres;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// Longest time for one statement.
const STATEMENT: Duration = Duration::from_secs(10);

/// The error of a command that a signal stopped.
pub(super) const ENDED_BY_SIGNAL: &str = "a signal stopped the command before it was done";

/// The database or the gateway of a command.
pub(super) enum Reached {
    /// A database, through its tables.
    Database(Box<Database>),
    /// A gateway, over HTTP.
    Gateway(Gateway),
}

/// The source that named it.
#[derive(Debug)]
enum Way {
    /// The database that the settings name.
    Named,
    /// The gateway that the environment names.
    Remote(remote::Remote),
    /// The embedded database of the data dir.
    DataDir,
}

impl Way {
    /// Chooses in this order: flags and the file that a flag names, `EYE_GATEWAY`, `EYE_DATABASE_URL`, the data dir. A
    /// data dir from a flag comes before a gateway, but not before a database URL, since a gateway with a database URL
    /// has a data dir too.
    fn choose(settings: &Settings, config: &Config, remote: Option<remote::Remote>) -> Self {
        let is_variable = |key: &str| matches!(settings.origin(key), Origin::Environment { .. });
        let is_named = config.database_url.is_some();
        if is_named && !is_variable("database_url") {
            return Self::Named;
        }
        let dir_by_flag = matches!(settings.origin("data_dir"), Origin::Flag(_));
        match remote {
            Some(remote) if is_named || !dir_by_flag => Self::Remote(remote),
            _ if is_named => Self::Named,
            _ => Self::DataDir,
        }
    }
}

/// The database of a command: the one that the settings name, or the embedded one.
pub(super) struct Database {
    store: Store,
    is_embedded: bool,
    own: Option<Postgres>,
}

impl Database {
    /// Opens the database of a command that cannot work over HTTP. With `starts` it starts the embedded database if
    /// that does not run, and stops the start when `starts` drains.
    pub(super) async fn find(settings: &Settings, config: &Config, starts: Option<&Shutdown>) -> anyhow::Result<Self> {
        let way = Way::choose(settings, config, remote::named());
        if let Way::Remote(remote) = &way {
            anyhow::bail!(
                "EYE_GATEWAY names the gateway {}, and this command works on a database alone: unset EYE_GATEWAY, or name the \
                 database with --database-url, or the data dir of a gateway on this machine with --data-dir",
                shown(&remote.url)
            );
        }
        Self::open(&way, settings, config, starts).await
    }

    /// Does the same for a database whose schema serves this program. These commands do not migrate.
    pub(super) async fn find_proved(settings: &Settings, config: &Config) -> anyhow::Result<Self> {
        Self::find(settings, config, None).await?.proved().await
    }

    async fn open(way: &Way, settings: &Settings, config: &Config, starts: Option<&Shutdown>) -> anyhow::Result<Self> {
        let data_dir = config.data_dir.display();
        let (url, own) = match (way, &config.database_url) {
            (Way::Named, Some(url)) => {
                tell(&format!("on the database of {}", settings.origin("database_url")));
                (url.expose().to_owned(), None)
            }
            _ => match (Postgres::running(&config.postgres_options())?, starts) {
                (Some(url), _) => {
                    tell(&format!("on the database in the data dir {data_dir}, whose gateway runs"));
                    (url, None)
                }
                (None, Some(shutdown)) => {
                    tell(&format!("on the database in the data dir {data_dir}, started for this command"));
                    let started = Postgres::start_until(&config.postgres_options(), shutdown).await;
                    let own = started.context("the embedded Postgres")?.context(ENDED_BY_SIGNAL)?;
                    (own.url().to_owned(), Some(own))
                }
                (None, None) => anyhow::bail!(
                    "no gateway runs on the data dir {data_dir} ({}): start it (`eye serve`), name its data dir \
                     (--data-dir), a database (--database-url, EYE_DATABASE_URL), or for `eye app` and `eye panel` a \
                     gateway (EYE_GATEWAY with EYE_TOKEN)",
                    settings.origin("data_dir")
                ),
            },
        };
        let store = Store::new(&url, config::libpq_environment(), 1, STATEMENT, STATEMENT)?.acting_as(Actor::command());
        let is_embedded = !matches!(way, Way::Named);
        let database = Self { store, is_embedded, own };
        // A pool would retry until its time limit and then not give the cause.
        match database.store.reach().await {
            Ok(()) => Ok(database),
            Err(cause) => {
                database.close().await;
                Err(anyhow::anyhow!("no connection to the database: {cause}"))
            }
        }
    }

    async fn proved(self) -> anyhow::Result<Self> {
        match self.store.prove_schema().await {
            Ok(_) => Ok(self),
            Err(error) => {
                self.close().await;
                Err(error.into())
            }
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether it is the embedded database of the data dir.
    pub(super) fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    pub(super) async fn close(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }
}

impl Reached {
    /// Finds the database or the gateway of a command that can use both.
    pub(super) async fn find(source: &Source) -> Result<Self, Failure> {
        let (settings, config) = source.gather(Vec::new())?;
        let way = Way::choose(&settings, &config, remote::named());
        if let Some(gateway) = of_way(&way, &config)? {
            return Ok(Self::Gateway(gateway));
        }
        let database = Database::open(&way, &settings, &config, None).await?;
        Ok(Self::Database(Box::new(database.proved().await?)))
    }

    /// The gateway, if it is one that a command which can use both works on.
    pub(super) fn named_gateway(source: &Source) -> Result<Option<Gateway>, Failure> {
        let (settings, config) = source.gather(Vec::new())?;
        Ok(of_way(&Way::choose(&settings, &config, remote::named()), &config)?)
    }

    pub(super) async fn close(self) {
        if let Self::Database(database) = self {
            database.close().await;
        }
    }
}

/// The gateway of a way that leads to one. Says which it is.
fn of_way(way: &Way, config: &Config) -> anyhow::Result<Option<Gateway>> {
    let Way::Remote(remote) = way else { return Ok(None) };
    let (gateway, token_from) = Gateway::new(remote.clone(), &config.data_dir)?;
    tell(&format!("on the gateway {}, with the token of {token_from}", gateway.url()));
    Ok(Some(gateway))
}

/// A gateway that a project file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedGateway {
    /// The file, for messages.
    pub(super) file: PathBuf,
    /// The gateway itself.
    pub(super) at: At,
}

/// How a project file names a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// By its URL. The token is in `EYE_TOKEN`.
    Url(String),
    /// By its data dir on this machine, which has its address and a token.
    DataDir(PathBuf),
}

/// Finds the gateway of a command that works over HTTP alone: the one that the environment names, or the one of a data dir
/// that a flag names, or of the project, or the one that runs on the usual data dir.
pub(super) fn gateway(source: &Source, project: Option<&NamedGateway>) -> Result<Gateway, Failure> {
    let (gateway, from) = quiet_gateway(source, project)?;
    tell(&format!("on the gateway {}, with the token of {from}", gateway.url()));
    Ok(gateway)
}

/// Does the same and says nothing. Returns where the token comes from.
pub(super) fn quiet_gateway(source: &Source, project: Option<&NamedGateway>) -> Result<(Gateway, String), Failure> {
    let (settings, config) = source.gather(Vec::new())?;
    if let Some(remote) = remote::named() {
        return Ok(Gateway::new(remote, &config.data_dir)?);
    }
    match project.filter(|_| source.data_dir.is_none()) {
        None => Ok(Gateway::new(noted(&config.data_dir, settings.origin("data_dir"))?, &config.data_dir)?),
        Some(NamedGateway { file, at }) => {
            let named = || format!("`gateway` in {}", file.display());
            let found = match at {
                At::Url(url) => Gateway::new(remote::at(url), &config.data_dir),
                At::DataDir(dir) => noted(dir, &"as the project names it").and_then(|at| Gateway::new(at, dir)),
            };
            Ok(found.with_context(named)?)
        }
    }
}

/// The gateway of the data dir. It notes its address there if it runs a Postgres of its own.
fn noted(data_dir: &Path, origin: &impl std::fmt::Display) -> anyhow::Result<remote::Remote> {
    let noted = panel_address::noted(data_dir).with_context(|| format!("the data dir {}", data_dir.display()))?;
    let url = noted.with_context(|| {
        format!(
            "this command works over HTTP, and no gateway with a Postgres of its own runs on the data dir {} ({origin}): start \
             one (`eye serve`), or name a gateway with EYE_GATEWAY and EYE_TOKEN, or as `gateway` in a project's eye.toml",
            data_dir.display()
        )
    })?;
    Ok(remote::Remote { url, token: None, roots: None })
}

#[expect(clippy::print_stderr, reason = "what a command works on is for the person who runs it, beside what it prints")]
fn tell(what: &str) {
    eprintln!("eye: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(file: &str, environment: &[(&str, &str)], flags: &[(&'static str, String)], remote: bool) -> String {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let file = Some(("eye.toml", file)).filter(|(_, text)| !text.is_empty());
        let (settings, config) = Settings::from_parts(file, environment, flags).expect("sound");
        let remote = remote.then(|| remote::Remote { url: "http://h".to_owned(), token: None, roots: None });
        let way = format!("{:?}", Way::choose(&settings, &config, remote));
        way.split(['(', ' ']).next().unwrap_or_default().to_owned()
    }

    #[test]
    fn flags_come_first_then_a_gateway_then_a_database_then_the_data_dir() {
        let url = "postgres://u@h/d";
        let (variable, flag) = ([("EYE_DATABASE_URL", url)], [("database_url", url.to_owned())]);
        let (file, dir) = (format!("database_url = \"{url}\"\n"), [("data_dir", "d".to_owned())]);
        assert_eq!(way("", &[], &[], false), "DataDir");
        assert_eq!(way("", &[], &[], true), "Remote");
        assert_eq!(way("", &variable, &[], false), "Named");
        assert_eq!(way("", &variable, &[], true), "Remote");
        assert_eq!(way("", &[], &flag, true), "Named");
        assert_eq!(way(&file, &[], &[], true), "Named");
        assert_eq!(way("", &[], &dir, true), "DataDir");
        assert_eq!(way("", &variable, &dir, true), "Remote");
        assert_eq!(way("", &variable, &dir, false), "Named");
    }
}
