//! A report of scored rows, or of a training: one HTML page that needs nothing else, with the numbers in it as JSON.
//!
//! ```text
//! RecordBatch --> Builder { Statistics, Sample } --finish--> Contents --> Page (HTML), plots (SVG)
//! ```
//!
//! `Statistics` are exact and take no more memory for more rows. `Sample` keeps the few rows that are shown token by token.
//! Nothing here reads or writes files.

mod classes;
mod curves;
mod gathered;
mod grid;
mod page;
mod plots;
mod rows;
mod sample;
mod statistics;
mod vocabulary;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use serde::Serialize;

use crate::columns::provenance::Provenance;
use crate::error::{Problem, Result};
use crate::text::Tokenizer;
pub use curves::{Training, training};
pub use gathered::Gathered;
pub use page::{COLOURS, Page, STRONGEST, html};
use rows::Rows;
pub use rows::problems;
use sample::Sample;
pub use sample::{Sampled, Shown, ShownAnswer, Why};
use statistics::Statistics;
pub use statistics::Summary;
use vocabulary::Vocabulary;

/// Rows that are shown token by token where nothing else is said.
pub const SHOWN_ROWS: usize = 200;

/// Which rows a report shows token by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many.
    pub rows: usize,
    /// Picks those that are picked at random.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rows: SHOWN_ROWS, seed: 0 }
    }
}

/// Rows that a stage set aside for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// The stage.
    pub stage: String,
    /// The reason.
    pub reason: String,
    /// How many.
    pub rows: u64,
}

/// What a report of scored rows holds.
#[derive(Debug, Serialize)]
pub struct Contents {
    /// Where the rows come from.
    pub source: String,
    /// What made them.
    pub provenance: Provenance,
    /// Rows that did not come as far; none where nothing is known of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<Vec<SetAside>>,
    /// What is probably wrong although nothing failed.
    pub warnings: Vec<String>,
    /// Numbers over all rows.
    pub statistics: Summary,
    /// Rows token by token.
    pub sample: Sampled,
}

/// A report while rows come in.
pub struct Builder {
    statistics: Statistics,
    sample: Sample,
    vocabulary: Vocabulary,
    provenance: Provenance,
    masks: Vec<String>,
    /// Rows so far.
    rows: u64,
}

impl Builder {
    /// A report of rows with the columns of `schema`. Without a `tokenizer`, texts come from the column `{side}_tokens`, or
    /// ids stand for them.
    ///
    /// # Errors
    /// Columns that are missing.
    pub fn new(schema: &Schema, tokenizer: Option<Arc<Tokenizer>>, settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = problems(schema);
        if !problems.is_empty() {
            return Err(problems);
        }
        let masks = rows::masks_of(schema);
        Ok(Self {
            statistics: Statistics::new(&masks),
            sample: Sample::new(settings),
            vocabulary: Vocabulary::new(tokenizer),
            provenance: Provenance::of(schema),
            masks,
            rows: 0,
        })
    }

    /// Takes rows.
    ///
    /// # Errors
    /// Lists of one answer that differ in length; a tokenizer that cannot say what an id is.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = &rows::canonical(batch)?;
        let rows = Rows::of(batch, &self.masks)?;
        for index in 0..batch.num_rows() {
            self.rows += 1;
            let pair = rows.pair(index, self.rows)?;
            self.vocabulary.learn(&pair)?;
            if self.statistics.add(&pair) {
                self.sample.offer(&pair, batch, index)?;
            }
        }
        Ok(())
    }

    /// The report of all rows, which come from `source`.
    ///
    /// # Errors
    /// A tokenizer that cannot decode the rows that are shown.
    pub fn finish(self, source: String, set_aside: Option<Vec<SetAside>>) -> Result<Contents> {
        let Self { statistics, sample, vocabulary, provenance, .. } = self;
        let sample = sample.finish(&vocabulary)?;
        let warnings = statistics.warnings(&vocabulary);
        let statistics = statistics.summary(&vocabulary);
        Ok(Contents { source, provenance, set_aside, warnings, statistics, sample })
    }
}

impl Contents {
    /// The plots, as SVG files with their names.
    pub fn plots(&self) -> Vec<(&'static str, String)> {
        plots::of(&self.statistics)
    }
}

#[cfg(test)]
mod tests;
