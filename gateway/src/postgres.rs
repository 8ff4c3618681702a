//! The embedded Postgres, which the gateway uses without a database URL. It finds installed server programs, creates a
//! cluster in the data dir, starts it on a private Unix socket, starts it again when it dies, and stops it at the end.
//!
//! It promises durable settings, whatever the cluster's own configuration says; no half-made cluster; one gateway on a
//! data dir at a time; and a bound on every wait. `store` owns the schema, and `config` reads the environment.
#![forbid(unsafe_code)]

mod cluster;
mod dump;
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

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::shutdown::Shutdown;

use cluster::Cluster;
pub use dump::Tool;
use output::Log;
use programs::{Programs, User, VERSION_MIN, id};
use server::supervise;

/// The name of the cluster's superuser and database.
const NAME: &str = "eye";

/// The longest time of [`Postgres::stop`].
pub const STOP_TIME_MAX: Duration = Duration::from_secs(30);

/// A part of the name of the socket file. The server does not listen on TCP.
const PORT: u16 = 5432;

/// Most bytes of the path of a Unix socket, without the closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// How long the processes of a dead server may take to end by themselves before the gateway ends them, and how long it
/// waits for the last lines of a program that ended.
const FAMILY_TIME_MAX: Duration = Duration::from_millis(200);

/// Connections beyond the gateway's own: for migrations and partitions, for commands, for an operator's psql, and those
/// that Postgres reserves for its superuser.
const CONNECTIONS_BESIDE: u32 = 20;

/// The reasons why the embedded Postgres did not start. Each message says in one line how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder holds `postgres`, `initdb` and `pg_ctl`.
    #[error(
        "no PostgreSQL server programs (version {VERSION_MIN} or newer) were found: install them (Debian: apt-get install postgresql), \
         set EYE_POSTGRES_BIN to the folder that holds initdb and postgres, or give a database URL"
    )]
    NotFound,
    /// The folder in `EYE_POSTGRES_BIN` does not hold them.
    #[error("EYE_POSTGRES_BIN is {}, which does not hold postgres, initdb and pg_ctl of version {VERSION_MIN} or newer: name the folder that does, or unset it", .0.display())]
    NotInFolder(PathBuf),
    /// The cluster needs a major version that is not installed.
    #[error(
        "the cluster in {} was made by PostgreSQL {needed}, and only {found} is installed: install postgresql-{needed}, run `eye backup FILE`, move this folder away, and run `eye restore FILE`, which takes the newest version (or move the data with pg_upgrade)",
        cluster.display()
    )]
    OtherVersion {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that made it.
        needed: u32,
        /// The installed major versions, as text for the message.
        found: String,
    },
    /// A program that copies databases is not installed in a version that is new enough.
    #[error(
        "the server is PostgreSQL {server}, and {name} of version {server} or newer is needed ({found}): install postgresql-client-{server}, \
         or set EYE_POSTGRES_BIN to the folder that holds it"
    )]
    NoTool {
        /// The name of the program.
        name: &'static str,
        /// The major version of the server.
        server: u32,
        /// The older versions, as text for the message.
        found: String,
    },
    /// `PG_VERSION` is missing or unreadable.
    #[error("{} is not a PostgreSQL cluster (its PG_VERSION is missing or not readable): move it away, or choose another --data-dir", .0.display())]
    NotACluster(PathBuf),
    /// Another gateway holds the lock on the data directory.
    #[error("another gateway uses the data directory {}: stop it, or choose another --data-dir", .0.display())]
    Taken(PathBuf),
    /// Postgres refuses to run as root, and the system has no other user for it.
    #[error(
        "Postgres does not run as root, and there is no user postgres or nobody to run it as: add one (useradd --system postgres), or start the gateway as another user"
    )]
    NoUser,
    /// The user that Postgres runs as may not enter a parent directory.
    #[error(
        "the user {user} that Postgres runs as cannot reach {}: open the way (chmod o+x {}), or choose another --data-dir",
        path.display(), closed.display()
    )]
    OutOfReach {
        /// The unprivileged user.
        user: String,
        /// The directory that this user needs.
        path: PathBuf,
        /// The first directory on the path that this user may not enter.
        closed: PathBuf,
    },
    /// Another user owns the cluster or its socket directory.
    #[error("{} is not a directory of this gateway's (it belongs to user id {owner}): start the gateway as that user or as root, or choose another --data-dir", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// A program of Postgres failed. The message has its output.
    #[error("{program} failed ({ending}): {output}")]
    Program {
        /// The program's name.
        program: String,
        /// The exit status, or that the time ran out.
        ending: String,
        /// The last lines that it printed.
        output: String,
    },
    /// The server ended, or the time ran out, before it accepted connections.
    #[error("Postgres did not start ({ending}); the end of {}: {output}", log.display())]
    NotReady {
        /// The exit status of the server, or that the time ran out.
        ending: String,
        /// The path of its log.
        log: PathBuf,
        /// The last lines of the log.
        output: String,
    },
    /// The file system or the kernel refused an operation.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// The path that it was for.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// The place of the data, and where to look for the programs. The caller has read the environment.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder for the cluster, its socket, its log and the lock. The start creates it if it is missing.
    pub data_dir: PathBuf,
    /// The value of `EYE_POSTGRES_BIN`. The search starts there, and a new cluster uses no other folder.
    pub bin_dir: Option<PathBuf>,
    /// The value of `PATH`.
    pub search_path: Option<OsString>,
    /// The system's directory for temporary files. It holds the socket when the path of the data dir is too long.
    pub temp_dir: PathBuf,
    /// Most connections of the gateway. The cluster allows some more for commands and an operator's psql.
    pub connections_max: u32,
}

