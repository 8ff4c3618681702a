//! Builds, runs and drains a gateway. This is the only file that knows all parts; each part knows only those that it is
//! given.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use eye_judge::{Observer, Options, Validators};
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::changing::{Doors, Lasting, Ships, job_settings, scrub_settings};
use crate::access_log::AccessLog;
use crate::batch::{Batcher, Writers};
use crate::candidates::{Candidates, Notice, TakenBack};
use crate::clock::Clock;
use crate::config::{self, Config, Settings, parts};
use crate::dead_letters::DeadLetters;
use crate::descriptors;
use crate::duties::Duties;
use crate::fleet::Fleet;
use crate::jobs::rejudge::RejudgeCounts;
use crate::jobs::{Jobs, JobsEnded};
use crate::live::Live;
use crate::panel::SignIns;
use crate::panel_address;
use crate::postgres::{Postgres, STOP_TIME_MAX};
use crate::promotion::Promotion;
use crate::query::Streams;
use crate::readiness::Readiness;
use crate::reload::{self, Reload};
use crate::request_ids::RequestIds;
use crate::response::{Response, UnsentAnswers};
use crate::retention::Retention;
use crate::router::{Door, Router};
use crate::server::{Admission, Closing, Connections, LimitsInForce, Listener, ServedRequest};
use crate::share::Budget;
use crate::shutdown::Shutdown;
use crate::sockets::{Assigned, Sockets};
use crate::store::{Role, Store};
use crate::systemd::ServiceManager;
use crate::tally::Tallies;
use crate::tending::Tending;
use crate::tls::{Roots, Tls};
use crate::trail::Trail;
use crate::trust::{Peer, Trust};
use crate::turns::Turns;
use crate::webhook::Webhook;

mod changing;

/// The least time for the writers to finish, even if the connections have used up the drain time.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// The longest wait of a starting gateway until it is ready, before it accepts connections on a passed socket. Connections
/// that have queued there meanwhile then get an outcome and not a 503.
const FIRST_READY: Duration = Duration::from_secs(2);
/// The time of a stop beyond the drain and the stop of the embedded Postgres.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// The parts that `serve_on` runs and drains, and the router of the settings in force.
struct Gateway {
    /// Each request takes it once, so it keeps the settings with which it began.
    router: ArcSwap<Router>,
    lasting: Lasting,
}

/// The parts for which the listeners and the order to reload exist before the gateway.
struct Around {
    connections: Arc<Connections>,
    /// The address that takes events.
    listener: SocketAddr,
    /// The address that answers the panel.
    panel_listener: SocketAddr,
    admission: Arc<Admission>,
    doors: Doors,
    reloading: Reloading,
}

