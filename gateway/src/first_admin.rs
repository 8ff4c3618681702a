//! Registers the first administrator. With the embedded Postgres its token is in `admin.token` in the data dir, which
//! the gateway writes. With a database of the operator's own it is in `admin_token_file`, which the operator writes. At
//! the start this module also logs which applications are trusted. No log line and no answer has these tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use eye_event::verdict::Digest;

use crate::panel_address;
use crate::store::{self, Ensured, Store};
use crate::trust::own::{ADMIN_TOKEN, BOOTSTRAP, LOCAL, Local};
use crate::trust::{Scope, Trust, token};

/// Fewest and most characters of the token in `admin_token_file`.
const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 32..=512;
/// Most networks that one log line lists.
const NETWORKS_TOLD: usize = 8;

/// The place of the first administrator's token.
#[derive(Clone, Debug)]
pub enum FirstAdmin {
    /// In the file `admin.token` of this data dir, which the gateway makes.
    InDataDir(PathBuf),
    /// In this file, which the operator makes.
    InFile(PathBuf),
    /// No file. The operator registers applications in the database.
    Nowhere,
}

/// What the log line of the start says about the panel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtStart {
    /// Nothing: this gateway has no panel.
    NoPanel,
    /// That `eye panel` prints an address.
    ByCommand,
    /// An address with a code, which signs in to the panel once. This is the address without the code.
    WithCode(String),
}

impl AtStart {
    /// The end of the line. It makes a code for the administrator of the embedded database.
    async fn said(&self, store: &Store) -> String {
        let by_command = "; `eye panel` prints an address that signs in to the panel";
        let address = match self {
            Self::NoPanel => return String::new(),
            Self::ByCommand => return by_command.to_owned(),
            Self::WithCode(address) => address,
        };
        let made = async {
            let code = token::secret()?;
            store.panel_code_add(ADMIN_TOKEN, None, Digest::of(code.as_bytes()), store.actor()).await?;
            Ok::<_, Error>(code)
        };
        match made.await {
            Ok(code) => {
                let address = panel_address::with_code(address, &code);
                format!(
                    "; {address} signs in to the panel once, within ten minutes, and `eye panel` prints a fresh address"
                )
            }
            Err(error) => {
                tracing::debug!(%error, "no code for the panel could be made");
                by_command.to_owned()
            }
        }
    }
}

/// The reasons why the first administrator could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The file cannot be read or written.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] io::Error),
    /// The file holds no token.
    #[error(
        "{} holds no token: write {} to {} visible characters on one line into it", .0.display(),
        TOKEN_CHARACTERS.start(), TOKEN_CHARACTERS.end()
    )]
    NoToken(PathBuf),
    /// The system has no randomness for a token.
    #[error(transparent)]
    NoRandomness(#[from] token::NoRandomness),
}

/// The path of the token's file in a data dir.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join(ADMIN_TOKEN)
}

/// Reads the token from a file. Returns `None` if the file does not exist.
///
/// # Errors
///
/// [`Error::File`] and [`Error::NoToken`].
pub fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    // One byte more than the longest token has proves that the file holds none.
    let most = u64::try_from(TOKEN_CHARACTERS.end() + 3).unwrap_or(u64::MAX);
    file.take(most).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim();
    let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && TOKEN_CHARACTERS.contains(&token.len()) {
        Ok(Some(token.to_owned()))
    } else {
        Err(Error::NoToken(path.to_owned()))
    }
}

/// Makes a token and writes it into a file that only its owner may read. If a kill interrupts it, the earlier file or
/// none remains.
fn make(path: &Path) -> Result<String, Error> {
    let (token, _) = token::make()?;
    let beside = path.with_extension("token.new");
    let write = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| Error::File(path.to_owned(), error))?;
    Ok(token)
}

/// Takes the right to read a file from all but its owner.
fn close(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        tracing::warn!(file = %path.display(), "others could read the token of the administrator; the file is closed to them now");
    }
    Ok(())
}

