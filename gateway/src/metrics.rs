//! Answers `/metrics`: each scrape reads the counters that the parts keep for themselves, and writes them under the
//! names of `metrics/names.rs`. Only this module knows Prometheus. Between scrapes it does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;

use crate::batch::Batcher;
use crate::candidates::Candidates;
use crate::dead_letters::DeadLetters;
use crate::jobs::rejudge::RejudgeCounts;
use crate::jobs::{self, Jobs};
use crate::live::Live;
use crate::promotion::Promotion;
use crate::readiness::Readiness;
use crate::requests::{Requests, RouteClass};
use crate::response;
use crate::response::UnsentAnswers;
use crate::retention::Retention;
use crate::retention::due::Rule;
use crate::server::{Admission, Class, Connections};
use crate::share::Budget;
use crate::store::{Duty, Store, TableUpkeep, Upkeep};
use crate::tally::{self, Skew, Tallies};
use crate::telemetry;
use crate::trail::Trail;
use crate::trust::security::Kind;
use crate::trust::{Scope, Trust};
use crate::webhook::Webhook;

mod disk;
mod exposition;
pub mod names;
mod process;

pub use disk::Disk;
use exposition::{Scrape, Value};
use eye_event::event::EventRow;
use eye_event::figures::Distribution;
use eye_event::verdict::{FaultCode, UnfinishedCode};
use eye_judge::{Faults, Standing, State, TypeReport, Validators};

/// The parts whose counters a scrape reads.
#[derive(Debug)]
pub struct Metrics {
    /// The database: its partitions and whether it answers.
    pub store: Store,
    /// Requests by status.
    pub requests: Arc<Requests>,
    /// Events by outcome.
    pub tallies: Arc<Tallies>,
    /// The queue of accepted events.
    pub events: Batcher<EventRow>,
    /// The queue of dead letters.
    pub dead_letters: Arc<DeadLetters>,
    /// The jobs that ended here, the letters that were judged again, and the duties.
    pub jobs: Arc<Jobs>,
    /// The room for bodies in flight, in KiB.
    pub in_flight: Arc<Budget>,
    /// Answers that are not sent yet.
    pub unsent: Arc<UnsentAnswers>,
    /// Removals that retention made or announced.
    pub retention: Arc<Retention>,
    /// Audit entries that were left out.
    pub trail: Arc<Trail>,
    /// Refused callers, by application and network.
    pub trust: Arc<Trust>,
    /// The modules, their verdicts and faults.
    pub validators: Validators,
    /// The readers of the live stream.
    pub live: Arc<Live>,
    /// The candidates.
    pub candidates: Arc<Candidates>,
    /// The messages about what was taken back.
    pub webhook: Arc<Webhook>,
    /// The steps of candidates.
    pub promotion: Arc<Promotion>,
    /// The connections of the listeners.
    pub connections: Arc<Connections>,
    /// Most open connections.
    pub connections_max: usize,
    /// Connections that the gateway refused, and the end of its certificate.
    pub admission: Arc<Admission>,
    /// The readiness of the gateway.
    pub readiness: Arc<Readiness>,
    /// The condition of the tables, as the gateway saw it last; `None` while the database is away.
    pub upkeep: Arc<ArcSwapOption<Upkeep>>,
    /// Most bytes of dead letters.
    pub dead_letters_bytes_max: i64,
    /// The disk of the data directory.
    pub disk: Disk,
    /// The time at which the gateway was built, in microseconds since 1970.
    pub began_at_us: i64,
}

/// Reads all counters now and returns them as text.
pub async fn scrape(own: &Metrics, format: response::Figures) -> String {
    let (partitions, room) = tokio::join!(own.store.partition_counts(), own.disk.room());
    let mut scrape = Scrape::default();
    requests(&mut scrape, own);
    events(&mut scrape, own);
    trimmed(&mut scrape, own);
    queues(&mut scrape, own);
    tables(&mut scrape, own);
    refused(&mut scrape, own);
    modules(&mut scrape, &own.validators.report(), &own.validators.slot_faults());
    judging(&mut scrape, own);
    candidates(&mut scrape, own);
    live(&mut scrape, &own.live);
    running(&mut scrape, own, partitions.is_ok());
    scrape.add(
        &names::PARTITIONS,
        partitions.unwrap_or_default().iter().map(|(table, count)| ([table.as_str()], gauge(*count as f64))),
    );
    scrape.add(&names::DATA_DIR_FREE_BYTES, room.map(|room| ([], gauge(room.free as f64))));
    scrape.add(&names::DATA_DIR_MAX_BYTES, room.map(|room| ([], gauge(room.most as f64))));
    process::add(&mut scrape);
    match format {
        response::Figures::OpenMetrics => scrape.text(),
        response::Figures::Plain => scrape.plain_text(),
    }
}

