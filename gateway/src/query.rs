//! Reads: rows as nested JSON, a page at a time, or the whole result as lines. This file checks paths and parameters.
//! `query/list.rs` gets the pages from the store, and `query/stream.rs` sends them one after the other as fast as the
//! reader takes them. The store counts and sorts, and a read holds one page in memory at a time.

mod audit;
mod cursor;
pub mod dead_letters;
pub mod jobs;
pub mod letter_summary;
mod list;
pub mod replay;
pub(crate) mod rows_as_json;
mod stream;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use eye_event::event::EventRow;
use eye_event::outcome::OutcomeKind;
use hyper::HeaderMap;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};
use tokio::sync::Semaphore;

#[cfg(fuzzing)]
pub use self::cursor::hold_cursors;
use self::list::{List, Listing};
pub use self::stream::Streams;
use self::stream::{Shared, StreamRequest};
use crate::batch::Batcher;
use crate::body::BodyLimits;
use crate::clock::Clock;
use crate::judging::Judges;
use crate::parameters::{Parameters, bad, id, word};
use crate::request_ids::RequestIds;
use crate::response::{self, Encoder, Encoding, Refusal, Response, of_store};
use crate::share::{Budget, Share};
use crate::store::{Bucket, CountFilter, EventFilter, PageLimits, SessionFilter, Store};
use crate::trust::StillKnown;
use crate::trust::visible::Visible;
use crate::turns::Turns;

/// Rows of a page, unless the reader asks for another number.
const ROWS: u32 = 100;
/// Most rows of a page.
const ROWS_MAX: u32 = 1_000;
/// Counts of a page, unless the reader asks for another number. A count is small, and a chart needs many.
const COUNTS: u32 = 1_000;
const COUNTS_MAX: u32 = 10_000;
/// Most buckets of one range.
const BUCKETS_MAX: i64 = 10_000;
/// The range of counts if the reader gives none: one day, in microseconds.
const COUNTED_US: i64 = 86_400_000_000;
/// Smaller answers are sent uncompressed, since compression would save little.
const COMPRESSED_BYTES_MIN: usize = 1_024;
/// After this many bytes the compression lets other tasks use the thread.
const PIECE_BYTES: usize = 128 * 1024;

/// The parts that reads use.
#[derive(Debug)]
pub struct Query {
    /// The database with events and dead letters.
    pub store: Store,
    /// The clock whose time is "now" for a reader.
    pub clock: Arc<Clock>,
    /// The turns at reading from the database.
    pub turns: Arc<Turns>,
    /// The streams of lines that readers take now.
    pub streams: Arc<Streams>,
    /// Most bytes of a page.
    pub page_bytes_max: usize,
    /// Redriving over HTTP.
    pub redriving: Redriving,
    /// Asking for replays.
    pub replaying: replay::Replaying,
}

/// The parts that redriving over HTTP uses.
#[derive(Debug)]
pub struct Redriving {
    /// Judges the events of the letters.
    pub judges: Judges,
    /// The queue of rows.
    pub events: Batcher<EventRow>,
    /// Bounds of the body that chooses the letters.
    pub body_limits: BodyLimits,
    /// The room for bodies in flight, in KiB.
    pub in_flight: Arc<Budget>,
    /// The time for the answer.
    pub answer: Duration,
    /// Held by the request that redrives, since one redrives at a time.
    pub turn: Arc<Semaphore>,
}

/// The kinds of reads, from the path of a request.
#[derive(Debug)]
pub enum Read<'a> {
    /// The events of a session.
    Session(Cow<'a, str>),
    /// One event of a session, by its id.
    SessionEvent(Cow<'a, str>, Cow<'a, str>),
    /// The sessions that were active in a time.
    Sessions,
    /// All categories and names, with counts.
    Categories,
    /// The events of a category.
    Category(Cow<'a, str>),
    /// The events of a time.
    Events,
    /// Counts in buckets of time.
    Stats,
    /// Events that were not stored.
    DeadLetters,
    /// The audit trail.
    Audit,
    /// The jobs.
    Jobs,
}

/// The reader of a request, as the handler needs it.
pub struct Reader<'a> {
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// The ids of the request, for the last line of a stream that ends early.
    pub ids: &'a RequestIds,
    /// What it may see.
    pub visible: &'a Arc<Visible>,
    /// The share of its application in the running reads.
    pub reads: &'a Arc<Share>,
    /// The share of its application in the streams.
    pub streams: &'a Arc<Share>,
    /// Makes the check whether the reader may still read, for a stream to repeat.
    pub still_known: &'a (dyn Fn() -> StillKnown + Sync),
}

