//! Dead letters over HTTP: pages by filter, one with its raw bytes, and the order to judge a choice of them again. What
//! redriving is, is `redrive.rs`'s affair; rows are the store's.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use hyper::header::ACCEPT_ENCODING;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::list::{List, Listing};
use super::parameters::{Parameters, bad, id};
use super::{cursor, header, refusal, send};
use crate::body;
use crate::gateway::Gateway;
use crate::redrive::{Ended, Errand, Redrive, Report};
use crate::response::{self, Encoding, Refusal, Response};
use crate::server::Incoming;
use crate::share::Held;
use crate::store::{Choice, LetterFilter, StoredLetter};
use crate::trust::{Application, Scope};

/// Letters of a page or of an errand, unless the caller asks for another number.
const LIMIT: u32 = 100;
/// Most letters of a page or of an errand.
const LIMIT_MAX: u32 = 1_000;

/// What chooses dead letters.
const FILTERS: [&str; 7] = ["reason", "code", "application", "category", "name", "from", "to"];

/// `GET /v1/dead-letters`: the latest first.
pub(super) fn listing(query: Option<&str>) -> Result<Listing, Refusal> {
    let known: Vec<&'static str> = FILTERS.into_iter().chain(["limit", "cursor"]).collect();
    let parameters = Parameters::read(query, &known)?;
    Ok(Listing::new(List::DeadLetters(filter(&parameters)?), parameters, String::new(), "dead_letters"))
}

fn filter(parameters: &Parameters) -> Result<LetterFilter, Refusal> {
    let reasons = ["rejected", "quarantined"].map(|reason| (reason, reason));
    let reason = parameters.text("reason").map(|_| parameters.choice("reason", &reasons)).transpose()?;
    // What was refused may have broken the rules for words, so nothing but NUL is wrong here.
    let text = |name| match parameters.text(name) {
        Some(text) if text.contains('\0') => Err(bad(name, "must not hold a NUL")),
        text => Ok(text.map(str::to_owned)),
    };
    let (from_us, to_us) = parameters.range()?;
    Ok(LetterFilter {
        reason: reason.map(str::to_owned),
        code: text("code")?,
        application: text("application")?,
        category: text("category")?,
        name: text("name")?,
        from: from_us.and_then(DateTime::from_timestamp_micros),
        to: to_us.and_then(DateTime::from_timestamp_micros),
    })
}

/// `GET /v1/dead-letters/{id}`: one, with the bytes that are kept for a caller who may read them.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::NotFound`], and those of a read.
pub async fn show(
    gateway: &Gateway,
    caller: &Application,
    headers: &HeaderMap,
    letter_id: &str,
    query: Option<&str>,
) -> Result<Response, Refusal> {
    let letter_id = id("id", letter_id)?;
    Parameters::read(query, &[])?;
    let turn = gateway.turns.take(caller.reads_share()).await?;
    let (letter, raw) = gateway.store.dead_letter(letter_id).await.map_err(refusal)?.ok_or(Refusal::NotFound)?;
    drop(turn);
    let encoding = Encoding::accepted(&header(headers, &ACCEPT_ENCODING));
    let raw = Some(&raw[..]).filter(|_| caller.has(Scope::Raw));
    send(whole_json(&letter, raw).to_string().into_bytes(), encoding).await
}

/// `POST /v1/dead-letters/redrive`: judges the chosen dead letters again.
///
/// # Errors
///
/// Those of reading a body; [`Refusal::BadParameter`]; those of [`Redrive::run`].
pub async fn redrive(gateway: &Gateway, caller: &Application, request: Request<Incoming>) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    body::must_be_json(&head.headers)?;
    let received =
        body::read(&head.headers, body, &gateway.body_limits, Held::none(&gateway.in_flight, caller.share())).await?;
    let (errand, told_by) = errand(&received.bytes)?;
    // One at a time: each holds raw bytes in memory that no budget of bodies knows of.
    let Ok(_turn) = gateway.redriving.try_acquire() else { return Err(Refusal::Overloaded) };
    let answer = Duration::from_millis(gateway.config.answer_ms);
    let redrive = Redrive {
        store: &gateway.store,
        rules: &gateway.rules,
        clock: &gateway.clock,
        validators: &gateway.validators,
        events: &gateway.events,
        event_types_max: gateway.config.event_types_max,
        // The rest is for what was begun before.
        time: answer / 2,
    };
    let report = tokio::time::timeout(answer, redrive.run(&errand)).await.map_err(|_| Refusal::DatabaseAway)??;
    Ok(response::json(StatusCode::OK, report_json(&report, errand.dry_run, &told_by).to_string()))
}

/// The body of a redrive. `ids` or `filter`, not both; an empty filter means all that were not redriven yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    ids: Option<Vec<Uuid>>,
    filter: Option<serde_json::Map<String, Value>>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// True unless it is said to be false: what cannot be taken back is never done by leaving something out.
    dry_run: Option<bool>,
}

