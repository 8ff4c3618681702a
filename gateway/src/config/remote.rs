//! Reads from the environment, for commands, the gateway that they ask over HTTP and its token.

use std::path::PathBuf;

use super::Secret;

/// The variables of commands, which are not settings.
pub(super) const VARIABLES: [&str; 2] = ["EYE_GATEWAY", "EYE_TOKEN"];

/// A gateway that a command asks over HTTP.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The URL as given.
    pub url: String,
    /// The token; `None` if the variable is not set.
    pub token: Option<Secret>,
    /// A PEM file with the root certificates to trust; `None` for the public ones.
    pub roots: Option<PathBuf>,
}

/// Returns the gateway that the environment names. Empty variables count as not set.
pub fn named() -> Option<Remote> {
    Some(at(given("EYE_GATEWAY")?.trim()))
}

/// A PEM file with the root certificates that the gateway trusts as a client; `None` for the public ones.
pub fn trusted_roots() -> Option<PathBuf> {
    given("SSL_CERT_FILE").map(PathBuf::from)
}

fn given(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Returns a gateway that a project file names, with the token of the environment.
#[must_use]
pub fn at(url: &str) -> Remote {
    Remote {
        url: url.to_owned(),
        token: given("EYE_TOKEN").map(|token| Secret(token.trim().to_owned())),
        roots: given("SSL_CERT_FILE").map(PathBuf::from),
    }
}