impl Query {
    /// Answers a read.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadParameter`] names the parameter and its possible values. [`Refusal::NotFound`] when a single event
    /// does not exist. [`Refusal::ReadsFull`], [`Refusal::ReadSlow`], [`Refusal::ReadAway`].
    pub async fn answer(&self, reader: Reader<'_>, read: Read<'_>, query: Option<&str>) -> Result<Response, Refusal> {
        let (headers, visible) = (reader.headers, reader.visible);
        let now_us = self.clock.reading_us();
        let listing = match read {
            Read::SessionEvent(session_id, event_id) => {
                return self.one_event(&reader, &session_id, &event_id, query).await;
            }
            Read::Session(session_id) => session(visible, &session_id, query)?,
            Read::Category(category) => category_events(visible, &category, query)?,
            Read::Events => events(visible, query)?,
            Read::Sessions => sessions(visible, query)?,
            Read::Categories => Listing::new(
                visible,
                List::EventTypes,
                Parameters::read(query, &["limit", "cursor"])?,
                String::new(),
                "categories",
            ),
            Read::Stats => stats(visible, query, now_us)?,
            Read::DeadLetters => dead_letters::listing(visible, query)?,
            Read::Audit => audit::listing(visible, query)?,
            Read::Jobs => jobs::listing(visible, query)?,
        };
        let encoding = Encoding::accepted(&header(headers, &ACCEPT_ENCODING));
        // A reader that accepts neither gets JSON, which helps more than no answer.
        if response::preferred(&header(headers, &ACCEPT), &["application/json", "application/x-ndjson"]) == Some(1) {
            if listing.parameters.text("limit").is_some() {
                return Err(bad("limit", "is for pages; a stream of lines gives everything, so leave it out"));
            }
            let (ids, still_known) = (reader.ids.clone(), (reader.still_known)());
            let asked = StreamRequest { listing, encoding, now_us, ids, still_known };
            let shared = Shared { turns: &self.turns, reads: reader.reads, streams: reader.streams };
            return self.streams.start(&self.store, shared, asked).await;
        }
        let (usual, most) =
            if matches!(listing.list, List::Counts(_)) { (COUNTS, COUNTS_MAX) } else { (ROWS, ROWS_MAX) };
        let limits = PageLimits { rows: listing.parameters.limit(usual, most)?, bytes: self.page_bytes_max };
        let turn = self.turns.take(reader.reads).await?;
        let page = listing.page(&self.store, turn, listing.parameters.text("cursor"), limits, b',', now_us).await?;
        send(listing.whole(page), encoding).await
    }

    async fn one_event(
        &self,
        reader: &Reader<'_>,
        session_id: &str,
        event_id: &str,
        query: Option<&str>,
    ) -> Result<Response, Refusal> {
        let (session_id, event_id) = (id("session_id", session_id)?, id("id", event_id)?);
        Parameters::read(query, &[])?;
        let turn = self.turns.take(reader.reads).await?;
        let event = self.store.event(reader.visible, session_id, event_id).await.map_err(of_store)?;
        let event = event.ok_or(Refusal::NotFound)?;
        drop(turn);
        let mut body = Vec::new();
        rows_as_json::event(&mut body, &event);
        send(body, Encoding::accepted(&header(reader.headers, &ACCEPT_ENCODING))).await
    }
}

/// Joins the lines of a header. Several lines of `Accept` or `Accept-Encoding` mean the same as one.
pub(crate) fn header(headers: &HeaderMap, name: &HeaderName) -> String {
    let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    lines.join(",")
}

/// A whole answer, compressed if the reader accepts that and the answer is large enough.
async fn send(body: Vec<u8>, encoding: Encoding) -> Result<Response, Refusal> {
    if encoding == Encoding::Identity || body.len() < COMPRESSED_BYTES_MIN {
        return Ok(response::read(body));
    }
    let compress = async {
        let mut encoder = Encoder::new(encoding)?;
        let mut sent = Vec::new();
        for piece in body.chunks(PIECE_BYTES) {
            sent.extend(encoder.piece(piece.to_vec())?);
            tokio::task::yield_now().await;
        }
        sent.extend(encoder.finish()?);
        Ok::<_, std::io::Error>(sent)
    };
    let compressed = compress.await.map_err(|error| {
        tracing::error!(%error, "an answer could not be compressed");
        Refusal::Internal
    })?;
    Ok(response::compressed(response::read(compressed), encoding))
}

