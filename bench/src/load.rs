//! The load generator: raw HTTP/1.1 over kept-alive connections, one thread, requests made of prepared bytes. It notes
//! when each answer came and takes nothing for granted: every answer that does not say that all was stored is a failure.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::events::Source;

/// Longer than any answer may take.
const ANSWER_MOST: Duration = Duration::from_secs(20);
/// Requests of an open load that may be due and not sent.
const DUE_MAX: usize = 1 << 20;
/// How exactly an open load keeps its times.
const PACE: Duration = Duration::from_micros(100);

/// A source that several connections draw from.
pub(crate) type Shared = Arc<Mutex<Source>>;

/// A source to be shared.
pub(crate) fn shared(events_per_request: usize, types: usize) -> Shared {
    Arc::new(Mutex::new(Source::new(events_per_request, types)))
}

/// One kept-alive connection.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), answer: vec![0; 8 * 1024] })
    }

    /// Sends the request that was prepared, and gives the status; the answer's text is in `self.answer`.
    async fn exchange(&mut self) -> Result<(u16, usize)> {
        self.stream.write_all(&self.request).await?;
        let mut filled = 0;
        loop {
            if filled == self.answer.len() {
                self.answer.resize(filled * 2, 0);
            }
            let more = self.stream.read(&mut self.answer[filled..]).await?;
            ensure!(more > 0, "the connection was closed");
            filled += more;
            if let Some((status, size)) = head(&self.answer[..filled])
                && filled >= size
            {
                return Ok((status, size));
            }
        }
    }
}

/// The status of an answer and its size, once its head is complete.
fn head(answer: &[u8]) -> Option<(u16, usize)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..end]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some((status, end + length.unwrap_or(0)))
}

/// What all connections of a load count together.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    failures: AtomicU64,
    stop: AtomicBool,
    /// The first failure, for people.
    example: Mutex<Option<String>>,
}

impl Counts {
    fn note(&self, connection: &Connection, exchanged: Result<(u16, usize)>, wanted: &[u16]) -> Result<()> {
        let failure = match exchanged {
            Ok((status, _)) if wanted.contains(&status) => {
                self.requests.fetch_add(1, Relaxed);
                return Ok(());
            }
            Ok((_, size)) => String::from_utf8_lossy(&connection.answer[..size]).into_owned(),
            Err(error) => error.to_string(),
        };
        let broken = failure.is_empty() || !failure.starts_with("HTTP/");
        self.failures.fetch_add(1, Relaxed);
        self.example.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failure.clone());
        ensure!(!broken, failure);
        Ok(())
    }
}

/// What a load came to, in the time that was measured unless said otherwise.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Events stored a second.
    pub(crate) per_second: f64,
    /// Events stored.
    pub(crate) events: f64,
    /// What the probe said at the end, less what it said at the start.
    pub(crate) used: Vec<f64>,
    /// Requests that failed, over all of the load.
    pub(crate) failures: u64,
    /// The first of them.
    pub(crate) example: Option<String>,
    /// Events stored over all of the load, its start and end included.
    pub(crate) all_events: u64,
}

impl Tally {
    /// Refuses a load of which a request failed.
    pub(crate) fn sound(self) -> Result<Self> {
        match &self.example {
            Some(example) => bail!("{} requests failed; the first: {example}", self.failures),
            None => Ok(self),
        }
    }
}

/// A closed load: each connection sends its next request when the last is answered.
pub(crate) struct Closed {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) source: Shared,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

