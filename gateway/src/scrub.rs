//! The job that goes over older dead letters once their validator takes secrets out of events: it rewrites what the module
//! can redact, and after some days takes the bytes of what it cannot. It also keeps the table of such validators, by which
//! all gateways know what may be kept where no module serves any more. Rounds are bounded, one gateway at a time does them,
//! and each page is committed with the place where the next one begins.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta};
use eye_event::envelope::{self, Event, Format, Parsed, Rules};
use eye_event::event::{DeadLetter, KeptAs, Reason};
use eye_event::verdict::{Digest, Violation};
use eye_judge::{Judging, Keep, Slot, Validators};
use serde::Serialize;
use uuid::Uuid;

use crate::clock::Clock;
use crate::dead_letters;
use crate::store::{Error, LetterText, Pass, RedactingRow, Rewritten, Scrubbing, Store, UNREAD, WalkedLetter};

/// Letters that are walked at a stretch.
const STRETCH: u32 = 1_000;
/// Bytes of letters that are rewritten in one transaction.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Longest time for one round; a database that hangs must not hold the right to scrub for ever.
const ROUND_TIME: Duration = Duration::from_secs(300);

/// Bounds of scrubbing.
#[derive(Clone, Copy, Debug)]
pub struct ScrubLimits {
    /// How long letters that cannot be redacted keep their bytes.
    pub grace: TimeDelta,
    /// Letters that are walked in one round, for each event type.
    pub letters_max: u32,
    /// The pause between two rounds.
    pub every: Duration,
}

/// What it takes to scrub.
#[derive(Debug)]
pub struct Scrub<'a> {
    /// Where the letters are.
    pub store: &'a Store,
    /// The modules of now.
    pub validators: &'a Validators,
    /// The gateway's own rules.
    pub rules: &'a Rules,
    /// The wall clock.
    pub clock: &'a Clock,
    /// The bounds.
    pub limits: ScrubLimits,
    /// Only counts what would be done.
    pub dry_run: bool,
}

/// What came of a round for one event type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scrubbed {
    /// As the module is named; empty for letters whose event type could not be read.
    pub event_type: String,
    /// Letters that were redacted, or would be.
    pub redacted: u64,
    /// Letters that lost their bytes, or would.
    pub emptied: u64,
    /// Letters that cannot be redacted, and keep their bytes until the days of grace are over.
    pub waiting: u64,
    /// There is more to walk.
    #[serde(skip)]
    pub more: bool,
}

