//! Builds, runs and drains a gateway. This is the only file that knows all parts; each part knows only those that it is
//! given.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eye_event::event::EventRow;
use eye_judge::{Observer, Options, Validators};
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::AccessLog;
use crate::applications::Applications;
use crate::batch::{Batcher, Writers};
use crate::clock::Clock;
use crate::config::{self, Config, Settings, parts};
use crate::cors::Cors;
use crate::dead_letters::DeadLetters;
use crate::descriptors;
use crate::ingest::Ingest;
use crate::judging::Judges;
use crate::live::Live;
use crate::metrics::{Disk, Metrics};
use crate::panel::Panel;
use crate::panel_address;
use crate::postgres::{Postgres, STOP_TIME_MAX};
use crate::query::{Query, Redriving, Streams};
use crate::readiness::Readiness;
use crate::reload::{self, Reload};
use crate::request_ids::RequestIds;
use crate::requests::Requests;
use crate::response::UnsentAnswers;
use crate::retention::Retention;
use crate::router::{Door, Monitoring, Router};
use crate::server::{Admission, Closing, Connections, Listener, ServerLimits};
use crate::share::Budget;
use crate::shutdown::Shutdown;
use crate::sockets::{Assigned, Sockets};
use crate::store::{Role, Store};
use crate::systemd::ServiceManager;
use crate::tally::Tallies;
use crate::tending::Tending;
use crate::tls::Tls;
use crate::trail::Trail;
use crate::trust::{Peer, Trust, attempts::Attempts, own::Local};
use crate::turns::Turns;
use crate::unseen::{Unseen, UnseenCounts};

/// The least time for the writers to finish, even if the connections have used up the drain time.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Most connections to `admin_listen`, the address for reads and administration.
const ADMIN_CONNECTIONS_MAX: usize = 1_024;
/// The time for a running scrape to finish when the gateway stops.
const MONITORING_DRAIN: Duration = Duration::from_secs(1);
/// The longest wait of a starting gateway until it is ready, before it accepts connections on a passed socket. Connections
/// that have queued there meanwhile then get an outcome and not a 503.
const FIRST_READY: Duration = Duration::from_secs(2);
/// The time of a stop beyond the drain and the stop of the embedded Postgres.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// The parts that `serve_on` runs and drains.
struct Gateway {
    router: Arc<Router>,
    tending: Arc<Tending>,
    readiness: Arc<Readiness>,
    unseen: Arc<Unseen>,
    trust: Arc<Trust>,
    validators: Validators,
    store: Store,
    live: Arc<Live>,
    streams: Arc<Streams>,
    events: Batcher<EventRow>,
    dead_letters: Arc<DeadLetters>,
    trail: Arc<Trail>,
}

