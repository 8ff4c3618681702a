//! The body of a request, as handlers read it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::doorbell::muted;
use super::socket::HalfClosed;

/// The body of a request.
pub struct Incoming {
    body: hyper::body::Incoming,
    /// Other requests may share the connection, whose window must grow with each piece that the handler reads.
    multiplexed: bool,
    /// The handler has read all of it.
    ended: bool,
    half_closed: Arc<HalfClosed>,
}

impl Incoming {
    pub(super) fn new(body: hyper::body::Incoming, multiplexed: bool, half_closed: Arc<HalfClosed>) -> Self {
        Self { body, multiplexed, ended: false, half_closed }
    }

    /// Reports when the sender has closed its sending half and may be gone, for answers that write nothing for long.
    pub fn half_closed(&self) -> Arc<HalfClosed> {
        Arc::clone(&self.half_closed)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // If a task other than the connection's reads the body, hyper's side of it may not have ended yet, and hyper
        // wakes no task when it does.
        if self.ended {
            return Poll::Ready(None);
        }
        let Self { body, multiplexed, ended, .. } = &mut *self;
        if *multiplexed {
            return Pin::new(body).poll_frame(cx);
        }
        // hyper 1.12 wakes the connection so that it reads on. After the last piece of a body with a length it has read
        // on already, up to the wait for the next request: the length is used up, and hyper's side of the body is
        // closed.
        let (frame, missed) = muted(|| Pin::new(&mut *body).poll_frame(cx));
        // A body without a length has no end before hyper reports it.
        *ended = matches!(frame, Poll::Ready(Some(Ok(_)))) && body.is_end_stream();
        if let Some(missed) = missed.filter(|_| !*ended) {
            missed.ring();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
