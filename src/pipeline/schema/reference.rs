//! The settings of a pipeline file as people look them up, taken from its JSON Schema: `sepo explain` prints one of them,
//! docs/pipeline.md lists all. Types, defaults and texts are those of the structs that the file is parsed into; `examples` and
//! `x-unit` are annotations of their fields.

mod markdown;
mod yaml;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::{of, resolve};
use crate::error::{nearest, suggest};
use crate::pipeline::foreign;
use crate::pipeline::spec::File;

pub use markdown::markdown;
pub use yaml::flow;

/// Stands for a name that the user chooses, in the path of a setting.
const NAME: &str = "<name>";

/// The key whose map holds the stages.
const STAGES: &str = "stages";

/// A key of a map in the pipeline file.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The keys that lead to it, its own last. `<name>` stands for a name that the user chooses.
    pub path: Vec<String>,
    /// What its value is, for example `number` or `list of text`.
    pub kind: String,
    /// The unit of its value.
    pub unit: Option<String>,
    /// Whether its map must have it.
    pub required: bool,
    /// Its value where the file has none.
    pub default: Option<Value>,
    /// What it does.
    pub meaning: String,
    /// What its type is, for a map or a choice.
    pub about: String,
    /// The words that it may be, each with its meaning.
    pub words: Vec<(String, String)>,
    /// A value.
    pub example: Value,
    /// The settings in it.
    pub inside: Vec<Setting>,
    /// The setting that has the same type and lists its words and the settings in it.
    pub same_as: Option<String>,
}

impl Setting {
    /// Its own key.
    pub fn key(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// How people name it: `select.rule`. The settings of a stage begin with the word that names the operation.
    pub fn name(&self) -> String {
        let is_of_stage = self.path.len() > 2 && self.path[0] == STAGES;
        self.path[if is_of_stage { 2 } else { 0 }..].join(".")
    }

    /// Its name without the names that users choose.
    fn keys(&self) -> Vec<&str> {
        let skipped = usize::from(self.path.len() > 2 && self.path[0] == STAGES);
        self.path.iter().skip(skipped).map(String::as_str).filter(|key| *key != NAME).collect()
    }

    /// The default as YAML; none where the settings inside have defaults of their own, or where nothing is the default.
    pub fn default_text(&self) -> Option<String> {
        match &self.default {
            None | Some(Value::Null) => None,
            Some(Value::Object(map)) if map.len() != 1 => None,
            Some(value) => Some(flow(value)),
        }
    }

    /// A line of YAML.
    pub fn example_text(&self) -> String {
        format!("{}: {}", self.key(), flow(&self.example))
    }

    /// It and all settings inside.
    fn all(&self) -> Vec<&Self> {
        std::iter::once(self).chain(self.inside.iter().flat_map(Self::all)).collect()
    }
}

/// The settings at the top of the file, each with those inside.
pub fn settings() -> &'static [Setting] {
    static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let root = of::<File>();
        Walk { root: &root, seen: BTreeMap::new() }.properties(&root, &[])
    });
    &SETTINGS
}

/// All settings that there are.
fn all() -> impl Iterator<Item = &'static Setting> {
    settings().iter().flat_map(Setting::all)
}

/// The settings with the key `key`, wherever in the file.
pub(super) fn called(key: &str) -> Vec<&'static Setting> {
    all().filter(|setting| setting.key() == key).collect()
}

/// The settings that `name` may mean: the one of that name, or else those whose names end with it.
///
/// # Errors
/// What may have been meant, where there is no such setting.
pub fn find(name: &str) -> Result<Vec<&'static Setting>, String> {
    let asked: Vec<&str> = name.split('.').filter(|key| *key != NAME).collect();
    let asked = if asked.len() > 1 && asked[0] == STAGES { &asked[1..] } else { &asked[..] };
    let exact: Vec<&Setting> = all().filter(|setting| setting.keys() == asked).collect();
    let found = if exact.is_empty() { all().filter(|it| it.keys().ends_with(asked)).collect() } else { exact };
    if found.is_empty() { Err(format!("no such setting; {}", meant(name, asked))) } else { Ok(found) }
}

