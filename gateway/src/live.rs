//! Every outcome as it happens, for those who watch (server-sent events). While nobody does, a request pays one atomic
//! load and allocates nothing. With readers, outcomes gather for a tenth of a second within a budget, are written as text
//! once, and go to all readers as one shared page, so that hundreds of them cost senders nothing. What exceeds the
//! budget is counted and told; a reader that falls behind is told how much it missed, and goes on from there. One that
//! takes nothing at all is ended by the server, which bounds how long a peer may read nothing.

use std::fmt::Write as _;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

/// How long outcomes gather before they are told.
const WINDOW: Duration = Duration::from_millis(100);
/// The heartbeat of a reader that has closed its sending half: if it is gone, the second one cannot be written.
const HEARTBEAT_HALF_CLOSED: Duration = Duration::from_secs(1);
/// Windows in a second.
const WINDOWS: usize = 10;
/// Pages that a reader may fall behind before it misses some.
const PAGES_MAX: usize = 64;
/// Characters of a violation's texts that are told; the dead letter has the rest.
const VIOLATION_CHARACTERS_MAX: usize = 200;
/// The words for outcomes, in the order in which they are counted.
const WORDS: [&str; 5] = ["stored", "duplicate", "rejected", "quarantined", "unfinished"];
/// The first of them that is no good one.
const FIRST_BAD: usize = 2;

/// Bounds of watching.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Readers at once.
    pub readers_max: usize,
    /// How many of them an application that is alone may have, in percent.
    pub share_percent: usize,
    /// Time without anything to tell after which a reader is told that the gateway lives.
    pub heartbeat: Duration,
    /// Outcomes told in a second, of stored and duplicate ones, and as many of the others.
    pub events_per_second_max: usize,
}

/// Where requests tell their outcomes and readers find them.
#[derive(Debug)]
pub struct Live {
    readers: Arc<Budget>,
    limits: Limits,
    window: Mutex<Window>,
    pages: broadcast::Sender<Arc<Page>>,
    appeared: Notify,
    ended: CancellationToken,
    /// Outcomes that were handed out in pages, those left out among them.
    told: AtomicU64,
    left_out: AtomicU64,
    missed: AtomicU64,
}

/// What a request notes of an event while it is judged, if somebody watches.
#[derive(Debug)]
pub struct Watched {
    /// The event's session, where it could be read.
    pub session_id: Option<Uuid>,
    /// The event's category, where it could be read.
    pub category: Option<Text>,
    /// The event's name, where it could be read.
    pub name: Option<Text>,
    /// The module that judged it.
    pub module: Option<Digest>,
    /// The first reason for which it was rejected, as it is kept.
    pub reason: Option<Why>,
}

/// A violation without its message, which may quote what was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Why {
    pointer: String,
    code: String,
}

/// What has gathered.
#[derive(Debug, Default)]
struct Window {
    notes: Vec<Note>,
    /// Taken of the budget: by stored and duplicate events, by others.
    taken: [usize; 2],
    left_out: [u64; WORDS.len()],
}

/// One outcome, with nothing that belongs to its request: that is freed long before.
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

/// What all readers are told of a window.
#[derive(Debug)]
struct Page {
    messages: Vec<Message>,
    left_out: [u64; WORDS.len()],
    /// How many outcomes all pages before it had, those left out among them.
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
    /// Nobody watches yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            readers: Budget::new(limits.readers_max, limits.share_percent),
            limits,
            window: Mutex::default(),
            pages: broadcast::Sender::new(PAGES_MAX),
            appeared: Notify::new(),
            ended: CancellationToken::new(),
            told: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Whether anybody watches. All that a request pays if not.
    pub fn watched(&self) -> bool {
        self.readers() > 0
    }

    /// How many watch.
    pub fn readers(&self) -> usize {
        self.readers.total().saturating_sub(self.readers.free())
    }

    /// Outcomes that were told to nobody although somebody watched, because there were too many.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Outcomes that readers missed because they were too slow, summed over readers.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Ends all readers, and lets none in.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Tells the outcomes of a request, in the order of its events.
    pub fn tell(&self, application: &str, outcomes: &[Outcome], watched: Vec<Watched>, at_us: i64) {
        let budget = (self.limits.events_per_second_max / WINDOWS).max(1);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, watched) in outcomes.iter().zip(watched) {
            let kind = kind(outcome);
            // Apart, so that a flood of good events does not hide the few bad ones.
            let taken = &mut window.taken[usize::from(kind >= FIRST_BAD)];
            if *taken < budget {
                *taken += 1;
                window.notes.push(Note::new(application, outcome, watched, kind, at_us));
            } else {
                window.left_out[kind] += 1;
            }
        }
    }

    /// Hands what has gathered to the readers, for as long as it is polled. Sleeps while there are none.
    pub async fn run(&self) {
        loop {
            while !self.watched() {
                let appeared: Notified<'_> = self.appeared.notified();
                // What was noted for a reader that has left is of no use to the next one.
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
        // Without a reader left, nobody is to be told.
        let _ = self.pages.send(Arc::new(Page { messages, left_out, before }));
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
            return Err(Refusal::TooManyReaders { limit: self.limits.readers_max, full: room.full() });
        }
        self.appeared.notify_one();
        Ok(Place { live: Arc::clone(self), _room: room })
    }
}

