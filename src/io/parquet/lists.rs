//! Columns of tokens, decoded by a short way: `required list of required numbers` has no nulls, and one level of lists. The
//! general way keeps both levels and a bit of validity for every number, which takes a third of the time of reading such rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, ListArray, PrimitiveArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{self, FieldRef, SchemaRef};
use parquet::basic::Type;
use parquet::column::page::PageReader;
use parquet::column::reader::{ColumnReader, get_column_reader, get_typed_column_reader};
use parquet::data_type::{self, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use crate::io::windows::Windows;

/// The next rows of a column of a row group, at most so many.
pub(super) type Next = Box<dyn FnMut(usize) -> Result<ArrayRef, ParquetError> + Send>;

/// A column that is read by the short way.
pub(super) struct Lists {
    /// Its index among the columns that are read.
    pub(super) index: usize,
    /// Its leaf in the file.
    pub(super) leaf: usize,
    element: FieldRef,
}

impl Lists {
    /// Those of `columns`, the roots `roots` of `parquet` in order, that can be read by the short way.
    pub(super) fn of(columns: &SchemaRef, parquet: &SchemaDescriptor, roots: &[usize]) -> Vec<Self> {
        let leaves: Vec<usize> = (0..parquet.num_columns()).collect();
        let of_root = leaves.chunk_by(|a, b| parquet.get_column_root_idx(*a) == parquet.get_column_root_idx(*b));
        let lists = of_root.filter_map(|leaves| {
            let [leaf] = *leaves else { return None };
            let index = roots.binary_search(&parquet.get_column_root_idx(leaf)).ok()?;
            let field = columns.field(index);
            let datatypes::DataType::List(element) = field.data_type() else { return None };
            let is_plain = is_plain(&parquet.column(leaf), element.data_type());
            let has_null = field.is_nullable() || element.is_nullable();
            (is_plain && !has_null).then(|| Self { index, leaf, element: element.clone() })
        });
        lists.collect()
    }

    /// Its rows in `group`.
    pub(super) fn open(&self, windows: &Windows, group: &RowGroupMetaData) -> Result<Next, ParquetError> {
        let chunk = group.column(self.leaf);
        let rows = usize::try_from(group.num_rows()).unwrap_or_default();
        let pages = SerializedPageReader::new(Arc::new(windows.clone()), chunk, rows, None)?;
        let pages: Box<dyn PageReader> = Box::new(pages);
        let column = get_column_reader(chunk.column_descr_ptr(), pages);
        let element = self.element.clone();
        Ok(match chunk.column_type() {
            Type::INT32 => next::<data_type::Int32Type, datatypes::Int32Type>(column, element),
            Type::INT64 => next::<data_type::Int64Type, datatypes::Int64Type>(column, element),
            Type::FLOAT => next::<data_type::FloatType, datatypes::Float32Type>(column, element),
            Type::DOUBLE => next::<data_type::DoubleType, datatypes::Float64Type>(column, element),
            kind => return Err(ParquetError::General(format!("a list of {kind} where the schema has numbers"))),
        })
    }
}

/// Whether `leaf` holds lists of numbers as arrow has them, without a null anywhere.
fn is_plain(leaf: &ColumnDescriptor, kind: &datatypes::DataType) -> bool {
    let is_same = matches!(
        (leaf.physical_type(), kind),
        (Type::INT32, datatypes::DataType::Int32)
            | (Type::INT64, datatypes::DataType::Int64)
            | (Type::FLOAT, datatypes::DataType::Float32)
            | (Type::DOUBLE, datatypes::DataType::Float64)
    );
    is_same && (leaf.max_rep_level(), leaf.max_def_level()) == (1, 1)
}

fn next<T, A>(column: ColumnReader, element: FieldRef) -> Next
where
    T: DataType<T = A::Native>,
    A: ArrowPrimitiveType,
{
    let mut column = get_typed_column_reader::<T>(column);
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    // Rows mostly have a length much like those before.
    let mut expected = 0;
    Box::new(move |rows| {
        definitions.clear();
        repetitions.clear();
        let mut values = Vec::with_capacity(expected);
        let (rows, ..) = column.read_records(rows, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
        expected = values.len();
        let offsets = offsets(&definitions, &repetitions, values.len())?;
        if offsets.len() - 1 != rows {
            let lists = offsets.len() - 1;
            return Err(ParquetError::General(format!("{lists} lists begin in {rows} rows")));
        }
        let values = PrimitiveArray::<A>::new(ScalarBuffer::from(values), None);
        Ok(Arc::new(ListArray::try_new(element.clone(), offsets, Arc::new(values), None)?))
    })
}

/// Where lists begin and end in `values` numbers: a repetition of 0 begins one, and a definition of 0 has no number.
fn offsets(definitions: &[i16], repetitions: &[i16], values: usize) -> Result<OffsetBuffer<i32>, ParquetError> {
    let wrong = |message: &str| Err(ParquetError::General(message.to_owned()));
    if definitions.len() != repetitions.len() {
        return wrong("as many levels of definition as of repetition must be there");
    }
    if repetitions.first().is_some_and(|first| *first != 0) {
        return wrong("a row begins in the middle of a list");
    }
    let Ok(end) = i32::try_from(values) else { return wrong("a batch of more numbers than a list can count") };
    if i32::try_from(repetitions.len()).is_err() {
        return wrong("a batch of more lists than can be counted");
    }
    let mut offsets = starts(repetitions);
    // Lists mostly have a number at least.
    if values < definitions.len() {
        let (mut at, mut before) = (0, 0);
        for offset in &mut offsets {
            let start = *offset as usize;
            before += definitions[at..start].iter().filter(|level| **level != 0).count();
            (at, *offset) = (start, before as i32);
        }
    }
    offsets.push(end);
    Ok(OffsetBuffer::new(offsets.into()))
}

/// Where `repetitions`, fewer than 2^31, are 0. Lists are long: most blocks have none, and those are passed in one step.
fn starts(repetitions: &[i16]) -> Vec<i32> {
    const BLOCK: usize = 64;
    let mut starts = Vec::new();
    for (block, levels) in repetitions.chunks(BLOCK).enumerate() {
        if levels.iter().fold(false, |has, level| has | (*level == 0)) {
            let zeros = levels.iter().enumerate().filter(|(_, level)| **level == 0);
            starts.extend(zeros.map(|(at, _)| (block * BLOCK + at) as i32));
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_begin_where_nothing_is_repeated() {
        let of = |definitions: &[i16], repetitions: &[i16]| {
            let values = definitions.iter().filter(|level| **level == 1).count();
            offsets(definitions, repetitions, values).map(|offsets| offsets.to_vec())
        };
        assert_eq!(of(&[1, 1, 1], &[0, 1, 0]).unwrap(), [0, 2, 3]);
        assert_eq!(of(&[0, 1, 1, 0, 0, 1], &[0, 0, 1, 0, 0, 0]).unwrap(), [0, 0, 2, 2, 2, 3]);
        assert_eq!(of(&[], &[]).unwrap(), [0]);
        let long: Vec<i16> = (0..1000).map(|at| i16::from(at % 300 != 0)).collect();
        assert_eq!(of(&[1; 1000], &long).unwrap(), [0, 300, 600, 900, 1000]);
        for wrong in [of(&[1, 1], &[1, 1]), of(&[1], &[0, 1])] {
            assert!(wrong.is_err(), "{wrong:?}");
        }
    }
}