impl Closed {
    /// Runs it. `probe` tells what was used so far; it is asked at the start and at the end of what is measured.
    pub(crate) async fn run(&self, probe: impl Fn() -> Result<Vec<f64>>) -> Result<Tally> {
        let counts = Arc::new(Counts::default());
        let mut tasks = JoinSet::new();
        let mut connections = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            connections.push(Connection::open(self.address).await?);
        }
        for connection in connections {
            tasks.spawn(drive(connection, Arc::clone(&self.source), Arc::clone(&counts)));
        }
        tokio::time::sleep(self.warm_up).await;
        let (before, first, start) = (probe()?, counts.requests.load(Relaxed), Instant::now());
        tokio::time::sleep(self.window).await;
        let (last, took) = (counts.requests.load(Relaxed), start.elapsed());
        let after = probe()?;
        counts.stop.store(true, Relaxed);
        // A failure is in the counts already.
        let ended = async { while tasks.join_next().await.is_some() {} };
        tokio::time::timeout(ANSWER_MOST, ended).await.context("an answer did not come in time")?;
        let per_request = self.source.lock().unwrap_or_else(PoisonError::into_inner).events_per_request();
        let events = ((last - first) * per_request as u64) as f64;
        Ok(Tally {
            per_second: events / took.as_secs_f64(),
            events,
            used: after.iter().zip(&before).map(|(after, before)| after - before).collect(),
            failures: counts.failures.load(Relaxed),
            example: counts.example.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            all_events: counts.requests.load(Relaxed) * per_request as u64,
        })
    }
}

async fn drive(mut connection: Connection, source: Shared, counts: Arc<Counts>) -> Result<()> {
    while !counts.stop.load(Relaxed) {
        let wanted = {
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            source.fill(&mut connection.request);
            source.good_statuses()
        };
        let exchanged = connection.exchange().await;
        counts.note(&connection, exchanged, wanted)?;
    }
    Ok(())
}

/// An open load: requests are due at fixed times, whatever became of those before. The time of an answer counts from when
/// its request was due, so a stall is charged for all that it held up.
pub(crate) struct Open {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) source: Shared,
    pub(crate) per_second: f64,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

impl Open {
    /// Runs it, and gives the times of the answers in microseconds.
    pub(crate) async fn run(&self) -> Result<Histogram<u64>> {
        let counts = Arc::new(Counts::default());
        let times = Arc::new(Mutex::new(Histogram::<u64>::new(3)?));
        let (due, next) = mpsc::channel::<Instant>(DUE_MAX);
        let next = Arc::new(tokio::sync::Mutex::new(next));
        let start = Instant::now() + Duration::from_millis(50);
        let counted_from = start + self.warm_up;
        let mut tasks = JoinSet::new();
        for _ in 0..self.connections {
            let connection = Connection::open(self.address).await?;
            let (source, counts) = (Arc::clone(&self.source), Arc::clone(&counts));
            let (times, next) = (Arc::clone(&times), Arc::clone(&next));
            tasks.spawn(async move {
                let mut connection = connection;
                loop {
                    let Some(due) = next.lock().await.recv().await else { return anyhow::Ok(()) };
                    source.lock().unwrap_or_else(PoisonError::into_inner).fill(&mut connection.request);
                    let exchanged = connection.exchange().await;
                    if due >= counted_from {
                        let took_us = u64::try_from(due.elapsed().as_micros())?;
                        times.lock().unwrap_or_else(PoisonError::into_inner).record(took_us.max(1))?;
                    }
                    counts.note(&connection, exchanged, &[201])?;
                }
            });
        }
        let (every, end) = (Duration::from_secs_f64(1.0 / self.per_second), counted_from + self.window);
        let pacer = tokio::task::spawn_blocking(move || pace(start, end, every, &due));
        ensure!(pacer.await?, "the load fell behind by {DUE_MAX} requests");
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        let failures = counts.failures.load(Relaxed);
        ensure!(failures == 0, "{failures} requests failed, the first: {:?}", counts.example);
        let times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(times)
    }
}

/// Says when each request is due, on a thread of its own: the runtime's timers are a thousandth of a second coarse.
fn pace(start: Instant, end: Instant, every: Duration, due: &mpsc::Sender<Instant>) -> bool {
    let mut at = start;
    while at < end {
        let wait = at.saturating_duration_since(Instant::now());
        if wait > Duration::ZERO {
            std::thread::sleep(wait.max(PACE));
            continue;
        }
        if due.try_send(at).is_err() {
            return false;
        }
        at += every;
    }
    true
}
