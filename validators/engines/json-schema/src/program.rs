//! A schema in the form in which it judges: nodes that refer to each other by their numbers.

use regex::Regex;

use super::format;
use super::json::Value;
use super::number::{Decimal, Divisor};

/// The number of a node.
pub(crate) type NodeId = usize;

/// Everything that a schema file becomes.
#[derive(Debug)]
pub struct Program {
    pub(crate) nodes: Vec<Node>,
    pub(crate) root: NodeId,
    pub(crate) resources: Vec<Targets>,
    /// Some node asks which members and items others have looked at.
    pub(crate) tracks: bool,
    /// Some node takes its value out of events.
    pub(crate) redacts: bool,
    pub(crate) title: Option<&'static str>,
    pub(crate) description: Option<&'static str>,
    pub(crate) draft: &'static str,
    /// Data that must be accepted, and that must be rejected.
    pub(crate) examples: Vec<&'static Value<'static>>,
    pub(crate) rejects: Vec<&'static Value<'static>>,
    pub(crate) warnings: Vec<String>,
}

/// What a dynamic reference may find in a resource.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    pub(crate) dynamic: Vec<(String, NodeId)>,
    /// Its root, if that has `$recursiveAnchor`.
    pub(crate) recursive: Option<NodeId>,
}

/// One schema within the file.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) resource: usize,
    /// The schema is `true` or `false`.
    pub(crate) always: Option<bool>,
    pub(crate) checks: Vec<Check>,
    pub(crate) unevaluated_items: Option<NodeId>,
    pub(crate) unevaluated_properties: Option<NodeId>,
    pub(crate) messages: Messages,
    /// Its value is taken out of events.
    pub(crate) redacts: bool,
}

/// What the author says in place of the engine.
#[derive(Debug, Default)]
pub(crate) enum Messages {
    #[default]
    None,
    All(&'static str),
    /// By keyword.
    Of(Vec<(&'static str, &'static str)>),
}

impl Messages {
    pub(crate) fn of(&self, keyword: &str) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::All(text) => Some(text),
            Self::Of(texts) => texts.iter().find(|(own, _)| *own == keyword).map(|(_, text)| *text),
        }
    }
}

/// The types of JSON Schema. A whole number is a number too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Types(pub u8);

impl Types {
    pub(crate) const NAMES: [&'static str; 7] = ["null", "boolean", "number", "string", "array", "object", "integer"];

    pub(crate) fn has(self, place: usize) -> bool {
        self.0 >> place & 1 == 1
    }
}

/// A number of items, members or characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    Characters,
    Items,
    Members,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Least,
    Most,
}

/// A fixed value of a schema, and its text.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) number: Decimal,
    pub(crate) text: &'static str,
}

/// One keyword, or some that depend on each other.
#[derive(Debug)]
pub(crate) enum Check {
    Type(Types),
    Enum(&'static [Value<'static>]),
    Const(&'static Value<'static>),
    Bound(Side, bool, Limit),
    MultipleOf(Divisor, &'static str),
    Count(Counted, Side, u64),
    Pattern(Regex, &'static str),
    Format(&'static str, format::Check),
    Unique,
    Required(Vec<&'static str>),
    /// The keyword, and for each member those that it requires.
    DependentRequired(&'static str, Vec<(&'static str, Vec<&'static str>)>),
    Properties(Properties),
    PropertyNames(NodeId),
    DependentSchemas(&'static str, Vec<(&'static str, NodeId)>),
    Items(Items),
    Contains(Contains),
    Ref(NodeId),
    /// A reference that goes to the outermost resource with an anchor of this name.
    DynamicRef(NodeId, String),
    RecursiveRef(NodeId),
    AllOf(Vec<NodeId>),
    AnyOf(Vec<NodeId>),
    OneOf(Vec<NodeId>),
    Not(NodeId),
    If(NodeId, Option<NodeId>, Option<NodeId>),
}

#[derive(Debug, Default)]
pub(crate) struct Properties {
    /// In the order of their names.
    pub(crate) named: Vec<(&'static str, NodeId)>,
    pub(crate) patterns: Vec<(Regex, NodeId)>,
    pub(crate) additional: Option<NodeId>,
}

impl Properties {
    pub(crate) fn of(&self, name: &str) -> Option<NodeId> {
        self.named.binary_search_by(|(own, _)| (*own).cmp(name)).ok().map(|place| self.named[place].1)
    }
}

#[derive(Debug)]
pub(crate) struct Items {
    /// The keyword of the first items.
    pub(crate) first_keyword: &'static str,
    pub(crate) first: Vec<NodeId>,
    /// The keyword of the others.
    pub(crate) rest_keyword: &'static str,
    pub(crate) rest: Option<NodeId>,
}

#[derive(Debug)]
pub(crate) struct Contains {
    pub(crate) node: NodeId,
    pub(crate) least: u64,
    pub(crate) most: Option<u64>,
    /// The items that it finds count as looked at.
    pub(crate) marks: bool,
}