impl FirstAdmin {
    /// Registers the administrator, if it must exist and does not.
    ///
    /// # Errors
    ///
    /// An [`Error`]. Other applications are not affected.
    pub async fn register(&self, store: &Store) -> Result<(), Error> {
        match self {
            Self::InDataDir(data_dir) => register_own(&token_file(data_dir), store).await,
            Self::InFile(path) => bootstrap(path, store).await,
            Self::Nowhere => Ok(()),
        }
    }

    /// Logs which applications are trusted, after the gateway has read them, and how to sign in to the panel.
    pub async fn say_who_is_trusted(&self, trust: &Trust, local: Local, store: &Store, panel: &AtStart) {
        let panel = panel.said(store).await;
        let applications = trust.callable();
        let mut networks: Vec<String> = trust
            .known_by_network()
            .into_iter()
            .filter(|(name, _)| name != LOCAL)
            .map(|(name, network)| format!("{name} from {network}"))
            .collect();
        let more = networks.len().saturating_sub(NETWORKS_TOLD);
        networks.truncate(NETWORKS_TOLD);
        if more > 0 {
            networks.push(format!("{more} more"));
        }
        let networks = if networks.is_empty() { "nobody".to_owned() } else { networks.join(", ") };
        let administrators = applications.iter().filter(|one| one.has(Scope::Admin)).count();
        let registered = applications.iter().filter(|one| one.name != LOCAL).count();
        if let Self::InDataDir(data_dir) = self {
            let may = match local {
                Local::Off => "nobody",
                Local::Ingest => "`local`, which may send",
                Local::Read => "`local`, which may send and read",
            };
            tracing::info!(
                registered,
                administrators,
                without_a_token = networks,
                "trusted: callers from this machine are {may}; all else needs a token, such as that of the administrator in {}{panel}",
                token_file(data_dir).display()
            );
        } else if registered == 0 {
            tracing::warn!(
                "trusted: nobody, since no application is registered: `eye app add NAME --token`, or the setting admin_token_file"
            );
        } else {
            tracing::info!(
                registered,
                administrators,
                without_a_token = networks,
                "trusted: the registered applications and nobody else{panel}"
            );
        }
    }
}

/// Registers the administrator of the embedded Postgres. Only the gateway's own user may write the data dir, so the
/// token in its file is valid.
async fn register_own(path: &Path, store: &Store) -> Result<(), Error> {
    let token = match read(path) {
        Ok(Some(token)) => {
            close(path).map_err(|error| Error::File(path.to_owned(), error))?;
            token
        }
        Ok(None) | Err(Error::NoToken(_)) => make(path)?,
        Err(error) => return Err(error),
    };
    let ensured = match store.ensure_administrator(ADMIN_TOKEN, Digest::of(token.as_bytes())).await? {
        // A token that an administrator ended stays ended.
        Ensured::TokenEnded => store.ensure_administrator(ADMIN_TOKEN, Digest::of(make(path)?.as_bytes())).await?,
        ensured => ensured,
    };
    if ensured == Ensured::Closed {
        tracing::warn!(
            "the application {ADMIN_TOKEN} was suspended or revoked, so the token in {} opens nothing",
            path.display()
        );
    }
    Ok(())
}

/// Registers the first administrator in a database of the operator's own, unless the database has one.
async fn bootstrap(path: &Path, store: &Store) -> Result<(), Error> {
    if store.has_administrator(&[BOOTSTRAP, LOCAL]).await? {
        tracing::info!("there are administrators, so the gateway does not read admin_token_file");
        return Ok(());
    }
    let missing = || Error::File(path.to_owned(), io::ErrorKind::NotFound.into());
    let token = read(path)?.ok_or_else(missing)?;
    match store.ensure_administrator(BOOTSTRAP, Digest::of(token.as_bytes())).await? {
        Ensured::Made => tracing::info!("the token of admin_token_file is registered as the application {BOOTSTRAP}"),
        Ensured::Known => {}
        Ensured::TokenEnded => {
            tracing::warn!("the token of admin_token_file was ended; write another one into the file")
        }
        Ensured::Closed => tracing::warn!(
            "the application {BOOTSTRAP} was suspended or revoked, so the token of admin_token_file opens nothing"
        ),
    }
    Ok(())
}
