//! A YAML document with the position of every node, in which `${name}` and `${env:NAME}` are substituted.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;
use serde_saphyr::options::DuplicateKeyPolicy;

use crate::error::Mistake;

/// Line and column in a file, both from 1.
pub(super) type Position = (u64, u64);

/// A node: line and column, both from 1, and content.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) content: Content,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    /// A scalar that came out of a variable: its type is whatever the schema wants.
    Loose(String),
    /// A variable without a value, which was reported.
    Unresolved,
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its position, and its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

impl Node {
    /// Parses YAML.
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        // All keys that stand twice are found by `take_repeated`, not the first one alone.
        let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough };
        serde_saphyr::from_str_with_options::<Self>(text, options).map_err(|error| {
            let at = error.location().map_or((1, 1), |location| (location.line(), location.column()));
            let message = error.without_snippet().to_string();
            // The position stands in front.
            let message = message.split(" at line ").next().unwrap_or_default().to_owned();
            Mistake { at, message, help: None }
        })
    }

    /// The value under `key`.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    /// The position of the deepest node on `path` that is there; of its key, where the node is a value. An item of a list
    /// goes by its place, from 0.
    pub(super) fn locate(&self, path: &[String]) -> Position {
        let mut at = self.at;
        let mut node = self;
        for part in path {
            match &node.content {
                Content::Map(entries) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *part) else { break };
                    (at, node) = (entry.at, &entry.value);
                }
                Content::List(items) => {
                    let Some(item) = part.parse().ok().and_then(|index: usize| items.get(index)) else { break };
                    (at, node) = (item.at, item);
                }
                _ => break,
            }
        }
        at
    }

    /// Takes out every entry of a map whose key the map had before. Each is a key, its position, and that of the first one.
    pub(super) fn take_repeated(&mut self) -> Vec<(String, Position, Position)> {
        let mut found = Vec::new();
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| found.extend(item.take_repeated())),
            Content::Map(entries) => {
                let mut first: BTreeMap<String, Position> = BTreeMap::new();
                entries.retain(|Entry { key, at, .. }| match first.get(key) {
                    Some(first) => {
                        found.push((key.clone(), *at, *first));
                        false
                    }
                    None => first.insert(key.clone(), *at).is_none(),
                });
                entries.iter_mut().for_each(|entry| found.extend(entry.value.take_repeated()));
            }
            _ => {}
        }
        found
    }

    /// Whether every variable in it has a value.
    pub(super) fn is_resolved(&self) -> bool {
        match &self.content {
            Content::Unresolved => false,
            Content::List(items) => items.iter().all(Self::is_resolved),
            Content::Map(entries) => entries.iter().all(|entry| entry.value.is_resolved()),
            _ => true,
        }
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> Value {
        match &self.content {
            Content::Null | Content::Unresolved => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(value) => Value::Number(value.clone()),
            Content::Text(text) | Content::Loose(text) => Value::String(text.clone()),
            Content::List(items) => items.iter().map(Self::to_json).collect(),
            Content::Map(entries) => {
                let entries = entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// A scalar as the text that a variable stands for.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.content {
            Content::Null => Some("null".into()),
            Content::Bool(value) => Some(value.to_string()),
            Content::Number(value) => Some(value.to_string()),
            Content::Text(text) | Content::Loose(text) => Some(text.clone()),
            Content::Unresolved | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// Replaces `${…}` in every string by what `lookup` says; collects what it does not know, with positions.
    pub(super) fn substitute(
        &mut self,
        lookup: &dyn Fn(&str) -> Result<String, Unresolved>,
        problems: &mut Vec<(Position, String)>,
    ) {
        match &mut self.content {
            Content::List(items) => items.iter_mut().for_each(|item| item.substitute(lookup, problems)),
            Content::Map(entries) => {
                entries.iter_mut().for_each(|entry| entry.value.substitute(lookup, problems));
            }
            Content::Text(text) if text.contains("${") => match expand(text, lookup) {
                Ok(expanded) => {
                    let whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
                    self.content = if whole { Content::Loose(expanded) } else { Content::Text(expanded) };
                }
                Err(why) => {
                    problems.extend(why.0.map(|message| (self.at, message)));
                    self.content = Content::Unresolved;
                }
            },
            _ => {}
        }
    }
}

/// Why a variable has no value; nothing where that was reported before.
#[derive(Debug, PartialEq)]
pub(super) struct Unresolved(pub(super) Option<String>);

impl From<String> for Unresolved {
    fn from(message: String) -> Self {
        Self(Some(message))
    }
}

/// `text` with every `${name}` replaced.
pub(super) fn expand(text: &str, lookup: &dyn Fn(&str) -> Result<String, Unresolved>) -> Result<String, Unresolved> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("${") {
        let end = rest[at..].find('}').ok_or_else(|| format!("`${{` without `}}` in `{text}`"))?;
        out += &rest[..at];
        out += &lookup(&rest[at + 2..at + end])?;
        rest = &rest[at + end + 1..];
    }
    Ok(out + rest)
}

/// Bytes that all variables of a file may stand for together. Ten variables, each made of the one before it ten times,
/// would be ten gigabytes.
const EXPANDED: usize = 1 << 20;

/// What variables may still stand for.
pub(super) struct Allowance(Cell<usize>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Cell::new(EXPANDED))
    }
}

