//! Dead letters judged again by the modules of now, on the same way that a new event takes: the gateway's own rules, the
//! permissions that its application has now, the validator of its type, the event writers. The event keeps its id, its application and its time of receipt, so it is
//! stored once at most, however often and wherever this is tried; a letter is marked only after the commit.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use eye_event::envelope::{self, Event, Format, Parsed, Rules, Unreadable};
use eye_event::event::{EventRow, KeptAs};
use eye_event::outcome::RejectionCode;
use eye_event::verdict::{Digest, FaultCode, UnfinishedCode, Unjudged, Verdict, Violation};
use eye_judge::{Judging, Keep, Subject, Validators};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::{Batcher, Fate, Refused};
use crate::clock::Clock;
use crate::query::refusal;
use crate::response::Refusal;
use crate::secrets::TakenOut;
use crate::store::{ApplicationRow, Choice, LetterCursor, Seen, Store, StoredLetter, UnseenLane};
use crate::trust::Scope;
use crate::trust::event_types::EventTypes;
use crate::trust::known_types;

/// Raw bytes that are judged and written together.
const PARCEL_BYTES_MAX: usize = 8 << 20;
/// Letters that are judged and written together.
const PARCEL_LETTERS_MAX: usize = 200;
/// Bytes of violations after which no more letters are judged: the answer tells all of them.
const VIOLATIONS_BYTES_MAX: usize = 8 << 20;

/// What it takes to judge dead letters again.
#[derive(Debug)]
pub struct Redrive<'a> {
    /// Where the letters and the events are.
    pub store: &'a Store,
    /// The gateway's own rules.
    pub rules: &'a Rules,
    /// The wall clock.
    pub clock: &'a Clock,
    /// The modules of now.
    pub validators: &'a Validators,
    /// The event writers.
    pub events: &'a Batcher<EventRow>,
    /// How many event types an application may make.
    pub event_types_max: usize,
    /// No more letters are judged after this time.
    pub time: Duration,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Which letters.
    pub choice: Choice,
    /// The last letter of the errand before, which this one goes on from.
    pub after: Option<LetterCursor>,
    /// Letters at most.
    pub limit: u32,
    /// Only judge, and change nothing.
    pub dry_run: bool,
}

/// How one letter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Its event is committed; in a dry run, it would be sent to the writers.
    Stored,
    /// Its event was there already.
    Duplicate,
    /// The gateway's rules or its validator refuse it still.
    Rejected,
    /// It can still not be judged or stored.
    Quarantined,
    /// It was not tried; the code says why.
    Skipped,
}

/// What came of one letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterResult {
    /// The dead letter's id.
    pub id: Uuid,
    /// The event's id.
    pub event_id: Option<Uuid>,
    /// How it ended.
    pub outcome: Ended,
    /// What was judged is the event as its validator had redacted it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// `envelope`, `rule`, `not_allowed`, the kind of fault, `unstorable`; or why it was skipped: `cut`, `not_kept`, `redriven`,
    /// `unknown`, `unread`, or the code of an unfinished event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// One sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'static, str>>,
    /// What is wrong with the event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// The module that looked at the event.
    #[serde(skip)]
    pub module: Option<Digest>,
}

impl LetterResult {
    /// Whether no module has looked at the event, since it could not judge now.
    fn is_unseen(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        match self.outcome {
            Ended::Quarantined => code == FaultCode::OffPath.as_str(),
            Ended::Skipped => UnfinishedCode::ALL.iter().any(|unfinished| unfinished.as_str() == code),
            Ended::Stored | Ended::Duplicate | Ended::Rejected => false,
        }
    }
}

/// What came of letters that no module had looked at.
#[derive(Debug)]
pub struct UnseenParcel {
    /// Those that were looked at.
    pub report: Report,
    /// False when the module could not judge any more of them.
    pub judges: bool,
}

/// What came of an errand.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each letter, in the order of receipt.
    pub results: Vec<LetterResult>,
    /// Where to go on; none when all was done.
    pub next: Option<LetterCursor>,
    /// About the bytes of the violations in the results.
    violations_bytes: usize,
}

