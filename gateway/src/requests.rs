//! What was asked and answered, by kind of path: a request pays two uncontended additions for it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use eye_event::figures::{DURATION_BOUNDS_US, Histogram};
use hyper::StatusCode;

/// The kinds of paths by which requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// Sending.
    Events,
    /// Reading what was stored.
    Read,
    /// How the gateway does: its validators, health and figures.
    Running,
    /// No path of the gateway.
    Unknown,
}

impl RouteClass {
    /// All, in the order of the figures.
    pub const ALL: [Self; 4] = [Self::Events, Self::Read, Self::Running, Self::Unknown];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Read => "read",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// The status codes that are counted apart.
const STATUSES: [&str; 18] = [
    "200", "201", "202", "207", "400", "401", "403", "404", "405", "408", "409", "413", "415", "422", "429", "431",
    "500", "503",
];
/// Counted last: another status, and none, because the sender went away before its answer.
const OTHERS: [&str; 2] = ["other", "none"];

/// What was asked and answered so far.
#[derive(Debug)]
pub struct Requests([ClassFigures; RouteClass::ALL.len()]);

#[derive(Debug)]
struct ClassFigures {
    answered: [AtomicU64; STATUSES.len() + OTHERS.len()],
    /// From the end of the head to the begin of the answer, in microseconds.
    took_us: Histogram,
}

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| ClassFigures {
            answered: std::array::from_fn(|_| AtomicU64::new(0)),
            took_us: Histogram::new(DURATION_BOUNDS_US),
        }))
    }
}

impl Requests {
    /// How many requests of a kind had each status, of those that any had.
    pub fn statuses(&self, class: RouteClass) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0[class as usize].answered.iter().map(|count| count.load(Relaxed));
        STATUSES.into_iter().chain(OTHERS).zip(counts).filter(|(_, count)| *count > 0)
    }

    /// How long requests of a kind took, in microseconds.
    pub fn took_us(&self, class: RouteClass) -> &Histogram {
        &self.0[class as usize].took_us
    }
}

/// A request that is being answered; counted when it is dropped, whatever became of it.
pub(crate) struct RequestTimer<'a> {
    pub(crate) requests: &'a Requests,
    pub(crate) class: RouteClass,
    pub(crate) began: Instant,
    pub(crate) status: Option<StatusCode>,
}

impl Drop for RequestTimer<'_> {
    fn drop(&mut self) {
        let figures = &self.requests.0[self.class as usize];
        let place = match self.status {
            Some(status) => STATUSES.binary_search(&status.as_str()).unwrap_or(STATUSES.len()),
            // The server answers 500 in place of what panicked.
            None if std::thread::panicking() => STATUSES.len() - 2,
            None => STATUSES.len() + 1,
        };
        figures.answered[place].fetch_add(1, Relaxed);
        if self.status.is_some() {
            figures.took_us.record_time(self.began.elapsed());
        }
    }
}
