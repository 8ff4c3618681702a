//! Judges events: makes a row or a dead letter of the bytes of an event, its application and its origin. Ingest, redrive and
//! replay share it, so that they apply the same rules; they differ in authorization, counting and answers. This module
//! writes nothing to the database.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;
use eye_event::envelope::{self, Broken, Element, Event, Format, Parsed, Rules, Unreadable};
use eye_event::event::{DeadLetter, EventRow, KeptAs, Reason, Text};
use eye_event::outcome::RejectionCode;
use eye_event::verdict::{Digest, Unfinished, UnfinishedCode, Unjudged, Verdict, Violation};
use eye_judge::{Aside, Judgement, Keep, Subject, Validators};
use uuid::Uuid;

use crate::dead_letters;
use crate::request_ids::RequestIds;
use crate::store::{self, ApplicationRow, Store, StoredLetter};
use crate::trust::event_types::EventTypes;
use crate::trust::{Application, Scope, known_types};

/// The violation of a sender whose application may not send the event type.
const TYPE_NOT_ALLOWED: &str = "The application may not send this event type. Ask for it to be allowed.";

/// The parts that judging uses.
#[derive(Clone, Debug)]
pub struct Judges {
    /// The modules.
    pub validators: Validators,
    /// The database, in which judging finds events that are stored already.
    pub store: Store,
    /// The gateway's own rules.
    pub rules: Rules,
    /// Most bytes of an event that a dead letter keeps.
    pub raw_bytes_max: usize,
    /// Most event types that one application may make.
    pub event_types_max: usize,
}

/// The origin of an event. It decides which rights apply, and whether another copy of the event exists.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// The application has just sent it and has the only copy.
    Sent {
        /// The sender.
        application: &'a Application,
        /// The request of the event.
        ids: &'a RequestIds,
        /// The request is a dry run, so the event makes no event type.
        dry_run: bool,
    },
    /// It is a kept dead letter. The event keeps its application, its id and its time of receipt.
    Redriven {
        /// The letter.
        letter: &'a StoredLetter,
        /// The current rights of applications.
        senders: &'a Senders,
    },
    /// It is a stored event or a dead letter of the past, which another module judges to see what that would change. It
    /// was admitted then, and nothing is kept of it now.
    Replayed {
        /// The application that sent it.
        application_id: i32,
        /// The name of that application.
        application: &'a str,
    },
}

impl Origin<'_> {
    fn application(&self) -> (i32, &str) {
        match self {
            Self::Sent { application, .. } => (application.id, &application.name),
            Self::Redriven { letter, .. } => (letter.application_id, &letter.application),
            Self::Replayed { application_id, application } => (*application_id, application),
        }
    }

    /// The id and the `traceparent` of the request that first brought the event.
    fn request(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::Sent { ids, .. } => (Some(ids.id.to_string()), ids.trace.map(|trace| trace.to_string())),
            Self::Redriven { letter, .. } => (letter.request_id.clone(), letter.traceparent.clone()),
            Self::Replayed { .. } => (None, None),
        }
    }

    /// The reason why the application may not send this event type, or `None` if it may.
    fn refusal(&self, category: &str, name: &str) -> Option<&'static str> {
        match self {
            Self::Sent { application, .. } => (!application.may_send(category, name)).then_some(TYPE_NOT_ALLOWED),
            Self::Redriven { letter, senders } => senders.refusal(letter.application_id, category, name),
            Self::Replayed { .. } => None,
        }
    }

    /// Whether the application may have this event type, which may be a new one of its own.
    async fn admits(&self, judges: &Judges, category: &str, name: &str) -> Result<bool, store::Error> {
        match self {
            Self::Sent { application, dry_run: true, .. } => {
                Ok(application.would_admit_type(category, name, judges.event_types_max))
            }
            Self::Sent { application, dry_run: false, .. } => {
                Ok(application.admit_type(category, name, judges.event_types_max))
            }
            // A letter that names its event type was counted for that type already.
            Self::Redriven { letter, .. } if letter.category.is_some() && letter.name.is_some() => Ok(true),
            Self::Replayed { .. } => Ok(true),
            Self::Redriven { letter, .. } => {
                let most = judges.event_types_max;
                judges.store.admits_event_type(letter.application_id, category, name, most).await
            }
        }
    }
}

