//! The listener, its connections and their end.
//!
//! No connection is accepted without a permit, no task runs untracked, and everything that a peer can delay has a
//! deadline. The drain has two steps: connections are asked to end, and after the drain time they are cut.

use std::any::Any;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::response::{Body, BodyError, Refusal, Response};

/// Connections that the kernel holds for us, so that a burst of new senders waits and is not refused.
const BACKLOG: u32 = 1024;

/// The head of an HTTP/1 request, and at the same time the largest frame of a body.
const BUFFER_BYTES: usize = 64 * 1024;

const STREAMS_MAX: u32 = 250;
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
const HEADER_LIST_BYTES: u32 = 64 * 1024;
const RESET_STREAMS_MAX: usize = 20;
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// After this time without a request a connection is asked to end: it holds a permit that another sender could use.
const IDLE: Duration = Duration::from_secs(60);

/// The pause after an accept that failed: the first, and the longest.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long, and how much, a peer whose request was refused may go on sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// How long tasks that were cut have to notice it.
const CUT: Duration = Duration::from_secs(1);

/// What the listener allows its peers.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// The most connections at the same time; further ones wait in the kernel's backlog.
    pub connections_max: usize,
    /// The time for the head of a request, and for the first request of a connection to begin.
    pub header_read: Duration,
    /// The time that running requests have to end after the shutdown began.
    pub drain: Duration,
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
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
        Ok(Self { listener, address })
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then drains. Returns when all connections have ended, or were cut after the drain time.
    pub async fn run<F, Fut>(self, limits: ServerLimits, handler: F, shutdown: CancellationToken)
    where
        F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        // Whoever drops this future instead of cancelling the token must not leave connections behind.
        let _cut = cut.clone().drop_guard();
        let permits = limits.connections_max.min(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits));
        while let Some((permit, stream, peer)) = next(&self.listener, &permits, &shutdown).await {
            let connection = Connection {
                peer,
                limits,
                shutdown: shutdown.clone(),
                // Its own token, so that its streams end with it and not only with the server.
                cut: cut.child_token(),
                tasks: tasks.clone(),
            };
            let handler = handler.clone();
            tasks.spawn(async move {
                connection.serve(stream, handler).await;
                drop(permit);
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
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    let accepted = async {
        let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
        let mut pause = ACCEPT_PAUSE;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // A mapped address (::ffff:127.0.0.1) would match none of the networks written as IPv4.
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    return (permit, stream, peer);
                }
                Err(error) if concerns_one_peer(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: accepting again at once would only burn the processor.
                    tracing::warn!(%error, "cannot accept connections");
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

struct Connection {
    peer: SocketAddr,
    limits: ServerLimits,
    shutdown: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Connection {
    async fn serve<F, Fut>(self, stream: TcpStream, handler: F)
    where
        F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let _streams = self.cut.clone().drop_guard();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %self.peer, "cannot set TCP_NODELAY");
        }
        let activity = Arc::new(Activity::new());
        let (socket, mut stream) = Socket::new(stream);
        tokio::select! {
            () = self.cut.cancelled() => return,
            () = self.converse(socket, &activity, handler) => {}
        }
        let refused = activity.state().refused;
        if let (true, Ok(stream)) = (refused, stream.try_recv()) {
            tokio::select! {
                () = self.cut.cancelled() => {}
                () = linger(stream) => {}
            }
        }
    }

    /// Speaks HTTP until the connection ends, is asked to end, or stays idle.
    async fn converse<F, Fut>(&self, socket: Socket, activity: &Arc<Activity>, handler: F)
    where
        F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let peer = self.peer;
        let requests = Arc::clone(activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let running = Running::new(&requests);
            let handler = handler.clone();
            async move { Ok::<_, Infallible>(answer(handler, request, peer, running).await) }
        });
        let builder = self.builder();
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        let mut asked = false;
        let mut idle = std::pin::pin!(sleep_until(activity.deadline(&self.limits)));
        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(%peer, error = %Chain(&*error), "connection ended early");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if !asked => {
                    asked = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = idle.as_mut() => {
                    let deadline = activity.deadline(&self.limits);
                    if Instant::now() < deadline {
                        idle.as_mut().reset(deadline);
                    } else if asked {
                        return;
                    } else {
                        asked = true;
                        connection.as_mut().graceful_shutdown();
                        idle.as_mut().reset(Instant::now() + self.limits.header_read);
                    }
                }
            }
        }
    }

    fn builder(&self) -> auto::Builder<Tracked> {
        let mut builder = auto::Builder::new(Tracked { tasks: self.tasks.clone(), cut: self.cut.clone() });
        // hyper's own maximum of 100 headers stays: naming it here would cost an allocation for each request.
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_read)
            .keep_alive(true)
            .max_buf_size(BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_LIST_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        builder
    }
}

