//! Modules over HTTP: who may ship pushes, rolls back and takes away, and readers see what serves and how the fleet
//! stands. With modules from the database a change is prepared by all gateways and becomes the next generation; with the
//! modules directory of one gateway it is a change of that directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eye_event::verdict::Digest;
use eye_judge::{Kind, ModulesFrom, Role, Slot, SlotModule, TypeReport, Unprepared, Validators};
use hyper::header::{ETAG, HeaderValue};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;
use uuid::Uuid;

use crate::audit::{Action, Actor, Entry};
use crate::body::{self, BodyLimits, Received};
use crate::fleet::Fleet;
use crate::parameters::{Parameters, bad};
use crate::response::{self, Refusal, Response, of_store};
use crate::server::Incoming;
use crate::share::{Budget, Held};
use crate::store::{self, NewPreparation, NewSlot, NewVersion, PreparationRow, SlotRow, Store, VersionRow};
use crate::trust::Application;
use crate::trust::visible::Visible;

use asked::{Asked, Condition, Followed, Push, asked, digest, kind};

mod asked;
mod candidate;
mod candidate_files;
mod directory;
pub(crate) mod going_back;
mod shown;
pub(crate) mod terms;

/// Most bytes of a module.
pub const MODULE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of a body that names a version.
const BODY_BYTES_MAX: usize = 4 << 10;
/// How long a preparation waits for gateways, whoever asked for it.
const PREPARATION_TIME: Duration = Duration::from_secs(600);
/// Longest wait for a turn: at loading a module, or at changing the directory.
const TURN: Duration = Duration::from_secs(10);
/// Generations of a page, unless the reader asks for another number; and most.
const GENERATIONS: u32 = 100;
const GENERATIONS_MAX: u32 = 1_000;

/// The parts that the handler uses.
#[derive(Debug)]
pub struct Shipping {
    /// The database with the versions and generations.
    pub store: Store,
    /// The modules that serve here.
    pub validators: Validators,
    /// This gateway among the others.
    pub fleet: Arc<Fleet>,
    /// The modules directory.
    pub modules_dir: PathBuf,
    /// The data directory, which has the history.
    pub data_dir: PathBuf,
    /// Longest time until a whole body has arrived.
    pub body_limits: BodyLimits,
    /// The room for modules that are being pushed, in KiB.
    pub room: Arc<Budget>,
    /// One module is loaded for requests at a time, so that those who push do not keep the gateway from preparing what the
    /// fleet waits for.
    pub loading: Arc<Mutex<()>>,
    /// One change of the directory at a time.
    pub turn: Arc<Mutex<()>>,
}

impl Shipping {
    /// Answers a request for a path of this handler, as it was sent.
    ///
    /// # Errors
    ///
    /// A [`Refusal`].
    pub async fn answer(
        &self,
        caller: &Application,
        actor: &Actor,
        request: Request<Incoming>,
    ) -> Result<Response, Refusal> {
        match asked(request.method(), request.uri().path())? {
            Asked::Show(slot) => self.show(caller, &slot, request.uri().query()).await,
            Asked::Push(slot) => self.push(caller, actor, &slot, request).await,
            Asked::ShowCandidate(slot) => self.show_candidate(caller, &slot, request.uri().query()).await,
            Asked::Discard(slot) => self.discard(caller, actor, &slot, request).await,
            Asked::Promote(slot) => self.promote(caller, actor, &slot, request).await,
            Asked::Retire(slot) => self.retire(caller, actor, &slot, request).await,
            Asked::Rollback(slot) => self.rollback(caller, actor, &slot, request).await,
            Asked::Content(slot, digest) => self.content(caller, &slot, digest, request.uri().query()).await,
            Asked::Gateways => self.gateways(caller, request.uri().query()).await,
            Asked::Generations => self.generations(caller, request.uri().query()).await,
            Asked::Generation(number) => self.generation(caller, number, request.uri().query()).await,
            Asked::Back(number) => self.back(actor, number, request).await,
        }
    }

    /// Refuses a caller who may not ship this slot.
    fn may_ship(caller: &Application, slot: &Slot) -> Result<(), Refusal> {
        let (category, name) = slot.parts();
        match caller.ships() {
            Some(ships) if ships.shows_slot(category, name) => Ok(()),
            Some(ships) => Err(Refusal::NotShipped {
                message: format!(
                    "The application may ship {}, and not {slot}. Ask for that event type to be given to it.",
                    shown::patterns(ships)
                ),
            }),
            None => Err(Refusal::NotAllowed { scope: "ship" }),
        }
    }

