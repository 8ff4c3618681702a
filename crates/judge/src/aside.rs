//! A module that serves nothing. It judges events of the past for a replay, with the loader, the engine and the checks of
//! those that serve, so that it says of an event what it would say if it served. Its figures count nowhere, and it is never
//! off the path.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use eye_event::verdict::{Digest, Fault, FaultCode, UnfinishedCode};
use uuid::Uuid;

use super::component::Program;
use super::contract::Broken;
use super::engine::processor_time;
use super::files::MODULE_BYTES_MAX;
use super::loading::{Lane, Unloaded};
use super::refusal::Refusal;
use super::registry::Place;
use super::settings::{Limits, Settings};
use super::slot::Slot;
use super::worker::load_content;
use super::{Judgement, Subject, Unprepared, Validators};

/// How often an event is judged again whose call ended on the wall's clock. The thread of a replay waits long for a processor
/// where other threads need it, and that is not the module's doing.
const STARVED_MAX: u32 = 20;

/// A loaded module that serves nothing.
pub struct Aside {
    validators: Validators,
    program: Program,
    limits: Limits,
    digest: Digest,
}

impl fmt::Debug for Aside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Aside").field("digest", &self.digest).finish_non_exhaustive()
    }
}

impl Aside {
    /// The module's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether one of its examples is amended. A module may amend without such an example.
    #[must_use]
    pub fn amends(&self) -> bool {
        self.program.amends
    }

    /// Judges one event on this thread. Without room for the call the event is unfinished.
    #[must_use]
    pub fn judge(&self, subject: Subject<'_>) -> Judgement {
        let (mut id, mut session_id) = (Uuid::encode_buffer(), Uuid::encode_buffer());
        let event = subject.guest_event(&mut id, &mut session_id);
        let sandbox = &self.validators.inner.sandbox;
        let check_amended = &self.validators.terms.check_amended;
        let deadline = Duration::from_millis(self.limits.deadline_ms);
        let mut outcome = Err(UnfinishedCode::ModuleBusy.into());
        for _ in 0..STARVED_MAX {
            let began = processor_time();
            match self.program.judge(sandbox, &self.limits, &event, check_amended) {
                Ok(verdict) => outcome = Ok(verdict),
                Err(Broken { code: FaultCode::Busy, .. }) => {}
                Err(Broken { code: FaultCode::Deadline, .. }) if processor_time().saturating_sub(began) < deadline => {
                    continue;
                }
                Err(Broken { code, detail, last_words }) => outcome = Err(Fault { code, detail, last_words }.into()),
            }
            break;
        }
        Judgement { outcome, digest: Some(self.digest) }
    }
}

impl Validators {
    /// The limits of a module that is to serve a slot: by the text of its settings, or those that the slot has now.
    ///
    /// # Errors
    ///
    /// A sentence with line and column when the text is wrong.
    pub fn limits_for(&self, slot: &Slot, settings: Option<&str>) -> Result<Limits, String> {
        let given = *self.inner.given.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(text) = settings {
            return Settings::parse(text, given).map(|settings| settings.limits);
        }
        Ok(match self.inner.registry.now().own(slot) {
            Some(Place::Taken(module)) => module.settings().limits,
            _ => given.defaults,
        })
    }

    /// Loads a module that serves nothing, and runs its examples.
    ///
    /// # Errors
    ///
    /// [`Unprepared`], for a reason for which it could not serve either.
    pub async fn load_aside(&self, slot: &Slot, limits: Limits, content: Bytes) -> Result<Aside, Unprepared> {
        let digest = Digest::of(&content);
        let program = self.load_program(slot, limits, content).await?;
        Ok(Aside { validators: self.clone(), program, limits, digest })
    }

    /// Loads a content that is not to serve, first within the bounds of most modules, then within those of slow ones.
    pub(super) async fn load_program(
        &self,
        slot: &Slot,
        limits: Limits,
        content: Bytes,
    ) -> Result<Program, Unprepared> {
        if content.len() as u64 > MODULE_BYTES_MAX {
            let found = format!("{} bytes", content.len());
            let expected = "a module of 64 MiB at most";
            return Err(Unprepared::Refused(Refusal::new(expected, found, "build it for size")));
        }
        for lane in [Lane::Quick, Lane::Heavy] {
            let (inner, slot, content) = (self.inner.clone(), slot.clone(), content.clone());
            let load = move || load_content(&inner.tools, &slot, &limits, lane, &content);
            match tokio::task::spawn_blocking(load).await.map_err(|_| Unprepared::Stopped)? {
                Ok(program) => return Ok(program),
                Err(Unloaded::Refused(refusal)) => return Err(Unprepared::Refused(refusal)),
                Err(Unloaded::Stopped) => return Err(Unprepared::Stopped),
                Err(Unloaded::Slow) => {}
            }
        }
        Err(Unprepared::Refused(Refusal::new(
            "a module that loads within its bounds",
            "one that takes longer than a small machine may give it",
            "build it for size, or raise loader_bounds_percent",
        )))
    }

    /// Whether a module of this slot would judge this event type, beside the modules that other slots have now.
    #[must_use]
    pub fn would_serve(&self, slot: &Slot, category: &str, name: &str) -> bool {
        let modules = self.inner.registry.now();
        let is_free = |slot: Slot| modules.own(&slot).is_none();
        let exact = || Slot::Exact(category.to_owned(), name.to_owned());
        match slot {
            Slot::Exact(own, own_name) => own == category && own_name == name,
            Slot::Category(own) => own == category && is_free(exact()),
            Slot::Any => is_free(exact()) && is_free(Slot::Category(category.to_owned())),
        }
    }

    /// Whether the module with this digest, if it serves an event type now, has an example that is amended.
    #[must_use]
    pub fn amends(&self, category: &str, name: &str, digest: Digest) -> Option<bool> {
        match self.inner.registry.now().find(category, name) {
            Some(Place::Taken(module)) if module.digest == digest => Some(module.program().amends),
            _ => None,
        }
    }

    /// The content of a version or a candidate that the history of this gateway's data directory has.
    ///
    /// # Errors
    ///
    /// When the history cannot be read.
    pub fn kept_content(&self, slot: &Slot, digest: Digest) -> std::io::Result<Option<Vec<u8>>> {
        let history = &self.inner.tools.history;
        match history.content(slot, digest)? {
            Some(content) => Ok(Some(content)),
            None => history.of_candidates().content(slot, digest),
        }
    }
}
