//! Candidates of a gateway whose modules come from its directory: files below `.candidates`, written and moved by rename.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use eye_event::verdict::Digest;
use eye_judge::{
    CandidateTrial, Installed, Installing, LoadError, Role, Slot, SlotModule, TypeReport, installed,
    settings_of as settings_file,
};
use hyper::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::asked::{Condition, Followed, Push};
use super::candidate::{no_candidate, triable, tried_body};
use super::directory::{Wanted, blocking, errors_of, unwritten};
use super::terms::{Terms, promoted, settings_of};
use super::{Shipping, change_body, refused, turn, with};
use crate::audit::{Action, Actor, Entry};
use crate::parameters::bad;
use crate::response::{self, Refusal, Response, of_store};

/// The folder of candidates in the modules directory.
const CANDIDATES_DIR: &str = ".candidates";

impl Shipping {
    fn candidates_dir(&self) -> PathBuf {
        self.modules_dir.join(CANDIDATES_DIR)
    }

    /// The digest of the candidate that this gateway tries.
    fn tried(&self, slot: &Slot) -> Option<Digest> {
        self.trial(slot).map(|(digest, _)| digest)
    }

    /// The candidate that this gateway tries, and how.
    fn trial(&self, slot: &Slot) -> Option<(Digest, CandidateTrial)> {
        let reports = self.validators.candidates();
        let own = reports.iter().find(|one| one.slot == *slot && one.trial != CandidateTrial::Replacement);
        own.map(|one| (one.digest, one.trial))
    }

