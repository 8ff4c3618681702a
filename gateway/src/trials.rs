//! Trials of files in the modules directory. With generations the database knows when a trial begins; a file only lies there.
//! So the data dir notes which trial each slot had last. A file that is tried in another way than the note says begins a new
//! trial, whose counts begin at nothing. After a restart the note is the same, and the trial goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use eye_event::verdict::Digest;
use eye_judge::{CandidateTrial, Slot, TRIAL_OVER, TriedFile, Validators};

use crate::store::{self, Store};

/// What is known of trials beside the notes.
#[derive(Debug, Default)]
pub struct Trials {
    /// Those whose note could not be written, by slot.
    unnoted: Mutex<BTreeMap<Slot, String>>,
    /// The notes about trials that ended while no gateway ran were looked for.
    is_swept: AtomicBool,
}

/// Begins the trials that are new, and ends those whose files are gone. Returns the new ones.
///
/// # Errors
///
/// Those of the store. Then nothing may be counted, since it would be added to an earlier trial.
pub async fn begin(
    store: &Store,
    validators: &Validators,
    known: &Trials,
) -> Result<Vec<(Slot, Digest)>, store::Error> {
    let sweeps = !known.is_swept.load(Relaxed) && validators.candidates_scanned();
    let asked = validators.clone();
    let looked = tokio::task::spawn_blocking(move || look(&asked, sweeps)).await;
    let new = match looked {
        Ok(Ok(new)) => {
            known.is_swept.fetch_or(sweeps, Relaxed);
            new
        }
        Ok(Err(error)) => {
            tracing::debug!("the notes about trials cannot be read: {error}");
            Vec::new()
        }
        Err(error) => {
            tracing::error!(%error, "looking for new trials panicked");
            Vec::new()
        }
    };
    let mut begun = Vec::with_capacity(new.len());
    for (file, noted) in new {
        let text = text_of(&file);
        if lock(&known.unnoted).get(&file.slot) == Some(&text) {
            continue;
        }
        store.begin_trial(&file.slot.to_string(), file.digest, noted).await?;
        let (notes, slot, note) = (validators.clone(), file.slot.clone(), text.clone());
        let noted = tokio::task::spawn_blocking(move || notes.note_trial(&slot, &note)).await;
        lock(&known.unnoted).remove(&file.slot);
        if let Ok(Err(error)) = noted {
            tracing::warn!(event_type = %file.slot, "a restart counts the trial anew, since no note of it is kept: {error}");
            lock(&known.unnoted).insert(file.slot.clone(), text);
        }
        begun.push((file.slot, file.digest));
    }
    Ok(begun)
}

fn lock(unnoted: &Mutex<BTreeMap<Slot, String>>) -> std::sync::MutexGuard<'_, BTreeMap<Slot, String>> {
    unnoted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The trials that are new, each with how long ago this data dir noted the last one of its slot, or the end of that one;
/// `None` if it knows of none. With `sweeps`, notes which trials ended while no gateway ran.
fn look(validators: &Validators, sweeps: bool) -> io::Result<Vec<(TriedFile, Option<Duration>)>> {
    let files = validators.tried_files();
    if sweeps {
        // A file that is refused now may be tried again, and belongs to its trial.
        let reports = validators.candidate_files().into_iter();
        let there: BTreeSet<String> = reports.map(|report| report.event_type).collect();
        for (slot, note) in validators.trial_notes()? {
            if note != TRIAL_OVER && !there.contains(&slot.to_string()) {
                validators.note_trial(&slot, TRIAL_OVER)?;
            }
        }
    }
    let new = files.into_iter().filter_map(|file| {
        let note = validators.trial_note(&file.slot);
        let is_known = note.as_ref().is_some_and(|(note, _)| *note == text_of(&file));
        (!is_known).then_some((file, note.map(|(_, age)| age)))
    });
    Ok(new.collect())
}

/// The note about a trial.
fn text_of(file: &TriedFile) -> String {
    match file.trial {
        CandidateTrial::Canary(share) => format!("{} canary {}", file.digest, share.percent()),
        other => format!("{} {}", file.digest, other.as_str()),
    }
}
