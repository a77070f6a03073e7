//! Typed, copy-free views on ragged list columns, and the way back from rows to a list column.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, BooleanBufferBuilder, Int32Array, ListArray,
    PrimitiveArray, RecordBatch, StringArray, StructArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Float32Type, Int32Type};

use super::Side;
use crate::error::{Error, Place, Result};

/// The rows of a `list<T>` column as slices.
#[derive(Debug, Clone, Copy)]
pub struct Lists<'a, T> {
    offsets: &'a [i32],
    values: &'a [T],
}

impl<'a, T> Lists<'a, T> {
    /// Row `index`.
    pub fn row(&self, index: usize) -> &'a [T] {
        &self.values[self.offsets[index] as usize..self.offsets[index + 1] as usize]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All rows in order.
    pub fn rows(self) -> impl Iterator<Item = &'a [T]> {
        (0..self.len()).map(move |index| self.row(index))
    }
}

/// Column `name` of `batch` as `list<int32>`.
///
/// # Errors
/// A column that is not there, has another type, or holds nulls.
pub fn ids<'a>(batch: &'a RecordBatch, name: &str) -> Result<Lists<'a, i32>> {
    primitive::<Int32Type>(batch, name)
}

/// Column `name` of `batch` as `list<float32>`.
///
/// # Errors
/// As [`ids`].
pub fn floats<'a>(batch: &'a RecordBatch, name: &str) -> Result<Lists<'a, f32>> {
    primitive::<Float32Type>(batch, name)
}

/// Column `name` of `batch` as `list<bool>`, one vector a row.
///
/// # Errors
/// As [`ids`].
pub fn masks(batch: &RecordBatch, name: &str) -> Result<Vec<Vec<bool>>> {
    let list = list(batch, name, &DataType::Boolean)?;
    let values = list.values().as_boolean().values();
    Ok(list.offsets().windows(2).map(|w| (w[0]..w[1]).map(|i| values.value(i as usize)).collect()).collect())
}

/// The rows of `column`, which [`from_rows`] made.
pub fn of<T: ArrowPrimitiveType>(column: &ArrayRef) -> Lists<'_, T::Native> {
    let list = column.as_list::<i32>();
    Lists { offsets: list.value_offsets(), values: list.values().as_primitive::<T>().values() }
}

/// Which tokens of the answers of `side` are the assistant's, one mask a row; none where all of them are, as in rows without
/// the column.
///
/// # Errors
/// A column of another type, or with another number of values than an answer has tokens.
pub fn assistant_masks(batch: &RecordBatch, side: Side) -> Result<Option<Vec<Vec<bool>>>> {
    let name = side.assistant_mask();
    if batch.column_by_name(&name).is_none() {
        return Ok(None);
    }
    let masks = masks(batch, &name)?;
    let lengths = ids(batch, &side.ids())?.rows().map(<[i32]>::len);
    if let Some(row) = lengths.zip(&masks).position(|(tokens, mask)| tokens != mask.len()) {
        let message = format!("row {row} has {} values, and another number of tokens", masks[row].len());
        return Err(Error::data(Place::column(&name), message));
    }
    Ok(masks.iter().flatten().any(|own| !own).then_some(masks))
}

/// The values that `mask` marks.
pub fn marked<T: Copy>(values: &[T], mask: &[bool]) -> Vec<T> {
    values.iter().zip(mask).filter_map(|(value, marked)| marked.then_some(*value)).collect()
}

/// A `list<T>` column from rows.
pub fn from_rows<T: ArrowPrimitiveType>(rows: impl IntoIterator<Item = impl AsRef<[T::Native]>>) -> ArrayRef {
    let mut lengths = Vec::new();
    let mut values: Vec<T::Native> = Vec::new();
    for row in rows {
        lengths.push(row.as_ref().len());
        values.extend_from_slice(row.as_ref());
    }
    let values = PrimitiveArray::<T>::from_iter_values(values);
    Arc::new(ListArray::new(element(T::DATA_TYPE), OffsetBuffer::from_lengths(lengths), Arc::new(values), None))
}

/// A `list<bool>` column from rows.
pub fn from_masks(rows: impl IntoIterator<Item = impl AsRef<[bool]>>) -> ArrayRef {
    let mut lengths = Vec::new();
    let mut values = BooleanBufferBuilder::new(0);
    for row in rows {
        lengths.push(row.as_ref().len());
        values.append_slice(row.as_ref());
    }
    let values = BooleanArray::new(values.finish(), None);
    Arc::new(ListArray::new(element(DataType::Boolean), OffsetBuffer::from_lengths(lengths), Arc::new(values), None))
}

