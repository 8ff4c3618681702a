//! The administrator that a gateway makes by itself, so that there is a first one: with a Postgres of its own the one whose
//! token is `admin.token` in the data dir, with a database of one's own the one whose token is in `admin_token_file`. It also
//! says at the start who is trusted. The tokens are written and read here, and told nowhere.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use eye_event::verdict::Digest;

use crate::store::{self, Ensured, Store};
use crate::trust::own::{ADMIN_TOKEN, BOOTSTRAP, LOCAL, Local};
use crate::trust::{Scope, Trust, token};

/// Shortest and longest token of `admin_token_file`, in characters.
const TOKEN_CHARACTERS: std::ops::RangeInclusive<usize> = 32..=512;
/// Networks that are told one by one.
const NETWORKS_TOLD: usize = 8;

/// Where the token of the first administrator is.
#[derive(Clone, Debug)]
pub enum FirstAdmin {
    /// In the file `admin.token` of this data dir, which the gateway makes.
    InDataDir(PathBuf),
    /// In this file, which the operator makes.
    InFile(PathBuf),
    /// Nowhere: applications are registered in the database.
    Nowhere,
}

/// Why the first administrator could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Its file cannot be read or written.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, #[source] io::Error),
    /// Its file holds no token.
    #[error(
        "{} holds no token: write {} to {} visible characters on one line into it", .0.display(),
        TOKEN_CHARACTERS.start(), TOKEN_CHARACTERS.end()
    )]
    NoToken(PathBuf),
    /// There is nothing to make a token of.
    #[error(transparent)]
    NoRandomness(#[from] token::NoRandomness),
}

/// The file of the token in a data dir.
pub fn token_file(data_dir: &Path) -> PathBuf {
    data_dir.join(ADMIN_TOKEN)
}

/// The token in a file; `None` if there is no such file.
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
    // A byte more than any token has tells that it is none.
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

/// Makes a token and puts it into a file that nobody but its owner may read. A kill leaves the file before or none.
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

/// Closes a file that others than its owner may read.
fn close(path: &Path) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        tracing::warn!(file = %path.display(), "others could read the token of the administrator; the file is closed to them now");
    }
    Ok(())
}

impl FirstAdmin {
    /// Registers it, if it is to be there and is not.
    ///
    /// # Errors
    ///
    /// [`Error`]. Nobody else loses anything by it.
    pub async fn register(&self, store: &Store) -> Result<(), Error> {
        match self {
            Self::InDataDir(data_dir) => register_own(&token_file(data_dir), store).await,
            Self::InFile(path) => bootstrap(path, store).await,
            Self::Nowhere => Ok(()),
        }
    }

    /// Says who is trusted, once the applications are known.
    pub fn say_who_is_trusted(&self, trust: &Trust, local: Local) {
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
                "trusted: callers from this machine are {may}; all else needs a token, such as that of the administrator in {}",
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
                "trusted: the registered applications and nobody else"
            );
        }
    }
}

/// The administrator of the embedded default. Whoever may write the data dir is the gateway itself, so its file decides.
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
        // A token that was ended stays so.
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

/// The first administrator of a database of one's own, while there is no other.
async fn bootstrap(path: &Path, store: &Store) -> Result<(), Error> {
    if store.has_administrator(&[BOOTSTRAP, LOCAL]).await? {
        tracing::info!("there are administrators, so admin_token_file is not looked at");
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
