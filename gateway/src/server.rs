//! The listener, its connections and their end.
//!
//! No connection is accepted without a permit, no task runs untracked, and everything that a peer can delay has a
//! deadline. The end has three steps: first each answer closes its connection while the listener still accepts, then the
//! listener closes and connections end after their running requests, and after the drain time it cuts them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::Request;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::admission::{Admission, Class, Proxying};
pub use self::closing::Closing;
use self::connection::Connection;
pub use self::incoming::Incoming;
pub use self::limits::LimitsInForce;
use self::limits::{Permit, Permits};
pub use self::socket::HalfClosed;
use crate::log_limit::LogLimit;
use crate::request_ids::RequestIds;
use crate::response::Response;
use crate::trust::Peer;

/// A request as the server hands it to a handler.
pub type ServedRequest = Request<Incoming>;

mod activity;
mod admission;
mod closing;
mod connection;
mod doorbell;
pub(crate) mod form;
mod frames;
mod incoming;
mod limits;
mod socket;
mod when_woken;

/// Connections that the kernel queues, so that a burst of new senders waits and is not refused.
const BACKLOG: u32 = 1024;

/// Up to this number of headers hyper needs no allocation. It is hyper's default, so the gateway does not set it.
const HEADERS_UNASKED: usize = 100;

/// The pause after a failed accept. It doubles with each failure, up to the maximum.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The time in which tasks must end after their connections were cut.
const CUT: Duration = Duration::from_secs(1);

/// Bounds of a listener and its connections. A connection keeps those with which it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Most connections at once. Further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// Most connections of one peer at once. Further ones are closed.
    pub connections_per_peer_max: usize,
    /// The time for the head of a request, and until the first request of a connection.
    pub header_read: Duration,
    /// Most bytes of the head of an HTTP/1 request and of the decoded headers of an HTTP/2 one. Also the largest frame
    /// of an HTTP/1 body.
    pub header_bytes_max: usize,
    /// Most headers of an HTTP/1 request.
    pub headers_max: usize,
    /// After this time without a request the connection ends, since another peer could use its permit.
    pub idle: Duration,
    /// The longest time in which a peer reads nothing of an answer.
    pub write: Duration,
    /// Most open requests of an HTTP/2 connection.
    pub http2_streams_max: u32,
    /// Most streams that an HTTP/2 peer may reset before the server has read them. One more ends its connection.
    pub http2_resets_max: usize,
    /// Most frames per second of an HTTP/2 peer that belong to no request and no body. More end its connection.
    pub http2_control_frames_per_second_max: u64,
    /// Most unread bytes of one HTTP/2 body.
    pub http2_stream_window_bytes: u32,
    /// Most unread bytes of all bodies of an HTTP/2 connection.
    pub http2_connection_window_bytes: u32,
    /// The time between two pings to an HTTP/2 peer, and the time for its answer.
    pub http2_ping: Duration,
    /// The time for the TLS handshake.
    pub tls_handshake: Duration,
    /// Most bytes of a PROXY header.
    pub proxy_header_bytes_max: usize,
    /// How long a peer may still send after its request was refused, before the connection closes.
    pub linger: Duration,
    /// Most bytes that it may send in that time.
    pub linger_bytes_max: usize,
    /// The time for running requests to end after the shutdown.
    pub drain: Duration,
}

/// Counters of a listener. Each scrape of the metrics reads them.
#[derive(Debug, Default)]
pub struct Connections {
    /// Open connections.
    pub open: AtomicU64,
    /// Connections that were accepted so far.
    pub accepted: AtomicU64,
    /// How often all permits were taken, so that new connections waited in the kernel.
    pub full: AtomicU64,
    /// How often accepting failed for lack of descriptors or memory.
    pub failed: AtomicU64,
}

impl Connections {
    fn opened(self: &Arc<Self>) -> Opened {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
        Opened(Arc::clone(self))
    }
}

