//! Chat templates as `transformers` renders them: messages in, the model's own text out.
//!
//! The environment is that of `transformers.utils.chat_template_utils`: trimmed blocks, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now`, a `tojson` that writes JSON as Python does. `answers.rs` cuts the text of a
//! conversation into prompt and answers, `turns.rs` finds the assistant's words in an answer of several turns.

mod answers;
mod bounded;
mod content;
mod json;
mod methods;
mod python;
mod source;
mod turns;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bounded::bounded;
use content::Takes;
use json::value;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, syntax::SyntaxConfig};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Place, Result};

/// One message: `role`, `content` and whatever else the template reads, as JSON. Nulls count as missing.
pub type Message = Map<String, Json>;

/// What a template sees beside the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Context {
    /// The tools that may be called, as JSON schemas; a list.
    pub tools: Option<Json>,
    /// Documents to answer from; a list of objects.
    pub documents: Option<Json>,
    /// Further variables, such as `enable_thinking`. They win over special tokens of the same name.
    pub arguments: Map<String, Json>,
}

/// A prompt and its answers as text: each answer continues the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What the model reads before it answers.
    pub prompt: String,
    /// The answers in the order given.
    pub answers: Vec<Answer>,
}

/// An answer as text, with the template's end of turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The characters (Unicode code points) of `text` that the assistant writes; none where it writes all of them.
    pub own: Option<Vec<Range<usize>>>,
}

/// Why a conversation has no text, or none that can be cut into prompt and answers.
#[derive(Debug)]
pub enum Unrendered {
    /// The template objects to the conversation (`raise_exception`), or cannot be rendered with its values.
    Refused(Error),
    /// The template writes the prompt's words otherwise, or elsewhere, once an answer follows.
    PromptRewritten,
    /// The turns of an answer cannot be found in the template's text.
    TurnsNotFound,
    /// The template itself fails.
    Broken(Error),
}

impl From<Error> for Unrendered {
    fn from(error: Error) -> Self {
        match error {
            Error::Data { .. } => Self::Refused(error),
            other => Self::Broken(other),
        }
    }
}

/// How messages become text.
#[derive(Debug)]
pub enum Template {
    /// A chat template.
    Chat {
        /// The template.
        template: Box<ChatTemplate>,
        /// The one for conversations with tools, where it is another.
        with_tools: Option<Box<ChatTemplate>>,
    },
    /// Contents one after the other, for base models. `end` is appended to every answer.
    Plain {
        /// The end-of-text token, where one is wanted.
        end: Option<String>,
        /// Token ids in front of every text.
        front: Vec<i32>,
        /// Token ids behind every text that does not end with them.
        behind: Vec<i32>,
    },
}

impl Template {
    /// Renders a prompt and its answers. Errors name the template's file and line.
    ///
    /// # Errors
    /// A template that refuses the conversation, cannot be run, or rewrites the prompt when an answer follows.
    pub fn render(
        &self,
        prompt: &[Message],
        answers: &[&[Message]],
        context: &Context,
    ) -> Result<Rendered, Unrendered> {
        match self {
            Self::Chat { template, with_tools } => {
                chosen(template, with_tools.as_deref(), context).render_answers(prompt, answers, context)
            }
            Self::Plain { end, .. } => {
                let end = end.as_deref().unwrap_or_default();
                let answer = |turns: &&[Message]| Answer { text: plain(turns) + end, own: None };
                Ok(Rendered { prompt: plain(prompt), answers: answers.iter().map(answer).collect() })
            }
        }
    }

    /// The text of `prompt` up to where the model answers.
    ///
    /// # Errors
    /// A template that refuses the conversation or cannot be run.
    pub fn render_prompt(&self, prompt: &[Message], context: &Context) -> Result<String> {
        match self {
            Self::Chat { template, with_tools } => {
                chosen(template, with_tools.as_deref(), context).render_prompt(prompt, context)
            }
            Self::Plain { .. } => Ok(plain(prompt)),
        }
    }

    /// Token ids in front of every text and behind it.
    pub fn ends(&self) -> [&[i32]; 2] {
        match self {
            Self::Chat { .. } => [&[], &[]],
            Self::Plain { front, behind, .. } => [front, behind],
        }
    }

