//! Config, build, run, drain: the four steps of a gateway's life. What requests share lives here, and nothing of how a
//! request is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::{Batcher, Limits, Writers};
use crate::body::BodyLimits;
use crate::clock::Clock;
use crate::config::{Config, UnknownEventType};
use crate::dead_letters::DeadLetters;
use crate::envelope::{self, Rules};
use crate::event::EventRow;
use crate::postgres::Postgres;
use crate::router;
use crate::server::{Listener, ServerLimits};
use crate::store::Store;
use crate::trust::Trust;
use crate::validator::{self, Validators};

/// How long to wait before the database is asked again at start.
const DATABASE_RETRY: Duration = Duration::from_millis(500);
/// What the writers get to finish in even if the connections have used up all of the time to drain.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// How often partitions are made ahead.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3_600);

/// What all requests share.
#[derive(Debug)]
pub struct Gateway {
    /// The proved configuration.
    pub config: Config,
    /// The gateway's own rules for events.
    pub rules: Rules,
    /// Bounds of a body.
    pub body_limits: BodyLimits,
    /// The bytes in flight, a permit for each KiB.
    pub in_flight: Arc<Semaphore>,
    /// The wall clock.
    pub clock: Clock,
    /// Who may call.
    pub trust: Arc<Trust>,
    /// Who judges.
    pub validators: Validators,
    /// Where accepted events go.
    pub events: Batcher<EventRow>,
    /// Where all others go.
    pub dead_letters: DeadLetters,
    /// Where events are read.
    pub store: Store,
    /// Set once the schema is known to be current.
    migrated: AtomicBool,
    draining: AtomicBool,
}

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

impl Gateway {
    /// Builds all parts. Nothing listens yet, and the database need not be there.
    fn build(config: Config, database_url: &str, migrated: bool) -> anyhow::Result<(Arc<Gateway>, Vec<Writers>)> {
        let rules = rules(&config);
        let flush_time = Duration::from_millis(config.flush_ms);
        let read_time = Duration::from_millis(config.read_ms);
        let store =
            Store::new(database_url, config.read_connections, read_time, flush_time).context("the database's URL")?;
        let limits = Limits {
            events_max: config.batch_events_max,
            bytes_max: config.batch_bytes_max,
            age: Duration::from_millis(config.batch_age_ms),
            parcels_max: config.queue_parcels_max,
        };
        let sinks = (0..config.writers).map(|_| store.event_sink()).collect();
        let (events, event_writers) = Batcher::start("events", limits, sinks);
        let (dead, dead_writers) = Batcher::start("dead_letters", limits, vec![store.dead_letter_sink()]);
        let validators = Validators::start(validator_options(&config, rules)).context("the validators")?;
        let gateway = Gateway {
            rules,
            body_limits: BodyLimits {
                bytes_max: config.request_bytes_max,
                read: Duration::from_millis(config.body_read_ms),
            },
            in_flight: Arc::new(Semaphore::new(config.in_flight_bytes_max / 1024)),
            clock: Clock::default(),
            trust: Arc::default(),
            validators,
            events,
            dead_letters: DeadLetters::new(dead, config.batch_events_max, config.dead_letter_queue_bytes_max),
            store,
            migrated: AtomicBool::new(migrated),
            draining: AtomicBool::new(false),
            config,
        };
        Ok((Arc::new(gateway), vec![event_writers, dead_writers]))
    }

    /// Asks all parts whether they are ready.
    pub async fn readiness(&self) -> Readiness {
        let known = self.migrated.load(Ordering::Relaxed) && self.trust.known();
        Readiness {
            database: known && self.store.ready().await,
            validators: self.validators.scanned(),
            draining: self.draining.load(Ordering::Relaxed),
        }
    }

