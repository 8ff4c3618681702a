//! The embedded default: a Postgres of the gateway's own. Finds installed server programs, creates a cluster under the
//! data directory, starts it on a private Unix socket, starts it again when it dies, and stops it at the end.
//!
//! Promises: durable settings whatever the cluster's own configuration says; never a half-made cluster; never two
//! gateways on one data directory; every wait has a bound. Left to others: the schema (`store`) and what the
//! environment says (`config` reads it and passes it in).
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, PipeWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The oldest major version that is used: what the flags of `initdb` below and the gateway's SQL need.
const VERSION_MIN: u32 = 14;

/// The superuser and the database of the cluster.
const NAME: &str = "eye";

/// Names the socket file only; nothing listens on TCP.
const PORT: u16 = 5432;

/// What the kernel takes as the path of a Unix socket, without the closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// `initdb` takes about a second; on a slow disk its final sync takes much longer.
const CREATE_TIME_MAX: Duration = Duration::from_secs(120);

/// Covers the replay of `max_wal_size` after a crash, also on a slow disk.
const START_TIME_MAX: Duration = Duration::from_secs(120);

/// For programs that only print or signal.
const TOOL_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a fast shutdown may take, which ends with writing all dirty pages, before an immediate one.
const FAST_STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// How long an immediate shutdown may take before the server is killed.
const IMMEDIATE_STOP_TIME_MAX: Duration = Duration::from_secs(6);

/// How long an earlier gateway's server may take to stop fast: whoever restarts a gateway waits for this.
const ORPHAN_STOP_SECONDS_MAX: u32 = 5;

/// How long the processes of a dead server may take to notice that they are alone, before they are told to quit; also
/// how long the last lines of a program that ended are waited for.
const FAMILY_TIME_MAX: Duration = Duration::from_millis(200);

/// How long processes that were told to quit may take.
const QUIT_TIME_MAX: Duration = Duration::from_secs(3);

/// Restarts wait from the first to the second of these, doubling, while the server keeps dying. A server that cannot
/// start for want of disk space must be back soon after there is room, so the second is short.
const RESTART_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// A server that ran for this long was well: its death is answered by an immediate restart.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// What Postgres prints while processes of a killed server still hold its memory, and how long that is waited for.
const MEMORY_HELD: &str = "pre-existing shared memory block";
const MEMORY_HELD_TIME_MAX: Duration = Duration::from_secs(20);

/// The log and the one before it each have this size at most.
const LOG_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is kept in memory of a program's output, for error messages.
const TAIL_LINES_MAX: usize = 8;

/// A longer line of output is cut into several.
const LINE_BYTES_MAX: u64 = 2048;

/// Postgres has printed this when it accepts connections, in every version; `lc_messages` holds it to English.
const READY_LINE: &str = "database system is ready to accept connections";

/// Given on the command line, so that they win over anything in the cluster's files. Durability is spelled out because
/// `stored` is promised after commit: no setting in a file may weaken it.
const SETTINGS: &[&str] = &[
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    // Only the private socket: no port to guard, none to collide with.
    "listen_addresses=",
    "unix_socket_permissions=0700",
    // Writers, readers and an operator's psql; each connection costs some MiB, and the gateway pools.
    "max_connections=50",
    // Nobody subscribes to this cluster; its launcher is one process less.
    "max_logical_replication_workers=0",
    // Suits a machine of 1 GiB and more; recent events stay in memory, the rest is the kernel's page cache.
    "shared_buffers=128MB",
    "wal_buffers=16MB",
    // Full-page images are most of the log of an append workload with random keys.
    "wal_compression=on",
    // Bounds both the space of the write-ahead log and the replay after a crash, to a few seconds.
    "max_wal_size=1GB",
    "min_wal_size=256MB",
    "checkpoint_timeout=5min",
    // After a crash everything is synced before the replay: in one call, not in one for each of a thousand files, which
    // takes seconds on a busy disk. Linux tells of failed writes that way since 5.8; other systems do not have it.
    #[cfg(target_os = "linux")]
    "recovery_init_sync_method=syncfs",
    // Ingesting statements are short: compiling them costs more than it saves.
    "jit=off",
    "autovacuum=on",
    // Timestamps are UTC everywhere in the gateway.
    "timezone=UTC",
    "log_timezone=UTC",
    // The gateway collects the log itself, which bounds its size.
    "logging_collector=off",
    "log_destination=stderr",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] ",
    "lc_messages=C",
    // Statements and details quote events; the log must not.
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_statement=none",
    "log_min_duration_statement=-1",
];