    async fn push(
        &self,
        caller: &Application,
        actor: &Actor,
        slot: &Slot,
        request: Request<Incoming>,
    ) -> Result<Response, Refusal> {
        Self::may_ship(caller, slot)?;
        let parameters = Parameters::read(request.uri().query(), &Push::PARAMETERS)?;
        let mut push = Push::of(&parameters, request.headers())?;
        let (head, body) = request.into_parts();
        let kind = kind(&head.headers)?;
        let limits = BodyLimits { bytes_max: MODULE_BYTES_MAX, ..self.body_limits };
        let received =
            body::read(&head.headers, body, &limits, Held::none(&self.room, caller.shipping_share())).await?;
        if received.bytes.is_empty() {
            return Err(Refusal::Empty);
        }
        kind.expect(&received.bytes).map_err(|refusal| refused(Unprepared::Refused(refusal)))?;
        match (self.fleet.modules_from(), push.tried.take()) {
            (ModulesFrom::Directory, None) => self.push_into_directory(actor, slot, received.bytes.clone(), push).await,
            (ModulesFrom::Directory, Some(terms)) => {
                self.try_in_directory(actor, slot, received.bytes.clone(), (push, terms)).await
            }
            (ModulesFrom::Database, None) => self.push_to_fleet(actor, slot, received, push).await,
            (ModulesFrom::Database, Some(terms)) => self.try_in_fleet(actor, slot, received, (push, terms)).await,
        }
    }

