//! What a request asks of the handler: its path, its parameters, and the conditions and preferences of its headers.

use std::time::Duration;

use eye_event::verdict::Digest;
use eye_judge::{Kind, Mode, Share, Slot, Steps};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, StatusCode};
use serde_json::Value;

use super::changed_meanwhile;
use super::terms::Terms;
use crate::parameters::{Parameters, bad};
use crate::response::{self, Refusal, Response};

/// How long a request waits for the fleet, unless it says otherwise with `Prefer: wait=N`.
const WAIT: Duration = Duration::from_secs(20);
/// Longest wait that it may ask for.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Longest category and name of an event.
const WORD_CHARACTERS_MAX: usize = 200;
/// Longest commit.
const COMMIT_CHARACTERS_MAX: usize = 200;
/// Longest text of settings.
const SETTINGS_BYTES_MAX: usize = 16 << 10;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// What a request asks of the handler.
#[derive(Debug)]
pub(super) enum Asked {
    Show(Slot),
    Push(Slot),
    Retire(Slot),
    Rollback(Slot),
    ShowCandidate(Slot),
    Discard(Slot),
    Promote(Slot),
    Content(Slot, Digest),
    Gateways,
    Generations,
    Generation(u64),
    Back(u64),
}

/// How far a change was followed.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) wait: Duration,
    pub(super) applied: bool,
    pub(super) dry_run: bool,
}

/// What must serve for a change to be made, by the headers of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Whatever serves.
    None,
    /// `If-Match: *`: any module.
    Any,
    /// `If-Match`: this module.
    Digest(Digest),
    /// `If-None-Match: *`: none.
    Nothing,
}

impl Condition {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: &HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
        match (text(&IF_MATCH), text(&IF_NONE_MATCH)) {
            (None, None) => Ok(Self::None),
            (Some("*"), None) => Ok(Self::Any),
            (Some(one), None) => digest("If-Match", one.trim_matches('"')).map(Self::Digest),
            (None, Some("*")) => Ok(Self::Nothing),
            _ => Err(bad("If-None-Match", "is read as `*` alone, without If-Match: nothing serves yet")),
        }
    }

    /// Refuses a change of another module than its author thinks.
    pub(super) fn meets(self, serves: Option<Digest>) -> Result<(), Refusal> {
        let is_met = match self {
            Self::None => true,
            Self::Any => serves.is_some(),
            Self::Digest(digest) => serves == Some(digest),
            Self::Nothing => serves.is_none(),
        };
        if is_met { Ok(()) } else { Err(changed_meanwhile(serves)) }
    }
}

/// A push, without its module.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) force: bool,
    pub(super) commit: Option<String>,
    /// The inner `None` takes the settings away.
    pub(super) settings: Option<Option<String>>,
    pub(super) condition: Condition,
    pub(super) followed: Followed,
    /// How it is tried; `None` if it is to serve.
    pub(super) tried: Option<Terms>,
    /// More refusals are meant.
    pub(super) expects_refusals: bool,
}

impl Push {
    pub(super) const PARAMETERS: [&'static str; 8] =
        ["mode", "percent", "auto", "expect_refusals", "dry_run", "force", "commit", "settings"];

    pub(super) fn of(parameters: &Parameters, headers: &HeaderMap) -> Result<Self, Refusal> {
        let commit = parameters.text("commit").map(str::to_owned);
        let is_odd = |text: &String| {
            text.chars().count() > COMMIT_CHARACTERS_MAX || text.chars().any(eye_event::legible::is_hidden)
        };
        if commit.as_ref().is_some_and(is_odd) {
            let rule = format!("has {COMMIT_CHARACTERS_MAX} characters at most, none of which is hidden");
            return Err(bad("commit", &rule));
        }
        let settings = parameters.text("settings").map(|text| match text.trim() {
            "default" => None,
            _ => Some(text.to_owned()),
        });
        if settings.iter().flatten().any(|text| text.len() > SETTINGS_BYTES_MAX) {
            return Err(bad("settings", &format!("has {SETTINGS_BYTES_MAX} bytes at most")));
        }
        Ok(Self {
            force: parameters.choice("force", &[("false", false), ("true", true)])?,
            commit,
            settings,
            condition: Condition::of(headers)?,
            followed: Followed::of(parameters, headers)?,
            tried: tried(parameters)?,
            expects_refusals: parameters.choice("expect_refusals", &[("false", false), ("true", true)])?,
        })
    }
}

/// How a module is tried, by the parameters of its request; `None` if it is to serve.
fn tried(parameters: &Parameters) -> Result<Option<Terms>, Refusal> {
    let modes = [("live", None), ("shadow", Some(Mode::Shadow)), ("canary", Some(Mode::Canary))];
    let mode = parameters.choice("mode", &modes)?;
    let wanted = || bad("percent", "must be a number from 0.001 to 100");
    let share = parameters.text("percent").map(|text| text.parse().ok().and_then(Share::of_percent).ok_or_else(wanted));
    let share = share.transpose()?;
    if share.is_some() && mode != Some(Mode::Canary) {
        return Err(bad("percent", "is the share of the sessions that mode=canary judges: leave it out"));
    }
    let given = mode.map(|mode| Terms { mode, share: share.unwrap_or(Share::CANARY), auto: None });
    let Some(auto) = parameters.text("auto") else { return Ok(given) };
    let first = Steps::parse(auto).map_err(|why| bad("auto", &why))?.first();
    let terms = Terms::of_step(first, auto);
    let is_other = |given: &Terms| given.mode != terms.mode || given.percent() != terms.percent();
    if parameters.text("mode").is_some() && given.as_ref().is_none_or(is_other) {
        return Err(bad("auto", "begins with its first step: leave mode and percent out"));
    }
    Ok(Some(terms))
}

impl Followed {
    pub(super) fn of(parameters: &Parameters, headers: &HeaderMap) -> Result<Self, Refusal> {
        let dry_run = parameters.choice("dry_run", &[("false", false), ("true", true)])?;
        let wait = wait(headers);
        Ok(Self { wait: wait.unwrap_or(WAIT).min(WAIT_MAX), applied: wait.is_some(), dry_run })
    }

