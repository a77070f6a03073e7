//! Cuts the text of a conversation into the prompt and its answers.
//!
//! The prompt is the text that opens the model's turn. Some templates open the turn with more than they write once the
//! answer is there (`<think>`, say). The prompt is then the common prefix of all texts, as in TRL, with two limits: it ends
//! before the answer's own words (two answers may begin with the same letters), and it holds all words of the prompt's
//! messages, else the conversation is refused.

use super::turns::put_mark;
use super::{Answer, ChatTemplate, Context, Ending, Message, Rendered, Unrendered, common_prefix};
use crate::error::Result;

impl ChatTemplate {
    /// The text of `prompt` and of every answer behind it.
    ///
    /// # Errors
    /// What the template refuses, a prompt that it writes otherwise when an answer follows, and answers of several turns
    /// whose turns cannot be told apart.
    pub fn render_answers(
        &self,
        prompt: &[Message],
        answers: &[&[Message]],
        context: &Context,
    ) -> Result<Rendered, Unrendered> {
        let (prompt, context) = (prompt.to_vec(), context.clone());
        let answers: Vec<Vec<Message>> = answers.iter().map(|turns| turns.to_vec()).collect();
        self.bounded(move |template| {
            let answers: Vec<_> = answers.iter().map(|answer| template.fitted(answer)).collect();
            template.texts(&template.fitted(&prompt), &answers, &context)
        })?
    }

    fn texts(&self, prompt: &[Message], answers: &[Vec<Message>], context: &Context) -> Result<Rendered, Unrendered> {
        let mut opened = self.open(prompt, context)?;
        let whole: Vec<Vec<Message>> = answers.iter().map(|answer| [prompt, answer].concat()).collect();
        let texts = whole.iter().map(|turns| self.render(turns, context, Ending::Turn));
        let texts: Vec<String> = texts.collect::<Result<_>>()?;
        let shared = texts.iter().map(|text| common_prefix(&opened, text)).min().unwrap_or(opened.len());
        if shared < opened.len() {
            opened.truncate(shared.min(self.heading(prompt, &opened, context)?));
            if opened.len() < self.end_of_words(prompt, context)? {
                return Err(Unrendered::PromptRewritten);
            }
        }
        let answer = |(text, turns): (String, &Vec<Message>)| {
            let own = match turns.len() - prompt.len() {
                1 => None,
                _ => Some(self.own_words(turns, prompt.len(), context, &text, opened.len())?),
            };
            Ok(Answer { text: text[opened.len()..].to_owned(), own })
        };
        let answers = texts.into_iter().zip(&whole).map(answer).collect::<Result<_, Unrendered>>()?;
        Ok(Rendered { prompt: opened, answers })
    }

    /// How much of `opened`, the text of `before` with the model's turn opened, the template also writes in front of the
    /// words of whatever answer follows: all of it where that cannot be told.
    fn heading(&self, before: &[Message], opened: &str, context: &Context) -> Result<usize> {
        let word = unused([opened]);
        let text = self.render(&[before, &[probe(&word)]].concat(), context, Ending::Turn)?;
        Ok(text.find(&word).map_or(opened.len(), |at| common_prefix(opened, &text[..at])))
    }

    /// Where the words of the last message of `prompt` end in its text; the text's beginning where they are not in it.
    fn end_of_words(&self, prompt: &[Message], context: &Context) -> Result<usize> {
        let mut marked = prompt.to_vec();
        let mark = unused([]);
        let has_mark = marked.last_mut().is_some_and(|last| put_mark(last, &mark));
        let text = self.render(&marked, context, Ending::GenerationPrompt)?;
        Ok(text.rfind(&mark).filter(|_| has_mark).unwrap_or(0))
    }
}

/// An answer of one word.
pub(super) fn probe(word: &str) -> Message {
    [("role", "assistant"), ("content", word)].map(|(key, value)| (key.to_owned(), value.into())).into_iter().collect()
}

/// A character of the private use planes that none of the texts has.
pub(super) fn unused<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<&str> = texts.into_iter().collect();
    let free = ('\u{f0000}'..='\u{ffffd}').find(|mark| !texts.iter().any(|text| text.contains(*mark)));
    free.unwrap_or('\u{f0000}').to_string()
}
