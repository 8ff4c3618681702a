//! What commands find in the environment beside the settings: a gateway elsewhere, and the token that opens it.

use std::path::PathBuf;

use super::Secret;

/// The variables of commands, which are no settings.
pub(super) const VARIABLES: [&str; 2] = ["EYE_GATEWAY", "EYE_TOKEN"];

/// A gateway that a command asks over HTTP.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its URL, as it was given.
    pub url: String,
    /// What opens it; `None` where nothing was given.
    pub token: Option<Secret>,
    /// The roots that its certificate must come from, in PEM; `None` for those of the web.
    pub roots: Option<PathBuf>,
}

/// The gateway that the environment names. An empty variable names none.
pub fn named() -> Option<Remote> {
    let given = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    Some(Remote {
        url: given("EYE_GATEWAY")?.trim().to_owned(),
        token: given("EYE_TOKEN").map(|token| Secret(token.trim().to_owned())),
        roots: given("SSL_CERT_FILE").map(PathBuf::from),
    })
}
