//! The settings of a module: its limits, and the meaning of its faults for senders. They are the gateway's defaults,
//! changed by the `<name>.toml` beside the module. This file only parses; the modules directory decides which file
//! applies.

use eye_event::verdict::Digest;
use serde::{Deserialize, Serialize};

use super::steps::{Mode, Share, Steps};

/// The limits of one call of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Milliseconds that judging one event may run. Waiting for a processor does not count; up to two ticks of 5 ms
    /// come on top.
    pub deadline_ms: u64,
    /// Bytes of linear memory, all memories of a module together.
    pub memory_bytes_max: usize,
    /// Bytes of a verdict: an amended `data`, or all texts of the violations together.
    pub output_bytes_max: usize,
    /// Violations in one verdict.
    pub violations_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { deadline_ms: 50, memory_bytes_max: 64 << 20, output_bytes_max: 256 << 10, violations_max: 100 }
    }
}

/// The gateway's answer to an event when the module faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFault {
    /// A dead letter keeps the event. The sender need not send it again.
    #[default]
    Quarantine,
    /// The gateway keeps nothing and asks the sender to try again.
    Retry,
}

/// All settings of one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The limits of one call.
    #[serde(flatten)]
    pub limits: Limits,
    /// Whether a fault quarantines the event or asks the sender for a retry.
    pub on_fault: OnFault,
    /// Whether dead letters keep refused events as they came (true) or nothing of them (false), whatever the module
    /// exports.
    pub keep_raw: Option<bool>,
    /// The version that is taken although it does not redact and the version before does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<Digest>,
    /// Whether the guard may take the module back.
    #[serde(skip)]
    pub guard: bool,
    /// The version of which more refusals are meant, so that the guard does not take it back for them.
    #[serde(skip)]
    pub expect_refusals: Option<Digest>,
    /// How a candidate is tried.
    #[serde(skip)]
    pub mode: Mode,
    /// The share of the sessions that a canary judges.
    #[serde(skip)]
    pub share: Share,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            on_fault: OnFault::default(),
            keep_raw: None,
            force: None,
            guard: true,
            expect_refusals: None,
            mode: Mode::Shadow,
            share: Share::CANARY,
        }
    }
}

/// The file as written. Every key is optional; an unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    deadline_ms: Option<u64>,
    memory_bytes_max: Option<usize>,
    output_bytes_max: Option<usize>,
    violations_max: Option<usize>,
    on_fault: Option<OnFault>,
    keep_raw: Option<bool>,
    force: Option<String>,
    guard: Option<bool>,
    expect_refusals: Option<String>,
    mode: Option<Mode>,
    percent: Option<f64>,
    auto: Option<String>,
}

/// The gateway's bounds for a settings file.
#[derive(Debug, Clone, Copy)]
pub(super) struct LimitDefaults {
    /// The values of keys that the file leaves out.
    pub(super) defaults: Limits,
    /// The longest deadline that the file may set. It ends before senders get their answer; after a longer one they
    /// would never see the fault.
    pub(super) deadline_ms_max: u64,
}

/// The most that a file may set. A typing error must not give a module an hour or a terabyte.
const MOST: Limits =
    Limits { deadline_ms: 10_000, memory_bytes_max: 1 << 30, output_bytes_max: 8 << 20, violations_max: 10_000 };

impl Settings {
    /// The settings of a module without a file.
    pub(super) fn of(defaults: Limits) -> Self {
        Self { limits: defaults, ..Self::default() }
    }

    /// Checks the text of a `<name>.toml` with the defaults of the gateway's own settings.
    ///
    /// # Errors
    ///
    /// The reason for which a gateway would refuse it.
    pub fn prove(text: &str) -> Result<(), String> {
        let given = LimitDefaults { defaults: Limits::default(), deadline_ms_max: MOST.deadline_ms };
        Self::parse(text, given).map(drop)
    }

    /// Changes the defaults by the text of a `<name>.toml`.
    ///
    /// # Errors
    ///
    /// A sentence with line and column when the text is no TOML, has an unknown key, or a value out of range. It quotes
    /// nothing of the text: somebody may have named another file by mistake, with secrets in it.
    pub(super) fn parse(
        text: &str,
        LimitDefaults { defaults, deadline_ms_max }: LimitDefaults,
    ) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| told(text, &error))?;
        let Written { deadline_ms, memory_bytes_max, output_bytes_max, violations_max, .. } = written;
        let digest = |key: &str, text: Option<String>| {
            text.map(|digest| digest.parse().map_err(|why| format!("`{key}`: {why}"))).transpose()
        };
        let force = digest("force", written.force)?;
        let expect_refusals = digest("expect_refusals", written.expect_refusals)?;
        let share = match written.percent {
            None => Share::CANARY,
            Some(percent) => Share::of_percent(percent).ok_or("`percent` is from 0.001 to 100")?,
        };
        if let Some(text) = &written.auto {
            Steps::parse(text).map_err(|why| format!("`auto`: {why}"))?;
        }
        let deadline_ms_max = deadline_ms_max.min(MOST.deadline_ms);
        let limits = Limits {
            deadline_ms: pick("deadline_ms", deadline_ms, defaults.deadline_ms, deadline_ms_max)?,
            memory_bytes_max: pick(
                "memory_bytes_max",
                memory_bytes_max,
                defaults.memory_bytes_max,
                MOST.memory_bytes_max,
            )?,
            output_bytes_max: pick(
                "output_bytes_max",
                output_bytes_max,
                defaults.output_bytes_max,
                MOST.output_bytes_max,
            )?,
            violations_max: pick("violations_max", violations_max, defaults.violations_max, MOST.violations_max)?,
        };
        let (guard, mode) = (written.guard.unwrap_or(true), written.mode.unwrap_or(Mode::Shadow));
        let (on_fault, keep_raw) = (written.on_fault.unwrap_or_default(), written.keep_raw);
        Ok(Self { limits, on_fault, keep_raw, force, guard, expect_refusals, mode, share })
    }
}

