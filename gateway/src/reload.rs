//! Reads the configuration again while the gateway runs, from the same places as at the start. It applies the settings
//! that can change at run time and names the changed ones that need a restart. It rejects a configuration with problems
//! as a whole.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::signal::unix::Signal;

use crate::audit::{Action, Actor, Entry};
use crate::config::{Problems, Settings};
use crate::systemd::ServiceManager;
use crate::trail::Trail;

/// Reads all settings: defaults, file, environment, flags.
pub type Read = Box<dyn Fn() -> Result<Settings, Problems> + Send + Sync>;

/// A setting that can change while the gateway runs.
pub struct Changeable {
    /// Its key.
    pub key: &'static str,
    /// Applies the new value to the part of the gateway that uses it.
    pub take_over: Box<dyn Fn(&Settings) + Send + Sync>,
}

/// The result of a reload, for the answer and the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The settings that were applied.
    pub changed: Vec<&'static str>,
    /// The number of settings that did not change.
    pub unchanged: usize,
    /// The settings that differ from those in force and need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// The settings in force, and the way to read them again.
pub struct Reload {
    read: Read,
    changeable: Vec<Changeable>,
    in_force: Mutex<Settings>,
    trail: Arc<Trail>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// Starts with the settings of the start.
    pub fn new(read: Read, in_force: Settings, changeable: Vec<Changeable>, trail: Arc<Trail>) -> Self {
        Self { read, changeable, in_force: Mutex::new(in_force), trail }
    }

    /// Reads the configuration again, applies what can change, and logs the result. It reads files, so it must not run
    /// on a thread that serves requests.
    ///
    /// # Errors
    ///
    /// All [`Problems`] of the configuration. Nothing was applied then.
    pub fn run(&self) -> Result<Reloaded, Problems> {
        // The lock is held while reading, so that of two reloads the later one reads the later configuration.
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let read = (self.read)().inspect_err(|Problems(problems)| {
            let problems = problems.join("; ");
            tracing::warn!(problems, "the configuration has problems, so none of it was applied");
        })?;
        for warning in read.warnings() {
            tracing::warn!("{warning}");
        }
        let mut reloaded = Reloaded::default();
        for key in Settings::keys() {
            if in_force.has_same(&read, key) {
                reloaded.unchanged += 1;
            } else if let Some(changeable) = self.changeable.iter().find(|changeable| changeable.key == key) {
                (changeable.take_over)(&read);
                in_force.take(&read, key);
                reloaded.changed.push(key);
            } else {
                reloaded.needs_restart.push(key);
            }
        }
        let (changed, needs_restart) = (reloaded.changed.join(", "), reloaded.needs_restart.join(", "));
        tracing::info!(changed, "the configuration was read again");
        if !needs_restart.is_empty() {
            tracing::warn!(settings = needs_restart, "these settings have changed and need a restart");
        }
        Ok(reloaded)
    }

    /// Does the same for `actor` on a thread that may wait for files. Returns `None` when that thread panicked.
    pub async fn run_aside(self: &Arc<Self>, actor: &Actor) -> Option<Result<Reloaded, Problems>> {
        let reload = Arc::clone(self);
        let reloaded = tokio::task::spawn_blocking(move || reload.run()).await.ok()?;
        let entry = Entry::new(Action::SettingsReload, "", actor);
        self.trail.note(match &reloaded {
            Ok(reloaded) => {
                entry.with("changed", reloaded.changed.clone()).with("needs_restart", reloaded.needs_restart.clone())
            }
            // The problems may quote values.
            Err(Problems(problems)) => entry.with("problems", problems.len()),
        });
        Some(reloaded)
    }

    /// Reads the configuration again at each signal, and reports it to the service manager.
    pub async fn follow(self: &Arc<Self>, mut signal: Signal, manager: &ServiceManager) {
        while signal.recv().await.is_some() {
            manager.reloading().await;
            // `run` has logged the result.
            let _ = self.run_aside(&Actor::gateway()).await;
            manager.reloaded().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    fn settings(file: &str) -> Result<Settings, Problems> {
        Settings::from_parts(Some(("eye.toml", file)), std::iter::empty(), &[]).map(|(settings, _)| settings)
    }

    /// A reload that reads these files one after the other, and a counter of how often it applied `log_level`.
    fn reload(files: &'static [&'static str]) -> (Reload, Arc<AtomicUsize>) {
        let (next, taken) = (AtomicUsize::new(1), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&taken);
        let log_level = Changeable {
            key: "log_level",
            take_over: Box::new(move |_| {
                count.fetch_add(1, Relaxed);
            }),
        };
        let read = Box::new(move || settings(files[next.fetch_add(1, Relaxed)]));
        let trail = Arc::new(Trail::new(std::path::Path::new("nowhere")));
        (Reload::new(read, settings(files[0]).expect("sound"), vec![log_level], trail), taken)
    }

    #[test]
    fn what_can_change_is_taken_over_once_and_the_rest_is_named_each_time() {
        const CHANGED: &str = "log_level = \"debug\"\nwriters = 3\n";
        let (reload, taken) = reload(&["", CHANGED, CHANGED, ""]);
        let first = reload.run().expect("sound");
        assert_eq!((&first.changed[..], &first.needs_restart[..]), (&["log_level"][..], &["writers"][..]));
        let again = reload.run().expect("sound");
        assert_eq!((&again.changed[..], &again.needs_restart[..]), (&[][..], &["writers"][..]));
        assert_eq!(again.unchanged, first.unchanged + 1);
        let back = reload.run().expect("sound");
        assert_eq!((&back.changed[..], &back.needs_restart[..]), (&["log_level"][..], &[][..]));
        assert_eq!(taken.load(Relaxed), 2);
    }

    #[test]
    fn a_configuration_with_problems_changes_nothing() {
        let (reload, taken) = reload(&["", "log_level = \"debug\"\nwriters = 0\nnonsense = 1\n", ""]);
        let Problems(problems) = reload.run().expect_err("problems");
        assert_eq!(problems.len(), 2, "all are told: {problems:?}");
        assert_eq!(reload.run().expect("sound").changed, [""; 0], "the level of before is in force");
        assert_eq!(taken.load(Relaxed), 0);
    }

    #[test]
    fn where_a_value_comes_from_is_no_change() {
        let (reload, _) = reload(&["", "log_level = \"info\"\n"]);
        let reloaded = reload.run().expect("sound");
        assert_eq!((reloaded.changed.len(), reloaded.needs_restart.len()), (0, 0));
    }
}
