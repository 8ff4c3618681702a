//! The parts that last as long as a gateway, the router that is made of them and of the settings, and how both take the
//! settings of a reload.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use eye_event::event::EventRow;
use eye_judge::Validators;
use tokio::sync::{Mutex, Semaphore};

use super::{Gateway, connections_max};
use crate::access_log::AccessLog;
use crate::applications::Applications;
use crate::batch::Batcher;
use crate::body::BodyLimits;
use crate::candidates::Candidates;
use crate::clock::Clock;
use crate::config::parts::{self, Changeable};
use crate::config::{Config, Settings};
use crate::cors::Cors;
use crate::dead_letters::DeadLetters;
use crate::duties::Duties;
use crate::fleet::Fleet;
use crate::ingest::Ingest;
use crate::jobs::{JobSettings, Jobs};
use crate::judging::Judges;
use crate::live::Live;
use crate::metrics::{Disk, Metrics};
use crate::panel::{Panel, SignIns};
use crate::promotion::Promotion;
use crate::query::replay::Replaying;
use crate::query::{Query, Redriving, Streams};
use crate::readiness::Readiness;
use crate::reload::{Apply, Reload};
use crate::requests::Requests;
use crate::response::UnsentAnswers;
use crate::retention::Retention;
use crate::router::{Monitoring, Router};
use crate::scrub::ScrubSettings;
use crate::server::{Admission, Connections, LimitsInForce, ServerLimits};
use crate::share::Budget;
use crate::shipping::{MODULE_BYTES_MAX, Shipping};
use crate::store::{Store, Upkeep};
use crate::tally::Tallies;
use crate::telemetry;
use crate::tending::Tending;
use crate::tls::Prepared;
use crate::trail::Trail;
use crate::trust::Trust;
use crate::turns::Turns;
use crate::webhook::Webhook;

/// Most connections to `admin_listen`, the address for reads and administration.
const ADMIN_CONNECTIONS_MAX: usize = 1_024;
/// The time for a running scrape to finish when the gateway stops.
const MONITORING_DRAIN: Duration = Duration::from_secs(1);

/// The bounds of the connections to each address, and how long they stay open when the gateway stops.
pub(super) struct Doors {
    /// The address `listen`.
    pub(super) whole: Arc<LimitsInForce>,
    /// The address `admin_listen`.
    pub(super) admin: Arc<LimitsInForce>,
    /// The address `metrics_listen`.
    pub(super) monitoring: Arc<LimitsInForce>,
    drain_delay_ms: ArcSwap<Option<u64>>,
}

impl Doors {
    pub(super) fn new(limits: ServerLimits, drain_delay_ms: Option<u64>) -> Self {
        let [whole, admin, monitoring] = of_each(limits).map(|limits| Arc::new(LimitsInForce::new(limits)));
        Self { whole, admin, monitoring, drain_delay_ms: ArcSwap::from_pointee(drain_delay_ms) }
    }

    fn change(&self, limits: ServerLimits, drain_delay_ms: Option<u64>) {
        for (door, limits) in [&self.whole, &self.admin, &self.monitoring].into_iter().zip(of_each(limits)) {
            door.set(limits);
        }
        self.drain_delay_ms.store(Arc::new(drain_delay_ms));
    }
}

/// The bounds of the three addresses.
fn of_each(limits: ServerLimits) -> [ServerLimits; 3] {
    let admin = limits.connections_max.min(ADMIN_CONNECTIONS_MAX);
    let monitoring = parts::MONITORING_CONNECTIONS_MAX;
    [
        limits,
        ServerLimits { connections_max: admin, ..limits },
        ServerLimits { connections_max: monitoring, drain: MONITORING_DRAIN, ..limits },
    ]
}

/// The room and the turn of pushes.
pub(super) struct Ships {
    room: Arc<Budget>,
    loading: Arc<Mutex<()>>,
    turn: Arc<Mutex<()>>,
}

