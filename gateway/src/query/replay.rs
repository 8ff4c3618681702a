//! `POST /v1/jobs?kind=replay`: asks for a replay, with the module as the body or the digest of a kept version. The module
//! is loaded before the job is written, so that one that could not serve is refused at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use eye_event::verdict::Digest;
use eye_judge::{Kind as FileKind, ModulesFrom, Role, Slot, Unprepared};
use hyper::header::CONTENT_TYPE;
use hyper::{HeaderMap, Request};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Query, jobs::accepted};
use crate::audit::Actor;
use crate::body::{self, BodyLimits};
use crate::jobs::{self, Kind, replay};
use crate::parameters::{Parameters, bad};
use crate::response::{Refusal, Response, of_store};
use crate::server::Incoming;
use crate::share::{Budget, Held};
use crate::store::AskedJob;
use crate::trust::Application;

/// Most bytes of a module.
const MODULE_BYTES_MAX: usize = 64 << 20;
/// Most bytes of a body that names a version.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Longest text of settings.
const SETTINGS_BYTES_MAX: usize = 16 << 10;
/// Longest wait for the turn at loading a module.
const TURN: Duration = Duration::from_secs(10);
/// Longest range: a hundred years.
const LAST_MINUTES_MAX: i64 = 100 * 366 * 24 * 60;

/// The parts that asking for a replay uses.
#[derive(Debug)]
pub struct Replaying {
    /// Where kept versions are.
    pub modules_from: ModulesFrom,
    /// Longest time until a whole body has arrived.
    pub body_limits: BodyLimits,
    /// The room for modules that are being sent, in KiB.
    pub room: Arc<Budget>,
    /// One module is loaded for requests at a time.
    pub loading: Arc<Mutex<()>>,
}

/// Whether a query asks for a replay. The rest of it is read later.
pub fn is_asked(query: Option<&str>) -> bool {
    query.unwrap_or_default().split('&').any(|pair| pair == "kind=replay")
}

/// Asks for a replay of the events of a caller who may ship their module, and so may read them.
///
/// # Errors
///
/// The refusals of a body and of a read, [`Refusal::BadParameter`], [`Refusal::NotShipped`], [`Refusal::ModuleRefused`],
/// [`Refusal::NoVersion`] and [`Refusal::JobRunning`].
pub async fn ask(
    query: &Query,
    caller: &Application,
    actor: &Actor,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let known = ["kind", "type", "last", "from", "to", "sample", "settings"];
    let parameters = Parameters::read(request.uri().query(), &known)?;
    let slot = slot(&parameters)?;
    may_ship(caller, &slot)?;
    let (from, to) = range(&parameters, query.clock.reading_us())?;
    let sample = sample(&parameters)?;
    let settings = parameters.text("settings").filter(|text| text.trim() != "default");
    if settings.is_some_and(|text| text.len() > SETTINGS_BYTES_MAX) {
        return Err(bad("settings", &format!("has {SETTINGS_BYTES_MAX} bytes at most")));
    }
    let validators = &query.redriving.judges.validators;
    let limits = validators.limits_for(&slot, settings).map_err(|why| bad("settings", &why))?;
    let running = |id| Refusal::JobRunning { id, kind: Kind::Replay.as_str() };
    // Before the body, which may be large.
    if let Some(id) = query.store.job_of_kind(Kind::Replay.as_str()).await.map_err(of_store)? {
        return Err(running(id));
    }
    let (content, room) = module(query, caller, &slot, request).await?;
    {
        let _turn = timeout(TURN, query.replaying.loading.lock()).await.map_err(|_| Refusal::Overloaded)?;
        let loaded = validators.load_aside(&slot, limits, content.clone()).await;
        loaded.map_err(|unprepared| match unprepared {
            Unprepared::Refused(why) => {
                Refusal::ModuleRefused { expected: why.expected, found: why.found, mend: why.mend }
            }
            Unprepared::NoContent => Refusal::Internal,
            Unprepared::Stopped => Refusal::Draining,
        })?;
    }
    let digest = Digest::of(&content).to_string();
    let wanted = replay::Request { event_type: slot.to_string(), digest, from, to, sample, limits };
    let asked = jobs::ask_replay(&query.store, &wanted, content, actor).await.map_err(of_store)?;
    drop(room);
    match asked {
        AskedJob::Running(id) => Err(running(id)),
        AskedJob::New(job) => Ok(accepted(&job)),
    }
}

