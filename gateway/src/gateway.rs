//! Config, build, run, drain: the four steps of a gateway's life. What requests share lives here, and nothing of how a
//! request is answered.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eye_event::envelope::{self, Rules};
use eye_event::event::EventRow;
use eye_judge::{self, Validators};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::{Batcher, Limits, Writers};
use crate::body::BodyLimits;
use crate::clock::Clock;
use crate::config::{Config, UnknownEventType};
use crate::cors::Cors;
use crate::dead_letters::DeadLetters;
use crate::live::{self, Live};
use crate::postgres::Postgres;
use crate::query::{Streams, Turns};
use crate::response::Unsent;
use crate::retention::due::Rule;
use crate::retention::{Policy, Retention};
use crate::router::{self, Requests};
use crate::scrub::Scrub;
use crate::server::{Connections, Doors, Listener, ServerLimits};
use crate::share::Budget;
use crate::store::{self, FOLD_ROWS_MAX, Store};
use crate::tally::Tallies;
use crate::tls::Tls;
use crate::trust::{Peer, Trust};
use crate::unseen::{self, Unseen};

mod readiness;

use readiness::Glance;
pub use readiness::Readiness;

/// How long to wait before the database is asked again at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// How often a running gateway looks at the schema, the clocks and what is announced.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked whether other modules take secrets out.
const TAKING_EVERY: Duration = Duration::from_secs(1);
/// What the writers get to finish in even if the connections have used up all of the time to drain.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Connections at once to the address for monitoring.
const MONITORING_CONNECTIONS_MAX: usize = 64;
/// What a scrape that is under way gets when the gateway ends.
const MONITORING_DRAIN: Duration = Duration::from_secs(1);
/// How often the database is looked at.
const DATABASE_LOOK: Duration = Duration::from_secs(1);
/// How often counts are folded. Until then readers add them up themselves.
const FOLD_EVERY: Duration = Duration::from_secs(5);
/// How many times as long as a fold took the next one waits, when there is more to fold. Batches share the database's
/// processors with it: several folds in a row hold up answers for longer than any batch does.
const FOLD_PAUSE: u32 = 4;
/// Folds with pauses, after which a backlog is larger than they can clear.
const FOLDS_PAUSED: u32 = 20;

/// What all requests share.
#[derive(Debug)]
pub struct Gateway {
    /// The proved configuration.
    pub config: Config,
    /// The gateway's own rules for events.
    pub rules: Rules,
    /// Bounds of a body.
    pub body_limits: BodyLimits,
    /// The bytes in flight, in KiB.
    pub in_flight: Arc<Budget>,
    /// The wall clock.
    pub clock: Clock,
    /// Answers that are not sent yet.
    pub unsent: Unsent,
    /// Who may call.
    pub trust: Arc<Trust>,
    /// The pages whose browsers may send.
    pub cors: Cors,
    /// Who judges.
    pub validators: Validators,
    /// Where accepted events go.
    pub events: Batcher<EventRow>,
    /// Where all others go.
    pub dead_letters: DeadLetters,
    /// Where events are read.
    pub store: Store,
    /// Requests by their answers.
    pub requests: Requests,
    /// Events by their outcomes.
    pub tallies: Tallies,
    /// The connections of the listener.
    pub connections: Arc<Connections>,
    /// What its connections passed, and who did not.
    pub doors: Arc<Doors>,
    /// When it was built: microseconds since 1970.
    pub began_at_us: i64,
    /// Turns at reading from the database.
    pub turns: Arc<Turns>,
    /// Results on their way to readers.
    pub streams: Streams,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Letters that the gateway judged again by itself.
    pub unseen: Unseen,
    /// Held by whoever judges dead letters again; one at a time.
    pub redriving: Semaphore,
    /// Where outcomes are watched as they happen.
    pub live: Arc<Live>,
    /// Set once the schema is known to serve this program.
    migrated: AtomicBool,
    /// Whether this gateway brings the schema up; otherwise it only proves it.
    migrates: bool,
    /// Why the gateway cannot go on, once that is known.
    failed: OnceLock<store::Error>,
    draining: AtomicBool,
    /// Whether the database answered when it was last asked.
    answered: Glance,
}

