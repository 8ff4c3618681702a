//! A service manager that starts, watches and restarts a gateway, and a load balancer before several gateways.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::support::cluster::Server;
use crate::support::load::numbered;
use crate::support::{Gateway, PATIENCE, Setup, eventually, folder, kill};

/// Counts requests by their result.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    stored: AtomicU64,
    /// The connection was refused.
    refused: AtomicU64,
    /// The connection ended before the answer.
    unanswered: AtomicU64,
    /// The answer had another status than 201.
    others: AtomicU64,
}

impl Counts {
    fn figures(&self) -> [u64; 5] {
        [&self.sent, &self.stored, &self.refused, &self.unanswered, &self.others].map(|count| count.load(Relaxed))
    }
}

/// Senders of single events, until `stop`. Half of them open a connection for each event, the others keep theirs open.
struct Senders {
    fresh: Arc<Counts>,
    kept: Arc<Counts>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Senders {
    fn start(address: &str) -> Senders {
        let mut senders =
            Senders { fresh: Arc::default(), kept: Arc::default(), stop: Arc::default(), tasks: JoinSet::new() };
        let next = Arc::new(AtomicU64::new(0));
        for sender in 0..8 {
            let keeps = sender % 2 == 0;
            let counts = Arc::clone(if keeps { &senders.kept } else { &senders.fresh });
            let (address, next, stop) = (address.to_owned(), Arc::clone(&next), Arc::clone(&senders.stop));
            senders.tasks.spawn(async move {
                let mut connection = None;
                while !stop.load(Relaxed) {
                    counts.sent.fetch_add(1, Relaxed);
                    let event = numbered(next.fetch_add(1, Relaxed)).to_string();
                    let sent = timeout(PATIENCE, send(&address, connection.take(), &event, keeps)).await;
                    match sent.expect("an answer or an end") {
                        Ok((201, left)) => {
                            counts.stored.fetch_add(1, Relaxed);
                            connection = left;
                        }
                        Ok((status, _)) => {
                            println!("an answer with the status {status}");
                            counts.others.fetch_add(1, Relaxed);
                        }
                        Err(ErrorKind::ConnectionRefused) => {
                            counts.refused.fetch_add(1, Relaxed);
                        }
                        Err(_) => {
                            counts.unanswered.fetch_add(1, Relaxed);
                        }
                    }
                    sleep(Duration::from_millis(2)).await;
                }
            });
        }
        senders
    }

    /// Waits until both kinds have stored so many more events.
    async fn store(&self, more: u64) {
        let before = [&self.fresh, &self.kept].map(|counts| counts.figures()[1]);
        eventually("events are stored", async || {
            let now = [&self.fresh, &self.kept].map(|counts| counts.figures()[1]);
            (now[0] >= before[0] + more && now[1] >= before[1] + more).then_some(())
        })
        .await;
    }

    /// Stops the senders. Returns sent, stored, refused, unanswered and other answers: first with a connection for each
    /// event, then with kept connections.
    async fn stop(mut self, what: &str) -> [[u64; 5]; 2] {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a sender does not fail");
        }
        let figures = [self.fresh.figures(), self.kept.figures()];
        for (kind, [sent, stored, refused, unanswered, others]) in
            ["a connection each", "kept connections"].iter().zip(figures)
        {
            println!(
                "{what}, {kind}: sent {sent}, stored {stored}, refused {refused}, unanswered {unanswered}, other answers {others}"
            );
        }
        figures
    }
}

