//! Modules, gateways and generations as answers show them.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Slot, TypeReport};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::store::{AskedRow, GatewayRow, GenerationRow, NewSlot, SlotRow, VersionRow};
use crate::trust::visible::Visible;

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn hex(digest: &[u8]) -> Option<String> {
    digest.try_into().ok().map(|digest| Digest(digest).to_string())
}

/// The event types that an application may ship, for a message.
pub(super) fn patterns(ships: &Visible) -> String {
    let each = ships.event_types().into_iter().flat_map(|types| types.each());
    let listed: Vec<String> = each.map(|(category, name)| format!("{category}/{}", name.unwrap_or("*"))).collect();
    if listed.is_empty() { "nothing".to_owned() } else { listed.join(", ") }
}

/// All modules, each with who shipped it, if that is known.
pub(super) fn validators(reports: &[TypeReport], shippers: &[(String, String)]) -> Vec<Value> {
    let shippers: HashMap<&str, &str> = shippers.iter().map(|(slot, by)| (slot.as_str(), by.as_str())).collect();
    let each = reports.iter().map(|report| {
        let mut body = serde_json::to_value(report).unwrap_or_default();
        body["by"] = shippers.get(report.event_type.as_str()).copied().into();
        body
    });
    each.collect()
}

/// One module. With modules from the database its versions have who shipped them.
pub(super) fn validator(slot: &Slot, report: Option<TypeReport>, versions: &[VersionRow], from: ModulesFrom) -> Value {
    let digest = report.as_ref().and_then(|report| report.digest);
    let mut body = report.map_or_else(
        || json!({"event_type": slot.to_string(), "digest": Value::Null}),
        |report| serde_json::to_value(report).unwrap_or_default(),
    );
    body["modules_from"] = from.as_str().into();
    if from == ModulesFrom::Database {
        let serves = versions.iter().find(|version| digest.is_some_and(|digest| version.digest == digest.0));
        body["shipped"] = serves.map(version).unwrap_or_default();
        body["versions"] = versions.iter().map(version).collect();
    }
    body
}

fn version(row: &VersionRow) -> Value {
    json!({
        "digest": hex(&row.digest),
        "at": row.served_at.map(time),
        "shipped_at": time(row.shipped_at),
        "by": row.shipped_by,
        "from": row.shipped_from,
        "commit": row.commit_id,
        "engine": row.engine,
        "bytes": row.bytes,
    })
}

/// A preparation of an event type.
pub(super) fn preparation(row: &AskedRow) -> Value {
    json!({
        "id": row.id,
        "cause": row.cause,
        "at": time(row.asked_at),
        "by": row.asked_by,
        "digest": row.digest.as_deref().and_then(hex),
        "state": row.state,
        "generation": row.generation,
        "problem": row.problem.as_ref().map(|problem| &problem.0),
        "waits_for": row.waits_for.0,
    })
}

/// All gateways, and the current generation. `own` answers.
pub(super) fn gateways(rows: &[GatewayRow], generation: u64, own: Uuid) -> Value {
    let each = rows.iter().map(|row| {
        json!({
            "id": row.id,
            "name": row.name,
            "version": row.version,
            "listen": row.listen,
            "modules_from": row.modules_from,
            "since": time(row.since),
            "seen": time(row.seen),
            "live": row.is_live,
            "generation": row.generation,
            "preparing": row.preparing,
            "duties": row.duties,
            "problems": row.problems.0,
            "answers": row.id == own,
        })
    });
    json!({"generation": generation, "gateways": each.collect::<Vec<_>>()})
}

/// A page of generations.
pub(super) fn generations(rows: &[GenerationRow], limit: u32) -> Value {
    let each = rows.iter().map(|row| {
        json!({
            "number": row.number,
            "at": time(row.made_at),
            "by": row.made_by,
            "from": row.made_from,
            "cause": row.cause,
            "forced": row.forced,
            "changes": row.changes.0,
        })
    });
    let next = rows.last().filter(|_| rows.len() >= limit as usize).map(|row| row.number);
    json!({"generations": each.collect::<Vec<_>>(), "next": next.filter(|number| *number > 1)})
}

/// A slot of a generation.
pub(super) fn slot(row: &SlotRow) -> Value {
    json!({
        "event_type": row.event_type,
        "digest": row.digest.as_deref().and_then(hex),
        "settings": row.settings,
    })
}

/// A slot that a step back changes.
pub(super) fn change(slot: &NewSlot) -> Value {
    json!({
        "event_type": slot.event_type,
        "digest": slot.digest.map(|digest| digest.to_string()),
        "settings": slot.settings,
        "replaces": slot.replaces.map(|digest| digest.to_string()),
    })
}
