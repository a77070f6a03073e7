//! Which characters of an answer of several turns are the assistant's: those that the template marks by
//! `{% generation %}`, or else those of its turns, from the end of a turn's header to the end of the turn.
//!
//! A template does not say where a turn ends, and it may write a turn differently once another follows (without the
//! model's thoughts, say). So a mark is put behind the words of every turn, which locates them in any rendering; and what
//! follows a mark is compared with the rendering of a conversation that stops there.

use std::ops::Range;

use minijinja::value::Value;

use super::answers::{probe, unused};
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
            let start = if at == from { cut } else { look.start(at, &whole)? };
            let end = if at + 1 == turns.len() { text.len() } else { look.end(at, &whole, start)? };
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
    /// Renders the first `turns` turns.
    fn at(&self, turns: usize, ending: Ending) -> Result<Marked, Unrendered> {
        let text = self.template.render(&self.marked[..turns], self.context, ending)?;
        self.without_marks(&text, turns)
    }

    /// Renders the first `turns` turns and what stands in front of the assistant's words behind them, whatever they are.
    fn heading(&self, turns: usize) -> Result<Option<Marked>, Unrendered> {
        let word = unused([self.mark]);
        let text =
            self.template.render(&[&self.marked[..turns], &[probe(&word)]].concat(), self.context, Ending::Turn)?;
        text.find(&word).map(|at| self.without_marks(&text[..at], turns)).transpose()
    }

    /// `text`, which has the marks of the first `turns` turns.
    fn without_marks(&self, text: &str, turns: usize) -> Result<Marked, Unrendered> {
        let marks = text.match_indices(self.mark).enumerate();
        let marks: Vec<usize> = marks.map(|(before, (at, _))| at - before * self.mark.len()).collect();
        match marks.len() == self.marks_before(turns) {
            true => Ok(Marked { text: text.replace(self.mark, ""), marks }),
            false => Err(Unrendered::TurnsNotFound),
        }
    }

    fn marks_before(&self, turns: usize) -> usize {
        self.has_mark[..turns].iter().filter(|has| **has).count()
    }

    /// Where turn `at` begins behind its header in `whole`.
    fn start(&self, at: usize, whole: &Marked) -> Result<usize, Unrendered> {
        let closed = self.at(at, Ending::Turn)?;
        let ends = whole.reach(&closed).is_some_and(|reached| reached.left.trim().is_empty());
        let mut opened = self.at(at, Ending::GenerationPrompt)?;
        if let Some(heading) = self.heading(at)? {
            let limit = opened.reach(&heading).map_or(opened.text.len(), |reached| reached.end);
            opened.text.truncate(limit);
        }
        let start = whole.reach(&opened).filter(|_| ends).map(|reached| reached.end);
        start.ok_or(Unrendered::TurnsNotFound)
    }

    /// Where turn `at`, which begins at `start`, ends in `whole`: where it ends in a conversation that stops there. The
    /// last turn of a conversation may begin with more (what the model thought), so the ends are compared.
    fn end(&self, at: usize, whole: &Marked, start: usize) -> Result<usize, Unrendered> {
        let closed = self.at(at + 1, Ending::Turn)?;
        let words = if self.has_mark[at] { whole.marks.get(self.marks_before(at)).copied() } else { None };
        let before = self.marks_before(at).checked_sub(1).and_then(|last| closed.marks.get(last).copied());
        let tails = closed.text.char_indices().skip_while(|(tail, _)| *tail < before.unwrap_or(0));
        let tails = tails.map(|(tail, _)| &closed.text[tail..]);
        let tail = tails.into_iter().find(|tail| whole.text[start..].starts_with(tail));
        let end = tail.map(|tail| start + tail.len()).filter(|end| words.is_none_or(|words| *end >= words));
        let or_common = || words.and_then(|_| whole.reach(&closed)).map(|reached| reached.end);
        end.or_else(or_common).ok_or(Unrendered::TurnsNotFound)
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
