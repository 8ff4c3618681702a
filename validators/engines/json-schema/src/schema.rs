//! Reads a schema file and makes a program of it. What is refused is told with its line, so that a mistake costs its
//! author one look: a keyword that is nearly one, a value of the wrong kind, a reference out of the file, a pattern
//! that could take for ever.

use std::collections::HashMap;

use super::format::FORMATS;
use super::json::{Kind, Object, Value, line_and_column};
use super::number::Decimal;
use super::pattern;
use super::program::{
    Check, Contains, Counted, Items, Limit, Messages, Node, NodeId, Program, Properties, Side, Targets, Types,
};
use super::uri;
use super::words::{Draft, Word, word};

/// Bytes of a schema file.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Levels of a schema file.
const NESTING_MAX: usize = 100;
/// Schemas within a file.
const NODES_MAX: usize = 20_000;
/// Warnings that are kept. The others are counted.
const WARNINGS_MAX: usize = 50;
/// Characters of a message of the author.
const MESSAGE_CHARACTERS_MAX: usize = 1_000;

/// Why a file is refused, in the words of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) expected: String,
    pub(crate) found: String,
    pub(crate) mend: String,
}

/// A mistake and its place.
#[derive(Debug)]
struct Wrong {
    at: usize,
    expected: String,
    found: String,
    mend: String,
}

type Result<T> = std::result::Result<T, Wrong>;

type Tree = &'static Value<'static>;

/// Makes a program of a schema file. Its text lives as long as the engine.
pub(crate) fn compile(text: &'static str) -> std::result::Result<Program, Refused> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > FILE_BYTES_MAX {
        return Err(Refused {
            expected: "a schema of 1 MiB at most".to_owned(),
            found: format!("{} bytes", text.len()),
            mend: "make it smaller, with `$defs` for what comes more than once".to_owned(),
        });
    }
    build(text).map_err(|wrong| {
        let (line, column) = line_and_column(text, wrong.at);
        Refused {
            expected: wrong.expected,
            found: format!("{} at line {line}, column {column}", wrong.found),
            mend: wrong.mend,
        }
    })
}

fn build(text: &'static str) -> Result<Program> {
    let tree = Value::parse(text, NESTING_MAX).map_err(|malformed| Wrong {
        at: malformed.at,
        expected: "a JSON Schema".to_owned(),
        found: format!("no JSON ({})", malformed.why),
        mend: "mend the JSON there".to_owned(),
    })?;
    let tree: Tree = Box::leak(Box::new(tree));
    let Some(object) = tree.object() else {
        let found = format!("{}, which is no schema of an event", tree.named());
        return Err(wrong(tree, "a JSON Schema: an object", &found, "write an object with keywords"));
    };
    let draft = draft_of(object)?.unwrap_or(Draft::Of2020);
    let mut compiler = Compiler::new(text);
    compiler.scan_root(tree, draft)?;
    let root = compiler.node(tree)?;
    compiler.finish(object, root, draft)
}

/// The draft that a schema names itself.
fn draft_of(object: &'static Object<'static>) -> Result<Option<Draft>> {
    let Some(named) = object.get("$schema") else { return Ok(None) };
    let draft = named.text().and_then(Draft::of);
    let mend = "write `https://json-schema.org/draft/2020-12/schema`, or leave `$schema` out";
    draft.map(Some).ok_or_else(|| wrong(named, "a `$schema` of draft 4 to 2020-12", &format!("{named}"), mend))
}

fn wrong(value: Tree, expected: &str, found: &str, mend: &str) -> Wrong {
    Wrong { at: value.at, expected: expected.to_owned(), found: found.to_owned(), mend: mend.to_owned() }
}

/// The mistake of a keyword with a value of another kind.
fn unlike(keyword: &str, value: Tree, expected: &str) -> Wrong {
    let found = format!("{} as `{keyword}`", value.named());
    wrong(value, &format!("{expected} as `{keyword}`"), &found, "write the value that the keyword needs")
}

/// A schema with an identifier of its own, and its anchors.
struct Resource {
    uri: String,
    root: Tree,
    draft: Draft,
    anchors: HashMap<String, Tree>,
    dynamic: HashMap<String, Tree>,
    is_recursive: bool,
}