/// A running Postgres. [`Postgres::stop`] stops it. Its drop only sends the signal to stop. If the gateway is killed,
/// the next start takes the server over.
#[derive(Debug)]
pub struct Postgres {
    url: String,
    /// Counts the starts of the server.
    starts: watch::Receiver<u64>,
    stop: oneshot::Sender<()>,
    supervisor: JoinSet<()>,
    /// Kept only for its drop, which unlocks the data dir.
    _lock: File,
}

impl Postgres {
    /// Finds the programs, creates the cluster if there is none, stops the server that an earlier gateway left, and
    /// starts one. Returns when the server accepts connections and the database `eye` exists.
    ///
    /// # Errors
    ///
    /// An [`Error`]. After it no process is left running.
    pub async fn start(options: &Options) -> Result<Postgres, Error> {
        let started = Self::start_until(options, &Shutdown::default()).await?;
        Ok(started.expect("nothing else holds this `Shutdown`"))
    }

    /// Does the same until `shutdown` drains. Then it stops a server that is not ready yet, and returns `None`. An end at
    /// once shortens [`Postgres::stop`].
    ///
    /// # Errors
    ///
    /// An [`Error`]. After it, and after `None`, no process is left running.
    pub async fn start_until(options: &Options, shutdown: &Shutdown) -> Result<Option<Postgres>, Error> {
        let Some(prepared) = shutdown.drain.run_until_cancelled(prepare(options)).await else { return Ok(None) };
        let (cluster, lock) = prepared?;
        let Some(server) = cluster.launch(shutdown).await? else { return Ok(None) };
        let url = url(&cluster.socket_dir);
        let (stop, stopped) = oneshot::channel();
        let (started, starts) = watch::channel(1);
        let mut supervisor = JoinSet::new();
        supervisor.spawn(supervise(cluster, server, started, stopped, shutdown.at_once.clone()));
        Ok(Some(Postgres { url, starts, stop, supervisor, _lock: lock }))
    }

