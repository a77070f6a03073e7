//! Checks a YAML tree against the JSON Schema of the pipeline file, so that every mistake in it is found at once and
//! has a position. Made of it are the schema for editors that `sepo schema` prints, and the reference of all settings.

mod editor;
pub mod reference;

use schemars::JsonSchema;
use serde_json::{Map, Number, Value};

use super::foreign;
use super::tree::{Content, Node};
use crate::error::{Mistake, nearest, suggest};

pub use editor::for_editors;

/// The JSON Schema of `T`.
pub fn of<T: JsonSchema>() -> Value {
    schemars::schema_for!(T).to_value()
}

/// Checks `node` against `schema`, whose definitions are in `root`; gives scalars that came from variables their types.
pub(super) fn check(node: &mut Node, schema: &Value, root: &Value, mistakes: &mut Vec<Mistake>) {
    let schema = resolve(schema, root);
    if node.content == Content::Unresolved {
        // The variable was reported.
        return;
    }
    if let Some(any) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        return check_any(node, any, root, mistakes);
    }
    let mut mistake = |at, message: String, help| mistakes.push(Mistake { at, message, help });
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
        return check_choice(node, &choices, mistakes);
    }
    if let Some(only) = schema.get("const").and_then(Value::as_str) {
        return check_choice(node, &[only], mistakes);
    }
    let types: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    tighten(node, &types);
    let fits = |wanted: &&str| match (&node.content, *wanted) {
        (Content::Null, "null") | (Content::Bool(_), "boolean") | (Content::Number(_), "number") => true,
        (Content::Number(number), "integer") => number.is_i64() || number.is_u64(),
        (Content::Text(_) | Content::Loose(_), "string") => true,
        (Content::List(_), "array") | (Content::Map(_), "object") => true,
        _ => false,
    };
    if !types.iter().any(fits) {
        let wanted: Vec<&str> = types.iter().map(|wanted| describe(wanted)).collect();
        return mistake(node.at, format!("expected {}, found {}", wanted.join(" or "), found(node)), None);
    }
    match &mut node.content {
        Content::Number(number) => {
            let value = number.as_f64().unwrap_or(f64::NAN);
            if let Some(least) = schema.get("minimum").and_then(Value::as_f64).filter(|least| value < *least) {
                mistake(node.at, format!("{value} is below {least}"), None);
            }
            let most = [("uint8", f64::from(u8::MAX)), ("uint32", f64::from(u32::MAX))];
            let format = schema.get("format").and_then(Value::as_str);
            if let Some((_, most)) = most.into_iter().find(|(name, most)| format == Some(name) && value > *most) {
                mistake(node.at, format!("{number} is above {most}"), None);
            }
        }
        Content::List(items) => {
            if let Some(of) = schema.get("items") {
                items.iter_mut().for_each(|item| check(item, of, root, mistakes));
            }
        }
        Content::Map(_) => check_map(node, schema, root, mistakes),
        _ => {}
    }
}

/// Whether [`check`] finds nothing in `node`, and all of it has a value.
pub(super) fn fits(node: &mut Node, schema: &Value, root: &Value) -> bool {
    let mut mistakes = Vec::new();
    check(node, schema, root, &mut mistakes);
    mistakes.is_empty() && node.is_resolved()
}

fn check_map(node: &mut Node, schema: &Value, root: &Value, mistakes: &mut Vec<Mistake>) {
    let at = node.at;
    let Content::Map(entries) = &mut node.content else { return };
    let none = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let strange = entries.iter().filter(|entry| is_closed && !known.contains_key(&entry.key));
    let meant: Vec<&str> = strange.filter_map(|entry| meant(&entry.key, &names)).collect();
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    // A key that is misspelt is one mistake, not two.
    let is_there = |name: &str| meant.contains(&name) || entries.iter().any(|entry| entry.key == name);
    for name in required.filter(|name| !is_there(name)) {
        mistakes.push(Mistake { at, message: format!("`{name}` is missing"), help: None });
    }
    for entry in entries {
        match (known.get(&entry.key), schema.get("additionalProperties")) {
            (Some(property), _) => check(&mut entry.value, property, root, mistakes),
            (None, Some(Value::Bool(false))) => mistakes.push(unknown(entry.at, "key", &entry.key, &names)),
            (None, Some(rest @ Value::Object(_))) => check(&mut entry.value, rest, root, mistakes),
            (None, _) => {}
        }
    }
}

