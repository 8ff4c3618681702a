//! Sends every outcome to the readers of live outcomes as it happens (server-sent events). Without a reader, a request pays
//! one atomic load and allocates nothing. With readers, outcomes gather for a tenth of a second within a budget, become text
//! once, and go to all readers as one shared page, so that hundreds of readers cost senders nothing. Outcomes beyond the
//! budget are counted in the next page. A reader that falls behind gets the number of outcomes that it missed, and goes on
//! from there. The server ends a reader that takes nothing at all. A limited reader gets the outcomes of visible events, and
//! no numbers of others.

use std::fmt::Write as _;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use eye_event::event::Text;
use eye_event::outcome::Outcome;
use eye_event::verdict::{Digest, Violation};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, futures::Notified};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::parameters::{Parameters, bad};
use crate::response::{self, Refusal, Response};
use crate::server::HalfClosed;
use crate::share::{Budget, Held, Share};
use crate::trust::StillKnown;
use crate::trust::visible::Visible;

/// How long outcomes gather before the readers get them.
const WINDOW: Duration = Duration::from_millis(100);
/// Heartbeat for a reader that has closed its sending half. If the reader is gone, writing the second one fails.
const HEARTBEAT_HALF_CLOSED: Duration = Duration::from_secs(1);
/// Windows in a second.
const WINDOWS: usize = 10;
/// Pages that a reader may fall behind before it misses outcomes.
const PAGES_MAX: usize = 64;
/// Characters of a violation's texts that readers get. The dead letter has the rest.
const VIOLATION_CHARACTERS_MAX: usize = 200;
/// The words for outcomes, in the order of the counts.
const WORDS: [&str; 5] = ["stored", "duplicate", "rejected", "quarantined", "unfinished"];
/// Index of the first word that is not of a good outcome.
const FIRST_BAD: usize = 2;

/// Bounds of the readers of live outcomes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most readers at once.
    pub readers_max: usize,
    /// Percent of these that one application may have alone.
    pub share_percent: usize,
    /// Time without outcomes after which a reader gets a heartbeat.
    pub heartbeat: Duration,
    /// Most outcomes of a second that readers get: of stored and duplicate events, and as many of all others.
    pub events_per_second_max: usize,
}

/// The place between requests, which add outcomes, and readers, which get them as pages.
#[derive(Debug)]
pub struct Live {
    /// Room for readers. Each holds a unit of it.
    readers: Arc<Budget>,
    /// Each reader keeps those with which it began.
    limits: ArcSwap<Limits>,
    /// Outcomes since the last page. Requests add to it, and the next page takes it.
    window: Mutex<Window>,
    /// Sends each page to all readers.
    pages: broadcast::Sender<Arc<Page>>,
    /// Wakes the writer of pages when a first reader comes.
    appeared: Notify,
    /// Ends all readers when the gateway stops.
    ended: CancellationToken,
    /// Outcomes of all pages, left out ones included. New readers begin to count from here.
    told: AtomicU64,
    /// Outcomes beyond the budget. Metrics read it.
    left_out: AtomicU64,
    /// Outcomes that slow readers missed. Metrics read it.
    missed: AtomicU64,
}

/// The notes of a request on one event, taken while it is judged if there is a reader.
#[derive(Debug)]
pub struct Watched {
    /// The event's session, if it could be read.
    pub session_id: Option<Uuid>,
    /// The event's category, if it could be read.
    pub category: Option<Text>,
    /// The event's name, if it could be read.
    pub name: Option<Text>,
    /// The module that judged it.
    pub module: Option<Digest>,
    /// The first reason of its rejection, as it is kept.
    pub reason: Option<Why>,
}

/// A violation without its message, which may quote a part of the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    pointer: String,
    code: String,
}

/// The outcomes since the last page.
#[derive(Debug, Default)]
struct Window {
    /// Outcomes for the next page.
    notes: Vec<Note>,
    /// Units of the budget that are taken: by stored and duplicate events, and by all others.
    taken: [usize; 2],
    /// Outcomes beyond the budget, for each word.
    left_out: [u64; WORDS.len()],
}

/// One outcome. It owns its texts, since the request ends long before the page.
#[derive(Debug)]
struct Note {
    kind: usize,
    application: String,
    category: Option<String>,
    name: Option<String>,
    id: Option<Uuid>,
    session_id: Option<Uuid>,
    code: Option<String>,
    violation: Option<Why>,
    module: Option<Digest>,
    at_us: i64,
}

/// What was taken back, for readers who see all events of its slot.
#[derive(Debug)]
struct Notice {
    category: Option<String>,
    name: Option<String>,
    text: String,
}