    /// Returns the URL of the server that runs on a data dir, whether its gateway runs or was killed. Returns `None` if
    /// no server runs there. It starts and changes nothing, so that commands can use it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: this user may not reach the server. [`Error::NotOurs`]: another user owns its socket.
    pub fn running(options: &Options) -> Result<Option<String>, Error> {
        let Ok(data_dir) = fs::canonicalize(&options.data_dir) else { return Ok(None) };
        let socket_dir = socket_dir(&data_dir, &options.temp_dir);
        let socket = socket_dir.join(format!(".s.PGSQL.{PORT}"));
        // Anybody may create this directory under the temporary directory, but only the owner of the data dir can
        // create the cluster.
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

    /// The URL of the database over the Unix socket, for sqlx and libpq. It stays the same when the server restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Counts the starts of the server. The supervisor starts it again when it dies.
    pub fn starts(&self) -> watch::Receiver<u64> {
        self.starts.clone()
    }

    /// Stops the server: it rolls open transactions back and writes its data. After 15 s, or 2 s after the gateway was
    /// ordered to end at once, the supervisor kills it. Returns when it has ended, after 30 s at most.
    pub async fn stop(mut self) {
        // A closed channel means that the supervisor has ended, and the server with it.
        let _ = self.stop.send(());
        while self.supervisor.join_next().await.is_some() {}
    }
}

/// Creates the cluster if there is none, and takes the lock on the data dir.
async fn prepare(options: &Options) -> Result<(Cluster, File), Error> {
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
    Ok((cluster, lock))
}

/// Creates the data dir and makes its path absolute. As root it lets all users pass through, since the unprivileged
/// user of Postgres must reach the cluster, but not list it.
fn prepare_data_dir(data_dir: &Path, root: bool) -> Result<PathBuf, Error> {
    let mode = if root { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(data_dir).map_err(io_error("create", data_dir))?;
    fs::canonicalize(data_dir).map_err(io_error("resolve", data_dir))
}

/// Locks the data dir for this process. The kernel unlocks it when the process ends.
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

/// The directory of the socket: in the data dir, or under the temporary directory if the kernel or the list syntax of
/// Postgres would not accept that path.
fn socket_dir(data_dir: &Path, temp_dir: &Path) -> PathBuf {
    let beside = data_dir.join("run");
    let file_bytes = format!("/.s.PGSQL.{PORT}").len();
    let plain = beside.to_str().is_some_and(|path| !path.contains([',', '"']) && path == path.trim());
    if plain && beside.as_os_str().len() + file_bytes <= SOCKET_PATH_BYTES_MAX {
        return beside;
    }
    temp_dir.join(cluster_name(data_dir))
}

/// A name for a data dir that is always the same and that no other has: FNV-1a of its path. The server's processes show
/// it in their titles.
fn cluster_name(data_dir: &Path) -> String {
    let hash =
        data_dir.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("{NAME}-{hash:016x}")
}

/// Creates a directory that only the user of Postgres may enter. A directory that exists must belong to that user and
/// must not be a link, since anybody could have created it under the temporary directory. Nothing is changed before
/// that check, because a change of a link's permissions changes those of its target.
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
        // An earlier start gave it to this user. Root changes nothing here: that user could replace it by a link in the
        // meantime.
        Some(user) if found.is_dir() && owner == user.uid && private => Ok(()),
        // An earlier start created it as root and ended before it gave it away.
        Some(user) if found.is_dir() && owner == 0 => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("close", path))?;
            lchown(path, Some(user.uid), Some(user.gid)).map_err(io_error("give away", path))
        }
        // A user other than root cannot change the directory of another, so the kernel does the rest of the check.
        None if found.is_dir() => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error("close", path))
        }
        _ => Err(Error::NotOurs { path: path.to_owned(), owner }),
    }
}

/// The URL of the database behind a socket. It turns TLS off: a Unix socket has none, and asking for it costs a round
/// trip.
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