/// Alternatives: the one whose shape fits is checked. Enums are maps with one key, or words.
fn check_any(node: &mut Node, any: &[Value], root: &Value, mistakes: &mut Vec<Mistake>) {
    let any: Vec<&Value> = any.iter().map(|schema| resolve(schema, root)).collect();
    let variant = |schema: &Value| -> Option<String> {
        let required = schema.get("required")?.as_array()?;
        let single = schema.get("properties")?.as_object()?.len() == 1 && required.len() == 1;
        single.then(|| required[0].as_str().map(str::to_owned))?
    };
    let variants: Vec<(String, &Value)> = any.iter().filter_map(|schema| Some((variant(schema)?, *schema))).collect();
    let words: Vec<&str> = any
        .iter()
        .flat_map(|schema| {
            let several = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
            several.chain(schema.get("const")).filter_map(Value::as_str).collect::<Vec<_>>()
        })
        .collect();
    if let (Content::Map(entries), false) = (&node.content, variants.is_empty()) {
        let names: Vec<&str> = variants.iter().map(|(name, _)| name.as_str()).collect();
        return match &entries[..] {
            [entry] => match variants.iter().find(|(name, _)| *name == entry.key) {
                Some((_, schema)) => check_map(node, schema, root, mistakes),
                None => mistakes.push(unknown(entry.at, "name", &entry.key, &names)),
            },
            _ => {
                let message = format!("expected one key, found {}", entries.len());
                mistakes.push(Mistake { at: node.at, message, help: Some(format!("one of {}", names.join(", "))) });
            }
        };
    }
    if !words.is_empty() && words.len() == any.len() {
        return check_choice(node, &words, mistakes);
    }
    if let (Content::Text(word) | Content::Loose(word), false) = (&node.content, variants.is_empty())
        && !words.contains(&word.as_str())
    {
        let mistake = match variants.iter().find(|(name, _)| name == word) {
            Some((name, schema)) => {
                let help = Some(format!("write `{}`", in_full(name, schema, root)));
                Mistake { at: node.at, message: format!("`{name}` takes a map of settings"), help }
            }
            None => {
                let names = variants.iter().map(|(name, _)| name.as_str()).chain(words);
                unknown(node.at, "name", word, &names.collect::<Vec<_>>())
            }
        };
        return mistakes.push(mistake);
    }
    // Take the first alternative without a mistake, else say what the likeliest one says.
    let mut least: Option<Vec<Mistake>> = None;
    for schema in any.iter().rev() {
        let (mut attempt, mut found) = (node.clone(), Vec::new());
        check(&mut attempt, schema, root, &mut found);
        if found.is_empty() {
            *node = attempt;
            return;
        }
        let is_null = schema.get("type").and_then(Value::as_str) == Some("null");
        if !is_null && least.as_ref().is_none_or(|least| found.len() <= least.len()) {
            least = Some(found);
        }
    }
    mistakes.extend(least.unwrap_or_default());
}

/// How the variant `name`, whose map has `schema`, is written: with what it needs.
fn in_full(name: &str, schema: &Value, root: &Value) -> String {
    let inner = schema.get("properties").and_then(|properties| properties.get(name));
    let inner = inner.map(|inner| resolve(inner, root)).unwrap_or(&Value::Null);
    let required = inner.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let required: Vec<String> = required.map(|key| format!("{key}: …")).collect();
    match (inner.get("type").and_then(Value::as_str), required.is_empty()) {
        (Some("object"), true) => format!("{{ {name}: {{}} }}"),
        (Some("object"), false) => format!("{{ {name}: {{ {} }} }}", required.join(", ")),
        _ => format!("{{ {name}: … }}"),
    }
}

