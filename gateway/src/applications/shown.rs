//! An application as answers and the command show it: without digests of tokens, but with those of certificates, since
//! operators compare them.

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use serde_json::{Value, json};

use crate::store::{ApplicationRow, TokenFacts};
use crate::trust::Application;
use crate::trust::security::Kind;
use crate::trust::token::id_of;

/// An application in the form of an answer. `known` is the gateway's own copy, with the refusals that it has counted.
pub fn shown_row(row: &ApplicationRow, known: Option<&Application>) -> Value {
    let certificates: Vec<String> = row
        .certificate_digests
        .iter()
        .filter_map(|digest| digest[..].try_into().ok())
        .map(|digest| Digest(digest).to_string())
        .collect();
    let limit = row.rate_limit();
    let refused = known.map(|known| {
        let counts = Kind::ALL.map(|kind| (kind.as_str().to_owned(), Value::from(known.refused().get(kind))));
        Value::Object(counts.into_iter().filter(|(_, count)| *count != 0).collect())
    });
    let live = row.token_digests.iter().filter_map(|digest| Some((digest[..].try_into().ok()?, row.token(digest))));
    let live = live.filter(|(_, facts)| !facts.is_some_and(TokenFacts::is_expired));
    let tokens: Vec<Value> = live
        .map(|(digest, facts)| {
            json!({
                "id": id_of(Digest(digest)),
                "created_at": facts.and_then(|facts| facts.created_at).map(time),
                "expires_at": facts.and_then(|facts| facts.expires_at).map(time),
                "last_used_at": facts.and_then(|facts| facts.last_used_at).map(time),
            })
        })
        .collect();
    json!({
        "name": row.name,
        "state": row.state().as_str(),
        "active": row.active,
        "revoked_at": row.revoked_at.map(time),
        "note": row.note,
        "known_by": row.known_by,
        "tokens": tokens.len(),
        "token_details": tokens,
        "certificates": certificates,
        "networks": row.networks,
        "scopes": row.scopes,
        "events_per_second": limit.map(|limit| limit.events_per_second.get()),
        "burst_events": limit.map(|limit| limit.burst_events.get()),
        "event_types": row.event_types,
        "read_event_types": row.read_event_types,
        "read_applications": row.read_applications,
        "ship_event_types": row.ship_event_types,
        "created_at": time(row.created_at),
        "refused": refused,
    })
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