    /// Brings the schema up as soon as the database is there, then keeps partitions made ahead.
    async fn tend_database(self: Arc<Self>, stop: CancellationToken) {
        let tend = async {
            let mut told = false;
            while !self.migrated.load(Ordering::Relaxed) {
                match self.store.migrate().await {
                    Ok(()) => self.migrated.store(true, Ordering::Relaxed),
                    Err(error) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(%error, "the database is not ready; trying again until it is");
                        }
                        tokio::time::sleep(DATABASE_RETRY).await;
                    }
                }
            }
            tracing::info!("the database has the current schema");
            let mut hours = tokio::time::interval(PARTITIONS_EVERY);
            loop {
                hours.tick().await;
                if let Err(error) = self.store.make_partitions().await {
                    tracing::warn!(%error, "partitions could not be made ahead");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tend => {}
        }
    }
}

fn rules(config: &Config) -> Rules {
    Rules {
        data_bytes_max: config.data_bytes_max,
        nesting_max: config.nesting_max,
        future_us_max: i64::try_from(config.future_seconds_max)
            .unwrap_or(i64::MAX / 1_000_000)
            .saturating_mul(1_000_000),
        events_max: config.events_per_request_max,
    }
}

fn validator_options(config: &Config, rules: Rules) -> validator::Options {
    validator::Options {
        modules_dir: config.modules.clone(),
        data_dir: config.data_dir.clone(),
        unknown_event_type: match config.unknown_event_type {
            UnknownEventType::Accept => validator::UnknownEventType::Accept,
            UnknownEventType::Reject => validator::UnknownEventType::Reject,
        },
        limits: validator::Limits {
            deadline_ms: config.deadline_ms,
            memory_bytes_max: config.memory_bytes_max,
            output_bytes_max: config.output_bytes_max,
            violations_max: config.violations_max,
        },
        rescan: Duration::from_secs(config.rescan_seconds),
        check_amended: Arc::new(move |data| envelope::check_data(data, &rules)),
    }
}

/// Serves until `shutdown` is cancelled and everything that was taken is finished.
///
/// # Errors
///
/// What stops a gateway from starting: its address is taken, or its own Postgres cannot be run.
pub async fn serve(config: Config, migrate: bool, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener =
        Listener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let own = match &config.database_url {
        Some(_) => None,
        None => Some(Postgres::start(&config.postgres_options()).await?),
    };
    let served = serve_on(listener, config, own.as_ref(), migrate, shutdown).await;
    if let Some(own) = own {
        own.stop().await;
    }
    served
}

async fn serve_on(
    listener: Listener,
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
    let limits = ServerLimits {
        connections_max: config.connections_max,
        header_read: Duration::from_millis(config.header_read_ms),
        drain,
    };
    let (gateway, writers) = Gateway::build(config, &url, !migrate && own.is_none())?;
    if own.is_some() {
        // Here nobody has registered an application yet, and only this machine can call.
        gateway.store.migrate().await.context("the schema of the embedded Postgres")?;
        gateway.migrated.store(true, Ordering::Relaxed);
        gateway.store.ensure_local_application().await?;
        gateway.trust.refresh(&gateway.store).await?;
    }
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    tasks.spawn(Arc::clone(&gateway).tend_database(stop.clone()));
    tasks.spawn(Arc::clone(&gateway.trust).follow(gateway.store.clone(), stop.clone()));
    tasks.close();
    tracing::info!(address = %listener.address(), "the gateway listens");

    let shared = Arc::clone(&gateway);
    let handler = move |request, peer: std::net::SocketAddr| {
        let gateway = Arc::clone(&shared);
        async move { router::answer(&gateway, request, peer.ip()).await }
    };
    let announce = async {
        shutdown.cancelled().await;
        gateway.draining.store(true, Ordering::Relaxed);
        tracing::info!("the gateway drains: it finishes what it took, and takes nothing new");
        Instant::now()
    };
    let ((), since) = tokio::join!(listener.run(limits, handler, shutdown.clone()), announce);
    gateway.events.close();
    gateway.dead_letters.close();
    for writers in writers {
        writers.drain(drain.saturating_sub(since.elapsed()).max(LAST_WRITES)).await;
    }
    stop.cancel();
    tasks.wait().await;
    gateway.validators.stop().await;
    gateway.store.close().await;
    tracing::info!("the gateway has stopped");
    Ok(())
}
