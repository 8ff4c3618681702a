//! The embedded default: a Postgres of the gateway's own. Finds installed server programs, creates a cluster under the
//! data directory, starts it on a private Unix socket, starts it again when it dies, and stops it at the end.
//!
//! Promises: durable settings whatever the cluster's own configuration says; never a half-made cluster; never two
//! gateways on one data directory; every wait has a bound. Left to others: the schema (`store`) and what the
//! environment says (`config` reads it and passes it in).
#![forbid(unsafe_code)]

mod cluster;
mod output;
mod programs;
mod server;
mod settings;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use cluster::Cluster;
use output::Log;
use programs::{Programs, User, VERSION_MIN, id};
use server::supervise;

/// The superuser and the database of the cluster.
const NAME: &str = "eye";

/// Names the socket file only; nothing listens on TCP.
const PORT: u16 = 5432;

/// What the kernel takes as the path of a Unix socket, without the closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// How long the processes of a dead server may take to notice that they are alone, before they are told to quit; also
/// how long the last lines of a program that ended are waited for.
const FAMILY_TIME_MAX: Duration = Duration::from_millis(200);

/// Connections beside the gateway's own: migrations and partitions, the commands, an operator's psql, and those that
/// Postgres keeps back for its superuser.
const CONNECTIONS_BESIDE: u32 = 20;

/// Why the embedded Postgres did not start. Each message says in one line what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder holds `postgres`, `initdb` and `pg_ctl`.
    #[error(
        "no PostgreSQL server programs (version {VERSION_MIN} or newer) were found: install them (Debian: apt-get install postgresql), \
         set EYE_POSTGRES_BIN to the folder that holds initdb and postgres, or give a database URL"
    )]
    NotFound,
    /// The folder that the operator named does not hold them.
    #[error("EYE_POSTGRES_BIN is {}, which does not hold postgres, initdb and pg_ctl of version {VERSION_MIN} or newer: name the folder that does, or unset it", .0.display())]
    NotInFolder(PathBuf),
    /// The cluster needs a major version that is not installed.
    #[error(
        "the cluster in {} was made by PostgreSQL {needed}, and only {found} is installed: install postgresql-{needed}, or move the data with pg_upgrade",
        cluster.display()
    )]
    OtherVersion {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that made it.
        needed: u32,
        /// The major versions found, for people.
        found: String,
    },
    /// `PG_VERSION` is absent or says nothing known.
    #[error("{} is not a PostgreSQL cluster (its PG_VERSION is missing or not readable): move it away, or choose another --data-dir", .0.display())]
    NotACluster(PathBuf),
    /// Another gateway holds the lock on the data directory.
    #[error("another gateway uses the data directory {}: stop it, or choose another --data-dir", .0.display())]
    Taken(PathBuf),
    /// Postgres refuses to run as root, and there is no one else to run it as.
    #[error(
        "Postgres does not run as root, and there is no user postgres or nobody to run it as: add one (useradd --system postgres), or start the gateway as another user"
    )]
    NoUser,
    /// A parent directory is closed to the user that Postgres runs as.
    #[error(
        "the user {user} that Postgres runs as cannot reach {}: open the way (chmod o+x {}), or choose another --data-dir",
        path.display(), closed.display()
    )]
    OutOfReach {
        /// The unprivileged user.
        user: String,
        /// The directory that it needs.
        path: PathBuf,
        /// The first directory on the way that it may not pass.
        closed: PathBuf,
    },
    /// The cluster or its socket directory belongs to a user that the gateway is not.
    #[error("{} is not a directory of this gateway's (it belongs to user id {owner}): start the gateway as that user or as root, or choose another --data-dir", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A program of Postgres failed; its output says why.
    #[error("{program} failed ({ending}): {output}")]
    Program {
        /// The program's name.
        program: String,
        /// Its exit status, or that its time was up.
        ending: String,
        /// The last lines that it printed.
        output: String,
    },
    /// The server ended, or its time was up, before it accepted connections.
    #[error("Postgres did not start ({ending}); the end of {}: {output}", log.display())]
    NotReady {
        /// The server's exit status, or that its time was up.
        ending: String,
        /// The whole log.
        log: PathBuf,
        /// Its last lines.
        output: String,
    },
    /// The file system or the kernel refused something.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where to keep the data and where to look for the programs. The caller has read the environment.
