//! Keeps what was taken back alike in two places: in the database, and in the notes of this gateway's data dir, which count
//! while the database is away. Each second it looks whether the database has changed. A row without a note gets one, and its
//! module serves no more. A note that somebody lifted goes. A note of which the database knows nothing is kept, and is written
//! there: the database lost it, or is another one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Slot, TakenBackNote, Validators};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::store::{self, Pairs, Store, TakenBackList, TakenBackRow};

/// Brings notes and rows in step.
#[derive(Debug)]
pub struct Notes {
    store: Store,
    validators: Validators,
    modules_from: ModulesFrom,
    /// This gateway wrote a note itself, so the next look compares whatever the mark is.
    anew: AtomicBool,
}

/// What the last looks found.
#[derive(Debug, Default)]
pub struct Seen {
    /// What the database had.
    mark: Option<String>,
    listed: BTreeSet<(Slot, Digest)>,
    /// Modules that files force, and that were lifted for that. A file says it once.
    lifted: BTreeSet<(Slot, Digest)>,
    /// The failure of the last look was told.
    told: bool,
}

/// What a note has beside its reason, in its second line.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct More {
    at: Option<DateTime<Utc>>,
    trial: String,
    code: String,
    counts: Value,
    refused: i64,
    serves: Option<Digest>,
}

impl Notes {
    /// Of this gateway.
    pub fn new(store: Store, validators: Validators, modules_from: ModulesFrom) -> Self {
        Self { store, validators, modules_from, anew: AtomicBool::new(false) }
    }

    /// Notes at this gateway that a module was taken back, and which one `serves` again. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// The errors of the file system.
    pub fn write(&self, slot: &Slot, row: &TakenBackRow, serves: Option<Digest>) -> io::Result<()> {
        self.anew.store(true, Relaxed);
        let Ok(digest) = row.digest[..].try_into().map(Digest) else { return Ok(()) };
        self.validators.take_back(slot, digest, &note_of(row), serves)
    }

    /// Brings both in step, unless nothing has changed since the last look.
    pub async fn look(&self, seen: &mut Seen) {
        match self.try_look(seen).await {
            Ok(()) => seen.told = false,
            Err(error) if !self.store.is_away() && !std::mem::replace(&mut seen.told, true) => {
                tracing::warn!(%error, "what was taken back is not compared with the data dir; trying again");
            }
            Err(error) => tracing::debug!(%error, "what was taken back could not be read"),
        }
    }

    async fn try_look(&self, seen: &mut Seen) -> Result<(), store::Error> {
        let known = seen.mark.take().filter(|_| !self.anew.swap(false, Relaxed));
        let list = self.store.taken_back_list(known.as_deref()).await;
        seen.mark = known;
        if let Some(list) = list? {
            let rows = rows_of(&list);
            seen.listed = rows.keys().cloned().collect();
            let (validators, lifted) = (self.validators.clone(), keys_of(&list.lifted));
            let written = tokio::task::spawn_blocking(move || write(&validators, &rows, &lifted)).await;
            match written {
                Ok(Ok(unknown)) => {
                    if !list.is_cut {
                        self.restore(unknown).await?;
                    }
                    seen.mark = Some(list.mark);
                }
                Ok(Err(error)) => {
                    let was_told = std::mem::replace(&mut seen.told, true);
                    if !was_told {
                        tracing::error!("what was taken back cannot be noted in the data dir: {error}");
                    }
                }
                Err(error) => tracing::error!(%error, "noting what was taken back panicked"),
            }
        }
        self.lift_forced(seen).await
    }

