//! Dead letters over HTTP: pages by filter, a single letter with its raw bytes, and redriving. `redrive.rs` judges the
//! letters, and the store reads the rows.

use std::sync::Arc;

use chrono::DateTime;
use eye_event::outcome::OutcomeKind;
use hyper::header::ACCEPT_ENCODING;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::list::{List, Listing};
use super::rows_as_json::whole_json;
use super::{Query, Redriving, cursor, header, send};
use crate::audit::{Actor, Entry};
use crate::body;
use crate::parameters::{Parameters, bad, id};
use crate::redrive::{LetterOutcome, Redrive, RedriveRequest, Report};
use crate::response::{self, Encoding, Refusal, Response, of_store};
use crate::server::Incoming;
use crate::share::Held;
use crate::store::{Choice, LetterFilter};
use crate::trust::visible::Visible;
use crate::trust::{Application, Scope};

/// Letters of a page or a redrive, unless the caller asks for another number.
const LIMIT: u32 = 100;
/// Most letters of a page or a redrive.
const LIMIT_MAX: u32 = 1_000;

/// The parameters of a filter for dead letters.
pub(super) const FILTERS: [&str; 9] =
    ["reason", "code", "violation", "application", "category", "name", "validator", "from", "to"];

/// `GET /v1/dead-letters`: a page, the latest letters first.
pub(super) fn listing(visible: &Arc<Visible>, query: Option<&str>) -> Result<Listing, Refusal> {
    let known: Vec<&'static str> = FILTERS.into_iter().chain(["limit", "cursor"]).collect();
    let parameters = Parameters::read(query, &known)?;
    let list = List::DeadLetters(filter(&parameters)?);
    Ok(Listing::new(visible, list, parameters, String::new(), "dead_letters"))
}

pub(super) fn filter(parameters: &Parameters) -> Result<LetterFilter, Refusal> {
    let reasons = ["rejected", "quarantined"].map(|reason| (reason, reason));
    let reason = parameters.text("reason").map(|_| parameters.choice("reason", &reasons)).transpose()?;
    // A refused event may break the rules for words, so only NUL is rejected here.
    let text = |name| match parameters.text(name) {
        Some(text) if text.contains('\0') => Err(bad(name, "must not hold a NUL")),
        text => Ok(text.map(str::to_owned)),
    };
    let digest = |text: &str| text.parse().map_err(|_| bad("validator", "must be a digest of 64 hexadecimal digits"));
    let (from_us, to_us) = parameters.range()?;
    Ok(LetterFilter {
        reason: reason.map(str::to_owned),
        code: text("code")?,
        violation: text("violation")?,
        application: text("application")?,
        category: text("category")?,
        name: text("name")?,
        validator: parameters.text("validator").map(digest).transpose()?,
        from: from_us.and_then(DateTime::from_timestamp_micros),
        to: to_us.and_then(DateTime::from_timestamp_micros),
    })
}

/// `GET /v1/dead-letters/{id}`: one letter. A caller with the scope `raw` gets its kept bytes too.
///
/// # Errors
///
/// [`Refusal::BadParameter`], [`Refusal::NotFound`], and the refusals of a read.
pub async fn show(
    query: &Query,
    caller: &Application,
    headers: &HeaderMap,
    letter_id: &str,
    parameters: Option<&str>,
) -> Result<Response, Refusal> {
    let letter_id = id("id", letter_id)?;
    Parameters::read(parameters, &[])?;
    let turn = query.turns.take(caller.reads_share()).await?;
    let found = query.store.dead_letter(caller.visible(), letter_id).await.map_err(of_store)?;
    let (letter, raw) = found.ok_or(Refusal::NotFound)?;
    drop(turn);
    let encoding = Encoding::accepted(&header(headers, &ACCEPT_ENCODING));
    let raw = Some(&raw[..]).filter(|_| caller.has(Scope::Raw));
    send(whole_json(&letter, raw).to_string().into_bytes(), encoding).await
}

/// `POST /v1/dead-letters/redrive`: judges the chosen letters again.
///
/// # Errors
///
/// The refusals of a body, [`Refusal::BadParameter`], [`Refusal::NotAllowed`] if it stores and the caller is no
/// administrator, and those of [`Redrive::run`].
pub async fn redrive(
    query: &Query,
    caller: &Application,
    actor: &Actor,
    request: Request<Incoming>,
) -> Result<Response, Refusal> {
    let Redriving { judges, events, body_limits, in_flight, answer, turn } = &query.redriving;
    let (head, body) = request.into_parts();
    body::must_be_json(&head.headers)?;
    let received = body::read(&head.headers, body, body_limits, Held::none(in_flight, caller.share())).await?;
    let (request, told_by) = redrive_request(&received.bytes, |dry_run| match caller.ships() {
        _ if dry_run || caller.has(Scope::Admin) => Ok(caller.visible()),
        Some(ships) => Ok(ships),
        None => caller.allow(Scope::Admin).map(|()| caller.visible()),
    })?;
    // One at a time, since a redrive holds raw bytes in memory that no budget of bodies counts.
    let Ok(_turn) = turn.try_acquire() else { return Err(Refusal::Overloaded) };
    let work = async {
        let entry = (!request.dry_run).then(|| request.entry(actor));
        query.store.audit_write(entry.as_slice()).await.map_err(of_store)?;
        entry.iter().for_each(Entry::log);
        // The other half of the time is for letters that it has begun.
        let (time, entry) = (*answer / 2, entry.map(|entry| entry.id));
        Redrive { judges, clock: &query.clock, events, time, entry }.run(&request).await
    };
    let report = tokio::time::timeout(*answer, work).await.map_err(|_| Refusal::DatabaseAway)??;
    Ok(response::json(StatusCode::OK, report_json(&report, &request, &told_by)?.to_string()))
}

