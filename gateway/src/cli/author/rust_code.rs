//! Rust code that judges as a schema does: a type for each object, and a function with its rules. What the code does not
//! express is listed, at the top of the code too. A secret that lies where the code does not look is taken out with
//! everything around it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::bail;
use eye_event::legible::legible;
use eye_judge::{Expected, Slot};
use serde::Serialize;

use super::rust_rules::{self as rules, Rule, quoted};
use super::schema_node::{Node, below};

/// Types and levels of a schema of which code is made.
const TYPES_MAX: usize = 200;
const LEVELS_MAX: usize = 40;

/// Keywords that say something else than what fits.
const NOTES: [&str; 19] = [
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "format",
    "id",
    "readOnly",
    "title",
    "type",
    "writeOnly",
];

/// Keywords that lead to others or relate fields, of which no code is made.
const LEFT: [&str; 22] = [
    "$dynamicRef",
    "$recursiveRef",
    "additionalItems",
    "allOf",
    "anyOf",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "maxProperties",
    "minContains",
    "minProperties",
    "not",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Names that fields of the code do not have: words of Rust, and what the code calls its own.
const TAKEN: [&str; 46] = [
    "abstract",
    "as",
    "async",
    "at",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "event",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "item",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "pub",
    "ref",
    "return",
    "schema",
    "self",
    "static",
    "struct",
    "super",
    "true",
    "type",
    "unsafe",
    "use",
    "violations",
];

/// Something of a schema that code does not express.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Left {
    /// Where it is in the schema.
    pub(super) pointer: String,
    pub(super) why: String,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "the schema" } else { &self.pointer };
        write!(f, "{}: {}", legible(place, 300), legible(&self.why, 300))
    }
}

/// An event by which a schema is tried, with the verdict of the engine.
pub(super) struct Shown {
    pub(super) data: String,
    pub(super) expect: Expected,
}

/// The code, and what it does not express.
pub(super) struct Code {
    pub(super) text: String,
    pub(super) left: Vec<Left>,
}

/// How a value is read, and by which rules it is judged.
#[derive(Debug, Clone, Default)]
struct Shape {
    /// Its Rust type.
    kind: String,
    is_nullable: bool,
    /// Statements on `{v}` and `{at}`.
    statements: Vec<String>,
    /// The function with the rules of an object, if it has any.
    function: Option<String>,
    /// Places within it that are taken out; the empty one is the whole value.
    secrets: Vec<String>,
}

struct Maker<'s> {
    root: &'s Node,
    left: Vec<Left>,
    /// Patterns: name and text.
    patterns: Vec<(String, String)>,
    /// Types with their functions, in the order in which they are made.
    types: Vec<String>,
    names: BTreeSet<String>,
    /// Objects by their place in the schema.
    known: Vec<(String, Shape)>,
    /// References that are being followed.
    open: Vec<String>,
}

/// Makes the code.
pub(super) fn of(schema: &Node, event_type: &Slot, file: &str, shown: &[Shown], empty: &Shown) -> anyhow::Result<Code> {
    let names = ["Event", "Verdict", "Violations", "Place", "Pattern", "Decimal", "Whole", "Number", "Object"];
    let names = names.into_iter().map(str::to_owned).collect();
    let mut maker = Maker {
        root: schema,
        left: Vec::new(),
        patterns: Vec::new(),
        types: Vec::new(),
        names,
        known: Vec::new(),
        open: Vec::new(),
    };
    let hint = event_type.parts().1.unwrap_or("data");
    let shape = maker.value(schema, "", hint, 0)?;
    if shape.function.is_none() {
        bail!("{file}: an event's data is an object, so code needs a schema with `properties` or `required`");
    }
    if shape.secrets.iter().any(String::is_empty) {
        bail!(
            "{file}: secrets (`writeOnly`, `x-eye-redact`) lie where no code can be made for them, such as below `anyOf` at the \
             top: move them into `properties`, or stay with the schema"
        );
    }
    let text = maker.whole(&shape, event_type, file, shown, empty);
    Ok(Code { text: formatted(&text).unwrap_or(text), left: maker.left })
}