struct Compiler {
    text: &'static str,
    resources: Vec<Resource>,
    by_uri: HashMap<String, usize>,
    /// The resource of each schema that was looked at, by its place in the file.
    located: HashMap<usize, usize>,
    nodes: Vec<Node>,
    /// The node of each schema, by its place.
    known: HashMap<usize, NodeId>,
    /// The nodes of each node that look at the same value.
    in_place: Vec<Vec<NodeId>>,
    places: Vec<usize>,
    warnings: Vec<String>,
    warnings_omitted: usize,
}

impl Compiler {
    fn new(text: &'static str) -> Self {
        Self {
            text,
            resources: Vec::new(),
            by_uri: HashMap::new(),
            located: HashMap::new(),
            nodes: Vec::new(),
            known: HashMap::new(),
            in_place: Vec::new(),
            places: Vec::new(),
            warnings: Vec::new(),
            warnings_omitted: 0,
        }
    }

    fn warn(&mut self, at: usize, text: String) {
        if self.warnings.len() < WARNINGS_MAX {
            let (line, column) = line_and_column(self.text, at);
            self.warnings.push(format!("line {line}, column {column}: {text}"));
        } else {
            self.warnings_omitted += 1;
        }
    }

    fn scan_root(&mut self, tree: Tree, draft: Draft) -> Result<()> {
        self.begin_resource(tree, String::new(), draft);
        self.scan(tree, 0)
    }

    fn begin_resource(&mut self, root: Tree, uri: String, draft: Draft) -> usize {
        let is_recursive = matches!(
            root.object().and_then(|object| object.get("$recursiveAnchor")).map(|value| &value.kind),
            Some(Kind::Bool(true))
        );
        let resource =
            Resource { uri: uri.clone(), root, draft, anchors: HashMap::new(), dynamic: HashMap::new(), is_recursive };
        self.resources.push(resource);
        self.by_uri.entry(uri).or_insert(self.resources.len() - 1);
        self.resources.len() - 1
    }