impl Report {
    /// Whether there is no time for another letter, or no room.
    fn is_full(&self, until: Instant) -> bool {
        Instant::now() >= until || self.violations_bytes >= VIOLATIONS_BYTES_MAX
    }

    /// How many letters ended so.
    pub fn count(&self, ended: Ended) -> usize {
        self.results.iter().filter(|result| result.outcome == ended).count()
    }
}

/// A letter on its way.
enum Judged {
    /// To be stored.
    Row(Box<EventRow>),
    /// Its event is stored already, as a look at the events has shown.
    Duplicate(LetterResult),
    /// At its end.
    Ended(LetterResult),
}

/// What each application may send now. Read once for each call, so a redrive is as strict as a new event.
struct Senders(HashMap<i32, Sender>);

struct Sender {
    active: bool,
    sends: bool,
    /// `None` for all.
    event_types: Option<EventTypes>,
}

impl Senders {
    fn of(rows: &[ApplicationRow]) -> Self {
        let sender = |row: &ApplicationRow| Sender {
            active: row.active,
            sends: Scope::Ingest.is_granted_by(&row.scopes),
            // A pattern that cannot be read allows nothing.
            event_types: (!row.event_types.is_empty()).then(|| EventTypes::parse(&row.event_types).unwrap_or_default()),
        };
        Self(rows.iter().map(|row| (row.id, sender(row))).collect())
    }

    /// Why an application may not send an event of this type; `None` when it may.
    fn refusal(&self, application_id: i32, category: &str, name: &str) -> Option<&'static str> {
        match self.0.get(&application_id) {
            None => Some("its application is not registered any more"),
            Some(sender) if !sender.active => Some("its application is suspended or revoked"),
            Some(sender) if !sender.sends => Some("its application may not send events: it lacks the scope `ingest`"),
            Some(Sender { event_types: Some(types), .. }) if !types.contains(category, name) => {
                Some("its application may not send this event type")
            }
            Some(_) => None,
        }
    }
}