impl Allowance {
    /// `text`, if it still fits.
    pub(super) fn take(&self, text: String) -> Result<String, Unresolved> {
        let left = self.0.get().checked_sub(text.len());
        self.0.set(left.ok_or_else(|| format!("variables stand for more than {EXPANDED} bytes of text"))?);
        Ok(text)
    }
}

/// Variables by name; those without a value were reported.
pub(super) type Vars = BTreeMap<String, Option<String>>;

/// What `${name}` means: a variable, or an environment variable after `env:`.
pub(super) fn lookup(vars: &Vars, name: &str) -> Result<String, Unresolved> {
    match (name.strip_prefix("env:"), vars.get(name)) {
        (Some(env), _) => Ok(std::env::var(env).map_err(|_| format!("environment variable `{env}` is not set"))?),
        (None, Some(value)) => value.clone().ok_or(Unresolved(None)),
        (None, None) if vars.is_empty() => {
            Err(format!("unknown variable `{name}`; no variable is defined before it").into())
        }
        (None, None) => {
            let names = vars.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Err(format!("unknown variable `{name}`; the variables are {names}").into())
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        let at = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { at, content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }
            fn visit_none<E>(self) -> Result<Content, E> {
                Ok(Content::Null)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
                Ok(Content::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
                Ok(Content::Number(value.into()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
                Ok(Content::Number(value.into()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
                Ok(Number::from_f64(value).map_or_else(|| Content::Text(value.to_string()), Content::Number))
            }
            fn visit_str<E>(self, value: &str) -> Result<Content, E> {
                Ok(Content::Text(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Content::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let at = (key.referenced.line(), key.referenced.column());
                    entries.push(Entry { key: key.value, at, value: map.next_value()? });
                }
                Ok(Content::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_know_where_they_stand() {
        let node = Node::parse("a: 1\nb:\n  c: [x, true]\n  d: ~\n").unwrap();
        assert_eq!(node.locate(&["b".into(), "c".into()]), (3, 3));
        assert_eq!(node.locate(&["b".into(), "missing".into()]), (2, 1));
        assert_eq!(node.locate(&["b".into(), "c".into(), "1".into()]), (3, 10));
        assert_eq!(node.to_json(), serde_json::json!({"a": 1, "b": {"c": ["x", true], "d": null}}));
    }

    #[test]
    fn keys_that_stand_twice_are_taken_out() {
        let mut node = Node::parse("a: 1\nb: { c: 1, c: 2 }\na: 3\nd: [{ e: 1, e: 2 }]\n").unwrap();
        let found = node.take_repeated();
        let expected = [("a", (3, 1), (1, 1)), ("c", (2, 12), (2, 6)), ("e", (4, 13), (4, 7))];
        assert_eq!(found, expected.map(|(key, at, first)| (key.to_owned(), at, first)));
        assert_eq!(node.to_json(), serde_json::json!({"a": 1, "b": {"c": 1}, "d": [{"e": 1}]}));
    }

    #[test]
    fn variables_are_substituted() {
        let mut node = Node::parse("a: ${n}\nb: x/${n}/${m}\nc: ${nothing}\nd: ${broken}\n").unwrap();
        let var = |name: &str, value: &str| (name.to_owned(), Some(value.to_owned()));
        let vars = BTreeMap::from([var("n", "3"), var("m", "y"), ("broken".to_owned(), None)]);
        let mut problems = Vec::new();
        node.substitute(&|name| lookup(&vars, name), &mut problems);
        assert_eq!(node.get("a").unwrap().content, Content::Loose("3".into()));
        assert_eq!(node.get("b").unwrap().content, Content::Text("x/3/y".into()));
        assert_eq!(problems, [((3, 4), "unknown variable `nothing`; the variables are broken, m, n".to_owned())]);
    }
}
