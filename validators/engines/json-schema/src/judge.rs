//! Judges a value by a program. A first look only finds whether the value fits, and ends at the first keyword that says
//! no; nearly all events fit. A second look tells what does not fit. No message quotes the value: where it is, what is
//! wanted and of which type it is say enough.

use std::collections::HashSet;

use super::equal::{equal, twins};
use super::json::{Kind, Value};
use super::number::Decimal;
use super::program::{
    Check, Contains, Counted, Items, Limit, Messages, Node, NodeId, Program, Properties, Side, Types,
};

/// Schemas within each other that look at one value and at those within it. The stack has room for more.
const DEPTH_MAX: usize = 600;
/// Characters of a value of the schema that a message quotes.
const QUOTED_CHARACTERS_MAX: usize = 200;

/// One reason to reject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The place in the data, as a JSON Pointer.
    pub pointer: String,
    /// The keyword in snake case.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// How much may be told.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// The violations of one event.
    pub violations: usize,
    /// Bytes of all their texts.
    pub bytes: usize,
}

impl Program {
    /// Whether the value fits.
    pub(crate) fn fits(&self, value: &Value<'_>) -> bool {
        self.fits_node(self.root, value)
    }

    /// Whether the value fits one schema of the file.
    pub(crate) fn fits_node(&self, node: NodeId, value: &Value<'_>) -> bool {
        let mut look = Look { program: self, scope: Vec::new(), depth: 0, found: None };
        look.node(node, value, &Place::Root, "", None)
    }

    /// What does not fit. Empty if all does.
    pub(crate) fn violations(&self, value: &Value<'_>, room: Room) -> Vec<Violation> {
        let found = Found { room, list: Vec::new(), seen: HashSet::new() };
        let mut look = Look { program: self, scope: Vec::new(), depth: 0, found: Some(found) };
        look.node(self.root, value, &Place::Root, "", None);
        look.found.map(|found| found.list).unwrap_or_default()
    }
}

/// The way to a value, from within.
enum Place<'p> {
    Root,
    Key(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl Place<'_> {
    fn pointer(&self) -> String {
        let mut parts = Vec::new();
        let mut place = self;
        loop {
            match place {
                Self::Root => break,
                Self::Key(outer, key) => {
                    parts.push(key.replace('~', "~0").replace('/', "~1"));
                    place = outer;
                }
                Self::Item(outer, item) => {
                    parts.push(item.to_string());
                    place = outer;
                }
            }
        }
        parts.iter().rev().fold(String::new(), |pointer, part| pointer + "/" + part)
    }
}

struct Found {
    room: Room,
    list: Vec<Violation>,
    seen: HashSet<(String, &'static str)>,
}

impl Found {
    fn is_full(&self) -> bool {
        self.list.len() >= self.room.violations
    }

    fn add(&mut self, pointer: String, code: &'static str, message: String) {
        let bytes = pointer.len() + code.len() + message.len();
        if self.is_full() {
            return;
        }
        let pointer = match self.room.bytes.checked_sub(bytes) {
            Some(left) => {
                self.room.bytes = left;
                pointer
            }
            // A verdict needs one reason at least.
            None if self.list.is_empty() => String::new(),
            None => return,
        };
        if self.seen.insert((pointer.clone(), code)) {
            self.list.push(Violation { pointer, code, message });
        }
    }
}

/// Which members or items a schema has looked at.
struct Looked(Vec<bool>);

impl Looked {
    fn of(value: &Value<'_>) -> Self {
        Self(match &value.kind {
            Kind::List(items) => vec![false; items.len()],
            Kind::Object(object) => vec![false; object.members.len()],
            _ => Vec::new(),
        })
    }

    fn at(&mut self, place: usize) {
        if let Some(looked) = self.0.get_mut(place) {
            *looked = true;
        }
    }

    fn at_all(&mut self) {
        self.0.fill(true);
    }

    fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(own, other)| *own |= other);
    }
}

/// Its functions call each other as deep as the data and the schema are. They are kept apart, so that none takes the stack
/// that only others need.
struct Look<'a> {
    program: &'a Program,
    /// The resources that were entered, the outermost first.
    scope: Vec<usize>,
    depth: usize,
    /// `None` where only the answer counts.
    found: Option<Found>,
}

