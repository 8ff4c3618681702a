//! A module that is compared with the module of its slot, on the same events: a candidate, or for a while the module that was
//! replaced. This file says what the pairs of verdicts say. `besides.rs` knows which modules there are, and `comparing.rs`
//! judges the second of each pair, away from the path of events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use eye_event::verdict::{Digest, FaultCode, UnfinishedCode, Unjudged, Verdict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::allowance::Allowance;
use super::circuit::Standing;
use super::contract::GuestEvent;
use super::figures::{Counts, Figures, Times};
use super::module::Module;
use super::slot::Slot;
use super::steps::Share;

/// Samples of one kind of difference that wait to be taken.
const SAMPLES_MAX: usize = 10;
/// Violations of one side of a sample.
const SAMPLE_VIOLATIONS_MAX: usize = 10;
/// Characters of a pointer or a code in a sample.
const SAMPLE_CHARACTERS_MAX: usize = 200;
/// Applications that are counted apart; the others are counted together.
const APPLICATIONS_MAX: usize = 100;

/// What two modules say of the same events, and which of them judges for the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trial {
    /// A candidate that judges copies only.
    Shadow,
    /// A candidate that judges a share of the sessions.
    Canary(Share),
    /// The module that serves, beside the one that it replaced.
    Replacement,
}

impl Trial {
    /// The word in answers and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shadow => "shadow",
            Self::Canary(_) => "canary",
            Self::Replacement => "replacement",
        }
    }
}

/// Counts of pairs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCounts {
    /// Both say the same.
    pub same: u64,
    /// The new module refuses what the old one takes.
    pub would_refuse: u64,
    /// The new module takes what the old one refuses or breaks on.
    pub would_take: u64,
    /// Both take it, with other data.
    pub amends_otherwise: u64,
    /// The new module breaks, and the old one does not.
    pub faulted: u64,
    /// There was no room or no time for one of them.
    pub not_compared: u64,
    /// What the old module refused, of what was compared.
    pub old_refused: u64,
    /// What the new module refused, of what was compared.
    pub new_refused: u64,
}

impl PairCounts {
    /// Events that both judged.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.same + self.would_refuse + self.would_take + self.amends_otherwise + self.faulted
    }
}

/// The counts of one application.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationPairs {
    /// Events that both judged.
    pub compared: u64,
    /// The new module refuses what the old one takes.
    pub would_refuse: u64,
}

impl ApplicationPairs {
    /// Adds further counts.
    pub fn add(&mut self, more: Self) {
        self.compared += more.compared;
        self.would_refuse += more.would_refuse;
    }
}

/// An event on which the two differ. It has no data of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The name of its count in [`PairCounts`].
    pub what: String,
    /// The event.
    pub id: String,
    /// Its session.
    pub session_id: String,
    /// Who sent it.
    pub application: String,
    /// When it was received, in microseconds since 1970.
    pub received_at_us: i64,
    /// Pointers and codes of the old module's violations.
    pub old: Vec<(String, String)>,
    /// Pointers and codes of the new module's violations.
    pub new: Vec<(String, String)>,
    /// How the new module broke.
    pub fault: Option<String>,
}

/// What was compared since the last look.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The event types.
    pub slot: Slot,
    /// How the new module is tried.
    pub trial: Trial,
    /// The new module.
    pub digest: Digest,
    /// The module that it is compared with.
    pub against: Digest,
    /// The counts.
    pub counts: PairCounts,
    /// The counts by application. Those beyond a hundred have an empty name.
    pub applications: BTreeMap<String, ApplicationPairs>,
    /// Some of the differences.
    pub samples: Vec<Sample>,
    /// Verdicts and faults that a canary gave for senders.
    pub judged: u64,
    /// Of these, what it refused.
    pub judged_refused: u64,
    /// The processor time of all but one in a hundred calls of the new module so far, in microseconds.
    pub p99_us: Option<f64>,
    /// How many calls that were.
    pub calls: u64,
    /// The deadline of the new module, in milliseconds.
    pub deadline_ms: u64,
    /// Whether the guard may take the new module back.
    pub guard: bool,
    /// Whether more refusals are meant.
    pub expects_refusals: bool,
    /// Whether the new module's settings force it.
    pub forced: bool,
    /// The two are not compared any more. The same two may be compared anew since.
    pub is_over: bool,
}

