//! Counts the frames that an HTTP/2 peer sends beside its requests and bodies, as their bytes arrive. hyper does not
//! report such frames; most of them cost it little time and end nothing. A client needs a few for each request and each
//! piece of an answer. The server closes the connection of one that sends many more.

use std::time::Duration;

use tokio::time::Instant;

/// The first bytes of every HTTP/2 connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The bytes of length, kind, flags and stream of a frame.
const HEAD_BYTES: usize = 9;
/// The bytes of a GOAWAY frame.
pub(super) const FAREWELL_BYTES: usize = HEAD_BYTES + 8;
/// The kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// The error code of a GOAWAY frame for a peer that sends too much.
const ENHANCE_YOUR_CALM: u8 = 11;
/// Frames that a client may need for a request or a piece of an answer: one each for the windows of the stream and the
/// connection, one to cancel the stream, and one more.
const FRAMES_EACH: u64 = 4;
/// The bound holds on average over this time, since a delayed client sends its frames at once.
const OVER: Duration = Duration::from_secs(10);

/// The counter of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    place: Place,
    /// Frames beside requests and bodies that are allowed per second.
    per_second: u64,
    /// Frames that are allowed until the time is checked again.
    left: u64,
    since: Instant,
    /// Pieces of answers that were counted so far.
    answered: u64,
    /// The highest stream of a request. The GOAWAY frame names it.
    last_stream: u32,
}

/// The place of the next byte in the protocol.
#[derive(Debug)]
enum Place {
    /// This many bytes of the preface have arrived.
    Preface(usize),
    /// Within the head of a frame.
    Head([u8; HEAD_BYTES], usize),
    /// This many bytes of the payload are still missing.
    Payload(usize),
    /// The connection speaks HTTP/1.
    Other,
}

impl Frames {
    pub(super) fn new(per_second: u64) -> Self {
        let left = per_second.saturating_mul(OVER.as_secs());
        let (place, since) = (Place::Preface(0), Instant::now());
        Self { place, per_second, left, since, answered: 0, last_stream: 0 }
    }

    /// Reads the next bytes of a peer that was sent `answered` pieces of answers so far. Returns false if the peer must
    /// be closed.
    pub(super) fn take(&mut self, mut bytes: &[u8], answered: u64) -> bool {
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Other => return true,
                Place::Preface(known) => {
                    let next = bytes.len().min(PREFACE.len() - *known);
                    if bytes[..next] != PREFACE[*known..*known + next] {
                        self.place = Place::Other;
                        return true;
                    }
                    *known += next;
                    bytes = &bytes[next..];
                    if *known == PREFACE.len() {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
                Place::Head(head, known) => {
                    let next = bytes.len().min(HEAD_BYTES - *known);
                    head[*known..*known + next].copy_from_slice(&bytes[..next]);
                    *known += next;
                    bytes = &bytes[next..];
                    if *known == HEAD_BYTES {
                        let head = *head;
                        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                        self.place = if length == 0 { Place::Head(head, 0) } else { Place::Payload(length) };
                        if !self.count(head, length, answered) {
                            return false;
                        }
                    }
                }
                Place::Payload(left) => {
                    let next = bytes.len().min(*left);
                    *left -= next;
                    bytes = &bytes[next..];
                    if *left == 0 {
                        self.place = Place::Head([0; HEAD_BYTES], 0);
                    }
                }
            }
        }
        true
    }

    fn count(&mut self, head: [u8; HEAD_BYTES], length: usize, answered: u64) -> bool {
        match head[3] {
            HEADERS => {
                let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                self.last_stream = self.last_stream.max(stream);
                self.earn(1);
                true
            }
            // Bodies have bounds of their own.
            DATA if length > 0 => true,
            CONTINUATION => true,
            _ => {
                if self.left == 0 {
                    self.earn(answered - self.answered);
                    self.answered = answered;
                    let now = Instant::now();
                    let time = now - self.since;
                    let passed = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                    self.add(passed.saturating_mul(self.per_second) / 1_000);
                    self.since = now;
                }
                let goes_on = self.left > 0;
                self.left = self.left.saturating_sub(1);
                goes_on
            }
        }
    }

    fn earn(&mut self, pieces: u64) {
        self.add(pieces.saturating_mul(FRAMES_EACH));
    }

    fn add(&mut self, frames: u64) {
        let most = self.per_second.saturating_mul(OVER.as_secs());
        self.left = self.left.saturating_add(frames).min(most);
    }

    /// The GOAWAY frame with the reason.
    pub(super) fn farewell(&self) -> [u8; FAREWELL_BYTES] {
        let stream = self.last_stream.to_be_bytes();
        let mut frame = [0; FAREWELL_BYTES];
        (frame[2], frame[3]) = (8, GOAWAY);
        frame[HEAD_BYTES..HEAD_BYTES + 4].copy_from_slice(&stream);
        frame[HEAD_BYTES + 7] = ENHANCE_YOUR_CALM;
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame that is neither a request nor a body.
    const PING: u8 = 6;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    fn begun(per_second: u64) -> Frames {
        let mut frames = Frames::new(per_second);
        assert!(frames.take(PREFACE, 0));
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_ends_wherever_its_bytes_are_cut() {
        for kind in [2, 3, 4, PING, 8, 16, 200] {
            for step in [1, 7, 9, 1_000] {
                let mut frames = begun(1);
                let flood = frame(kind, 0, &[0; 8]).repeat(11);
                let ends = flood.chunks(step).position(|piece| !frames.take(piece, 0));
                assert_eq!(ends, Some((17 * 10 + 8) / step), "kind {kind}, {step} bytes at once");
            }
        }
        let mut empty = begun(1);
        assert!(empty.take(&frame(DATA, 1, &[]).repeat(10), 0) && !empty.take(&frame(DATA, 1, &[]), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_answers_and_time_allow_more() {
        let mut frames = begun(1);
        let ping = frame(PING, 0, &[0; 8]);
        for stream in 0..1_000 {
            let request = [frame(HEADERS, 2 * stream + 1, b"GET"), ping.repeat(4)].concat();
            assert!(frames.take(&request, 0));
        }
        assert_eq!(frames.farewell()[9..], [0, 0, 7, 207, 0, 0, 0, 11]);
        assert!(frames.take(&ping.repeat(6), 0));
        assert!(frames.take(&ping.repeat(8), 2) && !frames.take(&ping, 2), "two pieces of an answer");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(frames.take(&ping.repeat(3), 2) && !frames.take(&ping, 2));
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert!(frames.take(&ping.repeat(10), 2) && !frames.take(&ping, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_and_other_protocols_cost_nothing() {
        let mut frames = begun(1);
        assert!(frames.take(&frame(DATA, 1, &[0; 16_384]).repeat(1_000), 0));
        let mut other = Frames::new(1);
        assert!(other.take(b"PRI", 0) && other.take(b"NT / HTTP/1.1\r\n", 0));
        assert!(other.take(&frame(PING, 0, &[0; 8]).repeat(1_000), 0));
    }
}