/// Where installers put server programs: parent folder, what precedes the version number, and what follows it.
const SYSTEM_FOLDERS: &[(&str, &str, &str)] = &[
    ("usr/lib/postgresql", "", "bin"),
    ("usr", "pgsql-", "bin"),
    ("usr/libexec", "postgresql", ""),
    ("usr/lib", "postgresql", "bin"),
    ("opt/homebrew/opt", "postgresql@", "bin"),
    ("usr/local/opt", "postgresql@", "bin"),
    ("Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// Where they are without a version in the path.
const PLAIN_FOLDERS: &[&str] = &["usr/local/pgsql/bin", "opt/homebrew/bin", "usr/local/bin", "usr/bin"];

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
        let cluster = Cluster { programs, user, data_dir, cluster_dir, socket_dir, log };
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

/// The unprivileged user that root runs Postgres as.
#[derive(Debug, Clone)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// Who runs Postgres: the gateway's own user (`None`) unless that is root; then whoever owns the cluster already;
    /// then `postgres`; then `nobody`.
    async fn choose(root: bool, cluster_dir: &Path) -> Result<Option<User>, Error> {
        let owner = fs::metadata(cluster_dir).ok().map(|found| (found.uid(), found.gid()));
        if !root {
            return match (owner, id(&["-u"]).await) {
                (Some((owner, _)), Some(own)) if owner != own => {
                    Err(Error::NotOurs { path: cluster_dir.to_owned(), owner })
                }
                _ => Ok(None),
            };
        }
        if let Some((uid, gid)) = owner.filter(|(uid, _)| *uid != 0) {
            return Ok(Some(User { name: uid.to_string(), uid, gid }));
        }
        for name in ["postgres", "nobody"] {
            if let (Some(uid), Some(gid)) = (id(&["-u", name]).await, id(&["-g", name]).await)
                && uid != 0
            {
                return Ok(Some(User { name: name.to_owned(), uid, gid }));
            }
        }
        Err(Error::NoUser)
    }
}

/// Asks `id`, which knows every source of users that the machine has, and is on every Unix.
async fn id(arguments: &[&str]) -> Option<u32> {
    let mut command = Command::new("id");
    command.args(arguments);
    run(command, TOOL_TIME_MAX).await.ok()?.trim().parse().ok()
}

/// The folder of one installed version.
#[derive(Debug, Clone)]
struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The programs for the cluster if it is there, else those for a new one.
    async fn find(options: &Options, cluster_dir: &Path, user: Option<&User>) -> Result<Programs, Error> {
        let needed = match cluster_dir.exists() {
            true => Some(cluster_version(cluster_dir)?),
            false => None,
        };
        let folders = folders(options.bin_dir.as_deref(), options.search_path.as_deref(), Path::new("/"));
        let mut found = Vec::new();
        for folder in folders {
            let named = options.bin_dir.as_ref() == Some(&folder);
            let programs = Programs::prove(folder, user).await;
            match (programs, needed) {
                (Some(programs), None) => return Ok(programs),
                (Some(programs), Some(needed)) if programs.major == needed => return Ok(programs),
                (Some(programs), Some(_)) => found.push(programs.major),
                // Another version than the one that the operator named must not make the new cluster.
                (None, None) if named => break,
                (None, _) => {}
            }
        }
        found.sort_unstable();
        found.dedup();
        let found: Vec<String> = found.iter().map(u32::to_string).collect();
        match (needed, &options.bin_dir) {
            (Some(needed), _) if !found.is_empty() => {
                Err(Error::OtherVersion { cluster: cluster_dir.to_owned(), needed, found: found.join(" and ") })
            }
            (_, Some(folder)) => Err(Error::NotInFolder(folder.clone())),
            (_, None) => Err(Error::NotFound),
        }
    }

    /// Asks the folder's server for its version, as the user that will run it: whether it may is part of the proof.
    async fn prove(folder: PathBuf, user: Option<&User>) -> Option<Programs> {
        if !["postgres", "initdb", "pg_ctl"].iter().all(|name| folder.join(name).is_file()) {
            return None;
        }
        let mut command = as_user(&folder.join("postgres"), Path::new("/"), user);
        command.arg("--version");
        let major = parse_version(&run(command, TOOL_TIME_MAX).await.ok()?)?;
        (major >= VERSION_MIN).then_some(Programs { folder, major })
    }
}

