//! How much longer than a text its tokens can become, by what tokenizer.json says, before anything of it is believed.
//!
//! Eight steps that write sixteen letters for one make four billion of it, already while the added tokens are read. So every
//! step's growth is counted in bytes, and what all of them may make of one byte has a bound, as has what becomes of a text.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::Replace;
use tokenizers::{
    DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

use crate::error::caught;

/// Most bytes that a tokenizer may make of one byte of a text; what is published stays below 300.
const GROWTH: u64 = 1000;

/// Most bytes of a text once it is normalized, and of one that is decoded.
const TEXT: u64 = 64 << 20;

/// Most steps of a tokenizer, and pieces of a template.
const STEPS: usize = 1000;

/// Longest token in bytes.
const TOKEN: usize = 4096;

/// Longest word in characters that a WordPiece model may look into, in time that grows with its square.
const WORD: u64 = 1000;

/// What decides how much a text grows.
#[derive(Debug)]
pub(super) struct Growth {
    /// In order; sequences are taken apart.
    normalizers: Vec<NormalizerWrapper>,
    /// Behind the normalizers.
    rest: u64,
    whole: u64,
    decoding: u64,
}

/// tokenizer.json without its vocabulary.
#[derive(Deserialize)]
struct File {
    normalizer: Option<Value>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    post_processor: Option<PostProcessorWrapper>,
    decoder: Option<DecoderWrapper>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Model {
    max_input_chars_per_word: Option<u64>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

impl Growth {
    /// Reads the steps of the tokenizer.json `bytes`.
    ///
    /// # Errors
    /// What is not JSON or no step, and what grows or takes more than it may, with the name of the part.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let file: File = caught(|| serde_json::from_slice(bytes))?.map_err(|error| error.to_string())?;
        let normalizer = file.normalizer.unwrap_or_default();
        check_charsmaps(&normalizer)?;
        let normalizer: Option<NormalizerWrapper> =
            caught(|| serde_json::from_value(normalizer))?.map_err(|error| format!("normalizer: {error}"))?;
        let mut normalizers = Vec::new();
        normalizer.into_iter().for_each(|step| flatten(step, &mut normalizers));
        let normalizing = product(normalizers.iter().map(normalizer_growth));
        let (splitting, splits) = file.pre_tokenizer.as_ref().map_or((1, 0), pre_tokenizer_growth);
        let processor = serde_json::to_value(&file.post_processor).map_err(|error| error.to_string())?;
        let (processing, pieces) = json_growth(&processor, "processors", processor_growth);
        let decoder = serde_json::to_value(&file.decoder).map_err(|error| error.to_string())?;
        let (decoding, decoders) = json_growth(&decoder, "decoders", decoder_growth);
        let rest = splitting.saturating_mul(processing);
        let growth = Self { normalizers, rest, whole: normalizing.saturating_mul(rest), decoding };

        let steps = growth.normalizers.len() + splits + pieces + decoders;
        if steps > STEPS {
            return Err(format!("{steps} steps and pieces of templates; the most is {STEPS}"));
        }
        let parts = [
            ("normalizer", normalizing),
            ("pre_tokenizer", splitting),
            ("post_processor", processing),
            ("decoder", decoding),
            ("normalizer, pre_tokenizer and post_processor", growth.whole),
        ];
        if let Some((part, times)) = parts.into_iter().find(|(_, growth)| *growth > GROWTH) {
            return Err(format!("{part}: may make a text {times} times as long; the most is {GROWTH}"));
        }
        let added = file.added_tokens.iter().filter(|token| token.normalized);
        let added = added.map(|token| token.content.len() as u64).sum::<u64>().saturating_mul(normalizing);
        if added > TEXT {
            return Err(format!("added_tokens: may come to {added} bytes once normalized; the most is {TEXT}"));
        }
        file.model.check()?;
        Ok(growth)
    }

    /// Whether the tokens of `text` stay within bounds. A text of a megabyte always does, a longer one mostly: it is
    /// normalized step by step to see.
    pub(super) fn permits(&self, text: &str) -> Result<bool, String> {
        if (text.len() as u64).saturating_mul(self.whole) <= TEXT {
            return Ok(true);
        }
        let fits = |length: usize, growth: u64| (length as u64).saturating_mul(growth) <= TEXT;
        let mut normalized = NormalizedString::from(text);
        for step in &self.normalizers {
            if !fits(normalized.len(), normalizer_growth(step)) {
                return Ok(false);
            }
            step.normalize(&mut normalized).map_err(|error| error.to_string())?;
        }
        Ok(fits(normalized.len(), self.rest))
    }

    /// Whether tokens of `bytes` together are decoded to a text within bounds.
    pub(super) fn permits_decoding(&self, bytes: usize) -> bool {
        (bytes as u64).saturating_mul(self.decoding) <= TEXT
    }

    /// What is wrong with a text that is not permitted.
    pub(super) fn refusal(bytes: usize) -> String {
        format!("a text of {bytes} bytes may become more than {TEXT} bytes long, which is the most")
    }
}

impl Model {
    fn check(&self) -> Result<(), String> {
        if let Some(word) = self.max_input_chars_per_word.filter(|word| *word > WORD) {
            return Err(format!("model: max_input_chars_per_word is {word}; the most is {WORD}"));
        }
        let affixes = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        match affixes.into_iter().flatten().map(String::len).find(|length| *length > TOKEN) {
            Some(length) => Err(format!("model: a prefix or suffix of {length} bytes; the most is {TOKEN}")),
            None => Ok(()),
        }
    }
}

/// Refuses tokens that are too long: models go along them for every character of a text.
pub(super) fn check_token(token: &str) -> Result<(), String> {
    if token.len() <= TOKEN {
        return Ok(());
    }
    let start: String = token.chars().take(40).collect();
    Err(format!("the token `{start}…` has {} bytes; the most is {TOKEN}", token.len()))
}

fn product(growths: impl Iterator<Item = u64>) -> u64 {
    growths.fold(1, u64::saturating_mul)
}

fn flatten(step: NormalizerWrapper, into: &mut Vec<NormalizerWrapper>) {
    match step {
        NormalizerWrapper::Sequence(steps) => steps.into_iter().for_each(|step| flatten(step, into)),
        step => into.push(step),
    }
}

/// Most bytes that `step` makes of one. Unicode's own forms: <https://unicode.org/faq/normalization.html>.
fn normalizer_growth(step: &NormalizerWrapper) -> u64 {
    use NormalizerWrapper as N;
    match step {
        N::Sequence(steps) => product(steps.as_ref().iter().map(normalizer_growth)),
        N::NFC(_) | N::NFD(_) => 3,
        N::NFKC(_) | N::NFKD(_) => 11,
        N::StripNormalizer(_) | N::StripAccents(_) | N::Nmt(_) => 1,
        N::Lowercase(_) | N::ByteLevel(_) => 2,
        // Spaces around ideographs, NFD, lower case.
        N::BertNormalizer(_) => 2 * 3 * 2,
        N::Prepend(step) => 1 + step.prepend.len() as u64,
        N::Replace(step) => replace_growth(step),
        N::Precompiled(_) => {
            let text = serde_json::to_value(step).unwrap_or_default();
            let longest = text["precompiled_charsmap"].as_str().and_then(longest_replacement);
            longest.map_or(u64::MAX, |longest| longest.max(1) as u64)
        }
    }
}

/// A literal is written anew at most once for its own length, what a regular expression finds may have none.
fn replace_growth(step: &Replace) -> u64 {
    let content = step.content.len() as u64;
    let pattern = serde_json::to_value(step).unwrap_or_default();
    match pattern["pattern"]["String"].as_str().map(|literal| literal.len() as u64) {
        Some(literal) if literal > 0 => content.div_ceil(literal).max(1),
        _ => content + 1,
    }
}

/// Most bytes that a pre-tokenizer makes of one, and the number of its steps.
fn pre_tokenizer_growth(step: &PreTokenizerWrapper) -> (u64, usize) {
    match step {
        PreTokenizerWrapper::Sequence(steps) => {
            let (growths, counts): (Vec<u64>, Vec<usize>) = steps.as_ref().iter().map(pre_tokenizer_growth).unzip();
            (product(growths.into_iter()), counts.into_iter().fold(1, usize::saturating_add))
        }
        // A byte becomes a character of up to two, as does a space before every piece.
        PreTokenizerWrapper::ByteLevel(step) => (if step.add_prefix_space { 4 } else { 2 }, 1),
        // For a space, and before every piece.
        PreTokenizerWrapper::Metaspace(step) => (1 + step.get_replacement().len_utf8() as u64, 1),
        // The others cut.
        _ => (1, 1),
    }
}

/// Most bytes that a post-processor or a decoder makes of one, and the number of its steps and pieces: the steps of sequences,
/// which stand under `key`, by `growth`, and the pieces of templates.
fn json_growth(part: &Value, key: &str, growth: fn(&Value) -> u64) -> (u64, usize) {
    let list = |key: &str| part[key].as_array().map_or(&[][..], Vec::as_slice);
    if part.is_null() {
        return (1, 0);
    }
    if part["type"] != "Sequence" {
        return (growth(part), 1 + list("single").len() + list("pair").len());
    }
    let (growths, counts): (Vec<u64>, Vec<usize>) = list(key).iter().map(|step| json_growth(step, key, growth)).unzip();
    (product(growths.into_iter()), counts.into_iter().fold(1, usize::saturating_add))
}

/// A template may take the text several times. Special tokens are never asked for.
fn processor_growth(step: &Value) -> u64 {
    let pieces = step["single"].as_array().into_iter().flatten();
    pieces.filter(|piece| piece.get("Sequence").is_some()).count().max(1) as u64
}

fn decoder_growth(step: &Value) -> u64 {
    match step["type"].as_str() {
        Some("Replace") => serde_json::from_value(step.clone()).map_or(u64::MAX, |step| replace_growth(&step)),
        // A byte that is no text becomes a mark of three.
        Some("ByteLevel") => 3,
        // A space before every token, or between letters.
        Some("WordPiece" | "CTC" | "BPEDecoder") => 2,
        _ => 1,
    }
}

/// Refuses tables of replacements anywhere in a normalizer that cannot be read: the size at their start is taken at its
/// word.
fn check_charsmaps(part: &Value) -> Result<(), String> {
    match part {
        Value::Array(parts) => parts.iter().try_for_each(check_charsmaps),
        Value::Object(parts) => parts.iter().try_for_each(|(key, part)| match part {
            Value::String(table) if key == "precompiled_charsmap" => match longest_replacement(table) {
                Some(_) => Ok(()),
                None => Err("normalizer: precompiled_charsmap is cut off, or no such table".to_owned()),
            },
            part => check_charsmaps(part),
        }),
        _ => Ok(()),
    }
}

/// The longest replacement of a SentencePiece table in base64: a length, a trie of that many bytes, and texts that end with
/// zeros.
fn longest_replacement(table: &str) -> Option<usize> {
    let bytes = base64(table)?;
    let (length, rest) = bytes.split_first_chunk()?;
    let texts = rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(parts: &Value) -> Result<Growth, String> {
        let mut file = json!({"model": {"type": "BPE", "vocab": {}, "merges": []}});
        parts.as_object().unwrap().iter().for_each(|(key, part)| file[key] = part.clone());
        Growth::read(file.to_string().as_bytes())
    }

    fn replace(from: &str, to: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": from}, "content": to})
    }

    #[test]
    fn steps_multiply() {
        let steps = [json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁"), json!({"type": "NFC"})];
        let growth = read(&json!({"normalizer": {"type": "Sequence", "normalizers": steps}})).unwrap();
        assert_eq!((growth.whole, growth.decoding), (4 * 3 * 3, 1));
        let inner = json!({"type": "Sequence", "normalizers": [replace("ab", "cde"), replace("", "x")]});
        let growth = read(&json!({"normalizer": {"type": "Sequence", "normalizers": [inner]}})).unwrap();
        assert_eq!(growth.whole, 2 * 2);
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let growth = read(&json!({"pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level}));
        let growth = growth.unwrap();
        assert_eq!((growth.whole, growth.decoding), (4, 3));
        let doubling = vec![byte_level; 40];
        let error = read(&json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": doubling}})).unwrap_err();
        assert!(error.starts_with("pre_tokenizer: may make a text "), "{error}");
    }

    #[test]
    fn a_long_text_is_measured() {
        let growth = read(&json!({"normalizer": {"type": "NFKC"}})).unwrap();
        let fits = |text: &str, times: usize| growth.permits(&text.repeat(times)).unwrap();
        assert!(fits("a", 5 << 20));
        assert!(!fits("a", 6 << 20));
        let growth =
            read(&json!({"normalizer": {"type": "Sequence", "normalizers": [replace("a", &"a".repeat(100))]}}));
        let growth = growth.unwrap();
        assert!(growth.permits(&"b".repeat(600_000)).unwrap());
        assert!(!growth.permits(&"a".repeat(700_000)).unwrap());
    }

    /// As `base64.b64encode(struct.pack("<I", 4) + b"abcd" + b"x\0longest\0")` in Python.
    #[test]
    fn a_table_of_replacements_grows_by_its_longest() {
        assert_eq!(longest_replacement("BAAAAGFiY2R4AGxvbmdlc3QA"), Some(7));
        assert_eq!(longest_replacement("/////w=="), None);
        let error =
            read(&json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}})).unwrap_err();
        assert_eq!(error, "normalizer: precompiled_charsmap is cut off, or no such table");
    }
}
