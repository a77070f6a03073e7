//! One pair of conversations: rendered, tokenized, cut into prompt and answers.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;

use super::boundary::{Boundaries, Fault, Faults};
use super::contrast::{Contrast, reworded};
use super::given::Given;
use super::joint::{Encoded, Joiner, Joint};
use super::{Tokenizing, span_column};
use crate::columns::{Side, Turn, words};
use crate::error::{Error, Place, Result};
use crate::text::Rendered;
use crate::text::chat_template::{Context, Unrendered};

/// What becomes of a pair.
#[derive(Default)]
pub(super) struct Row {
    pub(super) prompt: Vec<i32>,
    /// The prompt in the words of the contrast, better first; empty without one.
    pub(super) contrast: [Vec<i32>; 2],
    pub(super) answers: [Vec<i32>; 2],
    /// Which tokens of the answers are the assistant's.
    pub(super) own: [Vec<bool>; 2],
    pub(super) truncated: [bool; 2],
    /// For every span column, the masks of both answers.
    pub(super) masks: Vec<[Vec<bool>; 2]>,
    pub(super) faults: Faults,
    pub(super) reason: Option<&'static str>,
    /// What the template says against it.
    pub(super) refusal: Option<String>,
}

impl Tokenizing {
    /// The texts of a conversation, or the row that is set aside because it has none.
    fn render(&self, prompt: &[Turn], answers: [&[Turn]; 2], context: &Context) -> Result<Result<Rendered, Row>> {
        let unrendered = match self.template.render(prompt, &answers, context) {
            Ok(rendered) => return Ok(Ok(rendered)),
            Err(unrendered) => unrendered,
        };
        let (reason, refusal) = match unrendered {
            Unrendered::Broken(error) => return Err(error),
            Unrendered::Refused(error) => ("refused by the chat template", Some(error.to_string())),
            Unrendered::PromptRewritten => ("the chat template rewrites the prompt when an answer follows", None),
            Unrendered::TurnsNotFound => ("the turns of an answer cannot be told apart in the template's text", None),
        };
        Ok(Err(Row { reason: Some(reason), refusal, ..Row::default() }))
    }

    /// The row of a pair, row `row` of `batch`.
    pub(super) fn row(
        &self,
        [prompt, chosen, rejected]: [&[Turn]; 3],
        context: &Context,
        batch: &RecordBatch,
        row: usize,
    ) -> Result<Row> {
        let aside = |reason| Row { reason: Some(reason), ..Row::default() };
        let answers = [chosen, rejected];
        let rendered = match self.render(prompt, answers, context)? {
            Ok(rendered) => rendered,
            Err(row) => return Ok(row),
        };
        let joiner = Joiner { tokenizer: &self.tokenizer, ends: self.template.ends() };
        let has_turns = rendered.answers.iter().any(|answer| answer.own.is_some());
        let joint = joiner.join(&rendered, has_turns || !self.stage.spans.is_empty())?;
        if joint.alone.is_empty() {
            return Ok(aside("empty prompt"));
        }
        let mut out = Row::default();
        for side in Side::BOTH {
            out.faults
                .extend(Boundaries::merged(&self.tokenizer, side, &joint).map(|example| (Fault::Merged, example)));
        }
        let cut = match joint.cut(self.rule) {
            Ok(cut) => cut,
            Err(reason) => return Ok(Row { reason: Some(reason), ..out }),
        };
        if cut >= self.stage.max_length {
            return Ok(aside("prompt too long"));
        }
        out.prompt = joint.whole[0].ids[..cut].to_vec();
        let wordings = self.stage.contrast.iter().flat_map(Contrast::wordings);
        for (wording, ids) in wordings.zip(&mut out.contrast) {
            let alone = match self.render(&reworded(prompt, wording), answers, context)? {
                Ok(rendered) => joiner.alone(&rendered.prompt)?,
                Err(row) => return Ok(row),
            };
            match joint.cut_alike(alone, cut).filter(|ids| !ids.is_empty()) {
                Some(reworded) => *ids = reworded,
                None => return Ok(aside("the prompt ends otherwise in the words of the contrast")),
            }
        }
        out.masks = vec![Default::default(); self.stage.spans.len()];
        for side in Side::BOTH {
            self.answer(side, &joint, cut, &rendered, &mut out);
            let content = answers[side as usize].first().map(words).unwrap_or_default();
            self.mark_spans(side, &joint, cut, (&rendered, &content), (batch, row), &mut out)?;
        }
        if out.reason.is_none() && out.answers[0] == out.answers[1] {
            out.reason = Some("identical answers after cutting");
        }
        Ok(out)
    }

