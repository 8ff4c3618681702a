//! The job `replay`: a module that need not serve judges the stored events and the dead letters of a range of time, so that
//! its author sees what it would change. It stores nothing. It goes through the events by event type in the order of their
//! timestamps, then through the letters in the order of receipt, and rests after each step in proportion to it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::envelope::Event;
use eye_event::event::{KeptAs, Text};
use eye_event::verdict::Digest;
use eye_judge::{Limits, Slot, Unprepared};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use self::difference::Difference;
use self::findings::{Compared, Example, Findings, New, Old, Reason, Sampled};
use self::thread::{Input, Past, Thread, Told};
use super::{JobSettings, Jobs, Next, Progress, Step};
use crate::response::{Refusal, of_store};
use crate::store::{
    Choice, JobRow, LetterChanges, LetterCursor, LetterFilter, PageLimits, PastEvent, PastRange, Position, StoredLetter,
};
use crate::trust::visible::Visible;

mod difference;
mod findings;
mod thread;

/// Most stored events of one step, and most of them that are looked at for a sample.
const EVENTS_MAX: u32 = 1_000;
const EVENTS_SEEN_MAX: u32 = 10_000;
/// The events of the first step, whose sizes decide how many the next ones have.
const EVENTS_FIRST: u32 = 100;
/// Most letters of one step.
const LETTERS_MAX: u32 = 200;
/// Most bytes of the events of one step.
const BYTES_MAX: usize = 8 << 20;
/// After this time a step judges no more events, so that the job can be cancelled soon.
const TIME: Duration = Duration::from_secs(2);
/// A step is followed by a rest of this part of its time.
const REST_PART: u32 = 4;
/// The pause while the module has no room.
const PAUSE: Duration = Duration::from_secs(1);
/// Event types that are read at once, and most that are counted for the progress.
const TYPES_READ: u32 = 100;
const TYPES_COUNTED_MAX: usize = 1_000;
/// Most modules of the past that are loaded to see whether they amend.
const MODULES_MAX: usize = 20;

/// What to judge, and by which limits.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The event types that the module would serve, as its file would be named.
    pub event_type: String,
    /// The module.
    pub digest: String,
    /// Stored events with this timestamp or a later one, and letters that were received then.
    pub from: DateTime<Utc>,
    /// The end of the range.
    pub to: DateTime<Utc>,
    /// About so many events and letters, spread over the range; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<u64>,
    /// The limits of each call.
    pub limits: Limits,
}

impl Request {
    /// The JSON in the row of the job.
    pub fn as_json(&self) -> Value {
        serde_json::to_value(self).expect("words, times and numbers serialize")
    }

    /// The event types of a job's request; `None` if it is no such request.
    pub fn slot_of(request: &str) -> Option<Slot> {
        let request: Self = serde_json::from_str(request).ok()?;
        Slot::parse(&request.event_type).ok()
    }

    fn range(&self) -> PastRange {
        PastRange { from_us: self.from.timestamp_micros(), to_us: self.to.timestamp_micros() }
    }
}

/// From where the next step goes on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum At {
    /// In the events of this type, after this one.
    Events { event_type: (String, String), after: Option<Position> },
    /// In the letters, after this one.
    Letters { after: Option<LetterCursor> },
}

/// The place of the job, with what it has found out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Place {
    at: At,
    /// The share of the sample, of 2^32; `None` for all.
    share: Option<u32>,
    /// By digest, whether a module of the past amends; null if it is not kept.
    amends: BTreeMap<String, Option<bool>>,
    findings: Findings,
}

/// A run of the job.
#[derive(Debug)]
pub(super) struct Work {
    id: uuid::Uuid,
    request: Request,
    slot: Slot,
    place: Option<Place>,
    /// The loaded module.
    module: Option<Loaded>,
    /// What is known of modules of the past, as in the place. A step that was cut off leaves here what it found.
    amends: BTreeMap<String, Option<bool>>,
    /// Events of the next step.
    events: u32,
}

