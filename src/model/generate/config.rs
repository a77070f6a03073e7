//! generation_config.json: the settings of `generate()` of `transformers` that come with a model.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::penalties::Penalties;
use crate::error::{Error, Result};
use crate::kernels::choice::Sampling;
use crate::model::checkpoint::source::ModelSource;
use crate::text::description;

const FILE: &str = "generation_config.json";

/// The entries of the file; empty without one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    entries: Map<String, Value>,
}

/// Entries that are not supported, with the number that leaves answers as they are.
const UNSUPPORTED: [(&str, f64); 9] = [
    ("num_beams", 1.0),
    ("encoder_repetition_penalty", 1.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("diversity_penalty", 0.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("guidance_scale", 1.0),
    ("penalty_alpha", 0.0),
    ("top_h", 1.0),
];

/// Entries that are not supported and change answers whatever their value.
const UNSUPPORTED_AT_ALL: [&str; 9] = [
    "bad_words_ids",
    "sequence_bias",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "constraints",
    "stop_strings",
    "watermarking_config",
    "dola_layers",
];

/// Entries that are applied, with the number that leaves answers as they are.
const APPLIED: [(&str, f64); 8] = [
    ("temperature", 1.0),
    ("top_p", 1.0),
    ("min_p", 0.0),
    ("typical_p", 1.0),
    ("repetition_penalty", 1.0),
    ("no_repeat_ngram_size", 0.0),
    ("min_new_tokens", 0.0),
    ("min_length", 0.0),
];

/// What `top_k` is where the file samples and does not say it.
const DEFAULT_TOP_K: usize = 50;

impl GenerationConfig {
    /// That of `source`.
    ///
    /// # Errors
    /// A file that cannot be read, or is no JSON object.
    pub fn of(source: &ModelSource) -> Result<Self> {
        let Some(path) = source.base_folder()?.map(|folder| folder.join(FILE)).filter(|path| path.is_file()) else {
            return Ok(Self::default());
        };
        let wrong = |error: &dyn std::fmt::Display| Error::model(path.display(), error);
        let text = description::read(&path).map_err(|error| wrong(&error))?;
        let entries = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
        Ok(Self { entries })
    }

    /// All entries.
    pub fn entries(&self) -> &Map<String, Value> {
        &self.entries
    }

    /// `eos_token_id`, a number or a list of them; none where it says nothing.
    pub fn ends(&self) -> Option<BTreeSet<i32>> {
        self.entries.get("eos_token_id").filter(|ids| !ids.is_null()).map(|ids| self::ids(ids).into_iter().collect())
    }

    /// How it samples, and what it does to the logits.
    ///
    /// # Errors
    /// An entry that is not supported, or that is no number where one belongs.
    pub fn settings(&self) -> Result<(Sampling, Penalties), String> {
        let set = |name: &str| self.entries.get(name).filter(|value| !value.is_null());
        let is_set = |(name, none): &(&str, f64)| set(name).is_some_and(|value| value.as_f64() != Some(*none));
        let unsupported = UNSUPPORTED.iter().find(|entry| is_set(entry)).map(|(name, _)| *name);
        let unsupported = unsupported
            .or_else(|| UNSUPPORTED_AT_ALL.into_iter().find(|name| set(name).is_some_and(|value| !is_empty(value))));
        if let Some(name) = unsupported {
            return Err(format!("{FILE}: `{name}: {}` is not supported", self.entries[name]));
        }
        let number = |name: &str, otherwise: f64| match set(name) {
            None => Ok(otherwise),
            Some(value) => value.as_f64().ok_or_else(|| format!("{FILE}: `{name}: {value}` is no number")),
        };
        let count = |name: &str, otherwise: usize| match set(name) {
            None => Ok(otherwise),
            Some(value) => {
                let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
                count.ok_or_else(|| format!("{FILE}: `{name}: {value}` is no whole number"))
            }
        };
        let samples = set("do_sample").and_then(Value::as_bool).unwrap_or(false);
        let sampling = if samples {
            Sampling {
                temperature: number("temperature", 1.0)?,
                top_k: count("top_k", DEFAULT_TOP_K)?,
                top_p: number("top_p", 1.0)?,
                min_p: number("min_p", 0.0)?,
                typical_p: number("typical_p", 1.0)?,
            }
        } else {
            Sampling::new(0.0, 1.0)
        };
        if samples && !(sampling.temperature > 0.0 && sampling.temperature.is_finite()) {
            return Err(format!("{FILE}: `temperature: {}` must be above 0", sampling.temperature));
        }
        let ids = |name: &str| set(name).map(ids).unwrap_or_default();
        let penalties = Penalties {
            repetition: number("repetition_penalty", 1.0)? as f32,
            no_repeat_ngram: count("no_repeat_ngram_size", 0)?,
            min_new_tokens: count("min_new_tokens", 0)?,
            min_length: count("min_length", 0)?,
            suppressed: ids("suppress_tokens"),
            suppressed_at_begin: ids("begin_suppress_tokens"),
        };
        if !(penalties.repetition > 0.0 && penalties.repetition.is_finite()) {
            return Err(format!("{FILE}: `repetition_penalty: {}` must be above 0", penalties.repetition));
        }
        Ok((sampling, penalties))
    }

    /// The entries that would change answers, as they are written.
    pub fn entries_that_matter(&self) -> Vec<String> {
        let set = |name: &str| self.entries.get(name).filter(|value| !value.is_null());
        let numbers = APPLIED.iter().chain(&UNSUPPORTED);
        let numbers = numbers.filter(|(name, none)| set(name).is_some_and(|value| value.as_f64() != Some(*none)));
        let lists = ["suppress_tokens", "begin_suppress_tokens"].iter().chain(&UNSUPPORTED_AT_ALL);
        let lists = lists.filter(|name| set(name).is_some_and(|value| !is_empty(value)));
        let samples = set("do_sample").filter(|value| **value == Value::Bool(true)).map(|_| "do_sample");
        let top_k = set("top_k").filter(|value| value.as_u64() != Some(0)).map(|_| "top_k");
        let names = samples.into_iter().chain(top_k).chain(numbers.map(|(name, _)| *name)).chain(lists.copied());
        names.map(|name| format!("{name} {}", self.entries[name])).collect()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        value => value.is_null(),
    }
}

/// A token id, or a list of them.
fn ids(value: &Value) -> Vec<i32> {
    let found = match value {
        Value::Array(ids) => ids.iter().collect(),
        id => vec![id],
    };
    found.into_iter().filter_map(Value::as_i64).filter_map(|id| i32::try_from(id).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(entries: &Value) -> GenerationConfig {
        GenerationConfig { entries: entries.as_object().unwrap().clone() }
    }

    #[test]
    fn a_file_is_read_as_generate_reads_it() {
        let greedy = config(&json!({"top_k": 5, "eos_token_id": 7, "repetition_penalty": 1.5, "suppress_tokens": [3]}));
        let (sampling, penalties) = greedy.settings().unwrap();
        assert_eq!(sampling, Sampling::new(0.0, 1.0));
        assert_eq!((penalties.repetition, penalties.suppressed), (1.5, vec![3]));
        assert_eq!(greedy.ends(), Some([7].into()));
        assert_eq!(greedy.entries_that_matter(), ["top_k 5", "repetition_penalty 1.5", "suppress_tokens [3]"]);

        let random = config(&json!({"do_sample": true, "min_p": 0.1, "eos_token_id": [7, 8], "num_beams": 1}));
        let expected = Sampling { temperature: 1.0, top_k: 50, top_p: 1.0, min_p: 0.1, typical_p: 1.0 };
        assert_eq!(random.settings().unwrap(), (expected, Penalties::default()));
        assert_eq!(random.ends(), Some([7, 8].into()));
        assert_eq!(random.entries_that_matter(), ["do_sample true", "min_p 0.1"]);
        assert_eq!(config(&json!({"eos_token_id": null, "top_p": 1.0})).entries_that_matter(), [""; 0]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let wrong = |entries: Value| config(&entries).settings().unwrap_err();
        assert_eq!(wrong(json!({"num_beams": 4})), "generation_config.json: `num_beams: 4` is not supported");
        assert_eq!(
            wrong(json!({"bad_words_ids": [[1]]})),
            "generation_config.json: `bad_words_ids: [[1]]` is not supported"
        );
        assert_eq!(wrong(json!({"min_length": -1})), "generation_config.json: `min_length: -1` is no whole number");
        assert_eq!(
            wrong(json!({"do_sample": true, "temperature": 0.0})),
            "generation_config.json: `temperature: 0` must be above 0"
        );
    }
}