impl Gateway {
    /// Builds all parts. Nothing listens yet, and the database need not be there.
    fn build(
        config: Config,
        database_url: &str,
        migrates: bool,
        (connections, doors): (Arc<Connections>, Arc<Doors>),
    ) -> anyhow::Result<(Arc<Gateway>, Vec<Writers>)> {
        let rules = rules(&config);
        let store = store_of(&config, database_url)?;
        let limits = Limits {
            events_max: config.batch_events_max,
            bytes_max: config.batch_bytes_max,
            age: Duration::from_millis(config.batch_age_ms),
            parcels_max: config.queue_parcels_max,
            wait: queue_wait(&config),
        };
        let sinks = (0..config.writers).map(|_| store.event_sink()).collect();
        let (events, event_writers) = Batcher::start("events", limits, sinks);
        let (dead, dead_writers) = Batcher::start("dead_letters", limits, vec![store.dead_letter_sink()]);
        let validators = Validators::start(validator_options(&config, rules)).context("the validators")?;
        let clock = Clock::default();
        let embedded = config.database_url.is_none();
        let in_flight = Budget::new(config.in_flight_bytes_max / 1024, config.application_share_percent);
        let trust = Trust::new(config.trusted_proxies.clone(), config.forwarded_header, config.hosts.clone(), embedded)
            .with_event_types_max(config.event_types_max);
        let streams = Streams::new(
            config.streams_max,
            config.application_share_percent,
            Duration::from_millis(config.stream_stall_ms),
        );
        let turns = Turns::new(
            usize::try_from(config.read_connections).unwrap_or(usize::MAX),
            config.application_share_percent,
            Duration::from_millis(config.read_wait_ms),
        );
        let gateway = Gateway {
            turns: Arc::new(turns),
            requests: Requests::default(),
            tallies: Tallies::new(config.metrics_event_types_max),
            connections,
            doors,
            began_at_us: clock.now_us(),
            rules,
            body_limits: BodyLimits {
                bytes_max: config.request_bytes_max,
                read: Duration::from_millis(config.body_read_ms),
            },
            in_flight: Arc::clone(&in_flight),
            clock,
            unsent: Unsent::new(config.answers_bytes_max, config.application_share_percent, in_flight),
            trust: Arc::new(trust),
            cors: Cors::new(config.cors_origins.clone()),
            validators,
            events,
            dead_letters: DeadLetters::new(
                dead,
                config.batch_events_max,
                config.dead_letter_queue_bytes_max,
                config.application_share_percent,
            ),
            store,
            streams,
            retention: Retention::new(Policy::of(&config), Duration::from_secs(config.retention_seconds)),
            unseen: Unseen::default(),
            redriving: Semaphore::new(1),
            live: Arc::new(Live::new(live_limits(&config))),
            migrated: AtomicBool::new(false),
            migrates,
            failed: OnceLock::new(),
            draining: AtomicBool::new(false),
            answered: Glance::default(),
            config,
        };
        Ok((Arc::new(gateway), vec![event_writers, dead_writers]))
    }

    /// Whether the schema is known to be current.
    pub(crate) fn is_migrated(&self) -> bool {
        self.migrated.load(Ordering::Relaxed)
    }

    /// Asks all parts whether they are ready.
    pub async fn readiness(&self) -> Readiness {
        self.readiness_with(self.answered.look(async || self.store.ready().await).await)
    }