/// A reader's place among those that are allowed.
struct Place {
    live: Arc<Live>,
    _room: Held,
}

/// What a reader is told last.
const END: Bytes = Bytes::from_static(b"event: end\ndata: {}\n\n");

/// `GET /v1/live`: outcomes as server-sent events, until the reader leaves, may not read any more, or the gateway stops.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::TooManyReaders`], [`Refusal::Draining`].
pub fn watch(
    live: &Arc<Live>,
    share: &Arc<Share>,
    query: Option<&str>,
    half_closed: Arc<HalfClosed>,
    still_known: StillKnown,
) -> Result<Response, Refusal> {
    let filter = Filter::read(query)?;
    let place = live.admit(share)?;
    Ok(response::event_stream(stream(Reader::new(place, filter, half_closed, still_known))))
}

/// Which outcomes a reader is told.
#[derive(Debug, Default)]
struct Filter {
    /// By place in [`WORDS`].
    kinds: [bool; WORDS.len()],
    application: Option<String>,
    category: Option<String>,
    name: Option<String>,
}

impl Filter {
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let parameters = Parameters::read(query, &["outcome", "application", "category", "name"])?;
        let mut kinds = [parameters.text("outcome").is_none(); WORDS.len()];
        for wanted in parameters.text("outcome").unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
            let kind = WORDS.iter().position(|word| *word == wanted);
            let wanted =
                "must be one or more of stored, duplicate, rejected, quarantined and unfinished, with commas between";
            kinds[kind.ok_or_else(|| bad("outcome", wanted))?] = true;
        }
        let (application, category) = (parameters.word("application")?, parameters.word("category")?);
        Ok(Self { kinds, application, category, name: parameters.word("name")? })
    }

    fn wants(&self, message: &Message) -> bool {
        let fits =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        self.kinds[message.kind]
            && fits(&self.application, Some(&message.application))
            && fits(&self.category, message.category.as_deref())
            && fits(&self.name, message.name.as_deref())
    }
}

/// One who watches.
struct Reader {
    pages: broadcast::Receiver<Arc<Page>>,
    filter: Filter,
    place: Place,
    half_closed: Arc<HalfClosed>,
    /// It has closed its sending half, and is written to more often: nothing else tells whether it is gone.
    in_doubt: bool,
    /// Looked at before it is told anything.
    still_known: StillKnown,
    /// How many outcomes there were up to here.
    expected: u64,
}

impl Reader {
    fn new(place: Place, filter: Filter, half_closed: Arc<HalfClosed>, still_known: StillKnown) -> Self {
        // In this order: a page that comes between is one that this reader gets, and none of it counts as missed.
        let pages = place.live.pages.subscribe();
        let expected = place.live.told.load(Ordering::Relaxed);
        Self { pages, filter, place, half_closed, in_doubt: false, still_known, expected }
    }

    /// What there is to tell next, and whether it is the last.
    async fn next(&mut self) -> (Bytes, bool) {
        let next = self.news().await;
        if (self.still_known)() { next } else { (END, true) }
    }

