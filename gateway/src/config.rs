//! Gathers the settings: defaults, then the file, then the environment, then flags. It proves them as a whole and
//! reports all problems at once, each with its place. Only this file and files in `config/` read the environment.
//! `config/settings.rs` has a row for each setting.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::webhook::Target;
use crate::{postgres, store};

mod environment;
mod kind;
mod origins;
pub mod parts;
mod proofs;
mod relations;
pub mod remote;
mod settings;
mod shown;
mod systemd;
pub mod terminal;
mod text_file;

pub use kind::Kind;
pub use settings::{Config, SETTINGS, Setting};
pub use shown::SettingInForce;
pub use systemd::{ServiceEnvironment, service};

/// Most bytes of the settings' file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Variables of libpq that give a user or a password if the URL has none. Their values must be texts.
const LIBPQ_TEXTS: [&str; 2] = ["PGUSER", "PGPASSWORD"];

/// Beginning of the example file.
const EXAMPLE_HEAD: &str = "\
# Every setting of The Eye, with its default. A file has only those that differ: copy a line, take `#: ` off, change it.
# The environment's EYE_<KEY> wins over the file, and a flag over both. `eye config check` shows what is in force.
# Bounds and the rates of applications apply per gateway: with several gateways on one database, an application may send
# as much to each.
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

/// How the gateway treats events that no module serves.
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

/// The place that gave a setting. Its `Display` is for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No place: the default.
    Default,
    /// The file, by its name and the line.
    File(String),
    /// A variable, and the file that it names if it names one.
    Environment {
        /// The name of the variable.
        name: String,
        /// The file that holds the value.
        file: Option<String>,
    },
    /// A flag, by its name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => formatter.write_str("default"),
            Self::File(place) => formatter.write_str(place),
            Self::Environment { name, file: None } => write!(formatter, "environment {name}"),
            Self::Environment { name, file: Some(file) } => write!(formatter, "environment {name} ({file})"),
            Self::Flag(name) => write!(formatter, "flag {name}"),
        }
    }
}

/// The text of a setting, and the place that gave it.
#[derive(Clone, Debug)]
struct Sourced {
    text: String,
    origin: Origin,
}

/// The texts of all settings, and the place that gave each.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, Sourced>,
    /// The file that was read. A check of its permissions needs it.
    file: Option<PathBuf>,
    /// Warnings about former names and about secrets in readable files. Commands print them.
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

    /// Does the same and also checks all files and folders that the settings name. Their problems are among the others.
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

    /// Does the same from the name and text of a file and from these variables.
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
        let given = |text: &str, origin: Origin| Sourced { text: text.to_owned(), origin };
        let mut values: BTreeMap<_, _> =
            SETTINGS.iter().map(|setting| (setting.key, given(setting.default, Origin::Default))).collect();
        if let Some((name, text)) = file {
            read_file(name, text, &mut values, &mut warnings, &mut wrong, &mut problems);
        }
        // If a setting has both its former and its current name, the current one counts.
        let mut environment = environment::read(environment, &mut problems);
        environment.sort_by_key(|variable| !is_former(&variable.key));
        for environment::Variable { key, text, origin, .. } in environment {
            match setting(&key, &origin.to_string(), &mut warnings) {
                Some(setting) => drop(values.insert(setting.key, given(&text, origin))),
                None => problems.push(format!("{origin}: there is no such setting{}", nearest(&key))),
            }
        }
        for (key, value) in flags {
            values.insert(key, given(value, Origin::Flag(format!("--{}", key.replace('_', "-")))));
        }
        for setting in SETTINGS {
            let sourced = &values[setting.key];
            if let Err(problem) = setting.kind.check(&sourced.text) {
                problems.push(format!("{}: {} {problem}", sourced.origin, setting.key));
                wrong.insert(setting.key);
                // The default stands in, so that the relations of the other settings can be checked.
                values.insert(setting.key, given(setting.default, sourced.origin.clone()));
            }
        }
        let url = &values["database_url"];
        if let Some(problem) = Some(&url.text).filter(|text| !text.is_empty()).and_then(|text| store::url_problem(text))
        {
            problems.push(format!("{}: database_url cannot be used: {problem}", url.origin));
        }
        if let Some(problem) = ["notify_url", "notify_secret"]
            .iter()
            .all(|key| !wrong.contains(key))
            .then(|| notify_problem(&values["notify_url"].text, &values["notify_secret"].text))
            .flatten()
        {
            problems.push(format!("{}: {problem}", values["notify_url"].origin));
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

    /// The warnings: about former names, which the next release does not know, and about readable secrets.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A line for each setting: its text, with secrets hidden, and its place.
    pub fn show(&self) -> String {
        let mut shown = String::new();
        for setting in SETTINGS {
            let given = &self.values[setting.key];
            let value = match setting.kind {
                Kind::Secret if !given.text.is_empty() => "[hidden]".to_owned(),
                Kind::Integer { .. } | Kind::Switch => given.text.clone(),
                Kind::OptionalInteger { .. } if !given.text.is_empty() => given.text.clone(),
                _ => format!("{:?}", given.text),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(shown, "{} = {value}  # {}", setting.key, given.origin);
        }
        shown
    }

    /// The keys of all settings, in the order of `show`.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        SETTINGS.iter().map(|setting| setting.key)
    }

    /// Whether a setting has the same value in both, even from different places.
    pub fn has_same(&self, other: &Self, key: &str) -> bool {
        self.text(key) == other.text(key)
    }

    /// The settings that are in force once a reload has applied `read`: those that a reload applies are of `read`, and all
    /// others stay as they are.
    ///
    /// # Errors
    ///
    /// [`Problems`]: relations that do not hold between these settings, although they hold in `read`.
    pub fn after_reload(&self, read: &Self) -> Result<Self, Problems> {
        let mut mixed = Self { values: read.values.clone(), file: read.file.clone(), warnings: Vec::new() };
        let mut waiting = Vec::new();
        for setting in SETTINGS.iter().filter(|setting| !setting.reload && !self.has_same(read, setting.key)) {
            mixed.values.insert(setting.key, self.values[setting.key].clone());
            waiting.push(setting.key);
        }
        let broken = relations::broken_until_restart(&mixed, &mixed.config(), &waiting);
        if broken.is_empty() { Ok(mixed) } else { Err(Problems(broken)) }
    }

    /// The parsed settings.
    pub fn config(&self) -> Config {
        Config::read(|key| self.text(key)).expect("each text was checked against its kind")
    }

    /// The place that gave a setting.
    pub fn origin(&self, key: &str) -> &Origin {
        &self.values.get(key).expect("the key is in SETTINGS, as a test holds").origin
    }

    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    fn text(&self, key: &str) -> &str {
        &self.values.get(key).expect("the key is in SETTINGS, as a test holds").text
    }
}

