//! Dead letters over HTTP: pages by filter, one with its raw bytes, and the order to judge a choice of them again. What
//! redriving is, is `redrive.rs`'s affair; rows are the store's.

use std::borrow::Cow;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::refusal;
use crate::body;
use crate::gateway::Gateway;
use crate::redrive::{Ended, Errand, Redrive, Report};
use crate::response::{self, Refusal, Response};
use crate::share::Held;
use crate::store::{Choice, LetterCursor, LetterFilter, StoredLetter};
use crate::trust::Application;
use crate::verdict::Digest;

/// Letters of a page or of an errand, unless the caller asks for another number.
const LIMIT: u32 = 100;
/// Most letters of a page or of an errand.
const LIMIT_MAX: u32 = 1_000;

/// `GET /v1/dead-letters`: the latest first.
///
/// # Errors
///
/// [`Refusal::BadParameter`] names the parameter and what it may be; [`Refusal::DatabaseAway`].
pub async fn list(gateway: &Gateway, query: Option<&str>) -> Result<Response, Refusal> {
    let (mut filter, mut limit, mut after) = (LetterFilter::default(), LIMIT, None);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode_str(value).decode_utf8().map_err(|_| bad(key, "must be UTF-8"))?;
        match key {
            "limit" => limit = number(&value)?,
            "cursor" => after = Some(read_cursor(&value)?),
            _ => narrow(&mut filter, key, value.into_owned())?,
        }
    }
    let page = gateway.store.dead_letters_page(&filter, after, limit).await.map_err(refusal)?;
    let next = page.letters.last().filter(|_| page.more).map(|letter| cursor_text(letter.cursor()));
    let letters: Vec<Value> = page.letters.iter().map(letter_json).collect();
    Ok(response::json(StatusCode::OK, json!({ "dead_letters": letters, "next": next }).to_string()))
}

/// `GET /v1/dead-letters/{id}`: one, with what is kept of its raw bytes.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::NotFound`], [`Refusal::DatabaseAway`].
pub async fn show(gateway: &Gateway, id: &str) -> Result<Response, Refusal> {
    let id = Uuid::try_parse(id).map_err(|_| bad("id", "must be the UUID of a dead letter, as the list shows it"))?;
    let (letter, raw) = gateway.store.dead_letter(id).await.map_err(refusal)?.ok_or(Refusal::NotFound)?;
    Ok(response::json(StatusCode::OK, whole_json(&letter, &raw).to_string()))
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
    let errand = errand(&received.bytes)?;
    // One at a time: each holds raw bytes in memory that no budget of bodies knows of.
    let Ok(_turn) = gateway.redriving.try_acquire() else { return Err(Refusal::Overloaded) };
    let answer = Duration::from_millis(gateway.config.answer_ms);
    let redrive = Redrive {
        store: &gateway.store,
        rules: &gateway.rules,
        clock: &gateway.clock,
        validators: &gateway.validators,
        events: &gateway.events,
        // The rest is for what was begun before.
        time: answer / 2,
    };
    let report = tokio::time::timeout(answer, redrive.run(&errand)).await.map_err(|_| Refusal::DatabaseAway)??;
    Ok(response::json(StatusCode::OK, report_json(&report, errand.dry_run).to_string()))
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

fn errand(body: &[u8]) -> Result<Errand, Refusal> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            bad("body", &format!("{error}; it takes ids or filter, and limit, cursor, dry_run"))
        }
        _ => Refusal::NotJson { line: error.line(), column: error.column(), message: error.to_string() },
    })?;
    let choice = match (ask.ids, ask.filter) {
        (Some(ids), None) if (1..=LIMIT_MAX as usize).contains(&ids.len()) => Choice::Ids(ids),
        (Some(_), None) => return Err(bad("ids", "must be 1 to 1000 ids of dead letters")),
        (None, Some(members)) => {
            let mut filter = LetterFilter::default();
            for (key, value) in members {
                let Value::String(value) = value else { return Err(bad(&key, "must be a text")) };
                narrow(&mut filter, &key, value)?;
            }
            Choice::Filter(filter)
        }
        _ => return Err(bad("body", "must name either `ids` or a `filter`; {\"filter\":{}} means all")),
    };
    let default = if matches!(choice, Choice::Ids(_)) { LIMIT_MAX } else { LIMIT };
    let limit = ask.limit.unwrap_or(default);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad("limit", "must be a whole number from 1 to 1000"));
    }
    let after = ask.cursor.as_deref().map(read_cursor).transpose()?;
    Ok(Errand { choice, after, limit, dry_run: ask.dry_run.unwrap_or(true) })
}

fn narrow(filter: &mut LetterFilter, key: &str, value: String) -> Result<(), Refusal> {
    if value.contains('\0') {
        return Err(bad(key, "must not hold a NUL"));
    }
    match key {
        "reason" if matches!(&*value, "rejected" | "quarantined") => filter.reason = Some(value),
        "reason" => return Err(bad(key, "must be rejected or quarantined")),
        "code" => filter.code = Some(value),
        "application" => filter.application = Some(value),
        "category" => filter.category = Some(value),
        "name" => filter.name = Some(value),
        "from" => filter.from = Some(time(key, &value)?),
        "to" => filter.to = Some(time(key, &value)?),
        _ => {
            let known =
                "is not known here; known are reason, code, application, category, name, from, to, limit, cursor";
            return Err(bad(key, known));
        }
    }
    Ok(())
}