    /// Digest of everything that decides what text comes out.
    pub fn digest(&self) -> String {
        match self {
            Self::Chat { template, with_tools: None } => template.digest(),
            Self::Chat { template, with_tools: Some(other) } => format!("{}, {}", template.digest(), other.digest()),
            Self::Plain { end, front, behind } => {
                let end = end.as_ref().map(|end| format!(", then {end}")).unwrap_or_default();
                match front.is_empty() && behind.is_empty() {
                    true => format!("none{end}"),
                    false => format!("none{end} between {front:?} and {behind:?}"),
                }
            }
        }
    }
}

/// The template for a conversation in `context`.
fn chosen<'a>(template: &'a ChatTemplate, with_tools: Option<&'a ChatTemplate>, context: &Context) -> &'a ChatTemplate {
    with_tools.filter(|_| context.tools.is_some()).unwrap_or(template)
}

/// The words of all messages.
fn plain(messages: &[Message]) -> String {
    messages.iter().map(words).collect()
}

fn role(message: &Message) -> &str {
    message.get("role").and_then(Json::as_str).unwrap_or_default()
}

/// The content of a message, or the texts of its parts.
fn words(message: &Message) -> String {
    match message.get("content") {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}

/// What a rendering ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The last turn, closed as the template closes turns.
    Turn,
    /// The opening of the turn that the model is about to take.
    GenerationPrompt,
}

/// A Jinja template that turns messages into text.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    file: String,
    digest: String,
    /// Whether it marks what the assistant writes, by `{% generation %}`.
    marks_answers: bool,
    /// The contents that it writes; found out when it is first asked.
    takes: Arc<OnceLock<Takes>>,
}

/// What one rendering may use: an instruction or 64 bytes of text each cost one. A conversation of a megabyte uses a
/// few hundred thousand. `bounded::STACK` is made for it.
const FUEL: u64 = 2_000_000;