fn count(counter: &AtomicU64) -> Value {
    Value::Counter(counter.load(Relaxed))
}

fn gauge(value: f64) -> Value {
    Value::Gauge(value)
}

fn histogram(distribution: Distribution) -> Value {
    Value::Histogram(distribution)
}

fn truth(holds: bool) -> Value {
    gauge(f64::from(u8::from(holds)))
}

fn requests(scrape: &mut Scrape, own: &Metrics) {
    let answered = RouteClass::ALL.into_iter().flat_map(|class| {
        let statuses = own.requests.statuses(class);
        statuses.map(move |(status, count)| ([class.as_str(), status], Value::Counter(count)))
    });
    scrape.add(&names::REQUESTS, answered);
    let took =
        RouteClass::ALL.into_iter().map(|class| ([class.as_str()], histogram(own.requests.took_us(class).seconds())));
    scrape.add(&names::REQUEST_SECONDS, took);
}

fn events(scrape: &mut Scrape, own: &Metrics) {
    let mut applications = own.tallies.by_application();
    let mut skewed = own.tallies.skewed_by_application();
    // A counter is there before the first event, so that the first one is seen to be more than none.
    let senders = own.trust.callable().into_iter().filter(|application| application.has(Scope::Ingest));
    for sender in senders.take(tally::APPLICATIONS_MAX.saturating_sub(applications.len())) {
        applications.entry(sender.name.clone()).or_default();
        skewed.entry(sender.name.clone()).or_default();
    }
    let by_application = applications.iter().flat_map(|(application, counts)| {
        tally::counted().map(|(outcome, place)| ([application.as_str(), outcome], Value::Counter(counts[place])))
    });
    scrape.add(&names::EVENTS, by_application);
    let by_skew = skewed.iter().flat_map(|(application, counts)| {
        Skew::ALL.map(|skew| ([application.as_str(), skew.as_str()], Value::Counter(counts[skew as usize])))
    });
    scrape.add(&names::SKEWED_EVENTS, by_skew);
    let types = own.tallies.by_event_type();
    let by_type = types.iter().flat_map(|((category, name), counts)| {
        tally::counted()
            .map(|(outcome, place)| ([category.as_str(), name.as_str(), outcome], Value::Counter(counts[place])))
    });
    scrape.add(&names::EVENT_TYPE_EVENTS, by_type);
    let unfinished = UnfinishedCode::ALL.map(|code| ([code.as_str()], Value::Counter(own.tallies.unfinished(code))));
    scrape.add(&names::UNFINISHED_EVENTS, unfinished);
    scrape.add(&names::DEAD_LETTERS_KEPT, [([], count(&own.dead_letters.batcher().figures().stored))]);
    let again = RejudgeCounts::OUTCOMES.into_iter().zip(own.jobs.counts.counts());
    scrape.add(&names::LETTERS_JUDGED_AGAIN, again.map(|(outcome, count)| ([outcome.as_str()], Value::Counter(count))));
    scrape.add(&names::ACCESS_LOG_DROPPED, [([], Value::Counter(telemetry::access_lines_dropped()))]);
    scrape.add(&names::DEAD_LETTERS_DROPPED, [([], Value::Counter(own.dead_letters.trimmed()))]);
}

