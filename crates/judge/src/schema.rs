//! Schema files. One engine, a WebAssembly module that comes with the gateway, judges by all of them: it is compiled once,
//! when the first schema appears. A schema is a state of this engine, the one in which `configure` left it. So a schema
//! costs the bytes that it changes in the engine's memory, and no code.

use serde::{Deserialize, Serialize};
use wasmparser::{ExternalKind, Parser, Payload};

use super::core_module::{Call, Core, Lift, Unfit};
use super::refusal::Refusal;

/// The engine, if it was there when this program was built.
static ENGINE: Option<&[u8]> = include!(concat!(env!("OUT_DIR"), "/engine.rs"));

/// Characters of a warning, and warnings of a schema.
const WARNING_CHARACTERS_MAX: usize = 300;
const WARNINGS_MAX: usize = 51;

/// Whether this program has the engine, so that it can judge by schema files.
#[must_use]
pub fn has_engine() -> bool {
    ENGINE.is_some()
}

/// The bytes of the engine.
pub(super) fn engine() -> Result<&'static [u8], Refusal> {
    ENGINE.ok_or_else(|| {
        Refusal::new(
            "a gateway with the engine of schema files",
            "one that was built without it",
            "run `validators/install --engines` and build the gateway again, or put a module here",
        )
    })
}

/// The functions of the engine. It is a core module, and exports them under their names.
pub(super) fn core_of(engine: &'static [u8]) -> Result<Core<'static>, Unfit> {
    let mut functions = Vec::new();
    for payload in Parser::new(0).parse_all(engine) {
        if let Payload::ExportSection(exports) = payload.map_err(|error| Unfit::new(error.to_string()))? {
            let exports = exports.into_iter().flatten().filter(|export| export.kind == ExternalKind::Func);
            functions.extend(exports.map(|export| (export.name, export.index)));
        }
    }
    let find = |name: &str| functions.iter().find(|(own, _)| *own == name).map(|(_, index)| *index);
    let realloc = find("cabi_realloc");
    let calls = Call::OF_ENGINE.into_iter().map(|call| {
        let function = find(call.name()).ok_or_else(|| Unfit::new(format!("it lacks `{}`", call.name())))?;
        Ok((call, Lift { function, memory: 0, realloc, post_return: None }))
    });
    Ok(Core { module: engine.into(), calls: calls.collect::<Result<_, Unfit>>()? })
}

/// What the engine says of a schema that it takes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The version of the engine.
    pub(super) engine: String,
    /// Whether the schema takes something out of events.
    pub(super) redacts: bool,
    /// What its author may have meant otherwise, each with its line.
    pub(super) warnings: Vec<String>,
}

/// The answer of the engine to a schema.
#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    Taken(Facts),
    Refused { expected: String, found: String, mend: String },
}

impl Facts {
    /// Reads the engine's answer.
    pub(super) fn read(answer: &str) -> Result<Self, Refusal> {
        match serde_json::from_str(answer) {
            Ok(Told::Taken(facts)) => {
                let warnings = facts.warnings.iter().take(WARNINGS_MAX);
                let short = |warning: &String| warning.chars().take(WARNING_CHARACTERS_MAX).collect();
                Ok(Self { warnings: warnings.map(short).collect(), ..facts })
            }
            Ok(Told::Refused { expected, found, mend }) => Err(Refusal::new(expected, found, mend)),
            Err(error) => Err(Refusal::new(
                "an answer of the engine of schema files",
                format!("another one: {error}"),
                "report this file to the makers of the gateway",
            )),
        }
    }
}
