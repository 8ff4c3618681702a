//! Reads the configuration again while the gateway runs, from the same places as at the start. It applies the settings
//! that can change at run time and names the changed ones that need a restart. It rejects a configuration with problems
//! as a whole: first it makes all that can fail, and then it puts all of it in force.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde::Serialize;
use tokio::signal::unix::Signal;
use tokio::sync::Notify;

use crate::audit::{Action, Actor, Entry};
use crate::config::{Problems, SETTINGS, SettingInForce, Settings};
use crate::systemd::ServiceManager;
use crate::trail::Trail;

/// Reads all settings: defaults, file, environment, flags.
pub type Read = Box<dyn Fn() -> Result<Settings, Problems> + Send + Sync>;

/// Puts what was prepared in force. Returns the settings whose value is the same and whose files have other contents.
pub type Apply = Box<dyn FnOnce() -> Vec<&'static str>>;

/// Makes all that can fail of these settings. The error lists all problems, and nothing has changed then.
pub type Prepare = Box<dyn Fn(&Settings) -> Result<Apply, Vec<String>> + Send + Sync>;

/// The result of a reload, for the answer and the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The settings that were applied, and those whose files were read anew.
    pub changed: Vec<&'static str>,
    /// The number of settings that did not change.
    pub unchanged: usize,
    /// The settings that differ from those in force and need a restart.
    pub needs_restart: Vec<&'static str>,
}

/// The settings in force, and the way to read them again.
pub struct Reload {
    read: Read,
    /// Set once the gateway is built.
    prepare: OnceLock<Prepare>,
    /// Notified when it is.
    built: Notify,
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
    pub fn new(read: Read, in_force: Settings, trail: Arc<Trail>) -> Self {
        let (prepare, built) = Default::default();
        Self { read, prepare, built, in_force: Mutex::new(in_force), trail }
    }

    /// Sets how the gateway takes new settings, once it is built with those of the start. Later calls change nothing.
    pub fn begin(&self, prepare: Prepare) {
        let _ = self.prepare.set(prepare);
        self.built.notify_one();
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
        let reloaded = self.change(&mut in_force).inspect_err(|Problems(problems)| {
            let problems = problems.join("; ");
            tracing::warn!(problems, "the configuration has problems, so none of it was applied");
        })?;
        let (changed, needs_restart) = (reloaded.changed.join(", "), reloaded.needs_restart.join(", "));
        tracing::info!(changed, "the configuration was read again");
        if !needs_restart.is_empty() {
            tracing::warn!(settings = needs_restart, "these settings have changed and need a restart");
        }
        Ok(reloaded)
    }

    fn change(&self, in_force: &mut Settings) -> Result<Reloaded, Problems> {
        let read = (self.read)()?;
        let next = in_force.after_reload(&read)?;
        let prepare =
            self.prepare.get().ok_or_else(|| Problems(vec!["the gateway still starts; try again".to_owned()]))?;
        let apply = prepare(&next).map_err(Problems)?;
        for warning in read.warnings() {
            tracing::warn!("{warning}");
        }
        let files = apply();
        let mut reloaded = Reloaded::default();
        for setting in SETTINGS {
            let same = in_force.has_same(&read, setting.key);
            match (same, setting.reload) {
                (true, _) if !files.contains(&setting.key) => reloaded.unchanged += 1,
                (true, _) | (false, true) => reloaded.changed.push(setting.key),
                (false, false) => reloaded.needs_restart.push(setting.key),
            }
        }
        *in_force = next;
        Ok(reloaded)
    }

    /// The settings in force. A reload that runs is awaited on a thread that may wait for it. Returns `None` when that
    /// thread panicked.
    pub async fn in_force(self: &Arc<Self>) -> Option<Vec<SettingInForce>> {
        let reload = Arc::clone(self);
        let settings = tokio::task::spawn_blocking(move || {
            reload.in_force.lock().unwrap_or_else(PoisonError::into_inner).in_force()
        });
        settings.await.ok()
    }

    /// Reads the configuration again for `actor` on a thread that may wait for files. Returns `None` when that thread panicked.
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