impl<'a> Look<'a> {
    /// Whether a value fits a schema. `keyword` is the one under which the schema stands.
    fn node(
        &mut self,
        id: NodeId,
        value: &Value<'_>,
        place: &Place<'_>,
        keyword: &'static str,
        looked: Option<&mut Looked>,
    ) -> bool {
        let node = &self.program.nodes[id];
        match node.always {
            None => {}
            Some(true) => return true,
            Some(false) => {
                let code = if keyword.is_empty() { "not" } else { keyword };
                let what = match keyword {
                    "additional_properties" | "unevaluated_properties" => "is no field that may be here",
                    "items" | "additional_items" | "unevaluated_items" => "is one item too many",
                    _ => "must not be here",
                };
                self.tell(&Messages::None, place, code, || what.to_owned());
                return false;
            }
        }
        assert!(self.depth < DEPTH_MAX, "the schema leads through more than {DEPTH_MAX} schemas for one value");
        self.depth += 1;
        let enters = self.scope.last() != Some(&node.resource);
        if enters {
            self.scope.push(node.resource);
        }
        let fits = self.checks(node, value, place, looked);
        if enters {
            self.scope.pop();
        }
        self.depth -= 1;
        fits
    }

    fn checks(&mut self, node: &'a Node, value: &Value<'_>, place: &Place<'_>, looked: Option<&mut Looked>) -> bool {
        // What was taken out before fits, so that an event that was kept so can be judged again.
        if node.redacts && value.text() == Some(super::redact::REDACTED) {
            return true;
        }
        let tracks = self.program.tracks && matches!(value.kind, Kind::List(_) | Kind::Object(_));
        let mut own = tracks.then(|| Looked::of(value));
        let mut fits = true;
        for check in &node.checks {
            fits &= self.check(node, check, value, place, own.as_mut());
            if !fits && self.found.as_ref().is_none_or(Found::is_full) {
                return false;
            }
        }
        if let Some(own) = &mut own {
            fits &= self.unevaluated(node, value, place, own);
            if let Some(looked) = looked.filter(|_| fits) {
                looked.join(own);
            }
        }
        fits
    }

    /// Like [`Look::node`], without telling anything.
    #[inline(never)]
    fn quietly(&mut self, id: NodeId, value: &Value<'_>, looked: Option<&mut Looked>) -> bool {
        let found = self.found.take();
        let fits = self.node(id, value, &Place::Root, "", looked);
        self.found = found;
        fits
    }

    #[inline(never)]
    fn tell(&mut self, messages: &Messages, place: &Place<'_>, code: &'static str, message: impl FnOnce() -> String) {
        if let Some(found) = &mut self.found {
            let message = messages.of(&keyword_of(code)).map_or_else(message, str::to_owned);
            found.add(place.pointer(), code, message);
        }
    }

    fn check(
        &mut self,
        node: &'a Node,
        check: &'a Check,
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        match check {
            Check::Required(names) => self.required(node, names, value, place, "required"),
            Check::DependentRequired(code, lists) => {
                let Some(object) = value.object() else { return true };
                let lists = lists.iter().filter(|(name, _)| object.get(name).is_some());
                lists.fold(true, |fits, (_, names)| self.required(node, names, value, place, code) && fits)
            }
            Check::Properties(properties) => self.properties(properties, value, place, looked),
            Check::PropertyNames(names) => self.names(node, *names, value, place),
            Check::DependentSchemas(code, schemas) => {
                let Some(object) = value.object() else { return true };
                let schemas = schemas.iter().filter(|(name, _)| object.get(name).is_some());
                schemas.fold(true, |fits, (_, schema)| {
                    self.node(*schema, value, place, code, looked.as_deref_mut()) && fits
                })
            }
            Check::Items(items) => self.items(items, value, place, looked),
            Check::Contains(contains) => self.contains(node, contains, value, place, looked),
            Check::Ref(target) => self.node(*target, value, place, "ref", looked),
            Check::DynamicRef(target, anchor) => {
                let outermost = self.scope.iter().find_map(|resource| {
                    let dynamic = &self.program.resources[*resource].dynamic;
                    dynamic.iter().find(|(name, _)| name == anchor).map(|(_, node)| *node)
                });
                self.node(outermost.unwrap_or(*target), value, place, "dynamic_ref", looked)
            }
            Check::RecursiveRef(target) => {
                let resource = self.program.nodes[*target].resource;
                let is_dynamic = self.program.resources[resource].recursive.is_some();
                let outermost = self.scope.iter().find_map(|resource| self.program.resources[*resource].recursive);
                let target = outermost.filter(|_| is_dynamic).unwrap_or(*target);
                self.node(target, value, place, "recursive_ref", looked)
            }
            Check::AllOf(all) => {
                let mut fits = true;
                for one in all {
                    fits &= self.node(*one, value, place, "all_of", looked.as_deref_mut());
                    if !fits && self.knows_enough() {
                        break;
                    }
                }
                fits
            }
            Check::AnyOf(any) => self.any_of(node, any, value, place, looked),
            Check::OneOf(all) => self.one_of(node, all, value, place, looked),
            Check::Not(other) => {
                let fits = !self.quietly(*other, value, None);
                if !fits {
                    self.tell(&node.messages, place, "not", || "must not fit what is ruled out here".to_owned());
                }
                fits
            }
            Check::If(condition, then, other) => {
                let holds = self.quietly(*condition, value, looked.as_deref_mut());
                match if holds { then } else { other } {
                    Some(branch) => self.node(*branch, value, place, if holds { "then" } else { "else" }, looked),
                    None => true,
                }
            }
            simple => self.simple(node, simple, value, place),
        }
    }

