//! Loads a module to be tried: by a gateway's own loader in a child process, with a gateway's defaults, and without one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context as _;
use eye_event::legible::legible;
use eye_event::verdict::{Fault, FaultCode, Verdict};
use eye_judge::{CheckAmended, Kind, Refusal, Slot, Trial, TrialError, TrialOptions};

use super::terminal::Progress;
use crate::cli::Failure;
use crate::config::{Settings, parts};

/// Folders that this process has made for loaders.
static FOLDERS: AtomicU64 = AtomicU64::new(0);

/// A folder for the notes of a loader, removed on drop. Nobody else can read it.
struct Notes(PathBuf);

impl Notes {
    fn new() -> anyhow::Result<Self> {
        let number = FOLDERS.fetch_add(1, Relaxed);
        let folder = std::env::temp_dir().join(format!("eye-trial-{}-{number}", uuid::Uuid::now_v7().simple()));
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        // It fails if the folder is there, so that nobody can prepare one.
        builder.create(&folder).with_context(|| format!("no folder for the loader: {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        // What stays is a few notes in the folder for such files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The defaults of a gateway.
fn options() -> Result<eye_judge::Options, Failure> {
    let (_, config) = Settings::from_parts(None, std::iter::empty(), &[])?;
    Ok(parts::validator_options(&config))
}

/// Loads a module as a gateway does. With `self_tests` it is refused if it fails its examples; without, they are listed.
///
/// # Errors
///
/// The refusal of the module is the inner error.
pub(super) fn load(
    slot: &Slot,
    kind: Kind,
    content: &[u8],
    settings: Option<&str>,
    self_tests: bool,
) -> Result<Result<Trial, Refusal>, Failure> {
    let eye_judge::Options { loading, limits, deadline_ms_max, check_amended, .. } = options()?;
    let notes = Notes::new()?;
    let _going_on = Progress::of(match kind {
        Kind::Module => "loading the module",
        Kind::Schema => "loading the engine and the schema",
    });
    let options = TrialOptions {
        kind,
        loading,
        data_dir: &notes.0,
        limits,
        deadline_ms_max,
        settings,
        check_amended,
        self_tests,
    };
    match Trial::load(slot, content, options) {
        Ok(trial) => Ok(Ok(trial)),
        Err(TrialError::Refused(refusal)) => Ok(Err(refusal)),
        Err(TrialError::Engine(error)) => Err(anyhow::Error::from(error).into()),
    }
}

/// Checks data as a gateway checks what senders write.
pub(super) fn check_data() -> Result<CheckAmended, Failure> {
    Ok(options()?.check_amended)
}

/// What became of an event, in full: a verdict with all its violations on lines of their own, or a fault.
pub(super) fn told(outcome: &Result<Verdict, Fault>) -> String {
    let plain = |text: &str| legible(text, usize::MAX).to_string();
    match outcome {
        Ok(Verdict::Accept) => "accept".to_owned(),
        Ok(Verdict::Amend(data)) => format!("amend to {}", plain(data)),
        Ok(Verdict::Reject(violations)) => {
            let lines = violations
                .iter()
                .map(|one| format!("\n  {} at `{}`: {}", plain(&one.code), plain(&one.pointer), plain(&one.message)));
            format!("reject with{}", lines.collect::<String>())
        }
        Err(fault) => told_fault(fault),
    }
}

/// A fault, with the module's last words, and what to do.
pub(super) fn told_fault(fault: &Fault) -> String {
    let said = fault.last_words.as_deref().map(|words| format!(", saying `{}`", legible(words, 2_000)));
    let said = said.unwrap_or_default();
    format!("a fault ({}): {}{said}\nmend: {}", fault.code, legible(&fault.detail, 2_000), mend(fault.code))
}

/// What an author does about a fault. A sender may make such an event at any time.
fn mend(code: FaultCode) -> &'static str {
    match code {
        FaultCode::Deadline => {
            "do less for such an event (bound the length of texts and lists first), or allow more `deadline_ms` in settings.toml"
        }
        FaultCode::Memory => "hold less for such an event, or allow more `memory_bytes_max` in settings.toml",
        FaultCode::Stack => "walk less deep, or bound the depth first",
        FaultCode::Output => {
            "give what the contract allows, within `output_bytes_max` and `violations_max` of settings.toml"
        }
        FaultCode::Trap | FaultCode::OffPath | FaultCode::Busy => {
            "judge such an event without a panic or an exception: reject what the rule cannot read"
        }
    }
}
