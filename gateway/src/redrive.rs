//! Redrives dead letters: the modules that serve now judge them again, through `judging.rs`, under all rules of a new
//! event. This module chooses the letters and records the results. An event keeps its id, its application and its time
//! of receipt, so the database stores it at most once, however often it is redriven. A letter is marked only after the
//! commit.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use eye_event::event::{EventRow, KeptAs};
use eye_event::outcome::{OutcomeKind, RejectionCode};
use eye_event::verdict::{Digest, FaultCode, UnfinishedCode, Violation};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::time::Instant;
use uuid::Uuid;

use crate::audit::{Action, Actor, Entry};
use crate::batch::{Batcher, Fate, Refused};
use crate::clock::Clock;
use crate::judging::{End, Judged, Judges, NotStored, Origin, Senders};
use crate::response::{Refusal, of_store};
use crate::store::{Choice, LetterChanges, LetterCursor, LetterFilter, Page, Seen, Store, StoredLetter, UnseenLane};
use crate::trust::visible::Visible;

/// Most raw bytes of one group of letters, which are judged and written together.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Most letters of one group.
const GROUP_LETTERS_MAX: usize = 200;
/// After this many bytes of violations a redrive judges no more letters, since its answer has all of them.
const VIOLATIONS_BYTES_MAX: usize = 8 << 20;

/// The parts that a redrive uses.
#[derive(Debug)]
pub struct Redrive<'a> {
    /// Judges the events of the letters.
    pub judges: &'a Judges,
    /// The wall clock.
    pub clock: &'a Clock,
    /// The queue of rows.
    pub events: &'a Batcher<EventRow>,
    /// After this time it judges no more letters.
    pub time: Duration,
    /// The audit entry in which marks are counted; `None` for a job, whose own entries have its counts.
    pub entry: Option<Uuid>,
}

/// What one redrive does, from a request or a command.
#[derive(Clone, Debug)]
pub struct RedriveRequest {
    /// What its caller may see. Other letters do not exist for it.
    pub visible: Arc<Visible>,
    /// The letters to redrive.
    pub choice: Choice,
    /// The last letter of the request before this one, which continues after it.
    pub after: Option<LetterCursor>,
    /// Most letters.
    pub limit: u32,
    /// Only judge: store and mark nothing.
    pub dry_run: bool,
}

impl RedriveRequest {
    /// The audit entry of this redrive by `actor`. The caller writes it before the first letter is judged, since events are
    /// stored before their letters are marked. Each mark updates its counts.
    pub fn entry(&self, actor: &Actor) -> Entry {
        let entry = Entry::new(Action::Redrive, "", actor).with("limit", self.limit);
        let entry = entry.with("stored", 0).with("duplicate", 0);
        match &self.choice {
            Choice::Ids(ids) => entry.with("ids", ids.iter().map(Uuid::to_string).collect::<Vec<_>>()),
            Choice::Filter(filter) => {
                let LetterFilter { reason, code, violation, application, category, name, validator, from, to } =
                    filter.clone();
                let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
                let members = [
                    ("reason", reason),
                    ("code", code),
                    ("violation", violation),
                    ("application", application),
                    ("category", category),
                    ("name", name),
                    ("validator", validator.map(|digest| digest.to_string())),
                    ("from", time(from)),
                    ("to", time(to)),
                ];
                let given = members.into_iter().filter_map(|(key, text)| Some((key.to_owned(), Value::from(text?))));
                entry.with("filter", given.collect::<Map<String, Value>>())
            }
        }
    }
}

/// The result of one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterOutcome {
    /// The outcome of its event. In a dry run an accepted event counts as stored.
    Is(OutcomeKind),
    /// The letter was not tried. Its code gives the reason.
    Skipped,
}

impl LetterOutcome {
    /// The word in answers.
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

/// One letter in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterResult {
    /// The dead letter's id.
    pub id: Uuid,
    /// The event's id.
    pub event_id: Option<Uuid>,
    /// The result.
    pub outcome: LetterOutcome,
    /// The redrive judged the event as its validator had redacted it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// For an event that was not stored: `envelope`, `rule`, `not_allowed`, the kind of fault, or `unstorable`. For a
    /// skipped letter: `cut`, `not_kept`, `redriven`, `unknown`, `unread`, or the code of an unfinished event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// One sentence for the reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'static, str>>,
    /// The violations of the event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
    /// The module that judged the event.
    #[serde(skip)]
    pub module: Option<Digest>,
}

impl LetterResult {
    /// Whether no module has judged the event, because its module cannot judge now.
    fn is_unseen(&self) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        match self.outcome {
            LetterOutcome::Is(OutcomeKind::Quarantined) => code == FaultCode::OffPath.as_str(),
            LetterOutcome::Is(_) => false,
            LetterOutcome::Skipped => UnfinishedCode::ALL.iter().any(|unfinished| unfinished.as_str() == code),
        }
    }
}

