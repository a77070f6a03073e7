//! The batches of a row group: columns of tokens by the short way of `lists.rs`, all others by arrow's.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::errors::ParquetError;
use parquet::schema::types::SchemaDescriptor;

use super::lists::{Lists, Next};

/// Which columns of a file are read, and how.
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    /// Their leaves.
    pub(super) mask: ProjectionMask,
    lists: Vec<Lists>,
    /// The leaves of all but `lists`.
    others: ProjectionMask,
}

impl Columns {
    /// The columns with the indexes `roots`, in order, of a file with the schema `file`, which is `parquet` there.
    pub(super) fn new(file: &Schema, parquet: &SchemaDescriptor, roots: Vec<usize>) -> Self {
        let fields: Vec<_> = roots.iter().map(|root| file.fields()[*root].clone()).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, file.metadata().clone()));
        let lists = Lists::of(&schema, parquet, &roots);
        let mask = ProjectionMask::roots(parquet, roots);
        let mut leaves: Vec<bool> = (0..parquet.num_columns()).map(|leaf| mask.leaf_included(leaf)).collect();
        lists.iter().for_each(|list| leaves[list.leaf] = false);
        let others = leaves.iter().enumerate().filter(|(_, is_read)| **is_read).map(|(leaf, _)| leaf);
        let others = ProjectionMask::leaves(parquet, others);
        Self { schema, mask, lists, others }
    }

    /// Those that can be read by the short way as long as no row is left out, and the leaves of the others.
    pub(super) fn split(&self) -> (&[Lists], &ProjectionMask) {
        (&self.lists, &self.others)
    }
}

/// The columns of a row group that are read.
pub(super) struct Group {
    /// Those that go the general way. Where there are none it counts the rows that the footer has.
    others: ParquetRecordBatchReader,
    /// The rest, in order, each with its index in `schema`.
    lists: Vec<(usize, Next)>,
    schema: SchemaRef,
}

impl Group {
    /// The columns of `schema`: `lists` at their indexes, and `others` between them.
    pub(super) fn new(schema: SchemaRef, lists: Vec<(usize, Next)>, others: ParquetRecordBatchReader) -> Self {
        Self { others, lists, schema }
    }

    /// `batch` with the same rows of the lists.
    fn with_lists(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ParquetError> {
        let rows = batch.num_rows();
        let mut columns = batch.columns().to_vec();
        for (index, next) in &mut self.lists {
            let column = next(rows)?;
            if column.len() < rows {
                return Err(uneven(&self.schema, *index));
            }
            columns.insert(*index, column);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    /// That no list has rows left.
    fn end(&mut self) -> Result<(), ParquetError> {
        for (index, next) in &mut self.lists {
            if !next(1)?.is_empty() {
                return Err(uneven(&self.schema, *index));
            }
        }
        Ok(())
    }
}

fn uneven(schema: &SchemaRef, index: usize) -> ParquetError {
    ParquetError::General(format!("column `{}` has another number of rows than the others", schema.field(index).name()))
}

impl Iterator for Group {
    type Item = Result<RecordBatch, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.others.next() {
            Some(batch) => Some(batch.map_err(ParquetError::from).and_then(|batch| self.with_lists(&batch))),
            None => self.end().err().map(Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, ArrayRef, Int32Array, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use bytes::Bytes;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    #[test]
    fn a_column_of_another_length_is_named() {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let file = Bytes::from(file);
        let read = |length: usize| {
            let others = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
            let mut left = length;
            let next: Next = Box::new(move |rows| {
                let taken = rows.min(left);
                left -= taken;
                Ok(Arc::new(Int32Array::from(vec![7; taken])))
            });
            let fields = [Field::new("ids", DataType::Int32, false), Field::new("n", DataType::Int64, false)];
            let schema = Arc::new(Schema::new(fields.to_vec()));
            let group = Group::new(schema, vec![(0, next)], others.with_batch_size(2).build().unwrap());
            group.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())
        };
        let rows: Vec<usize> = read(5).unwrap().iter().map(|batch| batch.column(0).len()).collect();
        assert_eq!(rows, [2, 2, 1]);
        for length in [4, 6] {
            let error = read(length).unwrap_err();
            assert!(error.contains("column `ids` has another number of rows than the others"), "{error}");
        }
    }
}
