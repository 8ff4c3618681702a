//! A connection that speaks the protocol of Postgres as writers need it: it sends many messages together and reads
//! their answers afterwards, so that a batch takes few round trips. A caller that gives up in the middle of an exchange
//! must drop the connection, which is out of step then.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use foldhash::{HashMap, HashMapExt as _};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use uuid::Uuid;

use super::cause;
use super::copy::{EPOCH_US, since_epoch};
use super::dial::{Stream, dial};
use super::url::{Address, Place};

/// Longest accepted message. Answers to writers are keys and numbers.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Most bytes that the server may send while the connection is still sending.
const UNHEARD_BYTES_MAX: usize = 32 << 20;
const READ_BYTES: usize = 16 << 10;
/// An output buffer that a large batch has grown beyond this size is shrunk.
const OUT_BYTES_MAX: usize = 1 << 20;

/// An error that the server reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The session continues.
    pub(super) in_order: bool,
    /// The SQLSTATE.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) constraint: Option<String>,
}

/// The errors of a connection.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(Box<Refusal>),
    /// The connection is unusable.
    Broken(io::Error),
}

impl Fault {
    /// Whether the server reported it and the session continues.
    pub(super) fn in_order(&self) -> bool {
        matches!(self, Fault::Refused(refusal) if refusal.in_order)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused(refusal) => write!(formatter, "{} (SQLSTATE {})", refusal.message, refusal.code),
            Fault::Broken(cause) => formatter.write_str(&cause::broken(cause)),
        }
    }
}

impl std::error::Error for Fault {}

impl From<io::Error> for Fault {
    fn from(cause: io::Error) -> Self {
        Fault::Broken(cause)
    }
}

impl From<Fault> for sqlx::Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Broken(cause) => sqlx::Error::Io(cause),
            refused @ Fault::Refused(_) => sqlx::Error::Protocol(refused.to_string()),
        }
    }
}

pub(super) fn broken(words: impl Into<String>) -> Fault {
    Fault::Broken(io::Error::other(words.into()))
}

/// A row of an answer.
#[derive(Clone, Debug)]
pub(super) struct Row(Vec<Option<Bytes>>);

impl Row {
    fn read(mut body: Bytes) -> Result<Row, Fault> {
        let short = || broken("a row of the answer is cut");
        let count = body.try_get_u16().map_err(|_| short())?;
        let mut fields = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let length = body.try_get_i32().map_err(|_| short())?;
            fields.push(match usize::try_from(length) {
                Ok(length) if length <= body.len() => Some(body.split_to(length)),
                Ok(_) => return Err(short()),
                Err(_) => None,
            });
        }
        Ok(Row(fields))
    }

    pub(super) fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Fault> {
        let field = self.0.get(at).and_then(Option::as_deref);
        field.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| broken("an answer is of another type"))
    }

    pub(super) fn i32(&self, at: usize) -> Result<i32, Fault> {
        Ok(i32::from_be_bytes(self.array(at)?))
    }

    pub(super) fn bool(&self, at: usize) -> Result<bool, Fault> {
        Ok(self.array::<1>(at)? != [0])
    }

    pub(super) fn uuid(&self, at: usize) -> Result<Uuid, Fault> {
        Ok(Uuid::from_bytes(self.array(at)?))
    }

    /// A time in microseconds since 1970.
    pub(super) fn time_us(&self, at: usize) -> Result<i64, Fault> {
        Ok(i64::from_be_bytes(self.array(at)?).saturating_add(EPOCH_US))
    }

    pub(super) fn bytes(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at)?.as_deref()
    }

    pub(super) fn text(&self, at: usize) -> Result<&str, Fault> {
        let text = self.bytes(at).and_then(|bytes| str::from_utf8(bytes).ok());
        text.ok_or_else(|| broken("an answer is no text"))
    }
}

