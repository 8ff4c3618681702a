//! The steps of one sending request, in order, and nothing else: identify, read, parse, judge, store, keep what was
//! refused, answer. A single event is a batch of one. Each event gets exactly one outcome, or the answer calls it
//! unfinished and the gateway keeps nothing of it. `stored` and `quarantined` are said only after the commit,
//! `rejected` at once.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use eye_event::envelope::{self, Element, Format, Parsed, Unreadable};
use eye_event::event::{DeadLetter, EventRow, Text};
use eye_event::outcome::{JudgedBy, Outcome, OutcomeKind, RejectionCode};
use eye_event::verdict::{Unfinished, UnfinishedCode, Violation};
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use smallvec::SmallVec;
use tokio::sync::oneshot::Receiver;
use uuid::Uuid;

use crate::access_log::Record;
use crate::batch::{Batcher, Fate, Fates, Refused};
use crate::body::{self, BodyLimits};
use crate::clock::Clock;
use crate::cors::Cors;
use crate::dead_letters::{DeadLetters, Kept, Rejected};
use crate::judging::{End, Judged, Judges, Judging, NotStored, Origin};
use crate::live::{Live, Watched, Why};
use crate::parameters::{Parameters, bad};
use crate::request_ids::RequestIds;
use crate::turns::Turns;

use crate::response::{self, Refusal, Response, UnsentAnswers, of_store};
use crate::server::Incoming;
use crate::share::{Budget, Held};
use crate::tally::{Counted, Skew, Tallies, Tally};
use crate::trust::{Application, Peer, Scope, Trust};

/// After this many events a large request lets other tasks use the thread.
const EVENTS_AT_A_STRETCH: usize = 64;

/// Most bytes of last words that the dead letters of one request may have together.
const LAST_WORDS_BYTES_MAX: usize = 64 << 10;

/// Bounds of a sending request.
#[derive(Clone, Copy, Debug)]
pub struct IngestLimits {
    /// Bounds of the body.
    pub body: BodyLimits,
    /// The time from the end of the body to the answer.
    pub answer: Duration,
    /// Most bytes of violations in the answer to several events.
    pub violations_bytes_max: usize,
    /// Most events of one submission to the writers.
    pub submission_events_max: usize,
}

/// The parts that a sending request uses.
#[derive(Debug)]
pub struct Ingest {
    /// The bounds.
    pub limits: IngestLimits,
    /// Identifies the sender.
    pub trust: Arc<Trust>,
    /// The origins whose pages may send.
    pub cors: Arc<Cors>,
    /// The room for bodies in flight, in KiB.
    pub in_flight: Arc<Budget>,
    /// Gives the times of receipt.
    pub clock: Arc<Clock>,
    /// Judges events.
    pub judges: Judges,
    /// The queue of rows.
    pub events: Batcher<EventRow>,
    /// The queue of dead letters.
    pub dead_letters: Arc<DeadLetters>,
    /// Counts events by outcome.
    pub tallies: Arc<Tallies>,
    /// Shows outcomes to readers of the live stream.
    pub live: Arc<Live>,
    /// The turns for reads. A dry run takes one.
    pub turns: Arc<Turns>,
    /// The room for answers that are not sent yet.
    pub unsent: Arc<UnsentAnswers>,
}

/// The properties of one sending request.
#[derive(Clone, Copy)]
struct Asked<'a> {
    format: Format,
    dry_run: Option<Dry>,
    /// The ids of the request, for its dead letters.
    ids: &'a RequestIds,
    /// The request sets this as soon as some of its events may be stored. A timeout reads it.
    handed: &'a AtomicBool,
}

