//! The steps of one sending request, in order, and nothing else: identify, read, parse, judge, store, keep what was
//! refused, answer. One event is a batch of one. Every element of a request leaves with exactly one outcome, or is told to be
//! unfinished, and then nothing of it is kept; `stored` and `quarantined` are said only after the commit, `rejected` at once.

use std::borrow::Cow;
use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use eye_event::envelope::{self, Broken, Element, Event, Format, Parsed, Unreadable};
use eye_event::event::{DeadLetter, EventRow, KeptAs, Reason, Text};
use eye_event::outcome::{JudgedBy, Outcome, RejectionCode};
use eye_event::verdict::{Digest, Unfinished, UnfinishedCode, Unjudged, Verdict, Violation};
use eye_judge::{Judgement, Keep, Subject};
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use smallvec::SmallVec;
use tokio::sync::oneshot::Receiver;
use uuid::Uuid;

use crate::batch::{Fate, Fates, Refused};
use crate::body;
use crate::dead_letters::{self, Kept, Rejected};
use crate::gateway::Gateway;
use crate::live::{Watched, Why};
use crate::query;
use crate::query::parameters::Parameters;
use crate::response::{self, Refusal, Response};
use crate::server::Incoming;
use crate::share::Held;
use crate::tally::{Ending, Tallies, Tally};
use crate::trust::{Application, Peer, Scope, known_types};

/// After so many events, a large request lets others have the thread.
const EVENTS_AT_A_STRETCH: usize = 64;

/// Answers one sending request.
///
/// # Errors
///
/// A [`Refusal`] of the request as a whole. Then no event of it was said to be stored.
pub async fn send(gateway: &Gateway, request: Request<Incoming>, peer: Peer) -> Result<Response, Refusal> {
    let application = gateway.trust.identify(&request, peer)?;
    application.allow(Scope::Ingest)?;
    application.look()?;
    let dry_run = dry_run(request.uri().query())?;
    let format = format(gateway, request.headers())?;
    let (head, body) = request.into_parts();
    let room = Held::none(&gateway.in_flight, application.share());
    let received = match body::read(&head.headers, body, &gateway.body_limits, room).await {
        Ok(received) => received,
        Err(refusal) => {
            charge_for_nothing(&application, &refusal)?;
            return Err(refusal);
        }
    };
    let handed = AtomicBool::new(false);
    // Pinned here, since it is large, and every function that takes it would move it.
    let answer = pin!(process(gateway, &application, received, Asked { format, dry_run }, &handed));
    match tokio::time::timeout(Duration::from_millis(gateway.config.answer_ms), answer).await {
        Ok(answer) => answer.map(|answer| gateway.unsent.hold_told(application.share(), answer)),
        // What waits in the queue is left out once nobody waits for it; what was under way may still be stored.
        Err(_) if handed.load(Relaxed) => Err(Refusal::DatabaseAway),
        Err(_) => Err(Refusal::Overloaded),
    }
}

/// A body that was read for nothing costs as much as one event, or it would be the way around the limit. What is no
/// fault of the sender costs nothing.
fn charge_for_nothing(application: &Application, refusal: &Refusal) -> Result<(), Refusal> {
    if matches!(refusal, Refusal::Overloaded | Refusal::Internal) { Ok(()) } else { application.take(1) }
}

/// Whether only what would become of the events is asked for. Whatever else is asked for is refused: who has misspelt this would
/// have stored what was to be tried.
fn dry_run(query: Option<&str>) -> Result<bool, Refusal> {
    if query.is_none() {
        return Ok(false);
    }
    Parameters::read(query, &["dry_run"])?.choice("dry_run", &[("false", false), ("true", true)])
}

fn format(gateway: &Gateway, headers: &HeaderMap) -> Result<Format, Refusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Err(Refusal::WrongType { found: "nothing".to_owned() }) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(Format::Json)
    } else if essence.eq_ignore_ascii_case("application/x-ndjson") {
        Ok(Format::Lines)
    } else if essence.eq_ignore_ascii_case("text/plain") && gateway.cors.origin(headers).is_some() {
        // What a page can send while it is being left, without asking first.
        Ok(Format::Json)
    } else {
        Err(Refusal::WrongType { found: text.chars().take(100).collect() })
    }
}

