//! The special tokens that a tokenizer folder names, as `transformers` finds them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The names that every tokenizer may have.
const STANDARD: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Special tokens by name, from the contents of tokenizer_config.json, special_tokens_map.json and the model's
/// config.json; `text` gives the token of an id.
///
/// The map is of older make: it counts where the configuration does not list added tokens. Names of a model's own
/// (`image_token`, …) are those of the configuration that end in `_token`, and those of `extra_special_tokens`. A
/// beginning or end of text that nobody names (GPT-2) is that of config.json.
pub(super) fn find(
    config: &Map<String, Value>,
    map: &Map<String, Value>,
    model: &Map<String, Value>,
    text: impl Fn(u32) -> Option<String>,
) -> BTreeMap<String, String> {
    let (first, second) = if config.contains_key("added_tokens_decoder") { (config, map) } else { (map, config) };
    let mut found = BTreeMap::new();
    for name in STANDARD {
        found.extend(
            [first, second].iter().find_map(|file| token(file.get(name)?)).map(|token| (name.to_owned(), token)),
        );
    }
    let own = config.iter().filter(|(name, _)| name.ends_with("_token") && !STANDARD.contains(&name.as_str()));
    let extra = config.get("extra_special_tokens").and_then(Value::as_object).into_iter().flatten();
    found.extend(own.chain(extra).filter_map(|(name, value)| Some((name.clone(), token(value)?))));
    for name in ["bos_token", "eos_token"] {
        // A null says that there is none.
        if !config.contains_key(name) && !map.contains_key(name) {
            let id = model.get(&format!("{name}_id")).and_then(first_id);
            found.extend(id.and_then(&text).map(|token| (name.to_owned(), token)));
        }
    }
    found
}

/// A text, or an object with `content`.
fn token(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// An id, or the first of several.
fn first_id(value: &Value) -> Option<u32> {
    let id = value.as_u64().or_else(|| value.get(0)?.as_u64())?;
    u32::try_from(id).ok()
}
