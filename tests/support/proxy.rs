//! A TCP proxy before Postgres that breaks connections: it cuts, half-closes and stalls at a chosen byte of a batch or
//! of its answer, and it can be away.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::unix;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The direction whose bytes are counted, from the start of a `copy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// After this many bytes from the gateway.
    Up(usize),
    /// After this many bytes from the server.
    Down(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Both directions end.
    Cut,
    /// The server gets the end of the stream; its answers still pass.
    HalfCloseUp,
    /// The gateway gets the end of the stream; its messages still pass.
    HalfCloseDown,
    /// Nothing passes any more, and neither side is notified.
    Stall,
    /// Nothing passes for this time, and then everything.
    Pause(Duration),
}

/// The fault of the next `copy`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: At,
    pub(crate) how: How,
}

/// Shared by all connections.
#[derive(Default)]
struct Plan {
    armed: Mutex<Option<Fault>>,
    /// While true, every byte of every connection waits.
    frozen: Mutex<watch::Sender<bool>>,
    /// The number of requests to the server after an answer: one for each round trip of each connection.
    trips: AtomicUsize,
    /// The delay of each byte.
    delay: Duration,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    socket: PathBuf,
    plan: Arc<Plan>,
    /// Connections that are held back forever.
    lost: Vec<watch::Sender<bool>>,
    connections: JoinSet<()>,
}

impl Proxy {
    /// Starts a proxy for the server behind `socket`.
    pub(crate) async fn start(socket: PathBuf) -> Proxy {
        Proxy::distant(socket, Duration::ZERO).await
    }

    /// The same with a delay in each direction, like a network.
    pub(crate) async fn distant(socket: PathBuf, delay: Duration) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let plan = Arc::new(Plan { delay, ..Plan::default() });
        let mut proxy = Proxy { address, socket, plan, lost: Vec::new(), connections: JoinSet::new() };
        proxy.listen(listener);
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres?sslmode=disable", self.address)
    }

    /// The round trips of all connections so far.
    pub(crate) fn trips(&self) -> usize {
        self.plan.trips.load(Relaxed)
    }

    /// Breaks the next batch.
    pub(crate) fn arm(&self, fault: Fault) {
        *self.plan.armed.lock().expect("the plan") = Some(fault);
    }

    /// Takes the fault back. Returns whether it has met no batch yet.
    pub(crate) fn disarm(&self) -> bool {
        self.plan.armed.lock().expect("the plan").take().is_some()
    }

    /// Holds all bytes back, or lets them pass.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.plan.frozen.lock().expect("the plan").send_replace(frozen);
    }

    /// Lets new connections pass, while the existing ones hang forever.
    pub(crate) fn lose_all(&mut self) {
        let now = std::mem::take(&mut *self.plan.frozen.lock().expect("the plan"));
        now.send_replace(true);
        self.lost.push(now);
    }

    /// Cuts all connections and refuses new ones.
    pub(crate) async fn leave(&mut self) {
        self.connections.shutdown().await;
    }

    /// Leads to another server from now on, like an address that moves.
    pub(crate) async fn turn_to(&mut self, socket: PathBuf) {
        self.leave().await;
        self.socket = socket;
        self.come_back().await;
    }

    /// Accepts connections again.
    pub(crate) async fn come_back(&mut self) {
        let listener = super::eventually("the port is free", async || TcpListener::bind(self.address).await.ok()).await;
        self.listen(listener);
    }

    fn listen(&mut self, listener: TcpListener) {
        let (socket, plan) = (self.socket.clone(), Arc::clone(&self.plan));
        self.connections.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accepted");
                let Ok(server) = UnixStream::connect(&socket).await else { continue };
                // As servers and clients do, so that only the measured delay counts.
                client.set_nodelay(true).expect("a socket");
                let (read, write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                let frozen = plan.frozen.lock().expect("the plan").subscribe();
                let way = Way {
                    plan: Arc::clone(&plan),
                    frozen,
                    fault: Mutex::new(None),
                    inserts: Mutex::default(),
                    answered: AtomicBool::new(true),
                };
                connections.spawn(way.run((read, write), (server_read, server_write)));
            }
        });
    }
}

