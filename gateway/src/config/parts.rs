//! Makes the limits and options of each part of a gateway from the configuration. The parts do not know the
//! configuration; this file is the one place that knows both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use eye_event::envelope::{self, Rules};

use super::{Config, UnknownEventType};
use crate::access_log::AccessLogMode;
use crate::audit::Actor;
use crate::batch;
use crate::body::BodyLimits;
use crate::first_admin::{AtStart, FirstAdmin};
use crate::fleet::Identity;
use crate::ingest::IngestLimits;
use crate::live;
use crate::panel_address;
use crate::retention::Policy;
use crate::scrub::ScrubLimits;
use crate::server::{Proxying, ServerLimits};
use crate::sockets::Addresses;
use crate::store::Role;
use crate::telemetry::LogFormat;
use crate::tls::Files;
use crate::trust::CallerRules;
use crate::trust::event_types::EventTypes;
use crate::trust::own::Local;
use crate::webhook::Target;

/// All that running parts take from the settings, at the start and with each reload. A setting whose row says `reload`
/// decides about something here, and no other does, as a test holds.
#[derive(Clone, Debug)]
pub struct Changeable {
    /// The least severe level of the log.
    pub log_level: String,
    /// The requests that have a line in the access log.
    pub access_log: AccessLogMode,
    /// Bounds of connections.
    pub connections: ServerLimits,
    /// How long a stopping gateway still accepts connections; `None` for the default.
    pub drain_delay_ms: Option<u64>,
    /// The files of TLS; `None` without TLS.
    pub tls: Option<Files>,
    /// The proxies that connections come from.
    pub proxying: Proxying,
    /// How callers are identified.
    pub callers: CallerRules,
    /// Bounds of single requests.
    pub requests: RequestSettings,
    /// The terms of judging.
    pub judging: JudgingSettings,
    /// Bounds of the queues of rows and dead letters.
    pub queue: batch::Limits,
    /// Sizes of the rooms that applications share.
    pub rooms: Rooms,
    /// Bounds of the readers of live outcomes.
    pub live: live::Limits,
    /// What is kept.
    pub retention: Policy,
    /// The time between two rounds of retention.
    pub retention_every: Duration,
    /// Bounds of the scrubbing of older dead letters.
    pub scrub: ScrubLimits,
    /// Whether missing modules make the gateway not ready.
    pub ready_requires_modules: bool,
    /// How many minutes a module is compared with the one that it replaced.
    pub guard_minutes: u64,
    /// The place that is told what was taken back; `None` for none.
    pub notified: Option<Target>,
}

/// Bounds of single requests.
#[derive(Clone, Debug)]
pub struct RequestSettings {
    /// The gateway's own rules for events.
    pub rules: Rules,
    /// Bounds of a sending request.
    pub ingest: IngestLimits,
    /// Most headers.
    pub headers_max: usize,
    /// Origins whose pages may send.
    pub cors_origins: Vec<String>,
    /// Most event types of an application.
    pub event_types_max: usize,
    /// Most bytes of an event that a dead letter keeps.
    pub dead_letter_raw_bytes_max: usize,
    /// Most bytes of a page.
    pub page_bytes_max: usize,
    /// The longest wait of a read for a connection.
    pub read_wait: Duration,
    /// Most unseen events per second that are judged again.
    pub rejudge_events_per_second_max: u32,
}

/// The terms of judging.
#[derive(Clone, Debug)]
pub struct JudgingSettings {
    /// The verdict on an event whose type has no module.
    pub unknown_event_type: UnknownEventType,
    /// The event types that must have a module.
    pub require_module: Arc<EventTypes>,
    /// How long the events of a request may wait for places of their modules.
    pub wait: Duration,
    /// How long judging all of them may take.
    pub judging: Duration,
    /// Bounds of slow calls. The number of places is that of the start.
    pub away: eye_judge::OffloadLimits,
    /// Bounds of the events that wait to be compared.
    pub compare: eye_judge::CompareLimits,
    /// The longest deadline that a module's own settings may ask for, in milliseconds.
    pub deadline_ms_max: u64,
}

