//! A Hugging Face tokenizer folder: `tokenizer.json`, the special tokens that its other files name, and its chat template.
//!
//! The ids are those of `AutoTokenizer` in `transformers`. Nothing is added to a text that is not in it, no special token
//! at either end: the chat template writes them. What the tokenizer itself puts around a text is for texts without a
//! template.

mod class;
pub mod compare;
mod growth;
mod pieces;
mod special_tokens;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value};

use super::chat_template::{ChatTemplate, Template};
use super::description;
use crate::error::{Error, Place, Result, caught};
use class::Class;
use growth::{Growth, check_token};
pub use pieces::Piece;
use special_tokens::{Files, Found};
use templates::Templates;
pub use templates::names as template_names;

/// Token ids of a text, each with the characters (Unicode code points, from and to) that it covers.
pub type IdsWithOffsets = (Vec<i32>, Vec<(usize, usize)>);

/// Text to token ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    growth: Growth,
    longest_token: usize,
    folder: PathBuf,
    special_tokens: BTreeMap<String, String>,
    templates: Templates,
    /// The template named so, parsed.
    default: Option<ChatTemplate>,
    note: Option<String>,
    digest: OnceLock<String>,
}

impl Tokenizer {
    /// Opens `folder`: `tokenizer.json`, and where they exist `tokenizer_config.json`, `special_tokens_map.json`,
    /// `added_tokens.json`, `chat_template.jinja` (which wins over the template in `tokenizer_config.json`) and the model's
    /// `config.json`.
    ///
    /// # Errors
    /// A missing `tokenizer.json`, or a file that cannot be used, by name. A folder without a chat template is fine
    /// until [`Tokenizer::template`] is asked for.
    pub fn load(folder: &Path) -> Result<Self> {
        let file = folder.join("tokenizer.json");
        let bytes =
            read(&file)?.ok_or_else(|| Error::model(file.display(), format!("not found; {}", way_out(folder))))?;
        let broken = |error: &dyn std::fmt::Display| Error::model(file.display(), format!("not a tokenizer: {error}"));
        let growth = Growth::read(&bytes).map_err(|error| broken(&error))?;
        let inner = caught(|| tokenizers::Tokenizer::from_bytes(&bytes)).map_err(|panic| broken(&panic))?;
        let mut inner = inner.map_err(|error| broken(&error))?;
        // Some published files carry the truncation and padding of the run that made them.
        inner.with_truncation(None).map_err(|error| broken(&error))?;
        inner.with_padding(None);
        let files = Files {
            config: object(&folder.join("tokenizer_config.json"))?,
            map: object(&folder.join("special_tokens_map.json"))?,
            added: object(&folder.join("added_tokens.json"))?,
            model: object(&folder.join("config.json"))?,
        };
        let byte_level = bytes.windows(11).any(|window| window == b"\"ByteLevel\"");
        let class = Class::of(&files, byte_level);
        let rebuilt =
            class.map(|class| class.rebuild(&mut inner, &files)).transpose().map_err(|error| broken(&error))?;
        let note = class.filter(|_| rebuilt == Some(true)).map(|class| {
            format!(
                "{}: transformers builds a {class:?} tokenizer otherwise than tokenizer.json says, and so do we; \
                 `\"tokenizer_class\": \"PreTrainedTokenizerFast\"` in tokenizer_config.json keeps to the file",
                folder.display()
            )
        });
        let known = inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        let Found { named, tokens } =
            files.tokens(&known, class.map_or(&[], Class::tokens), |id| inner.id_to_token(id));
        inner.add_tokens(tokens).map_err(|error| broken(&error))?;
        inner.set_encode_special_tokens(files.config.get("split_special_tokens") == Some(&Value::Bool(true)));
        let mut longest_token = 0;
        for (token, id) in inner.get_vocab(true) {
            check_token(&token).map_err(|error| broken(&error))?;
            if i32::try_from(id).is_err() {
                return Err(broken(&format!("`{token}` has the id {id}, and ids have 31 bits")));
            }
            longest_token = longest_token.max(token.len());
        }
        let templates = Templates::find(folder, &files.config)?;
        let default = templates.parse(templates::DEFAULT, &named)?;
        let folder = folder.to_owned();
        Ok(Self {
            inner,
            growth,
            longest_token,
            folder,
            special_tokens: named,
            templates,
            default,
            note,
            digest: OnceLock::new(),
        })
    }