    /// Writes rows that the database lost.
    async fn restore(&self, notes: Vec<TakenBackNote>) -> Result<(), store::Error> {
        for note in notes {
            match self.store.restore_taken_back(&row_of(&note)).await {
                Ok(true) => tracing::warn!(
                    event_type = %note.slot, digest = %note.digest,
                    "the database did not know that this module was taken back; the data dir does"
                ),
                Ok(false) => {}
                // A damaged note stops no other.
                Err(error @ store::Error::Refused(_)) => tracing::warn!(
                    event_type = %note.slot, digest = %note.digest, %error,
                    "the database does not take what the data dir notes of this module"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lifts what the settings of files force.
    async fn lift_forced(&self, seen: &mut Seen) -> Result<(), store::Error> {
        if self.modules_from == ModulesFrom::Database {
            return Ok(());
        }
        let forced: BTreeSet<(Slot, Digest)> = self.validators.forced().into_iter().collect();
        seen.lifted.retain(|one| forced.contains(one));
        for (slot, digest) in forced {
            let key = (slot.clone(), digest);
            if seen.lifted.contains(&key) {
                continue;
            }
            if seen.listed.contains(&key) {
                self.store.lift_by_file(&slot.to_string(), digest).await?;
                let validators = self.validators.clone();
                let lifted = tokio::task::spawn_blocking(move || validators.lift(&slot, digest)).await;
                if let Ok(Err(error)) = lifted {
                    tracing::error!(%digest, "the note that it was taken back stays: {error}");
                }
            }
            seen.lifted.insert(key);
        }
        Ok(())
    }
}

/// The note about a row.
fn note_of(row: &TakenBackRow) -> String {
    let more = More {
        at: Some(row.at),
        trial: row.trial.clone(),
        code: row.code.clone(),
        counts: row.counts.0.clone(),
        refused: row.refused,
        serves: row.serves.as_deref().and_then(|digest| digest.try_into().ok()).map(Digest),
    };
    // A reason has one line.
    let reason = row.reason.replace('\n', " ");
    serde_json::to_string(&more).map_or(reason.clone(), |more| format!("{reason}\n{more}"))
}

/// The row of a note. One of the release before has its reason alone.
fn row_of(note: &TakenBackNote) -> TakenBackRow {
    let (reason, more) = note.text.split_once('\n').unwrap_or((&note.text, ""));
    let more: More = serde_json::from_str(more).unwrap_or_default();
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    let code = match reason {
        reason if reason.starts_with("it broke") => "faulted",
        reason if reason.starts_with("it refused") => "refuses",
        _ => "slow",
    };
    TakenBackRow {
        event_type: note.slot.to_string(),
        digest: note.digest.0.to_vec(),
        at: more.at.unwrap_or_default(),
        trial: or(more.trial, "replacement"),
        code: or(more.code, code),
        // A damaged note may have bytes that Postgres has no text for.
        reason: reason.replace('\0', " "),
        counts: if more.counts.is_object() { more.counts } else { json!(Pairs::default()) }.into(),
        refused: more.refused,
        serves: more.serves.map(|digest| digest.0.to_vec()),
    }
}

/// The rows by module. Another release may have event types that this one cannot read.
fn rows_of(list: &TakenBackList) -> BTreeMap<(Slot, Digest), String> {
    let key = |row: &TakenBackRow| Some((Slot::parse(&row.event_type).ok()?, Digest(row.digest[..].try_into().ok()?)));
    list.rows.iter().filter_map(|row| Some((key(row)?, note_of(row)))).collect()
}

fn keys_of(rows: &[(String, Vec<u8>, DateTime<Utc>)]) -> BTreeMap<(Slot, Digest), DateTime<Utc>> {
    let key = |(event_type, digest, at): &(String, Vec<u8>, DateTime<Utc>)| {
        Some(((Slot::parse(event_type).ok()?, Digest(digest[..].try_into().ok()?)), *at))
    };
    rows.iter().filter_map(key).collect()
}

/// Writes the notes that are missing and removes those that were lifted. Returns those of which the database knows nothing.
fn write(
    validators: &Validators,
    rows: &BTreeMap<(Slot, Digest), String>,
    lifted: &BTreeMap<(Slot, Digest), DateTime<Utc>>,
) -> io::Result<Vec<TakenBackNote>> {
    let notes = validators.taken_back_notes()?;
    let noted: BTreeSet<(Slot, Digest)> = notes.iter().map(|note| (note.slot.clone(), note.digest)).collect();
    for ((slot, digest), text) in rows.iter().filter(|(key, _)| !noted.contains(key)) {
        validators.take_back(slot, *digest, text, None)?;
        let reason = text.lines().next().unwrap_or_default();
        tracing::info!(event_type = %slot, %digest, "the database lists the module as taken back: {reason}");
    }
    let mut unknown = Vec::new();
    for note in notes {
        let key = (note.slot.clone(), note.digest);
        // A database that was restored may know an older lift than the note.
        let is_lifted = lifted.get(&key).is_some_and(|at| row_of(&note).at <= *at);
        if is_lifted && !rows.contains_key(&key) {
            validators.lift(&note.slot, note.digest)?;
            tracing::info!(event_type = %note.slot, digest = %note.digest, "somebody forced the module, so it is not taken back any more");
        } else if !rows.contains_key(&key) {
            unknown.push(note);
        }
    }
    Ok(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_gives_its_row_again_and_one_of_the_release_before_does_so_too() {
        let row = TakenBackRow {
            event_type: "shop/sale".to_owned(),
            digest: vec![7; 32],
            at: DateTime::from_timestamp_micros(1_700_000_000_123_456).expect("a time"),
            trial: "canary".to_owned(),
            code: "refuses".to_owned(),
            reason: "it refused 30 of 200 events".to_owned(),
            counts: json!({"would_refuse": 30}).into(),
            refused: 9,
            serves: Some(vec![8; 32]),
        };
        let slot = Slot::parse("shop/sale").expect("a slot");
        let note = TakenBackNote { slot, digest: Digest([7; 32]), text: note_of(&row) };
        assert_eq!(row_of(&note), row);
        let old = row_of(&TakenBackNote { text: row.reason.clone(), ..note });
        assert_eq!((&*old.code, &*old.trial, old.counts.0.is_object()), ("refuses", "replacement", true));
    }
}