    /// Finds the identifiers and anchors of a schema and of those within it.
    fn scan(&mut self, value: Tree, resource: usize) -> Result<()> {
        let Some(object) = value.object() else { return Ok(()) };
        if self.located.contains_key(&value.at) {
            return Ok(());
        }
        let resource = self.identify(value, object, resource)?;
        self.located.insert(value.at, resource);
        for member in &object.members {
            match (&*member.key, &member.value.kind) {
                (
                    "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies",
                    Kind::Object(schemas),
                ) => schemas.members.iter().try_for_each(|member| self.scan(&member.value, resource))?,
                ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Kind::List(schemas)) => {
                    schemas.iter().try_for_each(|schema| self.scan(schema, resource))?;
                }
                (
                    "additionalItems"
                    | "additionalProperties"
                    | "contains"
                    | "contentSchema"
                    | "else"
                    | "if"
                    | "items"
                    | "not"
                    | "propertyNames"
                    | "then"
                    | "unevaluatedItems"
                    | "unevaluatedProperties",
                    Kind::Object(_),
                ) => self.scan(&member.value, resource)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Notes the identifier and the anchors of a schema. Returns the resource that it belongs to.
    fn identify(&mut self, value: Tree, object: &'static Object<'static>, resource: usize) -> Result<usize> {
        let draft = draft_of(object)?.filter(|_| object.get("$id").is_some()).unwrap_or(self.resources[resource].draft);
        // In the older drafts nothing counts beside a `$ref`.
        if draft <= Draft::Seven && object.get("$ref").and_then(Value::text).is_some() {
            return Ok(resource);
        }
        let mut resource = resource;
        if let Some(id) = object.get(if draft == Draft::Four { "id" } else { "$id" }).and_then(Value::text) {
            let (own, fragment) = id.split_once('#').unwrap_or((id, ""));
            if !own.is_empty() {
                let uri = uri::resolve(&self.resources[resource].uri, own);
                let is_first = value.at == self.resources[0].root.at && self.resources.len() == 1;
                if is_first {
                    self.resources[0].uri.clone_from(&uri);
                    self.by_uri.insert(uri, 0);
                } else {
                    resource = self.begin_resource(value, uri, draft);
                }
            }
            if draft <= Draft::Seven && !fragment.is_empty() {
                self.resources[resource].anchors.insert(fragment.to_owned(), value);
            }
        }
        for (keyword, first) in [("$anchor", Draft::Of2019), ("$dynamicAnchor", Draft::Of2020)] {
            if let Some(anchor) = object.get(keyword).and_then(Value::text).filter(|_| draft >= first) {
                self.resources[resource].anchors.insert(anchor.to_owned(), value);
                if keyword == "$dynamicAnchor" {
                    self.resources[resource].dynamic.insert(anchor.to_owned(), value);
                }
            }
        }
        Ok(resource)
    }

    /// Finds what a reference refers to. Also returns the anchor, if it is a dynamic one.
    fn find(&mut self, reference: Tree, resource: usize) -> Result<(Tree, Option<String>)> {
        let Some(text) = reference.text() else { return Err(unlike("$ref", reference, "a reference")) };
        let whole = uri::resolve(&self.resources[resource].uri, text);
        let (base, fragment) = whole.split_once('#').unwrap_or((&whole, ""));
        let Some(found) = self.by_uri.get(base).copied() else {
            let found = format!("a reference to `{text}`, which lies outside");
            let mend = "put that schema under `$defs` of this file, and refer to `#/$defs/NAME`";
            return Err(wrong(reference, "references within the file", &found, mend));
        };
        let nothing = || {
            let found = format!("a reference to `{text}`, where there is nothing");
            wrong(reference, "references to schemas of the file", &found, "mend the reference, or add the schema")
        };
        let fragment = uri::decode(fragment).ok_or_else(nothing)?;
        if fragment.is_empty() {
            return Ok((self.resources[found].root, None));
        }
        if let Some(pointer) = fragment.strip_prefix('/') {
            let target = self.follow(found, pointer).ok_or_else(nothing)?;
            return Ok((target, None));
        }
        let target = self.resources[found].anchors.get(&fragment).copied().ok_or_else(nothing)?;
        let is_dynamic = self.resources[found].dynamic.contains_key(&fragment);
        Ok((target, is_dynamic.then_some(fragment)))
    }

    /// Follows a JSON Pointer from the root of a resource.
    fn follow(&mut self, resource: usize, pointer: &str) -> Option<Tree> {
        let (mut value, mut resource) = (self.resources[resource].root, resource);
        for part in pointer.split('/') {
            let part = part.replace("~1", "/").replace("~0", "~");
            value = match &value.kind {
                Kind::Object(object) => object.get(&part)?,
                Kind::List(items) => items.get(part.parse::<usize>().ok()?)?,
                _ => return None,
            };
            resource = self.located.get(&value.at).copied().unwrap_or(resource);
        }
        // What stands under no keyword was not looked at yet.
        self.scan(value, resource).ok()?;
        matches!(value.kind, Kind::Object(_) | Kind::Bool(_)).then_some(value)
    }

    /// The node of a schema.
    fn node(&mut self, value: Tree) -> Result<NodeId> {
        if let Some(known) = self.known.get(&value.at) {
            return Ok(*known);
        }
        if self.nodes.len() >= NODES_MAX {
            let found = format!("more than {NODES_MAX}");
            return Err(wrong(value, "a file of few schemas", &found, "use `$defs` for what comes more than once"));
        }
        let id = self.nodes.len();
        self.nodes.push(Node::default());
        self.in_place.push(Vec::new());
        self.places.push(value.at);
        self.known.insert(value.at, id);
        let node = match &value.kind {
            Kind::Bool(always) => Node { always: Some(*always), ..Node::default() },
            Kind::Object(object) => self.keywords(id, value, object)?,
            _ => return Err(wrong(value, "a schema: an object, `true` or `false`", value.named(), "write a schema")),
        };
        self.nodes[id] = node;
        Ok(id)
    }

    /// A node that looks at the same value as `of`.
    fn node_in_place(&mut self, of: NodeId, value: Tree) -> Result<NodeId> {
        let node = self.node(value)?;
        self.in_place[of].push(node);
        Ok(node)
    }

    fn keywords(&mut self, id: NodeId, value: Tree, object: &'static Object<'static>) -> Result<Node> {
        let resource = self.located.get(&value.at).copied().unwrap_or(0);
        let draft = self.resources[resource].draft;
        self.look_at_words(value, object, draft)?;
        let mut node = Node { resource, ..Node::default() };
        if let Some(reference) = object.get("$ref").filter(|_| draft <= Draft::Seven) {
            let (target, _) = self.find(reference, resource)?;
            node.checks.push(Check::Ref(self.node_in_place(id, target)?));
            for member in object.members.iter().filter(|member| word(&member.key, draft) == Word::Known) {
                if !matches!(
                    &*member.key,
                    "$ref"
                        | "$schema"
                        | "$comment"
                        | "definitions"
                        | "$defs"
                        | "id"
                        | "$id"
                        | "title"
                        | "description"
                        | "default"
                        | "examples"
                        | "x-eye-rejects"
                        | "writeOnly"
                        | "x-eye-redact"
                ) {
                    let text = format!("`{}` beside a `$ref` means nothing in {}", member.key, draft.name());
                    self.warn(member.at, text);
                }
            }
            self.own_words(object, &mut node)?;
            return Ok(node);
        }
        simple(object, draft, &mut node.checks)?;
        if let Some(format) = object.get("format")
            && let Some(name) = format.text().filter(|name| !FORMATS.iter().any(|(known, _)| known == name))
        {
            self.warn(format.at, format!("the format `{name}` is not known here, and means nothing"));
        }
        self.members(id, object, draft, &mut node)?;
        self.items(object, draft, &mut node)?;
        self.in_place_keywords(id, object, resource, draft, &mut node.checks)?;
        if draft >= Draft::Of2019 {
            node.unevaluated_items = self.optional(object, "unevaluatedItems")?;
            node.unevaluated_properties = self.optional(object, "unevaluatedProperties")?;
        }
        self.own_words(object, &mut node)?;
        self.definitions(object)?;
        Ok(node)
    }

    /// Compiles what no reference may need, so that a mistake in it is told too.
    fn definitions(&mut self, object: &'static Object<'static>) -> Result<()> {
        for keyword in ["$defs", "definitions"] {
            let Some(schemas) = object.get(keyword) else { continue };
            let schemas = schemas.object().ok_or_else(|| unlike(keyword, schemas, "an object of schemas"))?;
            for member in &schemas.members {
                self.node(&member.value)?;
            }
        }
        Ok(())
    }

    fn look_at_words(&mut self, value: Tree, object: &'static Object<'static>, draft: Draft) -> Result<()> {
        for (place, member) in object.members.iter().enumerate() {
            let key = &*member.key;
            let told = |expected: &str, found: String, mend: String| Wrong {
                at: member.at,
                expected: expected.to_owned(),
                found,
                mend,
            };
            if object.place(key) != Some(place) {
                return Err(told("each keyword once", format!("`{key}` again"), "leave one of them out".to_owned()));
            }
            match word(key, draft) {
                Word::Known | Word::Own => {}
                Word::Elsewhere => {
                    self.warn(member.at, format!("`{key}` means nothing in {}", draft.name()));
                }
                Word::Near(near) => {
                    return Err(told(
                        "keywords of JSON Schema",
                        format!("`{key}`, which is nearly `{near}`"),
                        format!("write `{near}` if that is meant; a word of your own begins with `x-`"),
                    ));
                }
                Word::Ours => {
                    let mend = "write x-eye-message, x-eye-redact or x-eye-rejects".to_owned();
                    return Err(told("words of this gateway", format!("`{key}`, which is none"), mend));
                }
                Word::Other => self.warn(member.at, format!("`{key}` is no keyword, and means nothing")),
            }
        }
        if let Some(own) = object.get("x-eye-rejects").filter(|_| value.at != self.resources[0].root.at) {
            let found = "one within the file";
            return Err(wrong(own, "`x-eye-rejects` at the top of the file", found, "move it to the top"));
        }
        Ok(())
    }

    /// What the gateway adds to JSON Schema.
    fn own_words(&mut self, object: &'static Object<'static>, node: &mut Node) -> Result<()> {
        for keyword in ["writeOnly", "x-eye-redact"] {
            match object.get(keyword).map(|value| (value, &value.kind)) {
                None => {}
                Some((_, Kind::Bool(redacts))) => node.redacts |= redacts,
                Some((value, _)) => return Err(unlike(keyword, value, "true or false")),
            }
        }
        let Some(message) = object.get("x-eye-message") else { return Ok(()) };
        let text = |value: &'static Value<'static>| {
            let text = value.text().filter(|text| text.chars().count() <= MESSAGE_CHARACTERS_MAX);
            text.ok_or_else(|| unlike("x-eye-message", value, "a sentence of 1,000 characters at most"))
        };
        node.messages = match &message.kind {
            Kind::Object(texts) => {
                let texts = texts.members.iter().map(|member| Ok((&*member.key, text(&member.value)?)));
                Messages::Of(texts.collect::<Result<_>>()?)
            }
            _ => Messages::All(text(message)?),
        };
        Ok(())
    }

    fn optional(&mut self, object: &'static Object<'static>, keyword: &str) -> Result<Option<NodeId>> {
        object.get(keyword).map(|schema| self.node(schema)).transpose()
    }

    fn list(&mut self, of: Option<NodeId>, keyword: &str, value: Tree) -> Result<Vec<NodeId>> {
        let schemas = value.list().filter(|schemas| !schemas.is_empty());
        let schemas = schemas.ok_or_else(|| unlike(keyword, value, "a list of one schema at least"))?;
        let nodes = schemas.iter().map(|schema| match of {
            Some(of) => self.node_in_place(of, schema),
            None => self.node(schema),
        });
        nodes.collect()
    }

    fn members(&mut self, id: NodeId, object: &'static Object<'static>, draft: Draft, node: &mut Node) -> Result<()> {
        let map = |keyword: &str, value: Tree| {
            value.object().map(|map| &map.members).ok_or_else(|| unlike(keyword, value, "an object of schemas"))
        };
        let mut properties = Properties::default();
        if let Some(value) = object.get("properties") {
            for member in map("properties", value)? {
                properties.named.push((&member.key, self.node(&member.value)?));
            }
            properties.named.sort_by_key(|(name, _)| *name);
        }
        if let Some(value) = object.get("patternProperties") {
            for member in map("patternProperties", value)? {
                let pattern =
                    pattern::compile(&member.key).map_err(|why| unfit_pattern(member.at, &member.key, &why))?;
                properties.patterns.push((pattern, self.node(&member.value)?));
            }
        }
        properties.additional = self.optional(object, "additionalProperties")?;
        if !properties.named.is_empty() || !properties.patterns.is_empty() || properties.additional.is_some() {
            node.checks.push(Check::Properties(properties));
        }
        if draft >= Draft::Six
            && let Some(names) = self.optional(object, "propertyNames")?
        {
            node.checks.push(Check::PropertyNames(names));
        }
        for keyword in ["dependentSchemas", "dependencies"] {
            let Some(value) = object.get(keyword).filter(|_| keyword != "dependentSchemas" || draft >= Draft::Of2019)
            else {
                continue;
            };
            let mut schemas = Vec::new();
            for member in map(keyword, value)?.iter().filter(|member| member.value.list().is_none()) {
                schemas.push((&*member.key, self.node_in_place(id, &member.value)?));
            }
            if !schemas.is_empty() {
                let code = if keyword == "dependencies" { keyword } else { "dependent_schemas" };
                node.checks.push(Check::DependentSchemas(code, schemas));
            }
        }
        Ok(())
    }

    fn items(&mut self, object: &'static Object<'static>, draft: Draft, node: &mut Node) -> Result<()> {
        let (mut first_keyword, mut rest_keyword) = ("prefix_items", "items");
        let (mut first, mut rest) = (Vec::new(), None);
        if draft >= Draft::Of2020 {
            if let Some(value) = object.get("prefixItems") {
                first = self.list(None, "prefixItems", value)?;
            }
            if let Some(value) = object.get("items") {
                if value.list().is_some() {
                    let mend = "write `prefixItems` for the first items, and `items` for those after them";
                    return Err(wrong(value, "one schema as `items`", "a list", mend));
                }
                rest = Some(self.node(value)?);
            }
        } else if let Some(value) = object.get("items") {
            match &value.kind {
                Kind::List(schemas) => {
                    first_keyword = "items";
                    rest_keyword = "additional_items";
                    first = schemas.iter().map(|schema| self.node(schema)).collect::<Result<_>>()?;
                    rest = self.optional(object, "additionalItems")?;
                }
                _ => rest = Some(self.node(value)?),
            }
        }
        if !first.is_empty() || rest.is_some() {
            node.checks.push(Check::Items(Items { first_keyword, first, rest_keyword, rest }));
        }
        let Some(value) = object.get("contains").filter(|_| draft >= Draft::Six) else { return Ok(()) };
        let count = |keyword| object.get(keyword).map(|value| to_count(keyword, value)).transpose();
        let newer = draft >= Draft::Of2019;
        let least = if newer { count("minContains")? } else { None };
        let most = if newer { count("maxContains")? } else { None };
        let marks = draft >= Draft::Of2020;
        node.checks.push(Check::Contains(Contains { node: self.node(value)?, least: least.unwrap_or(1), most, marks }));
        Ok(())
    }

    fn in_place_keywords(
        &mut self,
        id: NodeId,
        object: &'static Object<'static>,
        resource: usize,
        draft: Draft,
        checks: &mut Vec<Check>,
    ) -> Result<()> {
        if let Some(reference) = object.get("$ref") {
            let (target, _) = self.find(reference, resource)?;
            checks.push(Check::Ref(self.node_in_place(id, target)?));
        }
        if let Some(reference) = object.get("$dynamicRef").filter(|_| draft >= Draft::Of2020) {
            let (target, anchor) = self.find(reference, resource)?;
            let target = self.node_in_place(id, target)?;
            checks.push(anchor.map_or(Check::Ref(target), |anchor| Check::DynamicRef(target, anchor)));
        }
        if let Some(reference) = object.get("$recursiveRef").filter(|_| draft == Draft::Of2019) {
            let (target, _) = self.find(reference, resource)?;
            checks.push(Check::RecursiveRef(self.node_in_place(id, target)?));
        }
        for (keyword, check) in
            [("allOf", Check::AllOf as fn(_) -> _), ("anyOf", Check::AnyOf), ("oneOf", Check::OneOf)]
        {
            if let Some(value) = object.get(keyword) {
                checks.push(check(self.list(Some(id), keyword, value)?));
            }
        }
        if let Some(value) = object.get("not") {
            checks.push(Check::Not(self.node_in_place(id, value)?));
        }
        if draft < Draft::Seven {
            return Ok(());
        }
        let mut branch = |keyword| object.get(keyword).map(|value| self.node_in_place(id, value)).transpose();
        let (condition, then, other) = (branch("if")?, branch("then")?, branch("else")?);
        match condition {
            Some(condition) => checks.push(Check::If(condition, then, other)),
            None if then.is_some() || other.is_some() => {
                let at = object.members.iter().find(|member| matches!(&*member.key, "then" | "else"));
                let at = at.map_or(0, |member| member.at);
                self.warn(at, "`then` and `else` mean nothing without `if`".to_owned());
            }
            None => {}
        }
        Ok(())
    }

    /// Refuses schemas that would look at one value for ever.
    fn refuse_circles(&self) -> Result<()> {
        // 0: not seen, 1: on the way, 2: no circle from here.
        let mut state = vec![0_u8; self.nodes.len()];
        for start in 0..self.nodes.len() {
            let mut way = vec![(start, 0)];
            while let Some((node, next)) = way.last_mut() {
                let node = *node;
                if *next == 0 {
                    if state[node] == 2 {
                        way.pop();
                        continue;
                    }
                    state[node] = 1;
                }
                match self.in_place[node].get(*next).copied() {
                    Some(other) => {
                        *next += 1;
                        if state[other] == 1 {
                            return Err(Wrong {
                                at: self.places[node],
                                expected: "references that come to an end".to_owned(),
                                found: "a schema that refers to itself for the same value".to_owned(),
                                mend: "refer to it from `properties` or `items`, so that each step goes deeper"
                                    .to_owned(),
                            });
                        }
                        if state[other] == 0 {
                            way.push((other, 0));
                        }
                    }
                    None => {
                        state[node] = 2;
                        way.pop();
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self, object: &'static Object<'static>, root: NodeId, draft: Draft) -> Result<Program> {
        let mut targets = Vec::new();
        let mut at = 0;
        // Compiling a target may find further resources.
        while at < self.resources.len() {
            let dynamic: Vec<(String, Tree)> =
                self.resources[at].dynamic.iter().map(|(name, tree)| (name.clone(), *tree)).collect();
            let dynamic = dynamic.into_iter().map(|(name, tree)| Ok((name, self.node(tree)?)));
            let dynamic = dynamic.collect::<Result<Vec<_>>>()?;
            let recursive = self.resources[at].is_recursive.then_some(self.resources[at].root);
            let recursive = recursive.map(|tree| self.node(tree)).transpose()?;
            targets.push(Targets { dynamic, recursive });
            at += 1;
        }
        self.refuse_circles()?;
        let examples = data_list(object, "examples")?;
        let rejects = data_list(object, "x-eye-rejects")?;
        let mut warnings = std::mem::take(&mut self.warnings);
        if self.warnings_omitted > 0 {
            warnings.push(format!("and {} more", self.warnings_omitted));
        }
        let text = |keyword| object.get(keyword).and_then(Value::text);
        Ok(Program {
            tracks: self
                .nodes
                .iter()
                .any(|node| node.unevaluated_items.is_some() || node.unevaluated_properties.is_some()),
            redacts: self.nodes.iter().any(|node| node.redacts),
            nodes: self.nodes,
            root,
            resources: targets,
            title: text("title"),
            description: text("description"),
            draft: draft.name(),
            examples,
            rejects,
            warnings,
        })
    }
}

/// The list of data of a keyword at the top of a file. Each must be one that an event may have.
fn data_list(object: &'static Object<'static>, keyword: &str) -> Result<Vec<Tree>> {
    let Some(value) = object.get(keyword) else { return Ok(Vec::new()) };
    let list = value.list().ok_or_else(|| unlike(keyword, value, "a list of data"))?;
    if let Some(data) = list.iter().find(|data| data.object().is_none()) {
        let found = format!("{} among them", data.named());
        return Err(wrong(data, &format!("objects in `{keyword}`, as the data of events is"), &found, "write objects"));
    }
    Ok(list.iter().collect())
}

fn unfit_pattern(at: usize, pattern: &str, why: &str) -> Wrong {
    let shown: String = pattern.chars().take(100).collect();
    Wrong {
        at,
        expected: "a regular expression of ECMA-262 that takes linear time".to_owned(),
        found: format!("`{shown}`: {why}"),
        mend: "mend the pattern".to_owned(),
    }
}

fn to_count(keyword: &str, value: Tree) -> Result<u64> {
    let count = match &value.kind {
        Kind::Number(text) => Decimal::read(text).to_count(),
        _ => None,
    };
    count.ok_or_else(|| unlike(keyword, value, "a whole number from 0 on"))
}

fn to_names(keyword: &str, value: Tree) -> Result<Vec<&'static str>> {
    let unlike = || unlike(keyword, value, "a list of names");
    value.list().ok_or_else(unlike)?.iter().map(|name| name.text().ok_or_else(unlike)).collect()
}

fn to_types(value: Tree) -> Result<Types> {
    let named = |value: Tree| {
        let name = value.text().and_then(|text| Types::NAMES.iter().position(|name| *name == text));
        name.map(|place| 1 << place).ok_or_else(|| {
            let found = value.text().map_or_else(|| value.named().to_owned(), |text| format!("`{text}`"));
            wrong(value, &format!("a type of {}", Types::NAMES.join(", ")), &found, "write one of these")
        })
    };
    match &value.kind {
        Kind::List(names) => names.iter().try_fold(Types(0), |types, name| Ok(Types(types.0 | named(name)?))),
        _ => named(value).map(Types),
    }
}

/// The keywords that have no schemas within them, the cheap ones first.
fn simple(object: &'static Object<'static>, draft: Draft, checks: &mut Vec<Check>) -> Result<()> {
    if let Some(value) = object.get("type") {
        checks.push(Check::Type(to_types(value)?));
    }
    if let Some(value) = object.get("enum") {
        checks.push(Check::Enum(value.list().ok_or_else(|| unlike("enum", value, "a list of values"))?));
    }
    if let Some(value) = object.get("const").filter(|_| draft >= Draft::Six) {
        checks.push(Check::Const(value));
    }
    bounds(object, draft, checks)?;
    for (keyword, counted, side) in [
        ("minLength", Counted::Characters, Side::Least),
        ("maxLength", Counted::Characters, Side::Most),
        ("minItems", Counted::Items, Side::Least),
        ("maxItems", Counted::Items, Side::Most),
        ("minProperties", Counted::Members, Side::Least),
        ("maxProperties", Counted::Members, Side::Most),
    ] {
        if let Some(value) = object.get(keyword) {
            checks.push(Check::Count(counted, side, to_count(keyword, value)?));
        }
    }
    if let Some(value) = object.get("required") {
        checks.push(Check::Required(to_names("required", value)?));
    }
    for keyword in ["dependentRequired", "dependencies"] {
        let Some(value) = object.get(keyword).filter(|_| keyword != "dependentRequired" || draft >= Draft::Of2019)
        else {
            continue;
        };
        let map = value.object().ok_or_else(|| unlike(keyword, value, "an object of lists"))?;
        let lists = map.members.iter().filter(|member| keyword == "dependentRequired" || member.value.list().is_some());
        let lists = lists.map(|member| Ok((&*member.key, to_names(keyword, &member.value)?)));
        let code = if keyword == "dependencies" { keyword } else { "dependent_required" };
        checks.push(Check::DependentRequired(code, lists.collect::<Result<_>>()?));
    }
    texts(object, checks)?;
    match object.get("uniqueItems").map(|value| (value, &value.kind)) {
        None | Some((_, Kind::Bool(false))) => {}
        Some((_, Kind::Bool(true))) => checks.push(Check::Unique),
        Some((value, _)) => return Err(unlike("uniqueItems", value, "true or false")),
    }
    Ok(())
}

fn texts(object: &'static Object<'static>, checks: &mut Vec<Check>) -> Result<()> {
    if let Some(value) = object.get("pattern") {
        let text = value.text().ok_or_else(|| unlike("pattern", value, "a regular expression"))?;
        let pattern = pattern::compile(text).map_err(|why| unfit_pattern(value.at, text, &why))?;
        checks.push(Check::Pattern(pattern, text));
    }
    if let Some(value) = object.get("format") {
        let name = value.text().ok_or_else(|| unlike("format", value, "the name of a format"))?;
        if let Some((name, check)) = FORMATS.iter().find(|(own, _)| *own == name) {
            checks.push(Check::Format(name, *check));
        }
    }
    Ok(())
}

fn bounds(object: &'static Object<'static>, draft: Draft, checks: &mut Vec<Check>) -> Result<()> {
    let number = |keyword: &str, value: Tree| match &value.kind {
        Kind::Number(text) => Ok(Limit { number: Decimal::read(text), text }),
        _ => Err(unlike(keyword, value, "a number")),
    };
    for (keyword, exclusive, side) in
        [("minimum", "exclusiveMinimum", Side::Least), ("maximum", "exclusiveMaximum", Side::Most)]
    {
        // In draft 4 the second is a flag of the first.
        let flag = match object.get(exclusive).map(|value| (value, &value.kind)) {
            Some((_, Kind::Bool(flag))) if draft == Draft::Four => *flag,
            Some((value, _)) if draft == Draft::Four => return Err(unlike(exclusive, value, "true or false")),
            Some((value, Kind::Bool(_))) => {
                let mend = "write the bound itself there, and leave the other keyword out";
                return Err(wrong(value, &format!("a number as `{exclusive}`"), "a boolean, as draft 4 has it", mend));
            }
            Some((value, _)) => {
                checks.push(Check::Bound(side, true, number(exclusive, value)?));
                false
            }
            None => false,
        };
        if let Some(value) = object.get(keyword) {
            checks.push(Check::Bound(side, flag, number(keyword, value)?));
        }
    }
    if let Some(value) = object.get("multipleOf") {
        let limit = number("multipleOf", value)?;
        let divisor = limit.number.to_divisor();
        let divisor = divisor.ok_or_else(|| unlike("multipleOf", value, "a number above 0 of 36 digits at most"))?;
        checks.push(Check::MultipleOf(divisor, limit.text));
    }
    Ok(())
}
