//! One core module that does what a component does, as `anatomy.rs` finds or makes it: its bytes, and which of its functions
//! are those of the contract.

use std::borrow::Cow;

/// Where a module keeps the text of a panic: an exported global whose name its kit chooses, the same in every language.
pub(super) const LAST_WORDS: &str = "eye_last_words";

/// The functions of the contract. Another one that a module may export gets its line here, and each way of running finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Describe,
    Validate,
}

impl Call {
    /// All of them, those that every module exports first.
    pub(super) const ALL: [Self; 2] = [Self::Describe, Self::Validate];

    /// Its name in the contract.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Validate => "validate",
        }
    }

    /// Whether a module without it is no validator.
    pub(super) const fn is_required(self) -> bool {
        match self {
            Self::Describe | Self::Validate => true,
        }
    }
}

/// The core functions that a function of the contract is made of: indices into the core module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lift {
    pub(super) function: u32,
    /// Where it finds its texts and leaves its answer.
    pub(super) memory: u32,
    /// What gives places for its texts.
    pub(super) realloc: Option<u32>,
    /// What is told when its answer was read.
    pub(super) post_return: Option<u32>,
}

/// One core module without imports that does what a component does.
#[derive(Debug)]
pub(super) struct Core<'a> {
    pub(super) module: Cow<'a, [u8]>,
    pub(super) calls: Vec<(Call, Lift)>,
}

/// Why a component cannot be run as one core module, or that not be rewritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unfit(pub(super) String);

impl Unfit {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}
