//! The settings: defaults, then the file, then the environment, then flags, proved as a whole. All problems are told at
//! once, each with its place. Only this file and `config/environment.rs` read the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eye_judge::LoaderLimits;
use ipnet::IpNet;
use toml::de::{DeTable, DeValue};

use crate::telemetry::LogFormat;
use crate::tls::Files;
use crate::trust::{self, event_types::EventTypes, forwarded::Told};
use crate::{postgres, store};

mod environment;
mod origins;
pub mod parts;
mod proofs;
mod relations;
mod settings;
mod text_file;

pub use settings::{Kind, SETTINGS, Setting};
use settings::{RENAMED, words};

/// The largest settings' file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What libpq takes as texts from the environment where a URL is silent.
const LIBPQ_TEXTS: [&str; 2] = ["PGUSER", "PGPASSWORD"];

/// A text that nobody may see: printing it prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for where it is used.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

/// What happens to events that no module serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEventType {
    /// They are stored.
    Accept,
    /// They are rejected.
    Reject,
}

/// The proved settings. `settings.rs` says what each means; the units are in the names.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "settings.rs and eye.example.toml document each by the same name")]
pub struct Config {
    pub listen: SocketAddr,
    pub metrics_listen: Option<SocketAddr>,
    pub metrics_event_types_max: usize,
    pub database_url: Option<Secret>,
    pub postgres_bin: Option<PathBuf>,
    pub modules: PathBuf,
    pub data_dir: PathBuf,
    pub request_bytes_max: usize,
    pub events_per_request_max: usize,
    pub connections_max: usize,
    pub header_read_ms: u64,
    pub connections_per_peer_max: usize,
    pub header_bytes_max: usize,
    pub headers_max: usize,
    pub idle_ms: u64,
    pub write_ms: u64,
    pub linger_ms: u64,
    pub linger_bytes_max: usize,
    pub http2_streams_max: u32,
    pub http2_resets_max: usize,
    pub http2_control_frames_per_second_max: u64,
    pub http2_stream_window_bytes: u32,
    pub http2_connection_window_bytes: u32,
    pub http2_ping_ms: u64,
    pub tls_handshake_ms: u64,
    pub proxy_header_bytes_max: usize,
    pub tls: Option<Files>,
    pub trusted_proxies: Vec<IpNet>,
    pub forwarded_header: Told,
    pub proxy_protocol: bool,
    pub applications_poll_ms: u64,
    pub cors_origins: Vec<String>,
    pub hosts: Vec<String>,
    pub body_read_ms: u64,
    pub answer_ms: u64,
    pub drain_ms: u64,
    pub data_bytes_max: usize,
    pub nesting_max: usize,
    pub number_digits_max: usize,
    pub event_types_max: usize,
    pub future_seconds_max: u64,
    pub batch_events_max: usize,
    pub batch_bytes_max: usize,
    pub batch_age_ms: u64,
    pub writers: usize,
    pub in_flight_bytes_max: usize,
    pub queue_requests_max: usize,
    pub queue_wait_percent: u32,
    pub application_share_percent: usize,
    pub flush_ms: u64,
    pub dead_letter_raw_bytes_max: usize,
    pub scrub_grace_days: u64,
    pub scrub_seconds: u64,
    pub scrub_letters_max: u32,
    pub dead_letter_queue_bytes_max: usize,
    pub dead_letters_bytes_max: i64,
    pub dead_letters_days: u64,
    pub events_days: u64,
    pub counts_minute_days: u64,
    pub partitions_ahead_months: u32,
    pub event_partitions_max: usize,
    pub retention_seconds: u64,
    pub clock_skew_max_s: u64,
    pub live_readers_max: usize,
    pub live_heartbeat_ms: u64,
    pub live_events_per_second_max: usize,
    pub read_connections: u32,
    pub read_ms: u64,
    pub read_wait_ms: u64,
    pub page_bytes_max: usize,
    pub answers_bytes_max: usize,
    pub answer_violations_bytes_max: usize,
    pub streams_max: usize,
    pub stream_stall_ms: u64,
    pub unknown_event_type: UnknownEventType,
    pub require_module: Arc<EventTypes>,
    pub ready_requires_modules: bool,
    pub deadline_ms: u64,
    pub memory_bytes_max: usize,
    pub output_bytes_max: usize,
    pub violations_max: usize,
    pub modules_memory_bytes_max: usize,
    pub slow_calls_max: usize,
    pub slow_module_share_percent: usize,
    pub slow_waiting_max: usize,
    pub slow_waiting_bytes_max: usize,
    pub judge_wait_percent: u32,
    pub rejudge_events_per_second_max: u32,
    pub loader: LoaderLimits,
    pub rescan_seconds: u64,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// A value, with the place that gave it.
#[derive(Clone, Debug)]
struct Sourced {
    text: String,
    origin: String,
}

/// All settings with their values and where each came from.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Sourced>,
    /// The file that was read.
    file: Option<PathBuf>,
    /// What was understood, and should be written otherwise.
    warnings: Vec<String>,
}