/// Runs the handler; a panic in it costs this one request.
async fn answer<F, Fut>(
    handler: F,
    request: Request<Incoming>,
    peer: SocketAddr,
    running: Running,
) -> hyper::Response<Counted>
where
    F: Fn(Request<Incoming>, SocketAddr) -> Fut,
    Fut: Future<Output = Response>,
{
    let version = request.version();
    // In a block of its own: the handler may panic before it gives a future back. It is not used after a panic, so no
    // broken state of it can be seen.
    let work = AssertUnwindSafe(async move { handler(request, peer).await });
    let mut response = match work.catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            tracing::error!(%peer, reason = reason(panic.as_ref()), "a request panicked");
            Refusal::Internal.into_response()
        }
    };
    let status = response.status();
    let unread = status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::REQUEST_TIMEOUT;
    if unread && version <= Version::HTTP_11 {
        // The rest of the body is not waited for, so the connection cannot carry another request. HTTP/2 can.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    running.answered(status);
    response.map(|body| Counted { body, _running: running })
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Closing a socket that still has unread bytes makes the kernel reset it, and the reset can overtake the answer. So a
/// peer that was refused in the middle of its body may send on for a moment, into nothing.
async fn linger(mut stream: TcpStream) {
    let discard = async {
        stream.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            match stream.read(&mut buffer).await? {
                0 => break,
                more => discarded += more,
            }
        }
        io::Result::Ok(())
    };
    // Either way the connection is over; that the peer was quicker or slower changes nothing.
    let _ = timeout(LINGER, discard).await;
}

/// What a connection is doing, for its idle deadline.
#[derive(Debug)]
struct Activity(Mutex<ActivityState>);

#[derive(Clone, Copy, Debug)]
struct ActivityState {
    running: usize,
    served: bool,
    refused: bool,
    since: Instant,
}

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(ActivityState { running: 0, served: false, refused: false, since: Instant::now() }))
    }

    fn state(&self) -> ActivityState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut ActivityState)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// When the connection will have been idle for too long, if nothing happens until then.
    fn deadline(&self, limits: &ServerLimits) -> Instant {
        let state = self.state();
        if state.running > 0 {
            Instant::now() + IDLE
        } else if state.served {
            state.since + IDLE
        } else {
            // hyper's own timeout begins only when it knows the version, so a peer that sends nothing escapes it.
            state.since + limits.header_read
        }
    }
}

/// A request that runs, from its head to the end of its answer's body.
struct Running(Arc<Activity>);

impl Running {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.change(|state| {
            state.running += 1;
            state.served = true;
        });
        Self(Arc::clone(activity))
    }

    fn answered(&self, status: StatusCode) {
        let refused = status.is_client_error() || status.is_server_error();
        self.0.change(|state| state.refused = refused);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.running -= 1;
            state.since = Instant::now();
        });
    }
}

/// The body of an answer, which counts as running until it is sent.
struct Counted {
    body: Body,
    _running: Running,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs what HTTP/2 spawns: counted in the drain, ended with its connection.
#[derive(Clone)]
struct Tracked {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl<Fut> Executor<Fut> for Tracked
where
    Fut: Future + Send + 'static,
    Fut::Output: Send,
{
    fn execute(&self, task: Fut) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move { cut.run_until_cancelled_owned(task).await.map(drop) });
    }
}

/// A stream that comes back when hyper lets go of it.
struct Socket {
    stream: Option<TcpStream>,
    back: Option<oneshot::Sender<TcpStream>>,
}

