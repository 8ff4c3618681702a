//! What a replay has found out so far: counts of old by new outcome, what could not be compared, and the changes in bounded
//! groups. It is committed with each step, so that another run goes on with it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::difference::Difference;

/// Most groups of changes, and examples of each.
const GROUPS_MAX: usize = 100;
const EXAMPLES_MAX: usize = 5;
/// Most amendments that are shown, and those that change the same places.
const AMENDMENTS_MAX: usize = 20;
const AMENDMENTS_ALIKE_MAX: usize = 3;
/// Most groups that one event is in.
const GROUPS_OF_EVENT_MAX: usize = 10;
/// Longest pointer of a group.
const POINTER_CHARACTERS_MAX: usize = 200;

/// The outcome of an event in the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Old {
    Stored,
    Refused,
    Quarantined,
}

/// The outcome that the module of the replay gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum New {
    Stored,
    Amended,
    Refused,
    Faulted,
}

/// Why an event was not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    /// Its module amends, so what is stored may not be what was sent.
    Amended,
    /// The gateway's own rules refused it, so no module saw it.
    Envelope,
    /// Its application might not send it, so no module saw it.
    NotAllowed,
    /// Nothing of it was kept.
    NotKept,
    /// Only its beginning was kept.
    Cut,
    /// Postgres refused it, whatever its module said.
    Unstorable,
    /// It was removed while the replay ran.
    Gone,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Amended => "amended",
            Self::Envelope => "envelope",
            Self::NotAllowed => "not_allowed",
            Self::NotKept => "not_kept",
            Self::Cut => "cut",
            Self::Unstorable => "unstorable",
            Self::Gone => "gone",
        }
    }
}

/// A cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Cell {
    old: Old,
    new: New,
    count: u64,
}

/// An event, as an example of a change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Example {
    pub(super) event_id: Option<Uuid>,
    pub(super) session_id: Option<Uuid>,
    /// The dead letter, if it was not stored.
    pub(super) dead_letter_id: Option<Uuid>,
}

/// Events whose outcome changes at the same place, for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Group {
    pointer: String,
    code: String,
    old: Old,
    new: New,
    application: String,
    count: u64,
    first: DateTime<Utc>,
    last: DateTime<Utc>,
    examples: Vec<Example>,
}

/// An event whose data the module changes. This alone holds values of events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Amendment {
    #[serde(flatten)]
    event: Example,
    application: String,
    changes: Vec<Difference>,
    more: u64,
}

/// How many events there were in the range of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Sampled {
    pub(super) wanted: u64,
    pub(super) events: u64,
    pub(super) letters: u64,
}

/// What is told of an event that was compared.
#[derive(Debug)]
pub(super) struct Compared<'a> {
    pub(super) old: Old,
    pub(super) new: New,
    pub(super) is_redacted: bool,
    /// Pointers and codes of the change.
    pub(super) places: Vec<(&'a str, &'a str)>,
    pub(super) application: &'a str,
    pub(super) received_at: DateTime<Utc>,
    pub(super) example: Example,
    /// The places that the module amends, and how many more there are.
    pub(super) amended: Option<(Vec<Difference>, u64)>,
}

/// What a replay has found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Findings {
    rows: Vec<Cell>,
    redacted: Vec<Cell>,
    not_compared: BTreeMap<Reason, u64>,
    /// Stored events that were compared although nobody knows whether their module amended them: it is not kept any more.
    unsure: u64,
    changes: Vec<Group>,
    changes_others: u64,
    amendments: Vec<Amendment>,
    amendments_others: u64,
    /// Stored events and dead letters that were looked at, those that were not compared included.
    events: u64,
    letters: u64,
    pub(super) sampled: Option<Sampled>,
    pub(super) elapsed_ms: u64,
    pub(super) processor_us: u64,
}

impl Findings {
    /// Counts an event that was looked at.
    pub(super) fn look(&mut self, is_letter: bool) {
        *if is_letter { &mut self.letters } else { &mut self.events } += 1;
    }

    pub(super) fn not_compared(&mut self, reason: Reason) {
        *self.not_compared.entry(reason).or_default() += 1;
    }

    pub(super) fn unsure(&mut self) {
        self.unsure += 1;
    }

    pub(super) fn add(&mut self, compared: Compared<'_>) {
        let Compared { old, new, is_redacted, places, application, received_at, example, amended } = compared;
        count(if is_redacted { &mut self.redacted } else { &mut self.rows }, old, new);
        let mut told: Vec<(String, &str)> = Vec::new();
        for (pointer, code) in places {
            let place = (grouped(pointer), code);
            if !told.contains(&place) && told.len() < GROUPS_OF_EVENT_MAX {
                told.push(place);
            }
        }
        for (pointer, code) in told {
            self.group(Group {
                pointer,
                code: code.to_owned(),
                old,
                new,
                application: application.to_owned(),
                count: 1,
                first: received_at,
                last: received_at,
                examples: vec![example.clone()],
            });
        }
        if let Some((changes, more)) = amended {
            self.amend(Amendment { event: example, application: application.to_owned(), changes, more });
        }
    }

