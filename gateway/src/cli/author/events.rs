//! The events by which a module is tried: its own examples, and the project's fixtures.

use eye_judge::{Expected, Trial, TrialEvent};

use super::fixtures::Fixture;

/// An event, and where it comes from.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// What it is, for people.
    pub(super) title: String,
    pub(super) event: TrialEvent,
    /// Whether it is stored, if the module judges it as wanted.
    pub(super) is_stored: bool,
}

/// All examples and fixtures.
pub(super) fn of(trial: &Trial, fixtures: &[Fixture]) -> anyhow::Result<Vec<Subject>> {
    let examples = trial.examples().iter().map(|example| Subject {
        title: format!("example `{}`", example.title),
        event: example.event.clone(),
        is_stored: example.expect != Expected::Reject,
    });
    let mut all: Vec<Subject> = examples.collect();
    for fixture in fixtures {
        all.push(Subject {
            title: format!("fixture {}", fixture.title()),
            event: fixture.event(trial)?,
            is_stored: fixture.expect != Expected::Reject,
        });
    }
    Ok(all)
}

/// The data of these events, those that are stored first: what is right can be spoiled in more ways.
pub(super) fn seeds(subjects: &[Subject]) -> Vec<&str> {
    let of = |stored: bool| subjects.iter().filter(move |one| one.is_stored == stored);
    of(true).chain(of(false)).map(|one| one.event.data.as_str()).collect()
}
