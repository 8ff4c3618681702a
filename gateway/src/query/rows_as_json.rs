//! Writes rows as JSON into the answer. `data` is copied as Postgres wrote it, since parsing it could lose digits.

use std::io::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::event::KeptAs;
use eye_event::verdict::Digest;
use serde_json::{Value, json};

use crate::base64::base64;
use crate::jobs::Progress;
use crate::store::{AuditRow, CountRow, EventTypeRow, JobRow, SessionEdge, SessionRow, StoredEvent, StoredLetter};
use crate::traceparent::Traceparent;
use crate::trust::Scope;

/// The reason why a write to a vector succeeds.
const WRITES: &str = "a vector takes everything";

/// A category, with those of its names that are on the page.
#[derive(Debug)]
pub(super) struct Category {
    category: String,
    stored: i64,
    names: Vec<EventTypeRow>,
}

/// Groups event types by category. They come in that order.
pub(super) fn categories(rows: Vec<EventTypeRow>) -> Vec<Category> {
    let mut gathered: Vec<Category> = Vec::new();
    for row in rows {
        match gathered.last_mut() {
            Some(last) if last.category == row.category => last.names.push(row),
            _ => gathered.push(Category {
                category: row.category.clone(),
                stored: row.category_stored,
                names: vec![row],
            }),
        }
    }
    gathered
}

pub(super) fn event(out: &mut Vec<u8>, event: &StoredEvent) {
    let module = event.module.as_deref().and_then(|digest| <[u8; 32]>::try_from(digest).ok()).map(Digest);
    let validator = module.map_or_else(|| "null".to_owned(), |digest| format!("\"{digest}\""));
    write!(
        out,
        "{{\"id\":\"{}\",\"session_id\":\"{}\",\"category\":{},\"name\":{},\"timestamp\":\"{}\",\"received_at\":\"{}\",\
         \"application\":{},\"validator\":{},\"data\":{}}}",
        event.id,
        event.session_id,
        text(&event.category),
        text(&event.name),
        time(event.timestamp_us),
        time(event.received_at_us),
        text(&event.application),
        validator,
        event.data,
    )
    .expect(WRITES);
}

pub(super) fn session(out: &mut Vec<u8>, session: &SessionRow) {
    let applications: Vec<String> = session.applications.iter().map(|name| text(name)).collect();
    write!(
        out,
        "{{\"session_id\":\"{}\",\"first\":{},\"last\":{},\"count\":{},\"count_is_exact\":{},\"applications\":[{}]}}",
        session.session_id,
        edge(&session.first),
        edge(&session.last),
        session.count,
        session.count_is_exact,
        applications.join(","),
    )
    .expect(WRITES);
}

fn edge(edge: &SessionEdge) -> String {
    format!(
        "{{\"id\":\"{}\",\"category\":{},\"name\":{},\"timestamp\":\"{}\"}}",
        edge.id,
        text(&edge.category),
        text(&edge.name),
        time(edge.timestamp_us)
    )
}

pub(super) fn category(out: &mut Vec<u8>, category: &Category) {
    let names: Vec<String> = category
        .names
        .iter()
        .map(|row| {
            format!(
                "{{\"name\":{},\"count\":{},\"rejected\":{},\"quarantined\":{}}}",
                text(&row.name),
                row.stored,
                row.rejected,
                row.quarantined
            )
        })
        .collect();
    write!(
        out,
        "{{\"category\":{},\"count\":{},\"names\":[{}]}}",
        text(&category.category),
        category.stored,
        names.join(",")
    )
    .expect(WRITES);
}

pub(super) fn count(out: &mut Vec<u8>, row: &CountRow) {
    let none = || "null".to_owned();
    let (category, name) =
        row.event_type.as_ref().map_or_else(|| (none(), none()), |(category, name)| (text(category), text(name)));
    write!(
        out,
        "{{\"start\":\"{}\",\"application\":{},\"category\":{category},\"name\":{name},\"outcome\":\"{}\",\"count\":{}}}",
        time(row.start_us),
        text(&row.application),
        row.outcome,
        row.count
    )
    .expect(WRITES);
}

pub(super) fn dead_letter(out: &mut Vec<u8>, letter: &StoredLetter) {
    write!(out, "{}", letter_json(letter)).expect(WRITES);
}

pub(super) fn audit(out: &mut Vec<u8>, row: &AuditRow) {
    let AuditRow { id, at, action, subject, actor, name, token_id, host, peer, forwarded, request_id, details } = row;
    let entry = json!({
        "id": id,
        "at": at.to_rfc3339_opts(SecondsFormat::Micros, true),
        "action": action,
        "subject": subject,
        "actor": {"kind": actor, "name": name, "token_id": token_id, "host": host},
        "peer": peer,
        "forwarded": forwarded,
        "request_id": request_id,
        "details": serde_json::from_str::<Value>(details).unwrap_or_default(),
    });
    write!(out, "{entry}").expect(WRITES);
}

/// Writes a job.
pub(super) fn job(out: &mut Vec<u8>, row: &JobRow) {
    write!(out, "{}", job_json(row)).expect(WRITES);
}

/// A job in the form of an answer.
pub(crate) fn job_json(row: &JobRow) -> Value {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    let progress: Progress = serde_json::from_str(&row.progress).unwrap_or_default();
    json!({
        "id": row.id,
        "kind": row.kind,
        "state": row.state,
        "dry_run": row.dry_run,
        "request": value(&row.request),
        "requested_by": {"kind": row.actor, "name": row.name, "token_id": row.token_id, "host": row.host},
        "peer": row.peer,
        "forwarded": row.forwarded,
        "request_id": row.request_id,
        "requested_at": text(row.requested_at),
        "started_at": row.started_at.map(text),
        "ended_at": row.ended_at.map(text),
        "gateway": row.runner_name,
        "cancel_requested": row.cancel_requested,
        "progress": progress,
        "result": row.result.as_deref().map(value),
        "problem": row.problem,
    })
}

/// The members `from` and `to`, each with its comma.
pub(super) fn range(from_us: Option<i64>, to_us: Option<i64>) -> String {
    let word = |us: Option<i64>| us.map_or_else(|| "null".to_owned(), |us| format!("\"{}\"", time(us)));
    format!("\"from\":{},\"to\":{},", word(from_us), word(to_us))
}

/// A text as a JSON string.
pub(super) fn text(text: &str) -> String {
    Value::from(text).to_string()
}

fn time(us: i64) -> String {
    DateTime::from_timestamp_micros(us)
        .map_or_else(|| us.to_string(), |time| time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// A dead letter in the form of an answer, without its raw bytes.
pub(crate) fn letter_json(letter: &StoredLetter) -> Value {
    let text = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let sha256 = |digest: Option<&[u8]>| digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok()).map(Digest);
    let trace = letter.traceparent.as_deref().and_then(|trace| Traceparent::parse(trace.as_bytes()));
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
        "request_id": letter.request_id,
        "trace_id": trace.map(|trace| trace.trace_id().to_string()),
        "traceparent": letter.traceparent,
    })
}

/// The same with the kept bytes for a caller who may read them: as text if they are UTF-8, otherwise in base64. For
/// other callers it names the scope that they lack.
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
    // An older release may have rewritten the letter and left the last words.
    let is_whole = letter.kept == KeptAs::Whole.as_str();
    whole["last_words"] = letter.last_words.as_deref().filter(|_| is_whole).into();
    whole
}
