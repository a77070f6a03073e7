//! The tokens that a tokenizer folder names beside those of `tokenizer.json`, as `transformers` finds and adds them.
//!
//! `tokenizer_config.json` lists added tokens in `added_tokens_decoder`. Where it does not, it is of older make, and
//! `special_tokens_map.json` and `added_tokens.json` count too. A token that `tokenizer.json` does not have gets the next
//! free id, whatever id a list gives it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// The names that every tokenizer may have, in the order in which their tokens are added.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The files of a tokenizer folder that name tokens, each empty where there is none.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// `tokenizer_config.json`
    pub(super) config: Map<String, Value>,
    /// `special_tokens_map.json`
    pub(super) map: Map<String, Value>,
    /// `added_tokens.json`: ids by token.
    pub(super) added: Map<String, Value>,
    /// The model's `config.json`.
    pub(super) model: Map<String, Value>,
}

/// What the files name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Tokens by their names, `eos_token` and the like.
    pub(super) named: BTreeMap<String, String>,
    /// Tokens to add to a tokenizer, or whose properties to change, in this order.
    pub(super) tokens: Vec<AddedToken>,
}

impl Files {
    /// The tokens that are named; `known` are those that `tokenizer.json` adds to its vocabulary, `usual` those of the
    /// tokenizer's class, and `text` gives the token of an id.
    pub(super) fn tokens(
        &self,
        known: &BTreeSet<String>,
        usual: &[(&str, &str)],
        text: impl Fn(u32) -> Option<String>,
    ) -> Found {
        let listed = self.config.get("added_tokens_decoder").and_then(Value::as_object);
        let mut config = self.merged(listed.is_some());
        for (name, token) in usual {
            // A null says that there is none.
            config.entry(*name).or_insert_with(|| (*token).into());
        }
        let mut named = named(&config);
        let further = further(&config);
        let mut tokens = match listed {
            Some(listed) => {
                let is_named = |token: &AddedToken| named.iter().any(|(_, other)| other.content == token.content);
                by_id(listed.iter().filter_map(|(id, token)| {
                    let token = added(token)?;
                    let special = token.special || is_named(&token);
                    Some((id.parse().ok()?, token.special(special)))
                }))
            }
            None => by_id(self.added.iter().filter_map(|(content, id)| {
                let mut specials = named.iter().map(|(_, token)| token).chain(&further);
                let token = AddedToken::from(content.as_str(), specials.any(|token| token.content == *content));
                Some((id.as_u64()?, token))
            })),
        };
        for name in &STANDARD[..2] {
            if !config.contains_key(*name) {
                let id = self.model.get(&format!("{name}_id")).and_then(first_id);
                named.extend(id.and_then(&text).map(|text| ((*name).to_owned(), AddedToken::from(text, true))));
            }
        }
        for token in named.iter().map(|(_, token)| token.clone()).chain(further) {
            if !known.contains(&token.content) && !tokens.iter().any(|other| other.content == token.content) {
                tokens.push(token);
            }
        }
        Found { named: named.into_iter().map(|(name, token)| (name, token.content)).collect(), tokens }
    }

    /// The configuration, in older folders with what `special_tokens_map.json` says instead.
    fn merged(&self, lists_its_tokens: bool) -> Map<String, Value> {
        let mut config = self.config.clone();
        if !lists_its_tokens {
            config.extend(self.map.clone());
        }
        config
    }
}

/// Names and tokens in the order in which they are added. Names of a model's own (`image_token`, …) are those that end in
/// `_token`, and those of `extra_special_tokens`.
fn named(config: &Map<String, Value>) -> Vec<(String, AddedToken)> {
    let standard = STANDARD.into_iter().filter_map(|name| Some((name.to_owned(), special(config.get(name)?)?)));
    let is_token = |value: &Value| value.is_string() || value.get("__type").is_some();
    let own = config
        .iter()
        .filter(|(name, value)| name.ends_with("_token") && !STANDARD.contains(&name.as_str()) && is_token(value));
    let extra = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
    standard.chain(own.chain(extra).filter_map(|(name, value)| Some((name.clone(), special(value)?)))).collect()
}

/// Special tokens without a name: `extra_special_tokens`, in older folders `additional_special_tokens`.
fn further(config: &Map<String, Value>) -> Vec<AddedToken> {
    let list = |name: &str| config.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
    let has_names = config.get("extra_special_tokens").and_then(Value::as_object).is_some_and(|map| !map.is_empty());
    let found = list("extra_special_tokens").or_else(|| list("additional_special_tokens").filter(|_| !has_names));
    found.into_iter().flatten().filter_map(special).collect()
}

fn by_id(tokens: impl Iterator<Item = (u64, AddedToken)>) -> Vec<AddedToken> {
    tokens.collect::<BTreeMap<u64, AddedToken>>().into_values().collect()
}

/// A special token: a text, or an object with its properties.
fn special(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(text) => Some(AddedToken::from(text.as_str(), true)),
        _ => added(value).map(|token| token.special(true)),
    }
}

/// An object with `content` and properties.
fn added(value: &Value) -> Option<AddedToken> {
    let is = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = is("special").unwrap_or(false);
    let token = AddedToken::from(value.get("content")?.as_str()?, special);
    let normalized = is("normalized").unwrap_or(token.normalized);
    Some(
        token
            .normalized(normalized)
            .lstrip(is("lstrip").unwrap_or(false))
            .rstrip(is("rstrip").unwrap_or(false))
            .single_word(is("single_word").unwrap_or(false)),
    )
}

/// An id, or the first of several.
fn first_id(value: &Value) -> Option<u32> {
    let id = value.as_u64().or_else(|| value.get(0)?.as_u64())?;
    u32::try_from(id).ok()
}
