//! One core module that does the work of a whole component; `anatomy.rs` finds or makes it. It consists of its bytes
//! and the indices of the functions of the contract.

use std::borrow::Cow;

/// The name under which a module exports the text of a panic: a global. The kits of all languages use this name.
pub(super) const LAST_WORDS: &str = "eye_last_words";

/// The functions of the contract. A new one gets its line here, and each way of running a module finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Describe,
    Validate,
    /// Gives the engine of schema files its schema.
    Configure,
    /// Called in this way in the engine of schema files alone.
    Redact,
}

impl Call {
    /// The functions of a component, those that every one exports first.
    pub(super) const ALL: [Self; 2] = [Self::Describe, Self::Validate];

    /// The functions of the engine of schema files.
    pub(super) const OF_ENGINE: [Self; 4] = [Self::Describe, Self::Validate, Self::Configure, Self::Redact];

    /// The function's name in the contract.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Validate => "validate",
            Self::Configure => "configure",
            Self::Redact => "redact",
        }
    }

    /// Whether a module without this function is no validator.
    pub(super) const fn is_required(self) -> bool {
        match self {
            Self::Describe | Self::Validate => true,
            Self::Configure | Self::Redact => false,
        }
    }
}

/// The core functions behind one function of the contract, as indices into the core module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lift {
    pub(super) function: u32,
    /// The memory with the texts of the call and its answer.
    pub(super) memory: u32,
    /// The function that allocates room for texts.
    pub(super) realloc: Option<u32>,
    /// The function that the gateway calls once it has read the answer.
    pub(super) post_return: Option<u32>,
}

/// One core module without imports that does the work of a whole component.
#[derive(Debug)]
pub(super) struct Core<'a> {
    pub(super) module: Cow<'a, [u8]>,
    pub(super) calls: Vec<(Call, Lift)>,
}

/// Why a component cannot run as one core module, or why that module cannot be rewritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) String);

impl Unfit {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}