impl Socket {
    fn new(stream: TcpStream) -> (Self, oneshot::Receiver<TcpStream>) {
        let (back, receiver) = oneshot::channel();
        let socket = Self { stream: Some(stream), back: Some(back) };
        (socket, receiver)
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        let stream = &mut self.get_mut().stream;
        Pin::new(stream.as_mut().expect("only drop takes the stream"))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Nobody waits for it if the connection was cut; then it closes here.
            let _ = back.send(stream);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(TcpStream::is_write_vectored)
    }
}

/// An error with its causes: hyper's own text often leaves out the one that matters.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test waits for the tasks that it spawns")]
pub(crate) mod tests {
    use futures_util::future::BoxFuture;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::response::json;

    /// Far more than any of these tests needs: it turns a hang into a failure.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A server on a free port of this machine.
    pub(crate) struct Server {
        pub(crate) address: SocketAddr,
        pub(crate) shutdown: CancellationToken,
        pub(crate) run: JoinHandle<()>,
    }

    impl Server {
        pub(crate) async fn start<F, Fut>(limits: ServerLimits, handler: F) -> Self
        where
            F: Fn(Request<Incoming>, SocketAddr) -> Fut + Clone + Send + 'static,
            Fut: Future<Output = Response> + Send + 'static,
        {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = Listener::bind(any).await.expect("a free port");
            let address = listener.address();
            let shutdown = CancellationToken::new();
            let run = tokio::spawn(listener.run(limits, handler, shutdown.clone()));
            Self { address, shutdown, run }
        }

        pub(crate) async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("the server listens")
        }

