//! Missing files: a few that go are unloaded, most at once are taken for an accident. The modules of an accident serve on
//! until their files come back, or an operator retires them. [`Losses`](crate::losses::Losses) holds the rule itself.

use std::collections::BTreeSet;
use std::time::Instant;

use super::Lifecycle;
use crate::entry::Entry;
use crate::files::wall_time;
use crate::happening::Happening;
use crate::slot::Slot;

/// Event types that a sentence names. The rest is counted.
const NAMED_MAX: usize = 20;

impl Lifecycle {
    /// Unloads the modules whose files have been missing for long enough, unless this looks like an accident.
    pub(super) fn let_go(&mut self, now: Instant) {
        let gone = |entry: &Entry| entry.missing_since.is_some_and(|since| now >= self.unload_at(since));
        let gone: Vec<Slot> =
            self.entries.iter().filter(|(_, entry)| gone(entry)).map(|(slot, _)| slot.clone()).collect();
        let (retired, going): (BTreeSet<Slot>, BTreeSet<Slot>) =
            gone.into_iter().partition(|slot| self.parts.roster.is_retired(slot));
        for slot in retired {
            self.unload(slot);
        }
        if going.is_empty() {
            return;
        }
        let mut lost = self.losses.accident(&going);
        // As long as files are lost, every further one that goes counts as lost too.
        if self.entries.values().any(|entry| entry.lost.is_some()) {
            lost.extend(going.iter().cloned());
        }
        if lost.is_empty() {
            for slot in &going {
                let text = self.entries.get(slot).and_then(|entry| entry.settings_text.clone());
                self.went.insert(slot.clone(), text);
                self.unload(slot.clone());
            }
            self.losses.went(going, now);
        } else {
            self.lose(&lost);
        }
    }

    /// Lets the modules serve on whose files went by accident.
    fn lose(&mut self, lost: &BTreeSet<Slot>) {
        for slot in lost {
            if !self.entries.contains_key(slot) {
                // It was unloaded before the accident was complete.
                let text = self.went.remove(slot);
                self.recall(slot, text.as_ref());
                self.parts.roster.note(slot, text.flatten().as_deref());
            }
            let entry = self.entries.get_mut(slot).expect("it is there or was recalled");
            (entry.missing_since, entry.lost) = (None, Some(wall_time()));
            self.due.insert(slot.clone());
        }
        self.lost_of = self.losses.had();
        self.changed = true;
        self.parts.board.count_accident();
        self.parts.observer.tell(&lost.iter().collect::<Vec<_>>(), Happening::Lost);
        self.tell_lost();
        if let Some(told) = self.parts.board.lost() {
            tracing::warn!("an accident in the modules directory: {told}");
        }
    }

    /// Reports the modules that serve on without their files.
    pub(super) fn tell_lost(&self) {
        let lost: Vec<&Slot> =
            self.entries.iter().filter(|(_, entry)| entry.lost.is_some()).map(|(slot, _)| slot).collect();
        let told = (!lost.is_empty()).then(|| {
            format!(
                "the files of {} of {} modules are gone, which is taken for an accident, and the last good versions serve \
                 on: {}; bring the files back, or confirm that they are gone with `eye validator retire TYPE...`",
                lost.len(),
                self.lost_of.max(lost.len()),
                named(&lost)
            )
        });
        self.parts.board.set_lost(told);
    }

    /// Unloads the lost modules that an operator retired.
    pub(super) fn take_confirmations(&mut self) {
        let roster = &self.parts.roster;
        let lost = self.entries.iter().filter(|(slot, entry)| entry.lost.is_some() && roster.is_retired(slot));
        let confirmed: Vec<Slot> = lost.map(|(slot, _)| slot.clone()).collect();
        if confirmed.is_empty() {
            return;
        }
        for slot in confirmed {
            self.unload(slot);
        }
        self.tell_lost();
    }
}

/// Names some event types, and counts the rest.
fn named(slots: &[&Slot]) -> String {
    let names: Vec<String> = slots.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = slots.len().saturating_sub(NAMED_MAX);
    if more == 0 { names.join(", ") } else { format!("{} and {more} more", names.join(", ")) }
}
