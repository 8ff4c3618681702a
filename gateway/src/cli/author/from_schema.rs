//! A project that begins from a JSON Schema. The engine that judges by schemas looks at the schema first, so what a gateway
//! would refuse is refused here in the same words, and its verdicts on the schema's examples are those of the fixtures.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use eye_judge::{Expected, Kind, Slot, Trial};
use serde_json::value::RawValue;

use super::fixtures::{Written, folder_of};
use super::rust_code::{self, Left, Shown};
use super::schema_node::{Node, below};
use super::{read_if_there, trying, usage};
use crate::cli::Failure;

/// Most bytes of the file in which a schema lies. A description of an API may hold many.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Schemas that a selected one may refer to.
const REFERENCES_MAX: usize = 2_000;

/// The option that names a schema within a file.
const OPTION: &str = "--select";

/// Helpers of the code that is made.
const HELPERS: &str = include_str!("../../../../validators/templates/rust-from-schema/schema.rs");

/// A schema from which a project begins.
pub(super) struct Given {
    /// The name of its file.
    file: String,
    /// The text of the schema, which the engine takes.
    text: String,
    schema: Node,
    event_type: Slot,
    /// Its examples, and how they end.
    shown: Vec<Shown>,
    /// How `{}` ends.
    empty: Shown,
}

impl Given {
    /// Reads a schema, and has the engine look at it.
    pub(super) fn read(file: &Path, chosen: Option<&str>, event_type: &Slot) -> Result<Self, Failure> {
        let shown = file.display();
        let size = std::fs::metadata(file).map_or(0, |file| file.len());
        if size > FILE_BYTES_MAX {
            return Err(anyhow!("{shown} has {size} bytes, and may have {FILE_BYTES_MAX}").into());
        }
        let text =
            read_if_there(file)?.ok_or_else(|| usage(format!("there is no file {shown}: name a JSON Schema")))?;
        let text = text.trim_start_matches('\u{feff}').to_owned();
        let whole: Node = serde_json::from_str(&text).map_err(|error| anyhow!("{shown} is no JSON: {error}"))?;
        let (text, schema) = match chosen {
            None => (text, whole),
            Some(pointer) => {
                let schema = selected(&whole, pointer).with_context(|| format!("{shown}"))?;
                (serde_json::to_string_pretty(&schema).context("a schema")? + "\n", schema)
            }
        };
        let trial = match trying::load(event_type, Kind::Schema, text.as_bytes(), None, false)? {
            Ok(trial) => trial,
            Err(refusal) => {
                // The selected schema was written anew, and its lines are not those of the file.
                let found = match (chosen, refusal.found.rfind(" at line ")) {
                    (Some(_), Some(end)) => &refusal.found[..end],
                    _ => &refusal.found,
                };
                let (expected, mend) = (&refusal.expected, &refusal.mend);
                return Err(anyhow!(
                    "{shown} is no schema that a gateway takes:\n  expected  {expected}\n  found     {found}\n  mend      {mend}"
                )
                .into());
            }
        };
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = chosen.map_or_else(|| name.clone(), |pointer| format!("{name}#{}", pointer.trim_start_matches('#')));
        let shown = examples(&trial).with_context(|| file.clone())?;
        let empty = judged(&trial, "{}")?;
        Ok(Self { file, text, schema, event_type: event_type.clone(), shown, empty })
    }

    /// Puts the schema, or what is made of it, among the files of a new project. Returns what is not expressed.
    pub(super) fn begin(
        &self,
        language: &str,
        name: &str,
        files: &mut Vec<(String, String)>,
    ) -> Result<Vec<Left>, Failure> {
        if !["rust", "schema"].contains(&language) {
            return Err(usage(format!("a project in {language} does not begin from a schema: it is rust or schema")));
        }
        files.retain(|(path, _)| !path.starts_with("fixtures/") && !path.ends_with(Kind::Schema.ending()));
        files.extend(self.fixtures()?);
        if language == "schema" {
            files.push((format!("{name}{}", Kind::Schema.ending()), self.text.clone()));
            return Ok(Vec::new());
        }
        let code = rust_code::of(&self.schema, &self.event_type, &self.file, &self.shown, &self.empty)?;
        for (path, text) in files.iter_mut() {
            if path == "src/lib.rs" {
                text.clone_from(&code.text);
            }
        }
        files.push(("src/schema.rs".to_owned(), HELPERS.to_owned()));
        Ok(code.left)
    }

    /// The examples as fixtures. Their codes are left open: code has codes of its own.
    fn fixtures(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut files = Vec::new();
        for (index, one) in self.shown.iter().enumerate() {
            let data = RawValue::from_string(one.data.clone()).context("an example")?;
            let path = format!("fixtures/{}/example-{}.json", folder_of(one.expect), index + 1);
            files.push((path, Written::new(data, Vec::new()).text()?));
        }
        Ok(files)
    }
}

/// How the engine ends an event.
fn judged(trial: &Trial, data: &str) -> anyhow::Result<Shown> {
    let outcome = trial.judge(&trial.event(data)).outcome;
    let verdict =
        outcome.as_ref().map_err(|fault| anyhow!("the schema judges no event: {}", trying::told_fault(fault)));
    Ok(Shown { data: data.to_owned(), expect: Expected::of(verdict?) })
}