    async fn push_to_fleet(
        &self,
        actor: &Actor,
        slot: &Slot,
        received: Received,
        push: Push,
    ) -> Result<Response, Refusal> {
        self.must_not_doubt()?;
        let Received { bytes: content, room } = received;
        let digest = Digest::of(&content);
        let before = self.current(Role::Live, slot).await?;
        push.condition.meets(before.as_ref().map(|before| before.digest))?;
        self.must_not_be_taken_back(&[(slot, digest)], push.force).await?;
        let base = match &push.settings {
            Some(text) => text.clone(),
            None => before.as_ref().and_then(|before| before.settings.clone()),
        };
        let settings = terms::settings_of(base.as_deref(), digest, None, push.expects_refusals);
        let wanted = SlotModule { slot: slot.clone(), role: Role::Live, digest, settings };
        let must_redact = !push.force && self.store.must_redact(&slot.to_string(), digest).await.map_err(of_store)?;
        let body = change_body(slot, Some(digest), before.as_ref());
        if push.followed.dry_run {
            let _turn = turn(&self.loading).await?;
            self.validators.check(&wanted, content, Some(must_redact)).await.map_err(refused)?;
            return Ok(response::json(StatusCode::OK, with(body, "would", "prepare").to_string()));
        }
        self.keep_new(&wanted, content, must_redact, push.commit.clone(), actor).await?;
        // The wait for the other gateways holds no room.
        drop(room);
        let slots = std::iter::once(new_slot(&wanted.key(), Some(&wanted), before.as_ref()));
        let slots = slots.chain(self.dropped_with(slot, Some(digest)).await?).collect();
        let entry = Entry::new(Action::ValidatorPush, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("before", before.as_ref().map(|before| before.digest.to_string()))
            .with("commit", push.commit)
            .with("force", push.force);
        let asked = Asking { cause: "push", forced: push.force, based_on: None, slots };
        self.change(asked, actor, entry, &push.followed, body).await
    }

    /// Prepares a module here, and keeps its content for the other gateways.
    async fn keep_new(
        &self,
        wanted: &SlotModule,
        content: Bytes,
        must_redact: bool,
        commit_id: Option<String>,
        actor: &Actor,
    ) -> Result<(), Refusal> {
        self.store.has_place(actor).await.map_err(unasked)?;
        let _turn = turn(&self.loading).await?;
        let redacts = self.validators.prepare(wanted, Some(content.clone()), must_redact).await.map_err(refused)?;
        let version = NewVersion { event_type: wanted.slot.to_string(), digest: wanted.digest, commit_id, redacts };
        self.store.keep_modules(&[(version, &content)], actor).await.map_err(unasked)
    }

    /// Asks for a generation, follows it for as long as the caller waits, and answers.
    async fn change(
        &self,
        asked: Asking,
        actor: &Actor,
        entry: Entry,
        followed: &Followed,
        body: Value,
    ) -> Result<Response, Refusal> {
        let id = Uuid::now_v7();
        let Asking { cause, forced, based_on, slots } = asked;
        // What is forced waits no longer than its caller for gateways that say nothing.
        let wait = if forced { followed.wait } else { PREPARATION_TIME };
        let new = NewPreparation { id, cause, forced, based_on, wait, slots };
        match self.store.ask_preparation(&new, actor, &entry).await {
            Ok(()) => {}
            // The commit may have come all the same.
            Err(store::Error::Away(_) | store::Error::Slow(_)) => match self.store.preparation(id).await {
                Ok(Some(_)) => {}
                _ => return Err(perhaps_asked(id)),
            },
            Err(error) => return Err(unasked(error)),
        }
        self.fleet.wake();
        let mut body = body;
        body["preparation"] = id.to_string().into();
        // From here on the change may come, whatever the database answers.
        let Ok(Some(row)) = self.fleet.ended(id, followed.wait).await else {
            return Ok(followed.answer(with(body, "state", "preparing")));
        };
        if row.state != "preparing" || !is_refused(&row) {
            return settled(followed, &row, body, self.fleet.serves());
        }
        // A gateway has no room for it now. It may have some later, and nobody would know when the change comes.
        let ended = match self.store.end_preparation(id).await {
            Ok(()) => self.fleet.ended(id, Duration::ZERO).await,
            Err(error) => Err(error),
        };
        let row = ended.ok().flatten().unwrap_or(row);
        settled(followed, &row, body, self.fleet.serves())
    }

    /// Refuses a change while it is not known what the fleet serves.
    fn must_not_doubt(&self) -> Result<(), Refusal> {
        match self.fleet.in_doubt() {
            Some(why) => Err(Refusal::ModulesElsewhere { message: format!("Nothing was changed: {why}.") }),
            None => Ok(()),
        }
    }

    async fn retire(
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
            return self.retire_in_directory(actor, slot, &followed, condition).await;
        }
        self.must_not_doubt()?;
        let before = self.current(Role::Live, slot).await?;
        condition.meets(before.as_ref().map(|before| before.digest))?;
        let nothing = || Refusal::NoVersion { message: format!("{slot} has no module in the current generation.") };
        let before = before.ok_or_else(nothing)?;
        let body = json!({
            "event_type": slot.to_string(), "digest": Value::Null, "replaces": before.digest.to_string(),
        });
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "retire").to_string()));
        }
        let slots = std::iter::once(new_slot(&before.key(), None, Some(&before)));
        let slots = slots.chain(self.dropped_with(slot, None).await?).collect();
        let entry =
            Entry::new(Action::ValidatorRetire, &slot.to_string(), actor).with("before", before.digest.to_string());
        let asked = Asking { cause: "retire", forced: false, based_on: None, slots };
        self.change(asked, actor, entry, &followed, body).await
    }

    async fn rollback(
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
        let to = self.version_in(caller, request).await?;
        if self.fleet.modules_from() == ModulesFrom::Directory {
            return self.rollback_in_directory(actor, slot, (to, condition), &followed).await;
        }
        self.must_not_doubt()?;
        let before = self.current(Role::Live, slot).await?;
        condition.meets(before.as_ref().map(|before| before.digest))?;
        let versions = self.store.module_versions(&slot.to_string()).await.map_err(of_store)?;
        let digest = target(slot, &versions, to, before.as_ref().map(|before| before.digest))?;
        self.must_not_be_taken_back(&[(slot, digest)], force).await?;
        let settings = self.store.settings_with(&slot.to_string(), digest).await.map_err(of_store)?;
        let wanted = SlotModule { slot: slot.clone(), role: Role::Live, digest, settings };
        let mut body = change_body(slot, Some(digest), before.as_ref());
        self.offer_redrive(&mut body, before.as_ref().map(|before| before.digest)).await;
        if followed.dry_run {
            return Ok(response::json(StatusCode::OK, with(body, "would", "rollback").to_string()));
        }
        let must_redact = !force && self.store.must_redact(&slot.to_string(), digest).await.map_err(of_store)?;
        self.prepare_kept(&wanted, must_redact).await?;
        let slots = std::iter::once(new_slot(&wanted.key(), Some(&wanted), before.as_ref()));
        let slots = slots.chain(self.dropped_with(slot, Some(digest)).await?).collect();
        let entry = Entry::new(Action::ValidatorRollback, &slot.to_string(), actor)
            .with("digest", digest.to_string())
            .with("before", before.as_ref().map(|before| before.digest.to_string()));
        let asked = Asking { cause: "rollback", forced: force, based_on: None, slots };
        self.change(asked, actor, entry, &followed, body).await
    }

    /// Says how many dead letters a module has left, and how to judge them again. Without an answer of the database the
    /// change is still worth making.
    async fn offer_redrive(&self, body: &mut Value, replaced: Option<Digest>) {
        let Some(digest) = replaced else { return };
        if let Ok((letters, without)) = self.store.letters_of_module(digest).await
            && letters > 0
        {
            let command = format!("eye dead-letters redrive --validator {digest} --store");
            body["redrive"] = json!({"letters": letters, "letters_without_bytes": without, "command": command});
        }
    }

    /// Prepares a version that is kept here or in the database.
    async fn prepare_kept(&self, wanted: &SlotModule, must_redact: bool) -> Result<(), Refusal> {
        let _turn = turn(&self.loading).await?;
        let kept = self.validators.prepare(wanted, None, must_redact).await;
        if kept != Err(Unprepared::NoContent) {
            return kept.map(drop).map_err(refused);
        }
        let mut contents = self.store.module_contents(&[wanted.digest]).await.map_err(of_store)?;
        let content = contents.remove(&wanted.digest).ok_or_else(|| gone(&[wanted.digest]))?;
        self.validators.prepare(wanted, Some(content.into()), must_redact).await.map(drop).map_err(refused)
    }

    /// The version that the body of a rollback names.
    async fn version_in(&self, caller: &Application, request: Request<Incoming>) -> Result<Option<Digest>, Refusal> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct To {
            digest: Option<String>,
        }
        let (head, body) = request.into_parts();
        let limits = BodyLimits { bytes_max: BODY_BYTES_MAX, ..self.body_limits };
        let received =
            body::read(&head.headers, body, &limits, Held::none(&self.room, caller.shipping_share())).await?;
        if received.bytes.is_empty() {
            return Ok(None);
        }
        body::must_be_json(&head.headers)?;
        let to: To = serde_json::from_slice(&received.bytes)
            .map_err(|error| bad("body", &format!("{error}; it takes {{\"digest\":\"...\"}} or nothing")))?;
        to.digest.map(|text| digest("digest", &text)).transpose()
    }

    /// The module that serves a slot now, or that is tried in it, by the database.
    async fn current(&self, role: Role, slot: &Slot) -> Result<Option<SlotModule>, Refusal> {
        let row = self.store.current_slot(&role.name(slot)).await.map_err(of_store)?;
        Ok(row.and_then(|SlotRow { digest, settings, .. }| {
            let digest = Digest(digest?.try_into().ok()?);
            Some(SlotModule { slot: slot.clone(), role, digest, settings })
        }))
    }

    /// The report on the modules. A reader that is limited to event types gets the part about these. The counts of a module
    /// are those of all applications, so a reader that is limited to applications gets none.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn list(&self, visible: &Visible) -> Result<Response, Refusal> {
        if visible.applications().is_some() {
            return Err(Refusal::NotFound);
        }
        let (mut unserved, mut others) = self.validators.unserved();
        let (mut validators, mut problems) = (self.validators.report(), self.validators.problems(&unserved));
        if !visible.is_all() {
            validators.retain(|one| visible.shows_slot(one.category.as_deref(), one.name.as_deref()));
            unserved.retain(|one| visible.shows_slot(Some(&one.category), Some(&one.name)));
            // The names of files are those of other event types.
            unserved.iter_mut().for_each(|one| one.nearest = None);
            problems.clear();
            others = 0;
        }
        // Without an answer of the database the report is still worth having.
        let shippers = match self.fleet.modules_from() {
            ModulesFrom::Database => self.store.shippers().await.unwrap_or_default(),
            ModulesFrom::Directory => Vec::new(),
        };
        let validators = shown::validators(&validators, &shippers, &self.candidates_in_short());
        let report = json!({
            "validators": validators,
            "problems": problems,
            "without_validator": unserved,
            "without_validator_others": others,
        });
        Ok(response::json(StatusCode::OK, report.to_string()))
    }

    async fn show(&self, caller: &Application, slot: &Slot, query: Option<&str>) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        let (category, name) = slot.parts();
        let visible = caller.visible();
        if !visible.shows_slot(category, name) {
            return Err(Refusal::NotFound);
        }
        let report = self.report(slot);
        let (versions, preparations) = match self.fleet.modules_from() {
            ModulesFrom::Database => {
                let name = slot.to_string();
                let versions = self.store.module_versions(&name).await.map_err(of_store)?;
                (versions, self.store.preparations_of(&name).await.map_err(of_store)?)
            }
            ModulesFrom::Directory => (Vec::new(), Vec::new()),
        };
        if report.is_none() && versions.is_empty() && preparations.is_empty() {
            return Err(Refusal::NotFound);
        }
        let digest = report.as_ref().and_then(|report| report.digest);
        let mut body = shown::validator(slot, report, &versions, self.fleet.modules_from());
        body["candidate"] = self.candidates_in_short().remove(&slot.to_string()).unwrap_or_default();
        // Without an answer of the database the rest is still worth having.
        let taken_back = self.store.taken_back(&slot.to_string()).await.unwrap_or_default();
        body["taken_back"] = taken_back.iter().map(shown::taken_back).collect();
        if self.fleet.modules_from() == ModulesFrom::Database {
            body["generation"] = self.validators.generation().into();
            body["preparations"] = preparations.iter().map(shown::preparation).collect();
        }
        let mut response = response::json(StatusCode::OK, body.to_string());
        if let Some(tag) = digest.and_then(|digest| HeaderValue::try_from(format!("\"{digest}\"")).ok()) {
            response.headers_mut().insert(ETAG, tag);
        }
        Ok(response)
    }

    fn report(&self, slot: &Slot) -> Option<TypeReport> {
        let name = slot.to_string();
        self.validators.report().into_iter().find(|report| report.event_type == name)
    }

    async fn content(
        &self,
        caller: &Application,
        slot: &Slot,
        digest: Digest,
        query: Option<&str>,
    ) -> Result<Response, Refusal> {
        Self::may_ship(caller, slot)?;
        Parameters::read(query, &[])?;
        // One content is read at a time. Those that are being sent take the room of pushes.
        let _turn = turn(&self.loading).await?;
        let kept = match self.fleet.modules_from() {
            ModulesFrom::Directory => self.kept_content(slot, digest).await?,
            ModulesFrom::Database => {
                let versions = self.store.module_versions(&slot.to_string()).await.map_err(of_store)?;
                match versions.iter().any(|version| version.digest == digest.0) {
                    true => self.store.module_contents(&[digest]).await.map_err(of_store)?.remove(&digest),
                    false => None,
                }
            }
        };
        let content = kept.ok_or(Refusal::NotFound)?;
        let mut room = Held::none(&self.room, caller.shipping_share());
        if !room.grow_to(content.len().div_ceil(body::PERMIT_BYTES)) {
            return Err(Refusal::Overloaded);
        }
        let content_type = Kind::of_content(&content).content_type();
        let response = response::file(HeaderValue::from_static(content_type), content);
        Ok(response.map(|body| body.holding(room)))
    }

    async fn gateways(&self, caller: &Application, query: Option<&str>) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        see_fleet(caller)?;
        let (rows, generation) = (self.store.gateways().await.map_err(of_store)?, self.store.fleet_head().await);
        let head = generation.map_err(of_store)?;
        let body = shown::gateways(&rows, head.generation.number, self.store.id());
        Ok(response::json(StatusCode::OK, body.to_string()))
    }

    async fn generations(&self, caller: &Application, query: Option<&str>) -> Result<Response, Refusal> {
        let parameters = Parameters::read(query, &["limit", "before"])?;
        see_fleet(caller)?;
        let limit = parameters.limit(GENERATIONS, GENERATIONS_MAX)?;
        let wrong = || bad("before", "must be the number of a generation");
        let before = parameters.text("before").map(|text| text.parse().map_err(|_| wrong())).transpose()?;
        let rows = self.store.generations(before, limit).await.map_err(of_store)?;
        Ok(response::json(StatusCode::OK, shown::generations(&rows, limit).to_string()))
    }

    async fn generation(&self, caller: &Application, number: u64, query: Option<&str>) -> Result<Response, Refusal> {
        Parameters::read(query, &[])?;
        see_fleet(caller)?;
        if !self.store.knows_generation(number).await.map_err(of_store)? {
            return Err(Refusal::NotFound);
        }
        let (_, slots) = self.store.generation_slots(Some(number)).await.map_err(of_store)?;
        let body = json!({"number": number, "slots": slots.iter().map(shown::slot).collect::<Vec<_>>()});
        Ok(response::json(StatusCode::OK, body.to_string()))
    }
}

