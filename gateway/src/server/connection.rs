//! One connection: what comes before HTTP, the conversation, and an end that does not lose the last answer. Everything
//! that the peer can delay has a deadline, and what its requests spawn ends with it.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt as _};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::doors::{Class, Doors, Place};
use super::socket::{Socket, Stream};
use super::{HEADERS_UNASKED, ServerLimits};
use crate::gate::Gate;
use crate::response::{Body, BodyError, Refusal, Response};
use crate::tls;
use crate::trust::Peer;
use crate::trust::proxy_protocol::{self, Header};

/// What a connection without a request gets to end in after its farewell.
const GRACE: Duration = Duration::from_millis(100);

/// Pieces of answers up to this size are not followed on their way.
const FEW_BYTES: usize = 4 * 1024;

/// One accepted connection.
pub(super) struct Connection {
    pub(super) peer: SocketAddr,
    pub(super) limits: ServerLimits,
    pub(super) doors: Arc<Doors>,
    pub(super) shutdown: CancellationToken,
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Its place among those of its network; given up with it.
    pub(super) _place: Option<Place>,
}

impl Connection {
    pub(super) async fn serve<F, Fut>(mut self, stream: TcpStream, handler: F)
    where
        F: Fn(Request<Incoming>, Peer) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let _streams = self.cut.clone().drop_guard();
        // Each look at a token takes its lock, and every connection looks whenever it has something to do.
        self.shutdown = self.shutdown.child_token();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, peer = %self.peer, "cannot set TCP_NODELAY");
        }
        let greeted = tokio::select! {
            () = self.cut.cancelled() => return,
            () = self.shutdown.cancelled() => return,
            greeted = self.greet(stream) => greeted,
        };
        let Some((stream, peer, _place)) = greeted else { return };
        let activity = Arc::new(Activity::new());
        let (socket, mut stream) = Socket::new(stream, self.limits.write);
        self.converse(socket, peer, &activity, handler).await;
        let refused = activity.with(|state| state.refused);
        if let (true, Ok(stream)) = (refused, stream.try_recv()) {
            tokio::select! {
                () = self.cut.cancelled() => {}
                () = linger(stream, &self.limits) => {}
            }
        }
    }

    /// What comes before HTTP: the PROXY header if one must come, and the handshake of TLS. `None` if the peer fails at
    /// either, or takes too long.
    async fn greet(&self, mut stream: TcpStream) -> Option<(Stream, Peer, Option<Place>)> {
        let mut peer = Peer { address: Some(self.peer), certificate: None };
        let mut place = None;
        if self.doors.proxy_protocol {
            match timeout(self.limits.header_read, self.proxied(&mut stream)).await {
                Ok(Ok(source)) => peer.address = source,
                Ok(Err(_)) | Err(_) => return self.doors.refuse(Class::ProxyHeader, self.peer),
            }
            // Those for whom the proxy does not speak (its own checks) share its place.
            let counted = peer.address.unwrap_or(self.peer);
            place = self.doors.places.take(counted.ip(), self.limits.connections_per_peer_max);
            if place.is_none() {
                return self.doors.refuse(Class::TooMany, counted);
            }
        }
        let told = peer.address.unwrap_or(self.peer);
        let Some(tls) = &self.doors.tls else { return Some((Stream::Plain(stream), peer, place)) };
        match timeout(self.limits.tls_handshake, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                peer.certificate = tls::client_certificate(&stream);
                Some((Stream::Tls(Box::new(stream)), peer, place))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %told, "the TLS handshake failed");
                self.doors.refuse(Class::Handshake, told)
            }
            Err(_) => self.doors.refuse(Class::Handshake, told),
        }
    }

    /// Reads the PROXY header, and not one byte more.
    async fn proxied(&self, stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
        if !self.doors.is_proxy(self.peer.ip()) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut header = Vec::new();
        loop {
            match proxy_protocol::parse(&header, self.limits.proxy_header_bytes_max).map_err(io::Error::other)? {
                Header::Whole(source) => {
                    let source = source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()));
                    // Who is told to call from this machine is not known by that; a named proxy here may tell of others.
                    let tells = |source: &SocketAddr| !source.ip().is_loopback() || self.doors.is_proxy(source.ip());
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

    /// Speaks HTTP until the connection ends, is cut, is asked to end, or stays idle.
    async fn converse<F, Fut>(&self, socket: Socket, peer: Peer, activity: &Arc<Activity>, handler: F)
    where
        F: Fn(Request<Incoming>, Peer) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let requests = Arc::clone(activity);
        let service = service_fn(move |request: Request<Incoming>| {
            let running = Running::new(&requests, request.version());
            let handler = handler.clone();
            async move { Ok::<_, Infallible>(answer(handler, request, peer, running).await) }
        });
        let builder = self.builder(activity);
        let heard = socket.heard();
        let connection = builder.serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        let mut head = std::pin::pin!(None);
        // The conversation is looked at several times for each request; what may end it, only when it has something to say.
        let mut interruption = FuturesUnordered::new();
        interruption.push(self.interruption(activity, false, activity.look_at(&self.limits)));
        loop {
            tokio::select! {
                // What interrupts comes first: a peer that always sends something would use up the turn of all that follows.
                biased;
                Some(interrupted) = interruption.next() => {
                    let Interruption::Farewell { look_at } = interrupted else { return };
                    connection.as_mut().graceful_shutdown();
                    interruption.push(self.interruption(activity, true, look_at));
                }
                result = connection.as_mut() => {
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

    /// Waits for what ends a conversation from outside; `asked` once its farewell was said.
    async fn interruption(&self, activity: &Activity, asked: bool, look_at: Instant) -> Interruption {
        let mut idle = std::pin::pin!(sleep_until(look_at));
        loop {
            tokio::select! {
                () = self.cut.cancelled() => return Interruption::End,
                () = self.shutdown.cancelled(), if !asked => {
                    return Interruption::Farewell { look_at: activity.look_at(&self.limits) };
                }
                () = idle.as_mut() => {
                    // One moment for both: a part that is late only at the second look must not end the connection.
                    let now = Instant::now();
                    activity.reset_stalled(now, &self.limits);
                    if now < activity.deadline(&self.limits) {
                        idle.as_mut().reset(activity.look_at(&self.limits));
                    } else if asked || activity.with(|state| state.running) > 0 {
                        // A peer that does not take its answers would not hear the farewell either.
                        return Interruption::End;
                    } else {
                        // Who has sent no request has had all of its time.
                        let served = activity.with(|state| state.served);
                        let grace = if served { self.limits.header_read } else { GRACE.min(self.limits.header_read) };
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
            // It would take a timer for each request; see `Activity::poll_head`.
            .header_read_timeout(None)
            .keep_alive(true)
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

/// What is to become of a conversation that was interrupted.
enum Interruption {
    /// It ends after the requests that run. Whether it did is looked at again then.
    Farewell { look_at: Instant },
    /// It ends now.
    End,
}

/// Runs the handler; a panic in it costs this one request.
async fn answer<F, Fut>(
    handler: F,
    request: Request<Incoming>,
    peer: Peer,
    mut running: Running,
) -> hyper::Response<Counted>
where
    F: Fn(Request<Incoming>, Peer) -> Fut,
    Fut: Future<Output = Response>,
{
    let version = request.version();
    // In a block of its own: the handler may panic before it gives a future back. It is not used after a panic, so no
    // broken state of it can be seen.
    let work = AssertUnwindSafe(async move { handler(request, peer).await });
    let mut response = match work.catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            static TOLD: Gate = Gate::new();
            if let Some(more) = TOLD.open() {
                let reason = reason(panic.as_ref());
                tracing::error!(peer = ?peer.address, reason, more, "a request panicked");
            }
            Refusal::Internal.into_response()
        }
    };
    let status = response.status();
    let unread = status == StatusCode::PAYLOAD_TOO_LARGE || status == StatusCode::REQUEST_TIMEOUT;
    if (unread || status == StatusCode::UNAUTHORIZED) && version <= Version::HTTP_11 {
        // The rest of the body is not waited for, so the connection cannot carry another request. HTTP/2 can. And who is
        // not known is to take no place from those who are.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    running.answered(status);
    let multiplexed = version == Version::HTTP_2;
    response.map(|body| Counted { body, running, multiplexed, followed: false, ended: false })
}

fn reason(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Closing a socket that still has unread bytes makes the kernel reset it, and the reset can overtake the answer. So a
/// peer that was refused in the middle of its body may send on for a moment, into nothing. One that sends more than is
/// thrown away is read no further, but not closed either: it cannot write, and may find the answer meanwhile.
async fn linger(mut stream: Stream, limits: &ServerLimits) {
    if limits.linger_bytes_max == 0 {
        return;
    }
    let discard = async {
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
    // Either way the connection is over; that the peer was quicker or slower changes nothing.
    let _ = timeout(limits.linger, discard).await;
}

/// What a connection is doing, for its idle deadline.
#[derive(Debug)]
struct Activity {
    state: Mutex<ActivityState>,
    /// A request has begun or ended since the last look for a head.
    ran: AtomicBool,
}

#[derive(Debug)]
struct ActivityState {
    running: usize,
    /// Each part of an answer that waits for the peer to take it; the places of those that were taken are used again.
    unsent: Vec<Option<Unsent>>,
    /// Each request with what is left of its answer; places are used again.
    exchanges: Vec<Exchange>,
    /// Places of exchanges that are over.
    free: Vec<usize>,
    /// The exchange that began last, until its task is known.
    newest: Option<usize>,
    served: bool,
    /// It carries several requests at once, so that what comes is more than their heads and bodies.
    multiplexed: bool,
    refused: bool,
    since: Instant,
}

/// Whether a flag was set; clears it. Most often it was not, which costs no more than reading it.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Relaxed) && flag.swap(false, Relaxed)
}

/// A part of an answer that waits for the peer.
#[derive(Clone, Copy, Debug)]
struct Unsent {
    since: Instant,
    exchange: usize,
}

/// A request, until the last piece of its answer is written.
#[derive(Debug, Default)]
struct Exchange {
    /// What of it runs: the request, and each piece of its answer.
    running: usize,
    /// Pieces of its answer that are on their way.
    pieces: usize,
    /// The task of its stream, over HTTP/2. The stream is reset when it ends early.
    task: Option<AbortHandle>,
    /// When its stream was reset: the connection has as long again to be rid of its pieces.
    reset: Option<Instant>,
    /// Who waits for the last piece to be written.
    waiting: Option<Waker>,
}

impl Activity {
    fn new() -> Self {
        let state = ActivityState {
            running: 0,
            unsent: Vec::new(),
            exchanges: Vec::new(),
            free: Vec::new(),
            newest: None,
            served: false,
            multiplexed: false,
            refused: false,
            since: Instant::now(),
        };
        Self { state: Mutex::new(state), ran: AtomicBool::new(false) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut ActivityState) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends when a head has not come whole in its time. That begins with its first byte, and takes a timer only for the few
    /// heads that do not come in one piece. The first head of a connection has the time from its start; one of which all that
    /// came stands behind the request before it, in the same bytes, has that of an idle connection (see `deadline`).
    fn poll_head(
        &self,
        heard: &AtomicBool,
        mut head: Pin<&mut Option<Sleep>>,
        limits: &ServerLimits,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        // At each look, whether or not anything came: what a request brought with it is no head.
        let (heard, ran) = (take(heard), take(&self.ran));
        if heard || head.is_some() {
            let begun = self.with(|state| {
                let begun = !ran && state.served && !state.multiplexed && state.running == 0;
                if begun && head.is_none() {
                    // It has its own time, even if it came just before the connection was idle for too long.
                    state.since = Instant::now();
                }
                begun
            });
            if begun != head.is_some() {
                head.set(begun.then(|| sleep(limits.header_read)));
            }
        }
        head.as_pin_mut().map_or(Poll::Pending, |head| head.poll(cx))
    }

    /// When the peer will have been idle for too long, or will have left the oldest part of an answer for too long, if
    /// nothing happens until then.
    fn deadline(&self, limits: &ServerLimits) -> Instant {
        self.with(|state| {
            let since = |unsent: &Unsent| state.exchanges[unsent.exchange].reset.unwrap_or(unsent.since);
            if let Some(oldest) = state.unsent.iter().flatten().map(since).min() {
                oldest + limits.write
            } else if state.running > 0 {
                Instant::now() + limits.idle
            } else if state.served {
                state.since + limits.idle
            } else {
                state.since + limits.header_read
            }
        })
    }

    /// Ends the streams of which the peer has left a part for too long, and only those. What has no stream of its own, as
    /// over HTTP/1, is left to end the connection.
    fn reset_stalled(&self, now: Instant, limits: &ServerLimits) {
        self.with(|state| {
            let ActivityState { unsent, exchanges, .. } = state;
            for stalled in unsent.iter().flatten().filter(|unsent| unsent.since + limits.write <= now) {
                let exchange = &mut exchanges[stalled.exchange];
                if let Some(task) = exchange.task.take() {
                    task.abort();
                    exchange.reset = Some(now);
                }
            }
        });
    }

    /// When to look at the deadline, which an answer may bring nearer meanwhile.
    fn look_at(&self, limits: &ServerLimits) -> Instant {
        self.deadline(limits).min(Instant::now() + limits.write)
    }
}

/// What runs on a connection: a request from its head to the end of its answer's body, or a piece of an answer until it
/// is written.
struct Running {
    activity: Arc<Activity>,
    exchange: usize,
    /// It is a piece of an answer.
    piece: bool,
    /// Its place among what is not sent yet.
    unsent: Option<usize>,
}

impl Running {
    fn new(activity: &Arc<Activity>, version: Version) -> Self {
        activity.ran.store(true, Relaxed);
        let exchange = activity.with(|state| {
            state.running += 1;
            state.served = true;
            state.multiplexed = version == Version::HTTP_2;
            let exchange = state.free.pop().unwrap_or(state.exchanges.len());
            if exchange == state.exchanges.len() {
                state.exchanges.push(Exchange::default());
            }
            state.exchanges[exchange].running = 1;
            state.newest = Some(exchange);
            exchange
        });
        Self { activity: Arc::clone(activity), exchange, piece: false, unsent: None }
    }

    /// A piece of its answer that is on its way from now on.
    fn piece(&self) -> Self {
        let Self { activity, exchange, .. } = self;
        let mut unsent = None;
        activity.with(|state| {
            state.running += 1;
            state.exchanges[*exchange].running += 1;
            state.exchanges[*exchange].pieces += 1;
            state.note(*exchange, &mut unsent, true);
        });
        Self { activity: Arc::clone(activity), exchange: *exchange, piece: true, unsent }
    }

    fn answered(&mut self, status: StatusCode) {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| {
            state.refused = status.is_client_error() || status.is_server_error();
            state.note(*exchange, unsent, true);
        });
    }

    /// Notes whether the peer has something to take, from now on.
    fn waits_for_peer(&mut self, waits: bool) {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| state.note(*exchange, unsent, waits));
    }

    /// Whether every piece of its answer is written. Until then the pieces alone wait for the peer, and the last of them
    /// wakes who asked.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { activity, exchange, unsent, .. } = self;
        activity.with(|state| {
            if state.exchanges[*exchange].pieces == 0 {
                return Poll::Ready(());
            }
            state.note(*exchange, unsent, false);
            state.exchanges[*exchange].waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl ActivityState {
    /// Notes in `place` whether the peer has something to take of an exchange, from now on.
    fn note(&mut self, exchange: usize, place: &mut Option<usize>, waits: bool) {
        self.since = Instant::now();
        let part = Unsent { since: self.since, exchange };
        match (*place, waits) {
            (Some(taken), true) => self.unsent[taken] = Some(part),
            (Some(taken), false) => {
                self.unsent[taken] = None;
                *place = None;
            }
            (None, true) => {
                let free = self.unsent.iter().position(Option::is_none).unwrap_or(self.unsent.len());
                if free == self.unsent.len() {
                    self.unsent.push(None);
                }
                self.unsent[free] = Some(part);
                *place = Some(free);
            }
            (None, false) => {}
        }
    }

    /// Something of an exchange runs no more; gives who waits for that.
    fn leave(&mut self, place: usize, piece: bool) -> Option<Waker> {
        let exchange = &mut self.exchanges[place];
        exchange.running -= 1;
        exchange.pieces -= usize::from(piece);
        if exchange.running == 0 {
            *exchange = Exchange::default();
            self.free.push(place);
            // It may be over before its task is known.
            self.newest.take_if(|newest| *newest == place);
            return None;
        }
        if exchange.pieces == 0 { exchange.waiting.take() } else { None }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Self { activity, exchange, piece, unsent } = self;
        activity.ran.store(true, Relaxed);
        let waiting = activity.with(|state| {
            state.running -= 1;
            state.note(*exchange, unsent, false);
            state.leave(*exchange, *piece)
        });
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

/// The body of an answer, which counts as running until it is sent.
struct Counted {
    body: Body,
    running: Running,
    /// Whether other requests share the connection, so that this answer alone is given up when it is not taken. Its stream
    /// must not end before its last piece is written then: it could not be reset any more.
    multiplexed: bool,
    /// Whether that holds for it: it has a piece that is followed.
    followed: bool,
    /// All of it was handed on.
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
                // Asked for more, so what came before is on its way; it is the peer's turn only when there is something.
                self.running.waits_for_peer(nothing.is_ready());
                return nothing;
            }
        };
        let frame = frame.map(|frame| frame.map_data(|bytes| self.on_its_way(bytes)));
        // After the last piece the body ends anyway.
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
    /// Lets the bytes count as running until they are written: hyper is done with a body long before. Few bytes are not
    /// worth it.
    fn on_its_way(&mut self, bytes: Bytes) -> Bytes {
        if bytes.len() <= FEW_BYTES {
            return bytes;
        }
        self.followed |= self.multiplexed;
        Bytes::from_owner(Part { bytes, _running: self.running.piece() })
    }
}

/// A piece of an answer.
struct Part {
    bytes: Bytes,
    _running: Running,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs what HTTP/2 spawns: counted in the drain, ended with its connection.
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
        // hyper makes the stream of a request right after it has called the service with it.
        self.activity.with(|state| {
            if let Some(newest) = state.newest.take() {
                state.exchanges[newest].task = Some(task.abort_handle());
            }
        });
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