/// Says where the text is wrong, and what serde expected there.
fn told(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let message = error.message();
    // The beginnings of serde's messages. After them, serde quotes what it found.
    let quoting = [
        ("unknown field", "an unknown key"),
        ("unknown variant", "an unknown word"),
        ("invalid type", "a value of another kind"),
        ("invalid value", "a value that it may not have"),
        ("invalid length", "a value of another length"),
    ];
    let found = quoting.into_iter().find(|(beginning, _)| message.starts_with(beginning));
    let what = match (found, message.rsplit_once(", expected ")) {
        (Some((_, found)), Some((_, expected))) => format!("{found}, expected {expected}"),
        (Some((_, found)), None) => found.to_owned(),
        (None, _) if message.contains(['`', '"', '\'']) => "it is no TOML".to_owned(),
        (None, _) => message.to_owned(),
    };
    format!("line {line}, column {column}: {what}")
}

/// Returns the written value if it is within bounds, and the default if there is none.
fn pick<T>(name: &str, written: Option<T>, default: T, most: T) -> Result<T, String>
where
    T: Ord + Copy + std::fmt::Display + From<u8>,
{
    let most = most.max(default);
    match written {
        None => Ok(default),
        Some(value) if (T::from(1)..=most).contains(&value) => Ok(value),
        Some(value) => Err(format!("`{name}` is {value}, and must be 1 to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(text, LimitDefaults { defaults: Limits::default(), deadline_ms_max: 4_999 })
    }

    #[test]
    fn a_file_changes_only_what_it_names() {
        let settings = parse("deadline_ms = 5\non_fault = \"retry\"").expect("good");
        assert_eq!(settings.limits.deadline_ms, 5);
        assert_eq!(settings.limits.violations_max, 100);
        assert_eq!(settings.on_fault, OnFault::Retry);
    }

    #[test]
    fn what_is_kept_of_refused_events_is_said_in_the_file() {
        assert_eq!((parse("").expect("good").keep_raw, parse("").expect("good").force), (None, None));
        assert_eq!(parse("keep_raw = false").expect("good").keep_raw, Some(false));
        let digest = Digest::of(b"abc");
        assert_eq!(parse(&format!("force = \"{digest}\"")).expect("good").force, Some(digest));
        let wrong = parse("force = \"yes\"").expect_err("no digest");
        assert!(wrong.contains("`force`: a digest is 64"), "{wrong}");
    }

    #[test]
    fn unknown_keys_and_wild_values_are_told() {
        let unknown = parse("violations_max = 5\ndead_line = 5").expect_err("unknown key");
        assert!(unknown.starts_with("line 2, column 1: an unknown key, expected one of `deadline_ms`"), "{unknown}");
        let wild = parse("deadline_ms = 0").expect_err("zero");
        assert!(wild.contains("1 to 4999"), "{wild}");
        assert!(!wild.contains("deadline_ms = "), "{wild}");
        // Its sender would be answered before the deadline is over.
        let late = parse("deadline_ms = 5000").expect_err("too long");
        assert!(late.contains("1 to 4999"), "{late}");
    }
    #[test]
    fn nothing_of_the_file_is_quoted() {
        for text in [
            "HOME=/root\0PATH=/bin\0DATABASE_URL=postgres://eye:hunter2@db/eye\0",
            "hunter2",
            "hunter2 = 1",
            "deadline_ms = \"hunter2\"",
            "deadline_ms = \"hunter2, expected hunter2\"",
            "deadline_ms = hunter2",
            "on_fault = \"hunter2\"",
            "[hunter2]",
            "deadline_ms = 5 hunter2",
            "deadline_ms = 5\nhunter2 = ",
            "\"hunter2\" = 5\n\"hunter2\" = 6",
            "deadline_ms = [\"hunter2\"]",
            "deadline_ms = { hunter2 = 5 }",
        ] {
            let told = parse(text).expect_err(text);
            assert!(told.starts_with("line ") && told.contains(", column "), "{text}: {told}");
            assert!(!told.contains("hunter2") && !told.contains("postgres"), "{text}: {told}");
        }
    }
}