impl Gateway {
    /// Builds all parts. It opens no socket, and the database may be away.
    #[expect(clippy::too_many_lines, reason = "a list of parts, each made once and given to those that need it")]
    fn build(
        config: &Config,
        database_url: &str,
        migrates: bool,
        connections: Arc<Connections>,
        panel_listener: SocketAddr,
        admission: Arc<Admission>,
        Reloading { access_log, reload, trail }: Reloading,
    ) -> anyhow::Result<(Gateway, Vec<Writers>)> {
        let share_percent = config.application_share_percent;
        let store = store_of(config, database_url)?;
        let limits = parts::batch_limits(config);
        // A reader has no writers. Its router refuses all requests that need one.
        let writes = config.role == Role::Full;
        let sinks = (0..config.writers).filter(|_| writes).map(|_| store.event_sink()).collect();
        let (events, event_writers) = Batcher::start("events", limits, sinks);
        let letter_sinks = Some(()).filter(|()| writes).map(|()| store.dead_letter_sink()).into_iter().collect();
        let (dead, dead_writers) = Batcher::start("dead_letters", limits, letter_sinks);
        let dead_letters = Arc::new(DeadLetters::new(
            dead,
            config.batch_events_max,
            config.dead_letter_queue_bytes_max,
            share_percent,
        ));
        let observed = Arc::clone(&trail);
        let observer = Observer::new(move |slots, happening| observed.note_module(slots, &happening));
        let options = Options { observer, ..parts::validator_options(config) };
        let validators = Validators::start(options).context("the validators")?;
        let clock = Arc::new(Clock::default());
        let in_flight = Budget::new(config.in_flight_bytes_max / 1024, share_percent);
        let local = if config.database_url.is_none() { config.local } else { Local::Off };
        let trust = Trust::new(config.trusted_proxies.clone(), config.forwarded_header, config.hosts.clone(), local)
            .with_event_types_max(config.event_types_max)
            .with_panel(config.panel);
        let trust = Arc::new(trust);
        let retention = Retention::new(parts::retention_policy(config), Duration::from_secs(config.retention_seconds));
        let retention = Arc::new(retention);
        let readiness = Arc::new(Readiness::new(
            store.clone(),
            Arc::clone(&trust),
            validators.clone(),
            Arc::clone(&retention),
            config.ready_requires_modules,
        ));
        let stall = Duration::from_millis(config.stream_stall_ms);
        let streams = Arc::new(Streams::new(config.streams_max, share_percent, stall));
        let turns = Arc::new(Turns::new(
            usize::try_from(config.read_connections).unwrap_or(usize::MAX),
            share_percent,
            Duration::from_millis(config.read_wait_ms),
        ));
        let unsent = Arc::new(UnsentAnswers::new(config.answers_bytes_max, share_percent, Arc::clone(&in_flight)));
        let cors = Arc::new(Cors::new(config.cors_origins.clone()));
        let live = Arc::new(Live::new(parts::live_limits(config)));
        let tallies = Arc::new(Tallies::new(config.metrics_event_types_max));
        let requests = Arc::new(Requests::default());
        let unseen_counts = Arc::new(UnseenCounts::default());
        let upkeep = Arc::default();
        let judges = Judges {
            validators: validators.clone(),
            store: store.clone(),
            rules: parts::rules(config),
            raw_bytes_max: config.dead_letter_raw_bytes_max,
            event_types_max: config.event_types_max,
        };
        let ingest = Ingest {
            limits: parts::ingest_limits(config),
            trust: Arc::clone(&trust),
            cors: Arc::clone(&cors),
            in_flight: Arc::clone(&in_flight),
            clock: Arc::clone(&clock),
            judges: judges.clone(),
            events: events.clone(),
            dead_letters: Arc::clone(&dead_letters),
            tallies: Arc::clone(&tallies),
            live: Arc::clone(&live),
            turns: Arc::clone(&turns),
            unsent: Arc::clone(&unsent),
        };
        let query = Query {
            store: store.clone(),
            clock: Arc::clone(&clock),
            turns,
            streams: Arc::clone(&streams),
            page_bytes_max: config.page_bytes_max,
            redriving: Redriving {
                judges: judges.clone(),
                events: events.clone(),
                body_limits: parts::body_limits(config),
                in_flight: Arc::clone(&in_flight),
                answer: parts::answer(config),
                turn: Semaphore::new(1),
            },
        };
        let applications = Applications {
            store: store.clone(),
            trust: Arc::clone(&trust),
            body_limits: parts::body_limits(config),
            in_flight: Arc::clone(&in_flight),
        };
        let panel = Panel {
            enabled: config.panel,
            secure: config.tls_certificate.is_some(),
            store: store.clone(),
            trust: Arc::clone(&trust),
            body_limits: parts::body_limits(config),
            in_flight: Arc::clone(&in_flight),
            share: Arc::default(),
            attempts: Attempts::default(),
            turn: Semaphore::new(1),
        };
        let metrics = Metrics {
            store: store.clone(),
            requests: Arc::clone(&requests),
            tallies,
            events: events.clone(),
            dead_letters: Arc::clone(&dead_letters),
            unseen: Arc::clone(&unseen_counts),
            in_flight,
            unsent: Arc::clone(&unsent),
            retention: Arc::clone(&retention),
            trail: Arc::clone(&trail),
            trust: Arc::clone(&trust),
            validators: validators.clone(),
            live: Arc::clone(&live),
            connections,
            connections_max: config.connections_max,
            admission,
            readiness: Arc::clone(&readiness),
            upkeep: Arc::clone(&upkeep),
            dead_letters_bytes_max: config.dead_letters_bytes_max,
            disk: Disk::of(config.data_dir.clone()),
            began_at_us: clock.now_us(),
        };
        let router = Router {
            headers_max: config.headers_max,
            cors,
            trust: Arc::clone(&trust),
            requests,
            access_log,
            unsent,
            ingest,
            query,
            applications,
            panel,
            live: Arc::clone(&live),
            reload,
            trail: Arc::clone(&trail),
            validators: validators.clone(),
            monitoring: Monitoring { metrics, readiness: Arc::clone(&readiness) },
        };
        let tending = Tending {
            store: store.clone(),
            clock: Arc::clone(&clock),
            rules: judges.rules,
            validators: validators.clone(),
            trust: Arc::clone(&trust),
            local,
            first_admin: parts::first_admin(config),
            panel: parts::panel_at_start(config, panel_listener),
            retention,
            upkeep,
            readiness: Arc::clone(&readiness),
            scrub: parts::scrub_limits(config),
            migrates,
            failed: OnceLock::new(),
        };
        let unseen = Unseen {
            judges,
            clock,
            events: events.clone(),
            readiness: Arc::clone(&readiness),
            counts: unseen_counts,
            time: parts::answer(config),
            events_per_second_max: config.rejudge_events_per_second_max,
        };
        let gateway = Gateway {
            router: Arc::new(router),
            tending: Arc::new(tending),
            readiness,
            unseen: Arc::new(unseen),
            trust,
            validators,
            store,
            live,
            streams,
            events,
            dead_letters,
            trail,
        };
        Ok((gateway, vec![event_writers, dead_writers]))
    }