    async fn news(&mut self) -> (Bytes, bool) {
        const HEARTBEAT: Bytes = Bytes::from_static(b": the gateway lives\n\n");
        let live = Arc::clone(&self.place.live);
        let heartbeat = live.limits.heartbeat;
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
                    // The next page tells how much was missed.
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
        let missed = page.before.saturating_sub(self.expected);
        self.expected = page.before + page.messages.len() as u64 + page.left_out.iter().sum::<u64>();
        if missed > 0 {
            self.place.live.missed.fetch_add(missed, Ordering::Relaxed);
            push(&mut text, "missed", &json!({ "missed": missed }).to_string());
        }
        for message in page.messages.iter().filter(|message| self.filter.wants(message)) {
            text.push_str(&message.text);
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
    // The first line goes out at once, so that the reader knows that it is connected.
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
    /// As much of a violation as is told.
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
mod tests {
    use super::*;
    use crate::share::Full;
    use eye_event::verdict::{Unfinished, UnfinishedCode};

    fn live(events_per_second_max: usize) -> Arc<Live> {
        let heartbeat = Duration::from_secs(10);
        Arc::new(Live::new(Limits { readers_max: 2, share_percent: 100, heartbeat, events_per_second_max }))
    }

    fn reader(live: &Arc<Live>, query: &str) -> Reader {
        let filter = Filter::read(Some(query)).expect("a filter");
        Reader::new(live.admit(&Arc::default()).expect("room"), filter, Arc::default(), Box::new(|| true))
    }

    fn tell(live: &Live, stored: usize, rejected: usize) {
        let outcome = |place: usize| {
            if place < stored {
                Outcome::Stored { id: Uuid::from_u128(place as u128) }
            } else if place.is_multiple_of(2) {
                Outcome::Quarantined { id: Uuid::from_u128(place as u128), code: "trap".into() }
            } else {
                let (id, why) = (Some(Uuid::from_u128(place as u128)), Unfinished::of(UnfinishedCode::ModuleBusy));
                Outcome::Unfinished { id, why }
            }
        };
        let outcomes: Vec<Outcome> = (0..stored + rejected).map(outcome).collect();
        let watched = |_: &Outcome| Watched {
            session_id: None,
            category: Some("a".into()),
            name: None,
            module: None,
            reason: None,
        };
        live.tell("shop", &outcomes, outcomes.iter().map(watched).collect(), 0);
    }

    fn page(live: &Live) {
        let Window { notes, left_out, .. } = live.gathered();
        let count = notes.len() as u64 + left_out.iter().sum::<u64>();
        live.hand_out(notes.into_iter().map(Message::from).collect(), left_out, count);
    }

    async fn text(reader: &mut Reader) -> String {
        String::from_utf8(reader.next().await.0.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn a_flood_of_good_events_hides_no_bad_one_and_is_told() {
        let live = live(100);
        let (mut all, mut bad) = (reader(&live, ""), reader(&live, "outcome=quarantined,unfinished"));
        tell(&live, 1_000, 3);
        page(&live);
        let seen = text(&mut all).await;
        assert_eq!(seen.matches("\"outcome\":\"stored\"").count(), 10);
        assert_eq!(seen.matches("\"outcome\":\"quarantined\"").count(), 2);
        assert_eq!(seen.matches("\"code\":\"module_busy\"").count(), 1);
        assert!(seen.ends_with("event: sampled\ndata: {\"left_out\":{\"duplicate\":0,\"quarantined\":0,\"rejected\":0,\"stored\":990,\"unfinished\":0}}\n\n"), "{seen}");
        let seen = text(&mut bad).await;
        assert_eq!((seen.matches("event: outcome").count(), seen.contains("sampled")), (3, false), "{seen}");
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_how_much_it_missed_and_goes_on() {
        let live = live(1_000);
        let mut slow = reader(&live, "category=a&application=shop");
        tell(&live, 1, 0);
        page(&live);
        assert_eq!(text(&mut slow).await.matches("event: outcome").count(), 1);
        let mut late = reader(&live, "");
        for _ in 0..PAGES_MAX + 5 {
            tell(&live, 2, 1);
            page(&live);
        }
        let seen = text(&mut slow).await;
        assert!(seen.starts_with("event: missed\ndata: {\"missed\":15}\n\n"), "{seen}");
        assert_eq!((seen.matches("event: outcome").count(), live.missed()), (3, 15));
        let seen = text(&mut late).await;
        assert!(seen.starts_with("event: missed\ndata: {\"missed\":15}\n\n"), "also before its first page: {seen}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_reader_hears_that_the_gateway_lives_and_that_it_ends() {
        let live = live(1_000);
        let mut quiet = reader(&live, "name=none");
        tell(&live, 1, 0);
        page(&live);
        assert!(text(&mut quiet).await.starts_with(": "));
        live.end();
        assert_eq!(quiet.next().await, (END, true));
        assert!(matches!(live.admit(&Arc::default()), Err(Refusal::Draining)));
    }

    #[test]
    fn one_application_does_not_take_all_places() {
        let limits =
            Limits { readers_max: 8, share_percent: 75, heartbeat: Duration::from_secs(10), events_per_second_max: 10 };
        let (live, greedy, other) = (Arc::new(Live::new(limits)), Arc::default(), Arc::default());
        let taken: Vec<_> = std::iter::from_fn(|| live.admit(&greedy).ok()).collect();
        assert_eq!((taken.len(), live.readers()), (6, 6));
        let refused = live.admit(&greedy).err();
        assert_eq!(refused, Some(Refusal::TooManyReaders { limit: 8, full: Full::Application }));
        assert!(live.admit(&other).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_may_be_gone_is_written_to_once_a_second() {
        let (live, half_closed) = (live(1_000), Arc::<HalfClosed>::default());
        let place = live.admit(&Arc::default()).expect("room");
        let mut reader = Reader::new(place, Filter::default(), Arc::clone(&half_closed), Box::new(|| true));
        let start = Instant::now();
        let mut looks = Vec::new();
        for _ in 0..3 {
            assert!(text(&mut reader).await.starts_with(": "));
            looks.push(start.elapsed().as_secs());
            half_closed.set();
        }
        assert_eq!(looks, [10, 10, 11], "at once, and then each second");
    }

    #[test]
    fn places_are_bounded_and_come_back() {
        let (live, share) = (live(1_000), Arc::default());
        let (one, _two) = (live.admit(&share).expect("room"), live.admit(&share).expect("room"));
        assert!(live.watched());
        let refused = live.admit(&share).err();
        assert_eq!(refused, Some(Refusal::TooManyReaders { limit: 2, full: Full::All }));
        drop(one);
        assert!(live.admit(&share).is_ok());
        assert!(Filter::read(Some("outcome=lost")).is_err() && Filter::read(Some("x=1")).is_err());
    }
}