/// The current rights of all applications. A redrive reads them once, and so is as strict as ingest.
#[derive(Debug)]
pub struct Senders(HashMap<i32, Sender>);

#[derive(Debug)]
struct Sender {
    active: bool,
    sends: bool,
    /// `None` allows all.
    event_types: Option<EventTypes>,
}

impl Senders {
    /// Reads the rights from the rows of the applications.
    pub fn of(rows: &[ApplicationRow]) -> Self {
        let sender = |row: &ApplicationRow| Sender {
            active: row.active,
            sends: Scope::Ingest.is_granted_by(&row.scopes),
            // A pattern that does not parse allows nothing.
            event_types: (!row.event_types.is_empty()).then(|| EventTypes::parse(&row.event_types).unwrap_or_default()),
        };
        Self(rows.iter().map(|row| (row.id, sender(row))).collect())
    }

    fn refusal(&self, application_id: i32, category: &str, name: &str) -> Option<&'static str> {
        match self.0.get(&application_id) {
            None => Some("its application is not registered any more"),
            Some(sender) if !sender.active => Some("its application is suspended or revoked"),
            Some(sender) if !sender.sends => Some("its application may not send events: it lacks the scope `ingest`"),
            Some(Sender { event_types: Some(types), .. }) if !types.contains(category, name) => {
                Some("its application may not send this event type")
            }
            Some(_) => None,
        }
    }
}

/// The result of judging one event.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most events are rows, which would take an allocation each")]
pub enum Judged {
    /// The row to store.
    Row(EventRow),
    /// An event that is not to be stored.
    NotStored(Box<NotStored>),
}

/// An event that is not to be stored.
#[derive(Debug)]
pub struct NotStored {
    /// The id, if the event has one.
    pub id: Option<Uuid>,
    /// The session, if it could be read.
    pub session_id: Option<Uuid>,
    /// The event type; `None` if the envelope is broken, even if its category and name could be read.
    pub event_type: Option<(Text, Text)>,
    /// The module that judged the event.
    pub module: Option<Digest>,
    /// The end of the event.
    pub end: End,
}

/// The end of an event that is not stored.
#[derive(Debug)]
pub enum End {
    /// The database has it already.
    Duplicate,
    /// It has no outcome yet, and judging keeps nothing of it.
    Unfinished(Unfinished),
    /// It breaks a rule.
    Rejected {
        /// Whether the gateway or the module rejects it.
        code: RejectionCode,
        /// All violations, which only the sender may see.
        violations: Vec<Violation>,
        /// The dead letter, with the parts of the event that the gateway may keep.
        letter: DeadLetter,
    },
    /// It could not be judged or stored.
    Quarantined {
        /// The kind of failure.
        code: Cow<'static, str>,
        /// The dead letter, with the parts of the event that the gateway may keep.
        letter: DeadLetter,
    },
}

impl Judges {
    /// Starts judging the events of one request. All are judged by the modules that serve now.
    pub fn begin(&self) -> Judging<'_> {
        self.judging(Court::Serving(self.validators.begin()))
    }

    /// Starts judging events that are not stored, by candidates where there are some if the request asks for these.
    pub fn begin_dry(&self, by_candidates: bool) -> Judging<'_> {
        self.judging(Court::Serving(self.validators.begin_dry(by_candidates)))
    }

    /// Starts judging events for which no sender waits.
    pub fn begin_unhurried(&self) -> Judging<'_> {
        self.judging(Court::Serving(self.validators.begin_unhurried()))
    }

    /// Starts judging events of the past by a module that serves nothing. It never waits.
    pub fn begin_aside<'a>(&'a self, module: &'a Aside) -> Judging<'a> {
        self.judging(Court::Aside(module))
    }

    fn judging<'a>(&'a self, modules: Court<'a>) -> Judging<'a> {
        Judging { judges: self, modules, is_first: true, last_type: None }
    }

    /// Parses the bytes of one event. Bytes that are not exactly one event count as one broken event.
    pub fn read(&self, raw: Bytes, now_us: i64) -> Element {
        let whole = |code: &'static str, message: Cow<'static, str>| {
            let violations = vec![Violation { pointer: String::new(), code: code.into(), message }];
            Err(Box::new(Broken {
                violations,
                id: None,
                session_id: None,
                category: None,
                name: None,
                raw: raw.clone(),
            }))
        };
        match envelope::parse(&raw, Format::Json, &self.rules, now_us) {
            Ok(Parsed::One(element)) => element,
            Ok(Parsed::Many(_)) | Err(Unreadable::TooMany) => {
                whole("type", "an event is a JSON object, and this is an array".into())
            }
            Err(Unreadable::Empty) => whole("json", "there is nothing".into()),
            Err(Unreadable::NotJson { line, column, message }) => {
                whole("json", format!("not JSON at line {line}, column {column}: {message}").into())
            }
        }
    }
}

