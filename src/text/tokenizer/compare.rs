//! Whether tokenizers and models fit together. Oracle, reference and policy read the same ids, so their tokenizers must
//! give the same ids for every text, and every id needs a row in the model's embedding.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Tokenizer, sorted};
use crate::error::{Error, Result};

/// Longest piece of a tokenizer's definition that is shown.
const SHOWN: usize = 160;

/// Says where two tokenizers part, each under the name that the user knows it by; none where both give the same ids for
/// every text. What counts is what [`Tokenizer::digest`] covers.
///
/// # Errors
/// When a tokenizer has no JSON form.
pub fn difference(first: (&str, &Tokenizer), second: (&str, &Tokenizer)) -> Result<Option<String>> {
    let ((first, a), (second, b)) = (first, second);
    if a.digest()? == b.digest()? {
        return Ok(None);
    }
    let (whole_a, whole_b) = (whole(a)?, whole(b)?);
    let part = |what: &str, x: String, y: String| format!("{what}: {x} in `{first}`, {y} in `{second}`");
    let (model_a, model_b) = (&whole_a["model"], &whole_b["model"]);
    if model_a["type"] != model_b["type"] {
        return Ok(Some(part("the kinds of model differ", shown(&model_a["type"]), shown(&model_b["type"]))));
    }
    if let Some((id, x, y)) = first_id(a, b) {
        let what = format!("the vocabularies part at id {id}");
        return Ok(Some(part(&what, token(x.as_deref()), token(y.as_deref()))));
    }
    let added = |whole: &Value| -> BTreeMap<u64, Value> {
        let tokens = whole["added_tokens"].as_array().into_iter().flatten();
        tokens.map(|token| (token["id"].as_u64().unwrap_or_default(), sorted(token))).collect()
    };
    let (added_a, added_b) = (added(&whole_a), added(&whole_b));
    if let Some(id) = added_a.keys().chain(added_b.keys()).find(|id| added_a.get(id) != added_b.get(id)) {
        let state = |added: &BTreeMap<u64, Value>| added.get(id).map_or("not added".to_owned(), shown);
        return Ok(Some(part(&format!("the added tokens part at id {id}"), state(&added_a), state(&added_b))));
    }
    for list in ["merges", "vocab"] {
        // The vocabulary is a list, of tokens and scores, for unigram models only.
        let items = |model: &Value| model[list].as_array().cloned().unwrap_or_default();
        let (a, b) = (items(model_a), items(model_b));
        if let Some(at) = (0..a.len().max(b.len())).find(|&at| a.get(at) != b.get(at)) {
            let item = |items: &[Value]| items.get(at).map_or("nothing".to_owned(), shown);
            let what = if list == "merges" { "merges" } else { "scores" };
            return Ok(Some(part(&format!("the {what} part at number {at}"), item(&a), item(&b))));
        }
    }
    let settings = |model: &Value| {
        let mut model = model.clone();
        for list in ["merges", "vocab"] {
            model[list].take();
        }
        model
    };
    let (settings_a, settings_b) = (settings(model_a), settings(model_b));
    let sections = [
        ("the models' settings differ", &settings_a, &settings_b),
        ("the normalizers differ", &whole_a["normalizer"], &whole_b["normalizer"]),
        ("the pre-tokenizers differ", &whole_a["pre_tokenizer"], &whole_b["pre_tokenizer"]),
    ];
    let found = sections.into_iter().find(|(_, a, b)| sorted(a) != sorted(b));
    Ok(found.map(|(what, a, b)| part(what, shown(a), shown(b))))
}

impl Tokenizer {
    /// Refuses a tokenizer with ids that a model of `vocab_size` entries has no embedding for.
    ///
    /// # Errors
    /// The first such id.
    pub fn check_fits(&self, vocab_size: usize) -> Result<()> {
        let padding = self.special_tokens.get("pad_token");
        let beyond = self.inner.get_vocab(true).into_iter().filter(|(_, id)| *id as usize >= vocab_size);
        // Nothing is padded.
        let beyond = beyond.filter(|(token, _)| Some(token) != padding);
        let mut beyond: Vec<(u32, String)> = beyond.map(|(token, id)| (id, token)).collect();
        beyond.sort();
        let Some((id, token)) = beyond.first() else { return Ok(()) };
        let message = format!(
            "{} tokens have no embedding in the model, whose vocab_size is {vocab_size}; the first is `{token}` with id \
             {id}. The tokenizer is another model's, or tokens were added without resizing the model's embeddings",
            beyond.len()
        );
        Err(Error::model(self.folder.join("tokenizer.json").display(), message))
    }
}

fn whole(tokenizer: &Tokenizer) -> Result<Value> {
    serde_json::to_value(&tokenizer.inner).map_err(|error| tokenizer.error(&error))
}

/// The smallest id that does not stand for the same token in both.
fn first_id(a: &Tokenizer, b: &Tokenizer) -> Option<(u32, Option<String>, Option<String>)> {
    let (in_a, in_b) = (a.inner.get_vocab(true), b.inner.get_vocab(true));
    let moved = in_a.iter().filter(|(token, id)| in_b.get(*token) != Some(*id)).map(|(_, id)| *id);
    let other = in_b.iter().filter(|(token, id)| in_a.get(*token) != Some(*id)).map(|(_, id)| *id);
    let id = moved.chain(other).min()?;
    Some((id, a.inner.id_to_token(id), b.inner.id_to_token(id)))
}

fn token(token: Option<&str>) -> String {
    token.map_or("nothing".to_owned(), |token| format!("`{token}`"))
}

/// A piece of JSON in one line.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{} …", &text[..at]),
        None => text,
    }
}
