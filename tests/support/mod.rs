//! A gateway for each test, with a Postgres, data and modules of its own, and the verbs to use it.

pub(crate) mod authority;
pub(crate) mod bombs;
pub(crate) mod cluster;
pub(crate) mod figures;
pub(crate) mod http2;
pub(crate) mod load;
pub(crate) mod monitoring;
pub(crate) mod openapi;
pub(crate) mod patroni;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod relay;
mod template;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A session that every test may use, since each has its own database.
pub(crate) const SESSION: &str = "e2085be5-9137-4e4e-80b5-f1ffddc25423";

/// An event of `category/name` that follows the rules of the envelope.
pub(crate) fn event(category: &str, name: &str, data: Value) -> Value {
    json!({"session_id": SESSION, "category": category, "name": name, "timestamp": "2021-01-01 09:15:27.243860", "data": data})
}

/// A pageview that its validator accepts.
pub(crate) fn pageview() -> Value {
    event("page interaction", "pageview", json!({"host": "www.consumeraffairs.com", "path": "/"}))
}

/// An answer of the gateway.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// `(pointer, code)` of each violation.
    pub(crate) fn violations(&self) -> Vec<(String, String)> {
        let body = self.json();
        let list = body["violations"].as_array().unwrap_or_else(|| panic!("no violations: {self:?}"));
        list.iter().map(|one| (text(&one["pointer"]), text(&one["code"]))).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// A client that reuses no connection that a gateway may be about to close: it closes idle ones after 75 s.
fn client() -> reqwest::Client {
    reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(30)).build().expect("a client")
}

/// Waits until `probe` returns a value. Fails with `what` if it never does.
pub(crate) async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut probe: F) -> T {
    let start = Instant::now();
    let mut pause = tokio::time::interval(Duration::from_millis(5));
    while start.elapsed() < PATIENCE {
        if let Some(found) = probe().await {
            return found;
        }
        pause.tick().await;
    }
    panic!("never happened: {what}")
}

/// Where test folders are made, the best place first: in memory a commit waits for no disk, and slow disks take a
/// second for it. The user of Postgres must have access, and some machines close `/tmp`.
const PLACES: [&str; 2] = ["/dev/shm", "/var/tmp"];

/// The free space that is needed there, for the clusters of tests that run at the same time.
const FREE_BYTES_MIN: u64 = 2 << 30;

/// A folder for one test that the unprivileged user of Postgres may enter.
pub(crate) fn folder() -> TempDir {
    let has_room = |place: &&str| {
        rustix::fs::statvfs(*place).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= FREE_BYTES_MIN)
    };
    let place = PLACES.iter().find(|place| has_room(place)).unwrap_or(&PLACES[1]);
    let folder = tempfile::tempdir_in(place).expect("a temporary folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    folder
}

/// The folder with the built modules, of validators and of test guests.
fn built(name: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_eye")).ancestors().nth(2).expect("target/<profile>/eye");
    let modules = target.join("wasm32-unknown-unknown/guest");
    let file = format!("{}.wasm", name.replace('-', "_"));
    let found = [modules.join(&file), modules.join("examples").join(&file)].into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{file} is not built; `make modules` builds it"))
}

/// The bytes of a built module.
pub(crate) fn module(name: &str) -> Vec<u8> {
    std::fs::read(built(name)).expect("a built module")
}

/// The digest of a module, as answers write it.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    eye_event::verdict::Digest::of(bytes).to_string()
}

/// The settings of a gateway to start.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) modules: Vec<(String, Vec<u8>)>,
    pub(crate) arguments: Vec<String>,
    /// The gateway makes its own cluster, as at its first start.
    pub(crate) makes_cluster: bool,
    /// The limit of open files: the soft one and the hard one.
    pub(crate) open_files: Option<(u64, u64)>,
    /// Sockets that are passed on to it, as a service manager does, with their names.
    pub(crate) sockets: Vec<(String, TcpListener)>,
    /// The program of another release.
    pub(crate) program: Option<PathBuf>,
}

impl Setup {
    /// Adds a setting.
    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an argument of `eye serve`.
    pub(crate) fn with_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Leaves the cluster to the gateway, as at its first start.
    pub(crate) fn without_cluster(self) -> Self {
        Self { makes_cluster: true, ..self }
    }

    /// Sets the limits of open files: the soft one and the hard one.
    pub(crate) fn with_open_files(self, soft: u64, hard: u64) -> Self {
        Self { open_files: Some((soft, hard)), ..self }
    }