/// One connection.
struct Way {
    plan: Arc<Plan>,
    frozen: watch::Receiver<bool>,
    /// The fault that this connection has taken.
    fault: Mutex<Option<Fault>>,
    /// The names of the statements for a few events on this connection.
    inserts: Mutex<Vec<Vec<u8>>>,
    /// Whether the last bytes came from the server.
    answered: AtomicBool,
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The end of a direction.
enum End {
    /// Both directions end.
    Cut,
    /// Only this direction ended.
    Closed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

impl Way {
    async fn run(self, client: (OwnedReadHalf, OwnedWriteHalf), server: (unix::OwnedReadHalf, unix::OwnedWriteHalf)) {
        both(self.pump(client.0, server.1, Direction::Up), self.pump(server.0, client.1, Direction::Down)).await;
    }

    async fn pump(
        &self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        direction: Direction,
    ) -> End {
        let mut frozen = self.frozen.clone();
        let mut buffer = vec![0; 65_536];
        let mut count = None;
        loop {
            let Ok(length @ 1..) = from.read(&mut buffer).await else { return End::Cut };
            let bytes = &buffer[..length];
            if self.answered.swap(direction == Direction::Down, Relaxed) && direction == Direction::Up {
                self.plan.trips.fetch_add(1, Relaxed);
            }
            if !self.plan.delay.is_zero() {
                tokio::time::sleep(self.plan.delay).await;
            }
            // Counted from the start of the statement.
            let start = if direction == Direction::Up { self.take_fault(bytes) } else { 0 };
            // The sender lives as long as the proxy.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            let (before, after) = match self.place(direction, &mut count, length - start) {
                Some((passes, how)) => {
                    let (before, after) = bytes.split_at(passes + start);
                    if to.write_all(before).await.is_err() {
                        return End::Cut;
                    }
                    match break_here(how).await {
                        None => *self.fault.lock().expect("the fault") = None,
                        Some(End::Closed) => {
                            // The other side may have gone.
                            let _ = to.shutdown().await;
                            return End::Closed;
                        }
                        Some(End::Cut) => return End::Cut,
                    }
                    (&[][..], after)
                }
                None => (bytes, &[][..]),
            };
            if to.write_all(before).await.is_err() || to.write_all(after).await.is_err() {
                return End::Cut;
            }
        }
    }

    /// Takes the armed fault if a batch starts here. Returns the place of its start.
    fn take_fault(&self, bytes: &[u8]) -> usize {
        let Some(start) = find(bytes, b"copy ").or_else(|| self.few(bytes)) else { return 0 };
        let Some(fault) = self.plan.armed.lock().expect("the plan").take() else { return 0 };
        *self.fault.lock().expect("the fault") = Some(fault);
        start
    }

    /// Where the rows of a batch start that is one statement: a batch of few events, or one with duplicates.
    fn few(&self, bytes: &[u8]) -> Option<usize> {
        let mut names = self.inserts.lock().expect("the names");
        if let Some(query) = find(bytes, b"insert into events (") {
            let end = 1 + bytes[..query].iter().rposition(|byte| *byte == 0)?;
            let start = bytes[..end].windows(4).rposition(|window| window == b"eye_")?;
            names.push([b"\0", &bytes[start..end]].concat());
        }
        // A kind, a length of four bytes, and an empty portal name come before it.
        Some(names.iter().find_map(|name| find(bytes, name))?.saturating_sub(5))
    }

    /// How many of the next `length` bytes pass before the fault, if it is among them.
    fn place(&self, direction: Direction, count: &mut Option<usize>, length: usize) -> Option<(usize, How)> {
        let fault = (*self.fault.lock().expect("the fault"))?;
        let place = match (fault.at, direction) {
            (At::Up(place), Direction::Up) | (At::Down(place), Direction::Down) => place,
            _ => return None,
        };
        let passed = count.unwrap_or_default();
        *count = Some(passed + length);
        (passed + length >= place).then(|| (place.saturating_sub(passed), fault.how))
    }
}

/// Ends when one of the directions is cut, or both are closed.
async fn both(up: impl Future<Output = End>, down: impl Future<Output = End>) {
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        end = &mut up => if matches!(end, End::Closed) { down.await; },
        end = &mut down => if matches!(end, End::Closed) { up.await; },
    }
}

/// How this direction ends, or `None` if it goes on.
async fn break_here(how: How) -> Option<End> {
    match how {
        How::Cut => Some(End::Cut),
        How::HalfCloseUp | How::HalfCloseDown => Some(End::Closed),
        How::Stall => std::future::pending().await,
        How::Pause(time) => {
            tokio::time::sleep(time).await;
            None
        }
    }
}