impl Default for Ships {
    /// Room for two modules of the largest size, or for more smaller ones.
    fn default() -> Self {
        let room = Budget::new((MODULE_BYTES_MAX / 1024 + 1) * 2, 50);
        Self { room, loading: Arc::default(), turn: Arc::default() }
    }
}

/// The parts that last as long as the gateway.
pub(super) struct Lasting {
    pub(super) store: Store,
    pub(super) validators: Validators,
    pub(super) clock: Arc<Clock>,
    pub(super) trust: Arc<Trust>,
    pub(super) in_flight: Arc<Budget>,
    pub(super) events: Batcher<EventRow>,
    pub(super) dead_letters: Arc<DeadLetters>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) live: Arc<Live>,
    pub(super) turns: Arc<Turns>,
    pub(super) unsent: Arc<UnsentAnswers>,
    pub(super) streams: Arc<Streams>,
    /// The turn of the request that redrives.
    pub(super) redriving: Arc<Semaphore>,
    /// Whether the gateway has a panel.
    pub(super) panel: bool,
    pub(super) sign_ins: Arc<SignIns>,
    pub(super) requests: Arc<Requests>,
    pub(super) jobs: Arc<Jobs>,
    pub(super) duties: Arc<Duties>,
    pub(super) candidates: Arc<Candidates>,
    pub(super) webhook: Arc<Webhook>,
    pub(super) promotion: Arc<Promotion>,
    pub(super) tending: Arc<Tending>,
    pub(super) retention: Arc<Retention>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) upkeep: Arc<ArcSwapOption<Upkeep>>,
    pub(super) connections: Arc<Connections>,
    pub(super) admission: Arc<Admission>,
    pub(super) doors: Doors,
    pub(super) access_log: Arc<AccessLog>,
    pub(super) trail: Arc<Trail>,
    pub(super) reload: Arc<Reload>,
    /// The folder whose disk the metrics show.
    pub(super) data_dir: PathBuf,
    /// The modules directory.
    pub(super) modules_dir: PathBuf,
    pub(super) ships: Ships,
    pub(super) fleet: Arc<Fleet>,
    pub(super) began_at_us: i64,
}

impl Lasting {
    /// The router of requests that begin with these settings and this handle of the validators.
    pub(super) fn router(&self, settings: &Changeable, validators: Validators) -> Router {
        let requests = &settings.requests;
        let cors = Arc::new(Cors::new(requests.cors_origins.clone()));
        let judges = judges(settings, &self.store, validators.clone());
        let store = self.store.clone().with_read_wait(requests.read_wait);
        let ingest = Ingest {
            limits: requests.ingest,
            trust: Arc::clone(&self.trust),
            cors: Arc::clone(&cors),
            in_flight: Arc::clone(&self.in_flight),
            clock: Arc::clone(&self.clock),
            judges: judges.clone(),
            events: self.events.clone(),
            dead_letters: Arc::clone(&self.dead_letters),
            tallies: Arc::clone(&self.tallies),
            live: Arc::clone(&self.live),
            turns: Arc::clone(&self.turns),
            unsent: Arc::clone(&self.unsent),
        };
        let query = Query {
            store: store.clone(),
            clock: Arc::clone(&self.clock),
            turns: Arc::clone(&self.turns),
            streams: Arc::clone(&self.streams),
            page_bytes_max: requests.page_bytes_max,
            redriving: Redriving {
                judges,
                events: self.events.clone(),
                body_limits: requests.ingest.body,
                in_flight: Arc::clone(&self.in_flight),
                answer: requests.ingest.answer,
                turn: Arc::clone(&self.redriving),
            },
            replaying: self.replaying(requests.ingest.body),
        };
        let applications = Applications {
            store,
            trust: Arc::clone(&self.trust),
            body_limits: requests.ingest.body,
            in_flight: Arc::clone(&self.in_flight),
        };
        let panel = Panel {
            enabled: self.panel,
            secure: settings.tls.is_some(),
            store: self.store.clone(),
            trust: Arc::clone(&self.trust),
            body_limits: requests.ingest.body,
            in_flight: Arc::clone(&self.in_flight),
            sign_ins: Arc::clone(&self.sign_ins),
        };
        Router {
            headers_max: requests.headers_max,
            cors,
            trust: Arc::clone(&self.trust),
            requests: Arc::clone(&self.requests),
            access_log: Arc::clone(&self.access_log),
            unsent: Arc::clone(&self.unsent),
            ingest,
            query,
            applications,
            shipping: self.shipping(settings, validators.clone()),
            panel,
            live: Arc::clone(&self.live),
            reload: Arc::clone(&self.reload),
            trail: Arc::clone(&self.trail),
            monitoring: Monitoring {
                metrics: self.metrics(settings, validators),
                readiness: Arc::clone(&self.readiness),
            },
        }
    }