    /// Passes a socket of the test to the program. The test keeps it open, also while no gateway runs.
    pub(crate) fn with_socket(mut self, name: &str, socket: &TcpListener) -> Self {
        // The program inherits this high number, and a shell moves it to 3 or one of the next numbers.
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, 100).expect("a descriptor");
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).expect("an open descriptor");
        self.sockets.push((name.to_owned(), socket.into()));
        self
    }

    /// Runs the program of another release.
    pub(crate) fn with_program(self, program: &Path) -> Self {
        Self { program: Some(program.to_owned()), ..self }
    }

    /// Puts a module at `path` in the modules directory before the start.
    pub(crate) fn with_module(mut self, path: &str, name: &str) -> Self {
        self.modules.push((path.to_owned(), module(name)));
        self
    }

    /// Starts the gateway, and waits until it is ready.
    pub(crate) async fn start(self) -> Gateway {
        self.start_in(folder()).await
    }

    /// Starts the gateway in this folder, and waits until it is ready.
    pub(crate) async fn start_in(self, folder: TempDir) -> Gateway {
        let mut gateway = self.at_rest(folder);
        gateway.restart().await;
        gateway
    }

    /// Starts the gateway, and waits only until it listens.
    pub(crate) async fn listen(self) -> Gateway {
        let mut gateway = self.at_rest(folder());
        gateway.launch().await;
        gateway
    }

    /// Starts the gateway without waiting.
    pub(crate) fn begin(self) -> Gateway {
        let mut gateway = self.at_rest(folder());
        gateway.begin();
        gateway
    }

    /// Prepares everything, without a process.
    pub(crate) fn at_rest(self, folder: TempDir) -> Gateway {
        for (path, bytes) in &self.modules {
            write(&folder.path().join("modules").join(path), bytes);
        }
        let has_database = self.environment.iter().any(|(name, _)| name.starts_with("EYE_DATABASE_URL"))
            || self.arguments.iter().any(|argument| argument.starts_with("--database-url"));
        let data = folder.path().join("data");
        if !has_database && !self.makes_cluster && !data.join("postgres").exists() {
            private(&data);
            template::copy("embedded", &data.join("postgres"), embedded);
        }
        Gateway {
            process: None,
            address: String::new(),
            log: Arc::default(),
            client: client(),
            environment: self.environment,
            arguments: self.arguments,
            open_files: self.open_files,
            sockets: self.sockets,
            program: self.program,
            folder,
        }
    }
}

/// Makes a data dir like the gateway's: the user of Postgres may pass through it, and no user may list it.
fn private(folder: &Path) {
    std::fs::create_dir_all(folder).expect("the data directory");
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).expect("its mode");
}

/// Lets a gateway make its own cluster with the schema, and stops it.
fn embedded() -> (TempDir, PathBuf) {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
    command.current_dir(folder.path()).args(["serve", "--listen", "127.0.0.1:0", "--data-dir", "data"]);
    let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().expect("the built program");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    // Reads the rest of its output too, so that the gateway never waits for this test.
    for line in lines.map_while(Result::ok) {
        if line.contains("the gateway listens") {
            kill(child.id(), "TERM");
        }
    }
    assert!(child.wait().expect("a child").success(), "the template's gateway ended in order");
    let cluster = folder.path().join("data/postgres");
    (folder, cluster)
}

/// Writes a file as a careful author does: beside it first, then by rename.
fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("the folder");
    let beside = path.with_extension("partial");
    std::fs::write(&beside, bytes).expect("the file beside");
    std::fs::rename(&beside, path).expect("the rename");
}

/// A running gateway.
pub(crate) struct Gateway {
    process: Option<Child>,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
    client: reqwest::Client,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    open_files: Option<(u64, u64)>,
    sockets: Vec<(String, TcpListener)>,
    program: Option<PathBuf>,
    folder: TempDir,
}

impl Gateway {
    /// Starts a gateway with the defaults and without modules.
    pub(crate) async fn start() -> Gateway {
        Setup::default().start().await
    }

    /// Starts the program on the existing data.
    pub(crate) async fn restart(&mut self) {
        self.begin();
        self.is_ready().await;
    }

    /// Starts the program, and waits only until it listens.
    pub(crate) async fn launch(&mut self) {
        self.begin();
        self.listens().await;
    }

    /// Waits until it listens.
    pub(crate) async fn listens(&mut self) {
        self.address = eventually("the gateway listens", async || self.announced("the gateway listens")).await;
    }