    /// The same when it is known whether the database answers.
    pub fn readiness_with(&self, answers: bool) -> Readiness {
        Readiness {
            database: answers,
            schema: self.migrated.load(Ordering::Relaxed),
            applications: self.trust.known(),
            validators: self.validators.scanned(),
            doubts: self.validators.doubts(),
            clocks_differ: self.retention.clocks_differ(),
            trimming_announced: Rule::ALL.into_iter().any(|rule| self.retention.is_announced(rule)),
            requires_modules: self.config.ready_requires_modules,
            draining: self.draining.load(Ordering::Relaxed),
        }
    }

    /// Brings up the schema of the embedded Postgres, where nobody has registered an application yet and only this machine
    /// can call. A server that dies meanwhile is started again, so it is asked again.
    async fn prepare_own(&self) -> Result<(), store::Error> {
        let once = async || {
            self.store.migrate().await?;
            self.store.ensure_local_application().await?;
            self.scrub().note().await?;
            self.trust.refresh(&self.store).await
        };
        while let Err(error) = once().await {
            if !matches!(error, store::Error::Away(_) | store::Error::Slow(_)) {
                return Err(error);
            }
            tracing::warn!(%error, "the embedded Postgres is not ready; trying again until it is");
            tokio::time::sleep(DATABASE_RETRY).await;
        }
        self.migrated.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Brings the schema up, or proves it, as soon as the database is there, then keeps the tables within their bounds. Ends
    /// the gateway when the schema does not serve this program, now or later.
    async fn tend_database(self: Arc<Self>, stop: CancellationToken, shutdown: CancellationToken) {
        let tend = async {
            let schema = self.prepare_schema().await?;
            // Until it is known whose secrets there are, less is kept of what is refused.
            if let Err(error) = self.scrub().note().await {
                tracing::warn!(%error, "which validators take secrets out could not be noted; trying again");
            }
            self.migrated.store(true, Ordering::Relaxed);
            tracing::info!("{schema}");
            tokio::select! {
                refused = self.watch_database() => Err(refused),
                () = self.retention.tend(&self.store, &self.clock) => Ok(()),
            }
        };
        if let Some(Err(error)) = stop.run_until_cancelled(tend).await {
            // The first reason stays.
            let _ = self.failed.set(error);
            shutdown.cancel();
        }
    }

    /// Tries until the schema is one that this program may use.
    ///
    /// # Errors
    ///
    /// [`store::Error::SchemaFloor`]: no waiting mends that.
    async fn prepare_schema(&self) -> Result<store::Schema, store::Error> {
        let mut told = String::new();
        loop {
            let prepared = if self.migrates { self.store.migrate().await } else { self.store.prove_schema().await };
            let error = match prepared {
                Err(error) if !matches!(error, store::Error::SchemaFloor { .. }) => error,
                ended => return ended,
            };
            let cause = error.to_string();
            if cause != told {
                tracing::warn!("the database is not ready, trying again until it is: {cause}");
                told = cause;
            }
            tokio::time::sleep(DATABASE_RETRY).await;
        }
    }

    /// Looks now and then whether a newer release has raised the schema above what this program knows, whether the clocks agree,
    /// and what retention has announced. Gives the error that ends the gateway.
    async fn watch_database(&self) -> store::Error {
        if let Ok(Some(received)) = self.store.last_received().await {
            self.clock.saw_us(received.timestamp_micros());
        }
        loop {
            // A database that is away is told elsewhere; what was seen last holds until it is back.
            let _away = self.retention.look(&self.store, &self.clock).await;
            tokio::time::sleep(WATCH_EVERY).await;
            if let Err(error @ store::Error::SchemaFloor { .. }) = self.store.prove_schema().await {
                return error;
            }
        }
    }

    /// Looks at the database each second, so that the log tells when it is away, why, when it is back, and what is wrong
    /// with it, also while nobody asks.
    async fn look_at_database(self: Arc<Self>, stop: CancellationToken) {
        let watch = async {
            let mut ticks = tokio::time::interval(DATABASE_LOOK);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                self.readiness().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch => {}
        }
    }

    fn scrub(&self) -> Scrub<'_> {
        Scrub::new(&self.config, &self.store, &self.validators, &self.rules, &self.clock)
    }