/// The modules that judge the events of one request.
#[derive(Debug)]
enum Court<'a> {
    /// Those that serve, each its event types.
    Serving(eye_judge::Judging<'a>),
    /// One that serves nothing. It judges all events, and nothing is kept of them.
    Aside(&'a Aside),
}

impl Court<'_> {
    #[inline]
    async fn judge(&mut self, subject: Subject<'_>) -> Judgement {
        match self {
            Self::Serving(modules) => modules.judge(subject).await,
            Self::Aside(module) => module.judge(subject),
        }
    }

    async fn keep(&self, event: &Event) -> Keep {
        match self {
            Self::Serving(modules) => modules.keep(&event.category, &event.name, &event.data).await,
            Self::Aside(_) => Keep::Nothing,
        }
    }

    fn keeps_unread(&self) -> bool {
        match self {
            Self::Serving(modules) => modules.keeps_unread(),
            Self::Aside(_) => false,
        }
    }

    /// Whether the event may be a retry of one that the same module accepted before.
    fn may_be_retry(&self, event: &Event) -> bool {
        match self {
            Self::Serving(modules) => modules.judges_anew(&event.category, &event.name),
            Self::Aside(_) => false,
        }
    }
}

/// The events of one request. The same modules judge all of them, even if files are swapped meanwhile.
#[derive(Debug)]
pub struct Judging<'a> {
    judges: &'a Judges,
    modules: Court<'a>,
    /// No event was judged yet. Most requests have a single event, for which remembering the type costs more than it
    /// saves.
    is_first: bool,
    /// The event type that was admitted last. The next event of a request probably has the same.
    last_type: Option<(Text, Text)>,
}

