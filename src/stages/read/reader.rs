//! A source's rows on their way into the pipeline: filtered, sampled, brought into canonical form, split.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::conversation::{Pair, Turn, role, words};
use super::form::{Form, Reason, Rows, Table};
use super::sql::Filter;
use super::{ColumnNames, Keep, PairRule, Read, ids, rename, tokens};
use crate::columns::lists::{from_masks, from_rows};
use crate::columns::{PROMPT_IDS, ROW_ID, messages_column, row_as_json, with_column};
use crate::error::{Error, Place, Result};
use crate::io::{Bound, Chunk};
use crate::stages::Outcome;

/// Reads the rows of a source.
pub struct Reader {
    pub(super) read: Read,
    pub(super) filter: Option<Filter>,
    /// None for data that is tokenized already.
    pub(super) form: Option<&'static Form>,
    pub(super) schema: SchemaRef,
}

impl Reader {
    /// Whether other rows may come out than the source has: fewer of them, or several pairs of one row.
    pub fn changes_rows(&self) -> bool {
        let read = &self.read;
        read.filter.is_some() || read.sample.is_some() || read.split.is_some() || self.makes_several()
    }

    /// What every row that `where` leaves fulfils, as far as it can be told from the expression.
    pub fn bounds(&self) -> Vec<Bound> {
        let bounds = self.filter.as_ref().map(Filter::bounds).unwrap_or_default();
        // The ids that the filter sees may have been made here.
        let bounds = bounds.into_iter().filter(|bound| bound.column != ROW_ID);
        let source =
            |bound: Bound| Bound { column: rename::original(&self.read.rename, &bound.column).to_owned(), ..bound };
        bounds.map(source).collect()
    }

    /// The columns of a source with `schema` that are needed; none where all are.
    pub fn wanted(&self, schema: &Schema) -> Option<BTreeSet<String>> {
        let select = self.read.select.iter().flatten().cloned();
        let mut wanted: BTreeSet<String> =
            self.read.select.as_ref().map(|_| select.chain([self.read.id_column().to_owned()]))?.collect();
        if let Some(filter) = &self.filter {
            wanted.extend(filter.columns());
        }
        match self.form {
            Some(form) => wanted.extend(form.reads(&self.read.columns.clone().unwrap_or_default())),
            None => wanted.extend(tokens::names()),
        }
        let source = |name: &String| rename::original(&self.read.rename, name).to_owned();
        let wanted = wanted.iter().map(source);
        Some(wanted.filter(|name| schema.field_with_name(name).is_ok()).collect())
    }

    fn makes_several(&self) -> bool {
        let ranked = self.form.is_some_and(|form| matches!(form.rows, Rows::Ranked(_)));
        ranked && self.read.pair_rule == Some(PairRule::All)
    }

    /// The rows of `chunk`, which lies in `file`, that `where`, `sample` and `split` leave, one a pair, and those set
    /// aside, by their place among the rows left.
    ///
    /// # Errors
    /// Values that the filter or the form cannot read.
    pub fn apply(&self, file: &str, chunk: Chunk) -> Result<(RecordBatch, Outcome)> {
        let wrong = |error: ArrowError| Error::data(Place::file(file).row(chunk.first_row), error);
        let mut batch = rename::rows(&self.read.rename, &chunk.batch).map_err(wrong)?;
        let ids = ids::column(&batch, self.read.id_column(), file, chunk.first_row).map_err(wrong)?;
        if batch.column_by_name(ROW_ID).is_none_or(|own| !Arc::ptr_eq(own, &ids)) {
            batch = with_column(&batch, ROW_ID, ids).map_err(wrong)?;
        }
        if let Some(filter) = &self.filter {
            batch = filter_record_batch(&batch, &filter.keep(&batch)?).map_err(wrong)?;
        }
        if let Some(share) = self.read.sample {
            let keep = (0..batch.num_rows()).map(|row| Some(uniform("sample", &content(&batch, row)) < share));
            batch = filter_record_batch(&batch, &keep.collect::<BooleanArray>()).map_err(wrong)?;
        }
        match self.form {
            None => self.tokens(&batch),
            Some(form) => self.pairs(form, &batch),
        }
    }

    fn tokens(&self, batch: &RecordBatch) -> Result<(RecordBatch, Outcome)> {
        let ids = batch.schema().index_of(PROMPT_IDS).expect("the schema was checked");
        let prompts = batch.project(&[ids]).map_err(failed)?;
        let batch = self.side(batch, |row| row_as_json(&prompts.slice(row, 1)))?.0;
        let (out, reasons) = tokens::rows(&batch)?;
        Ok((batch, Outcome::sort_out(&self.in_order(&out)?, &reasons)?))
    }