    /// Brings the embedded Postgres to the current schema. Returns false if a signal stopped that.
    async fn prepare_own(&self, run: Run<'_>) -> anyhow::Result<bool> {
        let prepared = tokio::select! {
            prepared = run.shutdown.drain.run_until_cancelled(self.tending.prepare_own()) => prepared,
            never = run.manager.starting() => match never {},
        };
        prepared.transpose().map(|prepared| prepared.is_some()).context("the schema of the embedded Postgres")
    }

    /// Starts the tasks that run beside requests until `stop` is cancelled.
    fn tend(&self, run: Run<'_>, tasks: &TaskTracker, stop: &CancellationToken) {
        let (tending, drain) = (&self.tending, &run.shutdown.drain);
        tasks.spawn(Arc::clone(tending).tend_database(stop.clone(), drain.clone()));
        tasks.spawn(Arc::clone(tending).look_at_database(stop.clone()));
        if run.config.role == Role::Full {
            tasks.spawn(Arc::clone(tending).fold_counts(stop.clone()));
            tasks.spawn(Arc::clone(tending).scrub_letters(stop.clone()));
            tasks.spawn(Arc::clone(tending).note_uses(stop.clone()));
            let (unseen, ended) = (Arc::clone(&self.unseen), drain.clone());
            tasks.spawn(async move { ended.run_until_cancelled(unseen.run()).await });
            let readiness = Arc::clone(&self.readiness);
            let is_ready = move || readiness.is_migrated();
            tasks.spawn(Arc::clone(&self.trail).run(self.store.clone(), is_ready, stop.clone()));
        } else {
            tracing::info!("the gateway is a reader: it serves reads, takes no events and changes nothing");
        }
        let poll = Duration::from_millis(run.config.applications_poll_ms);
        tasks.spawn(Arc::clone(&self.trust).follow(self.store.clone(), poll, stop.clone()));
        let (live, ended) = (Arc::clone(&self.live), stop.clone());
        tasks.spawn(async move { ended.run_until_cancelled(live.run()).await });
    }

