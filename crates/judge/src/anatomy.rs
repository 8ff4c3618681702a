//! Takes a component apart into its core modules, and makes one module of them. Most tools make a validator of one core
//! module, some of many that call each other; both can run without the component around them. This file also finds the
//! functions of the contract, and the core functions behind each. Bytes to bytes. An earlier step checks that the
//! component is valid and of the right world.

use std::collections::HashMap;

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentTypeRef, ExternalKind,
    Instance, Parser, Payload,
};

use super::core_module::{Call, Core, Lift, Unfit};
use super::link::{Linked, Part, link};

/// Returns the component's only core module, or one that is made of all its core modules.
pub(super) fn core_of(component: &[u8]) -> Result<Core<'_>, Unfit> {
    let mut anatomy = Anatomy::default();
    let mut within = Vec::new();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| Unfit::new(error.to_string()))?;
        match (within.last(), payload) {
            (_, Payload::End(_)) => {
                within.pop();
            }
            // The outer section already has the bytes of this module.
            (Some(Within::Module), _) => {}
            (None, Payload::ModuleSection { unchecked_range, .. }) => {
                within.push(Within::Module);
                let module = component.get(unchecked_range).ok_or_else(|| Unfit::new("it is cut short"))?;
                anatomy.modules.push(module);
            }
            (_, Payload::ComponentSection { .. }) => within.push(Within::Component),
            (None, payload) => anatomy.take(payload)?,
            (Some(Within::Component), payload) if passes_on(&payload) => {}
            (Some(Within::Component), _) => return Err(beyond("another component")),
        }
    }
    anatomy.core()
}

/// The section of the component that is being read.
enum Within {
    Module,
    Component,
}

/// Whether this part of an inner component only gives names to items that it gets. Tools make such components for
/// interfaces.
fn passes_on(payload: &Payload<'_>) -> bool {
    matches!(
        payload,
        Payload::Version { .. }
            | Payload::ComponentTypeSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::ComponentImportSection(_)
            | Payload::ComponentExportSection(_)
            | Payload::CustomSection(_)
    )
}

/// An export of a core instance that was made from a module.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    instance: usize,
    name: &'a str,
}

/// The core items behind a function of the component.
#[derive(Debug, Clone, Copy)]
struct Lifted<'a> {
    function: Place<'a>,
    memory: Option<Place<'a>>,
    realloc: Option<Place<'a>>,
    post_return: Option<Place<'a>>,
}

/// A core instance.
enum Made<'a> {
    /// Made from a module: the index among the instances made so.
    Part(usize),
    /// Made from exports of other instances.
    Bag(HashMap<&'a str, Place<'a>>),
}

/// The index spaces of a component, as far as this file needs them.
#[derive(Default)]
struct Anatomy<'a> {
    modules: Vec<&'a [u8]>,
    instances: Vec<Made<'a>>,
    parts: Vec<Part<'a>>,
    functions: Vec<Place<'a>>,
    memories: Vec<Place<'a>>,
    tables: Vec<Place<'a>>,
    globals: Vec<Place<'a>>,
    /// Functions of the component; `None` for those of another component.
    lifts: Vec<Option<Lifted<'a>>>,
    calls: Vec<(Call, Lifted<'a>)>,
}

impl<'a> Anatomy<'a> {
    fn take(&mut self, payload: Payload<'a>) -> Result<(), Unfit> {
        let read = |error: wasmparser::Error| Unfit::new(error.to_string());
        match payload {
            // Types have no code.
            Payload::Version { .. }
            | Payload::ComponentTypeSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::CustomSection(_)
            // It is made of an inner component that only gives names.
            | Payload::ComponentInstanceSection(_) => Ok(()),
            Payload::ComponentImportSection(section) => {
                section.into_iter().try_for_each(|import| match import.map_err(read)?.ty {
                    ComponentTypeRef::Instance(_) | ComponentTypeRef::Type(_) => Ok(()),
                    _ => Err(beyond("an import")),
                })
            }
            Payload::InstanceSection(section) => {
                section.into_iter().try_for_each(|instance| self.instance(instance.map_err(read)?))
            }
            Payload::ComponentAliasSection(section) => {
                section.into_iter().try_for_each(|alias| self.alias(&alias.map_err(read)?))
            }
            Payload::ComponentCanonicalSection(section) => {
                section.into_iter().try_for_each(|function| self.lift(&function.map_err(read)?))
            }
            Payload::ComponentExportSection(section) => section.into_iter().try_for_each(|export| {
                let export = export.map_err(read)?;
                match export.kind {
                    ComponentExternalKind::Func => self.export(export.name.name, export.index),
                    ComponentExternalKind::Type | ComponentExternalKind::Instance => Ok(()),
                    _ => Err(beyond("an export that is no function")),
                }
            }),
            _ => Err(beyond("a part")),
        }
    }

