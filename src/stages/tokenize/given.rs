//! Answers that come with their ids and key masks, as those of `read: { format: sepo_csv }`. Another tokenization would leave the
//! masks behind, so only the prompt is tokenized.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;

use super::Tokenize;
use super::row::Row;
use crate::columns::lists::{Lists, from_masks, ids, masks};
use crate::columns::{PROMPT_IDS, Side};
use crate::error::{Error, Place, Problem, Result};

/// The ids and key masks of the answers of a batch.
pub(super) struct Given<'a> {
    ids: [Lists<'a, i32>; 2],
    key_masks: [Vec<Vec<bool>>; 2],
}

/// Whether rows of `schema` come with the tokens of their answers.
pub(super) fn are_given(schema: &Schema) -> bool {
    let has = |name: &str| schema.field_with_name(name).is_ok();
    !has(PROMPT_IDS) && Side::BOTH.iter().all(|side| has(&side.ids()) && has(&side.key_mask(None)))
}

/// Settings of `stage` that concern the tokenization of answers.
pub(super) fn problems(stage: &Tokenize) -> Vec<Problem> {
    let set = [
        ("boundary", stage.boundary.is_some()),
        ("contrast", stage.contrast.is_some()),
        ("spans", !stage.spans.is_empty()),
    ];
    let problem = |(name, _)| {
        let message = format!("the answers are tokenized already, and `{name}` has no effect on them");
        Problem::at(name, message).help("leave it out")
    };
    set.into_iter().filter(|(_, is_set)| *is_set).map(problem).collect()
}

impl<'a> Given<'a> {
    /// Those of `batch`, if its rows have them.
    ///
    /// # Errors
    /// A mask that is not as long as its answer.
    pub(super) fn of(batch: &'a RecordBatch) -> Result<Option<Self>> {
        if !are_given(batch.schema_ref()) {
            return Ok(None);
        }
        let of = |side: Side| {
            let (ids, name) = (ids(batch, &side.ids())?, side.key_mask(None));
            let masks = masks(batch, &name)?;
            match ids.rows().zip(&masks).position(|(ids, mask)| ids.len() != mask.len()) {
                Some(row) => Err(Error::data(Place::column(name), format!("row {row} is not as long as its answer"))),
                None => Ok((ids, masks)),
            }
        };
        let ((chosen, chosen_key), (rejected, rejected_key)) = (of(Side::Chosen)?, of(Side::Rejected)?);
        Ok(Some(Self { ids: [chosen, rejected], key_masks: [chosen_key, rejected_key] }))
    }

    /// Row `row` behind `prompt`; prompt and answer together have at most `max_length` tokens.
    pub(super) fn row(&self, row: usize, prompt: Vec<i32>, max_length: usize) -> Row {
        let aside = |reason| Row { reason: Some(reason), ..Row::default() };
        if prompt.is_empty() {
            return aside("empty prompt");
        }
        let Some(room) = max_length.checked_sub(prompt.len()).filter(|room| *room > 0) else {
            return aside("prompt too long");
        };
        let cut = |ids: &[i32]| ids[..ids.len().min(room)].to_vec();
        let answers = self.ids.map(|ids| cut(ids.row(row)));
        if answers[0] == answers[1] {
            return aside("identical answers after cutting");
        }
        let own = answers.each_ref().map(|answer| vec![true; answer.len()]);
        let truncated = self.ids.map(|ids| ids.row(row).len() > room);
        let has_key = |side: usize| self.key_masks[side][row][..answers[side].len()].contains(&true);
        if !has_key(0) || !has_key(1) {
            return aside("no key token is left after cutting");
        }
        Row { prompt, answers, own, truncated, ..Row::default() }
    }

    /// The key masks as far as the answers of `rows` go.
    pub(super) fn key_masks(&self, rows: &[Row]) -> [(String, ArrayRef); 2] {
        Side::BOTH.map(|side| {
            let masks = rows.iter().zip(&self.key_masks[side as usize]);
            let cut = masks.map(|(row, mask)| &mask[..row.answers[side as usize].len()]);
            (side.key_mask(None), from_masks(cut))
        })
    }
}
