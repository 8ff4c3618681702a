//! A step back to the whole set of an earlier generation, over HTTP and by the command. The answer names the
//! modules that the guard has taken back since. The step leaves out those that were candidates. Those that would serve again need
//! force, which forgives them and no others.

use std::collections::HashMap;

use eye_event::verdict::Digest;
use eye_judge::{ModulesFrom, Role};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};

use super::asked::Followed;
use super::{Asking, Shipping, differences, gone, shown, with};
use crate::audit::{Action, Actor, Entry};
use crate::parameters::Parameters;
use crate::response::{self, Refusal, Response, of_store};
use crate::server::Incoming;
use crate::store::{self, NewSlot, SlotRow, Store, TakenBackRow};

/// Modules that a refusal names.
const NAMED_MAX: usize = 3;

/// What a step back changes.
#[derive(Debug)]
pub(crate) struct StepBack {
    /// The number of the current generation.
    pub(crate) based_on: u64,
    /// The slots that change.
    pub(crate) slots: Vec<NewSlot>,
    /// The candidates of then that were taken back. No force brings them.
    pub(crate) left_out: Vec<TakenBackRow>,
    /// The modules that would serve again although they were taken back.
    pub(crate) taken_back: Vec<TakenBackRow>,
}

impl StepBack {
    /// To the generation of this number; `None` if it is not known.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub(crate) async fn to(store: &Store, number: u64) -> Result<Option<Self>, store::Error> {
        if !store.knows_generation(number).await? {
            return Ok(None);
        }
        let (current, serves) = store.generation_slots(None).await?;
        let (_, mut wanted) = store.generation_slots(Some(number)).await?;
        let rows = taken_back_of(store, &differences(&serves, &wanted)).await?;
        let mut left_out = Vec::new();
        wanted.retain(|row| match row_of(&rows, row) {
            Some(taken_back) if is_candidate(&row.event_type) => {
                left_out.push(taken_back.clone());
                false
            }
            _ => true,
        });
        let slots = differences(&serves, &wanted);
        let taken_back = served_again(&slots, &rows);
        Ok(Some(Self { based_on: current.number, slots, left_out, taken_back }))
    }

    /// What was left out, as answers and the command show it.
    pub(crate) fn left_out(&self) -> Vec<Value> {
        self.left_out.iter().map(named).collect()
    }

    /// What needs force, as answers and the command show it.
    pub(crate) fn taken_back(&self) -> Vec<Value> {
        self.taken_back.iter().map(named).collect()
    }
}

/// The modules that changes bring to serve although they were taken back.
///
/// # Errors
///
/// Those of the store.
pub(crate) async fn brought_back(store: &Store, slots: &[NewSlot]) -> Result<Vec<TakenBackRow>, store::Error> {
    let rows = taken_back_of(store, slots).await?;
    Ok(served_again(slots, &rows))
}

/// A sentence about modules that were taken back.
pub(crate) fn told(rows: &[TakenBackRow]) -> String {
    let each = rows.iter().take(NAMED_MAX).map(|row| {
        let at = row.at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        format!("the guard took {} back from {} at {at}, since {}", digest_of(row), row.event_type, row.reason)
    });
    let told = each.collect::<Vec<_>>().join("; ");
    match rows.len().saturating_sub(NAMED_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

/// One of these modules, as answers and the command show it.
pub(crate) fn named(row: &TakenBackRow) -> Value {
    json!({"event_type": row.event_type, "digest": digest_of(row).to_string(), "reason": row.reason})
}

/// By type and digest.
type Rows = HashMap<(String, Vec<u8>), TakenBackRow>;

/// What was taken back of the modules that changes bring.
async fn taken_back_of(store: &Store, slots: &[NewSlot]) -> Result<Rows, store::Error> {
    let new = slots.iter().filter(|slot| slot.digest != slot.replaces);
    let modules = new.filter_map(|slot| Some((event_type_of(&slot.event_type)?, slot.digest?)));
    let rows = store.taken_back_among(&modules.collect::<Vec<_>>()).await?;
    Ok(rows.into_iter().map(|row| ((row.event_type.clone(), row.digest.clone()), row)).collect())
}

/// The rows about modules that changes bring to serve.
fn served_again(slots: &[NewSlot], rows: &Rows) -> Vec<TakenBackRow> {
    let live = slots.iter().filter(|slot| !is_candidate(&slot.event_type) && slot.digest != slot.replaces);
    let row = |slot: &NewSlot| rows.get(&(slot.event_type.clone(), slot.digest?.0.to_vec())).cloned();
    live.filter_map(row).collect()
}

fn row_of<'a>(rows: &'a Rows, slot: &SlotRow) -> Option<&'a TakenBackRow> {
    rows.get(&(event_type_of(&slot.event_type)?, slot.digest.clone()?))
}

/// The event type of a slot, also of a candidate's.
fn event_type_of(name: &str) -> Option<String> {
    Role::parse(name).ok().map(|(_, slot)| slot.to_string())
}

fn is_candidate(name: &str) -> bool {
    matches!(Role::parse(name), Ok((Role::Candidate, _)))
}

fn digest_of(row: &TakenBackRow) -> Digest {
    Digest(row.digest[..].try_into().unwrap_or_default())
}

impl Shipping {
    pub(super) async fn back(
        &self,
        actor: &Actor,
        number: u64,
        request: Request<Incoming>,
    ) -> Result<Response, Refusal> {
        let parameters = Parameters::read(request.uri().query(), &["dry_run", "force"])?;
        let followed = Followed::of(&parameters, request.headers())?;
        let force = parameters.choice("force", &[("false", false), ("true", true)])?;
        if self.fleet.modules_from() == ModulesFrom::Directory {
            return Err(Refusal::ModulesElsewhere {
                message: "The modules of this gateway come from its modules directory, which has no generations; \
                    `eye validator rollback` puts single modules back. With modules_from = \"database\" there are."
                    .to_owned(),
            });
        }
        let back = StepBack::to(&self.store, number).await.map_err(of_store)?.ok_or(Refusal::NotFound)?;
        let wanted: Vec<Digest> = back.slots.iter().filter_map(|slot| slot.digest).collect();
        let kept = self.store.content_sizes(&wanted).await.map_err(of_store)?;
        let missing: Vec<Digest> = wanted.into_iter().filter(|digest| !kept.contains_key(digest)).collect();
        if !missing.is_empty() {
            return Err(gone(&missing));
        }
        if let (Some(first), false) = (back.taken_back.first(), force || followed.dry_run) {
            let told = told(&back.taken_back);
            let message = format!("Nothing was changed: {told}. Put single modules back, or go back with force.");
            return Err(Refusal::TakenBack { message, digest: digest_of(first).to_string() });
        }
        let changes: Vec<Value> = back.slots.iter().map(shown::change).collect();
        let (left_out, taken_back) = (back.left_out(), back.taken_back());
        let StepBack { based_on, slots, .. } = back;
        let entry = Entry::new(Action::FleetBack, &number.to_string(), actor)
            .with("slots", slots.len())
            .with("left_out", Some(left_out.len()).filter(|count| *count > 0));
        let body = json!({"back": number, "based_on": based_on, "changes": changes, "left_out": left_out, "taken_back": taken_back});
        if followed.dry_run || slots.is_empty() {
            return Ok(response::json(StatusCode::OK, with(body, "state", "unchanged").to_string()));
        }
        let asked = Asking { cause: "back", forced: force, based_on: Some(based_on), slots };
        self.change(asked, actor, entry, &followed, body).await
    }
}