    /// The keywords that look at the value alone.
    #[inline(never)]
    fn simple(&mut self, node: &'a Node, check: &'a Check, value: &Value<'_>, place: &Place<'_>) -> bool {
        let (fits, code): (bool, &'static str) = match (check, &value.kind) {
            (Check::Type(types), _) => (is_of_type(*types, value), "type"),
            (Check::Enum(values), _) => (values.iter().any(|own| equal(own, value)), "enum"),
            (Check::Const(own), _) => (equal(own, value), "const"),
            (Check::Bound(side, is_exclusive, limit), Kind::Number(text)) => bound(*side, *is_exclusive, limit, text),
            (Check::MultipleOf(divisor, _), Kind::Number(text)) => {
                (Decimal::read(text).is_multiple_of(divisor), "multiple_of")
            }
            (Check::Count(Counted::Characters, side, count), Kind::Text(text)) => {
                let code = if *side == Side::Least { "min_length" } else { "max_length" };
                (is_within(*side, *count, text.chars().count()), code)
            }
            (Check::Count(Counted::Items, side, count), Kind::List(items)) => {
                let code = if *side == Side::Least { "min_items" } else { "max_items" };
                (is_within(*side, *count, items.len()), code)
            }
            (Check::Count(Counted::Members, side, count), Kind::Object(object)) => {
                let code = if *side == Side::Least { "min_properties" } else { "max_properties" };
                (is_within(*side, *count, object.members.len()), code)
            }
            (Check::Pattern(pattern, _), Kind::Text(text)) => (pattern.is_match(text), "pattern"),
            (Check::Format(_, check), Kind::Text(text)) => (check(text), "format"),
            (Check::Unique, Kind::List(items)) => (twins(items).is_none(), "unique_items"),
            _ => return true,
        };
        if !fits {
            self.tell(&node.messages, place, code, || wanted(check, value));
        }
        fits
    }