/// The only template of its environment.
const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Parses `source`, which was read from `file`. `special_tokens` (`bos_token`, `eos_token`, …) are variables in it.
    ///
    /// # Errors
    /// A syntax error, with file and line.
    pub fn parse(source: &str, file: impl fmt::Display, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        let file = file.to_string();
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| located(&file, &error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        python::install(&mut environment);
        for (name, token) in special_tokens {
            environment.add_global(name.clone(), token.as_str());
        }
        let prepared = source::prepare(source);
        let prepared = prepared.map_err(|error| Error::model(&file, format!("chat template, {error}")))?;
        let parsed = bounded(move || environment.add_template_owned(NAME, prepared).map(|()| environment));
        let parsed = parsed.map_err(|why| Error::model(&file, format!("chat template: {why}")))?;
        let environment = Arc::new(parsed.map_err(|error| located(&file, &error))?);
        let digest = blake3::hash(source.as_bytes()).to_hex().to_string();
        let marks_answers = source::marks_answers(source);
        Ok(Self { environment, file, digest, marks_answers, takes: Arc::default() })
    }

    /// Digest of the template's text.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The text of `prompt` up to where the model answers. A prompt that ends with an assistant turn is left open
    /// behind that turn's words (`continue_final_message`).
    ///
    /// # Errors
    /// A template that refuses the conversation or cannot be run.
    pub fn render_prompt(&self, prompt: &[Message], context: &Context) -> Result<String> {
        let (prompt, context) = (prompt.to_vec(), context.clone());
        self.bounded(move |template| template.open(&template.fitted(&prompt), &context))?
    }

    fn bounded<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> Result<T> {
        let template = self.clone();
        bounded(move || work(&template)).map_err(|why| Error::model(&self.file, format!("chat template: {why}")))
    }

    fn open(&self, prompt: &[Message], context: &Context) -> Result<String> {
        match prompt.last() {
            Some(last) if role(last) == "assistant" && !last.contains_key("tool_calls") => {
                self.render_open(prompt, context)
            }
            _ => self.render(prompt, context, Ending::GenerationPrompt),
        }
    }

    fn render(&self, messages: &[Message], context: &Context, ending: Ending) -> Result<String> {
        self.render_with(messages, context, ending, [])
    }

    fn render_with(
        &self,
        messages: &[Message],
        context: &Context,
        ending: Ending,
        variables: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<String> {
        let given = [
            ("messages", messages.iter().map(seen).collect()),
            ("tools", context.tools.as_ref().map_or(Value::from(()), value)),
            ("documents", context.documents.as_ref().map_or(Value::from(()), value)),
            ("add_generation_prompt", Value::from(ending == Ending::GenerationPrompt)),
        ];
        let arguments = context.arguments.iter().map(|(name, given)| (name.clone(), value(given)));
        let others = given.into_iter().chain(variables).map(|(name, given)| (name.to_owned(), given));
        let variables = Value::from_pairs(arguments.chain(others));
        let template = self.environment.get_template(NAME).map_err(|error| located(&self.file, &error))?;
        template.render(variables).map_err(|error| located(&self.file, &error))
    }

    /// Cut behind the last message's words, with their trailing white space where the template keeps it.
    fn render_open(&self, messages: &[Message], context: &Context) -> Result<String> {
        let mut messages = messages.to_vec();
        let last = messages.last_mut().and_then(last_text).ok_or_else(|| {
            Error::data(
                Place::file(&self.file),
                "the prompt ends with an assistant turn that has no words to go on from",
            )
        })?;
        let words = last.as_str().unwrap_or_default().to_owned();
        *last = format!("{words}{END_OF_WORDS}").into();
        let mut text = self.render(&messages, context, Ending::Turn)?;
        let mark = END_OF_WORDS.trim_end();
        let at =
            text.rfind(mark).filter(|_| text.contains(methods::strip(&words, None, true, true))).ok_or_else(|| {
                let message = "the prompt ends with an assistant turn, and its words are not in the rendered text";
                Error::data(Place::file(&self.file), message)
            })?;
        let kept = text[at..].starts_with(END_OF_WORDS);
        text.truncate(at);
        if !kept {
            text.truncate(methods::strip(&text, None, false, true).len());
        }
        Ok(text)
    }
}

/// A message as `transformers` hands it to a template: without nulls, and what a model thought under both of its names.
fn seen(message: &Message) -> Value {
    let field = |name: &str| message.get(name).filter(|value| !value.is_null());
    let thought = ["reasoning_content", "thinking", "reasoning"].into_iter().find_map(field);
    let other = thought.map(|thought| ("thinking", thought)).filter(|_| field("thinking").is_none());
    let own = message.iter().map(|(name, value)| (name.as_str(), value)).filter(|(_, value)| !value.is_null());
    let fields = other.into_iter().chain(own).chain(thought.map(|thought| ("reasoning_content", thought)));
    Value::from_pairs(fields.map(|(name, field)| (name, value(field))))
}

/// The words of `message`, or the last of its parts that is text; none where there is no text.
fn last_text(message: &mut Message) -> Option<&mut Json> {
    let text = match message.get_mut("content")? {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text"))?,
        content => content,
    };
    text.is_string().then_some(text)
}

/// Put behind the words of a turn that is left open, to find their end in the rendered text. The space shows whether
/// the template keeps trailing white space. The same words as in `transformers`: templates may look at the length.
const END_OF_WORDS: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Length in bytes of the longest common prefix, on a character boundary.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y);
    same.map(|(x, _)| x.len_utf8()).sum()
}

fn located(file: &str, error: &minijinja::Error) -> Error {
    let mut message = match error.line() {
        Some(line) => format!("chat template, line {line}: "),
        None => "chat template: ".to_owned(),
    };
    if error.kind() == ErrorKind::OutOfFuel {
        let why = "does not end, or writes without end: stopped after";
        return Error::model(file, format!("{message}{why} {FUEL} steps for one conversation"));
    }
    message += &error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let mut source = error.source();
    while let Some(inner) = source {
        if inner.is::<python::Raised>() {
            return Error::data(Place::file(file), message);
        }
        message += &format!(": {inner}");
        source = inner.source();
    }
    // What is an exception of a conversation's values in Python: a text and a list do not add up.
    match error.kind() {
        ErrorKind::InvalidOperation | ErrorKind::UndefinedError | ErrorKind::CannotUnpack => {
            Error::data(Place::file(file), message)
        }
        _ => Error::model(file, message),
    }
}

#[cfg(test)]
mod transformers_tests;

#[cfg(test)]
mod tests;
