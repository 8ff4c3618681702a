//! Reads settings from the environment: `EYE_<KEY>` with a value, or `EYE_<KEY>_FILE` with the path of a file that
//! holds the value. It ignores empty variables, and variables that Kubernetes sets under such names.

use std::ffi::OsString;
use std::path::Path;

use super::remote::VARIABLES;
use super::settings::SETTINGS;
use super::{Origin, is_former, text_file};

/// Prefix of the variables.
const PREFIX: &str = "EYE_";
/// The suffix of variables that name a file.
const FILE: &str = "_FILE";
/// Most bytes of a value in a file. A list of networks or event types may be long.
const VALUE_BYTES_MAX: u64 = 64 << 10;

/// A value for a setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variable {
    /// The setting's key, which may be a former one.
    pub(super) key: String,
    pub(super) text: String,
    /// The variable, and the file that it names.
    pub(super) origin: Origin,
}

/// Reads the values from the environment. Its errors go to `problems`.
pub(super) fn read(variables: impl Iterator<Item = (OsString, OsString)>, problems: &mut Vec<String>) -> Vec<Variable> {
    let mut found: Vec<Variable> = Vec::new();
    // Sorted, so that the same environment gives the same problems in the same order.
    let mut ours: Vec<_> = variables
        .filter(|(name, value)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) && !value.is_empty())
        .collect();
    ours.sort();
    for (name, value) in ours {
        let name = name.to_string_lossy().into_owned();
        let Some(text) = value.to_str() else {
            problems.push(format!("environment {name}: its value is no UTF-8"));
            continue;
        };
        let rest = name.strip_prefix(PREFIX).unwrap_or_default();
        let key = rest.to_lowercase();
        let (key, is_file) = match rest.strip_suffix(FILE) {
            Some(of) if !is_setting(&key) && is_setting(&of.to_lowercase()) => (of.to_lowercase(), true),
            _ if !is_setting(&key) && (VARIABLES.contains(&name.as_str()) || is_of_a_service(rest, text)) => continue,
            _ => (key, false),
        };
        if !is_file {
            found.push(Variable { key, text: text.to_owned(), origin: Origin::Environment { name, file: None } });
            continue;
        }
        match text_file::read(Path::new(text), VALUE_BYTES_MAX)
            .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
        {
            // An empty file is probably a mistake, and the default would hide it.
            Ok(text) if text.is_empty() => {
                problems.push(format!("environment {name}: {text:?} is empty", text = value))
            }
            Ok(value) => {
                let origin = Origin::Environment { name, file: Some(text.to_owned()) };
                found.push(Variable { key, text: value, origin });
            }
            Err(problem) => problems.push(format!("environment {name}: {problem}")),
        }
    }
    let is_file = |variable: &&Variable| matches!(variable.origin, Origin::Environment { file: Some(_), .. });
    for file in found.iter().filter(is_file) {
        if found.iter().any(|other| !is_file(&other) && other.key == file.key) {
            let (name, key) = (file.key.to_uppercase(), &file.key);
            problems.push(format!(
                "environment {PREFIX}{name}: {PREFIX}{name}{FILE} is given too; give {key} once, as a value or as a file"
            ));
        }
    }
    found
}

fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key == key) || is_former(key)
}

/// Whether Kubernetes sets such a variable for a Service with the name `eye`, or `eye-` and more: its address and
/// ports, and the variables of Docker links. `name` is without the prefix.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_place = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_port = |word: &str| word.parse::<u16>().is_ok();
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    (0..words.len()).any(|start| match words[start..] {
        ["SERVICE", "HOST"] | ["SERVICE", "PORT", ..] => true,
        ["PORT"] => is_place,
        ["PORT", port, protocol] => is_place && is_port(port) && is_protocol(protocol),
        ["PORT", port, protocol, "ADDR" | "PORT" | "PROTO"] => is_port(port) && is_protocol(protocol),
        _ => false,
    })
}