/// What is to be done, and what its cursors are bound to: the choice, be it tried dry or not.
fn errand(body: &[u8]) -> Result<(Errand, String), Refusal> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            bad("body", &format!("{error}; it takes ids or filter, and limit, cursor, dry_run"))
        }
        _ => Refusal::NotJson { line: error.line(), column: error.column(), message: error.to_string() },
    })?;
    let (choice, told_by) = match (ask.ids, ask.filter) {
        (Some(mut ids), None) if (1..=LIMIT_MAX as usize).contains(&ids.len()) => {
            ids.sort_unstable();
            let told_by = ids.iter().map(|id| id.simple().to_string()).collect::<String>();
            (Choice::Ids(ids), told_by)
        }
        (Some(_), None) => return Err(bad("ids", "must be 1 to 1000 ids of dead letters")),
        (None, Some(members)) => {
            let parameters = Parameters::of(members, &FILTERS)?;
            (Choice::Filter(filter(&parameters)?), parameters.told())
        }
        _ => return Err(bad("body", "must name either `ids` or a `filter`; {\"filter\":{}} means all")),
    };
    let told_by = format!("redrive {told_by}");
    let default = if matches!(choice, Choice::Ids(_)) { LIMIT_MAX } else { LIMIT };
    let limit = ask.limit.unwrap_or(default);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad("limit", "must be a whole number from 1 to 1000"));
    }
    let after = ask.cursor.as_deref().map(|text| cursor::read(&told_by, text)).transpose()?;
    Ok((Errand { choice, after, limit, dry_run: ask.dry_run.unwrap_or(true) }, told_by))
}

/// A dead letter as answers show it, without its raw bytes.
pub(crate) fn letter_json(letter: &StoredLetter) -> Value {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let sha256 = |digest: Option<&[u8]>| digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok()).map(Digest);
    let redriven = letter.redriven_at.map(|at| json!({ "at": text(at), "outcome": letter.redriven_as }));
    json!({
        "id": letter.id,
        "received_at": text(letter.received_at),
        "reason": letter.reason,
        "code": letter.code,
        "detail": letter.detail,
        "violations": serde_json::from_str::<Value>(&letter.violations).unwrap_or_default(),
        "application": letter.application,
        "validator": sha256(letter.module.as_deref()),
        "event_id": letter.event_id,
        "session_id": letter.session_id,
        "category": letter.category,
        "name": letter.name,
        "kept": letter.kept,
        "raw_bytes": letter.raw_bytes,
        "raw_kept_bytes": letter.raw_kept_bytes,
        "raw_digest": sha256(letter.raw_digest.as_deref()),
        "redrivable": letter.unredrivable().is_none(),
        "redriven": redriven,
    })
}

/// The same with the bytes that are kept, for those who may read them: as text where they are UTF-8, else in base64. For
/// others it says what they lack.
pub(crate) fn whole_json(letter: &StoredLetter, raw: Option<&[u8]>) -> Value {
    let mut whole = letter_json(letter);
    whole["raw_needs_scope"] = if raw.is_some() { Value::Null } else { Scope::Raw.as_str().into() };
    let Some(raw) = raw else {
        (whole["raw_encoding"], whole["raw"], whole["last_words"]) = (Value::Null, Value::Null, Value::Null);
        return whole;
    };
    let (encoding, text) = match str::from_utf8(raw) {
        Ok(text) => ("utf8", text.to_owned()),
        Err(_) => ("base64", base64(raw)),
    };
    whole["raw_encoding"] = encoding.into();
    whole["raw"] = text.into();
    whole["last_words"] = letter.last_words.as_deref().into();
    whole
}

/// What came of an errand, as answers show it.
fn report_json(report: &Report, dry_run: bool, told_by: &str) -> Value {
    json!({
        "dry_run": dry_run,
        "stored": report.count(Ended::Stored),
        "duplicate": report.count(Ended::Duplicate),
        "rejected": report.count(Ended::Rejected),
        "quarantined": report.count(Ended::Quarantined),
        "skipped": report.count(Ended::Skipped),
        "results": report.results,
        "next": report.next.map(|place| cursor::write(told_by, &place)),
    })
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_as_rfc_4648_has_it() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfb]), "//77");
    }

    #[test]
    fn a_redrive_is_dry_unless_it_is_said_otherwise() {
        assert!(errand(br#"{"filter":{}}"#).expect("all").0.dry_run);
        let ids = format!("{{\"ids\":[\"{}\"],\"dry_run\":false}}", Uuid::now_v7());
        assert!(!errand(ids.as_bytes()).expect("one").0.dry_run);
        for body in [
            "{}",
            r#"{"ids":[]}"#,
            r#"{"ids":["x"]}"#,
            r#"{"filter":{},"ids":[]}"#,
            r#"{"filter":{"reason":"bad"}}"#,
            r#"{"filter":{"reason":1}}"#,
            r#"{"filter":{"category":""}}"#,
            r#"{"filter":{},"limit":0}"#,
            r#"{"filter":{},"cursor":"x"}"#,
            r#"{"filters":{}}"#,
        ] {
            assert!(matches!(errand(body.as_bytes()), Err(Refusal::BadParameter { .. })), "{body}");
        }
        assert!(matches!(errand(b"{"), Err(Refusal::NotJson { .. })));
    }
}
