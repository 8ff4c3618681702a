//! Code that the compiler has finished. The engine runs such code as it is and checks next to nothing, so this type is all
//! that it is ever given: a value comes from the compiler, or from bytes whose seal was checked. It is the only file with
//! `unsafe` in it.

use serde::{Deserialize, Serialize};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::Blob;

/// Finished code of a core module or of a component. Read from bytes only after their seal was checked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in super::super) enum Finished {
    Module(Blob),
    Component(Blob),
}

/// What an engine makes of finished code.
enum Opened {
    Module(Module),
    Component(Component),
}

impl Finished {
    pub(in super::super) fn of_module(module: &Module) -> wasmtime::Result<Self> {
        Ok(Self::Module(module.serialize()?.into()))
    }

    pub(in super::super) fn of_component(component: &Component) -> wasmtime::Result<Self> {
        Ok(Self::Component(component.serialize()?.into()))
    }

    /// The core module of it.
    pub(in super::super) fn module(&self, engine: &Engine) -> wasmtime::Result<Module> {
        match self.open(engine)? {
            Opened::Module(module) => Ok(module),
            Opened::Component(_) => Err(wasmtime::Error::msg("the code is a component's")),
        }
    }

    /// The component of it.
    pub(in super::super) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        match self.open(engine)? {
            Opened::Component(component) => Ok(component),
            Opened::Module(_) => Err(wasmtime::Error::msg("the code is a core module's")),
        }
    }

    #[expect(unsafe_code, reason = "there is no other way to hand finished code to the engine")]
    fn open(&self, engine: &Engine) -> wasmtime::Result<Opened> {
        match self {
            // SAFETY: the bytes are what `serialize` returned above, unchanged: made by this process, or by another one
            // of this program and then held against their seal. The engine itself refuses those of another version.
            Self::Module(bytes) => unsafe { Module::deserialize(engine, &**bytes) }.map(Opened::Module),
            // SAFETY: as above.
            Self::Component(bytes) => unsafe { Component::deserialize(engine, &**bytes) }.map(Opened::Component),
        }
    }
}
