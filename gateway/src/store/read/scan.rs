//! Divides a range into windows. Events are partitioned by month, and a page over years must not open all months to
//! find its first hundred events. So the walk reads a window of one month, then two, four, and so on. Most pages end in
//! the first, and a walk through empty years takes a few steps.

use chrono::{DateTime, Datelike as _, NaiveDate};

/// After this many windows the last one has the rest of the range.
const WINDOWS_MAX: u32 = 10;

/// A range of time in microseconds since 1970, without its end. `None` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from_us: Option<i64>,
    pub(super) to_us: Option<i64>,
}

/// The windows of a range, in the order of the walk.
#[derive(Debug)]
pub(super) struct Windows {
    /// The rest of the range.
    rest: Option<Window>,
    descending: bool,
    /// The months of the next window.
    months: i32,
    count: u32,
    /// Where the first window of an open range starts.
    origin_us: i64,
}

impl Windows {
    /// The windows of a range. If the range is open where the walk starts, one window covers everything beyond
    /// `origin_us`, which is a time in the first month with events (ascending) or now (descending).
    pub(super) fn new(range: Window, descending: bool, origin_us: i64) -> Self {
        Self { rest: Some(range), descending, months: 0, count: 0, origin_us }
    }

    /// The whole range as one window, for walks whose index finds the events at once.
    pub(super) fn whole(range: Window) -> Self {
        Self { count: WINDOWS_MAX, ..Self::new(range, false, 0) }
    }

    fn edge(&self, rest: Window) -> Option<i64> {
        if self.count >= WINDOWS_MAX {
            return None;
        }
        if self.descending {
            match rest.to_us {
                Some(to_us) => month_start(month_of(to_us.saturating_sub(1))? - self.months),
                None => month_start(month_of(self.origin_us)?),
            }
        } else {
            match rest.from_us {
                Some(from_us) => month_start(month_of(from_us)? + self.months + 1),
                None => month_start(month_of(self.origin_us)?),
            }
        }
    }
}

impl Iterator for Windows {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let rest = self.rest.take()?;
        let edge = self.edge(rest).filter(|edge| {
            rest.from_us.is_none_or(|from_us| from_us < *edge) && rest.to_us.is_none_or(|to_us| *edge < to_us)
        });
        self.count += 1;
        // The window beyond the origin does not count: the first month after it is a window of its own.
        if (if self.descending { rest.to_us } else { rest.from_us }).is_some() {
            self.months = (self.months * 2 + 1).min(1 << WINDOWS_MAX);
        }
        let Some(edge) = edge else { return Some(rest) };
        let (before, after) = (Window { to_us: Some(edge), ..rest }, Window { from_us: Some(edge), ..rest });
        let (now, later) = if self.descending { (after, before) } else { (before, after) };
        self.rest = Some(later);
        Some(now)
    }
}

/// Months since the year 0.
fn month_of(time_us: i64) -> Option<i32> {
    let time = DateTime::from_timestamp_micros(time_us)?;
    Some(time.year() * 12 + i32::try_from(time.month0()).ok()?)
}

fn month_start(month: i32) -> Option<i64> {
    let first = NaiveDate::from_ymd_opt(month.div_euclid(12), u32::try_from(month.rem_euclid(12)).ok()? + 1, 1)?;
    Some(first.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(text: &str) -> i64 {
        text.parse::<DateTime<chrono::Utc>>().expect("a time").timestamp_micros()
    }

    fn words(windows: Windows) -> Vec<String> {
        let word = |time: Option<i64>| {
            let time = time.and_then(DateTime::from_timestamp_micros);
            time.map_or_else(|| "open".to_owned(), |time| time.format("%Y-%m-%d").to_string())
        };
        windows.map(|window| format!("{}..{}", word(window.from_us), word(window.to_us))).collect()
    }

    #[test]
    fn windows_grow_and_cover_the_range_once() {
        let range = Window { from_us: Some(us("2025-11-10T00:00:00Z")), to_us: Some(us("2027-01-05T00:00:00Z")) };
        let ascending =
            ["2025-11-10..2025-12-01", "2025-12-01..2026-02-01", "2026-02-01..2026-06-01", "2026-06-01..2027-01-05"];
        assert_eq!(words(Windows::new(range, false, 0)), ascending);
        let descending =
            ["2027-01-01..2027-01-05", "2026-11-01..2027-01-01", "2026-07-01..2026-11-01", "2025-11-10..2026-07-01"];
        assert_eq!(words(Windows::new(range, true, 0)), descending);
        assert_eq!(words(Windows::whole(range)), ["2025-11-10..2027-01-05"]);
    }

    #[test]
    fn an_open_range_begins_at_its_origin_and_ends() {
        let open = Window { from_us: None, to_us: None };
        let origin = us("2026-11-23T12:00:00Z");
        let descending = words(Windows::new(open, true, origin));
        assert_eq!(descending[..3], ["2026-11-01..open", "2026-10-01..2026-11-01", "2026-08-01..2026-10-01"]);
        assert!(descending.last().is_some_and(|last| last.starts_with("open..")), "{descending:?}");
        let ascending = words(Windows::new(open, false, origin));
        assert_eq!(ascending[..2], ["open..2026-11-01", "2026-11-01..2026-12-01"]);
        assert!(ascending.last().is_some_and(|last| last.ends_with("..open")), "{ascending:?}");
        assert!(ascending.len() <= 12 && descending.len() <= 12);
    }
}