#[derive(Debug)]
struct Loaded {
    thread: Thread,
    amends: bool,
}

/// An event or a letter of a step.
struct Item {
    after: At,
    old: Old,
    is_letter: bool,
    is_redacted: bool,
    fate: Fate,
    application: String,
    received_at: DateTime<Utc>,
    example: Example,
    /// Pointers and codes of its refusal in the past.
    places: Vec<(String, String)>,
}

/// What a step does with an item.
enum Fate {
    /// The sample leaves it out, or another module serves its type.
    Leave,
    NotCompared(Reason),
    Judge {
        past: Option<Past>,
        is_unsure: bool,
    },
}

impl Work {
    pub(super) fn begin(row: &JobRow) -> Result<Self, String> {
        let request: Request = serde_json::from_str(&row.request)
            .map_err(|error| format!("this release does not understand the request of the job: {error}"))?;
        let slot = Slot::parse(&request.event_type)?;
        let place = row.place.as_deref().map(serde_json::from_str).transpose();
        let place: Option<Place> =
            place.map_err(|error| format!("this release does not understand the place of the job: {error}"))?;
        let amends = place.as_ref().map(|place| place.amends.clone()).unwrap_or_default();
        Ok(Self { id: row.id, request, slot, place, module: None, amends, events: EVENTS_FIRST })
    }

    /// What came of the job.
    pub(super) fn result(&self) -> Option<Value> {
        self.place.as_ref().map(|place| place.findings.result())
    }

    pub(super) async fn step(&mut self, jobs: &Jobs, settings: &JobSettings) -> Result<Step, Refusal> {
        if self.module.is_none() {
            self.module = Some(self.load(settings).await?);
        }
        let began = Instant::now();
        let Some(mut place) = self.place.clone() else { return self.first(settings).await };
        let (mut items, end) = match place.at.clone() {
            At::Events { event_type, after } => self.events(settings, &event_type, after, place.share).await?,
            At::Letters { after } => self.letters(jobs, settings, after, &place).await?,
        };
        let past = items.iter_mut().filter_map(|item| match &mut item.fate {
            Fate::Judge { past, .. } => past.take(),
            Fate::Leave | Fate::NotCompared(_) => None,
        });
        let past: Vec<Past> = past.collect();
        let thread = &self.module.as_ref().expect("it was loaded above").thread;
        let Some(done) = thread.judge(settings.judges.clone(), past, TIME).await else {
            return Ok(Step::idle(Next::After(PAUSE)));
        };
        let mut told = done.told.into_iter();
        let (mut added, mut is_whole, mut is_idle) = (Progress::default(), true, true);
        for item in items {
            if matches!(item.fate, Fate::Judge { .. }) && told.len() == 0 {
                is_whole = false;
                break;
            }
            place.at = item.after.clone();
            note(item, &mut told, &mut place.findings, &mut added);
            is_idle = false;
        }
        if !is_whole && is_idle {
            return Ok(Step::idle(Next::After(PAUSE)));
        }
        place.amends.clone_from(&self.amends);
        let took = began.elapsed();
        place.findings.elapsed_ms += u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        place.findings.processor_us += u64::try_from(done.processor.as_micros()).unwrap_or(u64::MAX);
        let next = match (is_whole, end) {
            (true, End::Job) => Next::Done,
            (true, End::Part(at)) => {
                place.at = at;
                Next::After(took / REST_PART)
            }
            _ => Next::After(took / REST_PART),
        };
        Ok(self.stepped(place, added, None, next))
    }

    fn stepped(&mut self, place: Place, added: Progress, total: Option<u64>, next: Next) -> Step {
        let as_json = serde_json::to_value(&place).expect("counts, times and words serialize");
        self.place = Some(place);
        let changes = LetterChanges::default();
        Step { results: Vec::new(), added, total, place: Some(as_json), changes, next }
    }