impl Gateway {
    /// Builds all parts. It opens no socket, and the database may be away.
    #[expect(clippy::too_many_lines, reason = "a list of parts, each made once and given to those that need it")]
    fn build(
        config: &Config,
        database_url: &str,
        migrates: bool,
        Around {
            connections,
            listener,
            panel_listener,
            admission,
            doors,
            reloading: Reloading { access_log, reload, trail },
        }: Around,
    ) -> anyhow::Result<(Arc<Gateway>, Vec<Writers>)> {
        let settings = parts::changeable(config);
        let share_percent = settings.rooms.share_percent;
        let store = store_of(config, database_url)?;
        // A reader has no writers. Its router refuses all requests that need one.
        let writes = config.role == Role::Full;
        let sinks = (0..config.writers).filter(|_| writes).map(|_| store.event_sink()).collect();
        let (events, event_writers) = Batcher::start("events", settings.queue, sinks);
        let letter_sinks = Some(()).filter(|()| writes).map(|()| store.dead_letter_sink()).into_iter().collect();
        let (dead, dead_writers) = Batcher::start("dead_letters", settings.queue, letter_sinks);
        let dead_letters = Arc::new(DeadLetters::new(
            dead,
            settings.queue.events_max,
            settings.rooms.dead_letter_queue_bytes_max,
            share_percent,
        ));
        let observed = Arc::clone(&trail);
        let observer = Observer::new(move |slots, happening| observed.note_module(slots, &happening));
        let options = Options { observer, ..parts::validator_options(config) };
        let validators = Validators::start(options).context("the validators")?;
        let clock = Arc::new(Clock::default());
        let in_flight = Budget::new(settings.rooms.in_flight_bytes_max / 1024, share_percent);
        let local = settings.callers.local;
        let trust = Arc::new(Trust::new(settings.callers.clone()).with_panel(config.panel));
        let retention = Arc::new(Retention::new(settings.retention, settings.retention_every));
        let fleet = Arc::new(Fleet::new(store.clone(), validators.clone(), parts::identity(config, listener)));
        fleet.set_guard_minutes(settings.guard_minutes);
        let readiness = Arc::new(Readiness::new(
            store.clone(),
            Arc::clone(&trust),
            validators.clone(),
            Arc::clone(&retention),
            Arc::clone(&fleet),
            settings.ready_requires_modules,
        ));
        let streams = Arc::new(Streams::new(settings.rooms.streams_max, share_percent, settings.rooms.stream_stall));
        let turns = Arc::new(Turns::new(
            usize::try_from(config.read_connections).unwrap_or(usize::MAX),
            share_percent,
            settings.requests.read_wait,
        ));
        let unsent =
            Arc::new(UnsentAnswers::new(settings.rooms.answers_bytes_max, share_percent, Arc::clone(&in_flight)));
        let upkeep = Arc::default();
        let duties = Arc::new(Duties::new(store.clone()));
        let tending = Tending {
            store: store.clone(),
            clock: Arc::clone(&clock),
            validators: validators.clone(),
            trust: Arc::clone(&trust),
            local,
            first_admin: parts::first_admin(config),
            panel: parts::panel_at_start(config, panel_listener),
            duties: Arc::clone(&duties),
            retention: Arc::clone(&retention),
            upkeep: Arc::clone(&upkeep),
            readiness: Arc::clone(&readiness),
            scrub: ArcSwap::from_pointee(scrub_settings(&settings)),
            migrates,
            failed: OnceLock::new(),
        };
        let jobs = Jobs {
            settings: ArcSwap::from_pointee(job_settings(&settings, &store, validators.clone())),
            store: store.clone(),
            clock: Arc::clone(&clock),
            events: events.clone(),
            readiness: Arc::clone(&readiness),
            duties: Arc::clone(&duties),
            counts: RejudgeCounts::default(),
            ended: JobsEnded::default(),
        };
        let live = Arc::new(Live::new(settings.live));
        let roots = config::remote::trusted_roots();
        let roots = Roots::read(roots.as_deref()).map_err(|error| error.to_string());
        let webhook = Arc::new(Webhook::new(settings.notified.clone(), roots, Arc::clone(&clock), &config.data_dir));
        let minutes = settings.guard_minutes;
        let notice = notice_of_guard(&fleet, &live, &webhook);
        let candidates = Candidates::new(store.clone(), validators.clone(), config.modules_from, minutes, notice);
        let lasting = Lasting {
            live,
            webhook,
            promotion: Arc::new(Promotion::new(store.clone(), Arc::clone(&duties), Arc::clone(&fleet))),
            tallies: Arc::new(Tallies::new(config.metrics_event_types_max)),
            requests: Arc::default(),
            redriving: Arc::new(Semaphore::new(1)),
            panel: config.panel,
            sign_ins: Arc::new(SignIns::default()),
            began_at_us: clock.now_us(),
            data_dir: config.data_dir.clone(),
            modules_dir: config.modules.clone(),
            ships: Ships::default(),
            fleet,
            candidates: Arc::new(candidates),
            tending: Arc::new(tending),
            jobs: Arc::new(jobs),
            store,
            validators,
            clock,
            trust,
            in_flight,
            events,
            dead_letters,
            turns,
            unsent,
            streams,
            duties,
            retention,
            readiness,
            upkeep,
            connections,
            admission,
            doors,
            access_log,
            trail,
            reload,
        };
        let router = lasting.router(&settings, lasting.validators.clone());
        let gateway = Arc::new(Self { router: ArcSwap::from_pointee(router), lasting });
        gateway.begin_reloads();
        Ok((gateway, vec![event_writers, dead_writers]))
    }

    /// Lets reloads change this gateway as long as it is there.
    fn begin_reloads(self: &Arc<Self>) {
        let gateway = Arc::downgrade(self);
        self.lasting.reload.begin(Box::new(move |settings| match gateway.upgrade() {
            Some(gateway) => gateway.prepare(settings),
            None => Err(vec!["the gateway stops".to_owned()]),
        }));
    }

    /// Brings the embedded Postgres to the current schema. Returns false if a signal stopped that.
    async fn prepare_own(&self, run: Run<'_>) -> anyhow::Result<bool> {
        let prepared = tokio::select! {
            prepared = run.shutdown.drain.run_until_cancelled(self.lasting.tending.prepare_own()) => prepared,
            never = run.manager.starting() => match never {},
        };
        prepared.transpose().map(|prepared| prepared.is_some()).context("the schema of the embedded Postgres")
    }