fn session(visible: &Arc<Visible>, session_id: &str, query: Option<&str>) -> Result<Listing, Refusal> {
    let session_id = id("session_id", session_id)?;
    let known = ["from", "to", "category", "name", "application", "order", "limit", "cursor"];
    let parameters = Parameters::read(query, &known)?;
    let filter = EventFilter { session_id: Some(session_id), ..filter(&parameters)? };
    Ok(Listing::new(visible, List::Events(filter), parameters, format!("\"session_id\":\"{session_id}\","), "events"))
}

fn category_events(visible: &Arc<Visible>, category: &str, query: Option<&str>) -> Result<Listing, Refusal> {
    let category = word("category", category)?;
    let known = ["from", "to", "name", "session_id", "application", "order", "limit", "cursor"];
    let parameters = Parameters::read(query, &known)?;
    let head = format!("\"category\":{},", rows_as_json::text(&category));
    let filter = EventFilter { category: Some(category), ..filter(&parameters)? };
    Ok(Listing::new(visible, List::Events(filter), parameters, head, "events"))
}

fn events(visible: &Arc<Visible>, query: Option<&str>) -> Result<Listing, Refusal> {
    let known = ["from", "to", "category", "name", "session_id", "application", "order", "limit", "cursor"];
    let parameters = Parameters::read(query, &known)?;
    let filter = filter(&parameters)?;
    let head = rows_as_json::range(filter.from_us, filter.to_us);
    Ok(Listing::new(visible, List::Events(filter), parameters, head, "events"))
}

fn filter(parameters: &Parameters) -> Result<EventFilter, Refusal> {
    let (from_us, to_us) = parameters.range()?;
    Ok(EventFilter {
        from_us,
        to_us,
        session_id: parameters.id("session_id")?,
        category: parameters.word("category")?,
        name: parameters.word("name")?,
        application: parameters.word("application")?,
        descending: parameters.choice("order", &[("asc", false), ("desc", true)])?,
    })
}

fn sessions(visible: &Arc<Visible>, query: Option<&str>) -> Result<Listing, Refusal> {
    let parameters = Parameters::read(query, &["from", "to", "limit", "cursor"])?;
    let (from_us, to_us) = parameters.range()?;
    let head = rows_as_json::range(from_us, to_us);
    Ok(Listing::new(visible, List::Sessions(SessionFilter { from_us, to_us }), parameters, head, "sessions"))
}

fn stats(visible: &Arc<Visible>, query: Option<&str>, now_us: i64) -> Result<Listing, Refusal> {
    let known = ["from", "to", "bucket", "application", "category", "name", "outcome", "limit", "cursor"];
    let parameters = Parameters::read(query, &known)?;
    let buckets = [("hour", Bucket::Hour), ("minute", Bucket::Minute), ("day", Bucket::Day)];
    let bucket = parameters.choice("bucket", &buckets)?;
    let outcomes = OutcomeKind::ALL.map(|kind| (kind.as_str(), kind.as_str()));
    let outcome = parameters.text("outcome").map(|_| parameters.choice("outcome", &outcomes)).transpose()?;
    let (from_us, to_us) = parameters.range()?;
    let to_us = to_us.or_else(|| Some(from_us?.saturating_add(COUNTED_US).max(now_us))).unwrap_or(now_us);
    let from_us = from_us.unwrap_or(to_us - COUNTED_US);
    // Buckets are whole, so the range grows to their edges.
    let width_us = bucket.width_us();
    let from_us = from_us.div_euclid(width_us) * width_us;
    let to_us = (to_us + width_us - 1).div_euclid(width_us) * width_us;
    if (to_us - from_us) / width_us > BUCKETS_MAX {
        return Err(bad(
            "bucket",
            "cuts this range into more than 10000 parts; ask for wider buckets or a shorter range",
        ));
    }
    let filter = CountFilter {
        bucket,
        from_us,
        to_us,
        category: parameters.word("category")?,
        name: parameters.word("name")?,
        application: parameters.word("application")?,
        outcome: outcome.map(str::to_owned),
    };
    let head = format!("{}\"bucket\":\"{}\",", rows_as_json::range(Some(from_us), Some(to_us)), bucket.as_str());
    Ok(Listing::new(visible, List::Counts(filter), parameters, head, "counts"))
}