    /// Loads the module that comes with the job.
    async fn load(&self, settings: &JobSettings) -> Result<Loaded, Refusal> {
        let content = settings.judges.store.job_module(self.id).await.map_err(of_store)?;
        let gone = || Refusal::NoVersion { message: "The module of the job is not there any more.".to_owned() };
        let content = content.ok_or_else(gone)?;
        let loaded = settings.judges.validators.load_aside(&self.slot, self.request.limits, content.into()).await;
        let module = loaded.map_err(|unprepared| match unprepared {
            Unprepared::Refused(why) => {
                Refusal::ModuleRefused { expected: why.expected, found: why.found, mend: why.mend }
            }
            Unprepared::NoContent => gone(),
            Unprepared::Stopped => Refusal::Draining,
        })?;
        let amends = module.amends();
        let thread = Thread::start(module).map_err(|error| {
            tracing::warn!(%error, "the thread of a replay does not start");
            Refusal::Overloaded
        })?;
        Ok(Loaded { thread, amends })
    }

    /// The first step finds out how much there is.
    async fn first(&mut self, settings: &JobSettings) -> Result<Step, Refusal> {
        let store = &settings.judges.store;
        let (mut types, mut last) = (Vec::new(), None);
        while let Some(event_type) = self.next_type(settings, last.as_ref()).await? {
            types.push(event_type.clone());
            last = Some(event_type);
            if types.len() > TYPES_COUNTED_MAX {
                break;
            }
        }
        let range = self.request.range();
        let counted = match types.len() > TYPES_COUNTED_MAX {
            true => None,
            false => store.past_events_count(&types, range).await.map_err(of_store)?,
        };
        let letters = store.dead_letters_left(&Visible::ALL, &self.filter()).await.map_err(of_store)?;
        let total = counted.zip(letters).map(|(events, letters)| events + letters);
        let (mut share, mut findings) = (None, Findings::default());
        if let Some(wanted) = self.request.sample {
            let events = match counted {
                Some(counted) => counted,
                None => store.past_events_guess(&types, range).await.map_err(of_store)?,
            };
            let letters = letters.unwrap_or_default();
            findings.sampled = Some(Sampled { wanted, events, letters });
            share = share_of(wanted, events + letters);
        }
        let at = match types.into_iter().next() {
            Some(event_type) => At::Events { event_type, after: None },
            None => At::Letters { after: None },
        };
        let total = total.filter(|_| share.is_none());
        let place = Place { at, share, amends: BTreeMap::new(), findings };
        Ok(self.stepped(place, Progress::default(), total, Next::Now))
    }

    /// The event type after one that a module of the slot would serve, as the other modules stand now.
    async fn next_type(
        &self,
        settings: &JobSettings,
        after: Option<&(String, String)>,
    ) -> Result<Option<(String, String)>, Refusal> {
        if let Slot::Exact(category, name) = &self.slot {
            return Ok(after.is_none().then(|| (category.clone(), name.clone())));
        }
        let (category, _) = self.slot.parts();
        let mut after = after.cloned();
        loop {
            let read = settings.judges.store.event_types_after(category, after.as_ref(), TYPES_READ).await;
            let read = read.map_err(of_store)?;
            let serves = |(category, name): &&(String, String)| {
                settings.judges.validators.would_serve(&self.slot, category, name)
            };
            if let Some(found) = read.iter().find(serves) {
                return Ok(Some(found.clone()));
            }
            if read.len() < TYPES_READ as usize {
                return Ok(None);
            }
            after = read.last().cloned();
        }
    }