    /// Answers requests until all connections have ended. Returns when the drain began.
    async fn answer(
        &self,
        run: Run<'_>,
        listener: Listener,
        admin: Option<Listener>,
        admission: Arc<Admission>,
    ) -> Instant {
        let limits = parts::server_limits(run.config);
        let handler = |door: Door| {
            let router = Arc::clone(&self.router);
            move |request, peer: Peer, ids: RequestIds| {
                let router = Arc::clone(&router);
                async move { pin!(router.answer(request, peer, ids, door)).await }
            }
        };
        let closing = Closing::default();
        let first = if admin.is_some() { Door::Sending } else { Door::Whole };
        let serving = listener.run(limits, Arc::clone(&admission), handler(first), closing.clone());
        let administrating = async {
            let Some(admin) = admin else { return };
            tracing::info!(address = %admin.address(), "reading and administration are answered");
            let limits = ServerLimits { connections_max: limits.connections_max.min(ADMIN_CONNECTIONS_MAX), ..limits };
            admin.run(limits, admission, handler(Door::Whole), closing.clone()).await;
        };
        let ((), (), since) = tokio::join!(serving, administrating, self.close(run, &closing));
        since
    }

    /// Waits for the order to stop, moves the peers away and closes the listeners. Returns when it has closed them.
    async fn close(&self, run: Run<'_>, closing: &Closing) -> Instant {
        let (delay, drain) = (parts::drain_delay(run.config), Duration::from_millis(run.config.drain_ms));
        tokio::select! {
            () = run.shutdown.drain.cancelled() => {}
            never = self.readiness.report_to(run.manager) => match never {},
        }
        self.readiness.set_draining();
        closing.ask_to_leave();
        run.manager.stopping(delay + drain + STOP_TIME_MAX + LAST_STEPS).await;
        if !delay.is_zero() {
            let accepts_ms = delay.as_millis();
            tracing::info!(accepts_ms, "the gateway is about to stop: /readyz is 503, and it still accepts for a time");
            sleep(delay).await;
        }
        closing.close();
        self.streams.stop();
        self.live.end();
        tracing::info!("the gateway drains: it finishes what it took, and takes nothing new");
        Instant::now()
    }
}

/// Connects the store to the database, with the bounds of the settings.
fn store_of(config: &Config, database_url: &str) -> anyhow::Result<Store> {
    let flush_time = Duration::from_millis(config.flush_ms);
    let read_time = Duration::from_millis(config.read_ms);
    let environment = config::libpq_environment();
    let store = Store::of_role(config.role, database_url, environment, config.read_connections, read_time, flush_time)
        .context("the database's URL")?;
    Ok(store
        .with_read_wait(Duration::from_millis(config.read_wait_ms))
        .with_partitions_on_demand(config.event_partitions_max, config.events_days))
}

/// The configuration and its source, from the command `serve`.
pub struct Configured {
    /// The settings at the start.
    pub settings: Settings,
    /// The proved settings.
    pub config: Config,
    /// Reads the settings again.
    pub read: reload::Read,
    /// The signal to read the settings again.
    pub hangup: Signal,
}

/// What the gateway gets from the service manager that started it.
#[derive(Debug)]
pub struct Service {
    /// Receives the messages of the gateway.
    pub manager: ServiceManager,
    /// The longest time between two signs of life. `None` if the service manager expects none.
    pub watchdog: Option<Duration>,
    /// The sockets that the service manager has bound.
    pub passed: Assigned,
}