/// The numbers of Postgres types, which never change.
pub(super) mod kind {
    pub(in crate::store) const BYTEA: u32 = 17;
    pub(in crate::store) const INT8: u32 = 20;
    pub(in crate::store) const INT4: u32 = 23;
    pub(in crate::store) const TEXT: u32 = 25;
    pub(in crate::store) const TID: u32 = 27;
    pub(in crate::store) const TIMESTAMPTZ: u32 = 1_184;
    pub(in crate::store) const UUID: u32 = 2_950;
    pub(in crate::store) const JSONB: u32 = 3_802;
}

/// Encodes the arguments of one statement, in the binary format.
pub(super) struct Arguments<'a> {
    out: &'a mut Vec<u8>,
    count: i16,
}

impl Arguments<'_> {
    /// Adds one value.
    pub(super) fn value(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        sized(self.out, encode);
        self.count += 1;
    }

    /// Adds an array. `encode` returns false for a null.
    pub(super) fn array<T>(
        &mut self,
        kind: u32,
        items: impl ExactSizeIterator<Item = T>,
        mut encode: impl FnMut(&mut Vec<u8>, T) -> bool,
    ) {
        self.value(|out| {
            let dimensions = i32::from(items.len() > 0);
            out.extend_from_slice(&dimensions.to_be_bytes());
            // The flag for nulls, which the server does not need.
            out.extend_from_slice(&1_i32.to_be_bytes());
            out.extend_from_slice(&kind.to_be_bytes());
            if dimensions > 0 {
                out.extend_from_slice(&length(items.len()).to_be_bytes());
                out.extend_from_slice(&1_i32.to_be_bytes());
            }
            for item in items {
                let start = out.len();
                out.extend_from_slice(&[0; 4]);
                let there = encode(out, item);
                let size = if there { length(out.len() - start - 4) } else { -1 };
                out[start..start + 4].copy_from_slice(&size.to_be_bytes());
            }
        });
    }

    pub(super) fn texts<'t>(&mut self, texts: impl ExactSizeIterator<Item = &'t str>) {
        self.array(kind::TEXT, texts, |out, text| {
            out.extend_from_slice(text.as_bytes());
            true
        });
    }

    pub(super) fn uuids(&mut self, uuids: impl ExactSizeIterator<Item = Uuid>) {
        self.array(kind::UUID, uuids, |out, uuid| {
            out.extend_from_slice(uuid.as_bytes());
            true
        });
    }

    pub(super) fn integers(&mut self, numbers: impl ExactSizeIterator<Item = i32>) {
        self.array(kind::INT4, numbers, |out, number| {
            out.extend_from_slice(&number.to_be_bytes());
            true
        });
    }

    pub(super) fn optional_integers(&mut self, numbers: impl ExactSizeIterator<Item = Option<i32>>) {
        self.array(kind::INT4, numbers, |out, number| {
            number.map(|number| out.extend_from_slice(&number.to_be_bytes())).is_some()
        });
    }

    pub(super) fn bigints(&mut self, numbers: impl ExactSizeIterator<Item = i64>) {
        self.array(kind::INT8, numbers, |out, number| {
            out.extend_from_slice(&number.to_be_bytes());
            true
        });
    }

    /// Adds a time in microseconds since 1970.
    pub(super) fn time(&mut self, time_us: i64) {
        self.value(|out| out.extend_from_slice(&since_epoch(time_us).to_be_bytes()));
    }

    /// Adds times in microseconds since 1970.
    pub(super) fn times(&mut self, times: impl ExactSizeIterator<Item = i64>) {
        self.array(kind::TIMESTAMPTZ, times, |out, time_us| {
            out.extend_from_slice(&since_epoch(time_us).to_be_bytes());
            true
        });
    }
}

fn length(size: usize) -> i32 {
    i32::try_from(size).expect("what is written is bounded far below 2 GiB")
}