    /// Waits until it is ready.
    pub(crate) async fn is_ready(&mut self) {
        self.listens().await;
        eventually("the gateway is ready", async || (self.get("/readyz").await.status == 200).then_some(())).await;
    }

    /// Starts the program without waiting.
    pub(crate) fn begin(&mut self) {
        let mut child = self.command().spawn().expect("the built program");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::clone(&self.log);
        log.lock().expect("the log").clear();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lock().expect("the log").push(line);
            }
        });
        self.process = Some(child);
    }

    /// Changes a setting for the next start.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.environment.push((name.to_owned(), value.to_string()));
    }

    /// The address on which it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The process id of its own Postgres.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        let note = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        note.lines().next()?.trim().parse().ok()
    }

    fn command(&self) -> Command {
        let program = self.program.as_deref().unwrap_or(Path::new(env!("CARGO_BIN_EXE_eye")));
        let mut command = match self.open_files {
            None => Command::new(program),
            Some((soft, hard)) => {
                let mut command = Command::new("sh");
                let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
                command.args(["-c", &limits]).arg(program);
                command
            }
        };
        if !self.sockets.is_empty() {
            command = self.passing(program);
        }
        // From the folder and with relative paths, as people start it.
        command.current_dir(self.folder.path());
        let has_listen = self.arguments.iter().any(|argument| argument.starts_with("--listen"));
        command.arg("serve").args(["--listen=127.0.0.1:0"].iter().filter(|_| !has_listen));
        command.args(["--modules", "modules", "--data-dir", "data"]);
        command.args(&self.arguments);
        // No balancer looks at it, unless the test is about that. A program of before may not know the setting.
        if self.program.is_none() {
            command.env("EYE_DRAIN_DELAY_MS", "0");
        }
        command.envs(self.environment.iter().cloned()).stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    /// The program with its sockets, as a service manager passes them: from descriptor 3 on, with the id of the process.
    fn passing(&self, program: &Path) -> Command {
        let numbers = self.sockets.iter().enumerate();
        let moves: String =
            numbers.map(|(index, (_, socket))| format!(" {}<&{}-", 3 + index, socket.as_raw_fd())).collect();
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        let mut command = Command::new("bash");
        command.args(["-c", &format!("LISTEN_PID=$$ exec \"$0\" \"$@\"{moves}")]).arg(program);
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command
    }

    /// The address in a log line with these words.
    pub(crate) fn announced(&self, words: &str) -> Option<String> {
        let log = self.log.lock().expect("the log");
        let line = log.iter().find(|line| line.contains(words))?;
        let address = line.split("127.0.0.1:").nth(1)?;
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("127.0.0.1:{port}"))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The log since the start.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the log").join("\n")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Runs another command of the program on this gateway's folders, and returns its output.
    pub(crate) fn command_line(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(arguments).arg("--modules").arg(self.folder.path().join("modules"));
        let output = command.arg("--data-dir").arg(self.data_dir()).output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A command of the program in the gateway's folder, without arguments that name the gateway or its data.
    pub(crate) fn command_beside(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command on a named database, as beside a running gateway.
    pub(crate) fn command_line_on(&self, database_url: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_eye"));
        command.args(arguments).arg("--modules").arg(self.folder.path().join("modules"));
        command.env("EYE_DATABASE_URL", database_url).arg("--data-dir").arg(self.folder.path().join("command"));
        let output = command.output().expect("the built program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends a signal to the program.
    pub(crate) fn signal(&self, signal: &str) {
        kill(self.pid(), signal);
    }

    /// Waits until the program has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("running");
        eventually("the gateway ends", async || child.try_wait().expect("a child")).await
    }

    /// Puts a module in place.
    pub(crate) fn drop_module(&self, path: &str, bytes: &[u8]) {
        write(&self.folder.path().join("modules").join(path), bytes);
    }

    pub(crate) fn remove_module(&self, path: &str) {
        std::fs::remove_file(self.folder.path().join("modules").join(path)).expect("a module to remove");
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.request_at(&self.address, method, path)
    }

    /// A request to another of its addresses.
    pub(crate) fn request_at(&self, address: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        self.client.request(method, format!("http://{address}{path}"))
    }

    pub(crate) async fn answer(&self, request: reqwest::RequestBuilder) -> Answer {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, url) = (request.method().clone(), request.url().clone());
        let sent = client.execute(request).await;
        let response = sent.unwrap_or_else(|error| panic!("no answer: {error:?}\n{}", self.log()));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let content_type = headers.get("content-type").map(|value| value.to_str().expect("text"));
        openapi::check(method.as_str(), url.path(), status, content_type, &text);
        Answer { status, headers, text }
    }

    /// The token of the administrator that the gateway has made, if it runs a Postgres of its own.
    pub(crate) fn admin_token(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.data_dir().join("admin.token")).ok()?;
        Some(text.trim().to_owned())
    }

    /// The request with that token.
    pub(crate) fn as_admin(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.admin_token() {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// A request to a path, with the token of the administrator if callers from this machine may not make it.
    fn asking(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.request(method, path);
        let is_more = ["/v1/applications", "/v1/dead-letters/", "/v1/audit", "/v1/jobs"]
            .iter()
            .any(|start| path.starts_with(start));
        if is_more { self.as_admin(request) } else { request }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.answer(self.asking("GET", path)).await
    }

    /// Waits until it is not ready, since the last answer of the database holds for a moment.
    pub(crate) async fn unready(&self) {
        eventually("the gateway is not ready", async || (self.get("/readyz").await.status == 503).then_some(())).await;
    }

    /// The metrics now.
    pub(crate) async fn figures(&self) -> figures::Figures {
        let request = self.request("GET", "/metrics").header("accept", figures::FORMAT);
        let answer = self.answer(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        figures::Figures::read(&answer.text)
    }

    /// Sends a body as it is.
    pub(crate) async fn post(&self, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> Answer {
        let header = HeaderName::from_static("content-type");
        self.answer(self.asking("POST", path).header(header, content_type).body(body)).await
    }

    /// Sends one event, or an array of them.
    pub(crate) async fn send(&self, event: &Value) -> Answer {
        self.post("/v1/events", "application/json", event.to_string()).await
    }

    /// Reads the events of a session.
    pub(crate) async fn session(&self, session_id: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/sessions/{session_id}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["events"].as_array().expect("events").clone()
    }

    /// Waits until the module of an event type is in `state`, and returns its report.
    pub(crate) async fn validator(&self, event_type: &str, state: &str) -> Value {
        eventually(&format!("{event_type} is {state}"), async || {
            let report = self.get("/v1/validators").await.json();
            let list = report["validators"].as_array().expect("a list").clone();
            list.into_iter().find(|one| one["event_type"] == event_type && one["state"] == state)
        })
        .await
    }

    /// Runs a statement in the gateway's own Postgres with `psql`, and returns the text of its rows.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.sql_script(statement).trim().to_owned()
    }

    /// Runs any number of statements in the same way, with their rows as they are.
    pub(crate) fn sql_script(&self, script: &str) -> String {
        psql(&self.data_dir().join("run"), "eye", script)
    }
}

/// Runs statements with `psql`, as the user and on the database `name`, and returns the text of their rows.
pub(crate) fn psql(socket: &Path, name: &str, script: &str) -> String {
    psql_at(socket, 5_432, name, script)
}

/// The same on a socket with another port.
pub(crate) fn psql_at(socket: &Path, port: u16, name: &str, script: &str) -> String {
    let mut command = Command::new("psql");
    command.args([
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-U",
        name,
        "-d",
        name,
        "-p",
        &port.to_string(),
        "-h",
    ]);
    command.arg(socket).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("psql");
    let mut input = child.stdin.take().expect("piped");
    let script = script.to_owned();
    let writer = std::thread::spawn(move || input.write_all(script.as_bytes()));
    let output = child.wait_with_output().expect("psql's output");
    writer.join().expect("the writer").expect("psql reads its script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sends a signal to a process that a test has started.
pub(crate) fn kill(pid: u32, signal: &str) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status().expect("kill");
    assert!(status.success(), "kill -{signal} {pid}");
}

impl Drop for Gateway {
    /// Stops the program in order, so that its Postgres ends too.
    fn drop(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        if matches!(child.try_wait(), Ok(None)) {
            kill(child.id(), "TERM");
        }
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
    }
}

/// A gateway that is stopped by SIGSTOP. It goes on at the latest when the test ends, which waits for its end.
pub(crate) struct Frozen<'g>(&'g Gateway);

impl<'g> Frozen<'g> {
    pub(crate) fn new(gateway: &'g Gateway) -> Self {
        gateway.signal("STOP");
        Self(gateway)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal("CONT");
    }
}
