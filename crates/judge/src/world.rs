//! Checks that a file is a component of the world `validator`. The message for any other file names what was expected,
//! what was found and how to mend the build, so that an author needs no server logs. This file also makes a component
//! of a core module with embedded WIT metadata. It compiles nothing and runs nothing.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};
use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Function, Resolve, Type, TypeDefKind, TypeId, WorldId, WorldItem};

mod kinds;
mod tools;

use super::refusal::Refusal;

/// The contract in its version 1.0.0, as the gateway was built with it.
const CONTRACT: &str = include_str!("../../../wit/validator.wit");

/// The contract in its version 1.1.0: functions that a module may export besides.
const CONTRACT_1_1: &str = include_str!("../../../wit/1.1.0/validator.wit");

/// The package of the contract, with its version.
const PACKAGE: &str = "eye:validator@1.0.0";

/// The versions of the package whose types a module may name.
const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The functions of version 1.1.0 that a module exports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offers {
    pub(super) redact: bool,
    pub(super) examples: bool,
    pub(super) validate_at: bool,
}

impl Offers {
    /// Whether it exports any of them.
    pub(super) fn any(self) -> bool {
        self.redact || self.examples || self.validate_at
    }
}

/// The kind of the outermost layer of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Core,
    Component,
}

/// Checks a file, and returns the bytes of a component of the world `validator`.
pub(super) fn component_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if let Some(refusal) = kinds::refuse(bytes) {
        return Err(refusal);
    }
    let outline = Outline::read(bytes)?;
    let component = match outline.kind {
        Kind::Component => Cow::Borrowed(bytes),
        Kind::Core => Cow::Owned(encode(bytes, &outline)?),
    };
    check_world(&component)?;
    Ok(component)
}

/// The parts of a file that decide its kind. Reading them does not validate its code.
struct Outline {
    kind: Kind,
    has_metadata: bool,
    /// The modules and names of a core module's imports.
    core_imports: Vec<String>,
}