/// How a request is to be read, and what is to be done with it.
#[derive(Clone, Copy)]
struct Asked {
    format: Format,
    dry_run: bool,
}

async fn process(
    gateway: &Gateway,
    application: &Application,
    received: body::Received,
    Asked { format, dry_run }: Asked,
    handed: &AtomicBool,
) -> Result<Response, Refusal> {
    let body::Received { bytes: body, room } = received;
    let parsed = match envelope::parse(&body, format, &gateway.rules, gateway.clock.now_us()) {
        Ok(parsed) => parsed,
        Err(unreadable) => {
            let refusal = unreadable_body(unreadable, gateway);
            charge_for_nothing(application, &refusal)?;
            return Err(refusal);
        }
    };
    let (single, elements) = match parsed {
        Parsed::One(element) => (true, Each::from_buf([element])),
        Parsed::Many(elements) => (false, Each::from_vec(elements)),
    };
    let count = elements.len();
    // None at all were read too, and cost as much as one.
    application.take(count.max(1))?;
    // What is in memory from here on is in the elements, and ends with the last row that shares it.
    drop(body);
    if dry_run {
        // Boxed: it is rare, and its room would be that of every request.
        return Box::pin(try_dry(gateway, application, single, elements, room)).await;
    }
    let mut sending = Sending::new(gateway, application, count, single, room.map(Arc::new));
    sending.judge(elements).await?;
    // From here on something may be stored.
    handed.store(true, Relaxed);
    sending.store().await?;
    let watched = sending.watched.take();
    let outcomes = sending.bury().await?;
    if let Some(watched) = watched {
        gateway.live.tell(&application.name, &outcomes, watched, gateway.clock.now_us());
    }
    debug_assert_eq!(outcomes.len(), count, "each event has exactly one outcome, or is unfinished");
    Ok(match &outcomes[..] {
        [outcome] if single => response::one(outcome, false),
        outcomes => response::many(outcomes, false),
    })
}

/// Judges the events and says what would become of them: nothing is stored or kept, no outcome is counted or shown.
async fn try_dry(
    gateway: &Gateway,
    application: &Application,
    single: bool,
    elements: Each<Element>,
    room: Option<Held>,
) -> Result<Response, Refusal> {
    let nowhere = Tallies::new(0);
    let real = Sending::new(gateway, application, elements.len(), single, room.map(Arc::new));
    let mut trying = Sending { tally: nowhere.begin(&application.name), watched: None, dry_run: true, ..real };
    trying.judge(elements).await?;
    let outcomes = trying.foresee().await?;
    Ok(match &outcomes[..] {
        [outcome] if single => response::one(outcome, true),
        outcomes => response::many(outcomes, true),
    })
}

/// Rows that were handed to the writers, and what will bring their fates.
type Handed = (Receiver<Fates>, Arc<Vec<EventRow>>);

/// One for each event of a request, which most often is one.
type Each<T> = SmallVec<[T; 1]>;

/// The events of one request on their way to their outcomes.
struct Sending<'a> {
    gateway: &'a Gateway,
    application: &'a Application,
    /// It is one event, and no list of them.
    single: bool,
    /// Only what would become of them is asked for.
    dry_run: bool,
    /// The request's share of what may be in flight. Each parcel holds it too, since a writer may still have one after the
    /// request was given up.
    room: Option<Arc<Held>>,
    /// When each was received: the first has this time, each next one microsecond more, which keeps their order.
    received_at_us: i64,
    /// One place for each event; filled as its outcome is known.
    outcomes: Each<Option<Outcome>>,
    /// Accepted events, and the place of each in the request.
    accepted: (Vec<EventRow>, Each<usize>),
    /// Quarantined events, whose outcome waits for the commit, with their places.
    quarantined: (Vec<DeadLetter>, Vec<usize>),
    /// Rejected events, which nobody waits for.
    rejected: Rejected,
    /// How many bytes of violations the answer may still have, unless it is for a single event.
    violations_bytes_left: usize,
    /// Counts each event as it ends.
    tally: Tally<'a>,
    /// The event type that was admitted last: the next event of the request is most likely of the same.
    last_type: Option<(Text, Text)>,
    /// What those who watch are told of each event, in order; nothing while nobody does.
    watched: Option<Vec<Watched>>,
}

