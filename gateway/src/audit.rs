//! The entries of the audit trail: an action, its subject, its actor and bounded details. An entry holds no secret and nothing
//! of an event. Each entry is also a line of the log. `store/audit.rs` writes an entry in the transaction of its change, and
//! `trail.rs` writes the entries of changes outside Postgres.

use std::fs;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Instant;

use serde_json::{Map, Value};
use uuid::Uuid;

/// Longest subject and name, in characters.
const CHARACTERS_MAX: usize = 250;
/// Longest text in the details, in characters.
const TEXT_CHARACTERS_MAX: usize = 500;
/// Most items of a list in the details. The last item counts the rest.
const ITEMS_MAX: usize = 20;
/// Most bytes of the details as text. The largest members are left out until the rest fits.
const DETAILS_BYTES_MAX: usize = 4_096;
/// The member that says that others were left out.
const CUT: &str = "cut";

macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal;)+) => {
        /// The kind of change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Action {
            /// All actions. The documentation lists them in this order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word for it in the database, in answers and in the log.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }
    };
}

actions! {
    /// An application was added.
    ApplicationAdd = "application_add";
    /// The scopes, limits, networks or state of an application changed.
    ApplicationChange = "application_change";
    /// An application got a new token.
    ApplicationRotate = "application_rotate";
    /// Older tokens of an application were ended, or they expired.
    ApplicationExpire = "application_expire";
    /// An application was revoked.
    ApplicationRevoke = "application_revoke";
    /// A gateway made an application, or gave it its token, by itself.
    ApplicationBootstrap = "application_bootstrap";
    /// An application got a code that signs in to the panel once.
    PanelCode = "panel_code";
    /// A code was used to sign in to the panel.
    PanelSignIn = "panel_sign_in";
    /// A session of the panel was ended from the panel.
    PanelSignOut = "panel_sign_out";
    /// A caller without the scope `admin` requested administration.
    AdminRefused = "admin_refused";
    /// Dead letters were judged again.
    Redrive = "redrive";
    /// Somebody asked for a job.
    JobAsk = "job_ask";
    /// Somebody cancelled a job.
    JobCancel = "job_cancel";
    /// A job ended.
    JobEnd = "job_end";
    /// Older dead letters were rewritten, since the module of their type takes secrets out.
    Scrub = "scrub";
    /// An announced removal was confirmed.
    RetentionConfirm = "retention_confirm";
    /// A partition was made.
    PartitionMake = "partition_make";
    /// Retention removed a partition.
    PartitionDrop = "partition_drop";
    /// The schema got a new version.
    Migrate = "migrate";
    /// The configuration was read again.
    SettingsReload = "settings_reload";
    /// A module was pushed.
    ValidatorPush = "validator_push";
    /// An earlier version of a module was put back.
    ValidatorRollback = "validator_rollback";
    /// A module was taken away on purpose.
    ValidatorRetire = "validator_retire";
    /// A candidate began to be tried.
    ValidatorTry = "validator_try";
    /// A candidate serves now, or is tried on more sessions.
    ValidatorPromote = "validator_promote";
    /// A candidate was discarded.
    ValidatorDiscard = "validator_discard";
    /// The settings of a file force a module, so it is not taken back any more.
    ValidatorLift = "validator_lift";
    /// The guard took a module back.
    Guard = "guard";
    /// All modules were put back to those of an earlier generation.
    FleetBack = "fleet_back";
    /// The modules of a directory were made a generation.
    FleetImport = "fleet_import";
    /// The fleet serves a new generation.
    GenerationMake = "generation_make";
    /// A change that waited for the gateways came to nothing.
    GenerationRefuse = "generation_refuse";
    /// A slot has another module than before.
    ModuleReplace = "module_replace";
    /// A module's file was refused.
    ModuleRefuse = "module_refuse";
    /// A kept version serves in place of a file that was refused.
    ModuleFallBack = "module_fall_back";
    /// A module was unloaded, since its file is gone.
    ModuleUnload = "module_unload";
    /// Most files of the modules directory disappeared at once, and their modules serve on.
    ModuleLost = "module_lost";
    /// The embedded Postgres was started.
    PostgresStart = "postgres_start";
}

impl Action {
    /// The action of a word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.as_str() == word)
    }
}

