//! The applications that a gateway makes by itself, by their names, and how much callers from this machine are trusted.

use super::Scope;

/// The application of the embedded default, which is trusted from this machine there and nowhere else.
pub const LOCAL: &str = "local";
/// The administrator of the embedded default, whose token is a file in the data dir.
pub const ADMIN_TOKEN: &str = "admin.token";
/// The first administrator of a database of one's own, whose token is in a file that the operator names.
pub const BOOTSTRAP: &str = "bootstrap";

/// Whether an application of this name is made by gateways alone.
pub fn is_own(name: &str) -> bool {
    [LOCAL, ADMIN_TOKEN, BOOTSTRAP].contains(&name)
}

/// What callers from this machine may do without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Local {
    /// Nothing: nobody is [`LOCAL`].
    #[default]
    Off,
    /// Send.
    Ingest,
    /// Send and read.
    Read,
}

impl Local {
    /// The setting of this word.
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

    /// The same as words, as rows have them.
    pub fn words(self) -> Vec<String> {
        self.scopes().iter().map(|scope| scope.as_str().to_owned()).collect()
    }
}