        pub(crate) async fn stop(self) {
            self.shutdown.cancel();
            soon(self.run).await.expect("the server does not panic");
        }
    }

    pub(crate) fn limits() -> ServerLimits {
        ServerLimits { connections_max: 100, header_read: PATIENCE, drain: PATIENCE }
    }

    pub(crate) async fn soon<F: Future>(work: F) -> F::Output {
        timeout(PATIENCE, work).await.expect("this hangs")
    }

    /// Everything until the server closes; a reset ends it too.
    pub(crate) async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        let _ = soon(stream.read_to_end(&mut bytes)).await;
        String::from_utf8(bytes).expect("the answers are text")
    }

    /// One answer on a connection that stays open: its head, and its body by `Content-Length`.
    async fn one_answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        while !text.contains("\r\n\r\n") {
            text.push(soon(stream.read_u8()).await.expect("an answer").into());
        }
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        soon(stream.read_exact(&mut body)).await.expect("the whole body");
        text + &String::from_utf8(body).expect("text")
    }

    async fn fine(_: Request<Incoming>, _: SocketAddr) -> Response {
        json(StatusCode::OK, "{}")
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: eye\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("the connection is open");
    }

    #[tokio::test]
    async fn slow_heads_and_silent_peers_are_cut() {
        let quick = ServerLimits { header_read: Duration::from_millis(50), ..limits() };
        let server = Server::start(quick, fine).await;
        for start in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nhost: e"] {
            let mut stream = server.connect().await;
            stream.write_all(start.as_bytes()).await.expect("open");
            assert_eq!(rest(&mut stream).await, "", "after {start:?}");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = Server::start(limits(), fine).await;
        let mut stream = server.connect().await;
        let head = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2 * BUFFER_BYTES));
        // The server may close before it has read all of it.
        let _ = stream.write_all(head.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_panic_costs_one_request() {
        let handler = |request: Request<Incoming>, _| {
            // Before there is a future, and in it.
            assert_ne!(request.uri().path(), "/early");
            async move {
                assert_ne!(request.uri().path(), "/late");
                json(StatusCode::OK, "{}")
            }
        };
        let server = Server::start(limits(), handler).await;
        let (mut one, mut other) = (server.connect().await, server.connect().await);
        for path in ["/early", "/late"] {
            ask(&mut one, path).await;
            let answer = one_answer(&mut one).await;
            assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
            assert!(answer.contains(r#""code":"internal""#), "{answer}");
            for stream in [&mut one, &mut other] {
                ask(stream, "/").await;
                assert!(one_answer(stream).await.starts_with("HTTP/1.1 200"));
            }
        }
        drop((one, other));
        server.stop().await;
    }

    type Gate = Arc<dyn Fn(Request<Incoming>, SocketAddr) -> BoxFuture<'static, Response> + Send + Sync>;

    /// A handler that says when it has begun and waits until it may end.
    fn gate() -> (Arc<Notify>, Arc<Notify>, Gate) {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begin, wait) = (Arc::clone(&begun), Arc::clone(&go));
        let handler: Gate = Arc::new(move |_, _| {
            let (begin, wait) = (Arc::clone(&begin), Arc::clone(&wait));
            async move {
                begin.notify_one();
                wait.notified().await;
                json(StatusCode::OK, r#"{"done":true}"#)
            }
            .boxed()
        });
        (begun, go, handler)
    }

    async fn refuses(address: SocketAddr) {
        let refused = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        soon(refused).await;
    }

    #[tokio::test]
    async fn a_drain_finishes_what_runs_and_refuses_what_comes() {
        let (begun, go, handler) = gate();
        let server = Server::start(limits(), move |request, peer| handler(request, peer)).await;
        let (mut running, mut idle, mut silent) =
            (server.connect().await, server.connect().await, server.connect().await);
        ask(&mut idle, "/").await;
        soon(begun.notified()).await;
        go.notify_one();
        one_answer(&mut idle).await;
        ask(&mut running, "/").await;
        soon(begun.notified()).await;
        server.shutdown.cancel();
        refuses(server.address).await;
        assert_eq!(rest(&mut idle).await, "");
        assert_eq!(rest(&mut silent).await, "");
        assert!(!server.run.is_finished());
        go.notify_one();
        let answer = rest(&mut running).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(r#"{"done":true}"#), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_drain_finishes_the_streams_of_http2() {
        let (begun, go, handler) = gate();
        let server = Server::start(limits(), move |request, peer| handler(request, peer)).await;
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        let answer = client.get(format!("http://{}/", server.address)).send();
        let answer = tokio::spawn(answer);
        soon(begun.notified()).await;
        server.shutdown.cancel();
        refuses(server.address).await;
        assert!(!server.run.is_finished());
        go.notify_one();
        let answer = soon(answer).await.expect("no panic").expect("an answer");
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.text().await.expect("a body"), r#"{"done":true}"#);
        server.stop().await;
    }

    #[tokio::test]
    async fn what_outlives_the_drain_is_cut() {
        let brief = ServerLimits { drain: Duration::from_millis(50), ..limits() };
        let (begun, _go, handler) = gate();
        let server = Server::start(brief, move |request, peer| handler(request, peer)).await;
        let mut one = server.connect().await;
        ask(&mut one, "/").await;
        soon(begun.notified()).await;
        let client = reqwest::Client::builder().http2_prior_knowledge().build().expect("a client");
        let other = tokio::spawn(client.get(format!("http://{}/", server.address)).send());
        soon(begun.notified()).await;
        server.stop().await;
        assert_eq!(rest(&mut one).await, "");
        assert!(soon(other).await.expect("no panic").is_err());
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait() {
        let single = ServerLimits { connections_max: 1, ..limits() };
        let peers = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&peers);
        let handler = move |_: Request<Incoming>, peer: SocketAddr| {
            seen.lock().expect("no panic").push(peer);
            async { json(StatusCode::OK, "{}") }
        };
        let server = Server::start(single, handler).await;
        let mut first = server.connect().await;
        ask(&mut first, "/").await;
        one_answer(&mut first).await;
        let mut second = server.connect().await;
        ask(&mut second, "/").await;
        for _ in 0..20 {
            ask(&mut first, "/").await;
            one_answer(&mut first).await;
        }
        let only = first.local_addr().expect("connected");
        assert!(peers.lock().expect("no panic").iter().all(|peer| *peer == only));
        drop(first);
        assert!(one_answer(&mut second).await.starts_with("HTTP/1.1 200"));
        drop(second);
        server.stop().await;
    }

    #[tokio::test]
    async fn a_shutdown_does_not_wait_for_a_permit() {
        let none = ServerLimits { connections_max: 0, ..limits() };
        Server::start(none, fine).await.stop().await;
    }
}