/// What was probably meant by `name`, whose keys are `asked`: a word of another program, a near name, or a near key.
fn meant(name: &str, asked: &[&str]) -> String {
    let last = asked.last().copied().unwrap_or_default();
    let names: Vec<String> = all().map(|setting| setting.keys().join(".")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let keys: Vec<&str> = all().map(Setting::key).collect();
    let foreign = foreign::key(last, &[]).map(|answer| answer.help);
    let near = || nearest(name, &names).map(|(_, found)| format!("did you mean `{found}`?"));
    let near_key = || {
        let (_, key) = nearest(last, &keys)?;
        let found: Vec<&str> = names.iter().copied().filter(|name| name.rsplit('.').next() == Some(key)).collect();
        Some(format!("did you mean `{}`?", found.join("`, `")))
    };
    let stages = settings().iter().filter(|setting| setting.key() == STAGES).flat_map(|stages| &stages.inside);
    let stages: Vec<&str> = stages.map(Setting::key).collect();
    foreign.or_else(near).or_else(near_key).unwrap_or_else(|| suggest(last, &stages))
}

/// A walk through a schema.
struct Walk<'a> {
    root: &'a Value,
    /// The setting that described a definition first.
    seen: BTreeMap<String, String>,
}

/// What a schema says of a value.
#[derive(Default)]
struct Shape {
    kinds: Vec<String>,
    words: Vec<(String, String)>,
    inside: Vec<Setting>,
}

impl Walk<'_> {
    /// The settings of a map with `schema`, which stands at `path`.
    fn properties(&mut self, schema: &Value, path: &[String]) -> Vec<Setting> {
        let required: Vec<&str> = list(schema, "required").iter().filter_map(Value::as_str).collect();
        let properties = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let setting = |(key, schema): (&String, &Value)| {
            let path = [path, std::slice::from_ref(key)].concat();
            self.setting(path, schema, required.contains(&key.as_str()))
        };
        properties.iter().map(setting).collect()
    }

    fn setting(&mut self, path: Vec<String>, schema: &Value, required: bool) -> Setting {
        let (text, schema_of) = (text(schema), without_null(schema));
        let definition = schema_of.get("$ref").and_then(Value::as_str).map(str::to_owned);
        let resolved = resolve(schema_of, self.root).clone();
        let mut setting = Setting {
            path,
            kind: String::new(),
            unit: schema.get("x-unit").and_then(Value::as_str).map(str::to_owned),
            required,
            default: schema.get("default").cloned(),
            meaning: if text.is_empty() { self::text(&resolved) } else { text },
            about: self::text(&resolved),
            words: Vec::new(),
            example: Value::Null,
            inside: Vec::new(),
            same_as: None,
        };
        let name = setting.name();
        setting.same_as = definition.as_ref().and_then(|definition| self.seen.get(definition)).cloned();
        if let (Some(definition), None) = (definition, &setting.same_as) {
            self.seen.insert(definition, name);
        }
        let mut shape = Shape::default();
        self.shape(&resolved, &setting.path, setting.same_as.is_none(), &mut shape);
        shape.kinds.dedup();
        setting.kind = shape.kinds.join(", or ");
        (setting.words, setting.inside) = (shape.words, shape.inside);
        if setting.kind == "true or false" && !required && !may_be_null(schema) && setting.default.is_none() {
            setting.default = Some(Value::Bool(false));
        }
        let given = [schema, &resolved].into_iter().find_map(|schema| list(schema, "examples").first().cloned());
        setting.example = given.unwrap_or_else(|| example(&setting));
        setting
    }

    /// Adds to `shape` what `schema` says; the settings inside only if `deep`.
    fn shape(&mut self, schema: &Value, path: &[String], deep: bool, shape: &mut Shape) {
        let branches = [list(schema, "anyOf"), list(schema, "oneOf")].concat();
        for branch in &branches {
            let mut branch_of = resolve(branch, self.root).clone();
            if let (Some(own), Some(map)) = (branch.get("description"), branch_of.as_object_mut()) {
                map.insert("description".into(), own.clone());
            }
            match single(&branch_of) {
                Some(_) => self.variant(&branch_of, path, deep, shape),
                None => self.shape(&branch_of, path, deep, shape),
            }
        }
        let mut kind = |kind: &str| {
            if !shape.kinds.iter().any(|known| known == kind) {
                shape.kinds.push(kind.to_owned());
            }
        };
        let words: Vec<&str> =
            list(schema, "enum").iter().chain(schema.get("const")).filter_map(Value::as_str).collect();
        if !words.is_empty() {
            kind("word");
            return shape.words.extend(words.into_iter().map(|word| (word.to_owned(), text(schema))));
        }
        let kinds: Vec<&str> = match schema.get("type") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        for name in kinds.into_iter().filter(|name| *name != "null") {
            match name {
                "object" => {
                    kind("map");
                    if !deep {
                        continue;
                    }
                    shape.inside.extend(self.properties(schema, path));
                    if let Some(named @ Value::Object(_)) = schema.get("additionalProperties") {
                        shape.inside.extend(self.named(named, path));
                    }
                }
                "array" => {
                    let mut items = Shape::default();
                    if let Some(schema) = schema.get("items") {
                        self.shape(&resolve(schema, self.root).clone(), path, deep, &mut items);
                    }
                    kind(&list_of(&items.kinds, schema.get("maxItems").and_then(Value::as_u64)));
                    shape.inside.extend(items.inside);
                }
                "boolean" => kind("true or false"),
                "string" => kind("text"),
                name => kind(name),
            }
        }
    }

    /// Adds to `shape` a choice that is a map with one key.
    fn variant(&mut self, schema: &Value, path: &[String], deep: bool, shape: &mut Shape) {
        let kind = "map with one key".to_owned();
        if !shape.kinds.contains(&kind) {
            shape.kinds.push(kind);
        }
        let own = if deep { self.properties(schema, path) } else { Vec::new() };
        // The text of a choice stands at the choice, and none of them is required.
        let own = own.into_iter().map(|setting| Setting { required: false, meaning: text(schema), ..setting });
        shape.inside.extend(own);
    }

    /// The settings of each of the values, with `schema`, of a map whose keys the user chooses.
    fn named(&mut self, schema: &Value, path: &[String]) -> Vec<Setting> {
        let path = [path, &[NAME.to_owned()]].concat();
        let mut shape = Shape::default();
        self.shape(&resolve(schema, self.root).clone(), &path, true, &mut shape);
        shape.inside
    }
}