impl Scrub<'_> {
    /// Notes which modules take secrets out now, and lets the validators know which ever did.
    ///
    /// # Errors
    ///
    /// Those of the store. What was known before stays in force.
    pub async fn note(&self) -> Result<Vec<RedactingRow>, Error> {
        let taking = self.validators.taking();
        let mut rows: Vec<(String, Digest, bool)> =
            taking.iter().map(|taking| (taking.slot.to_string(), taking.digest, taking.redacts)).collect();
        rows.sort();
        // Whose letters it is that could not be read, nobody knows, so the first to take something out begins for them.
        let first = rows.first().map(|(_, digest, _)| *digest);
        let known = self.store.note_redacting(&rows, &[]).await?;
        let ended: Vec<String> = known
            .iter()
            .filter(|row| Slot::parse(&row.event_type).is_ok_and(|slot| self.validators.takes_nothing(&slot)))
            .map(|row| row.event_type.clone())
            .collect();
        if let Some(digest) = first.filter(|_| !known.iter().any(|row| row.event_type == UNREAD)) {
            rows.push((UNREAD.to_owned(), digest, false));
        }
        let known = self.store.note_redacting(&rows, &ended).await?;
        let slots: HashSet<Slot> = known.iter().filter_map(|row| Slot::parse(&row.event_type).ok()).collect();
        let unread_alone = slots.is_empty() && known.iter().any(|row| row.event_type == UNREAD);
        let known = if unread_alone { self.store.note_redacting(&[], &[UNREAD.to_owned()]).await? } else { known };
        self.validators.know_taking(slots);
        Ok(known)
    }

    /// What a dry run looks at: all letters of the modules that take secrets out now, or did. Nothing is noted.
    async fn known(&self) -> Result<Vec<RedactingRow>, Error> {
        let mut rows = self.store.redacting_types().await?;
        for row in &mut rows {
            (row.scrubbed_to, row.scrubbed_to_id) = (DateTime::UNIX_EPOCH, Uuid::nil());
            (row.emptied_to, row.emptied_to_id) = (DateTime::UNIX_EPOCH, Uuid::nil());
        }
        self.validators.know_taking(rows.iter().filter_map(|row| Slot::parse(&row.event_type).ok()).collect());
        let taking = self.validators.taking();
        let types = taking.iter().map(|taking| (taking.slot.to_string(), taking.digest));
        let unread = taking.first().map(|taking| (UNREAD.to_owned(), taking.digest));
        for (event_type, digest) in types.chain(unread) {
            if !rows.iter().any(|row| row.event_type == event_type) {
                rows.push(RedactingRow {
                    event_type,
                    digest: digest.0.to_vec(),
                    began_at: DateTime::UNIX_EPOCH,
                    scrubbed_to: DateTime::UNIX_EPOCH,
                    scrubbed_to_id: Uuid::nil(),
                    emptied_to: DateTime::UNIX_EPOCH,
                    emptied_to_id: Uuid::nil(),
                    asked_at: DateTime::UNIX_EPOCH,
                });
            }
        }
        Ok(rows)
    }

    /// Does a round, unless another gateway is at it: `None`.
    ///
    /// # Errors
    ///
    /// Those of the store. What was done before stays done.
    pub async fn round(&self) -> Result<Option<Vec<Scrubbed>>, Error> {
        let rows = if self.dry_run { self.known().await? } else { self.note().await? };
        if rows.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let round = async {
            let Some(mut scrubbing) = self.store.scrub().await? else { return Ok(None) };
            let mut done = Vec::with_capacity(rows.len());
            for row in &rows {
                done.push(self.scrub(&mut scrubbing, row).await?);
            }
            if !self.dry_run && done.iter().any(|done| done.redacted + done.emptied > 0) {
                scrubbing.vacuum().await?;
            }
            Ok(Some(done))
        };
        tokio::time::timeout(ROUND_TIME, round).await.map_err(|_| Error::Slow(ROUND_TIME))?
    }

    async fn scrub(&self, scrubbing: &mut Scrubbing, row: &RedactingRow) -> Result<Scrubbed, Error> {
        let mut done = Scrubbed { event_type: row.event_type.clone(), ..Scrubbed::default() };
        // By the clock of the database alone: what counts the days is what began them.
        let over = row.began_at.checked_add_signed(self.limits.grace).is_some_and(|end| row.asked_at >= end);
        self.pass(scrubbing, row, Pass::Redact, !over, &mut done).await?;
        if over {
            self.pass(scrubbing, row, Pass::Empty, true, &mut done).await?;
        }
        if !self.dry_run && done.redacted + done.emptied > 0 {
            tracing::info!(
                event_type = row.event_type,
                redacted = done.redacted,
                emptied = done.emptied,
                waiting = done.waiting,
                "older dead letters were rewritten, since the module of their type takes secrets out"
            );
        }
        Ok(done)
    }

    async fn pass(
        &self,
        scrubbing: &mut Scrubbing,
        row: &RedactingRow,
        pass: Pass,
        counts: bool,
        done: &mut Scrubbed,
    ) -> Result<(), Error> {
        let judging = self.validators.begin();
        let (mut place, mut walked) = (row.place(pass), 0);
        while walked < self.limits.letters_max {
            let letters = scrubbing.walk(place, STRETCH).await?;
            walked += STRETCH;
            let Some(last) = letters.last().map(WalkedLetter::cursor) else { return Ok(()) };
            let (mut rewritten, mut bytes) = (Vec::new(), 0);
            for letter in letters.iter().filter(|letter| letter.whole && concerns(&judging, row, letter)) {
                let Some(text) = scrubbing.text(letter.cursor()).await? else { continue };
                bytes += text.raw.len() + text.violations.len();
                match self.rewrite(&judging, row, pass, letter, &text).await {
                    Some(new) => {
                        done.redacted += u64::from(new.kept == KeptAs::Redacted.as_str());
                        done.emptied += u64::from(new.kept == KeptAs::Nothing.as_str());
                        rewritten.push(new);
                    }
                    None => done.waiting += u64::from(counts),
                }
                if bytes >= PAGE_BYTES_MAX && !self.dry_run {
                    scrubbing.rewrite(row, pass, &rewritten, letter.cursor()).await?;
                    (rewritten, bytes) = (Vec::new(), 0);
                }
            }
            if !self.dry_run {
                scrubbing.rewrite(row, pass, &rewritten, last).await?;
            }
            place = last;
        }
        done.more = true;
        Ok(())
    }

    /// The letter as it is to be; `None` when it stays as it is for now.
    async fn rewrite(
        &self,
        judging: &Judging<'_>,
        row: &RedactingRow,
        pass: Pass,
        letter: &WalkedLetter,
        text: &LetterText,
    ) -> Option<Rewritten> {
        let raw = Bytes::copy_from_slice(&text.raw);
        let violations = violations(&text.violations);
        let old = old(letter, text, violations);
        let event = if row.event_type == UNREAD { None } else { self.read(&raw, text) };
        let new = match event {
            Some(event) => {
                let keep = judging.keep(&event.category, &event.name, &event.data).await;
                match (keep, pass) {
                    (Keep::Redacted(data), _) => dead_letters::of_event(old, &event, Keep::Redacted(data), usize::MAX),
                    (Keep::Nothing, Pass::Empty) => dead_letters::of_event(old, &event, Keep::Nothing, usize::MAX),
                    (Keep::Nothing | Keep::Whole, _) => return None,
                }
            }
            None if pass == Pass::Empty => dead_letters::of_unread(old, &raw),
            None => return None,
        };
        Some(Rewritten {
            place: letter.cursor(),
            kept: new.kept.as_str(),
            detail: new.detail,
            violations: serde_json::to_string(&new.violations).unwrap_or_else(|_| "[]".to_owned()),
            raw: new.raw.to_vec(),
            raw_digest: new.raw_digest,
            unread: row.event_type == UNREAD,
        })
    }

    /// The event in a letter's bytes, if they are whole and keep the rules of now.
    fn read(&self, raw: &Bytes, text: &LetterText) -> Option<Event> {
        if i64::from(text.raw_bytes) > i64::try_from(raw.len()).unwrap_or(i64::MAX) {
            return None;
        }
        match envelope::parse(raw, Format::Json, self.rules, self.clock.now_us()) {
            Ok(Parsed::One(Ok(event))) => Some(Event { id: text.event_id.unwrap_or(text.id), ..event }),
            _ => None,
        }
    }
}

