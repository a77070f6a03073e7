//! One preference pair as the trainer takes it.

use arrow::array::RecordBatch;

use crate::columns::lists::{Lists, assistant_masks, floats, ids, marked, masks};
use crate::columns::{PROMPT_IDS, Side, row_id};
use crate::error::{Error, Place, Result};
use crate::model::PairIds;

/// A pair: ids, and what the objective needs beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Token ids of the prompt.
    pub prompt: Vec<i32>,
    /// Token ids of the chosen and of the rejected response.
    pub responses: [Vec<i32>; 2],
    /// Which tokens of the responses are the assistant's; none where all of them are. No objective sees the others.
    pub own: [Option<Vec<bool>>; 2],
    /// Key-token masks of both responses; none where every token counts.
    pub masks: Option<[Vec<bool>; 2]>,
    /// The reference's log-probabilities of both responses, of the assistant's tokens.
    pub reference: Option<[Vec<f32>; 2]>,
    /// The token rewards of both responses, of the assistant's tokens.
    pub rewards: Option<[Vec<f32>; 2]>,
}

/// Which columns beside the ids an example carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The key mask's name; the inner none is the mask without a name.
    pub mask: Option<Option<String>>,
    /// The reference's log-probabilities.
    pub reference: bool,
    /// The token rewards.
    pub rewards: bool,
}

impl Example {
    /// The ids alone.
    pub fn ids(&self) -> PairIds<'_> {
        PairIds { prompt: &self.prompt, responses: [&self.responses[0], &self.responses[1]] }
    }

    /// The assistant's tokens of the response of `side`, 0 or 1.
    pub fn length(&self, side: usize) -> usize {
        let own = self.own[side].as_ref().map(|own| own.iter().filter(|own| **own).count());
        own.unwrap_or(self.responses[side].len())
    }

    /// The rows of `batch`.
    ///
    /// # Errors
    /// A column that is missing, of another type, or with another number of values than the response has tokens.
    pub fn from_batch(batch: &RecordBatch, wanted: &Wanted) -> Result<Vec<Self>> {
        let prompts = ids(batch, PROMPT_IDS)?;
        let responses = both(|side| ids(batch, &side.ids()))?;
        let lengths = responses.map(|side| side.rows().map(<[i32]>::len).collect::<Vec<_>>());
        let columns = Columns { batch, lengths };
        let keys = wanted.mask.as_ref().map(|name| columns.masks(name.as_deref())).transpose()?;
        let reference = wanted.reference.then(|| columns.floats(Side::ref_logps)).transpose()?;
        let rewards = wanted.rewards.then(|| columns.floats(Side::token_rewards)).transpose()?;
        let own = both(|side| assistant_masks(batch, side))?;
        let own_of = |side: Side, row: usize| own[side as usize].as_ref().map(|own| &own[row][..]);
        let of_row = |lists: &[Lists<'_, f32>; 2], row: usize| {
            Side::BOTH.map(|side| {
                let values = lists[side as usize].row(row);
                own_of(side, row).map_or_else(|| values.to_vec(), |own| marked(values, own))
            })
        };
        let mask_of = |masks: &[Vec<Vec<bool>>; 2], row: usize| {
            Side::BOTH.map(|side| {
                let mask = &masks[side as usize][row];
                own_of(side, row)
                    .map_or_else(|| mask.clone(), |own| mask.iter().zip(own).map(|(a, b)| *a && *b).collect())
            })
        };
        let example = |row: usize| Self {
            prompt: prompts.row(row).to_vec(),
            responses: responses.map(|side| side.row(row).to_vec()),
            own: Side::BOTH.map(|side| own_of(side, row).map(<[bool]>::to_vec)),
            masks: keys.as_ref().map(|keys| mask_of(keys, row)),
            reference: reference.as_ref().map(|lists| of_row(lists, row)),
            rewards: rewards.as_ref().map(|lists| of_row(lists, row)),
        };
        Ok((0..batch.num_rows()).map(example).collect())
    }
}

/// The columns with one value for every token of a response.
struct Columns<'a> {
    batch: &'a RecordBatch,
    /// Tokens of every row's responses.
    lengths: [Vec<usize>; 2],
}