impl Redrive<'_> {
    /// Judges the chosen letters again, in the order in which they were received, and has stored what is accepted.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overloaded`], [`Refusal::Draining`], and those of a read. What was done before stays done, and doing it
    /// again does no harm.
    pub async fn run(&self, errand: &Errand) -> Result<Report, Refusal> {
        let until = Instant::now() + self.time;
        let mut report = Report::default();
        if let (Choice::Ids(ids), None) = (&errand.choice, errand.after) {
            let unknown = self.store.dead_letters_unknown(ids).await.map_err(refusal)?;
            let told = unknown.into_iter().map(|id| skipped(id, None, "unknown", "there is no such dead letter"));
            report.results.extend(told);
        }
        let senders = Senders::of(&self.store.applications().await.map_err(refusal)?);
        let page =
            self.store.dead_letters_to_redrive(&errand.choice, errand.after, errand.limit).await.map_err(refusal)?;
        let mut rest = &page.rows[..];
        while !rest.is_empty() {
            let done = self.parcel(&rest[..parcel_of(rest)], &senders, until, errand.dry_run, &mut report).await?;
            let last = rest[done - 1].cursor();
            rest = &rest[done..];
            if report.is_full(until) && !rest.is_empty() {
                report.next = Some(last);
                return Ok(report);
            }
        }
        report.next = page.next;
        Ok(report)
    }

    /// Judges the first letters of an event type and application that no module has looked at, in order and until its module
    /// cannot judge; has stored what is accepted, and notes of the others what was found.
    ///
    /// # Errors
    ///
    /// As for [`Redrive::run`].
    pub async fn run_unseen(&self, lane: &UnseenLane, limit: u32) -> Result<UnseenParcel, Refusal> {
        let until = Instant::now() + self.time;
        let senders = Senders::of(&self.store.applications().await.map_err(refusal)?);
        let letters = self.store.unseen_letters(lane, limit).await.map_err(refusal)?;
        let letters = &letters[..parcel_of(&letters).min(letters.len())];
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store.dead_letter_raws(&places).await.map_err(refusal)?;
        let mut parcel = UnseenParcel { report: Report::default(), judges: true };
        let (mut rows, results) = (Vec::new(), &mut parcel.report.results);
        for (place, (letter, raw)) in letters.iter().zip(raws).enumerate() {
            match self.judge(letter, raw, &senders).await {
                Judged::Ended(result) if result.is_unseen() => {
                    parcel.judges = false;
                    break;
                }
                Judged::Ended(result) => results.push(result),
                Judged::Duplicate(result) => {
                    results.push(result);
                    self.store.mark_redriven(&[(places[place], false)]).await.map_err(refusal)?;
                }
                Judged::Row(row) => {
                    results.push(ended(letter, Some(row.id), Ended::Stored));
                    rows.push((place, *row));
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        if !rows.is_empty() {
            self.store_rows(&places, rows, results).await?;
        }
        let looked_at = |(_, result): &(&LetterCursor, &LetterResult)| {
            matches!(result.outcome, Ended::Rejected | Ended::Quarantined)
        };
        let seen: Vec<Seen> =
            places.iter().zip(&*results).filter(looked_at).map(|(place, result)| seen(*place, result)).collect();
        if !seen.is_empty() {
            self.store.settle_unseen(&seen).await.map_err(refusal)?;
        }
        Ok(parcel)
    }

    /// Judges the letters for as long as there is time and room, at least one of them, and has stored what is accepted. Gives how
    /// many it did.
    async fn parcel(
        &self,
        letters: &[StoredLetter],
        senders: &Senders,
        until: Instant,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<usize, Refusal> {
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store.dead_letter_raws(&places).await.map_err(refusal)?;
        let mut rows = Vec::with_capacity(letters.len());
        let (mut results, mut known) = (Vec::with_capacity(letters.len()), Vec::new());
        for (place, (letter, raw)) in letters.iter().zip(raws).enumerate() {
            if place > 0 && report.is_full(until) {
                break;
            }
            match self.judge(letter, raw, senders).await {
                Judged::Ended(result) => {
                    report.violations_bytes += result.violations.iter().map(Violation::bytes).sum::<usize>();
                    results.push(result);
                }
                Judged::Duplicate(result) => {
                    results.push(result);
                    known.push((places[place], false));
                }
                Judged::Row(row) => {
                    results.push(ended(letter, Some(row.id), Ended::Stored));
                    rows.push((place, *row));
                }
            }
        }
        if !dry_run && !rows.is_empty() {
            self.store_rows(&places, rows, &mut results).await?;
        }
        if !dry_run && !known.is_empty() {
            self.store.mark_redriven(&known).await.map_err(refusal)?;
        }
        let done = results.len();
        report.results.append(&mut results);
        Ok(done)
    }

    async fn judge(&self, letter: &StoredLetter, raw: Option<Vec<u8>>, senders: &Senders) -> Judged {
        let skip = |code, detail| Judged::Ended(skipped(letter.id, letter.event_id, code, detail));
        let Some(raw) = raw else { return skip("unknown", "the dead letter was trimmed meanwhile") };
        if let Some((code, detail)) = letter.unredrivable() {
            return skip(code, detail);
        }
        let mut event = match self.read(raw.into()) {
            Ok(event) => event,
            Err(violations) => {
                let result = ended(letter, letter.event_id, Ended::Rejected);
                return Judged::Ended(LetterResult { code: Some("envelope".into()), violations, ..result });
            }
        };
        // An event without an id got one when it came; one whose envelope was broken got none, and takes the letter's.
        // Either way it is the same at each try, so the event is stored once at most.
        event.id = letter.event_id.unwrap_or(letter.id);
        if let Some(detail) = senders.refusal(letter.application_id, &event.category, &event.name) {
            let (code, detail) = (Some(RejectionCode::NotAllowed.as_str().into()), Some(detail.into()));
            return Judged::Ended(LetterResult { code, detail, ..ended(letter, Some(event.id), Ended::Rejected) });
        }
        if let Some(refused) = self.too_many_types(letter, &event).await {
            return Judged::Ended(refused);
        }
        let subject = Subject {
            id: event.id,
            application: &letter.application,
            session_id: event.session_id,
            category: &event.category,
            name: &event.name,
            timestamp_us: event.timestamp_us,
            received_at_us: letter.received_at.timestamp_micros(),
            data: &event.data,
        };
        let mut judging = self.validators.begin_unhurried();
        let judgement = judging.judge(subject).await;
        let result = |outcome| ended(letter, Some(event.id), outcome);
        let amended = match judgement.outcome {
            Ok(Verdict::Accept) => None,
            Ok(Verdict::Amend(data)) => Some(data),
            Ok(Verdict::Reject(violations)) => {
                let module = judgement.digest;
                return self.rejected(letter, &event, &judging, violations, module).await;
            }
            // No module looked at it.
            Err(Unjudged::Unfinished(why)) => {
                let detail = "its event could not be judged now; try again later";
                return Judged::Ended(skipped(letter.id, letter.event_id, why.code.as_str(), detail));
            }
            Err(Unjudged::Fault(fault)) => {
                let (code, detail) = (Some(fault.code.as_str().into()), Some(fault.detail.into()));
                let module = judgement.digest;
                return Judged::Ended(LetterResult { code, detail, module, ..result(Ended::Quarantined) });
            }
        };
        Judged::Row(Box::new(EventRow {
            id: event.id,
            session_id: event.session_id,
            timestamp_us: event.timestamp_us,
            received_at_us: letter.received_at.timestamp_micros(),
            category: event.category,
            name: event.name,
            application_id: letter.application_id,
            module: judgement.digest,
            data: amended.map_or(event.data, Into::into),
            raw: event.raw,
            redriven: true,
        }))
    }

    /// What comes of a letter whose event would make one event type too many. A letter that names its type has made it already.
    async fn too_many_types(&self, letter: &StoredLetter, event: &Event) -> Option<LetterResult> {
        if letter.category.is_some() && letter.name.is_some() {
            return None;
        }
        let (application, most) = (letter.application_id, self.event_types_max);
        match self.store.admits_event_type(application, &event.category, &event.name, most).await {
            Ok(true) => None,
            Ok(false) => {
                let result = ended(letter, Some(event.id), Ended::Rejected);
                let violations = vec![known_types::too_many(most)];
                Some(LetterResult { code: Some("envelope".into()), violations, ..result })
            }
            Err(_) => {
                let detail = "the event types of its application could not be read; try again later";
                Some(skipped(letter.id, letter.event_id, "unknown", detail))
            }
        }
    }

    /// What becomes of a letter whose event is refused again. What is told of it quotes nothing that its validator takes out.
    async fn rejected(
        &self,
        letter: &StoredLetter,
        event: &Event,
        judging: &Judging<'_>,
        violations: Vec<Violation>,
        module: Option<Digest>,
    ) -> Judged {
        if judging.judges_at(&event.category, &event.name) {
            match self.store.has_event(event.session_id, event.timestamp_us, event.id).await {
                Ok(true) => return Judged::Duplicate(ended(letter, Some(event.id), Ended::Duplicate)),
                Ok(false) => {}
                Err(_) => {
                    let detail = "whether its event is stored could not be read; try again";
                    return Judged::Ended(skipped(letter.id, letter.event_id, "unread", detail));
                }
            }
        }
        let violations = match judging.keep(&event.category, &event.name, &event.data).await {
            Keep::Whole => violations,
            Keep::Redacted(data) => TakenOut::between(&event.data, &data).clean(&violations),
            Keep::Nothing => TakenOut::between(&event.data, "").clean(&violations),
        };
        let code = Some("rule".into());
        Judged::Ended(LetterResult { code, violations, module, ..ended(letter, Some(event.id), Ended::Rejected) })
    }

    /// The event in the raw bytes, if they keep the rules of now.
    fn read(&self, raw: Bytes) -> Result<Event, Vec<Violation>> {
        let whole = |code: &'static str, message: Cow<'static, str>| {
            vec![Violation { pointer: String::new(), code: code.into(), message }]
        };
        match envelope::parse(&raw, Format::Json, self.rules, self.clock.now_us()) {
            Ok(Parsed::One(Ok(event))) => Ok(event),
            Ok(Parsed::One(Err(broken))) => Err(broken.violations),
            Ok(Parsed::Many(_)) | Err(Unreadable::TooMany) => {
                Err(whole("type", "an event is a JSON object, and this is an array".into()))
            }
            Err(Unreadable::Empty) => Err(whole("json", "there is nothing".into())),
            Err(Unreadable::NotJson { line, column, message }) => {
                Err(whole("json", format!("not JSON at line {line}, column {column}: {message}").into()))
            }
        }
    }

    /// Hands the rows to the event writers, waits for the commit, marks the letters. If the mark is not written, the next
    /// try finds a duplicate and marks it then.
    async fn store_rows(
        &self,
        places: &[LetterCursor],
        rows: Vec<(usize, EventRow)>,
        results: &mut [LetterResult],
    ) -> Result<(), Refusal> {
        let (at, rows): (Vec<usize>, Vec<EventRow>) = rows.into_iter().unzip();
        let judging = self.validators.begin();
        let takes_out: HashMap<usize, bool> =
            at.iter().zip(&rows).map(|(place, row)| (*place, judging.takes_out(&row.category, &row.name))).collect();
        let receipt = self.events.submit(rows, None).map_err(|refused| match refused {
            Refused::Full(_) => Refusal::Overloaded,
            Refused::Closed(_) => Refusal::Draining,
        })?;
        // Without a receipt nobody knows: the rows may be committed.
        let fates = receipt.await.map_err(|_| Refusal::DatabaseAway)?;
        let mut marks = Vec::with_capacity(fates.len());
        for (place, fate) in at.into_iter().zip(fates) {
            match fate {
                Fate::Stored => marks.push((places[place], true)),
                Fate::Duplicate => {
                    results[place].outcome = Ended::Duplicate;
                    marks.push((places[place], false));
                }
                Fate::NotNow => {
                    let result = &mut results[place];
                    result.outcome = Ended::Skipped;
                    result.code = Some("not_kept".into());
                    result.detail = Some("the database refuses its event now; try again later".into());
                }
                Fate::Refused { code, message } => {
                    let result = &mut results[place];
                    result.outcome = Ended::Quarantined;
                    result.code = Some("unstorable".into());
                    // The server's message may quote the row.
                    let quotes = !takes_out.get(&place).is_some_and(|takes_out| *takes_out);
                    let said = if quotes { format!(": {message}") } else { String::new() };
                    result.detail = Some(format!("Postgres refuses the row{said} (SQLSTATE {code})").into());
                }
            }
        }
        if marks.is_empty() { Ok(()) } else { self.store.mark_redriven(&marks).await.map_err(refusal) }
    }
}

/// How many of the first letters are judged and written together; at least one.
fn parcel_of(letters: &[StoredLetter]) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take(PARCEL_LETTERS_MAX).take_while(|letter| {
        bytes += usize::try_from(letter.raw_kept_bytes).unwrap_or(0);
        bytes <= PARCEL_BYTES_MAX
    });
    fits.count().max(1)
}

fn ended(letter: &StoredLetter, event_id: Option<Uuid>, outcome: Ended) -> LetterResult {
    LetterResult {
        id: letter.id,
        event_id,
        outcome,
        redacted: letter.kept == KeptAs::Redacted.as_str(),
        code: None,
        detail: None,
        violations: Vec::new(),
        module: None,
    }
}

fn skipped(id: Uuid, event_id: Option<Uuid>, code: &'static str, detail: &'static str) -> LetterResult {
    let (code, detail) = (Some(code.into()), Some(detail.into()));
    LetterResult {
        id,
        event_id,
        outcome: Ended::Skipped,
        redacted: false,
        code,
        detail,
        violations: Vec::new(),
        module: None,
    }
}

/// What is noted of a letter once a module has looked at its event.
fn seen(place: LetterCursor, result: &LetterResult) -> Seen {
    let code = result.code.as_deref().unwrap_or_default().to_owned();
    let detail =
        result.detail.as_deref().unwrap_or("a validator rejected the event when it was judged again").to_owned();
    Seen { place, code, detail, violations: result.violations.clone(), module: result.module }
}
