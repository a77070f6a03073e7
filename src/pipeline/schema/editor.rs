//! The JSON Schema that editors check pipeline files with: what stands in the file before variables are substituted.
//!
//! It differs from the one that [`check`](super::check) goes by in four points. `${name}` may stand for every scalar. A choice
//! that is a map with one key, a stage for example, is one map with all keys of which one is allowed, so that an editor's
//! message names the wrong field instead of every alternative. Text may be a number. And a file may be a list of pipelines.

use serde_json::{Map, Value, json};

use super::of;
use crate::pipeline::Suite;
use crate::pipeline::spec::File;

/// `${name}`, and nothing beside it.
const VARIABLE: &str = r"^\$\{[^}]*\}$";

/// The schema.
pub fn for_editors() -> Value {
    let mut definitions = Map::new();
    for (name, mut schema) in [("File", of::<File>()), ("Suite", of::<Suite>())] {
        let Some(own) = schema.as_object_mut() else { continue };
        own.remove("$schema");
        definitions.extend(own.remove("$defs").and_then(|own| own.as_object().cloned()).into_iter().flatten());
        definitions.insert(name.to_owned(), schema);
    }
    definitions.values_mut().for_each(widen);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A pipeline of sepo",
        "if": { "type": "object", "required": ["pipelines"] },
        "then": { "$ref": "#/$defs/Suite" },
        "else": { "$ref": "#/$defs/File" },
        "$defs": definitions,
    })
}

/// Makes `schema`, and everything below it, accept what the file may say.
fn widen(schema: &mut Value) {
    let Some(own) = schema.as_object_mut() else { return };
    for (keyword, value) in own.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties" | "$defs", Value::Object(schemas)) => schemas.values_mut().for_each(widen),
            ("anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => schemas.iter_mut().for_each(widen),
            ("items" | "additionalProperties", schema) => widen(schema),
            _ => {}
        }
    }
    if let Some(Value::Array(branches)) = own.remove("oneOf").or_else(|| own.remove("anyOf")) {
        own.extend(alternatives(branches));
    }
    if let Some(words) = own.remove("enum") {
        own.remove("type");
        own.insert("anyOf".into(), json!([{ "enum": words }, variable()]));
    }
    if let Some(types) = own.remove("type") {
        own.extend(scalars(&types, own.contains_key("const")));
    }
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// `types` with what a variable, or a number in place of a text, would make of them.
fn scalars(types: &Value, is_word: bool) -> Map<String, Value> {
    let mut types: Vec<Value> = types.as_array().cloned().unwrap_or_else(|| vec![types.clone()]);
    let mut keywords = Map::new();
    let is_scalar =
        types.iter().any(|kind| ["integer", "number", "boolean"].contains(&kind.as_str().unwrap_or_default()));
    if types.contains(&json!("string")) {
        if !is_word {
            types.push(json!("number"));
        }
    } else if is_scalar {
        types.push(json!("string"));
        keywords.insert("pattern".into(), json!(VARIABLE));
    }
    let types = if types.len() == 1 { types.remove(0) } else { Value::Array(types) };
    keywords.insert("type".into(), types);
    keywords
}

/// The alternatives `branches`: those that are maps with one key become one map.
fn alternatives(branches: Vec<Value>) -> Map<String, Value> {
    let (mut properties, mut others) = (Map::new(), Vec::new());
    let mut has_words = false;
    for branch in branches {
        match single(&branch) {
            Some((key, mut value)) => {
                if let (Some(text), Some(value)) = (branch.get("description"), value.as_object_mut()) {
                    value.insert("description".into(), text.clone());
                }
                properties.insert(key, value);
            }
            None => {
                has_words |= branch.get("const").is_some();
                others.push(branch);
            }
        }
    }
    if has_words {
        others.push(variable());
    }
    let is_plain = properties.is_empty();
    let map = json!({
        "type": "object", "properties": properties, "minProperties": 1, "maxProperties": 1, "additionalProperties": false,
    });
    match (map, is_plain, others.is_empty()) {
        (Value::Object(map), false, true) => map,
        (map, is_plain, _) => {
            if !is_plain {
                others.insert(0, map);
            }
            [("anyOf".to_owned(), Value::Array(others))].into_iter().collect()
        }
    }
}

/// The key and the schema of a branch that is a map with one key.
fn single(branch: &Value) -> Option<(String, Value)> {
    let properties = branch.get("properties")?.as_object()?;
    let required = branch.get("required")?.as_array()?;
    let (key, value) = properties.iter().next()?;
    let is_single =
        properties.len() == 1 && required.len() == 1 && branch.get("additionalProperties") == Some(&json!(false));
    is_single.then(|| (key.clone(), value.clone()))
}

#[cfg(test)]
mod tests;
