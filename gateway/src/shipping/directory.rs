//! Pushes, rollbacks and retirements of a gateway whose modules come from its directory. It changes the directory as an
//! author would, by rename, and follows what the gateway makes of the file.

use std::io;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use eye_judge::{
    History, Installing, LoadError, Role, Roster, Settings, Slot, SlotModule, TypeReport, installed,
    settings_of as settings_file, unwritable,
};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::terms::settings_of;
use super::{Condition, Followed, Push, Shipping, refused, turn, with};
use crate::audit::{Action, Actor, Entry};
use crate::parameters::bad;
use crate::response::{self, Refusal, Response};

impl Shipping {
    pub(super) async fn push_into_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        content: Bytes,
        push: Push,
    ) -> Result<Response, Refusal> {
        let digest = Digest::of(&content);
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let (before, dir, own) =
            (self.report(slot).and_then(|report| report.digest), self.modules_dir.clone(), slot.clone());
        push.condition.meets(before)?;
        let found = blocking(move || installed(&dir, &own)).await?;
        let found = found
            .map_err(|message| Refusal::ModulesElsewhere { message: format!("Nothing was changed: {message}.") })?;
        // Without settings of its own, a push leaves the file beside the module.
        let text = push.settings.unwrap_or_else(|| found.settings.clone());
        let text = match push.expects_refusals {
            true => settings_of(text.as_deref(), digest, None, true),
            false => text,
        };
        let has_new_settings = text != found.settings;
        let wanted = SlotModule { slot: slot.clone(), role: Role::Live, digest, settings: text.clone() };
        let settings = self.validators.settings(&wanted).map_err(refused)?;
        let is_forced = push.force || settings.force == Some(digest);
        let is_back = self.must_not_be_taken_back(&[(slot, digest)], false).await;
        if push.force && is_back.is_ok() {
            let told = format!(
                "is for modules from the database: give the module settings with force = \"{digest}\" (settings.toml of the \
                 project, or {} beside the module)",
                settings_file(&slot.file()).display()
            );
            return Err(bad("force", &told));
        }
        if !is_forced {
            is_back?;
        }
        {
            let _turn = super::turn(&self.loading).await?;
            self.validators.check(&wanted, content.clone(), None).await.map_err(refused)?;
        }
        let body = json!({
            "event_type": slot.to_string(), "digest": digest.to_string(), "replaces": before.map(|before| before.to_string()),
        });
        if push.followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "install").to_string()));
        }
        let wanted = Wanted { digest, settings: Some(settings), known: errors_of(self.report(slot)) };
        if is_forced {
            self.lift(slot, digest).await?;
        }
        let (dir, validators) = (self.modules_dir.clone(), self.validators.clone());
        let install = move || {
            let (before, settings) = (&found, text.as_deref());
            validators.install(Role::Live, &Installing { modules_dir: &dir, before, content: &content, settings })
        };
        blocking(install).await?.map_err(|error| unwritten(&error))?;
        self.drop_candidate_with(slot, Some(digest)).await?;
        let entry = Entry::new(Action::ValidatorPush, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("before", before.map(|before| before.to_string()))
            .with("commit", push.commit)
            .with("settings", has_new_settings.then_some("changed"))
            .with("keep_raw", settings.keep_raw.filter(|_| has_new_settings))
            .with("force", (settings.force == Some(digest)).then_some(true));
        self.note(entry).await;
        drop(turn);
        self.until_settled(slot, &wanted, &push.followed, body).await
    }

    /// Refuses where another gateway would not get the change, or something else fills the directory.
    pub(super) async fn may_write(&self) -> Result<(), Refusal> {
        let elsewhere = |why: &str| Refusal::ModulesElsewhere {
            message: format!(
                "Nothing was changed: {why}. Ship with what fills the directory, or set modules_from = \"database\" at all \
                 gateways, so that a push reaches all of them."
            ),
        };
        let rows = self.store.gateways().await.map_err(response::of_store)?;
        let others = rows.iter().filter(|row| row.is_live && !self.fleet.is_own(row, &rows));
        let others: Vec<&str> = others.map(|row| row.name.as_str()).collect();
        if !others.is_empty() {
            let why = format!(
                "other gateways on this database have modules directories of their own ({})",
                others.join(", ")
            );
            return Err(elsewhere(&why));
        }
        let dir = self.modules_dir.clone();
        match blocking(move || unwritable(&dir)).await? {
            Some(why) => Err(elsewhere(&why)),
            None => Ok(()),
        }
    }

    /// Waits until the gateway serves what is wanted, or refuses its file.
    pub(super) async fn until_settled(
        &self,
        slot: &Slot,
        wanted: &Wanted,
        followed: &Followed,
        body: Value,
    ) -> Result<Response, Refusal> {
        let (until, mut changes) = (Instant::now() + followed.wait, self.validators.changes());
        loop {
            let report = self.report(slot);
            if report.as_ref().is_some_and(|report| wanted.is_served(report)) {
                return Ok(followed.answer(with(body, "state", "active")));
            }
            if let Some(refusal) = report.and_then(|report| wanted.refusal(report)) {
                return Err(refusal);
            }
            if !matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return Ok(followed.answer(with(body, "state", "preparing")));
            }
        }
    }

    pub(super) async fn rollback_in_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        (to, condition): (Option<Digest>, Condition),
        followed: &Followed,
    ) -> Result<Response, Refusal> {
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let before = self.report(slot).and_then(|report| report.digest);
        condition.meets(before)?;
        let (history, dir, own) = (History::under(&self.data_dir), self.modules_dir.clone(), slot.clone());
        if followed.dry_run {
            let versions = blocking(move || history.versions(&own)).await?.map_err(|error| unwritten(&error))?;
            let fits = |digest: Digest| to.map_or(Some(digest) != before, |to| to == digest);
            let found = versions
                .iter()
                .find(|version| fits(version.digest))
                .ok_or_else(|| Refusal::NoVersion { message: format!("{slot} has no such version to go back to.") })?;
            let body = json!({"event_type": slot.to_string(), "digest": found.digest.to_string(), "would": "rollback"});
            return Ok(response::json(StatusCode::OK, body.to_string()));
        }
        let known = errors_of(self.report(slot));
        let rolled = blocking(move || history.rollback(&dir, &own, to)).await?;
        let version = rolled.map_err(|error| match error {
            eye_judge::RollbackError::File { path, source } => {
                Refusal::ModulesElsewhere { message: format!("Nothing was changed: {}: {source}.", path.display()) }
            }
            error => Refusal::NoVersion { message: format!("{error}.") },
        })?;
        let entry =
            Entry::new(Action::ValidatorRollback, &slot.to_string(), actor).with("digest", version.digest.to_string());
        self.note(entry).await;
        drop(turn);
        let mut body = json!({
            "event_type": slot.to_string(), "digest": version.digest.to_string(),
            "replaces": before.map(|before| before.to_string()),
        });
        self.offer_redrive(&mut body, before).await;
        let wanted = Wanted { digest: version.digest, settings: None, known };
        self.until_settled(slot, &wanted, followed, body).await
    }

    pub(super) async fn retire_in_directory(
        &self,
        actor: &Actor,
        slot: &Slot,
        followed: &Followed,
        condition: Condition,
    ) -> Result<Response, Refusal> {
        let turn = turn(&self.turn).await?;
        self.may_write().await?;
        let before = self.report(slot).and_then(|report| report.digest);
        condition.meets(before)?;
        let body = json!({
            "event_type": slot.to_string(), "digest": Value::Null, "replaces": before.map(|before| before.to_string()),
        });
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "retire").to_string()));
        }
        let (history, roster) = (History::under(&self.data_dir), Roster::under(&self.data_dir));
        let (dir, own) = (self.modules_dir.clone(), slot.clone());
        blocking(move || history.retire(&dir, &roster, &own)).await?.map_err(|error| match error {
            eye_judge::RetireError::File { path, source } => {
                Refusal::ModulesElsewhere { message: format!("Nothing was changed: {}: {source}.", path.display()) }
            }
            error @ eye_judge::RetireError::Nothing(_) => Refusal::NoVersion { message: format!("{error}.") },
        })?;
        self.drop_candidate_with(slot, None).await?;
        let entry = Entry::new(Action::ValidatorRetire, &slot.to_string(), actor);
        self.note(entry.with("before", before.map(|before| before.to_string()))).await;
        drop(turn);
        let (until, mut changes) = (Instant::now() + followed.wait, self.validators.changes());
        while self.report(slot).is_some() {
            if !matches!(timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return Ok(followed.answer(with(body, "state", "preparing")));
            }
        }
        Ok(followed.answer(with(body, "state", "active")))
    }

    /// The content of a version that the history has.
    pub(super) async fn kept_content(&self, slot: &Slot, digest: Digest) -> Result<Option<Vec<u8>>, Refusal> {
        let (history, own) = (History::under(&self.data_dir), slot.clone());
        blocking(move || history.content(&own, digest)).await?.map_err(|error| unwritten(&error))
    }

    /// The file is changed already, so an entry that the database does not take is only logged.
    pub(super) async fn note(&self, entry: Entry) {
        if let Err(error) = self.store.audit_write(std::slice::from_ref(&entry)).await {
            tracing::warn!(%error, "the entry of a change of the modules directory could not be written");
        }
        entry.log();
    }
}