#[derive(Debug, Clone)]
pub struct Options {
    /// Holds the cluster, its socket, its log and the lock. Made if absent.
    pub data_dir: PathBuf,
    /// The value of `EYE_POSTGRES_BIN`: looked at first, and then the only place for a new cluster.
    pub bin_dir: Option<PathBuf>,
    /// The value of `PATH`.
    pub search_path: Option<OsString>,
    /// The system's directory for temporary files: takes the socket when the data directory's path is too long.
    pub temp_dir: PathBuf,
    /// Connections that the gateway holds at most; some more are made possible, for commands and an operator's psql.
    pub connections_max: u32,
}

/// A running Postgres, kept running until [`Postgres::stop`]. Dropped without it, the server is told to stop and not
/// waited for; killed with the gateway, it is taken up by the next start.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    stop: oneshot::Sender<()>,
    supervisor: JoinSet<()>,
    /// Held, not read: the lock on the data directory ends with it.
    _lock: File,
}

impl Postgres {
    /// Finds the programs, creates the cluster if there is none, stops what an earlier gateway left, and starts the
    /// server. Returns when it accepts connections and the database `eye` is there.
    ///
    /// # Errors
    ///
    /// [`Error`], each with what to do about it. Nothing is left running after an error.
    pub async fn start(options: &Options) -> Result<Postgres, Error> {
        let root = id(&["-u"]).await == Some(0);
        let data_dir = prepare_data_dir(&options.data_dir, root)?;
        let cluster_dir = data_dir.join("postgres");
        let user = User::choose(root, &cluster_dir).await?;
        let lock = lock(&data_dir)?;
        let programs = Programs::find(options, &cluster_dir, user.as_ref()).await?;
        let socket_dir = socket_dir(&data_dir, &options.temp_dir);
        make_private(&socket_dir, user.as_ref())?;
        let log = Arc::new(Mutex::new(Log::open(data_dir.join("postgres.log"))?));
        let connections_max = options.connections_max.saturating_add(CONNECTIONS_BESIDE);
        let cluster = Cluster { programs, user, data_dir, cluster_dir, socket_dir, log, connections_max };
        if !cluster.cluster_dir.exists() {
            cluster.create().await?;
        }
        cluster.prove_reachable(&cluster.cluster_dir).await?;

        let server = cluster.launch().await?;
        let url = url(&cluster.socket_dir);
        let (stop, stopped) = oneshot::channel();
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(cluster, server, stopped));
        Ok(Postgres { url, stop, supervisor, _lock: lock })
    }

    /// The URL of the server that runs on a data dir, of a gateway that is at work or was killed; `None` if none runs there.
    /// Starts and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: a server runs there that this user may not reach. [`Error::NotOurs`]: its socket is somebody else's.
    pub fn running(options: &Options) -> Result<Option<String>, Error> {
        let Ok(data_dir) = fs::canonicalize(&options.data_dir) else { return Ok(None) };
        let socket_dir = socket_dir(&data_dir, &options.temp_dir);
        let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
        // Under the temporary directory anybody could have made one. The cluster is where only its owner can be.
        let owner = |path: &Path| fs::symlink_metadata(path).ok().filter(fs::Metadata::is_dir).map(|found| found.uid());
        let (cluster, folder) = (owner(&data_dir.join("postgres")), owner(&socket_dir));
        match folder {
            Some(owner) if cluster.is_some_and(|cluster| cluster != owner) => {
                return Err(Error::NotOurs { path: socket_dir, owner });
            }
            _ => {}
        }
        match UnixStream::connect(&socket) {
            Ok(_) => Ok(Some(url(&socket_dir))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(io_error("reach", &socket)(error)),
        }
    }

    /// The database's URL, over the Unix socket, as libpq and sqlx read it. It stays the same over restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server fast (open transactions are rolled back, the data is written), then by force when that takes
    /// more than 15 s, and waits for its end: 30 s at most.
    pub async fn stop(mut self) {
        // An error here means that the supervisor is gone, and then so is the server.
        let _ = self.stop.send(());
        while self.supervisor.join_next().await.is_some() {}
    }
}

