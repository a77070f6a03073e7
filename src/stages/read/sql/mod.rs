//! `where:` — a SQL expression over the columns, run by polars with the meaning that DuckDB gives it.
//!
//! The text is parsed by the parser of polars, and translated here to polars' expressions with types that the columns' schema decides:
//! whole numbers have a sign and exact results, conditions three values. What is not known to mean the same is refused before the
//! first row. docs/datasets.md lists what there is.

mod arithmetic;
mod cells;
mod column;
mod functions;
mod names;
mod syntax;
mod text;
mod translate;
mod types;

#[cfg(test)]
mod duckdb_tests;
#[cfg(test)]
mod tests;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::Schema;
use polars::prelude::DataFrame;
use polars_lazy::dsl::Expr;
use polars_lazy::frame::IntoLazy;

use crate::error::{Error, Place, Problem, Result};
use crate::io::Bound;
use column::Leaf;
use names::Names;
use translate::Translator;

/// A condition on rows.
#[derive(Debug)]
pub(super) struct Filter {
    text: String,
    condition: Expr,
    /// What the condition names, the columns of polars by their numbers.
    leaves: Vec<Leaf>,
    bounds: Vec<Bound>,
}

impl Filter {
    /// The condition `text` on rows with `schema`.
    pub(super) fn new(text: &str, schema: &Schema) -> Result<Self, Problem> {
        let wrong = |wrong: syntax::Wrong| wrong.problem(text);
        let tree = syntax::parse(text).map_err(wrong)?;
        let mut translator = Translator::new(schema);
        let condition = translator.condition(&tree).map_err(wrong)?;
        let bounds = Names(schema).bounds(&tree);
        Ok(Self { text: text.to_owned(), condition, leaves: translator.leaves, bounds })
    }

    /// Comparisons of a column with a constant that the expression joins by AND.
    pub(super) fn bounds(&self) -> Vec<Bound> {
        self.bounds.clone()
    }

    /// The columns that it names.
    pub(super) fn columns(&self) -> Vec<String> {
        self.leaves.iter().map(|leaf| leaf.column.clone()).collect()
    }

    /// True where the expression is; null counts as false.
    pub(super) fn keep(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let wrong = |error: &str| {
            let first = error.lines().next().unwrap_or_default();
            Error::data(Place::default(), format!("where: `{}`: {first}", self.text))
        };
        let columns = self.leaves.iter().enumerate().map(|(number, leaf)| leaf.column(number.to_string(), batch));
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
        let frame = DataFrame::new(batch.num_rows(), columns).map_err(|error| wrong(&error.to_string()))?;
        let kept = frame.lazy().select([self.condition.clone().alias("keep")]).collect();
        let kept = kept.and_then(|kept| kept.column("keep").and_then(|kept| kept.bool().cloned()));
        let kept = kept.map_err(|error| wrong(&error.to_string()))?;
        let is_kept = |row| kept.get(row).unwrap_or(false);
        // Of a constant there is one value.
        match (kept.len(), batch.num_rows()) {
            (1, rows) => Ok(BooleanArray::from(vec![is_kept(0); rows])),
            (found, rows) if found == rows => Ok((0..rows).map(|row| Some(is_kept(row))).collect()),
            (found, rows) => Err(wrong(&format!("{found} values for {rows} rows"))),
        }
    }
}