/// The changes that make one set of slots the other.
pub fn differences(serves: &[SlotRow], wanted: &[SlotRow]) -> Vec<NewSlot> {
    let digest = |row: &SlotRow| row.digest.as_deref().and_then(|digest| digest.try_into().ok()).map(Digest);
    let find = |rows: &[SlotRow], event_type: &str| rows.iter().position(|row| row.event_type == event_type);
    let changed = wanted.iter().filter(|row| !serves.contains(row)).map(|row| NewSlot {
        event_type: row.event_type.clone(),
        digest: digest(row),
        settings: row.settings.clone(),
        replaces: find(serves, &row.event_type).and_then(|place| digest(&serves[place])),
        replaces_settings: find(serves, &row.event_type).and_then(|place| serves[place].settings.clone()),
    });
    let gone = serves.iter().filter(|row| find(wanted, &row.event_type).is_none()).map(|row| NewSlot {
        event_type: row.event_type.clone(),
        digest: None,
        settings: None,
        replaces: digest(row),
        replaces_settings: row.settings.clone(),
    });
    changed.chain(gone).collect()
}

/// A change of the set of modules.
struct Asking {
    cause: &'static str,
    forced: bool,
    /// The generation that must still be the current one.
    based_on: Option<u64>,
    slots: Vec<NewSlot>,
}