/// The body of a redrive. It has either `ids` or `filter`. An empty filter selects all letters that were not redriven.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    ids: Option<Vec<Uuid>>,
    filter: Option<Map<String, Value>>,
    limit: Option<u32>,
    cursor: Option<String>,
    /// True by default, so that a missing member causes no change that cannot be undone.
    dry_run: Option<bool>,
}

/// The chosen letters, and a text that identifies the choice.
fn chosen(ids: Option<Vec<Uuid>>, members: Option<Map<String, Value>>) -> Result<(Choice, String), Refusal> {
    match (ids, members) {
        (Some(mut ids), None) if (1..=LIMIT_MAX as usize).contains(&ids.len()) => {
            ids.sort_unstable();
            let told_by = ids.iter().map(|id| id.simple().to_string()).collect::<String>();
            Ok((Choice::Ids(ids), told_by))
        }
        (Some(_), None) => Err(bad("ids", "must be 1 to 1000 ids of dead letters")),
        (None, Some(members)) => {
            let parameters = Parameters::of(members, &FILTERS)?;
            Ok((Choice::Filter(filter(&parameters)?), parameters.told()))
        }
        _ => Err(bad("body", "must name either `ids` or a `filter`; {\"filter\":{}} means all")),
    }
}

/// The letters that a job is to redrive, from the members of its request.
pub(super) fn job_choice(members: Map<String, Value>) -> Result<Choice, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Chosen {
        ids: Option<Vec<Uuid>>,
        filter: Option<Map<String, Value>>,
    }
    let Chosen { ids, filter } = serde_json::from_value(Value::Object(members))
        .map_err(|error| bad("body", &format!("{error}; it takes kind, dry_run, and ids or filter")))?;
    Ok(chosen(ids, filter)?.0)
}

/// Parses the body. `visible_for` tells which letters a dry run may see, or one that stores. The text identifies the
/// choice, for its cursors; a dry run has the same.
fn redrive_request<'caller>(
    body: &[u8],
    visible_for: impl FnOnce(bool) -> Result<&'caller Arc<Visible>, Refusal>,
) -> Result<(RedriveRequest, String), Refusal> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            bad("body", &format!("{error}; it takes ids or filter, and limit, cursor, dry_run"))
        }
        _ => Refusal::NotJson { line: error.line(), column: error.column(), message: error.to_string() },
    })?;
    let (choice, told_by) = chosen(ask.ids, ask.filter)?;
    let told_by = format!("redrive {told_by}");
    let default = if matches!(choice, Choice::Ids(_)) { LIMIT_MAX } else { LIMIT };
    let limit = ask.limit.unwrap_or(default);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(bad("limit", "must be a whole number from 1 to 1000"));
    }
    let dry_run = ask.dry_run.unwrap_or(true);
    let visible = Arc::clone(visible_for(dry_run)?);
    let after = ask.cursor.as_deref().map(|text| cursor::read(&told_by, text, &visible)).transpose()?;
    Ok((RedriveRequest { visible, choice, after, limit, dry_run }, told_by))
}

/// The answer to a redrive.
fn report_json(report: &Report, request: &RedriveRequest, told_by: &str) -> Result<Value, Refusal> {
    let next = report.next.map(|place| cursor::write(told_by, &place, &request.visible)).transpose()?;
    Ok(json!({
        "dry_run": request.dry_run,
        "stored": report.count(OutcomeKind::Stored.into()),
        "duplicate": report.count(OutcomeKind::Duplicate.into()),
        "rejected": report.count(OutcomeKind::Rejected.into()),
        "quarantined": report.count(OutcomeKind::Quarantined.into()),
        "skipped": report.count(LetterOutcome::Skipped),
        "results": report.results,
        "next": next,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redrive_request(body: &[u8]) -> Result<(RedriveRequest, String), Refusal> {
        let all = Arc::default();
        super::redrive_request(body, |_| Ok(&all))
    }

    #[test]
    fn a_redrive_is_dry_unless_it_is_said_otherwise() {
        assert!(redrive_request(br#"{"filter":{}}"#).expect("all").0.dry_run);
        let ids = format!("{{\"ids\":[\"{}\"],\"dry_run\":false}}", Uuid::now_v7());
        assert!(!redrive_request(ids.as_bytes()).expect("one").0.dry_run);
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
            assert!(matches!(redrive_request(body.as_bytes()), Err(Refusal::BadParameter { .. })), "{body}");
        }
        assert!(matches!(redrive_request(b"{"), Err(Refusal::NotJson { .. })));
    }
}
