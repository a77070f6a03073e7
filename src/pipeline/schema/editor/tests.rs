//! Shipped pipelines are valid, and what is wrong in a file is named by its place. The checker below knows the keywords of JSON
//! Schema that the schema has, and no others.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::pipeline::tree::Node;

/// Keywords that tell people something and decide nothing. `format` is an annotation by default.
const ANNOTATIONS: [&str; 8] = ["$schema", "$defs", "title", "description", "default", "examples", "format", "x-unit"];

struct Checker(Value);

impl Checker {
    /// Where `value` breaks `schema`, and by what keyword.
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let keywords = match schema {
            Value::Bool(true) => return Vec::new(),
            Value::Bool(false) => return vec![format!("{at}: nothing may stand here")],
            schema => schema.as_object().unwrap(),
        };
        keywords.iter().flat_map(|(keyword, wanted)| self.keyword(keyword, wanted, schema, value, at)).collect()
    }

    fn keyword(&self, keyword: &str, wanted: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
        let holds = |holds: bool| if holds { Vec::new() } else { vec![format!("{at}: {keyword}")] };
        let bound = || wanted.as_f64().unwrap();
        match (keyword, value) {
            (keyword, _) if ANNOTATIONS.contains(&keyword) => Vec::new(),
            ("$ref", _) => {
                self.check(self.0.pointer(wanted.as_str().unwrap().trim_start_matches('#')).unwrap(), value, at)
            }
            ("type", _) => holds(
                wanted.as_array().map_or(vec![wanted], |all| all.iter().collect()).iter().any(|kind| is(kind, value)),
            ),
            ("enum", _) => holds(wanted.as_array().unwrap().contains(value)),
            ("const", _) => holds(wanted == value),
            ("anyOf" | "oneOf", _) => {
                let branches = wanted.as_array().unwrap();
                let valid = branches.iter().filter(|branch| self.check(branch, value, at).is_empty()).count();
                holds(if keyword == "anyOf" { valid > 0 } else { valid == 1 })
            }
            ("if", _) => {
                let branch = if self.check(wanted, value, at).is_empty() { "then" } else { "else" };
                self.check(&schema[branch], value, at)
            }
            ("then" | "else", _) => Vec::new(),
            ("pattern", Value::String(text)) => {
                assert_eq!(wanted, VARIABLE);
                holds(text.starts_with("${") && text.find('}') == Some(text.len() - 1))
            }
            ("minimum", Value::Number(number)) => holds(number.as_f64().unwrap() >= bound()),
            ("maximum", Value::Number(number)) => holds(number.as_f64().unwrap() <= bound()),
            ("items", Value::Array(items)) => {
                let each =
                    items.iter().enumerate().map(|(index, item)| self.check(wanted, item, &format!("{at}/{index}")));
                each.flatten().collect()
            }
            ("minItems", Value::Array(items)) => holds(items.len() as f64 >= bound()),
            ("maxItems", Value::Array(items)) => holds(items.len() as f64 <= bound()),
            ("required", Value::Object(map)) => {
                holds(wanted.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap())))
            }
            ("minProperties", Value::Object(map)) => holds(map.len() as f64 >= bound()),
            ("maxProperties", Value::Object(map)) => holds(map.len() as f64 <= bound()),
            ("properties", Value::Object(map)) => {
                let each =
                    wanted.as_object().unwrap().iter().filter_map(|(key, schema)| Some((key, schema, map.get(key)?)));
                each.flat_map(|(key, schema, value)| self.check(schema, value, &format!("{at}/{key}"))).collect()
            }
            ("additionalProperties", Value::Object(map)) => {
                let known = |key: &str| schema["properties"].get(key).is_some();
                let rest = map.iter().filter(|(key, _)| !known(key));
                rest.flat_map(|(key, value)| self.check(wanted, value, &format!("{at}/{key}"))).collect()
            }
            (
                "pattern"
                | "minimum"
                | "maximum"
                | "items"
                | "minItems"
                | "maxItems"
                | "required"
                | "minProperties"
                | "maxProperties"
                | "properties"
                | "additionalProperties",
                _,
            ) => Vec::new(),
            (keyword, _) => panic!("the checker does not know `{keyword}`"),
        }
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("no type `{other}`"),
    }
}