fn queues(scrape: &mut Scrape, own: &Metrics) {
    let (events, letters) = (&own.events, own.dead_letters.batcher());
    let both =
        |of: fn(Queue<'_>) -> Value| [Queue::of(events), Queue::of(letters)].map(|queue| ([queue.name], of(queue)));
    scrape.add(&names::QUEUE_REQUESTS, both(|queue| gauge(queue.depth as f64)));
    scrape.add(&names::QUEUE_REQUESTS_FORMER, both(|queue| gauge(queue.depth as f64)));
    scrape.add(&names::QUEUE_REFUSED_FORMER, both(|queue| count(&queue.figures.submissions_refused)));
    scrape.add(&names::QUEUE_OLDEST_SECONDS, both(|queue| gauge(queue.oldest_seconds)));
    scrape.add(&names::QUEUE_REFUSED, both(|queue| count(&queue.figures.submissions_refused)));
    scrape.add(&names::BATCH_ITEMS, both(|queue| histogram(queue.figures.batch_items.distribution(1.0))));
    scrape.add(&names::FLUSH_SECONDS, both(|queue| histogram(queue.figures.flush_us.seconds())));
    scrape.add(&names::COMMIT_SECONDS, both(|queue| histogram(queue.figures.commit_us.seconds())));
    scrape.add(&names::WRITE_RETRIES, both(|queue| count(&queue.figures.retries)));
    scrape.add(&names::BATCH_SPLITS, both(|queue| count(&queue.figures.splits)));
    scrape.add(&names::BATCHES_REFUSED, both(|queue| count(&queue.figures.refused_whole)));
    scrape.add(&names::ITEMS_NOT_NOW, both(|queue| count(&queue.figures.not_now)));
    scrape.add(&names::FOLDS_FAILED, [([], Value::Counter(own.store.folds_failed()))]);
    scrape.add(&names::BATCHES_BROKEN, both(|queue| count(&queue.figures.broken)));
    let (most, taken) = (own.in_flight.total(), own.in_flight.taken());
    scrape.add(&names::IN_FLIGHT_BYTES, [([], gauge((taken * 1024) as f64))]);
    scrape.add(&names::IN_FLIGHT_BYTES_MAX, [([], gauge((most * 1024) as f64))]);
    scrape.add(&names::UNSENT_BYTES, [([], gauge(own.unsent.bytes() as f64))]);
}

/// The condition of the tables. Nothing while the database is away.
fn tables(scrape: &mut Scrape, own: &Metrics) {
    let upkeep = own.upkeep.load();
    let upkeep = upkeep.as_deref();
    let tables = upkeep.map_or(&[][..], |upkeep| &upkeep.tables);
    let each = |of: fn(&TableUpkeep) -> Option<f64>| {
        tables.iter().filter_map(move |table| Some(([table.table_name.as_str()], gauge(of(table)?))))
    };
    scrape.add(&names::TABLE_BYTES, each(|table| Some(table.bytes as f64)));
    scrape.add(&names::PARTITIONS_AHEAD_SECONDS, each(|table| Some(table.ahead_seconds)));
    scrape.add(&names::DEFAULT_PARTITION_ROWS, each(|table| table.default_rows.map(|rows| rows as f64)));
    scrape.add(&names::UNFOLDED_COUNT_ROWS, upkeep.map(|upkeep| ([], gauge(upkeep.unfolded_rows as f64))));
    let round = upkeep.map(|upkeep| upkeep.retention_round.map_or(0, |at| at.timestamp()));
    scrape.add(&names::RETENTION_ROUND_SECONDS, round.map(|at| ([], gauge(at as f64))));
    scrape.add(&names::DEAD_LETTERS_MAX_BYTES, [([], gauge(own.dead_letters_bytes_max as f64))]);
}

/// Rows and bytes that retention removed.
fn trimmed(scrape: &mut Scrape, own: &Metrics) {
    let trimmed = &own.retention.trimmed;
    let sum = |counter: &AtomicI64| Value::Counter(counter.load(Relaxed).unsigned_abs());
    let rows = [
        (["dead_letters", "age"], sum(&trimmed.letters_by_age)),
        (["dead_letters", "size"], sum(&trimmed.letters_by_size)),
        (["events", "age"], sum(&trimmed.events_by_age)),
    ];
    scrape.add(&names::TRIMMED_ROWS, rows);
    let bytes = [(["dead_letters"], sum(&trimmed.letter_bytes)), (["events"], sum(&trimmed.event_bytes))];
    scrape.add(&names::TRIMMED_BYTES, bytes);
    let announced = Rule::ALL.map(|rule| ([rule.as_str()], truth(own.retention.is_announced(rule))));
    scrape.add(&names::TRIMMING_ANNOUNCED, announced);
    scrape.add(&names::AUDIT_OMITTED, [([], Value::Counter(own.trail.omitted()))]);
    let held = Duty::ALL.map(|duty| ([duty.as_str()], truth(own.jobs.duties.holds(duty))));
    scrape.add(&names::DUTY_HELD, held);
    let ended = jobs::Kind::ALL.into_iter().flat_map(|kind| {
        jobs::ENDS.map(|state| ([kind.as_str(), state], Value::Counter(own.jobs.ended.count(kind, state))))
    });
    scrape.add(&names::JOBS_ENDED, ended);
    scrape.add(&names::CLOCK_SKEW_SECONDS, [([], gauge(own.retention.clock_skew_seconds()))]);
}

/// Refused callers, by reason. Applications have labels. Networks have none, since strangers choose their addresses;
/// `/v1/applications` lists them.
fn refused(scrape: &mut Scrape, own: &Metrics) {
    let applications = own.trust.applications();
    let callers = applications.iter().flat_map(|application| {
        Kind::ALL
            .map(|kind| ([application.name.as_str(), kind.as_str()], Value::Counter(application.refused().get(kind))))
    });
    scrape.add(&names::CALLERS_REFUSED, callers);
    let ends = applications.iter().map(|application| {
        let end = application.tokens_end().map_or(0, |end| end.timestamp());
        ([application.name.as_str()], gauge(end as f64))
    });
    scrape.add(&names::TOKEN_EXPIRES, ends);
    let age = own.trust.applications_age();
    scrape.add(&names::APPLICATIONS_AGE, age.map(|age| ([], gauge(age.as_secs_f64()))));
    let mut strangers = [0; Kind::ALL.len()];
    for (kind, _, count) in own.trust.security().strangers() {
        strangers[kind as usize] += count;
    }
    scrape.add(
        &names::STRANGERS_REFUSED,
        Kind::ALL.map(|kind| ([kind.as_str()], Value::Counter(strangers[kind as usize]))),
    );
}

/// The counters of a batcher, whatever the type of its items.
struct Queue<'a> {
    name: &'static str,
    depth: usize,
    oldest_seconds: f64,
    figures: &'a crate::batch::Figures,
}