/// An open connection in the counters. Its drop counts it as closed.
struct Opened(Arc<Connections>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<Connections>,
}

impl Listener {
    /// Binds the address. Port 0 binds a free port.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // On Windows this option would let another process take the port.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Self::of(socket.listen(BACKLOG)?)
    }

    /// Takes a socket that another process has bound and keeps open. Connections that wait when this listener closes are
    /// accepted by the next one.
    pub fn passed(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::of(TcpListener::from_std(listener)?)
    }

    fn of(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address, connections: Arc::default() })
    }

    /// Counts its connections together with those of another listener.
    #[must_use]
    pub fn counted_with(self, other: &Self) -> Self {
        Self { connections: Arc::clone(&other.connections), ..self }
    }

    /// The counters.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `closing` closes it, then drains. Returns when all connections have ended, or were cut after the drain
    /// time. Each answer has the ids that its handler got.
    pub async fn run<F, Fut>(
        self,
        in_force: Arc<LimitsInForce>,
        admission: Arc<Admission>,
        handler: F,
        closing: Closing,
    ) where
        F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        // A dropped future must not leave connections behind.
        let _cut = cut.clone().drop_guard();
        let permits = Arc::<Permits>::default();
        while let Some((permit, stream, peer)) = next(&self, &in_force, &permits, &closing).await {
            let (limits, rules) = (in_force.now(), admission.rules());
            // Behind a PROXY header the peer is not known yet, and a named proxy connects for many peers, so neither is
            // limited.
            let spared = rules.proxy_protocol || rules.is_proxy(peer.ip());
            let place = (!spared).then(|| admission.places.take(peer.ip(), limits.connections_per_peer_max));
            if let Some(None) = place {
                admission.refuse::<()>(Class::TooMany, peer);
                continue;
            }
            let connection = Connection {
                peer,
                limits,
                admission: Arc::clone(&admission),
                rules,
                _place: place.flatten(),
                accepted: Instant::now(),
                closing: closing.clone(),
                closed: closing.token(),
                // A token of its own, so that the streams of the connection end with it.
                cut: cut.child_token(),
                tasks: tasks.clone(),
            };
            let handler = handler.clone();
            let opened = self.connections.opened();
            tasks.spawn(async move {
                connection.serve(stream, handler).await;
                drop((opened, permit));
            });
        }
        // From here on the kernel refuses new connections, unless another process holds the socket too.
        drop(self.listener);
        tasks.close();
        if timeout(in_force.now().drain, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "the drain time is over: cutting connections");
            cut.cancel();
            if timeout(CUT, tasks.wait()).await.is_err() {
                tracing::error!(tasks = tasks.len(), "tasks do not end");
            }
        }
    }
}

/// Waits for a permit and the next connection. Returns `None` once the listener closes.
async fn next(
    listener: &Listener,
    limits: &LimitsInForce,
    permits: &Arc<Permits>,
    closing: &Closing,
) -> Option<(Permit, TcpStream, SocketAddr)> {
    let accepted = async {
        let full = || {
            listener.connections.full.fetch_add(1, Relaxed);
        };
        let permit = permits.take(limits, full).await;
        static TOLD: LogLimit = LogLimit::new();
        let mut pause = ACCEPT_PAUSE;
        loop {
            match listener.listener.accept().await {
                Ok((stream, peer)) => {
                    // A mapped address (::ffff:127.0.0.1) would match no network that is written as IPv4.
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return (permit, stream, peer);
                }
                Err(error) if concerns_one_peer(&error) => {}
                Err(error) => {
                    listener.connections.failed.fetch_add(1, Relaxed);
                    // The process lacks descriptors or memory. Without a pause the loop would only use up the
                    // processor.
                    if let Some(more) = TOLD.open() {
                        tracing::warn!(%error, more, "cannot accept connections");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = closing.closed() => None,
        accepted = accepted => Some(accepted),
    }
}

fn concerns_one_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for the tasks that it spawns")]
pub(crate) mod tests;
