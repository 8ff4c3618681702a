//! Whether requests should be sent here, for anybody who asks: the database is asked by one of them at a time, and what
//! it said holds for a moment, so that a flood of questions costs the gateway none of its connections.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// For how long an answer of the database holds.
const FRESH: Duration = Duration::from_millis(250);

/// Why a gateway is ready, or not.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// The database answers and has the current schema, and the applications are known.
    pub database: bool,
    /// The modules directory was scanned once.
    pub validators: bool,
    /// The gateway stops.
    pub draining: bool,
}

impl Readiness {
    /// Whether requests should be sent here.
    pub fn ready(self) -> bool {
        self.database && self.validators && !self.draining
    }
}

/// The last answer to a question that many ask.
#[derive(Debug, Default)]
pub(super) struct Glance(Mutex<Option<(Instant, bool)>>);

impl Glance {
    /// The last answer if it is fresh; otherwise one of those who wait asks, and all get what it is told.
    pub(super) async fn look(&self, ask: impl AsyncFnOnce() -> bool) -> bool {
        let mut last = self.0.lock().await;
        match *last {
            Some((at, answer)) if at.elapsed() < FRESH => answer,
            _ => {
                let answer = ask().await;
                *last = Some((Instant::now(), answer));
                answer
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_flood_of_questions_asks_once() {
        let (glance, asked) = (Glance::default(), AtomicUsize::new(0));
        let look = || {
            glance.look(async || {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                true
            })
        };
        let answers = futures_util::future::join_all((0..1_000).map(|_| look())).await;
        assert!(answers.into_iter().all(|answer| answer));
        // It asks again only if the machine took longer than the answer holds.
        assert!(asked.load(Ordering::Relaxed) < 10, "{asked:?}");
    }
}