    fn group(&mut self, one: Group) {
        let key = |group: &Group| {
            (group.pointer == one.pointer && group.code == one.code)
                && (group.old, group.new) == (one.old, one.new)
                && group.application == one.application
        };
        match self.changes.iter().position(key) {
            Some(place) => {
                let group = &mut self.changes[place];
                group.count += 1;
                group.first = group.first.min(one.first);
                group.last = group.last.max(one.last);
                if group.examples.len() < EXAMPLES_MAX {
                    group.examples.extend(one.examples);
                }
            }
            None if self.changes.len() < GROUPS_MAX => self.changes.push(one),
            None => self.changes_others += 1,
        }
    }

    fn amend(&mut self, one: Amendment) {
        let places = |amendment: &Amendment| {
            amendment.changes.iter().map(|change| grouped(&change.pointer)).collect::<std::collections::BTreeSet<_>>()
        };
        let own = places(&one);
        let alike = self.amendments.iter().filter(|other| places(other) == own).count();
        if self.amendments.len() < AMENDMENTS_MAX && alike < AMENDMENTS_ALIKE_MAX {
            self.amendments.push(one);
        } else {
            self.amendments_others += 1;
        }
    }

    /// What came of the job.
    pub(super) fn result(&self) -> Value {
        let Self { rows, redacted, not_compared, unsure, amendments, .. } = self;
        let ordered = |cells: &[Cell]| {
            let mut cells = cells.to_vec();
            cells.sort_by_key(|cell| (cell.old, cell.new));
            cells
        };
        let mut changes = self.changes.clone();
        changes.sort_by_key(|group| std::cmp::Reverse(group.count));
        json!({
            "rows": ordered(rows),
            "redacted": ordered(redacted),
            "not_compared": not_compared,
            "unsure": unsure,
            "changes": changes,
            "changes_others": self.changes_others,
            "amendments": amendments,
            "amendments_others": self.amendments_others,
            "events": self.events,
            "letters": self.letters,
            "sampled": self.sampled,
            "elapsed_ms": self.elapsed_ms,
            "processor_ms": self.processor_us / 1_000,
        })
    }
}

fn count(cells: &mut Vec<Cell>, old: Old, new: New) {
    match cells.iter_mut().find(|cell| (cell.old, cell.new) == (old, new)) {
        Some(cell) => cell.count += 1,
        None => cells.push(Cell { old, new, count: 1 }),
    }
}

/// A pointer with `*` in place of each place of a list, so that the elements of a list are one group.
fn grouped(pointer: &str) -> String {
    let part = |part: &str| match !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
        true => "*".to_owned(),
        false => part.to_owned(),
    };
    let whole = pointer.split('/').map(part).collect::<Vec<_>>().join("/");
    whole.chars().take(POINTER_CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pointer: &str, application: &str, minute: u32, findings: &mut Findings) {
        let received_at = format!("2026-11-23T09:{minute:02}:00Z").parse().expect("a time");
        let id = Some(Uuid::now_v7());
        findings.look(false);
        findings.add(Compared {
            old: Old::Stored,
            new: New::Refused,
            is_redacted: false,
            places: vec![(pointer, "range"), (pointer, "range")],
            application,
            received_at,
            example: Example { event_id: id, session_id: id, dead_letter_id: None },
            amended: None,
        });
    }

    #[test]
    fn changes_are_grouped_and_bounded_and_survive_the_place() {
        let mut findings = Findings::default();
        for minute in [7, 3, 9, 1, 5, 8] {
            refused(&format!("/items/{minute}/price"), "shop", minute, &mut findings);
        }
        refused("/items/1/price", "kiosk", 2, &mut findings);
        let result = findings.result();
        assert_eq!(result["rows"], json!([{"old": "stored", "new": "refused", "count": 7}]));
        let group = &result["changes"][0];
        assert_eq!((&group["pointer"], &group["count"]), (&json!("/items/*/price"), &json!(6)));
        assert_eq!((&group["first"], &group["last"]), (&json!("2026-11-23T09:01:00Z"), &json!("2026-11-23T09:09:00Z")));
        assert_eq!(group["examples"].as_array().map(Vec::len), Some(EXAMPLES_MAX));
        for number in 0..2 * GROUPS_MAX {
            refused(&format!("/a{number}"), "shop", 0, &mut findings);
        }
        assert_eq!((findings.changes.len(), findings.changes_others), (GROUPS_MAX, 102));
        findings.not_compared(Reason::NotKept);
        let text = serde_json::to_string(&findings).expect("findings serialize");
        assert_eq!(serde_json::from_str::<Findings>(&text).expect("its own"), findings);
    }

    #[test]
    fn amendments_of_the_same_places_are_shown_a_few_times() {
        let mut findings = Findings::default();
        for number in 0..10 {
            let change = |pointer: &str| Difference { pointer: pointer.to_owned(), old: None, new: None, cut: false };
            let pointer = if number < 8 { "/a".to_owned() } else { format!("/b{number}") };
            findings.amend(Amendment {
                event: Example { event_id: None, session_id: None, dead_letter_id: None },
                application: String::new(),
                changes: vec![change(&pointer)],
                more: 0,
            });
        }
        assert_eq!((findings.amendments.len(), findings.amendments_others), (5, 5));
    }
}
