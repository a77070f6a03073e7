//! The setting `template`, and what a template sees beside the messages: the columns `tools`, `documents` and
//! `chat_template_kwargs`, and the setting `template_args`.

use std::path::Path;

use arrow::array::RecordBatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::columns::node::{Node, nodes};
use crate::error::{Error, Place, Problem, Result};
use crate::text::chat_template::Context;
use crate::text::tokenizer::template_names;
use crate::text::{Template, Tokenizer};

/// Where the chat template comes from: `auto` is the tokenizer's own; `none` concatenates the contents and puts the
/// end-of-text token after each answer; any other value is the name of one of the tokenizer's templates, or a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum TemplateChoice {
    /// The tokenizer folder's.
    #[default]
    Auto,
    /// None.
    None,
    /// The one of this name, or the file.
    Named(String),
}

impl From<String> for TemplateChoice {
    fn from(word: String) -> Self {
        match word.as_str() {
            "auto" => Self::Auto,
            "none" => Self::None,
            _ => Self::Named(word),
        }
    }
}

impl From<TemplateChoice> for String {
    fn from(choice: TemplateChoice) -> Self {
        match choice {
            TemplateChoice::Auto => "auto".to_owned(),
            TemplateChoice::None => "none".to_owned(),
            TemplateChoice::Named(name) => name,
        }
    }
}

impl TemplateChoice {
    /// The template. `end` is what ends an answer where there is none.
    ///
    /// # Errors
    /// A template that is not there or cannot be parsed.
    pub fn open(&self, tokenizer: &Tokenizer, end: Option<&str>) -> Result<Template> {
        let missing = |name: &str| Error::model(name, "no such file, and no chat template of this name");
        match self {
            Self::Auto => tokenizer.template(),
            Self::None => tokenizer.no_chat_template(end),
            Self::Named(name) => match tokenizer.named_template(name)? {
                Some(template) => Ok(template),
                None => tokenizer.template_in(Path::new(name))?.ok_or_else(|| missing(name)),
            },
        }
    }

    /// What is wrong with it for the tokenizer in `folder`.
    pub fn problem(&self, folder: &Path) -> Option<Problem> {
        let names = template_names(folder).ok()?;
        let known = |name: &str| names.iter().any(|known| known == name);
        let others = if names.is_empty() { String::new() } else { format!("one of {}, ", names.join(", ")) };
        let help = format!("{others}a file, or `none` (texts as they are, for base models)");
        match self {
            Self::Auto if !known("default") => {
                let message = format!("no chat template in `{}`", folder.display());
                Some(Problem::at("template", message).help(help))
            }
            Self::Named(name) if !known(name) && !Path::new(name).is_file() => {
                let message = format!("`{name}` is no file, and no chat template in `{}`", folder.display());
                Some(Problem::at("template", message).help(help))
            }
            _ => None,
        }
    }
}

/// The columns that a template sees.
const TOOLS: &str = "tools";
const DOCUMENTS: &str = "documents";
const ARGUMENTS: &str = "chat_template_kwargs";

/// What the template sees beside the messages of every row of `batch`. The row's own arguments win over `arguments`.
///
/// # Errors
/// A column that holds something else.
pub(in crate::stages) fn contexts(batch: &RecordBatch, arguments: &Map<String, Value>) -> Result<Vec<Context>> {
    let mut contexts = vec![Context { arguments: arguments.clone(), ..Context::default() }; batch.num_rows()];
    for name in [TOOLS, DOCUMENTS, ARGUMENTS] {
        let Ok(field) = batch.schema_ref().field_with_name(name) else { continue };
        let wrong = |error: &dyn std::fmt::Display| Error::data(Place::column(name), error);
        let column = nodes(field, &batch[name]).map_err(|error| wrong(&error))?;
        for (row, (node, context)) in column.iter().zip(&mut contexts).enumerate() {
            let Some(value) = json(node) else { continue };
            let objects = |list: &[Value]| list.iter().all(Value::is_object);
            match (name, value) {
                (ARGUMENTS, Value::Object(own)) => context.arguments.extend(own),
                (TOOLS, Value::Array(list)) if objects(&list) => context.tools = Some(list.into()),
                (DOCUMENTS, Value::Array(list)) if objects(&list) => context.documents = Some(list.into()),
                (ARGUMENTS, _) => return Err(wrong(&format!("row {row} of the batch holds no object"))),
                _ => return Err(wrong(&format!("row {row} of the batch holds no list of objects"))),
            }
        }
    }
    Ok(contexts)
}

/// A value, or the JSON that is its text, so that tools may be a text, and a list of texts; none where it is null or an
/// empty text.
fn json(node: &Node) -> Option<Value> {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    match node {
        Node::Null => None,
        Node::Text(text) if text.trim().is_empty() => None,
        Node::Text(text) => Some(parsed(text)).filter(|value| !value.is_null()),
        Node::List(items) => Some(items.iter().filter_map(json).collect()),
        other => Some(other.json()),
    }
}