impl Ingest {
    /// Answers one sending request.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] of the whole request. Then no answer says that an event of it was stored.
    pub async fn send(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        ids: &RequestIds,
        record: &mut Record,
    ) -> Result<Response, Refusal> {
        let application = self.trust.identify(&request, peer)?;
        record.application(&application.name);
        application.allow(Scope::Ingest)?;
        application.look()?;
        let dry_run = dry_run(request.uri().query())?;
        let format = self.format(request.headers())?;
        let (head, body) = request.into_parts();
        let room = Held::none(&self.in_flight, application.share());
        let received = match body::read(&head.headers, body, &self.limits.body, room).await {
            Ok(received) => received,
            Err(refusal) => {
                charge_for_nothing(&application, &refusal)?;
                return Err(refusal);
            }
        };
        record.bytes_in(received.bytes.len());
        let handed = AtomicBool::new(false);
        let asked = Asked { format, dry_run, ids, handed: &handed };
        // Pinned here, since the future is large, and each function that takes it would move it.
        let answer = pin!(self.process(&application, received, asked, record));
        match tokio::time::timeout(self.limits.answer, answer).await {
            Ok(answer) => answer.map(|answer| self.unsent.hold_told(application.share(), answer)),
            // The queue drops the waiting submissions of a request that gave up, but a running write may still store
            // some events.
            Err(_) if handed.load(Relaxed) => Err(Refusal::DatabaseAway),
            Err(_) => Err(Refusal::Overloaded),
        }
    }

    fn format(&self, headers: &HeaderMap) -> Result<Format, Refusal> {
        let Some(value) = headers.get(CONTENT_TYPE) else {
            return Err(Refusal::WrongType { found: "nothing".to_owned() });
        };
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Ok(Format::Json)
        } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
            Ok(Format::Lines)
        } else if essence.eq_ignore_ascii_case("text/plain") && self.cors.origin(headers).is_some() {
            // A page that is being left can send this type without a preflight.
            Ok(Format::Json)
        } else {
            Err(Refusal::WrongType { found: text.chars().take(100).collect() })
        }
    }

    async fn process(
        &self,
        application: &Application,
        received: body::Received,
        asked: Asked<'_>,
        record: &mut Record,
    ) -> Result<Response, Refusal> {
        let body::Received { bytes: body, room } = received;
        let parsed = match envelope::parse(&body, asked.format, &self.judges.rules, self.clock.now_us()) {
            Ok(parsed) => parsed,
            Err(unreadable) => {
                let refusal = self.unreadable_body(unreadable);
                charge_for_nothing(application, &refusal)?;
                return Err(refusal);
            }
        };
        let (single, elements) = match parsed {
            Parsed::One(element) => (true, PerEvent::from_buf([element])),
            Parsed::Many(elements) => (false, PerEvent::from_vec(elements)),
        };
        let count = elements.len();
        // A request without events costs as much to read as one with a single event.
        application.take(count.max(1))?;
        // From here on the elements hold the memory. The last row that shares it frees it.
        drop(body);
        if let Some(dry) = asked.dry_run {
            // Boxed, since it is rare, and each request would reserve its space.
            return Box::pin(self.try_dry(application, single, elements, room, asked.ids, dry)).await;
        }
        let mut sending = Sending::new(self, application, asked.ids, count, single, room.map(Arc::new));
        sending.judge(elements).await?;
        // From here on events may be stored.
        asked.handed.store(true, Relaxed);
        sending.store().await?;
        let watched = sending.watched.take();
        let outcomes = sending.keep_refused().await?;
        if let Some(watched) = watched {
            self.live.tell(&application.name, &outcomes, watched, self.clock.now_us());
        }
        record.outcomes(&outcomes);
        debug_assert_eq!(outcomes.len(), count, "each event has exactly one outcome, or is unfinished");
        Ok(match &outcomes[..] {
            [outcome] if single => response::one(outcome, false),
            outcomes => response::many(outcomes, false),
        })
    }

    /// Judges the events and answers their foreseen outcomes. It stores, keeps, counts and shows nothing.
    async fn try_dry(
        &self,
        application: &Application,
        single: bool,
        elements: PerEvent<Element>,
        room: Option<Held>,
        ids: &RequestIds,
        dry: Dry,
    ) -> Result<Response, Refusal> {
        let nowhere = Tallies::new(0);
        let real = Sending::new(self, application, ids, elements.len(), single, room.map(Arc::new));
        let mut trying = Sending { tally: nowhere.begin(&application.name), watched: None, dry_run: Some(dry), ..real };
        trying.judge(elements).await?;
        let outcomes = trying.foresee().await?;
        Ok(match &outcomes[..] {
            [outcome] if single => response::one(outcome, true),
            outcomes => response::many(outcomes, true),
        })
    }

    fn unreadable_body(&self, unreadable: Unreadable) -> Refusal {
        match unreadable {
            Unreadable::Empty => Refusal::Empty,
            Unreadable::NotJson { line, column, message } => {
                Refusal::NotJson { line, column, message: message.to_owned() }
            }
            Unreadable::TooMany => Refusal::TooManyEvents { limit: self.judges.rules.events_max },
        }
    }
}