/// The outcomes of a window, for all readers.
#[derive(Debug)]
struct Page {
    messages: Vec<Message>,
    notices: Vec<Notice>,
    left_out: [u64; WORDS.len()],
    /// Outcomes of all pages before this one, left out ones included. Readers find out from it what they missed.
    before: u64,
}

#[derive(Debug)]
struct Message {
    kind: usize,
    application: String,
    category: Option<String>,
    name: Option<String>,
    text: String,
}

impl Live {
    /// Without a reader so far.
    pub fn new(limits: Limits) -> Self {
        Self {
            readers: Budget::new(limits.readers_max, limits.share_percent),
            limits: ArcSwap::from_pointee(limits),
            window: Mutex::default(),
            pages: broadcast::Sender::new(PAGES_MAX),
            appeared: Notify::new(),
            ended: CancellationToken::new(),
            told: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Changes the bounds. Readers go on, also those beyond a lower number.
    pub fn set_limits(&self, limits: Limits) {
        self.readers.resize(limits.readers_max, limits.share_percent);
        self.limits.store(Arc::new(limits));
    }

    /// Whether there is a reader. Without one, a request pays nothing else.
    pub fn watched(&self) -> bool {
        self.readers() > 0
    }

    /// Number of readers.
    pub fn readers(&self) -> usize {
        self.readers.taken()
    }

    /// Outcomes beyond the budget, which no reader got.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Outcomes that slow readers missed, summed over readers.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Ends all readers, and rejects new ones.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Adds the outcomes of a request, in the order of its events.
    pub fn tell(&self, application: &str, outcomes: &[Outcome], watched: Vec<Watched>, at_us: i64) {
        let budget = (self.limits.load().events_per_second_max / WINDOWS).max(1);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, watched) in outcomes.iter().zip(watched) {
            let kind = kind(outcome);
            // Each kind has a budget, so that a flood of good events does not hide the few bad ones.
            let taken = &mut window.taken[usize::from(kind >= FIRST_BAD)];
            if *taken < budget {
                *taken += 1;
                window.notes.push(Note::new(application, outcome, watched, kind, at_us));
            } else {
                window.left_out[kind] += 1;
            }
        }
    }

    /// Sends a page for each window to the readers, as long as it is polled. Sleeps while there are none.
    pub async fn run(&self) {
        loop {
            while !self.watched() {
                let appeared: Notified<'_> = self.appeared.notified();
                // The next reader has no use for the notes of one that has left.
                drop(self.gathered());
                appeared.await;
            }
            sleep(WINDOW).await;
            let Window { notes, left_out, .. } = self.gathered();
            let left_out_sum: u64 = left_out.iter().sum();
            let count = notes.len() as u64 + left_out_sum;
            if count > 0 {
                self.left_out.fetch_add(left_out_sum, Ordering::Relaxed);
                let messages = notes.into_iter().map(Message::from).collect();
                self.hand_out(messages, left_out, count);
            }
        }
    }

    fn hand_out(&self, messages: Vec<Message>, left_out: [u64; WORDS.len()], count: u64) {
        let before = self.told.fetch_add(count, Ordering::Relaxed);
        // Sending fails only if no reader is left.
        let _ = self.pages.send(Arc::new(Page { messages, notices: Vec::new(), left_out, before }));
    }

    /// Tells readers that the guard took back a module of this slot.
    pub fn tell_taken_back(&self, (category, name): (Option<&str>, Option<&str>), told: &serde_json::Value) {
        let mut text = String::new();
        push(&mut text, "taken_back", &told.to_string());
        let notice = Notice { category: category.map(str::to_owned), name: name.map(str::to_owned), text };
        let page = Page { messages: Vec::new(), notices: vec![notice], left_out: [0; WORDS.len()], before: 0 };
        let _ = self.pages.send(Arc::new(page));
    }

    fn gathered(&self) -> Window {
        mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn admit(self: &Arc<Self>, share: &Arc<Share>) -> Result<Place, Refusal> {
        if self.ended.is_cancelled() {
            return Err(Refusal::Draining);
        }
        let mut room = Held::none(&self.readers, share);
        if !room.grow_to(1) {
            return Err(Refusal::TooManyReaders { limit: self.readers.total(), full: room.full() });
        }
        self.appeared.notify_one();
        Ok(Place { live: Arc::clone(self), heartbeat: self.limits.load().heartbeat, _room: room })
    }
}

/// A reader's unit of the room for readers. Dropping it gives the unit back.
struct Place {
    live: Arc<Live>,
    /// The time between heartbeats when the reader came.
    heartbeat: Duration,
    _room: Held,
}

/// The last message to a reader.
const END: Bytes = Bytes::from_static(b"event: end\ndata: {}\n\n");

/// `GET /v1/live`: outcomes as server-sent events, until the reader leaves, may not read any more, or the gateway stops.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::TooManyReaders`], [`Refusal::Draining`].
pub fn watch(
    live: &Arc<Live>,
    visible: &Arc<Visible>,
    share: &Arc<Share>,
    query: Option<&str>,
    half_closed: Arc<HalfClosed>,
    still_known: StillKnown,
) -> Result<Response, Refusal> {
    let filter = Filter::read(query, visible)?;
    let place = live.admit(share)?;
    Ok(response::event_stream(stream(Reader::new(place, filter, half_closed, still_known))))
}

/// The outcomes that a reader asks for and may see.
#[derive(Debug, Default)]
struct Filter {
    visible: Arc<Visible>,
    /// For each of [`WORDS`], whether the reader wants it.
    kinds: [bool; WORDS.len()],
    application: Option<String>,
    category: Option<String>,
    name: Option<String>,
}

impl Filter {
    fn read(query: Option<&str>, visible: &Arc<Visible>) -> Result<Self, Refusal> {
        let parameters = Parameters::read(query, &["outcome", "application", "category", "name"])?;
        let mut kinds = [parameters.text("outcome").is_none(); WORDS.len()];
        for wanted in parameters.text("outcome").unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            let kind = WORDS.iter().position(|word| *word == wanted);
            let wanted =
                "must be one or more of stored, duplicate, rejected, quarantined and unfinished, with commas between";
            kinds[kind.ok_or_else(|| bad("outcome", wanted))?] = true;
        }
        let (application, category) = (parameters.word("application")?, parameters.word("category")?);
        Ok(Self { visible: Arc::clone(visible), kinds, application, category, name: parameters.word("name")? })
    }

    fn wants_notice(&self, notice: &Notice) -> bool {
        let fits =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || found.is_none() || wanted == found;
        self.application.is_none()
            && fits(&self.category, &notice.category)
            && fits(&self.name, &notice.name)
            && self.visible.shows_slot(notice.category.as_deref(), notice.name.as_deref())
    }

    fn wants(&self, message: &Message) -> bool {
        let fits =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        self.kinds[message.kind]
            && fits(&self.application, Some(&message.application))
            && fits(&self.category, message.category.as_deref())
            && fits(&self.name, message.name.as_deref())
            && self.visible.shows(&message.application, message.category.as_deref(), message.name.as_deref())
    }
}

/// One reader of live outcomes.
struct Reader {
    pages: broadcast::Receiver<Arc<Page>>,
    filter: Filter,
    place: Place,
    half_closed: Arc<HalfClosed>,
    /// It has closed its sending half, and gets heartbeats more often: only a failed write shows that it is gone.
    in_doubt: bool,
    /// Checked before each message.
    still_known: StillKnown,
    /// Number of outcomes up to here. Compared with the next page to find out what the reader missed.
    expected: u64,
}

impl Reader {
    fn new(place: Place, filter: Filter, half_closed: Arc<HalfClosed>, still_known: StillKnown) -> Self {
        // Subscribed first: the reader gets a page that comes in between, and none of it counts as missed.
        let pages = place.live.pages.subscribe();
        let expected = place.live.told.load(Ordering::Relaxed);
        Self { pages, filter, place, half_closed, in_doubt: false, still_known, expected }
    }