impl<'a> Queue<'a> {
    fn of<T>(batcher: &'a Batcher<T>) -> Self {
        Self {
            name: batcher.name(),
            depth: batcher.depth(),
            oldest_seconds: batcher.oldest().unwrap_or_default().as_secs_f64(),
            figures: batcher.figures(),
        }
    }
}

fn modules(scrape: &mut Scrape, reports: &[TypeReport], slot_faults: &[(String, Faults)]) {
    let in_state = |state| reports.iter().filter(|report| report.loading.unwrap_or(report.state) == state).count();
    scrape.add(&names::MODULES, State::ALL.map(|state| ([state.as_str()], gauge(in_state(state) as f64))));
    let standing = |standing| reports.iter().filter(|report| report.standing == Some(standing)).count();
    scrape.add(&names::MODULES_STANDING, Standing::ALL.map(|place| ([place.as_str()], gauge(standing(place) as f64))));
    let refused = reports.iter().filter(|report| report.last_error.is_some()).count();
    scrape.add(&names::MODULE_FILES_REFUSED, [([], gauge(refused as f64))]);

    let serving: Vec<(&str, String, &TypeReport)> = reports
        .iter()
        .filter_map(|report| Some((report.event_type.as_str(), report.digest?.to_string(), report)))
        .collect();
    let verdicts = serving.iter().flat_map(|(event_type, digest, report)| {
        let counts = &report.counts;
        [("accepted", counts.accepted), ("amended", counts.amended), ("rejected", counts.rejected)]
            .map(|(verdict, count)| ([*event_type, digest.as_str(), verdict], Value::Counter(count)))
    });
    scrape.add(&names::MODULE_VERDICTS, verdicts);
    let faults = serving.iter().flat_map(|(event_type, digest, report)| {
        FaultCode::ALL.map(|code| {
            let count = report.counts.faulted.get(code.as_str()).copied().unwrap_or_default();
            ([*event_type, digest.as_str(), code.as_str()], Value::Counter(count))
        })
    });
    scrape.add(&names::MODULE_FAULTS, faults);
    let of_slots = slot_faults.iter().flat_map(|(slot, faults)| {
        FaultCode::ALL.map(|code| ([slot.as_str(), code.as_str()], Value::Counter(faults[code.index()])))
    });
    scrape.add(&names::SLOT_FAULTS, of_slots);
    let times = serving.iter().filter_map(|(event_type, digest, report)| {
        let times = report.judging?;
        Some(
            [("0.5", times.p50_us), ("0.99", times.p99_us)]
                .map(|(quantile, us)| ([*event_type, digest.as_str(), quantile], gauge(us / 1e6))),
        )
    });
    scrape.add(&names::MODULE_JUDGING_SECONDS, times.flatten());
}

