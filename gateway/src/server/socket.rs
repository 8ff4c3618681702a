//! The byte stream of a connection, plain or TLS. It returns when hyper drops it, so that the end can be orderly. It
//! fails when the peer reads nothing for too long, or has reset the connection. A peer that has closed only its sending
//! half still reads; handlers can ask for that. This file knows no HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep};

use super::ServerLimits;
use super::activity::Activity;
use super::frames::Frames;
use crate::tls::TlsStream;

/// The time between two checks whether a peer whose bytes are not read has gone.
const CLOSED_LOOK: Duration = Duration::from_millis(20);

/// Up to this size, parts of one write (a head and its body) are copied together first. The copy is cheaper than a
/// vectored write.
const PIECE_BYTES: usize = 512;

/// The byte stream, plain or TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Ends when the peer has closed its side, whether or not bytes are left to read.
    pub(super) async fn closed(&self) {
        let socket = self.tcp();
        while socket.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
            sleep(CLOSED_LOOK).await;
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

/// Whether the peer has closed its sending half. It may be gone or wait for its answer; only a write shows which.
#[derive(Debug, Default)]
pub struct HalfClosed {
    closed: AtomicBool,
    told: Notify,
}

impl HalfClosed {
    pub(crate) fn set(&self) {
        if !self.closed.swap(true, Relaxed) {
            self.told.notify_waiters();
        }
    }

    /// Ends when the peer has closed its sending half.
    pub async fn wait(&self) {
        // Created before the check, so that no notification in between is missed.
        let told = self.told.notified();
        if !self.closed.load(Relaxed) {
            told.await;
        }
    }
}

/// A stream that returns to its owner when hyper drops it.
pub(super) struct Socket {
    stream: Option<Stream>,
    back: Option<oneshot::Sender<Stream>>,
    /// Set when bytes arrive. The check for heads reads it.
    heard: Arc<AtomicBool>,
    half_closed: Arc<HalfClosed>,
    /// Counts the frames that an HTTP/2 peer sends beside its requests.
    frames: Frames,
    activity: Arc<Activity>,
    /// The last write was complete, so another frame may follow.
    at_boundary: bool,
    /// Longest time in which a write may make no progress.
    write: Duration,
    /// The timer of a write that waits for the peer. It is reused, so that it is allocated once.
    waiting: Option<Pin<Box<Sleep>>>,
    stalled: bool,
}

impl Socket {
    pub(super) fn new(
        stream: Stream,
        limits: &ServerLimits,
        activity: Arc<Activity>,
    ) -> (Self, oneshot::Receiver<Stream>) {
        let (back, receiver) = oneshot::channel();
        let (heard, half_closed) = Default::default();
        let socket = Self {
            stream: Some(stream),
            back: Some(back),
            heard,
            half_closed,
            frames: Frames::new(limits.http2_control_frames_per_second_max),
            activity,
            at_boundary: true,
            write: limits.write,
            waiting: None,
            stalled: false,
        };
        (socket, receiver)
    }

    /// Whether the peer has closed its sending half.
    pub(super) fn half_closed(&self) -> Arc<HalfClosed> {
        Arc::clone(&self.half_closed)
    }

    /// Checks, without reading, whether the peer has closed its sending half or reset the connection. The task wakes
    /// when that happens. hyper reads nothing while a request is answered. So a half-closed connection is no error to
    /// it, and it would not notice that the peer has gone.
    fn look_at_peer(&self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let socket = stream.tcp();
        if socket.poll_read_ready(cx)?.is_pending() {
            return Ok(());
        }
        let Some(ready) = socket.ready(Interest::READABLE | Interest::WRITABLE).now_or_never().transpose()? else {
            return Ok(());
        };
        if ready.is_write_closed() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if ready.is_read_closed() {
            self.half_closed.set();
        }
        Ok(())
    }

    /// Set when bytes arrive. The reader clears it.
    pub(super) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }

    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("only drop takes the stream"))
    }

    /// Ends the connection of a peer that sends too many frames. In the middle of a frame of ours, no GOAWAY frame can
    /// follow.
    fn flooded(&mut self) -> io::Error {
        self.activity.flooded(self.at_boundary.then(|| self.frames.farewell()));
        io::Error::other("the peer sends too many frames beside its requests")
    }

    fn wrote(&mut self, written: &Poll<io::Result<usize>>, given: usize) {
        self.at_boundary = matches!(written, Poll::Ready(Ok(taken)) if *taken == given);
    }

    /// Passes the result of a write on, or fails it once the peer has read nothing for too long.
    fn timed<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = false;
            return written;
        }
        let deadline = Instant::now() + self.write;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if !std::mem::replace(&mut self.stalled, true) {
            waiting.as_mut().reset(deadline);
        }
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answers")))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(stream), Some(back)) = (self.stream.take(), self.back.take()) {
            // Without a receiver the connection was cut, and closes here.
            let _ = back.send(stream);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        let before = buffer.filled().len();
        let read = socket.stream().poll_read(cx, buffer);
        if buffer.filled().len() > before {
            socket.heard.store(true, Relaxed);
            if !socket.frames.take(&buffer.filled()[before..], socket.activity.pieces()) {
                return Poll::Ready(Err(socket.flooded()));
            }
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let written = socket.stream().poll_write(cx, bytes);
        socket.wrote(&written, bytes.len());
        socket.timed(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        // hyper flushes on each poll, whether or not it has written.
        socket.look_at_peer(cx)?;
        let flushed = socket.stream().poll_flush(cx);
        socket.timed(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        let shut = socket.stream().poll_shutdown(cx);
        socket.timed(cx, shut)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        let written = if bytes <= PIECE_BYTES {
            let (mut piece, mut filled) = ([0; PIECE_BYTES], 0);
            for slice in slices {
                piece[filled..filled + slice.len()].copy_from_slice(slice);
                filled += slice.len();
            }
            socket.stream().poll_write(cx, &piece[..filled])
        } else {
            socket.stream().poll_write_vectored(cx, slices)
        };
        socket.wrote(&written, bytes);
        socket.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_write_vectored)
    }
}
