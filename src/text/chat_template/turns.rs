//! Which characters of an answer of several turns the assistant writes: those that the template marks by
//! `{% generation %}`, or else those of the assistant's turns, each from behind what opens it to its end.
//!
//! A turn has no end of its own in a template's text, and templates write a turn otherwise once another follows (they
//! leave out what a model thought, say). So the words of every turn end in a mark, which says where they are in any text,
//! and what follows a mark is compared with the text of the conversation that ends there.

use std::ops::Range;

use minijinja::value::Value;

use super::answers::unused;
use super::{ChatTemplate, Context, Ending, Message, Unrendered, common_prefix, last_text, role, source};
use crate::error::Result;

impl ChatTemplate {
    /// The assistant's characters in `text[cut..]`, the answer behind the first `from` of `turns`.
    pub(super) fn own_words(
        &self,
        turns: &[Message],
        from: usize,
        context: &Context,
        text: &str,
        cut: usize,
    ) -> Result<Vec<Range<usize>>, Unrendered> {
        let bytes = match self.marks_answers {
            true => self.in_generation_marks(turns, context, text)?,
            false => self.in_assistant_turns(turns, from, context, text, cut)?,
        };
        let chars = |at: usize| text[cut..at].chars().count();
        let behind = bytes.into_iter().filter(|range| range.end > cut && range.end > range.start);
        Ok(behind.map(|range| chars(range.start.max(cut))..chars(range.end)).collect())
    }

    /// The bytes of `text` inside of `{% generation %}` and `{% endgeneration %}`.
    fn in_generation_marks(
        &self,
        turns: &[Message],
        context: &Context,
        text: &str,
    ) -> Result<Vec<Range<usize>>, Unrendered> {
        let open = unused([text]);
        let close = unused([text, &open]);
        let variables = [(source::OPEN, Value::from(&*open)), (source::CLOSE, Value::from(&*close))];
        let marked = self.render_with(turns, context, Ending::Turn, variables)?;
        let (mut plain, mut starts, mut ranges) = (String::with_capacity(text.len()), Vec::new(), Vec::new());
        for piece in marked.split_inclusive([&open, &close].map(|mark| mark.chars().next().unwrap_or_default())) {
            let words = piece.trim_end_matches(&*open).trim_end_matches(&*close);
            plain += words;
            if piece.ends_with(&*open) {
                starts.push(plain.len());
            } else if piece.ends_with(&*close) {
                ranges.extend(starts.pop().map(|start| start..plain.len()));
            }
        }
        if plain == text { Ok(ranges) } else { Err(Unrendered::TurnsNotFound) }
    }

    /// The bytes of `text` that belong to the assistant's turns.
    fn in_assistant_turns(
        &self,
        turns: &[Message],
        from: usize,
        context: &Context,
        text: &str,
        cut: usize,
    ) -> Result<Vec<Range<usize>>, Unrendered> {
        let mark = unused([text]);
        let mut marked = turns.to_vec();
        let has_mark: Vec<bool> =
            marked.iter_mut().enumerate().map(|(at, turn)| at + 1 >= from && put_mark(turn, &mark)).collect();
        let look = Look { template: self, marked: &marked, has_mark: &has_mark, context, mark: &mark };
        let whole = look.at(turns.len(), Ending::Turn)?;
        if whole.text != text {
            return Err(Unrendered::TurnsNotFound);
        }
        let mut ranges = Vec::new();
        for at in (from..turns.len()).filter(|at| role(&turns[*at]) == "assistant") {
            let start = match at == from {
                true => cut,
                false => {
                    let closed = look.at(at, Ending::Turn)?;
                    whole
                        .reach(&closed)
                        .filter(|reached| reached.left.trim().is_empty())
                        .ok_or(Unrendered::TurnsNotFound)?;
                    let mut opened = look.at(at, Ending::GenerationPrompt)?;
                    let heading = self.heading(&turns[..at], &opened.text, context)?;
                    opened.text.truncate(heading);
                    whole.reach(&opened).ok_or(Unrendered::TurnsNotFound)?.end
                }
            };
            let end = match at + 1 == turns.len() {
                true => text.len(),
                false => whole.reach(&look.at(at + 1, Ending::Turn)?).ok_or(Unrendered::TurnsNotFound)?.end,
            };
            ranges.push(start..end.max(start));
        }
        Ok(ranges)
    }
}

/// Puts `mark` behind the words of `turn`, in front of white space at their end; false where there are no words.
pub(super) fn put_mark(turn: &mut Message, mark: &str) -> bool {
    let Some(text) = last_text(turn) else { return false };
    let words = text.as_str().unwrap_or_default();
    let end = words.trim_end().len();
    if end > 0 {
        *text = format!("{}{mark}{}", &words[..end], &words[end..]).into();
    }
    end > 0
}

/// Renders the beginning of a conversation with its marks.
struct Look<'a> {
    template: &'a ChatTemplate,
    marked: &'a [Message],
    has_mark: &'a [bool],
    context: &'a Context,
    mark: &'a str,
}

/// A text without its marks, and where they were.
struct Marked {
    text: String,
    marks: Vec<usize>,
}

/// How far one text goes along with another behind the same mark.
struct Reached<'a> {
    /// Where it leaves it.
    end: usize,
    /// What the other has left there.
    left: &'a str,
}

impl Look<'_> {
    fn at(&self, turns: usize, ending: Ending) -> Result<Marked, Unrendered> {
        let text = self.template.render(&self.marked[..turns], self.context, ending)?;
        let marks = text.match_indices(self.mark).enumerate();
        let marks: Vec<usize> = marks.map(|(before, (at, _))| at - before * self.mark.len()).collect();
        match marks.len() == self.has_mark[..turns].iter().filter(|has| **has).count() {
            true => Ok(Marked { text: text.replace(self.mark, ""), marks }),
            false => Err(Unrendered::TurnsNotFound),
        }
    }
}

impl Marked {
    /// How far this text goes along with `other`, a text of fewer turns, behind the last mark of `other`.
    fn reach<'a>(&self, other: &'a Marked) -> Option<Reached<'a>> {
        let last = *other.marks.last()?;
        let mine = *self.marks.get(other.marks.len() - 1)?;
        let theirs = other.text.get(last..)?;
        let same = common_prefix(self.text.get(mine..)?, theirs);
        Some(Reached { end: mine + same, left: &theirs[same..] })
    }
}