    /// A page of the events of a type.
    async fn events(
        &mut self,
        settings: &JobSettings,
        event_type: &(String, String),
        after: Option<Position>,
        share: Option<u32>,
    ) -> Result<(Vec<Item>, End), Refusal> {
        let (category, name) = (event_type.0.as_str(), event_type.1.as_str());
        let most = if share.is_some() { EVENTS_SEEN_MAX } else { EVENTS_MAX };
        let limits = PageLimits { rows: self.events.min(most), bytes: BYTES_MAX };
        let store = &settings.judges.store;
        let page = store.past_events((category, name), self.request.range(), after, share, limits).await;
        let page = page.map_err(of_store)?;
        let bytes: usize = page.rows.iter().map(|row| row.data.as_ref().map_or(0, String::len)).sum();
        let mean = bytes / page.rows.len().max(1);
        self.events = u32::try_from(BYTES_MAX / mean.max(1)).unwrap_or(most).clamp(1, most);
        let mut items = Vec::with_capacity(page.rows.len());
        for row in page.rows {
            let amends = match &row.data {
                Some(_) => self.amends(settings, event_type, row.module.as_deref()).await?,
                None => Amends::No,
            };
            items.push(of_event(row, event_type, amends));
        }
        let end = match page.next {
            Some(_) => End::Page,
            None => End::Part(match self.next_type(settings, Some(event_type)).await? {
                Some(event_type) => At::Events { event_type, after: None },
                None => At::Letters { after: None },
            }),
        };
        Ok((items, end))
    }

    /// Whether the module that judged a stored event amends, so that what is stored may not be what was sent.
    async fn amends(
        &mut self,
        settings: &JobSettings,
        event_type: &(String, String),
        module: Option<&[u8]>,
    ) -> Result<Amends, Refusal> {
        let Some(digest) = module.and_then(|digest| digest.try_into().ok()).map(Digest) else { return Ok(Amends::No) };
        let key = digest.to_string();
        let known = match self.amends.get(&key) {
            Some(known) => *known,
            None if self.amends.len() >= MODULES_MAX => None,
            None => {
                let found = self.look_up(settings, event_type, digest).await?;
                self.amends.insert(key, found);
                found
            }
        };
        Ok(match known {
            Some(true) => Amends::Perhaps,
            Some(false) => Amends::No,
            None => Amends::Unknown,
        })
    }

    async fn look_up(
        &self,
        settings: &JobSettings,
        (category, name): &(String, String),
        digest: Digest,
    ) -> Result<Option<bool>, Refusal> {
        let validators = &settings.judges.validators;
        if digest.to_string() == self.request.digest {
            return Ok(self.module.as_ref().map(|module| module.amends));
        }
        if let Some(amends) = validators.amends(category, name, digest) {
            return Ok(Some(amends));
        }
        let slots = [Slot::Exact(category.clone(), name.clone()), Slot::Category(category.clone()), Slot::Any];
        let (reads, of) = (validators.clone(), slots.clone());
        let kept = tokio::task::spawn_blocking(move || {
            of.iter().find_map(|slot| reads.kept_content(slot, digest).ok().flatten())
        });
        let content = match kept.await.map_err(|_| Refusal::Internal)? {
            Some(content) => Some(content),
            None => settings.judges.store.module_contents(&[digest]).await.map_err(of_store)?.remove(&digest),
        };
        let Some(content) = content else { return Ok(None) };
        let [slot, ..] = &slots;
        let limits = validators.limits_for(slot, None).unwrap_or(self.request.limits);
        match validators.load_aside(slot, limits, content.into()).await {
            Ok(module) => Ok(Some(module.amends())),
            Err(Unprepared::Stopped) => Err(Refusal::Draining),
            Err(Unprepared::Refused(_) | Unprepared::NoContent) => Ok(None),
        }
    }

    /// The letters of the request. The event of one that was redriven is among those that are stored.
    fn filter(&self) -> LetterFilter {
        let (category, name) = self.slot.parts();
        LetterFilter {
            category: category.map(str::to_owned),
            name: name.map(str::to_owned),
            from: Some(self.request.from),
            to: Some(self.request.to),
            ..LetterFilter::default()
        }
    }