fn mistakes(text: &str) -> Vec<String> {
    let schema = for_editors();
    let value = Node::parse(text).unwrap().to_json();
    let checker = Checker(schema.clone());
    checker.check(&schema, &value, "")
}

fn shipped() -> Vec<PathBuf> {
    let pipelines = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let folders = [pipelines.clone(), pipelines.join("repro")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|ending| ending == "yaml")).collect();
    assert!(files.len() >= 11, "{files:?}");
    files
}

#[test]
fn shipped_pipelines_are_valid() {
    for file in shipped() {
        assert_eq!(mistakes(&fs::read_to_string(&file).unwrap()), [""; 0], "{}", file.display());
    }
}

#[test]
fn shipped_pipelines_name_the_schema_that_is_shipped() {
    for file in shipped() {
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap();
        let schema =
            first.strip_prefix("# yaml-language-server: $schema=").unwrap_or_else(|| panic!("{}", file.display()));
        let schema = fs::read_to_string(file.parent().unwrap().join(schema)).unwrap();
        let schema: Value = serde_json::from_str(&schema).unwrap();
        assert!(schema == for_editors(), "make it again: sepo schema > pipelines/schema.json");
    }
}

const FILE: &str = "\
vars: { count: 3, share: 0.5, device: cpu }
workdir: ${out}
device: ${device}
precision: ${precision}
seed: ${count}
allow_empty: ${empty}
sweep: { over: { count: [1, 2] }, repeats: count }
stages:
  pairs: { read: { from: 2024, limit: '${count}', sample: '${share}' } }
  tokens: { tokenize: { input: pairs, tokenizer: base, max_length: '${count}' } }
  keyed: { select: { input: tokens, chosen: { top: '${share}' }, rule: '${rule}' } }
  policy: { train: { input: keyed, model: base, objective: { sepo: { gamma: '${count}' } }, betas: [0.9, '${count}'], decay: '${decay}' } }
  report: { evaluate: { judge: { command: { run: [judge] } }, answers: { a: b } } }
";

#[test]
fn variables_stand_for_every_scalar() {
    assert_eq!(mistakes(FILE), [""; 0]);
    assert_eq!(mistakes("pipelines: [a.yaml]\nvars: { count: 1 }\n"), [""; 0]);
}

#[test]
fn a_mistake_is_named_by_its_field() {
    for (right, wrong, expected) in [
        ("max_length: '${count}'", "max_lenght: 3", "/stages/tokens/tokenize/max_lenght: nothing may stand here"),
        ("max_length: '${count}'", "max_length: many", "/stages/tokens/tokenize/max_length: pattern"),
        ("max_length: '${count}'", "max_length: 3.5", "/stages/tokens/tokenize/max_length: type"),
        ("tokens: { tokenize:", "tokens: { tokenise:", "/stages/tokens/tokenise: nothing may stand here"),
        (
            "{ sepo: { gamma: '${count}' } }",
            "{ sepo: { gama: 2 } }",
            "/stages/policy/train/objective/sepo/gama: nothing may stand here",
        ),
        ("{ sepo: { gamma: '${count}' } }", "sepo", "/stages/policy/train/objective: type"),
        ("{ top: '${share}' }", "{ top: 0.1, bottom: 0.2 }", "/stages/keyed/select/chosen: maxProperties"),
        ("rule: '${rule}'", "rule: offical", "/stages/keyed/select/rule: anyOf"),
        ("command: { run: [judge] }", "comand: { run: [judge] }", "/stages/report/evaluate/judge: anyOf"),
        ("workdir: ${out}\n", "", ": required"),
    ] {
        assert_eq!(mistakes(&FILE.replace(right, wrong)), [expected], "{wrong}");
    }
    assert_eq!(mistakes("pipelines: [a.yaml]\nvar: {}\n"), ["/var: nothing may stand here"]);
}
