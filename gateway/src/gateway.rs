//! Builds, runs and drains a gateway. This is the only file that knows all parts; each part knows only those that it is
//! given.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use eye_event::event::EventRow;
use eye_judge::Validators;
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;
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
use crate::postgres::Postgres;
use crate::query::{Query, Redriving, Streams};
use crate::readiness::Readiness;
use crate::reload::{self, Reload};
use crate::request_ids::RequestIds;
use crate::requests::Requests;
use crate::response::UnsentAnswers;
use crate::retention::Retention;
use crate::router::{Door, Monitoring, Router};
use crate::server::{Admission, Connections, Listener, ServerLimits};
use crate::share::Budget;
use crate::store::{Role, Store};
use crate::tally::Tallies;
use crate::tending::Tending;
use crate::tls::Tls;
use crate::trust::{Peer, Trust, own::Local};
use crate::turns::Turns;
use crate::unseen::{Unseen, UnseenCounts};

/// The least time for the writers to finish, even if the connections have used up the drain time.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Most connections to `admin_listen`, the address for reads and administration.
const ADMIN_CONNECTIONS_MAX: usize = 1_024;
/// The time for a running scrape to finish when the gateway stops.
const MONITORING_DRAIN: Duration = Duration::from_secs(1);

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
}

impl Gateway {
    /// Builds all parts. It opens no socket, and the database may be away.
    #[expect(clippy::too_many_lines, reason = "a list of parts, each made once and given to those that need it")]
    fn build(
        config: &Config,
        database_url: &str,
        migrates: bool,
        connections: Arc<Connections>,
        admission: Arc<Admission>,
        Reloading { access_log, reload }: Reloading,
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
        let validators = Validators::start(parts::validator_options(config)).context("the validators")?;
        let clock = Arc::new(Clock::default());
        let in_flight = Budget::new(config.in_flight_bytes_max / 1024, share_percent);
        let local = if config.database_url.is_none() { config.local } else { Local::Off };
        let trust = Trust::new(config.trusted_proxies.clone(), config.forwarded_header, config.hosts.clone(), local)
            .with_event_types_max(config.event_types_max);
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
            live: Arc::clone(&live),
            reload,
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
        };
        Ok((gateway, vec![event_writers, dead_writers]))
    }

    /// Starts the tasks that run beside requests until `stop` is cancelled.
    fn tend(&self, config: &Config, tasks: &TaskTracker, stop: &CancellationToken, shutdown: &CancellationToken) {
        let tending = &self.tending;
        tasks.spawn(Arc::clone(tending).tend_database(stop.clone(), shutdown.clone()));
        tasks.spawn(Arc::clone(tending).look_at_database(stop.clone()));
        if config.role == Role::Full {
            tasks.spawn(Arc::clone(tending).fold_counts(stop.clone()));
            tasks.spawn(Arc::clone(tending).scrub_letters(stop.clone()));
            tasks.spawn(Arc::clone(tending).note_uses(stop.clone()));
            let (unseen, ended) = (Arc::clone(&self.unseen), shutdown.clone());
            tasks.spawn(async move { ended.run_until_cancelled(unseen.run()).await });
        } else {
            tracing::info!("the gateway is a reader: it serves reads, takes no events and changes nothing");
        }
        let poll = Duration::from_millis(config.applications_poll_ms);
        tasks.spawn(Arc::clone(&self.trust).follow(self.store.clone(), poll, stop.clone()));
        let (live, ended) = (Arc::clone(&self.live), stop.clone());
        tasks.spawn(async move { ended.run_until_cancelled(live.run()).await });
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

/// The parts that read the settings again and that change with them.
#[derive(Clone)]
struct Reloading {
    access_log: Arc<AccessLog>,
    reload: Arc<Reload>,
}

/// Serves until `shutdown` is cancelled and all requests that were accepted are finished.
///
/// # Errors
///
/// The errors that keep a gateway from starting: its address is in use, or the embedded Postgres does not run.
pub async fn serve(configured: Configured, migrate: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Configured { settings, config, read, hangup } = configured;
    let config = Config { connections_max: connections_max(&config)?, ..config };
    let access_log = Arc::new(AccessLog::new(config.access_log));
    let reload = Arc::new(Reload::new(read, settings, parts::changeable(&access_log)));
    let reloading = Reloading { access_log, reload: Arc::clone(&reload) };
    let mut served = pin!(serve_with(&config, reloading, migrate, shutdown));
    tokio::select! {
        served = &mut served => return served,
        () = reload.follow(hangup) => {}
    }
    served.await
}

async fn serve_with(
    config: &Config,
    reloading: Reloading,
    migrate: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(config.listen).await?;
    let bind_beside = async |address: Option<SocketAddr>| match address {
        Some(address) => bind(address).await.map(Some),
        None => Ok(None),
    };
    let monitoring = bind_beside(config.metrics_listen).await?;
    let admin = bind_beside(config.admin_listen).await?.map(|admin| admin.counted_with(&listener));
    let tls = parts::tls_files(config).map(Tls::load).transpose().context("TLS")?;
    for door in std::iter::once(&listener).chain(&admin) {
        warn_of_open_doors(config, door.address());
    }
    let own = match &config.database_url {
        Some(_) => None,
        // A stop in the meantime drops the start, which ends the processes that it has started.
        None => match shutdown.run_until_cancelled(Postgres::start(&config.postgres_options())).await {
            Some(own) => Some(own?),
            None => return Ok(()),
        },
    };
    let sockets = Sockets { listener, admin, monitoring, tls };
    let served = serve_on(sockets, config, reloading, own.as_ref(), migrate, shutdown).await;
    if let Some(own) = own {
        own.stop().await;
    }
    served
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

async fn bind(address: SocketAddr) -> anyhow::Result<Listener> {
    Listener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves the address for monitoring, also while the gateway drains.
async fn monitor(router: Arc<Router>, limits: ServerLimits, listener: Listener, stop: CancellationToken) {
    tracing::info!(address = %listener.address(), "monitoring is answered");
    let limits = ServerLimits { connections_max: parts::MONITORING_CONNECTIONS_MAX, drain: MONITORING_DRAIN, ..limits };
    let handler = move |request, _: Peer, _: RequestIds| {
        let router = Arc::clone(&router);
        async move { router.monitoring.answer(request).await }
    };
    listener.run(limits, Arc::default(), handler, stop).await;
}

/// Warns when tokens and events cross a network unencrypted.
fn warn_of_open_doors(config: &Config, address: SocketAddr) {
    if config.tls_certificate.is_none() && !address.ip().is_loopback() {
        tracing::warn!(%address, "without TLS everybody on the way can read tokens and events: set tls_certificate and tls_key");
    }
}

/// The sockets on which the gateway listens.
struct Sockets {
    listener: Listener,
    /// The address for reads and administration, if it has one of its own.
    admin: Option<Listener>,
    monitoring: Option<Listener>,
    tls: Option<Arc<Tls>>,
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
    Sockets { listener, admin, monitoring, tls }: Sockets,
    config: &Config,
    reloading: Reloading,
    own: Option<&Postgres>,
    migrate: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let url = database_url(own, config)?;
    let limits = parts::server_limits(config);
    let admission = Arc::new(parts::admission(config, tls.clone()));
    let migrates = (migrate && config.role == Role::Full) || own.is_some();
    let (gateway, writers) =
        Gateway::build(config, &url, migrates, listener.connections(), Arc::clone(&admission), reloading)?;
    if own.is_some() {
        let Some(prepared) = shutdown.run_until_cancelled(gateway.tending.prepare_own()).await else {
            gateway.validators.stop().await;
            return Ok(());
        };
        prepared.context("the schema of the embedded Postgres")?;
    }
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    gateway.tend(config, &tasks, &stop, &shutdown);
    if let Some(monitoring) = monitoring {
        tasks.spawn(monitor(Arc::clone(&gateway.router), limits, monitoring, stop.clone()));
    }
    if let Some(tls) = tls {
        tasks.spawn(tls.follow(stop.clone()));
    }
    tasks.close();
    tracing::info!(address = %listener.address(), "the gateway listens");

    let router = &gateway.router;
    let handler = |door: Door| {
        let router = Arc::clone(router);
        move |request, peer: Peer, ids: RequestIds| {
            let router = Arc::clone(&router);
            async move { pin!(router.answer(request, peer, ids, door)).await }
        }
    };
    let first = if admin.is_some() { Door::Sending } else { Door::Whole };
    let serving = listener.run(limits, Arc::clone(&admission), handler(first), shutdown.clone());
    let administrating = async {
        let Some(admin) = admin else { return };
        tracing::info!(address = %admin.address(), "reading and administration are answered");
        let limits = ServerLimits { connections_max: limits.connections_max.min(ADMIN_CONNECTIONS_MAX), ..limits };
        admin.run(limits, admission, handler(Door::Whole), shutdown.clone()).await;
    };
    let announce = async {
        shutdown.cancelled().await;
        gateway.readiness.set_draining();
        gateway.streams.stop();
        gateway.live.end();
        tracing::info!("the gateway drains: it finishes what it took, and takes nothing new");
        Instant::now()
    };
    let ((), (), since) = tokio::join!(serving, administrating, announce);
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
