//! Decides whether requests should be sent to this gateway, for `/readyz`, which anybody may ask. One request at a time
//! asks the database, and its answer holds for a moment, so that a flood of requests takes no connections to the
//! database.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use eye_judge::{Doubts, Validators};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::fleet::Fleet;
use crate::retention::Retention;
use crate::retention::due::Rule;
use crate::store::Store;
use crate::systemd::ServiceManager;
use crate::trust::Trust;

/// How long an answer of the database holds.
const FRESH: Duration = Duration::from_millis(250);
/// The pause between two checks of a starting gateway.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The pause between two updates of the status at the service manager.
const STATUS_LOOK: Duration = Duration::from_secs(1);

/// The parts that decide whether the gateway is ready. The router and the metrics ask it.
#[derive(Debug)]
pub struct Readiness {
    /// The database: whether it answers, and its problem if it does not.
    pub store: Store,
    /// The applications: whether they have been read.
    pub trust: Arc<Trust>,
    /// The modules: whether each file has been tried.
    pub validators: Validators,
    /// Retention: whether it holds back a removal that is due.
    pub retention: Arc<Retention>,
    /// The fleet: whether this gateway serves the current generation.
    pub fleet: Arc<Fleet>,
    /// The setting `ready_requires_modules`: missing modules, and modules that cannot be loaded, make the gateway not
    /// ready.
    requires_modules: AtomicBool,
    migrated: AtomicBool,
    draining: AtomicBool,
    answered: CachedAnswer,
}

impl Readiness {
    /// The readiness of a gateway that starts: the schema is not proved yet.
    pub fn new(
        store: Store,
        trust: Arc<Trust>,
        validators: Validators,
        retention: Arc<Retention>,
        fleet: Arc<Fleet>,
        requires_modules: bool,
    ) -> Self {
        let (migrated, draining, answered) = Default::default();
        let requires_modules = AtomicBool::new(requires_modules);
        Self { store, trust, validators, retention, fleet, requires_modules, migrated, draining, answered }
    }

    /// Changes `ready_requires_modules`.
    pub fn set_requires_modules(&self, requires_modules: bool) {
        self.requires_modules.store(requires_modules, Relaxed);
    }

    /// Records that the schema serves this program.
    pub fn set_migrated(&self) {
        self.migrated.store(true, Relaxed);
    }

    /// Whether the schema serves this program. Tasks that need tables wait for it.
    pub fn is_migrated(&self) -> bool {
        self.migrated.load(Relaxed)
    }

    /// Records that the gateway drains.
    pub fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Asks all parts, and the database if its last answer is too old.
    pub async fn look(&self) -> Ready {
        self.look_with(self.answered.look(async || self.store.ready().await).await)
    }

    /// Asks all parts except the database, whose answer the caller has.
    pub fn look_with(&self, answers: bool) -> Ready {
        Ready {
            database: answers,
            schema: self.is_migrated(),
            applications: self.trust.known(),
            validators: self.validators.scanned(),
            behind: self.fleet.is_behind(),
            doubts: self.validators.doubts(),
            clocks_differ: self.retention.clocks_differ(),
            trimming_announced: Rule::ALL.into_iter().any(|rule| self.retention.is_announced(rule)),
            requires_modules: self.requires_modules.load(Relaxed),
            draining: self.draining.load(Relaxed),
        }
    }

    /// Waits until the gateway is ready.
    pub async fn first_ready(&self) {
        while !self.look().await.ready() {
            sleep(FIRST_LOOK).await;
        }
    }

    /// Keeps the status at the service manager current. Without a service manager it only waits.
    pub async fn report_to(&self, manager: &ServiceManager) -> Infallible {
        while manager.is_there() {
            manager.status(&self.summary().await).await;
            sleep(STATUS_LOOK).await;
        }
        pending().await
    }