impl<'a> Sending<'a> {
    fn new(
        gateway: &'a Gateway,
        application: &'a Application,
        count: usize,
        single: bool,
        room: Option<Arc<Held>>,
    ) -> Self {
        Self {
            gateway,
            application,
            single,
            dry_run: false,
            room,
            received_at_us: gateway.clock.reserve_us(count),
            outcomes: std::iter::repeat_with(|| None).take(count).collect(),
            accepted: (Vec::with_capacity(count), Each::with_capacity(count)),
            quarantined: (Vec::new(), Vec::new()),
            rejected: Rejected::default(),
            violations_bytes_left: gateway.config.answer_violations_bytes_max,
            tally: gateway.tallies.begin(&application.name),
            last_type: None,
            watched: gateway.live.watched().then(|| Vec::with_capacity(count)),
        }
    }

    /// Asks the validator of each event.
    async fn judge(&mut self, elements: Each<Element>) -> Result<(), Refusal> {
        let mut judging = self.gateway.validators.begin();
        for (place, element) in elements.into_iter().enumerate() {
            if place % EVENTS_AT_A_STRETCH == EVENTS_AT_A_STRETCH - 1 {
                tokio::task::yield_now().await;
            }
            let event = match element.and_then(|event| self.admit_type(event)) {
                Ok(event) => event,
                Err(broken) => {
                    let may_be_kept = judging.keeps_unread();
                    if let Some(watched) = &mut self.watched {
                        watched.push(watch_broken(&broken, may_be_kept));
                    }
                    self.reject_broken(place, *broken, may_be_kept);
                    continue;
                }
            };
            if !self.application.may_send(&event.category, &event.name) {
                if let Some(watched) = &mut self.watched {
                    watched.push(watch_event(&event, None));
                }
                let keep = judging.keep(&event.category, &event.name, &event.data).await;
                self.reject_type(place, &event, keep);
                continue;
            }
            let Judgement { outcome, digest: module } = judging.judge(self.subject(place, &event)).await;
            if let Some(watched) = &mut self.watched {
                watched.push(watch_event(&event, module));
            }
            match outcome {
                Ok(Verdict::Accept) => self.accept(place, event, module, None),
                Ok(Verdict::Amend(data)) => self.accept(place, event, module, Some(data)),
                Err(Unjudged::Unfinished(why)) => self.leave_unfinished(place, &event, why),
                Ok(Verdict::Reject(_))
                    if judging.judges_at(&event.category, &event.name) && self.has(&event).await? =>
                {
                    self.tally.count(&event.category, &event.name, Ending::Duplicate);
                    self.outcomes[place] = Some(Outcome::Duplicate { id: event.id });
                }
                Ok(Verdict::Reject(violations)) => {
                    let keep = judging.keep(&event.category, &event.name, &event.data).await;
                    self.reject(place, &event, module, violations, keep);
                }
                Err(Unjudged::Fault(fault)) => {
                    let keep = judging.keep(&event.category, &event.name, &event.data).await;
                    self.quarantine(
                        place,
                        &event,
                        module,
                        fault.code.as_str().into(),
                        &fault.detail,
                        fault.last_words,
                        keep,
                    );
                }
            }
        }
        Ok(())
    }