/// What a change of the directory is to lead to.
pub(super) struct Wanted {
    pub(super) digest: Digest,
    /// The settings with which it serves, if they are part of the change.
    pub(super) settings: Option<Settings>,
    /// When the errors of before were found. They say nothing about this change.
    pub(super) known: Vec<DateTime<Utc>>,
}

impl Wanted {
    fn is_served(&self, report: &TypeReport) -> bool {
        let has = |settings: Settings| {
            (report.limits, report.on_fault, report.keep_raw) == (settings.limits, settings.on_fault, settings.keep_raw)
        };
        report.digest == Some(self.digest) && self.settings.is_none_or(has)
    }

    /// Why the gateway refuses the file with this digest, or the settings beside it, if it does.
    pub(super) fn refusal(&self, report: TypeReport) -> Option<Refusal> {
        let is_new = |error: &LoadError| !self.known.contains(&error.at);
        let of_module = report.last_error.filter(|error| error.digest == Some(self.digest) && is_new(error));
        let of_settings =
            report.settings_error.filter(|error| error.digest.is_none_or(|of| of == self.digest) && is_new(error));
        let error = of_module.or(of_settings)?.refusal;
        Some(Refusal::ModuleRefused { expected: error.expected, found: error.found, mend: error.mend })
    }
}

pub(super) fn errors_of(report: Option<TypeReport>) -> Vec<DateTime<Utc>> {
    let errors = report.map(|report| [report.last_error, report.settings_error]);
    errors.into_iter().flatten().flatten().map(|error| error.at).collect()
}

pub(super) fn unwritten(error: &io::Error) -> Refusal {
    Refusal::ModulesElsewhere { message: format!("Nothing was changed: the directory answers: {error}.") }
}

/// Works on files aside from the request threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Refusal::Internal)
}
