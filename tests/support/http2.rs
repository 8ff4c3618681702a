//! HTTP/2 by hand, for frames that a well-behaved client would not send.

use std::fmt::{Display, Formatter};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::PATIENCE;

/// An HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The start of an HTTP/2 connection: the preface and empty settings.
pub(crate) fn http2() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat()
}

/// `:method GET` or `POST`, and `:scheme http`.
pub(crate) const GET: &[u8] = &[0x82, 0x86];
pub(crate) const POST: &[u8] = &[0x83, 0x86];
/// The flags for the end of a stream and of its headers.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// The flag of an answer to a ping.
pub(crate) const ACK: u8 = 1;

/// A header with the index of its name in the static table, and a value.
pub(crate) fn literal(name: u8, value: &str) -> Vec<u8> {
    // Indexes beyond the four bits of the first byte continue in the next one.
    let name = if name < 15 { vec![name] } else { vec![15, name - 15] };
    let length = u8::try_from(value.len()).expect("short");
    [&name[..], &[length], value.as_bytes()].concat()
}

/// The headers of a request to this machine.
pub(crate) fn to(method: &[u8], path: &str) -> Vec<u8> {
    [method, &literal(4, path), &literal(1, "localhost")].concat()
}

/// The frames that an HTTP/2 peer got before the connection ended.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) goaway: Option<u32>,
    /// The reset streams, with their errors.
    pub(crate) resets: Vec<(u32, u32)>,
    pub(crate) pings: usize,
}

impl Heard {
    pub(crate) fn read(mut bytes: &[u8]) -> Heard {
        let mut heard = Heard::default();
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"));
        while bytes.len() >= 9 {
            let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
            let (kind, stream) = (bytes[3], word(&bytes[5..]));
            let Some(payload) = bytes.get(9..9 + length) else { break };
            match kind {
                3 => heard.resets.push((stream, word(payload))),
                6 if bytes[4] == ACK => heard.pings += 1,
                // The first one has the reason; another may follow.
                7 if heard.goaway.is_none() => heard.goaway = Some(word(&payload[4..])),
                _ => {}
            }
            bytes = &bytes[9 + length..];
        }
        heard
    }
}

impl Display for Heard {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        if !self.resets.is_empty() {
            let refused = self.resets.iter().filter(|(_, error)| *error == REFUSED_STREAM).count();
            write!(formatter, "{} streams reset, {refused} of them refused; ", self.resets.len())?;
        }
        if self.pings > 0 {
            write!(formatter, "{} pings answered; ", self.pings)?;
        }
        match self.goaway {
            Some(error) => write!(formatter, "GOAWAY {error}"),
            None => formatter.write_str("closed"),
        }
    }
}

pub(crate) const REFUSED_STREAM: u32 = 7;

/// Sends HTTP/2 frames, reads meanwhile, and returns what the gateway sent until it closed.
pub(crate) async fn heard(stream: impl AsyncRead + AsyncWrite, frames: Vec<u8>) -> Heard {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        // The gateway may close before it has read all of it.
        let _ = write.write_all(&[http2(), frames].concat()).await;
    };
    let mut bytes = Vec::new();
    let receive = read.read_to_end(&mut bytes);
    let both = async { tokio::join!(send, receive) };
    let ((), _) = timeout(PATIENCE, both).await.expect("the gateway closes");
    Heard::read(&bytes)
}
