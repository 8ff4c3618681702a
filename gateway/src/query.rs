//! Reads: rows to nested JSON, page by page. A cursor names the last row of a page by its key, so that paging costs the
//! same on every page and stays correct while rows arrive.

use hyper::StatusCode;
use uuid::Uuid;

use crate::gateway::Gateway;
use crate::response::{self, Refusal, Response};
use crate::store::{SessionCursor, StoredEvent};
use crate::verdict::Digest;

/// Events of a page, unless the caller asks for another number.
const LIMIT: u32 = 100;
/// Most events of a page.
const LIMIT_MAX: u32 = 1_000;

/// `GET /v1/sessions/{session_id}`: the events of a session in the order in which they occurred.
///
/// # Errors
///
/// [`Refusal::BadParameter`] names the parameter and what it may be; [`Refusal::DatabaseAway`].
pub async fn session(gateway: &Gateway, session_id: &str, query: Option<&str>) -> Result<Response, Refusal> {
    let session_id = Uuid::try_parse(session_id)
        .map_err(|_| bad("session_id", "must be a UUID, such as e2085be5-9137-4e4e-80b5-f1ffddc25423"))?;
    let mut limit = LIMIT;
    let mut after = None;
    for (key, value) in pairs(query) {
        match key {
            "limit" => {
                limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=LIMIT_MAX).contains(limit))
                    .ok_or_else(|| bad("limit", "must be a whole number from 1 to 1000"))?;
            }
            "cursor" => {
                after = Some(cursor(value).ok_or_else(|| bad("cursor", "must be the `next` of an earlier page"))?)
            }
            _ => return Err(bad(key, "is not known here; this path takes limit and cursor")),
        }
    }
    // One row more than asked for tells whether there is a next page.
    let mut events = gateway.store.session_page(session_id, after, limit + 1).await.map_err(|error| {
        tracing::warn!(%error, "a session could not be read");
        Refusal::DatabaseAway
    })?;
    let more = events.len() > limit as usize;
    events.truncate(limit as usize);
    let next = if more { events.last().map(cursor_of) } else { None };
    let mut body = format!("{{\"session_id\":\"{session_id}\",\"events\":[");
    for (place, event) in events.iter().enumerate() {
        if place > 0 {
            body.push(',');
        }
        write_event(&mut body, event);
    }
    body.push_str("],\"next\":");
    body.push_str(&next.map_or_else(|| "null".to_owned(), |next| format!("\"{next}\"")));
    body.push('}');
    Ok(response::json(StatusCode::OK, body))
}

fn bad(name: &str, message: &str) -> Refusal {
    Refusal::BadParameter { name: name.chars().take(100).collect(), message: message.to_owned().into() }
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// `data` is spliced in as Postgres wrote it: parsing it here could only lose digits.
fn write_event(body: &mut String, event: &StoredEvent) {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let module = event.module.as_deref().and_then(|digest| <[u8; 32]>::try_from(digest).ok()).map(Digest);
    let validator = module.map_or_else(|| "null".to_owned(), |digest| format!("\"{digest}\""));
    body.push_str(&format!(
        "{{\"id\":\"{}\",\"session_id\":\"{}\",\"category\":{},\"name\":{},\"timestamp\":\"{}\",\"received_at\":\"{}\",\"application\":{},\"validator\":{},\"data\":{}}}",
        event.id,
        event.session_id,
        text(&event.category),
        text(&event.name),
        time(event.timestamp_us),
        time(event.received_at_us),
        text(&event.application),
        validator,
        event.data,
    ));
}

fn time(us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(us)
        .map_or_else(|| us.to_string(), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

fn cursor_of(event: &StoredEvent) -> String {
    format!("{:016x}{:016x}{}", event.timestamp_us, event.received_at_us, event.id.simple())
}

fn cursor(text: &str) -> Option<SessionCursor> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some(SessionCursor {
        timestamp_us: u64::from_str_radix(&text[..16], 16).ok()?.cast_signed(),
        received_at_us: u64::from_str_radix(&text[16..32], 16).ok()?.cast_signed(),
        id: Uuid::try_parse(&text[32..]).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_the_row_it_was_made_of() {
        let event = StoredEvent {
            id: Uuid::now_v7(),
            session_id: Uuid::now_v7(),
            category: "a".to_owned(),
            name: "b".to_owned(),
            timestamp_us: -5,
            received_at_us: 7,
            application: "c".to_owned(),
            module: None,
            data: "{}".to_owned(),
        };
        let read = cursor(&cursor_of(&event)).expect("a cursor");
        assert_eq!((read.timestamp_us, read.received_at_us, read.id), (-5, 7, event.id));
        assert!(cursor("0123").is_none());
    }
}