/// The result of a group of unseen letters. Its changes are not written yet.
#[derive(Debug)]
pub struct UnseenGroup {
    /// The letters that a module judged.
    pub report: Report,
    /// What to write about them.
    pub changes: LetterChanges,
    /// False when the module could not judge further letters.
    pub judges: bool,
}

/// The result of one group of a redrive. Its changes are not written yet.
#[derive(Debug)]
pub struct LetterGroup {
    /// The results, and after which letter the next group begins.
    pub report: Report,
    /// The last letter that is done; `None` if the group is empty.
    pub last: Option<LetterCursor>,
    /// What to write about the letters.
    pub changes: LetterChanges,
}

/// The result of a redrive.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The results of the letters, in the order of their receipt.
    pub results: Vec<LetterResult>,
    /// The letter after which the next request continues; `None` when all are done.
    pub next: Option<LetterCursor>,
    /// About how many bytes the violations in the results have.
    violations_bytes: usize,
}

impl Report {
    /// Whether the time or the room for violations is used up.
    fn is_full(&self, until: Instant) -> bool {
        Instant::now() >= until || self.violations_bytes >= VIOLATIONS_BYTES_MAX
    }

    /// The number of letters with this result.
    pub fn count(&self, outcome: LetterOutcome) -> usize {
        self.results.iter().filter(|result| result.outcome == outcome).count()
    }
}

/// A letter that was judged.
enum Tried {
    /// The event is accepted. Its row is to be stored.
    Row(Box<EventRow>),
    /// The event is stored already: judging found its row.
    Duplicate(LetterResult),
    /// The letter has its result.
    Ended(LetterResult),
}