    pub(super) fn answer(&self, body: Value) -> Response {
        let is_over = body["state"] != "preparing";
        let status = if is_over { StatusCode::OK } else { StatusCode::ACCEPTED };
        let mut response = response::json(status, body.to_string());
        if self.applied
            && let Ok(applied) = HeaderValue::try_from(format!("wait={}", self.wait.as_secs()))
        {
            response.headers_mut().insert(PREFERENCE_APPLIED, applied);
        }
        response
    }
}

/// The `wait` of a header `Prefer`. A preference that is not understood is none.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all(PREFER).iter().filter_map(|line| line.to_str().ok());
    let words = lines.flat_map(|line| line.split([',', ';']));
    let mut waits = words.filter_map(|word| word.trim().strip_prefix("wait=")?.trim_matches('"').parse().ok());
    waits.next().map(Duration::from_secs)
}

pub(super) fn digest(name: &str, text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|_| bad(name, "must be the digest of a module: 64 hexadecimal digits"))
}

/// The kind of what is pushed, as its content type says.
pub(super) fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let found = headers.get(CONTENT_TYPE).map_or("nothing", |value| value.to_str().unwrap_or_default());
    let essence = found.split(';').next().unwrap_or_default().trim();
    let kind = Kind::ALL.into_iter().find(|kind| essence.eq_ignore_ascii_case(kind.content_type()));
    kind.ok_or_else(|| Refusal::NotAModule { found: found.chars().take(100).collect() })
}

/// Finds out what a request asks. The parts of its path are still percent-encoded.
pub(super) fn asked(method: &Method, path: &str) -> Result<Asked, Refusal> {
    let parts: Vec<&str> = path.split('/').skip(2).collect();
    let slot = |category: &str, name: &str| {
        let slot = Slot::of_url(category, name).map_err(|why| bad("event_type", &why))?;
        is_possible(&slot).then_some(slot).ok_or_else(|| {
            bad(
                "event_type",
                "no event has it: a category or name has 1 to 200 characters, no control characters, and no space at its ends",
            )
        })
    };
    let number = |text: &str| text.parse().map_err(|_| Refusal::NotFound);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match (method, &parts[..]) {
        (_, ["validators", category, name]) if reads => Ok(Asked::Show(slot(category, name)?)),
        (&Method::PUT, ["validators", category, name]) => Ok(Asked::Push(slot(category, name)?)),
        (&Method::DELETE, ["validators", category, name]) => Ok(Asked::Retire(slot(category, name)?)),
        (&Method::POST, ["validators", category, name, "retire"]) => Ok(Asked::Retire(slot(category, name)?)),
        (_, ["validators", category, name, "candidate"]) if reads => Ok(Asked::ShowCandidate(slot(category, name)?)),
        (&Method::DELETE, ["validators", category, name, "candidate"]) => Ok(Asked::Discard(slot(category, name)?)),
        (&Method::POST, ["validators", category, name, "candidate", "promote"]) => {
            Ok(Asked::Promote(slot(category, name)?))
        }
        (&Method::POST, ["validators", category, name, "rollback"]) => Ok(Asked::Rollback(slot(category, name)?)),
        (_, ["validators", category, name, "versions", text]) if reads => {
            Ok(Asked::Content(slot(category, name)?, digest("digest", text)?))
        }
        (_, ["gateways"]) if reads => Ok(Asked::Gateways),
        (_, ["generations"]) if reads => Ok(Asked::Generations),
        (_, ["generations", text]) if reads => Ok(Asked::Generation(number(text)?)),
        (&Method::POST, ["generations", text, "back"]) => Ok(Asked::Back(number(text)?)),
        _ => Err(Refusal::NotFound),
    }
}