impl Settings {
    /// Gathers the settings from the file, if one is named, from the environment of this process, and from `flags`.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn gather(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<(Self, Config), Problems> {
        Self::from_all(file, flags, false)
    }

    /// The same, with a look at all files and folders that the settings name: what is wrong with those is told with all else.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn prove(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<(Self, Config), Problems> {
        Self::from_all(file, flags, true)
    }

    fn from_all(
        file: Option<&Path>,
        flags: &[(&'static str, String)],
        looks: bool,
    ) -> Result<(Self, Config), Problems> {
        let mut problems = Vec::new();
        let text = file.map(|file| (file.display().to_string(), text_file::read(file, FILE_BYTES_MAX)));
        let given = match &text {
            None => None,
            Some((name, Ok(text))) => Some((name.as_str(), text.as_str())),
            Some((_, Err(problem))) => {
                problems.push(problem.clone());
                None
            }
        };
        for name in LIBPQ_TEXTS {
            if std::env::var_os(name).is_some_and(|value| value.to_str().is_none()) {
                problems.push(format!("environment {name}: its value is no UTF-8"));
            }
        }
        Self::from_sources(given, file, std::env::vars_os(), flags, looks, problems)
    }

    /// The same, from a file's name and text and from given variables.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn from_parts(
        file: Option<(&str, &str)>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flags: &[(&'static str, String)],
    ) -> Result<(Self, Config), Problems> {
        Self::from_sources(file, None, environment, flags, false, Vec::new())
    }

    fn from_sources(
        file: Option<(&str, &str)>,
        path: Option<&Path>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        flags: &[(&'static str, String)],
        looks: bool,
        mut problems: Vec<String>,
    ) -> Result<(Self, Config), Problems> {
        let (mut warnings, mut wrong) = (Vec::new(), BTreeSet::new());
        let given = |text: &str, origin: String| Sourced { text: text.to_owned(), origin };
        let mut values: BTreeMap<_, _> =
            SETTINGS.iter().map(|setting| (setting.key, given(setting.default, "default".to_owned()))).collect();
        if let Some((name, text)) = file {
            read_file(name, text, &mut values, &mut warnings, &mut wrong, &mut problems);
        }
        // Of a setting that is given by both of its names, the name of now counts.
        let mut environment = environment::read(environment, &mut problems);
        environment.sort_by_key(|variable| !is_former(&variable.key));
        for environment::Variable { key, text, origin, .. } in environment {
            match setting(&key, &origin, &mut warnings) {
                Some(setting) => drop(values.insert(setting.key, given(&text, origin))),
                None => problems.push(format!("{origin}: there is no such setting{}", nearest(&key))),
            }
        }
        for (key, value) in flags {
            values.insert(key, given(value, format!("flag --{}", key.replace('_', "-"))));
        }
        for setting in SETTINGS {
            let sourced = &values[setting.key];
            if let Err(problem) = setting.kind.check(&sourced.text) {
                problems.push(format!("{}: {} {problem}", sourced.origin, setting.key));
                wrong.insert(setting.key);
                // In its place meanwhile, so that all others can be held against each other.
                values.insert(setting.key, given(setting.default, sourced.origin.clone()));
            }
        }
        let url = &values["database_url"];
        if let Some(problem) = Some(&url.text).filter(|text| !text.is_empty()).and_then(|text| store::url_problem(text))
        {
            problems.push(format!("{}: database_url cannot be used: {problem}", url.origin));
        }
        let mut settings = Self { values, file: path.map(Path::to_owned), warnings };
        let config = settings.config();
        let is_wrong = |key: &str| wrong.contains(key);
        problems.extend(relations::broken(&settings, &config, is_wrong));
        if looks {
            let found = proofs::look(&settings, &config, is_wrong);
            problems.extend(found.problems);
            settings.warnings.extend(found.warnings);
        } else {
            settings.warnings.extend(proofs::open_secrets(&settings));
        }
        if problems.is_empty() { Ok((settings, config)) } else { Err(Problems(problems)) }
    }

    /// What was understood, and should be written otherwise before the next release.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A line for each setting: its value, secrets hidden, and where it came from.
    pub fn show(&self) -> String {
        let mut shown = String::new();
        for setting in SETTINGS {
            let given = &self.values[setting.key];
            let value = match setting.kind {
                Kind::Secret if !given.text.is_empty() => "[hidden]".to_owned(),
                Kind::Integer { .. } | Kind::Switch => given.text.clone(),
                _ => format!("{:?}", given.text),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(shown, "{} = {value}  # {}", setting.key, given.origin);
        }
        shown
    }

    fn text(&self, key: &str) -> &str {
        &self.values.get(key).expect("the key is in SETTINGS, as a test holds").text
    }

    fn number<T: TryFrom<u64>>(&self, key: &str) -> T {
        let number = self.text(key).parse::<u64>().ok().and_then(|number| T::try_from(number).ok());
        number.expect("checked against the setting's range")
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn loader(&self) -> LoaderLimits {
        LoaderLimits {
            memory_bytes: self.number("loader_memory_bytes"),
            memory_per_byte: self.number("loader_memory_per_byte"),
            processor_ms: self.number("loader_processor_ms"),
            processor_ms_per_mib: self.number("loader_processor_ms_per_mib"),
            quick_ms: self.number("loader_quick_ms"),
            wall_factor: self.number("loader_wall_factor"),
            self_test_ms: self.number("loader_self_test_ms"),
            stack_bytes: self.number("loader_stack_bytes"),
            bounds_percent: self.number("loader_bounds_percent"),
        }
    }

    #[expect(clippy::too_many_lines, reason = "it is a table with a line for each setting")]
    fn config(&self) -> Config {
        let url = Some(self.text("database_url")).filter(|url| !url.is_empty());
        Config {
            listen: self.text("listen").parse().expect("checked to be an address"),
            metrics_listen: self.text("metrics_listen").parse().ok(),
            metrics_event_types_max: self.number("metrics_event_types_max"),
            database_url: url.map(|url| Secret(url.to_owned())),
            postgres_bin: self.path("postgres_bin"),
            modules: self.path("modules").expect("checked not to be empty"),
            data_dir: self.path("data_dir").expect("checked not to be empty"),
            request_bytes_max: self.number("request_bytes_max"),
            events_per_request_max: self.number("events_per_request_max"),
            connections_max: self.number("connections_max"),
            header_read_ms: self.number("header_read_ms"),
            connections_per_peer_max: self.number("connections_per_peer_max"),
            header_bytes_max: self.number("header_bytes_max"),
            headers_max: self.number("headers_max"),
            idle_ms: self.number("idle_ms"),
            write_ms: self.number("write_ms"),
            linger_ms: self.number("linger_ms"),
            linger_bytes_max: self.number("linger_bytes_max"),
            http2_streams_max: self.number("http2_streams_max"),
            http2_resets_max: self.number("http2_resets_max"),
            http2_control_frames_per_second_max: self.number("http2_control_frames_per_second_max"),
            http2_stream_window_bytes: self.number("http2_stream_window_bytes"),
            http2_connection_window_bytes: self.number("http2_connection_window_bytes"),
            http2_ping_ms: self.number("http2_ping_ms"),
            tls_handshake_ms: self.number("tls_handshake_ms"),
            proxy_header_bytes_max: self.number("proxy_header_bytes_max"),
            tls: self.path("tls_certificate").zip(self.path("tls_key")).map(|(certificate, key)| Files {
                certificate,
                key,
                client_ca: self.path("tls_client_ca"),
                client_required: self.text("tls_client_auth") == "required",
            }),
            trusted_proxies: words(self.text("trusted_proxies"))
                .filter_map(|word| word.parse().ok())
                .map(trust::canonical)
                .collect(),
            forwarded_header: match self.text("forwarded_header") {
                "forwarded" => Told::Forwarded,
                _ => Told::XForwardedFor,
            },
            proxy_protocol: self.text("proxy_protocol") == "required",
            applications_poll_ms: self.number("applications_poll_ms"),
            cors_origins: words(self.text("cors_origins")).map(str::to_owned).collect(),
            hosts: words(self.text("hosts")).map(str::to_owned).collect(),
            body_read_ms: self.number("body_read_ms"),
            answer_ms: self.number("answer_ms"),
            drain_ms: self.number("drain_ms"),
            data_bytes_max: self.number("data_bytes_max"),
            nesting_max: self.number("nesting_max"),
            number_digits_max: self.number("number_digits_max"),
            event_types_max: self.number("event_types_max"),
            future_seconds_max: self.number("future_seconds_max"),
            batch_events_max: self.number("batch_events_max"),
            batch_bytes_max: self.number("batch_bytes_max"),
            batch_age_ms: self.number("batch_age_ms"),
            writers: self.number("writers"),
            in_flight_bytes_max: self.number("in_flight_bytes_max"),
            queue_requests_max: self.number("queue_requests_max"),
            queue_wait_percent: self.number("queue_wait_percent"),
            application_share_percent: self.number("application_share_percent"),
            flush_ms: self.number("flush_ms"),
            dead_letter_raw_bytes_max: self.number("dead_letter_raw_bytes_max"),
            scrub_grace_days: self.number("scrub_grace_days"),
            scrub_seconds: self.number("scrub_seconds"),
            scrub_letters_max: self.number("scrub_letters_max"),
            dead_letter_queue_bytes_max: self.number("dead_letter_queue_bytes_max"),
            dead_letters_bytes_max: self.number("dead_letters_bytes_max"),
            dead_letters_days: self.number("dead_letters_days"),
            events_days: self.number("events_days"),
            counts_minute_days: self.number("counts_minute_days"),
            partitions_ahead_months: self.number("partitions_ahead_months"),
            event_partitions_max: self.number("event_partitions_max"),
            retention_seconds: self.number("retention_seconds"),
            clock_skew_max_s: self.number("clock_skew_max_s"),
            live_readers_max: self.number("live_readers_max"),
            live_heartbeat_ms: self.number("live_heartbeat_ms"),
            live_events_per_second_max: self.number("live_events_per_second_max"),
            read_connections: self.number("read_connections"),
            read_ms: self.number("read_ms"),
            read_wait_ms: self.number("read_wait_ms"),
            page_bytes_max: self.number("page_bytes_max"),
            answers_bytes_max: self.number("answers_bytes_max"),
            answer_violations_bytes_max: self.number("answer_violations_bytes_max"),
            streams_max: self.number("streams_max"),
            stream_stall_ms: self.number("stream_stall_ms"),
            unknown_event_type: match self.text("unknown_event_type") {
                "reject" => UnknownEventType::Reject,
                _ => UnknownEventType::Accept,
            },
            require_module: EventTypes::parse(&words(self.text("require_module")).collect::<Vec<_>>())
                .map(Arc::new)
                .expect("checked to be event types"),
            ready_requires_modules: self.text("ready_requires_modules") == "true",
            deadline_ms: self.number("deadline_ms"),
            memory_bytes_max: self.number("memory_bytes_max"),
            output_bytes_max: self.number("output_bytes_max"),
            violations_max: self.number("violations_max"),
            modules_memory_bytes_max: self.number("modules_memory_bytes_max"),
            slow_calls_max: self.number("slow_calls_max"),
            slow_module_share_percent: self.number("slow_module_share_percent"),
            slow_waiting_max: self.number("slow_waiting_max"),
            slow_waiting_bytes_max: self.number("slow_waiting_bytes_max"),
            judge_wait_percent: self.number("judge_wait_percent"),
            rejudge_events_per_second_max: self.number("rejudge_events_per_second_max"),
            loader: self.loader(),
            rescan_seconds: self.number("rescan_seconds"),
            log_format: if self.text("log_format") == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: self.text("log_level").to_owned(),
        }
    }
}

impl Config {
    /// Where the embedded Postgres is, and where its programs may be found.
    pub fn postgres_options(&self) -> postgres::Options {
        postgres::Options {
            data_dir: self.data_dir.clone(),
            bin_dir: self.postgres_bin.clone(),
            search_path: std::env::var_os("PATH"),
            temp_dir: std::env::temp_dir(),
            // The writers of events, that of dead letters, and the one that hears of changed applications.
            connections_max: self.read_connections + u32::try_from(self.writers + 2).expect("at most 64 writers"),
        }
    }
}

/// Reads what libpq takes from the environment where a URL is silent.
pub fn libpq_environment() -> store::LibpqEnvironment {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = |name| given(name).and_then(|value| value.into_string().ok());
    store::LibpqEnvironment {
        user: text("PGUSER").or_else(|| text("USER")),
        password: text("PGPASSWORD"),
        passfile: given("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| given("HOME").map(|home| PathBuf::from(home).join(".pgpass"))),
    }
}

/// Whether a setting had this name before.
fn is_former(key: &str) -> bool {
    RENAMED.iter().any(|(former, _)| former.eq_ignore_ascii_case(key))
}

/// The setting of this name. One that was renamed is known by its former name for a release, with a warning.
fn setting(key: &str, origin: &str, warnings: &mut Vec<String>) -> Option<&'static Setting> {
    let renamed = RENAMED.iter().find(|(former, _)| *former == key);
    if let Some((former, now)) = renamed {
        warnings.push(format!("{origin}: {former} is called {now} now; the next release knows {now} alone"));
    }
    let key = renamed.map_or(key, |(_, now)| now);
    SETTINGS.iter().find(|setting| setting.key == key)
}

fn read_file(
    name: &str,
    text: &str,
    values: &mut BTreeMap<&'static str, Sourced>,
    warnings: &mut Vec<String>,
    wrong: &mut BTreeSet<&'static str>,
    problems: &mut Vec<String>,
) {
    let line = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = error.span().map_or(1, |span| line(span.start));
        problems.push(format!("{name}:{place}: {}", error.message()));
    }
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| !is_former(key.get_ref()));
    for (key, value) in entries {
        let origin = format!("{name}:{}", line(key.span().start));
        let Some(setting) = setting(key.get_ref(), &origin, warnings) else {
            problems.push(format!("{origin}: {} is no setting{}", key.get_ref(), nearest(key.get_ref())));
            continue;
        };
        let text = match (value.get_ref(), setting.kind) {
            (DeValue::Integer(number), Kind::Integer { .. }) if number.radix() == 10 => {
                number.as_str().replace('_', "")
            }
            (DeValue::Boolean(value), Kind::Switch) => value.to_string(),
            (DeValue::Array(values), Kind::Networks | Kind::Origins | Kind::Hosts | Kind::EventTypes) => {
                let texts = values.iter().map(|value| value.get_ref().as_str().unwrap_or("something else than a text"));
                texts.collect::<Vec<_>>().join(", ")
            }
            (DeValue::String(text), kind) if !matches!(kind, Kind::Integer { .. } | Kind::Switch) => text.to_string(),
            (other, kind) => {
                problems.push(format!(
                    "{origin}: {} must be {}, and is a {}",
                    setting.key,
                    kind.wanted(),
                    other.type_str()
                ));
                wrong.insert(setting.key);
                continue;
            }
        };
        values.insert(setting.key, Sourced { text, origin });
    }
}

/// A hint for a misspelt key: the setting that shares the longest beginning or end with it.
fn nearest(key: &str) -> String {
    let shared = |other: &str| {
        let front = key.bytes().zip(other.bytes()).take_while(|(one, two)| one == two).count();
        let back = key.bytes().rev().zip(other.bytes().rev()).take_while(|(one, two)| one == two).count();
        front.max(back)
    };
    let best = SETTINGS.iter().max_by_key(|setting| shared(setting.key)).filter(|setting| shared(setting.key) >= 4);
    best.map_or_else(|| "; `eye config check` lists all".to_owned(), |setting| format!("; is {} meant?", setting.key))
}

#[cfg(test)]
mod tests;
