//! Dead letters judged again by the modules of now. `judging.rs` says what each becomes, by all rules that a new event
//! meets; here is which letters are tried, and what is noted of them. The event keeps its id, its application and its time of
//! receipt, so it is stored once at most, however often and wherever this is tried; a letter is marked only after the commit.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use eye_event::event::{EventRow, KeptAs};
use eye_event::outcome::{OutcomeKind, RejectionCode};
use eye_event::verdict::{Digest, FaultCode, UnfinishedCode, Violation};
use serde::{Serialize, Serializer};
use tokio::time::Instant;
use uuid::Uuid;

use crate::batch::{Batcher, Fate, Refused};
use crate::clock::Clock;
use crate::judging::{End, Judged, Judges, NotStored, Origin, Senders};
use crate::response::{Refusal, of_store};
use crate::store::{Choice, LetterCursor, Seen, Store, StoredLetter, UnseenLane};

/// Raw bytes that are judged and written together.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Letters that are judged and written together.
const GROUP_LETTERS_MAX: usize = 200;
/// Bytes of violations after which no more letters are judged: the answer tells all of them.
const VIOLATIONS_BYTES_MAX: usize = 8 << 20;

/// What it takes to judge dead letters again.
#[derive(Debug)]
pub struct Redrive<'a> {
    /// What an event becomes.
    pub judges: &'a Judges,
    /// The wall clock.
    pub clock: &'a Clock,
    /// The event writers.
    pub events: &'a Batcher<EventRow>,
    /// No more letters are judged after this time.
    pub time: Duration,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct RedriveRequest {
    /// Which letters.
    pub choice: Choice,
    /// The last letter of the request before, after which this one goes on.
    pub after: Option<LetterCursor>,
    /// Letters at most.
    pub limit: u32,
    /// Only judge, and change nothing.
    pub dry_run: bool,
}

/// How one letter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOutcome {
    /// Its event was judged again, and ended so; in a dry run, an accepted one counts as stored.
    Is(OutcomeKind),
    /// It was not tried; the code says why.
    Skipped,
}

impl LetterOutcome {
    /// The word for it in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Is(kind) => kind.as_str(),
            Self::Skipped => "skipped",
        }
    }
}

impl From<OutcomeKind> for LetterOutcome {
    fn from(kind: OutcomeKind) -> Self {
        Self::Is(kind)
    }
}

impl Serialize for LetterOutcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What came of one letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterResult {
    /// The dead letter's id.
    pub id: Uuid,
    /// The event's id.
    pub event_id: Option<Uuid>,
    /// How it ended.
    pub outcome: LetterOutcome,
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
            LetterOutcome::Is(OutcomeKind::Quarantined) => code == FaultCode::OffPath.as_str(),
            LetterOutcome::Is(_) => false,
            LetterOutcome::Skipped => UnfinishedCode::ALL.iter().any(|unfinished| unfinished.as_str() == code),
        }
    }
}

/// What came of letters that no module had looked at.
#[derive(Debug)]
pub struct UnseenGroup {
    /// Those that were looked at.
    pub report: Report,
    /// False when the module could not judge any more of them.
    pub judges: bool,
}

/// What came of a redrive.
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
    pub fn count(&self, outcome: LetterOutcome) -> usize {
        self.results.iter().filter(|result| result.outcome == outcome).count()
    }
}

/// A letter on its way.
enum Tried {
    /// To be stored.
    Row(Box<EventRow>),
    /// Its event is stored already, as a look at the events has shown.
    Duplicate(LetterResult),
    /// At its end.
    Ended(LetterResult),
}