/// Waits for a turn.
async fn turn(turns: &Mutex<()>) -> Result<MutexGuard<'_, ()>, Refusal> {
    timeout(TURN, turns.lock()).await.map_err(|_| Refusal::Overloaded)
}

/// The fleet has facts about all event types, so a limited reader does not see it.
fn see_fleet(caller: &Application) -> Result<(), Refusal> {
    if caller.visible().is_all() { Ok(()) } else { Err(Refusal::NotFound) }
}

/// The version to go back to: the one that was named, or the one that served last before the present one.
fn target(slot: &Slot, versions: &[VersionRow], to: Option<Digest>, serves: Option<Digest>) -> Result<Digest, Refusal> {
    let digest = |version: &VersionRow| version.digest[..].try_into().ok().map(Digest);
    match to {
        Some(to) if versions.iter().any(|version| digest(version) == Some(to)) => Ok(to),
        Some(to) => Err(Refusal::NoVersion {
            message: format!(
                "{slot} has no version {to}; `GET /v1/validators/{}` lists those that are kept.",
                slot.to_url()
            ),
        }),
        None => {
            let mut served = versions.iter().filter(|version| version.served_at.is_some()).filter_map(digest);
            served.find(|digest| Some(*digest) != serves).ok_or_else(|| Refusal::NoVersion {
                message: format!("{slot} has no other version that served, so there is none to go back to."),
            })
        }
    }
}

