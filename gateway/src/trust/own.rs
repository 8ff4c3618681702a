//! The names of the applications that gateways register by themselves, and the rights of callers from this machine.

use super::Scope;

/// The application of callers from this machine, if the gateway runs the embedded Postgres.
pub const LOCAL: &str = "local";
/// The administrator of the embedded Postgres. Its token is a file in the data dir.
pub const ADMIN_TOKEN: &str = "admin.token";
/// The first administrator in a database of the operator's own. Its token is in a file that the operator names.
pub const BOOTSTRAP: &str = "bootstrap";

/// Whether only gateways register an application of this name.
pub fn is_own(name: &str) -> bool {
    [LOCAL, ADMIN_TOKEN, BOOTSTRAP].contains(&name)
}

/// The rights of callers from this machine without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// None: no caller is [`LOCAL`].
    #[default]
    Off,
    /// Send.
    Ingest,
    /// Send and read.
    Read,
}

impl Local {
    /// The right of a word in the settings.
    pub fn of_word(word: &str) -> Self {
        match word {
            "ingest" => Self::Ingest,
            "read" => Self::Read,
            _ => Self::Off,
        }
    }

    /// The scopes of [`LOCAL`].
    pub fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Off => &[],
            Self::Ingest => &[Scope::Ingest],
            Self::Read => &[Scope::Ingest, Scope::Read],
        }
    }

    /// The scopes as rows have them.
    pub fn words(self) -> Vec<String> {
        self.scopes().iter().map(|scope| scope.as_str().to_owned()).collect()
    }
}
