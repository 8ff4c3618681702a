//! Modules, gateways and generations as answers show them.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, SecondsFormat, Utc};
use eye_event::verdict::Digest;
use eye_judge::{CandidateReport, CandidateTrial, Mode, ModulesFrom, Share, Slot, TypeReport};
use serde_json::{Value, json};
use uuid::Uuid;

use super::terms::{STEP_COMPARED_MIN, Terms};
use crate::store::{
    AskedRow, CandidateRow, GatewayRow, GenerationRow, NewSlot, Pairs, PairsRow, SlotRow, TakenBackRow, VersionRow,
};
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

/// All modules, each with who shipped it, if that is known, and with its candidate in short.
pub(super) fn validators(
    reports: &[TypeReport],
    shippers: &[(String, String)],
    candidates: &BTreeMap<String, Value>,
) -> Vec<Value> {
    let shippers: HashMap<&str, &str> = shippers.iter().map(|(slot, by)| (slot.as_str(), by.as_str())).collect();
    let each = reports.iter().map(|report| {
        let mut body = serde_json::to_value(report).unwrap_or_default();
        body["by"] = shippers.get(report.event_type.as_str()).copied().into();
        body["candidate"] = candidates.get(&report.event_type).cloned().unwrap_or_default();
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

/// How a candidate of this gateway is tried.
pub(super) fn terms(trial: CandidateTrial) -> Terms {
    match trial {
        CandidateTrial::Canary(share) => Terms { mode: Mode::Canary, share, auto: None },
        CandidateTrial::Shadow | CandidateTrial::Replacement => {
            Terms { mode: Mode::Shadow, share: Share::CANARY, auto: None }
        }
    }
}

/// A candidate in short, as this gateway tries it.
pub(super) fn candidate_in_short(report: &CandidateReport) -> Value {
    let terms = terms(report.trial);
    json!({
        "digest": report.digest.to_string(),
        "against": report.against.to_string(),
        "mode": terms.mode.as_str(),
        "percent": terms.percent(),
    })
}

/// A candidate, with what it says beside the module that serves: the pairs of the two modules, since it is tried in this way.
pub(super) fn candidate(
    slot: &Slot,
    (digest, against): (Digest, Option<Digest>),
    terms: &Terms,
    (guard, expects_refusals): (bool, bool),
    row: Option<&CandidateRow>,
    pairs: &[PairsRow],
) -> Value {
    let is_of_it = |one: &&PairsRow| is_of(one, terms) && against.is_some_and(|live| one.against == live.0);
    let (mut counts, mut samples) = (Pairs::default(), Vec::new());
    let mut applications: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for one in pairs.iter().filter(is_of_it) {
        counts.add(&one.counts.0);
        samples.extend(one.samples.0.as_array().into_iter().flatten().cloned());
        for (name, pairs) in one.applications.0.as_object().into_iter().flatten() {
            let own = applications.entry(name).or_default();
            own[0] += pairs["compared"].as_u64().unwrap_or_default();
            own[1] += pairs["would_refuse"].as_u64().unwrap_or_default();
        }
    }
    let applications: Vec<Value> = applications
        .into_iter()
        .map(|(name, [compared, would_refuse])| {
            json!({"application": name, "compared": compared, "would_refuse": would_refuse})
        })
        .collect();
    json!({
        "event_type": slot.to_string(),
        "digest": digest.to_string(),
        "against": against.map(|digest| digest.to_string()),
        "mode": terms.mode.as_str(),
        "percent": terms.percent(),
        "auto": terms.auto.as_ref().map(|text| steps(text, terms, row, pairs, against)),
        "since": row.map(|row| time(row.since)),
        "by": row.map(|row| row.made_by.as_str()),
        "guard": guard,
        "expects_refusals": expects_refusals,
        "compared": counts.compared(),
        "counts": counts,
        "applications": applications,
        "samples": samples.iter().map(sample).collect::<Vec<_>>(),
    })
}

/// Whether pairs are of a candidate that is tried in this way.
fn is_of(pairs: &PairsRow, terms: &Terms) -> bool {
    pairs.trial == terms.mode.as_str() && (pairs.percent - terms.percent().unwrap_or_default()).abs() < 0.000_5
}

/// The steps by which a candidate is promoted. The one that runs says what it waits for.
fn steps(text: &str, terms: &Terms, row: Option<&CandidateRow>, pairs: &[PairsRow], against: Option<Digest>) -> Value {
    let now = terms.place();
    let each = terms.each_step().into_iter().enumerate().map(|(place, step)| {
        let own = Terms::of_step(step, text);
        let is_of_it = |one: &&PairsRow| is_of(one, &own) && against.is_some_and(|live| one.against == live.0);
        let compared: i64 = pairs.iter().filter(is_of_it).map(|one| one.counts.0.compared()).sum();
        let state = match now.map(|now| place.cmp(&now)) {
            Some(Ordering::Less) => "done",
            Some(Ordering::Equal) => "running",
            Some(Ordering::Greater) | None => "waiting",
        };
        let seconds = step.time.as_secs();
        let over = row.filter(|_| state == "running").map(|row| row.since + step.time);
        let what = own.percent().map_or_else(|| "shadow".to_owned(), |percent| format!("{percent}%"));
        json!({
            "step": format!("{what}:{seconds}s"),
            "mode": own.mode.as_str(),
            "percent": own.percent(),
            "seconds": seconds,
            "state": state,
            "until": over.map(time),
            "compared": compared,
            "compared_min": STEP_COMPARED_MIN,
        })
    });
    json!({"text": text, "steps": each.collect::<Vec<_>>()})
}

/// An event on which two modules differ. It has no data.
fn sample(sample: &Value) -> Value {
    let violations = |side: &str| {
        let each = sample[side].as_array().into_iter().flatten();
        each.map(|one| json!({"pointer": one[0], "code": one[1]})).collect::<Vec<_>>()
    };
    let received_at = sample["received_at_us"].as_i64().and_then(DateTime::from_timestamp_micros);
    json!({
        "what": sample["what"],
        "id": sample["id"],
        "session_id": sample["session_id"],
        "application": sample["application"],
        "received_at": received_at.map(time),
        "old": violations("old"),
        "new": violations("new"),
        "fault": sample["fault"],
    })
}

/// A module that the guard took back.
pub(super) fn taken_back(row: &TakenBackRow) -> Value {
    json!({
        "digest": hex(&row.digest),
        "at": time(row.at),
        "trial": row.trial,
        "code": row.code,
        "reason": row.reason,
        "counts": row.counts.0,
        "refused": row.refused,
        "serves": row.serves.as_deref().and_then(hex),
    })
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