impl<'a> Columns<'a> {
    fn floats(&self, name: impl Fn(Side) -> String) -> Result<[Lists<'a, f32>; 2]> {
        both(|side| {
            let list = floats(self.batch, &name(side))?;
            self.fits(side, &name(side), list.rows().map(<[f32]>::len))?;
            Ok(list)
        })
    }

    fn masks(&self, name: Option<&str>) -> Result<[Vec<Vec<bool>>; 2]> {
        both(|side| {
            let masks = masks(self.batch, &side.key_mask(name))?;
            self.fits(side, &side.key_mask(name), masks.iter().map(Vec::len))?;
            Ok(masks)
        })
    }

    /// Every row of column `name` must have as many values as the response has tokens.
    fn fits(&self, side: Side, name: &str, values: impl Iterator<Item = usize>) -> Result<()> {
        let lengths = self.lengths[side as usize].iter().copied().zip(values);
        match lengths.enumerate().find(|(_, (tokens, values))| tokens != values) {
            None => Ok(()),
            Some((row, (tokens, values))) => {
                let id = row_id(&self.batch.slice(row, 1)).map(|id| format!("row `{id}`: ")).unwrap_or_default();
                let message = format!("{id}{values} values for {tokens} tokens; make the column again");
                Err(Error::data(Place::column(name), message))
            }
        }
    }
}

fn both<T>(of: impl Fn(Side) -> Result<T>) -> Result<[T; 2]> {
    Ok([of(Side::Chosen)?, of(Side::Rejected)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::lists::{from_masks, from_rows};
    use crate::columns::with_column;
    use arrow::datatypes::{Float32Type, Int32Type};

    fn batch(rewards: &[f32]) -> RecordBatch {
        let ids = |ids: &[i32]| from_rows::<Int32Type>([ids]);
        RecordBatch::try_from_iter([
            (PROMPT_IDS.to_owned(), ids(&[1])),
            (Side::Chosen.ids(), ids(&[2, 3])),
            (Side::Rejected.ids(), ids(&[4])),
            (Side::Chosen.token_rewards(), from_rows::<Float32Type>([rewards])),
            (Side::Rejected.token_rewards(), from_rows::<Float32Type>([[0.5]])),
            (Side::Chosen.key_mask(Some("few")), from_masks([[true, false]])),
            (Side::Rejected.key_mask(Some("few")), from_masks([[true]])),
        ])
        .unwrap()
    }

    #[test]
    fn an_example_carries_what_is_wanted() {
        let wanted = Wanted { mask: Some(Some("few".into())), reference: false, rewards: true };
        let examples = Example::from_batch(&batch(&[0.1, -0.2]), &wanted).unwrap();
        let [example] = &examples[..] else { panic!("{examples:?}") };
        assert_eq!(example.rewards, Some([vec![0.1, -0.2], vec![0.5]]));
        assert_eq!(example.masks, Some([vec![true, false], vec![true]]));
        assert_eq!(example.reference, None);
    }

    #[test]
    fn no_objective_sees_the_tokens_of_others() {
        let mut batch = batch(&[0.1, -0.2]);
        let own = [(Side::Chosen, from_masks([[false, true]])), (Side::Rejected, from_masks([[true]]))];
        for (side, mask) in own {
            batch = with_column(&batch, &side.assistant_mask(), mask).unwrap();
        }
        let wanted = Wanted { mask: Some(Some("few".into())), reference: false, rewards: true };
        let examples = Example::from_batch(&batch, &wanted).unwrap();
        assert_eq!(examples[0].rewards, Some([vec![-0.2], vec![0.5]]));
        assert_eq!(examples[0].masks, Some([vec![false, false], vec![true]]));
        assert_eq!((examples[0].length(0), examples[0].length(1)), (1, 1));
        let longer = with_column(&batch, &Side::Chosen.assistant_mask(), from_masks([[false, true, true]])).unwrap();
        let error = Example::from_batch(&longer, &wanted).unwrap_err().to_string();
        assert!(error.contains("`chosen_assistant_mask`: row 0 has 3 values"), "{error}");
    }

    #[test]
    fn a_column_of_another_length_is_named() {
        let wanted = Wanted { rewards: true, ..Wanted::default() };
        let error = Example::from_batch(&batch(&[0.1]), &wanted).unwrap_err().to_string();
        assert!(error.contains("`chosen_token_rewards`: 1 values for 2 tokens"), "{error}");
    }
}