    /// The row of a pair whose answers are `given`, at row `row` of its batch.
    pub(super) fn behind_prompt(
        &self,
        [prompt, chosen, rejected]: [&[Turn]; 3],
        context: &Context,
        given: &Given<'_>,
        row: usize,
    ) -> Result<Row> {
        let rendered = match self.render(prompt, [chosen, rejected], context)? {
            Ok(rendered) => rendered,
            Err(row) => return Ok(row),
        };
        let joiner = Joiner { tokenizer: &self.tokenizer, ends: self.template.ends() };
        Ok(given.row(row, joiner.alone(&rendered.prompt)?, self.stage.max_length))
    }

    /// The answer of one side: what stands behind the first `cut` ids, and which of it is the assistant's.
    fn answer(&self, side: Side, joint: &Joint, cut: usize, rendered: &Rendered, out: &mut Row) {
        let index = side as usize;
        let (Encoded { ids, offsets }, room) = (&joint.whole[index], self.stage.max_length - cut);
        let answer = &ids[cut..];
        out.faults.extend(self.boundaries.faults(&self.tokenizer, side, [&ids[..cut], answer], room));
        out.truncated[index] = answer.len() > room;
        out.answers[index] = answer[..answer.len().min(room)].to_vec();
        let all = out.answers[index].len();
        out.own[index] = match &rendered.answers[index].own {
            None if joint.is_clean() => vec![true; all],
            own => {
                let whole = 0..rendered.answers[index].text.chars().count();
                let own = own.as_deref().unwrap_or(std::slice::from_ref(&whole));
                covered(&offsets[cut..cut + all], own, joint.prompt_chars)
            }
        };
        if answer.is_empty() {
            out.reason = Some("empty answer");
        } else if !out.own[index].contains(&true) {
            out.reason.get_or_insert("no token of the answer is the assistant's");
        }
    }

    /// The masks of the span columns over one answer, whose first words are `content`.
    fn mark_spans(
        &self,
        side: Side,
        joint: &Joint,
        cut: usize,
        (rendered, content): (&Rendered, &str),
        (batch, row): (&RecordBatch, usize),
        out: &mut Row,
    ) -> Result<()> {
        let index = side as usize;
        let text = &rendered.answers[index].text;
        let from = text.find(content).map_or(0, |at| text[..at].chars().count());
        let tokens = cut..cut + out.answers[index].len();
        for (span, masks) in self.stage.spans.iter().zip(&mut out.masks) {
            let spans = spans(batch, &span_column(side, span), row)?;
            masks[index] = covered(&joint.whole[index].offsets[tokens.clone()], &spans, joint.prompt_chars + from);
        }
        Ok(())
    }
}

/// Which tokens cover a character of one of `ranges`, which begin to count at character `from`.
fn covered(offsets: &[(usize, usize)], ranges: &[Range<usize>], from: usize) -> Vec<bool> {
    let inside = |&(start, end): &(usize, usize)| {
        ranges.iter().any(|range| start < range.end + from && end > range.start + from)
    };
    offsets.iter().map(inside).collect()
}

/// The spans of row `row`, in characters.
fn spans(batch: &RecordBatch, name: &str, row: usize) -> Result<Vec<Range<usize>>> {
    let wrong = || Error::data(Place::column(name), "is not list<struct<start: int32, end: int32>>");
    let list = batch.column_by_name(name).and_then(|column| column.as_list_opt::<i32>()).ok_or_else(wrong)?;
    let values = list.value(row);
    let values = values.as_struct_opt().ok_or_else(wrong)?;
    let numbers = |field: &str| values.column_by_name(field)?.as_primitive_opt::<Int32Type>().cloned();
    let (starts, ends) = (numbers("start").ok_or_else(wrong)?, numbers("end").ok_or_else(wrong)?);
    Ok((0..values.len()).map(|i| starts.value(i).max(0) as usize..ends.value(i).max(0) as usize).collect())
}
