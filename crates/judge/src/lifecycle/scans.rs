//! Compares a scan of the modules directory with the slots: new files, changed files, missing files, files that serve
//! nothing, and folders that the gateway cannot read. While such a folder may hold a module, the events of its category are
//! held.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use eye_event::legible::legible;

use super::{HELD, Lifecycle, Unread, enqueue};
use crate::directory::{Found, Scan};
use crate::entry::{Change, Entry, SETTLE};
use crate::naming::Stray;
use crate::refusal::Refusal;
use crate::registry::Untried;
use crate::slot::Slot;

/// Most characters of a log line about a file that serves nothing.
const TOLD_CHARACTERS_MAX: usize = 1_000;

impl Lifecycle {
    /// Ends the start: from the first scan that shows which files there are, readiness waits only for those that no worker
    /// has tried. Slots that served before the start and have no file are missing since `missing_since`; without a directory
    /// there is no such time.
    pub(super) fn begin(&mut self, unread: BTreeMap<PathBuf, String>, missing_since: Option<Instant>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let slots: Vec<Slot> =
            self.parts.roster.slots().filter(|slot| !self.entries.contains_key(*slot)).cloned().collect();
        for slot in slots {
            let text = self.parts.roster.settings(&slot).cloned();
            self.recall(&slot, text.as_ref());
            let entry = self.entries.get_mut(&slot).expect("it was just recalled");
            let is_unread = unread.keys().any(|folder| entry.found.file.starts_with(folder));
            entry.missing_since = missing_since.filter(|_| !is_unread);
        }
        self.untried.extend(self.entries.keys().map(|slot| (slot.clone(), Untried::Waiting)));
        let held = unread.into_iter().map(|(folder, category)| (folder, Unread { category, yields: false }));
        self.unread = held.collect();
        self.losses.recall(self.parts.roster.slots().cloned().collect());
        self.changed = true;
    }

    /// Lets a slot serve by its last kept version, since its file is not there.
    pub(super) fn recall(&mut self, slot: &Slot, settings: Option<&Option<String>>) {
        self.generations += 1;
        let given = self.parts.given();
        let mut entry = Entry::new(self.generations, Found::absent(slot), given);
        entry.recall_settings(settings, given);
        entry.barred = Some(Refusal::new(
            "the file that served this event type before",
            "no file",
            "bring it back, or say that it is gone on purpose: `eye validator retire`",
        ));
        enqueue(&mut self.queue, slot, &mut entry);
        self.entries.insert(slot.clone(), entry);
        self.due.insert(slot.clone());
        self.changed = true;
    }

    /// Updates the list of unreadable folders and returns those that are readable now, or gone. Files of the former are still
    /// to be tried. A new unreadable folder lets the modules of its category judge on, and lets no event through unjudged. A
    /// folder that was read before hides nothing new.
    fn note_unread(&mut self, scan: &Scan) -> BTreeMap<PathBuf, Unread> {
        let opened: BTreeMap<_, _> =
            self.unread.extract_if(.., |folder, _| !scan.unread.contains_key(folder)).collect();
        self.changed |= !opened.is_empty();
        for (slot, found) in &scan.modules {
            if opened.keys().any(|folder| found.file.starts_with(folder)) && !self.entries.contains_key(slot) {
                self.untried.insert(slot.clone(), Untried::Waiting);
            }
        }
        if self.begun {
            for (folder, category) in &scan.unread {
                if !self.unread.contains_key(folder) && !self.read.contains(folder) {
                    let yields = self.serves(&Slot::Category(category.clone())) || self.serves(&Slot::Any);
                    self.unread.insert(folder.clone(), Unread { category: category.clone(), yields });
                    self.changed = true;
                }
            }
        }
        self.read.retain(|folder| scan.unread.contains_key(folder));
        self.read.extend(scan.read.iter().cloned());
        opened
    }

    /// Takes a scan of the directory.
    pub(super) fn compare(&mut self, scan: Scan, now: Instant) {
        self.parts.board.directory_error(None);
        let opened = self.note_unread(&scan);
        let Scan { modules, mut strays, strays_omitted, unread, .. } = scan;
        for (folder, stray) in &mut strays {
            if self.unread.contains_key(folder) || !self.begun && unread.contains_key(folder) {
                stray.why = format!("{}; {HELD}", stray.why);
            }
        }
        // The events of a folder that was unreadable and did not yield were held.
        let was_held =
            |found: &Found| opened.iter().any(|(folder, unread)| !unread.yields && found.file.starts_with(folder));
        let mut restless = false;
        for (slot, found) in &modules {
            restless |= self.see(slot, found, was_held(found));
        }
        for (slot, entry) in &mut self.entries {
            if modules.contains_key(slot) || entry.lost.is_some() {
                continue;
            }
            let file = &entry.found.file;
            if unread.keys().any(|folder| file.starts_with(folder)) || strays.contains_key(file) {
                entry.missing_since = None;
            } else {
                if entry.missing_since.is_none() {
                    restless = true;
                    entry.present = false;
                    entry.rest_without_file();
                }
                entry.missing_since.get_or_insert(now);
            }
        }
        restless |= self.note_strays(strays, strays_omitted, now);
        if restless {
            self.restless_at = now;
        }
        self.let_go(now);
        self.begin(unread, Some(now));
        let whole = self.entries.values().all(|entry| entry.missing_since.is_none());
        let present = self.entries.iter().filter(|(_, entry)| entry.missing_since.is_none() && entry.lost.is_none());
        self.losses.see(present.map(|(slot, _)| slot.clone()).collect(), whole, now);
        self.went.retain(|slot, _| self.losses.is_gone(slot));
    }

