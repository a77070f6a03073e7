//! Chat templates as `transformers` renders them: messages in, the model's own text out.
//!
//! The environment is that of `transformers.utils.chat_template_utils`: trimmed blocks, loop controls, Python's string
//! methods, `raise_exception`, `strftime_now`, a `tojson` that writes JSON as Python does. How a prompt and its answers
//! are cut apart follows TRL (`maybe_apply_chat_template`): the prompt ends where both answers' texts leave it.

mod bounded;
mod json;
mod methods;
mod python;
mod source;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use bounded::bounded;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, context, syntax::SyntaxConfig};

use crate::error::{Error, Place, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `system`, `user`, `assistant`, or whatever else the template knows.
    pub role: &'a str,
    /// What was said.
    pub content: &'a str,
}

/// A prompt and its answers as text: each answer continues the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// What the model reads before it answers.
    pub prompt: String,
    /// The answers in the order given, each with the template's end of turn.
    pub answers: Vec<String>,
}

/// How messages become text.
#[derive(Debug)]
pub enum Template {
    /// A chat template.
    Chat(Box<ChatTemplate>),
    /// Contents one after the other, for base models. `end` is appended to every answer.
    Plain {
        /// The end-of-text token, where one is wanted.
        end: Option<String>,
    },
}

impl Template {
    /// Renders a prompt and its answers. Errors name the template's file and line.
    ///
    /// # Errors
    /// A conversation that the template refuses (`raise_exception`) is [`Error::Data`]; everything else is the template's fault.
    pub fn render(&self, prompt: &[Message<'_>], answers: &[&[Message<'_>]]) -> Result<Rendered> {
        match self {
            Self::Chat(template) => template.render_answers(prompt, answers),
            Self::Plain { end } => {
                let text = |turns: &[Message<'_>]| turns.iter().map(|m| m.content).collect::<String>();
                let end = end.as_deref().unwrap_or_default();
                let answers = answers.iter().map(|turns| text(turns) + end).collect();
                Ok(Rendered { prompt: text(prompt), answers })
            }
        }
    }

    /// The text of `prompt` up to where the model answers.
    pub fn render_prompt(&self, prompt: &[Message<'_>]) -> Result<String> {
        match self {
            Self::Chat(template) => template.render_prompt(prompt),
            Self::Plain { .. } => Ok(prompt.iter().map(|message| message.content).collect()),
        }
    }

    /// Digest of everything that decides what text comes out.
    pub fn digest(&self) -> String {
        match self {
            Self::Chat(template) => template.digest(),
            Self::Plain { end: None } => "none".to_owned(),
            Self::Plain { end: Some(end) } => format!("none, then {end}"),
        }
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
        Ok(Self { environment, file, digest })
    }

    /// Digest of the template's text.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The text of `prompt` up to where the model answers. A prompt that ends with an assistant turn is left open
    /// behind that turn's words (`continue_final_message`).
    pub fn render_prompt(&self, prompt: &[Message<'_>]) -> Result<String> {
        let prompt = owned(prompt);
        self.bounded(move |template| template.open(&borrowed(&prompt)))
    }

    /// The text of `prompt` and of every answer behind it.
    ///
    /// Some templates open the model's turn with more than they write once the answer is there (an empty `<think>`
    /// block, say). The prompt is then what all texts have in common, and the rest belongs to the answers.
    pub fn render_answers(&self, prompt: &[Message<'_>], answers: &[&[Message<'_>]]) -> Result<Rendered> {
        let prompt = owned(prompt);
        let answers: Vec<_> = answers.iter().map(|turns| owned(turns)).collect();
        self.bounded(move |template| {
            let prompt = borrowed(&prompt);
            let mut text = template.open(&prompt)?;
            let mut whole = Vec::with_capacity(answers.len());
            for answer in &answers {
                let full = template.render_turns(&[&prompt[..], &borrowed(answer)].concat(), Ending::Turn)?;
                text.truncate(common_prefix(&text, &full));
                whole.push(full);
            }
            let answers = whole.into_iter().map(|full| full[text.len()..].to_owned()).collect();
            Ok(Rendered { prompt: text, answers })
        })
    }

    fn bounded<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let template = self.clone();
        bounded(move || work(&template)).map_err(|why| Error::model(&self.file, format!("chat template: {why}")))?
    }

    fn open(&self, prompt: &[Message<'_>]) -> Result<String> {
        match prompt.last() {
            Some(last) if last.role == "assistant" => self.render_open(prompt, last.content),
            _ => self.render_turns(prompt, Ending::GenerationPrompt),
        }
    }

    fn render_turns(&self, messages: &[Message<'_>], ending: Ending) -> Result<String> {
        let turn = |m: &Message<'_>| Value::from_pairs([("role", m.role), ("content", m.content)]);
        self.render(messages.iter().map(turn).collect(), Value::from(()), Value::from(()), ending)
    }

    /// `tools` and `documents` are lists or none.
    fn render(&self, messages: Value, tools: Value, documents: Value, ending: Ending) -> Result<String> {
        let add_generation_prompt = ending == Ending::GenerationPrompt;
        let variables = context! { messages, tools, documents, add_generation_prompt };
        let template = self.environment.get_template(NAME).map_err(|error| located(&self.file, &error))?;
        template.render(variables).map_err(|error| located(&self.file, &error))
    }

    /// Cut behind the last message's words, with their trailing white space where the template keeps it.
    fn render_open(&self, messages: &[Message<'_>], last: &str) -> Result<String> {
        let marked = format!("{last}{END_OF_WORDS}");
        let mut messages = messages.to_vec();
        if let Some(message) = messages.last_mut() {
            message.content = &marked;
        }
        let mut text = self.render_turns(&messages, Ending::Turn)?;
        let mark = END_OF_WORDS.trim_end();
        let at =
            text.rfind(mark).filter(|_| text.contains(methods::strip(last, None, true, true))).ok_or_else(|| {
                let message = "the prompt ends with an assistant turn, and its words are not in the rendered text";
                Error::model(&self.file, message)
            })?;
        let kept = text[at..].starts_with(END_OF_WORDS);
        text.truncate(at);
        if !kept {
            text.truncate(methods::strip(&text, None, false, true).len());
        }
        Ok(text)
    }
}

/// Roles and contents that outlive what they were read from.
fn owned(messages: &[Message<'_>]) -> Vec<(String, String)> {
    messages.iter().map(|message| (message.role.to_owned(), message.content.to_owned())).collect()
}

fn borrowed(messages: &[(String, String)]) -> Vec<Message<'_>> {
    messages.iter().map(|(role, content)| Message { role, content }).collect()
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
    Error::model(file, message)
}

#[cfg(test)]
mod transformers_tests;

#[cfg(test)]
mod tests;