/// Sends an event. Returns the status, and the connection if it stays open.
async fn send(
    address: &str,
    connection: Option<TcpStream>,
    event: &str,
    keeps: bool,
) -> Result<(u16, Option<TcpStream>), ErrorKind> {
    let kind = |error: std::io::Error| error.kind();
    let mut stream = match connection {
        Some(connection) => connection,
        None => TcpStream::connect(address).await.map_err(kind)?,
    };
    let close = if keeps { "" } else { "connection: close\r\n" };
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{close}content-length: {}\r\n\r\n",
        event.len()
    );
    stream.write_all(format!("{head}{event}").as_bytes()).await.map_err(kind)?;
    let mut bytes = Vec::new();
    let (head_bytes, text) = loop {
        if stream.read_buf(&mut bytes).await.map_err(kind)? == 0 {
            return Err(ErrorKind::UnexpectedEof);
        }
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            break (end + 4, text);
        }
    };
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let length =
        text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok()).unwrap_or(0);
    while bytes.len() < head_bytes + length {
        if stream.read_buf(&mut bytes).await.map_err(kind)? == 0 {
            return Err(ErrorKind::UnexpectedEof);
        }
    }
    let again = keeps && !text[..head_bytes].contains("connection: close");
    Ok((status, again.then_some(stream)))
}

