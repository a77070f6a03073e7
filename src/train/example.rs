//! One preference pair as the trainer takes it.

use arrow::array::RecordBatch;

use crate::columns::lists::{floats, ids, masks};
use crate::columns::{PROMPT_IDS, Side};
use crate::error::Result;
use crate::model::score::PairIds;

/// A pair: ids, and what the objective needs beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids of the prompt.
    pub prompt: Vec<i32>,
    /// Token ids of the chosen and of the rejected response.
    pub responses: [Vec<i32>; 2],
    /// Key-token masks of both responses; none where every token counts.
    pub masks: Option<[Vec<bool>; 2]>,
    /// The reference's log-probabilities of both responses.
    pub reference: Option<[Vec<f32>; 2]>,
}

/// Which columns beside the ids an example carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The key mask's name; the inner none is the mask without a name.
    pub mask: Option<Option<String>>,
    /// The reference's log-probabilities.
    pub reference: bool,
}

impl Example {
    /// The ids alone.
    pub fn ids(&self) -> PairIds<'_> {
        PairIds { prompt: &self.prompt, responses: [&self.responses[0], &self.responses[1]] }
    }

    /// The rows of `batch`.
    pub fn from_batch(batch: &RecordBatch, wanted: &Wanted) -> Result<Vec<Self>> {
        let prompts = ids(batch, PROMPT_IDS)?;
        let [chosen, rejected] = Side::BOTH.map(|side| ids(batch, &side.ids()));
        let (chosen, rejected) = (chosen?, rejected?);
        let key = match &wanted.mask {
            None => None,
            Some(name) => {
                let [chosen, rejected] = Side::BOTH.map(|side| masks(batch, &side.key_mask(name.as_deref())));
                Some((chosen?, rejected?))
            }
        };
        let reference = match wanted.reference {
            false => None,
            true => {
                let [chosen, rejected] = Side::BOTH.map(|side| floats(batch, &side.ref_logps()));
                Some((chosen?, rejected?))
            }
        };
        let example = |row: usize| Self {
            prompt: prompts.row(row).to_vec(),
            responses: [chosen.row(row).to_vec(), rejected.row(row).to_vec()],
            masks: key.as_ref().map(|(chosen, rejected)| [chosen[row].clone(), rejected[row].clone()]),
            reference: reference.as_ref().map(|(c, r)| [c.row(row).to_vec(), r.row(row).to_vec()]),
        };
        Ok((0..batch.num_rows()).map(example).collect())
    }
}