    fn shipping(&self, settings: &Changeable, validators: Validators) -> Shipping {
        Shipping {
            store: self.store.clone(),
            validators,
            fleet: Arc::clone(&self.fleet),
            modules_dir: self.modules_dir.clone(),
            data_dir: self.data_dir.clone(),
            body_limits: settings.requests.ingest.body,
            room: Arc::clone(&self.ships.room),
            loading: Arc::clone(&self.ships.loading),
            turn: Arc::clone(&self.ships.turn),
        }
    }

    fn replaying(&self, body_limits: BodyLimits) -> Replaying {
        Replaying {
            modules_from: self.fleet.modules_from(),
            body_limits,
            room: Arc::clone(&self.ships.room),
            loading: Arc::clone(&self.ships.loading),
        }
    }

    fn metrics(&self, settings: &Changeable, validators: Validators) -> Metrics {
        Metrics {
            store: self.store.clone(),
            requests: Arc::clone(&self.requests),
            tallies: Arc::clone(&self.tallies),
            events: self.events.clone(),
            dead_letters: Arc::clone(&self.dead_letters),
            jobs: Arc::clone(&self.jobs),
            in_flight: Arc::clone(&self.in_flight),
            unsent: Arc::clone(&self.unsent),
            retention: Arc::clone(&self.retention),
            trail: Arc::clone(&self.trail),
            trust: Arc::clone(&self.trust),
            validators,
            live: Arc::clone(&self.live),
            candidates: Arc::clone(&self.candidates),
            webhook: Arc::clone(&self.webhook),
            promotion: Arc::clone(&self.promotion),
            connections: Arc::clone(&self.connections),
            connections_max: settings.connections.connections_max,
            admission: Arc::clone(&self.admission),
            readiness: Arc::clone(&self.readiness),
            upkeep: Arc::clone(&self.upkeep),
            dead_letters_bytes_max: settings.retention.dead_letters_bytes_max,
            disk: Disk::of(self.data_dir.clone()),
            began_at_us: self.began_at_us,
        }
    }
}

/// Judges events by these settings.
fn judges(settings: &Changeable, store: &Store, validators: Validators) -> Judges {
    let requests = &settings.requests;
    Judges {
        validators,
        store: store.clone().with_read_wait(requests.read_wait),
        rules: requests.rules,
        raw_bytes_max: requests.dead_letter_raw_bytes_max,
        event_types_max: requests.event_types_max,
    }
}

/// The settings of jobs.
pub(super) fn job_settings(settings: &Changeable, store: &Store, validators: Validators) -> JobSettings {
    JobSettings {
        judges: judges(settings, store, validators),
        time: settings.requests.ingest.answer,
        unseen_per_second_max: settings.requests.rejudge_events_per_second_max,
    }
}

/// The settings of the task that scrubs dead letters.
pub(super) fn scrub_settings(settings: &Changeable) -> ScrubSettings {
    ScrubSettings { limits: settings.scrub, rules: settings.requests.rules }
}

