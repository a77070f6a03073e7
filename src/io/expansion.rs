//! How much a file expands. A view, a dictionary's key, a span of a list view take a few bytes or none, and a million of them may
//! name the same megabyte: a Parquet file of 800 bytes can hold a terabyte of texts.

use std::ops::Range;

use arrow::array::{Array, AsArray, GenericListViewArray, OffsetSizeTrait, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;

/// Bytes that the rows of a batch take at most once texts that they share are written out.
const BATCH: u64 = 1 << 30;

/// Bytes that a unit of work may expand to, and how many for each byte of a large file.
const UNIT: u64 = 1 << 30;
const GROWTH: u64 = 1000;

/// What the batches of a unit of work come to.
pub(super) struct Expansion {
    most: u64,
    left: u64,
}

impl Expansion {
    /// Of a file of `bytes`.
    pub(super) fn of(bytes: u64) -> Self {
        let most = bytes.saturating_mul(GROWTH).max(UNIT);
        Self { most, left: most }
    }

    /// Counts `batch`.
    ///
    /// # Errors
    /// More than may be, with the column.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<(), String> {
        let (mut own, mut all) = (Room(BATCH), Room(self.left));
        for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
            let rows = 0..column.len();
            if is_shared(column.data_type()) && own.hold(column, rows.clone()).is_none() {
                let (name, rows) = (field.name(), rows.len());
                return Err(format!(
                    "column `{name}`: texts of {rows} rows take more than {BATCH} bytes when they are not shared"
                ));
            }
            if all.hold(column, rows).is_none() {
                let (name, most) = (field.name(), self.most);
                return Err(format!(
                    "column `{name}`: its rows take more than {most} bytes; the most is a GiB, or {GROWTH} times the file's size"
                ));
            }
        }
        self.left = all.0;
        Ok(())
    }
}

/// Bytes that the rows of `batch` take, about, texts that they share counted for every row.
#[cfg(feature = "flight")]
pub(super) fn size(batch: &RecordBatch) -> u64 {
    let mut room = Room(u64::MAX);
    let whole = batch.columns().iter().try_for_each(|column| room.hold(column, 0..column.len()));
    whole.map_or(u64::MAX, |()| u64::MAX - room.0)
}

fn is_shared(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8View | DataType::BinaryView | DataType::Dictionary(..) => true,
        DataType::ListView(_) | DataType::LargeListView(_) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_shared(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_shared(field.data_type())),
        _ => false,
    }
}

/// Bytes that are left.
struct Room(u64);

impl Room {
    fn take(&mut self, bytes: u64) -> Option<()> {
        self.0 = self.0.checked_sub(bytes)?;
        Some(())
    }

    /// Takes what the values `range` of `array` take, about; none where that is not left. Every value that is visited costs
    /// something, so that there is an end.
    fn hold(&mut self, array: &dyn Array, range: Range<usize>) -> Option<()> {
        let count = range.len() as u64;
        match array.data_type() {
            DataType::Utf8 => self.take(count + between(array.as_string::<i32>().offsets(), &range)),
            DataType::LargeUtf8 => self.take(count + between(array.as_string::<i64>().offsets(), &range)),
            DataType::Binary => self.take(count + between(array.as_binary::<i32>().offsets(), &range)),
            DataType::LargeBinary => self.take(count + between(array.as_binary::<i64>().offsets(), &range)),
            DataType::Utf8View => self.views(&array.as_string_view().views()[range]),
            DataType::BinaryView => self.views(&array.as_binary_view().views()[range]),
            DataType::Dictionary(..) => {
                let keys = array.slice(range.start, range.len());
                let dictionary = keys.as_any_dictionary();
                let values = dictionary.values();
                if values.is_empty() {
                    return Some(());
                }
                dictionary.normalized_keys().into_iter().try_for_each(|key| self.hold(values, key..key + 1))
            }
            DataType::List(_) => self.lists(array.as_list::<i32>().values(), array.as_list::<i32>().offsets(), range),
            DataType::LargeList(_) => {
                self.lists(array.as_list::<i64>().values(), array.as_list::<i64>().offsets(), range)
            }
            DataType::Map(..) => self.lists(array.as_map().entries(), array.as_map().offsets(), range),
            DataType::ListView(_) => self.list_views(array.as_list_view::<i32>(), range),
            DataType::LargeListView(_) => self.list_views(array.as_list_view::<i64>(), range),
            DataType::FixedSizeList(_, length) => {
                let length = usize::try_from(*length).ok()?;
                self.take(count)?;
                self.hold(array.as_fixed_size_list().values(), range.start * length..range.end * length)
            }
            DataType::FixedSizeBinary(width) => self.take(count.saturating_mul(1 + u64::from(width.unsigned_abs()))),
            DataType::Struct(_) => {
                self.take(count)?;
                array.as_struct().columns().iter().try_for_each(|column| self.hold(column, range.clone()))
            }
            kind => self.take(count.saturating_mul(kind.primitive_width().unwrap_or(1) as u64)),
        }
    }

