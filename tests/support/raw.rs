//! HTTP/1.1 by hand over any stream, for requests that a well-behaved client would not send, on one connection.

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::PATIENCE;

/// The streams of a wire.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Told {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One connection.
pub(crate) struct Wire(Box<dyn Stream>);

impl Wire {
    pub(crate) async fn connect(address: &str) -> Wire {
        Wire::over(TcpStream::connect(address).await.expect("the gateway listens"))
    }

    pub(crate) fn over(stream: impl Stream + 'static) -> Wire {
        Wire(Box::new(stream))
    }

    /// Writes bytes. Returns whether the other side still accepted them.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let written = async { self.0.write_all(bytes).await.is_ok() && self.0.flush().await.is_ok() };
        timeout(PATIENCE, written).await.expect("the gateway reads or closes")
    }

    /// Closes the sending half; answers can still be read.
    pub(crate) async fn close_half(&mut self) {
        timeout(PATIENCE, self.0.shutdown()).await.expect("the gateway reads or closes").expect("open");
    }

    /// The next answer, or `None` if the connection ends before it is complete.
    pub(crate) async fn answer(&mut self) -> Option<Told> {
        timeout(PATIENCE, self.read_answer()).await.expect("the gateway answers or closes")
    }

    async fn read_answer(&mut self) -> Option<Told> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).expect("heads are text");
        let status = head.split(' ').nth(1)?.parse().expect("a status");
        let mut told = Told { status, head, body: String::new() };
        let length = told.header("content-length").map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.ok()?;
        told.body = String::from_utf8(body).expect("bodies are text");
        Some(told)
    }

    /// Everything until the other side closes or resets the connection.
    pub(crate) async fn rest(&mut self) -> String {
        String::from_utf8_lossy(&self.rest_bytes().await).into_owned()
    }

    /// The same as bytes.
    pub(crate) async fn rest_bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut bytes)).await.expect("the gateway closes");
        bytes
    }

    /// Sends one event with these headers, and returns the status.
    pub(crate) async fn send_event(&mut self, event: &Value, headers: &[(&str, &str)]) -> u16 {
        self.post("/v1/events", headers, &event.to_string()).await.expect("an answer").status
    }

    /// Posts JSON to this machine, unless the headers say otherwise.
    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Told> {
        let mut head = format!("POST {path} HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, usual) in [("host", "localhost"), ("content-type", "application/json")] {
            if !headers.iter().any(|(given, _)| *given == name) {
                head += &format!("{name}: {usual}\r\n");
            }
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.write(format!("{head}\r\n{body}").as_bytes()).await;
        self.answer().await
    }
}
