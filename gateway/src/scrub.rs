//! Scrubs older dead letters once their validator takes secrets out of events: it rewrites the letters that the module
//! can redact, and after some days removes the bytes of the others. It also keeps the table of such validators, from
//! which all gateways know what they may keep while a module is missing. Rounds are bounded, one gateway at a time
//! makes them, and each page is committed with the place where the next one starts.

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

/// Letters of one read from the table.
const STRETCH: u32 = 1_000;
/// Most bytes of letters that one transaction rewrites.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Longest time for one round. A database that hangs must not keep the right to scrub forever.
const ROUND_TIME: Duration = Duration::from_secs(300);

/// Bounds of scrubbing.
#[derive(Clone, Copy, Debug)]
pub struct ScrubLimits {
    /// How long letters that cannot be redacted keep their bytes.
    pub grace: TimeDelta,
    /// Most letters that one round reads for each event type.
    pub letters_max: u32,
    /// The pause between two rounds.
    pub every: Duration,
}

/// The settings of scrubbing. Each round keeps those with which it began.
#[derive(Clone, Copy, Debug)]
pub struct ScrubSettings {
    /// The bounds.
    pub limits: ScrubLimits,
    /// The gateway's own rules for events.
    pub rules: Rules,
}

/// The parts that scrubbing uses.
#[derive(Debug)]
pub struct Scrub<'a> {
    /// The database with the letters.
    pub store: &'a Store,
    /// The modules that serve now.
    pub validators: &'a Validators,
    /// The gateway's own rules, which parse the events of letters.
    pub rules: Rules,
    /// The wall clock.
    pub clock: &'a Clock,
    /// The bounds.
    pub limits: ScrubLimits,
    /// Only count: rewrite nothing.
    pub dry_run: bool,
    /// The gateway has the duty; false for a command.
    pub is_duty: bool,
}

/// The result of a round for one event type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scrubbed {
    /// The name of the module's slot; empty for letters whose event type could not be read.
    pub event_type: String,
    /// Letters that were redacted, or would be in a dry run.
    pub redacted: u64,
    /// Letters whose bytes were removed, or would be in a dry run.
    pub emptied: u64,
    /// Letters that cannot be redacted and keep their bytes until the days of grace are over.
    pub waiting: u64,
    /// The round ended before the last letter.
    #[serde(skip)]
    pub more: bool,
}

impl Scrub<'_> {
    /// Records which modules take secrets out now, and tells the validators which ever did.
    ///
    /// # Errors
    ///
    /// The errors of the store. The earlier records stay in force.
    pub async fn note(&self) -> Result<Vec<RedactingRow>, Error> {
        let taking = self.validators.taking();
        let mut rows: Vec<(String, Digest, bool)> =
            taking.iter().map(|taking| (taking.slot.to_string(), taking.digest, taking.redacts)).collect();
        rows.sort();
        // Unreadable letters may belong to any event type, so the first module that takes secrets out starts their
        // scrubbing.
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

    /// The rows for a dry run: all letters of the modules that take secrets out, now or earlier. It records nothing.
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

    /// Makes a round. Returns `None` if another gateway is making one.
    ///
    /// # Errors
    ///
    /// The errors of the store. Pages that were committed stay.
    pub async fn round(&self) -> Result<Option<Vec<Scrubbed>>, Error> {
        let rows = if self.dry_run { self.known().await? } else { self.note().await? };
        if rows.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let round = async {
            let Some(mut scrubbing) = self.store.scrub(self.is_duty).await? else { return Ok(None) };
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
        // Both times are of the database's clock, so that a wrong clock of a gateway does not shorten the days of
        // grace.
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

    /// Returns the new letter, or `None` if the letter stays as it is for now.
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

    /// The event in a letter, if its bytes are complete and it follows the current rules.
    fn read(&self, raw: &Bytes, text: &LetterText) -> Option<Event> {
        if i64::from(text.raw_bytes) > i64::try_from(raw.len()).unwrap_or(i64::MAX) {
            return None;
        }
        match envelope::parse(raw, Format::Json, &self.rules, self.clock.now_us()) {
            Ok(Parsed::One(Ok(event))) => Some(Event { id: text.event_id.unwrap_or(text.id), ..event }),
            _ => None,
        }
    }
}

/// Whether a letter belongs to this row.
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

/// The parts of the letter that its rewriting needs.
fn old(letter: &WalkedLetter, text: &LetterText, violations: Vec<Violation>) -> DeadLetter {
    DeadLetter {
        id: letter.id,
        received_at_us: letter.received_at.timestamp_micros(),
        reason: Reason::Rejected,
        code: letter.code.clone(),
        // The server's message may quote the row.
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
