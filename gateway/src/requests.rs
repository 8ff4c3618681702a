//! Counters and durations of requests, by class of path. Each request pays two uncontended additions for them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use eye_event::figures::{DURATION_BOUNDS_US, Histogram};
use hyper::StatusCode;

/// The classes of paths by which the gateway counts requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteClass {
    /// Paths that take events.
    Events,
    /// Paths that read events back.
    Read,
    /// Validators, health and metrics of the gateway.
    Running,
    /// A path that the gateway does not have.
    Unknown,
}

impl RouteClass {
    /// All classes. The counters have this order.
    pub const ALL: [Self; 4] = [Self::Events, Self::Read, Self::Running, Self::Unknown];

    /// The label of the class in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Read => "read",
            Self::Running => "running",
            Self::Unknown => "unknown",
        }
    }
}

/// The status codes that have counters of their own, sorted.
const STATUSES: [&str; 18] = [
    "200", "201", "202", "207", "400", "401", "403", "404", "405", "408", "409", "413", "415", "422", "429", "431",
    "500", "503",
];
/// The last two counters: any other status, and no status, because the sender left before its answer.
const OTHERS: [&str; 2] = ["other", "none"];

/// The counters of all requests so far. The router writes them; each scrape reads them.
#[derive(Debug)]
pub struct Requests([ClassFigures; RouteClass::ALL.len()]);

#[derive(Debug)]
struct ClassFigures {
    answered: [AtomicU64; STATUSES.len() + OTHERS.len()],
    /// From the end of the head to the start of the answer, in microseconds.
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
    /// Returns the statuses of a class, each with its count. All are there from the start, so that a counter is seen to grow
    /// with its first request.
    pub fn statuses(&self, class: RouteClass) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0[class as usize].answered.iter().map(|count| count.load(Relaxed));
        STATUSES.into_iter().chain(OTHERS).zip(counts)
    }

    /// The durations of the requests of a class, in microseconds.
    pub fn took_us(&self, class: RouteClass) -> &Histogram {
        &self.0[class as usize].took_us
    }
}

/// A request that the gateway is answering. Its drop counts it, so that no way out is missed.
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
            // The server answers 500 when a handler panics.
            None if std::thread::panicking() => STATUSES.len() - 2,
            None => STATUSES.len() + 1,
        };
        figures.answered[place].fetch_add(1, Relaxed);
        if self.status.is_some() {
            figures.took_us.record_time(self.began.elapsed());
        }
    }
}