    /// Waits for the next message, and returns with it whether it is the last.
    async fn next(&mut self) -> (Bytes, bool) {
        let next = self.news().await;
        if (self.still_known)() { next } else { (END, true) }
    }

    async fn news(&mut self) -> (Bytes, bool) {
        const HEARTBEAT: Bytes = Bytes::from_static(b": the gateway lives\n\n");
        let live = Arc::clone(&self.place.live);
        let heartbeat = self.place.heartbeat;
        let beat = Instant::now() + if self.in_doubt { heartbeat.min(HEARTBEAT_HALF_CLOSED) } else { heartbeat };
        loop {
            tokio::select! {
                biased;
                () = live.ended.cancelled() => return (END, true),
                page = self.pages.recv() => match page {
                    Ok(page) => {
                        let text = self.text(&page);
                        if !text.is_empty() {
                            return (text.into(), false);
                        }
                    }
                    // The next page shows how much the reader missed.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return (Bytes::new(), true),
                },
                () = self.half_closed.wait(), if !self.in_doubt => {
                    self.in_doubt = true;
                    return (HEARTBEAT, false);
                }
                () = sleep_until(beat) => return (HEARTBEAT, false),
            }
        }
    }

    fn text(&mut self, page: &Page) -> String {
        let mut text = String::new();
        // Such a page has no outcomes, and says nothing of what this reader missed.
        if !page.notices.is_empty() {
            let wanted = page.notices.iter().filter(|notice| self.filter.wants_notice(notice));
            return wanted.map(|notice| notice.text.as_str()).collect();
        }
        let missed = page.before.saturating_sub(self.expected);
        self.expected = page.before + page.messages.len() as u64 + page.left_out.iter().sum::<u64>();
        if missed > 0 {
            self.place.live.missed.fetch_add(missed, Ordering::Relaxed);
            // The number has hidden outcomes too.
            let missed = Some(missed).filter(|_| self.filter.visible.is_all());
            push(&mut text, "missed", &json!({ "missed": missed }).to_string());
        }
        for message in page.messages.iter().filter(|message| self.filter.wants(message)) {
            text.push_str(&message.text);
        }
        if !self.filter.visible.is_all() {
            // The gateway counts left-out messages for all readers together, so the numbers would tell this reader about hidden
            // events.
            if page.left_out.iter().any(|count| *count > 0) {
                push(&mut text, "sampled", &json!({ "left_out": null }).to_string());
            }
            return text;
        }
        let left_out = || WORDS.iter().zip(page.left_out).zip(self.filter.kinds).filter(|(_, wanted)| *wanted);
        if left_out().any(|((_, count), _)| count > 0) {
            let counts: serde_json::Map<_, _> =
                left_out().map(|((word, count), _)| ((*word).to_owned(), count.into())).collect();
            push(&mut text, "sampled", &json!({ "left_out": counts }).to_string());
        }
        text
    }
}

fn stream(reader: Reader) -> impl Stream<Item = Bytes> + Send + 'static {
    // The first line is sent at once, so that the reader knows that it is connected.
    let hello = Bytes::from_static(b"retry: 1000\n\n");
    unfold((Some(reader), Some(hello)), async |(reader, hello)| {
        let mut reader = reader?;
        if let Some(hello) = hello {
            return Some((hello, (Some(reader), None)));
        }
        let (bytes, last) = reader.next().await;
        Some((bytes, (Some(reader).filter(|_| !last), None)))
    })
}