/// The code as rustfmt writes it, if that is on this machine: a template is formatted, and this should look like one.
fn formatted(code: &str) -> Option<String> {
    let mut command = Command::new("rustfmt");
    command.args(["--edition", "2024", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    // It reads all before it writes, so neither waits for the other.
    let written = child.stdin.take().map(|mut input| input.write_all(code.as_bytes()));
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && written?.is_ok() && !text.is_empty()).then_some(text)
}

fn has_secret(root: &Node, node: &Node, seen: &mut Vec<String>) -> bool {
    let is_marked = |key: &str| node.get(key) == Some(&Node::Bool(true));
    if is_marked("writeOnly") || is_marked("x-eye-redact") {
        return true;
    }
    if let Some(reference) = node.get("$ref").and_then(Node::text)
        && !seen.iter().any(|one| one == reference)
    {
        seen.push(reference.to_owned());
        // A reference that is no pointer is followed nowhere, and may lead to a secret.
        match reference.strip_prefix('#').and_then(|pointer| root.at(pointer).ok()) {
            Some(target) if has_secret(root, target, seen) => return true,
            None => return true,
            _ => {}
        }
    }
    node.elements().iter().chain(node.members().iter().map(|(_, value)| value)).any(|one| has_secret(root, one, seen))
}

impl Maker<'_> {
    fn leave(&mut self, at: &str, keyword: &str, why: &str) {
        self.left.push(Left {
            pointer: if keyword.is_empty() { at.to_owned() } else { below(at, keyword) },
            why: why.to_owned(),
        });
    }

    /// A value about which the code says nothing.
    fn any(&self, schema: &Node) -> Shape {
        let secret = has_secret(self.root, schema, &mut Vec::new());
        Shape {
            kind: "IgnoredAny".to_owned(),
            secrets: secret.then(String::new).into_iter().collect(),
            ..Shape::default()
        }
    }

    /// Reads a schema.
    fn value(&mut self, schema: &Node, at: &str, hint: &str, level: usize) -> anyhow::Result<Shape> {
        if level > LEVELS_MAX {
            bail!("{at}: the schema is deeper than {LEVELS_MAX} levels, and code like that would not read well");
        }
        if *schema == Node::Bool(false) {
            self.leave(at, "", "`false` lets no value pass");
        }
        if let Some(reference) = schema.get("$ref").and_then(Node::text) {
            return self.reference(schema, reference, at, level);
        }
        let Some((kind, is_nullable)) = self.kind(schema, at) else {
            let mut shape = self.any(schema);
            self.leave_unexpressed(schema, at, &mut shape);
            return Ok(shape);
        };
        let mut shape = match kind {
            "object" => self.object(schema, at, hint, level)?,
            "array" => self.list(schema, at, hint, level)?,
            "string" => self.text(schema, at, hint),
            "integer" | "number" => self.number(schema, at, kind == "integer"),
            "boolean" => self.boolean(schema),
            _ => Shape { kind: "()".to_owned(), ..Shape::default() },
        };
        shape.is_nullable = is_nullable;
        self.leave_unexpressed(schema, at, &mut shape);
        let is_marked = |key: &str| schema.get(key) == Some(&Node::Bool(true));
        if is_marked("writeOnly") || is_marked("x-eye-redact") {
            shape.secrets = vec![String::new()];
            if kind == "string" && !shape.statements.is_empty() {
                let inner = indented(&shape.statements.join("\n"));
                shape.statements = vec![format!("if !schema::is_redacted({{v}}) {{\n{inner}\n}}")];
            } else if kind != "string" {
                self.leave(at, "writeOnly", "the text `[redacted]` is not taken in this place again");
            }
        }
        Ok(shape)
    }

    fn reference(&mut self, schema: &Node, reference: &str, at: &str, level: usize) -> anyhow::Result<Shape> {
        let target = reference.strip_prefix('#').and_then(|pointer| Some((pointer, self.root.at(pointer).ok()?)));
        let Some((pointer, target)) = target else {
            self.leave(at, "$ref", "only references by pointer are followed");
            return Ok(self.any(schema));
        };
        if self.open.iter().any(|open| open == pointer) || pointer.is_empty() {
            self.leave(at, "$ref", "the schema contains itself; the code looks at the first level");
            return Ok(self.any(schema));
        }
        for (key, _) in schema.members() {
            if key != "$ref" && !NOTES.contains(&key.as_str()) && !key.starts_with("x-") {
                self.leave(at, key, "stands beside `$ref`");
            }
        }
        self.open.push(pointer.to_owned());
        let target = target.clone();
        let shape = self.value(&target, pointer, pointer.rsplit('/').next().unwrap_or_default(), level + 1);
        self.open.pop();
        let mut shape = shape?;
        if has_secret(self.root, schema, &mut vec![reference.to_owned()]) {
            shape.secrets = vec![String::new()];
        }
        Ok(shape)
    }

    /// Lists the keywords that are not expressed. A secret below one of them takes the whole value out.
    fn leave_unexpressed(&mut self, schema: &Node, at: &str, shape: &mut Shape) {
        for (key, value) in schema.members() {
            if LEFT.contains(&key.as_str()) {
                self.leave(at, key, "no code is made of this keyword");
                if has_secret(self.root, value, &mut Vec::new()) {
                    shape.secrets = vec![String::new()];
                }
            }
        }
    }

    /// The one type of a value beside null, and whether it may be null. `None` if there are several, or any.
    fn kind(&mut self, schema: &Node, at: &str) -> Option<(&'static str, bool)> {
        const KINDS: [&str; 6] = ["object", "array", "string", "integer", "number", "boolean"];
        let types: Vec<&str> = match schema.get("type") {
            Some(Node::Text(one)) => vec![one],
            Some(list) => list.elements().iter().filter_map(Node::text).collect(),
            None => return self.guessed(schema, at),
        };
        let is_nullable = types.contains(&"null");
        let mut kinds: Vec<&'static str> = KINDS.into_iter().filter(|kind| types.contains(kind)).collect();
        if kinds.contains(&"number") {
            kinds.retain(|kind| *kind != "integer");
        }
        match &kinds[..] {
            [one] => Some((one, is_nullable)),
            [] if is_nullable => Some(("null", false)),
            _ => {
                self.leave(at, "type", "a value of several types");
                None
            }
        }
    }

    /// The type where the schema names none: that of its `enum`, or the one that its keywords are about.
    fn guessed(&mut self, schema: &Node, at: &str) -> Option<(&'static str, bool)> {
        let kind_of = |node: &Node| match node {
            Node::Text(_) => "string",
            Node::Number(_) => "number",
            Node::Bool(_) => "boolean",
            Node::Null => "null",
            _ => "other",
        };
        let listed: BTreeSet<&str> = listed(schema).iter().map(kind_of).collect();
        let is_nullable = listed.contains("null");
        let kinds: Vec<&str> = listed.into_iter().filter(|kind| *kind != "null").collect();
        match &kinds[..] {
            ["string"] => return Some(("string", is_nullable)),
            ["number"] => return Some(("number", is_nullable)),
            ["boolean"] => return Some(("boolean", is_nullable)),
            [] if !is_nullable => {}
            _ => {
                self.leave(at, "enum", "values of several types");
                return None;
            }
        }
        let about = |keys: &[&str]| keys.iter().any(|key| schema.get(key).is_some());
        let kind = if about(&["properties", "required", "additionalProperties"]) {
            "object"
        } else if about(&["items", "minItems", "maxItems", "uniqueItems"]) {
            "array"
        } else if about(&["pattern", "minLength", "maxLength", "format"]) {
            "string"
        } else if about(&["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]) {
            "number"
        } else {
            return None;
        };
        if !at.is_empty() {
            self.leave(
                at,
                "type",
                &format!("is missing: the schema lets other kinds pass, the code takes {kind} alone"),
            );
        }
        Some((kind, false))
    }

    /// The statements of rules, with the schema's own messages.
    fn statements(schema: &Node, rules: &[Rule]) -> Vec<String> {
        let own = schema.get("x-eye-message");
        let message = |keyword: &str| own.and_then(|own| own.text().or_else(|| own.get(keyword).and_then(Node::text)));
        rules.iter().map(|rule| rule.statement(message(rule.keyword))).collect()
    }

    fn text(&mut self, schema: &Node, at: &str, hint: &str) -> Shape {
        let mut made = rules::count_rule(schema, "minLength", "maxLength", "characters", false);
        if let Some(text) = schema.get("pattern").and_then(Node::text) {
            match rules::pattern(text) {
                Ok(pattern) => {
                    let name = self.pattern(hint, pattern);
                    let method = format!("pattern({{at}}, {{v}}, &{name})");
                    made.push(Rule::method("pattern", "pattern", format!("{name}.matches({{v}})"), method));
                }
                Err(why) => self.leave(at, "pattern", why),
            }
        }
        if let Some(format) = schema.get("format").and_then(Node::text) {
            match rules::format_rule(format) {
                Some(rule) => made.push(rule),
                None => self.leave(at, "format", &format!("`{}` is not judged", legible(format, 40))),
            }
            if format == "email" {
                self.leave(at, "format", "the kit's rule is stricter: it wants a host with a dot");
            }
        }
        let words: Vec<String> = listed(schema).iter().filter_map(Node::text).map(quoted).collect();
        if schema.get("enum").is_some() || schema.get("const").is_some() {
            let words = words.join(", ");
            let method = format!("one_of({{at}}, {{v}}, &[{words}])");
            made.push(Rule::method("enum", "one_of", format!("[{words}].contains(&{{v}}.as_str())"), method));
        }
        Shape { kind: "String".to_owned(), statements: Self::statements(schema, &made), ..Shape::default() }
    }

    /// The name of a pattern.
    fn pattern(&mut self, hint: &str, text: String) -> String {
        let base = snake(hint).to_uppercase();
        let mut name = base.clone();
        while let Some((_, other)) = self.patterns.iter().find(|(own, _)| *own == name) {
            if *other == text {
                return name;
            }
            name.push('_');
        }
        self.patterns.push((name.clone(), text));
        name
    }

    fn number(&mut self, schema: &Node, at: &str, is_whole: bool) -> Shape {
        let is_listed = schema.get("enum").is_some() || schema.get("const").is_some();
        let plain = is_whole && schema.get("multipleOf").is_none() && !is_listed;
        if let Some(made) = rules::whole_rules(schema).filter(|_| plain) {
            return Shape { kind: "Whole".to_owned(), statements: Self::statements(schema, &made), ..Shape::default() };
        }
        let (mut made, left) = rules::number_rules(schema);
        for key in left {
            self.leave(at, key, "a number that `Decimal` does not hold");
        }
        if is_whole {
            let holds = "{v}.0.places() == 0".to_owned();
            made.insert(0, Rule::message("type", "type", holds, "Give a whole number here.".to_owned()));
        }
        let listed = listed(schema);
        let numbers: Vec<_> =
            listed.iter().filter_map(|one| if let Node::Number(number) = one { Some(number) } else { None }).collect();
        if is_listed {
            match numbers.iter().map(|number| rules::decimal(number)).collect::<Option<Vec<_>>>() {
                Some(decimals) => {
                    let holds = format!("[{}].contains(&{{v}}.0)", decimals.join(", "));
                    let shown: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                    made.push(Rule::message("enum", "one_of", holds, format!("Give one of {}.", shown.join(", "))));
                }
                None => self.leave(at, "enum", "a number that `Decimal` does not hold"),
            }
        }
        Shape { kind: "Number".to_owned(), statements: Self::statements(schema, &made), ..Shape::default() }
    }

    fn boolean(&self, schema: &Node) -> Shape {
        let values: Vec<bool> = listed(schema)
            .iter()
            .filter_map(|one| if let Node::Bool(value) = one { Some(*value) } else { None })
            .collect();
        let made = match &values[..] {
            [one] => {
                let holds = if *one { "*{v}" } else { "!*{v}" };
                vec![Rule::message("const", "one_of", holds.to_owned(), format!("Give {one} here."))]
            }
            _ => Vec::new(),
        };
        Shape { kind: "bool".to_owned(), statements: Self::statements(schema, &made), ..Shape::default() }
    }

    fn list(&mut self, schema: &Node, at: &str, hint: &str, level: usize) -> anyhow::Result<Shape> {
        let one =
            hint.strip_suffix('s').filter(|one| !one.is_empty()).map_or_else(|| format!("{hint}Item"), str::to_owned);
        let element = match schema.get("items") {
            Some(Node::List(_)) => {
                self.leave(at, "items", "a schema for each position");
                self.any(schema)
            }
            Some(items) => {
                let items = items.clone();
                self.value(&items, &below(at, "items"), &one, level + 1)?
            }
            None => self.any(&Node::Null),
        };
        let mut made = rules::count_rule(schema, "minItems", "maxItems", "elements", true);
        if schema.get("uniqueItems") == Some(&Node::Bool(true)) {
            if ["String", "Whole", "Number", "bool"].contains(&element.kind.as_str()) {
                let holds = "schema::all_differ({v})".to_owned();
                made.push(Rule::message("uniqueItems", "unique", holds, "Give each element once.".to_owned()));
            } else {
                self.leave(at, "uniqueItems", "elements of this kind are not compared");
            }
        }
        self.leave_values(schema, at);
        let mut statements = Self::statements(schema, &made);
        if let Some(function) = element.function.as_ref().filter(|_| !element.is_nullable) {
            statements.push(format!("violations.each({{at}}, {{v}}, {function});"));
        } else {
            let inner = element.on("item", "at");
            if !inner.is_empty() {
                let inner = indented(&inner.join("\n"));
                statements.push(format!("violations.each({{at}}, {{v}}, |violations, at, item| {{\n{inner}\n}});"));
            }
        }
        let kind = if element.is_nullable {
            format!("Vec<Option<{}>>", element.kind)
        } else {
            format!("Vec<{}>", element.kind)
        };
        // A whole element is taken out in its place; of a list that is read as anything, all of it.
        let secrets = element.secrets.iter().map(|place| format!("/*{place}")).collect();
        Ok(Shape { kind, statements, secrets, ..Shape::default() })
    }

    /// `enum` and `const` of lists and objects are not compared.
    fn leave_values(&mut self, schema: &Node, at: &str) {
        for key in ["enum", "const"] {
            if schema.get(key).is_some() {
                self.leave(at, key, "lists and objects are not compared");
            }
        }
    }

    fn object(&mut self, schema: &Node, at: &str, hint: &str, level: usize) -> anyhow::Result<Shape> {
        if let Some((_, known)) = self.known.iter().find(|(place, _)| place == at) {
            return Ok(known.clone());
        }
        if self.known.len() >= TYPES_MAX {
            bail!("{at}: the schema has more than {TYPES_MAX} objects, and code like that would not read well");
        }
        let name = self.type_name(hint);
        let function = format!("check_{}", snake(&name));
        let (properties, required) = (schema.get("properties"), schema.get("required"));
        let required: Vec<&str> = required.map_or(&[][..], Node::elements).iter().filter_map(Node::text).collect();
        let mut fields = Vec::new();
        let mut secrets = Vec::new();
        let named = properties.map_or(&[][..], Node::members);
        let is_closed =
            schema.get("additionalProperties") == Some(&Node::Bool(false)) && schema.get("patternProperties").is_none();
        for (key, property) in named {
            let shape = self.value(property, &below(&below(at, "properties"), key), key, level + 1)?;
            secrets.extend(shape.secrets.iter().map(|place| format!("{}{place}", below("", key))));
            let is_required = required.contains(&key.as_str());
            if is_required || is_closed || shape.kind != "IgnoredAny" {
                fields.push((key.as_str(), is_required, shape));
            }
        }
        for key in required.iter().filter(|key| !named.iter().any(|(own, _)| own == *key)) {
            fields.push((key, true, Shape { kind: "IgnoredAny".to_owned(), ..Shape::default() }));
        }
        match schema.get("additionalProperties") {
            None | Some(Node::Bool(true)) => {}
            Some(Node::Bool(false)) if is_closed => {}
            Some(more) => {
                self.leave(at, "additionalProperties", "fields that have no name in the schema are let pass");
                if has_secret(self.root, more, &mut Vec::new()) {
                    secrets = vec![String::new()];
                }
            }
        }
        self.leave_values(schema, at);
        let (text, is_empty) = object_code(schema, &name, &function, &fields, is_closed, at.is_empty());
        self.types.push(text);
        let function = (!is_empty || at.is_empty()).then_some(function);
        let shape = Shape { kind: name, function, secrets, ..Shape::default() };
        self.known.push((at.to_owned(), shape.clone()));
        Ok(shape)
    }

    fn type_name(&mut self, hint: &str) -> String {
        let base: String = snake(hint)
            .split('_')
            .map(|word| word.get(..1).unwrap_or_default().to_uppercase() + word.get(1..).unwrap_or_default())
            .collect();
        let mut name = base.clone();
        let mut number = 2;
        while !self.names.insert(name.clone())
            || ["String", "Vec", "Option", "Self", "Box", "Place"].contains(&name.as_str())
        {
            name = format!("{base}{number}");
            number += 1;
        }
        name
    }

    /// The whole file.
    fn whole(&self, shape: &Shape, event_type: &Slot, file: &str, shown: &[Shown], empty: &Shown) -> String {
        let title = self.root.get("title").or_else(|| self.root.get("description")).and_then(Node::text);
        let title = legible(title.unwrap_or("An event, by the rules of a schema."), 200).to_string();
        let mut text = format!(
            "//! Judges `{event_type}`: {title}\n//!\n//! Made from `{}`. From now on this is the source.\n",
            legible(file, 200)
        );
        if !self.left.is_empty() {
            text.push_str("//!\n//! Of the schema, the code does not express:\n//!\n");
            for one in &self.left {
                text.push_str(&format!(
                    "//! - `{}`: {}\n",
                    if one.pointer.is_empty() { "/" } else { &one.pointer },
                    one.why
                ));
            }
        }
        let body = self.body(shape);
        let examples = examples(shown, empty);
        let redact = if shape.secrets.is_empty() { "" } else { "    redact: redact,\n" };
        let rest = format!(
            "{body}\neye_validator::validator! {{\n    judge,\n{redact}    summary: {title:?},\n    examples: [\n{examples}    ],\n}}\n"
        );
        let names = ["Decimal", "Event", "Object", "Pattern", "Place", "Verdict", "Violations"];
        let is_used = |name: &str| {
            rest.split(|character: char| !character.is_alphanumeric() && character != '_').any(|word| word == name)
        };
        let used: Vec<&str> = names.into_iter().filter(|name| is_used(name)).collect();
        text.push_str(&format!(
            "\nmod schema;\n\nuse eye_validator::{{{}}};\nuse serde::Deserialize;\n",
            used.join(", ")
        ));
        if is_used("IgnoredAny") {
            text.push_str("use serde::de::IgnoredAny;\n");
        }
        let own: Vec<&str> = ["Number", "Whole"].into_iter().filter(|name| is_used(name)).collect();
        match &own[..] {
            [] => {}
            [one] => text.push_str(&format!("\nuse schema::{one};\n")),
            both => text.push_str(&format!("\nuse schema::{{{}}};\n", both.join(", "))),
        }
        text + "\n" + &rest
    }

    /// Constants, types and functions.
    fn body(&self, shape: &Shape) -> String {
        let mut body = String::new();
        for (name, pattern) in &self.patterns {
            body.push_str(&format!("const {name}: Pattern = Pattern::new({pattern:?});\n\n"));
        }
        if !shape.secrets.is_empty() {
            let places: Vec<String> = shape.secrets.iter().map(|place| format!("{place:?}")).collect();
            body.push_str(&format!(
                "/// What nobody reads: `[redacted]` is kept in these places.\nconst SECRETS: &[&str] = &[{}];\n\n",
                places.join(", ")
            ));
        }
        for text in self.types.iter().rev() {
            body.push_str(text);
            body.push('\n');
        }
        let function = shape.function.as_deref().unwrap_or_default();
        let end = if shape.secrets.is_empty() {
            "violations.verdict()"
        } else {
            "schema::verdict_without(violations, event.object(), SECRETS)"
        };
        body.push_str(&format!(
            "/// Data that does not fit the type never comes here: it is rejected with `required`, `type` or `value`.\n\
             fn judge(event: &Event<{}>) -> Verdict {{\n    let mut violations = Violations::new();\n    {function}(&mut violations, \
             &Place::DATA, &event.data);\n    {end}\n}}\n",
            shape.kind
        ));
        if !shape.secrets.is_empty() {
            body.push_str(
                "\n/// What may be kept of an event that is refused.\nfn redact(mut data: Object<'_>) -> Object<'_> {\n    \
                 data.redact(SECRETS);\n    data\n}\n",
            );
        }
        body
    }
}

impl Shape {
    /// The statements on a variable that refers to the value, or to an option of it.
    fn on(&self, variable: &str, at: &str) -> Vec<String> {
        let mut statements = self.statements.clone();
        if let Some(function) = &self.function {
            statements.push(format!("{function}(violations, &{{at}}, {{v}});"));
        }
        let filled = statements.iter().map(|one| one.replace("{v}", variable).replace("{at}", at));
        let filled: Vec<String> = filled.collect();
        if !self.is_nullable || filled.is_empty() {
            return filled;
        }
        vec![format!("if let Some({variable}) = {variable} {{\n{}\n}}", indented(&filled.join("\n")))]
    }
}

/// The values of `enum`, or the one of `const`.
fn listed(schema: &Node) -> &[Node] {
    match (schema.get("enum"), schema.get("const")) {
        (_, Some(one)) => std::slice::from_ref(one),
        (Some(list), None) => list.elements(),
        (None, None) => &[],
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// The type of an object and the function with its rules, and whether there is none.
fn object_code(
    schema: &Node,
    name: &str,
    function: &str,
    fields: &[(&str, bool, Shape)],
    is_closed: bool,
    is_root: bool,
) -> (String, bool) {
    let (mut members, mut judged, mut statements) = (String::new(), Vec::new(), Vec::new());
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (key, is_required, shape) in fields {
        let mut field = snake(key);
        while TAKEN.contains(&field.as_str()) || !taken.insert(field.clone()) {
            field.push('_');
        }
        let mut options = Vec::new();
        if field != *key {
            options.push(format!("rename = {key:?}"));
        }
        let is_option = !is_required || shape.is_nullable;
        match (is_required, shape.is_nullable) {
            (true, true) => options.push("deserialize_with = \"schema::nullable\"".to_owned()),
            (false, false) => options.push("default, deserialize_with = \"schema::given\"".to_owned()),
            _ => {}
        }
        if !options.is_empty() {
            members.push_str(&format!("    #[serde({})]\n", options.join(", ")));
        }
        let kind = if is_option { format!("Option<{}>", shape.kind) } else { shape.kind.clone() };
        members.push_str(&format!("    {field}: {kind},\n"));
        let on = Shape { is_nullable: is_option, ..shape.clone() }.on(&field, &format!("at.key({key:?})"));
        if !on.is_empty() {
            judged.push(field);
            statements.extend(on);
        }
    }
    let title = schema.get("title").or_else(|| schema.get("description")).and_then(Node::text);
    let mut text = title.map(|title| format!("/// {}\n", legible(title, 200))).unwrap_or_default();
    text.push_str("#[derive(Deserialize)]\n");
    if is_closed {
        text.push_str("#[serde(deny_unknown_fields)]\n");
    }
    if judged.len() < fields.len() {
        text.push_str("#[allow(dead_code, reason = \"some fields are read for their type alone\")]\n");
    }
    text.push_str(&format!("struct {name} {{\n{members}}}\n"));
    if statements.is_empty() && !is_root {
        return (text, true);
    }
    let (violations, at, data) =
        if statements.is_empty() { ("_violations", "_at", "_data") } else { ("violations", "at", "data") };
    text.push_str(&format!("\nfn {function}({violations}: &mut Violations, {at}: &Place<'_>, {data}: &{name}) {{\n"));
    if !statements.is_empty() {
        let rest = if judged.len() < fields.len() { ", .." } else { "" };
        text.push_str(&format!("    let {name} {{ {}{rest} }} = data;\n", judged.join(", ")));
        text.push_str(&indented(&statements.join("\n")));
        text.push('\n');
    }
    text.push_str("}\n");
    (text, false)
}

/// The examples that the module brings: the first of each end. The others are fixtures.
fn examples(shown: &[Shown], empty: &Shown) -> String {
    let mut text = String::new();
    let first = |is_stored: bool| shown.iter().find(|one| (one.expect != Expected::Reject) == is_stored);
    let chosen = [(first(true), "an example of the schema"), (first(false), "an example that is wrong")];
    let mut some: Vec<(&Shown, &str)> = chosen.into_iter().filter_map(|(one, title)| Some((one?, title))).collect();
    if some.is_empty() {
        some.push((empty, "nothing"));
    }
    for (one, title) in some {
        let mut hashes = "#".to_owned();
        while one.data.contains(&format!("\"{hashes}")) {
            hashes.push('#');
        }
        text.push_str(&format!("        {} {title:?}: r{hashes}\"{}\"{hashes},\n", one.expect.as_str(), one.data));
    }
    text
}

/// A key as a name of Rust: words of small letters and digits.
fn snake(key: &str) -> String {
    let (mut name, mut was_small) = (String::new(), false);
    for character in key.chars() {
        if character.is_ascii_alphanumeric() {
            if character.is_ascii_uppercase() && was_small {
                name.push('_');
            }
            was_small = character.is_ascii_lowercase() || character.is_ascii_digit();
            name.push(character.to_ascii_lowercase());
        } else {
            was_small = false;
            if !name.is_empty() && !name.ends_with('_') {
                name.push('_');
            }
        }
    }
    let name = name.trim_end_matches('_').to_owned();
    match name.chars().next() {
        None => "field".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("field_{name}"),
        Some(_) => name,
    }
}