/// Charges a refused body as one event; otherwise broken bodies would evade the rate limit. Refusals that are not the
/// sender's fault cost nothing.
fn charge_for_nothing(application: &Application, refusal: &Refusal) -> Result<(), Refusal> {
    if matches!(refusal, Refusal::Overloaded | Refusal::Internal) { Ok(()) } else { application.take(1) }
}

/// How the events of a dry run are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dry {
    /// As those of their senders.
    AsSent,
    /// By candidates, where there are some.
    ByCandidates,
}

/// Whether the request is a dry run, and by whom it is judged. It rejects any other parameter: the gateway would store the
/// events of a sender that misspells this one.
fn dry_run(query: Option<&str>) -> Result<Option<Dry>, Refusal> {
    if query.is_none() {
        return Ok(None);
    }
    let parameters = Parameters::read(query, &["dry_run", "candidate"])?;
    let is = |name| parameters.choice(name, &[("false", false), ("true", true)]);
    match (is("dry_run")?, is("candidate")?) {
        (false, true) => Err(bad("candidate", "is for dry runs: give dry_run=true too")),
        (false, false) => Ok(None),
        (true, false) => Ok(Some(Dry::AsSent)),
        (true, true) => Ok(Some(Dry::ByCandidates)),
    }
}

/// Rows that were submitted, with the receipt that will bring their fates.
type Handed = (Receiver<Fates>, Arc<Vec<EventRow>>);

/// One value for each event of a request, which usually is a single event.
type PerEvent<T> = SmallVec<[T; 1]>;

/// The place of a quarantined event in its request, and its event type.
type Quarantined = (usize, Option<(Text, Text)>);

/// The events of one request on their way to their outcomes.
struct Sending<'a> {
    ingest: &'a Ingest,
    application: &'a Application,
    /// The ids of the request, for its dead letters.
    ids: &'a RequestIds,
    /// The body is a single event and not an array.
    single: bool,
    /// How the events of a dry run are judged; `None` if they are stored.
    dry_run: Option<Dry>,
    /// The room of the request. Each submission shares it, since a writer may hold the rows after the request gave up.
    room: Option<Arc<Held>>,
    /// The time of receipt of the first event. Each further event has one microsecond more, which keeps their order.
    received_at_us: i64,
    /// The outcomes, by place in the request. Each is filled when it is known.
    outcomes: PerEvent<Option<Outcome>>,
    /// The accepted events, with their places.
    accepted: (Vec<EventRow>, PerEvent<usize>),
    /// The quarantined events, with their places and types. Their outcomes hold only after their commit.
    quarantined: (Vec<DeadLetter>, Vec<Quarantined>),
    /// The rejected events. The answer does not wait for their commit.
    rejected: Rejected,
    /// The bytes of violations that still fit into the answer to several events.
    violations_bytes_left: usize,
    /// The bytes of last words that still fit into the dead letters of this request.
    last_words_bytes_left: usize,
    /// Counts the outcome of each event.
    tally: Tally<'a>,
    /// The entries of the live stream, in order; `None` while it has no readers.
    watched: Option<Vec<Watched>>,
}