    /// A page of the letters.
    async fn letters(
        &self,
        jobs: &Jobs,
        settings: &JobSettings,
        after: Option<LetterCursor>,
        place: &Place,
    ) -> Result<(Vec<Item>, End), Refusal> {
        let (store, choice) = (&settings.judges.store, Choice::Filter(self.filter()));
        let page = store.dead_letters_to_redrive(&Visible::ALL, &choice, after, LETTERS_MAX).await.map_err(of_store)?;
        let mut bytes = 0;
        let fits = page.rows.iter().take_while(|letter| {
            bytes += usize::try_from(letter.raw_kept_bytes).unwrap_or_default();
            bytes <= BYTES_MAX
        });
        let count = fits.count().max(1).min(page.rows.len());
        let letters = &page.rows[..count];
        let raws = store.dead_letter_raws(letters).await.map_err(of_store)?;
        let now_us = jobs.clock.now_us();
        let serves = |letter: &StoredLetter| match (&letter.category, &letter.name) {
            (Some(category), Some(name)) => settings.judges.validators.would_serve(&self.slot, category, name),
            _ => false,
        };
        let chosen = |letter: &StoredLetter| place.share.is_none_or(|share| hash(letter.id) < share);
        let items = letters.iter().zip(raws).map(|(letter, raw)| {
            let is_taken = serves(letter) && chosen(letter);
            of_letter(letter, is_taken, raw, now_us)
        });
        let items = items.collect();
        let is_end = page.next.is_none() && count == page.rows.len();
        Ok((items, if is_end { End::Job } else { End::Page }))
    }
}

/// What comes after the items of a step.
enum End {
    /// More of the same.
    Page,
    /// Another event type, or the letters.
    Part(At),
    /// Nothing.
    Job,
}

/// Whether a module of the past amends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Amends {
    /// None of its examples is amended.
    No,
    /// One of its examples is amended.
    Perhaps,
    /// It is not kept any more.
    Unknown,
}

fn of_event(row: PastEvent, (category, name): &(String, String), amends: Amends) -> Item {
    let position = Position {
        timestamp_us: row.timestamp.timestamp_micros(),
        received_at_us: row.received_at.timestamp_micros(),
        id: row.id,
    };
    let past = |data: String| Past {
        input: Input::Stored(Box::new(Event {
            id: row.id,
            session_id: row.session_id,
            category: Text::from(category.as_str()),
            name: Text::from(name.as_str()),
            timestamp_us: position.timestamp_us,
            data: Text::from(data),
            raw: bytes::Bytes::new(),
        })),
        application_id: row.application_id,
        application: row.application.clone(),
        received_at_us: position.received_at_us,
    };
    let fate = match (row.data, amends) {
        (None, _) => Fate::Leave,
        (Some(_), Amends::Perhaps) => Fate::NotCompared(Reason::Amended),
        (Some(data), amends) => Fate::Judge { past: Some(past(data)), is_unsure: amends == Amends::Unknown },
    };
    Item {
        after: At::Events { event_type: (category.clone(), name.clone()), after: Some(position) },
        old: Old::Stored,
        is_letter: false,
        is_redacted: false,
        fate,
        application: row.application,
        received_at: row.received_at,
        example: Example { event_id: Some(row.id), session_id: Some(row.session_id), dead_letter_id: None },
        places: Vec::new(),
    }
}

fn of_letter(letter: &StoredLetter, is_taken: bool, raw: Option<Vec<u8>>, now_us: i64) -> Item {
    let is_kept = |as_what: KeptAs| letter.kept == as_what.as_str();
    let not_compared = match (letter.code.as_str(), letter.unredrivable(), &raw) {
        ("envelope", ..) => Some(Reason::Envelope),
        ("not_allowed", ..) => Some(Reason::NotAllowed),
        ("unstorable", ..) => Some(Reason::Unstorable),
        (_, Some(("not_kept", _)), _) => Some(Reason::NotKept),
        (_, Some(("cut", _)), _) => Some(Reason::Cut),
        (_, Some(_), _) | (_, _, None) => Some(Reason::Gone),
        _ => None,
    };
    let past = |raw: Vec<u8>| Past {
        input: Input::Letter { raw: raw.into(), id: letter.event_id.unwrap_or(letter.id), now_us },
        application_id: letter.application_id,
        application: letter.application.clone(),
        received_at_us: letter.received_at.timestamp_micros(),
    };
    let fate = match (is_taken, not_compared) {
        (false, _) => Fate::Leave,
        (true, Some(reason)) => Fate::NotCompared(reason),
        (true, None) => Fate::Judge { past: raw.map(past), is_unsure: false },
    };
    let violations: Vec<WrittenViolation> = serde_json::from_str(&letter.violations).unwrap_or_default();
    let mut places: Vec<(String, String)> = violations.into_iter().map(|one| (one.pointer, one.code)).collect();
    if places.is_empty() {
        places.push((String::new(), letter.code.clone()));
    }
    Item {
        after: At::Letters { after: Some(letter.cursor()) },
        old: if letter.reason == "rejected" { Old::Refused } else { Old::Quarantined },
        is_letter: true,
        is_redacted: is_kept(KeptAs::Redacted),
        fate,
        application: letter.application.clone(),
        received_at: letter.received_at,
        example: Example { event_id: letter.event_id, session_id: letter.session_id, dead_letter_id: Some(letter.id) },
        places,
    }
}

