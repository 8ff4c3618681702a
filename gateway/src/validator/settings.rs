//! What a module may use, and what its faults mean for the sender: the gateway's defaults, and the `<name>.toml` beside a
//! module that changes some of them. Parsing only; which file applies is the modules directory's business.

use serde::{Deserialize, Serialize};

/// What one call of a module may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Milliseconds that judging one event may take. Rounded up to the next tick of the epoch.
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

/// What the sender of an event is told when the module faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFault {
    /// The event is kept as a dead letter; the sender need not send it again.
    #[default]
    Quarantine,
    /// The sender is asked to try again; the event is not kept.
    Retry,
}

/// Everything that can be set for one module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Settings {
    /// What one call may use.
    #[serde(flatten)]
    pub limits: Limits,
    /// What a fault means for the sender.
    pub on_fault: OnFault,
}

/// The file as written: every key is optional, unknown keys are errors.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    deadline_ms: Option<u64>,
    memory_bytes_max: Option<usize>,
    output_bytes_max: Option<usize>,
    violations_max: Option<usize>,
    on_fault: Option<OnFault>,
}

/// The most that a file may ask for: a typing error must not give a module an hour or a terabyte.
const MOST: Limits =
    Limits { deadline_ms: 10_000, memory_bytes_max: 1 << 30, output_bytes_max: 8 << 20, violations_max: 10_000 };

impl Settings {
    /// Lays the text of a `<name>.toml` over `defaults`.
    ///
    /// # Errors
    ///
    /// A sentence with line and column when the text is no TOML, has an unknown key, or a value out of range.
    pub(super) fn parse(text: &str, defaults: Limits) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| error.to_string())?;
        let Written { deadline_ms, memory_bytes_max, output_bytes_max, violations_max, on_fault } = written;
        let limits = Limits {
            deadline_ms: pick("deadline_ms", deadline_ms, defaults.deadline_ms, MOST.deadline_ms)?,
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
        Ok(Self { limits, on_fault: on_fault.unwrap_or_default() })
    }
}

/// The value as written if it lies within bounds, else the default.
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

    #[test]
    fn a_file_changes_only_what_it_names() {
        let settings = Settings::parse("deadline_ms = 5\non_fault = \"retry\"", Limits::default()).expect("good");
        assert_eq!(settings.limits.deadline_ms, 5);
        assert_eq!(settings.limits.violations_max, 100);
        assert_eq!(settings.on_fault, OnFault::Retry);
    }

    #[test]
    fn unknown_keys_and_wild_values_are_told() {
        let unknown = Settings::parse("dead_line = 5", Limits::default()).expect_err("unknown key");
        assert!(unknown.contains("dead_line"), "{unknown}");
        let wild = Settings::parse("deadline_ms = 0", Limits::default()).expect_err("zero");
        assert!(wild.contains("1 to 10000"), "{wild}");
    }
}
