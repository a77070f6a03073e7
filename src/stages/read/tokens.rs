//! Data that is tokenized already: `prompt_ids`, `chosen_ids`, `rejected_ids`, and what was scored of it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float32Array, ListArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Schema};
use arrow::error::ArrowError;

use super::form::{Reason, listed};
use crate::columns::lists::from_rows;
use crate::columns::{PROMPT_IDS, Side, list_type, with_column};
use crate::error::{Error, Place, Problem, Result};
use crate::io::list_element;

/// The columns with token ids.
pub(super) fn names() -> [String; 3] {
    [PROMPT_IDS.to_owned(), Side::Chosen.ids(), Side::Rejected.ids()]
}

/// What is wrong with the columns of `schema`.
pub(super) fn problems(schema: &Schema) -> Vec<Problem> {
    let problem = |name: String| match schema.field_with_name(&name) {
        Ok(field) if list_element(field.data_type()).is_some_and(DataType::is_integer) => None,
        Ok(field) => {
            let message = format!("column `{name}` is {}, not a list of integers", field.data_type());
            Some(Problem::at("from", message))
        }
        Err(_) => Some(Problem::at("from", format!("no column `{name}`; there are {}", listed(schema)))),
    };
    names().into_iter().filter_map(problem).collect()
}

/// The fields of the columns with token ids.
pub(super) fn fields() -> [Field; 3] {
    names().map(|name| Field::new(name, list_type(DataType::Int32), false))
}

/// The columns of scored rows that `schema` has, each in the form that stages take: other tools write the lists that they
/// read here as large lists, with nulls allowed, or with wider numbers.
pub(super) fn scored(schema: &Schema) -> Vec<Field> {
    let form = |field: &Field| {
        let element = list_element(field.data_type())?;
        let is = |name: String| *field.name() == name;
        let is_logps = |side: Side| is(side.token_rewards()) || is(side.ref_logps()) || is(side.oracle_logps());
        let is_mask = |side: Side| field.name().starts_with(&side.key_mask(None)) || is(side.assistant_mask());
        let element = match element {
            element if element.is_floating() && Side::BOTH.into_iter().any(is_logps) => DataType::Float32,
            DataType::Boolean if Side::BOTH.into_iter().any(is_mask) => DataType::Boolean,
            _ => return None,
        };
        Some(Field::new(field.name(), list_type(element), false))
    };
    schema.fields().iter().filter_map(|field| form(field)).collect()
}

/// `column` in the form of `field`, which is one of [`scored`]; rows with nulls get a reason.
fn in_form(column: &ArrayRef, field: &Field, reasons: &mut [Option<Reason>]) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == field.data_type() {
        return Ok(column.clone());
    }
    let element = list_element(field.data_type()).expect("scored columns are lists").clone();
    let nullable = DataType::List(Arc::new(Field::new("element", element.clone(), true)));
    let column = cast(column, &nullable)?;
    let list = column.as_list::<i32>();
    for (row, reason) in reasons.iter_mut().enumerate() {
        if list.is_null(row) || list.value(row).null_count() > 0 {
            reason.get_or_insert("reward, log-probability or mask is null");
        }
    }
    let values: ArrayRef = match element {
        DataType::Boolean => Arc::new(BooleanArray::new(list.values().as_boolean().values().clone(), None)),
        _ => Arc::new(Float32Array::new(list.values().as_primitive::<Float32Type>().values().clone(), None)),
    };
    let element = Arc::new(Field::new("element", element, false));
    Ok(Arc::new(ListArray::try_new(element, list.offsets().clone(), values, None)?))
}

/// The batch with plain columns of ids and of what was scored, and what is wrong with its rows.
pub(super) fn rows(batch: &RecordBatch) -> Result<(RecordBatch, Vec<Option<Reason>>)> {
    let mut batch = batch.clone();
    let mut reasons: Vec<Option<Reason>> = vec![None; batch.num_rows()];
    let mut lists = Vec::new();
    for name in names() {
        let wrong = |error: ArrowError| Error::data(Place::column(&name), error);
        let column = batch.column_by_name(&name).expect("the schema was checked").clone();
        let nullable = DataType::List(Arc::new(Field::new("element", DataType::Int32, true)));
        let column = cast(&column, &nullable).map_err(wrong)?;
        let list = column.as_list::<i32>().clone();
        let rows: Vec<Vec<i32>> = (0..list.len())
            .map(|row| {
                let values = list.value(row);
                let values = values.as_primitive::<Int32Type>();
                if values.null_count() > 0 || values.values().iter().any(|id| *id < 0) {
                    reasons[row].get_or_insert("token id is null or negative");
                }
                values.values().to_vec()
            })
            .collect();
        for (ids, reason) in rows.iter().zip(&mut reasons) {
            if ids.is_empty() {
                reason.get_or_insert(if name == PROMPT_IDS { "empty prompt" } else { "empty answer" });
            }
        }
        batch = with_column(&batch, &name, from_rows::<Int32Type>(&rows)).map_err(wrong)?;
        lists.push(rows);
    }
    for field in scored(&batch.schema()) {
        let name = field.name();
        let wrong = |error: ArrowError| Error::data(Place::column(name), error);
        let column = batch.column_by_name(name).expect("the batch's own field");
        let column = in_form(column, &field, &mut reasons).map_err(wrong)?;
        batch = with_column(&batch, name, column).map_err(wrong)?;
    }
    for (row, reason) in reasons.iter_mut().enumerate() {
        if lists[1][row] == lists[2][row] {
            reason.get_or_insert("identical answers");
        }
    }
    Ok((batch, reasons))
}