/// The answer to a change, without its state.
fn change_body(slot: &Slot, digest: Option<Digest>, before: Option<&SlotModule>) -> Value {
    json!({
        "event_type": slot.to_string(),
        "digest": digest.map(|digest| digest.to_string()),
        "replaces": before.map(|before| before.digest.to_string()),
    })
}

/// A slot that changes from what serves to what is wanted.
fn new_slot((role, slot): &(Role, Slot), wanted: Option<&SlotModule>, before: Option<&SlotModule>) -> NewSlot {
    NewSlot {
        event_type: role.name(slot),
        digest: wanted.map(|wanted| wanted.digest),
        settings: wanted.and_then(|wanted| wanted.settings.clone()),
        replaces: before.map(|before| before.digest),
        replaces_settings: before.and_then(|before| before.settings.clone()),
    }
}

/// The refusal of versions whose contents are gone.
fn gone(digests: &[Digest]) -> Refusal {
    let listed = digests.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Refusal::NoVersion {
        message: format!("{} modules of it are not kept any more, such as {listed}: push them again.", digests.len()),
    }
}

/// The refusal of a change that was not asked for.
fn unasked(error: store::Error) -> Refusal {
    match error {
        store::Error::PreparationsMany => Refusal::PushesMany { message: format!("{error}.") },
        store::Error::Away(_) | store::Error::Slow(_) => Refusal::ShipAway {
            message: "Nothing was changed: the database did not answer in time. Send the request again after a pause."
                .to_owned(),
        },
        error => of_store(error),
    }
}

