//! Loads: which slot waits for a worker next, what its job carries, and what the answer changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Lifecycle, Parts, enqueue};
use crate::entry::TRIES_MAX;
use crate::happening::Happening;
use crate::registry::Untried;
use crate::slot::Slot;
use crate::worker::{Done, Job, Outcome};

/// Longest time that a file of the start may be written to before its events no longer wait for it.
const RESTLESS_MAX: Duration = Duration::from_secs(10);

/// Slots at the front of the queue that the dispatch compares.
const FRONT: usize = 64;

impl Lifecycle {
    /// Takes the next slot from the queue: of those at the front, the one with the smallest file. A fix is mostly small, and a
    /// slow load mostly is not.
    fn next_waiting(&mut self) -> Option<Slot> {
        let bytes = |slot: &Slot| self.entries.get(slot).map_or(0, |entry| entry.found.signature.bytes());
        let front = self.queue.iter().take(FRONT).enumerate();
        let (place, _) = front.min_by_key(|(_, slot)| bytes(slot))?;
        self.queue.remove(place)
    }

    /// Gives waiting slots to free workers.
    pub(super) fn dispatch(&mut self) {
        while let Some(slot) = self.next_waiting() {
            let Some(entry) = self.entries.get_mut(&slot) else {
                continue;
            };
            let anew = entry.anew;
            let looked_since = *entry.looked_since.get_or_insert_with(Instant::now);
            entry.trying = entry.wanted.as_ref().map_or(entry.settings, |(wanted, _)| *wanted);
            let serves = entry.serving.as_ref().map(|(module, _)| module.digest);
            let serving = serves.filter(|_| !entry.displaced);
            let job = Job {
                slot: slot.clone(),
                generation: entry.generation,
                path: self.parts.directory.root.join(&entry.found.file),
                is_barred: entry.barred.is_some(),
                limits: entry.trying.limits,
                settings: entry.found.settings.clone(),
                known: entry.content.map(|(digest, _)| digest).filter(|_| !anew),
                // With new limits, the module that serves must be loaded again.
                serving: serving.filter(|_| entry.wanted.is_none()),
                // A candidate that was taken away must not be tried again because the next one cannot be.
                falls_back: serving.is_none() && (anew || !entry.forsaken) && !self.parts.is_of_candidates,
                is_patient: self.untried.contains_key(&slot)
                    && entry.tries + 1 < TRIES_MAX
                    && looked_since.elapsed() < RESTLESS_MAX,
                unkept: entry.unkept,
                must_redact: entry.serving.as_ref().is_some_and(|(module, _)| module.program().offers().redact),
                expects_refusals: entry.trying.expect_refusals,
                limits_in_force: entry.settings.limits,
                force: entry.wanted.as_ref().map_or(entry.settings.force, |(settings, _)| settings.force),
                state: Arc::clone(&entry.state),
                cancelled: Arc::clone(&entry.cancelled),
            };
            if !self.parts.workers.try_load(job) {
                self.queue.push_front(slot);
                break;
            }
            if std::mem::take(&mut entry.displaced) {
                entry.ousted = serves;
            }
            entry.anew = false;
        }
    }

    /// Takes the answer of a worker.
    pub(super) fn done(&mut self, done: Done) {
        let Done { slot, generation, outcome, kept, newest, versions, unkept } = done;
        // The file may have gone and come again during the load. Then the answer is void.
        let Some(entry) = self.entries.get_mut(&slot).filter(|entry| entry.generation == generation) else {
            return;
        };
        let now = Instant::now();
        let unreadable = matches!(outcome, Outcome::Unreadable(_));
        entry.heavy = matches!(outcome, Outcome::Heavy);
        entry.loading = entry.heavy;
        entry.retry_at = None;
        if let Some(versions) = versions {
            entry.versions = versions;
        }
        entry.forsaken = kept.is_none();
        if let Some((digest, program)) = kept {
            tracing::warn!(event_type = %slot, %digest, "the file cannot be taken, and the last version that served does again");
            entry.happenings.push(Happening::FellBack { digest });
            entry.serve(&slot, digest, program, &self.parts.board);
        }
        entry.served_last = entry.serving.as_ref().map(|(module, _)| module.digest).or(newest);
        let Parts { directory, rescan, board, .. } = &self.parts;
        entry.take_outcome(&slot, outcome, now, &directory.root, *rescan, board);
        entry.oust(&slot);
        if !entry.loading {
            for digest in std::mem::take(&mut entry.taken_back) {
                if entry.settings.force != Some(digest) {
                    entry.displace(digest, self.parts.is_of_candidates);
                }
            }
        }
        entry.note_unkept(unkept, now, self.parts.rescan);
        if entry.again {
            self.generations += 1;
            entry.let_go_of_heavy(self.generations);
        }
        if !entry.loading && std::mem::take(&mut entry.again) {
            enqueue(&mut self.queue, &slot, entry);
        }
        if let Some(untried) = self.untried.get_mut(&slot) {
            let why = if unreadable { Untried::Unreadable } else { Untried::Waiting };
            self.changed |= std::mem::replace(untried, why) != why;
            let restless = entry.looked_since.is_some_and(|since| now - since >= RESTLESS_MAX);
            if entry.is_decided() || entry.tries >= TRIES_MAX || restless {
                self.untried.remove(&slot);
            }
        }
        if entry.present {
            self.parts.roster.note(&slot, entry.settings_text.as_deref());
        }
        self.changed = true;
        self.due.insert(slot);
    }
}
