//! A Postgres of a test's own, beside the embedded ones: the test can stop, start and query it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{folder, psql_at, template};

const BINARIES: &str = "/usr/lib/postgresql/15/bin";
/// Ports below those that the system assigns, so that a server that was down finds its own still free.
const PORTS: std::ops::Range<u64> = 20_000..32_000;
/// Attempts to find a port that no other test takes at the same moment.
const PORT_TRIES: usize = 20;

/// A Postgres of the test's own, reached over TCP like most databases. It ends with the test. Its socket file is for
/// queries of the test.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    options: String,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with("-c fsync=off")
    }

    /// Starts it with further options of the server.
    pub(crate) fn start_with(options: &str) -> Server {
        Server::initialized(&["-E", "UTF8"], options, |_| {})
    }

    /// Makes a cluster with further arguments, and changes it before its first start.
    pub(crate) fn initialized(arguments: &[&str], options: &str, change: impl FnOnce(&Path)) -> Server {
        let mut server = Server { folder: folder(), port: 0, options: options.to_owned() };
        give_to_postgres(server.path());
        let data = server.data();
        let name = ["server", arguments.join("").trim_start_matches('-')].join("-");
        template::copy(&name, Path::new(&data), || {
            let made = folder();
            give_to_postgres(made.path());
            let place = made.path().join("data");
            let all = ["-D", &place.display().to_string(), "-U", "postgres", "-A", "trust", "--no-sync"];
            assert!(run(made.path(), "initdb", &[&all[..], arguments].concat()), "initdb failed");
            (made, place)
        });
        change(Path::new(&data));
        server.find_port();
        server
    }

    /// Starts on a port that is free, and still free when the server opens it.
    pub(crate) fn find_port(&mut self) {
        for _ in 0..PORT_TRIES {
            let chance = RandomState::new().build_hasher().finish();
            let port = PORTS.start + chance % (PORTS.end - PORTS.start);
            self.port = u16::try_from(port).expect("a port");
            if TcpListener::bind(("127.0.0.1", self.port)).is_ok() && self.try_up() {
                return;
            }
        }
        panic!("no server could be started: {}", std::fs::read_to_string(self.path().join("log")).unwrap_or_default());
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }

    /// The socket file on which it listens too.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join(format!(".s.PGSQL.{}", self.port))
    }

    pub(crate) fn up(&self) {
        assert!(self.try_up(), "pg_ctl failed");
    }

    fn try_up(&self) -> bool {
        let place = self.path().display();
        let options = format!("-k {place} -p {} -c listen_addresses=127.0.0.1 {}", self.port, self.options);
        let log = self.path().join("log").display().to_string();
        run(self.path(), "pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "-o", &options, "start"])
    }

    /// Stops it like a crash.
    pub(crate) fn down(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        assert!(run(self.path(), program, arguments), "{program} failed");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The URL over its socket file.
    pub(crate) fn socket_url(&self) -> String {
        format!("postgres://postgres@localhost:{}/postgres?host={}", self.port, self.path().display())
    }

    /// Runs statements, and returns their rows.
    pub(crate) fn sql(&self, script: &str) -> String {
        psql_at(self.path(), self.port, "postgres", script).trim().to_owned()
    }

    /// The same as a function, for another task or thread.
    pub(crate) fn asker(&self) -> impl Fn(&str) -> String + Send + 'static {
        let (path, port) = (self.path().to_owned(), self.port);
        move |script| psql_at(&path, port, "postgres", script).trim().to_owned()
    }

    /// Migrates the schema and registers the application `local`.
    pub(crate) fn prepare(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(["migrate", "--database-url", &self.url()]);
        assert!(command.status().expect("the built program").success(), "migrated");
        self.sql(
            "insert into applications (name, networks, known_by, scopes) \
             values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}')",
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let arguments = ["-D", &self.data(), "-w", "-m", "immediate", "stop"];
        let mut command = Command::new(PathBuf::from(BINARIES).join("pg_ctl"));
        command.args(arguments).current_dir(self.path()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((user, group)) = postgres_user() {
            command.uid(user).gid(group);
        }
        // It may be down already.
        let _ = command.status();
    }
}

/// Runs a program of the server as its user. Returns whether it succeeded.
fn run(folder: &Path, program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(PathBuf::from(BINARIES).join(program));
    command.args(arguments).current_dir(folder).stdout(Stdio::null());
    if let Some((user, group)) = postgres_user() {
        command.uid(user).gid(group);
    }
    command.status().expect(program).success()
}

/// Gives a folder to the user of the server.
pub(crate) fn give_to_postgres(path: &Path) {
    if let Some((user, group)) = postgres_user() {
        chown(path, Some(user), Some(group)).expect("chown");
    }
}

/// Postgres refuses to run as root.
fn postgres_user() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("users");
    let line = users.lines().find(|line| line.starts_with("postgres:")).expect("a user postgres");
    let mut fields = line.split(':').skip(2).map(|field| field.parse().expect("number"));
    Some((fields.next().expect("user"), fields.next().expect("group")))
}