impl Outline {
    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        let mut outline = Self { kind: Kind::Core, has_metadata: false, core_imports: Vec::new() };
        let broken = |detail: String| {
            Refusal::new(
                "a complete WebAssembly file",
                detail,
                "copy the whole file, best under another name beside it and then rename it",
            )
        };
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| broken(format!("{} bytes that do not parse: {error}", bytes.len())))? {
                Payload::Version { encoding, .. } => {
                    if depth == 0 && encoding == Encoding::Component {
                        outline.kind = Kind::Component;
                    }
                    depth += 1;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section) if depth == 1 && section.name().starts_with("component-type") => {
                    outline.has_metadata = true;
                }
                Payload::ImportSection(imports) if depth == 1 => {
                    for import in imports.into_imports().flatten() {
                        outline.core_imports.push(format!("{}#{}", import.module, import.name));
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

fn no_imports(found: &[String], file: &[u8]) -> Refusal {
    let some = found.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let more = found.len().saturating_sub(5);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Refusal::new(
        "a module that imports nothing, because a validator can only compute",
        format!("imports of {some}{more}"),
        if found.iter().any(|name| name.contains("wasi")) {
            tools::without_wasi(file).unwrap_or(
                "WASI comes from the tool that made it: have it leave WASI out (Rust: the target wasm32-unknown-unknown; \
                 `jco componentize --disable all`; `componentize-py ... componentize --stub-wasi`), and drop what needs a \
                 clock, files, environment or randomness",
            )
        } else {
            "remove the dependency that needs these imports"
        },
    )
}

fn encode(bytes: &[u8], outline: &Outline) -> Result<Vec<u8>, Refusal> {
    if !outline.core_imports.is_empty() {
        return Err(no_imports(&outline.core_imports, bytes));
    }
    if !outline.has_metadata {
        return Err(Refusal::new(
            "a component, or a core module that carries its WIT world in a `component-type` section",
            "a core module without it",
            "build with the crate eye-validator (or wit-bindgen), and keep custom sections when stripping",
        ));
    }
    ComponentEncoder::default().validate(true).module(bytes).and_then(|mut encoder| encoder.encode()).map_err(|error| {
        Refusal::new(
            format!("a core module that fits the world it carries, `validator` of {PACKAGE}"),
            format!("{error:#}"),
            "build with the crate eye-validator of this gateway's version",
        )
    })
}

fn check_world(component: &[u8]) -> Result<(), Refusal> {
    let (found, world) = match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => {
            return Err(Refusal::new(
                "a component with code",
                "a WIT package",
                "put the built component here, not its interface",
            ));
        }
        Err(error) => {
            return Err(Refusal::new(
                "a valid component",
                format!("{error:#}"),
                "build it again; if that does not help, update wasm-tools or componentize tools",
            ));
        }
    };
    let (expected, expected_world) = contract();
    check_imports(&found, world, component)?;
    for (_, item) in &expected.worlds[expected_world].exports {
        if let WorldItem::Function(function) = item {
            check_export(&expected, function, &found, world)?;
        }
    }
    Ok(())
}

/// Finds the functions of 1.1.0 that a component exports. One with another type is refused, since its author relies on
/// it.
pub(super) fn offers(component: &[u8]) -> Result<Offers, Refusal> {
    let Ok(DecodedWasm::Component(found, world)) = wit_component::decode(component) else {
        return Ok(Offers::default());
    };
    let mut expected = Resolve::default();
    expected.push_str("validator.wit", CONTRACT).expect("the contract is valid WIT");
    let package = expected.push_str("1.1.0/validator.wit", CONTRACT_1_1).expect("the contract is valid WIT");
    let mut offers = Offers::default();
    let functions =
        [("redact", &mut offers.redact), ("examples", &mut offers.examples), ("validate-at", &mut offers.validate_at)];
    for (name, offered) in functions {
        if !found.worlds[world].exports.keys().any(|key| found.name_world_key(key) == name) {
            continue;
        }
        // The world of a function has the function's name.
        let own = expected.select_world(&[package], Some(name)).expect("the contract has the world");
        let function = expected.worlds[own].exports.values().find_map(|item| match item {
            WorldItem::Function(function) => Some(function),
            _ => None,
        });
        check_export(&expected, function.expect("the world exports it"), &found, world)?;
        *offered = true;
    }
    Ok(offers)
}

fn contract() -> (Resolve, WorldId) {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("validator.wit", CONTRACT).expect("the contract is valid WIT");
    let world = resolve.select_world(&[package], Some("validator")).expect("the contract has the world");
    (resolve, world)
}

/// Refuses imports, except of interfaces with only types. Every built component imports the types of the contract, and
/// types ask nothing of the gateway.
fn check_imports(found: &Resolve, world: WorldId, file: &[u8]) -> Result<(), Refusal> {
    let mut names = Vec::new();
    for (key, item) in &found.worlds[world].imports {
        let name = found.name_world_key(key);
        if let Some(version) = name.strip_prefix("eye:validator/types@").filter(|version| !VERSIONS.contains(version)) {
            return Err(Refusal::new(
                format!("a validator for {PACKAGE}"),
                format!("one for eye:validator@{version}"),
                "build it against the WIT of this gateway: wit/validator.wit",
            ));
        }
        match item {
            WorldItem::Type { .. } => {}
            WorldItem::Interface { id, .. } if found.interfaces[*id].functions.is_empty() => {}
            WorldItem::Interface { .. } | WorldItem::Function(_) => names.push(name),
        }
    }
    if names.is_empty() { Ok(()) } else { Err(no_imports(&names, file)) }
}

fn check_export(expected: &Resolve, function: &Function, found: &Resolve, world: WorldId) -> Result<(), Refusal> {
    let signature = || format!("an export `{}` of the world `validator` of {PACKAGE}", sketch(expected, function));
    let mend = "build against the WIT of this gateway: wit/validator.wit, or the crate eye-validator of its version";
    let exports = &found.worlds[world].exports;
    let item = exports.iter().find(|(key, _)| found.name_world_key(key) == function.name);
    let Some((_, WorldItem::Function(own))) = item else {
        let names: Vec<_> = exports.keys().map(|key| format!("`{}`", found.name_world_key(key))).collect();
        let names =
            if names.is_empty() { "no exports at all".to_owned() } else { format!("exports {}", names.join(", ")) };
        return Err(Refusal::new(signature(), format!("a component of another world, with {names}"), mend));
    };
    let same = Comparison { expected, found };
    same.function(function, own)
        .map_err(|difference| Refusal::new(signature(), format!("`{}`: {difference}", sketch(found, own)), mend))
}

/// A function on one line. Named types appear by their names.
fn sketch(resolve: &Resolve, function: &Function) -> String {
    let params: Vec<_> =
        function.params.iter().map(|param| format!("{}: {}", param.name, name_of(resolve, &param.ty))).collect();
    let result = function.result.map(|ty| format!(" -> {}", name_of(resolve, &ty))).unwrap_or_default();
    format!("{}: func({}){result}", function.name, params.join(", "))
}

fn name_of(resolve: &Resolve, ty: &Type) -> String {
    match ty {
        Type::Id(id) => {
            let def = &resolve.types[*id];
            match (&def.name, &def.kind) {
                (Some(name), _) => name.clone(),
                (None, TypeDefKind::List(item)) => format!("list<{}>", name_of(resolve, item)),
                (None, TypeDefKind::Option(item)) => format!("option<{}>", name_of(resolve, item)),
                (None, kind) => kind.as_str().to_owned(),
            }
        }
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

/// Compares the structure of types of two worlds, and finds the first difference.
struct Comparison<'a> {
    expected: &'a Resolve,
    found: &'a Resolve,
}

impl Comparison<'_> {
    fn function(&self, expected: &Function, found: &Function) -> Result<(), String> {
        if expected.params.len() != found.params.len() {
            return Err(format!("{} parameters instead of {}", found.params.len(), expected.params.len()));
        }
        for (ours, theirs) in expected.params.iter().zip(&found.params) {
            self.ty(&ours.name, &ours.ty, &theirs.ty)?;
        }
        self.optional("the result", expected.result.as_ref(), found.result.as_ref())
    }

    fn optional(&self, at: &str, expected: Option<&Type>, found: Option<&Type>) -> Result<(), String> {
        match (expected, found) {
            (None, None) => Ok(()),
            (Some(ours), Some(theirs)) => self.ty(at, ours, theirs),
            (Some(ours), None) => Err(format!("{at} is nothing instead of {}", name_of(self.expected, ours))),
            (None, Some(theirs)) => Err(format!("{at} is {} instead of nothing", name_of(self.found, theirs))),
        }
    }

    fn ty(&self, at: &str, expected: &Type, found: &Type) -> Result<(), String> {
        let differ =
            || Err(format!("{at} is {} instead of {}", name_of(self.found, found), name_of(self.expected, expected)));
        match (resolved(self.expected, expected), resolved(self.found, found)) {
            (Type::Id(ours), Type::Id(theirs)) => self.defined(at, ours, theirs),
            (ours, theirs) if ours == theirs => Ok(()),
            _ => differ(),
        }
    }

    fn defined(&self, at: &str, expected: TypeId, found: TypeId) -> Result<(), String> {
        let (ours, theirs) = (&self.expected.types[expected].kind, &self.found.types[found].kind);
        match (ours, theirs) {
            (TypeDefKind::Record(ours), TypeDefKind::Record(theirs)) => {
                same_names(at, "fields", ours.fields.iter().map(|f| &*f.name), theirs.fields.iter().map(|f| &*f.name))?;
                ours.fields
                    .iter()
                    .zip(&theirs.fields)
                    .try_for_each(|(ours, theirs)| self.ty(&format!("{at}.{}", ours.name), &ours.ty, &theirs.ty))
            }
            (TypeDefKind::Variant(ours), TypeDefKind::Variant(theirs)) => {
                same_names(at, "cases", ours.cases.iter().map(|c| &*c.name), theirs.cases.iter().map(|c| &*c.name))?;
                ours.cases.iter().zip(&theirs.cases).try_for_each(|(ours, theirs)| {
                    self.optional(&format!("{at}.{}", ours.name), ours.ty.as_ref(), theirs.ty.as_ref())
                })
            }
            (TypeDefKind::Enum(ours), TypeDefKind::Enum(theirs)) => {
                same_names(at, "cases", ours.cases.iter().map(|c| &*c.name), theirs.cases.iter().map(|c| &*c.name))
            }
            (TypeDefKind::List(ours), TypeDefKind::List(theirs)) => self.ty(&format!("{at}[]"), ours, theirs),
            (TypeDefKind::Option(ours), TypeDefKind::Option(theirs)) => self.ty(&format!("{at}?"), ours, theirs),
            (ours, theirs) => Err(format!("{at} is a {} instead of a {}", theirs.as_str(), ours.as_str())),
        }
    }
}

/// Follows `type a = b` and `use` to the type itself.
fn resolved(resolve: &Resolve, ty: &Type) -> Type {
    let mut ty = *ty;
    while let Type::Id(id) = ty {
        match resolve.types[id].kind {
            TypeDefKind::Type(inner) => ty = inner,
            _ => break,
        }
    }
    ty
}

fn same_names<'a>(
    at: &str,
    what: &str,
    expected: impl Iterator<Item = &'a str>,
    found: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.collect(), found.collect());
    if expected == found {
        return Ok(());
    }
    Err(format!("{at} has the {what} {} instead of {}", found.join(", "), expected.join(", ")))
}