    /// Starts the tasks that run beside requests until `stop` is cancelled.
    fn tend(&self, run: Run<'_>, tasks: &TaskTracker, stop: &CancellationToken) {
        let (tending, drain) = (&self.lasting.tending, &run.shutdown.drain);
        tasks.spawn(Arc::clone(tending).tend_database(stop.clone(), drain.clone()));
        tasks.spawn(Arc::clone(tending).look_at_database(stop.clone()));
        if run.config.role == Role::Full {
            let (duties, readiness) = (Arc::clone(&self.lasting.duties), Arc::clone(&self.lasting.readiness));
            let ended = stop.clone();
            tasks.spawn(async move { duties.run(|| readiness.is_migrated(), &ended).await });
            tasks.spawn(Arc::clone(tending).fold_counts(stop.clone()));
            tasks.spawn(Arc::clone(tending).scrub_letters(stop.clone()));
            tasks.spawn(Arc::clone(tending).note_uses(stop.clone()));
            let (jobs, duties) = (Arc::clone(&self.lasting.jobs), Arc::clone(&self.lasting.duties));
            let (drain, ended) = (drain.clone(), stop.clone());
            tasks.spawn(async move {
                ended.run_until_cancelled(jobs.run(&drain)).await;
                duties.stop_jobs().await;
            });
            let (promotion, ended) = (Arc::clone(&self.lasting.promotion), stop.clone());
            tasks.spawn(async move { promotion.run(ended).await });
            let (webhook, ended) = (Arc::clone(&self.lasting.webhook), stop.clone());
            tasks.spawn(async move { webhook.run(ended).await });
            let (candidates, ended) = (Arc::clone(&self.lasting.candidates), stop.clone());
            let readiness = Arc::clone(&self.lasting.readiness);
            tasks.spawn(async move { candidates.run(|| readiness.is_migrated(), ended).await });
            let readiness = Arc::clone(&self.lasting.readiness);
            let is_ready = move || readiness.is_migrated();
            tasks.spawn(Arc::clone(&self.lasting.trail).run(self.lasting.store.clone(), is_ready, stop.clone()));
        } else {
            tracing::info!("the gateway is a reader: it serves reads, takes no events and changes nothing");
        }
        let readiness = Arc::clone(&self.lasting.readiness);
        let is_ready = move || readiness.is_migrated();
        tasks.spawn(Arc::clone(&self.lasting.fleet).run(is_ready, stop.clone()));
        tasks.spawn(Arc::clone(&self.lasting.trust).follow(self.lasting.store.clone(), stop.clone()));
        let (live, ended) = (Arc::clone(&self.lasting.live), stop.clone());
        tasks.spawn(async move { ended.run_until_cancelled(live.run()).await });
    }

    /// Answers requests with the handler of each address until all connections have ended. Returns when the drain began.
    async fn answer<F, Fut>(
        &self,
        run: Run<'_>,
        listener: Listener,
        admin: Option<Listener>,
        handler: impl Fn(Door) -> F,
    ) -> Instant
    where
        F: Fn(ServedRequest, Peer, RequestIds) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response> + Send + 'static,
    {
        let Doors { whole, admin: of_admin, .. } = &self.lasting.doors;
        let admission = || Arc::clone(&self.lasting.admission);
        let closing = Closing::default();
        let first = if admin.is_some() { Door::Sending } else { Door::Whole };
        let serving = listener.run(Arc::clone(whole), admission(), handler(first), closing.clone());
        let administrating = async {
            let Some(admin) = admin else { return };
            tracing::info!(address = %admin.address(), "reading and administration are answered");
            admin.run(Arc::clone(of_admin), admission(), handler(Door::Whole), closing.clone()).await;
        };
        let ((), (), since) = tokio::join!(serving, administrating, self.close(run, &closing));
        since
    }

    /// Waits for the order to stop, moves the peers away and closes the listeners. Returns when it has closed them.
    async fn close(&self, run: Run<'_>, closing: &Closing) -> Instant {
        tokio::select! {
            () = run.shutdown.drain.cancelled() => {}
            never = self.lasting.readiness.report_to(run.manager) => match never {},
        }
        let (delay, drain) = (self.drain_delay(run.config), self.lasting.doors.whole.now().drain);
        self.lasting.readiness.set_draining();
        closing.ask_to_leave();
        run.manager.stopping(delay + drain + STOP_TIME_MAX + LAST_STEPS).await;
        if !delay.is_zero() {
            let accepts_ms = delay.as_millis();
            tracing::info!(accepts_ms, "the gateway is about to stop: /readyz is 503, and it still accepts for a time");
            sleep(delay).await;
        }
        closing.close();
        self.lasting.streams.stop();
        self.lasting.live.end();
        tracing::info!("the gateway drains: it finishes what it took, and takes nothing new");
        Instant::now()
    }
}