impl Gateway {
    /// How long the gateway still accepts connections when it stops.
    pub(super) fn drain_delay(&self, config: &Config) -> Duration {
        parts::drain_delay(config, **self.lasting.doors.drain_delay_ms.load())
    }

    /// Makes all of a reload that can fail. The result puts it in force.
    pub(super) fn prepare(self: Arc<Self>, settings: &Settings) -> Result<Apply, Vec<String>> {
        let config = settings.config();
        let mut problems = self.late_modules(config.answer_ms);
        let most = connections_max(&config).map_err(|error| problems.push(format!("connections_max: {error:#}")));
        let tls = self.lasting.admission.tls.prepare(parts::tls_files(&config));
        let tls = tls.map_err(|error| problems.push(format!("{}: {error}", settings.origin("tls_certificate"))));
        match (most, tls) {
            (Ok(connections_max), Ok(tls)) if problems.is_empty() => {
                let changeable = parts::changeable(&Config { connections_max, ..config });
                Ok(Box::new(move || self.apply(changeable, tls)))
            }
            _ => Err(problems),
        }
    }

    /// The modules whose own settings let them judge until after the answer.
    fn late_modules(&self, answer_ms: u64) -> Vec<String> {
        let reports = self.lasting.validators.report();
        let late = reports.iter().filter(|report| report.digest.is_some() && report.limits.deadline_ms >= answer_ms);
        let told = |report: &eye_judge::TypeReport| {
            format!(
                "answer_ms must be more than {}, the deadline_ms of the module of {}: no answer would be in time",
                report.limits.deadline_ms, report.event_type
            )
        };
        late.map(told).collect()
    }

    /// Puts these settings in force. It names each field, so that none is forgotten. The router comes last: a request
    /// that begins with it finds all other parts changed.
    fn apply(&self, settings: Changeable, tls: Prepared) -> Vec<&'static str> {
        let lasting = &self.lasting;
        let validators =
            lasting.validators.change(parts::validators_change(&settings.judging, settings.requests.rules));
        let router = lasting.router(&settings, validators.clone());
        let jobs = job_settings(&settings, &lasting.store, validators);
        lasting.tending.scrub.store(Arc::new(scrub_settings(&settings)));
        let Changeable {
            log_level,
            access_log,
            connections,
            drain_delay_ms,
            tls: _proved,
            proxying,
            callers,
            requests,
            judging: _given,
            queue,
            rooms,
            live,
            retention,
            retention_every,
            scrub: _stored,
            ready_requires_modules,
            guard_minutes,
            notified,
        } = settings;
        telemetry::set_level(&log_level);
        lasting.access_log.set(access_log);
        let files = lasting.admission.tls.put_in_force(tls);
        lasting.admission.set_rules(proxying);
        lasting.trust.set_rules(callers);
        lasting.doors.change(connections, drain_delay_ms);
        lasting.events.set_limits(queue);
        lasting.dead_letters.batcher().set_limits(queue);
        let share = rooms.share_percent;
        lasting.in_flight.resize(rooms.in_flight_bytes_max / 1024, share);
        lasting.unsent.resize(rooms.answers_bytes_max, share);
        lasting.dead_letters.change(queue.events_max, rooms.dead_letter_queue_bytes_max, share);
        lasting.streams.change(rooms.streams_max, share, rooms.stream_stall);
        lasting.turns.change(share, requests.read_wait);
        lasting.live.set_limits(live);
        lasting.store.set_partitions_on_demand(retention.event_partitions_max, retention.events_days);
        lasting.retention.change(retention, retention_every);
        lasting.readiness.set_requires_modules(ready_requires_modules);
        lasting.candidates.set_guard_minutes(guard_minutes);
        lasting.fleet.set_guard_minutes(guard_minutes);
        lasting.webhook.set(notified);
        lasting.jobs.settings.store(Arc::new(jobs));
        self.router.store(Arc::new(router));
        files
    }
}