/// Restarts a gateway like a service manager: it starts the next process when the last one has ended.
async fn restart(gateway: &mut Gateway, senders: &Senders) {
    let start = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0), "{}", gateway.log());
    let ended = start.elapsed();
    gateway.restart().await;
    println!("ended after {} ms, ready after {} ms more", ended.as_millis(), (start.elapsed() - ended).as_millis());
    senders.store(50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_with_a_passed_socket_refuses_no_connection() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("its address").to_string();
    for delay_ms in ["0", "300"] {
        let setup = Setup::default().with("EYE_DRAIN_DELAY_MS", delay_ms).with_socket("eye.socket", &socket);
        let mut gateway = setup.start().await;
        assert_eq!(gateway.address(), address, "it listens on the socket");
        let senders = Senders::start(&address);
        senders.store(50).await;
        for _ in 0..3 {
            restart(&mut gateway, &senders).await;
        }
        let [fresh, kept] = senders.stop(&format!("three restarts, drain_delay_ms = {delay_ms}")).await;
        assert_eq!((fresh[2], kept[2]), (0, 0), "refused");
        assert_eq!((fresh[3], fresh[4], kept[4]), (0, 0, 0), "each event is stored");
        if delay_ms != "0" {
            assert_eq!(kept[3], 0, "kept connections are closed by an answer");
        }
        let rows: u64 = gateway.sql("select count(*) from events").parse().expect("a number");
        assert!(rows >= fresh[1] + kept[1] && rows <= fresh[0] + kept[0], "{rows}");
        assert_eq!(gateway.sql("select count(distinct id) from events"), rows.to_string());
        gateway.signal("TERM");
        assert_eq!(gateway.ended().await.code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_a_passed_socket_refuses_connections() {
    let address = free_address();
    let mut gateway = Setup::default().with_argument(&format!("--listen={address}")).start().await;
    let senders = Senders::start(&address);
    senders.store(50).await;
    restart(&mut gateway, &senders).await;
    let [fresh, _] = senders.stop("a restart without a passed socket").await;
    assert!(fresh[2] > 0, "the senders count refused connections");
}

/// An address that is not in use.
fn free_address() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("its address").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_can_be_a_passed_socket() {
    let sockets = ["metrics_listen", "admin_listen", "listen"]
        .map(|name| (name, TcpListener::bind("127.0.0.1:0").expect("a free port")));
    let address = |of: &str| {
        let (_, socket) = sockets.iter().find(|(name, _)| *name == of).expect("one of them");
        socket.local_addr().expect("its address").to_string()
    };
    let setup = sockets.iter().fold(Setup::default(), |setup, (name, socket)| setup.with_socket(name, socket));
    let mut gateway = setup.start().await;
    assert_eq!(gateway.address(), address("listen"));
    let status = async |of: &str, path: &str| {
        let url = format!("http://{}{path}", address(of));
        reqwest::get(url).await.expect("an answer").status().as_u16()
    };
    assert_eq!((status("listen", "/v1/events").await, status("admin_listen", "/v1/events").await), (404, 200));
    assert_eq!((status("metrics_listen", "/metrics").await, status("metrics_listen", "/v1/events").await), (200, 404));
    // Postgres has not inherited them.
    let postmaster = gateway.postmaster().expect("its process");
    let open = Command::new("ls").arg("-l").arg(format!("/proc/{postmaster}/fd")).output().expect("ls");
    let inodes = Command::new("ls").arg("-l").arg(format!("/proc/{}/fd", gateway.pid())).output().expect("ls");
    let sockets_of = |output: &[u8]| -> Vec<String> {
        let text = String::from_utf8_lossy(output).into_owned();
        text.lines().filter_map(|line| line.split("socket:[").nth(1).map(str::to_owned)).collect()
    };
    let (own, of_postgres) = (sockets_of(&inodes.stdout), sockets_of(&open.stdout));
    assert!(own.len() >= 3 && of_postgres.iter().all(|one| !own.contains(one)), "{own:?} {of_postgres:?}");
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    assert!(std::net::TcpStream::connect(address("listen")).is_ok(), "the socket is as open as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_socket_without_a_known_setting_ends_the_start() {
    let [one, other] = ["", ""].map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let setup = Setup::default().with_socket("http", &one).with_socket("https", &other);
    let mut gateway = setup.begin();
    assert_eq!(gateway.ended().await.code(), Some(64), "{}", gateway.log());
    assert!(gateway.log().contains("FileDescriptorName="), "{}", gateway.log());
}

/// The socket of a service manager, with the messages that were not asked for yet.
struct Messages {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl Messages {
    /// Waits for a message with these words, and returns it.
    async fn with(&mut self, words: &str) -> String {
        let Self { socket, received } = self;
        eventually(words, async || {
            let mut bytes = [0; 4_096];
            while let Ok(length) = socket.recv(&mut bytes) {
                received.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            received
                .iter()
                .position(|message| message.contains(words))
                .map(|place| received.drain(..=place).next_back().expect("it is there"))
        })
        .await
    }
}

/// A gateway with the test as its service manager.
fn managed(setup: Setup) -> (Gateway, Messages) {
    let folder = folder();
    let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
    socket.set_nonblocking(true).expect("an open socket");
    let setup = setup.with("NOTIFY_SOCKET", folder.path().join("notify").display());
    (setup.at_rest(folder), Messages { socket, received: Vec::new() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_gets_ready_reloading_stopping_and_signs_of_life() {
    let (mut gateway, mut messages) = managed(Setup::default().with("WATCHDOG_USEC", 300_000));
    gateway.begin();
    assert!(messages.with("EXTEND_TIMEOUT_USEC=").await.contains("STATUS=Starting"));
    messages.with("READY=1").await;
    assert_eq!(gateway_answers(&mut gateway).await, 200);
    messages.with("STATUS=Ready").await;
    for _ in 0..3 {
        assert_eq!(messages.with("WATCHDOG=1").await, "WATCHDOG=1");
    }
    gateway.signal("HUP");
    let reloading = messages.with("RELOADING=1").await;
    let at: u64 = reloading.split("MONOTONIC_USEC=").nth(1).and_then(|at| at.parse().ok()).expect("a time");
    let uptime = std::fs::read_to_string("/proc/uptime").expect("the time since the machine began");
    let now: f64 = uptime.split(' ').next().and_then(|now| now.parse().ok()).expect("seconds");
    assert!((at as f64 / 1e6 - now).abs() < 10.0, "{reloading} {uptime}");
    messages.with("READY=1").await;
    gateway.signal("STOP");
    sleep(Duration::from_millis(400)).await;
    while messages.socket.recv(&mut [0; 64]).is_ok() {}
    sleep(Duration::from_millis(400)).await;
    assert!(messages.socket.recv(&mut [0; 64]).is_err(), "a process that is stopped shows no life");
    gateway.signal("CONT");
    messages.with("WATCHDOG=1").await;
    gateway.signal("TERM");
    let stopping = messages.with("STOPPING=1").await;
    assert!(stopping.contains("STATUS=Draining") && stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// The status of `/healthz` after `READY=1`.
async fn gateway_answers(gateway: &mut Gateway) -> u16 {
    gateway.listens().await;
    gateway.get("/healthz").await.status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_gets_the_reason_why_a_gateway_is_not_ready() {
    let server = Server::start();
    server.prepare();
    server.sql("alter system set default_transaction_read_only = on; select pg_reload_conf()");
    let (mut gateway, mut messages) = managed(Setup::default().with("EYE_DATABASE_URL", server.url()));
    gateway.begin();
    messages.with("READY=1").await;
    let status = messages.with("STATUS=Not ready: database").await;
    assert!(status.contains("it is read-only"), "{status}");
    server.sql("set default_transaction_read_only = off; alter system set default_transaction_read_only = off");
    server.sql("select pg_reload_conf()");
    messages.with("STATUS=Ready").await;
    gateway.signal("TERM");
    messages.with("STOPPING=1").await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// A load balancer that checks `/readyz` of its gateways.
struct Balancer {
    process: Child,
    address: String,
    figures: String,
    _folder: tempfile::TempDir,
}

impl Balancer {
    async fn start(gateways: &[&str]) -> Balancer {
        let (folder, address, figures) = (folder(), free_address(), free_address());
        let servers = gateways.iter().enumerate();
        let servers: String =
            servers.map(|(number, gateway)| format!("  server eye{number} {gateway} check\n")).collect();
        // Without retries each refused connection shows.
        let text = format!(
            "defaults\n  mode http\n  retries 0\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
             frontend senders\n  bind {address}\n  default_backend gateways\n\
             frontend figures\n  bind {figures}\n  stats enable\n  stats uri /\n\
             backend gateways\n  option httpchk\n  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost\n  \
             default-server inter 200ms fall 2 rise 1\n{servers}"
        );
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).expect("the file");
        let haproxy =
            ["/usr/sbin/haproxy", "/usr/bin/haproxy"].into_iter().find(|path| std::path::Path::new(path).exists());
        let mut command = Command::new(haproxy.expect("haproxy; `./setup operate` installs it"));
        let process = command
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy");
        let balancer = Balancer { process, address, figures, _folder: folder };
        balancer.sees(gateways.len()).await;
        balancer
    }

    /// Waits until it uses so many gateways.
    async fn sees(&self, gateways: usize) {
        eventually("the balancer sees the gateways", async || {
            let url = format!("http://{}/;csv", self.figures);
            let figures = reqwest::get(url).await.ok()?.text().await.ok()?;
            let up = figures.lines().filter(|line| line.starts_with("gateways,eye") && line.contains(",UP,")).count();
            (up == gateways).then_some(())
        })
        .await;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        kill(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_a_balancer_stores_every_event_at_once() {
    let server = Server::start();
    server.prepare();
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let setup = Setup::default().with("EYE_DATABASE_URL", server.url()).with("EYE_DRAIN_DELAY_MS", 1_500);
        gateways.push(setup.with_argument(&format!("--listen={}", free_address())).start().await);
    }
    let addresses: Vec<&str> = gateways.iter().map(Gateway::address).collect();
    let balancer = Balancer::start(&addresses).await;
    let senders = Senders::start(&balancer.address);
    senders.store(50).await;
    for gateway in &mut gateways {
        restart(gateway, &senders).await;
        balancer.sees(2).await;
    }
    let [fresh, kept] = senders.stop("two gateways behind a balancer, each restarted").await;
    assert_eq!((fresh[2..].iter().sum::<u64>(), kept[2..].iter().sum::<u64>()), (0, 0), "each event is stored at once");
    assert_eq!(server.sql("select count(*) from events"), (fresh[1] + kept[1]).to_string());
}