/// The settings, the service manager and the order to stop, for all steps of a gateway's life.
#[derive(Clone, Copy)]
struct Run<'a> {
    config: &'a Config,
    manager: &'a ServiceManager,
    shutdown: &'a Shutdown,
}

/// The parts that read the settings again and that change with them.
#[derive(Clone)]
struct Reloading {
    access_log: Arc<AccessLog>,
    reload: Arc<Reload>,
    trail: Arc<Trail>,
}

/// Serves until `shutdown` drains and all requests that were accepted are finished, or until it ends at once.
///
/// # Errors
///
/// The errors that keep a gateway from starting: its address is in use, or the embedded Postgres does not run. Also an
/// end at once.
pub async fn serve(configured: Configured, migrate: bool, service: Service, shutdown: Shutdown) -> anyhow::Result<()> {
    let Configured { settings, config, read, hangup } = configured;
    let Service { manager, watchdog, passed } = service;
    let config = Config { connections_max: connections_max(&config)?, ..config };
    let access_log = Arc::new(AccessLog::new(config.access_log));
    let trail = Arc::new(Trail::new(&config.data_dir));
    let reload = Arc::new(Reload::new(read, settings, parts::changeable(&access_log), Arc::clone(&trail)));
    let reloading = Reloading { access_log, reload: Arc::clone(&reload), trail };
    let sockets = Sockets::open(parts::addresses(&config), passed).await?;
    let run = Run { config: &config, manager: &manager, shutdown: &shutdown };
    tokio::select! {
        served = serve_with(run, sockets, reloading, migrate) => served,
        // It runs on the thread that accepts connections, so a sign of life proves that thread too.
        never = manager.signs_of_life(watchdog) => match never {},
        () = async {
            reload.follow(hangup, &manager).await;
            std::future::pending().await
        } => Ok(()),
    }
}

async fn serve_with(run: Run<'_>, sockets: Sockets, reloading: Reloading, migrate: bool) -> anyhow::Result<()> {
    let Run { config, manager, shutdown } = run;
    let tls = parts::tls_files(config).map(Tls::load).transpose().context("TLS")?;
    for door in std::iter::once(&sockets.listener).chain(&sockets.admin) {
        warn_of_open_doors(config, door.address());
    }
    let own = match &config.database_url {
        Some(_) => None,
        None => {
            let options = config.postgres_options();
            let started = tokio::select! {
                started = Postgres::start_until(&options, shutdown) => started?,
                never = manager.starting() => match never {},
            };
            // A signal stopped the start.
            let Some(own) = started else { return ended(shutdown) };
            Some(own)
        }
    };
    let serving = serve_on(run, sockets, tls, reloading, own.as_ref(), migrate);
    let served = shutdown.at_once.run_until_cancelled(serving).await;
    if let Some(own) = own {
        own.stop().await;
    }
    served.unwrap_or(Ok(()))?;
    ended(shutdown)
}

/// Fails if the gateway ended at once.
fn ended(shutdown: &Shutdown) -> anyhow::Result<()> {
    anyhow::ensure!(!shutdown.at_once.is_cancelled(), "a second signal ended the gateway before its stop was finished");
    Ok(())
}

/// Raises the limit of open files, and returns how many connections it leaves room for.
fn connections_max(config: &Config) -> anyhow::Result<usize> {
    let files_max = descriptors::raise();
    let limit = files_max.unwrap_or(u64::MAX);
    let most = parts::connections_max(config, files_max).map_err(|kept| {
        anyhow::anyhow!(
            "the limit of open files is {limit}, and the database, modules and files need {kept} before the first \
             connection: raise it (ulimit -n, or LimitNOFILE of the unit)"
        )
    })?;
    if most < config.connections_max {
        tracing::warn!(
            connections_max = config.connections_max,
            possible = most,
            open_files_max = limit,
            "fewer connections than connections_max may be open: raise the limit of open files, or lower connections_max"
        );
    }
    Ok(most)
}

