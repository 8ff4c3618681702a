//! One connection: the steps before HTTP, HTTP itself, and an end that does not lose the last answer. Everything that
//! the peer can delay has a time limit, and tasks of its requests end with the connection.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activity::{Activity, Running};
use super::admission::{Admission, Class, Place, Proxying};
use super::closing::Closing;
use super::doorbell::Doorbell;
use super::incoming::Incoming;
use super::socket::{Socket, Stream};
use super::when_woken::WhenWoken;
use super::{HEADERS_UNASKED, ServerLimits};
use crate::log_limit::LogLimit;
use crate::request_ids::RequestIds;
use crate::response::{self, Body, BodyError, Refusal, Response};
use crate::tls;
use crate::trust::Peer;
use crate::trust::proxy_protocol::{self, Header};

/// The time for a connection without a request to end after the GOAWAY frame.
const GRACE: Duration = Duration::from_millis(100);

/// The time from the accept in which the peer may begin its first request, although the listener has closed meanwhile.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Answers in pieces up to this size are not tracked until they are written.
const FEW_BYTES: usize = 4 * 1024;

/// One accepted connection.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) limits: ServerLimits,
    pub(super) admission: Arc<Admission>,
    pub(super) rules: Arc<Proxying>,
    /// The time of the accept.
    pub(super) accepted: Instant,
    pub(super) closing: Closing,
    /// See `Closing::token`.
    pub(super) closed: CancellationToken,
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// The connection in the count of its network. The drop gives it up.
    pub(super) _place: Option<Place>,
}