    /// The length of a view is its lower half.
    fn views(&mut self, views: &[u128]) -> Option<()> {
        views.iter().try_for_each(|view| self.take(1 + u64::from(*view as u32)))
    }

    fn lists<O: OffsetSizeTrait>(
        &mut self,
        values: &dyn Array,
        offsets: &OffsetBuffer<O>,
        rows: Range<usize>,
    ) -> Option<()> {
        self.take(rows.len() as u64)?;
        self.hold(values, offsets[rows.start].as_usize()..offsets[rows.end].as_usize())
    }

    fn list_views<O: OffsetSizeTrait>(&mut self, lists: &GenericListViewArray<O>, rows: Range<usize>) -> Option<()> {
        let mut spans = lists.offsets()[rows.clone()].iter().zip(&lists.sizes()[rows]);
        spans.try_for_each(|(start, length)| {
            self.take(1)?;
            self.hold(lists.values(), start.as_usize()..start.as_usize() + length.as_usize())
        })
    }
}

fn between<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>, range: &Range<usize>) -> u64 {
    (offsets[range.end].as_usize() - offsets[range.start].as_usize()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{
        ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int32Array, ListArray, ListViewArray, StringArray,
        StringViewArray, StructArray,
    };
    use arrow::datatypes::Field;
    use std::sync::Arc;

    fn repeated(text: &str) -> ArrayRef {
        let keys = Int32Array::from(vec![Some(0), None, Some(1), Some(0)]);
        Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec![text, "bc"]))))
    }

    fn size(array: &dyn Array) -> u64 {
        let mut room = Room(1000);
        room.hold(array, 0..array.len()).unwrap();
        1000 - room.0
    }

    /// A byte for every value, and the texts.
    #[test]
    fn what_is_shared_counts_for_every_row() {
        // The missing key is taken for the first.
        assert_eq!(size(&repeated("abcde")), 6 + 6 + 3 + 6);
        assert_eq!(size(&repeated("abcde").slice(2, 2)), 3 + 6);
        assert_eq!(size(&StringViewArray::from(vec![Some("x".repeat(30)), None])), 31 + 1);
        let field = Arc::new(Field::new("element", repeated("").data_type().clone(), true));
        let views = ListViewArray::new(field.clone(), vec![0, 0].into(), vec![4, 2].into(), repeated("abcde"), None);
        assert_eq!(size(&views), 1 + 21 + 1 + 12);
        let lists = ListArray::new(field, OffsetBuffer::from_lengths([1, 3]), repeated("abcde"), None);
        assert_eq!((size(&lists), size(&lists.slice(1, 1))), (2 + 21, 1 + 15));
        let keys = FixedSizeBinaryArray::try_from_iter([[7_u8; 16]; 3].into_iter()).unwrap();
        assert_eq!(size(&keys), 3 + 48);
        let parts = vec![(Arc::new(Field::new("a", repeated("").data_type().clone(), true)), repeated("abcde")); 2];
        assert_eq!(size(&StructArray::from(parts)), 4 + 2 * 21);
    }

    #[test]
    fn a_batch_that_would_take_too_much_is_named() {
        let text = "x".repeat(1 << 20);
        let keys = Int32Array::from(vec![0; 1025]);
        let column = Arc::new(DictionaryArray::new(keys, Arc::new(StringArray::from(vec![text])))) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("prompt", column)]).unwrap();
        assert_eq!(Expansion::of(10_000_000).add(&batch.slice(0, 1000)), Ok(()));
        let error = Expansion::of(10_000_000).add(&batch).unwrap_err();
        assert_eq!(
            error,
            "column `prompt`: texts of 1025 rows take more than 1073741824 bytes when they are not shared"
        );
        let (mut expansion, half) = (Expansion::of(1000), batch.slice(0, 500));
        assert_eq!((expansion.add(&half), expansion.add(&half)), (Ok(()), Ok(())));
        let error = expansion.add(&half).unwrap_err();
        assert!(error.starts_with("column `prompt`: its rows take more than 1073741824 bytes; "), "{error}");
    }
}
