//! Gathers the settings: defaults, then the file, then the environment, then flags. It proves them as a whole and reports
//! all problems at once, each with its place. Only this file reads the environment. `config/settings.rs` has a row for each
//! setting.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::{postgres, store};

mod kind;
pub mod parts;
pub mod remote;
mod settings;

pub use kind::Kind;
pub use settings::{Config, SETTINGS, Setting};

/// Prefix of the environment's variables.
const PREFIX: &str = "EYE_";

/// Beginning of the example file.
const EXAMPLE_HEAD: &str = "\
# Every setting of The Eye, with its default. A file has only those that differ: copy a line, take `#: ` off, change it.
# The environment's EYE_<KEY> wins over the file, and a flag over both. `eye config check` shows what is in force.
";

/// Longest line of the documentation in the example file, without its `# `.
const EXAMPLE_LINE_BYTES_MAX: usize = 118;

/// A text that stays secret: its `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the code that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[hidden]")
    }
}

/// What the gateway does with events that no module serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEventType {
    /// It stores them.
    Accept,
    /// It rejects them.
    Reject,
}

/// All problems of the settings, a line for each.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Problems(pub Vec<String>);

/// The text of a setting, and the place that gave it.
#[derive(Clone, Debug)]
struct Sourced {
    text: String,
    origin: String,
}

/// The texts of all settings, and where each came from.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Sourced>,
    /// Former names that the sources use. Commands print them.
    warnings: Vec<String>,
}

impl Settings {
    /// Gathers the settings from the file, if one is named, from the environment of this process, and from `flags`.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn gather(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<(Self, Config), Problems> {
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let text = match file.map(|file| (file, std::fs::read_to_string(file))) {
            None => None,
            Some((file, Ok(text))) => Some((file.display().to_string(), text)),
            Some((file, Err(error))) => {
                return Err(Problems(vec![format!("{}: cannot be read: {error}", file.display())]));
            }
        };
        Self::from_parts(text.as_ref().map(|(name, text)| (name.as_str(), text.as_str())), environment, flags)
    }

    /// The same, from a file's name and text and from given variables.
    ///
    /// # Errors
    ///
    /// [`Problems`], all of them.
    pub fn from_parts(
        file: Option<(&str, &str)>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, String)],
    ) -> Result<(Self, Config), Problems> {
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let given = |text: &str, origin: String| Sourced { text: text.to_owned(), origin };
        let mut values: BTreeMap<_, _> =
            SETTINGS.iter().map(|setting| (setting.key, given(setting.default, "default".to_owned()))).collect();
        if let Some((name, text)) = file {
            read_file(name, text, &mut values, &mut warnings, &mut problems);
        }
        // If a setting has both its former and its current name, the current one counts.
        let mut environment: Vec<(String, String)> = environment.collect();
        environment.sort_by_key(|(name, _)| !is_former(name.strip_prefix(PREFIX).unwrap_or_default()));
        for (name, value) in environment {
            let Some(key) = name.strip_prefix(PREFIX).filter(|_| !remote::VARIABLES.contains(&&*name)) else {
                continue;
            };
            let origin = format!("environment {name}");
            let key = key.to_lowercase();
            match setting(&key, &origin, &mut warnings) {
                Some(setting) => drop(values.insert(setting.key, given(&value, origin))),
                None => problems.push(format!("environment {name}: there is no such setting{}", nearest(&key))),
            }
        }
        for (key, value) in flags {
            values.insert(key, given(value, format!("flag --{}", key.replace('_', "-"))));
        }
        for setting in SETTINGS {
            let given = &values[setting.key];
            if let Err(problem) = setting.kind.check(&given.text) {
                problems.push(format!("{}: {} {problem}", given.origin, setting.key));
            }
        }
        let url = &values["database_url"];
        if let Some(problem) = Some(&url.text).filter(|text| !text.is_empty()).and_then(|text| store::url_problem(text))
        {
            problems.push(format!("{}: database_url cannot be used: {problem}", url.origin));
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let settings = Self { values, warnings };
        let config = settings.config();
        let problems = relations(&config);
        if problems.is_empty() { Ok((settings, config)) } else { Err(Problems(problems)) }
    }

    /// Former names that the sources use, and that the next release does not know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A line for each setting: its text, secrets hidden, and where it came from.
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

    /// The keys of all settings, in the order in which they are shown.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        SETTINGS.iter().map(|setting| setting.key)
    }

    /// Whether a setting has the same value in both, wherever it comes from.
    pub fn has_same(&self, other: &Self, key: &str) -> bool {
        self.text(key) == other.text(key)
    }

    /// Takes one value of `other`.
    pub fn take(&mut self, other: &Self, key: &'static str) {
        self.values.insert(key, other.values[key].clone());
    }

    /// The values that the texts stand for.
    fn config(&self) -> Config {
        Config::read(|key| self.text(key)).expect("each text was checked against its kind")
    }

    /// Where the value of a setting came from: `default`, a file with its line, a variable of the environment, or a flag.
    pub fn origin(&self, key: &str) -> &str {
        &self.values.get(key).expect("the key is in SETTINGS, as a test holds").origin
    }

    fn text(&self, key: &str) -> &str {
        &self.values.get(key).expect("the key is in SETTINGS, as a test holds").text
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
            // The writers of events, the one of dead letters, and the listener for changed applications.
            connections_max: self.read_connections + u32::try_from(self.writers + 2).expect("at most 64 writers"),
        }
    }
}

