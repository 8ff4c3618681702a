//! Candidates over HTTP: who may ship tries a module beside the one that serves, promotes it or discards it, and readers see
//! what both said of the same events.

use std::collections::BTreeMap;

use eye_event::verdict::Digest;
use eye_judge::{CandidateTrial, ModulesFrom, Role, Slot, SlotModule};
use hyper::header::{ETAG, HeaderValue};
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::asked::{Condition, Followed, Push};
use super::terms::{Terms, expects_refusals, is_guarded, promoted, settings_of};
use super::{Asking, Shipping, change_body, new_slot, refused, shown, turn, with};
use crate::audit::{Action, Actor, Entry};
use crate::body::Received;
use crate::parameters::Parameters;
use crate::response::{self, Refusal, Response, of_store};
use crate::server::Incoming;
use crate::store::NewSlot;
use crate::trust::Application;

impl Shipping {
    /// Begins to try a module beside the one that serves.
    pub(super) async fn try_in_fleet(
        &self,
        actor: &Actor,
        slot: &Slot,
        received: Received,
        (push, terms): (Push, Terms),
    ) -> Result<Response, Refusal> {
        self.must_not_doubt()?;
        let Received { bytes: content, room } = received;
        let digest = Digest::of(&content);
        let (live, before) = (self.current(Role::Live, slot).await?, self.current(Role::Candidate, slot).await?);
        push.condition.meets(live.as_ref().map(|live| live.digest))?;
        let live = triable(live, digest)?;
        self.must_not_be_taken_back(&[(slot, digest)], push.force).await?;
        let base = push.settings.clone().unwrap_or(live.settings);
        let settings = settings_of(base.as_deref(), digest, Some(&terms), push.expects_refusals);
        let wanted = SlotModule { slot: slot.clone(), role: Role::Candidate, digest, settings };
        let must_redact = !push.force && self.store.must_redact(&slot.to_string(), digest).await.map_err(of_store)?;
        let body = tried_body(change_body(slot, Some(digest), before.as_ref()), &terms, live.digest);
        if push.followed.dry_run {
            let _turn = turn(&self.loading).await?;
            self.validators.check(&wanted, content, Some(must_redact)).await.map_err(refused)?;
            return Ok(response::json(StatusCode::OK, with(body, "would", "try").to_string()));
        }
        self.keep_new(&wanted, content, must_redact, push.commit.clone(), actor).await?;
        // The wait for the other gateways holds no room.
        drop(room);
        let entry = Entry::new(Action::ValidatorTry, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("against", live.digest.to_string())
            .with("mode", terms.mode.as_str())
            .with("percent", terms.percent())
            .with("auto", terms.auto)
            .with("commit", push.commit)
            .with("force", push.force);
        let slots = vec![new_slot(&wanted.key(), Some(&wanted), before.as_ref())];
        let asked = Asking { cause: "try", forced: push.force, based_on: None, slots };
        self.change(asked, actor, entry, &push.followed, body).await
    }

    /// Lets the candidate serve.
    pub(super) async fn promote(
        &self,
        caller: &Application,
        actor: &Actor,
        slot: &Slot,
        request: Request<Incoming>,
    ) -> Result<Response, Refusal> {
        Self::may_ship(caller, slot)?;
        let parameters = Parameters::read(request.uri().query(), &["dry_run", "force"])?;
        let followed = Followed::of(&parameters, request.headers())?;
        let force = parameters.choice("force", &[("false", false), ("true", true)])?;
        let condition = Condition::of(request.headers())?;
        if self.fleet.modules_from() == ModulesFrom::Directory {
            return self.promote_in_directory(actor, slot, (force, condition), &followed).await;
        }
        self.must_not_doubt()?;
        let candidate = self.candidate(slot).await?;
        condition.meets(Some(candidate.digest))?;
        let (digest, before) = (candidate.digest, self.current(Role::Live, slot).await?);
        self.must_not_be_taken_back(&[(slot, digest)], force).await?;
        let live = before.as_ref().and_then(|before| before.settings.as_deref());
        let settings = promoted(candidate.settings.as_deref(), live, digest);
        let wanted = SlotModule { slot: slot.clone(), role: Role::Live, digest, settings };
        let body = change_body(slot, Some(digest), before.as_ref());
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "promote").to_string()));
        }
        let must_redact = !force && self.store.must_redact(&slot.to_string(), digest).await.map_err(of_store)?;
        self.prepare_kept(&wanted, must_redact).await?;
        let slots = vec![new_slot(&wanted.key(), Some(&wanted), before.as_ref()), emptied(&candidate)];
        let entry = Entry::new(Action::ValidatorPromote, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("before", before.as_ref().map(|before| before.digest.to_string()));
        let asked = Asking { cause: "promote", forced: force, based_on: None, slots };
        self.change(asked, actor, entry, &followed, body).await
    }

    /// Tries the candidate no longer.
    pub(super) async fn discard(
        &self,
        caller: &Application,
        actor: &Actor,
        slot: &Slot,
        request: Request<Incoming>,
    ) -> Result<Response, Refusal> {
        Self::may_ship(caller, slot)?;
        let parameters = Parameters::read(request.uri().query(), &["dry_run"])?;
        let followed = Followed::of(&parameters, request.headers())?;
        let condition = Condition::of(request.headers())?;
        if self.fleet.modules_from() == ModulesFrom::Directory {
            return self.discard_in_directory(actor, slot, condition, &followed).await;
        }
        self.must_not_doubt()?;
        let candidate = self.candidate(slot).await?;
        condition.meets(Some(candidate.digest))?;
        let body = change_body(slot, None, Some(&candidate));
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "discard").to_string()));
        }
        let entry =
            Entry::new(Action::ValidatorDiscard, &slot.to_string(), actor).with("digest", candidate.digest.to_string());
        let asked = Asking { cause: "discard", forced: false, based_on: None, slots: vec![emptied(&candidate)] };
        self.change(asked, actor, entry, &followed, body).await
    }

    /// The candidate of a slot.
    async fn candidate(&self, slot: &Slot) -> Result<SlotModule, Refusal> {
        self.current(Role::Candidate, slot).await?.ok_or_else(|| no_candidate(slot))
    }

    /// The change that empties the candidate's slot along with another change: its module serves from then on, or nothing does
    /// beside which it could be tried.
    pub(super) async fn dropped_with(&self, slot: &Slot, serves: Option<Digest>) -> Result<Option<NewSlot>, Refusal> {
        let candidate = self.current(Role::Candidate, slot).await?;
        let candidate = candidate.filter(|candidate| serves.is_none_or(|serves| serves == candidate.digest));
        Ok(candidate.as_ref().map(emptied))
    }

    /// Refuses modules that the guard took back, unless they are forced.
    pub(super) async fn must_not_be_taken_back(&self, modules: &[(&Slot, Digest)], force: bool) -> Result<(), Refusal> {
        if force {
            return Ok(());
        }
        for (slot, digest) in modules {
            let rows = self.store.taken_back(&slot.to_string()).await.map_err(of_store)?;
            if let Some(row) = rows.into_iter().find(|row| row.digest == digest.0) {
                let message = format!(
                    "Nothing was changed: the guard took {digest} back from {slot} at {}, since {}. Mend it, or ship it with force.",
                    row.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
                    row.reason
                );
                return Err(Refusal::TakenBack { message, digest: digest.to_string() });
            }
        }
        Ok(())
    }

    /// Shows a candidate and what it says beside the module that serves.
    pub(super) async fn show_candidate(
        &self,
        caller: &Application,
        slot: &Slot,
        query: Option<&str>,
    ) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        let (category, name) = slot.parts();
        if !caller.visible().shows_slot(category, name) {
            return Err(Refusal::NotFound);
        }
        let none = || no_candidate(slot);
        let reports = self.validators.candidates();
        let report = reports.iter().find(|one| one.slot == *slot && one.trial != CandidateTrial::Replacement);
        let (digest, terms, guard, against, row) = match self.fleet.modules_from() {
            ModulesFrom::Database => {
                let row = self.store.candidate(&slot.to_string()).await.map_err(of_store)?;
                let row = row.ok_or_else(none)?;
                let digest = row.digest[..].try_into().map(Digest).map_err(|_| Refusal::Internal)?;
                let live = self.current(Role::Live, slot).await?.map(|live| live.digest);
                let settings = row.settings.as_deref();
                let guard = (is_guarded(settings), expects_refusals(settings, digest));
                (digest, Terms::of(settings), guard, live, Some(row))
            }
            ModulesFrom::Directory => {
                let report = report.ok_or_else(none)?;
                let guard = (report.guard, report.expects_refusals);
                (report.digest, shown::terms(report.trial), guard, Some(report.against), None)
            }
        };
        let pairs = self.store.pairs_of(&slot.to_string(), digest).await.map_err(of_store)?;
        let body = shown::candidate(slot, (digest, against), &terms, guard, row.as_ref(), &pairs);
        let mut response = response::json(StatusCode::OK, body.to_string());
        if let Ok(tag) = HeaderValue::try_from(format!("\"{digest}\"")) {
            response.headers_mut().insert(ETAG, tag);
        }
        Ok(response)
    }

    /// The candidates that this gateway tries, in short, by event type.
    pub(super) fn candidates_in_short(&self) -> BTreeMap<String, Value> {
        let reports = self.validators.candidates();
        let tried = reports.iter().filter(|one| one.trial != CandidateTrial::Replacement);
        tried.map(|one| (one.slot.to_string(), shown::candidate_in_short(one))).collect()
    }
}

/// The module that serves beside which another one can be tried.
pub(super) fn triable(live: Option<SlotModule>, digest: Digest) -> Result<SlotModule, Refusal> {
    let (found, mend) = match live {
        Some(live) if live.digest != digest => return Ok(live),
        Some(_) => ("the very module that serves", "build what you want to try, or push settings with mode=live"),
        None => ("an event type that no module of its own serves", "push it with mode=live"),
    };
    let expected = "a module to try beside another one that serves the same event type".to_owned();
    Err(Refusal::ModuleRefused { expected, found: found.to_owned(), mend: mend.to_owned() })
}

pub(super) fn tried_body(mut body: Value, terms: &Terms, against: Digest) -> Value {
    body["mode"] = terms.mode.as_str().into();
    body["percent"] = terms.percent().into();
    body["auto"] = terms.auto.clone().into();
    body["against"] = against.to_string().into();
    body
}

/// The change that empties the slot of a candidate.
fn emptied(candidate: &SlotModule) -> NewSlot {
    new_slot(&candidate.key(), None, Some(candidate))
}

pub(super) fn no_candidate(slot: &Slot) -> Refusal {
    Refusal::NoCandidate { message: format!("{slot} has no candidate.") }
}
