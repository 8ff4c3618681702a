//! The listener, its connections and their end.
//!
//! No connection is accepted without a permit, no task runs untracked, and everything that a peer can delay has a
//! deadline. The drain has two steps: connections are asked to end, and after the drain time they are cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::Request;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::admission::{Admission, Class};
use self::connection::Connection;
pub use self::incoming::Incoming;
pub use self::socket::HalfClosed;
use crate::log_limit::LogLimit;
use crate::request_ids::RequestIds;
use crate::response::Response;
use crate::trust::Peer;

mod activity;
mod admission;
mod connection;
mod doorbell;
pub(crate) mod form;
mod frames;
mod incoming;
mod socket;
mod when_woken;

/// Connections that the kernel holds for us, so that a burst of new senders waits and is not refused.
const BACKLOG: u32 = 1024;

/// The number of headers for which hyper needs no allocation of its own: its default, which is not named to it.
const HEADERS_UNASKED: usize = 100;

/// The pause after an accept that failed: the first, and the longest.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long tasks that were cut have to notice it.
const CUT: Duration = Duration::from_secs(1);

/// What the listener allows its peers.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// The most connections at the same time; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// The most connections of one peer at the same time; further ones are closed.
    pub connections_per_peer_max: usize,
    /// The time for the head of a request, and for the first request of a connection to begin.
    pub header_read: Duration,
    /// The head of an HTTP/1 request, and the decoded headers of an HTTP/2 one; also the largest frame of an HTTP/1 body.
    pub header_bytes_max: usize,
    /// The headers of an HTTP/1 request.
    pub headers_max: usize,
    /// After this time without a request a connection is asked to end: it holds a permit that another could use.
    pub idle: Duration,
    /// The time for which a peer may leave a piece of an answer.
    pub write: Duration,
    /// The requests that an HTTP/2 connection may have open.
    pub http2_streams_max: u32,
    /// The streams that an HTTP/2 peer may reset before they are looked at; one more ends its connection.
    pub http2_resets_max: usize,
    /// The frames of an HTTP/2 peer in a second that belong to no request and no body; more end its connection.
    pub http2_control_frames_per_second_max: u64,
    /// What an HTTP/2 peer may send of one body before it is read.
    pub http2_stream_window_bytes: u32,
    /// What an HTTP/2 peer may send of all bodies before they are read.
    pub http2_connection_window_bytes: u32,
    /// How often an HTTP/2 peer is asked whether it is there, and how long it has to answer.
    pub http2_ping: Duration,
    /// The time for the handshake of TLS.
    pub tls_handshake: Duration,
    /// The longest PROXY header.
    pub proxy_header_bytes_max: usize,
    /// How long a peer whose request was refused may go on sending before its connection is closed.
    pub linger: Duration,
    /// How much it may send in that time.
    pub linger_bytes_max: usize,
    /// The time that running requests have to end after the shutdown began.
    pub drain: Duration,
}

/// What a listener counts.
#[derive(Debug, Default)]
pub struct Connections {
    /// Connections that are open now.
    pub open: AtomicU64,
    /// Connections that were ever accepted.
    pub accepted: AtomicU64,
    /// Times that as many connections were open as may, so that new ones had to wait in the kernel.
    pub full: AtomicU64,
    /// Times that accepting failed for want of descriptors or memory.
    pub failed: AtomicU64,
}

impl Connections {
    fn opened(self: &Arc<Self>) -> Opened {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
        Opened(Arc::clone(self))
    }
}

/// An open connection, as it is counted.
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
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // On Windows this option would let another process take the port.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, connections: Arc::default() })
    }

    /// Counts its connections with those of another one.
    #[must_use]
    pub fn counted_with(self, other: &Self) -> Self {
        Self { connections: Arc::clone(&other.connections), ..self }
    }

    /// What it counts.
    pub fn connections(&self) -> Arc<Connections> {
        Arc::clone(&self.connections)
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then drains. Every answer of the handler names its request by the ids that the handler got. Returns when all connections have ended, or were cut after the drain time.
    pub async fn run<F, Fut>(
        self,
        limits: ServerLimits,
        admission: Arc<Admission>,
        handler: F,
        shutdown: CancellationToken,
    ) where
        F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        // Whoever drops this future instead of cancelling the token must not leave connections behind.
        let _cut = cut.clone().drop_guard();
        let permits = limits.connections_max.min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits));
        while let Some((permit, stream, peer)) = next(&self, &permits, &shutdown).await {
            // Behind a proxy the peer is known only when the PROXY header is read, and a named proxy speaks for many.
            let spared = admission.proxy_protocol || admission.is_proxy(peer.ip());
            let place = (!spared).then(|| admission.places.take(peer.ip(), limits.connections_per_peer_max));
            if let Some(None) = place {
                admission.refuse::<()>(Class::TooMany, peer);
                continue;
            }
            let connection = Connection {
                peer,
                limits,
                admission: Arc::clone(&admission),
                _place: place.flatten(),
                shutdown: shutdown.clone(),
                // Its own token, so that its streams end with it and not only with the server.
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
        // From here the kernel refuses new connections.
        drop(self.listener);
        tasks.close();
        if timeout(limits.drain, tasks.wait()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "the drain time is over: cutting connections");
            cut.cancel();
            if timeout(CUT, tasks.wait()).await.is_err() {
                tracing::error!(tasks = tasks.len(), "tasks do not end");
            }
        }
    }
}

/// The next connection, with its permit; `None` once the shutdown began.
async fn next(
    listener: &Listener,
    permits: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let accepted = async {
        if permits.available_permits() == 0 {
            listener.connections.full.fetch_add(1, Relaxed);
        }
        let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
        static TOLD: LogLimit = LogLimit::new();
        let mut pause = ACCEPT_PAUSE;
        loop {
            match listener.listener.accept().await {
                Ok((stream, peer)) => {
                    // A mapped address (::ffff:127.0.0.1) would match none of the networks written as IPv4.
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return (permit, stream, peer);
                }
                Err(error) if concerns_one_peer(&error) => {}
                Err(error) => {
                    listener.connections.failed.fetch_add(1, Relaxed);
                    // Out of descriptors or memory: accepting again at once would only burn the processor.
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
        () = shutdown.cancelled() => None,
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
