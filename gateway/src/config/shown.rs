//! The settings in force as data, for the panel and for commands: the value of each, where it came from, and its
//! sentence. A secret is told by its place alone.

use serde::Serialize;
use serde_json::{Value, json};

use super::kind::words;
use super::{Kind, Origin, SETTINGS, Settings};

/// A setting that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingInForce {
    /// The key in the file.
    pub key: &'static str,
    /// The value; null for none, and for a secret.
    pub value: Value,
    /// Whether the value is a secret, and left out.
    pub hidden: bool,
    /// `default`, `file`, `environment` or `flag`.
    pub from: &'static str,
    /// The file with the line, the name of the variable, or that of the flag.
    pub place: Option<String>,
    /// The value that counts if no place gives one.
    pub default: Value,
    /// Whether a change needs a restart, since no reload applies it.
    pub needs_restart: bool,
    /// The consequence of the setting.
    pub about: String,
}

impl Settings {
    /// All settings, in the order of the example file.
    pub fn in_force(&self) -> Vec<SettingInForce> {
        let one = |setting: &super::Setting| {
            let hidden = matches!(setting.kind, Kind::Secret) && !self.text(setting.key).is_empty();
            let (from, place) = match self.origin(setting.key) {
                Origin::Default => ("default", None),
                Origin::File(place) => ("file", Some(place.clone())),
                Origin::Environment { name, .. } => ("environment", Some(name.clone())),
                Origin::Flag(name) => ("flag", Some(name.clone())),
            };
            SettingInForce {
                key: setting.key,
                value: if hidden { Value::Null } else { value(setting.kind, self.text(setting.key)) },
                hidden,
                from,
                place,
                default: value(setting.kind, setting.default),
                needs_restart: !setting.reload,
                about: setting.consequence.split_whitespace().collect::<Vec<_>>().join(" "),
            }
        };
        SETTINGS.iter().map(one).collect()
    }
}

/// The value of a text as JSON, as the file would have it; null for an empty text that means none.
fn value(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Integer { .. } | Kind::OptionalInteger { .. } => json!(text.parse::<u64>().ok()),
        Kind::Switch => json!(text == "true"),
        Kind::Networks | Kind::Origins | Kind::Hosts | Kind::EventTypes => json!(words(text).collect::<Vec<_>>()),
        Kind::Address | Kind::Path | Kind::Choice(_) => json!(text),
        Kind::OptionalAddress | Kind::OptionalPath | Kind::OptionalName | Kind::Secret => {
            json!(Some(text).filter(|text| !text.is_empty()))
        }
    }
}