    /// Reads the configuration again at each signal, and reports it to the service manager. A signal during the start
    /// counts once the gateway is built.
    pub async fn follow(self: &Arc<Self>, mut signal: Signal, manager: &ServiceManager) {
        self.built.notified().await;
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
    use super::*;

    fn settings(file: &str) -> Result<Settings, Problems> {
        Settings::from_parts(Some(("eye.toml", file)), std::iter::empty(), &[]).map(|(settings, _)| settings)
    }

    /// A reload that reads these files one after the other, and the log levels that it put in force. Its parts refuse
    /// `access_log = "all"`.
    fn reload(files: &'static [&'static str]) -> (Reload, Arc<Mutex<Vec<String>>>) {
        let (next, levels) = (Mutex::new(1), Arc::<Mutex<Vec<String>>>::default());
        let read = Box::new(move || {
            let mut next = next.lock().expect("sound");
            *next += 1;
            settings(files[*next - 1])
        });
        let trail = Arc::new(Trail::new(std::path::Path::new("nowhere")));
        let reload = Reload::new(read, settings(files[0]).expect("sound"), trail);
        let taken = Arc::clone(&levels);
        reload.begin(Box::new(move |settings| {
            let (config, taken) = (settings.config(), Arc::clone(&taken));
            if settings.show().contains("access_log = \"all\"") {
                return Err(vec!["a file is broken".to_owned()]);
            }
            Ok(Box::new(move || {
                taken.lock().expect("sound").push(config.log_level);
                vec!["tls_key"]
            }))
        }));
        (reload, levels)
    }

    #[test]
    fn what_can_change_is_taken_over_and_the_rest_is_named_each_time() {
        const CHANGED: &str = "log_level = \"debug\"\nwriters = 3\n";
        let (reload, levels) = reload(&["", CHANGED, CHANGED, ""]);
        let first = reload.run().expect("sound");
        assert_eq!((&first.changed[..], &first.needs_restart[..]), (&["tls_key", "log_level"][..], &["writers"][..]));
        let again = reload.run().expect("sound");
        assert_eq!((&again.changed[..], &again.needs_restart[..]), (&["tls_key"][..], &["writers"][..]));
        assert_eq!(again.unchanged, first.unchanged + 1);
        let back = reload.run().expect("sound");
        assert_eq!((&back.changed[..], &back.needs_restart[..]), (&["tls_key", "log_level"][..], &[][..]));
        assert_eq!(*levels.lock().expect("sound"), ["debug", "debug", "info"]);
    }

    #[test]
    fn a_configuration_with_problems_changes_nothing() {
        const BAD: &str = "log_level = \"debug\"\nwriters = 0\nnonsense = 1\n";
        let (reload, levels) = reload(&["", BAD, "log_level = \"debug\"\naccess_log = \"all\"\n", ""]);
        let Problems(problems) = reload.run().expect_err("problems");
        assert_eq!(problems.len(), 2, "all are told: {problems:?}");
        assert_eq!(reload.run(), Err(Problems(vec!["a file is broken".to_owned()])));
        assert!(levels.lock().expect("sound").is_empty());
        assert_eq!(reload.run().expect("sound").changed, ["tls_key"], "the level of before is in force");
    }

    #[test]
    fn relations_hold_between_what_is_in_force_and_what_waits_for_a_restart() {
        const WAITS: &str = "memory_bytes_max = 200000\noutput_bytes_max = 100000\ndata_bytes_max = 50000\n";
        const MIXED: &str = "deadline_ms = 10\nanswer_ms = 40\n";
        let (reload, levels) = reload(&["", MIXED, WAITS, "", "answer_ms = 60\n"]);
        let Problems(problems) = reload.run().expect_err("the former deadline is 50");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].ends_with("until a restart this is about the former value of deadline_ms"), "{problems:?}");
        assert!(levels.lock().expect("sound").is_empty());
        let reloaded = reload.run().expect("sound");
        assert_eq!(reloaded.changed, ["tls_key", "data_bytes_max"]);
        assert_eq!(reloaded.needs_restart, ["memory_bytes_max", "output_bytes_max"]);
        assert_eq!(reload.run().expect("sound").changed, ["tls_key", "data_bytes_max"]);
        assert_eq!(reload.run().expect("sound").changed, ["tls_key", "answer_ms"]);
    }

    #[test]
    fn before_the_gateway_is_built_nothing_changes() {
        let trail = Arc::new(Trail::new(std::path::Path::new("nowhere")));
        let read = Box::new(|| settings("log_level = \"debug\"\n"));
        let reload = Reload::new(read, settings("").expect("sound"), trail);
        let Problems(problems) = reload.run().expect_err("too early");
        assert_eq!(problems.len(), 1, "{problems:?}");
    }

    #[test]
    fn where_a_value_comes_from_is_no_change() {
        let (reload, _) = reload(&["", "log_level = \"info\"\n"]);
        let reloaded = reload.run().expect("sound");
        assert_eq!((reloaded.changed, reloaded.needs_restart.len()), (vec!["tls_key"], 0));
    }
}