/// Serves the address for monitoring, also while the gateway drains.
async fn monitor(router: Arc<Router>, limits: ServerLimits, listener: Listener, stop: CancellationToken) {
    tracing::info!(address = %listener.address(), "monitoring is answered");
    let limits = ServerLimits { connections_max: parts::MONITORING_CONNECTIONS_MAX, drain: MONITORING_DRAIN, ..limits };
    let handler = move |request, _: Peer, _: RequestIds| {
        let router = Arc::clone(&router);
        async move { router.monitoring.answer(request).await }
    };
    listener.run(limits, Arc::default(), handler, Closing::by(stop)).await;
}

/// Warns when tokens and events cross a network unencrypted.
fn warn_of_open_doors(config: &Config, address: SocketAddr) {
    if config.tls_certificate.is_none() && !address.ip().is_loopback() {
        tracing::warn!(%address, "without TLS everybody on the way can read tokens and events: set tls_certificate and tls_key");
    }
}

/// The URL of the embedded Postgres, or of the configured database.
fn database_url(own: Option<&Postgres>, config: &Config) -> anyhow::Result<String> {
    match (own, &config.database_url) {
        (Some(own), _) => Ok(own.url().to_owned()),
        (None, Some(url)) => Ok(url.expose().to_owned()),
        (None, None) => anyhow::bail!("no database was chosen"),
    }
}

async fn serve_on(
    run: Run<'_>,
    Sockets { listener, admin, metrics: monitoring, passed }: Sockets,
    tls: Option<Arc<Tls>>,
    reloading: Reloading,
    own: Option<&Postgres>,
    migrate: bool,
) -> anyhow::Result<()> {
    let Run { config, manager, shutdown } = run;
    let url = database_url(own, config)?;
    let limits = parts::server_limits(config);
    let admission = Arc::new(parts::admission(config, tls.clone()));
    let migrates = (migrate && config.role == Role::Full) || own.is_some();
    let bound = admin.as_ref().unwrap_or(&listener).address();
    let (gateway, writers) =
        Gateway::build(config, &url, migrates, listener.connections(), bound, Arc::clone(&admission), reloading)?;
    if own.is_some() {
        let address = parts::panel_address(config, Some(bound)).filter(|_| config.panel);
        if let Err(error) = panel_address::note(&config.data_dir, address.as_deref()) {
            tracing::warn!(%error, "the address of the panel could not be noted in the data dir, so `eye panel` does not find it");
        }
    }
    if own.is_some() && !gateway.prepare_own(run).await? {
        gateway.validators.stop().await;
        return Ok(());
    }
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    gateway.tend(run, &tasks, &stop);
    if let Some(own) = own {
        tasks.spawn(Arc::clone(&gateway.trail).note_starts(own.starts(), stop.clone()));
    }
    if let Some(monitoring) = monitoring {
        tasks.spawn(monitor(Arc::clone(&gateway.router), limits, monitoring, stop.clone()));
    }
    if let Some(tls) = tls {
        tasks.spawn(tls.follow(stop.clone()));
    }
    tasks.close();
    if passed {
        // After this time it answers in any case, if only with 503.
        let _ready = timeout(FIRST_READY, shutdown.drain.run_until_cancelled(gateway.readiness.first_ready())).await;
    }
    tracing::info!(address = %listener.address(), "the gateway listens");
    manager.ready().await;
    let since = gateway.answer(run, listener, admin, admission).await;
    gateway.events.close();
    gateway.dead_letters.close();
    for writers in writers {
        writers.drain(limits.drain.saturating_sub(since.elapsed()).max(LAST_WRITES)).await;
    }
    stop.cancel();
    tasks.wait().await;
    gateway.streams.stopped().await;
    gateway.validators.stop().await;
    gateway.store.close().await;
    tracing::info!("the gateway has stopped");
    match gateway.tending.failed.get() {
        Some(error) => Err(anyhow::anyhow!("{error}")),
        None => Ok(()),
    }
}
