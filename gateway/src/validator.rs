//! Chooses the module for an event's type, calls it, and maps what happens to a verdict or a fault. The modules that
//! serve are one immutable registry behind an atomic pointer: an event takes the registry of the moment, and ends on the
//! module with which it began.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::verdict::{Digest, Fault, Verdict, Violation};

mod component;
mod directory;
mod engine;
mod figures;
mod report;

use component::Module;
pub use directory::Key;
pub use report::{Counts, LoadError, State, Times, TypeReport};

/// What happens to events that no module serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownEventType {
    /// They are stored.
    Accept,
    /// They are rejected.
    Reject,
}

/// What one call of a module may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// Longest time of a call, in milliseconds.
    pub deadline_ms: u64,
    /// Largest linear memory.
    pub memory_bytes_max: usize,
    /// Largest amended data, or all violations together.
    pub output_bytes_max: usize,
    /// Most violations of a rejection.
    pub violations_max: usize,
}

/// Says why amended data cannot be stored.
pub type CheckAmended = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Where modules are and what they may do.
#[derive(Clone)]
pub struct Options {
    /// The watched directory; it need not be there yet.
    pub modules_dir: PathBuf,
    /// The gateway's own data.
    pub data_dir: PathBuf,
    /// For events without a module.
    pub unknown_event_type: UnknownEventType,
    /// For each call.
    pub limits: Limits,
    /// How often the directory is read anew, whatever the watch tells.
    pub rescan: Duration,
    /// Proves amended data.
    pub check_amended: CheckAmended,
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("modules_dir", &self.modules_dir)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What stops the validators from starting. A bad module never does.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine does not run on this machine.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The event as a validator sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its id.
    pub id: Uuid,
    /// The sender's name.
    pub application: &'a str,
    /// Its session.
    pub session_id: Uuid,
    /// First half of its type.
    pub category: &'a str,
    /// Second half of its type.
    pub name: &'a str,
    /// When it occurred, in microseconds since 1970.
    pub timestamp_us: i64,
    /// The text of a JSON object.
    pub data: &'a str,
}

/// What judging an event came to.
#[derive(Debug)]
pub struct Judgement {
    /// The verdict, or how the module broke.
    pub outcome: Result<Verdict, Fault>,
    /// The module that spoke; nothing when none serves the event type.
    pub digest: Option<Digest>,
}

/// The modules that serve.
#[derive(Clone, Debug, Default)]
struct Registry {
    /// By category, then by name.
    exact: HashMap<String, HashMap<String, Arc<Module>>>,
    /// For the other names of a category.
    categories: HashMap<String, Arc<Module>>,
    /// For everything else.
    fallback: Option<Arc<Module>>,
}

impl Registry {
    fn find(&self, category: &str, name: &str) -> Option<&Arc<Module>> {
        self.exact
            .get(category)
            .and_then(|names| names.get(name))
            .or_else(|| self.categories.get(category))
            .or(self.fallback.as_ref())
    }

    fn put(&mut self, key: &Key, module: Option<Arc<Module>>) {
        match key {
            Key::Type { category, name } => {
                let names = self.exact.entry(category.clone()).or_default();
                match module {
                    Some(module) => drop(names.insert(name.clone(), module)),
                    None => drop(names.remove(name)),
                }
            }
            Key::Category(category) => match module {
                Some(module) => drop(self.categories.insert(category.clone(), module)),
                None => drop(self.categories.remove(category)),
            },
            Key::Everything => self.fallback = module,
        }
    }
}

/// The validators of a gateway. Clones share them.
#[derive(Clone, Debug)]
pub struct Validators {
    registry: Arc<ArcSwap<Registry>>,
    directory: Arc<directory::Directory>,
    unknown_event_type: UnknownEventType,
}

impl Validators {
    /// Starts the engine and begins to load what is in the modules directory.
    ///
    /// # Errors
    ///
    /// [`Error`]; never for a bad module or a missing directory.
    pub fn start(options: Options) -> Result<Validators, Error> {
        let engine = engine::Engine::start(&options.limits)?;
        let registry = Arc::new(ArcSwap::from_pointee(Registry::default()));
        let unknown_event_type = options.unknown_event_type;
        let directory = Arc::new(directory::Directory::watch(options, engine, Arc::clone(&registry))?);
        Ok(Validators { registry, directory, unknown_event_type })
    }

    /// Judges one event.
    #[expect(clippy::unused_async, reason = "callers must not count on a verdict without waiting for one")]
    pub async fn judge(&self, subject: Subject<'_>) -> Judgement {
        let registry = self.registry.load();
        match registry.find(subject.category, subject.name) {
            Some(module) => Judgement { outcome: module.judge(&subject), digest: Some(module.digest()) },
            None => Judgement { outcome: Ok(self.unknown()), digest: None },
        }
    }

    fn unknown(&self) -> Verdict {
        match self.unknown_event_type {
            UnknownEventType::Accept => Verdict::Accept,
            UnknownEventType::Reject => Verdict::Reject(vec![Violation {
                pointer: String::new(),
                code: "unknown_event_type".into(),
                message:
                    "no validator serves this category and name, and this gateway stores only events that one judged"
                        .into(),
            }]),
        }
    }

    /// Whether the modules directory was read once.
    pub fn scanned(&self) -> bool {
        self.directory.scanned()
    }

    /// What is known of each event type that has, or had, a module.
    pub fn report(&self) -> Vec<TypeReport> {
        self.directory.report()
    }

    /// Ends the watch and its threads.
    pub async fn stop(&self) {
        let directory = Arc::clone(&self.directory);
        // A module may just be compiling, which takes longer than a request thread may be held.
        if tokio::task::spawn_blocking(move || directory.stop()).await.is_err() {
            tracing::error!("the watch of the modules directory ended badly");
        }
    }
}