    /// The event, unless it would make one event type too many.
    fn admit_type(&mut self, event: Event) -> Element {
        let last = self.last_type.as_ref();
        if last.is_some_and(|(category, name)| *name == event.name && *category == event.category) {
            return Ok(event);
        }
        if self.admits(&event.category, &event.name) {
            if !self.single {
                self.last_type = Some((event.category.clone(), event.name.clone()));
            }
            return Ok(event);
        }
        Err(Box::new(too_many_types(event, self.application.event_types_max())))
    }

    fn admits(&self, category: &str, name: &str) -> bool {
        if self.dry_run {
            self.application.would_admit_type(category, name)
        } else {
            self.application.admit_type(category, name)
        }
    }

    /// Whether the event was stored before. Whoever judges by the time of receipt may refuse later what it took then.
    async fn has(&self, event: &Event) -> Result<bool, Refusal> {
        let found = self.gateway.store.has_event(event.session_id, event.timestamp_us, event.id).await;
        found.map_err(|_| Refusal::DatabaseAway)
    }

    fn subject<'e>(&'e self, place: usize, event: &'e Event) -> Subject<'e> {
        Subject {
            id: event.id,
            application: &self.application.name,
            session_id: event.session_id,
            category: &event.category,
            name: &event.name,
            timestamp_us: event.timestamp_us,
            received_at_us: self.received_at(place),
            data: &event.data,
        }
    }

    /// The event has no outcome yet, and ends here: the rest of its request goes on without it.
    fn leave_unfinished(&mut self, place: usize, event: &Event, why: Unfinished) {
        self.tally.count(&event.category, &event.name, Ending::Unfinished);
        self.outcomes[place] = Some(Outcome::Unfinished { id: Some(event.id), why });
    }

    fn accept(&mut self, place: usize, event: Event, module: Option<Digest>, amended: Option<String>) {
        let row = EventRow {
            id: event.id,
            session_id: event.session_id,
            timestamp_us: event.timestamp_us,
            received_at_us: self.received_at(place),
            category: event.category,
            name: event.name,
            application_id: self.application.id,
            module,
            data: amended.map_or(event.data, Into::into),
            raw: event.raw,
            redriven: false,
        };
        self.accepted.0.push(row);
        self.accepted.1.push(place);
    }

    fn reject_broken(&mut self, place: usize, broken: Broken, may_be_kept: bool) {
        self.tally.count_untyped(Ending::Rejected);
        let broken = self.without_new_type(broken);
        let (id, code) = (broken.id, RejectionCode::Envelope);
        let letter =
            self.dead_letter(place, Reason::Rejected, code.as_str(), "the envelope breaks the gateway's rules");
        let letter = DeadLetter { event_id: id, session_id: broken.session_id, ..letter };
        let letter = if may_be_kept {
            DeadLetter {
                violations: broken.violations.clone(),
                category: broken.category,
                name: broken.name,
                raw: dead_letters::cut(&broken.raw, self.gateway.config.dead_letter_raw_bytes_max),
                raw_bytes: broken.raw.len(),
                ..letter
            }
        } else {
            let letter = DeadLetter { violations: broken.violations.clone(), ..letter };
            dead_letters::of_unread(letter, &broken.raw)
        };
        self.note_rejected(place, letter, &broken.violations, code, id, None);
    }

    /// Without its event type if that were one too many: what a dead letter is named after stays for ever too.
    fn without_new_type(&self, broken: Broken) -> Broken {
        match (&broken.category, &broken.name) {
            (Some(category), Some(name)) if !self.admits(category, name) => {
                Broken { category: None, name: None, ..broken }
            }
            _ => broken,
        }
    }

    fn reject(&mut self, place: usize, event: &Event, module: Option<Digest>, violations: Vec<Violation>, keep: Keep) {
        self.tally.count(&event.category, &event.name, Ending::Rejected);
        let validator =
            module.map(|digest| JudgedBy { event_type: format!("{}/{}", &*event.category, &*event.name), digest });
        let code = RejectionCode::Rule;
        let letter = self.dead_letter(place, Reason::Rejected, code.as_str(), "a validator rejected the event");
        let letter = DeadLetter { module, violations: violations.clone(), ..letter };
        let letter = self.of_event(letter, event, keep);
        self.note_rejected(place, letter, &violations, code, Some(event.id), validator);
    }

