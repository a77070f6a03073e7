//! Columns for people: the text of every token, and where it stands in its answer, so that a query needs no tokenizer.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;

use crate::columns::lists::{Span, from_spans, from_texts, ids, spans_type};
use crate::columns::{Side, Turn, list_type, messages, messages_type, put, with_column, words};
use crate::error::{Error, Place, Problem, Result};
use crate::stages::needs::needs_answers;
use crate::text::{Piece, Tokenizer};

/// The columns of `input` with the texts and places of tokens.
///
/// # Errors
/// Answers that are missing.
pub(super) fn columns_of(input: &Schema) -> Result<SchemaRef, Vec<Problem>> {
    let problems = needs_answers(input);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut fields: Vec<Field> = input.fields().iter().map(|field| Field::clone(field)).collect();
    for side in Side::BOTH {
        put(&mut fields, Field::new(side.tokens(), list_type(DataType::Utf8), false));
        put(&mut fields, Field::new(side.char_spans(), spans_type(), true));
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, input.metadata().clone())))
}

/// Writes out tokens.
pub(super) struct Words {
    tokenizer: Arc<Tokenizer>,
    special: BTreeSet<i32>,
}

impl Words {
    pub(super) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        Self { special: tokenizer.special_ids(), tokenizer }
    }

    /// `batch` with the texts and places of its answers' tokens.
    pub(super) fn add(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut out = batch.clone();
        for side in Side::BOTH {
            let (ids, contents) = (ids(batch, &side.ids())?, contents(batch, side)?);
            let written = (0..batch.num_rows()).into_par_iter().map(|row| {
                let pieces = self.tokenizer.pieces(ids.row(row))?;
                let spans = match &contents {
                    Some(contents) => self.spans(ids.row(row), &pieces, &contents[row]),
                    None => Some(pieces.iter().map(|piece| piece.span).collect()),
                };
                let texts: Vec<String> = pieces.into_iter().map(|piece| piece.text).collect();
                Ok((texts, spans.map(whole)))
            });
            let (texts, spans): (Vec<_>, Vec<_>) = written.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            let columns: [(String, ArrayRef); 2] =
                [(side.tokens(), from_texts(&texts)), (side.char_spans(), from_spans(&spans))];
            for (name, column) in columns {
                out = with_column(&out, &name, column).map_err(|error| Error::data(Place::column(&name), error))?;
            }
        }
        Ok(out)
    }

    /// Where the tokens of an answer stand in `content`, its first message: from and to, in characters. What a chat template
    /// puts around the message covers nothing. None where the message is not found in the tokens' text: a template or a
    /// tokenizer may have changed it.
    fn spans(&self, ids: &[i32], pieces: &[Piece], content: &str) -> Option<Vec<(usize, usize)>> {
        let text: String = pieces.iter().map(|piece| &piece.text[..]).collect();
        let Found { before, lead, length } = self.find(ids, pieces, &text, content)?;
        let from = text[..before].chars().count();
        let place = |at: usize| lead + at.saturating_sub(from).min(length);
        Some(pieces.iter().map(|piece| (place(piece.span.0), place(piece.span.1))).collect())
    }

    /// Finds `content`, the first message of the answer whose tokens make `text`.
    fn find(&self, ids: &[i32], pieces: &[Piece], text: &str, content: &str) -> Option<Found> {
        let is_special = |index: &usize| self.special.contains(&ids[*index]);
        let of_template = |index: &usize| is_special(index) || pieces[*index].text.trim().is_empty();
        let trailing = (0..ids.len()).rev().take_while(of_template).last().unwrap_or(ids.len());
        let end = (trailing..ids.len()).find(is_special).unwrap_or(ids.len());
        let said = &text[..pieces[..end].iter().map(|piece| piece.text.len()).sum()];
        let (words, all) = (content.trim(), text.trim_start());
        let count = |text: &str| text.chars().count();
        let trimmed = |before: usize| {
            Some(Found { before, lead: count(content) - count(content.trim_start()), length: count(words) })
        };
        if said.ends_with(content) {
            Some(Found { before: said.len() - content.len(), lead: 0, length: count(content) })
        } else if said.trim_end().ends_with(words) {
            trimmed(said.trim_end().len() - words.len())
        } else if all.starts_with(words) || words.starts_with(all.trim_end_matches('\u{fffd}')) {
            // An answer of several turns goes on behind its first message, one that was cut ends within it.
            trimmed(text.len() - all.len())
        } else {
            None
        }
    }
}

/// A message in the text of an answer's tokens.
struct Found {
    /// Bytes before it.
    before: usize,
    /// Characters at its beginning that are not in the text: white space that a template takes away.
    lead: usize,
    /// Characters behind them that are.
    length: usize,
}

/// The first message of every answer of `side`; none where the rows have no messages.
fn contents(batch: &RecordBatch, side: Side) -> Result<Option<Vec<String>>> {
    let has_messages = batch.column_by_name(side.name()).is_some_and(|column| *column.data_type() == messages_type());
    let first = |turns: Vec<Turn>| turns.first().map(words).unwrap_or_default();
    let contents = || Ok(messages(batch, side.name())?.into_iter().map(first).collect());
    has_messages.then(contents).transpose()
}

/// Characters of a text are counted in 32 bits there.
fn whole(spans: Vec<(usize, usize)>) -> Vec<Span> {
    let short = |at: usize| i32::try_from(at).unwrap_or(i32::MAX);
    spans.into_iter().map(|(start, end)| Span { start: short(start), end: short(end) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of() -> Words {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/quickstart/tokenizer");
        Words::new(Arc::new(Tokenizer::load(&folder).unwrap()))
    }

    /// The part of `content` that each token of `text` covers.
    fn covered(text: &str, content: &str) -> Option<Vec<String>> {
        let words = words_of();
        let ids = words.tokenizer.encode(text).unwrap();
        let spans = words.spans(&ids, &words.tokenizer.pieces(&ids).unwrap(), content)?;
        let part = |(from, to): (usize, usize)| content.chars().skip(from).take(to - from).collect();
        Some(spans.into_iter().map(part).collect())
    }

    #[test]
    fn spans_are_places_in_the_message_whatever_stands_around_it() {
        let found = covered("7 🧮 is right.<|end|>", "7 🧮 is right.").unwrap();
        assert_eq!(found.last().unwrap(), "");
        // Tokens that are parts of one character cover it, all of them.
        let mut once = found.clone();
        once.dedup_by(|a, b| a == b && a.contains('🧮'));
        assert_eq!(once.concat(), "7 🧮 is right.");
        // A template that trims, and one that writes something in front of the message.
        assert_eq!(covered("yes<|end|>\n", "  yes ").unwrap().concat(), "yes");
        assert_eq!(covered("  yes <|end|>\n", "  yes ").unwrap().concat(), "  yes ");
        let found = covered("<think>\n\n</think>\n\nthink<|end|>", "think").unwrap();
        assert_eq!((found.concat(), &found[0][..]), ("think".into(), ""));
        // Cut in the middle, and with more turns behind it.
        assert_eq!(covered("one tw", "one two three").unwrap().concat(), "one tw");
        assert_eq!(covered("one<|end|><|user|>two<|end|>", "one").unwrap().concat(), "one");
        assert_eq!(covered("<|end|>", "").unwrap().concat(), "");
        assert_eq!(covered("ONE<|end|>", "one two"), None);
    }
}
