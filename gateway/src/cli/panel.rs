//! `eye panel`: prints an address that signs a browser in to the panel, once. It asks a gateway over HTTP for the code, or
//! writes it to the database itself.

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use eye_event::verdict::Digest;
use hyper::Method;

use super::output::{say, warn};
use super::reach::{Database, Reached};
use super::{Failure, Source};
use crate::config::{Config, parts};
use crate::panel_address;
use crate::store::{ApplicationRow, Error, State};
use crate::trust::own::{ADMIN_TOKEN, BOOTSTRAP};
use crate::trust::{Scope, token};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The application for which the browser will act, on a database [default: its administrator]
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    #[command(flatten)]
    source: Source,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { application, source } = arguments;
    let (address, application) = match Reached::find(&source).await? {
        Reached::Gateway(gateway) => {
            if application.is_some() {
                return Err(Failure::Failed(anyhow!(
                    "over HTTP the browser acts for the application of the token: leave --application out, and set EYE_TOKEN \
                     to a token of that application"
                )));
            }
            let answer = gateway.ask(Method::POST, "/v1/panel/codes", None).await?;
            let text = |key: &str| answer[key].as_str().map(str::to_owned).context("its answer has no code");
            (panel_address::with_code(&gateway.url(), &text("code")?), text("application")?)
        }
        Reached::Database(database) => {
            let (_, config) = source.gather(Vec::new())?;
            let made = on_database(&database, &config, application).await;
            database.close().await;
            made?
        }
    };
    warn(format_args!("eye: it acts for the application {application}, and works once, within ten minutes"));
    say(address)?;
    Ok(())
}

/// Writes a code to the database. Returns the address and the application.
async fn on_database(
    database: &Database,
    config: &Config,
    application: Option<String>,
) -> anyhow::Result<(String, String)> {
    if !config.panel {
        bail!("the panel is off (panel = false), so no address signs in to it");
    }
    let address = match database.is_embedded() {
        true => panel_address::noted(&config.data_dir)
            .with_context(|| format!("the data dir {}", config.data_dir.display()))?
            .context("the gateway of this data dir has no panel (panel = false), or it is of an older release")?,
        false => parts::panel_address(config, None).context(
            "the gateway listens on port 0, so its settings do not say which it took: name a port, or ask the gateway \
             (EYE_GATEWAY with EYE_TOKEN)",
        )?,
    };
    let application = match application {
        Some(application) => application,
        None => administrator(&database.store().applications().await?, database.is_embedded())?,
    };
    let code = token::secret()?;
    let (store, digest) = (database.store(), Digest::of(code.as_bytes()));
    store.panel_code_add(&application, None, digest, store.actor()).await.map_err(|error| match error {
        Error::ApplicationUnknown(_) => {
            anyhow!(
                "{error}: a browser acts for an active application with a token, such as {ADMIN_TOKEN} or {BOOTSTRAP}"
            )
        }
        error => error.into(),
    })?;
    Ok((panel_address::with_code(&address, &code), application))
}

/// Chooses the application of the code when the command names none. It must be an administrator with a token.
fn administrator(rows: &[ApplicationRow], is_embedded: bool) -> anyhow::Result<String> {
    let may = |row: &&ApplicationRow| {
        let has_token = row.known_by != "network" && !row.token_digests.is_empty();
        row.state() == State::Active && has_token && Scope::Admin.is_granted_by(&row.scopes)
    };
    let own = if is_embedded { ADMIN_TOKEN } else { BOOTSTRAP };
    let found: Vec<&str> = rows.iter().filter(may).map(|row| row.name.as_str()).collect();
    match &found[..] {
        found if found.contains(&own) => Ok(own.to_owned()),
        [only] => Ok((*only).to_owned()),
        [] => bail!(
            "no active application has a token and the scope admin: make one with `eye app add NAME --token --scope admin`, or \
             name another with --application"
        ),
        several => bail!("name the application with --application; these are administrators: {}", several.join(", ")),
    }
}