    /// The folder that it was loaded from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What a user should know about how it was made.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Token ids of `text`. Special tokens written in the text become their ids; none is added.
    ///
    /// # Errors
    /// [`Error::Data`] for a text that is too long, or may become too long; all else is the tokenizer's fault.
    pub fn encode(&self, text: &str) -> Result<Vec<i32>> {
        self.permit(text)?;
        let encoding = self.call(|inner| inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    /// As [`Tokenizer::encode`], with the characters that every token covers. Tokens that share the bytes of one
    /// character all cover it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_offsets(&self, text: &str) -> Result<IdsWithOffsets> {
        self.permit(text)?;
        let encoding = self.call(|inner| inner.encode_char_offsets(text, false))?;
        let ids = encoding.get_ids().iter().map(|&id| id as i32).collect();
        Ok((ids, encoding.get_offsets().to_vec()))
    }

    /// What the tokenizer's post-processor puts in front of a text and behind it.
    fn ends(&self) -> Result<[Vec<i32>; 2]> {
        let encoding = self.call(|inner| inner.encode("a", true))?;
        let added = encoding.get_special_tokens_mask();
        let front = added.iter().take_while(|added| **added == 1).count();
        let back = added[front..].iter().rev().take_while(|added| **added == 1).count();
        let (front, behind) = encoding.get_ids().split_at(front);
        let ids = |ids: &[u32]| ids.iter().map(|&id| id as i32).collect();
        Ok([ids(front), ids(&behind[behind.len() - back..])])
    }

    /// The text of `ids`, special tokens included. Ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// A decoder that fails.
    pub fn decode(&self, ids: &[i32]) -> Result<String> {
        let ids: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        if !self.growth.permits_decoding(ids.len().saturating_mul(self.longest_token)) {
            let bytes = ids.iter().filter_map(|id| self.inner.id_to_token(*id)).map(|token| token.len()).sum();
            if !self.growth.permits_decoding(bytes) {
                return Err(self.too_long(bytes));
            }
        }
        self.call(|inner| inner.decode(&ids, false))
    }

    fn permit(&self, text: &str) -> Result<()> {
        let permitted = caught(|| self.growth.permits(text)).unwrap_or_else(Err);
        if permitted.map_err(|error| self.error(&error))? { Ok(()) } else { Err(self.too_long(text.len())) }
    }

    fn too_long(&self, bytes: usize) -> Error {
        Error::data(Place::file(self.folder.join("tokenizer.json").display()), Growth::refusal(bytes))
    }

    /// The text of one token for a person to read; part of a character shows as U+FFFD.
    pub fn token_text(&self, id: i32) -> String {
        self.decode(&[id]).unwrap_or_default()
    }

    /// Number of rows that an embedding needs for every id: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// The id of `token`, written out in full.
    pub fn id(&self, token: &str) -> Option<i32> {
        self.inner.token_to_id(token).map(|id| id as i32)
    }

    /// The end-of-text token, where the folder names one.
    pub fn eos_token(&self) -> Option<&str> {
        self.special_tokens.get("eos_token").map(String::as_str)
    }

    /// The ids of the special tokens: those that the folder names, and those marked as special in `tokenizer.json`.
    pub fn special_ids(&self) -> BTreeSet<i32> {
        let marked = self.inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
        let named = self.special_tokens.values().filter_map(|token| self.id(token));
        marked.map(|(id, _)| id as i32).chain(named).collect()
    }

    /// Special tokens by their names in `tokenizer_config.json`, such as `eos_token`.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// The chat template: the one named `default`, and where there are tools the one named `tool_use`, if there is one.
    ///
    /// # Errors
    /// When the folder has none, with the ways to give one.
    pub fn template(&self) -> Result<Template> {
        let template = self.default.clone().ok_or_else(|| self.no_template())?;
        let with_tools = self.templates.parse(templates::TOOL_USE, &self.special_tokens)?.map(Box::new);
        Ok(Template::Chat { template: Box::new(template), with_tools })
    }

    /// The chat template called `name`, whatever there are tools or not; none where the folder has no such template.
    ///
    /// # Errors
    /// A template that cannot be read or parsed.
    pub fn named_template(&self, name: &str) -> Result<Option<Template>> {
        let template = self.templates.parse(name, &self.special_tokens)?;
        Ok(template.map(|template| Template::Chat { template: Box::new(template), with_tools: None }))
    }

    /// The chat template in `file`, with this tokenizer's special tokens; none where there is no such file.
    ///
    /// # Errors
    /// A template that cannot be read or parsed.
    pub fn template_in(&self, file: &Path) -> Result<Option<Template>> {
        let Some(text) = templates::text(file)? else { return Ok(None) };
        let template = ChatTemplate::parse(&text, file.display(), &self.special_tokens)?;
        Ok(Some(Template::Chat { template: Box::new(template), with_tools: None }))
    }

    /// Texts as they are, with what the tokenizer puts around them; `end` behind every answer.
    ///
    /// # Errors
    /// A post-processor that fails.
    pub fn no_chat_template(&self, end: Option<&str>) -> Result<Template> {
        let [front, behind] = self.ends()?;
        Ok(Template::Plain { end: end.map(str::to_owned), front, behind })
    }

    /// Digest of what decides the ids of a text: model (vocabulary and merges), added tokens, normalizer and
    /// pre-tokenizer. Where the file lies and how it is laid out does not matter.
    ///
    /// # Errors
    /// When the tokenizer has no JSON form.
    pub fn digest(&self) -> Result<&str> {
        if let Some(known) = self.digest.get() {
            return Ok(known);
        }
        let whole = serde_json::to_value(&self.inner).map_err(|error| self.error(&error))?;
        let mut hasher = blake3::Hasher::new();
        for part in ["model", "added_tokens", "normalizer", "pre_tokenizer"] {
            hasher.update(part.as_bytes());
            hasher.update(sorted(whole.get(part).unwrap_or(&Value::Null)).to_string().as_bytes());
        }
        Ok(self.digest.get_or_init(|| hasher.finalize().to_hex().to_string()))
    }

    /// Files whose parts contradict each other may only be found out in use, and by a panic.
    fn call<T>(&self, work: impl FnOnce(&tokenizers::Tokenizer) -> tokenizers::Result<T>) -> Result<T> {
        let result =
            caught(|| work(&self.inner)).map_err(|panic| self.error(&format!("a broken tokenizer: {panic}")))?;
        result.map_err(|error| self.error(&error))
    }

    fn error(&self, error: &dyn std::fmt::Display) -> Error {
        Error::model(self.folder.join("tokenizer.json").display(), error)
    }

    fn no_template(&self) -> Error {
        let names: Vec<&str> = self.templates.names().collect();
        if !names.is_empty() {
            let message = format!(
                "none of the chat templates here is named `default`; `template: NAME` takes one of {}",
                names.join(", ")
            );
            return Error::model(self.folder.display(), message);
        }
        let help = "put a chat_template.jinja there, name a template file in the tokenize stage (`template: FILE`), \
                    or join the texts as they are (`template: none`, for base models)";
        Error::model(self.folder.display(), format!("no chat template in this folder; {help}"))
    }
}

/// What to do about `folder`, which has no `tokenizer.json`.
pub fn way_out(folder: &Path) -> String {
    let other = ["tokenizer.model", "tekken.json", "tiktoken.model", "vocab.json"];
    let found = other.into_iter().find(|name| folder.join(name).is_file());
    let make = "`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` of transformers in Python makes it";
    match found {
        Some(name) => format!("`{name}` is not read itself: {make} from that"),
        None => format!("a tokenizer folder needs this file; {make}"),
    }
}

/// The file's JSON object; empty where there is no file.
fn object(file: &Path) -> Result<Map<String, Value>> {
    let Some(bytes) = read(file)? else { return Ok(Map::new()) };
    serde_json::from_slice(&bytes).map_err(|error| Error::model(file.display(), format!("not a JSON object: {error}")))
}

fn read(file: &Path) -> Result<Option<Vec<u8>>> {
    match description::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::model(file.display(), error)),
    }
}

/// The same JSON with the keys of every object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        leaf => leaf.clone(),
    }
}

#[cfg(test)]
mod tests;
