//! A Postgres of a test's own, beside the embedded ones: the test can stop, start and query it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{folder, psql_at, template};

pub(crate) const BINARIES: &str = "/usr/lib/postgresql/15/bin";
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
    /// Its processes are stopped by SIGSTOP.
    frozen: AtomicBool,
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
        let mut server =
            Server { folder: folder(), port: 0, options: options.to_owned(), frozen: AtomicBool::new(false) };
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
            self.port = free_port();
            if self.try_up() {
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
        // Shared memory goes into the folder, so that nothing of a killed server is left.
        let options = format!(
            "-k {place} -p {} -c listen_addresses=127.0.0.1 -c dynamic_shared_memory_type=mmap {}",
            self.port, self.options
        );
        let log = self.path().join("log").display().to_string();
        run(self.path(), "pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "-o", &options, "start"])
    }

    /// Makes a standby that receives from this server through a port of this machine.
    pub(crate) fn standby(&self, port: u16) -> Server {
        Server::initialized(&[], "-c fsync=off", |data| {
            std::fs::remove_dir_all(data).expect("an empty place");
            let place = data.display().to_string();
            let way = format!("host=127.0.0.1 port={port} user=postgres");
            let arguments = ["-d", &way, "-R", "-c", "fast", "--no-sync", "-D", &place];
            assert!(run(self.path(), "pg_basebackup", &arguments), "pg_basebackup failed");
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Stops it like a crash.
    pub(crate) fn down(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }

    /// Stops it in order: sessions end, and the standby receives the whole log.
    pub(crate) fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "fast", "stop"]);
    }

    /// Kills all its processes at once, like a loss of power.
    pub(crate) fn kill(&self) {
        signal_family(Path::new(&self.data()), "KILL");
        self.frozen.store(false, Relaxed);
    }

    /// Stops all its processes with SIGSTOP: the server hangs.
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Relaxed);
        signal_family(Path::new(&self.data()), "STOP");
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
        prepare(&self.url(), |script| self.sql(script));
    }
}

/// Migrates the database of a URL and adds the application that gateways on this machine trust.
pub(crate) fn prepare(url: &str, sql: impl FnOnce(&str) -> String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.args(["migrate", "--database-url", url]);
    assert!(command.status().expect("the built program").success(), "migrated");
    sql("insert into applications (name, networks, known_by, scopes) \
         values ('machine', '{127.0.0.0/8}', 'network', '{ingest, read, admin}')");
}

/// A free port.
pub(crate) fn free_port() -> u16 {
    loop {
        let chance = RandomState::new().build_hasher().finish();
        let port = u16::try_from(PORTS.start + chance % (PORTS.end - PORTS.start)).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Signals all processes of a server. The postmaster comes first, so it starts no new ones.
pub(crate) fn signal_family(data: &Path, signal: &str) {
    let Ok(note) = std::fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(server) = note.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else { return };
    let send = |pid: u32| {
        // The process may have ended just now.
        let _ = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status();
    };
    let children = children_of(server);
    send(server);
    children.into_iter().chain(children_of(server)).for_each(send);
    if signal == "KILL" {
        remove_segment(&note);
    }
}

/// Removes the System V segment of a killed server. Its id stands in the note of the server's process id.
fn remove_segment(note: &str) {
    let ids = note.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = ids {
        // A server that restarts itself may have removed it.
        let _ = Command::new("ipcrm").args(["-m", id]).stderr(Stdio::null()).status();
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The process name before may contain spaces.
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        fields.split(' ').nth(1).and_then(|text| text.parse().ok()) == Some(parent)
    };
    pids.filter(is_child).collect()
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.frozen.load(Relaxed) {
            return self.kill();
        }
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
    let mut command = as_postgres(&PathBuf::from(BINARIES).join(program).display().to_string());
    command.args(arguments).current_dir(folder).stdout(Stdio::null());
    command.status().expect(program).success()
}

/// A command that runs as the user of Postgres.
pub(crate) fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Some((user, group)) = postgres_user() {
        command.uid(user).gid(group);
    }
    command
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