fn slot(parameters: &Parameters) -> Result<Slot, Refusal> {
    let text = parameters.text("type").ok_or_else(|| {
        bad("type", "is missing: it names the event types of the module, such as shop/sale, shop/* or *")
    })?;
    Slot::parse(text).map_err(|why| bad("type", &why))
}

/// Refuses a caller who may not ship this slot, and so may not read all of its events.
fn may_ship(caller: &Application, slot: &Slot) -> Result<(), Refusal> {
    let (category, name) = slot.parts();
    match caller.ships() {
        Some(ships) if ships.shows_slot(category, name) => Ok(()),
        Some(_) => Err(Refusal::NotShipped {
            message: format!(
                "The application may not ship {slot}, so it may not replay its events. Ask for that event type to be given to it."
            ),
        }),
        None => Err(Refusal::NotAllowed { scope: "ship" }),
    }
}

/// The range of time: `last`, or `from` and `to`.
fn range(parameters: &Parameters, now_us: i64) -> Result<(DateTime<Utc>, DateTime<Utc>), Refusal> {
    let (from_us, to_us) = parameters.range()?;
    let (from_us, to_us) = match (parameters.text("last"), from_us, to_us) {
        (Some(last), None, None) => (now_us.saturating_sub(minutes(last)?.saturating_mul(60_000_000)), now_us),
        (Some(_), ..) => return Err(bad("last", "is a range of its own: leave `from` and `to` out")),
        (None, Some(from_us), to_us) => (from_us, to_us.unwrap_or(now_us)),
        (None, None, _) => return Err(bad("last", "is missing: it is a range such as 7d; or give `from`, and `to`")),
    };
    let time = |name, us| DateTime::from_timestamp_micros(us).ok_or_else(|| bad(name, "is no time that an event has"));
    Ok((time("from", from_us)?, time("to", to_us)?))
}

/// The minutes of a range such as `7d`.
fn minutes(text: &str) -> Result<i64, Refusal> {
    let wrong = || bad("last", "must be a whole number with m, h, d or w, such as 90m, 12h or 7d");
    let unit = match text.chars().last() {
        Some('m') => 1,
        Some('h') => 60,
        Some('d') => 24 * 60,
        Some('w') => 7 * 24 * 60,
        _ => return Err(wrong()),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u32>().ok()).ok_or_else(wrong)?;
    let minutes = i64::from(number).saturating_mul(unit);
    if (1..=LAST_MINUTES_MAX).contains(&minutes) { Ok(minutes) } else { Err(wrong()) }
}

fn sample(parameters: &Parameters) -> Result<Option<u64>, Refusal> {
    let Some(text) = parameters.text("sample") else { return Ok(None) };
    let number = text.parse::<u32>().ok().filter(|number| *number > 0).map(u64::from);
    number.map(Some).ok_or_else(|| bad("sample", "must be a whole number of events, from 1 to 4294967295"))
}

/// The module: the body, or the version that the body names. It comes with its room.
async fn module(
    query: &Query,
    caller: &Application,
    slot: &Slot,
    request: Request<Incoming>,
) -> Result<(Bytes, Option<Held>), Refusal> {
    let (head, body) = request.into_parts();
    let kind = content_kind(&head.headers)?;
    let bytes_max = if kind.is_some() { MODULE_BYTES_MAX } else { BODY_BYTES_MAX };
    let limits = BodyLimits { bytes_max, ..query.replaying.body_limits };
    let room = Held::none(&query.replaying.room, caller.shipping_share());
    let received = body::read(&head.headers, body, &limits, room).await?;
    if received.bytes.is_empty() {
        return Err(Refusal::Empty);
    }
    let Some(kind) = kind else {
        let digest = named(&received.bytes)?;
        let content = kept(query, slot, digest).await?.ok_or_else(|| Refusal::NoVersion {
            message: format!("{slot} has no version {digest} that is kept: send the module itself."),
        })?;
        let mut room = Held::none(&query.replaying.room, caller.shipping_share());
        if !room.grow_to(content.len().div_ceil(body::PERMIT_BYTES)) {
            return Err(Refusal::Overloaded);
        }
        return Ok((content, Some(room)));
    };
    kind.expect(&received.bytes).map_err(|why| Refusal::ModuleRefused {
        expected: why.expected,
        found: why.found,
        mend: why.mend,
    })?;
    Ok((received.bytes, received.room))
}

