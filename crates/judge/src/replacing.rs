//! Modules that replaced others: with which earlier version each is compared, until when, and how that version is loaded when
//! it is not in memory any more, as after a restart.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use eye_event::verdict::Digest;

use super::module::Module;
use super::settings::Settings;
use super::slot::Slot;
use super::{Refusal, Unprepared, Validators};

/// A version of a slot for the time in which it served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// The module; `None` while no module served.
    pub digest: Option<Digest>,
    /// How long ago it began to serve.
    pub age: Duration,
    /// Somebody, or the guard, put it back on purpose.
    pub is_put_back: bool,
    /// More refusals than before were meant.
    pub is_expected: bool,
    /// The guard took it back.
    pub is_taken_back: bool,
}

/// The place of the version with which the newest one is compared; `None` if it is not compared. That is the last version that
/// stood for as long as the guard looks, or that somebody meant. Without such a one it is the oldest that is known: a bad
/// module must not be the measure of the next one because the two came in quick succession.
#[must_use]
pub fn compared_with(served: &[Served], guard: Duration) -> Option<usize> {
    let newest = served.first()?;
    let digest = newest.digest?;
    if newest.is_put_back || newest.age >= guard {
        return None;
    }
    let mut found = None;
    for (place, version) in served.iter().enumerate().skip(1) {
        // Whatever served before a time without a module was not replaced.
        if version.digest.is_none() {
            break;
        }
        if version.is_taken_back {
            continue;
        }
        found = Some(place);
        let stood = version.age.saturating_sub(served[place - 1].age) >= guard;
        if stood || version.is_put_back || version.is_expected {
            break;
        }
    }
    found.filter(|place| served[*place].digest != Some(digest))
}

/// The newest module of a slot, and the one with which it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// The module.
    pub digest: Digest,
    /// The earlier module with its settings, as a settings file has them; `None` in place of these for those of the newest one.
    pub against: Option<(Digest, Option<String>)>,
}

/// A module that serves, and the one with which it is compared for a while.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replacement {
    /// The event types.
    pub slot: Slot,
    /// The module that serves.
    pub digest: Digest,
    /// The module that served before.
    pub against: Digest,
    /// The settings of the module that served before, as a settings file has them; `None` for those of the one that serves.
    pub settings: Option<String>,
}

impl Validators {
    /// The versions of a slot that served, the newest first, by the data directory. If the newest did not come `within` a
    /// time, the older ones are left out. It blocks on the disk.
    ///
    /// # Errors
    ///
    /// When the history cannot be read.
    pub fn served(&self, slot: &Slot, within: Duration) -> std::io::Result<Vec<Served>> {
        let modules = self.inner.registry.now();
        let expected = modules.module(slot).and_then(|module| module.settings().expect_refusals);
        self.inner.tools.history.served(slot, within, expected)
    }

    /// The modules that serve.
    #[must_use]
    pub fn serving(&self) -> Vec<(Slot, Digest)> {
        self.inner.registry.now().modules().map(|module| (module.slot.clone(), module.digest)).collect()
    }

    /// A number that grows when another module begins to serve.
    #[must_use]
    pub fn swaps(&self) -> u64 {
        self.inner.candidates.swaps()
    }

    /// Compares modules with those that they replaced as it is `known`, by the swaps so far. Of a slot of which nothing is
    /// known, or another module than the one that serves, what is compared goes on for the time of the guard. Returns the
    /// pairs whose earlier module must be loaded first; `None` if a module was swapped since.
    #[must_use]
    pub fn compare_replaced(
        &self,
        known: &HashMap<Slot, Newest>,
        swaps: u64,
        guard: Duration,
    ) -> Option<Vec<Replacement>> {
        self.inner.candidates.compare_replaced(known, swaps, guard)
    }

    /// Loads the earlier one of two modules, and compares the two, unless another module serves by then.
    ///
    /// # Errors
    ///
    /// [`Unprepared`], for a reason for which it could not serve either.
    pub async fn load_replaced(&self, pair: &Replacement, content: Bytes) -> Result<(), Unprepared> {
        let settings = match &pair.settings {
            None => self.inner.registry.now().module(&pair.slot).map(|module| Ok(*module.settings())),
            Some(text) => {
                let given = *self.inner.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                Some(Settings::parse(text, given))
            }
        };
        let Some(settings) = settings else { return Ok(()) };
        let settings = settings.map_err(|found| {
            let expected = "settings as docs/validators.md describes them";
            Unprepared::Refused(Refusal::new(expected, found, "mend the settings and push them again"))
        })?;
        let program = self.load_program(&pair.slot, settings.limits, content).await?;
        let module = Module::candidate(pair.slot.clone(), pair.against, program, settings);
        self.inner.candidates.add_replaced(pair, module.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: Duration = Duration::from_secs(600);

    fn served(number: u8, age_s: u64) -> Served {
        Served { digest: Some(Digest([number; 32])), age: Duration::from_secs(age_s), ..Served::default() }
    }

    fn put_back(version: Served) -> Served {
        Served { is_put_back: true, ..version }
    }

    fn taken_back(version: Served) -> Served {
        Served { is_taken_back: true, ..version }
    }

    /// The number of the version with which the newest one is compared.
    fn found(versions: &[Served]) -> Option<u8> {
        compared_with(versions, GUARD).and_then(|place| versions[place].digest).map(|digest| digest.0[0])
    }

    #[test]
    fn a_module_is_compared_with_the_last_one_that_stood() {
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[served(1, 5)]), None, "it replaced nothing");
        assert_eq!(found(&[served(2, 5), served(1, 5_000)]), Some(1));
        assert_eq!(found(&[served(2, 600), served(1, 5_000)]), None, "it stood");
        assert_eq!(found(&[served(3, 5), served(2, 9), served(1, 5_000)]), Some(1), "2 did not stand");
        assert_eq!(found(&[served(3, 5), served(2, 700), served(1, 5_000)]), Some(2));
        assert_eq!(found(&[served(3, 5), served(2, 9), served(1, 12)]), Some(1), "none stood: the oldest");
        assert_eq!(found(&[served(1, 5), served(2, 9), served(1, 5_000)]), None, "it is the one that stood");
    }

    #[test]
    fn what_somebody_meant_is_a_measure_and_is_not_measured() {
        assert_eq!(found(&[put_back(served(2, 5)), served(1, 5_000)]), None);
        assert_eq!(found(&[served(3, 5), put_back(served(2, 9)), served(1, 5_000)]), Some(2));
        let meant = Served { is_expected: true, ..served(2, 9) };
        assert_eq!(found(&[served(3, 5), meant.clone(), served(1, 5_000)]), Some(2));
        assert_eq!(found(&[meant, served(1, 5_000)]), Some(1), "it may break all the same");
    }

    #[test]
    fn what_was_taken_back_is_no_measure() {
        let bad = taken_back(served(2, 9));
        assert_eq!(found(&[served(3, 5), put_back(served(1, 7)), bad.clone(), served(1, 5_000)]), Some(1));
        assert_eq!(found(&[served(3, 5), bad.clone(), served(1, 5_000)]), Some(1));
        assert_eq!(found(&[served(3, 5), bad]), None);
    }

    #[test]
    fn a_module_that_follows_none_replaced_nothing() {
        let none = Served { digest: None, ..served(0, 9) };
        assert_eq!(found(&[served(2, 5), none.clone(), served(1, 5_000)]), None);
        assert_eq!(found(&[served(3, 5), served(2, 8), none.clone(), served(1, 5_000)]), Some(2));
        assert_eq!(found(&[none, served(1, 5_000)]), None);
    }
}