/// Encodes bytes after their length, which does not count itself.
fn sized(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    encode(out);
    let size = length(out.len() - start - 4);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// One connection.
pub(super) struct Wire {
    stream: Stream,
    /// The messages to send, and how many of their bytes were sent.
    out: Vec<u8>,
    sent: usize,
    received: BytesMut,
    /// The prepared statements by text: the number in the name, and whether the server has it.
    statements: HashMap<&'static str, (usize, bool)>,
    /// The statements that were sent and not yet confirmed by the server.
    fresh: VecDeque<&'static str>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    /// Connects to one place and signs in.
    pub(super) async fn open(address: &Address, place: &Place, name: &str) -> Result<Wire, Fault> {
        let stream = dial(address, place).await?;
        let mut wire = Wire {
            stream,
            out: Vec::new(),
            sent: 0,
            received: BytesMut::new(),
            statements: HashMap::new(),
            fresh: VecDeque::new(),
        };
        wire.start(address, place, name).await?;
        Ok(wire)
    }

    async fn start(&mut self, address: &Address, place: &Place, name: &str) -> Result<(), Fault> {
        let parameters = [
            ("user", Some(address.user())),
            ("database", Some(address.database())),
            ("application_name", Some(name)),
            ("client_encoding", Some("UTF8")),
            ("options", address.options.as_deref()),
        ];
        let mut body = vec![0, 3, 0, 0];
        for (key, value) in parameters.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
            text(&mut body, key);
            text(&mut body, value);
        }
        body.push(0);
        self.out.extend_from_slice(&length(body.len() + 4).to_be_bytes());
        self.out.extend_from_slice(&body);
        self.send().await?;
        let mut scram = None;
        loop {
            let (kind, mut body) = self.message().await?;
            match kind {
                b'R' => {
                    let step = body.try_get_i32().map_err(|_| broken("what answers there is no Postgres"))?;
                    self.authenticate(step, &body, address, place, &mut scram).await?;
                }
                b'E' => return Err(refused(&body)),
                b'Z' => return Ok(()),
                _ => {}
            }
        }
    }

    async fn authenticate(
        &mut self,
        step: i32,
        body: &[u8],
        address: &Address,
        place: &Place,
        scram: &mut Option<ScramSha256>,
    ) -> Result<(), Fault> {
        let password = || {
            let none = "the server asks for a password, and there is none in database_url or its password file";
            address.password_for(place).map_err(broken)?.ok_or_else(|| broken(none))
        };
        let unsupported =
            || broken("the server asks for an authentication that is not supported (password and SCRAM are)");
        match step {
            0 => return Ok(()),
            3 => {
                let password = password()?;
                self.put(b'p', |out| text(out, &password));
            }
            5 => {
                let salt = body.try_into().map_err(|_| unsupported())?;
                let hash = md5_hash(address.user().as_bytes(), password()?.as_bytes(), salt);
                self.put(b'p', |out| text(out, &hash));
            }
            10 => {
                if !body.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(unsupported());
                }
                let begun = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
                self.put(b'p', |out| {
                    text(out, SCRAM_SHA_256);
                    sized(out, |out| out.extend_from_slice(begun.message()));
                });
                *scram = Some(begun);
            }
            11 => {
                let scram = scram.as_mut().ok_or_else(unsupported)?;
                scram.update(body)?;
                self.put(b'p', |out| out.extend_from_slice(scram.message()));
            }
            12 => return Ok(scram.as_mut().ok_or_else(unsupported)?.finish(body)?),
            _ => return Err(unsupported()),
        }
        self.send().await
    }

    /// Adds a message to the output.
    fn put(&mut self, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let start = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        encode(&mut self.out);
        let size = length(self.out.len() - start);
        self.out[start..start + 4].copy_from_slice(&size.to_be_bytes());
    }

    /// Adds statements as text. They are one transaction, unless they contain other commands.
    pub(super) fn script(&mut self, statements: &str) {
        self.put(b'Q', |out| text(out, statements));
    }

    /// Adds a statement with its arguments. It shares a transaction with those before and after it, up to
    /// [`Self::commit`].
    pub(super) fn statement(&mut self, statement: &'static str, arguments: impl FnOnce(&mut Arguments<'_>)) {
        let next = self.statements.len();
        let (number, known) = *self.statements.entry(statement).or_insert((next, false));
        let name = format!("eye_{number}");
        if !known && !self.fresh.contains(&statement) {
            self.fresh.push_back(statement);
            // After an error the server may still have a statement of that name.
            self.put(b'C', |out| {
                out.push(b'S');
                text(out, &name);
            });
            self.put(b'P', |out| {
                text(out, &name);
                text(out, statement);
                out.extend_from_slice(&[0; 2]);
            });
        }
        self.put(b'B', |out| {
            out.push(0);
            text(out, &name);
            // All arguments are binary.
            out.extend_from_slice(&[0, 1, 0, 1]);
            let start = out.len();
            out.extend_from_slice(&[0; 2]);
            let mut put = Arguments { out, count: 0 };
            arguments(&mut put);
            let count = put.count;
            out[start..start + 2].copy_from_slice(&count.to_be_bytes());
            // All answers are binary too.
            out.extend_from_slice(&[0, 1, 0, 1]);
        });
        self.put(b'E', |out| out.extend_from_slice(&[0; 5]));
    }

    /// Adds the end of the statements before it, which commits them.
    pub(super) fn commit(&mut self) {
        self.put(b'S', |_| {});
    }

    /// Asks for the answers so far and keeps the transaction open.
    pub(super) fn ask(&mut self) {
        self.put(b'H', |_| {});
    }

    /// Adds rows of a `copy`.
    pub(super) fn rows(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        self.put(b'd', encode);
    }

    /// Adds the end of a `copy`.
    pub(super) fn rows_end(&mut self) {
        self.put(b'c', |_| {});
    }

    /// Sends the output. It receives meanwhile, since a server that cannot send would stop reading.
    pub(super) async fn send(&mut self) -> Result<(), Fault> {
        let sent = poll_fn(|context| self.poll_send(context)).await;
        if let Err(cause) = sent {
            return Err(self.last_words(cause));
        }
        self.out.clear();
        self.out.shrink_to(OUT_BYTES_MAX);
        self.sent = 0;
        Ok(())
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let wrote = if self.sent < self.out.len() {
                Pin::new(&mut self.stream).poll_write(context, &self.out[self.sent..])
            } else {
                Pin::new(&mut self.stream).poll_flush(context).map_ok(|()| 0)
            };
            match wrote {
                Poll::Ready(Ok(0)) if self.sent < self.out.len() => {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending if self.received.len() > UNHEARD_BYTES_MAX => {
                    return Poll::Ready(Err(io::Error::other("the server says more than it listens")));
                }
                Poll::Pending => ready!(self.poll_receive(context))?,
            }
        }
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = self.received.len();
        self.received.resize(filled + READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.received[filled..]);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut buffer);
        let count = buffer.filled().len();
        self.received.truncate(filled + count);
        ready!(read)?;
        Poll::Ready(if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }

    /// Reads the error that a server sends before it closes a connection.
    fn last_words(&mut self, cause: io::Error) -> Fault {
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Ok(())) = self.poll_receive(&mut context) {}
        while let Ok(Some((kind, body))) = self.heard() {
            if kind == b'E' {
                return refused(&body);
            }
        }
        Fault::Broken(cause)
    }

    /// The next message, if all of it was received.
    fn heard(&mut self) -> Result<Option<(u8, Bytes)>, Fault> {
        let Some((&kind, rest)) = self.received.split_first() else { return Ok(None) };
        let Some(size) = rest.first_chunk::<4>() else { return Ok(None) };
        let size = usize::try_from(u32::from_be_bytes(*size)).unwrap_or(usize::MAX);
        if !(4..=MESSAGE_BYTES_MAX).contains(&size) {
            return Err(broken("what answers there is no Postgres, or out of step"));
        }
        if rest.len() < size {
            return Ok(None);
        }
        let mut message = self.received.split_to(size + 1).freeze();
        message.advance(5);
        Ok(Some((kind, message)))
    }

    /// The next message that is not one of those that may come at any time.
    async fn message(&mut self) -> Result<(u8, Bytes), Fault> {
        loop {
            match self.heard()? {
                // A notice, a notification, or a changed setting.
                Some((b'N' | b'A' | b'S', _)) => {}
                // The server has prepared a statement, which stays even if the transaction fails.
                Some((b'1', _)) => {
                    if let Some((_, known)) = self.fresh.pop_front().and_then(|fresh| self.statements.get_mut(fresh)) {
                        *known = true;
                    }
                }
                Some(message) => return Ok(message),
                None => {
                    if let Err(cause) = poll_fn(|context| self.poll_receive(context)).await {
                        return Err(self.last_words(cause));
                    }
                }
            }
        }
    }

    /// Reads the answers to this many statements. After an error the caller must call [`Self::give_up`].
    pub(super) async fn answers(&mut self, statements: usize) -> Result<Vec<Row>, Fault> {
        let (mut rows, mut done) = (Vec::new(), 0);
        while done < statements {
            match self.message().await? {
                (b'D', body) => rows.push(Row::read(body)?),
                (b'C', _) => done += 1,
                (b'E', body) => return Err(self.refused(&body)),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Reads all answers up to the end of the transaction, and returns their rows.
    pub(super) async fn finish(&mut self) -> Result<Vec<Row>, Fault> {
        let (mut rows, mut refusal) = (Vec::new(), None);
        loop {
            match self.message().await? {
                (b'D', body) => rows.push(Row::read(body)?),
                (b'E', body) => {
                    let said = self.refused(&body);
                    // The server closes the connection after this error.
                    if matches!(&said, Fault::Refused(refusal) if !refusal.in_order) {
                        return Err(said);
                    }
                    refusal.get_or_insert(said);
                }
                (b'Z', _) => return refusal.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Rolls the transaction back after an error of [`Self::answers`].
    pub(super) async fn give_up(&mut self) -> Result<(), Fault> {
        self.commit();
        self.send().await?;
        self.finish().await.map(|_| ())
    }

    /// Runs statements as text. The rows have text, too.
    pub(super) async fn run(&mut self, statements: &str) -> Result<Vec<Row>, Fault> {
        self.script(statements);
        self.send().await?;
        self.finish().await
    }

    /// Runs one statement in a transaction of its own.
    pub(super) async fn query(
        &mut self,
        statement: &'static str,
        arguments: impl FnOnce(&mut Arguments<'_>),
    ) -> Result<Vec<Row>, Fault> {
        self.statement(statement, arguments);
        self.commit();
        self.send().await?;
        self.finish().await
    }

    /// After an error the server skips the rest, so it has not prepared the unconfirmed statements.
    fn refused(&mut self, body: &[u8]) -> Fault {
        self.fresh.clear();
        refused(body)
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Reads an error: fields with a letter and a text each.
fn refused(body: &[u8]) -> Fault {
    let field = |letter: u8| {
        let mut fields = body.split(|byte| *byte == 0).filter_map(<[u8]>::split_first);
        fields.find(|(kind, _)| **kind == letter).map(|(_, words)| String::from_utf8_lossy(words).into_owned())
    };
    Fault::Refused(Box::new(Refusal {
        // `V` is never translated.
        in_order: field(b'V').or(field(b'S')).is_some_and(|severity| severity == "ERROR"),
        code: field(b'C').unwrap_or_default(),
        message: field(b'M').unwrap_or_default(),
        constraint: field(b'n'),
    }))
}