/// The kind of the module in the body; `None` for JSON, which names a version.
fn content_kind(headers: &HeaderMap) -> Result<Option<FileKind>, Refusal> {
    let found = headers.get(CONTENT_TYPE).map_or("nothing", |value| value.to_str().unwrap_or_default());
    let essence = found.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(None);
    }
    let kind = FileKind::ALL.into_iter().find(|kind| essence.eq_ignore_ascii_case(kind.content_type()));
    kind.map(Some).ok_or_else(|| Refusal::NotAModule { found: found.chars().take(100).collect() })
}

fn named(body: &[u8]) -> Result<Digest, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Version {
        digest: String,
    }
    let version: Version = serde_json::from_slice(body)
        .map_err(|error| bad("body", &format!("{error}; it takes {{\"digest\":\"...\"}}, or is the module itself")))?;
    version.digest.parse().map_err(|_| bad("digest", "must be the digest of a module: 64 hexadecimal digits"))
}

/// The content of a version or a candidate of this slot.
async fn kept(query: &Query, slot: &Slot, digest: Digest) -> Result<Option<Bytes>, Refusal> {
    let content = match query.replaying.modules_from {
        ModulesFrom::Directory => {
            let (validators, slot) = (query.redriving.judges.validators.clone(), slot.clone());
            let read = tokio::task::spawn_blocking(move || validators.kept_content(&slot, digest));
            read.await.map_err(|_| Refusal::Internal)?.map_err(|error| {
                tracing::warn!(%error, "the history of modules cannot be read");
                Refusal::Internal
            })?
        }
        ModulesFrom::Database => {
            let mut versions = query.store.module_versions(&Role::Live.name(slot)).await.map_err(of_store)?;
            versions.extend(query.store.module_versions(&Role::Candidate.name(slot)).await.map_err(of_store)?);
            match versions.iter().any(|version| version.digest == digest.0) {
                true => query.store.module_contents(&[digest]).await.map_err(of_store)?.remove(&digest),
                false => None,
            }
        }
    };
    Ok(content.map(Bytes::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        Parameters::read(Some(text), &["type", "last", "from", "to", "sample"]).expect("known")
    }

    #[test]
    fn a_range_is_the_last_days_or_has_ends() {
        let now_us = 1_800_000_000_000_000;
        let days = |text: &str| {
            range(&parameters(text), now_us).map(|(from, to)| {
                assert!(to.timestamp_micros() <= now_us);
                (to - from).num_hours()
            })
        };
        for (text, hours) in [
            ("last=7d", 168),
            ("last=90m", 1),
            ("last=2w", 336),
            ("from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00Z", 24),
            ("from=2027-01-15T07:00:00Z", 1),
        ] {
            assert_eq!(days(text).expect("a range"), hours, "{text}");
        }
        for text in [
            "",
            "last=7",
            "last=d",
            "last=0d",
            "last=-1d",
            "last=7d&to=2026-01-02T00:00:00Z",
            "to=2026-01-02T00:00:00Z",
        ] {
            assert!(matches!(days(text), Err(Refusal::BadParameter { .. })), "{text}");
        }
    }

    #[test]
    fn a_sample_is_a_number_and_a_type_is_needed() {
        assert_eq!(sample(&parameters("sample=500")).expect("a number"), Some(500));
        assert!(sample(&parameters("sample=0")).is_err() && sample(&parameters("sample=1.5")).is_err());
        assert_eq!(slot(&parameters("type=shop/*")).expect("a type"), Slot::Category("shop".to_owned()));
        assert!(slot(&parameters("last=7d")).is_err());
        assert!(is_asked(Some("last=7d&kind=replay")) && !is_asked(Some("kind=redrive")) && !is_asked(None));
    }
}