/// Tells what the guard took back to readers of the live stream and to the URL of the operator.
fn notice_of_guard(fleet: &Arc<Fleet>, live: &Arc<Live>, webhook: &Arc<Webhook>) -> Notice {
    let (fleet, live, webhook) = (Arc::clone(fleet), Arc::clone(live), Arc::clone(webhook));
    Box::new(move |back: &TakenBack| {
        fleet.wake();
        let told = back.as_json();
        live.tell_taken_back(back.slot.parts(), &told);
        webhook.send("module.taken_back", &told);
    })
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
    let reload = Arc::new(Reload::new(read, settings, Arc::clone(&trail)));
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
    let tls = parts::tls_files(config).map(Tls::load).transpose().context("TLS")?.unwrap_or_default();
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
async fn monitor<F, Fut>(listener: Listener, limits: Arc<LimitsInForce>, handler: F, stop: CancellationToken)
where
    F: Fn(ServedRequest, Peer, RequestIds) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response> + Send + 'static,
{
    tracing::info!(address = %listener.address(), "monitoring is answered");
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
    tls: Arc<Tls>,
    reloading: Reloading,
    own: Option<&Postgres>,
    migrate: bool,
) -> anyhow::Result<()> {
    let Run { config, manager, shutdown } = run;
    let url = database_url(own, config)?;
    let settings = parts::changeable(config);
    let doors = Doors::new(settings.connections, settings.drain_delay_ms);
    let admission = Arc::new(Admission::new(tls, settings.proxying));
    let migrates = (migrate && config.role == Role::Full) || own.is_some();
    let bound = admin.as_ref().unwrap_or(&listener).address();
    let around = Around {
        connections: listener.connections(),
        listener: listener.address(),
        panel_listener: bound,
        admission: Arc::clone(&admission),
        doors,
        reloading,
    };
    let (gateway, writers) = Gateway::build(config, &url, migrates, around)?;
    if own.is_some() {
        let address = parts::panel_address(config, Some(bound)).filter(|_| config.panel);
        if let Err(error) = panel_address::note(&config.data_dir, address.as_deref()) {
            tracing::warn!(%error, "the address of the panel could not be noted in the data dir, so `eye panel` does not find it");
        }
    }
    if own.is_some() && !gateway.prepare_own(run).await? {
        gateway.lasting.validators.stop().await;
        return Ok(());
    }
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    gateway.tend(run, &tasks, &stop);
    let lasting = &gateway.lasting;
    if let Some(own) = own {
        tasks.spawn(Arc::clone(&lasting.trail).note_starts(own.starts(), stop.clone()));
    }
    // All addresses have this one handler, so the server is compiled once.
    let answering = Arc::clone(&gateway);
    let handler = move |door: Door| {
        let gateway = Arc::clone(&answering);
        move |request, peer: Peer, ids: RequestIds| {
            let router = gateway.router.load_full();
            async move { pin!(router.answer_at(door, request, peer, ids)).await }
        }
    };
    if let Some(monitoring) = monitoring {
        let limits = Arc::clone(&lasting.doors.monitoring);
        tasks.spawn(monitor(monitoring, limits, handler(Door::Monitoring), stop.clone()));
    }
    tasks.spawn(Arc::clone(&admission.tls).follow(stop.clone()));
    tasks.close();
    if passed {
        // After this time it answers in any case, if only with 503.
        let _ready = timeout(FIRST_READY, shutdown.drain.run_until_cancelled(lasting.readiness.first_ready())).await;
    }
    tracing::info!(address = %listener.address(), "the gateway listens");
    manager.ready().await;
    let since = gateway.answer(run, listener, admin, handler).await;
    lasting.events.close();
    lasting.dead_letters.close();
    for writers in writers {
        writers.drain(lasting.doors.whole.now().drain.saturating_sub(since.elapsed()).max(LAST_WRITES)).await;
    }
    stop.cancel();
    tasks.wait().await;
    lasting.duties.give_all_back().await;
    lasting.streams.stopped().await;
    lasting.validators.stop().await;
    lasting.store.close().await;
    tracing::info!("the gateway has stopped");
    match lasting.tending.failed.get() {
        Some(error) => Err(anyhow::anyhow!("{error}")),
        None => Ok(()),
    }
}