    /// Notes each second which modules take secrets out, if others do now, and goes over older dead letters now and then.
    async fn scrub_letters(self: Arc<Self>, stop: CancellationToken) {
        let scrub = async {
            let (mut known, mut round_at) = (None, Instant::now());
            let mut ticks = tokio::time::interval(TAKING_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let taking = self.validators.taking();
                let changed = known.as_ref() != Some(&taking);
                if !self.migrated.load(Ordering::Relaxed) || !(changed || Instant::now() >= round_at) {
                    continue;
                }
                round_at = Instant::now() + Duration::from_secs(self.config.scrub_seconds);
                match self.scrub().round().await {
                    Ok(_) => known = Some(taking),
                    Err(error) => tracing::warn!(%error, "older dead letters could not be gone over; trying again"),
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = scrub => {}
        }
    }

    /// Folds what the writers have counted, now and then. What is not folded is read all the same, so a fold that fails
    /// costs nothing but time; one that took too long is tried with half as much.
    async fn fold_counts(self: Arc<Self>, stop: CancellationToken) {
        let fold = async {
            let mut rows = FOLD_ROWS_MAX;
            let mut ticks = tokio::time::interval(FOLD_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let mut folds = 0;
                while self.migrated.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match self.store.fold_counts(rows).await {
                        Ok(taken) if taken < u64::from(rows) => break,
                        Ok(_) => rows = rows.saturating_mul(2).min(FOLD_ROWS_MAX),
                        Err(error @ store::Error::Slow(_)) => {
                            tracing::warn!(%error, rows, "counts could not be folded; trying half as many");
                            rows = (rows / 2).max(1);
                        }
                        Err(error @ store::Error::Away(_)) => {
                            tracing::debug!(%error, "counts could not be folded");
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "counts could not be folded; they gather meanwhile, and reads of counts take longer");
                            break;
                        }
                    }
                    folds += 1;
                    if folds < FOLDS_PAUSED {
                        tokio::time::sleep((began.elapsed() * FOLD_PAUSE).min(FOLD_EVERY)).await;
                    }
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = fold => {}
        }
    }
}

/// The way to the database, as the settings have it.
fn store_of(config: &Config, database_url: &str) -> anyhow::Result<Store> {
    let flush_time = Duration::from_millis(config.flush_ms);
    let read_time = Duration::from_millis(config.read_ms);
    let store =
        Store::new(database_url, config.read_connections, read_time, flush_time).context("the database's URL")?;
    Ok(store
        .with_read_wait(Duration::from_millis(config.read_wait_ms))
        .with_partitions_on_demand(config.event_partitions_max, config.events_days))
}

/// How long a request may wait for a writer under overload: the rest of its time to answer is for the write.
fn queue_wait(config: &Config) -> Duration {
    Duration::from_millis(config.answer_ms) * config.queue_wait_percent / 100
}

fn live_limits(config: &Config) -> live::Limits {
    live::Limits {
        readers_max: config.live_readers_max,
        share_percent: config.application_share_percent,
        heartbeat: Duration::from_millis(config.live_heartbeat_ms),
        events_per_second_max: config.live_events_per_second_max,
    }
}

/// The gateway's own rules for events, as the settings have them.
pub(crate) fn rules(config: &Config) -> Rules {
    Rules {
        data_bytes_max: config.data_bytes_max,
        nesting_max: config.nesting_max,
        number_digits_max: config.number_digits_max,
        future_us_max: i64::try_from(config.future_seconds_max)
            .unwrap_or(i64::MAX / 1_000_000)
            .saturating_mul(1_000_000),
        events_max: config.events_per_request_max,
    }
}

/// How validators are run, as the settings have it.
pub(crate) fn validator_options(config: &Config, rules: Rules) -> eye_judge::Options {
    eye_judge::Options {
        modules_dir: config.modules.clone(),
        data_dir: config.data_dir.clone(),
        unknown_event_type: match config.unknown_event_type {
            UnknownEventType::Accept => eye_judge::UnknownEventType::Accept,
            UnknownEventType::Reject => eye_judge::UnknownEventType::Reject,
        },
        required: {
            let required = Arc::clone(&config.require_module);
            let each = required.each().map(|(category, name)| (category.to_owned(), name.map(str::to_owned))).collect();
            eye_judge::Required { contains: Arc::new(move |category, name| required.contains(category, name)), each }
        },
        is_beside_gateway: false,
        limits: eye_judge::Limits {
            deadline_ms: config.deadline_ms,
            memory_bytes_max: config.memory_bytes_max,
            output_bytes_max: config.output_bytes_max,
            violations_max: config.violations_max,
        },
        // Beyond the time to answer a sender would hear of no fault.
        deadline_ms_max: config.answer_ms.saturating_sub(1),
        shared: shared_limits(config),
        rescan: Duration::from_secs(config.rescan_seconds),
        check_amended: check_amended(rules),
        loading: eye_judge::Loading::by_this_program(config.loader, rules),
    }
}

/// What all modules share, as the settings have it. Half of the time that an answer may still take after the wait for modules is
/// for judging, the other half for the write.
fn shared_limits(config: &Config) -> eye_judge::SharedLimits {
    let answer = Duration::from_millis(config.answer_ms);
    let wait = answer * config.judge_wait_percent / 100;
    eye_judge::SharedLimits {
        away: eye_judge::AwayLimits {
            places: config.slow_calls_max,
            module_share_percent: config.slow_module_share_percent,
            waiting_max: config.slow_waiting_max,
            waiting_bytes_max: config.slow_waiting_bytes_max,
            application_share_percent: config.application_share_percent,
        },
        memory_bytes_max: config.modules_memory_bytes_max,
        wait,
        judging: wait + (answer - wait) / 2,
    }
}

/// Checks what a validator amended to, as the envelope checks what senders write.
pub(crate) fn check_amended(rules: Rules) -> eye_judge::CheckAmended {
    Arc::new(move |data| envelope::check_data(data, &rules))
}

/// Serves until `shutdown` is cancelled and everything that was taken is finished.
///
/// # Errors
///
/// What stops a gateway from starting: its address is taken, or its own Postgres cannot be run.
pub async fn serve(config: Config, migrate: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = bind(config.listen).await?;
    let monitoring = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let tls = config.tls.clone().map(Tls::load).transpose().context("TLS")?;
    warn_of_open_doors(&config, listener.address());
    let own = match &config.database_url {
        Some(_) => None,
        // Told to stop meanwhile: what was begun ends as it is dropped.
        None => match shutdown.run_until_cancelled(Postgres::start(&config.postgres_options())).await {
            Some(own) => Some(own?),
            None => return Ok(()),
        },
    };
    let sockets = Sockets { listener, monitoring, tls };
    let served = serve_on(sockets, config, own.as_ref(), migrate, shutdown).await;
    if let Some(own) = own {
        own.stop().await;
    }
    served
}

async fn bind(address: SocketAddr) -> anyhow::Result<Listener> {
    Listener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Answers on the address for monitoring, also while the gateway drains.
async fn monitor(gateway: Arc<Gateway>, listener: Listener, stop: CancellationToken) {
    tracing::info!(address = %listener.address(), "monitoring is answered");
    let limits = ServerLimits {
        connections_max: MONITORING_CONNECTIONS_MAX,
        drain: MONITORING_DRAIN,
        ..ServerLimits::of(&gateway.config)
    };
    let handler = move |request, _: Peer| {
        let gateway = Arc::clone(&gateway);
        async move { router::answer_monitoring(&gateway, request).await }
    };
    listener.run(limits, Arc::default(), handler, stop).await;
}

/// Tells what anybody on the way could read.
fn warn_of_open_doors(config: &Config, address: SocketAddr) {
    if config.tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(%address, "without TLS everybody on the way can read tokens and events: set tls_certificate and tls_key");
    }
}

/// What the gateway listens on.
struct Sockets {
    listener: Listener,
    monitoring: Option<Listener>,
    tls: Option<Arc<Tls>>,
}

async fn serve_on(
    Sockets { listener, monitoring, tls }: Sockets,
    config: Config,
    own: Option<&Postgres>,
    migrate: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let url = match (own, &config.database_url) {
        (Some(own), _) => own.url().to_owned(),
        (None, Some(url)) => url.expose().to_owned(),
        (None, None) => anyhow::bail!("no database was chosen"),
    };
    let drain = Duration::from_millis(config.drain_ms);
    let limits = ServerLimits::of(&config);
    let doors = Arc::new(Doors::new(&config, tls.clone()));
    let counted = (listener.connections(), Arc::clone(&doors));
    let (gateway, writers) = Gateway::build(config, &url, migrate || own.is_some(), counted)?;
    if own.is_some() {
        let Some(prepared) = shutdown.run_until_cancelled(gateway.prepare_own()).await else {
            gateway.validators.stop().await;
            return Ok(());
        };
        prepared.context("the schema of the embedded Postgres")?;
    }
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    tasks.spawn(Arc::clone(&gateway).tend_database(stop.clone(), shutdown.clone()));
    tasks.spawn(Arc::clone(&gateway).fold_counts(stop.clone()));
    tasks.spawn(Arc::clone(&gateway).look_at_database(stop.clone()));
    tasks.spawn(Arc::clone(&gateway).scrub_letters(stop.clone()));
    let poll = Duration::from_millis(gateway.config.applications_poll_ms);
    tasks.spawn(Arc::clone(&gateway.trust).follow(gateway.store.clone(), poll, stop.clone()));
    if let Some(monitoring) = monitoring {
        tasks.spawn(monitor(Arc::clone(&gateway), monitoring, stop.clone()));
    }
    if let Some(tls) = tls {
        tasks.spawn(tls.follow(stop.clone()));
    }
    let (live, ended) = (Arc::clone(&gateway.live), stop.clone());
    tasks.spawn(async move { ended.run_until_cancelled(live.run()).await });
    let (unseen, ended) = (Arc::clone(&gateway), shutdown.clone());
    tasks.spawn(async move { ended.run_until_cancelled(unseen::run(&unseen)).await });
    tasks.close();
    tracing::info!(address = %listener.address(), "the gateway listens");

    let shared = Arc::clone(&gateway);
    let handler = move |request, peer: Peer| {
        let gateway = Arc::clone(&shared);
        async move { pin!(router::answer(&gateway, request, peer)).await }
    };
    let announce = async {
        shutdown.cancelled().await;
        gateway.draining.store(true, Ordering::Relaxed);
        gateway.streams.stop();
        gateway.live.end();
        tracing::info!("the gateway drains: it finishes what it took, and takes nothing new");
        Instant::now()
    };
    let ((), since) = tokio::join!(listener.run(limits, doors, handler, shutdown.clone()), announce);
    gateway.events.close();
    gateway.dead_letters.close();
    for writers in writers {
        writers.drain(drain.saturating_sub(since.elapsed()).max(LAST_WRITES)).await;
    }
    stop.cancel();
    tasks.wait().await;
    gateway.streams.stopped().await;
    gateway.validators.stop().await;
    gateway.store.close().await;
    tracing::info!("the gateway has stopped");
    match gateway.failed.get() {
        Some(error) => Err(anyhow::anyhow!("{error}")),
        None => Ok(()),
    }
}