/// Sizes of the rooms that applications share.
#[derive(Clone, Copy, Debug)]
pub struct Rooms {
    /// Percent of each that one application may fill alone.
    pub share_percent: usize,
    /// Bytes of bodies that are read, judged or written.
    pub in_flight_bytes_max: usize,
    /// Bytes of answers to reads that are not sent yet.
    pub answers_bytes_max: usize,
    /// Bytes of rejected events that wait to be kept.
    pub dead_letter_queue_bytes_max: usize,
    /// Streams of lines at once.
    pub streams_max: usize,
    /// How long the reader of a stream may read nothing.
    pub stream_stall: Duration,
}

/// What the parts of a gateway take from these settings.
pub fn changeable(config: &Config) -> Changeable {
    Changeable {
        log_level: config.log_level.clone(),
        access_log: config.access_log,
        connections: server_limits(config),
        drain_delay_ms: config.drain_delay_ms,
        tls: tls_files(config),
        proxying: proxying(config),
        callers: caller_rules(config),
        requests: request_settings(config),
        judging: judging_settings(config),
        queue: batch_limits(config),
        rooms: Rooms {
            share_percent: config.application_share_percent,
            in_flight_bytes_max: config.in_flight_bytes_max,
            answers_bytes_max: config.answers_bytes_max,
            dead_letter_queue_bytes_max: config.dead_letter_queue_bytes_max,
            streams_max: config.streams_max,
            stream_stall: Duration::from_millis(config.stream_stall_ms),
        },
        live: live_limits(config),
        retention: retention_policy(config),
        retention_every: Duration::from_secs(config.retention_seconds),
        scrub: scrub_limits(config),
        ready_requires_modules: config.ready_requires_modules,
        guard_minutes: config.guard_minutes,
        // The settings were proved before.
        notified: notified(config).transpose().unwrap_or_default(),
    }
}

/// The place that is told what was taken back, or what is wrong with it.
pub fn notified(config: &Config) -> Option<Result<Target, String>> {
    let url = config.notify_url.as_ref()?;
    let secret = config.notify_secret.as_ref().map_or("", |secret| secret.expose());
    Some(Target::read(url.expose(), secret))
}

fn request_settings(config: &Config) -> RequestSettings {
    RequestSettings {
        rules: rules(config),
        ingest: ingest_limits(config),
        headers_max: config.headers_max,
        cors_origins: config.cors_origins.clone(),
        event_types_max: config.event_types_max,
        dead_letter_raw_bytes_max: config.dead_letter_raw_bytes_max,
        page_bytes_max: config.page_bytes_max,
        read_wait: Duration::from_millis(config.read_wait_ms),
        rejudge_events_per_second_max: config.rejudge_events_per_second_max,
    }
}

fn judging_settings(config: &Config) -> JudgingSettings {
    let shared = shared_limits(config);
    JudgingSettings {
        unknown_event_type: config.unknown_event_type,
        require_module: Arc::clone(&config.require_module),
        wait: shared.wait,
        judging: shared.judging,
        // The threads of the places are made at the start.
        away: eye_judge::OffloadLimits { places: 0, ..shared.away },
        compare: shared.compare,
        deadline_ms_max: deadline_ms_max(config),
    }
}

/// The change of running validators.
pub fn validators_change(judging: &JudgingSettings, rules: Rules) -> eye_judge::Change {
    eye_judge::Change {
        terms: eye_judge::Terms {
            unknown_event_type: unknown_event_type(judging.unknown_event_type),
            required: required(&judging.require_module),
            check_amended: check_amended(rules),
            wait: judging.wait,
            judging: judging.judging,
        },
        away: judging.away,
        compare: judging.compare,
        deadline_ms_max: judging.deadline_ms_max,
        rules,
    }
}

fn unknown_event_type(treatment: UnknownEventType) -> eye_judge::UnknownEventType {
    match treatment {
        UnknownEventType::Accept => eye_judge::UnknownEventType::Accept,
        UnknownEventType::Reject => eye_judge::UnknownEventType::Reject,
    }
}