impl Connection {
    pub(super) async fn serve<F, Fut>(self, stream: TcpStream, handler: F)
    where
        F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let _streams = self.cut.clone().drop_guard();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %self.peer, "cannot set TCP_NODELAY");
        }
        let greeted = tokio::select! {
            () = self.cut.cancelled() => return,
            () = self.too_late() => return,
            greeted = self.greet(stream) => greeted,
        };
        let Some((stream, peer, _place)) = greeted else { return };
        let activity = Arc::new(Activity::new(self.closing.clone()));
        let (socket, mut stream) = Socket::new(stream, &self.limits, Arc::clone(&activity));
        self.converse(socket, peer, &activity, handler).await;
        let farewell = activity.farewell();
        if farewell.is_some() {
            let _: Option<()> = self.admission.refuse(Class::Frames, peer.address.unwrap_or(self.peer));
        }
        if let (true, Ok(stream)) = (farewell.is_some() || activity.refused(), stream.try_recv()) {
            tokio::select! {
                () = self.cut.cancelled() => {}
                () = linger(stream, farewell.unwrap_or_default(), &self.limits) => {}
            }
        }
    }

    /// Waits until the listener has closed and the time to begin a first request is over.
    async fn too_late(&self) {
        self.closed.cancelled().await;
        sleep_until(self.accepted + FIRST_REQUEST.min(self.limits.header_read)).await;
    }

    /// Waits until the connection must end after its running requests.
    async fn ends(&self, activity: &Activity) {
        let mut left = false;
        loop {
            tokio::select! {
                () = self.closed.cancelled() => {
                    if !activity.served() {
                        self.too_late().await;
                    }
                    return;
                }
                () = self.closing.leaving(), if !left => {
                    // Over HTTP/1 the next answer closes the connection. A peer without a request yet may send one.
                    if activity.is_multiplexed() {
                        return;
                    }
                    left = true;
                }
            }
        }
    }

    /// Runs the steps before HTTP: the PROXY header, if required, and the TLS handshake. Returns `None` if the peer
    /// fails one or takes too long.
    async fn greet(&self, mut stream: TcpStream) -> Option<(Stream, Peer, Option<Place>)> {
        let mut peer = Peer { address: Some(self.peer), certificate: None };
        let mut place = None;
        if self.rules.proxy_protocol {
            match timeout(self.limits.header_read, self.proxied(&mut stream)).await {
                Ok(Ok(source)) => peer.address = source,
                Ok(Err(_)) | Err(_) => return self.admission.refuse(Class::ProxyHeader, self.peer),
            }
            // Connections of the proxy itself (health checks) count for the proxy.
            let counted = peer.address.unwrap_or(self.peer);
            place = self.admission.places.take(counted.ip(), self.limits.connections_per_peer_max);
            if place.is_none() {
                return self.admission.refuse(Class::TooMany, counted);
            }
        }
        let told = peer.address.unwrap_or(self.peer);
        let Some(handshake) = self.admission.tls.handshake() else { return Some((Stream::Plain(stream), peer, place)) };
        match timeout(self.limits.tls_handshake, handshake.accept(stream)).await {
            Ok(Ok(stream)) => {
                peer.certificate = tls::client_certificate(&stream);
                Some((Stream::Tls(Box::new(stream)), peer, place))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %told, "the TLS handshake failed");
                self.admission.refuse(Class::Handshake, told)
            }
            Err(_) => self.admission.refuse(Class::Handshake, told),
        }
    }

    /// Reads the PROXY header and not a byte more.
    async fn proxied(&self, stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
        if !self.rules.is_proxy(self.peer.ip()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut header = Vec::new();
        loop {
            match proxy_protocol::parse(&header, self.limits.proxy_header_bytes_max).map_err(io::Error::other)? {
                Header::Whole(source) => {
                    let source = source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()));
                    // The proxy reports a caller on this machine. That must not identify the caller as local, unless it
                    // is a named proxy, which may report others.
                    let tells = |source: &SocketAddr| !source.ip().is_loopback() || self.rules.is_proxy(source.ip());
                    return Ok(source.filter(tells));
                }
                Header::More(more) => {
                    let known = header.len();
                    header.resize(known + more, 0);
                    stream.read_exact(&mut header[known..]).await?;
                }
            }
        }
    }

    /// Serves HTTP until the connection ends, is cut, is asked to end, or stays idle.
    async fn converse<F, Fut>(&self, socket: Socket, peer: Peer, activity: &Arc<Activity>, handler: F)
    where
        F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let requests = Arc::clone(activity);
        let half_closed = socket.half_closed();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let running = Running::new(&requests, request.version());
            let (handler, half_closed) = (handler.clone(), Arc::clone(&half_closed));
            async move {
                let multiplexed = request.version() == Version::HTTP_2;
                let request = request.map(|body| Incoming::new(body, multiplexed, half_closed));
                // Pinned here and in `answer`, since the future has kilobytes, and most other ways to pass it on would
                // copy them.
                let answer = pin!(answer(handler, request, peer, running));
                Ok::<_, Infallible>(answer.await)
            }
        });
        let builder = self.builder(activity);
        let heard = socket.heard();
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let mut connection = pin!(connection);
        let mut doorbell = Doorbell::default();
        let mut head = pin!(None);
        // hyper's connection is polled several times for each request; the interruption only when it was woken.
        let mut interruption = WhenWoken::new(self.interruption(activity, false, activity.look_at(&self.limits)));
        loop {
            tokio::select! {
                // The interruption comes first, since a peer that sends all the time would starve everything after it.
                biased;
                interrupted = &mut interruption => {
                    let Interruption::Farewell { look_at } = interrupted else { return };
                    connection.as_mut().graceful_shutdown();
                    interruption = WhenWoken::new(self.interruption(activity, true, look_at));
                }
                result = poll_fn(|cx| doorbell.poll(connection.as_mut(), cx)) => {
                    if let Err(error) = result {
                        tracing::debug!(peer = ?peer.address, error = %Chain(&*error), "connection ended early");
                    }
                    return;
                }
                () = poll_fn(|cx| activity.poll_head(&heard, head.as_mut(), &self.limits, cx)) => {
                    tracing::debug!(peer = ?peer.address, "connection ended early: a head did not come whole in its time");
                    return;
                }
            }
        }
    }

    /// Waits for an event that ends the connection from outside. `asked` says that the peer was asked to end it
    /// already.
    async fn interruption(&self, activity: &Activity, asked: bool, look_at: Instant) -> Interruption {
        let mut idle = pin!(sleep_until(look_at));
        let mut ends = pin!(self.ends(activity));
        loop {
            tokio::select! {
                () = self.cut.cancelled() => return Interruption::End,
                () = &mut ends, if !asked => {
                    return Interruption::Farewell { look_at: activity.look_at(&self.limits) };
                }
                () = idle.as_mut() => {
                    // One time for both checks: a part that gets late between them must not end the connection.
                    let now = Instant::now();
                    activity.reset_stalled(now, &self.limits);
                    if now < activity.deadline(&self.limits) {
                        idle.as_mut().reset(activity.look_at(&self.limits));
                    } else if asked || activity.runs() {
                        // A peer that reads no answers would not read the GOAWAY frame either.
                        return Interruption::End;
                    } else {
                        // A peer without a request has used up the time for its first one.
                        let grace = if activity.served() { self.limits.header_read } else { GRACE.min(self.limits.header_read) };
                        return Interruption::Farewell { look_at: now + grace };
                    }
                }
            }
        }
    }

    fn builder(&self, activity: &Arc<Activity>) -> auto::Builder<Tracked> {
        let (tasks, cut, activity) = (self.tasks.clone(), self.cut.clone(), Arc::clone(activity));
        let mut builder = auto::Builder::new(Tracked { tasks, cut, activity });
        let limits = &self.limits;
        if limits.headers_max != HEADERS_UNASKED {
            builder.http1().max_headers(limits.headers_max);
        }
        builder
            .http1()
            // hyper would need a timer for each request. `Activity::poll_head` needs fewer.
            .header_read_timeout(None)
            .keep_alive(true)
            // A peer that closes its sending half gets its answer. `socket.rs` checks whether it has gone.
            .half_close(true)
            .max_buf_size(limits.header_bytes_max);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.http2_streams_max)
            .max_pending_accept_reset_streams(limits.http2_resets_max)
            .max_local_error_reset_streams(limits.http2_resets_max)
            .initial_stream_window_size(limits.http2_stream_window_bytes)
            .initial_connection_window_size(limits.http2_connection_window_bytes)
            .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
            .keep_alive_interval(limits.http2_ping)
            .keep_alive_timeout(limits.http2_ping);
        builder
    }
}

