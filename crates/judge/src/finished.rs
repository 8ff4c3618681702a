//! Code that the compiler has finished. The engine runs such code as it is and checks next to nothing. So the engine
//! only gets values of this type, which come from the compiler or from bytes whose seal was checked. No other file has
//! `unsafe` in it.

use std::fmt;
use std::ops::Deref;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// Finished code of a core module or of a component. The gateway reads it from bytes only after it has checked their
/// seal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Finished {
    Module(Blob),
    Component(Blob),
}

/// Finished code once the engine has taken it.
enum Opened {
    Module(Module),
    Component(Component),
}

impl Finished {
    pub(super) fn of_module(module: &Module) -> wasmtime::Result<Self> {
        Ok(Self::Module(module.serialize()?.into()))
    }

    pub(super) fn of_component(component: &Component) -> wasmtime::Result<Self> {
        Ok(Self::Component(component.serialize()?.into()))
    }

    /// Gives the code to an engine as a core module.
    pub(super) fn module(&self, engine: &Engine) -> wasmtime::Result<Module> {
        match self.open(engine)? {
            Opened::Module(module) => Ok(module),
            Opened::Component(_) => Err(wasmtime::Error::msg("the code is a component's")),
        }
    }

    /// Gives the code to an engine as a component.
    pub(super) fn component(&self, engine: &Engine) -> wasmtime::Result<Component> {
        match self.open(engine)? {
            Opened::Component(component) => Ok(component),
            Opened::Module(_) => Err(wasmtime::Error::msg("the code is a core module's")),
        }
    }

    #[expect(unsafe_code, reason = "there is no other way to hand finished code to the engine")]
    fn open(&self, engine: &Engine) -> wasmtime::Result<Opened> {
        match self {
            // SAFETY: the bytes are the unchanged result of `serialize` above. This process made them, or another one
            // of this program did and their seal was checked since. The engine itself refuses bytes of another version.
            Self::Module(bytes) => unsafe { Module::deserialize(engine, &**bytes) }.map(Opened::Module),
            // SAFETY: as above.
            Self::Component(bytes) => unsafe { Component::deserialize(engine, &**bytes) }.map(Opened::Component),
        }
    }
}

/// Bytes that serde writes and reads in one piece, and not one by one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Blob(Box<[u8]>);

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}