/// Whether a letter is one of those that this row is about.
fn concerns(judging: &Judging<'_>, row: &RedactingRow, letter: &WalkedLetter) -> bool {
    match (&letter.category, &letter.name) {
        (Some(category), Some(name)) if letter.code != "envelope" => {
            judging.taking_slot(category, name).is_some_and(|slot| slot.to_string() == row.event_type)
        }
        _ => row.event_type == UNREAD,
    }
}

fn violations(text: &str) -> Vec<Violation> {
    #[derive(serde::Deserialize)]
    struct Stored {
        pointer: String,
        code: String,
        message: String,
    }
    let stored: Vec<Stored> = serde_json::from_str(text).unwrap_or_default();
    let violation = |stored: Stored| Violation {
        pointer: stored.pointer,
        code: stored.code.into(),
        message: stored.message.into(),
    };
    stored.into_iter().map(violation).collect()
}

/// The letter as far as it matters for what is to be told.
fn old(letter: &WalkedLetter, text: &LetterText, violations: Vec<Violation>) -> DeadLetter {
    DeadLetter {
        id: letter.id,
        received_at_us: letter.received_at.timestamp_micros(),
        reason: Reason::Rejected,
        code: letter.code.clone(),
        // The server's words may quote the row.
        detail: if letter.code == "unstorable" { "Postgres refuses the row".to_owned() } else { text.detail.clone() },
        violations,
        application_id: 0,
        module: None,
        event_id: text.event_id,
        session_id: None,
        category: letter.category.clone(),
        name: letter.name.clone(),
        kept: KeptAs::Whole,
        raw: Bytes::new(),
        raw_bytes: 0,
        raw_digest: None,
        last_words: None,
        request_id: None,
        traceparent: None,
    }
}