fn required(types: &Arc<EventTypes>) -> eye_judge::Required {
    let types = Arc::clone(types);
    let each = types.each().map(|(category, name)| (category.to_owned(), name.map(str::to_owned))).collect();
    eye_judge::Required { contains: Arc::new(move |category, name| types.contains(category, name)), each }
}

/// A longer deadline would end after the answer, so that the sender would not learn of the fault.
fn deadline_ms_max(config: &Config) -> u64 {
    config.answer_ms.saturating_sub(1)
}

/// The gateway's own rules for events.
pub fn rules(config: &Config) -> Rules {
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

/// What the gateway says of itself to others on its database. It takes events at `listener`.
pub fn identity(config: &Config, listener: SocketAddr) -> Identity {
    let name = Some(config.gateway_name.clone()).filter(|name| !name.is_empty());
    let name = name.or_else(|| Actor::gateway().host).unwrap_or_else(|| "gateway".to_owned());
    Identity { name, listen: listener.to_string(), modules_from: config.modules_from }
}

/// Checks the data that a validator amended, as the envelope checks what senders write.
pub fn check_amended(rules: Rules) -> eye_judge::CheckAmended {
    Arc::new(move |data| envelope::check_data(data, &rules))
}

/// Options of the validators.
pub fn validator_options(config: &Config) -> eye_judge::Options {
    let rules = rules(config);
    eye_judge::Options {
        modules_from: config.modules_from,
        modules_dir: config.modules.clone(),
        data_dir: config.data_dir.clone(),
        unknown_event_type: unknown_event_type(config.unknown_event_type),
        required: required(&config.require_module),
        is_beside_gateway: false,
        limits: eye_judge::Limits {
            deadline_ms: config.deadline_ms,
            memory_bytes_max: config.memory_bytes_max,
            output_bytes_max: config.output_bytes_max,
            violations_max: config.violations_max,
        },
        deadline_ms_max: deadline_ms_max(config),
        shared: shared_limits(config),
        rescan: Duration::from_secs(config.rescan_seconds),
        check_amended: check_amended(rules),
        loading: eye_judge::Loading::by_this_program(loader_limits(config), rules),
        observer: eye_judge::Observer::default(),
    }
}

/// Bounds of the processes that load modules.
fn loader_limits(config: &Config) -> eye_judge::LoaderLimits {
    eye_judge::LoaderLimits {
        memory_bytes: config.loader_memory_bytes,
        memory_per_byte: config.loader_memory_per_byte,
        processor_ms: config.loader_processor_ms,
        processor_ms_per_mib: config.loader_processor_ms_per_mib,
        quick_ms: config.loader_quick_ms,
        wall_factor: config.loader_wall_factor,
        self_test_ms: config.loader_self_test_ms,
        stack_bytes: config.loader_stack_bytes,
        bounds_percent: config.loader_bounds_percent,
    }
}

/// Bounds that all modules share. A part of the time for the answer is for waiting for modules. Of the rest, half is
/// for judging and half for the write.
fn shared_limits(config: &Config) -> eye_judge::SharedLimits {
    let answer = Duration::from_millis(config.answer_ms);
    let wait = answer * config.judge_wait_percent / 100;
    eye_judge::SharedLimits {
        away: eye_judge::OffloadLimits {
            places: config.slow_calls_max,
            module_share_percent: config.slow_module_share_percent,
            waiting_max: config.slow_waiting_max,
            waiting_bytes_max: config.slow_waiting_bytes_max,
            application_share_percent: config.application_share_percent,
        },
        compare: eye_judge::CompareLimits {
            waiting_max: config.compare_waiting_max,
            waiting_bytes_max: config.compare_waiting_bytes_max,
        },
        memory_bytes_max: config.modules_memory_bytes_max,
        wait,
        judging: wait + (answer - wait) / 2,
    }
}

/// Bounds of a batch. A request waits for a writer for a part of its time; the rest is for the write.
pub fn batch_limits(config: &Config) -> batch::Limits {
    batch::Limits {
        events_max: config.batch_events_max,
        bytes_max: config.batch_bytes_max,
        age: Duration::from_millis(config.batch_age_ms),
        submissions_max: config.queue_requests_max,
        wait: answer(config) * config.queue_wait_percent / 100,
    }
}

/// Longest time from the end of a request's body to its answer.
pub fn answer(config: &Config) -> Duration {
    Duration::from_millis(config.answer_ms)
}

/// Bounds of a body.
pub fn body_limits(config: &Config) -> BodyLimits {
    BodyLimits { bytes_max: config.request_bytes_max, read: Duration::from_millis(config.body_read_ms) }
}

/// Bounds of a sending request.
pub fn ingest_limits(config: &Config) -> IngestLimits {
    IngestLimits {
        body: body_limits(config),
        answer: answer(config),
        violations_bytes_max: config.answer_violations_bytes_max,
        submission_events_max: config.batch_events_max,
    }
}

/// Bounds of the readers of live outcomes.
pub fn live_limits(config: &Config) -> live::Limits {
    live::Limits {
        readers_max: config.live_readers_max,
        share_percent: config.application_share_percent,
        heartbeat: Duration::from_millis(config.live_heartbeat_ms),
        events_per_second_max: config.live_events_per_second_max,
    }
}

/// Bounds of connections.
pub fn server_limits(config: &Config) -> ServerLimits {
    ServerLimits {
        connections_max: config.connections_max,
        connections_per_peer_max: config.connections_per_peer_max,
        header_read: Duration::from_millis(config.header_read_ms),
        header_bytes_max: config.header_bytes_max,
        headers_max: config.headers_max,
        idle: Duration::from_millis(config.idle_ms),
        write: Duration::from_millis(config.write_ms),
        http2_streams_max: config.http2_streams_max,
        http2_resets_max: config.http2_resets_max,
        http2_control_frames_per_second_max: config.http2_control_frames_per_second_max,
        http2_stream_window_bytes: config.http2_stream_window_bytes,
        http2_connection_window_bytes: config.http2_connection_window_bytes,
        http2_ping: Duration::from_millis(config.http2_ping_ms),
        tls_handshake: Duration::from_millis(config.tls_handshake_ms),
        proxy_header_bytes_max: config.proxy_header_bytes_max,
        linger: Duration::from_millis(config.linger_ms),
        linger_bytes_max: config.linger_bytes_max,
        drain: Duration::from_millis(config.drain_ms),
    }
}

/// The default of `drain_delay_ms` for a database that several gateways may share. A load balancer usually checks every
/// one or two seconds. The delay and the drain must also fit into the ten seconds after which containers are killed.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

/// How long a stopping gateway still accepts connections.
pub fn drain_delay(config: &Config, drain_delay_ms: Option<u64>) -> Duration {
    let default = if config.database_url.is_some() { DRAIN_DELAY } else { Duration::ZERO };
    drain_delay_ms.map_or(default, Duration::from_millis)
}

/// The addresses that the gateway listens on.
pub fn addresses(config: &Config) -> Addresses {
    Addresses { listen: config.listen, admin: config.admin_listen, metrics: config.metrics_listen }
}

/// The address at which a browser opens the panel; `bound` is the address that the gateway listens on, if it is known.
/// `None` if the port is not known.
pub fn panel_address(config: &Config, bound: Option<SocketAddr>) -> Option<String> {
    let address = bound.unwrap_or_else(|| config.admin_listen.unwrap_or(config.listen));
    panel_address::of(address, config.tls_certificate.is_some(), &config.hosts)
}

/// The address of the panel for the log line of the start, if that shows a code: with an embedded database, whose first
/// user reads the log. Lines in JSON are for other programs, so they show no code.
pub fn panel_at_start(config: &Config, bound: SocketAddr) -> AtStart {
    let shows = config.database_url.is_none() && config.log_format == LogFormat::Text;
    match panel_address(config, Some(bound)).filter(|_| config.panel) {
        None => AtStart::NoPanel,
        Some(address) if shows => AtStart::WithCode(address),
        Some(_) => AtStart::ByCommand,
    }
}

/// Files beyond those of the database and of connections: for loaders of modules and their pipes, modules and their
/// history, the log, listeners and watched folders.
const FILES_RESERVED: u64 = 128;
/// Connections of sqlx beyond those for reads: for the gateway's own questions, for readiness, for notifications and
/// for tending the tables.
const OTHER_CONNECTIONS: u64 = 12;
/// Files of one connection of sqlx: both ends of the bridge, and the socket to the database.
const FILES_OF_A_CONNECTION: u64 = 3;
/// Most connections to the address for monitoring.
pub const MONITORING_CONNECTIONS_MAX: usize = 64;

/// Most connections if the process may open `files_max` files: at most `connections_max`, and few enough to leave files
/// for the database and the modules.
///
/// # Errors
///
/// The number of files that the gateway itself needs, if none are left for connections.
pub fn connections_max(config: &Config, files_max: Option<u64>) -> Result<usize, u64> {
    let monitoring = if config.metrics_listen.is_some() { MONITORING_CONNECTIONS_MAX as u64 } else { 0 };
    let writers = config.writers as u64 + 1;
    let sqlx = (u64::from(config.read_connections) + OTHER_CONNECTIONS) * FILES_OF_A_CONNECTION;
    let kept = FILES_RESERVED + monitoring + writers + sqlx;
    let Some(files_max) = files_max else { return Ok(config.connections_max) };
    match files_max.saturating_sub(kept) {
        0 => Err(kept),
        left => Ok(config.connections_max.min(usize::try_from(left).unwrap_or(usize::MAX))),
    }
}

/// The files of TLS; `None` without a certificate.
pub fn tls_files(config: &Config) -> Option<Files> {
    let (certificate, key) = config.tls_certificate.clone().zip(config.tls_key.clone())?;
    Some(Files { certificate, key, client_ca: config.tls_client_ca.clone(), client_required: config.tls_client_auth })
}

fn proxying(config: &Config) -> Proxying {
    Proxying { proxy_protocol: config.proxy_protocol, trusted_proxies: config.trusted_proxies.clone() }
}

fn caller_rules(config: &Config) -> CallerRules {
    CallerRules {
        proxies: config.trusted_proxies.clone(),
        told: config.forwarded_header,
        hosts: config.hosts.clone(),
        local: if config.database_url.is_none() { config.local } else { Local::Off },
        poll: Duration::from_millis(config.applications_poll_ms),
    }
}

/// The place of the first administrator's token. A reader registers no administrator.
pub fn first_admin(config: &Config) -> FirstAdmin {
    match (&config.database_url, &config.admin_token_file, config.role) {
        (None, ..) => FirstAdmin::InDataDir(config.data_dir.clone()),
        (Some(_), Some(file), Role::Full) => FirstAdmin::InFile(file.clone()),
        (Some(_), ..) => FirstAdmin::Nowhere,
    }
}

/// Bounds of what retention keeps.
pub fn retention_policy(config: &Config) -> Policy {
    Policy {
        events_days: config.events_days,
        dead_letters_days: config.dead_letters_days,
        dead_letters_bytes_max: config.dead_letters_bytes_max,
        counts_minute_days: config.counts_minute_days,
        audit_days: config.audit_days,
        ahead_months: config.partitions_ahead_months,
        event_partitions_max: config.event_partitions_max,
        clock_skew_max: Duration::from_secs(config.clock_skew_max_s),
    }
}

/// Bounds of the scrubbing of older dead letters.
pub fn scrub_limits(config: &Config) -> ScrubLimits {
    let days = i64::try_from(config.scrub_grace_days).unwrap_or(i64::MAX);
    ScrubLimits {
        grace: TimeDelta::try_days(days).unwrap_or(TimeDelta::MAX),
        letters_max: config.scrub_letters_max,
        every: Duration::from_secs(config.scrub_seconds),
    }
}
