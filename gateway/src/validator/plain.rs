//! Finds the core module in a component that is nothing but that: one module, one instance of it, and the contract's two
//! functions lifted from its exports. Most tools make validators so, and those can be run without the component around
//! them. Reads only; whether the component is valid and of the right world was decided before.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind, ComponentTypeRef, ExternalKind,
    Instance, Parser, Payload,
};

use super::rewrite::{Names, Unfit};

/// The core module of a component, and the names of its exports that the contract's functions are made of.
pub(super) fn core_of(component: &[u8]) -> Result<(&[u8], Names<'_>), Unfit> {
    let mut anatomy = Anatomy::default();
    // Within the module there is nothing to read here.
    let mut within = false;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| Unfit::new(error.to_string()))? {
            Payload::End(_) => within = false,
            _ if within => {}
            Payload::ModuleSection { unchecked_range, .. } => {
                within = true;
                let module = component.get(unchecked_range).ok_or_else(|| Unfit::new("it is cut short"))?;
                if anatomy.module.replace(module).is_some() {
                    return Err(Unfit::new("it holds more than one core module"));
                }
            }
            payload => anatomy.take(payload)?,
        }
    }
    anatomy.names()
}

/// How a function of the component is made.
#[derive(Debug, Clone, Copy)]
struct Lift<'a> {
    function: &'a str,
    memory: Option<&'a str>,
    realloc: Option<&'a str>,
    post_return: Option<&'a str>,
}

/// The index spaces of a component, as far as they matter.
#[derive(Default)]
struct Anatomy<'a> {
    module: Option<&'a [u8]>,
    instances: usize,
    /// Core functions and memories: exports of the only instance, by name.
    functions: Vec<&'a str>,
    memories: Vec<&'a str>,
    lifts: Vec<Lift<'a>>,
    describe: Option<Lift<'a>>,
    validate: Option<Lift<'a>>,
}

impl<'a> Anatomy<'a> {
    fn take(&mut self, payload: Payload<'a>) -> Result<(), Unfit> {
        let read = |error: wasmparser::Error| Unfit::new(error.to_string());
        let other = |what: &str| Err(Unfit::new(format!("it holds {what}, which is more than one core module")));
        match payload {
            // Types cannot do anything.
            Payload::Version { .. }
            | Payload::ComponentTypeSection(_)
            | Payload::CoreTypeSection(_)
            | Payload::CustomSection(_) => Ok(()),
            Payload::ComponentImportSection(section) => {
                section.into_iter().try_for_each(|import| match import.map_err(read)?.ty {
                    ComponentTypeRef::Instance(_) | ComponentTypeRef::Type(_) => Ok(()),
                    _ => other("an import"),
                })
            }
            Payload::InstanceSection(section) => {
                section.into_iter().try_for_each(|instance| match instance.map_err(read)? {
                    Instance::Instantiate { args, .. } if args.is_empty() && self.instances == 0 => {
                        self.instances = 1;
                        Ok(())
                    }
                    _ => other("another core instance"),
                })
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
                    _ => other("an export that is no function"),
                }
            }),
            _ => other("a part of another kind"),
        }
    }

    fn alias(&mut self, alias: &ComponentAlias<'a>) -> Result<(), Unfit> {
        match *alias {
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, name, .. } => self.functions.push(name),
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Memory, name, .. } => self.memories.push(name),
            ComponentAlias::InstanceExport { kind: ComponentExternalKind::Type, .. } | ComponentAlias::Outer { .. } => {
            }
            _ => return Err(Unfit::new("it takes what is neither a function nor a memory from its core module")),
        }
        Ok(())
    }

    fn lift(&mut self, function: &CanonicalFunction) -> Result<(), Unfit> {
        let CanonicalFunction::Lift { core_func_index, options, .. } = function else {
            return Err(Unfit::new("it gives its core module functions to call"));
        };
        let name = |names: &[&'a str], index: u32| {
            names.get(index as usize).copied().ok_or_else(|| Unfit::new("it names a core item that it does not have"))
        };
        let mut lift =
            Lift { function: name(&self.functions, *core_func_index)?, memory: None, realloc: None, post_return: None };
        for option in options {
            match *option {
                CanonicalOption::UTF8 => {}
                CanonicalOption::Memory(index) => lift.memory = Some(name(&self.memories, index)?),
                CanonicalOption::Realloc(index) => lift.realloc = Some(name(&self.functions, index)?),
                CanonicalOption::PostReturn(index) => lift.post_return = Some(name(&self.functions, index)?),
                _ => return Err(Unfit::new("it passes strings or values in another way")),
            }
        }
        self.lifts.push(lift);
        Ok(())
    }

    /// An exported function gets an index of its own.
    fn export(&mut self, name: &str, index: u32) -> Result<(), Unfit> {
        let lift = *self.lifts.get(index as usize).ok_or_else(|| Unfit::new("it exports what it did not lift"))?;
        self.lifts.push(lift);
        match name {
            "describe" => self.describe = Some(lift),
            "validate" => self.validate = Some(lift),
            _ => {}
        }
        Ok(())
    }

    fn names(self) -> Result<(&'a [u8], Names<'a>), Unfit> {
        let missing = || Unfit::new("it lacks a part that the contract needs");
        let (describe, validate) = (self.describe.ok_or_else(missing)?, self.validate.ok_or_else(missing)?);
        if self.instances != 1 {
            return Err(missing());
        }
        let names = Names {
            memory: validate.memory.ok_or_else(missing)?,
            realloc: validate.realloc.ok_or_else(missing)?,
            describe: describe.function,
            described: describe.post_return,
            validate: validate.function,
        };
        if describe.memory != Some(names.memory) {
            return Err(Unfit::new("it answers from two memories"));
        }
        Ok((self.module.ok_or_else(missing)?, names))
    }
}
