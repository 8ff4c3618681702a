//! What loading makes of a module's file: finished code and the state in which the code judges, as plain data. Whoever has
//! a [`Built`] has all that judging needs, and reads no byte of the file any more.

use std::fmt;
use std::ops::Deref;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::resident::Described;

mod finished;

pub(super) use finished::Finished;

/// A module that passed everything, as data.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Built {
    /// How events are put to it.
    pub(super) way: BuiltWay,
    /// Why it is run so.
    pub(super) isolation_reason: String,
    /// What it says of itself.
    pub(super) summary: String,
    /// How many examples it passed.
    pub(super) examples: usize,
}

/// How a module is run, with what that needs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum BuiltWay {
    /// Without the component around it, from the state that was taken.
    Resident(Described),
    /// As a component: `describe` runs before each event. With the bytes that it was compiled from.
    Fresh(Finished, usize),
}

/// Bytes that are written and read in one piece, and not one by one.
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