impl Config {
    /// The data dir of the embedded Postgres, and the folders with its programs.
    pub fn postgres_options(&self) -> postgres::Options {
        postgres::Options {
            data_dir: self.data_dir.clone(),
            bin_dir: self.postgres_bin.clone(),
            search_path: std::env::var_os("PATH"),
            temp_dir: std::env::temp_dir(),
            // The connections of the event writers, of the dead letter writer, and of the listener for changed
            // applications.
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
            Kind::OptionalInteger { min, max, unit } => {
                text.push_str(&format!("# From {min} to {max} {unit}, or empty.\n"));
                format!("{:?}", setting.default)
            }
            Kind::Switch => setting.default.to_owned(),
            Kind::Choice(words) => {
                text.push_str(&format!("# One of {}.\n", words.join(", ")));
                format!("{:?}", setting.default)
            }
            _ => format!("{:?}", setting.default),
        };
        text.push_str(if setting.reload { "# A reload applies a change.\n" } else { "# A change needs a restart.\n" });
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

/// Reads the variables that libpq uses where a URL has no such part.
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

/// What is wrong with the place that is told of what was taken back.
fn notify_problem(url: &str, secret: &str) -> Option<String> {
    if url.is_empty() {
        return None;
    }
    Target::read(url, secret).err()
}

/// Whether a setting had this name before, in either case.
fn is_former(key: &str) -> bool {
    SETTINGS.iter().flat_map(|setting| setting.former).any(|former| former.eq_ignore_ascii_case(key))
}

/// Finds the setting of this name. A former name adds a warning.
fn setting(key: &str, origin: &str, warnings: &mut Vec<String>) -> Option<&'static Setting> {
    let found = SETTINGS.iter().find(|setting| setting.key == key || setting.former.contains(&key))?;
    let now = found.key;
    if now != key {
        warnings.push(format!("{origin}: {key} is called {now} now; the next release knows {now} alone"));
    }
    Some(found)
}

/// Reads the settings of a file into `values`.
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
            (DeValue::Integer(number), Kind::Integer { .. } | Kind::OptionalInteger { .. }) if number.radix() == 10 => {
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
        values.insert(setting.key, Sourced { text, origin: Origin::File(origin) });
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