/// The kind of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActorKind {
    /// An application that sent a request.
    Application,
    /// A person who ran a command.
    Command,
    /// A gateway that acts by itself.
    Gateway,
}

impl ActorKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Command => "command",
            Self::Gateway => "gateway",
        }
    }
}

/// The cause of a change, and its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Its kind.
    pub kind: ActorKind,
    /// The name of the application, or of the user of the operating system. Empty for a gateway.
    pub name: String,
    /// The id of the token in the request.
    pub token_id: Option<String>,
    /// The id of the session of the panel by which the application sent the request.
    pub panel_session: Option<String>,
    /// The machine of the command or of the gateway.
    pub host: Option<String>,
    /// The user who logged in, if the command runs as another user.
    pub login: Option<String>,
    /// The other end of the request's connection.
    pub peer: Option<IpAddr>,
    /// The caller's address, as a trusted proxy gives it.
    pub forwarded: Option<IpAddr>,
    /// The id of the request.
    pub request_id: Option<String>,
}

impl Actor {
    fn new(kind: ActorKind, name: String) -> Self {
        let name = legible(&name, CHARACTERS_MAX);
        Self {
            kind,
            name,
            token_id: None,
            panel_session: None,
            host: None,
            login: None,
            peer: None,
            forwarded: None,
            request_id: None,
        }
    }

    /// This gateway.
    pub fn gateway() -> Self {
        Self { host: Some(HOST.clone()), ..Self::new(ActorKind::Gateway, String::new()) }
    }

    /// The person who runs this command.
    pub fn command() -> Self {
        let user = rustix::process::getuid().as_raw();
        // The kernel keeps this user when a program such as sudo changes the user.
        let login = fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse().ok());
        let login = login.filter(|login| ![user, u32::MAX].contains(login));
        Self { host: Some(HOST.clone()), login: login.map(user_name), ..Self::new(ActorKind::Command, user_name(user)) }
    }

    /// An application. The caller of this function adds the facts of the request.
    pub fn application(name: &str) -> Self {
        Self::new(ActorKind::Application, name.to_owned())
    }

    /// The JSON text for the setting `eye.actor` of a database session.
    pub fn as_session(&self) -> String {
        let mut told = serde_json::json!({"kind": self.kind.as_str(), "name": self.name, "host": self.host});
        if let Some(login) = &self.login {
            told["login"] = login.as_str().into();
        }
        told.to_string()
    }
}

/// The name of this machine.
static HOST: LazyLock<String> = LazyLock::new(|| {
    let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let found = read("/proc/sys/kernel/hostname").or_else(|| read("/etc/hostname"));
    legible(&found.unwrap_or_else(|| "unknown".to_owned()), CHARACTERS_MAX)
});

/// The name of a user of this machine, or its number if `/etc/passwd` has no such user.
fn user_name(user: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = user.to_string();
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(number.as_str()));
    let name = line.and_then(|line| line.split(':').next()).filter(|name| !name.is_empty());
    name.map_or(number.clone(), |name| legible(name, CHARACTERS_MAX))
}

/// An entry of the audit trail.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Writing the entry again changes nothing, since the id is the same.
    pub id: Uuid,
    /// The kind of change.
    pub action: Action,
    /// The application, event type, partition or other thing that changed.
    pub subject: String,
    /// The cause of the change.
    pub actor: Actor,
    /// More facts, each within its bound.
    details: Map<String, Value>,
    /// The time of the change, by the clock of this process.
    pub happened: Instant,
}

impl Entry {
    /// An entry of a change that happens now.
    pub fn new(action: Action, subject: &str, actor: &Actor) -> Self {
        let mut entry = Self {
            id: Uuid::now_v7(),
            action,
            subject: legible(subject, CHARACTERS_MAX),
            actor: actor.clone(),
            details: Map::new(),
            happened: Instant::now(),
        };
        if let Some(login) = &actor.login {
            entry.details.insert("login".to_owned(), login.as_str().into());
        }
        if let Some(session) = &actor.panel_session {
            entry.details.insert("way".to_owned(), "panel session".into());
            entry.details.insert("panel_session".to_owned(), session.as_str().into());
        }
        entry
    }

