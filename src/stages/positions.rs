//! Rows that are longer than a model has positions: set aside before a model reads them, whatever the stage. What a model says
//! of positions that it was never trained on are numbers without a meaning, and nothing later would notice.

use arrow::array::RecordBatch;

use super::generate::answers_of;
use super::score::pairs;
use super::{Outcome, Transform};
use crate::columns::PROMPT_IDS;
use crate::columns::lists::ids;
use crate::error::Result;

/// Why a row is set aside.
const TOO_LONG: &str = "longer than the model's positions";

/// What models read of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The prompt and each response of a pair.
    Pairs,
    /// As [`Self::Pairs`], and each response behind the prompts in these columns.
    Behind(&'static [&'static str]),
    /// The prompt and each answer of a `generate` stage.
    Answers,
}

impl Reads {
    /// Tokens of the longest sequence in every row of `batch`.
    fn longest(self, batch: &RecordBatch) -> Result<Vec<usize>> {
        let more = match self {
            Self::Behind(columns) => columns.iter().map(|name| ids(batch, name)).collect::<Result<Vec<_>>>()?,
            Self::Pairs | Self::Answers => Vec::new(),
        };
        let prompts = ids(batch, PROMPT_IDS)?;
        let answer: Box<dyn Fn(usize) -> Result<usize>> = match self {
            Self::Answers => {
                Box::new(|row| Ok(answers_of(batch, row)?.iter().map(|(_, ids)| ids.len()).max().unwrap_or_default()))
            }
            Self::Pairs | Self::Behind(_) => {
                let [chosen, rejected] = pairs(batch)?.1;
                Box::new(move |row| Ok(chosen.row(row).len().max(rejected.row(row).len())))
            }
        };
        let prompt = |row: usize| more.iter().chain([&prompts]).map(|ids| ids.row(row).len()).max().unwrap_or_default();
        (0..batch.num_rows()).map(|row| Ok(prompt(row) + answer(row)?)).collect()
    }

    /// The rows of `batch` that fit a model of `positions` positions, and those that do not.
    ///
    /// # Errors
    /// A column of token ids that is not there or has another type.
    pub fn sort_out(self, batch: RecordBatch, positions: Option<usize>) -> Result<Outcome> {
        let Some(positions) = positions else { return Ok(Outcome::all(batch)) };
        let reason = |length: usize| (length > positions).then_some(TOO_LONG);
        let reasons: Vec<_> = self.longest(&batch)?.into_iter().map(reason).collect();
        if reasons.iter().all(Option::is_none) { Ok(Outcome::all(batch)) } else { Outcome::sort_out(&batch, &reasons) }
    }
}

/// The last step of rows that end in a stage with models.
#[derive(Debug, Clone)]
pub struct Fitting {
    /// What the models read.
    pub reads: Reads,
    /// Positions of the model that has the fewest; none where no model has a limit.
    pub positions: Option<usize>,
}

impl Transform for Fitting {
    fn apply(&mut self, batch: RecordBatch) -> Result<Outcome> {
        self.reads.sort_out(batch, self.positions)
    }
}