/// A module beside the one that serves its slot, on this gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct CandidateReport {
    /// The event types.
    pub slot: Slot,
    /// How it is tried.
    pub trial: Trial,
    /// The new module of the two.
    pub digest: Digest,
    /// The old one.
    pub against: Digest,
    /// What the module beside said, for senders or off the path. A module that was replaced is not counted here.
    pub counts: Counts,
    /// Its times of judging.
    pub judging: Option<Times>,
    /// How it stands.
    pub standing: Standing,
    /// Whether the guard may take the new module back.
    pub guard: bool,
    /// Whether more refusals are meant.
    pub expects_refusals: bool,
}

/// The pairs of two modules since the last look.
#[derive(Default)]
struct Pairs {
    counts: PairCounts,
    applications: BTreeMap<String, ApplicationPairs>,
    samples: Vec<Sample>,
}

/// A module beside the one that serves a slot.
pub(super) struct Beside {
    /// The other module: the candidate, or the one that was replaced.
    pub(super) module: Arc<Module>,
    pub(super) trial: Trial,
    /// The module that serves. Events that another one judged are not compared.
    pub(super) serving: Arc<Module>,
    /// When the two began to be compared.
    pub(super) began: Instant,
    /// The processor time for the second verdicts.
    pub(super) allowance: Allowance,
    pairs: Mutex<Pairs>,
    judged: AtomicU64,
    judged_refused: AtomicU64,
    /// Apart from the pairs, since requests count it: the thread that holds the pairs has the lowest priority.
    not_compared: AtomicU64,
}

/// Which module is still to judge the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The one beside the module that serves.
    Beside,
    /// The one that serves: the canary has judged for the sender.
    Serving,
}

/// The verdict of one module on an event of a pair.
pub(super) type Said = Result<Verdict, Unjudged>;

/// An event of a pair, for its sample.
pub(super) struct Paired<'a> {
    pub(super) id: &'a str,
    pub(super) session_id: &'a str,
    pub(super) application: &'a str,
    pub(super) received_at_us: i64,
    pub(super) data: &'a str,
}

impl<'a> Paired<'a> {
    pub(super) fn of(event: &GuestEvent<'a>) -> Self {
        let GuestEvent { id, session_id, application, received_at_us, data, .. } = *event;
        Self { id, session_id, application, received_at_us, data }
    }
}

impl Beside {
    pub(super) fn new(module: Arc<Module>, trial: Trial, serving: Arc<Module>) -> Self {
        let pairs = Mutex::default();
        // The new one of the two is measured.
        if trial == Trial::Replacement {
            serving.measure()
        } else {
            module.measure()
        }
        let [judged, judged_refused, not_compared] = Default::default();
        let allowance = Allowance::new();
        Self { module, trial, serving, began: Instant::now(), allowance, pairs, judged, judged_refused, not_compared }
    }

    /// The module whose verdict is missing.
    pub(super) fn missing(&self, missing: Missing) -> &Module {
        match missing {
            Missing::Beside => &self.module,
            Missing::Serving => &self.serving,
        }
    }

