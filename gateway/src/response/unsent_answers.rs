//! Room for answers that are not sent yet. A client that reads slowly keeps its answers in memory, so they are counted
//! until their last byte is passed to the connection, and applications share the room. Answers to reads have a room of
//! their own, so that slow readers do not keep senders from sending.

use std::sync::Arc;

use super::{Refusal, Response};
use crate::share::{Budget, Held, Share};

/// Bytes of one unit of the room.
const UNIT_BYTES: usize = 1024;
/// Smaller answers are not counted, since their connection takes more memory.
const SMALL_BYTES: usize = 4 * 1024;

/// The room for answers.
#[derive(Debug)]
pub struct UnsentAnswers {
    reads: Arc<Budget>,
    /// The room of bodies in flight, for answers that report what was done.
    in_flight: Arc<Budget>,
}

impl UnsentAnswers {
    /// Makes room for `bytes_max` bytes of reads, of which one application alone may hold `share_percent`. `in_flight`
    /// is in KiB.
    pub fn new(bytes_max: usize, share_percent: usize, in_flight: Arc<Budget>) -> Self {
        Self { reads: Budget::new(bytes_max / UNIT_BYTES, share_percent), in_flight }
    }

    /// Changes the room for reads, see [`UnsentAnswers::new`].
    pub fn resize(&self, bytes_max: usize, share_percent: usize) {
        self.reads.resize(bytes_max / UNIT_BYTES, share_percent);
    }

    /// The bytes of reads that are not sent yet. The metrics read it.
    pub fn bytes(&self) -> usize {
        self.reads.taken() * UNIT_BYTES
    }

    /// Takes room for the answer to a read.
    ///
    /// # Errors
    ///
    /// [`Refusal::ReadsFull`] if the room is full.
    pub fn hold(&self, share: &Arc<Share>, response: Response) -> Result<Response, Refusal> {
        let bytes = response.body().whole_bytes();
        if bytes <= SMALL_BYTES {
            return Ok(response);
        }
        let mut room = Held::none(&self.reads, share);
        if room.grow_to(bytes.div_ceil(UNIT_BYTES)) {
            Ok(response.map(|body| body.holding(room)))
        } else {
            Err(Refusal::ReadsFull { full: room.full() })
        }
    }

    /// Takes room for an answer that reports what was done, among the bytes in flight of its application. It never
    /// refuses the answer: a client that does not read fills its own share, and its next requests are refused.
    pub fn hold_told(&self, share: &Arc<Share>, response: Response) -> Response {
        let bytes = response.body().whole_bytes();
        if bytes <= SMALL_BYTES {
            return response;
        }
        let mut room = Held::none(&self.in_flight, share);
        room.grow_within_share(bytes.div_ceil(UNIT_BYTES));
        response.map(|body| body.holding(room))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::StatusCode;

    use super::*;
    use crate::response::json;

    fn large() -> Response {
        json(StatusCode::OK, vec![b' '; 200 * 1024])
    }

    #[tokio::test]
    async fn an_answer_is_counted_until_its_last_byte_is_gone() {
        let (unsent, share) = (UnsentAnswers::new(1 << 20, 75, Budget::new(1_024, 75)), Arc::default());
        let mut body = unsent.hold(&share, large()).expect("there is room").into_body();
        assert_eq!((unsent.bytes(), share.held()), (200 * 1024, 200));
        let mut waiting = Vec::new();
        while let Some(frame) = body.frame().await {
            waiting.push(frame.expect("whole").into_data().expect("bytes"));
        }
        drop(body);
        assert_eq!((waiting.len(), unsent.bytes()), (4, 200 * 1024), "handed on in pieces, and not sent yet");
        waiting.truncate(1);
        assert_eq!(unsent.bytes(), 200 * 1024);
        waiting.clear();
        assert_eq!((unsent.bytes(), share.held()), (0, 0));
    }

    #[test]
    fn who_does_not_read_is_refused_first_and_what_was_done_is_always_told() {
        let in_flight = Budget::new(1_024, 75);
        let unsent = UnsentAnswers::new(1 << 20, 75, Arc::clone(&in_flight));
        let (hoarder, other) = (Arc::default(), Arc::default());
        let held: Vec<_> = std::iter::from_fn(|| unsent.hold(&hoarder, large()).ok()).collect();
        assert_eq!((held.len(), unsent.bytes()), (3, 600 * 1024));
        assert!(unsent.hold(&other, large()).is_ok());
        let sender = Arc::default();
        let _told: Vec<_> = (0..10).map(|_| unsent.hold_told(&sender, large())).collect();
        assert_eq!((in_flight.free(), sender.held()), (256, 768), "told in any case, and then its share is full");
        assert!(!Held::none(&in_flight, &sender).grow_to(1), "so nothing more is begun");
        assert!(Held::none(&in_flight, &Arc::default()).grow_to(200), "but by others");
        assert_eq!(unsent.bytes(), 600 * 1024, "which is nothing to those who read");
        let small = unsent.hold(&hoarder, json(StatusCode::OK, "{}"));
        assert!(small.is_ok(), "small answers are not counted");
    }
}