fn bad(name: &str, message: &str) -> Refusal {
    Refusal::BadParameter { name: name.chars().take(100).collect(), message: Cow::Owned(message.to_owned()) }
}

fn number(value: &str) -> Result<u32, Refusal> {
    let limit = value.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| bad("limit", "must be a whole number from 1 to 1000"))
}

fn time(key: &str, value: &str) -> Result<DateTime<Utc>, Refusal> {
    let time = DateTime::parse_from_rfc3339(value).map(|time| time.with_timezone(&Utc));
    time.map_err(|_| bad(key, "must be a time such as 2026-11-23T09:15:27Z"))
}

fn cursor_text(cursor: LetterCursor) -> String {
    format!("{:016x}{}", cursor.received_at.timestamp_micros(), cursor.id.simple())
}

fn read_cursor(text: &str) -> Result<LetterCursor, Refusal> {
    let read = || {
        let (time, id) = text.split_at_checked(16).filter(|_| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        let us = u64::from_str_radix(time, 16).ok()?.cast_signed();
        // What Postgres cannot hold was never in a cursor.
        let received_at =
            DateTime::from_timestamp_micros(us).filter(|time| (0..=9_999).contains(&chrono::Datelike::year(time)))?;
        Some(LetterCursor { received_at, id: Uuid::try_parse(id).ok()? })
    };
    read().ok_or_else(|| bad("cursor", "must be the `next` of an earlier answer"))
}

/// A dead letter as answers show it, without its raw bytes.
pub(crate) fn letter_json(letter: &StoredLetter) -> Value {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let digest = letter.module.as_deref().and_then(|digest| <[u8; 32]>::try_from(digest).ok()).map(Digest);
    let redriven = letter.redriven_at.map(|at| json!({ "at": text(at), "outcome": letter.redriven_as }));
    json!({
        "id": letter.id,
        "received_at": text(letter.received_at),
        "reason": letter.reason,
        "code": letter.code,
        "detail": letter.detail,
        "violations": serde_json::from_str::<Value>(&letter.violations).unwrap_or_default(),
        "application": letter.application,
        "validator": digest,
        "event_id": letter.event_id,
        "session_id": letter.session_id,
        "category": letter.category,
        "name": letter.name,
        "raw_bytes": letter.raw_bytes,
        "raw_kept_bytes": letter.raw_kept_bytes,
        "redriven": redriven,
    })
}

/// The same with its raw bytes: as text where they are UTF-8, else in base64.
pub(crate) fn whole_json(letter: &StoredLetter, raw: &[u8]) -> Value {
    let mut whole = letter_json(letter);
    let (encoding, text) = match str::from_utf8(raw) {
        Ok(text) => ("utf8", text.to_owned()),
        Err(_) => ("base64", base64(raw)),
    };
    whole["raw_encoding"] = encoding.into();
    whole["raw"] = text.into();
    whole
}

/// What came of an errand, as answers show it.
pub(crate) fn report_json(report: &Report, dry_run: bool) -> Value {
    json!({
        "dry_run": dry_run,
        "stored": report.count(Ended::Stored),
        "duplicate": report.count(Ended::Duplicate),
        "rejected": report.count(Ended::Rejected),
        "quarantined": report.count(Ended::Quarantined),
        "skipped": report.count(Ended::Skipped),
        "results": report.results,
        "next": report.next.map(cursor_text),
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
    fn a_cursor_names_the_letter_it_was_made_of() {
        let cursor =
            LetterCursor { received_at: "2026-11-23T09:15:27.000001Z".parse().expect("a time"), id: Uuid::now_v7() };
        assert_eq!(read_cursor(&cursor_text(cursor)), Ok(cursor));
        for text in ["", "12", &"7f".repeat(24), "x"] {
            assert!(read_cursor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_redrive_is_dry_unless_it_is_said_otherwise() {
        assert!(errand(br#"{"filter":{}}"#).expect("all").dry_run);
        let ids = format!("{{\"ids\":[\"{}\"],\"dry_run\":false}}", Uuid::now_v7());
        assert!(!errand(ids.as_bytes()).expect("one").dry_run);
        for body in [
            "{}",
            r#"{"ids":[]}"#,
            r#"{"ids":["x"]}"#,
            r#"{"filter":{},"ids":[]}"#,
            r#"{"filter":{"reason":"bad"}}"#,
            r#"{"filter":{"reason":1}}"#,
            r#"{"filter":{},"limit":0}"#,
            r#"{"filter":{},"cursor":"x"}"#,
            r#"{"filters":{}}"#,
        ] {
            assert!(matches!(errand(body.as_bytes()), Err(Refusal::BadParameter { .. })), "{body}");
        }
        assert!(matches!(errand(b"{"), Err(Refusal::NotJson { .. })));
    }
}