    /// Says in one line whether the gateway is ready.
    async fn summary(&self) -> String {
        let ready = self.look().await;
        let listed = |names: Vec<&str>| names.join(", ");
        match (ready.ready(), self.store.problem()) {
            (true, _) if ready.degraded().is_empty() => "Ready".to_owned(),
            (true, _) => format!("Ready, degraded: {}", listed(ready.degraded())),
            (false, None) => format!("Not ready: {}", listed(ready.reasons())),
            (false, Some(problem)) => {
                format!("Not ready: {}; the database cannot be used: {problem}", listed(ready.reasons()))
            }
        }
    }

    /// Returns whether the gateway is ready, and the body of `/readyz`.
    pub async fn report(&self) -> (bool, Value) {
        let ready = self.look().await;
        let mut report = serde_json::json!({
            "ready": ready.ready(),
            "role": self.store.role().as_str(),
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

/// The parts of the answer whether a gateway is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// The database answers and takes writes.
    pub database: bool,
    /// The database has a schema that serves this program.
    pub schema: bool,
    /// The applications have been read.
    pub applications: bool,
    /// The modules directory was scanned once, and each file was tried.
    pub validators: bool,
    /// The gateway knows of a newer generation than the one that it serves, and has for too long.
    pub behind: bool,
    /// Files in the modules directory that were refused, are lost or cannot be read.
    pub doubts: Doubts,
    /// The clocks of this gateway and the database differ by more than `clock_skew_max_s`, so retention removes
    /// nothing.
    pub clocks_differ: bool,
    /// Retention has announced a removal.
    pub trimming_announced: bool,
    /// The setting `ready_requires_modules`.
    pub requires_modules: bool,
    /// The gateway drains.
    pub draining: bool,
}

impl Ready {
    /// Whether requests should be sent here.
    pub fn ready(self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether the gateway can write events.
    pub fn stands_on_database(self) -> bool {
        self.database && self.schema && self.applications
    }

    /// The names of the reasons why the gateway is not ready. They reveal nothing about its content, since anybody may
    /// ask.
    pub fn reasons(self) -> Vec<&'static str> {
        named(self.each_reason())
    }

    /// Each name of [`Ready::reasons`], and whether it holds.
    pub fn each_reason(self) -> [(bool, &'static str); 8] {
        [
            (!self.database, "database"),
            (!self.schema, "schema"),
            (!self.applications, "applications"),
            (!self.validators, "modules_loading"),
            (self.behind, "behind"),
            (self.requires_modules && self.doubts.unavailable > 0, REFUSED_MODULES),
            (self.requires_modules && self.doubts.missing > 0, MISSING_MODULES),
            (self.draining, "draining"),
        ]
    }

    /// The names of the parts that do not work, or work with older modules, while the rest is served.
    pub fn degraded(self) -> Vec<&'static str> {
        named(self.each_degraded())
    }

    /// Each name of [`Ready::degraded`], and whether it holds.
    pub fn each_degraded(self) -> [(bool, &'static str); 6] {
        let Doubts { refused, loading: _, unavailable, lost, missing, unreadable } = self.doubts;
        [
            (refused > 0 || unavailable > 0, REFUSED_MODULES),
            (missing > 0, MISSING_MODULES),
            (lost > 0, "lost_modules"),
            (unreadable, "unreadable_modules"),
            (self.clocks_differ, "clock_skew"),
            (self.trimming_announced, "trimming_announced"),
        ]
    }
}

/// The word for modules whose files were refused.
const REFUSED_MODULES: &str = "refused_modules";

/// The word for modules that `require_module` lists and that are missing.
const MISSING_MODULES: &str = "missing_modules";

fn named<const N: usize>(names: [(bool, &'static str); N]) -> Vec<&'static str> {
    names.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
}

/// The last answer of the database, shared by all requests for `/readyz`.
#[derive(Debug, Default)]
struct CachedAnswer(Mutex<Option<(Instant, bool)>>);

impl CachedAnswer {
    /// Returns the last answer if it is fresh. Otherwise one request asks the database, and all that wait get its
    /// answer.
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
            behind: false,
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
        // A machine so slow that an answer gets too old meanwhile asks again.
        assert!(asked.load(Relaxed) < 10, "{asked:?}");
    }
}