impl Judging<'_> {
    /// Judges one event, which was received at `received_at_us`.
    ///
    /// # Errors
    ///
    /// An error of the database, which some checks ask.
    pub async fn judge(
        &mut self,
        element: Element,
        received_at_us: i64,
        origin: Origin<'_>,
    ) -> Result<Judged, store::Error> {
        let event = match element {
            Ok(event) => event,
            Err(broken) => return self.broken(*broken, received_at_us, origin).await,
        };
        if !self.admits(&event, origin).await? {
            let broken = too_many_types(event, self.judges.event_types_max);
            return Ok(self.refuse_broken(broken, received_at_us, origin).into());
        }
        if let Some(why) = origin.refusal(&event.category, &event.name) {
            let keep = self.keep(&event).await;
            return Ok(self.refuse_type(&event, received_at_us, origin, why, keep).into());
        }
        let (application_id, application) = origin.application();
        let subject = Subject {
            id: event.id,
            application,
            session_id: event.session_id,
            category: &event.category,
            name: &event.name,
            timestamp_us: event.timestamp_us,
            received_at_us,
            data: &event.data,
        };
        let Judgement { outcome, digest: module } = self.modules.judge(subject).await;
        let amended = match outcome {
            Ok(Verdict::Accept) => None,
            Ok(Verdict::Amend(data)) => Some(data),
            Ok(Verdict::Reject(violations)) => {
                return self.reject(&event, received_at_us, origin, module, violations).await.map(Judged::from);
            }
            Err(Unjudged::Unfinished(why)) => return Ok(not_stored(&event, module, End::Unfinished(why)).into()),
            Err(Unjudged::Fault(fault)) => {
                let letter = letter(origin, received_at_us, Reason::Quarantined, fault.code.as_str(), &fault.detail);
                let last_words = fault.last_words.and_then(|words| self.cut(words));
                let letter = DeadLetter { module, last_words, ..letter };
                let keep = self.keep(&event).await;
                return Ok(self.quarantine(&event, origin, fault.code.as_str().into(), letter, keep).into());
            }
        };
        Ok(Judged::Row(EventRow {
            id: event.id,
            session_id: event.session_id,
            timestamp_us: event.timestamp_us,
            received_at_us,
            category: event.category,
            name: event.name,
            application_id,
            module,
            data: amended.map_or(event.data, Into::into),
            raw: event.raw,
            redriven: matches!(origin, Origin::Redriven { .. }),
        }))
    }

    /// Makes the end of a row that Postgres refuses for its data.
    pub async fn unstorable(
        &self,
        row: &EventRow,
        sqlstate: &str,
        message: &str,
        now_us: i64,
        origin: Origin<'_>,
    ) -> NotStored {
        let event = match self.judges.read(row.raw.clone(), now_us) {
            Ok(event) => Event { id: row.id, ..event },
            // The same rules accepted the event before. Only its timestamp may break them now.
            Err(broken) => return self.refuse_broken(*broken, row.received_at_us, origin),
        };
        let keep = self.keep(&event).await;
        // The message of the server may quote the row.
        let detail = match keep {
            Keep::Whole => format!("Postgres refuses the row: {message} (SQLSTATE {sqlstate})"),
            Keep::Redacted(_) | Keep::Nothing => format!("Postgres refuses the row (SQLSTATE {sqlstate})"),
        };
        let letter = letter(origin, row.received_at_us, Reason::Quarantined, "unstorable", &detail);
        self.quarantine(&event, origin, "unstorable".into(), DeadLetter { module: row.module, ..letter }, keep)
    }

    /// Cuts the last words of a module to the size that a dead letter keeps.
    fn cut(&self, mut words: String) -> Option<String> {
        words.truncate(words.floor_char_boundary(self.judges.raw_bytes_max));
        (!words.is_empty()).then_some(words)
    }

    /// Which parts of an event that is not stored the gateway may keep.
    async fn keep(&self, event: &Event) -> Keep {
        self.modules.keep(event).await
    }

    async fn admits(&mut self, event: &Event, origin: Origin<'_>) -> Result<bool, store::Error> {
        let is_last = |(category, name): &(Text, Text)| *name == event.name && *category == event.category;
        if self.last_type.as_ref().is_some_and(is_last) {
            return Ok(true);
        }
        let admits = origin.admits(self.judges, &event.category, &event.name).await?;
        if admits && !self.is_first && matches!(origin, Origin::Sent { .. }) {
            self.last_type = Some((event.category.clone(), event.name.clone()));
        }
        self.is_first = false;
        Ok(admits)
    }

    async fn broken(
        &mut self,
        broken: Broken,
        received_at_us: i64,
        origin: Origin<'_>,
    ) -> Result<Judged, store::Error> {
        // A category and name in a dead letter count as an event type of the application too.
        let named = match (&broken.category, &broken.name) {
            (Some(category), Some(name)) => origin.admits(self.judges, category, name).await?,
            _ => true,
        };
        let broken = if named { broken } else { Broken { category: None, name: None, ..broken } };
        Ok(self.refuse_broken(broken, received_at_us, origin).into())
    }

    /// Rejects an event without a readable type, or one whose type would be one too many for its application.
    fn refuse_broken(&self, broken: Broken, received_at_us: i64, origin: Origin<'_>) -> NotStored {
        let code = RejectionCode::Envelope;
        let detail = "the envelope breaks the gateway's rules";
        let letter = letter(origin, received_at_us, Reason::Rejected, code.as_str(), detail);
        let letter = DeadLetter {
            event_id: broken.id,
            session_id: broken.session_id,
            violations: broken.violations.clone(),
            ..letter
        };
        let letter = if self.modules.keeps_unread() {
            DeadLetter {
                category: broken.category,
                name: broken.name,
                raw: dead_letters::cut(&broken.raw, self.judges.raw_bytes_max),
                raw_bytes: broken.raw.len(),
                ..letter
            }
        } else {
            dead_letters::of_unread(letter, &broken.raw)
        };
        NotStored {
            id: broken.id,
            session_id: broken.session_id,
            event_type: None,
            module: None,
            end: End::Rejected { code, violations: broken.violations, letter },
        }
    }

    /// Rejects an event whose type the application may not send.
    fn refuse_type(
        &self,
        event: &Event,
        received_at_us: i64,
        origin: Origin<'_>,
        why: &'static str,
        keep: Keep,
    ) -> NotStored {
        let code = RejectionCode::NotAllowed;
        let violations = vec![Violation { pointer: String::new(), code: code.as_str().into(), message: why.into() }];
        let letter = letter(origin, received_at_us, Reason::Rejected, code.as_str(), why);
        // The gateway's own message quotes nothing of the event.
        let letter =
            DeadLetter { violations: violations.clone(), detail: why.to_owned(), ..self.of_event(letter, event, keep) };
        not_stored(event, None, End::Rejected { code, violations, letter })
    }

    async fn reject(
        &self,
        event: &Event,
        received_at_us: i64,
        origin: Origin<'_>,
        module: Option<Digest>,
        violations: Vec<Violation>,
    ) -> Result<NotStored, store::Error> {
        // A module that judges by the time of receipt may reject a retry of an event that it accepted before.
        if self.modules.may_be_retry(event)
            && self.judges.store.has_event(event.session_id, event.timestamp_us, event.id).await?
        {
            return Ok(not_stored(event, module, End::Duplicate));
        }
        let code = RejectionCode::Rule;
        let keep = self.keep(event).await;
        let letter = letter(origin, received_at_us, Reason::Rejected, code.as_str(), "a validator rejected the event");
        let letter = self.of_event(DeadLetter { module, violations: violations.clone(), ..letter }, event, keep);
        Ok(not_stored(event, module, End::Rejected { code, violations, letter }))
    }

    fn quarantine(
        &self,
        event: &Event,
        origin: Origin<'_>,
        code: Cow<'static, str>,
        letter: DeadLetter,
        keep: Keep,
    ) -> NotStored {
        let module = letter.module;
        if keep == Keep::Nothing && matches!(origin, Origin::Sent { .. }) {
            // The sender has the only copy, so it must send the event again.
            return not_stored(event, module, End::Unfinished(Unfinished::of(UnfinishedCode::NotKept)));
        }
        let letter = self.of_event(letter, event, keep);
        not_stored(event, module, End::Quarantined { code, letter })
    }

    fn of_event(&self, letter: DeadLetter, event: &Event, keep: Keep) -> DeadLetter {
        dead_letters::of_event(letter, event, keep, self.judges.raw_bytes_max)
    }
}