/// The major version in what `postgres --version` prints, such as `postgres (PostgreSQL) 15.13 (Debian 15.13-0)`.
fn parse_version(output: &str) -> Option<u32> {
    let (_, version) = output.split_once("(PostgreSQL) ")?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

/// The major version that made a cluster.
fn cluster_version(cluster_dir: &Path) -> Result<u32, Error> {
    fs::read_to_string(cluster_dir.join("PG_VERSION"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| Error::NotACluster(cluster_dir.to_owned()))
}

/// The folders to look in, first choice first: the named one, the search path, then the system's, newest first.
fn folders(bin_dir: Option<&Path>, search_path: Option<&OsStr>, root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = bin_dir.map(Path::to_owned).into_iter().collect();
    let searched = search_path.map(std::env::split_paths);
    folders.extend(searched.into_iter().flatten().filter(|folder| folder.is_absolute()));
    let mut versioned: Vec<(u32, PathBuf)> = SYSTEM_FOLDERS
        .iter()
        .flat_map(|(parent, prefix, suffix)| {
            let entries = fs::read_dir(root.join(parent)).into_iter().flatten().flatten();
            entries.filter_map(move |entry| {
                let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
                Some((version, entry.path().join(suffix)))
            })
        })
        .collect();
    versioned.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    folders.extend(versioned.into_iter().map(|(_, folder)| folder));
    folders.extend(PLAIN_FOLDERS.iter().map(|folder| root.join(folder)));
    folders
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

/// A program of Postgres, in its own process group so that Ctrl-C in a terminal reaches the gateway alone, and without
/// the gateway's environment, which may hold secrets. For root, std also drops the supplementary groups.
fn as_user(program: &Path, directory: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(directory).process_group(0).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Runs a program to its end, and returns the last lines that it printed.
async fn run(mut command: Command, time_max: Duration) -> Result<String, Error> {
    let path = PathBuf::from(command.as_std().get_program());
    let (writer, mut output) = Output::collect(None).map_err(io_error("watch", &path))?;
    let stderr = writer.try_clone().map_err(io_error("watch", &path))?;
    command.stdout(writer).stderr(stderr).kill_on_drop(true);
    let mut child = command.spawn().map_err(io_error("run", &path))?;
    // The command holds the pipe open, and its end is awaited below.
    drop(command);
    let ending = match timeout(time_max, child.wait()).await {
        Ok(Ok(status)) if status.success() => return Ok(output.rest().await),
        Ok(status) => describe(status),
        Err(_) => format!("it took more than {} s", time_max.as_secs()),
    };
    drop(child);
    let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Err(Error::Program { program, ending, output: output.rest().await })
}

fn describe(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// One cluster and everything that is needed to run it.
#[derive(Debug)]
struct Cluster {
    programs: Programs,
    user: Option<User>,
    data_dir: PathBuf,
    cluster_dir: PathBuf,
    socket_dir: PathBuf,
    log: Arc<Mutex<Log>>,
}

impl Cluster {
    fn command(&self, program: &str, directory: &Path) -> Command {
        as_user(&self.programs.folder.join(program), directory, self.user.as_ref())
    }

    /// Creates the cluster with its database under another name and renames it when it is complete and on disk: a kill
    /// in the middle leaves a directory that the next start removes, never a half-made cluster.
    async fn create(&self) -> Result<(), Error> {
        let started = Instant::now();
        let prefix = "postgres.new-";
        for entry in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                // What cannot be removed is in nobody's way: the new one has another name.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        // The process id keeps an initdb that outlived its gateway from writing into this one.
        let unfinished = self.data_dir.join(format!("{prefix}{}", std::process::id()));
        make_private(&unfinished, self.user.as_ref())?;
        self.prove_reachable(&unfinished).await?;

        // Text is compared by bytes (C), which is fastest and never changes with the system's libraries; what is a
        // letter is Unicode's matter (C.UTF-8), where the system knows it.
        if self.initdb(&unfinished, "C.UTF-8").await.is_err() {
            self.initdb(&unfinished, "C").await?;
        }
        self.create_database(&unfinished).await?;
        fs::rename(&unfinished, &self.cluster_dir).map_err(io_error("rename", &unfinished))?;
        File::open(&self.data_dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", &self.data_dir))?;
        tracing::info!(
            directory = %self.cluster_dir.display(), version = self.programs.major,
            milliseconds = started.elapsed().as_millis(), "created a Postgres cluster"
        );
        Ok(())
    }

    /// Local connections are trusted because only this user can enter the socket's directory; there are no others.
    /// Checksums find a disk that corrupts.
    async fn initdb(&self, directory: &Path, character_type: &str) -> Result<(), Error> {
        let mut command = self.command("initdb", directory);
        command.arg("--pgdata").arg(directory).args([
            "--username",
            NAME,
            "--encoding=UTF8",
            "--locale=C",
            &format!("--lc-ctype={character_type}"),
            "--auth-local=trust",
            "--auth-host=reject",
            "--data-checksums",
            "--no-instructions",
        ]);
        run(command, CREATE_TIME_MAX).await.map(drop)
    }

    /// In single-user mode, which needs neither a socket nor a client program, and syncs when it ends.
    async fn create_database(&self, directory: &Path) -> Result<(), Error> {
        let path = self.data_dir.join("create.sql");
        fs::write(&path, format!("create database {NAME}\n")).map_err(io_error("write", &path))?;
        let input = File::open(&path).map_err(io_error("open", &path))?;
        fs::remove_file(&path).map_err(io_error("remove", &path))?;
        let mut command = self.command("postgres", directory);
        command.args(["--single", "-j", "-c", "exit_on_error=on", "-D"]).arg(directory).arg("postgres").stdin(input);
        run(command, CREATE_TIME_MAX).await.map(drop)
    }

    /// Lets the user of Postgres enter a directory, as a trial: rights on the way there are of many kinds.
    async fn prove_reachable(&self, directory: &Path) -> Result<(), Error> {
        let mut command = self.command("postgres", directory);
        command.arg("--version");
        match (run(command, TOOL_TIME_MAX).await, &self.user) {
            (Err(Error::Io { source, .. }), Some(user)) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::OutOfReach {
                    user: user.name.clone(),
                    path: directory.to_owned(),
                    closed: first_closed(directory).to_owned(),
                })
            }
            (outcome, _) => outcome.map(drop),
        }
    }

    /// Starts the server and waits until it is ready. When the one before was killed, its processes may hold its memory
    /// for some time yet; Postgres then refuses to start, and is asked again.
    async fn launch(&self) -> Result<Server, Error> {
        let begin = Instant::now();
        loop {
            let mut server = self.spawn().await?;
            let Err(error) = self.ready(&mut server).await else { return Ok(server) };
            server.stop(self).await;
            let held = matches!(&error, Error::NotReady { output, .. } if output.contains(MEMORY_HELD));
            if !held || begin.elapsed() > MEMORY_HELD_TIME_MAX {
                return Err(error);
            }
            tokio::time::sleep(RESTART_DELAYS.0).await;
        }
    }

    /// Starts the server's process once nothing of an earlier one is left.
    async fn spawn(&self) -> Result<Server, Error> {
        self.clear_the_way().await;
        let program = self.programs.folder.join("postgres");
        let (writer, output) = Output::collect(Some(self.log.clone())).map_err(io_error("watch", &program))?;
        let stderr = writer.try_clone().map_err(io_error("watch", &program))?;
        let mut command = self.command("postgres", &self.cluster_dir);
        command.arg("-D").arg(&self.cluster_dir).stdout(writer).stderr(stderr);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(["-c", &format!("port={PORT}")]);
        command.args(["-c", &format!("cluster_name={}", cluster_name(&self.data_dir))]);
        let mut socket = OsString::from("unix_socket_directories=");
        socket.push(&self.socket_dir);
        command.arg("-c").arg(socket);
        let child = command.spawn().map_err(io_error("run", &program))?;
        let pg_ctl = self.programs.folder.join("pg_ctl");
        Ok(Server { child, output, started: Instant::now(), pg_ctl, user: self.user.clone() })
    }

    /// Waits until the server accepts connections.
    async fn ready(&self, server: &mut Server) -> Result<(), Error> {
        let ending = tokio::select! {
            biased;
            Ok(()) = &mut server.output.ready => {
                tracing::info!(
                    version = self.programs.major, process = server.child.id(), directory = %self.cluster_dir.display(),
                    milliseconds = server.started.elapsed().as_millis(), "Postgres accepts connections"
                );
                return Ok(());
            }
            status = server.child.wait() => describe(status),
            () = tokio::time::sleep(START_TIME_MAX) => {
                format!("it was not ready after {} s", START_TIME_MAX.as_secs())
            }
        };
        let log = self.data_dir.join("postgres.log");
        Err(Error::NotReady { ending, log, output: server.output.rest().await })
    }

    /// Ends what a dead gateway or a dead server left running, so that the next server is the only one. Stopping and
    /// starting takes less than a second, and makes the new server this process's child, whose end is an event.
    async fn clear_the_way(&self) {
        let family = self.family();
        if let Some(postmaster) = family.postmaster {
            tracing::warn!(process = postmaster, "a Postgres that an earlier gateway left is stopped first");
            for mode in ["fast", "immediate"] {
                let mut command = self.command("pg_ctl", &self.cluster_dir);
                command.args(["stop", "--silent", "--mode", mode, "--timeout", &ORPHAN_STOP_SECONDS_MAX.to_string()]);
                command.arg("-D").arg(&self.cluster_dir);
                let time_max = TOOL_TIME_MAX + Duration::from_secs(ORPHAN_STOP_SECONDS_MAX.into());
                match run(command, time_max).await {
                    Ok(_) => break,
                    Err(error) => tracing::warn!(%error, mode, "the left Postgres did not stop"),
                }
            }
        }
        for signal in ["QUIT", "KILL"] {
            let family = self.family();
            for process in family.postmaster.iter().chain(&family.children) {
                self.signal(signal, *process).await;
            }
            if self.family_gone(QUIT_TIME_MAX).await {
                break;
            }
        }
        self.remove_stale_files();
    }

    /// Signals a process through `pg_ctl`, as the user of Postgres: it can reach none but that user's processes.
    async fn signal(&self, signal: &str, process: u32) {
        let mut command = self.command("pg_ctl", Path::new("/"));
        command.args(["kill", signal, &process.to_string()]);
        // An error means that the process is gone already, or that waiting for its end will show that it is not.
        let _ = run(command, TOOL_TIME_MAX).await;
    }

    /// Whether the cluster's processes end in time. They are not this process's children, so no event tells their end.
    async fn family_gone(&self, time_max: Duration) -> bool {
        let started = Instant::now();
        while !self.family().is_empty() {
            if started.elapsed() > time_max {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// The running processes of this cluster, by their command lines, which every user may read.
    fn family(&self) -> Family {
        let name = cluster_name(&self.data_dir);
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
            let process: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((process, fs::read(entry.path().join("cmdline")).ok()?))
        });
        let mut family = Family::default();
        for (process, command_line) in processes {
            match kin(&command_line, &self.cluster_dir, &name) {
                Some(Kin::Postmaster) => family.postmaster = Some(process),
                Some(Kin::Child) => family.children.push(process),
                None => {}
            }
        }
        if !Path::new("/proc/self").exists() {
            // A system without /proc: Postgres's own note of its process is all there is.
            family.postmaster = self.noted_process();
        }
        family
    }

    /// The process that `postmaster.pid` names.
    fn noted_process(&self) -> Option<u32> {
        let text = fs::read_to_string(self.cluster_dir.join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// Removes what would stop the start without need. Postgres itself sees through a note of a process that is gone;
    /// it takes a process that got the same number later, after a crash of the machine, for a running server. Nothing
    /// of this cluster runs here, and the key of the shared memory guards against error.
    fn remove_stale_files(&self) {
        let noted = self.noted_process();
        if self.family().is_empty() && noted.is_some_and(|id| Path::new("/proc").join(id.to_string()).exists()) {
            tracing::warn!("removing a postmaster.pid that names a process of somebody else");
            let _ = fs::remove_file(self.cluster_dir.join("postmaster.pid"));
        }
        for suffix in ["", ".lock"] {
            let _ = fs::remove_file(self.socket_dir.join(format!(".s.PGSQL.{PORT}{suffix}")));
        }
    }
}

/// The first directory on the way that others than its owner may not pass.
fn first_closed(directory: &Path) -> &Path {
    let closed = |path: &&Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 == 0);
    let mut way: Vec<&Path> = directory.ancestors().skip(1).collect();
    way.reverse();
    way.into_iter().find(closed).unwrap_or(directory)
}

/// The processes of one cluster.
#[derive(Debug, Default)]
struct Family {
    postmaster: Option<u32>,
    children: Vec<u32>,
}

impl Family {
    fn is_empty(&self) -> bool {
        self.postmaster.is_none() && self.children.is_empty()
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Kin {
    Postmaster,
    Child,
}

/// What a process is to the cluster. The postmaster keeps the arguments that it was started with; its children replace
/// them by a title such as `postgres: eye-0123456789abcdef: checkpointer`.
fn kin(command_line: &[u8], cluster_dir: &Path, cluster_name: &str) -> Option<Kin> {
    let title = format!("postgres: {cluster_name}: ");
    if command_line.starts_with(title.as_bytes()) {
        return Some(Kin::Child);
    }
    let mut arguments = command_line.split(|byte| *byte == 0);
    let program = arguments.next()?;
    let data = cluster_dir.as_os_str().as_encoded_bytes();
    let starts = arguments.next() == Some(b"-D") && arguments.next() == Some(data);
    (starts && program.ends_with(b"/postgres")).then_some(Kin::Postmaster)
}

/// The server's process. Dropped while it runs, it is told to stop fast: an error on the gateway's way up or down must
/// not leave a server behind.
#[derive(Debug)]
struct Server {
    child: Child,
    output: Output,
    started: Instant,
    pg_ctl: PathBuf,
    user: Option<User>,
}

impl Server {
    /// Fast, then immediate, then by force; each with a bound.
    async fn stop(mut self, cluster: &Cluster) {
        for (signal, time_max) in [("INT", FAST_STOP_TIME_MAX), ("QUIT", IMMEDIATE_STOP_TIME_MAX)] {
            let Some(process) = self.child.id() else {
                return;
            };
            cluster.signal(signal, process).await;
            if timeout(time_max, self.child.wait()).await.is_ok() {
                return;
            }
            tracing::warn!(signal, seconds = time_max.as_secs(), "Postgres did not stop in time");
        }
        // An error means that it has just ended.
        let _ = self.child.start_kill();
        let _ = timeout(IMMEDIATE_STOP_TIME_MAX, self.child.wait()).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(process) = self.child.id() else {
            return;
        };
        let mut command = std::process::Command::new(&self.pg_ctl);
        command.args(["kill", "INT", &process.to_string()]).current_dir("/").env_clear();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        // Takes a few milliseconds. If it fails, the next start takes the server up.
        let _ = command.status();
    }
}

/// Keeps the server running until told to stop.
async fn supervise(cluster: Cluster, mut server: Server, mut stop: oneshot::Receiver<()>) {
    let mut delay = Duration::ZERO;
    loop {
        let status = tokio::select! {
            // Either told, or the handle was dropped.
            _ = &mut stop => return server.stop(&cluster).await,
            status = server.child.wait() => status,
        };
        if server.started.elapsed() > WELL_AFTER {
            delay = Duration::ZERO;
        }
        tracing::error!(
            ending = describe(status),
            restart_in_milliseconds = delay.as_millis(),
            output = server.output.tail(),
            "Postgres ended by itself and is started again"
        );
        // Most of the processes that share the dead server's memory notice and end by themselves.
        server.output.end().await;
        server = tokio::select! {
            _ = &mut stop => return,
            server = restart(&cluster, &mut delay) => server,
        };
        let ready = tokio::select! {
            _ = &mut stop => return server.stop(&cluster).await,
            ready = cluster.ready(&mut server) => ready,
        };
        // One that has ended is told of above; one that still tries is given more time.
        if let (Err(error), Some(_)) = (ready, server.child.id()) {
            tracing::error!(%error, "Postgres did not come back yet");
        }
    }
}

/// Starts the server's process again, after the delay, which grows with each call.
async fn restart(cluster: &Cluster, delay: &mut Duration) -> Server {
    loop {
        tokio::time::sleep(*delay).await;
        *delay = (*delay * 2).clamp(RESTART_DELAYS.0, RESTART_DELAYS.1);
        match cluster.spawn().await {
            Ok(server) => return server,
            Err(error) => tracing::error!(%error, "Postgres cannot be started again yet"),
        }
    }
}

/// What a program prints: its last lines, and two events. Read by a thread of its own until the last process that holds
/// the other end is gone, so that no program ever waits for the gateway to read.
#[derive(Debug)]
struct Output {
    tail: Arc<Mutex<VecDeque<String>>>,
    ready: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
}

impl Output {
    /// Starts to read from a new pipe, also into the log if there is one.
    fn collect(log: Option<Arc<Mutex<Log>>>) -> io::Result<(PipeWriter, Output)> {
        let (reader, writer) = io::pipe()?;
        let tail = Arc::new(Mutex::new(VecDeque::with_capacity(TAIL_LINES_MAX)));
        let (ready_tx, ready) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let output = Output { tail: tail.clone(), ready, ended };
        std::thread::Builder::new().name("postgres-output".to_owned()).spawn(move || {
            let mut ready_tx = Some(ready_tx);
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                if let Some(log) = &log {
                    log.lock().unwrap_or_else(PoisonError::into_inner).write(&line);
                }
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.contains(READY_LINE) {
                    // Nobody waits for it a second time.
                    let _ = ready_tx.take().map(|tx| tx.send(()));
                }
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.len() == TAIL_LINES_MAX {
                    tail.pop_front();
                }
                tail.push_back(text);
                line.clear();
            }
            let _ = ended_tx.send(());
        })?;
        Ok((writer, output))
    }

    /// The last lines so far, as one.
    fn tail(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter().map(String::as_str).collect::<Vec<_>>().join(" | ")
    }

    /// Waits, but not long, for the end of the last process that prints here.
    async fn end(&mut self) {
        // One that was told before must not be awaited again.
        if !self.ended.is_terminated() {
            let _ = timeout(FAMILY_TIME_MAX, &mut self.ended).await;
        }
    }

    /// The last lines once the program has ended.
    async fn rest(&mut self) -> String {
        self.end().await;
        self.tail()
    }
}

/// The server's log: a file and the one before it, each of a bounded size.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(path: PathBuf) -> Result<Log, Error> {
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let file = opened.map_err(io_error("open", &path))?;
        let bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        Ok(Log { path, file, bytes })
    }

    /// Appends. A full disk costs lines of the log, never the server that writes them.
    fn write(&mut self, line: &[u8]) {
        if self.bytes + line.len() as u64 > LOG_BYTES_MAX {
            let _ = fs::rename(&self.path, self.path.with_extension("log.1"));
            if let Ok(next) = Log::open(self.path.clone()) {
                *self = next;
            }
        }
        if self.file.write_all(line).is_ok() {
            self.bytes += line.len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_builder_prints_them() {
        let cases = [
            ("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18.1", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres (SomethingElse) 15.1", None),
            ("", None),
        ];
        for (output, major) in cases {
            assert_eq!(parse_version(output), major, "{output}");
        }
    }

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
    fn named_folder_comes_first_then_the_path_then_the_newest() {
        let root = tempfile::tempdir().expect("a temporary directory");
        for version in ["9", "15", "17", "not-a-version"] {
            fs::create_dir_all(root.path().join("usr/lib/postgresql").join(version)).expect("a folder");
        }
        fs::create_dir_all(root.path().join("usr/pgsql-16")).expect("a folder");
        let found = folders(Some(Path::new("/named")), Some(OsStr::new("/a:relative:/b")), root.path());
        let expected =
            ["usr/lib/postgresql/17/bin", "usr/pgsql-16/bin", "usr/lib/postgresql/15/bin", "usr/lib/postgresql/9/bin"];
        assert_eq!(found[..3], [Path::new("/named"), Path::new("/a"), Path::new("/b")]);
        assert_eq!(found[3..7], expected.map(|folder| root.path().join(folder)));
    }

    #[test]
    fn kin_are_known_by_their_command_lines() {
        let kin = |command_line: &str| kin(command_line.as_bytes(), Path::new("/d/postgres"), "eye-1");
        assert_eq!(kin("/usr/lib/postgresql/15/bin/postgres\0-D\0/d/postgres\0-c\0fsync=on\0"), Some(Kin::Postmaster));
        assert_eq!(kin("postgres: eye-1: checkpointer \0"), Some(Kin::Child));
        assert_eq!(kin("postgres: eye-12: checkpointer \0"), None);
        assert_eq!(kin("/usr/lib/postgresql/15/bin/postgres\0-D\0/d/postgres2\0"), None);
        assert_eq!(kin("vi\0-D\0/d/postgres\0"), None);
        assert_eq!(kin(""), None);
    }

    #[test]
    fn log_keeps_two_files_of_a_bounded_size() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("postgres.log");
        let mut log = Log::open(path.clone()).expect("a log");
        let line = vec![b'x'; 1024 * 1024];
        for _ in 0..20 {
            log.write(&line);
        }
        let bytes = |path: &Path| fs::metadata(path).expect("a file").len();
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 2);
        assert!(bytes(&path) <= LOG_BYTES_MAX && bytes(&path.with_extension("log.1")) <= LOG_BYTES_MAX);
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

    #[tokio::test]
    async fn failed_program_is_told_with_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in 1 2 3 4 5 6 7 8 9; do echo line $i >&2; done; exit 3"]);
        let error = run(command, TOOL_TIME_MAX).await.expect_err("it exits with 3").to_string();
        assert!(error.starts_with("sh failed (exit status: 3): line 2 | ") && error.ends_with("line 9"), "{error}");
    }
}