/// The refusal of a change of which the gateway does not know whether it was asked for.
fn perhaps_asked(preparation: Uuid) -> Refusal {
    Refusal::ShipAway {
        message: format!(
            "The database did not answer in time, so it is not known whether the change comes: look for {preparation} among \
             the `preparations` of the event type, or send the request again, which changes nothing that serves already."
        ),
    }
}

fn with(mut body: Value, key: &str, word: &str) -> Value {
    body[key] = word.into();
    body
}

/// Whether a living gateway refuses what is being prepared.
fn is_refused(row: &PreparationRow) -> bool {
    row.waits_for.0.as_array().into_iter().flatten().any(|one| !one["refusal"].is_null())
}

/// The answer to a change that was followed for as long as its caller waited, by a gateway that serves this generation.
fn settled(followed: &Followed, row: &PreparationRow, body: Value, serves: u64) -> Result<Response, Refusal> {
    let problem = row.problem.as_ref().map(|problem| &problem.0);
    match row.state.as_str() {
        "refused" => Err(Refusal::FleetRefused {
            gateways: problem.map(|problem| problem["gateways"].clone()).unwrap_or_default(),
        }),
        "changed" => {
            let serves = problem.and_then(|problem| problem["slots"][0]["serves"].as_str());
            Err(changed_meanwhile(serves.and_then(|text| text.parse().ok())))
        }
        state => {
            let is_here =
                row.generation.is_none_or(|number| u64::try_from(number).is_ok_and(|number| serves >= number));
            let mut body = with(body, "state", if is_here { state } else { "preparing" });
            if let Some(generation) = row.generation {
                body["generation"] = generation.into();
            } else {
                body["waits_for"] = row.waits_for.0.clone();
            }
            Ok(followed.answer(body))
        }
    }
}

fn changed_meanwhile(serves: Option<Digest>) -> Refusal {
    let digest = serves.map(|digest| digest.to_string());
    let what = digest.as_ref().map_or_else(|| "no module".to_owned(), |digest| format!("the module {digest}"));
    Refusal::ChangedMeanwhile {
        message: format!(
            "Nothing was changed: {what} serves there now, by a change that came first. Look at it, and push again."
        ),
        digest,
    }
}

fn refused(unprepared: Unprepared) -> Refusal {
    match unprepared {
        Unprepared::Refused(why) => Refusal::ModuleRefused { expected: why.expected, found: why.found, mend: why.mend },
        Unprepared::NoContent => Refusal::Internal,
        Unprepared::Stopped => Refusal::Draining,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(event_type: &str, digest: u8, settings: Option<&str>) -> SlotRow {
        SlotRow {
            event_type: event_type.to_owned(),
            digest: Some(vec![digest; 32]),
            settings: settings.map(str::to_owned),
        }
    }

    #[test]
    fn two_sets_differ_by_what_is_new_what_changed_and_what_is_gone() {
        let serves = [row("a/b", 1, None), row("a/c", 2, None), row("a/d", 3, Some("x = 1"))];
        let wanted = [row("a/b", 1, None), row("a/d", 3, None), row("a/e", 4, None)];
        let told: Vec<_> = differences(&serves, &wanted)
            .into_iter()
            .map(|slot| {
                (slot.event_type, slot.digest.map(|digest| digest.0[0]), slot.replaces.map(|digest| digest.0[0]))
            })
            .collect();
        assert_eq!(
            told,
            [
                ("a/d".to_owned(), Some(3), Some(3)),
                ("a/e".to_owned(), Some(4), None),
                ("a/c".to_owned(), None, Some(2))
            ]
        );
        assert!(differences(&wanted, &wanted).is_empty());
    }
}