/// A `list<string>` column from rows.
pub fn from_texts(rows: &[Vec<String>]) -> ArrayRef {
    let values = StringArray::from_iter_values(rows.iter().flatten().collect::<Vec<_>>());
    let lengths = OffsetBuffer::from_lengths(rows.iter().map(Vec::len));
    Arc::new(ListArray::new(element(DataType::Utf8), lengths, Arc::new(values), None))
}

/// Characters of a text, from and to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first character.
    pub start: i32,
    /// The one behind the last.
    pub end: i32,
}

/// `list<struct<start: int32, end: int32>>`: characters of a text.
pub fn spans_type() -> DataType {
    DataType::List(element(DataType::Struct(span_fields())))
}

fn span_fields() -> Fields {
    ["start", "end"].into_iter().map(|name| Field::new(name, DataType::Int32, false)).collect()
}

/// A column of [`spans_type`] from rows; a row may be null.
pub fn from_spans(rows: &[Option<Vec<Span>>]) -> ArrayRef {
    let spans = || rows.iter().flatten().flatten();
    let ends: [ArrayRef; 2] = [
        Arc::new(Int32Array::from_iter_values(spans().map(|span| span.start))),
        Arc::new(Int32Array::from_iter_values(spans().map(|span| span.end))),
    ];
    let values = StructArray::new(span_fields(), ends.into(), None);
    let lengths = OffsetBuffer::from_lengths(rows.iter().map(|row| row.as_ref().map_or(0, Vec::len)));
    let valid = rows.iter().map(Option::is_some).collect();
    Arc::new(ListArray::new(element(values.data_type().clone()), lengths, Arc::new(values), Some(valid)))
}

fn element(data_type: DataType) -> Arc<Field> {
    Arc::new(Field::new("element", data_type, false))
}

fn primitive<'a, T: ArrowPrimitiveType>(batch: &'a RecordBatch, name: &str) -> Result<Lists<'a, T::Native>> {
    let list = list(batch, name, &T::DATA_TYPE)?;
    Ok(Lists { offsets: list.value_offsets(), values: list.values().as_primitive::<T>().values() })
}

fn list<'a>(batch: &'a RecordBatch, name: &str, element: &DataType) -> Result<&'a ListArray> {
    let column = batch.column_by_name(name).ok_or_else(|| {
        let names: Vec<&str> = batch.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
        Error::data(Place::column(name), format!("no such column; there are {}", names.join(", ")))
    })?;
    let wrong = |what: String| Error::data(Place::column(name), what);
    let list = column
        .as_list_opt::<i32>()
        .filter(|list| list.value_type() == *element)
        .ok_or_else(|| wrong(format!("is {}, not list<{element}>", column.data_type())))?;
    if list.null_count() > 0 || list.values().null_count() > 0 {
        return Err(wrong("holds nulls".into()));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use proptest::prelude::*;

    fn batch(name: &str, column: ArrayRef) -> RecordBatch {
        let field = Field::new(name, column.data_type().clone(), false);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    }

    proptest! {
        #[test]
        fn rows_survive_the_round_trip(rows: Vec<Vec<i32>>, skip in 0usize..4) {
            let whole = batch("x", from_rows::<Int32Type>(&rows));
            let skip = skip.min(rows.len());
            let sliced = whole.slice(skip, rows.len() - skip);
            let back: Vec<Vec<i32>> = ids(&sliced, "x").unwrap().rows().map(<[i32]>::to_vec).collect();
            prop_assert_eq!(&back[..], &rows[skip..]);
        }

        #[test]
        fn masks_survive_the_round_trip(rows: Vec<Vec<bool>>) {
            let batch = batch("x", from_masks(&rows));
            prop_assert_eq!(masks(&batch, "x").unwrap(), rows);
        }
    }

    #[test]
    fn a_wrong_type_is_named() {
        let batch = batch("x", from_rows::<Int32Type>([[1, 2]]));
        let error = floats(&batch, "x").unwrap_err().to_string();
        assert!(error.contains("`x`") && error.contains("Float32"), "{error}");
        let error = ids(&batch, "y").unwrap_err().to_string();
        assert!(error.contains("no such column; there are x"), "{error}");
    }
}