    /// Notes the files that serve nothing, and logs new ones. Returns true when they differ from those of the last scan.
    fn note_strays(&mut self, mut strays: BTreeMap<PathBuf, Stray>, omitted: usize, now: Instant) -> bool {
        self.others_since.retain(|file, _| strays.get(file).is_some_and(|stray| stray.is_other));
        for file in strays.iter().filter(|(_, stray)| stray.is_other).map(|(file, _)| file) {
            if !self.others_since.contains_key(file) {
                self.others_since.insert(file.clone(), now);
            }
        }
        let young = |since: &Instant| now < *since + SETTLE;
        if self.others_since.values().any(young) {
            self.follow_up_at.get_or_insert(now + SETTLE);
        }
        strays.retain(|file, _| !self.others_since.get(file).is_some_and(young));
        if strays == self.strays {
            return false;
        }
        for (file, stray) in strays.iter().filter(|(file, stray)| self.strays.get(*file) != Some(*stray)) {
            // A name may hold line ends.
            let file = file.display().to_string();
            let file = legible(&file, TOLD_CHARACTERS_MAX);
            let nearest = stray.nearest.as_ref().map(|near| format!("; the nearest right name is {}", near.display()));
            let why = format!("{}{}", stray.why, nearest.unwrap_or_default());
            let why = legible(&why, TOLD_CHARACTERS_MAX);
            if stray.is_other {
                tracing::info!(%file, "this serves no events: {why}");
            } else {
                tracing::warn!(%file, "this serves no events: {why}");
            }
        }
        self.parts.board.strays(&strays, omitted);
        self.strays = strays;
        true
    }

    /// Takes a file as the directory shows it. Returns true when it is new or changed. With `was_held`, the events of its type
    /// were held before, so no wider module goes on with them.
    fn see(&mut self, slot: &Slot, found: &Found, was_held: bool) -> bool {
        let (root, given) = (&self.parts.directory.root, self.parts.given());
        if !self.entries.contains_key(slot) {
            self.generations += 1;
            let mut entry = Entry::new(self.generations, found.clone(), given);
            entry.recall_settings(self.parts.roster.settings(slot), given);
            entry.present = true;
            entry.yields = self.begun && !was_held && self.judges_wider(slot);
            entry.read_settings(root, given, true);
            entry.bar();
            enqueue(&mut self.queue, slot, &mut entry);
            self.entries.insert(slot.clone(), entry);
            self.due.insert(slot.clone());
            // From the next registry on, its events are held.
            self.changed = true;
            return true;
        }
        let entry = self.entries.get_mut(slot).expect("it was just looked for");
        let was_lost = entry.lost.take().is_some();
        entry.missing_since = None;
        let came_back = !std::mem::replace(&mut entry.present, true);
        if came_back {
            // Doubts from its absence are over.
            self.parts.roster.doubt(slot);
            self.parts.roster.note(slot, entry.settings_text.as_deref());
        }
        let is_other = entry.found != *found;
        if came_back && !is_other {
            enqueue(&mut self.queue, slot, entry);
        }
        if is_other {
            let content = entry.found.signature != found.signature || entry.found.file != found.file;
            let settings = entry.found.settings != found.settings || entry.found.file != found.file;
            entry.found = found.clone();
            let mut again = content;
            if settings {
                let force = entry.settings.force;
                let change = entry.read_settings(root, given, content);
                if entry.settings.force != force && entry.is_refused() {
                    // The version that was refused may be the forced one now.
                    (entry.anew, again) = (true, true);
                }
                match change {
                    Change::None => {}
                    Change::InForce => self.changed = true,
                    Change::ToLoad => (entry.anew, again) = (true, true),
                }
            }
            if entry.bar() {
                (entry.anew, again) = (true, true);
            }
            if again {
                self.generations += 1;
                entry.let_go_of_heavy(self.generations);
                enqueue(&mut self.queue, slot, entry);
            }
        }
        if is_other || was_lost {
            self.due.insert(slot.clone());
        }
        if was_lost {
            self.tell_lost();
        }
        is_other
    }
}
