//! The kinds of settings: which texts are allowed, and how a message describes them.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::origins;
use crate::trust::event_types::EventTypes;

/// The kinds of values.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number.
    Integer {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
        /// The unit, for the example file; empty if the key names it.
        unit: &'static str,
    },
    /// The same, or empty where the gateway is to choose.
    OptionalInteger {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// What it counts.
        unit: &'static str,
    },
    /// An address and a port.
    Address,
    /// An address and a port, or empty for none.
    OptionalAddress,
    /// A path, not empty.
    Path,
    /// A path, or empty for none.
    OptionalPath,
    /// A text that the gateway never prints, or empty for none.
    Secret,
    /// Networks (CIDR), separated by commas.
    Networks,
    /// Origins of pages, separated by commas.
    Origins,
    /// Host names, separated by commas.
    Hosts,
    /// Event types, as applications have them, separated by commas.
    EventTypes,
    /// A name of up to 200 characters, or empty.
    OptionalName,
    /// True or false.
    Switch,
    /// One of these.
    Choice(&'static [&'static str]),
}

impl Kind {
    /// Checks a text. The error says what it must be.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        let fits = match self {
            Self::Integer { min, max, .. } => is_within(text, min, max),
            Self::OptionalInteger { min, max, .. } => text.is_empty() || is_within(text, min, max),
            Self::Address => text.parse::<SocketAddr>().is_ok(),
            Self::OptionalAddress => text.is_empty() || text.parse::<SocketAddr>().is_ok(),
            Self::Path => !text.is_empty(),
            Self::OptionalPath | Self::Secret => true,
            Self::Networks => words(text).all(|word| word.parse::<IpNet>().is_ok()),
            Self::Origins => return words(text).find_map(origins::problem).map_or(Ok(()), Err),
            Self::Hosts => words(text).all(is_host),
            Self::EventTypes => EventTypes::parse(&words(text).collect::<Vec<_>>()).is_ok(),
            Self::OptionalName => text.chars().count() <= 200 && !text.chars().any(char::is_control),
            Self::Switch => matches!(text, "true" | "false"),
            Self::Choice(words) => words.contains(&text),
        };
        if fits { Ok(()) } else { Err(format!("must be {}", self.wanted())) }
    }

    /// Describes the allowed texts, for messages.
    pub(super) fn wanted(self) -> String {
        match self {
            Self::Integer { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::OptionalInteger { min, max, .. } => format!("a whole number from {min} to {max}, or empty"),
            Self::Address => "an address and a port, such as 127.0.0.1:8000".to_owned(),
            Self::OptionalAddress => "an address and a port, such as 127.0.0.1:9000, or empty".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::OptionalPath => "a path, or empty".to_owned(),
            Self::Secret => "a text".to_owned(),
            Self::Networks => "networks such as 10.0.0.0/8, separated by commas".to_owned(),
            Self::Origins => "origins such as https://shop.example, separated by commas".to_owned(),
            Self::Hosts => "host names such as eye.example, without a port, separated by commas".to_owned(),
            Self::EventTypes => {
                "event types such as shop/sale or shop/*, percent-encoded where a name holds a comma, separated by commas"
                    .to_owned()
            }
            Self::OptionalName => "up to 200 characters without control characters, or empty".to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The words of a comma-separated list.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn is_within(text: &str, min: u64, max: u64) -> bool {
    text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
}

/// Whether a text is a host name without scheme, port or path.
fn is_host(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
}

const fn number(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Integer { min, max, unit }
}

/// A number without a unit.
pub(super) const fn count(min: u64, max: u64) -> Kind {
    number(min, max, "")
}

/// A number of bytes.
pub(super) const fn bytes(min: u64, max: u64) -> Kind {
    number(min, max, "bytes")
}

/// A duration in milliseconds.
pub(super) const fn milliseconds(min: u64, max: u64) -> Kind {
    number(min, max, "milliseconds")
}

/// A duration in milliseconds, or none.
pub(super) const fn optional_milliseconds(min: u64, max: u64) -> Kind {
    Kind::OptionalInteger { min, max, unit: "milliseconds" }
}

/// A duration in seconds.
pub(super) const fn seconds(min: u64, max: u64) -> Kind {
    number(min, max, "seconds")
}

/// A duration in days.
pub(super) const fn days(min: u64, max: u64) -> Kind {
    number(min, max, "days")
}

/// A duration in months.
pub(super) const fn months(min: u64, max: u64) -> Kind {
    number(min, max, "months")
}

/// A part in percent.
pub(super) const fn percent(min: u64, max: u64) -> Kind {
    number(min, max, "percent")
}