/// Whether an event can have the type, by the rules of the envelope.
fn is_possible(slot: &Slot) -> bool {
    let (category, name) = slot.parts();
    category.into_iter().chain(name).all(|word| {
        word.chars().count() <= WORD_CHARACTERS_MAX && !word.chars().any(char::is_control) && word.trim() == word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_slots_by_their_encoded_parts() {
        let named = |method: &Method, path: &str| match asked(method, path) {
            Ok(asked) => format!("{asked:?}"),
            Err(refusal) => refusal.code().to_owned(),
        };
        let digest = "0f".repeat(32);
        for (method, path, wanted) in [
            (Method::PUT, "/v1/validators/shop/sale", r#"Push(Exact("shop", "sale"))"#.to_owned()),
            (Method::PUT, "/v1/validators/shop/*", r#"Push(Category("shop"))"#.to_owned()),
            (Method::PUT, "/v1/validators/shop/%2A", r#"Push(Exact("shop", "*"))"#.to_owned()),
            (Method::PUT, "/v1/validators/*/*", "Push(Any)".to_owned()),
            (Method::PUT, "/v1/validators/*/sale", "bad_parameter".to_owned()),
            (Method::PUT, "/v1/validators/shop/%20sale", "bad_parameter".to_owned()),
            (Method::PUT, "/v1/validators/shop/a%00b", "bad_parameter".to_owned()),
            (Method::GET, "/v1/validators/a%2Fb/c", r#"Show(Exact("a/b", "c"))"#.to_owned()),
            (Method::DELETE, "/v1/validators/a/b", r#"Retire(Exact("a", "b"))"#.to_owned()),
            (Method::POST, "/v1/validators/a/b/rollback", r#"Rollback(Exact("a", "b"))"#.to_owned()),
            (Method::GET, "/v1/validators/a/*/candidate", r#"ShowCandidate(Category("a"))"#.to_owned()),
            (Method::DELETE, "/v1/validators/a/b/candidate", r#"Discard(Exact("a", "b"))"#.to_owned()),
            (Method::POST, "/v1/validators/a/b/candidate/promote", r#"Promote(Exact("a", "b"))"#.to_owned()),
            (Method::GET, "/v1/validators/a/b/versions/no", "bad_parameter".to_owned()),
            (Method::GET, "/v1/generations/7", "Generation(7)".to_owned()),
            (Method::GET, "/v1/generations/seven", "not_found".to_owned()),
            (Method::POST, "/v1/generations/7/back", "Back(7)".to_owned()),
        ] {
            assert_eq!(named(&method, path), wanted, "{method} {path}");
        }
        assert!(named(&Method::GET, &format!("/v1/validators/a/b/versions/{digest}")).starts_with("Content("));
    }

    #[test]
    fn a_trial_is_read_from_mode_percent_and_steps() {
        let read = |query: &str| {
            let parameters = Parameters::read(Some(query), &Push::PARAMETERS).expect("known parameters");
            tried(&parameters).map(|terms| terms.map(|terms| (terms.mode, terms.percent())))
        };
        assert_eq!(read("mode=live").expect("live"), None);
        assert_eq!(read("mode=shadow").expect("a shadow"), Some((Mode::Shadow, None)));
        assert_eq!(read("mode=canary").expect("a canary"), Some((Mode::Canary, Some(1.0))));
        assert_eq!(read("mode=canary&percent=2.5").expect("a canary"), Some((Mode::Canary, Some(2.5))));
        assert_eq!(read("auto=5%25:10m").expect("steps"), Some((Mode::Canary, Some(5.0))));
        assert_eq!(read("mode=shadow&auto=shadow:1m").expect("steps"), Some((Mode::Shadow, None)));
        for wrong in [
            "mode=half",
            "percent=5",
            "mode=shadow&percent=5",
            "mode=canary&percent=0",
            "mode=canary&percent=many",
            "auto=soon",
            "mode=live&auto=shadow:1m",
            "mode=canary&percent=2&auto=5%25:10m",
        ] {
            assert!(matches!(read(wrong), Err(Refusal::BadParameter { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_wait_is_read_from_the_preferences() {
        for (text, wanted) in
            [("wait=7", Some(7)), ("respond-async, wait=30", Some(30)), ("wait=\"3\"", Some(3)), ("wait=soon", None)]
        {
            let headers = HeaderMap::from_iter([(PREFER, HeaderValue::from_static(text))]);
            assert_eq!(wait(&headers), wanted.map(Duration::from_secs), "{text}");
        }
    }
}
