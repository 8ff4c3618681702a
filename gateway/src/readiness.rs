//! Whether requests should be sent here, for anybody who asks: the database is asked by one of them at a time, and what
//! it said holds for a moment, so that a flood of questions costs the gateway none of its connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use eye_judge::{Doubts, Validators};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::retention::Retention;
use crate::retention::due::Rule;
use crate::store::Store;
use crate::trust::Trust;

/// For how long an answer of the database holds.
const FRESH: Duration = Duration::from_millis(250);

/// What decides whether a gateway is ready.
#[derive(Debug)]
pub struct Readiness {
    /// Whether the database answers, and what is wrong with it.
    pub store: Store,
    /// Whether the applications are known.
    pub trust: Arc<Trust>,
    /// Whether the modules were tried.
    pub validators: Validators,
    /// Whether anything keeps retention from removing what is due.
    pub retention: Arc<Retention>,
    /// Modules that cannot be loaded, or are missing, keep the gateway from being ready.
    pub requires_modules: bool,
    migrated: AtomicBool,
    draining: AtomicBool,
    answered: CachedAnswer,
}

impl Readiness {
    /// Of a gateway that begins.
    pub fn new(
        store: Store,
        trust: Arc<Trust>,
        validators: Validators,
        retention: Arc<Retention>,
        requires_modules: bool,
    ) -> Self {
        let (migrated, draining, answered) = Default::default();
        Self { store, trust, validators, retention, requires_modules, migrated, draining, answered }
    }

    /// The schema is known to serve this program.
    pub fn set_migrated(&self) {
        self.migrated.store(true, Relaxed);
    }

    /// Whether that is so.
    pub fn is_migrated(&self) -> bool {
        self.migrated.load(Relaxed)
    }

    /// The gateway stops.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Asks all parts whether they are ready.
    pub async fn look(&self) -> Ready {
        self.look_with(self.answered.look(async || self.store.ready().await).await)
    }

    /// The same when it is known whether the database answers.
    pub fn look_with(&self, answers: bool) -> Ready {
        Ready {
            database: answers,
            schema: self.is_migrated(),
            applications: self.trust.known(),
            validators: self.validators.scanned(),
            doubts: self.validators.doubts(),
            clocks_differ: self.retention.clocks_differ(),
            trimming_announced: Rule::ALL.into_iter().any(|rule| self.retention.is_announced(rule)),
            requires_modules: self.requires_modules,
            draining: self.draining.load(Relaxed),
        }
    }

    /// Whether it is ready, and what `/readyz` says of it.
    pub async fn report(&self) -> (bool, Value) {
        let ready = self.look().await;
        let mut report = serde_json::json!({
            "ready": ready.ready(),
            "reasons": ready.reasons(),
            "degraded": ready.degraded(),
            "database": ready.stands_on_database(),
            "validators": ready.validators,
            "draining": ready.draining,
        });
        if let Some(problem) = self.store.problem() {
            report["problem"] = format!("the database cannot be used: {problem}").into();
        }
        (ready.ready(), report)
    }
}

/// Why a gateway is ready, or not.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The database answers and takes writes.
    pub database: bool,
    /// It has the current schema.
    pub schema: bool,
    /// The applications are known.
    pub applications: bool,
    /// The modules directory was scanned once, and each file tried.
    pub validators: bool,
    /// What is closed, or stands in for something else, in the modules directory.
    pub doubts: Doubts,
    /// This gateway's clock and the database's differ by more than they may, so nothing is trimmed.
    pub clocks_differ: bool,
    /// Retention has announced a removal.
    pub trimming_announced: bool,
    /// Modules that cannot be loaded, with nothing in their place, or must be there and are not, keep the gateway from
    /// being ready.
    pub requires_modules: bool,
    /// The gateway stops.
    pub draining: bool,
}