impl<'a> Sending<'a> {
    fn new(
        ingest: &'a Ingest,
        application: &'a Application,
        ids: &'a RequestIds,
        count: usize,
        single: bool,
        room: Option<Arc<Held>>,
    ) -> Self {
        Self {
            ingest,
            application,
            ids,
            single,
            dry_run: None,
            room,
            received_at_us: ingest.clock.reserve_us(count),
            outcomes: std::iter::repeat_with(|| None).take(count).collect(),
            accepted: (Vec::with_capacity(count), PerEvent::with_capacity(count)),
            quarantined: (Vec::new(), Vec::new()),
            rejected: Rejected::default(),
            violations_bytes_left: ingest.limits.violations_bytes_max,
            last_words_bytes_left: LAST_WORDS_BYTES_MAX,
            tally: ingest.tallies.begin(&application.name),
            watched: ingest.live.watched().then(|| Vec::with_capacity(count)),
        }
    }

    fn origin(&self) -> Origin<'a> {
        Origin::Sent { application: self.application, ids: self.ids, dry_run: self.dry_run.is_some() }
    }

    /// Judges each event.
    async fn judge(&mut self, elements: PerEvent<Element>) -> Result<(), Refusal> {
        let judges = &self.ingest.judges;
        let mut judging = match self.dry_run {
            None => judges.begin(),
            Some(dry) => judges.begin_dry(dry == Dry::ByCandidates),
        };
        let origin = self.origin();
        for (place, element) in elements.into_iter().enumerate() {
            if place % EVENTS_AT_A_STRETCH == EVENTS_AT_A_STRETCH - 1 {
                tokio::task::yield_now().await;
            }
            let received_at_us = self.received_at(place);
            match judging.judge(element, received_at_us, origin).await.map_err(|_| Refusal::DatabaseAway)? {
                Judged::Row(row) => {
                    if row.timestamp_us < received_at_us - Skew::PAST_US {
                        self.tally.count_skewed(Skew::Past);
                    }
                    if let Some(watched) = &mut self.watched {
                        watched.push(watch_row(&row));
                    }
                    self.accepted.0.push(row);
                    self.accepted.1.push(place);
                }
                Judged::NotStored(event) => {
                    if let Some(watched) = &mut self.watched {
                        watched.push(watch(&event));
                    }
                    self.end(place, *event);
                }
            }
        }
        Ok(())
    }

    fn received_at(&self, place: usize) -> i64 {
        self.received_at_us + i64::try_from(place).expect("a request's events are counted in thousands")
    }

    /// Records the end of an event that will not be stored.
    fn end(&mut self, place: usize, event: NotStored) {
        let NotStored { id, event_type, module, end, .. } = event;
        match end {
            End::Duplicate => {
                self.count(event_type.as_ref(), Some(OutcomeKind::Duplicate));
                self.outcomes[place] = id.map(|id| Outcome::Duplicate { id });
            }
            End::Unfinished(why) => self.leave_unfinished(place, id, event_type.as_ref(), why),
            End::Rejected { code, violations, letter } => {
                self.count(event_type.as_ref(), Some(OutcomeKind::Rejected));
                if code == RejectionCode::Envelope && violations.iter().any(|one| one.code == envelope::FUTURE) {
                    self.tally.count_skewed(Skew::Future);
                }
                let judged_by = |(category, name): &(Text, Text)| JudgedBy {
                    event_type: format!("{}/{}", &**category, &**name),
                    digest: module.expect("only a module's rejection is asked for"),
                };
                let by_module = code == RejectionCode::Rule && module.is_some();
                let validator = event_type.as_ref().filter(|_| by_module).map(judged_by);
                let (violations, omitted) = self.choose_violations(violations);
                self.outcomes[place] = Some(Outcome::Rejected { id, code, violations, omitted, validator });
                if self.dry_run.is_none() {
                    let share = self.application.rejected_share();
                    self.ingest.dead_letters.gather(&mut self.rejected, letter, share);
                }
            }
            End::Quarantined { code, mut letter } => {
                // The room of a request covers its body only, and the module may write more than that.
                let bytes = letter.last_words.as_ref().map_or(0, String::len);
                match self.last_words_bytes_left.checked_sub(bytes) {
                    Some(left) => self.last_words_bytes_left = left,
                    None => letter.last_words = None,
                }
                // The answer says this only after the commit, see `keep_refused`.
                self.outcomes[place] = id.map(|id| Outcome::Quarantined { id, code });
                self.quarantined.0.push(letter);
                self.quarantined.1.push((place, event_type));
            }
        }
    }

    fn count(&mut self, event_type: Option<&(Text, Text)>, outcome: Counted) {
        match event_type {
            Some((category, name)) => self.tally.count(category, name, outcome),
            None => self.tally.count_untyped(outcome),
        }
    }

    /// Records that an event has no outcome yet. The others of its request go on.
    fn leave_unfinished(&mut self, place: usize, id: Option<Uuid>, event_type: Option<&(Text, Text)>, why: Unfinished) {
        self.count(event_type, None);
        self.outcomes[place] = Some(Outcome::Unfinished { id, why });
    }

    /// Returns the violations for the answer, and how many it omits. The violations of many events could take a
    /// thousand times their size, and they stay in memory until the sender has read them.
    fn choose_violations(&mut self, violations: Vec<Violation>) -> (Vec<Violation>, usize) {
        if !self.single {
            let bytes = violations.iter().map(Violation::bytes).sum();
            let Some(left) = self.violations_bytes_left.checked_sub(bytes) else {
                return (Vec::new(), violations.len());
            };
            self.violations_bytes_left = left;
        }
        (violations, 0)
    }

    /// Foresees the outcomes of a dry run. An accepted event that is stored already, or that this request has twice,
    /// would be a duplicate.
    async fn foresee(mut self) -> Result<PerEvent<Outcome>, Refusal> {
        let (rows, places) = std::mem::take(&mut self.accepted);
        let key = |row: &EventRow| (row.session_id, row.timestamp_us, row.id);
        let keys: Vec<_> = rows.iter().map(key).collect();
        let mut known = HashSet::new();
        if !keys.is_empty() {
            let _turn = self.ingest.turns.take(self.application.reads_share()).await?;
            known.extend(self.ingest.judges.store.events_known(&keys).await.map_err(of_store)?);
        }
        for (row, place) in rows.iter().zip(places) {
            let id = row.id;
            let outcome = if known.insert(key(row)) { Outcome::Stored { id } } else { Outcome::Duplicate { id } };
            self.outcomes[place] = Some(outcome);
        }
        self.outcomes.into_iter().collect::<Option<_>>().ok_or(Refusal::Internal)
    }

    /// Submits the accepted events to the writers and waits for their receipts.
    async fn store(&mut self) -> Result<(), Refusal> {
        let (mut rest, places) = std::mem::take(&mut self.accepted);
        // The rows are still needed: their outcomes name them, and a dead letter is made of each that Postgres refuses.
        let mut submissions: SmallVec<[Handed; 1]> = SmallVec::new();
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(self.ingest.limits.submission_events_max));
            let submission = Arc::new(std::mem::replace(&mut rest, tail));
            let (first, room) = (submissions.is_empty(), self.room.clone());
            let events = &self.ingest.events;
            let rows = Arc::clone(&submission);
            let receipt = if first { events.submit(rows, room) } else { events.submit_rest(rows, room) };
            let receipt = receipt.map_err(|refused| match refused {
                // An earlier submission of this request may be stored.
                _ if !first => Refusal::DatabaseAway,
                Refused::Full(_) => Refusal::Overloaded,
                Refused::Closed(_) => Refusal::Draining,
            })?;
            submissions.push((receipt, submission));
        }
        let mut places = places.into_iter();
        for (receipt, rows) in submissions {
            // Without a receipt the rows may be committed or not.
            let fates = receipt.await.map_err(|_| Refusal::DatabaseAway)?;
            debug_assert_eq!(fates.len(), rows.len(), "each row has exactly one fate");
            for ((fate, row), place) in fates.into_iter().zip(&*rows).zip(&mut places) {
                self.settle(place, row, fate).await;
            }
        }
        Ok(())
    }

    /// Records the fate of a row.
    async fn settle(&mut self, place: usize, row: &EventRow, fate: Fate) {
        let (kind, outcome) = match fate {
            Fate::Stored => (Some(OutcomeKind::Stored), Outcome::Stored { id: row.id }),
            Fate::Duplicate => (Some(OutcomeKind::Duplicate), Outcome::Duplicate { id: row.id }),
            Fate::Refused { code, message } => return self.unstorable(place, row, &code, &message).await,
            Fate::NotNow => {
                let why = Unfinished::of(UnfinishedCode::NotKept);
                (None, Outcome::Unfinished { id: Some(row.id), why })
            }
        };
        if row.module.is_none() && kind == Some(OutcomeKind::Stored) {
            self.ingest.judges.validators.count_unserved(&row.category, &row.name);
        }
        self.tally.count(&row.category, &row.name, kind);
        self.outcomes[place] = Some(outcome);
    }

    /// Records an event whose data Postgres refuses.
    async fn unstorable(&mut self, place: usize, row: &EventRow, sqlstate: &str, message: &str) {
        let judging: Judging<'_> = self.ingest.judges.begin();
        let judged = judging.unstorable(row, sqlstate, message, self.ingest.clock.now_us(), self.origin()).await;
        self.end(place, judged);
    }

    /// Keeps the events that were not stored. The request waits only for the quarantined ones.
    async fn keep_refused(mut self) -> Result<PerEvent<Outcome>, Refusal> {
        self.ingest.dead_letters.keep_rejected(std::mem::take(&mut self.rejected));
        if !self.quarantined.0.is_empty() {
            self.keep_quarantined().await?;
        }
        let outcomes: Option<PerEvent<Outcome>> = self.outcomes.into_iter().collect();
        let outcomes = outcomes.ok_or(Refusal::Internal)?;
        self.tally.told();
        for outcome in &outcomes {
            if let Outcome::Unfinished { why, .. } = outcome {
                self.ingest.tallies.count_unfinished(why.code);
            }
        }
        Ok(outcomes)
    }

    /// Keeps the quarantined events. If they find no room, they are unfinished; the others keep their outcomes.
    async fn keep_quarantined(&mut self) -> Result<(), Refusal> {
        let (letters, places) = std::mem::take(&mut self.quarantined);
        let committed = self.outcomes.iter().any(|outcome| matches!(outcome, Some(Outcome::Stored { .. })));
        let kept = self.ingest.dead_letters.keep(letters, self.room.take(), committed).await?;
        for (place, event_type) in places {
            match (kept, &self.outcomes[place]) {
                (Kept::None, Some(Outcome::Quarantined { id, .. })) => {
                    let (id, why) = (Some(*id), Unfinished::of(UnfinishedCode::NotKept));
                    self.leave_unfinished(place, id, event_type.as_ref(), why);
                }
                _ => self.count(event_type.as_ref(), Some(OutcomeKind::Quarantined)),
            }
        }
        Ok(())
    }
}

fn watch_row(row: &EventRow) -> Watched {
    let (category, name) = (Some(row.category.clone()), Some(row.name.clone()));
    Watched { session_id: Some(row.session_id), category, name, module: row.module, reason: None }
}

/// The entry of the live stream for an event that is not stored. For a refused event it has only what the dead letter
/// keeps.
fn watch(event: &NotStored) -> Watched {
    let word = |word: &Option<String>| word.as_deref().map(Text::from);
    let (category, name, reason) = match (&event.event_type, &event.end) {
        (None, End::Rejected { letter, .. } | End::Quarantined { letter, .. }) => {
            (word(&letter.category), word(&letter.name), letter.violations.first().map(Why::of))
        }
        (event_type, end) => {
            let (category, name) = event_type.clone().unzip();
            let reason = match end {
                End::Rejected { letter, .. } => letter.violations.first().map(Why::of),
                _ => None,
            };
            (category, name, reason)
        }
    };
    Watched { session_id: event.session_id, category, name, module: event.module, reason }
}
