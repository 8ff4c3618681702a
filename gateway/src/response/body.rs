//! The body of an answer, whole or streamed. It holds the room of its bytes until they are sent.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use crate::share::Held;

/// The reason why a streamed body ended early. The server then breaks the connection, so that the client sees that the
/// answer is cut.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// An answer.
pub type Response = hyper::Response<Body>;

/// Most bytes of one frame of a whole answer, so that the room of the unsent rest is known.
const FRAME_BYTES: usize = 64 * 1024;
/// Up to this size the pieces of an answer are copied together instead of sent as two. Answers that hold room are
/// larger.
const COPIED_BYTES: usize = 2 * 1024;

/// The body of an answer: whole (the usual case, without a boxed stream) or streamed.
pub struct Body(Kind);

enum Kind {
    Whole(Bytes),
    /// A whole body in two pieces, which saves a copy.
    Joined(Bytes, Bytes),
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self(Kind::Whole(Bytes::new()))
    }

    /// A body whose bytes are made while it is sent.
    pub fn stream<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyError>,
    {
        Self(Kind::Stream(body.map_err(Into::into).boxed_unsync()))
    }

    /// The bytes of a whole body. A stream counts as 0, since it holds one piece at a time.
    pub fn whole_bytes(&self) -> usize {
        match &self.0 {
            Kind::Whole(bytes) => bytes.len(),
            Kind::Joined(first, rest) => first.len() + rest.len(),
            Kind::Stream(_) => 0,
        }
    }

    /// The same body. Its bytes hold `room` until the last of them is sent.
    pub fn holding(self, room: Held) -> Self {
        match self.0 {
            Kind::Whole(bytes) => Self(Kind::Whole(Bytes::from_owner(Kept { bytes, _room: room }))),
            Kind::Joined(first, rest) => {
                Self(Kind::Joined(first, Bytes::from_owner(Kept { bytes: rest, _room: room })))
            }
            Kind::Stream(_) => self,
        }
    }

    /// Adds a first member to a JSON object. Other bodies stay as they are.
    pub fn with_member(self, member: &str) -> Self {
        match self.0 {
            Kind::Whole(bytes) if bytes.starts_with(b"{") => {
                let (first, rest) = (format!("{{{member},"), bytes.slice(1..));
                // The held bytes stay one piece, so that their room is returned with the last of them.
                if rest.len() <= COPIED_BYTES {
                    Self(Kind::Whole([first.as_bytes(), &rest].concat().into()))
                } else {
                    Self(Kind::Joined(first.into(), rest))
                }
            }
            other => Self(other),
        }
    }
}

/// Bytes and the room that they take.
struct Kept {
    bytes: Bytes,
    _room: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Kind::Whole(bytes.into()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Whole(bytes) => f.debug_tuple("Whole").field(bytes).finish(),
            Kind::Joined(first, rest) => f.debug_tuple("Joined").field(first).field(rest).finish(),
            Kind::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let frame = bytes.split_to(bytes.len().min(FRAME_BYTES));
                Poll::Ready(Some(Ok(Frame::data(frame))))
            }
            Kind::Joined(first, rest) => {
                let (first, rest) = (std::mem::take(first), std::mem::take(rest));
                self.0 = Kind::Whole(rest);
                Poll::Ready(Some(Ok(Frame::data(first))))
            }
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Joined(..) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Joined(first, rest) => SizeHint::with_exact((first.len() + rest.len()) as u64),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}