impl From<NotStored> for Judged {
    fn from(event: NotStored) -> Self {
        Self::NotStored(Box::new(event))
    }
}

fn not_stored(event: &Event, module: Option<Digest>, end: End) -> NotStored {
    NotStored {
        id: Some(event.id),
        session_id: Some(event.session_id),
        event_type: Some((event.category.clone(), event.name.clone())),
        module,
        end,
    }
}

/// A dead letter without its event.
fn letter(origin: Origin<'_>, received_at_us: i64, reason: Reason, code: &str, detail: &str) -> DeadLetter {
    let (request_id, traceparent) = origin.request();
    DeadLetter {
        id: Uuid::now_v7(),
        received_at_us,
        reason,
        code: code.to_owned(),
        detail: detail.to_owned(),
        violations: Vec::new(),
        application_id: origin.application().0,
        module: None,
        event_id: None,
        session_id: None,
        category: None,
        name: None,
        kept: KeptAs::Whole,
        raw: Bytes::new(),
        raw_bytes: 0,
        raw_digest: None,
        last_words: None,
        request_id,
        traceparent,
    }
}

/// An event whose application has too many event types. The dead letter does not name its type.
fn too_many_types(event: Event, most: usize) -> Broken {
    Broken {
        violations: vec![known_types::too_many(most)],
        id: Some(event.id),
        session_id: Some(event.session_id),
        category: None,
        name: None,
        raw: event.raw,
    }
}