fn candidates(scrape: &mut Scrape, own: &Metrics) {
    let tried = own.candidates.tried();
    scrape.add(&names::CANDIDATES, tried.map(|(trial, count)| ([trial], gauge(count as f64))));
    let pairs = own.candidates.pairs();
    let each = pairs.iter().flat_map(|(event_type, outcomes)| {
        outcomes.map(|(outcome, count)| ([event_type.as_str(), outcome], Value::Counter(count)))
    });
    scrape.add(&names::CANDIDATE_PAIRS, each);
    scrape.add(&names::CANDIDATE_PAIRS_DROPPED, [([], Value::Counter(own.candidates.dropped()))]);
    let steps = own.promotion.steps();
    let each = pairs.iter().map(|(event_type, _)| {
        let step = steps.get(event_type).copied().unwrap_or_default();
        ([event_type.as_str()], gauge(step as f64))
    });
    scrape.add(&names::CANDIDATE_STEP, each);
    let taken_back = own.candidates.taken_back();
    let each = taken_back.map(|(reason, count)| ([reason], Value::Counter(count)));
    scrape.add(&names::MODULES_TAKEN_BACK, each);
    let sent = [("sent", own.webhook.sent()), ("dropped", own.webhook.dropped())];
    scrape.add(&names::NOTIFICATIONS, sent.map(|(state, count)| ([state], Value::Counter(count))));
}

fn judging(scrape: &mut Scrape, own: &Metrics) {
    scrape.add(&names::JUDGING_SECONDS, [([], histogram(own.validators.judging()))]);
    let (taken, most) = own.validators.memory_bytes();
    scrape.add(&names::MODULES_MEMORY_BYTES, [([], gauge(taken as f64))]);
    scrape.add(&names::MODULES_MEMORY_BYTES_MAX, [([], gauge(most as f64))]);
    scrape.add(&names::SLOW_WAITING_EVENTS, [([], gauge(own.validators.waiting() as f64))]);
    let doubts = own.validators.doubts();
    let held = [("module_loading", doubts.loading), ("module_unavailable", doubts.unavailable)];
    scrape.add(&names::MODULES_HELD, held.map(|(code, count)| ([code], gauge(count as f64))));
    scrape.add(&names::MODULES_LOST, [([], gauge(doubts.lost as f64))]);
    scrape.add(&names::MODULE_ACCIDENTS, [([], Value::Counter(own.validators.accidents()))]);
    scrape.add(&names::MODULE_STRAYS, [([], gauge(own.validators.problems(&[]).len() as f64))]);
}

fn live(scrape: &mut Scrape, live: &Live) {
    scrape.add(&names::LIVE_READERS, [([], gauge(live.readers() as f64))]);
    scrape.add(&names::LIVE_LEFT_OUT, [([], Value::Counter(live.left_out()))]);
    scrape.add(&names::LIVE_MISSED, [([], Value::Counter(live.missed()))]);
}

fn running(scrape: &mut Scrape, own: &Metrics, database_up: bool) {
    let connections = &own.connections;
    scrape.add(&names::CONNECTIONS, [([], gauge(connections.open.load(Relaxed) as f64))]);
    scrape.add(&names::CONNECTIONS_MAX, [([], gauge(own.connections_max as f64))]);
    scrape.add(&names::CONNECTIONS_ACCEPTED, [([], count(&connections.accepted))]);
    scrape.add(&names::CONNECTIONS_FULL, [([], count(&connections.full))]);
    let classes = Class::ALL.map(|class| ([class.as_str()], Value::Counter(own.admission.refused(class))));
    scrape.add(&names::CONNECTIONS_REFUSED, classes);
    scrape.add(&names::CONNECTIONS_FAILED, [([], count(&connections.failed))]);
    let expires = own.admission.tls.expires_at_s().unwrap_or_default();
    scrape.add(&names::TLS_EXPIRES, [([], gauge(expires as f64))]);
    scrape.add(&names::DATABASE_UP, [([], truth(database_up))]);
    scrape.add(&names::REPLAYED_COMMIT_AGE, [([], gauge(own.store.replayed_commit_age_seconds()))]);
    let ready = own.readiness.look_with(database_up);
    scrape.add(&names::READY, [([], truth(ready.ready()))]);
    scrape.add(&names::UNREADY, ready.each_reason().map(|(holds, reason)| ([reason], truth(holds))));
    scrape.add(&names::DEGRADED, ready.each_degraded().map(|(holds, reason)| ([reason], truth(holds))));
    scrape.add(&names::GENERATION, [([], gauge(own.validators.generation() as f64))]);
    scrape.add(&names::GATEWAYS, [([], gauge((own.readiness.fleet.others() + 1) as f64))]);
    scrape.add(&names::BUILD_INFO, [([env!("CARGO_PKG_VERSION")], gauge(1.0))]);
    scrape.add(&names::START_TIME, [([], gauge(own.began_at_us as f64 / 1e6))]);
}

#[cfg(test)]
mod tests;
