//! A module or a schema for another engine than ours, such as that of a browser: one core module without imports, with the
//! functions of the contract under their names. It is the code that a gateway runs, so it says the same.

use super::anatomy;
use super::core_module::Unfit;
use super::kind::Kind;
use super::refusal::Refusal;
use super::rewrite;
use super::schema;
use super::world;

/// The WebAssembly core module of a validator. It exports `describe` and `validate` by the canonical ABI of components
/// (`describe realloc`, `validate realloc`, `memory 0`), perhaps `start`, which runs first, and `configure`, which takes a
/// schema.
///
/// # Errors
///
/// What it is that only a gateway can run, and what to do.
pub fn portable(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    match kind {
        Kind::Schema => {
            let core = schema::core_of(schema::engine()?);
            core.and_then(|core| rewrite::expose(&core)).map_err(|unfit| joined(&unfit))
        }
        Kind::Module => {
            let component = world::component_of(bytes)?;
            if world::offers(&component)?.validate_at {
                return Err(Refusal::new(
                    "a rule that only looks at the event",
                    "one that asks when a gateway received the event (`validate-at`)",
                    format!("judge without that time, or {ASK}"),
                ));
            }
            anatomy::core_of(&component).and_then(|core| rewrite::expose(&core)).map_err(|unfit| joined(&unfit))
        }
    }
}

/// The way without a bundle.
const ASK: &str = "ask a gateway what would become of an event (`/v1/events?dry_run=true`)";

fn joined(unfit: &Unfit) -> Refusal {
    Refusal::new(
        "a component that runs as one core module",
        format!("one that does not: {unfit}"),
        format!("build it with the kit for Rust, or {ASK}"),
    )
}
