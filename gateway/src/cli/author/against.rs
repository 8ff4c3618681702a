//! Whether two files judge alike: the events of a test, each by both. It serves authors who go from a schema to code, or
//! who write a validator anew.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use eye_event::verdict::{Fault, Verdict};
use eye_judge::{Expected, Trial, TrialEvent};

use super::fixtures::folder_of;
use super::terminal::Progress;
use super::{ModuleFile, trying};
use crate::cli::Failure;

/// How long events are compared.
const TIME_MAX: Duration = Duration::from_secs(20);

/// What a comparison found.
#[derive(Default)]
pub(super) struct Compared {
    /// Events that both judged.
    pub(super) judged: usize,
    /// Events that one of them could not judge, or for which no time was left.
    pub(super) left: usize,
    /// Title, event, the verdict of the other file, and that of this one.
    pub(super) differences: Vec<(String, TrialEvent, String, String)>,
}

/// Loads the file to compare with.
pub(super) fn load(file: &Path, module: &ModuleFile) -> Result<Trial, Failure> {
    let other = ModuleFile { file: file.to_owned(), event_type: module.event_type.clone(), is_of_project: false };
    let (content, settings) = (other.content()?, other.settings(None)?);
    let loaded = trying::load(&other.event_type, other.kind(&content), &content, settings.as_deref(), false)?;
    loaded.map_err(|refusal| anyhow!("{}: a gateway would refuse it: {refusal}", file.display()).into())
}

/// How an event ended. The data that is stored in its place does not matter here.
fn told(outcome: &Result<Verdict, Fault>) -> String {
    match outcome {
        Ok(Verdict::Amend(_)) => "amend".to_owned(),
        other => trying::told(other),
    }
}

/// Judges events by both. Stored is stored, amended or not, and codes may differ.
pub(super) fn compare(this: &Trial, other: &Trial, events: impl Iterator<Item = (String, TrialEvent)>) -> Compared {
    let _going_on = Progress::of("judging by both files");
    let began = Instant::now();
    let mut found = Compared::default();
    let end = |outcome: &Result<Verdict, Fault>| outcome.as_ref().ok().map(|verdict| folder_of(Expected::of(verdict)));
    for (title, event) in events {
        if began.elapsed() > TIME_MAX {
            found.left += 1;
            continue;
        }
        let (ours, theirs) = (this.judge(&event).outcome, other.judge(&event).outcome);
        match (end(&ours), end(&theirs)) {
            (Some(one), Some(another)) => {
                found.judged += 1;
                if one != another {
                    found.differences.push((title, event, told(&theirs), told(&ours)));
                }
            }
            _ => found.left += 1,
        }
    }
    found
}