/// Makes the data directory, and its path absolute. For root it can be passed by all and listed by none, because the
/// unprivileged user must get through to the cluster.
fn prepare_data_dir(data_dir: &Path, root: bool) -> Result<PathBuf, Error> {
    let mode = if root { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(data_dir).map_err(io_error("create", data_dir))?;
    fs::canonicalize(data_dir).map_err(io_error("resolve", data_dir))
}

/// Takes the data directory for this process. The kernel lets go of it when the process ends, however it ends.
fn lock(data_dir: &Path) -> Result<File, Error> {
    let path = data_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Taken(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

/// Where the socket goes: beside the data, or under the temporary directory if the kernel or the list syntax of
/// Postgres would not take that path.
fn socket_dir(data_dir: &Path, temp_dir: &Path) -> PathBuf {
    let beside = data_dir.join("run");
    let file_bytes = format!("/.s.PGSQL.{PORT}").len();
    let plain = beside.to_str().is_some_and(|path| !path.contains([',', '"']) && path == path.trim());
    if plain && beside.as_os_str().len() + file_bytes <= SOCKET_PATH_BYTES_MAX {
        return beside;
    }
    temp_dir.join(cluster_name(data_dir))
}

/// A name that stays the same for a data directory, and that no other has: FNV-1a of its path. The server's processes
/// bear it in their titles.
fn cluster_name(data_dir: &Path) -> String {
    let hash =
        data_dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("{NAME}-{hash:016x}")
}

/// Makes a directory that only the user of Postgres may enter. One that is there already must be a directory of that
/// user's, and no link: under the temporary directory, anyone could have made it. Nothing is changed before that is
/// known, because changing the rights of a link changes those of its target.
fn make_private(path: &Path, user: Option<&User>) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_error("create", path)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(io_error("look at", path))?;
    let private = found.mode() & 0o077 == 0;
    let owner = found.uid();
    match user {
        // Given away before. Root changes nothing here: its owner could put a link in its place in the meantime.
        Some(user) if found.is_dir() && owner == user.uid && private => Ok(()),
        // Root's own is one that was made and not yet given away.
        Some(user) if found.is_dir() && owner == 0 => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("close", path))?;
            lchown(path, Some(user.uid), Some(user.gid)).map_err(io_error("give away", path))
        }
        // Another user than root cannot change what is not its own: the kernel proves the rest.
        None if found.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("close", path))
        }
        _ => Err(Error::NotOurs { path: path.to_owned(), owner }),
    }
}

/// The URL of the database behind a socket. TLS is off because a Unix socket has none; asking costs a round trip.
fn url(socket_dir: &Path) -> String {
    let host =
        percent_encoding::percent_encode(socket_dir.as_os_str().as_encoded_bytes(), percent_encoding::NON_ALPHANUMERIC);
    format!("postgres://{NAME}@localhost:{PORT}/{NAME}?host={host}&sslmode=disable")
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_goes_beside_the_data_until_the_kernel_would_refuse_its_path() {
        let temp = Path::new("/tmp");
        assert_eq!(socket_dir(Path::new("/data"), temp), Path::new("/data/run"));

        let file_bytes = "/run/.s.PGSQL.5432".len();
        let longest = PathBuf::from(format!("/{}", "d".repeat(SOCKET_PATH_BYTES_MAX - file_bytes - 1)));
        assert_eq!(socket_dir(&longest, temp), longest.join("run"));
        let longer = PathBuf::from(format!("{}d", longest.display()));
        assert_eq!(socket_dir(&longer, temp), temp.join(cluster_name(&longer)));
    }

    #[test]
    fn socket_avoids_paths_that_postgres_would_split() {
        let chosen = socket_dir(Path::new("/data,more"), Path::new("/tmp"));
        assert!(chosen.starts_with("/tmp"), "{}", chosen.display());
    }

    #[test]
    fn cluster_names_differ_by_directory_and_stay_the_same() {
        assert_eq!(cluster_name(Path::new("/data")), cluster_name(Path::new("/data")));
        assert_ne!(cluster_name(Path::new("/data")), cluster_name(Path::new("/data2")));
        assert_eq!(cluster_name(Path::new("")), "eye-cbf29ce484222325", "the offset basis of FNV-1a");
    }

    #[test]
    fn url_is_understood_by_sqlx() {
        let options: sqlx::postgres::PgConnectOptions =
            url(Path::new("/a b/ü%/run")).parse().expect("it is a Postgres URL");
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/a b/ü%/run")));
        assert_eq!(options.get_username(), "eye");
        assert_eq!(options.get_database(), Some("eye"));
        assert_eq!(options.get_port(), 5432);
    }

    #[test]
    fn data_directory_has_one_holder() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let held = lock(dir.path()).expect("nobody else has it");
        assert!(matches!(lock(dir.path()), Err(Error::Taken(_))));
        drop(held);
        lock(dir.path()).expect("it was given back");
    }

    #[test]
    fn private_directory_is_never_a_link_and_the_target_keeps_its_rights() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let target = dir.path().join("target");
        DirBuilder::new().mode(0o755).create(&target).expect("a directory");
        let before = fs::metadata(&target).expect("it is there").mode();
        std::os::unix::fs::symlink(&target, dir.path().join("run")).expect("a link");
        let refused = make_private(&dir.path().join("run"), None);
        assert!(matches!(refused, Err(Error::NotOurs { .. })));
        assert_eq!(fs::metadata(&target).expect("it is there").mode(), before);
    }
}
