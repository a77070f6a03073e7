//! The chat templates of a tokenizer folder: one, or several by name.
//!
//! `chat_template.jinja` is the one named `default`, `additional_chat_templates/NAME.jinja` are others. Where there is no
//! such file, `tokenizer_config.json` has one template or a list of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{object, read};
use crate::error::{Error, Result};
use crate::text::chat_template::ChatTemplate;

/// The template that is taken where none is asked for by name.
pub(super) const DEFAULT: &str = "default";
/// The template that is taken instead where there are tools.
pub(super) const TOOL_USE: &str = "tool_use";

/// Templates by name, not yet parsed.
#[derive(Debug, Default)]
pub(super) struct Templates(BTreeMap<String, Source>);

#[derive(Debug)]
struct Source {
    file: PathBuf,
    text: String,
}

impl Templates {
    /// The templates of `folder`, whose `tokenizer_config.json` is `config`.
    pub(super) fn find(folder: &Path, config: &Map<String, Value>) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut add = |name: &str, file: PathBuf| -> Result<()> {
            if let Some(text) = text(&file)? {
                found.insert(name.to_owned(), Source { file, text });
            }
            Ok(())
        };
        add(DEFAULT, folder.join("chat_template.jinja"))?;
        for entry in fs::read_dir(folder.join("additional_chat_templates")).into_iter().flatten().flatten() {
            let file = entry.path();
            let name = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".jinja").map(str::to_owned));
            name.map_or(Ok(()), |name| add(&name, file))?;
        }
        if found.is_empty() {
            let file = folder.join("tokenizer_config.json");
            let listed = listed(config).map_err(|message| Error::model(file.display(), message))?;
            found.extend(listed.into_iter().map(|(name, text)| (name, Source { file: file.clone(), text })));
        }
        Ok(Self(found))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The template called `name`; none where there is no such template.
    pub(super) fn parse(&self, name: &str, tokens: &BTreeMap<String, String>) -> Result<Option<ChatTemplate>> {
        let source = self.0.get(name);
        source.map(|source| ChatTemplate::parse(&source.text, source.file.display(), tokens)).transpose()
    }
}

/// The names of the chat templates of `folder`; `default` is the one that is taken where none is asked for.
///
/// # Errors
/// A folder that cannot be read.
pub fn names(folder: &Path) -> Result<Vec<String>> {
    let config = object(&folder.join("tokenizer_config.json"))?;
    Ok(Templates::find(folder, &config)?.names().map(str::to_owned).collect())
}

/// The text of a file; none where there is no file.
pub(super) fn text(file: &Path) -> Result<Option<String>> {
    let text = read(file)?.map(String::from_utf8).transpose();
    text.map_err(|error| Error::model(file.display(), error))
}

/// `chat_template` of a configuration, by name.
fn listed(config: &Map<String, Value>) -> Result<Vec<(String, String)>, String> {
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Some(Value::Array(entries)) => {
            let text = |entry: &Value, key: &str| entry.get(key)?.as_str().map(str::to_owned);
            let entry = |entry| Some((text(entry, "name")?, text(entry, "template")?));
            let listed: Option<Vec<_>> = entries.iter().map(entry).collect();
            listed.ok_or_else(|| "an entry of `chat_template` lacks `name` or `template`".to_owned())
        }
        Some(_) => Err("`chat_template` is neither a text nor a list of texts".to_owned()),
    }
}