/// A violation of a letter, as far as a replay needs it.
#[derive(Deserialize)]
struct WrittenViolation {
    pointer: String,
    code: String,
}

/// Counts an item of a step, with what the module said of it.
fn note(item: Item, told: &mut impl Iterator<Item = Told>, findings: &mut Findings, added: &mut Progress) {
    let Item { old, is_letter, is_redacted, fate, application, received_at, example, places, .. } = item;
    let is_unsure = match fate {
        Fate::Leave => return,
        Fate::NotCompared(reason) => return leave_out(is_letter, reason, findings, added),
        Fate::Judge { is_unsure, .. } => is_unsure,
    };
    let amended_places: Vec<Difference>;
    let (new, code, own, amended) = match told.next() {
        None | Some(Told::Broken) => return leave_out(is_letter, Reason::Envelope, findings, added),
        Some(Told::Stored) => (New::Stored, None, Vec::new(), None),
        Some(Told::Amended(changes, more)) => {
            amended_places = changes.clone();
            let own = amended_places.iter().map(|change| (change.pointer.clone(), "amended".to_owned())).collect();
            (New::Amended, None, own, Some((changes, more)))
        }
        Some(Told::Refused(violations)) => (New::Refused, Some("rule".to_owned()), violations, None),
        Some(Told::Faulted(code)) => (New::Faulted, Some(code.clone()), vec![(String::new(), code)], None),
    };
    findings.look(is_letter);
    if is_unsure {
        findings.unsure();
    }
    added.done += 1;
    *match new {
        New::Stored | New::Amended => &mut added.stored,
        New::Refused => &mut added.rejected,
        New::Faulted => &mut added.quarantined,
    } += 1;
    code.iter().for_each(|code| added.count_code(code, 1));
    let changed = match (old, new) {
        (Old::Stored, New::Stored) | (Old::Refused, New::Refused) | (Old::Quarantined, New::Faulted) => Vec::new(),
        (Old::Refused | Old::Quarantined, New::Stored | New::Amended) => places,
        _ => own,
    };
    let places = changed.iter().map(|(pointer, code)| (pointer.as_str(), code.as_str())).collect();
    findings.add(Compared { old, new, is_redacted, places, application: &application, received_at, example, amended });
}

fn leave_out(is_letter: bool, reason: Reason, findings: &mut Findings, added: &mut Progress) {
    findings.look(is_letter);
    findings.not_compared(reason);
    added.done += 1;
    added.skipped += 1;
    added.count_code(reason.as_str(), 1);
}

/// The share, of 2^32, that makes about `wanted` of `all`; `None` for all of them.
fn share_of(wanted: u64, all: u64) -> Option<u32> {
    let share = (u128::from(wanted) << 32) / u128::from(all.max(1));
    u32::try_from(share).ok()
}

/// A number of 32 bits that depends on an id alone.
fn hash(id: uuid::Uuid) -> u32 {
    let [a, b, c, d, ..] = Digest::of(id.as_bytes()).0;
    u32::from_be_bytes([a, b, c, d])
}
