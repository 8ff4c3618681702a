//! Takes out of data what a schema marks as secret. Where alternatives fit the data they decide; where none does, each
//! of them may have been meant, so all of them take out.

use std::collections::HashSet;

use super::json::{Kind, Value, write_with};
use super::program::{Check, NodeId, Program};

/// What stands in the place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";
const REDACTED_JSON: &str = "\"[redacted]\"";

/// Pairs of a schema and a value that are looked at. Nobody's data has more.
const LOOKS_MAX: usize = 1_000_000;

impl Program {
    /// The data without its secrets; `None` if it has none.
    pub(crate) fn redact(&self, data: &Value<'_>) -> Option<String> {
        if !self.redacts {
            return None;
        }
        let mut search = Search { program: self, looked: HashSet::new(), secrets: HashSet::new() };
        search.node(self.root, data);
        let secrets = search.secrets;
        if secrets.is_empty() {
            return None;
        }
        if secrets.contains(&data.at) {
            return Some("{}".to_owned());
        }
        let mut text = String::new();
        let mut instead = |value: &Value<'_>, _| secrets.contains(&value.at).then_some(REDACTED_JSON);
        write_with(data, &mut text, &mut instead).expect("a text takes what is written to it");
        Some(text)
    }
}

struct Search<'a> {
    program: &'a Program,
    /// The schema and the place of each value that was looked at.
    looked: HashSet<(NodeId, usize)>,
    /// The places of secrets.
    secrets: HashSet<usize>,
}

impl<'a> Search<'a> {
    fn node(&mut self, id: NodeId, value: &Value<'_>) {
        assert!(self.looked.len() < LOOKS_MAX, "the data has more places than are searched for secrets");
        if !self.looked.insert((id, value.at)) {
            return;
        }
        let node = &self.program.nodes[id];
        if node.redacts && value.text() != Some(REDACTED) {
            self.secrets.insert(value.at);
        }
        for check in &node.checks {
            self.check(check, value);
        }
        match &value.kind {
            Kind::Object(object) => {
                let known = |name: &str| {
                    node.checks.iter().any(|check| match check {
                        Check::Properties(own) => {
                            own.of(name).is_some() || own.patterns.iter().any(|(pattern, _)| pattern.is_match(name))
                        }
                        _ => false,
                    })
                };
                if let Some(rest) = node.unevaluated_properties {
                    object
                        .members
                        .iter()
                        .filter(|member| !known(&member.key))
                        .for_each(|member| self.node(rest, &member.value));
                }
            }
            Kind::List(items) => {
                if let Some(rest) = node.unevaluated_items {
                    items.iter().for_each(|item| self.node(rest, item));
                }
            }
            _ => {}
        }
    }

    fn check(&mut self, check: &'a Check, value: &Value<'_>) {
        match check {
            Check::Properties(properties) => {
                for member in value.object().iter().flat_map(|object| &object.members) {
                    let own = properties.of(&member.key);
                    let patterns = properties.patterns.iter().filter(|(pattern, _)| pattern.is_match(&member.key));
                    let named: Vec<NodeId> = own.into_iter().chain(patterns.map(|(_, node)| *node)).collect();
                    let rest = properties.additional.filter(|_| named.is_empty());
                    named.into_iter().chain(rest).for_each(|node| self.node(node, &member.value));
                }
            }
            Check::Items(items) => {
                for (at, item) in value.list().unwrap_or_default().iter().enumerate() {
                    let node = items.first.get(at).copied().or(items.rest);
                    node.into_iter().for_each(|node| self.node(node, item));
                }
            }
            Check::Contains(contains) => {
                value.list().unwrap_or_default().iter().for_each(|item| self.node(contains.node, item));
            }
            Check::Ref(target) => self.node(*target, value),
            // Any of them may be the one that is meant.
            Check::DynamicRef(target, anchor) => {
                self.node(*target, value);
                let dynamic = self.program.resources.iter().flat_map(|resource| &resource.dynamic);
                dynamic.filter(|(name, _)| name == anchor).for_each(|(_, node)| self.node(*node, value));
            }
            Check::RecursiveRef(target) => {
                self.node(*target, value);
                let recursive = self.program.resources.iter().filter_map(|resource| resource.recursive);
                recursive.for_each(|node| self.node(node, value));
            }
            Check::AllOf(all) => all.iter().for_each(|one| self.node(*one, value)),
            Check::AnyOf(all) | Check::OneOf(all) => {
                let fitting: Vec<NodeId> =
                    all.iter().copied().filter(|one| self.program.fits_node(*one, value)).collect();
                let chosen = if fitting.is_empty() { all.clone() } else { fitting };
                chosen.into_iter().for_each(|one| self.node(one, value));
            }
            Check::DependentSchemas(_, schemas) => {
                let Some(object) = value.object() else { return };
                let schemas = schemas.iter().filter(|(name, _)| object.get(name).is_some());
                schemas.for_each(|(_, schema)| self.node(*schema, value));
            }
            Check::If(condition, then, other) => {
                self.node(*condition, value);
                let branch = if self.program.fits_node(*condition, value) { then } else { other };
                branch.iter().for_each(|branch| self.node(*branch, value));
            }
            _ => {}
        }
    }
}
