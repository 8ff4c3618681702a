//! Reads the configuration again while the gateway runs, as it was read at the start. The settings that can change meanwhile are
//! taken over; those that differ and cannot are named. A configuration with problems is refused as a whole.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::signal::unix::Signal;

use crate::config::{Problems, Settings};

/// Reads all settings anew: defaults, file, environment, flags.
pub type Read = Box<dyn Fn() -> Result<Settings, Problems> + Send + Sync>;

/// A setting that can change while the gateway runs.
pub struct Changeable {
    /// Its key.
    pub key: &'static str,
    /// Has a part of the gateway follow the new value.
    pub take_over: Box<dyn Fn(&Settings) + Send + Sync>,
}

/// What reading the configuration again has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Settings that were taken over.
    pub changed: Vec<&'static str>,
    /// How many settings are as they were.
    pub unchanged: usize,
    /// Settings that differ from those in force and need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// The settings in force, and how they are read again.
pub struct Reload {
    read: Read,
    changeable: Vec<Changeable>,
    in_force: Mutex<Settings>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reload").finish_non_exhaustive()
    }
}

impl Reload {
    /// Begins with the settings of the start.
    pub fn new(read: Read, in_force: Settings, changeable: Vec<Changeable>) -> Self {
        Self { read, changeable, in_force: Mutex::new(in_force) }
    }

    /// Reads the configuration again, takes over what can change, and logs what became of it. It reads files, so it must not
    /// hold up a thread that others need.
    ///
    /// # Errors
    ///
    /// All [`Problems`] of the configuration. Then nothing was taken over.
    pub fn run(&self) -> Result<Reloaded, Problems> {
        // Held meanwhile, so that of two reloads at once the later one reads what is there later.
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let read = (self.read)().inspect_err(|Problems(problems)| {
            let problems = problems.join("; ");
            tracing::warn!(problems, "the configuration has problems, nothing of it was taken over");
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

    /// The same on a thread that may wait for files. `None` when that thread panicked.
    pub async fn run_aside(self: &Arc<Self>) -> Option<Result<Reloaded, Problems>> {
        let reload = Arc::clone(self);
        tokio::task::spawn_blocking(move || reload.run()).await.ok()
    }

    /// Reads the configuration again at each signal, for as long as it is polled.
    pub async fn follow(self: &Arc<Self>, mut signal: Signal) {
        while signal.recv().await.is_some() {
            // What became of it is in the log.
            let _ = self.run_aside().await;
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

    /// A reload that reads one file after the other, and how often `log_level` was taken over.
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
        (Reload::new(read, settings(files[0]).expect("sound"), vec![log_level]), taken)
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