    /// The application may not send events of this type; to others and to the rest of the request it makes no difference.
    fn reject_type(&mut self, place: usize, event: &Event, keep: Keep) {
        self.tally.count(&event.category, &event.name, Ending::Rejected);
        let message = "The application may not send this event type. Ask for it to be allowed.";
        let code = RejectionCode::NotAllowed;
        let violations =
            vec![Violation { pointer: String::new(), code: code.as_str().into(), message: message.into() }];
        let letter = self.dead_letter(place, Reason::Rejected, code.as_str(), message);
        // What the gateway says itself quotes nothing.
        let letter = DeadLetter {
            violations: violations.clone(),
            detail: message.to_owned(),
            ..self.of_event(letter, event, keep)
        };
        self.note_rejected(place, letter, &violations, code, Some(event.id), None);
    }

    /// Notes what is told of a rejected event, and has it kept when the request is over. The sender is told the whole of its
    /// `violations`; others read those of the letter.
    fn note_rejected(
        &mut self,
        place: usize,
        letter: DeadLetter,
        violations: &[Violation],
        code: RejectionCode,
        id: Option<Uuid>,
        validator: Option<JudgedBy>,
    ) {
        if let Some(watched) = self.watched.as_mut().and_then(|watched| watched.last_mut()) {
            watched.reason = letter.violations.first().map(Why::of);
        }
        let (violations, omitted) = self.choose_violations(violations);
        self.outcomes[place] = Some(Outcome::Rejected { id, code, violations, omitted, validator });
        if !self.dry_run {
            self.gateway.dead_letters.gather(&mut self.rejected, letter, self.application.rejected_share());
        }
    }

    fn of_event(&self, letter: DeadLetter, event: &Event, keep: Keep) -> DeadLetter {
        dead_letters::of_event(letter, event, keep, self.gateway.config.dead_letter_raw_bytes_max)
    }

    /// The violations of an event that the answer tells, and how many it does not: all that many events break could be a
    /// thousand times what they are, and waits in memory until the sender has read it.
    fn choose_violations(&mut self, violations: &[Violation]) -> (Vec<Violation>, usize) {
        if !self.single {
            let bytes = violations.iter().map(Violation::bytes).sum();
            let Some(left) = self.violations_bytes_left.checked_sub(bytes) else {
                return (Vec::new(), violations.len());
            };
            self.violations_bytes_left = left;
        }
        (violations.to_vec(), 0)
    }

    fn quarantine(
        &mut self,
        place: usize,
        event: &Event,
        module: Option<Digest>,
        code: Cow<'static, str>,
        detail: &str,
        last_words: Option<String>,
        keep: Keep,
    ) {
        if keep == Keep::Nothing {
            // Its sender is the only one who has it.
            return self.leave_unfinished(place, event, Unfinished::of(UnfinishedCode::NotKept));
        }
        let id = event.id;
        let letter = self.dead_letter(place, Reason::Quarantined, &code, detail);
        self.quarantined.0.push(self.of_event(DeadLetter { module, last_words, ..letter }, event, keep));
        self.quarantined.1.push(place);
        // Told only after the commit, see `bury`.
        self.outcomes[place] = Some(Outcome::Quarantined { id, code });
    }

    fn received_at(&self, place: usize) -> i64 {
        self.received_at_us + i64::try_from(place).expect("a request's events are counted in thousands")
    }

    fn dead_letter(&self, place: usize, reason: Reason, code: &str, detail: &str) -> DeadLetter {
        DeadLetter {
            id: Uuid::now_v7(),
            received_at_us: self.received_at(place),
            reason,
            code: code.to_owned(),
            detail: detail.to_owned(),
            violations: Vec::new(),
            application_id: self.application.id,
            module: None,
            event_id: None,
            session_id: None,
            category: None,
            name: None,
            kept: KeptAs::Whole,
            raw: Bytes::new(),
            raw_bytes: 0,
            raw_digest: None,
            last_words: None,
        }
    }