impl Redrive<'_> {
    fn store(&self) -> &Store {
        &self.judges.store
    }

    /// Judges the chosen letters again, in the order in which they were received, and has stored what is accepted.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overloaded`], [`Refusal::Draining`], and those of a read. What was done before stays done, and doing it
    /// again does no harm.
    pub async fn run(&self, request: &RedriveRequest) -> Result<Report, Refusal> {
        let until = Instant::now() + self.time;
        let mut report = Report::default();
        if let (Choice::Ids(ids), None) = (&request.choice, request.after) {
            let unknown = self.store().dead_letters_unknown(ids).await.map_err(of_store)?;
            let told = unknown.into_iter().map(|id| skipped(id, None, "unknown", "there is no such dead letter"));
            report.results.extend(told);
        }
        let senders = Senders::of(&self.store().applications().await.map_err(of_store)?);
        let page = self
            .store()
            .dead_letters_to_redrive(&request.choice, request.after, request.limit)
            .await
            .map_err(of_store)?;
        let mut rest = &page.rows[..];
        while !rest.is_empty() {
            let done = self.group(&rest[..group_of(rest)], &senders, until, request.dry_run, &mut report).await?;
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
    pub async fn run_unseen(&self, lane: &UnseenLane, limit: u32) -> Result<UnseenGroup, Refusal> {
        let until = Instant::now() + self.time;
        let senders = Senders::of(&self.store().applications().await.map_err(of_store)?);
        let letters = self.store().unseen_letters(lane, limit).await.map_err(of_store)?;
        let letters = &letters[..group_of(&letters).min(letters.len())];
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store().dead_letter_raws(&places).await.map_err(of_store)?;
        let mut group = UnseenGroup { report: Report::default(), judges: true };
        let (mut rows, results) = (Vec::new(), &mut group.report.results);
        for (place, (letter, raw)) in letters.iter().zip(raws).enumerate() {
            match self.judge(letter, raw, &senders).await {
                Tried::Ended(result) if result.is_unseen() => {
                    group.judges = false;
                    break;
                }
                Tried::Ended(result) => results.push(result),
                Tried::Duplicate(result) => {
                    results.push(result);
                    self.store().mark_redriven(&[(places[place], false)]).await.map_err(of_store)?;
                }
                Tried::Row(row) => {
                    results.push(ended(letter, Some(row.id), OutcomeKind::Stored));
                    rows.push((place, *row));
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        if !rows.is_empty() {
            self.store_rows(letters, rows, &senders, results).await?;
        }
        let looked_at = |(_, result): &(&LetterCursor, &LetterResult)| {
            matches!(result.outcome, LetterOutcome::Is(OutcomeKind::Rejected | OutcomeKind::Quarantined))
        };
        let seen: Vec<Seen> =
            places.iter().zip(&*results).filter(looked_at).map(|(place, result)| seen(*place, result)).collect();
        if !seen.is_empty() {
            self.store().settle_unseen(&seen).await.map_err(of_store)?;
        }
        Ok(group)
    }

    /// Judges the letters for as long as there is time and room, at least one of them, and has stored what is accepted. Gives how
    /// many it did.
    async fn group(
        &self,
        letters: &[StoredLetter],
        senders: &Senders,
        until: Instant,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<usize, Refusal> {
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store().dead_letter_raws(&places).await.map_err(of_store)?;
        let mut rows = Vec::with_capacity(letters.len());
        let (mut results, mut known) = (Vec::with_capacity(letters.len()), Vec::new());
        for (place, (letter, raw)) in letters.iter().zip(raws).enumerate() {
            if place > 0 && report.is_full(until) {
                break;
            }
            match self.judge(letter, raw, senders).await {
                Tried::Ended(result) => {
                    report.violations_bytes += result.violations.iter().map(Violation::bytes).sum::<usize>();
                    results.push(result);
                }
                Tried::Duplicate(result) => {
                    results.push(result);
                    known.push((places[place], false));
                }
                Tried::Row(row) => {
                    results.push(ended(letter, Some(row.id), OutcomeKind::Stored));
                    rows.push((place, *row));
                }
            }
        }
        if !dry_run && !rows.is_empty() {
            self.store_rows(letters, rows, senders, &mut results).await?;
        }
        if !dry_run && !known.is_empty() {
            self.store().mark_redriven(&known).await.map_err(of_store)?;
        }
        let done = results.len();
        report.results.append(&mut results);
        Ok(done)
    }

    async fn judge(&self, letter: &StoredLetter, raw: Option<Vec<u8>>, senders: &Senders) -> Tried {
        let skip = |code, detail| Tried::Ended(skipped(letter.id, letter.event_id, code, detail));
        let Some(raw) = raw else { return skip("unknown", "the dead letter was trimmed meanwhile") };
        if let Some((code, detail)) = letter.unredrivable() {
            return skip(code, detail);
        }
        let mut element = self.judges.read(raw.into(), self.clock.now_us());
        match &mut element {
            // An event without an id got one when it came; one whose envelope was broken got none, and takes the letter's.
            // Either way it is the same at each try, so the event is stored once at most.
            Ok(event) => event.id = letter.event_id.unwrap_or(letter.id),
            Err(broken) => broken.id = letter.event_id,
        }
        let origin = Origin::Redriven { letter, senders };
        let received_at_us = letter.received_at.timestamp_micros();
        match self.judges.begin_unhurried().judge(element, received_at_us, origin).await {
            Ok(Judged::Row(row)) => Tried::Row(Box::new(row)),
            Ok(Judged::NotStored(event)) if matches!(event.end, End::Duplicate) => {
                Tried::Duplicate(ended(letter, event.id, OutcomeKind::Duplicate))
            }
            Ok(Judged::NotStored(event)) => Tried::Ended(result_of(letter, *event)),
            Err(error) => {
                tracing::debug!(%error, "a dead letter could not be judged again");
                skip("unread", "the database could not be asked of its event; try again")
            }
        }
    }

    /// Hands the rows to the event writers, waits for the commit, marks the letters. If the mark is not written, the next
    /// try finds a duplicate and marks it then.
    async fn store_rows(
        &self,
        letters: &[StoredLetter],
        rows: Vec<(usize, EventRow)>,
        senders: &Senders,
        results: &mut [LetterResult],
    ) -> Result<(), Refusal> {
        let (at, rows): (Vec<usize>, Vec<EventRow>) = rows.into_iter().unzip();
        let rows = Arc::new(rows);
        let receipt = self.events.submit(Arc::clone(&rows), None).map_err(|refused| match refused {
            Refused::Full(_) => Refusal::Overloaded,
            Refused::Closed(_) => Refusal::Draining,
        })?;
        // Without a receipt nobody knows: the rows may be committed.
        let fates = receipt.await.map_err(|_| Refusal::DatabaseAway)?;
        let mut marks = Vec::with_capacity(fates.len());
        for ((place, row), fate) in at.into_iter().zip(&*rows).zip(fates) {
            let letter = &letters[place];
            match fate {
                Fate::Stored => marks.push((letter.cursor(), true)),
                Fate::Duplicate => {
                    results[place].outcome = OutcomeKind::Duplicate.into();
                    marks.push((letter.cursor(), false));
                }
                Fate::NotNow => {
                    let detail = "the database refuses its event now; try again later";
                    results[place] = skipped(letter.id, letter.event_id, "not_kept", detail);
                }
                Fate::Refused { code, message } => {
                    let origin = Origin::Redriven { letter, senders };
                    let now_us = self.clock.now_us();
                    let event = self.judges.begin_unhurried().unstorable(row, &code, &message, now_us, origin).await;
                    results[place] = result_of(letter, event);
                }
            }
        }
        if marks.is_empty() { Ok(()) } else { self.store().mark_redriven(&marks).await.map_err(of_store) }
    }
}

/// What is said of a letter whose event is not to be stored. Nothing of it quotes what its validator takes out.
fn result_of(letter: &StoredLetter, event: NotStored) -> LetterResult {
    let result = |kind: OutcomeKind| ended(letter, event.id, kind);
    match event.end {
        End::Duplicate => result(OutcomeKind::Duplicate),
        End::Unfinished(why) => {
            let detail = "its event could not be judged now; try again later";
            skipped(letter.id, letter.event_id, why.code.as_str(), detail)
        }
        End::Rejected { code, letter: kept, .. } => {
            let detail = (code == RejectionCode::NotAllowed).then(|| kept.detail.into());
            let violations = if code == RejectionCode::NotAllowed { Vec::new() } else { kept.violations };
            let code = Some(code.as_str().into());
            LetterResult { code, detail, violations, module: event.module, ..result(OutcomeKind::Rejected) }
        }
        End::Quarantined { code, letter: kept } => LetterResult {
            code: Some(code),
            detail: Some(kept.detail.into()),
            module: event.module,
            ..result(OutcomeKind::Quarantined)
        },
    }
}

/// How many of the first letters are judged and written together; at least one.
fn group_of(letters: &[StoredLetter]) -> usize {
    let mut bytes = 0;
    let fits = letters.iter().take(GROUP_LETTERS_MAX).take_while(|letter| {
        bytes += usize::try_from(letter.raw_kept_bytes).unwrap_or(0);
        bytes <= GROUP_BYTES_MAX
    });
    fits.count().max(1)
}

fn ended(letter: &StoredLetter, event_id: Option<Uuid>, kind: OutcomeKind) -> LetterResult {
    LetterResult {
        id: letter.id,
        event_id,
        outcome: kind.into(),
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
        outcome: LetterOutcome::Skipped,
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