    /// The new module of the two, and the old one.
    pub(super) fn new_and_old(&self) -> (&Arc<Module>, &Arc<Module>) {
        match self.trial {
            Trial::Shadow | Trial::Canary(_) => (&self.module, &self.serving),
            Trial::Replacement => (&self.serving, &self.module),
        }
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pointers and codes of a refusal. Where one of the modules takes secrets out, they may hold one.
    fn violations(&self, said: &Said) -> Vec<(String, String)> {
        let Ok(Verdict::Reject(violations)) = said else { return Vec::new() };
        if self.module.takes_out() || self.serving.takes_out() {
            return Vec::new();
        }
        let cut = |text: &str| text.chars().take(SAMPLE_CHARACTERS_MAX).collect();
        let each = violations.iter().take(SAMPLE_VIOLATIONS_MAX);
        each.map(|violation| (cut(&violation.pointer), cut(&violation.code))).collect()
    }

    /// Whether more refusals of the new module are meant.
    pub(super) fn expects_refusals(&self) -> bool {
        let (new, _) = self.new_and_old();
        new.settings().expect_refusals == Some(new.digest)
    }

    /// Whether it is a canary that takes something out of dead letters.
    pub(super) fn takes_out(&self) -> bool {
        matches!(self.trial, Trial::Canary(_)) && self.module.takes_out()
    }

    /// Counts an event that only one of them judged.
    pub(super) fn not_compared(&self) {
        self.not_compared.fetch_add(1, Relaxed);
    }

    /// Counts a verdict that the canary gave for a sender.
    pub(super) fn judged(&self, verdict: &Verdict) {
        self.judged.fetch_add(1, Relaxed);
        if matches!(verdict, Verdict::Reject(_)) {
            self.judged_refused.fetch_add(1, Relaxed);
        }
    }

    /// Counts what the module of this struct and the one that serves say of an event.
    pub(super) fn pair(&self, event: &Paired<'_>, of_module: &Said, of_serving: &Said) {
        let (new, old) = match self.trial {
            Trial::Shadow | Trial::Canary(_) => (of_module, of_serving),
            Trial::Replacement => (of_serving, of_module),
        };
        let Some(what) = difference(event.data, old, new) else { return self.not_compared() };
        let is_refused = |said: &Said| u64::from(matches!(said, Ok(Verdict::Reject(_))));
        let mut pairs = self.pairs();
        pairs.counts.old_refused += is_refused(old);
        pairs.counts.new_refused += is_refused(new);
        let (count, word) = match what {
            Difference::None => (&mut pairs.counts.same, None),
            Difference::WouldRefuse => (&mut pairs.counts.would_refuse, Some("would_refuse")),
            Difference::WouldTake => (&mut pairs.counts.would_take, Some("would_take")),
            Difference::AmendsOtherwise => (&mut pairs.counts.amends_otherwise, Some("amends_otherwise")),
            Difference::Faulted => (&mut pairs.counts.faulted, Some("faulted")),
        };
        *count += 1;
        let has_room =
            pairs.applications.len() < APPLICATIONS_MAX || pairs.applications.contains_key(event.application);
        let name = if has_room { event.application } else { "" };
        let more = ApplicationPairs { compared: 1, would_refuse: u64::from(what == Difference::WouldRefuse) };
        match pairs.applications.get_mut(name) {
            Some(own) => own.add(more),
            None => _ = pairs.applications.insert(name.to_owned(), more),
        }
        if let Some(word) = word
            && pairs.samples.iter().filter(|sample| sample.what == word).count() < SAMPLES_MAX
        {
            pairs.samples.push(Sample {
                what: word.to_owned(),
                id: event.id.to_owned(),
                session_id: event.session_id.to_owned(),
                application: event.application.to_owned(),
                received_at_us: event.received_at_us,
                old: self.violations(old),
                new: self.violations(new),
                fault: fault(new).map(|code| code.as_str().to_owned()),
            });
        }
    }

    /// What was compared since the last call; `None` if that is nothing.
    pub(super) fn take(&self, slot: &Slot, is_over: bool) -> Option<Comparison> {
        let Pairs { mut counts, applications, samples } = std::mem::take(&mut *self.pairs());
        counts.not_compared = self.not_compared.swap(0, Relaxed);
        let (judged, judged_refused) = (self.judged.swap(0, Relaxed), self.judged_refused.swap(0, Relaxed));
        if counts == PairCounts::default() && judged == 0 {
            return None;
        }
        let (new, old) = self.new_and_old();
        let settings = new.settings();
        Some(Comparison {
            slot: slot.clone(),
            trial: self.trial,
            digest: new.digest,
            against: old.digest,
            counts,
            applications,
            samples,
            judged,
            judged_refused,
            p99_us: new.ran().and_then(Figures::times).map(|times| times.p99_us),
            calls: new.ran().map(Figures::calls).unwrap_or_default(),
            deadline_ms: settings.limits.deadline_ms,
            guard: settings.guard,
            expects_refusals: self.expects_refusals(),
            forced: settings.force == Some(new.digest),
            is_over,
        })
    }
}

/// What the new module would change about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    WouldRefuse,
    WouldTake,
    AmendsOtherwise,
    Faulted,
}