impl Ready {
    /// Whether requests should be sent here.
    pub fn ready(self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether events can be written at all.
    pub fn stands_on_database(self) -> bool {
        self.database && self.schema && self.applications
    }

    /// The names of what keeps requests away. They tell nothing of what the gateway holds, since anybody may ask.
    pub fn reasons(self) -> Vec<&'static str> {
        let reasons = [
            (!self.database, "database"),
            (!self.schema, "schema"),
            (!self.applications, "applications"),
            (!self.validators, "modules_loading"),
            (self.requires_modules && self.doubts.unavailable > 0, REFUSED_MODULES),
            (self.requires_modules && self.doubts.missing > 0, MISSING_MODULES),
            (self.draining, "draining"),
        ];
        named(reasons)
    }

    /// The names of what is closed or stands in for something else, while all else is served.
    pub fn degraded(self) -> Vec<&'static str> {
        let Doubts { refused, loading: _, unavailable, lost, missing, unreadable } = self.doubts;
        named([
            (refused > 0 || unavailable > 0, REFUSED_MODULES),
            (missing > 0, MISSING_MODULES),
            (lost > 0, "lost_modules"),
            (unreadable, "unreadable_modules"),
            (self.clocks_differ, "clock_skew"),
            (self.trimming_announced, "trimming_announced"),
        ])
    }
}

/// The name of modules that are there and cannot be loaded.
const REFUSED_MODULES: &str = "refused_modules";

/// The name of modules that must be there, by the setting `require_module`, and are not.
const MISSING_MODULES: &str = "missing_modules";

fn named<const N: usize>(names: [(bool, &'static str); N]) -> Vec<&'static str> {
    names.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
}

/// The last answer to a question that many ask.
#[derive(Debug, Default)]
struct CachedAnswer(Mutex<Option<(Instant, bool)>>);

impl CachedAnswer {
    /// The last answer if it is fresh; otherwise one of those who wait asks, and all get what it is told.
    async fn look(&self, ask: impl AsyncFnOnce() -> bool) -> bool {
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
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn each_reason_has_a_name_and_refused_modules_are_one_where_that_is_asked_for() {
        let doubts = Doubts { refused: 1, unavailable: 1, ..Doubts::default() };
        let readiness = Ready {
            database: true,
            schema: true,
            applications: true,
            validators: true,
            doubts,
            clocks_differ: false,
            trimming_announced: false,
            requires_modules: false,
            draining: false,
        };
        assert_eq!((readiness.ready(), readiness.degraded()), (true, vec!["refused_modules"]));
        let required = Ready { requires_modules: true, ..readiness };
        assert_eq!((required.ready(), required.reasons()), (false, vec!["refused_modules"]));
        let missing = Ready { doubts: Doubts { missing: 1, ..Doubts::default() }, ..required };
        assert_eq!((missing.reasons(), missing.degraded()), (vec!["missing_modules"], vec!["missing_modules"]));
        let doubts = Doubts { unavailable: 0, lost: 3, unreadable: true, ..doubts };
        let serving = Ready { doubts, ..required };
        assert!(serving.ready(), "what served last stands in for it");
        assert_eq!(serving.degraded(), ["refused_modules", "lost_modules", "unreadable_modules"]);
        let clocks = Ready { doubts: Doubts::default(), clocks_differ: true, trimming_announced: true, ..readiness };
        assert_eq!((clocks.ready(), clocks.degraded()), (true, vec!["clock_skew", "trimming_announced"]));
        let nothing =
            Ready { database: false, schema: false, applications: false, validators: false, draining: true, ..serving };
        assert_eq!(nothing.reasons(), ["database", "schema", "applications", "modules_loading", "draining"]);
    }

    #[tokio::test]
    async fn a_flood_of_questions_asks_once() {
        let (answer, asked) = (CachedAnswer::default(), AtomicUsize::new(0));
        let look = || {
            answer.look(async || {
                asked.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
                true
            })
        };
        let answers = futures_util::future::join_all((0..1_000).map(|_| look())).await;
        assert!(answers.into_iter().all(|answer| answer));
        // It asks again only if the machine took longer than the answer holds.
        assert!(asked.load(Relaxed) < 10, "{asked:?}");
    }
}
