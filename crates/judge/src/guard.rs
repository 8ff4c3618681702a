//! The rule by which a new module is taken back: what it and the old one said of the same events, summed over all gateways.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::candidate::{ApplicationPairs, PairCounts};

/// Events that both judged before refusals count.
const COMPARED_MIN: u64 = 200;
/// Refusals jump when there are so many times as many, and so many more in a hundred.
const TIMES: u64 = 2;
const POINTS: u64 = 1;
/// Calls before their time counts.
const CALLS_MIN: u64 = 200;
/// The part of the deadline that one call in a hundred may take, in percent.
const NEAR_PERCENT: f64 = 80.0;

/// What is known of a new module beside an old one.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// The pairs, of all gateways.
    pub counts: PairCounts,
    /// The pairs by application, of all gateways.
    pub applications: BTreeMap<String, ApplicationPairs>,
    /// The time of all but one in a hundred calls on this gateway, in microseconds.
    pub p99_us: Option<f64>,
    /// How many calls that were.
    pub calls: u64,
    /// The deadline, in milliseconds.
    pub deadline_ms: u64,
    /// More refusals are meant.
    pub expects_refusals: bool,
}

/// Why a new module is taken back.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// It broke on events that the old one judged.
    Faulted {
        /// On how many.
        faulted: u64,
        /// Of how many that were compared.
        compared: u64,
    },
    /// It refuses many more events than the old one.
    Refuses {
        /// How many the old one refused.
        old: u64,
        /// How many it refused.
        new: u64,
        /// Of how many that were compared.
        compared: u64,
    },
    /// It nearly uses up its deadline.
    Slow {
        /// All but one in a hundred calls took at most so long, in microseconds.
        p99_us: u64,
        /// The deadline, in milliseconds.
        deadline_ms: u64,
    },
}

impl Reason {
    /// The word in metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Faulted { .. } => "faulted",
            Self::Refuses { .. } => "refuses",
            Self::Slow { .. } => "slow",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faulted { faulted, compared } => {
                write!(formatter, "it broke on {faulted} of {compared} events that the module before judged")
            }
            Self::Refuses { old, new, compared } => {
                write!(formatter, "it refused {new} of {compared} events, and the module before {old} of the same")
            }
            Self::Slow { p99_us, deadline_ms } => {
                let ms = *p99_us as f64 / 1e3;
                write!(
                    formatter,
                    "one call in a hundred takes {ms:.1} ms or more, and its deadline is {deadline_ms} ms"
                )
            }
        }
    }
}

/// Why the new module is to be taken back; `None` while nothing speaks against it.
#[must_use]
pub fn verdict(totals: &Totals) -> Option<Reason> {
    let PairCounts { faulted, old_refused: old, new_refused: new, .. } = totals.counts;
    let compared = totals.counts.compared();
    if faulted > 0 {
        return Some(Reason::Faulted { faulted, compared });
    }
    if !totals.expects_refusals && jumps(old, new, compared) && is_of_several(&totals.applications) {
        return Some(Reason::Refuses { old, new, compared });
    }
    let p99_us = totals.p99_us.filter(|_| totals.calls >= CALLS_MIN)?;
    let deadline_us = totals.deadline_ms as f64 * 1e3;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a time of at most a minute")]
    (p99_us * 100.0 >= deadline_us * NEAR_PERCENT)
        .then_some(Reason::Slow { p99_us: p99_us as u64, deadline_ms: totals.deadline_ms })
}

/// Whether the new module refuses so many more of the compared events that the guard takes it back.
fn jumps(old: u64, new: u64, compared: u64) -> bool {
    compared >= COMPARED_MIN && new >= TIMES * old && (new - old.min(new)) * 100 >= POINTS * compared && new > old
}

/// Whether new refusals come from two applications, where there are two. One application with bad data is no reason.
fn is_of_several(applications: &BTreeMap<String, ApplicationPairs>) -> bool {
    // An application of which as few are refused newly as are allowed of all does not count.
    let is_hit = |one: &&ApplicationPairs| one.would_refuse > 0 && one.would_refuse * 100 >= POINTS * one.compared;
    applications.len() < 2 || applications.values().filter(is_hit).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(compared: u64, old: u64, new: u64, applications: &[(&str, u64, u64)]) -> Totals {
        let would_refuse = new - old;
        let counts = PairCounts {
            same: compared - would_refuse,
            would_refuse,
            old_refused: old,
            new_refused: new,
            ..PairCounts::default()
        };
        let each = applications.iter().map(|(name, compared, would_refuse)| {
            ((*name).to_owned(), ApplicationPairs { compared: *compared, would_refuse: *would_refuse })
        });
        Totals { counts, applications: each.collect(), deadline_ms: 50, ..Totals::default() }
    }

    #[test]
    fn refusals_that_jump_take_a_module_back() {
        let word = |totals: &Totals| verdict(totals).map(|reason| reason.as_str());
        assert_eq!(word(&totals(200, 0, 30, &[("a", 200, 30)])), Some("refuses"));
        assert_eq!(word(&totals(199, 0, 30, &[("a", 199, 30)])), None, "too few to tell");
        assert_eq!(word(&totals(1_000, 0, 9, &[("a", 1_000, 9)])), None, "less than a point more");
        assert_eq!(word(&totals(1_000, 50, 99, &[("a", 1_000, 49)])), None, "less than twice");
        assert_eq!(word(&totals(1_000, 50, 100, &[("a", 1_000, 50)])), Some("refuses"));
        let meant = Totals { expects_refusals: true, ..totals(200, 0, 200, &[("a", 200, 200)]) };
        assert_eq!(word(&meant), None);
    }

    #[test]
    fn one_application_of_several_does_not_undo_a_module() {
        let one = totals(1_000, 0, 500, &[("bad", 500, 500), ("good", 500, 0)]);
        assert_eq!(verdict(&one), None);
        let hardly = totals(1_000, 0, 501, &[("bad", 500, 500), ("good", 500, 1)]);
        assert_eq!(verdict(&hardly), None, "one event of another is no jump");
        let both = totals(1_000, 0, 505, &[("bad", 500, 500), ("good", 500, 5)]);
        assert_eq!(verdict(&both).map(|reason| reason.as_str()), Some("refuses"));
    }

    #[test]
    fn faults_and_a_time_near_the_deadline_do_too() {
        let mut broken = totals(10, 0, 0, &[("a", 10, 0)]);
        broken.counts.faulted = 1;
        broken.expects_refusals = true;
        let reason = verdict(&broken).expect("a reason");
        assert_eq!(reason.to_string(), "it broke on 1 of 11 events that the module before judged");
        let time = |p99_us, calls| {
            let slow = Totals { p99_us: Some(p99_us), calls, ..totals(0, 0, 0, &[]) };
            verdict(&slow).map(|reason| reason.to_string())
        };
        assert_eq!(time(39_000.0, 1_000), None);
        assert_eq!(time(45_000.0, 199), None);
        let told = "one call in a hundred takes 45.0 ms or more, and its deadline is 50 ms";
        assert_eq!(time(45_000.0, 200).as_deref(), Some(told));
    }
}
