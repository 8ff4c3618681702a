//! Validators against real modules: each test puts small guests into a directory of its own and says what must come of
//! it. Guests are written as text, one per kind of behaviour.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use eye_event::envelope::Rules;
use eye_event::verdict::{FaultCode, UnfinishedCode};

use super::*;

mod candidates;
mod differential;
mod directory;
mod doubt;
mod generated;
mod generations;
mod guests;
mod judging;
mod keeping;
mod resident;
mod schemas;
mod sharing;
mod trial;

/// Longer than anything here takes on a loaded machine; no test waits it out.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway's validators over a directory that vanishes with them.
struct House {
    validators: Validators,
    root: tempfile::TempDir,
}

impl House {
    fn modules(&self) -> PathBuf {
        self.root.path().join("modules")
    }

    async fn with(files: &[(&str, &[u8])]) -> Self {
        Self::start(files, |_| {}).await
    }

    async fn start(files: &[(&str, &[u8])], change: impl FnOnce(&mut Options)) -> Self {
        let root = tempfile::tempdir().expect("a directory for the test");
        std::fs::create_dir(root.path().join("modules")).expect("made");
        for (file, bytes) in files {
            put(&root.path().join("modules"), file, bytes);
        }
        let mut options = options(root.path());
        change(&mut options);
        let validators = Validators::start(options).expect("the engine starts");
        validators.wait_scanned().await;
        Self { validators, root }
    }

    /// Drops a file in as people are told to: written beside, then renamed.
    fn put(&self, file: &str, bytes: &[u8]) {
        put(&self.modules(), file, bytes);
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.modules().join(file)).expect("it was there");
    }

    /// Ends the gateway and starts another on the same folders, as soon as it can be asked.
    fn restart(self) -> Self {
        let House { validators, root } = self;
        drop(validators);
        let validators = Validators::start(options(root.path())).expect("the engine starts");
        Self { validators, root }
    }

    async fn judge(&self, event_type: (&str, &str), data: &str) -> Judgement {
        self.validators.judge(subject(event_type, data)).await
    }

    fn problems(&self) -> Vec<Problem> {
        let (unserved, _) = self.validators.unserved();
        self.validators.problems(&unserved)
    }

    fn report(&self, event_type: &str) -> Option<TypeReport> {
        self.validators.report().into_iter().find(|report| report.event_type == event_type)
    }

    /// Waits for a report that satisfies `wanted`.
    async fn until(&self, event_type: &str, wanted: impl Fn(&TypeReport) -> bool) -> TypeReport {
        self.wait(|| self.report(event_type).filter(&wanted), event_type).await
    }

    async fn until_gone(&self, event_type: &str) {
        self.wait(|| self.report(event_type).is_none().then_some(()), event_type).await;
    }

    async fn wait<T>(&self, look: impl Fn() -> Option<T>, what: &str) -> T {
        let mut changes = self.validators.changes();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                changes.changed().await.expect("validators run");
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not come: {:#?}", self.validators.report()),
        }
    }
}

fn options(root: &Path) -> Options {
    Options {
        modules_from: Default::default(),
        modules_dir: root.join("modules"),
        data_dir: root.join("data"),
        unknown_event_type: UnknownEventType::Accept,
        required: Required::default(),
        is_beside_gateway: false,
        limits: Limits::default(),
        deadline_ms_max: 10_000,
        shared: SharedLimits::default(),
        rescan: Duration::from_secs(30),
        check_amended: Arc::new(|data| match serde_json::from_str(data) {
            Ok(serde_json::Value::Object(_)) => Ok(()),
            Ok(_) => Err("it is no object".into()),
            Err(error) => Err(error.to_string()),
        }),
        // No program: the tests of this crate load in their own process.
        loading: Loading { program: PathBuf::new(), limits: LoaderLimits::default(), rules: rules() },
        observer: Observer::default(),
    }
}

fn rules() -> Rules {
    Rules {
        data_bytes_max: 256 << 10,
        nesting_max: 64,
        number_digits_max: 1_000,
        future_us_max: 60_000_000,
        events_max: 10_000,
    }
}

fn put(modules: &Path, file: &str, bytes: &[u8]) {
    let path = modules.join(file);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let beside = path.with_extension("part");
    std::fs::write(&beside, bytes).expect("written");
    std::fs::rename(&beside, &path).expect("renamed");
}

fn subject<'a>((category, name): (&'a str, &'a str), data: &'a str) -> Subject<'a> {
    Subject {
        id: Uuid::from_u128(1),
        application: "web",
        session_id: Uuid::from_u128(2),
        category,
        name,
        timestamp_us: 1_700_000_000_000_000,
        received_at_us: 1_700_000_000_000_000,
        data,
    }
}

fn code(judgement: &Judgement) -> Option<FaultCode> {
    match &judgement.outcome {
        Err(Unjudged::Fault(fault)) => Some(fault.code),
        _ => None,
    }
}

/// Why the event has no outcome yet, if it has none.
fn unfinished_code(judgement: &Judgement) -> Option<UnfinishedCode> {
    match judgement.outcome {
        Err(Unjudged::Unfinished(why)) => Some(why.code),
        _ => None,
    }
}

/// Whether the newest file was refused, with or without another module that serves.
fn refused(report: &TypeReport) -> bool {
    report.last_error.is_some() && report.loading.is_none()
}

/// Holds all instances that may be at one moment, until it is dropped.
fn fill(house: &House) -> Vec<impl Sized> {
    let sandbox = &house.validators.inner.sandbox;
    let empty = wat::parse_str("(component (core module $m) (core instance (instantiate $m)))").expect("text");
    let empty = wasmtime::component::Component::from_binary(&sandbox.engine, &empty).expect("a component");
    let empty = wasmtime::component::Linker::new(&sandbox.engine).instantiate_pre(&empty).expect("no imports");
    let mut full = Vec::new();
    loop {
        let mut store = sandbox.store(&Limits::default());
        if empty.instantiate(&mut store).is_err() {
            return full;
        }
        full.push(store);
        assert!(full.len() < 10_000, "instances have a bound");
    }
}