    /// What the accepted events would become, and with them all others: those that are there already, or come twice in this
    /// request, would be duplicates.
    async fn foresee(mut self) -> Result<Each<Outcome>, Refusal> {
        let (rows, places) = std::mem::take(&mut self.accepted);
        let key = |row: &EventRow| (row.session_id, row.timestamp_us, row.id);
        let keys: Vec<_> = rows.iter().map(key).collect();
        let mut known = HashSet::new();
        if !keys.is_empty() {
            let _turn = self.gateway.turns.take(self.application.reads_share()).await?;
            known.extend(self.gateway.store.events_known(&keys).await.map_err(query::refusal)?);
        }
        for (row, place) in rows.iter().zip(places) {
            let id = row.id;
            let outcome = if known.insert(key(row)) { Outcome::Stored { id } } else { Outcome::Duplicate { id } };
            self.outcomes[place] = Some(outcome);
        }
        self.outcomes.into_iter().collect::<Option<_>>().ok_or(Refusal::Internal)
    }

    /// Hands the accepted events to the writers and waits for their receipts.
    async fn store(&mut self) -> Result<(), Refusal> {
        let (mut rest, places) = std::mem::take(&mut self.accepted);
        // The rows are kept for what is told of each, and for those that Postgres may refuse.
        let mut parcels: SmallVec<[Handed; 1]> = SmallVec::new();
        let parcel_events_max = self.gateway.config.batch_events_max;
        while !rest.is_empty() {
            let tail = rest.split_off(rest.len().min(parcel_events_max));
            let parcel = Arc::new(std::mem::replace(&mut rest, tail));
            let (first, room) = (parcels.is_empty(), self.room.clone());
            let events = &self.gateway.events;
            let rows = Arc::clone(&parcel);
            let receipt = if first { events.submit(rows, room) } else { events.submit_rest(rows, room) };
            let receipt = receipt.map_err(|refused| match refused {
                // An earlier part of the request may be stored.
                _ if !first => Refusal::DatabaseAway,
                Refused::Full(_) => Refusal::Overloaded,
                Refused::Closed(_) => Refusal::Draining,
            })?;
            parcels.push((receipt, parcel));
        }
        let mut places = places.into_iter();
        for (receipt, rows) in parcels {
            // Without a receipt nobody knows: the rows may be committed.
            let fates = receipt.await.map_err(|_| Refusal::DatabaseAway)?;
            debug_assert_eq!(fates.len(), rows.len(), "each row has exactly one fate");
            for ((fate, row), place) in fates.into_iter().zip(&*rows).zip(&mut places) {
                let (ending, outcome) = match fate {
                    Fate::Stored => (Ending::Stored, Outcome::Stored { id: row.id }),
                    Fate::Duplicate => (Ending::Duplicate, Outcome::Duplicate { id: row.id }),
                    Fate::Refused { code, message } => {
                        self.unstorable(place, row, &code, &message).await?;
                        continue;
                    }
                    Fate::NotNow => {
                        let why = Unfinished::of(UnfinishedCode::NotKept);
                        (Ending::Unfinished, Outcome::Unfinished { id: Some(row.id), why })
                    }
                };
                if row.module.is_none() && ending == Ending::Stored {
                    self.gateway.validators.count_unserved(&row.category, &row.name);
                }
                self.tally.count(&row.category, &row.name, ending);
                self.outcomes[place] = Some(outcome);
            }
        }
        Ok(())
    }