/// The type of a list whose items are of the types `kinds`, and `count` in number where that is fixed.
fn list_of(kinds: &[String], count: Option<u64>) -> String {
    let plural = |kind: &String| if kind == "text" { kind.clone() } else { format!("{kind}s") };
    let of = kinds.iter().map(plural).collect::<Vec<_>>().join(" or ");
    match count {
        Some(count) => format!("list of {count} {of}"),
        None if of.is_empty() => "list".to_owned(),
        None => format!("list of {of}"),
    }
}

/// A value that shows how `setting` is written, where its schema gives none.
fn example(setting: &Setting) -> Value {
    let needed: Map<String, Value> = setting
        .inside
        .iter()
        .filter(|inner| inner.required)
        .map(|inner| (inner.key().to_owned(), inner.example.clone()))
        .collect();
    let word = setting.words.iter().map(|(word, _)| Value::String(word.clone())).next_back();
    match &setting.default {
        _ if !needed.is_empty() => needed.into(),
        _ if word.is_some() => word.unwrap_or_default(),
        Some(value) => value.clone(),
        None if setting.kind == "map" => Map::new().into(),
        None => Value::Null,
    }
}

/// The key of a choice that is a map with one key.
fn single(schema: &Value) -> Option<&str> {
    let properties = schema.get("properties")?.as_object()?;
    let is_single = properties.len() == 1
        && list(schema, "required").len() == 1
        && schema.get("additionalProperties") == Some(&Value::Bool(false));
    is_single.then(|| properties.keys().next().map(String::as_str))?
}

/// The alternative to null, where there is one.
fn without_null(schema: &Value) -> &Value {
    match list(schema, "anyOf") {
        [one, null] | [null, one] if null.get("type").and_then(Value::as_str) == Some("null") => one,
        _ => schema,
    }
}

fn may_be_null(schema: &Value) -> bool {
    list(schema, "type").iter().any(|kind| kind == "null")
}

fn list<'a>(schema: &'a Value, keyword: &str) -> &'a [Value] {
    schema.get(keyword).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The description, on one line.
fn text(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