/// The examples of a schema, as it judges them. One that ends in the other way is an error.
fn examples(trial: &Trial) -> anyhow::Result<Vec<Shown>> {
    let mut shown = Vec::new();
    for example in trial.examples() {
        let one = judged(trial, &example.event.data)?;
        if folder_of(one.expect) != folder_of(example.expect) {
            bail!(
                "the example `{}` is to end in {}, and ends in {}: mend the schema or the example",
                example.title,
                example.expect.as_str(),
                one.expect.as_str()
            );
        }
        shown.push(one);
    }
    Ok(shown)
}

/// A schema within a file as one of its own: what it refers to lies in its `$defs`.
fn selected(whole: &Node, pointer: &str) -> anyhow::Result<Node> {
    let pointer = pointer.trim_start_matches('#');
    let node = whole.at(pointer).map_err(|why| anyhow!("{OPTION} {why}"))?;
    if !matches!(node, Node::Object(_)) {
        bail!("{OPTION} {pointer} leads to no schema of an event, which is an object");
    }
    let mut moved = vec![(pointer.to_owned(), String::new())];
    let mut schemas = vec![rewritten(node, &mut moved)?];
    while schemas.len() < moved.len() {
        let from = moved[schemas.len()].0.clone();
        let node = whole.at(&from).map_err(|why| anyhow!("`$ref` {why}"))?;
        schemas.push(rewritten(node, &mut moved)?);
    }
    let mut schemas = schemas.into_iter();
    let Some(Node::Object(mut members)) = schemas.next() else { bail!("{OPTION} {pointer} leads to no schema") };
    members.retain(|(key, _)| !["$defs", "definitions"].contains(&key.as_str()));
    if let (Some(draft), false) = (whole.get("$schema"), members.iter().any(|(key, _)| key == "$schema")) {
        members.insert(0, ("$schema".to_owned(), draft.clone()));
    }
    let names = moved.iter().skip(1).map(|(_, name)| name.clone());
    let defs: Vec<(String, Node)> = names.zip(schemas).collect();
    if !defs.is_empty() {
        members.push(("$defs".to_owned(), Node::Object(defs)));
    }
    Ok(Node::Object(members))
}

/// A copy whose references lead to where the schemas are moved. Those that are met first are added to the list.
fn rewritten(node: &Node, moved: &mut Vec<(String, String)>) -> anyhow::Result<Node> {
    Ok(match node {
        Node::List(list) => Node::List(list.iter().map(|one| rewritten(one, moved)).collect::<Result<_, _>>()?),
        Node::Object(members) => {
            let mut copy = Vec::with_capacity(members.len());
            for (key, value) in members {
                let value = match (key.as_str(), value.text()) {
                    ("$ref", Some(reference)) => Node::Text(moved_to(reference, moved)?),
                    ("examples" | "x-eye-rejects" | "enum" | "const" | "default", _) => value.clone(),
                    _ => rewritten(value, moved)?,
                };
                copy.push((key.clone(), value));
            }
            Node::Object(copy)
        }
        other => other.clone(),
    })
}

fn moved_to(reference: &str, moved: &mut Vec<(String, String)>) -> anyhow::Result<String> {
    let Some(pointer) = reference.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
    else {
        bail!(
            "the selected schema refers to `{reference}`, and only pointers within the file (`#/...`) can be followed"
        );
    };
    let known = moved.iter().position(|(from, _)| from == pointer);
    let index = match known {
        Some(index) => index,
        None => {
            let last = pointer.rsplit('/').next().unwrap_or_default();
            let taken = moved.iter().any(|(_, name)| name == last);
            let name = if taken || last.is_empty() { format!("schema{}", moved.len()) } else { last.to_owned() };
            moved.push((pointer.to_owned(), name));
            moved.len() - 1
        }
    };
    if moved.len() > REFERENCES_MAX {
        bail!("the selected schema refers to more than {REFERENCES_MAX} others");
    }
    Ok(if index == 0 {
        "#".to_owned()
    } else {
        format!("#{}", below("/$defs", &moved[index].1.replace("~1", "/").replace("~0", "~")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selected_schema_brings_what_it_refers_to_and_nothing_else() {
        let text = r##"{"paths":{},"components":{"schemas":{"Order":{"type":"object","properties":{
            "to":{"$ref":"#/components/schemas/Address"},"next":{"$ref":"#/components/schemas/Order"}}},
            "Address":{"type":"string"},"Other":{}}}}"##;
        let whole: Node = serde_json::from_str(text).expect("JSON");
        let schema = selected(&whole, "#/components/schemas/Order").expect("there");
        assert_eq!(
            serde_json::to_string(&schema).expect("written"),
            r##"{"type":"object","properties":{"to":{"$ref":"#/$defs/Address"},"next":{"$ref":"#"}},"$defs":{"Address":{"type":"string"}}}"##
        );
        let told = selected(&whole, "/components/schemas/Ordr").expect_err("nothing").to_string();
        assert!(told.contains("Order, Address, Other"), "{told}");
    }
}