fn push(text: &mut String, event: &str, data: &str) {
    // Writing to a String cannot fail. JSON has no line breaks, so the data is one line.
    let _ = write!(text, "event: {event}\ndata: {data}\n\n");
}

fn kind(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Stored { .. } => 0,
        Outcome::Duplicate { .. } => 1,
        Outcome::Rejected { .. } => 2,
        Outcome::Quarantined { .. } => 3,
        Outcome::Unfinished { .. } => 4,
    }
}

impl Note {
    fn new(application: &str, outcome: &Outcome, watched: Watched, kind: usize, at_us: i64) -> Self {
        let (id, code) = match outcome {
            Outcome::Stored { id } | Outcome::Duplicate { id } => (Some(*id), None),
            Outcome::Rejected { id, code, .. } => (*id, Some(code.as_str())),
            Outcome::Quarantined { id, code } => (Some(*id), Some(&**code)),
            Outcome::Unfinished { id, why } => (*id, Some(why.code.as_str())),
        };
        let Watched { session_id, category, name, module, reason } = watched;
        Self {
            kind,
            application: application.to_owned(),
            category: category.map(|category| category.to_string()),
            name: name.map(|name| name.to_string()),
            id,
            session_id,
            code: code.map(ToOwned::to_owned),
            violation: reason,
            module,
            at_us,
        }
    }
}

impl Why {
    /// The part of a violation that readers get.
    pub fn of(violation: &Violation) -> Self {
        let cut = |text: &str| text.chars().take(VIOLATION_CHARACTERS_MAX).collect::<String>();
        Self { pointer: cut(&violation.pointer), code: cut(&violation.code) }
    }
}

impl From<Note> for Message {
    fn from(note: Note) -> Self {
        let at = DateTime::from_timestamp_micros(note.at_us).map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true));
        let data = json!({
            "outcome": WORDS[note.kind],
            "id": note.id,
            "session_id": note.session_id,
            "application": note.application,
            "category": note.category,
            "name": note.name,
            "code": note.code,
            "violation": note.violation,
            "validator": note.module,
            "at": at,
        });
        let mut text = String::new();
        push(&mut text, "outcome", &data.to_string());
        Self { kind: note.kind, application: note.application, category: note.category, name: note.name, text }
    }
}

#[cfg(test)]
mod tests;