    #[inline(never)]
    fn required(
        &mut self,
        node: &'a Node,
        names: &[&'static str],
        value: &Value<'_>,
        place: &Place<'_>,
        code: &'static str,
    ) -> bool {
        let Some(object) = value.object() else { return true };
        let mut fits = true;
        for name in names.iter().filter(|name| object.get(name).is_none()) {
            fits = false;
            // What the author says of a field is said where it is missing, too.
            let of_field = node.checks.iter().find_map(|check| match check {
                Check::Properties(properties) => properties.of(name),
                _ => None,
            });
            let messages = of_field.map(|field| &self.program.nodes[field].messages);
            let messages = messages.filter(|messages| messages.of("required").is_some()).unwrap_or(&node.messages);
            self.tell(messages, &Place::Key(place, name), code, || "must be there".to_owned());
        }
        fits
    }

    #[inline(never)]
    fn properties(
        &mut self,
        properties: &'a Properties,
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        let Some(object) = value.object() else { return true };
        let mut fits = true;
        for (at, member) in object.members.iter().enumerate() {
            let place = Place::Key(place, &member.key);
            let mut is_known = false;
            if let Some(node) = properties.of(&member.key) {
                is_known = true;
                fits &= self.node(node, &member.value, &place, "properties", None);
            }
            for (_, node) in properties.patterns.iter().filter(|(pattern, _)| pattern.is_match(&member.key)) {
                is_known = true;
                fits &= self.node(*node, &member.value, &place, "pattern_properties", None);
            }
            if let Some(node) = properties.additional.filter(|_| !is_known) {
                is_known = true;
                fits &= self.node(node, &member.value, &place, "additional_properties", None);
            }
            if let Some(looked) = looked.as_deref_mut().filter(|_| is_known) {
                looked.at(at);
            }
            if !fits && self.knows_enough() {
                return false;
            }
        }
        fits
    }

    #[inline(never)]
    fn names(&mut self, node: &'a Node, names: NodeId, value: &Value<'_>, place: &Place<'_>) -> bool {
        let Some(object) = value.object() else { return true };
        let mut fits = true;
        for member in &object.members {
            let name = Value { at: 0, kind: Kind::Text(member.key.as_ref().into()) };
            if !self.quietly(names, &name, None) {
                fits = false;
                let place = Place::Key(place, &member.key);
                self.tell(&node.messages, &place, "property_names", || "has a name that may not be here".to_owned());
            }
        }
        fits
    }

    #[inline(never)]
    fn items(
        &mut self,
        items: &'a Items,
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        let Some(list) = value.list() else { return true };
        let mut fits = true;
        for (at, item) in list.iter().enumerate() {
            let first = items.first.get(at).map(|node| (*node, items.first_keyword));
            let Some((node, keyword)) = first.or(items.rest.map(|node| (node, items.rest_keyword))) else { break };
            fits &= self.node(node, item, &Place::Item(place, at), keyword, None);
            if let Some(looked) = looked.as_deref_mut() {
                looked.at(at);
            }
            if !fits && self.knows_enough() {
                return false;
            }
        }
        fits
    }

    /// Whether a value that does not fit needs no further look: nobody asks why, or there is no room for one more reason. A
    /// sender may write a list of thousands that are all wrong.
    fn knows_enough(&self) -> bool {
        self.found.as_ref().is_none_or(Found::is_full)
    }

    #[inline(never)]
    fn contains(
        &mut self,
        node: &'a Node,
        contains: &Contains,
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        let Some(list) = value.list() else { return true };
        let mut count = 0;
        for (at, item) in list.iter().enumerate() {
            if self.quietly(contains.node, item, None) {
                count += 1;
                if let Some(looked) = looked.as_deref_mut().filter(|_| contains.marks) {
                    looked.at(at);
                }
            }
        }
        if count < contains.least {
            let least = contains.least;
            let code = if least == 1 { "contains" } else { "min_contains" };
            self.tell(&node.messages, place, code, || format!("must have {least} items or more of the kind asked for"));
        }
        if let Some(most) = contains.most.filter(|most| count > *most) {
            self.tell(&node.messages, place, "max_contains", || {
                format!("must have {most} items at most of the kind asked for")
            });
        }
        count >= contains.least && contains.most.is_none_or(|most| count <= most)
    }

    #[inline(never)]
    fn any_of(
        &mut self,
        node: &'a Node,
        any: &[NodeId],
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        let mut fits = false;
        for one in any {
            fits |= self.quietly(*one, value, looked.as_deref_mut());
            // The others may have looked at more.
            if fits && looked.is_none() {
                break;
            }
        }
        if !fits {
            let count = any.len();
            self.tell(&node.messages, place, "any_of", || {
                format!("must fit one of {count} alternatives, and fits none")
            });
        }
        fits
    }

    #[inline(never)]
    fn one_of(
        &mut self,
        node: &'a Node,
        all: &[NodeId],
        value: &Value<'_>,
        place: &Place<'_>,
        mut looked: Option<&mut Looked>,
    ) -> bool {
        let mut fitting = 0;
        for one in all {
            fitting += usize::from(self.quietly(*one, value, looked.as_deref_mut()));
        }
        if fitting != 1 {
            let count = all.len();
            self.tell(&node.messages, place, "one_of", || {
                let fitting = if fitting == 0 { "none".to_owned() } else { fitting.to_string() };
                format!("must fit exactly one of {count} alternatives, and fits {fitting}")
            });
        }
        fitting == 1
    }

    #[inline(never)]
    fn unevaluated(&mut self, node: &'a Node, value: &Value<'_>, place: &Place<'_>, looked: &mut Looked) -> bool {
        let mut fits = true;
        match (&value.kind, node.unevaluated_properties, node.unevaluated_items) {
            (Kind::Object(object), Some(rest), _) => {
                for (_, member) in object.members.iter().enumerate().filter(|(at, _)| !looked.0[*at]) {
                    let place = Place::Key(place, &member.key);
                    fits &= self.node(rest, &member.value, &place, "unevaluated_properties", None);
                }
                looked.at_all();
            }
            (Kind::List(items), _, Some(rest)) => {
                for (at, item) in items.iter().enumerate().filter(|(at, _)| !looked.0[*at]) {
                    fits &= self.node(rest, item, &Place::Item(place, at), "unevaluated_items", None);
                }
                looked.at_all();
            }
            _ => {}
        }
        fits
    }
}

/// The keyword of a code.
fn keyword_of(code: &str) -> String {
    let mut parts = code.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |keyword, part| {
        let (head, tail) = part.split_at(1);
        keyword + &head.to_ascii_uppercase() + tail
    })
}