    pub(super) async fn try_in_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        content: Bytes,
        (push, terms): (Push, Terms),
    ) -> Result<Response, Refusal> {
        if terms.auto.is_some() {
            return Err(bad("auto", "needs modules_from = \"database\": a directory has no generations to promote by"));
        }
        let digest = Digest::of(&content);
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let (live, before) = (self.report(slot).and_then(|report| report.digest), self.tried(slot));
        push.condition.meets(live)?;
        let found = self.installed_in(self.modules_dir.clone(), slot).await?;
        let one =
            |digest| SlotModule { slot: slot.clone(), role: Role::Live, digest, settings: found.settings.clone() };
        let live = triable(live.map(one), digest)?;
        self.must_not_be_taken_back(&[(slot, digest)], push.force).await?;
        let base = push.settings.clone().unwrap_or(live.settings);
        let settings = settings_of(base.as_deref(), digest, Some(&terms), push.expects_refusals);
        let wanted = SlotModule { slot: slot.clone(), role: Role::Candidate, digest, settings: settings.clone() };
        {
            let _turn = super::turn(&self.loading).await?;
            self.validators.check(&wanted, content.clone(), (push.force).then_some(false)).await.map_err(refused)?;
        }
        let replaced = before.map(|digest| SlotModule { digest, ..wanted.clone() });
        let body = tried_body(change_body(slot, Some(digest), replaced.as_ref()), &terms, live.digest);
        if push.followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "try").to_string()));
        }
        if push.force {
            // The file of the type is taken again as soon as nothing speaks against it.
            let is_live_file = |error: &LoadError| error.digest == Some(digest);
            if self.report(slot).and_then(|report| report.last_error).as_ref().is_some_and(is_live_file) {
                let told = "would let it serve: the file of the event type has this digest, and is refused. Roll the event \
                            type back first (`eye validator rollback`), and then try the module";
                return Err(bad("force", told));
            }
            self.lift(slot, digest).await?;
        }
        let (dir, file) = (self.candidates_dir(), self.installed_in(self.candidates_dir(), slot).await?);
        let expected = Wanted { digest, settings: None, known: errors_of(self.candidate_file(slot)) };
        let validators = self.validators.clone();
        let install = move || {
            let (before, settings) = (&file, settings.as_deref());
            validators.install(Role::Candidate, &Installing { modules_dir: &dir, before, content: &content, settings })
        };
        blocking(install).await?.map_err(|error| unwritten(&error))?;
        let entry = Entry::new(Action::ValidatorTry, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("against", live.digest.to_string())
            .with("mode", terms.mode.as_str())
            .with("percent", terms.percent())
            .with("commit", push.commit)
            .with("force", push.force);
        self.note(entry).await;
        drop(turn);
        self.until_tried(slot, Some((&expected, terms.trial())), &push.followed, body).await
    }

    pub(super) async fn promote_in_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        (force, condition): (bool, Condition),
        followed: &Followed,
    ) -> Result<Response, Refusal> {
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let digest = self.tried(slot).ok_or_else(|| no_candidate(slot))?;
        condition.meets(Some(digest))?;
        self.must_not_be_taken_back(&[(slot, digest)], force).await?;
        let live = self.report(slot).and_then(|report| report.digest);
        let found = self.installed_in(self.modules_dir.clone(), slot).await?;
        let tried = self.installed_in(self.candidates_dir(), slot).await?;
        let one = |digest| SlotModule { slot: slot.clone(), role: Role::Live, digest, settings: None };
        let body = change_body(slot, Some(digest), live.map(one).as_ref());
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "promote").to_string()));
        }
        let settings = promoted(tried.settings.as_deref(), found.settings.as_deref(), digest);
        let (dir, from, validators) = (self.modules_dir.clone(), self.candidates_dir(), self.validators.clone());
        let wanted = Wanted { digest, settings: None, known: errors_of(self.report(slot)) };
        let is_it = blocking(move || -> io::Result<bool> {
            let content = fs::read(from.join(&tried.file))?;
            if Digest::of(&content) != digest {
                return Ok(false);
            }
            let (before, settings) = (&found, settings.as_deref());
            validators.install(Role::Live, &Installing { modules_dir: &dir, before, content: &content, settings })?;
            remove(&from, &tried.file)?;
            Ok(true)
        });
        if !is_it.await?.map_err(|error| unwritten(&error))? {
            return Err(super::changed_meanwhile(None));
        }
        let entry = Entry::new(Action::ValidatorPromote, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("before", live.map(|live| live.to_string()));
        self.note(entry).await;
        drop(turn);
        self.until_settled(slot, &wanted, followed, body).await
    }

    pub(super) async fn discard_in_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        condition: Condition,
        followed: &Followed,
    ) -> Result<Response, Refusal> {
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let digest = self.tried(slot).ok_or_else(|| no_candidate(slot))?;
        condition.meets(Some(digest))?;
        let candidate = SlotModule { slot: slot.clone(), role: Role::Candidate, digest, settings: None };
        let body = change_body(slot, None, Some(&candidate));
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "discard").to_string()));
        }
        self.drop_candidate_file(slot).await?;
        let entry = Entry::new(Action::ValidatorDiscard, &slot.to_string(), actor).with("digest", digest.to_string());
        self.note(entry).await;
        drop(turn);
        self.until_tried(slot, None, followed, body).await
    }

    /// Removes the files of a slot's candidate.
    async fn drop_candidate_file(&self, slot: &Slot) -> Result<(), Refusal> {
        let (dir, tried) = (self.candidates_dir(), self.installed_in(self.candidates_dir(), slot).await?);
        blocking(move || remove(&dir, &tried.file)).await?.map_err(|error| unwritten(&error))
    }

    /// Removes the files of a candidate that serves from now on, or beside which nothing serves any more.
    pub(super) async fn drop_candidate_with(&self, slot: &Slot, serves: Option<Digest>) -> Result<(), Refusal> {
        match self.tried(slot) {
            Some(tried) if serves.is_none_or(|serves| serves == tried) => self.drop_candidate_file(slot).await,
            _ => Ok(()),
        }
    }

    /// Lets a module that was taken back be taken again.
    pub(super) async fn lift(&self, slot: &Slot, digest: Digest) -> Result<(), Refusal> {
        self.store.lift_taken_back(&slot.to_string(), digest).await.map_err(of_store)?;
        let (validators, own) = (self.validators.clone(), slot.clone());
        blocking(move || validators.lift(&own, digest)).await?.map_err(|error| unwritten(&error))
    }

    async fn installed_in(&self, dir: PathBuf, slot: &Slot) -> Result<Installed, Refusal> {
        let own = slot.clone();
        let found = blocking(move || installed(&dir, &own)).await?;
        found.map_err(|message| Refusal::ModulesElsewhere { message: format!("Nothing was changed: {message}.") })
    }

    /// The report of a slot's file below the candidates.
    fn candidate_file(&self, slot: &Slot) -> Option<TypeReport> {
        let name = slot.to_string();
        self.validators.candidate_files().into_iter().find(|report| report.event_type == name)
    }

    /// Waits until the gateway tries the module in this way, or none, or refuses the file.
    async fn until_tried(
        &self,
        slot: &Slot,
        wanted: Option<(&Wanted, CandidateTrial)>,
        followed: &Followed,
        body: Value,
    ) -> Result<Response, Refusal> {
        let (until, mut changes) = (Instant::now() + followed.wait, self.validators.candidate_changes());
        loop {
            if self.trial(slot) == wanted.map(|(wanted, trial)| (wanted.digest, trial)) {
                return Ok(followed.answer(with(body, "state", "active")));
            }
            let file = self.candidate_file(slot);
            if let Some(refusal) = wanted.and_then(|(wanted, _)| wanted.refusal(file?)) {
                return Err(refusal);
            }
            if !matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return Ok(followed.answer(with(body, "state", "preparing")));
            }
        }
    }
}

/// Removes a candidate's file, then its settings.
fn remove(dir: &Path, file: &Path) -> io::Result<()> {
    for path in [dir.join(file), dir.join(settings_file(file))] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