    fn pairs(&self, form: &Form, batch: &RecordBatch) -> Result<(RecordBatch, Outcome)> {
        let names = self.read.columns.clone().unwrap_or_default();
        let (batch, pairs) = self.one_a_row(form, batch, &names)?;
        let prompt = |row: usize| match &pairs[row] {
            Ok(pair) => prompt_key(&pair.prompt),
            Err(_) => content(&batch, row),
        };
        let (batch, keep) = self.side(&batch, prompt)?;
        let pairs: Vec<Result<Pair, Reason>> =
            pairs.into_iter().zip(keep).filter_map(|(pair, keep)| keep.then_some(pair)).collect();
        let reasons: Vec<Option<Reason>> = pairs.iter().map(|pair| pair.as_ref().err().copied()).collect();
        let rows: Vec<Pair> = pairs.into_iter().map(Result::unwrap_or_default).collect();
        let mut out = batch.clone();
        let parts: [fn(&Pair) -> &[Turn]; 3] = [|pair| &pair.prompt, |pair| &pair.answers[0], |pair| &pair.answers[1]];
        for (name, part) in form.turns().iter().zip(parts) {
            out = with_column(&out, name, messages_column(rows.iter().map(part))).map_err(failed)?;
        }
        for (side, [ids, key_mask]) in form.tokens().into_iter().flatten().enumerate() {
            let ids_of = from_rows::<Int32Type>(rows.iter().map(|row| &row.tokens[side].ids));
            let masks_of = from_masks(rows.iter().map(|row| &row.tokens[side].key_mask));
            out = with_column(&out, ids.name(), ids_of).map_err(failed)?;
            out = with_column(&out, key_mask.name(), masks_of).map_err(failed)?;
        }
        Ok((batch, Outcome::sort_out(&self.in_order(&out)?, &reasons)?))
    }

    /// The pairs of all rows, and the batch with a row for each. Where a row may give several, their ids end with the
    /// places of the chosen and the rejected answer.
    fn one_a_row(
        &self,
        form: &Form,
        batch: &RecordBatch,
        names: &ColumnNames,
    ) -> Result<(RecordBatch, Vec<Result<Pair, Reason>>)> {
        let table = Table::new(batch, form, names)?;
        let rows = (0..batch.num_rows()).map(|row| table.row(row));
        let read = match form.rows {
            Rows::Pair(read) | Rows::Keyed(read) | Rows::Prompt(read) => {
                return Ok((batch.clone(), rows.map(|row| read(&row)).collect()));
            }
            Rows::Ranked(read) => read,
        };
        let rule = self.read.pair_rule.unwrap_or_default();
        let pairs: Vec<Vec<Result<Pair, Reason>>> = rows.map(|row| read(&row, rule)).collect();
        if !self.makes_several() {
            return Ok((batch.clone(), pairs.into_iter().flatten().collect()));
        }
        let from = pairs.iter().enumerate().flat_map(|(row, pairs)| vec![row as u32; pairs.len()]);
        let batch = take_record_batch(batch, &from.collect::<UInt32Array>()).map_err(failed)?;
        let pairs: Vec<Result<Pair, Reason>> = pairs.into_iter().flatten().collect();
        let ids = batch.column_by_name(ROW_ID).expect("every row has an id");
        let ids = cast(ids, &DataType::Utf8).map_err(failed)?;
        let ids = ids.as_string::<i32>().iter().zip(&pairs).map(|(id, pair)| {
            let id = id.unwrap_or_default();
            match pair.as_ref().ok().and_then(|pair| pair.places) {
                Some([chosen, rejected]) => format!("{id}#{chosen}-{rejected}"),
                None => id.to_owned(),
            }
        });
        let ids: StringArray = ids.map(Some).collect();
        Ok((with_column(&batch, ROW_ID, Arc::new(ids)).map_err(failed)?, pairs))
    }

    /// The rows on the side of the split that is asked for, and which they were.
    fn side(&self, batch: &RecordBatch, prompt: impl Fn(usize) -> String) -> Result<(RecordBatch, Vec<bool>)> {
        let Some(split) = self.read.split else { return Ok((batch.clone(), vec![true; batch.num_rows()])) };
        let held_out = |row| uniform("split", &prompt(row)) < split.held_out;
        let keep: Vec<bool> = (0..batch.num_rows()).map(|row| held_out(row) == (split.keep == Keep::HeldOut)).collect();
        Ok((filter_record_batch(batch, &BooleanArray::from(keep.clone())).map_err(failed)?, keep))
    }

    /// The batch's columns in the order of the stage's schema.
    fn in_order(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().map(|field| batch.column_by_name(field.name()).cloned());
        let columns: Vec<ArrayRef> = columns.collect::<Option<_>>().expect("the schema was made from these columns");
        RecordBatch::try_new(self.schema.clone(), columns).map_err(failed)
    }
}

fn failed(error: ArrowError) -> Error {
    Error::data(Place::default(), error)
}

/// The text of a prompt by which it lies on one side of a split.
fn prompt_key(prompt: &[Turn]) -> String {
    let turns: Vec<(&str, String)> = prompt.iter().map(|turn| (role(turn), words(turn))).collect();
    serde_json::to_string(&turns).expect("turns are plain data")
}

/// A number in [0, 1) that the text decides.
fn uniform(salt: &str, text: &str) -> f64 {
    let hash = blake3::hash(format!("{salt}\0{text}").as_bytes());
    let bytes: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
    u64::from_le_bytes(bytes) as f64 / 2f64.powi(64)
}

/// Row `row` as text, wherever it was read from.
fn content(batch: &RecordBatch, row: usize) -> String {
    let mut row = batch.slice(row, 1);
    if let Ok(id) = row.schema().index_of(ROW_ID) {
        row.remove_column(id);
    }
    row_as_json(&row)
}