    /// Adds a detail, unless it is null.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = bounded(value.into());
        if !value.is_null() {
            self.details.insert(key.to_owned(), value);
        }
        self
    }

    /// Adds all members of an object as details.
    #[must_use]
    pub fn with_all(self, members: Map<String, Value>) -> Self {
        members.into_iter().fold(self, |entry, (key, value)| entry.with(&key, value))
    }

    /// The details as the JSON text of an object, within their bound.
    pub fn details(&self) -> String {
        let mut details = self.details.clone();
        loop {
            let text = Value::Object(details.clone()).to_string();
            if text.len() <= DETAILS_BYTES_MAX {
                return text;
            }
            let largest = details.iter().max_by_key(|(_, value)| value.to_string().len());
            let Some(key) = largest.map(|(key, _)| key.clone()) else { return "{}".to_owned() };
            details.remove(&key);
            details.insert(CUT.to_owned(), true.into());
        }
    }

    /// Writes the entry to the log.
    pub fn log(&self) {
        let Actor { kind, name, token_id, panel_session: _, host, login: _, peer, forwarded, request_id } = &self.actor;
        let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        tracing::info!(
            action = self.action.as_str(),
            subject = some(&self.subject),
            actor = kind.as_str(),
            name = some(name),
            token_id,
            host,
            peer = peer.map(tracing::field::display),
            forwarded = forwarded.map(tracing::field::display),
            request_id,
            details = %self.details(),
            "audit"
        );
    }
}

/// Cuts a text to its bound, and replaces NUL, which Postgres cannot hold.
fn legible(text: &str, characters_max: usize) -> String {
    let mut characters = text.chars().map(|character| if character == '\0' { '\u{fffd}' } else { character });
    let mut short: String = characters.by_ref().take(characters_max).collect();
    if characters.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

/// Cuts each text and list of a value to its bound.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => legible(&text, TEXT_CHARACTERS_MAX).into(),
        Value::Array(mut items) => {
            let more = items.len().saturating_sub(ITEMS_MAX);
            items.truncate(ITEMS_MAX);
            let more = (more > 0).then(|| Value::from(format!("and {more} more")));
            items.into_iter().map(bounded).chain(more).collect()
        }
        Value::Object(members) => {
            members.into_iter().map(|(key, value)| (legible(&key, CHARACTERS_MAX), bounded(value))).collect()
        }
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_action_has_a_word_of_its_own_that_the_database_takes() {
        for action in Action::ALL {
            let word = action.as_str();
            assert_eq!(Action::of_word(word), Some(*action), "{word}");
            assert!(word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{word}");
        }
        assert_eq!(Action::of_word("nothing"), None);
    }

    #[test]
    fn an_entry_stays_within_its_bounds_whatever_it_is_told() {
        let long = "ü\0".repeat(2_000);
        let many: Vec<Value> = (0..1_000).map(|number| json!({"n": number, "text": long})).collect();
        let entry = Entry::new(Action::Redrive, &long, &Actor::application(&long));
        let entry = entry.with("many", many).with("long", long.as_str()).with("n", 7).with("nothing", Value::Null);
        let details: Value = serde_json::from_str(&entry.details()).expect("an object");
        assert!(entry.details().len() <= DETAILS_BYTES_MAX, "{}", entry.details().len());
        assert_eq!((&details["n"], &details["cut"], details.get("nothing")), (&json!(7), &json!(true), None));
        for text in [&entry.subject, &entry.actor.name, details["long"].as_str().expect("it fits")] {
            assert!(
                text.chars().count() <= TEXT_CHARACTERS_MAX && text.ends_with('…') && !text.contains('\0'),
                "{text}"
            );
        }
        let few = Entry::new(Action::Redrive, "", &Actor::gateway()).with("list", vec!["a"; 22]);
        let details: Value = serde_json::from_str(&few.details()).expect("an object");
        assert_eq!((details["list"].as_array().map(Vec::len), &details["list"][20]), (Some(21), &json!("and 2 more")));
    }

    #[test]
    fn a_command_names_its_user_and_its_machine() {
        let command = Actor::command();
        assert!(!command.name.is_empty() && command.host.is_some_and(|host| !host.is_empty()));
        assert_eq!(user_name(4_000_000_000), "4000000000", "a user without a name");
        if rustix::process::getuid().is_root() {
            assert_eq!(command.name, "root");
        }
    }
}
