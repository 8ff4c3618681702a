//! Data that has every field of a schema, so that fields which no example and no fixture has are misused too. The values of
//! those are made up and need not fit: what is right is of no use here.

use serde_json::{Map, Value, json};

/// Levels below which nothing is added.
const DEPTH_MAX: usize = 8;

/// Steps through the schema. A schema may lead to itself, or twice to the same in each of many places.
const STEPS_MAX: usize = 2_000;

/// Right data with the fields of the schema that it lacks. `None` if it lacks none, or the schema is no JSON.
pub(super) fn with_all_fields(schema: &[u8], data: &str) -> Option<String> {
    let schema = schema.strip_prefix(b"\xef\xbb\xbf").unwrap_or(schema);
    let schema: Value = serde_json::from_slice(schema).ok()?;
    let before: Value = serde_json::from_str(data).ok()?;
    let (mut filled, mut steps) = (before.clone(), 0);
    Filling { root: &schema, steps: &mut steps }.fill(&schema, &mut filled, 0);
    (filled != before).then(|| filled.to_string())
}

struct Filling<'a> {
    root: &'a Value,
    steps: &'a mut usize,
}

impl Filling<'_> {
    /// Adds what a schema knows and the data lacks.
    fn fill(&mut self, schema: &Value, data: &mut Value, depth: usize) {
        *self.steps += 1;
        if depth > DEPTH_MAX || *self.steps > STEPS_MAX {
            return;
        }
        for other in self.others(schema) {
            self.fill(&other, data, depth + 1);
        }
        match data {
            Value::Object(members) => self.fill_object(schema, members, depth),
            Value::Array(elements) => {
                let items = ["items", "prefixItems"].iter().find_map(|key| schema.get(key));
                let items = items.map(|items| items.get(0).unwrap_or(items));
                if let (Some(items), Some(first)) = (items, elements.first_mut()) {
                    self.fill(items, first, depth + 1);
                }
            }
            _ => {}
        }
    }

    fn fill_object(&mut self, schema: &Value, members: &mut Map<String, Value>, depth: usize) {
        let Some(Value::Object(properties)) = schema.get("properties") else { return };
        for (name, property) in properties {
            let is_new = !members.contains_key(name);
            let mut value = members.remove(name).unwrap_or_else(|| self.made_up(property, 0));
            self.fill(property, &mut value, depth + 1);
            if !is_new || depth < DEPTH_MAX {
                members.insert(name.clone(), value);
            }
        }
    }

    /// The schemas that a schema leads to at the same place.
    fn others(&self, schema: &Value) -> Vec<Value> {
        let referred = ["$ref", "$dynamicRef"].iter().filter_map(|key| {
            let pointer = schema.get(key)?.as_str()?.strip_prefix('#')?;
            self.root.pointer(&percent_encoding::percent_decode_str(pointer).decode_utf8().ok()?).cloned()
        });
        let lists = ["allOf", "anyOf", "oneOf"].iter().filter_map(|key| schema.get(key)?.as_array()).flatten().cloned();
        let single = ["then", "else"].iter().filter_map(|key| schema.get(key)).cloned();
        referred.chain(lists).chain(single).collect()
    }

    /// A value of the kind that a schema asks for.
    fn made_up(&mut self, schema: &Value, depth: usize) -> Value {
        *self.steps += 1;
        let given = ["const", "default"].iter().find_map(|key| schema.get(key)).cloned();
        let listed = || ["enum", "examples"].iter().find_map(|key| schema.get(key)?.get(0)).cloned();
        if let Some(value) = given.or_else(listed) {
            return value;
        }
        let kind = schema.get("type").and_then(|kind| kind.as_str().or_else(|| kind.get(0)?.as_str()));
        let has = |key: &str| schema.get(key).is_some();
        match kind {
            Some("object") => json!({}),
            None if has("properties") => json!({}),
            Some("array") => json!([self.element(schema, depth)]),
            None if has("items") => json!([self.element(schema, depth)]),
            Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
            Some("boolean") => json!(true),
            Some("null") => Value::Null,
            None if depth < DEPTH_MAX && *self.steps < STEPS_MAX => {
                let other = self.others(schema).into_iter().next();
                other.map_or_else(|| json!("misuse"), |other| self.made_up(&other, depth + 1))
            }
            _ => json!("misuse"),
        }
    }

    fn element(&mut self, schema: &Value, depth: usize) -> Value {
        match schema.get("items") {
            Some(items) if depth < DEPTH_MAX && *self.steps < STEPS_MAX => self.made_up(items, depth + 1),
            _ => json!("misuse"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_schema_is_there_and_what_was_there_stays() {
        let schema = json!({
            "properties": {
                "order": {"type": "string"}, "placed": {"type": "string", "format": "date-time"},
                "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
                "to": {"anyOf": [{"type": "object", "properties": {"zip": {"type": ["string", "null"]}}}, {"type": "null"}]},
                "status": {"enum": ["open", "closed"]}, "tree": {"$ref": "#/$defs/tree"}
            },
            "allOf": [{"properties": {"count": {"minimum": 3, "type": "integer"}}}],
            "$defs": {
                "line": {"type": "object", "properties": {"product": {}, "note": {"type": "boolean"}}},
                "tree": {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
            }
        });
        let data = r#"{"order":"x","lines":[{"product":"tea"}],"more":1}"#;
        let filled = with_all_fields(schema.to_string().as_bytes(), data).expect("it lacks some");
        let filled: Value = serde_json::from_str(&filled).expect("JSON");
        for (pointer, value) in [
            ("/order", json!("x")),
            ("/more", json!(1)),
            ("/placed", json!("misuse")),
            ("/lines", json!([{"product": "tea", "note": true}])),
            ("/to", json!({"zip": "misuse"})),
            ("/status", json!("open")),
            ("/count", json!(3)),
        ] {
            assert_eq!(filled.pointer(pointer), Some(&value), "{pointer}: {filled}");
        }
        assert!(filled.pointer("/tree/of/0/of").is_some(), "{filled}");
        assert_eq!(with_all_fields(schema.to_string().as_bytes(), &filled.to_string()), None, "nothing more to add");
        assert_eq!(with_all_fields(b"{}", data), None);
    }
}