/// How a connection ends after an interruption.
enum Interruption {
    /// After the running requests. The check is repeated at `look_at`.
    Farewell { look_at: Instant },
    /// At once.
    End,
}

/// Runs the handler and adds the ids to its answer. A panic costs only this request.
async fn answer<F, Fut>(
    handler: F,
    request: Request<Incoming>,
    peer: Peer,
    mut running: Running,
) -> hyper::Response<Counted>
where
    F: Fn(Request<Incoming>, Peer, RequestIds) -> Fut,
    Fut: Future<Output = Response>,
{
    let version = request.version();
    let ids = RequestIds::of(request.headers());
    let (id, of_handler) = (ids.id, ids.clone());
    // An inner future, since the handler may panic before it returns one. It is not used after a panic, so no broken
    // state of it is visible.
    let work = pin!(async move {
        let handled = pin!(handler(request, peer, of_handler));
        handled.await
    });
    let answer = match AssertUnwindSafe(id.scope(work)).catch_unwind().await {
        Ok(answer) => answer,
        Err(panic) => {
            static TOLD: LogLimit = LogLimit::new();
            if let Some(more) = TOLD.open() {
                let reason = reason(panic.as_ref());
                tracing::error!(peer = ?peer.address, request_id = %id, reason, more, "a request panicked");
            }
            Refusal::Internal.into_response()
        }
    };
    let mut answer = response::named(answer, ids);
    let status = answer.status();
    let unread = status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::REQUEST_TIMEOUT;
    if (unread || status == StatusCode::UNAUTHORIZED || running.is_leaving()) && version <= Version::HTTP_11 {
        // The rest of the body is not read, so an HTTP/1 connection cannot carry another request. HTTP/2 can. An
        // unknown caller must not take a connection from known ones. And a stopping gateway moves its peers away.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    running.answered(status);
    let multiplexed = version == Version::HTTP_2;
    answer.map(|body| Counted { body, running, multiplexed, followed: false, ended: false })
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Lets a refused peer read its answer. If a socket with unread bytes is closed, the kernel resets it, and the reset
/// may overtake the answer. So the rest of the body is read and dropped for a while, up to a bound. Beyond the bound
/// the socket stays open but unread: the peer's writes block, and it may read the answer. `last_bytes` are sent first.
async fn linger(mut stream: Stream, last_bytes: &[u8], limits: &ServerLimits) {
    if limits.linger_bytes_max == 0 {
        return;
    }
    let discard = async {
        stream.write_all(last_bytes).await?;
        stream.shutdown().await?;
        let mut buffer = vec![0; 16 * 1024];
        let mut discarded = 0;
        while discarded < limits.linger_bytes_max {
            match stream.read(&mut buffer).await? {
                0 => return io::Result::Ok(()),
                more => discarded += more,
            }
        }
        stream.closed().await;
        Ok(())
    };
    // The connection ends in either case.
    let _ = timeout(limits.linger, discard).await;
}

/// The body of an answer. The request counts as running until it is sent.
struct Counted {
    body: Body,
    running: Running,
    /// Other requests share the connection, so a stalled answer is given up alone. Its stream must stay open until its
    /// last piece is written, since an ended stream cannot be reset.
    multiplexed: bool,
    /// This applies to the answer: it has a tracked piece.
    followed: bool,
    /// hyper has all of it.
    ended: bool,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return self.running.poll_written(cx).map(|()| None);
        }
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => frame,
            Poll::Ready(None) if self.followed => {
                self.ended = true;
                return self.running.poll_written(cx).map(|()| None);
            }
            nothing => {
                // hyper asks for more, so it has written the pieces before. The peer is waited for only if there is
                // another one.
                self.running.waits_for_peer(nothing.is_ready());
                return nothing;
            }
        };
        let frame = frame.map(|frame| frame.map_data(|bytes| self.on_its_way(bytes)));
        if self.multiplexed {
            let bytes = frame.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
            self.running.sent(bytes);
        }
        // After the last piece hyper ends the body without another poll.
        if !self.is_end_stream() {
            self.running.waits_for_peer(true);
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        !self.followed && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Counted {
    /// Keeps the request running until the bytes are written; hyper drops a body long before. Small pieces are not
    /// tracked.
    fn on_its_way(&mut self, bytes: Bytes) -> Bytes {
        if bytes.len() <= FEW_BYTES {
            return bytes;
        }
        self.followed |= self.multiplexed;
        Bytes::from_owner(Part { bytes, _running: self.running.piece() })
    }
}

/// A piece of an answer, with the request that it keeps running.
struct Part {
    bytes: Bytes,
    _running: Running,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs the tasks of HTTP/2. The drain waits for them, and they end with their connection.
#[derive(Clone)]
struct Tracked {
    tasks: TaskTracker,
    cut: CancellationToken,
    activity: Arc<Activity>,
}

impl<Fut> Executor<Fut> for Tracked
where
    Fut: Future + Send + 'static,
    Fut::Output: Send,
{
    fn execute(&self, task: Fut) {
        let cut = self.cut.clone();
        let task = self.tasks.spawn(async move { cut.run_until_cancelled_owned(task).await.map(drop) });
        // hyper spawns the stream of a request right after it has called the service.
        self.activity.follow(task.abort_handle());
    }
}

/// An error with its causes, since hyper's message often lacks the one that explains it.
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