    fn instance(&mut self, instance: Instance<'a>) -> Result<(), Unfit> {
        let made = match instance {
            Instance::Instantiate { module_index, args } => {
                let module = *self.modules.get(module_index as usize).ok_or_else(absent)?;
                let mut imports = HashMap::new();
                for arg in args {
                    imports.insert(arg.name, arg.index as usize);
                }
                let given = Part { module, given: HashMap::new() };
                let part = self.give(given, &imports)?;
                self.parts.push(part);
                Made::Part(self.parts.len() - 1)
            }
            Instance::FromExports(exports) => {
                let mut bag = HashMap::new();
                for export in exports {
                    let place = self.space(export.kind)?.get(export.index as usize).copied().ok_or_else(absent)?;
                    bag.insert(export.name, place);
                }
                Made::Bag(bag)
            }
        };
        self.instances.push(made);
        Ok(())
    }

    /// Finds the imports of a part among the exports of the instances that it gets.
    fn give(&self, mut part: Part<'a>, from: &HashMap<&'a str, usize>) -> Result<Part<'a>, Unfit> {
        for (module, name) in part.imports()? {
            let instance = *from.get(module).ok_or_else(absent)?;
            let place = self.exported(instance, name)?;
            part.given.insert((module, name), (place.instance, place.name));
        }
        Ok(part)
    }

    /// Returns the export of an instance with this name.
    fn exported(&self, instance: usize, name: &'a str) -> Result<Place<'a>, Unfit> {
        match self.instances.get(instance).ok_or_else(absent)? {
            Made::Part(part) => Ok(Place { instance: *part, name }),
            Made::Bag(bag) => bag.get(name).copied().ok_or_else(absent),
        }
    }

    fn space(&mut self, kind: ExternalKind) -> Result<&mut Vec<Place<'a>>, Unfit> {
        match kind {
            ExternalKind::Func => Ok(&mut self.functions),
            ExternalKind::Memory => Ok(&mut self.memories),
            ExternalKind::Table => Ok(&mut self.tables),
            ExternalKind::Global => Ok(&mut self.globals),
            _ => Err(beyond("exceptions")),
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'a>) -> Result<(), Unfit> {
        match *alias {
            ComponentAlias::CoreInstanceExport { kind, instance_index, name } => {
                let place = self.exported(instance_index as usize, name)?;
                self.space(kind)?.push(place);
                Ok(())
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Func, .. } => {
                self.lifts.push(None);
                Ok(())
            }
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, .. } | ComponentAlias::Outer { .. } => {
                Ok(())
            }
            ComponentAlias::InstanceExport { .. } => Err(beyond("what another component exports")),
        }
    }

    fn lift(&mut self, function: &CanonicalFunction) -> Result<(), Unfit> {
        let CanonicalFunction::Lift { core_func_index, options, .. } = function else {
            return Err(beyond("functions of the component model that its core modules call"));
        };
        let place = |space: &[Place<'a>], index: u32| space.get(index as usize).copied().ok_or_else(absent);
        let mut lift = Lifted {
            function: place(&self.functions, *core_func_index)?,
            memory: None,
            realloc: None,
            post_return: None,
        };
        for option in options {
            match *option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::Memory(index) => lift.memory = Some(place(&self.memories, index)?),
                CanonicalOption::Realloc(index) => lift.realloc = Some(place(&self.functions, index)?),
                CanonicalOption::PostReturn(index) => lift.post_return = Some(place(&self.functions, index)?),
                _ => return Err(Unfit::new("it passes strings or values in another way")),
            }
        }
        self.lifts.push(Some(lift));
        Ok(())
    }

    /// Adds an exported function, which has an index of its own.
    fn export(&mut self, name: &str, index: u32) -> Result<(), Unfit> {
        let lift = *self.lifts.get(index as usize).ok_or_else(absent)?;
        self.lifts.push(lift);
        if let Some(call) = Call::ALL.into_iter().find(|call| call.name() == name) {
            self.calls.push((call, lift.ok_or_else(|| beyond("a function that is another component's"))?));
        }
        Ok(())
    }

    fn core(self) -> Result<Core<'a>, Unfit> {
        if Call::ALL.into_iter().any(|call| call.is_required() && !self.calls.iter().any(|(known, _)| *known == call)) {
            return Err(Unfit::new("it lacks a function that the contract needs"));
        }
        let linked = link(&self.parts)?;
        let calls = self.calls.iter().map(|(call, lifted)| Ok((*call, lifted.within(&linked)?)));
        let calls = calls.collect::<Result<Vec<_>, Unfit>>()?;
        if calls.iter().any(|(_, lift)| lift.memory != calls[0].1.memory) {
            return Err(Unfit::new("it answers from two memories"));
        }
        Ok(Core { module: linked.module, calls })
    }
}

impl Lifted<'_> {
    fn within(&self, linked: &Linked<'_>) -> Result<Lift, Unfit> {
        let index = |place: Place<'_>, kind| linked.index(place.instance, place.name, kind);
        let function = |place| index(place, ExternalKind::Func);
        Ok(Lift {
            function: function(self.function)?,
            memory: index(self.memory.ok_or_else(absent)?, ExternalKind::Memory)?,
            realloc: self.realloc.map(function).transpose()?,
            post_return: self.post_return.map(function).transpose()?,
        })
    }
}

fn beyond(what: &str) -> Unfit {
    Unfit::new(format!("it holds {what} beside core modules that call each other"))
}

fn absent() -> Unfit {
    Unfit::new("it names a core item that it does not have")
}