/// The example file: every setting, commented out, with its documentation, its bounds and its default.
pub fn example() -> String {
    let mut text = EXAMPLE_HEAD.to_owned();
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            text.push_str(&format!("\n## {group}\n"));
        }
        text.push('\n');
        for line in wrapped(setting.consequence) {
            text.push_str(&format!("# {line}\n"));
        }
        let default = match setting.kind {
            Kind::Integer { min, max, unit } => {
                text.push_str(format!("# From {min} to {max} {unit}").trim_end());
                text.push_str(".\n");
                setting.default.to_owned()
            }
            Kind::Switch => setting.default.to_owned(),
            Kind::Choice(words) => {
                text.push_str(&format!("# One of {}.\n", words.join(", ")));
                format!("{:?}", setting.default)
            }
            _ => format!("{:?}", setting.default),
        };
        text.push_str(&format!("#: {} = {default}\n", setting.key));
    }
    text
}

/// The lines of a text that fit into the example file.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.len() + 1 + word.len() <= EXAMPLE_LINE_BYTES_MAX {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Reads the variables that libpq takes where a URL is silent.
pub fn libpq_environment() -> store::LibpqEnvironment {
    let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    store::LibpqEnvironment {
        user: given("PGUSER").or_else(|| given("USER")),
        password: given("PGPASSWORD"),
        passfile: given("PGPASSFILE")
            .map(PathBuf::from)
            .or_else(|| given("HOME").map(|home| PathBuf::from(home).join(".pgpass"))),
    }
}

/// Whether a setting had this name before, in either case.
fn is_former(key: &str) -> bool {
    SETTINGS.iter().flat_map(|setting| setting.former).any(|former| former.eq_ignore_ascii_case(key))
}

/// The setting of this name. A former name gets a warning.
fn setting(key: &str, origin: &str, warnings: &mut Vec<String>) -> Option<&'static Setting> {
    let found = SETTINGS.iter().find(|setting| setting.key == key || setting.former.contains(&key))?;
    let now = found.key;
    if now != key {
        warnings.push(format!("{origin}: {key} is called {now} now; the next release knows {now} alone"));
    }
    Some(found)
}

/// Takes the settings of a file.
fn read_file(
    name: &str,
    text: &str,
    values: &mut BTreeMap<&'static str, Sourced>,
    warnings: &mut Vec<String>,
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

/// Returns the rules between settings that do not hold.
fn relations(config: &Config) -> Vec<String> {
    let rules = [
        (
            config.data_bytes_max <= config.request_bytes_max,
            "data_bytes_max must not exceed request_bytes_max: such data could never arrive",
        ),
        (
            config.request_bytes_max <= config.in_flight_bytes_max,
            "request_bytes_max must not exceed in_flight_bytes_max: such a request could never be taken",
        ),
        (
            config.data_bytes_max <= config.batch_bytes_max,
            "data_bytes_max must not exceed batch_bytes_max: such an event would fit into no batch",
        ),
        (
            config.batch_age_ms < config.answer_ms,
            "batch_age_ms must be less than answer_ms: no answer would be in time",
        ),
        (config.deadline_ms < config.answer_ms, "deadline_ms must be less than answer_ms: no answer would be in time"),
        (
            config.output_bytes_max <= config.memory_bytes_max,
            "output_bytes_max must not exceed memory_bytes_max: a validator could never return so much",
        ),
        (
            config.data_bytes_max <= config.slow_waiting_bytes_max,
            "data_bytes_max must not exceed slow_waiting_bytes_max: such an event could never wait for a slow module",
        ),
        (
            config.dead_letter_raw_bytes_max <= config.dead_letter_queue_bytes_max,
            "dead_letter_raw_bytes_max must not exceed dead_letter_queue_bytes_max: such a dead letter would never be kept",
        ),
        (
            config.page_bytes_max <= config.answers_bytes_max / 2,
            "page_bytes_max must be at most half of answers_bytes_max: such a page could never be answered",
        ),
        (
            config.admin_listen.is_none_or(|address| {
                address.port() == 0 || (address != config.listen && Some(address) != config.metrics_listen)
            }),
            "admin_listen must be another address than listen and metrics_listen",
        ),
        (
            config.admin_token_file.is_none() || config.database_url.is_some(),
            "admin_token_file is for a database of one's own (database_url): a gateway with a Postgres of its own has the file admin.token in data_dir",
        ),
        (
            !config.proxy_protocol || !config.trusted_proxies.is_empty(),
            "proxy_protocol needs trusted_proxies: otherwise every caller could say who it is",
        ),
        (
            config.tls_certificate.is_some() == config.tls_key.is_some(),
            "tls_certificate and tls_key must be given both or not at all",
        ),
        (
            config.tls_client_ca.is_none() || config.tls_certificate.is_some() && config.tls_key.is_some(),
            "tls_client_ca needs tls_certificate and tls_key: without TLS there are no client certificates",
        ),
    ];
    rules.into_iter().filter(|(holds, _)| !holds).map(|(_, problem)| problem.to_owned()).collect()
}

#[cfg(test)]
mod tests;
