//! Texts and classes of token ids, learned as they come along: the text of an id is what it adds to the token before it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::classes::Class;
use super::rows::Pair;
use crate::error::Result;
use crate::text::Tokenizer;

/// Characters of a token that a report shows.
pub(super) const LONGEST_TEXT: usize = 80;

/// The text of a token that is part of a character.
const BROKEN: &str = "\u{fffd}";

/// Where texts come from.
enum Source {
    Tokenizer {
        tokenizer: Arc<Tokenizer>,
        special: BTreeSet<i32>,
    },
    /// The column `{side}_tokens`, if there is one.
    Rows,
}

/// The texts and classes of the ids seen so far.
pub(super) struct Vocabulary {
    source: Source,
    known: HashMap<i32, (String, Class)>,
}

impl Vocabulary {
    /// Texts by `tokenizer`, or by the rows.
    pub(super) fn new(tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let source = match tokenizer {
            Some(tokenizer) => Source::Tokenizer { special: tokenizer.special_ids(), tokenizer },
            None => Source::Rows,
        };
        Self { source, known: HashMap::new() }
    }

    /// The tokenizer, where there is one.
    pub(super) fn tokenizer(&self) -> Option<&Tokenizer> {
        match &self.source {
            Source::Tokenizer { tokenizer, .. } => Some(tokenizer),
            Source::Rows => None,
        }
    }

    /// Learns the ids of `pair` that are new.
    pub(super) fn learn(&mut self, pair: &Pair) -> Result<()> {
        for answer in &pair.answers {
            for (index, id) in answer.ids.iter().enumerate() {
                if self.known.contains_key(id) {
                    continue;
                }
                let before = index.checked_sub(1).map_or(pair.prompt.last(), |before| answer.ids.get(before));
                let learned = match &self.source {
                    Source::Tokenizer { tokenizer, special } => {
                        let text = text_behind(tokenizer, before.copied(), *id)?;
                        let class = if special.contains(id) { Class::Special } else { Class::of(&text) };
                        (cut(&text), class)
                    }
                    Source::Rows => match answer.texts.as_ref().map(|texts| (texts[index], texts.get(index + 1))) {
                        None => continue,
                        // The first of several tokens that only together make a character has the text of all of them.
                        Some(("", _) | (_, Some(&""))) => (BROKEN.to_owned(), Class::InsideWord),
                        Some((text, _)) if Class::looks_special(text) => (cut(text), Class::Special),
                        Some((text, _)) => (cut(text), Class::of(text)),
                    },
                };
                self.known.insert(*id, learned);
            }
        }
        Ok(())
    }

    /// Whether any text is known, so that classes mean something.
    pub(super) fn has_texts(&self) -> bool {
        !self.known.is_empty()
    }

    /// The class of `id`.
    pub(super) fn class(&self, id: i32) -> Class {
        self.known.get(&id).map_or(Class::InsideWord, |(_, class)| *class)
    }

    /// The text of `id`, if it is known.
    pub(super) fn text(&self, id: i32) -> Option<&str> {
        self.known.get(&id).map(|(text, _)| text.as_str())
    }
}

/// What `id` adds to the token `before`; part of a character shows as U+FFFD.
fn text_behind(tokenizer: &Tokenizer, before: Option<i32>, id: i32) -> Result<String> {
    let ids: Vec<i32> = before.into_iter().chain([id]).collect();
    let last = tokenizer.pieces(&ids)?.pop().map(|piece| piece.text).unwrap_or_default();
    Ok(if last.is_empty() || last.starts_with(BROKEN) { tokenizer.token_text(id) } else { last })
}

/// `text` with its length where it is too long to be shown.
pub(super) fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((end, _)) => format!("{}… ({} characters)", &text[..end], text.chars().count()),
        None => text.to_owned(),
    }
}