impl Redrive<'_> {
    fn store(&self) -> &Store {
        &self.judges.store
    }

    /// Redrives the chosen letters in the order of their receipt, and stores the accepted events.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overloaded`], [`Refusal::Draining`], and the refusals of a read. Letters that were done before stay
    /// done, and redriving them again changes nothing.
    pub async fn run(&self, request: &RedriveRequest) -> Result<Report, Refusal> {
        let until = Instant::now() + self.time;
        let mut report = Report::default();
        if request.after.is_none() {
            report.results = self.unknown(request).await?;
        }
        let senders = self.senders().await?;
        let page = self.page(request).await?;
        let mut rest = &page.rows[..];
        while !rest.is_empty() {
            let group = &rest[..group_of(rest)];
            let (done, marks) = self.group(group, &senders, until, request.dry_run, &mut report).await?;
            if !marks.is_empty() {
                self.store().mark_redriven(&marks, self.entry).await.map_err(of_store)?;
            }
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

    /// Those of the chosen ids that no visible letter has, as skipped letters.
    ///
    /// # Errors
    ///
    /// The refusals of a read.
    pub async fn unknown(&self, request: &RedriveRequest) -> Result<Vec<LetterResult>, Refusal> {
        let Choice::Ids(ids) = &request.choice else { return Ok(Vec::new()) };
        let unknown = self.store().dead_letters_unknown(&request.visible, ids).await.map_err(of_store)?;
        Ok(unknown.into_iter().map(|id| skipped(id, None, "unknown", "there is no such dead letter")).collect())
    }

    /// Judges one group of the chosen letters and stores the accepted events. The caller writes the changes.
    ///
    /// # Errors
    ///
    /// The refusals of [`Redrive::run`].
    pub async fn run_group(&self, request: &RedriveRequest) -> Result<LetterGroup, Refusal> {
        let until = Instant::now() + self.time;
        let senders = self.senders().await?;
        let page = self.page(request).await?;
        let mut group = LetterGroup { report: Report::default(), last: None, changes: LetterChanges::default() };
        group.report.next = page.next;
        if !page.rows.is_empty() {
            let letters = &page.rows[..group_of(&page.rows)];
            let (done, marks) = self.group(letters, &senders, until, request.dry_run, &mut group.report).await?;
            group.changes.marks = marks;
            group.last = Some(page.rows[done - 1].cursor());
            if done < page.rows.len() {
                group.report.next = group.last;
            }
        }
        Ok(group)
    }

    async fn senders(&self) -> Result<Senders, Refusal> {
        Ok(Senders::of(&self.store().applications().await.map_err(of_store)?))
    }

    async fn page(&self, request: &RedriveRequest) -> Result<Page<StoredLetter, LetterCursor>, Refusal> {
        let RedriveRequest { visible, choice, after, limit, .. } = request;
        self.store().dead_letters_to_redrive(visible, choice, *after, *limit).await.map_err(of_store)
    }

    /// Judges the first unseen letters of one event type and application, in order, until their module cannot judge. It
    /// stores the accepted events. The caller writes the changes.
    ///
    /// # Errors
    ///
    /// The refusals of [`Redrive::run`].
    pub async fn run_unseen(&self, lane: &UnseenLane, limit: u32) -> Result<UnseenGroup, Refusal> {
        let until = Instant::now() + self.time;
        let senders = self.senders().await?;
        let letters = self.store().unseen_letters(lane, limit).await.map_err(of_store)?;
        let letters = &letters[..group_of(&letters).min(letters.len())];
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store().dead_letter_raws(letters).await.map_err(of_store)?;
        let mut group = UnseenGroup { report: Report::default(), changes: LetterChanges::default(), judges: true };
        let (mut rows, results, marks) = (Vec::new(), &mut group.report.results, &mut group.changes.marks);
        for (place, (letter, raw)) in letters.iter().zip(raws).enumerate() {
            match self.judge(letter, raw, &senders).await {
                Tried::Ended(result) if result.is_unseen() => {
                    group.judges = false;
                    break;
                }
                Tried::Ended(result) => results.push(result),
                Tried::Duplicate(result) => {
                    results.push(result);
                    marks.push((places[place], false));
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
            marks.extend(self.store_rows(letters, rows, &senders, results).await?);
        }
        let looked_at = |(_, result): &(&LetterCursor, &LetterResult)| {
            matches!(result.outcome, LetterOutcome::Is(OutcomeKind::Rejected | OutcomeKind::Quarantined))
        };
        group.changes.seen =
            places.iter().zip(&*results).filter(looked_at).map(|(place, result)| seen(*place, result)).collect();
        Ok(group)
    }

    /// Judges the first letters, at least one, until the time or the room is used up, and stores the accepted events.
    /// Returns how many letters it has done, and the marks of those whose events are stored.
    async fn group(
        &self,
        letters: &[StoredLetter],
        senders: &Senders,
        until: Instant,
        dry_run: bool,
        report: &mut Report,
    ) -> Result<(usize, Vec<(LetterCursor, bool)>), Refusal> {
        let places: Vec<LetterCursor> = letters.iter().map(StoredLetter::cursor).collect();
        let raws = self.store().dead_letter_raws(letters).await.map_err(of_store)?;
        let mut rows = Vec::with_capacity(letters.len());
        let (mut results, mut marks) = (Vec::with_capacity(letters.len()), Vec::new());
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
                    marks.push((places[place], false));
                }
                Tried::Row(row) => {
                    results.push(ended(letter, Some(row.id), OutcomeKind::Stored));
                    rows.push((place, *row));
                }
            }
        }
        if !dry_run && !rows.is_empty() {
            marks.extend(self.store_rows(letters, rows, senders, &mut results).await?);
        }
        if dry_run {
            marks.clear();
        }
        let done = results.len();
        report.results.append(&mut results);
        Ok((done, marks))
    }

    async fn judge(&self, letter: &StoredLetter, raw: Option<Vec<u8>>, senders: &Senders) -> Tried {
        let skip = |code, detail| Tried::Ended(skipped(letter.id, letter.event_id, code, detail));
        let Some(raw) = raw else { return skip("unknown", "the dead letter was trimmed meanwhile") };
        if let Some((code, detail)) = letter.unredrivable() {
            return skip(code, detail);
        }
        let mut element = self.judges.read(raw.into(), self.clock.now_us());
        match &mut element {
            // An event without an id got one when it was received. A broken envelope got none, so its event takes the
            // letter's id. Each try uses the same id, so the event is stored at most once.
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

    /// Submits the rows, waits for their commit, and returns the marks of their letters. If a mark is lost, the next try
    /// finds a duplicate and marks the letter then.
    async fn store_rows(
        &self,
        letters: &[StoredLetter],
        rows: Vec<(usize, EventRow)>,
        senders: &Senders,
        results: &mut [LetterResult],
    ) -> Result<Vec<(LetterCursor, bool)>, Refusal> {
        let (at, rows): (Vec<usize>, Vec<EventRow>) = rows.into_iter().unzip();
        let rows = Arc::new(rows);
        let receipt = self.events.submit(Arc::clone(&rows), None).map_err(|refused| match refused {
            Refused::Full(_) => Refusal::Overloaded,
            Refused::Closed(_) => Refusal::Draining,
        })?;
        // Without a receipt the rows may be committed or not.
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
        Ok(marks)
    }
}

/// The result of a letter whose event is not stored. It quotes nothing that the validator takes out.
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

/// The number of letters in the first group, at least one.
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

/// The record of an unseen letter after a module has judged its event.
fn seen(place: LetterCursor, result: &LetterResult) -> Seen {
    let code = result.code.as_deref().unwrap_or_default().to_owned();
    let detail =
        result.detail.as_deref().unwrap_or("a validator rejected the event when it was judged again").to_owned();
    Seen { place, code, detail, violations: result.violations.clone(), module: result.module }
}