    /// An event that Postgres refuses for its data, whatever else is in its batch.
    async fn unstorable(&mut self, place: usize, row: &EventRow, sqlstate: &str, message: &str) -> Result<(), Refusal> {
        let parsed = envelope::parse(&row.raw, Format::Json, &self.gateway.rules, self.gateway.clock.now_us());
        // It was read before, by the same rules.
        let Ok(Parsed::One(Ok(event))) = parsed else { return Err(Refusal::Internal) };
        let event = Event { id: row.id, ..event };
        let keep = self.gateway.validators.begin().keep(&event.category, &event.name, &event.data).await;
        // The server's message may quote the row.
        let detail = match keep {
            Keep::Whole => format!("Postgres refuses the row: {message} (SQLSTATE {sqlstate})"),
            Keep::Redacted(_) | Keep::Nothing => format!("Postgres refuses the row (SQLSTATE {sqlstate})"),
        };
        self.quarantine(place, &event, row.module, Cow::Borrowed("unstorable"), &detail, None, keep);
        Ok(())
    }

    /// Keeps what was not stored: quarantined events are waited for, rejected ones are not.
    async fn bury(mut self) -> Result<Each<Outcome>, Refusal> {
        let letters = &self.gateway.dead_letters;
        letters.keep_rejected(std::mem::take(&mut self.rejected));
        if !self.quarantined.0.is_empty() {
            self.keep_quarantined().await?;
        }
        let outcomes: Option<Each<Outcome>> = self.outcomes.into_iter().collect();
        let outcomes = outcomes.ok_or(Refusal::Internal)?;
        self.tally.told();
        for outcome in &outcomes {
            if let Outcome::Unfinished { why, .. } = outcome {
                self.gateway.tallies.count_unfinished(why.code);
            }
        }
        Ok(outcomes)
    }
}

impl Sending<'_> {
    /// Keeps quarantined events. If there is no room for any of them, those beside them have their outcomes all the same.
    async fn keep_quarantined(&mut self) -> Result<(), Refusal> {
        let (kept, places) = std::mem::take(&mut self.quarantined);
        let types: SmallVec<[(Text, Text); 1]> = kept
            .iter()
            .map(|letter| [&letter.category, &letter.name].map(|word| Text::from(word.as_deref().unwrap_or_default())))
            .map(|[category, name]| (category, name))
            .collect();
        let committed = self.outcomes.iter().any(|outcome| matches!(outcome, Some(Outcome::Stored { .. })));
        let kept = self.gateway.dead_letters.keep(kept, self.room.take(), committed).await?;
        let ending = if kept == Kept::All { Ending::Quarantined } else { Ending::Unfinished };
        for (place, (category, name)) in places.into_iter().zip(types) {
            self.tally.count(&category, &name, ending);
            if kept == Kept::None
                && let Some(Outcome::Quarantined { id, .. }) = self.outcomes[place]
            {
                let why = Unfinished::of(UnfinishedCode::NotKept);
                self.outcomes[place] = Some(Outcome::Unfinished { id: Some(id), why });
            }
        }
        Ok(())
    }
}

/// What an event is whose application has made as many event types as it may. Its dead letter does not name its type.
fn too_many_types(event: Event, most: usize) -> Broken {
    Broken {
        violations: vec![known_types::too_many(most)],
        id: Some(event.id),
        session_id: Some(event.session_id),
        category: None,
        name: None,
        raw: event.raw,
    }
}

fn watch_event(event: &Event, module: Option<Digest>) -> Watched {
    let (category, name) = (Some(event.category.clone()), Some(event.name.clone()));
    Watched { session_id: Some(event.session_id), category, name, module, reason: None }
}

fn watch_broken(broken: &Broken, may_be_kept: bool) -> Watched {
    let word = |word: &Option<String>| word.as_deref().filter(|_| may_be_kept).map(Text::from);
    let (category, name) = (word(&broken.category), word(&broken.name));
    Watched { session_id: broken.session_id, category, name, module: None, reason: None }
}

fn unreadable_body(unreadable: Unreadable, gateway: &Gateway) -> Refusal {
    match unreadable {
        Unreadable::Empty => Refusal::Empty,
        Unreadable::NotJson { line, column, message } => Refusal::NotJson { line, column, message: message.to_owned() },
        Unreadable::TooMany => Refusal::TooManyEvents { limit: gateway.rules.events_max },
    }
}
