//! The ids of rows: the source's own, of whatever type of texts or whole numbers, or made of file and row.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use serde_json::json;

use crate::columns::{ROW_ID, row_ids, with_column};
use crate::error::Result;
use crate::io::{Dataset, extension};
use crate::stages::{Conclusion, Metrics};

/// The type in which the ids in column `name` of a source are kept, without loss; none where they cannot be kept.
///
/// Texts are text, whole numbers `Int64` or `UInt64`. Where numbers may be null they are text as well, because a null becomes
/// file and row.
pub(super) fn kind(schema: &Schema, name: &str) -> Option<DataType> {
    let field = schema.field_with_name(name).ok().filter(|field| extension::name(field).is_none())?;
    let values = match field.data_type() {
        DataType::Dictionary(_, values) => values,
        kind => kind,
    };
    match values {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Some(DataType::Utf8),
        kind if !kind.is_integer() => None,
        _ if field.is_nullable() => Some(DataType::Utf8),
        DataType::UInt64 => Some(DataType::UInt64),
        _ => Some(DataType::Int64),
    }
}

/// The ids of the rows of `batch`, which begins with row `first_row` of `file`, out of its column `name`.
pub(super) fn column(batch: &RecordBatch, name: &str, file: &str, first_row: u64) -> Result<ArrayRef, ArrowError> {
    let made = |row: usize| format!("{file}:{}", first_row + row as u64);
    let Some((kind, own)) = kind(batch.schema_ref(), name).zip(batch.column_by_name(name)) else {
        return Ok(std::sync::Arc::new(StringArray::from_iter_values((0..batch.num_rows()).map(made))));
    };
    let ids = cast(own, &kind)?;
    if kind != DataType::Utf8 || ids.null_count() == 0 {
        return Ok(ids);
    }
    let ids = ids.as_string::<i32>().iter().enumerate();
    let ids = ids.map(|(row, id)| id.map_or_else(|| made(row), str::to_owned));
    Ok(std::sync::Arc::new(StringArray::from_iter_values(ids)))
}

/// Ids that are remembered to find those that come again, 16 bytes each.
const REMEMBERED: usize = 4 << 20;

/// Rows whose id an earlier row had, of all rows of a source: exactly, up to a number of ids.
#[derive(Debug, Default)]
struct Repeated {
    seen: HashSet<u64>,
    rows: u64,
    example: Option<String>,
    is_exact: bool,
}

impl Repeated {
    fn add(&mut self, id: String, room: usize) {
        let hash = blake3::hash(id.as_bytes());
        let key = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
        if self.seen.contains(&key) {
            self.rows += 1;
            self.example.get_or_insert(id);
        } else if self.seen.len() < room {
            self.seen.insert(key);
        } else {
            self.is_exact = false;
        }
    }

    fn conclude(self) -> Conclusion {
        let Some(example) = self.example else { return Conclusion::default() };
        let (rows, least) = (self.rows, if self.is_exact { "" } else { "at least " });
        let mut warning =
            format!("{least}{rows} rows have a `{ROW_ID}` that an earlier row has, for example `{example}`");
        if !self.is_exact {
            warning.push_str(&format!(" (the first {} ids were compared)", self.seen.len()));
        }
        Conclusion { metrics: Metrics::from_iter([("repeated_ids".to_owned(), json!(rows))]), warnings: vec![warning] }
    }
}

/// How many rows of `dataset` repeat the id, in column `name`, of an earlier one. Ids that are made here differ.
pub(super) fn repeated(dataset: &Dataset, name: &str) -> Result<Conclusion> {
    if kind(dataset.schema(), name).is_none() {
        return Ok(Conclusion::default());
    }
    let mut dataset = dataset.clone();
    dataset.project(&[name.to_owned()].into());
    let mut repeated = Repeated { is_exact: true, ..Repeated::default() };
    for unit in dataset.units() {
        for chunk in dataset.read(&unit, 4096)? {
            let chunk = chunk?;
            let ids = column(&chunk.batch, name, &dataset.file(&unit).to_string(), chunk.first_row);
            let batch = ids.and_then(|ids| with_column(&chunk.batch, ROW_ID, ids));
            let batch = batch.map_err(|error| crate::error::Error::data(crate::error::Place::column(name), error))?;
            row_ids(&batch).into_iter().for_each(|id| repeated.add(id, REMEMBERED));
        }
    }
    Ok(repeated.conclude())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{Int32Array, UInt64Array};
    use arrow::datatypes::Field;

    #[test]
    fn ids_of_every_type_are_the_sources_own() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(101), None]));
        let texts = [
            DataType::Utf8,
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
            DataType::Int8,
            DataType::UInt32,
            DataType::UInt64,
        ];
        for kind in texts {
            let batch = RecordBatch::try_from_iter([("uid", cast(&numbers, &kind).unwrap())]).unwrap();
            let ids = column(&batch, "uid", "x.parquet", 7).unwrap();
            assert_eq!(ids.as_string::<i32>().iter().collect::<Vec<_>>(), [Some("101"), Some("x.parquet:8")], "{kind}");
        }
        let big: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        let batch = RecordBatch::try_from_iter([("uid", big.clone())]).unwrap();
        assert_eq!(&column(&batch, "uid", "x", 1).unwrap(), &big);
        let schema = Schema::new(vec![Field::new("uid", DataType::Float64, false)]);
        assert_eq!(kind(&schema, "uid"), None);
    }

    #[test]
    fn repeated_ids_are_counted_up_to_a_number() {
        let count = |room: usize| {
            let mut repeated = Repeated { is_exact: true, ..Repeated::default() };
            ["a", "b", "a", "c", "c", "a"].into_iter().for_each(|id| repeated.add(id.to_owned(), room));
            repeated.conclude()
        };
        let all = count(9);
        assert_eq!((&all.metrics["repeated_ids"], all.warnings.len()), (&json!(3), 1));
        assert_eq!(all.warnings[0], "3 rows have a `row_id` that an earlier row has, for example `a`");
        let few =
            "at least 2 rows have a `row_id` that an earlier row has, for example `a` (the first 2 ids were compared)";
        assert_eq!(count(2).warnings, [few]);
    }
}
