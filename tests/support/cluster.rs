//! A Postgres of a test's own, beside those that gateways embed: it can be stopped, started and asked at will.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::psql;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// A Postgres of the test's own, on a Unix socket, gone with the test.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    options: &'static str,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::start_with("-c fsync=off")
    }

    /// With more options for the server.
    pub(crate) fn start_with(options: &'static str) -> Server {
        let server = Server { folder: folder(), options };
        give_to_postgres(server.path());
        let data = server.data();
        server.run("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
        server.up();
        server
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }

    /// The socket that it listens on.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path().join(".s.PGSQL.5432")
    }

    pub(crate) fn up(&self) {
        let options = format!("-k {} -c listen_addresses='' {}", self.path().display(), self.options);
        let log = self.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "-o", &options, "start"]);
    }

    /// As a crash does it.
    pub(crate) fn down(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(PathBuf::from(BINARIES).join(program));
        command.args(arguments).current_dir(self.path()).stdout(Stdio::null());
        if let Some((user, group)) = postgres_user() {
            command.uid(user).gid(group);
        }
        assert!(command.status().expect(program).success(), "{program} failed");
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.path().display())
    }

    /// Runs any number of statements, and gives their rows.
    pub(crate) fn sql(&self, script: &str) -> String {
        psql(self.path(), "postgres", script).trim().to_owned()
    }

    /// Brings the schema up and makes the application that gateways on this machine trust.
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
        // It may be down already, which is what is wanted.
        let _ = command.status();
    }
}

/// A new folder at a place that the user of the server can get to.
fn folder() -> tempfile::TempDir {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/dev/shm")];
    let open = |place: &&PathBuf| {
        let mode = std::fs::metadata(place).map_or(0, |found| found.permissions().mode());
        postgres_user().is_none() || mode & 0o001 != 0
    };
    tempfile::tempdir_in(places.iter().find(open).expect("a place for a server")).expect("folder")
}

/// Lets the user of the server own a folder.
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
