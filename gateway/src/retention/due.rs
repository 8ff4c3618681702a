//! Decides what a round of retention may remove. After a wrong clock, a long absence of the gateway or a mistyped
//! setting, much is due at once. So a round removes what fell due within two days of the last round. It announces the
//! rest for a day, unless an operator confirms it. This module has no side effects; the store keeps the ledger.

use chrono::{DateTime, TimeDelta, Utc};

/// A round removes without an announcement what fell due within this time after the round before.
pub const WITHOUT_NOTICE: TimeDelta = TimeDelta::hours(48);
/// How long a larger removal is announced.
pub const NOTICE: TimeDelta = TimeDelta::hours(24);
/// The most time that one round adds to an announcement, so that a clock that jumps does not end it at once.
const NOTICE_STEP_MAX: TimeDelta = TimeDelta::hours(2);

/// A rule of retention, as the database names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Events older than `events_days`.
    EventsAge,
    /// Dead letters older than `dead_letters_days`.
    DeadLettersAge,
    /// Dead letters beyond `dead_letters_bytes_max`.
    DeadLettersSize,
    /// Counts by the minute older than `counts_minute_days`.
    CountMinutesAge,
    /// Entries of the audit trail older than `audit_days`.
    AuditAge,
}

impl Rule {
    /// All rules.
    pub const ALL: [Self; 5] =
        [Self::EventsAge, Self::DeadLettersAge, Self::DeadLettersSize, Self::CountMinutesAge, Self::AuditAge];

    /// The word in the database, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EventsAge => "events_age",
            Self::DeadLettersAge => "dead_letters_age",
            Self::DeadLettersSize => "dead_letters_size",
            Self::CountMinutesAge => "count_minutes_age",
            Self::AuditAge => "audit_age",
        }
    }

    /// The setting of the rule.
    pub fn setting(self) -> &'static str {
        match self {
            Self::EventsAge => "events_days",
            Self::DeadLettersAge => "dead_letters_days",
            Self::DeadLettersSize => "dead_letters_bytes_max",
            Self::CountMinutesAge => "counts_minute_days",
            Self::AuditAge => "audit_days",
        }
    }
}

/// A removal that waits until its time is over or an operator confirms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The value of the setting that asks for it. Another value starts a new announcement.
    pub limit: i64,
    /// The time of its first round.
    pub at: DateTime<Utc>,
    /// How long it has been announced, in seconds.
    pub seconds: i64,
    /// The time of its last round.
    pub seen_at: DateTime<Utc>,
    /// An operator has confirmed it.
    pub confirmed: bool,
}

impl Announcement {
    /// The announcement after a round at `now`. It continues an earlier one for the same value of the setting.
    pub fn carried_on(before: Option<Self>, limit: i64, now: DateTime<Utc>) -> Self {
        match before.filter(|before| before.limit == limit) {
            None => Self { limit, at: now, seconds: 0, seen_at: now, confirmed: false },
            Some(before) => {
                let step = (now - before.seen_at).clamp(TimeDelta::zero(), NOTICE_STEP_MAX);
                Self { seconds: before.seconds + step.num_seconds(), seen_at: now, ..before }
            }
        }
    }

    /// Whether the removal may be made now.
    pub fn is_over(&self) -> bool {
        self.confirmed || self.seconds >= NOTICE.num_seconds()
    }
}

/// The ledger of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// The time before which the last full round removed everything.
    pub cutoff: Option<DateTime<Utc>>,
    /// The bound that the last full round kept.
    pub bytes_max: Option<i64>,
    /// The removal that waits.
    pub announcement: Option<Announcement>,
}

/// How far a round by age may go without an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Rows before this time may be removed; none before the first round.
    pub before: Option<DateTime<Utc>>,
    /// Whether this is all that the setting asks for. If not, it amounts to the same as long as no row is between the
    /// two times.
    pub all: bool,
}

impl Ledger {
    /// How far a round may go whose setting asks for all rows before `wanted`.
    pub fn reach(&self, wanted: DateTime<Utc>) -> Reach {
        match self.cutoff.map(|cutoff| cutoff + WITHOUT_NOTICE) {
            Some(allowed) if allowed < wanted => Reach { before: Some(allowed), all: false },
            Some(_) => Reach { before: Some(wanted), all: true },
            None => Reach { before: None, all: false },
        }
    }

    /// The bound of a round by size, and whether it is the bound of the setting. A bound lower than the last one is
    /// announced.
    pub fn bound(&self, wanted: i64) -> (i64, bool) {
        match self.bytes_max {
            Some(kept) if kept <= wanted => (wanted, true),
            Some(kept) => (kept, false),
            None => (i64::MAX, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a time")
    }

    #[test]
    fn a_round_reaches_two_days_beyond_the_one_before() {
        let cutoff = at("2026-10-01T00:00:00Z");
        let ledger = Ledger { cutoff: Some(cutoff), ..Ledger::default() };
        for (wanted, before, all) in [
            ("2026-09-01T00:00:00Z", "2026-09-01T00:00:00Z", true),
            ("2026-10-01T01:00:00Z", "2026-10-01T01:00:00Z", true),
            ("2026-10-03T00:00:00Z", "2026-10-03T00:00:00Z", true),
            ("2026-10-03T00:00:01Z", "2026-10-03T00:00:00Z", false),
            ("2027-10-03T00:00:01Z", "2026-10-03T00:00:00Z", false),
        ] {
            assert_eq!(ledger.reach(at(wanted)), Reach { before: Some(at(before)), all }, "{wanted}");
        }
        assert_eq!(Ledger::default().reach(cutoff), Reach { before: None, all: false });
    }

    #[test]
    fn a_lower_bound_waits_and_a_higher_one_does_not() {
        let ledger = Ledger { bytes_max: Some(100), ..Ledger::default() };
        assert_eq!((ledger.bound(100), ledger.bound(200), ledger.bound(99)), ((100, true), (200, true), (100, false)));
        assert_eq!(Ledger::default().bound(5), (i64::MAX, false));
    }

    #[test]
    fn an_announcement_needs_a_day_of_rounds_or_a_word() {
        let mut now = at("2026-10-01T00:00:00Z");
        let mut announcement = Announcement::carried_on(None, 30, now);
        assert!(!announcement.is_over());
        assert!(Announcement { confirmed: true, ..announcement }.is_over());
        // A clock that jumps forward by a month counts as one step, and one that jumps back as none.
        for step in [TimeDelta::days(31), TimeDelta::days(-31)] {
            announcement = Announcement::carried_on(Some(announcement), 30, now + step);
        }
        assert_eq!(announcement.seconds, NOTICE_STEP_MAX.num_seconds());
        for hour in 2..24 {
            assert!(!announcement.is_over(), "{hour}");
            now += TimeDelta::hours(1);
            announcement = Announcement { seen_at: now - TimeDelta::hours(1), ..announcement };
            announcement = Announcement::carried_on(Some(announcement), 30, now);
        }
        assert!(announcement.is_over());
        assert!(!Announcement::carried_on(Some(announcement), 29, now).is_over(), "another setting is announced anew");
    }
}