/// How the new verdict differs from the old one on an event with this data; `None` if one of them is missing.
fn difference(data: &str, old: &Said, new: &Said) -> Option<Difference> {
    // A module that broke is unavailable if its settings ask the sender for a retry.
    let is_missing = |said: &Said| match said {
        Ok(_) => false,
        Err(Unjudged::Unfinished(why)) => why.code != UnfinishedCode::ModuleUnavailable,
        Err(Unjudged::Fault(fault)) => fault.code == FaultCode::OffPath,
    };
    if is_missing(old) || is_missing(new) {
        return None;
    }
    Some(match (old, new) {
        (Err(_), Err(_)) => Difference::None,
        (Ok(_), Err(_)) => Difference::Faulted,
        (Ok(Verdict::Reject(_)) | Err(_), Ok(Verdict::Reject(_))) => Difference::None,
        (Ok(Verdict::Reject(_)) | Err(_), Ok(_)) => Difference::WouldTake,
        (Ok(_), Ok(Verdict::Reject(_))) => Difference::WouldRefuse,
        (Ok(old), Ok(new)) if is_alike(kept(data, old), kept(data, new)) => Difference::None,
        (Ok(_), Ok(_)) => Difference::AmendsOtherwise,
    })
}

/// The data that would be stored.
fn kept<'a>(data: &'a str, verdict: &'a Verdict) -> &'a str {
    if let Verdict::Amend(amended) = verdict { amended } else { data }
}

/// Whether two texts are the same JSON. The order of members does not count.
fn is_alike(one: &str, other: &str) -> bool {
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    one == other || value(one).is_some_and(|one| Some(one) == value(other))
}

fn fault(said: &Said) -> Option<FaultCode> {
    if let Err(Unjudged::Fault(fault)) = said { Some(fault.code) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_those_that_an_author_asks_for() {
        let (accept, reject) = (Ok(Verdict::Accept), Ok(Verdict::Reject(Vec::new())));
        let amend = |text: &str| Ok(Verdict::Amend(text.to_owned()));
        let trap =
            || Err(eye_event::verdict::Fault { code: FaultCode::Trap, detail: String::new(), last_words: None }.into());
        let busy = Err(UnfinishedCode::ModuleBusy.into());
        let found = |old: &Said, new: &Said| difference(r#"{"a":1,"b":2}"#, old, new);
        assert_eq!(found(&accept, &accept), Some(Difference::None));
        assert_eq!(found(&accept, &amend(r#"{"b":2, "a":1}"#)), Some(Difference::None));
        assert_eq!(found(&accept, &amend("{}")), Some(Difference::AmendsOtherwise));
        assert_eq!(found(&accept, &reject), Some(Difference::WouldRefuse));
        assert_eq!(found(&reject, &accept), Some(Difference::WouldTake));
        assert_eq!(found(&trap(), &accept), Some(Difference::WouldTake));
        assert_eq!(found(&reject, &trap()), Some(Difference::Faulted));
        assert_eq!(found(&accept, &trap()), Some(Difference::Faulted));
        assert_eq!(found(&trap(), &trap()), Some(Difference::None));
        assert_eq!(found(&trap(), &reject), Some(Difference::None));
        assert_eq!((found(&busy, &accept), found(&accept, &busy)), (None, None));
    }
}