fn is_of_type(types: Types, value: &Value<'_>) -> bool {
    let place = match &value.kind {
        Kind::Null => 0,
        Kind::Bool(_) => 1,
        Kind::Number(text) => {
            return types.has(2) || types.has(6) && Decimal::read(text).is_whole();
        }
        Kind::Text(_) => 3,
        Kind::List(_) => 4,
        Kind::Object(_) => 5,
    };
    types.has(place)
}

fn bound(side: Side, is_exclusive: bool, limit: &Limit, text: &str) -> (bool, &'static str) {
    let order = Decimal::read(text).cmp(&limit.number);
    match (side, is_exclusive) {
        (Side::Least, false) => (order.is_ge(), "minimum"),
        (Side::Least, true) => (order.is_gt(), "exclusive_minimum"),
        (Side::Most, false) => (order.is_le(), "maximum"),
        (Side::Most, true) => (order.is_lt(), "exclusive_maximum"),
    }
}

fn is_within(side: Side, limit: u64, count: usize) -> bool {
    match side {
        Side::Least => count as u64 >= limit,
        Side::Most => count as u64 <= limit,
    }
}

/// A text of the schema in a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_CHARACTERS_MAX).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

/// What a keyword wants.
fn wanted(check: &Check, value: &Value<'_>) -> String {
    match check {
        Check::Type(types) => {
            let names = Types::NAMES.iter().enumerate().filter(|(place, _)| types.has(*place)).map(|(_, name)| *name);
            format!("must be of type {}, and is {}", names.collect::<Vec<_>>().join(" or "), value.named())
        }
        Check::Enum(values) => {
            let values: Vec<String> = values.iter().map(ToString::to_string).collect();
            format!("must be one of {}", quoted(&values.join(", ")))
        }
        Check::Const(own) => format!("must be {}", quoted(&own.to_string())),
        Check::Bound(Side::Least, false, limit) => format!("must be {} or more", quoted(limit.text)),
        Check::Bound(Side::Least, true, limit) => format!("must be more than {}", quoted(limit.text)),
        Check::Bound(Side::Most, false, limit) => format!("must be {} or less", quoted(limit.text)),
        Check::Bound(Side::Most, true, limit) => format!("must be less than {}", quoted(limit.text)),
        Check::MultipleOf(_, text) => format!("must be a multiple of {}", quoted(text)),
        Check::Count(counted, side, count) => {
            let what = match counted {
                Counted::Characters => "characters",
                Counted::Items => "items",
                Counted::Members => "fields",
            };
            let how = if *side == Side::Least { "or more" } else { "at most" };
            format!("must have {count} {what} {how}")
        }
        Check::Pattern(_, text) => format!("must match the pattern `{}`", quoted(text)),
        Check::Format(name, _) => format!("must be a text of the format {name}"),
        Check::Unique => match value.list().and_then(twins) {
            Some((one, other)) => format!("must have no item twice, and items {one} and {other} are the same"),
            None => "must have no item twice".to_owned(),
        },
        _ => "must fit".to_owned(),
    }
}