fn check_choice(node: &Node, choices: &[&str], mistakes: &mut Vec<Mistake>) {
    match &node.content {
        Content::Text(text) | Content::Loose(text) if choices.contains(&text.as_str()) => {}
        Content::Text(text) | Content::Loose(text) => mistakes.push(unknown(node.at, "choice", text, choices)),
        _ => {
            let help = Some(format!("one of {}", choices.join(", ")));
            mistakes.push(Mistake { at: node.at, message: format!("expected a word, found {}", found(node)), help });
        }
    }
}

/// Says what `word`, which is no `what` that is known here, may have meant: a word of another program, or a near spelling.
pub(super) fn unknown(at: (u64, u64), what: &str, word: &str, choices: &[&str]) -> Mistake {
    let help = match what {
        "key" => foreign::key(word, choices).map(|answer| answer.help).or_else(|| elsewhere(word, choices)),
        _ => foreign::choice(word, choices),
    };
    let help = help.unwrap_or_else(|| suggest(word, choices));
    Mistake { at, message: format!("unknown {what} `{word}`"), help: Some(help) }
}

/// Settings of this name that few maps have are worth naming.
const FEW: usize = 4;

/// Where the key `word` belongs, if it is none of `choices` in another spelling.
fn elsewhere(word: &str, choices: &[&str]) -> Option<String> {
    let found = if nearest(word, choices).is_none() { reference::called(word) } else { Vec::new() };
    let names: Vec<String> = found.iter().map(|setting| format!("`{}`", setting.name())).collect();
    (1..=FEW).contains(&names.len()).then(|| format!("the setting here is {}", names.join(" or ")))
}

/// The one of `choices` that the unknown key `word` was meant as.
fn meant<'a>(word: &str, choices: &[&'a str]) -> Option<&'a str> {
    let foreign = || foreign::key(word, choices).and_then(|answer| answer.key);
    let foreign = foreign().and_then(|key| choices.iter().find(|choice| **choice == key).copied());
    foreign.or_else(|| nearest(word, choices).map(|(_, choice)| choice))
}

/// Gives a scalar that came from a variable the type that is wanted here.
fn tighten(node: &mut Node, types: &[&str]) {
    let Content::Loose(text) = &node.content else {
        // A number where text belongs is text: `out: 2024`.
        if let (Content::Number(number), ["string"] | ["string", "null"]) = (&node.content, types) {
            node.content = Content::Text(number.to_string());
        }
        return;
    };
    let typed = types.iter().find_map(|wanted| match *wanted {
        "null" => ["null", "~", ""].contains(&text.as_str()).then_some(Content::Null),
        "boolean" => text.parse().ok().map(Content::Bool),
        "integer" => text.parse::<i64>().ok().map(|value| Content::Number(value.into())),
        "number" => text.parse().ok().and_then(Number::from_f64).map(Content::Number),
        _ => None,
    });
    if let Some(typed) = typed {
        node.content = typed;
    }
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix("#")) {
        Some(path) => root.pointer(path).map_or(schema, |schema| resolve(schema, root)),
        None => schema,
    }
}

fn describe(kind: &str) -> &str {
    match kind {
        "null" => "nothing",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "array" => "a list",
        _ => "a map",
    }
}

fn found(node: &Node) -> String {
    match &node.content {
        Content::Null | Content::Unresolved => "nothing".into(),
        Content::Bool(value) => format!("`{value}`"),
        Content::Number(value) => format!("`{value}`"),
        Content::Text(text) | Content::Loose(text) => format!("text `{text}`"),
        Content::List(_) => "a list".into(),
        Content::Map(_) => "a map".into(),
    }
}
