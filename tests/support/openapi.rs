//! Compares the gateway's answers with `openapi.json`. Every answer that any test gets passes here, so an undocumented
//! status, field or type fails the test that got it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use serde_json::{Value, json};

/// The document in the repository; the program serves the same bytes.
pub(crate) const TEXT: &str = include_str!("../../gateway/openapi.json");

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(TEXT).expect("openapi.json is JSON"));

/// Compiled schemas, by their place in the document.
static COMPILED: Mutex<Option<HashMap<String, jsonschema::Validator>>> = Mutex::new(None);

/// The document.
pub(crate) fn document() -> &'static Value {
    &DOCUMENT
}

/// Each documented path with its methods, in lower case.
pub(crate) fn operations() -> Vec<(String, Vec<String>)> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let methods = |item: &Value| {
        let keys = item.as_object().expect("a path item").keys();
        keys.filter(|key| ["get", "post", "put", "patch", "delete"].contains(&key.as_str())).cloned().collect()
    };
    paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
}

/// The documented path of a request; the one with fewer parameters wins.
pub(crate) fn template(path: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        template.split('/').count() == path.split('/').count()
            && template.split('/').zip(path.split('/')).all(|(t, p)| t == p || t.starts_with('{') && !p.is_empty())
    };
    let found = operations().into_iter().map(|(template, _)| template).filter(|template| fits(template));
    found.min_by_key(|template| template.matches('{').count())
}

/// Fails if the document does not allow the answer.
pub(crate) fn check(method: &str, path: &str, status: u16, content_type: Option<&str>, body: &str) {
    let Some(template) = template(path) else {
        assert!(matches!(status, 400 | 404 | 405), "{method} {path} answered {status} and is not in openapi.json");
        return;
    };
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_ascii_lowercase() };
    let item = &DOCUMENT["paths"][&template];
    let operation = &item[&method];
    if operation.is_null() {
        assert!(matches!(status, 204 | 405), "{method} {path} answered {status}; openapi.json has no such method");
        return;
    }
    let response = resolve(&operation["responses"][status.to_string()]);
    assert!(!response.is_null(), "openapi.json has no {status} for {method} {template}: {body}");
    let Some(content) = response["content"].as_object() else {
        return;
    };
    if body.is_empty() {
        return;
    }
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let media = content.get(essence);
    let media = media.unwrap_or_else(|| panic!("openapi.json has no {essence:?} for {status} of {method} {template}"));
    if essence == "application/json" || essence.ends_with("+json") {
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
        fits(&format!("{method} {template} {status} {essence}"), &media["schema"], &body);
    }
}

/// Fails if the document does not allow a line of a stream for this path.
pub(crate) fn check_lines(path: &str, text: &str) {
    let template = template(path).expect("a documented path");
    let media = &DOCUMENT["paths"][&template]["get"]["responses"]["200"]["content"]["application/x-ndjson"];
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        fits(&format!("a line of {template}"), &media["x-line-schema"], &line);
    }
}

/// Fails if the document does not allow the data of a server-sent event.
pub(crate) fn check_event(kind: &str, data: &Value) {
    let content = &DOCUMENT["paths"]["/v1/live"]["get"]["responses"]["200"]["content"]["text/event-stream"];
    let schema = &content["x-event-schemas"][kind];
    assert!(!schema.is_null(), "openapi.json has no {kind} for /v1/live");
    fits(&format!("{kind} of /v1/live"), schema, data);
}

/// Fails if `value` does not fit `schema`.
pub(crate) fn fits(place: &str, schema: &Value, value: &Value) {
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    let validator = compiled.entry(place.to_owned()).or_insert_with(|| {
        // References lead to the components, so each schema needs them.
        let mut whole = schema.clone();
        whole["components"] = json!({ "schemas": DOCUMENT["components"]["schemas"] });
        let options = jsonschema::options().should_validate_formats(true);
        options.build(&whole).unwrap_or_else(|error| panic!("the schema of {place}: {error}"))
    });
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{place} is not what openapi.json says: {errors:#?}\n{value:#}");
}

/// Follows a reference within the document.
fn resolve(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("references stay within the document");
            DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{reference} is not in openapi.json"))
        }
        None => value,
    }
}

/// Every example of the document, with its schema and its place.
pub(crate) fn examples() -> Vec<(String, &'static Value, &'static Value)> {
    let mut found = Vec::new();
    let mut open: Vec<(String, &'static Value)> = vec![("#".to_owned(), &DOCUMENT)];
    while let Some((place, value)) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(schema) = fields.get("schema") {
                    if let Some(example) = fields.get("example") {
                        found.push((format!("{place}/example"), schema, example));
                    }
                    for (name, example) in fields.get("examples").and_then(Value::as_object).into_iter().flatten() {
                        found.push((format!("{place}/examples/{name}"), schema, &example["value"]));
                    }
                }
                open.extend(fields.iter().map(|(key, value)| (format!("{place}/{key}"), value)));
            }
            Value::Array(list) => {
                open.extend(list.iter().enumerate().map(|(index, value)| (format!("{place}/{index}"), value)));
            }
            _ => {}
        }
    }
    found
}
